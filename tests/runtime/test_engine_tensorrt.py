"""What is refused before a GPU is needed: real plans by TensorRT's own builder, opened with TensorRT's own runtime."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from fcn_edge.errors import MissingError, ModelError
from fcn_edge.runtime.engine import open_engine
from fcn_edge.runtime.sidecar import (
    Gpu,
    Library,
    Plugin,
    Sidecar,
    check_machine,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)
from fcn_edge.runtime.tensorrt_library import find_plugin, has_tensorrt

RIG = Path(__file__).parents[1] / "rig"


class Outcome(NamedTuple):
    """What came of opening an engine; ``kind`` is the exception's name, empty if it opened."""

    kind: str
    exit_code: int
    text: str


def run_rig(site: Path, script: str, *arguments: object) -> str:
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, str(RIG / script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("FCN_EDGE_PLUGIN", None)
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.fixture(scope="module")
def open_all(tensorrt_site: Path) -> Callable[..., list[Outcome]]:
    """Open engines in a process that has TensorRT."""

    def run(*arguments: object) -> list[Outcome]:
        return [Outcome(*answer) for answer in json.loads(run_rig(tensorrt_site, "open_engines.py", *arguments))]

    return run


@pytest.fixture(scope="module")
def built(tensorrt_site: Path, lively_model, contract_of, tmp_path_factory) -> Path:
    """An engine that TensorRT built, with its sidecar."""
    from fcn_edge.export.to_onnx import onnx_from_model

    home = tmp_path_factory.mktemp("built")
    model = lively_model("fcn8s-edge-n", 3)
    (home / "m.onnx").write_bytes(onnx_from_model(model, contract_of(model, (64, 96))).SerializeToString())
    run_rig(tensorrt_site, "write_engine.py", home / "m.onnx", home / "m.engine")
    return home / "m.engine"


@pytest.fixture
def copy_of(built: Path, tmp_path: Path) -> Callable[..., Path]:
    """The engine under another name, its plan and sidecar changed; the sidecar describes the changed plan if asked."""

    def copy(name: str, plan: Callable[[bytes], bytes] = bytes, describes_it: bool = False, **changes: object) -> Path:
        path = tmp_path / f"{name}.engine"
        path.write_bytes(plan(built.read_bytes()))
        if describes_it:
            changes["plan_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        write_sidecar(path, dataclasses.replace(read_sidecar(built), **changes))
        return path

    return copy


def flip(plan: bytes) -> bytes:
    middle = len(plan) // 2
    return plan[:middle] + bytes([plan[middle] ^ 1]) + plan[middle + 1 :]


def half(plan: bytes) -> bytes:
    return plan[: len(plan) // 2]


def test_files_that_are_not_what_was_built(copy_of, open_all, tmp_path: Path) -> None:
    alone = copy_of("alone")
    sidecar_path(alone).unlink()
    spoilt = copy_of("spoilt")
    sidecar_path(spoilt).write_text("{}")
    other = Library(package="tensorrt", version="10.3.0")
    rtx = Library(package="tensorrt_rtx", version="1.2.0")
    expected = {
        alone: ["alone.engine.json", "fcn-edge build"],
        spoilt: ["spoilt.engine.json cannot be read"],
        copy_of("flipped", flip): ["was changed", "fcn-edge build", "m.onnx"],
        copy_of("cut", half): ["cut off", "fcn-edge build"],
        copy_of("empty", lambda plan: b""): ["0 bytes", "cut off"],
        copy_of("other", tensorrt=other): [
            "built with tensorrt 10.3.0",
            "this machine has tensorrt 11",
            "fcn-edge build",
        ],
        copy_of("rtx", tensorrt=rtx): ["built with tensorrt_rtx 1.2.0", "this machine has tensorrt 11"],
        tmp_path / "missing.engine": ["does not exist", "fcn-edge build"],
    }
    for (path, said), outcome in zip(expected.items(), open_all(*expected), strict=True):
        assert outcome[:2] == ("ModelError", 4), (path, outcome)
        assert all(words in outcome.text for words in [path.name, *said]), outcome.text
        assert "\n" not in outcome.text


def test_plans_that_tensorrt_refuses_come_with_its_own_words(copy_of, open_all) -> None:
    """The sidecar describes the very bytes, so only TensorRT can tell."""
    paths = [
        copy_of("cut", half, describes_it=True),
        copy_of("foreign", lambda plan: b"nonsense" * 100, describes_it=True),
        copy_of("short", lambda plan: b"x", describes_it=True),
    ]
    words = ["plan.header.size == blobSize", "kEXPECTED_MAGIC_TAG", "bufferSize >= minBufferSize"]
    for path, said, outcome in zip(paths, words, open_all(*(f"load:{path}" for path in paths)), strict=True):
        assert outcome[:2] == ("ModelError", 4), outcome
        assert said in outcome.text
        assert f"cannot load {path}" in outcome.text
        assert "fcn-edge build" in outcome.text
        assert "\n" not in outcome.text


def test_plugin_that_is_missing_or_none(copy_of, open_all, tmp_path: Path) -> None:
    path = copy_of("fused", plugin=Plugin(version="1", sha256="0" * 64))
    text = tmp_path / "text.so"
    text.write_text("not a library")
    source = tmp_path / "empty.cpp"
    source.write_text("int nothing() { return 0; }\n")
    empty = tmp_path / "empty.so"
    subprocess.run(["g++", "-shared", "-fPIC", str(source), "-o", str(empty)], check=True)
    needy = tmp_path / "needy.so"
    needed = shutil.copy(empty, tmp_path / "needed.so")
    link = ["-Wl,--no-as-needed", str(needed), "-o", str(needy)]
    subprocess.run(["g++", "-shared", "-fPIC", str(source), *link], check=True)
    needed.unlink()
    reasons = {
        tmp_path / "gone.so": "does not exist",
        text: "cannot be used: file too short",
        empty: "cannot be used: it holds no SkipHead of version 1",
        needy: f"cannot be used: {needed}: cannot open shared object file",
    }
    settings = [f"FCN_EDGE_PLUGIN={library}" for library in reasons]
    outcomes = open_all(*(argument for setting in settings for argument in (setting, path)))
    for (library, reason), outcome in zip(reasons.items(), outcomes, strict=True):
        assert outcome[:2] == ("MissingError", 3), outcome
        assert str(library) in outcome.text
        assert reason in outcome.text
        assert "--no-plugin" in outcome.text


def test_plugin_of_another_version(copy_of, open_all) -> None:
    try:
        library = find_plugin()
    except MissingError as exc:
        pytest.skip(str(exc))
    path = copy_of("old", plugin=Plugin(version="7", sha256="0" * 64))
    (outcome,) = open_all(f"FCN_EDGE_PLUGIN={library}", path)
    assert outcome[:2] == ("ModelError", 4), outcome
    assert "built with version 7" in outcome.text
    assert "fcn-edge build" in outcome.text


def test_engine_without_fault_asks_for_the_gpu(built: Path, open_all) -> None:
    """It gets past everything else; what stops it is that the GPU is hidden, or that there is none."""
    (outcome,) = open_all(built)
    assert outcome[:2] == ("MissingError", 3), outcome
    assert "needs an NVIDIA GPU" in outcome.text


def test_without_tensorrt_the_file_is_still_checked(copy_of) -> None:
    if has_tensorrt():
        pytest.skip("TensorRT is installed here")
    with pytest.raises(MissingError, match="TensorRT is not installed"):
        open_engine(copy_of("whole"))
    with pytest.raises(ModelError, match="was changed"):
        open_engine(copy_of("flipped", flip))


def test_engine_of_another_gpu_is_refused(built: Path) -> None:
    described: Sidecar = dataclasses.replace(read_sidecar(built), gpu=Gpu(name="Orin", sm=87))
    with pytest.raises(ModelError, match=r"built for Orin \(sm_87\), this machine has H200 \(sm_90\)") as caught:
        check_machine(built, described, described.tensorrt, Gpu(name="H200", sm=90))
    assert "fcn-edge build" in str(caught.value)
    check_machine(built, described, described.tensorrt, Gpu(name="another Orin", sm=87))
