"""A folder or glob of images as a source; knows nothing about video."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError, SourceError
from ..pixels import Image, read_image
from .frame import Frame
from .source import Source

DEFAULT_FPS = 15.0


class ImageSource(Source):
    """Images in natural order of their paths (``2.png`` before ``10.png``); their sizes may differ.

    The first is read when the source is opened, so that what is no image at all fails before a sink is made.

    Raises:
        SourceError: if the first image cannot be read; the message names the file.
    """

    def __init__(self, paths: Sequence[Path], name: str, fps: float | None = None) -> None:
        self._paths = sorted(paths, key=natural_key)
        self._names = _names(self._paths)
        self._first: Image | None = _read(self._paths[0])
        height, width = self._first.shape[:2]
        super().__init__(name, fps or DEFAULT_FPS, (height, width), len(self._paths))

    def read(self) -> Frame | None:
        """The next image, or None after the last.

        Raises:
            SourceError: if it cannot be read; the message names the file.
        """
        index = self._next_index
        if index == len(self._paths):
            return None
        image = self._first if self._first is not None else _read(self._paths[index])
        self._first = None
        return self._frame(image, self._names[index])


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for each: its stem, with its place behind it where several have that; all differ."""
    stems = Counter(path.stem for path in paths)
    names = []
    for index, path in enumerate(paths):
        name = path.stem
        if stems[name] > 1:
            name = f"{name}_{index:06d}"
            while name in stems:
                name += "_"
        names.append(name)
    return names


def natural_key(path: Path) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Sorts digits by their value and letters by case-folded text: ``a2`` < ``a10`` < ``b1``."""
    parts = re.split(r"(\d+)", str(path).casefold())
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part), str(path)


def _read(path: Path) -> Image:
    try:
        return read_image(path)
    except DataError as exc:
        raise SourceError(str(exc)) from exc
