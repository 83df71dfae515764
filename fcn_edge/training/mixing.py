"""Mixing of the images of a batch, pixels and labels alike; knows nothing about files, crops or colours.

Each image takes pixels of the previous image of the batch. ClassMix: Olsson et al., WACV 2021. CutMix: Yun et al., ICCV
2019, for segmentation French et al., BMVC 2020. Copy-paste: Ghiasi et al., "Simple Copy-Paste", CVPR 2021, here with
the pixels of a class, as there are no instances. Whatever has probability 0 draws no random number, so that it changes
no run that goes without it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import AugmentConfig

_LEAST_CUT, _MOST_CUT = 0.25, 0.5


def mix_batch(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    config: AugmentConfig,
    generator: torch.Generator,
    rarity: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """CutMix or ClassMix, then copy-paste from what that has made, each with its probability; one image stays as it is.

    Args:
        images: float ``[N, 3, H, W]``.
        labels: int64 ``[N, H, W]``, -1 where nothing counts.
        num_classes: number of classes C.
        config: the probabilities.
        generator: a CPU generator.
        rarity: float ``[C]``, how much a class attracts copy-paste; None: all alike.

    Returns:
        Tensors of the same shapes.
    """
    if len(images) < 2:
        return images, labels
    cut = None
    if config.cutmix:
        images, labels, cut = cut_mix(images, labels, config.cutmix, generator)
    if config.classmix:
        images, labels = class_mix(images, labels, num_classes, config.classmix, generator, spared=cut)
    if config.paste:
        images, labels = paste_class(images, labels, num_classes, config.paste, generator, rarity)
    return images, labels


def class_mix(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    probability: float,
    generator: torch.Generator,
    spared: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Paste half of the classes of the previous image of the batch on each image that is drawn.

    Args:
        images: float ``[N, 3, H, W]``.
        labels: int64 ``[N, H, W]``; ignored pixels are never pasted.
        num_classes: number of classes.
        probability: with which an image is pasted on.
        generator: a CPU generator.
        spared: bool ``[N]`` on the CPU, images that nothing is pasted on; None: none.

    Returns:
        New tensors of the same shapes.
    """
    chance = torch.rand(len(images), generator=generator) < probability
    if spared is not None:
        chance &= ~spared
    drawn = chance.nonzero().flatten().to(images.device)
    order = torch.rand(len(images), num_classes, generator=generator).to(images.device)
    if not len(drawn):
        return images, labels
    source = (drawn - 1) % len(images)
    present = present_classes(labels[:, ::2, ::2], num_classes)[source]
    ranks = torch.where(present, order[source], 2.0).argsort(1).argsort(1)
    chosen = present & (ranks < (present.sum(1, keepdim=True) + 1) // 2)
    table = F.pad(chosen, (1, 0))  # column 0 stands for ignored pixels, whose label is -1
    lifted = labels[source]
    return _paste(images, labels, drawn, table.gather(1, (lifted + 1).flatten(1)).view_as(lifted))


def cut_mix(
    images: Tensor, labels: Tensor, probability: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Paste a rectangle of the previous image of the batch on each image that is drawn.

    The rectangle has a quarter to a half of the area, any shape that fits (log-uniform, as French et al. draw it) and
    any place; its ignored pixels are pasted too.

    Args:
        images: float ``[N, 3, H, W]``.
        labels: int64 ``[N, H, W]``.
        probability: with which an image is pasted on.
        generator: a CPU generator.

    Returns:
        Tensors of the same shapes, and which images were pasted on, bool ``[N]`` on the CPU.
    """
    count, height, width = labels.shape
    chance = torch.rand(count, generator=generator) < probability
    area = _LEAST_CUT + (_MOST_CUT - _LEAST_CUT) * torch.rand(count, generator=generator)
    share = area ** torch.rand(count, generator=generator)
    size = torch.stack([share * height, area / share * width], 1).round().clamp(min=1)
    room = torch.tensor([height, width]) - size
    first = (torch.rand(count, 2, generator=generator) * (room + 1)).floor().minimum(room)
    drawn = chance.nonzero().flatten()
    if not len(drawn):
        return images, labels, chance
    low, high = first[drawn].to(labels.device), (first + size)[drawn].to(labels.device)
    rows = torch.arange(height, device=labels.device)
    columns = torch.arange(width, device=labels.device)
    inside_rows = (rows >= low[:, :1]) & (rows < high[:, :1])
    inside_columns = (columns >= low[:, 1:]) & (columns < high[:, 1:])
    pasted = inside_rows[:, :, None] & inside_columns[:, None, :]
    return *_paste(images, labels, drawn.to(labels.device), pasted), chance


def paste_class(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    probability: float,
    generator: torch.Generator,
    rarity: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Paste the pixels of one class of the previous image of the batch on each image that is drawn.

    Args:
        images: float ``[N, 3, H, W]``.
        labels: int64 ``[N, H, W]``; ignored pixels are never pasted.
        num_classes: number of classes C.
        probability: with which an image is pasted on.
        generator: a CPU generator.
        rarity: float ``[C]``, how likely a class is among those that an image shows; None: all alike.

    Returns:
        Tensors of the same shapes.
    """
    chance = torch.rand(len(images), generator=generator) < probability
    classes, found = draw_classes(labels[:, ::2, ::2], num_classes, rarity, generator)
    drawn = (chance & found.roll(1)).nonzero().flatten().to(labels.device)
    if not len(drawn):
        return images, labels
    source = (drawn - 1) % len(images)
    return _paste(images, labels, drawn, labels[source] == classes.to(labels.device)[source, None, None])


def draw_classes(
    labels: Tensor, num_classes: int, rarity: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A random class of each image.

    Args:
        labels: ``[N, h, w]`` class ids; others never count.
        num_classes: number of classes C.
        rarity: float ``[C]``, how likely a class is among those that an image shows; None: all alike.
        generator: a CPU generator.

    Returns:
        The classes, int64 ``[N]`` on the CPU, and where there was one to draw, bool ``[N]`` on the CPU.
    """
    likely = present_classes(labels, num_classes).float().cpu()
    if rarity is not None:
        likely = likely * rarity.cpu()
    found = likely.sum(1) > 0
    likely[~found] = 1.0
    return likely.multinomial(1, generator=generator)[:, 0], found


def present_classes(labels: Tensor, num_classes: int) -> Tensor:
    """Which classes an image shows: bool ``[N, C]``."""
    flat = labels.flatten(1)
    return torch.stack([(flat == class_id).any(1) for class_id in range(num_classes)], 1)


def _paste(images: Tensor, labels: Tensor, drawn: Tensor, pasted: Tensor) -> tuple[Tensor, Tensor]:
    """New tensors, in which the images ``drawn`` have the previous image's pixels where ``pasted`` ``[D, H, W]`` is."""
    source = (drawn - 1) % len(images)
    sources, lifted = images[source], labels[source]
    images, labels = images.clone(), labels.clone()
    images[drawn] = torch.where(pasted[:, None], sources, images[drawn])
    labels[drawn] = torch.where(pasted, lifted, labels[drawn])
    return images, labels
