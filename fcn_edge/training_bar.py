"""The progress bar of a training run, on stderr; knows nothing about what is trained."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .redact import shown

if TYPE_CHECKING:
    from .training.loop import Progress as TrainingProgress


class _Shown(logging.Formatter):
    """Of messages that name folders and classes, which may hold anything."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


@contextlib.contextmanager
def training_progress() -> Iterator[tuple[Callable[[TrainingProgress], None], Callable[[int, int], None]]]:
    """A progress bar on stderr with loss, mIoU, rate and time left; what training logs stands above it.

    Yields:
        What shows a training step, and what shows how many images of how many are read before the first one.
    """
    from rich.console import Console
    from rich.logging import RichHandler
    from rich.progress import BarColumn, Progress, TextColumn

    console, log = Console(stderr=True), logging.getLogger("fcn_edge.training")
    handler = RichHandler(console=console, show_time=False, show_level=False, show_path=False)
    handler.setFormatter(_Shown("%(message)s"))
    with Progress(BarColumn(), TextColumn("{task.description}"), console=console) as progress:
        task = progress.add_task("starting", total=1.0)

        def show(state: TrainingProgress) -> None:
            miou = "-" if state.miou is None else f"{state.miou:.4f}"
            left = f"{state.seconds_left / 60:.1f} min left"
            text = f"epoch {state.epoch} loss {state.loss:.4f} mIoU {miou} {state.images_per_s:.1f} images/s {left}"
            progress.update(task, description=text, completed=state.fraction)

        def show_read(done: int, total: int) -> None:
            progress.update(task, description=f"reading {done}/{total}" if done < total else "starting")

        level = log.level
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            yield show, show_read
        finally:
            log.removeHandler(handler)
            log.setLevel(level)
