"""The picture of a model on a data set: which images, what is written above them, where the errors are."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from fcn_edge import pixels
from fcn_edge.benchmarks import pictures
from fcn_edge.contract import Contract
from fcn_edge.dataset import open_dataset
from fcn_edge.errors import ModelError, UsageError
from fcn_edge.runtime.engine_echo import EchoEngine
from fcn_edge.training import plots

NAMES = ("road", "car")
PALETTE = ((20, 40, 200), (30, 160, 30))


def contract(names=NAMES):
    return Contract("echo", (16, 24), names, PALETTE[: len(names)], (0.0,) * 3, (1.0,) * 3, (8,))


@pytest.fixture
def data(tmp_path):
    """Seven images, dark on the left and bright on the right, which the echo engine takes for road and car."""
    for index in range(7):
        image = np.full((16, 24, 3), 64, np.uint8)
        image[:, 12:] = 192
        label = np.zeros((16, 24), np.uint8)
        label[:, 12:] = 1
        label[: 2 * index, :6] = 1  # wrong: 12 pixels a step of 384
        label[14:] = 255
        pixels.write_png(tmp_path / "images" / "train" / f"{'a' if index else 'b'}_{index}.png", image)
        pixels.write_png(tmp_path / "masks" / "train" / f"{'a' if index else 'b'}_{index}.png", label)
    (tmp_path / "classes.json").write_text(json.dumps({"names": NAMES, "palette": PALETTE}))
    return tmp_path


def test_images_are_spread_over_the_split_and_scored_one_by_one(data, monkeypatch, tmp_path):
    drawn = {}
    monkeypatch.setattr(plots, "draw_grid", lambda path, rows, contract, **rest: drawn.update(rows=rows, **rest))
    dataset = open_dataset(data, holdout="a")
    pictures.draw_pictures(tmp_path / "x.png", EchoEngine(contract()), dataset, count=3)
    # In the k-th image 12k of the 336 pixels that count are wrong: cars taken for road.
    shares = [(1 - 12 * k / 336, ((168 - 12 * k) / 168 + 168 / (168 + 12 * k)) / 2) for k in (1, 4, 6)]
    names = ("a_1", "a_4", "a_6")
    assert [caption.split(":")[0] for caption in drawn["captions"]][::2] == ["a_1", "a_6"]
    assert drawn["captions"][0] == f"{names[0]}: pixel accuracy {shares[0][0]:.3f}, mIoU {shares[0][1]:.3f}"
    assert drawn["captions"][2] == f"{names[2]}: pixel accuracy {shares[2][0]:.3f}, mIoU {shares[2][1]:.3f}"
    assert drawn["errors"] is True
    pictures.draw_pictures(tmp_path / "x.png", EchoEngine(contract()), dataset, count=50)
    assert len(drawn["rows"]) == 6  # no image twice


def test_the_command_writes_a_picture_with_the_errors_in_it(small_onnx, drawn_root, tmp_path, capsys):
    out = tmp_path / "deep" / "grid.png"
    arguments = [str(small_onnx), "--data", str(drawn_root), "--count", "2", "--threads", "1", "-o", str(out)]
    assert pictures.main(arguments) == 0
    assert capsys.readouterr().out == f"{out}\n"
    rgb = pixels.read_image(out)[..., ::-1]
    wrong = (rgb == plots.WRONG).all(2)
    quarter = rgb.shape[1] // 4
    assert wrong[:, -quarter:].sum() > 10_000  # the masks are noise, so most pixels are wrong
    assert wrong[:, :-quarter].sum() < 0.05 * wrong.sum()  # a swatch of the legend, and chance in the noisy images
    assert [path.name for path in out.parent.iterdir()] == ["grid.png"]


def test_what_cannot_be_drawn_is_refused(data, tmp_path, capsys):
    dataset, engine = open_dataset(data), EchoEngine(contract())
    for out, count, words in (("x.jpg", 1, "does not end in .png"), ("x.png", 0, "expected at least 1")):
        with pytest.raises(UsageError, match=words):
            pictures.draw_pictures(tmp_path / out, engine, dataset, "train", count)
    with pytest.raises(ModelError, match="classes"):
        pictures.draw_pictures(tmp_path / "x.png", EchoEngine(contract(("road",))), dataset, "train")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        pictures.draw_pictures(tmp_path / "file" / "x.png", engine, dataset, "train", 1)
    assert pictures.main(["nonsense", "--data", str(data), "-o", str(tmp_path / "x.png")]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_merged_classes_are_named_as_in_training(data, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pictures, "open_any_engine", lambda *_, **__: EchoEngine(contract(("thing",))))
    arguments = ["any.onnx", "--data", str(data), "--split", "train", "-o", str(tmp_path / "x.png")]
    assert pictures.main([*arguments, "--classes", "thing=road+car"]) == 0
    assert (tmp_path / "x.png").is_file()
    assert pictures.main(arguments) == 4
    assert "classes" in capsys.readouterr().err
