"""The socket itself: who may speak, how many, and what happens to bad company."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from core.api import serving as api_serving
from core.api.client import connect
from core.api.messages import (
    CredentialsReply,
    CredentialsRequest,
    ReplyBody,
    RequestBody,
    StatusRequest,
)
from core.api.server import ApiServer
from core.errors import ApiError, OperationError


async def answer(body: RequestBody) -> ReplyBody:
    if isinstance(body, CredentialsRequest):
        return CredentialsReply(body.account, "p", body.ttl_s, [])
    raise OperationError("no status today")


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[ApiServer]:
    async with ApiServer(path, software="test") as server, trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, answer)
        yield server
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_reply_comes_back_and_a_failure_as_its_sentence(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path), connect(path, software="test") as client:
        reply = await client.request(CredentialsRequest("alice", 60))
        assert reply == CredentialsReply("alice", "p", 60, [])
        with pytest.raises(OperationError, match="no status today"):
            await client.request(StatusRequest())
        assert isinstance(await client.request(CredentialsRequest("bob", 60)), CredentialsReply)
    assert not path.exists()


@pytest.mark.trio
async def test_only_the_owner_may_open_the_socket(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with serving(tmp_path / "s"):
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
    finally:
        os.umask(before)


@pytest.mark.trio
async def test_a_second_node_is_refused_and_a_dead_ones_socket_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path):
        with pytest.raises(OperationError, match="another node is running"):
            async with ApiServer(path, software="second"):
                pass
    path.write_bytes(b"left over")
    async with serving(path), connect(path, software="test") as client:
        assert isinstance(await client.request(CredentialsRequest("bob", 60)), CredentialsReply)


@pytest.mark.trio
async def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperationError, match="shorter data_dir"):
        async with ApiServer(tmp_path / ("d" * 120), software="test"):
            pass


@pytest.mark.trio
async def test_no_node_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(OperationError, match="no node is running"):
        async with connect(tmp_path / "absent", software="test"):
            pass


@pytest.mark.trio
async def test_connections_are_bounded_and_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_serving, "CONNECTIONS_MAX", 2)
    path = tmp_path / "s"
    async with serving(path):
        async with connect(path, software="1") as first, connect(path, software="2") as second:
            await first.request(CredentialsRequest("a", 1))
            await second.request(CredentialsRequest("a", 1))
            async with connect(path, software="3") as third:
                with pytest.raises(ApiError):
                    await third.request(CredentialsRequest("a", 1))
        await trio.testing.wait_all_tasks_blocked(0.01)
        async with connect(path, software="4") as fourth:
            await fourth.request(CredentialsRequest("a", 1))


@pytest.mark.trio
async def test_garbage_closes_its_own_connection_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path), connect(path, software="good") as client:
        for garbage in (b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x02{}"):
            async with await trio.open_unix_socket(str(path)) as stream:
                await stream.send_all(garbage)
                answer_bytes = b"".join([chunk async for chunk in stream])
                assert b'"failure"' in answer_bytes
        await client.request(CredentialsRequest("a", 1))


@pytest.mark.trio
async def test_a_client_that_never_greets_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_serving, "HELLO_TIMEOUT_S", 0.01)
    path = tmp_path / "s"
    async with serving(path), await trio.open_unix_socket(str(path)) as stream:
        with trio.fail_after(5):
            assert await stream.receive_some(10) == b""


@pytest.mark.trio
async def test_who_has_greeted_while_the_node_was_held_up_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_serving, "HELLO_TIMEOUT_S", 0.5)
    monkeypatch.setattr(api_serving, "_SWEEP_S", 0.05)

    async def hold_up() -> None:
        time.sleep(0.6)

    path = tmp_path / "s"
    async with serving(path):
        # Which of the tasks that are due then has its turn first is left to chance.
        for _ in range(6):
            async with connect(path, software="test") as client, trio.open_nursery() as nursery:
                await trio.testing.wait_all_tasks_blocked(0.01)
                nursery.start_soon(client.request, CredentialsRequest("alice", 60))
                nursery.start_soon(hold_up)
