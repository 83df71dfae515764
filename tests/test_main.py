"""The program as a process: what signals do to it, and how it ends with a camera's driver that blocks."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcn_edge.cli import main

PROGRAM = [sys.executable, "-m", "fcn_edge"]
INTERRUPTED = 130


def wait_until(is_so: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_build_that_is_stopped_leaves_nothing(trained: Path, tmp_path: Path, number: signal.Signals) -> None:
    """As when a container or a service is stopped, or an SSH connection ends."""
    out = tmp_path / "out"
    command = [*PROGRAM, "build", trained / "run" / "best.pt", "-o", out, "--precision", "fp32,fp16"]
    process = subprocess.Popen([*command, "--gate", trained / "data"], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: process.poll() is not None or list(out.glob(".build-*/*")))
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == INTERRUPTED, said
    assert said.splitlines()[-1] == "fcn-edge: stopped"
    assert not list(out.iterdir())


@contextlib.contextmanager
def stalling_camera() -> Iterator[str]:
    """The address of an MJPEG camera over HTTP that gives two seconds of frames and then stays silent."""
    jpeg = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
    is_over = threading.Event()

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(60):
                    self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n")
                    self.wfile.write(b"Content-Length: %d\r\n\r\n%b\r\n" % (len(jpeg), jpeg))
                    time.sleep(0.033)
                is_over.wait()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/live"
    finally:
        is_over.set()
        server.shutdown()
        server.server_close()


def slow_to_end(folder: Path) -> dict[str, str]:
    """An environment in which Python takes seconds to end, as on a busy machine: threads come back meanwhile."""
    (folder / "sitecustomize.py").write_text(
        "import time\n"
        "class Slow:\n"
        "    def __init__(self):\n"
        "        self.sleep = time.sleep\n"
        "    def __del__(self):\n"
        "        self.sleep(6)\n"
        "slow = Slow()\n"
    )
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_a_camera_that_blocks_at_the_end_does_not_abort_the_program(tmp_path: Path) -> None:
    out = tmp_path / "o.avi"
    with stalling_camera() as address:
        process = subprocess.Popen(
            [*PROGRAM, "stream", "echo://", address, out, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=slow_to_end(tmp_path),
        )
        assert process.stderr is not None
        process.stderr.readline()  # two seconds of frames
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        printed, said = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, said
    assert json.loads(printed)["ended"] == "signal"
    assert cv2.VideoCapture(str(out)).read()[0]


@pytest.mark.parametrize("close", ["source.close()", "pass"])
def test_a_camera_that_blocks_at_the_end_does_not_abort_a_program_of_ones_own(tmp_path: Path, close: str) -> None:
    with stalling_camera() as address:
        program = (
            "import time; from fcn_edge.runtime import open_source\n"
            f"source = open_source({address!r})\n"
            f"for frame in source:\n    if frame.index > 50: break\ntime.sleep(1)\n{close}\nprint('done')"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=slow_to_end(tmp_path)
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_camera_that_is_given_up_while_it_blocks_is_told(tmp_path: Path) -> None:
    with stalling_camera() as address:
        done = subprocess.run(
            [*PROGRAM, "stream", "echo://", address, "--max-reconnects", "0"],
            capture_output=True,
            text=True,
            env=slow_to_end(tmp_path),
        )
    assert done.returncode == 5
    assert done.stderr.splitlines()[-1].startswith(f"fcn-edge: {address} was lost: it gave no frame for")


def test_an_impatient_second_signal_leaves_the_summary_and_the_code(tmp_path: Path) -> None:
    """It comes while a camera that blocks is waited for, once the recording is whole."""
    with stalling_camera() as address:
        process = subprocess.Popen(
            [*PROGRAM, "stream", "echo://", address, tmp_path / "o.avi", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        process.stderr.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        wait_until((tmp_path / "o.avi").exists)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        printed, said = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, said
    assert json.loads(printed)["ended"] == "signal"


def test_a_program_that_calls_the_command_line_keeps_its_signals(capsys: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    assert main(["stream", "echo://", "synthetic://street?size=48x64&frames=2"]) == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before
