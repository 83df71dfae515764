"""Brings the frame into an OpenVINO network the fast way; knows nothing about how the network is compiled or run.

A file turns the frame channels first and then normalises it, as TensorRT wants it. OpenVINO's convolutions take
channels last, so it would turn the frame there and back, and normalise it three values at a time.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

_STEPS = ("Convert", "Transpose", "Subtract", "Divide")


def normalise_by_rows(ov: ModuleType, network: Any) -> bool:
    """Normalise whole rows of the frame before the transposition, which then meets the convolution and vanishes.

    The same operations on the same values in another order, so labels do not change.

    Args:
        ov: the module ``openvino``.
        network: an OpenVINO model whose first input is the frame, uint8 ``[1, H, W, 3]``; it is changed.

    Returns:
        Whether the network begins as ``fcn-edge export`` writes it; if not, it is left as it is.
    """
    frame = network.inputs[0]
    steps = _chain(frame)
    if [step.get_type_name() for step in steps] != list(_STEPS):
        return False
    _, transpose, subtract, divide = steps
    mean, std = (_constant(step) for step in (subtract, divide))
    _, height, width, channels = frame.shape
    if mean is None or std is None or mean.size != channels or std.size != channels:
        return False
    op = ov.opset13
    rows = op.convert(op.reshape(frame, np.array([1, 1, height, width * channels]), False), "f32")
    normal = op.divide(op.subtract(rows, _row(op, mean, width)), _row(op, std, width))
    image = op.reshape(normal, np.array([1, height, width, channels]), False)
    turned = op.transpose(image, transpose.input_value(1))
    for reader in list(divide.output(0).get_target_inputs()):
        reader.replace_source_output(turned.output(0))
    network.validate_nodes_and_infer_types()
    return True


def _chain(output: Any) -> list[Any]:
    """The nodes behind an output, as many as there are steps, while each has a single reader."""
    found: list[Any] = []
    while len(found) < len(_STEPS):
        readers = list(output.get_target_inputs())
        if len(readers) != 1:
            break
        found.append(readers[0].get_node())
        output = found[-1].output(0)
    return found


def _constant(step: Any) -> Any:
    """The second operand, flat; None if it is no constant."""
    source = step.input_value(1).get_node()
    return source.get_data().ravel().astype(np.float32) if source.get_type_name() == "Constant" else None


def _row(op: Any, values: Any, width: int) -> Any:
    """The values of the channels as one row of a frame, ``[1, 1, 1, W * 3]``."""
    return op.constant(np.tile(values, width)[None, None, None])
