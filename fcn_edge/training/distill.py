"""The teacher of a run: a trained network whose answers another one learns; knows nothing about losses or steps."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import ModelError, UsageError
from ..model.fcn import FCN
from .checkpoint import Checkpoint, load_checkpoint, model_from_state
from .data import TrainData

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teacher:
    """A trained network, in eval mode and without gradients, and where it is from.

    Attributes:
        model: its averaged weights.
        path: its file, as it was given.
        sha256: of that file.
    """

    model: FCN
    path: Path
    sha256: str

    @property
    def provenance(self) -> dict[str, str]:
        """What a checkpoint tells about it."""
        return {"teacher": str(self.path), "teacher_sha256": self.sha256}


def open_teacher(path: Path, data: TrainData, device: torch.device) -> Teacher:
    """A checkpoint's averaged model as a teacher.

    A teacher that was trained on other images than the run may have seen those that the run validates on, and hand that
    on; that is logged as a warning.

    Raises:
        ModelError: if the file is no checkpoint, or its classes are not those of the run, in their order.
    """
    checkpoint = load_checkpoint(path)
    own, wanted = checkpoint.contract.class_names, data.contract.class_names
    if own != wanted:
        raise ModelError(
            f"the teacher {path} answers with the classes {', '.join(own)}, the data has {', '.join(wanted)}; give a "
            "teacher that was trained with the same classes in the same order"
        )
    if len(data.val) and checkpoint.provenance.get("train_files_sha256") != data.fingerprint:
        log.warning(
            "the teacher %s was trained on other images than this run; if those validated on are among them, the "
            "validation flatters",
            path,
        )
    model = model_from_state(checkpoint.contract, checkpoint.ema, str(path)).to(device).requires_grad_(False)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Teacher(model, path, hashlib.sha256(path.read_bytes()).hexdigest())


def refuse_other_teacher(teacher: Teacher | None, saved: Checkpoint) -> None:
    """Check that a run goes on with the teacher it began with, wherever the file lies now.

    Raises:
        UsageError: if the teacher is missing, new or another.
    """
    before, path = (saved.provenance.get(name, "") for name in ("teacher_sha256", "teacher"))
    if before != (teacher.sha256 if teacher else ""):
        given = f"the teacher is {teacher.path}" if teacher else "no teacher is given"
        began = f"with {path} (sha256 {before[:12]}...)" if before else "without one"
        remedy = "give that file as --teacher" if before else "leave out --teacher"
        raise UsageError(f"{given} but the run was started {began}; {remedy} or start a new run in another folder")
