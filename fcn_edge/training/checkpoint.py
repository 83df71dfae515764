"""Checkpoints: all that a run needs to go on and a model needs to be used, in one file; knows nothing about data."""

from __future__ import annotations

import errno
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..contract import Contract, contract_from_dict, dict_from_contract
from ..errors import ModelError, UsageError
from ..files import replaced
from ..model.fcn import FCN, make_model
from ..model.weights import UNREADABLE
from .config import TrainConfig, config_from_dict, dict_from_config
from .qat import is_quantised, quantised

FORMAT = "fcn_edge.checkpoint"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A moment of a training run.

    Attributes:
        contract: what the model expects and answers.
        config: the options of the run.
        model: weights and buffers as trained.
        ema: averaged weights and buffers, those to use.
        optimizer: state of the optimiser.
        scaler: state of the fp16 gradient scaler; empty where there is none.
        hints: state of what compares features with a teacher's; empty where nothing does, and in files before it did.
        epoch: epochs done.
        step: optimiser steps done.
        seconds: time spent so far.
        rng: states of the generators: ``torch``, ``run`` (the trainer's own) and, on a GPU, ``cuda``.
        history: one dictionary for each epoch, as in ``metrics.jsonl``.
        provenance: where it comes from: version, torch, date, data, fingerprint of the training files.
    """

    contract: Contract
    config: TrainConfig
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    hints: dict[str, Tensor] = field(default_factory=dict)
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    rng: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    provenance: dict[str, str] = field(default_factory=dict)


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        OSError: if it cannot be written, such as on a full disk.
    """
    fields = {name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__}
    fields["contract"] = dict_from_contract(checkpoint.contract)
    fields["config"] = dict_from_config(checkpoint.config)
    with replaced(Path(path)) as temporary:
        try:
            torch.save({"format": FORMAT, "version": VERSION, **fields}, temporary)
        except RuntimeError as exc:  # torch's word for a file that did not take all bytes
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from exc


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint; nothing in the file is executed (``weights_only``), tensors come to the CPU.

    Raises:
        ModelError: if the file is missing, damaged, or no checkpoint of this program.
    """
    path = Path(path)
    remedy = "give a .pt file that fcn-edge train has written"
    try:
        with path.open("rb") as file:
            is_archive = file.read(2) == b"PK"  # torch.load would try older formats, with warnings
    except FileNotFoundError as exc:
        raise ModelError(f"checkpoint {path} does not exist; {remedy}") from exc
    except OSError as exc:
        raise ModelError(f"checkpoint {path} cannot be read: {exc.strerror or exc}; {remedy}") from exc
    if not is_archive:
        raise ModelError(f"checkpoint {path} cannot be read: it is no file that torch.save has written; {remedy}")
    try:
        with zipfile.ZipFile(path) as archive:
            is_packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
        if is_packed:  # torch packs nothing, and would unpack a few kilobytes to gigabytes
            raise ModelError(f"checkpoint {path} holds compressed data, which torch.save does not write; {remedy}")
        fields = torch.load(path, map_location="cpu", weights_only=True)
    except (*UNREADABLE, zipfile.BadZipFile) as exc:
        raise ModelError(
            f"checkpoint {path} cannot be read: it is cut off, damaged or holds more than data; {remedy}"
        ) from exc
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise ModelError(f"{path} is a torch file, but no checkpoint of fcn-edge; expected one from fcn-edge train")
    if fields.get("version") != VERSION:
        raise ModelError(f"checkpoint {path} has version {fields.get('version')}; this release reads version {VERSION}")
    fields.setdefault("hints", {})
    missing = [name for name in Checkpoint.__dataclass_fields__ if name not in fields]
    if missing:
        raise ModelError(f"checkpoint {path} lacks {', '.join(missing)}; fetch it again or train again")
    fields = {name: fields[name] for name in Checkpoint.__dataclass_fields__}
    fields["contract"] = contract_from_dict(fields["contract"])
    try:
        fields["config"] = config_from_dict({"logit_adjustment": 0.0, **fields["config"]})  # older ones had none
    except (UsageError, TypeError, ValueError) as exc:
        raise ModelError(f"checkpoint {path} holds options that this release does not know: {exc}") from exc
    return Checkpoint(**fields)


def model_from_checkpoint(path: str | Path) -> tuple[FCN, Contract]:
    """The averaged model of a checkpoint in eval mode on the CPU, and its contract.

    Raises:
        ModelError: as for :func:`load_checkpoint`, and if the weights do not fit the contract's model.
    """
    checkpoint = load_checkpoint(path)
    return model_from_state(checkpoint.contract, checkpoint.ema, str(path)), checkpoint.contract


def model_from_state(contract: Contract, state: dict[str, Tensor], origin: str) -> FCN:
    """The contract's model with these weights, in eval mode; one that rounds if they learned with rounding.

    Raises:
        ModelError: if the model is unknown or the weights do not fit it.
    """
    try:
        model = make_model(contract.model, contract.num_classes, mean=contract.mean, std=contract.std)
        if is_quantised(state):
            model = quantised(model)
        model.load_state_dict(state)
    except (UsageError, RuntimeError, TypeError, AttributeError) as exc:
        reason = str(exc).splitlines()[0]
        raise ModelError(f"the weights in {origin} do not fit model '{contract.model}': {reason}") from exc
    return model.eval()


def take_weights(model: FCN, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Load the weights whose name and shape fit, and leave the rest of the model as it is.

    Returns:
        Names taken, and names of the model that found nothing.
    """
    own = model.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    model.load_state_dict({**own, **fitting})
    return list(fitting), [name for name in own if name not in fitting]
