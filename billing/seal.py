"""Pruning: ticks that are old leave their hash behind, under a sealed checkpoint.

A million sessions write 16 MB a second. What their ticks have moved is known without them once
balances and the totals of live sessions are sealed at a later place in the log; until then nothing
is pruned. Transfers, accounts and call records stay for ever. The file doesn't shrink; what was in
it is used again.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import msgspec
import numpy as np
import trio
from numpy.typing import NDArray

from billing import journal
from billing.charging import Charging
from billing.journal import (
    LOG,
    SEAL_ACCOUNTS,
    SEAL_SESSIONS,
    TOTAL,
    EntryKind,
    SealEntry,
    SessionInfo,
)
from billing.ledger import REPLAY_FROM, SESSIONS, STATE, LmdbLedger
from billing.records import Progress
from billing.recount import Seal, find_seal
from core.errors import OperationError
from core.store import Tables, Writing

_SEALED = b"sealed"
"""The last whole seal: the entry after which it was so, and those in which its parts are."""
_PRUNED = b"pruned"
"""The entry up to which all is pruned that may be."""


class Pruned(NamedTuple):
    """What pruning has done.

    Attributes:
        entries: how many have left their hash behind.
        freed_bytes: what they had.
        more: there may be more to prune now.
    """

    entries: int
    freed_bytes: int
    more: bool


async def seal(ledger: LmdbLedger, charging: Charging) -> int:
    """Seal balances and sessions as they are now; returns the entry after which they are so.

    Raises:
        OperationError: sessions that a crash has left wait to be closed.
    """

    def copy(writing: Writing) -> list[SealEntry]:
        sessions = charging.durable_sessions()
        if writing.count(SESSIONS) != len(sessions):
            raise OperationError("close the sessions that the last run has left, then prune")
        return _split(
            ledger.head,
            ledger.clock.now_ns(),
            ledger.book.columns["posted"].copy(),
            sessions,
            totals_of(ledger, np.array([info.slot for info in sessions], np.uint32)),
        )

    parts = await ledger.store.write(copy)
    as_of = parts[0].as_of
    numbers: list[int] = []
    for part in parts:
        entry = await trio.to_thread.run_sync(journal.encode_seal, part)

        def write(writing: Writing, entry: bytes = entry) -> int:
            number = ledger.append(writing, entry)
            if len(numbers) == len(parts) - 1:
                store_seal(writing, as_of, [*numbers, number])
            return number

        numbers.append(await ledger.store.write(write))
    return as_of


async def prune(
    ledger: LmdbLedger, charging: Charging, before_ns: int, progress: Progress | None = None
) -> Pruned:
    """Prune all ticks before that time (of the ledger's clock), a few at a time, with a new seal
    where one is needed.

    Args:
        progress: called with entries that were looked at, and of how many.
    """
    entries = freed_bytes = 0
    # In a thread: where nothing is metered, no tick ends the walk before the log does.
    if await trio.to_thread.run_sync(_has_old_ticks_after_seal, ledger, before_ns):
        await seal(ledger, charging)
    more = True
    while more:
        some = await prune_some(ledger, before_ns)
        entries += some.entries
        freed_bytes += some.freed_bytes
        more = some.more
        if progress is not None:
            with ledger.store.read() as tables:
                progress(_number(tables, _PRUNED), ledger.head)
    return Pruned(entries, freed_bytes, False)


async def prune_some(ledger: LmdbLedger, before_ns: int) -> Pruned:
    """Prune a few ticks before that time, as far as the last seal goes; none while somebody walks
    through the log."""
    first, last = _bounds(ledger)

    def look() -> tuple[list[tuple[bytes, bytes]], int, int]:
        """What is to stand where, what that frees, and which entry was the last one."""
        changes: list[tuple[bytes, bytes]] = []
        freed_bytes, looked = 0, first - 1
        for number, entry in journal.read_some(ledger.store, first, last):
            if entry[0] == EntryKind.TICK and journal.tick_time_ns(entry) >= before_ns:
                break
            if entry[0] in (EntryKind.TICK, EntryKind.SEAL):
                changes.append((journal.entry_key(number), journal.prune(entry)))
                freed_bytes += len(entry) - len(changes[-1][1])
            looked = number
        return changes, freed_bytes, looked

    changes, freed_bytes, looked = await trio.to_thread.run_sync(look)
    if looked < first:
        return Pruned(0, 0, False)

    def write(writing: Writing) -> bool:
        if ledger.walkers:
            return False
        for key, value in changes:
            writing.put(LOG, key, value)
        writing.put(STATE, _PRUNED, looked.to_bytes(8, "big"))
        return True

    if not await ledger.store.write(write):
        return Pruned(0, 0, False)
    return Pruned(len(changes), freed_bytes, looked < last)


def stored_seal(tables: Tables) -> Seal | None:
    """The last whole sealed checkpoint, as far as it can be read."""
    value = tables.get(STATE, _SEALED)
    if value is None:
        return None
    parts = []
    for start in range(8, len(value), 8):
        entry = tables.get(LOG, value[start : start + 8])
        with contextlib.suppress(msgspec.MsgspecError, ValueError):
            if entry and entry[0] == EntryKind.SEAL:
                parts.append(journal.decode_seal(entry))
    return find_seal(parts)


def store_seal(writing: Writing, as_of: int, numbers: list[int]) -> None:
    """Have `stored_seal` find the parts that stand in these entries."""
    value = b"".join(number.to_bytes(8, "big") for number in (as_of, *numbers))
    writing.put(STATE, _SEALED, value)


def totals_of(ledger: LmdbLedger, slots: NDArray[np.uint32]) -> NDArray[np.void]:
    """What sessions have come to; for the writer's thread."""
    totals = np.zeros(len(slots), TOTAL)
    totals["slot"] = slots
    for name in ("seconds", "bytes", "cost"):
        totals[name] = ledger.meter.columns[name][slots]
    return totals


def _split(
    as_of: int,
    time_ns: int,
    posted: NDArray[np.int64],
    sessions: list[SessionInfo],
    totals: NDArray[np.void],
) -> list[SealEntry]:
    parts = max(-(-len(posted) // SEAL_ACCOUNTS), -(-len(sessions) // SEAL_SESSIONS))
    found = []
    for part in range(parts):
        accounts = slice(part * SEAL_ACCOUNTS, (part + 1) * SEAL_ACCOUNTS)
        some = slice(part * SEAL_SESSIONS, (part + 1) * SEAL_SESSIONS)
        found.append(
            SealEntry(
                as_of=as_of,
                part=part,
                parts=parts,
                time_ns=time_ns,
                posted=posted[accounts].tobytes(),
                sessions=tuple(sessions[some]),
                totals=totals[some].tobytes(),
            )
        )
    return found


def _number(tables: Tables, key: bytes) -> int:
    value = tables.get(STATE, key)
    return int.from_bytes(value[:8], "big") if value is not None else 0


def _bounds(ledger: LmdbLedger) -> tuple[int, int]:
    """The first entry that may be pruned, and the last: a start replays what is later."""
    with ledger.store.read() as tables:
        last = min(_number(tables, _SEALED), _number(tables, REPLAY_FROM))
        return _number(tables, _PRUNED) + 1, last


def _has_old_ticks_after_seal(ledger: LmdbLedger, before_ns: int) -> bool:
    with ledger.store.read() as tables:
        sealed, pruned = _number(tables, _SEALED), _number(tables, _PRUNED)
    for _, entry in journal.walk(ledger.store, max(sealed, pruned) + 1, ledger.head):
        if entry[0] == EntryKind.TICK:
            return journal.tick_time_ns(entry) < before_ns
    return False
