"""A build where no TensorRT is: typed ONNX files only, and what is refused before anything takes time."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("openvino")
pytest.importorskip("onnx")

import onnx
from onnx import TensorProto

from fcn_edge import street
from fcn_edge.build_command import DEFAULT_AGREEMENT, add_build_arguments, request_from_arguments
from fcn_edge.cli import main
from fcn_edge.errors import GateError, MissingError, ModelError, UsageError
from fcn_edge.export import build as build_module
from fcn_edge.export.build import build, sensitivity
from fcn_edge.export.build_request import BuildRequest
from fcn_edge.export.facts import facts_from_file
from fcn_edge.export.gate import GateRequest
from fcn_edge.export.model_source import Quantisation, calibration_in
from fcn_edge.export.quantize import CALIBRATION_KEY, SCALES_KEY
from fcn_edge.export.to_onnx import write_onnx
from fcn_edge.pixels import write_png
from fcn_edge.runtime import tensorrt_library
from fcn_edge.runtime.engine import open_engine
from fcn_edge.runtime.onnx_file import load_onnx, split_onnx
from fcn_edge.shipped import shipped_models


@pytest.fixture(autouse=True)
def without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    hidden = tensorrt_library.PACKAGES
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in hidden else found(name, *rest))


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(trained / "model.onnx", tmp_path / "street.onnx"))


def test_typed_files_and_a_sentence(model: Path, trained: Path, tmp_path: Path, capsys: Any) -> None:
    out, notes = tmp_path / "out", []
    request = BuildRequest(precisions=("fp32", "fp16"), gate=GateRequest(data=trained / "data", max_miou_drop=0.5))
    results = build([model], out, request, on_note=notes.append)
    assert [Path(result.onnx).name for result in results] == ["street-fp32-64x96.onnx", "street-fp16-64x96.onnx"]
    assert sorted(path.name for path in out.iterdir()) == sorted(Path(result.onnx).name for result in results)
    assert [split_onnx(Path(result.onnx)).precision for result in results] == ["fp32", "fp16"]
    assert all(result.engine is None and result.found is None for result in results)
    assert results[0].gate is not None
    assert results[0].gate.agreement == 1.0
    assert results[1].gate is not None
    assert 0.9 < results[1].gate.agreement <= 1.0
    assert any("TensorRT is not installed here, so only typed ONNX files are written" in note for note in notes)
    assert any("CPU engine" in note for note in notes)
    held = [note for note in notes if "holds its gate on 2 frames: mIoU of the typed ONNX on the CPU is 0." in note]
    assert [note.split()[0] for note in held] == [Path(result.onnx).name for result in results]
    assert all("are those of FP32 (" in note and "away from borders)" in note for note in held)
    assert [result.made for result in build([model], out, request)] == [(), ()]
    assert main(["build", str(model), "-o", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}/street-fp32-64x96.onnx\n"
    assert "TensorRT is not installed" in printed.err


def test_paths_may_be_text_and_a_single_model_needs_no_list(model: Path, trained: Path, tmp_path: Path) -> None:
    images = tuple(str(path) for path in sorted((trained / "data" / "images" / "train").iterdir()))
    for gate in (GateRequest(data=str(trained / "data"), max_miou_drop=1.0), GateRequest(frames=images)):
        (result,) = build(str(model), str(tmp_path / "out"), BuildRequest(precisions=("fp16",), gate=gate))
        assert Path(result.onnx) == tmp_path / "out" / "street-fp16-64x96.onnx"
        assert result.gate is not None
        assert result.gate.agreement > 0.9
    frames = images * 2  # calibration wants eight
    request = BuildRequest(precisions=("int8",), quantisation=Quantisation(frames=frames, method="minmax"))
    (result,) = build(model, tmp_path / "out", request)
    calibration = calibration_in(Path(result.onnx))
    assert calibration is not None
    assert calibration.method == "minmax"


def test_a_typed_file_stays_what_it_is(model: Path, tmp_path: Path) -> None:
    """The command that a refusal of an engine gives: build from the typed file beside it, into its own folder."""
    out = tmp_path / "out"
    (first,) = build([model], out, BuildRequest(precisions=("fp16",)))
    before = Path(first.onnx).read_bytes()
    (again,) = build([first.onnx], out, BuildRequest(precisions=("fp16",)))
    assert (again.onnx, again.made) == (first.onnx, ())
    assert Path(first.onnx).read_bytes() == before
    (elsewhere,) = build([first.onnx], tmp_path / "other", BuildRequest())
    assert elsewhere.precision == "fp16"
    assert Path(elsewhere.onnx).name == Path(first.onnx).name


def test_a_failing_precision_goes_and_the_source_stays(model: Path, trained: Path, tmp_path: Path) -> None:
    gate = GateRequest(data=trained / "data", max_miou_drop=-1)
    with pytest.raises(GateError, match=r"(?s)street-fp32.*street-fp16") as failure:
        build([model], tmp_path / "out", BuildRequest(precisions=("fp32", "fp16"), gate=gate))
    assert failure.value.exit_code == 6
    assert list((tmp_path / "out").iterdir()) == []
    typed = Path(shutil.copy(model, tmp_path / "street-fp32-64x96.onnx"))
    with pytest.raises(GateError):
        build([typed], tmp_path, BuildRequest(gate=gate))
    assert typed.exists()


@pytest.mark.parametrize(
    ("module", "remedy"),
    [("openvino", "the gate .* needs OpenVINO.*pip install openvino$"), ("pycuda.driver", "pip install pycuda")],
)
def test_what_the_gate_runs_on_is_asked_for_before_an_engine_takes_minutes(
    module: str, remedy: str, model: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(build_module, "_open_builder", lambda *given: SimpleNamespace(can_run=True))
    request = BuildRequest(gate=GateRequest(data=trained / "data", max_miou_drop=0.5))
    with pytest.raises(MissingError, match=remedy):
        build([model], tmp_path / "out", request)
    assert not (tmp_path / "out").exists()


def test_where_the_gate_runs_is_told_truly_with_a_gpu_and_without(model: Path, trained: Path, tmp_path: Path) -> None:
    """Without TensorRT a GPU may well be here."""
    notes: list[str] = []
    request = BuildRequest(gate=GateRequest(data=trained / "data", max_miou_drop=0.5))
    build([model], tmp_path / "out", request, on_note=notes.append)
    assert not any("no GPU" in note for note in notes)
    assert any("to run engines takes TensorRT and a GPU, both here" in note for note in notes)


def test_too_few_frames_to_calibrate_with_are_told_before_anything_is_built(
    model: Path, tmp_path: Path, capsys: Any
) -> None:
    for index in range(4):
        write_png(tmp_path / "few" / f"{index}.png", np.zeros((64, 96, 3), np.uint8))
    arguments = ["build", str(model), "-o", str(tmp_path / "out"), "--precision", "fp32,int8"]
    assert main([*arguments, "--calib", str(tmp_path / "few")]) == 2
    assert f"there are 4 images to calibrate with, such as {tmp_path / 'few' / '0.png'};" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
    assert main([*arguments, "--calib", str(tmp_path / "few"), "--max-frames", "4"]) == 2
    assert "max_frames is 4; expected at least 8" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_nothing_of_others_is_replaced(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "street-fp32-64x96.onnx"
    target.parent.mkdir()
    shutil.copy(model, target)
    with pytest.raises(UsageError, match="no build wrote it"):
        build([model], target.parent, BuildRequest())
    assert target.read_bytes() == model.read_bytes()
    assert build([model], target.parent, BuildRequest(force=True))[0].made == ("onnx",)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        build([model], tmp_path / "file" / "out", BuildRequest())


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (BuildRequest(precisions=("fp8",)), "fp8"),
        (BuildRequest(precisions=("int8",)), "--calib"),
        (BuildRequest(size_hw=(32, 32)), "--size"),
    ],
)
def test_contradictions(model: Path, tmp_path: Path, request_: BuildRequest, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build([model], tmp_path / "out", request_)
    assert list(tmp_path.glob("out/*")) == []


def test_one_name_is_a_name_and_not_its_letters(model: Path, tmp_path: Path) -> None:
    (made,) = build(model, tmp_path / "out", BuildRequest(precisions="fp16"))
    assert made.precision == "fp16"
    assert Quantisation(keep="backbone.s32.*").keep == ("backbone.s32.*",)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (BuildRequest(precisions="fp8"), "precision 'fp8' is unknown"),
        (BuildRequest(threads=1.5), "1.5 threads; give a whole number"),
    ],
)
def test_what_means_nothing_for_any_model_leaves_no_folder(
    model: Path, tmp_path: Path, request_: BuildRequest, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        build([model], tmp_path / "out", request_)
    assert not (tmp_path / "out").exists()


def test_an_int8_file_is_a_source_for_others(tmp_path: Path) -> None:
    """A model that ships is INT8: it becomes FP16 or FP32, or INT8 with layers kept out, without its checkpoint."""
    kept = Quantisation(keep=("backbone.steps.s16.*",))
    request = BuildRequest(precisions=("fp32", "fp16", "int8"), quantisation=kept)
    results = build(["camvid-n"], tmp_path, request)
    loaded = [load_onnx(Path(result.onnx)) for result in results]
    assert [split_onnx(Path(result.onnx)).precision for result in results] == ["fp32", "fp16", "int8"]
    shipped = split_onnx(shipped_models()["camvid-n"]).contract
    assert [split_onnx(Path(result.onnx)).contract for result in results] == [shipped] * 3
    integers = [
        {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8} for model in loaded
    ]
    assert integers[:2] == [set(), set()]
    whole = {
        tensor.name
        for tensor in load_onnx(shipped_models()["camvid-n"]).graph.initializer
        if tensor.data_type == TensorProto.INT8
    }
    assert whole - integers[2] == {name for name in whole if name.startswith("backbone.steps.s16.")}
    frame = np.random.default_rng(0).integers(0, 256, (*shipped.size_hw, 3), np.uint8)
    labels = []
    for model in ("camvid-n", *(result.onnx for result in results)):
        with open_engine(model) as engine:
            labels.append(engine.infer(frame))
    assert all((labels[0] == other).mean() > 0.9 for other in labels[1:])
    assert [result.made for result in build(["camvid-n"], tmp_path, request)] == [(), (), ()]


def test_what_an_int8_file_cannot_become(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (as_it_is,) = build(["camvid-n"], out, BuildRequest())
    assert Path(as_it_is.onnx).read_bytes()[:1000] == shipped_models()["camvid-n"].read_bytes()[:1000]
    with pytest.raises(UsageError, match=r"camvid-n-int8-360x480\.onnx would be made of itself; choose another folder"):
        build([as_it_is.onnx], out, BuildRequest(quantisation=Quantisation(keep=("backbone.steps.s16.*",))))
    with pytest.raises(UsageError, match="no layer is called 'neck'"):
        build(["camvid-n"], out, BuildRequest(quantisation=Quantisation(keep=("neck",))))
    measured = BuildRequest(quantisation=Quantisation(keep=("backbone.steps.s16.*",), method="minmax"))
    with pytest.raises(UsageError, match="--calib"):
        build(["camvid-n"], tmp_path / "measured", measured)


def test_measured_ranges_of_an_int8_file_stay(model: Path, trained: Path, tmp_path: Path) -> None:
    frames = tuple(sorted((trained / "data" / "images" / "train").iterdir())) * 2
    how = Quantisation(frames=frames, method="minmax")
    (first,) = build([model], tmp_path / "a", BuildRequest(precisions=("int8",), quantisation=how))
    keep = BuildRequest(quantisation=Quantisation(keep=("backbone.s32.*",)))
    (second,) = build([first.onnx], tmp_path / "b", keep)
    one, other = (load_onnx(Path(result.onnx)) for result in (first, second))
    scales = [
        {tensor.name: tensor for tensor in model.graph.initializer if tensor.name.endswith("relu_3.scale")}
        for model in (one, other)
    ]
    assert scales[0] == scales[1] != {}
    said = [calibration_in(Path(result.onnx)) for result in (first, second)]
    assert said[0] == said[1]
    assert said[0].method == "minmax"
    onnx.helper.set_model_props(one, {entry.key: entry.value for entry in one.metadata_props} | {CALIBRATION_KEY: "{"})
    (tmp_path / "cut.onnx").write_bytes(one.SerializeToString())
    with pytest.raises(ModelError, match="says of its calibration is unreadable"):
        build([tmp_path / "cut.onnx"], tmp_path / "c", keep)


def test_two_models_of_one_name_need_two_folders(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "street.onnx"
    other.parent.mkdir()
    shutil.copy(model, other)
    with pytest.raises(UsageError, match="same name"):
        build([model, other], tmp_path / "out", BuildRequest())


def test_sensitivity_has_a_row_for_each_layer_that_is_not_kept(model: Path, trained: Path, capsys: Any) -> None:
    frames = tuple(sorted((trained / "data" / "images" / "train").iterdir())) * 2
    how = Quantisation(frames=frames, method="minmax", keep=("backbone.s[0-9]*",))
    ((name, rows),) = sensitivity([model], BuildRequest(quantisation=how))
    assert name == str(model)
    assert [row.layer for row in rows] == ["backbone.stem.1.0"]
    assert 0.5 < rows[0].alone <= 1
    with pytest.raises(UsageError, match="--calib"):
        sensitivity([model], BuildRequest())


@pytest.mark.parametrize(
    "line",
    [
        "--gate d --gate-frames e",
        "--max-miou-drop 0.1",
        "--min-agreement 0.9",
        "--plugin a.so --no-plugin",
        "--gate-frames {tmp}/*.nothing",
        "--calib {tmp}/nowhere",
        "--dynamic-batch 4,2,1",
        "--dynamic-batch 2,2,4",
        "--opt-level 6",
        "--workspace 0",
        "--sensitivity",
        "--gate-frames=",
        "--calib=",
        "--gate=",
        "--calib {tmp}/**.png",
        "--gate-frames {tmp} --min-agreement 99.5",
        "--gate-frames {tmp} --min-agreement nan",
        "--gate {tmp} --max-miou-drop nan",
        "--method nonsense",
    ],
)
def test_arguments_that_contradict_are_usage_errors(line: str, model: Path, tmp_path: Path, capsys: Any) -> None:
    argv = ["build", str(model), "-o", str(tmp_path / "out"), *line.format(tmp=tmp_path).split()]
    try:
        code = main(argv)
    except SystemExit as exc:
        code = int(exc.code or 0)
    assert code == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_which_agreement_is_asked_for_without_a_word_is_told(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_build_arguments(parser)
    told = " ".join(parser.format_help().split())
    assert f"({DEFAULT_AGREEMENT} with --gate-frames and --keep auto; with --gate none unless given)" in told
    write_png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    found = []
    for more in ("--gate d", f"--gate-frames {tmp_path}", "--gate d --keep auto"):
        request = request_from_arguments(parser.parse_args(["m.onnx", "-o", "out", *more.split()]))
        found.append((request.gate.min_agreement, request.quantisation.min_agreement))
    assert found == [(None, None), (DEFAULT_AGREEMENT, None), (None, DEFAULT_AGREEMENT)]


def test_a_build_that_writes_needs_a_place(model: Path, capsys: Any) -> None:
    assert main(["build", str(model)]) == 2
    assert "-o DIR" in capsys.readouterr().err


def test_a_source_in_two_precisions_may_not_write_the_same_file_twice(model: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    other = tmp_path / "sub" / model.name
    build([model], tmp_path / "half", BuildRequest(precisions=("fp16",)))
    shutil.copy(tmp_path / "half" / "street-fp16-64x96.onnx", other)
    with pytest.raises(UsageError, match="same name"):
        build([model, other], tmp_path / "out", BuildRequest(precisions=("fp16",)))


def test_a_failed_gate_is_told_also_where_another_error_ends_the_build(
    model: Path, trained: Path, tmp_path: Path
) -> None:
    out, notes = tmp_path / "out", []
    out.mkdir()
    shutil.copy(model, out / "street-fp32-64x96.onnx")
    gate = GateRequest(data=trained / "data", max_miou_drop=-1)
    with pytest.raises(UsageError, match="no build wrote it"):
        build([model], out, BuildRequest(precisions=("fp16", "fp32"), gate=gate), on_note=notes.append)
    assert any("street-fp16-64x96.onnx fails its gate and is not kept" in note for note in notes)


def test_notes_in_the_place_of_a_model_are_not_replaced(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "street-fp32-64x96.onnx"
    target.parent.mkdir()
    target.write_text("my notes")
    with pytest.raises(UsageError, match="no build wrote it, or it is damaged"):
        build([model], target.parent, BuildRequest())
    assert target.read_text() == "my notes"


def test_a_file_that_was_tampered_with_is_made_again(model: Path, tmp_path: Path) -> None:
    (first,) = build([model], tmp_path / "out", BuildRequest())
    whole = Path(first.onnx).read_bytes()
    for tampered in (whole + b"x", whole[:-10]):
        notes: list[str] = []
        Path(first.onnx).write_bytes(tampered)
        assert build([model], tmp_path / "out", BuildRequest(), on_note=notes.append)[0].made == ("onnx",)
        assert Path(first.onnx).read_bytes() == whole
        assert f"{Path(first.onnx).name} is made again: it was changed since" in notes


def test_a_method_measures_an_int8_file_anew(trained: Path, tmp_path: Path) -> None:
    frames = tuple(sorted((trained / "data" / "images" / "train").iterdir())) * 2
    (learned,) = build(["camvid-n"], tmp_path / "as_it_is", BuildRequest())
    how = Quantisation(frames=frames, method="minmax")
    (measured,) = build(["camvid-n"], tmp_path / "anew", BuildRequest(quantisation=how))
    methods = [calibration_in(Path(result.onnx)).method for result in (learned, measured)]
    assert methods == ["learned", "minmax"]


def test_layers_are_kept_out_of_a_file_with_learned_steps(trained: Path, tmp_path: Path) -> None:
    frames = tuple(sorted((trained / "data" / "images" / "train").iterdir())) * 2
    asked = Quantisation(frames=frames, keep=("backbone.bottom_up.*", "backbone.coarsest.0"))
    (before,) = build(["camvid-n"], tmp_path / "before", BuildRequest(quantisation=asked))
    report = json.loads(metadata_of(before.onnx)[CALIBRATION_KEY])
    wanted = min(1.0, report["agreement"] + 1e-6)
    more = replace(asked, min_agreement=wanted)
    (after,) = build(["camvid-n"], tmp_path / "after", BuildRequest(quantisation=more))
    again = json.loads(metadata_of(after.onnx)[CALIBRATION_KEY])
    assert again["agreement"] >= wanted
    assert set(report["kept"]) < set(again["kept"])


def test_what_is_not_int8_says_nothing_of_a_calibration(tmp_path: Path) -> None:
    (result,) = build(["camvid-n"], tmp_path, BuildRequest(precisions=("fp16",)))
    assert not {CALIBRATION_KEY, SCALES_KEY} & set(metadata_of(result.onnx))


def metadata_of(path: str) -> dict[str, str]:
    return {entry.key: entry.value for entry in load_onnx(Path(path)).metadata_props}


def test_a_model_of_which_a_byte_was_changed_is_one_sentence(model: Path, tmp_path: Path) -> None:
    data = model.read_bytes()
    assert data.count(b"Relu") > 1
    model.write_bytes(data.replace(b"Relu", b"R#lu", 1))
    half = BuildRequest(precisions=("fp16",))
    for call in (lambda: build([model], tmp_path / "out", half), lambda: facts_from_file(model)):
        with pytest.raises(ModelError, match=r"is damaged: .*R#lu"):
            call()


def test_a_name_that_is_no_text_is_refused(model: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.onnx"))
    shutil.copy(model, odd)
    with pytest.raises(UsageError, match="no name in UTF-8"):
        build([odd], tmp_path / "out", BuildRequest())


def test_sensitivity_as_json(model: Path, tmp_path: Path, capsys: Any) -> None:
    calib, keep = tmp_path / "frames", "backbone.s[0-9]*"
    street.write_dataset(calib, train=8, val=0, size_hw=(64, 96))
    line = ["build", str(model), "--sensitivity", "--calib", str(calib), "--method", "minmax"]
    assert main([*line, "--keep", keep, "--json"]) == 0
    ((one,),) = json.loads(capsys.readouterr().out).values()
    assert one["model"] == str(model)
    assert [row["layer"] for row in one["layers"]] == ["backbone.stem.1.0"]


def test_layers_are_kept_out_until_the_gate_holds(
    lively_model: Any, contract_of: Any, trained: Path, tmp_path: Path
) -> None:
    """Labels agree well enough on the held-out frames; the gate asks for more, on frames of its own."""
    lively = lively_model("fcn8s-edge-n", 11)
    model = write_onnx(lively, contract_of(lively, (64, 96)), tmp_path / "street.onnx")
    frames = tuple(sorted((trained / "data" / "images" / "train").iterdir())) * 2
    rest = ("backbone.s8.*", "backbone.s16.*", "backbone.s32.*")  # leaves three layers, so that it takes little time
    plain = Quantisation(frames=frames, method="minmax", keep=rest)
    images = tuple(sorted((trained / "data" / "images" / "val").iterdir()))

    def asked(least: float, how: Quantisation) -> BuildRequest:
        gate = GateRequest(frames=images, min_agreement=least)
        return BuildRequest(precisions=("int8",), quantisation=how, gate=gate)

    (before,) = build([model], tmp_path / "plain", asked(0.01, plain))
    assert before.gate is not None
    wanted = before.gate.agreement + 0.1 * (1 - before.gate.agreement)
    with pytest.raises(GateError, match="--keep auto"):
        build([model], tmp_path / "plain", asked(wanted, plain))
    auto = replace(plain, min_agreement=0.01)
    out = tmp_path / "auto"
    (held,) = build([model], out, asked(0.01, auto))
    (after,) = build([model], out, asked(wanted, auto))
    assert (held.made, after.made) == (("onnx",), ("onnx",))
    assert held.gate is not None
    assert after.gate is not None
    assert held.gate.agreement == before.gate.agreement < wanted <= after.gate.agreement
    kept = set(json.loads(metadata_of(after.onnx)[CALIBRATION_KEY])["kept"])
    types = facts_from_file(after.onnx)["layers"]
    integers = {name for name, kind in types.items() if kind == "int8"}
    assert 0 < len(integers) < 3
    assert not integers & kept
    assert build([model], out, asked(wanted, auto))[0] == replace(after, made=())
    with pytest.raises(GateError, match=r"however many layers are kept out, at last: .*are those of FP32"):
        build([model], out, asked(1.01, auto))
    assert list(out.iterdir()) == []
