"""The benchmark of the node's socket: what is asked of it, and what came of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, repeat
from typing import Any, Final

import msgspec

from bench.api_load import Asked, asking
from bench.ledger_load import Say, sync_us
from bench.machine import Machine, this_machine
from bench.rounds import Rounds
from bench.servers import MONTANA, bench_folder
from bench.signaling_servers import running_signaling
from core.api.bridge_messages import DoneReply, PingRequest, UserTransferRequest, effect_id
from core.api.messages import ReplyBody, RequestBody, TransferReply
from core.units import NS_PER_S

CLIENTS: Final = 8
PING: Final = "ping"
SEND: Final = "SEND"
AMOUNT: Final = "0.01"
OTHERS_MAXIMUM: Final = 0.1
"""What the kernel does for a disk is counted for others, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests(Rounds):
    """Requests of one kind, as many as the node's core carries, over connections of one process on
    another core.

    Attributes:
        window: requests of each connection that are under way.
        sync_us: how long the disk took to make 4 KiB durable; None where it has no part in it.
        others: the largest share of a round in which that core worked for others.
    """

    kind: str
    window: int
    connections: int
    sync_us: float | None
    others: float

    @property
    def core_was_shared(self) -> bool:
        """Whether something else has used much of the node's core."""
        return self.others > OTHERS_MAXIMUM


@dataclass(slots=True, kw_only=True)
class ApiReport:
    """Everything of one run."""

    machine: Machine
    quick: bool
    requests: list[Requests] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSizes:
    """How much of everything."""

    windows: tuple[int, ...] = (1, 16)
    send_windows: tuple[int, ...] = (1, 32)
    rounds: int = 5
    seconds: float = 4.0


FULL = ApiSizes()
QUICK = ApiSizes(rounds=1, seconds=1.0)


def new_report(*, quick: bool) -> ApiReport:
    """An empty report of this machine."""
    return ApiReport(machine=this_machine([MONTANA]), quick=quick)


def measure_api(report: ApiReport, sizes: ApiSizes, say: Say) -> None:
    """Measure all of it into `report`.

    Raises:
        MontanaError: something can't be measured; says why.
    """
    with bench_folder() as folder:
        disk_us = sync_us(folder)
    for window in sizes.windows:
        report.requests.append(_measure(PING, window, None, sizes, say))
    for window in sizes.send_windows:
        report.requests.append(_measure(SEND, window, disk_us, sizes, say))


def _measure(kind: str, window: int, disk_us: float | None, sizes: ApiSizes, say: Say) -> Requests:
    bodies: Callable[[int], Iterator[RequestBody]] = _pings if kind == PING else _sends
    reply: type[ReplyBody] = DoneReply if kind == PING else TransferReply
    found: list[Asked] = []
    for _ in range(sizes.rounds):
        with (
            running_signaling(
                MONTANA, [*map(_payer, range(CLIENTS)), *map(_payee, range(CLIENTS))]
            ) as server,
            asking(
                server.socket,
                server.pid,
                clients=CLIENTS,
                window=window,
                bodies=bodies,
                reply=reply,
            ) as askers,
        ):
            found.append(askers.measure(sizes.seconds))
        one = found[-1]
        say(
            f"{kind:11} {CLIENTS} clients, {window} under way: {_rate(one):9,.0f}/s, "
            f"{_cpu_us(one):5.1f} us of CPU each, {one.busy:.0%} of a core"
        )
    return Requests(
        kind=kind,
        window=window,
        connections=CLIENTS,
        sync_us=disk_us,
        rates=[_rate(one) for one in found],
        cpu_us=[_cpu_us(one) for one in found],
        busy=statistics.median(one.busy for one in found),
        others=max(one.others for one in found),
    )


def _pings(_number: int) -> Iterator[RequestBody]:
    return repeat(PingRequest())


def _sends(number: int) -> Iterator[RequestBody]:
    for turn in count():
        identity = effect_id("bench", str(number), str(turn))
        yield UserTransferRequest(_payer(number), _payee(number), AMOUNT, id=identity)


def _payer(number: int) -> str:
    return f"tg:{1_000 + number}"


def _payee(number: int) -> str:
    return f"tg:{2_000 + number}"


def _rate(asked: Asked) -> float:
    return asked.replies / asked.elapsed_ns * NS_PER_S


def _cpu_us(asked: Asked) -> float:
    return asked.cpu_ns / max(1, asked.replies) / 1000


def from_json(document: dict[str, Any]) -> ApiReport:
    """A report from its plain values."""
    return msgspec.convert(document, ApiReport)
