"""The whole run on a tiny set: it learns, repeats itself, resumes exactly, and stops with a sentence when it must."""

from __future__ import annotations

import json
import math
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from fcn_edge.dataset import open_dataset, read_sample
from fcn_edge.errors import DataError, FcnEdgeError, MissingError, ModelError, UsageError
from fcn_edge.metrics import confusion, miou
from fcn_edge.pixels import write_png
from fcn_edge.training import learner, loop
from fcn_edge.training.checkpoint import load_checkpoint, model_from_checkpoint
from fcn_edge.training.config import TrainConfig
from fcn_edge.training.loop import Progress, train
from fcn_edge.training.validate import predict, validate

Make = Callable[..., TrainConfig]


@pytest.fixture
def pictures() -> None:
    """A test that asks for this gets the pictures drawn; they take longer than a tiny run."""


@pytest.fixture(autouse=True)
def _drawn_on_request(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "pictures" not in request.fixturenames:
        for name in ("draw_curves", "draw_grid"):
            monkeypatch.setattr(loop, name, lambda *_, **__: None)


def curve(history: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """All that the seed determines."""
    return [(entry["epoch"], entry["step"], entry["loss"], entry["lr"], entry.get("val_miou")) for entry in history]


def test_it_learns_and_leaves_what_is_promised(config: Make, shapes: Path, pictures: None) -> None:
    seen: list[Progress] = []
    options = config(epochs=14, lr=4e-3, val_every=7, keep_every=7, steps_per_epoch=4)
    result = train(options, seen.append)

    out = Path(options.out)
    names = {"best.pt", "last.pt", "metrics.jsonl", "curves.png", "grid.png", "epoch-0007.pt", "epoch-0014.pt"}
    assert {path.name for path in out.iterdir()} == names
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.history == load_checkpoint(result.last).history
    assert [line["epoch"] for line in lines] == list(range(1, 15))
    assert [line["epoch"] for line in lines if "val_miou" in line] == [7, 14]
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    # Two of three classes are small: all ground would score about 0.2.
    assert result.miou is not None
    assert result.miou > 0.6
    assert result.best_miou == max(line["val_miou"] for line in lines if "val_miou" in line)
    assert set(lines[-1]["val_per_class"]) == {"ground", "ball", "box"}

    assert [state.step for state in seen] == list(range(1, 57))
    assert {state.steps for state in seen} == {56}
    assert seen[-1].fraction == 1
    assert seen[-1].miou is not None
    assert seen[-1].seconds_left == pytest.approx(0, abs=1e-6)

    # The checkpoint gives the score that the run reports.
    model, contract = model_from_checkpoint(result.last)
    assert contract.class_names == ("ground", "ball", "box")
    assert contract.size_hw == (64, 64)
    data = open_dataset(shapes)
    matrix = np.zeros((3, 3), np.int64)
    for sample in data.samples("val"):
        image, label = read_sample(data, sample)
        matrix += confusion(predict(model, [image], torch.device("cpu"))[0], label, 3, 255)
    assert miou(matrix) == pytest.approx(result.miou, abs=1e-6)


@pytest.mark.parametrize("more", [{}, {"dropout": 0.2, "loss": "ohem", "amp": "bf16"}, {"memory_gib": 0.0}])
def test_a_stopped_and_resumed_run_is_the_same_as_an_unbroken_one(config: Make, tmp_path: Path, more: dict) -> None:
    whole = train(config(epochs=4, out=str(tmp_path / "whole"), **more))

    class Stop:
        """Presses Ctrl-C in the middle of the third epoch."""

        def __call__(self, state: Progress) -> None:
            if state.epoch == 3 and state.step == 8:
                raise KeyboardInterrupt

    broken = config(epochs=4, out=str(tmp_path / "broken"), **more)
    with pytest.raises(KeyboardInterrupt):
        train(broken, Stop())
    assert load_checkpoint(tmp_path / "broken" / "last.pt").epoch == 2
    torch.manual_seed(99)  # what another process would have drawn
    resumed = train(broken, resume=True)

    assert curve(resumed.history) == curve(whole.history)
    lines = (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()
    assert curve([json.loads(line) for line in lines]) == curve(whole.history)
    mine, other = load_checkpoint(resumed.last), load_checkpoint(whole.last)
    for part in ("model", "ema", "rng"):
        assert all(torch.equal(value, getattr(other, part)[name]) for name, value in getattr(mine, part).items()), part


def test_the_seed_determines_the_run(config: Make, tmp_path: Path) -> None:
    first, again, other = (
        train(config(out=str(tmp_path / name), seed=seed)) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert curve(first.history) == curve(again.history)
    assert curve(first.history) != curve(other.history)


def test_the_callers_random_numbers_are_left_alone(config: Make, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(config(out=str(tmp_path / "a")))
    assert torch.equal(torch.get_rng_state(), before)


def test_images_from_disk_and_from_memory_give_the_same_run(config: Make, tmp_path: Path) -> None:
    in_memory = train(config(out=str(tmp_path / "a")))
    from_disk = train(config(out=str(tmp_path / "b"), memory_gib=0.0))
    assert curve(in_memory.history) == curve(from_disk.history)


def test_nothing_is_overwritten_unless_asked_for(config: Make) -> None:
    options = config(epochs=1)
    with pytest.raises(UsageError, match=r"no last\.pt to resume from"):
        train(options, resume=True)
    train(options)
    before = (Path(options.out) / "last.pt").read_bytes()
    with pytest.raises(UsageError, match=r"already holds best\.pt, last\.pt.*--resume, --force"):
        train(options)
    (Path(options.out) / "epoch-0001.pt").touch()
    with pytest.raises(UsageError, match="does not exist"):
        train(config(data="/nowhere"), force=True)  # what is there is given up only when the new run starts
    with pytest.raises(UsageError, match="has done all of its 1 epochs; use --epochs 2"):
        train(options, resume=True)
    assert (Path(options.out) / "last.pt").read_bytes() == before
    assert len(train(config(epochs=1, seed=8), force=True).history) == 1
    assert load_checkpoint(Path(options.out) / "last.pt").config.seed == 8
    assert not (Path(options.out) / "epoch-0001.pt").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": 0.5}, "lr is 0.5 but the run was started with 0.002"),
        ({"augment": {"flip": 0.0}}, "augment is"),
        ({"batch": 3}, "batch is 3"),
        ({"seed": 1}, "seed is 1"),
    ],
)
def test_a_resumed_run_may_not_change_what_it_computes(config: Make, change: dict, words: str) -> None:
    train(config(epochs=1))
    with pytest.raises(UsageError, match=words):
        train(config(epochs=2, **change), resume=True)


def test_a_resumed_run_may_go_on_longer_but_not_on_other_data(config: Make, own_shapes: Path) -> None:
    train(config(epochs=1, data=str(own_shapes)))
    assert len(train(config(epochs=2, data=str(own_shapes)), resume=True).history) == 2
    for folder in ("images", "masks"):
        (own_shapes / folder / "train" / "s0.png").unlink()
    with pytest.raises(UsageError, match="not what the run was started with"):
        train(config(epochs=3, data=str(own_shapes)), resume=True)


def test_every_problem_of_the_data_is_told_before_the_first_epoch(config: Make, own_shapes: Path) -> None:
    images, masks = own_shapes / "images", own_shapes / "masks"
    (masks / "train" / "s0.png").unlink()
    (images / "train" / "s1.png").write_bytes((images / "train" / "s1.png").read_bytes()[:100])
    write_png(masks / "train" / "s2.png", np.zeros((32, 64), np.uint8))
    write_png(masks / "val" / "s0.png", np.full((64, 64), 77, np.uint8))
    write_png(masks / "val" / "extra.png", np.zeros((64, 64), np.uint8))
    options = config(data=str(own_shapes))
    with pytest.raises(DataError) as caught:
        train(options)
    assert len(caught.value.problems) == 5
    text = str(caught.value)
    for words in ("s0.png has no mask", "s1.png is no readable", "32x64", r"holds ids [77]", "extra.png has no image"):
        assert words in text
    assert not Path(options.out).exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_takes_no_files_is_told_before_the_data_is_read(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    (tmp_path / "file").touch()
    can = os.access  # root may write anywhere
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and can(path, mode))
    told = {"file": "is a file; give a folder", "file/run": "file is a file; choose", "run": "is read-only; choose"}
    for out, said in told.items():
        with pytest.raises(UsageError, match=said):
            train(config(out=str(tmp_path / out), data=str(tmp_path / "none")), resume=resume)


def spoil(checkpoint: Path) -> None:
    """Put a NaN into the averaged weights."""
    fields = torch.load(checkpoint, weights_only=True)
    fields["ema"]["score_convs.0.bias"][0] = math.nan
    torch.save(fields, checkpoint)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(config: Make, tmp_path: Path) -> None:
    first = train(config(epochs=1, out=str(tmp_path / "first")))
    spoil(first.last)
    options = config(init=str(first.last))
    with pytest.raises(FcnEdgeError, match=r"the loss is nan at step 1 on the images s\d, s\d, s\d, s\d;"):
        train(options)
    assert not (Path(options.out) / "last.pt").exists()


def test_the_last_checkpoint_stays_when_the_loss_is_lost_later(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    options = config(epochs=3)
    calls: list[int] = []
    original = learner.segmentation_loss

    def lost(*args: Any, **settings: Any) -> torch.Tensor:
        calls.append(1)
        return original(*args, **settings) * (math.inf if len(calls) == 5 else 1.0)

    monkeypatch.setattr(learner, "segmentation_loss", lost)
    with pytest.raises(FcnEdgeError, match="the loss is inf at step 5 on the images"):
        train(options)
    assert load_checkpoint(Path(options.out) / "last.pt").epoch == 1
    assert len((Path(options.out) / "metrics.jsonl").read_text().splitlines()) == 1


def test_classes_are_chosen_and_merged(config: Make) -> None:
    result = train(config(epochs=1, classes=["thing=ball+box", "ground"]))
    assert result.contract.class_names == ("thing", "ground")
    model, _ = model_from_checkpoint(result.last)
    assert model.num_classes == 2


def test_a_run_starts_from_weights_of_another_class_count(
    config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = train(config(epochs=1, out=str(tmp_path / "first")))
    before = load_checkpoint(first.last).ema
    with caplog.at_level("INFO"):
        second = train(config(epochs=1, init=str(first.last), classes=["ball", "box"], backbone_lr=0.0, freeze_bn=True))
    (line,) = [record.getMessage() for record in caplog.records if "took" in record.getMessage()]
    assert "took the backbone and all scores from" in line
    after = load_checkpoint(second.last).ema  # the frozen backbone is that of the first run
    kept = [name for name in before if name.startswith("backbone.")]
    assert kept
    assert all(torch.equal(before[name], after[name]) for name in kept)


@pytest.mark.parametrize("memory_gib", [4.0, 0.0])
def test_without_validation_images_the_last_epoch_is_the_best(
    config: Make, monkeypatch: pytest.MonkeyPatch, memory_gib: float
) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(loop, "draw_grid", lambda path, rows, contract, **rest: drawn.update(rows=rows, **rest))
    result = train(config(splits=["train", "val"], memory_gib=memory_gib))
    assert result.best_miou is None
    assert all("val_miou" not in entry for entry in result.history)
    assert load_checkpoint(result.best).epoch == load_checkpoint(result.last).epoch == 2
    assert load_checkpoint(result.last).provenance["train_images"] == "12"
    assert drawn["image_title"] == "training image"
    data = open_dataset(Path(config().data))
    for number, (image, label, answer) in zip((0, 4, 7, 11), drawn["rows"], strict=True):  # of 9 and 3 images
        sample = (*data.samples("train"), *data.samples("val"))[number]
        expected = read_sample(data, sample)
        assert np.array_equal(image, expected[0])
        assert np.array_equal(label, expected[1])
        assert answer.shape == label.shape


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_learns(config: Make, amp: str) -> None:
    result = train(config(epochs=4, amp=amp, lr=4e-3, val_every=4))
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert bool(load_checkpoint(result.last).scaler) == (amp == "fp16")


def test_the_best_checkpoint_is_that_of_the_highest_score(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.2, 0.5, None, 0.4, 0.5])

    def scored(*_: Any) -> dict[str, Any]:
        return {"val_miou": next(scores)}

    monkeypatch.setattr(loop, "scores_from_confusion", scored)
    result = train(config(epochs=5, steps_per_epoch=1))
    assert load_checkpoint(result.best).epoch == 2
    assert (result.best_miou, result.miou) == (0.5, 0.5)


def test_the_clock_ends_a_run_with_its_schedule(config: Make) -> None:
    seen: list[Progress] = []
    result = train(config(epochs=10_000, max_minutes=0.05, val_every=10_000), seen.append)
    assert result.epochs < 10_000
    assert 3 <= result.seconds < 20
    assert seen[-1].fraction == pytest.approx(1, abs=0.1)
    assert result.history[-1]["lr"] < 0.3 * 2e-3
    assert "val_miou" in result.history[-1]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"data": ""}, UsageError, "--data DIR"),
        ({"data": "/nowhere"}, UsageError, "does not exist"),
        ({"model": "fcn8s-nothing"}, UsageError, "is unknown"),
        ({"splits": ["training"]}, UsageError, "training"),
        ({"classes": ["tree"]}, UsageError, "'tree' is no class"),
        ({"device": "tpu"}, UsageError, "expected auto, cpu, cuda"),
        ({"device": "meta"}, UsageError, "expected auto, cpu, cuda"),
        ({"device": "cuda:77"}, MissingError, "torch sees"),
        ({"init": "/nowhere.pt"}, ModelError, "does not exist"),
    ],
)
def test_what_cannot_be_used_is_told_before_anything_is_written(
    config: Make, options: dict, error: type[FcnEdgeError], words: str
) -> None:
    with pytest.raises(error, match=words):
        train(config(**options))
    assert not Path(config().out).exists()


def test_a_checkpoint_of_another_model_is_not_resumed(config: Make) -> None:
    options = config(epochs=1)
    train(options)
    last = Path(options.out) / "last.pt"
    fields = torch.load(last, weights_only=True)
    del fields["model"]["score_convs.0.bias"]
    torch.save(fields, last)
    with pytest.raises(ModelError, match="cannot be resumed"):
        train(msgspec.structs.replace(options, epochs=2), resume=True)


def test_a_few_steps_on_camvid(camvid: Path, tmp_path: Path) -> None:
    """A subset in CamVid's layout, with its sequences; links, so that nothing of the data is copied."""
    for split, keep in {"train": 6, "val": 2}.items():
        for sequence in ("0001TP", "0006R0", "0016E5"):
            for image in sorted((camvid / split).glob(f"{sequence}_*.png"))[:keep]:
                for folder in (split, f"{split}annot"):
                    (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
                    (tmp_path / "data" / folder / image.name).symlink_to(camvid / folder / image.name)
    config = TrainConfig(
        data=str(tmp_path / "data"), out=str(tmp_path / "run"), holdout="0001TP", epochs=2, steps_per_epoch=3, batch=4,
        crop=(96, 128), val_every=2, device="cpu",
    )  # fmt: skip
    result = train(config)
    assert result.contract.size_hw == (360, 480)
    assert len(result.contract.class_names) == 11
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert result.miou is not None
    assert result.miou > 0


@pytest.mark.parametrize(("threads", "limit", "used"), [(0, 1, 1), (2, 1, 2), (0, None, 3)])
def test_a_containers_limit_bounds_the_threads(config: Make, monkeypatch, threads, limit, used) -> None:
    """torch counts the machine's processors; more threads than a container may run stand still together."""
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr("fcn_edge.training.loop.cpu_limit", lambda: limit)
    try:
        torch.set_num_threads(3)
        train(config(epochs=1, threads=threads), lambda _: seen.append(torch.get_num_threads()))
        assert torch.get_num_threads() == 3, "the number is the process's own: who calls gets it back"
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {used}


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_disk_that_is_full_loses_no_saved_epoch(config: Make, tmp_path: Path, fails_at: int) -> None:
    """The kernel refuses to let a file grow, so torch's own writer fails, as it does on a full disk."""
    out = tmp_path / "full"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(state: Progress) -> None:
        if state.epoch == fails_at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))

    try:
        with pytest.raises(FcnEdgeError, match=f"epoch {fails_at} cannot be saved in .*full: .*; make room") as caught:
            train(config(epochs=3, out=str(out)), fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if fails_at == 1:
        assert str(caught.value).endswith("start again with --force")
        assert not (out / "last.pt").exists()
    else:
        assert "--resume, epoch 1 is saved" in str(caught.value)
        assert load_checkpoint(out / "last.pt").epoch == 1
    assert not list(out.glob(".*"))  # nothing half-written


def test_a_new_run_does_not_remove_what_it_shall_learn_from(config: Make, tmp_path: Path) -> None:
    first = train(config(out=str(tmp_path / "run"), epochs=1, keep_every=1))
    files = sorted(path.name for path in first.out.iterdir())
    for more in ({"init": str(first.best)}, {"teacher": str(first.last)}, {"init": str(first.out / "epoch-0001.pt")}):
        with pytest.raises(UsageError, match="which a new run empties; give another --out"):
            train(config(out=str(first.out), **more), force=True)
        assert sorted(path.name for path in first.out.iterdir()) == files


def test_a_run_whose_minutes_are_over_is_not_gone_on_with(config: Make, tmp_path: Path) -> None:
    options = {"out": str(tmp_path / "run"), "max_minutes": 0.001}
    last = train(config(**options)).last.read_bytes()
    with pytest.raises(UsageError, match=r"has used its 0.001 minutes; use --max-minutes 0.002"):
        train(config(**options), resume=True)
    assert (tmp_path / "run" / "last.pt").read_bytes() == last
    assert train(config(**options | {"max_minutes": 0.0, "epochs": 2}), resume=True).epochs == 2


def test_a_batch_norm_of_one_value_is_refused_before_an_earlier_run_is_given_up(config: Make, tmp_path: Path) -> None:
    first = train(config(out=str(tmp_path / "run"), epochs=1))
    with pytest.raises(UsageError, match="one crop of 32x32 is a single cell at stride 32"):
        train(config(out=str(first.out), batch=1, crop="32x32"), force=True)
    assert first.last.is_file()
    train(config(out=str(tmp_path / "kept"), batch=1, crop="32x32", freeze_bn=True, epochs=1, steps_per_epoch=1))


def test_weights_of_which_nothing_fits_are_refused(config: Make, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="of which nothing fits fcn8s-edge-n; leave out --model"):
        train(config(out=str(tmp_path / "run"), init="camvid-n", model="fcn8s-edge-n"))
    assert not (tmp_path / "run").exists()


def test_images_to_validate_with_that_all_lack_masks_are_told(config: Make, own_shapes: Path) -> None:
    for mask in (own_shapes / "masks" / "val").iterdir():
        mask.unlink()
    with pytest.raises(DataError, match="has no mask") as caught:
        train(config(data=str(own_shapes)))
    assert len(caught.value.problems) == 3


def test_a_validation_that_takes_the_last_minutes_ends_the_run(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """No epoch of one step at rate 0 follows, with a validation of its own."""
    calls = []

    def slow(*arguments: object) -> object:
        calls.append(time.sleep(1.5))
        return validate(*arguments)

    monkeypatch.setattr(loop, "validate", slow)
    result = train(config(epochs=10_000, steps_per_epoch=2, max_minutes=1.4 / 60, val_every=1))
    assert result.epochs == len(calls) == 1
    assert all("val_miou" in entry for entry in result.history)


def test_statistics_of_images_from_disk_are_those_of_images_from_memory(config: Make, tmp_path: Path) -> None:
    options = {"precise_bn": 9, "batch": 2, "epochs": 1}
    one = train(config(out=str(tmp_path / "a"), **options))
    other = train(config(out=str(tmp_path / "b"), memory_gib=0.0, **options))
    first, second = load_checkpoint(one.last).ema, load_checkpoint(other.last).ema
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0)
