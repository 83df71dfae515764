"""Names, and what makes a file one to be made again: each cause on its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from fcn_edge.errors import ModelError
from fcn_edge.export.engine_cache import (
    Recipe,
    base_name,
    engine_name,
    engine_state,
    stamp,
    typed_name,
    typed_state,
)
from fcn_edge.runtime.onnx_file import load_onnx, split_onnx
from fcn_edge.runtime.sidecar import Gpu, Library, Options, Plugin, Precision, Sidecar, sidecar_path, write_sidecar

ORIN, NVIDIA = Gpu(name="Orin", sm=87), Library(package="tensorrt", version="10.3.0")
PLUGIN = Plugin(version="1", sha256="p")


def test_names() -> None:
    typed = Path("out") / typed_name("camvid-s", "int8", (360, 480))
    assert typed.name == "camvid-s-int8-360x480.onnx"
    assert base_name(typed) == "camvid-s" == base_name(Path("camvid-s.onnx"))
    assert base_name(Path("a-int8-model.pt")) == "a-int8-model"
    assert engine_name(typed, NVIDIA, ORIN) == "camvid-s-int8-360x480-trt10.3.0-sm87.engine"
    rtx = Library(package="tensorrt_rtx", version="1.2.0")
    assert engine_name(typed, rtx, None) == "camvid-s-int8-360x480-trtrtx1.2.0-smany.engine"


def test_state_of_a_typed_file(trained: Path, tmp_path: Path) -> None:
    typed, recipe = tmp_path / "x.onnx", Recipe(source_sha256="a", precision="int8", keep=("b",))
    assert typed_state(typed, recipe) == "absent"
    typed.write_bytes((trained / "model.onnx").read_bytes())
    assert typed_state(typed, recipe) == "foreign"
    stamp(typed, recipe)
    stamp(typed, recipe)
    assert typed_state(typed, recipe) == "current"
    assert split_onnx(typed).contract == split_onnx(trained / "model.onnx").contract
    for other in (
        replace(recipe, source_sha256="b"),
        replace(recipe, precision="fp16"),
        replace(recipe, calibration_sha256="c"),
        replace(recipe, method="mse"),
        replace(recipe, keep=()),
        replace(recipe, min_agreement=0.9),
        replace(recipe, program="0"),
    ):
        assert typed_state(typed, other) == "its model or options changed"
    model = onnx.load(typed)
    model.graph.initializer[0].raw_data = b"\1" + model.graph.initializer[0].raw_data[1:]
    onnx.save(model, typed)
    assert typed_state(typed, recipe) == "it was changed since"
    typed.write_bytes(typed.read_bytes()[:1000])
    assert typed_state(typed, recipe) == "it is damaged"


@pytest.mark.parametrize("tampered", [lambda data: data + b"x", lambda data: data[:-10]])
def test_a_file_of_a_build_that_no_longer_parses_is_made_again(
    tampered: Callable[[bytes], bytes], trained: Path, tmp_path: Path
) -> None:
    typed, recipe = tmp_path / "x.onnx", Recipe(source_sha256="a", precision="fp32")
    typed.write_bytes((trained / "model.onnx").read_bytes())
    typed.write_bytes(tampered(typed.read_bytes()))
    assert typed_state(typed, recipe) == "it is damaged", "no build wrote it"
    typed.write_bytes((trained / "model.onnx").read_bytes())
    stamp(typed, recipe)
    typed.write_bytes(tampered(typed.read_bytes()))
    with pytest.raises(ModelError):
        load_onnx(typed)
    assert typed_state(typed, recipe) == "it was changed since"


def test_a_file_that_an_engine_beside_it_names_is_of_a_build(engine: Path) -> None:
    typed, recipe = engine.with_name("x.onnx"), Recipe(source_sha256="a", precision="fp32")
    typed.write_text("half of a copy")
    assert typed_state(typed, recipe) == "it was changed since"
    other = engine.with_name("y.onnx")
    other.write_text("notes on fcn_edge.build")
    assert typed_state(other, recipe) == "it is damaged"
    sidecar_path(engine).write_text("{")
    assert typed_state(typed, recipe) == "it is damaged"
    other.unlink()
    other.mkdir()
    assert typed_state(other, recipe) == "it is damaged"


@pytest.fixture
def engine(trained: Path, tmp_path: Path) -> Path:
    path = tmp_path / "x.engine"
    path.write_bytes(b"a plan")
    sidecar = Sidecar(
        contract=split_onnx(trained / "model.onnx").contract,
        precision=Precision(asked="fp16", found={"fp16": 1.0}, audited="engine"),
        plan_sha256=hashlib.sha256(b"a plan").hexdigest(),
        onnx="x.onnx",
        onnx_sha256="o",
        tensorrt=NVIDIA,
        cuda="12.6",
        gpu=ORIN,
        plugin=PLUGIN,
        options=Options(),
    )
    write_sidecar(path, sidecar)
    return path


def test_state_of_an_engine(engine: Path) -> None:
    now = {"onnx_sha256": "o", "library": NVIDIA, "gpu": ORIN, "plugin": PLUGIN, "options": Options()}
    sidecar, state = engine_state(engine, **now)
    assert state == "current"
    assert sidecar is not None
    for change, reason in (
        ({"onnx_sha256": "p"}, "its ONNX file changed"),
        ({"library": replace(NVIDIA, version="10.4.0")}, "TensorRT changed"),
        ({"gpu": Gpu(name="Thor", sm=110)}, "the GPU changed"),
        ({"gpu": None}, "the GPU changed"),
        ({"plugin": None}, "the plugin changed"),
        ({"plugin": replace(PLUGIN, sha256="q")}, "the plugin changed"),
        ({"options": Options(batch=(1, 1, 2))}, "options changed"),
        ({"options": Options(workspace_mib=64)}, "options changed"),
    ):
        assert engine_state(engine, **(now | change)) == (None, reason)
    engine.write_bytes(b"a plan, longer")
    assert engine_state(engine, **now) == (None, "it was changed since")
    sidecar_path(engine).write_text("{")
    assert engine_state(engine, **now) == (None, "its sidecar is missing or damaged")
    sidecar_path(engine).unlink()
    assert engine_state(engine, **now) == (None, "foreign"), "no build leaves an engine without its sidecar"
    engine.unlink()
    assert engine_state(engine, **now) == (None, "absent")


def test_another_limit_of_frames_makes_a_typed_file_anew(trained: Path, tmp_path: Path) -> None:
    typed, recipe = tmp_path / "x.onnx", Recipe(source_sha256="a", precision="int8")
    typed.write_bytes((trained / "model.onnx").read_bytes())
    stamp(typed, recipe)
    assert typed_state(typed, replace(recipe, max_frames=8)) == "its model or options changed"
