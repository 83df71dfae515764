"""Precise batch norm: the statistics are those computed by hand, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from fcn_edge.model.fcn import FCN, make_model
from fcn_edge.training import loop
from fcn_edge.training.batches import ImageStore, RawBatch, iter_order
from fcn_edge.training.checkpoint import load_checkpoint
from fcn_edge.training.config import TrainConfig
from fcn_edge.training.data import open_data
from fcn_edge.training.loop import train
from fcn_edge.training.precise_bn import take_statistics

Make = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("draw_curves", "draw_grid"):
        monkeypatch.setattr(loop, name, lambda *_: None)


def store_of(config: TrainConfig) -> ImageStore:
    return open_data(config, torch.device("cpu"))[1].train


def norms(model: FCN) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def batches(store: ImageStore, config: TrainConfig) -> Iterator[RawBatch]:
    generator = torch.Generator().manual_seed(config.seed)
    return store.batches(iter_order(len(store), config.batch, config.precise_bn, generator))


def test_the_statistics_are_those_by_hand(config: Make) -> None:
    options = config(precise_bn=3, seed=4)
    store, model = store_of(options), make_model("fcn8s-edge-n", 3).eval()
    take_statistics(model, store, options)

    # Outputs of the first convolution over all pixels of all batches, as one tensor.
    first = norms(model)[0]
    seen: list[torch.Tensor] = []
    hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for raw in batches(store, options):
            model.features(raw.images)
    hook.remove()
    assert len(seen) == 3
    values = torch.cat(seen).movedim(1, 0).flatten(1).double()
    assert torch.allclose(first.running_mean.double(), values.mean(1), atol=1e-5)
    assert torch.allclose(first.running_var.double(), values.var(1), rtol=1e-5)


def test_deeper_statistics_are_those_of_batches_normalised_by_themselves(config: Make) -> None:
    """Of one batch they are what torch's own running statistics become with momentum 1."""
    options = config(precise_bn=1)
    store, model, own = store_of(options), make_model("fcn8s-edge-n", 3), make_model("fcn8s-edge-n", 3, bn_momentum=1)
    own.load_state_dict(model.state_dict())
    take_statistics(model.eval(), store, options)
    with torch.no_grad():
        for raw in batches(store, options):
            own.train()(raw.images)
    assert len(norms(model)) > 10
    for mine, other in zip(norms(model), norms(own), strict=True):
        assert torch.allclose(mine.running_mean, other.running_mean, rtol=1e-3, atol=1e-4)
        assert torch.allclose(mine.running_var, other.running_var, rtol=1e-3, atol=1e-4)


def test_nothing_else_of_the_model_changes(config: Make) -> None:
    options = config(precise_bn=2)
    model = make_model("fcn8s-edge-n", 3).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    take_statistics(model, store_of(options), options)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("running_" in name or "num_batches" in name for name in changed)
    assert not any(module.training for module in model.modules())
    assert not any(norm._forward_pre_hooks for norm in norms(model))


def test_the_last_checkpoint_has_them_and_is_what_was_validated(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def taken(model: FCN, store: ImageStore, options: TrainConfig) -> None:
        calls.append(len(validated))
        take_statistics(model, store, options)

    validated: list[dict[str, torch.Tensor]] = []
    original = loop.validate

    def noted(model: FCN, *rest: object) -> object:
        validated.append({name: value.clone() for name, value in model.state_dict().items()})
        return original(model, *rest)

    plain = load_checkpoint(train(config(out=str(tmp_path / "plain"), epochs=3)).last)
    monkeypatch.setattr(loop, "take_statistics", taken)
    monkeypatch.setattr(loop, "validate", noted)
    precise = load_checkpoint(train(config(out=str(tmp_path / "precise"), epochs=3, precise_bn=4)).last)
    assert calls == [2]  # once: after two validations and before the last
    assert all(torch.equal(value, precise.ema[name]) for name, value in validated[-1].items())

    # The run itself is what it is without: weights, raw statistics and the generators.
    assert all(torch.equal(value, precise.model[name]) for name, value in plain.model.items())
    assert all(torch.equal(value, precise.rng[name]) for name, value in plain.rng.items())
    for name, value in plain.ema.items():
        if "num_batches" not in name:  # counts the batches seen; no result depends on it
            assert torch.equal(value, precise.ema[name]) != ("running_" in name), name


def test_images_are_whole_and_not_varied(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    options = config(precise_bn=2, crop="32x32")
    store, model = store_of(options), make_model("fcn8s-edge-n", 3).eval()
    seen: list[torch.Tensor] = []
    features = model.features

    def noted(images: torch.Tensor) -> Iterable[torch.Tensor]:
        seen.append(images)
        return features(images)

    monkeypatch.setattr(model, "features", noted)
    take_statistics(model, store, options)
    assert all(torch.equal(images, raw.images) for images, raw in zip(seen, batches(store, options), strict=True))
    assert seen[0].shape == (4, 3, 64, 64)
