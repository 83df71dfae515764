"""Pictures of a run: whole PNG files that show what they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fcn_edge.contract import Contract
from fcn_edge.pixels import read_image
from fcn_edge.training.plots import WRONG, draw_curves, draw_grid, error_map


def test_curves_are_drawn_with_gaps_and_with_nothing(tmp_path: Path) -> None:
    history = [
        {"epoch": epoch, "loss": 3 / epoch, "lr": 1e-3, "val_miou": 0.1 * epoch if epoch % 2 else None}
        for epoch in range(1, 9)
    ]
    draw_curves(tmp_path / "curves.png", history)
    draw_curves(tmp_path / "empty.png", [])
    full, empty = read_image(tmp_path / "curves.png"), read_image(tmp_path / "empty.png")
    assert full.shape == empty.shape
    blue = np.abs(full.astype(int) - (0xEB, 0x63, 0x25)).max(2) < 8
    assert blue.sum() > 100
    assert not (np.abs(empty.astype(int) - (0xEB, 0x63, 0x25)).max(2) < 8).any()


def test_the_grid_shows_image_label_and_answer_side_by_side(tmp_path: Path) -> None:
    palette = ((250, 10, 20), (10, 200, 30), (5, 15, 240))
    contract = Contract("fcn8s-edge-n", (64, 96), ("a", "b", "c"), palette, (0, 0, 0), (1, 1, 1), (32, 16, 8))
    image = np.full((64, 96, 3), (120, 60, 180), np.uint8)
    label, answer = np.zeros((64, 96), np.uint8), np.ones((64, 96), np.uint8)
    label[:, :48] = 255
    draw_grid(tmp_path / "grid.png", [(image, label, answer)] * 2, contract)
    rgb = read_image(tmp_path / "grid.png")[..., ::-1].astype(int)

    def columns_of(color: tuple[int, int, int]) -> np.ndarray:
        # A colour of the legend covers a few rows; a picture covers many.
        return np.flatnonzero((np.abs(rgb - color).max(2) < 4).sum(0) > 100)

    picture, truth, predicted = columns_of((180, 60, 120)), columns_of(palette[0]), columns_of(palette[1])
    assert picture.max() < truth.min()
    assert truth.max() < predicted.min()
    assert len(truth) < 0.6 * len(predicted)  # half of the label is ignored, and black
    legend = (np.abs(rgb - palette[2]).max(2) < 4).sum()
    assert legend > 50  # class c is in no picture, but in the legend


def test_a_grid_with_errors_keeps_every_colour_of_the_classes(tmp_path: Path) -> None:
    palette = ((250, 10, 20), (10, 200, 30), (5, 15, 240))
    contract = Contract("fcn8s-edge-n", (64, 96), ("a", "b", "c"), palette, (0, 0, 0), (1, 1, 1), (32, 16, 8))
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)  # more colours than a small PNG has
    label, answer = np.zeros((64, 96), np.uint8), np.zeros((64, 96), np.uint8)
    answer[:, 48:] = 1
    plain, full = tmp_path / "plain.png", tmp_path / "full.png"
    draw_grid(plain, [(image, label, answer)] * 2, contract)
    draw_grid(full, [(image, label, answer)] * 2, contract, captions=["one", "two"], errors=True)
    rgb = read_image(full)[..., ::-1]
    assert len(np.unique(rgb.reshape(-1, 3), axis=0)) <= 256
    counts = [(rgb == color).all(2).sum() for color in (*palette, WRONG, (255, 255, 255))]
    assert counts[0] > counts[1] > 10_000  # a: the label and half of the answer
    assert counts[3] == pytest.approx(counts[1], rel=0.05)  # all of b is wrong
    assert 50 < counts[2] < 1000  # the legend alone
    assert counts[4] > 10_000
    assert not (read_image(plain)[..., ::-1] == WRONG).all(2).any()


def test_an_error_map_tells_wrong_right_and_ignored_apart() -> None:
    image = np.full((2, 3, 3), 200, np.uint8)
    image[0, 0] = 0  # as dark as a pixel can be, and yet not black on the map
    label = np.array([[0, 1, 255], [2, 2, 255]], np.uint8)
    answer = np.array([[0, 2, 0], [2, 1, 255]], np.uint8)
    found = error_map(image, label, answer, 255)
    wrong, ignored = (found == WRONG[::-1]).all(2), (found == 0).all(2)
    np.testing.assert_array_equal(wrong, [[False, True, False], [False, True, False]])
    np.testing.assert_array_equal(ignored, label == 255)
    assert found[0, 0].max() < found[1, 0].max() < 200
    assert (error_map(image, label, answer, None)[0, 2] == WRONG[::-1]).all()  # 255 is a class like others


def test_no_picture_leaves_a_temporary_file(tmp_path: Path) -> None:
    draw_curves(tmp_path / "curves.png", [])
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_names_of_classes_are_no_formulas(tmp_path: Path) -> None:
    image, labels = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    odd = Contract("m", (8, 8), ("a$^$", "b"), ((0, 0, 0), (9, 9, 9)), (0.0,) * 3, (1.0,) * 3, (8,))
    draw_grid(tmp_path / "grid.png", [(image, labels, labels)], odd)
    assert (tmp_path / "grid.png").is_file()


@pytest.mark.parametrize(
    "names",
    [
        [f"traffic-sign-{number:04d}" for number in range(10)],
        [f"windowpane {number}" for number in range(150)],
        ["W" * 200, "ground", "x"],
    ],
)
def test_the_legend_of_long_and_many_names_is_whole(tmp_path: Path, names: list[str]) -> None:
    palette = tuple((250, number, 10) for number in range(len(names)))
    contract = Contract("m", (32, 48), tuple(names), palette, (0.0,) * 3, (1.0,) * 3, (8,))
    image, labels = np.zeros((32, 48, 3), np.uint8), np.full((32, 48), 255, np.uint8)  # black: the colours are below
    draw_grid(tmp_path / "grid.png", [(image, labels, labels)], contract)
    rgb = read_image(tmp_path / "grid.png")[..., ::-1]
    patches = [np.argwhere((rgb == color).all(2)) for color in palette]
    assert min(map(len, patches)) > 180, "none is cut"
    legend = rgb[min(patch[:, 0].min() for patch in patches) - 2 :]
    assert (legend[:, :6] == 255).all()
    assert (legend[:, -6:] == 255).all()
    assert (legend[-2:] == 255).all()


def test_the_title_of_the_images_may_be_another(tmp_path: Path) -> None:
    image, labels = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    contract = Contract("m", (8, 8), ("a",), ((0, 0, 0),), (0.0,) * 3, (1.0,) * 3, (8,))
    for name, more in {"one": {}, "other": {"image_title": "training image"}}.items():
        draw_grid(tmp_path / f"{name}.png", [(image, labels, labels)], contract, **more)
    assert not np.array_equal(read_image(tmp_path / "one.png"), read_image(tmp_path / "other.png"))
