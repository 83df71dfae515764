"""The loss that pulls a network's features towards a teacher's; knows nothing about scores, labels or steps.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015: features have other widths, so each stride's pass a
learned 1x1 convolution first, which is left behind after training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..model.fcn import FCN


class Hints(nn.Module):
    """What a teacher's features hold that a network's do not, on the strides that both score.

    The convolutions start at zero, where the loss is 1 and the network is not yet pulled.

    Args:
        model: the network that learns.
        teacher: the one it learns from.
    """

    def __init__(self, model: FCN, teacher: FCN) -> None:
        super().__init__()
        self._own, self._taught = model.strides, teacher.strides
        self._shared = [stride for stride in model.strides if stride in teacher.strides]
        own, taught = (_channels(network) for network in (model, teacher))
        self.convs = nn.ModuleList(nn.Conv2d(own[stride], taught[stride], 1) for stride in self._shared)
        for conv in self.convs:
            nn.init.zeros_(conv.weight)  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, own: Sequence[Tensor], taught: Sequence[Tensor]) -> Tensor:
        """Share of the variance of the teacher's features that a linear map of one's own leaves, mean over the strides.

        Args:
            own: float32 features of the network ``[N, channels, h, w]``, coarse to fine.
            taught: the teacher's of the same images; no gradient goes there.

        Returns:
            float32 scalar.
        """
        mine, wanted = dict(zip(self._own, own, strict=True)), dict(zip(self._taught, taught, strict=True))
        losses = [
            F.mse_loss(conv(mine[stride]), _standardised(wanted[stride].detach()))
            for stride, conv in zip(self._shared, self.convs, strict=True)
        ]
        return torch.stack(losses).mean()


def _channels(network: FCN) -> dict[int, int]:
    widths: list[int] = [conv.in_channels for conv in network.score_convs]  # type: ignore[misc]
    return dict(zip(network.strides, widths, strict=True))


def _standardised(maps: Tensor) -> Tensor:
    """Mean 0 and variance 1 in each channel of the batch: a channel with large values is not worth more."""
    return F.batch_norm(maps, None, None, training=True, eps=1e-3)
