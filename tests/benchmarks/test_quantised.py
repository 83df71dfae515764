"""INT8 on a held-out sequence: what the record holds, what the table says of it, and what may not judge."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

import torch

from fcn_edge import pixels, street
from fcn_edge.benchmarks import quantised
from fcn_edge.benchmarks.quantised_table import markdown_from_record
from fcn_edge.contract import Contract
from fcn_edge.dataset import open_dataset
from fcn_edge.errors import UsageError
from fcn_edge.export.frame_files import files_sha256
from fcn_edge.training.checkpoint import Checkpoint, save_checkpoint
from fcn_edge.training.config import TrainConfig
from fcn_edge.training.qat import measure_steps
from fcn_edge.training.qat import quantised as quantised_model

SIZE_HW = (64, 96)
HOLDOUT = "b"
RECORDS = sorted((Path(__file__).parents[2] / "benchmarks" / "records").glob("quantised*.json"))


@pytest.fixture(scope="module")
def write_checkpoint(lively_model, tmp_path_factory):
    """Writes checkpoints with given options of training; the weights differ from seed to seed."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def write(name: str, seed: int = 0, start: Path | None = None, **options) -> Path:
        model = lively_model("fcn8s-edge-n", len(street.CLASS_NAMES))
        with torch.no_grad():
            model.score_convs[0].bias[0].add_(float(seed))
        mean, std = (tuple(values.flatten().tolist()) for values in (model.mean, model.std))
        contract = Contract(
            model.name, SIZE_HW, tuple(street.CLASS_NAMES), tuple(map(tuple, street.PALETTE)), mean, std, model.strides
        )
        config = TrainConfig(data=".", out=".", model=model.name, seed=seed, **{"holdout": HOLDOUT, **options})
        if config.qat:
            model = quantised_model(model)
            measure_steps(model, [torch.from_numpy(street.draw_street(0, 5.0, SIZE_HW)[0]).permute(2, 0, 1)[None]])
        state = model.state_dict()
        provenance = {"init_sha256": hashlib.sha256(start.read_bytes()).hexdigest()} if start else {}
        checkpoint = Checkpoint(contract, config, model=state, ema=state, epoch=7, seconds=90.0, provenance=provenance)
        save_checkpoint(folder / name, checkpoint)
        return folder / name

    return write


@pytest.fixture(scope="module")
def measured(data, write_checkpoint, tmp_path_factory) -> Path:
    """A record of one checkpoint, written as the command does."""
    record = tmp_path_factory.mktemp("record") / "q.json"
    checkpoint = write_checkpoint("one.pt")
    code = quantised.main(
        [str(checkpoint), "--data", str(data), "--holdout", HOLDOUT, "--threads", "1", "-o", str(record)]
    )
    assert code == 0
    return record


def test_the_record_holds_scores_and_how_they_came_about(measured, data):
    payload = json.loads(measured.read_bytes())
    assert payload["benchmark"] == "quantised"
    assert {"cpu", "commit", "packages"} <= set(payload["machine"])
    assert payload["data"] == {"name": data.name, "holdout": HOLDOUT, "images": 2}
    (run,) = payload["runs"]
    assert (run["model"], run["seed"], run["epochs"], run["minutes"]) == ("fcn8s-edge-n", 0, 7, 1.5)
    assert len(run["checkpoint_sha256"]) == 64
    assert run["params"] > 900_000
    assert (run["size_hw"], run["gmacs"] > 0) == ([64, 96], True)
    assert run["int8_qat"] is None
    for scores in (run["fp32"], run["int8_ptq"]):
        assert 0 < scores["miou"] < 1
        assert set(scores["per_class"]) == set(street.CLASS_NAMES)
    ptq = run["int8_ptq"]
    assert 0.8 < ptq["agreement"] < 1  # 1 would be FP32 compared with itself
    assert ptq["miou"] != run["fp32"]["miou"]
    assert len(ptq["layers"]) == 20
    assert ptq["kept"]


def test_ranges_are_measured_without_the_sequence_that_judges(measured, data):
    ptq = json.loads(measured.read_bytes())["runs"][0]["int8_ptq"]
    assert ptq["calibration_frames"] + ptq["held_out_frames"] == 10
    allowed = [sample.image for sample in open_dataset(data).samples("train") if sample.name.startswith("a_")]
    assert ptq["calibration_sha256"] == files_sha256(allowed)


def test_the_table_is_printed_again_from_the_record(measured, tmp_path, capsys):
    assert quantised.main(["--from", str(measured)]) == 0
    text = capsys.readouterr().out
    assert "| fcn8s-edge-n | 64x96 | 0.99 |" in text
    assert f"2 images of {HOLDOUT}" in text
    assert quantised.main(["--from", str(measured), "--markdown", str(tmp_path / "t.md")]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "t.md").read_text() == text


def test_the_datas_own_val_is_judged_beside_the_sequence(data, write_checkpoint, measured, tmp_path):
    root = tmp_path / "with-val"
    shutil.copytree(data, root)
    for number in range(100, 103):
        image, labels = street.draw_street(number, 5.0, SIZE_HW)
        pixels.write_png(root / "images" / "val" / f"a_{number}.png", image)
        pixels.write_png(root / "masks" / "val" / f"a_{number}.png", labels)
    payload = quantised.bench_quantised([write_checkpoint("one.pt")], [], root, HOLDOUT, 1, lambda *step: None)
    assert payload["data"] == {"name": "with-val", "holdout": HOLDOUT, "images": 2, "val_images": 3}
    (run,), before = payload["runs"], json.loads(measured.read_bytes())["runs"][0]
    for key in ("fp32", "int8_ptq"):
        assert before[key]["val"] is None
        assert run[key]["miou"] == before[key]["miou"]  # judged on the sequence as before
        assert set(run[key]["val"]) == {"miou", "pixel_accuracy", "per_class"}
        assert 0 < run[key]["val"]["miou"] != run[key]["miou"]
    text = markdown_from_record(payload)
    assert "3 images of its own val" in text
    assert f"| {run['fp32']['miou']:.4f} | {run['fp32']['val']['miou']:.4f} |" in text
    assert text.splitlines()[-1].endswith(f"| {run['int8_ptq']['val']['miou']:.4f} |")


def test_what_was_fine_tuned_stands_beside_what_it_came_from(data, write_checkpoint, measured):
    float_one = write_checkpoint("float.pt")
    tuned = write_checkpoint("tuned.pt", 4, float_one, qat=True, init="float.pt")
    payload = quantised.bench_quantised([float_one], [tuned], data, HOLDOUT, 1, lambda *step: None)
    (run,), before = payload["runs"], json.loads(measured.read_bytes())["runs"][0]
    assert (run["fp32"], run["int8_ptq"]) == (before["fp32"], before["int8_ptq"])  # the same weights
    qat = run["int8_qat"]
    assert (run["seed"], qat["seed"]) == (0, 4)
    assert qat["checkpoint_sha256"] != run["checkpoint_sha256"]
    assert (qat["method"], qat["calibration_frames"], len(qat["layers"])) == ("learned", 0, 20)
    assert 0 < qat["agreement"] < run["int8_ptq"]["agreement"]  # its weights are others than fp32's
    assert 0 < qat["fp32"]["miou"] != run["fp32"]["miou"]


def test_a_checkpoint_is_exported_and_judged_at_the_size_behind_it(data, write_checkpoint, measured):
    plain = write_checkpoint("plain.pt")
    tuned = write_checkpoint("tuned.pt", 4, plain, qat=True, init="plain.pt")
    larger = [Path(f"{path}@96x128") for path in (plain, tuned)]
    payload = quantised.bench_quantised([plain, larger[0]], [tuned], data, HOLDOUT, 1, lambda *step: None)
    own, other = payload["runs"]
    assert (own["size_hw"], other["size_hw"]) == ([64, 96], [96, 128])
    assert other["gmacs"] == pytest.approx(2 * own["gmacs"])
    assert own["int8_qat"]
    assert other["fp32"]["miou"] != own["fp32"]["miou"]
    rows = [line.split(" | ")[1] for line in markdown_from_record(payload).splitlines() if "| fcn8s" in line]
    assert rows == ["64x96", "96x128"]
    with pytest.raises(UsageError, match=r"the size behind .* is 'big'"):
        quantised.open_trained(Path(f"{plain}@big"), HOLDOUT)


def test_both_kinds_of_checkpoint_in_their_place(write_checkpoint):
    plain, tuned = write_checkpoint("plain.pt"), write_checkpoint("qat.pt", qat=True, init="plain.pt")
    assert quantised.open_trained(tuned, HOLDOUT, qat=True).config["qat"]
    with pytest.raises(UsageError, match="was trained with --qat"):
        quantised.open_trained(tuned, HOLDOUT)
    with pytest.raises(UsageError, match="was trained without --qat"):
        quantised.open_trained(plain, HOLDOUT, qat=True)


def run_of(model, params, seed, fp32, ptq, qat=None):
    def scores(miou):
        return {"miou": miou, "agreement": 0.99, "calibration_frames": 64}

    return {
        "model": model,
        "seed": seed,
        "params": params,
        "gmacs": 2.5,
        "fp32": {"miou": fp32},
        "int8_ptq": scores(ptq),
        "int8_qat": qat and scores(qat),
    }


def table_of(runs):
    text = markdown_from_record({"data": {"name": "camvid", "holdout": "0006R0", "images": 101}, "runs": runs})
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [dict(zip(lines[0], row, strict=True)) for row in lines[2:]]


def test_means_ranges_and_drops_go_over_seeds():
    runs = [
        run_of("big", 4e6, 0, 0.5, 0.499),
        run_of("small", 1e6, 1, 0.44, 0.439, 0.4405),
        run_of("small", 1e6, 0, 0.42, 0.416, 0.4195),
    ]
    small, big = table_of(runs)
    assert (small["model"], small["seeds"], small["params M"]) == ("small", "2", "1.00")
    assert small["fp32"] == "0.4300 (0.4200 to 0.4400)"
    assert small["int8-ptq drop"] == "0.25 (0.10 to 0.40)"  # points, seed by seed
    assert small["int8-qat drop"] == "0.00 (-0.05 to 0.05)"
    assert (big["fp32"], big["int8-ptq drop"], big["int8-qat"], big["int8-qat drop"]) == ("0.5000", "0.10", "-", "-")


def test_records_of_before_have_no_column_of_val():
    old = run_of("one", 1e6, 0, 0.44, 0.439)
    assert not [name for name in table_of([old])[0] if "val" in name]
    new = run_of("one", 1e6, 0, 0.44, 0.439)
    new["fp32"]["val"] = {"miou": 0.61}
    new["int8_ptq"]["val"] = {"miou": 0.6}
    (row,) = table_of([new])
    assert (row["fp32 val"], row["int8-ptq val"]) == ("0.6100", "0.6000")


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_records_that_are_there_give_their_tables(path):
    assert "int8-ptq drop" in markdown_from_record(quantised.read_record(path))


def test_a_mean_over_some_seeds_says_so_and_columns_of_nothing_go():
    runs = [run_of("one", 1e6, 0, 0.44, 0.439, 0.44), run_of("one", 1e6, 1, 0.42, 0.416)]
    assert table_of(runs)[0]["int8-qat"] == "0.4400, 1 of 2 seeds"
    assert not [name for name in table_of(runs[1:])[0] if "qat" in name]


@pytest.mark.parametrize("options", [{"holdout": ""}, {"holdout": "a"}, {"splits": ("train", "val")}])
def test_a_checkpoint_that_has_seen_the_sequence_is_refused(write_checkpoint, data, tmp_path, options):
    path = write_checkpoint("seen.pt", **options)
    with pytest.raises(UsageError, match="may have seen b"):
        quantised.open_trained(path, HOLDOUT)


def test_each_seed_counts_once_and_none_is_left_over(write_checkpoint):
    first = write_checkpoint("a.pt", 0)
    one, same, other = (
        quantised.open_trained(path, HOLDOUT)
        for path in (first, write_checkpoint("b.pt", 0, first), write_checkpoint("c.pt", 1))
    )
    assert quantised.paired([one, other], [same]) == [(one, same), (other, None)]
    with pytest.raises(UsageError, match="give one of them"):
        quantised.paired([one, same], [])
    with pytest.raises(UsageError, match="has no checkpoint to be compared with"):
        quantised.paired([one], [same, other])


def test_what_was_fine_tuned_is_compared_with_what_it_came_from_in_any_order(write_checkpoint):
    """By order, the one that was tuned from the second seed would be compared with the first."""
    paths = [write_checkpoint(f"seed{seed}.pt", seed) for seed in range(3)]
    seeds = [quantised.open_trained(path, HOLDOUT) for path in paths]
    tuned = {
        seed: quantised.open_trained(
            write_checkpoint(f"qat{seed}.pt", seed, paths[seed], qat=True, init="x.pt"), HOLDOUT, qat=True
        )
        for seed in (2, 1)
    }
    assert quantised.paired(seeds, list(tuned.values())) == [
        (seeds[0], None),
        (seeds[1], tuned[1]),
        (seeds[2], tuned[2]),
    ]
    with pytest.raises(UsageError, match=rf"qat2\.pt .* started from sha256 {tuned[2].start_sha256[:12]}, which none"):
        quantised.paired(seeds[:2], list(tuned.values()))
    silent = quantised.open_trained(write_checkpoint("silent.pt", qat=True, init="x.pt"), HOLDOUT, qat=True)
    with pytest.raises(UsageError, match="it does not say"):
        quantised.paired(seeds, [silent])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to measure"),
        (["x.pt", "--data", ".", "-o", "x.json"], "nothing to measure"),
        (["x.onnx", "--data", ".", "--holdout", "b", "-o", "x.json"], "does not end in .pt"),
        (["--from", "missing.json"], "missing.json cannot be read"),
        (["--from", "missing.json", "x.pt"], "leave checkpoints"),
        (["--from", "{other}"], "is of benchmark bench"),
    ],
)
def test_bad_use_ends_in_a_sentence(tmp_path, capsys, arguments, words):
    other = tmp_path / "other.json"
    other.write_text('{"benchmark": "bench"}')
    assert quantised.main([argument.format(other=other) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in " ".join(printed.err.split())
