"""What a build starts from, and the typed ONNX file of each precision made from it; knows nothing about TensorRT."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..contract import METADATA_KEY, Contract
from ..errors import MissingError, ModelError, UsageError
from ..runtime.onnx_file import load_onnx, require_valid, split_onnx
from ..runtime.opencv_io import is_utf8
from ..runtime.sidecar import Calibration, sha256_of
from ..sequences import names_in
from .engine_cache import DAMAGED, FOREIGN, Recipe, base_name, stamp, typed_state
from .frame_files import files_sha256

if TYPE_CHECKING:
    from .candidates import Judge, OnProgress
    from .quantize import TypedReport

OnNote = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """How INT8 is made.

    Attributes:
        frames: image files to calibrate with; a third of them judges.
        method: how ranges are chosen; ``auto``: the one whose labels agree best with FP32.
        keep: layers that stay FP16, or patterns; or one of them.
        min_agreement: keep out more layers until this share of labels is that of FP32, and the gate holds where there
            is one; None: do not.
        max_frames: the most frames to read; None: :func:`~.quantize.typed_onnx`'s own.
    """

    frames: tuple[str | Path, ...] = ()
    method: str = "auto"
    keep: Sequence[str] = ()
    min_agreement: float | None = None
    max_frames: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", names_in(self.keep))

    @property
    def is_asked_for(self) -> bool:
        """Whether an INT8 file as it is would not do."""
        return bool(self.keep) or self.min_agreement is not None or self.method not in ("auto", "learned")


class ModelSource:
    """A ``.pt`` or ``.onnx`` file and, once it is needed, its FP32 ONNX file.

    Args:
        path: the file.
        work: folder for what is made on the way; it need not exist.
        size_hw: input size of what is made; None: that of the file.

    Attributes:
        name: what files made from it are called after.
        precision: ``fp32`` for a checkpoint, else that of the file.
        contract: at the input size asked for.

    Raises:
        UsageError: if the file is of another kind, or ``size_hw`` is given for an ``.onnx``, whose size is fixed.
        ModelError: if it is missing or damaged.
        MissingError: if a checkpoint is given and torch is not installed.
    """

    def __init__(self, path: Path, work: Path, size_hw: tuple[int, int] | None = None) -> None:
        self.path, self.work, self.name = path, work, base_name(path)
        if path.suffix not in (".pt", ".onnx"):
            raise UsageError(f"{path} is no model to build from; expected a file that ends in .pt or .onnx")
        if not is_utf8(path):
            raise UsageError(f"{str(path)!a} is no name in UTF-8, which a sidecar needs; rename the file")
        if path.suffix == ".pt":
            self.contract, self.precision = _checkpoint_contract(path, size_hw), "fp32"
        else:
            split = split_onnx(path)
            self.contract, self.precision = split.contract, split.precision
            if size_hw not in (None, split.contract.size_hw):
                height, width = split.contract.size_hw
                raise UsageError(f"{path} takes {height}x{width} only; give the checkpoint to choose another --size")
        work.mkdir(parents=True, exist_ok=True)

    @cached_property
    def has_steps(self) -> bool:
        """Whether INT8 needs no frames: it is INT8, or holds steps of quantisation-aware training."""
        if self.precision == "int8":
            return True
        if self.path.suffix == ".pt":
            from ..training.checkpoint import load_checkpoint

            return load_checkpoint(self.path).config.qat
        from .quantize import learned_scales

        return bool(learned_scales(load_onnx(self.path)))

    @cached_property
    def sha256(self) -> str:
        """Of the file."""
        return sha256_of(self.path)

    def fp32(self) -> Path:
        """The FP32 ONNX file, made the first time: of a checkpoint, checked against torch, or of a typed file."""
        if self.path.suffix == ".onnx" and self.precision == "fp32":
            return self.path
        made = self.work / f"{self.name}.onnx"
        if made.exists():
            return made
        if self.path.suffix == ".pt":
            from .to_onnx import onnx_from_checkpoint

            onnx_from_checkpoint(self.path, made, self.contract.size_hw)
        else:
            _write_untyped(self.path, made)
        return made

    def is_file(self, path: Path) -> bool:
        """Whether a path is the very file that was given."""
        return path.exists() and path.samefile(self.path)


def make_typed(
    source: ModelSource,
    precision: str,
    typed: Path,
    how: Quantisation,
    *,
    threads: int | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
    on_note: OnNote = lambda note: None,
    judge: Judge | None = None,
) -> bool:
    """Make the typed ONNX file of a precision, unless it is there and made from the same with the same options.

    Returns:
        Whether it was made.

    Raises:
        UsageError: if a file is in its place that no build wrote, and ``force`` is not given, or it is the source.
        ModelError: if the source cannot become what is asked for.
        GateError: if layers were to be kept out until labels agree and the judge is content, and that is never.
    """
    as_is = precision == source.precision and not (precision == "int8" and how.is_asked_for)
    if source.is_file(typed):
        if not as_is:
            raise UsageError(f"{typed} would be made of itself; choose another folder with -o")
        return False
    recipe = Recipe(source_sha256=source.sha256, precision=precision)
    if precision == "int8" and not as_is:
        recipe = Recipe(
            source_sha256=source.sha256,
            precision=precision,
            calibration_sha256=files_sha256(how.frames),
            method=how.method,
            keep=tuple(how.keep),
            min_agreement=how.min_agreement,
            max_frames=how.max_frames,
            judge=judge.name if judge else "",
        )
    state = typed_state(typed, recipe)
    if state == "current" and not force:
        return False
    if state in (FOREIGN, DAMAGED) and not force:
        raise UsageError(
            f"{typed} exists already and no build wrote it{'' if state == FOREIGN else ', or it is damaged'}; choose "
            "another folder or replace it with --force"
        )
    if state not in ("absent", "current", FOREIGN):
        on_note(f"{typed.name} is made again: {state}")
    fresh = source.work / typed.name
    if precision == "fp32":
        shutil.copyfile(source.fp32(), fresh)
    elif as_is:
        shutil.copyfile(source.path, fresh)
    else:
        report = _quantised(source.fp32(), fresh, precision, how, threads, on_progress, judge)
        if report.method is not None:
            agreed = "" if report.agreement is None else f", {report.agreement:.4%} of the labels are those of FP32"
            on_note(f"{typed.name}: ranges by {report.method}{agreed}")
    stamp(fresh, recipe)
    fresh.replace(typed)
    return True


def calibration_in(typed: Path) -> Calibration | None:
    """What an INT8 file says of its calibration; None for one without."""
    from .quantize import CALIBRATION_KEY

    text = next((entry.value for entry in load_onnx(typed).metadata_props if entry.key == CALIBRATION_KEY), None)
    if text is None:
        return None
    try:
        report: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
        if report.get("method") is None:
            return None
        frames = int(report["calibration_frames"])
        sha256 = str(report["calibration_sha256"] or "")
        held_out = int(report.get("held_out_frames", 0)) if sha256 else 0
        return Calibration(sha256=sha256, frames=frames, method=str(report["method"]), held_out=held_out)
    except (msgspec.DecodeError, KeyError, ValueError) as exc:
        raise ModelError(f"{typed} says something unreadable of its calibration ({exc}); make it again") from exc


def _quantised(
    fp32: Path,
    out: Path,
    precision: str,
    how: Quantisation,
    threads: int | None,
    on_progress: OnProgress | None,
    judge: Judge | None,
) -> TypedReport:
    """FP16 or INT8 from FP32: the one place where a build asks for it."""
    from .candidates import MAX_FRAMES
    from .quantize import typed_onnx

    require_valid(load_onnx(fp32), fp32)
    if precision == "fp16":
        return typed_onnx(fp32, out, precision, on_progress=on_progress)
    return typed_onnx(
        fp32,
        out,
        precision,
        calib=how.frames or None,
        method=how.method,
        keep=how.keep,
        min_agreement=how.min_agreement,
        max_frames=how.max_frames or MAX_FRAMES,
        threads=threads,
        on_progress=on_progress,
        judge=judge,
    )


def _write_untyped(path: Path, out: Path) -> None:
    """The FP32 file of an FP16 or INT8 one, with its contract, its steps and where they are from."""
    from onnx import helper

    from .quantize import CALIBRATION_KEY, SCALES_KEY
    from .untyped import fp32_from_typed, steps_of

    typed = load_onnx(path)
    require_valid(typed, path)
    plain = fp32_from_typed(typed)
    said = {entry.key: entry.value for entry in typed.metadata_props if entry.key in (METADATA_KEY, CALIBRATION_KEY)}
    helper.set_model_props(plain, said | {SCALES_KEY: msgspec.json.encode(steps_of(typed)).decode()})
    out.write_bytes(plain.SerializeToString(deterministic=True))


def _checkpoint_contract(path: Path, size_hw: tuple[int, int] | None) -> Contract:
    try:
        from ..training.checkpoint import load_checkpoint
        from .to_onnx import resized
    except ImportError as exc:
        raise MissingError(
            f"{path.name} is a checkpoint, which needs torch ({exc}); install it with: pip install 'fcn-edge[train]', "
            "or give the FP32 .onnx file that was exported from it"
        ) from exc
    contract = load_checkpoint(path).contract
    return resized(contract, size_hw) if size_hw else contract
