"""How passwords are taken out of what is shown; knows nothing about what an address leads to."""

from __future__ import annotations

import re

_SCHEME = r"[a-z][a-z0-9+.-]*://"
_KEYS = "pass|passwd|password|pwd|pw|psw|pas|loginpas|token|secret|api_?key|auth"


def redact(text: str) -> str:
    """``text`` without passwords: ``rtsp://user:pw@host`` becomes ``rtsp://***@host``, ``pwd=x`` ``pwd=***``.

    Of an address everything up to the last @ is taken out, as a password may itself hold @, / or quotes; in a sentence
    an address ends at a space or a quote.
    """
    ends = r"\n" if re.match(_SCHEME, text, re.IGNORECASE) else r"\s'\""
    text = re.sub(rf"(?i)\b({_SCHEME})[^{ends}]*@", r"\1***@", text)
    return re.sub(rf"(?i)({_KEYS})=[^&{ends}]+", r"\1=***", text)
