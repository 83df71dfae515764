"""Arguments that are one name or several; knows nothing about what is named."""

from __future__ import annotations

from collections.abc import Sequence


def names_in(value: str | Sequence[str]) -> tuple[str, ...]:
    """The names; a string is one, and not its letters."""
    return (value,) if isinstance(value, str) else tuple(value)
