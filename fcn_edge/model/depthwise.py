"""Depthwise convolution and ReLU6 whose gradients a CPU computes fast; knows nothing about networks.

In PyTorch 2.13 the gradients of a depthwise convolution in bfloat16 take a CPU five to ten times as long as in float32
(weights of 5x5 kernels, inputs where the stride is 2), and that of ReLU6 several times as long as ReLU's. The answers
are torch's own, and the gradients are torch's own in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DepthwiseConv2d(nn.Conv2d):
    """A convolution of each channel by itself, padded to keep ``h / stride``, without bias.

    Args:
        width: channels in and out.
        kernel: side of the kernel, odd.
        stride: of both directions.
    """

    def __init__(self, width: int, kernel: int, stride: int) -> None:
        super().__init__(width, width, kernel, stride, kernel // 2, groups=width, bias=False)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        return convolved(self, input, weight, bias)


def convolved(conv: nn.Conv2d, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a convolution makes of maps ``[N, C, h, w]`` with a weight and a bias that need not be its own."""
    if not _gains(maps) or not conv.groups == conv.in_channels == conv.out_channels:
        plain: Tensor = nn.Conv2d._conv_forward(conv, maps, weight, bias)
        return plain
    if torch.is_autocast_enabled("cpu"):
        maps = maps.to(torch.get_autocast_dtype("cpu"))
    geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
    answer: Tensor = _Depthwise.apply(maps, weight, *geometry)  # type: ignore[no-untyped-call]
    return answer if bias is None else answer + bias.to(answer.dtype).view(-1, 1, 1)


def relu6(maps: Tensor) -> Tensor:
    """``min(max(maps, 0), 6)``; a file that uses it says ``torch.fx.wrap("relu6")``: it is traced as a whole."""
    if not _gains(maps):
        return F.relu6(maps)
    answer: Tensor = _ReLU6.apply(maps)  # type: ignore[no-untyped-call]
    return answer


def _gains(maps: Tensor) -> bool:
    return torch.is_grad_enabled() and maps.device.type == "cpu"


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution whose gradients are computed in float32."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.geometry = geometry  # stride, padding, dilation, groups
        return F.conv2d(maps, weight.to(maps.dtype), None, *geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        maps, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        of_maps, of_weight, _ = torch.ops.aten.convolution_backward(
            *(gradient.float(), maps.float(), weight.float(), None, stride, padding, dilation),
            *(False, [0, 0], groups, [*ctx.needs_input_grad[:2], False]),
        )
        of_maps = None if of_maps is None else of_maps.to(maps.dtype)
        return of_maps, of_weight, None, None, None, None


class _ReLU6(torch.autograd.Function):
    """ReLU6 by clamping; its gradient by ReLU's twice."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        answer = maps.clamp(0, 6)
        ctx.save_for_backward(answer)
        return answer

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (answer,) = ctx.saved_tensors
        above = torch.ops.aten.threshold_backward(gradient, answer, 0)
        passed: Tensor = torch.ops.aten.threshold_backward(above, 6 - answer, 0)
        return passed
