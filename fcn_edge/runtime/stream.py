"""The stream: source, engine, overlay and sink in one loop; knows nothing about what any of them is made of."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from ..errors import SourceError, UsageError
from .engine import Engine, check_labels
from .frame import Result
from .measure import Meter, StreamStatus, StreamSummary
from .overlay import Overlay
from .reader import Reader
from .sink import Sink
from .source import Source

_POLL_S = 0.1


def run(
    source: Source,
    engine: Engine,
    sink: Sink,
    *,
    overlay: Overlay | None = None,
    max_frames: int | None = None,
    every_s: float | None = None,
    on_status: Callable[[StreamStatus], None] | None = None,
    status_every_s: float = 2.0,
    stop: threading.Event | None = None,
) -> StreamSummary:
    """Stream a source through an engine into a sink until it ends, ``max_frames`` are through, or a signal says so.

    A thread reads ahead; everything else happens in the caller's thread, frame by frame and in order. A file loses no
    frame; of a live source the newest is taken. The sink is closed here, so that its failure is not overlooked: whole
    at the end and after a signal; on an error a recording of a live source is kept and one that can be made again is
    discarded. Source and engine stay open.

    Args:
        source: where frames come from.
        engine: what labels them.
        sink: where results go.
        overlay: what draws the pictures; None: an :class:`Overlay` as it comes.
        max_frames: how many results to make at most; the few frames that were read ahead then go, so a second call on
            the same file begins behind them.
        every_s: work on a frame of a camera every so many seconds at most; those between count as dropped. A video sink
            then wants an ``fps`` of at most ``1 / every_s``, lest it play too fast.
        on_status: called about every ``status_every_s`` seconds, as is the sink's ``tell``.
        status_every_s: seconds between two of these calls.
        stop: ends the stream once it is set, as a signal does; for a stream in a thread, which no signal reaches.

    Returns:
        What became of the stream. In the main thread SIGINT, SIGTERM and SIGHUP end it, as ``ended="signal"`` says: a
        loop over several streams has to look at that. A handler of the caller's own is called behind the clean end.

    Raises:
        UsageError: if ``max_frames`` is less than 1, or ``every_s`` is not more than 0 or the source loses no frame.
        Exception: what source, engine, overlay, sink or ``on_status`` raised; it ends the stream at once. A
            SourceError brings the ``summary`` of the frames before.
    """
    if max_frames is not None and not max_frames >= 1:  # which a NaN is not
        raise UsageError(f"a stream of {max_frames} frames makes no sense; give at least 1")
    overlay = overlay or Overlay(engine.contract)
    meter = Meter(source.name, source.frame_count, engine.name)
    reader = Reader(source, every_s)
    dropped_before = 0
    with _noted_signals() as signals, _closing(sink, source.is_live, signals), reader:
        sink.tell(meter.status(source.link))
        while True:
            try:
                frame, dropped = reader.take(_POLL_S)
            except SourceError as exc:
                exc.summary = meter.summary("source_lost", source.link) if meter.frames_out else None
                raise
            meter.dropped = dropped
            if signals.noted or (stop is not None and stop.is_set()) or sink.wants_stop:
                ended = "signal"
                break
            if frame is not None:
                started = time.perf_counter()
                labels = engine.infer(frame.image_bgr)
                latency_s = time.perf_counter() - started
                check_labels(labels, frame.image_bgr.shape[:2], engine.contract.num_classes)
                picture = overlay.draw(frame.image_bgr, labels) if sink.needs_picture else None
                with signals.held():
                    sink.write(Result(frame, labels, picture, dropped - dropped_before))
                dropped_before = dropped
                meter.add(frame, latency_s)
            elif reader.has_ended:
                _, meter.dropped = reader.take(0)  # some may have come since
                ended = "source_lost" if source.is_live and source.frame_count is None else "eof"
                break
            if max_frames is not None and meter.frames_out >= max_frames:
                ended = "limit"
                break
            if meter.seconds_since_status() >= status_every_s:
                status = meter.status(source.link)
                with signals.held():
                    sink.tell(status)
                if on_status is not None:
                    on_status(status)
        with signals.held():
            sink.tell(meter.status(source.link))  # what there was in all, for who looks on
    return meter.summary(ended, source.link)


class _Signals:
    """The signals that came, and whether the sink is at work, which nothing may interrupt: it may finish a file."""

    def __init__(self) -> None:
        self.noted: list[int] = []
        self.are_held = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        self.are_held = True
        try:
            yield
        finally:
            self.are_held = False


@contextlib.contextmanager
def _noted_signals() -> Iterator[_Signals]:
    """Note the first SIGINT, SIGTERM or SIGHUP, let a second one interrupt, but no sink; in the main thread only.

    The handler that was there before is called at the end. SIGHUP says that the terminal is gone, such as with a broken
    SSH connection; under ``nohup`` it stays ignored.
    """
    signals = _Signals()

    def note(number: int, frame: FrameType | None) -> None:
        if signals.noted and not signals.are_held:
            raise KeyboardInterrupt
        signals.noted.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {int(number): signal.signal(number, note) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
    for number in signals.noted:
        handler = before[number]
        if callable(handler) and handler is not signal.default_int_handler:
            handler(number, None)


@contextlib.contextmanager
def _closing(sink: Sink, is_live: bool, signals: _Signals) -> Iterator[None]:
    """Close the sink at the end; after an error the caller gets that error, not one of closing."""
    try:
        yield
    except BaseException as exc:
        with signals.held(), contextlib.suppress(Exception):
            sink.close(keep=is_live or isinstance(exc, KeyboardInterrupt))
        raise
    with signals.held():
        sink.close()
