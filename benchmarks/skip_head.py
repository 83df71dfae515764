"""How fast the fused skip head is against the same function in other runtimes; knows nothing about backbones.

Run as ``python -m fcn_edge.benchmarks.skip_head``. The labels are compared first; only then is anything timed, all
contenders in turn within one run, so that what disturbs the machine disturbs all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto
from onnx.inliner import inline_local_functions
from rich.console import Console
from rich.table import Table

from ..errors import FcnEdgeError, GateError, MissingError, UsageError
from ..export.skip_head_onnx import skip_head_model
from ..pixels import require_cv2
from ..runtime.engine_openvino import infer_request, require_openvino
from ..skip_head import Labels, native_targets, skip_head, skip_head_numpy
from .head_case import HEADS, Case, differing_pixels, head_name, make_case
from .record import machine_facts, today, write_record
from .report import told

SIZES_HW = ((360, 480), (512, 1024))
CLASSES = (11, 19)
BASELINE = "ONNX Runtime"
ROUNDS, QUICK_ROUNDS = 30, 4
SLICE_NS = 20_000_000
RATIOS = ("min", "p50", "cpu_p50")


def contenders(case: Case, threads: int, with_numpy: bool) -> dict[str, Callable[[], Labels]]:
    """Name of each way to the labels, and a call that returns them, uint8 ``[1, H, W]``; the baseline comes first."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    model = skip_head_model(case.kernels, case.grid_hw, case.size_hw)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {f"scores_{i}": scores for i, scores in enumerate(case.scores, start=1)}
    out = np.empty((1, *case.size_hw), np.uint8)

    def onnx_runtime() -> Labels:
        labels: Labels = session.run(None, feed)[0].view(np.uint8)
        return labels

    def fused(target: str) -> Callable[[], Labels]:
        return lambda: skip_head(case.scores, case.kernels, case.size_hw, threads, out=out, target=target)

    calls: dict[str, Callable[[], Labels]] = {BASELINE: onnx_runtime}
    with contextlib.suppress(MissingError):
        calls["OpenVINO"] = openvino_head(model, case, threads)
    calls |= {f"fused, {target}": fused(target) for target in native_targets()}
    if with_numpy:
        calls["NumPy reference"] = lambda: skip_head_numpy(case.scores, case.kernels, case.size_hw)
    return calls


def openvino_head(model: ModelProto, case: Case, threads: int) -> Callable[[], Labels]:
    """The same file in OpenVINO, which knows no functions of a file: the node is replaced by what it stands for.

    Raises:
        MissingError: if OpenVINO is not installed.
    """
    network = require_openvino().Core().read_model(inline_local_functions(model).SerializeToString())
    request = infer_request(network, threads, "f32")
    feed = {f"scores_{i}": scores for i, scores in enumerate(case.scores, start=1)}

    def call() -> Labels:
        request.infer(feed, share_inputs=True)
        labels: Labels = request.get_output_tensor(0).data.view(np.uint8)  # OpenVINO's own, valid until the next call
        return labels

    return call


def opencv_resize(case: Case) -> Callable[[], Labels]:
    """What people write by hand: bilinear resizes and an argmax. Not the same function, so only its time counts."""
    cv2 = require_cv2()
    maps = [np.ascontiguousarray(scores[0].transpose(1, 2, 0)) for scores in case.scores]
    height, width = case.size_hw

    def call() -> Labels:
        total = maps[0]
        for finer in maps[1:]:
            total = cv2.resize(total, finer.shape[1::-1]) + finer  # cv2 takes (width, height)
        full = cv2.resize(total, (total.shape[1] * case.strides[-1], total.shape[0] * case.strides[-1]))
        labels: Labels = full[:height, :width].argmax(2)[None].astype(np.uint8)
        return labels

    return call


def times_ns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[tuple[int, int]]]:
    """Wall and processor time of calls: in each round each contender has a slice, in turn, its first call unseen."""
    seen: dict[str, list[tuple[int, int]]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for round_index in range(rounds):
        names = list(calls) if round_index % 2 == 0 else list(reversed(calls))
        for name in names:
            calls[name]()  # brings the caches and the clock to what this contender is used to
            end = time.perf_counter_ns() + SLICE_NS
            while not seen[name] or time.perf_counter_ns() < end:
                wall, processor = time.perf_counter_ns(), time.process_time_ns()
                calls[name]()
                seen[name].append((time.perf_counter_ns() - wall, time.process_time_ns() - processor))
    return seen


def bench_case(case: Case, threads: int, rounds: int, with_numpy: bool = False) -> dict[str, Any]:
    """Check and time one case.

    Returns:
        ``size_hw``, ``classes``, ``strides``, ``differing_pixels`` (of each fused contender, all of them ties),
        ``ms`` of each (``min``, ``p50``, ``p90`` of the wall time, ``cpu_p50`` of the processor time of all threads,
        number of ``calls``) and ``speedup`` of each (the baseline's ``min``, ``p50`` and ``cpu_p50`` over its own).

    Raises:
        GateError: if a contender's labels differ from the baseline's and the pixel is no tie.
    """
    calls = contenders(case, threads, with_numpy)
    expected = calls[BASELINE]().copy()
    differing = {}
    for name, call in calls.items():
        pixels, wrong = differing_pixels(case, call(), expected)
        if wrong:
            raise GateError(f"{name} differs from {BASELINE} in {wrong} pixels that are no ties; nothing was timed")
        differing[name] = pixels
    calls["cv2.resize + argmax"] = opencv_resize(case)
    ms = {}
    for name, durations in times_ns(calls, rounds).items():
        wall, processor = np.array(durations).T / 1e6
        low, middle, high = (float(value) for value in np.percentile(wall, (0, 50, 90)))
        cpu = float(np.median(processor))
        ms[name] = {"min": low, "p50": middle, "p90": high, "cpu_p50": cpu, "calls": len(durations)}
    return {
        "size_hw": list(case.size_hw),
        "classes": case.scores[0].shape[1],
        "strides": list(case.strides),
        "differing_pixels": differing,
        "ms": ms,
        "speedup": {name: {key: ms[BASELINE][key] / times[key] for key in RATIOS} for name, times in ms.items()},
    }


def _table(results: Sequence[dict[str, Any]], threads: int) -> Table:
    """The cases of one head."""
    # A busy machine interrupts long calls more often than short ones, which flatters the short; processor time leaves
    # the interruptions out. The smallest of the ratios is shown.
    head, many = head_name(results[0]["strides"]), "s" if threads > 1 else ""
    table = Table(title=f"Skip head {head}, {threads} thread{many}: median ms (times faster, at least)")
    table.add_column("contender")
    for result in results:
        height, width = result["size_hw"]
        table.add_column(f"{height}x{width}, {result['classes']} classes", justify="right")
    for name in results[0]["ms"]:
        cells = [
            f"{result['ms'][name]['p50']:.3f} ({min(result['speedup'][name].values()):.1f}x)" for result in results
        ]
        table.add_row(name, *cells)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fcn_edge.benchmarks.skip_head", description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="of every contender that has threads (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a look, not for a claim")
    parser.add_argument("--numpy", action="store_true", help="time the NumPy reference too")
    parser.add_argument("-o", dest="record", type=Path, metavar="FILE.json", help="write a record with machine facts")
    args = parser.parse_args(arguments)
    console = Console(stderr=True)
    try:
        if args.threads < 1:
            raise UsageError(f"--threads is {args.threads}; expected at least 1")
        if not native_targets():
            raise MissingError("the fused head is not compiled; reinstall fcn-edge where a C++17 compiler is")
        machine, results = machine_facts(), []  # its load is that of others, not of this run
        for strides, size_hw, classes in itertools.product(HEADS, SIZES_HW, CLASSES):
            console.log(f"{head_name(strides)}, {size_hw[0]}x{size_hw[1]}, {classes} classes")
            rounds = QUICK_ROUNDS if args.quick else ROUNDS
            case = make_case(size_hw, classes, strides=strides)
            results.append(bench_case(case, args.threads, rounds, args.numpy))
        if args.record:
            payload = {"benchmark": "skip_head", "recorded": today(), "machine": machine}
            write_record(args.record, {**payload, "threads": args.threads, "results": results})
    except FcnEdgeError as exc:
        return told(exc)
    for strides in HEADS:
        Console().print(_table([result for result in results if result["strides"] == list(strides)], args.threads))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
