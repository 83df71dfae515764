"""What a MODEL argument means to eval and bench: its engine, its size, its reference; knows nothing about time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import MissingError, UsageError
from ..export.onnx_runtime import open_session
from ..pixels import Image, Labels, fit_image, restore_labels
from ..runtime.engine import Engine, open_engine, require_file, require_known, require_precision_hint
from ..shipped import model_file

DEVICES = ("auto", "cpu", "cuda")

Reference = Callable[[Image], Labels]
"""Labels uint8 ``[height, width]`` of a frame uint8 ``[height, width, 3]``, by an independent implementation."""


def open_any_engine(
    model: str | Path, *, threads: int | None = None, device: str = "auto", precision_hint: str | None = None
) -> Engine:
    """Open a checkpoint with torch, and everything else as the runtime does.

    Args:
        model: a ``.pt`` file, or what :func:`fcn_edge.runtime.engine.open_engine` takes.
        threads: how many threads the CPU may use; None: one for each physical core.
        device: for a ``.pt`` file: ``cpu``, ``cuda``, or ``auto``: the GPU if there is one. Others pay no heed to it.
        precision_hint: for an ``.onnx`` file: arithmetic of what the file leaves in floating point. Others pay no heed.

    Raises:
        UsageError: if the model's name means nothing, or an option does for any kind of model.
        ModelError: if the file is missing, damaged or not a model of this project.
        MissingError: if the backend that it needs is not installed.
    """
    require_device(device)
    require_precision_hint(precision_hint)
    path = Path(model)
    if path.suffix != ".pt":
        if not str(model).startswith("echo://"):
            require_known(str(model), (".pt", ".onnx", ".engine"))
        return open_engine(model, threads=threads, precision_hint=precision_hint)
    require_file(path, "train --data DIR")
    _require_torch(path)
    from .torch_engine import open_torch_engine

    return open_torch_engine(path, threads, device)


def require_device(device: str) -> None:
    """Refuse with UsageError what is no ``device`` of :func:`open_any_engine`."""
    if device not in DEVICES:
        raise UsageError(f"device '{device}' is unknown; expected one of {', '.join(DEVICES)}")


def facts_of(model: str | Path) -> tuple[int | None, float | None]:
    """Number of learned values, and billions of multiply-adds for one image; None where nothing can be counted.

    Those of an engine are counted in the typed ONNX file that it was built from, where this lies beside it.

    Raises:
        ModelError: if the file is missing or damaged.
        MissingError: if what reads it is not installed.
    """
    path = model_file(model)
    if path.suffix not in (".pt", ".onnx", ".engine"):
        return None, None
    from ..export.facts import facts_from_file

    facts = facts_from_file(path)
    return facts.get("params"), facts.get("gmacs")


def open_reference(model: str | Path) -> Reference | None:
    """ONNX Runtime executing the very same file, the fused head as its ONNX function included.

    Returns:
        None where there is no such reference: for other files than ``.onnx``, or without onnxruntime.

    Raises:
        ModelError: if ONNX Runtime refuses the file.
    """
    path = model_file(model)
    if path.suffix != ".onnx":
        return None
    try:
        session = open_session(path, "the comparison", threads=1)
    except MissingError:
        return None
    _, height, width, _ = session.get_inputs()[0].shape
    name = session.get_inputs()[0].name

    def labels_of(frame_bgr: Image) -> Labels:
        (labels,) = session.run(None, {name: fit_image(frame_bgr, (height, width))[None]})
        frame_hw = (frame_bgr.shape[0], frame_bgr.shape[1])
        return restore_labels(np.asarray(labels)[0].view(np.uint8), frame_hw)  # int8 holds the bytes of uint8 ids

    return labels_of


def _require_torch(path: Path) -> None:
    try:
        import torch  # noqa: F401
    except ImportError as exc:
        raise MissingError(
            f"{path.name} is a checkpoint, which needs torch ({exc}); install it with: pip install 'fcn-edge[train]', "
            "or use the .onnx file that was exported from it"
        ) from exc
