"""A tiny data set that the tests draw themselves, and a configuration that is quick on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from fcn_edge.pixels import write_png
from fcn_edge.training.config import TrainConfig, config_from_dict

COLORS = np.array([[60, 60, 60], [40, 40, 220], [220, 60, 40]], np.uint8)
"""BGR of the classes: ground, ball, box."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw_shapes(rng: np.random.Generator, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """An image with a ball and a box on the ground, with noise, and its labels, a frame of 2 pixels ignored."""
    rows, columns = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.uint8)
    y, x = rng.integers(side // 4, 3 * side // 4, 2)
    labels[(rows - y) ** 2 + (columns - x) ** 2 < (side // 5) ** 2] = 1
    y, x = rng.integers(0, side - side // 3, 2)
    labels[y : y + side // 3, x : x + side // 3] = 2
    image = np.clip(COLORS[labels] + rng.normal(0, 12, (side, side, 3)), 0, 255).astype(np.uint8)
    labels[:2] = labels[-2:] = labels[:, :2] = labels[:, -2:] = 255
    return image, labels


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain data set: 9 train and 3 val images of 64x64, classes ground, ball, box."""
    return write_shapes(tmp_path_factory.mktemp("shapes"))


def write_shapes(root: Path) -> Path:
    rng = np.random.default_rng(5)
    for split, count in {"train": 9, "val": 3}.items():
        for index in range(count):
            image, labels = draw_shapes(rng)
            write_png(root / "images" / split / f"s{index}.png", image)
            write_png(root / "masks" / split / f"s{index}.png", labels)
    (root / "classes.json").write_bytes(msgspec.json.encode({"names": ["ground", "ball", "box"]}))
    return root


@pytest.fixture
def own_shapes(tmp_path: Path) -> Path:
    """As ``shapes``, for a test that spoils it."""
    return write_shapes(tmp_path / "shapes")


@pytest.fixture
def config(shapes: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Options of a quick run; more are given by name."""

    def make(**options: Any) -> TrainConfig:
        quick = {
            "data": str(shapes),
            "out": str(tmp_path / "run"),
            "crop": "64x64",
            "batch": 4,
            "epochs": 2,
            "amp": "off",
            "device": "cpu",
            "augment": {"rotate": 0.0, "scale": [0.8, 1.25]},
        }
        return config_from_dict(quick | options)

    return make
