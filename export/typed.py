"""Typed models from FP32 ones, in memory: FP16, and INT8 with FP16 around it; knows nothing about frames or files.

FP16 is every tensor behind the normalisation, the score maps and the head's kernels among them. INT8 is what
:mod:`.qdq` places; a layer that makes integers of integers has its bias and steps in FP32, and all other tensors are
FP16. TensorRT takes the types as they are; the CPU engine computes what is FP16 in FP32 and what is INT8 in integers,
so one file serves both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from .bias_correction import corrected
from .half import half_from_float, normalisation
from .qdq import exact_nodes, insert_qdq, placement


def fp16_from_fp32(model: ModelProto) -> ModelProto:
    """The model with FP16 tensors behind its normalisation; frame and labels keep their types.

    Raises:
        ModelError: if a weight is too large for FP16.
    """
    return half_from_float(model, normalisation(model.graph))


def int8_from_fp32(
    model: ModelProto,
    scales: Mapping[str, float],
    keep: Sequence[str] = (),
    means: Mapping[str, NDArray[np.float64]] | None = None,
) -> ModelProto:
    """The model quantised with given scales, measured or learned; what is not quantised is FP16.

    Args:
        model: FP32, as ``fcn-edge export`` writes it; it is not changed.
        scales: the step of each activation that :func:`~.qdq.placement` names.
        keep: names of convolutions to keep out, or patterns.
        means: of the same activations the mean of each channel ``[C]``, to correct biases by
            (:mod:`.bias_correction`); None: they stay, as after training with rounding.

    Raises:
        UsageError: if a scale is missing or ``keep`` fits nothing.
        ModelError: if a weight is too large for FP16.
    """
    where = placement(model, keep)
    quantised = insert_qdq(model if means is None else corrected(model, where, means), where, scales)
    return half_from_float(quantised, normalisation(quantised.graph) | exact_nodes(model, where))
