"""Batch norm's statistics taken anew once the weights are final; knows nothing about losses or epochs.

Wu & Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3: running statistics lag behind the weights, and those
of averaged weights belong to no weights at all; a true average over some batches belongs to the final ones.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ..model.fcn import FCN
from .batches import ImageStore, iter_order
from .config import TrainConfig


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
def take_statistics(model: FCN, store: ImageStore, config: TrainConfig) -> None:
    """Replace the running statistics of every batch norm by those over ``config.precise_bn`` training batches.

    The images are whole and not augmented: that is what the model sees at inference, padding included. As in training,
    each batch is normalised with its own statistics on its way to deeper layers. Which images are taken is drawn from
    the run's seed, but not from the run's generator, so that the run stays what it is without this.

    Args:
        model: in eval mode, in which it is left.
        store: the training images.
        config: number of batches, their size and the seed.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    moments = [_Moments() for _ in norms]
    hooks = [norm.register_forward_pre_hook(partial(_look, seen)) for norm, seen in zip(norms, moments, strict=True)]
    generator = torch.Generator().manual_seed(config.seed)
    for norm in norms:
        norm.train()
    try:
        for raw in store.batches(iter_order(len(store), config.batch, config.precise_bn, generator)):
            model.scores(model.features(raw.images.contiguous(memory_format=torch.channels_last)))
    finally:
        for hook in hooks:
            hook.remove()
        model.eval()
    for norm, seen in zip(norms, moments, strict=True):
        seen.write(norm)


def _look(moments: _Moments, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    moments.add(inputs[0])
