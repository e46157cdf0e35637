"""aioice, an ICE library with a TURN client of its own, against a running node."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import aioice
import pytest
from aioice import stun, turn

from tests.support.node import USERS, RunningNode, running_node

TIMEOUT_S = 30


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    with running_node() as running:
        yield running


class _Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)  # type: ignore[attr-defined]


class _Collect(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, tuple[str, int]]] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.received.put_nowait((data, addr))


async def _open(
    node: RunningNode, username: str, password: str
) -> tuple[turn.TurnTransport, _Collect]:
    server = node.turn[0]
    transport, protocol = await turn.create_turn_endpoint(
        _Collect, server_addr=(server.host, server.port), username=username, password=password
    )
    assert isinstance(protocol, _Collect)
    return transport, protocol


def test_the_turn_client_reaches_a_peer_and_back(node: RunningNode) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        peer, _ = await loop.create_datagram_endpoint(_Echo, local_addr=("127.0.0.1", 0))
        peer_address = peer.get_extra_info("sockname")
        transport, protocol = await _open(node, "alice", USERS["alice"])
        assert transport.get_extra_info("sockname")[0] == "127.0.0.1"
        for number in range(50):
            message = b"message %d" % number
            transport.sendto(message, peer_address)
            data, sender = await protocol.received.get()
            assert (data, sender) == (message, peer_address)
        transport.close()
        peer.close()
        await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(run(), TIMEOUT_S))


def test_closing_ends_the_allocation(node: RunningNode) -> None:
    async def run() -> None:
        transport, _ = await _open(node, "alice", USERS["alice"])
        assert node.status()["allocations"] == 1
        transport.close()
        await asyncio.sleep(0.2)
        assert node.status()["allocations"] == 0

    asyncio.run(asyncio.wait_for(run(), TIMEOUT_S))


def test_a_wrong_password_is_told_by_its_code(node: RunningNode) -> None:
    with pytest.raises(stun.TransactionFailed) as failure:
        asyncio.run(asyncio.wait_for(_open(node, "alice", "wrong"), TIMEOUT_S))
    assert failure.value.response.attributes["ERROR-CODE"][0] == 401


def test_two_ice_agents_meet_through_the_relay_alone(node: RunningNode) -> None:
    server = node.turn[0]
    credentials = node.credentials("erin")

    def agent(*, controlling: bool) -> aioice.Connection:
        return aioice.Connection(
            ice_controlling=controlling,
            turn_server=(server.host, server.port),
            turn_username=credentials.username,
            turn_password=credentials.password,
            transport_policy=aioice.TransportPolicy.RELAY,
        )

    async def run() -> None:
        one, other = agent(controlling=True), agent(controlling=False)
        await asyncio.gather(one.gather_candidates(), other.gather_candidates())
        assert {candidate.type for candidate in one.local_candidates} == {"relay"}
        for near, far in ((one, other), (other, one)):
            for candidate in near.local_candidates:
                await far.add_remote_candidate(candidate)
            await far.add_remote_candidate(None)
            far.remote_username = near.local_username
            far.remote_password = near.local_password
        await asyncio.gather(one.connect(), other.connect())
        before = node.status()["counters"]["short_cuts"]
        for number in range(20):
            await one.send(b"there %d" % number)
            assert await other.recv() == b"there %d" % number
            await other.send(b"back %d" % number)
            assert await one.recv() == b"back %d" % number
        assert node.status()["counters"]["short_cuts"] - before >= 40
        await asyncio.gather(one.close(), other.close())

    asyncio.run(asyncio.wait_for(run(), TIMEOUT_S))
