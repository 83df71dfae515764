"""Options: where they come from, their ranges, the sentence when they cannot be used."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fcn_edge.errors import UsageError
from fcn_edge.training.config import (
    AugmentConfig,
    TrainConfig,
    config_from_dict,
    config_from_toml,
    dict_from_config,
)


def test_a_file_gives_options_and_the_command_line_wins(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'data = "street"\ncrop = "96x128"\nsize = [120, 160]\nlr = 1\nclasses = ["a", "b=c+d"]\n'
        "[augment]\nflip = 0.25\nscale = [0.5, 1.5]\n"
    )
    config = config_from_toml(path, {"lr": 0.5, "epochs": None, "augment.flip": 0.75})
    assert (config.data, config.crop, config.size) == ("street", (96, 128), (120, 160))
    assert (config.lr, config.epochs, config.classes) == (0.5, TrainConfig().epochs, ("a", "b=c+d"))
    assert (config.augment.flip, config.augment.scale) == (0.75, (0.5, 1.5))


def test_the_dictionary_of_a_configuration_gives_it_back() -> None:
    config = TrainConfig(size=(64, 96), classes=("x",), augment=AugmentConfig(flip=0.1), loss="ohem")
    assert config_from_dict(dict_from_config(config)) == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lrr = 1", "'lrr'; did you mean 'lr'"),
        ("[augment]\nflipp = 1", "'augment.flipp'; did you mean 'augment.flip'"),
        ("nonsense_entirely = 1", "the keys are: data, out"),
        ('lr = "fast"', "Expected `float`, got `str`.*lr"),
        ("lr = 50", "lr is 50.0; expected 1e-08 to 10: use 10"),
        ("lr = nan", "lr is nan"),
        ("batch = 0", "batch is 0; expected 1 to 4096: use 1"),
        ("epochs = -3", "use 1"),
        ('crop = "16x4096"', "crop is 16x4096; .*use 32x4096"),
        ('size = "64"', "size is '64'; expected HEIGHTxWIDTH"),
        ('size = "-64x64"', "expected HEIGHTxWIDTH"),
        ('loss = "focal"', "focal"),
        ("loss_every = 3", "expected 1, 2 or 4"),
        ("splits = []", "splits"),
        ("[augment]\nscale = [2.0, 0.5]", "augment.scale is 2.0 to 0.5"),
        ("[augment]\nhue = 0.7", "augment.hue is 0.7"),
        ("augment = 3", "augment"),
        ("distill = 11", "distill is 11.*; expected 0 to 10: use 10"),
        ('hint = -1\nteacher = "a.pt"', "hint is -1.0; expected 0 to 10: use 0"),
        ("label_weight = 0", "no teacher to learn from"),
        ('label_weight = 0\ndistill = 0\nteacher = "a.pt"', "no teacher to learn from"),
        ("[augment]\ncutmix = 1.5", "augment.cutmix is 1.5"),
        ("freeze_to = 2", "freeze_to is 2; expected a stride: 4, 8, 16, 32, or 0"),
        ('freeze_to = 4\nqat = true\ninit = "a.pt"', "leave one of them out"),
        ("precise_bn = 4\nfreeze_bn = true", "the statistics that freeze_bn keeps"),
        ('precise_bn = 4\nqat = true\ninit = "x.pt"', "the statistics that qat keeps"),
        ("precise_bn = 4\nbackbone_lr = 0.0", "the statistics that backbone_lr 0 keeps"),
        ("lr = ", "cannot be read as TOML"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        config_from_toml(path)


def test_what_is_fine_tuned_for_int8_teaches_itself(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('qat = true\ninit = "a.pt"')
    assert config_from_toml(path).teacher == ("a.pt",)
    assert config_from_toml(path, {"teacher": "big.pt"}).teacher == ("big.pt",)
    assert config_from_toml(path, {"teacher": ""}).teacher == ()
    assert config_from_toml(path, {"qat": False}).teacher == ()
    assert config_from_toml(path, {"init": "camvid-n"}).teacher == ()


def test_labels_count_in_a_fine_tune_for_int8_where_nobody_teaches(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('qat = true\ninit = "a.pt"')
    assert config_from_toml(path).label_weight == 0
    assert config_from_toml(path, {"label_weight": 0.5}).label_weight == 0.5
    for other in ({"teacher": ""}, {"distill": 0.0}, {"qat": False}, {"init": "camvid-n"}):
        assert config_from_toml(path, other).label_weight == 1


def test_a_file_of_an_editor_with_a_bom_is_read_and_one_in_another_code_told(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('data = "straße"', encoding="utf-8-sig")
    assert config_from_toml(path).data == "straße"
    path.write_text('data = "straße"', encoding="latin-1")
    with pytest.raises(UsageError, match=r"is not in UTF-8 .*; save it as UTF-8"):
        config_from_toml(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read as TOML"):
        config_from_toml(tmp_path / "none.toml")


@pytest.mark.parametrize("struct", [TrainConfig, AugmentConfig])
def test_every_option_is_described(struct: type) -> None:
    described = re.findall(r"^ +(\w+): ", (struct.__doc__ or "").partition("Attributes:")[2], re.M)
    assert tuple(described) == struct.__struct_fields__


def test_an_option_of_a_table_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('augment = "strong"')
    with pytest.raises(UsageError, match=r"has augment = 'strong'; expected a table \[augment\]"):
        config_from_toml(path, {"augment.flip": 0.2})


def test_values_of_python_become_those_of_the_options() -> None:
    config = TrainConfig(
        data=Path("street"),
        out=Path("out"),
        init=Path("a.pt"),
        teacher="b.pt",
        splits="train",
        classes=["car", "road"],
        epochs=np.int64(3),
        lr=np.float32(0.5),
        size=np.array([64, 96]),
        crop=[32, np.uint8(64)],
        freeze_bn=np.bool_(True),
        augment={"flip": 0, "scale": [1, np.float64(2)]},
    )
    plain = TrainConfig(
        data="street", out="out", init="a.pt", teacher=("b.pt",), splits=("train",), classes=("car", "road"), epochs=3,
        lr=0.5, size=(64, 96), crop=(32, 64), freeze_bn=True, augment=AugmentConfig(flip=0.0, scale=(1.0, 2.0)),
    )  # fmt: skip
    assert repr(config) == repr(plain)  # the types too
    assert config_from_dict(dict_from_config(config)) == config
    assert config_from_dict({"data": Path("street"), "qat": True, "init": Path("a.pt")}).teacher == ("a.pt",)
    assert TrainConfig(teacher="").teacher == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "dice"}, "loss is 'dice'; expected one of ce, ohem"),
        ({"schedule": "step"}, "schedule is 'step'; expected one of poly, cosine"),
        ({"class_weights": "balanced"}, "class_weights is 'balanced'; expected one of none, enet"),
        ({"amp": "on"}, "amp is 'on'; expected one of auto, off, bf16, fp16"),
        ({"epochs": 1.5}, "epochs is 1.5; expected `int`, got `float`"),
        ({"epochs": "3"}, "epochs is '3'; expected `int`"),
        ({"size": 64}, "size is 64; expected"),
        ({"qat": "no"}, "qat is 'no'; expected `bool`"),
        ({"teacher": 3}, "teacher is 3"),
        ({"device": object()}, "device is <object"),
        ({"augment": {"flipp": 1}}, "flipp"),
        ({"augment": {"flip": 2}}, "augment.flip is 2"),
        ({"augment": None}, "augment is None"),
    ],
)
def test_what_python_gives_is_checked_before_anything_is_trained(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        TrainConfig(**options)
    if "augment" not in options:
        with pytest.raises(UsageError):
            config_from_dict(options)


@pytest.mark.parametrize("options", [{"flip": "often"}, {"scale": 1.0}, {"gamma": ("a", "b")}])
def test_what_varies_images_is_checked_too(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"augment.{next(iter(options))} is "):
        AugmentConfig(**options)
