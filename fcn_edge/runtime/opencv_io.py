"""How OpenCV's video input and output are configured and kept quiet; knows nothing about frames."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from ..pixels import require_cv2

SILENT = 0  # LOG_LEVEL_SILENT, which OpenCV 4 does not name


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
        self._lock = threading.Lock()
        self._asking = 0
        self._level = 0

    def begin(self, cv2: ModuleType) -> None:
        with self._lock:
            if self._asking == 0:
                self._level = _set_log_level(cv2, SILENT)
            self._asking += 1

    def end(self, cv2: ModuleType) -> None:
        with self._lock:
            self._asking -= 1
            if self._asking == 0:
                _set_log_level(cv2, self._level)


def _set_log_level(cv2: ModuleType, level: int) -> int:
    """Set OpenCV's log level; gives the one before. OpenCV 5 has moved the function."""
    logging = getattr(cv2.utils, "logging", cv2)
    before: int = logging.setLogLevel(level)
    return before


_SILENCE = _Silence()  # OpenCV has one level for the whole process


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
