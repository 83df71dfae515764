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
    messages = [record.getMessage() for record in caplog.records]
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
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == bool(told)
    assert all(told in message for message in messages)
