"""A size that is typed: what is one, and that every entrance says the same of what is none."""

from __future__ import annotations

import argparse

import pytest

from fcn_edge.arguments import size
from fcn_edge.errors import SourceError, UsageError
from fcn_edge.runtime.source import open_source
from fcn_edge.size_text import size_from_text
from fcn_edge.training.config import config_from_dict


@pytest.mark.parametrize("text", ["360x480", "360X480"])
def test_height_comes_first(text: str) -> None:
    assert size_from_text(text, "") == size(text) == (360, 480)
    assert config_from_dict({"size": text}).size == (360, 480)
    with open_source(f"synthetic://street?size={text}") as source:
        assert source.size_hw == (360, 480)


@pytest.mark.parametrize(
    "text", ["", "360", "0x0", "360x0", "-1x5", "1x2x3", " 1x2", "٣x٣", "8193x32", f"{'9' * 5000}x9"]
)
def test_what_is_no_size_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"^here it is; expected HEIGHTxWIDTH with sides of 1 to 8192"):
        size_from_text(text, "here it is")
    with pytest.raises(argparse.ArgumentTypeError, match="expected HEIGHTxWIDTH"):
        size(text)
    with pytest.raises(UsageError, match=r"^size is '.*expected HEIGHTxWIDTH"):
        config_from_dict({"size": text})
    with pytest.raises(SourceError, match="expected HEIGHTxWIDTH with sides of 16 to 4096"):
        open_source(f"synthetic://street?size={text}")


def test_what_asks_sets_the_limits() -> None:
    assert size_from_text("16x4096", "", (16, 4096)) == (16, 4096)
    with pytest.raises(UsageError, match="sides of 16 to 4096"):
        size_from_text("15x4096", "", (16, 4096))
