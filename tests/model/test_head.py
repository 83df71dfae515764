"""The skip head in torch: where it starts, and what it computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fcn_edge.model.head import SkipHead, bilinear_kernel, upsample

CHAINS = [(32,), (32, 16), (32, 16, 8), (32, 16, 8, 4)]


def scattered(maps: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Transposed convolution by its definition: each value adds its kernel to the output; float64 ``[C, h, w]``."""
    stride = kernel.shape[-1] // 2
    channels, height, width = maps.shape
    full = np.zeros((channels, height * stride + stride, width * stride + stride))
    for y in range(height):
        for x in range(width):
            full[:, y * stride :, x * stride :][:, : 2 * stride, : 2 * stride] += maps[:, y, x, None, None] * kernel
    border = stride // 2
    return full[:, border : border + height * stride, border : border + width * stride]


def random_scores(strides: tuple[int, ...], cells: tuple[int, int] = (2, 3), classes: int = 3) -> list[Tensor]:
    factors = [strides[0] // stride for stride in strides]
    return [torch.randn(2, classes, cells[0] * f, cells[1] * f) for f in factors]


@pytest.mark.parametrize("strides", CHAINS)
def test_starts_as_bilinear_interpolation(strides: tuple[int, ...]) -> None:
    head = SkipHead(2, strides)
    cells = 5
    ramp = torch.arange(cells, dtype=torch.float32)
    scores = [torch.zeros(1, 2, cells * strides[0] // stride, cells * strides[0] // stride) for stride in strides]
    scores[0] = torch.stack([ramp.view(-1, 1).expand(cells, cells), ramp.view(1, -1).expand(cells, cells)])[None]
    side = cells * strides[0]
    logits = head(scores, (side, side))[0]
    at = (torch.arange(side) + 0.5) / strides[0] - 0.5  # each pixel's place among the cells' centres
    inside = slice(strides[0], side - strides[0])
    for axis in range(2):
        expected = at[inside].view((-1, 1) if axis == 0 else (1, -1)).expand(side - 64, side - 64)
        torch.testing.assert_close(logits[axis, inside, inside], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stride", [2, 4, 8, 16, 32])
def test_bilinear_kernel_is_a_partition_of_one(stride: int) -> None:
    kernel = bilinear_kernel(stride, 3)
    assert tuple(kernel.shape) == (3, 1, 2 * stride, 2 * stride)
    out = upsample(torch.ones(1, 3, 4, 4), kernel)
    middle = out[..., stride:-stride, stride:-stride]
    torch.testing.assert_close(middle, torch.ones_like(middle))
    smooth = F.interpolate(torch.arange(6.0).view(1, 1, 1, 6), scale_factor=(1, stride), mode="bilinear")
    ours = upsample(torch.arange(6.0).view(1, 1, 1, 6).expand(1, 1, 3, 6), bilinear_kernel(stride, 1))
    border = stride // 2
    torch.testing.assert_close(ours[0, 0, stride, border:-border], smooth[0, 0, 0, border:-border])


@pytest.mark.parametrize("strides", CHAINS)
def test_equals_the_definition(strides: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    head = SkipHead(3, strides)
    for kernel in head.kernels:
        torch.nn.init.normal_(kernel)
    scores = random_scores(strides)
    logits = head(scores, (64, 96))
    for image in range(2):
        total = scores[0][image].double().numpy()
        for finer, kernel in zip(scores[1:], head.kernels, strict=False):
            total = scattered(total, kernel.detach().double().numpy()[:, 0]) + finer[image].double().numpy()
        expected = scattered(total, head.kernels[-1].detach().double().numpy()[:, 0])
        np.testing.assert_allclose(logits[image].detach().numpy(), expected, atol=1e-3, rtol=1e-4)


def test_equals_torch_s_transposed_convolutions_class_by_class() -> None:
    torch.manual_seed(0)
    head = SkipHead(3, (32, 16, 8))
    for kernel in head.kernels:
        torch.nn.init.normal_(kernel)
    scores = random_scores((32, 16, 8))
    logits = head(scores, (64, 96))
    first, second, last = (kernel.detach() for kernel in head.kernels)
    for c in range(3):
        one = slice(c, c + 1)
        total = F.conv_transpose2d(scores[0][:, one], first[one], stride=2, padding=1) + scores[1][:, one]
        total = F.conv_transpose2d(total, second[one], stride=2, padding=1) + scores[2][:, one]
        torch.testing.assert_close(logits[:, one], F.conv_transpose2d(total, last[one], stride=8, padding=4))


def test_crops_from_the_top_left() -> None:
    torch.manual_seed(0)
    head, scores = SkipHead(3, (32, 16)), random_scores((32, 16))
    whole = head(scores, (64, 96))
    assert torch.equal(head(scores, (45, 67)), whole[..., :45, :67])


def test_kernels_are_learned_class_by_class() -> None:
    head, scores = SkipHead(3, (32, 16, 8)), random_scores((32, 16, 8))
    head(scores, (64, 96))[:, 1].sum().backward()
    for kernel in head.kernels:
        assert kernel.grad is not None
        assert kernel.grad[1].any()
        assert not kernel.grad[[0, 2]].any()
