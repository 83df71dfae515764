"""Learning rate, parameter groups, the moving average and what is frozen."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from fcn_edge.errors import UsageError
from fcn_edge.model.fcn import make_model
from fcn_edge.model.folding import modules_before
from fcn_edge.training.config import TrainConfig
from fcn_edge.training.schedule import Average, freeze, make_optimizer, rate_factor, set_rate


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_the_rate_rises_then_falls_to_zero(schedule: str) -> None:
    config = msgspec.structs.replace(TrainConfig(), schedule=schedule, warmup=0.1)
    factors = [rate_factor(config, fraction) for fraction in np.linspace(0, 1, 101)]
    assert 0 < factors[0] < 0.05
    assert factors[10] == pytest.approx(1)
    assert np.all(np.diff(factors[:11]) > 0)
    assert np.all(np.diff(factors[10:]) < 0)
    assert factors[-1] == 0
    middle = {"poly": 0.5**0.9, "cosine": 0.5}[schedule]
    assert factors[55] == pytest.approx(middle)


def test_without_warm_up_it_starts_at_the_top() -> None:
    assert rate_factor(TrainConfig(warmup=0.0), 0.0) == 1


def test_only_weights_of_convolutions_decay() -> None:
    model = make_model("fcn8s-edge-n", 4)
    optimizer = make_optimizer(model, TrainConfig(weight_decay=0.05, backbone_lr=0.5, kernel_lr=0.1))
    decay_of = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    factor_of = {id(p): group["factor"] for group in optimizer.param_groups for p in group["params"]}
    convolutions = {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d)}
    expected_factor = {"backbone": 0.5, "skip_head": 0.1, "score_convs": 1.0}
    for name, parameter in model.named_parameters():
        assert decay_of[id(parameter)] == (0.05 if id(parameter) in convolutions else 0.0), name
        assert factor_of[id(parameter)] == expected_factor[name.split(".")[0]], name
    set_rate(optimizer, 0.01)
    assert {group["lr"] for group in optimizer.param_groups} == {0.01, 0.005, 0.001}


def test_the_average_follows_its_formula() -> None:
    model = make_model("fcn8s-edge-n", 2)
    average = Average(model, 0.5)
    expected = model.score_convs[0].weight.detach().clone()
    for step in range(12):
        with torch.no_grad():
            model.score_convs[0].weight.normal_()
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.score_convs[0].weight.detach()
    assert torch.allclose(average.model.score_convs[0].weight, expected, atol=1e-6)


def test_the_average_takes_batch_norms_statistics() -> None:
    model = make_model("fcn8s-edge-n", 2).train()
    average = Average(model, 0.0)
    model(torch.rand(2, 3, 64, 64) * 255)
    average.update(model, 0)
    for name, value in model.state_dict().items():
        assert torch.equal(average.model.state_dict()[name], value), name


def test_frozen_batch_norm_does_not_move() -> None:
    config = TrainConfig(freeze_bn=True)
    model = make_model("fcn8s-edge-n", 2)
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    model.train()
    freeze(model, config)
    model(torch.rand(2, 3, 64, 64) * 255)
    assert before
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    learned = {id(p) for group in make_optimizer(model, config).param_groups for p in group["params"]}
    norms = [p for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
    assert norms
    assert not any(id(parameter) in learned for parameter in norms)


def test_a_frozen_backbone_is_left_out() -> None:
    config = TrainConfig(backbone_lr=0.0)
    model = make_model("fcn8s-edge-n", 2)
    freeze(model, config)
    learned = sum(len(group["params"]) for group in make_optimizer(model, config).param_groups)
    assert learned == len(list(model.score_convs.parameters())) + len(model.kernels)
    freeze(model.train(), config)
    assert not any(module.training for module in model.bottom_up.modules())  # nor do its statistics move


def test_kernels_that_are_kept_bilinear_are_left_out() -> None:
    config = TrainConfig(kernel_lr=0.0)
    model = make_model("fcn8s-edge-n", 2)
    freeze(model, config)
    learned = {id(p) for group in make_optimizer(model, config).param_groups for p in group["params"]}
    assert not any(id(kernel) in learned for kernel in model.kernels)


@pytest.mark.parametrize("name", ["fcn4s-edge-n", "fcn4s-edge-n-fpn", "fcn8s-resnet18", "fcn8s-efficientnet-lite0"])
def test_what_makes_the_features_of_a_stride_is_frozen(name: str) -> None:
    model = make_model(name, 2)
    freeze(model.train(), TrainConfig(freeze_to=4))
    image = torch.rand(2, 3, 64, 64)
    features = model.bottom_up(image)
    assert {stride: maps.requires_grad for stride, maps in features.items()} == {4: False, 8: True, 16: True, 32: True}
    state = {key: value.clone() for key, value in model.bottom_up.state_dict().items()}
    features[32].sum().backward()
    make_optimizer(model, TrainConfig(freeze_to=4)).step()
    with torch.no_grad():
        assert torch.equal(model.bottom_up(image)[4], features[4])  # weights and statistics are what they were
    frozen = tuple(modules_before(model.bottom_up, 4))
    assert frozen
    for key, value in model.bottom_up.state_dict().items():
        if key.startswith(tuple(f"{each}." for each in frozen)):
            assert torch.equal(value, state[key]), key
    assert any(not torch.equal(value, state[key]) for key, value in model.bottom_up.state_dict().items())
    freeze(model.train(), TrainConfig(freeze_to=4))  # as before each epoch
    assert not model.bottom_up(image)[4].requires_grad


def test_a_stride_without_features_cannot_be_frozen_to() -> None:
    with pytest.raises(UsageError, match=r"no features at stride 4; it has them at \[8, 16, 32\]"):
        freeze(make_model("fcn8s-alexnet", 2), TrainConfig(freeze_to=4))
