"""The marker ``gpu``: a test is skipped for what it needs and the machine lacks, and for nothing else."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from fcn_edge.errors import MissingError
from fcn_edge.runtime import gpu, tensorrt_library
from fcn_edge.runtime.sidecar import Gpu


@pytest.fixture
def conftest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """This folder's conftest on a machine with a GPU and nothing else."""

    def missing() -> None:
        raise MissingError("not here")

    plugins = request.config.pluginmanager.get_plugins()
    (module,) = (plugin for plugin in plugins if hasattr(plugin, "gpu_gap"))
    monkeypatch.setattr(module, "find_gpu", lambda: Gpu(name="Orin", sm=87))
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(gpu, "require_pycuda", missing)
    monkeypatch.setattr(tensorrt_library, "require_tensorrt", missing)
    monkeypatch.setattr(module, "gpu_gap", module.gpu_gap.__wrapped__)
    return module


def test_only_what_is_needed_is_asked_for(conftest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert conftest.gpu_gap() == ""
    assert conftest.gpu_gap("pycuda") == "no PyCUDA"
    assert conftest.gpu_gap("tensorrt", "pycuda") == "no TensorRT, no PyCUDA"
    monkeypatch.setattr(tensorrt_library, "require_tensorrt", lambda: None)
    assert conftest.gpu_gap("tensorrt", "pycuda") == "no PyCUDA"


def test_torch_must_see_the_gpu(conftest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert conftest.gpu_gap("torch") == "no PyTorch that sees a GPU"
    for sees in (False, True):
        cuda = SimpleNamespace(is_available=lambda sees=sees: sees)
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, __spec__="found"))
        assert conftest.gpu_gap("torch") == ("" if sees else "no PyTorch that sees a GPU")


def test_without_a_gpu_that_is_said_too(conftest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "find_gpu", lambda: None)
    monkeypatch.setattr(conftest, "cuda_version", lambda: "13.0")
    assert conftest.gpu_gap("tensorrt") == "no NVIDIA GPU, no TensorRT"
    monkeypatch.setattr(conftest, "cuda_version", lambda: "")
    assert conftest.gpu_gap() == "no CUDA driver"


@pytest.mark.parametrize(("marks", "reason"), [((), "lacks tensorrt, pycuda"), (("torch",), "lacks torch")])
def test_a_marked_test_is_skipped_with_the_reason(conftest, monkeypatch: pytest.MonkeyPatch, marks, reason) -> None:
    added = []
    item = SimpleNamespace(get_closest_marker=lambda name: pytest.mark.gpu(*marks).mark, add_marker=added.append)
    monkeypatch.setattr(conftest, "gpu_gap", lambda *needs: f"lacks {', '.join(needs)}")
    conftest.pytest_collection_modifyitems([item])
    assert [(mark.name, mark.kwargs) for mark in added] == [("skip", {"reason": reason})]
    monkeypatch.setattr(conftest, "gpu_gap", lambda *needs: "")
    conftest.pytest_collection_modifyitems([item])
    assert len(added) == 1
