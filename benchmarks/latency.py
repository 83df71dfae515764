"""How long engines take from a frame in host memory to labels in host memory; knows nothing about files or reports.

Correctness first: an engine that does not agree with itself, or in FP32 with its reference, is not timed. Several
engines are timed interleaved in rounds (A B, B A, A B ...), so that what disturbs the machine disturbs all of them and
their ratios hold where the figures themselves move.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import GateError, UsageError
from ..pixels import Labels
from ..runtime.engine import PRECISION_HINTS, Engine, check_labels
from .engines import Reference
from .memory import gpu_mib, peak_rss_mib

AGREEMENT = 0.999
"""Share of pixels on which an FP32 engine has to agree with its reference before it is timed."""

QUANTILES = (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99), ("max", 100))
CHECKED_FRAMES = 2
SLICE_S = 0.5
MIN_ROUNDS, MAX_ROUNDS = 4, 60
WARMUP_S, WARMUP_FRAMES = 1.0, 10
"""Before it is timed, an engine runs for so many seconds, no more than it is timed for, and so many frames."""

WARMUP_PATIENCE = 10
"""A slow engine's frames are waited for up to so many times the seconds of the warm-up."""

OnProgress = Callable[[int, int], None]
"""Called as ``on_progress(done, total)``."""


@dataclass(frozen=True)
class Candidate:
    """A model to time.

    Attributes:
        model: what the result calls it.
        engine: what runs it; it stays open.
        frames: uint8 ``[height, width, 3]`` BGR each, fed in turn.
        reference: an independent implementation to agree with, or None if there is none.
        facts: fields of the result that are known beforehand, such as ``params``, ``gmacs``, ``miou``.
        precision_hint: what the engine was opened with; None: its default.
    """

    model: str
    engine: Engine
    frames: Sequence[NDArray[Any]]
    reference: Reference | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    precision_hint: str | None = None

    @property
    def is_exact(self) -> bool:
        """Whether all of it is computed in FP32, so that its labels have to be the reference's."""
        return self.engine.precision == "fp32" and self.precision_hint in (None, PRECISION_HINTS[0])


@dataclass
class _Timings:
    """What was seen of one candidate: nanoseconds, the stages and the round of each frame."""

    latencies_ns: list[int] = field(default_factory=list)
    stages_ms: list[dict[str, float]] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)


def measure(
    engine: Engine,
    frames: Sequence[NDArray[Any]],
    duration_s: float = 10.0,
    *,
    model: str = "",
    reference: Reference | None = None,
    facts: dict[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Time one engine: :func:`measure_interleaved` with a single candidate.

    Returns:
        One entry of ``results`` of ``fcn-edge bench --json``.
    """
    candidate = Candidate(model or engine.contract.model, engine, frames, reference, facts or {})
    return measure_interleaved([candidate], duration_s, on_progress)[0]


def measure_interleaved(
    candidates: Sequence[Candidate], duration_s: float = 10.0, on_progress: OnProgress | None = None
) -> list[dict[str, Any]]:
    """Check engines, warm them up, and time them in turn.

    Args:
        candidates: what to time.
        duration_s: seconds for each of them, the checks and the warm-up not counted.
        on_progress: called after each slice with the number done and the number of all.

    Returns:
        For each candidate an entry of ``results`` of ``fcn-edge bench --json``.

    Raises:
        UsageError: if there is nothing to time, or no time to do it in.
        GateError: if an engine contradicts itself, or an FP32 engine its reference.
        EngineError: if an engine fails.
    """
    if not candidates or not all(len(candidate.frames) for candidate in candidates):
        raise UsageError("there is nothing to time; give at least one model and one frame")
    if not 0 < duration_s <= 86400:
        raise UsageError(f"duration is {duration_s:g} s; expected more than 0 and at most 86400")
    checks = [check_answers(candidate) for candidate in candidates]
    for candidate in candidates:
        _warm_up(candidate, warm_up_s(duration_s))
    timings = _time_in_rounds(candidates, duration_s, on_progress)
    return [_result(candidate, check, seen) for candidate, check, seen in zip(candidates, checks, timings, strict=True)]


def check_answers(candidate: Candidate) -> dict[str, Any]:
    """Compare an engine with itself and with its reference on a few frames.

    Returns:
        ``repeatability`` and ``agreement_with_reference`` (None without a reference): the smallest share of pixels
        that were alike in a frame.

    Raises:
        GateError: if less than 99.9 % of the pixels of a frame are alike in two runs, or in FP32 with the reference.
        EngineError: if labels have another size than the frame, or ids that are no class.
    """
    engine, alike, agreeing = candidate.engine, [], []
    for frame in candidate.frames[:CHECKED_FRAMES]:
        labels = engine.infer(frame)
        check_labels(labels, (frame.shape[0], frame.shape[1]), engine.contract.num_classes)
        alike.append(_share_equal(labels, engine.infer(frame)))
        if candidate.reference:
            agreeing.append(_share_equal(labels, candidate.reference(frame)))
    if min(alike) < AGREEMENT:
        raise GateError(
            f"{candidate.model} contradicts itself: {min(alike):.4%} of the pixels are alike in two runs of the same "
            f"frame, expected {AGREEMENT:.1%}; it is not timed"
        )
    if agreeing and candidate.is_exact and min(agreeing) < AGREEMENT:
        raise GateError(
            f"{candidate.model} agrees with its reference on {min(agreeing):.4%} of the pixels, expected "
            f"{AGREEMENT:.1%} in fp32; export it again, it is not timed"
        )
    return {"repeatability": min(alike), "agreement_with_reference": min(agreeing) if agreeing else None}


def _share_equal(one: Labels, other: Labels) -> float:
    return float(np.mean(one == other)) if one.shape == other.shape else 0.0


def warm_up_s(duration_s: float) -> float:
    """Seconds of the warm-up of an engine that is timed for ``duration_s``."""
    return min(WARMUP_S, duration_s)


def _warm_up(candidate: Candidate, seconds: float) -> None:
    """Run until caches, clocks and lazy initialisation have settled: for ``seconds`` and ``WARMUP_FRAMES``, both."""
    begun, done, passed = time.perf_counter(), 0, 0.0
    while passed < seconds or (done < WARMUP_FRAMES and passed < WARMUP_PATIENCE * seconds):
        candidate.engine.infer(candidate.frames[done % len(candidate.frames)])
        done, passed = done + 1, time.perf_counter() - begun


def rounds_in(duration_s: float) -> int:
    """How many turns an engine has that is timed for ``duration_s``."""
    return min(max(round(duration_s / SLICE_S), MIN_ROUNDS), MAX_ROUNDS)


def _time_in_rounds(
    candidates: Sequence[Candidate], duration_s: float, on_progress: OnProgress | None
) -> list[_Timings]:
    rounds = rounds_in(duration_s)
    timings = [_Timings() for _ in candidates]
    for number, (turn, index) in enumerate(_turns(rounds, len(candidates)), 1):
        candidate = candidates[index]
        if len(candidates) > 1:  # its data left the caches while the others ran; a stream would have them there
            candidate.engine.infer(candidate.frames[0])
        _time_slice(candidate, duration_s / rounds, turn, timings[index])
        if on_progress:
            on_progress(number, rounds * len(candidates))
    return timings


def _turns(rounds: int, count: int) -> Iterator[tuple[int, int]]:
    """(round, candidate); every other round runs backwards, so that a drift does not favour one of them."""
    for turn in range(rounds):
        for index in range(count) if turn % 2 == 0 else reversed(range(count)):
            yield turn, index


def _time_slice(candidate: Candidate, slice_s: float, turn: int, seen: _Timings) -> None:
    """Time frames one after the other, at least one."""
    engine, frames = candidate.engine, candidate.frames
    ends_ns = time.perf_counter_ns() + int(slice_s * 1e9)
    done_ns = 0
    while done_ns < ends_ns:
        frame = frames[len(seen.latencies_ns) % len(frames)]
        started_ns = time.perf_counter_ns()
        engine.infer(frame)
        done_ns = time.perf_counter_ns()
        seen.latencies_ns.append(done_ns - started_ns)
        seen.stages_ms.append(dict(engine.stages_ms))
        seen.rounds.append(turn)


def _result(candidate: Candidate, check: dict[str, Any], seen: _Timings) -> dict[str, Any]:
    engine = candidate.engine
    latencies_ms = np.asarray(seen.latencies_ns, np.float64) / 1e6
    rounds = np.asarray(seen.rounds)
    first = candidate.frames[0]
    by_stage = {
        stage: summary(np.asarray([stages[stage] for stages in seen.stages_ms if stage in stages]))
        for stage in seen.stages_ms[0]
    }
    result = {
        "model": candidate.model,
        "backend": engine.backend,
        "precision": engine.precision,
        "size_hw": list(engine.contract.size_hw),
        "params": None,
        "gmacs": None,
        "latency_ms": summary(latencies_ms),
        "stages_ms": {stage: found["p50"] for stage, found in by_stage.items()},
        "fps": float(1e3 / latencies_ms.mean()),  # frames one after the other, as latency is measured
        "rss_mib": peak_rss_mib(),
        "gpu_mib": gpu_mib(engine),
        "miou": None,
        "rss_of": "this process",
        "frame_hw": [first.shape[0], first.shape[1]],
        "precision_hint": candidate.precision_hint,
        "stages_latency_ms": by_stage,
        "frames": len(latencies_ms),
        "rounds_p50_ms": [float(np.median(latencies_ms[rounds == turn])) for turn in np.unique(rounds)],
        "quantiles_ms": np.percentile(latencies_ms, np.arange(101)).tolist(),
        **check,
    }
    return {**result, **candidate.facts}


def summary(latencies_ms: Any) -> dict[str, float]:
    """``p50``, ``p90``, ``p95``, ``p99``, ``max``, ``mean`` of latencies; between two of them linear (NumPy's rule).

    Args:
        latencies_ms: float64 ``[n]``, at least one.
    """
    values = {name: float(np.percentile(latencies_ms, share)) for name, share in QUANTILES}
    return {**values, "mean": float(np.mean(latencies_ms))}
