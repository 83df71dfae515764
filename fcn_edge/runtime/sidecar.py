"""The sidecar of an engine: what ``x.engine.json`` says of ``x.engine``; knows nothing about TensorRT or CUDA calls.

The plan itself is left untouched, so that trtexec and C++ programs read it; all that is known of it stands beside it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import msgspec

from ..contract import Contract
from ..errors import ModelError
from ..files import write_atomically

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The precision that was asked for and what was found in the engine.

    Attributes:
        asked: ``fp32``, ``fp16`` or ``int8``.
        found: type: share of the layers that run in it, summing to 1.
        audited: ``engine`` where TensorRT's inspector listed the engine's layers, which needs a GPU and a builder that
            did not make one layer of all; ``network`` where the layers of the parsed network were counted before the
            builder fused them.
    """

    asked: str
    found: dict[str, float]
    audited: str


@dataclass(frozen=True, kw_only=True)
class Library:
    """A TensorRT: ``package`` is the module's name, ``tensorrt`` or ``tensorrt_rtx``; ``version`` such as 10.3.0."""

    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU: ``sm`` is its compute capability without the dot, such as 87."""

    name: str
    sm: int

    def __str__(self) -> str:
        return f"{self.name} (sm_{self.sm})"


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """The library of the fused head: plugin version and sha256 of the file."""

    version: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What INT8 was calibrated on.

    Attributes:
        sha256: over the files of all frames, those that ranges were measured on and those held out, in one order: that
            in which they were read, where each third is held out. Empty where no ranges were measured.
        frames: number of those that ranges were measured on.
        method: how ranges were chosen; ``learned``: in training.
        held_out: number of the others, which judged the ranges; 0 also in files of before it was written.
    """

    sha256: str
    frames: int
    method: str
    held_out: int = 0


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Comparison of the labels with those of FP32.

    Attributes:
        ran: ``tensorrt`` or ``openvino``: the latter ran the typed ONNX on the CPU, because no GPU was there.
        frames: number of frames compared.
        frames_sha256: sha256 over the frames' files in order and, where there are masks, over what these mean.
        agreement: share of the pixels with equal labels.
        agreement_inside: the same without pixels within two pixels of a border between classes (of FP32); None if
            there are no others.
        miou: mean IoU of the classes that the masks show; None without masks.
        miou_fp32: mean IoU of FP32 on the same frames; None without masks.
        max_miou_drop: the limit asked for, if any.
        min_agreement: the limit asked for, if any.
        reference: what FP32 was: ``fp32``, the model itself; else the precision of the file that was built from, whose
            weights, already rounded, were run in FP32 without rounding of activations.
    """

    ran: str
    frames: int
    frames_sha256: str
    agreement: float
    agreement_inside: float | None
    miou: float | None = None
    miou_fp32: float | None = None
    max_miou_drop: float | None = None
    min_agreement: float | None = None
    reference: str = "fp32"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the builder was told.

    Attributes:
        workspace_mib: limit of its scratch memory; None: TensorRT's own.
        opt_level: builder optimisation level 0 to 5; None: TensorRT's own.
        batch: smallest, usual and largest number of frames; (1, 1, 1) is a static engine.
    """

    workspace_mib: int | None = None
    opt_level: int | None = None
    batch: tuple[int, int, int] = (1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """All that is known of an engine.

    Attributes:
        contract: what it expects and what its answers mean.
        precision: asked for and found.
        plan_sha256: of the ``.engine`` file.
        onnx: name of the typed ONNX file that it was built from, which lies beside it.
        onnx_sha256: of that file.
        tensorrt: what built it; an engine runs on the same version only.
        cuda: version of CUDA that the driver supported while it was built, such as 12.6; empty without a driver.
        gpu: the GPU that it is bound to; None: any that the library takes (TensorRT-RTX), but Turing.
        plugin: library of the fused head that it needs; None: the head is made of TensorRT's own layers.
        options: what the builder was told.
        calibration: of an INT8 engine, where known.
        gate: the gate that it passed, if it was asked to.
        version: of this structure.
    """

    contract: Contract
    precision: Precision
    plan_sha256: str
    onnx: str
    onnx_sha256: str
    tensorrt: Library
    cuda: str
    gpu: Gpu | None
    plugin: Plugin | None
    options: Options
    calibration: Calibration | None = None
    gate: Gate | None = None
    version: int = VERSION


def sidecar_path(engine: Path) -> Path:
    """``x.engine.json`` for ``x.engine``."""
    return engine.with_name(f"{engine.name}.json")


def write_sidecar(engine: Path, sidecar: Sidecar) -> None:
    """Write an engine's sidecar, whole or not at all."""
    text = msgspec.json.format(msgspec.json.encode(sidecar), indent=2)
    write_atomically(sidecar_path(engine), text + b"\n")


def read_sidecar(engine: Path) -> Sidecar:
    """Read what lies beside an engine.

    Raises:
        ModelError: if it is missing, cannot be read, or is of another version.
    """
    path = sidecar_path(engine)
    try:
        sidecar = msgspec.json.decode(path.read_bytes(), type=Sidecar)
    except FileNotFoundError as exc:
        raise ModelError(
            f"{engine} has no {path.name} beside it, which says what it is; copy both files, or build it again with "
            "fcn-edge build"
        ) from exc
    except (OSError, msgspec.DecodeError, RecursionError, ModelError) as exc:
        raise ModelError(f"{path} cannot be read ({exc}); copy it again, or build the engine again") from exc
    if sidecar.version != VERSION:
        raise ModelError(
            f"{path} is of version {sidecar.version}, this release reads {VERSION}; {rebuild(engine, sidecar)}"
        )
    return sidecar


def read_plan(engine: Path, sidecar: Sidecar) -> bytes:
    """The engine's bytes, if they are those that the sidecar describes: a plan can carry code.

    Raises:
        ModelError: if the file is missing, cut off or was changed.
    """
    try:
        plan = engine.read_bytes()
    except OSError as exc:
        raise ModelError(f"engine {engine} cannot be read: {exc.strerror or exc}; {rebuild(engine, sidecar)}") from exc
    found = hashlib.sha256(plan).hexdigest()
    if found != sidecar.plan_sha256:
        raise ModelError(
            f"{engine} ({len(plan)} bytes, sha256 {found[:12]}...) is not the file that its sidecar describes "
            f"(sha256 {sidecar.plan_sha256[:12]}...): it is cut off or was changed; copy it again, or "
            f"{rebuild(engine, sidecar)}"
        )
    return plan


def sha256_of(path: Path, what: str = "model file", remedy: str = "") -> str:
    """Sha256 of a file, as a sidecar records it.

    Args:
        path: the file.
        what: what it is, for the message.
        remedy: what to do if it cannot be read, for the message.

    Raises:
        ModelError: if it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as exc:
        reason = f"{what} {path} cannot be read: {exc.strerror or exc}"
        raise ModelError(f"{reason}; {remedy}" if remedy else reason) from exc


def check_machine(engine: Path, sidecar: Sidecar, tensorrt: Library, gpu: Gpu | None) -> None:
    """Refuse an engine that was built for another TensorRT or another kind of GPU.

    Args:
        engine: the file, for the message.
        sidecar: what it was built with.
        tensorrt: the TensorRT that is to run it.
        gpu: the GPU that is to run it, None if there is none to compare with.

    Raises:
        ModelError: if it cannot run here; the message gives built-with, found and the command that builds it here.
    """
    if sidecar.tensorrt != tensorrt:
        raise ModelError(
            f"{engine} was built with {sidecar.tensorrt}, this machine has {tensorrt}; an engine runs only on the "
            f"version that built it: {rebuild(engine, sidecar)}"
        )
    if sidecar.gpu and gpu and sidecar.gpu.sm != gpu.sm:
        raise ModelError(
            f"{engine} was built for {sidecar.gpu}, this machine has {gpu}; an engine runs only on the kind of GPU "
            f"that built it: {rebuild(engine, sidecar)}"
        )


def rebuild(engine: Path, sidecar: Sidecar) -> str:
    """The command that builds an engine again on this machine."""
    head = "" if sidecar.plugin else " --no-plugin"
    return (
        f"build it here with: fcn-edge build {quote(str(engine.parent / sidecar.onnx))} -o {quote(str(engine.parent))} "
        f"--precision {sidecar.precision.asked}{head}"
    )
