"""What a model argument means: the independent reference, the facts, and torch that is not there."""

import hashlib
import sys

import numpy as np
import pytest

from fcn_edge.benchmarks.engines import facts_of, open_any_engine, open_reference
from fcn_edge.errors import MissingError, ModelError, UsageError
from fcn_edge.runtime.onnx_file import split_onnx
from fcn_edge.runtime.sidecar import Library, Options, Precision, Sidecar, write_sidecar


def test_the_reference_gives_the_labels_of_the_engine_at_any_size(small_onnx):
    random = np.random.default_rng(8)
    reference = open_reference(small_onnx)
    with open_any_engine(small_onnx, threads=1) as engine:
        for size_hw in ((32, 48), (47, 33)):
            frame = random.integers(0, 256, (*size_hw, 3), np.uint8)
            labels = reference(frame)
            assert (labels.dtype, labels.shape) == (np.uint8, size_hw)
            assert len(np.unique(labels)) > 1
            np.testing.assert_array_equal(labels, engine.infer(frame))


def test_there_is_no_reference_without_an_onnx_file_or_without_onnxruntime(small_onnx, tmp_path, monkeypatch):
    assert open_reference("echo://") is None
    assert open_reference(tmp_path / "model.pt") is None
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert open_reference(small_onnx) is None


def test_a_file_that_onnx_runtime_refuses_is_named(tmp_path):
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ModelError, match=r"refuses .*text\.onnx"):
        open_reference(tmp_path / "text.onnx")


def test_facts_of_both_kinds_of_file(small_onnx, small_checkpoint):
    params, gmacs = facts_of(small_onnx)
    assert params == 4 * 3 * 8 * 8 + 4 * 16 * 16
    assert gmacs == pytest.approx((4 * 3 * 8 * 8 * 24 + 4 * 24 * 16 * 16) / 1e9)  # 24 cells
    params, gmacs = facts_of(small_checkpoint)
    assert params == pytest.approx(0.99e6, rel=0.05)
    assert gmacs > 0
    assert facts_of("echo://") == (None, None)


def test_facts_of_an_engine_are_those_of_its_typed_file_beside_it(small_onnx, tmp_path):
    engine, typed = tmp_path / "m.engine", tmp_path / "m.onnx"
    engine.write_bytes(b"a plan")
    typed.write_bytes(small_onnx.read_bytes())
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (engine, typed)]
    sidecar = Sidecar(
        contract=split_onnx(small_onnx).contract,
        precision=Precision(asked="fp32", found={"fp32": 1.0}, audited="engine"),
        plan_sha256=digests[0],
        onnx=typed.name,
        onnx_sha256=digests[1],
        tensorrt=Library(package="tensorrt", version="10.3.0"),
        cuda="12.6",
        gpu=None,
        plugin=None,
        options=Options(),
    )
    write_sidecar(engine, sidecar)
    assert facts_of(engine) == facts_of(small_onnx) != (None, None)
    typed.write_bytes(small_onnx.read_bytes() + b" ")
    assert facts_of(engine) == (None, None), "it is another file"


def test_a_checkpoint_without_torch_says_what_to_install(small_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingError, match=r"fcn-edge\[train\]"):
        open_any_engine(small_checkpoint)


def test_an_unknown_model_is_told_all_that_is_taken():
    with pytest.raises(
        UsageError, match=r"'nope' is unknown; expected a file that ends in \.pt, \.onnx or \.engine, or a"
    ):
        open_any_engine("nope")
    with pytest.raises(UsageError, match="camvid-n, camvid-s"):
        open_any_engine("nope.pth")


def test_an_address_in_the_place_of_a_model_keeps_its_password():
    with pytest.raises(UsageError, match=r"model 'rtsp://\*\*\*@10.0.0.7/live' is unknown; .*\.pt, \.onnx or \.engine"):
        open_any_engine("rtsp://admin:s3cret@10.0.0.7/live")
