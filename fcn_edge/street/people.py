"""Walkers and cyclists as bodies; knows nothing about where they go."""

from __future__ import annotations

import functools

import numpy as np

from .bodies import Body, Builder, scaled
from .canvas import Color
from .cars import PAINTS

STEPS = 16
"""Number of poses in a stride or a turn of the pedals."""

_SKINS: tuple[Color, ...] = ((170, 196, 232), (130, 164, 214), (86, 120, 176), (50, 76, 120))
_CLOTHES: tuple[Color, ...] = (
    (60, 50, 48), (120, 70, 40), (50, 50, 180), (40, 120, 60), (200, 200, 205), (90, 90, 96), (60, 170, 220),
    (150, 60, 130), (170, 140, 60), (36, 34, 36), (80, 120, 190), (190, 170, 150),
)  # fmt: skip
_SHOES: Color = (32, 32, 36)


@functools.lru_cache(2048)
def person(look: int, step: int, aside: bool, toward: bool) -> Body:
    """A walker in pose ``step``, seen from the front, the back or (``aside``) the side."""
    rng = np.random.default_rng([22, look])
    tall, skin = rng.uniform(1.5, 1.88), _SKINS[int(rng.integers(len(_SKINS)))]
    coat, trousers = (_CLOTHES[int(index)] for index in rng.integers(len(_CLOTHES), size=2))
    hair = scaled((50, 66, 90), rng.uniform(0.3, 1.3))
    wide, skirt, bag = rng.uniform(0.19, 0.25), bool(rng.random() < 0.25), bool(rng.random() < 0.4)
    swing = float(np.sin(step * 2 * np.pi / STEPS))
    body, hip, neck = Builder(), tall * 0.5, tall * 0.83
    apart = 0.0 if aside else 0.09
    stride, lift = (0.34, 0.05) if aside else (0.04, 0.1)
    for sign in (-1, 1):
        foot, up = sign * (swing * stride + apart), max(sign * swing, 0) * lift
        body.limb((sign * apart, hip), (foot, up + 0.06), 0.09, scaled(trousers, 1 if sign > 0 else 0.8))
        body.panel(foot + (0.03 if aside else 0), up + 0.04, 0.1 if aside else 0.07, 0.04, 0, _SHOES)
    if skirt:
        body.add(
            (-0.15, hip + 0.1, 0), (0.15, hip + 0.1, 0), (0.23, hip - 0.32, 0), (-0.23, hip - 0.32, 0), color=trousers
        )
    sleeve, shoulder = scaled(coat, 0.78), wide * (0.7 if aside else 1.0)
    hands = (
        [(-0.28 * swing, 0.0)] if aside else [(sign * (shoulder + 0.06), sign * (shoulder + 0.02)) for sign in (-1, 1)]
    )
    for hand, joint in hands:
        body.limb((joint, neck - 0.06), (hand, hip + 0.02), 0.05, sleeve)
        body.disc(hand, hip, 0, 0.045, skin)
    body.add(
        (-shoulder, neck - 0.05, 0), (-0.08, neck + 0.02, 0), (0.08, neck + 0.02, 0), (shoulder, neck - 0.05, 0),
        (shoulder * 0.85, hip - 0.06, 0), (-shoulder * 0.85, hip - 0.06, 0), color=coat,
    )  # fmt: skip
    if aside:
        body.limb((0, neck - 0.08), (0.28 * swing, hip + 0.04), 0.05, sleeve)
    elif toward:
        body.panel(0, (hip + neck) / 2, 0.012, (neck - hip) / 2, 0, scaled(coat, 0.6), detail=True)
    if bag:
        body.panel(-shoulder - 0.05 if aside else shoulder + 0.04, hip + 0.2, 0.09, 0.17, 0, scaled(trousers, 0.7))
    body.panel(0, neck + 0.03, 0.05, 0.05, 0, scaled(skin, 0.85))
    body.disc(0, tall - 0.115, 0, 0.115, skin if toward or aside else hair)
    body.add(
        (-0.118, tall - 0.1, 0), (-0.09, tall - 0.02, 0), (0, tall + 0.02, 0), (0.09, tall - 0.02, 0),
        (0.118, tall - 0.1, 0), color=hair,
    )  # fmt: skip
    return body.build()


@functools.lru_cache(512)
def cyclist(look: int, step: int, toward: bool) -> Body:
    """A rider on a bicycle in pose ``step``."""
    rng = np.random.default_rng([23, look])
    skin = _SKINS[int(rng.integers(len(_SKINS)))]
    coat, trousers = (_CLOTHES[int(index)] for index in rng.integers(len(_CLOTHES), size=2))
    helmet, frame = (PAINTS[int(index)] for index in rng.integers(len(PAINTS), size=2))
    body, swing = Builder(), 0.13 * float(np.sin(step * 2 * np.pi / STEPS))
    for z in (1.06, 0.0):  # the far wheel first
        body.wheel(0.001, 0.34, z, 0.34, (30, 30, 32))
        body.wheel(0.001, 0.34, z, 0.27, (120, 122, 124), detail=True)
        body.panel(0, 0.34, 0.035, 0.34, z, (26, 26, 28))
    body.add((-0.03, 0.4, 0.1), (0.03, 0.9, 0.35), (0.03, 0.9, 0.75), (-0.03, 0.4, 0.95), color=frame)
    body.panel(0, 1.02, 0.28, 0.025, 0.15 if toward else 0.8, (40, 40, 44))
    for sign in (-1, 1):
        knee = 0.62 + sign * swing
        body.limb((sign * 0.1, 0.95), (sign * 0.15, knee), 0.08, trousers, 0.45)
        body.limb((sign * 0.15, knee), (sign * 0.11, knee - 0.42), 0.06, scaled(trousers, 0.8), 0.45)
        body.panel(sign * 0.12, knee - 0.45, 0.06, 0.04, 0.45, _SHOES)
        body.limb((sign * 0.2, 1.38), (sign * 0.27, 1.05), 0.05, scaled(coat, 0.8), 0.5)
    body.add(
        (-0.22, 1.4, 0.45), (-0.08, 1.48, 0.45), (0.08, 1.48, 0.45), (0.22, 1.4, 0.45), (0.16, 0.9, 0.4),
        (-0.16, 0.9, 0.4), color=coat,
    )  # fmt: skip
    body.disc(0, 1.58, 0.45, 0.11, skin)
    body.add(
        (-0.125, 1.58, 0.44), (-0.1, 1.68, 0.44), (0, 1.72, 0.44), (0.1, 1.68, 0.44), (0.125, 1.58, 0.44), color=helmet
    )
    return body.build()
