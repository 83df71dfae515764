from __future__ import annotations

import collections
import dataclasses
import datetime
import json
import os
import resource
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcn_edge.errors import MissingError, SinkError, UsageError
from fcn_edge.runtime import open_source, run, sink_folder
from fcn_edge.runtime.engine_echo import EchoEngine
from fcn_edge.runtime.frame import Frame, Result
from fcn_edge.runtime.measure import Link, Meter
from fcn_edge.runtime.sink import NullSink, Sink, TeeSink, open_sink


def result(index: int, image: np.ndarray, name: str = "") -> Result:
    labels = np.full(image.shape[:2], index % 4, np.uint8)
    return Result(Frame(image, index, 0, name or f"{index:06d}"), labels, image, 0)


def write_then_raise(sink: Sink, first: Result, error: type[BaseException]) -> None:
    with sink:
        sink.write(first)
        raise error


@pytest.fixture
def opened(contract):
    def open_one(spec, **options):
        return open_sink(spec, contract=contract, **options)

    return open_one


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov", ".mkv"])
@pytest.mark.parametrize("size_hw", [(48, 64), (47, 63), (1, 1), (2, 300)])
def test_video_plays_every_frame_in_order(opened, tmp_path, marks, read_video, size_hw, suffix):
    marked, mark_of = marks
    path = tmp_path / f"out{suffix}"
    with opened(path, fps=15.0) as sink:
        for index in range(20):
            sink.write(result(index, marked(index, size_hw)))
        assert not path.exists(), "the file has its name only when it is whole"
    images = read_video(path)
    assert [mark_of(image) for image in images] == list(range(20))
    assert images[0].shape == (size_hw[0] + size_hw[0] % 2, size_hw[1] + size_hw[1] % 2, 3)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(15, abs=0.1)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_frames_of_other_sizes_are_fitted_to_the_first(opened, tmp_path, marks, read_video):
    with opened(tmp_path / "o.mp4") as sink:
        for index, size_hw in enumerate([(48, 64), (96, 20), (1, 1), (47, 63), (500, 700)]):
            sink.write(result(index, marks[0](index, size_hw)))
    assert [marks[1](image) for image in read_video(tmp_path / "o.mp4")] == [0, 1, 2, 3, 4]


def at(second: float, index: int, image: np.ndarray) -> Result:
    """A camera's frame of that time."""
    made = result(index, image)
    frame = dataclasses.replace(made.frame, captured_ns=10**12 + int(second * 1e9), is_live=True)
    return dataclasses.replace(made, frame=frame)


@pytest.mark.parametrize(
    ("seconds", "seen"),
    [
        ([0.0, 0.101, 0.401, 0.501], [0, 1, 1, 1, 2, 3]),  # an engine, or a camera, slower than is declared
        ([0.0, 0.11, 0.19, 0.31, 0.39], [0, 1, 2, 3, 4]),  # early and late by a little
        ([0.0, 0.101, 9.101, 9.201], [0, 1, 2, 3]),  # a camera that was away
        ([0.0, 0.101, 9.101, 9.501], [0, 1, 2, 2, 2, 2, 3]),  # and is slow when it is back
        ([0.0, 0.051, 0.101, 0.151, 0.201], [0, 1, 2, 3, 4]),  # one twice as fast as it says: nothing is lost
    ],
)
def test_a_recording_plays_no_faster_than_what_it_shows(opened, tmp_path, marks, read_video, seconds, seen):
    with opened(tmp_path / "o.avi", fps=10.0) as sink:
        for index, second in enumerate(seconds):
            sink.write(at(second, index, marks[0](index)))
    assert [marks[1](image) for image in read_video(tmp_path / "o.avi")] == seen


def test_a_recording_of_a_camera_faster_than_it_says_is_at_most_a_second_too_long(opened, tmp_path, marks, read_video):
    """Five seconds of one that gives 15 a second and says 10; what comes next is seen when it is due."""
    with opened(tmp_path / "o.avi", fps=10.0) as sink:
        for index in range(75):
            sink.write(at(index / 15, index, np.hstack([marks[0](index), marks[0](index // 20)])))
    halves = [np.hsplit(image, 2) for image in read_video(tmp_path / "o.avi")]
    seen = [marks[1](left) + 20 * marks[1](right) for left, right in halves]
    assert len(seen) == 60
    assert seen[:20] == list(range(20)), "nothing is left out before that"
    assert seen == sorted(set(seen)), "each once, in their order"
    assert all(abs(mark / 15 - place / 10) < 1.1 for place, mark in enumerate(seen))


@pytest.mark.parametrize("fps", [0.01, 1.0, 29.97002997, 100.123, 239.7776, 239.862, 1000.0])
def test_any_rate_can_be_written(opened, tmp_path, marks, read_video, fps):
    with opened(tmp_path / "o.mp4", fps=fps) as sink:
        sink.write(result(0, marks[0](0)))
        sink.write(result(1, marks[0](1)))
    assert len(read_video(tmp_path / "o.mp4")) == 2


@pytest.mark.parametrize("fps", [0.0, -1.0, float("inf"), float("nan"), 1001])
@pytest.mark.parametrize("spec", ["null://", "o.mp4", "o.jsonl"])
def test_a_rate_at_which_nothing_plays_is_refused(opened, tmp_path, fps, spec):
    """A capture of OpenCV's that knows no rate says 0."""
    for split_s in (None, 1.0):
        with pytest.raises(UsageError, match=rf"at {fps} frames a second; give more than 0 and at most 1000"):
            opened(spec if "://" in spec else tmp_path / spec, fps=fps, split_s=split_s)


def test_interrupted_recording_is_kept_and_a_failed_one_is_not(opened, tmp_path, marks, read_video):
    for error, kept in ((KeyboardInterrupt, 1), (RuntimeError, 0)):
        path = tmp_path / error.__name__ / "o.mp4"
        with pytest.raises(error):
            write_then_raise(opened(path), result(0, marks[0](0)), error)
        assert len(list(path.parent.iterdir())) == kept
    assert len(read_video(tmp_path / "KeyboardInterrupt" / "o.mp4")) == 1


def test_nothing_is_overwritten_without_force(opened, tmp_path, marks):
    video, folder = tmp_path / "o.mp4", tmp_path / "folder"
    folder.mkdir()
    (folder / "other.txt").write_text("kept")
    video.write_bytes(b"precious")
    for path in (video, folder):
        with pytest.raises(UsageError, match="--force"):
            opened(path)
    with pytest.raises(RuntimeError):
        write_then_raise(opened([video, folder], force=True), result(0, marks[0](0)), RuntimeError)
    assert video.read_bytes() == b"precious", "the old file stays until the new one is whole"
    with opened([video, folder], force=True) as sink:
        sink.write(result(0, marks[0](0)))
    assert video.read_bytes() != b"precious"
    assert sorted(path.name for path in folder.iterdir()) == ["000000_labels.png", "000000_overlay.png", "other.txt"]


def test_sink_without_frames_leaves_nothing(opened, tmp_path):
    with opened([tmp_path / "o.mp4", tmp_path / "folder", "null://"]):
        pass
    assert list(tmp_path.iterdir()) == []


def test_folder_holds_class_ids_and_pictures(opened, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    labels = np.arange(35, dtype=np.uint8).reshape(5, 7)
    with opened(tmp_path / "new" / "folder") as sink:
        sink.write(Result(Frame(image, 0, 0, "street_1"), labels, image, 0))
    folder = tmp_path / "new" / "folder"
    np.testing.assert_array_equal(cv2.imread(str(folder / "street_1_labels.png"), cv2.IMREAD_UNCHANGED), labels)
    np.testing.assert_array_equal(cv2.imread(str(folder / "street_1_overlay.png")), image)


@pytest.mark.parametrize("spec", ["", "out.gif", "ftp://x", "a.txt", "out.xyz"])
def test_bad_sinks(opened, tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="expected"):
        opened(spec)


def test_file_where_a_folder_should_be(opened, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        opened(tmp_path / "out")
    (tmp_path / "dir.mp4").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        opened(tmp_path / "dir.mp4")


@pytest.mark.parametrize("name", ["o.mp4", "folder"])
def test_place_that_cannot_be_written_to(opened, tmp_path, marks, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="file"), opened(tmp_path / "file" / name) as sink:
        sink.write(result(0, marks[0](0)))


def test_disk_that_fills_stops_the_video_while_it_can_be_finished(opened, tmp_path, marks, read_video, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    frames = 30
    free = iter([2**40] * frames + [2**20])  # looked at for each frame: thirty of noise in 4K are 49 MiB
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, next(free)))
    sink = opened(tmp_path / "o.mp4")
    for index in range(frames):
        sink.write(result(index, marks[0](index)))
    with pytest.raises(SinkError, match="MiB left"):
        sink.write(result(30, marks[0](30)))
    sink.close(keep=True)
    assert len(read_video(tmp_path / "o.mp4")) == frames


def test_folder_that_is_removed_stops_the_video_with_a_sentence(opened, tmp_path, marks):
    sink = opened(tmp_path / "gone" / "o.mp4")
    sink.write(result(0, marks[0](0)))
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(SinkError, match=r"folder of .*o\.mp4 cannot be written to any more \(frame 1\).*start again"):
        sink.write(result(1, marks[0](1)))


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_video_whose_writes_fail_is_not_kept(opened, tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (40, 240, 320, 3), np.uint8)  # H.264 writes what is new
    sink = opened(tmp_path / f"o{suffix}")
    sink.write(result(0, noise[0]))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))  # from here on as if the disk were full
        for index in range(1, 40):
            sink.write(result(index, noise[index]))
        with pytest.raises(SinkError, match="of 40 frames"):
            sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_disk_that_fills_stops_a_folder(opened, tmp_path, marks, monkeypatch):
    def full(path: Path, pixels: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sink_folder, "write_png", full)
    with pytest.raises(SinkError, match="No space left"):
        opened(tmp_path / "folder").write(result(0, marks[0](0)))


class Recorder(Sink):
    def __init__(self, fails: bool = False, wants_stop: bool = False, needs_picture: bool = True) -> None:
        self.closed, self.fails, self.wants_stop, self.needs_picture = 0, fails, wants_stop, needs_picture

    def write(self, result: Result) -> None:
        pass

    def close(self, keep: bool = True) -> None:
        self.closed += 1
        if self.fails:
            raise SinkError("no")


def test_tee_closes_every_sink_even_if_one_fails():
    sinks = [Recorder(), Recorder(fails=True), Recorder()]
    with pytest.raises(SinkError):
        TeeSink(sinks).close()
    assert [sink.closed for sink in sinks] == [1, 1, 1]


def test_tee_asks_for_what_any_of_its_sinks_asks_for():
    assert TeeSink([NullSink(), Recorder()]).needs_picture
    assert not TeeSink([NullSink()]).needs_picture
    assert TeeSink([NullSink(), Recorder(wants_stop=True)]).wants_stop
    assert not TeeSink([NullSink()]).wants_stop


def test_window_without_a_screen_says_so(opened, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(MissingError, match="no screen"):
        opened(["null://", "show://"])


def test_lines_tell_the_share_of_each_class_as_frames_come(opened, contract, tmp_path):
    path = tmp_path / "out.jsonl"
    labels = np.zeros((48, 64), np.uint8)
    labels[:12] = 3
    frame = Frame(np.zeros((48, 64, 3), np.uint8), 7, time.monotonic_ns() - 20_000_000, "street_7")
    with opened(path) as sink:
        assert not sink.needs_picture
        assert not path.exists()
        sink.write(Result(frame, labels, None, 2))
        line = json.loads(path.read_text())  # whole while the stream goes on
        sink.write(Result(frame, labels, None, 0))
    assert len(path.read_text().splitlines()) == 2
    assert list(line) == ["frame", "name", "time", "age_ms", "dropped", "shares"]
    assert (line["frame"], line["name"], line["dropped"]) == (7, "street_7", 2)
    assert list(line["shares"].items()) == list(zip(contract.class_names, [0.75, 0.0, 0.0, 0.25], strict=True))
    assert 20 <= line["age_ms"] < 5000
    captured = datetime.datetime.fromisoformat(line["time"])
    assert abs((datetime.datetime.now(datetime.timezone.utc) - captured).total_seconds()) < 60


def test_lines_stay_after_an_error_and_are_not_overwritten(opened, tmp_path, marks):
    path = tmp_path / "out.jsonl"
    with pytest.raises(RuntimeError):
        write_then_raise(opened(path), result(0, marks[0](0)), RuntimeError)
    before = path.read_bytes()
    assert before.endswith(b"}\n")
    with pytest.raises(UsageError, match="--force"):
        opened(path)
    opened(path, force=True).close()
    assert path.read_bytes() == before, "nothing is replaced before there is something to write"


def test_disk_that_fills_stops_lines_with_a_sentence(opened, marks, tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    sink = opened("x.jsonl", force=True)
    sink._path = Path("/dev/full")
    with pytest.raises(SinkError, match="disk has room"):
        sink.write(result(0, marks[0](0)))
    sink.close()
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="check its folder"):
        opened(tmp_path / "file" / "x.jsonl").write(result(0, marks[0](0)))


def test_disk_that_fills_leaves_no_half_line(opened, tmp_path, marks):
    path = tmp_path / "o.jsonl"
    sink = opened(path)
    sink.write(result(0, marks[0](0)))
    whole = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, limits[1]))  # as if the disk had 20 bytes left
        with pytest.raises(SinkError, match="disk has room"):
            sink.write(result(1, marks[0](1)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    sink.close()
    assert path.read_bytes() == whole


def test_lines_of_a_file_that_was_removed_are_not_lost_in_silence(opened, tmp_path, marks):
    path = tmp_path / "folder" / "o.jsonl"
    with opened(path) as sink:
        sink.write(result(0, marks[0](0)))
        shutil.rmtree(path.parent)
        with pytest.raises(SinkError, match=r"No such file or directory.*check its folder"):
            sink.write(result(1, marks[0](1)))


def test_lines_go_to_the_reader_of_a_named_pipe_and_wait_for_none(opened, tmp_path, marks):
    path = tmp_path / "o.jsonl"
    os.mkfifo(path)
    with pytest.raises(UsageError, match="--force"):
        opened(path)
    with pytest.raises(SinkError, match=r"nobody reads the named pipe .*o\.jsonl; start its reader first"):
        opened(path, force=True).write(result(0, marks[0](0)))
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with opened(path, force=True) as sink:
            sink.write(result(0, marks[0](0)))
            assert os.get_blocking(sink._file.fileno()), "a slow reader loses nothing"
        assert json.loads(os.read(reading, 10_000))["frame"] == 0
    finally:
        os.close(reading)


def test_window_fits_the_picture_and_hears_a_key_also_while_the_source_gives_nothing(opened, marks, monkeypatch):
    keys = [-1]
    monkeypatch.setenv("DISPLAY", ":0")
    for name in ("namedWindow", "imshow", "destroyWindow"):
        monkeypatch.setattr(cv2, name, lambda *args: None)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *args: 1.0)
    shown = []
    monkeypatch.setattr(cv2, "resizeWindow", lambda title, width, height: shown.append((width, height)))
    monkeypatch.setattr(cv2, "waitKey", lambda ms: keys[-1])
    meter = Meter("cam", None)
    with opened("show://") as sink:
        sink.tell(meter.status(Link()))
        for size_hw in ((48, 64), (48, 64), (1080, 1920)):
            sink.write(result(0, marks[0](0, size_hw)))
        assert shown == [(720, 540), (1600, 900)]
        meter.frames_out += 1
        sink.tell(meter.status(Link("reconnecting")))
        assert not sink.wants_stop
        keys.append(ord("q"))
        sink.tell(meter.status(Link("reconnecting")))
        assert sink.wants_stop


@pytest.mark.parametrize("size_hw", [(48, 63), (47, 64), (47, 63)])
def test_a_row_or_column_that_is_lacking_is_repeated_and_nothing_resized(opened, tmp_path, read_video, size_hw):
    image = np.zeros((*size_hw, 3), np.uint8)
    image[::2, : size_hw[1] // 2] = image[:, size_hw[1] // 2 :: 2] = 255  # resized, the stripes would be grey
    with opened(tmp_path / "o.avi") as sink:
        sink.write(result(0, image))
    (seen,) = read_video(tmp_path / "o.avi")
    inner = np.abs(seen[: size_hw[0], : size_hw[1]].astype(int) - image)
    assert inner.mean() < 12
    assert seen.shape[:2] == (48, 64)


def test_a_result_without_a_picture_is_no_video(opened, tmp_path):
    with opened(tmp_path / "o.mp4") as sink, pytest.raises(SinkError, match="frame 3 came without a picture"):
        sink.write(dataclasses.replace(result(3, np.zeros((4, 4, 3), np.uint8)), picture_bgr=None))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["o.mp4", "o.jsonl", "folder/"])
def test_a_sink_is_for_one_stream_and_a_second_costs_nothing_of_the_first(opened, tmp_path, name):
    """``run`` closes its sink: a second run would have begun the file anew."""
    sink, engine = opened(tmp_path / name, force=True), EchoEngine()

    def stream(frames: int) -> None:
        with open_source(f"synthetic://street?frames={frames}&size=64x96") as source:
            run(source, engine, sink)

    stream(3)
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SinkError, match=rf"{name[:-1]}.* is closed: .*; open one for each run"):
        stream(1)
    assert before
    assert before == {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("spec", [["null://", "null://"], "show://"])
def test_what_leaves_no_file_refuses_a_second_stream_too(opened, monkeypatch, spec):
    monkeypatch.setenv("DISPLAY", ":0")
    for name in ("namedWindow", "destroyWindow"):
        monkeypatch.setattr(cv2, name, lambda *args: None)
    sink = opened(spec)
    sink.close()
    with pytest.raises(SinkError, match="is closed"):
        sink.write(result(0, np.zeros((4, 4, 3), np.uint8)))


def test_a_sink_of_somebody_else_s_decides_itself_what_closing_means():
    @dataclasses.dataclass(frozen=True)
    class Mine(Sink):
        seen: list[int]

        def write(self, result: Result) -> None:
            self.seen.append(result.frame.index)

    sink = Mine([])
    for index in range(2):
        with sink:
            sink.write(result(index, np.zeros((4, 4, 3), np.uint8)))
    assert sink.seen == [0, 1]


def test_a_long_video_needs_more_room_to_be_finished(opened, tmp_path, marks, monkeypatch):
    """Its index grows with it: 5 million frames have one of more than 16 MiB."""
    usage = collections.namedtuple("usage", "free")
    sink = opened(tmp_path / "o.mp4")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(40 * 2**20))
    sink.write(result(0, marks[0](0)))
    sink._written = 5_000_000
    with pytest.raises(SinkError, match=r"has 40 MiB left, a video needs 92 more"):
        sink.write(result(1, marks[0](1)))
    sink.close(keep=False)
