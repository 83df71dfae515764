"""From checkpoints or ONNX files to typed ONNX files and engines, each audited and gated; knows no TensorRT call."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ..cores import require_threads
from ..errors import FcnEdgeError, GateError, UsageError
from ..pixels import require_cv2
from ..runtime.engine_openvino import require_openvino
from ..runtime.gpu import require_pycuda
from ..runtime.tensorrt_library import find_plugin, has_tensorrt
from ..shipped import model_file
from .build_one import Shop, build_one
from .build_request import BuildRequest, Built
from .calibration_frames import require_enough
from .candidates import AUTO, MAX_FRAMES, OnProgress
from .engine_cache import PRECISIONS, typed_name
from .model_source import ModelSource
from .sensitivity import LayerSensitivity
from .to_engine import EngineBuilder

CPU_GATE = "the gate runs on the typed ONNX files in the CPU engine: to run engines takes TensorRT and a GPU, both here"


def build(
    models: str | Path | Sequence[str | Path],
    out: str | Path,
    request: BuildRequest,
    on_progress: OnProgress | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> list[Built]:
    """Build every model in every precision.

    Args:
        models: ``.pt`` or ``.onnx`` files, or names of models that ship with the package; or one of them.
        out: folder for typed ONNX files, engines and sidecars.
        request: precisions and options.
        on_progress: called as ``on_progress(what, done, total)``, from any thread.
        on_note: called with a sentence about what is not as someone might expect.

    Raises:
        UsageError: if arguments contradict, or a file that no build wrote would be replaced.
        ModelError: if a model is missing or damaged, TensorRT refuses it, or an engine has another precision.
        MissingError: if something is not installed or not there: TensorRT of a usable version, the plugin, a GPU that
            it needs, memory; what a gate runs on, before anything is built.
        GateError: if a precision fails the gate; its files are removed.
        KeyboardInterrupt: after Ctrl-C, when the builder has stopped.
    """
    out = Path(out)
    _check(request)
    builder = _open_builder(request, on_note)
    if request.gate:
        runs_engines = builder is not None and builder.can_run
        _require_gate_packages(runs_engines)
        if not runs_engines:
            on_note(CPU_GATE)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=out) as work:
            sources = _open_sources(models, Path(work), request)
            pairs = [(source, precision) for source in sources for precision in _precisions(source, request)]
            _check_names(pairs)
            return _build_all(Shop(out, request, builder, on_progress, on_note), pairs)
    except OSError as exc:
        place = exc.filename or out
        raise UsageError(f"{place} cannot be written: {exc.strerror or exc}; choose another folder with -o") from exc


def sensitivity(
    models: str | Path | Sequence[str | Path], request: BuildRequest, on_progress: OnProgress | None = None
) -> list[tuple[str, tuple[LayerSensitivity, ...]]]:
    """What INT8 costs layer by layer: for each model its file and a row for each layer.

    Raises:
        UsageError: if there are no frames to calibrate with, or a layer to keep is none of the model's.
        ModelError: if a model is missing or damaged.
    """
    from .quantize import sensitivity_of

    how = request.quantisation
    if not how.frames:
        raise UsageError("--sensitivity needs frames to measure ranges on: give a folder with --calib DIR")
    with tempfile.TemporaryDirectory(prefix="fcn-edge-") as work:
        return [
            (
                str(source.path),
                sensitivity_of(
                    source.fp32(),
                    how.frames,
                    method=how.method,
                    keep=how.keep,
                    max_frames=how.max_frames or MAX_FRAMES,
                    threads=request.threads,
                    on_progress=on_progress,
                ),
            )
            for source in _open_sources(models, Path(work), request)
        ]


def _check(request: BuildRequest) -> None:
    """Refuse with UsageError what means nothing for any model, before a folder is made."""
    require_threads(request.threads)
    for precision in request.precisions:
        if precision not in PRECISIONS:
            raise UsageError(f"precision '{precision}' is unknown; expected {', '.join(PRECISIONS)}")


def _build_all(shop: Shop, pairs: Sequence[tuple[ModelSource, str]]) -> list[Built]:
    """Build what can be built; what fails its gate does not keep the others from it."""
    results, failures = [], []
    for source, precision in pairs:
        try:
            results.append(build_one(shop, source, precision))
        except GateError as exc:
            failures.append(str(exc))
        except FcnEdgeError:
            for failure in failures:  # their files are gone
                shop.on_note(failure)
            raise
    if failures:
        raise GateError("\nfcn-edge: ".join(failures))
    return results


def _open_sources(models: str | Path | Sequence[str | Path], work: Path, request: BuildRequest) -> list[ModelSource]:
    models = [models] if isinstance(models, (str, Path)) else models
    return [ModelSource(model_file(model), work / str(index), request.size_hw) for index, model in enumerate(models)]


def _open_builder(request: BuildRequest, on_note: Callable[[str], None]) -> EngineBuilder | None:
    """TensorRT, opened before anything takes time; None where it is not installed."""
    if not has_tensorrt():
        on_note(
            "TensorRT is not installed here, so only typed ONNX files are written; run the same command on the device"
        )
        return None
    return EngineBuilder(functools.partial(find_plugin, request.plugin) if request.use_plugin else None)


def _require_gate_packages(runs_engines: bool) -> None:
    """What the gate will need: an engine is built for minutes, and thrown away if the gate cannot run."""
    require_cv2()
    require_openvino("the gate compares with FP32 in the CPU engine and", "openvino")
    if runs_engines:
        require_pycuda()


def _precisions(source: ModelSource, request: BuildRequest) -> tuple[str, ...]:
    wanted = tuple(request.precisions) or (source.precision,)
    for precision in wanted:
        how = request.quantisation
        if precision != "int8" or not (source.precision != "int8" or how.is_asked_for):
            continue
        if how.frames:  # too few would be found only once the other precisions are built and gated
            require_enough(how.frames, how.max_frames or MAX_FRAMES)
        else:
            from .quantize import LEARNED, require_frames

            learned = how.method in (AUTO, LEARNED) and source.has_steps
            require_frames(precision, how.min_agreement, learned)
    return wanted


def _check_names(pairs: Sequence[tuple[ModelSource, str]]) -> None:
    names: dict[str, Path] = {}
    for source, precision in pairs:
        other = names.setdefault(typed_name(source.name, precision, source.contract.size_hw), source.path)
        if other != source.path:
            raise UsageError(
                f"{other} and {source.path} would write files of the same name; rename one, or build them into "
                "different folders"
            )
