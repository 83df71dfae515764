"""Hints: what the loss measures, that it moves the network, and that none of it stays in the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fcn_edge.errors import UsageError
from fcn_edge.model.fcn import make_model
from fcn_edge.training import loop
from fcn_edge.training.checkpoint import load_checkpoint, model_from_checkpoint
from fcn_edge.training.config import TrainConfig
from fcn_edge.training.hints import Hints
from fcn_edge.training.loop import train

Make = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("draw_curves", "draw_grid"):
        monkeypatch.setattr(loop, name, lambda *_, **__: None)


def features(widths: tuple[int, ...], seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, width, 8 * 2**level, 8 * 2**level, generator=generator) for level, width in enumerate(widths)
    ]


def test_the_loss_is_the_share_of_variance_that_a_linear_map_leaves() -> None:
    hints = Hints(make_model("fcn8s-edge-n", 3), make_model("fcn4s-edge-s", 3))
    own, taught = features((128, 96, 64), 0), features((192, 128, 96, 32), 1)  # the teacher's stride 4 has no partner
    taught = [maps * 5 + 3 for maps in taught]
    assert hints(own, taught).item() == pytest.approx(1, abs=0.01)
    # A teacher that is a linear map of the network is found in full.
    generator = torch.Generator().manual_seed(2)
    maps = [
        torch.randn(maps.shape[1], mine.shape[1], generator=generator) for maps, mine in zip(taught, own, strict=False)
    ]
    taught[:3] = [torch.einsum("oc,nchw->nohw", mix, mine) + 7 for mix, mine in zip(maps, own, strict=True)]
    optimizer = torch.optim.Adam(hints.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = hints(own, taught)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02


def test_no_gradient_reaches_the_teacher_and_one_reaches_the_network() -> None:
    hints = Hints(make_model("fcn8s-edge-n", 3), make_model("fcn8s-edge-s", 3))
    torch.nn.init.normal_(hints.convs[0].weight)
    own, taught = features((128, 96, 64), 0), features((192, 128, 96), 1)
    for maps in (*own, *taught):
        maps.requires_grad_(True)
    hints(own, taught).backward()
    assert own[0].grad is not None
    assert own[0].grad.abs().sum() > 0
    assert all(maps.grad is None for maps in taught)


def test_a_run_with_hints_resumes_exactly_and_leaves_a_plain_model(config: Make, tmp_path: Path) -> None:
    teacher = str(train(config(out=str(tmp_path / "teacher"), epochs=2, model="fcn4s-edge-s")).last)
    options = {"teacher": teacher, "hint": 2.0, "distill": 0.0, "epochs": 3}
    whole = train(config(out=str(tmp_path / "whole"), **options))
    without = train(config(out=str(tmp_path / "without"), **(options | {"hint": 0.0})))
    assert whole.history[-1]["loss"] != without.history[-1]["loss"]

    def stop(state: loop.Progress) -> None:
        if state.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config(out=str(tmp_path / "run"), **options), stop)
    saved = load_checkpoint(tmp_path / "run" / "last.pt")
    assert any(value.abs().sum() > 0 for value in saved.hints.values())
    resumed = train(config(out=str(tmp_path / "run"), **options), resume=True)
    assert [entry["loss"] for entry in resumed.history] == [entry["loss"] for entry in whole.history]
    model, _ = model_from_checkpoint(resumed.last)
    assert model.state_dict().keys() == make_model(model.name, model.num_classes).state_dict().keys()


def test_a_checkpoint_from_before_hints_is_read(config: Make, tmp_path: Path) -> None:
    last = train(config(epochs=1)).last
    fields = torch.load(last, weights_only=True)
    del fields["hints"]
    old = tmp_path / "old.pt"
    torch.save(fields, old)
    assert load_checkpoint(old).hints == {}


def test_hints_need_a_teacher() -> None:
    with pytest.raises(UsageError, match=r"hint is 2 but there is no teacher.*--teacher"):
        TrainConfig(data="any", hint=2.0)
