"""Bias correction: exact where each channel of the input is constant, for every way of grouping channels."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from fcn_edge.export.bias_correction import corrected  # noqa: E402
from fcn_edge.export.qdq import Placement, insert_qdq  # noqa: E402


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_what_rounded_weights_add_is_taken_out(groups: int) -> None:
    random = np.random.default_rng(0)
    weight = random.normal(size=(8, 4 // groups, 3, 3)).astype(np.float32)
    bias = random.normal(size=8).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="layer", group=groups)
    shapes = {"x": [1, 4, 5, 6], "y": [1, 8, 3, 4]}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    constants = [numpy_helper.from_array(values, name) for name, values in {"w": weight, "b": bias}.items()]
    model = helper.make_model(helper.make_graph([node], "graph", [x], [y], constants))
    where = Placement(("layer",), (), ("x",))
    levels = np.array([3.0, 0.0, 11.0, 1.0])  # whole steps, so that nothing but weights is rounded
    image = np.broadcast_to(np.float32(levels).reshape(1, 4, 1, 1), (1, 4, 5, 6))

    def answer(candidate: onnx.ModelProto) -> np.ndarray:
        return ReferenceEvaluator(candidate).run(None, {"x": image})[0]

    off = answer(insert_qdq(model, where, {"x": 1.0})) - answer(model)
    assert np.abs(off).max() > 0.01
    mended = insert_qdq(corrected(model, where, {"x": levels}), where, {"x": 1.0})
    np.testing.assert_allclose(answer(mended), answer(model), atol=1e-5)
    untouched = corrected(model, Placement((), ("layer",), ()), {})
    assert untouched == model
