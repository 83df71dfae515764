"""The pages: links lead somewhere, and the commands that they show are commands; nothing is run."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from fcn_edge.cli import _parser

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/*.md", "cpp_plugins/*.md", "fcn_edge/models/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shown(page: Path) -> Iterator[str]:
    """Commands of a page's blocks and, in backticks, of its text, without comments."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`(fcn-edge [^`\n]+)`", text)
    for line in [line for block in blocks for line in block.splitlines()] + inline:
        if line.startswith("fcn-edge "):
            yield re.split(r"\s#\s|\s{2,}(?=#)", line)[0].strip()


def test_there_are_pages_and_commands() -> None:
    assert len(PAGES) > 12
    assert sum(1 for page in PAGES for _ in shown(page)) > 60


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
        where, _, anchor = link.partition("#")
        target = (ROOT / page).parent / where if where else ROOT / page
        if link.startswith("http"):
            continue
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_have_the_options_that_are_shown(page: Path) -> None:
    parser = _parser()
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices
    for command in shown(page):
        words = shlex.split(command)
        name = words[1]
        if not re.fullmatch(r"[a-z]+", name):  # --help, COMMAND
            continue
        assert name in commands, command
        known = {text for action in commands[name]._actions for text in action.option_strings}
        used = {word.partition("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)}
        assert used <= known, command
        if name == "build" and len(words) > 2 and not words[2].startswith("-"):
            assert used & {"-o", "--out", "--sensitivity"}, f"{command}: writes files and is told no place"
