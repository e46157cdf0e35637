"""An app behind a WebSocket that remembers what has become of it, and a server for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from core.clock import Clock, SystemClock
from core.stun.address import Address
from relay.web.http_message import Handler, Request, Response
from relay.web.opening_handshake import origin_is_allowed_untrusted
from relay.web.server import HttpServer
from relay.web.tls import CertificateFiles
from relay.web.websocket import WebSocket, WebSocketLimits, WebSocketRoute

LOOPBACK = Address.from_text("127.0.0.1", 0)


class Recorder:
    """Echoes; one a connection."""

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.messages: list[bytes] = []
        self.closed_count = 0

    def received(self, message: bytes) -> None:
        """Remember and echo."""
        assert not self.closed_count
        self.messages.append(message)
        self.websocket.send(message)

    def closed(self) -> None:
        """Remember."""
        self.closed_count += 1


class Recorders:
    """All of them, in the order in which they came."""

    def __init__(self, make: Callable[[WebSocket], Recorder] = Recorder) -> None:
        self._make = make
        self.all: list[Recorder] = []

    def open(self, websocket: WebSocket) -> Recorder:
        """For a `WebSocketRoute`."""
        recorder = self._make(websocket)
        self.all.append(recorder)
        return recorder

    async def wait_closed(self, count: int = 1) -> None:
        """Until so many have been told of their end, each once."""
        with trio.fail_after(20):
            while sum(one.closed_count for one in self.all) < count:
                await trio.sleep(0.01)
        assert all(one.closed_count <= 1 for one in self.all)


async def _page(_request: Request) -> Response:
    return Response(body=b"<!doctype html><title>page</title>", content_type="text/html")


@asynccontextmanager
async def serving(
    recorders: Recorders,
    *,
    clock: Clock | None = None,
    certificate: CertificateFiles | None = None,
    limits: WebSocketLimits | None = None,
) -> AsyncIterator[HttpServer]:
    """A server on a port of 127.0.0.1: a page at ``/``, the app at ``/ws``."""
    routes: dict[tuple[str, str], Handler] = {("GET", "/"): _page}
    route = WebSocketRoute(
        open_app=recorders.open,
        is_allowed=origin_is_allowed_untrusted,
        message_maximum_bytes=200_000,
    )
    server = HttpServer(
        [LOOPBACK],
        routes,
        clock=clock or SystemClock(),
        certificate=certificate,
        websockets={"/ws": route},
        websocket_limits=limits,
    )
    await server.bind()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()
