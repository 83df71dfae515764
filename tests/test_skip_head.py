"""The skip head: golden tables, torch as a second opinion, ties, NaN, threads, and what is refused."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fcn_edge import skip_head as module
from fcn_edge.skip_head import native_targets, skip_head, skip_head_numpy

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "cpp_plugins" / "tests" / "skip_head_golden.txt"

Head = Callable[..., np.ndarray]
IMPLEMENTATIONS: dict[str, Head] = {"numpy": skip_head_numpy}
for _target, _threads in itertools.product(native_targets(), (1, 3)):

    def _native(scores, kernels, size, target=_target, threads=_threads):
        return skip_head(scores, kernels, size, threads, target=target)

    IMPLEMENTATIONS[f"{_target}-{_threads}"] = _native

every_implementation = pytest.mark.parametrize("head", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS.keys())


def _golden_cases() -> Iterator[tuple[str, list, list, tuple[int, int], np.ndarray]]:
    lines = GOLDEN.read_text(encoding="ascii").splitlines()
    words = iter(" ".join(line for line in lines if not line.startswith("#")).split())

    def floats(*shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        return np.array(list(itertools.islice(words, count)), np.float32).reshape(shape)

    for word in words:
        assert word == "case"
        name = next(words)
        n, c, stages, s, out_h, out_w, h, w = (int(next(words)) for _ in range(8))
        scores = [floats(n, c, h << i, w << i) for i in range(stages)]
        kernels = [floats(c, 1, 4, 4) for _ in range(stages - 1)] + [floats(c, 1, 2 * s, 2 * s)]
        yield name, scores, kernels, (out_h, out_w), floats(n, out_h, out_w)


GOLDEN_CASES = {case[0]: case[1:] for case in _golden_cases()}
every_golden_case = pytest.mark.parametrize("case", GOLDEN_CASES.values(), ids=GOLDEN_CASES.keys())


def _random_case(
    rng: np.random.Generator, n: int, c: int, s: int, batch: int = 1
) -> tuple[list, list, tuple[int, int]]:
    h, w = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    scores = [rng.standard_normal((batch, c, h << i, w << i)).astype(np.float32) for i in range(n)]
    kernels = [rng.standard_normal((c, 1, 4, 4)).astype(np.float32) for _ in range(n - 1)]
    kernels.append(rng.standard_normal((c, 1, 2 * s, 2 * s)).astype(np.float32))
    full_h, full_w = s * h << (n - 1), s * w << (n - 1)
    return (
        scores,
        kernels,
        (int(rng.integers(full_h // 2 + 1, full_h + 1)), int(rng.integers(full_w // 2 + 1, full_w + 1))),
    )


def _scattered(maps: np.ndarray, kernels: np.ndarray, s: int) -> np.ndarray:
    """Transposed convolution by its definition: every source pixel adds its kernel to what it covers. float64."""
    n, c, h, w = maps.shape
    full = np.zeros((n, c, (h + 1) * s, (w + 1) * s))
    for i, j in itertools.product(range(h), range(w)):
        full[:, :, i * s : (i + 2) * s, j * s : (j + 2) * s] += maps[:, :, i, j, None, None] * kernels[:, 0].astype(
            float
        )
    return full[:, :, s // 2 : s // 2 + s * h, s // 2 : s // 2 + s * w]


def _logits(scores: list, kernels: list, size: tuple[int, int]) -> np.ndarray:
    torch = pytest.importorskip("torch")
    convolve = torch.nn.functional.conv_transpose2d
    groups = scores[0].shape[1]
    total = torch.from_numpy(scores[0])
    for kernel, finer in zip(kernels[:-1], scores[1:], strict=True):
        total = convolve(total, torch.from_numpy(kernel), stride=2, padding=1, groups=groups) + torch.from_numpy(finer)
    s = kernels[-1].shape[-1] // 2
    full = convolve(total, torch.from_numpy(kernels[-1]), stride=s, padding=s // 2, groups=groups)
    return full[:, :, : size[0], : size[1]].numpy()


def _wrong_pixels(labels: np.ndarray, logits: np.ndarray, tolerance: float = 1e-4) -> int:
    """Pixels whose label is not the best class within the tolerance, relative to the size of the logits there."""
    chosen = np.take_along_axis(logits, labels[:, None].astype(np.int64), axis=1)[:, 0]
    return int((logits.max(1) - chosen > tolerance * np.maximum(1, np.abs(logits).max(1))).sum())


def test_the_kernel_was_built():
    assert native_targets(), "fcn_edge._native is missing: this installation would run the slow reference"


@every_golden_case
def test_golden_tables_follow_from_the_definition(case):
    scores, kernels, size, labels = case
    total = scores[0]
    with np.errstate(invalid="ignore"):
        for kernel, finer in zip(kernels[:-1], scores[1:], strict=True):
            total = _scattered(total, kernel, 2) + finer
        full = _scattered(total, kernels[-1], kernels[-1].shape[-1] // 2)[:, :, : size[0], : size[1]]
    np.testing.assert_array_equal(np.where(np.isnan(full), -np.inf, full).argmax(1), labels)


@every_golden_case
@every_implementation
def test_golden_tables_are_exact(head: Head, case):
    scores, kernels, size, labels = case
    got = head(scores, kernels, size)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, labels)


def test_golden_tables_hold_ties_nan_and_the_last_id():
    assert np.isnan(GOLDEN_CASES["nan_and_infinity"][0][0]).any()
    assert GOLDEN_CASES["all_ids"][3].max() == 255
    scores, kernels, size, labels = GOLDEN_CASES["fcn32s"]
    full = _scattered(scores[0], kernels[0], 32)[:, :, : size[0], : size[1]]
    assert ((full == full.max(1, keepdims=True)).sum(1) > 1).any(), "no ties"
    assert len(np.unique(labels)) == 3


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@every_implementation
def test_random_cases_agree_with_torch(head: Head, n: int):
    rng = np.random.default_rng(n)
    for c, s in [(1, 2), (2, 4), (11, 8), (19, 8), (21, 16), (256, 4), (5, 32), (3, 64)]:
        scores, kernels, size = _random_case(rng, n, c, s, batch=2 if c < 20 else 1)
        labels = head(scores, kernels, size)
        assert labels.shape == (scores[0].shape[0], *size)
        assert _wrong_pixels(labels, _logits(scores, kernels, size)) == 0


def test_a_slightly_wrong_kernel_is_noticed():
    scores, kernels, size = _random_case(np.random.default_rng(5), 3, 19, 8)
    logits = _logits(scores, kernels, size)
    perturbed = [*kernels[:-1], kernels[-1] * np.float32(1) + np.float32(0.02)]
    assert _wrong_pixels(skip_head(scores, perturbed, size), logits) > 0


@every_implementation
def test_every_crop_keeps_the_top_left(head: Head):
    scores, kernels, _ = _random_case(np.random.default_rng(2), 2, 3, 4)
    h, w = (4 * side for side in scores[1].shape[2:])
    full = head(scores, kernels, (h, w))
    for size in [(1, 1), (1, w), (h, 1), (h - 1, w - 1), (h // 2, w - 3), (3, 5)]:
        np.testing.assert_array_equal(head(scores, kernels, size), full[:, : size[0], : size[1]])


@every_implementation
def test_a_tie_goes_to_the_lowest_id_and_nan_never_wins(head: Head):
    scores = np.zeros((1, 4, 2, 2), np.float32)
    kernels = [np.ones((4, 1, 4, 4), np.float32)]
    assert (head([scores], kernels, (4, 4)) == 0).all()
    scores[:, 2:] = 1
    assert (head([scores], kernels, (4, 4)) == 2).all()
    scores[:, 2] = np.nan
    assert (head([scores], kernels, (4, 4)) == 3).all()
    scores[:, 0] = np.nan
    scores[:, 3] = -1
    assert (head([scores], kernels, (4, 4)) == 1).all()
    scores[:] = np.nan
    assert (head([scores], kernels, (4, 4)) == 0).all()


@pytest.mark.parametrize("threads", [2, 5, 64])
def test_labels_do_not_depend_on_the_number_of_threads(threads: int):
    rng = np.random.default_rng(threads)
    for n, c, s, batch in [(1, 3, 32, 1), (3, 11, 8, 3), (4, 2, 4, 1)]:
        scores, kernels, size = _random_case(rng, n, c, s, batch)
        np.testing.assert_array_equal(skip_head(scores, kernels, size, threads), skip_head(scores, kernels, size))


def test_out_is_written_and_returned():
    scores, kernels, size, labels = GOLDEN_CASES["fcn8s"]
    out = np.full((1, *size), 99, np.uint8)
    assert skip_head(scores, kernels, size, out=out) is out
    np.testing.assert_array_equal(out, labels)
    with pytest.raises(ValueError, match=r"out is \[1, 57, 60\]; expected \[1, 57, 61\]"):
        skip_head(scores, kernels, size, out=np.zeros((1, 57, 60), np.uint8))
    with pytest.raises(TypeError, match=r"out is int8; expected uint8"):
        skip_head(scores, kernels, size, out=np.zeros((1, *size), np.int8))
    with pytest.raises(TypeError, match=r"out is strided"):
        skip_head(scores, kernels, size, out=np.zeros((1, 57, 122), np.uint8)[:, :, ::2])
    out.setflags(write=False)
    with pytest.raises(ValueError, match=r"out is read-only"):
        skip_head(scores, kernels, size, out=out)


def test_inputs_may_be_read_only():
    scores, kernels, size, labels = GOLDEN_CASES["fcn8s"]
    frozen = [array.copy() for array in scores]
    for array in frozen:
        array.setflags(write=False)
    np.testing.assert_array_equal(skip_head(frozen, kernels, size), labels)


def test_without_the_compiled_kernel_the_reference_answers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_native", None)
    scores, kernels, size, labels = GOLDEN_CASES["fcn8s"]
    assert native_targets() == ()
    out = np.empty(labels.shape, np.uint8)
    assert skip_head(scores, kernels, size, 2, out=out) is out
    np.testing.assert_array_equal(out, labels)
    with pytest.raises(ValueError, match="the compiled kernel is not built"):
        skip_head(scores, kernels, size, target="x86-64")


def _zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


# name: scores, kernels, size, threads, message
REFUSED = {
    "none": ([], [], (4, 4), 1, r"got 0 score maps and 0 kernels; expected 1 to 4 of each"),
    "count": ([_zeros(1, 3, 2, 2)], [], (4, 4), 1, r"got 1 score maps and 0 kernels"),
    "five": ([_zeros(1, 1, 1, 1)] * 5, [_zeros(1, 1, 4, 4)] * 5, (2, 2), 1, r"got 5 score maps"),
    "empty": ([_zeros(1, 3, 0, 2)], [_zeros(3, 1, 4, 4)], (1, 1), 1, r"scores\[0\] is \[1, 3, 0, 2\]; every side"),
    "classes": ([_zeros(1, 257, 1, 1)], [_zeros(257, 1, 4, 4)], (2, 2), 1, r"have 257 channels; expected 1 to 256"),
    "channels": (
        [_zeros(1, 20, 2, 2), _zeros(1, 21, 4, 4)],
        [_zeros(20, 1, 4, 4)] * 2,
        (8, 8),
        1,
        r"scores\[0\] has 20 channels, scores\[1\] has 21; they must be equal",
    ),
    "batch": (
        [_zeros(1, 2, 2, 2), _zeros(2, 2, 4, 4)],
        [_zeros(2, 1, 4, 4)] * 2,
        (8, 8),
        1,
        r"scores\[0\] has 1 images, scores\[1\] has 2",
    ),
    "grid": (
        [_zeros(1, 2, 2, 2), _zeros(1, 2, 4, 5)],
        [_zeros(2, 1, 4, 4)] * 2,
        (8, 8),
        1,
        r"scores\[1\] is 4x5; expected 4x4, twice as fine as scores\[0\]",
    ),
    "step": (
        [_zeros(1, 2, 2, 2), _zeros(1, 2, 4, 4)],
        [_zeros(2, 1, 8, 8), _zeros(2, 1, 4, 4)],
        (8, 8),
        1,
        r"kernels\[0\] is \[2, 1, 8, 8\]; expected \[2, 1, 4, 4\]",
    ),
    "power": (
        [_zeros(1, 2, 2, 2)],
        [_zeros(2, 1, 12, 12)],
        (8, 8),
        1,
        r"expected \[2, 1, 2s, 2s\] with s a power of two",
    ),
    "oblong": ([_zeros(1, 2, 2, 2)], [_zeros(2, 1, 4, 8)], (4, 4), 1, r"kernels\[0\] is \[2, 1, 4, 8\]; expected"),
    "depth": (
        [_zeros(1, 2, 2, 2)],
        [_zeros(3, 1, 4, 4)],
        (4, 4),
        1,
        r"kernels\[0\] is \[3, 1, 4, 4\]; expected \[2, 1",
    ),
    "tall": ([_zeros(1, 2, 2, 3)], [_zeros(2, 1, 4, 4)], (5, 4), 1, r"size is 5x4; expected 1x1 to 4x6"),
    "zero": ([_zeros(1, 2, 2, 3)], [_zeros(2, 1, 4, 4)], (4, 0), 1, r"size is 4x0; expected 1x1 to 4x6"),
    "negative": ([_zeros(1, 2, 2, 3)], [_zeros(2, 1, 4, 4)], (-1, 4), 1, r"size is -1x4; expected"),
    "huge": ([_zeros(1, 2, 2, 3)], [_zeros(2, 1, 4, 4)], (10**6, 10**6), 1, r"size is 1000000x1000000; expected"),
    "threads": ([_zeros(1, 2, 2, 3)], [_zeros(2, 1, 4, 4)], (4, 6), 0, r"threads is 0; expected at least 1"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_bad_sizes_are_refused_in_the_same_words(case):
    scores, kernels, size, threads, message = case
    told = []
    for head in (skip_head, skip_head_numpy):
        with pytest.raises(ValueError, match=message) as caught:
            head(scores, kernels, size, threads)
        told.append(str(caught.value))
    assert told[0] == told[1]
    assert told[0].startswith("[skip_head] ")


@pytest.mark.parametrize("head", [skip_head, skip_head_numpy])
def test_wrong_types_are_refused_by_name(head: Head):
    scores, kernels = [_zeros(1, 3, 2, 4), _zeros(1, 3, 4, 8)], [_zeros(3, 1, 4, 4), _zeros(3, 1, 16, 16)]
    wide = _zeros(1, 3, 4, 16)[:, :, :, ::2]
    for replaced, message in [
        (
            wide,
            r"\[skip_head\] scores\[1\] is strided; expected C-contiguous: pass np.ascontiguousarray\(scores\[1\]\)",
        ),
        (scores[1].astype(np.float64), r"\[skip_head\] scores\[1\] is float64; expected float32"),
        (scores[1].astype(np.float16), r"\[skip_head\] scores\[1\] is float16; expected float32"),
        (scores[1].astype(">f4"), r"\[skip_head\] scores\[1\] is >f4; expected float32|expected float32"),
        (scores[1][0], r"\[skip_head\] scores\[1\] has 3 axes; expected 4"),
        (scores[1].tolist(), r"\[skip_head\] scores\[1\] is a list; expected a NumPy array"),
        (None, r"\[skip_head\] scores\[1\] is a NoneType; expected a NumPy array"),
    ]:
        with pytest.raises(TypeError, match=message):
            head([scores[0], replaced], kernels, (32, 64))
    with pytest.raises(TypeError, match=r"\[skip_head\] kernels\[0\] is int32; expected float32"):
        head(scores, [kernels[0].astype(np.int32), kernels[1]], (32, 64))
    with pytest.raises(ValueError, match=r"\[skip_head\] size is \(32,\); expected \(height, width\)"):
        head(scores, kernels, (32,))


def test_a_size_that_is_no_whole_number_is_refused():
    scores, kernels = [_zeros(1, 3, 2, 4)], [_zeros(3, 1, 8, 8)]
    with pytest.raises(TypeError):
        skip_head(scores, kernels, (7.9, 8), out=np.zeros((1, 7, 8), np.uint8))  # type: ignore[arg-type]


def test_the_binding_itself_refuses_what_it_cannot_read():
    native = pytest.importorskip("fcn_edge._native")
    scores, kernels, out = _zeros(1, 3, 2, 4), _zeros(3, 1, 4, 4), np.zeros((1, 4, 8), np.uint8)
    native.skip_head([scores], [kernels], (4, 8), out)
    for bad in [scores.astype(np.float64), _zeros(1, 3, 2, 8)[:, :, :, ::2], scores[0]]:
        with pytest.raises(TypeError):
            native.skip_head([bad], [kernels], (4, 8), out)
    with pytest.raises(TypeError):
        native.skip_head([scores], [kernels], (4, 8), np.zeros((1, 4, 16), np.uint8)[:, :, ::2])


def test_an_unknown_target_is_refused():
    if not native_targets():
        pytest.skip("the compiled kernel is not built")
    scores, kernels, size, _ = GOLDEN_CASES["fcn8s"]
    with pytest.raises(
        ValueError, match=r"\[skip_head\] target is 'mmx'; this machine can run .*" + native_targets()[-1]
    ):
        skip_head(scores, kernels, size, target="mmx")


def _lacking(*programs: str) -> str:
    return ", ".join(program for program in programs if shutil.which(program) is None)


@pytest.mark.skipif(bool(_lacking("cmake", "c++", "nm")), reason=f"needs {_lacking('cmake', 'c++', 'nm')}")
def test_golden_tables_in_cpp(tmp_path: Path):
    configure = ["cmake", "-S", ROOT / "cpp_plugins", "-B", tmp_path, "-DFCN_EDGE_PYTHON=OFF", "-DFCN_EDGE_TESTS=ON"]
    subprocess.run(configure, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", tmp_path], check=True, capture_output=True)
    done = subprocess.run([tmp_path / "skip_head_golden", GOLDEN], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(GOLDEN_CASES)} cases, 0 wrong pixels" in done.stdout

    done = subprocess.run([tmp_path / "skip_head_memory"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    for kernel in tmp_path.rglob("skip_head_cpu.cpp.o"):
        symbols = subprocess.run(["nm", kernel], check=True, capture_output=True, text=True).stdout
        shared = [line for line in symbols.splitlines() if line.split()[-2] in {"W", "V", "u"}]
        assert not shared, f"the linker may give these to code for a lesser instruction set: {shared}"

    broken = tmp_path / "broken.txt"
    text = GOLDEN.read_text(encoding="ascii").rstrip()
    broken.write_text(text[:-1] + str((int(text[-1]) + 1) % 10) + "\n", encoding="ascii")
    assert subprocess.run([tmp_path / "skip_head_golden", broken], check=False, capture_output=True).returncode == 1


_AARCH64 = ("make", "cmake", "aarch64-linux-gnu-g++", "qemu-aarch64")


@pytest.mark.skipif(bool(_lacking(*_AARCH64)), reason=f"needs {_lacking(*_AARCH64)}")
def test_golden_tables_on_aarch64(tmp_path: Path):
    make = ["make", "-f", "cpp_plugins/aarch64.mk", f"AARCH64_BUILD={tmp_path}"]
    done = subprocess.run(make, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100% tests passed" in done.stdout
    assert "out of 2" in done.stdout
    kernel = next(tmp_path.rglob("skip_head_golden"))
    assert kernel.read_bytes()[18:20] == b"\xb7\x00", "not an aarch64 program"
