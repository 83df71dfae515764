"""From FP32 to FP16 tensors in an ONNX graph, some nodes left as they are; knows nothing about models or quantisation.

A strongly typed engine computes each layer in the type of its tensors, so the types in the file are the precision.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..errors import ModelError

LARGEST = float(np.finfo(np.float16).max)
SMALLEST_NORMAL = float(np.finfo(np.float16).tiny)


def half_from_float(model: ModelProto, stay_float: Collection[str]) -> ModelProto:
    """The model with FP16 tensors; a Cast stands on each edge between the two types, one for all who read the tensor.

    Args:
        model: FP32, its constants initializers; it is not changed.
        stay_float: names of the nodes that keep FP32 inputs and outputs. A node that makes FP32 from something else,
            such as a Cast from uint8, has to be one of them.

    Returns:
        A new model; the types of its inputs and outputs are those of ``model``.

    Raises:
        ModelError: if a constant is too large for FP16.
    """
    halved = ModelProto()
    halved.CopyFrom(model)
    graph = halved.graph
    floats = _float_tensors(model)
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    makers = {name: node.name for node in graph.node for name in node.output}
    cast: set[str] = set()
    as_half: set[str] = set()
    as_float: set[str] = set()
    nodes: list[NodeProto] = []
    for node in graph.node:
        is_float = node.name in stay_float
        for index, name in enumerate(node.input):
            if name in constants:
                (as_float if is_float else as_half).add(name)
                node.input[index] = name if is_float else _half_name(name)
            elif name in floats and (makers.get(name) in stay_float) != is_float:
                other = f"{name}.{'float' if is_float else 'half'}"
                if other not in cast:
                    cast.add(other)
                    to = TensorProto.FLOAT if is_float else TensorProto.FLOAT16
                    nodes.append(helper.make_node("Cast", [name], [other], name=other, to=to))
                node.input[index] = other
        nodes.append(node)
    for value in graph.output:
        if value.name in floats and makers[value.name] not in stay_float:
            raise ModelError(
                f"the network's output {value.name} would change its type; keep the node that makes it FP32"
            )
    replace_all(graph.node, nodes)
    _store(graph, constants, as_half, as_float)
    del graph.value_info[:]
    return halved


def rounded_to_half(scale: float) -> float:
    """The nearest FP16 number that keeps its full precision: a scale that is the same in an FP16 and an FP32 file."""
    return float(np.float16(min(max(scale, SMALLEST_NORMAL), LARGEST)))


def normalisation(graph: GraphProto) -> set[str]:
    """Names of the nodes that make the first convolution's input of the frame, padding excepted.

    They stay FP32: mean and deviation are no FP16 numbers, while a padded zero is one, and some runtimes merge a
    padding that stands right before a convolution into it.
    """
    makers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    waiting = list(next((node.input for node in graph.node if node.op_type == "Conv"), []))
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None:
            waiting += node.input
            if node.op_type != "Pad":
                found.add(node.name)
    return found


def _float_tensors(model: ModelProto) -> set[str]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}


def _half_name(name: str) -> str:
    return f"{name}.half"


def _store(graph: GraphProto, constants: dict[str, TensorProto], as_half: set[str], as_float: set[str]) -> None:
    """Put the constants in the types that are read; one that is read in FP16 only keeps its name."""
    fresh = []
    for name, tensor in constants.items():
        if name in as_half:
            fresh.append(numpy_helper.from_array(_half(tensor), _half_name(name) if name in as_float else name))
        if name in as_float:
            fresh.append(tensor)
    only_half = {_half_name(name): name for name in as_half - as_float}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = only_half.get(name, name)
    others = [tensor for tensor in graph.initializer if tensor.data_type != TensorProto.FLOAT]
    replace_all(graph.initializer, [*others, *fresh])


def _half(tensor: TensorProto) -> NDArray[np.float16]:
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0))
    if not largest <= LARGEST:
        raise ModelError(
            f"{tensor.name} holds {largest:g}, FP16 ends at {LARGEST:g}; leave this model in FP32, or train it "
            "with weight decay"
        )
    return values.astype(np.float16)


def replace_all(field: Any, items: Sequence[Any]) -> None:
    """Make ``items`` the whole content of a repeated protobuf field, which may hold some of them already."""
    copies = []
    for item in items:
        copy = type(item)()
        copy.CopyFrom(item)
        copies.append(copy)
    del field[:]
    field.extend(copies)
