"""What several tests share: where the real data lies, a device's virtual environment, models, TensorRT."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fcn_edge.contract import Contract
from fcn_edge.errors import FcnEdgeError, MissingError
from fcn_edge.runtime.cuda_driver import cuda_version, find_gpu

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from fcn_edge.model.fcn import FCN

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU are skipped where there is none, and say what is missing."""
    for item in items:
        marker = item.get_closest_marker("gpu")
        if marker and (gap := gpu_gap(*(marker.args or ("tensorrt", "pycuda")))):
            item.add_marker(pytest.mark.skip(reason=gap))


@functools.cache
def gpu_gap(*needs: str) -> str:
    """What this machine lacks of a GPU and of ``torch``, ``tensorrt`` or ``pycuda``; empty if it lacks nothing."""
    from fcn_edge.runtime.gpu import require_pycuda
    from fcn_edge.runtime.tensorrt_library import require_tensorrt

    gaps = [] if find_gpu() else ["no NVIDIA GPU" if cuda_version() else "no CUDA driver"]
    names = {
        "torch": ("PyTorch that sees a GPU", _require_torch),
        "tensorrt": ("TensorRT", require_tensorrt),
        "pycuda": ("PyCUDA", require_pycuda),
    }
    for name, require in (names[need] for need in needs):
        try:
            require()
        except FcnEdgeError:
            gaps.append(f"no {name}")
    return ", ".join(gaps)


def _require_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        raise MissingError("PyTorch is not installed")
    if find_gpu() is None:
        return  # said already; torch takes seconds to import
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a driver that is too old for it
        if not torch.cuda.is_available():
            raise MissingError("PyTorch sees no GPU")


@pytest.fixture(scope="session")
def camvid() -> Path:
    """CamVid's folder, from FCN_EDGE_CAMVID or beside the checkout; the data may not travel with the project."""
    root = Path(os.environ.get("FCN_EDGE_CAMVID", ROOT.parent / "shared" / "camvid"))
    if not (root / "valannot").is_dir():
        pytest.skip("CamVid is not here; set FCN_EDGE_CAMVID to a folder with train/ trainannot/ val/ valannot/")
    return root


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny drawn data set, a checkpoint of one epoch (run/best.pt) and its export (model.onnx)."""
    from fcn_edge import street
    from fcn_edge.export.to_onnx import onnx_from_checkpoint
    from fcn_edge.training.config import TrainConfig
    from fcn_edge.training.loop import train

    home = tmp_path_factory.mktemp("trained")
    street.write_dataset(home / "data", train=4, val=2, size_hw=(64, 96), seed=1)
    config = TrainConfig(data=str(home / "data"), out=str(home / "run"), epochs=1, batch=2, threads=1)
    onnx_from_checkpoint(train(config).best, home / "model.onnx")
    return home


@pytest.fixture(scope="session")
def device_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh virtual environment with this project's wheel and its extra ``cpu``: a device without torch.

    Its packages are the oldest that this project allows, as these tests run with the newest.
    """
    home = tmp_path_factory.mktemp("device")
    wheels = home / "wheels"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(wheels)]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([*build, "-C", f"build-dir={home / 'build'}", str(ROOT)], check=True, env=environment)
    (wheel,) = wheels.glob("fcn_edge-*.whl")
    venv.create(home / "venv", with_pip=True)
    python = home / "venv" / "bin" / "python"
    constraints = home / "constraints.txt"
    constraints.write_text("\n".join(oldest_packages("cpu", "serve")))
    install = [str(python), "-m", "pip", "install", "--quiet", "-c", str(constraints), f"{wheel}[cpu]"]
    result = subprocess.run(install, capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"packages for a second virtual environment cannot be installed: {result.stderr.strip()[-200:]}")
    return python


def oldest_packages(*extras: str) -> list[str]:
    """Constraints such as ``numpy==1.26.*``: the oldest packages that pyproject.toml allows.

    Python 3.13 has none of them, and gets those of constraints.txt.
    """
    if sys.version_info >= (3, 13):
        return (ROOT / "constraints.txt").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return [f"{found[1]}=={found[2]}.*" for line in needed if (found := re.match(r"([\w-]+)>=([\d.]+)", line))]


@pytest.fixture(scope="session")
def lively_model() -> Callable[[str, int], FCN]:
    """Untrained models whose labels vary: (name, classes) -> FCN in eval mode, the same weights each time.

    Fresh models answer class 0 everywhere and their kernels are symmetric, so a mistake in the head would not show.
    """
    torch = pytest.importorskip("torch")
    from fcn_edge.model.fcn import make_model

    def make(name: str, num_classes: int) -> FCN:
        torch.manual_seed(0)
        model = make_model(name, num_classes)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.running_mean.uniform_(-0.3, 0.3)
                    module.running_var.uniform_(0.5, 2)
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.uniform_(-0.3, 0.3)
            for conv in model.score_convs:
                conv.weight.normal_()
            for kernel in model.kernels:
                kernel.mul_(torch.rand_like(kernel) + 0.5)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def contract_of() -> Callable[[FCN, tuple[int, int]], Contract]:
    """The contract of a model at a size, with made-up class names."""

    def make(model: FCN, size_hw: tuple[int, int]) -> Contract:
        mean, std = (tuple(values.flatten().tolist()) for values in (model.mean, model.std))
        ids = range(model.num_classes)
        names, palette = tuple(f"class {i}" for i in ids), tuple((i, 255 - i, 0) for i in ids)
        return Contract(model.name, size_hw, names, palette, mean, std, model.strides, ignore_id=None)

    return make


@pytest.fixture(scope="session")
def tensorrt_site() -> Path:
    """Folder that, on PYTHONPATH, gives a TensorRT that parses and builds without a GPU; made on first use."""
    site = Path(os.environ.get("FCN_EDGE_TENSORRT_CPU", ROOT / "build" / "tensorrt_cpu"))
    script = ROOT / "tests" / "rig" / "make_tensorrt_cpu.py"
    result = subprocess.run([sys.executable, str(script), str(site)], capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"TensorRT cannot be set up here: {result.stderr.strip()[-300:]}")
    return site


@pytest.fixture(scope="session")
def tensorrt_rtx_site() -> Path:
    """Folder that, on PYTHONPATH, gives TensorRT-RTX as pip installs it; 100 MB are downloaded on first use."""
    site = Path(os.environ.get("FCN_EDGE_TENSORRT_RTX", ROOT / "build" / "tensorrt_rtx"))
    packages = [f"tensorrt_rtx_cu13{part}==1.7.1.116" for part in ("", "_bindings", "_libs")]
    return _installed(site, "tensorrt_rtx", packages).parent


def _installed(site: Path, wanted: str, packages: list[str]) -> Path:
    """``wanted`` in a folder into which pip installs packages, on first use; the test is skipped where it cannot."""
    if not (site / wanted).exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--retries", "1", "--timeout", "20"]
        result = subprocess.run([*pip, "--target", str(site), *packages], capture_output=True, text=True)
        if result.returncode:
            pytest.skip(f"{wanted} cannot be installed here: {result.stderr.strip()[-300:]}")
    return site / wanted


@pytest.fixture(scope="session")
def tensorrt_include() -> Path:
    """TensorRT's headers, from TENSORRT_ROOT or where Debian's packages put them; no Python package brings them."""
    places = [Path(f"/usr/include/{platform.machine()}-linux-gnu")]
    if root := os.environ.get("TENSORRT_ROOT"):
        places = [Path(root) / "include", Path(root)]
    for place in places:
        if (place / "NvInferRuntime.h").is_file():
            return place
    pytest.skip("TensorRT's headers are not here; set TENSORRT_ROOT to a folder that holds include/NvInferRuntime.h")


def _nvcc_of_toolkit() -> str | None:
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


@pytest.fixture(scope="session")
def toolkit_nvcc() -> Path:
    """CUDA's compiler with the libraries beside it, from PATH or its usual folder."""
    found = _nvcc_of_toolkit()
    if found is None:
        pytest.skip("nvcc is not here; install CUDA's toolkit, or put nvcc into PATH")
    return Path(found)


@pytest.fixture(scope="session")
def nvcc() -> Path:
    """CUDA's compiler, the toolkit's or, where there is none, pip's, of which 100 MB are downloaded on first use."""
    found = _nvcc_of_toolkit()
    packages = [f"nvidia-{part}==13.0.*" for part in ("cuda-nvcc", "cuda-crt", "nvvm", "cuda-runtime", "cuda-cccl")]
    return Path(found) if found else _installed(ROOT / "build" / "cuda", "nvidia/cu13/bin/nvcc", packages)


def _built(name: str, target: str, options: list[str]) -> Path:
    """The library that CMake makes for ``target``, in a folder of build/ that the next run finds up to date."""
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if cmake is None:
        pytest.skip("cmake is not here; pip install cmake")
    # A chip of its own where there is one to run on, else any.
    gpu = shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0
    build = ROOT / "build" / name
    options = ["-DFCN_EDGE_PYTHON=OFF", f"-DFCN_EDGE_CUDA_ARCHITECTURES={'native' if gpu else '87'}", *options]
    commands = [[cmake, "-S", str(ROOT / "cpp_plugins"), "-B", str(build), *options]]
    commands += [[cmake, "--build", str(build), "--target", target]]
    for command in commands:
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    (library,) = build.glob("libfcn_edge_*.so")
    return library


@pytest.fixture(scope="session")
def plugin_library(tensorrt_include: Path, toolkit_nvcc: Path) -> Path:
    """The TensorRT plugin, built by CMake for one chip."""
    options = [
        f"-DFCN_EDGE_TENSORRT_INCLUDE={tensorrt_include}",
        f"-DFCN_EDGE_NVCC={toolkit_nvcc}",
        "-DFCN_EDGE_PLUGIN=ON",
    ]
    return _built("plugin", "fcn_edge_plugin", options)


@pytest.fixture(scope="session")
def cuda_library(toolkit_nvcc: Path) -> Path:
    """The CUDA kernel alone, built by CMake for one chip; needs no TensorRT."""
    options = [f"-DFCN_EDGE_NVCC={toolkit_nvcc}", "-DFCN_EDGE_PLUGIN=OFF", "-DFCN_EDGE_CUDA_LIBRARY=ON"]
    return _built("cuda_library", "fcn_edge_cuda_library", options)
