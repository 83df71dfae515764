"""Typed models from FP32 ones, in memory: FP16, and INT8 with FP16 around it; knows nothing about frames or files.

FP16 is every tensor behind the normalisation, the score maps and the head's kernels among them. INT8 is what
:mod:`.qdq` places, all other tensors FP16. TensorRT takes the types as they are; the CPU engine computes what is FP16
in FP32 and what is INT8 in integers, so one file serves both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import ModelProto

from .half import half_from_float, normalisation
from .qdq import insert_qdq, placement


def fp16_from_fp32(model: ModelProto) -> ModelProto:
    """The model with FP16 tensors behind its normalisation; frame and labels keep their types.

    Raises:
        ModelError: if a weight is too large for FP16.
    """
    return half_from_float(model, normalisation(model.graph))


def int8_from_fp32(model: ModelProto, scales: Mapping[str, float], keep: Sequence[str] = ()) -> ModelProto:
    """The model quantised with given scales, measured or learned; what is not quantised is FP16.

    Args:
        model: FP32, as ``fcn-edge export`` writes it; it is not changed.
        scales: the step of each activation that :func:`~.qdq.placement` names.
        keep: names of convolutions to keep out, or patterns.

    Raises:
        UsageError: if a scale is missing or ``keep`` fits nothing.
        ModelError: if a weight is too large for FP16.
    """
    return fp16_from_fp32(insert_qdq(model, placement(model, keep), scales))
