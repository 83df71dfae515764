"""Where pixels are read from files, written and resized: one place for every path; knows nothing about models.

Training's evaluation, calibration, the CPU engine and TensorRT all see a frame through :func:`fit_image` and give
labels back through :func:`restore_labels`, so that a number measured on one path holds on the others.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, MissingError, UsageError
from .extras import MORE_MEMORY, is_short_of_memory
from .files import write_atomically

if TYPE_CHECKING:
    import types

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MAX_PIXELS = 100_000_000
"""Of an image that is read, as a few kilobytes can ask for gigabytes; ``OPENCV_IO_MAX_IMAGE_PIXELS`` goes before."""
_LIMIT = "OPENCV_IO_MAX_IMAGE_PIXELS"
_PNG, _PNG_DEPTH, _PNG_KIND, _PNG_CRC = b"\x89PNG\r\n\x1a\n", 24, 25, 29  # how it begins, and offsets in its header
_PNG_GREY, _PNG_PALETTE = b"\0", b"\3"
_PNG_ENDING = b"IEND\xaeB`\x82"
_BLOCK = 1 << 20  # pixels of a coloured mask that are looked up at once
_JPEG, _JPEG_SCAN, _JPEG_ENDING = b"\xff\xd8\xff", 0xDA, b"\xff\xd9"
_BMP, _BMP_OLD_HEADER, _TIFF_BITS = b"BM", b"\x0c\0\0\0", 258  # that header is 12 bytes long; tag BitsPerSample

Image = NDArray[np.uint8]
"""uint8 ``[height, width, 3]`` in OpenCV's order: blue, green, red."""

Labels = NDArray[np.uint8]
"""uint8 ``[height, width]`` class ids."""


def require_cv2() -> types.ModuleType:
    """OpenCV, which is no base dependency: a Jetson brings its own build.

    Its limit of :data:`MAX_PIXELS` holds only if nothing imported ``cv2`` before: a program that does so sets
    ``OPENCV_IO_MAX_IMAGE_PIXELS`` itself, before that import, or has OpenCV's own limit, which is ten times as high.

    Raises:
        MissingError: if it is not installed, lacks a library of the system's, as in a container without a desktop, or
            memory, or was compiled for NumPy 1, as the systems' own are, and another one is installed.
    """
    os.environ.setdefault(_LIMIT, str(MAX_PIXELS))  # read while OpenCV is imported, whose own is ten times that
    try:
        import cv2
    except ImportError as exc:
        remedy = "install it with: pip install 'fcn-edge[cpu]', or on a Jetson use the system's libopencv-python"
        if is_short_of_memory(exc):
            remedy = MORE_MEMORY
        elif "numpy" in str(exc):
            remedy = f"it was compiled for NumPy 1, and this is {np.__version__}: pip install 'numpy<2'"
        elif re.search(r"lib\S+\.so", str(exc)):
            remedy = (
                "it is installed and lacks that library of the system's: apt install libgl1 libglib2.0-0, or without "
                "windows: pip uninstall opencv-python, then pip install opencv-python-headless"
            )
        raise MissingError(f"OpenCV cannot be imported ({exc}); {remedy}") from exc
    return cv2


def read_image(path: Path) -> Image:
    """Read an image as uint8 ``[height, width, 3]`` BGR; grey-scale and alpha are converted.

    Raises:
        DataError: if the file is missing, cut off or no image.
    """
    image: Image = _decoded(path, _read(path), require_cv2().IMREAD_COLOR)
    return image


def read_mask(path: Path, colors: Sequence[tuple[int, int, int]] = (), *, is_own: bool = False) -> Labels:
    """Read a mask as uint8 ``[height, width]``: the file's values untouched, of a PNG with a palette its indices.

    Args:
        path: the file.
        colors: (red, green, blue) of each value from 0 on, for a mask that is coloured; empty: such a one is refused.
        is_own: whether these colours were given for these masks. Then a palette whose colours are all among them, in
            another order, goes before the indices: programs that make PNGs smaller put coloured masks into palettes.

    Raises:
        DataError: if the file is missing, cut off, no image, a JPEG, a BMP or TIFF of fewer than eight bits for each
            value, not one uint8 channel or in other colours.
    """
    data, levels, palette = _read(path), 256, b""
    if data.startswith(_JPEG):
        raise DataError(f"{path} is a JPEG, which blurs ids; export masks as PNG")
    if 0 < (bits := _bits(data)) < 8:  # OpenCV spreads them to 255, or to whatever a BMP's palette says
        raise DataError(f"{path} has {bits} bit{'s' * (bits > 1)} for each pixel; export masks as 8-bit PNG")
    if data.startswith(_PNG) and data[_PNG_KIND : _PNG_KIND + 1] in (_PNG_GREY, _PNG_PALETTE):
        levels, (data, palette) = 1 << min(data[_PNG_DEPTH], 8), _grey_and_palette(data)
    mask: Labels = _decoded(path, data, require_cv2().IMREAD_UNCHANGED)
    if mask.dtype == np.uint8 and mask.ndim == 3 and colors:
        return _values_of_colors(path, mask, colors)
    if mask.ndim != 2 or mask.dtype != np.uint8:
        channels = 1 if mask.ndim == 2 else mask.shape[2]
        raise DataError(f"{path} has {channels} channels of {mask.dtype}; a mask is one uint8 class id for each pixel")
    mask //= np.uint8(255 // (levels - 1))  # OpenCV spreads grey of fewer than eight bits to 255
    return _values_of_indices(mask, palette, colors) if is_own and palette else mask


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write uint8 ``[height, width]`` or ``[height, width, 3]`` BGR as a PNG, whole or not at all."""
    cv2 = require_cv2()
    done, data = cv2.imencode(".png", pixels)
    if not done:
        raise UsageError(f"a picture of shape {pixels.shape} and type {pixels.dtype} cannot be written as PNG")
    write_atomically(path, data.tobytes())


def require_frame(image_bgr: object) -> None:
    """Refuse what is no frame, such as a Pillow image, whose colours stand the other way round, or an array of floats.

    Raises:
        UsageError: if it is none, or not uint8 ``[height, width]`` or ``[height, width, 1, 3 or 4]`` with pixels in it.
    """
    if not isinstance(image_bgr, np.ndarray):
        raise _no_array(image_bgr)
    shape = list(image_bgr.shape)
    if image_bgr.dtype != np.uint8 or image_bgr.ndim not in (2, 3) or image_bgr.size == 0:
        raise UsageError(f"frame is {image_bgr.dtype} {shape}; expected uint8 [height, width, 3] in BGR order")
    if image_bgr.ndim == 3 and shape[2] not in (1, 3, 4):
        raise UsageError(f"frame has {shape[2]} channels; expected 3 in BGR order (1 and 4 are converted)")


def _no_array(image_bgr: object) -> UsageError:
    kind = type(image_bgr)
    remedy = "read a file with cv2.imread, which gives None for one that it cannot read"
    if hasattr(kind, "shape"):
        remedy = "pass np.asarray(frame)"
    elif hasattr(kind, "__array_interface__"):
        remedy = "a PIL image is RGB; pass np.asarray(image)[..., ::-1]"
    return UsageError(
        f"frame is of type {kind.__name__}; expected a NumPy array, uint8 [height, width, 3] in BGR order: {remedy}"
    )


def fit_image(image_bgr: NDArray[Any], size_hw: tuple[int, int]) -> Image:
    """Bring a frame to the network's size: OpenCV's linear resize, aspect ratio not kept.

    Args:
        image_bgr: uint8 ``[height, width, 3]`` BGR; uint8 ``[height, width]`` and ``[height, width, 1 or 4]``
            are converted first.
        size_hw: (height, width) of the result.

    Returns:
        uint8 ``[*size_hw, 3]``, contiguous; the input itself if it already is that.

    Raises:
        UsageError: if the frame is no array, has another type, shape or no pixels.
    """
    require_frame(image_bgr)
    image = np.asarray(image_bgr)
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels != 3 or image.shape[:2] != tuple(size_hw):
        cv2 = require_cv2()
        if channels == 1:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        elif channels == 4:
            image = cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
        if image.shape[:2] != tuple(size_hw):
            height, width = size_hw
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)  # cv2 sizes are (width, height)
    return np.ascontiguousarray(image)


def turned(image_bgr: Image, degrees: int) -> Image:
    """An image turned clockwise by 90, 180 or 270 degrees, as a camera that hangs upside down needs it."""
    cv2 = require_cv2()
    codes = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
    image: Image = cv2.rotate(image_bgr, codes[degrees])
    return image


def restore_labels(labels: Labels, size_hw: tuple[int, int]) -> Labels:
    """Bring labels uint8 ``[height, width]`` to ``size_hw`` by nearest neighbour; the input itself if it fits."""
    if labels.shape == tuple(size_hw):
        return labels
    cv2 = require_cv2()
    height, width = size_hw
    # INTER_NEAREST_EXACT samples at pixel centres, as INTER_LINEAR does on the way in.
    restored: Labels = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return restored


def _read(path: Path) -> bytes:
    """An image file's bytes; one that is cut off is refused."""
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise DataError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    if not _is_whole(data):
        raise _unreadable(path, data)
    return data


def _decoded(path: Path, data: bytes, flag: int) -> Any:
    cv2 = require_cv2()
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as exc:
        if "CV_IO_MAX_IMAGE" in str(exc):
            raise DataError(
                f"{path} ({len(data)} bytes) has more than {os.environ.get(_LIMIT)} pixels or a side beyond OpenCV's "
                f"limit; make it smaller, or set {_LIMIT} if it can be trusted"
            ) from exc
        raise _unreadable(path, data) from exc
    if pixels is None:
        raise _unreadable(path, data)
    return pixels


def _unreadable(path: Path, data: bytes) -> DataError:
    return DataError(f"{path} is no readable image ({len(data)} bytes); replace it or remove it")


def _grey_and_palette(data: bytes) -> tuple[bytes, bytes]:
    """A PNG whose grey values are the palette's indices, as OpenCV gives only colours, and the palette, if any."""
    header = data[:_PNG_KIND] + _PNG_GREY + data[_PNG_KIND + 1 : _PNG_CRC]
    at, palette = _PNG_CRC + 4, b""
    while (kind := data[at + 4 : at + 8]) not in (b"IDAT", b""):  # chunks before it mean nothing to grey
        size = int.from_bytes(data[at : at + 4], "big")
        if kind == b"PLTE":
            palette = data[at + 8 : at + 8 + size]
        at += 12 + size
    return header + zlib.crc32(header[12:]).to_bytes(4, "big") + data[at:], palette


def _bits(data: bytes) -> int:
    """Bits of each value of a BMP or of a TIFF with one channel; 8 for all other files."""
    if data.startswith(_BMP):
        at = 24 if data[14:18] == _BMP_OLD_HEADER else 28
        return int.from_bytes(data[at : at + 2], "little")
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return 8
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    at = int.from_bytes(data[4:8], order)
    for entry in range(at + 2, at + 2 + 12 * int.from_bytes(data[at : at + 2], order), 12):
        tag, count, value = data[entry : entry + 2], data[entry + 4 : entry + 8], data[entry + 8 : entry + 10]
        if int.from_bytes(tag, order) == _TIFF_BITS:
            return int.from_bytes(value, order) if int.from_bytes(count, order) == 1 else 8
    return 1 if data[at : at + 2] else 8  # TIFF's default, unless the file is cut off before its tags


def _values_of_indices(mask: Labels, palette: bytes, colors: Sequence[tuple[int, int, int]]) -> Labels:
    """The mask, by its palette's colours where these are all among ``colors`` and stand in another order there."""
    values = {color: value for value, color in reversed([*enumerate(colors)])}
    used = np.flatnonzero(np.bincount(mask.reshape(-1), minlength=256)).tolist()
    seen = {index: (*palette[3 * index : 3 * index + 3],) for index in used}
    if not all(color in values for color in seen.values()) or all(
        index < len(colors) and colors[index] == color for index, color in seen.items()
    ):
        return mask
    table = np.zeros(256, np.uint8)
    for index, color in seen.items():
        table[index] = values[color]
    return table[mask]


def _values_of_colors(path: Path, mask: NDArray[np.uint8], colors: Sequence[tuple[int, int, int]]) -> Labels:
    """Values of a mask uint8 ``[height, width, 3 or 4]`` BGR in the colours of a palette; alpha does not count."""
    table = np.zeros(1 << 24, np.int16)  # of each colour; no page that is not asked for takes memory or time
    for value, (red, green, blue) in reversed([*enumerate(colors)]):
        table[(red << 16) + (green << 8) + blue] = value + 1
    cv2 = require_cv2()
    values, unknown = np.empty(mask.shape[:2], np.uint8), np.empty(0, np.uint32)
    step = max(1, _BLOCK // mask.shape[1])
    for top in range(0, mask.shape[0], step):  # as whole it would take sixteen bytes for each pixel
        block = np.ascontiguousarray(mask[top : top + step])
        bgra = block if block.shape[2] == 4 else cv2.cvtColor(block, cv2.COLOR_BGR2BGRA)
        codes = bgra.view("<u4")[..., 0] & 0xFFFFFF
        found = table[codes]
        values[top : top + step] = found - 1
        if not found.all():
            unknown = np.union1d(unknown, codes[found == 0])
    if unknown.size:
        listing = ", ".join(f"({code >> 16}, {code >> 8 & 255}, {code & 255})" for code in unknown[:4].tolist())
        raise DataError(
            f"{path} is coloured, and {len(unknown)} of its colours are no class's: {listing}; expected those of the "
            'classes ("palette" in classes.json), or one uint8 class id for each pixel. A colour that means unknown '
            'is a class of its own there, such as "void", which --classes leaves out'
        )
    return values


def _is_whole(data: bytes) -> bool:
    """Whether a file is not empty and, for PNG and JPEG, reaches its end marker: some decoders accept less."""
    if data.startswith(_PNG[:4]):
        return _PNG_ENDING in data[-4096:]
    if data.startswith(_JPEG):
        return data.find(_JPEG_ENDING, _jpeg_scan(data)) >= 0  # what follows is no part of it: phones append a video
    return bool(data)


def _jpeg_scan(data: bytes) -> int:
    """Where a JPEG's first scan begins: behind the segments before it, which may hold a whole JPEG as a thumbnail."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != bytes([_JPEG_SCAN]):
        is_fill = data[at + 1 : at + 2] == b"\xff"
        at += 1 if is_fill else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at
