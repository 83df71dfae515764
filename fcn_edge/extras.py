"""Third-party packages that a command needs and the base installation lacks; knows no command and no package."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from .errors import MissingError

MORE_MEMORY = "this process may take no more memory or threads; raise its limit (ulimit -v, ulimit -u, the container's)"
_IS_SHORT = (  # a full "static TLS block" is another matter: memory of the loader's own, for all libraries together
    "failed to map segment|cannot allocate memory(?! in static TLS)|resource temporarily unavailable|bad_alloc"
)


def is_short_of_memory(exc: Exception) -> bool:
    """Whether a package says that the process got no memory or no thread, as which it is rarely told."""
    return re.search(_IS_SHORT, str(exc), re.IGNORECASE) is not None


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
        remedy = MORE_MEMORY if is_short_of_memory(exc) else f"install it with: pip install 'fcn-edge[{extra}]'"
        raise MissingError(f"{what} needs {package}, which cannot be imported ({exc}); {remedy}") from exc
