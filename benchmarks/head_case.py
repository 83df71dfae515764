"""Inputs on which skip heads are compared, and what counts as a difference; knows nothing about who computes labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..skip_head import Floats, Labels, transposed_convolution_numpy

STRIDES = (32, 16, 8)
TIE = 1e-4
"""Labels may differ where the two best classes are this close: runtimes sum in different orders."""


@dataclass(frozen=True)
class Case:
    """One head and its input.

    Attributes:
        size_hw: (height, width) of the labels.
        scores: float32 ``[1, C, h_i, w_i]`` for each of ``STRIDES``.
        kernels: float32 ``[C, 1, 4, 4]``, last ``[C, 1, 2s, 2s]``.
    """

    size_hw: tuple[int, int]
    scores: list[Floats]
    kernels: list[Floats]

    @property
    def grid_hw(self) -> tuple[int, int]:
        """(height, width) of the coarsest scores."""
        return self.scores[0].shape[2], self.scores[0].shape[3]


def make_case(size_hw: tuple[int, int], classes: int, seed: int = 0) -> Case:
    """Random scores, and bilinear kernels moved at random as training would."""
    rng = np.random.default_rng(seed)
    sides = [tuple(-(-side // STRIDES[0]) << i for side in size_hw) for i in range(len(STRIDES))]
    scores = [rng.standard_normal((1, classes, h, w), np.float32) for h, w in sides]
    kernels = []
    for s in (2, 2, STRIDES[-1]):
        ramp = 1 - np.abs(np.arange(2 * s) - s + 0.5) / s
        moved = np.outer(ramp, ramp) + 0.05 * rng.standard_normal((classes, 1, 2 * s, 2 * s))
        kernels.append(moved.astype(np.float32))
    return Case(size_hw, scores, kernels)


def differing_pixels(case: Case, labels: Labels, others: Labels) -> tuple[int, int]:
    """Pixels where two answers differ, and how many of these are no ties.

    Args:
        case: what both answered.
        labels: uint8 ``[1, H, W]``.
        others: uint8 ``[1, H, W]``.
    """
    different = labels != others
    total = case.scores[0]
    for kernel, finer in zip(case.kernels[:-1], case.scores[1:], strict=True):
        total = transposed_convolution_numpy(total, kernel) + finer
    height, width = case.size_hw
    logits = transposed_convolution_numpy(total, case.kernels[-1])[:, :, :height, :width]
    pairs = [np.take_along_axis(logits, answer[:, None].astype(np.int64), axis=1)[:, 0] for answer in (labels, others)]
    apart = np.abs(pairs[0] - pairs[1]) > TIE
    return int(different.sum()), int((different & apart).sum())
