"""The server that the node's signaling is measured beside: aiohttp, which lets pages into rooms and
passes on what they say after the same checks, by the same protocol.

    python -m bench.aiohttp_peer MESSAGES_PER_SECOND MESSAGE_BURST

As the node does, it says where its pages are in a line of JSON. They come to ``/ws``. Behind
``/idle`` a WebSocket is read and nothing else is done with it.
"""

from __future__ import annotations

import json
import secrets
import socket
import sys
from typing import Final

from aiohttp import WSMessage, WSMsgType, web

from core.clock import Clock, SystemClock
from core.errors import SignalingError
from relay.signaling.messages import (
    MESSAGE_MAXIMUM_BYTES,
    PROTOCOL_VERSION,
    CreateRoom,
    Entered,
    Error,
    JoinRoom,
    NodeMessage,
    PageMessage,
    PeerJoined,
    PeerLeft,
    PeerView,
    RoomView,
    Signal,
    Welcome,
    decode_untrusted,
    encode,
)
from relay.signaling.passing import pass_on_untrusted
from relay.signaling.room import ROOM_PEOPLE
from relay.signaling.token_bucket import TokenBucket

HOST: Final = "127.0.0.1"
BACKLOG: Final = 1024


class _Page:
    """A page's connection, and its place in a room."""

    __slots__ = ("bucket", "id", "invitation", "last_seq", "websocket")

    def __init__(self, websocket: web.WebSocketResponse[bool], bucket: TokenBucket) -> None:
        self.websocket = websocket
        self.bucket = bucket
        self.id = ""
        self.invitation = ""
        self.last_seq = 0

    async def tell(self, message: NodeMessage) -> None:
        """Send a message, as fast as aiohttp does: without a str in between."""
        await self.websocket.send_frame(encode(message), WSMsgType.TEXT)


class AiohttpPeer:
    """Rooms whose people pass messages to each other; a room lives while its invitation does.

    Args:
        origin: of the only pages that may come.
        messages_per_second, message_burst: what a page may send.
    """

    def __init__(
        self, clock: Clock, origin: str, messages_per_second: int, message_burst: int
    ) -> None:
        self._clock = clock
        self._origin = origin
        self._rate = messages_per_second
        self._burst = message_burst
        self._rooms: dict[str, dict[str, _Page]] = {}

    async def serve(self, request: web.Request) -> web.WebSocketResponse[bool]:
        """A page's whole life."""
        if request.headers.get("Origin") != self._origin:
            raise web.HTTPForbidden
        websocket = web.WebSocketResponse(
            max_msg_size=MESSAGE_MAXIMUM_BYTES, compress=False, decode_text=False
        )
        await websocket.prepare(request)
        bucket = TokenBucket(self._rate, self._burst, self._clock.monotonic_ns())
        page = _Page(websocket, bucket)
        await page.tell(
            Welcome([PROTOCOL_VERSION], secrets.token_urlsafe(24), "free", False, False)
        )
        try:
            async for received in websocket:
                await self._receive(page, received)
        finally:
            await self._leave(page)
        return websocket

    async def _receive(self, page: _Page, received: WSMessage) -> None:
        re = None
        try:
            if received.type is not WSMsgType.TEXT:
                raise SignalingError("malformed", "a message is text")
            message = decode_untrusted(received.data)
            re = message.seq
            if not page.bucket.take(self._clock.monotonic_ns()):
                raise SignalingError("too-many", "too many messages; wait a little")
            self._take_seq(page, re)
            await self._carry_out(page, message)
        except SignalingError as error:
            await page.tell(Error(re, error.code, str(error), error.values))

    @staticmethod
    def _take_seq(page: _Page, seq: int) -> None:
        if seq <= page.last_seq:
            raise SignalingError("replayed", "this message was said before")
        if page.id and seq != page.last_seq + 1:
            raise SignalingError("out-of-order", "a message before this one is missing")
        page.last_seq = seq

    async def _carry_out(self, page: _Page, message: PageMessage) -> None:
        if isinstance(message, Signal) and page.id:
            target = self._rooms[page.invitation].get(message.to)
            if target is None or target is page:
                raise SignalingError("no-peer", "nobody of that name is here")
            passed = pass_on_untrusted(page.id, message, None)
            assert passed is not None, "nothing is taken out where all may pass"
            await target.tell(passed)
        elif isinstance(message, CreateRoom) and not page.id:
            invitation = secrets.token_urlsafe(32)
            self._rooms[invitation] = {}
            await self._enter(page, message.seq, message.name, invitation)
        elif isinstance(message, JoinRoom) and not page.id:
            if message.invitation not in self._rooms:
                raise SignalingError("bad-secret", "there is no such invitation")
            await self._enter(page, message.seq, message.name, message.invitation)
        else:
            raise SignalingError("wrong-state", "this can't be said here")

    async def _enter(self, page: _Page, seq: int, name: str, invitation: str) -> None:
        room = self._rooms[invitation]
        if len(room) >= ROOM_PEOPLE:
            raise SignalingError("full", "the room is full")
        others = list(room.values())
        page.id = secrets.token_hex(2)
        while page.id in room:
            page.id = secrets.token_hex(2)
        page.invitation = invitation
        room[page.id] = page
        await page.tell(
            Entered(
                re=seq,
                session=secrets.token_urlsafe(32),
                you=page.id,
                peers=[PeerView(one.id, "") for one in others],
                ice=[],
                ice_ttl_s=0,
                relay_only=False,
                room=RoomView("room", next(iter(room)), False, False, ROOM_PEOPLE, "node"),
                invitation=invitation,
            )
        )
        for other in others:
            await other.tell(PeerJoined(PeerView(page.id, name)))

    async def _leave(self, page: _Page) -> None:
        if not page.id:
            return
        room = self._rooms[page.invitation]
        del room[page.id]
        if not room:
            del self._rooms[page.invitation]
        for other in list(room.values()):
            if not other.websocket.closed:
                await other.tell(PeerLeft(page.id, "left"))


async def idle(request: web.Request) -> web.WebSocketResponse[bool]:
    """A bare WebSocket."""
    websocket = web.WebSocketResponse(compress=False)
    await websocket.prepare(request)
    async for _ in websocket:
        pass
    return websocket


def main() -> None:
    """Serve until a signal ends it."""
    messages_per_second, message_burst = map(int, sys.argv[1:])
    listening = socket.create_server((HOST, 0), backlog=BACKLOG)
    url = f"http://{HOST}:{listening.getsockname()[1]}"
    peer = AiohttpPeer(SystemClock(), url, messages_per_second, message_burst)
    app = web.Application()
    app.add_routes([web.get("/ws", peer.serve), web.get("/idle", idle)])
    print(json.dumps({"event": "ready", "http": url}), flush=True)
    web.run_app(app, sock=listening, access_log=None, print=None, backlog=BACKLOG)


if __name__ == "__main__":
    main()
