"""TensorRT's words as sentences: those that need a machine which is not here, in the words of public reports."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fcn_edge.errors import MissingError, ModelError
from fcn_edge.export import to_engine
from fcn_edge.export.build import build
from fcn_edge.export.build_request import BuildRequest
from fcn_edge.export.engine_errors import build_error, parser_error
from fcn_edge.runtime import tensorrt_library
from fcn_edge.runtime.sidecar import Gpu, Library, Options

LIBRARY, ORIN = Library(package="tensorrt", version="10.3.0"), Gpu(name="Orin", sm=87)


@pytest.mark.parametrize(
    "text",
    [
        "[defaultAllocator.cpp::allocate::20] Error Code 1: Cuda Runtime (out of memory)",
        "Requested amount of GPU memory (1073741824 bytes) could not be allocated. OutOfMemory",
        "[tactic.cpp] no tactics to implement the operation within workspace limit",
        "std::bad_alloc",
    ],
)
def test_lack_of_memory(text: str) -> None:
    errors = [text, "Error Code 10: Internal Error (Could not find any implementation for node x)"]
    free = build_error(LIBRARY, ORIN, Path("x.onnx"), Options(), errors)
    limited = build_error(LIBRARY, ORIN, Path("x.onnx"), Options(workspace_mib=16), errors)
    assert isinstance(free, MissingError)
    assert text in str(free)
    assert "--workspace 512" in str(free)
    assert "--workspace 64" in str(limited)


def test_other_reasons() -> None:
    without = build_error(LIBRARY, None, Path("x.onnx"), Options(), ["CUDA initialization failure with error: 35"])
    assert isinstance(without, MissingError)
    assert "finds no NVIDIA GPU" in str(without)
    other = build_error(LIBRARY, ORIN, Path("x.onnx"), Options(), ["a", "Could not find any implementation for node y"])
    assert isinstance(other, ModelError)
    assert "node y" in str(other)
    assert "no reason" in str(build_error(LIBRARY, ORIN, Path("x.onnx"), Options(), []))


def test_parser_errors_are_listed_node_by_node_but_not_without_end() -> None:
    def error(index: int) -> SimpleNamespace:
        fields = {"node": index, "node_name": f"conv.{index}", "node_operator": "Conv", "desc": "bad dilation"}
        return SimpleNamespace(**{name: (lambda value=value: value) for name, value in fields.items()})

    text = str(parser_error(SimpleNamespace(num_errors=9, get_error=error), Path("x.onnx")))
    assert "x.onnx at 9 place(s)" in text
    assert "node 4 conv.4 (Conv): bad dilation" in text
    assert "conv.5" not in text
    assert "and 4 more" in text


def test_a_builder_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the data-centre library does, which is nowhere to be had for a test: its factory returns nothing."""

    def factory(log: SimpleNamespace) -> None:
        log.messages.append(("WARNING", "CUDA initialization failure with error: 100."))
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt = SimpleNamespace(__name__="tensorrt", __version__="10.3.0", Builder=factory)
    monkeypatch.setattr(to_engine, "require_tensorrt", lambda: trt)
    log = SimpleNamespace(errors=list, messages=[])
    monkeypatch.setattr(to_engine, "log_of", lambda module: log)
    monkeypatch.setattr(to_engine, "find_gpu", lambda: None)
    with pytest.raises(MissingError, match=r"tensorrt 10\.3\.0 finds no NVIDIA GPU"):
        to_engine.EngineBuilder(None)
    monkeypatch.setattr(to_engine, "find_gpu", lambda: ORIN)
    with pytest.raises(
        MissingError, match=r"cannot start on Orin \(sm_87\): CUDA initialization failure with error: 100;"
    ):
        to_engine.EngineBuilder(lambda: pytest.fail("the plugin was looked for, and it is TensorRT that is missing"))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("__version__ = '8.5.2.2'", "TensorRT 8.5.2.2 is too old"),
        ("raise ImportError('libnvinfer.so.10: cannot open')", "tensorrt is installed but cannot be imported"),
    ],
)
def test_what_is_wrong_with_tensorrt_is_told_before_a_plugin_is_looked_for(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site" / "tensorrt").mkdir(parents=True)
    (tmp_path / "site" / "tensorrt" / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    del sys.modules["tensorrt"]  # what is imported in its place is gone behind the test
    monkeypatch.setattr(tensorrt_library, "PACKAGES", ("tensorrt",))
    monkeypatch.setenv("FCN_EDGE_PLUGIN", str(tmp_path / "missing.so"))
    with pytest.raises(MissingError, match=words):
        build([tmp_path / "x.onnx"], tmp_path / "out", BuildRequest())
