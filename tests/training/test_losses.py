"""Losses against naive versions written out in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fcn_edge.model.fcn import make_model
from fcn_edge.training.losses import (
    cross_entropy,
    distillation_loss,
    enet_weights,
    lovasz_softmax,
    ohem,
    segmentation_loss,
)

CLASSES = 5


def case(seed: int, shape: tuple[int, ...] = (2, 9, 11)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape[0], CLASSES, *shape[1:], generator=generator)
    return logits, torch.randint(-1, CLASSES, shape, generator=generator)


def naive_pixels(logits: Tensor, labels: Tensor) -> list[tuple[float, int]]:
    """(cross-entropy, label) of each counted pixel."""
    values, ids = logits.double().numpy(), labels.numpy()
    found = []
    for n, y, x in np.ndindex(*ids.shape):
        if ids[n, y, x] >= 0:
            column = values[n, :, y, x]
            found.append((float(np.log(np.exp(column).sum()) - column[ids[n, y, x]]), int(ids[n, y, x])))
    return found


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(weighted: bool) -> None:
    logits, labels = case(0)
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0, 0.1]) if weighted else None
    pixels = naive_pixels(logits, labels)
    shares = [weights[label].item() if weighted else 1.0 for _, label in pixels]
    expected = sum(share * loss for share, (loss, _) in zip(shares, pixels, strict=True)) / sum(shares)
    assert cross_entropy(logits, labels, weights).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_ohem_keeps_the_hard_pixels(weighted: bool) -> None:
    logits, labels = case(1)
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0, 0.1]) if weighted else None
    hard = [(loss, label) for loss, label in naive_pixels(logits, labels) if loss > -math.log(0.7)]
    shares = [weights[label].item() if weighted else 1.0 for _, label in hard]
    expected = sum(share * loss for share, (loss, _) in zip(shares, hard, strict=True)) / sum(shares)
    assert ohem(logits, labels, weights).item() == pytest.approx(expected, rel=1e-5)


def test_ohem_keeps_a_sixteenth_where_all_is_easy() -> None:
    labels = torch.randint(CLASSES, (1, 16, 16), generator=torch.Generator().manual_seed(2))
    sure = 5 + 10 * torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    logits = sure * torch.nn.functional.one_hot(labels, CLASSES).movedim(-1, 1)
    hardest = sorted((loss for loss, _ in naive_pixels(logits, labels)), reverse=True)[:16]
    assert hardest[0] < -math.log(0.7)
    assert ohem(logits, labels).item() == pytest.approx(sum(hardest) / 16, rel=1e-4)
    few, few_labels = logits[..., :2, :2], labels[..., :2, :2]  # fewer than sixteen: one of them
    hardest = max(loss for loss, _ in naive_pixels(few, few_labels))
    assert ohem(few, few_labels).item() == pytest.approx(hardest, rel=1e-4)


@pytest.mark.parametrize("loss", [cross_entropy, ohem, lovasz_softmax])
def test_a_batch_without_a_counted_pixel_gives_zero_and_a_gradient(loss) -> None:
    logits, labels = case(0)
    logits.requires_grad_()
    value = loss(logits, torch.full_like(labels, -1))
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_lovasz_of_sure_answers_is_one_minus_iou() -> None:
    _, labels = case(4)
    answers = torch.randint(CLASSES, labels.shape, generator=torch.Generator().manual_seed(5))
    logits = 1e4 * torch.nn.functional.one_hot(answers, CLASSES).movedim(-1, 1).float()
    counted = labels >= 0
    ious = []
    for class_id in range(CLASSES):
        truth, answer = (labels == class_id)[counted], (answers == class_id)[counted]
        ious.append(((truth & answer).sum() / (truth | answer).sum()).item())
    assert lovasz_softmax(logits, labels).item() == pytest.approx(1 - np.mean(ious), rel=1e-5)


def test_lovasz_falls_under_gradient_descent() -> None:
    logits, labels = case(6)
    logits.requires_grad_()
    before = lovasz_softmax(logits, labels)
    before.backward()
    assert lovasz_softmax(logits.detach() - 100 * logits.grad, labels) < before


def test_enet_weights() -> None:
    counts = torch.tensor([600, 300, 100, 0])
    raw = [1 / math.log(1.10 + share) for share in (0.6, 0.3, 0.1, 0.0)]
    expected = torch.tensor(raw) / np.mean(raw)
    assert torch.allclose(enet_weights(counts), expected, atol=1e-5)


def scored(name: str, size_hw: tuple[int, int]) -> tuple[torch.nn.Module, list[Tensor], Tensor]:
    """A model with kernels that are no longer bilinear, random scores and labels."""
    torch.manual_seed(0)
    model = make_model(name, CLASSES)
    for kernel in model.kernels:
        kernel.data += 0.1 * torch.randn_like(kernel)
    grids = [(-(-size_hw[0] // model.strides[0]), -(-size_hw[1] // model.strides[0]))]
    grids = [(grids[0][0] * model.strides[0] // s, grids[0][1] * model.strides[0] // s) for s in model.strides]
    scores = [torch.randn(2, CLASSES, *grid) for grid in grids]
    return model, scores, torch.randint(-1, CLASSES, (2, *size_hw))


@pytest.mark.parametrize("name", ["fcn32s-edge-n", "fcn16s-edge-n", "fcn8s-edge-n", "fcn4s-edge-n"])
@pytest.mark.parametrize("size_hw", [(64, 96), (61, 75)])
def test_the_loss_on_all_pixels_is_that_of_the_head(name: str, size_hw: tuple[int, int]) -> None:
    model, scores, labels = scored(name, size_hw)
    expected = cross_entropy(model.head(scores, size_hw), labels)
    assert torch.allclose(segmentation_loss(scores, model.kernels, labels), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "asked", "every"),
    [
        ("fcn32s-edge-n", 4, 4),
        ("fcn8s-edge-n", 2, 2),
        ("fcn8s-edge-n", 4, 4),
        ("fcn4s-edge-n", 2, 2),
        ("fcn4s-edge-n", 4, 2),
    ],
)
def test_the_loss_on_a_grid_is_exact_for_its_pixels(
    name: str, asked: int, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    size_hw = (61, 75)
    model, scores, labels = scored(name, size_hw)
    logits = model.head(scores, size_hw)
    seen = torch.zeros(size_hw)
    for top in range(every):
        for left in range(every):
            monkeypatch.setattr(torch, "randint", lambda *_, o=(top, left), **__: torch.tensor(o))
            value = segmentation_loss(scores, model.kernels, labels, every=asked, generator=torch.Generator())
            cut = logits[..., top::every, left::every], labels[:, top::every, left::every]
            seen[top::every, left::every] += 1
            assert torch.allclose(value, cross_entropy(*cut), rtol=1e-5)
    assert (seen == 1).all()  # the grids together are the image


def test_auxiliary_losses_are_those_of_the_coarser_networks() -> None:
    model, scores, labels = scored("fcn8s-edge-n", (64, 96))
    labels = labels.clamp(min=0)
    coarse = make_model("fcn32s-edge-n", CLASSES)
    middle = make_model("fcn16s-edge-n", CLASSES)
    middle.skip_head.kernels[0].data = model.kernels[0].data
    parts = [coarse.head(scores[:1], (64, 96)), middle.head(scores[:2], (64, 96))]
    on_grid = [cross_entropy(part[..., ::8, ::8], labels[:, ::8, ::8]) for part in parts]
    main = segmentation_loss(scores, model.kernels, labels)
    whole = segmentation_loss(scores, model.kernels, labels, aux=0.4)
    assert torch.allclose(whole, main + 0.4 * (on_grid[0] + on_grid[1]), rtol=1e-5)


def test_lovasz_is_added_with_its_weight() -> None:
    model, scores, labels = scored("fcn8s-edge-n", (64, 96))
    logits = model.head(scores, (64, 96))
    expected = cross_entropy(logits, labels) + 0.5 * lovasz_softmax(logits[..., ::4, ::4], labels[:, ::4, ::4])
    assert torch.allclose(segmentation_loss(scores, model.kernels, labels, lovasz=0.5), expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_is_the_divergence_of_each_pixel(temperature: float) -> None:
    logits, answers = case(7)[0], case(8)[0]
    own, wanted = ((maps / temperature).double().numpy() for maps in (logits, answers))
    values = []
    for n, y, x in np.ndindex(2, 9, 11):
        q = np.exp(own[n, :, y, x]) / np.exp(own[n, :, y, x]).sum()
        p = np.exp(wanted[n, :, y, x]) / np.exp(wanted[n, :, y, x]).sum()
        values.append((p * np.log(p / q)).sum())
    expected = temperature**2 * np.mean(values)
    assert distillation_loss(logits, [answers], temperature).item() == pytest.approx(expected, rel=1e-5)


def test_several_teachers_probabilities_are_averaged() -> None:
    logits, one, other = (case(seed)[0] for seed in (7, 8, 9))
    mean = ((one / 2).softmax(1) + (other / 2).softmax(1)) / 2
    value = distillation_loss(logits, [one, other], 2.0)
    assert value.item() == pytest.approx(distillation_loss(logits, [2 * mean.log()], 2.0).item(), rel=1e-5)
    alone = (distillation_loss(logits, [each], 2.0).item() for each in (one, other))
    assert all(value.item() != pytest.approx(each, rel=1e-2) for each in alone)


def test_distillation_from_itself_is_zero_and_has_no_gradient() -> None:
    logits, _ = case(9)
    logits.requires_grad_()
    value = distillation_loss(logits, [logits.detach().clone()], 2.0)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert torch.allclose(logits.grad, torch.zeros_like(logits), atol=1e-8)
    other = logits.detach().flip(1).requires_grad_()
    distillation_loss(logits, [other], 2.0).backward()
    assert logits.grad.abs().max() > 1e-5
    assert other.grad is None  # the teacher does not learn


@pytest.mark.parametrize("label_weight", [0.0, 0.3])
def test_labels_weigh_as_much_as_asked_for(label_weight: float) -> None:
    model, scores, labels = scored("fcn8s-edge-n", (61, 75))
    other, taught, _ = scored("fcn4s-edge-n", (61, 75))
    from_labels = segmentation_loss(scores, model.kernels, labels, aux=0.4, lovasz=0.5)
    teachers = [(taught, other.kernels)]
    both = segmentation_loss(scores, model.kernels, labels, aux=0.4, lovasz=0.5, teachers=teachers)
    value = segmentation_loss(
        scores, model.kernels, labels, label_weight=label_weight, aux=0.4, lovasz=0.5, teachers=teachers
    )
    assert value.item() == pytest.approx(both.item() - (1 - label_weight) * from_labels.item(), rel=1e-4)
    assert both > from_labels


@pytest.mark.parametrize(
    ("student", "teacher", "every"),
    [("fcn8s-edge-n", "fcn4s-edge-n", 2), ("fcn4s-edge-n", "fcn8s-edge-n", 2), ("fcn8s-edge-n", "fcn16s-edge-n", 4)],
)
def test_both_heads_answer_on_the_same_pixels(
    student: str, teacher: str, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    size_hw = (61, 75)
    model, scores, labels = scored(student, size_hw)
    other, taught, _ = scored(teacher, size_hw)
    logits, answers = model.head(scores, size_hw), other.head(taught, size_hw)
    for origin in ((0, 0), (1, 0), (every - 1, every - 1)):
        monkeypatch.setattr(torch, "randint", lambda *_, o=origin, **__: torch.tensor(o))
        value = segmentation_loss(
            scores, model.kernels, labels, every=4, generator=torch.Generator(), teachers=[(taught, other.kernels)],
            distill=0.7, temperature=2.0,
        )  # fmt: skip
        top, left = origin
        own, wanted, chosen = (maps[..., top::every, left::every] for maps in (logits, answers, labels))
        expected = cross_entropy(own, chosen) + 0.7 * distillation_loss(own, [wanted], 2.0)
        assert torch.allclose(value, expected, rtol=1e-5)
