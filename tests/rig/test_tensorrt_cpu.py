"""TensorRT's own parser and builder take the exported FP32 file as it is, its head expanded from the ONNX function."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest

from fcn_edge.export.to_onnx import onnx_from_model

HERE = Path(__file__).parent


@pytest.fixture
def report_of(tensorrt_site: Path, tmp_path: Path):
    def report(model: onnx.ModelProto) -> dict[str, Any]:
        file = tmp_path / "model.onnx"
        file.write_bytes(model.SerializeToString())
        command = [sys.executable, str(HERE / "build_engine.py"), str(file)]
        environment = os.environ | {"PYTHONPATH": str(tensorrt_site), "CUDA_VISIBLE_DEVICES": ""}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert result.returncode == 0, result.stderr[-2000:]
        return json.loads(result.stdout)

    return report


@pytest.mark.parametrize(("head", "stages"), [("32s", 1), ("8s", 3), ("4s", 4)])
def test_exported_file_parses_and_builds(report_of, lively_model, contract_of, head: str, stages: int) -> None:
    model = lively_model(f"fcn{head}-edge-n", 11)
    exported = onnx_from_model(model, contract_of(model, (70, 101)))
    report = report_of(exported)
    assert report["parsed"], report["errors"]
    assert not report["errors"]
    assert not [text for text in report["messages"] if not text.startswith("WARNING")]
    assert report["inputs"] == [["image", "UINT8", [1, 70, 101, 3]]]
    assert report["outputs"] == [["labels", "INT8", [1, 70, 101]]]

    kinds = Counter(kind for _, kind, _ in report["layers"])
    convs = sum(node.op_type == "Conv" for node in exported.graph.node)
    assert kinds["CONVOLUTION"] == convs
    assert kinds["DECONVOLUTION"] == stages
    assert kinds["TOPK"] == 1
    assert not [kind for kind in kinds if "PLUGIN" in kind]
    names = [name for name, _, _ in report["layers"]]
    assert "backbone.s8.block0.body.0.0" in names
    computing = {dtype for _, kind, dtype in report["layers"] if kind in ("CONVOLUTION", "DECONVOLUTION", "ACTIVATION")}
    assert computing == {"FLOAT"}
    weights = sum(len(tensor.raw_data) for tensor in exported.graph.initializer)
    assert report["plan_bytes"] > 0.9 * weights


def test_parser_refuses_what_it_cannot_know(report_of, lively_model, contract_of) -> None:
    """Without its function and without a plugin the head is unknown: the rig tells a good file from a bad one."""
    model = lively_model("fcn8s-edge-n", 3)
    exported = onnx_from_model(model, contract_of(model, (64, 64)))
    del exported.functions[:]
    report = report_of(exported)
    assert not report["parsed"]
    assert any("Plugin not found" in text for text in report["errors"]), report
    assert report["plan_bytes"] == 0
