"""A wider and deeper network that begins as an exact copy of a smaller one; knows nothing about files or training.

Chen, Goodfellow, Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer", ICLR 2016, with fresh channels in
place of copied ones: what the smaller network has fills one corner of each weight, channels that are new start at
random but nothing that was there listens to them yet, and a block that is new adds nothing yet.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import UsageError
from .edge import EDGE, EdgeWidths
from .fcn import BOTTOM_UP, FCN, parts_of_name

_STAGES = ("s4", "s8", "s16", "s32")


def can_grow(small: str, large: str) -> bool:
    """Whether a network of the first name can be grown into one of the second, such as ``fcn4s-edge-n``."""
    (head, one, top_down), (other_head, other, other_top_down) = parts_of_name(small), parts_of_name(large)
    if (head, top_down) != (other_head, other_top_down) or one == other or one not in EDGE or other not in EDGE:
        return False
    return _blocks(EDGE[one], EDGE[other]) is not None and all(
        before <= after for before, after in zip(_widths(EDGE[one]), _widths(EDGE[other]), strict=True)
    )


def grown_state(small: Mapping[str, Tensor], small_name: str, large: FCN) -> dict[str, Tensor]:
    """Weights with which a large network computes what a small one does, and can learn more.

    Args:
        small: state dict of the small network.
        small_name: its name, such as ``fcn4s-edge-n``.
        large: a network with fresh weights; it is not changed.

    Returns:
        A state dict for ``large``; where the number of classes differs, scores and head are its own.

    Raises:
        UsageError: if the one cannot be grown into the other.
    """
    if not can_grow(small_name, large.name):
        raise UsageError(
            f"{small_name} cannot be grown into {large.name}; expected edge networks with the same head, both with a "
            "top-down pathway or neither, the second at least as wide and deep in every stage: fcn4s-edge-n, -s, -m"
        )
    blocks = _blocks(EDGE[parts_of_name(small_name)[1]], EDGE[parts_of_name(large.name)[1]]) or {}
    state = {name: value.clone() for name, value in large.state_dict().items()}
    for name, value in state.items():
        source = _source(name, blocks)
        if source is None:
            if name.endswith("body.2.weight"):
                value.zero_()  # the last batch norm of a new block: relu(0 + x) is x
        elif source in small and (name.startswith("backbone.") or len(small[source]) == len(value)):
            state[name] = _in_corner(value, small[source].to(value), name)
    return state


def _in_corner(large: Tensor, small: Tensor, name: str) -> Tensor:
    """The small tensor in the first channels of the large one; old outputs do not listen to new inputs."""
    if any(before > after for before, after in zip(small.shape, large.shape, strict=True)):
        raise UsageError(f"{name} is {list(small.shape)} in the small network and {list(large.shape)} in the large one")
    if large.ndim == 4 and large.shape[1] != small.shape[1]:
        large[: len(small)] = 0
    large[tuple(slice(0, side) for side in small.shape)] = small
    return large


def _source(name: str, blocks: Mapping[str, str]) -> str | None:
    """Name in the small network of what fills a tensor of the large one; None for one of a new block."""
    prefix = BOTTOM_UP if name.startswith(BOTTOM_UP) else "backbone."
    parts = name.removeprefix(prefix).split(".")
    if name.startswith(prefix) and parts[0] in _STAGES:
        block = blocks.get(f"{parts[0]}.{parts[1]}")
        return None if block is None else prefix + ".".join([block, *parts[2:]])
    return name


def _blocks(small: EdgeWidths, large: EdgeWidths) -> dict[str, str] | None:
    """Which block of the small network fills which of the large one, by order and dilation; None if one is left."""
    filled = {}
    for stage in _STAGES:
        wanted, index = getattr(small, stage)[1], 0
        for number, dilation in enumerate(getattr(large, stage)[1]):
            if index < len(wanted) and wanted[index] == dilation:
                filled[f"{stage}.block{number}"] = f"{stage}.block{index}"
                index += 1
        if index < len(wanted):
            return None
    return filled


def _widths(widths: EdgeWidths) -> tuple[int, ...]:
    return (*widths.stem, *(getattr(widths, stage)[0] for stage in _STAGES))
