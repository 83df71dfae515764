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

    Args:
        paths: the files, at least one.
        name: for messages.
        fps: rate to play at; None: 15.
        skip_unreadable: whether images that cannot be read are left out, and told of in ``note``.

    Raises:
        SourceError: if the first image cannot be read, or with ``skip_unreadable`` none; the message names the file.
    """

    def __init__(
        self, paths: Sequence[Path], name: str, fps: float | None = None, skip_unreadable: bool = False
    ) -> None:
        super().__init__(name, fps or DEFAULT_FPS, (0, 0), len(paths))
        self._paths = sorted(paths, key=natural_key)
        self._names = _names(self._paths)
        self._skips = skip_unreadable
        self._skipped = 0
        self._first = self._next_image()
        if self._first is None:
            raise SourceError(f"nothing to show in {name}: {self.note}")
        height, width = self._first.shape[:2]
        self.size_hw = (height, width)

    def read(self) -> Frame | None:
        """The next image, or None after the last.

        Raises:
            SourceError: if it cannot be read; the message names the file, and the next call goes on behind it.
        """
        image = self._first if self._first is not None else self._next_image()
        self._first = None
        return self._frame(image, self._names[self._next_index]) if image is not None else None

    def _next_image(self) -> Image | None:
        """The next image that can be read, whose number the next index then is."""
        while self._next_index < len(self._paths):
            try:
                return _read(self._paths[self._next_index])
            except SourceError as exc:
                self._next_index += 1
                if not self._skips:
                    raise
                self._skipped += 1
                last = f"the last: {exc}" if self._skipped > 1 else str(exc)
                self.note = f"{self._skipped} of {len(self._paths)} images could not be read; {last}"
        return None


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
