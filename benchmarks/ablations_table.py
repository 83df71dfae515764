"""The record of ablations and its table in Markdown; knows nothing about runs or how the record was made."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from ..errors import UsageError
from .report import markdown_table

BENCHMARK = "ablations"
_SIZES = ("size", "crop")


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        name: of its folder.
        seed: of its random choices.
        miou: of the averaged weights after the last epoch, on the images held out.
        pixel_accuracy: of the same.
        per_class: IoU of each class; None for one that appears in neither labels nor answers.
        minutes: that it took, on whatever it ran on.
        epochs: passes over the training images.
        steps: optimiser steps done.
        provenance: as in its checkpoint, without paths.
    """

    name: str
    seed: int
    miou: float
    pixel_accuracy: float
    per_class: dict[str, float | None]
    minutes: float
    epochs: int
    steps: int
    provenance: dict[str, str]


@dataclass(frozen=True)
class Line:
    """Runs that differ in nothing but the seed.

    Attributes:
        changes: options that differ from the baseline's, of the augmentation as ``augment.NAME``; none for itself.
        miou: mean over the runs.
        lowest: mIoU of the worst run.
        highest: mIoU of the best run.
        difference: mean of ``differences``; None where the baseline has none of these seeds.
        runs: by seed.
        differences: of each run's mIoU to that of the baseline's run of the same seed, by seed.
    """

    changes: dict[str, Any]
    miou: float
    lowest: float
    highest: float
    difference: float | None
    runs: tuple[Run, ...]
    differences: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Ablations:
    """The record.

    Attributes:
        benchmark: ``ablations``.
        recorded: date of the record.
        machine: that the record was made on, its commit included.
        data: name of the data set.
        split: what was validated on: the sequence held out, or ``val``.
        config: options of the baseline.
        results: the baseline first, then the lines from the highest mIoU to the lowest.
    """

    benchmark: str
    recorded: str
    machine: dict[str, Any]
    data: str
    split: str
    config: dict[str, Any]
    results: tuple[Line, ...]


def compared(line: Line, baseline: Sequence[Run]) -> Line:
    """The line with what its runs' mIoU have more than those of the baseline's runs of the same seeds.

    A seed chooses the first weights and the crops, so two runs that share it differ in less than two that do not.
    """
    base = {run.seed: run.miou for run in baseline}
    differences = {run.seed: round(run.miou - base[run.seed], 6) for run in line.runs if run.seed in base}
    mean = round(statistics.fmean(differences.values()), 6) if differences else None
    return replace(line, difference=mean, differences=differences)


def ablations_from_record(path: Path) -> Ablations:
    """Read a record again; differences are made of its runs anew, as records of before had others.

    Raises:
        UsageError: if the file cannot be read or is no record of ablations.
    """
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Ablations)
    except (OSError, msgspec.MsgspecError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise UsageError(f"{path} is no record of ablations ({reason}); give a file that -o has written") from exc
    if record.benchmark != BENCHMARK or not record.results:
        raise UsageError(f"{path} is a record of '{record.benchmark}'; expected one of '{BENCHMARK}' with results")
    return replace(record, results=tuple(compared(line, record.results[0].runs) for line in record.results))


def markdown_from_ablations(record: Ablations) -> str:
    """The table of the record, and one of the classes."""
    labels = [_label(line.changes) for line in record.results]
    header = ["changed", "seeds", f"mIoU on {record.split}", "min..max", "difference", "minutes", "seed by seed"]
    rows = [
        [
            label,
            ", ".join(str(run.seed) for run in line.runs),
            f"{line.miou:.3f}",
            f"{line.lowest:.3f}..{line.highest:.3f}" if len(line.runs) > 1 else "",
            f"{line.difference:+.3f}" if line.changes and line.difference is not None else "",
            f"{statistics.fmean(run.minutes for run in line.runs):.0f}",
            ", ".join(f"{seed}: {value:+.3f}" for seed, value in line.differences.items()) if line.changes else "",
        ]
        for label, line in zip(labels, record.results, strict=True)
    ]
    classes = list(record.results[0].runs[0].per_class)
    by_class = [
        [label, *(_mean([run.per_class[name] for run in line.runs]) for name in classes)]
        for label, line in zip(labels, record.results, strict=True)
    ]
    config = record.config
    return "\n\n".join(
        [
            f"Baseline: `{config['model']}` on {record.data}, {config['epochs']} epochs, batches of {config['batch']} "
            f"crops of {_text('crop', config['crop'])}. mIoU of the averaged weights after the last epoch, mean "
            "over the seeds; where there is one seed, nothing is known about the spread. Difference: of each run to "
            "the baseline's of the same seed, mean over the seeds that both have.",
            markdown_table(header, rows),
            "IoU of the classes, mean over the seeds:",
            markdown_table(["changed", *classes], by_class) + "\n",
        ]
    )


def _label(changes: dict[str, Any]) -> str:
    """The changes as they are written on the command line."""
    words = []
    for name, value in changes.items():
        flag = name.rpartition(".")[2].replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words.append(f"--{flag} {_text(name, value)}")
    return f"`{' '.join(words)}`" if words else "nothing: the baseline"


def _text(name: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return ("x" if name in _SIZES else ",").join(
            f"{entry:g}" if isinstance(entry, float) else str(entry) for entry in value
        )
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value in ("", None) else str(value)


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.fmean(known):.3f}" if known else ""
