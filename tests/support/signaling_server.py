"""A small signaling server for the pages' engine: it speaks `relay.signaling.messages`, keeps to
one room and one call, and does to them what tests want: cuts, loses, and forges.

It serves the real static files under the real security headers, on a thread of its own.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, TypeVar

from aiohttp import web

from core.errors import SignalingError
from relay.signaling.descriptions import kind_of_untrusted
from relay.signaling.messages import (
    Admit,
    Answer,
    CallChanged,
    CallStatus,
    CallView,
    CreateRoom,
    Description,
    Ended,
    Entered,
    Error,
    HangUp,
    Ice,
    IceServer,
    Invitation,
    Invite,
    JoinRoom,
    KindText,
    Knocking,
    NodeMessage,
    OpenCall,
    PageMessage,
    Passed,
    PeerAway,
    PeerBack,
    PeerJoined,
    PeerLeft,
    PeerView,
    Ping,
    Pong,
    RefreshIce,
    Resume,
    RoomView,
    Signal,
    Waiting,
    Welcome,
    decode_untrusted,
    encode,
)
from relay.web.http_message import SECURITY_HEADERS
from relay.web.static_files import CONTENT_TYPES, static_names

CALL = "CALL-ABCDEFGH"
SECRETS = {"caller": "a-caller-s-secret", "callee": "a-callee-s-secret"}
INVITATION = "an-invitation-of-tests"
_PAGE = b'<!doctype html><html lang="en"><meta charset="utf-8"><title>test</title></html>'
_HEADERS = {
    **SECURITY_HEADERS,
    "Permissions-Policy": "camera=(self), microphone=(self), display-capture=(self)",
}
_Result = TypeVar("_Result")
_FINGERPRINT = re.compile(r"(?m)^(a=fingerprint:sha-256 )([0-9A-F:]+)")


@dataclass
class _Guest:
    id: str
    secret: str
    name: str
    socket: web.WebSocketResponse | None
    last_seq: int
    knocks: bool = False


@dataclass
class SignalingServer:
    """What tests look at and turn.

    Attributes:
        url: of the pages; ``/test`` is an empty one.
        kinds: what each answer that has passed comes to, as a call's price goes by.
        descriptions: (sender, type, SDP) of all that has passed.
        seen: (peer, type) of all messages, in their order.
        swap_fingerprints: whether descriptions pass with a fingerprint that is nobody's.
        forge: takes what would pass; returns whether it has seen to it itself.
        remembers: whether a lost session can be resumed.
        is_open: whether pages get a connection.
        relayed: what a call says of its media.
        ice_ttl_s: for how long credentials are said to hold.
        make_ice: makes what `RTCPeerConnection` is to ask for relays; none when None.
        relay_only: whether media flows through these alone.
    """

    url: str = ""
    kinds: list[str] = field(default_factory=list)
    descriptions: list[tuple[str, str, str]] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    swap_fingerprints: bool = False
    remembers: bool = True
    is_open: bool = True
    relayed: bool = True
    ice_ttl_s: int = 600
    make_ice: Callable[[], list[IceServer]] | None = None
    relay_only: bool = False
    forge: Callable[[str, Signal | Answer], Awaitable[bool]] | None = None
    _guests: dict[str, _Guest] = field(default_factory=dict)
    _lobby: bool = False
    _call_status: CallStatus = "ringing"
    _call_kind: KindText = "voice"
    _loop: asyncio.AbstractEventLoop | None = None

    # ------------------------------------------------------------ what tests do

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Have the server's thread do it."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def cut(self, peer: str) -> None:
        """End the peer's connection, as a network does."""
        self.run(self._cut(peer))

    async def _cut(self, peer: str) -> None:
        socket = self._guests[peer].socket
        if socket is not None:
            await socket.close()

    async def tell(self, peer: str, message: NodeMessage) -> None:
        """Say something to a peer that is connected."""
        guest = self._guests.get(peer)
        if guest is not None and guest.socket is not None and not guest.socket.closed:
            await guest.socket.send_str(encode(message).decode())

    def of_type(self, kind: str) -> list[str]:
        """Who has sent messages of that type."""
        return [peer for peer, one in self.seen if one == kind]

    # ------------------------------------------------------------ connections

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """A page's connection, from its greeting to its end."""
        if not self.is_open:
            raise web.HTTPServiceUnavailable
        socket = web.WebSocketResponse(protocols=("montana.1",), max_msg_size=2**18)
        await socket.prepare(request)
        await socket.send_str(encode(Welcome([1], "challenge", "free", False, False)).decode())
        guest: _Guest | None = None
        async for frame in socket:
            message = decode_untrusted(frame.data.encode())
            try:
                if guest is None:
                    guest = await self._enter(socket, message)
                elif message.seq != guest.last_seq + 1:
                    raise SignalingError("out-of-order", "not the next one")
                else:
                    await self._act(guest, message)
                guest.last_seq = message.seq
                self.seen.append((guest.id, str(type(message).__struct_config__.tag)))
            except SignalingError as error:
                refusal = Error(message.seq, error.code, str(error))
                await socket.send_str(encode(refusal).decode())
        if guest is not None and guest.socket is socket:
            guest.socket = None
            await self._tell_others(guest.id, PeerAway(guest.id))
            if not self.remembers:
                self._guests.pop(guest.id, None)
        return socket

    async def _enter(self, socket: web.WebSocketResponse, message: PageMessage) -> _Guest:
        match message:
            case CreateRoom():
                self._lobby = message.lobby
                guest = self._new_guest(message.name, socket, message.seq)
                await self.tell(guest.id, self._entered(guest, message.seq, INVITATION))
            case JoinRoom():
                if message.invitation != INVITATION:
                    raise SignalingError("bad-secret", "there is no such invitation")
                guest = self._new_guest(message.name, socket, message.seq)
                if self._lobby:
                    guest.knocks = True
                    await self.tell(guest.id, Waiting(message.seq, guest.secret))
                    await self.tell("1", Knocking(PeerView(guest.id, guest.name)))
                else:
                    await self._let_in(guest, message.seq)
            case OpenCall():
                guest = await self._open_call(socket, message)
            case Resume():
                guest = await self._resume(socket, message)
            case _:
                raise SignalingError("wrong-state", "enter first")
        return guest

    async def _let_in(self, guest: _Guest, re: int | None) -> None:
        guest.knocks = False
        await self.tell(guest.id, self._entered(guest, re))
        await self._tell_others(guest.id, PeerJoined(PeerView(guest.id, guest.name)))

    async def _open_call(self, socket: web.WebSocketResponse, message: OpenCall) -> _Guest:
        role = next((one for one, secret in SECRETS.items() if secret == message.secret), None)
        if role is None or message.call != CALL:
            raise SignalingError("bad-secret", "there is no such call")
        number = {"caller": "1", "callee": "2"}[role]
        was_there = self._guests.get(number)
        session = f"the-session-of-the-{role}"
        guest = self._guests[number] = _Guest(number, session, "", socket, message.seq)
        await self.tell(number, self._entered(guest, message.seq))
        back = PeerBack(number, True) if was_there else PeerJoined(PeerView(number, ""))
        await self._tell_others(number, back)
        return guest

    async def _resume(self, socket: web.WebSocketResponse, message: Resume) -> _Guest:
        guest = next((one for one in self._guests.values() if one.secret == message.session), None)
        if guest is None:
            raise SignalingError("not-resumable", "the session is over")
        if message.seq <= guest.last_seq:
            raise SignalingError("replayed", "said before")
        guest.socket = socket
        await self.tell(guest.id, self._entered(guest, message.seq))
        await self._tell_others(guest.id, PeerBack(guest.id, message.fresh, guest.name))
        return guest

    def _new_guest(self, name: str, socket: web.WebSocketResponse, seq: int) -> _Guest:
        number = str(len(self._guests) + 1)
        guest = _Guest(number, f"the-session-of-number-{number}", name, socket, seq)
        self._guests[number] = guest
        return guest

    def _entered(self, guest: _Guest, re: int | None, invitation: str | None = None) -> Entered:
        others = [
            PeerView(one.id, one.name, one.socket is None)
            for one in self._guests.values()
            if one is not guest and not one.knocks
        ]
        is_call = guest.secret.endswith(("caller", "callee"))
        return Entered(
            re=re,
            session=guest.secret,
            you=guest.id,
            peers=others,
            ice=self._ice(),
            ice_ttl_s=self.ice_ttl_s,
            relay_only=self.relay_only,
            room=None if is_call else RoomView("room", "1", False, self._lobby, 12, "node"),
            call=self._call_of(guest.id) if is_call else None,
            invitation=invitation,
        )

    def _ice(self) -> list[IceServer]:
        return [] if self.make_ice is None else self.make_ice()

    def _call_of(self, peer: str) -> CallView:
        return CallView(
            id=CALL,
            role="caller" if peer == "1" else "callee",
            other="",
            status=self._call_status,
            kind=self._call_kind,
            price_second="1",
            relayed=self.relayed,
        )

    # ------------------------------------------------------------ acts

    async def _act(self, guest: _Guest, message: PageMessage) -> None:
        match message:
            case Signal() | Answer():
                await self._pass(guest, message)
            case Ping():
                await self.tell(guest.id, Pong(message.seq))
            case RefreshIce():
                await self.tell(guest.id, Ice(message.seq, self._ice(), self.ice_ttl_s))
            case Invite():
                invitation = Invitation(message.seq, INVITATION, message.uses, message.ttl_s)
                await self.tell(guest.id, invitation)
            case Admit():
                await self._let_in(self._guests[message.peer], None)
            case HangUp():
                await self._hang_up(guest)

    async def _hang_up(self, guest: _Guest) -> None:
        if guest.secret.endswith(("caller", "callee")):
            for peer in list(self._guests):
                await self.tell(peer, Ended("hung-up"))
            return
        await self.tell(guest.id, Ended("left"))
        await self._tell_others(guest.id, PeerLeft(guest.id, "left"))
        self._guests.pop(guest.id)

    async def _pass(self, guest: _Guest, message: Signal | Answer) -> None:
        other = "2" if guest.id == "1" else "1"
        to = message.to if isinstance(message, Signal) else other
        description = message.description
        if description is not None:
            self.descriptions.append((guest.id, description.type, description.sdp))
            if description.type == "answer":
                self._call_kind = kind_of_untrusted(description.sdp).value
                self.kinds.append(self._call_kind)
        if self.forge is not None and await self.forge(guest.id, message):
            return
        if description is not None and self.swap_fingerprints:
            description = Description(description.type, _swapped(description.sdp))
        candidates = message.candidates if isinstance(message, Signal) else []
        if isinstance(message, Answer):
            self._call_status = "active"
        await self.tell(to, Passed(guest.id, message.connection, description, candidates))
        if isinstance(message, Answer) or description is not None:
            await self._tell_call()

    async def _tell_call(self) -> None:
        for guest in list(self._guests.values()):
            if guest.secret.endswith(("caller", "callee")):
                await self.tell(guest.id, CallChanged(self._call_of(guest.id)))

    async def _tell_others(self, peer: str, message: NodeMessage) -> None:
        for guest in list(self._guests.values()):
            if guest.id != peer and not guest.knocks:
                await self.tell(guest.id, message)


def _swapped(sdp: str) -> str:
    """The description with other fingerprints: each digit its opposite."""
    opposite = str.maketrans("0123456789ABCDEF", "FEDCBA9876543210")
    return _FINGERPRINT.sub(lambda match: match[1] + match[2].translate(opposite), sdp)


def _file(body: bytes, content_type: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def serve(request: web.Request) -> web.Response:
        return web.Response(body=body, headers={**_HEADERS, "Content-Type": content_type})

    return serve


def _application(server: SignalingServer) -> web.Application:
    application = web.Application()
    application.router.add_get("/ws", server.serve)
    application.router.add_get("/test", _file(_PAGE, "text/html; charset=utf-8"))
    static = files("relay.web") / "static"
    for name in static_names():
        body = (static / name).read_bytes()
        content_type = CONTENT_TYPES[f".{name.rsplit('.', 1)[1]}"]
        application.router.add_get(f"/static/{name}", _file(body, content_type))
    return application


@contextmanager
def signaling_server() -> Iterator[SignalingServer]:
    """A server on localhost, which browsers trust with a camera."""
    server = SignalingServer()
    started = threading.Event()
    stopped = asyncio.Event()

    async def serve() -> None:
        server._loop = asyncio.get_running_loop()
        runner = web.AppRunner(_application(server), shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        server.url = f"http://localhost:{port}"
        started.set()
        await stopped.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield server
    finally:
        assert server._loop is not None
        server._loop.call_soon_threadsafe(stopped.set)
        thread.join(10)
