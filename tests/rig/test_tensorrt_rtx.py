"""TensorRT-RTX as pip installs it, with no shim between: what it takes, and what would end the process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ENVIRONMENT = 3


@pytest.fixture
def site(tensorrt_rtx_site: Path, tmp_path: Path) -> Path:
    """A copy of it, of links to what is large, that a test may change."""
    site = tmp_path / "site"
    site.mkdir()
    for entry in tensorrt_rtx_site.iterdir():
        if entry.name != "tensorrt_rtx_libs":
            (site / entry.name).symlink_to(entry.resolve())
    libs = site / "tensorrt_rtx_libs"
    libs.mkdir()
    shutil.copy(tensorrt_rtx_site / "tensorrt_rtx_libs" / "__init__.py", libs)  # it loads what lies beside it
    for library in (tensorrt_rtx_site / "tensorrt_rtx_libs").glob("*.so.*"):
        (libs / library.name).symlink_to(library.resolve())
    return site


def run(site: Path, *call: str, **environment: str) -> str:
    env = os.environ | {"PYTHONPATH": str(site), "CUDA_VISIBLE_DEVICES": "", "FCN_EDGE_PLUGIN": ""} | environment
    result = subprocess.run([sys.executable, *call], capture_output=True, text=True, env=env, timeout=300)
    assert result.returncode == 0, (result.returncode, result.stderr[-2000:])
    return result.stdout


def commands(site: Path, *lines: str, **environment: str) -> list[dict[str, Any]]:
    argv = json.dumps([line.split() for line in lines])
    results: list[dict[str, Any]] = json.loads(run(site, str(HERE / "run_commands.py"), argv, **environment))
    return results


def test_without_a_link_the_fused_head_is_refused_and_with_it_built(
    site: Path, plugin_library: Path, trained: Path, tmp_path: Path
) -> None:
    line, plugin = f"build {trained}/model.onnx -o {tmp_path}/out", str(plugin_library)
    fused, by_itself, doctor = commands(site, line, f"{line} --no-plugin", "doctor --json", FCN_EDGE_PLUGIN=plugin)
    assert fused["code"] == ENVIRONMENT, fused
    command = fused["err"].partition("make the link: ")[2]
    assert command == f"ln -sf libtensorrt_rtx.so.1 {site}/tensorrt_rtx_libs/libtensorrt_rtx.so"
    assert by_itself["code"] == 0, by_itself["err"]
    findings = {finding["name"]: finding for finding in json.loads(doctor["out"])["findings"]}
    assert findings["fused head for TensorRT"]["remedy"].endswith(command)

    subprocess.run(command, shell=True, check=True)
    (fused,) = commands(site, line, FCN_EDGE_PLUGIN=plugin)
    assert fused["code"] == 0, fused["err"]
    (engine,) = (tmp_path / "out").glob("*-smany.engine")
    assert b"SkipHead" in engine.read_bytes()


TURING = """
import sys
from pathlib import Path
import tensorrt_rtx as trt
from fcn_edge.export import to_engine
from fcn_edge.runtime.sidecar import Gpu, Options

gpu = Gpu(name="RTX 2080", sm=75)
others = to_engine.EngineBuilder(None)
assert others.gpu is None
to_engine.find_gpu = lambda: gpu
turing = to_engine.EngineBuilder(None)
assert turing.gpu == gpu
turing._device = None  # there is none to load the engine on
targets = []
for builder in (others, turing):
    config = builder._config(None, Options())
    assert config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    targets.append([config.get_compute_capability(index) for index in range(config.num_compute_capabilities)])
    assert builder.build(Path(sys.argv[1]), "fp32", Options()).plan
assert trt.ComputeCapability.SM75 not in targets[0], targets
assert targets[1] == [trt.ComputeCapability.SM75], targets
"""


CONTEXT = """
import tensorrt_rtx as trt

assert trt.ExecutionContextAllocationStrategy.USER_MANAGED
for owner, name in (("ICudaEngine", "device_memory_size_v2"), ("IExecutionContext", "set_device_memory")):
    assert hasattr(getattr(trt, owner), name), name
"""


def test_what_a_context_needs_is_there(tensorrt_rtx_site: Path) -> None:
    """No context is made without a GPU; on one, TensorRT-RTX refused an engine that can be captured any other way."""
    run(tensorrt_rtx_site, "-c", CONTEXT)


def test_engines_that_can_be_captured_and_one_for_turing(tensorrt_rtx_site: Path, trained: Path) -> None:
    run(tensorrt_rtx_site, "-c", TURING, str(trained / "model.onnx"))
