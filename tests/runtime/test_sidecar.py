"""Sidecars: what is written comes back, and every mismatch is a sentence with the command that builds it here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from fcn_edge.contract import Contract
from fcn_edge.errors import ModelError
from fcn_edge.runtime.sidecar import (
    Calibration,
    Gate,
    Gpu,
    Library,
    Options,
    Plugin,
    Precision,
    Sidecar,
    check_machine,
    read_plan,
    read_sidecar,
    sha256_of,
    sidecar_path,
    write_sidecar,
)

ORIN = Gpu(name="Orin", sm=87)
JETPACK = Library(package="tensorrt", version="10.3.0")
SIDECAR = Sidecar(
    contract=Contract("x", (4, 6), ("a", "b"), ((0, 0, 0), (1, 1, 1)), (0, 0, 0), (1, 1, 1), (16, 8)),
    precision=Precision(asked="int8", found={"int8": 0.75, "fp16": 0.25}, audited="engine"),
    plan_sha256=hashlib.sha256(b"a plan").hexdigest(),
    onnx="x-int8-4x6.onnx",
    onnx_sha256="o",
    tensorrt=JETPACK,
    cuda="12.6",
    gpu=ORIN,
    plugin=Plugin(version="1", sha256="p"),
    options=Options(workspace_mib=64, batch=(1, 2, 4)),
    calibration=Calibration(sha256="c", frames=64, method="mse"),
    gate=Gate(ran="tensorrt", frames=2, frames_sha256="f", agreement=0.99, agreement_inside=None, max_miou_drop=0.01),
)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "x.engine"
    path.write_bytes(b"a plan")
    write_sidecar(path, SIDECAR)
    return path


def test_what_is_written_comes_back(engine: Path) -> None:
    assert read_sidecar(engine) == SIDECAR
    assert read_plan(engine, SIDECAR) == b"a plan"
    assert sidecar_path(engine).name == "x.engine.json"
    assert str(engine.parent) not in sidecar_path(engine).read_text()


@pytest.mark.parametrize("content", [b"", b"a", b"a plaN", b"a plan "])
def test_another_plan_is_refused(engine: Path, content: bytes) -> None:
    engine.write_bytes(content)
    with pytest.raises(ModelError, match=rf"{len(content)} bytes.* cut off or was changed.* --precision int8$"):
        read_plan(engine, SIDECAR)
    engine.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        read_plan(engine, SIDECAR)


def test_a_sidecar_that_says_nothing_is_refused(engine: Path) -> None:
    path, fields = sidecar_path(engine), json.loads(sidecar_path(engine).read_text())
    for text in ("", "{}", "[]", json.dumps(fields | {"contract": {}}), json.dumps(fields | {"onnx": 3})):
        path.write_text(text)
        with pytest.raises(ModelError, match="cannot be read"):
            read_sidecar(engine)
    path.write_text(json.dumps(fields | {"version": 2}))
    with pytest.raises(ModelError, match="of version 2, this release reads 1"):
        read_sidecar(engine)
    path.unlink()
    with pytest.raises(ModelError, match=r"has no x\.engine\.json beside it"):
        read_sidecar(engine)


def test_the_hash_of_a_file_that_cannot_be_read_says_what_the_file_is(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    with pytest.raises(ModelError, match=r"model file .*x\.onnx cannot be read: No such file or directory$"):
        sha256_of(path)
    with pytest.raises(ModelError, match=r"^plugin library .* cannot be read: .*; build it$"):
        sha256_of(path, "plugin library", "build it")
    path.write_bytes(b"a model")
    assert sha256_of(path) == hashlib.sha256(b"a model").hexdigest()


def test_another_machine_is_refused_with_the_command_that_builds_it_there(engine: Path) -> None:
    check_machine(engine, SIDECAR, JETPACK, ORIN)
    check_machine(engine, SIDECAR, JETPACK, None)
    check_machine(engine, replace(SIDECAR, gpu=None), JETPACK, ORIN)
    check_machine(engine, SIDECAR, JETPACK, Gpu(name="another Orin", sm=87))
    command = f"fcn-edge build {engine.parent}/x-int8-4x6.onnx -o {engine.parent} --precision int8"
    for library in (replace(JETPACK, version="10.4.0"), replace(JETPACK, package="tensorrt_rtx")):
        with pytest.raises(ModelError, match=rf"built with tensorrt 10\.3\.0, this machine has {library}") as failure:
            check_machine(engine, SIDECAR, library, ORIN)
        assert str(failure.value).endswith(command)
    with pytest.raises(ModelError, match=r"built for Orin \(sm_87\), this machine has Thor \(sm_110\)") as failure:
        check_machine(engine, replace(SIDECAR, plugin=None), JETPACK, Gpu(name="Thor", sm=110))
    assert str(failure.value).endswith(f"{command} --no-plugin")
