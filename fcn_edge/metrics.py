"""Segmentation metrics on a confusion matrix; knows nothing about models, files or images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def confusion(
    pred: NDArray[np.integer], target: NDArray[np.integer], num_classes: int, ignore_id: int | None = 255
) -> NDArray[np.int64]:
    """Count pixels by (target, predicted) class.

    Args:
        pred: class ids, any shape.
        target: class ids of the same shape; ``ignore_id`` never counts.
        num_classes: number of classes C.
        ignore_id: value of ``target`` to leave out, or None.

    Returns:
        int64 ``[C, C]``; row: target, column: prediction.

    Raises:
        ValueError: if the shapes differ, ids are no integers, or one lies outside the classes.
    """
    for name, ids in (("pred", pred), ("target", target)):
        if ids.dtype.kind not in "iu":
            raise ValueError(f"[confusion] {name} is {ids.dtype}, expected integers")
    if pred.shape != target.shape:
        raise ValueError(f"[confusion] pred has shape {pred.shape}, target {target.shape}; they must be equal")
    pred, target = pred.ravel().astype(np.int64), target.ravel().astype(np.int64)
    if ignore_id is not None:
        kept = target != ignore_id
        pred, target = pred[kept], target[kept]
    for name, ids in (("pred", pred), ("target", target)):
        if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= num_classes):
            raise ValueError(
                f"[confusion] {name} has ids {ids.min()} to {ids.max()}, expected 0 to {num_classes - 1}"
                + (f" or {ignore_id} to ignore" if name == "target" and ignore_id is not None else "")
            )
    counts = np.bincount(target * num_classes + pred, minlength=num_classes * num_classes)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def class_shares(labels: NDArray[np.uint8], num_classes: int) -> list[float]:
    """Each class's share of the pixels.

    Args:
        labels: class ids, uint8, any shape.
        num_classes: number of classes C.

    Returns:
        C shares whose sum is 1; NaN each if there is no pixel.

    Raises:
        ValueError: if the labels are of another type or an id lies outside the classes.
    """
    if labels.dtype != np.uint8:
        raise ValueError(f"[class_shares] labels are {labels.dtype}, expected uint8")
    ids = labels.ravel()
    # In pairs, as np.bincount makes an int64 of each number before it counts.
    pairs = np.bincount(ids[: ids.size & ~1].view(np.uint16), minlength=1 << 16).reshape(256, 256)
    counts = pairs.sum(0) + pairs.sum(1) + np.bincount(ids[ids.size & ~1 :], minlength=256)
    if counts[num_classes:].any():
        raise ValueError(f"[class_shares] labels have ids up to {ids.max()}, expected 0 to {num_classes - 1}")
    return [float(count) / ids.size if ids.size else float("nan") for count in counts[:num_classes]]


def per_class_iou(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of each class, float64 ``[C]``; NaN for a class in neither labels nor prediction."""
    hit = np.diag(matrix).astype(np.float64)
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(union > 0, hit / union, np.nan)


def miou(matrix: NDArray[np.int64]) -> float:
    """Mean IoU over the classes that appear in labels or prediction; NaN if none does."""
    iou = per_class_iou(matrix)
    return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")


def pixel_accuracy(matrix: NDArray[np.int64]) -> float:
    """Share of counted pixels whose class is right; NaN if no pixel counted."""
    total = int(matrix.sum())
    return float(np.trace(matrix)) / total if total else float("nan")
