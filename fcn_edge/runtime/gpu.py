"""The GPU through PyCUDA, in the only file that imports it: context, stream, events, buffers; knows no TensorRT.

The context is the device's primary one, which TensorRT and libcudart use too. It belongs to the thread that opened it
and is current only inside :meth:`Gpu.active`, so it is never in the way of other code in that thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import re
import threading
from collections.abc import Callable, Iterator
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, MissingError
from .cuda_driver import find_gpu
from .cuda_graph import ONE_CAPTURE

_STREAM_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which PyCUDA does not name
_CAPTURE_CODES = range(900, 909)  # CUDA_ERROR_STREAM_CAPTURE_*: another library captures, and nothing is lost
_ON_CPU = "or run the .onnx model on the CPU"


def require_pycuda() -> ModuleType:
    """``pycuda.driver``.

    Raises:
        MissingError: if it cannot be imported.
    """
    try:
        return importlib.import_module("pycuda.driver")
    except ImportError as exc:
        raise MissingError(
            f"an .engine model needs PyCUDA, which cannot be imported ({str(exc).splitlines()[0]}); install it with: "
            "pip install pycuda, which needs the CUDA toolkit's headers and nvcc on the PATH"
        ) from exc


class Gpu:
    """The first GPU that this process may use, owned by the thread that opened it; a context manager.

    Attributes:
        name: as NVIDIA calls it.
        sm: compute capability without the dot, such as 87.
        is_integrated: whether it shares its memory with the CPU, as on a Jetson.
        is_lost: whether CUDA has failed in a way that no later call in this process survives.

    Raises:
        MissingError: if the GPU, its driver or PyCUDA is not there.
        EngineError: if other programs have taken the GPU's memory.
    """

    def __init__(self) -> None:
        found = find_gpu()
        if found is None:
            raise MissingError(
                "an .engine model needs an NVIDIA GPU and its driver, and none is found here; check that nvidia-smi "
                f"lists one, {_ON_CPU}"
            )
        self.name, self.sm = found.name, found.sm
        self.is_lost = False
        self._owner = threading.current_thread()
        driver = self._driver = require_pycuda()
        try:
            driver.init()
            device = driver.Device(0)
            self.is_integrated = bool(device.get_attribute(driver.device_attribute.INTEGRATED))
            self._context: Any = device.retain_primary_context()
        except driver.Error as exc:
            if is_out_of_memory(str(exc)):
                raise EngineError(
                    f"{self.name} has too little free memory to start on: {exc}; end other programs that use it, "
                    f"{_ON_CPU}"
                ) from exc
            raise MissingError(f"{self.name} cannot be used: {exc}; check it with nvidia-smi, {_ON_CPU}") from exc

    @property
    def is_closed(self) -> bool:
        """Whether the context was given back."""
        return self._context is None

    @contextlib.contextmanager
    def active(self, doing: str) -> Iterator[None]:
        """Make the context current for a block of calls.

        Args:
            doing: what happens inside, for the message: ``loading x.engine``.

        Raises:
            EngineError: if the GPU is closed, another thread owns it, or a CUDA call fails inside.
        """
        if self._context is None:
            raise EngineError("the engine is closed; open it again")
        here = threading.current_thread()
        if here is not self._owner:
            raise EngineError(
                f"the engine was opened in thread {self._owner.name} and is used in thread {here.name}; a GPU context "
                "belongs to one thread: open the engine in the thread that uses it"
            )
        try:
            self._context.push()
        except self._driver.Error as exc:
            self.is_lost = True
            raise self.failure(doing, str(exc)) from exc
        try:
            yield
        except self._driver.Error as exc:
            raise self.failure(doing, str(exc)) from exc
        finally:
            with contextlib.suppress(self._driver.Error):
                self._driver.Context.pop()

    def failure(self, doing: str, said: str) -> EngineError:
        """The error for something that failed inside :meth:`active`; finds out whether the context outlived it.

        Args:
            doing: what was being done.
            said: what CUDA or TensorRT said.
        """
        free, total = 0, 0
        with ONE_CAPTURE:
            code = int(_libcuda().cuCtxSynchronize())  # PyCUDA's errors do not carry CUDA's code
        # After an illegal access every call fails with the same error until the process ends.
        if code and code not in _CAPTURE_CODES:
            self.is_lost = True
        if not self.is_lost:
            with contextlib.suppress(self._driver.Error):
                free, total = self._driver.mem_get_info()
        return EngineError(failure_sentence(doing, said, self.is_lost, free >> 20, total >> 20))

    def stream(self) -> Stream:
        """A stream of its own: what others put on the default stream does not hold it up."""
        return Stream(self._driver)

    def event(self) -> Event:
        """A mark to put on a stream."""
        return Event(self._driver)

    def buffer(self, shape: tuple[int, ...]) -> Buffer:
        """Memory for uint8 ``shape`` that both CPU and GPU reach."""
        return Buffer(self._driver, shape, is_mapped=self.is_integrated)

    def memory(self, size: int) -> Memory:
        """``size`` bytes, at least one, that only the GPU reaches."""
        return Memory(self._driver, size)

    def used_mib(self) -> float:
        """Memory of the whole GPU that is in use, by this process and all others, MiB."""
        free, total = self._driver.mem_get_info()
        return float(total - free) / 2**20

    def close(self) -> None:
        """Give the context back; buffers, streams and events must be gone by now. May be called more than once."""
        context, self._context = self._context, None
        if context is None:
            return
        # PyCUDA makes the context current to release it and leaves it so: cuDevicePrimaryCtxRelease() pops nothing.
        context.detach()
        _libcuda().cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def __enter__(self) -> Gpu:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Stream:
    """A queue of work on the GPU, kept in order; ``handle`` is CUDA's number of it."""

    def __init__(self, driver: ModuleType) -> None:
        self.raw: Any = driver.Stream(_STREAM_NON_BLOCKING)
        self.handle = int(self.raw.handle)

    def wait(self) -> None:
        """Wait until everything on it is done; other Python threads run meanwhile."""
        self.raw.synchronize()

    def free(self) -> None:
        """Free it; may be called more than once."""
        self.raw = None  # PyCUDA frees it with the last reference, and this is the only one


class Event:
    """A mark on a stream; it takes no time stamp, which makes it cheaper."""

    def __init__(self, driver: ModuleType) -> None:
        self._raw: Any = driver.Event(driver.event_flags.DISABLE_TIMING)

    def record(self, stream: Stream) -> None:
        """Put the mark behind what is on the stream."""
        self._raw.record(stream.raw)

    def wait(self) -> None:
        """Wait until the mark is reached; other Python threads run meanwhile."""
        self._raw.synchronize()

    def free(self) -> None:
        """Free it; may be called more than once."""
        self._raw = None


class Memory:
    """Memory of the GPU, aligned to 256 bytes; ``address`` is the GPU's."""

    def __init__(self, driver: ModuleType, size: int) -> None:
        self._raw: Any = driver.mem_alloc(size)
        self.address = int(self._raw)

    def free(self) -> None:
        """Free it; may be called more than once."""
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.free()


class Buffer:
    """A page-locked array and the GPU's copy of it; where memory is shared, one and the same, and nothing is copied.

    Attributes:
        array: uint8, page-locked: copies to and from it do not hold up the CPU.
        address: the GPU's address of it.
    """

    def __init__(self, driver: ModuleType, shape: tuple[int, ...], is_mapped: bool) -> None:
        self._driver = driver
        flags = int(driver.host_alloc_flags.DEVICEMAP) if is_mapped else 0
        self.array: NDArray[np.uint8] = driver.pagelocked_empty(shape, np.uint8, mem_flags=flags)
        self._pages: Any = self.array.base
        self._device: Any = None
        try:
            if is_mapped:
                self.address = int(self._pages.get_device_pointer())
            else:
                self._device = driver.mem_alloc(self.array.nbytes)
                self.address = int(self._device)
        except driver.Error:
            self.free()
            raise

    def upload(self, stream: Stream) -> None:
        """Enqueue the copy to the GPU.

        Raises:
            EngineError: if it cannot be enqueued, as in a capture that was spoilt.
        """
        if self._device is not None:
            self._copy(self._driver.memcpy_htod_async, self._device, self.array, stream)

    def download(self, stream: Stream) -> None:
        """Enqueue the copy from the GPU.

        Raises:
            EngineError: if it cannot be enqueued, as in a capture that was spoilt.
        """
        if self._device is not None:
            self._copy(self._driver.memcpy_dtoh_async, self.array, self._device, stream)

    def _copy(self, copy: Callable[[Any, Any, Any], None], to: Any, origin: Any, stream: Stream) -> None:
        try:
            copy(to, origin, stream.raw)
        except self._driver.Error as exc:
            raise EngineError(str(exc)) from exc

    def free(self) -> None:
        """Free both; the array must not be used afterwards. May be called more than once."""
        owned, self._device, self._pages = (self._device, self._pages), None, None
        self.array = np.empty(0, np.uint8)
        for memory in owned:
            if memory is not None:
                memory.free()


def _libcuda() -> ctypes.CDLL:
    """The driver's own library, which PyCUDA has loaded."""
    return ctypes.CDLL("libcuda.so.1")


def failure_sentence(doing: str, said: str, is_lost: bool, free_mib: int, total_mib: int) -> str:
    """What to tell about a failure on the GPU.

    Args:
        doing: what was being done.
        said: what CUDA or TensorRT said.
        is_lost: whether every later call will fail, too.
        free_mib: free memory of the GPU, where it still answers.
        total_mib: all its memory.
    """
    if is_lost:
        return f"the GPU failed while {doing}: {said}; this process cannot use it any more: start the program again"
    if is_out_of_memory(said):
        return (
            f"the GPU is out of memory while {doing} ({free_mib} of {total_mib} MiB are free): {said}; end other "
            "programs that use it, or use a smaller model or size"
        )
    return f"the GPU failed while {doing}: {said}; open the engine again"


def is_out_of_memory(said: str) -> bool:
    """Whether words of CUDA or of TensorRT mean that memory ran out; TensorRT's first allocation gives but its code."""
    return bool(re.search(r"out ?of ?memory|CUDA initialization failure with error:? 2\b", said, re.I))
