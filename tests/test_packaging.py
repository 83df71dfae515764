"""What an installation leaves in site-packages, and that it runs without torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from fcn_edge.extras import needs

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]

RESOLVES = """
import importlib.util, json
names = ["fcn_edge", "fcn_edge.export", "fcn_edge.benchmarks", "fcn_edge._native", "export", "benchmarks", "tests",
         "cpp_plugins"]
print(json.dumps([name for name in names if importlib.util.find_spec(name)]))
"""
EXPECTED = '["fcn_edge", "fcn_edge.export", "fcn_edge.benchmarks", "fcn_edge._native"]'


def run(python: str | Path, code: str) -> str:
    return subprocess.run(
        [python, "-I", "-c", code], cwd="/", capture_output=True, text=True, check=True
    ).stdout.strip()


def test_this_installation_is_clean() -> None:
    assert run(sys.executable, RESOLVES) == EXPECTED


FILES = """
import fcn_edge, pathlib
root = pathlib.Path(fcn_edge.__file__).parent
print((root / "py.typed").exists(), [path.name for path in root.rglob("*") if path.suffix in {".cpp", ".h", ".cu"}])
"""


def test_a_wheel_is_clean_and_has_no_torch(device_python: Path) -> None:
    assert run(device_python, RESOLVES) == EXPECTED
    assert run(device_python, "import importlib.util as u; print(u.find_spec('torch'))") == "None"


def test_a_wheel_is_typed_and_holds_no_sources(device_python: Path) -> None:
    assert run(device_python, FILES) == "True []"


PROGRAM = """
import time

import cv2
from fcn_edge.benchmarks.latency import measure
from fcn_edge.errors import SourceError
from fcn_edge.export.to_onnx import onnx_from_checkpoint
from fcn_edge.runtime import Frame, Overlay, Source, open_engine, open_sink, run


class Camera(Source):
    def read(self) -> Frame | None:
        good, frame = cv2.VideoCapture(0).read()
        return Frame(frame, 0, time.monotonic_ns(), "0") if good else None


with open_engine("camvid-n") as engine:
    frame = cv2.imread("x.png")
    assert frame is not None
    labels = engine.infer(frame)
    cv2.imwrite("y.png", Overlay(engine.contract).draw(frame, labels))
    print(measure(engine, [frame], 1.0)["fps"])
    onnx_from_checkpoint("x.pt", "x.onnx", verify_frames=[frame])
    try:
        with open_sink("y.mp4", contract=engine.contract) as sink:
            run(Camera("camera", 30.0, (480, 640), None), engine, sink)
    except SourceError as exc:
        if exc.summary is not None:
            print(exc.summary.frames_out)
"""


def test_a_program_with_frames_of_opencv_passes_a_strict_type_check(tmp_path: Path) -> None:
    """OpenCV's own stubs say that an image is of any integer or floating type."""
    root, package = Path(__file__).parents[1], tmp_path / "typed" / "fcn_edge"
    package.mkdir(parents=True)
    for part in (*(root / "fcn_edge").iterdir(), root / "export", root / "benchmarks"):  # as they install
        (package / part.name).symlink_to(part)
    (tmp_path / "program.py").write_text(PROGRAM)
    # Typed as where it is installed, and without torch, whose types would take most of the time.
    silent = "[mypy-fcn_edge.*]\nfollow_imports = silent\n[mypy-torch.*,onnx.*]\nfollow_imports = skip\n"
    (tmp_path / "mypy.ini").write_text(f"[mypy]\n{silent}")
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "program.py"],
        cwd=tmp_path, env=os.environ | {"MYPYPATH": str(package.parent)}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_source_archive_holds_what_builds_and_nothing_of_a_used_checkout(tmp_path: Path) -> None:
    root, copy = Path(__file__).parents[1], tmp_path / "copy"
    for name in (".gitignore", "pyproject.toml", "README.md", "LICENSE", "Makefile", "fcn_edge/__init__.py"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, copy / name)
    for name in ("fcn_edge/__pycache__/x.pyc", "export/x.py", "benchmarks/x.json", "cpp_plugins/x.cpp", "tests/x.py"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).touch()
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(copy)]
    subprocess.run(command, capture_output=True, check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    built = {
        "pyproject.toml",
        "LICENSE",
        "fcn_edge/__init__.py",
        "export/x.py",
        "benchmarks/x.json",
        "cpp_plugins/x.cpp",
    }
    assert names == built | {".gitignore", "README.md", "PKG-INFO"}


def test_a_jetson_keeps_its_own_opencv_and_the_numpy_that_it_was_compiled_for(device_python: Path) -> None:
    code = """
import importlib.metadata
print([line.partition(";")[0].strip() for line in importlib.metadata.requires("fcn-edge") if "jetson" in line])
"""
    needed = run(device_python, code)
    assert "'numpy<2'" in needed
    assert "opencv" not in needed
    assert "tensorrt" not in needed


def test_a_wheel_holds_the_page(device_python: Path) -> None:
    code = """
import socket, urllib.request
from fcn_edge.runtime import open_sink
from fcn_edge.runtime.engine_echo import ECHO_CONTRACT
with socket.create_server(("127.0.0.1", 0)) as taken:
    address = "127.0.0.1:%d" % taken.getsockname()[1]
with open_sink(f"serve://{address}", contract=ECHO_CONTRACT):
    print(b"picture.jpg" in urllib.request.urlopen(f"http://{address}/", timeout=10).read())
"""
    assert run(device_python, code) == "True"


def test_a_device_without_torch_evaluates_measures_and_streams(
    device_python: Path, trained: Path, tmp_path: Path
) -> None:
    def fcn_edge(*args: object) -> dict[str, object]:
        command = [device_python, "-I", "-m", "fcn_edge", *map(str, args), "--json"]
        result = subprocess.run(command, cwd="/", capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        loaded: dict[str, object] = json.loads(result.stdout)
        return loaded

    model, data = trained / "model.onnx", trained / "data"
    assert fcn_edge("eval", model, "--data", data)["images"] == 2
    assert fcn_edge("bench", model, "--duration", "300ms", "--threads", 1)["results"]
    summary = fcn_edge("stream", model, "synthetic://street?size=64x96&frames=5", tmp_path / "out.mp4")
    assert (summary["frames_out"], summary["ended"]) == (5, "eof")
    assert fcn_edge("stream", "camvid-n", tmp_path / "out.mp4", tmp_path / "pictures")["frames_out"] == 5
    result = subprocess.run(
        [device_python, "-I", "-m", "fcn_edge", "eval", str(trained / "run" / "best.pt"), "--data", str(data)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 3
    assert "fcn-edge[train]" in result.stderr


TRAINS = ("torch",)
RUNS = ("onnx", "onnxruntime", "openvino", "cv2", "matplotlib", "starlette", *TRAINS)


@pytest.mark.parametrize(
    ("blocked", "line", "package", "extra"),
    [
        (TRAINS, "train --data {0}/none --out {0}/out", "torch", "train"),
        (TRAINS, "export {0}/none.pt -o {0}/out.onnx", "torch", "train"),
        (TRAINS, "demo --out {0}/out", "torch", "cpu,train"),
        (RUNS, "build camvid-n -o {0}/out", "onnx", "cpu"),
    ],
)
def test_what_a_command_lacks_is_one_sentence(
    blocked: tuple[str, ...], line: str, package: str, extra: str, tmp_path: Path
) -> None:
    code = f"""
import sys
for name in {blocked!r}:
    sys.modules[name] = None
from fcn_edge.cli import main
sys.exit(main({line.format(tmp_path).split()!r}))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 3, result.stderr
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith(f"fcn-edge: {line.split()[0]} needs {package}, which cannot be imported (")
    assert sentence.endswith(f"install it with: pip install 'fcn-edge[{extra}]'")
    assert list(tmp_path.iterdir()) == []


def test_an_import_that_fails_in_our_own_modules_is_no_gap_of_the_machine() -> None:
    with pytest.raises(ImportError, match="nonsense"), needs("train", "train"):
        import fcn_edge.nonsense  # noqa: F401


def test_a_machine_with_a_gpu_gets_what_the_gate_runs_on() -> None:
    """A Jetson does not: there its own OpenCV must stay, and it may build from typed files without a gate."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {extra: {re.split(r"[<>=]", line)[0] for line in lines} for extra, lines in extras.items()}
    assert {"openvino", "pycuda"} <= names["gpu"]
    assert not {"openvino", "opencv-python"} & names["jetson"]


@pytest.mark.parametrize(
    "command", ["", "train", "eval", "export", "build", "stream", "bench", "inspect", "demo", "doctor"]
)
def test_help_needs_only_the_base_dependencies(command: str) -> None:
    blocked = ["torch", "onnx", "onnxruntime", "openvino", "cv2", "matplotlib", "tensorrt", "pycuda", "starlette"]
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
