"""Precise batch norm: the statistics are those computed by hand, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import pytest
import torch
from torch import nn

from fcn_edge.model.fcn import FCN, make_model
from fcn_edge.training import learner, loop
from fcn_edge.training.checkpoint import load_checkpoint
from fcn_edge.training.config import TrainConfig
from fcn_edge.training.loop import train
from fcn_edge.training.precise_bn import take_statistics

Make = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("draw_curves", "draw_grid"):
        monkeypatch.setattr(loop, name, lambda *_, **__: None)


def norms(model: FCN) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def drawn(count: int, side: int = 64) -> list[torch.Tensor]:
    """Batches whose brightness differs, so that the spread between batches matters too."""
    generator = torch.Generator().manual_seed(2)
    return [50 * index + 60 * torch.rand(4, 3, side, side, generator=generator) for index in range(count)]


def test_the_statistics_are_those_by_hand() -> None:
    model = make_model("fcn8s-edge-n", 3).eval()
    take_statistics(model, drawn(3))

    # Outputs of the first convolution over all pixels of all batches, as one tensor.
    first = norms(model)[0]
    seen: list[torch.Tensor] = []
    hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for images in drawn(3):
            model.features(images)
    hook.remove()
    assert len(seen) == 3
    values = torch.cat(seen).movedim(1, 0).flatten(1).double()
    assert torch.allclose(first.running_mean.double(), values.mean(1), atol=1e-5)
    assert torch.allclose(first.running_var.double(), values.var(1), rtol=1e-4)


def test_deeper_statistics_are_those_of_batches_normalised_by_themselves() -> None:
    """Of one batch they are what torch's own running statistics become with momentum 1."""
    model, own = make_model("fcn8s-edge-n", 3), make_model("fcn8s-edge-n", 3, bn_momentum=1)
    own.load_state_dict(model.state_dict())
    take_statistics(model.eval(), drawn(1))
    with torch.no_grad():
        own.train()(drawn(1)[0])
    assert len(norms(model)) > 10
    for mine, other in zip(norms(model), norms(own), strict=True):
        assert torch.allclose(mine.running_mean, other.running_mean, rtol=1e-3, atol=1e-4)
        assert torch.allclose(mine.running_var, other.running_var, rtol=1e-3, atol=1e-4)


def test_nothing_else_of_the_model_changes() -> None:
    model = make_model("fcn8s-edge-n", 3).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    take_statistics(model, drawn(2))
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
    taken: list[torch.Tensor] = []

    def noted_statistics(model: FCN, batches: Iterable[torch.Tensor], frozen: Collection[str]) -> None:
        calls.append(len(validated))
        assert not frozen
        taken.extend(batches)
        take_statistics(model, taken)

    validated: list[dict[str, torch.Tensor]] = []
    original = loop.validate

    def noted(model: FCN, *rest: object) -> object:
        validated.append({name: value.clone() for name, value in model.state_dict().items()})
        return original(model, *rest)

    plain = load_checkpoint(train(config(out=str(tmp_path / "plain"), epochs=3, crop="48x48")).last)
    monkeypatch.setattr(learner, "take_statistics", noted_statistics)
    monkeypatch.setattr(loop, "validate", noted)
    precise = load_checkpoint(train(config(out=str(tmp_path / "precise"), epochs=3, crop="48x48", precise_bn=4)).last)
    assert calls == [2]  # once: after two validations and before the last
    assert [images.shape for images in taken] == [(4, 3, 48, 48)] * 4
    assert not torch.equal(taken[0], taken[0].round())  # crops are varied
    assert all(torch.equal(value, precise.ema[name]) for name, value in validated[-1].items())

    # The run itself is what it is without: weights, raw statistics and the generators.
    assert all(torch.equal(value, precise.model[name]) for name, value in plain.model.items())
    assert all(torch.equal(value, precise.rng[name]) for name, value in plain.rng.items())
    for name, value in plain.ema.items():
        if "num_batches" not in name:  # counts the batches seen; no result depends on it
            assert torch.equal(value, precise.ema[name]) != ("running_" in name), name


def test_what_is_frozen_keeps_its_statistics_and_normalises_by_them(config: Make, tmp_path: Path) -> None:
    first = train(config(out=str(tmp_path / "first"), epochs=1)).last
    more = config(out=str(tmp_path / "more"), init=str(first), epochs=1, freeze_to=8, precise_bn=2)
    before, after = load_checkpoint(first).ema, load_checkpoint(train(more).last).ema
    means = [name for name in before if name.endswith("running_mean")]
    kept = {name for name in means if torch.equal(before[name], after[name])}
    frozen = tuple(f"backbone.{part}" for part in ("stem.", "s4.", "s8."))
    assert kept == {name for name in means if name.startswith(frozen)}
    assert 0 < len(kept) < len(means)
