"""From a typed ONNX file to a TensorRT engine that was audited; knows nothing about files on disk but the timing cache.

Networks are strongly typed, on TensorRT 10 and 11 alike: precision is what the ONNX file says.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, UsageError
from ..files import write_atomically
from ..runtime.cuda_driver import find_gpu
from ..runtime.sidecar import Gpu, Library, Options, Plugin
from ..runtime.tensorrt_library import (
    RTX,
    TURING,
    library_of,
    load_plugin,
    log_of,
    no_start,
    open_runtime,
    require_own_name,
    require_tensorrt,
    unfit_gpu,
)
from .audit import check_engine, check_types, shares_of, types_in_engine, types_in_network
from .build_progress import open_monitor
from .engine_errors import build_error, last, no_builder, parser_error
from .engine_onnx import onnx_for_engine, types_in_onnx

if TYPE_CHECKING:
    from .candidates import OnProgress

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """An engine in memory: the plan, its layers' share by type, and whether ``engine`` or ``network`` was audited."""

    plan: bytes
    found: dict[str, float]
    audited: str

    @property
    def sha256(self) -> str:
        """Of the plan."""
        return hashlib.sha256(self.plan).hexdigest()


class EngineBuilder:
    """TensorRT's builder with the fused head loaded, or without it.

    Args:
        plugin: finds the library of the fused head; it is asked once TensorRT has started, as without that no library
            helps. None: the head is made of TensorRT's own layers.

    Attributes:
        library: which TensorRT.
        gpu: the GPU that engines will be bound to; None where they are not bound to any: TensorRT-RTX builds for every
            chip that it takes, but for Turing alone where one is found, and the rig of the tests has no GPU.
        plugin: the fused head.

    Raises:
        MissingError: if TensorRT, a GPU that it needs, or the plugin cannot be used.
    """

    def __init__(self, plugin: Callable[[], Path] | None) -> None:
        self._trt: Any = require_tensorrt()
        self._log = log_of(self._trt)
        self._log.messages.clear()
        self.library: Library = library_of(self._trt)
        device = find_gpu()
        self._device = device
        try:
            self._builder = self._trt.Builder(self._log)
        except (TypeError, RuntimeError) as exc:
            raise no_builder(self.library, device, no_start(self._log, exc)) from exc
        self._is_rtx = self.library.package == RTX
        self.gpu: Gpu | None = None if self._is_rtx and not (device and device.sm == TURING) else device
        self.plugin: Plugin | None = self._loaded(plugin()) if plugin else None

    def _loaded(self, library: Path) -> Plugin:
        if self._is_rtx:
            require_own_name()
        return load_plugin(self._trt, library)

    @property
    def can_run(self) -> bool:
        """Whether a GPU is here to run what is built."""
        return self._device is not None

    def build(
        self,
        onnx_path: Path,
        precision: str,
        options: Options,
        timing_cache: str | Path | None = None,
        on_progress: OnProgress | None = None,
        *,
        force: bool = False,
    ) -> BuiltEngine:
        """Build an engine and audit it.

        Args:
            onnx_path: a typed ONNX file of this program.
            precision: what it is asked to be: ``fp32``, ``fp16`` or ``int8``.
            options: limits and batch.
            timing_cache: file of measured tactics that is read where it exists and written.
            on_progress: called while the engine is built; what it raises stops the builder, and is raised then.
            force: whether that file is replaced also where TensorRT cannot read it.

        Raises:
            UsageError: if the timing cache is no file.
            ModelError: if TensorRT refuses the file, or the types are not those asked for.
            MissingError: if memory or a GPU is missing.
            KeyboardInterrupt: after Ctrl-C, when the builder has stopped.
        """
        trt, dynamic = self._trt, options.batch != (1, 1, 1)
        self._log.messages.clear()
        data = onnx_for_engine(onnx_path, fused=self.plugin is not None, dynamic=dynamic)
        # In TensorRT 11 every network is strongly typed and the flag may go.
        flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = self._builder.create_network(0 if flag is None else 1 << int(flag))
        parser = trt.OnnxParser(network, self._log)
        if not parser.parse(data):
            raise parser_error(parser, onnx_path)
        expected = types_in_onnx(onnx_path)
        # The layers that the file names; what the head's function expands to is none of them.
        types = {name: kind for name, kind in types_in_network(network).items() if name in expected}
        check_types(precision, expected, types, onnx_path.name, exact=True)
        config = self._config(network, options)
        timing_cache = Path(timing_cache) if timing_cache else None
        may_write = self._set_cache(config, timing_cache, force)
        plan = self._run(network, config, onnx_path.name, on_progress)
        if plan is None:
            raise build_error(self.library, self._device, onnx_path, options, self._log.errors())
        if timing_cache and may_write:
            _write_cache(config, timing_cache)
        if self._device is None:
            return BuiltEngine(plan=bytes(plan), found=shares_of(types), audited="network")
        found = types_in_engine(self._inspect(bytes(plan), onnx_path), expected)
        if check_engine(precision, expected, found, f"the engine of {onnx_path.name}"):
            return BuiltEngine(plan=bytes(plan), found=shares_of(found), audited="engine")
        return BuiltEngine(plan=bytes(plan), found=shares_of(types), audited="network")

    def _config(self, network: Any, options: Options) -> Any:
        trt = self._trt
        config = self._builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector tells no types
        # Only with it TensorRT-RTX allocates nothing while it runs, which the capture of a CUDA graph forbids; its
        # context then takes memory that the program gives it.
        if self._is_rtx and hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        if self._is_rtx and self.gpu:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{self.gpu.sm}"), 0)
        if options.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
        if options.opt_level is not None:
            config.builder_optimization_level = options.opt_level
        if options.batch != (1, 1, 1):
            profile, image = self._builder.create_optimization_profile(), network.get_input(0)
            profile.set_shape(image.name, *((count, *tuple(image.shape)[1:]) for count in options.batch))
            config.add_optimization_profile(profile)
        return config

    def _set_cache(self, config: Any, path: Path | None, force: bool) -> bool:
        """Give the configuration the timings in a file, or none; returns whether the file may be written.

        TensorRT makes an empty cache of what it cannot read, be it of another version or a checkpoint of that name.
        """
        if path is None:
            return False
        if path.exists() and not path.is_file():
            raise UsageError(f"timing cache {path} is no file; choose another with --timing-cache FILE")
        data = path.read_bytes() if path.exists() else b""
        cache, empty = config.create_timing_cache(data), config.create_timing_cache(b"")
        nothing = bytes(empty.serialize())
        is_read = data in (b"", nothing) or (cache is not None and bytes(cache.serialize()) != nothing)
        if not is_read and not force:
            _log.warning(
                "%s is no timing cache that this TensorRT can read and is left as it is, so timings are not kept; give "
                "another --timing-cache FILE, or replace this one with --force",
                path,
            )
        if not is_read or not config.set_timing_cache(cache, ignore_mismatch=False):
            if is_read:
                _log.warning("%s is of another GPU; it is started anew", path)
            config.set_timing_cache(empty, ignore_mismatch=False)
        return is_read or force

    def _run(self, network: Any, config: Any, name: str, on_progress: OnProgress | None) -> Any:
        """Build in a thread of its own, so that this one hears Ctrl-C and can tell the builder to stop."""
        monitor = open_monitor(self._trt, (lambda d, t: on_progress(f"building {name}", d, t)) if on_progress else None)
        config.progress_monitor = monitor
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(self._builder.build_serialized_network, network, config)
            try:
                plan = future.result()
            except BaseException:
                monitor.cancelled = True
                raise  # once the builder has stopped: leaving the pool waits for it
        if monitor.failure is not None:
            raise monitor.failure
        return plan

    def _inspect(self, plan: bytes, path: Path) -> str:
        engine = open_runtime(self._trt).deserialize_cuda_engine(plan)
        if engine is None:
            if unfit := unfit_gpu(self.library, self._log.errors()):
                raise unfit
            raise ModelError(
                f"the engine of {path.name} was built but cannot be loaded ({last(self._log.errors())}); "
                "report this with what fcn-edge doctor prints"
            )
        inspector = engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))


def _write_cache(config: Any, path: Path) -> None:
    cache = config.get_timing_cache()
    if cache is None:
        return
    try:
        write_atomically(path, bytes(cache.serialize()))
    except OSError as exc:
        _log.warning(
            "timing cache %s cannot be written: %s; the engine is built all the same", path, exc.strerror or exc
        )
