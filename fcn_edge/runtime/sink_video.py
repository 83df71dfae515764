"""A video file as a sink; knows nothing about what is drawn."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SinkError, UsageError
from ..files import flush_soon, replaced
from ..pixels import Image, fit_image, require_cv2
from .frame import Result
from .opencv_io import has_backend, is_utf8, quiet_cv2
from .sink import Sink

CODECS = {".mp4": ("avc1", "mp4v"), ".mov": ("avc1", "mp4v"), ".mkv": ("avc1", "mp4v"), ".avi": ("MJPG",)}
"""Codecs to try for each kind of file, the best first: pip's OpenCV has no H.264 encoder, a Jetson's has."""

MIN_FREE_BYTES, _INDEX_BYTES = 16 * 2**20, 16
"""Room left on the disk below which writing stops, and so much more for each frame: an mp4's index, without which it
does not play, has 4 to 12 bytes a frame."""

_AWAY_S = 2.0
_AHEAD_S = 1.0


class VideoSink(Sink):
    """Writes pictures into a video that appears under its name when the sink is closed, playable, or not at all.

    The first picture sets the size: rounded up to even sides, as video codecs want; later ones are resized to it.
    A picture of a camera is repeated until the next one is due, so that a recording plays no faster than what it shows.
    Where none came for 2 s the camera was away, and nothing is repeated. Of one that is faster than the rate, pictures
    are left out once the recording is a second longer than what it shows; so none of a short burst is.

    Args:
        path: the file; its suffix is a key of ``CODECS``.
        fps: rate at which it plays.
        force: whether it may exist.

    Raises:
        UsageError: if it exists and ``force`` is not given, it is a folder, or its name is no UTF-8.
        MissingError: if OpenCV is not installed.
    """

    def __init__(self, path: Path, fps: float, force: bool = False) -> None:
        if path.is_dir():
            raise UsageError(f"sink {path} is a folder; choose another name for the video")
        if path.exists() and not force:
            raise UsageError(f"{path} exists; choose another name or overwrite it with --force")
        if not is_utf8(path.absolute()):
            raise UsageError(f"the name of {str(path)!r} is no UTF-8, which OpenCV expects; choose another name")
        require_cv2()
        self._path = path
        self._may_replace = force
        # What the containers' time bases can hold: MPEG-4 has no denominator above 65535, and OpenCV takes up to 1000.
        held = min(max(fps, 0.1), 240.0)
        self._fps = round(held, 2) if held > 65 else held
        self._files = contextlib.ExitStack()
        self._writer: Any = None
        self._temporary = path
        self._size_hw = (0, 0)
        self._written = 0
        self._latest: Image = np.empty(0, np.uint8)
        self._began_ns = 0

    def write(self, result: Result) -> None:
        """Append the picture.

        Raises:
            SinkError: if the disk is nearly full, its folder is gone, there is no encoder, or the sink is closed.
        """
        self._require_open(self._path)
        if result.picture_bgr is None:
            raise SinkError(f"frame {result.frame.index} came without a picture to write to {self._path}")
        if self._writer is None:
            self._open(result.picture_bgr)
        missing = self._missing(result.frame.captured_ns) if result.frame.is_live else 0
        if missing < -_AHEAD_S * self._fps:
            return
        for _ in range(missing):
            self._append(self._latest)
        self._latest = _fit(result.picture_bgr, self._size_hw)
        self._append(self._latest)

    def _missing(self, captured_ns: int) -> int:
        """How many pictures are due before one of that time; less than 0 if that many too many are there."""
        if not self._written:
            self._began_ns = captured_ns
        missing = math.floor((captured_ns - self._began_ns) * 1e-9 * self._fps) - self._written
        if missing <= _AWAY_S * self._fps:
            return missing
        self._began_ns += round(missing / self._fps * 1e9)
        return 0

    def _append(self, picture: Image) -> None:
        self._check_room()
        self._writer.write(picture)
        self._written += 1

    def close(self, keep: bool = True) -> None:
        """Finish the file and give it its name, or with ``keep=False`` remove it.

        Raises:
            SinkError: if the finished file lacks frames, or has another name as its own is taken by now.
        """
        self._is_closed = True
        writer, self._writer = self._writer, None
        if writer is None:
            return
        with quiet_cv2():
            writer.release()
        try:
            with self._files:  # leaving it without an exception renames the file, with one removes it
                if not keep:
                    raise _DiscardedError
                self._check_whole()
                if not self._may_replace:
                    self._take_name()
        except _DiscardedError:
            return
        except OSError as exc:
            raise SinkError(f"{self._path} cannot be finished: {exc.strerror or exc}") from exc
        flush_soon(self._path)

    def _open(self, first: Image) -> None:
        height, width = first.shape[:2]
        self._size_hw = (height + height % 2, width + width % 2)
        try:
            self._temporary = self._files.enter_context(replaced(self._path))
        except OSError as exc:
            raise SinkError(f"{self._path} cannot be written: {exc.strerror or exc}; choose another place") from exc
        with quiet_cv2() as cv2:
            api = cv2.CAP_FFMPEG if has_backend(cv2, cv2.CAP_FFMPEG) else cv2.CAP_ANY
            for codec in CODECS[self._path.suffix.lower()]:
                shape_wh = self._size_hw[::-1]  # cv2 sizes are (width, height)
                writer = cv2.VideoWriter(str(self._temporary), api, cv2.VideoWriter_fourcc(*codec), self._fps, shape_wh)
                if writer.isOpened():
                    self._writer = writer
                    return
        self._files.__exit__(_DiscardedError, _DiscardedError(), None)
        raise SinkError(
            f"OpenCV {cv2.__version__} cannot write {self._path.suffix} at {self._size_hw[0]}x{self._size_hw[1]} "
            f"(tried {', '.join(CODECS[self._path.suffix.lower()])}); write to a folder instead"
        )

    def _check_room(self) -> None:
        """Stop while there is room for the index: ``cv2.VideoWriter.write`` does not tell that a disk is full."""
        try:
            free = shutil.disk_usage(self._temporary.parent).free
        except OSError as exc:
            raise SinkError(
                f"the folder of {self._path} cannot be written to any more (frame {self._written}): "
                f"{exc.strerror or exc}; check that it is there, and start again"
            ) from exc
        needed = MIN_FREE_BYTES + _INDEX_BYTES * self._written
        if free < needed:
            raise SinkError(
                f"the disk of {self._path} has {free / 2**20:.0f} MiB left, a video needs {needed >> 20} more "
                f"to be finished (frame {self._written}); make room or write elsewhere"
            )

    def _take_name(self) -> None:
        """Give the file its name by a link, which replaces nothing; or another name, if that is taken by now.

        Raises:
            SinkError: if it has another name.
        """
        for number in itertools.count(1):
            path = self._path if number == 1 else self._path.with_name(f"{self._path.stem}-{number}{self._path.suffix}")
            try:
                os.link(self._temporary, path)
            except FileExistsError:
                continue
            except OSError:  # a disk without hard links, such as a USB stick's
                if path.exists():
                    continue
                if number > 1:
                    self._temporary.rename(path)
            if number == 1:
                return
            flush_soon(path)
            raise SinkError(
                f"{self._path} was written by another program meanwhile and is not replaced; this recording is {path}"
            )

    def _check_whole(self) -> None:
        """Read the count of frames back: the writer tells neither failed writes nor a missing index."""
        with quiet_cv2() as cv2:
            capture = cv2.VideoCapture(str(self._temporary))
            found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
            capture.release()
        if found != self._written:
            raise SinkError(
                f"{self._path} would hold {found} of {self._written} frames and is discarded; "
                "check that the disk has room"
            )


class _DiscardedError(Exception):
    """Tells ``replaced`` to remove the file."""


def _fit(picture_bgr: Image, size_hw: tuple[int, int]) -> Image:
    """The picture at the video's size: its last row or column repeated if that is all it lacks, else resized."""
    height, width = picture_bgr.shape[:2]
    below, right = size_hw[0] - height, size_hw[1] - width
    if below == right == 0:
        return picture_bgr
    if 0 <= below <= 1 and 0 <= right <= 1:
        cv2 = require_cv2()
        padded: Image = cv2.copyMakeBorder(picture_bgr, 0, below, 0, right, cv2.BORDER_REPLICATE)
        return padded
    return fit_image(picture_bgr, size_hw)
