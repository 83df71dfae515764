"""The thread that reads a source while it is streamed, and the slots frames cross in; knows nothing about engines."""

from __future__ import annotations

import math
import threading
from collections import deque
from types import TracebackType

from ..errors import UsageError
from .frame import Frame
from .source import Source

FILE_SLOTS = 2  # decode the next while one is worked on
LIVE_SLOTS = 1  # the newest frame is the only one that people care about
JOIN_TIMEOUT_S = 2.0


class Reader:
    """Reads a source ahead in a thread: from a file no frame is lost, of a live source the newest is kept.

    A context manager: it reads from where it is entered to where it is left, which takes 2 s where a camera blocks.

    Args:
        source: read by this thread alone until the reader is left; it is not closed.
        every_s: seconds from a frame of a live source that was taken to the next at least; those between are dropped.

    Raises:
        UsageError: if ``every_s`` is not more than 0, or given for a source that loses no frame.
    """

    def __init__(self, source: Source, every_s: float | None = None) -> None:
        if every_s is not None and not 0 < every_s < math.inf:
            raise UsageError(f"a frame every {every_s} s makes no sense; give more than 0")
        if every_s is not None and not source.is_live:
            raise UsageError(
                f"{source.name} loses no frame, so --every (every_s) can leave none out; it is for cameras"
            )
        self._source = source
        self._every_ns = round((every_s or 0) * 1e9)
        self._due_ns = 0
        self._frames: deque[Frame] = deque()
        self._slots = LIVE_SLOTS if source.is_live else FILE_SLOTS
        self._changed = threading.Condition()
        self._dropped = 0
        self._next_index = 0
        self._stopping = False
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read_all, name="fcn-edge-reader", daemon=True)

    @property
    def has_ended(self) -> bool:
        """Whether the source has ended without an error, which the next ``take`` raises, and every frame was taken."""
        with self._changed:
            return self._ended and not self._frames and self._error is None

    def take(self, timeout_s: float) -> tuple[Frame | None, int]:
        """The next frame, or None if there was none in time or the source has ended; and how many were dropped so far.

        Args:
            timeout_s: how many seconds to wait for one; 0: not at all.

        Raises:
            Exception: what the source raised, after the frames before it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._ended, timeout_s)
            if self._frames:
                frame = self._frames.popleft()
                self._due_ns = frame.captured_ns + self._every_ns
                self._changed.notify_all()
                return frame, self._dropped
            if self._error is not None:
                raise self._error
            return None, self._dropped

    def _read_all(self) -> None:
        try:
            while not self._stopping and (frame := self._source.read()) is not None:
                self._put(frame)
        except BaseException as exc:  # noqa: BLE001
            self._error = exc  # raised again by take, in the stream's thread
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _put(self, frame: Frame) -> None:
        with self._changed:
            if self._source.is_live:
                self._dropped += frame.index - self._next_index if self._next_index else 0  # the source lost these
                self._next_index = frame.index + 1
                if frame.captured_ns < self._due_ns:
                    self._dropped += 1
                    return
                if len(self._frames) == self._slots:
                    self._frames.popleft()
                    self._dropped += 1
            else:
                self._changed.wait_for(lambda: len(self._frames) < self._slots or self._stopping)
            self._frames.append(frame)
            self._changed.notify_all()

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        # A camera may block in its read; the thread is a daemon and is left behind then.
        self._thread.join(JOIN_TIMEOUT_S)
