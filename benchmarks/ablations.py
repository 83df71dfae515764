"""What each option of training gives: finished runs compared with a baseline; knows nothing about how to train.

``python -m fcn_edge.benchmarks.ablations runs/* --baseline NAME -o FILE.json`` writes the record and prints the table
as Markdown; with ``--from FILE.json`` the table is made from the record alone, without the runs and without torch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from ..errors import FcnEdgeError, UsageError
from ..training.config import TrainConfig, dict_from_config
from .ablations_table import (
    BENCHMARK,
    Ablations,
    Line,
    Run,
    ablations_from_record,
    compared,
    markdown_from_ablations,
)
from .record import last_parts, machine_facts, passes, today, write_record
from .report import told

# Options that make no other line of the table: where a run lies, its seed, and what no result depends on.
_ASIDE = ("data", "out", "seed", "device", "threads", "memory_gib", "val_every", "keep_every")
_FILES = ("init", "teacher")


@dataclass(frozen=True)
class _Read:
    """A run, its options laid flat, and what it was validated on."""

    run: Run
    options: dict[str, Any]
    measured_on: tuple[str, str, tuple[str, ...]]

    def key(self) -> dict[str, Any]:
        return {name: value for name, value in self.options.items() if name not in _ASIDE}


def ablations_from_runs(folders: Sequence[Path], baseline: str = "", console: Console | None = None) -> Ablations:
    """Group finished runs and compare the groups with the baseline's.

    What is no folder with a finished and validated run is left out, and the console told.

    Args:
        folders: of the runs, as ``fcn-edge train`` leaves them.
        baseline: name of a folder among them, whose group is the baseline; empty: the first.
        console: for remarks.

    Raises:
        UsageError: if no run is finished, the baseline is none of them, two runs have the same options and seed, or
            runs were validated on different data.
        ModelError: if a checkpoint cannot be read.
    """
    found = []
    for folder in folders:
        read = _read(folder)
        if isinstance(read, _Read):
            found.append(read)
        elif console:
            console.print(f"{folder} is left out: {read}", markup=False, soft_wrap=True)
    if not found:
        raise UsageError(f"none of {', '.join(map(str, folders))} is a finished run; give folders of fcn-edge train")
    names = [read.run.name for read in found]
    if baseline and baseline not in names:
        raise UsageError(f"the baseline '{baseline}' is none of the finished runs; they are: {', '.join(names)}")
    base = found[names.index(baseline)] if baseline else found[0]
    for read in found:
        if read.measured_on != base.measured_on:
            raise UsageError(
                f"{read.run.name} was validated on {_told(read)} but {base.run.name} on {_told(base)}; their scores do "
                "not compare: leave one out"
            )
    groups: list[list[_Read]] = []
    for read in found:
        group = next((group for group in groups if group[0].key() == read.key()), None)
        if group is None:
            groups.append([read])
        else:
            _refuse_twin(read, group)
            group.append(read)
    base_runs = [read.run for read in next(group for group in groups if base in group)]
    lines = [compared(_line(group, base), base_runs) for group in groups]
    lines.sort(key=lambda line: (bool(line.changes), -line.miou))
    return Ablations(
        BENCHMARK,
        today(),
        machine_facts(),
        base.measured_on[0],
        base.measured_on[1] or "val",
        {name: _shown(name, value) for name, value in base.key().items()},
        tuple(lines),
    )


def _read(folder: Path) -> _Read | str:
    """A finished run, or why there is none."""
    from ..training.checkpoint import load_checkpoint  # needs torch, which a table from a record does not

    if not (folder / "last.pt").is_file():
        return "it holds no last.pt"
    saved = load_checkpoint(folder / "last.pt")
    config = saved.config
    limit_s = config.max_minutes * 60
    if saved.epoch < config.epochs and not 0 < limit_s <= saved.seconds:
        return f"it has done {saved.epoch} of {config.epochs} epochs"
    last = saved.history[-1]
    if last.get("val_miou") is None:
        return "it was not validated"
    provenance = {name: value for name, value in saved.provenance.items() if name != "teacher"}  # that is a path
    run = Run(
        folder.resolve().name,
        config.seed,
        last["val_miou"],
        last["val_pixel_accuracy"],
        last["val_per_class"],
        round(saved.seconds / 60, 2),
        passes(
            {
                "config": dict_from_config(config),
                "provenance": provenance,
                "epochs": saved.epoch,
                "steps": saved.step,
            }
        ),
        saved.step,
        provenance,
    )
    measured_on = (provenance.get("data", Path(config.data).name), config.holdout, saved.contract.class_names)
    return _Read(run, _flat(config), measured_on)


def _flat(config: TrainConfig) -> dict[str, Any]:
    fields = dict_from_config(config)
    augment = fields.pop("augment")
    return fields | {f"augment.{name}": value for name, value in augment.items()}


def _told(read: _Read) -> str:
    data, holdout, classes = read.measured_on
    return f"{holdout or 'val'} of {data} ({len(classes)} classes)"


def _refuse_twin(read: _Read, group: Sequence[_Read]) -> None:
    """A run that another one repeats would make the spread look smaller than it is."""
    for other in group:
        if other.run.seed == read.run.seed:
            raise UsageError(
                f"{other.run.name} and {read.run.name} have the same options and the same seed {read.run.seed}; "
                "leave one out"
            )


def _line(group: Sequence[_Read], base: _Read) -> Line:
    options, before = group[0].key(), base.key()
    runs = tuple(sorted((read.run for read in group), key=lambda run: run.seed))
    scores = [run.miou for run in runs]
    return Line(
        {name: _shown(name, value) for name, value in options.items() if value != before[name]},
        round(statistics.fmean(scores), 6),
        min(scores),
        max(scores),
        None,
        runs,
    )


def _shown(name: str, value: Any) -> Any:
    """An option's value as a record may tell it: of a file, folder and name, but not where it lies."""
    if isinstance(value, tuple):
        return [_shown(name, each) for each in value]
    return last_parts(value) if name in _FILES else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fcn_edge.benchmarks.ablations", description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN_DIR", help="folders of finished runs")
    parser.add_argument("--baseline", default="", metavar="NAME", help="folder name of a baseline run (the first)")
    parser.add_argument("-o", dest="record", type=Path, metavar="FILE.json", help="write a record with machine facts")
    parser.add_argument("--from", dest="origin", type=Path, metavar="FILE.json", help="a record instead of runs")
    args = parser.parse_args(arguments)
    console = Console(stderr=True)
    try:
        if bool(args.runs) == bool(args.origin):
            raise UsageError("give either folders of runs or --from FILE.json")
        if args.origin and (args.baseline or args.record):
            raise UsageError("--from takes a record as it is; --baseline and -o go with folders of runs")
        if args.origin:
            record = ablations_from_record(args.origin)
        else:
            record = ablations_from_runs(args.runs, args.baseline, console)
            if args.record:
                write_record(args.record, msgspec.to_builtins(record))
    except FcnEdgeError as exc:
        return told(exc)
    sys.stdout.write(markdown_from_ablations(record))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
