"""Sessions between allocations, the ledger and an engine: who joins what, and who pays for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from billing.charging import Charging
from billing.ledger import ISSUE, NODE, LmdbLedger, open_ledger
from billing.money import J
from billing.tariff import Line
from billing.transfers import Transfer, new_id
from core.clock import SystemClock
from relay.dataplane.interface import UNLIMITED_SECONDS, RelayUnavailable
from relay.metering import Metering
from tests.support.fake_dataplane import FakeDataPlane

TURN = Line("turn", J.unit, 0, NODE)
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


class Bench:
    """A metering with all that it needs; whoever is stopped leaves at once."""

    def __init__(self, ledger: LmdbLedger) -> None:
        self.ledger = ledger
        self.engine = HastyEngine(CLOCK)
        self.stopped: list[str] = []
        self.living: dict[int, str] = {}
        self.metering = Metering(
            ledger,
            Charging(ledger),
            self.engine,
            CLOCK,
            TURN,
            bound={},
            unknown_is_free=False,
            collect=self.collect,
            stop=self.stop,
        )

    def collect(self) -> None:
        self.metering.collect_ended(
            self.engine.take_closed_flows(), self.engine.take_closed_sessions()
        )

    def stop(self, name: str, reason: str) -> None:
        self.stopped.append(name)
        for allocation in [one for one, session in self.living.items() if session == name]:
            self.leave(allocation, reason)

    async def account(self, name: str, amount: int) -> int:
        number = await self.ledger.open_account([f"user:{name}"])
        if amount:
            await self.credit(number, amount)
        return number

    async def credit(self, account: int, amount: int) -> None:
        (result,) = await self.ledger.transfer(
            [Transfer(new_id(CLOCK), ISSUE, account, amount * J.unit)]
        )
        assert result.is_done

    async def begin(self, allocation: int, name: str, payer: str) -> int:
        """An allocation's handle in the engine; it has to be let in."""
        assert await self.metering.join(allocation, name, payer) == 0
        return self.enter(allocation, name)

    def enter(self, allocation: int, name: str) -> int:
        handle = self.metering.enter(allocation, name)
        self.living[allocation] = name
        return handle

    def leave(self, allocation: int, reason: str = "client") -> None:
        self.living.pop(allocation, None)
        self.metering.leave(allocation, reason)

    async def paid(self, account: int) -> list[tuple[int, str]]:
        """(whole Ɉ, why it ended) of an account's sessions, the last first."""
        lines = await self.ledger.history(account)
        records = [line.record for line in lines if line.record is not None]
        return [(record.cost // J.unit, record.reason) for record in records]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with open_ledger(tmp_path, CLOCK, sessions=2, map_bytes=1 << 26) as ledger:
        yield Bench(ledger)


async def test_a_handle_that_is_used_again_is_charged_to_each_in_turn(bench: Bench) -> None:
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


async def test_who_comes_while_a_session_is_begun_shares_it(bench: Bench) -> None:
    await bench.account("alice", 10)
    codes: list[int] = []

    async def join(allocation: int) -> None:
        codes.append(await bench.metering.join(allocation, "alice's", "alice"))

    async with trio.open_nursery() as nursery:
        for allocation in range(1, 4):
            nursery.start_soon(join, allocation)
    assert codes == [0, 0, 0]
    assert len({bench.enter(allocation, "alice's") for allocation in range(1, 4)}) == 1
    assert len(bench.metering) == 1
    for allocation in range(1, 4):
        bench.leave(allocation)
    assert len(bench.metering) == 0


async def test_who_comes_while_a_session_is_refused_is_refused_too(bench: Bench) -> None:
    alice = await bench.account("alice", 0)
    codes: list[int] = []

    async def join(allocation: int) -> None:
        codes.append(await bench.metering.join(allocation, "alice's", "alice"))

    async with trio.open_nursery() as nursery:
        for allocation in range(1, 4):
            nursery.start_soon(join, allocation)
    assert codes == [403, 403, 403]
    assert len(bench.metering) == 0
    await bench.credit(alice, 1)
    assert await bench.metering.join(4, "alice's", "alice") == 0


async def test_nobody_enters_a_session_that_was_cut(bench: Bench) -> None:
    alice = await bench.account("alice", 1)
    handle = await bench.begin(1, "alice's", "alice")
    # One more has joined, and its relay is being opened.
    assert await bench.metering.join(2, "alice's", "alice") == 0
    bench.engine.sessions[handle] = {1}
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.metering.run)
            while not bench.stopped:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert bench.stopped == ["alice's"]
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
