"""The program ``fcn-edge``, also ``python -m fcn_edge``: the command line, with standard output for results alone."""

from __future__ import annotations

import os
import sys

from .cli import main

_STDOUT, _STDERR = 1, 2


def run() -> int:
    """Run the command that the program's arguments name and return its exit code."""
    _keep_stdout()
    return main()


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
