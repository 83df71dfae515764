"""Keeps an INT8 network's answers on CPUs whose INT8 kernels overflow; knows nothing about how a network is run.

CPUs without dot products of integers (VNNI, AMX: many up to 2022) add two products of an unsigned and a signed byte in
16 bits, which hold half of what may come, 255 * 127 * 2. OpenVINO shifts signed activations by 128, as these
instructions take unsigned ones only, and lets sums overflow. TensorRT wants the activations of a file signed. So the
network is rewritten before it is compiled:

- What a ReLU gives is 0 to 127 steps. Unsigned from the start it needs no shift, and 127 * 127 * 2 fits: the same
  integers, the same sums.
- What may be negative keeps the shift, and the weights that it meets lose their last bit: 255 * 64 * 2 fits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGEST = 127
_UNSIGNED = "unsigned_zero_point"
_AS_BEFORE = ("QuantizeLinear", "DequantizeLinear", "Cast", "CastLike", "Resize", "MaxPool", "AveragePool")

_Makers = Mapping[str, Any]
_Constants = Mapping[str, NDArray[Any]]


@functools.cache
def overflows(ov: ModuleType) -> bool:
    """Whether sums of integers are wrong on this CPU: a small convolution of the largest ones is tried.

    Args:
        ov: the module ``openvino``.
    """
    channels, step = 16, 1 / _LARGEST
    op = ov.opset13
    image = op.parameter([1, channels, 4, 4], np.float32)
    low, high = (np.float32(level * step) for level in (-_LARGEST - 1, _LARGEST))
    activations = op.fake_quantize(op.relu(image), low, high, low, high, 256)
    integers = op.constant(np.full((channels, channels, 1, 1), _LARGEST, np.int8))
    weights = op.multiply(op.convert(integers, "f32"), np.full((channels, 1, 1, 1), step, np.float32))
    sums = op.convolution(activations, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = ov.Core().compile_model(ov.Model([sums], [image]), "CPU", options)
    found = compiled([np.ones((1, channels, 4, 4), np.float32)])[0]
    return bool(np.abs(found - channels).max() > 0.01 * channels)


def without_overflow(network: bytes) -> bytes:
    """The same network with sums of two products that fit into 16 bits.

    Args:
        network: an ONNX file up to the score maps, quantised as :mod:`fcn_edge.export.qdq` does it.

    Returns:
        Another one, which differs in nothing but this: where a quantised convolution reads what may be negative, its
        weights are even numbers of steps.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_model_from_string(network)
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    constants = {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    unsigned = set()
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and not _may_be_negative(node.input[0], makers, constants):
            unsigned.add(node.output[0])
        elif node.op_type == "Conv" and _may_be_negative(node.input[0], makers, constants):
            integers, step = _weight(node.input[1], makers, constants)
            if integers:
                halves = np.rint(constants[integers] / 2).astype(np.int8)
                tensors[integers].CopyFrom(numpy_helper.from_array(halves, integers))
                tensors[step].CopyFrom(numpy_helper.from_array(2 * constants[step], step))
    _make_unsigned(graph, unsigned, constants)
    return bytes(model.SerializeToString())


def _make_unsigned(graph: Any, integers: Collection[str], constants: _Constants) -> None:
    """Give tensors of integers the type uint8, and cut them at 127 as they were before."""
    from onnx import helper, numpy_helper

    nodes = []
    added: dict[str, NDArray[Any]] = {_UNSIGNED: np.zeros((), np.uint8)}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.output[0] in integers:
            step = constants[node.input[1]]
            cut = f"{node.output[0]}.cut"
            bounds = {f"{cut}.low": np.zeros_like(step), f"{cut}.high": (_LARGEST * step).astype(step.dtype)}
            nodes.append(helper.make_node("Clip", [node.input[0], *bounds], [cut], name=cut))
            added |= bounds
            node.input[0], node.input[2] = cut, _UNSIGNED
        elif node.op_type == "DequantizeLinear" and node.input[0] in integers:
            node.input[2] = _UNSIGNED
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in added.items())


def _may_be_negative(name: str, makers: _Makers, constants: _Constants) -> bool:
    """Whether a tensor is not known to be 0 or more."""
    node = makers.get(name)
    if node is None:
        return True
    if node.op_type == "Relu":
        return False
    if node.op_type == "Clip":
        return not _number(node.input[1], makers, constants) >= 0
    passed = node.input if node.op_type == "Concat" else node.input[:1] if node.op_type in _AS_BEFORE else []
    return not passed or any(_may_be_negative(source, makers, constants) for source in passed)


def _number(name: str, makers: _Makers, constants: _Constants) -> float:
    """A constant, also one that is cast; NaN if it is none."""
    from onnx import helper

    while name in makers and makers[name].op_type in ("Cast", "CastLike"):
        name = makers[name].input[0]
    if name in makers and makers[name].op_type == "Constant":
        value = helper.get_attribute_value(makers[name].attribute[0])
        return float(value) if isinstance(value, (int, float)) else math.nan
    return float(constants.get(name, math.nan))


def _weight(name: str, makers: _Makers, constants: _Constants) -> tuple[str, str]:
    """Names of the integers and of the steps that a convolution's weight is made of; empty if it is not."""
    node = makers.get(name)
    if node is None or node.op_type != "DequantizeLinear" or node.input[0] not in constants:
        return "", ""
    return node.input[0], node.input[1]
