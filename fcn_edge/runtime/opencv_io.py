"""How OpenCV's video input and output are configured and kept quiet; knows nothing about frames."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType

from ..pixels import require_cv2


@contextlib.contextmanager
def quiet_cv2() -> Iterator[ModuleType]:
    """OpenCV with its log and FFmpeg's switched off: what they have to say is said in our exceptions.

    FFmpeg's log level is read by OpenCV once, from the environment; a level that the user has set is left alone.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2 = require_cv2()
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield cv2
    finally:
        cv2.utils.logging.setLogLevel(level)


def has_backend(cv2: ModuleType, api: int) -> bool:
    """Whether this build of OpenCV has a video backend, such as ``cv2.CAP_FFMPEG`` or ``cv2.CAP_GSTREAMER``."""
    registry = cv2.videoio_registry
    # getBackends also lists plugins that are not there; OpenCV before 4.7 can only tell the list.
    return bool(registry.hasBackend(api)) if hasattr(registry, "hasBackend") else api in registry.getBackends()
