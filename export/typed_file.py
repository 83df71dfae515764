"""A checkpoint as one typed ONNX file: exported and verified in FP32, then typed; knows nothing about engines."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..errors import UsageError
from ..shipped import shipped_models
from ..street import draw_street
from ..training.checkpoint import load_checkpoint
from .candidates import OnProgress
from .quantize import check_request, require_frames, typed_onnx
from .to_onnx import onnx_from_checkpoint

VERIFIED_HW = (360, 480)


def typed_from_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    precision: str = "fp32",
    size_hw: tuple[int, int] | None = None,
    *,
    calib: str | Path | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Path:
    """Write a checkpoint as an ONNX file of a precision.

    The FP32 file's labels are compared with torch's on noise and on three drawn streets before anything is made of it.

    Args:
        checkpoint: a ``.pt`` file that training wrote.
        out: the ``.onnx`` file to write; it appears whole or not at all.
        precision: ``fp32``, ``fp16`` or ``int8``.
        size_hw: (height, width) that the file takes; the checkpoint's own if None.
        calib: folder of frames, a data set or a glob, that INT8 measures its ranges on; a model of quantisation-aware
            training needs none.
        force: whether an existing file may be replaced.
        on_progress: called with the step's name, the number done and the number of all.

    Raises:
        UsageError: if a model is named that ships, which is an ONNX file already.
        UsageError, DataError, ModelError, MissingError, GateError: as :func:`~.to_onnx.onnx_from_checkpoint` and
            :func:`~.quantize.typed_onnx` raise them.
    """
    if str(checkpoint) in shipped_models():
        raise UsageError(
            f"{checkpoint} ships exported already; fcn-edge build {checkpoint} -o DIR writes its file, other "
            "precisions and engines"
        )
    out = Path(out)
    frames = [draw_street(seed, 1.0, VERIFIED_HW)[0] for seed in range(3)]
    if precision == "fp32":
        return onnx_from_checkpoint(checkpoint, out, size_hw, force=force, verify_frames=frames)
    check_request(out, precision, force)  # before the export takes its time
    if calib is None:
        require_frames(precision, None, load_checkpoint(checkpoint).config.qat)
    with tempfile.TemporaryDirectory() as folder:
        fp32 = onnx_from_checkpoint(checkpoint, Path(folder) / "fp32.onnx", size_hw, verify_frames=frames)
        typed_onnx(fp32, out, precision, calib=calib, force=force, on_progress=on_progress)
    return out
