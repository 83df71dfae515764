"""The gate: labels of a model in some precision against those of FP32; knows nothing about how either runs.

With masks the drop in mIoU decides; without, the share of pixels whose label is that of FP32. Most labels that rounding
changes lie on borders between classes, so the share is given without those too.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import metrics
from ..contract import Contract
from ..dataset import Dataset, complete_samples, open_dataset_for, read_sample
from ..errors import DataError, GateError, ModelError
from ..pixels import Image, Labels, read_image
from ..runtime.engine import Engine, check_labels
from ..runtime.sidecar import Gate
from .frame_files import files_sha256

BORDER = 2
"""A pixel with another class (of FP32) within so many rows and columns does not count as inside."""

OnFrame = Callable[[int, int], None]
"""Called as ``on_frame(done, total)``."""


@dataclass(frozen=True, kw_only=True)
class GateRequest:
    """What is compared, and the limits.

    Attributes:
        data: a data set with masks, or None.
        split: which part of it.
        classes: those chosen of it, as in :func:`fcn_edge.dataset.open_dataset`; empty: the model's, where it has them.
        holdout: the sequence of ``train`` that is its ``val``; empty: its own.
        frames: image files without masks, used where there is no data set.
        max_miou_drop: how much lower mIoU may be than that of FP32.
        min_agreement: least share of pixels with the label of FP32.
    """

    data: str | Path | None = None
    split: str = "val"
    classes: tuple[str, ...] = ()
    holdout: str = ""
    frames: tuple[str | Path, ...] = ()
    max_miou_drop: float | None = None
    min_agreement: float | None = None


@dataclass(frozen=True)
class GateFrames:
    """The frames of a request, listed; ``sha256`` over images and masks in order and over what masks mean."""

    dataset: Dataset | None
    images: tuple[Path, ...]
    sha256: str
    request: GateRequest


def open_gate(request: GateRequest, contract: Contract) -> GateFrames:
    """List and hash what a model will be compared on.

    Raises:
        ModelError: if model and data set have different classes.
        UsageError: if there is no such data set, split or frame.
        DataError: if an image of the split has no mask, or a file cannot be read.
    """
    if request.data is None:
        return GateFrames(None, tuple(map(Path, request.frames)), files_sha256(request.frames), request)
    dataset = open_dataset_for(request.data, contract.class_names, request.classes, request.holdout)
    if dataset.class_names != contract.class_names:
        raise ModelError(
            f"the model has the classes {', '.join(contract.class_names[:8])}, the gate's data {request.data} "
            f"{', '.join(dataset.class_names[:8])}; give --gate the data that it was trained on, --gate-classes where "
            "it was trained with --classes, or --gate-frames"
        )
    samples = complete_samples(dataset, request.split)
    files = [file for sample in samples for file in (sample.image, sample.mask)]
    colors = dataset.mask_colors, dataset.has_own_colors
    meaning = repr((dataset.class_names, dataset.id_map, dataset.ignore_id, *colors))
    sha256 = hashlib.sha256(f"{files_sha256(files)} {meaning}".encode()).hexdigest()
    return GateFrames(dataset, tuple(sample.image for sample in samples), sha256, request)


def compare(
    reference: Engine, candidate: Engine, frames: GateFrames, ran: str, on_frame: OnFrame | None = None
) -> Gate:
    """Run both engines over the frames.

    Args:
        reference: the model in FP32.
        candidate: what is judged.
        frames: what :func:`open_gate` listed.
        ran: what ran the candidate: ``tensorrt`` or ``openvino``.
        on_frame: called with the number of frames done and of all.

    Raises:
        DataError: if a file cannot be read, or no pixel of the masks counts.
        EngineError: if an engine fails.
    """
    count = reference.contract.num_classes
    ours, theirs = np.zeros((count, count), np.int64), np.zeros((count, count), np.int64)
    equal = inside_equal = pixels = inside_pixels = 0
    for done, (image, mask) in enumerate(_pairs(frames), 1):
        expected, labels = reference.infer(image), candidate.infer(image)
        check_labels(labels, expected.shape, count)
        same, inside = labels == expected, ~near_border(expected)
        pixels, equal = pixels + same.size, equal + int(same.sum())
        inside_pixels, inside_equal = inside_pixels + int(inside.sum()), inside_equal + int((same & inside).sum())
        if mask is not None and frames.dataset is not None:
            ours += metrics.confusion(labels, mask, count, frames.dataset.ignore_id)
            theirs += metrics.confusion(expected, mask, count, frames.dataset.ignore_id)
        if on_frame:
            on_frame(done, len(frames.images))
    # Over one set of classes: one that no mask shows counts as 0 where a single pixel is given to it.
    shown = theirs.sum(1) > 0
    miou, miou_fp32 = (
        _mean(metrics.per_class_iou(matrix)[shown]) if frames.dataset else None for matrix in (ours, theirs)
    )
    if miou_fp32 is not None and not math.isfinite(miou_fp32):
        raise DataError(f"no pixel of the masks in {frames.request.data} counts; give --gate data with labels")
    return Gate(
        ran=ran,
        frames=len(frames.images),
        frames_sha256=frames.sha256,
        agreement=equal / pixels,
        agreement_inside=inside_equal / inside_pixels if inside_pixels else None,
        miou=miou,
        miou_fp32=miou_fp32,
        max_miou_drop=frames.request.max_miou_drop,
        min_agreement=frames.request.min_agreement,
    )


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else math.nan


def require_gate(gate: Gate, what: str) -> None:
    """Pass or refuse.

    Raises:
        GateError: if a limit is not kept; the message gives number, limit and what may help.
    """
    if reason := shortfall(gate):
        advice = (
            "keep layers out with --keep auto or --keep LAYER (--sensitivity tells which), calibrate on more frames, "
            "or choose fp16"
            if "int8" in what
            else "check the limit, or report it with what fcn-edge doctor prints"
        )
        raise GateError(f"{what} fails its gate and is not kept: {reason}; {advice}")


def shortfall(gate: Gate) -> str:
    """The first limit that is not kept, with what was measured; empty if all are kept."""
    if gate.max_miou_drop is not None and gate.miou is not None and gate.miou_fp32 is not None:
        drop = gate.miou_fp32 - gate.miou
        if not drop <= gate.max_miou_drop:
            return f"{measured(gate)}; a drop of at most {gate.max_miou_drop:g} is allowed on {gate.frames} frames"
    if gate.min_agreement is not None and not gate.agreement >= gate.min_agreement:
        return f"{measured(gate)}; at least {gate.min_agreement:.4%} are wanted on {gate.frames} frames"
    return ""


def measured(gate: Gate) -> str:
    """A gate's numbers, for people, and what FP32 is where the model itself was not there."""
    ran = "in the engine" if gate.ran == "tensorrt" else "of the typed ONNX on the CPU"
    inside = "" if gate.agreement_inside is None else f" ({gate.agreement_inside:.4%} away from borders)"
    agreement = f"{gate.agreement:.4%} of the labels {ran} are those of FP32{inside}"
    if gate.reference != "fp32":
        agreement += f"; FP32 is here the weights of the {gate.reference} file, run in FP32 with no activation rounded"
    if gate.miou is None or gate.miou_fp32 is None:
        return agreement
    drop = round(gate.miou_fp32 - gate.miou, 4) + 0.0  # which makes no -0 of a gain that rounds to nothing
    return f"mIoU {ran} is {gate.miou:.4f}, that of FP32 {gate.miou_fp32:.4f}, a drop of {drop:.4f}; {agreement}"


def near_border(labels: Labels) -> NDArray[np.bool_]:
    """Whether a pixel has another class within ``BORDER`` pixels, along rows, columns and diagonals.

    Args:
        labels: uint8 ``[height, width]``.

    Returns:
        bool of the same shape.
    """
    lowest, highest = labels, labels
    for axis in (0, 1):
        lowest, highest = _spread(lowest, axis, np.minimum), _spread(highest, axis, np.maximum)
    near: NDArray[np.bool_] = lowest != highest
    return near


def _spread(values: Labels, axis: int, extreme: np.ufunc) -> Labels:
    """Lowest or highest value within ``BORDER`` along an axis."""
    result: Labels = values.copy()
    for shift in range(1, min(BORDER, values.shape[axis] - 1) + 1):
        ahead, behind = np.moveaxis(result, axis, 0), np.moveaxis(values, axis, 0)
        extreme(ahead[shift:], behind[:-shift], out=ahead[shift:])
        extreme(ahead[:-shift], behind[shift:], out=ahead[:-shift])
    return result


def _pairs(frames: GateFrames) -> Iterator[tuple[Image, Labels | None]]:
    if frames.dataset is None:
        yield from ((read_image(path), None) for path in frames.images)
    else:
        for sample in frames.dataset.samples(frames.request.split):
            yield read_sample(frames.dataset, sample)
