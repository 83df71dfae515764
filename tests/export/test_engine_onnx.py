"""What TensorRT's parser is given: with the head's function or without it, one frame or several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from fcn_edge.errors import ModelError
from fcn_edge.export.engine_onnx import BATCH, onnx_for_engine
from fcn_edge.shipped import shipped_models


@pytest.mark.parametrize("path", shipped_models().values(), ids=shipped_models())
def test_models_that_ship_take_several_frames(path: Path) -> None:
    model = onnx.load_from_string(onnx_for_engine(path, fused=True, dynamic=True))
    assert not model.functions
    for value in (model.graph.input[0], model.graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_param == BATCH


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
