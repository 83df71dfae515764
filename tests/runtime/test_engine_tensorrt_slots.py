"""What the GPU engine does with its slots, on stand-ins for PyCUDA and for a loaded plan: no library runs one here."""

from __future__ import annotations

import gc
import os
import pickle
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from fcn_edge.errors import EngineError
from fcn_edge.runtime import engine_tensorrt
from fcn_edge.runtime.engine_tensorrt import IN_FLIGHT, TensorRtEngine
from fcn_edge.runtime.sidecar import Library, Options, Precision, Sidecar
from fcn_edge.runtime.tensorrt_library import RTX

Open = Callable[..., TensorRtEngine]
SCRATCH = 1 << 16


class Context:
    """An execution context that notes its addresses."""

    def __init__(self) -> None:
        self.addresses: set[tuple[str, int]] = set()
        self.runs = 0

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses.add((name, address))
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.runs += 1
        return True


class AskedContext(Context):
    """One of TensorRT-RTX, which can be asked whether it may be captured."""

    answer = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def is_stream_capturable(self, stream: int) -> bool:
        self.asked.append(stream)
        return self.answer


class RtxContext(AskedContext):
    """One that got no memory of its own when it was made."""

    memory: tuple[int, int] | None = None

    def set_device_memory(self, address: int, size: int) -> None:
        self.memory = (address, size)

    def execute_async_v3(self, stream: int) -> bool:
        assert self.memory
        return super().execute_async_v3(stream)


class NoGraph:
    """Captured work that does nothing."""

    def launch(self) -> None:
        """Replay it."""

    def close(self) -> None:
        """Free it."""


@pytest.fixture
def contexts() -> list[Context]:
    """Those that were made, in order."""
    return []


@pytest.fixture
def context_type() -> list[type[Context]]:
    """What is made."""
    return [Context]


@pytest.fixture
def open_fake(contract, contexts, context_type, fake_driver, monkeypatch) -> Open:
    height, width = contract.size_hw
    tensors = {"image": ("UINT8", (1, height, width, 3), "INPUT"), "labels": ("INT8", (1, height, width), "OUTPUT")}

    def create_execution_context(strategy: str = "STATIC") -> Context | None:
        if (trt.__name__ == RTX) != (strategy == "USER_MANAGED"):
            return None  # as TensorRT-RTX 1.7.1 does on a GPU
        contexts.append(context_type[0]())
        return contexts[-1]

    plan = SimpleNamespace(
        device_memory_size_v2=SCRATCH,
        num_io_tensors=2,
        get_tensor_name=list(tensors).__getitem__,
        get_tensor_dtype=lambda name: SimpleNamespace(name=tensors[name][0]),
        get_tensor_shape=lambda name: tensors[name][1],
        get_tensor_mode=lambda name: tensors[name][2],
        create_execution_context=create_execution_context,
    )
    trt = ModuleType("tensorrt")
    trt.__dict__.update(ILogger=object, TensorIOMode=SimpleNamespace(INPUT="INPUT"))
    trt.__dict__["ExecutionContextAllocationStrategy"] = SimpleNamespace(USER_MANAGED="USER_MANAGED")
    if context_type[0] is RtxContext:
        trt.__name__ = RTX
    described = Sidecar(
        contract=contract,
        precision=Precision(asked="fp32", found={}, audited="engine"),
        plan_sha256="",
        onnx="m.onnx",
        onnx_sha256="",
        tensorrt=Library(package="tensorrt", version="10.3.0"),
        cuda="",
        gpu=None,
        plugin=None,
        options=Options(),
    )
    monkeypatch.setattr(engine_tensorrt, "checked_plan", lambda path, plugin: (described, b"", trt))
    monkeypatch.setattr(engine_tensorrt, "open_runtime", lambda trt: object())
    monkeypatch.setattr(engine_tensorrt, "deserialized", lambda *arguments: plan)
    return lambda use_graph=False: TensorRtEngine(Path("m.engine"), use_graph=use_graph)


def test_each_slot_has_a_context_of_its_own(open_fake: Open, contexts: list[Context], contract) -> None:
    """A graph keeps to the context that it was captured from, which must not be used for another."""
    frame = np.zeros((*contract.size_hw, 3), np.uint8)
    with open_fake() as engine:
        engine.infer(frame)
        assert len(contexts) == 1, "the second is of no use to infer"
        for _ in range(2):
            assert len(list(engine.infer_all([frame] * 5))) == 5
    assert len(contexts) == IN_FLIGHT
    assert all(len(context.addresses) == 2 for context in contexts)
    assert len(set.union(*(context.addresses for context in contexts))) == 2 * IN_FLIGHT


@pytest.fixture
def memory(fake_driver) -> dict[int, int]:
    """Sizes of the GPU's memory that is taken, by address."""
    taken: dict[int, int] = {}

    class Allocation(int):
        def free(self) -> None:
            del taken[self]

    def mem_alloc(size: int) -> Allocation:
        address = Allocation((len(taken) + 1) << 20)
        assert address not in taken
        taken[address] = size
        return address

    fake_driver.mem_alloc = mem_alloc
    return taken


def test_tensorrt_rtx_gets_its_scratch_memory(context_type, memory, request, contexts) -> None:
    """An engine that a graph can be captured from asks for it: TensorRT-RTX 1.7.1 made no context without."""
    context_type[0] = RtxContext
    with request.getfixturevalue("open_fake")() as engine:
        assert engine.infer(np.zeros((*engine.contract.size_hw, 3), np.uint8)).size
        assert len(memory) == 3  # scratch memory, frame and labels
        list(engine.infer_all([]))
        given = [context.memory for context in contexts]
        assert len(set(given)) == len(given) == IN_FLIGHT
        assert all(memory[address] == size == SCRATCH for address, size in given)
    assert memory == {}


@pytest.mark.parametrize(("kind", "answer"), [(Context, True), (AskedContext, True), (AskedContext, False)])
def test_tensorrt_is_captured_unless_it_says_that_it_cannot_be(
    open_fake: Open, contexts, context_type, contract, monkeypatch, caplog, kind: type[Context], answer: bool
) -> None:
    """An engine of TensorRT-RTX may allocate while it runs; it then runs without a graph, and the log says so."""
    captured: list[Callable[[], None]] = []

    def capture(enqueue: Callable[[], None]) -> NoGraph:
        captured.append(enqueue)
        return NoGraph()

    monkeypatch.setattr(engine_tensorrt, "_capture_on", lambda stream: capture)
    monkeypatch.setattr(AskedContext, "answer", answer)
    context_type[0] = kind
    with open_fake(use_graph=True) as engine:
        assert engine.is_graph is answer
        list(engine.infer_all([]))
        assert engine.is_graph is answer
        assert len(captured) == (IN_FLIGHT if answer else 0)
        before = sum(context.runs for context in contexts)
        engine.infer(np.zeros((*contract.size_hw, 3), np.uint8))
        assert sum(context.runs for context in contexts) - before == (0 if answer else 1)
        if kind is AskedContext:
            stream = engine._slots[0]._stream.handle
            assert [context.asked for context in contexts] == [[stream]] * IN_FLIGHT
    assert ("no CUDA graph" in caplog.text) is not answer
    assert ("build it again with --force" in caplog.text) is not answer


def test_no_memory_for_a_second_frame_costs_the_first_nothing(context_type, memory, request, fake_driver) -> None:
    """What was taken for it is given back, and the loop may be tried again."""
    context_type[0] = RtxContext
    with request.getfixturevalue("open_fake")() as engine:
        taken, frame = dict(memory), np.zeros((*engine.contract.size_hw, 3), np.uint8)
        pages = fake_driver.pagelocked_empty

        def full(shape: tuple[int, ...], dtype: type, mem_flags: int) -> None:
            raise fake_driver.Error("cuMemHostAlloc failed: out of memory")

        fake_driver.pagelocked_empty = full
        with pytest.raises(EngineError, match=r"out of memory while preparing m\.engine"):
            next(engine.infer_all([frame]))
        assert memory == taken
        assert engine.infer(frame).size
        fake_driver.pagelocked_empty = pages
        assert len(list(engine.infer_all([frame] * 3))) == 3
    assert memory == {}


def test_nothing_is_freed_before_the_stream_is_done(open_fake: Open, fake_driver, monkeypatch, contract) -> None:
    """The second frame's memory too, though it came later."""
    told: list[str] = []
    stream = SimpleNamespace(handle=1, synchronize=lambda: told.append("done"))
    monkeypatch.setattr(fake_driver, "Stream", lambda flags: stream)
    free = engine_tensorrt._Run.free
    monkeypatch.setattr(engine_tensorrt._Run, "free", lambda run: (told.append("freed"), free(run)))
    with open_fake() as engine:
        list(engine.infer_all([np.zeros((*contract.size_hw, 3), np.uint8)]))
        told.clear()
    assert told[0] == "done"
    assert told.count("freed") == IN_FLIGHT


def test_an_engine_that_is_dropped_is_closed_and_says_so(open_fake: Open) -> None:
    engines = [open_fake()]
    gpu = engines[0]._gpu
    with pytest.warns(ResourceWarning, match=r"m\.engine was not closed"):
        engines.clear()
    assert gpu.is_closed


def test_an_engine_that_is_dropped_elsewhere_is_left_alone(open_fake: Open) -> None:
    """Its thread alone can free it."""
    engines = [open_fake()]
    gpu = engines[0]._gpu
    with pytest.warns(ResourceWarning, match=r"m\.engine was not closed"), ThreadPoolExecutor(1) as pool:
        pool.submit(engines.clear).result()
    assert not gpu.is_closed
    gpu.close()


def test_an_engine_in_another_process_is_refused_and_left_alone(open_fake: Open, contract, monkeypatch) -> None:
    """Nothing of CUDA survives a fork."""
    frame = np.zeros((*contract.size_hw, 3), np.uint8)
    engine = open_fake()
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: -1)
        for use in (lambda: engine.infer(frame), lambda: next(engine.infer_all([frame]))):
            with pytest.raises(EngineError, match="in the process that opened it and in no other"):
                use()
        engine.close()
        assert not engine._gpu.is_closed
    with pytest.raises(EngineError, match="open one in each"):
        pickle.dumps(engine)
    engine.infer(frame)
    engine.close()


def test_engines_that_were_closed_or_never_opened_go_in_silence(open_fake: Open, fake_driver) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_fake().close()
        fake_driver.said = "cuDevicePrimaryCtxRetain failed: out of memory"
        with pytest.raises(EngineError):
            open_fake()
        gc.collect()
