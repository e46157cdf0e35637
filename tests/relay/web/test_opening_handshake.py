"""Which requests become WebSockets: RFC 6455 section 4.2, and pages of which origin."""

from __future__ import annotations

import pytest
import trio

from relay.web.opening_handshake import origin_is_allowed_untrusted
from relay.web.websocket import WebSocketLimits
from tests.support.websocket_app import Recorders, serving
from tests.support.websocket_frames import TEXT, frame, handshake_request


async def receive_head(stream: trio.abc.ReceiveStream) -> tuple[bytes, bytes]:
    """A response's head, and what has come behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some(65_536)
        assert more, data
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head.lower() + b"\r\n", rest


async def ask(request: bytes) -> bytes:
    """The head that answers a request."""
    recorders = Recorders()
    async with serving(recorders) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.addresses[0].port) as stream:
            await stream.send_all(request)
            head, _ = await receive_head(stream)
        assert len(recorders.all) == head.startswith(b"http/1.1 101")
        return head


@pytest.mark.trio
async def test_the_example_of_the_rfc() -> None:
    """RFC 6455 section 1.3."""
    head = await ask(handshake_request())
    assert head.startswith(b"http/1.1 101 ")
    assert b"\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n" in head
    assert b"\r\nupgrade: websocket\r\n" in head
    assert b"\r\nconnection: upgrade\r\n" in head
    assert b"sec-websocket-protocol" not in head
    assert b"sec-websocket-extensions" not in head


@pytest.mark.trio
async def test_headers_are_read_as_lists_without_regard_to_case() -> None:
    head = await ask(
        handshake_request(
            Connection="keep-alive, UPGRADE",
            Upgrade="other, WebSocket",
            Sec_WebSocket_Protocol="chat, montana.1",
            Sec_WebSocket_Extensions="permessage-deflate",
        )
    )
    assert head.startswith(b"http/1.1 101 ")
    assert b"\r\nsec-websocket-protocol: montana.1\r\n" in head
    assert b"sec-websocket-extensions" not in head
    other = await ask(handshake_request(Sec_WebSocket_Protocol="chat"))
    assert other.startswith(b"http/1.1 101 ")
    assert b"sec-websocket-protocol" not in other


@pytest.mark.trio
@pytest.mark.parametrize(
    ("request_sent", "status"),
    [
        (handshake_request(Upgrade=None), 426),
        (handshake_request(Upgrade="h2c"), 426),
        (handshake_request(Connection=None), 400),
        (handshake_request(Connection="keep-alive"), 400),
        (handshake_request(Sec_WebSocket_Version=None), 426),
        (handshake_request(Sec_WebSocket_Version="8"), 426),
        (handshake_request(Sec_WebSocket_Key=None), 400),
        (handshake_request(Sec_WebSocket_Key="short"), 400),
        (handshake_request(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZTEyMw=="), 400),
        (handshake_request(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ=*"), 400),
        (handshake_request(Sec_WebSocket_Key="é"), 400),
        (handshake_request(Content_Length="5") + b"12345", 400),
        (handshake_request("GET /ws HTTP/1.0"), 400),
        (handshake_request("POST /ws HTTP/1.1"), 405),
        (handshake_request("HEAD /ws HTTP/1.1"), 405),
        (handshake_request("GET /ws/ HTTP/1.1"), 404),
        (handshake_request("GET /other HTTP/1.1"), 404),
        (handshake_request(Origin=None), 403),
        (handshake_request(Origin="null"), 403),
        (handshake_request(Origin="http://evil.example"), 403),
        (handshake_request(Origin="http://evil.example", Host="evil.example"), 403),
        (handshake_request(Origin="https://127.0.0.1"), 403),
        (handshake_request(Origin="http://127.0.0.1:81"), 403),
    ],
)
async def test_what_is_refused(request_sent: bytes, status: int) -> None:
    head = await ask(request_sent)
    assert head.startswith(f"http/1.1 {status} ".encode())
    assert b"\r\nconnection: close\r\n" in head
    assert b"\r\ncontent-security-policy: " in head


@pytest.mark.trio
async def test_another_version_is_told_ours() -> None:
    head = await ask(handshake_request(Sec_WebSocket_Version="8"))
    assert b"\r\nsec-websocket-version: 13\r\n" in head


@pytest.mark.trio
async def test_an_upgrade_to_something_else_is_no_matter_for_other_paths() -> None:
    head = await ask(handshake_request("GET / HTTP/1.1", Upgrade="h2c"))
    assert head.startswith(b"http/1.1 200 ")


@pytest.mark.trio
async def test_pages_may_come_first_and_frames_with_the_request() -> None:
    recorders = Recorders()
    async with serving(recorders) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.addresses[0].port) as stream:
            page = handshake_request("GET / HTTP/1.1", Upgrade=None, Connection=None)
            for _ in range(2):
                await stream.send_all(page)
                head, rest = await receive_head(stream)
                assert head.startswith(b"http/1.1 200 ")
                while not rest.endswith(b"</title>"):
                    rest += await stream.receive_some(1000)
            assert server.connections == 1
            frames = b"".join(frame(TEXT, b"%d" % number) for number in range(200))
            await stream.send_all(handshake_request() + frames + frame(TEXT, b"half")[:-2])
            head, rest = await receive_head(stream)
            assert head.startswith(b"http/1.1 101 ")
            expected = b"".join(
                b"\x81" + bytes([len(b"%d" % number)]) + b"%d" % number for number in range(200)
            )
            while len(rest) < len(expected):
                rest += await stream.receive_some(65_536)
            assert rest == expected
            assert server.websocket_connections == 1
            await stream.send_all(frame(TEXT, b"half")[-2:])
            assert await stream.receive_some(100) == b"\x81\x04half"
        await recorders.wait_closed()


@pytest.mark.trio
async def test_connections_are_limited_in_all_and_by_client() -> None:
    for limits in (
        WebSocketLimits(connections=2),
        WebSocketLimits(connections_per_client=2),
    ):
        recorders = Recorders()
        async with serving(recorders, limits=limits) as server:

            async def connect() -> tuple[trio.SocketStream, bytes]:
                port = server.addresses[0].port
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                await stream.send_all(handshake_request())
                return stream, (await receive_head(stream))[0]

            taken = [await connect() for _ in range(2)]
            assert all(head.startswith(b"http/1.1 101 ") for _, head in taken)
            refused, head = await connect()
            assert head.startswith(b"http/1.1 503 ")
            await refused.aclose()
            await taken[0][0].aclose()
            await recorders.wait_closed(1)
            again, head = await connect()
            assert head.startswith(b"http/1.1 101 ")
            for stream in (again, taken[1][0]):
                await stream.aclose()
            await recorders.wait_closed(3)
            assert server.websocket_connections == 0


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "is_allowed"),
    [
        ("http://127.0.0.1:8790", "127.0.0.1:8790", "http", True),
        ("http://localhost:8790", "LOCALHOST:8790", "http", True),
        ("http://[::1]:8790", "[::1]:8790", "http", True),
        ("HTTP://127.0.0.1", "127.0.0.1:80", "http", True),
        ("https://192.168.1.5", "192.168.1.5:443", "https", True),
        ("https://node.example", "node.example", "https", True),
        # Of the list, whatever the request says of itself.
        ("https://calls.example", "10.0.0.1", "http", True),
        ("https://calls.example:443", "other.example", "http", True),
        # A stranger's page, and one whose domain was made to lead here.
        ("http://evil.example", "127.0.0.1:8790", "http", False),
        ("http://evil.example:8790", "evil.example:8790", "http", False),
        ("https://evil.example", "node.example", "https", False),
        # Not of this port or scheme.
        ("http://127.0.0.1:8791", "127.0.0.1:8790", "http", False),
        ("http://127.0.0.1", "127.0.0.1", "https", False),
        ("https://127.0.0.1", "127.0.0.1", "http", False),
        ("http://calls.example", "calls.example", "http", False),
        ("https://calls.example:8443", "node.example", "https", False),
        # No origins at all.
        (None, "127.0.0.1", "http", False),
        ("", "127.0.0.1", "http", False),
        ("null", "127.0.0.1", "http", False),
        ("http://", "", "http", False),
        ("http://127.0.0.1/", "127.0.0.1", "http", False),
        ("http://127.0.0.1\n", "127.0.0.1", "http", False),
        ("http://user@127.0.0.1", "127.0.0.1", "http", False),
        ("http://a b", "a b", "http", False),
        ("file://127.0.0.1", "127.0.0.1", "http", False),
        ("http://127.0.0.1, http://127.0.0.1", "127.0.0.1", "http", False),
        ("https://calls.example.evil.example", "node.example", "https", False),
    ],
)
def test_origins(origin: str | None, host: str, scheme: str, is_allowed: bool) -> None:
    allowed = ("https://calls.example",)
    assert origin_is_allowed_untrusted(origin, host, scheme, allowed=allowed) is is_allowed
