"""The bar of a training run: what stands on it before the first step."""

from __future__ import annotations

import logging
import re

import pytest

from fcn_edge.training_bar import training_progress


def test_it_tells_how_many_images_are_read(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    said = []
    for done in (3, 8):
        with training_progress() as (_, show_read):
            show_read(done, 8)
        said.append(re.findall(r"reading 3/8|starting", capsys.readouterr().err)[-1])
    assert said == ["reading 3/8", "starting"]


def test_what_is_logged_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with training_progress():
        logging.getLogger("fcn_edge.training").warning("no split in %s", "a\x1b]0;title\x07b")
    assert r"a\x1b]0;title\x07b" in capsys.readouterr().err
