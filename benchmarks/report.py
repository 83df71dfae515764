"""What people see of a benchmark: table, progress, errors, Markdown and plot; knows nothing about how it was measured.

Everything is made from the JSON object alone, so that a report can be written again from a record.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..errors import FcnEdgeError, UsageError
from ..files import require_writable, write_atomically
from .record import write_record

JSON_NAME, MARKDOWN_NAME, PLOT_NAME = "bench.json", "bench.md", "latency.png"
_NO_PLOT = "No plot: matplotlib is not installed (`pip install matplotlib`)."
_DOUBTFUL = 0.9
_BUSY = 0.5  # processes for each CPU
_FEW_FRAMES = 200
_SLOW = ("p90", "p95", "p99")
_MARK = "†"
_TERMINAL = ("model", "precision", "p50 ms", "p99", "fps", "speed", "RSS MiB", "GPU MiB", "mIoU")


def write_report(payload: dict[str, Any], folder: Path, force: bool = False) -> list[Path]:
    """Write ``bench.json``, ``bench.md`` and, where matplotlib is installed, ``latency.png``.

    Args:
        payload: what :func:`fcn_edge.benchmarks.bench.bench_models` found.
        folder: where to; it is made if need be.
        force: overwrite files of these names.

    Returns:
        The files written.

    Raises:
        UsageError: if the folder cannot be used, or a file is there and ``force`` is not given.
    """
    check_folder(folder, force)
    written = [folder / JSON_NAME, folder / MARKDOWN_NAME]
    has_plot = _plot_from_bench(payload, folder / PLOT_NAME)
    write_record(written[0], payload)
    write_atomically(written[1], markdown_from_bench(payload, PLOT_NAME if has_plot else "").encode())
    return [*written, folder / PLOT_NAME] if has_plot else written


def check_folder(folder: Path, force: bool = False) -> None:
    """Refuse a folder that a report cannot go to; worth asking before minutes of measuring.

    Raises:
        UsageError: if it is a file or read-only, or holds a report and ``force`` is not given.
    """
    require_writable(folder)
    there = [name for name in (JSON_NAME, MARKDOWN_NAME, PLOT_NAME) if (folder / name).exists()]
    if there and not force:
        raise UsageError(f"{folder} already holds {', '.join(there)}; give another folder or --force")


def bench_table(payload: dict[str, Any]) -> Table:
    """The results for a terminal of 80 columns; the report has more of them."""
    sizes = {_size(result.get("frame_hw")) for result in payload["results"]}
    frame = f"frame of {sizes.pop()}" if len(sizes) == 1 and "" not in sizes else "frame"
    caption = few_frames(payload["results"])
    table = Table(title=f"{frame} in host memory to labels in host memory", caption=caption or None, padding=0)
    header, rows = _result_rows(payload["results"])
    shown = [index for index, name in enumerate(header) if name in _TERMINAL]
    for index in shown:
        table.add_column(header[index], justify="right" if index > 2 else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(row[index]) for index in shown))
    return table


def doubts(results: Sequence[dict[str, Any]], machine: Mapping[str, Any] | None = None) -> list[str]:
    """A sentence for a machine that was busy, and for each model whose labels are far from ONNX Runtime's.

    ONNX Runtime executes the same file. Rounded networks differ by some per cent without any fault, most where they do
    not know what they see.

    Args:
        results: those of :func:`fcn_edge.benchmarks.bench.bench_models`.
        machine: its ``machine``, as it was before the first model ran; None: say nothing of its load.
    """
    return [*_load(machine or {}), *_far_labels(results)]


def _load(machine: Mapping[str, Any]) -> list[str]:
    load, cores = machine.get("load"), machine.get("cores")
    if not load or not cores or load <= _BUSY * cores:
        return []
    return [
        f"the machine was busy before the first model ran: {load:g} processes ran or waited on average in that minute, "
        f"on {cores} CPUs; if they go on, milliseconds are too many: trust how models compare (`speed`), or measure "
        "again when it is quiet"
    ]


def _far_labels(results: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"{result['model']} ({_precision(result)}) agrees with ONNX Runtime on {share:.1%} of the pixels, expected "
        f"{_DOUBTFUL:.0%} or more on frames like those it learned from: what was timed gives other labels; give "
        "--data, and compare its mIoU with that of its FP32 file (on a CPU without VNNI it is ONNX Runtime whose sums "
        "of integers overflow)"
        for result in results
        if (share := result.get("agreement_with_reference")) is not None and share < _DOUBTFUL
    ]


def few_frames(results: Sequence[dict[str, Any]]) -> str:
    """What the mark behind a p99 means; empty if none has one."""
    if not any(map(_has_few_frames, results)):
        return ""
    return f"{_MARK} p99 of fewer than {_FEW_FRAMES} frames: it is hardly more than the slowest of them."


def markdown_from_bench(payload: dict[str, Any], plot: str = "") -> str:
    """The report as Markdown.

    Args:
        payload: what :func:`fcn_edge.benchmarks.bench.bench_models` found.
        plot: file name of the plot; empty: say that there is none.
    """
    results = payload["results"]
    names = short_names(results)
    stages = list(dict.fromkeys(stage for result in results for stage in result["stages_ms"]))
    stage_rows = [
        [name, *(_number(result["stages_ms"].get(stage), 2) for stage in stages)]
        for name, result in zip(names, results, strict=True)
    ]
    checks = [
        [
            name,
            _share(result.get("repeatability")),
            _share(result.get("agreement_with_reference")),
            str(result.get("frames", "")),
            str(result.get("frames_from", "")),
        ]
        for name, result in zip(names, results, strict=True)
    ]
    parts = [
        "# Benchmark",
        "Latency is one frame in host memory to its labels in host memory, frames one after the other; a frame of "
        "another size than a model's input is resized, which counts. Models were "
        "timed in turn, in rounds; *speed* compares each round with the first model's and gives the median and the "
        "range of the middle half.",
        "## Results",
        markdown_table(*_result_rows(results)),
        *filter(None, [few_frames(results)]),
        f"![distribution of latency]({plot})" if plot else _NO_PLOT,
        "## Stages, median ms",
        markdown_table(["model", *stages], stage_rows),
        *_slow_stages(results, stages),
        "## Checked before timing",
        "Share of pixels that are alike in two runs of the same frame, and with ONNX Runtime executing the same file.",
        markdown_table(["model", "two runs", "ONNX Runtime", "frames timed", "frames from"], checks),
        *doubts(results, payload["machine"]),
        *_how(payload),
        "## Machine",
        markdown_table(["fact", "value"], _fact_rows(payload["machine"])),
    ]
    return "\n\n".join(parts) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells; bars and line breaks in them do not break it."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(header), "|" + "---|" * len(header), *map(line, rows)])


def speed(result: dict[str, Any], base: dict[str, Any]) -> tuple[float, float, float]:
    """How many times as fast as ``base``, round by round: quartiles 25, 50 and 75 % (below, median, above)."""
    ours, theirs = np.asarray(result["rounds_p50_ms"]), np.asarray(base["rounds_p50_ms"])
    count = min(len(ours), len(theirs))
    low, middle, high = np.percentile(theirs[:count] / ours[:count], (25, 50, 75))
    return float(low), float(middle), float(high)


def short_names(results: Sequence[dict[str, Any]]) -> list[str]:
    """File names of the models, or their whole paths where two of them are called alike."""
    names = [Path(result["model"]).name for result in results]
    return names if len(set(names)) == len(names) else [result["model"] for result in results]


@contextlib.contextmanager
def progress_on_stderr() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on stderr, one for each thing that is done; gives ``on_step(what, done, total)``."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def on_step(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield on_step


def told(exc: FcnEdgeError) -> int:
    """Tell an error on stderr; returns the exit code."""
    Console(stderr=True).print(f"error: {exc}", style="red", markup=False, soft_wrap=True)
    return exc.exit_code


def _plot_from_bench(payload: dict[str, Any], path: Path) -> bool:
    """Draw the plot; False where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    from .report_plot import write_plot

    labels = [
        f"{name}, {result['backend']} {result['precision']}"
        for name, result in zip(short_names(payload["results"]), payload["results"], strict=True)
    ]
    write_plot(payload["results"], labels, path)
    return True


def _result_rows(results: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the main table; columns that no model fills are left out."""
    header = ["model", "backend", "precision", "input", "frame", "params M", "GMACs"]
    header += ["p50 ms", "p90", "p99", "max", "fps", "speed", "RSS MiB", "GPU MiB", "mIoU"]
    rows = []
    for name, result in zip(short_names(results), results, strict=True):
        latency = result["latency_ms"]
        low, middle, high = speed(result, results[0])
        rows.append(
            [
                name,
                result["backend"],
                _precision(result),
                _size(result["size_hw"]),
                _size(result.get("frame_hw")),
                _number(result["params"] and result["params"] / 1e6, 2),
                _number(result["gmacs"], 2),
                *(_number(latency[key], 2) for key in ("p50", "p90")),
                _number(latency["p99"], 2) + (_MARK if _has_few_frames(result) else ""),
                _number(latency["max"], 2),
                _number(result["fps"], 1),
                f"{middle:.2f} ({low:.2f}-{high:.2f})" if result is not results[0] else "1",
                _number(result["rss_mib"], 0),
                _number(result["gpu_mib"], 0),
                _number(result["miou"], 4),
            ]
        )
    kept = [index for index in range(len(header)) if any(row[index] for row in rows)]
    return [header[index] for index in kept], [[row[index] for index in kept] for row in rows]


def _slow_stages(results: Sequence[dict[str, Any]], stages: Sequence[str]) -> list[str]:
    """The stages' higher percentiles; records of before hold medians alone."""
    if not any("stages_latency_ms" in result for result in results):
        return []
    rows = []
    for name, result in zip(short_names(results), results, strict=True):
        found = [result.get("stages_latency_ms", {}).get(stage, {}) for stage in stages]
        rows.append([name, *(" / ".join(_number(each.get(key), 2) for key in _SLOW if each) for each in found)])
    return [f"## Stages, {', '.join(_SLOW[:-1])} and {_SLOW[-1]}, ms", markdown_table(["model", *stages], rows)]


def _how(payload: dict[str, Any]) -> list[str]:
    """When and with which options it was measured; records of before do not tell."""
    if "options" not in payload:
        return []
    rows = _fact_rows({"recorded": payload["recorded"], **payload["options"]})
    return ["## How it was measured", markdown_table(["option", "value"], rows)]


def _fact_rows(facts: dict[str, Any], prefix: str = "") -> list[list[str]]:
    """A row for each fact that is known; dictionaries and lists of them are laid flat."""
    rows = []
    for key, value in facts.items():
        if isinstance(value, dict):
            rows += _fact_rows(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            for number, entry in enumerate(value):
                rows += _fact_rows(entry, f"{prefix}{key}.{number}.")
        elif value is not None and value != []:
            rows.append([f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)])
    return rows


def _precision(result: dict[str, Any]) -> str:
    """The file's, and what the rest of it was computed in where that was asked for."""
    hint = result.get("precision_hint")
    return f"{result['precision']}, {hint}" if hint else str(result["precision"])


def _has_few_frames(result: dict[str, Any]) -> bool:
    return 0 < int(result.get("frames", 0)) < _FEW_FRAMES


def _size(size_hw: Sequence[int] | None) -> str:
    return "x".join(map(str, size_hw or ()))


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4%}"
