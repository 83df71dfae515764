"""Batch norm's statistics taken anew once the weights are final; knows nothing about losses or epochs.

Wu & Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3: running statistics lag behind the weights, and those
of averaged weights belong to no weights at all; a true average over some batches belongs to the final ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from ..model.fcn import FCN


class _Moments:
    """Mean and variance of each channel over all batches that are added; those are of one size."""

    def __init__(self) -> None:
        self._means: list[Tensor] = []
        self._squares: list[Tensor] = []
        self._count = 0

    def add(self, maps: Tensor) -> None:
        variance, mean = torch.var_mean(maps, (0, 2, 3), correction=0)
        self._means.append(mean.double())
        self._squares.append(variance.double() + mean.double().square())
        self._count += maps.numel() // maps.shape[1]

    def write(self, norm: nn.BatchNorm2d) -> None:
        """Into a batch norm, whose running variance is, as torch has it, the unbiased one."""
        mean = torch.stack(self._means).mean(0)
        variance = torch.stack(self._squares).mean(0) - mean.square()
        norm.get_buffer("running_mean").copy_(mean)
        norm.get_buffer("running_var").copy_(variance.clamp(min=0) * self._count / max(self._count - 1, 1))


@torch.no_grad()
def take_statistics(model: FCN, batches: Iterable[Tensor], frozen: Collection[str] = ()) -> None:
    """Replace the running statistics of batch norms by those over some batches of one size.

    As in training, each batch is normalised with its own statistics on its way to deeper layers.

    Args:
        model: in eval mode, in which it is left.
        batches: images ``[N, 3, H, W]`` BGR as they come to the network.
        frozen: names of the norms that keep theirs, by which they normalise.
    """
    norms = [
        module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d) and name not in frozen
    ]
    moments = [_Moments() for _ in norms]
    hooks = [norm.register_forward_pre_hook(partial(_look, seen)) for norm, seen in zip(norms, moments, strict=True)]
    for norm in norms:
        norm.train()
    try:
        for images in batches:
            model.scores(model.features(images))
    finally:
        for hook in hooks:
            hook.remove()
        model.eval()
    for norm, seen in zip(norms, moments, strict=True):
        seen.write(norm)


def _look(moments: _Moments, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    moments.add(inputs[0])
