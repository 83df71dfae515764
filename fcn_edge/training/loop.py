"""The training run, from the data set to the checkpoints; knows nothing about the command line or deployment."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from .. import __version__
from ..contract import Contract
from ..cores import cpu_limit
from ..errors import ModelError, UsageError
from .batches import iter_order
from .checkpoint import Checkpoint
from .config import DEFAULT_MODEL, TrainConfig
from .data import TrainData, open_data
from .distill import open_teacher, refuse_other_teacher
from .folder import (
    open_folder,
    prepare_folder,
    refuse_changes,
    refuse_to_remove,
    remove_leftovers,
    save_epoch,
    validated,
)
from .learner import Learner
from .plots import draw_curves, draw_grid
from .precision import choose_device, torch_threads
from .transfer import Origin, fitted_state, init_file, open_origin, require_same, summary, with_lead
from .validate import predict, scores_from_confusion, validate

log = logging.getLogger(__name__)

_SMOOTH = 0.95
_SHOWN = 4
_MEASURED_AT_ONCE = 4
_MEAN = ".running_mean"
_MEASURED = 64


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for display.

    Attributes:
        epoch: the current epoch, from 1.
        epochs: number of epochs.
        step: optimiser steps done.
        steps: optimiser steps of the whole run; an estimate where the clock ends it.
        fraction: share of the run that is done, 0 to 1, by steps or by the clock.
        loss: running mean of the loss.
        miou: the last validation's, or None before it.
        images_per_s: training speed in this epoch.
        seconds_left: estimate of the time left.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    fraction: float
    loss: float
    miou: float | None
    images_per_s: float
    seconds_left: float


@dataclass(frozen=True)
class TrainResult:
    """What a run has brought about.

    Attributes:
        out: its folder.
        best: checkpoint with the highest validation mIoU; that of the last epoch where nothing is validated.
        last: checkpoint of the last epoch.
        best_miou: mIoU of ``best``, or None if nothing was validated.
        miou: mIoU of ``last``.
        epochs: epochs done.
        steps: optimiser steps done.
        seconds: time spent, that before a resume included.
        contract: the model's.
        history: one dictionary for each epoch.
    """

    out: Path
    best: Path
    last: Path
    best_miou: float | None
    miou: float | None
    epochs: int
    steps: int
    seconds: float
    contract: Contract
    history: list[dict[str, Any]] = field(repr=False)


def train(
    config: TrainConfig,
    on_progress: Callable[[Progress], None] | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    on_read: Callable[[int, int], None] | None = None,
) -> TrainResult:
    """Train a network and leave ``best.pt``, ``last.pt``, ``metrics.jsonl``, ``curves.png`` and ``grid.png``.

    On the CPU the same configuration gives the same weights, and a run that was stopped at any moment and resumed the
    same as one that was not. Ctrl-C leaves ``last.pt`` as the last whole epoch wrote it.

    Args:
        config: the options.
        on_progress: called after each step.
        resume: go on from ``last.pt`` in the output folder.
        force: overwrite a run in the output folder.
        on_read: called before the first step, as images are read: with the number of those read and of all.

    Raises:
        UsageError: if an option, the output folder or a change made on resuming cannot be used.
        DataError: if files of the data set have problems; all of them are listed.
        ModelError: if a checkpoint to start from or to learn from cannot be used.
        FcnEdgeError: if the loss is no longer finite, or an epoch cannot be saved.
    """
    if config.qat and not resume and config.lr == TrainConfig().lr:
        raise UsageError(
            f"qat at lr {config.lr:g}, that of a training from scratch, would lose what {config.init} has learned; "
            "give lr 3e-5, or make the configuration by config_from_dict, which fills in what such a run needs"
        )
    with torch_threads(config.threads or _threads()), _own_generator(config.device):
        return _train(config, on_progress, resume, force, on_read)


def _threads() -> int:
    """How many CPU threads a run takes that is asked for no number: torch's own, within a container's limit."""
    own = torch.get_num_threads()
    return min(cpu_limit() or own, own)


def _own_generator(device: str) -> contextlib.AbstractContextManager[None]:
    """Torch's global generators, those of the CPU and of the run's GPU, are afterwards what they were before."""
    chosen = choose_device(device)
    return torch.random.fork_rng([chosen] if chosen.type == "cuda" else [])


def _train(
    config: TrainConfig,
    on_progress: Callable[[Progress], None] | None,
    resume: bool,
    force: bool,
    on_read: Callable[[int, int], None] | None,
) -> TrainResult:
    out = Path(config.out)
    saved = open_folder(out, resume, force)
    device = choose_device(config.device)
    start = init_file(config.init, config.model) if saved is None and config.init else None
    if saved is None:
        refuse_to_remove(out, [*([start] if start else []), *(Path(path) for path in config.teacher)])
    origin = open_origin(config.init, start) if start else None
    if config.qat:
        config = with_lead(config, saved.config if saved else origin.config if origin else None)
    config, data = open_data(_with_model(config, saved, origin), device, on_read)
    if config.qat and origin is not None:
        require_same(origin, data.contract)
    teacher = open_teacher(config, data, device) if config.teacher else None
    learner = Learner(config, data.contract, data.train.counts, device, teacher)
    history: list[dict[str, Any]] = []
    spent = 0.0
    if saved is not None:
        refuse_changes(config, data, saved)
        refuse_other_teacher(teacher, saved)
        if config.qat:
            learner.quantise()
        learner.restore(saved)
        remove_leftovers(out)
        history, spent = saved.history, saved.seconds
    elif origin is not None:
        _start_from(learner, origin, data)
    elif start is not None:
        if config.qat:
            raise UsageError(f"{config.init} holds a classifier; qat fine-tunes a segmentation network: give its .pt")
        report = learner.start_from_classifier(start)
        taken, fresh = len(report.loaded), len(report.missing)
        log.info(
            "took %d tensors of the backbone from %s; %d of it and all else start afresh", taken, config.init, fresh
        )
    sources = _sources(start, saved, learner)
    if saved is None:
        prepare_folder(out)
    clock = _Clock(config, data, spent)

    ended = False
    while not ended:
        metrics = _train_epoch(learner, data, config, clock, history, on_progress)
        ended = len(history) + 1 == config.epochs or clock.is_up()
        scores: dict[str, Any] = {}
        if not ended and metrics["epoch"] % config.val_every == 0:
            scores = _validated(learner, data)
            ended = clock.is_up()  # which took the minutes that were left
        if ended and config.precise_bn:
            learner.take_statistics(data.train)
        if ended and (config.precise_bn or not scores):
            scores = _validated(learner, data)
        metrics |= scores
        metrics["seconds"] = round(clock.seconds(), 3)
        history = [*history, metrics]
        save_epoch(out, _checkpoint(learner, data, config, history, clock.seconds(), sources), ended)

    try:
        draw_curves(out / "curves.png", history)
        _draw_examples(out / "grid.png", learner, data)
    except OSError as exc:  # a full disk; what counts is saved
        log.warning("the pictures of the run cannot be written to %s: %s", out, exc.strerror or exc)
    mious = validated(history)
    return TrainResult(
        out,
        out / "best.pt",
        out / "last.pt",
        max(mious, default=None),
        mious[-1] if mious else None,
        len(history),
        learner.steps,
        clock.seconds(),
        data.contract,
        history,
    )


class _Clock:
    """How much of a run is done, by steps or, where it is limited, by the time spent in it."""

    def __init__(self, config: TrainConfig, data: TrainData, spent: float) -> None:
        self.steps_per_epoch = config.steps_per_epoch or -(-len(data.train) // config.batch)
        self._steps = self.steps_per_epoch * config.epochs
        self._limit = config.max_minutes * 60
        self._begin = time.monotonic() - spent

    def seconds(self) -> float:
        return time.monotonic() - self._begin

    def fraction(self, step: int) -> float:
        by_time = self.seconds() / self._limit if self._limit else 0.0
        return min(1.0, max(step / self._steps, by_time))

    def is_up(self) -> bool:
        return bool(self._limit) and self.seconds() >= self._limit


def _train_epoch(
    learner: Learner,
    data: TrainData,
    config: TrainConfig,
    clock: _Clock,
    history: list[dict[str, Any]],
    on_progress: Callable[[Progress], None] | None,
) -> dict[str, Any]:
    """One epoch, cut short when the time is up; returns its line of ``metrics.jsonl``."""
    learner.train_mode()
    begin, start, done, total, smooth = time.monotonic(), clock.seconds(), 0, 0.0, 0.0
    order = list(iter_order(len(data.train), config.batch, clock.steps_per_epoch, learner.generator))
    began_at, scores = clock.fraction(learner.steps), validated(history)
    for raw in data.train.batches(order):
        loss = learner.step(raw, clock.fraction(learner.steps))
        done, total = done + 1, total + loss
        smooth = loss if done == 1 else _SMOOTH * smooth + (1 - _SMOOTH) * loss
        if on_progress is not None:
            spent = time.monotonic() - begin
            fraction = clock.fraction(learner.steps)
            left = (clock.seconds() - start) * (1 - fraction) / max(fraction - began_at, 1e-9)
            on_progress(
                Progress(
                    len(history) + 1,
                    config.epochs,
                    learner.steps,
                    round(learner.steps / fraction),
                    fraction,
                    smooth,
                    scores[-1] if scores else None,
                    done * config.batch / spent,
                    left,
                )
            )
        if clock.is_up():
            break
    return {
        "epoch": len(history) + 1,
        "step": learner.steps,
        "loss": total / done,
        "lr": learner.rate,
        "images_per_s": round(done * config.batch / (time.monotonic() - begin), 2),
    }


def _validated(learner: Learner, data: TrainData) -> dict[str, Any]:
    """What the averaged weights have on the validation images; nothing where there are none."""
    if not len(data.val):
        return {}
    return scores_from_confusion(
        validate(learner.average.model, data.val, data.contract, learner.device), data.contract
    )


def _sources(start: Path | None, saved: Checkpoint | None, learner: Learner) -> dict[str, str]:
    """What a checkpoint tells of the files that the run learns from besides the data."""
    before = saved.provenance.get("init_sha256", "") if saved else ""
    digest = hashlib.sha256(start.read_bytes()).hexdigest() if start else before
    return ({"init_sha256": digest} if digest else {}) | (learner.teacher.provenance if learner.teacher else {})


def _checkpoint(
    learner: Learner,
    data: TrainData,
    config: TrainConfig,
    history: list[dict[str, Any]],
    seconds: float,
    sources: dict[str, str],
) -> Checkpoint:
    return Checkpoint(
        data.contract,
        config,
        **learner.state(),
        epoch=len(history),
        seconds=seconds,
        history=history,
        provenance={
            "fcn_edge": __version__,
            "torch": str(torch.__version__),  # a subclass of str, which weights_only would refuse
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "data": Path(config.data).resolve().name,
            "train_images": str(len(data.train)),
            "train_files_sha256": data.fingerprint,
            **sources,
        },
    )


def _with_model(config: TrainConfig, saved: Checkpoint | None, origin: Origin | None) -> TrainConfig:
    """The configuration with a network's name: if none is given, that of the run to go on with or of the weights."""
    known = saved or origin
    return msgspec.structs.replace(config, model=config.model or (known.contract.model if known else DEFAULT_MODEL))


def _start_from(learner: Learner, origin: Origin, data: TrainData) -> None:
    """Begin with the weights of a checkpoint or an exported file."""
    names = data.contract.class_names
    before = origin.config if origin.contract.class_names == names else None
    taken, fresh = learner.start_from(fitted_state(origin, learner.model, names), before)
    if not any(name.startswith("backbone.") for name in taken):
        raise ModelError(
            f"{origin.name} is {origin.contract.model}, of which nothing fits {learner.model.name}; leave out --model, "
            "or start from other weights"
        )
    if origin.is_folded:
        norms = [name.removesuffix(_MEAN) for name in taken if name.endswith(_MEAN)]
        learner.measure_norms(norms, _first_images(data))
    log.info("%s", summary(origin, learner.model, names, fresh))
    if learner.config.qat:
        learner.quantise(_first_images(data))


def _first_images(data: TrainData) -> list[Tensor]:
    """Batches of training images, spread over the set and as they are, to measure norms or activations on."""
    count = min(len(data.train), _MEASURED)
    numbers = [index * len(data.train) // count for index in range(count)]
    order = [numbers[at : at + _MEASURED_AT_ONCE] for at in range(0, count, _MEASURED_AT_ONCE)]
    return [raw.images for raw in data.train.batches(order)]


def _draw_examples(path: Path, learner: Learner, data: TrainData) -> None:
    """A few images, spread over the set, with label and answer: of validation or, where there is none, of training."""
    has_val, count = bool(len(data.val)), len(data.val) or len(data.train)
    chosen = sorted({round(index * (count - 1) / (_SHOWN - 1)) for index in range(_SHOWN)})
    if has_val:
        pairs = [pair for index, pair in enumerate(data.val) if index in chosen]
    else:
        raws = data.train.batches([index] for index in chosen)
        pairs = [(raw.images[0].permute(1, 2, 0).cpu().numpy(), raw.masks[0].cpu().numpy()) for raw in raws]
    rows = [(frame, label, predict(learner.average.model, [frame], learner.device)[0]) for frame, label in pairs]
    draw_grid(path, rows, data.contract, image_title="image" if has_val else "training image")
