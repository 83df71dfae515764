"""GoogLeNet with batch norm; knows nothing about classes, scores or where weights come from.

Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, in the form that torchvision's ``googlenet`` has: batch
norm after each convolution and a 3x3 where the paper has a 5x5 (pytorch/vision issue 906). Names of the weights are
torchvision's. The auxiliary classifiers are left out: the FCN's coarser scores can be supervised instead.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Widths of each inception block: 1x1; 3x3 reduced, 3x3; "5x5" reduced, "5x5"; pooled.
_AT_8 = {"inception3a": (64, 96, 128, 16, 32, 32), "inception3b": (128, 128, 192, 32, 96, 64)}
_AT_16 = {
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
}
_AT_32 = {"inception5a": (256, 160, 320, 32, 128, 128), "inception5b": (384, 192, 384, 48, 128, 128)}


class GoogLeNetBackbone(nn.Module):
    """Features at strides 4 (conv3), 8 (inception 3b), 16 (4e) and 32 (5b).

    Pools round up, as torchvision's do, which makes every map exactly ``H / stride``.

    Attributes:
        channels: number of channels of the features at each stride.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvBnRelu(3, 64, kernel=7, stride=2)
        self.conv2 = ConvBnRelu(64, 64)
        self.conv3 = ConvBnRelu(64, 192, kernel=3)
        self.channels = {4: 192}
        wide = 192
        for stride, blocks in ((8, _AT_8), (16, _AT_16), (32, _AT_32)):
            for name, widths in blocks.items():
                block = Inception(wide, *widths)
                self.add_module(name, block)
                wide = block.wide_out
            self.channels[stride] = wide
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.pool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Features of a normalised image.

        Args:
            image: float ``[N, 3, H, W]``, H and W multiples of 32.

        Returns:
            ``{stride: [N, channels[stride], H / stride, W / stride]}``.
        """
        at4 = self.conv3(self.conv2(self.pool(self.conv1(image))))
        at8 = self._blocks(_AT_8, self.pool(at4))
        at16 = self._blocks(_AT_16, self.pool(at8))
        return {4: at4, 8: at8, 16: at16, 32: self._blocks(_AT_32, self.pool4(at16))}

    def _blocks(self, names: Iterable[str], maps: Tensor) -> Tensor:
        for name in names:
            maps = self.get_submodule(name)(maps)
        return maps


class Inception(nn.Module):
    """Four branches over the same maps, stacked: 1x1, 3x3, "5x5", pooled.

    Attributes:
        wide_out: number of channels of the stack.
    """

    def __init__(self, wide_in: int, one: int, three_in: int, three: int, five_in: int, five: int, pooled: int) -> None:
        super().__init__()
        self.branch1 = ConvBnRelu(wide_in, one)
        self.branch2 = nn.Sequential(ConvBnRelu(wide_in, three_in), ConvBnRelu(three_in, three, kernel=3))
        self.branch3 = nn.Sequential(ConvBnRelu(wide_in, five_in), ConvBnRelu(five_in, five, kernel=3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), ConvBnRelu(wide_in, pooled))
        self.wide_out = one + three + five + pooled

    def forward(self, maps: Tensor) -> Tensor:
        """``[N, wide_in, h, w]`` to ``[N, wide_out, h, w]``."""
        return torch.cat([self.branch1(maps), self.branch2(maps), self.branch3(maps), self.branch4(maps)], 1)


class ConvBnRelu(nn.Sequential):
    """Convolution, batch norm (epsilon 1e-3, as the published weights need) and ReLU; padded to keep ``h / stride``."""

    def __init__(self, wide_in: int, wide_out: int, kernel: int = 1, stride: int = 1) -> None:
        conv = nn.Conv2d(wide_in, wide_out, kernel, stride, kernel // 2, bias=False)
        layers = {"conv": conv, "bn": nn.BatchNorm2d(wide_out, eps=1e-3), "relu": nn.ReLU(inplace=True)}
        super().__init__(OrderedDict(layers))
