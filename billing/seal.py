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
from billing.journal import (
    LOG,
    SEAL_ACCOUNTS,
    SEAL_SESSIONS,
    TOTAL,
    EntryKind,
    SealEntry,
)
from billing.ledger import LmdbLedger
from billing.records import Progress
from billing.recount import Seal, find_seal
from billing.tables import REPLAY_FROM, SESSIONS, STATE
from core.tables import Tables, Writing

_SEALED = b"sealed"
"""The last whole seal: the entry after which it was so, and those in which its parts are."""
_PRUNED = b"pruned"
"""The entry up to which all is pruned that may be."""
_NO_TICK = b"no tick"
"""The entry up to which none after the last seal is a tick."""


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


class _Copy(NamedTuple):
    """What is to be sealed; `sessions` as they are stored."""

    as_of: int
    time_ns: int
    posted: NDArray[np.int64]
    sessions: list[bytes]
    totals: NDArray[np.void]


async def seal(ledger: LmdbLedger) -> int:
    """Seal balances and sessions as they are now; returns the entry after which they are so."""

    def copy(writing: Writing) -> _Copy:
        stored = writing.items(SESSIONS, limit=writing.count(SESSIONS))
        slots = np.frombuffer(b"".join(key for key, _ in stored), ">u4")
        return _Copy(
            ledger.head,
            ledger.clock.now_ns(),
            ledger.book.columns["posted"].copy(),
            [value for _, value in stored],
            totals_of(ledger, slots.astype(np.uint32)),
        )

    copied = await ledger.store.write(copy)
    parts = await trio.to_thread.run_sync(_split, copied)
    as_of = copied.as_of
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


async def prune(ledger: LmdbLedger, before_ns: int, progress: Progress | None = None) -> Pruned:
    """Prune all ticks before that time (of the ledger's clock), a few at a time, with a new seal
    where one is needed.

    Args:
        progress: called with entries that were looked at, and of how many.
    """
    entries = freed_bytes = 0
    has_old, looked = await trio.to_thread.run_sync(_look_for_old_tick, ledger, before_ns)
    if has_old:
        await seal(ledger)
    elif looked:
        # Where nothing is metered, no tick ends a walk before the log does: not twice, then.
        value = looked.to_bytes(8, "big")
        await ledger.store.write(lambda writing: writing.put(STATE, _NO_TICK, value))
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


def _split(copied: _Copy) -> list[SealEntry]:
    posted, totals = copied.posted, copied.totals
    sessions = list(map(journal.decode_session, copied.sessions))
    parts = max(-(-len(posted) // SEAL_ACCOUNTS), -(-len(sessions) // SEAL_SESSIONS))
    found = []
    for part in range(parts):
        accounts = slice(part * SEAL_ACCOUNTS, (part + 1) * SEAL_ACCOUNTS)
        some = slice(part * SEAL_SESSIONS, (part + 1) * SEAL_SESSIONS)
        found.append(
            SealEntry(
                as_of=copied.as_of,
                part=part,
                parts=parts,
                time_ns=copied.time_ns,
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


def _look_for_old_tick(ledger: LmdbLedger, before_ns: int) -> tuple[bool, int]:
    """Whether the first tick after the last seal is from before that time; and the last entry after
    it in which there was none, where some were looked at."""
    with ledger.store.read() as tables:
        first = 1 + max(_number(tables, key) for key in (_SEALED, _PRUNED, _NO_TICK))
    looked = 0
    for number, entry in journal.walk(ledger.store, first, ledger.head):
        if entry[0] == EntryKind.TICK:
            return journal.tick_time_ns(entry) < before_ns, looked
        looked = number
    return False, looked
