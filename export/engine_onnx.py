"""What of a typed ONNX file TensorRT's parser is given: with or without the head's function, one frame or several.

Knows nothing about TensorRT.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from ..errors import ModelError
from ..runtime.onnx_file import HEAD_DOMAIN, HEAD_OP, load_onnx
from .facts import layer_types
from .half import replace_all

BATCH = "batch"


def onnx_for_engine(path: Path, *, fused: bool, dynamic: bool) -> bytes:
    """Read a typed ONNX file and fit it to the engine that is wanted.

    The parser takes the head's function wherever there is one, even if the fused head is registered; so the function
    is removed for a fused head and kept otherwise. And it makes one activation layer, which is fused with the
    convolution before it, of a Clip whose bounds are constants, but two elementwise layers of one whose bounds are
    computed; so those that torch's exporter casts inside the graph are written out.

    Args:
        path: a typed ONNX file of this program.
        fused: whether the plugin computes the head.
        dynamic: whether the number of frames stays open.

    Raises:
        ModelError: if the file cannot be read, or its graph takes only one frame and ``dynamic`` is asked for.
    """
    model = load_onnx(path)
    _write_out_bounds(model)
    if dynamic:
        _open_batch(model, path)
    if fused:
        kept = [function for function in model.functions if (function.domain, function.name) != (HEAD_DOMAIN, HEAD_OP)]
        del model.functions[:]
        model.functions.extend(kept)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def types_in_onnx(path: Path) -> dict[str, str]:
    """Type of each layer with weights, by name: ``fp32``, ``fp16`` or ``int8``; the head is left out.

    Raises:
        ModelError: if the file cannot be read.
    """
    graph = load_onnx(path).graph
    heads = {node.name for node in graph.node if node.op_type == HEAD_OP}
    return {name: kind for name, kind in layer_types(graph) if name not in heads}


def _write_out_bounds(model: onnx.ModelProto) -> None:
    """Constants in the place of numbers that are cast to the type of what a Clip clips."""
    graph = model.graph
    numbers = {
        node.output[0]: onnx.helper.get_attribute_value(node.attribute[0])
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name in ("value_int", "value_float")
    }
    bounds = {name for node in graph.node if node.op_type == "Clip" for name in node.input[1:]}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    kept = []
    for node in graph.node:
        kind = types.get(node.input[1]) if node.op_type == "CastLike" and node.output[0] in bounds else None
        if kind and node.input[0] in numbers:
            graph.initializer.append(onnx.helper.make_tensor(node.output[0], kind, [], [float(numbers[node.input[0]])]))
        else:
            kept.append(node)
    read = {name for node in kept for name in node.input}
    replace_all(graph.node, [node for node in kept if node.op_type != "Constant" or node.output[0] in read])


def _open_batch(model: onnx.ModelProto, path: Path) -> None:
    """Leave the number of frames open, from the input to the score maps."""
    graph = model.graph
    for value in (graph.input[0], graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    head = graph.node[-1]
    scores = set(head.input[: len(head.input) // 2])
    dims = {value.name: value.type.tensor_type.shape.dim for value in inferred.value_info}
    # What ONNX cannot infer, such as a Resize to the size of another tensor, is left open under a name of its own.
    open_ones = {name for name, sides in dims.items() if sides and sides[0].dim_param}
    if not scores <= open_ones:
        raise ModelError(
            f"{path} fixes the number of frames inside its graph, so no engine for several frames can be built; "
            "leave --dynamic-batch out"
        )
