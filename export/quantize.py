"""From an FP32 file to an FP16 or INT8 file that says how it was made; knows nothing about where quantisation goes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import onnx
from onnx import ModelProto

from ..cores import require_threads
from ..errors import GateError, ModelError, UsageError
from ..files import replaced
from ..sequences import names_in
from .calibration import METHODS
from .candidates import AUTO, MAX_FRAMES, Calibrated, Judge, OnProgress, best_method, calibrated, load_fp32
from .qdq import Placement, placement
from .sensitivity import LayerSensitivity, layers_to_keep, sensitivity
from .typed import fp16_from_fp32, int8_from_fp32

PRECISION_KEY = "fcn_edge.precision"
CALIBRATION_KEY = "fcn_edge.calibration"
SOURCE_KEY = "fcn_edge.fp32_sha256"
SCALES_KEY = "fcn_edge.scales"
"""In an FP32 file that quantisation-aware training made: JSON of the step of each activation, by its tensor's name."""

LEARNED = "learned"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TypedReport:
    """What :func:`typed_onnx` made.

    Attributes:
        path: the file.
        precision: ``fp16`` or ``int8``.
        agreement: share of pixels of the held-out frames whose label is that of FP32, both in the CPU engine; None
            where no frames were given.
        method: how ranges were chosen, ``learned`` if in training; None for FP16.
        agreement_by_method: the same share for each method that was tried, before more layers were kept out.
        layers: names of the convolutions that multiply integers.
        kept: names of the convolutions that do not.
        calibration_frames: how many frames ranges were measured on, be it for the file that they are taken from; 0
            where none were measured.
        held_out_frames: how many others judged them; where none were measured, how many frames judge here.
        calibration_sha256: of the files of both, in their order; None where no ranges were measured.
    """

    path: Path
    precision: str
    agreement: float | None = None
    method: str | None = None
    agreement_by_method: Mapping[str, float] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    calibration_frames: int = 0
    held_out_frames: int = 0
    calibration_sha256: str | None = None


def typed_onnx(
    model_fp32: str | Path,
    out: str | Path,
    precision: str,
    *,
    calib: str | Path | Sequence[str | Path] | None = None,
    method: str = AUTO,
    keep: str | Sequence[str] = (),
    min_agreement: float | None = None,
    max_frames: int = MAX_FRAMES,
    threads: int | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
    judge: Judge | None = None,
) -> TypedReport:
    """Write an FP16 or INT8 file from an FP32 one.

    The file keeps the contract and whatever else the FP32 file carries; ``fcn_edge.precision`` says what it is,
    ``fcn_edge.calibration`` holds the report as JSON, ``fcn_edge.fp32_sha256`` is the file it was made from.

    Args:
        model_fp32: a file as ``fcn-edge export`` writes it.
        out: the ``.onnx`` file to write; it appears whole or not at all.
        precision: ``fp16`` or ``int8``.
        calib: a folder of frames, a data set (its split ``train``), a glob or the files themselves. INT8 needs it,
            unless the file holds learned steps; for those and for FP16 it measures the agreement. A third of the frames
            is held out and judges.
        method: one of :data:`~.calibration.METHODS`; ``learned``: the steps that the file holds; or ``auto``: those if
            it holds any, else the method whose labels agree best with FP32.
        keep: names of convolutions that an INT8 file leaves in FP16, or patterns such as ``backbone.s32.*``; or one
            of them.
        min_agreement: INT8: keep out more layers, those that cost most first, until this share of labels is FP32's.
        max_frames: the most frames to read, evenly spread over all.
        threads: of the CPU engine that judges; None: one for each physical core.
        force: whether an existing file may be replaced.
        on_progress: called with the step's name, the number done and the number of all.
        judge: with ``min_agreement``: keep out more layers, too, until it has no objection; the file is then the last
            candidate that it was asked of.

    Raises:
        UsageError: if an argument makes no sense, INT8 has no frames, or ``out`` exists or cannot be written.
        DataError: if frames cannot be read; ``problems`` lists every one of them.
        ModelError: if the FP32 file is missing, damaged, not FP32 or not this project's, or cannot be FP16.
        MissingError: if ONNX Runtime or OpenVINO is needed and not installed.
        GateError: if ``min_agreement`` is not reached, or the judge not content.
    """
    model_fp32, out = Path(model_fp32), Path(out)
    check_request(out, precision, force)
    check_method(method, min_agreement)
    threads = require_threads(threads)
    model, _ = load_fp32(model_fp32)
    steps = _steps(model, model_fp32, method) if precision == "int8" else {}
    if calib is None:
        require_frames(precision, min_agreement, bool(steps))
    kept = names_in(keep)
    where = placement(model, kept)  # refuses patterns that fit nothing, before anything takes time
    _require_steps(where, steps, model_fp32)
    if precision == "int8" and not steps:
        assert calib is not None  # for the type checker: require_frames has refused it
        known = calibrated(model_fp32, calib, max_frames=max_frames, threads=threads, on_progress=on_progress)
        chosen, by_method = best_method(known, method, kept, on_progress)
        agreement, typed = by_method[chosen], known.int8(chosen, kept)
        if min_agreement is not None and _falls_short(typed, agreement, min_agreement, judge):
            kept, agreement = layers_to_keep(known, chosen, kept, min_agreement, on_progress, judge)
            where, typed = placement(model, kept), known.int8(chosen, kept)
        report = TypedReport(
            out, precision, agreement, chosen, by_method, where.layers, where.kept, **_frames_of(known)
        )
    else:
        if steps:
            typed = int8_from_fp32(model, steps, kept)
            report = TypedReport(out, precision, layers=where.layers, kept=where.kept, **_measured(model))
        else:
            typed, report = fp16_from_fp32(model), TypedReport(out, precision)
        if calib is not None:
            known = calibrated(model_fp32, calib, with_ranges=False, max_frames=max_frames, threads=threads)
            known, agreement = replace(known, steps=steps), known.agreement(typed)
            if steps and min_agreement is not None and _falls_short(typed, agreement, min_agreement, judge):
                kept, agreement = _more_layers_to_keep(known, report, kept, min_agreement, on_progress, judge)
                where, typed = placement(model, kept), int8_from_fp32(model, steps, kept)
                report = replace(report, layers=where.layers, kept=where.kept)
            # Where ranges came with their frames, these are what the file's hash is of, and not those that judge here.
            held_out = report.held_out_frames or len(known.frames.held_out)
            report = replace(report, agreement=agreement, held_out_frames=held_out)
    _write(typed, report, hashlib.sha256(model_fp32.read_bytes()).hexdigest(), has_steps=bool(steps))
    _log.info("%s: %s", out, report)
    return report


def sensitivity_of(
    model_fp32: str | Path,
    calib: str | Path | Sequence[str | Path],
    *,
    method: str = AUTO,
    keep: str | Sequence[str] = (),
    max_frames: int = MAX_FRAMES,
    threads: int | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[LayerSensitivity, ...]:
    """What INT8 costs layer by layer; parameters and errors are those of :func:`typed_onnx`."""
    check_method(method)
    threads = require_threads(threads)
    model_fp32 = Path(model_fp32)
    model, _ = load_fp32(model_fp32)
    steps = _steps(model, model_fp32, method)
    keep = names_in(keep)
    _require_steps(placement(model, keep), steps, model_fp32)  # both refuse before anything takes time
    known = calibrated(
        model_fp32, calib, with_ranges=not steps, max_frames=max_frames, threads=threads, on_progress=on_progress
    )
    if steps:
        return sensitivity(replace(known, steps=steps), LEARNED, keep, on_progress)
    chosen, _ = best_method(known, method, keep, on_progress)
    return sensitivity(known, chosen, keep, on_progress)


def _steps(model: ModelProto, path: Path, method: str) -> dict[str, float]:
    """The learned steps that a method takes; none where it measures ranges."""
    steps = learned_scales(model) if method in (AUTO, LEARNED) else {}
    if method == LEARNED and not steps:
        raise UsageError(f"{path} holds no learned steps; give a model of fcn-edge train --qat, or another method")
    return steps


def _require_steps(where: Placement, steps: Mapping[str, float], path: Path) -> None:
    """Refuse with UsageError to quantise what a file that brings its steps has none of."""
    lacking = [tensor for tensor in where.tensors if tensor not in steps] if steps else []
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise UsageError(
            f"{path.name} holds no range of {lacking[0]}{more}, as it was made with layers kept out; name those with "
            "--keep too (fcn-edge inspect lists them), or measure ranges anew with --method mse --calib DIR"
        )


def learned_scales(model: ModelProto) -> dict[str, float]:
    """The steps that an FP32 file holds from quantisation-aware training, by tensor; none for any other file."""
    text = next((entry.value for entry in model.metadata_props if entry.key == SCALES_KEY), None)
    try:
        return msgspec.json.decode(text, type=dict[str, float]) if text else {}
    except msgspec.DecodeError as exc:
        raise ModelError(f"the file's learned steps are unreadable ({exc}); export it again") from exc


def _measured(model: ModelProto) -> dict[str, Any]:
    """How the steps that a file holds came about: in training, unless it was made of an INT8 file that knows better."""
    text = next((entry.value for entry in model.metadata_props if entry.key == CALIBRATION_KEY), None)
    try:
        said = msgspec.json.decode(text, type=dict[str, Any]) if text else {"method": LEARNED}
    except msgspec.DecodeError as exc:
        raise ModelError(f"what the file says of its calibration is unreadable ({exc}); fetch it again") from exc
    taken = ["method"]
    if said.get("calibration_sha256"):
        taken += ["calibration_frames", "held_out_frames", "calibration_sha256"]
    return {name: said[name] for name in taken if said.get(name)}


def check_request(out: Path, precision: str, force: bool) -> None:
    """Refuse with UsageError what :func:`typed_onnx` cannot do, before any work."""
    if precision not in ("fp16", "int8"):
        raise UsageError(f"precision is '{precision}'; expected fp16 or int8")
    check_out(out, force)


def check_out(out: Path, force: bool) -> None:
    """Refuse with UsageError a name that an ``.onnx`` file cannot have, or that is taken and ``force`` is not given."""
    if out.suffix != ".onnx":
        raise UsageError(f"{out} does not end in .onnx, by which every command knows such a file; choose another name")
    if out.is_dir() or (out.exists() and not force):
        raise UsageError(f"{out} exists already; choose another name or replace a file with --force")


def require_frames(precision: str, min_agreement: float | None, learned: bool) -> None:
    """Refuse with UsageError what needs frames; called where there are none."""
    if precision == "int8" and not learned:
        raise UsageError(
            "int8 needs frames to measure the ranges of activations; give a folder of images of the scenes that the "
            "model will see with --calib DIR, or ask for fp16"
        )
    if precision == "int8" and min_agreement is not None:
        raise UsageError("agreement with FP32 needs frames to compare on; give a folder of images with --calib DIR")


def _falls_short(typed: ModelProto, agreement: float, least: float, judge: Judge | None) -> bool:
    """Whether more layers are to be kept out."""
    return agreement < least or (judge is not None and bool(judge.objection(typed)))


def _more_layers_to_keep(
    known: Calibrated,
    report: TypedReport,
    keep: Sequence[str],
    min_agreement: float,
    on_progress: OnProgress | None,
    judge: Judge | None,
) -> tuple[tuple[str, ...], float]:
    """As :func:`~.sensitivity.layers_to_keep`, with the steps that the file holds."""
    try:
        return layers_to_keep(known, LEARNED, keep, min_agreement, on_progress, judge)
    except GateError as exc:
        if report.method == LEARNED:
            raise GateError(f"{exc}; its steps were learned, so fine-tune longer, or choose --method mse") from exc
        raise GateError(
            f"{exc}; its ranges are those of the file: measure them anew with --method mse, or fine-tune longer"
        ) from exc


def check_method(method: str, min_agreement: float | None = None) -> None:
    """Refuse with UsageError a method that there is none of, or what is no share."""
    known = (AUTO, LEARNED, *METHODS)
    if method not in known:
        raise UsageError(f"calibration method '{method}' is unknown; expected one of {', '.join(known)}")
    if min_agreement is not None and not 0 < min_agreement <= 1:
        raise UsageError(f"the least agreement is {min_agreement:g}; expected a share of labels, such as 0.995")


def _frames_of(known: Calibrated) -> dict[str, Any]:
    frames = known.frames
    return {
        "calibration_frames": len(frames.calibrate),
        "held_out_frames": len(frames.held_out),
        "calibration_sha256": frames.sha256,
    }


def _write(typed: ModelProto, report: TypedReport, source_sha256: str, has_steps: bool) -> None:
    """Write the file; ``has_steps``: its steps are those that its FP32 file tells of."""
    fields = {name: value for name, value in msgspec.to_builtins(report, enc_hook=str).items() if name != "path"}
    properties = {entry.key: entry.value for entry in typed.metadata_props}
    if report.precision != "int8":  # an FP32 file made of an INT8 one tells of that one's steps
        for key in (CALIBRATION_KEY, SCALES_KEY):
            properties.pop(key, None)
    elif not has_steps:
        properties.pop(SCALES_KEY, None)
    properties |= {PRECISION_KEY: report.precision, SOURCE_KEY: source_sha256}
    if report.method or report.agreement is not None:
        properties[CALIBRATION_KEY] = msgspec.json.encode(fields).decode()
    onnx.helper.set_model_props(typed, properties)
    onnx.checker.check_model(typed, full_check=True)
    try:
        with replaced(report.path) as temporary:
            temporary.write_bytes(typed.SerializeToString(deterministic=True))
    except OSError as exc:
        reason = exc.strerror or exc
        raise UsageError(f"{report.path} cannot be written: {reason}; choose another place with -o") from exc
