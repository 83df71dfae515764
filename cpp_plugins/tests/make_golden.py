"""Writes skip_head_golden.txt, small integer cases whose labels are exact in any arithmetic; run it to add a case.

The format is words between white space: ``case NAME``, then ``batch classes stages stride out_h out_w coarse_h
coarse_w``, the scores coarse to fine, the kernels, and the labels, all in C order. ``#`` starts a comment that ends
with its line.
tests/test_skip_head.py works the labels out again from the definition, by another way than the one used here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fcn_edge.skip_head import skip_head_numpy

# name, batch, classes, stages, stride, size, coarsest grid
CASES = [
    ("fcn32s", 1, 3, 1, 32, (61, 90), (2, 3)),
    ("fcn16s", 1, 4, 2, 16, (64, 64), (2, 2)),
    ("fcn8s", 1, 5, 3, 8, (57, 61), (2, 2)),
    ("fcn8s_full_batch", 2, 3, 3, 8, (32, 64), (1, 2)),
    ("fcn4s", 1, 4, 4, 4, (30, 63), (1, 2)),
    ("stride_two_odd", 1, 6, 2, 2, (7, 13), (2, 4)),
    ("one_class", 1, 1, 2, 4, (9, 15), (2, 2)),
    ("one_pixel", 1, 7, 1, 8, (1, 1), (1, 1)),
    ("wide", 1, 3, 3, 8, (5, 203), (1, 7)),
    ("all_ids", 1, 256, 1, 4, (4, 64), (1, 16)),
]


def _case(rng: np.random.Generator, name: str, n: int, c: int, stages: int, s: int, grid: tuple[int, int]) -> tuple:
    # Few values over many pixels: ties are common, and sums stay far below 2**24.
    sides = [(grid[0] << i, grid[1] << i) for i in range(stages)]
    scores = [rng.integers(-3, 4, (n, c, h, w)).astype(np.float32) for h, w in sides]
    kernels = [rng.integers(-2, 3, (c, 1, 4, 4)).astype(np.float32) for _ in range(stages - 1)]
    kernels.append(rng.integers(-2, 3, (c, 1, 2 * s, 2 * s)).astype(np.float32))
    if name == "all_ids":  # class 16j + k wins in the columns of cell j, so that every sixteenth id appears, and 255
        scores[0][:] = 0
        for j in range(16):
            scores[0][0, min(16 * j + 15, 255), 0, j] = 9
        kernels[0][:] = 1
    return scores, kernels


def _special() -> list[tuple]:
    """NaN and infinities: class 0 is NaN on the left, everything on the right, class 2 is infinite at the bottom."""
    scores = np.zeros((1, 3, 4, 6), np.float32)
    scores[0, 1] = 1
    scores[0, 0, :, :2] = np.nan
    scores[0, :, :2, 4:] = np.nan
    scores[0, 2, 3, :3] = np.inf
    scores[0, :, 0, 0] = -np.inf
    return [("nan_and_infinity", [scores], [np.ones((3, 1, 4, 4), np.float32)], (8, 12))]


def _words(array: np.ndarray) -> str:
    words = [str(int(v)) if np.isfinite(v) else str(v) for v in array.ravel().tolist()]
    return "\n".join(" ".join(words[i : i + 40]) for i in range(0, len(words), 40))


def main() -> None:
    """Write the file beside this one."""
    rng = np.random.default_rng(8)
    cases = [(name, *_case(rng, name, n, c, k, s, grid), size) for name, n, c, k, s, size, grid in CASES]
    lines = ["# Golden tables of the skip head, written by make_golden.py, which describes the format."]
    for name, scores, kernels, size in cases + _special():
        labels = skip_head_numpy(scores, kernels, size)
        n, c, h, w = scores[0].shape
        lines += [f"case {name}", f"{n} {c} {len(scores)} {kernels[-1].shape[-1] // 2} {size[0]} {size[1]} {h} {w}"]
        lines += [_words(array) for array in (*scores, *kernels, labels)]
    Path(__file__).with_name("skip_head_golden.txt").write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
