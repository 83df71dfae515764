from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest

from fcn_edge.errors import EngineError, MissingError
from fcn_edge.runtime import gpu, sidecar
from fcn_edge.runtime.cuda_driver import find_gpu
from fcn_edge.runtime.cuda_graph import Replayed
from fcn_edge.runtime.gpu import Buffer, Gpu, Stream, failure_sentence, is_out_of_memory, require_pycuda


def test_without_a_gpu_that_is_what_is_said() -> None:
    """Also where PyCUDA is missing, too: installing it would not help."""
    if find_gpu() is not None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(MissingError, match="needs an NVIDIA GPU and its driver") as caught:
        Gpu()
    assert caught.value.exit_code == 3


def test_without_pycuda_the_message_tells_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(MissingError, match="pip install pycuda, which needs") as caught:
        require_pycuda()
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_gpu_that_pycuda_cannot_open(monkeypatch) -> None:
    """Real PyCUDA over NVIDIA's real driver, where there is no GPU: what cuInit says is passed on."""
    driver = pytest.importorskip("pycuda.driver", exc_type=ImportError)
    if find_gpu() is not None:
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr(gpu, "find_gpu", lambda: sidecar.Gpu(name="Orin", sm=87))
    with pytest.raises(driver.Error) as told:
        driver.init()
    with pytest.raises(MissingError, match="Orin cannot be used: cuInit failed") as caught:
        Gpu()
    assert str(told.value) in str(caught.value)


def test_real_pycuda_has_what_is_used() -> None:
    """Names and signatures, as far as they can be seen without a GPU."""
    driver = pytest.importorskip("pycuda.driver", exc_type=ImportError)
    for owner, names in {
        driver: ("init", "Error", "MemoryError", "mem_alloc", "mem_get_info"),
        driver.Device: ("name", "compute_capability", "get_attribute", "retain_primary_context"),
        driver.Context: ("push", "pop", "detach"),
        driver.Stream: ("handle", "synchronize"),
        driver.Event: ("record", "synchronize"),
        driver.PagelockedHostAllocation: ("free", "get_device_pointer"),
        driver.DeviceAllocation: ("free",),
    }.items():
        assert not [name for name in names if not hasattr(owner, name)], owner
    assert issubclass(driver.MemoryError, driver.Error)
    assert int(driver.host_alloc_flags.DEVICEMAP) == 2
    assert int(driver.event_flags.DISABLE_TIMING) == 2
    assert "mem_flags" in driver.pagelocked_empty.__doc__
    for copy in (driver.memcpy_htod_async, driver.memcpy_dtoh_async):
        assert "(object)dest, (object)src [, (object)stream=None]" in copy.__doc__


def test_full_gpu_is_no_missing_one(fake_driver) -> None:
    fake_driver.said = "cuDevicePrimaryCtxRetain failed: out of memory"
    with pytest.raises(
        EngineError, match=r"Orin has too little free memory.*out of memory; end other programs"
    ) as caught:
        Gpu()
    assert caught.value.exit_code == 4
    fake_driver.said = "cuDevicePrimaryCtxRetain failed: exclusive-thread device already in use by a different thread"
    with pytest.raises(MissingError, match="exclusive-thread"):
        Gpu()


@pytest.mark.parametrize(
    ("code", "is_lost"), [(0, False), *((code, False) for code in range(900, 909)), (700, True), (719, True)]
)
def test_what_loses_the_gpu(fake_driver, is_capturing, code: int, is_lost: bool) -> None:
    """Where another library captures, waiting for the GPU is refused (900 to 908), which says nothing of its state."""
    locked: list[bool] = []

    def synchronize() -> int:
        locked.append(is_capturing())
        return code

    fake_driver.cuCtxSynchronize = synchronize
    with Gpu() as opened:
        with pytest.raises(EngineError) as caught, opened.active("running a.engine"):
            raise fake_driver.Error("cuEventSynchronize failed: out of memory")
        assert opened.is_lost is is_lost
    assert str(caught.value).endswith("start the program again") is is_lost
    assert ("3 of 5 MiB" in str(caught.value)) is not is_lost
    assert locked == [True]
    assert not is_capturing()


@pytest.mark.parametrize("copy", [Buffer.upload, Buffer.download])
def test_capture_that_another_thread_spoils_is_given_up(fake_driver, copy, caplog) -> None:
    """PyCUDA's copies then fail with 900 or 901; the work goes on without a graph."""
    buffer, stream = Buffer(fake_driver, (2, 3), is_mapped=False), Stream(fake_driver)

    def capture(enqueue: Callable[[], None]) -> None:
        fake_driver.said = "cuMemcpyHtoDAsync failed: operation failed due to a previous error during capture"
        try:
            enqueue()
        finally:
            fake_driver.said = ""

    work = Replayed(lambda: copy(buffer, stream), capture, warm_ups=0)
    with caplog.at_level(logging.WARNING):
        work()
        work()
    assert not work.is_graph
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "cuMemcpyHtoDAsync failed: operation failed due to a previous error during capture"
    ]


@pytest.mark.parametrize(
    ("said", "is_it"),
    [
        ("cuMemAlloc failed: out of memory", True),
        ("[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)", True),
        ("Error Code 2: OutOfMemory (Requested size was 1234 bytes.)", True),
        ("CUDA initialization failure with error: 2. Please check your CUDA installation", True),
        ("CUDA initialization failure with error: 222. Please check your CUDA installation", False),
        ("cuEventSynchronize failed: an illegal memory access was encountered", False),
    ],
)
def test_what_counts_as_out_of_memory(said: str, is_it: bool) -> None:
    assert is_out_of_memory(said) is is_it


def test_out_of_memory_gives_the_figures_and_the_remedy() -> None:
    text = failure_sentence("loading a.engine", "cuMemAlloc failed: out of memory", False, 12, 7620)
    assert "12 of 7620 MiB" in text
    assert "end other programs" in text


def test_lost_context_says_that_the_process_must_end() -> None:
    said = "cuEventSynchronize failed: an illegal memory access was encountered"
    assert failure_sentence("running a.engine", said, True, 0, 0).endswith("start the program again")
    assert "start the program again" not in failure_sentence("running a.engine", said, False, 0, 0)


@pytest.mark.gpu("pycuda")
def test_facts_of_the_gpu() -> None:
    with Gpu() as device:
        assert device.name
        assert device.sm >= 50
        with device.active("asking"):
            assert device.used_mib() > 0


@pytest.mark.gpu("pycuda")
def test_bytes_go_there_and_back() -> None:
    with Gpu() as device, device.active("copying"):
        stream, done, buffer = device.stream(), device.event(), device.buffer((33, 65, 3))
        sent = np.random.default_rng(0).integers(0, 256, buffer.array.shape, np.uint8)
        np.copyto(buffer.array, sent)
        buffer.upload(stream)
        stream.wait()
        if not device.is_integrated:
            buffer.array[:] = 0
        buffer.download(stream)
        done.record(stream)
        done.wait()
        np.testing.assert_array_equal(buffer.array, sent)
        for owned in (buffer, done, stream):
            owned.free()
            owned.free()


@pytest.mark.gpu("pycuda")
def test_other_threads_are_refused() -> None:
    caught = []

    def use() -> None:
        try:
            with device.active("asking"):
                pass
        except EngineError as exc:
            caught.append(str(exc))

    with Gpu() as device:
        thread = threading.Thread(target=use, name="stranger")
        thread.start()
        thread.join()
    assert "used in thread stranger" in caught[0]


@pytest.mark.gpu("pycuda")
def test_each_thread_may_have_its_own() -> None:
    names = []

    def use() -> None:
        with Gpu() as device, device.active("asking"):
            names.append(device.name)

    with Gpu() as device, device.active("asking"):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert names == [device.name]


@pytest.mark.gpu("pycuda")
def test_too_large_a_buffer_is_said_with_figures() -> None:
    driver = require_pycuda()
    with Gpu() as device:
        with device.active("asking"):
            _, total = driver.mem_get_info()
        with (
            pytest.raises(EngineError, match="out of memory while asking for too much"),
            device.active("asking for too much"),
        ):
            driver.mem_alloc(2 * total)
        with device.active("asking"):
            device.buffer((16,)).free()


@pytest.mark.gpu("pycuda")
def test_closed_gpu_says_so_and_leaves_nothing_current() -> None:
    driver = require_pycuda()
    device = Gpu()
    device.close()
    device.close()
    with pytest.raises(EngineError, match="closed"), device.active("asking"):
        pass
    with pytest.raises(driver.Error):
        driver.mem_alloc(1)
