"""Pictures of a run: its curves, and examples with label, answer and errors; knows nothing about models or tensors."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from ..contract import Contract
from ..files import replaced
from ..pixels import Image, Labels

_BLUE, _GREEN, _GREY = "#2563eb", "#0f9d58", "#6b7280"
_LEGEND_POINTS, _LEGEND_LETTERS = 8, 28  # size of the text, and how much of a name is shown

WRONG = (255, 96, 32)
"""Red, green, blue of a wrong pixel in an error map; the rest of the map is grey, so every kind of eye tells it."""

_DIMMED = 0.4  # brightness that is left of the image under an error map
_DARKEST = 45  # so that no pixel that counts looks like an ignored one
_MOST_KEPT = 64  # of 256 colours; with more classes than that, photographs would suffer
_INCHES, _TITLE_INCHES, _CAPTION_INCHES = 10, 0.18, 0.25


def draw_curves(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Draw loss, validation mIoU and learning rate over the epochs as a PNG.

    Args:
        path: the file.
        history: one dictionary for each epoch, as in ``metrics.jsonl``.
    """
    figure = Figure(figsize=(_INCHES, 3.2), dpi=120, layout="constrained")
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


def draw_grid(
    path: Path,
    rows: Sequence[tuple[Image, Labels, Labels]],
    contract: Contract,
    *,
    captions: Sequence[str] = (),
    errors: bool = False,
    image_title: str = "image",
) -> None:
    """Draw images with label and answer side by side, and the classes' colours below, as a PNG.

    Args:
        path: the file.
        rows: image uint8 ``[h, w, 3]`` BGR, label and answer uint8 ``[h, w]``.
        contract: class names and palette.
        captions: a line above each row; empty: none.
        errors: whether :func:`error_map` stands beside the answer.
        image_title: what stands above the images.
    """
    palette = np.zeros((256, 3), np.uint8)
    palette[: contract.num_classes] = contract.palette
    titles = (image_title, "label", "prediction", "errors")[: 4 if errors else 3]
    legend = list(zip(contract.class_names, contract.palette, strict=True))
    if errors:
        legend += [("wrong", WRONG), ("ignored", (0, 0, 0))]
    shown = [_shortened(name).replace("$", r"\$") for name, _ in legend]
    columns = _legend_columns(shown)
    height, width = rows[0][0].shape[:2]
    heights = [_INCHES / len(titles) * height / width + (_CAPTION_INCHES if captions else 0)] * len(rows)
    heights[0] += _TITLE_INCHES
    figure = Figure(figsize=(_INCHES, sum(heights) + 0.25 + 0.25 * -(-len(legend) // columns)), dpi=120)
    figure.set_layout_engine("constrained")
    strips = figure.subfigures(len(rows), squeeze=False, height_ratios=heights)[:, 0]
    for index, (strip, (image_bgr, label, answer)) in enumerate(zip(strips, rows, strict=True)):
        axes = strip.subplots(1, len(titles))
        pictures = [image_bgr[..., ::-1], palette[label], palette[answer]]
        if errors:
            pictures.append(error_map(image_bgr, label, answer, contract.ignore_id)[..., ::-1])
        for axis, picture, title in zip(axes, pictures, titles, strict=True):
            axis.imshow(picture, aspect="auto")
            axis.set_axis_off()
            if index == 0:
                axis.set_title(title, fontsize=10)
        if captions:
            strip.suptitle(captions[index], fontsize=9, x=0.005, ha="left")
    patches = [
        Patch(
            facecolor=(color[0] / 255, color[1] / 255, color[2] / 255),
            edgecolor="#9ca3af",
            linewidth=0.5,
            label=name,
        )
        for name, (_, color) in zip(shown, legend, strict=True)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, fontsize=_LEGEND_POINTS, frameon=False)
    _write_small(figure, path, [color for _, color in legend])


def _shortened(name: str) -> str:
    return name if len(name) <= _LEGEND_LETTERS else f"{name[: _LEGEND_LETTERS - 1]}…"


def _legend_columns(names: Sequence[str]) -> int:
    """How many columns of such names fit side by side, each with its patch and the space around it (4.8 letters)."""
    widest = max(TextPath((0, 0), f"{name}.", size=_LEGEND_POINTS).get_extents().width for name in names)
    return max(1, min(len(names), int(0.98 * _INCHES * 72 / (widest + 4.8 * _LEGEND_POINTS))))


def error_map(image_bgr: Image, label: Labels, answer: Labels, ignore_id: int | None) -> Image:
    """Where an answer is wrong.

    Args:
        image_bgr: uint8 ``[h, w, 3]`` BGR.
        label: uint8 ``[h, w]``.
        answer: uint8 ``[h, w]``.
        ignore_id: label that never counts, or None.

    Returns:
        uint8 ``[h, w, 3]`` BGR: ``WRONG`` where the answer is not the label, black where nothing counts, elsewhere the
        image, grey and dimmed.
    """
    grey = (_DARKEST + image_bgr.mean(2) * _DIMMED).astype(np.uint8)
    picture: Image = np.repeat(grey[..., None], 3, axis=2)
    picture[label != answer] = WRONG[::-1]
    if ignore_id is not None:
        picture[label == ignore_id] = 0
    return picture


def _write(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with replaced(path) as temporary:
        figure.savefig(temporary)


def _write_small(figure: Figure, path: Path, kept: Sequence[tuple[int, int, int]]) -> None:
    """Write photographs as a PNG of 256 colours, a third of the size; ``kept`` stay, however few pixels have them."""
    FigureCanvasAgg(figure)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    rgb = PIL.Image.open(drawn).convert("RGB")
    colors = sorted({*kept, (0, 0, 0), (255, 255, 255)})
    if len(colors) <= _MOST_KEPT:
        count, pixels = 256 - len(colors), np.asarray(rgb)
        common = rgb.quantize(count, dither=PIL.Image.Dither.NONE)
        indices = np.asarray(common) + np.uint8(len(colors))
        for index, color in enumerate(colors):
            indices[(pixels == color).all(2)] = index
        rgb = PIL.Image.fromarray(indices)
        rest = (common.getpalette() or [])[: 3 * count]  # Pillow 10.0 gives 256 colours, whatever was asked for
        rgb.putpalette([*(value for color in colors for value in color), *rest])
    with replaced(path) as temporary:
        rgb.save(temporary, optimize=True)
