"""How each thing of the plan is painted on the canvas; knows nothing about why it stands where it stands."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from .bodies import CIRCLE, LIT, Body, scaled
from .canvas import Canvas, Color, Face, Points
from .cars import car
from .classes import BUILDING, CAR, CYCLIST, FENCE, PERSON, POLE, SIGN, TREE
from .light import Light
from .people import STEPS, cyclist, person
from .plan import RAILING, Street, Thing
from .textures import CROWNS, FACADES, crown, facade, hedge, planks, roof

_HOUSE_DEEP_M = 9.0
_LEAST_PX = 1.4  # faces smaller than this are left out
# Further away than this they are smaller than a few pixels.
_FAR_M = {"person": 80.0, "cyclist": 90.0, "bollard": 50.0, "bush": 90.0, "sign": 100.0, "lamp": 110.0}
_STEEL: Color = (112, 116, 116)


def in_frame(canvas: Canvas, street: Street, thing: Thing) -> bool:
    """Whether a thing may show in the frame; what is not sure counts as seen."""
    camera = canvas.camera
    depth = thing.z - camera.eye[2]
    if thing.length_m > 5 or depth < 3:
        return thing.length_m > 0 or depth > 0.6
    if depth > _FAR_M.get(thing.kind, 200.0):
        return False
    column = camera.center + camera.focal * (street.bend(thing.z) + thing.u - camera.eye[0]) / depth
    reach = camera.focal * 4.5 / depth
    return bool(-reach < column < canvas.labels.shape[1] + reach)


def paint_shadow(canvas: Canvas, street: Street, light: Light, thing: Thing) -> None:
    """Darken the ground under and beside a thing; to be called for all things before any is painted."""
    depth = thing.z - canvas.camera.eye[2]
    if thing.kind == "car" and depth < 70:
        for grow, gain in ((0.25, 0.72), (0.0, 0.5)):
            half = 0.9 + grow
            flat = ((-half, 0, -grow), (half, 0, -grow), (half, 0, 4.4 + grow), (-half, 0, 4.4 + grow))
            canvas.shade(_placed(street, thing, flat), gain)
    elif thing.kind in ("person", "cyclist", "bollard") and depth < 40:
        flat = (
            (-0.28, 0, -0.12),
            (0.28, 0, -0.12),
            (0.28, 0, 0.25 + thing.length_m),
            (-0.28, 0, 0.25 + thing.length_m),
        )
        canvas.shade(_placed(street, thing, flat), 0.7)
    if light.sun_slope and depth < (90 if thing.kind == "house" else 45):
        _cast_shadow(canvas, street, light, thing)


def paint_thing(canvas: Canvas, street: Street, light: Light, thing: Thing) -> None:
    """Paint a thing with its labels."""
    _PAINTERS[thing.kind](canvas, street, light, thing)


def _cast_shadow(canvas: Canvas, street: Street, light: Light, thing: Thing) -> None:
    """The shadow that the sun draws across the street."""
    away, gain = -light.sun_side, 0.62
    if thing.kind == "house" and thing.u * away < 0:
        reach = away * facade(thing.look % FACADES).height_m * light.sun_slope
        flat = ((0, 0, 0), (reach, 0, 1.5), (reach, 0, thing.length_m + 1.5), (0, 0, thing.length_m))
        canvas.shade(_placed(street, thing, flat), gain)
    elif thing.kind == "tree":
        middle, wide = away * 4.0 * light.sun_slope, 2.2 * (1 + light.sun_slope)
        canvas.shade(_placed(street, thing, [(middle + wide * c, 0.0, 1.7 * s) for c, s in CIRCLE]), 0.66)
    elif thing.kind in ("person", "cyclist", "lamp", "sign"):
        reach = away * (6.0 if thing.kind == "lamp" else 1.7) * light.sun_slope
        canvas.shade(_placed(street, thing, ((0, 0, 0), (reach, 0, 0.2), (reach, 0, 0.4), (0, 0, 0.15))), 0.7)


def _house(canvas: Canvas, street: Street, light: Light, thing: Thing) -> None:
    front, (pitch, tint, style) = facade(thing.look % FACADES), _dice(thing.look)
    out = 1.0 if thing.u > 0 else -1.0
    depth = thing.z - canvas.camera.eye[2]
    high = front.height_m
    x0, x1 = street.bend(thing.z) + thing.u, street.bend(thing.z + thing.length_m) + thing.u
    rise = 2.0 + 2.5 * style if pitch < 0.55 else 0.0
    corner, along = np.array([x0, 0.0, thing.z]), np.array([x1 - x0, 0.0, thing.length_m])
    face = "left" if out > 0 else "right"
    if rise:
        slope = np.array([out * _HOUSE_DEEP_M / 2, rise, 0.0])
        eaves = corner + np.array([-out * 0.25, high - 0.1, 0.0])
        canvas.plane(eaves, along, slope, roof(thing.look % 4), light.tone("up", depth), BUILDING)
    far_x = x0 + out * _HOUSE_DEEP_M
    gable = [(x0, 0.0), (far_x, 0.0), (far_x, high), ((x0 + far_x) / 2, high + rise), (x0, high)]
    end = light.tone("front", depth)
    canvas.polygon(
        np.array([(x, y, thing.z) for x, y in gable]), end.apply(scaled(front.wall, 0.8 + 0.15 * tint)), BUILDING
    )
    for story in range(int(high / 3.2)):  # a column of windows in the end wall
        for shift in (0.3, 0.65):
            x, y = x0 + out * _HOUSE_DEEP_M * shift, 1.3 + 3.0 * story
            pane = np.array(
                [(x - 0.5, y, thing.z), (x + 0.5, y, thing.z), (x + 0.5, y + 1.3, thing.z), (x - 0.5, y + 1.3, thing.z)]
            )
            if y + 1.5 < high and style < 0.6 and depth < 60:
                canvas.polygon(pane, end.apply((108, 90, 74)), None)
    if rise and style > 0.4:
        x, y = x0 + out * 3.2, high + rise * 0.7
        stack = np.array(
            [
                (x - 0.4, y - 0.6, thing.z + 2),
                (x + 0.4, y - 0.6, thing.z + 2),
                (x + 0.4, y + 1.2, thing.z + 2),
                (x - 0.4, y + 1.2, thing.z + 2),
            ]
        )
        canvas.polygon(stack, end.apply((70, 82, 128)), BUILDING)
    texture = front.dusk if light.dusk else front.day
    canvas.plane(
        corner, along, np.array([0.0, high, 0.0]), texture, light.tone(face, depth + thing.length_m / 2), BUILDING
    )


def _fence(canvas: Canvas, street: Street, light: Light, thing: Thing) -> None:
    _wall(canvas, street, light, thing, 1.1 if thing.look == RAILING else 1.5)


def _hedge(canvas: Canvas, street: Street, light: Light, thing: Thing) -> None:
    _wall(canvas, street, light, thing, 1.2 + 0.8 * _dice(thing.look)[0])


def _wall(canvas: Canvas, street: Street, light: Light, thing: Thing, high: float) -> None:
    """A fence or hedge along the street, in pieces of about 6 m."""
    pieces = max(round(thing.length_m / 6), 1)
    step = thing.length_m / pieces
    texture, class_id = (planks(thing.look % 8), FENCE) if thing.kind == "fence" else (hedge(thing.look % 8), TREE)
    tone = light.tone("left" if thing.u > 0 else "right", thing.z - canvas.camera.eye[2])
    for index in reversed(range(pieces)):
        z = thing.z + index * step
        x0, x1 = street.bend(z) + thing.u, street.bend(z + step) + thing.u
        if thing.kind == "hedge" and index == 0:  # its end
            end = np.array(
                [
                    (x0, 0, z),
                    (x0 + np.sign(thing.u) * 0.9, 0, z),
                    (x0 + np.sign(thing.u) * 0.9, high * 0.94, z),
                    (x0, high * 0.94, z),
                ]
            )
            canvas.polygon(end, light.tone("front", z - canvas.camera.eye[2]).apply((36, 84, 56)), TREE)
        canvas.plane(
            np.array([x0, 0.0, z]), np.array([x1 - x0, 0.0, step]), np.array([0.0, high, 0.0]), texture, tone, class_id
        )


def _tree(canvas: Canvas, street: Street, light: Light, thing: Thing) -> None:
    first, second, third = _dice(thing.look)
    depth = thing.z - canvas.camera.eye[2]
    wide, high, foot = 3.4 + 2.4 * first, 3.2 + 2.6 * second, 2.1 + 0.9 * third
    tone = light.tone("front", depth)
    trunk = 0.13 + 0.09 * second
    bark = (52 + 30 * third, 66 + 30 * third, 82 + 30 * third)
    shape = ((-trunk, 0, 0), (trunk, 0, 0), (trunk * 0.6, foot + 1.2, 0), (-trunk * 0.6, foot + 1.2, 0))
    canvas.polygon(_placed(street, thing, shape), tone.apply(bark), TREE)
    lit = ((trunk * 0.1, 0, 0), (trunk, 0, 0), (trunk * 0.6, foot + 1.2, 0), (0, foot + 1.2, 0))
    if depth < 30:
        canvas.polygon(_placed(street, thing, lit), tone.apply(scaled(bark, 1.25 if light.sun_side > 0 else 0.7)), None)
    middle = _placed(street, thing, ((0, foot, 0),))[0]
    parts = ((first - 0.5, 0.8, 0.4), (0.0, 1.0, 0.0))
    for shift, scale, back in parts if depth < 60 else parts[1:]:
        left = middle + np.array([-wide * scale / 2 + 1.6 * shift, (1 - scale) * high * 0.9, back])
        size = np.array([wide * scale, 0.0, 0.0]), np.array([0.0, high * scale, 0.0])
        look = crown((thing.look + round(5 * back)) % CROWNS)
        canvas.plane(left, *size, look, light.tone("up" if back == 0 else "front", depth), TREE)


def _bush(canvas: Canvas, street: Street, light: Light, thing: Thing) -> None:
    first, second, _ = _dice(thing.look)
    left = _placed(street, thing, ((-0.9 - 0.4 * first, -0.2, 0),))[0]
    size = np.array([1.8 + 0.8 * first, 0.0, 0.0]), np.array([0.0, 1.3 + 0.9 * second, 0.0])
    canvas.plane(left, *size, crown(thing.look % CROWNS), light.tone("up", thing.z - canvas.camera.eye[2]), TREE)


def _lamp(canvas: Canvas, street: Street, light: Light, thing: Thing) -> None:
    _, second, third = _dice(thing.look)
    high, inward = 6.4 + 1.8 * second, -1.7 if thing.u > 0 else 1.7
    tone = light.tone("front", thing.z - canvas.camera.eye[2])
    steel = tone.apply(scaled(_STEEL, 0.55 + 0.7 * third))
    _post(canvas, street, light, thing, 0.11, high, steel)
    arm = ((0, high - 0.1, 0), (0, high + 0.02, 0), (inward, high + 0.34, 0), (inward, high + 0.24, 0))
    canvas.polygon(_placed(street, thing, arm), steel, POLE)
    head = (
        (inward * 0.9, high + 0.16, 0),
        (inward * 1.4, high + 0.22, 0),
        (inward * 1.4, high + 0.38, 0),
        (inward * 0.9, high + 0.38, 0),
    )
    canvas.polygon(_placed(street, thing, head), steel, POLE)
    glow = (
        (inward * 0.95, high + 0.12, 0),
        (inward * 1.35, high + 0.17, 0),
        (inward * 1.35, high + 0.26, 0),
        (inward * 0.95, high + 0.24, 0),
    )
    lamp = light.tone("self", 0).apply((150, 225, 255)) if light.dusk else tone.apply((200, 206, 206))
    canvas.polygon(_placed(street, thing, glow), lamp, POLE)


def _sign(canvas: Canvas, street: Street, light: Light, thing: Thing) -> None:
    first, second, third = _dice(thing.look)
    board = first > 0.8
    foot, half = (2.1, 0.9) if board else (2.0 + 0.4 * second, 0.4 + 0.1 * third)
    tone = light.tone("front", thing.z - canvas.camera.eye[2])
    _post(canvas, street, light, thing, 0.05, foot + half, tone.apply(_STEEL))
    middle = foot + half
    corners = 3 if first < 0.28 else 12 if first < 0.62 else 4
    turn = np.arange(corners) * (2 * np.pi / corners) + {3: np.pi / 2, 4: np.pi / 4, 12: 0.0}[corners]
    stretch = 1.15 if corners == 3 else 1.0
    wide = half * (1.5 if board else 1.3 if corners == 4 else 1.0)

    def face(scale: float, color: Color, class_id: int | None) -> None:
        shape = [(wide * stretch * scale * np.cos(a), middle + half * stretch * scale * np.sin(a), 0) for a in turn]
        canvas.polygon(_placed(street, thing, shape), tone.apply(color), class_id)

    if not thing.toward:
        face(1.0, (138, 142, 144), SIGN)
        return
    red, white, blue, green = (40, 34, 200), (236, 238, 238), (176, 92, 24), (84, 124, 20)
    rim, inner = (
        (red, white) if corners == 3 or (corners == 12 and second < 0.7) else (white, green if third < 0.4 else blue)
    )
    face(1.0, rim, SIGN)
    face(0.74 if corners != 4 else 0.9, inner, None)
    for row in (-0.3, 0.0, 0.3) if board else (0.0,):  # writing or a symbol
        low, high = middle + half * (row - 0.09), middle + half * (row + 0.09)
        mark = ((-wide * 0.42, low, 0), (wide * 0.42, low, 0), (wide * 0.3, high, 0), (-wide * 0.42, high, 0))
        canvas.polygon(_placed(street, thing, mark), tone.apply(white if inner != white else (40, 40, 40)), None)


def _signal(canvas: Canvas, street: Street, light: Light, thing: Thing) -> None:
    first, second, _ = _dice(thing.look)
    depth = thing.z - canvas.camera.eye[2]
    tone = light.tone("front", depth)
    _post(canvas, street, light, thing, 0.08, 3.3, tone.apply((70, 74, 72)))
    canvas.polygon(_placed(street, thing, _rectangle(2.95, 0.27, 0.62)), tone.apply((216, 218, 218)), SIGN)
    canvas.polygon(_placed(street, thing, _rectangle(2.95, 0.21, 0.56)), tone.apply((30, 32, 32)), None)
    if thing.toward:
        lit = 0 if first < 0.5 else 2
        for index, color in enumerate(((40, 40, 255), (30, 170, 255), (120, 240, 60))):
            lens = [(0.15 * c, 3.31 - 0.36 * index + 0.15 * s, 0.0) for c, s in CIRCLE]
            shown = light.tone("self", depth).apply(color) if index == lit else tone.apply(scaled(color, 0.22))
            canvas.polygon(_placed(street, thing, lens), shown, None)
    elif second < 0.8:
        canvas.polygon(_placed(street, thing, _rectangle(2.95, 0.15, 0.5)), tone.apply((56, 58, 58)), None)


def _bollard(canvas: Canvas, street: Street, light: Light, thing: Thing) -> None:
    tone = light.tone("front", thing.z - canvas.camera.eye[2])
    _post(canvas, street, light, thing, 0.09, 1.0, tone.apply((52, 54, 54)))
    canvas.polygon(_placed(street, thing, _rectangle(0.84, 0.09, 0.06)), tone.apply((210, 214, 216)), None)


def _car(canvas: Canvas, street: Street, light: Light, thing: Thing) -> None:
    side = -1 if street.bend(thing.z) + thing.u > canvas.camera.eye[0] else 1
    _body(canvas, street, light, thing, car(thing.look, thing.toward, side, light.dusk), CAR)


def _person(canvas: Canvas, street: Street, light: Light, thing: Thing) -> None:
    step = round(thing.phase * STEPS / (2 * np.pi)) % STEPS
    _body(canvas, street, light, thing, person(thing.look, step, thing.aside, thing.toward), PERSON)


def _cyclist(canvas: Canvas, street: Street, light: Light, thing: Thing) -> None:
    step = round(thing.phase * STEPS / (2 * np.pi)) % STEPS
    _body(canvas, street, light, thing, cyclist(thing.look, step, thing.toward), CYCLIST)


_PAINTERS = {
    "house": _house,
    "fence": _fence,
    "hedge": _hedge,
    "tree": _tree,
    "bush": _bush,
    "lamp": _lamp,
    "sign": _sign,
    "signal": _signal,
    "bollard": _bollard,
    "car": _car,
    "person": _person,
    "cyclist": _cyclist,
}


def _body(canvas: Canvas, street: Street, light: Light, thing: Thing, body: Body, class_id: int) -> None:
    """Paint a body without the details that are too small to see."""
    depth = max(thing.z - canvas.camera.eye[2], 1.0)
    tones = [light.tone(lit, depth) for lit in LIT]
    left = np.array([1 - tone.haze for tone in tones])[:, None]
    gains = np.array([tone.gain for tone in tones]) * left
    colors = body.colors * gains[body.lit] + (np.array(light.rim) * (1 - left))[body.lit]
    seen = np.clip(colors, 0, 255).astype(int).tolist()
    least_m = _LEAST_PX * depth / canvas.camera.focal
    faces: list[Face] = [
        (part, (color[0], color[1], color[2]), detail)
        for part, color, detail, size in zip(body.parts, seen, body.details, body.sizes_m, strict=True)
        if size > least_m
    ]
    canvas.polygons(_placed(street, thing, body.points), faces, class_id)


def _post(
    canvas: Canvas, street: Street, light: Light, thing: Thing, half: float, high: float, color: tuple[int, int, int]
) -> None:
    """An upright post with a light and a dark flank."""
    canvas.polygon(
        _placed(street, thing, ((-half, 0, 0), (half, 0, 0), (half * 0.7, high, 0), (-half * 0.7, high, 0))),
        color,
        POLE,
    )
    if thing.z - canvas.camera.eye[2] < 25:
        dark = (round(color[0] * 0.7), round(color[1] * 0.7), round(color[2] * 0.7))
        side = half * light.sun_side
        flank = ((-side, 0, 0), (-side * 0.2, 0, 0), (-side * 0.14, high, 0), (-side * 0.7, high, 0))
        canvas.polygon(_placed(street, thing, flank), dark, None)


def _placed(street: Street, thing: Thing, local: Points | Sequence[tuple[float, float, float]]) -> Points:
    """Corners in a thing's own frame (right, up, forward) to the world; forward follows the street."""
    points = np.array(local, np.float64)
    points[:, 0] += street.bend(thing.z) + thing.u + street.slope(thing.z) * points[:, 2]
    points[:, 2] += thing.z
    return points


def _rectangle(y: float, half_x: float, half_y: float) -> tuple[tuple[float, float, float], ...]:
    return (
        (-half_x, y - half_y, 0),
        (half_x, y - half_y, 0),
        (half_x, y + half_y, 0),
        (-half_x, y + half_y, 0),
    )


@functools.lru_cache(4096)
def _dice(look: int) -> tuple[float, float, float]:
    first, second, third = np.random.default_rng([24, look]).random(3).tolist()
    return first, second, third
