"""What ``inspect`` reports: counts that agree with torch's, types by layer, and one sentence for each bad file."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

from fcn_edge.contract import Contract, dict_from_contract  # noqa: E402
from fcn_edge.errors import ModelError, UsageError  # noqa: E402
from fcn_edge.export.facts import facts_from_file  # noqa: E402
from fcn_edge.export.qdq import placement  # noqa: E402
from fcn_edge.export.to_onnx import onnx_from_model  # noqa: E402
from fcn_edge.export.typed import fp16_from_fp32, int8_from_fp32  # noqa: E402
from fcn_edge.model.fcn import count_gmacs, count_params  # noqa: E402
from fcn_edge.runtime.sidecar import Library, Options, Precision, Sidecar, write_sidecar  # noqa: E402
from fcn_edge.training.checkpoint import Checkpoint, save_checkpoint  # noqa: E402
from fcn_edge.training.config import TrainConfig  # noqa: E402

SIDECAR = Sidecar(
    contract=Contract("x", (4, 6), ("a", "b"), ((0, 0, 0), (1, 1, 1)), (0, 0, 0), (1, 1, 1), (16, 8)),
    precision=Precision(asked="fp16", found={"fp16": 1.0}, audited="engine"),
    plan_sha256=hashlib.sha256(b"a plan").hexdigest(),
    onnx="m.onnx",
    onnx_sha256="o",
    tensorrt=Library(package="tensorrt", version="10.3.0"),
    cuda="12.6",
    gpu=None,
    plugin=None,
    options=Options(),
)


@pytest.fixture(scope="module")
def exported(lively_model, contract_of):
    model = lively_model("fcn8s-edge-n", 11)
    return model, contract_of(model, (70, 99)), onnx_from_model(model, contract_of(model, (70, 99)))


def written(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def test_onnx(tmp_path, exported) -> None:
    model, contract, proto = exported
    path = written(tmp_path / "m.onnx", proto)
    facts = facts_from_file(path)
    assert facts_from_file(str(path)) == facts
    assert facts["contract"] == dict_from_contract(contract)
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (facts["kind"], facts["bytes"]) == ("onnx", path.stat().st_size)
    assert facts["gmacs"] == pytest.approx(count_gmacs(model, (70, 99)), rel=1e-12)
    # Folding turns a batch norm's scale and shift into one bias, so each norm's width is gone from the count.
    norms = sum(module.num_features for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert facts["params"] == count_params(model) - norms
    assert facts["precision"] == {"fp32": 1.0}
    assert len(facts["layers"]) == sum(node.op_type in ("Conv", "SkipHead") for node in proto.graph.node)
    assert facts["opset"] == {"ai.onnx": 19, "fcn_edge": 1}
    assert facts["producer"].startswith("fcn_edge ")
    json.dumps(facts)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("size_hw", [(70, 99), (64, 96)])
def test_gmacs_with_a_top_down_pathway(tmp_path, lively_model, contract_of, size_hw, precision) -> None:
    model = lively_model("fcn4s-edge-n-fpn", 5)
    proto = onnx_from_model(model, contract_of(model, size_hw))
    if precision == "fp16":
        proto = fp16_from_fp32(proto)
    elif precision == "int8":
        proto = int8_from_fp32(proto, dict.fromkeys(placement(proto).tensors, 0.05))
    facts = facts_from_file(written(tmp_path / "m.onnx", proto))
    assert facts["gmacs"] == pytest.approx(count_gmacs(model, size_hw), rel=1e-12)


def test_mixed_precision_is_told_by_layer(tmp_path, exported) -> None:
    """One convolution quantised by hand, the score convolutions in FP16: shares by type of the weighted layers."""
    _, _, exported_proto = exported
    proto = onnx.ModelProto()
    proto.CopyFrom(exported_proto)
    graph = proto.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    conv = next(node for node in graph.node if node.name == "backbone.s4.block0.body.0.0")
    weight = onnx.numpy_helper.to_array(weights[conv.input[1]])
    scale = np.float32(np.abs(weight).max() / 127)
    weights[conv.input[1]].CopyFrom(onnx.numpy_helper.from_array(np.round(weight / scale).astype(np.int8), "w_q"))
    graph.initializer.append(onnx.numpy_helper.from_array(scale, "scale"))
    data = conv.input[0]
    quantising = [
        onnx.helper.make_node("QuantizeLinear", [data, "scale"], ["x_q"]),
        onnx.helper.make_node("DequantizeLinear", ["x_q", "scale"], ["x"]),
        onnx.helper.make_node("DequantizeLinear", ["w_q", "scale"], ["w"]),
    ]
    graph.initializer.append(onnx.numpy_helper.from_array(np.int8(0), "zero"))
    quantising[0].input.append("zero")
    conv.input[0], conv.input[1] = "x", "w"
    nodes = list(graph.node)
    place = nodes.index(conv)
    del graph.node[:]
    graph.node.extend([*nodes[:place], *quantising, *nodes[place:]])
    before = facts_from_file(written(tmp_path / "float.onnx", exported_proto))
    facts = facts_from_file(written(tmp_path / "mixed.onnx", proto))
    assert facts["layers"]["backbone.s4.block0.body.0.0"] == "int8"
    assert facts["layers"]["backbone.s4.block0.body.1"] == "fp32"
    assert facts["precision"]["int8"] == pytest.approx(1 / len(facts["layers"]))
    assert sum(facts["precision"].values()) == pytest.approx(1)
    assert (facts["params"], facts["gmacs"]) == (before["params"], before["gmacs"])


def test_checkpoint(tmp_path, exported) -> None:
    model, contract, proto = exported
    weights = model.state_dict()
    checkpoint = Checkpoint(contract, TrainConfig(), weights, weights, epoch=7, provenance={"data": "a street"})
    save_checkpoint(tmp_path / "m.pt", checkpoint)
    facts = facts_from_file(tmp_path / "m.pt")
    assert facts["contract"] == dict_from_contract(contract)
    assert facts["params"] == count_params(model)
    assert facts["gmacs"] == pytest.approx(count_gmacs(model, (70, 99)))
    assert facts["precision"] == {"fp32": 1.0}
    assert facts["layers"] == facts_from_file(written(tmp_path / "m.onnx", proto))["layers"], "under the same names"
    assert facts["training"]["epochs"] == 7
    assert facts["training"]["provenance"] == {"data": "a street"}
    assert facts["training"]["config"]
    json.dumps(facts)


def test_engine_is_described_by_its_sidecar(tmp_path) -> None:
    (tmp_path / "m.engine").write_bytes(b"a plan")
    with pytest.raises(ModelError, match=r"no m\.engine\.json beside it"):
        facts_from_file(tmp_path / "m.engine")
    write_sidecar(tmp_path / "m.engine", SIDECAR)
    facts = facts_from_file(tmp_path / "m.engine")
    assert json.loads(json.dumps(facts["sidecar"])) == json.loads((tmp_path / "m.engine.json").read_text())
    assert facts["contract"] == dict_from_contract(SIDECAR.contract)
    assert not {"layers", "metadata", "params", "gmacs"} & set(facts)


def test_an_engine_that_was_changed_is_refused_as_when_it_is_loaded(tmp_path) -> None:
    write_sidecar(tmp_path / "m.engine", SIDECAR)
    (tmp_path / "m.engine").write_bytes(b"a plot")
    with pytest.raises(ModelError, match=r"is not the file that its sidecar describes.*cut off or was changed"):
        facts_from_file(tmp_path / "m.engine")


def test_layers_of_an_engine_are_those_of_its_onnx_file(tmp_path, exported) -> None:
    """Only of the very file: another of the name tells nothing of this engine."""
    half = fp16_from_fp32(exported[2])
    half.metadata_props.add(key="fcn_edge.training", value="a street")
    typed = written(tmp_path / "m.onnx", half)
    (tmp_path / "m.engine").write_bytes(b"a plan")
    sha256 = hashlib.sha256(typed.read_bytes()).hexdigest()
    for onnx_name in ("m.onnx", "elsewhere/m.onnx"):
        write_sidecar(tmp_path / "m.engine", replace(SIDECAR, onnx=onnx_name, onnx_sha256=sha256))
        facts = facts_from_file(tmp_path / "m.engine")
        for name in ("params", "gmacs", "layers", "metadata"):
            assert facts[name] == facts_from_file(typed)[name]
        assert facts["metadata"]["fcn_edge.training"] == "a street"
        assert set(facts["layers"].values()) == {"fp16"}
    written(typed, exported[2])
    assert not {"layers", "metadata", "params", "gmacs"} & set(facts_from_file(tmp_path / "m.engine"))
    assert facts["sha256"] == hashlib.sha256(b"a plan").hexdigest()


@pytest.mark.parametrize("content", ["{", '{"precision": {"fp16": 1.0}}', "[]", '"\\ud800"', "[" * 200_000])
def test_a_sidecar_that_is_none_is_refused(tmp_path, content) -> None:
    (tmp_path / "m.engine").write_bytes(b"a plan")
    (tmp_path / "m.engine.json").write_text(content)
    with pytest.raises(ModelError, match=r"m\.engine\.json cannot be read"):
        facts_from_file(tmp_path / "m.engine")


def test_a_sidecar_nested_without_end_is_refused(tmp_path) -> None:
    write_sidecar(tmp_path / "m.engine", SIDECAR)
    (tmp_path / "m.engine").write_bytes(b"a plan")
    text = (tmp_path / "m.engine.json").read_text()
    (tmp_path / "m.engine.json").write_text(text.replace("{", '{"more": ' + "[" * 200_000 + "]" * 200_000 + ",", 1))
    with pytest.raises(ModelError, match=r"m\.engine\.json cannot be read"):
        facts_from_file(tmp_path / "m.engine")


def bad_files(proto: onnx.ModelProto) -> dict[str, bytes | None]:
    whole = proto.SerializeToString()
    bare, headless = onnx.ModelProto(), onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.metadata_props[:]
    headless.CopyFrom(proto)
    headless.graph.node[-1].op_type = "Other"
    return {
        "missing": None,
        "empty": b"",
        "text": b"this is no model\n" * 20,
        "half": whole[: len(whole) // 2],
        "last byte": whole[:-1],
        "no contract": bare.SerializeToString(),
        "no head": headless.SerializeToString(),
    }


@pytest.mark.parametrize("case", ["missing", "empty", "text", "half", "last byte", "no contract", "no head"])
def test_bad_onnx_files_are_model_errors(tmp_path, exported, case) -> None:
    content = bad_files(exported[2])[case]
    if content is not None:
        (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        facts_from_file(tmp_path / "bad.onnx")


@pytest.mark.parametrize("content", [None, b"", b"text", b"PK\x03\x04"])
def test_bad_checkpoints_are_model_errors(tmp_path, content) -> None:
    if content is not None:
        (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.pt"):
        facts_from_file(tmp_path / "bad.pt")


def test_other_suffixes_and_folders(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError, match=r"\.pt, \.onnx, \.engine"):
        facts_from_file(tmp_path / "a.txt")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ModelError, match="cannot be read"):
        facts_from_file(tmp_path / "folder.onnx")


def test_onnx_is_read_without_torch(tmp_path, exported) -> None:
    path = written(tmp_path / "m.onnx", exported[2])
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from fcn_edge.export.facts import facts_from_file\n"
        "assert facts_from_file(Path(sys.argv[1]))['params'] > 9e5\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, cwd=tmp_path)
