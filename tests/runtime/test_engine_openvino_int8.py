"""INT8 on CPUs whose kernels overflow: what is rewritten, that the answers stay, and OpenVINO made to be such a CPU."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")

from onnx import numpy_helper  # noqa: E402

from fcn_edge import street  # noqa: E402
from fcn_edge.runtime.engine_openvino_int8 import overflows, without_overflow  # noqa: E402
from fcn_edge.runtime.onnx_file import split_onnx  # noqa: E402
from fcn_edge.shipped import shipped_models  # noqa: E402

HOLDS = 2**15 - 1


@pytest.fixture
def network(request, tmp_path, lively_model, contract_of) -> bytes:
    """A quantised network of the name given, up to its score maps; half of its activations are cut at 127 steps."""
    from fcn_edge.export.qdq import insert_qdq, placement
    from fcn_edge.export.to_onnx import onnx_from_model

    model = lively_model(request.param, 5)
    exported = onnx_from_model(model, contract_of(model, (64, 96)))
    where = placement(exported)
    onnx.save(insert_qdq(exported, where, dict.fromkeys(where.tensors, 0.01)), tmp_path / "int8.onnx")
    return split_onnx(tmp_path / "int8.onnx").network


def largest_sum(network: bytes) -> int:
    """The largest sum of two products that a convolution of integers can come to where activations are unsigned."""
    graph = onnx.load_model_from_string(network).graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    largest = 0
    for node in (node for node in graph.node if node.op_type == "Conv"):
        data, weight = (makers.get(name) for name in node.input[:2])
        while data is not None and data.op_type in ("Resize", "MaxPool", "Concat"):
            data = makers.get(data.input[0])
        if data is None or weight is None or weight.op_type != "DequantizeLinear":
            continue
        assert data.op_type == "DequantizeLinear"
        shifted = 127 if constants[data.input[2]].dtype == np.uint8 else 255
        two = np.sort(np.abs(constants[weight.input[0]].astype(int)).reshape(-1))[-2:]
        largest = max(largest, shifted * int(two.sum()))
    return largest


def scores(network: bytes, frame: np.ndarray) -> list[np.ndarray]:
    """What the file says, rounded as it says and summed in FP32, whatever the CPU is."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: frame[None]})


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        ("fcn8s-edge-n", False),
        ("fcn16s-resnet18", False),
        ("fcn8s-googlenet", False),
        ("fcn4s-efficientnet-lite0-slim-fpn", True),
        ("fcn8s-edge-n-ppm-fpn", True),
    ],
    indirect=["network"],
)
def test_sums_fit_and_answers_stay(network, changes) -> None:
    """Only the last two networks have convolutions that read what may be negative."""
    rewritten = without_overflow(network)
    assert largest_sum(network) == 255 * 2 * 127 > HOLDS
    assert largest_sum(rewritten) <= HOLDS
    frame = street.draw_street(1, 1.0, (64, 96))[0]
    before, after = scores(network, frame), scores(rewritten, frame)
    for one, other in zip(before, after, strict=True):
        assert one.std() > 0
        difference = np.abs(one - other).mean() / one.std()
        assert 0 < difference < 0.05 if changes else difference < 1e-5


@pytest.mark.parametrize("network", ["fcn8s-edge-n-ppm-fpn"], indirect=True)
def test_averages_behind_a_relu_are_not_negative(network) -> None:
    """So the convolution that reads them keeps its weights, and the one that reads a sum of them does not."""
    before, after = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_model_from_string(each).graph.initializer}
        for each in (network, without_overflow(network))
    )
    reads_averages, reads_a_sum = "backbone.context.widen.0.weight", "backbone.coarsest.0.weight"
    assert np.array_equal(before[reads_averages], after[reads_averages])
    assert not np.array_equal(before[reads_a_sum], after[reads_a_sum])


# Runs where OpenVINO is told, by a variable of oneDNN inside it, to know no newer instructions than AVX2.
PROGRAM = """
import sys
import numpy as np
from fcn_edge import street
from fcn_edge.runtime import engine_openvino, open_engine
overflow = engine_openvino.overflows(engine_openvino.require_openvino())
frame = street.draw_street(3, 1.0, (360, 480))[0]
labels = []
for known in (True, False):
    if not known:
        engine_openvino.overflows = lambda ov: False
    with open_engine(sys.argv[1], threads=1) as engine:
        labels.append(engine.infer(frame))
np.savez(sys.argv[2], *labels, overflow=overflow)
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86 alone has these instructions")
def test_an_old_cpu_gives_the_labels_of_the_file(tmp_path) -> None:
    model = shipped_models()["camvid-n"]
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    found = tmp_path / "labels.npz"
    subprocess.run([sys.executable, "-c", PROGRAM, str(model), str(found)], check=True, env=environment)
    old = np.load(found)
    if not old["overflow"]:
        pytest.skip("this OpenVINO's kernels do not overflow")
    frame = street.draw_street(3, 1.0, (360, 480))[0]
    (expected,) = scores(Path(model).read_bytes(), frame)
    agreement, as_openvino_comes = ((old[name] == expected.view(np.uint8)[0]).mean() for name in ("arr_0", "arr_1"))
    assert agreement > 0.95  # 0.99 with the newest ONNX Runtime; a drawn street is no picture that it knows well
    assert as_openvino_comes < 0.8, "if nothing overflows, this test shows nothing"


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="Linux alone lists a CPU's instructions there")
def test_this_cpu_is_told_by_its_instructions() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    if platform.machine() != "x86_64" or "ONEDNN_MAX_CPU_ISA" in os.environ:
        pytest.skip("the instructions of another architecture, or not all of them are used")
    assert overflows(openvino) is not bool(flags & {"avx512_vnni", "avx_vnni", "amx_int8"})
