"""The gate: borders, shares, limits; every verdict on labels whose answer is known by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fcn_edge import street
from fcn_edge.classes import distinct_palette
from fcn_edge.contract import Contract
from fcn_edge.dataset import open_dataset
from fcn_edge.errors import DataError, GateError, ModelError, UsageError
from fcn_edge.export.gate import GateRequest, compare, measured, near_border, open_gate, require_gate
from fcn_edge.pixels import write_png
from fcn_edge.runtime.engine import Engine
from fcn_edge.runtime.sidecar import Gate


class Painted(Engine):
    """Answers with given labels, whatever the frame."""

    backend = "painted"

    def __init__(self, contract: Contract, labels: np.ndarray) -> None:
        super().__init__(contract, "fp32")
        self._labels = labels

    def _segment(self, image_bgr: np.ndarray) -> tuple[np.ndarray, float]:
        return self._labels.copy(), 0.0


@pytest.fixture
def data(tmp_path: Path) -> Path:
    street.write_dataset(tmp_path / "data", train=1, val=2, size_hw=(64, 96))
    return tmp_path / "data"


@pytest.fixture
def contract(data: Path) -> Contract:
    dataset = open_dataset(data)
    names, palette = dataset.class_names, dataset.palette
    return Contract("x", (64, 96), names, palette, (0, 0, 0), (1, 1, 1), (8,), ignore_id=255)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (9, 13), (40, 30)])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_borders_are_those_of_a_plain_search(shape: tuple[int, int], classes: int) -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, classes, (shape[0] // 8 + 1, shape[1] // 8 + 1), np.uint8)
    labels = np.ascontiguousarray(blocks.repeat(8, 0).repeat(8, 1)[: shape[0], : shape[1]])
    expected = np.zeros(shape, bool)
    for y, x in np.ndindex(shape):
        window = labels[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
        expected[y, x] = (window != labels[y, x]).any()
    np.testing.assert_array_equal(near_border(labels), expected)


def test_shares_and_miou_of_a_known_mistake(data: Path, contract: Contract) -> None:
    frames = open_gate(GateRequest(data=data, max_miou_drop=0.01), contract)
    left_right = np.zeros((64, 96), np.uint8)
    left_right[:, 48:] = 1
    wrong = left_right.copy()
    wrong[:, 49] = 0  # a column on the border
    wrong[10:14, 10:20] = 2  # a patch inside
    gate = compare(Painted(contract, left_right), Painted(contract, wrong), frames, "openvino")
    assert gate.frames == 2
    assert gate.agreement == pytest.approx(1 - (64 + 40) / (64 * 96))
    assert gate.agreement_inside == pytest.approx(1 - 40 / (64 * 92))
    assert gate.miou_fp32 is not None
    assert gate.miou is not None
    same = compare(Painted(contract, wrong), Painted(contract, wrong), frames, "openvino")
    assert (same.agreement, same.agreement_inside, same.miou) == (1.0, 1.0, gate.miou)
    require_gate(same, "x-fp16.onnx")


def test_a_class_that_no_mask_shows_decides_nothing(data: Path, contract: Contract) -> None:
    """One stray pixel of it would count as a class of IoU 0, in one of the two means only."""
    truth = np.zeros((64, 96), np.uint8)
    truth[:, 48:] = 1
    for mask in (data / "masks" / "val").iterdir():
        write_png(mask, truth)
    stray, bad = truth.copy(), truth.copy()
    stray[0, 0] = 5
    bad[:, 36:48] = 1
    frames = open_gate(GateRequest(data=data, max_miou_drop=0.01), contract)
    for reference, candidate, passes in ((truth, stray, True), (stray, bad, False), (truth, bad, False)):
        gate = compare(Painted(contract, reference), Painted(contract, candidate), frames, "openvino")
        assert (gate.miou_fp32 - gate.miou <= 0.01) == passes


def test_a_split_without_any_mask_is_incomplete_and_not_empty(data: Path, contract: Contract) -> None:
    for mask in (data / "masks" / "val").iterdir():
        mask.unlink()
    with pytest.raises(DataError, match="is incomplete") as caught:
        open_gate(GateRequest(data=data), contract)
    assert len(caught.value.problems) == 2


def test_what_masks_mean_is_part_of_the_frames(data: Path, contract: Contract) -> None:
    request = GateRequest(data=data)
    before = open_gate(request, contract).sha256
    assert open_gate(request, contract).sha256 == before
    classes = json.loads((data / "classes.json").read_text())
    names = classes["names"]
    names[0], names[1] = names[1], names[0]
    (data / "classes.json").write_text(json.dumps(classes))
    assert open_gate(request, replace(contract, class_names=tuple(names))).sha256 != before


def test_a_palette_that_is_given_is_part_of_what_masks_mean(data: Path, contract: Contract) -> None:
    """Only a given one is held against the palette inside a mask, also where its colours are the default's."""
    names = ["road", "car"]
    request = GateRequest(data=data)
    found = set()
    for more in ({}, {"palette": distinct_palette(2)}):
        (data / "classes.json").write_text(json.dumps({"names": names, **more}))
        found.add(open_gate(request, replace(contract, class_names=tuple(names), palette=distinct_palette(2))).sha256)
    assert len(found) == 2


GOOD = Gate(ran="openvino", frames=3, frames_sha256="", agreement=0.99, agreement_inside=0.999, miou=0.5, miou_fp32=0.6)


@pytest.mark.parametrize(
    ("limits", "passes"),
    [
        ({}, True),
        ({"max_miou_drop": 0.11}, True),
        ({"max_miou_drop": 0.09}, False),
        ({"max_miou_drop": -1.0}, False),
        ({"max_miou_drop": float("nan")}, False),
        ({"min_agreement": 0.99}, True),
        ({"min_agreement": 0.9901}, False),
        ({"max_miou_drop": 0.11, "min_agreement": 0.995}, False),
    ],
)
def test_limits(limits: dict[str, float], passes: bool) -> None:
    gate = replace(GOOD, **limits)
    if passes:
        require_gate(gate, "x-int8.onnx")
    else:
        with pytest.raises(GateError, match=r"x-int8\.onnx fails its gate .* on the CPU.* 3 frames; keep layers out"):
            require_gate(gate, "x-int8.onnx")


def test_agreement_is_told_beside_miou() -> None:
    """Much of it is needed to judge a drop of mIoU, which a few frames may hide or make."""
    told = "99.0000% of the labels of the typed ONNX on the CPU are those of FP32 (99.9000% away from borders)"
    miou = "mIoU of the typed ONNX on the CPU is 0.5000, that of FP32 0.6000, a drop of 0.1000"
    assert measured(GOOD) == f"{miou}; {told}"
    assert measured(replace(GOOD, miou=None, miou_fp32=None)) == told
    with pytest.raises(GateError) as caught:
        require_gate(replace(GOOD, max_miou_drop=0.01), "x-int8.onnx")
    assert f"{miou}; {told}; a drop of at most 0.01 is allowed on 3 frames" in str(caught.value)


def test_a_gain_that_rounds_to_nothing_is_no_drop_below_zero() -> None:
    assert "a drop of 0.0000;" in measured(replace(GOOD, miou=0.60002))
    assert "a drop of -0.0100;" in measured(replace(GOOD, miou=0.61))


def test_frames_without_masks(tmp_path: Path, contract: Contract) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    write_png(tmp_path / "a.png", image)
    frames = open_gate(GateRequest(frames=(tmp_path / "a.png",), min_agreement=0.5), contract)
    labels = np.zeros((64, 96), np.uint8)
    gate = compare(Painted(contract, labels), Painted(contract, labels), frames, "tensorrt")
    assert (gate.agreement, gate.miou, gate.miou_fp32, gate.ran) == (1.0, None, None, "tensorrt")
    before = frames.sha256
    write_png(tmp_path / "a.png", 255 - image)
    assert open_gate(frames.request, contract).sha256 != before


def test_what_cannot_be_compared(data: Path, contract: Contract) -> None:
    renamed = replace(contract, class_names=tuple(f"{name}!" for name in contract.class_names))
    with pytest.raises(ModelError, match="classes"):
        open_gate(GateRequest(data=data), renamed)
    with pytest.raises(UsageError, match="nowhere"):
        open_gate(GateRequest(data=data, split="nowhere"), contract)
    next((data / "masks" / "val").iterdir()).unlink()
    with pytest.raises(DataError, match="incomplete"):
        open_gate(GateRequest(data=data), contract)


def test_miou_is_that_of_all_frames_together(data: Path, contract: Contract) -> None:
    """Pixels are counted over both frames before the mean; those that are ignored count in neither number."""
    thirds, twos = np.arange(96, dtype=np.uint8)[None].repeat(64, 0) // 32, np.full((64, 96), 2, np.uint8)
    masks = [thirds, twos.copy()]
    masks[1][:16] = 255
    for path, mask in zip(sorted((data / "masks" / "val").iterdir()), masks, strict=True):
        write_png(path, mask)
    frames = open_gate(GateRequest(data=data), contract)
    gate = compare(Painted(contract, thirds), Painted(contract, twos), frames, "openvino")
    # FP32: 64 rows are right, in the second frame 48 rows of two thirds are wrong.
    assert gate.miou_fp32 == pytest.approx((64 / (64 + 48) + 64 / (64 + 48) + (64 + 48) / (64 + 3 * 48)) / 3)
    # The candidate: nothing but class 2, of which the first frame has a third.
    assert gate.miou == pytest.approx((64 + 3 * 48) / (3 * 64 + 3 * 48) / 3)


def test_masks_of_which_no_pixel_counts_are_refused(data: Path, contract: Contract) -> None:
    for mask in (data / "masks" / "val").iterdir():
        write_png(mask, np.full((64, 96), 255, np.uint8))
    labels = Painted(contract, np.zeros((64, 96), np.uint8))
    with pytest.raises(DataError, match="no pixel of the masks"):
        compare(labels, labels, open_gate(GateRequest(data=data, min_agreement=0.5), contract), "openvino")


def test_a_model_of_merged_classes_is_compared_by_the_same_choice(data: Path, contract: Contract) -> None:
    choice = ("ways=Road+Pavement", "Car")
    merged = replace(contract, class_names=("ways", "Car"), palette=contract.palette[:2])
    with pytest.raises(ModelError, match="--gate-classes where it was trained with --classes"):
        open_gate(GateRequest(data=data), merged)
    frames = open_gate(GateRequest(data=data, classes=choice), merged)
    assert frames.dataset.class_names == ("ways", "Car")
    write_png(data / "images" / "train" / "a_1.png", np.zeros((64, 96, 3), np.uint8))
    write_png(data / "masks" / "train" / "a_1.png", np.zeros((64, 96), np.uint8))
    held = open_gate(GateRequest(data=data, classes=choice, holdout="a"), merged)
    assert [path.name for path in held.images] == ["a_1.png"]
