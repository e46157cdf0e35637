"""Sessions between allocations, the ledger and an engine: who joins what, and who pays for it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from billing.charging import Verdicts
from billing.ledger import open_ledger
from billing.money import J
from core.clock import SystemClock
from core.errors import OperationError
from core.stun.address import Address, FiveTuple
from relay.dataplane.interface import OWN_NO, UNLIMITED_SECONDS, RelayUnavailable
from tests.support.fake_dataplane import FakeDataPlane
from tests.support.metering import TURN, Bench

CLOCK = SystemClock()
pytestmark = pytest.mark.trio


class HastyEngine(FakeDataPlane):
    """Uses a session's handle again before anybody has taken its last counters."""

    def open_session(self, granted_seconds: int = UNLIMITED_SECONDS) -> int:
        for handle, _ in self._closed_sessions:
            if handle not in self.sessions:
                self.sessions[handle] = set()
                self.granted[handle] = granted_seconds
                return handle
        return super().open_session(granted_seconds)


class BusyEngine(FakeDataPlane):
    """A worker leaves its batch just after somebody has asked for what was closed."""

    is_busy = True

    def take_closed_flows(self) -> Any:
        return self._unless_busy(FakeDataPlane.take_closed_flows)

    def take_closed_sessions(self) -> Any:
        return self._unless_busy(FakeDataPlane.take_closed_sessions)

    def _unless_busy(self, take: Callable[[FakeDataPlane], Any]) -> Any:
        if self.is_busy:
            self.is_busy = False
            return take(FakeDataPlane(CLOCK))
        return take(self)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with open_ledger(tmp_path, CLOCK, sessions=2, map_bytes=1 << 26) as ledger:
        yield Bench(ledger, HastyEngine(CLOCK), CLOCK)


async def test_a_handle_that_is_used_again_is_charged_to_each_in_turn(
    bench: Bench,
) -> None:
    alice, bob = await bench.account("alice", 10), await bench.account("bob", 10)
    handle = await bench.begin(1, "alice's", "alice")
    bench.engine.sessions[handle] = {1, 2, 3}
    bench.leave(1)
    assert await bench.begin(2, "bob's", "bob") == handle
    bench.engine.sessions[handle] = {4}
    await bench.metering.tick()
    assert await bench.paid(alice) == [(3, "client")]
    assert bench.ledger.balance(bob, J).posted == 9 * J.unit
    bench.leave(2)
    bench.collect()
    await bench.metering.tick()
    assert await bench.paid(bob) == [(1, "client")]
    assert bench.ledger.balance(alice, J) == (7 * J.unit, 0, 0, 0)
    assert len(bench.metering) == 0


async def join_together(bench: Bench) -> list[int]:
    """What three allocations are answered that come at once, as 1 to 3 of alice's session."""
    codes: list[int] = []

    async def join(allocation: int) -> None:
        codes.append(await bench.metering.join(allocation, "alice's", "alice"))

    async with trio.open_nursery() as nursery:
        for allocation in range(1, 4):
            nursery.start_soon(join, allocation)
    return codes


async def test_who_comes_while_a_session_is_begun_shares_it(bench: Bench) -> None:
    await bench.account("alice", 10)
    assert await join_together(bench) == [0, 0, 0]
    assert len({bench.enter(allocation, "alice's") for allocation in range(1, 4)}) == 1
    assert len(bench.metering) == 1
    for allocation in range(1, 4):
        bench.leave(allocation)
    assert len(bench.metering) == 0


async def test_who_comes_while_a_session_is_refused_is_refused_too(
    bench: Bench,
) -> None:
    alice = await bench.account("alice", 0)
    assert await join_together(bench) == [403, 403, 403]
    assert len(bench.metering) == 0
    await bench.credit(alice, 1)
    assert await bench.metering.join(4, "alice's", "alice") == 0


async def test_nobody_enters_a_session_that_was_cut(bench: Bench) -> None:
    alice = await bench.account("alice", 1)
    handle = await bench.begin(1, "alice's", "alice")
    # One more has joined, and its relay is being opened.
    assert await bench.metering.join(2, "alice's", "alice") == 0
    bench.engine.sessions[handle] = {1}
    await bench.run_until(lambda: bool(bench.stops))
    assert bench.stops == [({"alice's"}, "no balance")]
    await bench.credit(alice, 5)
    assert await bench.metering.join(3, "alice's", "alice") == 403
    with pytest.raises(RelayUnavailable):
        bench.enter(2, "alice's")
    bench.leave(2, "no slot")
    # It is over now; what was paid in is for a new one.
    again = await bench.begin(3, "alice's", "alice")
    assert bench.engine.granted[again] == 5
    await bench.metering.tick()
    assert await bench.paid(alice) == [(1, "no slot")]


async def test_too_many_sessions_are_no_lack_of_money(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.account("alice", 100)
    for number in (1, 2):
        await bench.begin(number, f"session {number}", "alice")
    assert await bench.metering.join(3, "session 3", "alice") == 508
    (logged,) = caplog.records
    assert "2 sessions are charged already" in str(vars(logged))
    bench.leave(1)
    bench.collect()
    await bench.metering.tick()
    assert await bench.metering.join(3, "session 3", "alice") == 0


def let_bob_overtake_the_next_tick(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """He comes when it is stored, before whoever waits for it is told."""
    tick = bench.charging.tick

    async def overtaken(*arguments: Any) -> Verdicts:
        monkeypatch.setattr(bench.charging, "tick", tick)
        verdicts = await tick(*arguments)
        await bench.begin(2, "bob's", "bob")
        return verdicts

    monkeypatch.setattr(bench.charging, "tick", overtaken)


async def test_who_gets_the_slot_of_a_session_that_a_tick_closes_keeps_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = await bench.account("alice", 40), await bench.account("bob", 10)
    handle = await bench.begin(1, "alice's", "alice")
    bench.engine.sessions[handle] = set(range(25))
    bench.leave(1)
    bench.collect()
    let_bob_overtake_the_next_tick(bench, monkeypatch)
    await bench.metering.tick()
    handle = bench.metering.enter(2, "bob's")
    # What alice's session was granted once more is not for him.
    assert bench.engine.granted[handle] == 10
    bench.engine.sessions[handle] = {5}
    bench.leave(2)
    bench.collect()
    await bench.metering.tick()
    assert await bench.paid(alice) == [(25, "client")]
    assert await bench.paid(bob) == [(1, "client")]


async def test_who_gets_the_slot_of_a_session_that_ran_dry_is_not_cut(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.account("alice", 3)
    await bench.account("bob", 10)
    handle = await bench.begin(1, "alice's", "alice")
    bench.engine.sessions[handle] = {1, 2, 3}
    bench.leave(1)
    bench.collect()
    ticks = 0
    tick = bench.metering.tick

    async def counted() -> Any:
        nonlocal ticks
        stopping = await tick()
        ticks += 1
        return stopping

    monkeypatch.setattr(bench.metering, "tick", counted)
    let_bob_overtake_the_next_tick(bench, monkeypatch)
    await bench.run_until(lambda: ticks > 1)
    assert bench.living == {2: "bob's"}
    assert bench.stops == []


async def test_nobody_pays_for_who_had_the_handle_before_for_nothing(
    bench: Bench,
) -> None:
    bob = await bench.account("bob", 10)
    assert await bench.metering.open_call("CALL-1")
    handle = await bench.begin(1, "CALL-1", None)
    bench.engine.sessions[handle] = {1, 2, 3, 4, 5}
    bench.leave(1)
    assert await bench.metering.close_call("CALL-1", "hung up") == ()
    assert await bench.begin(2, "bob's", "bob") == handle
    bench.engine.sessions[handle] = {6}
    bench.collect()
    await bench.metering.tick()
    assert bench.ledger.balance(bob, J).posted == 9 * J.unit
    bench.leave(2)
    bench.collect()
    await bench.metering.tick()
    assert await bench.paid(bob) == [(1, "client")]


async def test_a_ledger_that_cant_be_read_refuses_and_ends_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.account("alice", 10)

    def unreadable(address: str) -> int:
        raise OperationError("the storage is damaged")

    with monkeypatch.context() as patch:
        patch.setattr(bench.ledger, "find", unreadable)
        assert await bench.metering.join(1, "alice's", "alice") == 508
    (logged,) = caplog.records
    assert "the storage is damaged" in str(vars(logged))
    assert await bench.metering.join(1, "alice's", "alice") == 0


async def test_a_tick_that_fails_is_told_and_made_up_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alice = await bench.account("alice", 10)
    handle = await bench.begin(1, "alice's", "alice")
    bench.engine.sessions[handle] = {1, 2}
    tick = bench.charging.tick
    failures = [KeyError("session 17"), KeyError("session 17"), OperationError("the disk is full")]
    expected = len(failures)

    async def failing(*arguments: Any) -> Verdicts:
        if failures:
            raise failures.pop(0)
        return await tick(*arguments)

    monkeypatch.setattr(bench.charging, "tick", failing)
    await bench.run_until(lambda: bench.ledger.balance(alice, J).posted < 10 * J.unit)
    assert bench.ledger.balance(alice, J).posted == 8 * J.unit
    assert bench.stops == []
    failed = [one for one in caplog.records if one.message == "this second is not charged yet"]
    assert len(failed) == expected
    # A mistake that nobody has foreseen has its traceback, once.
    assert [bool(one.exc_info) for one in failed] == [True, False, False]
    assert "session 17" in str(vars(failed[1]))
    assert "the disk is full" in str(vars(failed[2]))


async def test_a_last_tick_that_fails_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.account("alice", 10)
    await bench.begin(1, "alice's", "alice")

    async def failing(*_: Any) -> Verdicts:
        raise KeyError("session 17")

    monkeypatch.setattr(bench.charging, "tick", failing)
    await bench.metering.finish()
    (logged,) = caplog.records
    assert (logged.message, bool(logged.exc_info)) == ("the last seconds are not charged", True)


async def test_a_session_pays_for_its_own_megabytes_whenever_a_worker_lets_go(
    tmp_path: Path,
) -> None:
    peer, client = Address.from_text("192.0.2.9", 4000), Address.from_text("127.0.0.1", 5000)
    with open_ledger(tmp_path, CLOCK, map_bytes=1 << 26) as ledger:
        engine = BusyEngine(CLOCK)
        by_megabyte = dataclasses.replace(TURN, price_second=0, price_megabyte=J.unit)
        bench = Bench(ledger, engine, CLOCK, by_megabyte)
        alice = await bench.account("alice", 10)
        handle = await bench.begin(1, "alice's", "alice")
        relay = engine.open_relay(Address.from_text("127.0.0.1", 50001))
        five_tuple = FiveTuple("udp", client, Address.from_text("127.0.0.1", 3478))
        allocation = engine.open_allocation(five_tuple, [relay], handle, 10**18, 0)
        engine.install_permission(allocation, peer.ip, 10**18, OWN_NO)
        for _ in range(2):
            engine.send_to_peer(allocation, peer, bytes(1_000_000), False)
        engine.close_allocation(allocation)
        bench.leave(1)
        for _ in range(2):
            bench.collect()
            await bench.metering.tick()
        assert not engine.is_busy
        assert await bench.paid(alice) == [(2, "client")]


async def test_those_who_run_dry_together_are_stopped_together(tmp_path: Path) -> None:
    with open_ledger(tmp_path, CLOCK, map_bytes=1 << 26) as ledger:
        bench = Bench(ledger, FakeDataPlane(CLOCK), CLOCK)
        alice, bob = await bench.account("alice", 0), await bench.account("bob", 100)
        names = [f"session {number}" for number in range(9)]
        for number, name in enumerate(names):
            # What there was is held by those before.
            await bench.credit(alice, 1)
            handle = await bench.begin(number, name, "alice" if number % 3 else "bob")
            bench.engine.sessions[handle] = set(range(100))
        await ledger.freeze(bob, True)
        await bench.run_until(lambda: not bench.living)
        cut = {reason: names for names, reason in bench.stops}
        assert cut == {
            "no balance": {name for number, name in enumerate(names) if number % 3},
            "account frozen": {name for number, name in enumerate(names) if not number % 3},
        }
        assert len(bench.stops) == 2


async def test_a_frozen_account_is_told_as_one(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    alice = await bench.account("alice", 10)
    await bench.begin(1, "alice's", "alice")
    await bench.ledger.freeze(alice, True)
    await bench.run_until(lambda: not bench.living)
    assert bench.stops == [({"alice's"}, "account frozen")]
    assert await bench.metering.join(2, "another", "alice") == 403
    bench.collect()
    await bench.metering.tick()
    assert await bench.paid(alice) == [(0, "account frozen")]
    assert [record.message for record in caplog.records] == [
        "a session was cut: its account is frozen",
        "refused: the account is frozen",
    ]


async def test_a_closed_account_is_told_as_one(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    alice = await bench.account("alice", 0)
    await bench.ledger.close_account(alice)
    bench.payers.bound = {"a secret": f"#{alice}"}
    assert await bench.metering.join(1, "alice's", "a secret") == 403
    (logged,) = caplog.records
    assert logged.message == "refused: the account is closed"


async def test_a_number_whose_account_was_merged_pays_from_the_one_that_took_over(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = await bench.account("first", 1), await bench.account("second", 1)
    alice = await bench.account("alice", 5)
    bench.payers.bound = {"a secret": f"#{first}"}
    await bench.begin(1, "customer's", "a secret")
    await bench.ledger.link(second, "user:first")
    await bench.ledger.link(alice, "user:second")
    bench.leave(1)
    bench.collect()
    await bench.metering.tick()
    handle = await bench.begin(2, "customer's", "a secret")
    bench.engine.sessions[handle] = {1, 2}
    await bench.metering.tick()
    assert bench.ledger.balance(alice, J).posted == 5 * J.unit
    # Now it is alice's, who has no balance left for an eighth second, and whose account is open.
    bench.engine.sessions[handle] = set(range(7))
    await bench.run_until(lambda: not bench.living)
    assert bench.stops == [({"customer's"}, "no balance")]
    cut = [record for record in caplog.records if "was cut" in record.message]
    assert [vars(record)["montana_fields"]["account"] for record in cut] == [alice]


async def test_a_session_that_was_passed_on_is_cut_for_what_its_payer_lacks(
    bench: Bench,
) -> None:
    bob = await bench.account("bob", 1)
    alice = await bench.account("alice", 2)
    handle = await bench.begin(1, "bob's", "bob")
    await bench.ledger.link(alice, "user:bob")
    bench.engine.sessions[handle] = {1, 2, 3}
    await bench.run_until(lambda: not bench.living)
    # The account that he had is closed; the one that pays is not.
    assert bench.ledger.account(bob).closed
    assert bench.stops == [({"bob's"}, "no balance")]
