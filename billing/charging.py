"""Sessions that are charged while they last: counters in, one durable record a tick, verdicts out.

    opened = await charging.open("alice's", line, account=alice)
    verdicts = await charging.tick(slots, active_seconds, relayed_bytes, closing={})

A session pays for the seconds and bytes that its counters show, never more than its account has.
Opening it holds its first seconds. It becomes durable with the next tick, as do its charges; what
a crash takes is what was relayed since the last tick, at most, and never twice. Sessions that a
crash has left are closed at the next start by what was charged until then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from billing import journal
from billing.journal import CallRecord, SessionInfo
from billing.ledger import NODE, LmdbLedger
from billing.meter import NO_MONEY, NO_SLOT, ROW, Tick
from billing.records import index_records
from billing.tables import SESSIONS, session_key
from billing.tariff import Line
from billing.transfers import derive_id
from core.errors import OperationError
from core.tables import Writing
from core.units import NS_PER_S

RECORDS_OF_AN_ENTRY = 4096
RECOVERED_OF_A_COMMIT = 16 * RECORDS_OF_AN_ENTRY
"""Each commit writes the inner pages of the indexes anew."""
MERGED = "the account was merged"
LOST = "the node stopped"
"""Why a session that a crash has left ended."""


class Verdicts(NamedTuple):
    """What is to happen after a tick.

    Attributes:
        granted: (slots, seconds): up to which of their active seconds sessions may relay.
        warned: slots of sessions that hold their last seconds.
        stopped: slots of sessions that have used up what there was.
        records: of the sessions that were closed.
    """

    granted: tuple[NDArray[np.uint32], NDArray[np.uint32]]
    warned: NDArray[np.uint32]
    stopped: NDArray[np.uint32]
    records: tuple[CallRecord, ...]


class Opened(NamedTuple):
    """A session that has begun, and how many seconds it may relay until the next tick says more."""

    info: SessionInfo
    granted_s: int


class Charging:
    """Charges sessions of a ledger. Made once for each open ledger."""

    def __init__(self, ledger: LmdbLedger) -> None:
        self._ledger = ledger
        self._meter = ledger.meter
        self._new: dict[int, SessionInfo] = {}
        """By slot, those of which the log does not know yet; the others are stored."""
        ledger.pays_for_sessions = self._pass_on

    async def recover(self) -> int:
        """Close the sessions that a crash has left; returns how many."""
        assert not self._new, "nothing has begun yet"
        left = self._meter.slots()
        for start in range(0, len(left), RECOVERED_OF_A_COMMIT):
            part = left[start : start + RECOVERED_OF_A_COMMIT]

            def write(writing: Writing, part: Sequence[int] = part) -> None:
                self._ledger.begin(writing)
                self._close(writing, dict.fromkeys(part, LOST))

            await self._ledger.store.write(write)
        return len(left)

    async def open(self, name: str, line: Line, account: int) -> Opened | None:
        """Begin a session at the prices of a line of the tariff; None when the account can't pay
        for one second of it.

        Raises:
            OperationError: there are too many sessions, or nothing can be stored.
        """

        def write(writing: Writing) -> Opened | None:
            ledger = self._ledger
            now_ns = ledger.clock.now_ns()
            slot = self._meter.open(
                account, line.into, line.price_second, line.price_megabyte, now_ns // NS_PER_S
            )
            if slot == NO_SLOT:
                raise OperationError(f"{self._meter.capacity} sessions are charged already")
            if slot == NO_MONEY:
                return None
            info = SessionInfo(
                slot=slot,
                id=derive_id(
                    (now_ns // 1_000_000).to_bytes(6, "big") + bytes(10),
                    b"session %d %d %d" % (ledger.head, slot, now_ns),
                ),
                name=name,
                kind=line.kind,
                account=account,
                into=line.into,
                opened_ns=now_ns,
            )
            self._new[slot] = info

            def undo() -> None:
                del self._new[slot]
                self._meter.close(slot)

            writing.on_abort(undo)
            return Opened(info, int(self._meter.columns["granted"][slot]))

        return await self._ledger.store.write(write)

    def granted(self, slot: int) -> int:
        """Up to which of its active seconds a session may relay."""
        return int(self._meter.columns["granted"][slot])

    async def tick(
        self,
        slots: NDArray[np.uint32],
        active_seconds: NDArray[np.uint64],
        relayed_bytes: NDArray[np.uint64],
        closing: Mapping[int, str],
    ) -> Verdicts:
        """Charge sessions for what their counters say, then close some.

        Args:
            slots: each at most once.
            active_seconds, relayed_bytes: of each, since it was opened.
            closing: slot -> why, of sessions that have relayed their last.
        """

        def write(writing: Writing) -> Verdicts:
            ledger = self._ledger
            # First: what has been reserved for too long may be what a session needs.
            ledger.expire(writing)
            now_ns = ledger.clock.now_ns()
            tick = self._meter.tick(slots, active_seconds, relayed_bytes, now_ns // NS_PER_S)
            writing.on_abort(lambda: self._meter.undo(tick))
            # After it: what closing sets in the book is undone before the charges are.
            ledger.begin(writing)
            self._store_tick(writing, tick, now_ns)
            records = self._close(writing, closing)
            return Verdicts(tick.granted, tick.warned, tick.stopped, records)

        return await self._ledger.store.write(write)

    def _store_tick(self, writing: Writing, tick: Tick | None, now_ns: int) -> None:
        rows = np.zeros(0, ROW) if tick is None else tick.rows
        credits = {} if tick is None else tick.credits
        if not (len(rows) or self._new):
            return
        new = self._new
        for info in new.values():
            writing.put(SESSIONS, session_key(info.slot), journal.encode_session(info))
        entry = journal.encode_tick(now_ns, rows, credits, tuple(new.values()))
        self._ledger.append(writing, entry)
        # At once: another tick of the same commit must not tell of them again.
        self._replace_new(writing, {})

    def _replace_new(self, writing: Writing, new: dict[int, SessionInfo]) -> None:
        before, self._new = self._new, new
        writing.on_abort(lambda: setattr(self, "_new", before))

    def _pass_on(
        self, writing: Writing, source: int, move: Callable[[], None], target: int
    ) -> None:
        """Two accounts are merged: what sessions have cost until now is the record of the one, what
        they will cost is the other's. `move` moves the money, when no session holds it."""
        stored = _stored(writing, self._meter.paid_by(source))
        new = {slot: info for slot, info in self._new.items() if info.account == source}
        before = stored | new
        if not before:
            move()
            return
        ledger, columns, slots = self._ledger, self._meter.columns, list(before)
        ledger.begin(writing)
        self._make_records(writing, list(stored), dict.fromkeys(stored, MERGED))
        now_ns = ledger.clock.now_ns()
        # Held by nobody while it moves; then each holds of the target what it can.
        released = self._meter.reassign(slots, NODE, now_ns // NS_PER_S)
        writing.on_abort(lambda: self._meter.undo_segments(released))
        move()
        held = self._meter.reassign(slots, target, now_ns // NS_PER_S)
        writing.on_abort(lambda: self._meter.undo_segments(held))
        passed_on = {
            slot: msgspec.structs.replace(
                info,
                id=derive_id(info.id, b"merged %d" % target),
                account=target,
                opened_ns=now_ns,
                seconds_before=int(columns["seconds"][slot]),
                bytes_before=int(columns["bytes"][slot]),
            )
            for slot, info in before.items()
        }
        self._replace_new(writing, self._new | passed_on)
        self._store_tick(writing, None, now_ns)

    def _close(self, writing: Writing, closing: Mapping[int, str]) -> tuple[CallRecord, ...]:
        """Make sessions one record each, a few thousand an entry of the log."""
        slots = list(closing)
        closed = self._make_records(writing, slots, closing)
        released = self._meter.let_go(slots)
        writing.on_abort(lambda: self._meter.undo_let_go(released))

        def free() -> None:
            for slot in slots:
                self._meter.close(slot)

        writing.after_commit(free)
        return tuple(closed)

    def _make_records(
        self, writing: Writing, slots: Sequence[int], reasons: Mapping[int, str]
    ) -> list[CallRecord]:
        made: list[CallRecord] = []
        for start in range(0, len(slots), RECORDS_OF_AN_ENTRY):
            made += self._record_some(writing, slots[start : start + RECORDS_OF_AN_ENTRY], reasons)
        return made

    def _record_some(
        self, writing: Writing, slots: Sequence[int], closing: Mapping[int, str]
    ) -> list[CallRecord]:
        ledger, columns = self._ledger, self._meter.columns
        now_ns = ledger.clock.now_ns()
        entry = ledger.head + 1
        records = []
        infos = _stored(writing, slots)
        seconds, relayed, costs = (
            columns[name][slots].tolist() for name in ("seconds", "bytes", "cost")
        )
        for index, slot in enumerate(slots):
            info = infos[slot]
            records.append(
                CallRecord(
                    id=info.id,
                    name=info.name,
                    kind=info.kind,
                    account=info.account,
                    into=info.into,
                    opened_ns=info.opened_ns,
                    closed_ns=now_ns,
                    seconds=seconds[index] - info.seconds_before,
                    # After a crash the bytes are those of the last checkpoint.
                    relayed_bytes=max(0, relayed[index] - info.bytes_before),
                    cost=costs[index],
                    reason=closing[slot],
                    previous=ledger.book.point(info.account, journal.place_of(entry, index)),
                )
            )
        writing.delete_many(SESSIONS, [session_key(slot) for slot in slots])
        raws = list(map(journal.encode_record, records))
        number = ledger.append(writing, journal.join_records(raws))
        assert number == entry
        index_records(writing, entry, records, raws)
        return records


def _stored(writing: Writing, slots: Sequence[int]) -> dict[int, SessionInfo]:
    """By slot, those sessions of them that are stored as living."""
    if not slots:
        return {}
    first, last = min(slots), max(slots)
    if last - first < 2 * len(slots):
        # Beside each other, as after a crash: reading on is faster than looking each up.
        values = [
            value
            for _, value in writing.items(
                SESSIONS, session_key(first), session_key(last + 1), last + 1
            )
        ]
    else:
        values = list(writing.get_many(SESSIONS, list(map(session_key, slots))).values())
    wanted = set(slots)
    infos = map(journal.decode_session, values)
    return {info.slot: info for info in infos if info.slot in wanted}
