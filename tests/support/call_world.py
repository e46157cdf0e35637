"""Calls in virtual time over a metering and a ledger that are real: a test says in which seconds
media flows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import trio
import trio.testing

from billing.charging import Charging
from billing.ledger import NODE, LmdbLedger
from billing.money import J
from billing.tariff import Line
from core.clock import VirtualClock
from core.stun.address import Address, FiveTuple
from core.stun.channel_data import encode_channel_data
from core.units import NS_PER_S
from relay.call_activity import FLOOR_BYTES_S
from relay.dataplane.interface import OWN_RELAYS_ONLY
from relay.signaling.call_events import CallEvent
from relay.signaling.call_heartbeats import Side
from relay.signaling.call_records import CallInfo
from relay.signaling.calls import CallManager
from relay.signaling.descriptions import Kind
from tests.support.fake_dataplane import FakeDataPlane
from tests.support.metering import Bench
from tests.support.small_ledger import open_small

RELAY = "198.51.100.7"
HOME = "192.168.1.9"
CHANNEL = 0x4000
SERVER = Address.from_text("127.0.0.1", 3478)
FAR_NS = 1 << 62
MEDIA = bytes(FLOOR_BYTES_S)
_T = TypeVar("_T")
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


class _Metered(Bench):
    """A metering; whoever is stopped leaves at once, and the engine forgets them."""

    def __init__(self, ledger: LmdbLedger, clock: VirtualClock) -> None:
        super().__init__(ledger, FakeDataPlane(clock), clock, None)
        self.allocations: dict[int, int] = {}

    def leave(self, allocation: int, reason: str = "client") -> None:
        if allocation in self.allocations:
            self.engine.close_allocation(self.allocations.pop(allocation))
        super().leave(allocation, reason)


class World:
    """A node's calls with its metering and ledger, and what the sides of calls were told.

    Attributes:
        events: all that was told, in its order.
        on_event: is told it, too.
        prices: micro-J a second of each kind.
    """

    def __init__(self, ledger: LmdbLedger, clock: VirtualClock, **options: Any) -> None:
        self.ledger = ledger
        self.clock = clock
        self.events: list[CallEvent] = []
        self.on_event: Callable[[CallEvent], None] = lambda _event: None
        self.prices = dict(PRICES)
        self.bench = _Metered(ledger, clock)
        self.engine = self.bench.engine
        self.metering = self.bench.metering
        self.calls = CallManager(
            ledger,
            self.metering,
            clock,
            line_of=lambda kind: Line(kind, self.prices[kind], 0, NODE),
            is_own=lambda ip: ip == ip_address(RELAY).packed,
            tell=self._hear,
            secret=bytes(32),
            **{"calls_per_minute": 1_000} | options,
        )
        self.metering.on_call_cut = self.calls.billing_cut
        self._clients: dict[str, list[FiveTuple]] = {}
        self._made = 0

    def _hear(self, event: CallEvent) -> None:
        self.events.append(event)
        self.on_event(event)

    async def account(self, address: str, amount: int = 1_000) -> int:
        """A new account with so many whole Ɉ."""
        number = await self.ledger.open_account([address])
        if amount:
            await self.bench.credit(number, amount)
        return number

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
            await self.calls.set_present(info.id, side, **options)
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

    async def seconds(self, count: int, *talking: str, beating: Sequence[Side] = ()) -> None:
        """Let time pass; media flows through the relays in these calls, or sides of them say that
        it flows past these."""
        for _ in range(count):
            self.clock.advance_s(1)
            for call in talking:
                for side in beating:
                    self.calls.beat(call, side is Side.CALLER)
                if not beating:
                    await self._talk(call)
            await self.tick()
            await self.ticking(self.calls.tick)

    async def _talk(self, call: str) -> None:
        if call not in self._clients:
            self._clients[call] = await self._allocate(call)
        for client in self._clients[call]:
            self.engine.client_sends(client, encode_channel_data(CHANNEL, MEDIA))

    async def _allocate(self, call: str) -> list[FiveTuple]:
        """An allocation for each side, which know each other."""
        allocations, clients, relays = [], [], []
        for _ in Side:
            self._made += 1
            handle = await self.bench.begin(self._made, call, None)
            relays.append(Address.from_text("127.0.0.1", 50_000 + self._made))
            clients.append(
                FiveTuple("udp", Address.from_text("127.0.0.1", 5_000 + self._made), SERVER)
            )
            allocation = self.engine.open_allocation(
                clients[-1], [self.engine.open_relay(relays[-1])], handle, FAR_NS, 0
            )
            self.bench.allocations[self._made] = allocation
            allocations.append(allocation)
        for allocation, peer in zip(allocations, reversed(relays), strict=True):
            self.engine.install_permission(allocation, peer.ip, FAR_NS, OWN_RELAYS_ONLY)
            self.engine.install_channel(allocation, CHANNEL, peer, FAR_NS)
        return clients

    async def tick(self) -> None:
        """The metering's; whoever has to stop does."""
        self.bench.collect()
        self.metering._stop_all(await self.metering.tick())

    async def ticking(self, act: Callable[..., Awaitable[_T]], *arguments: Any) -> _T:
        """Have something done that waits for the metering, which ticks until it is."""
        results: list[_T] = []
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                results.append(await act(*arguments))
                nursery.cancel_scope.cancel()

            nursery.start_soon(run)
            while True:
                await trio.testing.wait_all_tasks_blocked()
                await self.tick()
        return results[0]

    async def end(self, call: str, by: Side | None = None) -> tuple[bool, CallInfo]:
        """Somebody hangs up."""
        return await self.ticking(self.calls.end_call, call, by)

    async def takes_allocations(self, call: str) -> bool:
        """Whether its pages can have relays."""
        self._made += 1
        if await self.metering.join(self._made, call, None):
            return False
        self.metering.leave(self._made, "client")
        return True

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
    if clock.monotonic_ns() % NS_PER_S == 0:
        # As a tick comes just before a second's end.
        clock.advance_ns(NS_PER_S * 9 // 10)
    with open_small(folder, clock) as ledger:
        world = World(ledger, clock, **options)
        await Charging(ledger).recover()
        await world.calls.recover()
        yield world
