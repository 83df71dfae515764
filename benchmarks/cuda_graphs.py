"""Calls captured into CUDA graphs, checked copies, and clocks for both sides; knows nothing about what is computed."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from ..errors import GateError, MissingError

ALIGNMENT = 512
"""Bytes; allocations of CUDA begin at multiples of it."""

WARM_UP_CALLS = 3
HOST_CALLS, HOST_ROUNDS = 20, 9
PEAK_BYTES, PEAK_COPIES = 1 << 30, 20
LEAST_ROUNDS, ROUNDS_SECONDS = 3, 4.0

Place = TypeVar("Place")


def require_gpu() -> None:
    """Do nothing where PyTorch sees a GPU.

    Raises:
        MissingError: where it sees none.
    """
    if not torch.cuda.is_available():
        raise MissingError("PyTorch sees no NVIDIA GPU; run this on a machine with one and PyTorch built for CUDA")


def stream_handle() -> int:
    """The current stream, as CUDA's own functions take it."""
    return int(torch.cuda.current_stream().cuda_stream)


def l2_bytes() -> int:
    """The GPU's L2 cache."""
    return int(torch.cuda.get_device_properties(0).L2_cache_size)


def free_bytes() -> int:
    """GPU memory that nobody holds; what PyTorch keeps for later is given back first."""
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


@dataclass(frozen=True)
class Captured:
    """A graph of one call for each place; it holds the call and the places, whose memory the graph uses."""

    graph: torch.cuda.CUDAGraph
    call: Callable[[Any], Any]
    places: Sequence[Any]

    def replay(self) -> None:
        """Queue all the calls on the current stream."""
        self.graph.replay()


def captured(call: Callable[[Place], Any], places: Sequence[Place]) -> Captured:
    """Capture one call for each place."""
    side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # warm-up outside the capture: PyTorch compiles, chooses algorithms and allocates
        for _ in range(WARM_UP_CALLS):
            call(places[0])
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for place in places:
            call(place)
    return Captured(graph, call, places)


def aligned(nbytes: int) -> int:
    """``nbytes`` rounded up to a multiple of ``ALIGNMENT``."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def random_bytes(rows: int, columns: int, device: str = "cuda") -> torch.Tensor:
    """Uint8 ``[rows, columns]``: zeros would be cheaper to move on a GPU that compresses, and to switch on any."""
    return torch.randint(0, 256, (rows, columns), dtype=torch.uint8, device=device)


def copy_graph(length: int, count: int) -> Captured:
    """A graph of ``count`` copies of ``length`` bytes each, all of different, aligned places.

    Raises:
        GateError: if a replay does not copy them.
    """
    source = random_bytes(count, aligned(length))
    target = torch.zeros_like(source)
    graph = captured(lambda i: target[i, :length].copy_(source[i, :length]), range(count))
    target.zero_()
    graph.replay()
    if not torch.equal(source[:, :length], target[:, :length]):
        raise GateError(f"a graph of {count} copies of {length} bytes did not copy them; nothing was timed")
    return graph


def replay_us(graphs: Mapping[str, Captured], calls: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds of one of a graph's ``calls`` by the GPU's clock, for each round; the graphs take turns.

    After ``ROUNDS_SECONDS`` no further round begins, but there are ``LEAST_ROUNDS``.
    """
    us: dict[str, list[float]] = {name: [] for name in graphs}
    start = time.perf_counter_ns()
    for round_index in range(rounds):
        if round_index >= LEAST_ROUNDS and time.perf_counter_ns() - start > ROUNDS_SECONDS * 1e9:
            break
        for name in graphs if round_index % 2 == 0 else reversed(list(graphs)):
            begin, end = _event(), _event()
            graphs[name].replay()  # brings the clock up, and the buffers of the others out of the cache
            begin.record()
            graphs[name].replay()
            end.record()
            end.synchronize()
            us[name].append(begin.elapsed_time(end) * 1e3 / calls)
    return us


def call_seconds(call: Callable[[], Any]) -> float:
    """Seconds until the GPU has done the second call; the first compiles and allocates."""
    call()
    torch.cuda.synchronize()
    start = time.perf_counter_ns()
    call()
    torch.cuda.synchronize()
    return (time.perf_counter_ns() - start) / 1e9


def host_us(call: Callable[[], Any]) -> float:
    """Microseconds that a call keeps its caller, who does not wait for the GPU: median of ``HOST_ROUNDS``.

    A round is ``HOST_CALLS`` calls, few enough for the GPU's queue to take them all without making the caller wait.
    """
    rounds = []
    for _ in range(1 + HOST_ROUNDS):
        torch.cuda.synchronize()
        start = time.perf_counter_ns()
        for _ in range(HOST_CALLS):
            call()
        rounds.append(time.perf_counter_ns() - start)
    torch.cuda.synchronize()
    return statistics.median(rounds[1:]) / 1e3 / HOST_CALLS  # the first was warm-up: it allocates


def peak_copy_gb_per_s() -> float:
    """Bytes read and written per second by the fastest of some large copies on the GPU."""
    nbytes = min(PEAK_BYTES, free_bytes() // 4)
    source = random_bytes(1, nbytes)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(PEAK_COPIES):
        begin, end = _event(), _event()
        begin.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end))
    return 2 * nbytes / best / 1e6


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
