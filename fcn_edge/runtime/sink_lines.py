"""A file of JSON lines as a sink, one for each frame with the share of each class; knows nothing about pictures."""

from __future__ import annotations

import errno
import os
import time
from io import FileIO
from pathlib import Path

import msgspec

from ..contract import Contract
from ..errors import SinkError, UsageError
from ..metrics import class_shares
from ..redact import unicode_text
from .frame import Result
from .sink import Sink


class LinesSink(Sink):
    """Writes ``{"frame", "name", "time", "age_ms", "dropped", "shares"}`` for each frame, at once and whole.

    ``time`` is the clock's at capture (UTC, ISO 8601), ``age_ms`` from then until the line, ``dropped`` the frames lost
    since the line before; ``shares`` has each class's share of the frame's pixels by name, the sum is 1. Lines can be
    read while the stream runs, and stay whatever ends it.

    Args:
        path: the file; it and its folder are made with the first line.
        contract: names of the classes.
        force: whether it may exist.

    Raises:
        UsageError: if it exists, such as a named pipe, and ``force`` is not given, or it is a folder.
    """

    needs_picture = False

    def __init__(self, path: Path, contract: Contract, force: bool = False) -> None:
        if path.is_dir():
            raise UsageError(f"sink {path} is a folder; choose another name for the lines")
        if path.exists() and not force:
            raise UsageError(f"{path} exists; choose another name or overwrite it with --force")
        self._path = path
        self._may_replace = force
        self._names = contract.class_names
        self._file: FileIO | None = None

    def write(self, result: Result) -> None:
        """Append the line.

        Raises:
            SinkError: if the disk is full or does not let us, the file was removed or is a named pipe that nobody
                reads, or the sink is closed.
        """
        self._require_open(self._path)
        shares = class_shares(result.labels, len(self._names))
        age_ns = time.monotonic_ns() - result.frame.captured_ns
        line = {
            "frame": result.frame.index,
            "name": unicode_text(result.frame.name),
            "time": result.frame.captured_utc().isoformat(timespec="milliseconds"),
            "age_ms": round(age_ns / 1e6, 3),
            "dropped": result.dropped,
            "shares": {name: round(share, 6) for name, share in zip(self._names, shares, strict=True)},
        }
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = _opened(self._path, "wb" if self._may_replace else "xb")
            _write_whole(self._file, msgspec.json.encode(line) + b"\n")
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                raise SinkError(f"nobody reads the named pipe {self._path}; start its reader first") from exc
            raise SinkError(
                f"frame {result.frame.index} cannot be written to {self._path} ({exc.strerror or exc}); "
                "check its folder, its permissions and that the disk has room"
            ) from exc

    def close(self, keep: bool = True) -> None:
        """Close the file; its lines stay, as each is whole."""
        self._is_closed = True
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _opened(path: Path, mode: str) -> FileIO:
    """Open without waiting: for the reader of a named pipe that would be for ever, with signals held."""
    file = FileIO(path, mode, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK, 0o666))
    os.set_blocking(file.fileno(), True)
    return file


def _write_whole(file: FileIO, line: bytes) -> None:
    """Append a line, or none of it: a disk that fills takes a part without an error, and a removed file each line."""
    if os.fstat(file.fileno()).st_nlink == 0:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    written = file.write(line)
    if written < len(line):
        file.truncate(file.tell() - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
