"""Layouts, classes, holdout, and every problem of a data set in one list."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from fcn_edge import dataset
from fcn_edge.classes import CAMVID, distinct_palette
from fcn_edge.errors import DataError, UsageError
from fcn_edge.export.frame_files import frame_files
from fcn_edge.pixels import write_png


def put(path: Path, value: int = 0, size_hw: tuple[int, int] = (4, 6), channels: int = 0) -> None:
    write_png(path, np.full((*size_hw, channels) if channels else size_hw, value, np.uint8))


@pytest.fixture
def camvid_like(tmp_path: Path) -> Path:
    for split, names in {"train": ("a_1", "a_2", "b_1"), "val": ("c_1",)}.items():
        for name in names:
            put(tmp_path / split / f"{name}.png", 50, channels=3)
            put(tmp_path / f"{split}annot" / f"{name}.png", 3)
    return tmp_path


def test_camvid(camvid_like: Path) -> None:
    put(camvid_like / "valannot" / "c_1.png", 11)
    data = dataset.open_dataset(camvid_like)
    assert (data.layout, len(data.class_names), data.ignore_id) == ("camvid", 11, 255)
    assert {split: len(samples) for split, samples in data.splits.items()} == {"train": 3, "val": 1, "test": 0}
    dataset.check(data, ["train", "val"])
    assert (dataset.read_sample(data, data.samples("train")[0])[1] == 3).all()
    assert (dataset.read_sample(data, data.samples("val")[0])[1] == 255).all()  # 11 is void
    with pytest.raises(UsageError, match="train, val"):
        data.samples("test")


def test_one_split_of_camvid_is_enough(tmp_path: Path) -> None:
    put(tmp_path / "test" / "d_1.png", 50, channels=3)
    put(tmp_path / "testannot" / "d_1.png", 3)
    assert [sample.name for sample in dataset.open_dataset(tmp_path).samples("test")] == ["d_1"]


def test_a_holdout_leaves_train_and_becomes_val(camvid_like: Path) -> None:
    data = dataset.open_dataset(camvid_like, holdout="a")
    assert [sample.name for sample in data.samples("train")] == ["b_1"]
    assert [sample.name for sample in data.samples("val")] == ["a_1", "a_2"]
    with pytest.raises(UsageError, match=r"takes 0 of 3 train images; sequences are: a, b$"):
        dataset.open_dataset(camvid_like, holdout="z")


def test_no_holdout_is_offered_that_would_be_refused(camvid_like: Path) -> None:
    """A name without a sequence, such as f00, is none; nor is the sequence that all images are of."""
    for name in ("c", "a_b_1"):
        put(camvid_like / "train" / f"{name}.png", 50, channels=3)
        put(camvid_like / "trainannot" / f"{name}.png", 3)
    with pytest.raises(UsageError, match=r"takes 0 of 5 train images; sequences are: a, a_b, b$"):
        dataset.open_dataset(camvid_like, holdout="c")
    for path in [*camvid_like.glob("train/b_1.png"), *camvid_like.glob("train/c.png")]:
        path.unlink()
    (camvid_like / "train" / "a_b_1.png").unlink()
    with pytest.raises(UsageError, match=r"takes 2 of 2 train images; none can be held out: names are SEQUENCE_NUMBER"):
        dataset.open_dataset(camvid_like, holdout="a")


def test_classes_are_chosen_and_merged(camvid_like: Path) -> None:
    data = dataset.open_dataset(camvid_like, classes=("Car", "ground=Road+Pavement"))
    assert data.class_names == ("Car", "ground")
    assert data.palette == (CAMVID["Car"], CAMVID["Road"])
    assert (data.id_map[8], data.id_map[3], data.id_map[4], data.id_map[0], data.id_map[11]) == (0, 1, 1, 255, 255)
    assert data.id_map[12] == -1
    for choice, words in {
        ("Unicorn",): "no class",
        ("Car", "Car"): "twice",
        ("Car", "x=Car"): "already",
        ("=Car",): "no name",
        (" = Car",): "no name",
    }.items():
        with pytest.raises(UsageError, match=words):
            dataset.open_dataset(camvid_like, classes=choice)


def test_one_class_is_a_name_and_not_its_letters(camvid_like: Path) -> None:
    assert dataset.open_dataset(camvid_like, "Road").class_names == ("Road",)
    assert dataset.open_dataset_for(camvid_like, ("Car",), "thing=Road+Car").class_names == ("thing",)


@pytest.mark.parametrize(("ending", "raw", "expected"), [("TrainIds", 13, 13), ("Ids", 26, 13), ("Ids", 5, 255)])
def test_cityscapes(tmp_path: Path, ending: str, raw: int, expected: int) -> None:
    put(tmp_path / "leftImg8bit" / "val" / "ulm" / "ulm_000_019_leftImg8bit.png", 9, channels=3)
    put(tmp_path / "gtFine" / "val" / "ulm" / f"ulm_000_019_gtFine_label{ending}.png", raw)
    data = dataset.open_dataset(tmp_path)
    assert (data.layout, len(data.class_names)) == ("cityscapes", 19)
    assert data.class_names[13] == "car"
    assert (dataset.read_sample(data, data.samples("val")[0])[1] == expected).all()


def test_plain(tmp_path: Path) -> None:
    put(tmp_path / "images" / "train" / "1.png", 9, channels=3)
    put(tmp_path / "masks" / "train" / "1.png", 200)
    (tmp_path / "classes.json").write_text(json.dumps({"names": ["road", "car"], "ignore_id": 200}))
    data = dataset.open_dataset(tmp_path)
    assert (data.layout, data.class_names) == ("plain", ("road", "car"))
    assert (dataset.read_sample(data, data.samples("train")[0])[1] == 255).all()


def test_256_classes_leave_no_id_to_ignore(tmp_path: Path) -> None:
    put(tmp_path / "images" / "train" / "1.png", 9, channels=3)
    put(tmp_path / "masks" / "train" / "1.png", 255)
    (tmp_path / "classes.json").write_text(json.dumps({"names": [str(number) for number in range(256)]}))
    data = dataset.open_dataset(tmp_path)
    assert data.ignore_id is None
    assert len(set(data.palette)) == 256
    assert (dataset.read_sample(data, data.samples("train")[0])[1] == 255).all()


def test_coloured_masks_are_read_by_the_palette_whatever_classes_are_chosen(tmp_path: Path) -> None:
    """Annotation tools export colours; the choice of classes changes ids and colours, but not those in the files."""
    names = {"names": ["road", "car", "sky"], "palette": [[128, 64, 128], [0, 0, 142], [70, 130, 180]]}
    put(tmp_path / "images" / "train" / "1.png", 9, (1, 3), channels=3)
    (tmp_path / "masks" / "train").mkdir(parents=True)
    write_png(tmp_path / "masks" / "train" / "1.png", np.array([names["palette"]], np.uint8)[..., ::-1].copy())
    (tmp_path / "classes.json").write_text(json.dumps(names))
    for classes, expected in (((), [0, 1, 2]), (("sky", "ground=road"), [1, 255, 0])):
        data = dataset.open_dataset(tmp_path, classes)
        assert dataset.read_sample(data, data.samples("train")[0])[1].tolist() == [expected]


@pytest.mark.parametrize("palette", [[[0, 0, 142], [128, 64, 128]], None])
def test_a_palette_in_a_mask_is_held_to_that_of_the_classes(tmp_path: Path, palette: list | None) -> None:
    """Only to one that was given: the default is VOC's less its first colour, and contradicts every mask of VOC's."""
    put(tmp_path / "images" / "train" / "1.png", 9, (1, 2), channels=3)
    (tmp_path / "masks" / "train").mkdir(parents=True)
    colors = palette or distinct_palette(2)
    mask = PIL.Image.fromarray(np.array([[0, 1]], np.uint8))
    mask.putpalette([*colors[1], *colors[0]])
    mask.save(tmp_path / "masks" / "train" / "1.png")
    more = {"palette": palette} if palette else {}
    (tmp_path / "classes.json").write_text(json.dumps({"names": ["car", "road"], **more}))
    data = dataset.open_dataset(tmp_path)
    assert dataset.read_sample(data, data.samples("train")[0])[1].tolist() == [[1, 0] if palette else [0, 1]]


def test_black_means_nothing_in_coloured_masks_of_camvid(camvid_like: Path) -> None:
    colors = np.array([[CAMVID["Car"], (0, 0, 0), CAMVID["Sky"]]], np.uint8)
    put(camvid_like / "train" / "a_1.png", 9, (1, 3), channels=3)
    write_png(camvid_like / "trainannot" / "a_1.png", np.ascontiguousarray(colors[..., ::-1]))
    data = dataset.open_dataset(camvid_like)
    assert dataset.read_sample(data, data.samples("train")[0])[1].tolist() == [[8, 255, 0]]


def test_every_problem_is_listed(camvid_like: Path) -> None:
    train, annot = camvid_like / "train", camvid_like / "trainannot"
    (annot / "a_1.png").unlink()
    put(annot / "extra.png", 0)
    put(annot / "a_2.png", 0, (4, 7))
    put(annot / "b_1.png", 99)
    put(train / "d_1.png", 9, channels=3)
    put(annot / "d_1.png", 9, channels=3)
    put(annot / "e_1.png", 0)
    (train / "e_1.png").write_bytes((train / "b_1.png").read_bytes()[:40])
    with pytest.raises(DataError) as caught:
        dataset.check(dataset.open_dataset(camvid_like), ["train", "val"])
    problems = caught.value.problems
    for words in ("a_1.png has no mask", "extra.png has no image", "4x6 and 4x7", "holds ids [99]", "(9, 9, 9)",
                  "e_1.png is no readable image"):  # fmt: skip
        assert sum(words in problem for problem in problems) == 1, words
    assert len(problems) == 6
    assert all(problem in str(caught.value) for problem in problems)


def test_images_in_a_folder_of_a_split_are_told(camvid_like: Path) -> None:
    """Nothing is left out in silence; what an editor hides is nobody's data."""
    put(camvid_like / "train" / "2024" / "x_1.png", 50, channels=3)
    put(camvid_like / "train" / ".ipynb_checkpoints" / "a_1-checkpoint.png", 50, channels=3)
    (camvid_like / "train" / "notes").mkdir()
    expected = rf"2024 is a folder; images are looked for in {camvid_like}/train itself"
    with pytest.raises(DataError, match=expected) as caught:
        dataset.check(dataset.open_dataset(camvid_like), ["train"])
    assert len(caught.value.problems) == 1
    for folder in ("train", "trainannot"):
        for path in (camvid_like / folder).glob("*.png"):
            path.unlink()
    with pytest.raises(UsageError, match=rf"has no images in split 'train' \(.*{expected}.*; the splits with .*: val$"):
        dataset.open_dataset(camvid_like).samples("train")


def test_splits_that_are_hidden_are_none(tmp_path: Path) -> None:
    put(tmp_path / "images" / ".ipynb_checkpoints" / "1.png", 9, channels=3)
    put(tmp_path / "images" / "train" / "1.png", 9, channels=3)
    put(tmp_path / "masks" / "train" / "1.png", 0)
    (tmp_path / "classes.json").write_text('{"names": ["road"]}')
    assert set(dataset.open_dataset(tmp_path).splits) == {"train"}


def test_files_of_one_name_are_told(camvid_like: Path) -> None:
    put(camvid_like / "train" / "a_1.jpg.png", 50, channels=3)
    (camvid_like / "train" / "a_1.jpg.png").rename(camvid_like / "train" / "a_1.jpg")
    (camvid_like / "trainannot" / "b_1.bmp").write_bytes((camvid_like / "trainannot" / "b_1.png").read_bytes())
    with pytest.raises(DataError) as caught:
        dataset.check(dataset.open_dataset(camvid_like), ["train"])
    assert len(caught.value.problems) == 2
    assert "a_1.png has no mask of its own: it shares its name with a_1.jpg" in str(caught.value)
    assert "b_1.png shares its name with b_1.bmp, and an image has one mask: remove one" in str(caught.value)


@pytest.mark.parametrize(("size_hw", "hint"), [((6, 4), ": is the photo turned by its EXIF?"), ((6, 6), "")])
def test_a_mask_that_lies_on_its_side_is_told_as_that(camvid_like: Path, size_hw: tuple[int, int], hint: str) -> None:
    put(camvid_like / "trainannot" / "a_1.png", 3, size_hw)
    data = dataset.open_dataset(camvid_like)
    with pytest.raises(DataError) as caught:
        dataset.read_sample(data, data.samples("train")[0])
    assert str(caught.value).endswith(f"they must be equal{hint}")


def test_folders_without_splits_or_inside_them_get_a_remedy(tmp_path: Path) -> None:
    put(tmp_path / "flat" / "images" / "1.png", 9, channels=3)
    put(tmp_path / "flat" / "masks" / "1.png", 0)
    with pytest.raises(UsageError, match="move them to images/train and images/val, masks likewise"):
        dataset.open_dataset(tmp_path / "flat")
    for split in ("train", "valid"):
        put(tmp_path / "inside" / split / "images" / "1.png", 9, channels=3)
        put(tmp_path / "inside" / split / "masks" / "1.png", 0)
    with pytest.raises(UsageError, match=r"no known layout .*: move train/images to images/train and train/masks to"):
        dataset.open_dataset(tmp_path / "inside")


def test_a_check_tells_how_far_it_is(camvid_like: Path) -> None:
    seen: list[tuple[int, int]] = []
    dataset.check(dataset.open_dataset(camvid_like), ["train", "val"], lambda *state: seen.append(state))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_no_layout(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(UsageError, match=r"no known layout .*pictures"):
        dataset.open_dataset(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        dataset.open_dataset(tmp_path / "missing")


@pytest.mark.parametrize(
    ("raw", "name"), [(7, "road"), (17, "pole"), (24, "person"), (25, "rider"), (28, "bus"), (33, "bicycle")]
)
def test_label_ids_of_cityscapes(tmp_path: Path, raw: int, name: str) -> None:
    put(tmp_path / "leftImg8bit" / "val" / "ulm" / "ulm_000_019_leftImg8bit.png", 9, channels=3)
    put(tmp_path / "gtFine" / "val" / "ulm" / "ulm_000_019_gtFine_labelIds.png", raw)
    data = dataset.open_dataset(tmp_path)
    labels = dataset.read_sample(data, data.samples("val")[0])[1]
    assert {data.class_names[label] for label in np.unique(labels)} == {name}


@pytest.mark.parametrize(("ending", "raw"), [("TrainIds", 19), ("TrainIds", 254), ("Ids", 34), ("Ids", 254)])
def test_what_is_no_id_of_cityscapes_is_refused(tmp_path: Path, ending: str, raw: int) -> None:
    put(tmp_path / "leftImg8bit" / "val" / "ulm" / "ulm_000_019_leftImg8bit.png", 9, channels=3)
    put(tmp_path / "gtFine" / "val" / "ulm" / f"ulm_000_019_gtFine_label{ending}.png", raw)
    data = dataset.open_dataset(tmp_path)
    with pytest.raises(DataError, match=rf"holds ids \[{raw}\]"):
        dataset.read_sample(data, data.samples("val")[0])


def test_with_a_holdout_what_the_folder_val_lacks_is_nobodys_concern(camvid_like: Path) -> None:
    (camvid_like / "valannot" / "c_1.png").unlink()
    with pytest.raises(DataError, match="is incomplete"):
        dataset.complete_samples(dataset.open_dataset(camvid_like), "val")
    data = dataset.open_dataset(camvid_like, holdout="a")
    assert [sample.name for sample in dataset.complete_samples(data, "val")] == ["a_1", "a_2"]


@pytest.mark.parametrize("inside", ["", "val", "valannot"])
def test_a_folder_that_may_not_be_read_is_one_sentence(
    inside: str, camvid_like: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patched, as root may read every folder."""
    root = camvid_like if inside else camvid_like / "val"
    refused, listed = root / inside, Path.iterdir

    def iterdir(path: Path):
        if path == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(UsageError, match=f"data folder {refused} cannot be read: Permission denied"):
        dataset.open_dataset(root)
    if not inside:
        with pytest.raises(UsageError, match=f"folder {refused} cannot be read: Permission denied"):
            frame_files(refused)


def test_a_name_that_the_system_does_not_take_is_one_sentence(tmp_path: Path) -> None:
    for name in ("x" * 300, "x" * 300 + ".png"):
        with pytest.raises(UsageError, match=r"cannot be read: File name too long|names no image"):
            frame_files(tmp_path / name)


def test_a_file_in_a_folder_that_may_not_be_entered_is_one_sentence(tmp_path: Path, monkeypatch) -> None:
    """Patched, as root may enter every folder; Python 3.14 says of such a file that there is none."""

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(UsageError, match=r"closed/x\.png cannot be read: Permission denied"):
        frame_files(tmp_path / "closed" / "x.png")


def test_an_empty_name_is_no_folder() -> None:
    """It would be the current one, as where a variable of a script is empty."""
    with pytest.raises(UsageError, match="'' names no folder of data; is a variable empty"):
        dataset.open_dataset("")


def test_a_class_may_have_a_plus_in_its_name(tmp_path: Path) -> None:
    """As such it is chosen, be it by a model that knows it alone; it merges nothing."""
    names = ["car", "truck", "car+truck", "a=b"]
    put(tmp_path / "images" / "val" / "x.png", 5, channels=3)
    put(tmp_path / "masks" / "val" / "x.png", 2)
    (tmp_path / "classes.json").write_text(json.dumps({"names": names}))
    data = dataset.open_dataset_for(tmp_path, ("car+truck",))
    assert (data.class_names, data.id_map[:4]) == (("car+truck",), (255, 255, 0, 255))
    data = dataset.open_dataset(tmp_path, classes=("a=b", "all=car+truck"))
    assert (data.class_names, data.id_map[:4]) == (("a=b", "all"), (1, 1, 255, 0))
