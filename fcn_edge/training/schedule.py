"""Learning rate over a run and the average of the weights; knows nothing about losses or data."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..model.fcn import FCN
from ..model.folding import modules_before
from .config import TrainConfig


def rate_factor(config: TrainConfig, fraction: float) -> float:
    """Factor on the peak learning rate after ``fraction`` (0 to 1) of the run: linear warm-up, then poly or cosine."""
    if fraction < config.warmup:
        return 0.01 + 0.99 * fraction / config.warmup
    rest = max(0.0, (1 - fraction) / (1 - config.warmup))
    if config.schedule == "cosine":
        return 0.5 - 0.5 * math.cos(math.pi * rest)
    return float(rest**0.9)


def make_optimizer(model: FCN, config: TrainConfig, others: Iterable[nn.Parameter] = ()) -> torch.optim.AdamW:
    """AdamW with a group for each learning rate and weight decay.

    Batch norm, biases and the head's kernels do not decay: a kernel that shrinks is no interpolation any more.

    Args:
        model: the network.
        config: the rates.
        others: what is learned besides the network.
    """
    kernels = {id(kernel) for kernel in model.kernels}
    backbone = {id(parameter) for parameter in model.bottom_up.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in (*model.parameters(), *others):
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and id(parameter) not in kernels
            factor = (
                config.backbone_lr
                if id(parameter) in backbone
                else config.kernel_lr
                if id(parameter) in kernels
                else 1.0
            )
            groups.setdefault((factor, config.weight_decay if decays else 0.0), []).append(parameter)
    settings = [
        {"params": parameters, "weight_decay": decay, "factor": factor}
        for (factor, decay), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
    return torch.optim.AdamW(settings, lr=config.lr, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the learning rate, times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def freeze(model: FCN, config: TrainConfig) -> None:
    """Take out of training what the configuration freezes; call again after each ``model.train()``."""
    for module in model.modules():
        if config.freeze_bn and isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.requires_grad_(False)
    for name in modules_before(model.bottom_up, config.freeze_to) if config.freeze_to else ():
        model.bottom_up.get_submodule(name).eval().requires_grad_(False)
    if config.backbone_lr == 0:
        model.bottom_up.requires_grad_(False)
        model.bottom_up.eval()
    if config.kernel_lr == 0:
        for kernel in model.kernels:
            kernel.requires_grad_(False)


class Average:
    """Exponential moving average of weights and batch norm statistics (Polyak averaging).

    The decay starts low, ``(1 + step) / (10 + step)``, so that a short run is not held back by its random start.

    Attributes:
        model: the averaged model, in eval mode; where ``decay`` is 0, a copy of the model as it is.
    """

    def __init__(self, model: FCN, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: FCN, step: int) -> None:
        """Take in the model after optimiser step ``step``, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.decay else 0.0
        averaged: list[Tensor] = []
        current: list[Tensor] = []
        for mine, new in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if mine.is_floating_point():
                averaged.append(mine)
                current.append(new)
            else:
                mine.copy_(new)
        torch._foreach_lerp_(averaged, current, 1 - decay)
