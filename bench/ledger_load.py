"""What a ledger is filled with and asked for: accounts, transfers, sessions, the same each time."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import trio
from numpy.typing import NDArray

from billing import journal
from billing.accounts import FIRST_USER_ACCOUNT, AccountInfo
from billing.charging import Charging
from billing.journal import AccountsEntry
from billing.ledger import BATCH_TRANSFERS, ISSUE, NODE, LmdbLedger
from billing.money import J
from billing.tables import store_accounts
from billing.tariff import Line
from billing.transfers import Result, Transfer, new_id
from core.clock import Clock
from core.tables import Writing
from core.units import NS_PER_US

SYNC_BYTES = 4096
SYNCS = 200
_ENTRY_ACCOUNTS = 10_000
_OPENING_TASKS = 256
_OPENED_A_TICK = 50_000
_FIRST_MS = 1_700_000_000_000
_IDS_A_MS = 100
AMOUNT_MAXIMUM = 1000
"""Micro-J of a transfer."""
PRICE = J.unit
LINE = Line("turn", PRICE, 0, NODE)
"""What the sessions pay: 1 J a second, to the node."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Batch:
    """Transfers as columns: ids of 16 bytes, account numbers, micro-J."""

    ids: NDArray[np.void]
    debits: NDArray[np.int64]
    credits: NDArray[np.int64]
    amounts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def transfers(self) -> list[Transfer]:
        """As the ledger is asked for them."""
        raw = self.ids.tobytes()
        return [
            Transfer(raw[16 * index : 16 * index + 16], debit, credit, amount)
            for index, (debit, credit, amount) in enumerate(
                zip(self.debits.tolist(), self.credits.tolist(), self.amounts.tolist(), strict=True)
            )
        ]

    def sums(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Each account that it moves, and by how much altogether."""
        accounts, places = np.unique(
            np.concatenate([self.debits, self.credits]), return_inverse=True
        )
        moved = np.zeros(len(accounts), np.int64)
        np.add.at(moved, places, np.concatenate([-self.amounts, self.amounts]))
        return accounts, moved


@dataclass(frozen=True, slots=True)
class Load:
    """Transfers between so many accounts, each with an id of its own that begins with the time:
    number n is the same whenever it is asked for in batches of the same size."""

    accounts: int

    def batch(self, first: int, count: int) -> Batch:
        """Transfers `first` to `first + count - 1`."""
        random = np.random.default_rng((self.accounts, first))
        made_ms = _FIRST_MS + np.arange(first, first + count) // _IDS_A_MS
        ids = np.empty((count, 16), np.uint8)
        ids[:, :6] = made_ms.astype(">u8").view(np.uint8).reshape(count, 8)[:, 2:]
        ids[:, 6:] = random.integers(0, 256, (count, 10), np.uint8)
        debits = random.integers(0, self.accounts, count)
        credits = (debits + random.integers(1, self.accounts, count)) % self.accounts
        return Batch(
            ids.reshape(-1).view("V16"),
            debits + FIRST_USER_ACCOUNT,
            credits + FIRST_USER_ACCOUNT,
            random.integers(1, AMOUNT_MAXIMUM + 1, count),
        )

    def batches(self, first: int, last: int, size: int) -> Iterator[Batch]:
        """Transfers `first` to `last - 1`."""
        for start in range(first, last, size):
            yield self.batch(start, min(size, last - start))

    def earlier(self, count: int) -> Iterator[Batch]:
        """The first so many, in batches as large as the ledger takes them."""
        return self.batches(0, count, BATCH_TRANSFERS)

    @staticmethod
    def first_id(index: int) -> bytes:
        """Not above any id from transfer `index` on."""
        return int(_FIRST_MS + index // _IDS_A_MS).to_bytes(6, "big") + bytes(10)


def sync_us(folder: Path) -> float:
    """How long the disk takes to make 4 KiB durable: the median of some writes in place, each
    with its fdatasync, in this folder; microseconds."""
    path = folder / "sync"
    taken_ns = []
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(fd, bytes(SYNC_BYTES * SYNCS), 0)
        os.fsync(fd)
        for index in range(SYNCS):
            started_ns = time.perf_counter_ns()
            os.pwrite(fd, b"\1" * SYNC_BYTES, index * SYNC_BYTES)
            os.fdatasync(fd)
            taken_ns.append(time.perf_counter_ns() - started_ns)
    finally:
        os.close(fd)
        path.unlink()
    return statistics.median(taken_ns) / NS_PER_US


async def open_accounts(ledger: LmdbLedger, count: int) -> None:
    """So many accounts without addresses, many in an entry of the log."""
    for start in range(0, count, _ENTRY_ACCOUNTS):
        part = min(_ENTRY_ACCOUNTS, count - start)

        def write(writing: Writing, part: int = part) -> None:
            ledger.begin(writing)
            now_ns = ledger.clock.now_ns()
            infos = tuple(
                AccountInfo(number=ledger.book.open(), addresses=(), opened_ns=now_ns)
                for _ in range(part)
            )
            entry = AccountsEntry(accounts=infos, addresses={})
            store_accounts(writing, entry)
            ledger.append(writing, journal.encode_accounts(entry))

        await ledger.store.write(write)


async def credit_all(ledger: LmdbLedger, clock: Clock, count: int, amount: int) -> None:
    """Give each of the first `count` users' accounts `amount` micro-J."""
    for start in range(0, count, BATCH_TRANSFERS):
        first = FIRST_USER_ACCOUNT + start
        numbers = range(first, first + min(BATCH_TRANSFERS, count - start))
        await do_all(ledger, [Transfer(new_id(clock), ISSUE, number, amount) for number in numbers])


async def do_all(ledger: LmdbLedger, transfers: list[Transfer]) -> None:
    """Do transfers, none of which may be refused or have been done before."""
    results = await ledger.transfer(transfers)
    assert len(results) == len(transfers)
    assert set(results) <= {Result.DONE}, set(results)


async def open_sessions(ledger: LmdbLedger, charging: Charging, count: int) -> None:
    """One session for each of the first `count` users' accounts, durable."""
    numbers = iter(range(FIRST_USER_ACCOUNT, FIRST_USER_ACCOUNT + count))

    async def open_some(part: Iterator[int]) -> None:
        for number in part:
            opened = await charging.open(f"1700000000:user{number}", LINE, number)
            assert opened is not None

    nothing = np.zeros(0, np.uint64)
    for start in range(0, count, _OPENED_A_TICK):
        part = islice(numbers, min(_OPENED_A_TICK, count - start))
        async with trio.open_nursery() as nursery:
            for _ in range(_OPENING_TASKS):
                nursery.start_soon(open_some, part)
        await charging.tick(nothing.astype(np.uint32), nothing, nothing, {})
    assert ledger.meter.live == count
