"""What a run finds out about its data before it learns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from fcn_edge.pixels import write_png
from fcn_edge.training.config import TrainConfig
from fcn_edge.training.data import open_data


@pytest.mark.parametrize(("value", "is_told"), [(1, False), (255, True)])
def test_a_class_that_no_mask_shows_is_told(tmp_path: Path, caplog, value: int, is_told: bool) -> None:
    """Masks of background and object often hold 0 and 255; 255 is ignored, and all that is left is background."""
    mask = np.zeros((64, 96), np.uint8)
    mask[10:40, 20:60] = value
    write_png(tmp_path / "masks" / "train" / "0.png", mask)
    write_png(tmp_path / "images" / "train" / "0.png", np.zeros((64, 96, 3), np.uint8))
    (tmp_path / "classes.json").write_text(json.dumps({"names": ["background", "object"]}))
    open_data(TrainConfig(data=str(tmp_path), model="fcn8s-edge-n"), torch.device("cpu"))
    messages = [text for text in (record.getMessage() for record in caplog.records) if "no split 'val'" not in text]
    expected = (
        "no training mask has a pixel of object, which will not be learned (masks hold ids 0 to 1, 255 is ignored)"
    )
    assert messages == ([expected] if is_told else [])


@pytest.mark.parametrize(
    ("size_hw", "asked", "told"),
    [
        ((1080, 1920), None, "--size 352x640 training and every frame later take about 1/9 of the time"),
        ((1080, 1920), (360, 640), ""),
        ((480, 640), None, ""),
    ],
)
def test_the_size_of_a_large_camera_is_told(tmp_path: Path, caplog, size_hw, asked, told: str) -> None:
    write_png(tmp_path / "masks" / "train" / "0.png", np.zeros(size_hw, np.uint8))
    write_png(tmp_path / "images" / "train" / "0.png", np.zeros((*size_hw, 3), np.uint8))
    (tmp_path / "classes.json").write_text(json.dumps({"names": ["all"]}))
    with caplog.at_level("INFO"):
        open_data(TrainConfig(data=str(tmp_path), model="fcn8s-edge-n", size=asked), torch.device("cpu"))
    messages = [text for text in (record.getMessage() for record in caplog.records) if "no split 'val'" not in text]
    assert len(messages) == bool(told)
    assert all(told in message for message in messages)


@pytest.mark.parametrize(
    ("splits", "options", "said"),
    [
        (("train", "valid"), {}, "no split 'val' (splits with images: train, valid): nothing is validated and best.pt"),
        (("train",), {}, "no split 'val' (splits with images: train): nothing is validated and best.pt is the last"),
        (("train", "val"), {}, ""),
        (("train", "val"), {"splits": ("train", "val")}, ""),  # who trains on it knows
        (("train",), {"holdout": "a"}, ""),
    ],
)
def test_a_set_without_val_is_told(tmp_path: Path, caplog, splits: tuple, options: dict, said: str) -> None:
    for split in splits:
        for name in ("a_1", "b_1"):
            write_png(tmp_path / "masks" / split / f"{name}.png", np.zeros((64, 96), np.uint8))
            write_png(tmp_path / "images" / split / f"{name}.png", np.zeros((64, 96, 3), np.uint8))
    (tmp_path / "classes.json").write_text(json.dumps({"names": ["all"]}))
    open_data(TrainConfig(data=str(tmp_path), model="fcn8s-edge-n", **options), torch.device("cpu"))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == bool(said)
    assert all(
        text.startswith(said) and text.endswith("rename the folder to val or use --holdout") for text in messages
    )
