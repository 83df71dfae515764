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
