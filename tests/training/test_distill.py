"""A teacher: what it changes, what is refused, what the checkpoint tells about it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fcn_edge.errors import ModelError, UsageError
from fcn_edge.training import loop
from fcn_edge.training.batches import RawBatch
from fcn_edge.training.checkpoint import load_checkpoint, model_from_checkpoint
from fcn_edge.training.config import DEFAULT_MODEL, TrainConfig
from fcn_edge.training.data import open_data
from fcn_edge.training.distill import open_teacher
from fcn_edge.training.learner import Learner
from fcn_edge.training.loop import train

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("draw_curves", "draw_grid"):
        monkeypatch.setattr(loop, name, lambda *_, **__: None)


@pytest.fixture
def taught(config: Make, tmp_path: Path) -> Path:
    """The checkpoint of a short run, to be a teacher."""
    return train(config(out=str(tmp_path / "teacher"), epochs=6, lr=4e-3, model="fcn4s-edge-n", val_every=6)).last


def learner_for(options: TrainConfig) -> tuple[Learner, RawBatch]:
    options, data = open_data(options, CPU)
    teacher = open_teacher(options, data, CPU) if options.teacher else None
    learner = Learner(options, data.contract, data.train.counts, CPU, teacher)
    learner.train_mode()
    return learner, next(iter(data.train.batches([[0, 1, 2, 3]])))


def test_the_student_comes_to_answer_as_the_teacher_does(config: Make, taught: Path) -> None:
    """Without a teacher the weights differ after the same steps, and their answers are further from the teacher's."""

    def distance(**more: object) -> float:
        learner, raw = learner_for(config(model=DEFAULT_MODEL, lr=4e-3, warmup=0.0, **more))
        for _ in range(25):
            learner.step(raw, 0.0)
        model = load_teacher_model()
        with torch.no_grad():
            own, wanted = (net.eval()(raw.images).log_softmax(1) for net in (learner.model, model))
        return float((wanted.exp() * (wanted - own)).sum(1).mean())

    def load_teacher_model() -> torch.nn.Module:
        options, data = open_data(config(model=DEFAULT_MODEL, teacher=str(taught)), CPU)
        return open_teacher(options, data, CPU).models[0]

    assert distance(teacher=str(taught), distill=10.0) < 0.8 * distance()


def test_the_teacher_stays_as_it_is_and_out_of_the_checkpoint(config: Make, taught: Path) -> None:
    learner, raw = learner_for(config(model=DEFAULT_MODEL, teacher=str(taught)))
    assert learner.teacher is not None
    before = {name: value.clone() for name, value in learner.teacher.models[0].state_dict().items()}
    assert not any("running" in name for name in before)  # no statistics that a batch could change
    learner.step(raw, 0.0)
    assert not learner.teacher.models[0].training
    assert all(torch.equal(value, before[name]) for name, value in learner.teacher.models[0].state_dict().items())
    assert learner.state()["model"].keys() == learner.model.state_dict().keys()
    learned = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    assert not any(id(parameter) in learned for parameter in learner.teacher.models[0].parameters())


@pytest.mark.parametrize(("amp", "tolerance"), [("off", 1e-4), ("bf16", 0.05)])
def test_the_teacher_answers_as_its_checkpoint_does(config: Make, taught: Path, amp: str, tolerance: float) -> None:
    """Folded, and where convolutions run in half precision with weights that are rounded once and for all."""
    options, data = open_data(config(model=DEFAULT_MODEL, teacher=str(taught), amp=amp), CPU)
    (teacher,) = open_teacher(options, data, CPU).models
    model, _ = model_from_checkpoint(taught)
    raw = next(iter(data.train.batches([[0, 1, 2, 3]])))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp == "bf16"):
        answer, expected = (net(raw.images.float()).float() for net in (teacher, model))
    assert (answer - expected).abs().mean() < tolerance * expected.std()


def test_weight_zero_is_a_run_without_a_teacher(config: Make, taught: Path, tmp_path: Path) -> None:
    plain = train(config(out=str(tmp_path / "a")))
    unheard = train(config(out=str(tmp_path / "b"), teacher=str(taught), distill=0.0))
    heard = train(config(out=str(tmp_path / "c"), teacher=str(taught)))
    losses = [[entry["loss"] for entry in result.history] for result in (plain, unheard, heard)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    assert "teacher" not in load_checkpoint(plain.last).provenance


def test_a_resumed_run_needs_the_same_teacher_wherever_it_lies(config: Make, taught: Path, tmp_path: Path) -> None:
    whole = train(config(out=str(tmp_path / "whole"), teacher=str(taught), amp="bf16", epochs=3))

    def stop(state: loop.Progress) -> None:
        if state.epoch == 3:
            raise KeyboardInterrupt

    options = {"out": str(tmp_path / "run"), "epochs": 3, "amp": "bf16"}
    with pytest.raises(KeyboardInterrupt):
        train(config(**options, teacher=str(taught)), stop)
    provenance = load_checkpoint(tmp_path / "run" / "last.pt").provenance
    sha256 = hashlib.sha256(taught.read_bytes()).hexdigest()
    assert (provenance["teacher"], provenance["teacher_sha256"]) == (str(taught), sha256)

    with pytest.raises(UsageError, match=r"no teacher is given but the run was started with .*last\.pt \(sha256 "):
        train(config(**options), resume=True)
    other = str(whole.last)
    with pytest.raises(UsageError, match=r"the teacher is .*whole.* but the run was started with"):
        train(config(**options, teacher=other), resume=True)
    moved = tmp_path / "moved.pt"
    moved.write_bytes(taught.read_bytes())
    resumed = train(config(**options, teacher=str(moved)), resume=True)
    assert [entry["loss"] for entry in resumed.history] == [entry["loss"] for entry in whole.history]


def test_a_run_with_two_teachers_resumes_with_both(config: Make, taught: Path, tmp_path: Path) -> None:
    second = str(train(config(out=str(tmp_path / "second"), epochs=1, seed=3)).last)
    both = [str(taught), second]
    whole = train(config(out=str(tmp_path / "whole"), teacher=both, hint=1.0))
    alone = train(config(out=str(tmp_path / "alone"), teacher=str(taught), hint=1.0))
    assert [entry["loss"] for entry in whole.history] != [entry["loss"] for entry in alone.history]

    def stop(state: loop.Progress) -> None:
        if state.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config(teacher=both, hint=1.0), stop)
    for other in ([str(taught)], both[::-1]):
        with pytest.raises(UsageError, match=r"was started with .*,.* \(sha256 \w{12}\.\.\., \w{12}\.\.\.\)"):
            train(config(teacher=other, hint=1.0), resume=True)
    resumed = train(config(teacher=both, hint=1.0), resume=True)
    assert [entry["loss"] for entry in resumed.history] == [entry["loss"] for entry in whole.history]


def test_a_run_without_a_teacher_is_not_resumed_with_one(config: Make, taught: Path) -> None:
    train(config(epochs=1))
    with pytest.raises(UsageError, match="but the run was started without one; leave out --teacher"):
        train(config(epochs=2, teacher=str(taught)), resume=True)


@pytest.mark.parametrize("classes", [["ball", "box"], ["ball", "ground", "box"]])
def test_a_teacher_of_other_classes_is_refused(config: Make, taught: Path, classes: list[str]) -> None:
    options = config(classes=classes, teacher=str(taught))
    with pytest.raises(ModelError, match=f"ground, ball, box, the data has {', '.join(classes)}; give a teacher"):
        train(options)
    assert not Path(options.out).exists()


def test_a_teacher_that_is_no_checkpoint_is_refused(config: Make, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        train(config(teacher=str(tmp_path / "none.pt")))
    assert not Path(config().out).exists()


def test_a_teacher_of_other_images_is_warned_of(
    config: Make, taught: Path, own_shapes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learner_for(config(model=DEFAULT_MODEL, teacher=str(taught)))
    assert not caplog.records
    for folder in ("images", "masks"):
        (own_shapes / folder / "train" / "s8.png").unlink()
    learner_for(config(model=DEFAULT_MODEL, teacher=str(taught), data=str(own_shapes)))
    assert "was trained on other images than this run" in caplog.text
