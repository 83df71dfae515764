"""The CUDA skip head: golden tables, every stage count, odd crops; its threads run on the host, and on a GPU if any."""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fcn_edge.skip_head import skip_head_numpy, transposed_convolution_numpy

ROOT = Path(__file__).parents[2]
CPP = ROOT / "cpp_plugins"
GOLDEN = CPP / "tests" / "skip_head_golden.txt"
GUARD = 256
Head = Callable[..., np.ndarray]


def golden_cases() -> dict[str, tuple[list, list, tuple[int, int], np.ndarray]]:
    lines = GOLDEN.read_text(encoding="ascii").splitlines()
    words = iter(" ".join(line for line in lines if not line.startswith("#")).split())

    def floats(*shape: int) -> np.ndarray:
        return np.array(list(itertools.islice(words, int(np.prod(shape)))), np.float32).reshape(shape)

    cases = {}
    for word in words:
        assert word == "case"
        name = next(words)
        n, c, stages, s, out_h, out_w, h, w = (int(next(words)) for _ in range(8))
        scores = [floats(n, c, h << i, w << i) for i in range(stages)]
        kernels = [floats(c, 1, 4, 4) for _ in range(stages - 1)] + [floats(c, 1, 2 * s, 2 * s)]
        cases[name] = scores, kernels, (out_h, out_w), floats(n, out_h, out_w)
    return cases


GOLDEN_CASES = golden_cases()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    target = tmp_path_factory.mktemp("tile") / "tile.so"
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined", "-fno-sanitize-recover=all"]
    source = Path(__file__).with_name("skip_head_tile_host.cpp")
    folders = [f"-I{CPP / 'include'}", f"-I{CPP / 'src'}"]
    subprocess.run([compiler, *flags, *folders, "-shared", "-fPIC", source, "-o", target], check=True)
    return ctypes.CDLL(str(target))


def sizes_of(scores: list, kernels: list, size: tuple[int, int]) -> ctypes.Array:
    n, c, h, w = scores[0].shape
    return (ctypes.c_int * 8)(n, c, len(scores), kernels[-1].shape[-1] // 2, *size, h, w)


def labels_on_host(
    library: ctypes.CDLL, scores: list, kernels: list, size: tuple[int, int], backwards: bool = False
) -> np.ndarray:
    arrays = [np.ascontiguousarray(array) for array in (*scores, *kernels)]
    pointers = [array.ctypes.data for array in arrays]
    n = len(scores)
    halves = (scores[0].dtype == np.float16) + 2 * (kernels[0].dtype == np.float16)
    count = scores[0].shape[0] * size[0] * size[1]
    guarded = np.full(count + 2 * GUARD, 77, np.uint8)
    broken = library.skip_head_tile_host(
        sizes_of(scores, kernels, size),
        (ctypes.c_void_p * n)(*pointers[:n]),
        (ctypes.c_void_p * n)(*pointers[n:]),
        ctypes.c_void_p(guarded.ctypes.data + GUARD),
        int(halves),
        int(backwards),
    )
    assert broken == 0, "a thread wrote beside the block's shared memory"
    assert (guarded[:GUARD] == 77).all()
    assert (guarded[-GUARD:] == 77).all()
    return guarded[GUARD:-GUARD].reshape(scores[0].shape[0], *size)


def labels_on_gpu(launcher, scores: list, kernels: list, size: tuple[int, int], backwards: bool = False) -> np.ndarray:
    import torch

    on_gpu = [[torch.from_numpy(array).cuda() for array in arrays] for arrays in (scores, kernels)]
    count = scores[0].shape[0] * size[0] * size[1]
    guarded = torch.full((count + 2 * GUARD,), 77, dtype=torch.uint8, device="cuda")
    labels = guarded[GUARD:-GUARD].view(scores[0].shape[0], *size)
    launcher(*on_gpu, size, labels, torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    assert (guarded[:GUARD] == 77).all()
    assert (guarded[-GUARD:] == 77).all()
    return labels.cpu().numpy()


@pytest.fixture(params=["host", pytest.param("gpu", marks=pytest.mark.gpu("torch"))])
def head(request: pytest.FixtureRequest) -> Head:
    """What labels: the kernel's threads in a loop on the host, or the kernel."""
    if request.param == "host":
        return partial(labels_on_host, request.getfixturevalue("library"))
    from fcn_edge.benchmarks.cuda_launcher import open_launcher

    return partial(labels_on_gpu, open_launcher(request.getfixturevalue("cuda_library")))


def whole_number_case(
    rng: np.random.Generator, n: int, c: int, s: int, batch: int = 1, grid: tuple[int, int] | None = None
) -> tuple[list, list, tuple[int, int]]:
    """Small integers: exact in every arithmetic, half precision too, with ties on many pixels."""
    h, w = grid or (int(rng.integers(1, 4)), int(rng.integers(1, 5)))
    scores = [rng.integers(-3, 4, (batch, c, h << i, w << i)).astype(np.float32) for i in range(n)]
    sides = [4] * (n - 1) + [2 * s]
    kernels = [rng.integers(-2, 3, (c, 1, side, side)).astype(np.float32) for side in sides]
    full = s * h << (n - 1), s * w << (n - 1)
    return scores, kernels, (int(rng.integers(1, full[0] + 1)), int(rng.integers(1, full[1] + 1)))


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("case", GOLDEN_CASES.values(), ids=GOLDEN_CASES.keys())
def test_golden_tables_are_exact(head: Head, case, backwards: bool) -> None:
    scores, kernels, size, labels = case
    np.testing.assert_array_equal(head(scores, kernels, size, backwards), labels)


@pytest.mark.parametrize("s", [2, 4, 8, 16, 32, 128])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_whole_numbers_are_exact_at_any_crop(head: Head, n: int, s: int) -> None:
    rng = np.random.default_rng(100 * n + s)
    for trial in range(4):
        scores, kernels, size = whole_number_case(rng, n, int(rng.integers(1, 23)), s, batch=1 + trial % 2)
        size = min(size[0], 300), min(size[1], 333)
        expected = skip_head_numpy(scores, kernels, size)
        np.testing.assert_array_equal(head(scores, kernels, size, bool(trial % 2)), expected)
        halves = [array.astype(np.float16) for array in scores], [array.astype(np.float16) for array in kernels]
        np.testing.assert_array_equal(head(*halves, size), expected)
        np.testing.assert_array_equal(head(halves[0], kernels, size), expected)
        np.testing.assert_array_equal(head(scores, halves[1], size), expected)


@pytest.mark.parametrize("size", [(64, 64), (63, 65), (61, 127), (1, 129), (129, 1), (100, 160)])
@pytest.mark.parametrize(("n", "s"), [(1, 32), (2, 16), (3, 8), (4, 4), (2, 2)])
def test_crops_around_the_edges_of_blocks(head: Head, n: int, s: int, size: tuple[int, int]) -> None:
    stride = s << (n - 1)
    grid = -(-size[0] // stride), -(-size[1] // stride)
    scores, kernels, _ = whole_number_case(np.random.default_rng(5), n, 5, s, grid=grid)
    np.testing.assert_array_equal(head(scores, kernels, size), skip_head_numpy(scores, kernels, size))


@pytest.mark.parametrize(("classes", "s"), [(256, 2), (256, 8), (200, 4), (19, 2)])
def test_classes_that_do_not_fit_at_once(library, head: Head, classes: int, s: int) -> None:
    """Shared memory holds some classes at a time; the running maximum goes on, the lowest id still wins a tie."""
    scores, kernels, size = whole_number_case(np.random.default_rng(classes + s), 3, classes, s, grid=(2, 3))
    plan = (ctypes.c_int64 * 4)()
    library.skip_head_tile_plan(sizes_of(scores, kernels, size), plan)
    assert plan[2] < classes
    expected = skip_head_numpy(scores, kernels, size)
    assert expected.max() >= plan[2], "the case has no winner beyond the first pass"
    np.testing.assert_array_equal(head(scores, kernels, size), expected)
    equal = [np.ones_like(array) for array in scores], [np.ones_like(array) for array in kernels]
    assert not head(*equal, size).any()


@pytest.mark.parametrize("half", [False, True])
def test_nan_and_infinity(head: Head, half: bool) -> None:
    scores, kernels, size = whole_number_case(np.random.default_rng(9), 3, 4, 8, grid=(3, 4))
    scores[2][0, 0, 3:6, 2:9] = np.nan
    scores[1][0, 2, :, 1] = np.inf
    scores[1][0, 1, 2, :] = -np.inf
    scores[0][0, :, 2, 3] = np.nan
    with np.errstate(invalid="ignore"):
        expected = skip_head_numpy(scores, kernels, size)
    if half:
        scores = [array.astype(np.float16) for array in scores]
    np.testing.assert_array_equal(head(scores, kernels, size), expected)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_random_numbers_agree_but_for_ties(head: Head, n: int, dtype: type) -> None:
    rng = np.random.default_rng(n)
    s = 32 >> (n - 1)
    scores, kernels, size = whole_number_case(rng, n, 11, s, grid=(3, 4))
    scores = [rng.standard_normal(array.shape).astype(dtype) for array in scores]
    kernels = [rng.standard_normal(array.shape).astype(dtype) for array in kernels]
    got = head(scores, kernels, size)
    # Sums are in FP32 whatever the inputs are, so the widened inputs are the whole truth.
    total = scores[0].astype(np.float32)
    for kernel, finer in zip(kernels[:-1], scores[1:], strict=True):
        total = transposed_convolution_numpy(total, kernel.astype(np.float32)) + finer.astype(np.float32)
    logits = transposed_convolution_numpy(total, kernels[-1].astype(np.float32))[:, :, : size[0], : size[1]]
    chosen = np.take_along_axis(logits, got[:, None].astype(np.int64), axis=1)[:, 0]
    assert (logits.max(1) - chosen).max() <= 1e-5 * np.abs(logits).max()


def test_plan_of_a_common_picture(library) -> None:
    """The figures that the kernel's banner gives."""
    sizes = (ctypes.c_int * 8)(1, 19, 3, 8, 512, 1024, 16, 32)
    plan = (ctypes.c_int64 * 4)()
    library.skip_head_tile_plan(sizes, plan)
    assert list(plan) == [16, 17, 19, 9880]
