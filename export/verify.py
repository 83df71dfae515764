"""Compares an ONNX file's labels with torch's, pixel by pixel; knows nothing about how the file was made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import GateError
from ..model.fcn import FCN
from ..pixels import Image, fit_image
from .onnx_runtime import open_session

TIE = 1e-4
"""Two classes tie where their logits differ by less than this share of the larger one (of 1, if that is smaller)."""

LEAST_AGREEMENT = 0.9999


@dataclass(frozen=True)
class Agreement:
    """How far a file's labels are those of torch.

    Attributes:
        frames: number of frames compared.
        pixels: number of pixels compared.
        differing: pixels whose labels differ.
        ties: those of them at which torch's logits of the two labels tie, so that either may win by rounding.
    """

    frames: int
    pixels: int
    differing: int
    ties: int

    @property
    def share(self) -> float:
        """Share of pixels with equal labels; 0 if nothing was compared."""
        return 1 - self.differing / self.pixels if self.pixels else 0.0

    @property
    def passed(self) -> bool:
        """Whether at least 99.99 % of the pixels agree and all others are ties."""
        return self.share >= LEAST_AGREEMENT and self.differing == self.ties

    def __str__(self) -> str:
        return (
            f"{self.share:.4%} of {self.pixels} pixels in {self.frames} frames agree with torch; "
            f"{self.differing} differ, {self.ties} of them ties"
        )


def verify(onnx_path: str | Path, model: FCN, frames: Iterable[NDArray[Any]]) -> Agreement:
    """Run frames through ONNX Runtime and torch and compare the labels.

    Labels are what is compared, so a class that wins nowhere on the frames is not: give frames that show the classes.

    Args:
        onnx_path: a file as ``fcn-edge export`` writes it.
        model: the network it was made from, in any mode; it is not changed.
        frames: uint8 ``[height, width, 3]`` BGR of any size.

    Raises:
        MissingError: if ONNX Runtime is not installed.
        ModelError: if ONNX Runtime refuses the file.
    """
    session = open_session(Path(onnx_path), "verifying an export")
    _, height, width, _ = session.get_inputs()[0].shape
    training = model.training
    model.eval()
    count = differing = ties = 0
    try:
        for frame in frames:
            image = fit_image(frame, (height, width))
            labels = session.run(["labels"], {"image": image[None]})[0].view(np.uint8)[0]
            logits = _logits(model, image)
            wrong, tied = compared(logits, labels)
            count, differing, ties = count + 1, differing + wrong, ties + tied
    finally:
        model.train(training)
    return Agreement(count, count * height * width, differing, ties)


def require_agreement(agreement: Agreement, path: Path) -> None:
    """Pass or refuse a file.

    Raises:
        GateError: if fewer than 99.99 % of the pixels agree, or one that differs is no tie.
    """
    if not agreement.passed:
        raise GateError(
            f"{path} is not written: {agreement}, expected at least {LEAST_AGREEMENT:.2%} and ties within {TIE:g}; "
            "please report it with the versions that fcn-edge doctor prints"
        )


def compared(logits: torch.Tensor, labels: NDArray[np.uint8]) -> tuple[int, int]:
    """Count pixels whose label is not the highest logit, and those of them that tie with it.

    Args:
        logits: float ``[C, H, W]``.
        labels: uint8 ``[H, W]``, each below C.
    """
    best, expected = logits.max(dim=0)
    rows, columns = (torch.from_numpy(labels).long() != expected).nonzero(as_tuple=True)
    if not len(rows):
        return 0, 0
    given = torch.from_numpy(labels).long()[rows, columns]
    if int(given.max()) >= len(logits):  # an id that is no class ties with nothing
        return len(rows), 0
    top, other = best[rows, columns], logits[given, rows, columns]
    tied = top - other <= TIE * top.abs().clamp(min=1)
    return len(rows), int(tied.sum())


def noise_frames(size_hw: tuple[int, int], count: int = 2) -> list[Image]:
    """Frames to compare on where none are given: coloured patches of many sizes, the same ones each time.

    Returns:
        ``count`` arrays uint8 ``[*size_hw, 3]``.
    """
    generator = np.random.default_rng(0)
    frames = []
    for _ in range(count):
        total = np.zeros((*size_hw, 3))
        for cell in (64, 16, 4, 1):  # like a scene, detail of every scale, and most of it in the large patches
            rows, columns = np.arange(size_hw[0]) // cell, np.arange(size_hw[1]) // cell
            patches = generator.uniform(-1, 1, (rows[-1] + 1, columns[-1] + 1, 3))
            total += patches[rows][:, columns] * cell**0.25
        frames.append(np.clip(128 + 30 * total, 0, 255).astype(np.uint8))
    return frames


def _logits(model: FCN, image: Image) -> torch.Tensor:
    device = next(model.parameters()).device
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)
    with torch.no_grad():
        logits: torch.Tensor = model(batch)[0].float().cpu()
    return logits
