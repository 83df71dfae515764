"""A folder as a sink, two PNGs for each frame; knows nothing about video."""

from __future__ import annotations

from pathlib import Path

from ..errors import SinkError, UsageError
from ..pixels import write_png
from .frame import Result
from .sink import Sink


class FolderSink(Sink):
    """Writes ``NAME_overlay.png`` (the picture) and ``NAME_labels.png`` (class ids, uint8) for each frame.

    Each file appears whole or not at all. With ``force`` files of the same name are replaced, others are left alone.

    Args:
        path: the folder; it is made when the first result is written.
        force: whether the folder may hold files already.

    Raises:
        UsageError: if it is a file, or holds files and ``force`` is not given.
    """

    def __init__(self, path: Path, force: bool = False) -> None:
        if path.exists() and not path.is_dir():
            raise UsageError(f"sink {path} is a file; expected a folder, or a name that ends in .mp4 for a video")
        if path.is_dir() and not force and any(path.iterdir()):
            raise UsageError(f"folder {path} is not empty; choose another or overwrite with --force")
        self._path = path

    def write(self, result: Result) -> None:
        """Write the two files.

        Raises:
            SinkError: if the disk is full or does not let us, or the sink is closed.
        """
        self._require_open(self._path)
        try:
            write_png(self._path / f"{result.frame.name}_labels.png", result.labels)
            if result.picture_bgr is not None:
                write_png(self._path / f"{result.frame.name}_overlay.png", result.picture_bgr)
        except OSError as exc:
            raise SinkError(
                f"frame {result.frame.index} cannot be written to {self._path} ({exc.strerror or exc}); "
                "check its permissions and that the disk has room"
            ) from exc

    def close(self, keep: bool = True) -> None:
        """Take no more; the files stay, as each is whole."""
        self._is_closed = True
