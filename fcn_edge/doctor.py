"""What this machine has for segmentation, and the sentence that closes each gap; loads no model."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from . import __version__
from .errors import MissingError
from .pixels import require_cv2
from .runtime.cuda_driver import cuda_version, find_gpu
from .runtime.tensorrt_library import NEWER, PACKAGES, RTX, find_plugin, require_own_name, too_old
from .skip_head import native_targets

_IMPORT_LIMIT_S = 30.0
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True)
class Finding:
    """One thing looked for.

    Attributes:
        name: what it is.
        found: whether it is there.
        detail: its version or what was seen.
        remedy: how to close the gap; empty if there is none to close.
    """

    name: str
    found: bool
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Look for everything that training, export, engines and streams can use on this machine."""
    return [
        Finding("fcn_edge", True, f"{__version__}, Python {platform.python_version()}, {platform.machine()}"),
        _native(),
        *_opencv(),
        _importable("openvino", "CPU engine", "pip install 'fcn-edge[cpu]'"),
        _package("starlette", "the page of stream --serve", "pip install 'fcn-edge[serve]'"),
        _package("onnx", "reading .onnx files", "pip install 'fcn-edge[cpu]'"),
        _package("torch", "training and export", "pip install 'fcn-edge[train]'"),
        _package("onnxruntime", "verifying exports and calibrating int8", "pip install 'fcn-edge[train]'"),
        _gpu(),
        _tensorrt(),
        _plugin(),
        _importable("pycuda.driver", "GPU engine", "pip install pycuda (needs the CUDA toolkit's headers)"),
        _power_mode(),
    ]


def _native() -> Finding:
    targets = native_targets()
    if targets:
        return Finding("fused head (C++)", True, f"instruction set {targets[0]}")
    remedy = "reinstall with a C++17 compiler present: pip install --force-reinstall --no-deps fcn-edge"
    return Finding("fused head (C++)", False, "not built; NumPy is used, which is many times slower", remedy)


def _opencv() -> list[Finding]:
    try:
        cv2 = require_cv2()
    except MissingError as exc:
        return [Finding("OpenCV", False, "not importable", str(exc))]
    findings = [Finding("OpenCV", True, str(cv2.__version__))]
    build = cv2.getBuildInformation()
    needs = {
        "FFMPEG": ("video files and rtsp://", "use pip's opencv-python or a build with FFmpeg"),
        "GStreamer": ("csi:// cameras", "on a Jetson use the system's libopencv-python; pip's OpenCV has no GStreamer"),
    }
    for name, (use, remedy) in needs.items():
        line = next((line for line in build.splitlines() if line.strip().startswith(f"{name}:")), "")
        found = "YES" in line
        findings.append(Finding(f"OpenCV with {name}", found, use, "" if found else remedy))
    return findings


def _package(name: str, use: str, remedy: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(name, False, use, remedy)
    return Finding(name, True, f"{_version(name) or 'version unknown'}, {use}")


def _importable(module: str, use: str, remedy: str) -> Finding:
    """A package of compiled parts: it may be there and lack a library, or be made for another Python or NumPy."""
    name = module.partition(".")[0]
    found = _package(name, use, remedy)
    failure = _import_failure(module) if found.found else ""
    if not failure:
        return found
    anew = remedy.replace("install", "install --force-reinstall", 1)
    return Finding(
        name, False, f"{found.detail}, {failure}", f"install what it lacks, or make it anew for this Python: {anew}"
    )


def _import_failure(module: str) -> str:
    """That a module cannot be imported, and why; empty if it can. In a process of its own, which may crash."""
    code = f"import sys; sys.path[:] = {sys.path!r}; sys.modules['openvino_telemetry'] = None; import {module}"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=_IMPORT_LIMIT_S
        )
        if done.returncode == 0:
            return ""
        reason = next(iter(done.stderr.strip().splitlines()[-1:]), f"it ended Python with {done.returncode}")
    except subprocess.TimeoutExpired:
        reason = f"nothing came of it in {_IMPORT_LIMIT_S:.0f} s"
    return f"is installed but cannot be imported ({reason})"


def _version(name: str) -> str:
    """Of a package, without importing it; empty where nothing tells."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _gpu() -> Finding:
    gpu = find_gpu()
    if gpu is None:
        remedy = "install NVIDIA's driver, or use the CPU engine (.onnx models)"
        return Finding("NVIDIA GPU", False, "no CUDA driver, or no device that it may use", remedy)
    return Finding("NVIDIA GPU", True, f"{gpu.name}, sm_{gpu.sm}, driver for CUDA {cuda_version()}")


def _plugin() -> Finding:
    try:
        library = find_plugin()
        if _tensorrt_packages()[:1] == [RTX]:
            require_own_name()
        return Finding("fused head for TensorRT", True, library.name)
    except MissingError as exc:
        return Finding("fused head for TensorRT", False, "GPU engines with the fused head", str(exc))


def _tensorrt() -> Finding:
    found = _tensorrt_packages()
    if not found and (old := [reason for name in PACKAGES if (reason := _too_old(name))]):
        return Finding("TensorRT", False, "; ".join(old), NEWER)
    if not found:
        remedy = "on a Jetson it comes with JetPack 6.1 or newer; elsewhere: pip install 'fcn-edge[gpu]'"
        return Finding("TensorRT", False, "GPU engines", remedy)
    failures = []
    for name in found:
        if not (failure := _import_failure(name)):
            return replace(_package(name, f"GPU engines ({name})", ""), name="TensorRT")
        failures.append(f"{name} {failure}")
    return Finding("TensorRT", False, "; ".join(failures), NEWER)


def _tensorrt_packages() -> list[str]:
    return [name for name in PACKAGES if importlib.util.find_spec(name) and not _too_old(name)]


def _too_old(name: str) -> str:
    version = _version(name) if importlib.util.find_spec(name) else ""
    return too_old(name, version) if version else ""


def _power_mode() -> Finding:
    """A Jetson's power mode, or another machine's CPU governor: clocks decide the latency."""
    if shutil.which("nvpmodel") is not None:
        output = subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, check=False).stdout
        mode = next((line.partition(":")[2].strip() for line in output.splitlines() if "Power Mode" in line), "unknown")
        return Finding("power mode", True, mode, "for full clocks: sudo nvpmodel -m 0 && sudo jetson_clocks")
    try:
        governor = _GOVERNOR.read_text().strip()
    except OSError:
        return Finding("power mode", True, "this machine tells none")
    full = "for full clocks: echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    return Finding("power mode", True, f"CPU governor {governor}", "" if governor == "performance" else full)
