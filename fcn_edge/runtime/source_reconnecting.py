"""A camera that is opened again whenever it is lost; knows nothing about what kind of camera it is."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable

from ..errors import SourceError
from .frame import Frame
from .source import Source

OPEN_TIMEOUT_S = 15.0
STALL_S, STALL_FRAMES = 2.0, 5  # no frame for so long, or for so many frame times, is a stall
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
STEADY_S = 10.0  # a camera that gave frames for so long is tried again soon when it is lost
MAX_BLOCKED = 4  # connections whose driver never comes back; each holds a thread
CLOSE_TIMEOUT_S = 2.0


class ReconnectingSource(Source):
    """A live source over connections that may be lost: by an end, an error, or a stall, when no frame comes for 2 s.

    A lost connection is left and a new one made, after 0.5 s at first and twice as long after each try that fails, up
    to 30 s, each by up to a fifth longer by chance, lest many readers come back at once. Size and rate are those of
    the newest connection. Nothing is made up for the time between.

    Args:
        open_camera: opens the camera; called in a thread of its own, as a driver may block for ever.
        name: for messages, without passwords.
        max_reconnects: tries in a row after which the camera is given up; None: never.

    Raises:
        SourceError: if the camera cannot be opened the first time or does not answer in 15 s.
    """

    def __init__(self, open_camera: Callable[[], Source], name: str, max_reconnects: int | None = None) -> None:
        self._open_camera = open_camera
        self._max_reconnects = max_reconnects
        self._closed = threading.Event()
        self._left: list[_Connection] = []
        self._tries = 0
        self._first_ns: int | None = None  # when this connection's first frame was captured
        self._taken = 0  # frames of this connection up to the one that was taken last
        self._connection = _Connection(open_camera)
        try:
            camera = self._connection.camera(name, OPEN_TIMEOUT_S)
        except BaseException:
            self._connection.leave()
            raise
        super().__init__(name, camera.fps, camera.size_hw, None, is_live=True)

    def read(self) -> Frame | None:
        """The newest frame not read yet, however long it takes; None once the camera is given up or the source closed.

        Raises:
            Exception: what is no loss of the camera, such as a missing package.
        """
        while not self._closed.is_set():
            frame, lost = self._next()
            if frame is not None:
                self._note_steady(frame.captured_ns)
                self._next_index += frame.index - self._taken
                self._taken = frame.index + 1
                return dataclasses.replace(self._frame(frame.image_bgr), captured_ns=frame.captured_ns)
            if not self._closed.is_set() and not self._reconnect(lost):
                break
        return None

    def close(self) -> None:
        """Leave the camera; where its driver blocks for longer than 2 s its thread is left behind."""
        self._closed.set()
        self._connection.leave()
        self._connection.wait_until_over(CLOSE_TIMEOUT_S)

    def _next(self) -> tuple[Frame | None, str]:
        """The next frame of this connection, or how it was lost."""
        try:
            return self._connection.take(max(STALL_S, STALL_FRAMES / self.fps)), "it ended"
        except TimeoutError as exc:
            self.link = dataclasses.replace(self.link, stalls=self.link.stalls + 1)
            return None, str(exc)
        except SourceError as exc:
            return None, str(exc)

    def _reconnect(self, lost: str) -> bool:
        """Try until there is a connection; False if the camera is given up or the source is closed meanwhile."""
        self._connection.leave()
        self._left.append(self._connection)
        while self._max_reconnects is None or self._tries < self._max_reconnects:
            self.link = dataclasses.replace(self.link, state="reconnecting")
            wait_s = min(FIRST_WAIT_S * 2 ** min(self._tries, 10), LONGEST_WAIT_S)
            self._tries += 1
            if self._closed.wait(wait_s * random.uniform(1.0, 1.2)):
                return False
            self._left = [left for left in self._left if not left.is_over]
            if len(self._left) >= MAX_BLOCKED:
                lost = f"{len(self._left)} earlier connections are still blocked in the camera's driver"
                continue
            connection = _Connection(self._open_camera)
            try:
                camera = connection.camera(self.name, OPEN_TIMEOUT_S)
            except SourceError as exc:
                lost = str(exc)
                connection.leave()
                self._left.append(connection)
                continue
            self.fps, self.size_hw = camera.fps, self._turned_size(camera.size_hw)
            self._connection, self._first_ns, self._taken = connection, None, 0
            if self._closed.is_set():  # meanwhile: close() left the connection before this one
                connection.leave()
                return False
            self.link = dataclasses.replace(self.link, state="running", reconnects=self.link.reconnects + 1)
            return True
        self.link = dataclasses.replace(self.link, state="failed")
        tried = f" and did not come back in {self._tries} tries" if self._tries else ""
        self.note = f"{self.name} was lost{tried}: {lost}"
        return False

    def _note_steady(self, captured_ns: int) -> None:
        """A camera that is lost right after each opening is tried ever more rarely too."""
        self._first_ns = self._first_ns if self._first_ns is not None else captured_ns
        if captured_ns - self._first_ns >= STEADY_S * 1e9:  # not so many frames: cameras declare rates that they miss
            self._tries = 0


class _Connection:
    """One opening of the camera and the thread that alone touches it; holds the newest frame, if it is not taken yet.

    The thread never waits for who takes frames: the camera's buffers would fill, and what comes of them grow older.
    """

    def __init__(self, open_camera: Callable[[], Source]) -> None:
        self._open_camera = open_camera
        self._changed = threading.Condition()
        self._camera: Source | None = None
        self._frame: Frame | None = None
        self._error: Exception | None = None
        self._is_left = False
        self.is_over = False
        threading.Thread(target=self._run, name="fcn-edge-camera", daemon=True).start()

    def camera(self, name: str, timeout_s: float) -> Source:
        """The opened camera, for what it declares.

        Raises:
            SourceError: if it cannot be opened, or not within ``timeout_s``.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._camera or self.is_over, timeout_s)
            if self._camera is not None:
                return self._camera
            if self._error is not None:
                raise self._error
        raise SourceError(
            f"{name} does not answer within {timeout_s:.0f} s; check the camera, and its network or cable"
        )

    def take(self, timeout_s: float) -> Frame | None:
        """The next frame, or None if the camera has ended or was left.

        Raises:
            TimeoutError: if there is none for ``timeout_s``.
            Exception: what the camera raised.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._frame or self.is_over or self._is_left, timeout_s):
                raise TimeoutError(f"it gave no frame for {timeout_s:.1f} s")
            frame, self._frame = self._frame, None
            self._changed.notify_all()
            if frame is None and self._error is not None and not self._is_left:
                raise self._error
            return frame

    def leave(self) -> None:
        """Want no more frames; the thread closes the camera as soon as its driver lets go."""
        with self._changed:
            self._is_left = True
            self._changed.notify_all()

    def wait_until_over(self, timeout_s: float) -> None:
        """Wait until the camera is closed, but no longer than ``timeout_s``."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_over, timeout_s)

    def _run(self) -> None:
        try:
            with self._open_camera() as camera:
                with self._changed:
                    self._camera = camera
                    self._changed.notify_all()
                while (frame := camera.read()) is not None and self._put(frame):
                    pass
        except Exception as exc:  # noqa: BLE001
            self._error = exc  # raised again where frames are taken
        with self._changed:
            self.is_over = True
            self._changed.notify_all()

    def _put(self, frame: Frame) -> bool:
        with self._changed:
            self._frame = frame
            self._changed.notify_all()
            return not self._is_left
