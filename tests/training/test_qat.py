"""Quantisation-aware training: what rounds, how steps start and learn, and that a run leaves what it should."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from fcn_edge.errors import FcnEdgeError, UsageError  # noqa: E402
from fcn_edge.training.checkpoint import load_checkpoint, model_from_checkpoint  # noqa: E402
from fcn_edge.training.config import TrainConfig  # noqa: E402
from fcn_edge.training.loop import train  # noqa: E402
from fcn_edge.training.qat import (  # noqa: E402
    QuantisedConv,
    Quantiser,
    correct_biases,
    is_quantised,
    learned_steps,
    measure_steps,
    quantised,
    unquantised,
)


@pytest.fixture
def image():
    return torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_quantiser_rounds_to_steps_and_clips_like_int8() -> None:
    quantiser = Quantiser()
    quantiser.set_step(0.5)
    values = torch.tensor([0.0, 0.2, 0.3, -0.8, 63.4, 100.0, -100.0])
    torch.testing.assert_close(quantiser(values), torch.tensor([0.0, 0.0, 0.5, -1.0, 63.5, 63.5, -64.0]))


def test_gradients_are_those_of_learned_step_sizes() -> None:
    quantiser = Quantiser()
    quantiser.set_step(0.5)
    values = torch.tensor([0.2, 0.3, 100.0, -100.0], requires_grad=True)
    quantiser(values).sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    # d rounded / d step is (round(v) - v) inside and the bound outside, v = value / step; d step / d log is step
    of_step = (0 - 0.4) + (1 - 0.6) + 127 - 128
    expected = 0.5 * of_step / (4 * 127) ** 0.5
    assert quantiser.log_step.grad.item() == pytest.approx(expected, rel=1e-3)


def test_convolution_rounds_each_channel_to_127_steps_and_the_gradient_passes() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        plain.weight.mul_(torch.tensor([1.0, 0.1, 100.0, 0.0]).view(4, 1, 1, 1))
    conv = QuantisedConv(copy.deepcopy(plain))
    image = torch.randn(1, 3, 8, 8)
    weight = plain.weight.detach()
    steps = (weight.abs().amax((1, 2, 3), keepdim=True) / 127).half().float().clamp(min=1e-9)
    rounded = (weight / steps).round() * steps
    torch.testing.assert_close(conv(image), torch.nn.functional.conv2d(image, rounded, conv.bias))
    torch.testing.assert_close(conv.plain().weight, plain.weight)
    assert not torch.equal(plain(image), conv(image))
    for each in (conv, plain):
        each(image).sum().backward()
    # Learned in units of a channel's largest, so that one learning rate fits all channels.
    assert conv.weight.detach().abs().amax((1, 2, 3)).tolist() == pytest.approx([1, 1, 1, 0])
    torch.testing.assert_close(conv.weight.grad, plain.weight.grad * conv.unit)


def test_biases_take_out_what_rounding_adds_on_average(lively_model, image) -> None:
    model = lively_model("fcn4s-efficientnet-lite0", 5)
    rounding = quantised(model).eval()
    for quantiser in rounding.backbone.quantisers.values():
        quantiser.forward = lambda maps: maps  # so that nothing but weights is rounded
    with torch.no_grad():
        expected = model.scores(model.features(image))
        before = rounding.scores(rounding.features(image))
        correct_biases(rounding, [image])
        after = rounding.scores(rounding.features(image))
    for wanted, one, other in zip(expected, before, after, strict=True):
        shift, left = ((maps - wanted).mean((0, 2, 3)).abs().mean() for maps in (one, other))
        assert left < 0.5 * shift


def test_without_rounding_the_answers_are_those_of_the_trained_model(lively_model, image) -> None:
    model = lively_model("fcn4s-edge-n", 5)
    rounding = quantised(model).eval()
    measure_steps(rounding, [image])
    with torch.no_grad():
        expected, rounded, plain = model(image), rounding(image), unquantised(rounding)(image)
    torch.testing.assert_close(plain, expected, rtol=1e-3, atol=1e-3)
    off = (rounded - expected).abs().mean() / expected.abs().mean()
    assert 1e-4 < off < 0.1, "rounding changes the answers, but not much"
    assert is_quantised(rounding.state_dict())
    assert not is_quantised(model.state_dict())
    assert not is_quantised(unquantised(rounding).state_dict())


def test_steps_are_exact_in_fp16(lively_model, image) -> None:
    rounding = quantised(lively_model("fcn8s-edge-n", 5))
    measure_steps(rounding, [image])
    steps = learned_steps(rounding)
    assert len(set(steps.values())) > 10
    assert all(step == float(torch.tensor(step).half()) for step in steps.values())
    assert steps["backbone.stem.1.0:input"] > 0


def test_activations_that_are_not_finite_are_refused(lively_model, image) -> None:
    model = lively_model("fcn8s-edge-n", 5)
    with torch.no_grad():
        model.backbone.stem[0][0].weight[0] = float("nan")
    with pytest.raises(FcnEdgeError, match=r"stem\.1\.0:input cannot be measured"):
        measure_steps(quantised(model), [image])
    with pytest.raises(FcnEdgeError, match="0 seen"):
        measure_steps(quantised(model), [])


def test_a_fine_tune_learns_weights_and_steps_and_can_be_resumed(config, tmp_path: Path) -> None:
    first = train(config(epochs=2))
    options = {"init": str(first.last), "qat": True, "lr": 1e-3, "batch": 4}
    whole = train(config(out=str(tmp_path / "whole"), epochs=3, **options))
    with pytest.raises(_StopError):
        train(config(out=str(tmp_path / "half"), epochs=3, **options), _stop_after(2))
    earlier = load_checkpoint(tmp_path / "half" / "last.pt").model
    again = train(config(out=str(tmp_path / "half"), epochs=3, **options), resume=True)
    one, other = load_checkpoint(whole.last), load_checkpoint(again.last)
    assert is_quantised(one.model)
    for name, value in one.model.items():
        torch.testing.assert_close(other.model[name], value, rtol=0, atol=0)
    steps = [name for name in one.model if name.endswith("log_step")]
    assert len(steps) > 20
    assert all(one.model[name] != earlier[name] for name in steps)


def test_the_checkpoint_answers_with_rounding_as_it_was_validated(config, tmp_path: Path, image) -> None:
    first = train(config(epochs=1))
    run = train(config(out=str(tmp_path / "qat"), init=str(first.last), qat=True, epochs=1))
    model, _ = model_from_checkpoint(run.last)
    with torch.no_grad():
        assert not torch.equal(model(image), unquantised(model)(image))


def test_what_does_not_fit_is_refused(config, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give its checkpoint with --init"):
        config(qat=True)
    first = train(config(epochs=1))
    with pytest.raises(UsageError, match="has model fcn8s-edge-n, this run fcn4s-edge-n"):
        train(config(out=str(tmp_path / "a"), init=str(first.last), qat=True, model="fcn4s-edge-n"))
    with pytest.raises(UsageError, match="has classes"):
        train(config(out=str(tmp_path / "b"), init=str(first.last), qat=True, classes=["ball", "box"]))
    fine = train(config(out=str(tmp_path / "c"), init=str(first.last), qat=True, epochs=1))
    with pytest.raises(UsageError, match="batch norm is folded"):
        train(config(out=str(tmp_path / "d"), init=str(fine.last)))


def test_a_fine_tune_that_nothing_was_filled_in_for_is_refused(tmp_path: Path) -> None:
    """``TrainConfig`` cannot tell what was given, so a run would begin at the rate of a training from scratch."""
    with pytest.raises(UsageError, match=r"qat at lr 0\.002, .*lose what a\.pt has learned; .*config_from_dict"):
        train(TrainConfig(data=str(tmp_path), out=str(tmp_path / "out"), init="a.pt", qat=True))
    assert not list(tmp_path.iterdir())


class _StopError(Exception):
    """Ends a run from outside, as Ctrl-C does."""


def _stop_after(epochs: int):
    def stop(progress) -> None:
        if progress.epoch > epochs:
            raise _StopError

    return stop


@pytest.mark.parametrize("before", [{"class_weights": "none"}, {"logit_adjustment": 0.0}])
def test_a_fine_tune_answers_by_the_lead_of_the_run_that_is_tuned(config, tmp_path: Path, before, caplog) -> None:
    """Its own defaults would teach it, and its teacher, to answer otherwise."""
    first = train(config(epochs=1, **before))
    options = {"out": str(tmp_path / "qat"), "init": str(first.last), "qat": True, "lr": 1e-8}
    with caplog.at_level("INFO"):
        tuned = train(config(epochs=1, **options))
    assert f"{next(iter(before))} is {next(iter(before.values()))}, as it was in the run that is tuned" in caplog.text
    one, other = load_checkpoint(first.last).config, load_checkpoint(tuned.last).config
    assert (one.class_weights, one.logit_adjustment) == (other.class_weights, other.logit_adjustment)
    assert train(config(epochs=2, **options), resume=True).epochs == 2
