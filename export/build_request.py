"""What a build is asked for and what it answers; makes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..runtime.sidecar import Gate, Options
from ..sequences import names_in
from .gate import GateRequest
from .model_source import Quantisation


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What is asked for.

    Attributes:
        precisions: of ``fp32``, ``fp16``, ``int8``, or one of them; empty: that of the file, ``fp32`` for a checkpoint.
        size_hw: input size; None: that of the file.
        quantisation: how int8 is made.
        gate: comparison with FP32, or None.
        use_plugin: whether the fused head is used.
        plugin: its library; None: ``FCN_EDGE_PLUGIN``, else the package's own.
        options: limits and batch.
        timing_cache: file of measured tactics; one that TensorRT cannot read is left as it is.
        threads: of the CPU engine; None: one for each physical core.
        force: whether everything is made again, and files that no build wrote may be replaced.
    """

    precisions: Sequence[str] = ()
    size_hw: tuple[int, int] | None = None
    quantisation: Quantisation = field(default_factory=Quantisation)
    gate: GateRequest | None = None
    use_plugin: bool = True
    plugin: str | Path | None = None
    options: Options = field(default_factory=Options)
    timing_cache: str | Path | None = None
    threads: int | None = None
    force: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "precisions", names_in(self.precisions))


@dataclass(frozen=True, kw_only=True)
class Built:
    """One model in one precision.

    Attributes:
        model: the file that was given.
        precision: ``fp32``, ``fp16`` or ``int8``.
        onnx: the typed ONNX file.
        engine: the engine; None without TensorRT.
        made: what had to be made: of ``onnx`` and ``engine``; empty: all of it was there.
        found: share of the layers by type, of the engine; None without TensorRT.
        gate: result of the gate; None if none was asked for.
    """

    model: str
    precision: str
    onnx: str
    engine: str | None
    made: tuple[str, ...]
    found: dict[str, float] | None
    gate: Gate | None
