"""What travels along a stream, a frame and its result; knows nothing about where they come from or go to."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ..pixels import Image, Labels


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame as a source gave it.

    Attributes:
        image_bgr: uint8 ``[height, width, 3]``; it belongs to the frame, a source never writes to it again.
        index: its number in the source, from 0; dropped frames are counted too.
        captured_ns: ``time.monotonic_ns()`` at which it was in host memory.
        name: what a file made from it is called: an image's own stem, else the index.
        is_live: whether it is a camera's, so that the time to the next one is the world's.
    """

    image_bgr: NDArray[Any]
    index: int
    captured_ns: int
    name: str
    is_live: bool = False

    def captured_utc(self) -> datetime.datetime:
        """The clock's time at capture, if it has not been set since."""
        age = datetime.timedelta(microseconds=(time.monotonic_ns() - self.captured_ns) / 1e3)
        return datetime.datetime.now(datetime.timezone.utc) - age


@dataclass(frozen=True, eq=False)
class Result:
    """A frame with what was found in it, as a sink gets it.

    Attributes:
        frame: the frame.
        labels: uint8 ``[height, width]`` class ids, of the frame's size.
        picture_bgr: uint8 ``[height, width, 3]``, drawn for people; None if the sink needs none.
        dropped: frames lost since the result before this one.
    """

    frame: Frame
    labels: Labels
    picture_bgr: Image | None
    dropped: int
