"""Calls in virtual time over a ledger that is real, its charges included: a test says in which
seconds media flows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from billing.charging import Charging
from billing.journal import CallRecord
from billing.ledger import ISSUE, NODE, LmdbLedger
from billing.money import J
from billing.tariff import Line
from billing.transfers import Transfer, new_id
from core.clock import VirtualClock
from core.errors import OperationError
from core.units import NS_PER_S
from relay.metering import ACCOUNT_FROZEN, NO_MONEY
from relay.signaling.call_heartbeats import Side
from relay.signaling.call_records import CallInfo
from relay.signaling.calls import CallEvent, CallManager
from relay.signaling.descriptions import Kind
from tests.support.small_ledger import open_small

RELAY = "198.51.100.7"
HOME = "192.168.1.9"
MARKER = "marker5dpM4rk3r"
"""Stands in each description."""
PRICES = {Kind.VOICE: J.unit, Kind.VIDEO: 2 * J.unit, Kind.SCREEN: 2 * J.unit}
_SECTIONS = {
    Kind.VOICE: ("sendrecv", "inactive", "inactive"),
    Kind.VIDEO: ("sendrecv", "sendrecv", "inactive"),
    Kind.SCREEN: ("sendrecv", "inactive", "recvonly"),
}


def description(kind: Kind = Kind.VOICE) -> str:
    """What a page of ours offers or answers, with an address at home and a relay's."""
    lines = ["v=0", f"o=- 1 2 IN IP4 {HOME}", f"s={MARKER}", "t=0 0"]
    for media, direction in zip(("audio", "video", "video"), _SECTIONS[kind], strict=True):
        lines += [
            f"m={media} 9 UDP/TLS/RTP/SAVPF 111",
            f"c=IN IP4 {HOME}",
            f"a={candidate(HOME, 'host')}",
            f"a={candidate(RELAY, 'relay')}",
            f"a=ice-pwd:{MARKER}",
            f"a={direction}",
        ]
    return "".join(f"{line}\r\n" for line in lines)


def candidate(address: str, kind: str) -> str:
    """As RTCIceCandidate has it."""
    return f"candidate:1 1 udp 33562367 {address} 50123 typ {kind}"


class Figures(NamedTuple):
    """What a call has come to."""

    seconds: int
    cost: int
    left: int


class _Session:
    """A call that is charged: by segments, each of one price."""

    def __init__(self, payer: int, line: Line, is_relayed: bool) -> None:
        self.payer = payer
        self.line = line
        self.is_relayed = is_relayed
        self.slot = -1
        self.is_counted = False
        self.active_s = 0
        self.before_s = 0
        self.last_both_active_s: float | None = None
        self.records: tuple[CallRecord, ...] = ()
        self.is_cut = False


class LedgerBilling:
    """`relay.signaling.calls.CallBilling` over the ledger's own meter.

    Attributes:
        fails: raised by whatever would be stored.
        calls: the sessions that are open.
    """

    def __init__(self, ledger: LmdbLedger, clock: VirtualClock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._charging = Charging(ledger)
        self.calls: dict[str, _Session] = {}
        self.fails: OperationError | None = None
        self.on_cut: Callable[[str, str], None] = lambda _name, _reason: None

    async def open_call(
        self,
        name: str,
        *,
        payer: int,
        line: Line,
        relayed: bool,
    ) -> bool:
        assert name not in self.calls
        self._check()
        session = _Session(payer, line, relayed)
        if not await self._begin(name, session):
            return False
        self.calls[name] = session
        return True

    async def _begin(self, name: str, session: _Session) -> bool:
        opened = await self._charging.open(name, session.line, session.payer)
        if opened is None:
            return False
        session.slot, session.before_s = opened.info.slot, session.active_s
        return True

    def start_call(self, name: str) -> None:
        self.calls[name].is_counted = True

    async def change_call(self, name: str, line: Line) -> None:
        self._check()
        session = self.calls[name]
        await self._tick({session.slot: "changed"})
        session.line = line
        session.is_cut = not await self._begin(name, session)

    async def close_call(self, name: str, reason: str) -> tuple[CallRecord, ...]:
        self._check()
        session = self.calls.get(name)
        if session is None:
            return ()
        await self._tick({session.slot: reason})
        del self.calls[name]
        return session.records

    def call_figures(self, name: str) -> Figures:
        session = self.calls[name]
        columns, slot = self._ledger.meter.columns, session.slot
        seconds, cost = int(columns["seconds"][slot]), int(columns["cost"][slot])
        balance = self._ledger.balance(session.payer, J)
        return Figures(
            seconds + sum(record.seconds for record in session.records),
            cost + sum(record.cost for record in session.records),
            balance.available + balance.held,
        )

    def last_both_active_s(self, name: str) -> float | None:
        return self.calls[name].last_both_active_s

    def count_direct(self, name: str, seconds: int) -> None:
        session = self.calls[name]
        assert not session.is_relayed
        assert seconds >= session.active_s
        session.active_s = seconds

    def _check(self) -> None:
        if self.fails is not None:
            raise self.fails

    async def second(self, talking: set[str]) -> None:
        """A second in which media has flowed both ways in these calls."""
        for name in talking & self.calls.keys():
            session = self.calls[name]
            session.last_both_active_s = self._clock.monotonic_ns() / NS_PER_S
            session.active_s += session.is_relayed and session.is_counted
        for name in await self._tick({}):
            self.calls[name].is_cut = True
            frozen = self._ledger.account(self.calls[name].payer).frozen
            self.on_cut(name, ACCOUNT_FROZEN if frozen else NO_MONEY)

    async def _tick(self, closing: dict[int, str]) -> list[str]:
        living = {one.slot: one for one in self.calls.values() if not one.is_cut}
        living |= {one.slot: one for one in self.calls.values() if one.slot in closing}
        verdicts = await self._charging.tick(
            np.array(list(living), np.uint32),
            np.array([one.active_s - one.before_s for one in living.values()], np.uint64),
            np.zeros(len(living), np.uint64),
            closing,
        )
        for slot, records in verdicts.records.items():
            living[slot].records += records
        stopped = set(verdicts.stopped.tolist()) - closing.keys()
        return [name for name, one in self.calls.items() if one.slot in stopped]


class World:
    """A node's calls, its ledger, and what the sides of calls were told.

    Attributes:
        events: all that was told, in its order.
        on_event: is told it, too.
    """

    def __init__(self, ledger: LmdbLedger, clock: VirtualClock, **options: Any) -> None:
        self.ledger = ledger
        self.clock = clock
        self.events: list[CallEvent] = []
        self.on_event: Callable[[CallEvent], None] = lambda _event: None
        self.prices = dict(PRICES)
        self.billing = LedgerBilling(ledger, clock)
        self.calls = CallManager(
            ledger,
            self.billing,
            clock,
            line_of=lambda kind: Line(kind, self.prices[kind], 0, NODE),
            is_own=lambda ip: ip == ip_address(RELAY).packed,
            tell=self._hear,
            secret=bytes(32),
            **{"calls_per_minute": 1_000} | options,
        )
        self.billing.on_cut = self.calls.billing_cut

    def _hear(self, event: CallEvent) -> None:
        self.events.append(event)
        self.on_event(event)

    async def account(self, address: str, amount: int = 1_000) -> int:
        """A new account with so many whole Ɉ."""
        number = await self.ledger.open_account([address])
        await self.pay_in(number, amount)
        return number

    async def pay_in(self, account: int, amount: int) -> None:
        if amount:
            transfer = Transfer(new_id(self.clock), ISSUE, account, amount * J.unit)
            (result,) = await self.ledger.transfer([transfer])
            assert result.is_done

    async def ringing(
        self,
        caller: str = "user:alice",
        callee: str | None = "user:bob",
        kind: Kind = Kind.VOICE,
        **options: Any,
    ) -> str:
        """A call whose two sides are there."""
        info = await self.calls.create(caller, callee, kind)
        for side in Side:
            await self.calls.set_present(info.id, side, True, **options)
        return info.id

    async def active(
        self,
        caller: str = "user:alice",
        callee: str | None = "user:bob",
        kind: Kind = Kind.VOICE,
        **options: Any,
    ) -> str:
        """A call that was answered."""
        call = await self.ringing(caller, callee, kind, **options)
        self.calls.set_offer(call, description(kind))
        await self.calls.answer_call(call, description(kind))
        return call

    async def talking(
        self,
        caller: str = "user:alice",
        callee: str | None = "user:bob",
        kind: Kind = Kind.VOICE,
        **options: Any,
    ) -> str:
        """A call whose two sides are connected."""
        call = await self.active(caller, callee, kind, **options)
        self.connect(call)
        return call

    def connect(self, call: str) -> None:
        assert not self.calls.start_call(call, is_from=True)
        assert self.calls.start_call(call, is_from=False)

    async def seconds(self, count: int, *talking: str) -> None:
        """Let time pass; media flows in these calls."""
        for _ in range(count):
            self.clock.advance_s(1)
            await self.billing.second(set(talking))
            await self.calls.tick()

    def call(self, call: str) -> CallInfo:
        info = self.calls.find(call)
        assert info is not None
        return info

    def told(self, kind: type[Any]) -> list[Any]:
        """What was told of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def open_world(
    folder: Path, clock: VirtualClock | None = None, **options: Any
) -> AsyncIterator[World]:
    """A node's calls over the ledger in a folder, after what a start does."""
    clock = clock or VirtualClock()
    with open_small(folder, clock) as ledger:
        world = World(ledger, clock, **options)
        await Charging(ledger).recover()
        await world.calls.recover()
        yield world
