"""The FCN: features, scores, head; knows nothing about how it is trained, exported or run.

Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015. FCN-32s, -16s and -8s
score features at strides 32, 16 and 8; the 4s variant goes one step on, for the sake of poles and signs.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..contract import MAX_CLASSES
from ..errors import UsageError
from ..shipped import shipped_models
from .alexnet import AlexNetBackbone
from .edge import EDGE, EdgeBackbone
from .efficientnet import EfficientNetLiteBackbone
from .googlenet import GoogLeNetBackbone
from .head import SkipHead
from .resnet import Basic, Bottleneck, ResNetBackbone
from .top_down import TopDown
from .vgg import VGG16Backbone

# ImageNet's statistics on the scale 0..255 and in BGR order, so that classifiers trained there transfer.
MEAN_BGR = (103.53, 116.28, 123.675)
STD_BGR = (57.375, 57.12, 58.395)

SLIM = "-slim"
"""What a backbone's name ends in where half of the channels inside its blocks are left out."""
_STRIDES = {"32s": (32,), "16s": (32, 16), "8s": (32, 16, 8), "4s": (32, 16, 8, 4)}
_BACKBONES: dict[str, Callable[[], nn.Module]] = {
    **{name: partial(EdgeBackbone, widths) for name, widths in EDGE.items()},
    "alexnet": AlexNetBackbone,
    "vgg16": VGG16Backbone,
    "googlenet": GoogLeNetBackbone,
    "resnet18": partial(ResNetBackbone, Basic, (2, 2, 2, 2)),
    "resnet50": partial(ResNetBackbone, Bottleneck, (3, 4, 6, 3)),
    **{
        f"efficientnet-lite{number}{form}": partial(EfficientNetLiteBackbone, width, depth, is_slim=bool(form))
        for number, (width, depth) in enumerate(((1.0, 1.0), (1.0, 1.1), (1.1, 1.2)))
        for form in ("", SLIM)
    },
}
_FINEST_STRIDE = {"alexnet": 8}  # every other backbone has features from stride 4
TOP_DOWN = "-fpn"
"""What a model's name ends in where a top-down pathway stands on its backbone."""
CONTEXT_TOP_DOWN = "-ppm" + TOP_DOWN
"""The same where the pathway begins with pyramid pooling."""
BOTTOM_UP = "backbone.bottom_up."
"""What the names of a backbone's weights begin with where a top-down pathway stands on it."""


class FCN(nn.Module):
    """A fully convolutional network: an image in, one logit for each class and pixel out.

    Args:
        name: such as ``fcn8s-edge-n``.
        backbone: a module whose forward gives ``{stride: features}`` and whose ``channels`` gives their widths.
        num_classes: 1 to 256.
        strides: strides of the score maps, coarse to fine.
        mean: subtracted from each channel of the image.
        std: divides each channel of the image.
        dropout: probability with which a whole feature channel is dropped before it is scored.
    """

    def __init__(
        self,
        name: str,
        backbone: nn.Module,
        num_classes: int,
        strides: Sequence[int],
        mean: Sequence[float] = MEAN_BGR,
        std: Sequence[float] = STD_BGR,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.name, self.num_classes, self.strides = name, num_classes, tuple(strides)
        self.backbone = backbone
        channels: dict[int, int] = backbone.channels  # type: ignore[assignment]
        self.score_convs = nn.ModuleList(nn.Conv2d(channels[stride], num_classes, 1) for stride in self.strides)
        self.skip_head = SkipHead(num_classes, self.strides)
        self.dropout = nn.Dropout2d(dropout)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of every pixel.

        Args:
            image: uint8 or float ``[N, 3, H, W]`` in BGR order on the scale 0..255; any H and W.

        Returns:
            float ``[N, num_classes, H, W]``.
        """
        features = self.features(image)
        scores = self.scores(features)
        return self.head(scores, (image.shape[2], image.shape[3]))

    def features(self, image: Tensor) -> list[Tensor]:
        """Features coarse to fine ``[N, channels, h, w]`` of an image, normalised and padded to whole coarse cells."""
        normal = (image.to(self.mean.dtype) - self.mean) / self.std  # type: ignore[arg-type, operator]
        coarsest = self.strides[0]
        down, right = -image.shape[2] % coarsest, -image.shape[3] % coarsest
        if down or right:
            normal = F.pad(normal, (0, right, 0, down))
        by_stride = self.backbone(normal)
        return [by_stride[stride] for stride in self.strides]

    def scores(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Score maps coarse to fine, ``[N, num_classes, h, w]`` each."""
        return [conv(self.dropout(maps)) for conv, maps in zip(self.score_convs, features, strict=True)]

    def head(self, scores: Sequence[Tensor], size_hw: tuple[int, int]) -> Tensor:
        """Logits ``[N, num_classes, *size_hw]`` from score maps coarse to fine."""
        logits: Tensor = self.skip_head(scores, size_hw)
        return logits

    @property
    def bottom_up(self) -> nn.Module:
        """The backbone without the top-down pathway that it may have: what a classifier's weights fit."""
        found: nn.Module = getattr(self.backbone, "bottom_up", self.backbone)
        return found

    @property
    def kernels(self) -> list[Tensor]:
        """Kernels of the head, coarse to fine: ``[C, 1, 4, 4]`` and last ``[C, 1, 2s, 2s]``."""
        return list(self.skip_head.kernels)


def make_model(
    name: str,
    num_classes: int,
    *,
    mean: Sequence[float] = MEAN_BGR,
    std: Sequence[float] = STD_BGR,
    dropout: float = 0.0,
    bn_momentum: float = 0.1,
) -> FCN:
    """A network with fresh weights.

    Args:
        name: ``fcn{32s,16s,8s,4s}-{backbone}``, or ``fcn{16s,8s,4s}-{backbone}-fpn`` with a top-down pathway,
            ``...-ppm-fpn`` with pyramid pooling before it; :func:`model_names` lists them.
        num_classes: 1 to 256.
        mean: per channel BGR, scale 0..255.
        std: per channel BGR, scale 0..255.
        dropout: probability of dropping a feature channel before scoring, 0 to less than 1.
        bn_momentum: share of a batch's statistics in the running ones, more than 0 to 1.

    Raises:
        UsageError: if the name is unknown or a number lies outside its range.
    """
    if name not in model_names():
        raise UsageError(f"model '{name}' is unknown; {_offer(name)} (all are listed in docs/models.md)")
    if not 1 <= num_classes <= MAX_CLASSES:
        raise UsageError(f"{num_classes} classes asked for; expected 1 to {MAX_CLASSES}")
    if not 0 <= dropout < 1 or not 0 < bn_momentum <= 1:
        raise UsageError(f"dropout is {dropout}, bn momentum {bn_momentum}; expected 0 to <1 and >0 to 1")
    head, known_as, top_down = parts_of_name(name)
    backbone, strides = _BACKBONES[known_as](), _STRIDES[head]
    if top_down:
        backbone = TopDown(backbone, strides[-1], has_context=top_down == CONTEXT_TOP_DOWN)
    model = FCN(name, backbone, num_classes, strides, mean, std, dropout)
    _initialise(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = bn_momentum
    return model


def model_names() -> tuple[str, ...]:
    """Every name that :func:`make_model` knows."""
    return tuple(
        f"fcn{head}-{backbone}{top_down}"
        for backbone in _BACKBONES
        for top_down in ("", TOP_DOWN, CONTEXT_TOP_DOWN)
        for head, strides in _STRIDES.items()
        if strides[-1] >= _FINEST_STRIDE.get(backbone, 4) and not (top_down and head == "32s")
    )


def _offer(name: str) -> str:
    """What may have been meant by a name that is none."""
    if name in shipped_models():
        return f"it ships with its weights: use --init {name}"
    if f"fcn8s-{name}" in model_names():
        return f"it is a backbone: use fcn8s-{name}"
    near = difflib.get_close_matches(name, model_names(), 3, 0.5)
    return f"did you mean {', '.join(near)}?" if near else "one to begin with is fcn8s-edge-n"


def parts_of_name(name: str) -> tuple[str, str, str]:
    """Head, backbone and what follows it where there is a top-down pathway, of ``fcn4s-edge-n-fpn``."""
    head, _, rest = name.removeprefix("fcn").partition("-")
    for top_down in (CONTEXT_TOP_DOWN, TOP_DOWN):
        if rest.endswith(top_down):
            return head, rest.removesuffix(top_down), top_down
    return head, rest, ""


def count_params(model: nn.Module) -> int:
    """Number of learned values."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_gmacs(model: FCN, size_hw: tuple[int, int]) -> float:
    """Billions of multiply-adds of all convolutions for one image, the head's transposed convolutions included.

    As published tables count: at ``size_hw`` itself, without the rows and columns that pad it to whole coarse cells.
    Only shapes are computed, so that a size of many megapixels costs no more than another.
    """
    model = copy.deepcopy(model).to("meta").eval()
    total = 0

    def add(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            weights = module.weight.numel() // module.out_channels
            total += output.numel() * weights

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    with torch.no_grad():
        by_stride = model.backbone(torch.zeros(1, 3, *size_hw, device="meta"))
        scores = model.scores([by_stride[stride] for stride in model.strides])
    for maps, kernel in zip(scores, model.kernels, strict=True):  # each input value meets the whole kernel
        total += maps.numel() * kernel.shape[-1] ** 2
    return total / 1e9


def _initialise(model: FCN) -> None:
    """He initialisation of convolutions; scores start at zero, so that training starts from the bilinear head."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for conv in model.score_convs:
        nn.init.zeros_(conv.weight)  # type: ignore[arg-type]
