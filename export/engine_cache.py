"""Names of what a build writes, and whether what lies there is still that; knows nothing about how it is made."""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx
from onnx import helper

from .. import __version__
from ..errors import ModelError
from ..files import write_atomically
from ..runtime.onnx_file import load_onnx
from ..runtime.sidecar import Gpu, Library, Options, Plugin, Sidecar, read_plan, read_sidecar, sidecar_path
from ..runtime.tensorrt_library import RTX

RECIPE_KEY = "fcn_edge.build"
FOREIGN, DAMAGED = "foreign", "it is damaged"
"""States of files that may be somebody else's: they are replaced only with ``--force``."""
PRECISIONS = ("fp32", "fp16", "int8")
_RECORD = b"\n" + bytes([len(RECIPE_KEY)]) + RECIPE_KEY.encode()
"""How the record's key stands in a file: a field of text and its length, which no notes about it hold."""
_TYPED_NAME = re.compile(rf"-(?:{'|'.join(PRECISIONS)})-\d+x\d+$")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a typed ONNX file was made from and how; it is made again when any of this differs.

    Attributes:
        source_sha256: of the ``.pt`` or FP32 ``.onnx``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        calibration_sha256: of the frames given to calibrate, for int8.
        method: how ranges are chosen, for int8.
        keep: layers kept out, for int8.
        min_agreement: share of labels that layers were kept out for, for int8.
        max_frames: limit of frames to calibrate with, for int8.
        judge: the gate that layers were kept out for, for int8.
        program: version of this program.
    """

    source_sha256: str
    precision: str
    calibration_sha256: str = ""
    method: str = ""
    keep: tuple[str, ...] = ()
    min_agreement: float | None = None
    max_frames: int | None = None
    judge: str = ""
    program: str = __version__


class _Stamp(msgspec.Struct, frozen=True):
    """What a typed ONNX carries as ``fcn_edge.build``: the recipe, and the sha256 of everything but this."""

    recipe: Recipe
    content_sha256: str


def base_name(model: Path) -> str:
    """``camvid-s`` of ``camvid-s.onnx`` and of ``camvid-s-int8-360x480.onnx``."""
    return _TYPED_NAME.sub("", model.stem)


def typed_name(name: str, precision: str, size_hw: tuple[int, int]) -> str:
    """``NAME-<precision>-<HxW>.onnx``."""
    return f"{name}-{precision}-{size_hw[0]}x{size_hw[1]}.onnx"


def engine_name(typed: Path, library: Library, gpu: Gpu | None) -> str:
    """``NAME-<precision>-<HxW>-trt<version>-sm<xx>.engine`` for a typed ONNX.

    The version of TensorRT-RTX begins with ``rtx``, since it counts on its own; an engine bound to no GPU is ``smany``.
    """
    version = f"{'rtx' if library.package == RTX else ''}{library.version}"
    return f"{typed.stem}-trt{version}-sm{gpu.sm if gpu else 'any'}.engine"


def stamp(typed: Path, recipe: Recipe) -> None:
    """Write into a typed ONNX what it was made from."""
    model = load_onnx(typed)
    _drop_stamp(model)
    text = msgspec.json.encode(_Stamp(recipe, _content_sha256(model))).decode()
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, {**metadata, RECIPE_KEY: text})
    write_atomically(typed, model.SerializeToString(deterministic=True))


def typed_state(typed: Path, recipe: Recipe) -> str:
    """``current``; ``absent``; ``foreign``, if a build did not write it; else why it has to be made again."""
    if not typed.exists():
        return "absent"
    try:
        model = load_onnx(typed)
    except ModelError:
        return "it was changed since" if _is_of_a_build(typed) else DAMAGED
    text = _drop_stamp(model)
    if text is None:
        return FOREIGN
    try:
        found = msgspec.json.decode(text, type=_Stamp)
    except msgspec.DecodeError:
        return "its record is damaged"
    if found.content_sha256 != _content_sha256(model):
        return "it was changed since"
    return "current" if found.recipe == recipe else "its model or options changed"


def _is_of_a_build(typed: Path) -> bool:
    """Whether a build wrote a file that can no longer be read: it holds a record, or a sidecar beside it names it."""
    try:
        if _RECORD in typed.read_bytes():
            return True
        sidecars = list(typed.parent.glob(f"*{sidecar_path(Path('.engine'))}"))
    except OSError:
        return False
    for path in sidecars:
        with contextlib.suppress(ModelError):
            if read_sidecar(path.with_suffix("")).onnx == typed.name:
                return True
    return False


def engine_state(
    engine: Path, onnx_sha256: str, library: Library, gpu: Gpu | None, plugin: Plugin | None, options: Options
) -> tuple[Sidecar | None, str]:
    """The sidecar of an engine that need not be built again and ``current``; else None and a state as above."""
    if not engine.exists():
        return None, "absent"
    if not sidecar_path(engine).exists():
        return None, FOREIGN
    try:
        sidecar = read_sidecar(engine)
    except ModelError:
        return None, "its sidecar is missing or damaged"
    try:
        read_plan(engine, sidecar)
    except ModelError:
        return None, "it was changed since"
    wanted = (
        ("its ONNX file changed", sidecar.onnx_sha256, onnx_sha256),
        ("TensorRT changed", sidecar.tensorrt, library),
        ("the GPU changed", sidecar.gpu, gpu),
        ("the plugin changed", sidecar.plugin, plugin),
        ("options changed", sidecar.options, options),
    )
    reason = next((text for text, found, now in wanted if found != now), "")
    return (None, reason) if reason else (sidecar, "current")


def _drop_stamp(model: onnx.ModelProto) -> str | None:
    """Take the record out of a model and return it."""
    for index, entry in enumerate(model.metadata_props):
        if entry.key == RECIPE_KEY:
            text: str = entry.value
            del model.metadata_props[index]
            return text
    return None


def _content_sha256(model: onnx.ModelProto) -> str:
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
