"""Make ``import tensorrt`` work without a GPU: networks are parsed and engines built for real, nothing can run.

    python make_tensorrt_cpu.py SITE && PYTHONPATH=SITE python -c "import tensorrt"

NVIDIA's Python bindings of TensorRT are on PyPI; the libraries behind them are not. Those of TensorRT-RTX are, inside a
plugin of ONNX Runtime; they have the same interface and build engines on the CPU. ``forward.cpp`` joins the two. Needs
pip, g++ and Linux on x86-64; downloads about 300 MB once. SITE is left alone if it is already up to date.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BINDINGS = "tensorrt-cu13-bindings==11.4.0.106"
LIBRARIES = "onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0"
LIBRARY_FOLDER = "onnxruntime_ep_nv_tensorrt_rtx"
FORWARDER = Path(__file__).with_name("forward.cpp")
STAMP = "made-by-fcn-edge.txt"

PACKAGE = """\
import sys

import tensorrt_bindings
from tensorrt_bindings import *
from tensorrt_bindings import __version__

sys.modules[__name__ + ".tensorrt"] = tensorrt_bindings.tensorrt
"""


def make(site: Path) -> None:
    """Fill ``site``, whole or not at all."""
    recipe = f"{BINDINGS} {LIBRARIES} {_digest(FORWARDER)} {_digest(Path(__file__))} {sys.version_info[:2]}"
    stamp = site / STAMP
    if stamp.is_file() and stamp.read_text() == recipe:
        return
    if site.exists() and not stamp.is_file() and any(site.iterdir()):
        raise SystemExit(f"{site} holds something else; choose an empty folder")
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise SystemExit(f"TensorRT-RTX's libraries are for Linux on x86-64, this is {platform.platform()}")
    compiler = shutil.which("g++")
    if compiler is None:
        raise SystemExit("g++ is not installed; install it with: apt-get install g++")
    site.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tensorrt-cpu-", dir=site.parent) as folder:
        fresh = Path(folder) / "site"
        _install(fresh)
        _link_libraries(fresh / LIBRARY_FOLDER)
        _compile(compiler, fresh / "tensorrt_bindings")
        (fresh / "tensorrt").mkdir()
        (fresh / "tensorrt" / "__init__.py").write_text(PACKAGE)
        (fresh / STAMP).write_text(recipe)
        if site.exists():
            shutil.rmtree(site)
        fresh.rename(site)


def _install(site: Path) -> None:
    # --no-deps: the bindings' own dependency is a stub whose build downloads from elsewhere.
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    _run([*pip, "--retries", "1", "--timeout", "20", "--target", str(site), BINDINGS, LIBRARIES])


def _link_libraries(folder: Path) -> None:
    """Give the versioned libraries the names they are opened by: the parser asks the core for ``.so`` and ``.so.1``."""
    for stem in ("libtensorrt_rtx", "libtensorrt_onnxparser_rtx"):
        (library,) = (path for path in folder.glob(f"{stem}.so.*.*") if not path.is_symlink())
        for suffix in (".so", ".so.1"):
            link = folder / f"{stem}{suffix}"
            link.unlink(missing_ok=True)
            link.symlink_to(library.name)


def _compile(compiler: str, folder: Path) -> None:
    """One forwarding library under the three names that the bindings are linked against."""
    first, *others = ("libnvinfer.so.11", "libnvonnxparser.so.11", "libnvinfer_plugin.so.11")
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{first}"]
    rpath = f"-Wl,-rpath,$ORIGIN/../{LIBRARY_FOLDER}"
    _run([compiler, *flags, rpath, str(FORWARDER), "-o", str(folder / first), "-ldl"])
    for name in others:
        (folder / name).symlink_to(first)


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ... failed: {result.stderr.strip()[-500:]}")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: make_tensorrt_cpu.py SITE")
    make(Path(sys.argv[1]).resolve())
