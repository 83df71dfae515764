"""The frame's way into OpenVINO: rewritten where a file begins as ours do, left alone elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

ov = pytest.importorskip("openvino")

from fcn_edge.runtime.engine_openvino_input import normalise_by_rows  # noqa: E402

MEAN, STD = np.float32([103.5, 116.25, 123.75]), np.float32([57.5, 57.25, 58.5])


def network(first: str = "convert", shape: tuple[int, ...] = (1, 3, 1, 1)):
    """Convert, Transpose, Subtract, Divide and a 3x3 convolution over uint8 ``[1, 10, 14, 3]``."""
    op = ov.opset13
    frame = op.parameter([1, 10, 14, 3], ov.Type.u8)
    order = np.array([0, 3, 1, 2])
    if first == "convert":
        image = op.transpose(op.convert(frame, "f32"), order)
    else:
        image = op.convert(op.transpose(frame, order), "f32")
    normal = op.divide(op.subtract(image, op.constant(MEAN.reshape(shape))), op.constant(STD.reshape(shape)))
    kernel = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    conv = op.convolution(normal, op.constant(kernel), [1, 1], [1, 1], [1, 1], [1, 1])
    return ov.Model([op.result(conv)], [frame])


def answer(model, frame: np.ndarray) -> np.ndarray:
    return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(frame[None])[0]


def test_the_same_values_in_another_order() -> None:
    frame = np.random.default_rng(1).integers(0, 256, (10, 14, 3)).astype(np.uint8)
    before, after = network(), network()
    assert normalise_by_rows(ov, after)
    kinds = [node.get_type_name() for node in after.get_ordered_ops()]
    assert kinds.index("Divide") < kinds.index("Transpose"), kinds
    np.testing.assert_allclose(answer(after, frame), answer(before, frame), rtol=1e-5, atol=1e-5)


def test_other_beginnings_are_left_alone() -> None:
    model = network(first="transpose")
    kinds = [node.get_type_name() for node in model.get_ordered_ops()]
    assert not normalise_by_rows(ov, model)
    assert [node.get_type_name() for node in model.get_ordered_ops()] == kinds
