"""How far TensorRT's builder is, as one number, and how it is stopped; knows nothing about networks or bars."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

SCALE = 1000


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Phases:
    """The builder's nested phases, as its monitor is told of them.

    A phase of n steps is done by k/n when k steps are, and by a share of 1/n more while a phase inside it runs.
    TensorRT may start a phase's name again and run several beside each other; what is shown never goes back.
    """

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()
        self._shown = 0

    def start(self, name: str, parent: str | None, steps: int) -> int:
        """A phase begins; returns how much is done, of ``SCALE``."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(1, steps))
            return self._progress()

    def step(self, name: str, index: int) -> int:
        """Step ``index``, from 0, of a phase is done."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = index + 1
            return self._progress()

    def finish(self, name: str) -> int:
        """A phase is over."""
        with self._lock:
            phase = self._phases.pop(name, None)
            if phase is not None and phase.parent is None:
                self._shown = SCALE
            return self._progress()

    def _progress(self) -> int:
        tops = [self._share(name) for name, phase in self._phases.items() if phase.parent is None]
        self._shown = max(self._shown, int(SCALE * min(tops, default=0.0)))
        return self._shown

    def _share(self, name: str) -> float:
        phase = self._phases[name]
        inside = max((self._share(other) for other, inner in self._phases.items() if inner.parent == name), default=0.0)
        return min(1.0, (phase.done + min(inside, 0.999)) / phase.steps)


def open_monitor(trt: ModuleType, on_progress: Callable[[int, int], None] | None) -> Any:
    """An ``IProgressMonitor`` that calls ``on_progress(done, total)`` and stops the build once ``cancelled`` is set.

    What ``on_progress`` raises stops it too, and is kept as ``failure``, to be raised when the builder has stopped.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Called by TensorRT, from any of its threads."""

        def __init__(self) -> None:
            super().__init__()
            self.cancelled = False
            self.failure: BaseException | None = None
            self._phases = Phases()

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            """A phase begins."""
            self._show(self._phases.start(name, parent, steps))

        def phase_finish(self, name: str) -> None:
            """A phase is over."""
            self._show(self._phases.finish(name))

        def step_complete(self, name: str, index: int) -> bool:
            """Part of a phase is done; False stops the build."""
            self._show(self._phases.step(name, index))
            return not self.cancelled

        def _show(self, done: int) -> None:
            if on_progress and not self.cancelled:
                try:
                    on_progress(done, SCALE)
                except BaseException as exc:  # noqa: BLE001 - an exception may not cross TensorRT's own frames
                    self.failure, self.cancelled = self.failure or exc, True

    return Monitor()
