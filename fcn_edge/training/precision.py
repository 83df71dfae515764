"""Which device, CPU threads and number format a run uses; knows nothing about networks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from ..errors import MissingError, UsageError


def choose_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UsageError: if the name is none of these.
        MissingError: if there is no such GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise UsageError(f"device is '{name}'; expected auto, cpu, cuda or cuda:N") from exc
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device is '{name}'; expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MissingError(f"device is '{name}' but torch sees {torch.cuda.device_count()} GPUs; use cpu or auto")
    return device


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """As many CPU threads for torch; their number is the process's own, so what was there before comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_precision(amp: str, device: torch.device) -> torch.dtype:
    """Number format of the convolutions; ``auto`` takes a half-precision one only where the device is fast at it."""
    if amp != "auto":
        return {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    return torch.bfloat16 if _cpu_has_bf16() else torch.float32


def _cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware (AVX512-BF16 or AMX)."""
    if hasattr(torch.cpu, "get_capabilities"):
        found: dict[str, Any] = dict(torch.cpu.get_capabilities())
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
