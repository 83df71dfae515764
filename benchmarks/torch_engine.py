"""A checkpoint as an engine, so that it can be evaluated and timed; knows nothing about data or time."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import torch

from ..contract import Contract
from ..cores import require_threads
from ..errors import EngineError, MissingError
from ..model.fcn import FCN
from ..pixels import Image, Labels
from ..runtime.engine import Engine
from ..training.checkpoint import model_from_checkpoint
from ..training.precision import torch_threads
from .engines import require_device


class TorchEngine(Engine):
    """A network run by torch, in FP32 on every device: TF32 is off, since it changes labels.

    Args:
        model: the network; it is moved to ``device`` and put into evaluation mode.
        contract: what it expects.
        device: where it runs.
        threads: how many threads torch may use on the CPU. That number is the process's own, so it is set for each
            frame, and what was there before comes back.
    """

    backend = "torch"

    def __init__(self, model: FCN, contract: Contract, device: torch.device, threads: int) -> None:
        super().__init__(contract, "fp32")
        self._model = model.to(device).eval()
        self._device = device
        self._threads = threads
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @property
    def gpu_mib(self) -> float | None:
        """Peak of GPU memory that torch held, MiB; None on the CPU."""
        return torch.cuda.max_memory_reserved(self._device) / 2**20 if self._device.type == "cuda" else None

    def _segment(self, image_bgr: Image) -> tuple[Labels, float]:
        # torch warns about arrays that it could write to but should not: give those a copy.
        own = image_bgr if image_bgr.flags.writeable else image_bgr.copy()
        try:
            with torch_threads(self._threads), torch.inference_mode(), self._no_tf32():
                image = torch.from_numpy(own).to(self._device).permute(2, 0, 1)[None]
                scores = self._model.scores(self._model.features(image))
                self._synchronize()
                started = time.perf_counter()
                logits = self._model.head(scores, self.contract.size_hw)
                # torch.argmax gives the first of equal maxima, which is the contract's rule for ties.
                labels: Labels = logits.argmax(1)[0].to(torch.uint8).cpu().numpy()
                return labels, time.perf_counter() - started
        except RuntimeError as exc:  # out of memory is one of them
            raise EngineError(f"torch failed on {self._device}: {str(exc).splitlines()[0]}") from exc

    def _no_tf32(self) -> contextlib.AbstractContextManager[None]:
        if self._device.type != "cuda":
            return contextlib.nullcontext()
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def open_torch_engine(checkpoint: Path, threads: int | None = None, device: str = "auto") -> TorchEngine:
    """Open a checkpoint for inference.

    Args:
        checkpoint: a ``.pt`` file that training wrote.
        threads: how many threads the CPU may use; None: one for each physical core.
        device: ``cpu``, ``cuda``, or ``auto``: the GPU if there is one.

    Raises:
        UsageError: if ``threads`` or ``device`` means nothing.
        ModelError: if the file is missing, damaged or no checkpoint.
        MissingError: if a GPU is asked for and torch sees none.
    """
    require_device(device)
    threads = require_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingError("torch sees no CUDA GPU on this machine; use device cpu, or a torch built for CUDA")
    model, contract = model_from_checkpoint(checkpoint)
    kind = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    engine = TorchEngine(model, contract, torch.device(kind), threads)
    engine.name = checkpoint.name
    return engine
