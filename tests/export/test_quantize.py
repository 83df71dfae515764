"""FP16 and INT8 files: what they hold and say, that they run as said in the CPU engine, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")
pytest.importorskip("torch")

from onnx import TensorProto  # noqa: E402

from fcn_edge import street  # noqa: E402
from fcn_edge.contract import METADATA_KEY  # noqa: E402
from fcn_edge.errors import DataError, GateError, ModelError, UsageError  # noqa: E402
from fcn_edge.export import quantize  # noqa: E402
from fcn_edge.export.calibration import METHODS  # noqa: E402
from fcn_edge.export.candidates import best_method, calibrated, labels_of  # noqa: E402
from fcn_edge.export.facts import facts_from_file  # noqa: E402
from fcn_edge.export.quantize import sensitivity_of, typed_onnx  # noqa: E402
from fcn_edge.export.to_onnx import write_onnx  # noqa: E402
from fcn_edge.export.typed import int8_from_fp32  # noqa: E402
from fcn_edge.pixels import read_image  # noqa: E402
from fcn_edge.runtime import open_engine  # noqa: E402

SIZE_HW = (96, 128)


@pytest.fixture(scope="module")
def home(tmp_path_factory, lively_model, contract_of) -> Path:
    """A folder with an FP32 file, model.onnx, and frames of a drawn street, data/train."""
    home = tmp_path_factory.mktemp("quantize")
    street.write_dataset(home / "data", train=12, val=1, size_hw=SIZE_HW, seed=3)
    model = lively_model("fcn8s-edge-n", 5)
    write_onnx(model, contract_of(model, SIZE_HW), home / "model.onnx")
    return home


@pytest.fixture(scope="module")
def frames(home) -> Path:
    folder = next(path for path in (home / "data" / "images" / "train", home / "data" / "train") if path.is_dir())
    assert len(list(folder.iterdir())) == 12
    return folder


@pytest.fixture(scope="module")
def int8(home, frames):
    steps: list[tuple[str, int, int]] = []
    report = typed_onnx(
        home / "model.onnx",
        home / "int8.onnx",
        "int8",
        calib=frames,
        threads=1,
        on_progress=lambda *step: steps.append(step),
    )
    return report, steps


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def agreement(one: Path, other: Path, frames: Path) -> float:
    images = [read_image(path) for path in sorted(frames.iterdir())]
    pairs = zip(labels_of(onnx.load(one), images, 1), labels_of(onnx.load(other), images, 1), strict=True)
    return float(np.mean([np.mean(a == b) for a, b in pairs]))


def test_fp16_file(home, frames) -> None:
    report = typed_onnx(home / "model.onnx", home / "fp16.onnx", "fp16", calib=home / "data", threads=1)
    assert report.agreement is not None
    assert report.agreement > 0.998
    assert (report.method, report.layers, report.held_out_frames) == (None, (), 4)
    assert (report.calibration_frames, report.calibration_sha256) == (0, None), "no range was measured"
    assert metadata(home / "fp16.onnx")[METADATA_KEY] == metadata(home / "model.onnx")[METADATA_KEY]
    assert metadata(home / "fp16.onnx")["fcn_edge.precision"] == "fp16"
    facts = facts_from_file(home / "fp16.onnx")
    assert facts["precision"] == {"fp16": 1.0}
    assert facts["gmacs"] == pytest.approx(facts_from_file(home / "model.onnx")["gmacs"])
    assert (home / "fp16.onnx").stat().st_size < 0.52 * (home / "model.onnx").stat().st_size
    with open_engine(home / "fp16.onnx", threads=1) as engine:
        assert engine.precision == "fp16"
    alone = typed_onnx(home / "model.onnx", home / "alone.onnx", "fp16")
    assert (alone.agreement, alone.calibration_sha256) == (None, None)
    assert "fcn_edge.calibration" not in metadata(home / "alone.onnx")


def test_int8_file_says_how_it_was_made(home, int8, frames) -> None:
    report, steps = int8
    assert set(report.agreement_by_method) == set(METHODS)
    assert report.agreement == max(report.agreement_by_method.values()) == report.agreement_by_method[report.method]
    assert (report.calibration_frames, report.held_out_frames) == (8, 4)
    assert Counter(step for step, _, _ in steps) == {"calibrating": 8, "choosing ranges": len(METHODS)}
    written = metadata(home / "int8.onnx")
    told = json.loads(written["fcn_edge.calibration"])
    assert told["calibration_sha256"] == report.calibration_sha256
    assert (told["method"], told["agreement"]) == (report.method, report.agreement)
    assert tuple(told["layers"]) == report.layers
    assert str(home) not in written["fcn_edge.calibration"]
    assert written["fcn_edge.precision"] == "int8"
    assert written["fcn_edge.fp32_sha256"] == facts_from_file(home / "model.onnx")["sha256"]
    facts = facts_from_file(home / "int8.onnx")
    assert facts["precision"] == {"int8": 20 / 25, "fp16": 5 / 25}
    assert {name for name, kind in facts["layers"].items() if kind == "int8"} == set(report.layers)
    assert facts["params"] == facts_from_file(home / "model.onnx")["params"]


def test_int8_file_holds_int8_fp16_and_what_belongs_to_sums_of_integers_in_fp32(home, int8) -> None:
    report, _ = int8
    model = onnx.load(home / "int8.onnx")
    stored = Counter(TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer)
    assert stored["INT8"] == 20 + 1  # weights of the layers and the one zero point
    floats = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    assert {name for name in floats if name.endswith(".bias")} == {f"{name}.bias" for name in report.layers}
    rest = {name for name in floats if not name.endswith((".bias", ".scale"))}
    assert len(rest) == 2  # mean and deviation
    assert (home / "int8.onnx").stat().st_size < 0.3 * (home / "model.onnx").stat().st_size


def test_labels_are_those_of_fp32_as_far_as_int8_goes(home, int8, frames) -> None:
    """And the same file with coarser steps is far worse: the scales matter."""
    good = agreement(home / "model.onnx", home / "int8.onnx", frames)
    assert good > 0.95
    known = calibrated(home / "model.onnx", frames, threads=1)
    coarse = {name: each.histogram.largest / 4 for name, each in known.seen.items()}
    assert known.agreement(int8_from_fp32(known.model, coarse)) < good - 0.05


def test_onnx_runtime_agrees_with_the_cpu_engine_on_the_int8_file(home, int8, frames) -> None:
    session = onnxruntime.InferenceSession(home / "int8.onnx", providers=["CPUExecutionProvider"])
    same = []
    with open_engine(home / "int8.onnx", threads=1) as engine:
        for path in sorted(frames.iterdir())[:4]:
            image = read_image(path)
            labels = session.run(None, {"image": image[None]})[0].view(np.uint8)[0]
            same.append(np.mean(labels == engine.infer(image)))
    # An untrained network answers by a hair's breadth: a last bit becomes a step, and steps spread. Trained ones, in
    # tests/test_shipped_models.py, agree far better; a scale misread by one of them would show as half of the labels.
    assert np.mean(same) > 0.95


def test_openvino_runs_the_layers_in_int8(home, int8) -> None:
    """Not by the engine's word: by the types of the kernels that OpenVINO chose."""
    kernels = {}
    for file in ("model.onnx", "int8.onnx"):
        with open_engine(home / file, threads=1) as engine:
            network = engine._request.get_compiled_model().get_runtime_model()
            infos = [node.get_rt_info() for node in network.get_ops()]
            kernels[file] = Counter(
                info["runtimePrecision"].astype(str) for info in infos if info["layerType"].astype(str) == "Convolution"
            )
    assert kernels["model.onnx"] == {"f32": 24}
    assert kernels["int8.onnx"]["f32"] == 4
    assert kernels["int8.onnx"]["u8"] + kernels["int8.onnx"]["i8"] == 20


def test_one_method_and_layers_kept_out(home, frames) -> None:
    report = typed_onnx(
        home / "model.onnx",
        home / "kept.onnx",
        "int8",
        calib=sorted(frames.iterdir()),
        method="minmax",
        keep=["backbone.s32.*"],
        threads=1,
    )
    assert set(report.agreement_by_method) == {"minmax"}
    assert sum(name.startswith("backbone.s32.") for name in report.kept) == 3
    assert len(report.layers) == 17


def test_auto_takes_the_best_by_labels(home, frames, monkeypatch) -> None:
    known = calibrated(home / "model.onnx", frames, threads=1)
    true = METHODS["mse"]
    for name in METHODS:  # all but one clip nearly everything
        monkeypatch.setitem(METHODS, name, lambda histogram: histogram.largest / 50)
    monkeypatch.setitem(METHODS, "mse", true)
    chosen, found = best_method(known)
    assert chosen == "mse"
    assert all(found["mse"] > found[name] + 0.05 for name in METHODS if name != "mse")


def test_layers_are_kept_out_until_labels_agree_enough(home, frames) -> None:
    rest = ["backbone.s8.*", "backbone.s16.*", "backbone.s32.*"]  # leaves three layers, so that it takes little time
    options = {"calib": frames, "method": "mse", "keep": rest, "threads": 1}
    plain = typed_onnx(home / "model.onnx", home / "plain.onnx", "int8", **options)
    wanted = plain.agreement + 0.2 * (1 - plain.agreement)
    report = typed_onnx(home / "model.onnx", home / "better.onnx", "int8", min_agreement=wanted, **options)
    assert report.agreement >= wanted
    assert len(plain.layers) == 3
    assert set(report.layers) < set(plain.layers)
    assert len(report.layers) + len(report.kept) == 24
    assert {name for name, kind in facts_from_file(home / "better.onnx")["layers"].items() if kind == "int8"} == set(
        report.layers
    )
    with pytest.raises(GateError, match=r"expected 100\.000%"):
        typed_onnx(
            home / "model.onnx",
            home / "never.onnx",
            "int8",
            calib=frames,
            method="minmax",
            keep=[*rest, "backbone.s4.*"],  # one layer, which cannot be kept out: nothing would be quantised
            min_agreement=1,
            threads=1,
        )
    assert not (home / "never.onnx").exists()


def test_sensitivity_names_the_layer_that_is_hurt(home, frames) -> None:
    """One layer's weights get an outlier in each channel, so that 8 bits leave nothing of the others."""
    model = onnx.load(home / "model.onnx")
    victim = "backbone.s8.block1.body.0.0"
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == f"{victim}.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[:, 0, 0, 0] = 300 * np.abs(values).max()
    weight.raw_data = values.tobytes()
    (home / "hurt.onnx").write_bytes(model.SerializeToString())
    keep = ["backbone.s16.*", "backbone.s32.*", "backbone.stem.1.0", "backbone.s4.*", "backbone.s8.block[02].*"]
    rows = sensitivity_of(home / "hurt.onnx", frames, method="minmax", keep=keep, threads=1)
    assert len(rows) == 2
    assert min(rows, key=lambda row: row.alone).layer == victim
    assert max(rows, key=lambda row: row.without).layer == victim


# ---------------------------------------------------------------------------------------------------------- refused


def test_int8_without_frames_is_refused_with_the_remedy(home) -> None:
    with pytest.raises(UsageError, match="--calib DIR"):
        typed_onnx(home / "model.onnx", home / "x.onnx", "int8")
    assert not (home / "x.onnx").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "expected fp16 or int8"),
        ({"method": "guess"}, "expected one of auto, learned, minmax"),
        ({"min_agreement": 1.5}, "expected a share"),
        ({"keep": ["nothing.*"]}, "no layer is called"),
        ({"keep": "nothing.*"}, r"no layer is called 'nothing\.\*'"),
        ({"threads": 1.0}, "1.0 threads; give a whole number"),
        ({"max_frames": 3}, "at least 8"),
        ({"out": "x.pb"}, r"does not end in \.onnx"),
        ({"out": "model.onnx"}, "--force"),
    ],
)
def test_arguments_that_make_no_sense(home, frames, options, message) -> None:
    given = {"precision": "int8", "calib": frames, "threads": 1, **options}
    out, precision = home / given.pop("out", "x.onnx"), given.pop("precision")
    with pytest.raises(UsageError, match=message):
        typed_onnx(home / "model.onnx", out, precision, **given)
    assert not (home / "x.onnx").exists()


def test_one_layer_to_keep_is_a_name_and_not_its_letters(home, frames) -> None:
    with pytest.raises(UsageError, match=r"no layer is called 'nothing\.\*'"):
        sensitivity_of(home / "model.onnx", frames, keep="nothing.*", threads=1)
    with pytest.raises(UsageError, match="'2' threads; give a whole number"):
        sensitivity_of(home / "model.onnx", frames, threads="2")


def test_files_that_are_not_fp32_are_refused(home, int8, frames) -> None:
    with pytest.raises(ModelError, match="is int8 already"):
        typed_onnx(home / "int8.onnx", home / "x.onnx", "fp16")
    (home / "text.onnx").write_text("no model")
    for name in ("text.onnx", "missing.onnx"):
        with pytest.raises(ModelError, match=name):
            typed_onnx(home / name, home / "x.onnx", "int8", calib=frames)


def test_unreadable_frames_are_listed_and_nothing_is_left(home, tmp_path, frames) -> None:
    for path in frames.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    broken = sorted(tmp_path.iterdir())[2:4]
    for path in broken:
        path.write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError) as failure:
        typed_onnx(home / "model.onnx", tmp_path / "out" / "x.onnx", "int8", calib=tmp_path)
    assert [path.name in text for path, text in zip(broken, failure.value.problems, strict=True)] == [True, True]
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_written_leaves_the_old_file(home, tmp_path, monkeypatch) -> None:
    out = tmp_path / "x.onnx"
    out.write_bytes(b"mine")

    def fail(*_: object, **__: object) -> None:
        raise onnx.checker.ValidationError("made up")

    monkeypatch.setattr(quantize.onnx.checker, "check_model", fail)
    with pytest.raises(onnx.checker.ValidationError):
        typed_onnx(home / "model.onnx", out, "fp16", force=True)
    assert out.read_bytes() == b"mine"
    monkeypatch.undo()
    with pytest.raises(UsageError, match="cannot be written"):
        typed_onnx(home / "model.onnx", out / "below.onnx", "fp16")


def test_paths_may_be_text(home, frames, tmp_path) -> None:
    report = typed_onnx(str(home / "model.onnx"), str(tmp_path / "fp16.onnx"), "fp16", calib=str(frames), threads=1)
    assert report.path == tmp_path / "fp16.onnx"
    files = [str(path) for path in sorted(frames.iterdir())]
    assert sensitivity_of(str(home / "model.onnx"), files, method="minmax", threads=1)
