"""Input sizes: each is what export and evaluation give at that size, and who has seen the sequence may not judge."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")
pytest.importorskip("openvino")

from fcn_edge.benchmarks import input_size
from fcn_edge.benchmarks.accuracy import evaluate
from fcn_edge.dataset import open_dataset
from fcn_edge.export.to_onnx import onnx_from_checkpoint
from fcn_edge.runtime import open_engine


def test_each_size_is_evaluated_as_a_file_of_that_size(
    held_out_checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "record.json"
    options = [str(held_out_checkpoint), "--data", str(data), "--holdout", "b", "-o", str(out), "--threads", "1"]
    assert input_size.main([*options, "--scales", "1", "1.3"]) == 0
    (run,) = msgspec.json.decode(out.read_bytes())["runs"]
    own, larger = run["sizes"]
    assert (own["size_hw"], larger["size_hw"]) == ([64, 96], [80, 128])  # 83.2 and 124.8 to whole eights
    assert larger["gmacs"] > own["gmacs"]
    dataset = open_dataset(data, (), "b")
    for entry in (own, larger):
        model = tmp_path / f"{entry['size_hw'][0]}.onnx"
        onnx_from_checkpoint(held_out_checkpoint, model, tuple(entry["size_hw"]))
        with open_engine(model, threads=1) as engine:
            assert entry["miou"] == pytest.approx(evaluate(engine, dataset)["miou"])
    assert f"{larger['miou']:.3f} ({larger['gmacs']:.2f})" in capsys.readouterr().out


@pytest.mark.parametrize(("holdout", "scale", "said"), [("a", "1", "may have seen a"), ("b", "1000", "8192")])
def test_what_cannot_be_measured_is_refused(
    held_out_checkpoint: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    holdout: str,
    scale: str,
    said: str,
) -> None:
    out = tmp_path / "record.json"
    options = [str(held_out_checkpoint), "--data", str(data), "--holdout", holdout, "-o", str(out), "--scales", scale]
    assert input_size.main(options) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()
