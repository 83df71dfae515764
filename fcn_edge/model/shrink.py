"""A slim EfficientNet-Lite out of a whole one, by what its channels matter; knows nothing about files or training.

Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, with another measure: what a block's inner channel adds
to its output is a constant and something that varies. How much varies is told by the batch norm before the ReLU6,
behind which a channel is that of a normal distribution, and by the 1x1 convolution that reads it; the constant of a
channel that goes is kept, in the mean of the batch norm that follows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .fcn import SLIM, parts_of_name

_EXPAND, _PROJECT, _AFTER = "_expand_conv.weight", "_project_conv.weight", "_bn2.running_mean"
_NORM = ("weight", "bias", "running_mean", "running_var")
_INNER = (_EXPAND, "_depthwise_conv.weight", *(f"_bn{n}.{part}" for n in (0, 1) for part in _NORM))


def can_shrink(whole: str, slim: str) -> bool:
    """Whether a network of the first name holds the weights of one of the second, such as ``...-lite0-slim-fpn``."""
    (head, backbone, top_down), other = parts_of_name(whole), parts_of_name(slim)
    return other == (head, backbone + SLIM, top_down)


def shrunk_state(whole: Mapping[str, Tensor], slim: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a whole network that a slim one has channels for.

    Args:
        whole: state dict of a network or of its backbone.
        slim: state dict of the slim counterpart, from which only shapes are taken.

    Returns:
        ``whole`` with the inner channels of each block that ``slim`` has fewer of reduced to those that matter most, in
        their order. A block that is not whole stays as it is, and fits nothing.
    """
    state = dict(whole)
    for name in whole:
        block = name.removesuffix(_EXPAND)
        if block != name and name in slim and _is_whole(whole, block) and len(slim[name]) < len(whole[name]):
            _shrink_block(state, block, len(slim[name]))
    return state


def _is_whole(state: Mapping[str, Tensor], block: str) -> bool:
    """Whether a block's tensors are all there and agree on the number of inner channels."""
    if any(block + part not in state for part in (*_INNER, _PROJECT, _AFTER)):
        return False
    widths = {state[block + part].shape[:1] for part in _INNER} | {state[block + _PROJECT].shape[1:2]}
    return len(widths) == 1


def _shrink_block(state: dict[str, Tensor], block: str, width: int) -> None:
    """Leave ``width`` inner channels of a block."""
    mean, variance = _behind_relu6(state[f"{block}_bn1.weight"], state[f"{block}_bn1.bias"])
    weight = state[block + _PROJECT].float().flatten(1)
    varies = variance * weight.square().sum(0)
    kept = varies.argsort(descending=True, stable=True)[:width].sort().values
    gone = torch.ones(len(varies), dtype=torch.bool)
    gone[kept] = False
    state[block + _AFTER] = state[block + _AFTER] - weight[:, gone] @ mean[gone]
    for name in _INNER:
        state[block + name] = state[block + name][kept]
    state[block + _PROJECT] = state[block + _PROJECT][:, kept]


def _behind_relu6(factor: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``relu6(factor * z + bias)``, z normal, by the midpoints of 256 equally likely slices."""
    normal = torch.special.ndtri((torch.arange(256) + 0.5) / 256)
    values = (factor.float()[:, None] * normal + bias.float()[:, None]).clamp(0, 6)
    return values.mean(1), values.var(1, correction=0)
