"""Where quantisation goes in a graph, and puts it there, in the form that TensorRT fuses; knows nothing about data.

Activations get one symmetric int8 scale for the tensor, weights one for each output channel, stored as int8. Between a
convolution and the ReLU that follows it stands nothing, biases stay as they are, and both inputs of an addition are
quantised, so that it runs in int8 too. A tensor that is quantised is so for all its readers: it is in memory once
(NVIDIA, "Working with Quantized Types", TensorRT documentation; Wu et al., "Integer Quantization for Deep Learning
Inference: Principles and Empirical Evaluation", 2020).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from ..errors import UsageError
from .half import replace_all, rounded_to_half

ZERO_POINT = "zero_point"
_EXACT = ".exact"
_BOUND = "CastLike"  # gives the bounds of a Clip the type of what it clips
LEVELS = 127
"""Integers go from -127 to 127 (weights) or -128 to 127 (activations); a scale is a range divided by this."""


@dataclass(frozen=True)
class Placement:
    """What is quantised.

    Attributes:
        layers: names of the convolutions that multiply integers, in their order.
        kept: names of the other convolutions.
        tensors: names of the activations that are quantised, in the order in which they are read; each needs a scale.
    """

    layers: tuple[str, ...]
    kept: tuple[str, ...]
    tensors: tuple[str, ...]


def placement(model: ModelProto, keep: Collection[str] = ()) -> Placement:
    """Decide what is quantised: all convolutions but the first, those that make scores, and those kept out.

    An addition is quantised where every convolution that feeds it is; a term that is resized before, as it was.

    Args:
        model: FP32, batch norms folded, as ``fcn-edge export`` writes it.
        keep: names of convolutions to keep out, or patterns such as ``backbone.s32.*``.

    Raises:
        UsageError: if a pattern fits no convolution, or nothing is left to quantise.
    """
    graph = model.graph
    convs = [node for node in graph.node if node.op_type == "Conv"]
    names = [node.name for node in convs]
    for pattern in keep:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"no layer is called '{pattern}'; the layers are: {', '.join(names)}")
    head = graph.node[-1]
    kept = {node.name for node in convs if node is convs[0] or node.output[0] in head.input}
    kept |= {name for name in names if any(fnmatchcase(name, pattern) for pattern in keep)}
    layers = tuple(name for name in names if name not in kept)
    if not layers:
        raise UsageError("no layer is left to quantise; keep fewer layers out, or export with --precision fp16")
    makers = {name: node for node in graph.node for name in node.output}
    tensors: list[str] = []
    for node in graph.node:
        if node.name in layers:
            tensors.append(node.input[0])
        elif node.op_type == "Add":
            terms = [_unresized(name, makers) for name in node.input]
            sources = [makers[name] for name in terms if name in makers]
            feeding = [source for source in sources if source.op_type == "Conv"]
            if len(sources) == 2 and feeding and all(source.name in layers for source in feeding):
                tensors += terms
    return Placement(layers, tuple(name for name in names if name in kept), tuple(dict.fromkeys(tensors)))


def _unresized(name: str, makers: Mapping[str, NodeProto]) -> str:
    """The tensor that a tensor holds at another size: it is rounded where it is small, and copies need no more."""
    while name in makers and makers[name].op_type == "Resize":
        name = makers[name].input[0]
    return name


def places(model: ModelProto, where: Placement) -> dict[str, str]:
    """For each tensor of a placement the name of its place, which is the same in every export of a network.

    It is ``NAME:input`` for what the convolution NAME reads, the first by name if several do, and ``NAME:output`` for
    what only an addition reads. Quantisation-aware training names its steps so.
    """
    readers: dict[str, list[str]] = {}
    makers: dict[str, str] = {}
    for node in model.graph.node:
        makers.update(dict.fromkeys(node.output, node.name))
        if node.name in where.layers:
            readers.setdefault(node.input[0], []).append(node.name)
    return {
        tensor: f"{min(readers[tensor])}:input" if tensor in readers else f"{makers[tensor]}:output"
        for tensor in where.tensors
    }


def rounded_at_once(model: ModelProto, where: Placement) -> dict[str, str]:
    """Layers whose output nobody reads before it is rounded, and the tensor that is: their own or that behind a ReLU.

    They make integers of integers, so the type between costs nothing, and in an INT8 file it is FP32: ONNX Runtime
    rounds the bias of such a layer to the product of its two steps, and computes that in the type it finds. In FP16
    that overflows; of one network every seventh label was wrong.

    Args:
        model: FP32, as :func:`placement` takes it.
        where: what it decided.
    """
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for tensor in node.input if node.op_type != _BOUND else ():
            readers.setdefault(tensor, []).append(node)
    found: dict[str, str] = {}
    for node in (node for node in model.graph.node if node.name in where.layers):
        tensor = node.output[0]
        behind = readers.get(tensor, [])
        if tensor not in where.tensors and len(behind) == 1 and behind[0].op_type in ("Relu", "Clip"):
            tensor = behind[0].output[0]
        if tensor in where.tensors:
            found[node.name] = tensor
    return found


def exact_nodes(model: ModelProto, where: Placement) -> set[str]:
    """Names that the nodes around the layers of :func:`rounded_at_once` have in what :func:`insert_qdq` makes."""
    at_once = rounded_at_once(model, where)
    makers = {name: node for node in model.graph.node for name in node.output}
    names = set(at_once)
    for node in (node for node in model.graph.node if node.name in at_once):
        rounded = makers[at_once[node.name]]
        bounds = [makers[name].name for name in rounded.input if name in makers and makers[name].op_type == _BOUND]
        names |= {
            f"{node.input[0]}.dq{_EXACT}",
            f"{node.input[1]}.dq",
            f"{rounded.output[0]}.int8",
            rounded.name,
            *bounds,
        }
    return names


def insert_qdq(model: ModelProto, where: Placement, scales: Mapping[str, float]) -> ModelProto:
    """A model whose layers multiply integers: QuantizeLinear and DequantizeLinear around what ``where`` names.

    Args:
        model: FP32; it is not changed.
        where: what :func:`placement` decided for it.
        scales: for each of ``where.tensors`` the value of one step, more than 0. It is rounded to FP16, so that a file
            of FP16 holds the same scale as one of FP32.

    Returns:
        A new model. The pair behind tensor ``t`` makes ``t.int8`` and ``t.dq``; layers that :func:`rounded_at_once`
        names read ``t.dq.exact`` instead, the same once more. The weights ``w`` of a layer are int8 under their own
        name, with scales ``w.scale`` ``[out]``, and become ``w.dq``.

    Raises:
        UsageError: if a scale is missing or no positive number.
    """
    quantised = ModelProto()
    quantised.CopyFrom(model)
    graph = quantised.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    added = [numpy_helper.from_array(np.zeros((), np.int8), ZERO_POINT)]
    for tensor in where.tensors:
        scale = scales.get(tensor, 0.0)
        if not 0 < scale < float("inf"):
            raise UsageError(f"the scale of {tensor} is {scale}; expected a positive number for each quantised tensor")
        added.append(numpy_helper.from_array(np.float32(rounded_to_half(scale)), f"{tensor}.scale"))
    at_once = rounded_at_once(model, where)
    nodes: list[NodeProto] = []
    done: set[str] = set()
    for node in graph.node:
        for index, tensor in enumerate(node.input):
            if tensor in where.tensors:
                node.input[index] = f"{tensor}.dq{_EXACT if node.name in at_once else ''}"
                nodes += [new for new in _pair(tensor, node.input[index]) if new.output[0] not in done]
                done |= {f"{tensor}.int8", node.input[index]}
        if node.name in where.layers:
            name = node.input[1]
            values = numpy_helper.to_array(weights[name])
            steps = weight_scales(values)
            weights[name].CopyFrom(numpy_helper.from_array(_integers(values, steps), name))
            added.append(numpy_helper.from_array(steps, f"{name}.scale"))
            nodes.append(_node("DequantizeLinear", [name, f"{name}.scale"], f"{name}.dq", 0))
            node.input[1] = f"{name}.dq"
        nodes.append(node)
    replace_all(graph.node, nodes)
    graph.initializer.extend(added)
    del graph.value_info[:]
    return quantised


def weight_scales(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """One step for each output channel, float32 ``[out]``: the largest weight becomes 127."""
    largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)))
    return np.array([rounded_to_half(value / LEVELS) for value in largest], np.float32)


def rounded_weight(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a layer's weight ``[out, ...]`` is once its integers are multiplied by their steps."""
    steps = weight_scales(weight)
    return multiplied(_integers(weight, steps), steps)


def multiplied(integers: NDArray[np.int8], steps: NDArray[np.floating]) -> NDArray[np.float32]:
    """Integers ``[out, ...]`` times the steps ``[out]`` of their channels, as DequantizeLinear does."""
    return integers.astype(np.float32) * _by_channel(steps.astype(np.float32), integers.ndim)


def _integers(weight: NDArray[np.float32], steps: NDArray[np.float32]) -> NDArray[np.int8]:
    scaled = weight / _by_channel(steps, weight.ndim)
    integers: NDArray[np.int8] = np.clip(np.rint(scaled), -LEVELS, LEVELS).astype(np.int8)
    return integers


def _by_channel(steps: NDArray[np.float32], ndim: int) -> NDArray[np.float32]:
    """Steps ``[out]`` in the shape ``[out, 1, ...]``, of this many dimensions."""
    return steps.reshape(-1, *[1] * (ndim - 1))


def _pair(tensor: str, numbers: str) -> list[NodeProto]:
    """The nodes that round a tensor to its int8 steps and make numbers of them again."""
    return [
        _node("QuantizeLinear", [tensor, f"{tensor}.scale", ZERO_POINT], f"{tensor}.int8"),
        _node("DequantizeLinear", [f"{tensor}.int8", f"{tensor}.scale", ZERO_POINT], numbers),
    ]


def _node(op_type: str, inputs: list[str], output: str, axis: int | None = None) -> NodeProto:
    node = helper.make_node(op_type, inputs, [output], name=output)
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))
    return node
