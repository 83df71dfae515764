"""What the command does beyond ``run``: when it says how the stream is doing; the rest is in test_cli and runtime."""

from __future__ import annotations

import argparse
import dataclasses
import re
import time
from pathlib import Path
from typing import Any

import cv2
import pytest

from fcn_edge.errors import UsageError
from fcn_edge.runtime.measure import Link, Meter
from fcn_edge.stream_command import add_stream_arguments, said_every, stream_from_arguments

STATUS = Meter("cam", None).status(Link())


def stream(*words: str) -> list[str]:
    """The lines that are said."""
    parser = argparse.ArgumentParser()
    add_stream_arguments(parser)
    said: list[str] = []
    stream_from_arguments(parser.parse_args(["echo://", *words]), said.append, lambda summary: None)
    return said


def times(lines: list[str]) -> list[float]:
    return [float(found[1]) for line in lines if (found := re.match(r" *([\d.]+) s  frame", line))]


def test_a_status_is_said_every_so_often_and_when_the_connection_has_changed() -> None:
    def at(elapsed_s: float, **link: Any) -> None:
        hear(dataclasses.replace(STATUS, elapsed_s=elapsed_s, link=Link(**link)))

    said: list[str] = []
    hear = said_every(60.0, said.append)
    for second in range(0, 62, 2):
        at(second + 0.01 * second)  # each a little late
    at(63.0, state="reconnecting", stalls=1)
    at(65.0, state="reconnecting", stalls=1)
    at(67.0, reconnects=1, stalls=1)
    for second in range(69, 129, 2):
        at(second, reconnects=1, stalls=1)
    assert times(said) == [0.0, 60.6, 63.0, 67.0, 127.0]


def test_status_is_said_as_often_as_asked_for() -> None:
    said = stream("synthetic://street?size=48x64&frames=40&live=1", "--status", "200ms")  # more than a second
    assert len(times(said)) >= 4


def test_a_recording_of_every_so_many_seconds_plays_as_fast_as_they_passed(tmp_path: Path) -> None:
    started = time.monotonic()
    stream("synthetic://street?size=48x64&frames=60&live=1", str(tmp_path / "o.mp4"), "--every", "250ms")  # two seconds
    passed_s = time.monotonic() - started
    capture = cv2.VideoCapture(str(tmp_path / "o.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == 4
    assert 6 <= capture.get(cv2.CAP_PROP_FRAME_COUNT) <= 4 * passed_s + 1
    capture.release()


def test_a_recording_plays_no_faster_than_the_camera(tmp_path: Path) -> None:
    stream("synthetic://street?size=48x64&frames=6&fps=10&live=1", str(tmp_path / "o.mp4"), "--every", "20ms")
    capture = cv2.VideoCapture(str(tmp_path / "o.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == 10
    capture.release()


def test_frames_of_a_clip_are_not_left_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--every"):
        stream("synthetic://street?size=48x64&frames=6", str(tmp_path / "o.mp4"), "--every", "1s")
    assert list(tmp_path.iterdir()) == []
