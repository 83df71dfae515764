"""An FP32 model of a typed one, so that another precision can be made of a file that ships; knows nothing about files.

It undoes :mod:`.qdq` and :mod:`.half`. The weights are the file's own, which were rounded once: the same file made of
them again is the same to the bit, while FP32 and FP16 files made of INT8 ones keep that rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from .half import replace_all
from .qdq import multiplied

_PAIR = ("QuantizeLinear", "DequantizeLinear")
_HALF, _FLOAT = ".half", ".float"


def steps_of(model: ModelProto) -> dict[str, float]:
    """The step of each activation that an INT8 model rounds, by tensor, as :func:`~.qdq.insert_qdq` was given them."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    return {
        node.input[0]: float(numpy_helper.to_array(constants[node.input[1]]))
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }


def fp32_from_typed(model: ModelProto) -> ModelProto:
    """A model of FP32 tensors, with the names that it had before it became FP16 or INT8.

    Args:
        model: as ``fcn-edge export`` or ``build`` writes it, in any precision; it is not changed.

    Returns:
        A new model without metadata: what was said of the typed one does not hold for it.
    """
    plain = ModelProto()
    plain.CopyFrom(model)
    graph = plain.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    # What is read in both types stands in the file twice.
    origin = {name: name.removesuffix(_HALF) for name in constants if name.endswith(_HALF)}
    nodes: list[NodeProto] = []
    for node in graph.node:
        source = origin.get(node.input[0], node.input[0]) if node.input else ""
        if node.op_type == "DequantizeLinear" and source in constants:
            constants[source] = multiplied(constants[source], constants[node.input[1]])
        if node.op_type in _PAIR or (node.op_type == "Cast" and node.name in (source + _HALF, source + _FLOAT)):
            origin[node.output[0]] = source
            continue
        for index, name in enumerate(node.input):
            node.input[index] = origin.get(name, name)
        nodes.append(node)
    read = {name for node in nodes for name in node.input}
    widened = {name: _widened(values) for name, values in constants.items() if name in read}
    replace_all(graph.node, nodes)
    replace_all(graph.initializer, [numpy_helper.from_array(values, name) for name, values in widened.items()])
    helper.set_model_props(plain, {})
    del graph.value_info[:]
    return plain


def _widened(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float32) if values.dtype == np.float16 else values
