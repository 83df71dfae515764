"""Names of what is written: taken by another stream, given twice, or such as the system or OpenCV refuses."""

from __future__ import annotations

import json
import os
import socket

import cv2
import numpy as np
import pytest

from fcn_edge.errors import SinkError, UsageError
from fcn_edge.runtime import sink_video
from fcn_edge.runtime.frame import Frame, Result
from fcn_edge.runtime.sink import open_sink


def result(index: int, image: np.ndarray, name: str = "") -> Result:
    return Result(Frame(image, index, 0, name or f"{index:06d}"), np.zeros(image.shape[:2], np.uint8), image, 0)


@pytest.fixture
def opened(contract):
    def open_one(spec, **options):
        return open_sink(spec, contract=contract, **options)

    return open_one


@pytest.mark.parametrize("has_links", [True, False])
def test_two_streams_that_record_to_one_name_both_keep_their_recording(
    opened, tmp_path, marks, read_video, monkeypatch, has_links
):
    def refuse(source, target):
        raise PermissionError(1, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    flushed = []
    monkeypatch.setattr(sink_video, "flush_soon", flushed.append)
    path = tmp_path / "o.mp4"
    sinks = [opened(path) for _ in range(3)]
    for number, sink in enumerate(sinks):
        for index in range(number + 1):
            sink.write(result(index, marks[0](index)))
    sinks[0].close()
    for number, sink in enumerate(sinks[1:], 2):
        with pytest.raises(SinkError, match=rf"not replaced; this recording is .*o-{number}\.mp4"):
            sink.close()
    names = ["o.mp4", "o-2.mp4", "o-3.mp4"]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
    assert [len(read_video(tmp_path / name)) for name in names] == [1, 2, 3]
    assert [file.name for file in flushed] == names


def test_two_streams_that_write_lines_to_one_name(opened, tmp_path, marks):
    one, other = opened(tmp_path / "o.jsonl"), opened(tmp_path / "o.jsonl")
    with one, other:
        one.write(result(0, marks[0](0)))
        with pytest.raises(SinkError, match="exists"):
            other.write(result(1, marks[0](1)))
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("names", [("a.jsonl", "./a.jsonl"), ("f", "f/"), ("x/../o.mp4", "o.mp4")])
def test_one_file_given_twice_is_refused(opened, tmp_path, monkeypatch, names):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=rf"{tmp_path}/.* is given as two sinks"):
        opened([*names, "null://"], force=True)


@pytest.mark.parametrize("name", ["1", "/dev/video7", "/dev/v4l/by-id/usb-cam-index0"])
def test_a_second_camera_is_no_folder(opened, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"sink '{name}' looks like a camera; a stream has one source"):
        opened(["null://", name], force=True)
    for number, folder in enumerate(("1/", "./1", tmp_path / "2027")):
        with opened(folder, force=True) as sink:
            sink.write(result(number, np.zeros((4, 4, 3), np.uint8)))
    assert [len(list((tmp_path / made).iterdir())) for made in ("1", "2027")] == [4, 2]
    opened("1", force=True).close()  # that is there and can be no camera


def test_standard_output_is_no_folder(opened):
    with pytest.raises(UsageError, match="sink '-' is unknown, as results do not go to stdout"):
        opened("-")


def test_lines_go_to_another_program_through_a_named_pipe(opened, tmp_path, marks):
    os.mkfifo(tmp_path / "p.jsonl")
    reading = os.open(tmp_path / "p.jsonl", os.O_RDONLY | os.O_NONBLOCK)  # the reader is there first
    try:
        with opened(tmp_path / "p.jsonl", force=True) as sink:
            sink.write(result(7, marks[0](0)))
            assert json.loads(os.read(reading, 4096))["frame"] == 7
    finally:
        os.close(reading)
    assert (tmp_path / "p.jsonl").is_fifo()


def test_names_that_the_system_refuses_end_in_a_sentence(opened, tmp_path):
    for name in ("n" * 300, "n" * 300 + ".mp4", "n" * 300 + ".jsonl"):
        with pytest.raises(SinkError, match="cannot be opened: File name too long"):
            opened(tmp_path / name)


def test_a_sink_that_cannot_be_opened_closes_those_before_it(opened, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(SinkError, match="File name too long"):
        opened([f"serve://127.0.0.1:{port}", tmp_path / ("n" * 300)])
    socket.create_server(("127.0.0.1", port)).close()


def test_a_video_that_no_encoder_takes_leaves_nothing_behind(opened, tmp_path, marks, monkeypatch):
    class Refusing:
        def __init__(self, *arguments):
            pass

        def isOpened(self):  # noqa: N802
            return False

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoWriter", Refusing)
    with pytest.raises(SinkError, match=r"cannot write .mp4 .*tried avc1, mp4v"), opened(tmp_path / "o.mp4") as sink:
        sink.write(result(0, marks[0](0)))
    assert not list(tmp_path.iterdir())


def test_names_that_are_no_utf8(opened, tmp_path, marks):
    """OpenCV would crash on them; a folder and lines can have them."""
    with pytest.raises(UsageError, match="no UTF-8"):
        opened(tmp_path / "\udcff.mp4")
    with opened([tmp_path / "folder", tmp_path / "o.jsonl"]) as sink:
        sink.write(result(0, marks[0](0), name="caf\udce9"))
    assert json.loads((tmp_path / "o.jsonl").read_text())["name"] == "caf?"
    assert len(list((tmp_path / "folder").iterdir())) == 2


def test_an_address_as_a_sink_tells_no_password(opened):
    with pytest.raises(UsageError, match="is unknown") as caught:
        opened("rtsp://admin:s3cret@cam/live")
    assert "s3cret" not in str(caught.value)


def test_a_name_with_a_colon_can_be_written(opened, tmp_path, marks, read_video, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with opened("09:30:00.mp4") as sink:
        sink.write(result(0, marks[0](0)))
    assert len(read_video(tmp_path / "09:30:00.mp4")) == 1
