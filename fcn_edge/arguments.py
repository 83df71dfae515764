"""Types of command-line arguments, and arguments made from a configuration's fields; knows nothing about commands."""

from __future__ import annotations

import argparse
import math
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from .errors import UsageError
from .redact import shown
from .size_text import size_from_text


class DiscreetParser(argparse.ArgumentParser):
    """Arguments whose refusal shows no password: a camera's address may stand in the wrong place."""

    def error(self, message: str) -> NoReturn:
        """As argparse's."""
        super().error(shown(message))


class CommandParser(DiscreetParser):
    """The arguments of a command, whose options may stand between the others: ``stream MODEL SOURCE --force SINK``.

    argparse alone takes several of a kind in one piece only, and calls those behind an option unrecognized. Behind a
    ``--`` there are no options: ``stream --force -- MODEL SOURCE -e.mp4``.
    """

    _is_inside = False  # in older Pythons parse_known_intermixed_args comes here again

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; what a parser of subcommands calls."""
        if self._is_inside or "--" in (args or ()):  # of which the intermixed parse keeps no trace
            return super().parse_known_args(args, namespace)
        self._is_inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_inside = False


def add_options(group: Any, options: type[msgspec.Struct], table: str = "") -> None:
    """An argument for each field of a configuration, its help taken from the class's docstring."""
    docs = dict(
        re.findall(r"^ +(\w+): ((?:.|\n(?! +\w+: ))+)", (options.__doc__ or "").partition("Attributes:")[2], re.M)
    )
    for field in msgspec.structs.fields(options):
        kind, flag = field.type, f"--{field.name.replace('_', '-')}"
        if typing.get_origin(kind) is None and issubclass(kind, msgspec.Struct):
            continue
        text = _plain(docs[field.name]).rstrip(".").replace("%", "%%")
        default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        settings: dict[str, Any] = {"dest": table + field.name, "default": None, "help": text}
        if default not in (None, ""):
            settings["help"] += f" ({default})"
        if typing.get_origin(kind) is typing.Literal:
            settings["choices"] = typing.get_args(kind)
        elif kind is bool:
            settings["action"] = argparse.BooleanOptionalAction
        elif field.name in ("size", "crop"):
            settings |= {"type": size, "metavar": "HxW"}
        else:
            settings |= {"type": typed(kind), "metavar": field.name.upper()}
        group.add_argument(flag, **settings)


def _plain(text: str) -> str:
    """A docstring's words without its markup, on one line."""
    return re.sub(r"(?::\w+:)?(`{1,2})(.+?)\1", r"\2", " ".join(text.split()))


def typed(kind: Any) -> Callable[[str], Any]:
    """A converter from text for argparse; tuples are written with commas."""

    def convert(text: str) -> Any:
        value: Any = names(text) if typing.get_origin(kind) is tuple else text
        try:
            return msgspec.convert(value, kind, strict=False)
        except msgspec.ValidationError as exc:
            raise argparse.ArgumentTypeError(f"'{text}' is not usable: {exc}") from exc

    return convert


def size(text: str) -> tuple[int, int]:
    """``HEIGHTxWIDTH`` as (height, width)."""
    try:
        return size_from_text(text, f"'{text}' is no size")
    except UsageError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def positive(text: str) -> int:
    """A whole number from 1."""
    return _whole(text, 1)


def count(text: str) -> int:
    """A whole number from 0."""
    return _whole(text, 0)


def _whole(text: str, lowest: int) -> int:
    if not re.fullmatch(r"\d{1,9}", text) or int(text) < lowest:
        raise argparse.ArgumentTypeError(f"'{text}' is not usable; expected a whole number from {lowest}")
    return int(text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    return _between(text, 0, 1, "a number from 0 to 1")


def agreement(text: str) -> float:
    """A share of labels; also a little more than all, which nothing reaches, but no percentage."""
    return _between(text, 0, 2, "a share from 0 to 1, such as 0.995")


def drop(text: str) -> float:
    """A difference of two shares, from -1 to 1."""
    return _between(text, -1, 1, "a number from -1 to 1, such as 0.01")


def _between(text: str, low: float, high: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:  # which a NaN is not
        raise argparse.ArgumentTypeError(f"'{text}' is not usable; expected {expected}")
    return value


def place(text: str) -> Path:
    """A file or folder; not the empty text, which would be the folder that one is in."""
    if not text:
        raise argparse.ArgumentTypeError("'' names no place; is a variable empty?")
    return Path(text)


def seconds(text: str) -> float:
    """A duration such as ``10s``, ``500ms``, ``2m`` or ``1h`` in seconds; a bare number is seconds."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)(ms|s|m|h)?", text)
    value = float(match[1]) * {"ms": 1e-3, "s": 1, "m": 60, "h": 3600, None: 1}[match[2]] if match else 0.0
    if value <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no duration; expected something like 500ms, 10s, 2m or 1h")
    return value


def level(text: str) -> int:
    """A builder optimisation level, 0 to 5."""
    if text not in "012345" or len(text) != 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not usable; expected 0 (quick to build) to 5 (quick to run)")
    return int(text)


def batches(text: str) -> tuple[int, int, int]:
    """``1,OPT,MAX`` numbers of frames."""
    match = re.fullmatch(r"(\d{1,4}),(\d{1,4}),(\d{1,4})", text)
    low, usual, high = (int(part) for part in match.groups()) if match else (0, 0, 0)
    if not 1 <= low <= usual <= high:
        raise argparse.ArgumentTypeError(f"'{text}' is not usable; expected MIN,OPT,MAX such as 1,1,4")
    if low > 1:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not usable; this program runs an engine with one frame at a time, so MIN must be 1: "
            f"1,{usual},{high}"
        )
    return low, usual, high


def names(text: str) -> tuple[str, ...]:
    """Words between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
