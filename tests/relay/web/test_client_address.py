"""Whose a request is: behind a reverse proxy on this machine, and where somebody pretends to be
behind one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from core.clock import SystemClock
from core.stun.address import Address
from relay.web.client_address import client_network, client_of_untrusted
from relay.web.connection import HttpLimits, Site, serve_connection
from relay.web.http_message import Request, Response
from relay.web.opening_handshake import origin_is_allowed_untrusted
from relay.web.server import HttpServer
from relay.web.websocket import WebSocketLimits, WebSocketRoute
from tests.support.websocket_app import Recorders
from tests.support.websocket_frames import handshake_request

STRANGER = "192.0.2.66"
CLIENT = "198.51.100.7"
OTHER = "203.0.113.5"


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        (CLIENT, CLIENT),
        # The client has written the first ones, the proxy the last one.
        (f"{OTHER}, 127.0.0.1,{CLIENT}", CLIENT),
        (f"rubbish,,\x00, \t{CLIENT} \t", CLIENT),
        ("2001:DB8:0:0::7", "2001:db8::7"),
        (f"::ffff:{CLIENT}", CLIENT),
        ("::1", "::1"),
    ],
)
@pytest.mark.parametrize("proxy", ["127.0.0.1", "127.9.8.7", "::1"])
def test_the_proxy_of_this_machine_is_believed(proxy: str, forwarded_for: str, client: str) -> None:
    assert client_of_untrusted(proxy, forwarded_for) == client


@pytest.mark.parametrize(
    "forwarded_for",
    [
        None,
        "",
        ",",
        "unknown",
        f"{CLIENT},",
        f"{CLIENT}, unknown",
        f"{CLIENT}:443",
        f"{CLIENT}/24",
        f"{CLIENT} {OTHER}",
        "198.51.100.07",
        "198.51.100",
        "3325256711",
        "[2001:db8::7]",
        "[2001:db8::7]:443",
        "fe80::7%lo",
        f'"{CLIENT}"',
        f"for={CLIENT}",
        f"{CLIENT}\xa0",
        "¹98.51.100.7",
        "9" * 5000,
    ],
)
def test_what_is_no_address_counts_as_nothing(forwarded_for: str | None) -> None:
    assert client_of_untrusted("127.0.0.1", forwarded_for) == "127.0.0.1"
    assert client_of_untrusted("::1", forwarded_for) == "::1"


@pytest.mark.parametrize("peer", [STRANGER, "10.0.0.1", "2001:db8::66", "fe80::66%lo", "0.0.0.0"])
def test_nobody_else_is_believed(peer: str) -> None:
    for forwarded_for in (CLIENT, "127.0.0.1", "2001:db8::7"):
        assert client_of_untrusted(peer, forwarded_for) == peer


@given(st.text(st.characters(max_codepoint=255)))
def test_whatever_it_says_is_a_client(forwarded_for: str) -> None:
    client_network(client_of_untrusted("127.0.0.1", forwarded_for))


def test_clients_of_ipv6_are_networks() -> None:
    assert client_network("192.0.2.1") == "192.0.2.1"
    assert client_network("2001:db8::1") == client_network("2001:db8::ffff:1")
    assert client_network("fe80::1%lo") == client_network("fe80::2")
    assert client_network("2001:db8:0:1::1") != client_network("2001:db8:0:2::1")


async def _tell(request: Request) -> Response:
    return Response(body=request.client.encode())


async def client_told(*forwarded_for: str, peer: str = "127.0.0.1", proxied: bool = True) -> str:
    """Who a handler, and who a WebSocket, takes the client for that sends these header lines."""
    site = Site(
        scheme="http",
        routes={("GET", "/"): _tell},
        websockets={
            "/ws": WebSocketRoute(open_app=Recorders().open, is_allowed=origin_is_allowed_untrusted)
        },
        behind_proxy=proxied,
    )
    lines = "".join(f"X-Forwarded-For: {one}\r\n" for one in forwarded_for)
    page = f"GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode()
    upgrade = handshake_request().replace(b"\r\n\r\n", f"\r\n{lines}\r\n".encode())
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(page + upgrade)
    networks: list[str] = []

    def reserve(network: str) -> bool:
        networks.append(network)
        return True

    switched = await serve_connection(ours, peer, site, HttpLimits(), SystemClock(), reserve)
    answers = bytes(await theirs.receive_some(65_536))
    client = answers.partition(b"\r\n\r\n")[2].partition(b"HTTP/1.1 101")[0].decode()
    assert switched is not None
    assert switched.client == client
    assert networks == [client_network(client)]
    return client


@pytest.mark.trio
async def test_pages_and_websockets_are_whose_the_proxy_says() -> None:
    assert await client_told(CLIENT) == CLIENT
    # A line of the client's own, before the proxy's.
    assert await client_told(OTHER, CLIENT) == CLIENT
    assert await client_told(f"{OTHER}, {OTHER}", f"unknown, {CLIENT}") == CLIENT
    assert await client_told(CLIENT, "unknown") == "127.0.0.1"
    assert await client_told() == "127.0.0.1"
    assert await client_told("2001:db8::7", peer="::1") == "2001:db8::7"
    assert await client_told(CLIENT, peer=STRANGER) == STRANGER
    assert await client_told(CLIENT, proxied=False) == "127.0.0.1"


@asynccontextmanager
async def behind_proxy(recorders: Recorders) -> AsyncIterator[HttpServer]:
    """A server behind a proxy, which takes one connection of a client's."""
    route = WebSocketRoute(open_app=recorders.open, is_allowed=origin_is_allowed_untrusted)
    server = HttpServer(
        [Address.from_text("127.0.0.1", 0)],
        {("GET", "/"): _tell},
        clock=SystemClock(),
        limits=HttpLimits(connections=6, connections_per_client=1),
        websockets={"/ws": route},
        websocket_limits=WebSocketLimits(connections_per_client=1),
        behind_proxy=True,
    )
    await server.bind()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        yield server
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_proxys_clients_are_limited_each_by_itself() -> None:
    recorders = Recorders()
    async with behind_proxy(recorders) as server:

        async def status(forwarded_for: str | None) -> tuple[trio.SocketStream, int]:
            stream = await trio.open_tcp_stream("127.0.0.1", server.addresses[0].port)
            await stream.send_all(handshake_request(X_Forwarded_For=forwarded_for))
            return stream, int((await stream.receive_some(1_000))[9:12])

        streams = []
        for forwarded_for, expected in (
            (CLIENT, 101),
            (CLIENT, 503),
            (f"{OTHER}, {CLIENT}", 503),
            (OTHER, 101),
            ("2001:db8::1", 101),
            ("2001:db8::2", 503),
            ("2001:db8:0:1::1", 101),
            # Whoever hides counts as the proxy itself.
            ("rubbish", 101),
            (None, 503),
        ):
            stream, got = await status(forwarded_for)
            streams.append(stream)
            assert got == expected, forwarded_for
        assert [one.websocket.client for one in recorders.all] == [
            CLIENT,
            OTHER,
            "2001:db8::1",
            "2001:db8:0:1::1",
            "127.0.0.1",
        ]
        for stream in streams:
            await stream.aclose()
        await recorders.wait_closed(5)


@pytest.mark.trio
async def test_a_proxy_has_no_more_connections_than_there_are() -> None:
    async with behind_proxy(Recorders()) as server:
        streams = []
        for _ in range(6):
            stream = await trio.open_tcp_stream("127.0.0.1", server.addresses[0].port)
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await stream.receive_some(1_000)).startswith(b"HTTP/1.1 200")
            streams.append(stream)
        one_more = await trio.open_tcp_stream("127.0.0.1", server.addresses[0].port)
        with trio.fail_after(5):
            assert await one_more.receive_some(10) == b""
        for stream in [*streams, one_more]:
            await stream.aclose()
