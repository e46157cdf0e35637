"""One HTTP/1.1 connection (RFC 9112): requests in, responses out, within limits of size and time.

h11 holds the protocol's state; this drives it over a stream. Whatever a client sends ends in a
response, in a WebSocket that takes the connection over, or in the connection's end, never in an
exception.
"""

from __future__ import annotations

import email.utils
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

import h11
import trio

from core.clock import Clock
from core.units import KIB
from relay.web.client_address import client_network, client_of_untrusted
from relay.web.http_message import (
    SECURITY_HEADERS,
    RefusedError,
    Request,
    Response,
    Routes,
    error_response,
)
from relay.web.opening_handshake import accept_untrusted
from relay.web.websocket import WebSocketRoute

RECEIVE_BYTES = 16 * KIB
LINGER_BYTES = 256 * KIB
LINGER_S = 1.0

_log = logging.getLogger("montana.web")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What a client may take of the server.

    Attributes:
        head_bytes: request line and headers together.
        body_bytes: a request's body.
        requests: on one connection, which is closed after that many.
        idle_s: how long a connection may wait for its next request.
        request_s: how long a request may take to arrive, from its first byte on.
        handler_s: how long a handler may take.
        send_s: how long a client may take to accept a response.
        handshake_s: how long TLS may take to be set up.
        connections: at once, over all listeners.
        connections_per_client: of one IPv4 address or IPv6 /64 network.
    """

    head_bytes: int = 16 * KIB
    body_bytes: int = 64 * KIB
    requests: int = 1000
    idle_s: float = 60
    request_s: float = 15
    handler_s: float = 15
    send_s: float = 30
    handshake_s: float = 10
    connections: int = 1024
    connections_per_client: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What is served to whom it concerns.

    Attributes:
        scheme: ``http`` or ``https``, as requests come.
        websockets: by path; a path of both is a WebSocket's.
        headers: of every response, beside the security headers.
        behind_proxy: see `HttpServer`.
    """

    scheme: str
    routes: Routes
    websockets: Mapping[str, WebSocketRoute] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    behind_proxy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """A WebSocket takes the connection over; `received` has come already."""

    route: WebSocketRoute
    client: str
    origin: str
    received: bytes


async def serve_connection(
    stream: trio.abc.Stream,
    peer: str,
    site: Site,
    limits: HttpLimits,
    clock: Clock,
    reserve: Callable[[str], bool],
) -> Upgrade | None:
    """Answer requests until the client leaves, errs, takes too long or upgrades; leaves `stream`
    open. `peer` is the IP address that it comes from. `reserve` takes a place for a WebSocket of a
    client's network, which is kept where one is returned."""
    return await _Connection(stream, peer, site, limits, clock, reserve).serve()


class _Connection:
    def __init__(
        self,
        stream: trio.abc.Stream,
        peer: str,
        site: Site,
        limits: HttpLimits,
        clock: Clock,
        reserve: Callable[[str], bool],
    ) -> None:
        self._stream = stream
        self._peer = peer
        self._site = site
        self._limits = limits
        self._clock = clock
        self._reserve = reserve
        self._upgrade: Upgrade | None = None
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)

    async def serve(self) -> Upgrade | None:
        try:
            for served in range(1, self._limits.requests + 1):
                last = served == self._limits.requests
                if not await self._exchange(last=last):
                    await self._linger()
                    break
                self._protocol.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            _log.debug("a connection broke off or was too slow")
            return None
        return self._upgrade

    async def _exchange(self, *, last: bool) -> bool:
        """Serve one request; whether another may follow."""
        is_head = False
        try:
            with trio.fail_after(self._limits.idle_s):
                begun = await self._receive()
            if not begun:
                return False
            with trio.fail_after(self._limits.request_s):
                head = await self._next_event()
                if not isinstance(head, h11.Request):
                    return False
                is_head = head.method == b"HEAD"
                if await self._switch_untrusted(head):
                    return False
                request = await self._read_request_untrusted(head)
            response = await self._handle(request)
        except h11.RemoteProtocolError as error:
            response = error_response(error.error_status_hint)
            last = True
        except RefusedError as refused:
            response = refused.response
            # The rest of a body that nobody wants is not worth reading.
            last = True
        await self._send(response, last=last, is_head=is_head)
        return self._protocol.our_state is h11.DONE and self._protocol.their_state is h11.DONE

    async def _linger(self) -> None:
        """Take in a little more of a request that was answered before its end: to close at once
        would have the kernel throw the answer away (RFC 9112 section 9.6)."""
        if self._protocol.their_state not in (h11.SEND_BODY, h11.ERROR):
            return
        with trio.move_on_after(LINGER_S):
            for _ in range(LINGER_BYTES // RECEIVE_BYTES):
                if not await self._stream.receive_some(RECEIVE_BYTES):
                    return

    async def _receive(self) -> bool:
        """Take in the first bytes of the next request, unless they have come with the last one."""
        if self._protocol.trailing_data[0]:
            return True
        data = await self._stream.receive_some(RECEIVE_BYTES)
        self._protocol.receive_data(bytes(data))
        return bool(data)

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        """The next event of the peer's; more bytes are read until there is one."""
        while True:
            event = self._protocol.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]
            if self._protocol.they_are_waiting_for_100_continue:
                await self._write(h11.InformationalResponse(status_code=100, headers=[]))
            self._protocol.receive_data(bytes(await self._stream.receive_some(RECEIVE_BYTES)))

    async def _switch_untrusted(self, head: h11.Request) -> bool:
        """Have a WebSocket take the connection over, where the request is for one.

        Raises:
            RefusedError: it is, and can't be had.
            h11.RemoteProtocolError: no HTTP.
        """
        path, _ = _split_target_untrusted(head.target)
        route = self._site.websockets.get(path)
        if route is None:
            return False
        if head.method != b"GET":
            raise RefusedError(405, {"Allow": "GET"})
        headers = _joined(head)
        answer = accept_untrusted(headers, route, self._site.scheme)
        end = await self._next_event()
        if head.http_version != b"1.1" or not isinstance(end, h11.EndOfMessage):
            raise RefusedError(400)
        client = self._client_untrusted(headers)
        if not self._reserve(client_network(client)):
            raise RefusedError(503)
        await self._write(h11.InformationalResponse(status_code=101, headers=list(answer.items())))
        self._upgrade = Upgrade(
            route=route,
            client=client,
            origin=headers.get("origin", ""),
            received=self._protocol.trailing_data[0],
        )
        return True

    def _client_untrusted(self, headers: Mapping[str, str]) -> str:
        """The IP address of who has sent a request with these headers."""
        if not self._site.behind_proxy:
            return self._peer
        return client_of_untrusted(self._peer, headers.get("x-forwarded-for"))

    async def _read_request_untrusted(self, head: h11.Request) -> Request:
        """Validate the head, then read the body.

        Raises:
            RefusedError: a route that isn't there, or a body that is too long.
            h11.RemoteProtocolError: no HTTP.
        """
        method = head.method.decode("ascii")
        path, query = _split_target_untrusted(head.target)
        asked = "GET" if method == "HEAD" else method
        if (asked, path) not in self._site.routes:
            others = sorted(known for known, at in self._site.routes if at == path)
            if others:
                allowed = others + (["HEAD"] if "GET" in others else [])
                raise RefusedError(405, {"Allow": ", ".join(allowed)})
            raise RefusedError(404)
        headers = _joined(head)
        announced = headers.get("content-length", "0")
        # h11 has seen to it that it is a number, but not that it is a short one.
        if len(announced) > 18 or int(announced) > self._limits.body_bytes:
            raise RefusedError(413)
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            if len(body) > self._limits.body_bytes:
                raise RefusedError(413)
        if not isinstance(event, h11.EndOfMessage):
            raise RefusedError(400)
        return Request(
            method=asked,
            path=path,
            query=query,
            headers=headers,
            body=bytes(body),
            client=self._client_untrusted(headers),
        )

    async def _handle(self, request: Request) -> Response:
        handler = self._site.routes[request.method, request.path]
        try:
            with trio.fail_after(self._limits.handler_s):
                return await handler(request)
        except trio.TooSlowError:
            return error_response(503)
        except Exception:
            # A handler that fails is our own mistake; it must not end the others' connections.
            _log.exception("the handler of %s failed", request.path)
            return error_response(500)

    async def _send(self, response: Response, *, last: bool, is_head: bool) -> None:
        headers = {
            **SECURITY_HEADERS,
            **self._site.headers,
            "Date": email.utils.formatdate(self._clock.unix_s(), usegmt=True),
            "Content-Type": response.content_type,
            "Content-Length": str(len(response.body)),
            **(response.headers or {}),
        }
        if response.status == HTTPStatus.NOT_MODIFIED:
            del headers["Content-Type"], headers["Content-Length"]
        if last:
            headers["Connection"] = "close"
        with trio.fail_after(self._limits.send_s):
            if self._protocol.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                return
            await self._write(
                h11.Response(status_code=response.status, headers=list(headers.items()))
            )
            if not is_head and response.body and response.status != HTTPStatus.NOT_MODIFIED:
                await self._write(h11.Data(data=response.body))
            await self._write(h11.EndOfMessage())

    async def _write(self, event: h11.Event) -> None:
        data = self._protocol.send(event)
        if data:
            await self._stream.send_all(data)


def _joined(head: h11.Request) -> dict[str, str]:
    """The headers of a request; the values of one name are joined by ``, ``."""
    headers: dict[str, str] = {}
    for name, value in head.headers:
        key, text = name.decode("ascii"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _split_target_untrusted(target: bytes) -> tuple[str, str]:
    """Path and query of a request's target in origin or absolute form (RFC 9112 section 3.2).

    Raises:
        RefusedError: it has neither form.
    """
    text = target.decode("ascii", errors="replace")
    if not text.startswith("/"):
        try:
            parts = urlsplit(text)
        except ValueError as error:
            raise RefusedError(400) from error
        if parts.scheme not in ("http", "https"):
            raise RefusedError(400)
        return parts.path or "/", parts.query
    path, _, query = text.partition("?")
    return path, query
