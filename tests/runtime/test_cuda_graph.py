from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from fcn_edge.errors import EngineError, MissingError
from fcn_edge.runtime import cuda_graph
from fcn_edge.runtime.cuda_driver import find_gpu
from fcn_edge.runtime.cuda_graph import SIGNATURES, Cudart, Replayed, open_cudart

INCLUDE = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"
SHOW = """
#include <cuda_runtime_api.h>
#include <cstdio>
#include <type_traits>
template <class F> struct Show;
template <class R, class... A> struct Show<R(A...)> {
    static void write(const char* name) {
        std::printf("%s %zu", name, sizeof(R));
        ((std::printf(" %zu%s", sizeof(A), std::is_pointer_v<A> ? "p" : "")), ...);
        std::puts("");
    }
};
int main() {
"""


@pytest.fixture(scope="module")
def cudart() -> Cudart:
    try:
        return open_cudart()
    except MissingError as exc:
        pytest.skip(str(exc))


@pytest.fixture
def no_gpu(cudart: Cudart) -> Cudart:
    if find_gpu() is not None:
        pytest.skip("this machine has a GPU")
    return cudart


def test_signatures_are_those_of_the_header(tmp_path: Path) -> None:
    if not (INCLUDE / "cuda_runtime_api.h").is_file() or not shutil.which("g++"):
        pytest.skip("needs g++ and CUDA's headers in CUDA_HOME")
    source = tmp_path / "show.cpp"
    lines = [f'    Show<decltype({name})>::write("{name}");\n' for name in SIGNATURES]
    source.write_text(SHOW + "".join(lines) + "}\n")
    command = ["g++", "-std=c++17", f"-I{INCLUDE}", str(source), "-o", str(tmp_path / "show")]
    subprocess.run(command, check=True)
    shown = subprocess.run([str(tmp_path / "show")], check=True, capture_output=True, text=True).stdout
    pointers = (ctypes.c_void_p, ctypes._Pointer)
    expected = [
        " ".join([name, "4", *(f"{ctypes.sizeof(a)}{'p' if issubclass(a, pointers) else ''}" for a in arguments)])
        for name, arguments in SIGNATURES.items()
    ]
    assert shown.splitlines() == expected


def test_library_answers_with_its_version(cudart: Cudart) -> None:
    assert cudart.version("Runtime") >= 11040


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cudaStreamBeginCapture", (None, 1)),
        ("cudaStreamEndCapture", (None, ctypes.byref(ctypes.c_void_p()))),
        ("cudaGraphInstantiateWithFlags", (ctypes.byref(ctypes.c_void_p()), None, 0)),
        ("cudaGraphLaunch", (None, None)),
        ("cudaGraphExecDestroy", (None,)),
        ("cudaGraphDestroy", (None,)),
    ],
)
def test_without_a_gpu_every_call_is_an_engine_error(no_gpu: Cudart, name: str, arguments: tuple) -> None:
    """Through NVIDIA's own library: the code comes back, and its words."""
    with pytest.raises(EngineError, match=rf"{name} failed with CUDA error \d+: [a-zA-Z].+"):
        no_gpu.call(name, *arguments)


def test_without_a_gpu_nothing_is_enqueued(no_gpu: Cudart) -> None:
    calls: list[int] = []
    with pytest.raises(EngineError, match="cudaStreamBeginCapture"):
        no_gpu.capture(0, lambda: calls.append(1))
    assert not calls


def test_work_goes_on_where_the_real_library_cannot_capture(no_gpu: Cudart, caplog) -> None:
    calls: list[int] = []
    work = Replayed(lambda: calls.append(1), lambda enqueue: no_gpu.capture(0, enqueue))
    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            work()
    assert len(calls) == 10
    assert not work.is_graph
    assert [record.message for record in caplog.records if "CUDA error" in record.message] == [caplog.messages[0]]


def test_library_that_is_none_is_refused() -> None:
    with pytest.raises(MissingError, match=r"libc\.so\.6 has no CUDA graphs"):
        Cudart(ctypes.CDLL("libc.so.6"), "libc.so.6")


def test_no_library_is_said_in_a_sentence(monkeypatch) -> None:
    monkeypatch.setattr(cuda_graph, "_candidates", lambda: iter(["/nowhere/libcudart.so", "libc.so.6"]))
    with pytest.raises(MissingError, match=r"no usable libcudart.so was found \(libc.so.6 has no CUDA graphs"):
        open_cudart()


def test_library_of_nvidias_wheels_is_looked_for(monkeypatch, tmp_path: Path) -> None:
    library = tmp_path / "nvidia" / "cuda_runtime" / "lib" / "libcudart.so.12"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    assert str(library) in list(cuda_graph._candidates())


class Recorded:
    """Captured work that counts its launches."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def launch(self) -> None:
        self.log.append("launch")

    def close(self) -> None:
        self.log.append("close")


def test_work_is_warmed_up_captured_once_and_replayed() -> None:
    log: list[str] = []

    def capture(enqueue):
        log.append("capture")
        enqueue()
        return Recorded(log)

    work = Replayed(lambda: log.append("enqueue"), capture, warm_ups=2)
    seen = []
    for _ in range(5):
        work()
        seen.append(work.is_graph)
    assert log == ["enqueue", "enqueue", "capture", "enqueue", "launch", "launch", "launch"]
    assert seen == [False, False, True, True, True]
    work.close()
    work.close()
    assert log[-1] == "close"
    assert log.count("close") == 1
    work()
    assert log[-1] == "enqueue"


def test_work_that_cannot_be_captured_is_tried_once(caplog) -> None:
    log: list[str] = []

    def capture(enqueue):
        log.append("capture")
        raise EngineError("operation not permitted when stream is capturing")

    work = Replayed(lambda: log.append("enqueue"), capture, warm_ups=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            work()
    assert log == ["enqueue", "capture", "enqueue", "enqueue", "enqueue", "enqueue"]
    assert len(caplog.records) == 1
    assert "not permitted" in caplog.text


def test_work_without_capture_is_enqueued_each_time() -> None:
    log: list[str] = []
    work = Replayed(lambda: log.append("enqueue"), None)
    for _ in range(4):
        work()
    assert log == ["enqueue"] * 4


def test_failure_of_the_work_itself_is_the_callers() -> None:
    def fail() -> None:
        raise EngineError("an illegal memory access was encountered")

    with pytest.raises(EngineError, match="illegal"):
        Replayed(fail, None)()
    # Also when the capture fails for that reason: the work is tried once more without it, and says so itself.
    with pytest.raises(EngineError, match="illegal"):
        Replayed(fail, lambda enqueue: enqueue(), warm_ups=0)()


def library(**codes: int) -> SimpleNamespace:
    """A libcudart whose functions return the codes given, else success."""

    def answer(code: int) -> Callable[..., int]:
        return lambda *arguments: code

    functions = {name: answer(codes.get(name, 0)) for name in SIGNATURES}
    return SimpleNamespace(cudaGetErrorString=lambda code: b"words", **functions)


def test_one_capture_at_a_time(is_capturing) -> None:
    """The lock is held while work is captured and given back, whatever comes of it."""
    held: list[bool] = []

    def enqueue() -> None:
        held.append(is_capturing())

    def fail() -> None:
        enqueue()
        raise EngineError("spoilt")

    Cudart(library(), "fake").capture(1, enqueue)
    assert not is_capturing()
    with pytest.raises(EngineError, match="spoilt"):
        Cudart(library(), "fake").capture(1, fail)
    with pytest.raises(EngineError, match="cudaStreamEndCapture failed with CUDA error 901"):
        Cudart(library(cudaStreamEndCapture=901), "fake").capture(1, enqueue)
    assert held == [True] * 3
    assert not is_capturing()


@pytest.mark.parametrize("home", ["", ".", "toolkit"])
def test_no_library_is_taken_from_the_current_folder(tmp_path, monkeypatch, home) -> None:
    (tmp_path / home / "lib64").mkdir(parents=True)
    (tmp_path / home / "lib64" / "libcudart.so.12").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_HOME", home)
    assert not [name for name in cuda_graph._candidates() if "/" in name and not Path(name).is_absolute()]
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / home))
    assert str(tmp_path / home / "lib64" / "libcudart.so.12") in cuda_graph._candidates()
