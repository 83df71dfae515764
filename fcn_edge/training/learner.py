"""A model while it learns: one optimiser step, its averaged weights, its state; knows nothing about files or epochs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..contract import Contract
from ..errors import FcnEdgeError, ModelError
from ..model.fcn import FCN, make_model
from ..model.weights import LoadReport, load_classifier_weights
from .adjustment import change_of_lead, logit_adjustment, shift_logits
from .augment import augment_batch
from .batches import ImageStore, RawBatch, iter_order
from .checkpoint import Checkpoint, take_weights
from .config import TrainConfig
from .distill import Teacher
from .hints import Hints
from .losses import enet_weights, segmentation_loss
from .precise_bn import take_statistics
from .precision import choose_precision
from .qat import correct_biases, measure_steps, quantised
from .schedule import Average, freeze, make_optimizer, rate_factor, set_rate
from .transfer import measure_norms


class Learner:
    """A network, its optimiser and its moving average.

    Args:
        config: the options, sizes filled in.
        contract: the model's.
        counts: training pixels of each class ``[C]``.
        device: where it learns.
        teacher: networks whose answers it learns too, on the same device; None: none.

    Attributes:
        model: the network as trained.
        average: its moving average, which is what is validated and exported.
        hints: what compares its features with the teacher's, learned with it; None where nothing does.
        generator: CPU generator of every random choice but those of dropout.
        steps: optimiser steps done.
        rate: learning rate of the last step.
    """

    def __init__(
        self,
        config: TrainConfig,
        contract: Contract,
        counts: Tensor,
        device: torch.device,
        teacher: Teacher | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.contract, self.device, self.teacher = config, contract, device, teacher
        self.generator = torch.Generator().manual_seed(config.seed)
        self.model = make_model(
            config.model,
            contract.num_classes,
            mean=contract.mean,
            std=contract.std,
            dropout=config.dropout,
            bn_momentum=config.bn_momentum,
        ).to(device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.hints = Hints(self.model, teacher.models[0]).to(device) if teacher is not None and config.hint else None
        self._restart()
        self.precision = choose_precision(config.amp, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)
        self.steps, self.rate = 0, 0.0
        self._class_weights = enet_weights(counts).to(device)
        self._weights = self._class_weights if config.class_weights == "enet" else None
        self._adjustment = logit_adjustment(config, self._weights)
        share = counts.double() / counts.sum().clamp(min=1)
        self._rarity = torch.where(counts > 0, share.clamp(min=1e-6).rsqrt(), 0.0).float()

    def _restart(self) -> None:
        """Average and optimiser of the model as it is now."""
        self.average = Average(self.model, self.config.ema)
        freeze(self.model, self.config)
        self.optimizer = make_optimizer(self.model, self.config, self.hints.parameters() if self.hints else ())

    def start_from(self, state: dict[str, Tensor], config: TrainConfig | None = None) -> tuple[list[str], list[str]]:
        """Take the weights whose name and shape fit.

        Args:
            state: weights by name.
            config: of the run that they come from, if it had the same classes: what that run left of the class
                weights' lead in its answers becomes what this one leaves.

        Returns:
            The names taken and those that found nothing.
        """
        taken, fresh = take_weights(self.model, state)
        if config is not None and f"score_convs.{len(self.model.strides) - 1}.bias" in taken:
            shift_logits(self.model, change_of_lead(config, self.config, self._class_weights))
        self.average = Average(self.model, self.config.ema)
        return taken, fresh

    def start_from_classifier(self, path: Path) -> LoadReport:
        """Take a classifier's weights for the backbone; raises ModelError if the file does not hold them."""
        report = load_classifier_weights(self.model, path)
        self.average = Average(self.model, self.config.ema)
        return report

    def quantise(self, images: Iterable[Tensor] = ()) -> None:
        """Go on with rounding where the INT8 file will round.

        Args:
            images: batches uint8 ``[N, 3, H, W]`` that steps and biases are first set by; none where a state with
                learned steps will be restored.
        """
        self.model = quantised(self.average.model)
        self.model.requires_grad_(True)
        batches = list(images)
        if batches:
            measure_steps(self.model, batches)
            correct_biases(self.model, batches)
        self._restart()

    def measure_norms(self, names: Collection[str], images: Iterable[Tensor]) -> None:
        """Give batch norms the statistics of images uint8 ``[N, 3, H, W]``; what the model answers stays.

        Images as they are: with varied ones, as in training, training mode agreed with eval mode on fewer pixels.
        """
        measure_norms(self.model, names, images)
        self.average = Average(self.model, self.config.ema)

    def step(self, raw: RawBatch, fraction: float) -> float:
        """Learn from a batch.

        Args:
            raw: images and masks before augmentation.
            fraction: how much of the run is done, 0 to 1.

        Returns:
            The loss.

        Raises:
            FcnEdgeError: if the loss is not finite; the weights are then as before the step.
        """
        images, labels = self._augment(raw, fraction, self.generator)
        loss = self._loss(images, labels)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        value = float(loss.detach())  # waits for a GPU: with the gradients queued it has something to do meanwhile
        if not math.isfinite(value):
            raise FcnEdgeError(
                f"the loss is {value} at step {self.steps + 1} on the images {', '.join(raw.names)}; training stops, "
                f"the last checkpoint stays: look at these images, or start anew with an lr below {self.config.lr:g} "
                "or amp off"
            )
        self.rate = self.config.lr * rate_factor(self.config, fraction)
        set_rate(self.optimizer, self.rate)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(self.model, self.steps)
        self.steps += 1
        return value

    def take_statistics(self, store: ImageStore) -> None:
        """Take the averaged model's batch norm statistics anew, over ``config.precise_bn`` batches.

        They are of crops varied as at the end of the run, not mixed: the weights have learned on such, and whole images
        as they are were tried and cost 1.1 and 1.6 points of mIoU on an unseen sequence. Everything is drawn from the
        seed, but not from the run's own generator, so that the run stays what it is without this.
        """
        generator = torch.Generator().manual_seed(self.config.seed)
        # All of it first: a store that reads ahead would draw from the generator between crops.
        order = list(iter_order(len(store), self.config.batch, self.config.precise_bn, generator))
        batches = (self._augment(raw, 1.0, generator)[0] for raw in store.batches(order))
        self.train_mode()
        norms = [(name, each) for name, each in self.model.named_modules() if isinstance(each, nn.BatchNorm2d)]
        take_statistics(self.average.model, batches, [name for name, norm in norms if not norm.training])

    def train_mode(self) -> None:
        """Put the model into training mode, save for what is frozen."""
        self.model.train()
        freeze(self.model, self.config)

    def state(self) -> dict[str, Any]:
        """The fields of a checkpoint that the learner fills."""
        rng = {"run": self.generator.get_state(), "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "model": self.model.state_dict(),
            "ema": self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "hints": self.hints.state_dict() if self.hints else {},
            "rng": rng,
            "step": self.steps,
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a saved state; the learner then continues as if it had never stopped.

        Raises:
            ModelError: if the state does not fit the model.
        """
        try:
            self.model.load_state_dict(checkpoint.model)
            self.average.model.load_state_dict(checkpoint.ema)
            self.optimizer.load_state_dict(checkpoint.optimizer)
            if checkpoint.scaler and self.scaler.is_enabled():
                self.scaler.load_state_dict(checkpoint.scaler)
            if self.hints:
                self.hints.load_state_dict(checkpoint.hints)
            self.generator.set_state(checkpoint.rng["run"])
            torch.set_rng_state(checkpoint.rng["torch"])
            if "cuda" in checkpoint.rng and self.device.type == "cuda":
                torch.cuda.set_rng_state(checkpoint.rng["cuda"], self.device)
        except (RuntimeError, KeyError, ValueError, TypeError) as exc:
            reason = str(exc).splitlines()[0]
            raise ModelError(f"the run cannot be resumed: its state does not fit the model ({reason})") from exc
        self.steps = checkpoint.step

    def _augment(self, raw: RawBatch, fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        augment, crop_hw = self.config.augment, self.config.crop or self.contract.size_hw
        images, labels = augment_batch(
            raw.images,
            raw.masks,
            crop_hw,
            augment,
            generator,
            num_classes=self.contract.num_classes,
            ignore_id=self.contract.ignore_id,
            fill=self.contract.mean,
            rarity=self._rarity,
            mix=fraction < 1 - augment.settle,
        )
        return images.contiguous(memory_format=torch.channels_last), labels

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Features in half precision where that is faster; scores, head and loss in float32."""
        config, own = self.config, self._features(self.model, images)
        teachers = self.teacher.models if self.teacher and (config.distill or config.hint) else ()
        with torch.no_grad():
            taught = [self._features(teacher, images) for teacher in teachers]
            scores = [teacher.scores(features) for teacher, features in zip(teachers, taught, strict=True)]
        loss = segmentation_loss(
            self.model.scores(own),
            self.model.kernels,
            labels,
            loss=config.loss,
            weights=self._weights,
            adjustment=self._adjustment,
            label_weight=config.label_weight,
            aux=config.aux,
            lovasz=config.lovasz,
            every=config.loss_every,
            generator=self.generator,
            teachers=[(maps, each.kernels) for maps, each in zip(scores, teachers, strict=True)],
            distill=config.distill,
            temperature=config.distill_temperature,
        )
        if self.hints is not None:
            loss = loss + config.hint * self.hints(own, taught[0])
        return loss

    def _features(self, model: FCN, images: Tensor) -> list[Tensor]:
        half = self.precision != torch.float32
        with torch.autocast(self.device.type, self.precision) if half else contextlib.nullcontext():
            features = model.features(images)
        return [maps.float() for maps in features]
