"""A checkpoint as one typed ONNX file."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("openvino")
pytest.importorskip("onnx")

from fcn_edge.errors import UsageError
from fcn_edge.export.typed_file import typed_from_checkpoint
from fcn_edge.runtime.onnx_file import split_onnx


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_paths_may_be_text(trained: Path, tmp_path: Path, precision: str) -> None:
    out = typed_from_checkpoint(str(trained / "run" / "best.pt"), str(tmp_path / "m.onnx"), precision)
    assert out == tmp_path / "m.onnx"
    assert split_onnx(out).precision == precision


def test_a_model_that_ships_is_exported_already(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"camvid-s ships exported already; fcn-edge build camvid-s -o DIR writes"):
        typed_from_checkpoint("camvid-s", tmp_path / "m.onnx")


def test_int8_without_frames_is_refused_before_the_export(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int8 needs frames"):
        typed_from_checkpoint(str(trained / "run" / "best.pt"), str(tmp_path / "m.onnx"), "int8")
    assert not list(tmp_path.iterdir())
