"""Video files and cameras through OpenCV as sources; knows nothing about what is done with the frames."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import threading
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import SourceError
from ..pixels import Image, require_cv2
from ..redact import redact
from .frame import Frame
from .opencv_io import has_backend, is_utf8, quiet_cv2
from .source import Source
from .source_reconnecting import ReconnectingSource

TIMEOUT_MS = 5000
CLOSE_TIMEOUT_S = 2.0
DEFAULT_FPS, HIGHEST_FPS = 30.0, 240.0
_CSI_SIZE_HW = (720, 1280)


class CaptureSource(Source):
    """What ``cv2.VideoCapture`` reads: a file, which loses no frame, or a camera, which is live.

    Args:
        capture: an opened ``cv2.VideoCapture``; it is released with the source.
        name: for messages, without passwords.
        fps: rate to play at, in place of the one that the capture declares; one above 240 is none: containers without
            a rate of their own declare their clock, such as 1000.
        is_live: whether it is a camera.

    Raises:
        SourceError: if not even one frame can be read.
    """

    def __init__(self, capture: Any, name: str, fps: float | None = None, is_live: bool = False) -> None:
        cv2 = require_cv2()
        self._capture = capture
        self._in_use = threading.Lock()
        self._is_closed = False
        self._seen_s = 0.0
        self._first = self._grab()
        if self._first is None:
            capture.release()
            raise SourceError(f"{name} was opened but gives no frame; {_remedy(name, is_live)}")
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        declared = capture.get(cv2.CAP_PROP_FPS)
        usable = math.isfinite(declared) and 0 < declared <= HIGHEST_FPS
        super().__init__(
            name,
            fps or (declared if usable else DEFAULT_FPS),
            (self._first.shape[0], self._first.shape[1]),
            count if count > 0 and usable and not is_live else None,
            is_live,
        )
        self._declared_s = count / declared if usable else math.inf

    def read(self) -> Frame | None:
        """The next frame, or None when the file has ended, the camera gives no more or the source is closed.

        Raises:
            SourceError: if the server of a file on the network is lost.
        """
        image, self._first = (self._first if self._first is not None else self._grab()), None
        if self._is_closed:
            return None
        if image is not None:
            return self._frame(image)
        if self.is_live:
            self.note = f"{self.name} gives no more frames"
        elif self._is_cut_off():
            seen = f"after {self._next_index} of {self.frame_count} frames"
            if "://" in self.name:
                raise SourceError(f"{self.name} was lost {seen}; check the network and the server, and start again")
            self.note = f"{self.name} ended {seen}: the file is cut off"
        return None

    def _is_cut_off(self) -> bool:
        """Whether both frames and time are missing: of a file of variable rate the count of frames is an estimate."""
        few = self.frame_count is not None and self._next_index < 0.98 * self.frame_count - 1
        return few and self._seen_s < 0.98 * self._declared_s

    def close(self) -> None:
        """Release the capture; one that another thread is blocked in is left behind: to release it would crash."""
        self._is_closed = True
        if self._in_use.acquire(timeout=CLOSE_TIMEOUT_S):
            with quiet_cv2():
                self._capture.release()
            self._in_use.release()

    def _grab(self) -> Image | None:
        with self._in_use, quiet_cv2() as cv2:
            found, image = self._capture.read()
            if found:
                self._seen_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        return image if found else None


def open_video(path: Path, fps: float | None = None) -> CaptureSource:
    """Open a video file.

    Raises:
        SourceError: if it is no video that this build of OpenCV can read.
    """
    absolute = str(path.absolute())  # FFmpeg takes what is before a colon for a protocol, as in 09:30.mp4
    if not is_utf8(absolute):
        raise SourceError(f"the name of {absolute!r} is no UTF-8, which OpenCV expects; rename it")
    with quiet_cv2() as cv2:
        api = cv2.CAP_FFMPEG if has_backend(cv2, cv2.CAP_FFMPEG) else cv2.CAP_ANY
        capture = cv2.VideoCapture(absolute, api)
    if not capture.isOpened():
        raise SourceError(
            f"{path} ({path.stat().st_size} bytes) is no readable video; {_remedy(str(path), is_live=False)}"
        )
    return CaptureSource(capture, str(path), fps)


def open_camera(
    spec: str,
    max_reconnects: int | None = None,
    size_hw: tuple[int, int] | None = None,
    fps: float | None = None,
) -> Source:
    """Open a camera: ``0``, ``/dev/video0`` or a link to it, ``csi://0``, or a network address.

    It is opened again when it is lost. A web server's video that has a length is no camera but read as a file is.

    Args:
        spec: the camera.
        max_reconnects: tries in a row to open it again; None: as many as it takes.
        size_hw: (height, width) to ask a camera on this machine for; None: 720x1280 of ``csi://``, else what it likes.
        fps: frames a second to ask such a camera for; None: 30 of ``csi://``, else what it likes. What comes over the
            network is played at it, whatever it declares.

    Raises:
        SourceError: if it is not there, does not answer or has other sizes, or this build of OpenCV lacks what it
            needs.
    """

    def open_once() -> CaptureSource:
        return opened.pop() if opened else _open_camera_once(spec, size_hw, fps)

    opened: list[CaptureSource] = []
    if spec.lower().startswith(("http://", "https://")):
        first = _open_camera_once(spec, fps=fps)
        if not first.is_live:
            return first
        opened.append(first)
    return ReconnectingSource(open_once, redact(spec), max_reconnects)


def _open_camera_once(spec: str, size_hw: tuple[int, int] | None = None, fps: float | None = None) -> CaptureSource:
    name, is_file = redact(spec), False
    if not is_utf8(spec):
        raise SourceError(f"the address {name!r} is no UTF-8, which OpenCV expects; write it in percent signs")
    with quiet_cv2() as cv2:
        if spec.lower().startswith("csi://"):
            capture = _csi_capture(cv2, spec, size_hw or _CSI_SIZE_HW, fps or DEFAULT_FPS)
        elif "://" in spec:
            capture = _network_capture(cv2, spec)
            is_file = spec.lower().startswith("http") and capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0
        else:
            capture = _device_capture(cv2, spec, size_hw, fps)
    if not capture.isOpened():
        raise SourceError(f"{name} cannot be opened; {_remedy(name, is_live=True)}")
    is_asked = "://" not in spec or spec.lower().startswith("csi://")  # and declares what it gives
    source = CaptureSource(capture, name, None if is_asked else fps, is_live=not is_file)
    if size_hw and source.size_hw != size_hw:
        source.close()
        raise SourceError(
            f"camera {name} gives {source.size_hw[0]}x{source.size_hw[1]} where {size_hw[0]}x{size_hw[1]} was asked "
            "for (height x width); see what it has with: v4l2-ctl --list-formats-ext"
        )
    return source


def _csi_capture(cv2: ModuleType, spec: str, size_hw: tuple[int, int], fps: float) -> Any:
    if not has_backend(cv2, cv2.CAP_GSTREAMER):
        raise SourceError(
            f"{spec} needs OpenCV with GStreamer, and this build ({cv2.__version__}) has none: on a Jetson run "
            "'pip uninstall opencv-python' and 'sudo apt install libopencv-python', elsewhere build OpenCV with "
            "-DWITH_GSTREAMER=ON"
        )
    pipeline = csi_pipeline(spec, size_hw, fps)
    if not _has_jetson_cameras():
        raise SourceError(
            f"{spec} is a camera of a Jetson, and GStreamer has no nvarguscamerasrc here: on a Jetson run "
            "'sudo apt install nvidia-l4t-gstreamer', and in a container start it with NVIDIA's runtime; "
            "a USB camera is opened as 0 or /dev/video0"
        )
    return cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)


def _network_capture(cv2: ModuleType, spec: str) -> Any:
    if not has_backend(cv2, cv2.CAP_FFMPEG):
        raise SourceError(
            f"{redact(spec)} needs OpenCV with FFmpeg, and this build ({cv2.__version__}) has none: use pip's "
            "opencv-python or build OpenCV with -DWITH_FFMPEG=ON"
        )
    # The time-outs work with this backend only; without them open and read block for 30 s or for ever.
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS]
    return cv2.VideoCapture(spec, cv2.CAP_FFMPEG, timeouts)


def _device_capture(cv2: ModuleType, spec: str, size_hw: tuple[int, int] | None, fps: float | None) -> Any:
    device = int(spec) if spec.isdecimal() else spec
    if isinstance(device, str) and not Path(device).exists():
        raise SourceError(f"camera {spec} does not exist; {_cameras()}")
    # A link of udev's is looked up at each opening: a camera that was plugged in again may have another number.
    capture = cv2.VideoCapture(os.path.realpath(device) if isinstance(device, str) else device)
    if size_hw:
        # Compressed first, as USB 2 has no room for many large frames; a camera without keeps its own format.
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size_hw[0])
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size_hw[1])
    if fps:
        capture.set(cv2.CAP_PROP_FPS, fps)
    return capture


def csi_pipeline(spec: str, size_hw: tuple[int, int] = _CSI_SIZE_HW, fps: float = DEFAULT_FPS) -> str:
    """GStreamer's pipeline for ``csi://<sensor>``, a camera on a Jetson's ribbon cable.

    Raises:
        SourceError: if the sensor is not a number.
    """
    sensor = spec.partition("://")[2] or "0"
    if not re.fullmatch(r"\d+", sensor):
        raise SourceError(f"{spec} names no CSI sensor; expected csi://0, csi://1, ...")
    height, width = size_hw
    rate = Fraction(fps).limit_denominator(1001)
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! "
        f"video/x-raw(memory:NVMM), width={width}, height={height}, framerate={rate.numerator}/{rate.denominator} ! "
        "nvvidconv ! video/x-raw, format=BGRx ! videoconvert ! video/x-raw, format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )


def _has_jetson_cameras() -> bool:
    """Whether GStreamer knows a Jetson's cameras; without its tools nobody can say, and OpenCV has to try.

    OpenCV (4.6 at least) waits for ever for what it cannot find.
    """
    tool = shutil.which("gst-inspect-1.0")
    return tool is None or subprocess.run([tool, "--exists", "nvarguscamerasrc"], check=False).returncode == 0


def _remedy(name: str, is_live: bool) -> str:
    if not is_live:
        return "check that it plays elsewhere; a recording that was interrupted often lacks its index"
    if name.lower().startswith("csi://"):
        return "check its ribbon cable, and that this shows it: gst-launch-1.0 nvarguscamerasrc ! fakesink"
    if "://" in name:
        return "check the address, the user and password, the network, and that no other program holds the camera"
    device = Path(f"/dev/video{name}" if name.isdecimal() else name)
    if device.exists() and not os.access(device, os.R_OK | os.W_OK):
        return f"you may not use {device}: run 'sudo usermod -aG video $USER' and log in again"
    return f"check that no other program holds it; {_cameras()}"


def _cameras() -> str:
    found = sorted(str(path) for path in Path("/dev").glob("video*"))
    return f"cameras on this machine: {', '.join(found) or 'none'}"
