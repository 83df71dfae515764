"""Pictures of a run: whole PNG files that show what they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fcn_edge.contract import Contract
from fcn_edge.pixels import read_image
from fcn_edge.training.plots import draw_curves, draw_grid


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


def test_no_picture_leaves_a_temporary_file(tmp_path: Path) -> None:
    draw_curves(tmp_path / "curves.png", [])
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
