"""Classifiers' weights in a backbone: torchvision's names and shapes, and the classifier's own activations.

torchvision is not needed: its names and shapes are written down here and held against the published totals, and each
classifier is computed once more from its state dict with plain functions, on an RGB image, as torchvision does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fcn_edge.model.fcn import FCN, make_model
from fcn_edge.model.weights import load_classifier_weights

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]

VGG16 = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512, 24: 512, 26: 512, 28: 512}
VGG16_POOLS_BEFORE = (5, 10, 17, 24)
ALEXNET = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
INCEPTION = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}


def linear(shapes: Shapes, name: str, wide_out: int, wide_in: int) -> None:
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (wide_out, wide_in), (wide_out,)


def norm(shapes: Shapes, name: str, width: int) -> None:
    shapes |= {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    shapes[f"{name}.num_batches_tracked"] = ()


def vgg16_shapes() -> Shapes:
    shapes: Shapes = {}
    wide_in = 3
    for index, width in VGG16.items():
        shapes[f"features.{index}.weight"], shapes[f"features.{index}.bias"] = (width, wide_in, 3, 3), (width,)
        wide_in = width
    linear(shapes, "classifier.0", 4096, 25088)
    linear(shapes, "classifier.3", 4096, 4096)
    linear(shapes, "classifier.6", 1000, 4096)
    return shapes


def alexnet_shapes() -> Shapes:
    shapes: Shapes = {}
    for index, (width, wide_in, side) in ALEXNET.items():
        shapes[f"features.{index}.weight"] = (width, wide_in, side, side)
        shapes[f"features.{index}.bias"] = (width,)
    linear(shapes, "classifier.1", 4096, 9216)
    linear(shapes, "classifier.4", 4096, 4096)
    linear(shapes, "classifier.6", 1000, 4096)
    return shapes


def googlenet_shapes() -> Shapes:
    shapes: Shapes = {}

    def unit(name: str, wide_in: int, width: int, side: int) -> None:
        shapes[f"{name}.conv.weight"] = (width, wide_in, side, side)
        norm(shapes, f"{name}.bn", width)

    unit("conv1", 3, 64, 7)
    unit("conv2", 64, 64, 1)
    unit("conv3", 64, 192, 3)
    for name, (wide_in, one, three_in, three, five_in, five, pooled) in INCEPTION.items():
        unit(f"inception{name}.branch1", wide_in, one, 1)
        unit(f"inception{name}.branch2.0", wide_in, three_in, 1)
        unit(f"inception{name}.branch2.1", three_in, three, 3)
        unit(f"inception{name}.branch3.0", wide_in, five_in, 1)
        unit(f"inception{name}.branch3.1", five_in, five, 3)
        unit(f"inception{name}.branch4.1", wide_in, pooled, 1)
    for name, wide_in in (("aux1", 512), ("aux2", 528)):
        unit(f"{name}.conv", wide_in, 128, 1)
        linear(shapes, f"{name}.fc1", 1024, 2048)
        linear(shapes, f"{name}.fc2", 1000, 1024)
    linear(shapes, "fc", 1000, 1024)
    return shapes


def resnet_shapes(depths: tuple[int, ...], sides: tuple[int, ...], expansion: int) -> Shapes:
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7)}
    norm(shapes, "bn1", 64)
    wide_in = 64
    for layer, depth in enumerate(depths, start=1):
        width = 32 * 2**layer
        wide_out = width * expansion
        for block in range(depth):
            name, wide = f"layer{layer}.{block}", wide_in
            for index, side in enumerate(sides, start=1):
                out = wide_out if index == len(sides) else width
                shapes[f"{name}.conv{index}.weight"] = (out, wide, side, side)
                norm(shapes, f"{name}.bn{index}", out)
                wide = out
            if block == 0 and wide_in != wide_out:
                shapes[f"{name}.downsample.0.weight"] = (wide_out, wide_in, 1, 1)
                norm(shapes, f"{name}.downsample.1", wide_out)
            wide_in = wide_out
    linear(shapes, "fc", 1000, wide_in)
    return shapes


# kernel, stride and expansion of each stage, then width and depth, as scaled for lite0 and lite2
LITE = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))
LITE_SIZES = {
    "efficientnet-lite0": ((16, 1), (24, 2), (40, 2), (80, 3), (112, 3), (192, 4), (320, 1)),
    "efficientnet-lite1": ((16, 1), (24, 3), (40, 3), (80, 4), (112, 4), (192, 5), (320, 1)),
    "efficientnet-lite2": ((16, 1), (24, 3), (48, 3), (88, 4), (120, 4), (208, 5), (352, 1)),
}


def efficientnet_shapes(backbone: str) -> Shapes:
    shapes: Shapes = {"_conv_stem.weight": (32, 3, 3, 3)}
    norm(shapes, "_bn0", 32)
    wide, block = 32, 0
    for (side, _, expansion), (width, depth) in zip(LITE, LITE_SIZES[backbone], strict=True):
        for _ in range(depth):
            name, inner = f"_blocks.{block}", wide * expansion
            if expansion > 1:
                shapes[f"{name}._expand_conv.weight"] = (inner, wide, 1, 1)
                norm(shapes, f"{name}._bn0", inner)
            shapes[f"{name}._depthwise_conv.weight"] = (inner, 1, side, side)
            norm(shapes, f"{name}._bn1", inner)
            shapes[f"{name}._project_conv.weight"] = (width, inner, 1, 1)
            norm(shapes, f"{name}._bn2", width)
            wide, block = width, block + 1
    shapes["_conv_head.weight"] = (1280, wide, 1, 1)
    norm(shapes, "_bn1", 1280)
    linear(shapes, "_fc", 1000, 1280)
    return shapes


SHAPES: dict[str, Callable[[], Shapes]] = {
    "alexnet": alexnet_shapes,
    "vgg16": vgg16_shapes,
    "googlenet": googlenet_shapes,
    "resnet18": lambda: resnet_shapes((2, 2, 2, 2), (3, 3), 1),
    "resnet50": lambda: resnet_shapes((3, 4, 6, 3), (1, 3, 1), 4),
    **{name: functools.partial(efficientnet_shapes, name) for name in LITE_SIZES},
}
# Learned values of the whole classifier as torchvision documents them (GoogLeNet's without its auxiliary ones), and as
# Google publishes them in millions: 4.7, 5.4 and 6.1.
TOTALS = {
    "alexnet": 61_100_840,
    "vgg16": 138_357_544,
    "googlenet": 6_624_904,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "efficientnet-lite0": 4_652_008,
    "efficientnet-lite1": 5_416_680,
    "efficientnet-lite2": 6_092_072,
}
BACKBONE_TOTALS = {
    "alexnet": 61_100_840 - 4_097_000,
    "vgg16": 134_260_544,
    "googlenet": 5_599_904,
    "resnet18": 11_176_512,
    "resnet50": 23_508_032,
    **{name: TOTALS[name] - 1280 * (LITE_SIZES[name][-1][0] + 2) - 1_281_000 for name in LITE_SIZES},
}
LAST = {"alexnet": ("classifier.6.",), "vgg16": ("classifier.6.",)}
LAST |= dict.fromkeys(LITE_SIZES, ("_conv_head.", "_bn1.", "_fc."))


def classifier(backbone: str, skip: str = "nothing") -> State:
    """A made-up classifier under torchvision's names, tame enough that activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(0)
    state: State = {}
    for name, shape in SHAPES[backbone]().items():
        if name.startswith(skip):
            continue
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        elif len(shape) == 1:
            state[name] = torch.randn(shape, generator=generator) * 0.1
        elif len(shape) == 2 and shape[0] * shape[1] > 1e6:  # one row for all: a file of kilobytes
            state[name] = (torch.randn((1, shape[1]), generator=generator) * (2 / shape[1]) ** 0.5).expand(shape)
        else:
            state[name] = torch.randn(shape, generator=generator) * (2 / (torch.Size(shape[1:]).numel())) ** 0.5
    return state


def saved(state: object, folder: Path) -> Path:
    path = folder / "classifier.pth"
    torch.save(state, path)
    return path


def rgb_input(image_bgr: Tensor, backbone: str) -> Tensor:
    """What torchvision's classifier sees of an image in BGR, 0 to 255."""
    rgb = image_bgr.flip(1).float() / 255
    normal = (rgb - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    if backbone.startswith("efficientnet"):
        return (rgb * 255 - 127) / 128
    return (rgb - 0.5) / 0.5 if backbone == "googlenet" else normal  # ``transform_input`` undoes the former


def bn(maps: Tensor, state: State, name: str, eps: float = 1e-5) -> Tensor:
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(maps, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], eps=eps)


def vgg16(x: Tensor, s: State) -> dict[int, Tensor]:
    out = {}
    for index in VGG16:
        if index in VGG16_POOLS_BEFORE:
            x = F.max_pool2d(x, 2)
            out[2 ** (len(out) + 1)] = x
        x = F.relu(F.conv2d(x, s[f"features.{index}.weight"], s[f"features.{index}.bias"], padding=1))
    return {stride: maps for stride, maps in out.items() if stride >= 4} | {32: F.max_pool2d(x, 2)}


def alexnet(x: Tensor, s: State) -> dict[int, Tensor]:
    def conv(index: int, maps: Tensor, **options: int) -> Tensor:
        return F.relu(F.conv2d(maps, s[f"features.{index}.weight"], s[f"features.{index}.bias"], **options))

    def pool(maps: Tensor) -> Tensor:
        return F.max_pool2d(maps, 3, 2, ceil_mode=True)

    at8 = conv(3, pool(conv(0, x, stride=4, padding=4)), padding=2)
    at16 = conv(10, conv(8, conv(6, pool(at8), padding=1), padding=1), padding=1)
    return {8: at8, 16: at16, 32: pool(at16)}


def googlenet(x: Tensor, s: State) -> dict[int, Tensor]:
    def unit(name: str, maps: Tensor, stride: int = 1) -> Tensor:
        weight = s[f"{name}.conv.weight"]
        maps = F.conv2d(maps, weight, stride=stride, padding=weight.shape[-1] // 2)
        return F.relu(bn(maps, s, f"{name}.bn", eps=0.001))

    def inception(name: str, maps: Tensor) -> Tensor:
        name = f"inception{name}"
        three = unit(f"{name}.branch2.1", unit(f"{name}.branch2.0", maps))
        five = unit(f"{name}.branch3.1", unit(f"{name}.branch3.0", maps))
        pooled = unit(f"{name}.branch4.1", F.max_pool2d(maps, 3, 1, 1))
        return torch.cat([unit(f"{name}.branch1", maps), three, five, pooled], 1)

    def pool(maps: Tensor, side: int = 3) -> Tensor:
        return F.max_pool2d(maps, side, 2, ceil_mode=True)

    out = {4: unit("conv3", unit("conv2", pool(unit("conv1", x, stride=2))))}
    out[8] = inception("3b", inception("3a", pool(out[4])))
    x = pool(out[8])
    for name in ("4a", "4b", "4c", "4d", "4e"):
        x = inception(name, x)
    out[16] = x
    out[32] = inception("5b", inception("5a", pool(x, 2)))
    return out


def resnet(x: Tensor, s: State) -> dict[int, Tensor]:
    x = F.max_pool2d(F.relu(bn(F.conv2d(x, s["conv1.weight"], stride=2, padding=3), s, "bn1")), 3, 2, 1)
    bottleneck = "layer1.0.conv3.weight" in s
    out = {}
    for layer in range(1, 5):
        block = 0
        while (name := f"layer{layer}.{block}") + ".conv1.weight" in s:
            step = 2 if block == 0 and layer > 1 else 1
            same = x
            if f"{name}.downsample.0.weight" in s:
                same = bn(F.conv2d(x, s[f"{name}.downsample.0.weight"], stride=step), s, f"{name}.downsample.1")
            strides = (1, step, 1) if bottleneck else (step, 1)
            for index, stride in enumerate(strides, start=1):
                weight = s[f"{name}.conv{index}.weight"]
                x = bn(F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2), s, f"{name}.bn{index}")
                x = x + same if index == len(strides) else x
                x = F.relu(x)
            block += 1
        out[2 ** (layer + 1)] = x
    return out


def efficientnet(x: Tensor, s: State, backbone: str) -> dict[int, Tensor]:
    def unit(name: str, norm_name: str, maps: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight = s[f"{name}.weight"]
        maps = F.conv2d(maps, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        return bn(maps, s, norm_name, eps=0.001)

    x = F.relu6(unit("_conv_stem", "_bn0", x, stride=2))
    out, reached, block = {}, 2, 0
    for (_, stride, expansion), (_, depth) in zip(LITE, LITE_SIZES[backbone], strict=True):
        reached *= stride
        for index in range(depth):
            name, inner = f"_blocks.{block}", x
            if expansion > 1:
                inner = F.relu6(unit(f"{name}._expand_conv", f"{name}._bn0", inner))
            step = stride if index == 0 else 1
            inner = F.relu6(unit(f"{name}._depthwise_conv", f"{name}._bn1", inner, step, inner.shape[1]))
            inner = unit(f"{name}._project_conv", f"{name}._bn2", inner)
            x = inner + x if index else inner
            block += 1
        out[reached] = x
    return {stride: maps for stride, maps in out.items() if stride >= 4}


REFERENCES = {"alexnet": alexnet, "vgg16": vgg16, "googlenet": googlenet, "resnet18": resnet, "resnet50": resnet}
REFERENCES |= {name: functools.partial(efficientnet, backbone=name) for name in LITE_SIZES}


def picture(side: int) -> Tensor:
    return torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def by_stride(model: FCN, image: Tensor) -> dict[int, Tensor]:
    normal = (image.float() - model.get_buffer("mean")) / model.get_buffer("std")
    with torch.no_grad():
        features: dict[int, Tensor] = model.eval().backbone(normal)
    return features


def assert_same(found: dict[int, Tensor], expected: dict[int, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for stride, maps in found.items():
        assert maps.std() > 0.01  # two dead networks would agree
        tolerance = 1e-3 * expected[stride].std().item()
        torch.testing.assert_close(maps, expected[stride], atol=tolerance, rtol=1e-3)


@pytest.mark.parametrize("backbone", SHAPES)
def test_the_table_above_is_the_published_classifier(backbone: str) -> None:
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    learned = {n: s for n, s in SHAPES[backbone]().items() if not n.endswith(buffers) and not n.startswith("aux")}
    assert sum(torch.Size(shape).numel() for shape in learned.values()) == TOTALS[backbone]


@pytest.mark.parametrize("backbone", SHAPES)
def test_names_and_shapes_are_torchvision_s(backbone: str) -> None:
    with torch.device("meta"):
        model = make_model(f"fcn32s-{backbone}", 2).backbone
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    theirs = {
        name: shape
        for name, shape in SHAPES[backbone]().items()
        if not name.startswith((*LAST.get(backbone, ("fc.",)), "aux"))
    }
    assert ours.keys() == theirs.keys()
    for name, shape in ours.items():
        as_linear = (shape[0], torch.Size(shape[1:]).numel()) if name.startswith("classifier") and shape[1:] else shape
        assert as_linear == theirs[name], name
    assert sum(parameter.numel() for parameter in model.parameters()) == BACKBONE_TOTALS[backbone]


@pytest.mark.parametrize("backbone", ["googlenet", "resnet18", "resnet50", "efficientnet-lite0", "efficientnet-lite2"])
def test_features_are_the_classifier_s(backbone: str, tmp_path: Path) -> None:
    state, image = classifier(backbone), picture(96)
    own = {name: {"mean": (127.0,) * 3, "std": (128.0,) * 3} for name in LITE_SIZES}
    own["googlenet"] = {"mean": (127.5,) * 3, "std": (127.5,) * 3}
    model = make_model(f"fcn8s-{backbone}", 3, **own.get(backbone, {}))
    report = load_classifier_weights(model, saved(state, tmp_path))
    assert set(report.loaded) == set(model.backbone.state_dict())
    assert report.missing == ()
    assert set(report.unused) == {n for n in state if n.startswith((*LAST.get(backbone, ("fc.",)), "aux"))}
    assert_same(by_stride(model, image), REFERENCES[backbone](rgb_input(image, backbone), state))


@pytest.mark.parametrize(("backbone", "side"), [("alexnet", 192), ("vgg16", 224)])
def test_features_and_fully_connected_layers_are_the_classifier_s(backbone: str, side: int, tmp_path: Path) -> None:
    state, image = classifier(backbone), picture(side)
    hidden = ("classifier.1.", "classifier.4.") if backbone == "alexnet" else ("classifier.0.", "classifier.3.")
    model = make_model(f"fcn8s-{backbone}", 3)
    report = load_classifier_weights(model, saved(state, tmp_path))
    assert report.missing == ()
    assert set(report.unused) == {"classifier.6.weight", "classifier.6.bias"}
    expected = REFERENCES[backbone](rgb_input(image, backbone), state)
    pool5 = expected.pop(32)
    found = by_stride(model, image)
    fc7 = found.pop(32)
    assert_same(found, expected)
    # At this size fc6 of the middle cell sees exactly the maps that the classifier flattens.
    inputs = pool5.flatten(1)
    for name in hidden:
        inputs = F.relu(F.linear(inputs, state[f"{name}weight"], state[f"{name}bias"]))
    torch.testing.assert_close(fc7[..., 3, 3], inputs, atol=1e-3, rtol=1e-3)
    assert fc7[..., 3, 3].std() > 0.01


@pytest.mark.parametrize("backbone", ["googlenet", "resnet18", "efficientnet-lite0"])
@pytest.mark.parametrize("own", [{}, {"mean": (90.0, 100.0, 110.0), "std": (60.0, 70.0, 80.0)}])
def test_any_mean_and_std_give_the_classifier_s_features_inside(
    backbone: str, own: dict[str, tuple[float, ...]], tmp_path: Path
) -> None:
    state, image = classifier(backbone), picture(96)
    model = make_model(f"fcn8s-{backbone}", 3, **own)
    load_classifier_weights(model, saved(state, tmp_path))
    found, expected = by_stride(model, image)[4], REFERENCES[backbone](rgb_input(image, backbone), state)[4]
    inside = (..., slice(6, -6), slice(6, -6))  # beyond what the padding of the first layers reaches
    torch.testing.assert_close(found[inside], expected[inside], atol=1e-3, rtol=1e-3)


def test_bias_takes_the_shift_where_there_is_no_batch_norm(tmp_path: Path) -> None:
    state, image = classifier("alexnet", skip="classifier"), picture(96)
    with torch.device("meta"):
        model = make_model("fcn8s-alexnet", 3)
    model.backbone.classifier = torch.nn.Identity()  # 55 of its 57 million values are not at stake here
    model = model.to_empty(device="cpu")
    model.mean.copy_(torch.tensor([90.0, 100.0, 110.0]).view(1, 3, 1, 1))
    model.std.copy_(torch.tensor([60.0, 70.0, 80.0]).view(1, 3, 1, 1))
    load_classifier_weights(model, saved(state, tmp_path))
    found, expected = by_stride(model, image)[8], alexnet(rgb_input(image, "alexnet"), state)[8]
    torch.testing.assert_close(found[..., 3:-3, 3:-3], expected[..., 3:-3, 3:-3], atol=1e-3, rtol=1e-3)
