"""How a command ends where its output goes nowhere or its folder is gone: in one sentence and the documented code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fcn_edge.cli import main

PROGRAM = [sys.executable, "-m", "fcn_edge"]
STREAM = ["stream", "echo://", "synthetic://street?size=48x64&frames=2"]
USAGE, OTHER = 2, 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", [["--help"], ["stream", "--help"], STREAM, [*STREAM, "--json"]])
def test_output_to_a_full_disk_is_one_sentence(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*PROGRAM, *command], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == OTHER
    assert done.stderr.splitlines() == ["fcn-edge: the disk is full; make room or write elsewhere, and start again"]


@pytest.mark.parametrize("command", [["--help"], ["stream", "--help"], ["--version"]])
def test_help_that_nobody_reads_is_no_error(command: list[str]) -> None:
    """Such as of ``head -0``."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([*PROGRAM, *command], stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", [STREAM, ["build", "camvid-n", "-o", "out"], ["inspect", "camvid-n"]])
def test_a_current_folder_that_was_removed_is_one_sentence(
    command: list[str], tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(command) == USAGE
    out, err = capsys.readouterr()
    assert (out, err) == ("", "fcn-edge: the current folder was removed; cd to one that exists\n")
