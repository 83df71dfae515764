"""Peak memory of a model that runs alone in a process of its own; knows nothing about latency.

A process that compares several models holds all of them, and every library that any of them needs, so its own peak
says nothing about one of them. ``python -m fcn_edge.benchmarks.memory MODEL HEIGHT WIDTH [THREADS]`` opens one model,
segments a few frames and prints the peak.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from ..errors import EngineError
from .engines import open_any_engine

FRAMES = 5
TIMEOUT_S = 300


def peak_rss_mib() -> float:
    """Peak resident memory of this process, MiB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return _peak_from_resource()
    kib = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return float(kib) / 1024 if kib else _peak_from_resource()


def peak_rss_mib_alone(model: str | Path, frame_hw: tuple[int, int], threads: int | None = None) -> float:
    """Peak resident memory of a fresh process that opens a model and segments a few frames, MiB.

    Raises:
        EngineError: if that process fails.
    """
    command = [sys.executable, "-m", __name__, str(model), *map(str, frame_hw), *([str(threads)] if threads else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        return float(done.stdout.split()[-1])
    except subprocess.CalledProcessError as exc:
        last = (exc.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"{model} could not be run in a process of its own (exit {exc.returncode}): {last}") from exc
    except subprocess.TimeoutExpired as exc:
        raise EngineError(f"{model} did not answer in a process of its own within {TIMEOUT_S} s") from exc


def _peak_from_resource() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes on macOS, KiB elsewhere


def _main(arguments: list[str]) -> None:
    model, height, width = arguments[0], int(arguments[1]), int(arguments[2])
    threads = int(arguments[3]) if len(arguments) > 3 else None
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    with open_any_engine(model, threads=threads) as engine:
        for _ in range(FRAMES):
            engine.infer(frame)
    sys.stdout.write(f"{peak_rss_mib():.3f}\n")


if __name__ == "__main__":
    _main(sys.argv[1:])
