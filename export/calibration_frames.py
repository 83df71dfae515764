"""Finds and reads the frames to calibrate with, and divides them in two; knows nothing about models."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError, UsageError
from ..pixels import Image, fit_image, read_image
from .frame_files import frame_files

LEAST_FRAMES = 8
_EVERY = 3  # each third frame is held out, so that both parts see all of the material


@dataclass(frozen=True, eq=False)
class CalibrationFrames:
    """Frames uint8 ``[height, width, 3]`` BGR of the network's size.

    Attributes:
        calibrate: what ranges are measured on.
        held_out: what ranges are judged by; none of ``calibrate`` is among them.
        sha256: of the digests of all these files, in their order.
    """

    calibrate: tuple[Image, ...]
    held_out: tuple[Image, ...]
    sha256: str


def read_frames(
    calib: str | Path | Sequence[str | Path], size_hw: tuple[int, int], max_frames: int
) -> CalibrationFrames:
    """Read frames, evenly spread over all there are, as the network will see them.

    Args:
        calib: a folder of images, a data set (its split ``train``), a glob, or the files themselves.
        size_hw: (height, width) of the network.
        max_frames: the most to read.

    Raises:
        UsageError: as :func:`require_enough`.
        DataError: if frames cannot be read; ``problems`` lists every one of them.
    """
    paths = require_enough(calib, max_frames)
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(max_frames, len(paths))).round().astype(int))
    frames, problems, digest = [], [], hashlib.sha256()
    for path in (paths[index] for index in chosen):
        try:
            frames.append(fit_image(read_image(path), size_hw))
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except DataError as exc:
            problems.append(str(exc))
    if problems:
        listing = "".join(f"\n  {problem}" for problem in problems)
        raise DataError(f"{len(problems)} frames to calibrate with cannot be read; mend or remove:{listing}", problems)
    held_out = tuple(frames[_EVERY - 1 :: _EVERY])
    calibrate = tuple(frame for index, frame in enumerate(frames) if index % _EVERY != _EVERY - 1)
    return CalibrationFrames(calibrate, held_out, digest.hexdigest())


def require_enough(calib: str | Path | Sequence[str | Path], max_frames: int) -> list[Path]:
    """The files there are, none of which is read yet.

    Raises:
        UsageError: if there are too few frames, or ``max_frames`` asks for too few.
    """
    if max_frames < LEAST_FRAMES:
        raise UsageError(f"max_frames is {max_frames}; expected at least {LEAST_FRAMES} frames to calibrate with")
    paths = list(frame_files(calib)) if isinstance(calib, (str, Path)) else [Path(file) for file in calib]
    if len(paths) < LEAST_FRAMES:
        found = f"{calib} holds" if isinstance(calib, (str, Path)) else "there are"
        one = "" if isinstance(calib, (str, Path)) or not paths else f", such as {paths[0]}"
        raise UsageError(
            f"{found} {len(paths)} images to calibrate with{one}; expected at least {LEAST_FRAMES}, better 100, of the "
            "scenes that the model will see: give a folder of images or a data set"
        )
    return paths
