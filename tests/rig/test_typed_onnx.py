"""TensorRT's parser and builder take FP16 and INT8 files strongly typed, with the types that the files say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from fcn_edge.export.engine_onnx import onnx_for_engine
from fcn_edge.export.qdq import insert_qdq, placement, rounded_at_once
from fcn_edge.export.to_onnx import onnx_from_model
from fcn_edge.export.typed import fp16_from_fp32, int8_from_fp32

BUILD = Path(__file__).with_name("build_engine.py")


@pytest.fixture(scope="module")
def exported(lively_model, contract_of) -> onnx.ModelProto:
    model = lively_model("fcn8s-edge-n", 11)
    return onnx_from_model(model, contract_of(model, (70, 101)))


def report(site: Path, folder: Path, model: onnx.ModelProto) -> dict[str, Any]:
    file = folder / "model.onnx"
    file.write_bytes(model.SerializeToString())
    environment = os.environ | {"PYTHONPATH": str(site), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(BUILD), str(file)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["parsed"], found["errors"]
    assert found["plan_bytes"] > 100_000
    assert found["inputs"] == [["image", "UINT8", [1, 70, 101, 3]]]
    assert found["outputs"] == [["labels", "INT8", [1, 70, 101]]]
    return found


def test_fp16(tensorrt_site, tmp_path, exported) -> None:
    found = report(tensorrt_site, tmp_path, fp16_from_fp32(exported))
    kinds = ("CONVOLUTION", "DECONVOLUTION", "ACTIVATION")
    assert Counter(dtype for _, kind, dtype in found["layers"] if kind in kinds) == {"HALF": 24 + 3 + 18}
    assert not [text for text in found["messages"] if not text.startswith("WARNING")]


def test_int8(tensorrt_site, tmp_path, exported) -> None:
    where = placement(exported)
    steps = dict(zip(where.tensors, np.random.default_rng(0).uniform(0.01, 0.2, len(where.tensors)), strict=True))
    at_once = rounded_at_once(exported, where)
    assert set(at_once) == set(where.layers)
    found = report(tensorrt_site, tmp_path, int8_from_fp32(exported, steps))
    layers = Counter((kind, dtype) for _, kind, dtype in found["layers"])
    assert layers["QUANTIZE", "INT8"] == len(where.tensors) == 28
    read = {node.input[0] for node in exported.graph.node if node.name in where.layers}
    assert layers["DEQUANTIZE", "FLOAT"] == len(where.layers) + len(read)
    assert (layers["CONVOLUTION", "HALF"], layers["CONVOLUTION", "FLOAT"]) == (4, 20)
    assert not [text for text in found["messages"] if not text.startswith("WARNING")]
    # Where all around integers is FP16, the builder speaks of each convolution that it fuses with the Q/DQ around it:
    # all that were meant, no other. Where it is FP32 there is nothing to convert and to tell; the plan is the same.
    half = report(tensorrt_site, tmp_path, fp16_from_fp32(insert_qdq(exported, where, steps)))
    assert Counter(text.rsplit("Converting ", 1)[-1] for text in half["messages"]) == {
        "conv activation scales to fp32.": len(where.layers),
        "conv weight scales to fp32.": len(where.layers),
    }
    assert found["plan_bytes"] == pytest.approx(half["plan_bytes"], rel=0.02)


@pytest.mark.parametrize("to_typed", [fp16_from_fp32, lambda model: model], ids=["fp16", "fp32"])
def test_a_clip_is_one_activation(tensorrt_site, tmp_path, lively_model, contract_of, to_typed) -> None:
    model = lively_model("fcn8s-efficientnet-lite0-slim", 11)
    typed = to_typed(onnx_from_model(model, contract_of(model, (70, 101))))
    clips = sum(node.op_type == "Clip" for node in typed.graph.node)
    path = tmp_path / "typed.onnx"
    onnx.save(typed, path)
    given = onnx.load_from_string(onnx_for_engine(path, fused=False, dynamic=False))
    kinds = [Counter(kind for _, kind, _ in report(tensorrt_site, tmp_path, one)["layers"]) for one in (typed, given)]
    assert [kind["ACTIVATION"] for kind in kinds] == [0, clips]
    assert kinds[0]["ELEMENTWISE"] - kinds[1]["ELEMENTWISE"] == 2 * clips
