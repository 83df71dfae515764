"""The folder of a run: what a run that goes on takes from it, and what a killed one leaves there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fcn_edge.cli import main
from fcn_edge.errors import UsageError
from fcn_edge.training import loop
from fcn_edge.training.checkpoint import load_checkpoint
from fcn_edge.training.config import TrainConfig
from fcn_edge.training.folder import config_resumed, open_folder
from fcn_edge.training.loop import train

Make = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def _not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("draw_curves", "draw_grid"):
        monkeypatch.setattr(loop, name, lambda *_, **__: None)


def test_a_resumed_run_keeps_the_options_that_are_not_given(config: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """As own-data.md says: more epochs are all that has to be named."""
    options = config(epochs=1, lr=1e-3, seed=5, classes=["thing=ball+box", "ground"])
    train(options)
    assert main(["train", "--out", options.out, "--epochs", "2", "--resume"]) == 0
    capsys.readouterr()
    saved = load_checkpoint(Path(options.out) / "last.pt")
    assert saved.epoch == 2
    assert (saved.config.lr, saved.config.seed, saved.config.classes) == (1e-3, 5, ("thing=ball+box", "ground"))
    assert saved.config.augment == options.augment


def test_what_is_given_is_laid_over_the_options_of_the_run(config: Make, tmp_path: Path) -> None:
    first = train(config(epochs=1))
    moved = tmp_path / "moved"
    first.out.rename(moved)
    toml = tmp_path / "more.toml"
    toml.write_text(f"out = {json.dumps(str(moved))}\nepochs = 7\n[augment]\nflip = 0.25")
    found = config_resumed(toml, {"threads": 1, "augment.hue": 0.0, "lr": None})
    assert (found.out, found.epochs, found.threads, found.lr) == (str(moved), 7, 1, config().lr)
    assert (found.augment.flip, found.augment.hue, found.augment.rotate) == (0.25, 0.0, config().augment.rotate)


def test_every_change_that_is_refused_stands_in_one_sentence(config: Make) -> None:
    train(config(epochs=1, classes=["ball", "box"]))
    now = config(epochs=2, crop="32x64", seed=1, ema=0.5, augment={"rotate": 0.0, "scale": [0.5, 1.25]})
    with pytest.raises(UsageError) as caught:
        train(now, resume=True)
    text = str(caught.value)
    for words in (
        "--crop is 32x64 but the run was started with 64x64; ",
        "--classes is none but the run was started with ball,box; ",
        "--seed is 1 but the run was started with 0",
        "--ema is 0.5 but",
        "--scale of augment is 0.5,1.25 but the run was started with 0.8,1.25",
        "may change only --data, --out, --epochs, --max-minutes, ",
    ):
        assert words in text
    assert "epochs is" not in text


@pytest.mark.parametrize("resume", [False, True])
def test_what_a_killed_run_has_half_written_goes(config: Make, resume: bool) -> None:
    options = config(epochs=1)
    out = train(options).out
    for name in (".last-ab12_xyz.pt", ".epoch-0001-ab12_xyz.pt", ".metrics-ab12_xyz.jsonl"):
        (out / name).write_bytes(b"half")
    others = {".last.pt", ".last-mine.pt", ".other-ab12_xyz.pt"}
    for name in others:
        (out / name).write_bytes(b"")
    train(config(epochs=2), resume=resume, force=not resume)
    assert {path.name for path in out.glob(".*")} == others


def test_where_there_is_no_last_epoch_what_works_is_offered(tmp_path: Path) -> None:
    """As after a disk that was full in the first epoch."""
    for name in ("best.pt", "metrics.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"already holds best.pt, metrics.jsonl; use --force \(there is no last.pt"):
        open_folder(tmp_path, resume=False, force=False)
    with pytest.raises(UsageError, match=r"holds no last.pt to resume from; use --force instead of --resume to start"):
        open_folder(tmp_path, resume=True, force=False)
    assert open_folder(tmp_path, resume=False, force=True) is None
    (tmp_path / "last.pt").touch()
    with pytest.raises(UsageError, match=r"last.pt, metrics.jsonl; use --resume, --force or another --out"):
        open_folder(tmp_path, resume=False, force=False)


def test_checkpoints_that_were_kept_are_a_run_too(tmp_path: Path) -> None:
    """Of a run whose other files were moved away: a new one would remove them."""
    (tmp_path / "epoch-0100.pt").write_bytes(b"weights")
    with pytest.raises(UsageError, match=r"already holds epoch-0100.pt; use --force"):
        open_folder(tmp_path, resume=False, force=False)
    assert open_folder(tmp_path, resume=False, force=True) is None
