"""What TensorRT's parser is given: with the head's function or without it, one frame or several."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from fcn_edge.errors import ModelError
from fcn_edge.export.engine_onnx import BATCH, onnx_for_engine
from fcn_edge.shipped import shipped_models
from fcn_edge.street import draw_street


@pytest.mark.parametrize("path", shipped_models().values(), ids=shipped_models())
def test_models_that_ship_take_several_frames(path: Path) -> None:
    model = onnx.load_from_string(onnx_for_engine(path, fused=True, dynamic=True))
    assert not model.functions
    for value in (model.graph.input[0], model.graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_param == BATCH


@pytest.mark.parametrize("path", shipped_models().values(), ids=shipped_models())
def test_bounds_of_clips_are_written_out_and_change_no_label(path: Path) -> None:
    data = onnx_for_engine(path, fused=False, dynamic=False)
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    clips = [node for node in model.graph.node if node.op_type == "Clip"]
    assert clips
    assert {tuple(float(constants[name]) for name in node.input[1:]) for node in clips} == {(0.0, 6.0)}
    assert not {"CastLike", "Constant"} & {node.op_type for node in model.graph.node}
    frame, _ = draw_street(0, 0.0, (360, 480))
    labels = []
    for file in (path.read_bytes(), data):
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        _, height, width, _ = session.get_inputs()[0].shape
        labels.append(session.run(None, {"image": cv2.resize(frame, (width, height))[None]})[0])
    np.testing.assert_array_equal(*labels)


def test_a_graph_for_one_frame_alone_is_refused(tmp_path: Path) -> None:
    model = onnx.load(shipped_models()["camvid-n"])
    head = model.graph.node.pop()
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    (scores,) = (value for value in inferred.value_info if value.name == head.input[0])
    shape = [dim.dim_value for dim in scores.type.tensor_type.shape.dim]
    model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), "one_frame"))
    model.graph.node.append(helper.make_node("Reshape", [head.input[0], "one_frame"], ["fixed"]))
    head.input[0] = "fixed"
    model.graph.node.append(head)
    path = tmp_path / "fixed.onnx"
    onnx.save(model, path)
    assert onnx_for_engine(path, fused=False, dynamic=False)
    with pytest.raises(ModelError, match="fixes the number of frames"):
        onnx_for_engine(path, fused=False, dynamic=True)
