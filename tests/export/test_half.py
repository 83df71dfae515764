"""FP16 files: which tensors are FP16, and labels that stay those of FP32."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("torch")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from fcn_edge.errors import ModelError  # noqa: E402
from fcn_edge.export.half import half_from_float, normalisation  # noqa: E402
from fcn_edge.export.to_onnx import onnx_from_model  # noqa: E402
from fcn_edge.export.typed import fp16_from_fp32  # noqa: E402
from fcn_edge.export.verify import noise_frames  # noqa: E402


@pytest.fixture(scope="module")
def exported(lively_model, contract_of):
    model = lively_model("fcn8s-edge-n", 5)
    return onnx_from_model(model, contract_of(model, (70, 101)))


def types(model: onnx.ModelProto) -> dict[str, str]:
    """Tensor -> type, of everything that is computed or stored."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = {value.name: value.type.tensor_type.elem_type for value in [*graph.input, *graph.value_info]}
    values |= {value.name: value.type.tensor_type.elem_type for value in graph.output}
    values |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {name: TensorProto.DataType.Name(value) for name, value in values.items()}


def test_everything_behind_the_normalisation_is_fp16(exported) -> None:
    half = fp16_from_fp32(exported)
    onnx.checker.check_model(half, full_check=True)
    assert normalisation(exported.graph) == {"_to_copy", "permute", "sub", "div"}
    found = types(half)
    assert {name for name, kind in found.items() if kind == "FLOAT"} == {
        "_to_copy",
        "permute",
        "sub",
        "div",
        "mean",
        "std",
    }
    assert (found["image"], found["labels"]) == ("UINT8", "INT8")
    computing = [node for node in half.graph.node if node.op_type in ("Conv", "Relu", "Add", "Pad")]
    assert {found[node.output[0]] for node in computing} == {"FLOAT16"}
    assert {found[name] for name in half.graph.node[-1].input} == {"FLOAT16"}
    assert [node.op_type for node in half.graph.node].count("Cast") == 2
    names = {node.output[0]: node for node in half.graph.node}
    first = next(node for node in half.graph.node if node.op_type == "Conv")
    assert names[first.input[0]].op_type == "Pad"  # with a Cast in between OpenVINO would not merge them


def test_onnx_runtime_gives_the_labels_of_fp32(exported) -> None:
    def labels(model: onnx.ModelProto, frame: np.ndarray) -> np.ndarray:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"image": frame[None]})[0]

    for frame in noise_frames((70, 101), 2):
        expected = labels(exported, frame)
        assert len(np.unique(expected)) >= 3
        assert (labels(fp16_from_fp32(exported), frame) == expected).mean() > 0.995


def tiny(weight: float) -> onnx.ModelProto:
    """``y = relu(conv(x)) + c``, and a second reader of ``c``."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="a"),
        helper.make_node("Relu", ["a"], ["b"], name="b"),
        helper.make_node("Add", ["b", "c"], ["d"], name="d"),
        helper.make_node("Mul", ["d", "c"], ["y"], name="y"),
    ]
    shape = [1, 1, 2, 2]
    constants = [
        numpy_helper.from_array(np.full((1, 1, 1, 1), weight, np.float32), "w"),
        numpy_helper.from_array(np.full((1, 1, 1, 1), 3, np.float32), "c"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def test_casts_stand_on_the_edges_between_types_and_constants_exist_in_both() -> None:
    half = half_from_float(tiny(2), {"y"})
    onnx.checker.check_model(half, full_check=True)
    found = types(half)
    assert [found[name] for name in ("x", "x.half", "a", "b", "d", "d.float", "y")] == [
        *("FLOAT", "FLOAT16", "FLOAT16", "FLOAT16", "FLOAT16", "FLOAT", "FLOAT")
    ]
    assert (found["c"], found["c.half"], found["w"]) == ("FLOAT", "FLOAT16", "FLOAT16")
    session = onnxruntime.InferenceSession(half.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.array([[[[1, -1], [0.5, 2]]]], np.float32)})
    np.testing.assert_array_equal(y, [[[[15, 9], [12, 21]]]])


@pytest.mark.parametrize("weight", [70000.0, float("inf"), float("nan")])
def test_what_is_too_large_is_refused(weight) -> None:
    with pytest.raises(ModelError, match="w holds"):
        half_from_float(tiny(weight), {"y"})


def test_an_output_that_would_change_its_type_is_refused() -> None:
    with pytest.raises(ModelError, match="output y"):
        half_from_float(tiny(2), set())
