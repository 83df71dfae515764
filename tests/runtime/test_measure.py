from __future__ import annotations

import numpy as np
import pytest

from fcn_edge.runtime.measure import Latencies, Link, Meter, Percentiles


@pytest.mark.parametrize("seed", range(3))
def test_percentiles_are_within_half_a_percent(seed):
    values = np.random.default_rng(seed).lognormal(2.5, 1.0, 5000)
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
