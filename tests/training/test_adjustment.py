"""Class weights' lead in the answers: how much is left, what a start and a teacher bring of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fcn_edge.model.fcn import make_model
from fcn_edge.training import loop
from fcn_edge.training.adjustment import change_of_lead, logit_adjustment, shift_logits
from fcn_edge.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fcn_edge.training.config import TrainConfig
from fcn_edge.training.data import open_data
from fcn_edge.training.distill import open_teacher
from fcn_edge.training.loop import train
from fcn_edge.training.losses import enet_weights, segmentation_loss

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")
WEIGHTS = torch.tensor([0.5, 1.0, 4.0])
KERNEL = torch.zeros(3, 1, 4, 4)
KERNEL[..., 1:3, 1:3] = 1  # to twice the size by repetition


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("draw_curves", "draw_grid"):
        monkeypatch.setattr(loop, name, lambda *_, **__: None)


@pytest.mark.parametrize(("share", "lead"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)])
def test_answers_keep_what_is_not_taken_out(share: float, lead: float) -> None:
    """One cell, of which three classes cover 70, 25 and 5 %: the loss is least at p w^lead, p and w being known."""
    shares = torch.tensor([0.7, 0.25, 0.05])
    labels = torch.repeat_interleave(torch.arange(3), (100 * shares).long()).view(1, 10, 10)
    bias = torch.zeros(3, requires_grad=True)
    adjustment = logit_adjustment(TrainConfig(logit_adjustment=share), WEIGHTS)
    optimizer = torch.optim.LBFGS([bias], max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = bias.view(1, 3, 1, 1).expand(1, 3, 5, 5)
        loss = segmentation_loss([scores], [KERNEL], labels, weights=WEIGHTS, adjustment=adjustment)
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = (shares * WEIGHTS**lead) / (shares * WEIGHTS**lead).sum()
    torch.testing.assert_close(bias.detach().softmax(0), expected, rtol=1e-3, atol=1e-4)


def test_without_weights_there_is_nothing_to_take_out() -> None:
    assert logit_adjustment(TrainConfig(), None) is None
    plain, half = TrainConfig(class_weights="none"), TrainConfig(logit_adjustment=0.5)
    assert not change_of_lead(plain, plain, WEIGHTS).any()
    torch.testing.assert_close(change_of_lead(plain, half, WEIGHTS), 0.5 * WEIGHTS.log())
    torch.testing.assert_close(change_of_lead(half, plain, WEIGHTS), -0.5 * WEIGHTS.log())


def test_a_shift_moves_every_pixel_by_as_much() -> None:
    model = make_model("fcn8s-edge-n", 3).eval()
    image, amount = torch.rand(1, 3, 40, 50) * 255, torch.tensor([-1.0, 0.0, 2.0])
    with torch.no_grad():
        before = model(image)
        shift_logits(model, amount)
        moved = (model(image) - before)[..., 8:-8, 8:-8]  # an interpolation fades at the border
    torch.testing.assert_close(moved, amount.view(1, 3, 1, 1).expand_as(moved), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        model.kernels[-1][1:] *= 1.25  # no exact interpolation any more
        before = model(image)
        shift_logits(model, amount)
        moved = (model(image) - before)[..., 8:-8, 8:-8]
    torch.testing.assert_close(moved.mean((0, 2, 3)), amount, rtol=1e-3, atol=1e-3)


def test_a_start_and_a_teacher_come_to_lead_as_the_run_does(config: Make, tmp_path: Path) -> None:
    first = train(config(out=str(tmp_path / "first"), epochs=1, logit_adjustment=0.0, model="fcn8s-edge-n")).last
    options, data = open_data(config(model="fcn8s-edge-n", teacher=str(first), logit_adjustment=1.0), CPU)
    expected = load_checkpoint(first).ema["score_convs.2.bias"] - enet_weights(data.train.counts).log()
    (teacher,) = open_teacher(options, data, CPU).models
    torch.testing.assert_close(teacher.score_convs[-1].bias, expected, rtol=0.05, atol=0.05)
    again = train(config(init=str(first), epochs=1, lr=1e-8, kernel_lr=0.0, ema=0.0, logit_adjustment=1.0)).last
    torch.testing.assert_close(load_checkpoint(again).ema["score_convs.2.bias"], teacher.score_convs[-1].bias)


def test_other_classes_start_without_a_shift(config: Make, tmp_path: Path) -> None:
    first = train(config(out=str(tmp_path / "first"), epochs=1, logit_adjustment=0.0)).last
    origin = load_checkpoint(first)
    options = config(
        init=str(first), epochs=1, lr=1e-8, ema=0.0, logit_adjustment=1.0, classes=["box", "all=ground+ball"]
    )
    bias = load_checkpoint(train(options).last).ema["score_convs.2.bias"]
    assert bias[0] == pytest.approx(
        float(origin.ema["score_convs.2.bias"][origin.contract.class_names.index("box")]), abs=1e-6
    )


def test_checkpoints_from_before_have_all_of_their_lead(contract_of, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = make_model("fcn8s-edge-n", 3)
    path = tmp_path / "old.pt"
    save_checkpoint(path, Checkpoint(contract_of(model, (64, 64)), TrainConfig(), model={}, ema={}))
    fields = torch.load(path, weights_only=True)
    assert fields["config"].pop("logit_adjustment") == 0.5
    torch.save(fields, path)
    assert load_checkpoint(path).config.logit_adjustment == 0.0
