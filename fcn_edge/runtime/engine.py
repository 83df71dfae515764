"""What turns a frame into labels: what every engine can do and how one is opened; knows nothing about any backend."""

from __future__ import annotations

import abc
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from numpy.typing import NDArray

from ..contract import Contract
from ..cores import require_threads
from ..errors import EngineError, ModelError, UsageError
from ..pixels import Image, Labels, fit_image, restore_labels
from ..redact import redact
from ..shipped import shipped_models

PRECISION_HINTS = ("f32", "bf16")
_Engine = TypeVar("_Engine", bound="Engine")  # typing.Self needs Python 3.11


class Engine(abc.ABC):
    """A model that is ready to run; a context manager that frees what it holds.

    Attributes:
        contract: what it expects and what its answers mean.
        name: what was opened: a file's name without its folders, or that of a shipped model; empty where it has none.
        backend: what runs it, such as ``openvino``.
        precision: ``fp32``, ``fp16`` or ``int8``: a property of the file.
        stages_ms: milliseconds of the last :meth:`infer` by stage: ``resize``, ``network``, ``head``, ``restore``; the
            last of any thread, and what it waited for another thread's frame is in none of them.
    """

    name: str = ""
    backend: str
    _in_use: contextlib.AbstractContextManager[None] = contextlib.nullcontext()  # entered for each frame

    def __init__(self, contract: Contract, precision: str) -> None:
        self.contract = contract
        self.precision = precision
        self.stages_ms: dict[str, float] = {}

    def infer(self, frame_bgr: NDArray[Any]) -> Labels:
        """Segment a frame.

        Args:
            frame_bgr: uint8 ``[height, width, 3]`` BGR of any size; it is read, not kept. Grey-scale and BGRA are
                converted.

        Returns:
            uint8 ``[height, width]`` class ids of the frame's size, in memory of its own: the caller may keep it.

        Raises:
            UsageError: if the frame is no such array.
            EngineError: if the backend fails, or in another process than that which opened the engine.
        """
        started = time.perf_counter()
        image = fit_image(frame_bgr, self.contract.size_hw)
        fitted = time.perf_counter()
        with self._in_use:
            began = time.perf_counter()
            labels, head_s = self._segment(image)
            segmented = time.perf_counter()
        height, width = frame_bgr.shape[:2]
        restored = restore_labels(labels, (height, width))
        self.stages_ms = {
            "resize": (fitted - started) * 1e3,
            "network": (segmented - began - head_s) * 1e3,
            "head": head_s * 1e3,
            "restore": (time.perf_counter() - segmented) * 1e3,
        }
        return restored

    @abc.abstractmethod
    def _segment(self, image_bgr: Image) -> tuple[Labels, float]:
        """Labels uint8 ``[*size_hw]`` in memory of their own, and the seconds that the head took.

        ``image_bgr`` is uint8 ``[*size_hw, 3]`` and contiguous.
        """

    def close(self) -> None:  # noqa: B027
        """Free what the engine holds; may be called more than once."""

    def __enter__(self: _Engine) -> _Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def open_engine(model: str | Path, *, threads: int | None = None, precision_hint: str | None = None) -> Engine:
    """Open a model for inference.

    Args:
        model: an ``.onnx`` file that ``fcn-edge export`` wrote, an ``.engine`` file that ``fcn-edge build`` wrote, the
            name of a model that ships with the package, or ``echo://`` for the test double that needs no model.
        threads: how many threads the CPU may use; None: one for each physical core that this process may run on.
        precision_hint: arithmetic of what the file leaves in floating point: ``f32`` (also when None), or ``bf16``,
            which is faster on some CPUs and changes a few labels.

    Raises:
        UsageError: if the model's name, ``threads`` or ``precision_hint`` means nothing.
        ModelError: if the file is missing, damaged or not a model of this project, or an engine for another machine.
        MissingError: if the backend that it needs is not installed, or the GPU is not there.
    """
    threads = require_threads(threads)
    require_precision_hint(precision_hint)
    if str(model).startswith("echo://"):
        from .engine_echo import open_echo

        return open_echo(str(model))
    engine = _open(_path(str(model)), threads, precision_hint or PRECISION_HINTS[0])
    engine.name = Path(model).name
    return engine


def check_labels(labels: Labels, size_hw: tuple[int, int], num_classes: int) -> None:
    """Refuse what no engine may answer.

    Raises:
        EngineError: if the labels have another type or size than the frame, or ids that are no class.
    """
    if labels.dtype != "uint8" or labels.shape != size_hw:
        raise EngineError(
            f"the engine answered with {labels.dtype} {list(labels.shape)} for a frame of {size_hw[0]}x{size_hw[1]}; "
            "expected uint8 of the frame's size"
        )
    if int(labels.max()) >= num_classes:
        raise EngineError(f"the engine answered with class {labels.max()}; the contract has {num_classes} classes")


def require_precision_hint(hint: str | None) -> None:
    """Refuse with UsageError what is no ``precision_hint`` of :func:`open_engine`."""
    if hint not in (None, *PRECISION_HINTS):
        raise UsageError(f"precision hint '{hint}' is unknown; expected one of {', '.join(PRECISION_HINTS)}")


def require_known(model: str, endings: Sequence[str]) -> None:
    """Refuse what is neither the name of a model that ships nor ends as a model's file does.

    Args:
        model: what the user called it; an address that stands in its place is told without its password.
        endings: such as ``.onnx``, two or more.

    Raises:
        UsageError: with what is expected.
    """
    shipped = shipped_models()
    if model not in shipped and Path(model).suffix not in endings:
        raise UsageError(
            f"model '{redact(model)}' is unknown; expected a file that ends in {', '.join(endings[:-1])} or "
            f"{endings[-1]}, or a model that ships with this release ({', '.join(shipped)})"
        )


def require_file(path: Path, command: str) -> None:
    """Refuse a model's file that is not there.

    Args:
        path: the file.
        command: of ``fcn-edge``, which writes such a file.

    Raises:
        ModelError: if there is no such file, or its folder may not be entered.
    """
    try:
        is_there = path.is_file()
    except OSError as exc:  # Python 3.14 gives False
        raise ModelError(f"model file {path} cannot be read: {exc.strerror or exc}; allow it, or give another") from exc
    if not is_there:
        raise ModelError(f"model file {path} does not exist; write one with: fcn-edge {command}")


def _open(path: Path, threads: int, precision_hint: str) -> Engine:
    if path.suffix == ".engine":
        from .engine_tensorrt import TensorRtEngine

        return TensorRtEngine(path)
    from .engine_openvino import OpenVinoEngine

    return OpenVinoEngine(path, threads, precision_hint)


def _path(model: str) -> Path:
    """The file that a ``MODEL`` argument names."""
    shipped = shipped_models()
    if model in shipped:
        return shipped[model]
    path = Path(model)
    if path.suffix == ".pt":
        raise UsageError(
            f"{model} is a checkpoint, which open_engine does not run, as the device has no torch; give it to "
            f"fcn_edge.benchmarks.engines.open_any_engine, or export it: fcn-edge export {model} -o "
            f"{path.with_suffix('.onnx')}"
        )
    require_known(model, (".onnx", ".engine"))
    require_file(path, "build MODEL -o DIR" if path.suffix == ".engine" else "export CHECKPOINT -o FILE.onnx")
    return path
