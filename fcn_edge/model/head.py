"""The skip head in torch: upsample, add the next scores, upsample to pixels; knows nothing about features.

Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, sections 3.3 and 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SkipHead(nn.Module):
    """Running sum of score maps, brought to full resolution by depthwise transposed convolutions.

    The kernels start as bilinear interpolation and are learned.

    Args:
        num_classes: number of classes C.
        strides: strides of the score maps, coarse to fine, each half of the one before.
    """

    def __init__(self, num_classes: int, strides: Sequence[int]) -> None:
        super().__init__()
        steps = [2] * (len(strides) - 1) + [strides[-1]]
        self.kernels = nn.ParameterList(nn.Parameter(bilinear_kernel(step, num_classes)) for step in steps)

    def forward(self, scores: Sequence[Tensor], size_hw: tuple[int, int]) -> Tensor:
        """Logits of every pixel.

        Args:
            scores: ``[N, C, h_i, w_i]``, coarse to fine, each twice as fine as the one before.
            size_hw: (height, width) to crop to, from the top left.

        Returns:
            ``[N, C, *size_hw]``.
        """
        total = scores[0]
        for finer, kernel in zip(scores[1:], list(self.kernels)[:-1], strict=True):
            total = upsample(total, kernel) + finer
        return upsample(total, self.kernels[-1])[..., : size_hw[0], : size_hw[1]]


def bilinear_kernel(stride: int, channels: int) -> Tensor:
    """Kernel ``[channels, 1, 2 * stride, 2 * stride]`` whose transposed convolution interpolates bilinearly."""
    ramp = 1 - (torch.arange(2 * stride) - stride + 0.5).abs() / stride
    return torch.outer(ramp, ramp).repeat(channels, 1, 1, 1)


def upsample(maps: Tensor, kernel: Tensor) -> Tensor:
    """Depthwise transposed convolution of stride s and padding s/2.

    Args:
        maps: ``[N, C, h, w]``.
        kernel: ``[C, 1, 2s, 2s]``, s even.

    Returns:
        ``[N, C, s * h, s * w]``.
    """
    stride = kernel.shape[-1] // 2
    return F.conv_transpose2d(maps, kernel.to(maps.dtype), stride=stride, padding=stride // 2, groups=maps.shape[1])
