"""What is asked of a source: a camera's size and rate, and frames that are turned."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcn_edge.errors import SourceError, UsageError
from fcn_edge.runtime import open_source, source_video
from fcn_edge.runtime.source_reconnecting import ReconnectingSource
from fcn_edge.runtime.source_video import csi_pipeline


@pytest.fixture
def camera(monkeypatch):
    """Stands for ``cv2.VideoCapture``: a USB camera of two sizes, which gives the nearer one as drivers do."""

    class Camera:
        asked: dict[int, float] = {}  # noqa: RUF012 the one camera that there is
        order: list[int] = []  # noqa: RUF012

        def __init__(self, *where):
            self.asked.clear()
            self.order.clear()

        def isOpened(self):  # noqa: N802 OpenCV's name
            return True

        def set(self, what, value):
            self.asked[what] = value
            self.order.append(what)
            return True

        def get(self, what):
            return {cv2.CAP_PROP_FPS: self.asked.get(what, 30.0)}.get(what, 0.0)

        def read(self):
            is_large = self.asked.get(cv2.CAP_PROP_FRAME_HEIGHT, 0) > 600
            return True, np.zeros((720, 1280, 3) if is_large else (480, 640, 3), np.uint8)

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    return Camera


def test_a_usb_camera_is_asked_for_size_and_rate(camera):
    with open_source("0", camera_size_hw=(720, 1280), fps=60) as source:
        assert (source.size_hw, source.fps) == ((720, 1280), 60)
        assert source.read().image_bgr.shape == (720, 1280, 3)
    assert camera.asked[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter_fourcc(*"MJPG")
    assert camera.order[0] == cv2.CAP_PROP_FOURCC, "sizes are those of the format that is set"


def test_a_usb_camera_is_left_as_it_likes(camera):
    with open_source("0") as source:
        assert source.size_hw == (480, 640)
    assert list(camera.asked) == [], "one buffer alone would cost a camera frames, as none is free while one is read"


def test_a_camera_without_that_size_is_refused(camera):
    with pytest.raises(SourceError, match=r"camera 0 gives 720x1280 where 1080x1920 was asked for.*v4l2-ctl"):
        open_source("0", camera_size_hw=(1080, 1920))


def test_a_csi_camera_is_asked_for_size_and_rate():
    assert "width=1280, height=720, framerate=30/1 !" in csi_pipeline("csi://0")
    assert "width=1920, height=1080, framerate=59/2 !" in csi_pipeline("csi://0", (1080, 1920), 29.5)


@pytest.mark.parametrize("spec", ["rtsp://user:word@10.0.0.7/live", "clip.mp4", "synthetic://street"])
def test_a_size_is_asked_of_cameras_on_this_machine_alone(spec):
    with pytest.raises(UsageError, match="a size can be asked of a camera on this machine") as caught:
        open_source(spec, camera_size_hw=(720, 1280))
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(("degrees", "turns"), [(90, -1), (180, 2), (270, 1)])
def test_frames_are_turned_clockwise(tmp_path, degrees, turns):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    with open_source(tmp_path, rotate=degrees) as source:
        assert source.size_hw == ((20, 30) if degrees == 180 else (30, 20))
        frame = source.read()
    assert np.array_equal(frame.image_bgr, np.rot90(image, turns))
    assert frame.name == "a"


def test_a_drawn_street_and_a_video_are_turned_too(tmp_path, make_video):
    for spec in ("synthetic://street?size=40x64&frames=2", make_video(tmp_path / "v.avi", 3, (40, 64))):
        with open_source(spec) as source, open_source(spec, rotate=90) as turned:
            assert (source.size_hw, turned.size_hw) == ((40, 64), (64, 40))
            for frame, other in zip(source, turned, strict=True):
                assert np.array_equal(other.image_bgr, np.rot90(frame.image_bgr, -1))


def test_frames_are_turned_as_before_when_a_camera_comes_back(list_source):
    image = np.zeros((48, 64, 3), np.uint8)

    def later():
        time.sleep(0.2)  # so that the one before is taken
        return image

    opened = [list_source([image, later], is_live=True) for _ in range(2)]
    with ReconnectingSource(lambda: opened.pop(0), "cam", max_reconnects=1) as source:
        source.rotate(90)
        shapes = [source.read().image_bgr.shape[:2] for _ in range(3)]
        assert (source.link.reconnects, source.size_hw) == (1, (64, 48))
    assert shapes == [(64, 48)] * 3


def test_other_turns_are_refused():
    with pytest.raises(UsageError, match=r"cannot be turned by 45 degrees; give one of 90, 180, 270"):
        open_source("synthetic://street", rotate=45)


def test_a_link_to_a_camera_is_that_camera(camera, monkeypatch, tmp_path):
    """Links of udev's keep their name where numbers change; each opening looks where it leads to now."""
    where = []
    monkeypatch.setattr(camera, "__init__", lambda self, *given: where.append(given))
    link = tmp_path / "front"
    link.symlink_to("/dev/video99999")
    with pytest.raises(SourceError, match=rf"camera {link} does not exist"):
        open_source(link)
    monkeypatch.setattr(Path, "exists", lambda self, **options: True)
    with open_source(link):
        pass
    link.unlink()
    link.symlink_to("/dev/video2")
    with open_source(link, fps=15):
        pass
    assert where == [("/dev/video99999",), ("/dev/video2",)]
    with pytest.raises(UsageError, match="a size can be asked of a camera"):
        open_source(tmp_path / "clip.mp4", camera_size_hw=(480, 640))


def test_a_rate_that_no_camera_has_is_none(camera, monkeypatch, tmp_path):
    """Screen and browser recorders write no rate, and what they declare is the container's clock."""
    values = {cv2.CAP_PROP_FPS: 1000.0, cv2.CAP_PROP_FRAME_COUNT: 3000.0}
    monkeypatch.setattr(camera, "get", lambda self, what: values.get(what, 0.0))
    (tmp_path / "screen.mkv").touch()
    with open_source(tmp_path / "screen.mkv") as source:
        assert (source.fps, source.frame_count) == (30.0, None)
    values[cv2.CAP_PROP_FPS] = 240.0
    with open_source(tmp_path / "screen.mkv") as source:
        assert (source.fps, source.frame_count) == (240.0, 3000)


def test_a_network_camera_is_played_at_the_rate_that_is_given(camera, monkeypatch):
    monkeypatch.setattr(camera, "get", lambda self, what: {cv2.CAP_PROP_FPS: 90.0}.get(what, 0.0))
    monkeypatch.setattr(source_video, "has_backend", lambda *_: True)
    for options, fps in (({}, 90.0), ({"fps": 25.0}, 25.0)):
        with open_source("rtsp://10.0.0.7/live", **options) as source:
            assert (source.fps, source.is_live) == (fps, True)
