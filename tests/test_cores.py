"""Cores that a process may use: at least one, and no more than a container's limit."""

from __future__ import annotations

import pytest

from fcn_edge.cores import cpu_limit, physical_cores


def test_physical_cores_are_at_least_one():
    assert 1 <= physical_cores() <= 4096


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
