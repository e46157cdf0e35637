"""Calls as sessions of the meter: opened, started, changed, silent, cut and closed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from billing.audit import verify
from billing.charging import LOST, Charging
from billing.ledger import NODE, LmdbLedger, open_ledger
from billing.meter import SLICE_S
from billing.money import J
from billing.tariff import Line
from core.clock import VirtualClock
from core.errors import OperationError
from core.stun.address import Address, FiveTuple
from core.stun.channel_data import encode_channel_data
from core.units import NS_PER_S
from relay.call_activity import FLOOR_BYTES_S, HOLDING_S
from relay.dataplane.interface import OWN_RELAYS_ONLY, UNLIMITED_SECONDS, RelayUnavailable
from tests.support.engine import Client, join, running_engine
from tests.support.fake_dataplane import FakeDataPlane
from tests.support.metering import Bench, MeteringBench

CALL = "CALL-AAAAAAAA"
VOICE = Line("voice", J.unit, 0, NODE)
VIDEO = Line("video", 2 * J.unit, 0, NODE)
CHANNEL = 0x4000
SERVER = Address.from_text("127.0.0.1", 3478)
HOST = Address.from_text("127.0.0.1", 40_000)
FAR_NS = 1 << 62
MEDIA = bytes(FLOOR_BYTES_S)
CHECK = bytes(100)
"""As large as what keeps a way open."""
pytestmark = pytest.mark.trio


class CallBench(Bench):
    """A metering whose calls have two sides, each with an allocation; a second passes when the
    test says so."""

    clock: VirtualClock

    def __init__(self, ledger: LmdbLedger, clock: VirtualClock, line: Line | None = None) -> None:
        super().__init__(ledger, FakeDataPlane(clock), clock, line)
        self.cuts: list[tuple[str, str]] = []
        self.allocations: dict[int, int] = {}
        self.metering.on_call_cut = lambda name, reason: self.cuts.append((name, reason))
        # As a tick comes just before a second's end.
        clock.advance_ns(NS_PER_S * 9 // 10)

    async def sides(self, name: str = CALL, first: int = 1) -> None:
        """Both sides have their allocations, which know each other."""
        for side in range(2):
            await self.allocate(first + side, f"side {side}", name)
        self.send_to(first, first + 1)
        self.send_to(first + 1, first)

    async def allocate(self, number: int, account: str, name: str = CALL) -> None:
        """An allocation of somebody's."""
        handle = await self.begin(number, name, None)
        relay = self.engine.open_relay(self.relay(number))
        allocation = self.engine.open_allocation(self.client(number), [relay], handle, FAR_NS, 0)
        self.allocations[number] = allocation
        self.metering.opened(number, account, allocation)

    def send_to(self, number: int, other: int) -> None:
        """What an allocation's client sends goes to another allocation."""
        allocation, peer = self.allocations[number], self.relay(other)
        self.engine.install_permission(allocation, peer.ip, FAR_NS, OWN_RELAYS_ONLY)
        self.engine.install_channel(allocation, CHANNEL, peer, FAR_NS)

    @staticmethod
    def relay(number: int) -> Address:
        return Address.from_text("127.0.0.1", 50_000 + number)

    @staticmethod
    def client(number: int) -> FiveTuple:
        return FiveTuple("udp", Address.from_text("127.0.0.1", 5_000 + number), SERVER)

    def leave(self, allocation: int, reason: str = "client") -> None:
        if allocation in self.allocations:
            self.engine.close_allocation(self.allocations.pop(allocation))
        super().leave(allocation, reason)

    async def seconds(self, count: int, *payloads: bytes, first: int = 1) -> None:
        """So many seconds pass, in each of which the sides send these, in their order."""
        for _ in range(count):
            self.clock.advance_s(1)
            for number, payload in enumerate(payloads, first):
                if payload:
                    datagram = encode_channel_data(CHANNEL, payload)
                    self.engine.client_sends(self.client(number), datagram)
            self.collect()
            self.metering._stop_all(await self.metering.tick())

    async def close(self, name: str = CALL, reason: str = "hung up") -> list[tuple[str, int, int]]:
        """(kind, seconds, whole Ɉ) of each record of a call that ends."""
        found: list[tuple[str, int, int]] = []

        async def close() -> None:
            for record in await self.metering.close_call(name, reason):
                assert (record.name, record.cost % J.unit) == (name, 0)
                found.append((record.kind, record.seconds, record.cost // J.unit))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(close)
            await trio.testing.wait_all_tasks_blocked()
            await self.seconds(1)
        return found

    async def check(self) -> None:
        report = await verify(self.ledger)
        assert report.ok, report.problems


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def bench(tmp_path: Path, clock: VirtualClock) -> Iterator[CallBench]:
    with open_ledger(tmp_path, clock, sessions=8, map_bytes=1 << 26) as ledger:
        yield CallBench(ledger, clock)


async def opened(bench: CallBench, amount: int = 1000, line: Line = VOICE) -> int:
    """A call of alice's that both sides have joined; her account."""
    alice = await bench.account("alice", amount)
    assert await bench.metering.open_call(CALL, payer=alice, line=line)
    await bench.sides()
    return alice


async def test_a_call_pays_from_its_start_until_it_is_closed(bench: CallBench) -> None:
    alice = await opened(bench)
    assert bench.ledger.balance(alice, J).held == SLICE_S * J.unit
    await bench.seconds(40, MEDIA, MEDIA)
    assert bench.metering.call_figures(CALL) == (0, 0, 1000 * J.unit)
    bench.metering.start_call(CALL)
    await bench.seconds(5, MEDIA, MEDIA)
    bench.metering.start_call(CALL)
    assert bench.metering.call_figures(CALL) == (5, 5 * J.unit, 995 * J.unit)
    assert await bench.close() == [("voice", 5, 5)]
    assert not bench.living
    assert bench.ledger.balance(alice, J) == (995 * J.unit, 0, 0, 0)
    assert await bench.paid(alice) == [(5, "hung up")]
    assert len(bench.metering) == 0
    await bench.check()


async def test_what_comes_before_the_start_is_relayed_however_little_there_is(
    bench: CallBench,
) -> None:
    alice = await opened(bench, 1)
    (handle,) = bench.engine.sessions
    for _ in range(5):
        await bench.seconds(1, MEDIA, MEDIA)
        # One second more than there have been.
        assert bench.engine.granted[handle] == len(bench.engine.sessions[handle]) + 1
    bench.metering.start_call(CALL)
    await bench.seconds(1, MEDIA, MEDIA)
    assert bench.cuts == [(CALL, "no balance")]
    assert await bench.close() == [("voice", 1, 1)]
    assert bench.ledger.balance(alice, J) == (0, 0, 0, 0)


async def test_the_second_in_which_a_call_starts_is_free(
    bench: CallBench, clock: VirtualClock
) -> None:
    await opened(bench)
    clock.advance_ns(NS_PER_S // 2)
    bench.metering.start_call(CALL)
    bench.engine.client_sends(bench.client(1), encode_channel_data(CHANNEL, MEDIA))
    clock.advance_ns(NS_PER_S // 2)
    await bench.metering.tick()
    assert bench.metering.call_figures(CALL).seconds == 0
    await bench.seconds(2, MEDIA, MEDIA)
    assert bench.metering.call_figures(CALL).seconds == 2


@pytest.mark.parametrize("alone", [(MEDIA, b""), (b"", MEDIA), (MEDIA, CHECK)])
async def test_silence_of_one_side_is_charged_for_ten_seconds(
    bench: CallBench, alone: tuple[bytes, bytes]
) -> None:
    alice = await opened(bench)
    bench.metering.start_call(CALL)
    await bench.seconds(5, MEDIA, MEDIA)
    last_s = bench.metering.last_both_active_s(CALL)
    assert last_s == bench.clock.monotonic_ns() / NS_PER_S
    await bench.seconds(60, *alone)
    assert bench.metering.last_both_active_s(CALL) == last_s
    assert bench.metering.call_figures(CALL).seconds == 5 + HOLDING_S
    # What is free is relayed all the same, and more than a slice of it.
    (handle,) = bench.engine.sessions
    assert bench.engine.granted[handle] > len(bench.engine.sessions[handle])
    await bench.seconds(3, MEDIA, MEDIA)
    await bench.seconds(4, *alone)
    assert await bench.close() == [("voice", 5 + HOLDING_S + 3 + 4, 22)]
    assert await bench.paid(alice) == [(22, "hung up")]
    await bench.check()


async def two_ways(bench: CallBench) -> None:
    """A call of alice's of which each side has two allocations: 1 and 3, 2 and 4. Alice sends from
    1 to 2, and bob from 4 to 3."""
    alice = await bench.account("alice", 1000)
    assert await bench.metering.open_call(CALL, payer=alice, line=VOICE)
    for number in range(1, 5):
        await bench.allocate(number, "bob" if number % 2 == 0 else "alice")
    bench.send_to(1, 2)
    bench.send_to(4, 3)
    for number, other in ((2, 1), (3, 4)):
        bench.engine.install_permission(
            bench.allocations[number], bench.relay(other).ip, FAR_NS, OWN_RELAYS_ONLY
        )
    bench.metering.start_call(CALL)


async def test_each_side_may_send_on_a_way_of_its_own(bench: CallBench) -> None:
    # As two browsers do that have several relays each.
    await two_ways(bench)
    await bench.seconds(30, MEDIA, b"", b"", MEDIA)
    assert bench.metering.last_both_active_s(CALL) == bench.clock.monotonic_ns() / NS_PER_S
    assert bench.metering.call_figures(CALL).seconds == 30
    await bench.seconds(20, MEDIA)
    assert bench.metering.call_figures(CALL).seconds == 30 + HOLDING_S
    assert await bench.close() == [("voice", 30 + HOLDING_S, 30 + HOLDING_S)]
    await bench.check()


async def test_who_sends_on_two_ways_is_still_alone(bench: CallBench) -> None:
    await two_ways(bench)
    bench.send_to(3, 4)
    await bench.seconds(20, MEDIA, b"", MEDIA)
    assert bench.metering.last_both_active_s(CALL) is None
    assert bench.metering.call_figures(CALL).seconds == HOLDING_S


@pytest.mark.parametrize("members", [("alice", "bob"), ("alice", "bob", "carol")])
async def test_who_relays_nothing_itself_is_heard_by_the_other(
    bench: CallBench, members: tuple[str, ...]
) -> None:
    """Each sends to the other's relay from where it is. Of three, one may send to both others."""
    alice = await bench.account("alice", 1000)
    assert await bench.metering.open_call(CALL, payer=alice, line=VOICE)
    for number, member in enumerate(members, 1):
        await bench.allocate(number, member)
        bench.engine.install_permission(bench.allocations[number], HOST.ip, FAR_NS, OWN_RELAYS_ONLY)
    bench.metering.start_call(CALL)
    for _ in range(20):
        for number in (1, 2):
            bench.engine.peer_sends(HOST, bench.relay(number), MEDIA)
        await bench.seconds(1)
    expected_s = 20 if len(members) == 2 else HOLDING_S
    assert bench.metering.call_figures(CALL).seconds == expected_s


async def test_a_side_that_is_heard_now_and_then_is_there(bench: CallBench) -> None:
    await opened(bench)
    bench.metering.start_call(CALL)
    for _ in range(4):
        await bench.seconds(HOLDING_S - 1, MEDIA, CHECK)
        await bench.seconds(1, MEDIA, MEDIA)
    assert bench.metering.call_figures(CALL).seconds == 4 * HOLDING_S


async def test_nobody_has_sent_anything_and_nothing_is_charged(bench: CallBench) -> None:
    await opened(bench)
    bench.metering.start_call(CALL)
    await bench.seconds(20)
    assert bench.metering.last_both_active_s(CALL) is None
    assert await bench.close() == []
    await bench.check()


async def test_a_late_tick_charges_no_more_than_the_holding_time(
    bench: CallBench, clock: VirtualClock
) -> None:
    await opened(bench)
    bench.metering.start_call(CALL)
    await bench.seconds(2, MEDIA, MEDIA)
    for _ in range(14):
        clock.advance_s(1)
        bench.engine.client_sends(bench.client(1), encode_channel_data(CHANNEL, MEDIA))
    await bench.metering.tick()
    assert bench.metering.call_figures(CALL).seconds == 2 + HOLDING_S


async def test_nobody_joins_a_call_that_is_not_open(bench: CallBench) -> None:
    assert await bench.metering.join(1, CALL, None) == 403
    assert await bench.metering.open_call(CALL)
    assert await bench.metering.join(1, CALL, None) == 0
    # Another has joined, and its relay is being opened.
    bench.enter(1, CALL)
    assert await bench.metering.join(2, CALL, None) == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.metering.close_call, CALL, "hung up")
        await trio.testing.wait_all_tasks_blocked()
        assert await bench.metering.join(3, CALL, None) == 403
        with pytest.raises(RelayUnavailable):
            bench.enter(2, CALL)
        bench.leave(2, "no slot")
    assert await bench.metering.close_call(CALL, "hung up") == ()
    assert bench.stops == [({CALL}, "hung up")]
    assert (len(bench.metering), len(bench.engine.sessions)) == (0, 0)


async def test_a_user_who_calls_himself_a_call_is_none(bench: CallBench) -> None:
    assert bench.enter(1, CALL)
    assert await bench.metering.join(2, CALL, None) == 403
    assert await bench.metering.open_call(CALL)
    assert await bench.begin(2, CALL, None) != bench.metering.enter(1, CALL)


async def test_a_call_outlives_its_allocations(bench: CallBench) -> None:
    await opened(bench)
    bench.metering.start_call(CALL)
    await bench.seconds(3, MEDIA, MEDIA)
    for number in (1, 2):
        bench.leave(number)
    await bench.seconds(3)
    await bench.sides(first=3)
    await bench.seconds(4, MEDIA, MEDIA, first=3)
    assert await bench.close() == [("voice", 7, 7)]
    await bench.check()


async def test_a_call_that_nobody_could_join_leaves_no_record(bench: CallBench) -> None:
    alice = await bench.account("alice", 100)
    assert await bench.metering.open_call(CALL, payer=alice, line=VOICE)
    await bench.seconds(3)
    assert bench.ledger.balance(alice, J).held == SLICE_S * J.unit
    assert await bench.close() == []
    assert bench.ledger.balance(alice, J) == (100 * J.unit, 0, 0, 0)
    assert await bench.paid(alice) == []
    assert bench.ledger.meter.live == 0
    # The slot is of use to others.
    for number in range(8):
        assert await bench.metering.open_call(f"CALL-{number}", payer=alice, line=VOICE) is (
            number < 4
        )
    await bench.check()


async def test_who_cant_pay_opens_no_call(bench: CallBench) -> None:
    poor, frozen = await bench.account("poor", 1), await bench.account("frozen", 10)
    await bench.ledger.freeze(frozen, True)
    for payer, line in ((poor, VIDEO), (frozen, VOICE), (NODE, VOICE)):
        assert not await bench.metering.open_call(CALL, payer=payer, line=line)
    assert await bench.metering.join(1, CALL, None) == 403
    assert bench.ledger.meter.live == 0


async def test_a_call_is_cut_when_nothing_is_left(bench: CallBench) -> None:
    alice = await opened(bench, 10)
    bench.metering.start_call(CALL)
    await bench.seconds(12, MEDIA, MEDIA)
    assert bench.cuts == [(CALL, "no balance")]
    assert bench.stops == [({CALL}, "no balance")]
    assert not bench.living
    assert bench.metering.call_figures(CALL) == (10, 10 * J.unit, 0)
    await bench.credit(alice, 5)
    assert await bench.metering.join(3, CALL, None) == 403
    assert await bench.close(reason="no-money") == [("voice", 10, 10)]
    assert await bench.paid(alice) == [(10, "no-money")]
    # What was paid in is for a new one, of the same name if need be.
    assert await bench.metering.open_call(CALL, payer=alice, line=VOICE)
    await bench.check()


async def test_a_frozen_account_ends_its_call(bench: CallBench) -> None:
    alice = await opened(bench)
    bench.metering.start_call(CALL)
    await bench.seconds(3, MEDIA, MEDIA)
    await bench.ledger.freeze(alice, True)
    await bench.seconds(2, MEDIA, MEDIA)
    assert bench.cuts == [(CALL, "account frozen")]
    assert bench.metering.call_figures(CALL).left == 0
    assert await bench.close() == [("voice", 4, 4)]


async def test_each_kind_is_a_record_at_its_price(bench: CallBench) -> None:
    alice = await opened(bench)
    bench.metering.start_call(CALL)
    await bench.seconds(5, MEDIA, MEDIA)
    await bench.metering.change_call(CALL, VIDEO)
    assert bench.ledger.balance(alice, J).held == 2 * SLICE_S * J.unit
    await bench.seconds(3, MEDIA, MEDIA)
    assert bench.metering.call_figures(CALL) == (8, 11 * J.unit, 989 * J.unit)
    # The same once more changes nothing.
    await bench.metering.change_call(CALL, VIDEO)
    await bench.metering.change_call(CALL, VOICE)
    await bench.seconds(2, MEDIA, MEDIA)
    assert bench.metering.call_figures(CALL) == (10, 13 * J.unit, 987 * J.unit)
    assert await bench.close() == [("voice", 5, 5), ("video", 3, 6), ("voice", 2, 2)]
    assert await bench.paid(alice) == [(2, "hung up"), (6, "now voice"), (5, "now video")]
    assert bench.ledger.balance(NODE, J).posted == 13 * J.unit
    await bench.check()


async def test_a_change_charges_what_was_active_until_then_at_the_old_price(
    bench: CallBench, clock: VirtualClock
) -> None:
    await opened(bench)
    bench.metering.start_call(CALL)
    await bench.seconds(2, MEDIA, MEDIA)
    # In the midst of the next second, in which both have sent already.
    clock.advance_ns(NS_PER_S // 2)
    for number in (1, 2):
        bench.engine.client_sends(bench.client(number), encode_channel_data(CHANNEL, MEDIA))
    await bench.metering.change_call(CALL, VIDEO)
    clock.advance_ns(NS_PER_S // 2)
    bench.collect()
    await bench.metering.tick()
    assert bench.metering.call_figures(CALL)[:2] == (3, 3 * J.unit)
    await bench.seconds(2, MEDIA, MEDIA)
    assert await bench.close() == [("voice", 3, 3), ("video", 2, 4)]
    await bench.check()


async def test_a_change_before_the_start_leaves_no_record_of_what_was_before(
    bench: CallBench,
) -> None:
    await opened(bench)
    await bench.seconds(2, MEDIA, MEDIA)
    await bench.metering.change_call(CALL, VIDEO)
    bench.metering.start_call(CALL)
    await bench.seconds(2, MEDIA, MEDIA)
    assert await bench.close() == [("video", 2, 4)]
    await bench.check()


async def test_who_cant_pay_for_another_kind_is_cut(bench: CallBench) -> None:
    await opened(bench, 4)
    bench.metering.start_call(CALL)
    await bench.seconds(3, MEDIA, MEDIA)
    await bench.metering.change_call(CALL, VIDEO)
    await bench.seconds(1, MEDIA, MEDIA)
    assert bench.cuts == [(CALL, "no balance")]
    # The last second was relayed before anybody could know; there was half of its price.
    assert sum(cost for _, _, cost in await bench.close()) == 4
    await bench.check()


async def test_a_change_that_cant_be_stored_changes_nothing(
    bench: CallBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await opened(bench)
    bench.metering.start_call(CALL)
    await bench.seconds(5, MEDIA, MEDIA)
    balance, head = bench.ledger.balance(alice, J), bench.ledger.head
    columns = {name: one.copy() for name, one in bench.ledger.meter.columns.items()}
    store_tick = bench.charging._store_tick
    calls = 0

    def fails_at_last(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OperationError("the disk is full")
        store_tick(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(bench.charging, "_store_tick", fails_at_last)
        with pytest.raises(OperationError, match="the disk is full"):
            await bench.metering.change_call(CALL, VIDEO)
    assert (bench.ledger.balance(alice, J), bench.ledger.head) == (balance, head)
    for name, column in columns.items():
        assert (bench.ledger.meter.columns[name] == column).all(), name
    await bench.seconds(1, MEDIA, MEDIA)
    assert await bench.close() == [("voice", 6, 6)]
    await bench.check()


async def test_merging_accounts_in_mid_call_is_one_more_record(bench: CallBench) -> None:
    alice = await opened(bench)
    target = await bench.account("target", 100)
    bench.metering.start_call(CALL)
    await bench.seconds(5, MEDIA, MEDIA)
    await bench.ledger.link(target, "user:alice")
    await bench.seconds(2, MEDIA, MEDIA)
    assert bench.metering.call_figures(CALL) == (7, 7 * J.unit, 1093 * J.unit)
    await bench.metering.change_call(CALL, VIDEO)
    await bench.seconds(1, MEDIA, MEDIA)
    assert await bench.close() == [("voice", 5, 5), ("voice", 2, 2), ("video", 1, 2)]
    assert [cost for cost, _ in await bench.paid(alice)] == [5]
    await bench.check()


async def test_a_call_that_a_kill_has_left_is_charged_what_was_stored(
    tmp_path: Path, clock: VirtualClock
) -> None:
    ledger = open_ledger(tmp_path, clock, sessions=8, map_bytes=1 << 26)
    bench = CallBench(ledger, clock)
    alice = await opened(bench)
    assert await bench.metering.open_call("CALL-RINGING", payer=alice, line=VOICE)
    bench.metering.start_call(CALL)
    await bench.seconds(5, MEDIA, MEDIA)
    await bench.metering.change_call(CALL, VIDEO)
    await bench.seconds(3, MEDIA, MEDIA)
    await bench.metering.change_call(CALL, VOICE)
    # As after a kill: no checkpoint is written.
    ledger.store.close()
    with open_ledger(tmp_path, clock, sessions=8, map_bytes=1 << 26) as again:
        assert await Charging(again).recover() == 1
        bench = CallBench(again, clock)
        assert await bench.paid(alice) == [(0, LOST), (6, "now voice"), (5, "now video")]
        assert again.balance(alice, J) == (989 * J.unit, 0, 0, 0)
        assert await bench.metering.open_call(CALL, payer=alice, line=VOICE)
        await bench.sides()
        bench.metering.start_call(CALL)
        await bench.seconds(2, MEDIA, MEDIA)
        assert await bench.close() == [("voice", 2, 2)]
        await bench.check()


async def test_a_free_call_is_relayed_without_end(bench: CallBench) -> None:
    assert await bench.metering.open_call(CALL, rate_bytes_s=70_000)
    await bench.sides()
    (handle,) = bench.engine.sessions
    await bench.seconds(3, MEDIA, MEDIA)
    assert bench.engine.granted[handle] == UNLIMITED_SECONDS
    assert bench.metering.rate_bytes_s(1) == 70_000
    assert bench.metering.last_both_active_s(CALL) == bench.clock.monotonic_ns() / NS_PER_S
    await bench.metering.change_call(CALL, VIDEO)
    assert await bench.close() == []
    assert not bench.living
    assert len(bench.metering) == 0


async def test_a_call_without_a_price_has_its_record(bench: CallBench) -> None:
    await opened(bench, 0, Line("voice", 0, 0, NODE))
    await bench.seconds(3, MEDIA, MEDIA)
    bench.metering.start_call(CALL)
    await bench.seconds(4, MEDIA, MEDIA)
    assert await bench.close() == [("voice", 4, 0)]
    await bench.check()


async def test_megabytes_of_a_call_count_from_its_start(
    bench: CallBench, clock: VirtualClock
) -> None:
    alice = await opened(bench, 1000, Line("voice", 0, 1000 * J.unit, NODE))
    # Each byte is carried by two allocations.
    kilobyte = bytes(500)
    await bench.seconds(3, kilobyte, b"")
    clock.advance_ns(NS_PER_S // 2)
    bench.engine.client_sends(bench.client(1), encode_channel_data(CHANNEL, kilobyte))
    bench.metering.start_call(CALL)
    clock.advance_ns(NS_PER_S // 2)
    await bench.metering.tick()
    assert bench.metering.call_figures(CALL)[:2] == (0, 0)
    await bench.seconds(2, kilobyte, b"")
    assert bench.metering.call_figures(CALL)[:2] == (2, 2 * J.unit)
    assert await bench.close() == [("voice", 2, 2)]
    assert bench.ledger.balance(alice, J).posted == 998 * J.unit
    await bench.check()


async def test_seconds_of_a_direct_call_are_told(bench: CallBench) -> None:
    alice = await bench.account("alice", 100)
    assert await bench.metering.open_call(CALL, payer=alice, line=VOICE, relayed=False)
    bench.metering.start_call(CALL)
    for seconds in (1, 2, 2, 1, 5):
        bench.metering.count_direct(CALL, seconds)
        await bench.seconds(1)
    assert bench.metering.call_figures(CALL) == (5, 5 * J.unit, 95 * J.unit)
    await bench.metering.change_call(CALL, VIDEO)
    bench.metering.count_direct(CALL, 7)
    assert await bench.close() == [("voice", 5, 5), ("video", 2, 4)]
    bench.metering.count_direct(CALL, 9)
    assert bench.ledger.balance(alice, J) == (91 * J.unit, 0, 0, 0)
    await bench.check()


async def test_a_direct_call_is_cut_too(bench: CallBench) -> None:
    alice = await bench.account("alice", 3)
    assert await bench.metering.open_call(CALL, payer=alice, line=VOICE, relayed=False)
    bench.metering.start_call(CALL)
    bench.metering.count_direct(CALL, 4)
    await bench.seconds(1)
    assert bench.cuts == [(CALL, "no balance")]
    assert await bench.close() == [("voice", 3, 3)]


async def test_who_relays_a_direct_call_pays_for_what_is_relayed(bench: CallBench) -> None:
    alice = await bench.account("alice", 100)
    assert await bench.metering.open_call(CALL, payer=alice, line=VOICE, relayed=False)
    await bench.sides()
    bench.metering.start_call(CALL)
    await bench.seconds(5, MEDIA, MEDIA)
    bench.metering.count_direct(CALL, 3)
    await bench.seconds(1, MEDIA, MEDIA)
    assert bench.metering.call_figures(CALL).seconds == 6
    bench.metering.count_direct(CALL, 8)
    assert await bench.close() == [("voice", 8, 8)]


async def test_a_node_that_stops_charges_its_calls(bench: CallBench) -> None:
    alice = await opened(bench)
    bench.metering.start_call(CALL)
    await bench.seconds(2, MEDIA, MEDIA)
    bench.clock.advance_s(1)
    for number in (1, 2):
        bench.engine.client_sends(bench.client(number), encode_channel_data(CHANNEL, MEDIA))
        bench.engine.close_allocation(bench.allocations.pop(number))
    await bench.metering.finish()
    assert await bench.paid(alice) == [(3, "the node stops")]
    assert len(bench.metering) == 0
    await bench.check()


async def test_a_call_is_closed_where_nobody_ticks_any_more(
    bench: CallBench, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await opened(bench)
    bench.metering.start_call(CALL)
    await bench.seconds(2, MEDIA, MEDIA)

    async def fails(*_: object) -> None:
        raise OperationError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(bench.charging, "tick", fails)
        with pytest.raises(OperationError, match="the disk is full"):
            await bench.metering.close_call(CALL, "hung up")
    assert await bench.metering.join(3, CALL, None) == 403
    (record,) = await bench.metering.close_call(CALL, "again")
    assert (record.seconds, record.reason) == (2, "hung up")
    assert await bench.paid(alice) == [(2, "hung up")]


async def test_workers_count_what_a_call_pays_for(tmp_path: Path, clock: VirtualClock) -> None:
    """The engine's own seconds; the metering's pass when it has counted one."""
    with (
        open_ledger(tmp_path, clock, sessions=8, map_bytes=1 << 26) as ledger,
        running_engine(("127.0.0.1",), workers=2) as engine,
    ):
        bench = MeteringBench(ledger, engine, clock, None)
        alice = await bench.account("alice", 100)
        assert await bench.metering.open_call(CALL, payer=alice, line=VOICE)
        handle = await bench.begin(1, CALL, None)
        assert await bench.begin(2, CALL, None) == handle
        sides = [Client(engine, handle) for _ in range(2)]
        join(*sides)

        def active_s() -> int:
            return int(engine.session_counters()["active_seconds"].sum())

        async def talk(count: int, *talking: Client) -> int:
            """Both hear what these say, until so many seconds have been counted; returns how many
            have been."""
            begun_s = active_s()
            while (passed_s := active_s() - begun_s) < count:
                before_s = active_s()
                while active_s() == before_s:
                    for side in talking:
                        side.send_channel(MEDIA)
                        assert len(sides[side is sides[0]].receive()) == len(MEDIA) + 4
                clock.advance_s(active_s() - before_s)
                bench.collect()
                await bench.metering.tick()
            return passed_s

        await talk(2, *sides)
        assert bench.metering.call_figures(CALL).seconds == 0
        bench.metering.start_call(CALL)
        both_s = await talk(2, *sides)
        assert bench.metering.call_figures(CALL).seconds == both_s
        assert bench.metering.last_both_active_s(CALL) == clock.monotonic_ns() / NS_PER_S
        # As if nine seconds of silence were over.
        clock.advance_s(HOLDING_S - 1)
        await talk(3, sides[0])
        assert both_s < bench.metering.call_figures(CALL).seconds < both_s + 3
        charged_s = bench.metering.call_figures(CALL).seconds
        charged_s += await talk(1, *sides)
        assert bench.metering.call_figures(CALL).seconds == charged_s
        for side in sides:
            side.close()
        for allocation in (1, 2):
            bench.leave(allocation)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.metering.close_call, CALL, "hung up")
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(10):
                while len(bench.metering):
                    bench.collect()
                    await bench.metering.tick()
        assert await bench.paid(alice) == [(charged_s, "hung up")]
        assert (await verify(ledger)).ok
