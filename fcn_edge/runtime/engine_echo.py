"""An engine without a network, the test double that ships: brightness as classes; knows nothing about models."""

from __future__ import annotations

import re
import time

import numpy as np

from ..contract import Contract
from ..errors import UsageError
from ..pixels import Image, Labels
from .engine import Engine

ECHO_CONTRACT = Contract(
    model="echo",
    size_hw=(180, 240),
    class_names=("dark", "dim", "light", "bright"),
    palette=((38, 70, 83), (42, 157, 143), (233, 196, 106), (231, 111, 81)),
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    strides=(8,),
)


class EchoEngine(Engine):
    """Labels each pixel by the brightness of its green channel, in as many equal bands as there are classes.

    Args:
        contract: the contract to answer under.
        delay_s: how long a network would take.
    """

    backend = "echo"

    def __init__(self, contract: Contract = ECHO_CONTRACT, delay_s: float = 0.0) -> None:
        super().__init__(contract, "fp32")
        self._delay_s = delay_s
        self._bands = (np.arange(256) * contract.num_classes // 256).astype(np.uint8)

    def _segment(self, image_bgr: Image) -> tuple[Labels, float]:
        if self._delay_s:
            time.sleep(self._delay_s)
        started = time.perf_counter()
        labels: Labels = self._bands[image_bgr[:, :, 1]]
        return labels, time.perf_counter() - started


def open_echo(spec: str) -> EchoEngine:
    """The engine that ``echo://[?delay_ms=N]`` names.

    Raises:
        UsageError: if it is written otherwise.
    """
    found = re.fullmatch(r"echo://(?:\?delay_ms=(\d{1,5}))?", spec)
    if not found:
        raise UsageError(f"model '{spec}' is unknown; expected echo:// or echo://?delay_ms=20")
    engine = EchoEngine(delay_s=int(found[1] or 0) / 1e3)
    engine.name = spec
    return engine
