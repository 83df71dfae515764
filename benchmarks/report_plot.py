"""The picture of a benchmark: distribution of latency, and mIoU against latency; knows no table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..files import replaced

# Okabe and Ito, "Color Universal Design", 2008: told apart with every kind of colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LOG_RATIO = 4.0
"""Medians that lie further apart than this stand on a logarithmic axis."""

MIN_MIOU_SPAN = 0.05
"""The mIoU axis never shows less than this, lest two equal models look far apart."""


def write_plot(results: Sequence[dict[str, Any]], names: Sequence[str], path: Path) -> None:
    """Draw the results as a PNG: the right panel only if a model has an mIoU.

    Args:
        results: ``results`` of ``fcn-edge bench --json``.
        names: what each of them is called.
        path: the file, written whole or not at all.
    """
    names = [name.replace("$", r"\$") for name in names]  # which is no formula
    with_miou = [result for result in results if result["miou"] is not None]
    panels = 2 if with_miou else 1
    figure = Figure(figsize=(6.4 * panels, 4.2), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _draw_distribution(axes[0], results, names)
    if with_miou:
        _draw_tradeoff(axes[1], results, names)
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _draw_distribution(axes: Axes, results: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    for index, result in enumerate(results):
        quantiles, color = result["quantiles_ms"], COLORS[index % len(COLORS)]
        shares = [100 * step / (len(quantiles) - 1) for step in range(len(quantiles))]
        axes.step(quantiles, shares, where="post", color=color, label=names[index])
        axes.plot(result["latency_ms"]["p99"], 99, "o", color=color, markersize=4)
    _set_latency_axis(axes, results)
    axes.set_ylabel("frames done within, %")
    axes.set_ylim(0, 101)
    axes.set_title("Latency (dot: p99)")
    axes.legend(loc="lower right", frameon=False)


def _draw_tradeoff(axes: Axes, results: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    for index, result in enumerate(results):
        if result["miou"] is None:
            continue
        latency, color = result["latency_ms"], COLORS[index % len(COLORS)]
        axes.plot([latency["p50"], latency["p99"]], [result["miou"]] * 2, color=color, alpha=0.4)
        axes.plot(latency["p50"], result["miou"], "o", color=color, label=names[index])
    _set_latency_axis(axes, results)
    axes.set_ylabel("mIoU")
    values = [result["miou"] for result in results if result["miou"] is not None]
    middle, span = (max(values) + min(values)) / 2, max(1.6 * (max(values) - min(values)), MIN_MIOU_SPAN)
    axes.set_ylim(middle - span / 2, middle + span / 2)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_title("Accuracy against latency (dot: p50, line to p99)")
    axes.legend(loc="best", frameon=False)


def _set_latency_axis(axes: Axes, results: Sequence[dict[str, Any]]) -> None:
    medians = [result["latency_ms"]["p50"] for result in results]
    # A single outlier must not squeeze everything else; the tables give the maximum.
    highest = 1.1 * max(result["latency_ms"]["p99"] for result in results)
    if max(medians) > LOG_RATIO * min(medians):
        axes.set_xscale("log")
        axes.set_xlim(0.9 * min(result["quantiles_ms"][0] for result in results), highest)
    else:
        axes.set_xlim(0, highest)
    axes.set_xlabel("ms for a frame")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
