"""Copies and clocks of the CUDA benchmark: what can be seen of them without a GPU, the rest where there is one."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from fcn_edge.benchmarks import cuda_graphs
from fcn_edge.errors import GateError


class HostGraph:
    """Calls that are made when they are replayed, but for the last few."""

    missing = 0

    def __init__(self, call, places):
        self.call, self.places = call, places

    def replay(self) -> None:
        for place in self.places[: len(self.places) - self.missing]:
            self.call(place)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Copies are made on the host; the random bytes that were drawn."""
    drawn = []
    random_bytes = cuda_graphs.random_bytes

    def random_on_host(rows: int, columns: int) -> torch.Tensor:
        drawn.append(random_bytes(rows, columns, "cpu"))
        return drawn[-1]

    monkeypatch.setattr(cuda_graphs, "random_bytes", random_on_host)
    monkeypatch.setattr(cuda_graphs, "captured", HostGraph)
    return drawn


def test_alignment():
    assert [cuda_graphs.aligned(nbytes) for nbytes in (1, 16, 511, 512, 513, 1024)] == [512] * 4 + [1024] * 2


def test_rows_of_a_copy_are_aligned_and_random(host):
    cuda_graphs.copy_graph(700, 5)
    assert host[0].shape == (5, 1024)
    assert len(host[0].unique()) > 200


def test_only_the_bytes_asked_for_are_copied(host):
    graph = cuda_graphs.copy_graph(16, 3)
    assert host[0].shape == (3, 512)
    assert graph.call(1).shape == (16,)


def test_a_copy_that_does_not_copy_is_refused(host, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(HostGraph, "missing", 1)
    with pytest.raises(GateError, match="a graph of 4 copies of 600 bytes did not copy them"):
        cuda_graphs.copy_graph(600, 4)


def test_host_time_is_the_callers_alone(monkeypatch: pytest.MonkeyPatch):
    """A call takes 3 us, waiting for the GPU a millisecond, the first calls longer, one round is disturbed."""
    now_ns, calls = 0, 0

    def spend(ns: int) -> None:
        nonlocal now_ns
        now_ns += ns

    def call() -> None:
        nonlocal calls
        calls += 1
        disturbed = calls <= cuda_graphs.HOST_CALLS or calls == 5 * cuda_graphs.HOST_CALLS
        spend(90_000 if disturbed else 3_000)

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: spend(1_000_000))
    monkeypatch.setattr(cuda_graphs.time, "perf_counter_ns", lambda: now_ns)
    assert cuda_graphs.host_us(call) == pytest.approx(3.0)
    assert calls == cuda_graphs.HOST_CALLS * (1 + cuda_graphs.HOST_ROUNDS)


def test_seconds_of_a_call_are_the_second_ones_with_the_gpus(monkeypatch: pytest.MonkeyPatch):
    now_ns = 0
    times_ns = iter((9_000_000, 5_000_000))

    def spend(ns: int) -> None:
        nonlocal now_ns
        now_ns += ns

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: spend(1_000_000))
    monkeypatch.setattr(cuda_graphs.time, "perf_counter_ns", lambda: now_ns)
    assert cuda_graphs.call_seconds(lambda: spend(next(times_ns))) == pytest.approx(0.006)


class Clock:
    """A replay that takes as many milliseconds as it has calls, and the events that see it."""

    now_ms = 0.0
    replayed: tuple[str, ...] = ()

    def __init__(self, name: str = "", ms: float = 0):
        self.name, self.ms = name, ms

    def replay(self) -> None:
        Clock.now_ms += self.ms
        Clock.replayed += (self.name,)

    def record(self) -> None:
        self.at_ms = Clock.now_ms

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end) -> float:
        return end.at_ms - self.at_ms


def test_graphs_are_replayed_in_turn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuda_graphs, "_event", Clock)
    us = cuda_graphs.replay_us({"a": Clock("a", 4.0), "b": Clock("b", 6.0)}, calls=2, rounds=3)
    assert us == {"a": [2000.0] * 3, "b": [3000.0] * 3}
    assert Clock.replayed == tuple("aabbbbaaaabb")


def test_slow_graphs_have_few_rounds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuda_graphs, "_event", Clock)
    monkeypatch.setattr(cuda_graphs.time, "perf_counter_ns", lambda: Clock.now_ms * 1e6)
    assert len(cuda_graphs.replay_us({"a": Clock("a", 4000.0)}, calls=1, rounds=40)["a"]) == 3
    assert len(cuda_graphs.replay_us({"a": Clock("a", 400.0)}, calls=1, rounds=40)["a"]) == 6
    assert len(cuda_graphs.replay_us({"a": Clock("a", 1.0)}, calls=1, rounds=40)["a"]) == 40


@pytest.mark.gpu("torch")
def test_a_graph_keeps_its_memory_and_makes_every_call():
    source = torch.arange(6, device="cuda")
    target = torch.zeros_like(source)
    graph = cuda_graphs.captured(lambda i: target[i].copy_(source[i]), range(6))
    target.zero_()
    graph.replay()
    assert target.tolist() == source.tolist()
    assert cuda_graphs.free_bytes() > 0
    assert cuda_graphs.l2_bytes() > 0
    assert cuda_graphs.peak_copy_gb_per_s() > 1
    us = cuda_graphs.replay_us(
        {"large": cuda_graphs.copy_graph(1 << 26, 4), "small": cuda_graphs.copy_graph(16, 4)}, 4, 9
    )
    assert 0 < min(us["small"]) < min(us["large"])
    assert cuda_graphs.host_us(lambda: target.copy_(source)) > 0
