"""Where results go: what every sink can do and how one is opened; knows nothing about sources and engines."""

from __future__ import annotations

import abc
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from ..contract import Contract
from ..errors import SinkError, UsageError
from ..redact import redact
from .frame import Result
from .measure import StreamStatus
from .own_camera import is_own_camera

_EXPECTED = (
    "a video file (.mp4, .mov, .mkv, .avi), a folder, a file of JSON lines (.jsonl), null://, show:// or "
    "serve://HOST:PORT"
)
MAX_FPS = 1000
_Sink = TypeVar("_Sink", bound="Sink")  # typing.Self needs Python 3.11


class Sink(abc.ABC):
    """Takes results one after another; a context manager that finishes what was written.

    Attributes:
        needs_picture: whether results must come with a picture.
        wants_stop: whether the one who looks on has asked to stop, such as by closing a window.
    """

    needs_picture = True
    wants_stop = False
    _is_closed = False  # of the class: a sink of somebody else's need not call an __init__ of ours

    @abc.abstractmethod
    def write(self, result: Result) -> None:
        """Take a result; its arrays are not kept.

        Raises:
            SinkError: if it cannot be written.
        """

    def tell(self, status: StreamStatus) -> None:  # noqa: B027
        """Hear how the stream is doing: at its start and every few seconds, also while the source gives nothing."""

    def close(self, keep: bool = True) -> None:  # noqa: B027
        """Finish; may be called more than once.

        Args:
            keep: False discards what would be incomplete, such as a video in the middle of which an error occurred.

        Raises:
            SinkError: if what was written cannot be finished.
        """

    def _require_open(self, name: object) -> None:
        """Refuse a result once closed: a second stream would replace what the first one wrote, or be lost.

        Raises:
            SinkError: if the sink, which the message calls ``name``, is closed.
        """
        if self._is_closed:
            raise SinkError(f"{name} is closed: run closes the sink that it is given; open one for each run")

    def __enter__(self: _Sink) -> _Sink:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        # Ctrl-C is a way to end a recording, an error is not.
        self.close(keep=kind is None or issubclass(kind, KeyboardInterrupt))


class NullSink(Sink):
    """Takes everything and keeps nothing; no picture is drawn for it."""

    needs_picture = False

    def write(self, result: Result) -> None:
        """Do nothing."""


class TeeSink(Sink):
    """Several sinks as one.

    Args:
        sinks: the sinks; they are closed with this one.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)

    @property
    def needs_picture(self) -> bool:  # type: ignore[override]
        """Whether one of them needs a picture."""
        return any(sink.needs_picture for sink in self._sinks)

    @property
    def wants_stop(self) -> bool:  # type: ignore[override]
        """Whether one of them wants to stop."""
        return any(sink.wants_stop for sink in self._sinks)

    def write(self, result: Result) -> None:
        """Hand the result to each.

        Raises:
            SinkError: if one cannot write it, or this sink is closed.
        """
        self._require_open("this sink of several")
        for sink in self._sinks:
            sink.write(result)

    def tell(self, status: StreamStatus) -> None:
        """Let each hear."""
        for sink in self._sinks:
            sink.tell(status)

    def close(self, keep: bool = True) -> None:
        """Close each, also where closing another fails; the first failure is raised."""
        self._is_closed = True
        _close_all(self._sinks, keep)


def open_sink(
    spec: str | Path | Sequence[str | Path],
    *,
    contract: Contract,
    fps: float = 30.0,
    force: bool = False,
    split_s: float | None = None,
) -> Sink:
    """Open a sink. Nothing appears on disk before the first result is written.

    Args:
        spec: a video file, a folder (``NAME_overlay.png`` and ``NAME_labels.png`` for each frame), a ``.jsonl`` file
            (a line with the share of each class for each frame), ``null://``, ``show://`` (a window),
            ``serve://HOST:PORT`` (a page in the browser), or several of them.
        contract: what the labels mean; window, page and lines name classes or model by it.
        fps: rate at which a video plays, more than 0 and at most 1000.
        force: whether what exists may be overwritten.
        split_s: begin a new video and ``.jsonl`` file after so many seconds, each named by the time that it begins at;
            None: one file from start to end.

    Returns:
        The opened sink; close it, or use it in a ``with``. It is for one stream: closed, as ``run`` leaves it, it
        refuses further results.

    Raises:
        UsageError: if ``spec`` means nothing, exists and ``force`` is not given, or names one file twice; if ``fps``
            is out of range or ``split_s`` less than 1, or there is no file to split.
        MissingError: if OpenCV is missing or has no window to show, or the page's web server is missing.
        SinkError: if the name cannot be looked up; a place that takes no files is told with the first result.
    """
    if not 0 < fps <= MAX_FPS:  # which a NaN is not
        raise UsageError(
            f"a sink cannot play at {fps} frames a second; give more than 0 and at most {MAX_FPS}, as the fps of a "
            "source is (OpenCV tells 0 where it knows no rate)"
        )
    specs = [spec] if isinstance(spec, (str, Path)) else list(spec)
    places = [os.path.realpath(one) for one in specs if "://" not in str(one)]
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice:
        raise UsageError(f"{twice} is given as two sinks; give each a file or folder of its own")
    opened: list[Sink] = []
    try:
        for one in specs:
            opened.append(_open(str(one), contract, fps, force, split_s))
        if split_s is not None and not _has_parts(opened):
            raise UsageError(
                "there is nothing to split; give a video (.mp4, .mov, .mkv, .avi) or a .jsonl file as sink"
            )
    except OSError as exc:
        _close_all(opened, keep=False)
        raise SinkError(f"sink {one} cannot be opened: {exc.strerror or exc}; choose another place or name") from exc
    except BaseException:
        _close_all(opened, keep=False)
        raise
    return opened[0] if isinstance(spec, (str, Path)) else TeeSink(opened)


def _open(text: str, contract: Contract, fps: float, force: bool, split_s: float | None) -> Sink:
    if text == "null://":
        return NullSink()
    if text == "show://":
        from .sink_window import WindowSink

        return WindowSink(f"fcn-edge {contract.model}")
    if text.startswith("serve://"):
        from .sink_page import PageSink

        return PageSink(text.removeprefix("serve://"), contract)
    path = Path(text)
    if not text or "://" in text:
        raise UsageError(f"sink '{redact(text)}' is unknown; expected {_EXPECTED}")
    replaces = force and split_s is None  # parts take names that are free
    if path.suffix.lower() == ".jsonl":
        from .sink_lines import LinesSink

        return _in_parts(path, split_s, fps, lambda part: LinesSink(part, contract, replaces))
    from .sink_video import CODECS, VideoSink

    if path.suffix.lower() in CODECS:
        return _in_parts(path, split_s, fps, lambda part: VideoSink(part, fps, replaces))
    if text == "-":
        raise UsageError(f"sink '-' is unknown, as results do not go to stdout; expected {_EXPECTED}")
    if is_own_camera(text) and not path.is_dir():
        raise UsageError(
            f"sink '{text}' looks like a camera; a stream has one source, run another for it (end a folder's name "
            "with /)"
        )
    if re.fullmatch(r"\.[A-Za-z]\w{0,4}", path.suffix) and not path.is_dir() and not text.endswith("/"):
        raise UsageError(f"sink {text} would be a {path.suffix} file; expected {_EXPECTED} (end its name with /)")
    from .sink_folder import FolderSink

    return FolderSink(path, force)


def _in_parts(path: Path, split_s: float | None, fps: float, open_part: Callable[[Path], Sink]) -> Sink:
    if split_s is None:
        return open_part(path)
    from .sink_parts import PartsSink

    return PartsSink(path, split_s, fps, open_part)


def _has_parts(sinks: Sequence[Sink]) -> bool:
    from .sink_parts import PartsSink

    return any(isinstance(sink, PartsSink) for sink in sinks)


def _close_all(sinks: Sequence[Sink], keep: bool) -> None:
    errors = []
    for sink in sinks:
        try:
            sink.close(keep)
        except Exception as exc:  # noqa: BLE001
            errors.append(exc)  # one sink's failure must not cost another its file
    if errors:
        raise errors[0]
