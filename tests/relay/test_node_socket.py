"""A running node's socket: who is let in, what is asked of it at once, and what twice."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import trio

from core.api.bridge_messages import (
    DoneReply,
    PingRequest,
    UserOpenRequest,
    UserTransferRequest,
    effect_id,
)
from core.api.client import ApiClient, connect
from core.api.messages import (
    AccountReply,
    AccountShowRequest,
    AccountTransferRequest,
    CallLinkReply,
    CallLinkRequest,
    CallListReply,
    CallListRequest,
    RoomLinkReply,
    RoomLinkRequest,
    StatusReply,
    StatusRequest,
    TransferReply,
)
from core.errors import OperationError
from tests.support.node import RunningNode, running_node, write_config

GROUP = grp.getgrgid(os.getegid()).gr_name


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    with running_node(more=f'[api]\ngroup = "{GROUP}"\n') as running:
        for name in ("alice", "bob"):
            running.command("account", "create", f"user:{name}")
        running.command("account", "credit", "user:alice", "1000")
        yield running


def test_the_socket_is_the_groups_where_one_is_configured(node: RunningNode) -> None:
    status = node.socket.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o660, os.getegid())


@pytest.mark.trio
async def test_a_call_link_that_is_asked_for_again_is_the_same(node: RunningNode) -> None:
    request = CallLinkRequest("user:alice", "user:bob", id=effect_id("test", "link"))
    made = []
    for _ in range(2):
        async with connect(node.socket, software="test") as client:
            made.append(await client.request(request))
    assert isinstance(made[0], CallLinkReply)
    assert made[0] == made[1]
    async with connect(node.socket, software="test") as client:
        calls = await client.request(CallListRequest())
    assert isinstance(calls, CallListReply)
    assert [call.id for call in calls.calls] == [made[0].call_id]


def test_a_room_link_that_is_asked_for_again_is_the_same_also_after_a_kill(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    request = RoomLinkRequest(effect_id("test", "room"))
    made = []

    async def ask(node: RunningNode) -> None:
        async with connect(node.socket, software="test") as client:
            made.extend([await client.request(request) for _ in range(2)])

    socket = tmp_path / "data" / "node.sock"
    with running_node(config=config) as node:
        node.socket = socket
        trio.run(ask, node)
        node.kill()
    with running_node(config=config) as node:
        node.socket = socket
        assert node.status()["signaling"]["rooms"] == 1
        trio.run(ask, node)
        assert node.status()["signaling"]["rooms"] == 1
    # Its host and port are the node's, which has others after each start.
    secrets = [
        (one.room_url.partition("#")[2], one.invitation_url.partition("#")[2])
        for one in made
        if isinstance(one, RoomLinkReply)
    ]
    assert secrets == secrets[:1] * 4
    assert len(set(secrets[0])) == 2


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_transfers_at_once_over_one_connection_each_happen_once(
    node: RunningNode, backend: str
) -> None:
    async def available(client: ApiClient, account: str) -> float:
        reply = await client.request(AccountShowRequest(account))
        return float(reply.available)  # type: ignore[union-attr]

    async def ask() -> None:
        async with connect(node.socket, software="test") as client:
            before = await available(client, "user:bob")

            async def send(number: int) -> None:
                identity = effect_id("test", backend, str(number))
                await client.request(
                    AccountTransferRequest("user:alice", "user:bob", "0.5", id=identity)
                )

            async with anyio.create_task_group() as group:
                for number in range(200):
                    # Each of them twice.
                    group.start_soon(send, number % 100)
                assert isinstance(await client.request(StatusRequest()), StatusReply)
                assert await client.request(PingRequest()) == DoneReply()
            assert await available(client, "user:bob") == before + 50

    anyio.run(ask, backend=backend)


@pytest.mark.trio
async def test_users_of_telegram_pay_each_other_once(node: RunningNode) -> None:
    async with connect(node.socket, software="test") as client:
        for _ in range(2):
            account = await client.request(UserOpenRequest("tg:1"))
            assert isinstance(account, AccountReply)
        node.command("account", "credit", "tg:1", "20")
        # Of this node nobody is told by SMS: they have to have an account.
        node.command("account", "create", "+79991234567")
        replies = []
        for _ in range(2):
            request = UserTransferRequest("tg:1", "+79991234567", "5", id=effect_id("test", "pay"))
            replies.append(await client.request(request))
        assert isinstance(replies[0], TransferReply)
        assert replies[0] == replies[1]
        payer = await client.request(AccountShowRequest("tg:1"))
        wallet = await client.request(AccountShowRequest("+79991234567"))
    assert isinstance(payer, AccountReply)
    assert isinstance(wallet, AccountReply)
    assert (payer.balance, wallet.balance) == ("14.000000", "5.000000")


@pytest.mark.trio
async def test_one_connection_of_a_bridge_is_told_what_is_for_it(node: RunningNode) -> None:
    async with connect(node.socket, software="test") as client:
        await client.subscribe("telegram", window=8)
        async with connect(node.socket, software="test") as second:
            with pytest.raises(OperationError) as caught:
                await second.subscribe("telegram", window=8)
            assert caught.value.code == "subscribed"
        # What is not there any more was acknowledged before.
        await client.acknowledge("ab" * 16, "done")
        status = await client.request(StatusRequest())
    assert isinstance(status, StatusReply)
    assert status.outbox["events"] == 0
