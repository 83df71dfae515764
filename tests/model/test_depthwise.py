"""Depthwise convolution and ReLU6 give torch's answers and gradients, in either precision."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from fcn_edge.model.depthwise import DepthwiseConv2d, convolved, relu6  # noqa: E402


def pair(kernel: int, stride: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    """One of ours and torch's own with the same weights."""
    ours = DepthwiseConv2d(8, kernel, stride)
    plain = nn.Conv2d(8, 8, kernel, stride, kernel // 2, groups=8, bias=False)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def answer_and_gradients(conv: nn.Conv2d, activation, images: Tensor, half: bool) -> list[Tensor]:
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        answer = activation(conv(images) * 6)
    torch.manual_seed(1)
    answer.backward(torch.randn(answer.shape).to(answer.dtype))
    assert images.grad is not None
    assert conv.weight.grad is not None
    return [answer.detach(), images.grad, conv.weight.grad]


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_answers_and_gradients_are_those_of_torch(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 8, 14, 18)
    ours, plain = pair(kernel, stride)
    expected = answer_and_gradients(plain, F.relu6, images, half=False)
    for mine, wanted in zip(answer_and_gradients(ours, relu6, images, half=False), expected, strict=True):
        torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_in_bfloat16_are_no_further_off_than_torchs(stride: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 8, 30, 40)
    ours, plain = pair(5, stride)
    exact = answer_and_gradients(plain, F.relu6, images, half=False)
    plain.weight.grad = None
    theirs = answer_and_gradients(plain, F.relu6, images, half=True)
    mine = answer_and_gradients(ours, relu6, images, half=True)
    assert [value.dtype for value in mine] == [value.dtype for value in theirs]
    for value, other, truth in zip(mine, theirs, exact, strict=True):
        error, usual = ((found.float() - truth).abs().mean() for found in (value, other))
        assert error <= 1.1 * usual
    assert not torch.equal(mine[2], exact[2])  # the check can fail: half precision is what was computed


def test_a_frozen_weight_or_input_gets_no_gradient() -> None:
    conv = DepthwiseConv2d(4, 3, 1)
    conv.weight.requires_grad_(False)
    images = torch.randn(1, 4, 6, 6, requires_grad=True)
    conv(images).sum().backward()
    assert (conv.weight.grad, images.grad is None) == (None, False)
    conv.weight.requires_grad_(True)
    conv(images.detach()).sum().backward()
    assert conv.weight.grad is not None


def test_a_bias_is_added() -> None:
    conv, bias = DepthwiseConv2d(4, 3, 1), torch.randn(4, requires_grad=True)
    images = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(convolved(conv, images, conv.weight, bias), conv(images) + bias.view(-1, 1, 1))
    convolved(conv, images, conv.weight, bias).sum().backward()
    torch.testing.assert_close(bias.grad, torch.full((4,), 36.0))
