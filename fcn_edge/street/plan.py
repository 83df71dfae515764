"""A street as numbers: its course, what stands and moves on it at a time; knows nothing about pixels.

Along the street lies ``z`` (metres forward), across it ``u`` (metres to the right of its middle). Everything follows
from the seed, a place's number and the time, so that any moment can be asked for in any order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .textures import FACADES, facade

VIEW_M = 170.0
_CHUNK_M = 60.0
RAILING = 3  # the look of a fence along the kerb; fences of gardens have others
CROSSING_EVERY_M = 102.4  # also the ground picture's length: 800 of its pixels of 0.128 m


@dataclass(frozen=True)
class Street:
    """One street with its weather.

    Attributes:
        seed: what everything follows from.
        course: (amplitude in metres, wave length in metres, phase) of each sine of the middle line.
        lane_m: width of a lane.
        lanes: lanes in each direction.
        kerb_m: distance of the left and right kerb from the middle.
        wall_m: distance of the left and right house fronts from the middle.
        parking: whether cars park on the left and right.
        drive: 1 where traffic keeps right, -1 where it keeps left.
        houses: share of the lots with a house close to the pavement, 0 to 1.
        trees_every_m: distance between trees on the left and right pavement; 0: none.
        start_m: where the camera is at time 0.
        speed: of the camera, metres a second.
        eye_m: height of the camera.
        zoom: focal length in frame widths.
        horizon: row of the horizon as share of the height.
        busy: share of the places for cars and people that are taken.
    """

    seed: int
    course: tuple[tuple[float, float, float], ...]
    lane_m: float
    lanes: int
    kerb_m: tuple[float, float]
    wall_m: tuple[float, float]
    parking: tuple[bool, bool]
    drive: int
    houses: float
    trees_every_m: tuple[float, float]
    start_m: float
    speed: float
    eye_m: float
    zoom: float
    horizon: float
    busy: float

    def bend(self, z: float) -> float:
        """The middle line's sideways position at ``z``, metres."""
        return sum(high * math.sin(z * 2 * math.pi / length + phase) for high, length, phase in self.course)

    def bend_at(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """:meth:`bend` of float64 ``[n]``."""
        waves = (high * np.sin(z * (2 * math.pi / length) + phase) for high, length, phase in self.course)
        return sum(waves, np.zeros_like(z))

    def slope(self, z: float) -> float:
        """How fast the middle line moves sideways at ``z``, metres a metre."""
        turns = ((high, 2 * math.pi / length, phase) for high, length, phase in self.course)
        return sum(high * turn * math.cos(z * turn + phase) for high, turn, phase in turns)

    def camera_z(self, time_s: float) -> float:
        """How far along the street the camera is, metres."""
        return self.start_m + self.speed * time_s + 0.8 * math.sin(0.6 * time_s)

    def camera_u(self, time_s: float) -> float:
        """Where in the width of the street the camera is, metres."""
        return self.drive * self.lane_m / 2 + 0.18 * math.sin(0.5 * time_s + self.seed % 7)


@dataclass(frozen=True)
class Thing:
    """Something on the street.

    Attributes:
        kind: ``house``, ``fence``, ``hedge``, ``tree``, ``bush``, ``lamp``, ``sign``, ``signal``, ``bollard``,
            ``car``, ``person`` or ``cyclist``.
        u: its middle (of a house, fence or hedge: its face to the street).
        z: its near end.
        length_m: along the street.
        look: number that its looks follow from.
        toward: whether it faces the camera.
        phase: of the step, radians.
        order: what has more is painted first.
        aside: whether it walks across the street.
    """

    kind: str
    u: float
    z: float
    length_m: float
    look: int
    toward: bool = False
    phase: float = 0.0
    order: float = 0.0
    aside: bool = False


@functools.lru_cache(64)
def street_from_seed(seed: int) -> Street:
    """The street of a seed."""
    rng = np.random.default_rng([10, seed])
    lane, lanes = rng.uniform(3.0, 3.6), 1 if rng.random() < 0.72 else 2
    parking = (bool(rng.random() < 0.6), bool(rng.random() < 0.6))
    kerb = tuple(lane * lanes + (2.3 if parked else 0.4) for parked in parking)
    wall = tuple(side + rng.uniform(2.8, 5.4) for side in kerb)
    trees = tuple(float(rng.uniform(9, 18)) if rng.random() < 0.6 else 0.0 for _ in range(2))
    course = tuple(
        (rng.uniform(0, 0.0032) * (length / (2 * math.pi)) ** 2, length, rng.uniform(0, 2 * math.pi))
        for length in (rng.uniform(260, 420), rng.uniform(150, 220))
    )
    return Street(
        seed=seed,
        course=course,
        lane_m=lane,
        lanes=lanes,
        kerb_m=(kerb[0], kerb[1]),
        wall_m=(wall[0], wall[1]),
        parking=parking,
        drive=1 if rng.random() < 0.6 else -1,
        houses=rng.uniform(0.35, 0.95),
        trees_every_m=(trees[0], trees[1]),
        start_m=rng.uniform(0, 2000),
        speed=rng.uniform(5.5, 10.0),
        eye_m=rng.uniform(1.25, 1.75),
        zoom=rng.uniform(0.78, 1.05),
        horizon=rng.uniform(0.43, 0.56),
        busy=rng.uniform(0.35, 0.9),
    )


def things(street: Street, time_s: float) -> list[Thing]:
    """Everything that can be seen at a time, the furthest first (the painter's algorithm)."""
    eye = street.camera_z(time_s)
    near, far = eye - 12, eye + VIEW_M
    found = [*_moving(street, time_s, eye)]
    for chunk in range(math.floor(near / _CHUNK_M) - 1, math.floor(far / _CHUNK_M) + 1):
        found += _standing(street, chunk)
    seen = [thing for thing in found if near < thing.z + thing.length_m and thing.z < far]
    return sorted(seen, key=lambda thing: -thing.order)


@functools.lru_cache(256)
def _standing(street: Street, chunk: int) -> tuple[Thing, ...]:
    """What stands between ``chunk`` and the next one."""
    start = chunk * _CHUNK_M
    return tuple(
        thing
        for side, sign in ((0, -1), (1, 1))
        for part in (_lots, _furniture)
        for thing in part(street, side, sign, start, _random(street, 20, side, chunk))
    )


def _lots(street: Street, side: int, sign: int, start: float, rng: np.random.Generator) -> Iterator[Thing]:
    """Houses, gardens and hedges, without a gap from ``start`` to the next chunk."""
    z, end, wall = start, start + _CHUNK_M, street.wall_m[side]
    while z < end - 0.5:
        look = int(rng.integers(1 << 30))
        width = facade(look % FACADES).width_m
        if rng.random() < street.houses and z + width <= end:
            u = sign * (wall + rng.uniform(0, 0.5))
            yield Thing("house", u, z, width, look, order=z + width)
            z += width
            continue
        width = min(rng.uniform(6, 14), end - z)
        behind = z + width + 0.3  # what grows in a garden is painted before its fence
        if rng.random() < 0.35:
            back = sign * (wall + rng.uniform(9, 14))
            yield Thing("house", back, z, facade(look % FACADES).width_m, look, order=behind + 0.2)
        for _ in range(int(width / 3.5)):
            u, along = sign * (wall + rng.uniform(2.5, 6)), rng.uniform(0.1, 0.9) * width
            yield Thing("tree", u, z + along, 0, int(rng.integers(1 << 30)), order=behind + 0.001 * (width - along))
        kind = ("fence", "hedge", "bush")[int(rng.choice(3, p=(0.55, 0.25, 0.2)))]
        if kind == "bush":
            for along in np.arange(0.7, width, 1.3):
                look = int(rng.integers(1 << 30))
                yield Thing("bush", sign * (wall + 0.8), z + along, 0, look, order=z + along + 0.5)
        else:
            yield Thing(kind, sign * wall, z, width, look - look % 4 + look % 3, order=z + width)
        z += width


def _furniture(street: Street, side: int, sign: int, start: float, rng: np.random.Generator) -> Iterator[Thing]:
    """What stands on the pavement and parks beside it."""
    kerb = street.kerb_m[side]
    edge = sign * (kerb + 0.45)
    look = rng.integers(1 << 30, size=32).tolist()
    for z in (start + 11 + 19 * side, start + 41 + 17 * side):
        yield Thing("lamp", edge, z, 0, street.seed * 2 + side, order=z)
    every = street.trees_every_m[side]
    if every:
        for index, z in enumerate(np.arange(start + 4, start + _CHUNK_M - 2, every)):
            yield Thing("tree", sign * (kerb + 0.7), float(z), 0, look[index], order=float(z))
    for index, z in enumerate(start + rng.uniform(0, _CHUNK_M, int(rng.integers(2, 5)))):
        yield Thing("sign", edge, float(z), 0, look[8 + index], rng.random() < 0.75, order=float(z))
    if rng.random() < 0.4:
        for z in start + rng.uniform(0, 40) + np.arange(int(rng.integers(3, 9))) * 2.2:
            yield Thing("bollard", edge, float(z), 0, look[14], order=float(z))
    if rng.random() < 0.45 and not street.parking[side]:
        # Railings in short pieces: one long thing could not be ordered among the people behind and the cars before it.
        for z in start + rng.uniform(0, 34) + 2.0 * np.arange(int(rng.integers(4, 11))):
            yield Thing("fence", sign * (kerb + 0.25), float(z), 2.0, RAILING, order=float(z) + 0.1)
    crossing = math.ceil(start / CROSSING_EVERY_M) * CROSSING_EVERY_M
    if crossing < start + _CHUNK_M:
        yield Thing("signal", edge, crossing - 1.2, 0, look[16], sign == street.drive, order=crossing - 1.2)
    if street.parking[side]:
        z = start + rng.uniform(0, 3)
        for index in range(9):
            length = 4.4
            at_crossing = abs((z + 2) % CROSSING_EVERY_M - 3) < 7
            if z + length < start + _CHUNK_M and not at_crossing and rng.random() < street.busy:
                u = sign * (kerb - 1.05 + rng.normal(0, 0.06))
                yield Thing("car", u, z, length, look[17 + index], sign != street.drive, order=z - 2)
            z += length + rng.uniform(0.9, 2.6)


def _moving(street: Street, time_s: float, eye: float) -> Iterator[Thing]:
    """Cars, cyclists and people on their way."""
    drive, lane, busy = street.drive, street.lane_m, street.busy
    for index in range(street.lanes):
        yield from _cars(street, index, -drive * lane * (index + 0.5), -street.speed * 0.9 - 2 * index, time_s, eye)
        if index:
            yield from _cars(street, 4 + index, drive * lane * (index + 0.5), street.speed * 1.25, time_s, eye)
    ahead = 13.0
    for index in range(4):  # the own lane: they keep their distance
        taken, gap, look = _numbers(street.seed, 30, index)[:3]
        ahead += 9 + 24 * gap
        if taken < busy:
            z = eye + ahead + 2.0 * math.sin(0.35 * time_s + index)
            yield Thing("car", drive * lane / 2, z, 4.4, _look(look), order=z - 5)
    for side, sign in ((0, -1), (1, 1)):
        along = sign == drive
        for index, z, numbers in _stream(street, 40 + side, 27.0, 4.6 if along else -4.6, time_s, eye):
            if numbers[0] < busy * 0.75:
                u, phase = sign * (lane * street.lanes - 0.45), 5.0 * time_s + index
                yield Thing("cyclist", u, z, 1.1, _look(numbers[1]), not along, phase, z - 4)
        room = max(street.wall_m[side] - street.kerb_m[side] - 1.4, 0.1)
        for way in (-1, 1):
            for index, z, numbers in _stream(street, 50 + 2 * side + way, 9.0, way * 1.3, time_s, eye):
                if numbers[0] < busy * 0.8:
                    u = sign * (street.kerb_m[side] + 0.9 + numbers[1] * room)
                    yield Thing("person", u, z, 0, _look(numbers[2]), way < 0, 5.5 * time_s + index, z)
    yield from _crossing(street, eye)


def _cars(street: Street, lane: int, u: float, speed: float, time_s: float, eye: float) -> Iterator[Thing]:
    for _, z, numbers in _stream(street, 60 + lane, 30.0, speed, time_s, eye):
        if numbers[0] < street.busy:
            yield Thing("car", u, z, 4.4, _look(numbers[1]), speed < 0, order=z - 5)


def _crossing(street: Street, eye: float) -> Iterator[Thing]:
    """People who cross ahead of the camera and are over before it comes."""
    place = math.ceil((eye + 13) / CROSSING_EVERY_M) * CROSSING_EVERY_M
    left, right = -street.kerb_m[0] - 0.5, street.kerb_m[1] + 0.5
    for index in range(5):
        taken, way, shift, look = _numbers(street.seed, 70, round(place), index)[:4]
        over = (75 - 7 * index - (place - eye)) / (35 - 2 * index)  # share of the way: 1 at 40 to 20 m ahead
        if 0 < over < 1 and taken < street.busy:
            u = left + over * (right - left) if way < 0.5 else right - over * (right - left)
            z = place + 0.4 + 2.4 * shift
            yield Thing("person", u, z, 0, _look(look), False, over * (right - left) * 4.2, z - 6, aside=True)


def _stream(
    street: Street, key: int, spacing: float, speed: float, time_s: float, eye: float
) -> Iterator[tuple[int, float, tuple[float, ...]]]:
    """Movers in a row without end: each one's number, place at ``time_s`` and random numbers of its own."""
    drift = speed * time_s
    first, last = math.floor((eye - drift - 12) / spacing) - 1, math.floor((eye - drift + 110) / spacing)
    for index in range(first, last + 1):
        place, *numbers = _numbers(street.seed, key, index)
        yield index, index * spacing + drift + place * max(spacing - 6, 1.0), tuple(numbers)


@functools.lru_cache(8192)
def _numbers(*key: int) -> tuple[float, ...]:
    """Five random numbers in 0..1 that belong to a key."""
    return tuple(np.random.default_rng([number & 0xFFFFFFFF for number in key]).random(5).tolist())


def _look(number: float) -> int:
    return int(number * (1 << 30))


def _random(street: Street, *numbers: int) -> np.random.Generator:
    return np.random.default_rng([street.seed, *(number & 0xFFFFFFFF for number in numbers)])
