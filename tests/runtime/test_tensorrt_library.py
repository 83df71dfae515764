"""Which TensorRT is taken and which is refused, with modules that are as empty as the question allows."""

from __future__ import annotations

import enum
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fcn_edge.errors import MissingError
from fcn_edge.runtime import tensorrt_library
from fcn_edge.runtime.engine_tensorrt import deserialized
from fcn_edge.runtime.sidecar import Library
from fcn_edge.runtime.tensorrt_library import (
    PLUGIN_FILE,
    PLUGIN_VARIABLE,
    find_plugin,
    log_of,
    open_runtime,
    require_own_name,
    unfit_gpu,
)

PROGRAM = """
from fcn_edge.errors import MissingError
from fcn_edge.runtime import tensorrt_library
from fcn_edge.runtime.tensorrt_library import has_tensorrt, library_of, require_tensorrt
print(has_tensorrt())
try:
    print(library_of(require_tensorrt()))
except MissingError as exc:
    print(exc)
"""


class Logger:
    """What TensorRT's own offers to be derived from."""

    Severity = enum.IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO"], start=0)
    WARNING = Severity.WARNING


def found(folder: Path, **modules: str) -> tuple[str, str]:
    """Whether a TensorRT is seen, and which, or the sentence, where only these modules are."""
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    call = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{PROGRAM}"]
    lines = subprocess.run(call, capture_output=True, text=True, check=True).stdout.splitlines()
    return lines[0], lines[1]


def test_versions(tmp_path: Path) -> None:
    cases = {
        "10.3.0": "tensorrt 10.3.0",
        "11.4.0.106": "tensorrt 11.4.0",
        "10.16.1.post2": "tensorrt 10.16.1",
    }
    for version, expected in cases.items():
        assert found(tmp_path, tensorrt=f"__version__ = '{version}'") == ("True", expected)
    for version in ("8.6.1.6", "8.5.2", "10.0.1", "9.3.0"):
        seen, sentence = found(tmp_path, tensorrt=f"__version__ = '{version}'")
        assert seen == "True"
        assert f"TensorRT {version} is too old: engines need 10.3, which comes with JetPack 6" in sentence


def test_the_other_package_where_the_first_is_unusable(tmp_path: Path) -> None:
    rtx = "__version__ = '1.2.0.54'"
    assert found(tmp_path, tensorrt_rtx=rtx, tensorrt="__version__ = '8.6.1'") == ("True", "tensorrt_rtx 1.2.0")
    broken = "raise ImportError('libnvinfer.so.10: cannot open shared object file')"
    assert found(tmp_path, tensorrt_rtx=rtx, tensorrt=broken) == ("True", "tensorrt_rtx 1.2.0")
    (tmp_path / "tensorrt_rtx.py").unlink()
    assert "libnvinfer.so.10: cannot open shared object file" in found(tmp_path, tensorrt=broken)[1]


def test_none_at_all() -> None:
    lines = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    if lines.startswith("True"):
        pytest.skip("TensorRT is installed here")
    assert "TensorRT is not installed; on a Jetson it comes with JetPack 6" in lines


def test_the_plugin_comes_from_where_the_user_pointed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, named = tmp_path / "given.so", tmp_path / "named.so"
    given.touch()
    named.touch()
    monkeypatch.chdir(tmp_path)
    (tmp_path / PLUGIN_FILE).touch()  # the folder of the moment is no such place
    monkeypatch.setenv(PLUGIN_VARIABLE, str(named))
    assert find_plugin(given) == given
    assert find_plugin() == named
    monkeypatch.setenv(PLUGIN_VARIABLE, "")
    monkeypatch.setattr(tensorrt_library, "_PACKAGE_FOLDER", tmp_path / "sources")
    compiled = SimpleNamespace(origin=str(tmp_path / "compiled" / "_native.so"))
    monkeypatch.setattr(tensorrt_library.importlib.util, "find_spec", lambda name: compiled)
    with pytest.raises(MissingError, match="this installation has no libfcn_edge_plugin"):
        find_plugin()
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled" / PLUGIN_FILE).touch()  # as an editable install has it
    assert find_plugin() == tmp_path / "compiled" / PLUGIN_FILE
    monkeypatch.setenv(PLUGIN_VARIABLE, str(named))
    named.unlink()
    with pytest.raises(MissingError, match=r"named\.so does not exist.*--no-plugin"):
        find_plugin()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            [
                (1, "[runtime.cpp::isCudaInstalledCorrectly::41] Error Code 6: Internal Error (CUDA error 35)\n"),
                (2, "Unable to determine GPU memory usage"),
            ],
            "Error Code 6: Internal Error (CUDA error 35);",
        ),
        (
            [
                (2, "Unable to determine GPU memory usage"),
                (2, "CUDA initialization failure with error: 35."),
                (3, "[MemUsageChange] Init CUDA: CPU +21, GPU +0"),
            ],
            "cannot start: CUDA initialization failure with error: 35;",
        ),
        ([], "cannot start: pybind11::init(): factory function returned nullptr;"),
    ],
)
def test_a_runtime_that_cannot_start(told: list[tuple[int, str]], said: str) -> None:
    """TensorRT then returns nothing, of which pybind11 makes a TypeError; TensorRT's words are what helps."""

    def factory(log: Any) -> None:
        for severity, text in told:
            log.log(Logger.Severity(severity), text)
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt = ModuleType("tensorrt")
    trt.__dict__.update(__version__="10.3.0", ILogger=Logger, Runtime=factory)
    log_of(trt).messages.append(("ERROR", "of an engine long ago"))
    with pytest.raises(MissingError, match=re.escape(said)) as caught:
        open_runtime(trt)
    assert str(caught.value).startswith("tensorrt 10.3.0 cannot start: ")
    assert "\n" not in str(caught.value)


def test_a_gpu_that_tensorrt_rtx_does_not_take() -> None:
    """Its words on an H100; the plan had been built there without complaint."""
    said = (
        "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine cannot run on this GPU, which has "
        "compute capability 9.0. Supported compute capabilities: 8.0 8.6 8.9 12.0 12.1 >12.0. TensorRT-RTX does not "
        "support this compute capability, so the engine cannot be rebuilt for it. In throwUnlessComputeCapability"
    )
    library = Library(package="tensorrt_rtx", version="1.7.1")
    error = unfit_gpu(library, ["of its cache", said])
    assert isinstance(error, MissingError)
    assert str(error) == (
        "tensorrt_rtx 1.7.1 does not run on a GPU of compute capability 9.0, but on 8.0 8.6 8.9 12.0 12.1 >12.0; "
        "pip install tensorrt, which is taken before it, and build the engine again"
    )
    assert "a GPU of this kind; pip" in str(unfit_gpu(library, ["does not support this compute capability"]))
    assert unfit_gpu(library, ["serialized with another version"]) is None


def test_turing_is_no_such_gpu() -> None:
    """An engine that was built for all others runs on none of these, but one that is built there does."""
    said = (
        "The engine cannot run on this GPU, which has compute capability 7.5. Supported compute capabilities: 8.0 8.6. "
        "TensorRT-RTX does not support this compute capability, so the engine cannot be rebuilt for it."
    )
    library = Library(package="tensorrt_rtx", version="1.7.1")
    assert unfit_gpu(library, [said]) is None
    assert unfit_gpu(library, [said.replace("7.5", "7.0")]) is not None


@pytest.fixture
def libs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of TensorRT-RTX's libraries as pip fills it."""
    folder = tmp_path / "my site" / "tensorrt_rtx_libs"
    folder.mkdir(parents=True)
    for name in ("__init__.py", "libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"):
        (folder / name).touch()
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def test_a_library_that_lacks_the_name_it_gives_itself(libs: Path) -> None:
    """TensorRT-RTX would end the process; the sentence ends with a command that works."""
    with pytest.raises(MissingError, match=r"has only libtensorrt_rtx\.so\.1; .* --no-plugin") as caught:
        require_own_name()
    subprocess.run(str(caught.value).partition("make the link: ")[2], shell=True, check=True)
    assert (libs / "libtensorrt_rtx.so").resolve() == libs / "libtensorrt_rtx.so.1"
    require_own_name()


def test_a_name_that_is_found_elsewhere_or_not_needed(libs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(tensorrt_library.ctypes, "CDLL", opened.append)  # as with LD_LIBRARY_PATH
        require_own_name()
    assert opened == ["libtensorrt_rtx.so"]
    (libs / "libtensorrt_rtx.so.1").rename(libs / "tensorrt_rtx_1_7.dll")
    require_own_name()
    monkeypatch.setattr(tensorrt_library.importlib.util, "find_spec", lambda name: None)
    require_own_name()


def test_opening_an_engine_on_such_a_gpu_tells_so() -> None:
    trt = ModuleType("tensorrt_rtx")
    trt.__dict__.update(__version__="1.7.1.116", ILogger=Logger)

    def refused(plan: bytes) -> None:
        log_of(trt).log(Logger.Severity.ERROR, "TensorRT-RTX does not support this compute capability")

    with pytest.raises(MissingError, match=r"tensorrt_rtx 1\.7\.1 does not run on a GPU of this kind"):
        deserialized(trt, SimpleNamespace(deserialize_cuda_engine=refused), b"", Path("m.engine"), None)


def test_two_threads_get_one_log() -> None:
    """TensorRT keeps a pointer to the first, which must be the one that is never freed."""
    made: list[object] = []
    both = threading.Barrier(2)

    class SlowLogger(Logger):
        def __init__(self) -> None:
            made.append(self)
            threading.Event().wait(0.2)  # the other thread asks meanwhile

    trt = ModuleType("tensorrt")
    trt.__dict__.update(ILogger=SlowLogger)

    def ask() -> object:
        both.wait()
        return log_of(trt)

    with ThreadPoolExecutor(2) as pool:
        first, second = [future.result() for future in [pool.submit(ask) for _ in range(2)]]
    assert made == [first]
    assert first is second
