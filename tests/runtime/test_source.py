from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcn_edge.errors import SourceError, UsageError
from fcn_edge.runtime.opencv_io import SILENT, quiet_cv2
from fcn_edge.runtime.source import open_source, redact
from fcn_edge.runtime.source_images import natural_key
from fcn_edge.runtime.source_synthetic import open_synthetic
from fcn_edge.runtime.source_video import CaptureSource, csi_pipeline, open_camera


def write_images(folder: Path, marked, names) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        cv2.imwrite(str(folder / name), marked(index))
    return folder


def test_video_gives_every_frame_in_order(tmp_path, make_video, marks):
    path = make_video(tmp_path / "v.mp4", 12)
    with open_source(path) as source:
        assert (source.fps, source.size_hw, source.frame_count, source.is_live) == (25.0, (48, 64), 12, False)
        before = time.monotonic_ns()
        frames = list(source)
    assert [marks[1](frame.image_bgr) for frame in frames] == list(range(12))
    assert [frame.index for frame in frames] == list(range(12))
    assert frames[3].name == "000003"
    assert before <= frames[0].captured_ns <= frames[-1].captured_ns <= time.monotonic_ns()
    assert source.note == ""


def test_video_cut_off_in_the_middle_ends_with_a_note(tmp_path, make_video):
    whole = make_video(tmp_path / "v.avi", 60, (240, 320)).read_bytes()
    path = tmp_path / "cut.avi"
    path.write_bytes(whole[: len(whole) // 2])
    with open_source(path) as source:
        count = sum(1 for _ in source)
        if source.frame_count is not None:  # an index at the end was cut off with it
            assert "cut off" in source.note
    assert 20 <= count <= 40


@pytest.mark.parametrize("name", ["v.avi", "http://10.0.0.7/v.mp4"])
def test_a_video_that_is_closed_while_it_is_read_has_ended_and_is_not_cut_off(tmp_path, make_video, name):
    source = CaptureSource(cv2.VideoCapture(str(make_video(tmp_path / "v.avi", 5))), name)
    for count, _ in enumerate(source):
        assert count == 0
        source.close()
    assert source.note == ""
    assert source.read() is None


@pytest.mark.parametrize(("last_ms", "is_cut"), [(3960, False), (1960, True)])
def test_a_count_of_frames_that_was_an_estimate_is_no_cut(last_ms, is_cut):
    """A screen recording (.mkv, .webm) of variable rate: 4 s at 25 a second would be 100 frames, it has 50."""

    class Capture:
        frames = 0

        def get(self, what):
            position = last_ms * self.frames / 50
            values = {cv2.CAP_PROP_FRAME_COUNT: 100, cv2.CAP_PROP_FPS: 25.0, cv2.CAP_PROP_POS_MSEC: position}
            return values[what]

        def read(self):
            self.frames += 1
            return self.frames <= 50, np.zeros((48, 64, 3), np.uint8)

        def release(self):
            pass

    with CaptureSource(Capture(), "screen.mkv") as source:
        assert len(list(source)) == 50
    assert ("cut off" in source.note) == is_cut


def test_video_with_corrupt_packets_is_read_as_far_as_it_can_be(tmp_path, make_video):
    path = make_video(tmp_path / "v.mp4", 60, (240, 320))
    data = bytearray(path.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start + (end - start) // 3 : start + (end - start) // 2] = b"\xa5" * ((end - start) // 2 - (end - start) // 3)
    path.write_bytes(data)
    with open_source(path) as source:
        frames = list(source)
    assert 10 <= len(frames) <= 60
    assert all(frame.image_bgr.shape == (240, 320, 3) for frame in frames)


@pytest.mark.parametrize("content", [b"", b"hello, I am a text file\n" * 50, b"\0" * 5000])
def test_what_is_no_video_is_refused(tmp_path, content):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"x\.mp4") as caught:
        open_source(path)
    assert caught.value.exit_code == 5


def test_ffmpeg_and_opencv_stay_quiet(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"hello" * 50)
    code = (
        "from fcn_edge.errors import SourceError\nfrom fcn_edge.runtime.source import open_source\n"
        "try:\n    open_source('x.mp4')\nexcept SourceError:\n    print('refused')"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (answer.stdout, answer.stderr) == ("refused\n", "")


def test_opencv_stays_quiet_until_the_last_thread_is_done():
    logging = getattr(cv2.utils, "logging", cv2)  # OpenCV 5, and 4
    level = logging.getLogLevel()
    assert level != SILENT
    with quiet_cv2():
        other = contextlib.ExitStack()
        other.enter_context(quiet_cv2())
    assert logging.getLogLevel() == SILENT
    other.close()
    assert logging.getLogLevel() == level


def test_video_without_its_index_is_refused(tmp_path, make_video):
    whole = make_video(tmp_path / "v.mp4", 60, (240, 320)).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="index"):
        open_source(path)


def test_folder_is_read_in_natural_order_whatever_the_sizes(tmp_path, marks):
    folder = write_images(tmp_path / "f", marks[0], ["a1.png", "a2.png", "a10.png", "b1.png"])
    cv2.imwrite(str(folder / "a3.png"), np.zeros((7, 5, 3), np.uint8))
    (folder / "notes.txt").write_text("no image")
    with open_source(folder) as source:
        frames = list(source)
        assert source.frame_count == 5
    assert [frame.name for frame in frames] == ["a1", "a2", "a3", "a10", "b1"]
    assert frames[2].image_bgr.shape == (7, 5, 3)


def test_glob_finds_the_images_and_tells_namesakes_apart(tmp_path, marks):
    write_images(tmp_path / "x", marks[0], ["1.png", "2.png"])
    write_images(tmp_path / "y", marks[0], ["1.png", "2.txt.png"])
    with open_source(f"{tmp_path}/?/*.png") as source:
        names = [frame.name for frame in source]
    assert len(set(names)) == 4
    assert names[1] == "2"


def test_a_name_with_a_place_behind_it_is_no_other_images_name(tmp_path, marks):
    write_images(tmp_path, marks[0], ["a.bmp", "a.png", "a_000001.png"])
    with open_source(tmp_path) as source:
        assert [frame.name for frame in source] == ["a_000000", "a_000001_", "a_000001"]


def test_a_video_whose_name_has_a_colon(tmp_path, make_video, monkeypatch):
    make_video(tmp_path / "2024-01-31T09:30:00.mp4", 3)
    monkeypatch.chdir(tmp_path)
    with open_source("2024-01-31T09:30:00.mp4") as source:
        assert (source.name, len(list(source))) == ("2024-01-31T09:30:00.mp4", 3)


def test_what_the_system_or_opencv_cannot_open_ends_in_a_sentence(tmp_path):
    (tmp_path / "\udcff.avi").write_bytes(b"x" * 100)
    os.mkfifo(tmp_path / "pipe.mp4")
    for spec, said in (
        (tmp_path / "\udcff.avi", "no UTF-8"),
        ("rtsp://127.0.0.1:9/\udcff", "no UTF-8"),
        (tmp_path / ("n" * 300), "File name too long"),
        (tmp_path / "pipe.mp4", "is no regular file"),
    ):
        with pytest.raises(SourceError, match=said):
            open_source(spec)


def test_single_image_and_rate(tmp_path, marks):
    folder = write_images(tmp_path, marks[0], ["one[1].png"])
    with open_source(folder / "one[1].png", fps=2.5) as source:
        assert source.fps == 2.5
        assert len(list(source)) == 1


@pytest.mark.parametrize("channels", ["grey", "bgra", "16 bit"])
def test_other_images_become_bgr(tmp_path, channels):
    shape, kind = {"grey": ((4, 6), np.uint8), "bgra": ((4, 6, 4), np.uint8), "16 bit": ((4, 6), np.uint16)}[channels]
    cv2.imwrite(str(tmp_path / "a.png"), np.full(shape, 77, kind))
    with open_source(tmp_path) as source:
        (frame,) = source
    assert (frame.image_bgr.shape, frame.image_bgr.dtype) == ((4, 6, 3), np.uint8)


def test_behind_an_image_that_cannot_be_read_is_the_next(tmp_path, marks):
    for index in (0, 1, 3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), marks[0](index))
    (tmp_path / "2.png").write_bytes(b"no image")
    with open_source(tmp_path) as source:
        assert [source.read().name for _ in range(2)] == ["0", "1"]
        with pytest.raises(SourceError, match=r"2\.png"):
            source.read()
        assert (source.read().name, source.read()) == ("3", None)


@pytest.mark.parametrize("broken", [["0.png"], ["2.png"], ["0.png", "3.png"]])
def test_images_that_cannot_be_read_are_left_out_on_request(tmp_path, marks, broken):
    names = [f"{index}.png" for index in range(4)]
    for index, name in enumerate(names):
        cv2.imwrite(str(tmp_path / name), marks[0](index))
    for name in broken:
        (tmp_path / name).write_bytes(b"no image")
    with open_source(tmp_path, skip_unreadable=True) as source:
        assert source.size_hw == (48, 64)
        frames = list(source)
    assert [f"{frame.name}.png" for frame in frames] == [name for name in names if name not in broken]
    assert [frame.index for frame in frames] == [names.index(f"{frame.name}.png") for frame in frames]
    assert source.note.startswith(f"{len(broken)} of 4 images could not be read; ")
    assert broken[-1] in source.note
    for name in names:
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"nothing to show in .*: 4 of 4 images could not be read"):
        open_source(tmp_path, skip_unreadable=True)


@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
@pytest.mark.parametrize("broken", ["0.png", "1.png"])
def test_broken_image_is_named(tmp_path, marks, broken, damage):
    folder = write_images(tmp_path, marks[0], ["0.png", "1.png", "2.png"])
    data = (folder / broken).read_bytes()
    (folder / broken).write_bytes({"text": b"hello", "cut": data[: len(data) // 2], "empty": b""}[damage])
    with pytest.raises(SourceError, match=broken), open_source(folder) as source:
        list(source)


@pytest.mark.parametrize(
    ("spec", "error", "said"),
    [
        ("missing.mp4", SourceError, "does not exist"),
        ("missing/*.png", SourceError, "no image matches"),
        ("empty", SourceError, "holds no image"),
        ("", SourceError, "empty"),
        ("/dev/video97", SourceError, "cameras on this machine"),
        ("gopher://x/y", SourceError, "unknown scheme"),
        ("synthetic://sea", SourceError, "sea"),
        ("csi://front", SourceError, "csi"),
    ],
)
def test_bad_sources_end_in_a_sentence(tmp_path, monkeypatch, spec, error, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("")
    with pytest.raises(error, match=said) as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), 1e6])
def test_bad_rates(fps):
    with pytest.raises(UsageError, match="frames a second"):
        open_source("synthetic://street", fps=fps)


@pytest.mark.parametrize(
    "query",
    [
        "size=0x0",
        "size=15x480",
        "size=480x4097",
        "size=1000000x4",
        "size=4",
        "size=",
        "seed=-1",
        "seed=x",
        "fps=0",
        "fps=nan",
        "frames=0",
        "tint=red",
    ],
)
def test_bad_synthetic_options(query):
    with pytest.raises(SourceError, match="synthetic://street"):
        open_synthetic(f"street?{query}")


@pytest.mark.skipif(importlib.util.find_spec("fcn_edge.street") is None, reason="the street is not built yet")
def test_street_is_the_same_for_the_same_seed():
    spec = "synthetic://street?seed=3&size=45x80&fps=10&frames=3"
    with open_source(spec) as one, open_source(spec) as two, open_source(spec.replace("seed=3", "seed=4")) as other:
        first, again, different = list(one), list(two), list(other)
    assert (one.fps, one.size_hw, one.frame_count, len(first)) == (10.0, (45, 80), 3, 3)
    assert all((a.image_bgr == b.image_bgr).all() for a, b in zip(first, again, strict=True))
    assert any((a.image_bgr != b.image_bgr).any() for a, b in zip(first, different, strict=True))


@pytest.mark.parametrize("size", ["16x16", "16x4096", "4096x16"])
def test_every_size_that_is_taken_can_be_drawn(size):
    with open_synthetic(f"street?size={size}") as source:
        assert "{}x{}".format(*source.read().image_bgr.shape[:2]) == size


@pytest.mark.skipif(importlib.util.find_spec("fcn_edge.street") is None, reason="the street is not built yet")
def test_live_street_keeps_its_rate():
    with open_source("synthetic://street?size=32x32&fps=50&frames=6&live=1") as source:
        assert source.is_live
        stamps = [frame.captured_ns for frame in source]
    assert stamps[-1] - stamps[0] >= 0.095e9


@pytest.mark.parametrize(
    ("text", "kept", "gone"),
    [
        ("rtsp://admin:s3cret@10.0.0.2:554/live", "10.0.0.2:554/live", "s3cret"),
        ("cannot open rtsp://admin:p@ss/w@rd@cam/1 now", "cam/1 now", "p@ss"),
        ("rtsp://cam/user=admin&password=tlJwpbo6&channel=1", "channel=1", "tlJwpbo6"),
        ("http://cam/video?pwd=a_b&channel=1", "channel=1", "a_b"),
        ("HTTPS://u:pw123@h/", "h/", "pw123"),
        ("rtsp://admin:it's@cam/1", "cam/1", "it's"),
        ('rtsp://admin:a"b c@cam/1', "cam/1", "b c"),
        ("camera 'rtsp://admin:pw123@cam/1' of bob@home", "of bob@home", "pw123"),
        ("http://cam/cgi?loginuse=a&loginpas=s3cret&fps=1", "fps=1", "s3cret"),
        ("http://cam/cgi?usr=a&pw=s3cret'x&mode=x1", "mode=x1", "s3cret'x"),
        ("http://cam/cgi?psw=s3cret&subtype=1", "subtype=1", "s3cret"),
    ],
)
def test_passwords_are_taken_out(text, kept, gone):
    assert kept in redact(text)
    assert gone not in redact(text)


def test_an_address_may_stand_in_the_environment(monkeypatch):
    monkeypatch.setenv("CAMERA", "synthetic://street?size=32x48&frames=2")
    with open_source("env:CAMERA") as source:
        assert source.size_hw == (32, 48)
    monkeypatch.setenv("CAMERA", "rtsp://admin:s3cret@127.0.0.1:9/live")
    with pytest.raises(SourceError, match=r"rtsp://\*\*\*@127\.0\.0\.1:9/live") as caught:
        open_source("env:CAMERA")
    assert "s3cret" not in str(caught.value)
    for value in (None, ""):
        monkeypatch.delenv("CAMERA") if value is None else monkeypatch.setenv("CAMERA", value)
        with pytest.raises(SourceError, match="'CAMERA' is not set or empty"):
            open_source("env:CAMERA")


def test_passwords_do_not_reach_a_message():
    with pytest.raises(SourceError) as caught:
        open_camera("rtsp://admin:s3cret@127.0.0.1:9/live")
    assert "s3cret" not in str(caught.value)
    assert "127.0.0.1:9/live" in str(caught.value)


def test_csi_without_gstreamer_tells_what_to_install():
    if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(SourceError, match="libopencv-python"):
        open_source("csi://0")


def test_a_network_camera_without_ffmpeg_tells_what_to_install(monkeypatch):
    monkeypatch.setattr("fcn_edge.runtime.source_video.has_backend", lambda cv2, api: api != cv2.CAP_FFMPEG)
    with pytest.raises(SourceError, match=r"rtsp://10.0.0.7/live needs OpenCV with FFmpeg, and this build"):
        open_source("rtsp://10.0.0.7/live")


@pytest.mark.parametrize(("knows", "said"), [(False, "nvidia-l4t-gstreamer"), (True, "ribbon cable")])
def test_csi_where_no_camera_answers(tmp_path, monkeypatch, knows, said):
    """GStreamer's tools tell whether a Jetson's cameras are known, as OpenCV waits for ever where they are not."""
    tool = tmp_path / "gst-inspect-1.0"
    tool.write_text(f'#!/bin/sh\ntest "$*" = "--exists nvarguscamerasrc" && exit {int(not knows)}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("fcn_edge.runtime.source_video.has_backend", lambda cv2, api: True)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *args: types.SimpleNamespace(isOpened=lambda: False))
    with pytest.raises(SourceError, match=rf"^csi://1 .*{said}"):
        open_source("csi://1")


def test_a_camera_that_one_may_not_use_tells_how(tmp_path, monkeypatch):
    device = tmp_path / "video0"
    device.write_bytes(b"")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != device)  # root may use all
    with pytest.raises(SourceError, match=rf"you may not use {device}: run 'sudo usermod"):
        open_camera(str(device))


def test_csi_pipeline_names_the_sensor():
    assert "nvarguscamerasrc sensor-id=1 !" in csi_pipeline("csi://1")


def test_natural_order():
    paths = [Path(name) for name in ("b1", "a10", "A2", "a02b", "a")]
    assert [str(path) for path in sorted(paths, key=natural_key)] == ["a", "A2", "a02b", "a10", "b1"]


def test_an_endless_street_does_not_end():
    with open_source("synthetic://street?size=32x32&fps=0.001&live=0") as source:
        source._next_index = 1001  # after 11.6 days of its time
        assert source.read().index == 1001
