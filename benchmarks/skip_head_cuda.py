"""How fast the CUDA skip head is against PyTorch and against a copy of its bytes; knows nothing about backbones.

Run as ``python -m fcn_edge.benchmarks.skip_head_cuda LIBRARY`` on a machine with an NVIDIA GPU and PyTorch for CUDA.
Every contender is captured into a CUDA graph that runs over so many sets of buffers that none is still in the GPU's L2
cache when its turn comes again. Each graph is replayed once and its labels are compared with the NumPy reference; then
the graphs are replayed in turn: what is timed is what was checked, the GPU's work, from memory, without the host's.
``host_us`` is the other figure, how long one call keeps its caller when it is not captured.

One image is so few bytes that a large GPU spends the time on starting kernels: a copy of 16 bytes is timed beside, and
bandwidths are told for batches only.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from ..errors import FcnEdgeError, GateError
from ..skip_head import Floats, Labels, skip_head
from . import cuda_graphs
from .cuda_launcher import CudaLauncher, open_launcher
from .head_case import HEADS, Case, differing_pixels, head_name, make_case
from .record import machine_facts, today, write_record
from .report import told

CLASSES = (11, 19)
SINGLE = tuple((1, size_hw, classes) for size_hw in ((360, 480), (512, 1024), (1024, 2048)) for classes in CLASSES)
LARGE = ((40, (1024, 2048), 11), (32, (1024, 2048), 19))
"""(images, size, classes), each more than ``BANDWIDTH_BYTES``, in FP16 too."""

BANDWIDTH_BYTES = 100_000_000
SLOW_S = 0.2
"""A contender that takes longer for one call is left out, and how long it took is told instead."""

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
DEVICE = "cuda"
FUSED, EAGER, COMPILED = "fused", "PyTorch, eager", "PyTorch, compiled"
COPY, NODE = "copy", "16-byte copy"
ROUNDS, QUICK_ROUNDS = 40, 8
MAX_SETS = 512
UNWRITTEN = 255


@dataclass(frozen=True)
class Buffers:
    """One set of what a call reads and writes.

    Attributes:
        scores: ``[N, C, h_i, w_i]`` for each stage.
        kernels: ``[C, 1, 4, 4]``, last ``[C, 1, 2s, 2s]``; of the scores' type.
        labels: uint8 ``[N, H, W]``.
    """

    scores: list[torch.Tensor]
    kernels: list[torch.Tensor]
    labels: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes that a call must move at least: everything once."""
        return sum(tensor.nbytes for tensor in (*self.scores, *self.kernels, self.labels))

    @property
    def torch_nbytes(self) -> int:
        """Bytes that PyTorch may take besides, estimated: sums at full resolution and int64 ids, four times.

        Two graphs keep theirs, a call outside them has its own, and cuDNN may want room of that order.
        """
        return 4 * self.labels.numel() * (self.scores[0].shape[1] * self.scores[0].itemsize + 8)


def rounded_case(case: Case, dtype: torch.dtype) -> Case:
    """The case with its numbers rounded to ``dtype`` and widened again: what a kernel of that type really sees."""

    def rounded(arrays: Sequence[Floats]) -> list[Floats]:
        return [torch.from_numpy(array).to(dtype).float().numpy() for array in arrays]

    return Case(case.size_hw, rounded(case.scores), rounded(case.kernels))


def make_buffers(case: Case, dtype: torch.dtype, device: str) -> Buffers:
    """Tensors of ``case`` on ``device``, the labels not written yet."""

    def moved(arrays: Sequence[Floats]) -> list[torch.Tensor]:
        return [torch.from_numpy(array).to(device, dtype).contiguous() for array in arrays]

    shape = (case.scores[0].shape[0], *case.size_hw)
    return Buffers(moved(case.scores), moved(case.kernels), torch.full(shape, UNWRITTEN, dtype=torch.uint8).to(device))


def torch_head(buffers: Buffers) -> torch.Tensor:
    """The same function in PyTorch's operators; returns ``buffers.labels``.

    The ids are cast while they are written: argmax takes no uint8 output, but a compiler makes one kernel of the two.
    """
    total = buffers.scores[0]
    groups = total.shape[1]
    for kernel, finer in zip(buffers.kernels[:-1], buffers.scores[1:], strict=True):
        total = F.conv_transpose2d(total, kernel, stride=2, padding=1, groups=groups) + finer
    s = buffers.kernels[-1].shape[-1] // 2
    full = F.conv_transpose2d(total, buffers.kernels[-1], stride=s, padding=s // 2, groups=groups)
    height, width = buffers.labels.shape[1:]
    return buffers.labels.copy_(full[:, :, :height, :width].argmax(1))


def compiled_torch_head() -> Callable[[Buffers], torch.Tensor]:
    """``torch_head``, compiled anew when it is called first.

    Dynamo counts what it compiled of one function, and after eight sizes runs the function as it is, with nothing but
    a warning: what was compiled before is forgotten here, and ``fullgraph`` makes an error of anything not compiled.
    """
    torch._dynamo.reset()
    return torch.compile(torch_head, dynamic=False, fullgraph=True)


def contenders(launcher: CudaLauncher) -> dict[str, Callable[[Buffers], Any]]:
    """Name of each way to the labels, and what queues it on the current stream; the fused one comes first."""

    def fused(buffers: Buffers) -> torch.Tensor:
        size_hw = (buffers.labels.shape[1], buffers.labels.shape[2])
        return launcher(buffers.scores, buffers.kernels, size_hw, buffers.labels, cuda_graphs.stream_handle())

    return {FUSED: fused, EAGER: torch_head, COMPILED: compiled_torch_head()}


def number_of_sets(nbytes: int, l2_bytes: int) -> int:
    """Sets of buffers to go round in, so that together they are at least three times the L2 cache."""
    return max(2, min(MAX_SETS, -(-3 * l2_bytes // nbytes)))


def check(case: Case, labels: Labels, expected: Labels, name: str, is_exact: bool = True) -> int:
    """Pixels in which ``labels`` differ from the reference's; all of them ties if the arithmetic ``is_exact``.

    Raises:
        GateError: if a pixel is no class, or differs and is no tie though the arithmetic is exact.
    """
    none = int((labels >= case.scores[0].shape[1]).sum())
    if none:
        raise GateError(f"{name} gives {none} pixels an id that is no class; it was not timed")
    if not is_exact:
        return int((labels != expected).sum())
    pixels, wrong = differing_pixels(case, labels, expected)
    if wrong:
        raise GateError(f"{name} differs from the reference in {wrong} pixels that are no ties; it was not timed")
    return pixels


def checked_replay(
    graph: cuda_graphs.Captured, sets: Sequence[Buffers], case: Case, expected: Labels, name: str, is_exact: bool
) -> int:
    """Replay a graph over labels that say nothing and :func:`check` every set; returns the pixels of the worst."""
    for buffers in sets:
        buffers.labels.fill_(UNWRITTEN)
    graph.replay()
    answers = (buffers.labels.cpu().numpy() for buffers in sets)
    different = {labels.tobytes(): labels for labels in answers}  # all alike, unless sums differ from call to call
    return max(check(case, labels, expected, name, is_exact) for labels in different.values())


def percentiles(us: Sequence[float]) -> dict[str, float]:
    """``min``, ``p50`` and ``p90`` of some times."""
    low, middle, high = (float(value) for value in np.percentile(us, (0, 50, 90)))
    return {"min": low, "p50": middle, "p90": high}


def too_little(needed: int, free: int) -> str:
    """A sentence if ``needed`` bytes are more than are free, else nothing."""
    return f"needs about {needed / 1e9:.2f} GB of GPU memory, {free / 1e9:.2f} GB are free" if needed > free else ""


def failure_sentence(exc: Exception) -> str:
    """What the record tells of a failure: its first line, without folders, which may name a user."""
    return re.sub(r"/\S*/", "", f"{type(exc).__name__}: {exc}".splitlines()[0])


def bench_case(case: Case, precision: str, launcher: CudaLauncher, rounds: int) -> dict[str, Any]:
    """Check and time one case on the current GPU.

    PyTorch computes FP32 without TF32, which would change labels, and by the algorithms that cuDNN finds fastest. A
    contender of PyTorch's that fails is left out.

    Returns:
        ``batch``, ``size_hw``, ``classes``, ``strides``, ``precision``, ``bytes`` (of one call), ``sets``, ``pixels``
        and, by contender, ``differing_pixels`` (against the reference; all of them ties but for PyTorch in FP16),
        ``us`` (``min``, ``p50``, ``p90``; also of a copy of as many bytes and of one of 16), ``gb_per_s`` (of calls
        that move ``BANDWIDTH_BYTES``, else empty), ``host_us`` (of smaller calls) and ``left_out`` (why).

    Raises:
        GateError: if the fused labels are wrong; nothing is timed then.
    """
    dtype = DTYPES[precision]
    seen = rounded_case(case, dtype)
    expected = skip_head(seen.scores, seen.kernels, seen.size_hw)
    sets = [make_buffers(seen, dtype, DEVICE)]
    nbytes = sets[0].nbytes
    sets += [make_buffers(seen, dtype, DEVICE) for _ in range(number_of_sets(nbytes, cuda_graphs.l2_bytes()) - 1)]

    calls = contenders(launcher)
    left_out = {}
    if sentence := too_little(sets[0].torch_nbytes, cuda_graphs.free_bytes()):
        left_out = {name: sentence for name in calls if name != FUSED}
    graphs, differing = {}, {}
    host: dict[str, float] = {}
    # benchmark: cuDNN tries its algorithms in the calls that come before the capture, and takes the fastest.
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
        for name, call in calls.items():
            if name in left_out:
                continue
            is_exact = name == FUSED or precision == "fp32"
            try:
                if name != FUSED and (seconds := cuda_graphs.call_seconds(partial(call, sets[0]))) > SLOW_S:
                    left_out[name] = f"one call takes {seconds:.2f} s"
                    continue
                graph = cuda_graphs.captured(call, sets)
                pixels = checked_replay(graph, sets, seen, expected, f"{name} in {precision}", is_exact)
                # Large calls fill the GPU's queue, and the caller waits.
                caller_us = {name: cuda_graphs.host_us(partial(call, sets[0]))} if nbytes < BANDWIDTH_BYTES else {}
            except (RuntimeError, GateError) as exc:  # RuntimeError: of memory, of the compiler, of CUDA
                if name == FUSED:
                    raise
                left_out[name] = failure_sentence(exc)
            else:
                graphs[name], differing[name] = graph, pixels
                host |= caller_us
    half = cuda_graphs.aligned(-(-nbytes // 2))  # read, and written
    graphs[COPY] = cuda_graphs.copy_graph(half, len(sets))
    graphs[NODE] = cuda_graphs.copy_graph(16, len(sets))
    times = {name: percentiles(us) for name, us in cuda_graphs.replay_us(graphs, len(sets), rounds).items()}
    moved = {name: 2 * half if name == COPY else nbytes for name in times if name != NODE}
    return {
        "batch": case.scores[0].shape[0],
        "size_hw": list(case.size_hw),
        "classes": case.scores[0].shape[1],
        "strides": list(case.strides),
        "precision": precision,
        "bytes": nbytes,
        "sets": len(sets),
        "pixels": expected.size,
        "differing_pixels": differing,
        "us": times,
        "gb_per_s": {name: moved[name] / times[name]["p50"] / 1e3 for name in moved if nbytes >= BANDWIDTH_BYTES},
        "host_us": host,
        "left_out": left_out,
    }


def case_name(batch: int, size_hw: Sequence[int], classes: int, precision: str, strides: Sequence[int]) -> str:
    """What a case is called in the table and in the log."""
    return f"{batch} x {size_hw[0]}x{size_hw[1]}, {classes} classes, {precision}, {head_name(strides)}"


def table(results: Sequence[dict[str, Any]], peak: float) -> Table:
    """Median microseconds of every case, and of the large ones how near the fused head comes to a copy."""
    shown = Table(
        title=f"Skip head, median µs on the GPU (a large copy moves {peak:.0f} GB/s)",
        caption="'copy' copies as many bytes; no share is told below "
        f"{BANDWIDTH_BYTES / 1e6:.0f} MB, where starting a kernel hides what memory gives",
    )
    names = (FUSED, EAGER, COMPILED, COPY, NODE)
    shown.add_column("case")
    for column in (*names, "of copy"):
        shown.add_column(column.replace(" ", "\n"), justify="right")
    for result in results:
        us, speed = result["us"], result["gb_per_s"]
        times = [f"{us[name]['p50']:.1f}" if name in us else "-" for name in names]
        share = f"{speed[FUSED] / speed[COPY]:.0%}" if speed else "-"
        case = case_name(*(result[key] for key in ("batch", "size_hw", "classes", "precision", "strides")))
        shown.add_row(case.replace(", ", "\n", 1), *times, share)
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fcn_edge.benchmarks.skip_head_cuda", description=__doc__)
    parser.add_argument("library", type=Path, metavar="LIBRARY", help="libfcn_edge_cuda.so or libfcn_edge_plugin.so")
    parser.add_argument("--precision", choices=list(DTYPES), action="append", help="of scores and kernels (both)")
    parser.add_argument("--classes", type=int, choices=CLASSES, action="append", help="of the cases (both)")
    parser.add_argument("--head", choices=[head_name(strides) for strides in HEADS], action="append", help="(both)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a look, not for a claim")
    parser.add_argument("-o", dest="record", type=Path, metavar="FILE.json", help="write a record with machine facts")
    args = parser.parse_args(arguments)
    console = Console(stderr=True)
    try:
        launcher = open_launcher(args.library)
        cuda_graphs.require_gpu()
        chosen = [case for case in (*SINGLE, *LARGE) if not args.classes or case[2] in args.classes]
        heads = [strides for strides in HEADS if not args.head or head_name(strides) in args.head]
        cases = list(itertools.product(heads, chosen, args.precision or DTYPES))
        record: dict[str, Any] = {"benchmark": "skip_head_cuda", "recorded": today(), "machine": machine_facts()}
        record |= {"copy_gb_per_s": cuda_graphs.peak_copy_gb_per_s(), "cases": len(cases), "results": []}
        for strides, (batch, size_hw, classes), precision in cases:
            console.log(case_name(batch, size_hw, classes, precision, strides))
            case = make_case(size_hw, classes, batch, strides)
            result = bench_case(case, precision, launcher, QUICK_ROUNDS if args.quick else ROUNDS)
            for name, sentence in result["left_out"].items():
                console.log(f"{name} is left out: {sentence}", markup=False)
            record["results"].append(result)
            if args.record:  # after every case: what was measured outlives a failure of the next
                write_record(args.record, record)
    except FcnEdgeError as exc:
        return told(exc)
    Console().print(table(record["results"], record["copy_gb_per_s"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
