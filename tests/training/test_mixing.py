"""Mixing: pixels and labels move together, from the image before, and no chance is drawn for what is off."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import Tensor

from fcn_edge.training.augment import augment_batch
from fcn_edge.training.config import AugmentConfig
from fcn_edge.training.mixing import class_mix, cut_mix, mix_batch, paste_class


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int, side: int = 48, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Blocks of random classes, some ignored; the colour of a pixel tells its image, row and column."""
    cells = torch.randint(-1, classes, (count, side // 8, side // 8), generator=seeded(1))
    labels = cells.repeat_interleave(8, 1).repeat_interleave(8, 2)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    images = torch.stack([torch.stack([torch.full_like(rows, index), rows, columns]) for index in range(count)])
    return images.float(), labels


def origins(images: Tensor) -> Tensor:
    """From which image each pixel is; every pixel must be where it was."""
    count, height = len(images), images.shape[2]
    reference = batch(count, height)[0]
    assert torch.equal(images[:, 1:], reference[:, 1:])
    return images[:, 0].long()


def color_of(labels: Tensor) -> Tensor:
    return torch.stack([40 * labels, 200 - 40 * labels, 40 * labels], 1)


def test_class_mix_pastes_image_and_label_alike() -> None:
    labels = torch.arange(4).repeat_interleave(16).repeat(64, 1)[None].repeat(2, 1, 1)
    labels[1] = 3 - labels[0]
    labels[:, :4] = -1
    images = color_of(labels + 4 * torch.arange(2).view(2, 1, 1)).float()
    mixed, new = class_mix(images, labels, 4, 1.0, torch.Generator().manual_seed(3))
    kept = new == labels
    assert not kept.all()
    assert (new[:, :4] == -1).all()  # ignored pixels are never pasted
    for index in range(2):
        other = 1 - index
        same = (mixed[index] == images[index]).all(0)
        pasted = (mixed[index] == images[other]).all(0)
        assert (same | pasted).all()
        assert torch.equal(new[index][pasted], labels[other][pasted])
        assert torch.equal(new[index][same], labels[index][same])
        assert len(labels[other][pasted].unique()) == 2  # half of the other's four classes


@pytest.mark.parametrize(("classes", "pasted"), [(1, 1), (3, 2)])
def test_class_mix_pastes_the_larger_half_of_an_odd_number(classes: int, pasted: int) -> None:
    labels = torch.arange(6).remainder(classes).repeat(6, 1)[None].repeat(2, 1, 1)
    images = torch.zeros(2, 3, 6, 6)
    images[1] = 1
    mixed, _ = class_mix(images, labels, classes, 1.0, seeded())
    for index in range(2):
        other = (mixed[index] == images[1 - index]).all(0)
        assert len(labels[1 - index][other].unique()) == pasted


def test_class_mix_needs_no_luck_with_empty_images() -> None:
    labels = torch.full((2, 8, 8), -1)
    images = torch.rand(2, 3, 8, 8)
    mixed, new = class_mix(images, labels, 3, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(mixed, images)
    assert torch.equal(new, labels)


@pytest.mark.parametrize("seed", range(5))
def test_cut_mix_pastes_one_rectangle_of_a_quarter_to_a_half(seed: int) -> None:
    images, labels = batch(8)
    mixed, new, drawn = cut_mix(images, labels, 0.6, seeded(seed))
    source = origins(mixed)
    shares = []
    for index in range(8):
        pasted = source[index] != index
        assert bool(pasted.any()) == bool(drawn[index])
        assert torch.equal(new[index][~pasted], labels[index][~pasted])
        if not pasted.any():
            continue
        before = (index - 1) % 8
        assert (source[index][pasted] == before).all()
        assert torch.equal(new[index][pasted], labels[before][pasted])  # ignored pixels too
        rows, columns = pasted.any(1), pasted.any(0)
        assert torch.equal(pasted, rows[:, None] & columns[None])
        shares.append(pasted.float().mean().item())
        for line in (rows, columns):
            assert int(line.diff().sum()) <= 2  # without a gap
    assert shares
    assert all(0.25 - 0.02 <= share <= 0.5 + 0.02 for share in shares)  # rounded to whole pixels


def test_cut_mix_pastes_at_least_a_pixel_of_a_narrow_image() -> None:
    images = torch.arange(64.0).view(64, 1, 1, 1).expand(64, 3, 1, 8).clone()
    mixed, _, drawn = cut_mix(images, torch.zeros(64, 1, 8, dtype=torch.long), 1.0, seeded())
    assert drawn.all()
    assert (mixed != images).flatten(1).any(1).all()


def test_cut_mix_reaches_every_place_and_many_shapes() -> None:
    images, labels = batch(200)
    pasted = origins(cut_mix(images, labels, 1.0, seeded())[0]) != torch.arange(200)[:, None, None]
    assert pasted.any(0).float().mean() > 0.99  # a corner may be missed
    assert pasted.any((0, 2)).all()
    assert pasted.any((0, 1)).all()
    heights = pasted.any(2).sum(1)
    assert heights.min() < 20
    assert heights.max() > 44


def test_paste_takes_pixels_of_one_class_of_the_image_before() -> None:
    images, labels = batch(8)
    mixed, new = paste_class(images, labels, 4, 0.7, seeded(2))
    source = origins(mixed)
    touched = 0
    for index in range(8):
        pasted = source[index] != index
        assert torch.equal(new[index][~pasted], labels[index][~pasted])
        if pasted.any():
            touched += 1
            before = (index - 1) % 8
            (class_id,) = labels[before][pasted].unique().tolist()
            assert class_id >= 0
            assert torch.equal(pasted, labels[before] == class_id)  # all of its pixels, and no other
            assert (new[index][pasted] == class_id).all()
    assert 0 < touched < 8


def test_paste_prefers_rare_classes() -> None:
    images, labels = batch(200)
    rarity = torch.tensor([1.0, 0.0, 0.0, 9.0])
    source = origins(paste_class(images, labels, 4, 1.0, seeded(), rarity)[0])
    found = [
        int(labels[index - 1][source[index] != index][0])
        for index in range(200)
        if bool((source[index] != index).any())
    ]
    assert set(found) == {0, 3}
    assert 0.8 < found.count(3) / len(found) < 0.97


def test_paste_and_cut_mix_need_no_luck_with_empty_images() -> None:
    images, labels = torch.rand(3, 3, 8, 8), torch.full((3, 8, 8), -1)
    mixed, new = paste_class(images, labels, 3, 1.0, seeded())
    assert torch.equal(mixed, images)
    assert torch.equal(new, labels)
    labels[0, 2, 2] = 1  # shown by the first image only: the second is the only one to get something
    assert torch.equal(paste_class(images, labels, 3, 1.0, seeded())[1].sum((1, 2)) + 64, torch.tensor([2, 2, 0]))


def test_an_image_with_a_rectangle_gets_no_classes() -> None:
    images, labels = batch(64)
    config = AugmentConfig(cutmix=0.5, classmix=1.0)
    cut = cut_mix(images, labels, 0.5, seeded(3))[2]
    mixed, _ = mix_batch(images, labels, 4, config, seeded(3))
    assert 0 < int(cut.sum()) < 64
    for index in cut.nonzero().flatten().tolist():
        pasted = mixed[index, 0] != index
        assert torch.equal(pasted, pasted.any(1)[:, None] & pasted.any(0)[None])
    assert (mixed[~cut][:, 0] != torch.arange(64)[~cut][:, None, None]).flatten(1).any(1).float().mean() > 0.9


@pytest.mark.parametrize(("option", "draws"), [("classmix", True), ("cutmix", True), ("paste", True), (None, False)])
def test_what_is_off_draws_no_random_number(option: str | None, draws: bool) -> None:
    images, labels = batch(4)
    off = AugmentConfig(classmix=0.0, cutmix=0.0, paste=0.0)
    generator = seeded(5)
    before = generator.get_state()
    config = msgspec.structs.replace(off, **{option: 0.5}) if option else off
    mix_batch(images, labels, 4, config, generator)
    assert torch.equal(generator.get_state(), before) != draws


def test_runs_of_old_seeds_are_the_same() -> None:
    """ClassMix alone is what it was before there were the others: the batch and the generator afterwards."""
    images, labels = batch(6)
    generator, alone = seeded(7), seeded(7)
    mixed, new = mix_batch(images, labels, 4, AugmentConfig(), generator, torch.ones(4))
    expected = class_mix(images, labels, 4, AugmentConfig().classmix, alone)
    assert torch.equal(mixed, expected[0])
    assert torch.equal(new, expected[1])
    assert torch.equal(generator.get_state(), alone.get_state())


def test_nothing_is_mixed_in_the_last_tenth_or_in_a_batch_of_one() -> None:
    images = torch.randint(256, (2, 3, 32, 32), generator=seeded()).to(torch.uint8)
    masks = torch.tensor([0, 1], dtype=torch.uint8).view(2, 1, 1).repeat(1, 32, 32)
    config = AugmentConfig(classmix=0.0, cutmix=1.0, paste=1.0, scale=(1.0, 1.0), rotate=0.0)

    def labels(mix: bool, count: int = 2) -> Tensor:
        return augment_batch(
            images[:count], masks[:count], (32, 32), config, seeded(), num_classes=2, ignore_id=None, fill=(0, 0, 0),
            mix=mix,
        )[1]  # fmt: skip

    assert not torch.equal(labels(True), masks.long())
    assert torch.equal(labels(False), masks.long())
    assert torch.equal(labels(True, 1), masks[:1].long())
