"""Pictures of surfaces, each made from a number: facades, leaves, planks, roofs, clouds; knows nothing about places."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..pixels import Image, Labels, require_cv2
from .canvas import Color, Texture

FACADES = 40
CROWNS = 16
_PX_PER_M = 22

# Blue, green, red.
_WALLS: tuple[Color, ...] = (
    (62, 78, 140), (70, 92, 158), (88, 108, 150), (150, 178, 205), (175, 200, 214), (190, 196, 200), (128, 140, 150),
    (150, 190, 220), (196, 200, 182), (170, 150, 138), (120, 160, 190), (205, 212, 216), (96, 100, 112),
    (140, 176, 165),
)  # fmt: skip


@dataclass(frozen=True)
class Facade:
    """The front of a house.

    Attributes:
        width_m: along the street.
        height_m: from the ground to the eaves.
        wall: colour of its plain walls.
        day: with dark windows.
        dusk: with some windows lit.
    """

    width_m: float
    height_m: float
    wall: Color
    day: Texture
    dusk: Texture


def noise(rng: np.random.Generator, height: int, width: int, cell: int) -> NDArray[np.float32]:
    """Smooth noise, float32 ``[height, width]`` in 0..1 with blobs of about ``cell`` pixels; it tiles."""
    cv2 = require_cv2()
    grid = rng.random((max(height // cell, 1), max(width // cell, 1)), dtype=np.float32)
    scale_y, scale_x = height / grid.shape[0], width / grid.shape[1]
    padded = np.pad(grid, 2, mode="wrap")
    size = (round(padded.shape[1] * scale_x), round(padded.shape[0] * scale_y))
    wide = cv2.resize(padded, size, interpolation=cv2.INTER_LINEAR)
    top, left = round(2 * scale_y), round(2 * scale_x)
    part: NDArray[np.float32] = wide[top : top + height, left : left + width]
    return part


def pyramid(picture: Image, mask: Labels | None = None) -> Texture:
    """A texture with its smaller copies."""
    cv2 = require_cv2()
    levels, masks = [picture], [] if mask is None else [mask]
    while min(levels[-1].shape[:2]) >= 4:
        size = (levels[-1].shape[1] // 2, levels[-1].shape[0] // 2)
        levels.append(cv2.resize(levels[-1], size, interpolation=cv2.INTER_AREA))
        if mask is not None:
            soft = cv2.resize(mask * np.uint8(255), size, interpolation=cv2.INTER_AREA)
            masks.append((soft > 110).astype(np.uint8))
    return Texture(tuple(levels), tuple(masks))


@functools.lru_cache(FACADES)
def facade(index: int) -> Facade:
    """House front number ``index``."""
    rng = np.random.default_rng([1, index])
    office = index % 5 == 4
    floors, bays = int(rng.integers(2, 7 if office else 5)), int(rng.integers(3, 6))
    bay_m, floor_m, ground_m = rng.uniform(2.3, 3.3), rng.uniform(2.7, 3.2), rng.uniform(3.2, 4.2)
    width_m, height_m = bays * bay_m, ground_m + (floors - 1) * floor_m + 0.6
    height, width = int(height_m * _PX_PER_M), int(width_m * _PX_PER_M)
    wall = _WALLS[int(rng.integers(len(_WALLS)))]
    picture = _wall(rng, height, width, np.array(wall), "plain" if office else str(rng.choice(["brick", "plaster"])))
    dusk = picture.copy()
    trim = np.array(wall) * 0.55 + 110 if rng.random() < 0.7 else np.array(wall) * 0.6
    frame = np.array([225.0, 228, 230]) if rng.random() < 0.65 else np.array([50.0, 58, 70])
    cornice = int(0.35 * _PX_PER_M)
    for canvas in (picture, dusk):
        canvas[:cornice] = trim
        canvas[cornice : cornice + 2] = trim * 0.5
    bay, floor, ground = bay_m * _PX_PER_M, floor_m * _PX_PER_M, ground_m * _PX_PER_M
    window_w, window_h = bay * (0.86 if office else rng.uniform(0.4, 0.56)), floor * rng.uniform(0.52, 0.64)
    for row in range(floors - 1):
        for column in range(bays):
            left = int((column + 0.5) * bay - window_w / 2)
            top = int(0.6 * _PX_PER_M + row * floor + (floor - window_h) * 0.45)
            _window(rng, picture, dusk, (top, left, int(window_h), int(window_w)), frame)
    _ground_floor(rng, picture, dusk, int(height - ground), bays, bay, trim, frame)
    return Facade(width_m, height_m, wall, pyramid(picture), pyramid(dusk))


@functools.lru_cache(CROWNS)
def crown(index: int) -> Texture:
    """The leaves of a tree or bush, lit from the upper left, with holes."""
    cv2 = require_cv2()
    rng = np.random.default_rng([2, index])
    size = 160
    picture, mask = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.uint8)
    leaf = np.array([(38, 92, 62), (30, 84, 48), (34, 106, 96), (46, 76, 58), (28, 96, 122)][index % 5], np.float64)
    leaf = leaf * rng.uniform(0.8, 1.15)
    lobes = rng.uniform(-0.5, 0.5, (7, 2)) * (0.9, 0.8)
    picture[:] = leaf * 0.45
    spots = []
    for lobe in lobes:
        angle, radius = rng.uniform(0, 2 * np.pi, 75), 0.38 * np.sqrt(rng.random(75))
        spots.append(lobe + np.stack((radius * np.cos(angle), radius * np.sin(angle)), 1))
    spots_xy = np.clip(np.concatenate(spots), -0.92, 0.92)
    light = -0.55 * spots_xy[:, 1] - 0.3 * spots_xy[:, 0] + rng.normal(0, 0.2, len(spots_xy))
    for spot in np.argsort(light):
        at = (int((spots_xy[spot, 0] + 1) * size / 2), int((spots_xy[spot, 1] + 1) * size / 2))
        gain, dot = 0.42 + 0.75 * float(np.clip(light[spot] * 0.7 + 0.5, 0, 1.25)), int(rng.integers(3, 8))
        cv2.circle(picture, at, dot, tuple((leaf * gain).tolist()), -1)
        cv2.circle(mask, at, dot, 1, -1)
    return pyramid(picture, mask)


@functools.lru_cache(8)
def hedge(index: int) -> Texture:
    """A clipped hedge, about 6 m long and 1.5 m high."""
    rng = np.random.default_rng([3, index])
    height, width = 48, 192
    leaves = noise(rng, height, width, 3) * 0.6 + noise(rng, height, width, 12) * 0.5
    rise = np.linspace(1.15, 0.55, height)[:, None]
    picture = np.clip((leaves * rise)[..., None] * np.array([52.0, 128, 84]) + 8, 0, 255).astype(np.uint8)
    edge = (noise(rng, 2, width, 6)[0] * 7).astype(int)
    return pyramid(picture, (np.arange(height)[:, None] >= edge).astype(np.uint8))


@functools.lru_cache(8)
def planks(index: int) -> Texture:
    """A fence: boards, brown or dark, or pickets, about 6 m long; number 3 of four: 2 m of close railings."""
    rng = np.random.default_rng([4, index])
    height, width = 64, 240
    color = np.array([(66, 98, 140), (58, 74, 96), (188, 196, 200), (70, 84, 60)][index % 4], np.float64)
    board = (12, 20, 10, 20)[index % 4]
    each = rng.uniform(0.78, 1.12, width // board + 1)[np.arange(width) // board]
    shade = each * np.where(np.arange(width) % board < 2, 0.45, 1.0) * (0.9 + 0.2 * noise(rng, height, width, 3))
    for rail in (14, 48):
        shade[rail : rail + 4] *= 0.72
    picture = np.clip(shade[..., None] * color, 0, 255).astype(np.uint8)
    tips = np.abs(np.arange(width) % board - board / 2) * (1.0 if index % 4 == 2 else 0.0)
    return pyramid(picture, (np.arange(height)[:, None] >= tips).astype(np.uint8))


@functools.lru_cache(4)
def roof(index: int) -> Texture:
    """Rows of tiles: red, brown, slate or moss."""
    rng = np.random.default_rng([5, index])
    color = np.array([(58, 72, 150), (56, 74, 108), (104, 98, 92), (66, 92, 96)][index % 4], np.float64)
    rows = np.where(np.arange(96) % 6 < 1, 0.6, 1.0)[:, None] * (0.75 + 0.5 * noise(rng, 96, 192, 4))
    return pyramid(np.clip(rows[..., None] * color, 0, 255).astype(np.uint8))


@functools.lru_cache(8)
def clouds(index: int) -> NDArray[np.float32]:
    """Cloud density, float32 ``[256, 1024]`` in 0..1."""
    rng = np.random.default_rng([6, index])
    layers = (noise(rng, 256, 1024, cell) * share for cell, share in ((96, 0.5), (40, 0.28), (16, 0.14), (6, 0.08)))
    total: NDArray[np.float32] = sum(layers, np.zeros((256, 1024), np.float32))
    return total


def _wall(rng: np.random.Generator, height: int, width: int, color: NDArray[np.float64], kind: str) -> Image:
    shade = 0.9 + 0.14 * noise(rng, height, width, 24) + 0.1 * (noise(rng, height, width, 2) - 0.5)
    if kind == "brick":
        rows, columns = np.arange(height)[:, None], np.arange(width)[None]
        joint = (rows % 4 == 0) | ((columns + (rows // 4 % 2) * 5) % 10 == 0)
        bricks = rng.uniform(0.84, 1.12, (height // 4 + 1, width // 10 + 2)).astype(np.float32)
        shade = np.where(joint, shade * 1.16, shade * bricks[rows // 4, (columns + (rows // 4 % 2) * 5) // 10])
    shade = shade * np.linspace(1.04, 0.9, height)[:, None]  # dirt gathers at the foot
    return np.clip(shade[..., None] * color, 0, 255).astype(np.uint8)


def _window(
    rng: np.random.Generator,
    picture: Image,
    dusk: Image,
    box: tuple[int, int, int, int],
    frame: NDArray[np.float64],
) -> None:
    """A window in both pictures; ``box`` is top, left, height, width."""
    top, left, height, width = box
    bottom, right = top + height, left + width
    curtain = rng.random()
    lit = np.array([110.0, 205, 255]) * rng.uniform(0.75, 1.0) if rng.random() < 0.45 else None
    for canvas, lamp in ((picture, None), (dusk, lit)):
        canvas[top - 1 : bottom + 2, left - 2 : right + 2] = frame
        glass = canvas[top + 1 : bottom, left:right]
        fall = np.linspace(1.0, 0.55, glass.shape[0])[:, None, None]
        glass[:] = np.array([118.0, 96, 76]) * fall if lamp is None else lamp
        if curtain < 0.5:
            side = max(glass.shape[1] // 5, 1)
            glass[:, :side] = glass[:, -side:] = (150, 160, 165) if lamp is None else (90, 160, 215)
        elif curtain < 0.7:
            glass[: glass.shape[0] // 2] = (165, 175, 180)
        canvas[top:bottom, left + width // 2] = frame
        canvas[top + height // 3, left:right] = frame
        canvas[top - 1, left - 2 : right + 2] = frame * 0.45  # the lintel's shadow
        canvas[bottom + 1 : bottom + 3, left - 3 : right + 3] = np.minimum(frame * 0.7 + 60, 255)


def _ground_floor(
    rng: np.random.Generator,
    picture: Image,
    dusk: Image,
    top: int,
    bays: int,
    bay: float,
    trim: NDArray[np.float64],
    frame: NDArray[np.float64],
) -> None:
    """A shop with sign and awning, or a door between windows."""
    height = picture.shape[0]
    shop = rng.random() < 0.45
    brand = rng.uniform(30, 200, 3)
    door = int(rng.integers(bays))
    for canvas in (picture, dusk):
        canvas[top : top + 4] = trim
    for column in range(bays):
        left, right = int(column * bay + bay * 0.14), int((column + 1) * bay - bay * 0.14)
        if column == door:
            wood = rng.uniform(30, 130, 3)
            middle = (left + right) // 2
            for canvas in (picture, dusk):
                canvas[top + 26 :, middle - 13 : middle + 13] = frame
                canvas[top + 30 :, middle - 10 : middle + 10] = wood
                canvas[top + 34 : top + 48, middle - 7 : middle + 7] = (110, 96, 84)
                canvas[top + 58 : top + 60, middle + 5 : middle + 8] = (90, 200, 220)
        elif shop:
            _window(rng, picture, dusk, (top + 26, left, height - top - 38, right - left), frame * 0.7)
        else:
            _window(rng, picture, dusk, (top + 24, left + 6, (height - top) // 2 - 8, right - left - 12), frame)
    if shop:
        stripes = np.where(np.arange(picture.shape[1]) // 9 % 2 == 0, 1.0, 0.35)[None, :, None]
        for canvas in (picture, dusk):
            canvas[top + 5 : top + 16] = brand * 0.8
            for start in range(14, canvas.shape[1] - 20, 11):
                if rng.random() < 0.6:
                    canvas[top + 8 : top + 13, start : start + 6] = 235  # letters
            canvas[top + 16 : top + 25] = np.clip(brand * stripes + 235 * (1 - stripes), 0, 255)
