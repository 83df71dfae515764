"""Solid things as lists of coloured polygons in metres; knows nothing about where they are and how they are lit.

A body is built in its own frame: metres to the right of its middle, up, and forward from its near end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .canvas import Color, Points

Corner = tuple[float, float, float]

LIT = ("front", "left", "right", "up", "self")
"""How a face may be lit; see ``Light.tone``."""

_TURN = np.arange(12) * (2 * np.pi / 12)
CIRCLE = tuple(zip(np.cos(_TURN).tolist(), np.sin(_TURN).tolist(), strict=True))


@dataclass(frozen=True)
class Body:
    """Convex polygons in the order of painting.

    Attributes:
        points: float64 ``[n, 3]``, the corners of all polygons one after another.
        parts: for each polygon its part of ``points``.
        colors: float64 ``[m, 3]``, for each polygon its blue, green, red.
        lit: int64 ``[m]``, for each polygon an index of ``LIT``.
        details: for each polygon whether it lies on one that was painted before.
        sizes_m: for each polygon about how large it is, metres.
    """

    points: Points
    parts: tuple[slice, ...]
    colors: NDArray[np.float64]
    lit: NDArray[np.int64]
    details: tuple[bool, ...]
    sizes_m: tuple[float, ...]


class Builder:
    """Collects polygons; :meth:`build` gives the body."""

    def __init__(self) -> None:
        self._points: list[Corner] = []
        self._faces: list[tuple[slice, Color, int, bool, float]] = []

    def add(self, *corners: Corner, color: Color, lit: str = "front", detail: bool = False) -> None:
        """A convex polygon; a ``detail`` lies on what was added before and leaves the labels alone."""
        start = len(self._points)
        self._points += corners
        spans = sorted(max(values) - min(values) for values in zip(*corners, strict=True))
        size = float((max(spans[1], 0.05) * spans[2]) ** 0.5)
        self._faces.append((slice(start, len(self._points)), color, LIT.index(lit), detail, size))

    def panel(
        self, x: float, y: float, half_x: float, half_y: float, z: float, color: Color, lit: str = "front", *,
        detail: bool = False,
    ) -> None:  # fmt: skip
        """An upright rectangle that faces the camera."""
        left, right, low, high = x - half_x, x + half_x, y - half_y, y + half_y
        self.add(
            (left, low, z), (right, low, z), (right, high, z), (left, high, z), color=color, lit=lit, detail=detail
        )

    def deck(self, half: tuple[float, float], y: tuple[float, float], z: tuple[float, float], color: Color) -> None:
        """A lid across the whole width, from its near to its far edge."""
        self.add(
            (-half[0], y[0], z[0]), (half[0], y[0], z[0]), (half[1], y[1], z[1]), (-half[1], y[1], z[1]),
            color=color, lit="up",
        )  # fmt: skip

    def flank(self, x: float, outline: tuple[tuple[float, float], ...], color: Color, *, detail: bool = False) -> None:
        """A polygon of (up, forward) at a fixed distance to the side."""
        lit = "right" if x > 0 else "left"
        self.add(*((x, y, z) for y, z in outline), color=color, lit=lit, detail=detail)

    def disc(self, x: float, y: float, z: float, radius: float, color: Color) -> None:
        """A disc that faces the camera."""
        corners = ((x + radius * cos, y + radius * sin, z) for cos, sin in CIRCLE)
        self.add(*corners, color=color)

    def wheel(
        self, x: float, y: float, z: float, radius: float, color: Color, *, least_y: float = 0.0, detail: bool = False
    ) -> None:
        """A disc that faces the side, cut off below ``least_y``."""
        self.flank(x, tuple((max(y + radius * s, least_y), z + radius * c) for c, s in CIRCLE), color, detail=detail)

    def limb(
        self, start: tuple[float, float], end: tuple[float, float], half: float, color: Color, z: float = 0.0
    ) -> None:
        """An arm or leg from (right, up) to (right, up)."""
        (x0, y0), (x1, y1), thin = start, end, half * 0.8
        self.add((x0 - half, y0, z), (x0 + half, y0, z), (x1 + thin, y1, z), (x1 - thin, y1, z), color=color)

    def build(self) -> Body:
        """The body."""
        parts, colors, lit, details, sizes = zip(*self._faces, strict=True)
        return Body(np.array(self._points), parts, np.array(colors), np.array(lit), details, sizes)


def scaled(color: Color, gain: float) -> Color:
    """A lighter or darker colour."""
    return min(color[0] * gain, 255.0), min(color[1] * gain, 255.0), min(color[2] * gain, 255.0)
