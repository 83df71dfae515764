"""The CUDA head's benchmark as far as it goes without a GPU: cases, reference, arguments, and errors of the kernel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from fcn_edge.benchmarks import skip_head_cuda as benchmark
from fcn_edge.benchmarks.cuda_launcher import CudaLauncher, open_launcher
from fcn_edge.benchmarks.head_case import differing_pixels, make_case
from fcn_edge.errors import EngineError, GateError, MissingError, UsageError
from fcn_edge.skip_head import skip_head_numpy

SIZE_HW = (70, 101)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_torch_and_the_reference_agree():
    case = make_case(SIZE_HW, 11)
    labels = benchmark.torch_head(benchmark.make_buffers(case, torch.float32, "cpu")).numpy()
    assert labels.shape == (1, *SIZE_HW)
    assert len(np.unique(labels)) > 5
    assert differing_pixels(case, labels, skip_head_numpy(case.scores, case.kernels, case.size_hw))[1] == 0
    assert benchmark.check(case, labels, "PyTorch") >= 0


def test_what_is_no_tie_ends_the_benchmark():
    case = make_case(SIZE_HW, 4)
    labels = skip_head_numpy(case.scores, case.kernels, case.size_hw)
    labels[0, 0, :7] = (labels[0, 0, :7] + 1) % 4
    with pytest.raises(GateError, match="the kernel differs from the reference in 7 pixels that are no ties"):
        benchmark.check(case, labels, "the kernel")


def test_half_precision_is_judged_by_the_numbers_it_sees():
    case = make_case(SIZE_HW, 5)
    seen = benchmark.rounded_case(case, torch.float16)
    assert seen.scores[0].dtype == np.float32
    assert not np.array_equal(seen.scores[0], case.scores[0])
    buffers = benchmark.make_buffers(seen, torch.float16, "cpu")
    np.testing.assert_array_equal(buffers.scores[2].float().numpy(), seen.scores[2])
    np.testing.assert_array_equal(buffers.kernels[2].float().numpy(), seen.kernels[2])


def test_bytes_are_those_of_inputs_and_labels():
    buffers = benchmark.make_buffers(make_case((64, 96), 3), torch.float16, "cpu")
    cells = 2 * 3 + 4 * 6 + 8 * 12
    assert buffers.nbytes == 2 * 3 * cells + 2 * 3 * (16 + 16 + 256) + 64 * 96


def test_sets_of_buffers_outgrow_the_cache():
    assert benchmark.number_of_sets(1 << 20, 50 << 20) == 150
    assert benchmark.number_of_sets((1 << 20) + 1, 50 << 20) == 150
    assert benchmark.number_of_sets(1 << 30, 50 << 20) == 2
    assert benchmark.number_of_sets(1000, 50 << 20) == benchmark.MAX_SETS


def test_summary_and_table():
    figures = benchmark.summary([4.0, 2.0, 3.0], nbytes=6000)
    assert (figures["min"], figures["p50"]) == (2.0, 3.0)
    assert figures["gb_per_s"] == pytest.approx(2.0)  # 6000 bytes in 3 µs
    copy = benchmark.summary([1.5], nbytes=6000)
    result = {"size_hw": [360, 480], "classes": 11, "precision": "fp16"}
    shown = benchmark.table([{**result, "us": {benchmark.FUSED: figures, benchmark.COPY: copy}}], 4000.0)
    cells = [next(iter(column.cells)) for column in shown.columns]
    assert cells == ["360x480, 11 classes, fp16", "3.0", "1.5", "50%"]


def test_bad_use_ends_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def error() -> str:
        return " ".join(capsys.readouterr().err.split())

    assert benchmark.main([str(tmp_path / "none.so")]) == 3
    assert "none.so is not there; build it with" in error()
    (tmp_path / "text.so").write_text("text")
    assert benchmark.main([str(tmp_path / "text.so")]) == 3
    assert "text.so holds no CUDA skip head" in error()
    with pytest.raises(SystemExit, match="2"):
        benchmark.main([])
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(["x.so", "--precision", "int8"])


def test_without_a_gpu_it_says_so(cuda_library: Path, capsys: pytest.CaptureFixture[str]):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert benchmark.main([str(cuda_library)]) == 3
    assert "PyTorch sees no NVIDIA GPU" in " ".join(capsys.readouterr().err.split())


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU, for what is checked before the kernel is launched."""

    is_cuda = True


def tensors(case_dtype: torch.dtype) -> tuple[list, list, torch.Tensor]:
    buffers = benchmark.make_buffers(make_case(SIZE_HW, 5), case_dtype, "cpu")
    scores, kernels = ([t.as_subclass(OnGpu) for t in kind] for kind in (buffers.scores, buffers.kernels))
    return scores, kernels, buffers.labels.as_subclass(OnGpu)


def test_the_launcher_passes_what_the_kernel_needs():
    seen: list = []

    class Function:
        restype = None

        def __call__(self, *arguments):
            seen.extend(arguments)
            return 0

    scores, kernels, out = tensors(torch.float16)
    kernels = [kernel.float() for kernel in kernels]
    assert CudaLauncher(Function())(scores, kernels, SIZE_HW, out, stream=7) is out
    stages, dims, addresses, half, kernel_dims, kernel_addresses, half_kernels, h, w, labels, stream, _, room = seen
    assert (stages.value, half.value, half_kernels.value, h.value, w.value) == (3, 1, 0, *SIZE_HW)
    assert [list(sides) for sides in dims] == [list(t.shape) for t in scores]
    assert [list(sides) for sides in kernel_dims] == [list(t.shape) for t in kernels]
    assert list(addresses) == [t.data_ptr() for t in scores]
    assert list(kernel_addresses) == [t.data_ptr() for t in kernels]
    assert (labels.value, stream.value, room.value) == (out.data_ptr(), 7, 512)


class Launched:
    restype = None

    def __call__(self, *_):
        pytest.fail("launched")


def test_the_launcher_refuses_what_the_kernel_cannot_take():
    launcher = CudaLauncher(Launched())
    scores, kernels, out = tensors(torch.float32)
    cases = [
        ((scores[:2], kernels, SIZE_HW, out), "got 2 score maps and 3 kernels"),
        (([scores[0].double(), *scores[1:]], kernels, SIZE_HW, out), r"scores\[0\] is torch.float64"),
        (([scores[0], scores[1].half(), scores[2]], kernels, SIZE_HW, out), "must be of one type"),
        ((scores, [kernels[0][0], *kernels[1:]], SIZE_HW, out), r"kernels\[0\] has 3 axes; expected 4"),
        (([scores[0].transpose(2, 3), *scores[1:]], kernels, SIZE_HW, out), r"scores\[0\] is strided"),
        ((scores, kernels, SIZE_HW, out[:, 1:].contiguous()), "out is"),
        ((scores, kernels, SIZE_HW, torch.zeros(1, *SIZE_HW, dtype=torch.uint8)), "out is on cpu"),
    ]
    for arguments, sentence in cases:
        with pytest.raises(UsageError, match=sentence):
            launcher(*arguments)


def test_the_real_library_checks_sizes_and_reports_cuda_errors(cuda_library: Path):
    """Compiled with nvcc, called for real; without a GPU the launch is refused by CUDA itself."""
    launcher = open_launcher(cuda_library)
    scores, kernels, out = tensors(torch.float32)
    with pytest.raises(EngineError, match=r"\[skip_head\] scores\[2\] is 12x13; expected 12x16"):
        launcher([*scores[:2], scores[2][:, :, :, :13].contiguous()], kernels, SIZE_HW, out)
    if not torch.cuda.is_available():
        with pytest.raises(EngineError, match="the kernel could not be launched: "):
            launcher(scores, kernels, SIZE_HW, out)


def test_a_bare_name_means_this_folder(cuda_library: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(cuda_library.parent)
    assert isinstance(open_launcher(Path(cuda_library.name)), CudaLauncher)


def test_a_library_without_the_kernel_is_told(tmp_path: Path):
    (tmp_path / "x.so").write_bytes(b"")
    with pytest.raises(MissingError, match="holds no CUDA skip head"):
        open_launcher(tmp_path / "x.so")
