"""Quantisation-aware training and INT8 files: the same places, the same steps, the same answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
torch = pytest.importorskip("torch")

from fcn_edge import street  # noqa: E402
from fcn_edge.errors import GateError, ModelError, UsageError  # noqa: E402
from fcn_edge.export.build import build  # noqa: E402
from fcn_edge.export.build_request import BuildRequest  # noqa: E402
from fcn_edge.export.candidates import Calibrated  # noqa: E402
from fcn_edge.export.facts import facts_from_file  # noqa: E402
from fcn_edge.export.qdq import insert_qdq, placement, places, weight_scales  # noqa: E402
from fcn_edge.export.quantize import (  # noqa: E402
    CALIBRATION_KEY,
    SCALES_KEY,
    learned_scales,
    sensitivity_of,
    typed_onnx,
)
from fcn_edge.export.to_onnx import onnx_from_checkpoint, onnx_from_model  # noqa: E402
from fcn_edge.export.typed_file import typed_from_checkpoint  # noqa: E402
from fcn_edge.export.untyped import steps_of  # noqa: E402
from fcn_edge.model.fcn import make_model  # noqa: E402
from fcn_edge.pixels import write_png  # noqa: E402
from fcn_edge.training.checkpoint import Checkpoint, model_from_checkpoint, save_checkpoint  # noqa: E402
from fcn_edge.training.config import TrainConfig  # noqa: E402
from fcn_edge.training.qat import QuantisedConv, learned_steps, measure_steps, quantised, unquantised  # noqa: E402

SIZE_HW = (96, 128)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, lively_model, contract_of) -> Path:
    """A checkpoint as quantisation-aware training leaves it."""
    model = lively_model("fcn4s-edge-n", 5)
    rounding = quantised(model)
    measure_steps(rounding, [torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in frames()])
    path = tmp_path_factory.mktemp("qat") / "qat.pt"
    state, config = rounding.state_dict(), TrainConfig(model=model.name, qat=True, init="before.pt")
    save_checkpoint(path, Checkpoint(contract_of(model, SIZE_HW), config, model=state, ema=state))
    return path


@pytest.fixture(scope="module")
def exported(checkpoint) -> Path:
    return onnx_from_checkpoint(checkpoint, checkpoint.with_name("fp32.onnx"))


def frames(count: int = 4) -> list[np.ndarray]:
    return [street.draw_street(seed, 1.0, SIZE_HW)[0] for seed in range(count)]


@pytest.mark.parametrize(
    "name",
    [
        "fcn8s-edge-n",
        "fcn4s-edge-m",
        "fcn32s-resnet18",
        "fcn8s-resnet50",
        "fcn16s-alexnet",
        "fcn8s-googlenet",
        "fcn4s-efficientnet-lite0",
        "fcn4s-edge-n-fpn",
        "fcn4s-edge-n-ppm-fpn",
        "fcn8s-efficientnet-lite0-fpn",
    ],
)
def test_rounding_stands_where_the_file_has_q_and_dq(name, contract_of) -> None:
    model = make_model(name, 3).eval()
    proto = onnx_from_model(model, contract_of(model, (64, 64)))
    where = places(proto, placement(proto))
    assert set(where.values()) == set(learned_steps(quantised(model)))
    assert len(set(where.values())) == len(where)


def test_the_file_holds_the_learned_steps_and_the_unrounded_network(checkpoint, exported) -> None:
    model, _ = model_from_checkpoint(checkpoint)
    proto = onnx.load(exported)
    scales = learned_scales(proto)
    where = places(proto, placement(proto))
    assert scales == {tensor: learned_steps(model)[place] for tensor, place in where.items()}
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    plain = unquantised(model).eval()
    for frame in frames():
        (labels,) = session.run(None, {"image": frame[None]})
        with torch.no_grad():
            expected = plain(torch.from_numpy(frame).permute(2, 0, 1)[None]).argmax(1)
        assert np.mean(labels == expected.numpy()) > 0.9999


def test_int8_answers_are_those_that_training_saw(checkpoint, exported) -> None:
    model, _ = model_from_checkpoint(checkpoint)
    proto = onnx.load(exported)
    int8 = insert_qdq(proto, placement(proto), learned_scales(proto))
    plainly = onnxruntime.SessionOptions()
    plainly.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(int8.SerializeToString(), plainly, providers=["CPUExecutionProvider"])
    agreement, unrounded = [], []
    for frame in frames():
        (labels,) = session.run(None, {"image": frame[None]})
        image = torch.from_numpy(frame).permute(2, 0, 1)[None]
        with torch.no_grad():
            agreement.append(np.mean(labels == model(image).argmax(1).numpy()))
            unrounded.append(np.mean(labels == unquantised(model).eval()(image).argmax(1).numpy()))
    # Sums in another order round a few values to the next step, which then spreads; a misplaced step costs far more.
    assert np.mean(agreement) > 0.99
    assert np.mean(agreement) > np.mean(unrounded)


def test_int8_needs_no_frames_and_says_that_its_steps_were_learned(checkpoint, exported, tmp_path) -> None:
    report = typed_onnx(exported, tmp_path / "int8.onnx", "int8")
    assert (report.method, report.agreement, report.calibration_frames) == ("learned", None, 0)
    typed = onnx.load(report.path)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in typed.graph.initializer}
    for tensor, step in learned_scales(onnx.load(exported)).items():
        assert float(values[f"{tensor}.scale"]) == step
    metadata = {entry.key: entry.value for entry in typed.metadata_props}
    assert json.loads(metadata[CALIBRATION_KEY])["method"] == "learned"
    assert facts_from_file(report.path)["precision"]["int8"] > 0.5
    direct = typed_from_checkpoint(checkpoint, tmp_path / "direct.onnx", "int8")
    assert onnx.load(direct).graph == typed.graph


def test_weights_are_rounded_by_the_file_s_own_steps() -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(2, 4, 3)
    with torch.no_grad():
        conv.weight.mul_(torch.tensor([1.0, 1e-2, 1e-4, 0.0]).view(4, 1, 1, 1))  # steps below FP16's normal numbers too
    weight = conv.weight.detach().numpy()
    steps = weight_scales(weight).reshape(4, 1, 1, 1)
    expected = np.clip(np.rint(weight / steps), -127, 127) * steps
    image = torch.randn(1, 2, 8, 8)
    with torch.no_grad():
        got = QuantisedConv(conv)(image)
        wanted = torch.nn.functional.conv2d(image, torch.from_numpy(expected), conv.bias)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)


def test_frames_judge_learned_steps(exported, tmp_path) -> None:
    street.write_dataset(tmp_path / "data", train=9, val=1, size_hw=SIZE_HW, seed=3)
    report = typed_onnx(exported, tmp_path / "int8.onnx", "int8", calib=tmp_path / "data", threads=1)
    assert report.method == "learned"
    assert report.agreement is not None
    assert 0.8 < report.agreement <= 1
    assert (report.calibration_frames, report.held_out_frames, report.calibration_sha256) == (0, 3, None)
    with pytest.raises(GateError, match="steps were learned"):
        typed_onnx(exported, tmp_path / "x.onnx", "int8", calib=tmp_path / "data", min_agreement=1.0, threads=1)
    assert not (tmp_path / "x.onnx").exists()
    measured = typed_onnx(exported, tmp_path / "m.onnx", "int8", calib=tmp_path / "data", method="minmax", threads=1)
    assert measured.method == "minmax"


def test_build_takes_learned_steps(checkpoint, tmp_path) -> None:
    (result,) = build([checkpoint], tmp_path, BuildRequest(precisions=("int8",), threads=1))
    metadata = {entry.key: entry.value for entry in onnx.load(result.onnx).metadata_props}
    assert json.loads(metadata[CALIBRATION_KEY])["method"] == "learned"


@pytest.mark.parametrize("method", ["auto", "learned"])
def test_sensitivity_is_that_of_the_file_that_build_makes(method, exported, tmp_path, monkeypatch) -> None:
    street.write_dataset(tmp_path / "data", train=9, val=1, size_hw=SIZE_HW, seed=3)
    made = []
    monkeypatch.setattr(Calibrated, "agreement", lambda known, typed: float(made.append((known, typed)) or 1))
    keep = ("backbone.s[0-9]*",)
    rows = sensitivity_of(exported, tmp_path / "data", method=method, keep=keep, threads=1)
    assert [row.layer for row in rows] == ["backbone.stem.1.0"]
    learned = learned_scales(onnx.load(exported))
    assert made
    for known, typed in made:
        assert known.steps == learned
        assert known.seen == {}  # no range was measured
        assert steps_of(typed).items() <= learned.items()


def test_what_is_not_there_is_said(exported, tmp_path) -> None:
    proto = onnx.load(exported)
    kept = [entry for entry in proto.metadata_props if entry.key != SCALES_KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    onnx.save(proto, tmp_path / "plain.onnx")
    with pytest.raises(UsageError, match="holds no learned steps"):
        typed_onnx(tmp_path / "plain.onnx", tmp_path / "o.onnx", "int8", method="learned")
    with pytest.raises(UsageError, match="holds no learned steps"):
        sensitivity_of(tmp_path / "plain.onnx", tmp_path, method="learned")
    with pytest.raises(UsageError, match="int8 needs frames"):
        typed_onnx(tmp_path / "plain.onnx", tmp_path / "o.onnx", "int8")
    with pytest.raises(UsageError, match="needs frames to compare on"):
        typed_onnx(exported, tmp_path / "o.onnx", "int8", min_agreement=0.9)
    onnx.helper.set_model_props(proto, {entry.key: entry.value for entry in kept} | {SCALES_KEY: "[1"})
    onnx.save(proto, tmp_path / "broken.onnx")
    with pytest.raises(ModelError, match="learned steps are unreadable"):
        typed_onnx(tmp_path / "broken.onnx", tmp_path / "o.onnx", "int8")


def test_a_file_of_measured_ranges_tells_of_no_learned_steps(exported, tmp_path) -> None:
    frames = tmp_path / "frames"
    for index in range(9):
        write_png(frames / f"{index}.png", street.draw_street(index, 1.0, (64, 96))[0])
    typed_onnx(exported, tmp_path / "mse.onnx", "int8", calib=frames, method="mse")
    typed_onnx(exported, tmp_path / "learned.onnx", "int8")
    told = [{entry.key for entry in onnx.load(tmp_path / f"{name}.onnx").metadata_props} for name in ("mse", "learned")]
    assert [SCALES_KEY in keys for keys in told] == [False, True]
