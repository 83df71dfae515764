"""Training images and masks as tensors, in memory or from disk; knows nothing about augmentation or networks."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..dataset import Dataset, Sample, read_labels, read_sample
from ..pixels import Image, Labels, fit_image, restore_labels

_READERS = 4
_AHEAD = 3


@dataclass(frozen=True)
class RawBatch:
    """uint8 images ``[N, 3, H, W]`` BGR and masks ``[N, H, W]`` as the data set has them, and their names."""

    images: Tensor
    masks: Tensor
    names: tuple[str, ...]


class ImageStore:
    """Samples of a data set, all brought to one size.

    Args:
        dataset: the data set.
        samples: the samples to serve.
        size_hw: (height, width) that images and masks are brought to.
        memory_gib: samples are held in memory if they need no more than this, and else read when they are asked for.
        device: where the tensors of a batch lie; samples in memory are held there.

    Attributes:
        counts: pixels of each class, int64 ``[C]``.
        resident: whether the samples are held in memory.
    """

    def __init__(
        self,
        dataset: Dataset,
        samples: Sequence[Sample],
        size_hw: tuple[int, int],
        memory_gib: float,
        device: torch.device,
    ) -> None:
        self._dataset, self._samples, self._size_hw, self._device = dataset, tuple(samples), size_hw, device
        self.resident = len(self._samples) * 4 * size_hw[0] * size_hw[1] <= memory_gib * 2**30
        self._images = self._masks = torch.empty(0)
        classes = len(dataset.class_names)
        self.counts = torch.zeros(classes, dtype=torch.int64)
        if self.resident:
            images, masks = self._read(range(len(self._samples)))
            self._images, self._masks = images.to(device), masks.to(device)
            self.counts += sum(_count(mask, classes) for mask in masks)
        else:
            with ThreadPoolExecutor(_READERS) as readers:
                self.counts += sum(readers.map(lambda sample: _count(self._mask(sample), classes), self._samples))

    def __len__(self) -> int:
        return len(self._samples)

    def batches(self, order: Iterable[Sequence[int]]) -> Iterator[RawBatch]:
        """The batches of sample numbers, in their order; from disk they are read a few ahead in other threads."""
        if self.resident:
            for numbers in order:
                index = torch.tensor(list(numbers), device=self._device)
                images, masks = self._images.index_select(0, index), self._masks.index_select(0, index)
                yield RawBatch(images, masks, self._names(numbers))
            return
        waiting: deque[tuple[Sequence[int], Future[tuple[Tensor, Tensor]]]] = deque()
        with ThreadPoolExecutor(_READERS) as readers:
            try:
                for numbers in order:
                    waiting.append((numbers, readers.submit(self._read, numbers)))
                    if len(waiting) > _AHEAD:
                        yield self._take(*waiting.popleft())
                while waiting:
                    yield self._take(*waiting.popleft())
            finally:
                for _, future in waiting:
                    future.cancel()

    def _take(self, numbers: Sequence[int], future: Future[tuple[Tensor, Tensor]]) -> RawBatch:
        images, masks = future.result()
        return RawBatch(images.to(self._device), masks.to(self._device), self._names(numbers))

    def _names(self, numbers: Sequence[int]) -> tuple[str, ...]:
        return tuple(self._samples[number].name for number in numbers)

    def _mask(self, sample: Sample) -> Tensor:
        return torch.from_numpy(restore_labels(read_labels(self._dataset, sample), self._size_hw))

    def _read(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        height, width = self._size_hw
        images = np.empty((len(numbers), 3, height, width), np.uint8)
        masks = np.empty((len(numbers), height, width), np.uint8)
        for row, number in enumerate(numbers):
            image, mask = read_sample(self._dataset, self._samples[number])
            images[row] = fit_image(image, self._size_hw).transpose(2, 0, 1)
            masks[row] = restore_labels(mask, self._size_hw)
        return torch.from_numpy(images), torch.from_numpy(masks)


class EvaluationStore:
    """Samples for validation: frames at the network's size, labels at their own; kept in memory where they fit.

    Args:
        dataset: the data set.
        samples: the samples.
        size_hw: (height, width) of the network's input.
        memory_gib: limit for what is kept.
    """

    def __init__(
        self, dataset: Dataset, samples: Sequence[Sample], size_hw: tuple[int, int], memory_gib: float
    ) -> None:
        self._dataset, self._samples, self._size_hw = dataset, tuple(samples), size_hw
        self._left = memory_gib * 2**30
        self._kept: dict[int, tuple[Image, Labels]] = {}

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[tuple[Image, Labels]]:
        """Frames uint8 ``[*size_hw, 3]`` and labels uint8 ``[h, w]``."""
        for number, sample in enumerate(self._samples):
            pair = self._kept.get(number)
            if pair is None:
                image, mask = read_sample(self._dataset, sample)
                pair = fit_image(image, self._size_hw), mask
                needed = pair[0].nbytes + mask.nbytes
                if needed <= self._left:
                    self._left -= needed
                    self._kept[number] = pair
            yield pair


def _count(mask: Tensor, classes: int) -> Tensor:
    return torch.bincount(mask.flatten(), minlength=256)[:classes]


def iter_order(count: int, batch: int, steps: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Sample numbers of ``steps`` batches: whole shuffled passes one after the other, cut into batches."""
    pending: list[int] = []
    for _ in range(steps):
        while len(pending) < batch:
            pending += torch.randperm(count, generator=generator).tolist()
        yield pending[:batch]
        pending = pending[batch:]


def fingerprint(samples: Sequence[Sample]) -> str:
    """SHA-256 over the names and sizes of the files, by which a resumed run knows its data."""
    digest = hashlib.sha256()
    for sample in samples:
        for path in (sample.image, sample.mask):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


def image_tensor(frames: Sequence[NDArray[np.uint8]], device: torch.device) -> Tensor:
    """uint8 ``[N, 3, H, W]`` of frames ``[H, W, 3]``, channels last in memory, which is how they already lie."""
    return torch.from_numpy(np.stack(frames)).to(device).permute(0, 3, 1, 2)
