"""The demo on a few images for a few seconds: every file it promises is there and holds what it says."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from fcn_edge.demo import run_demo
from fcn_edge.errors import UsageError


def test_demo(tmp_path: Path) -> None:
    out, steps = tmp_path / "demo", []
    report = run_demo(out, minutes=0.05, threads=1, images=12, clip_s=0.2, on_step=steps.append)
    assert json.loads((out / "report.json").read_text()) == report
    assert report["accuracy"]["images"] == 2
    assert 0 < report["accuracy"]["miou"] < 1
    assert report["stream"]["frames_out"] == 5
    assert report["latency"]["latency_ms"]["p50"] > 0
    assert f"{report['accuracy']['miou']:.3f}" in (out / "report.md").read_text()
    assert cv2.imread(str(out / "contact_sheet.png")).shape == (4 * 240, 4 * 320, 3)
    capture = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert (capture.get(cv2.CAP_PROP_FRAME_HEIGHT), capture.get(cv2.CAP_PROP_FRAME_WIDTH)) == (480, 640)
    assert len(steps) == 6
    with pytest.raises(UsageError, match="--force"):
        run_demo(out, minutes=0.05)


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
