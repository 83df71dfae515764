"""The top-down pathway: what coarse features know is brought to the finer ones before they are scored.

Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017: coarse features are doubled and added to the
next finer ones, which a 1x1 convolution has brought to the same width; a 3x3 convolution follows. Knows nothing about
classes, scores or which backbone it stands on.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .edge import conv_bn, conv_bn_relu
from .pyramid_pooling import PyramidPooling

WIDTHS = {32: 128, 16: 128, 8: 96, 4: 32}
"""Channels of the features at each stride; few where there are many cells."""


class TopDown(nn.Module):
    """A backbone whose finer features have heard of the coarser ones.

    Args:
        bottom_up: a backbone with features at strides ``finest`` to 32.
        finest: the stride where the pathway ends.
        has_context: whether the coarsest features first hear of their surroundings (Xiao et al., "Unified Perceptual
            Parsing for Scene Understanding", ECCV 2018).

    Attributes:
        channels: number of channels of the features at each stride.
    """

    def __init__(self, bottom_up: nn.Module, finest: int, has_context: bool = False) -> None:
        super().__init__()
        below: dict[int, int] = bottom_up.channels  # type: ignore[assignment]
        self.channels = {stride: width for stride, width in WIDTHS.items() if stride >= finest}
        self.bottom_up = bottom_up
        self.context = PyramidPooling(below[32]) if has_context else None
        self.coarsest = conv_bn_relu(below[32], WIDTHS[32])
        self.steps = nn.ModuleDict(
            {f"s{stride}": _Step(WIDTHS[2 * stride], below[stride], width) for stride, width in self._finer()}
        )

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Features of a normalised image.

        Args:
            image: float ``[N, 3, H, W]``, H and W multiples of 32.

        Returns:
            ``{stride: [N, channels[stride], H / stride, W / stride]}``.
        """
        below = self.bottom_up(image)
        coarse = self.coarsest(below[32] if self.context is None else self.context(below[32]))
        features = {32: coarse}
        for stride, _ in self._finer():
            coarse = self.steps[f"s{stride}"](coarse, below[stride])
            features[stride] = coarse
        return features

    def _finer(self) -> list[tuple[int, int]]:
        return [(stride, width) for stride, width in self.channels.items() if stride < 32]


class _Step(nn.Module):
    """From the features at one stride to those at half of it."""

    def __init__(self, coarse: int, fine: int, out: int) -> None:
        super().__init__()
        self.narrow = conv_bn(coarse, out, kernel=1)
        self.lateral = conv_bn(fine, out, kernel=1)
        self.smooth = conv_bn_relu(out, out)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """``[N, coarse, h, w]`` and ``[N, fine, 2h, 2w]`` to ``[N, out, 2h, 2w]``."""
        doubled = F.interpolate(self.narrow(coarse), size=fine.shape[2:], mode="nearest")
        smooth: Tensor = self.smooth(self.lateral(fine) + doubled)
        return smooth
