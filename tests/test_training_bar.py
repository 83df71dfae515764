"""The bar of a training run: what stands on it before the first step."""

from __future__ import annotations

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
