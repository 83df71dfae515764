"""The gate of a build that starts from a typed file, where FP32 is that file's own weights; in the CPU engine."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("openvino")
pytest.importorskip("onnx")

from fcn_edge.cli import main
from fcn_edge.export.build import build
from fcn_edge.export.build_one import Shop, _gate
from fcn_edge.export.build_request import BuildRequest
from fcn_edge.export.gate import GateRequest, open_gate
from fcn_edge.export.model_source import ModelSource
from fcn_edge.export.quantize import typed_onnx
from fcn_edge.export.to_onnx import write_onnx
from fcn_edge.export.untyped import fp32_from_typed
from fcn_edge.pixels import read_image
from fcn_edge.runtime import tensorrt_library
from fcn_edge.runtime.engine import open_engine
from fcn_edge.runtime.onnx_file import load_onnx
from fcn_edge.runtime.sidecar import Gate

GATE_FAILED = 6


@pytest.fixture(autouse=True)
def without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    hidden = tensorrt_library.PACKAGES
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in hidden else found(name, *rest))


@pytest.fixture(scope="module")
def images(trained: Path) -> tuple[Path, ...]:
    return tuple(sorted((trained / "data" / "images" / "val").iterdir()))


@pytest.fixture(scope="module")
def typed(lively_model: Any, contract_of: Any, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An INT8 file as one that ships: without its FP32 file."""
    home = tmp_path_factory.mktemp("typed")
    lively = lively_model("fcn8s-edge-n", 5)
    frames = sorted((trained / "data" / "images" / "train").iterdir()) * 2
    fp32 = write_onnx(lively, contract_of(lively, (64, 96)), home / "fp32.onnx")
    typed_onnx(fp32, home / "street.onnx", "int8", calib=frames, method="minmax", threads=1)
    fp32.unlink()
    return home / "street.onnx"


def test_fp32_is_what_the_typed_file_holds(typed: Path, images: tuple[Path, ...], tmp_path: Path) -> None:
    notes: list[str] = []
    gate = GateRequest(frames=images, min_agreement=0.5)
    request = BuildRequest(precisions=("fp32", "fp16", "int8"), gate=gate, threads=1)
    fp32, fp16, int8 = build([typed], tmp_path / "out", request, on_note=notes.append)
    for result in (fp32, fp16, int8):
        assert result.gate is not None
        assert result.gate.reference == "int8"
    assert fp32.gate.agreement == 1.0
    assert fp16.gate.agreement > 0.99
    (tmp_path / "plain.onnx").write_bytes(with_contract(typed).SerializeToString())
    with open_engine(tmp_path / "plain.onnx", threads=1) as plain, open_engine(typed, threads=1) as rounded:
        frames = [read_image(path) for path in images]
        same = np.mean([np.mean(plain.infer(frame) == rounded.infer(frame)) for frame in frames])
    assert int8.gate.agreement == same < 1
    said = "; FP32 is here the weights of the int8 file, run in FP32 with no activation rounded"
    assert [said in note for note in notes if "holds its gate" in note] == [True] * 3


def with_contract(typed: Path) -> Any:
    model = load_onnx(typed)
    plain = fp32_from_typed(model)
    plain.metadata_props.extend(entry for entry in model.metadata_props if entry.key == "fcn_edge.contract")
    return plain


def test_a_typed_file_that_fails_its_gate_is_exit_code_6_and_nothing_is_left(
    typed: Path, trained: Path, images: tuple[Path, ...], tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    strict = f"--gate-frames {images[0].parent}/*.png --min-agreement 1.01"
    assert main(f"build {typed} -o {out} --precision fp16,int8 --threads 1 {strict}".split()) == GATE_FAILED
    assert capsys.readouterr().err.count("fails its gate and is not kept") == 2
    assert list(out.iterdir()) == []
    assert typed.exists()
    half = build([trained / "model.onnx"], tmp_path / "half", BuildRequest(precisions=("fp16",)))[0].onnx
    drop = f"build {half} -o {tmp_path / 'half'} --gate {trained / 'data'} --max-miou-drop"
    assert main([*drop.split(), "0.5"]) == 0
    assert main([*drop.split(), "-1"]) == GATE_FAILED
    assert Path(half).exists(), "it is what was given"


def test_a_comparison_with_the_model_s_own_fp32_is_not_replaced_by_a_weaker_one(
    typed: Path, trained: Path, images: tuple[Path, ...], tmp_path: Path
) -> None:
    source = ModelSource(typed, tmp_path / "int8")
    original = ModelSource(Path(shutil.copy(trained / "model.onnx", tmp_path)), tmp_path / "fp32")
    shop = Shop(tmp_path, BuildRequest(threads=1), None, None, lambda note: None)
    frames = open_gate(GateRequest(frames=images), source.contract)
    own = Gate(ran="openvino", frames=2, frames_sha256=frames.sha256, agreement=0.5, agreement_inside=None)
    weaker = Gate(
        ran="openvino", frames=2, frames_sha256=frames.sha256, agreement=2, agreement_inside=None, reference="int8"
    )
    assert _gate(shop, source, typed, frames, own) == own
    assert _gate(shop, source, typed, frames, weaker) == weaker
    measured = _gate(shop, original, original.path, frames, weaker)
    assert measured is not None
    assert (measured.reference, measured.agreement) == ("fp32", 1.0)
