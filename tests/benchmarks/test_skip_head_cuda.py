"""The CUDA head's benchmark as far as it goes without a GPU: cases, reference, arguments, and errors of the kernel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch._dynamo.testing import CompileCounter

from fcn_edge.benchmarks import cuda_graphs
from fcn_edge.benchmarks import skip_head_cuda as benchmark
from fcn_edge.benchmarks.cuda_launcher import CudaLauncher, open_launcher
from fcn_edge.benchmarks.head_case import make_case
from fcn_edge.errors import EngineError, GateError, MissingError, UsageError
from fcn_edge.skip_head import skip_head_numpy

# Where there is a GPU, Dynamo imports what PyTorch itself calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")

SIZE_HW = (70, 101)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def dynamo(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounter]:
    """Dynamo alone, without a compiler behind it; counts what it was given to compile."""
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    yield counter
    torch._dynamo.reset()


class HostGraph:
    """Calls that are made when they are replayed."""

    def __init__(self, call, places):
        self.call, self.places = call, places

    def replay(self) -> None:
        for place in self.places:
            self.call(place)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, dynamo) -> None:
    """The benchmark without a GPU: everything but CUDA's own calls, with times that are made up."""
    random_bytes = cuda_graphs.random_bytes
    monkeypatch.setattr(benchmark, "DEVICE", "cpu")
    monkeypatch.setattr(cuda_graphs, "random_bytes", lambda *sides: random_bytes(*sides, device="cpu"))
    monkeypatch.setattr(cuda_graphs, "captured", HostGraph)
    monkeypatch.setattr(cuda_graphs, "replay_us", lambda graphs, calls, rounds: dict.fromkeys(graphs, [2.0] * rounds))
    monkeypatch.setattr(cuda_graphs, "call_seconds", lambda call: [call(), 0.0][1])
    monkeypatch.setattr(cuda_graphs, "host_us", lambda call: 7.0)
    monkeypatch.setattr(cuda_graphs, "l2_bytes", lambda: 0)
    monkeypatch.setattr(cuda_graphs, "free_bytes", lambda: 1 << 40)
    monkeypatch.setattr(cuda_graphs, "require_gpu", lambda: None)
    monkeypatch.setattr(cuda_graphs, "stream_handle", lambda: 0)
    monkeypatch.setattr(cuda_graphs, "peak_copy_gb_per_s", lambda: 4000.0)


def reference_launcher(scores, kernels, size_hw, out, stream):
    """The kernel's place, taken by the reference."""
    arrays = [[tensor.float().numpy() for tensor in tensors] for tensors in (scores, kernels)]
    return out.copy_(torch.from_numpy(skip_head_numpy(*arrays, size_hw)))


@pytest.mark.parametrize("batch", [1, 2])
def test_torch_and_the_reference_agree(dynamo, batch: int):
    case = make_case(SIZE_HW, 11, batch)
    expected = skip_head_numpy(case.scores, case.kernels, case.size_hw)
    for head in (benchmark.torch_head, benchmark.compiled_torch_head()):
        buffers = benchmark.make_buffers(case, torch.float32, "cpu")
        assert (buffers.labels == benchmark.UNWRITTEN).all()
        assert head(buffers) is buffers.labels
        labels = buffers.labels.numpy()
        assert labels.shape == (batch, *SIZE_HW)
        assert len(np.unique(labels)) > 5
        assert benchmark.check(case, labels, expected, "PyTorch") >= 0
    assert dynamo.frame_count == 1


def test_every_size_is_compiled(dynamo):
    """Dynamo compiles eight of one function's sizes and would run the others as they are."""
    sizes = [benchmark.make_buffers(make_case((32 * i, 32), 2), torch.float32, "cpu") for i in range(1, 11)]
    head = benchmark.compiled_torch_head()
    for buffers in sizes[:8]:
        head(buffers)
    with pytest.raises(Exception, match=r"limit|fullgraph"):
        head(sizes[8])
    before = dynamo.frame_count
    for buffers in sizes:
        benchmark.compiled_torch_head()(buffers)
    assert dynamo.frame_count - before == len(sizes)


def test_what_is_no_tie_ends_the_benchmark():
    case = make_case(SIZE_HW, 4)
    expected = skip_head_numpy(case.scores, case.kernels, case.size_hw)
    labels = expected.copy()
    labels[0, 0, :7] = (labels[0, 0, :7] + 1) % 4
    with pytest.raises(GateError, match="the kernel differs from the reference in 7 pixels that are no ties"):
        benchmark.check(case, labels, expected, "the kernel")
    assert benchmark.check(case, labels, expected, "the kernel", is_exact=False) == 7
    labels[0, 1, :3] = benchmark.UNWRITTEN
    with pytest.raises(GateError, match="the kernel gives 3 pixels an id that is no class"):
        benchmark.check(case, labels, expected, "the kernel", is_exact=False)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_case_is_checked_and_described(host, monkeypatch: pytest.MonkeyPatch, precision: str, batch: int):
    case = make_case(SIZE_HW, 5, batch)
    result = benchmark.bench_case(case, precision, reference_launcher, rounds=3)
    names = {benchmark.FUSED, benchmark.EAGER, benchmark.COMPILED}
    assert result["left_out"] == {}
    assert (result["batch"], result["size_hw"], result["classes"]) == (batch, list(SIZE_HW), 5)
    assert (result["sets"], result["pixels"]) == (2, batch * 70 * 101)
    assert set(result["host_us"]) == set(result["differing_pixels"]) == names
    assert result["differing_pixels"][benchmark.FUSED] == 0
    assert all(0 <= pixels < 0.1 * result["pixels"] for pixels in result["differing_pixels"].values())
    assert set(result["us"]) == {*names, benchmark.COPY, benchmark.NODE}
    assert result["us"][benchmark.NODE] == {"min": 2.0, "p50": 2.0, "p90": 2.0}
    assert result["gb_per_s"] == {}

    monkeypatch.setattr(benchmark, "BANDWIDTH_BYTES", result["bytes"])
    large = benchmark.bench_case(case, precision, reference_launcher, rounds=3)
    assert large["host_us"] == {}
    speed = large["gb_per_s"]
    assert set(speed) == {*names, benchmark.COPY}
    assert speed[benchmark.FUSED] == pytest.approx(result["bytes"] / 2e3)
    half = -(-result["bytes"] // 2 // 512) * 512
    assert speed[benchmark.COPY] == pytest.approx(2 * half / 2e3)


def test_what_is_replayed_is_what_is_checked(host, monkeypatch: pytest.MonkeyPatch):
    """A graph that leaves a set out, however well the call worked on it outside."""

    def captured(call, places):
        HostGraph(call, places).replay()
        return HostGraph(call, places[:-1])

    monkeypatch.setattr(cuda_graphs, "replay_us", lambda *_: pytest.fail("timed before it was checked"))
    monkeypatch.setattr(cuda_graphs, "captured", captured)
    with pytest.raises(GateError, match=f"fused in fp16 gives {70 * 101} pixels an id that is no class"):
        benchmark.bench_case(make_case(SIZE_HW, 5), "fp16", reference_launcher, rounds=1)


def test_a_contender_of_pytorch_that_fails_is_left_out(host, monkeypatch: pytest.MonkeyPatch):
    def fails(buffers):
        raise RuntimeError("no compiler in '/home/someone/bin/cc'\nmore")

    def wrong(buffers):
        return buffers.labels.fill_(3)

    monkeypatch.setattr(benchmark, "compiled_torch_head", lambda: fails)
    monkeypatch.setattr(benchmark, "torch_head", wrong)
    result = benchmark.bench_case(make_case(SIZE_HW, 5), "fp32", reference_launcher, rounds=1)
    assert set(result["left_out"]) == {benchmark.EAGER, benchmark.COMPILED}
    assert result["left_out"][benchmark.COMPILED] == "RuntimeError: no compiler in 'cc'"
    assert "PyTorch, eager in fp32 differs from the reference in" in result["left_out"][benchmark.EAGER]
    assert set(result["us"]) == {benchmark.FUSED, benchmark.COPY, benchmark.NODE}
    assert set(result["host_us"]) == set(result["differing_pixels"]) == {benchmark.FUSED}
    with pytest.raises(RuntimeError, match="no compiler"):
        benchmark.bench_case(make_case(SIZE_HW, 5), "fp32", lambda *_: fails(None), rounds=1)


def test_too_little_memory_leaves_pytorch_out(host, monkeypatch: pytest.MonkeyPatch):
    case = make_case((512, 1024), 5)
    assert benchmark.make_buffers(case, torch.float16, "cpu").torch_nbytes == 4 * 512 * 1024 * (5 * 2 + 8)
    assert benchmark.too_little(38_000_000, 38_000_000) == ""
    monkeypatch.setattr(cuda_graphs, "free_bytes", lambda: 10_000_000)
    result = benchmark.bench_case(case, "fp16", reference_launcher, rounds=1)
    sentence = "needs about 0.04 GB of GPU memory, 0.01 GB are free"
    assert result["left_out"] == dict.fromkeys((benchmark.EAGER, benchmark.COMPILED), sentence)
    assert set(result["us"]) == {benchmark.FUSED, benchmark.COPY, benchmark.NODE}


def test_a_slow_contender_is_left_out_with_its_time(host, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuda_graphs, "call_seconds", lambda call: 2.345)
    result = benchmark.bench_case(make_case(SIZE_HW, 5), "fp32", reference_launcher, rounds=1)
    assert result["left_out"] == dict.fromkeys((benchmark.EAGER, benchmark.COMPILED), "one call takes 2.35 s")
    assert set(result["us"]) == {benchmark.FUSED, benchmark.COPY, benchmark.NODE}


def test_pytorch_is_not_given_tf32(host, monkeypatch: pytest.MonkeyPatch):
    seen = []
    captured = cuda_graphs.captured
    monkeypatch.setattr(
        cuda_graphs,
        "captured",
        lambda *arguments: seen.append(torch.backends.cudnn.allow_tf32) or captured(*arguments),
    )
    benchmark.bench_case(make_case(SIZE_HW, 5), "fp32", reference_launcher, rounds=1)
    assert seen[:3] == [False] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("batch", "size_hw", "classes"), benchmark.LARGE)
def test_large_cases_are_of_memory(batch: int, size_hw: tuple[int, int], classes: int, dtype: torch.dtype):
    one = benchmark.make_buffers(make_case(size_hw, classes), dtype, "cpu")
    kernels = sum(kernel.nbytes for kernel in one.kernels)
    assert batch * (one.nbytes - kernels) + kernels > benchmark.BANDWIDTH_BYTES > 10 * one.nbytes


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


def test_percentiles():
    assert benchmark.percentiles([4.0, 2.0, 3.0])["min"] == 2.0
    assert benchmark.percentiles([4.0, 2.0, 3.0])["p50"] == 3.0


def test_table_tells_bandwidth_of_large_cases_only():
    def cells(result: dict) -> list[str]:
        whole = {"size_hw": [360, 480], "classes": 11, "precision": "fp16", "strides": [32, 16, 8, 4], **result}
        return [next(iter(column.cells)) for column in benchmark.table([whole], 4000.0).columns]

    us = {name: {"p50": time} for name, time in ((benchmark.FUSED, 3.0), (benchmark.COPY, 1.5), (benchmark.NODE, 1.25))}
    small = cells({"batch": 1, "us": us, "gb_per_s": {}})
    assert small == ["1 x 360x480\n11 classes, fp16, 4s", "3.0", "-", "-", "1.5", "1.2", "-"]
    large = cells({"batch": 9, "us": us, "gb_per_s": {benchmark.FUSED: 2.0, benchmark.COPY: 4.0}})
    assert (large[0], large[-1]) == ("9 x 360x480\n11 classes, fp16, 4s", "50%")


def test_the_record_grows_case_by_case(
    host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "record.json"

    def wrong_for_two_images(scores, *arguments):
        labels = reference_launcher(scores, *arguments)
        return labels if len(labels) == 1 else labels.fill_(1)

    monkeypatch.setattr(benchmark, "open_launcher", lambda library: reference_launcher)
    monkeypatch.setattr(benchmark, "SINGLE", ((1, (40, 60), 11),))
    monkeypatch.setattr(benchmark, "LARGE", ((2, (32, 64), 11), (2, (32, 64), 19)))
    arguments = ["x.so", "--quick", "--classes", "11", "--head", "8s", "-o", str(path)]
    assert benchmark.main(arguments) == 0
    shown = capsys.readouterr()
    assert "2 x 32x64, 11 classes, fp16" in shown.err
    assert "11 classes, fp16" in shown.out
    payload = json.loads(path.read_text())
    assert (payload["benchmark"], payload["cases"], payload["copy_gb_per_s"]) == ("skip_head_cuda", 4, 4000.0)
    assert payload["machine"]["cpu"]
    found = [(result["batch"], result["classes"], result["precision"]) for result in payload["results"]]
    assert found == [(1, 11, "fp32"), (1, 11, "fp16"), (2, 11, "fp32"), (2, 11, "fp16")]

    monkeypatch.setattr(benchmark, "open_launcher", lambda library: wrong_for_two_images)
    assert benchmark.main(arguments) == 6
    assert "differs from the reference" in " ".join(capsys.readouterr().err.split())
    payload = json.loads(path.read_text())
    assert (payload["cases"], len(payload["results"])) == (4, 2)


def test_the_head_that_ships_is_checked_and_timed_too(
    host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "record.json"
    monkeypatch.setattr(benchmark, "open_launcher", lambda library: reference_launcher)
    monkeypatch.setattr(benchmark, "SINGLE", ((1, (40, 60), 11),))
    monkeypatch.setattr(benchmark, "LARGE", ())
    assert benchmark.main(["x.so", "--quick", "--precision", "fp32", "-o", str(path)]) == 0
    assert "1 x 40x60, 11 classes, fp32, 4s" in capsys.readouterr().err
    results = json.loads(path.read_text())["results"]
    assert [result["strides"] for result in results] == [[32, 16, 8], [32, 16, 8, 4]]
    assert all(result["left_out"] == {} for result in results)  # PyTorch's labels are those of the reference
    assert benchmark.main(["x.so", "--quick", "--head", "4s", "-o", str(path)]) == 0
    assert [result["strides"] for result in json.loads(path.read_text())["results"]] == [[32, 16, 8, 4]] * 2


def test_pytorch_may_choose_its_fastest_algorithm(host, monkeypatch: pytest.MonkeyPatch):
    seen = []

    def tuned(call):
        seen.append(torch.backends.cudnn.benchmark)
        call()
        return 0.0

    monkeypatch.setattr(cuda_graphs, "call_seconds", tuned)
    benchmark.bench_case(make_case(SIZE_HW, 5), "fp32", reference_launcher, rounds=1)
    assert seen == [True, True]  # in the calls before the capture, eager and compiled
    assert not torch.backends.cudnn.benchmark


@pytest.mark.gpu("torch")
@pytest.mark.filterwarnings("ignore")  # the compiler's advice
def test_on_a_gpu_everything_is_timed(
    cuda_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(benchmark, "SINGLE", ((1, (360, 480), 11),))
    monkeypatch.setattr(benchmark, "LARGE", ((8, (512, 1024), 19),))
    path = tmp_path / "record.json"
    assert benchmark.main([str(cuda_library), "--quick", "-o", str(path)]) == 0, capsys.readouterr().err
    results = json.loads(path.read_text())["results"]
    assert len(results) == 8
    for result in results:
        assert result["left_out"] == {}
        assert len(result["us"]) == 5
        assert all(0 < us["min"] <= us["p50"] for us in result["us"].values())
        assert all(us > 0 for us in result["host_us"].values())
        assert all(pixels < 0.1 * result["pixels"] for pixels in result["differing_pixels"].values())


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
