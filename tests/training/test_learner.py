"""What a run's options say reaches augmentation, loss and quantisation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fcn_edge.training import learner as learner_module
from fcn_edge.training import loop
from fcn_edge.training.config import DEFAULT_MODEL, TrainConfig
from fcn_edge.training.data import open_data
from fcn_edge.training.learner import Learner
from fcn_edge.training.loop import train

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")


def recorded(monkeypatch: pytest.MonkeyPatch, name: str) -> list[dict]:
    """The keyword arguments of each call of a function that the learner uses, which works as before."""
    calls: list[dict] = []
    function = getattr(learner_module, name)

    def call(*arguments, **keywords):
        calls.append(keywords)
        return function(*arguments, **keywords)

    monkeypatch.setattr(learner_module, name, call)
    return calls


def test_the_options_of_the_loss_reach_it(config: Make, monkeypatch) -> None:
    asked = {"aux": 0.25, "lovasz": 0.5, "loss_every": 2, "label_weight": 0.75, "distill": 0.5}
    options, data = open_data(
        config(model=DEFAULT_MODEL, loss="ohem", distill_temperature=3.0, class_weights="enet", **asked), CPU
    )
    learner = Learner(options, data.contract, data.train.counts, CPU)
    calls = recorded(monkeypatch, "segmentation_loss")
    learner.step(next(iter(data.train.batches([[0, 1, 2, 3]]))), 0.0)
    (given,) = calls
    expected = asked | {"loss": "ohem", "temperature": 3.0}
    expected["every"] = expected.pop("loss_every")
    assert {name: given[name] for name in expected} == expected
    assert torch.equal(given["weights"], learner_module.enet_weights(data.train.counts))
    assert given["adjustment"] is not None


def test_the_options_of_augmentation_reach_it_and_mixing_ends_before_the_run_does(config: Make, monkeypatch) -> None:
    options, data = open_data(config(model=DEFAULT_MODEL, augment={"classmix": 0.5, "settle": 0.2}), CPU)
    counts = torch.tensor([900, 0, *[25] * (data.contract.num_classes - 2)])
    learner = Learner(options, data.contract, counts, CPU)
    calls = recorded(monkeypatch, "augment_batch")
    raw = next(iter(data.train.batches([[0, 1, 2, 3]])))
    for fraction in (0.0, 0.79, 0.81):
        learner.step(raw, fraction)
    assert [given["mix"] for given in calls] == [True, True, False]
    assert calls[0]["fill"] == data.contract.mean
    share = counts / counts.sum()
    expected = [0.0 if not one else one**-0.5 for one in share.tolist()]
    assert calls[0]["rarity"].tolist() == pytest.approx(expected)


def test_a_run_for_int8_measures_steps_and_then_biases_on_images_of_the_whole_set(
    config: Make, tmp_path: Path, monkeypatch
) -> None:
    start = train(config(out=str(tmp_path / "start"), epochs=1)).last
    seen = []
    for name in ("measure_steps", "correct_biases"):
        function = getattr(learner_module, name)

        def call(model, batches, name=name, function=function):
            seen.append((name, torch.cat(list(batches))))
            return function(model, batches)

        monkeypatch.setattr(learner_module, name, call)
    monkeypatch.setattr(loop, "_MEASURED", 3)
    options = config(qat=True, init=str(start), epochs=1)
    train(options)
    assert [name for name, _ in seen] == ["measure_steps", "correct_biases"]
    images = open_data(config(model=DEFAULT_MODEL), CPU)[1].train
    spread = [index * len(images) // 3 for index in range(3)]
    assert spread != [0, 1, 2]
    for _, batch in seen:
        assert torch.equal(batch, next(iter(images.batches([spread]))).images)
