"""The HTTP listener for pages: ports, TLS, and how many connections there may be.

server = HttpServer([Address.from_text("127.0.0.1", 0)], routes, clock=SystemClock())
await server.bind()
server.url                            # http://127.0.0.1:40001
await server.serve()
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress

import trio

from core.clock import Clock
from core.errors import OperationError
from core.stun.address import Address
from relay.web.client_address import client_network, is_this_machine
from relay.web.connection import HttpLimits, Site, serve_connection
from relay.web.http_message import (
    STRICT_TRANSPORT,
    Request,
    Response,
    Routes,
    error_response,
    is_host_untrusted,
)
from relay.web.tls import CertificateFiles, ReloadingContext
from relay.web.tls_stream import TlsStream
from relay.web.websocket import WebSocketLimits, WebSocketRoute, WebSockets

BACKLOG = 256
TLS_HANDSHAKE_RECORD = 0x16
"""The first byte of every TLS connection (RFC 8446 section 5.1)."""

_log = logging.getLogger("montana.web")


class HttpServer:
    """Serves `routes` over HTTP/1.1 and WebSockets, over TLS where a certificate is given.

    On a port with TLS a plain request is told to come again with https, since that is what
    browsers make of an address without a scheme.

    Args:
        listen: where; port 0 takes any free one.
        certificate: read anew when its files change.
        what: what is served, for a person who reads that it can't be.
        websockets: by path. They count against `websocket_limits` instead of `limits`.
        strict_transport: whether browsers that came over TLS are to come over nothing else (HSTS).
        behind_proxy: whether connections from this machine are a reverse proxy's, whose
            X-Forwarded-For says who the client is.

    Raises:
        ConfigError: the certificate can't be used.
    """

    def __init__(
        self,
        listen: Sequence[Address],
        routes: Routes,
        *,
        clock: Clock,
        certificate: CertificateFiles | None = None,
        limits: HttpLimits | None = None,
        what: str = "pages",
        websockets: Mapping[str, WebSocketRoute] | None = None,
        websocket_limits: WebSocketLimits | None = None,
        strict_transport: bool = False,
        behind_proxy: bool = False,
    ) -> None:
        assert listen
        self._listen = tuple(listen)
        scheme = "http" if certificate is None else "https"
        self._site = Site(
            scheme=scheme,
            routes=routes,
            websockets=websockets or {},
            headers=STRICT_TRANSPORT if strict_transport and scheme == "https" else {},
            behind_proxy=behind_proxy,
        )
        self._redirecting = Site(scheme="http", routes=dict.fromkeys(routes, _redirect_to_https))
        self._websockets = WebSockets(clock, websocket_limits)
        self._what = what
        self._clock = clock
        self._limits = limits or HttpLimits()
        self._tls = None if certificate is None else ReloadingContext(certificate, clock)
        self._listeners: list[trio.SocketListener] = []
        self._by_client: Counter[str] = Counter()
        self.addresses: tuple[Address, ...] = ()
        """What is really bound, in the order of `listen`; empty before `bind`."""

    @property
    def url(self) -> str:
        """The first listener's address as a URL without a path. A wildcard is given as loopback."""
        assert self.addresses, "bind() comes first"
        address = self.addresses[0]
        if not any(address.ip):
            loopback = "127.0.0.1" if len(address.ip) == 4 else "::1"
            address = Address.from_text(loopback, address.port)
        return f"{self.scheme}://{address}"

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return self._site.scheme

    @property
    def connections(self) -> int:
        """How many there are now, without WebSockets."""
        return self._by_client.total()

    @property
    def websocket_connections(self) -> int:
        """How many WebSockets there are now."""
        return len(self._websockets)

    async def bind(self) -> None:
        """Take the ports.

        Raises:
            OperationError: one of them can't be had; none is kept then.
        """
        assert not self._listeners
        for address in self._listen:
            try:
                self._listeners.append(await _open_listener(address))
            except OSError as error:
                await self.close()
                raise OperationError(
                    f"{self._what} can't be served on {address}: {error.strerror or error}"
                ) from error
        self.addresses = tuple(
            Address(listen.ip, listener.socket.getsockname()[1])
            for listen, listener in zip(self._listen, self._listeners, strict=True)
        )

    async def close(self) -> None:
        """Give up the ports; connections that `serve` runs end with its cancellation."""
        for listener in self._listeners:
            await listener.aclose()
        self._listeners.clear()

    async def serve(self) -> None:
        """Serve until cancelled; `bind` comes first."""
        assert self._listeners
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._websockets.run)
                await trio.serve_listeners(self._accept, self._listeners)
        finally:
            with trio.CancelScope(shield=True):
                await self.close()

    async def _accept(self, stream: trio.SocketStream) -> None:
        """Serve one connection; `trio.serve_listeners` closes it."""
        try:
            client = stream.socket.getpeername()[0]
        except OSError:
            return
        network = client_network(client)
        # What a proxy holds open is nobody's in particular.
        is_shared = self._site.behind_proxy and is_this_machine(client)
        if self._by_client.total() >= self._limits.connections or (
            self._by_client[network] >= self._limits.connections_per_client and not is_shared
        ):
            return
        self._by_client[network] += 1
        try:
            await self._serve_stream(stream, client)
        except Exception:
            # One connection's failure, which would be our mistake, must not end the listener.
            _log.exception("a connection failed")
        finally:
            self._by_client[network] -= 1
            if not self._by_client[network]:
                del self._by_client[network]

    async def _serve_stream(self, stream: trio.SocketStream, client: str) -> None:
        if self._tls is None:
            await self._serve_site(stream, client, self._site)
            return
        first = b""
        with trio.move_on_after(self._limits.handshake_s), suppress(OSError):
            first = await stream.socket.recv(1, socket.MSG_PEEK)
        if not first:
            return
        if first[0] != TLS_HANDSHAKE_RECORD:
            await self._serve_site(stream, client, self._redirecting)
            return
        async with TlsStream(_detach(stream), self._tls.current()) as secure:
            try:
                with trio.fail_after(self._limits.handshake_s):
                    await secure.do_handshake()
            except (trio.BrokenResourceError, trio.TooSlowError):
                _log.debug("a TLS handshake failed")
                return
            await self._serve_site(secure, client, self._site)

    async def _serve_site(
        self, stream: trio.SocketStream | TlsStream, client: str, site: Site
    ) -> None:
        place = self._websockets.place()
        upgrade = None
        try:
            upgrade = await serve_connection(
                stream, client, site, self._limits, self._clock, place.take
            )
        finally:
            if upgrade is None:
                place.release()
        if upgrade is not None:
            self._websockets.adopt(
                stream.detach() if isinstance(stream, TlsStream) else _detach(stream),
                upgrade.route,
                place,
                client=upgrade.client,
                origin=upgrade.origin,
                received=upgrade.received,
            )


def _detach(stream: trio.SocketStream) -> socket.socket:
    """The socket of a stream, non-blocking; closing the stream leaves it open."""
    connection = socket.socket(fileno=stream.socket.detach())
    connection.setblocking(False)
    return connection


async def _redirect_to_https(request: Request) -> Response:
    host = request.headers.get("host", "")
    if not is_host_untrusted(host):
        return error_response(400)
    return error_response(308, {"Location": f"https://{host}{request.path}"})


async def _open_listener(address: Address) -> trio.SocketListener:
    family = socket.AF_INET if len(address.ip) == 4 else socket.AF_INET6
    new = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await new.bind((address.host, address.port))
        new.listen(BACKLOG)
    except BaseException:
        new.close()
        raise
    return trio.SocketListener(new)
