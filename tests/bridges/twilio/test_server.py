"""The webhooks' HTTP server, over sockets: what leaves together, what ends, and anything at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bridges.node_link import NodeLink
from bridges.twilio import server
from bridges.twilio.figures import Figures
from bridges.twilio.server import is_caller_gone, serve
from core.stun.address import Address
from tests.support.fixed_ports import free_port

WAIT_S = 60
HOST = "127.0.0.1"
GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
H2C = b"Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n"
PIECES = st.sampled_from(
    [
        GET,
        b"POST /x HTTP/1.1\r\nHost: a\r\n",
        b"Content-Length: 3\r\n\r\nabc",
        b"Content-Length: -1\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n",
        b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
        H2C,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n",
    ]
)


class Echo:
    """An application that gives back what it got, when it may."""

    def __init__(self) -> None:
        self.may_answer = trio.Event()
        self.may_answer.set()
        self.has_come = trio.Event()
        self.scope: Scope = {}
        self.was_gone: list[bool] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.scope = scope
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        self.has_come.set()
        await self.may_answer.wait()
        self.was_gone.append(is_caller_gone(scope))
        await Response(body or None, 200 if body else 204)(scope, receive, send)


@asynccontextmanager
async def serving(echo: Echo) -> AsyncIterator[int]:
    """The server; its port."""
    port = free_port()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, echo, Address.from_text(HOST, port), lambda _: None)
        with trio.fail_after(WAIT_S):
            while True:
                try:
                    await (await trio.open_tcp_stream(HOST, port)).aclose()
                except OSError:
                    await trio.sleep(0.005)
                else:
                    break
            yield port
        nursery.cancel_scope.cancel()


async def all_of(stream: trio.SocketStream) -> bytes:
    """What comes until the server ends the connection."""
    received = b""
    while data := await stream.receive_some():
        received += data
    return received


@pytest.mark.trio
async def test_requests_on_one_connection_are_answered_whole() -> None:
    async with serving(Echo()) as port, await trio.open_tcp_stream(HOST, port) as stream:
        for text in (b"one", b"another", b"x" * 40_000):
            head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(text)
            await stream.send_all(head + text)
            answer = b""
            while not answer.endswith(b"\r\n\r\n" + text):
                answer += await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 200 \r\n")
            assert b"server" not in answer.lower()
        await stream.send_all(GET)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 204 \r\n")
        # Two at once have two answers, the second when the first is gone.
        await stream.send_all(GET + GET)
        answers = b""
        while answers.count(b"HTTP/1.1 204 \r\n") < 2:
            answers += await stream.receive_some()


@pytest.mark.trio
async def test_an_address_in_use_is_named_once_with_its_key_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "LISTEN_RETRY_S", 0.01)
    port = free_port()
    send, advice = trio.open_memory_channel[str](1_000)
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            async with (await trio.open_tcp_listeners(port, host=HOST))[0]:
                listen = Address.from_text(HOST, port)
                nursery.start_soon(serve, Echo(), listen, send.send_nowait)
                said = await advice.receive()
                assert f"{HOST}:{port}" in said
                assert "bridges.twilio.listen" in said
                assert await advice.receive() == said
            while await advice.receive():
                pass
            await (await trio.open_tcp_stream(HOST, port)).aclose()
            nursery.cancel_scope.cancel()
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.trio
async def test_who_waits_for_a_100_gets_one() -> None:
    async with serving(Echo()) as port, await trio.open_tcp_stream(HOST, port) as stream:
        head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        await stream.send_all(head)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(b"ok")
        assert (await stream.receive_some()).endswith(b"\r\n\r\nok")


@pytest.mark.trio
@pytest.mark.parametrize("said", [b"", GET[:10], GET, GET + b"POST"])
async def test_who_says_no_more_is_hung_up_on(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(server, "IDLE_S", 0.05)
    echo = Echo()
    async with serving(echo) as port, await trio.open_tcp_stream(HOST, port) as stream:
        echo.may_answer = trio.Event()
        await stream.send_all(said)
        if GET in said:
            # Not while its answer is being worked out, however long that takes.
            await echo.has_come.wait()
            await trio.sleep(0.2)
            echo.may_answer.set()
        answers = await all_of(stream)
        assert answers.count(b"HTTP/1.1 204 \r\n") == (GET in said)


@pytest.mark.trio
async def test_an_application_sees_that_its_caller_has_gone() -> None:
    echo = Echo()
    async with serving(echo) as port:
        for is_leaving in (True, False):
            echo.may_answer, echo.has_come = trio.Event(), trio.Event()
            async with await trio.open_tcp_stream(HOST, port) as stream:
                await stream.send_all(GET)
                await echo.has_come.wait()
                if is_leaving:
                    await stream.aclose()
                    while not is_caller_gone(echo.scope):
                        await trio.sleep(0.005)
                echo.may_answer.set()
                if not is_leaving:
                    assert b" 204 " in await stream.receive_some()
    assert echo.was_gone == [True, False]


@settings(max_examples=60, deadline=None)
@example(pieces=[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
@example(pieces=[GET[:-2] + H2C])
@given(pieces=st.lists(st.one_of(PIECES, st.binary(max_size=40)), max_size=6))
def test_a_server_that_was_told_anything_goes_on(pieces: list[bytes]) -> None:
    async def main() -> None:
        async with serving(Echo()) as port:
            async with await trio.open_tcp_stream(HOST, port) as stream:
                for piece in pieces:
                    try:
                        await stream.send_all(piece)
                    except trio.BrokenResourceError:
                        break
                    await trio.lowlevel.checkpoint()
                with trio.move_on_after(0.02):
                    await all_of(stream)
            async with await trio.open_tcp_stream(HOST, port) as stream:
                await stream.send_all(GET)
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 204 \r\n")

    trio.run(main)


def test_what_keeps_sms_from_coming_in_is_told_before_what_keeps_them_from_going_out() -> None:
    link = NodeLink(Path("nobody"), "twilio")
    figures = Figures(link)
    figures.advise_listening("another process listens there")
    figures.advise("")
    assert link.state == "another process listens there"
    figures.advise("check auth_token")
    figures.advise_listening("")
    assert link.state == "check auth_token"
    figures.advise("")
    assert link.state == "running"
