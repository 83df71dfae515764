"""The mean of checkpoints: its numbers, what it tells of them, and what has no mean."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from fcn_edge.benchmarks import mean_weights
from fcn_edge.benchmarks.mean_weights import mean_of_checkpoints
from fcn_edge.errors import UsageError
from fcn_edge.training.checkpoint import Checkpoint, load_checkpoint, model_from_checkpoint, save_checkpoint
from fcn_edge.training.config import TrainConfig
from fcn_edge.training.qat import quantised


@pytest.fixture
def first(tmp_path, lively_model, contract_of) -> Path:
    model = lively_model("fcn8s-edge-n", 4)
    state = model.state_dict()
    checkpoint = Checkpoint(contract_of(model, (64, 96)), TrainConfig(seed=1), model=state, ema=state, step=10)
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    return tmp_path / "a.pt"


def changed(path: Path, name: str, **fields) -> Path:
    """Another checkpoint beside ``path``."""
    save_checkpoint(path.with_name(name), replace(load_checkpoint(path), **fields))
    return path.with_name(name)


def test_weights_and_statistics_are_means(first, tmp_path, capsys) -> None:
    before = load_checkpoint(first)
    other = {name: 3 * value if value.is_floating_point() else value + 7 for name, value in before.ema.items()}
    history = [{"epoch": 1, "loss": 0.5}]
    second = changed(
        first, "b.pt", ema=other, config=TrainConfig(seed=2), provenance={"train_images": "5"}, history=history
    )
    assert mean_weights.main([str(first), str(second), "-o", str(tmp_path / "mean.pt")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "mean.pt")
    mean = load_checkpoint(tmp_path / "mean.pt")
    for name, value in before.ema.items():
        expected = 2 * value if value.is_floating_point() else other[name]
        torch.testing.assert_close(mean.ema[name], expected, msg=name)
    assert (mean.config.seed, mean.history, mean.optimizer) == (2, history, {})
    assert mean.provenance["train_images"] == "5"
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, second)]
    assert mean.provenance["mean_of_sha256"] == ",".join(digests)


def test_half_weights_are_summed_in_float32(first) -> None:
    """Convolutions are often kept in half precision; the sum of three large ones would overflow there."""
    state = dict(load_checkpoint(first).ema)
    name = next(name for name, value in state.items() if value.ndim == 4)
    state[name] = torch.full_like(state[name], 40000).half()
    mean = mean_of_checkpoints([changed(first, f"{number}.pt", ema=state) for number in range(3)])
    assert mean.ema[name].dtype == torch.float32
    assert bool((mean.ema[name] == 40000).all())


def test_mean_of_one_with_itself_is_that_model(first, tmp_path) -> None:
    save_checkpoint(tmp_path / "mean.pt", mean_of_checkpoints([first, first]))
    image = torch.rand(1, 3, 64, 96) * 255
    with torch.inference_mode():
        (one, _), (mean, contract) = model_from_checkpoint(first), model_from_checkpoint(tmp_path / "mean.pt")
        assert torch.equal(one(image), mean(image))
    assert contract == load_checkpoint(first).contract


def test_what_has_no_mean_is_refused(first, tmp_path, lively_model, contract_of, capsys) -> None:
    with pytest.raises(UsageError, match="got 1 checkpoint"):
        mean_of_checkpoints([first])
    model = lively_model("fcn8s-edge-s", 4)
    larger = changed(first, "s.pt", contract=contract_of(model, (64, 96)), ema=model.state_dict())
    with pytest.raises(UsageError, match=r"s\.pt has model fcn8s-edge-s, .*a\.pt has fcn8s-edge-n"):
        mean_of_checkpoints([larger, first])
    contract = replace(load_checkpoint(first).contract, class_names=("a", "b", "c", "d"))
    with pytest.raises(UsageError, match="has classes"):
        mean_of_checkpoints([first, changed(first, "named.pt", contract=contract)])
    with pytest.raises(UsageError, match=r"has logit_adjustment 0\.0, .* has 0\.5"):
        mean_of_checkpoints([changed(first, "lead.pt", config=TrainConfig(logit_adjustment=0.0)), first])
    with pytest.raises(UsageError, match=r"has class_weights none, .* has enet"):
        mean_of_checkpoints([changed(first, "even.pt", config=TrainConfig(class_weights="none")), first])
    rounding = quantised(lively_model("fcn8s-edge-n", 4)).state_dict()
    tuned = changed(first, "qat.pt", ema=rounding)
    assert mean_weights.main([str(tuned), str(first), "-o", str(tmp_path / "none.pt")]) == UsageError.exit_code
    assert "quantisation-aware" in capsys.readouterr().err
    assert not (tmp_path / "none.pt").exists()


def test_no_file_is_replaced_least_of_all_one_that_went_in(first, capsys) -> None:
    other = changed(first, "other.pt", config=TrainConfig(seed=1))
    before = other.read_bytes()
    assert mean_weights.main([str(first), str(other), "-o", str(other)]) == UsageError.exit_code
    assert "is not replaced; choose another name" in " ".join(capsys.readouterr().err.split())
    assert other.read_bytes() == before
