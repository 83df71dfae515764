"""What the command does beyond ``run``: when it says how the stream is doing; the rest is in test_cli and runtime."""

from __future__ import annotations

import argparse
import dataclasses
import re
from typing import Any

from fcn_edge.runtime.measure import Link, Meter
from fcn_edge.stream_command import add_stream_arguments, said_every, stream_from_arguments

STATUS = Meter("cam", None).status(Link())


def stream(*words: str) -> list[str]:
    """The lines that are said."""
    parser = argparse.ArgumentParser()
    add_stream_arguments(parser)
    said: list[str] = []
    stream_from_arguments(parser.parse_args(["echo://", *words]), said.append)
    return said


def times(lines: list[str]) -> list[float]:
    return [float(found[1]) for line in lines if (found := re.match(r" *([\d.]+) s  frame", line))]


def test_a_status_is_said_every_so_often_and_when_the_connection_has_changed() -> None:
    def at(elapsed_s: float, **link: Any) -> None:
        hear(dataclasses.replace(STATUS, elapsed_s=elapsed_s, link=Link(**link)))

    said: list[str] = []
    hear = said_every(60.0, said.append)
    for second in range(0, 62, 2):
        at(second + 0.01 * second)  # each a little late
    at(63.0, state="reconnecting", stalls=1)
    at(65.0, state="reconnecting", stalls=1)
    at(67.0, reconnects=1, stalls=1)
    for second in range(69, 129, 2):
        at(second, reconnects=1, stalls=1)
    assert times(said) == [0.0, 60.6, 63.0, 67.0, 127.0]


def test_status_is_said_as_often_as_asked_for() -> None:
    said = stream("synthetic://street?size=48x64&frames=40&live=1", "--status", "200ms")  # more than a second
    assert len(times(said)) >= 4
