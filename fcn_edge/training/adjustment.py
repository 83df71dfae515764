"""How far class weights favour rare classes in a network's answers, and taking that back; knows nothing about losses.

A network that learned with weights w answers with probabilities in proportion to w p: it sees poles where there are
none. With a share of log w added to the logits in the loss, it learns to leave that out of its own answers: all of it
(1), and they are p; a part, and rare classes keep a little of their lead. It is "Long-tail Learning via Logit
Adjustment" (Menon et al., ICLR 2021) turned round.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..model.fcn import FCN
from .config import TrainConfig


def logit_adjustment(config: TrainConfig, weights: Tensor | None) -> Tensor | None:
    """What the loss adds to the logits, float ``[C]``, given the class weights ``[C]``; None: nothing."""
    return config.logit_adjustment * weights.log() if weights is not None and config.logit_adjustment else None


def change_of_lead(before: TrainConfig, now: TrainConfig, weights: Tensor) -> Tensor:
    """What to add to the logits of a network of one run so that they lead as those of another do, float ``[C]``.

    Args:
        before: of the run that the network comes from.
        now: of the other.
        weights: ENet's class weights ``[C]``.
    """

    def lead(config: TrainConfig) -> float:
        return 1 - config.logit_adjustment if config.class_weights == "enet" else 0.0

    return (lead(now) - lead(before)) * weights.log()


@torch.no_grad()
def shift_logits(model: FCN, amount: Tensor) -> None:
    """Add a constant to each class's logits, by the bias of the finest scores.

    Where the last kernel does not interpolate exactly, the constant is what its values amount to on average.

    Args:
        model: it is changed.
        amount: float ``[C]``.
    """
    kernel, bias = model.kernels[-1], model.score_convs[-1].bias
    assert isinstance(bias, Tensor)  # for the type checker: scores have one
    gain = kernel.sum((1, 2, 3)) / model.strides[-1] ** 2
    bias += amount.to(bias) / gain.clamp(min=0.1)
