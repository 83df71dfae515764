"""VGG16 with its classifier as convolutions; knows nothing about classes, scores or where weights come from.

Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, made fully
convolutional as by Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015,
section 3.1. Names of the weights are those of torchvision's ``vgg16``.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

# Widths of the convolutions between pools: pool1 .. pool5 at strides 2 .. 32.
_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_FC = 4096


class VGG16Backbone(nn.Module):
    """Features at strides 4 (pool2), 8 (pool3), 16 (pool4) and 32 (fc7).

    fc6 and fc7 are the classifier's two hidden layers as a 7x7 and a 1x1 convolution of 4096 maps, each followed by
    the classifier's dropout. The paper pads the image by 100 pixels so that fc6 need not be padded, and crops by an
    offset; here fc6 is padded by 3 ("same"), so that every map is exactly ``H / stride`` and the head crops at the
    top left. The weights are the same; responses differ near the border.

    Attributes:
        channels: number of channels of the features at each stride.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*_convolutions())
        self.classifier = nn.Sequential(
            nn.Conv2d(_STAGES[-1][-1], _FC, 7, padding=3),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(_FC, _FC, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
        )
        self.channels = {4: _STAGES[1][-1], 8: _STAGES[2][-1], 16: _STAGES[3][-1], 32: _FC}

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Features of a normalised image.

        Args:
            image: float ``[N, 3, H, W]``, H and W multiples of 32.

        Returns:
            ``{stride: [N, channels[stride], H / stride, W / stride]}``.
        """
        pooled = []
        maps = image
        for layer in self.features:
            maps = layer(maps)
            if isinstance(layer, nn.MaxPool2d):
                pooled.append(maps)
        _, pool2, pool3, pool4, pool5 = pooled
        return {4: pool2, 8: pool3, 16: pool4, 32: self.classifier(pool5)}


def _convolutions() -> Iterator[nn.Module]:
    wide_in = 3
    for widths in _STAGES:
        for wide_out in widths:
            yield nn.Conv2d(wide_in, wide_out, 3, padding=1)
            yield nn.ReLU(inplace=True)
            wide_in = wide_out
        yield nn.MaxPool2d(2)
