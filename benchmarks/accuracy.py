"""Accuracy of an engine on a data set's split, as one JSON object or table; knows nothing about backends or time.

Labels are compared at the mask's own resolution (Long, Shelhamer, Darrell, CVPR 2015, section 5: pixel accuracy and
mean IoU), so models of different input sizes stand side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from .. import metrics
from ..dataset import Dataset, complete_samples, read_sample
from ..errors import ModelError
from ..runtime.engine import Engine, check_labels

OnProgress = Callable[[int, int], None]
"""Called as ``on_progress(done, total)``."""


def evaluate(
    engine: Engine, dataset: Dataset, split: str = "val", on_progress: OnProgress | None = None, model: str = ""
) -> dict[str, Any]:
    """Segment every image of a split and compare with its mask.

    Args:
        engine: what to evaluate; it stays open.
        dataset: opened with the class choice that the engine was trained with.
        split: such as ``val``.
        on_progress: called after each image with the number done and the number of all.
        model: what to call the model in the result; empty: the contract's name of the architecture.

    Returns:
        The object that ``fcn-edge eval --json`` prints; ``confusion`` counts pixels, a row for each class of the labels
        and in it a column for each class of the prediction, in the order of ``per_class``. Where a sequence is held
        out, what :func:`part_of` says is in it. IoU of a class that appears in neither labels nor prediction is None
        and left out of the mean; a mean of nothing is None.

    Raises:
        ModelError: if engine and data set have different classes.
        UsageError: if the split is unknown or empty.
        DataError: if a file cannot be read, or an image or mask of the split has no partner.
        EngineError: if the engine fails, or its labels have another size than the frame or ids that are no class.
    """
    check_classes(engine, dataset, model)
    samples = complete_samples(dataset, split)
    num_classes = len(dataset.class_names)
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for done, sample in enumerate(samples, 1):
        image, target = read_sample(dataset, sample)
        labels = engine.infer(image)
        check_labels(labels, target.shape, num_classes)
        matrix += metrics.confusion(labels, target, num_classes, dataset.ignore_id)
        if on_progress:
            on_progress(done, len(samples))
    iou = metrics.per_class_iou(matrix)
    return {
        "model": model or engine.contract.model,
        "backend": engine.backend,
        "data": str(dataset.root),
        **part_of(dataset, split),
        "images": len(samples),
        "miou": _finite(metrics.miou(matrix)),
        "pixel_accuracy": _finite(metrics.pixel_accuracy(matrix)),
        "per_class": {name: _finite(value) for name, value in zip(dataset.class_names, iou.tolist(), strict=True)},
        "confusion": matrix.tolist(),
    }


def part_of(dataset: Dataset, split: str) -> dict[str, str]:
    """Which images a split of a data set holds, in words that are true on the disk.

    Returns:
        ``split``; where a sequence is held out and stands in for ``val``: ``split`` train and ``holdout``, the
        sequence; for what is left of train: ``split`` train and ``without``, the sequence.
    """
    if dataset.holdout and split == "val":
        return {"split": "train", "holdout": dataset.holdout}
    if dataset.holdout and split == "train":
        return {"split": "train", "without": dataset.holdout}
    return {"split": split}


def part_name(part: Mapping[str, Any]) -> str:
    """What :func:`part_of` says, for people: ``val``, ``0006R0``, ``train without 0006R0``."""
    without = f" without {part['without']}" if "without" in part else ""
    return f"{part.get('holdout') or part['split']}{without}"


def check_classes(engine: Engine, dataset: Dataset, model: str = "") -> None:
    """Refuse to compare ids that mean different things.

    Raises:
        ModelError: if engine and data set have different classes, or the same in another order.
    """
    ours, theirs = engine.contract.class_names, dataset.class_names
    if ours == theirs:
        return
    name = model or engine.contract.model
    if sorted(ours) == sorted(theirs):
        reason = "the same classes in another order; choose them in the model's order"
    elif set(ours) < set(theirs):
        reason = "the model knows only some of the data set's classes; choose those classes from the data set"
    else:
        reason = "use the data set, or the choice of classes, that the model was trained on"
    raise ModelError(
        f"{name} has {len(ours)} classes ({_listing(ours)}), {dataset.root} has {len(theirs)} ({_listing(theirs)}): "
        f"{reason}"
    )


def evaluation_table(result: dict[str, Any]) -> Table:
    """What :func:`evaluate` found, for people."""
    title = f"{result['model']} ({result['backend']}) on {result['images']} images of {part_name(result)}"
    table = Table(title=escape(title), show_footer=True)
    table.add_column("class", footer="mean IoU\npixel accuracy")
    mean, accuracy = _cell(result["miou"]), _cell(result["pixel_accuracy"])
    table.add_column("IoU", footer=f"{mean}\n{accuracy}", justify="right")
    table.add_column("taken for")
    for (name, value), taken in zip(result["per_class"].items(), _taken_for(result), strict=True):
        table.add_row(escape(name), _cell(value), escape(taken))
    return table


def _taken_for(result: dict[str, Any]) -> list[str]:
    """For each class the other one that most of its pixels were taken for, and their share; empty where none were."""
    names, cells = list(result["per_class"]), []
    for index, counts in enumerate(result["confusion"]):
        wrong = [*counts[:index], 0, *counts[index + 1 :]]
        most = max(wrong)
        cells.append(f"{names[wrong.index(most)]} {most / sum(counts):.1%}" if most else "")
    return cells


def _finite(value: float) -> float | None:
    """The value, or None for NaN, which JSON does not have."""
    return float(value) if math.isfinite(value) else None


def _cell(value: float | None) -> str:
    return "absent" if value is None else f"{value:.4f}"


def _listing(names: tuple[str, ...]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
