"""A ledger that has had some of everything, for tests of what reads it from beginning to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from billing.charging import Charging
from billing.journal import SideWrite
from billing.ledger import ISSUE, NODE, LmdbLedger, open_ledger
from billing.tariff import Line
from billing.transfers import Code, Kind, Transfer, new_id
from core.clock import VirtualClock

MAP_BYTES = 1 << 26
VOICE = Line("voice", 1_000_000, 0, NODE)
TURN = Line("turn", 0, 5_000_000, NODE)


def open_small(folder: Path, clock: VirtualClock) -> LmdbLedger:
    """A ledger with a small map and few sessions."""
    return open_ledger(folder, clock, sessions=1 << 14, map_bytes=MAP_BYTES)


class Life:
    """Has a ledger live: transfers, pending ones, refunds, sessions, ticks.

    Attributes:
        accounts: of users; the last one is merged into the first.
        slots: of sessions that live, with what their counters say.
    """

    def __init__(self, ledger: LmdbLedger, clock: VirtualClock) -> None:
        self.ledger = ledger
        self.clock = clock
        self.charging = Charging(ledger)
        self.accounts: list[int] = []
        self.slots: dict[int, list[int]] = {}
        self.ids: list[bytes] = []

    async def transfer(self, debit: int, credit: int, amount: int, **options: object) -> bytes:
        """One transfer that has to be done; its id."""
        identity = new_id(self.clock)
        one = Transfer(identity, debit, credit, amount, **options)  # type: ignore[arg-type]
        side = [SideWrite("blocked_callers", identity, b"sent")] if len(self.ids) % 3 == 0 else []
        (result,) = await self.ledger.transfer([one], side)
        assert result.is_done, result
        self.ids.append(identity)
        return identity

    async def begin(self) -> None:
        """Accounts that have something, and transfers of every kind."""
        for name in "abcdef":
            account = await self.ledger.open_account([f"user:{name}"])
            self.accounts.append(account)
            await self.transfer(ISSUE, account, 1_000_000_000, code=Code.CREDIT)
            await self.transfer(ISSUE, account, 700 + account, currency=1)
        first, second, third, *_, last = self.accounts
        paid = await self.transfer(first, second, 5_000)
        await self.transfer(second, first, 2_000, refund=True, reference=paid)
        await self.transfer(second, third, 900, kind=Kind.PENDING)
        part = await self.transfer(third, first, 800, kind=Kind.PENDING)
        await self.transfer(0, 0, 300, kind=Kind.POST_PENDING, reference=part)
        void = await self.transfer(third, first, 50, currency=1, kind=Kind.PENDING)
        await self.transfer(0, 0, 0, currency=1, kind=Kind.VOID_PENDING, reference=void)
        await self.transfer(first, third, 77, kind=Kind.PENDING, timeout_s=5)
        await self.ledger.link(first, "user:f")
        await self.ledger.link(second, "tg:17")
        await self.ledger.unlink(second, "user:b")
        await self.ledger.freeze(third, True)
        self.accounts.remove(last)

    async def open_sessions(self, count: int) -> list[int]:
        """Sessions of the accounts that aren't frozen, in turns; their slots."""
        payers = [self.accounts[0], self.accounts[1], *self.accounts[3:]]
        opened = []
        for number in range(count):
            line = TURN if number % 4 == 3 else VOICE
            session = await self.charging.open(
                f"session {number}", line, payers[number % len(payers)]
            )
            assert session is not None
            self.slots[session.info.slot] = [0, 0]
            opened.append(session.info.slot)
        return opened

    async def tick(self, seconds: int = 1, closing: dict[int, str] | None = None) -> None:
        """Time passes, and every session is active; then some end."""
        self.clock.advance_s(seconds)
        for counters in self.slots.values():
            counters[0] += seconds
            counters[1] += 123_456 * seconds
        await self.charging.tick(
            np.array(list(self.slots), np.uint32),
            np.array([one[0] for one in self.slots.values()], np.uint64),
            np.array([one[1] for one in self.slots.values()], np.uint64),
            closing or {},
        )
        for slot in closing or {}:
            del self.slots[slot]

    async def live(self) -> None:
        """A bit of everything; three sessions live on."""
        await self.begin()
        for turn in range(4):
            opened = await self.open_sessions(5)
            await self.tick()
            await self.transfer(self.accounts[0], self.accounts[1], 10 + turn)
            await self.tick(3, dict.fromkeys(opened[:4], "ended"))
        await self.tick(2, {next(iter(self.slots)): "ended"})
