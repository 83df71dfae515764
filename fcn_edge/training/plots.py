"""Pictures of a run: its curves, and examples with label and answer; knows nothing about models or tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ..contract import Contract
from ..pixels import Image, Labels, replaced

_BLUE, _GREEN, _GREY = "#2563eb", "#0f9d58", "#6b7280"


def draw_curves(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Draw loss, validation mIoU and learning rate over the epochs as a PNG.

    Args:
        path: the file.
        history: one dictionary for each epoch, as in ``metrics.jsonl``.
    """
    figure = Figure(figsize=(10, 3.2), dpi=120, layout="constrained")
    axes = figure.subplots(1, 3)
    series = (("loss", "training loss", _BLUE), ("val_miou", "validation mIoU", _GREEN), ("lr", "learning rate", _GREY))
    for axis, (key, title, color) in zip(axes, series, strict=True):
        points = [(entry["epoch"], entry[key]) for entry in history if entry.get(key) is not None]
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel("epoch", fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(color="#e5e7eb", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        if points:
            epochs, values = zip(*points, strict=True)
            axis.plot(
                epochs, values, color=color, linewidth=1.6, marker="o" if len(points) < 20 else None, markersize=3
            )
            axis.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        if key == "val_miou" and points:
            best = max(points, key=lambda point: point[1])
            axis.plot(*best, marker="o", color=color, markersize=6)
            axis.annotate(
                f"{best[1]:.3f}",
                best,
                textcoords="offset points",
                xytext=(0, -14),
                fontsize=9,
                ha="center",
                color=color,
            )
    _write(figure, path)


def draw_grid(path: Path, rows: Sequence[tuple[Image, Labels, Labels]], contract: Contract) -> None:
    """Draw images with label and answer side by side, and the classes' colours below, as a PNG.

    Args:
        path: the file.
        rows: image uint8 ``[h, w, 3]`` BGR, label and answer uint8 ``[h, w]``.
        contract: class names and palette.
    """
    palette = np.zeros((256, 3), np.uint8)
    palette[: contract.num_classes] = contract.palette
    height, width = rows[0][0].shape[:2]
    legend_rows = -(-contract.num_classes // 8)
    figure = Figure(figsize=(10, 10 / 3 * height / width * len(rows) + 0.5 + 0.25 * legend_rows), dpi=120)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False)
    for cells, (image_bgr, label, answer) in zip(axes, rows, strict=True):
        for axis, picture in zip(cells, (image_bgr[..., ::-1], palette[label], palette[answer]), strict=True):
            axis.imshow(picture, aspect="auto")
            axis.set_axis_off()
    for axis, title in zip(axes[0], ("image", "label", "prediction"), strict=True):
        axis.set_title(title, fontsize=10)
    patches = [
        Patch(
            facecolor=(color[0] / 255, color[1] / 255, color[2] / 255), edgecolor="#9ca3af", linewidth=0.5, label=name
        )
        for name, color in zip(contract.class_names, contract.palette, strict=True)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=8, fontsize=8, frameon=False)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with replaced(path) as temporary:
        figure.savefig(temporary)
