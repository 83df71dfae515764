"""Cars and vans as bodies; knows nothing about traffic."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from .bodies import Body, Builder, Corner, scaled
from .canvas import Color

PAINTS: tuple[Color, ...] = (
    (40, 36, 170), (150, 84, 36), (232, 234, 236), (196, 198, 198), (72, 68, 66), (44, 42, 42), (120, 124, 128),
    (70, 120, 50), (40, 170, 220), (96, 60, 30), (60, 50, 110), (206, 222, 230), (160, 130, 80), (50, 90, 190),
)  # fmt: skip
_GLASS: Color = (86, 70, 58)
_RUBBER: Color = (30, 30, 31)


@dataclass(frozen=True)
class _Shape:
    """A car's measures in metres; along the car from the end that the camera sees.

    Attributes:
        van: whether it is one.
        toward: whether its front is the end that the camera sees.
        long: length.
        half: half its width.
        belt: height of the windows' lower edge.
        top: height of the roof.
        nose: height of the bonnet's or boot's edge at the near and the far end.
        base: where the cabin begins and ends at the belt.
        roof: where the roof begins and ends.
    """

    van: bool
    toward: bool
    long: float
    half: float
    belt: float
    top: float
    nose: tuple[float, float]
    base: tuple[float, float]
    roof: tuple[float, float]


@functools.lru_cache(1024)
def car(look: int, toward: bool, side: int, lamps: bool) -> Body:
    """A car, seen at its front (``toward``) or rear, and at its right (``side`` 1) or left (-1) flank."""
    rng = np.random.default_rng([21, look])
    paint = PAINTS[int(rng.integers(len(PAINTS)))]
    shape = _shape(rng, toward)
    body, x = Builder(), side * shape.half
    near, far = shape.nose
    long, belt, half = shape.long, shape.belt, shape.half
    # What shows below the body: tyres and the dark floor between them.
    body.panel(0, 0.3, half - 0.1, 0.14, 0.3, (24, 24, 24))
    for sign in (-1, 1):
        body.panel(sign * (half - 0.13), 0.17, 0.11, 0.17, 0.25, _RUBBER)
    body.deck((half, half), (belt, far), (shape.base[1], long - 0.05), paint)
    body.deck((half, half), (belt, belt), shape.base, paint)
    body.deck((half, half), (near, belt), (0.05, shape.base[0]), paint)
    outline = (
        (0.24, 0.12), (0.45, 0.0), (near - 0.08, 0.0), (near, 0.06), (belt, shape.base[0]),
        (belt, shape.base[1]), (far, long - 0.06), (far - 0.08, long), (0.45, long), (0.24, long - 0.12),
    )  # fmt: skip
    body.flank(x, outline, paint)
    _flank(body, shape, x + side * 0.004, paint)
    _end(body, shape, paint, lamps)
    _cabin(body, shape, side, paint)
    return body.build()


def _shape(rng: np.random.Generator, toward: bool) -> _Shape:
    van = bool(rng.random() < 0.18)
    saloon = bool(rng.random() < 0.45) and not van
    if van:
        long, half, belt, top = rng.uniform(4.6, 5.2), 0.98, 1.05, rng.uniform(1.95, 2.3)
        nose, tail, base, roof = belt - 0.08, belt - 0.01, (0.04, long - 0.5), (0.1, long - 1.1)
    else:
        long, half = rng.uniform(3.8, 4.7), rng.uniform(0.84, 0.92)
        belt, top = rng.uniform(0.88, 0.98), rng.uniform(1.4, 1.55)
        nose, tail = belt - 0.16, belt - 0.05
        base = (0.62 if saloon else 0.06, long - 1.0)
        roof = (1.25 if saloon else 0.5, long - 1.85)
    if toward:
        base, roof = (long - base[1], long - base[0]), (long - roof[1], long - roof[0])
        return _Shape(van, toward, long, half, belt, top, (nose, tail), base, roof)
    return _Shape(van, toward, long, half, belt, top, (tail, nose), base, roof)


def _flank(body: Builder, shape: _Shape, x: float, paint: Color) -> None:
    """Sill, crease, doors, wheels."""
    long, belt = shape.long, shape.belt
    sill = ((0.24, 0.12), (0.36, 0.05), (0.36, long - 0.05), (0.24, long - 0.12))
    body.flank(x, sill, scaled(paint, 0.5), detail=True)
    low, high = belt - 0.2, belt - 0.15
    crease = ((low, 0.1), (high, 0.1), (high, long - 0.1), (low, long - 0.1))
    body.flank(x, crease, scaled(paint, 1.25), detail=True)
    for share in (0.3, 0.52, 0.72):
        z = long * share
        body.flank(x, ((0.36, z), (belt, z), (belt, z + 0.03), (0.36, z + 0.03)), scaled(paint, 0.6), detail=True)
        grip = ((belt - 0.12, z + 0.1), (belt - 0.09, z + 0.1), (belt - 0.09, z + 0.26), (belt - 0.12, z + 0.26))
        body.flank(x, grip, scaled(paint, 0.45), detail=True)
    for z in (0.78, long - 0.82):
        body.wheel(x, 0.34, z, 0.4, (16, 16, 17), least_y=0.25, detail=True)
        body.wheel(x, 0.33, z, 0.33, _RUBBER)
        body.wheel(x, 0.33, z, 0.22, (128, 130, 132), detail=True)
        body.wheel(x, 0.33, z, 0.08, (70, 72, 74), detail=True)


def _end(body: Builder, shape: _Shape, paint: Color, lamps: bool) -> None:
    """The end that faces the camera: panel, bumper, lamps, plate."""
    half, high = shape.half, shape.nose[0]
    body.add(
        (-half + 0.08, 0.24, 0.02), (half - 0.08, 0.24, 0.02), (half, 0.42, 0), (half, high - 0.1, 0),
        (half - 0.02, high, 0.05), (-half + 0.02, high, 0.05), (-half, high - 0.1, 0), (-half, 0.42, 0),
        color=scaled(paint, 0.96),
    )  # fmt: skip
    body.panel(0, 0.34, half - 0.06, 0.08, 0, (50, 50, 50) if shape.van else scaled(paint, 0.55), detail=True)
    if shape.toward:
        body.panel(0, high - 0.2, half * 0.52, 0.07, 0, (32, 32, 33), detail=True)
        body.panel(0, high - 0.2, half * 0.52, 0.012, 0, (150, 152, 152), detail=True)
        lamp: Color = (240, 248, 252) if lamps else (212, 220, 222)
        size = (0.17, 0.075)
    else:
        body.panel(0, high - 0.04, half - 0.08, 0.012, 0, scaled(paint, 0.5), detail=True)
        lamp = (70, 70, 255) if lamps else (36, 30, 178)
        size = (0.1, 0.2) if shape.van else (0.16, 0.085)
    for sign in (-1, 1):
        x = sign * (half - size[0] - 0.02)
        body.panel(x, high - 0.12 - size[1], size[0] + 0.015, size[1] + 0.015, 0, scaled(paint, 0.4), detail=True)
        body.panel(x, high - 0.12 - size[1], *size, 0, lamp, "self" if lamps else "front", detail=True)
        if not shape.toward:
            body.panel(x, high - 0.14, size[0], 0.03, 0, (60, 140, 235), detail=True)
    body.panel(0, 0.4 if shape.toward else 0.56, 0.26, 0.055, 0, (222, 226, 226), detail=True)


def _cabin(body: Builder, shape: _Shape, side: int, paint: Color) -> None:
    """Roof, windows and the pillars between them."""
    low, high = shape.half * 0.95, shape.half * (0.9 if shape.van else 0.78)
    belt, top, base, roof = shape.belt, shape.top, shape.base, shape.roof

    def flank(share: float, up: float) -> Corner:
        """A point of the side, ``share`` along it and ``up`` of the way to the roof."""
        begin, end = (base[edge] + (roof[edge] - base[edge]) * up for edge in (0, 1))
        return side * (low + (high - low) * up), belt + (top - belt) * up, begin + (end - begin) * share

    def end(right: float, up: float) -> Corner:
        """A point of the front or rear."""
        return right * (low + (high - low) * up), belt + (top - belt) * up, base[0] + (roof[0] - base[0]) * up

    lit = "right" if side > 0 else "left"
    body.deck((high, high), (top, top), roof, scaled(paint, 1.05))
    body.add(flank(0, 0), flank(0, 1), flank(1, 1), flank(1, 0), color=paint, lit=lit)
    panes = ((0.06, 0.3) if shape.toward else (0.7, 0.94),) if shape.van else ((0.05, 0.33), (0.37, 0.63), (0.67, 0.94))
    for start, stop in panes:
        body.add(
            flank(start, 0.1),
            flank(start, 0.86),
            flank(stop, 0.86),
            flank(stop, 0.1),
            color=_GLASS,
            lit=lit,
            detail=True,
        )
    body.add(end(-1, 0), end(1, 0), end(1, 1), end(-1, 1), color=scaled(paint, 0.92))
    wide = 0.9
    if shape.van and not shape.toward:  # two doors with a window each
        for start, stop in ((-0.85, -0.1), (0.1, 0.85)):
            body.add(end(start, 0.35), end(stop, 0.35), end(stop, 0.8), end(start, 0.8), color=_GLASS, detail=True)
        body.add(end(-0.015, 0), end(0.015, 0), end(0.015, 1), end(-0.015, 1), color=scaled(paint, 0.5), detail=True)
        return
    body.add(end(-wide, 0.08), end(wide, 0.08), end(wide, 0.88), end(-wide, 0.88), color=_GLASS, detail=True)
    body.add(end(-wide, 0.45), end(0.1, 0.88), end(-wide, 0.88), color=scaled(_GLASS, 1.8), detail=True)
    for right in (-0.45, 0.45):  # head rests
        corners = (end(right - 0.14, 0.08), end(right + 0.14, 0.08), end(right + 0.1, 0.45), end(right - 0.1, 0.45))
        body.add(*corners, color=scaled(_GLASS, 0.55), detail=True)
