"""Where frames come from: what every source can do and how one is opened; knows nothing about engines and sinks."""

from __future__ import annotations

import abc
import glob
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from ..errors import SourceError, UsageError
from ..pixels import IMAGE_SUFFIXES, Image, turned
from ..redact import redact
from .frame import Frame
from .measure import Link
from .own_camera import is_own_camera

ROTATIONS = (90, 180, 270)
NETWORK_SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt")
_Source = TypeVar("_Source", bound="Source")  # typing.Self needs Python 3.11
_EXPECTED = (
    "a video file, a folder or glob of images, a camera (0, /dev/video0, csi://0, rtsp://...), synthetic://street"
)


class Source(abc.ABC):
    """Frames, one after another; a context manager that frees the device or file.

    ``for frame in source`` ends where the source ends. One thread reads it at a time.

    Attributes:
        name: what it was opened from, without passwords: fit for logs and reports.
        fps: frames for each second that it plays at.
        size_hw: (height, width) of its first frame; later ones may differ.
        frame_count: how many frames it has as far as is known beforehand; None if endless.
        is_live: whether frames are lost when nobody reads them.
        note: a sentence on how it ended, where there is something to say; else empty.
        link: how it is connected to what it reads; its counts are those since it was opened.
    """

    def __init__(
        self, name: str, fps: float, size_hw: tuple[int, int], frame_count: int | None, is_live: bool = False
    ) -> None:
        self.name = name
        self.fps = fps
        self.size_hw = size_hw
        self.frame_count = frame_count
        self.is_live = is_live
        self.note = ""
        self.link = Link()
        self._next_index = 0
        self._rotation = 0

    @abc.abstractmethod
    def read(self) -> Frame | None:
        """The next frame, or None at the end.

        Raises:
            SourceError: if the next frame is there but cannot be read.
        """

    def rotate(self, degrees: int) -> None:
        """Turn the frames from now on clockwise, by 90, 180 or 270 degrees."""
        self._rotation = degrees
        self.size_hw = self._turned_size(self.size_hw)

    def close(self) -> None:  # noqa: B027
        """Free what the source holds; may be called more than once."""

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame

    def __enter__(self: _Source) -> _Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _frame(self, image_bgr: Image, name: str = "") -> Frame:
        """Number and time-stamp an image that has just arrived."""
        index, captured_ns = self._next_index, time.monotonic_ns()
        self._next_index += 1
        image_bgr = turned(image_bgr, self._rotation) if self._rotation else image_bgr
        return Frame(image_bgr, index, captured_ns, name or f"{index:06d}", self.is_live)

    def _turned_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        return size_hw[::-1] if self._rotation in (90, 270) else size_hw


def open_source(
    spec: str | Path,
    *,
    fps: float | None = None,
    max_reconnects: int | None = None,
    camera_size_hw: tuple[int, int] | None = None,
    rotate: int = 0,
    skip_unreadable: bool = False,
) -> Source:
    """Open a source of frames.

    Args:
        spec: a video file, a folder of images or a glob (in natural order of their names), one image, a camera (``0``,
            ``/dev/video0``, ``csi://0``, ``rtsp://...``), or
            ``synthetic://street[?seed=0&size=360x480&fps=30&frames=300&live=1]``, endless unless ``frames`` is given;
            ``env:NAME`` stands for what that environment variable holds, such as an address with a password.
        fps: rate to play at, in place of the source's own (a video file) or of 15 (images); of a camera on this
            machine the rate to ask it for.
        max_reconnects: tries in a row to open a camera again that was lost; None: as many as it takes.
        camera_size_hw: (height, width) to ask a camera on this machine for; None: 720x1280 of ``csi://``, what it
            likes of a USB camera, often 480x640.
        rotate: degrees, 90, 180 or 270, to turn frames by, clockwise; 0: none.
        skip_unreadable: leave out what cannot be read of several images, and tell of it in ``note``.

    Returns:
        The opened source; close it, or use it in a ``with``.

    Raises:
        UsageError: if ``fps``, ``camera_size_hw`` or ``rotate`` cannot be used.
        SourceError: if ``spec`` means nothing, or something that is not there, is broken, does not answer or has no
            frames of that size.
        MissingError: if OpenCV is not installed.
    """
    if fps is not None and not 0 < fps <= 1000:
        raise UsageError(f"a source cannot play at {fps} frames a second; give more than 0 and at most 1000")
    if rotate not in (0, *ROTATIONS):
        raise UsageError(f"frames cannot be turned by {rotate} degrees; give one of {', '.join(map(str, ROTATIONS))}")
    text = _from_environment(str(spec))
    if is_own_camera(text):
        from .source_video import open_camera

        source = open_camera(text, max_reconnects, camera_size_hw, fps)
    elif camera_size_hw:
        raise UsageError(
            f"{redact(text)} has the size that it has; a size can be asked of a camera on this machine (0, "
            "/dev/video0, csi://0), a network camera's is set in its own pages"
        )
    else:
        try:
            source = _open(text, fps, max_reconnects, skip_unreadable)
        except OSError as exc:
            reason = exc.strerror or exc
            raise SourceError(f"source {redact(text)} cannot be opened: {reason}; expected {_EXPECTED}") from exc
    if rotate:
        source.rotate(rotate)
    return source


def _from_environment(text: str) -> str:
    """The source, or the one that an environment variable names: a command line is seen by all users of a machine."""
    if not text.startswith("env:"):
        return text
    name = text.removeprefix("env:")
    value = os.environ.get(name)
    if not value:
        raise SourceError(f"the environment variable '{name}' is not set or empty; expected {_EXPECTED} in it")
    return value


def _open(text: str, fps: float | None, max_reconnects: int | None, skip_unreadable: bool) -> Source:
    """Open what is no camera on this machine."""
    if not text:
        raise SourceError(f"the source is empty; expected {_EXPECTED}")
    scheme, has_scheme, rest = text.partition("://")
    if has_scheme:
        return _open_url(text, scheme.lower(), rest, fps, max_reconnects)
    path = Path(text)
    if not path.exists() and glob.has_magic(text):
        # glob.glob, as Path.glob takes no absolute pattern.
        paths = [Path(found) for found in glob.glob(text, recursive=True)]  # noqa: PTH207
        nothing = f"no image matches {redact(text)}; quote the glob so that the shell leaves it"
        return _open_images(paths, text, nothing, fps, skip_unreadable)
    if path.is_dir():
        return _open_images(list(path.iterdir()), text, f"folder {text} holds no image", fps, skip_unreadable)
    if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
        return _open_images([path], text, "", fps, False)
    if path.exists() and not path.is_file():
        raise SourceError(f"source {redact(text)} is no regular file; expected {_EXPECTED}")
    if not path.is_file():
        raise SourceError(f"source {redact(text)} does not exist; expected {_EXPECTED}")
    from .source_video import open_video

    return open_video(path, fps)


def _open_url(text: str, scheme: str, rest: str, fps: float | None, max_reconnects: int | None) -> Source:
    if scheme == "synthetic":
        from .source_synthetic import open_synthetic

        return open_synthetic(rest, fps)
    if scheme in NETWORK_SCHEMES:
        from .source_video import open_camera

        return open_camera(text, max_reconnects, fps=fps)
    raise SourceError(f"source {redact(text)} has the unknown scheme {scheme}://; expected {_EXPECTED}")


def _open_images(paths: list[Path], name: str, nothing: str, fps: float | None, skip_unreadable: bool) -> Source:
    images = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    if not images:
        raise SourceError(f"{nothing} ({len(paths)} other files); expected {', '.join(IMAGE_SUFFIXES)}")
    from .source_images import ImageSource

    return ImageSource(images, name, fps, skip_unreadable)
