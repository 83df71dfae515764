"""ResNet-18 and ResNet-50; knows nothing about classes, scores or where weights come from.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, in the form that torchvision has: in a bottleneck
the 3x3 convolution carries the stride ("v1.5"). Names of the weights are torchvision's.
"""

from __future__ import annotations

from torch import Tensor, nn

_WIDTHS = (64, 128, 256, 512)  # of layer1 .. layer4, at strides 4 .. 32


class ResNetBackbone(nn.Module):
    """Features at strides 4, 8, 16 and 32: what leaves layer1 to layer4.

    torchvision's paddings already make every map exactly ``H / stride``; only ``avgpool`` and ``fc`` are left out.

    Args:
        block: :class:`Basic` or :class:`Bottleneck`.
        depths: number of blocks in each layer.

    Attributes:
        channels: number of channels of the features at each stride.
    """

    def __init__(self, block: type[Basic] | type[Bottleneck], depths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        outs = [width * block.expansion for width in _WIDTHS]
        self.layer1 = _layer(block, 64, _WIDTHS[0], depths[0], stride=1)
        self.layer2 = _layer(block, outs[0], _WIDTHS[1], depths[1], stride=2)
        self.layer3 = _layer(block, outs[1], _WIDTHS[2], depths[2], stride=2)
        self.layer4 = _layer(block, outs[2], _WIDTHS[3], depths[3], stride=2)
        self.channels = dict(zip((4, 8, 16, 32), outs, strict=True))

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Features of a normalised image.

        Args:
            image: float ``[N, 3, H, W]``, H and W multiples of 32.

        Returns:
            ``{stride: [N, channels[stride], H / stride, W / stride]}``.
        """
        at4 = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(image)))))
        at8 = self.layer2(at4)
        at16 = self.layer3(at8)
        return {4: at4, 8: at8, 16: at16, 32: self.layer4(at16)}


class Basic(nn.Module):
    """``relu(3x3(relu(3x3(x))) + x)``."""

    expansion = 1

    def __init__(self, wide_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(wide_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _identity(wide_in, width, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """``[N, wide_in, h, w]`` to ``[N, width, h / stride, w / stride]``."""
        body = self.relu(self.bn1(self.conv1(maps)))
        total: Tensor = self.relu(self.bn2(self.conv2(body)) + self.downsample(maps))
        return total


class Bottleneck(nn.Module):
    """``relu(1x1(relu(3x3(relu(1x1(x))))) + x)``, four times as wide outside as inside."""

    expansion = 4

    def __init__(self, wide_in: int, width: int, stride: int) -> None:
        super().__init__()
        wide_out = width * self.expansion
        self.conv1 = nn.Conv2d(wide_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, wide_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _identity(wide_in, wide_out, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """``[N, wide_in, h, w]`` to ``[N, 4 * width, h / stride, w / stride]``."""
        body = self.relu(self.bn1(self.conv1(maps)))
        body = self.relu(self.bn2(self.conv2(body)))
        total: Tensor = self.relu(self.bn3(self.conv3(body)) + self.downsample(maps))
        return total


def _identity(wide_in: int, wide_out: int, stride: int) -> nn.Module:
    if stride == 1 and wide_in == wide_out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(wide_in, wide_out, 1, stride, bias=False), nn.BatchNorm2d(wide_out))


def _layer(block: type[Basic] | type[Bottleneck], wide_in: int, width: int, depth: int, stride: int) -> nn.Sequential:
    wide_out = width * block.expansion
    first = block(wide_in, width, stride)
    return nn.Sequential(first, *(block(wide_out, width, 1) for _ in range(depth - 1)))
