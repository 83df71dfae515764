"""Third-party packages that a command needs and the base installation lacks; knows no command and no package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .errors import MissingError


@contextlib.contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Around imports: what cannot be imported becomes a sentence that says how to install it.

    Args:
        extra: of this package, which installs it, such as ``train``.
        what: needs it, such as the name of a command.

    Raises:
        MissingError: if an import of another project's module fails.
        ImportError: if that of one of our own does, which is no gap of the machine.
    """
    try:
        yield
    except ImportError as exc:
        package = (exc.name or "").partition(".")[0]
        if package in ("", "fcn_edge"):
            raise
        raise MissingError(
            f"{what} needs {package}, which cannot be imported ({exc}); "
            f"install it with: pip install 'fcn-edge[{extra}]'"
        ) from exc
