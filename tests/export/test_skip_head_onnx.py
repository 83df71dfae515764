"""SkipHead's ONNX function: valid, run by plain ONNX Runtime, and the same labels as the fused call."""

from __future__ import annotations

import numpy as np
import pytest

from fcn_edge.errors import ModelError
from fcn_edge.runtime.onnx_file import HEAD_DOMAIN, HEAD_OP
from fcn_edge.skip_head import skip_head

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from fcn_edge.export.skip_head_onnx import (  # noqa: E402  (needs onnx)
    skip_head_function,
    skip_head_model,
    skip_head_node,
)


def _labels(model: onnx.ModelProto, scores: list[np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {value.name: array for value, array in zip(session.get_inputs(), scores, strict=True)}
    (labels,) = session.run(None, feed)
    assert labels.dtype == np.int8
    return labels.view(np.uint8)


def _integers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-4, 5, shape).astype(np.float32)


def _case(seed: int, n: int, c: int, s: int, grid: tuple[int, int], batch: int = 1) -> tuple[list, list]:
    rng = np.random.default_rng(seed)
    scores = [_integers(rng, batch, c, grid[0] << i, grid[1] << i) for i in range(n)]
    kernels = [_integers(rng, c, 1, 4, 4) for _ in range(n - 1)] + [_integers(rng, c, 1, 2 * s, 2 * s)]
    return scores, kernels


@pytest.mark.parametrize(("n", "s"), [(1, 32), (2, 16), (3, 8), (4, 4), (2, 2)])
def test_onnx_runtime_gives_the_same_labels(n: int, s: int):
    grid, c = (2, 3), 7
    scores, kernels = _case(n, n, c, s, grid, batch=2)
    full = tuple(s * side << (n - 1) for side in grid)
    for size in [full, (full[0] - 3, full[1] - 5), (1, full[1])]:
        model = skip_head_model(kernels, grid, size, batch=2)
        assert model.graph.node[-1].op_type == HEAD_OP
        np.testing.assert_array_equal(_labels(model, scores), skip_head(scores, kernels, size))


@pytest.mark.parametrize("c", [1, 128, 129, 256])
def test_ids_keep_their_byte(c: int):
    scores, kernels = [np.zeros((1, c, 1, 8), np.float32)], [np.ones((c, 1, 4, 4), np.float32)]
    expected = [0, c // 3, c // 2, max(c - 2, 0), c - 1]
    for j, label in enumerate(expected):
        scores[0][0, label, 0, j] = 2 + j  # the last cells win over their neighbours where both reach
    labels = _labels(skip_head_model(kernels, (1, 8), (2, 16)), scores)
    np.testing.assert_array_equal(labels, skip_head(scores, kernels, (2, 16)))
    assert labels.max() == c - 1


def test_the_reference_evaluator_agrees():
    scores, kernels = _case(9, 3, 130, 4, (1, 2))
    model = skip_head_model(kernels, (1, 2), (15, 30))
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator(model)
    (labels,) = evaluator.run(None, {f"scores_{i + 1}": array for i, array in enumerate(scores)})
    np.testing.assert_array_equal(labels.view(np.uint8), skip_head(scores, kernels, (15, 30)))


def test_the_node_carries_size_and_order():
    node = skip_head_node(["a", "b"], ["k", "l"], "labels", (360, 480))
    assert (node.domain, node.op_type) == (HEAD_DOMAIN, HEAD_OP)
    assert list(node.input) == ["a", "b", "k", "l"]
    assert {a.name: list(a.ints) for a in node.attribute} == {"size": [360, 480]}


def test_the_function_takes_its_size_from_the_node():
    """One function serves nodes of several sizes."""
    scores, kernels = _case(3, 1, 3, 4, (2, 2))
    model = skip_head_model(kernels, (2, 2), (8, 8))
    second = skip_head_node(["scores_1"], ["kernel_1"], "small", (5, 3), name="second")
    model.graph.node.append(second)
    model.graph.output.append(onnx.helper.make_tensor_value_info("small", onnx.TensorProto.INT8, [1, 5, 3]))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    large, small = session.run(None, {"scores_1": scores[0]})
    np.testing.assert_array_equal(large[:, :5, :3], small)


@pytest.mark.parametrize(
    ("stages", "classes", "stride", "message"),
    [
        (0, 3, 8, r"got 0 score maps; expected 1 \(FCN-32s\) to 4 \(FCN-4s\)"),
        (5, 3, 8, r"got 5 score maps"),
        (3, 257, 8, r"got 257 classes; expected 1 to 256"),
        (3, 3, 12, r"final stride of 12; expected a power of two"),
    ],
)
def test_what_is_out_of_range_is_refused(stages: int, classes: int, stride: int, message: str):
    with pytest.raises(ModelError, match=message):
        skip_head_function(stages, classes, stride)


def test_kernels_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="equally many"):
        skip_head_node(["a"], [], "labels", (4, 4))
    with pytest.raises(ModelError, match=r"kernels\[0\] is \[3, 1, 6, 4\]; expected \[3, 1, 4, 4\]"):
        skip_head_model([np.zeros((3, 1, 6, 4), np.float32)], (2, 2), (4, 4))
