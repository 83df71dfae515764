"""The CPU engine: OpenVINO up to the score maps, then the fused head; knows nothing about streams."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, MissingError, ModelError
from ..extras import MORE_MEMORY, is_short_of_memory
from ..pixels import Image, Labels
from ..skip_head import skip_head
from .engine import Engine
from .engine_lock import EngineLock
from .engine_openvino_input import normalise_by_rows
from .engine_openvino_int8 import overflows, without_overflow
from .onnx_file import SplitModel, split_onnx


class OpenVinoEngine(Engine):
    """Runs an ``.onnx`` file of this project on the CPU.

    What a file quantises runs in INT8; all else, FP16 included, in the precision of the hint.

    Threads may share an engine, as in a web server: their frames go through one after the other. Processes may not: a
    forked child, which has none of the threads that OpenVINO computes in, is refused.

    OpenVINO's own default is bf16 where the CPU has it, which changes labels; so the precision is always said.

    Args:
        path: the file.
        threads: threads for the network and for the head, one after the other.
        precision_hint: ``f32`` or ``bf16``.

    Raises:
        ModelError: if the file cannot be used.
        MissingError: if ``openvino`` or ``onnx`` is not installed, or the process may take too little memory.
    """

    backend = "openvino"
    _in_use: EngineLock

    def __init__(self, path: Path, threads: int, precision_hint: str = "f32") -> None:
        model = split_onnx(path)
        super().__init__(model.contract, model.precision)
        self._kernels = list(model.kernels)
        self._threads = threads
        self._in_use = EngineLock()
        self._request: Any = _compile(model, path, threads, precision_hint)
        self._run(np.zeros((*self.contract.size_hw, 3), np.uint8), path)

    def _segment(self, image_bgr: Image) -> tuple[Labels, float]:
        scores = self._scores(image_bgr)
        started = time.perf_counter()
        labels = skip_head(scores, self._kernels, self.contract.size_hw, threads=self._threads)
        return labels[0], time.perf_counter() - started

    def _scores(self, image_bgr: Image) -> list[NDArray[np.float32]]:
        """Score maps float32 ``[1, C, h, w]``, coarse to fine: OpenVINO's own memory, valid until the next call."""
        if self._request is None:
            raise EngineError("the engine is closed; open it again")
        try:
            self._request.infer({0: image_bgr[None]}, share_inputs=True)
        except RuntimeError as exc:
            raise EngineError(f"OpenVINO failed on a frame: {_first_line(exc)}") from exc
        return [self._request.get_output_tensor(index).data for index in range(len(self._kernels))]

    def _run(self, image_bgr: Image, path: Path) -> None:
        """Run once, so that a file whose score maps do not fit its head is refused when it is opened."""
        try:
            self._segment(image_bgr)
        except (TypeError, ValueError) as exc:
            raise ModelError(f"{path} is not usable: {exc}; export it again with fcn-edge export") from exc

    def close(self) -> None:
        """Free the network, once no thread is in it any more; in another process it stays the opener's to free."""
        if self._in_use.is_own:
            with self._in_use:
                self._request = None


def _compile(model: SplitModel, path: Path, threads: int, precision_hint: str) -> Any:
    """An OpenVINO infer request for the network, with float32 outputs whatever the file's own type."""
    ov = require_openvino()
    try:
        is_in_danger = model.precision == "int8" and overflows(ov)
        network = ov.Core().read_model(without_overflow(model.network) if is_in_danger else model.network)
        normalise_by_rows(ov, network)
        steps = ov.preprocess.PrePostProcessor(network)
        for index in range(len(network.outputs)):
            steps.output(index).tensor().set_element_type(ov.Type.f32)
        return infer_request(steps.build(), threads, precision_hint)
    except (RuntimeError, UnicodeDecodeError) as exc:  # the second where it quotes a damaged file's bytes
        if is_short_of_memory(exc):
            raise MissingError(f"OpenVINO cannot load {path} ({_first_line(exc)}); {MORE_MEMORY}") from exc
        raise ModelError(
            f"OpenVINO cannot load {path}: {_first_line(exc)}; export it again with fcn-edge export"
        ) from exc


def infer_request(network: Any, threads: int, precision_hint: str) -> Any:
    """An OpenVINO infer request for its ``Model``, which answers one frame at a time, as soon as it can."""
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision_hint,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    return require_openvino().Core().compile_model(network, "CPU", options).create_infer_request()


def require_openvino(what: str = "an .onnx model", install: str = "'fcn-edge[cpu]'") -> ModuleType:
    """OpenVINO, imported without its telemetry: it would otherwise report each import over the network.

    Args:
        what: needs it, for the message.
        install: what pip installs it by, for the message; on a Jetson it must not bring an OpenCV.

    Raises:
        MissingError: if it is not installed, or the process may take too little memory.
    """
    # OpenVINO falls back to a stub of its own where this package cannot be imported.
    muted = "openvino_telemetry" not in sys.modules
    if muted:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        openvino = importlib.import_module("openvino")
    except ImportError as exc:
        remedy = MORE_MEMORY if is_short_of_memory(exc) else f"install it with: pip install {install}"
        raise MissingError(f"{what} needs OpenVINO, which cannot be imported ({exc}); {remedy}") from exc
    finally:
        if muted:
            del sys.modules["openvino_telemetry"]
    return openvino


def _first_line(exc: RuntimeError | UnicodeDecodeError) -> str:
    """What an OpenVINO exception says, without its source locations."""
    text = exc.object.decode(errors="replace") if isinstance(exc, UnicodeDecodeError) else str(exc)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from", "Check"))] or lines
    return said[0].rstrip(":") if said else ""
