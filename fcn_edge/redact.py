"""How text from elsewhere is made fit to be shown, without passwords; knows nothing about what an address leads to."""

from __future__ import annotations

import re
from urllib.parse import unquote

_SCHEME = r"[a-z][a-z0-9+.-]*://"
_AT = r"(?:@|%40)"
_KEYS = "pass|passwd|passphrase|password|pwd|pw|psw|pas|loginpas|token|secret|api_?key|auth"
_SHOWN = {
    "camera", "channel", "compression", "fps", "frames", "height", "latency", "live", "mode", "profile", "quality",
    "resolution", "seed", "size", "stream", "subtype", "width",
}  # fmt: skip
"""Names of what cameras and synthetic://street are asked for; the value of any other may be a secret."""

_QUOTED = r"['\"](?![\s.,;:)]|$)"  # a quote inside a password, not the one behind an address
_WORD = rf"(?:[^\s'\"]|{_QUOTED})"


def redact(text: str) -> str:
    """``text`` without passwords: ``rtsp://user:pw@host`` becomes ``rtsp://***@host``, ``?key=x`` ``?key=***``.

    Of an address everything up to the last @ is taken out, as a password may itself hold @, / or quotes, and the value
    of every option that is not known to be none. In a sentence an address ends at a space or a quote.
    """
    if re.match(rf"\s*{_SCHEME}", text, re.IGNORECASE):
        return _address(text)
    return redact_sentence(text)


def redact_sentence(text: str) -> str:
    """A message without the passwords of the addresses in it, also of such as were mistyped: ``rtsp:/user:pw@host``."""
    text = re.sub(rf"(?i)\b{_SCHEME}{_WORD}*", lambda found: _address_in_sentence(found[0]), text)
    text = re.sub(rf"(?i)(['\"]\s*{_SCHEME})[^'\"\n]*@", r"\1***@", text)  # between quotes a password may hold spaces
    # user:password@host, with whatever became of its scheme; C:\folder is none, nor is 12:30.
    text = re.sub(rf"(?i)(?<![\w*])(?!mailto:|[a-z]:[\\/])[^\s'\":/@*]+:(?!//){_WORD}*{_AT}(?=[\w\[])", "***@", text)
    return re.sub(rf"(?i)({_KEYS})=(?!\*\*\*){_WORD.replace('[^', '[^&')}+", r"\1=***", text)


def shown(text: str) -> str:
    """A message as it may reach a terminal or a log: without passwords, and with what would steer it escaped.

    Names of files and what a model file says of itself may hold anything, such as a sequence that clears the screen.
    """
    return "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode()
        for sign in redact_sentence(text)
    )


def unicode_text(name: str) -> str:
    """The name of a file as text that can be written: one that is no UTF-8 gets question marks for its odd bytes."""
    return name.encode(errors="replace").decode()


def _address_in_sentence(text: str) -> str:
    """An address without the punctuation that a sentence puts behind it."""
    end = len(text.rstrip(".,;:!?)]"))
    return _address(text[:end]) + text[end:]


def _address(text: str) -> str:
    text = re.sub(rf"(?is)^(\s*{_SCHEME}).*{_AT}", r"\1***@", text)
    place, mark, options = re.match(r"(?s)([^?#]*)([?#]?)(.*)", text).groups()  # type: ignore[union-attr]
    place = re.sub(rf"(?is)({_KEYS})=[^&]+", r"\1=***", place)
    if re.match(r"\s*rtmp", place, re.IGNORECASE):  # the name of the stream is its key
        place = re.sub(r"(?s)(?<=[^/]/)[^/]+(/*)$", r"***\1", place)
    return place + mark + re.sub(r"[^&;#]+", lambda found: _option(found[0]), options)


def _option(text: str) -> str:
    name, equals, value = text.partition("=")
    is_shown = unquote(name).lower() in _SHOWN and re.fullmatch(r"[\w.:x-]*", value)
    return text if is_shown else f"{name}=***" if equals else "***"
