"""Reads a model's ONNX file and takes it apart into network and head; knows nothing about what will run them."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..contract import METADATA_KEY, Contract, contract_from_json
from ..errors import MissingError, ModelError

if TYPE_CHECKING:
    import onnx

HEAD_OP, HEAD_DOMAIN = "SkipHead", "fcn_edge"


@dataclass(frozen=True, eq=False)
class SplitModel:
    """A model cut in front of its head.

    Attributes:
        contract: what the model expects and what its answers mean.
        precision: ``int8`` where the file quantises, else ``fp16`` or ``fp32`` by the type of its weights.
        network: an ONNX file from the frame, uint8 ``[1, H, W, 3]``, to the score maps, coarse to fine.
        kernels: the head's kernels, float32 ``[C, 1, 4, 4]`` ..., the last ``[C, 1, 2 s, 2 s]``.
    """

    contract: Contract
    precision: str
    network: bytes
    kernels: tuple[NDArray[np.float32], ...]


def split_onnx(path: Path) -> SplitModel:
    """Read a model and cut it in front of its last node, the head.

    Raises:
        ModelError: if the file is missing, damaged or not as ``fcn-edge export`` writes it.
        MissingError: if the ``onnx`` package is not installed.
    """
    model = load_onnx(path)
    contract = _contract(model, path)
    problem = _problem(model.graph, contract)
    if problem:
        raise ModelError(f"{path} is not usable: {problem}; export it again with fcn-edge export")
    from onnx import ValueInfoProto

    head = model.graph.node[-1]
    scores, kernels = _halves(head)
    found = _constants(model.graph)
    values = {name: _values(tensor, path) for name, tensor in found.items()}  # all, so that no engine meets a bad one
    arrays = tuple(np.ascontiguousarray(values[name], np.float32) for name in kernels)
    precision = _precision(model.graph)
    del model.graph.node[-1]
    del model.functions[:]
    del model.graph.output[:]
    model.graph.output.extend(ValueInfoProto(name=name) for name in scores)
    left = [tensor for tensor in model.graph.initializer if tensor.name not in kernels]
    del model.graph.initializer[:]
    model.graph.initializer.extend(left)
    return SplitModel(contract, precision, model.SerializeToString(), arrays)


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read any ONNX file that holds a network.

    Raises:
        ModelError: if the file is missing, damaged or empty, or its weights lie in other files.
        MissingError: if the ``onnx`` package is not installed.
    """
    try:
        import onnx

        decode_error = importlib.import_module("google.protobuf.message").DecodeError  # it has no type stubs
    except ImportError as exc:
        raise MissingError(f"onnx cannot be imported ({exc}); install it with: pip install 'fcn-edge[cpu]'") from exc
    try:
        data = path.read_bytes()
        model = onnx.load_model_from_string(data)
    except OSError as exc:
        raise ModelError(f"model file {path} cannot be read: {exc.strerror or exc}") from exc
    except (decode_error, UnicodeDecodeError) as exc:
        raise ModelError(
            f"{path} ({len(data)} bytes) is no ONNX file or was cut off ({exc}); export or copy it again"
        ) from exc
    if not model.graph.node:
        raise ModelError(f"{path} ({len(data)} bytes) holds no network; export or copy it again")
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    for tensor in (*model.graph.initializer, *_tensors(nodes)):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:  # it may name any file of this machine
            raise ModelError(
                f"{path} keeps its weights in another file; a model is one file: export it again with fcn-edge export"
            )
    return model


def require_valid(model: onnx.ModelProto, path: Path) -> None:
    """Refuse a model that is no valid ONNX, such as one of which a byte was changed.

    Raises:
        ModelError: with what is wrong in it.
    """
    from onnx import checker, shape_inference

    try:
        checker.check_model(model, full_check=True)
    except (checker.ValidationError, shape_inference.InferenceError, UnicodeDecodeError) as exc:
        reason = str(exc).strip().splitlines()[0]
        raise ModelError(f"{path} is damaged: {reason}; export or copy it again") from exc


def _contract(model: onnx.ModelProto, path: Path) -> Contract:
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), None)
    if text is None:
        raise ModelError(
            f"{path} carries no contract (metadata {METADATA_KEY}), so its classes and input are unknown; "
            "write it with fcn-edge export"
        )
    try:
        return contract_from_json(text)
    except ModelError as exc:
        raise ModelError(f"{path}: {exc}") from exc


def _tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """Every tensor that nodes hold, also those of graphs inside them."""
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from graph.initializer
            if graph.node:
                yield from _tensors(graph.node)


def _values(tensor: onnx.TensorProto, path: Path) -> NDArray[Any]:
    from onnx import numpy_helper

    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as exc:  # too few bytes, a type that is none
        reason = " ".join(str(exc).split())
        raise ModelError(f"{path} is damaged: tensor '{tensor.name}' cannot be read ({reason}); copy it again") from exc


def _halves(head: onnx.NodeProto) -> tuple[list[str], list[str]]:
    """The head's inputs: names of scores, names of kernels."""
    count = len(head.input) // 2
    return list(head.input[:count]), list(head.input[count:])


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Tensors that the file holds, by name: initializers and Constant nodes."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def _precision(graph: onnx.GraphProto) -> str:
    from onnx import TensorProto

    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.node):
        return "int8"
    weights = [tensor for tensor in graph.initializer if len(tensor.dims) == 4]
    return "fp16" if any(tensor.data_type == TensorProto.FLOAT16 for tensor in weights) else "fp32"


def _problem(graph: onnx.GraphProto, contract: Contract) -> str:
    """In what the graph is not one that README, "The file", describes, or an empty string."""
    from onnx import TensorProto

    given = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in given]
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != TensorProto.UINT8:
        return f"it takes {len(inputs)} inputs or not uint8, expected one frame of uint8"
    shape = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim]
    height, width = contract.size_hw
    if shape != [1, height, width, 3]:
        return f"its input has shape {shape}, its contract says [1, {height}, {width}, 3]"
    head = graph.node[-1]
    if head.op_type != HEAD_OP or head.domain != HEAD_DOMAIN:
        return f"its last node is {head.op_type}, expected {HEAD_OP} of domain {HEAD_DOMAIN}"
    if [value.name for value in graph.output] != list(head.output):
        return f"its output is not that of {HEAD_OP}"
    size = next((list(attribute.ints) for attribute in head.attribute if attribute.name == "size"), [])
    if size != [height, width]:
        return f"its head cuts to {size}, its contract says [{height}, {width}]"
    scores, kernels = _halves(head)
    if len(head.input) % 2 or len(scores) != len(contract.strides):
        return (
            f"its head has {len(head.input)} inputs, expected a score map and a kernel for each stride of the contract"
        )
    found = _constants(graph)
    last = 2 * contract.strides[-1]
    for index, name in enumerate(kernels):
        side = last if index == len(kernels) - 1 else 4
        expected = [contract.num_classes, 1, side, side]
        got = list(found[name].dims) if name in found else None
        if got != expected:
            return f"kernel {index + 1} of its head has shape {got}, expected {expected}"
        if found[name].data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            return f"kernel {index + 1} of its head is not of float32 or float16"
    return _disorder(graph)


def _disorder(graph: onnx.GraphProto) -> str:
    """Which node reads what no earlier one makes, or makes what another does, or an empty string.

    In a circle OpenVINO would search for minutes, and what follows names back to their makers for ever.
    """
    known = {"", *(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)}
    for node in graph.node:
        if not any(node.output):
            return f"its node {node.name or node.op_type} makes nothing"
        for name in node.input:
            if name not in known:
                return f"its node {node.name or node.op_type} reads '{name}', which nothing before it makes"
        for name in node.output:
            if name in known and name:
                return f"its node {node.name or node.op_type} makes '{name}', which is there before it"
            known.add(name)
    return ""
