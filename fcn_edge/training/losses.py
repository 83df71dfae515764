"""Losses on score maps and labels; knows nothing about images, optimisers or files.

Labels are int64 with -1 for pixels that do not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.head import bilinear_kernel, upsample

IGNORED = -1
_OHEM_SURE = 0.7
_OHEM_LEAST = 1 / 16
_AUX_EVERY = 8


def segmentation_loss(
    scores: Sequence[Tensor],
    kernels: Sequence[Tensor],
    labels: Tensor,
    *,
    loss: str = "ce",
    weights: Tensor | None = None,
    adjustment: Tensor | None = None,
    label_weight: float = 1.0,
    aux: float = 0.0,
    lovasz: float = 0.0,
    every: int = 1,
    generator: torch.Generator | None = None,
    teachers: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]] = (),
    distill: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """The whole training loss of a batch.

    The loss of the full-resolution logits is estimated on a regular grid of pixels with a random origin: the
    transposed convolution is linear, so its output on every n-th pixel is that of the kernel's every n-th value with
    an n times smaller stride. That is exact for those pixels and costs 1 / n^2. The auxiliary losses, those of FCN-32s
    and FCN-16s with bilinear kernels (Long et al., CVPR 2015), are taken on every 8th pixel in the same way.

    Args:
        scores: float32 ``[N, C, h_i, w_i]`` coarse to fine.
        kernels: the head's, coarse to fine.
        labels: int64 ``[N, H, W]``.
        loss: ``ce`` or ``ohem``.
        weights: float32 ``[C]``, one for each class; None: all 1.
        adjustment: float32 ``[C]``, added to the logits that the labels are compared with (:mod:`.adjustment`); None:
            nothing.
        label_weight: weight of what the labels say, the auxiliary and the Lovasz-softmax loss included.
        aux: weight of the auxiliary losses.
        lovasz: weight of the Lovasz-softmax loss.
        every: n; half the finest stride at most is taken, the teachers' finest strides included.
        generator: draws the grids' origins; None: they lie at the top left.
        teachers: of each other network its scores of the same images and its kernels, both coarse to fine.
        distill: weight of the :func:`distillation_loss` on the pixels of the main loss.
        temperature: of that loss.

    Returns:
        float32 scalar.
    """
    plain = ohem if loss == "ohem" else cross_entropy

    def criterion(logits: Tensor, chosen: Tensor) -> Tensor:
        return plain(logits if adjustment is None else logits + adjustment.view(-1, 1, 1), chosen, weights)

    sums = _running_sums(scores, kernels)
    finest = kernels[-1].shape[-1] // 2
    # A stride of at least 2 must be left to each transposed convolution.
    every = min(every, finest // 2, *(others[-1].shape[-1] // 4 for _, others in teachers))
    origin = _draw_origin(every, generator)
    logits, chosen = _on_grid(sums[-1], kernels[-1], labels, every, origin)
    value = logits.new_zeros(())
    if label_weight:
        value = criterion(logits, chosen)
        if lovasz:
            step = 4 // every  # the loss sorts all pixels once for each class: a sixteenth of them is enough
            value = value + lovasz * lovasz_softmax(logits[..., ::step, ::step], chosen[..., ::step, ::step])
        for index, maps in enumerate(sums[:-1] if aux else ()):
            stride = finest * 2 ** (len(sums) - 1 - index)
            kernel = bilinear_kernel(stride, maps.shape[1]).to(maps)
            step = min(_AUX_EVERY, stride // 2)
            value = value + aux * criterion(*_on_grid(maps, kernel, labels, step, _draw_origin(step, generator)))
        value = label_weight * value
    if teachers and distill:
        answers = [_on_grid(_running_sums(*other)[-1], other[1][-1], labels, every, origin)[0] for other in teachers]
        value = value + distill * distillation_loss(logits, answers, temperature)
    return value


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy, weighted by class; 0 where no pixel counts.

    Args:
        logits: float ``[N, C, H, W]``.
        labels: int64 ``[N, H, W]``.
        weights: float ``[C]`` or None.
    """
    total = F.cross_entropy(logits, labels, weights, ignore_index=IGNORED, reduction="sum")
    return total / _weight_sum(labels, weights, logits.shape[1]).clamp(min=1e-6)


def ohem(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of the hard pixels only: those whose class has a probability below 0.7, at least a sixteenth.

    Shrivastava et al., "Training Region-based Object Detectors with Online Hard Example Mining", CVPR 2016, in the
    form for pixels of Wu et al., arXiv:1605.06885.
    """
    plain = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none").flatten()
    flat = labels.flatten()
    counted = flat != IGNORED
    plain, flat = plain[counted], flat[counted]
    if not plain.numel():
        return logits.sum() * 0
    least = max(1, int(plain.numel() * _OHEM_LEAST))
    hard = plain.detach() > -math.log(_OHEM_SURE)
    if int(hard.sum()) < least:
        hardest = plain.detach().topk(least).indices
        plain, flat = plain[hardest], flat[hardest]
    else:
        plain, flat = plain[hard], flat[hard]
    if weights is None:
        return plain.mean()
    return (plain * weights[flat]).sum() / weights[flat].sum()


def lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Lovasz extension of the Jaccard loss, mean over the classes present (Berman et al., CVPR 2018)."""
    counted = labels != IGNORED
    probabilities = logits.softmax(1).movedim(1, -1)[counted]
    flat = labels[counted]
    losses = []
    for class_id in torch.unique(flat).tolist():
        truth = (flat == class_id).to(probabilities.dtype)
        errors, order = (truth - probabilities[:, class_id]).abs().sort(descending=True)
        sorted_truth = truth[order]
        missed = sorted_truth.sum() - sorted_truth.cumsum(0)
        union = sorted_truth.sum() + (1 - sorted_truth).cumsum(0)
        jaccard = 1 - missed / union
        losses.append(errors @ torch.diff(jaccard, prepend=jaccard.new_zeros(1)))
    return torch.stack(losses).mean() if losses else logits.sum() * 0


def distillation_loss(logits: Tensor, answers: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of the softened class distributions from the teachers', mean over all pixels.

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, with its factor of the temperature squared,
    which keeps the gradient's size; for each pixel as in Liu et al., "Structured Knowledge Distillation for Semantic
    Segmentation", CVPR 2019. A teacher has an answer for every pixel, so those whose label is ignored count too.
    Several teachers' softened distributions are averaged, as Hinton et al. do.

    Args:
        logits: float ``[N, C, H, W]``.
        answers: each teacher's logits, of the same shape; no gradient goes there.
        temperature: by which all are divided.

    Returns:
        Scalar, 0 where both distributions are the same.
    """
    own = (logits / temperature).log_softmax(1)
    softened = torch.stack([(each.detach() / temperature).log_softmax(1) for each in answers])
    wanted = softened.logsumexp(0) - math.log(len(answers))
    divergence = F.kl_div(own, wanted, reduction="sum", log_target=True)
    return divergence * temperature**2 / (logits.numel() / logits.shape[1])


def enet_weights(counts: Tensor) -> Tensor:
    """``1 / ln(1.10 + share)`` of each class (ENet, arXiv:1606.02147 with 1.10 for 1.02), mean 1 over the classes.

    Args:
        counts: pixels of each class ``[C]``.
    """
    share = counts.double() / counts.sum().clamp(min=1)
    weights = 1 / torch.log(1.10 + share)
    return (weights / weights.mean()).float()


def _running_sums(scores: Sequence[Tensor], kernels: Sequence[Tensor]) -> list[Tensor]:
    """The head's running sum after each of the score maps, coarse to fine; the last is brought to full resolution."""
    sums = [scores[0]]
    for finer, kernel in zip(scores[1:], list(kernels)[:-1], strict=True):
        sums.append(upsample(sums[-1], kernel) + finer)
    return sums


def _draw_origin(every: int, generator: torch.Generator | None) -> tuple[int, int]:
    if every == 1 or generator is None:
        return 0, 0
    top, left = torch.randint(every, (2,), generator=generator).tolist()
    return top, left


def _on_grid(
    maps: Tensor, kernel: Tensor, labels: Tensor, every: int, origin: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Logits and labels of every n-th pixel of both directions, from the origin (top, left) on."""
    top, left = origin
    chosen = labels[:, top::every, left::every]
    logits = upsample(maps, kernel[..., top::every, left::every])
    return logits[..., : chosen.shape[1], : chosen.shape[2]], chosen


def _weight_sum(labels: Tensor, weights: Tensor | None, classes: int) -> Tensor:
    if weights is None:
        return (labels != IGNORED).sum()
    return torch.bincount(labels.flatten() + 1, minlength=classes + 1)[1:].to(weights.dtype) @ weights
