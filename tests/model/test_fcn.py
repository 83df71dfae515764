"""The FCN: its names, sizes and costs, what goes in and what comes out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fcn_edge.errors import UsageError
from fcn_edge.model.fcn import FCN, MEAN_BGR, STD_BGR, count_gmacs, count_params, make_model, model_names

HEADS = {"32s": (32,), "16s": (32, 16), "8s": (32, 16, 8), "4s": (32, 16, 8, 4)}
EDGE = ("edge-n", "edge-s", "edge-m", "edge-t")
CLASSIFIERS = ("alexnet", "vgg16", "googlenet", "resnet18", "resnet50", "efficientnet-lite0", "efficientnet-lite2")


def counted(name: str, num_classes: int = 11) -> FCN:
    with torch.device("meta"):  # shapes without values: VGG16 alone would be half a gigabyte
        return make_model(name, num_classes).eval()


def small(name: str = "fcn8s-edge-n", num_classes: int = 5, **options: float) -> FCN:
    """A model whose scores, which start at zero, are random."""
    torch.manual_seed(0)
    model = make_model(name, num_classes, **options)
    for conv in model.score_convs:
        nn.init.normal_(conv.weight, std=0.1)
        nn.init.normal_(conv.bias)
    return model.eval()


def picture(height: int, width: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("backbone", "millions", "gmacs"),
    [("edge-n", 0.99, 1.28), ("edge-s", 2.38, 2.90), ("edge-m", 4.87, 6.02), ("edge-t", 15.9, 18.0)],
)
def test_edge_models_cost_what_the_design_says(backbone: str, millions: float, gmacs: float) -> None:
    model = counted(f"fcn8s-{backbone}")
    assert count_params(model) / 1e6 == pytest.approx(millions, rel=0.05)
    assert count_gmacs(model, (360, 480)) == pytest.approx(gmacs, rel=0.05)


def test_gmacs_of_a_network_counted_by_hand() -> None:
    # VGG16 at 224x224 is 15.35 G up to pool5; fc6 and fc7 then run on 7x7 cells; scores and the head on top.
    model = counted("fcn32s-vgg16", 21)
    cells = 7 * 7
    expected = 15.347e9 + cells * (512 * 49 * 4096 + 4096 * 4096 + 4096 * 21 + 21 * 64 * 64)
    assert count_gmacs(model, (224, 224)) == pytest.approx(expected / 1e9, rel=1e-4)


def test_counting_changes_nothing() -> None:
    model = small().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_gmacs(model, (64, 64))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_names() -> None:
    names = model_names()
    assert len(set(names)) == len(names)
    assert {f"fcn{head}-{backbone}" for head in HEADS for backbone in EDGE} <= set(names)
    assert {f"fcn{head}-{backbone}" for head in ("32s", "16s", "8s") for backbone in CLASSIFIERS} <= set(names)
    assert "fcn4s-alexnet" not in names


@pytest.mark.parametrize("name", model_names())
def test_every_model_has_whole_maps_at_its_strides(name: str) -> None:
    model = counted(name)
    head, _, backbone = name.removeprefix("fcn").partition("-")
    assert model.name == name
    assert model.strides == HEADS[head]
    for batch, height, width in ((2, 64, 96), (1, 32, 32), (1, 224, 352)):
        features = model.backbone(torch.zeros(batch, 3, height, width, device="meta"))
        shapes = {stride: tuple(maps.shape) for stride, maps in features.items()}
        channels = model.backbone.channels
        assert shapes == {s: (batch, channels[s], height // s, width // s) for s in channels}, backbone
        assert set(model.strides) <= set(channels)
    assert tuple(model(torch.zeros(2, 3, 50, 70, device="meta")).shape) == (2, 11, 50, 70)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [(1, 1), (31, 65), (64, 32), (45, 100)])
def test_any_size_goes_in_and_comes_out(head: str, size: tuple[int, int]) -> None:
    model = small(f"fcn{head}-edge-n", 3)
    image = picture(*size, batch=2)
    logits = model(image)
    assert tuple(logits.shape) == (2, 3, *size)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, model(image.float()))
    scores = model.scores(model.features(image))
    padded = [-(-side // 32) * 32 for side in size]
    expected = [(2, 3, padded[0] // stride, padded[1] // stride) for stride in HEADS[head]]
    assert [tuple(maps.shape) for maps in scores] == expected
    assert torch.equal(model.head(scores, size), logits)


@pytest.mark.parametrize("num_classes", [1, 2, 256])
def test_number_of_classes(num_classes: int) -> None:
    model = small("fcn4s-edge-n", num_classes)
    assert tuple(model(picture(40, 40)).shape) == (1, num_classes, 40, 40)
    shapes = [tuple(kernel.shape) for kernel in model.kernels]
    assert shapes == [(num_classes, 1, 4, 4)] * 3 + [(num_classes, 1, 8, 8)]


@pytest.mark.parametrize("head", HEADS)
def test_kernels_have_the_contract_s_shapes(head: str) -> None:
    strides = HEADS[head]
    fine = 2 * strides[-1]
    shapes = [tuple(kernel.shape) for kernel in counted(f"fcn{head}-edge-n", 7).kernels]
    assert shapes == [(7, 1, 4, 4)] * (len(strides) - 1) + [(7, 1, fine, fine)]


@pytest.mark.parametrize("size", [(40, 72), (360, 480)])
def test_padding_is_the_mean_colour_below_and_right(size: tuple[int, int]) -> None:
    model = small()
    image = picture(*size)
    height, width = (-(-side // 32) * 32 for side in size)
    canvas = torch.tensor(MEAN_BGR).view(1, 3, 1, 1).expand(1, 3, height, width).clone()
    canvas[..., : size[0], : size[1]] = image
    with torch.no_grad():
        assert torch.equal(model(image), model(canvas)[..., : size[0], : size[1]])
        beyond = canvas.clone()
        beyond[..., size[0] :, :] = 255
        assert not torch.allclose(model(image), model(beyond)[..., : size[0], : size[1]])  # so the canvas matters


def test_mean_and_std_are_applied_to_each_channel() -> None:
    image = picture(32, 32)
    plain = small(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    own = small(mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 8.0))
    normal = torch.stack([(image[:, 0] - 10.0) / 2, (image[:, 1] - 20.0) / 4, (image[:, 2] - 30.0) / 8], 1)
    torch.testing.assert_close(own(image), plain(normal))


def test_default_mean_and_std_are_imagenet_s_in_bgr() -> None:
    assert [value / 255 for value in MEAN_BGR] == pytest.approx([0.406, 0.456, 0.485])
    assert [value / 255 for value in STD_BGR] == pytest.approx([0.225, 0.224, 0.229])


def test_fresh_scores_are_zero_and_can_be_learned() -> None:
    torch.manual_seed(0)
    model = make_model("fcn8s-edge-n", 4)
    logits = model(picture(64, 64, batch=2))
    assert not logits.any()
    nn.functional.cross_entropy(logits, torch.randint(0, 4, (2, 64, 64))).backward()
    assert all(conv.weight.grad.abs().sum() > 0 for conv in model.score_convs)


def test_dropout_drops_whole_channels_in_training_only() -> None:
    model = small(dropout=0.5)
    image = picture(64, 64)
    assert torch.equal(model(image), model(image))
    model.train()
    torch.manual_seed(3)
    features = [torch.ones(1, channels, 4, 4) for channels in (128, 96, 64)]
    kept = model.dropout(features[0])
    per_channel = kept.amax((2, 3)).flatten()
    assert torch.equal(kept, per_channel.view(1, -1, 1, 1).expand_as(kept))
    assert set(per_channel.tolist()) == {0.0, 2.0}
    first, second = model.scores(features), model.scores(features)
    assert not torch.equal(first[0], second[0])
    assert torch.equal(small().train().scores(features)[0], small().train().scores(features)[0])


def test_batch_norm_momentum_is_the_share_of_a_batch() -> None:
    image = picture(64, 64, batch=2).float()
    fast, slow = small(bn_momentum=1.0).train(), small(bn_momentum=0.25).train()
    fast(image), slow(image)
    name = "backbone.stem.0.1.running_mean"
    torch.testing.assert_close(slow.state_dict()[name], 0.25 * fast.state_dict()[name])
    momenta = {m.momentum for m in counted("fcn8s-resnet18").modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.1}


@pytest.mark.parametrize(
    ("name", "offer"),
    [
        ("", "one to begin with is fcn8s-edge-n"),
        ("fcn8s", "did you mean fcn"),
        ("fcn8s-edge-x", "did you mean fcn8s-edge-"),
        ("fcn64s-edge-n", "did you mean .*fcn4s-edge-n"),
        ("fcn4s-alexnet", "did you mean fcn8s-alexnet, "),
        ("FCN8s-edge-n\n", "did you mean fcn8s-edge-n, "),
        ("resnet18", "it is a backbone: use fcn8s-resnet18 "),
        ("edge-n-fpn", "it is a backbone: use fcn8s-edge-n-fpn "),
        ("camvid-n", "it ships with its weights: use --init camvid-n "),
    ],
)
def test_an_unknown_model_gets_the_nearest_offered(name: str, offer: str) -> None:
    with pytest.raises(UsageError, match=rf"is unknown; {offer}.*\(all are listed in docs/models.md\)$") as caught:
        make_model(name, 2)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("num_classes", "options", "said"),
    [
        (0, {}, "0 classes.*1 to 256"),
        (257, {}, "257 classes.*1 to 256"),
        (2, {"dropout": 1.0}, "dropout is 1.0"),
        (2, {"dropout": -0.1}, "dropout is -0.1"),
        (2, {"dropout": float("nan")}, "dropout is nan"),
        (2, {"bn_momentum": 0.0}, "bn momentum 0.0"),
        (2, {"bn_momentum": 1.5}, "bn momentum 1.5"),
    ],
)
def test_bad_values_are_refused(num_classes: int, options: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make_model("fcn8s-edge-n", num_classes, **options)


def test_counting_multiply_adds_computes_no_pixels() -> None:
    """A contract may say 8192x8192: that took a minute and gigabytes, and now it is only shapes."""
    model = make_model("fcn8s-edge-n", 3).train()
    small, large = count_gmacs(model, (512, 512)), count_gmacs(model, (8192, 8192))
    assert large == pytest.approx(256 * small)
    assert model.training
    assert {value.device.type for value in model.parameters()} == {"cpu"}
