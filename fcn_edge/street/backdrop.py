"""What lies behind everything that stands: sky, skyline and the ground; knows nothing about cars and houses."""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..pixels import Image, Labels, require_cv2
from .canvas import Canvas
from .classes import BUILDING, PAVEMENT, ROAD, SKY, TREE
from .light import Light, light_from_seed
from .plan import CROSSING_EVERY_M, Street, street_from_seed
from .textures import clouds, noise

_HALF_M = 20.0  # the ground picture reaches this far to both sides
_ACROSS_M, _ALONG_M = 0.05, 0.128  # size of its pixels
_SKYLINE_M = 200.0


@dataclass(frozen=True)
class _Ground:
    """The street from above: pictures ever shorter (and later narrower), and the class of each column."""

    levels: tuple[Image, ...]
    classes: Labels


def paint_sky(canvas: Canvas, seed: int) -> None:
    """Paint sky and skyline over the whole canvas."""
    height, width = canvas.labels.shape
    camera = canvas.camera
    picture, labels = _sky(seed, height, width, camera.focal)
    left = min(max(round(width / 2 - (camera.center - width / 2)), 0), width)
    below = min(max(round(camera.horizon), 0), height)
    canvas.image[:below] = picture[height - below :, left : left + width]
    canvas.labels[:below] = labels[height - below :, left : left + width]


def paint_ground(canvas: Canvas, seed: int) -> None:
    """Paint road, pavements and yards: each pixel looks up its place on the street from above."""
    cv2, camera, light = canvas.cv2, canvas.camera, light_from_seed(seed)
    street, ground = street_from_seed(seed), _ground(seed)
    height, width = canvas.labels.shape
    top = max(round(camera.horizon), 0)
    if top >= height:
        return
    depth = camera.focal * camera.eye[1] / np.maximum(np.arange(top, height) - camera.horizon, 0.25)
    z = camera.eye[2] + depth
    across = depth / camera.focal
    begin = camera.eye[0] - camera.center * across - street.bend_at(np.minimum(z, camera.eye[2] + 300)) + _HALF_M
    column = (across[:, None] * np.arange(width) + begin[:, None]).astype(np.float32) / np.float32(_ACROSS_M)
    np.clip(column, 0, len(ground.classes) - 1, out=column)
    canvas.labels[top:] = ground.classes[column.astype(np.int16)]
    finest = np.log2(depth**2 / (camera.focal * camera.eye[1]) / _ALONG_M)
    level = np.clip(np.rint(finest), 0, len(ground.levels) - 1).astype(int)
    for number in np.unique(level):
        rows = np.flatnonzero(level == number)
        first, last = int(rows[0]), int(rows[-1]) + 1
        picture = ground.levels[number]
        map_x = (column[first:last] + 0.5) * np.float32(picture.shape[1] / len(ground.classes)) - np.float32(0.5)
        along = (z[first:last] % CROSSING_EVERY_M) * (picture.shape[0] / CROSSING_EVERY_M) - 0.5
        map_y = np.ascontiguousarray(np.broadcast_to(along.astype(np.float32)[:, None], map_x.shape))
        part = canvas.image[top + first : top + last]
        cv2.remap(picture, map_x, map_y, cv2.INTER_LINEAR, dst=part, borderMode=cv2.BORDER_WRAP)
    haze = 1 - np.exp(-depth / light.haze_m)
    far = int(np.count_nonzero(haze > 0.03))
    air = (haze[:far, None] * np.array(light.rim))[:, None]
    mixed = canvas.image[top : top + far] * (1 - haze[:far])[:, None, None] + air
    canvas.image[top : top + far] = mixed.astype(np.uint8)


@functools.lru_cache(4)
def _sky(seed: int, height: int, width: int, focal: float) -> tuple[Image, Labels]:
    """Sky and skyline, twice as wide as the frame, with the horizon at the lower edge."""
    cv2, light = require_cv2(), light_from_seed(seed)
    rise = (np.arange(height, 0, -1) / focal).astype(np.float32)  # height over the horizon: tangent of the elevation
    mix = np.clip(rise / 0.75, 0, 1)[:, None, None] ** 0.6
    sky = mix * np.array(light.zenith, np.float32) + (1 - mix) * np.array(light.rim, np.float32)
    over = 1 / (rise + np.float32(0.16))  # the clouds lie on a level layer
    side = (np.arange(2 * width, dtype=np.float32) - width) / np.float32(focal)
    map_x = side[None] * over[:, None] * np.float32(90) + np.float32(seed * 37 % 1024)
    map_y = np.ascontiguousarray(np.broadcast_to((over * 70)[:, None], map_x.shape))
    density = cv2.remap(clouds(seed % 8), map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    alpha = np.clip((density - np.float32(0.72 - 0.45 * light.cover)) / np.float32(0.2), 0, 1)
    alpha = (alpha * np.clip(rise * 9, 0.15, 0.92)[:, None])[..., None]
    shade = np.array(light.cloud, np.float32) * (np.float32(1.04) - np.float32(0.2) * alpha)
    picture = np.clip(sky + (shade - sky) * alpha, 0, 255).astype(np.uint8)
    labels = np.full(picture.shape[:2], SKY, np.uint8)
    _paint_skyline(cv2, picture, labels, light, np.random.default_rng([14, seed]), focal / _SKYLINE_M)
    return picture, labels


def _paint_skyline(
    cv2: types.ModuleType, picture: Image, labels: Labels, light: Light, rng: np.random.Generator, scale: float
) -> None:
    """Far houses and trees along the lower edge; ``scale`` is pixels a metre."""
    height, width = labels.shape
    left = 0.0
    tone = light.tone("front", _SKYLINE_M * 0.8)
    while left < width:
        wide, high = rng.uniform(9, 24) * scale, rng.uniform(7, 19) * scale
        gray = rng.uniform(70, 170)
        color = tone.apply((gray * rng.uniform(0.8, 1.1), gray, gray * rng.uniform(0.9, 1.15)))
        corner = (round(left), height - round(high))
        for target, value in ((picture, color), (labels, BUILDING)):
            cv2.rectangle(target, corner, (round(left + wide), height), value, -1)
        if rng.random() < 0.5:  # a gable
            roof = np.array(
                [[left, height - high], [left + wide, height - high], [left + wide / 2, height - high * 1.3]]
            )
            for target, value in ((picture, tone.apply((60, 70, 110))), (labels, BUILDING)):
                cv2.fillConvexPoly(target, np.rint(roof).astype(np.int32), value)
        for _ in range(int(rng.integers(0, 5))):
            middle = (round(left + rng.uniform(0, 1) * wide), height - round(rng.uniform(1, 4) * scale))
            radius = round(rng.uniform(2.5, 5.5) * scale)
            for target, value in ((picture, tone.apply((46, 96, 66))), (labels, TREE)):
                cv2.circle(target, middle, radius, value, -1)
        left += wide * rng.uniform(0.8, 1.0)


@functools.lru_cache(8)
def _ground(seed: int) -> _Ground:
    cv2, street, light = require_cv2(), street_from_seed(seed), light_from_seed(seed)
    rng = np.random.default_rng([15, seed])
    columns, rows = round(2 * _HALF_M / _ACROSS_M), round(CROSSING_EVERY_M / _ALONG_M)
    u = np.arange(0.5, columns) * _ACROSS_M - _HALF_M
    z = np.arange(0.5, rows) * _ALONG_M
    green = rng.random() < 0.45 + 0.5 * (1 - street.houses)
    classes = np.full(columns, TREE if green else PAVEMENT, np.uint8)
    classes[(-street.wall_m[0] < u) & (u < street.wall_m[1])] = PAVEMENT
    on_road = (-street.kerb_m[0] < u) & (u < street.kerb_m[1])
    classes[on_road] = ROAD
    picture = _asphalt(rng, rows, columns)
    _mark(picture, street, u, z, rng)
    _pave(picture, street, u, z, rng, classes)
    picture *= np.array(light.tone("up", 0).gain, np.float32)
    levels, width = [np.minimum(picture, 255, out=picture).astype(np.uint8)], columns
    while levels[-1].shape[0] >= 10:
        if len(levels) >= 4 and len(levels) % 2 == 0:
            width //= 2
        size = (width, levels[-1].shape[0] // 2)  # cv2 sizes are (width, height)
        levels.append(cv2.resize(levels[-1], size, interpolation=cv2.INTER_AREA))
    return _Ground(tuple(levels), classes)


def _asphalt(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.float32]:
    """Worn asphalt: grain, stains and patches, float32 ``[rows, columns, 3]``."""
    cv2 = require_cv2()
    base = rng.uniform(82, 124) * np.array([rng.uniform(0.98, 1.05), 1.0, rng.uniform(0.96, 1.02)])
    shade = 0.86 + 0.16 * noise(rng, rows, columns, 40) + 0.12 * rng.random((rows, columns), dtype=np.float32)
    for _ in range(int(rng.integers(3, 14))):
        top, left = int(rng.integers(rows)), int(rng.integers(columns))
        high, wide = int(rng.integers(10, 90)), int(rng.integers(14, 60))
        shade[top : top + high, left : left + wide] *= rng.uniform(0.8, 1.08)
    for _ in range(10):  # manholes and cracks
        at = (int(rng.integers(columns)), int(rng.integers(rows)))
        cv2.ellipse(shade, at, (6, 2), 0, 0, 360, 0.68, -1)
        cv2.ellipse(shade, at, (6, 2), 0, 0, 360, 0.5, 1)
        at = (int(rng.integers(columns)), int(rng.integers(rows)))
        crack = np.cumsum(rng.integers(-5, 6, (14, 2)) + np.array((5, 0)), axis=0) + at[::-1]
        cv2.polylines(shade, [crack[:, ::-1].astype(np.int32)], False, 0.62, 1)
    return shade[..., None] * base.astype(np.float32)


def _mark(
    picture: NDArray[np.float32],
    street: Street,
    u: NDArray[np.float64],
    z: NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    """Lane lines, parking bays, stop lines and the zebra crossing."""
    white = np.array([222.0, 226, 226]) * rng.uniform(0.82, 1.0)
    middle = np.array([60.0, 190, 225]) if rng.random() < 0.3 else white
    road_l, road_r = (street.lane_m * street.lanes * sign for sign in (-1, 1))

    def line(at: float, color: NDArray[np.float64], on: float, off: float) -> None:
        dashes = np.flatnonzero((z % (on + off) < on) & (z > 6) & (z < CROSSING_EVERY_M - 4))
        picture[np.ix_(dashes, np.flatnonzero(np.abs(u - at) < 0.075))] = color

    line(0.0, middle, *((3.2, 0.0) if rng.random() < 0.3 else (3.2, 3.2)))
    for index in range(1, street.lanes):
        for sign in (-1, 1):
            line(sign * index * street.lane_m, white, 3.2, 3.2)
    for side, edge in enumerate((road_l, road_r)):
        if street.parking[side]:
            line(edge, white, 0.8, 0.8)
        elif rng.random() < 0.5:
            line(edge + (0.12 if side == 0 else -0.12), white, 3.2, 0.0)
    stripes = np.flatnonzero((u % 1.0 < 0.5) & (u > road_l) & (u < road_r))
    picture[np.ix_(np.flatnonzero(z < 3.2), stripes)] = white
    own = np.flatnonzero((u * street.drive > 0.15) & (u * street.drive < street.lane_m * street.lanes))
    picture[np.ix_(np.flatnonzero(np.abs(z - CROSSING_EVERY_M + 1.6) < 0.2), own)] = white
    dark = np.zeros_like(u)  # wheels polish two tracks in each lane
    for lane in np.arange(-street.lanes, street.lanes) + 0.5:
        for track in (-0.75, 0.75):
            dark += 0.1 * np.exp(-(((u - lane * street.lane_m - track) / 0.3) ** 2))
    picture *= (1 - dark)[None, :, None].astype(np.float32)


def _pave(
    picture: NDArray[np.float32],
    street: Street,
    u: NDArray[np.float64],
    z: NDArray[np.float64],
    rng: np.random.Generator,
    classes: Labels,
) -> None:
    """Slabs on the pavement, kerb stones, a gutter, grass behind."""
    rows, columns = picture.shape[:2]
    tint = np.array(
        [(150, 158, 164), (128, 146, 168), (120, 124, 130), (140, 160, 186)][int(rng.integers(4))], np.float32
    )
    slab_u, slab_z = rng.uniform(0.4, 0.9), rng.uniform(0.5, 1.0)
    each = 0.86 + 0.22 * rng.random(
        (int(CROSSING_EVERY_M / slab_z) + 1, int(2 * _HALF_M / slab_u) + 2), dtype=np.float32
    )
    shade = each[(z / slab_z).astype(int)][:, ((u + _HALF_M) / slab_u).astype(int)]
    joints = (z % slab_z < _ALONG_M)[:, None] | (u % slab_u < _ACROSS_M)[None]
    shade = np.where(joints, np.float32(0.72), shade) * (0.88 + 0.2 * noise(rng, rows, columns, 30))
    paved = np.flatnonzero(classes == PAVEMENT)
    picture[:, paved] = shade[:, paved, None] * tint
    grass = np.flatnonzero(classes == TREE)
    if grass.size:
        blades = 0.6 + 0.35 * noise(rng, rows, columns, 14) + 0.3 * rng.random((rows, columns), dtype=np.float32)
        picture[:, grass] = blades[:, grass, None] * np.array([48, 118, 88], np.float32)
    stones = np.where(z % 1.0 < _ALONG_M, 0.75, 1.0)[:, None, None]
    for kerb, sign in zip(street.kerb_m, (-1, 1), strict=True):
        out = u * sign - kerb
        picture[:, (out > 0) & (out < 0.2)] = stones * np.array([178.0, 182, 184])
        picture[:, (out < 0) & (out > -0.25)] *= 0.72
