"""How fast the CUDA skip head is against PyTorch and against a copy of its bytes; knows nothing about backbones.

Run as ``python -m fcn_edge.benchmarks.skip_head_cuda LIBRARY`` on a machine with an NVIDIA GPU and PyTorch for CUDA.
Labels are compared with the NumPy reference first. Then every contender is captured into a CUDA graph that runs over
so many sets of buffers that none is still in the GPU's L2 cache when its turn comes again, and the graphs are replayed
in turn: what is timed is the GPU's work, from memory, without the host's. ``host_us`` is the other figure, what one
call costs its caller when it is not captured.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from ..errors import FcnEdgeError, GateError, MissingError
from ..skip_head import Floats, Labels, skip_head
from .cuda_launcher import CudaLauncher, open_launcher
from .head_case import STRIDES, Case, differing_pixels, make_case
from .record import machine_facts, write_record

SIZES_HW = ((360, 480), (512, 1024), (1024, 2048))
CLASSES = (11, 19)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
FUSED, COPY = "fused", "copy of as many bytes"
ROUNDS, QUICK_ROUNDS = 40, 8
MAX_SETS = 512
HOST_CALLS = 200


@dataclass(frozen=True)
class Buffers:
    """One set of what a call reads and writes.

    Attributes:
        scores: ``[1, C, h_i, w_i]`` for each stage.
        kernels: ``[C, 1, 4, 4]``, last ``[C, 1, 2s, 2s]``; of the scores' type.
        labels: uint8 ``[1, H, W]``.
    """

    scores: list[torch.Tensor]
    kernels: list[torch.Tensor]
    labels: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes that a call must move at least: everything once."""
        return sum(tensor.nbytes for tensor in (*self.scores, *self.kernels, self.labels))


def rounded_case(case: Case, dtype: torch.dtype) -> Case:
    """The case with its numbers rounded to ``dtype`` and widened again: what a kernel of that type really sees."""

    def rounded(arrays: Sequence[Floats]) -> list[Floats]:
        return [torch.from_numpy(array).to(dtype).float().numpy() for array in arrays]

    return Case(case.size_hw, rounded(case.scores), rounded(case.kernels))


def make_buffers(case: Case, dtype: torch.dtype, device: str) -> Buffers:
    """Tensors of ``case`` on ``device``."""

    def moved(arrays: Sequence[Floats]) -> list[torch.Tensor]:
        return [torch.from_numpy(array).to(device, dtype).contiguous() for array in arrays]

    labels = torch.zeros((1, *case.size_hw), dtype=torch.uint8, device=device)
    return Buffers(moved(case.scores), moved(case.kernels), labels)


def torch_head(buffers: Buffers) -> torch.Tensor:
    """The same function in PyTorch's operators: uint8 ``[1, H, W]``."""
    total = buffers.scores[0]
    groups = total.shape[1]
    for kernel, finer in zip(buffers.kernels[:-1], buffers.scores[1:], strict=True):
        total = F.conv_transpose2d(total, kernel, stride=2, padding=1, groups=groups) + finer
    s = buffers.kernels[-1].shape[-1] // 2
    full = F.conv_transpose2d(total, buffers.kernels[-1], stride=s, padding=s // 2, groups=groups)
    height, width = buffers.labels.shape[1:]
    return full[:, :, :height, :width].argmax(1).to(torch.uint8)


def number_of_sets(nbytes: int, l2_bytes: int) -> int:
    """Sets of buffers to go round in, so that together they are at least three times the L2 cache."""
    return max(2, min(MAX_SETS, -(-3 * l2_bytes // nbytes)))


def check(case: Case, labels: Labels, name: str) -> int:
    """Pixels in which ``labels`` differ from the reference, all of them ties.

    Raises:
        GateError: if they differ in a pixel that is no tie.
    """
    pixels, wrong = differing_pixels(case, labels, skip_head(case.scores, case.kernels, case.size_hw))
    if wrong:
        raise GateError(f"{name} differs from the reference in {wrong} pixels that are no ties; nothing was timed")
    return pixels


def summary(us: Sequence[float], nbytes: int) -> dict[str, float]:
    """Percentiles of the times, and the bytes per second that the median stands for."""
    low, middle, high = (float(value) for value in np.percentile(us, (0, 50, 90)))
    return {"min": low, "p50": middle, "p90": high, "gb_per_s": nbytes / middle / 1e3}


def contenders(launcher: CudaLauncher) -> dict[str, Callable[[Buffers], Any]]:
    """Name of each way to the labels, and what queues it on the current stream."""
    compiled = torch.compile(torch_head, dynamic=False)

    def fused(buffers: Buffers) -> torch.Tensor:
        size_hw = (buffers.labels.shape[1], buffers.labels.shape[2])
        stream = torch.cuda.current_stream().cuda_stream
        return launcher(buffers.scores, buffers.kernels, size_hw, buffers.labels, stream)

    return {
        FUSED: fused,
        "PyTorch, eager": lambda buffers: buffers.labels.copy_(torch_head(buffers)),
        "PyTorch, compiled": lambda buffers: buffers.labels.copy_(compiled(buffers)),
    }


def _captured(call: Callable[[Buffers], Any], sets: Sequence[Buffers]) -> torch.cuda.CUDAGraph:
    side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):  # warm-up outside the capture: PyTorch chooses algorithms and allocates
        for _ in range(3):
            call(sets[0])
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for buffers in sets:
            call(buffers)
    return graph


def _copying(nbytes: int, count: int) -> tuple[Callable[[int], Any], int]:
    """A copy that reads and writes ``nbytes`` in all, over ``count`` places."""
    half = max(16, nbytes // 2)
    source = torch.zeros((count, half), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return lambda i: target[i].copy_(source[i]), 2 * half


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _time_graphs(graphs: dict[str, torch.cuda.CUDAGraph], calls: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds of one call, for each round; the graphs take turns."""
    us: dict[str, list[float]] = {name: [] for name in graphs}
    for round_index in range(rounds):
        for name in graphs if round_index % 2 == 0 else reversed(list(graphs)):
            begin, end = _event(), _event()
            graphs[name].replay()  # brings the clock up, and the buffers of the others out of the cache
            begin.record()
            graphs[name].replay()
            end.record()
            end.synchronize()
            us[name].append(begin.elapsed_time(end) * 1e3 / calls)
    return us


def _host_us(call: Callable[[Buffers], Any], buffers: Buffers) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter_ns()
    for _ in range(HOST_CALLS):
        call(buffers)
    torch.cuda.synchronize()
    return (time.perf_counter_ns() - start) / 1e3 / HOST_CALLS


def bench_case(case: Case, precision: str, launcher: CudaLauncher, rounds: int) -> dict[str, Any]:
    """Check and time one case on the current GPU.

    Returns:
        ``size_hw``, ``classes``, ``strides``, ``precision``, ``bytes``, ``sets``, ``differing_pixels`` (fused against
        the reference, all of them ties), ``us`` (``min``, ``p50``, ``p90``, ``gb_per_s`` of each contender and of the
        copy) and ``host_us`` (of each contender).

    Raises:
        GateError: if the fused labels are wrong; nothing is timed then.
    """
    dtype = DTYPES[precision]
    seen = rounded_case(case, dtype)
    calls = contenders(launcher)
    first = make_buffers(seen, dtype, "cuda")
    calls[FUSED](first)
    differing = check(seen, first.labels.cpu().numpy(), f"the fused head in {precision}")

    l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size
    sets = [make_buffers(seen, dtype, "cuda") for _ in range(number_of_sets(first.nbytes, l2_bytes))]
    graphs = {name: _captured(call, sets) for name, call in calls.items()}
    copy, copied = _copying(first.nbytes, len(sets))
    places = {id(buffers): i for i, buffers in enumerate(sets)}
    graphs[COPY] = _captured(lambda buffers: copy(places[id(buffers)]), sets)
    us = _time_graphs(graphs, len(sets), rounds)
    return {
        "size_hw": list(case.size_hw),
        "classes": case.scores[0].shape[1],
        "strides": list(STRIDES),
        "precision": precision,
        "bytes": first.nbytes,
        "sets": len(sets),
        "differing_pixels": differing,
        "us": {name: summary(times, copied if name == COPY else first.nbytes) for name, times in us.items()},
        "host_us": {name: _host_us(call, first) for name, call in calls.items()},
    }


def peak_copy_gb_per_s(nbytes: int = 1 << 30, repeats: int = 20) -> float:
    """Bytes read and written per second by the fastest of some large copies on the GPU."""
    source = torch.zeros(nbytes, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(repeats):
        begin, end = _event(), _event()
        begin.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end))
    return 2 * nbytes / best / 1e6


def table(results: Sequence[dict[str, Any]], peak: float) -> Table:
    """Median microseconds of every case, and how near the fused head comes to a copy of as many bytes."""
    shown = Table(title=f"Skip head, median µs on the GPU (a large copy moves {peak:.0f} GB/s)")
    names = list(results[0]["us"])
    for column in ("case", *names, "of the copy's speed"):
        shown.add_column(column, justify="left" if column == "case" else "right")
    for result in results:
        height, width = result["size_hw"]
        times = [result["us"][name]["p50"] for name in names]
        share = result["us"][FUSED]["gb_per_s"] / result["us"][COPY]["gb_per_s"]
        case = f"{height}x{width}, {result['classes']} classes, {result['precision']}"
        shown.add_row(case, *(f"{us:.1f}" for us in times), f"{share:.0%}")
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fcn_edge.benchmarks.skip_head_cuda", description=__doc__)
    parser.add_argument("library", type=Path, metavar="LIBRARY", help="libfcn_edge_cuda.so or libfcn_edge_plugin.so")
    parser.add_argument("--precision", choices=list(DTYPES), action="append", help="of scores and kernels (both)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a look, not for a claim")
    parser.add_argument("-o", dest="record", type=Path, metavar="FILE.json", help="write a record with machine facts")
    args = parser.parse_args(arguments)
    console = Console(stderr=True)
    try:
        launcher = open_launcher(args.library)
        if not torch.cuda.is_available():
            raise MissingError("PyTorch sees no NVIDIA GPU; run this on a machine with one and PyTorch built for CUDA")
        peak = peak_copy_gb_per_s()
        results = []
        for size_hw, classes, precision in itertools.product(SIZES_HW, CLASSES, args.precision or DTYPES):
            console.log(f"{size_hw[0]}x{size_hw[1]}, {classes} classes, {precision}")
            rounds = QUICK_ROUNDS if args.quick else ROUNDS
            results.append(bench_case(make_case(size_hw, classes), precision, launcher, rounds))
        if args.record:
            recorded = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
            payload = {"benchmark": "skip_head_cuda", "recorded": recorded, "machine": machine_facts()}
            write_record(args.record, {**payload, "copy_gb_per_s": peak, "results": results})
    except FcnEdgeError as exc:
        console.print(f"error: {exc}", style="red", markup=False)
        return exc.exit_code
    Console().print(table(results, peak))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
