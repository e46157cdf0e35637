"""One measurement of the ledger, in a process of its own: `bench.ledger` starts it, and is told
the result as a line of JSON."""

from __future__ import annotations

import gc
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import trio

from bench.ledger import (
    Hour,
    HourSample,
    MeterMemory,
    OpenLoop,
    Singles,
    Start,
    Ticks,
    Transfers,
)
from bench.ledger_load import (
    LINE,
    PRICE,
    Batch,
    Load,
    Say,
    credit_all,
    do_all,
    open_accounts,
    open_sessions,
    sync_us,
)
from bench.postgres import POSTGRESQL, Postgres, Way, running_postgres
from bench.process import SERVER_CORE, use_core
from bench.servers import MONTANA
from billing.accounts import FIRST_USER_ACCOUNT
from billing.book import Book
from billing.charging import Charging, Verdicts
from billing.ledger import HISTORY_LINES, ISSUE, NODE, LmdbLedger, open_ledger
from billing.meter import Meter
from billing.money import J
from billing.transfers import Transfer, new_id
from core.clock import Clock, SystemClock, VirtualClock
from core.units import KIB, NS_PER_MS, NS_PER_S

FUNDS = 1_000_000 * J.unit
"""What each account has at first: more than any measurement takes."""
SPENDING_ACCOUNTS = 10_000
BYTES_A_SECOND = 12_500
"""What a session relays: the bytes of a call of voice."""
_PROGRESS_S = 10.0


def memory_bytes() -> int:
    """This process's own resident memory. The pages of the ledger's file that it has looked at are
    resident too, but they are the kernel's cache, which takes them back when it needs the room."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * KIB
    raise AssertionError("smaps_rollup has a line Anonymous")


def ledger_folder(folder: Path) -> Path:
    """Where the ledger is."""
    return folder / "ledger"


@dataclass
class Metered:
    """Sessions that all relay without a pause, and the counters that say so."""

    ledger: LmdbLedger
    charging: Charging
    sessions: int
    seconds: int = 0

    def __post_init__(self) -> None:
        self.slots = np.arange(self.sessions, dtype=np.uint32)
        self.active = np.zeros(self.sessions, np.uint64)
        self.relayed = np.zeros(self.sessions, np.uint64)

    async def tick(self) -> Verdicts:
        """Another second of all."""
        return await self.charging.tick(self.slots, self.active, self.relayed, {})

    def relay(self) -> None:
        """Let a second pass."""
        self.seconds += 1
        self.active += 1
        self.relayed += BYTES_A_SECOND

    def check(self) -> None:
        """Every second was charged once, and has arrived."""
        assert_charged(self.ledger, self.sessions, self.seconds)


def assert_charged(ledger: LmdbLedger, sessions: int, seconds: int) -> None:
    """Each of the first users' accounts has paid for so many seconds, to the node."""
    posted = ledger.book.columns["posted"][:, J.number]
    payers = posted[FIRST_USER_ACCOUNT : FIRST_USER_ACCOUNT + sessions]
    assert len(payers) == sessions
    assert (payers == FUNDS - seconds * PRICE).all()
    assert posted[NODE] == sessions * seconds * PRICE
    assert posted.sum() == 0


async def metered(
    ledger: LmdbLedger, clock: Clock, sessions: int, say: Say
) -> tuple[Metered, float]:
    """Accounts with money and a session each; and the resident bytes a session."""
    say(f"{sessions:,} accounts and sessions are set up")
    await open_accounts(ledger, sessions)
    await credit_all(ledger, clock, sessions, FUNDS)
    charging = Charging(ledger)
    gc.collect()
    before = memory_bytes()
    await open_sessions(ledger, charging, sessions)
    gc.collect()
    session_bytes = (memory_bytes() - before) / sessions
    return Metered(ledger, charging, sessions), session_bytes


def measure_ticks(folder: Path, sessions: int, ticks: int) -> Ticks:
    """See `Ticks`. The ledger stays open: whoever reads the result kills this process."""
    use_core(SERVER_CORE)
    clock = SystemClock()

    async def run(ledger: LmdbLedger) -> Ticks:
        all_of_them, session_bytes = await metered(ledger, clock, sessions, _say)
        disk_us = sync_us(folder)
        took_ms: list[float] = []
        renewing_ms, renewed = 0.0, 0
        file_bytes = ledger.store.file_bytes
        for _ in range(ticks):
            all_of_them.relay()
            started_ns = time.perf_counter_ns()
            verdicts = await all_of_them.tick()
            took_ms.append((time.perf_counter_ns() - started_ns) / NS_PER_MS)
            count = len(verdicts.granted[0])
            if count and took_ms[-1] > renewing_ms:
                renewing_ms, renewed = took_ms[-1], count
            assert not len(verdicts.stopped)
        all_of_them.check()
        return Ticks(
            sessions=sessions,
            sync_us=disk_us,
            ticks=ticks,
            median_ms=statistics.median(took_ms),
            worst_ms=max(took_ms),
            renewing_ms=renewing_ms,
            renewed=renewed,
            session_bytes=session_bytes,
            memory_bytes=memory_bytes(),
            tick_file_bytes=(ledger.store.file_bytes - file_bytes) / ticks,
        )

    return trio.run(run, open_ledger(ledger_folder(folder), clock))


def measure_start(folder: Path, sessions: int) -> Start:
    """See `Start`."""
    use_core(SERVER_CORE)
    disk_us = sync_us(folder)
    started_ns = time.perf_counter_ns()
    with open_ledger(ledger_folder(folder), SystemClock()) as ledger:
        opened_ns = time.perf_counter_ns()
        closed = trio.run(Charging(ledger).recover)
        ended_ns = time.perf_counter_ns()
        assert closed == sessions
        assert not ledger.book.columns["held"].any()
        seconds = int(ledger.book.columns["posted"][NODE, J.number]) // PRICE // sessions
        assert_charged(ledger, sessions, seconds)
    return Start(
        sessions=sessions,
        sync_us=disk_us,
        open_s=(opened_ns - started_ns) / NS_PER_S,
        recover_s=(ended_ns - opened_ns) / NS_PER_S,
    )


def measure_meter(sessions: int) -> MeterMemory:
    """See `MeterMemory`."""
    book = Book()
    for _ in range(FIRST_USER_ACCOUNT + sessions):
        book.open()
    book.columns["posted"][:, J.number] = FUNDS
    gc.collect()
    before = memory_bytes()
    meter = Meter(book, sessions)
    for account in range(FIRST_USER_ACCOUNT, FIRST_USER_ACCOUNT + sessions):
        assert meter.open(account, NODE, LINE.price_second, LINE.price_megabyte, 1) >= 0
    slots = np.arange(sessions, dtype=np.uint32)
    counters = np.ones(sessions, np.uint64)
    meter.tick(slots, counters, counters, 2)
    del slots, counters
    gc.collect()
    grown = memory_bytes() - before
    assert meter.live == sessions
    return MeterMemory(sessions=sessions, session_bytes=grown / sessions)


# ---------------------------------------------------------------- transfers


def measure_transfers(
    folder: Path,
    earlier: int,
    accounts: int,
    batch: int,
    batches: int,
    rounds: int,
    beside: bool,
) -> list[Transfers]:
    """See `Transfers`: both systems in turn, with the same transfers; in the end both have to
    have the same balances and histories."""
    use_core(SERVER_CORE)
    clock, load = SystemClock(), Load(accounts)
    with ExitStack() as stack:
        ledger = stack.enter_context(open_ledger(ledger_folder(folder), clock))

        async def run() -> list[Transfers]:
            await open_accounts(ledger, accounts)
            await credit_all(ledger, clock, accounts, FUNDS)
            await _fill(ledger, load, earlier)
            disk_us = sync_us(folder)
            rival: Postgres | None = None
            if beside:
                rival = stack.enter_context(running_postgres(folder))
                posted = ledger.book.columns["posted"][FIRST_USER_ACCOUNT:, J.number]
                rival.fill(load, earlier, posted, _say)
            parts = _parts(load, earlier, batch, batches)
            tried: dict[Way, float] = {}
            if rival is not None:
                for way in Way:
                    part = next(parts)
                    tried[way] = _theirs(rival, way, part)
                    await _ours(ledger, part)
                    _say(f"postgresql, {way}: {tried[way]:,.0f}/s")
            ours: list[float] = []
            theirs: list[float] = []
            best = max(tried, key=lambda way: tried[way], default=None)
            for index in range(rounds):
                part = next(parts)
                ours.append(await _ours(ledger, part))
                _say(f"round {index + 1}: montana {ours[-1]:,.0f}/s")
                if rival is not None and best is not None:
                    theirs.append(_theirs(rival, best, part))
                    _say(f"round {index + 1}: postgresql {theirs[-1]:,.0f}/s")
            found = [
                Transfers(
                    system=MONTANA,
                    way="one call of the ledger a batch",
                    earlier=earlier,
                    batch=batch,
                    accounts=accounts,
                    sync_us=disk_us,
                    rates=ours,
                    tried={},
                )
            ]
            if rival is not None and best is not None:
                await _check_same(ledger, rival, accounts)
                found.append(
                    Transfers(
                        system=POSTGRESQL,
                        way=best,
                        earlier=earlier,
                        batch=batch,
                        accounts=accounts,
                        sync_us=disk_us,
                        rates=theirs,
                        tried={str(way): rate for way, rate in tried.items()},
                    )
                )
            return found

        return trio.run(run)


async def _fill(ledger: LmdbLedger, load: Load, earlier: int) -> None:
    done, told_s = 0, time.monotonic()
    for part in load.earlier(earlier):
        await do_all(ledger, part.transfers())
        done += len(part)
        if time.monotonic() - told_s > _PROGRESS_S:
            told_s = time.monotonic()
            _say(f"montana: {done:,} of {earlier:,} earlier ids")


def _parts(load: Load, first: int, batch: int, batches: int) -> Iterator[list[Batch]]:
    """The batches of each round."""
    while True:
        last = first + batch * batches
        yield list(load.batches(first, last, batch))
        first = last


async def _ours(ledger: LmdbLedger, part: list[Batch]) -> float:
    """Transfers a second."""
    asked = [batch.transfers() for batch in part]
    started_ns = time.perf_counter_ns()
    for transfers in asked:
        await do_all(ledger, transfers)
    return sum(map(len, part)) / (time.perf_counter_ns() - started_ns) * NS_PER_S


def _theirs(rival: Postgres, way: Way, part: list[Batch]) -> float:
    """Transfers a second."""
    asked = [rival.encode(way, batch) for batch in part]
    started_ns = time.perf_counter_ns()
    for encoded in asked:
        rival.transfer(way, encoded)
    return sum(map(len, part)) / (time.perf_counter_ns() - started_ns) * NS_PER_S


async def _check_same(ledger: LmdbLedger, rival: Postgres, accounts: int) -> None:
    """Both have done the same."""
    posted = ledger.book.columns["posted"][FIRST_USER_ACCOUNT:, J.number]
    assert len(posted) == accounts
    assert rival.balances() == dict(enumerate(posted.tolist(), FIRST_USER_ACCOUNT))
    for account in (FIRST_USER_ACCOUNT, FIRST_USER_ACCOUNT + accounts - 1):
        lines = await ledger.history(account, limit=HISTORY_LINES)
        ids = {line.transfer.id for line in lines if line.transfer is not None}
        known = rival.history(account)
        if len(lines) < HISTORY_LINES:
            # But for the credit it began with.
            assert len(ids - known) == 1
            assert known < ids
        else:
            assert ids <= known


# ---------------------------------------------------------------- single transfers


def measure_singles(folder: Path, tasks: int, seconds: float) -> Singles:
    """See `Singles`."""
    clock = SystemClock()
    done = 0

    async def run(ledger: LmdbLedger) -> float:
        await open_accounts(ledger, SPENDING_ACCOUNTS)
        await credit_all(ledger, clock, SPENDING_ACCOUNTS, FUNDS)
        started_ns = time.perf_counter_ns()
        until_ns = started_ns + int(seconds * NS_PER_S)

        async def spend(number: int) -> None:
            nonlocal done
            while time.perf_counter_ns() < until_ns:
                await do_all(ledger, [_single(clock, number)])
                number += 1
                done += 1

        async with trio.open_nursery() as nursery:
            for number in range(tasks):
                nursery.start_soon(spend, number * 7)
        return (time.perf_counter_ns() - started_ns) / NS_PER_S

    with open_ledger(ledger_folder(folder), clock) as ledger:
        elapsed_s = trio.run(run, ledger)
        _check_singles(ledger, done)
    disk_us = sync_us(folder)
    return Singles(tasks=tasks, done=done, sync_us=disk_us, a_second=done / elapsed_s)


def _single(clock: Clock, number: int) -> Transfer:
    """One micro-J from one user to another."""
    debit = number % SPENDING_ACCOUNTS
    credit = (debit + 1 + number // SPENDING_ACCOUNTS % 1000) % SPENDING_ACCOUNTS
    return Transfer(new_id(clock), debit + FIRST_USER_ACCOUNT, credit + FIRST_USER_ACCOUNT, 1)


def _check_singles(ledger: LmdbLedger, done: int) -> None:
    """As many as were answered stand in the ledger."""
    with ledger.store.read() as tables:
        assert tables.count("transfer_ids") == done + SPENDING_ACCOUNTS
    posted = ledger.book.columns["posted"][:, J.number]
    assert posted.sum() == 0
    assert posted[FIRST_USER_ACCOUNT:].sum() == SPENDING_ACCOUNTS * FUNDS


def measure_open_loop(folder: Path, rate: float, sessions: int, seconds: float) -> OpenLoop:
    """See `OpenLoop`."""
    clock = SystemClock()
    latencies_ns: list[int] = []
    tick_ms: list[float] = []

    async def run(ledger: LmdbLedger) -> None:
        users = max(sessions, SPENDING_ACCOUNTS)
        all_of_them, _ = await metered(ledger, clock, sessions, _say)
        await open_accounts(ledger, users - sessions)
        if users > sessions:
            await _credit_rest(ledger, clock, sessions, users)
        finished = trio.Event()
        started_ns = time.perf_counter_ns()
        total = int(rate * seconds)

        async def one(number: int, due_ns: int) -> None:
            await do_all(ledger, [_single(clock, number)])
            latencies_ns.append(time.perf_counter_ns() - due_ns)

        async def ticking() -> None:
            while not finished.is_set():
                all_of_them.relay()
                began_ns = time.perf_counter_ns()
                await all_of_them.tick()
                tick_ms.append((time.perf_counter_ns() - began_ns) / NS_PER_MS)
                wait_ns = started_ns + all_of_them.seconds * NS_PER_S - time.perf_counter_ns()
                with trio.move_on_after(max(0, wait_ns) / NS_PER_S):
                    await finished.wait()

        async with trio.open_nursery() as around:
            around.start_soon(ticking)
            async with trio.open_nursery() as nursery:
                number = 0
                while number < total:
                    passed_ns = time.perf_counter_ns() - started_ns
                    due = min(total, int(passed_ns * rate / NS_PER_S) + 1)
                    for next_number in range(number, due):
                        due_ns = started_ns + int(next_number * NS_PER_S / rate)
                        nursery.start_soon(one, next_number, due_ns)
                    number = due
                    await trio.sleep(0.001)
            # A tick that has begun is charged.
            finished.set()

    with open_ledger(ledger_folder(folder), clock) as ledger:
        trio.run(run, ledger)
        posted = ledger.book.columns["posted"][:, J.number]
        assert posted.sum() == 0
        assert posted[NODE] == sessions * len(tick_ms) * PRICE
        assert len(tick_ms) >= max(1, seconds - 1)
    disk_us = sync_us(folder)
    assert len(latencies_ns) == int(rate * seconds)
    p50, p99, p999 = np.percentile(np.array(latencies_ns) / NS_PER_MS, (50, 99, 99.9)).tolist()
    return OpenLoop(
        rate=rate,
        sessions=sessions,
        done=len(latencies_ns),
        sync_us=disk_us,
        p50_ms=p50,
        p99_ms=p99,
        p999_ms=p999,
        worst_ms=max(latencies_ns) / NS_PER_MS,
        ticks=len(tick_ms),
        tick_ms=statistics.median(tick_ms),
    )


async def _credit_rest(ledger: LmdbLedger, clock: Clock, first: int, users: int) -> None:
    """Give those that have no session something too."""
    for number in range(first, users, 1000):
        numbers = range(number + FIRST_USER_ACCOUNT, min(number + 1000, users) + FIRST_USER_ACCOUNT)
        await do_all(ledger, [Transfer(new_id(clock), ISSUE, one, FUNDS) for one in numbers])


# ---------------------------------------------------------------- an hour


def measure_hour(folder: Path, sessions: int, ticks: int, samples: int) -> Hour:
    """See `Hour`."""
    use_core(SERVER_CORE)
    # A second passes with each tick, whatever it takes.
    clock = VirtualClock()
    taken: list[HourSample] = []

    async def run(ledger: LmdbLedger) -> None:
        all_of_them, _ = await metered(ledger, clock, sessions, _say)
        step = max(1, ticks // samples)
        took_ms: list[float] = []
        for tick in range(1, ticks + 1):
            clock.advance_s(1)
            all_of_them.relay()
            started_ns = time.perf_counter_ns()
            await all_of_them.tick()
            took_ms.append((time.perf_counter_ns() - started_ns) / NS_PER_MS)
            if tick % step == 0:
                taken.append(
                    HourSample(
                        ticks=tick,
                        tick_ms=statistics.median(took_ms),
                        memory_bytes=memory_bytes(),
                        file_bytes=ledger.store.file_bytes,
                    )
                )
                took_ms.clear()
        all_of_them.check()

    with open_ledger(ledger_folder(folder), clock) as ledger:
        trio.run(run, ledger)
    return Hour(sessions=sessions, sync_us=sync_us(folder), samples=taken)


_MEASUREMENTS: dict[str, Callable[..., Any]] = {
    "ticks": measure_ticks,
    "start": measure_start,
    "meter": measure_meter,
    "transfers": measure_transfers,
    "singles": measure_singles,
    "open_loop": measure_open_loop,
    "hour": measure_hour,
}


def _say(line: str) -> None:
    print(f"            {line}", file=sys.stderr, flush=True)


def _tell(result: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Measure what the command line names."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    if "folder" in arguments:
        arguments["folder"] = Path(arguments["folder"])
    # Whoever has started this may keep itself to one core.
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    _tell(_MEASUREMENTS[name](**arguments))
    while name == "ticks":
        signal.pause()


if __name__ == "__main__":
    main()
