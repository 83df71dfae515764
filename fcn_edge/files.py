"""Files that are written whole or not at all; knows nothing of what is in them."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from .errors import UsageError

_FLUSH_LIMIT_S = 10.0
_FLUSHES: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file through a temporary one beside it, so that a reader sees the old file or the whole new one."""
    with replaced(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, with its suffix, that takes its place on success and vanishes on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Its name is what leftovers looks for; absolute, as FFmpeg takes what stands before a colon for a scheme.
    temporary = path.absolute().with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    # mkstemp's is its owner's alone, and who asks for the umask sets it for all threads meanwhile.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666))
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def flush_soon(path: Path) -> None:
    """Bring a file and its name to the disk, which the system itself does within half a minute; as far as it can be.

    A slow card takes seconds for it, so a thread does it; the program waits for that when it ends.
    """
    thread = threading.Thread(target=_flush, args=(path,), name="fcn-edge-flush", daemon=True)
    _FLUSHES.add(thread)
    thread.start()


@atexit.register
def wait_for_flushes() -> None:
    """Wait for what :func:`flush_soon` began, up to 10 s; done by itself when Python ends."""
    with contextlib.suppress(KeyboardInterrupt):
        for thread in list(_FLUSHES):
            thread.join(_FLUSH_LIMIT_S)


def _flush(path: Path) -> None:
    for place in (path, path.parent):
        with contextlib.suppress(OSError):  # a disk without folders of its own, or one that is gone
            number = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(number)
            finally:
                os.close(number)


def leftovers(path: Path) -> list[Path]:
    """Temporary files of :func:`replaced` that a killed process left beside ``path``, whose name may be a glob."""
    return sorted(path.parent.glob(f".{path.stem}-????????{path.suffix}"))


def require_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to or made, before minutes of work are lost on it; nothing is made.

    Raises:
        UsageError: if it, or the folder that it would be made in, takes no files.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "is read-only" if there.is_dir() else "is a file"
        raise UsageError(f"{folder} cannot be written to, {there} {reason}; choose another place")
