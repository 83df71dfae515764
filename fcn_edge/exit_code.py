"""How a command ends: what it raises becomes a sentence on stderr and the documented exit code; knows no command."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import TextIO

from .errors import FcnEdgeError, UsageError
from .redact import shown

INTERRUPTED = 130
_FULL = (errno.ENOSPC, errno.EDQUOT)


def exit_code_of(command: Callable[[], int | None]) -> int:
    """Run a command, say on stderr what went wrong, and return the exit code.

    Raises:
        SystemExit: argparse's, once its help is written.
        Exception: what nobody expected.
    """
    try:
        try:
            code = command() or 0
        except SystemExit:  # argparse has printed help, or refused the arguments
            _flush(sys.stdout)
            raise
        _flush(sys.stdout)  # so that what cannot be written is told here
        return code
    except FcnEdgeError as exc:
        note(f"fcn-edge: {exc}")
        return exc.exit_code
    except KeyboardInterrupt:
        note("fcn-edge: stopped")
        return INTERRUPTED
    except BrokenPipeError:  # who reads the output, such as head, has seen enough; nothing is left to say to it
        _silence(sys.stderr)
        return 0
    except PermissionError as exc:
        place = exc.filename or "a file or folder"
        note(f"fcn-edge: {place} cannot be reached ({exc.strerror or exc}); allow it, or give another place")
        return UsageError.exit_code
    except OSError as exc:
        if exc.errno not in _FULL:
            raise
        where = f" ({exc.filename})" if exc.filename else ""
        note(f"fcn-edge: the disk is full{where}; make room or write elsewhere, and start again")
        return FcnEdgeError.exit_code
    finally:
        try:
            _flush(sys.stdout)
        except OSError:
            _silence(sys.stdout)


def note(text: str) -> None:
    """Print on stderr; if its reader (EPIPE) or terminal (EIO) is gone, what is recorded still has to be finished."""
    if sys.stderr is None:  # closed, as with 2>&-
        return
    try:
        sys.stderr.write(f"{shown(text)}\n")
    except OSError:
        _silence(sys.stderr)


def _flush(stream: TextIO | None) -> None:
    if stream is not None:  # it is where it was closed (>&-)
        stream.flush()


def _silence(stream: TextIO | None) -> None:
    """Let what is left in the buffer of a stream that nobody reads go nowhere, lest Python fail on it at its exit."""
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
