"""Inputs on which skip heads are compared, and what counts as a difference; knows nothing about who computes labels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..skip_head import Floats, Labels, transposed_convolution_numpy

Indices = NDArray[np.intp]

HEADS = ((32, 16, 8), (32, 16, 8, 4))
"""Strides of the scores of the heads that are compared: 8s, and 4s, which the models that ship have."""

TIE = 1e-4
"""Labels may differ where the two best classes are this close: runtimes sum in different orders."""


@dataclass(frozen=True)
class Case:
    """One head and its input.

    Attributes:
        size_hw: (height, width) of the labels.
        scores: float32 ``[N, C, h_i, w_i]``, coarse to fine.
        kernels: float32 ``[C, 1, 4, 4]``, last ``[C, 1, 2s, 2s]``.
    """

    size_hw: tuple[int, int]
    scores: list[Floats]
    kernels: list[Floats]

    @property
    def grid_hw(self) -> tuple[int, int]:
        """(height, width) of the coarsest scores."""
        return self.scores[0].shape[2], self.scores[0].shape[3]

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each of the scores, coarse to fine: each grid is twice as fine as the one before."""
        finest = self.kernels[-1].shape[-1] // 2
        return tuple(finest << i for i in reversed(range(len(self.scores))))


def head_name(strides: Sequence[int]) -> str:
    """What a head is called, by its finest stride: ``8s``, ``4s``."""
    return f"{strides[-1]}s"


def make_case(size_hw: tuple[int, int], classes: int, batch: int = 1, strides: Sequence[int] = HEADS[0]) -> Case:
    """Random scores of ``batch`` images, and bilinear kernels moved at random as training would."""
    rng = np.random.default_rng(0)
    sides = [tuple(-(-side // strides[0]) << i for side in size_hw) for i in range(len(strides))]
    scores = [rng.standard_normal((batch, classes, h, w), np.float32) for h, w in sides]
    kernels = []
    for s in (*[2] * (len(strides) - 1), strides[-1]):
        ramp = 1 - np.abs(np.arange(2 * s) - s + 0.5) / s
        moved = np.outer(ramp, ramp) + 0.05 * rng.standard_normal((classes, 1, 2 * s, 2 * s))
        kernels.append(moved.astype(np.float32))
    return Case(size_hw, scores, kernels)


def differing_pixels(case: Case, labels: Labels, others: Labels) -> tuple[int, int]:
    """Pixels where two answers differ, and how many of these are no ties.

    Args:
        case: what both answered.
        labels: uint8 ``[N, H, W]``.
        others: uint8 ``[N, H, W]``. An id that is no class is never a tie.
    """
    different = np.nonzero(labels != others)
    total = case.scores[0]
    for kernel, finer in zip(case.kernels[:-1], case.scores[1:], strict=True):
        total = transposed_convolution_numpy(total, kernel) + finer
    mine, theirs = (_sums_at(total, case.kernels[-1], different, answer[different]) for answer in (labels, others))
    return len(mine), int((~(np.abs(mine - theirs) <= TIE)).sum())


def _sums_at(total: Floats, kernel: Floats, pixels: tuple[Indices, ...], classes: Labels) -> Floats:
    """The last transposed convolution at some pixels: those of a batch at full resolution would be gigabytes.

    Args:
        total: float32 ``[N, C, h, w]``, the sum on the finest grid.
        kernel: float32 ``[C, 1, 2s, 2s]``.
        pixels: images, rows and columns, ``[K]`` each.
        classes: uint8 ``[K]``, the class whose sum is wanted; NaN is that of an id that is no class.
    """
    images, rows, columns = pixels
    stride, (height, width) = kernel.shape[-1] // 2, total.shape[2:]
    known = classes < total.shape[1]
    ids = np.where(known, classes, 0)
    sums: Floats = np.where(known, np.float32(0), np.float32(np.nan))
    for above, left in itertools.product((0, 1), (0, 1)):  # two rows and two columns of the grid reach a pixel
        i, j = ((at + stride // 2) // stride - back for at, back in ((rows, above), (columns, left)))
        weights = kernel[ids, 0, rows + stride // 2 - i * stride, columns + stride // 2 - j * stride]
        inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
        values = total[images, ids, i.clip(0, height - 1), j.clip(0, width - 1)]
        sums += np.where(inside, weights * values, np.float32(0))
    return sums
