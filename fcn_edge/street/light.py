"""Weather and camera: the sky's colours, light on surfaces, the developed picture; knows nothing about shapes."""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass

import numpy as np

from ..pixels import Image
from .canvas import Color, Tone
from .textures import noise


@dataclass(frozen=True)
class Light:
    """Light, air and camera of one street.

    Attributes:
        zenith: colour of the sky above.
        rim: colour of the sky at the horizon, and of the haze.
        cloud: colour of the clouds.
        cover: share of the sky behind clouds, 0 to 1.
        sun: gain of a surface in the sun.
        shadow: gain of a surface in the shadow.
        sun_side: 1 if the sun stands to the right, -1 to the left.
        sun_slope: metres of shadow for each metre of height; 0 where there are none.
        haze_m: distance at which 63 % of a colour is the air's.
        dusk: whether lamps and windows are lit.
        gamma: of the camera.
        contrast: about the middle grey.
        cast: gain for blue, green, red.
        grain: standard deviation of the sensor's noise, grey values.
        blur_px: standard deviation of the lens, pixels.
    """

    zenith: Color
    rim: Color
    cloud: Color
    cover: float
    sun: Color
    shadow: Color
    sun_side: int
    sun_slope: float
    haze_m: float
    dusk: bool
    gamma: float
    contrast: float
    cast: Color
    grain: float
    blur_px: float

    def tone(self, face: str, depth_m: float) -> Tone:
        """Light on a face (``left``, ``right``, ``front``, ``up`` or ``self`` for a lamp) this far away."""
        haze = 1 - float(np.exp(-max(depth_m, 0.0) / self.haze_m))
        if face == "self":
            return Tone((1, 1, 1), haze * 0.5, self.rim)
        lit = {"left": self.sun_side < 0, "right": self.sun_side > 0, "up": True}.get(face)
        share = 0.5 if lit is None else float(lit)
        blue, green, red = (dark + (bright - dark) * share for bright, dark in zip(self.sun, self.shadow, strict=True))
        return Tone((blue, green, red), haze, self.rim)


@dataclass(frozen=True)
class _Sky:
    """A kind of weather, before it is varied; ``share`` of the streets have it."""

    share: float
    zenith: Color
    rim: Color
    cloud: Color
    sun: Color
    shadow: Color
    sun_slope: float
    haze_m: float
    dusk: bool = False


_CLEAR = _Sky(0.32, (205, 142, 78), (238, 220, 196), (250, 248, 246), (1.08, 1.15, 1.2), (0.7, 0.64, 0.6), 0.7, 420)
_OVERCAST = _Sky(0.27, (205, 196, 186), (226, 222, 216), (186, 180, 174), (0.94,) * 3, (0.84, 0.83, 0.82), 0, 260)
_GOLDEN = _Sky(0.17, (190, 140, 96), (150, 196, 244), (168, 196, 240), (0.82, 1.08, 1.3), (0.62, 0.56, 0.56), 1.7, 300)
_HAZY = _Sky(0.1, (214, 206, 196), (222, 220, 216), (214, 210, 206), (0.9,) * 3, (0.82, 0.8, 0.79), 0, 100)
_DUSK = _Sky(0.14, (118, 74, 52), (150, 150, 190), (120, 100, 112), (0.6, 0.55, 0.56), (0.5, 0.45, 0.44), 0, 240, True)
_SKIES = (_CLEAR, _OVERCAST, _GOLDEN, _HAZY, _DUSK)


@functools.lru_cache(64)
def light_from_seed(seed: int) -> Light:
    """The weather of a seed."""
    rng = np.random.default_rng([11, seed])
    sky = _SKIES[int(rng.choice(len(_SKIES), p=[sky.share for sky in _SKIES]))]
    bright, warm = rng.uniform(0.9, 1.08), rng.uniform(-0.06, 0.06)
    return Light(
        zenith=_varied(rng, sky.zenith, 12),
        rim=_varied(rng, sky.rim, 8),
        cloud=_varied(rng, sky.cloud, 6),
        cover=rng.uniform(0.6, 0.95) if sky is _OVERCAST else rng.uniform(0.1, 0.6),
        sun=sky.sun,
        shadow=sky.shadow,
        sun_side=1 if rng.random() < 0.5 else -1,
        sun_slope=sky.sun_slope * rng.uniform(0.7, 1.4),
        haze_m=sky.haze_m * rng.uniform(0.8, 1.25),
        dusk=sky.dusk,
        gamma=rng.uniform(0.86, 1.16),
        contrast=rng.uniform(0.9, 1.12),
        cast=(bright * (1 - warm), bright, bright * (1 + warm)),
        grain=rng.uniform(1.0, 4.2),
        blur_px=rng.uniform(0.35, 0.75),
    )


def develop(cv2: types.ModuleType, image: Image, light: Light, seed: int, frame: int) -> Image:
    """What the camera makes of the light: lens blur, vignette, tone curve, noise.

    Args:
        cv2: OpenCV.
        image: uint8 ``[height, width, 3]`` BGR.
        light: the weather and camera.
        seed: which noise.
        frame: number of the moment; each has noise of its own.

    Returns:
        uint8 ``[height, width, 3]`` BGR.
    """
    height, width = image.shape[:2]
    soft = cv2.GaussianBlur(image, (3, 3), light.blur_px)
    soft = cv2.multiply(soft, _vignette(height, width), scale=1 / 255)
    soft = cv2.LUT(soft, _curve(light))
    grain = _grain(height, width)
    rng = np.random.default_rng([12, seed, frame & 0xFFFFFFFF])
    top, left = (int(value) for value in rng.integers(64, size=2))
    part = grain[top : top + height, left : left + width]
    developed: Image = cv2.addWeighted(soft, 1.0, part, light.grain / 32, -128 * light.grain / 32)
    return developed


@functools.lru_cache(64)
def _curve(light: Light) -> Image:
    values = np.linspace(0, 1, 256)[:, None, None] ** light.gamma * np.array(light.cast)
    curve: Image = np.clip(((values - 0.45) * light.contrast + 0.45) * 255, 0, 255).astype(np.uint8)
    return curve


@functools.lru_cache(4)
def _vignette(height: int, width: int) -> Image:
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    fall = 255 * (1 - 0.16 * (x * x + y * y) ** 1.2 / 2.3)
    return np.repeat(fall[..., None], 3, axis=2).astype(np.uint8)


@functools.lru_cache(4)
def _grain(height: int, width: int) -> Image:
    """Noise about 128 with a standard deviation of 32, larger than the frame, so that each moment cuts its own part."""
    rng = np.random.default_rng(13)
    shape = (height + 64, width + 64)
    fine = rng.standard_normal((*shape, 3), np.float32) * 0.6 + rng.standard_normal((*shape, 1), np.float32) * 0.65
    coarse = (noise(rng, *shape, 2)[..., None] - 0.5) * 1.2
    grain: Image = np.clip(128 + 32 * (fine + coarse), 0, 255).astype(np.uint8)
    return grain


def _varied(rng: np.random.Generator, color: Color, spread: float) -> Color:
    blue, green, red = (float(np.clip(value + rng.normal(0, spread / 2), 0, 255)) for value in color)
    return blue, green, red
