"""Batches of images: in memory and from disk alike, every image in every pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fcn_edge.dataset import Dataset, open_dataset, read_sample
from fcn_edge.pixels import write_png
from fcn_edge.training.batches import EvaluationStore, ImageStore, fingerprint, iter_order

CPU = torch.device("cpu")


@pytest.fixture
def data(shapes: Path) -> Dataset:
    return open_dataset(shapes)


@pytest.mark.parametrize("memory_gib", [1.0, 0.0])
def test_batches_hold_the_samples_asked_for(data: Dataset, memory_gib: float) -> None:
    samples = data.samples("train")
    store = ImageStore(data, samples, (64, 64), memory_gib, CPU)
    assert store.resident == bool(memory_gib)
    order = [[3, 1], [8, 8], [0, 5], [2, 4], [6, 7], [1, 1]]
    batches = list(store.batches(order))
    assert [batch.names for batch in batches] == [tuple(samples[n].name for n in numbers) for numbers in order]
    for batch, numbers in zip(batches, order, strict=True):
        for row, number in enumerate(numbers):
            image, mask = read_sample(data, samples[number])
            assert np.array_equal(batch.images[row].permute(1, 2, 0).numpy(), image)
            assert np.array_equal(batch.masks[row].numpy(), mask)


@pytest.mark.parametrize("memory_gib", [1.0, 0.0])
def test_pixels_of_each_class_are_counted(data: Dataset, memory_gib: float) -> None:
    samples = data.samples("train")
    masks = np.stack([read_sample(data, sample)[1] for sample in samples])
    expected = [int((masks == class_id).sum()) for class_id in range(3)]
    assert ImageStore(data, samples, (64, 64), memory_gib, CPU).counts.tolist() == expected


def test_all_pixels_are_counted_wherever_the_samples_are(tmp_path: Path) -> None:
    """Of a large set too: the counts set the class weights, and a resumed run may hold samples elsewhere."""
    for index in range(1200):
        write_png(tmp_path / "images" / "train" / f"{index:04d}.png", np.zeros((4, 4, 3), np.uint8))
        write_png(tmp_path / "masks" / "train" / f"{index:04d}.png", np.full((4, 4), index % 2, np.uint8))
    (tmp_path / "classes.json").write_text('{"names": ["even", "odd"]}')
    data = open_dataset(tmp_path)
    for memory_gib in (1.0, 0.0):
        assert ImageStore(data, data.samples("train"), (4, 4), memory_gib, CPU).counts.tolist() == [9600, 9600]


def test_images_are_brought_to_one_size(data: Dataset) -> None:
    store = ImageStore(data, data.samples("train"), (32, 48), 1.0, CPU)
    (batch,) = store.batches([[0, 1]])
    assert batch.images.shape == (2, 3, 32, 48)
    assert batch.masks.shape == (2, 32, 48)
    assert set(batch.masks.unique().tolist()) <= {0, 1, 2, 255}  # never a blend of ids


def test_a_reader_that_stops_early_leaves_no_thread(data: Dataset) -> None:
    import threading

    before = threading.active_count()
    batches = ImageStore(data, data.samples("train"), (64, 64), 0.0, CPU).batches([[0, 1]] * 20)
    next(batches)
    batches.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("memory_gib", [1.0, 0.0])
def test_validation_sees_frames_at_the_networks_size_and_labels_at_their_own(data: Dataset, memory_gib: float) -> None:
    store = EvaluationStore(data, data.samples("val"), (32, 48), memory_gib)
    for _ in range(2):
        pairs = list(store)
        assert len(pairs) == len(store) == 3
        assert all(frame.shape == (32, 48, 3) and label.shape == (64, 64) for frame, label in pairs)


def test_every_image_comes_once_in_each_pass() -> None:
    numbers = [n for batch in iter_order(9, 4, 9, torch.Generator().manual_seed(0)) for n in batch]
    assert len(numbers) == 36
    for begin in range(0, 36, 9):
        assert sorted(numbers[begin : begin + 9]) == list(range(9))
    assert numbers[:9] != numbers[9:18]


def test_a_set_smaller_than_a_batch_fills_it() -> None:
    (numbers,) = iter_order(2, 5, 1, torch.Generator().manual_seed(0))
    assert len(numbers) == 5
    assert {numbers.count(0), numbers.count(1)} <= {2, 3}


def test_the_fingerprint_knows_another_file(own_shapes: Path) -> None:
    samples = open_dataset(own_shapes).samples("train")
    before = fingerprint(samples)
    assert fingerprint(samples) == before
    assert fingerprint(samples[1:]) != before
    with samples[0].image.open("ab") as file:
        file.write(b"x")
    assert fingerprint(samples) != before
