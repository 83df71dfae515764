"""A window as a sink; knows nothing about files."""

from __future__ import annotations

import os
import sys

from ..errors import MissingError
from ..pixels import require_cv2
from .frame import Result
from .measure import StreamStatus
from .sink import Sink

_STOP_KEYS = (27, ord("q"))
_SHOWN_HEIGHTS = (540, 900)  # what a screen has room for, and what one can see something in


class WindowSink(Sink):
    """Shows pictures in a window; ``q``, Esc or closing it asks the stream to stop.

    Args:
        title: title of the window.

    Raises:
        MissingError: if there is no screen, or this build of OpenCV has no windows.
    """

    def __init__(self, title: str) -> None:
        # Qt ends the whole process where there is no screen, so OpenCV must not be asked.
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise MissingError("there is no screen to show a window on (DISPLAY is not set); stream to a file instead")
        cv2 = require_cv2()
        self._title = title
        try:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        except cv2.error as exc:
            raise MissingError(
                "this build of OpenCV has no windows; install one with them: pip install opencv-python"
            ) from exc
        self._size_hw = (0, 0)

    def write(self, result: Result) -> None:
        """Show the picture and look for a key.

        Raises:
            SinkError: if the sink is closed.
        """
        self._require_open("the window")
        if result.picture_bgr is not None:
            self._fit(result.picture_bgr.shape[0], result.picture_bgr.shape[1])
            require_cv2().imshow(self._title, result.picture_bgr)
            self._look_for_key()

    def tell(self, status: StreamStatus) -> None:
        """Look for a key, as the window must answer also while the source gives nothing."""
        if not self._is_closed and status.frames_out:
            self._look_for_key()

    def _fit(self, height: int, width: int) -> None:
        """Give the window the shape of pictures of a new size, small ones enlarged; the user may change it then."""
        if (height, width) != self._size_hw:
            self._size_hw = (height, width)
            shown = min(max(height, _SHOWN_HEIGHTS[0]), _SHOWN_HEIGHTS[1])
            require_cv2().resizeWindow(self._title, max(1, round(width * shown / height)), shown)  # (width, height)

    def _look_for_key(self) -> None:
        cv2 = require_cv2()
        key = cv2.waitKey(1)
        visible = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
        self.wants_stop = self.wants_stop or key in _STOP_KEYS or not visible

    def close(self, keep: bool = True) -> None:
        """Close the window."""
        if not self._is_closed:
            self._is_closed = True
            cv2 = require_cv2()
            try:
                cv2.destroyWindow(self._title)
            except cv2.error:  # the user has closed it
                return
