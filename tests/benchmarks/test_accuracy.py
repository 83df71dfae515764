"""Accuracy: exact numbers on drawn data, what is null, what is refused."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fcn_edge import pixels
from fcn_edge.benchmarks.accuracy import evaluate, evaluation_table
from fcn_edge.contract import Contract
from fcn_edge.dataset import open_dataset
from fcn_edge.errors import DataError, EngineError, ModelError, UsageError
from fcn_edge.runtime.engine import Engine
from fcn_edge.runtime.engine_echo import EchoEngine

NAMES = ("road", "car", "sky", "tree")


def contract(names=NAMES, size_hw=(4, 6)):
    colors = tuple((index, 0, 0) for index in range(len(names)))
    return Contract("echo", size_hw, tuple(names), colors, (0.0,) * 3, (1.0,) * 3, (8,))


def image_of(labels, count=4):
    """The picture that the echo engine segments as ``labels``: the middle of each class's band of brightness."""
    green = ((labels.astype(np.int64) * 256 + 128) // count).astype(np.uint8)
    return np.stack([np.zeros_like(green), green, np.zeros_like(green)], axis=2)


def write_plain(root: Path, pairs, names=NAMES, split="val"):
    for index, (predicted, target) in enumerate(pairs):
        pixels.write_png(root / "images" / split / f"{index}.png", image_of(predicted, len(names)))
        pixels.write_png(root / "masks" / split / f"{index}.png", target)
    (root / "classes.json").write_text(json.dumps({"names": list(names)}))
    return open_dataset(root)


def test_known_confusion_gives_exact_numbers(tmp_path):
    target = np.array([[0, 0, 0, 0, 1, 1]] * 4, np.uint8)  # 16 road, 8 car
    predicted = target.copy()
    predicted[0, :3] = 1  # 3 road pixels taken for car
    target[3, 5] = 255  # one car pixel does not count: car 7, hit 7
    predicted[3, 5] = 2  # and what the engine says there counts neither
    result = evaluate(EchoEngine(contract()), write_plain(tmp_path, [(predicted, target)]))
    assert result["per_class"] == {"road": 13 / 16, "car": 7 / 10, "sky": None, "tree": None}
    assert result["miou"] == pytest.approx((13 / 16 + 7 / 10) / 2, abs=1e-15)
    assert result["pixel_accuracy"] == pytest.approx(20 / 23, abs=1e-15)
    assert result["confusion"] == [[13, 3, 0, 0], [0, 7, 0, 0], [0] * 4, [0] * 4]  # rows are labels


def test_pixels_of_all_images_are_pooled_and_a_false_class_counts_as_zero(tmp_path):
    road, sky = np.zeros((4, 6), np.uint8), np.full((4, 6), 2, np.uint8)
    dataset = write_plain(tmp_path, [(road, road), (sky, road), (road, road)])
    result = evaluate(EchoEngine(contract()), dataset)
    assert result["images"] == 3
    assert result["per_class"] == {"road": pytest.approx(2 / 3), "car": None, "sky": 0.0, "tree": None}
    assert result["miou"] == pytest.approx(1 / 3)


def test_the_object_is_the_contracts_and_is_json(tmp_path):
    labels = np.zeros((4, 6), np.uint8)
    result = evaluate(EchoEngine(contract()), write_plain(tmp_path, [(labels, labels)]), model="a/b.onnx")
    expected = ["model", "backend", "data", "split", "images", "miou", "pixel_accuracy", "per_class", "confusion"]
    assert list(result) == expected
    assert (result["model"], result["backend"], result["split"]) == ("a/b.onnx", "echo", "val")
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_holdout_is_named_and_is_not_val(tmp_path):
    labels = np.zeros((4, 6), np.uint8)
    for name in ("a_1", "a_2", "b_1"):
        pixels.write_png(tmp_path / "images" / "train" / f"{name}.png", image_of(labels))
        pixels.write_png(tmp_path / "masks" / "train" / f"{name}.png", labels)
    (tmp_path / "classes.json").write_text(json.dumps({"names": list(NAMES)}))
    dataset, engine = open_dataset(tmp_path, holdout="a"), EchoEngine(contract())
    held, rest = evaluate(engine, dataset), evaluate(engine, dataset, "train")
    assert (held["split"], held["holdout"], held["images"]) == ("train", "a", 2)
    assert (rest["split"], rest["without"], rest["images"]) == ("train", "a", 1)
    assert "holdout" not in rest
    whole = evaluate(engine, open_dataset(tmp_path), "train")
    assert (whole["split"], whole["images"]) == ("train", 3)
    assert not {"holdout", "without"} & set(whole)
    titles = [str(evaluation_table(result).title) for result in (held, rest, whole)]
    assert [title.split(" images of ")[1] for title in titles] == ["a", "train without a", "train"]


def test_a_split_where_nothing_counts_has_no_mean(tmp_path):
    ignored = np.full((4, 6), 255, np.uint8)
    result = evaluate(EchoEngine(contract()), write_plain(tmp_path, [(np.zeros((4, 6), np.uint8), ignored)]))
    assert result["miou"] is None
    assert result["pixel_accuracy"] is None
    json.dumps(result, allow_nan=False)


def test_labels_are_compared_at_the_masks_own_resolution(tmp_path):
    labels = np.kron(np.array([[0, 1, 2], [3, 0, 1]], np.uint8), np.ones((8, 8), np.uint8))  # 16x24
    dataset = write_plain(tmp_path, [(labels, labels)])
    shapes = []

    class Spy(EchoEngine):
        def infer(self, frame_bgr):
            found = super().infer(frame_bgr)
            shapes.append(found.shape)
            return found

    result = evaluate(Spy(contract(size_hw=(32, 48))), dataset)
    assert shapes == [(16, 24)]
    assert result["miou"] > 0.8  # edges alone are smeared on the way


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("road", "car"), "only some"),
        (("car", "road", "sky", "tree"), "another order"),
        (("vehicle", "road"), "trained on"),
    ],
)
def test_other_classes_are_refused_by_name(tmp_path, names, words):
    labels = np.zeros((4, 6), np.uint8)
    dataset = write_plain(tmp_path, [(labels, labels)])
    with pytest.raises(ModelError, match=words) as caught:
        evaluate(EchoEngine(contract(names)), dataset, model="best.pt")
    assert "best.pt" in str(caught.value)
    assert str(dataset.root) in str(caught.value)
    assert names[0] in str(caught.value)


def test_a_choice_of_classes_is_evaluated_with_the_same_choice(tmp_path):
    target = np.array([[0, 0, 1, 1, 2, 3]] * 4, np.uint8)
    write_plain(tmp_path, [(np.array([[0, 0, 1, 1, 0, 1]] * 4, np.uint8), target)])
    choice = ("ground=road", "thing=car+tree")
    dataset = open_dataset(tmp_path, choice)
    engine = EchoEngine(contract(("ground", "thing")))
    image = image_of(np.array([[0, 0, 1, 1, 0, 1]] * 4, np.uint8), 2)
    pixels.write_png(dataset.samples("val")[0].image, image)
    result = evaluate(engine, dataset)  # the sky column is ignored, the rest is right
    assert result["per_class"] == {"ground": 1.0, "thing": 1.0}


def test_progress_is_told_after_each_image(tmp_path):
    labels = np.zeros((4, 6), np.uint8)
    seen = []
    dataset = write_plain(tmp_path, [(labels, labels)] * 3)
    evaluate(EchoEngine(contract()), dataset, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_an_incomplete_split_is_refused(tmp_path):
    labels = np.zeros((4, 6), np.uint8)
    write_plain(tmp_path, [(labels, labels)] * 2)
    (tmp_path / "masks" / "val" / "1.png").unlink()
    with pytest.raises(DataError, match="has no mask") as caught:
        evaluate(EchoEngine(contract()), open_dataset(tmp_path))
    assert len(caught.value.problems) == 1


def test_an_unknown_split_is_refused(tmp_path):
    labels = np.zeros((4, 6), np.uint8)
    with pytest.raises(UsageError, match="no images in split 'test'"):
        evaluate(EchoEngine(contract()), write_plain(tmp_path, [(labels, labels)]), "test")


@pytest.mark.parametrize(("answer", "words"), [(np.full((4, 6), 9, np.uint8), "class 9"), (np.zeros((4, 5)), "4, 5")])
def test_an_engine_that_answers_nonsense_is_refused(tmp_path, answer, words):
    class Broken(Engine):
        backend = "broken"

        def infer(self, frame_bgr):
            return answer

        def _segment(self, image_bgr):
            raise NotImplementedError

    labels = np.zeros((4, 6), np.uint8)
    with pytest.raises(EngineError, match=words):
        evaluate(Broken(contract(), "fp32"), write_plain(tmp_path, [(labels, labels)]))


def test_the_table_names_every_class_and_says_absent(tmp_path):
    labels = np.zeros((4, 6), np.uint8)
    labels[0, 0] = 1
    result = evaluate(EchoEngine(contract()), write_plain(tmp_path, [(np.zeros((4, 6), np.uint8), labels)]))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(evaluation_table(result))
    text = console.export_text()
    for words in ("road", "car", "absent", "0.9583", "0.0000", "mean IoU", "0.4792"):
        assert words in text


def test_the_table_says_what_a_class_is_taken_for(tmp_path):
    target = np.array([[0, 0, 0, 0, 1, 1]] * 4, np.uint8)
    predicted = target.copy()
    predicted[0, :3], predicted[1, 0], predicted[2, 0] = 1, 2, 2  # of 16: 3 car, 2 sky
    table = evaluation_table(evaluate(EchoEngine(contract()), write_plain(tmp_path, [(predicted, target)])))
    assert [str(column.header) for column in table.columns] == ["class", "IoU", "taken for"]
    assert list(table.columns[2].cells) == ["car 18.8%", "", "", ""]


def test_a_split_without_any_mask_is_incomplete_and_not_empty(tmp_path):
    labels = np.zeros((4, 6), np.uint8)
    write_plain(tmp_path, [(labels, labels)] * 2)
    for mask in (tmp_path / "masks" / "val").iterdir():
        mask.unlink()
    with pytest.raises(DataError, match="is incomplete"):
        evaluate(EchoEngine(contract()), open_dataset(tmp_path))


def test_the_table_takes_names_as_they_are(tmp_path):
    names = ("road [paved]", "[/b]", "sky", "tree")
    labels = np.zeros((4, 6), np.uint8)
    dataset = write_plain(tmp_path, [(labels, labels)], names)
    result = evaluate(EchoEngine(contract(names)), dataset, model="o_[q9]/last.pt")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(evaluation_table(result))
    text = console.export_text()
    for words in ("road [paved]", "[/b]", "o_[q9]/last.pt"):
        assert words in text
