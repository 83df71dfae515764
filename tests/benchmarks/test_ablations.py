"""The table of ablations: how runs are grouped and compared, what is left out or refused, the record by itself."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fcn_edge.benchmarks.ablations import ablations_from_runs, main
from fcn_edge.benchmarks.ablations_table import ablations_from_record, markdown_from_ablations
from fcn_edge.classes import distinct_palette
from fcn_edge.contract import Contract
from fcn_edge.errors import ModelError, UsageError
from fcn_edge.training.checkpoint import Checkpoint, save_checkpoint
from fcn_edge.training.config import config_from_dict

Make = Callable[..., Path]

RECORDS = [
    path
    for path in sorted((Path(__file__).parents[2] / "benchmarks" / "records").glob("*.json"))
    if '"benchmark": "ablations"' in path.read_text()
]


@pytest.fixture
def run(tmp_path: Path) -> Make:
    """Writes the folder of a run without weights: name, mIoU after the last epoch, options."""

    def make(name: str, miou: float | None, *, epoch: int = 10, seconds: float = 120.0, **options: Any) -> Path:
        names = tuple(options.pop("names", ("road", "sky")))
        config = config_from_dict(
            {"data": "/far/away/camvid", "holdout": "0006R0", "epochs": 10, "size": [96, 128], "crop": [64, 96]}
            | {"out": str(tmp_path / name), "model": "fcn8s-edge-n"}
            | options
        )
        contract = Contract(config.model, (96, 128), names, distinct_palette(len(names)), (0.0,) * 3, (1.0,) * 3, (8,))
        history: list[dict[str, Any]] = [{"epoch": 1, "val_miou": 0.99, "val_pixel_accuracy": 0.9, "val_per_class": {}}]
        last = {"val_miou": miou, "val_pixel_accuracy": 0.5, "val_per_class": {names[0]: miou, names[1]: None}}
        history.append({"epoch": epoch} | (last if miou is not None else {}))
        provenance = {
            "data": Path(config.data).name,
            "torch": "2",
            "teacher": ",".join(config.teacher),
            "teacher_sha256": "ab",
            "train_images": "28",
        }
        save_checkpoint(
            tmp_path / name / "last.pt",
            Checkpoint(
                contract, config, {}, {}, epoch=epoch, step=7 * epoch, seconds=seconds, history=history,
                provenance=provenance,
            ),
        )  # fmt: skip
        return tmp_path / name

    return make


def test_runs_that_differ_in_the_seed_make_one_line(run: Make) -> None:
    folders = [
        run("ohem", 0.30, loss="ohem", seed=5),
        run("kernel-1", 0.46, kernel_lr=0.5, seed=1, device="cpu", threads=2),
        run("base-0", 0.40, seed=0),
        run("kernel-0", 0.50, kernel_lr=0.5, seed=0, seconds=240.0, data="/elsewhere/camvid"),
        run("base-1", 0.44, seed=1, val_every=5),
        run("mixed", 0.45, augment={"paste": 0.5, "scale": [0.5, 1.5]}, freeze_bn=True, crop="96x96", seed=2),
    ]
    record = ablations_from_runs(folders, "base-0")
    changes = [line.changes for line in record.results]
    assert changes == [
        {},
        {"kernel_lr": 0.5},
        {"crop": [96, 96], "freeze_bn": True, "augment.scale": [0.5, 1.5], "augment.paste": 0.5},
        {"loss": "ohem"},
    ]
    base, kernel, mixed, ohem = record.results
    assert (base.miou, base.difference) == (pytest.approx(0.42), 0)
    assert (kernel.miou, kernel.lowest, kernel.highest) == (pytest.approx(0.48), 0.46, 0.50)
    assert kernel.difference == pytest.approx(0.06)
    assert kernel.differences == {0: pytest.approx(0.10), 1: pytest.approx(0.02)}
    assert (mixed.difference, ohem.difference) == (None, None)  # the baseline has none of their seeds
    assert [run.name for run in kernel.runs] == ["kernel-0", "kernel-1"]
    assert (record.data, record.split, record.config["loss"]) == ("camvid", "0006R0", "ce")

    table = markdown_from_ablations(record)
    assert "| nothing: the baseline | 0, 1 | 0.420 | 0.400..0.440 |  | 2 |" in table
    assert "| `--kernel-lr 0.5` | 0, 1 | 0.480 | 0.460..0.500 | +0.060 | 3 | 0: +0.100, 1: +0.020 |" in table
    assert "| `--crop 96x96 --freeze-bn --scale 0.5,1.5 --paste 0.5` | 2 | 0.450 |  |  | 2 |  |" in table
    assert "| `--loss ohem` | 5 | 0.300 |  |  | 2 |  |" in table
    assert "| changed | road | sky |" in table
    assert "| `--kernel-lr 0.5` | 0.480 |  |" in table  # a class that was never seen has no figure


def test_a_difference_is_that_of_runs_of_one_seed(run: Make) -> None:
    """One seed against the mean of several would tell the seeds' difference too."""
    folders = [run("base-0", 0.40, seed=0), run("base-1", 0.44, seed=1)]
    folders += [run("flat-1", 0.43, seed=1, aux=0.0), run("flat-7", 0.90, seed=7, aux=0.0)]
    flat = ablations_from_runs(folders, "base-0").results[1]
    assert flat.differences == {1: pytest.approx(-0.01)}
    assert flat.difference == pytest.approx(-0.01)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_records_state_what_their_runs_say(path: Path) -> None:
    stated = [line["difference"] for line in json.loads(path.read_text())["results"]]
    assert stated == [line.difference for line in ablations_from_record(path).results]


def test_the_first_run_is_the_baseline_and_its_options_may_be_the_unusual_ones(run: Make) -> None:
    record = ablations_from_runs([run("with", 0.4, freeze_bn=True, ema=0.5), run("without", 0.5, ema=0.5)])
    assert [line.changes for line in record.results] == [{}, {"freeze_bn": False}]
    assert "`--no-freeze-bn`" in markdown_from_ablations(record)


def test_epochs_are_passes_over_the_images_however_a_run_counts_them(run: Make) -> None:
    record = ablations_from_runs([run("by-images", 0.4), run("by-steps", 0.4, steps_per_epoch=7, batch=8, seed=1)])
    assert [one.epochs for line in record.results for one in line.runs] == [10, 20]  # 70 steps of 8 over 28 images


def test_what_is_not_finished_is_left_out_and_told(run: Make, tmp_path: Path) -> None:
    (tmp_path / "run.log").touch()
    folders = [
        run("running", 0.9, epoch=4),
        run("blind", None),
        tmp_path / "run.log",
        tmp_path / "none",
        run("fine", 0.4),
        run("by-the-clock", 0.5, epoch=4, max_minutes=2.0, seconds=121.0),
        run("clock-running", 0.6, epoch=4, max_minutes=3.0, seconds=121.0),
    ]
    told = io.StringIO()
    record = ablations_from_runs(folders, console=Console(file=told, width=1000))
    assert [run.name for line in record.results for run in line.runs] == ["fine", "by-the-clock"]
    text = told.getvalue()
    assert "running is left out: it has done 4 of 10 epochs" in text
    assert "clock-running is left out: it has done 4 of 10 epochs" in text
    assert "blind is left out: it was not validated" in text
    assert "run.log is left out: it holds no last.pt" in text
    with pytest.raises(UsageError, match=r"none of .* is a finished run"):
        ablations_from_runs(folders[:4])


def test_runs_that_do_not_compare_are_refused(run: Make, tmp_path: Path) -> None:
    base = run("base", 0.4)
    with pytest.raises(UsageError, match=r"other was validated on 0001TP of camvid .* but base on 0006R0 of camvid"):
        ablations_from_runs([base, run("other", 0.4, holdout="0001TP")])
    with pytest.raises(UsageError, match=r"classes was validated on .*\(3 classes\)"):
        ablations_from_runs([base, run("classes", 0.4, names=("a", "b", "c"))])
    with pytest.raises(UsageError, match="base and twin have the same options and the same seed 0"):
        ablations_from_runs([base, run("twin", 0.5)])
    with pytest.raises(UsageError, match="the baseline 'bass' is none of the finished runs; they are: base"):
        ablations_from_runs([base], "bass")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "last.pt").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be read"):
        ablations_from_runs([base, tmp_path / "bad"])


def test_the_record_gives_the_same_table_without_runs_paths_or_torch(
    run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = "/home/someone/runs/big/last.pt"
    folders = [run("base", 0.4), run("taught", 0.45, teacher=teacher, distill=2.0)]
    path = tmp_path / "records" / "ablations.json"
    assert main([*map(str, folders), "-o", str(path)]) == 0
    table = capsys.readouterr().out
    assert "| `--teacher big/last.pt --distill 2` | 0 | 0.450 |  | +0.050 | 2 |" in table
    fields = json.loads(path.read_text())
    assert (fields["benchmark"], len(fields["results"])) == ("ablations", 2)
    assert {"cpu", "commit", "modified"} <= fields["machine"].keys()
    for word in ("someone", "far/away", str(tmp_path)):
        assert word not in path.read_text()

    assert ablations_from_record(path).results == ablations_from_runs(folders).results
    assert markdown_from_ablations(ablations_from_record(path)) == table
    script = (
        "import sys; from fcn_edge.benchmarks.ablations import main; code = main(sys.argv[1:]); "
        "sys.exit('torch' in sys.modules or code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--from", str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "either folders of runs or --from"),
        (["run", "--from", "x.json"], "either folders of runs or --from"),
        (["--from", "x.json", "--baseline", "a"], "--from takes a record as it is"),
        (["--from", "none.json"], "none.json is no record of ablations"),
        (["--from", "other.json"], "other.json is no record of ablations"),
        (["--from", "skip_head.json"], "is a record of 'skip_head'"),
    ],
)
def test_what_cannot_be_used_is_told(
    run: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(run("base", 0.4)), "-o", "skip_head.json"]) == 0
    text = Path("skip_head.json").read_text().replace('"benchmark": "ablations"', '"benchmark": "skip_head"')
    Path("skip_head.json").write_text(text)
    Path("other.json").write_text('{"benchmark": "ablations"}')
    assert main(arguments) == 2
    assert words in capsys.readouterr().err.replace("\n", " ")
