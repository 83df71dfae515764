"""TensorRT's own parser finds the fused head's plugin, its builder builds it in; nothing here can run it."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fcn_edge.export.skip_head_onnx import skip_head_model
from fcn_edge.export.to_onnx import onnx_from_model
from fcn_edge.runtime.onnx_file import HEAD_DOMAIN, HEAD_OP

HERE = Path(__file__).parent


def without_function(model: onnx.ModelProto) -> onnx.ModelProto:
    """All that an engine builder does for the plugin: a model that holds the function is parsed without the plugin."""
    fused = copy.deepcopy(model)
    kept = [function for function in fused.functions if (function.domain, function.name) != (HEAD_DOMAIN, HEAD_OP)]
    del fused.functions[:]
    fused.functions.extend(kept)
    return fused


def head(
    stages: int = 3,
    classes: int = 11,
    scores: int = TensorProto.FLOAT,
    kernels: int = TensorProto.FLOAT,
    batch: int | str = 1,
    size: tuple[int, int] = (70, 101),
) -> onnx.ModelProto:
    """A model that is nothing but the head, of any types, without its function."""
    rng = np.random.default_rng(0)
    s = 32 >> (stages - 1)
    sides = [4] * (stages - 1) + [2 * s]
    model = skip_head_model([rng.standard_normal((classes, 1, k, k)).astype(np.float32) for k in sides], (3, 4), size)
    model = without_function(model)
    for value in model.graph.input:
        value.type.tensor_type.elem_type = scores
        if isinstance(batch, str):
            value.type.tensor_type.shape.dim[0].dim_param = batch
        else:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    if kernels == TensorProto.FLOAT16:
        for tensor in model.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    return model


@pytest.fixture
def report_of(tensorrt_site: Path, plugin_library: Path, tmp_path: Path):
    def report(model: onnx.ModelProto) -> dict[str, Any]:
        file = tmp_path / "model.onnx"
        file.write_bytes(model.SerializeToString())
        command = [sys.executable, str(HERE / "build_engine.py"), str(file), str(plugin_library)]
        environment = os.environ | {"PYTHONPATH": str(tensorrt_site), "CUDA_VISIBLE_DEVICES": ""}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert result.returncode == 0, result.stderr[-2000:]
        return json.loads(result.stdout)

    return report


def kinds(report: dict[str, Any]) -> list[str]:
    return [kind for _, kind, _ in report["layers"]]


@pytest.mark.parametrize(("name", "classes"), [("32s", 1), ("16s", 19), ("8s", 11), ("4s", 21)])
def test_a_network_with_the_fused_head_builds(report_of, lively_model, contract_of, name: str, classes: int) -> None:
    model = lively_model(f"fcn{name}-edge-n", classes)
    exported = onnx_from_model(model, contract_of(model, (70, 101)))
    report = report_of(without_function(exported))
    assert report["parsed"], report["errors"]
    assert not [text for text in report["messages"] if not text.startswith("WARNING")]
    assert report["outputs"] == [["labels", "INT8", [1, 70, 101]]]
    assert kinds(report).count("PLUGIN_V3") == 1
    assert not {"DECONVOLUTION", "TOPK"} & set(kinds(report))
    weights = sum(len(tensor.raw_data) for tensor in exported.graph.initializer)
    assert report["plan_bytes"] > 0.9 * weights


def test_the_function_comes_before_the_plugin(report_of, lively_model, contract_of) -> None:
    """Why the builder has to remove it."""
    model = lively_model("fcn8s-edge-n", 5)
    report = report_of(onnx_from_model(model, contract_of(model, (64, 64))))
    assert report["parsed"]
    assert "PLUGIN_V3" not in kinds(report)


@pytest.mark.parametrize("kernels", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize("scores", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_every_pair_of_types_builds(report_of, scores: int, kernels: int) -> None:
    report = report_of(head(scores=scores, kernels=kernels))
    assert report["parsed"], report["errors"]
    assert report["layers"][-1][1:] == ["PLUGIN_V3", "INT8"]
    assert report["plan_bytes"]


def test_a_batch_builds(report_of) -> None:
    report = report_of(head(batch=4))
    assert report["outputs"] == [["labels", "INT8", [4, 70, 101]]]
    assert report["plan_bytes"]


def test_a_dynamic_batch_builds(report_of) -> None:
    report = report_of(head(batch="N"))
    assert report["parsed"], report["errors"]
    assert report["plan_bytes"], report["messages"]
    assert report["outputs"] == [["labels", "INT8", [-1, 70, 101]]]


def bfloat16() -> onnx.ModelProto:
    model = head()
    cast = helper.make_node("Cast", ["scores_1"], ["narrow"], to=TensorProto.BFLOAT16)
    model.graph.node.insert(0, cast)
    model.graph.node[1].input[0] = "narrow"
    return model


def mixed() -> onnx.ModelProto:
    model = head()
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def dynamic_height() -> onnx.ModelProto:
    model = head()
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[2].dim_param = f"h_{value.name}"
    return model


def unfitting_grid() -> onnx.ModelProto:
    model = head()
    model.graph.input[1].type.tensor_type.shape.dim[2].dim_value = 7
    return model


def unequal_numbers() -> onnx.ModelProto:
    model = head()
    del model.graph.node[0].input[-1]
    return model


def without_size() -> onnx.ModelProto:
    model = head()
    del model.graph.node[0].attribute[:]
    return model


def size_of_three() -> onnx.ModelProto:
    model = head()
    model.graph.node[0].attribute[0].ints.append(3)
    return model


def too_large() -> onnx.ModelProto:
    model = head()
    model.graph.node[0].attribute[0].ints[0] = 97
    return model


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (bfloat16, "[skip_head] scores[0] is BF16; expected FP32 or FP16"),
        (mixed, "[skip_head] scores[1] is FP16 and scores[0] FP32; they must be of one type"),
        (dynamic_height, "[skip_head] scores[0] changes its size along axis 2; only the batch may be dynamic"),
        (unfitting_grid, "[skip_head] scores[1] is 7x8; expected 6x8, twice as fine as scores[0]"),
        (unequal_numbers, "[skip_head] got 5 inputs; expected 1 to 4 score maps and as many kernels"),
        (without_size, "[skip_head] attribute size is (0, 0); expected (height, width) of the labels"),
        (size_of_three, "[skip_head] attribute size holds 3 values"),
        (too_large, "[skip_head] size is 97x101; expected 1x1 to 96x128"),
    ],
)
def test_what_is_refused_is_said_in_a_sentence(report_of, broken, sentence: str) -> None:
    report = report_of(broken())
    assert report["plan_bytes"] == 0
    assert any(sentence in text for text in report["messages"]), report["messages"]
