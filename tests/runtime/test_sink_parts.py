from __future__ import annotations

import datetime
import json
import os
import time

import numpy as np
import pytest

from fcn_edge.errors import SinkError, UsageError
from fcn_edge.runtime import sink_parts
from fcn_edge.runtime.frame import Frame, Result
from fcn_edge.runtime.measure import Link, Meter
from fcn_edge.runtime.sink import open_sink

BEGIN = datetime.datetime(2026, 11, 27, 23, 59, 58, tzinfo=datetime.timezone.utc)


@pytest.fixture
def opened(contract):
    def open_one(spec, **options):
        return open_sink(spec, contract=contract, **options)

    return open_one


@pytest.fixture
def at(monkeypatch):
    """A result captured so many seconds after ``BEGIN``."""
    monkeypatch.setattr(
        Frame, "captured_utc", lambda frame: BEGIN + datetime.timedelta(seconds=frame.captured_ns / 1e9)
    )

    def make(second: float, index: int, image: np.ndarray, is_live: bool = True) -> Result:
        frame = Frame(image, index, round(second * 1e9), f"{index:06d}", is_live)
        return Result(frame, np.zeros(image.shape[:2], np.uint8), image, 0)

    return make


def test_parts_of_a_camera_begin_when_the_one_before_is_full_and_lose_no_frame(opened, at, tmp_path, marks, read_video):
    marked, mark_of = marks
    with opened(tmp_path / "o.mp4", fps=10.0, split_s=2.0) as sink:
        for index in range(50):
            sink.write(at(index / 10 + 0.05, index, marked(index)))
            whole = [file.name for file in tmp_path.iterdir() if not file.name.startswith(".")]
            assert len(whole) == index // 20, "a part has its name as soon as it is over"
    names = ["o-20261127T235958Z.mp4", "o-20261128T000000Z.mp4", "o-20261128T000002Z.mp4"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    seen = [[mark_of(image) for image in read_video(tmp_path / name)] for name in names]
    assert seen == [list(range(20)), list(range(20)), list(range(10))]  # marks begin anew after 20


def test_frames_of_no_camera_are_split_by_the_time_at_which_they_play(opened, at, tmp_path, marks, read_video):
    marked, mark_of = marks
    with opened(tmp_path / "o.mkv", fps=10.0, split_s=1.0) as sink:
        for index in range(15):
            sink.write(at(index / 1000, index, marked(index), is_live=False))  # worked on faster than it plays
    names = ["o-20261127T235958Z.mkv", "o-20261127T235958Z-2.mkv"]
    assert {file.name for file in tmp_path.iterdir()} == set(names)
    seen = [[mark_of(image) for image in read_video(tmp_path / name)] for name in names]
    assert seen == [list(range(10)), list(range(10, 15))]


def test_lines_and_video_are_split_alike_and_nothing_that_exists_is_replaced(opened, at, tmp_path, marks):
    marked, _ = marks
    taken = tmp_path / "o-20261127T235958Z.jsonl"
    taken.write_text("mine")
    (tmp_path / "o.jsonl").write_text("mine too")
    with opened([tmp_path / "o.jsonl", tmp_path / "o.avi", "null://"], fps=10.0, split_s=1, force=True) as sink:
        assert sink.needs_picture
        for index in range(15):
            sink.write(at(index / 10, index, marked(index)))
    assert taken.read_text() == "mine"
    lines = (tmp_path / "o-20261127T235958Z-2.jsonl", tmp_path / "o-20261127T235959Z.jsonl")
    frames = [[json.loads(line)["frame"] for line in path.read_text().splitlines()] for path in lines]
    assert frames == [list(range(10)), list(range(10, 15))]
    assert sorted(path.name for path in tmp_path.glob("*.avi")) == ["o-20261127T235958Z.avi", "o-20261127T235959Z.avi"]


def test_an_error_costs_the_part_that_it_is_in_and_none_before(opened, at, tmp_path, marks, read_video):
    marked, _ = marks
    sink = opened(tmp_path / "o.mp4", fps=10.0, split_s=1.0)
    for index in range(15):
        sink.write(at(index / 10, index, marked(index)))
    sink.close(keep=False)
    assert [len(read_video(path)) for path in tmp_path.iterdir()] == [10]


def test_parts_end_by_themselves_but_none_begins_once_the_whole_is_closed(opened, at, tmp_path, marks):
    marked, _ = marks
    with opened(tmp_path / "o.jsonl", split_s=1.0) as sink:
        for index in range(3):
            sink.write(at(float(index), index, marked(index)))
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(SinkError, match=r"o\.jsonl is closed"):
        sink.write(at(3.0, 3, marked(3)))
    assert len(list(tmp_path.iterdir())) == 3


def test_lines_need_no_picture_and_a_sink_without_frames_leaves_nothing(opened, tmp_path):
    with opened(tmp_path / "o.jsonl", split_s=60.0) as sink:
        assert not sink.needs_picture
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spec", "split_s", "told"),
    [
        ("null://", 60.0, "nothing to split"),
        (["labels/", "null://"], 60.0, "nothing to split"),
        ("o.mp4", 0.5, "expected 1 s or more"),
        ("o.mp4", float("nan"), "expected 1 s or more"),
    ],
)
def test_what_cannot_be_split_is_refused(opened, tmp_path, monkeypatch, spec, split_s, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=told):
        opened(spec, split_s=split_s)
    assert not list(tmp_path.iterdir())


def test_what_a_part_cannot_be_is_refused_before_the_first_frame(opened, tmp_path):
    with pytest.raises(UsageError, match="UTF-8"):
        opened(tmp_path / os.fsdecode(b"o\xff.mp4"), split_s=60.0)


def test_a_frame_knows_the_clock_s_time_at_capture():
    frame = Frame(np.zeros((1, 1, 3), np.uint8), 0, time.monotonic_ns() - 5 * 10**9, "0")
    ago = datetime.datetime.now(datetime.timezone.utc) - frame.captured_utc()
    assert abs(ago.total_seconds() - 5) < 1


def test_two_streams_with_one_name_replace_no_part_of_each_other(opened, at, tmp_path, marks):
    """A part's name was free when it began; by its end somebody else's part may have it. force is not for that."""
    one, other = (opened(tmp_path / "o.avi", fps=10.0, split_s=60.0, force=True) for _ in range(2))
    one.write(at(0.0, 0, marks[0](0)))
    other.write(at(0.0, 0, marks[0](0)))
    one.close()
    with pytest.raises(SinkError, match="-2"):
        other.close()
    assert len(list(tmp_path.glob("o-*.avi"))) == 2


def test_a_full_part_ends_while_the_camera_is_away(opened, at, tmp_path, marks, monkeypatch):
    """What is before an outage is what somebody will look for, and a power cut may come before the camera."""
    status = Meter("cam", None).status(Link("reconnecting", 0, 1))
    now = [0.5]
    monkeypatch.setattr(sink_parts.time, "monotonic_ns", lambda: round(now[0] * 1e9))
    for is_live in (True, False):
        path = tmp_path / f"{is_live}.jsonl"
        with opened(path, fps=10.0, split_s=1.0) as sink:
            sink.tell(status)
            sink.write(at(0.0, 0, marks[0](0), is_live))
            sink.tell(status)
            assert sink._part is not None
            now[0] = 1.5
            sink.tell(status)
            assert (sink._part is None) == is_live, "other frames are split by the time at which they play"
            sink.write(at(9.0, 1, marks[0](1), is_live))
        now[0] = 0.5
        assert len(list(tmp_path.glob(f"{is_live}-*.jsonl"))) == (2 if is_live else 1)
