"""What a benchmark leaves behind: the machine's facts and a JSON file; knows nothing about what was measured.

The facts say what a reader needs to judge a figure, and nothing that identifies a machine or its user: no host name, no
path, no address.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import msgspec

from ..cores import cpu_limit
from ..errors import UsageError
from ..files import write_atomically
from ..skip_head import native_targets

PACKAGES = (
    "fcn-edge",
    "numpy",
    "opencv-python",
    "openvino",
    "onnx",
    "onnxruntime",
    "torch",
    "tensorrt",
    "tensorrt-rtx",
    "pycuda",
)
_GPU_FIELDS = ("name", "driver_version", "memory.total")
CPU_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
)
"""What decides how fast a CPU multiplies, as Linux calls it: ``asimddp`` and ``i8mm`` are Arm's."""


def machine_facts() -> dict[str, Any]:
    """What this machine is and what runs on it.

    Returns:
        ``cpu``, ``cpu_id`` (x86: family/model/stepping, as one name may stand for several generations; else None),
        ``cpu_features`` (those of ``CPU_FEATURES`` that the kernel lists), ``mhz`` (the most that the first core may
        have, or else has now; None where unknown), ``governor`` (of its frequency, None where unknown), ``load``
        (processes that ran or waited in the minute before, on average; None where unknown),
        ``architecture``, ``instruction_set`` (of the fused head, None where it is not compiled),
        ``instruction_limit`` (the newest that OpenVINO and torch were told to use; None: all), ``cores``,
        ``usable_cores``, ``memory_mib`` (None where unknown), ``os``, ``python``, ``packages`` (name to version, those
        installed), ``gpus`` (``name``, ``driver``, ``memory_mib`` each), ``board`` (a Jetson's, else None), ``commit``
        (None outside a checkout) and ``modified`` (whether that checkout has uncommitted changes, None outside one).
    """
    targets = native_targets()
    commit, modified = _checkout()
    return {
        "cpu": _cpu_model(),
        "cpu_id": _cpu_id(),
        "cpu_features": _cpu_features(),
        "mhz": _mhz(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        "load": _load(),
        "architecture": platform.machine(),
        "instruction_set": targets[0] if targets else None,
        "instruction_limit": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "cores": os.cpu_count(),
        "usable_cores": _usable_cores(),
        "memory_mib": _memory_mib(),
        "os": _os_name(),
        "python": platform.python_version(),
        "packages": _versions(),
        "gpus": _gpus(),
        "board": _board(),
        "commit": commit,
        "modified": modified,
    }


def today() -> str:
    """The date, UTC, as records have it."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def write_record(path: Path, payload: Mapping[str, Any]) -> None:
    """Write a JSON object, indented, whole or not at all; numbers that are not finite become null.

    Args:
        path: where to; folders are made, a file that is there is replaced.
        payload: what :mod:`msgspec` can encode: plain values, dataclasses, paths excepted.

    Raises:
        UsageError: if the file cannot be written.
    """
    data = msgspec.json.format(msgspec.json.encode(payload), indent=2) + b"\n"
    try:
        write_atomically(path, data)
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        raise UsageError(f"{path} cannot be written ({reason}); give another place for the record") from exc


def held_out_record(benchmark: str, data: Path, holdout: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The record of a benchmark that judges checkpoints on a sequence of a data set that they have not seen."""
    return {
        "benchmark": benchmark,
        "recorded": today(),
        "machine": machine_facts(),
        "data": {"name": data.resolve().name, "holdout": holdout},
        "runs": runs,
    }


def last_parts(path: str) -> str:
    """Folder and name of a file: of which run it is, but not where on this machine it lies."""
    return "/".join(PurePath(path).parts[-2:])


def passes(training: Mapping[str, Any]) -> int:
    """Passes over the training images in a checkpoint's run, also where ``steps_per_epoch`` counted epochs otherwise.

    Args:
        training: as :func:`fcn_edge.export.facts.facts_from_file` has it.
    """
    config = training["config"]
    if not config["steps_per_epoch"]:
        return int(training["epochs"])
    images = int(training["provenance"]["train_images"])
    return round(int(training["steps"]) * int(config["batch"]) / images)


def _cpu_model() -> str:
    """The model's name from /proc/cpuinfo; an Arm core names no model there, so its part number is given."""
    for key in ("model name", "Model", "CPU part"):
        if value := _cpuinfo(key):
            return value if key != "CPU part" else f"{platform.machine()} part {value}"
    return platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    """What /proc/cpuinfo says of the first core that has such a line; empty where none has."""
    match = re.search(rf"^{key}[ \t]*:[ \t]*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return match[1].strip() if match else ""


def _cpu_id() -> str | None:
    parts = [_cpuinfo(key) for key in ("cpu family", "model", "stepping")]
    return "/".join(parts) if all(parts) else None


def _cpu_features() -> list[str]:
    listed = set((_cpuinfo("flags") or _cpuinfo("Features")).split())  # x86's word, and Arm's
    return [feature for feature in CPU_FEATURES if feature in listed]


def _mhz() -> int | None:
    highest_khz = _read("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").strip()
    if highest_khz.isdigit():
        return int(highest_khz) // 1000
    with contextlib.suppress(ValueError):
        return round(float(_cpuinfo("cpu MHz")))
    return None


def _load() -> float | None:
    with contextlib.suppress(OSError, AttributeError):  # Windows has none
        return round(os.getloadavg()[0], 2)
    return None


def _usable_cores() -> int | None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = cpu_limit()
    return min(cores, limit) if cores and limit else cores


def _memory_mib() -> int | None:
    match = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return int(match[1]) // 1024 if match else None


def _os_name() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    return platform.system()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _gpus() -> list[dict[str, Any]]:
    lines = _output("nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader,nounits").splitlines()
    rows = [[field.strip() for field in line.split(",")] for line in lines]
    return [
        # A Jetson's GPU shares the memory of the machine and reports none of its own.
        {"name": name, "driver": driver, "memory_mib": int(memory) if memory.isdigit() else None}
        for name, driver, memory in (row for row in rows if len(row) == len(_GPU_FIELDS))
    ]


def _board() -> str | None:
    model = _read("/proc/device-tree/model").rstrip("\0").strip()
    release = re.search(r"R\d+.*?REVISION: [\d.]+", _read("/etc/nv_tegra_release"))
    return ", ".join(part for part in (model, release[0] if release else "") if part) or None


def _checkout() -> tuple[str | None, bool | None]:
    here = Path(__file__)
    # A virtual environment may lie inside someone's checkout: this very file has to be one that git tracks.
    if not _output("git", "-C", str(here.parent), "ls-files", here.name):
        return None, None
    commit = _output("git", "-C", str(here.parent), "rev-parse", "HEAD")
    changes = _output("git", "-C", str(here.parent), "status", "--porcelain", "--untracked-files=no")
    return commit or None, bool(changes)


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="replace")
    return ""


def _output(*command: str) -> str:
    """What a program prints; empty if it is not there, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
