"""The benchmark of SMS commands: what Twilio's webhook is called with, and what came of it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

import msgspec

from bench.ledger_load import Say, sync_us
from bench.machine import Machine, this_machine
from bench.servers import MONTANA, bench_folder
from bench.sms_load import Carried, running_sms
from core.units import NS_PER_S

OTHERS_MAXIMUM = 0.1
"""What the kernel does for a disk is counted for others, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """BAL of funded numbers through the webhook, as many as one core carries of which the node and
    the bridge have a process each; every answer and every balance was right.

    Attributes:
        connections: that are kept, with one request of each under way.
        late: that the node had not carried out soon enough to be answered in the response.
        rates: commands a second that were answered in the response, of each round.
        node_cpu_us, bridge_cpu_us: a command, of each round.
        busy: the share of their core that the two used, of the median round.
        others: the largest share of a round in which that core worked for others.
    """

    connections: int
    numbers: int
    messages: int
    late: int
    rates: list[float]
    node_cpu_us: list[float]
    bridge_cpu_us: list[float]
    busy: float
    others: float

    @property
    def a_second(self) -> float:
        """Of the median round."""
        return statistics.median(self.rates)

    @property
    def a_core_second(self) -> float:
        """Commands for a second of both processes' CPU: what a core carries that nothing else
        uses."""
        return 1e6 / statistics.median(
            map(sum, zip(self.node_cpu_us, self.bridge_cpu_us, strict=True))
        )

    @property
    def core_was_shared(self) -> bool:
        """Whether something else has used much of the core."""
        return self.others > OTHERS_MAXIMUM


@dataclass(slots=True, kw_only=True)
class SmsReport:
    """Everything of one run.

    Attributes:
        sync_us: how long the disk took to make 4 KiB durable.
    """

    machine: Machine
    quick: bool
    sync_us: float = 0.0
    commands: list[Commands] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class SmsSizes:
    """How much of everything.

    Attributes:
        messages: of a round.
        warm_up: messages before it.
    """

    connections: tuple[int, ...] = (1, 32)
    numbers: int = 200
    messages: int = 4_000
    warm_up: int = 400
    rounds: int = 5


FULL = SmsSizes()
QUICK = SmsSizes(connections=(32,), messages=1_600, rounds=1)


def new_report(*, quick: bool) -> SmsReport:
    """An empty report of this machine."""
    return SmsReport(machine=this_machine([MONTANA]), quick=quick)


def measure_sms(report: SmsReport, sizes: SmsSizes, say: Say) -> None:
    """Measure all of it into `report`.

    Raises:
        MontanaError: something can't be measured, an answer is wrong, or an account; says why.
    """
    with bench_folder() as folder:
        report.sync_us = sync_us(folder)
    for connections in sizes.connections:
        report.commands.append(_measure(connections, sizes, say))


def _measure(connections: int, sizes: SmsSizes, say: Say) -> Commands:
    found: list[Carried] = []
    with running_sms(connections=connections, numbers=sizes.numbers) as senders:
        senders.send(sizes.warm_up)
        for _ in range(sizes.rounds):
            found.append(senders.send(sizes.messages))
            one = found[-1]
            say(
                f"{'SMS':11} {connections} connections: {_rate(one):7,.0f}/s, CPU of each: node "
                f"{_each_us(one.node_cpu_ns, one):,.0f} us, bridge "
                f"{_each_us(one.bridge_cpu_ns, one):,.0f} us, {_busy(one):.0%} of a core"
            )
    return Commands(
        connections=connections,
        numbers=sizes.numbers,
        messages=sizes.messages,
        late=sum(one.late for one in found),
        rates=[_rate(one) for one in found],
        node_cpu_us=[_each_us(one.node_cpu_ns, one) for one in found],
        bridge_cpu_us=[_each_us(one.bridge_cpu_ns, one) for one in found],
        busy=statistics.median(map(_busy, found)),
        others=max(one.others for one in found),
    )


def _rate(one: Carried) -> float:
    return (one.messages - one.late) / one.elapsed_ns * NS_PER_S


def _each_us(cpu_ns: int, one: Carried) -> float:
    return cpu_ns / one.messages / 1000


def _busy(one: Carried) -> float:
    return (one.node_cpu_ns + one.bridge_cpu_ns) / one.elapsed_ns


def from_json(document: dict[str, Any]) -> SmsReport:
    """A report from its plain values."""
    return msgspec.convert(document, SmsReport)
