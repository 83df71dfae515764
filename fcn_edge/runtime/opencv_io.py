"""How OpenCV's video input and output are configured and kept quiet; knows nothing about frames."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from ..pixels import require_cv2

SILENT = 0  # LOG_LEVEL_SILENT, which OpenCV 4 does not name
LONGEST_READ_S = 6.0  # what FFmpeg's time-out of 5 s lets a read take


@contextlib.contextmanager
def quiet_cv2() -> Iterator[ModuleType]:
    """OpenCV with its log and FFmpeg's switched off: what they have to say is said in our exceptions.

    FFmpeg's log level is read by OpenCV once, from the environment; a level that the user has set is left alone.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2 = require_cv2()
    _SILENCE.begin(cv2)
    try:
        yield cv2
    finally:
        _SILENCE.end(cv2)


class _Silence:
    """OpenCV's log level, which all threads share: the first to ask for silence sets it, the last one restores it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_over = False
        self._asking = 0
        self._level = 0

    def begin(self, cv2: ModuleType) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_over or threading.current_thread() is threading.main_thread())
            if self._asking == 0:
                self._level = _set_log_level(cv2, SILENT)
            self._asking += 1

    def end(self, cv2: ModuleType) -> None:
        with self._changed:
            self._asking -= 1
            if self._asking == 0:
                _set_log_level(cv2, self._level)
                self._changed.notify_all()

    def finish(self, timeout_s: float) -> None:
        """Let no other thread begin any more, and wait until those that have begun are through."""
        with self._changed:
            self._is_over = True
            self._changed.wait_for(lambda: self._asking == 0, timeout_s)


def _set_log_level(cv2: ModuleType, level: int) -> int:
    """Set OpenCV's log level; gives the one before. OpenCV 5 has moved the function."""
    logging = getattr(cv2.utils, "logging", cv2)
    before: int = logging.setLogLevel(level)
    return before


_SILENCE = _Silence()  # OpenCV has one level for the whole process


@atexit.register
def _wait_for_reads() -> None:
    """Let threads come back from OpenCV: Python before 3.14 ends them there, and OpenCV then aborts the process."""
    with contextlib.suppress(KeyboardInterrupt):
        _SILENCE.finish(LONGEST_READ_S)


def is_utf8(name: str | Path) -> bool:
    """Whether a name can be written; OpenCV crashes on what Python holds of bytes that are no UTF-8."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return False
    return True


def has_backend(cv2: ModuleType, api: int) -> bool:
    """Whether this build of OpenCV has a video backend, such as ``cv2.CAP_FFMPEG`` or ``cv2.CAP_GSTREAMER``."""
    registry = cv2.videoio_registry
    # getBackends also lists plugins that are not there; OpenCV before 4.7 can only tell the list.
    return bool(registry.hasBackend(api)) if hasattr(registry, "hasBackend") else api in registry.getBackends()
