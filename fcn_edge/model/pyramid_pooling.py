"""Context at stride 32: what stands around a cell, averaged over windows of three sizes.

Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, with sliding windows of 5, 9 and 17 cells as in DDRNet (Hong et
al., "Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road Scenes", 2021) in place of
a fixed number of bins, so that nothing depends on the size of the image. Knows nothing about classes, scores or which
backbone it stands on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .edge import conv_bn, conv_bn_relu

WINDOWS = (5, 9, 17)
"""Sides of the windows in cells: 160, 288 and 544 pixels, where the image does not end before."""
_SEEN = 64


class PyramidPooling(nn.Module):
    """Features plus what a 1x1 convolution makes of their surroundings; at first it adds nothing.

    Args:
        width: number of channels of the features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.narrow = conv_bn_relu(width, _SEEN, kernel=1)
        self.widen = conv_bn(len(WINDOWS) * _SEEN, width, kernel=1)
        nn.init.zeros_(self.widen[1].weight)  # type: ignore[arg-type]

    def forward(self, maps: Tensor) -> Tensor:
        """``[N, width, h, w]`` to the same shape."""
        seen = self.narrow(maps)
        around = [F.avg_pool2d(seen, side, stride=1, padding=side // 2, count_include_pad=False) for side in WINDOWS]
        total: Tensor = self.widen(torch.cat(around, 1)) + maps
        return total
