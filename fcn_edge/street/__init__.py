"""The procedural street: driving scenes with exact labels, as single pictures and data sets.

It knows nothing about models. The demo trains on it, ``synthetic://street`` streams it, the tests use it.
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np

from .. import pixels
from ..errors import UsageError
from ..files import write_atomically
from ..pixels import Image, Labels
from .backdrop import paint_ground, paint_sky
from .canvas import Camera, Canvas
from .classes import CLASS_NAMES, PALETTE
from .light import develop, light_from_seed
from .paint import in_frame, paint_shadow, paint_thing
from .plan import Street, street_from_seed, things

__all__ = ["CLASS_NAMES", "LONGEST_S", "PALETTE", "SIDES", "draw_street", "write_dataset"]

SIDES = (16, 4096)
"""The shortest and the longest side of a picture that can be drawn."""

LONGEST_S = 1e6
"""How long a drive may be, in seconds."""
_SPLIT = 500_000  # numbers set aside for the streets of each split


def draw_street(seed: int, time_s: float, size_hw: tuple[int, int]) -> tuple[Image, Labels]:
    """Draw a street at a moment; the same arguments always give the same picture, whatever was drawn before.

    The camera drives along the street, so moments of one seed are frames of one clip, which never ends.

    Args:
        seed: the street, its houses, weather and traffic; 0 or more.
        time_s: seconds since the start, 0 to 10^6.
        size_hw: (height, width), each side 16 to 4096.

    Returns:
        uint8 ``[height, width, 3]`` BGR and uint8 ``[height, width]`` ids of ``CLASS_NAMES``, both newly made.

    Raises:
        UsageError: if an argument lies outside its range.
        MissingError: if OpenCV is not installed.
    """
    _check(seed, time_s, size_hw)
    cv2, street, light = pixels.require_cv2(), street_from_seed(seed), light_from_seed(seed)
    height, width = size_hw
    shape = (height, width)
    canvas = Canvas(cv2, _camera(street, time_s, shape), np.empty((*shape, 3), np.uint8), np.empty(shape, np.uint8))
    paint_sky(canvas, seed)
    paint_ground(canvas, seed)
    seen = [thing for thing in things(street, time_s) if in_frame(canvas, street, thing)]
    for thing in seen:
        paint_shadow(canvas, street, light, thing)
    for thing in seen:
        paint_thing(canvas, street, light, thing)
    return develop(cv2, canvas.image, light, seed, round(time_s * 1000)), canvas.labels


def write_dataset(root: Path, train: int, val: int, size_hw: tuple[int, int], seed: int = 0) -> None:
    """Write pictures and masks in the plain layout of :func:`fcn_edge.dataset.open_dataset`.

    Each picture is a street of its own; no street is in both splits, and ``val`` does not depend on ``train``.

    Args:
        root: folder to write ``images/``, ``masks/`` and ``classes.json`` to.
        train: number of pictures in ``train``, up to 500000.
        val: number of pictures in ``val``, up to 500000.
        size_hw: (height, width).
        seed: another seed gives other streets.

    Raises:
        UsageError: if a size or a number cannot be used.
    """
    if not 0 <= train <= _SPLIT or not 0 <= val <= _SPLIT or train + val < 1:
        raise UsageError(
            f"{train} train and {val} val pictures were asked for; expected 0 to {_SPLIT} of each, not none"
        )
    _check(seed, 0, size_hw)
    first = 2 * _SPLIT * seed
    for split, start, count in (("train", first, train), ("val", first + _SPLIT, val)):
        for number in range(start, start + count):
            image, labels = draw_street(number, 10.0, size_hw)
            name = f"street_{number:06d}.png"
            pixels.write_png(root / "images" / split / name, image)
            pixels.write_png(root / "masks" / split / name, labels)
    classes = {"names": CLASS_NAMES, "palette": PALETTE}
    write_atomically(root / "classes.json", msgspec.json.format(msgspec.json.encode(classes)))


def _camera(street: Street, time_s: float, size_hw: tuple[int, int]) -> Camera:
    """The camera in the car: it looks a little ahead along the street and sways."""
    height, width = size_hw
    z, u = street.camera_z(time_s), street.camera_u(time_s)
    focal = street.zoom * width
    heading = (street.bend(z + 25) - street.bend(z)) / 25 + 0.006 * math.sin(0.9 * time_s + street.seed)
    nod = 0.0022 * math.sin(7.1 * time_s) + 0.004 * math.sin(1.3 * time_s)
    eye = (street.bend(z) + u, street.eye_m + 0.012 * math.sin(9 * time_s), z)
    return Camera(focal, width / 2 - focal * heading, street.horizon * height + focal * nod, eye)


def _check(seed: int, time_s: float, size_hw: tuple[int, int]) -> None:
    least, most = SIDES
    if len(size_hw) != 2 or not all(isinstance(side, (int, np.integer)) and least <= side <= most for side in size_hw):
        raise UsageError(f"street size is {size_hw}; expected (height, width) with sides of {least} to {most} pixels")
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise UsageError(f"street seed is {seed}; expected a whole number, 0 or more")
    if not 0 <= time_s <= LONGEST_S:
        raise UsageError(f"street time is {time_s} s; expected 0 to {LONGEST_S:.0f}")
