"""Measures a model on calibration frames and judges typed candidates by their labels; knows nothing about files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto

from ..errors import ModelError
from ..pixels import Image, Labels
from ..runtime import open_engine
from ..runtime.onnx_file import split_onnx
from .calibration import METHODS, Seen, scales_from, seen_from
from .calibration_frames import CalibrationFrames, read_frames
from .onnx_runtime import open_session
from .qdq import placement
from .typed import int8_from_fp32

AUTO = "auto"
MAX_FRAMES = 96

OnProgress = Callable[[str, int, int], None]
"""Called as ``on_progress(step, done, total)``; by TensorRT's builder from any thread."""


@dataclass(frozen=True)
class Judge:
    """Who else has a say on INT8 candidates, besides their agreement with FP32 on held-out frames.

    Attributes:
        name: tells this judge, with its frames and limits, from any other.
        objection: what speaks against a candidate; empty if nothing does.
    """

    name: str
    objection: Callable[[ModelProto], str]


@dataclass(frozen=True, eq=False)
class Calibrated:
    """An FP32 model with what its frames told.

    Attributes:
        model: the model.
        frames: the frames.
        reference: the model's labels of the held-out frames, uint8 ``[H, W]`` each, in the CPU engine.
        seen: what the other frames told of each activation that may be quantised; empty where nobody asked.
        threads: of the CPU engine; None: one for each physical core.
        steps: of each activation, as they were learned in training; they are taken in place of any method's.
    """

    model: ModelProto
    frames: CalibrationFrames
    reference: tuple[Labels, ...]
    seen: Mapping[str, Seen]
    threads: int | None
    steps: Mapping[str, float] = field(default_factory=dict)

    def agreement(self, typed: ModelProto) -> float:
        """Share of the held-out frames' pixels at which a typed candidate, in the CPU engine, gives FP32's label."""
        labels = labels_of(typed, self.frames.held_out, self.threads)
        return float(np.mean([np.mean(one == other) for one, other in zip(labels, self.reference, strict=True)]))

    def int8(self, method: str, keep: Sequence[str] = ()) -> ModelProto:
        """The candidate whose ranges a method chooses; its biases are corrected, unless its steps were learned."""
        if self.steps:
            return int8_from_fp32(self.model, self.steps, keep)
        means = {name: each.means for name, each in self.seen.items()}
        return int8_from_fp32(self.model, scales_from(self.seen, method), keep, means)


def calibrated(
    model_fp32: str | Path,
    calib: str | Path | Sequence[str | Path],
    *,
    with_ranges: bool = True,
    max_frames: int = MAX_FRAMES,
    threads: int | None = None,
    on_progress: OnProgress | None = None,
) -> Calibrated:
    """Run frames through an FP32 model, two thirds for the ranges of its activations and one third for its labels.

    Raises:
        UsageError, DataError: as :func:`~.calibration_frames.read_frames`.
        ModelError: if the file is missing, damaged, not FP32 or not this project's, or an activation is not finite.
        MissingError: if ONNX Runtime or OpenVINO is not installed.
    """
    model, size_hw = load_fp32(Path(model_fp32))
    frames = read_frames(calib, size_hw, max_frames)
    seen: dict[str, Seen] = {}
    if with_ranges:
        seen = seen_from(_activations(model, placement(model).tensors, frames.calibrate, threads, on_progress))
    return Calibrated(model, frames, labels_of(model, frames.held_out, threads), seen, threads)


def best_method(
    known: Calibrated, method: str = AUTO, keep: Sequence[str] = (), on_progress: OnProgress | None = None
) -> tuple[str, dict[str, float]]:
    """The method whose candidate agrees best with FP32 on the held-out frames, and the agreement of each one tried.

    On a tie the one that clips less wins: it stands first in :data:`~.calibration.METHODS`.
    """
    tried = tuple(METHODS) if method == AUTO else (method,)
    found: dict[str, float] = {}
    for index, name in enumerate(tried, 1):
        found[name] = known.agreement(known.int8(name, keep))
        if on_progress:
            on_progress("choosing ranges", index, len(tried))
    return max(tried, key=lambda name: found[name]), found


def labels_of(model: ModelProto, frames: Sequence[Image], threads: int | None = None) -> tuple[Labels, ...]:
    """A model's labels of frames, uint8 ``[H, W]`` each, in the CPU engine."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        with open_engine(path, threads=threads) as engine:
            return tuple(engine.infer(frame) for frame in frames)


def load_fp32(path: Path) -> tuple[ModelProto, tuple[int, int]]:
    """Read an FP32 file; gives the model and its (height, width).

    Raises:
        ModelError: if it is missing, damaged, not this project's, or already FP16 or INT8.
    """
    split = split_onnx(path)  # refuses what is no model of this program, with its reason
    if split.precision != "fp32":
        raise ModelError(f"{path} is {split.precision} already; give the fp32 file that it was made from")
    return onnx.load(path), split.contract.size_hw


def _activations(
    model: ModelProto,
    tensors: Sequence[str],
    frames: Sequence[Image],
    threads: int | None,
    on_progress: OnProgress | None,
) -> Iterator[dict[str, NDArray[np.floating]]]:
    """The named tensors of each frame, in ONNX Runtime, which gives out any tensor."""
    observed = ModelProto()
    observed.CopyFrom(model)
    observed.graph.output.extend(ValueInfoProto(name=name) for name in tensors)
    session = open_session(observed.SerializeToString(), "calibration", threads)
    for index, frame in enumerate(frames, 1):
        yield dict(zip(tensors, session.run(list(tensors), {"image": frame[None]}), strict=True))
        if on_progress:
            on_progress("calibrating", index, len(frames))
