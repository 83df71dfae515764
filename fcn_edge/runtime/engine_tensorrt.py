"""The GPU engine: a TensorRT plan over page-locked memory and a CUDA graph; knows nothing about streams of frames."""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, MissingError, ModelError
from ..pixels import Image, Labels, fit_image, restore_labels
from . import sidecar
from .bindings import IMAGE, LABELS, Tensor, bindings_of
from .cuda_driver import find_gpu
from .cuda_graph import WARM_UPS, Capture, Graph, Replayed, open_cudart
from .engine import Engine
from .engine_lock import EngineLock
from .gpu import Gpu, Stream, is_out_of_memory
from .tensorrt_library import (
    RTX,
    find_plugin,
    library_of,
    load_plugin,
    log_of,
    open_runtime,
    require_tensorrt,
    unfit_gpu,
)

IN_FLIGHT = 2
"""Frames that may be on their way at once: the CPU prepares one while the GPU computes the other."""
_log = logging.getLogger(__name__)


class TensorRtEngine(Engine):
    """Runs an ``.engine`` file on the GPU; it belongs to the thread and the process that opened it.

    What can be refused without a GPU is refused first: the sidecar, the plan's sha256, TensorRT, its version and the
    kind of GPU, the plugin; then that there is no GPU or no PyCUDA, and what TensorRT says of the plan.

    Args:
        path: the file; its sidecar lies beside it.
        plugin: library of the fused head; None: ``FCN_EDGE_PLUGIN``, else the one inside the package.
        use_graph: whether to capture a CUDA graph and replay it.

    Attributes:
        gpu_mib: memory of the GPU that the plan, its scratch memory and the buffers took, MiB, without CUDA's context;
            another program that takes memory while the engine is opened is counted in. :meth:`infer_all` takes more.
        is_graph: whether frames run as a CUDA graph.

    Raises:
        ModelError: if the file is damaged, was changed, or was built for another TensorRT, GPU or plugin.
        MissingError: if TensorRT, the plugin, PyCUDA, the driver or the GPU is not there.
        EngineError: if the GPU fails or has too little memory.
    """

    backend = "tensorrt"
    _in_use: EngineLock

    def __init__(self, path: Path, *, plugin: str | Path | None = None, use_graph: bool = True) -> None:
        described, plan, trt = checked_plan(path, plugin)
        super().__init__(described.contract, described.precision.asked)
        self._in_use = EngineLock()
        self._path = path
        self._slots: list[_Slot] = []
        self._owned = contextlib.ExitStack()
        self.gpu_mib = 0.0
        gpu = self._gpu = Gpu()
        try:
            with gpu.active(f"loading {path.name}"):
                before = gpu.used_mib()
                network = _Network(trt, self._owned)
                network.load(gpu, plan, path, described)
                stream = gpu.stream()
                self._owned.callback(stream.free)
                capture = _capture_on(stream) if use_graph else None
                self._new_slot = functools.partial(_Slot, gpu, stream, network, capture)
                self._add_slot()
                self.gpu_mib = max(0.0, gpu.used_mib() - before)
        except BaseException:
            with contextlib.suppress(EngineError):  # what went wrong first is what the caller has to know
                self.close()
            raise

    def _add_slot(self) -> None:
        """One more, run until its graph is captured: it is then known to run, and its first frame is a fast one."""
        owned = contextlib.ExitStack()
        self._owned.callback(owned.close)
        try:
            slot = self._new_slot(owned)
            for _ in range(WARM_UPS + 1):
                slot.start(np.zeros((*self.contract.size_hw, 3), np.uint8))
                slot.labels()
        except BaseException:
            with contextlib.suppress(EngineError), self._gpu.active("freeing what a frame took"):
                owned.close()
            raise  # what went wrong first is what the caller has to know
        self._slots.append(slot)

    @property
    def is_graph(self) -> bool:
        """Whether frames run as a CUDA graph."""
        return bool(self._slots) and all(slot.is_graph for slot in self._slots)

    def _segment(self, image_bgr: Image) -> tuple[Labels, float]:
        with self._gpu.active(f"running {self._path.name}"):
            slot = self._free_slot()
            slot.start(image_bgr)
            return slot.labels(), 0.0  # the head is a layer of the plan

    def infer_all(self, frames_bgr: Iterable[NDArray[Any]]) -> Iterator[Labels]:
        """Segment many frames, two at a time on their way: more frames each second, each a little later.

        Args:
            frames_bgr: as for :meth:`infer`.

        Yields:
            Labels as from :meth:`infer`, in the order of the frames.

        Raises:
            UsageError: if a frame is none.
            EngineError: if the GPU fails, the engine runs two such loops at once, or another process opened it.
        """
        self._in_use.require_own()
        with self._gpu.active(f"preparing {self._path.name}"):
            while len(self._slots) < IN_FLIGHT:
                self._add_slot()
        waiting: deque[tuple[_Slot, tuple[int, int]]] = deque()
        try:
            for frame in frames_bgr:
                image = fit_image(frame, self.contract.size_hw)
                with self._gpu.active(f"running {self._path.name}"):
                    slot = self._free_slot()
                    slot.start(image)
                height, width = frame.shape[:2]
                waiting.append((slot, (height, width)))
                if len(waiting) == IN_FLIGHT:
                    yield self._finished(*waiting.popleft())
            while waiting:
                yield self._finished(*waiting.popleft())
        finally:
            for slot, size_hw in waiting:
                with contextlib.suppress(EngineError):
                    self._finished(slot, size_hw)

    def _finished(self, slot: _Slot, size_hw: tuple[int, int]) -> Labels:
        with self._gpu.active(f"running {self._path.name}"):
            labels = slot.labels()
        return restore_labels(labels, size_hw)

    def _free_slot(self) -> _Slot:
        for slot in self._slots:
            if not slot.is_busy:
                return slot
        raise EngineError(f"{IN_FLIGHT} frames are on their way already; finish one infer_all before the next")

    def __del__(self) -> None:
        """Close an engine that was dropped open: PyCUDA frees in any order and leaves its context behind."""
        gpu: Gpu | None = getattr(self, "_gpu", None)  # there is none if the file was refused
        if gpu is None or gpu.is_closed or not self._in_use.is_own:
            return
        with contextlib.suppress(EngineError):  # another thread than the owner's can free nothing
            self.close()
        warnings.warn(f"{self._path.name} was not closed; open it in a with statement", ResourceWarning, stacklevel=2)

    def close(self) -> None:
        """Free everything on the GPU; may be called more than once, in the thread that opened the engine.

        In another process it stays the opener's to free.
        """
        if self._gpu.is_closed or not self._in_use.is_own:
            return
        try:
            with self._gpu.active("closing the engine"):
                self._slots.clear()
                self._owned.close()
        except EngineError as exc:
            # A lost context frees nothing any more, and what went wrong before it was lost has been told.
            if not self._gpu.is_lost:
                raise
            _log.debug("%s", exc)
        self._gpu.close()


class _Network:
    """A plan that TensorRT has loaded; freed with ``owned``."""

    def __init__(self, trt: ModuleType, owned: contextlib.ExitStack) -> None:
        self.trt = trt
        self.engine: Any = None
        self._runtime: Any = None
        owned.callback(self.free)

    def load(self, gpu: Gpu, plan: bytes, path: Path, described: sidecar.Sidecar) -> None:
        """Let TensorRT read the plan and take memory for its weights."""
        doing = f"loading {path.name}"
        try:
            self._runtime = open_runtime(self.trt)
            self.engine = deserialized(self.trt, self._runtime, plan, path, described)
        except (MissingError, ModelError) as exc:
            if is_out_of_memory(str(exc)):
                raise gpu.failure(doing, str(exc)) from exc
            raise
        try:
            self.bindings = bindings_of(_tensors(self.trt, self.engine), described.contract)
        except ModelError as exc:
            raise ModelError(f"{path} is no engine of this project: {exc}; {sidecar.rebuild(path, described)}") from exc

    def free(self) -> None:
        """Free what TensorRT holds, the engine before its runtime."""
        self.engine = None
        self._runtime = None


class _Run:
    """TensorRT's execution context with its scratch memory, which a captured graph keeps to; freed with ``owned``."""

    def __init__(self, gpu: Gpu, network: _Network, owned: contextlib.ExitStack) -> None:
        self._trt = network.trt
        log_of(self._trt).messages.clear()
        self._context: Any = self._create(gpu, network.engine, owned)
        owned.callback(self.free)  # before the memory that it was given
        bindings = network.bindings
        if self._context is None or (
            bindings.is_dynamic and not self._context.set_input_shape(IMAGE, bindings.image_shape)
        ):
            raise gpu.failure("preparing the network", said_of(self._trt))

    def _create(self, gpu: Gpu, engine: Any, owned: contextlib.ExitStack) -> Any:
        """A context, None where TensorRT refuses; one of TensorRT-RTX takes its scratch memory from this program."""
        if self._trt.__name__ != RTX:
            return engine.create_execution_context()
        # Built with REQUIRE_USER_ALLOCATION, which a capture needs, they refuse every other strategy.
        context = engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        size = int(engine.device_memory_size_v2)
        if context is not None and size:
            scratch = gpu.memory(size)
            owned.callback(scratch.free)
            context.set_device_memory(scratch.address, size)
        return context

    def enqueue(self, image: int, labels: int, stream: Stream) -> None:
        """Put one run on a stream, from and to addresses on the GPU.

        Raises:
            EngineError: if TensorRT refuses; with its own words.
        """
        done = (
            self._context.set_tensor_address(IMAGE, image)
            and self._context.set_tensor_address(LABELS, labels)
            and self._context.execute_async_v3(stream.handle)
        )
        if not done:
            raise EngineError(said_of(self._trt))

    def is_capturable(self, stream: Stream) -> bool:
        """Whether TensorRT may be captured on a stream; only TensorRT-RTX can be asked, and what others do is tried."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(stream.handle))

    def free(self) -> None:
        """Free it, before the engine."""
        self._context = None


class _Slot:
    """Memory for one frame on its way, and the work that turns it into labels; freed with ``owned``."""

    def __init__(
        self, gpu: Gpu, stream: Stream, network: _Network, capture: Capture | None, owned: contextlib.ExitStack
    ) -> None:
        self._gpu, self._stream = gpu, stream
        self.is_busy = False
        self._run = _Run(gpu, network, owned)
        self._image = gpu.buffer(network.bindings.image_shape)
        owned.callback(self._image.free)
        self._labels = gpu.buffer(network.bindings.labels_shape)
        owned.callback(self._labels.free)
        self._done = gpu.event()
        owned.callback(self._done.free)
        self._work = Replayed(self._enqueue, functools.partial(self._captured, capture) if capture else None)
        owned.callback(self._work.close)
        owned.callback(stream.wait)  # first of all when it is freed: nothing may run in memory that goes

    @property
    def is_graph(self) -> bool:
        return self._work.is_graph

    def start(self, image_bgr: Image) -> None:
        """Put a frame, uint8 ``[*size_hw, 3]``, on its way; it is copied at once."""
        np.copyto(self._image.array[0], image_bgr)
        try:
            self._work()
        except EngineError as exc:
            raise self._gpu.failure("running the network", str(exc)) from exc
        self._done.record(self._stream)
        self.is_busy = True

    def labels(self) -> Labels:
        """Wait for the labels, uint8 ``[*size_hw]``, in memory of their own."""
        self.is_busy = False
        self._done.wait()
        labels: Labels = self._labels.array[0].copy()
        return labels

    def _captured(self, capture: Capture, enqueue: Callable[[], None]) -> Graph:
        if not self._run.is_capturable(self._stream):
            raise EngineError(
                "TensorRT says that this engine cannot be captured, as none is that an earlier version of this program "
                "built with TensorRT-RTX; build it again with --force"
            )
        return capture(enqueue)

    def _enqueue(self) -> None:
        self._image.upload(self._stream)
        self._run.enqueue(self._image.address, self._labels.address, self._stream)
        self._labels.download(self._stream)


def checked_plan(path: Path, plugin: str | Path | None = None) -> tuple[sidecar.Sidecar, bytes, ModuleType]:
    """What can be known of an engine before a GPU is used: its sidecar, its bytes, the TensorRT that will run it.

    The plugin that the engine needs is registered with TensorRT.

    Args:
        path: the ``.engine`` file.
        plugin: as for :class:`TensorRtEngine`.

    Raises:
        ModelError: if the file is damaged, was changed, or was built for another TensorRT, GPU or plugin.
        MissingError: if TensorRT or the plugin is not there.
    """
    described = sidecar.read_sidecar(path)
    plan = sidecar.read_plan(path, described)
    trt = require_tensorrt()
    sidecar.check_machine(path, described, library_of(trt), find_gpu())
    if described.plugin is not None:
        library = find_plugin(plugin)
        found = load_plugin(trt, library)
        if found.version != described.plugin.version:
            raise ModelError(
                f"{path} was built with version {described.plugin.version} of the fused head's plugin, {library} is "
                f"version {found.version}; {sidecar.rebuild(path, described)}"
            )
    return described, plan, trt


def said_of(trt: ModuleType) -> str:
    """The first error that TensorRT has logged since the last call, which is the cause of those after it."""
    log = log_of(trt)
    errors = log.errors()
    log.messages.clear()
    return errors[0].strip().splitlines()[0].rstrip(".") if errors else "no message"


def deserialized(trt: ModuleType, runtime: Any, plan: bytes, path: Path, described: sidecar.Sidecar) -> Any:
    """The ``ICudaEngine`` in a plan.

    Raises:
        MissingError: if this TensorRT takes no GPU of this kind.
        ModelError: if TensorRT refuses it; in TensorRT's own words.
    """
    log_of(trt).messages.clear()
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        if unfit := unfit_gpu(library_of(trt), log_of(trt).errors()):
            raise unfit
        raise ModelError(f"{library_of(trt)} cannot load {path}: {said_of(trt)}; {sidecar.rebuild(path, described)}")
    return engine


def _tensors(trt: ModuleType, engine: Any) -> list[Tensor]:
    """What an ``ICudaEngine`` takes and gives."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return [
        Tensor(
            name,
            engine.get_tensor_dtype(name).name,
            tuple(engine.get_tensor_shape(name)),
            engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
        )
        for name in names
    ]


def _capture_on(stream: Stream) -> Capture | None:
    """What captures a graph from a stream; None, and a line in the log, where there is no libcudart."""
    try:
        return functools.partial(open_cudart().capture, stream.handle)
    except (MissingError, EngineError) as exc:
        _log.warning("no CUDA graph, kernels are launched one by one, which is slower: %s", exc)
        return None
