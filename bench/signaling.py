"""The benchmarks of rooms and calls in the browser: what is measured, and what came of it."""

from __future__ import annotations

import statistics
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from bench.ledger_load import Say, sync_us
from bench.machine import Machine, this_machine
from bench.rounds import Rounds
from bench.scenario import QUIET, SERVER_BUSY, Measurement
from bench.servers import MONTANA, bench_folder
from bench.signaling_calls import Callers, Finished, account_addresses
from bench.signaling_load import MESSAGE_BYTES, Routed, session_bytes, talk
from bench.signaling_pages import (
    CALLER,
    Answered,
    chromium_is_installed,
    make_links,
    measure_answers,
)
from bench.signaling_servers import AIOHTTP, aiohttp_version, running_signaling
from bench.signaling_ticking import ticking_relay
from core.units import NS_PER_MS, NS_PER_S

SERVERS = (AIOHTTP, MONTANA)


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing(Rounds):
    """Messages between people of rooms of two, as many as the server's core carries.

    Attributes:
        window: messages of each person that are under way.
        connections: people.
        waited: the largest share of a round in which the server waited for its core.
    """

    server: str
    window: int
    connections: int
    message_bytes: int
    waited: float

    @property
    def disturbed(self) -> bool:
        """Whether the server had to share its core."""
        return self.waited > QUIET

    @property
    def server_was_full(self) -> bool:
        """Whether the server, not who loads it, was the limit."""
        return self.busy + self.waited >= SERVER_BUSY


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionMemory:
    """Memory (PSS) a connected session in which nothing happens."""

    server: str
    sessions: int
    session_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """From the click on "answer" to the first remote frame, through relays alone: each call's
    times, milliseconds."""

    calls: list[Answered]

    def p50_ms(self, part: str) -> float:
        """The median of one of the parts of `Answered`."""
        return statistics.median(getattr(one, part) for one in self.calls)

    @property
    def worst_ms(self) -> float:
        """Of the slowest call."""
        return max(one.total for one in self.calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSetUps:
    """Calls made, answered, connected and ended one after another by pairs of pages.

    Attributes:
        rates: calls a second, of each round.
        cpu_ms: the node's CPU a call, of each round.
        busy: the share of its core that the node used, of the median round.
        waited: the largest share of a round in which its threads waited for the core, for each
            other too.
    """

    pairs: int
    sync_us: float
    rates: list[float]
    cpu_ms: list[float]
    busy: float
    waited: float

    @property
    def a_second(self) -> float:
        """Of the median round."""
        return statistics.median(self.rates)

    @property
    def a_core_second(self) -> float:
        """Calls for a second of the node's CPU, of the median round."""
        return 1e3 / statistics.median(self.cpu_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketDelay:
    """What became of the packets of calls, of all rounds; the median round's delay one way."""

    sent: int
    lost: int
    p50_us: float
    p99_us: float
    p999_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TickingCalls:
    """Calls through a relay without and with ticks on the same core.

    Attributes:
        sessions: that are ticked.
        ticks, tick_ms: how many there were, and their median.
        disturbed: whether the core was shared with something else.
    """

    sessions: int
    calls: int
    sync_us: float
    resting: PacketDelay
    ticking: PacketDelay
    ticks: int
    tick_ms: float
    disturbed: bool


@dataclass(slots=True, kw_only=True)
class SignalingReport:
    """Everything of one run."""

    machine: Machine
    quick: bool
    routing: list[Routing] = field(default_factory=list)
    memory: list[SessionMemory] = field(default_factory=list)
    answers: Answers | None = None
    set_ups: CallSetUps | None = None
    ticking: TickingCalls | None = None

    def routing_of(self, server: str, window: int) -> Routing | None:
        """What a server has routed with so many messages under way."""
        wanted = (server, window)
        return next((one for one in self.routing if (one.server, one.window) == wanted), None)

    def memory_of(self, server: str) -> SessionMemory | None:
        """What a session takes on a server."""
        return next((one for one in self.memory if one.server == server), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalingSizes:
    """How much of everything."""

    rooms: int = 25
    windows: tuple[int, ...] = (1, 8)
    routing_rounds: int = 5
    routing_s: float = 4.0
    idle_sessions: int = 10_000
    settle_s: float = 3.0
    answered_calls: int = 20
    pairs: int = 2_000
    set_up_rounds: int = 3
    set_up_s: float = 15.0
    ticked_sessions: int = 100_000
    calls: int = 50
    ticking_rounds: int = 3
    ticking_s: float = 30.0


FULL = SignalingSizes()
QUICK = SignalingSizes(
    routing_rounds=1,
    routing_s=1.0,
    idle_sessions=1_000,
    answered_calls=3,
    pairs=200,
    set_up_rounds=1,
    set_up_s=3.0,
    ticked_sessions=10_000,
    ticking_rounds=1,
    ticking_s=3.0,
)


def new_report(*, quick: bool) -> SignalingReport:
    """An empty report of this machine."""
    machine = this_machine([MONTANA])
    versions = {AIOHTTP: aiohttp_version(), **machine.versions}
    return SignalingReport(machine=replace(machine, versions=versions), quick=quick)


def measure_signaling(report: SignalingReport, sizes: SignalingSizes, say: Say) -> None:
    """Measure all of it into `report`.

    Raises:
        MontanaError: something can't be measured; says why.
    """
    for window in sizes.windows:
        report.routing += _routing(sizes, window, say)
    for name in SERVERS:
        with running_signaling(name) as server:
            size = session_bytes(server, sizes.idle_sessions, sizes.settle_s)
        memory = SessionMemory(server=name, sessions=sizes.idle_sessions, session_bytes=size)
        report.memory.append(memory)
        say(f"sessions    {name:10} {memory.sessions:,} idle: {size:,.0f} bytes each")
    if chromium_is_installed():
        report.answers = _answers(sizes, say)
    else:
        say("Chromium is missing, so nobody answers a call; sudo apt install chromium")
    report.set_ups = _set_ups(sizes, say)
    report.ticking = _ticking(sizes, say)


def _routing(sizes: SignalingSizes, window: int, say: Say) -> list[Routing]:
    """Both servers in turn, so that what changes on the machine meanwhile hits both alike."""
    measured: dict[str, list[Routed]] = {name: [] for name in SERVERS}
    for _ in range(sizes.routing_rounds):
        for name, found in measured.items():
            with running_signaling(name) as server, talk(server, sizes.rooms, window) as opened:
                found.append(opened.measure(sizes.routing_s))
            one = found[-1]
            say(
                f"routing     {name:10} {window} under way: {_rate(one):9,.0f}/s, "
                f"{_cpu_us(one):5.1f} us of CPU a message, {one.busy:.0%} of a core"
            )
    return [
        Routing(
            server=name,
            window=window,
            connections=2 * sizes.rooms,
            message_bytes=MESSAGE_BYTES,
            rates=[_rate(one) for one in found],
            cpu_us=[_cpu_us(one) for one in found],
            busy=statistics.median(one.busy for one in found),
            waited=max(one.waited for one in found),
        )
        for name, found in measured.items()
    ]


def _rate(routed: Routed) -> float:
    return routed.messages / routed.elapsed_ns * NS_PER_S


def _cpu_us(routed: Routed) -> float:
    return routed.cpu_ns / max(1, routed.messages) / 1000


def _answers(sizes: SignalingSizes, say: Say) -> Answers:
    with running_signaling(MONTANA, [CALLER]) as server:
        found = []
        for one in measure_answers(make_links(server.socket, sizes.answered_calls)):
            found.append(one)
            parts = ", ".join(f"{name} {value:,.0f}" for name, value in one._asdict().items())
            say(f"answer      {parts} ms")
    return Answers(calls=found)


def _set_ups(sizes: SignalingSizes, say: Say) -> CallSetUps:
    found: list[Finished] = []
    with bench_folder() as folder:
        disk_us = sync_us(folder)
    for _ in range(sizes.set_up_rounds):
        with (
            running_signaling(MONTANA, account_addresses(sizes.pairs)) as server,
            closing(Callers(server, sizes.pairs)) as callers,
        ):
            found.append(callers.measure(sizes.set_up_s))
        one = found[-1]
        say(
            f"set-ups     {sizes.pairs:,} pairs: {_set_up_rate(one):7,.0f} calls/s, "
            f"{_cpu_ms(one):.2f} ms of CPU a call, {one.busy:.0%} of a core"
        )
    return CallSetUps(
        pairs=sizes.pairs,
        sync_us=disk_us,
        rates=[_set_up_rate(one) for one in found],
        cpu_ms=[_cpu_ms(one) for one in found],
        busy=statistics.median(one.busy for one in found),
        waited=max(one.waited for one in found),
    )


def _set_up_rate(finished: Finished) -> float:
    return finished.calls / finished.elapsed_ns * NS_PER_S


def _cpu_ms(finished: Finished) -> float:
    return finished.cpu_ns / max(1, finished.calls) / NS_PER_MS


def _ticking(sizes: SignalingSizes, say: Say) -> TickingCalls:
    resting: list[Measurement] = []
    ticking: list[Measurement] = []
    tick_ms: list[float] = []
    with ticking_relay(sizes.ticked_sessions, sizes.calls) as (relay, disk_us):
        for _ in range(sizes.ticking_rounds):
            resting.append(relay.measure(sizes.ticking_s))
            measured, took_ms = relay.measure_ticking(sizes.ticking_s)
            ticking.append(measured)
            tick_ms += took_ms
            say(
                f"calls       {sizes.calls} calls, {sizes.ticked_sessions:,} sessions tick: p99 "
                f"{measured.latency_p99_us:,.0f} us, {resting[-1].latency_p99_us:,.0f} without; "
                f"{measured.lost} lost"
            )
    return TickingCalls(
        sessions=sizes.ticked_sessions,
        calls=sizes.calls,
        sync_us=disk_us,
        resting=_delay(resting),
        ticking=_delay(ticking),
        ticks=len(tick_ms),
        tick_ms=statistics.median(tick_ms),
        # While it ticks its own threads wait for each other.
        disturbed=any(one.disturbed or one.generator_was_late for one in resting),
    )


def _delay(measured: list[Measurement]) -> PacketDelay:
    return PacketDelay(
        sent=sum(one.sent for one in measured),
        lost=sum(one.lost for one in measured),
        p50_us=statistics.median(one.latency_p50_us for one in measured),
        p99_us=statistics.median(one.latency_p99_us for one in measured),
        p999_us=statistics.median(one.latency_p999_us for one in measured),
    )


def from_json(document: dict[str, Any]) -> SignalingReport:
    """A report from its plain values."""
    return msgspec.convert(document, SignalingReport)
