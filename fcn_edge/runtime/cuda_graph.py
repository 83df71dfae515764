"""CUDA graphs, which PyCUDA lacks: a stream's work captured once and replayed; knows nothing about what the work is.

A small network is a hundred short kernels; launching them one by one takes the CPU longer than the GPU needs to run
them. A graph is launched in one call.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import threading
from collections.abc import Callable, Iterator
from ctypes import POINTER, c_char_p, c_int, c_ulonglong, c_void_p
from pathlib import Path
from typing import Any, Protocol

from ..errors import EngineError, MissingError

WARM_UPS = 2
"""Runs before the capture: TensorRT may allocate and load kernels in its first ones, which a capture forbids."""

# From cuda_runtime_api.h; the same in CUDA 11.4 to 13. cudaGraphInstantiate itself changed its arguments in CUDA 12.
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cudaGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphExecDestroy": (c_void_p,),
    "cudaGraphDestroy": (c_void_p,),
    "cudaDriverGetVersion": (POINTER(c_int),),
    "cudaRuntimeGetVersion": (POINTER(c_int),),
    "cudaGetLastError": (),
}
CAPTURE_THREAD_LOCAL = 1
"""cudaStreamCaptureModeThreadLocal: what other threads do with the GPU meanwhile does not spoil the capture."""

ONE_CAPTURE = threading.RLock()
"""Held while a stream is captured: to wait for the whole GPU meanwhile, in whatever thread, spoils the capture.

Reentrant, since the garbage collector may close another engine in the middle of a capture, and fail.
"""

SONAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
_log = logging.getLogger(__name__)


class Graph(Protocol):
    """Captured work."""

    def launch(self) -> None:
        """Enqueue the work."""

    def close(self) -> None:
        """Free it."""


Capture = Callable[[Callable[[], None]], Graph]
"""Turns work into a graph; raises EngineError if it cannot be captured."""


class Cudart:
    """NVIDIA's runtime library, as far as graphs need it.

    Args:
        library: the loaded library.
        path: where it was found, for messages.

    Raises:
        MissingError: if it lacks a function: it is older than CUDA 11.4.
    """

    def __init__(self, library: ctypes.CDLL, path: str) -> None:
        self.path = path
        self._library = library
        try:
            for name, arguments in SIGNATURES.items():
                function = getattr(library, name)
                function.argtypes, function.restype = arguments, c_int
            library.cudaGetErrorString.argtypes, library.cudaGetErrorString.restype = (c_int,), c_char_p
        except AttributeError as exc:
            raise MissingError(f"{path} has no CUDA graphs ({exc}); they need CUDA 11.4 or newer") from exc

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function that returns ``cudaError_t``.

        Raises:
            EngineError: if it returns anything but success.
        """
        code = getattr(self._library, name)(*arguments)
        if code:
            self._library.cudaGetLastError()  # else the next caller of this library would be told of our error
            said = self._library.cudaGetErrorString(code).decode(errors="replace")
            raise EngineError(f"{name} failed with CUDA error {code}: {said}")

    def version(self, whose: str) -> int:
        """Version of the ``Runtime`` or ``Driver``, 12040 for 12.4; 0 without a driver."""
        number = c_int(0)
        self.call(f"cuda{whose}GetVersion", ctypes.byref(number))
        return number.value

    def capture(self, stream: int, enqueue: Callable[[], None]) -> CudaGraph:
        """Record what ``enqueue`` puts on a stream; nothing of it runs.

        Args:
            stream: handle of the stream; not the default one.
            enqueue: puts the work on the stream, and only that: no allocation, no waiting.

        Raises:
            EngineError: if the work cannot be captured. The stream can be used afterwards.
        """
        graph = c_void_p()
        with ONE_CAPTURE:
            self.call("cudaStreamBeginCapture", stream, CAPTURE_THREAD_LOCAL)
            try:
                enqueue()
            except BaseException:
                # Also leaves the capture mode when the capture was spoilt, and says so with an error of no further use.
                self._library.cudaStreamEndCapture(stream, ctypes.byref(graph))
                self._library.cudaGetLastError()
                if graph:
                    self._library.cudaGraphDestroy(graph)
                raise
            self.call("cudaStreamEndCapture", stream, ctypes.byref(graph))
        executable = c_void_p()
        try:
            self.call("cudaGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        finally:
            self._library.cudaGraphDestroy(graph)
        return CudaGraph(self, executable, stream)


class CudaGraph:
    """Captured work, ready to be launched on the stream that it was captured from."""

    def __init__(self, cudart: Cudart, executable: c_void_p, stream: int) -> None:
        self._cudart, self._executable, self._stream = cudart, executable, stream

    def launch(self) -> None:
        """Enqueue the work.

        Raises:
            EngineError: if it cannot be launched.
        """
        self._cudart.call("cudaGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Free the graph; may be called more than once.

        Raises:
            EngineError: if CUDA refuses, which it does once the context is lost.
        """
        executable, self._executable = self._executable, c_void_p()
        if executable:
            self._cudart.call("cudaGraphExecDestroy", executable)


class Replayed:
    """Work that is enqueued call by call at first, then captured, and replayed from then on.

    If it cannot be captured, that is logged once and every call goes on as it did before.

    Args:
        enqueue: puts the work on a stream.
        capture: turns it into a graph; None: never captured.
        warm_ups: how often it is enqueued before it is captured.
    """

    def __init__(
        self,
        enqueue: Callable[[], None],
        capture: Capture | None,
        warm_ups: int = WARM_UPS,
    ) -> None:
        self._enqueue, self._capture, self._left = enqueue, capture, warm_ups
        self._graph: Graph | None = None

    @property
    def is_graph(self) -> bool:
        """Whether calls launch a graph by now."""
        return self._graph is not None

    def __call__(self) -> None:
        """Put the work on the stream once.

        Raises:
            EngineError: if it cannot be enqueued.
        """
        if self._graph is None and self._capture is not None and self._left <= 0:
            try:
                self._graph = self._capture(self._enqueue)
            except EngineError as exc:
                self._capture = None
                _log.warning("no CUDA graph, kernels are launched one by one, which is slower: %s", exc)
        self._left -= 1
        if self._graph is not None:
            self._graph.launch()
        else:
            self._enqueue()

    def close(self) -> None:
        """Free the graph; calls then enqueue the work as at first."""
        graph, self._graph, self._capture = self._graph, None, None
        if graph is not None:
            graph.close()


def open_cudart() -> Cudart:
    """The newest libcudart that this machine's driver can serve.

    Raises:
        MissingError: if none is found; the message says what was tried.
    """
    tried = []
    for name in _candidates():
        try:
            cudart = Cudart(ctypes.CDLL(name), name)
        except OSError:
            continue
        except MissingError as exc:
            tried.append(str(exc))
            continue
        # Without a driver its version is 0; calls then fail with a message of their own.
        driver, runtime = cudart.version("Driver"), cudart.version("Runtime")
        if driver and driver // 1000 < runtime // 1000:
            tried.append(f"{name} is of CUDA {runtime // 1000}, the driver of {driver // 1000}")
            continue
        return cudart
    seen = f" ({'; '.join(tried)})" if tried else ""
    raise MissingError(
        f"no usable {SONAMES[-1]} was found{seen}; install CUDA's runtime library of the driver's major version"
    )


def _candidates() -> Iterator[str]:
    """Where a libcudart may be: the loader's own places, NVIDIA's wheels, the toolkit."""
    yield from SONAMES
    wheels = importlib.util.find_spec("nvidia")
    folders = [
        folder for root in (wheels and wheels.submodule_search_locations) or () for folder in Path(root).glob("*/lib")
    ]
    toolkit = Path(os.environ.get("CUDA_HOME") or "/usr/local/cuda")
    for folder in [*sorted(folders, reverse=True), toolkit / "lib64"]:
        if not folder.is_absolute():  # it would be in whatever folder the program was started in
            continue
        yield from (str(path) for path in sorted(folder.glob("libcudart.so.*"), reverse=True))
