"""A picture's size as it is typed, HEIGHTxWIDTH; knows nothing about who asks for it."""

from __future__ import annotations

import re

from .contract import MAX_SIDE
from .errors import UsageError


def size_from_text(text: str, said: str, sides: tuple[int, int] = (1, MAX_SIDE)) -> tuple[int, int]:
    """``HEIGHTxWIDTH`` as (height, width).

    Args:
        text: such as ``360x480``.
        said: how the message begins, such as ``"size is '0x0'"``.
        sides: the shortest and the longest side that is taken.

    Raises:
        UsageError: if it is none, or a side is shorter or longer.
    """
    found = re.fullmatch(r"(\d{1,9})[xX](\d{1,9})", text, re.ASCII)  # Python refuses to read thousands of digits
    size_hw = (int(found[1]), int(found[2])) if found else (0, 0)
    low, high = sides
    if not found or not all(low <= side <= high for side in size_hw):
        raise UsageError(f"{said}; expected HEIGHTxWIDTH with sides of {low} to {high}, such as 360x480")
    return size_hw
