"""Opening a model in ONNX Runtime: the threads it gets, what is refused, what is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from fcn_edge.errors import MissingError, ModelError  # noqa: E402
from fcn_edge.export.candidates import calibrated  # noqa: E402
from fcn_edge.export.onnx_runtime import open_session  # noqa: E402
from fcn_edge.street import write_dataset  # noqa: E402


def test_threads_are_those_asked_for(trained: Path) -> None:
    model = trained / "model.onnx"
    for source in (model, model.read_bytes()):
        assert open_session(source, "a test", 1).get_session_options().intra_op_num_threads == 1
    assert open_session(model, "a test").get_session_options().intra_op_num_threads >= 1


def test_calibration_keeps_to_its_threads(trained: Path, tmp_path: Path, monkeypatch) -> None:
    write_dataset(tmp_path, train=8, val=0, size_hw=(64, 96))
    seen, opened = [], onnxruntime.InferenceSession

    def session(model, options, **rest):
        seen.append(options.intra_op_num_threads)
        return opened(model, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    calibrated(trained / "model.onnx", tmp_path, threads=1)
    assert seen == [1]


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_what_cannot_be_opened_is_a_model_error(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"ONNX Runtime refuses .*model\.onnx"):
        open_session(path, "a test")


def test_without_onnx_runtime_the_package_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingError, match=r"a test needs onnxruntime, .*pip install 'fcn-edge\[train\]'"):
        open_session(b"", "a test")
