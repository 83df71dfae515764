"""Which image files a folder, a data set or a glob names, and a hash of them; reads no pixel."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ..dataset import open_dataset
from ..errors import DataError, UsageError
from ..pixels import IMAGE_SUFFIXES


def frame_files(where: str | Path) -> tuple[Path, ...]:
    """Image files in the order of their names: of a folder, of a data set's split ``train``, or of a glob.

    Raises:
        UsageError: if there are none, or a file or folder cannot be read.
    """
    if not str(where):
        raise UsageError("'' names no image; is a variable empty?")
    try:
        found = _found(Path(where))
    except ValueError as exc:
        raise UsageError(f"'{where}' is no glob ({exc}); expected one such as 'clip/*.png'") from exc
    except OSError as exc:
        place = exc.filename or where
        raise UsageError(f"{place} cannot be read: {exc.strerror or exc}; allow it, or give another place") from exc
    if not found:
        raise UsageError(
            f"'{where}' names no image; give a folder of images, a data set, or a glob such as 'clip/*.png'"
        )
    return tuple(found)


def files_sha256(files: Sequence[str | Path]) -> str:
    """Sha256 over the sha256 of each file's bytes, in order; names and places do not count.

    Raises:
        DataError: if a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            digest.update(hashlib.sha256(Path(file).read_bytes()).digest())
        except OSError as exc:
            raise DataError(f"{file} cannot be read: {exc.strerror or exc}") from exc
    return digest.hexdigest()


def _found(path: Path) -> list[Path]:
    """Images that a path names, or a glob does; maybe none."""
    if path.is_dir():
        return _images_in(path)
    if path.is_file():
        return [path]
    anchor = Path(path.anchor) if path.is_absolute() else Path()
    return sorted(file for file in anchor.glob(str(path.relative_to(anchor))) if _is_image(file))


def _images_in(folder: Path) -> list[Path]:
    """Images of a data set's split ``train``, or of any other folder in the order of their names; maybe none."""
    try:
        found = sorted(file for file in folder.iterdir() if _is_image(file))
        if not any(entry.is_dir() for entry in folder.iterdir()):
            return found
    except OSError as exc:
        raise UsageError(f"folder {folder} cannot be read: {exc.strerror or exc}; allow it, or give another") from exc
    try:
        dataset = open_dataset(folder)
    except UsageError:
        if found:
            return found
        raise
    return [sample.image for sample in dataset.samples("train")]  # whatever pictures lie beside its folders


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
