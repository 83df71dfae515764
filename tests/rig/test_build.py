"""``fcn-edge build`` with NVIDIA's own parser and builder and no GPU: engines, sidecars, cache, gate, refusals."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from fcn_edge import street
from fcn_edge.errors import MissingError, ModelError
from fcn_edge.export.to_onnx import write_onnx
from fcn_edge.runtime.sidecar import Sidecar, read_plan, read_sidecar, sidecar_path
from fcn_edge.runtime.tensorrt_library import find_plugin

pytest.importorskip("openvino")

HERE = Path(__file__).parent
USAGE, ENVIRONMENT, MODEL, GATE, INTERRUPTED = 2, 3, 4, 6, 130
Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def run(tensorrt_site: Path) -> Run:
    """Runs command lines in a process that has TensorRT and, wherever it runs, no GPU."""

    def commands(*lines: str, **environment: str) -> list[dict[str, Any]]:
        argv = json.dumps([line.split() for line in lines])
        ours = {"PYTHONPATH": str(tensorrt_site), "CUDA_VISIBLE_DEVICES": "", "FCN_EDGE_PLUGIN": ""}
        env = os.environ | ours | environment
        call = [sys.executable, str(HERE / "run_commands.py"), argv]
        result = subprocess.run(call, capture_output=True, text=True, env=env, timeout=300)
        assert result.returncode == 0, result.stderr[-2000:]
        return json.loads(result.stdout)

    return commands


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("street") / "data"
    street.write_dataset(root, train=9, val=2, size_hw=(64, 96), seed=2)
    return root


def engines_in(folder: Path) -> dict[str, Path]:
    return {path.name.split("-")[1]: path for path in sorted(folder.glob("*.engine"))}


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        path.name: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in folder.iterdir()
    }


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def test_builds_once_and_again_only_what_is_no_longer_right(run: Run, trained: Path, data: Path, tmp_path: Path):
    out = tmp_path / "engines"
    line = (
        f"build {trained}/model.onnx -o {out} --precision fp32,fp16,int8 --calib {data}/images/train --method minmax "
        f"--no-plugin --threads 1 --gate {data} --max-miou-drop 0.5 --json"
    )
    first, second = run(line, line)
    assert first["code"] == 0, first["err"]
    assert "the gate runs on the typed ONNX files in the CPU engine" in first["err"]
    results = json.loads(first["out"])["results"]
    assert [result["precision"] for result in results] == ["fp32", "fp16", "int8"]
    assert all(result["made"] == ["onnx", "engine"] for result in results)
    names = {f"model-{p}-64x96{end}" for p in ("fp32", "fp16", "int8") for end in (".onnx",)}
    assert names == {path.name for path in out.glob("*.onnx")}
    assert {path.name for path in out.iterdir() if path.name.startswith(".")} == set()

    for precision, engine in engines_in(out).items():
        assert engine.name.startswith(f"model-{precision}-64x96-trt11.4.0-smany")
        sidecar: Sidecar = read_sidecar(engine)
        read_plan(engine, sidecar)
        typed = out / sidecar.onnx
        assert sidecar.onnx_sha256 == hashlib.sha256(typed.read_bytes()).hexdigest()
        assert (sidecar.precision.asked, sidecar.precision.audited) == (precision, "network")
        assert max(sidecar.precision.found, key=lambda kind: sidecar.precision.found[kind]) == precision
        assert sidecar.gpu is None
        assert sidecar.plugin is None
        assert sidecar.gate is not None
        assert (sidecar.gate.ran, sidecar.gate.frames) == ("openvino", 2)
        assert (sidecar.calibration is not None) == (precision == "int8")
        assert engine.stat().st_size > 0.9 * sum(len(t.raw_data) for t in onnx.load(typed).graph.initializer)

    assert second["code"] == 0
    assert all(result["made"] == [] for result in json.loads(second["out"])["results"])
    before = contents(out)

    flip_a_byte(out / "model-fp16-64x96.onnx")
    flip_a_byte(engines_in(out)["int8"])
    with pytest.raises(ModelError, match="cut off or was changed"):
        read_plan(engines_in(out)["int8"], read_sidecar(engines_in(out)["int8"]))
    sidecar_path(engines_in(out)["fp32"]).write_text("{}")
    (third,) = run(line)
    assert third["code"] == 0, third["err"]
    assert [result["made"] for result in json.loads(third["out"])["results"]] == [["engine"], ["onnx"], ["engine"]]
    after = contents(out)
    assert {name: sha for name, (_, sha) in after.items() if name.endswith(".onnx")} == {
        name: sha for name, (_, sha) in before.items() if name.endswith(".onnx")
    }

    strict, other = run(line.replace("drop 0.5", "drop -1"), line.replace(" --json", " --opt-level 1 --json"))
    assert strict["code"] == GATE
    assert strict["err"].count("fails its gate and is not kept") == 3
    assert other["code"] == 0
    assert read_sidecar(engines_in(out)["fp16"]).options.opt_level == 1


def test_a_failed_gate_leaves_nothing(run: Run, trained: Path, data: Path, tmp_path: Path):
    out = tmp_path / "engines"
    frames = f"--gate-frames {data}/images/val/*.png --min-agreement 1.01"
    (result,) = run(f"build {trained}/run/best.pt -o {out} --precision fp16 --no-plugin --threads 1 {frames}")
    assert result["code"] == GATE
    assert "away from borders" in result["err"]
    assert list(out.iterdir()) == []


@pytest.fixture(scope="session")
def s_onnx(lively_model: Any, contract_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default network, ``s``, as an FP32 file at a size that is no multiple of its strides."""
    model = lively_model("fcn8s-edge-s", 11)
    return write_onnx(model, contract_of(model, (90, 120)), tmp_path_factory.mktemp("s") / "s.onnx")


@pytest.mark.parametrize("head", ["unfused", "fused"])
def test_s_in_three_precisions(
    head: str, run: Run, s_onnx: Path, data: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    plugin = f"--plugin {request.getfixturevalue('plugin_library')}" if head == "fused" else "--no-plugin"
    line = f"build {s_onnx} -o {tmp_path} --precision fp32,fp16,int8 --calib {data}/images/train --method minmax"
    (result,) = run(f"{line} {plugin} --threads 1")
    assert result["code"] == 0, result["err"]
    assert set(engines_in(tmp_path)) == {"fp32", "fp16", "int8"}
    for precision, engine in engines_in(tmp_path).items():
        sidecar = read_sidecar(engine)
        assert sidecar.precision.found[precision] > (0.8 if precision == "int8" else 0.99)
        assert (sidecar.plugin is not None) == (head == "fused")


@pytest.mark.parametrize("batch", ["", "--dynamic-batch 1,2,4"])
def test_the_fused_head_is_in_the_engine(
    run: Run, plugin_library: Path, trained: Path, data: Path, tmp_path: Path, batch: str
):
    out, calib = tmp_path / "engines", f"--calib {data}/images/train --method minmax --threads 1"
    line = f"build {trained}/model.onnx -o {out} --precision fp32,fp16,int8 {calib} {batch}"
    by_option, by_variable = (
        run(f"{line} --plugin {plugin_library}"),
        run(f"{line} --json", FCN_EDGE_PLUGIN=str(plugin_library)),
    )
    assert by_option[0]["code"] == 0, by_option[0]["err"]
    assert all(result["made"] == [] for result in json.loads(by_variable[0]["out"])["results"])
    sha256 = hashlib.sha256(plugin_library.read_bytes()).hexdigest()
    for engine in engines_in(out).values():
        plugin = read_sidecar(engine).plugin
        assert plugin is not None
        assert (plugin.version, plugin.sha256) == ("1", sha256)
        assert b"SkipHead" in engine.read_bytes()
    assert len(engines_in(out)) == 3


def test_several_frames_and_a_timing_cache(run: Run, trained: Path, tmp_path: Path):
    out, cache = tmp_path / "engines", tmp_path / "timing.cache"
    line = f"build {trained}/model.onnx -o {out} --no-plugin --opt-level 0 --dynamic-batch 1,2,4 --timing-cache {cache}"
    (result,) = run(line)
    assert result["code"] == 0, result["err"]
    assert read_sidecar(engines_in(out)["fp32"]).options.batch == (1, 2, 4)
    kept = cache.read_bytes()
    assert kept
    cache.write_bytes(b"a checkpoint")
    other = line.replace("1,2,4", "1,1,2")
    strange, forced, taken = run(other, f"{other} --force", line.replace("1,2,4", "1,2,2"))
    assert strange["code"] == 0, strange["err"]
    assert "timing.cache is no timing cache that this TensorRT can read and is left as it is" in strange["err"]
    assert all(result["code"] == 0 and "no timing cache" not in result["err"] for result in (forced, taken))
    assert cache.read_bytes() == kept


def test_a_timing_cache_costs_no_engine_and_strangers_stay(run: Run, trained: Path, tmp_path: Path):
    out, folder = tmp_path / "engines", tmp_path / "folder"
    folder.mkdir()
    line = f"build {trained}/model.onnx -o {out} --no-plugin"
    refused, warned = run(f"{line} --timing-cache {folder}", f"{line} --timing-cache /proc/nothing/cache")
    assert refused["code"] == USAGE
    assert f"timing cache {folder} is no file" in refused["err"]
    assert warned["code"] == 0, warned["err"]
    (engine,) = engines_in(out).values()
    sidecar_path(engine).unlink()
    before = contents(out)
    stranger, forced = run(line, f"{line} --force")
    assert stranger["code"] == USAGE
    assert "no build wrote it" in stranger["err"]
    assert forced["code"] == 0, forced["err"]
    assert contents(out)[engine.name] != before[engine.name]
    assert read_sidecar(engine).plugin is None


@pytest.fixture
def strange(trained: Path, tmp_path: Path) -> Path:
    """A model with a node that TensorRT does not know, and libraries that are no plugin."""
    model = onnx.load(trained / "model.onnx")
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.op_type, node.name = "NoSuchThing", "the_strange_one"
    onnx.save(model, tmp_path / "strange.onnx")
    (tmp_path / "text.so").write_text("no library")
    return tmp_path


# Arguments with {good} and {bad} for folders; the exit code; words of the sentence.
REFUSALS = [
    ("{bad}/strange.onnx --no-plugin", MODEL, ("parser refuses", "the_strange_one", "NoSuchThing")),
    ("{good}/model.onnx", ENVIRONMENT, ("libfcn_edge_plugin.so", "--no-plugin")),
    ("{good}/model.onnx --plugin {bad}/missing.so", ENVIRONMENT, ("missing.so", "does not exist")),
    ("{good}/model.onnx --plugin {bad}/text.so", ENVIRONMENT, ("text.so", "cannot be used", "--no-plugin")),
    ("{good}/model.onnx --no-plugin --workspace 1", ENVIRONMENT, ("out of memory", "--workspace 4")),
]


def test_refusals_say_why_and_what_to_do(run: Run, trained: Path, strange: Path):
    with contextlib.suppress(MissingError):
        pytest.skip(f"this installation has the plugin, {find_plugin()}, so its absence cannot be shown")
    lines = [f"build {line.format(good=trained, bad=strange)} -o {strange}/out" for line, _, _ in REFUSALS]
    for (line, code, words), result in zip(REFUSALS, run(*lines), strict=True):
        assert result["code"] == code, (line, result["err"])
        assert not [word for word in words if word not in result["err"]], (line, result["err"])
        assert "Traceback" not in result["err"]
        assert not list((strange / "out").glob("*.engine*")) if (strange / "out").exists() else True


PROGRAM = """
import os, signal, sys
from pathlib import Path
from fcn_edge.errors import MissingError, ModelError
from fcn_edge.export.to_onnx import write_onnx
from fcn_edge.export.to_engine import EngineBuilder
from fcn_edge.runtime.sidecar import Options

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have turned off
builder, model = EngineBuilder(None), Path(sys.argv[1])
try:
    builder.build(model, "fp16", Options())
except ModelError as exc:
    assert "was to be fp16" in str(exc) and "fp32 100%" in str(exc), exc
else:
    raise SystemExit("an FP32 engine passed for FP16")

def full(what, done, total):
    raise OSError("no space left on device")
try:
    builder.build(model, "fp32", Options(), on_progress=full)
except OSError as exc:
    assert "no space left" in str(exc), exc
else:
    raise SystemExit("what the caller raised was lost")

seen = []
def stop(what, done, total):
    seen.append(done)
    if len(seen) == 3:
        os.kill(os.getpid(), signal.SIGINT)
try:
    builder.build(model, "fp32", Options(), on_progress=stop)
except KeyboardInterrupt:
    assert max(seen) < 1000, seen
    assert builder.build(model, "fp32", Options()).plan
    sys.exit(130)
"""


def test_another_precision_is_an_error_and_ctrl_c_stops_the_builder(tensorrt_site: Path, trained: Path):
    call = [sys.executable, "-c", PROGRAM, str(trained / "model.onnx")]
    env = os.environ | {"PYTHONPATH": str(tensorrt_site), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(call, capture_output=True, text=True, env=env, timeout=120)
    assert result.returncode == INTERRUPTED, result.stderr[-2000:]


OUTLIVED = """
import gc, sys
from pathlib import Path
from fcn_edge.errors import MissingError
from fcn_edge.export.to_engine import EngineBuilder
from fcn_edge.runtime.tensorrt_library import load_plugin, log_of, require_tensorrt

trt, builder = require_tensorrt(), EngineBuilder(None)
runtime = trt.Runtime(log_of(trt))
del builder
gc.collect()
filled = [bytearray(200) for _ in range(1000)]
try:
    load_plugin(trt, Path(sys.argv[1]))
except MissingError as exc:
    assert "too short" in str(exc), exc
    sys.exit(exc.exit_code)
"""


def test_the_log_outlives_the_builder(tensorrt_site: Path, tmp_path: Path):
    """TensorRT's registry of plugins logs to the first logger of the process for good: a freed one is a crash."""
    (tmp_path / "text.so").write_text("no library")
    call = [sys.executable, "-c", OUTLIVED, str(tmp_path / "text.so")]
    env = os.environ | {"PYTHONPATH": str(tensorrt_site), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(call, capture_output=True, text=True, env=env, timeout=120)
    assert result.returncode == ENVIRONMENT, result.stderr[-2000:]
