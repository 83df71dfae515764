"""Takes what rounding weights adds to a convolution's mean output out of its bias; knows nothing about frames or files.

Rounding errors of a channel's weights do not cancel where its inputs are all positive, as behind a ReLU: the channel's
output is shifted, and so are the labels. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, section 4.2, with means measured on frames instead of derived from batch norm.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from .qdq import Placement, rounded_weight


def corrected(model: ModelProto, where: Placement, means: Mapping[str, NDArray[np.float64]]) -> ModelProto:
    """A model whose biases make up for the rounding of its weights.

    Args:
        model: FP32; it is not changed.
        where: which convolutions' weights will be rounded.
        means: of each activation that they read the mean of each channel ``[C]`` over frames, not rounded.

    Returns:
        A new model that differs in the biases of ``where.layers``. At an image's border, where zeros pad, the shift is
        smaller than what is taken out.
    """
    result = ModelProto()
    result.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in result.graph.initializer}
    for node in result.graph.node:
        if node.name in where.layers:
            weight, bias = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
            shift = _shift(rounded_weight(weight) - weight, means[node.input[0]])
            constants[node.input[2]].CopyFrom(numpy_helper.from_array((bias - shift).astype(np.float32), node.input[2]))
    return result


def _shift(error: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much an error of weights ``[out, in / groups, k, k]`` adds to the mean of each output channel ``[out]``."""
    summed = error.astype(np.float64).sum((2, 3))
    groups = len(mean) // summed.shape[1]
    read = mean.reshape(groups, -1).repeat(len(summed) // groups, axis=0)  # [out, in / groups]
    shift: NDArray[np.float64] = (summed * read).sum(1)
    return shift
