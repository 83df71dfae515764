"""One model in one precision: typed ONNX file, gate, engine, sidecar, each only if it is not there; no TensorRT call.

An engine that fails its gate is not left in place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import GateError, UsageError
from ..runtime.cuda_driver import cuda_version
from ..runtime.engine import Engine, open_engine
from ..runtime.engine_tensorrt import TensorRtEngine
from ..runtime.sidecar import Gate, Precision, Sidecar, sha256_of, sidecar_path, write_sidecar
from .build_request import BuildRequest, Built
from .candidates import Judge, OnProgress
from .engine_cache import FOREIGN, engine_name, engine_state, typed_name
from .gate import GateFrames, compare, measured, open_gate, require_gate, shortfall
from .model_source import ModelSource, calibration_in, make_typed
from .to_engine import EngineBuilder

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Shop:
    """What all models of one call share."""

    out: Path
    request: BuildRequest
    builder: EngineBuilder | None
    on_progress: OnProgress | None
    on_note: Callable[[str], None]


def build_one(shop: Shop, source: ModelSource, precision: str) -> Built:
    """Make the typed ONNX file and, where TensorRT is, the engine of one precision; raises as :func:`~.build.build`."""
    request, builder = shop.request, shop.builder
    frames = open_gate(request.gate, source.contract) if request.gate else None
    typed = shop.out / typed_name(source.name, precision, source.contract.size_hw)
    engine = shop.out / engine_name(typed, builder.library, builder.gpu) if builder else None
    judged: list[Gate] = []  # of INT8 candidates; the file is the last of them
    try:
        made = ["onnx"] if _typed(shop, source, precision, typed, frames, judged) else []
        known = judged[-1] if judged else None
        if builder is None or engine is None:
            gate = _gate(shop, source, typed, frames, known)
            return _built(source, precision, typed, None, made, None, gate)
        return _build_engine(shop, builder, source, precision, typed, engine, made, frames, known)
    except GateError:
        spoiled = [] if source.is_file(typed) else [typed]
        # An engine without a sidecar is somebody else's.
        if engine and (request.force or sidecar_path(engine).exists()):
            spoiled += [engine, sidecar_path(engine)]
        for path in spoiled:
            path.unlink(missing_ok=True)
        raise


def _typed(
    shop: Shop, source: ModelSource, precision: str, typed: Path, frames: GateFrames | None, judged: list[Gate]
) -> bool:
    request, judge = shop.request, None
    if frames is not None and precision == "int8" and request.quantisation.min_agreement is not None:
        limits = (frames.request.max_miou_drop, frames.request.min_agreement)
        judge = Judge(f"{frames.sha256} {limits}", functools.partial(_objection, shop, source, typed, frames, judged))
    return make_typed(
        source,
        precision,
        typed,
        request.quantisation,
        threads=request.threads,
        force=request.force,
        on_progress=shop.on_progress,
        on_note=shop.on_note,
        judge=judge,
    )


def _objection(
    shop: Shop, source: ModelSource, typed: Path, frames: GateFrames, judged: list[Gate], candidate: ModelProto
) -> str:
    """What the gate says of an INT8 candidate in the CPU engine; empty if it holds."""
    path = source.work / f"candidate-{typed.name}"
    path.write_bytes(candidate.SerializeToString())
    judged.append(_compared(shop, source, path, frames, "openvino"))
    return shortfall(judged[-1])


def _build_engine(
    shop: Shop,
    builder: EngineBuilder,
    source: ModelSource,
    precision: str,
    typed: Path,
    engine: Path,
    made: list[str],
    frames: GateFrames | None,
    known_typed: Gate | None,
) -> Built:
    request, onnx_sha256 = shop.request, sha256_of(typed)
    known = (onnx_sha256, builder.library, builder.gpu, builder.plugin, request.options)
    sidecar, state = engine_state(engine, *known)
    if sidecar is not None and not request.force:
        gate = _gate(shop, source, engine if builder.can_run else typed, frames, sidecar.gate)
        if gate is not None and gate != sidecar.gate:
            write_sidecar(engine, replace(sidecar, gate=gate))
        return _built(source, precision, typed, engine, made, sidecar.precision.found, gate)
    if state == FOREIGN and not request.force:
        raise UsageError(
            f"{engine} exists already and no build wrote it, as no {sidecar_path(engine).name} is beside it; choose "
            "another folder or replace it with --force"
        )
    if state not in ("absent", "current", FOREIGN):
        shop.on_note(f"{engine.name} is built again: {state}")
    # Without a GPU the gate judges the ONNX file, so it can spare the build.
    gate = None if builder.can_run else _gate(shop, source, typed, frames, known_typed)
    result = builder.build(
        typed, precision, request.options, request.timing_cache, shop.on_progress, force=request.force
    )
    sidecar = Sidecar(
        contract=source.contract,
        precision=Precision(asked=precision, found=result.found, audited=result.audited),
        plan_sha256=result.sha256,
        onnx=typed.name,
        onnx_sha256=onnx_sha256,
        tensorrt=builder.library,
        cuda=cuda_version(),
        gpu=builder.gpu,
        plugin=builder.plugin,
        options=request.options,
        calibration=calibration_in(typed) if precision == "int8" else None,
        gate=gate,
    )
    fresh = source.work / engine.name
    fresh.write_bytes(result.plan)
    if builder.can_run and frames:
        write_sidecar(fresh, sidecar)
        sidecar = replace(sidecar, gate=_gate(shop, source, fresh, frames, None))
    sidecar_path(engine).unlink(missing_ok=True)  # never a new engine under an old description
    fresh.replace(engine)
    write_sidecar(engine, sidecar)
    return _built(source, precision, typed, engine, [*made, "engine"], result.found, sidecar.gate)


def _gate(
    shop: Shop, source: ModelSource, candidate: Path, frames: GateFrames | None, known: Gate | None
) -> Gate | None:
    """Compare a file with FP32, unless that is known already of the same frames, and raise if it fails.

    What is known of the model in FP32 itself holds for a typed file that is built from, too.
    """
    if frames is None:
        return known
    ran = "tensorrt" if candidate.suffix == ".engine" else "openvino"
    request = frames.request
    same = known is not None and known.reference in ("fp32", source.precision)
    if known is not None and same and (known.frames_sha256, known.ran) == (frames.sha256, ran):
        gate = replace(known, max_miou_drop=request.max_miou_drop, min_agreement=request.min_agreement)
    else:
        gate = _compared(shop, source, candidate, frames, ran)
    require_gate(gate, candidate.name)
    shop.on_note(f"{candidate.name} holds its gate on {gate.frames} frames: {measured(gate)}")
    return gate


def _compared(shop: Shop, source: ModelSource, candidate: Path, frames: GateFrames, ran: str) -> Gate:
    show, what = shop.on_progress, f"comparing {candidate.name} with FP32"
    with open_engine(source.fp32(), threads=shop.request.threads) as reference, _opened(shop, candidate) as other:
        gate = compare(reference, other, frames, ran, (lambda d, t: show(what, d, t)) if show else None)
    return replace(gate, reference=source.precision)


def _opened(shop: Shop, candidate: Path) -> Engine:
    """An engine with the very plugin that it was built with, or an ONNX file in the CPU engine."""
    if candidate.suffix == ".engine":
        return TensorRtEngine(candidate, plugin=shop.request.plugin)
    return open_engine(candidate, threads=shop.request.threads)


def _built(
    source: ModelSource,
    precision: str,
    typed: Path,
    engine: Path | None,
    made: Sequence[str],
    found: dict[str, float] | None,
    gate: Gate | None,
) -> Built:
    return Built(
        model=str(source.path),
        precision=precision,
        onnx=str(typed),
        engine=str(engine) if engine else None,
        made=tuple(made),
        found=found,
        gate=gate,
    )
