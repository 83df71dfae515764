"""The CUDA kernel compiles for every chip without spilling a register; reads the assembler's report, runs nothing."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

CPP = Path(__file__).parents[2] / "cpp_plugins"
KERNELS = 4 * 5  # FP32 and FP16 scores, FP32 and FP16 kernels; last stride 4, 8, 16, 32 and any
REPORT = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '(?P<chip>sm_\d+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def chips_of(cmake: str) -> list[str]:
    found = re.search(r"set\(fcn_edge_chips ([\d ]+)\)", cmake)
    assert found
    return found.group(1).split()


CHIPS = chips_of((CPP / "cuda.cmake").read_text())


def compiled(nvcc: Path, source: Path, chips: list[str], target: Path) -> str:
    """What ptxas reports about `source`, compiled for `chips` and to PTX for the last."""
    codes = [f"-gencode=arch=compute_{chip},code=sm_{chip}" for chip in chips]
    codes.append(f"-gencode=arch=compute_{chips[-1]},code=compute_{chips[-1]}")
    flags = ["-std=c++17", "-O3", "-Xptxas", "-v", "-Werror", "all-warnings", "--threads", "2"]
    folders = ["-I", str(CPP / "include"), "-I", str(CPP / "src")]
    command = [str(nvcc), *flags, *codes, *folders, "-c", str(source), "-o", str(target)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout + result.stderr


def test_the_chips_that_people_have_are_among_those_that_are_compiled_for() -> None:
    assert set(CHIPS) >= {"75", "80", "86", "87", "89", "90", "100", "120"}
    assert sorted(CHIPS, key=int) == CHIPS, "PTX is made for the last, which must be the newest"


@pytest.mark.slow
def test_no_chip_spills(nvcc: Path, tmp_path: Path) -> None:
    """The number of classes is no template parameter, so these registers are those of 11, 19, 21 and 256 classes."""
    known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    chips = [chip for chip in CHIPS if f"sm_{chip}" in known]
    assert "87" in chips
    found = list(REPORT.finditer(compiled(nvcc, CPP / "src" / "skip_head_cuda.cu", chips, tmp_path / "kernel.o")))
    assert {match["chip"] for match in found} == {f"sm_{chip}" for chip in chips}
    assert len(found) == KERNELS * len(chips)
    for match in found:
        assert (match["stack"], match["stores"], match["loads"]) == ("0", "0", "0"), match[0]
        # Four blocks of 256 threads share 65536 registers.
        assert int(match["registers"]) <= 64, match[0]


def test_a_spill_would_be_seen(nvcc: Path, tmp_path: Path) -> None:
    """The report is read rightly: a kernel that must spill, or keep an array in memory, shows."""
    source = tmp_path / "spills.cu"
    source.write_text(
        "__global__ void __launch_bounds__(1024) spills(float* x, int n) {\n"
        "  float kept[200];\n"
        "#pragma unroll\n"
        "  for (int i = 0; i < 200; ++i) kept[i] = x[i * n];\n"
        "  __syncthreads();\n"
        "#pragma unroll\n"
        "  for (int i = 0; i < 200; ++i) x[(i * 7) * n] = kept[i] * kept[199 - i];\n"
        "}\n"
    )
    (match,) = REPORT.finditer(compiled(nvcc, source, ["87"], tmp_path / "spills.o"))
    assert int(match["stack"]) > 0
    assert int(match["stores"]) > 0
