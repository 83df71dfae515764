from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from fcn_edge.classes import distinct_palette
from fcn_edge.errors import UsageError
from fcn_edge.runtime.legend import Legend
from fcn_edge.runtime.overlay import Overlay


def scene(size_hw, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*size_hw, 3), np.uint8), rng.integers(0, classes, size_hw, np.uint8)


@pytest.mark.parametrize("opacity", [0.0, 0.25, 0.5, 1.0])
def test_colours_are_those_of_the_contract(contract, opacity):
    frame, labels = scene((40, 60))
    picture = Overlay(contract, opacity, legend=False).draw(frame, labels)
    palette_bgr = np.asarray(contract.palette, float)[:, ::-1]
    expected = opacity * palette_bgr[labels] + (1 - opacity) * frame
    assert np.abs(picture - expected).max() <= 0.5 + 1e-9


def test_mask_and_both(contract):
    frame, labels = scene((40, 60))
    mask = Overlay(contract, legend=False, mode="mask").draw(frame, labels)
    np.testing.assert_array_equal(mask, np.asarray(contract.palette, np.uint8)[:, ::-1][labels])
    both = Overlay(contract, legend=False, mode="both").draw(frame, labels)
    np.testing.assert_array_equal(both[:, 60:], mask)
    np.testing.assert_array_equal(both[:, :60], Overlay(contract, legend=False).draw(frame, labels))


def test_ids_that_are_no_class_are_black(contract):
    frame = np.zeros((2, 2, 3), np.uint8)
    assert Overlay(contract, 1.0, legend=False).draw(frame, np.full((2, 2), 200, np.uint8)).max() == 0


def test_inputs_are_left_alone_and_the_picture_is_new(contract):
    frame, labels = scene((240, 320))
    copies = frame.copy(), labels.copy()
    overlay = Overlay(contract, 0.0)
    picture = overlay.draw(frame, labels)
    np.testing.assert_array_equal(frame, copies[0])
    np.testing.assert_array_equal(labels, copies[1])
    assert not np.shares_memory(picture, frame)
    assert not np.shares_memory(picture, overlay.draw(frame, labels))


@pytest.mark.parametrize("mode", ["overlay", "mask", "both"])
@pytest.mark.parametrize("classes", [1, 4, 19, 256])
@pytest.mark.parametrize("size_hw", [(1, 1), (2, 300), (300, 2), (31, 57), (120, 160), (360, 480), (1080, 1920)])
def test_legend_at_every_size(contract, size_hw, classes, mode):
    ignore_id = 255 if classes < 256 else None
    names = tuple(f"class number {index}" for index in range(classes))
    big = replace(contract, class_names=names, palette=distinct_palette(classes), ignore_id=ignore_id)
    frame, labels = scene(size_hw, classes)
    plain = Overlay(big, legend=False, mode=mode).draw(frame, labels)
    picture = Overlay(big, mode=mode).draw(frame, labels)
    assert picture.shape == plain.shape
    changed = np.flatnonzero((picture != plain).any((1, 2)))
    if size_hw in ((360, 480), (1080, 1920)):
        assert changed.size, "no legend was drawn"
    if changed.size:
        assert changed.size <= 0.25 * size_hw[0] + 1
        assert changed[0] >= 0.7 * size_hw[0], "the legend belongs to the lower edge"


def test_legend_shows_every_class_in_its_colour(contract):
    frame = np.full((360, 480, 3), 128, np.uint8)
    picture = Overlay(contract).draw(frame, np.full((360, 480), 200, np.uint8))
    for red, green, blue in contract.palette:
        assert (picture == (blue, green, red)).all(2).sum() > 20


def test_legend_follows_the_size(contract):
    overlay = Overlay(contract)
    for size_hw in ((360, 480), (720, 1280), (360, 480)):
        frame, labels = scene(size_hw)
        np.testing.assert_array_equal(overlay.draw(frame, labels), Overlay(contract).draw(frame, labels))


def test_threads_that_share_an_overlay_draw_what_each_would_alone(contract):
    """Cameras of different sizes: the legend of one must not be drawn for another's, half made as it may be."""
    overlay, sizes = Overlay(contract), [(40 + 8 * number, 64 + 8 * number) for number in range(24)]
    expected = {size_hw: Overlay(contract).draw(*scene(size_hw)) for size_hw in sizes}

    def wrong(seed):
        order = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), 20))
        return [
            sizes[number]
            for number in order
            if not np.array_equal(overlay.draw(*scene(sizes[number])), expected[sizes[number]])
        ]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert [*pool.map(wrong, range(4))] == [[]] * 4
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 1), (40, 60, 4)])
def test_grey_and_bgra_frames(contract, shape):
    assert Overlay(contract).draw(np.zeros(shape, np.uint8), np.zeros((40, 60), np.uint8)).shape == (40, 60, 3)


@pytest.mark.parametrize("labels", [np.zeros((3, 4), np.uint8), np.zeros((4, 4), np.int64), None, [[0] * 4] * 4])
def test_labels_that_do_not_fit_are_refused(contract, labels):
    with pytest.raises(UsageError, match="labels"):
        Overlay(contract).draw(np.zeros((4, 4, 3), np.uint8), labels)


@pytest.mark.parametrize("mode", ["overlay", "mask", "both"])
@pytest.mark.parametrize(
    "frame", [np.zeros(4, np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_frames_that_are_none_are_refused_in_each_mode(contract, frame, mode):
    with pytest.raises(UsageError, match="frame"):
        Overlay(contract, mode=mode).draw(frame, np.zeros(frame.shape[:2], np.uint8))


@pytest.mark.parametrize("options", [{"opacity": -0.1}, {"opacity": 1.5}, {"opacity": float("nan")}, {"mode": "heat"}])
def test_bad_options(contract, options):
    with pytest.raises(UsageError):
        Overlay(contract, **options)


def test_names_in_a_legend_do_not_run_into_the_next_swatch(contract):
    def drawn(*names):
        colors = ((255, 0, 0), (0, 255, 0))[: len(names)]
        picture = np.zeros((480, 640, 3), np.uint8)
        Legend(replace(contract, class_names=names, palette=colors)).draw_on(picture)
        return picture

    one, two = drawn("a name of a class"), drawn("a name of a class", "another")
    swatch = np.flatnonzero((two == (0, 255, 0)).all(2).any(0))
    assert swatch[0] > np.flatnonzero(one.any((0, 2)))[-1] + 1


def test_a_legend_grows_with_the_picture_and_stands_on_a_dark_ground(contract):
    rows = {}
    for height, width in ((360, 480), (1080, 1920)):
        picture = np.full((height, width, 3), 255, np.uint8)
        Legend(contract).draw_on(picture)
        changed = np.flatnonzero((picture != 255).any((1, 2)))
        rows[height] = len(changed)
        assert np.median(picture[changed[0] :]) < 128, "white letters on a white street cannot be read"
    assert rows[1080] > 2 * rows[360]


@pytest.mark.parametrize("mode", ["overlay", "mask", "both"])
def test_a_pillow_image_is_told_how_to_become_a_frame(contract, mode):
    with pytest.raises(UsageError, match="a PIL image is RGB"):
        Overlay(contract, mode=mode).draw(PIL.Image.new("RGB", (6, 4)), np.zeros((4, 6), np.uint8))
