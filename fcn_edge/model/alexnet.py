"""AlexNet with its classifier as convolutions; knows nothing about classes, scores or where weights come from.

Krizhevsky, "One weird trick for parallelizing convolutional neural networks", arXiv 1404.5997 (the single-column
AlexNet, as torchvision has it), made fully convolutional as by Long, Shelhamer, Darrell, "Fully Convolutional
Networks for Semantic Segmentation", CVPR 2015, section 3.1. Names of the weights are those of torchvision's
``alexnet``.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

_FC = 4096
_AFTER_CONV2, _AFTER_CONV5 = 5, 12  # where the maps of strides 8 and 16 leave ``features``


class AlexNetBackbone(nn.Module):
    """Features at strides 8 (conv2), 16 (conv5) and 32 (fc7).

    The paper has FCN-32s of it only; the skips here are the deepest maps at their strides. Stride 4 has a single
    convolution, edges and no parts, and is not offered.

    Differences from torchvision, none of which touches a weight: the first convolution is padded by 4 instead of 2 and
    pools round up, so that every map is exactly ``H / stride``; fc6 is a 6x6 convolution, padded "same", of which the
    odd row and column lie at the top and left because the pools before it sample right of their cells' centres.
    With this the features of strides 8, 16 and 32 sit within 6 pixels of the cells they stand for.

    Attributes:
        channels: number of channels of the features at each stride.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=4),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Conv2d(256, _FC, 6),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(_FC, _FC, 1),
            nn.ReLU(inplace=True),
        )
        self.channels = {8: 192, 16: 256, 32: _FC}

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Features of a normalised image.

        Args:
            image: float ``[N, 3, H, W]``, H and W multiples of 32.

        Returns:
            ``{stride: [N, channels[stride], H / stride, W / stride]}``.
        """
        at8 = self.features[:_AFTER_CONV2](image)
        at16 = self.features[_AFTER_CONV2:_AFTER_CONV5](at8)
        pool5 = self.features[_AFTER_CONV5:](at16)
        return {8: at8, 16: at16, 32: self.classifier(F.pad(pool5, (3, 2, 3, 2)))}
