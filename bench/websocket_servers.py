"""A WebSocket server that passes messages on between pairs: the node's, or aiohttp's.

Run as ``python -m bench.websocket_servers NAME``; prints the port of 127.0.0.1 that it serves on,
and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys

import trio
from aiohttp import WSMsgType, web

from bench.process import allow_many_descriptors
from core.clock import SystemClock
from core.stun.address import Address
from relay.web.server import HttpServer
from relay.web.websocket import Receiver, WebSocket, WebSocketLimits, WebSocketRoute

MONTANA, AIOHTTP = "Montana", "aiohttp"
CONNECTIONS_MAXIMUM = 20_000


class Pairs:
    """The first connection talks to the second one, the third to the fourth."""

    def __init__(self) -> None:
        self._alone: _End | None = None

    def open(self, websocket: WebSocket) -> Receiver:
        end = _End(websocket)
        if self._alone is None:
            self._alone = end
        else:
            end.peer, self._alone.peer = self._alone.websocket, websocket
            self._alone = None
        return end


class _End:
    __slots__ = ("peer", "websocket")

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.peer: WebSocket | None = None

    def received(self, message: bytes) -> None:
        if self.peer is not None:
            self.peer.send(message)

    def closed(self) -> None:
        self.peer = None


async def serve_montana() -> None:
    """The node's own."""
    route = WebSocketRoute(open_app=Pairs().open, is_allowed=lambda *_: True)
    server = HttpServer(
        [Address.from_text("127.0.0.1", 0)],
        {},
        clock=SystemClock(),
        websockets={"/ws": route},
        websocket_limits=WebSocketLimits(
            connections=CONNECTIONS_MAXIMUM, connections_per_client=CONNECTIONS_MAXIMUM
        ),
    )
    await server.bind()
    print(server.addresses[0].port, flush=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


async def serve_aiohttp() -> None:
    """aiohttp's, told to leave text as the bytes that it came as, and not to compress."""
    alone: web.WebSocketResponse | None = None
    peers: dict[web.WebSocketResponse, web.WebSocketResponse] = {}

    async def handle(request: web.Request) -> web.WebSocketResponse:
        nonlocal alone
        websocket = web.WebSocketResponse(compress=False, decode_text=False)
        await websocket.prepare(request)
        if alone is None:
            alone = websocket
        else:
            peers[alone], peers[websocket] = websocket, alone
            alone = None
        async for message in websocket:
            if message.type is WSMsgType.TEXT and websocket in peers:
                await peers[websocket].send_frame(message.data, WSMsgType.TEXT)
        peers.pop(websocket, None)
        return websocket

    application = web.Application()
    application.router.add_get("/ws", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)


def main() -> None:
    """Serve."""
    allow_many_descriptors()
    gc.collect()
    if sys.argv[1] == MONTANA:
        trio.run(serve_montana)
    else:
        asyncio.run(serve_aiohttp())


if __name__ == "__main__":
    main()
