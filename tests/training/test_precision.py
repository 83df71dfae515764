"""Device and number format."""

from __future__ import annotations

import pytest
import torch

from fcn_edge.training import precision
from fcn_edge.training.precision import choose_device, choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("has", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_takes_half_precision_only_where_the_cpu_is_fast_at_it(
    has: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: has)
    assert choose_precision("auto", CPU) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_f": True}, False),
        ({}, False),
    ],
)
def test_the_cpu_is_asked(found: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert precision._cpu_has_bf16() is expected


def test_an_older_torch_is_asked_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert precision._cpu_has_bf16()
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert not precision._cpu_has_bf16()


@pytest.mark.parametrize(
    ("amp", "expected"), [("off", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_what_is_asked_for_is_taken(amp: str, expected: torch.dtype) -> None:
    assert choose_precision(amp, CPU) == expected


def test_auto_finds_a_device() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == CPU
