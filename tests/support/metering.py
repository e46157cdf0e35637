"""A metering with a ledger and a data plane in memory, driven by the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import trio

from billing.charging import Charging
from billing.ledger import ISSUE, NODE, LmdbLedger, open_ledger
from billing.money import J
from billing.tariff import Line
from billing.transfers import Transfer, new_id
from core.clock import Clock
from relay.dataplane.interface import DataPlane
from relay.figures import FigureReader
from relay.metering import Metering
from relay.payers import Payers
from tests.support.fake_dataplane import FakeDataPlane

TURN = Line("turn", J.unit, 0, NODE)
Engine = TypeVar("Engine", bound=DataPlane)


class MeteringBench(Generic[Engine]):
    """A metering with all that it needs; whoever is stopped leaves at once."""

    def __init__(
        self, ledger: LmdbLedger, engine: Engine, clock: Clock, line: Line | None = TURN
    ) -> None:
        self.ledger = ledger
        self.engine = engine
        self.clock = clock
        self.stops: list[tuple[AbstractSet[str], str]] = []
        self.living: dict[int, str] = {}
        self.charging = Charging(ledger)
        # Of its listener a reader asks nothing but how many live.
        self.figures = FigureReader(None, self.engine, clock)  # type: ignore[arg-type]
        self.payers = Payers(ledger, {}, unknown_is_free=False)
        self.metering = Metering(
            ledger,
            self.charging,
            self.engine,
            clock,
            line,
            self.payers,
            collect=self.collect,
            stop=self.stop,
        )
        self.figures.on_ended = self.metering.collect_ended

    def collect(self) -> None:
        self.figures.collect_ended()

    def stop(self, names: AbstractSet[str], reason: str) -> None:
        self.stops.append((names, reason))
        for allocation in [one for one, session in self.living.items() if session in names]:
            self.leave(allocation, reason)

    async def run_until(self, holds: Callable[[], bool]) -> None:
        """Tick as a node does, until something has come about."""
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.metering.run)
                while not holds():
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()

    async def account(self, name: str, amount: int) -> int:
        number = await self.ledger.open_account([f"user:{name}"])
        if amount:
            await self.credit(number, amount)
        return number

    async def credit(self, account: int, amount: int) -> None:
        (result,) = await self.ledger.transfer(
            [Transfer(new_id(self.clock), ISSUE, account, amount * J.unit)]
        )
        assert result.is_done

    async def begin(self, allocation: int, name: str, payer: str | None) -> int:
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


Bench = MeteringBench[FakeDataPlane]


@contextmanager
def free_sessions(folder: Path, engine: FakeDataPlane) -> Iterator[Metering]:
    """Sessions of a node that charges nobody."""
    with open_ledger(folder, engine.clock, sessions=64, map_bytes=1 << 26) as ledger:
        yield Bench(ledger, engine, engine.clock, None).metering
