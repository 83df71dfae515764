"""The exported file: what README, "The file", says of it, and labels that any ONNX runtime agrees on with torch."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from fcn_edge.contract import METADATA_KEY, contract_from_json  # noqa: E402
from fcn_edge.errors import GateError, ModelError, UsageError  # noqa: E402
from fcn_edge.export import to_onnx  # noqa: E402
from fcn_edge.export.to_onnx import onnx_from_checkpoint, onnx_from_model, resized, write_onnx  # noqa: E402
from fcn_edge.export.verify import noise_frames, verify  # noqa: E402
from fcn_edge.training.checkpoint import Checkpoint, save_checkpoint  # noqa: E402
from fcn_edge.training.config import TrainConfig  # noqa: E402

CASES = [  # heads, sizes (odd ones, whole cells, a single pixel) and numbers of classes
    ("fcn32s-edge-n", (333, 517), 2),
    ("fcn16s-edge-n", (64, 96), 11),
    ("fcn8s-edge-n", (333, 517), 19),
    ("fcn8s-edge-n", (70, 45), 256),
    ("fcn4s-edge-n", (45, 70), 11),
    ("fcn8s-edge-n", (1, 1), 1),
    ("fcn8s-resnet18", (50, 61), 5),
]


def labels_of(model: onnx.ModelProto, frame: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (labels,) = session.run(None, {"image": frame[None]})
    assert labels.dtype == np.int8
    return labels[0].view(np.uint8)


@pytest.mark.parametrize(("name", "size_hw", "classes"), CASES)
def test_plain_onnxruntime_agrees_with_torch(lively_model, contract_of, name, size_hw, classes) -> None:
    model = lively_model(name, classes)
    exported = onnx_from_model(model, contract_of(model, size_hw))
    frame = noise_frames(size_hw, 1)[0]
    with torch.no_grad():
        logits = model(torch.from_numpy(frame).permute(2, 0, 1)[None])[0]
    labels, expected = labels_of(exported, frame), logits.argmax(0).numpy()
    top = logits.topk(min(2, classes), 0).values
    close = ((top[0] - top[-1]) <= 1e-4 * top[0].abs().clamp(min=1)).numpy()
    assert labels.shape == size_hw
    assert (labels == expected)[~close].all()
    assert (labels == expected).mean() >= 0.9999
    if size_hw != (1, 1):
        assert len(np.unique(labels)) >= min(classes, 3), "the case shows nothing: almost one class everywhere"
    if classes == 256:
        assert labels.max() >= 128


@pytest.fixture(scope="module")
def described(lively_model, contract_of):
    model = lively_model("fcn8s-edge-n", 4)
    contract = contract_of(model, (64, 99))
    return contract, onnx_from_model(model, contract)


def test_file_is_as_contracts_says(described) -> None:
    contract, exported = described
    onnx.checker.check_model(exported, full_check=True)
    (image,), (labels,) = exported.graph.input, exported.graph.output
    assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert [dim.dim_value for dim in image.type.tensor_type.shape.dim] == [1, 64, 99, 3]
    assert (labels.name, labels.type.tensor_type.elem_type) == ("labels", onnx.TensorProto.INT8)
    assert [dim.dim_value for dim in labels.type.tensor_type.shape.dim] == [1, 64, 99]
    metadata = {entry.key: entry.value for entry in exported.metadata_props}
    assert contract_from_json(metadata[METADATA_KEY]) == contract
    head = exported.graph.node[-1]
    assert (head.op_type, head.domain, len(head.input)) == ("SkipHead", "fcn_edge", 6)
    assert [(function.domain, function.name) for function in exported.functions] == [("fcn_edge", "SkipHead")]
    assert exported.ir_version <= 10
    assert {entry.domain: entry.version for entry in exported.opset_import} == {"": 19, "fcn_edge": 1}


def test_graph_is_fit_for_tensorrt(described) -> None:
    graph = described[1].graph
    assert [node.op_type for node in graph.node if "image" in node.input] == ["Cast"]
    assert {node.op_type for node in graph.node} == {
        *("Cast", "Transpose", "Sub", "Div", "Pad", "Conv", "Relu", "Add", "SkipHead")
    }
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert {"backbone.s8.block0.body.0.0", "score_convs.0", "skip_head"} <= set(names)
    outputs = [name for node in graph.node for name in node.output]
    assert len({*outputs, *(tensor.name for tensor in graph.initializer)}) == len(outputs) + len(graph.initializer)


def test_file_holds_nothing_of_this_machine_and_is_the_same_each_time(tmp_path, lively_model, contract_of) -> None:
    model = lively_model("fcn32s-edge-n", 3)
    contract = contract_of(model, (32, 40))
    first, second = (write_onnx(model, contract, tmp_path / f"{i}.onnx").read_bytes() for i in range(2))
    assert first == second
    for place in (str(Path(__file__).parents[2]), str(Path.home()), str(Path(torch.__file__).parent), sys.prefix):
        assert place.encode() not in first
    assert b"stack_trace" not in first


def test_exporting_leaves_the_model_as_it_was(lively_model, contract_of) -> None:
    model = lively_model("fcn32s-edge-n", 3).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    onnx_from_model(model, contract_of(model, (32, 32)))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_runs_without_this_project(tmp_path, lively_model, contract_of) -> None:
    model = lively_model("fcn8s-edge-n", 200)
    path = write_onnx(model, contract_of(model, (37, 52)), tmp_path / "model.onnx")
    frame = noise_frames((37, 52), 1)[0]
    np.save(tmp_path / "frame.npy", frame)
    program = (
        "import sys, numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "labels = session.run(None, {'image': numpy.load(sys.argv[2])[None]})[0]\n"
        "assert not {'fcn_edge', 'torch', 'onnx'} & set(sys.modules)\n"
        "numpy.save(sys.argv[3], labels.view(numpy.uint8)[0])\n"
    )
    files = [path, tmp_path / "frame.npy", tmp_path / "labels.npy"]
    subprocess.run([sys.executable, "-I", "-c", program, *map(str, files)], check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = model(torch.from_numpy(frame).permute(2, 0, 1)[None])[0].argmax(0).numpy()
    labels = np.load(tmp_path / "labels.npy")
    assert labels.max() >= 128
    assert (labels == expected).all()


@pytest.fixture
def checkpoint(tmp_path, lively_model, contract_of) -> Path:
    model = lively_model("fcn16s-edge-n", 3)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    contract = contract_of(model, (48, 64))
    save_checkpoint(tmp_path / "last.pt", Checkpoint(contract, TrainConfig(), weights, weights))
    return tmp_path / "last.pt"


def test_checkpoint_becomes_a_file_of_its_size_or_another(tmp_path, checkpoint) -> None:
    own = onnx_from_checkpoint(checkpoint, tmp_path / "own.onnx")
    other = onnx_from_checkpoint(checkpoint, tmp_path / "other.onnx", (33, 50), verify_frames=noise_frames((90, 70)))
    for path, size_hw in ((own, (48, 64)), (other, (33, 50))):
        metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert contract_from_json(metadata[METADATA_KEY]).size_hw == size_hw
        assert metadata[to_onnx.CHECKPOINT_KEY] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        assert labels_of(onnx.load(path), noise_frames(size_hw, 1)[0]).shape == size_hw
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "other.onnx", "own.onnx"]


def test_checkpoint_replaced_while_it_is_read_is_refused(tmp_path, monkeypatch, checkpoint) -> None:
    def read(path: Path):
        answer = to_onnx_reads(path)
        path.write_bytes(path.read_bytes() + b"0")
        return answer

    to_onnx_reads = to_onnx.model_from_checkpoint
    monkeypatch.setattr(to_onnx, "model_from_checkpoint", read)
    with pytest.raises(ModelError, match="was replaced while it was read"):
        onnx_from_checkpoint(checkpoint, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.fixture(scope="module")
def traced_once(lively_model, contract_of) -> bytes:
    model = lively_model("fcn16s-edge-n", 3)
    return onnx_from_model(model, contract_of(model, (48, 64))).SerializeToString()


@pytest.fixture
def quick_trace(monkeypatch, traced_once) -> None:
    """The trace of the checkpoint's model, kept: what is tested with it is how files are treated."""
    monkeypatch.setattr(to_onnx, "onnx_from_model", lambda model, contract: onnx.load_from_string(traced_once))


def perturbed(traced_once: bytes) -> onnx.ModelProto:
    """A file that is not the model's: one weight of one score convolution is off."""
    proto = onnx.load_from_string(traced_once)
    (weight,) = (tensor for tensor in proto.graph.initializer if tensor.name == "score_convs.0.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0] += 5
    weight.raw_data = values.tobytes()
    return proto


def test_wrong_file_fails_the_gate_and_is_not_left(tmp_path, monkeypatch, checkpoint, traced_once) -> None:
    monkeypatch.setattr(to_onnx, "onnx_from_model", lambda model, contract: perturbed(traced_once))
    with pytest.raises(GateError, match="agree with torch") as failure:
        onnx_from_checkpoint(checkpoint, tmp_path / "model.onnx")
    assert failure.value.exit_code == 6
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    (tmp_path / "model.onnx").write_bytes(b"an earlier one")
    with pytest.raises(GateError):
        onnx_from_checkpoint(checkpoint, tmp_path / "model.onnx", force=True)
    assert (tmp_path / "model.onnx").read_bytes() == b"an earlier one"


@pytest.mark.parametrize("size_hw", [(0, 64), (64, 0), (10**6, 64), (8193, 32), (-1, 5)])
def test_sizes_out_of_range_are_refused(tmp_path, checkpoint, size_hw) -> None:
    with pytest.raises(UsageError, match="expected sides of 1 to 8192"):
        onnx_from_checkpoint(checkpoint, tmp_path / "model.onnx", size_hw)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("size_hw", [(64.0, 96), (64, "96"), (64, 96, 3), (64,), 64, "64x96"])
def test_what_is_no_size_is_refused(tmp_path, checkpoint, size_hw) -> None:
    with pytest.raises(UsageError, match=r"expected two whole numbers \(height, width\)"):
        onnx_from_checkpoint(checkpoint, tmp_path / "model.onnx", size_hw)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_size_may_be_of_numpys_numbers(lively_model, contract_of) -> None:
    contract = contract_of(lively_model("fcn8s-edge-n", 3), (32, 48))
    size_hw = to_onnx.resized(contract, np.array([64, 96])).size_hw
    assert size_hw == (64, 96)
    assert {type(side) for side in size_hw} == {int}


def test_nothing_is_overwritten_without_force(tmp_path, checkpoint, quick_trace) -> None:
    out = tmp_path / "model.onnx"
    out.write_bytes(b"mine")
    with pytest.raises(UsageError, match="--force"):
        onnx_from_checkpoint(checkpoint, out)
    assert out.read_bytes() == b"mine"
    assert onnx_from_checkpoint(checkpoint, out, force=True).stat().st_size > 1000


def test_paths_may_be_text(tmp_path, checkpoint, quick_trace) -> None:
    out = onnx_from_checkpoint(str(checkpoint), str(tmp_path / "model.onnx"))
    assert out == tmp_path / "model.onnx"
    assert out.is_file()


def test_places_that_cannot_be_written_are_usage_errors(tmp_path, checkpoint, quick_trace) -> None:
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        onnx_from_checkpoint(checkpoint, tmp_path / "folder.onnx", force=True)
    with pytest.raises(UsageError, match=r"does not end in \.onnx"):
        onnx_from_checkpoint(checkpoint, tmp_path / "model.pb")
    with pytest.raises(UsageError, match="cannot be written"):
        onnx_from_checkpoint(checkpoint, checkpoint / "model.onnx")


@pytest.mark.parametrize("content", [None, b"", b"hello, I am a text file\n", b"PK\x03\x04 cut off"])
def test_bad_checkpoints_are_model_errors(tmp_path, content) -> None:
    if content is not None:
        (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.pt"):
        onnx_from_checkpoint(tmp_path / "x.pt", tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_contract_of_another_model_is_refused(lively_model, contract_of) -> None:
    model = lively_model("fcn32s-edge-n", 3)
    contract = contract_of(model, (32, 32))
    for wrong in (replace(contract, mean=(1.0, 2.0, 3.0)), replace(contract, model="fcn32s-edge-s")):
        with pytest.raises(ModelError, match="the contract's"):
            onnx_from_model(model, wrong)
    assert resized(contract, (33, 32)).size_hw == (33, 32)


def test_odd_paddings_do_not_shift_the_picture(tmp_path, lively_model, contract_of) -> None:
    """Verification compares two ways of one network; here a change of one corner must stay in that corner."""
    model = lively_model("fcn8s-edge-n", 11)
    path = write_onnx(model, contract_of(model, (333, 517)), tmp_path / "model.onnx")
    frame = noise_frames((333, 517), 1)[0]
    changed = frame.copy()
    changed[-20:, -20:] = 255 - changed[-20:, -20:]
    exported = onnx.load(path)
    differs = labels_of(exported, frame) != labels_of(exported, changed)
    assert differs[-60:, -60:].any()
    assert not differs[:60, :60].any()
    assert verify(path, model, [changed]).passed
