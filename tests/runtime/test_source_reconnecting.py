"""Cameras that end, stall, fail and come back: made-up ones, and a real stream over HTTP that is killed."""

from __future__ import annotations

import contextlib
import functools
import http.server
import itertools
import json
import socket
import threading
import time

import cv2
import numpy as np
import pytest

from fcn_edge.cli import main
from fcn_edge.errors import MissingError, SourceError
from fcn_edge.runtime import open_sink, open_source, run, sink_video, source_reconnecting, source_video
from fcn_edge.runtime.engine_echo import ECHO_CONTRACT, EchoEngine
from fcn_edge.runtime.source_reconnecting import ReconnectingSource

CAMERA_THREAD = "fcn-edge-camera"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(source_reconnecting, "STALL_S", 0.3)
    monkeypatch.setattr(source_reconnecting, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(source_reconnecting, "LONGEST_WAIT_S", 0.05)
    monkeypatch.setattr(source_reconnecting, "OPEN_TIMEOUT_S", 0.5)


@pytest.fixture
def no_repeats(monkeypatch):
    """A recording holds each result once, however late or early: what is late counts as a camera that was away."""
    monkeypatch.setattr(sink_video, "_AWAY_S", 0.0)
    monkeypatch.setattr(sink_video, "_AHEAD_S", 1e9)


@pytest.fixture
def camera(list_source, marks):
    """Opens, one after another, the cameras it is given: frames by number, or what opening raises or does.

    A frame comes once the one before was taken, so that none is dropped.
    """
    wanted = threading.Semaphore(1)

    class Patient(ReconnectingSource):
        def read(self):
            frame = super().read()
            wanted.release()
            return frame

    def when_wanted(index):
        def give():
            wanted.acquire(timeout=10)
            return marks[0](index)

        return give

    def make(*openings, **options):
        left = iter(openings)

        def open_one():
            opening = next(left, SourceError("it is gone"))
            if callable(opening):
                opening = opening()
            if isinstance(opening, BaseException):
                raise opening
            items = [when_wanted(item) if isinstance(item, int) else item for item in opening]
            opened.append(list_source(items, is_live=True))
            return opened[-1]

        return Patient(open_one, "cam", **options)

    opened = []
    make.opened = opened
    return make


def test_a_camera_that_ends_is_opened_again_and_frames_are_numbered_on(camera, marks):
    with camera([0, 1, 2], [3, 4], max_reconnects=1) as source:
        assert source.is_live
        frames = list(source)
    assert [marks[1](frame.image_bgr) for frame in frames] == [0, 1, 2, 3, 4]
    assert [(frame.index, frame.name) for frame in frames] == [(index, f"00000{index}") for index in range(5)]
    assert (source.link.reconnects, source.link.stalls, source.link.state) == (1, 0, "failed")
    assert source.note == "cam was lost and did not come back in 1 tries: it ended"


def paced(frames, list_source, seconds=0.01):
    """A camera with a frame every so many seconds, whoever takes it."""

    def pace(frame):
        def give():
            time.sleep(seconds)
            return frame

        return give

    return list_source([pace(frame) for frame in frames], is_live=True)


def test_who_reads_slowly_gets_the_newest_frame_and_none_that_waited(list_source, marks):
    cameras = [paced(map(marks[0], range(40)), list_source), paced(map(marks[0], range(20)), list_source)]
    frames = []
    with ReconnectingSource(lambda: cameras.pop(0), "cam", max_reconnects=1) as source:
        while (frame := source.read()) is not None:
            frames.append(frame)
            time.sleep(0.08)
    assert 2 <= len(frames) < 30
    assert [frame.index for frame in frames] == sorted({frame.index for frame in frames})
    assert all(marks[1](frame.image_bgr) == frame.index % 20 for frame in frames), "those dropped are numbered too"
    assert {39, 59} <= {frame.index for frame in frames}, "the last one of each connection"


def test_frames_that_nobody_took_count_as_dropped(list_source, marks):
    cameras = [paced(map(marks[0], range(30)), list_source)]

    class Slow(EchoEngine):
        def infer(self, frame_bgr):
            time.sleep(0.05)
            return super().infer(frame_bgr)

    with ReconnectingSource(lambda: cameras.pop(0), "cam", max_reconnects=0) as source:
        summary = run(source, Slow(), open_sink("null://", contract=ECHO_CONTRACT))
    assert summary.frames_in == 30
    assert summary.frames_in == summary.frames_out + summary.dropped
    assert summary.frames_out < 20


def test_capture_times_are_those_of_the_camera(camera):
    with camera([0, 1]) as source:
        time.sleep(0.1)
        before = time.monotonic_ns()
        assert source.read().captured_ns < before


def test_an_error_of_the_camera_is_a_loss_but_one_of_the_program_is_not(camera):
    with camera([0, SourceError("half a frame")], [1, MissingError("no OpenCV")]) as source:
        frames = []
        with pytest.raises(MissingError):
            frames.extend(source)
        assert source.link.reconnects == 1


def test_a_stall_is_left_and_what_comes_of_it_later_is_not_shown(camera, marks):
    release = threading.Event()

    def stuck():
        release.wait(10)
        return marks[0](7)

    with camera([0, 1, stuck, 8], [2, 3], max_reconnects=1) as source:
        frames = [source.read() for _ in range(3)]
        assert source.link.stalls == 1
        release.set()
        frames += list(source)
        # The thread that was stuck has closed its own camera and is gone, as are the others.
        deadline = time.monotonic() + 5
        while any(thread.name == CAMERA_THREAD for thread in threading.enumerate()) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [marks[1](frame.image_bgr) for frame in frames] == [0, 1, 2, 3]
    assert not [thread for thread in threading.enumerate() if thread.name == CAMERA_THREAD]


def test_a_slow_camera_is_not_stalled(camera, marks, list_source):
    def late():
        time.sleep(0.5)
        return marks[0](1)

    with camera([0, late], max_reconnects=0) as source:
        source.fps = 2.0  # five frame times are 2.5 s
        assert len(list(source)) == 2
    assert source.link.stalls == 0


def test_waits_double_up_to_half_a_minute_until_the_camera_is_steady(camera, marks, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(source_reconnecting, "STEADY_S", 0.1)

    def later():
        time.sleep(0.12)
        return marks[0](5)

    waits = []

    class Recording(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            return self.is_set()

    gone = [SourceError("gone")] * 8
    with camera([0], *gone, [1], [2, 3, 4, later], [6], max_reconnects=12) as source:
        source._closed = Recording()
        assert len(list(source)) == 7
    ideal = [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 0.5, 1]
    assert len(waits) == 10 + 12, "after the steady one the count begins anew"
    assert all(low <= wait <= low * 1.2 for low, wait in zip(ideal, waits, strict=False))
    shares = {round(wait / low, 6) for low, wait in zip(ideal, waits, strict=False)}
    assert len(shares) > 1, "by chance, so that many cameras do not come back at once"


def test_a_camera_that_is_slower_than_it_declares_is_steady_too(camera, marks, monkeypatch):
    """Two frames in the time of four: what counts is how long it gave frames."""
    monkeypatch.setattr(source_reconnecting, "STEADY_S", 0.1)

    def later():
        time.sleep(0.12)
        return marks[0](1)

    with camera([0, later], [0, later], [0, later], max_reconnects=1) as source:
        assert len(list(source)) == 6
    assert source.link.reconnects == 2


def test_first_opening_fails_at_once():
    def refuse():
        raise SourceError("cam cannot be opened")

    with pytest.raises(SourceError, match="cannot be opened"):
        ReconnectingSource(refuse, "cam")
    release = threading.Event()
    with pytest.raises(SourceError, match="cam does not answer within"):
        ReconnectingSource(lambda: release.wait(10), "cam")
    release.set()


def test_blocked_drivers_do_not_pile_up(camera):
    release = threading.Event()
    block = functools.partial(release.wait, 20)
    with camera([0], *[block] * 20, max_reconnects=12) as source:
        assert len(list(source)) == 1
        blocked = [thread for thread in threading.enumerate() if thread.name == CAMERA_THREAD]
        assert len(blocked) == source_reconnecting.MAX_BLOCKED
        assert "4 earlier connections are still blocked" in source.note
    release.set()


def test_close_ends_an_outage(camera):
    source = camera([0], *[SourceError("gone")] * 1000)
    read = []
    thread = threading.Thread(target=lambda: read.extend(source))
    thread.start()
    while source.link.state != "reconnecting":
        time.sleep(0.01)
    source.close()
    thread.join(5)
    assert not thread.is_alive()
    assert len(read) == 1


def test_a_stream_over_an_outage_tells_of_it(camera):
    seen = []
    with camera([0] * 5, *[SourceError("gone")] * 4, [1] * 5, max_reconnects=4) as source:
        summary = run(
            source, EchoEngine(), open_sink("null://", contract=ECHO_CONTRACT), on_status=seen.append, status_every_s=0
        )
    assert (summary.ended, summary.reconnects, summary.stalls) == ("source_lost", 0, 0)
    assert "reconnecting" in {status.link.state for status in seen}
    assert any(str(status).endswith("reconnecting") for status in seen)


# ------------------------------------------------------------------------------------------------- a real one


class MjpegCamera:
    """A camera with a web server, as many are: JPEGs one after another, at ``size_hw``; it can stall and be killed."""

    def __init__(self, port: int = 0, size_hw: tuple[int, int] = (48, 64)) -> None:
        self.size_hw, self.is_stalled, self._clients = size_hw, False, []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._is_on = True
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._clients.append(client)
                threading.Thread(target=self._send, args=(client,), daemon=True).start()

    def _send(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            client.recv(4096)
            client.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
            for index in itertools.count():
                while self.is_stalled:
                    time.sleep(0.01)
                jpeg = cv2.imencode(".jpg", np.full((*self.size_hw, 3), 40 + index % 100, np.uint8))[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                client.sendall(head.encode() + jpeg + b"\r\n")
                time.sleep(0.01)

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self._clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            client.close()


@pytest.fixture
def mjpeg():
    with contextlib.ExitStack() as stack:

        def start(*args):
            camera = MjpegCamera(*args)
            stack.callback(camera.kill)
            return camera

        yield start


@pytest.fixture
def patient(monkeypatch):
    """Time enough for a real connection on a busy machine."""
    monkeypatch.setattr(source_reconnecting, "STALL_S", 2.0)
    monkeypatch.setattr(source_reconnecting, "OPEN_TIMEOUT_S", 15.0)
    monkeypatch.setattr(source_reconnecting, "FIRST_WAIT_S", 0.1)


@pytest.mark.usefixtures("patient", "no_repeats")
def test_a_network_camera_is_killed_and_comes_back_at_another_size(mjpeg, tmp_path, read_video):
    first = mjpeg()
    url = f"http://user:s3cret@127.0.0.1:{first.port}/video"
    sizes = []

    class Watch(EchoEngine):
        def infer(self, frame_bgr):
            sizes.append(frame_bgr.shape[:2])
            if len(sizes) == 10:
                first.kill()
                mjpeg(first.port, (96, 128))
            return super().infer(frame_bgr)

    def enough():
        return sizes.count((96, 128)) >= 10

    with open_source(url) as source, open_sink(tmp_path / "o.mp4", contract=ECHO_CONTRACT, fps=source.fps) as sink:
        assert (source.is_live, source.size_hw, "s3cret" in source.name) == (True, (48, 64), False)
        write = sink.write

        def write_and_stop(result):
            write(result)
            sink.wants_stop = enough()

        sink.write = write_and_stop
        summary = run(source, Watch(), sink)
        assert source.size_hw == (96, 128)
    assert (summary.ended, summary.reconnects, summary.stalls) == ("signal", 1, 0)
    assert set(sizes) == {(48, 64), (96, 128)}
    images = read_video(tmp_path / "o.mp4")
    assert len(images) == summary.frames_out
    assert images[-1].shape == (48, 64, 3), "a video keeps the size it began with"


@pytest.mark.usefixtures("patient")
def test_a_network_camera_stalls_and_is_left(mjpeg):
    camera = mjpeg()
    with open_source(f"http://127.0.0.1:{camera.port}/", max_reconnects=1) as source:
        for _ in range(5):
            source.read()
        camera.is_stalled = True
        started = time.monotonic()
        while source.read() is not None:
            pass
        assert 2 < time.monotonic() - started < 20
    assert (source.link.stalls, source.link.state) == (1, "failed")


@pytest.mark.usefixtures("patient", "no_repeats")
def test_a_camera_that_is_given_up_ends_with_exit_5(mjpeg, trained, tmp_path, capsys, read_video):
    camera = mjpeg()
    threading.Timer(3.0, camera.kill).start()
    url = f"http://user:s3cret@127.0.0.1:{camera.port}/"
    out = str(tmp_path / "o.mp4")
    assert main(["stream", str(trained / "model.onnx"), url, out, "--max-reconnects", "2", "--json"]) == 5
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert (summary["ended"], summary["reconnects"]) == ("source_lost", 0)
    assert "did not come back in 2 tries" in printed.err
    assert "s3cret" not in printed.err
    assert len(read_video(tmp_path / "o.mp4")) == summary["frames_out"] > 0, "what was recorded is kept"


def test_a_video_on_a_web_server_is_a_file(tmp_path, make_video, marks):
    make_video(tmp_path / "v.avi", 30)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with open_source(f"http://127.0.0.1:{server.server_port}/v.avi") as source:
            assert not source.is_live
            frames = [marks[1](frame.image_bgr) for frame in source]
        server.shutdown()
    assert frames == [index % 20 for index in range(30)]


@pytest.mark.parametrize("stalls", [False, True])
def test_a_video_whose_web_server_is_lost_is_not_at_its_end(tmp_path, make_video, monkeypatch, stalls):
    monkeypatch.setattr(source_video, "TIMEOUT_MS", 1000)
    data = make_video(tmp_path / "v.avi", 60, (240, 320)).read_bytes()
    done = threading.Event()

    class Half(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            if stalls:
                self.wfile.flush()
                done.wait(20)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Half) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with open_source(f"http://u:pw@127.0.0.1:{server.server_port}/v.avi", fps=7) as source:
            assert (source.is_live, source.fps) == (False, 7)
            with pytest.raises(SourceError, match=r"//\*\*\*@127.* was lost after \d+ of 60 frames; check the network"):
                list(source)
        done.set()
        server.shutdown()


def test_a_closed_source_has_let_go_of_the_camera(marks, list_source):
    """Else opening /dev/video0 again right after that finds it busy."""
    closed = []

    class Slow(list_source):
        def close(self):
            time.sleep(0.2)
            closed.append(True)

    with ReconnectingSource(lambda: Slow([marks[0](0)] * 1000, is_live=True), "cam") as source:
        source.read()
    assert closed


def test_a_camera_that_opens_too_late_is_closed_again(marks, list_source):
    release, closed = threading.Event(), threading.Event()

    class Late(list_source):
        def close(self):
            closed.set()

    def open_late():
        release.wait(10)
        return Late([marks[0](0)] * 1000, is_live=True)

    with pytest.raises(SourceError, match="does not answer"):
        ReconnectingSource(open_late, "cam")
    release.set()
    assert closed.wait(5)


def test_a_camera_that_opens_too_late_in_an_outage_is_closed_again(camera, marks, list_source):
    release, closed = threading.Event(), threading.Event()

    class Late(list_source):
        def close(self):
            closed.set()

    openings = iter([list_source([marks[0](0)], is_live=True)])

    def open_one():
        if (first := next(openings, None)) is not None:
            return first
        release.wait(10)
        return Late([marks[0](0)] * 1000, is_live=True)

    with ReconnectingSource(open_one, "cam", max_reconnects=1) as source:
        assert len(list(source)) == 1
        release.set()
        assert closed.wait(5), "it was not left while the source is open"


def test_size_and_rate_are_those_of_the_newest_connection_and_turned_as_frames_are(marks, list_source):
    cameras = [list_source([marks[0](index)], is_live=True) for index in range(2)]
    cameras[1].fps, cameras[1].size_hw = 10.0, (96, 128)
    left = iter(cameras)

    def open_one():
        if (camera := next(left, None)) is None:
            raise SourceError("gone")
        return camera

    with ReconnectingSource(open_one, "cam", max_reconnects=1) as source:
        source.rotate(90)
        assert (source.fps, source.size_hw) == (25.0, (64, 48))
        assert len(list(source)) == 2
    assert (source.fps, source.size_hw) == (10.0, (128, 96))


def test_a_camera_that_comes_back_while_the_source_is_closed_is_left_too(marks, list_source):
    """close() has left the connection before; the reader, in the middle of opening the next, has to leave that one."""
    opens, may_open, closed = threading.Event(), threading.Event(), threading.Event()

    class Camera(list_source):
        def close(self):
            closed.set()

    openings = iter([list_source([marks[0](0)], is_live=True)])

    def open_one():
        first = next(openings, None)
        if first is not None:
            return first
        opens.set()
        may_open.wait(5)
        return Camera([functools.partial(pause, marks[0](1))] * 2000, is_live=True)

    def pause(frame):
        time.sleep(0.01)
        return frame

    source = ReconnectingSource(open_one, "cam")
    reader = threading.Thread(target=lambda: list(source))
    reader.start()
    assert opens.wait(5)
    closing = threading.Thread(target=source.close)
    closing.start()
    while not source._closed.is_set():
        time.sleep(0.001)
    may_open.set()
    reader.join(5)
    closing.join(5)
    assert closed.wait(1), "the camera is still open"
