"""docs/streams.md: what it shows in Python runs as it stands there, with cameras that give what they are told to."""

from __future__ import annotations

import dataclasses
import re
import threading
import time
from pathlib import Path

import pytest

from fcn_edge import runtime
from fcn_edge.runtime.engine_echo import ECHO_CONTRACT, EchoEngine

PAGE = (Path(__file__).parents[2] / "docs" / "streams.md").read_text(encoding="utf-8")


def example(words: str) -> str:
    (found,) = [code for code in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S) if words in code]
    return found


@pytest.fixture
def seen(monkeypatch):
    """Brightness of the frames that the engine saw, which knows the classes that the page speaks of."""

    class Seeing(EchoEngine):
        def infer(self, frame_bgr):
            seen.append(int(frame_bgr[0, 0, 0]))
            return super().infer(frame_bgr)

    seen = []
    contract = dataclasses.replace(ECHO_CONTRACT, class_names=("Car", "Road", "Sky", "Tree"))
    monkeypatch.setattr(runtime, "open_engine", lambda model: Seeing(contract))
    return seen


def test_of_several_cameras_one_that_is_away_stops_no_other(monkeypatch, list_source, marks, seen):
    came_through = threading.Event()

    def give():
        if seen:
            came_through.set()
        time.sleep(0.005)
        return marks[0](3)

    cameras = [[give] * 50, [lambda: came_through.wait(20) and None]]  # the second ends once the first is worked on
    monkeypatch.setattr(runtime, "open_source", lambda address: list_source(cameras.pop(0), is_live=True))
    exec(example("Reader("), {})
    assert came_through.is_set()
    assert not cameras
    assert set(seen) == {int(marks[0](3)[0, 0, 0])}


def test_a_sink_of_one_s_own(monkeypatch, list_source, marks, seen, capsys):
    monkeypatch.setattr(runtime, "open_source", lambda address: list_source([marks[0](0), marks[0](9)]))
    exec(example("(Sink)"), {})
    assert capsys.readouterr().out.splitlines() == ["000000: 100.0 % cars", "000001: 0.0 % cars"]
    assert len(seen) == 2
