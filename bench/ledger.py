"""The ledger's benchmarks: what is measured, each in a process of its own, and what came of it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from bench import postgres
from bench.ledger_load import Say
from bench.machine import Machine, is_in_memory, this_machine
from bench.postgres import POSTGRESQL
from bench.scenario import Load as Traffic
from bench.scenario import Measurement, Mode, traffic
from bench.servers import (
    MONTANA,
    MONTANA_METERED,
    USERS,
    bench_folder,
    charged_s,
    running_in,
)
from core.errors import OperationError

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticks:
    """Ticks of so many sessions over as many accounts, one after another on one core.

    Attributes:
        sync_us: how long the disk takes to make 4 KiB durable.
        ticks: how many.
        median_ms, worst_ms: from the counters to committed verdicts.
        renewing_ms: the slowest of those in which slices were renewed, 0 where there was none.
        renewed: slices that were renewed in it.
        session_bytes: memory a session, with all that is kept of it.
        memory_bytes: of the whole process, after the ticks.
        tick_file_bytes: by which the ledger's file has grown a tick.
    """

    sessions: int
    sync_us: float
    ticks: int
    median_ms: float
    worst_ms: float
    renewing_ms: float
    renewed: int
    session_bytes: float
    memory_bytes: int
    tick_file_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A start after kill -9 between two ticks.

    Attributes:
        open_s: to open the ledger: checkpoint and replay.
        recover_s: to close the sessions that were left.
    """

    sessions: int
    sync_us: float
    open_s: float
    recover_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfers:
    """Transfers in batches over earlier ids, server and client on one core.

    Attributes:
        system: montana or postgresql.
        way: how; the fastest of those that were tried.
        earlier: ids that were there before.
        rates: transfers a second, of each round.
        tried: way -> transfers a second of a short trial.
    """

    system: str
    way: str
    earlier: int
    batch: int
    accounts: int
    sync_us: float
    rates: list[float]
    tried: dict[str, float]

    @property
    def a_second(self) -> float:
        """Of the median round."""
        return statistics.median(self.rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Singles:
    """Single transfers, each task asking for the next when it has its answer."""

    tasks: int
    done: int
    sync_us: float
    a_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoop:
    """Single transfers at a steady rate while sessions tick once a second.

    Attributes:
        p50_ms, ...: from the time at which a transfer was due.
        ticks, tick_ms: how many ticks, and their median.
    """

    rate: float
    sessions: int
    done: int
    sync_us: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    worst_ms: float
    ticks: int
    tick_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterMemory:
    """Resident memory a session in the meter's columns."""

    sessions: int
    session_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HourSample:
    """How things stand after so many ticks.

    Attributes:
        tick_ms: median of the ticks since the last sample.
    """

    ticks: int
    tick_ms: float
    memory_bytes: int
    file_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """An hour of ticks, run back to back."""

    sessions: int
    sync_us: float
    samples: list[HourSample]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteringCost:
    """The relay's CPU a packet with metering off and on, of rounds in turn.

    Attributes:
        sessions: how many relayed, each of a user of its own.
        off_ns, on_ns: of each round.
        charged_s: seconds that all sessions together were charged for, of each round with it on.
        disturbed: whether the relay had to share its core in any of them.
    """

    sessions: int
    off_ns: list[float]
    on_ns: list[float]
    charged_s: list[int]
    disturbed: bool


@dataclass(slots=True, kw_only=True)
class LedgerReport:
    """Everything of one run."""

    machine: Machine
    quick: bool
    ticks: list[Ticks] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    transfers: list[Transfers] = field(default_factory=list)
    singles: Singles | None = None
    open_loop: OpenLoop | None = None
    meter: MeterMemory | None = None
    hour: Hour | None = None
    metering: MeteringCost | None = None

    def transfers_of(self, system: str) -> Transfers | None:
        """What a system has done."""
        return next((one for one in self.transfers if one.system == system), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything."""

    sessions: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    ticks: int = 30
    earlier: int = 10_000_000
    accounts: int = 100_000
    batch: int = 1_000
    batches: int = 100
    rounds: int = 7
    tasks: int = 1_000
    single_s: float = 10.0
    loop_rate: float = 10_000.0
    loop_sessions: int = 100_000
    loop_s: float = 30.0
    meter_sessions: int = 1_000_000
    hour_sessions: int = 10_000
    hour_ticks: int = 3_600
    hour_samples: int = 60
    relay_rounds: int = 9
    relay_rate: float = 80_000.0
    relay_s: float = 3.0


FULL = Sizes()
QUICK = Sizes(
    sessions=(1_000, 10_000),
    earlier=100_000,
    accounts=10_000,
    batches=20,
    rounds=3,
    single_s=1.0,
    loop_sessions=10_000,
    loop_s=3.0,
    meter_sessions=100_000,
    hour_sessions=1_000,
    hour_ticks=600,
    hour_samples=20,
    relay_rounds=3,
    relay_s=0.5,
)


def new_report(*, quick: bool, say: Say) -> LedgerReport:
    """An empty report of this machine, which names PostgreSQL's version where it is there."""
    machine = this_machine([MONTANA])
    if postgres.is_installed():
        versions = {**machine.versions, POSTGRESQL: postgres.version()}
        machine = replace(machine, versions=versions)
    else:
        say("PostgreSQL is missing, so the ledger is measured alone; sudo apt install postgresql")
    return LedgerReport(machine=machine, quick=quick)


def measure_ledger(report: LedgerReport, sizes: Sizes, say: Say) -> None:
    """Measure all of it into `report`; without PostgreSQL, ours alone.

    Raises:
        OperationError: something can't be measured; says why.
    """
    report.meter = _measure(MeterMemory, "meter", sessions=sizes.meter_sessions)
    say(f"meter       {report.meter.session_bytes:,.0f} bytes a session")
    for sessions in sizes.sessions:
        is_last = sessions == sizes.sessions[-1]
        with bench_folder() as folder:
            ticks = _ticks(folder, sessions, sizes.ticks)
            report.ticks.append(ticks)
            say(
                f"ticks       {sessions:9,} sessions: median {ticks.median_ms:8.2f} ms, worst "
                f"{ticks.worst_ms:8.2f} ms, {ticks.session_bytes:,.0f} bytes a session"
            )
            if is_last:
                start = _measure(Start, "start", folder=str(folder), sessions=sessions)
                report.starts.append(start)
                say(
                    f"start       {sessions:9,} sessions after kill -9: opened in "
                    f"{start.open_s:.2f} s, closed in {start.recover_s:.2f} s"
                )
    with bench_folder() as folder:
        report.transfers = _measure(
            list[Transfers],
            "transfers",
            folder=str(folder),
            earlier=sizes.earlier,
            accounts=sizes.accounts,
            batch=sizes.batch,
            batches=sizes.batches,
            rounds=sizes.rounds,
            beside=POSTGRESQL in report.machine.versions,
        )
    for one in report.transfers:
        say(f"transfers   {one.system:10} {one.a_second:9,.0f}/s in batches, {one.way}")
    with bench_folder() as folder:
        report.singles = _measure(
            Singles, "singles", folder=str(folder), tasks=sizes.tasks, seconds=sizes.single_s
        )
    say(f"singles     {sizes.tasks:,} tasks: {report.singles.a_second:9,.0f}/s")
    with bench_folder() as folder:
        report.open_loop = loop = _measure(
            OpenLoop,
            "open_loop",
            folder=str(folder),
            rate=sizes.loop_rate,
            sessions=sizes.loop_sessions,
            seconds=sizes.loop_s,
        )
    say(
        f"open loop   {loop.rate:,.0f}/s with {loop.sessions:,} sessions: p50 {loop.p50_ms:.2f}, "
        f"p99 {loop.p99_ms:.2f}, p99.9 {loop.p999_ms:.2f} ms; {loop.ticks} ticks of "
        f"{loop.tick_ms:.2f} ms"
    )
    with bench_folder() as folder:
        report.hour = _measure(
            Hour,
            "hour",
            folder=str(folder),
            sessions=sizes.hour_sessions,
            ticks=sizes.hour_ticks,
            samples=sizes.hour_samples,
        )
    last = report.hour.samples[-1]
    say(
        f"hour        {last.ticks:,} ticks of {sizes.hour_sessions:,} sessions: last ticks "
        f"{last.tick_ms:.2f} ms, {last.memory_bytes / 2**20:,.0f} MiB of memory, "
        f"{last.file_bytes / 2**20:,.0f} MiB on disk"
    )
    report.metering = _metering(sizes, say)


def _metering(sizes: Sizes, say: Say) -> MeteringCost:
    """A call through the relay, metered and not, in turn; every allocation is another user's."""
    load = Traffic(mode=Mode.CALL, allocations=len(USERS), rate=sizes.relay_rate)
    measured: dict[str, list[Measurement]] = {MONTANA: [], MONTANA_METERED: []}
    charged: list[int] = []
    for _ in range(sizes.relay_rounds):
        for name, found in measured.items():
            with bench_folder() as folder:
                with (
                    running_in(folder, name) as server,
                    traffic(server, load.mode, load.allocations, USERS) as opened,
                ):
                    found.append(opened.measure(load, sizes.relay_s))
                say(f"relay       {name:18} {found[-1].cpu_ns:7,.0f} ns a packet")
                if name == MONTANA_METERED:
                    seconds = charged_s(folder)
                    # All have relayed in each of its seconds.
                    assert min(seconds) >= max(1, int(sizes.relay_s)), seconds
                    charged.append(sum(seconds))
    off, on = measured[MONTANA], measured[MONTANA_METERED]
    return MeteringCost(
        sessions=len(USERS),
        off_ns=[one.cpu_ns for one in off],
        on_ns=[one.cpu_ns for one in on],
        charged_s=charged,
        disturbed=any(one.disturbed for one in [*off, *on]),
    )


def check_disk() -> None:
    """See that temporary folders, where the ledgers go, are on a disk.

    Raises:
        OperationError: they are in memory, where a figure of what is durable means nothing.
    """
    folder = Path(tempfile.gettempdir())
    if is_in_memory(folder):
        raise OperationError(
            f"{folder} is in memory, so nothing there is durable; name a folder on a disk, such as "
            "TMPDIR=/var/tmp, before the command"
        )


def _ticks(folder: Path, sessions: int, ticks: int) -> Ticks:
    """Measure ticks, then kill whom they were measured in, between two of them."""
    process = _spawn("ticks", {"folder": str(folder), "sessions": sessions, "ticks": ticks})
    try:
        return _result(process, Ticks)
    finally:
        process.kill()
        process.wait()


def _measure(kind: type[_T], name: str, **arguments: Any) -> _T:
    """Have a process of its own measure something."""
    process = _spawn(name, arguments)
    try:
        result = _result(process, kind)
        process.wait()
        return result
    finally:
        process.kill()
        process.wait()


def _spawn(name: str, arguments: dict[str, Any]) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    if name == "meter":
        # Arrays get memory of their own: what was freed before would be taken again unseen.
        environment["MALLOC_MMAP_THRESHOLD_"] = "16384"
    return subprocess.Popen(
        [sys.executable, "-m", "bench.ledger_child", name, json.dumps(arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
        env=environment,
    )


def _result(process: subprocess.Popen[bytes], kind: type[_T]) -> _T:
    output: IO[bytes] | None = process.stdout
    assert output is not None
    with output:
        line = output.readline()
    if not line:
        raise OperationError("a measurement has failed; what it said stands above")
    return msgspec.json.decode(line, type=kind)


def from_json(document: dict[str, Any]) -> LedgerReport:
    """A report from its plain values."""
    return msgspec.convert(document, LedgerReport)
