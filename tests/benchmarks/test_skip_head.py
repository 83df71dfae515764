"""The head's benchmark: it checks before it times, and its record holds what it claims."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("cv2")

from fcn_edge.benchmarks import skip_head as benchmark
from fcn_edge.errors import GateError, MissingError
from fcn_edge.skip_head import native_targets, skip_head_numpy


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SLICE_NS", 100_000)
    monkeypatch.setattr(benchmark, "QUICK_ROUNDS", 2)
    monkeypatch.setattr(benchmark, "SIZES_HW", ((90, 120), (64, 130)))


def test_labels_that_differ_are_told_from_ties():
    case = benchmark.make_case((64, 96), 5)
    labels = skip_head_numpy(case.scores, case.kernels, case.size_hw)
    assert benchmark.differing_pixels(case, labels, labels) == (0, 0)
    others = labels.copy()
    others[0, 3, 4] = (others[0, 3, 4] + 1) % 5
    assert benchmark.differing_pixels(case, labels, others) == (1, 1)
    for scores in case.scores:
        scores[:] = 1
    for kernel in case.kernels:
        kernel[:] = 0.25
    assert benchmark.differing_pixels(case, labels * 0, labels * 0 + 1) == (64 * 96, 0)
    assert benchmark.differing_pixels(case, labels * 0 + 255, labels * 0) == (64 * 96, 64 * 96)


def test_every_image_of_a_batch_is_judged():
    case = benchmark.make_case((64, 90), 5, batch=3)
    labels = skip_head_numpy(case.scores, case.kernels, case.size_hw)
    assert labels.shape == (3, 64, 90)
    assert not np.array_equal(labels[0], labels[1])
    others = labels.copy()
    others[1, 63, 89] = (others[1, 63, 89] + 1) % 5
    others[2, :2, 0] = 255
    assert benchmark.differing_pixels(case, others, labels) == (3, 3)
    for scores in case.scores:
        scores[1] = 0
    assert benchmark.differing_pixels(case, others, labels) == (3, 2)


@pytest.mark.parametrize("strides", benchmark.HEADS)
def test_every_contender_gives_the_labels_of_the_reference(strides: tuple[int, ...]):
    pytest.importorskip("openvino")
    case = benchmark.make_case((90, 120), 11, strides=strides)
    assert case.strides == strides
    assert case.scores[-1].shape[2:] == (96 // strides[-1], 128 // strides[-1])
    expected = skip_head_numpy(case.scores, case.kernels, case.size_hw)
    calls = benchmark.contenders(case, threads=1, with_numpy=False)
    assert {"ONNX Runtime", "OpenVINO"} <= set(calls)
    for name, call in calls.items():
        assert benchmark.differing_pixels(case, call(), expected)[1] == 0, name
    assert benchmark.opencv_resize(case)().shape == (1, 90, 120)


def test_without_openvino_the_others_are_compared(monkeypatch: pytest.MonkeyPatch):
    def missing() -> None:
        raise MissingError("an .onnx model needs OpenVINO")

    monkeypatch.setattr(benchmark, "require_openvino", missing)
    assert "OpenVINO" not in benchmark.contenders(benchmark.make_case((64, 96), 5), threads=1, with_numpy=False)


def test_a_contender_that_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(benchmark, "times_ns", lambda *_: pytest.fail("timed before it was checked"))
    monkeypatch.setattr(benchmark, "skip_head", lambda *_, **__: np.full((1, 64, 96), 3, np.uint8))
    if not native_targets():
        pytest.skip("the compiled kernel is not built")
    with pytest.raises(GateError, match=r"fused, .* differs from ONNX Runtime in \d+ pixels that are no ties"):
        benchmark.bench_case(benchmark.make_case((64, 96), 5), threads=1, rounds=1)


def test_contenders_run_in_turn():
    seen: list[str] = []
    times = benchmark.times_ns({name: lambda name=name: seen.append(name) for name in "ab"}, rounds=3)
    assert set(times) == {"a", "b"}
    assert all(len(durations) >= 3 and all(wall > 0 for wall, _ in durations) for durations in times.values())
    turns = [name for name, before in zip(seen, [None, *seen], strict=False) if name != before]
    assert turns == ["a", "b", "a", "b", "a", "b"]  # warm-up; then a b, b a, a b


def test_the_record_holds_every_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "skip_head.json"
    assert benchmark.main(["--quick", "--numpy", "--threads", "2", "-o", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "ONNX Runtime" in shown
    assert "Skip head 8s, 2 threads" in shown
    assert "Skip head 4s, 2 threads" in shown
    payload = json.loads(path.read_text())
    assert payload["threads"] == 2
    assert payload["machine"]["cpu"]
    for strides in ([32, 16, 8], [32, 16, 8, 4]):
        assert [(r["size_hw"], r["classes"]) for r in payload["results"] if r["strides"] == strides] == [
            ([90, 120], 11),
            ([90, 120], 19),
            ([64, 130], 11),
            ([64, 130], 19),
        ]
    assert len(payload["results"]) == 8
    for result in payload["results"]:
        assert set(result["ms"]) == set(result["speedup"]) >= {"NumPy reference", "cv2.resize + argmax"}
        for name, ms in result["ms"].items():
            assert 0 < ms["min"] <= ms["p50"] <= ms["p90"]
            for key in ("min", "p50", "cpu_p50"):
                assert result["speedup"][name][key] == pytest.approx(result["ms"]["ONNX Runtime"][key] / ms[key])


def test_bad_use_ends_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    assert benchmark.main(["--threads", "0"]) == 2
    assert "--threads is 0; expected at least 1" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(benchmark, "native_targets", lambda: ())
    assert benchmark.main(["--quick", "-o", str(tmp_path / "x.json")]) == 3
    assert not (tmp_path / "x.json").exists()
