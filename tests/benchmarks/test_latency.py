"""Latency: percentiles on known times, the JSON's fields, interleaving, and what is not timed."""

import json
import math

import numpy as np
import pytest

from fcn_edge.benchmarks import latency
from fcn_edge.benchmarks.latency import Candidate, measure, measure_interleaved, summary
from fcn_edge.errors import EngineError, GateError, UsageError
from fcn_edge.runtime.engine_echo import EchoEngine

CONTRACT_FIELDS = {
    "model": str,
    "backend": str,
    "precision": str,
    "size_hw": list,
    "params": (int, type(None)),
    "gmacs": (float, type(None)),
    "latency_ms": dict,
    "stages_ms": dict,
    "fps": float,
    "rss_mib": float,
    "gpu_mib": (float, type(None)),
    "miou": (float, type(None)),
}


@pytest.fixture
def frames():
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (180, 240, 3), np.uint8) for _ in range(3)]


@pytest.fixture(autouse=True)
def _short_warm_up(monkeypatch):
    monkeypatch.setattr(latency, "WARMUP_S", 0.0)


class Other(EchoEngine):
    """An echo that changes a share of its answers: each time anew, or always."""

    def __init__(self, share, always=False, precision="fp32"):
        super().__init__()
        self.precision = precision
        self._share, self._always, self._calls = share, always, 0

    def infer(self, frame_bgr):
        labels = super().infer(frame_bgr)
        self._calls += 1
        if self._always or self._calls % 2 == 0:
            count = int(self._share * labels.size)
            labels.ravel()[:count] = (labels.ravel()[:count] + 1) % 4
        return labels


def test_percentiles_of_known_latencies():
    found = summary(np.arange(1.0, 102.0))  # 1 ... 101 ms: the q-th percentile is q + 1
    assert found == {"p50": 51.0, "p90": 91.0, "p95": 96.0, "p99": 100.0, "max": 101.0, "mean": 51.0}


def test_one_outlier_is_the_maximum_and_not_the_median():
    found = summary(np.array([2.0] * 999 + [500.0]))
    assert (found["p50"], found["p99"], found["max"]) == (2.0, 2.0, 500.0)
    assert found["mean"] == pytest.approx(2.498)


def test_an_entry_has_the_contracts_fields_and_is_json(frames):
    result = measure(EchoEngine(), frames, 0.05, model="echo://")
    assert list(result)[: len(CONTRACT_FIELDS)] == list(CONTRACT_FIELDS)
    for key, kind in CONTRACT_FIELDS.items():
        assert isinstance(result[key], kind), key
    assert list(result["latency_ms"]) == ["p50", "p90", "p95", "p99", "max", "mean"]
    assert set(result["stages_ms"]) == {"resize", "network", "head", "restore"}
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_facts_known_beforehand_fill_their_fields(frames):
    facts = {"params": 10, "gmacs": 1.5, "miou": 0.5, "threads": 2}
    result = measure(EchoEngine(), frames, 0.05, facts=facts)
    assert {key: result[key] for key in facts} == facts
    assert list(result)[: len(CONTRACT_FIELDS)] == list(CONTRACT_FIELDS)


def test_latency_is_the_time_that_passes(frames):
    result = measure(EchoEngine(delay_s=0.02), frames, 0.2)
    assert result["latency_ms"]["p50"] >= 20.0
    assert result["stages_ms"]["network"] >= 20.0
    assert result["fps"] == pytest.approx(1e3 / result["latency_ms"]["mean"])
    assert result["fps"] <= 50.0
    spent_s = result["frames"] * result["latency_ms"]["mean"] / 1e3
    assert spent_s >= 0.2 * 0.8  # it fills its time
    assert result["quantiles_ms"][50] == result["latency_ms"]["p50"]
    assert len(result["quantiles_ms"]) == 101


def test_memory_is_that_of_this_process(frames):
    held = np.ones(64 * 2**20, np.uint8)
    result = measure(EchoEngine(), frames, 0.02)
    assert result["rss_mib"] > held.nbytes / 2**20
    assert result["rss_mib"] < 64 * 1024


def test_candidates_are_timed_in_turn_and_every_other_round_backwards(frames):
    order = []

    class Noted(EchoEngine):
        def __init__(self, name):
            super().__init__(delay_s=0.002)
            self.name = name

        def infer(self, frame_bgr):
            order.append(self.name)
            return super().infer(frame_bgr)

    candidates = [Candidate(name, Noted(name), frames) for name in "AB"]
    results = measure_interleaved(candidates, 0.04, lambda done, total: order.append("|"))
    slices = "".join(order).split("|")[:-1]
    assert "".join(turn[-1] for turn in slices) == "ABBAABBA"
    assert all(set(turn) == {turn[-1]} for turn in slices[1:])  # nobody runs in another's slice
    assert len(results[0]["rounds_p50_ms"]) == len(results[1]["rounds_p50_ms"]) == latency.MIN_ROUNDS
    assert [result["model"] for result in results] == ["A", "B"]


def test_rounds_keep_the_ratio(frames):
    slow, fast = EchoEngine(delay_s=0.03), EchoEngine(delay_s=0.01)
    results = measure_interleaved([Candidate("slow", slow, frames), Candidate("fast", fast, frames)], 0.3)
    ratio = np.median(np.divide(results[0]["rounds_p50_ms"], results[1]["rounds_p50_ms"]))
    assert 2.0 < ratio < 3.5


def test_every_frame_is_used(frames):
    seen = set()

    class Noted(EchoEngine):
        def infer(self, frame_bgr):
            seen.add(int(frame_bgr[0, 0, 0]))
            return super().infer(frame_bgr)

    for index, frame in enumerate(frames):
        frame[0, 0, 0] = index
    measure(Noted(), frames, 0.1)
    assert seen == {0, 1, 2}


def test_progress_ends_with_all_slices_done(frames):
    seen = []
    candidates = [Candidate("A", EchoEngine(), frames), Candidate("B", EchoEngine(), frames)]
    measure_interleaved(candidates, 0.02, lambda done, total: seen.append((done, total)))
    assert seen == [(index, 2 * latency.MIN_ROUNDS) for index in range(1, 2 * latency.MIN_ROUNDS + 1)]


def test_agreement_with_a_reference_is_reported(frames):
    result = measure(EchoEngine(), frames, 0.02, reference=EchoEngine().infer)
    assert result["agreement_with_reference"] == 1.0
    assert result["repeatability"] == 1.0
    assert measure(EchoEngine(), frames, 0.02)["agreement_with_reference"] is None


@pytest.mark.parametrize(("share", "passes"), [(0.0005, True), (0.002, False)])
def test_an_fp32_engine_that_disagrees_is_not_timed(frames, share, passes):
    engine = Other(share, always=True)
    if passes:
        found = measure(engine, frames, 0.02, reference=EchoEngine().infer)["agreement_with_reference"]
        assert 0.999 < found < 1.0
    else:
        with pytest.raises(GateError, match=r"agrees with its reference on 99\.8"):
            measure(engine, frames, 0.02, reference=EchoEngine().infer)


def test_an_int8_engine_may_differ_and_the_share_is_reported(frames):
    result = measure(Other(0.01, always=True, precision="int8"), frames, 0.02, reference=EchoEngine().infer)
    assert result["agreement_with_reference"] == pytest.approx(0.99, abs=1e-4)


@pytest.mark.parametrize("hint", ["bf16", "f32"])
def test_what_is_rounded_by_a_hint_is_not_held_to_fp32(frames, hint):
    engine = Other(0.01, always=True)
    candidate = Candidate("x", engine, frames, EchoEngine().infer, precision_hint=hint)
    if hint == "f32":
        with pytest.raises(GateError, match="in fp32; export it again"):
            measure_interleaved([candidate], 0.02)
        return
    (result,) = measure_interleaved([candidate], 0.02)
    assert (result["precision"], result["precision_hint"]) == ("fp32", "bf16")
    assert result["agreement_with_reference"] == pytest.approx(0.99, abs=1e-4)
    assert measure(EchoEngine(), frames, 0.02)["precision_hint"] is None


def test_an_engine_that_contradicts_itself_is_not_timed(frames):
    with pytest.raises(GateError, match="contradicts itself"):
        measure(Other(0.01), frames, 0.02)


def test_an_engine_that_answers_in_another_size_is_not_timed(frames):
    class Small(EchoEngine):
        def infer(self, frame_bgr):
            return super().infer(frame_bgr)[::2, ::2]

    with pytest.raises(EngineError, match="expected uint8 of the frame's size"):
        measure(Small(), frames, 0.02)


@pytest.mark.parametrize("duration_s", [0.0, -1.0, math.inf, math.nan])
def test_a_duration_that_means_nothing_is_refused(frames, duration_s):
    with pytest.raises(UsageError, match="duration"):
        measure(EchoEngine(), frames, duration_s)


def test_nothing_to_time_is_refused():
    with pytest.raises(UsageError, match="nothing to time"):
        measure_interleaved([], 1.0)
    with pytest.raises(UsageError, match="nothing to time"):
        measure(EchoEngine(), [], 1.0)


class Counting(EchoEngine):
    """Counts its frames; every third one has a slow network."""

    calls = 0

    def infer(self, frame_bgr):
        labels = super().infer(frame_bgr)
        self.calls += 1
        self.stages_ms["network"] = 100.0 if self.calls % 3 == 0 else 1.0
        return labels


@pytest.mark.parametrize(("count", "first_of_turns"), [(1, 0), (2, latency.MIN_ROUNDS)])
def test_engines_are_checked_and_warm_before_they_are_timed(frames, monkeypatch, count, first_of_turns):
    """With others between its turns an engine's caches are cold: the first frame of each turn does not count."""
    monkeypatch.setattr(latency, "WARMUP_S", 60.0)  # so it is the duration: over before ten frames of 12 ms
    engines = [Counting(delay_s=0.012) for _ in range(count)]
    results = measure_interleaved([Candidate("x", engine, frames) for engine in engines], 0.1)
    for engine, result in zip(engines, results, strict=True):
        untimed = engine.calls - result["frames"]
        assert untimed == 2 * latency.CHECKED_FRAMES + latency.WARMUP_FRAMES + first_of_turns


@pytest.mark.parametrize(
    ("frame_s", "seconds", "expected"),
    [
        (0.01, 1.0, 100),  # ten frames of a quick engine are over before the clocks have settled
        (0.5, 1.0, 10),  # ten, though the second is over
        (3.0, 1.0, 4),  # and no longer than ten seconds
        (0.01, 0.05, 10),
    ],
)
def test_a_warm_up_lasts_for_its_time_and_its_frames(frames, monkeypatch, frame_s, seconds, expected):
    now = [0.0]

    class Slow(EchoEngine):
        def infer(self, frame_bgr):
            now[0] += frame_s
            return super().infer(frame_bgr)

    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])
    latency._warm_up(Candidate("x", Slow(), frames), seconds)
    assert now[0] / frame_s == pytest.approx(expected, abs=1)  # sums of floats


def test_a_warm_up_is_no_longer_than_the_timing(monkeypatch):
    monkeypatch.setattr(latency, "WARMUP_S", 1.0)
    assert (latency.warm_up_s(10.0), latency.warm_up_s(0.1)) == (1.0, 0.1)


def test_stages_are_medians(frames):
    assert measure(Counting(), frames, 0.05)["stages_ms"]["network"] == 1.0


def test_stages_have_percentiles(frames):
    result = measure(Counting(), frames, 0.05)
    assert set(result["stages_latency_ms"]) == set(result["stages_ms"])
    network = result["stages_latency_ms"]["network"]
    assert list(network) == list(result["latency_ms"])
    assert (network["p50"], network["p90"], network["p95"], network["p99"]) == (1.0, 100.0, 100.0, 100.0)
    assert {stage: found["p50"] for stage, found in result["stages_latency_ms"].items()} == result["stages_ms"]
