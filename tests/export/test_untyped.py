"""A typed file made FP32 again: what it was made from, and the same file once more when it is typed anew."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

from onnx import numpy_helper  # noqa: E402

from fcn_edge.export.qdq import placement, weight_scales  # noqa: E402
from fcn_edge.export.to_onnx import onnx_from_model  # noqa: E402
from fcn_edge.export.typed import fp16_from_fp32, int8_from_fp32  # noqa: E402
from fcn_edge.export.untyped import fp32_from_typed, steps_of  # noqa: E402


@pytest.fixture(scope="module", params=["fcn4s-edge-n", "fcn8s-efficientnet-lite0"])
def exported(request, lively_model, contract_of):
    model = lively_model(request.param, 5)
    proto = onnx_from_model(model, contract_of(model, (64, 96)))
    onnx.helper.set_model_props(proto, {})
    return proto


def scales_of(model: onnx.ModelProto) -> dict[str, float]:
    return {tensor: 0.01 * (index + 1) for index, tensor in enumerate(placement(model).tensors)}


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("keep", [(), ("backbone.*1*",)])
def test_int8_and_back_is_the_same_graph_with_weights_rounded_once(exported, keep) -> None:
    int8 = int8_from_fp32(exported, scales_of(exported), keep)
    plain = fp32_from_typed(int8)
    onnx.checker.check_model(plain, full_check=True)
    assert list(plain.graph.node) == list(exported.graph.node)
    assert list(plain.graph.input) == list(exported.graph.input)
    before, after, where = arrays(exported), arrays(plain), placement(exported, keep)
    assert after.keys() == before.keys()
    for name, values in before.items():
        assert after[name].dtype == values.dtype
        if name.removesuffix(".weight") in where.layers:
            steps = weight_scales(values).reshape(-1, 1, 1, 1)
            assert np.abs(after[name] - values).max() > 0
            assert (np.abs(after[name] - values) <= 0.501 * steps).all()
        else:
            np.testing.assert_allclose(after[name], values, rtol=1e-3, atol=1e-7)
    again = int8_from_fp32(plain, steps_of(int8), keep)
    assert again.SerializeToString(deterministic=True) == int8.SerializeToString(deterministic=True)


def test_fp16_and_back_is_the_same_graph(exported) -> None:
    half = fp16_from_fp32(exported)
    plain = fp32_from_typed(half)
    onnx.checker.check_model(plain, full_check=True)
    assert list(plain.graph.node) == list(exported.graph.node)
    assert {values.dtype for values in arrays(half).values()} > {np.dtype(np.float16)}
    assert np.dtype(np.float16) not in {values.dtype for values in arrays(plain).values()}
    assert fp16_from_fp32(plain).SerializeToString(deterministic=True) == half.SerializeToString(deterministic=True)


def test_an_fp32_model_is_what_it_was(exported) -> None:
    plain = fp32_from_typed(exported)
    assert list(plain.graph.node) == list(exported.graph.node)
    for name, values in arrays(exported).items():
        np.testing.assert_array_equal(arrays(plain)[name], values)
