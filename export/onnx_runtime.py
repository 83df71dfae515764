"""An ONNX file or model opened in ONNX Runtime on the CPU; knows nothing about what it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..cores import require_threads
from ..errors import ModelError
from ..extras import needs

_ERRORS_ONLY = 3


def open_session(model: Path | bytes, what: str, threads: int | None = None) -> Any:
    """Open a session, which gives out any tensor.

    Args:
        model: a file, or what one would hold.
        what: needs it, as the message says where ONNX Runtime is missing.
        threads: how many the CPU may use; None: one for each physical core.

    Raises:
        UsageError: if ``threads`` means nothing.
        MissingError: if ONNX Runtime is not installed.
        ModelError: if ONNX Runtime refuses the model.
    """
    with needs("train", what):
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    refusals = (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = require_threads(threads)
    options.log_severity_level = _ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except refusals as exc:
        name = "the model" if isinstance(model, bytes) else model
        raise ModelError(f"ONNX Runtime refuses {name}: {exc}; export it again") from exc
