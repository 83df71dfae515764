"""Random variation of whole batches, on the device where they lie; knows nothing about files or networks.

Everything is a handful of tensor operations for a batch: one affine sampling (zoom, rotation, flip and crop at once),
one colour matrix for each image, one power.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import AugmentConfig
from .losses import IGNORED
from .mixing import draw_classes, mix_batch

# Rows: luma, and two colour differences (YIQ) of blue, green, red.
_YIQ = torch.tensor([[0.114, 0.587, 0.299], [-0.322, -0.274, 0.596], [0.312, -0.523, 0.211]])


def augment_batch(
    images: Tensor,
    masks: Tensor,
    crop_hw: tuple[int, int],
    config: AugmentConfig,
    generator: torch.Generator,
    *,
    num_classes: int,
    ignore_id: int | None,
    fill: tuple[float, float, float],
    rarity: Tensor | None = None,
    mix: bool = True,
) -> tuple[Tensor, Tensor]:
    """Vary a batch.

    Args:
        images: uint8 ``[N, 3, H, W]`` BGR.
        masks: uint8 ``[N, H, W]`` class ids.
        crop_hw: (height, width) of the result.
        config: what is varied, and how much.
        generator: a CPU generator from which every choice is drawn.
        num_classes: number of classes C.
        ignore_id: mask value that never counts, or None.
        fill: colour outside the image, BGR.
        rarity: float ``[C]``, how much a class attracts crops and is pasted; None: all alike.
        mix: whether images of the batch are mixed.

    Returns:
        float32 ``[N, 3, *crop_hw]`` BGR 0 to 255, and int64 ``[N, *crop_hw]`` labels with -1 where nothing counts.
    """
    grid = _crop_grid(masks, crop_hw, config, generator, num_classes, rarity)
    color = torch.tensor(fill, device=images.device).view(1, 3, 1, 1)
    pixels = F.grid_sample(images.float() - color, grid, "bilinear", "zeros", align_corners=False)
    labels = _sample_labels(masks, grid, ignore_id)
    pixels = _vary_color(pixels, color, config, generator)
    pixels = _blur(pixels, config.blur, generator)
    pixels = _add_noise(pixels, config.noise, generator)
    if mix:
        pixels, labels = mix_batch(pixels, labels, num_classes, config, generator, rarity)
    return pixels, labels


def _crop_grid(
    masks: Tensor,
    crop_hw: tuple[int, int],
    config: AugmentConfig,
    generator: torch.Generator,
    num_classes: int,
    rarity: Tensor | None,
) -> Tensor:
    """Where each pixel of the crop comes from: ``[N, h, w, 2]`` as grid_sample wants it."""
    count, height, width = masks.shape
    size, crop = torch.tensor([width, height]), torch.tensor([crop_hw[1], crop_hw[0]])
    low, high = (math.log(value) for value in config.scale)
    zoom = torch.exp(low + (high - low) * torch.rand(count, generator=generator))
    angle = math.radians(config.rotate) * _either_way(count, generator)
    mirror = 1 - 2 * (torch.rand(count, generator=generator) < config.flip).float()

    half = crop / 2 / zoom[:, None]  # of the crop, in pixels of the image
    first, last = torch.minimum(half, size - half), torch.maximum(half, size - half)
    center = first + (last - first) * torch.rand(count, 2, generator=generator)
    if config.rare_crop:
        wanted, found = _rare_pixels(masks, num_classes, rarity, generator)
        beside = wanted + 0.8 * half * (2 * torch.rand(count, 2, generator=generator) - 1)
        drawn = found & (torch.rand(count, generator=generator) < config.rare_crop)
        center = torch.where(drawn[:, None], beside.clamp(first, last), center)

    # From the crop, -1 to 1, over pixels of the image to the image, -1 to 1.
    cos, sin = angle.cos(), angle.sin()
    x_x, x_y = cos * mirror * half[:, 0], -sin * half[:, 1]
    y_x, y_y = sin * mirror * half[:, 0], cos * half[:, 1]
    shift = 2 * center / size - 1
    rows = [x_x, x_y, shift[:, 0] * size[0] / 2, y_x, y_y, shift[:, 1] * size[1] / 2]
    theta = torch.stack(rows, 1).view(count, 2, 3) * (2 / size)[:, None]
    return F.affine_grid(theta.to(masks.device), [count, 1, *crop_hw], align_corners=False)


def _rare_pixels(
    masks: Tensor, num_classes: int, rarity: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(x, y) of a random pixel of a drawn class of each image, float ``[N, 2]``, and whether there is one."""
    step = 4 if min(masks.shape[1:]) >= 128 else 1
    coarse = masks[:, ::step, ::step]
    drawn, found = draw_classes(coarse, num_classes, rarity, generator)
    hits = (coarse == drawn.to(masks.device)[:, None, None]).flatten(1).cpu()
    order = torch.rand(hits.shape, generator=generator)
    index = torch.where(hits, order, -1.0).argmax(1)
    columns = coarse.shape[2]
    return torch.stack([index % columns, index // columns], 1).float() * step + 0.5, found


def _sample_labels(masks: Tensor, grid: Tensor, ignore_id: int | None) -> Tensor:
    sampled = F.grid_sample(masks[:, None].float() + 1, grid, "nearest", "zeros", align_corners=False)
    labels = sampled[:, 0].long() - 1  # 0, outside the image, becomes -1
    return labels if ignore_id is None else labels.masked_fill_(labels == ignore_id, IGNORED)


def _vary_color(pixels: Tensor, color: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """One affine map of the colours of each image, then gamma; ``pixels`` are differences to ``color``."""
    count = len(pixels)
    contrast = 1 + config.contrast * _either_way(count, generator)
    saturation = 1 + config.saturation * _either_way(count, generator)
    turn = 2 * math.pi * config.hue * _either_way(count, generator)
    offset = 255 * config.brightness * _either_way(count, generator)
    low, high = (math.log(value) for value in config.gamma)
    gamma = torch.exp(low + (high - low) * torch.rand(count, generator=generator))

    zero, cos, sin = torch.zeros(count), saturation * turn.cos(), saturation * turn.sin()
    rows = [torch.ones(count), zero, zero, zero, cos, -sin, zero, sin, cos]
    matrix = torch.linalg.inv(_YIQ) @ torch.stack(rows, 1).view(count, 3, 3) @ _YIQ * contrast[:, None, None]
    matrix = matrix.to(pixels.device)
    base = (matrix @ (color.view(3, 1) - 127.5)) + 127.5 + offset.to(pixels.device)[:, None, None]
    varied = torch.baddbmm(base, matrix, pixels.flatten(2)).view_as(pixels).clamp_(0, 255)
    if config.gamma != (1.0, 1.0):
        varied = varied.mul_(1 / 255).pow_(gamma.to(pixels.device).view(-1, 1, 1, 1)).mul_(255)
    return varied


def _blur(pixels: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Gaussian blur with a sigma of 0.3 to 1.5 pixels of the images that are drawn; in place."""
    drawn = (torch.rand(len(pixels), generator=generator) < probability).nonzero().flatten()
    if not len(drawn):
        return pixels
    sigma = 0.3 + 1.2 * torch.rand(len(drawn), 1, generator=generator)
    kernel = torch.exp(-0.5 * (torch.arange(-3, 4) / sigma) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0).to(pixels.device)
    drawn = drawn.to(pixels.device)
    planes = F.pad(pixels[drawn], (3, 3, 3, 3), mode="replicate").flatten(0, 1)[None]
    planes = F.conv2d(planes, kernel[:, None, None, :], groups=len(kernel))
    planes = F.conv2d(planes, kernel[:, None, :, None], groups=len(kernel))
    pixels[drawn] = planes.view(len(drawn), 3, *pixels.shape[2:])
    return pixels


def _add_noise(pixels: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise with a sigma of 2 to 12 on the images that are drawn; in place."""
    drawn = (torch.rand(len(pixels), generator=generator) < probability).nonzero().flatten()
    for index in drawn.tolist():
        sigma = 2 + 10 * torch.rand(1, generator=generator)
        noise = torch.randn(pixels.shape[1:], generator=generator).mul_(sigma)
        pixels[index] = pixels[index].add_(noise.to(pixels.device)).clamp_(0, 255)
    return pixels


def _either_way(count: int, generator: torch.Generator) -> Tensor:
    """Uniform in -1 to 1."""
    return 2 * torch.rand(count, generator=generator) - 1
