"""Reading, resizing and writing images: whole files only."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import torch

from fcn_edge import pixels
from fcn_edge.errors import DataError, MissingError, UsageError
from fcn_edge.pixels import (
    fit_image,
    read_image,
    read_mask,
    require_cv2,
    restore_labels,
    write_png,
)  # fmt: skip

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("No module named 'cv2'", "fcn-edge\\[cpu\\]"),
        ("libGL.so.1: cannot open shared object file: No such file or directory", "apt install libgl1"),
        ("numpy.core.multiarray failed to import", "numpy<2"),
        ("/x/numpy/cv2.abi3.so: failed to map segment from shared object", "no more memory or threads; .*ulimit -v"),
        (
            "libQt5Gui.so.5: cannot map zero-fill pages: Cannot allocate memory",
            "no more memory or threads; .*ulimit -v",
        ),
    ],
)
def test_what_opencv_lacks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, remedy: str) -> None:
    (tmp_path / "cv2.py").write_text(f"raise ImportError({said!r})")
    monkeypatch.delitem(sys.modules, "cv2")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingError, match=f"{re.escape(said)}.*{remedy}"):
        require_cv2()


def test_png_round_trip(tmp_path: Path) -> None:
    write_png(tmp_path / "deep" / "x.png", IMAGE)
    assert np.array_equal(read_image(tmp_path / "deep" / "x.png"), IMAGE)


@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, ending: str, share: float) -> None:
    data = cv2.imencode(ending, IMAGE)[1].tobytes()
    path = tmp_path / f"x{ending}"
    path.write_bytes(data)
    assert read_image(path).shape == IMAGE.shape
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match="no readable image"):
        read_image(path)


def with_thumbnail(jpeg: bytes) -> bytes:
    """A JPEG as cameras write it: a whole small one in its first segment."""
    small = cv2.imencode(".jpg", IMAGE[:8, :8])[1].tobytes()
    payload = b"Exif\0\0" + small
    return jpeg[:2] + b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload + jpeg[2:]


def test_a_photo_with_a_video_behind_it_is_read_and_one_that_is_cut_is_not(tmp_path: Path) -> None:
    for jpeg in (cv2.imencode(".jpg", IMAGE)[1].tobytes(), with_thumbnail(cv2.imencode(".jpg", IMAGE)[1].tobytes())):
        path = tmp_path / "motion.jpg"
        path.write_bytes(jpeg + b"\0\0\0\x18ftypmp42" + bytes(100_000))
        assert read_image(path).shape == IMAGE.shape
        for end in (20, 300, len(jpeg) - 50, len(jpeg) - 2):
            path.write_bytes(jpeg[:end])
            with pytest.raises(DataError, match="no readable image"):
                read_image(path)


def test_an_image_of_more_pixels_than_opencv_takes_is_refused(tmp_path: Path) -> None:
    data = cv2.imencode(".png", IMAGE)[1].tobytes()
    header = data[12:16] + (40_000).to_bytes(4, "big") * 2 + data[24:29]
    path = tmp_path / "huge.png"
    path.write_bytes(data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:])
    with pytest.raises(DataError, match=r"has more than .* pixels"):
        read_image(path)


def png_of_few_bits(values: np.ndarray, depth: int, kind: int, colors: bytes = b"") -> bytes:
    """A PNG of values below 2^depth, with a palette (kind 3; random or these) or grey (kind 0); OpenCV writes none."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    height, width = values.shape
    bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :].reshape(height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1))
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, kind, 0, 0, 0])
    colors = colors or np.random.default_rng(0).integers(0, 256, (1 << depth, 3), np.uint8).tobytes()
    palette = [(b"PLTE", colors), (b"tRNS", b"\0\x80")] if kind == 3 else []
    parts = [(b"IHDR", header), *palette, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("kind", [0, 3])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_mask_of_few_bits_or_with_a_palette_holds_its_values(tmp_path: Path, depth: int, kind: int) -> None:
    """PASCAL VOC's masks, and what annotation tools export: OpenCV would give colours, and 255 for a single bit."""
    values = np.random.default_rng(1).integers(0, 1 << depth, (13, 21), np.uint8)
    path = tmp_path / "mask.png"
    path.write_bytes(png_of_few_bits(values, depth, kind))
    assert read_image(path).shape == (13, 21, 3)
    assert np.array_equal(read_mask(path), values)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match="no readable image"):
        read_mask(path)


def test_a_png_of_nothing_but_its_end_is_no_mask(tmp_path: Path) -> None:
    (tmp_path / "end.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"IEND\xaeB`\x82")
    with pytest.raises(DataError, match="no readable image"):
        read_mask(tmp_path / "end.png")


def test_a_coloured_mask_is_read_by_its_palette(tmp_path: Path) -> None:
    colors = [(128, 64, 128), (0, 0, 142), (128, 64, 128), (255, 255, 255)]  # the third is never found
    values = np.array([[0, 1, 3], [3, 1, 0]], np.uint8)
    write_png(tmp_path / "bgr.png", np.ascontiguousarray(np.array(colors, np.uint8)[values][..., ::-1]))
    assert np.array_equal(read_mask(tmp_path / "bgr.png", colors), values)
    alpha = np.dstack([np.array(colors, np.uint8)[values][..., ::-1], np.full((2, 3), 9, np.uint8)])
    cv2.imwrite(str(tmp_path / "bgra.png"), alpha)
    assert np.array_equal(read_mask(tmp_path / "bgra.png", colors), values)
    with pytest.raises(
        DataError, match=r"1 of its colours are no class's: \(255, 255, 255\); expected .*palette.*void"
    ):
        read_mask(tmp_path / "bgr.png", colors[:3])


def test_every_colour_of_a_mask_is_told_apart(tmp_path: Path) -> None:
    """256 classes that differ in one channel by one, on large pictures without and with alpha."""
    colors = [(value, 255 - value, value // 2) for value in range(256)]
    values = np.random.default_rng(2).integers(0, 256, (200, 300), np.uint8)
    bgr = np.ascontiguousarray(np.array(colors, np.uint8)[values][..., ::-1])
    for name, picture in {"bgr": bgr, "bgra": np.dstack([bgr, values])}.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
        assert np.array_equal(read_mask(tmp_path / f"{name}.png", colors), values)


@pytest.mark.parametrize("depth", [2, 8])
def test_a_palette_of_the_classes_colours_goes_before_the_indices(tmp_path: Path, depth: int) -> None:
    """Programs that make PNGs smaller put coloured masks into palettes, in an order of their own."""
    colors = [(128, 64, 128), (0, 0, 142), (220, 20, 60)]
    order, values = [2, 0, 1], np.array([[0, 1, 2, 2], [2, 1, 0, 0]], np.uint8)
    indices = np.argsort(order)[values].astype(np.uint8)
    shuffled = np.array(colors, np.uint8)[order].tobytes()
    path = tmp_path / "mask.png"
    path.write_bytes(png_of_few_bits(indices, depth, 3, shuffled + bytes([9, 9, 9])))  # what no pixel has, counts not
    assert np.array_equal(read_mask(path, colors, is_own=True), values)
    assert np.array_equal(read_mask(path, colors), indices)  # colours that nobody gave for these masks say nothing
    assert np.array_equal(read_mask(path), indices)
    path.write_bytes(png_of_few_bits(values, depth, 3, np.array(colors, np.uint8).tobytes() + bytes(3)))
    assert np.array_equal(read_mask(path, colors, is_own=True), values)
    for palette in (shuffled[:6] + bytes([9, 9, 9]), shuffled[:6]):  # a used index of another colour, or of none
        path.write_bytes(png_of_few_bits(indices, depth, 3, palette))
        assert np.array_equal(read_mask(path, colors, is_own=True), indices)


@pytest.mark.parametrize("name", ["mask.jpg", "mask.png"])
def test_a_mask_that_is_a_jpeg_is_refused(tmp_path: Path, name: str) -> None:
    """Its compression invents ids along every edge, most of which are other classes'."""
    (tmp_path / name).write_bytes(cv2.imencode(".jpg", IMAGE[..., 0])[1].tobytes())
    with pytest.raises(DataError, match=f"{name} is a JPEG, which blurs ids; export masks as PNG"):
        read_mask(tmp_path / name)


def bmp_of_four_bits(values: np.ndarray, header_size: int) -> bytes:
    """A BMP of values below 16, whose palette spreads them as programs do; Pillow writes none."""
    height, width = values.shape
    entry = 3 if header_size == 12 else 4
    palette = b"".join(bytes([17 * value] * 3 + [0] * (entry - 3)) for value in range(16))
    packed = np.zeros((height, -(-width // 8) * 8), np.uint8)
    packed[:, :width] = values[::-1]
    rows = (packed[:, ::2] << 4 | packed[:, 1::2]).tobytes()
    header = struct.pack("<IHHHH", 12, width, height, 1, 4)
    if header_size == 40:
        header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 4, 0, len(rows), 0, 0, 16, 0)
    begin = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", begin + len(rows), 0, 0, begin) + header + palette + rows


@pytest.mark.parametrize("header_size", [12, 40])
def test_a_bmp_mask_of_four_bits_is_refused(tmp_path: Path, header_size: int) -> None:
    values = np.random.default_rng(3).integers(0, 16, (5, 7), np.uint8)
    (tmp_path / "mask.bmp").write_bytes(bmp_of_four_bits(values, header_size))
    assert np.array_equal(read_image(tmp_path / "mask.bmp")[..., 0], 17 * values)  # the file is a sound one
    with pytest.raises(DataError, match=r"mask\.bmp has 4 bits for each pixel; export masks as 8-bit PNG"):
        read_mask(tmp_path / "mask.bmp")


def tiff_of(values: np.ndarray, bits: int, order: str) -> bytes:
    """A grey TIFF, ``<`` little-endian or ``>`` big-endian; Pillow writes only the former."""
    height, width = values.shape
    packed = np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(height, -1)
    rows = np.packbits(packed, axis=1).tobytes()
    rows += bytes(len(rows) % 2)
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(rows)}
    entries = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    begin = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(rows))
    return begin + rows + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("kind", ["bmp", "tif", "tif, big-endian"])
def test_a_bmp_or_tiff_mask_of_one_bit_is_refused_and_one_of_eight_is_not(tmp_path: Path, kind: str) -> None:
    """OpenCV makes 255 of a single bit, which is to ignore: class 1 was lost in silence."""
    values = np.random.default_rng(3).integers(0, 2, (5, 7), np.uint8)
    path = tmp_path / f"mask.{kind[:3]}"
    for bits in (8, 1):
        if kind == "bmp":
            PIL.Image.fromarray(values.astype(bool) if bits == 1 else values).save(path)
        else:
            path.write_bytes(tiff_of(values, bits, "<" if kind == "tif" else ">"))
        assert np.array_equal(read_image(path)[..., 0], values * (255 if bits == 1 else 1))  # the file is a sound one
        if bits == 8:
            assert np.array_equal(read_mask(path), values)
            continue
        with pytest.raises(DataError, match=f"{path.name} has 1 bit for each pixel; export masks as 8-bit PNG"):
            read_mask(path)


def test_a_coloured_bmp_or_tiff_mask_is_read_by_its_palette(tmp_path: Path) -> None:
    colors, values = [(128, 64, 128), (0, 0, 142)], np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    for name in ("mask.bmp", "mask.tif"):
        PIL.Image.fromarray(np.array(colors, np.uint8)[values]).save(tmp_path / name)
        assert np.array_equal(read_mask(tmp_path / name, colors), values)
        data = (tmp_path / name).read_bytes()
        for end in (2, 20, len(data) // 2):
            (tmp_path / name).write_bytes(data[:end])
            with pytest.raises(DataError):
                read_mask(tmp_path / name, colors)
    (tmp_path / "cut.tif").write_bytes(tiff_of(np.zeros((4, 4), np.uint8), 8, "<")[:20])
    with pytest.raises(DataError, match="no readable image"):
        read_mask(tmp_path / "cut.tif")


def test_a_mask_is_one_uint8_channel(tmp_path: Path) -> None:
    write_png(tmp_path / "color.png", IMAGE)
    with pytest.raises(DataError, match="3 channels"):
        read_mask(tmp_path / "color.png")
    cv2.imwrite(str(tmp_path / "deep.png"), np.zeros((4, 4), np.uint16))
    with pytest.raises(DataError, match="uint16"):
        read_mask(tmp_path / "deep.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_mask(tmp_path / "missing.png")


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (
            PIL.Image.new("RGB", (4, 4)),
            r"is of type Image; .*a PIL image is RGB; pass np\.asarray\(image\)\[\.\.\., ::-1\]",
        ),
        (torch.zeros((4, 4, 3), dtype=torch.uint8), r"is of type Tensor; .*pass np\.asarray\(frame\)"),
        (None, r"is of type NoneType; .*cv2\.imread, which gives None"),
        ("x.png", "is of type str; .*read a file with"),
    ],
    ids=["pillow", "torch", "none", "name"],
)
def test_what_is_no_array_is_no_frame(frame: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fit_image(frame, (20, 30))


def test_fit_image() -> None:
    assert fit_image(IMAGE, (20, 30)) is IMAGE
    assert np.array_equal(fit_image(IMAGE, (10, 60)), cv2.resize(IMAGE, (60, 10), interpolation=cv2.INTER_LINEAR))
    grey = IMAGE[..., 0]
    assert np.array_equal(fit_image(grey, (20, 30)), np.repeat(grey[..., None], 3, 2))
    assert np.array_equal(fit_image(np.dstack([IMAGE, grey]), (20, 30)), IMAGE)
    assert fit_image(IMAGE[:1, :1], (5, 7)).shape == (5, 7, 3)
    assert fit_image(IMAGE[:, ::2], (20, 15)).flags.c_contiguous
    for bad in (IMAGE.astype(np.float32), IMAGE[:0], IMAGE[..., :2], IMAGE[None]):
        with pytest.raises(UsageError, match="frame"):
            fit_image(bad, (20, 30))


def test_restore_labels_invents_no_class() -> None:
    labels = np.array([[1, 7], [7, 1]], np.uint8)
    assert restore_labels(labels, (2, 2)) is labels
    assert np.array_equal(restore_labels(labels, (4, 4)), labels.repeat(2, 0).repeat(2, 1))
    assert set(np.unique(restore_labels(labels, (5, 3)))) == {1, 7}


@pytest.mark.parametrize(("size_hw", "full_hw"), [((3, 5), (5, 9)), ((45, 61), (37, 101)), ((360, 480), (720, 960))])
def test_labels_are_restored_at_pixel_centres(size_hw, full_hw):
    """As frames were fitted; OpenCV's plain nearest neighbour takes the corner, which is half a pixel off."""
    labels = np.random.default_rng(0).integers(0, 256, size_hw, np.uint8)
    rows, columns = (
        ((np.arange(full) + 0.5) * side / full).astype(int) for side, full in zip(size_hw, full_hw, strict=True)
    )
    np.testing.assert_array_equal(restore_labels(labels, full_hw), labels[rows][:, columns])


def png_of(height: int, width: int) -> bytes:
    """A few kilobytes that ask for many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("pixels_allowed", "ending", "said"),
    [
        (None, ".png", "has more than 100000000 pixels"),
        *[("500", ending, "has more than 500 pixels") for ending in (".png", ".jpg", ".bmp", ".tif", ".webp")],
        ("600", ".jpg", "(20, 30, 3)"),
    ],
)
def test_an_image_of_too_many_pixels_is_refused(tmp_path: Path, pixels_allowed, ending: str, said: str) -> None:
    """In a process of its own, as OpenCV reads the limit while it is imported."""
    path = tmp_path / f"x{ending}"
    path.write_bytes(png_of(11_000, 11_000) if pixels_allowed is None else cv2.imencode(ending, IMAGE)[1].tobytes())
    environment = {name: value for name, value in os.environ.items() if name != "OPENCV_IO_MAX_IMAGE_PIXELS"}
    if pixels_allowed:
        environment["OPENCV_IO_MAX_IMAGE_PIXELS"] = pixels_allowed
    program = (
        "import sys\nfrom pathlib import Path\nfrom fcn_edge.errors import DataError\n"
        "from fcn_edge.pixels import read_image\n"
        "try: print(read_image(Path(sys.argv[1])).shape)\n"
        "except DataError as exc: print(exc)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, str(path)], env=environment, capture_output=True, text=True, check=True
    )
    assert said in answer.stdout
    assert answer.stdout.count("\n") == 1


@pytest.mark.parametrize("channels", [3, 4])
def test_a_coloured_mask_is_looked_up_in_blocks(tmp_path: Path, monkeypatch, channels: int) -> None:
    monkeypatch.setattr(pixels, "_BLOCK", 64)
    colors = ((0, 0, 0), (10, 20, 30), (1, 2, 3))
    labels = np.random.default_rng(0).integers(0, 3, (21, 30), np.uint8)
    rgb = np.array(colors, np.uint8)[labels]
    mask = np.dstack([rgb[..., ::-1], *[labels] * (channels - 3)])
    write_png(tmp_path / "x.png", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "x.png", colors), labels)
    mask[0, 0, :3], mask[20, 29, :3], mask[20, 28, :3] = (9, 9, 9), (7, 7, 7), (9, 9, 9)
    write_png(tmp_path / "x.png", mask)
    with pytest.raises(DataError, match=r"2 of its colours are no class's: \(7, 7, 7\), \(9, 9, 9\);"):
        read_mask(tmp_path / "x.png", colors)
