"""Cores that a process may use: at least one, and no more than a container's limit."""

from __future__ import annotations

import numpy as np
import pytest

from fcn_edge.cores import MAX_THREADS, cpu_limit, physical_cores, require_threads
from fcn_edge.errors import UsageError


def test_physical_cores_are_at_least_one():
    assert 1 <= physical_cores() <= 4096


def test_threads_are_a_whole_number() -> None:
    assert require_threads(None) == physical_cores()
    assert [require_threads(count) for count in (1, np.int64(2), MAX_THREADS)] == [1, 2, MAX_THREADS]
    assert type(require_threads(np.uint8(3))) is int
    for bad in (0, -1, MAX_THREADS + 1, 10**6, 1.0, 1.5, np.float32(1), True, np.True_, "2", [1]):
        with pytest.raises(UsageError, match="threads; give a whole number from 1 to 1024"):
            require_threads(bad)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "?"}, None),
        ({}, None),
    ],
)
def test_a_container_may_have_fewer_cpus_than_it_sees(tmp_path, monkeypatch, files, limit):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_limit(tmp_path) == limit
    monkeypatch.setattr("fcn_edge.cores.cpu_limit", lambda: limit)
    assert 1 <= physical_cores() <= (limit or 4096)
