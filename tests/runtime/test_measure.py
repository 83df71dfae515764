from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from fcn_edge.runtime import measure
from fcn_edge.runtime.frame import Frame
from fcn_edge.runtime.measure import Latencies, Link, Meter, Percentiles


@pytest.mark.parametrize("seed", range(3))
def test_percentiles_are_within_half_a_percent(seed):
    values = np.random.default_rng(seed).lognormal(2.5, 1.0, 99)  # few, and no whole number of them is a percentile
    latencies = Latencies()
    for value in values:
        latencies.add(float(value))
    found = latencies.percentiles()
    for percent, got in ((50, found.p50), (90, found.p90), (95, found.p95), (99, found.p99)):
        assert got == pytest.approx(np.percentile(values, percent, method="inverted_cdf"), rel=0.005)
    assert found.max == values.max()
    assert found.mean == pytest.approx(values.mean())


@pytest.mark.parametrize("value", [0.0, 1e-9, 3.7, 1e9])
def test_one_value_is_every_percentile(value):
    latencies = Latencies()
    latencies.add(value)
    assert latencies.percentiles() == Percentiles(value, value, value, value, value, value)


def test_nothing_measured_is_none_not_zero():
    assert Latencies().percentiles() == Percentiles()
    summary = Meter("list", None).summary("eof", Link()).to_dict()
    assert summary["latency_ms"]["p95"] is None
    assert (summary["fps"], summary["frames_out"]) == (0.0, 0)


def test_a_status_tells_of_the_time_since_the_one_before(monkeypatch):
    now = 100.0
    clock = SimpleNamespace(monotonic=lambda: now, monotonic_ns=lambda: int(now * 1e9))
    monkeypatch.setattr(measure, "time", clock)

    def add(age_s, latency_s):
        meter.add(Frame(np.zeros((1, 1, 3), np.uint8), 0, int((now - age_s) * 1e9), "x"), latency_s)

    meter = Meter("cam", None)
    now, meter.dropped = 101.0, 3
    add(0.2, 0.05)
    now = 102.0
    first = meter.status(Link())
    now = 103.0
    add(0.1, 0.01)
    now = 104.0
    second = meter.status(Link())
    now = 105.0
    third, summary = meter.status(Link()), meter.summary("eof", Link())
    assert [status.elapsed_s for status in (first, second, third)] == [2.0, 4.0, 5.0]
    assert [(status.frames_in, status.frames_out) for status in (first, second, third)] == [(4, 1), (5, 2), (5, 2)]
    assert [(status.fps_in, status.fps) for status in (first, second, third)] == [(2.0, 0.5), (0.5, 0.5), (0.0, 0.0)]
    assert [status.latency_p95_ms for status in (first, second)] == pytest.approx([50, 10], rel=0.005)
    assert [status.age_p95_ms for status in (first, second)] == pytest.approx([200, 100], rel=0.005)
    assert (third.latency_p95_ms, third.age_p95_ms) == (None, None)
    assert summary.fps == pytest.approx(2 / 3), "to the last result: what came after it was the end"
    assert (summary.latency_ms.max, summary.frames_in) == (50, 5)
