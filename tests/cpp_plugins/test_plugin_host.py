"""The plugin's marshalling against TensorRT's headers alone: no TensorRT library, no GPU, no nvcc."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CPP = HERE.parents[1] / "cpp_plugins"


@pytest.fixture(scope="module")
def cuda_include() -> Path:
    """CUDA's headers, which TensorRT's include; the compiler itself is not needed."""
    nvcc = shutil.which("nvcc")
    places = [Path(nvcc).resolve().parents[1]] if nvcc else []
    places += [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    for place in (*places, Path("/usr/local/cuda")):
        if (place / "include" / "cuda_runtime_api.h").is_file():
            return place / "include"
    pytest.skip("CUDA's headers are not here; install CUDA's toolkit, or set CUDA_HOME")


def test_marshalling(tensorrt_include: Path, cuda_include: Path, tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    program = tmp_path / "plugin"
    sources = [HERE / "skip_head_plugin_host.cpp", CPP / "src" / "skip_head_shape.cpp"]
    sources += [CPP / "tensorrt" / "library.cpp", CPP / "tensorrt" / "skip_head_plugin.cpp"]
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    folders = ["-I", CPP / "include", "-isystem", tensorrt_include, "-isystem", cuda_include]
    subprocess.run([compiler, *flags, *folders, *sources, "-o", program], check=True)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == "[skip_head] got 0 inputs; expected 1 to 4 score maps and as many kernels\n"
