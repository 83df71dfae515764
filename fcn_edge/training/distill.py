"""The teacher of a run: trained networks whose answers another one learns; knows nothing about losses or steps."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import ModelError, UsageError
from ..model.fcn import FCN
from ..model.folding import folded
from .adjustment import change_of_lead, shift_logits
from .checkpoint import Checkpoint, load_checkpoint, model_from_state
from .config import TrainConfig
from .data import TrainData
from .losses import enet_weights
from .precision import choose_precision
from .qat import is_quantised

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teacher:
    """Trained networks, in eval mode and without gradients, and where they are from.

    Attributes:
        models: their averaged weights; batch norm is folded, convolutions are in the format that they run in.
        paths: their files, as they were given.
        sha256: of these files.
    """

    models: tuple[FCN, ...]
    paths: tuple[Path, ...]
    sha256: tuple[str, ...]

    @property
    def provenance(self) -> dict[str, str]:
        """What a checkpoint tells about it; several files stand between commas."""
        return {"teacher": ",".join(map(str, self.paths)), "teacher_sha256": ",".join(self.sha256)}


def open_teacher(config: TrainConfig, data: TrainData, device: torch.device) -> Teacher:
    """The averaged models of the checkpoints that a run's options name as a teacher.

    Where one's answers favour rare classes more or less than the run's shall, that is evened out.

    A teacher that was trained on other images than the run may have seen those that the run validates on, and hand that
    on; that is logged as a warning.

    Raises:
        ModelError: if a file is no checkpoint, or its classes are not those of the run, in their order.
    """
    paths = tuple(Path(path) for path in config.teacher)
    models = tuple(_open_network(path, config, data, device) for path in paths)
    return Teacher(models, paths, tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths))


def refuse_other_teacher(teacher: Teacher | None, saved: Checkpoint) -> None:
    """Check that a run goes on with the teacher it began with, wherever its files lie now.

    Raises:
        UsageError: if the teacher is missing, new or another.
    """
    before, path = (saved.provenance.get(name, "") for name in ("teacher_sha256", "teacher"))
    now = teacher.provenance if teacher else {"teacher": "", "teacher_sha256": ""}
    if before != now["teacher_sha256"]:
        given = f"the teacher is {now['teacher']}" if teacher else "no teacher is given"
        digests = ", ".join(f"{digest[:12]}..." for digest in before.split(","))
        began = f"with {path} (sha256 {digests})" if before else "without one"
        remedy = "give that as --teacher" if before else "leave out --teacher"
        raise UsageError(f"{given} but the run was started {began}; {remedy} or start a new run in another folder")


def _open_network(path: Path, config: TrainConfig, data: TrainData, device: torch.device) -> FCN:
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
    shift_logits(model, change_of_lead(checkpoint.config, config, enet_weights(data.train.counts)))
    if not is_quantised(checkpoint.ema):  # else it is folded already, and rounds
        model.backbone = folded(model.backbone).to(choose_precision(config.amp, device))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
