"""Checkpoints: what goes in comes out, what is no checkpoint is refused in a sentence, nothing is half-written."""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fcn_edge.contract import Contract
from fcn_edge.errors import ModelError
from fcn_edge.model.fcn import MEAN_BGR, STD_BGR, make_model
from fcn_edge.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    model_from_checkpoint,
    save_checkpoint,
    take_weights,
)
from fcn_edge.training.config import TrainConfig

CONTRACT = Contract(
    "fcn8s-edge-n", (64, 64), ("a", "b"), ((0, 0, 0), (9, 9, 9)), MEAN_BGR, STD_BGR, (32, 16, 8)
)  # fmt: skip


def saved(path: Path, **changes: object) -> Checkpoint:
    torch.manual_seed(3)
    model, ema = make_model("fcn8s-edge-n", 2), make_model("fcn8s-edge-n", 2)
    fields = {
        "contract": CONTRACT,
        "config": TrainConfig(data="somewhere", classes=("a", "b")),
        "model": model.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
        "epoch": 3,
        "rng": {"run": torch.Generator().get_state()},
        "history": [{"epoch": 1, "val_miou": None, "val_per_class": {"a": 0.5}}],
        "provenance": {"fcn_edge": "0"},
    }
    checkpoint = Checkpoint(**(fields | changes))
    save_checkpoint(path, checkpoint)
    return checkpoint


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    before = saved(tmp_path / "a.pt")
    after = load_checkpoint(tmp_path / "a.pt")
    for name in ("contract", "config", "optimizer", "scaler", "epoch", "step", "seconds", "history", "provenance"):
        assert getattr(after, name) == getattr(before, name), name
    for name in ("model", "ema", "rng"):
        mine, theirs = getattr(before, name), getattr(after, name)
        assert list(mine) == list(theirs)
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_paths_may_be_text(tmp_path: Path) -> None:
    path = str(tmp_path / "a.pt")
    save_checkpoint(path, saved(tmp_path / "b.pt"))
    assert load_checkpoint(path).epoch == 3
    assert model_from_checkpoint(path)[1] == CONTRACT


def test_the_model_of_a_checkpoint_has_the_averaged_weights(tmp_path: Path) -> None:
    before = saved(tmp_path / "a.pt")
    model, contract = model_from_checkpoint(tmp_path / "a.pt")
    assert contract == CONTRACT
    assert not model.training
    name = "backbone.stem.0.0.weight"
    assert torch.equal(model.state_dict()[name], before.ema[name])
    assert not torch.equal(model.state_dict()[name], before.model[name])


class Harmful:
    """Runs code when it is unpickled in the ordinary way."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (Path.touch, (Path("harm-was-done"),))  # type: ignore[return-value]


def write_text(path: Path) -> None:
    path.write_text("this is no checkpoint\n" * 10)


def write_cut(path: Path) -> None:
    saved(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_spoiled(path: Path) -> None:
    saved(path)
    data = bytearray(path.read_bytes())
    at = data.find(b"fcn_edge.checkpoint")
    data[at - 40 : at + 40] = b"\0" * 80
    path.write_bytes(data)


def write_harmful(path: Path) -> None:
    torch.save({"format": "fcn_edge.checkpoint", "version": 1, "model": Harmful()}, path)


def write_without_a_field(path: Path) -> None:
    saved(path)
    fields = torch.load(path, weights_only=True)
    del fields["ema"]
    torch.save(fields, path)


def write_with(path: Path, **changes: object) -> None:
    saved(path)
    torch.save(torch.load(path, weights_only=True) | changes, path)


BAD = {
    "missing": (lambda path: None, "does not exist"),
    "a folder": (lambda path: path.mkdir(), "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "text": (write_text, "no file that torch.save has written"),
    "cut off": (write_cut, "cut off, damaged"),
    "spoiled": (write_spoiled, "cut off, damaged"),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps(Harmful())), "cannot be read"),
    "code inside": (write_harmful, "cannot be read"),
    "bare weights": (lambda path: torch.save({"weight": torch.zeros(3)}, path), "no checkpoint of fcn-edge"),
    "a tensor": (lambda path: torch.save(torch.zeros(3), path), "no checkpoint of fcn-edge"),
    "newer": (lambda path: write_with(path, version=99), "version 99"),
    "a field missing": (write_without_a_field, "lacks ema"),
    "other options": (lambda path: write_with(path, config={"wings": 2}), "options that this release does not know"),
    "no contract": (lambda path: write_with(path, contract={"model": "x"}), "contract"),
    "contract no dictionary": (lambda path: write_with(path, contract=[1]), "contract"),
    "config no dictionary": (lambda path: write_with(path, config=7), "options that this release does not know"),
    "weights of another": (
        lambda path: write_with(path, ema=make_model("fcn8s-edge-n", 3).state_dict()),
        "do not fit",
    ),
    "weights no dictionary": (lambda path: write_with(path, ema=[1, 2]), "do not fit"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_in_a_sentence(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pt"
    write, words = BAD[kind]
    write(path)
    with pytest.raises(ModelError, match=words) as caught:
        model_from_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm-was-done").exists()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    saved(path)
    before = path.read_bytes()

    def fail(fields: object, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space"):
        saved(path, epoch=4)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pt"]


def test_weights_that_fit_are_taken_and_the_others_left(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, target = make_model("fcn8s-edge-n", 5), make_model("fcn8s-edge-n", 3)
    own = {name: value.clone() for name, value in target.state_dict().items()}
    taken, fresh = take_weights(target, source.state_dict())
    assert set(taken) | set(fresh) == set(own)
    assert all(name.startswith(("score_convs", "skip_head")) for name in fresh)
    assert len(fresh) == 3 * 2 + 3
    for name, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[name] if name in taken else own[name])


def test_a_contract_of_an_unknown_model_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "a.pt", contract=dataclasses.replace(CONTRACT, model="fcn8s-nothing"))
    with pytest.raises(ModelError, match="do not fit model 'fcn8s-nothing'"):
        model_from_checkpoint(tmp_path / "a.pt")


def test_compressed_data_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    saved(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as whole, zipfile.ZipFile(tmp_path / "b.pt", "w") as packed:
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry), zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match=r"b\.pt holds compressed data, which torch\.save does not write; give a"):
        load_checkpoint(tmp_path / "b.pt")
