"""The folder of a run: what it holds, what may be resumed or overwritten; knows nothing about learning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..errors import FcnEdgeError, UsageError
from ..files import leftovers, require_writable, write_atomically
from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .config import TrainConfig, config_from_dict, dict_from_config, given_options
from .data import TrainData

# Options that a resumed run may change: none of them alters what a step computes from its place in the schedule (the
# teacher may lie elsewhere, but not be another).
FREE_TO_CHANGE = (
    "data", "out", "epochs", "max_minutes", "teacher", "precise_bn", "device", "threads", "memory_gib", "val_every",
    "keep_every",
)  # fmt: skip
_KEPT = "epoch-[0-9][0-9][0-9][0-9].pt"
_FILES = ("best.pt", "last.pt", "metrics.jsonl", "curves.png", "grid.png")


def open_folder(out: Path, resume: bool, force: bool) -> Checkpoint | None:
    """The run to go on with, or None for a new one.

    Raises:
        UsageError: if the folder takes no files, there is nothing to resume, or a run stands there that ``force`` does
            not give up.
        ModelError: if ``last.pt`` cannot be read.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give a folder as --out")
    require_writable(out)
    existing = [path.name for path in _earlier_files(out) if path.exists()]
    if resume:
        if not (out / "last.pt").exists():
            remedy = "use --force instead of --resume" if existing else "leave out --resume"
            raise UsageError(f"{out} holds no last.pt to resume from; {remedy} to start a run there")
        return load_checkpoint(out / "last.pt")
    if existing and not force:
        ways = "--resume, --force" if "last.pt" in existing else "--force (there is no last.pt to resume from)"
        raise UsageError(f"{out} already holds {', '.join(existing)}; use {ways} or another --out")
    return None


def config_resumed(path: Path | None, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """The options of the run that goes on, those that are given now laid over them; ``out`` is where it lies now.

    Args:
        path: as for :func:`fcn_edge.training.config.config_from_toml`, as are the overrides.
        overrides: options by name.

    Raises:
        UsageError: if there is nothing to resume, or what is given cannot be used.
        ModelError: if ``last.pt`` cannot be read.
    """
    given = {"out": TrainConfig().out, **given_options(path, overrides)}
    saved = open_folder(Path(str(given["out"])), resume=True, force=False)
    before = dict_from_config(saved.config) if saved else {}
    if isinstance(given.get("augment"), Mapping):
        given["augment"] = {**before["augment"], **given["augment"]}
    return config_from_dict({**before, **given}, str(path) if path else "the configuration")


def refuse_to_remove(out: Path, sources: Iterable[Path]) -> None:
    """Check that a new run does not remove what it shall learn from.

    Raises:
        UsageError: if one of these files is one of an earlier run in the folder.
    """
    gone = {path.resolve() for path in _earlier_files(out)}
    for source in sources:
        if source.resolve() in gone:
            raise UsageError(f"{source} lies in {out}, which a new run empties; give another --out")


def prepare_folder(out: Path) -> None:
    """Make the folder and remove an earlier run's files, once the new one is sure to start.

    Raises:
        UsageError: if the folder cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "metrics.jsonl", b"")
    except OSError as exc:
        raise UsageError(f"{out} cannot be written to: {exc.strerror or exc}; give another --out") from exc
    for path in _earlier_files(out):
        path.unlink(missing_ok=True)
    remove_leftovers(out)


def remove_leftovers(out: Path) -> None:
    """Remove what a run that was killed has half-written in its folder."""
    for name in (*_FILES, _KEPT):
        for path in leftovers(out / name):
            path.unlink(missing_ok=True)


def _earlier_files(out: Path) -> list[Path]:
    """What a run leaves in its folder."""
    return [*(out / name for name in _FILES), *out.glob(_KEPT)]


def refuse_changes(config: TrainConfig, data: TrainData, saved: Checkpoint) -> None:
    """Check that a run can go on as it began.

    Raises:
        UsageError: if an option or the data would make it another run, or all its epochs or its minutes are over.
    """
    changes = list(_changes(dict_from_config(saved.config), dict_from_config(config)))
    if changes:
        free = ", ".join(_flag(name) for name in FREE_TO_CHANGE)
        raise UsageError(f"{'; '.join(changes)}; a resumed run may change only {free}: leave out the rest")
    if saved.contract != data.contract or saved.provenance.get("train_files_sha256") != data.fingerprint:
        raise UsageError(
            f"the data in {config.data} is not what the run was started with (its files or classes differ); "
            "start a new run in another folder"
        )
    if saved.epoch >= config.epochs:
        raise UsageError(
            f"the run in {config.out} has done all of its {config.epochs} epochs; use --epochs {2 * config.epochs} "
            "to go on"
        )
    if config.max_minutes and saved.seconds >= config.max_minutes * 60:
        raise UsageError(
            f"the run in {config.out} has used its {config.max_minutes:g} minutes; use --max-minutes "
            f"{2 * config.max_minutes:g} to go on"
        )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What is not as it was, of what a resumed run may not change."""
    for name, value in before.items():
        if name == "augment":
            for key, old in value.items():
                if old != now[name][key]:
                    yield f"{_flag(key)} of augment is {_shown(key, now[name][key])} but {_before(key, old)}"
        elif name not in FREE_TO_CHANGE and value != now[name]:
            yield f"{_flag(name)} is {_shown(name, now[name])} but {_before(name, value)}"


def _before(name: str, value: Any) -> str:
    return f"the run was started with {_shown(name, value)}"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shown(name: str, value: Any) -> str:
    """A value as it is typed; "none" for one that is empty."""
    if isinstance(value, (list, tuple)):
        value = ("x" if name in ("size", "crop") else ",").join(map(str, value))
    elif isinstance(value, bool):
        value = "on" if value else "off"
    return "none" if value in ("", None) else str(value)


def save_epoch(out: Path, checkpoint: Checkpoint, ended: bool) -> None:
    """Write an epoch's checkpoints and ``metrics.jsonl``.

    ``best.pt`` is written when the validation mIoU is higher than ever before; at the end of a run without any
    validation it is the last epoch's.

    Raises:
        FcnEdgeError: if they cannot be written; it tells what is saved.
    """
    try:
        _write_epoch(out, checkpoint, ended)
    except OSError as exc:
        saved = checkpoint.epoch - 1  # last.pt is written last
        then = f"go on with --resume, epoch {saved} is saved" if saved else "start again with --force"
        raise FcnEdgeError(
            f"epoch {checkpoint.epoch} cannot be saved in {out}: {exc.strerror or exc}; make room there and {then}"
        ) from exc


def _write_epoch(out: Path, checkpoint: Checkpoint, ended: bool) -> None:
    history = checkpoint.history
    scores = validated(history)
    is_best = history[-1].get("val_miou") is not None and scores[-1] > max(scores[:-1], default=-1.0)
    if is_best or (ended and not scores):
        save_checkpoint(out / "best.pt", checkpoint)
    if checkpoint.config.keep_every and checkpoint.epoch % checkpoint.config.keep_every == 0:
        save_checkpoint(out / f"epoch-{checkpoint.epoch:04d}.pt", checkpoint)
    lines = b"".join(msgspec.json.encode(entry) + b"\n" for entry in history)
    write_atomically(out / "metrics.jsonl", lines)
    save_checkpoint(out / "last.pt", checkpoint)  # last: what it says is done, is done


def validated(history: Sequence[dict[str, Any]]) -> list[float]:
    """Validation mIoU of the epochs that have one."""
    return [entry["val_miou"] for entry in history if entry.get("val_miou") is not None]
