"""The report: what stands in it, what it does without matplotlib, what it does not overwrite."""

import copy
import io
import json
import sys

import numpy as np
import pytest
from rich.console import Console

from fcn_edge import pixels
from fcn_edge.benchmarks import report
from fcn_edge.benchmarks.latency import Candidate, measure_interleaved, summary
from fcn_edge.errors import UsageError
from fcn_edge.runtime.engine_echo import EchoEngine


def result_of(model, p50, miou=None, **fields):
    latencies = np.linspace(0.9 * p50, 1.1 * p50, 101)
    return {
        "model": model,
        "backend": "openvino",
        "precision": "fp32",
        "size_hw": [360, 480],
        "params": 987_809,
        "gmacs": 1.2767,
        "latency_ms": summary(latencies),
        "stages_ms": {"resize": 0.25, "network": p50 - 1, "head": 0.75, "restore": 0.0},
        "fps": 1e3 / p50,
        "rss_mib": 133.4,
        "gpu_mib": None,
        "miou": miou,
        "rounds_p50_ms": [p50] * 5,
        "quantiles_ms": latencies.tolist(),
        "repeatability": 1.0,
        "agreement_with_reference": 0.99995,
        "frames": 298,
        "frames_from": "camvid val",
        **fields,
    }


@pytest.fixture
def payload():
    machine = {"cpu": "Some CPU", "cores": 2, "board": None, "packages": {"numpy": "2.4.6"}, "gpus": [{"name": "G"}]}
    results = [result_of("runs/n.onnx", 16.0, 0.40), result_of("runs/n-int8.onnx", 8.0, 0.39, precision="int8")]
    return {"machine": machine, "results": results}


def rows_of(markdown, heading):
    """The table below a heading: a dictionary for each row."""
    lines = markdown.split(f"## {heading}")[1].split("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_a_report_is_three_files_and_the_record_is_the_object(payload, tmp_path):
    written = report.write_report(payload, tmp_path / "out")
    assert [path.name for path in written] == ["bench.json", "bench.md", "latency.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bench.json", "bench.md", "latency.png"]
    assert json.loads(written[0].read_bytes()) == payload
    assert "![distribution of latency](latency.png)" in written[1].read_text()
    picture = pixels.read_image(written[2])
    assert picture.shape[1] > 1.5 * picture.shape[0] > 400  # two panels
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def test_labels_far_from_the_reference_are_told(payload):
    """An INT8 file may differ by some per cent; half of the pixels is a fault that stood in a record unseen."""
    assert report.doubts(payload["results"]) == []
    payload["results"][0]["agreement_with_reference"] = None
    payload["results"][1]["agreement_with_reference"] = 0.53219
    (sentence,) = report.doubts(payload["results"])
    assert sentence.startswith("runs/n-int8.onnx (int8) agrees with ONNX Runtime on 53.2% of the pixels, expected 90%")
    assert sentence in report.markdown_from_bench(payload)


def test_a_machine_that_was_busy_is_told(payload):
    """At load 19 on two cores a network of 12 ms took 246, and nothing said so."""
    machine = payload["machine"]
    for load in (None, 0.0, 1.0):  # half of two cores
        assert report.doubts(payload["results"], machine | {"load": load}) == []
    assert report.doubts(payload["results"], {"load": 3.0, "cores": None}) == []
    machine["load"] = 19.04
    (sentence,) = report.doubts(payload["results"], machine)
    assert "busy before the first model ran: 19.04 processes ran or waited on average in that minute, on 2" in sentence
    assert sentence in report.markdown_from_bench(payload)


def test_tables_hold_the_figures(payload):
    markdown = report.markdown_from_bench(payload)
    first, second = rows_of(markdown, "Results")
    assert (first["model"], first["p50 ms"], first["params M"], first["mIoU"]) == ("n.onnx", "16.00", "0.99", "0.4000")
    assert (second["precision"], second["speed"], second["fps"]) == ("int8", "2.00 (2.00-2.00)", "125.0")
    assert "GPU MiB" not in first  # nothing to tell
    assert rows_of(markdown, "Stages, median ms")[1] == {
        "model": "n-int8.onnx",
        "resize": "0.25",
        "network": "7.00",
        "head": "0.75",
        "restore": "0.00",
    }
    assert rows_of(markdown, "Checked before timing")[0]["ONNX Runtime"] == "99.9950%"
    facts = {row["fact"]: row["value"] for row in rows_of(markdown, "Machine")}
    assert facts == {"cpu": "Some CPU", "cores": "2", "packages.numpy": "2.4.6", "gpus.0.name": "G"}


def test_percentiles_of_stages_are_told_where_they_are_known(payload):
    assert "Stages, p90" not in report.markdown_from_bench(payload)  # a record of before holds medians
    payload["results"][1]["stages_latency_ms"] = {"network": {"p50": 7.0, "p90": 8.0, "p95": 9.25, "p99": 30.0}}
    first, second = rows_of(report.markdown_from_bench(payload), "Stages, p90, p95 and p99, ms")
    assert (second["network"], second["head"], first["network"]) == ("8.00 / 9.25 / 30.00", "", "")


def test_how_it_was_measured_is_told(payload):
    assert "How it was measured" not in report.markdown_from_bench(payload)  # a record of before does not say
    payload |= {"recorded": "2026-07-30", "options": {"duration_s": 10.0, "rounds": 20, "data": None}}
    rows = rows_of(report.markdown_from_bench(payload), "How it was measured")
    assert {row["option"]: row["value"] for row in rows} == {
        "recorded": "2026-07-30",
        "duration_s": "10.0",
        "rounds": "20",
    }


def test_a_precision_that_was_asked_for_stands_beside_the_files(payload):
    payload["results"][0]["precision_hint"] = "bf16"
    payload["results"][1]["precision_hint"] = None
    rows = rows_of(report.markdown_from_bench(payload), "Results")
    assert [row["precision"] for row in rows] == ["fp32, bf16", "int8"]


def test_p99_of_few_frames_is_marked(payload):
    note = "† p99 of fewer than 200 frames"
    assert note not in report.markdown_from_bench(payload)
    assert report.bench_table(payload).caption is None
    payload["results"][1]["frames"] = 40
    markdown = report.markdown_from_bench(payload)
    first, second = rows_of(markdown, "Results")
    assert (first["p99"], second["p99"]) == ("17.57", "8.78†")
    assert note in markdown
    assert report.bench_table(payload).caption.startswith(note)


def test_the_size_of_the_frames_is_told(payload):
    def title():
        return report.bench_table(payload).title

    assert title() == "frame in host memory to labels in host memory"  # a record of before does not say
    for result in payload["results"]:
        result["frame_hw"] = [480, 640]
    assert [row["frame"] for row in rows_of(report.markdown_from_bench(payload), "Results")] == ["480x640", "480x640"]
    assert title() == "frame of 480x640 in host memory to labels in host memory"
    payload["results"][0]["frame_hw"] = [360, 480]
    assert title() == "frame in host memory to labels in host memory"


def test_a_bar_in_a_name_does_not_break_the_table(payload):
    payload["results"][0]["model"] = "a|b.onnx"
    assert "a\\|b.onnx" in report.markdown_from_bench(payload)


def test_without_matplotlib_the_report_says_so(payload, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    written = report.write_report(payload, tmp_path / "out")
    assert [path.name for path in written] == ["bench.json", "bench.md"]
    assert not (tmp_path / "out" / "latency.png").exists()
    assert "matplotlib is not installed" in written[1].read_text()
    assert "latency.png" not in written[1].read_text()


def test_nothing_is_overwritten_without_force(payload, tmp_path):
    report.write_report(payload, tmp_path)
    before = (tmp_path / "bench.json").read_bytes()
    other = copy.deepcopy(payload)
    other["results"].pop()
    with pytest.raises(UsageError, match=r"already holds bench\.json, bench\.md, latency\.png"):
        report.write_report(other, tmp_path)
    assert (tmp_path / "bench.json").read_bytes() == before
    report.write_report(other, tmp_path, force=True)
    assert json.loads((tmp_path / "bench.json").read_bytes()) == other


def test_a_file_is_no_folder(payload, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        report.write_report(payload, tmp_path / "out")


def test_speed_compares_round_by_round():
    # Rounds 3 and 4 ran on a disturbed machine: medians of all rounds would move, ratios do not.
    slow, fast = {"rounds_p50_ms": [10, 10, 40, 40]}, {"rounds_p50_ms": [5, 5, 20, 20]}
    assert report.speed(fast, slow) == (2.0, 2.0, 2.0)
    assert report.speed(slow, fast) == (0.5, 0.5, 0.5)


def test_models_of_one_name_are_told_apart_by_their_paths():
    assert report.short_names([{"model": "a/best.pt"}, {"model": "b/last.pt"}]) == ["best.pt", "last.pt"]
    assert report.short_names([{"model": "a/best.pt"}, {"model": "b/best.pt"}]) == ["a/best.pt", "b/best.pt"]


def test_equal_models_are_not_drawn_far_apart(payload, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *args, **kw: (figures.append(figure), save(figure, *args, **kw))
    )
    payload["results"][1]["miou"] = payload["results"][0]["miou"] + 1e-8
    report.write_report(payload, tmp_path)
    low, high = figures[0].axes[1].get_ylim()
    assert high - low == pytest.approx(0.05)
    assert figures[0].axes[0].get_xlim()[0] == 0  # latencies within a factor of four start at zero


def test_without_accuracy_there_is_one_panel(payload, tmp_path):
    for result in payload["results"]:
        result["miou"] = None
    picture = pixels.read_image(report.write_report(payload, tmp_path)[2])
    assert picture.shape[1] < 2 * picture.shape[0]
    assert "mIoU" not in rows_of((tmp_path / "bench.md").read_text(), "Results")[0]


def test_the_report_takes_what_measuring_gives(tmp_path):
    frames = [np.zeros((8, 8, 3), np.uint8)]
    results = measure_interleaved(
        [Candidate("one", EchoEngine(), frames), Candidate("two", EchoEngine(), frames)], 0.05
    )
    payload = {"machine": {}, "results": results}
    assert len(report.write_report(payload, tmp_path)) == 3
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.bench_table(payload))
    assert "p99" in console.export_text()


def test_progress_goes_to_stderr_alone(capsys):
    with report.progress_on_stderr() as on_step:
        on_step("timing", 1, 2)
        on_step("timing", 2, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "timing" in err


def test_each_percentile_stands_under_its_name(payload):
    (first, _), latency = rows_of(report.markdown_from_bench(payload), "Results"), payload["results"][0]["latency_ms"]
    shown = {"p50 ms": "p50", "p90": "p90", "p99": "p99", "max": "max"}
    assert {column: first[column] for column in shown} == {
        column: f"{latency[key]:.2f}" for column, key in shown.items()
    }
