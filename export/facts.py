"""What a model file says about itself, for ``fcn-edge inspect``; knows nothing about running models."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..contract import METADATA_KEY, Contract, dict_from_contract
from ..errors import MissingError, ModelError, UsageError
from ..redact import unicode_text
from ..runtime.onnx_file import HEAD_OP, load_onnx, require_valid, split_onnx
from ..runtime.sidecar import read_plan, read_sidecar, sha256_of

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", HEAD_OP)
_PASSED_THROUGH = ("QuantizeLinear", "DequantizeLinear", "Cast", "Identity")


def facts_from_file(path: str | Path) -> dict[str, Any]:
    """Everything that a model file tells without being run.

    Args:
        path: a ``.pt``, ``.onnx`` or ``.engine``.

    Returns:
        JSON-ready dictionary: ``file``, ``kind``, ``bytes`` and ``sha256`` of each, and of

        - ``.pt``: ``contract``, ``params``, ``gmacs`` (billions of multiply-adds at the contract's size), ``precision``
          (type: share of the weighted layers), ``layers`` (name: type, under the names of its ``.onnx``),
          ``training`` (config, epochs, steps, provenance);
        - ``.onnx``: ``contract``, ``params``, ``gmacs``, ``precision``, ``layers`` (name: type), ``opset``,
          ``ir_version``, ``producer``, ``metadata`` (what else it carries). Batch norm is folded, so there are fewer
          params than in the checkpoint;
        - ``.engine``: ``contract``; ``sidecar``, the content of the ``.engine.json`` beside it; ``params``, ``gmacs``,
          ``layers`` and ``metadata`` of the typed ONNX file that it was built from, where this lies beside it unchanged
          and ``onnx`` is installed.

    Raises:
        UsageError: if the suffix is none of these.
        ModelError: if the file, or an engine's sidecar, is missing, damaged or not this program's, or the engine is not
            the file that its sidecar describes.
        MissingError: if a package that reads such a file is not installed.
    """
    path = Path(path)
    readers = {".pt": _facts_from_checkpoint, ".onnx": _facts_from_onnx, ".engine": _facts_from_engine}
    reader = readers.get(path.suffix)
    if reader is None:
        raise UsageError(f"{path} ends in '{path.suffix}'; expected a file that ends in {', '.join(readers)}")
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ModelError(f"model file {path} cannot be read: {exc.strerror or exc}") from exc
    common = {"file": unicode_text(str(path)), "kind": path.suffix.removeprefix("."), "bytes": len(data)}
    return {**common, "sha256": hashlib.sha256(data).hexdigest(), **reader(path)}


def _facts_from_checkpoint(path: Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError as exc:
        raise MissingError(f"torch cannot be imported ({exc}); install it with: pip install 'fcn-edge[train]'") from exc
    from ..model.fcn import count_gmacs, count_params
    from ..training.checkpoint import load_checkpoint, model_from_state
    from ..training.config import dict_from_config

    checkpoint = load_checkpoint(path)
    model = model_from_state(checkpoint.contract, checkpoint.ema, str(path))
    # An ONNX file calls a convolution what its weight is called, and the head's kernels are one layer.
    layers = {
        name.removesuffix(".weight").partition(".kernels.")[0]: _short(str(value.dtype).removeprefix("torch."))
        for name, value in model.named_parameters()
        if value.ndim == 4
    }
    with torch.no_grad():
        gmacs = count_gmacs(model, checkpoint.contract.size_hw)
    return {
        "contract": dict_from_contract(checkpoint.contract),
        "params": count_params(model),
        "gmacs": gmacs,
        "precision": _shares(Counter(layers.values())),
        "layers": layers,
        "training": {
            "config": dict_from_config(checkpoint.config),
            "epochs": checkpoint.epoch,
            "steps": checkpoint.step,
            "seconds": checkpoint.seconds,
            "provenance": checkpoint.provenance,
        },
    }


def _facts_from_onnx(path: Path) -> dict[str, Any]:
    contract = split_onnx(path).contract  # refuses what is no model of this program, with its reason
    model = load_onnx(path)
    require_valid(model, path)
    layers = dict(layer_types(model.graph))
    metadata = {entry.key: entry.value for entry in model.metadata_props if entry.key != METADATA_KEY}
    return {
        "contract": dict_from_contract(contract),
        "params": _count_weights(model.graph),
        "gmacs": _count_gmacs(model, contract),
        "precision": _shares(Counter(layers.values())),
        "layers": layers,
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "ir_version": model.ir_version,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "metadata": metadata,
    }


def _facts_from_engine(path: Path) -> dict[str, Any]:
    sidecar = read_sidecar(path)
    read_plan(path, sidecar)  # refuses another file
    facts = {"contract": dict_from_contract(sidecar.contract), "sidecar": msgspec.to_builtins(sidecar)}
    typed = path.parent / Path(sidecar.onnx).name
    if typed.is_file() and sha256_of(typed) == sidecar.onnx_sha256:
        with contextlib.suppress(MissingError):  # a device that only runs engines has no onnx
            known = _facts_from_onnx(typed)
            facts |= {name: known[name] for name in ("params", "gmacs", "layers", "metadata")}
    return facts


def layer_types(graph: GraphProto) -> Iterator[tuple[str, str]]:
    """(name, type of the weights) of each layer that has weights."""
    tensors, makers = _tensors(graph), _makers(graph)
    for node in graph.node:
        if node.op_type in _WEIGHTED:
            weight = _source(node.input[-1] if node.op_type == HEAD_OP else node.input[1], tensors, makers)
            if weight is not None:
                yield node.name or node.output[0], "int8" if _is_quantised(node, makers) else _type_name(weight)


def _is_quantised(node: NodeProto, makers: dict[str, NodeProto]) -> bool:
    """Whether a layer multiplies integers: data and weights both come from DequantizeLinear."""
    return all(name in makers and makers[name].op_type == "DequantizeLinear" for name in node.input[:2])


def _count_weights(graph: GraphProto) -> int:
    """Number of values in the weights, biases and head kernels."""
    tensors, makers = _tensors(graph), _makers(graph)
    found: dict[str, TensorProto] = {}
    for node in graph.node:
        if node.op_type in _WEIGHTED:
            sources = (_source(name, tensors, makers) for name in node.input)
            found.update({source.name: source for source in sources if source is not None})
    return sum(_size(list(tensor.dims)) for tensor in found.values())


def _count_gmacs(model: ModelProto, contract: Contract) -> float:
    """Billions of multiply-adds as ``model.fcn.count_gmacs`` counts them: without the padding to whole cells."""
    import onnx

    if any(side % contract.strides[0] for side in contract.size_hw):
        # The first Pad is that to whole cells; a backbone may have others of its own.
        padding = next(node for node in model.graph.node if node.op_type == "Pad")
        padding.op_type = "Identity"
        del padding.input[1:]
        del padding.attribute[:]
    _let_sums_follow_their_finer_term(model.graph)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    tensors, makers = _tensors(model.graph), _makers(model.graph)
    total = 0
    for node in model.graph.node:
        if node.op_type == "Conv":
            weight = _source(node.input[1], tensors, makers)
            total += _size(shapes[node.output[0]]) * _size(list(weight.dims)[1:] if weight else [])
        elif node.op_type == HEAD_OP:
            half = len(node.input) // 2
            for scores, kernel in zip(node.input[:half], node.input[half:], strict=True):
                total += _size(shapes[scores]) * _size(list(tensors[kernel].dims)[2:])
    return total / 1e9


def _let_sums_follow_their_finer_term(graph: GraphProto) -> None:
    """What a top-down pathway adds has the size that its Resize computes: of the padded image, and not inferred."""
    makers = _makers(graph)
    for node in graph.node:
        finer = [name for name in node.input if name not in makers or makers[name].op_type != "Resize"]
        if node.op_type == "Add" and len(finer) == 1:
            node.op_type = "Identity"
            del node.input[:]
            node.input.extend(finer)


def _source(name: str, tensors: dict[str, TensorProto], makers: dict[str, NodeProto]) -> TensorProto | None:
    """The stored tensor that a name stands for, through quantisation and casts; None if it is computed."""
    while name not in tensors:
        maker = makers.get(name)
        if maker is None or maker.op_type not in _PASSED_THROUGH:
            return None
        name = maker.input[0]
    return tensors[name]


def _tensors(graph: GraphProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in graph.initializer}


def _makers(graph: GraphProto) -> dict[str, NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def _type_name(tensor: TensorProto) -> str:
    from onnx import TensorProto

    return _short(TensorProto.DataType.Name(tensor.data_type).lower())


def _short(name: str) -> str:
    return {"float": "fp32", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}.get(name, name)


def _shares(types: Counter[str]) -> dict[str, float]:
    return {name: count / types.total() for name, count in types.most_common()}


def _size(dims: list[int]) -> int:
    total = 1
    for dim in dims:
        total *= dim
    return total
