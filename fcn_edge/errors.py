"""Every exception that fcn_edge raises on purpose; knows nothing about the rest of the package.

The tree, with the exit code that the command line gives for each branch::

    FcnEdgeError             1   unexpected: something no other branch describes
    +-- UsageError           2   an argument, a configuration or a size that cannot be used
    |   +-- DataError        2   a data set with problems; ``problems`` lists every one
    +-- MissingError         3   something this machine lacks, or has in the wrong version
    +-- ModelError           4   a model or engine file that is bad, mismatched or tampered with
    |   +-- EngineError      4   an engine that failed while it ran
    +-- SourceError          5   a source that cannot be opened or was lost
    +-- SinkError            1   a sink that failed while it was written (a full disk)
    +-- GateError            6   a result that did not pass the gate it was asked to pass

A message says what was got, what was expected and what to do about it, in one sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class FcnEdgeError(Exception):
    """Base of all exceptions raised on purpose; ``exit_code`` is what the command line returns for it."""

    exit_code = 1


class UsageError(FcnEdgeError):
    """An argument, a configuration value or a size that cannot be used."""

    exit_code = 2


class DataError(UsageError):
    """A data set with problems.

    Attributes:
        problems: one sentence for each problem found, in the order in which they were found.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class MissingError(FcnEdgeError):
    """Something this machine lacks, or has in the wrong version; the message says how to get it."""

    exit_code = 3


class ModelError(FcnEdgeError):
    """A model or engine file that is bad, mismatched or tampered with."""

    exit_code = 4


class EngineError(ModelError):
    """An engine that failed while it ran."""


class SourceError(FcnEdgeError):
    """A source of frames that cannot be opened or was lost.

    Attributes:
        summary: what became of the stream until then, a :class:`fcn_edge.runtime.StreamSummary`; None where no frame
            had come through.
    """

    exit_code = 5
    summary: Any = None


class SinkError(FcnEdgeError):
    """A sink that failed while it was being written, such as a full disk."""


class GateError(FcnEdgeError):
    """A result that did not pass the gate it was asked to pass."""

    exit_code = 6
