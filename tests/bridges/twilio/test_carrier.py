"""What is sent again and what never is, by what became of the request that was to send it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
import trio

from bridges.twilio.carrier import Again, Answer, Unknown, post

pytestmark = pytest.mark.trio

TIMEOUT_S = 0.3
Treatment = Callable[[trio.SocketStream], Awaitable[None]]


async def close_at_once(_stream: trio.SocketStream) -> None:
    """Take nothing."""


async def read_and_close(stream: trio.SocketStream) -> None:
    """Take the request, and be killed before the answer."""
    await stream.receive_some()


async def read_and_be_silent(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await trio.sleep_forever()


async def answer_in_part(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{")


async def answer(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}")


@asynccontextmanager
async def server(treat: Treatment) -> AsyncIterator[str]:
    """One that treats whoever comes so; its URL."""

    async def take(stream: trio.SocketStream) -> None:
        async with stream:
            await treat(stream)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, take, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
        nursery.cancel_scope.cancel()


async def test_who_was_not_reached_is_asked_again() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    async with httpx.AsyncClient(trust_env=False) as client:
        outcome = await post(client, f"http://127.0.0.1:{port}/", data={"Body": "one"})
    assert isinstance(outcome, Again)


@pytest.mark.parametrize(
    "treat", [close_at_once, read_and_close, read_and_be_silent, answer_in_part]
)
async def test_who_may_have_taken_it_is_not_asked_again(treat: Treatment) -> None:
    async with (
        server(treat) as url,
        httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client,
    ):
        outcome = await post(client, url, data={"Body": "one"})
    assert isinstance(outcome, Unknown)


async def test_an_answer_is_one() -> None:
    async with server(answer) as url, httpx.AsyncClient(trust_env=False) as client:
        outcome = await post(client, url, data={"Body": "one"})
    assert isinstance(outcome, Answer)
    assert (outcome.status, outcome.body) == (201, b"{}")
