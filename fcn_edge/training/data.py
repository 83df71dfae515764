"""What a run trains and validates on, opened and checked before anything else; knows nothing about optimisation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import nn

from .. import dataset
from ..contract import Contract
from ..dataset import Sample
from ..errors import UsageError
from ..model.fcn import FCN, MEAN_BGR, STD_BGR, make_model
from ..pixels import read_image
from .batches import EvaluationStore, ImageStore, fingerprint
from .config import TrainConfig

log = logging.getLogger(__name__)

_LEAST_CROP = 32
_MODERATE = 360 * 640


@dataclass(frozen=True)
class TrainData:
    """The images of a run.

    Attributes:
        train: images that are trained on.
        val: images that are validated on; empty if the data set has none or they are trained on.
        contract: of the model to be trained.
        fingerprint: SHA-256 over the names and sizes of the training files.
    """

    train: ImageStore
    val: EvaluationStore
    contract: Contract
    fingerprint: str


def open_data(
    config: TrainConfig, device: torch.device, on_read: Callable[[int, int], None] | None = None
) -> tuple[TrainConfig, TrainData]:
    """Open the data set, read and check every file of it that the run needs, and load it.

    Args:
        config: the options of the run.
        device: where the training images lie.
        on_read: as for :func:`fcn_edge.dataset.check`.

    Returns:
        The configuration with the sizes filled in that it leaves to the data, and the data.

    Raises:
        UsageError: if the folder, a split, a class or the model does not exist.
        DataError: if files have problems; all of them are listed.
    """
    if not config.data:
        raise UsageError('no data folder is given; use --data DIR, or a line data = "DIR" in the configuration')
    opened = dataset.open_dataset(Path(config.data), config.classes, config.holdout)
    model = make_model(config.model, len(opened.class_names))
    strides = model.strides
    # A validation on images that are trained on would only measure how well they are remembered.
    has_val = opened.splits.get("val") or opened.unpaired.get("val")  # the second are told by the check
    validated = ("val",) if has_val and "val" not in config.splits else ()
    dataset.check(opened, [*config.splits, *validated], on_read)

    samples = [sample for split in config.splits for sample in opened.samples(split)]
    size_hw = config.size or _size_of(samples[0])
    crop_hw = config.crop or _default_crop(size_hw, strides[0])
    _refuse_single_values(config, model, crop_hw)
    if config.size is None:
        _tell_of_large(size_hw, strides[0])
    contract = Contract(
        config.model,
        size_hw,
        opened.class_names,
        opened.palette,
        MEAN_BGR,
        STD_BGR,
        strides,
        opened.ignore_id,
    )
    held_out = [sample for split in validated for sample in opened.samples(split)]
    data = TrainData(
        ImageStore(opened, samples, size_hw, config.memory_gib, device),
        EvaluationStore(opened, held_out, size_hw, config.memory_gib),
        contract,
        fingerprint(samples),
    )
    _warn_of_absent(data)
    if not validated and "val" not in config.splits:
        _warn_of_no_val(opened)
    return msgspec.structs.replace(config, size=size_hw, crop=crop_hw), data


def _refuse_single_values(config: TrainConfig, model: FCN, crop_hw: tuple[int, int]) -> None:
    """A batch norm cannot learn of a channel that has one value."""
    is_one_cell = max(crop_hw) <= model.strides[0] and config.batch == 1
    keeps_norms = config.freeze_bn or config.qat
    if is_one_cell and not keeps_norms and any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        raise UsageError(
            f"one crop of {crop_hw[0]}x{crop_hw[1]} is a single cell at stride {model.strides[0]}, from which batch "
            "norm learns nothing; use --batch 2, a larger --crop or --freeze-bn"
        )


def _tell_of_large(size_hw: tuple[int, int], stride: int) -> None:
    """Say what images cost that nobody asked to see at their full size, such as those of a 1080p camera."""
    height, width = size_hw
    times = height * width / _MODERATE
    if times >= 2:
        less_h, less_w = (max(1, round(side / times**0.5 / stride)) * stride for side in size_hw)
        log.info(
            "the network will see images of %dx%d, as large as the first one is; with --size %dx%d training and every "
            "frame later take about 1/%.0f of the time, and small things are seen less well",
            height, width, less_h, less_w, height * width / (less_h * less_w),
        )  # fmt: skip


def _warn_of_absent(data: TrainData) -> None:
    """Tell of classes that no training mask shows, as where masks of two classes hold 0 and 255."""
    names = data.contract.class_names
    absent = [name for name, count in zip(names, data.train.counts.tolist(), strict=True) if not count]
    if absent:
        ignored = "" if data.contract.ignore_id is None else f", {data.contract.ignore_id} is ignored"
        log.warning(
            "no training mask has a pixel of %s, which will not be learned (masks hold ids 0 to %d%s)",
            ", ".join(absent), len(names) - 1, ignored,
        )  # fmt: skip


def _warn_of_no_val(opened: dataset.Dataset) -> None:
    """Tell that nothing is validated, as where the folder is called valid; whoever trains on val knows it."""
    found = ", ".join(split for split, samples in opened.splits.items() if samples)
    log.warning(
        "no split 'val' (splits with images: %s): nothing is validated and best.pt is the last epoch; rename the "
        "folder to val or use --holdout", found,
    )  # fmt: skip


def _size_of(sample: Sample) -> tuple[int, int]:
    height, width = read_image(sample.image).shape[:2]
    return height, width


def _default_crop(size_hw: tuple[int, int], stride: int) -> tuple[int, int]:
    """Four fifths of the size, in whole coarse cells: no work is lost on padding."""
    height, width = (max(_LEAST_CROP, round(0.8 * side / stride) * stride) for side in size_hw)
    return height, width
