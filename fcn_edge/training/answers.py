"""Another network's answers to the training images, from files; knows nothing about losses or where they come from.

Any network can teach so, whatever it was made with: it only has to be run once over the images. Its class scores at a
quarter of the size are what is kept, since finer ones would take more memory than the images.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor
from torch.nn import functional as F

from ..dataset import Sample
from ..errors import DataError, UsageError

_STRIDE = 4
_LARGEST = 1000.0
_KINDS = ("<f2", "<f4")


@dataclass(frozen=True)
class Answers:
    """A folder with a file ``NAME.npy`` for each training image ``NAME.*``.

    A file holds float16 or float32 ``[C, h, w]``: logits, or logarithms of probabilities, of the classes in the data
    set's order, over the whole image; any h and w.

    Attributes:
        folder: where the files are.
        num_classes: number of classes C.
        size_hw: (height, width) that images are brought to.
    """

    folder: Path
    num_classes: int
    size_hw: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of what :meth:`read` gives: classes, and a quarter of the image's height and width."""
        return self.num_classes, -(-self.size_hw[0] // _STRIDE), -(-self.size_hw[1] // _STRIDE)

    def check(self, samples: Sequence[Sample]) -> None:
        """Look at the file of every image, of which only the first bytes are read.

        Raises:
            UsageError: if the folder does not exist.
            DataError: if files are missing or hold something else; ``problems`` lists them.
        """
        if not self.folder.is_dir():
            raise UsageError(
                f"answers {self.folder} is no folder; give the folder that holds NAME.npy for each training image"
            )
        problems = tuple(self._problems(samples))
        if problems:
            listing = "".join(f"\n  {problem}" for problem in problems)
            raise DataError(f"the answers in {self.folder} cannot be used; mend these files:{listing}", problems)

    def read(self, sample: Sample) -> Tensor:
        """The answers to an image: float16 ``[C, H/4, W/4]``, logits.

        Raises:
            DataError: if the file cannot be read or a value is not finite.
        """
        path = self._path(sample)
        try:
            values = torch.from_numpy(np.load(path, allow_pickle=False)).float()
        except (OSError, ValueError, EOFError) as exc:
            raise DataError(f"{path} cannot be read: {exc}; write it anew", (str(path),)) from exc
        if not bool(values.isfinite().all()):
            raise DataError(
                f"{path} holds values that are not finite; write logits, or logarithms of probabilities above 0",
                (str(path),),
            )
        values -= values.amax(0, keepdim=True)  # what is common to all classes tells nothing, and may be beyond float16
        small = F.interpolate(values[None], self.shape[1:], mode="bilinear", antialias=True, align_corners=False)[0]
        return small.clamp_(min=-_LARGEST).half()

    def fingerprint(self, samples: Sequence[Sample]) -> str:
        """SHA-256 over the files."""
        digest = hashlib.sha256()
        for sample in samples:
            digest.update(hashlib.sha256(self._path(sample).read_bytes()).digest())
        return digest.hexdigest()

    def _path(self, sample: Sample) -> Path:
        return self.folder / f"{sample.name}.npy"

    def _problems(self, samples: Sequence[Sample]) -> Iterator[str]:
        for name, count in Counter(sample.name for sample in samples).items():
            if count > 1:
                yield f"{name}.npy: {count} training images are named {name}; give them names of their own"
        for sample in samples:
            path = self._path(sample)
            try:
                found, kind = _header(path)
            except FileNotFoundError:
                yield f"{path.name} is missing"
            except (OSError, ValueError, EOFError) as exc:
                yield f"{path.name} is no .npy file of numbers: {exc}"
            else:
                wanted = f"[{self.num_classes}, h, w]"
                if len(found) != 3 or found[0] != self.num_classes or 0 in found:
                    yield f"{path.name} has the shape {list(found)}; expected {wanted}, one plane for each class"
                elif kind not in _KINDS:
                    yield f"{path.name} has the type {np.dtype(kind).name}; expected float16 or float32"


def _header(path: Path) -> tuple[tuple[int, ...], str]:
    """Shape and type of an array in a file."""
    with path.open("rb") as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    return shape, dtype.str
