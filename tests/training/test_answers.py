"""Another network's answers from files: which are taken, where they go, what is learned of them, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from fcn_edge.dataset import open_dataset, read_sample
from fcn_edge.errors import DataError, UsageError
from fcn_edge.training import loop
from fcn_edge.training.answers import Answers
from fcn_edge.training.augment import augment_batch
from fcn_edge.training.batches import ImageStore
from fcn_edge.training.checkpoint import load_checkpoint
from fcn_edge.training.config import DEFAULT_MODEL, AugmentConfig, TrainConfig
from fcn_edge.training.data import open_data
from fcn_edge.training.learner import Learner
from fcn_edge.training.loop import train

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("draw_curves", "draw_grid"):
        monkeypatch.setattr(loop, name, lambda *_, **__: None)


@pytest.fixture
def answers(shapes: Path, tmp_path: Path) -> Path:
    """A folder with sure answers to all training images of the shapes: the next class after the label's."""
    return write_answers(shapes, tmp_path / "answers")


def write_answers(shapes: Path, folder: Path, kind: type = np.float16) -> Path:
    folder.mkdir(exist_ok=True)
    data = open_dataset(shapes)
    classes = len(data.class_names)
    for sample in data.samples("train"):
        _, mask = read_sample(data, sample)
        wrong = (np.minimum(mask, classes - 1) + 1) % classes
        np.save(folder / f"{sample.name}.npy", (8 * np.eye(classes)[wrong].transpose(2, 0, 1)).astype(kind))
    return folder


@pytest.mark.parametrize("memory_gib", [1.0, 0.0])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_a_batch_has_the_answers_to_its_images(shapes: Path, tmp_path: Path, memory_gib: float, kind: type) -> None:
    """In memory and from disk alike, at a quarter of the size, less what is common to all classes."""
    folder, data = write_answers(shapes, tmp_path / "answers", kind), open_dataset(shapes)
    samples, classes = data.samples("train"), len(data.class_names)
    steps = np.arange(classes * 16 * 16).reshape(classes, 16, 16) / 64
    np.save(folder / f"{samples[2].name}.npy", steps.astype(kind))
    store = ImageStore(data, samples, (64, 64), memory_gib, CPU, Answers(folder, classes, (64, 64)))
    assert store.resident == bool(memory_gib)
    batches = list(store.batches([[1, 2], [2, 0]]))
    for batch, row in ((batches[0], 1), (batches[1], 0)):
        assert batch.answers is not None
        assert batch.answers.shape == (2, classes, 16, 16)
        assert np.allclose(batch.answers[row].numpy(), steps - steps.max(0), atol=2e-2)
    _, mask = read_sample(data, samples[1])
    whole = mask[2::4, 2::4]  # the middle of a cell; where its neighbours agree, so does the cell
    calm = np.all([mask[y::4, x::4] == whole for y in range(4) for x in range(4)], 0)
    assert batches[0].answers is not None
    assert np.array_equal(batches[0].answers[0].argmax(0).numpy()[calm], ((whole + 1) % classes)[calm])


def test_without_answers_a_batch_has_none(shapes: Path) -> None:
    data = open_dataset(shapes)
    batch = next(iter(ImageStore(data, data.samples("train"), (64, 64), 1.0, CPU).batches([[0]])))
    assert batch.answers is None


def test_logits_beyond_float16_are_taken(shapes: Path, answers: Path) -> None:
    data = open_dataset(shapes)
    sample, classes = data.samples("train")[0], len(data.class_names)
    values = np.zeros((classes, 16, 16), np.float32) + 1e6
    values[1] += 3
    np.save(answers / f"{sample.name}.npy", values)
    read = Answers(answers, classes, (64, 64)).read(sample)
    assert read.dtype == torch.float16
    assert torch.equal(read[1], torch.zeros(16, 16, dtype=torch.float16))
    assert torch.equal(read[0], torch.full((16, 16), -3.0, dtype=torch.float16))


def test_answers_go_where_pixels_go() -> None:
    """Zoomed, turned, mirrored, cropped and mixed: what answered as the label says still does, off the borders."""
    generator = torch.Generator().manual_seed(3)
    cells = torch.randint(4, (6, 4, 5), generator=generator)
    masks = cells.repeat_interleave(32, 1).repeat_interleave(32, 2).to(torch.uint8)
    images = torch.stack([60 * masks] * 3, 1)
    sure = 20.0 * torch.nn.functional.one_hot(masks[:, 2::4, 2::4].long(), 4).permute(0, 3, 1, 2).half()
    config = AugmentConfig(classmix=1.0, cutmix=0.5, paste=0.5, rotate=20.0)
    _, labels, moved = augment_batch(
        images, masks, (96, 128), config, generator, num_classes=4, ignore_id=None, fill=(0, 0, 0), answers=sure
    )
    assert moved is not None
    assert moved.shape == (6, 4, 96, 128)
    counted = labels >= 0
    agree = (moved.argmax(1) == labels)[counted].float().mean()
    assert agree > 0.95
    assert not torch.equal(labels, masks[:, :96, :128].long())


def test_without_answers_augmentation_draws_the_same(shapes: Path, answers: Path, config: Make) -> None:
    """So a run without them stays what it was, and one with them sees the same crops."""

    def first(options: TrainConfig) -> tuple[Tensor, Tensor]:
        options, data = open_data(options, CPU)
        learner = Learner(options, data.contract, data.train.counts, CPU)
        images, labels, _ = learner._augment(next(iter(data.train.batches([[0, 1, 2]]))), 0.0, learner.generator)
        return images, labels

    plain, taught = first(config(model=DEFAULT_MODEL)), first(config(model=DEFAULT_MODEL, answers=str(answers)))
    assert torch.equal(plain[0], taught[0])
    assert torch.equal(plain[1], taught[1])


def test_a_network_comes_to_answer_as_the_files_do(config: Make, answers: Path) -> None:
    """From the answers alone: they say the class after the label's, which no label says."""
    options, data = open_data(
        config(model=DEFAULT_MODEL, lr=4e-3, warmup=0.0, label_weight=0.0, answers=str(answers), class_weights="none"),
        CPU,
    )
    learner = Learner(options, data.contract, data.train.counts, CPU)
    learner.train_mode()
    raw = next(iter(data.train.batches([[0, 1, 2, 3]])))
    assert raw.answers is not None
    for _ in range(60):
        learner.step(raw, 0.0)
    with torch.no_grad():
        own = learner.model.eval()(raw.images).argmax(1)
    wanted = (raw.masks.long() + 1) % data.contract.num_classes
    assert (own == wanted)[raw.masks != 255].float().mean() > 0.8


def test_answers_get_the_lead_of_the_runs_class_weights(config: Make, answers: Path) -> None:
    def taught(**more: object) -> Tensor:
        options, data = open_data(config(model=DEFAULT_MODEL, answers=str(answers), **more), CPU)
        learner = Learner(options, data.contract, data.train.counts, CPU)
        found = learner._augment(next(iter(data.train.batches([[0, 1]]))), 0.0, learner.generator)[2]
        assert found is not None
        return found

    plain = taught(class_weights="none")
    lead = (taught(logit_adjustment=0.25) - plain).mean((0, 2, 3))
    whole = (taught(logit_adjustment=0.0) - plain).mean((0, 2, 3))
    assert whole.abs().max() > 0.1
    assert torch.allclose(lead, 0.75 * whole, atol=1e-4)
    assert torch.allclose(taught(logit_adjustment=1.0), plain)


def test_a_checkpoint_tells_of_them_and_a_resumed_run_needs_them(
    config: Make, answers: Path, shapes: Path, tmp_path: Path
) -> None:
    options = config(out=str(tmp_path / "run"), epochs=1, answers=str(answers))
    digest = load_checkpoint(train(options).last).provenance["answers_sha256"]
    assert len(digest) == 64
    elsewhere = write_answers(shapes, tmp_path / "elsewhere")
    more = config(out=str(tmp_path / "run"), epochs=2, answers=str(elsewhere))
    assert load_checkpoint(train(more, resume=True).last).provenance["answers_sha256"] == digest
    np.save(next(elsewhere.glob("*.npy")), np.zeros((len(open_dataset(shapes).class_names), 4, 4), np.float16))
    more = config(out=str(tmp_path / "run"), epochs=3, answers=str(elsewhere))
    with pytest.raises(UsageError, match=r"the answers \(.*elsewhere\) are not those that the run was started with"):
        train(more, resume=True)
    with pytest.raises(UsageError, match=r"the answers \(none\) are not those"):
        train(config(out=str(tmp_path / "run"), epochs=3), resume=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing"),
        (b"", "is no .npy file of numbers"),
        (b"PK\x03\x04 a zip", "is no .npy file of numbers"),
        (np.zeros((2, 16, 16), np.float16), r"has the shape \[2, 16, 16\]; expected \[3, h, w\]"),
        (np.zeros((16, 16, 3), np.float16), r"has the shape \[16, 16, 3\]"),
        (np.zeros((3, 0, 16), np.float16), r"has the shape \[3, 0, 16\]"),
        (np.zeros((3, 16, 16), np.uint8), "has the type uint8; expected float16 or float32"),
        (np.array({"a": 1}), r"has the shape \[\]"),
    ],
)
def test_files_that_cannot_be_used_are_listed(config: Make, answers: Path, content: object, said: str) -> None:
    wrong = sorted(answers.glob("*.npy"))[1:3]
    for path in wrong:
        path.unlink()
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            np.save(path, content)
    with pytest.raises(DataError, match=said) as caught:
        open_data(config(model=DEFAULT_MODEL, answers=str(answers)), CPU)
    assert [problem.split(".npy")[0] for problem in caught.value.problems] == [path.stem for path in wrong]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_values_that_are_not_finite_are_refused(config: Make, answers: Path, value: float) -> None:
    path = min(answers.glob("*.npy"))
    values = np.load(path)
    values[0, 0, 0] = value
    np.save(path, values)
    with pytest.raises(DataError, match=f"{path.name} holds values that are not finite"):
        open_data(config(model=DEFAULT_MODEL, answers=str(answers)), CPU)


def test_a_truncated_file_is_refused(config: Make, answers: Path) -> None:
    path = min(answers.glob("*.npy"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"{path.name} cannot be read"):
        open_data(config(model=DEFAULT_MODEL, answers=str(answers)), CPU)


def test_a_folder_that_is_not_there(config: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no folder; give the folder that holds NAME\.npy"):
        open_data(config(model=DEFAULT_MODEL, answers=str(tmp_path / "none")), CPU)


def test_two_images_of_one_name(shapes: Path, answers: Path) -> None:
    samples = open_dataset(shapes).samples("train")
    with pytest.raises(DataError, match=f"2 training images are named {samples[0].name}"):
        Answers(answers, 3, (64, 64)).check([*samples, samples[0]])


def test_answers_can_be_all_that_is_learned() -> None:
    assert TrainConfig(label_weight=0.0, answers="answers").answers == "answers"
    with pytest.raises(UsageError, match="give --teacher or --answers"):
        TrainConfig(label_weight=0.0)
    with pytest.raises(UsageError, match="give --teacher or --answers"):
        TrainConfig(label_weight=0.0, answers="answers", distill=0.0)
