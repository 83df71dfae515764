"""Who is answered by the page: not the pages of other sites in a viewer's browser; knows nothing about what is served.

Without a password a page is safe only from those who cannot reach it, and a browser in its network runs the pages of
strangers. These reach it under a name of their own that is made to lead to this machine (DNS rebinding), or ask for it
from theirs. Pictures alone may stand in another site's page, as in a dashboard's: a browser shows them and lets that
site read none of them.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Any

_PICTURES = "/stream.mjpg"
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"DENY")]
_POLICY = b"cross-origin-resource-policy"
_WRONG_NAME = (
    "This page does not answer to that name, which could be another site's: open it by this machine's address or host "
    "name or as localhost, serve it as --serve NAME:PORT, or let the proxy in front pass the upstream's Host.\n"
)
_CROSS_SITE = (
    "What is here is for this page alone, not for those of other sites; they may show /stream.mjpg as <img>.\n"
)


class Guard:
    """An ASGI application in front of another, which is asked only what its own page or a person asks.

    Args:
        app: what answers.
        host: the host that the page is served on, a name or an address.
    """

    def __init__(self, app: Any, host: str) -> None:
        own = socket.gethostname().lower()
        label = own.partition(".")[0]
        self._names = {"localhost", own, f"{own}.local", label, f"{label}.local", host.lower()} - {"", ".local"}
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer or refuse one request."""

        async def send_guarded(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                policy = (_POLICY, b"cross-origin" if scope["path"] == _PICTURES else b"same-origin")
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS, policy]}
            await send(message)

        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if not self._is_own(headers.get(b"host")):
            await _refuse(send_guarded, 400, _WRONG_NAME)
        elif headers.get(b"sec-fetch-site") == "cross-site" and not _is_for_all(scope["path"], headers):
            await _refuse(send_guarded, 403, _CROSS_SITE)
        else:
            await self._app(scope, receive, send_guarded)

    def _is_own(self, host: str | None) -> bool:
        """Whether a ``Host`` is one that no stranger can make lead here; HTTP/1.0, not a browser's, has none."""
        if host is None:
            return True
        found = re.fullmatch(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::\d*)?", host.strip().lower())
        if not found:
            return False
        name = found[1] or found[2].removesuffix(".")
        return name in self._names or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_for_all(path: str, headers: dict[bytes, str]) -> bool:
    """Whether somebody follows a link to the page, in a window and not in a frame, or shows its pictures in another."""
    how = headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest")
    return (path, *how) in (("/", "navigate", "document"), (_PICTURES, "no-cors", "image"))


async def _refuse(send: Any, code: int, sentence: str) -> None:
    body = sentence.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": body})
