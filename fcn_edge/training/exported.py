"""The weights of a file that was exported, as a network that can learn; knows nothing about classes or training.

The file holds convolutions with batch norm folded in (Jacob et al., "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section 3.2), in FP32, FP16 or INT8. Behind each of them a norm
is put back that computes the identity plus the folded bias.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..contract import METADATA_KEY, Contract, contract_from_json
from ..errors import MissingError, ModelError, UsageError
from ..model.fcn import make_model
from ..model.folding import conv_norm_pairs

if TYPE_CHECKING:
    import onnx

_REMEDY = "give a file that fcn-edge export has written"


def state_from_onnx(path: str | Path) -> tuple[Contract, dict[str, Tensor]]:
    """The contract of an exported file and the state dict with which its network computes in eval mode what it does.

    The norms' statistics are mean 0 and variance 1, which are those of no image.

    Raises:
        ModelError: if the file is missing, damaged or was not written by ``fcn-edge export``.
        MissingError: if the ``onnx`` package is not installed.
    """
    path = Path(path)
    proto = _read_onnx(path)
    contract = _contract(proto, path)
    found = {tensor.name: tensor for tensor in proto.graph.initializer}
    try:
        with torch.device("meta"):  # shapes without values
            model = make_model(contract.model, contract.num_classes)
    except UsageError as exc:
        raise ModelError(f"{path}: {exc}") from exc
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state: dict[str, Tensor] = {}
    for conv, norm in conv_norm_pairs(model.backbone):
        module, width = model.get_submodule(f"backbone.{norm}"), shapes[f"backbone.{norm}.bias"]
        assert isinstance(module, nn.BatchNorm2d)  # for the type checker: the pair's second is one
        state[f"backbone.{norm}.weight"] = torch.full(width, math.sqrt(1 + module.eps))
        state[f"backbone.{norm}.running_mean"] = torch.zeros(width)
        state[f"backbone.{norm}.running_var"] = torch.ones(width)
        state[f"backbone.{norm}.num_batches_tracked"] = torch.tensor(0)
        state[f"backbone.{norm}.bias"] = _tensor(found, f"backbone.{conv}.bias", width, path)
        if f"backbone.{conv}.bias" in shapes:  # folding made one bias of two
            state[f"backbone.{conv}.bias"] = torch.zeros(width)
    rest = {name: _tensor(found, name, shape, path) for name, shape in shapes.items() if name not in state}
    return contract, {name: state[name] if name in state else rest[name] for name in shapes}


def _read_onnx(path: Path) -> onnx.ModelProto:
    try:
        import onnx

        decode_error = importlib.import_module("google.protobuf.message").DecodeError  # it has no type stubs
    except ImportError as exc:
        raise MissingError(f"onnx cannot be imported ({exc}); install it with: pip install 'fcn-edge[train]'") from exc
    try:
        return onnx.load_model_from_string(path.read_bytes())
    except FileNotFoundError as exc:
        raise ModelError(f"model file {path} does not exist; {_REMEDY}") from exc
    except OSError as exc:
        raise ModelError(f"model file {path} cannot be read: {exc.strerror or exc}; {_REMEDY}") from exc
    except (decode_error, UnicodeDecodeError) as exc:
        raise ModelError(f"{path} is no ONNX file or was cut off ({exc}); {_REMEDY}") from exc


def _contract(proto: onnx.ModelProto, path: Path) -> Contract:
    text = next((entry.value for entry in proto.metadata_props if entry.key == METADATA_KEY), None)
    if text is None:
        raise ModelError(f"{path} carries no contract (metadata {METADATA_KEY}), so it is not ours; {_REMEDY}")
    try:
        return contract_from_json(text)
    except ModelError as exc:
        raise ModelError(f"{path}: {exc}") from exc


def _tensor(found: Mapping[str, onnx.TensorProto], name: str, shape: tuple[int, ...], path: Path) -> Tensor:
    """A weight as float32; an FP16 file may hold it under another name, an INT8 file holds steps and their sizes."""
    try:
        values = _values(found, name)
    except (KeyError, ValueError, TypeError, OSError) as exc:
        raise ModelError(f"{path} lacks a usable {name} ({exc}); {_REMEDY}") from exc
    if values.shape != shape or not np.isfinite(values).all():
        is_, expected = list(values.shape), list(shape)
        raise ModelError(f"{path}: {name} has shape {is_}, expected {expected} of finite numbers; {_REMEDY}")
    return torch.from_numpy(values)


def _values(found: Mapping[str, onnx.TensorProto], name: str) -> NDArray[np.float32]:
    values = _stored(found[name if name in found else f"{name}.half"])
    if values.dtype == np.int8:
        steps = _stored(found[f"{name}.scale"]).astype(np.float32)
        return values.astype(np.float32) * steps.reshape(-1, *[1] * (values.ndim - 1))
    return np.array(values, np.float32)


def _stored(tensor: onnx.TensorProto) -> NDArray[Any]:
    from onnx import TensorProto, numpy_helper

    if tensor.data_location == TensorProto.EXTERNAL:  # it may name any file of this machine
        raise ValueError("it lies in another file, and a model is one file")
    return numpy_helper.to_array(tensor)
