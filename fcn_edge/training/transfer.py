"""Weights to start a run from, fitted to other classes and other images; knows nothing about steps or file formats."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from ..contract import Contract
from ..errors import ModelError, UsageError
from ..model.fcn import BOTTOM_UP, FCN, MEAN_BGR, STD_BGR, parts_of_name
from ..model.grow import can_grow, grown_state
from ..model.shrink import can_shrink, shrunk_state
from ..model.weights import imagenet_weights
from ..shipped import model_file, shipped_models
from .checkpoint import Checkpoint, load_checkpoint, model_from_state
from .config import DEFAULT_MODEL, TrainConfig
from .exported import state_from_onnx
from .qat import is_quantised

_log = logging.getLogger(__name__)

_BY_CLASS = ("score_convs.", "skip_head.kernels.")
_BACKBONE = "backbone."


@dataclass(frozen=True)
class Origin:
    """Weights to start from.

    Attributes:
        name: what the user called it.
        contract: of the model that they are of; its classes are those of the scores.
        state: state dict of that model.
        is_folded: whether batch norm had been folded, so that its statistics in ``state`` are none of any image.
        config: of the run that they come from; None where the file does not tell.
    """

    name: str
    contract: Contract
    state: dict[str, Tensor]
    is_folded: bool
    config: TrainConfig | None = None


def init_file(init: str, model: str) -> Path:
    """The file that the option ``init`` names: a shipped model's, ImageNet's for a model's backbone, or itself.

    Raises:
        UsageError: if it is ``imagenet`` and no package holds such weights for the backbone.
        MissingError: if that package is not installed.
    """
    if init == "imagenet":
        name = model or DEFAULT_MODEL
        return imagenet_weights(parts_of_name(name)[1] or name)
    return model_file(init)


def open_origin(init: str, path: Path) -> Origin | None:
    """Read weights to start from; None for a classifier's (.pth), which are no model's.

    Args:
        init: what the user called them.
        path: their file.

    Raises:
        UsageError: if the file's name does not end as such a file's does, or it is a checkpoint of quantisation-aware
            training.
        ModelError: if the file is missing, damaged or not of this project, or its model sees images otherwise.
        MissingError: if it is an ONNX file and the ``onnx`` package is not installed.
    """
    if path.suffix == ".pth":
        return None
    if path.suffix == ".onnx":
        contract, state = state_from_onnx(path)
        origin = Origin(init, contract, state, is_folded=True)
    elif path.suffix == ".pt":
        checkpoint = load_checkpoint(path)
        _refuse_quantised(path, checkpoint)
        model = model_from_state(checkpoint.contract, checkpoint.ema, str(path))
        origin = Origin(init, checkpoint.contract, model.state_dict(), is_folded=False, config=checkpoint.config)
    else:
        raise UsageError(
            f"init is '{init}'; expected a model that ships with this release ({', '.join(shipped_models())}), a file "
            "of fcn-edge export (.onnx), a checkpoint (.pt), a classifier's weights (.pth) or imagenet"
        )
    seen = (*origin.contract.mean, *origin.contract.std)
    if not np.allclose(seen, (*MEAN_BGR, *STD_BGR), rtol=1e-5):
        raise ModelError(
            f"{init} normalises images with mean {origin.contract.mean} and std {origin.contract.std}; training does "
            f"with {MEAN_BGR} and {STD_BGR}: start from another model"
        )
    return origin


def fitted_state(origin: Origin, model: FCN, class_names: Sequence[str]) -> dict[str, Tensor]:
    """The weights for a model of other classes, of a larger edge network or of a slim EfficientNet-Lite if it is one.

    Rows of scores and head kernels go to the class of the same name, upper and lower case aside where no other is
    alike; those of classes that are new are the model's own, and so are all of them where a top-down pathway is put on
    the backbone.

    Args:
        origin: the weights.
        model: with fresh weights; it is not changed. What does not fit it keeps its shape.
        class_names: of the model.

    Returns:
        A state dict; :func:`fcn_edge.training.checkpoint.take_weights` takes of it what fits.

    Raises:
        UsageError: if a slim network shall begin with folded weights, which do not tell what a channel is worth.
    """
    own, found = model.state_dict(), _rows(origin, class_names)
    rows = [(new, found[name]) for new, name in enumerate(class_names) if name in found]
    state = dict(origin.state)
    top_down = parts_of_name(model.name)[2]
    if top_down and model.name == origin.contract.model + top_down:
        return _below_top_down(state)
    for name, value in origin.state.items():
        if name.startswith(_BY_CLASS):
            fits = name in own and own[name].shape[1:] == value.shape[1:]
            fresh = own[name].cpu().clone() if fits else value.new_zeros(len(class_names), *value.shape[1:])
            for new, old in rows:
                fresh[new] = value[old]
            state[name] = fresh
    if shrinks(origin, model):
        if origin.is_folded:
            raise UsageError(
                f"{origin.name} is an exported file, which does not tell which channels matter; {model.name} can start "
                f"from a checkpoint (.pt) of {origin.contract.model}, or from imagenet"
            )
        return shrunk_state(state, own)
    return grown_state(state, origin.contract.model, model) if grows(origin, model) else state


def _rows(origin: Origin, class_names: Sequence[str]) -> dict[str, int]:
    """Which class of the origin each one is: that of its very name, else the only one alike but for upper case."""
    before = list(origin.contract.class_names)
    rows = {name: before.index(name) for name in class_names if name in before}
    for name in class_names:
        alike = [old for old in before if old not in rows and old.casefold() == name.casefold()]
        twins = [new for new in class_names if new not in before and new.casefold() == name.casefold()]
        if name not in rows and len(alike) == len(twins) == 1:
            rows[name] = before.index(alike[0])
    return rows


def _below_top_down(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's weights where a top-down pathway stands on it; the scores were learned of other features."""
    return {
        BOTTOM_UP + name.removeprefix(_BACKBONE): value for name, value in state.items() if name.startswith(_BACKBONE)
    }


def with_lead(config: TrainConfig, before: TrainConfig | None) -> TrainConfig:
    """The configuration with the class weights' lead of the run that is tuned: what is learned is to round alone."""
    if before is None:
        return config
    lead = {"class_weights": before.class_weights, "logit_adjustment": before.logit_adjustment}
    for name, value in lead.items():
        if getattr(config, name) != value:
            _log.info("%s is %s, as it was in the run that is tuned", name, value)
    return msgspec.structs.replace(config, **lead)


def require_same(origin: Origin, now: Contract) -> None:
    """Quantisation-aware training changes no network and no classes."""
    before = origin.contract
    for what, one, other in (
        ("model", before.model, now.model),
        ("classes", before.class_names, now.class_names),
        ("size", before.size_hw, now.size_hw),
    ):
        if one != other:
            raise UsageError(
                f"{origin.name} has {what} {one}, this run {other}; quantisation-aware training fine-tunes a network "
                "as it is: give the same --model, --classes and --size as in its training"
            )


def grows(origin: Origin, model: FCN) -> bool:
    """Whether the model is a larger edge network than that of the weights, into which they are grown."""
    return can_grow(origin.contract.model, model.name)


def shrinks(origin: Origin, model: FCN) -> bool:
    """Whether the model is the slim form of the weights' network, which has room for half of their channels."""
    return can_shrink(origin.contract.model, model.name)


def summary(origin: Origin, model: FCN, class_names: Sequence[str], fresh: Collection[str]) -> str:
    """One line on what a model took of an origin, of the names in it that found nothing (``fresh``) and its classes."""
    names = [name for name in model.state_dict() if name.startswith(_BACKBONE)]
    taken = sum(name not in fresh for name in names)
    share = "the backbone" if taken == len(names) else f"{taken} of {len(names)} tensors of the backbone"
    change = "grown" if grows(origin, model) else "slimmed" if shrinks(origin, model) else ""
    growth = f", {change} into {model.name}," if change else ""
    before = _rows(origin, class_names)
    has_scores = any(name.startswith("score_convs.") and name not in fresh for name in model.state_dict())
    kept = [name for name in class_names if has_scores and name in before]
    scores = "all scores" if len(kept) == len(class_names) else f"the scores of {', '.join(kept) or 'no class'}"
    others = [name for name in class_names if name not in kept]
    others += [name for name in fresh if kept and name.startswith(_BY_CLASS)]
    afresh = f"; afresh: {', '.join(others)}" if others else ""
    return f"took {share}{growth} and {scores} from {origin.name} ({origin.contract.model}){afresh}"


def measure_norms(model: FCN, names: Collection[str], images: Iterable[Tensor]) -> None:
    """Give batch norms the statistics of images, and the factors and biases with which eval mode answers as before.

    What such a norm does in eval mode does not depend on its statistics, so all are measured in one pass; in training
    mode, on images like these, it then does nearly the same.

    Args:
        model: in any mode, which it keeps.
        names: of the norms, such as ``backbone.stem.0.1``.
        images: batches of one size, float or uint8 ``[N, 3, H, W]`` BGR 0 to 255, at least one.
    """
    norms = {name: norm for name, norm in model.named_modules() if name in names and isinstance(norm, nn.BatchNorm2d)}
    sums = {name: torch.zeros(3, norm.num_features, dtype=torch.float64) for name, norm in norms.items()}

    def measure(name: str, maps: Tensor) -> None:
        variance, mean = torch.var_mean(maps.float(), (0, 2, 3), correction=0)
        mean, variance = mean.double().cpu(), variance.double().cpu()
        sums[name] += len(maps) * torch.stack([torch.ones_like(mean), mean, variance + mean**2])

    hooks = [
        norm.register_forward_pre_hook(lambda _, inputs, name=name: measure(name, inputs[0]))
        for name, norm in norms.items()
    ]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            for batch in images:
                model.features(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    for name, norm in norms.items():
        _set_statistics(norm, *(sums[name][1:] / sums[name][0]))


def _refuse_quantised(path: Path, checkpoint: Checkpoint) -> None:
    if is_quantised(checkpoint.ema):
        raise UsageError(
            f"{path} is of quantisation-aware training, its batch norm is folded; start from the checkpoint that it "
            f"was fine-tuned from ({checkpoint.config.init}), or from the .onnx file that it was exported to"
        )


@torch.no_grad()
def _set_statistics(norm: nn.BatchNorm2d, mean: Tensor, square: Tensor) -> None:
    """Other statistics, the same function: a channel that never varies has variance 0 and the deviation sqrt(eps)."""
    assert norm.running_mean is not None  # for the type checker: every norm of ours has statistics
    assert norm.running_var is not None
    mean, variance = mean.to(norm.running_mean.device), (square - mean**2).clamp(min=0).to(norm.running_mean.device)
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    norm.bias.add_(factor * (mean - norm.running_mean))
    norm.weight.copy_(factor * (variance + norm.eps).sqrt())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
