"""What ships: the file, its card and its record say the same, and nothing of the machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

import torch

from fcn_edge import street
from fcn_edge.benchmarks import ship
from fcn_edge.benchmarks.accuracy import evaluate
from fcn_edge.dataset import open_dataset
from fcn_edge.export.facts import facts_from_file
from fcn_edge.pixels import write_png
from fcn_edge.runtime import open_engine
from fcn_edge.training.checkpoint import Checkpoint, load_checkpoint, model_from_checkpoint, save_checkpoint
from fcn_edge.training.config import TrainConfig
from fcn_edge.training.qat import measure_steps, quantised

SIZE_HW = (64, 96)
SCORES = {"miou": 0.4321, "per_class": dict.fromkeys(street.CLASS_NAMES, 0.25)}


@pytest.fixture
def checkout(tmp_path, monkeypatch, lively_model, contract_of) -> Path:
    """A checkout's folders with a checkpoint, a data set and the record of the network's figures."""
    for folder in (ship.MODELS, ship.RECORDS):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    root = Path("data")
    for number in range(12):
        image, labels = street.draw_street(number, 5.0, SIZE_HW)
        split = "val" if number % 6 == 0 else "train"
        write_png(root / "images" / split / f"{number:02d}.png", image)
        write_png(root / "masks" / split / f"{number:02d}.png", labels)
    names = {"names": list(street.CLASS_NAMES), "palette": [list(color) for color in street.PALETTE]}
    (root / "classes.json").write_text(json.dumps(names))
    model = lively_model("fcn8s-edge-n", len(street.CLASS_NAMES))
    contract = replace(contract_of(model, SIZE_HW), class_names=tuple(street.CLASS_NAMES))
    config = TrainConfig(
        data="/home/me/camvid", init="/home/me/runs/before/last.pt", splits=("train", "val"), crop=(64, 64)
    )
    history = [{"epoch": epoch, "loss": 1 / epoch, "seconds": 1.0 * epoch} for epoch in range(1, 101)]
    state = model.state_dict()
    save_checkpoint(
        Path("last.pt"),
        Checkpoint(
            contract,
            config,
            model=state,
            ema=state,
            epoch=100,
            step=500,
            seconds=600.0,
            history=history,
            provenance={"train_images": "12"},
        ),
    )
    run = {"model": model.name, "size_hw": [64, 96], "seed": 0, "fp32": SCORES | {"miou": 0.4333}, "int8_ptq": SCORES}
    Path("record.json").write_text(json.dumps({"benchmark": "quantised", "runs": [run]}))
    return tmp_path


def test_file_card_and_record_agree(checkout) -> None:
    arguments = [
        "last.pt",
        "tiny-n",
        "--data",
        "data",
        "--quantised",
        "record.json",
        "--commit",
        "abc",
        "--story",
        "Grown.",
    ]
    assert ship.main(arguments) == 0
    path = ship.MODELS / "tiny-n.onnx"
    record, card = json.loads((ship.RECORDS / "tiny-n.json").read_text()), path.with_suffix(".md").read_text()
    facts = facts_from_file(path)
    assert record["sha256"] == facts["sha256"]
    assert facts["precision"]["int8"] > 0.5
    with open_engine(path, threads=1) as engine:
        assert evaluate(engine, open_dataset(Path("data")))["miou"] == pytest.approx(record["eval"]["val"]["miou"])
    assert (record["config"]["data"], record["config"]["init"]) == ("camvid", "before/last.pt")
    assert (record["epochs"], record["minutes"], record["commit_trained"]) == (100, 10.0, "abc")
    assert record["history"][-1] == {"epoch": 100, "loss": 0.01, "seconds": 100.0}
    assert len(record["history"]) <= 41
    for words in (
        "`fcn8s-edge-n`",
        "0.432",
        "0.433",
        "| Sky | 0.250 |",
        "Grown.",
        "train + val (12 images",
        "research",
    ):
        assert words in card
    assert "depthwise" not in card
    contract = facts["contract"] | {"model": "fcn4s-efficientnet-lite0"}
    lite = ship.card("tiny-n", facts | {"contract": contract}, record, {"fp32": SCORES, "int8": SCORES})
    for words in (
        "`fcn4s-efficientnet-lite0`: EfficientNet-Lite FCN",
        "--keep '*depthwise*'",
        "(Google), with which it",
    ):
        assert words in lite
    everything = card + json.dumps(record) + path.read_bytes().decode("latin-1")
    assert "/home/me" not in everything
    assert str(checkout) not in everything


def test_learned_ranges_ship_with_what_was_trained_before_them(checkout) -> None:
    saved = load_checkpoint(Path("last.pt"))
    rounding = quantised(model_from_checkpoint(Path("last.pt"))[0])
    frames = [street.draw_street(number, 5.0, SIZE_HW)[0] for number in range(2)]
    measure_steps(rounding, [torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in frames])
    state = rounding.state_dict()
    config = msgspec.structs.replace(saved.config, qat=True, init="last.pt", batch=5, seed=7)
    history = [{"epoch": epoch, "loss": 0.5, "seconds": 30.0 * epoch} for epoch in (1, 2)]
    tuned = replace(saved, config=config, model=state, ema=state, epoch=2, step=10, seconds=60.0, history=history)
    save_checkpoint(Path("qat.pt"), tuned)
    arguments = ["qat.pt", "tiny-n", "--data", "data", "--quantised", "record.json", "--commit", "abc", "--story", "-"]
    assert ship.main([*arguments, "--before", "last.pt"]) == 2  # the record says nothing of learned ranges
    assert not list(ship.MODELS.iterdir())
    judged = json.loads(Path("record.json").read_text())
    judged["runs"][0]["int8_qat"] = SCORES | {"miou": 0.4444, "fp32": SCORES | {"miou": 0.4455}}
    Path("record.json").write_text(json.dumps(judged))
    assert ship.main([*arguments, "--before", "last.pt"]) == 0
    record = json.loads((ship.RECORDS / "tiny-n.json").read_text())
    assert record["int8"]["method"] == "learned"
    assert (record["epochs"], record["before"]["epochs"], record["before"]["minutes"]) == (2, 100, 10.0)
    card = (ship.MODELS / "tiny-n.md").read_text()
    for words in (
        "100 epochs (500 steps of 12 crops of 64x64), seed 0,",
        "learned in 2 epochs (10 steps)",
        "**0.444**",
        "0.433\nmIoU in FP32",  # of the network in floating point, as docs and records say it
    ):
        assert words in card


def test_a_file_of_another_size_is_judged_at_that_size(checkout) -> None:
    arguments = ["last.pt", "tiny-n", "--data", "data", "--quantised", "record.json", "--commit", "abc", "--story", "-"]
    assert ship.main([*arguments, "--size", "96x128"]) == 2  # what it has at 64x96 does not stand for it
    judged = json.loads(Path("record.json").read_text())
    judged["runs"].append(judged["runs"][0] | {"size_hw": [96, 128], "int8_ptq": SCORES | {"miou": 0.4567}})
    Path("record.json").write_text(json.dumps(judged))
    assert ship.main([*arguments, "--size", "96x128"]) == 0
    facts = facts_from_file(ship.MODELS / "tiny-n.onnx")
    card = (ship.MODELS / "tiny-n.md").read_text()
    assert facts["contract"]["size_hw"] == (96, 128)
    assert f"{facts['gmacs']:.2f} at 96x128" in card
    assert "**0.457**" in card


def test_what_is_missing_is_said(checkout, capsys) -> None:
    Path("record.json").write_text(json.dumps({"benchmark": "quantised", "runs": []}))
    arguments = ["last.pt", "tiny-n", "--data", "data", "--quantised", "record.json", "--commit", "abc", "--story", "-"]
    assert ship.main(arguments) == 2
    assert "no run of fcn8s-edge-n" in capsys.readouterr().err
    assert not list(ship.MODELS.iterdir())
    ship.MODELS.rmdir()
    assert ship.main(arguments) == 2
    assert "are not here" in capsys.readouterr().err
