"""Peak memory of a model that runs alone in a process of its own; knows nothing about latency.

A process that compares several models holds all of them, and every library that any of them needs, so its own peak
says nothing about one of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EngineError
from .engines import open_any_engine

FRAMES = 5
TIMEOUT_S = 300

# The child finds packages exactly where this process does: Python would look into the current folder first, where a
# checkout of this project has a package of the same name without this module. os and sys are loaded by then.
_CHILD = "import os, sys; sys.path[:] = sys.argv[1].split(os.pathsep); from {module} import main; main(sys.argv[2:])"


def peak_rss_mib() -> float:
    """Peak resident memory of this process, MiB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return _peak_from_resource()
    kib = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return float(kib) / 1024 if kib else _peak_from_resource()


def memory_alone(
    model: str | Path,
    frame_hw: tuple[int, int],
    *,
    threads: int | None = None,
    device: str = "auto",
    precision_hint: str | None = None,
) -> tuple[float, float | None]:
    """Peak memory of a fresh process that opens a model and segments a few frames.

    Args:
        model: as for :func:`fcn_edge.benchmarks.engines.open_any_engine`, and so are the options.
        frame_hw: (height, width) of the frames.
        threads: how many threads the CPU may use.
        device: where a checkpoint runs.
        precision_hint: arithmetic of an ``.onnx`` file.

    Returns:
        Resident memory in MiB; memory that the backend holds on a GPU in MiB, None on the CPU.

    Raises:
        EngineError: if that process fails.
    """
    options = {"threads": threads, "device": device, "precision_hint": precision_hint}
    child = _CHILD.format(module=__name__)
    arguments = [os.pathsep.join(sys.path), str(model), json.dumps(frame_hw), json.dumps(options)]
    try:
        done = subprocess.run(
            [sys.executable, "-c", child, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        )
        rss_mib, gpu_mib = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as exc:
        last = (exc.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"{model} could not be run in a process of its own (exit {exc.returncode}): {last}") from exc
    except subprocess.TimeoutExpired as exc:
        raise EngineError(f"{model} did not answer in a process of its own within {TIMEOUT_S} s") from exc
    return rss_mib, gpu_mib


def main(arguments: list[str]) -> None:
    """What the child does: open the model, segment frames of noise, write both figures to stdout as JSON."""
    model, frame_hw, options = arguments[0], json.loads(arguments[1]), json.loads(arguments[2])
    frame = np.random.default_rng(0).integers(0, 256, (*frame_hw, 3), dtype=np.uint8)
    with open_any_engine(model, **options) as engine:
        for _ in range(FRAMES):
            engine.infer(frame)
        sys.stdout.write(f"{json.dumps([peak_rss_mib(), gpu_mib(engine)])}\n")


def gpu_mib(engine: Any) -> float | None:
    """Peak memory that an engine holds on a GPU, MiB; engines that run on the CPU have no such attribute."""
    value: float | None = getattr(engine, "gpu_mib", None)
    return value


def _peak_from_resource() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes on macOS, KiB elsewhere
