"""A pinhole camera and a canvas that paints a picture and its labels together; knows nothing about streets."""

from __future__ import annotations

import math
import types
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..pixels import Image, Labels

Color = tuple[float, float, float]
"""Blue, green, red, 0 to 255."""

Points = NDArray[np.float64]
"""float64 ``[n, 3]``: metres to the right, up and forward in the world."""

Face = tuple[slice, tuple[int, int, int], bool]
"""A convex polygon as a slice of points, its colour, and whether it is a detail of what was painted before it."""

_NEAR_M = 0.6
_RAMP = np.arange(256, dtype=np.float32)[:, None, None]
_SHIFT = 3  # OpenCV takes corners in eighths of a pixel
_FAR_PX = 1 << 15  # corners further out than this are cut: OpenCV's fixed point must not overflow


@dataclass(frozen=True)
class Camera:
    """A pinhole that looks along +z; turning it a little is a shift of the principal point.

    Attributes:
        focal: focal length in pixels.
        center: column of the principal point.
        horizon: row of the principal point.
        eye: position in the world, metres (right, up, forward).
    """

    focal: float
    center: float
    horizon: float
    eye: tuple[float, float, float]

    def project(self, points: Points) -> NDArray[np.float64]:
        """Points in front of the camera to float64 ``[n, 2]`` (column, row)."""
        away = points - self.eye
        scale = self.focal / away[:, 2]
        seen = np.empty((len(points), 2))
        seen[:, 0] = self.center + away[:, 0] * scale
        seen[:, 1] = self.horizon - away[:, 1] * scale
        return seen

    def matrix(self) -> NDArray[np.float64]:
        """float64 ``[3, 3]`` from (right, up, forward) seen from the eye to homogeneous (column, row, 1)."""
        return np.array([[self.focal, 0, self.center], [0, -self.focal, self.horizon], [0, 0, 1.0]])


@dataclass(frozen=True)
class Tone:
    """Light on a surface: ``color * gain * (1 - haze) + haze * haze_color``.

    Attributes:
        gain: factor for blue, green, red.
        haze: share of the air's colour, 0 to 1.
        air: colour of the air.
    """

    gain: Color
    haze: float
    air: Color

    def apply(self, color: Color) -> tuple[int, int, int]:
        """The colour as the camera sees it."""
        left, (air_b, air_g, air_r) = 1 - self.haze, self.air
        blue = color[0] * self.gain[0] * left + air_b * self.haze
        green = color[1] * self.gain[1] * left + air_g * self.haze
        red = color[2] * self.gain[2] * left + air_r * self.haze
        return min(255, int(blue)), min(255, int(green)), min(255, int(red))

    def table(self) -> NDArray[np.uint8]:
        """The same as uint8 ``[256, 1, 3]``, for ``cv2.LUT``."""
        slope = np.array(self.gain, np.float32) * np.float32(1 - self.haze)
        values = _RAMP * slope + np.array(self.air, np.float32) * np.float32(self.haze)
        table: NDArray[np.uint8] = np.minimum(values, 255).astype(np.uint8)
        return table


@dataclass(frozen=True)
class Texture:
    """A picture with ever smaller copies, each half of the one before.

    Attributes:
        levels: uint8 ``[height, width, 3]`` BGR.
        masks: uint8 ``[height, width]``, 1 where the surface is solid; empty if it is solid everywhere.
    """

    levels: tuple[Image, ...]
    masks: tuple[Labels, ...] = ()


@dataclass(frozen=True)
class Canvas:
    """A picture and its labels under one camera: every call paints both with the same corners.

    Edges of the picture are smoothed, edges of the labels are not.

    Attributes:
        cv2: OpenCV.
        camera: where it is seen from.
        image: uint8 ``[height, width, 3]`` BGR, painted in place.
        labels: uint8 ``[height, width]`` class ids, painted in place.
    """

    cv2: types.ModuleType
    camera: Camera
    image: Image
    labels: Labels
    _stencil: Labels = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_stencil", np.zeros_like(self.labels))

    def polygon(self, points: Points, color: tuple[int, int, int], class_id: int | None) -> None:
        """Fill a flat convex polygon; ``class_id`` None leaves the labels alone (a detail of what is there)."""
        corners = self._corners(points)
        if corners is not None:
            self._fill(corners, color, class_id)

    def polygons(self, points: Points, faces: Sequence[Face], class_id: int) -> None:
        """Fill many convex polygons in order."""
        if points[:, 2].min() - self.camera.eye[2] < _NEAR_M:
            for part, color, detail in faces:  # some may lie behind the camera: cut each
                self.polygon(points[part], color, None if detail else class_id)
            return
        corners = _fixed(self.camera.project(points))
        for part, color, detail in faces:
            self._fill(corners[part], color, None if detail else class_id)

    def shade(self, points: Points, gain: float) -> None:
        """Darken the picture under a convex polygon: a shadow; the labels stay."""
        corners = self._corners(points)
        box = None if corners is None else self._box(corners)
        if box is None:
            return
        stencil = self._stencil[box]
        self.cv2.fillConvexPoly(self._stencil, corners, 1, self.cv2.LINE_8, _SHIFT)
        part = self.image[box]
        self.cv2.copyTo(self.cv2.convertScaleAbs(part, alpha=gain), stencil, part)
        stencil[:] = 0

    def plane(self, origin: Points, along: Points, up: Points, texture: Texture, tone: Tone, class_id: int) -> None:
        """Paint a texture on the parallelogram of ``origin``, ``along`` and ``up``, float64 ``[3]`` each."""
        corners = self._corners(np.array((origin, origin + along, origin + along + up, origin + up)))
        box = None if corners is None else self._box(corners)
        if corners is None or box is None:
            return
        cv2, stencil = self.cv2, self._stencil[box]
        level = self._level(origin, along, up, texture)
        picture = texture.levels[level]
        height, width = picture.shape[:2]
        columns = np.array((along / width, -up / height, origin + up - self.camera.eye)).T
        columns[:, 2] += 0.5 * (columns[:, 0] + columns[:, 1])  # a texel's centre, not its corner
        to_screen = self.camera.matrix() @ columns
        rows, cols = box
        to_box = np.array([[1.0, 0, -cols.start], [0, 1, -rows.start], [0, 0, 1]]) @ to_screen
        if abs(np.linalg.det(to_box)) < 1e-12:
            return  # seen exactly from its edge
        size = (cols.stop - cols.start, rows.stop - rows.start)  # cv2 sizes are (width, height)
        near = {"dsize": size, "borderMode": cv2.BORDER_REPLICATE}
        cv2.fillConvexPoly(self._stencil, corners, 1, cv2.LINE_8, _SHIFT)
        if texture.masks:
            stencil &= cv2.warpPerspective(texture.masks[level], to_box, flags=cv2.INTER_NEAREST, **near)
        surface = cv2.warpPerspective(picture, to_box, flags=cv2.INTER_LINEAR, **near)
        cv2.copyTo(cv2.LUT(surface, tone.table()), stencil, self.image[box])
        np.copyto(self.labels[box], np.uint8(class_id), where=stencil.view(np.bool_))
        stencil[:] = 0

    def _fill(self, corners: NDArray[np.int32], color: tuple[int, int, int], class_id: int | None) -> None:
        self.cv2.fillConvexPoly(self.image, corners, color, self.cv2.LINE_AA, _SHIFT)
        if class_id is not None:
            self.cv2.fillConvexPoly(self.labels, corners, class_id, self.cv2.LINE_8, _SHIFT)

    def _corners(self, points: Points) -> NDArray[np.int32] | None:
        """Corners on the screen in eighths of a pixel of the part before the camera, or None if there is none."""
        depth = points[:, 2] - self.camera.eye[2] - _NEAR_M
        if depth.max() <= 0:
            return None
        if depth.min() < 0:
            points = _cut(points, depth)
        return _fixed(self.camera.project(points))

    def _box(self, corners: NDArray[np.int32]) -> tuple[slice, slice] | None:
        """Rows and columns of the frame that the corners may touch, or None if they lie outside it."""
        height, width = self.labels.shape
        left, top = (corners.min(axis=0) >> _SHIFT) - 1
        right, bottom = (corners.max(axis=0) >> _SHIFT) + 3
        left, top, right, bottom = max(int(left), 0), max(int(top), 0), min(int(right), width), min(int(bottom), height)
        return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None

    def _level(self, origin: Points, along: Points, up: Points, texture: Texture) -> int:
        """The copy of the texture that is about as fine as the screen."""
        middle = origin + 0.5 * along
        depth = max(float(middle[2]) - self.camera.eye[2], 2.0)
        step = along - along[2] / depth * (middle - self.camera.eye)  # across the line of sight
        height, width = texture.levels[0].shape[:2]
        across = math.hypot(step[0], step[1]) * self.camera.focal / depth / width
        upward = math.hypot(up[0], up[1]) * self.camera.focal / depth / height
        fine = max(across * upward, 1e-9) ** 0.5
        return min(max(round(-math.log2(fine) - 0.25), 0), len(texture.levels) - 1)


def _fixed(corners: NDArray[np.float64]) -> NDArray[np.int32]:
    scaled: NDArray[np.int32] = np.rint(np.clip(corners, -_FAR_PX, _FAR_PX) * (1 << _SHIFT)).astype(np.int32)
    return scaled


def _cut(points: Points, depth: NDArray[np.float64]) -> Points:
    """The part of a convex polygon with ``depth`` >= 0 (Sutherland and Hodgman 1974, one plane)."""
    kept = []
    for index in range(len(points)):
        after = (index + 1) % len(points)
        if depth[index] >= 0:
            kept.append(points[index])
        if (depth[index] < 0) != (depth[after] < 0):
            share = depth[index] / (depth[index] - depth[after])
            kept.append(points[index] + share * (points[after] - points[index]))
    return np.stack(kept)
