from __future__ import annotations

import importlib
import sys
import threading

import numpy as np
import pytest

from fcn_edge.errors import EngineError, MissingError
from fcn_edge.runtime.gpu import Gpu, failure_sentence, is_out_of_memory, require_pycuda


def test_without_pycuda_the_message_tells_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(MissingError, match=r"pip install 'fcn-edge\[gpu\]'") as caught:
        Gpu()
    assert caught.value.exit_code == 3


def test_without_a_driver_pycuda_is_not_blamed(monkeypatch) -> None:
    """The words of the loader, as they come where PyCUDA is installed and NVIDIA's driver is not."""
    words = "libcuda.so.1: cannot open shared object file: No such file or directory"

    def fail(name: str):
        raise ImportError(words)

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(MissingError, match="no NVIDIA driver") as caught:
        require_pycuda()
    assert words in str(caught.value)


def test_real_pycuda_without_a_gpu() -> None:
    """Where PyCUDA and the driver are installed and there is no GPU, cuInit fails with words of its own."""
    driver = pytest.importorskip("pycuda.driver", exc_type=ImportError)
    try:
        driver.init()
    except driver.Error as exc:
        said = str(exc)
    else:
        pytest.skip("this machine has a GPU")
    with pytest.raises(MissingError, match="no NVIDIA GPU can be used") as caught:
        Gpu()
    assert said in str(caught.value)


def test_real_pycuda_has_what_is_used() -> None:
    """Names and signatures, as far as they can be seen without a GPU."""
    driver = pytest.importorskip("pycuda.driver", exc_type=ImportError)
    for owner, names in {
        driver: ("init", "Error", "MemoryError", "mem_alloc", "mem_get_info"),
        driver.Device: ("name", "compute_capability", "get_attribute", "retain_primary_context"),
        driver.Context: ("push", "pop", "detach", "synchronize"),
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


@pytest.mark.parametrize(
    ("said", "is_it"),
    [
        ("cuMemAlloc failed: out of memory", True),
        ("[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)", True),
        ("Error Code 2: OutOfMemory (Requested size was 1234 bytes.)", True),
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


@pytest.mark.gpu
def test_facts_of_the_gpu() -> None:
    with Gpu() as gpu:
        assert gpu.name
        assert gpu.sm >= 50
        with gpu.active("asking"):
            assert gpu.used_mib() > 0


@pytest.mark.gpu
def test_bytes_go_there_and_back() -> None:
    with Gpu() as gpu, gpu.active("copying"):
        stream, done, buffer = gpu.stream(), gpu.event(), gpu.buffer((33, 65, 3))
        sent = np.random.default_rng(0).integers(0, 256, buffer.array.shape, np.uint8)
        np.copyto(buffer.array, sent)
        buffer.upload(stream)
        stream.wait()
        if not gpu.is_integrated:
            buffer.array[:] = 0
        buffer.download(stream)
        done.record(stream)
        done.wait()
        np.testing.assert_array_equal(buffer.array, sent)
        for owned in (buffer, done, stream):
            owned.free()
            owned.free()


@pytest.mark.gpu
def test_other_threads_are_refused() -> None:
    caught = []

    def use() -> None:
        try:
            with gpu.active("asking"):
                pass
        except EngineError as exc:
            caught.append(str(exc))

    with Gpu() as gpu:
        thread = threading.Thread(target=use, name="stranger")
        thread.start()
        thread.join()
    assert "used in thread stranger" in caught[0]


@pytest.mark.gpu
def test_each_thread_may_have_its_own() -> None:
    names = []

    def use() -> None:
        with Gpu() as gpu, gpu.active("asking"):
            names.append(gpu.name)

    with Gpu() as gpu, gpu.active("asking"):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert names == [gpu.name]


@pytest.mark.gpu
def test_too_large_a_buffer_is_said_with_figures() -> None:
    driver = require_pycuda()
    with Gpu() as gpu:
        with gpu.active("asking"):
            _, total = driver.mem_get_info()
        with (
            pytest.raises(EngineError, match="out of memory while asking for too much"),
            gpu.active("asking for too much"),
        ):
            driver.mem_alloc(2 * total)
        with gpu.active("asking"):
            gpu.buffer((16,)).free()


@pytest.mark.gpu
def test_closed_gpu_says_so_and_leaves_nothing_current() -> None:
    driver = require_pycuda()
    gpu = Gpu()
    gpu.close()
    gpu.close()
    with pytest.raises(EngineError, match="closed"), gpu.active("asking"):
        pass
    with pytest.raises(driver.Error):
        driver.mem_alloc(1)
