"""CMake says what is missing for the plugin, starts no CUDA compiler without need, and builds the rest."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CPP = Path(__file__).parents[2] / "cpp_plugins"


@pytest.fixture(scope="module")
def cmake() -> str:
    found = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip("cmake is not here; pip install cmake")
    return found


@pytest.fixture
def configure(cmake: str, tmp_path: Path):
    def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [cmake, "-S", str(CPP), "-B", str(tmp_path / "build"), "-DFCN_EDGE_PYTHON=OFF", *options]
        inherited = {name: value for name, value in os.environ.items() if name != "TENSORRT_ROOT"}
        return subprocess.run(command, capture_output=True, text=True, env=inherited | environment)

    return run


def headers(folder: Path, major: int, minor: int) -> Path:
    """What CMake reads of TensorRT's headers, in the words of 10.3's."""
    (folder / "include").mkdir(parents=True)
    (folder / "include" / "NvInferRuntime.h").touch()
    lines = [
        f"#define NV_TENSORRT_{part} {value} //!< version\n" for part, value in (("MAJOR", major), ("MINOR", minor))
    ]
    (folder / "include" / "NvInferVersion.h").write_text("".join(lines))
    return folder


@pytest.fixture
def trap(tmp_path: Path) -> tuple[Path, Path]:
    """An nvcc that leaves a file behind when it is started, and that file."""
    program, started = tmp_path / "nvcc", tmp_path / "started"
    program.write_text(f"#!/bin/sh\ntouch {started}\nexit 1\n")
    program.chmod(0o755)
    return program, started


def here() -> bool:
    return any(Path("/usr/include").glob("*-linux-gnu/NvInferRuntime.h"))


@pytest.mark.skipif(here(), reason="TensorRT's headers are installed, so they are found")
def test_without_headers_one_line_says_so_and_nvcc_is_not_started(configure, trap, tmp_path: Path) -> None:
    program, started = trap
    result = configure(f"-DFCN_EDGE_NVCC={program}")
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if "missing" in line]
    assert len(lines) == 1
    assert "TensorRT's headers" in lines[0]
    assert "TENSORRT_ROOT" in lines[0]
    assert not started.exists()
    compiled = (tmp_path / "build" / "compile_commands.json").read_text()
    assert "skip_head_cpu.cpp" in compiled
    assert "skip_head_cuda" not in compiled
    assert "tensorrt" not in compiled


@pytest.mark.skipif(here(), reason="TensorRT's headers are installed, so they are found")
def test_on_makes_what_is_missing_an_error(configure) -> None:
    result = configure("-DFCN_EDGE_PLUGIN=ON")
    assert result.returncode != 0
    assert "missing: TensorRT's headers" in " ".join(result.stderr.split())


def test_tensorrt_8_is_told_from_10(configure, trap, tmp_path: Path) -> None:
    program, started = trap
    root = headers(tmp_path / "trt8", 8, 6)
    result = configure(f"-DFCN_EDGE_NVCC={program}", TENSORRT_ROOT=str(root))
    assert result.returncode == 0, result.stderr
    assert "missing: TensorRT 10.3 or later" in result.stdout
    assert "holds 8.6" in result.stdout
    assert not started.exists()


def test_headers_without_nvcc_build_the_rest(configure, tmp_path: Path) -> None:
    root = headers(tmp_path / "trt10", 10, 3)
    # Set to nothing it is not looked for, wherever this machine has it.
    result = configure("-DFCN_EDGE_NVCC=", f"-DTENSORRT_ROOT={root}")
    assert result.returncode == 0, result.stderr
    assert "missing: nvcc" in result.stdout


def test_both_that_are_missing_are_told_apart(configure, tmp_path: Path) -> None:
    root = headers(tmp_path / "trt8", 8, 6)
    result = configure("-DFCN_EDGE_NVCC=", "-DFCN_EDGE_CUDA_LIBRARY=ON", f"-DTENSORRT_ROOT={root}")
    assert result.returncode != 0
    assert re.search(r"holds 8\.6\), and nvcc \(", " ".join(result.stderr.split()))


def test_without_the_plugin_it_is_the_kernel_that_lacks_nvcc(configure) -> None:
    result = configure("-DFCN_EDGE_NVCC=", "-DFCN_EDGE_CUDA_LIBRARY=ON", "-DFCN_EDGE_PLUGIN=OFF")
    assert result.returncode != 0
    assert "the CUDA kernel is not built, missing: nvcc" in " ".join(result.stderr.split())


def test_a_new_tensorrt_root_counts_in_an_old_build_folder(configure, tmp_path: Path) -> None:
    for major, minor in ((8, 6), (9, 3)):
        root = headers(tmp_path / f"trt{major}", major, minor)
        result = configure("-DFCN_EDGE_NVCC=", f"-DTENSORRT_ROOT={root}")
        assert f"holds {major}.{minor}" in result.stdout
        shutil.rmtree(root)


@pytest.mark.parametrize("name", ["FCN_EDGE_NVCC", "CMAKE_CUDA_COMPILER"])  # ours, and CMake's own
def test_an_nvcc_that_does_not_run_is_an_error_with_the_way_out(configure, trap, tmp_path: Path, name: str) -> None:
    program, started = trap
    root = headers(tmp_path / "trt10", 10, 3)
    result = configure(f"-D{name}={program}", f"-DTENSORRT_ROOT={root}")
    assert result.returncode != 0
    assert started.exists()
    assert "FCN_EDGE_PLUGIN=OFF" in result.stderr
    assert f"{program} does not run" in " ".join(result.stderr.split())


def test_off_says_nothing_and_looks_for_nothing(configure, trap) -> None:
    program, started = trap
    result = configure(f"-DFCN_EDGE_NVCC={program}", "-DFCN_EDGE_PLUGIN=OFF")
    assert result.returncode == 0
    assert "missing" not in result.stdout
    assert not started.exists()
