"""The record of :mod:`.quantised` as a Markdown table, a row for each model; knows nothing about how it was made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .report import markdown_table

NOTHING = "-"

Run = dict[str, Any]


def markdown_from_record(payload: dict[str, Any]) -> str:
    """The table and what to know of it.

    Args:
        payload: what :func:`fcn_edge.benchmarks.quantised.main` writes.

    Returns:
        Models in the order of their size. Figures are means over a model's seeds, with the least and the most of them
        where there are several; a drop is the mean of each seed's own. Columns that no model fills are left out.
    """
    models: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(payload["runs"], key=lambda run: (run["params"], run["model"], run["gmacs"], run["seed"])):
        models.setdefault((run["model"], _size(run)), []).append(run)
    header = ["model", "input", "params M", "GMACs", "seeds", "fp32", "fp32 val"]
    header += [f"{name}{what}" for name in ("int8-ptq", "int8-qat") for what in ("", " drop", " agrees", " val")]
    rows = [_row(runs) for runs in models.values()]
    kept = [index for index in range(len(header)) if any(row[index] != NOTHING for row in rows)]
    table = markdown_table([header[index] for index in kept], [[row[index] for index in kept] for row in rows])
    return f"{_preface(payload)}\n\n{table}\n"


def _size(run: Run) -> str:
    """The input's size; records of before it could be chosen do not tell it."""
    return "x".join(map(str, run.get("size_hw", ()))) or NOTHING


def _row(runs: Sequence[Run]) -> list[str]:
    first = runs[0]
    row = [first["model"], _size(first), f"{first['params'] / 1e6:.2f}", f"{first['gmacs']:.2f}", str(len(runs))]
    row += [_spread([run["fp32"]["miou"] for run in runs], _miou), _val([run["fp32"] for run in runs])]
    for key in ("int8_ptq", "int8_qat"):
        done = [run for run in runs if run[key]]
        # Not every seed need have been trained on: the mean of some must not pass for that of all.
        only = f", {len(done)} of {len(runs)} seeds" if 0 < len(done) < len(runs) else ""
        row.append(_spread([run[key]["miou"] for run in done], _miou) + only)
        row.append(_spread([100 * (run["fp32"]["miou"] - run[key]["miou"]) for run in done], _points))
        row += [_spread([run[key]["agreement"] for run in done], _share), _val([run[key] for run in done])]
    return row


def _val(scores: Sequence[dict[str, Any]]) -> str:
    """The mIoU on the data's own ``val``; records of before do not tell it."""
    found = [own["miou"] for score in scores if (own := score.get("val")) and own["miou"] is not None]
    return _spread(found, _miou)


def _preface(payload: dict[str, Any]) -> str:
    data = payload["data"]
    frames = sorted({run["int8_ptq"]["calibration_frames"] for run in payload["runs"]})
    ptq = f"int8-ptq: ranges measured on {' or '.join(map(str, frames))} of the training images"
    qat = "; int8-qat: ranges learned in training" if any(run["int8_qat"] for run in payload["runs"]) else ""
    own = data.get("val_images")
    val = f" Val: mIoU on the {own} images of its own val, on which nothing was trained either." if own else ""
    return (
        f"mIoU on the {data['images']} images of {data['holdout']} of {data['name']}, on which nothing was trained or "
        "calibrated, in the CPU engine: mean over seeds (least to most). Drop: points of mIoU below fp32, seed by "
        f"seed; agrees: share of labels that are fp32's. {ptq[0].upper()}{ptq[1:]}{qat}.{val}"
    )


def _spread(values: Sequence[float], text: Callable[[float], str]) -> str:
    """Mean, and the range where there are several."""
    if not values:
        return NOTHING
    mean = text(sum(values) / len(values))
    return mean if len(values) == 1 else f"{mean} ({text(min(values))} to {text(max(values))})"


def _miou(value: float) -> str:
    return f"{value:.4f}"


def _points(value: float) -> str:
    return f"{value:.2f}"


def _share(value: float) -> str:
    return f"{value:.2%}"
