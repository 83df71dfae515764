"""INT8 made of an INT8 file: whose ranges they are, what frames then tell, and layers that have no range."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("openvino")
pytest.importorskip("onnx")

from fcn_edge import street
from fcn_edge.errors import GateError, UsageError
from fcn_edge.export.build import sensitivity
from fcn_edge.export.build_request import BuildRequest
from fcn_edge.export.frame_files import files_sha256
from fcn_edge.export.model_source import ModelSource, Quantisation, calibration_in, make_typed
from fcn_edge.export.quantize import CALIBRATION_KEY, typed_onnx
from fcn_edge.export.to_onnx import write_onnx
from fcn_edge.runtime.onnx_file import load_onnx

KEEP = ("backbone.s[0-9]*",)
"""Leaves one layer, so that everything takes little time."""


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Twenty-one: the first nine are calibrated with, the others judge."""
    home = tmp_path_factory.mktemp("frames")
    street.write_dataset(home, train=21, val=0, size_hw=(64, 96), seed=3)
    return tuple(sorted((home / "images" / "train").iterdir()))


@pytest.fixture(scope="module")
def typed(
    lively_model: Any, contract_of: Any, frames: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An INT8 file whose ranges were measured, with layers kept out, but not its FP32 file."""
    home = tmp_path_factory.mktemp("typed")
    lively = lively_model("fcn8s-edge-n", 5)
    fp32 = write_onnx(lively, contract_of(lively, (64, 96)), home / "fp32.onnx")
    typed_onnx(fp32, home / "street.onnx", "int8", calib=frames[:9], method="minmax", keep=KEEP, threads=1)
    fp32.unlink()
    return home / "street.onnx"


def made(source: Path, out: Path, how: Quantisation) -> Path:
    make_typed(ModelSource(source, out / "work"), "int8", out / "made.onnx", how, threads=1)
    return out / "made.onnx"


def report_of(typed: Path) -> dict[str, Any]:
    return json.loads({entry.key: entry.value for entry in load_onnx(typed).metadata_props}[CALIBRATION_KEY])


def test_the_hash_is_that_of_the_frames_which_the_file_counts(typed: Path, frames: tuple[Path, ...]) -> None:
    calibration = calibration_in(typed)
    assert calibration is not None
    assert (calibration.frames, calibration.held_out) == (6, 3)
    assert calibration.sha256 == files_sha256(frames[: calibration.frames + calibration.held_out])


def test_frames_that_only_judge_are_not_those_of_the_ranges(
    typed: Path, frames: tuple[Path, ...], tmp_path: Path
) -> None:
    again = made(typed, tmp_path, Quantisation(frames=frames[9:], keep=(*KEEP, "backbone.s32.*")))
    assert calibration_in(again) == calibration_in(typed)
    assert 0.5 < report_of(again)["agreement"] <= 1
    assert report_of(again)["agreement"] != report_of(typed)["agreement"], "of other frames"


def test_ranges_of_a_file_that_do_not_do_are_not_called_learned(
    typed: Path, frames: tuple[Path, ...], tmp_path: Path
) -> None:
    with pytest.raises(GateError, match="its ranges are those of the file: measure them anew with --method mse") as one:
        made(typed, tmp_path, Quantisation(frames=frames[9:], keep=KEEP, min_agreement=1.0))
    assert "learned" not in str(one.value)


@pytest.mark.parametrize("keep", [("backbone.s32.*",), ("backbone.stem.*", "backbone.s4.*")])
def test_a_layer_that_was_kept_out_has_no_range(
    keep: tuple[str, ...], typed: Path, frames: tuple[Path, ...], tmp_path: Path
) -> None:
    words = r"street\.onnx holds no range of \w+.*, as it was made with layers kept out; name those with --keep too"
    with pytest.raises(UsageError, match=words):
        made(typed, tmp_path, Quantisation(keep=keep))
    with pytest.raises(UsageError, match=words):
        made(typed, tmp_path, Quantisation(frames=frames, keep=keep, min_agreement=0.9))
    with pytest.raises(UsageError, match=words):
        sensitivity([typed], BuildRequest(quantisation=Quantisation(frames=frames, keep=keep), threads=1))
    assert not (tmp_path / "made.onnx").exists()
