"""The edge backbone: plain residual blocks, made to lose little in INT8; knows nothing about classes or scores.

Blocks are two dense 3x3 convolutions with batch norm and an identity (He et al., "Deep Residual Learning", CVPR 2016).
No depthwise convolution, squeeze-excite or hard-swish: dense convolutions gain most from INT8 tensor cores and lose
least to quantisation. The work is spent at stride 8; stride 16 is dilated a little; stride 32 is thin.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class EdgeWidths:
    """Widths and depths of a variant: two stem convolutions, then (width, dilation of each block) for each stride."""

    stem: tuple[int, int]
    s4: tuple[int, tuple[int, ...]]
    s8: tuple[int, tuple[int, ...]]
    s16: tuple[int, tuple[int, ...]]
    s32: tuple[int, tuple[int, ...]]


EDGE = {
    "edge-n": EdgeWidths((32, 32), (32, (1,)), (64, (1,) * 3), (96, (1, 2, 4)), (128, (1,))),
    "edge-s": EdgeWidths((32, 32), (32, (1,)), (96, (1,) * 4), (128, (1, 2, 2, 4)), (192, (1,))),
    "edge-m": EdgeWidths((32, 64), (64, (1,)), (128, (1,) * 4), (192, (1, 2, 2, 4)), (256, (1,))),
    "edge-t": EdgeWidths((64, 64), (64, (1,) * 2), (192, (1,) * 6), (256, (1, 1, 2, 2, 4, 4)), (384, (1, 1))),
}


class EdgeBackbone(nn.Module):
    """Features at strides 4, 8, 16 and 32.

    Attributes:
        channels: number of channels of the features at each stride.
    """

    def __init__(self, widths: EdgeWidths) -> None:
        super().__init__()
        first, second = widths.stem
        self.stem = nn.Sequential(conv_bn_relu(3, first, stride=2), conv_bn_relu(first, second, stride=2))
        self.s4 = _stage(second, *widths.s4, stride=1)
        self.s8 = _stage(widths.s4[0], *widths.s8, stride=2)
        self.s16 = _stage(widths.s8[0], *widths.s16, stride=2)
        self.s32 = _stage(widths.s16[0], *widths.s32, stride=2)
        self.channels = {4: widths.s4[0], 8: widths.s8[0], 16: widths.s16[0], 32: widths.s32[0]}

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Features of a normalised image.

        Args:
            image: float ``[N, 3, H, W]``, H and W multiples of 32.

        Returns:
            ``{stride: [N, channels[stride], H / stride, W / stride]}``.
        """
        at4 = self.s4(self.stem(image))
        at8 = self.s8(at4)
        at16 = self.s16(at8)
        return {4: at4, 8: at8, 16: at16, 32: self.s32(at16)}


class Residual(nn.Module):
    """``relu(conv(relu(conv(x))) + x)``; a 1x1 convolution on the identity where stride or width change."""

    def __init__(self, wide_in: int, wide_out: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn_relu(wide_in, wide_out, stride=stride, dilation=dilation),
            nn.Conv2d(wide_out, wide_out, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(wide_out),
        )
        same = stride == 1 and wide_in == wide_out
        self.identity = nn.Identity() if same else conv_bn(wide_in, wide_out, kernel=1, stride=stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        """``[N, wide_in, h, w]`` to ``[N, wide_out, h / stride, w / stride]``."""
        total: Tensor = self.relu(self.body(maps) + self.identity(maps))
        return total


def conv_bn(wide_in: int, wide_out: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution and batch norm, padded to keep ``h / stride``."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(wide_in, wide_out, kernel, stride, padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(wide_out))


def conv_bn_relu(wide_in: int, wide_out: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution, batch norm and ReLU."""
    return nn.Sequential(*conv_bn(wide_in, wide_out, kernel, stride, dilation), nn.ReLU(inplace=True))


def _stage(wide_in: int, wide_out: int, dilations: tuple[int, ...], stride: int) -> nn.Sequential:
    blocks = OrderedDict[str, nn.Module]()
    for index, dilation in enumerate(dilations):
        first = index == 0
        blocks[f"block{index}"] = Residual(wide_in if first else wide_out, wide_out, stride if first else 1, dilation)
    return nn.Sequential(blocks)
