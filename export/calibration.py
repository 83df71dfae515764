"""What real frames tell of activations: ranges by histograms, means of channels; knows nothing about graphs.

A range is the largest magnitude that int8 still tells apart; what lies beyond is clipped. Ranges are symmetric, so
histograms are of magnitudes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from .qdq import LEVELS

BINS = 8192
_KL_BINS = 2048  # as TensorRT's calibrator; finer ones hold too few values each for a distribution
_CANDIDATES = 192


@dataclass(frozen=True, eq=False)
class Histogram:
    """Magnitudes seen in a tensor.

    Attributes:
        counts: int64 ``[BINS]``; bin ``i`` holds magnitudes from ``i * width`` to less than ``(i + 1) * width``.
        width: a power of two, so that the histogram does not depend on the order in which values came.
        largest: the largest magnitude.
    """

    counts: NDArray[np.int64]
    width: float
    largest: float


def histogram_of(values: NDArray[np.floating], before: Histogram | None = None) -> Histogram:
    """Count the magnitudes of a tensor of any shape, on top of an earlier histogram.

    The bins double their width where a value lies beyond the last of them, and pairs of bins merge.

    Raises:
        ModelError: if a value is not finite.
    """
    magnitudes = np.abs(values).ravel()
    top = float(magnitudes.max(initial=0))
    if not np.isfinite(top):
        raise ModelError("an activation is not finite on a calibration frame; the model was not trained to an end")
    largest = max(top, before.largest if before else 0.0)
    width = before.width if before else 2.0**-40
    counts = before.counts if before else np.zeros(BINS, np.int64)
    while largest >= width * BINS:
        counts = np.concatenate([counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)])
        width *= 2
    fresh = np.bincount((magnitudes * (1 / width)).astype(np.int32), minlength=BINS)
    return Histogram(counts + fresh, width, largest)


def scales_from(seen: Mapping[str, Seen], method: str) -> dict[str, float]:
    """One step of int8 for each tensor, by one of :data:`METHODS`."""
    choose = METHODS[method]
    # Zeros are exact in every range, so a tensor that was never anything else may have any.
    return {name: (choose(each.histogram) or 1.0) / LEVELS for name, each in seen.items()}


def minmax_range(histogram: Histogram) -> float:
    """The largest magnitude: nothing is clipped."""
    return histogram.largest


def percentile_range(histogram: Histogram, percent: float) -> float:
    """The magnitude that ``percent`` of the values do not exceed, to the width of a bin."""
    reached = np.cumsum(histogram.counts) >= percent / 100 * histogram.counts.sum()
    return min(float(np.argmax(reached) + 1) * histogram.width, histogram.largest)


def mse_range(histogram: Histogram) -> float:
    """The range with the smallest mean squared error of rounding and clipping together.

    For a normal distribution that is 3.92 standard deviations, for Laplace's 9.89 of its scale (Banner et al., "Post
    training 4-bit quantization of convolutional networks for rapid-deployment", 2019).
    """
    if not histogram.largest:
        return 0.0
    centres = (np.arange(BINS) + 0.5) * histogram.width
    used = histogram.counts > 0
    centres, counts = centres[used], histogram.counts[used]
    best, least = histogram.largest, np.inf
    for candidate in histogram.largest * np.geomspace(1, 1 / 64, _CANDIDATES):
        step = candidate / LEVELS
        rounded = np.minimum(np.rint(centres / step), LEVELS) * step
        error = float(counts @ (centres - rounded) ** 2)
        if error < least:
            best, least = float(candidate), error
    return best


def entropy_range(histogram: Histogram) -> float:
    """The range that keeps most of the distribution's information, by Kullback-Leibler divergence.

    Migacz, "8-bit Inference with TensorRT", 2017. Zeros, of which ReLU makes many, are exact in every range: the first
    bin takes its neighbour's count, as in NVIDIA's pytorch-quantization.
    """
    counts = histogram.counts.reshape(_KL_BINS, -1).sum(1).astype(np.float64)
    width = histogram.width * (BINS // _KL_BINS)
    counts[0] = counts[1]
    used = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 0
    levels = LEVELS + 1
    best, least = histogram.largest, np.inf
    for length in np.unique(np.linspace(min(levels, used), used, _CANDIDATES).astype(int))[::-1]:
        divergence = _divergence(counts, int(length), levels) if length >= levels else np.inf
        if divergence < least:
            best, least = float(length) * width, divergence
    return min(best, histogram.largest)


def _divergence(counts: NDArray[np.float64], length: int, levels: int) -> float:
    """How much of a distribution is lost when its first ``length`` bins become ``levels`` and the rest is clipped."""
    inside = counts[:length]
    clipped = inside.copy()
    clipped[-1] += counts[length:].sum()
    level = np.arange(length) * levels // length
    filled = np.bincount(level, inside > 0, minlength=levels)
    mean = np.bincount(level, inside, minlength=levels) / np.maximum(filled, 1)
    spread = np.where(inside > 0, mean[level], 0.0)
    present = clipped > 0
    if (spread[present] == 0).any():
        return float(np.inf)
    p, q = clipped[present] / clipped.sum(), spread[present] / spread.sum()
    return float(np.sum(p * np.log(p / q)))


METHODS: dict[str, Callable[[Histogram], float]] = {
    "minmax": minmax_range,
    "percentile99.99": lambda histogram: percentile_range(histogram, 99.99),
    "percentile99.9": lambda histogram: percentile_range(histogram, 99.9),
    "entropy": entropy_range,
    "mse": mse_range,
}


@dataclass(frozen=True, eq=False)
class Seen:
    """What frames told of an activation.

    Attributes:
        histogram: of its magnitudes.
        means: float64 ``[C]``, of each channel.
        frames: how many.
    """

    histogram: Histogram
    means: NDArray[np.float64]
    frames: int


def seen_from(batches: Iterable[Mapping[str, NDArray[np.floating]]]) -> dict[str, Seen]:
    """What named tensors ``[1, C, h, w]`` hold over frames that come one by one; none of them is kept.

    Raises:
        ModelError: if a value is not finite.
    """
    found: dict[str, Seen] = {}
    for batch in batches:
        for name, values in batch.items():
            before = found.get(name)
            histogram = histogram_of(values, before.histogram if before else None)
            means, frames = values.mean((0, 2, 3), dtype=np.float64), before.frames + 1 if before else 1
            found[name] = Seen(histogram, before.means + (means - before.means) / frames if before else means, frames)
    return found
