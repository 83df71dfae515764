"""How many CPU cores a process may use, and threads it is asked to; knows nothing about what it does with them."""

from __future__ import annotations

import contextlib
import math
import operator
import os
from pathlib import Path

from .errors import UsageError

MAX_THREADS = 1024


def physical_cores() -> int:
    """How many cores this process may run on: hyper-threads of one core count once, a container's limit counts too."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return min(len(cores), cpu_limit() or len(cores))


def require_threads(threads: int | None) -> int:
    """The number of CPU threads that an argument asks for; of None one for each physical core.

    Raises:
        UsageError: if it is no whole number, or not one of 1 to 1024.
    """
    if threads is None:
        return physical_cores()
    try:
        count = 0 if isinstance(threads, bool) else operator.index(threads)
    except TypeError:
        count = 0
    if not 1 <= count <= MAX_THREADS:
        raise UsageError(f"an engine cannot use {threads!r} threads; give a whole number from 1 to {MAX_THREADS}")
    return count


def cpu_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """CPUs whose time a container may take (``docker run --cpus 1.5``), rounded up; None without a limit.

    More threads than these are all stopped together until the next tenth of a second.
    """
    with contextlib.suppress(OSError, ValueError):
        quota, period = (cgroup / "cpu.max").read_text().split()
        return None if quota == "max" else math.ceil(int(quota) / int(period))
    with contextlib.suppress(OSError, ValueError):  # version 1 of control groups
        quota_us, period_us = (int((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return math.ceil(quota_us / period_us) if quota_us > 0 else None
    return None
