"""The demo on a few images for a few seconds: every file it promises is there and holds what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest

from fcn_edge.demo import run_demo
from fcn_edge.errors import UsageError
from fcn_edge.export.facts import facts_from_file

SHORT: dict[str, Any] = {"minutes": 0.05, "threads": 1, "images": 12, "clip_s": 0.2}


def test_demo(tmp_path: Path) -> None:
    out, steps = tmp_path / "demo", []
    report = run_demo(out, **SHORT, on_step=steps.append)
    assert json.loads((out / "report.json").read_text()) == report
    assert list(report["results"]) == ["fp32", "int8"]
    for result in report["results"].values():
        assert (out / result["file"]).is_file()
        assert result["accuracy"]["images"] == 2
        assert 0 < result["accuracy"]["miou"] < 1
        assert result["latency"]["latency_ms"]["p50"] > 0
        assert f"{result['accuracy']['miou']:.3f}" in (out / "report.md").read_text()
    assert report["streamed"] == report["results"]["int8"]["file"] == "engines/model-int8-240x320.onnx"
    assert facts_from_file(out / report["streamed"])["precision"]["int8"] > 0.5
    assert report["not_built"] is None
    assert report["stream"]["frames_out"] == 5
    assert cv2.imread(str(out / "contact_sheet.png")).shape == (4 * 240, 4 * 320, 3)
    capture = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert (capture.get(cv2.CAP_PROP_FRAME_HEIGHT), capture.get(cv2.CAP_PROP_FRAME_WIDTH)) == (480, 640)
    # The others are notes of the build.
    doing = [word for step in steps if (word := step.split()[0].strip(",")).endswith("ing")]
    assert doing == ["drawing", "training", "exporting", "building", "evaluating", "evaluating", "streaming"]
    with pytest.raises(UsageError, match="--force"):
        run_demo(out, minutes=0.05)


def test_without_int8_the_demo_goes_on_in_fp32_and_says_why(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("fcn_edge.demo.MAX_MIOU_DROP", -1.0)  # what no file can hold
    out, steps = tmp_path / "demo", []
    report = run_demo(out, **SHORT, on_step=steps.append)
    assert list(report["results"]) == ["fp32"]
    assert report["streamed"] == "model.onnx"
    assert "fails its gate" in report["not_built"]
    assert report["not_built"] in (out / "report.md").read_text()
    assert not list((out / "engines").iterdir())
    assert report["stream"]["frames_out"] == 5


def test_another_seed_draws_another_street_and_nothing_of_the_first_is_left(tmp_path: Path, monkeypatch) -> None:
    class StopError(Exception):
        pass

    def stop(*_: object, **__: object) -> None:
        raise StopError

    monkeypatch.setattr("fcn_edge.demo.train", stop)
    drawn = []
    for seed in (0, 1):
        with pytest.raises(StopError):
            run_demo(tmp_path / "demo", images=6, seed=seed, force=True)
        drawn.append({path.name for path in (tmp_path / "demo" / "street" / "images" / "train").iterdir()})
    assert [len(names) for names in drawn] == [6, 6]
    assert not drawn[0] & drawn[1]


def test_a_file_is_no_place_for_a_demo(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        run_demo(tmp_path / "demo")
