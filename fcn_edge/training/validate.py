"""Validation of a model on images with labels; knows nothing about training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..contract import Contract
from ..metrics import confusion, miou, per_class_iou, pixel_accuracy
from ..model.fcn import FCN
from ..pixels import Image, Labels, restore_labels
from .batches import EvaluationStore, image_tensor

_BATCH = 4


def predict(model: FCN, frames: list[Image], device: torch.device) -> list[Labels]:
    """Class ids uint8 ``[H, W]`` of frames uint8 ``[H, W, 3]`` of one size, in float32."""
    with torch.inference_mode():
        logits = model(image_tensor(frames, device).contiguous(memory_format=torch.channels_last))
        return list(logits.argmax(1).to(torch.uint8).cpu().numpy())


def validate(model: FCN, samples: EvaluationStore, contract: Contract, device: torch.device) -> NDArray[np.int64]:
    """Confusion matrix int64 ``[C, C]`` (row: label, column: answer) at the labels' own resolution.

    The model is in eval mode; frames are at the contract's size, as on every other path.
    """
    matrix = np.zeros((contract.num_classes, contract.num_classes), np.int64)
    frames: list[Image] = []
    labels: list[Labels] = []
    for number, (frame, label) in enumerate(samples, 1):
        frames.append(frame)
        labels.append(label)
        if len(frames) == _BATCH or number == len(samples):
            for answer, truth in zip(predict(model, frames, device), labels, strict=True):
                answer = restore_labels(answer, (truth.shape[0], truth.shape[1]))
                matrix += confusion(answer, truth, contract.num_classes, contract.ignore_id)
            frames.clear()
            labels.clear()
    return matrix


def scores_from_confusion(matrix: NDArray[np.int64], contract: Contract) -> dict[str, Any]:
    """``val_miou``, ``val_pixel_accuracy`` and ``val_per_class`` as JSON takes them: None for a class never seen."""
    per_class = {
        name: None if np.isnan(iou) else round(float(iou), 6)
        for name, iou in zip(contract.class_names, per_class_iou(matrix), strict=True)
    }
    mean, accuracy = miou(matrix), pixel_accuracy(matrix)
    return {
        "val_miou": None if np.isnan(mean) else round(mean, 6),
        "val_pixel_accuracy": None if np.isnan(accuracy) else round(accuracy, 6),
        "val_per_class": per_class,
    }
