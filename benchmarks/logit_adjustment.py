"""How much of the class weights' lead a network's answers should keep, on a sequence that it has not seen.

Run as ``python -m fcn_edge.benchmarks.logit_adjustment``. One pass of a checkpoint over the sequence; for each share
the lead is taken out of its logits afterwards, as if training had done it. Knows nothing about speed or INT8.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import metrics
from ..dataset import Dataset, read_sample
from ..errors import FcnEdgeError, UsageError
from ..pixels import fit_image, restore_labels
from .quantised import Trained, judged_record
from .record import write_record
from .report import markdown_table, progress_on_stderr, told

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def scores_by_share(trained: Trained, dataset: Dataset) -> list[dict[str, Any]]:
    """Scores of a checkpoint for each share of :data:`SHARES` that its answers might have left out.

    Args:
        trained: learned with class weights, without the sequence; its size is that which images are brought to.
        dataset: opened with that sequence held out.

    Returns:
        At the masks' own resolution, as ``fcn-edge eval`` judges: for each share ``share``, ``miou``,
        ``pixel_accuracy``, ``per_class``, ``precision`` and ``recall`` (by class, None where a class was not predicted
        or does not appear).
    """
    import torch

    from ..training.batches import ImageStore, image_tensor
    from ..training.checkpoint import load_checkpoint, model_from_state
    from ..training.losses import enet_weights

    checkpoint = load_checkpoint(trained.path)
    if checkpoint.config.class_weights != "enet":
        raise UsageError(f"{trained.path} was trained without class weights; give a checkpoint of --class-weights enet")
    model = model_from_state(checkpoint.contract, checkpoint.ema, str(trained.path))
    cpu, config = torch.device("cpu"), checkpoint.config
    store = ImageStore(dataset, dataset.samples("train"), checkpoint.contract.size_hw, config.memory_gib, cpu)
    weights = enet_weights(store.counts).log().view(1, -1, 1, 1)
    classes = len(dataset.class_names)
    matrices = [np.zeros((classes, classes), np.int64) for _ in SHARES]
    samples = dataset.samples("val")
    with progress_on_stderr() as on_step, torch.inference_mode():
        for done, sample in enumerate(samples, 1):
            image, target = read_sample(dataset, sample)
            logits = model(image_tensor([fit_image(image, trained.size_hw)], cpu))
            for matrix, share in zip(matrices, SHARES, strict=True):
                moved = logits + (config.logit_adjustment - share) * weights
                labels = restore_labels(moved.argmax(1)[0].numpy().astype(np.uint8), target.shape)
                matrix += metrics.confusion(labels, target, classes, dataset.ignore_id)
            on_step(trained.model, done, len(samples))
    return [
        {"share": share, **_scores(matrix, dataset.class_names)} for share, matrix in zip(SHARES, matrices, strict=True)
    ]


def markdown_from_record(payload: dict[str, Any]) -> str:
    """A row for each checkpoint: mIoU (pixel accuracy) at each share."""
    header = ["model", "epochs", *(f"{share:g}" for share in SHARES)]
    rows = [
        [run["model"], str(run["epochs"])]
        + [f"{entry['miou']:.4f} ({100 * entry['pixel_accuracy']:.1f} %)" for entry in run["shares"]]
        for run in payload["runs"]
    ]
    return markdown_table(header, rows)


def _scores(matrix: np.ndarray[Any, np.dtype[np.int64]], names: Sequence[str]) -> dict[str, Any]:
    hit, predicted, there = np.diag(matrix), matrix.sum(0), matrix.sum(1)
    parts = {
        "per_class": metrics.per_class_iou(matrix).tolist(),
        "precision": [float(h / p) if p else float("nan") for h, p in zip(hit, predicted, strict=True)],
        "recall": [float(h / t) if t else float("nan") for h, t in zip(hit, there, strict=True)],
    }
    by_name = {
        part: {name: None if np.isnan(value) else round(value, 6) for name, value in zip(names, values, strict=True)}
        for part, values in parts.items()
    }
    return {"miou": metrics.miou(matrix), "pixel_accuracy": metrics.pixel_accuracy(matrix), **by_name}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the record; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fcn_edge.benchmarks.logit_adjustment", description=__doc__)
    parser.add_argument(
        "checkpoints", nargs="+", type=Path, metavar="CKPT[@HxW]", help=".pt, trained without the sequence"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--holdout", required=True, metavar="SEQUENCE")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE.json")
    args = parser.parse_args(arguments)
    try:
        payload = judged_record(
            "logit_adjustment",
            args.checkpoints,
            args.data,
            args.holdout,
            lambda trained, dataset: {
                "learned_with": trained.config["logit_adjustment"],
                "shares": scores_by_share(trained, dataset),
            },
        )
        write_record(args.out, payload)
    except FcnEdgeError as exc:
        return told(exc)
    sys.stdout.write(markdown_from_record(payload) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
