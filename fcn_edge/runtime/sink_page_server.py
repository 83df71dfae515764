"""The web server behind the page, with a limit on what strangers can hold of it; knows nothing about what it serves.

The stream and its other sinks share this process's file descriptors, so a connection must cost few of them, and not
for ever. Uvicorn's own ``limit_concurrency`` answers 503 to a request and leaves connections without one open.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 64  # a browser holds two or three for a page
REQUEST_TIMEOUT_S = 10.0
_BACKLOG = 16  # connections accepted in one go, before those above the limit are closed
_OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_log = logging.getLogger(__name__)


class LimitedProtocol(H11Protocol):
    """A connection that is closed at once above ``MAX_CONNECTIONS``, and if it waits too long with its request.

    An answer under way has no limit: pictures are sent for as long as somebody looks on, however slowly.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, unless there are too many."""
        is_full = len(self.connections) >= MAX_CONNECTIONS
        super().connection_made(transport)
        if is_full:
            transport.abort()
        else:
            self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._forget_deadline()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Give the next request as long as the first; what is sent of it meanwhile does not prolong that."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._await_request()

    def _await_request(self) -> None:
        self._forget_deadline()
        self._deadline = self.loop.call_later(REQUEST_TIMEOUT_S, self._close_without_request)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close_without_request(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


class LimitedServer(uvicorn.Server):
    """Uvicorn, whose loop tells once that nothing can be accepted, and not each second with a traceback."""

    _has_told = False

    async def startup(self, sockets: Any = None) -> None:
        """Begin to accept."""
        asyncio.get_running_loop().set_exception_handler(self._on_loop_error)
        await super().startup(sockets=sockets)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        exc = context.get("exception")
        if not isinstance(exc, OSError) or exc.errno not in _OUT_OF:
            loop.default_exception_handler(context)
        elif not self._has_told:
            self._has_told = True
            _log.warning("the page can take no further viewer (%s); it tries again each second", exc.strerror)


def limited_server(app: Any) -> LimitedServer:
    """A server for ``app`` (ASGI), to be run with its sockets in a thread."""
    return LimitedServer(
        uvicorn.Config(
            app,
            http=LimitedProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_level="critical",
            backlog=_BACKLOG,
            timeout_graceful_shutdown=1,
        )
    )
