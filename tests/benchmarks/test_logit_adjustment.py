"""Shares of the class weights' lead: taken out of the logits as the loss would, and the trade that it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fcn_edge import metrics  # noqa: E402
from fcn_edge.benchmarks import logit_adjustment  # noqa: E402
from fcn_edge.benchmarks.accuracy import evaluate  # noqa: E402
from fcn_edge.benchmarks.torch_engine import open_torch_engine  # noqa: E402
from fcn_edge.dataset import open_dataset, read_sample  # noqa: E402
from fcn_edge.training.adjustment import shift_logits  # noqa: E402
from fcn_edge.training.checkpoint import load_checkpoint, model_from_checkpoint, save_checkpoint  # noqa: E402
from fcn_edge.training.losses import enet_weights  # noqa: E402


def test_each_share_is_what_shifted_scores_answer(
    held_out_checkpoint: Path, data: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "record.json"
    options = [str(held_out_checkpoint), "--data", str(data), "--holdout", "b", "-o", str(out)]
    assert logit_adjustment.main(options) == 0
    (run,) = msgspec.json.decode(out.read_bytes())["runs"]
    assert [entry["share"] for entry in run["shares"]] == list(logit_adjustment.SHARES)
    assert run["learned_with"] == 0.25
    assert len({entry["miou"] for entry in run["shares"]}) > 1
    dataset = open_dataset(data, (), "b")
    classes = len(dataset.class_names)
    counts = sum(
        np.bincount(read_sample(dataset, sample)[1].ravel(), minlength=256)[:classes]
        for sample in dataset.samples("train")
    )
    for entry in run["shares"]:
        model, _ = model_from_checkpoint(held_out_checkpoint)
        shift_logits(model, (0.25 - entry["share"]) * enet_weights(torch.from_numpy(counts)).log())
        matrix = np.zeros((classes, classes), np.int64)
        for sample in dataset.samples("val"):
            image, target = read_sample(dataset, sample)
            with torch.no_grad():
                labels = model(torch.from_numpy(image).permute(2, 0, 1)[None]).argmax(1)[0].numpy()
            matrix += metrics.confusion(labels, target, classes, dataset.ignore_id)
        assert entry["miou"] == pytest.approx(metrics.miou(matrix), abs=0.01)  # an interpolation fades at the border
        assert entry["pixel_accuracy"] == pytest.approx(metrics.pixel_accuracy(matrix), abs=0.01)
    assert capsys.readouterr().out.count(" %)") == len(logit_adjustment.SHARES)


def test_images_of_another_size_are_judged_as_eval_judges_them(
    held_out_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """The checkpoint's size, or that which is asked for, is not the images' own: 64x96."""
    checkpoint = load_checkpoint(held_out_checkpoint)
    small = tmp_path / "small.pt"
    save_checkpoint(small, replace(checkpoint, contract=replace(checkpoint.contract, size_hw=(40, 56))))
    out = tmp_path / "record.json"
    models = [str(small), f"{held_out_checkpoint}@40x56"]
    assert logit_adjustment.main([*models, "--data", str(data), "--holdout", "b", "-o", str(out)]) == 0
    with open_torch_engine(small, 1, "cpu") as engine:
        expected = evaluate(engine, open_dataset(data, (), "b"), "val")
    for run in msgspec.json.decode(out.read_bytes())["runs"]:
        (found,) = (entry for entry in run["shares"] if entry["share"] == run["learned_with"])
        assert (found["miou"], found["pixel_accuracy"]) == (expected["miou"], expected["pixel_accuracy"])


def test_a_checkpoint_that_has_seen_the_sequence_is_refused(
    held_out_checkpoint: Path, data: Path, tmp_path: Path, capsys
) -> None:
    options = [str(held_out_checkpoint), "--data", str(data), "--holdout", "a", "-o", str(tmp_path / "record.json")]
    assert logit_adjustment.main(options) == 2
    assert "may have seen a" in capsys.readouterr().err
    assert not (tmp_path / "record.json").exists()
