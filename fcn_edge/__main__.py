"""The program ``fcn-edge``, also ``python -m fcn_edge``: the command line, with standard output for results alone."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

from .cli import main
from .files import wait_for_flushes

_STDOUT, _STDERR = 1, 2
_STOPS = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP
_CAMERA_THREADS = ("fcn-edge-camera", "fcn-edge-reader")


def run() -> int:
    """Run the command that the program's arguments name and return its exit code."""
    _keep_stdout()
    _stop_by_signals()
    code = main()
    if any(thread.name in _CAMERA_THREADS for thread in threading.enumerate()):
        _leave(code)
    return code


def _stop_by_signals() -> None:
    """Let SIGTERM, and SIGHUP of a terminal that goes away, stop a command as Ctrl-C does: what it began is removed.

    Under ``nohup`` SIGHUP stays ignored.
    """
    for name in _STOPS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def _leave(code: int) -> None:
    """End the process as it is, with a thread that a camera's driver still blocks.

    Python before 3.14 ends such a thread when it comes back, in the midst of OpenCV, which then aborts the process.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            if stream is not None:
                stream.flush()
    wait_for_flushes()
    os._exit(code)


def _keep_stdout() -> None:
    """Send to stderr what native libraries print, such as a Jetson's camera: stdout then holds results alone.

    It stays so until the process ends, as what they leave in their buffers comes out only then.
    """
    own = sys.stdout
    if own is None or own.fileno() != _STDOUT or sys.stderr is None:  # closed, as with >&-
        return
    kept = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    sys.stdout = os.fdopen(kept, "w", buffering=1, encoding=own.encoding, errors=own.errors)


if __name__ == "__main__":
    sys.exit(run())
