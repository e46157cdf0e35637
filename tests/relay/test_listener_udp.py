"""The listener between a TURN server and a data plane, with a server that plays from a script."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from core.clock import VirtualClock
from core.stun.address import Address, FiveTuple
from relay.dataplane.interface import OWN_NO, ControlDatagram, IcmpError, RelayUnavailable
from relay.listeners.udp import BATCH, UdpListener
from relay.metering import Metering
from relay.turn.effects import (
    CloseAllocation,
    CloseRelay,
    Effect,
    InstallChannel,
    InstallPermission,
    OpenAllocation,
    OpenRelay,
    RefreshAllocation,
    RelayData,
    RemoveChannel,
    RemovePermission,
    RemoveRelay,
    Reply,
)
from tests.support.fake_dataplane import FakeDataPlane
from tests.support.metering import free_sessions

SERVER = Address.from_text("127.0.0.1", 3478)
PEER = Address.from_text("192.0.2.9", 4000)
FAR_NS = 10**18


def client(port: int) -> FiveTuple:
    return FiveTuple("udp", Address.from_text("127.0.0.1", port), SERVER)


def relayed(port: int) -> Address:
    return Address.from_text("127.0.0.1", port)


class ScriptedServer:
    """Answers each datagram with the effects that the test wrote down for it."""

    def __init__(self) -> None:
        self.script: dict[bytes, list[Effect]] = {}
        self.on_opened: dict[int, list[Effect]] = {}
        self.on_failed: dict[int, list[Effect]] = {}
        self.on_expire: list[Effect] = []
        self.drops: dict[str, int] = {}
        self.next_deadline_ns: int | None = None
        self.calls: list[Any] = []

    def receive(self, datagram: bytes, five_tuple: FiveTuple, now_ns: int) -> list[Effect]:
        self.calls.append(("receive", datagram, five_tuple, now_ns))
        return self.script.get(datagram, [])

    def relay_opened(self, relay: int, now_ns: int) -> list[Effect]:
        self.calls.append(("opened", relay, now_ns))
        return self.on_opened.get(relay, [])

    def relay_failed(self, relay: int, now_ns: int) -> list[Effect]:
        self.calls.append(("failed", relay, now_ns))
        return self.on_failed.get(relay, [])

    def allocation_failed(self, allocation: int) -> None:
        self.calls.append(("failed", allocation))

    def icmp_received(self, *arguments: Any) -> list[Effect]:
        self.calls.append(("icmp", *arguments))
        return []

    def expire(self, now_ns: int) -> list[Effect]:
        self.calls.append(("expire", now_ns))
        self.next_deadline_ns = None
        effects, self.on_expire = self.on_expire, []
        return effects


class Bench:
    """A listener between a scripted server and a data plane in memory."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.data_plane = FakeDataPlane(self.clock)
        self.server = ScriptedServer()
        self.listener = UdpListener(
            self.server,  # type: ignore[arg-type]
            self.data_plane,
            self.clock,
            rate_bytes_s=0,
        )

    def allocate(self, allocation: int, session: str, port: int) -> None:
        """Open a relay and an allocation numbered alike, for the client at `port`."""
        self.server.on_opened[allocation] = [
            OpenAllocation(
                allocation, client(port), (allocation,), session, "alice", FAR_NS, b"done"
            )
        ]
        self.listener.carry_out([OpenRelay(allocation, relayed(50000 + allocation))])
        self.answers = list(self.data_plane._replies)
        self.data_plane._replies.clear()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench()
    with free_sessions(tmp_path, made.data_plane) as made.listener.sessions:
        yield made


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.listener.run)
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_what_the_engine_receives_is_answered(bench: Bench) -> None:
    bench.server.script[b"ping"] = [Reply(client(1), b"pong")]
    async with running(bench):
        bench.data_plane.put(ControlDatagram(client(1), b"ping"))
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert list(bench.data_plane.to_clients) == [(client(1), b"pong")]
    assert bench.server.calls[-1] == ("receive", b"ping", client(1), bench.clock.monotonic_ns())


@pytest.mark.trio
async def test_a_flood_leaves_other_tasks_their_turn(bench: Bench) -> None:
    turns: list[int] = []

    async def other() -> None:
        while len(bench.server.calls) < 10 * BATCH:
            turns.append(len(bench.server.calls))
            await trio.lowlevel.checkpoint()

    async with running(bench), trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(10 * BATCH):
            bench.data_plane.put(ControlDatagram(client(1), b"x"))
    # trio shuffles who goes first in a round, so there may be two batches between two turns.
    assert max(after - before for before, after in itertools.pairwise(turns)) <= 2 * BATCH


def test_a_relay_that_cant_be_had_is_told_and_another_tried(bench: Bench) -> None:
    bench.data_plane.unavailable.add(relayed(50001))
    bench.server.on_failed[1] = [OpenRelay(2, relayed(50002))]
    bench.server.on_opened[2] = [Reply(client(1), b"allocated")]
    bench.listener.carry_out([OpenRelay(1, relayed(50001))])
    now_ns = bench.clock.monotonic_ns()
    assert bench.server.calls == [("failed", 1, now_ns), ("opened", 2, now_ns)]
    assert list(bench.data_plane.bound) == [relayed(50002)]
    bench.data_plane.flush_replies()
    assert list(bench.data_plane.to_clients) == [(client(1), b"allocated")]


def test_a_relay_of_nobody_is_closed(bench: Bench) -> None:
    bench.listener.carry_out([OpenRelay(1, relayed(50001)), CloseRelay(1)])
    assert not bench.data_plane.relays


def test_an_allocation_forwards_until_it_is_closed(bench: Bench) -> None:
    bench.allocate(1, "alice", 1)
    bench.listener.carry_out(
        [
            InstallPermission(1, PEER.ip, FAR_NS, OWN_NO),
            InstallChannel(1, 0x4000, PEER, FAR_NS),
            RefreshAllocation(1, FAR_NS + 1),
            RelayData(1, PEER, b"sent", True),
        ]
    )
    bench.data_plane.client_sends(client(1), b"\x40\x00\x00\x02hi")
    assert list(bench.data_plane.to_peers) == [
        (relayed(50001), PEER, b"sent"),
        (relayed(50001), PEER, b"hi"),
    ]
    bench.listener.carry_out(
        [RemoveChannel(1, 0x4000), RemovePermission(1, PEER.ip), CloseAllocation(1, "expired")]
    )
    assert bench.listener.allocation_count == 0
    assert not bench.data_plane.relays
    closed = bench.data_plane.take_closed_flows()
    assert closed["packets_to_peer"].sum() == 2
    assert closed["bytes_to_peer"].sum() == 6


def test_a_session_lives_as_long_as_one_of_its_allocations(bench: Bench) -> None:
    bench.allocate(1, "alice", 1)
    bench.allocate(2, "alice", 2)
    bench.allocate(3, "bob", 3)
    assert bench.listener.session_count == 2
    bench.listener.carry_out([CloseAllocation(1, "refreshed to 0")])
    assert bench.listener.session_count == 2
    bench.listener.carry_out([CloseAllocation(2, "refreshed to 0")])
    assert bench.listener.session_count == 1
    assert len(bench.data_plane.take_closed_sessions()) == 1


@pytest.mark.trio
async def test_an_icmp_error_finds_its_allocation_by_the_servers_number(bench: Bench) -> None:
    bench.allocate(1, "a", 1)
    bench.allocate(7, "b", 2)
    handle = bench.data_plane.by_client[client(2)]
    bench.data_plane.put(IcmpError(handle, PEER, 3, 3, 0))
    bench.data_plane.put(IcmpError(9999, PEER, 3, 3, 0))
    bench.listener.handle_batch()
    assert [call for call in bench.server.calls if call[0] == "icmp"] == [
        ("icmp", 7, PEER, 3, 3, 0, bench.clock.monotonic_ns())
    ]


def test_deadlines_that_passed_come_before_datagrams(bench: Bench) -> None:
    bench.allocate(1, "a", 1)
    bench.server.calls.clear()
    bench.server.next_deadline_ns = bench.clock.monotonic_ns() + 5
    bench.server.on_expire = [CloseAllocation(1, "expired")]
    bench.clock.advance_ns(5)
    bench.data_plane.put(ControlDatagram(client(1), b"x"))
    bench.listener.handle_batch()
    assert [call[0] for call in bench.server.calls] == ["expire", "receive"]
    assert bench.listener.allocation_count == 0


@pytest.mark.trio
async def test_deadlines_come_without_any_datagram(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    bench.allocate(1, "a", 1)
    bench.server.next_deadline_ns = bench.clock.monotonic_ns()
    bench.server.on_expire = [CloseAllocation(1, "expired")]
    async with running(bench):
        await bench.listener.wait_until_empty()
    assert not bench.data_plane.allocations


def test_an_engine_without_slots_is_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RelayUnavailable

    bench.allocate(1, "a", 1)
    monkeypatch.setattr(bench.data_plane, "install_permission", full)
    install: list[Effect] = [
        InstallPermission(1, PEER.ip, FAR_NS, OWN_NO),
        Reply(client(1), b"success"),
    ]
    bench.listener.carry_out(install)
    assert bench.listener.drops["no_slot"] == 1
    # Nobody is told that it has happened; the next try finds a slot.
    assert not bench.data_plane._replies
    monkeypatch.undo()
    bench.listener.carry_out(install)
    assert bench.data_plane._replies == [(client(1), b"success")]


@pytest.mark.parametrize("method", ["open_session", "open_allocation"])
def test_an_allocation_without_a_slot_is_not_answered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def full(*_: object) -> None:
        raise RelayUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(bench.data_plane, method, full)
        bench.allocate(1, "a", 1)
    assert ("failed", 1) in bench.server.calls
    assert bench.listener.allocation_count == bench.listener.session_count == 0
    assert not bench.data_plane.relays
    assert not bench.answers
    assert bench.listener.drops["no_slot"] == 1
    bench.allocate(2, "a", 1)
    assert bench.answers == [(client(1), b"done")]
    assert bench.listener.allocation_count == 1


def test_an_allocation_gives_up_one_relay_of_two(bench: Bench) -> None:
    ipv6 = Address.from_text("::1", 50002)
    bench.listener.carry_out(
        [
            OpenRelay(1, relayed(50001)),
            OpenRelay(2, ipv6),
            OpenAllocation(1, client(1), (1, 2), "a", "a", FAR_NS, b"ok"),
            RemoveRelay(1, 16),
        ]
    )
    assert list(bench.data_plane.bound) == [relayed(50001)]
    bench.listener.carry_out([CloseAllocation(1, "expired")])
    assert not bench.data_plane.bound


@pytest.mark.trio
@pytest.mark.parametrize(
    ("node", "call", "rate"), [(0, 0, 0), (7, 0, 7), (0, 5, 5), (7, 5, 5), (5, 7, 5)]
)
async def test_an_allocation_may_carry_what_the_node_and_its_call_allow(
    bench: Bench, node: int, call: int, rate: int
) -> None:
    sessions = bench.listener.sessions
    assert isinstance(sessions, Metering)
    assert await sessions.open_call("CALL-1", rate_bytes_s=call)
    assert await sessions.join(1, "CALL-1", None) == 0
    bench.listener.set_rate(node)
    bench.allocate(1, "CALL-1", 1)
    bench.allocate(2, "alice", 2)
    rates = [one.rate_bytes_s for one in bench.data_plane.allocations.values()]
    assert rates == [rate, node]
    bench.listener.set_rate(6)
    rates = [one.rate_bytes_s for one in bench.data_plane.allocations.values()]
    assert rates == [min(6, call or 6), 6]
