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
        scores: float32 ``[N, C, h_i, w_i]`` for each of ``STRIDES``.
        kernels: float32 ``[C, 1, 4, 4]``, last ``[C, 1, 2s, 2s]``.
    """

    size_hw: tuple[int, int]
    scores: list[Floats]
    kernels: list[Floats]

    @property
    def grid_hw(self) -> tuple[int, int]:
        """(height, width) of the coarsest scores."""
        return self.scores[0].shape[2], self.scores[0].shape[3]


def make_case(size_hw: tuple[int, int], classes: int, batch: int = 1, seed: int = 0) -> Case:
    """Random scores of ``batch`` images, and bilinear kernels moved at random as training would."""
    rng = np.random.default_rng(seed)
    sides = [tuple(-(-side // STRIDES[0]) << i for side in size_hw) for i in range(len(STRIDES))]
    scores = [rng.standard_normal((batch, classes, h, w), np.float32) for h, w in sides]
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
        labels: uint8 ``[N, H, W]``.
        others: uint8 ``[N, H, W]``. An id that is no class is never a tie.
    """
    different = np.nonzero(labels != others)
    answers = labels[different], others[different]
    total = case.scores[0]
    for kernel, finer in zip(case.kernels[:-1], case.scores[1:], strict=True):
        total = transposed_convolution_numpy(total, kernel) + finer
    # Class by class: the full-resolution sums of all classes of a batch would be gigabytes.
    mine, theirs = np.full(answers[0].shape, np.inf), np.full(answers[0].shape, -np.inf)
    for c in np.intersect1d(answers, np.arange(total.shape[1])):
        values = transposed_convolution_numpy(total[:, c : c + 1], case.kernels[-1][c : c + 1])[:, 0][different]
        mine[answers[0] == c] = values[answers[0] == c]
        theirs[answers[1] == c] = values[answers[1] == c]
    return len(mine), int((np.abs(mine - theirs) > TIE).sum())
