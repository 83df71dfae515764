"""A recording in parts, each a file of its own; knows nothing about what is in them."""

from __future__ import annotations

import datetime
import itertools
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import UsageError
from .frame import Frame, Result
from .measure import StreamStatus
from .sink import Sink

SHORTEST_S = 1.0


class PartsSink(Sink):
    """Begins a new file whenever one is full, so that a recording of days can be kept, copied and deleted by parts.

    A part is named by when its first frame was captured (UTC): ``out.mp4`` becomes ``out-20261127T040512Z.mp4``, with
    ``-2`` behind it where that is taken. None is ever replaced. A power cut costs the last part at most.

    Args:
        path: the name that parts are named after.
        seconds: length of a part: of a camera's in time, of other frames at ``fps``; 1 or more.
        fps: rate at which frames that are not a camera's play.
        open_part: opens a part.

    Raises:
        UsageError: if ``seconds`` is too short.
        Exception: what ``open_part`` raises.
    """

    def __init__(self, path: Path, seconds: float, fps: float, open_part: Callable[[Path], Sink]) -> None:
        if not seconds >= SHORTEST_S:
            raise UsageError(f"parts of {seconds:g} s were asked for; expected {SHORTEST_S:g} s or more")
        self._path, self._seconds, self._fps, self._open_part = path, seconds, fps, open_part
        now = datetime.datetime.now(datetime.timezone.utc)
        self.needs_picture = open_part(self._free_name(now)).needs_picture  # and refuses now what it would refuse later
        self._part: Sink | None = None
        self._is_live = False
        self._began_ns = 0
        self._frames = 0

    def write(self, result: Result) -> None:
        """Append to the part, or to a new one if it is full.

        Raises:
            SinkError: if the part cannot be finished, or a new one not begun or written to, or the sink is closed.
        """
        self._require_open(self._path)
        frame = result.frame
        if self._part is not None and self._length_s(frame) >= self._seconds:
            self._finish_part()
        if self._part is None:
            self._part = self._open_part(self._free_name(frame.captured_utc()))
            self._is_live, self._began_ns, self._frames = frame.is_live, frame.captured_ns, 0
        self._frames += 1
        self._part.write(result)

    def tell(self, status: StreamStatus) -> None:
        """Finish a camera's part that is full though no further frame comes, as while the camera is away."""
        if self._part is None:
            return
        self._part.tell(status)
        if self._is_live and time.monotonic_ns() - self._began_ns >= self._seconds * 1e9:
            self._finish_part()

    def close(self, keep: bool = True) -> None:
        """Finish the part, or with ``keep=False`` discard it; those before it stay."""
        self._is_closed = True
        self._finish_part(keep)

    def _finish_part(self, keep: bool = True) -> None:
        part, self._part = self._part, None
        if part is not None:
            part.close(keep)

    def _length_s(self, frame: Frame) -> float:
        """How long the part is before this frame."""
        return (frame.captured_ns - self._began_ns) * 1e-9 if frame.is_live else self._frames / self._fps

    def _free_name(self, begin: datetime.datetime) -> Path:
        stem = f"{self._path.stem}-{begin:%Y%m%dT%H%M%SZ}"
        names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
        return next(path for name in names if not (path := self._path.with_stem(name)).exists())
