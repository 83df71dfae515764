"""Cars, people and cyclists as coloured polygons in metres; knows nothing about where they are and how they are lit.

A body is built in its own frame: metres to the right of its middle, up, and forward from its near end.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .canvas import Color, Points

Corner = tuple[float, float, float]


@dataclass(frozen=True)
class Body:
    """Convex polygons in the order of painting.

    Attributes:
        points: float64 ``[n, 3]``, the corners of all polygons one after another.
        faces: for each polygon its part of ``points``, its colour, and how it is lit (see ``Light.tone``).
    """

    points: Points
    faces: tuple[tuple[slice, Color, str], ...]


_PAINTS: tuple[Color, ...] = (
    (40, 36, 170), (150, 84, 36), (232, 234, 236), (196, 198, 198), (64, 62, 60), (36, 36, 38), (120, 124, 128),
    (70, 120, 50), (40, 170, 220), (96, 60, 30), (60, 50, 110), (206, 222, 230), (160, 130, 80), (50, 90, 190),
)  # fmt: skip
_SKINS: tuple[Color, ...] = ((170, 196, 232), (130, 164, 214), (86, 120, 176), (50, 76, 120))
_CLOTHES: tuple[Color, ...] = (
    (60, 50, 48), (120, 70, 40), (50, 50, 180), (40, 120, 60), (200, 200, 205), (90, 90, 96), (60, 170, 220),
    (150, 60, 130), (170, 140, 60), (36, 34, 36), (80, 120, 190), (190, 170, 150),
)  # fmt: skip
_GLASS: Color = (92, 78, 66)


@functools.lru_cache(1024)
def car(look: int, toward: bool, side: int, lamps: bool) -> Body:
    """A car, seen at its front (``toward``) or rear, and at its right (``side`` 1) or left (-1) flank."""
    rng = np.random.default_rng([21, look])
    van = rng.random() < 0.2
    paint = _PAINTS[int(rng.integers(len(_PAINTS)))]
    long, half = (rng.uniform(4.6, 5.2), 0.98) if van else (rng.uniform(3.8, 4.7), rng.uniform(0.84, 0.92))
    belt, top = (1.05, rng.uniform(1.95, 2.3)) if van else (rng.uniform(0.86, 0.95), rng.uniform(1.4, 1.52))
    tail = 0.05 if van or rng.random() < 0.5 else 0.75  # a hatchback's cabin reaches the rear, a saloon's does not
    # The cabin from rear to front: belt and roof line, as metres from the rear.
    cabin = (tail, long - (0.55 if van else 1.05), tail + (0.1 if van else 0.45), long - (1.1 if van else 1.9))
    flip = (lambda q: long - q) if toward else (lambda q: q)
    body = _Builder()
    dark, flank = _scaled(paint, 0.55), "right" if side > 0 else "left"
    x = side * half

    body.add(
        (-half + 0.06, 0.14, 0.1),
        (half - 0.06, 0.14, 0.1),
        (half - 0.06, 0.5, 0.1),
        (-half + 0.06, 0.5, 0.1),
        color=(26, 26, 26),
    )
    for sign in (-1, 1):
        body.add(*_quad(sign * (half - 0.13), 0.17, 0.11, 0.17, 0.12), color=(22, 22, 22))
    body.add(
        (-half, belt, 0.06),
        (half, belt, 0.06),
        (half, belt, long - 0.06),
        (-half, belt, long - 0.06),
        color=paint,
        lit="up",
    )
    body.add((x, 0.2, 0.15), (x, 0.2, long - 0.15), (x, 0.36, long), (x, 0.36, 0), color=(30, 30, 30), lit=flank)
    body.add(
        (x, 0.32, 0), (x, belt - 0.14, 0), (x, belt, 0.12), (x, belt, long - 0.12), (x, belt - 0.14, long), (x, 0.32, long),
        color=paint, lit=flank,
    )  # fmt: skip
    seam = side * (half + 0.004)
    for q in (flip(1.25), flip(2.25), flip(3.2)):
        body.add(
            (seam, 0.36, q), (seam, belt, q), (seam, belt, q + 0.04), (seam, 0.36, q + 0.04), color=dark, lit=flank
        )
    body.add(
        (seam, 0.32, 0.2), (seam, 0.32, long - 0.2), (seam, 0.42, long - 0.2), (seam, 0.42, 0.2), color=dark, lit=flank
    )
    for q in (0.78, long - 0.8):
        for radius, color in ((0.4, (24, 24, 24)), (0.33, (34, 34, 36)), (0.2, (150, 152, 155))):
            body.add(*_wheel(side * (half + 0.008), 0.33, q, radius if radius != 0.4 else 0.38), color=color, lit=flank)
    _car_end(body, half, belt, paint, toward, lamps, van)

    low, high = half * 0.95, half * (0.9 if van else 0.76)
    near, far, near_top, far_top = sorted((flip(cabin[0]), flip(cabin[1]))) + sorted((flip(cabin[2]), flip(cabin[3])))
    body.add(
        (-high, top, near_top),
        (high, top, near_top),
        (high, top, far_top),
        (-high, top, far_top),
        color=paint,
        lit="up",
    )
    body.add(
        (side * low, belt, near),
        (side * high, top, near_top),
        (side * high, top, far_top),
        (side * low, belt, far),
        color=paint,
        lit=flank,
    )
    body.add(
        (-low, belt, near), (low, belt, near), (high, top, near_top), (-high, top, near_top), color=_scaled(paint, 0.92)
    )
    if not van or toward:
        _panes(body, side, flank, (low, high, belt, top, near, far, near_top, far_top), van)
    rear_pane = (belt + 0.08, top - 0.12, 0.86)
    _end_pane(body, (low, high, belt, top, near, near_top), rear_pane, toward)
    return body.build()


def _car_end(body: _Builder, half: float, belt: float, paint: Color, toward: bool, lamps: bool, van: bool) -> None:
    """The end that faces the camera: panel, bumper, lamps, plate."""
    body.add(
        (-half, 0.3, 0),
        (half, 0.3, 0),
        (half, belt - 0.14, 0),
        (half - 0.04, belt, 0.05),
        (-half + 0.04, belt, 0.05),
        (-half, belt - 0.14, 0),
        color=_scaled(paint, 0.96),
    )
    body.add(*_quad(0, 0.4, half, 0.1, 0), color=_scaled(paint, 0.6) if not van else (46, 46, 46))
    if toward:
        body.add(*_quad(0, 0.6, half * 0.5, 0.08, 0), color=(34, 34, 34))
        lamp: Color = (236, 246, 252) if lamps else (206, 216, 220)
    else:
        lamp = (60, 60, 250) if lamps else (34, 30, 172)
    for sign in (-1, 1):
        body.add(*_quad(sign * (half - 0.17), belt - 0.22, 0.15, 0.09, 0), color=lamp, lit="self" if lamps else "front")
    plate: Color = (80, 210, 240) if not toward and van else (226, 228, 228)
    body.add(*_quad(0, 0.46 if toward else 0.58, 0.26, 0.06, -0.01), color=plate)


def _panes(body: _Builder, side: int, flank: str, frame: Sequence[float], van: bool) -> None:
    """The side windows, with the pillars left standing between them."""
    low, high, belt, top, near, far, near_top, far_top = frame
    y0, y1 = belt + 0.05, top - 0.09

    def at(share: float, y: float) -> Corner:
        up = (y - belt) / (top - belt)
        start, end = near + (near_top - near) * up, far + (far_top - far) * up
        return side * (low + (high - low) * up + 0.003), y, start + (end - start) * share

    for begin, end in ((0.07, 0.34),) if van else ((0.06, 0.46), (0.52, 0.94)):
        body.add(at(begin, y0), at(begin, y1), at(end, y1), at(end, y0), color=_GLASS, lit=flank)


def _end_pane(body: _Builder, frame: Sequence[float], pane: tuple[float, float, float], toward: bool) -> None:
    """Windscreen or rear window with a reflection of the sky."""
    low, high, belt, top, near, near_top = frame
    y0, y1, share = pane

    def at(right: float, y: float) -> Corner:
        up = (y - belt) / (top - belt)
        return right * share * (low + (high - low) * up), y, near + (near_top - near) * up - 0.004

    body.add(at(-1, y0), at(1, y0), at(1, y1), at(-1, y1), color=_GLASS)
    middle = (y0 + y1) / 2
    body.add(at(-1, middle), at(0.5, y1), at(-1, y1), color=_scaled(_GLASS, 1.7))
    if toward:
        body.add(at(0.3, y0), at(0.75, y0), at(0.68, middle), at(0.38, middle), color=(44, 44, 50))


@functools.lru_cache(2048)
def person(look: int, step: int, aside: bool, toward: bool) -> Body:
    """A walker at ``step`` sixteenths of a stride, seen from the front, the back or (``aside``) the side."""
    rng = np.random.default_rng([22, look])
    tall, skin = rng.uniform(1.5, 1.88), _SKINS[int(rng.integers(len(_SKINS)))]
    coat, trousers = (_CLOTHES[int(index)] for index in rng.integers(len(_CLOTHES), size=2))
    hair = _scaled((50, 66, 90), rng.uniform(0.3, 1.3))
    wide, skirt, bag = rng.uniform(0.19, 0.25), rng.random() < 0.25, rng.random() < 0.4
    swing = np.sin(step * np.pi / 8)
    stride, lift = (0.34, 0.05) if aside else (0.05, 0.09)
    shoulder = wide * (0.7 if aside else 1.0)
    body = _Builder()
    hip, neck = tall * 0.5, tall * 0.83
    for sign in (-1, 1):
        foot = sign * swing * stride + (0 if aside else sign * 0.09)
        up = max(sign * swing, 0) * lift
        start = 0 if aside else sign * 0.09
        body.add(
            (start - 0.09, hip, 0),
            (start + 0.09, hip, 0),
            (foot + 0.06, up + 0.06, 0),
            (foot - 0.06, up + 0.06, 0),
            color=_scaled(trousers, 1 if sign > 0 else 0.8),
        )
        body.add(*_quad(foot + (0.03 if aside else 0), up + 0.035, 0.09, 0.035, 0), color=(30, 30, 34))
    if skirt:
        body.add(
            (-0.15, hip + 0.1, 0), (0.15, hip + 0.1, 0), (0.23, hip - 0.32, 0), (-0.23, hip - 0.32, 0), color=trousers
        )
    hand = swing * (0.28 if aside else 0.03)
    for sign in (-1,) if aside else (-1, 1):
        edge = 0 if aside else sign * (shoulder + 0.02)
        _limb(
            body, (edge, neck - 0.06), (edge + (-hand if aside else sign * 0.05), hip + 0.02), 0.05, _scaled(coat, 0.78)
        )
        body.add(*_disc(edge + (-hand if aside else sign * 0.05), hip, 0.045), color=skin)
    body.add(
        (-shoulder, neck - 0.05, 0),
        (-0.08, neck + 0.02, 0),
        (0.08, neck + 0.02, 0),
        (shoulder, neck - 0.05, 0),
        (shoulder * 0.85, hip - 0.06, 0),
        (-shoulder * 0.85, hip - 0.06, 0),
        color=coat,
    )
    if aside:
        _limb(body, (0, neck - 0.08), (hand, hip + 0.04), 0.05, _scaled(coat, 0.8))
    if bag:
        body.add(
            *_quad(shoulder + 0.04 if not aside else -shoulder - 0.05, hip + 0.2, 0.09, 0.17, 0),
            color=_scaled(trousers, 0.7),
        )
    body.add(*_quad(0, neck + 0.03, 0.05, 0.05, 0), color=_scaled(skin, 0.85))
    body.add(*_disc(0, tall - 0.115, 0.115), color=skin if toward or aside else hair)
    body.add(
        (-0.115, tall - 0.1, 0),
        (-0.09, tall - 0.02, 0),
        (0, tall + 0.02, 0),
        (0.09, tall - 0.02, 0),
        (0.115, tall - 0.1, 0),
        color=hair,
    )
    return body.build()


@functools.lru_cache(512)
def cyclist(look: int, step: int, toward: bool) -> Body:
    """A rider on a bicycle at ``step`` sixteenths of a turn of the pedals."""
    rng = np.random.default_rng([23, look])
    skin = _SKINS[int(rng.integers(len(_SKINS)))]
    coat, trousers = (_CLOTHES[int(index)] for index in rng.integers(len(_CLOTHES), size=2))
    helmet = _PAINTS[int(rng.integers(len(_PAINTS)))]
    frame = _PAINTS[int(rng.integers(len(_PAINTS)))]
    body = _Builder()
    swing = 0.13 * np.sin(step * np.pi / 8)
    for z in (1.06, 0.0):  # the far wheel first
        body.add(*_wheel(0.0, 0.34, z, 0.34), color=(30, 30, 32))
        body.add(*_wheel(0.0, 0.34, z, 0.27), color=(120, 122, 124))
        body.add(*_quad(0, 0.34, 0.035, 0.34, z), color=(26, 26, 28))
    body.add((-0.03, 0.4, 0.1), (0.03, 0.9, 0.35), (0.03, 0.9, 0.75), (-0.03, 0.4, 0.95), color=frame)
    bar = 0.15 if toward else 0.8
    body.add(*_quad(0, 1.02, 0.28, 0.025, bar), color=(40, 40, 44))
    for sign in (-1, 1):
        knee = 0.62 + sign * swing
        _limb(body, (sign * 0.1, 0.95), (sign * 0.15, knee), 0.08, trousers, 0.45)
        _limb(body, (sign * 0.15, knee), (sign * 0.11, knee - 0.42), 0.06, _scaled(trousers, 0.8), 0.45)
        body.add(*_quad(sign * 0.12, knee - 0.45, 0.06, 0.04, 0.45), color=(30, 30, 36))
    for sign in (-1, 1):
        _limb(body, (sign * 0.2, 1.38), (sign * 0.27, 1.05), 0.05, _scaled(coat, 0.8), 0.5)
    body.add(
        (-0.22, 1.4, 0.45),
        (-0.08, 1.48, 0.45),
        (0.08, 1.48, 0.45),
        (0.22, 1.4, 0.45),
        (0.16, 0.9, 0.4),
        (-0.16, 0.9, 0.4),
        color=coat,
    )
    body.add(*_disc(0, 1.58, 0.11, 0.45), color=skin)
    body.add(
        (-0.125, 1.58, 0.44), (-0.1, 1.68, 0.44), (0, 1.72, 0.44), (0.1, 1.68, 0.44), (0.125, 1.58, 0.44), color=helmet
    )
    return body.build()


class _Builder:
    """Collects polygons; ``build`` gives the body."""

    def __init__(self) -> None:
        self._points: list[Corner] = []
        self._faces: list[tuple[slice, Color, str]] = []

    def add(self, *corners: Corner, color: Color, lit: str = "front") -> None:
        start = len(self._points)
        self._points += corners
        self._faces.append((slice(start, len(self._points)), color, lit))

    def build(self) -> Body:
        return Body(np.array(self._points), tuple(self._faces))


def _quad(x: float, y: float, half_x: float, half_y: float, z: float) -> tuple[Corner, ...]:
    return (
        (x - half_x, y - half_y, z),
        (x + half_x, y - half_y, z),
        (x + half_x, y + half_y, z),
        (x - half_x, y + half_y, z),
    )


def _disc(x: float, y: float, radius: float, z: float = 0.0) -> tuple[Corner, ...]:
    turn = np.arange(10) * (2 * np.pi / 10)
    return tuple((x + radius * float(np.cos(angle)), y + radius * float(np.sin(angle)), z) for angle in turn)


def _wheel(x: float, y: float, z: float, radius: float) -> tuple[Corner, ...]:
    turn = np.arange(12) * (2 * np.pi / 12)
    return tuple((x, y + radius * float(np.sin(angle)), z + radius * float(np.cos(angle))) for angle in turn)


def _limb(
    body: _Builder, start: tuple[float, float], end: tuple[float, float], half: float, color: Color, z: float = 0
) -> None:
    (x0, y0), (x1, y1) = start, end
    body.add((x0 - half, y0, z), (x0 + half, y0, z), (x1 + half * 0.8, y1, z), (x1 - half * 0.8, y1, z), color=color)


def _scaled(color: Color, gain: float) -> Color:
    blue, green, red = (min(value * gain, 255.0) for value in color)
    return blue, green, red
