"""The fused skip head: score maps in, class ids out; knows nothing about models, files or who computed the scores.

``skip_head`` runs the compiled kernel where it was built (``fcn_edge._native``) and ``skip_head_numpy`` otherwise. Both
follow Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation" (2015): the coarsest scores
are brought to the next grid by a depthwise transposed convolution of stride 2, that grid's scores are added, and so on;
the last transposed convolution brings the sum to full resolution, where each pixel takes its highest class.

Ties go to the lowest class id. NaN counts as minus infinity: a class whose sum is NaN never wins, and a pixel where all
are NaN gets class 0. Kernels are expected to be finite.
"""

from __future__ import annotations

import importlib
import operator
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt


def _load_native() -> ModuleType | None:
    try:
        return importlib.import_module("._native", __package__)
    except ModuleNotFoundError:  # the package was copied, not built: the reference below gives the same labels
        return None


_native = _load_native()
MAX_STAGES = 4
MAX_CLASSES = 256
_MAX_SIDE = 1 << 15

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]


def native_targets() -> tuple[str, ...]:
    """Instruction sets that the compiled kernel can use on this machine, fastest first; empty where it is not built."""
    return tuple(_native.skip_head_targets()) if _native is not None else ()


def skip_head(
    scores: Sequence[Floats],
    kernels: Sequence[Floats],
    size: tuple[int, int],
    threads: int = 1,
    *,
    out: Labels | None = None,
    target: str | None = None,
) -> Labels:
    """Label every pixel from score maps of one to four strides.

    Args:
        scores: float32 ``[N, C, h_i, w_i]``, C-contiguous, coarse to fine, each twice as fine as the last.
        kernels: as many float32 kernels: ``[C, 1, 4, 4]`` for each step between grids (stride 2, padding 1), last
            ``[C, 1, 2s, 2s]`` (stride s, padding s/2; s a power of two, at least 2).
        size: (height, width) of the labels, at most s times the finest grid; cropped from the top left.
        threads: most threads to use; the labels do not depend on it.
        out: uint8 ``[N, H, W]``, C-contiguous, to write into; it stays the caller's. A new array if None.
        target: one of ``native_targets()``; the first if None.

    Returns:
        Class ids, uint8 ``[N, H, W]``; ``out`` where it was given.

    Raises:
        TypeError: an array has the wrong type, is not contiguous, or is no array.
        ValueError: sizes that do not fit together, or an unknown target; the message names the array.
    """
    _check_types(scores, kernels, size, out)
    if _native is None:
        if target is not None:
            raise ValueError(f"[skip_head] target is '{target}'; the compiled kernel is not built, leave target out")
        labels = skip_head_numpy(scores, kernels, size, threads)
        if out is None:
            return labels
        _check_out(out, labels.shape)
        out[...] = labels
        return out
    if out is None:
        batch = scores[0].shape[0] if scores else 0
        sides = [side if 0 < side <= _MAX_SIDE else 0 for side in size]  # a size that is refused below
        out = np.empty((batch, *sides), np.uint8)
    _native.skip_head(
        list(scores), list(kernels), (operator.index(size[0]), operator.index(size[1])), out, threads, target
    )
    return out


def skip_head_numpy(
    scores: Sequence[Floats], kernels: Sequence[Floats], size: tuple[int, int], threads: int = 1
) -> Labels:
    """Reference of ``skip_head`` in NumPy: same arguments, same labels, same errors; always one thread."""
    _check_types(scores, kernels, size, None)
    _check_sizes(scores, kernels, size, threads)
    total = scores[0]
    for kernel, finer in zip(kernels[:-1], scores[1:], strict=True):
        total = transposed_convolution_numpy(total, kernel) + finer
    height, width = size
    best = np.full((total.shape[0], height, width), -np.inf, np.float32)
    labels = np.zeros(best.shape, np.uint8)
    for c in range(
        total.shape[1]
    ):  # class by class, so that the full-resolution sums of all classes never exist at once
        values = transposed_convolution_numpy(total[:, c : c + 1], kernels[-1][c : c + 1])[:, 0, :height, :width]
        better = values > best  # False for NaN and for a tie
        best[better] = values[better]
        labels[better] = c
    return labels


def transposed_convolution_numpy(maps: Floats, kernels: Floats) -> Floats:
    """Depthwise transposed convolution with kernel 2s, stride s, padding s/2: ``[N, C, h, w]`` to ``[N, C, sh, sw]``.

    Cell (i, j) of the result holds the s x s pixels that lie between source pixels i-1 and i, j-1 and j; each of its
    pixels is the sum of these four, weighted by the kernel at its place in the cell. Cells start half a cell early.
    """
    n, c, h, w = maps.shape
    s = kernels.shape[-1] // 2
    padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))[:, :, :, None, :, None]
    taps = kernels.reshape(c, 2, s, 2, s)

    def tap(row: int, column: int) -> Floats:
        return taps[:, row, :, column].reshape(1, c, 1, s, 1, s)

    cells = padded[:, :, 1:, :, 1:] * tap(0, 0)
    cells += padded[:, :, 1:, :, :-1] * tap(0, 1)
    cells += padded[:, :, :-1, :, 1:] * tap(1, 0)
    cells += padded[:, :, :-1, :, :-1] * tap(1, 1)
    full = cells.reshape(n, c, (h + 1) * s, (w + 1) * s)
    return full[:, :, s // 2 : s // 2 + h * s, s // 2 : s // 2 + w * s]


def _check_types(scores: Sequence[Any], kernels: Sequence[Any], size: tuple[int, int], out: Any) -> None:
    for name, arrays in (("scores", scores), ("kernels", kernels)):
        for i, array in enumerate(arrays):
            _check_array(f"{name}[{i}]", array, np.float32, 4)
    if out is not None:
        _check_array("out", out, np.uint8, 3)
        if not out.flags.writeable:
            raise ValueError("[skip_head] out is read-only; it must be writable")
    if len(size) != 2:
        raise ValueError(f"[skip_head] size is {size}; expected (height, width)")


def _check_array(name: str, array: Any, dtype: type, ndim: int) -> None:
    wanted = np.dtype(dtype)
    if not isinstance(array, np.ndarray):
        raise TypeError(f"[skip_head] {name} is a {type(array).__name__}; expected a NumPy array of {wanted}")
    if array.dtype != wanted:
        raise TypeError(f"[skip_head] {name} is {array.dtype}; expected {wanted}")
    if array.ndim != ndim:
        raise TypeError(f"[skip_head] {name} has {array.ndim} axes; expected {ndim}")
    if not array.flags.c_contiguous:
        raise TypeError(f"[skip_head] {name} is strided; expected C-contiguous: pass np.ascontiguousarray({name})")


def _check_out(out: Labels, shape: tuple[int, ...]) -> None:
    if out.shape != shape:
        raise ValueError(f"[skip_head] out is {list(out.shape)}; expected {list(shape)}")


def _check_sizes(scores: Sequence[Floats], kernels: Sequence[Floats], size: tuple[int, int], threads: int) -> None:
    """The checks of ``skip_head_shape`` in cpp_plugins, in the same order and words."""
    n = len(scores)
    if n != len(kernels) or not 1 <= n <= MAX_STAGES:
        raise ValueError(
            f"[skip_head] got {n} score maps and {len(kernels)} kernels; expected 1 to 4 of each, equally many"
        )
    for i, maps in enumerate(scores):
        if not all(1 <= side <= _MAX_SIDE for side in maps.shape):
            raise ValueError(f"[skip_head] scores[{i}] is {list(maps.shape)}; every side must be 1 to {_MAX_SIDE}")
    classes = scores[0].shape[1]
    if classes > MAX_CLASSES:
        raise ValueError(f"[skip_head] scores have {classes} channels; expected 1 to 256")
    for i in range(1, n):
        for axis, unit in ((0, "images"), (1, "channels")):
            if scores[i].shape[axis] != scores[0].shape[axis]:
                raise ValueError(
                    f"[skip_head] scores[0] has {scores[0].shape[axis]} {unit}, scores[{i}] has "
                    f"{scores[i].shape[axis]}; they must be equal"
                )
        h, w = scores[i].shape[2:]
        coarse_h, coarse_w = scores[i - 1].shape[2:]
        if (h, w) != (2 * coarse_h, 2 * coarse_w):
            raise ValueError(
                f"[skip_head] scores[{i}] is {h}x{w}; expected {2 * coarse_h}x{2 * coarse_w}, "
                f"twice as fine as scores[{i - 1}]"
            )
    side = kernels[-1].shape[2]
    for i, kernel in enumerate(kernels):
        last = i == n - 1
        square = kernel.shape == (classes, 1, side, side) if last else kernel.shape == (classes, 1, 4, 4)
        if not square or (last and not (4 <= side <= _MAX_SIDE and side & (side - 1) == 0)):
            wanted = "1, 2s, 2s] with s a power of two, at least 2" if last else "1, 4, 4]"
            raise ValueError(f"[skip_head] kernels[{i}] is {list(kernel.shape)}; expected [{classes}, {wanted}")
    full_h, full_w = (min(side // 2 * extent, _MAX_SIDE) for extent in scores[-1].shape[2:])
    if not (1 <= size[0] <= full_h and 1 <= size[1] <= full_w):
        raise ValueError(f"[skip_head] size is {size[0]}x{size[1]}; expected 1x1 to {full_h}x{full_w}")
    if threads < 1:
        raise ValueError(f"[skip_head] threads is {threads}; expected at least 1")
