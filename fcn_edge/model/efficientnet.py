"""EfficientNet-Lite; knows nothing about classes, scores or where weights come from.

Tan, Le, "EfficientNet", ICML 2019, in the form that Google made for edge devices: no squeeze-and-excitation, ReLU6 for
swish, stem and last stage of a fixed size (tensorflow/tpu, ``efficientnet/lite``). Blocks are those of MobileNetV2
(Sandler et al., CVPR 2018). Names of the weights are those of the package ``efficientnet_lite_pytorch``.

The slim form has half the channels inside each block, where nearly all of the work and of the time is.
"""

from __future__ import annotations

import math

import torch.fx
from torch import Tensor, nn

from .depthwise import DepthwiseConv2d, relu6

torch.fx.wrap("relu6")

# kernel, stride, expansion, width, depth of each stage before scaling; features leave where the next stride begins.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STRIDE_AFTER = {1: 4, 2: 8, 4: 16, 6: 32}  # by the number of the stage
_STEM = 32


class EfficientNetLiteBackbone(nn.Module):
    """Features at strides 4, 8, 16 and 32: what leaves the last block at each stride.

    Only the classifier and the 1x1 convolution to 1280 channels before it are left out. Convolutions are padded evenly;
    TensorFlow pads one more at the bottom and the right where the stride is 2, which amounts to a shift of the image.

    Args:
        width: factor on the stages' widths, which are rounded to multiples of 8.
        depth: factor on the stages' depths, the first and the last excepted, rounded up.
        is_slim: whether blocks expand to half of what EfficientNet's do.

    Attributes:
        channels: number of channels of the features at each stride.
    """

    def __init__(self, width: float, depth: float, is_slim: bool = False) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, _STEM, 3, 2, 1, bias=False)
        self._bn0 = _norm(_STEM)
        self._blocks = nn.ModuleList()
        self._stride_after: dict[int, int] = {}
        self.channels: dict[int, int] = {}
        wide_in = _STEM
        for index, (kernel, stride, expansion, base, repeats) in enumerate(_STAGES):
            wide_out = _scaled_width(base, width)
            ends = index in (0, len(_STAGES) - 1)
            for block in range(repeats if ends else math.ceil(repeats * depth)):
                inner = wide_in * expansion
                if is_slim and expansion > 1:
                    inner = _slim_width(inner)
                self._blocks.append(_Block(wide_in, inner, wide_out, kernel, stride if block == 0 else 1))
                wide_in = wide_out
            if index in _STRIDE_AFTER:
                self._stride_after[len(self._blocks) - 1] = _STRIDE_AFTER[index]
                self.channels[_STRIDE_AFTER[index]] = wide_out

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Features of a normalised image.

        Args:
            image: float ``[N, 3, H, W]``, H and W multiples of 32.

        Returns:
            ``{stride: [N, channels[stride], H / stride, W / stride]}``.
        """
        maps = relu6(self._bn0(self._conv_stem(image)))
        features = {}
        for index, block in enumerate(self._blocks):
            maps = block(maps)
            if index in self._stride_after:
                features[self._stride_after[index]] = maps
        return features


class _Block(nn.Module):
    """1x1 to the inner width, depthwise, 1x1 back without activation; plus the input where it fits."""

    def __init__(self, wide_in: int, inner: int, wide_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self._expands, self._adds = inner > wide_in, stride == 1 and wide_in == wide_out
        if self._expands:
            self._expand_conv = nn.Conv2d(wide_in, inner, 1, bias=False)
            self._bn0 = _norm(inner)
        self._depthwise_conv = DepthwiseConv2d(inner, kernel, stride)
        self._bn1 = _norm(inner)
        self._project_conv = nn.Conv2d(inner, wide_out, 1, bias=False)
        self._bn2 = _norm(wide_out)

    def forward(self, maps: Tensor) -> Tensor:
        """``[N, wide_in, h, w]`` to ``[N, wide_out, h / stride, w / stride]``."""
        inner = relu6(self._bn0(self._expand_conv(maps))) if self._expands else maps
        inner = relu6(self._bn1(self._depthwise_conv(inner)))
        out: Tensor = self._bn2(self._project_conv(inner))
        return out + maps if self._adds else out


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)


def _slim_width(inner: int) -> int:
    """Half, rounded up to the multiple of 16 that vector and matrix units take at once."""
    return -(-inner // 32) * 16


def _scaled_width(base: int, factor: float) -> int:
    """To the nearest multiple of 8, but not down by more than a tenth."""
    scaled = base * factor
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded
