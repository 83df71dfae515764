"""What an installation leaves in site-packages, and that it runs without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RESOLVES = """
import importlib.util, json
names = ["fcn_edge", "fcn_edge.export", "fcn_edge.benchmarks", "fcn_edge._native", "export", "benchmarks", "tests",
         "cpp_plugins"]
print(json.dumps([name for name in names if importlib.util.find_spec(name)]))
"""
EXPECTED = '["fcn_edge", "fcn_edge.export", "fcn_edge.benchmarks", "fcn_edge._native"]'


def run(python: str | Path, code: str) -> str:
    return subprocess.run([python, "-I", "-c", code], cwd="/", capture_output=True, text=True, check=True).stdout.strip()


def test_this_installation_is_clean() -> None:
    assert run(sys.executable, RESOLVES) == EXPECTED


def test_a_wheel_is_clean_and_has_no_torch(device_python: Path) -> None:
    assert run(device_python, RESOLVES) == EXPECTED
    assert run(device_python, "import importlib.util as u; print(u.find_spec('torch'))") == "None"
    assert run(device_python, "import fcn_edge, pathlib; print((pathlib.Path(fcn_edge.__file__).parent / 'py.typed').exists())") == "True"


def test_a_wheel_holds_no_caches_or_sources(device_python: Path) -> None:
    code = "import fcn_edge, pathlib; print([p.name for p in pathlib.Path(fcn_edge.__file__).parent.rglob('*') if p.suffix in {'.cpp', '.h'}])"
    assert run(device_python, code) == "[]"


@pytest.mark.parametrize("command", ["", "train", "eval", "export", "stream", "bench", "inspect", "demo", "doctor"])
def test_help_needs_only_the_base_dependencies(command: str) -> None:
    blocked = ["torch", "onnx", "onnxruntime", "openvino", "cv2", "matplotlib", "tensorrt", "pycuda"]
    code = f"""
import sys
for name in {blocked!r}:
    sys.modules[name] = None
from fcn_edge.cli import main
sys.exit(main({[command, "--help"] if command else ["--help"]!r}))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: fcn-edge")
