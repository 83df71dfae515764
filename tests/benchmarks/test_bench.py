"""The whole bench: one object for several models, on data and without, and on a device that has no torch."""

import datetime
import json
import subprocess
import sys

import pytest

from fcn_edge.benchmarks import latency, report
from fcn_edge.benchmarks.accuracy import evaluate
from fcn_edge.benchmarks.bench import bench_models
from fcn_edge.benchmarks.engines import open_any_engine
from fcn_edge.benchmarks.memory import memory_alone, peak_rss_mib
from fcn_edge.cli import main
from fcn_edge.dataset import open_dataset
from fcn_edge.errors import EngineError, ModelError

WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = None
from pathlib import Path
from fcn_edge.benchmarks.accuracy import evaluate
from fcn_edge.benchmarks.bench import bench_models
from fcn_edge.benchmarks.engines import open_any_engine
from fcn_edge.benchmarks.report import markdown_from_bench
from fcn_edge.dataset import open_dataset
model, root = sys.argv[1:]
dataset = open_dataset(Path(root))
with open_any_engine(model, threads=1) as engine:
    result = evaluate(engine, dataset)
payload = bench_models([model], open_data=lambda engine: dataset, duration_s=0.1, threads=1)
assert markdown_from_bench(payload)
assert sys.modules["torch"] is None and not any(name.startswith("torch.") for name in sys.modules)
print(json.dumps([result, payload["results"][0]]))
"""


@pytest.fixture(autouse=True)
def _short_warm_up(monkeypatch):
    monkeypatch.setattr(latency, "WARMUP_S", 0.0)


def test_models_of_two_backends_side_by_side_on_data(small_onnx, small_checkpoint, drawn):
    steps = []
    payload = bench_models(
        [small_onnx, small_checkpoint],
        open_data=lambda engine: drawn,
        duration_s=0.1,
        threads=1,
        device="cpu",
        on_step=lambda what, done, total: steps.append((what, done, total)),
    )
    assert list(payload) == ["recorded", "options", "machine", "results"]
    assert datetime.date.fromisoformat(payload["recorded"])
    assert payload["options"] == {
        "duration_s": 0.1,
        "rounds": latency.MIN_ROUNDS,
        "warmup_s": 0.0,
        "warmup_frames": latency.WARMUP_FRAMES,
        "checked_frames": latency.CHECKED_FRAMES,
        "threads": 1,
        "device": "cpu",
        "precision_hint": None,
        "data": "data",
        "split": "val",
    }
    assert payload["machine"]["cpu"]
    onnx, checkpoint = payload["results"]
    assert (onnx["backend"], checkpoint["backend"]) == ("openvino", "torch")
    assert onnx["agreement_with_reference"] == 1.0
    assert checkpoint["agreement_with_reference"] is None
    for model, result in ((small_onnx, onnx), (small_checkpoint, checkpoint)):
        with open_any_engine(model, threads=1, device="cpu") as engine:
            assert result["miou"] == evaluate(engine, drawn)["miou"] > 0
        assert result["model"] == str(model)
        assert result["params"] > 0
        assert result["frame_hw"] == [40, 60]
        assert result["images"] == 3
    # torch is loaded here and in the checkpoint's own process, not in that of the ONNX file
    assert 20 < onnx["rss_mib"] < checkpoint["rss_mib"]
    last = {what: (done, total) for what, done, total in steps}
    assert last == {
        "accuracy of small.onnx": (3, 3),
        "accuracy of small.pt": (3, 3),
        "timing": (8, 8),
        "memory": (2, 2),
    }
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload


def test_without_data_frames_are_synthetic_and_there_is_no_accuracy(small_onnx):
    payload = bench_models([small_onnx], duration_s=0.05, threads=1)
    assert (payload["options"]["data"], payload["options"]["split"]) == (None, None)
    (result,) = payload["results"]
    assert result["miou"] is None
    assert result["frames_from"] == "synthetic://street"
    assert result["frame_hw"] == result["size_hw"] == [32, 48]
    assert result["threads"] == 1


def test_models_side_by_side_see_the_same_drawn_frames(small_onnx):
    """Each at its own size would charge nobody for resizing, and show each another picture."""
    results = bench_models([small_onnx, "camvid-s"], duration_s=0.05, threads=1)["results"]
    assert [result["frame_hw"] for result in results] == [[32, 48], [32, 48]]
    assert [result["size_hw"] for result in results] == [[32, 48], [432, 576]]


def test_the_hint_stands_in_the_result(small_onnx, small_checkpoint):
    payload = bench_models(
        [small_onnx, small_checkpoint], duration_s=0.05, threads=1, device="cpu", precision_hint="bf16"
    )
    assert payload["options"]["precision_hint"] == "bf16"
    onnx, checkpoint = payload["results"]
    assert (onnx["precision"], onnx["precision_hint"]) == ("fp32", "bf16")
    assert checkpoint["precision_hint"] is None  # torch takes none


def test_the_command_tells_of_labels_far_from_the_reference(small_onnx, monkeypatch, capsys):
    monkeypatch.setattr(report, "_DOUBTFUL", 1.1)
    assert main(["bench", str(small_onnx), "--duration", "0.05s", "--threads", "1", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["results"]
    assert "agrees with ONNX Runtime on 100.0% of the pixels" in shown.err
    assert "what was timed gives other labels" in shown.err


def test_data_of_other_classes_are_refused_before_anything_is_timed(small_onnx, drawn_root):
    two = open_dataset(drawn_root, ("road", "car"))
    with pytest.raises(ModelError, match=r"small\.onnx has 4 classes"):
        bench_models([small_onnx], open_data=lambda engine: two, duration_s=600.0)


def test_memory_of_a_process_of_its_own():
    alone, on_gpu = memory_alone("echo://", (64, 64))
    assert 10 < alone < peak_rss_mib() + 100
    assert on_gpu is None
    with pytest.raises(EngineError, match=r"none\.onnx could not be run in a process of its own"):
        memory_alone("none.onnx", (64, 64))


@pytest.mark.parametrize("name", ["fcn_edge", "msgspec", "json"])
def test_memory_is_measured_from_any_folder(tmp_path, monkeypatch, name):
    # As in a checkout of this project, where fcn_edge/ lies in the current folder without the benchmarks. An editable
    # install would find its own fcn_edge even so; the other names show that the current folder is not looked into.
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong package')")
    monkeypatch.chdir(tmp_path)
    assert memory_alone("echo://", (8, 8))[0] > 10


def test_a_bigger_frame_needs_more_memory():
    assert memory_alone("echo://", (4096, 4096))[0] > memory_alone("echo://", (64, 64))[0] + 40  # 48 MiB of pixels


def test_a_device_without_torch_evaluates_and_benches(small_onnx, drawn_root, tmp_path):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(small_onnx), str(drawn_root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    evaluated, timed = json.loads(done.stdout)
    with open_any_engine(small_onnx, threads=1) as engine:
        here = evaluate(engine, open_dataset(drawn_root))
    assert evaluated["per_class"] == here["per_class"]
    assert timed["miou"] == here["miou"]
    assert timed["latency_ms"]["p50"] > 0
