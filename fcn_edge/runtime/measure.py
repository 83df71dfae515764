"""What is measured along a stream, and what is told of it; knows nothing about sources, engines and sinks."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .frame import Frame

_LOWEST_MS, _HIGHEST_MS, _RATIO = 1e-3, 1e7, 1.005


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds; all None where nothing was measured."""

    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    mean: float | None = None


@dataclass(frozen=True)
class Link:
    """How a source is connected to what it reads.

    Attributes:
        state: ``running``, ``reconnecting`` or ``failed``; a file is always ``running``.
        reconnects: how often it was opened again.
        stalls: how often it gave nothing for too long.
    """

    state: str = "running"
    reconnects: int = 0
    stalls: int = 0


@dataclass(frozen=True)
class StreamSummary:
    """What became of a stream.

    Attributes:
        frames_in: frames that the source gave: those that came out and those that were dropped.
        frames_out: results that the sink took.
        dropped: frames of a live source that were replaced by newer ones before the engine was free.
        reconnects: how often the source was opened again.
        stalls: how often the source gave nothing for too long.
        fps: results for each second, from the start to the last result.
        latency_ms: frame in host memory to labels in host memory.
        age_ms: frame captured to result taken by the sink.
        ended: ``eof``, ``limit`` (enough frames), ``signal`` (or its window was closed) or ``source_lost``.
    """

    frames_in: int
    frames_out: int
    dropped: int
    reconnects: int
    stalls: int
    fps: float
    latency_ms: Percentiles
    age_ms: Percentiles
    ended: str

    def to_dict(self) -> dict[str, Any]:
        """The summary as a dictionary of dictionaries, numbers and strings, as ``--json`` prints it."""
        return asdict(self)

    def __str__(self) -> str:
        lost = f"{self.reconnects} reconnects, " if self.reconnects else ""
        return (
            f"{self.frames_out} frames, {self.dropped} dropped, {lost}{self.fps:.1f} frames/s, latency p50 "
            f"{self.latency_ms.p50 or 0:.1f} ms, p95 {self.latency_ms.p95 or 0:.1f} ms, ended: {self.ended}"
        )


@dataclass(frozen=True)
class StreamStatus:
    """How a stream is doing: counts since its start, rates and percentiles since the status before.

    Attributes:
        source: name of the source, without passwords.
        elapsed_s: seconds since the start.
        frames_in: frames that the source gave.
        frames_out: results that the sink took.
        frame_count: frames that the source has, or None.
        dropped: frames that were replaced by newer ones.
        fps_in: frames that the source gave for each second.
        fps: results for each second.
        latency_p95_ms: of the engine, or None.
        age_p95_ms: from capture to sink, or None.
        link: how the source is connected.
        engine: name of the engine, such as its file's; empty if it has none.
    """

    source: str
    elapsed_s: float
    frames_in: int
    frames_out: int
    frame_count: int | None
    dropped: int
    fps_in: float
    fps: float
    latency_p95_ms: float | None
    age_p95_ms: float | None
    link: Link
    engine: str = ""

    def __str__(self) -> str:
        of = f"/{self.frame_count}" if self.frame_count else ""
        p95 = [f"{ms:.1f} ms" if ms is not None else "-" for ms in (self.latency_p95_ms, self.age_p95_ms)]
        lost = f"  reconnects {self.link.reconnects}" if self.link.reconnects else ""
        state = f"  {self.link.state}" if self.link.state != "running" else ""
        return (
            f"{self.elapsed_s:6.1f} s  frame {self.frames_out}{of}  {self.fps_in:.1f} fps in, {self.fps:.1f} out  "
            f"dropped {self.dropped}  latency p95 {p95[0]}  age p95 {p95[1]}{lost}{state}"
        )


class Latencies:
    """Percentiles of any number of durations in constant memory: a histogram whose bins are 0.5 % wide."""

    def __init__(self) -> None:
        self._counts = np.zeros(math.ceil(math.log(_HIGHEST_MS / _LOWEST_MS, _RATIO)) + 1, np.int64)
        self._count = 0
        self._sum_ms = 0.0
        self._min_ms, self._max_ms = math.inf, 0.0

    def add(self, ms: float) -> None:
        """Count a duration of ``ms`` milliseconds."""
        clipped = min(max(ms, _LOWEST_MS), _HIGHEST_MS)
        self._counts[int(math.log(clipped / _LOWEST_MS, _RATIO))] += 1
        self._count += 1
        self._sum_ms += ms
        self._min_ms, self._max_ms = min(self._min_ms, ms), max(self._max_ms, ms)

    def percentile(self, percent: float) -> float | None:
        """The duration, within 0.5 %, that ``percent`` of all do not exceed (nearest rank); None without any."""
        if not self._count:
            return None
        rank = max(1, math.ceil(self._count * percent / 100))
        index = int(np.searchsorted(np.cumsum(self._counts), rank))
        middle = _LOWEST_MS * _RATIO ** (index + 0.5)
        return float(min(max(middle, self._min_ms), self._max_ms))

    def percentiles(self) -> Percentiles:
        """What a summary tells."""
        if not self._count:
            return Percentiles()
        p50, p90, p95, p99 = (self.percentile(percent) for percent in (50, 90, 95, 99))
        return Percentiles(p50, p90, p95, p99, self._max_ms, self._sum_ms / self._count)


class Meter:
    """Counts and times a stream; created when it starts.

    Args:
        source: name of the source.
        frame_count: frames that it has, or None.
        engine: name of the engine.
    """

    def __init__(self, source: str, frame_count: int | None, engine: str = "") -> None:
        self._source = source
        self._engine = engine
        self._frame_count = frame_count
        self._started_s = self._status_s = self._last_s = time.monotonic()
        self.frames_out = 0
        self.dropped = 0
        self._latency, self._age = Latencies(), Latencies()
        self._recent_latency, self._recent_age = Latencies(), Latencies()
        self._status_in = self._status_out = 0

    def add(self, frame: Frame, latency_s: float) -> None:
        """Count a result that the sink has just taken."""
        age_ms = (time.monotonic_ns() - frame.captured_ns) / 1e6
        for latencies, ms in (
            (self._latency, latency_s * 1e3),
            (self._recent_latency, latency_s * 1e3),
            (self._age, age_ms),
            (self._recent_age, age_ms),
        ):
            latencies.add(ms)
        self.frames_out += 1
        self._last_s = time.monotonic()

    def seconds_since_status(self) -> float:
        """Seconds since the last status, or since the start."""
        return time.monotonic() - self._status_s

    def status(self, link: Link) -> StreamStatus:
        """How the stream is doing; the next one counts its rates and percentiles from here."""
        now = time.monotonic()
        span = max(now - self._status_s, 1e-9)
        frames_in = self.frames_out + self.dropped
        status = StreamStatus(
            source=self._source,
            elapsed_s=now - self._started_s,
            frames_in=frames_in,
            frames_out=self.frames_out,
            frame_count=self._frame_count,
            dropped=self.dropped,
            fps_in=(frames_in - self._status_in) / span,
            fps=(self.frames_out - self._status_out) / span,
            latency_p95_ms=self._recent_latency.percentile(95),
            age_p95_ms=self._recent_age.percentile(95),
            link=link,
            engine=self._engine,
        )
        self._status_s, self._status_in, self._status_out = now, frames_in, self.frames_out
        self._recent_latency, self._recent_age = Latencies(), Latencies()
        return status

    def summary(self, ended: str, link: Link) -> StreamSummary:
        """What became of the stream."""
        span = self._last_s - self._started_s
        return StreamSummary(
            frames_in=self.frames_out + self.dropped,
            frames_out=self.frames_out,
            dropped=self.dropped,
            reconnects=link.reconnects,
            stalls=link.stalls,
            fps=self.frames_out / span if span > 0 else 0.0,
            latency_ms=self._latency.percentiles(),
            age_ms=self._age.percentiles(),
            ended=ended,
        )
