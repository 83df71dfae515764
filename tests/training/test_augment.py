"""Augmentation: image and mask move alike, colours change and labels do not, crops seek rare classes."""

from __future__ import annotations

import math

import msgspec
import pytest
import torch
from torch import Tensor

from fcn_edge.training.augment import _YIQ, augment_batch
from fcn_edge.training.config import AugmentConfig

NONE = AugmentConfig(
    scale=(1, 1), flip=0, rotate=0, brightness=0, contrast=0, saturation=0, hue=0, gamma=(1, 1), blur=0, noise=0,
    classmix=0, rare_crop=0,
)  # fmt: skip
FILL = (200.0, 210.0, 220.0)


def replaced(**options: object) -> AugmentConfig:
    return msgspec.structs.replace(NONE, **options)


def coded(count: int, height: int, width: int, classes: int = 4, block: int = 8) -> tuple[Tensor, Tensor]:
    """Blocks of random classes; the colour of class c is (40 c, 200 - 40 c, 40 c)."""
    generator = torch.Generator().manual_seed(1)
    cells = torch.randint(classes, (count, height // block, width // block), generator=generator)
    masks = cells.repeat_interleave(block, 1).repeat_interleave(block, 2).to(torch.uint8)
    return color_of(masks).to(torch.uint8), masks


def color_of(labels: Tensor) -> Tensor:
    return torch.stack([40 * labels, 200 - 40 * labels, 40 * labels], 1)


def run(images: Tensor, masks: Tensor, crop: tuple[int, int], config: AugmentConfig, seed: int = 0, **more: object):
    generator = torch.Generator().manual_seed(seed)
    settings = {"num_classes": 4, "ignore_id": 255, "fill": FILL} | more
    return augment_batch(images, masks, crop, config, generator, **settings)


def test_nothing_varied_gives_the_pixels_themselves() -> None:
    images, masks = coded(2, 48, 64)
    pixels, labels = run(images, masks, (48, 64), NONE)
    assert torch.equal(labels, masks.long())
    assert torch.allclose(pixels, images.float(), atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_image_and_mask_move_alike(seed: int) -> None:
    images, masks = coded(4, 96, 128)
    config = replaced(scale=(0.5, 2.0), flip=0.5, rotate=20.0, rare_crop=0.5)
    pixels, labels = run(images, masks, (80, 72), config, seed)
    assert pixels.shape == (4, 3, 80, 72)
    assert labels.shape == (4, 80, 72)
    inside = labels >= 0
    # Bilinear sampling blends at the edges of blocks; away from them the colour must be that of the label.
    agree = (pixels - color_of(labels).float()).abs().amax(1) < 1
    assert agree[inside].float().mean() > 0.7
    shifted = (pixels - color_of(labels.roll(9, 2)).float()).abs().amax(1) < 1
    assert shifted[inside].float().mean() < 0.6  # the test can fail


def test_a_flip_mirrors_and_nothing_else() -> None:
    images, masks = coded(1, 48, 64)
    pixels, labels = run(images, masks, (48, 64), replaced(flip=1))
    assert torch.equal(labels, masks.long().flip(2))
    assert torch.allclose(pixels, images.float().flip(3), atol=1e-3)


def test_a_quarter_turn_turns_the_mask() -> None:
    images, masks = coded(1, 64, 64)
    config = replaced(rotate=90.0)
    turned = [masks.long().rot90(turns, (1, 2)) for turns in (1, 3)]
    matches = []
    for seed in range(40):  # the angle is uniform in +-90 degrees; only extremes come near a quarter turn
        _, labels = run(images, masks, (64, 64), config, seed)
        matches.append(max((labels == other).float().mean().item() for other in turned))
    assert max(matches) > 0.9


def test_zoom_enlarges_the_middle() -> None:
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[:, 24:40, 24:40] = 1
    _, labels = run(images, masks, (128, 128), replaced(scale=(2, 2)))
    assert int((labels == 1).sum()) == 4 * 16 * 16


def test_outside_the_image_nothing_counts_and_the_fill_shows() -> None:
    images, masks = coded(3, 48, 64)
    pixels, labels = run(images, masks, (96, 128), NONE)
    outside = labels == -1
    assert int(outside.sum()) == 3 * (96 * 128 - 48 * 64)
    filled = (pixels - torch.tensor(FILL).view(1, 3, 1, 1)).abs().amax(1) < 1e-3
    assert filled[outside].float().mean() > 0.97  # the first pixel beyond the edge is a blend
    assert not filled[~outside].any()


def test_ignored_pixels_become_minus_one_and_all_256_ids_may_be_classes() -> None:
    images, masks = coded(1, 48, 64)
    masks[:, :5] = 255
    _, labels = run(images, masks, (48, 64), NONE)
    assert (labels[:, :5] == -1).all()
    assert (labels[:, 5:] >= 0).all()
    _, labels = run(images, masks, (48, 64), NONE, num_classes=256, ignore_id=None)
    assert torch.equal(labels, masks.long())


def test_crops_are_laid_around_rare_classes() -> None:
    images = torch.zeros(64, 3, 128, 160, dtype=torch.uint8)
    masks = torch.zeros(64, 128, 160, dtype=torch.uint8)
    masks[:, 100:104, 8:12] = 3
    rarity = torch.tensor([1.0, 0.0, 0.0, 1e6])

    def hits(rare_crop: float) -> float:
        _, labels = run(images, masks, (32, 32), replaced(rare_crop=rare_crop), rarity=rarity)
        return (labels == 3).flatten(1).any(1).float().mean().item()

    assert hits(0.0) < 0.4
    assert hits(1.0) > 0.9
    masks[:] = 0
    masks[:, 62:66, 78:82] = 3  # where no border moves the crop
    assert hits(1.0) == 1


def test_an_image_of_ignored_pixels_only_is_cropped_anywhere() -> None:
    images, masks = coded(2, 48, 64)
    masks[:] = 255
    _, labels = run(images, masks, (32, 32), replaced(rare_crop=1.0), rarity=torch.ones(4))
    assert (labels == -1).all()


def test_colours_vary_from_image_to_image_and_stay_in_range() -> None:
    images = torch.full((6, 3, 32, 32), 120, dtype=torch.uint8)
    images[:, 2] = 30
    masks = torch.zeros(6, 32, 32, dtype=torch.uint8)
    varied = AugmentConfig(scale=(1, 1), flip=0, rotate=0, blur=0, noise=0.5, classmix=0, brightness=0.5)
    pixels, labels = run(images, masks, (32, 32), varied)
    assert (labels == 0).all()
    assert pixels.min() >= 0
    assert pixels.max() <= 255
    means = pixels.mean((2, 3))
    assert torch.pdist(means).min() > 1


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ({"saturation": 0.0}, [50, 100, 200], [50, 100, 200]),
        ({"gamma": (2, 2)}, [51, 102, 204], [51**2 / 255, 102**2 / 255, 204**2 / 255]),
    ],
)
def test_colours_are_what_the_formula_says(option: dict, value: list[int], expected: list[float]) -> None:
    images = torch.tensor(value, dtype=torch.uint8).view(1, 3, 1, 1).repeat(1, 1, 32, 32)
    pixels, _ = run(images, torch.zeros(1, 32, 32, dtype=torch.uint8), (32, 32), replaced(**option))
    assert torch.allclose(pixels.mean((2, 3)), torch.tensor([expected]).float(), atol=0.5)


def test_hue_and_saturation_leave_grey_alone() -> None:
    images = torch.full((4, 3, 32, 32), 90, dtype=torch.uint8)
    masks = torch.zeros(4, 32, 32, dtype=torch.uint8)
    pixels, _ = run(images, masks, (32, 32), replaced(hue=0.5, saturation=1.0))
    assert torch.allclose(pixels, torch.tensor(90.0), atol=0.5)


def test_blur_smooths_and_keeps_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 3, 64, 64), generator=generator).to(torch.uint8)
    masks = torch.zeros(3, 64, 64, dtype=torch.uint8)
    pixels, _ = run(images, masks, (64, 64), replaced(blur=1.0))
    assert torch.allclose(pixels.mean((2, 3)), images.float().mean((2, 3)), atol=2)
    assert (pixels.std((2, 3)) < 0.98 * images.float().std((2, 3))).all()


def test_the_generator_determines_everything() -> None:
    images, masks = coded(4, 96, 128)
    config = AugmentConfig(blur=0.5, noise=0.5, cutmix=0.5, paste=0.5)
    torch.manual_seed(1)
    first = run(images, masks, (64, 64), config, seed=7)
    torch.manual_seed(2)
    second = run(images, masks, (64, 64), config, seed=7)
    third = run(images, masks, (64, 64), config, seed=8)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], third[0])


def vary(values: list[float], **options: object) -> Tensor:
    """Colours ``[64, 3]`` of 64 images of one colour after they were varied."""
    images = torch.tensor(values).to(torch.uint8).view(1, 3, 1, 1).repeat(64, 1, 8, 8)
    pixels, _ = run(images, torch.zeros(64, 8, 8, dtype=torch.uint8), (8, 8), replaced(**options))
    return pixels.mean((2, 3))


def reaches(values: Tensor, low: float, high: float) -> bool:
    """Whether 64 values lie between two bounds and come near both."""
    rest = 0.15 * (high - low)
    return bool(low - 1e-3 <= values.min() <= low + rest and high - rest <= values.max() <= high + 1e-3)


def test_brightness_contrast_and_saturation_reach_as_far_as_they_say() -> None:
    assert reaches(vary([60.0, 90.0, 150.0], brightness=0.1)[:, 0] - 60, -25.5, 25.5)
    contrast = (vary([60.0, 90.0, 150.0], contrast=0.4) - 127.5) / (torch.tensor([60.0, 90.0, 150.0]) - 127.5)
    assert torch.allclose(contrast, contrast[:, :1], atol=1e-3)
    assert reaches(contrast[:, 0], 0.6, 1.4)
    colorful = vary([100.0, 120.0, 150.0], saturation=0.5) @ _YIQ.T
    wanted = torch.tensor([100.0, 120.0, 150.0]) @ _YIQ.T
    assert torch.allclose(colorful[:, 0], wanted[0], atol=0.1)
    assert reaches(colorful[:, 1] / wanted[1], 0.5, 1.5)


def test_hue_turns_colours_by_a_share_of_the_circle() -> None:
    color = torch.tensor([100.0, 120.0, 150.0])
    luma, first, second = (vary(color.tolist(), hue=0.1) @ _YIQ.T).unbind(1)
    _, before, beside = color @ _YIQ.T
    turned = torch.atan2(before * second - beside * first, before * first + beside * second)
    assert torch.allclose(luma, (color @ _YIQ.T)[0], atol=0.1)
    assert reaches(turned, -0.2 * math.pi, 0.2 * math.pi)


def test_noise_is_as_strong_as_it_says() -> None:
    images = torch.full((64, 3, 32, 32), 127, dtype=torch.uint8)
    pixels, _ = run(images, torch.zeros(64, 32, 32, dtype=torch.uint8), (32, 32), replaced(noise=1.0))
    assert reaches(pixels.std((1, 2, 3)), 2 * 0.96, 12 * 1.04)
    pixels, _ = run(images, torch.zeros(64, 32, 32, dtype=torch.uint8), (32, 32), replaced(noise=0.25))
    assert 0.1 < (pixels.std((1, 2, 3)) > 1).float().mean() < 0.45
