"""A page in the browser as a sink: the live picture and the stream's numbers; knows nothing about files and windows."""

from __future__ import annotations

import asyncio
import math
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..contract import Contract
from ..errors import MissingError, UsageError
from ..metrics import class_shares
from ..pixels import require_cv2
from ..redact import unicode_text
from .frame import Result
from .measure import StreamStatus
from .sink import Sink
from .sink_page_guard import Guard

PICTURE_EVERY_S = 0.04  # a page needs no more than 25 pictures a second
SHARES_EVERY_S = 1.0
JPEG_QUALITY = 80
CLOSE_TIMEOUT_S = 3.0
AGAIN_AFTER_S = 10.0
LAST_WORD_S = 1.5  # in which a page that asks each second learns that the stream is over
_LOOKS_S = 1.0  # between two pictures a page asks for none
_UNSENT_BYTES = 16 * 1024  # which the system keeps for a slow viewer, beyond those under way: it sees newer ones
_POLL_S = 0.01
_BOUNDARY = "picture"
_PAGE = Path(__file__).with_name("page.html")


class PageSink(Sink):
    """Serves ``/`` (the page), ``/picture.jpg`` (the next), ``/stream.mjpg`` (as cameras send them), ``/status.json``.

    A thread serves; the stream only leaves its newest picture, drawn and encoded while somebody looks on. A slow
    viewer misses pictures and holds up nobody. There is no password and nothing can be changed through the page.
    A stream does not run out of files for its viewers' sake: there are at most 64 connections, and one that asks for
    nothing is closed after 10 s.

    Args:
        address: ``HOST:PORT``, ``[IPV6]:PORT``, ``:PORT`` or ``PORT``; without a host only this machine can look on.
        contract: names and colours of the classes.

    Raises:
        UsageError: if the address means nothing, is not this machine's or is taken.
        MissingError: if the web server is not installed.
    """

    def __init__(self, address: str, contract: Contract) -> None:
        self._contract = contract
        self._viewers = 0
        self._picture: tuple[int, bytes] = (0, b"")
        self._shares: list[float] = []
        self._status: StreamStatus | None = None
        self._told_s: float | None = None
        self._drawn_s = self._shared_s = 0.0
        self._looked_s = self._asked_s = -math.inf
        host, port = _host_and_port(address)
        self._server = _server(Guard(self._app(), host))
        self._listener = _listen(host, port)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, name="fcn-edge-page", daemon=True
        )
        self._thread.start()

    @property
    def needs_picture(self) -> bool:  # type: ignore[override]
        """Whether somebody looks on whose last picture is old enough."""
        return self._is_watched() and time.monotonic() - self._drawn_s >= PICTURE_EVERY_S

    def write(self, result: Result) -> None:
        """Encode the picture, if there is one and somebody looks on; each second count the classes.

        Raises:
            SinkError: if the sink is closed.
        """
        self._require_open("the page")
        now = time.monotonic()
        if result.picture_bgr is not None and self.needs_picture:
            cv2 = require_cv2()
            found, jpeg = cv2.imencode(".jpg", result.picture_bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            if found:
                self._picture = (self._picture[0] + 1, jpeg.tobytes())
            self._drawn_s = now
        if now - self._shared_s >= SHARES_EVERY_S:
            self._shares = [round(share, 4) for share in class_shares(result.labels, self._contract.num_classes)]
            self._shared_s = now

    def tell(self, status: StreamStatus) -> None:
        """Keep the numbers for whoever asks."""
        self._status = status
        self._told_s = time.monotonic()

    def close(self, keep: bool = True) -> None:
        """Let viewers see the end, for which a page that asks is given a moment, and stop serving."""
        began, self._is_closed = time.monotonic(), True
        if began - self._asked_s < 2 * LAST_WORD_S:
            while self._asked_s < began and time.monotonic() - began < LAST_WORD_S:
                time.sleep(_POLL_S)
        self._server.should_exit = True
        self._thread.join(CLOSE_TIMEOUT_S)
        self._listener.close()  # uvicorn leaves it open if it was to end before it had started

    def _app(self) -> Any:
        try:
            from starlette.applications import Starlette
            from starlette.requests import Request
            from starlette.responses import HTMLResponse, Response, StreamingResponse
            from starlette.routing import Route
        except ImportError as exc:
            raise _missing() from exc

        fresh = {"Cache-Control": "no-store"}

        async def page(request: Request) -> Response:
            return HTMLResponse(_PAGE.read_text(encoding="utf-8"), headers=fresh)

        async def status(request: Request) -> Response:
            self._asked_s = time.monotonic()
            return Response(msgspec.json.encode(self._numbers()), media_type="application/json", headers=fresh)

        async def picture(request: Request) -> Response:
            found = None
            if request.method != "HEAD":
                found = await self._next_picture(request.query_params.get("after"))
            if found is None:
                return Response(status_code=204, headers=fresh)
            number, jpeg = found
            return Response(jpeg, media_type="image/jpeg", headers=fresh | {"Picture-Number": str(number)})

        async def pictures(request: Request) -> Response:
            kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
            if request.method == "HEAD":
                return Response(media_type=kind, headers=fresh)
            return StreamingResponse(self._parts(), media_type=kind, headers=fresh)

        app = Starlette(
            routes=[
                Route("/", page),
                Route("/status.json", status),
                Route("/picture.jpg", picture),
                Route("/stream.mjpg", pictures),
            ],
        )
        app.router.redirect_slashes = False  # a redirect would lead to whatever Host was given
        return app

    def _numbers(self) -> dict[str, Any]:
        is_away = self._status is not None and self._status.link.state != "running"
        unknown = [None] * self._contract.num_classes
        shares: Sequence[float | None] = (not is_away and self._shares) or unknown  # those of now, or none
        return {
            "model": self._contract.model,
            "status": self._status and _status_fields(self._status),
            "told_s_ago": None if self._told_s is None else round(time.monotonic() - self._told_s, 1),
            "ended": self._is_closed,
            "viewers": max(self._viewers, int(self._is_watched())),
            "classes": [
                {"name": name, "rgb": rgb, "share": share}
                for name, rgb, share in zip(self._contract.class_names, self._contract.palette, shares, strict=True)
            ],
        }

    def _is_watched(self) -> bool:
        return self._viewers > 0 or time.monotonic() - self._looked_s < _LOOKS_S

    async def _next_picture(self, shown: str | None) -> tuple[int, bytes] | None:
        """Number and JPEG of a picture of now that is another than number ``shown``; None where none comes in time.

        A page asks for one after the other: so it has the newest whenever it is ready, and asks for none while it is
        hidden; of ``/stream.mjpg`` a browser shows each part when the next one begins, and keeps a connection for it.
        """
        began = time.monotonic()
        self._viewers += 1
        try:
            while not self._is_closed and time.monotonic() - began < AGAIN_AFTER_S:
                self._looked_s = time.monotonic()
                is_of_now = self._drawn_s > began - _LOOKS_S  # looked at before the picture, which is written before it
                number, jpeg = self._picture
                if is_of_now and str(number) != shown:
                    return number, jpeg
                await asyncio.sleep(_POLL_S)
        finally:
            self._viewers -= 1
        return None

    async def _parts(self) -> AsyncIterator[bytes]:
        """Each picture as a part of the answer, the newest whenever the viewer is ready, until the stream is over.

        Where no new one comes, the last is sent again now and then: a proxy would cut a connection that is silent.
        """
        shown, sent_s = 0, math.inf
        if not self._is_watched():  # what is there is of when somebody last looked on
            shown = self._picture[0]
        self._viewers += 1
        try:
            yield f"--{_BOUNDARY}\r\n".encode()
            while not self._is_closed:
                number, jpeg = self._picture
                if number == shown and time.monotonic() - sent_s < AGAIN_AFTER_S:
                    await asyncio.sleep(_POLL_S)
                    continue
                shown, sent_s = number, time.monotonic()
                # A program may show a part once it has seen the boundary behind it.
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                yield head.encode() + jpeg + f"\r\n--{_BOUNDARY}\r\n".encode()
        finally:
            self._viewers -= 1


def _status_fields(status: StreamStatus) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(status)
    fields |= {"source": unicode_text(status.source), "engine": unicode_text(status.engine)}
    return fields


def page_url(address: str) -> str:
    """Where a page is that is served on ``address``.

    Raises:
        UsageError: if that is no address.
    """
    host, port = _host_and_port(address)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _host_and_port(address: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:(?:\[([0-9a-fA-F:.]+)\]|([^\s:/\[\]]*)):)?(\d{1,5})", address)
    if not found or not 1 <= int(found[3]) <= 65535:
        raise UsageError(f"'{address}' is no address to serve on; expected HOST:PORT, such as 127.0.0.1:8080")
    return found[1] or found[2] or "127.0.0.1", int(found[3])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        for_all = host == "::" and socket.has_dualstack_ipv6()  # of IPv4 too, as 0.0.0.0 is understood
        listener = socket.create_server((host, port), family=family, dualstack_ipv6=for_all)
    except OSError as exc:
        raise UsageError(
            f"cannot serve on {host}:{port} ({exc.strerror or exc}); choose another port, and a host that is an "
            "address of this machine (127.0.0.1 for this machine alone, 0.0.0.0 for all that can reach it)"
        ) from exc
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # connections have it from here
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    return listener


def _server(app: Any) -> Any:
    try:
        from .sink_page_server import limited_server
    except ImportError as exc:
        raise _missing() from exc
    return limited_server(app)


def _missing() -> MissingError:
    return MissingError("a page needs a web server, which is not installed: pip install 'fcn-edge[serve]'")
