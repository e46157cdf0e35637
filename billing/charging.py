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
        records: slot -> all records of a session that was closed, the first part's first.
    """

    granted: tuple[NDArray[np.uint32], NDArray[np.uint32]]
    warned: NDArray[np.uint32]
    stopped: NDArray[np.uint32]
    records: dict[int, tuple[CallRecord, ...]]


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
        """By slot, those of which the next tick tells the log; the others are stored."""
        self._unused: dict[int, SessionInfo] = {}
        """By slot, those of which the log is to know nothing before something has been counted."""
        self._parts: dict[int, tuple[CallRecord, ...]] = {}
        """By slot, the records of what living sessions have been before: of another kind, or at
        another account's cost."""
        ledger.pays_for_sessions = self._pass_on

    async def recover(self) -> int:
        """Close the sessions that a crash has left; returns how many."""
        assert not self._new | self._unused, "nothing has begun yet"
        left = self._meter.slots()
        for start in range(0, len(left), RECOVERED_OF_A_COMMIT):
            part = left[start : start + RECOVERED_OF_A_COMMIT]

            def write(writing: Writing, part: Sequence[int] = part) -> None:
                self._ledger.begin(writing)
                self._close(writing, dict.fromkeys(part, LOST), part)

            await self._ledger.store.write(write)
        return len(left)

    async def open(
        self, name: str, line: Line, account: int, *, only_if_used: bool = False
    ) -> Opened | None:
        """Begin a session at the prices of a line of the tariff; None when the account can't pay
        for one second of it.

        Args:
            only_if_used: whether a session of which nothing is ever counted leaves no record.

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
            (self._unused if only_if_used else self._new)[slot] = info

            def undo() -> None:
                self._new.pop(slot, None)
                self._unused.pop(slot, None)
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
            tick = self._charge(writing, slots, active_seconds, relayed_bytes)
            unused = {slot for slot in closing if slot in self._unused}
            recorded = [slot for slot in closing if slot not in unused]
            parts = {slot: self._parts[slot] for slot in closing if slot in self._parts}
            if unused:
                left = {slot: one for slot, one in self._unused.items() if slot not in unused}
                self._replace_new(writing, self._new, left)
            if parts:
                kept = {slot: one for slot, one in self._parts.items() if slot not in parts}
                self._replace_parts(writing, kept)
            closed = self._close(writing, closing, recorded)
            records = {
                slot: (*parts.get(slot, ()), record)
                for slot, record in zip(recorded, closed, strict=True)
            }
            return Verdicts(tick.granted, tick.warned, tick.stopped, records)

        return await self._ledger.store.write(write)

    async def change(self, slot: int, line: Line, active_seconds: int, relayed_bytes: int) -> None:
        """Have a session cost what another line of the tariff says, from the next second on. What
        it has come to until then is charged at the old price and is a record of its own.

        Args:
            active_seconds, relayed_bytes: what its counters say now.

        Raises:
            OperationError: nothing can be stored; it is what it was.
        """

        def write(writing: Writing) -> None:
            self._charge(
                writing,
                np.array([slot], np.uint32),
                np.array([active_seconds], np.uint64),
                np.array([relayed_bytes], np.uint64),
            )
            now_s = self._ledger.clock.now_ns() // NS_PER_S

            def begin() -> None:
                changed = self._meter.change(
                    slot, line.into, line.price_second, line.price_megabyte, now_s
                )
                writing.on_abort(lambda: self._meter.undo_segments(changed))

            self._begin_parts(
                writing,
                [slot],
                f"now {line.kind}",
                begin,
                lambda info: msgspec.structs.replace(
                    info,
                    id=derive_id(info.id, b"now " + line.kind.encode()),
                    kind=line.kind,
                    into=line.into,
                ),
            )

        await self._ledger.store.write(write)

    def parts(self, slot: int) -> tuple[CallRecord, ...]:
        """The records of what a living session has been before, the first one first."""
        return self._parts.get(slot, ())

    def _charge(
        self,
        writing: Writing,
        slots: NDArray[np.uint32],
        active_seconds: NDArray[np.uint64],
        relayed_bytes: NDArray[np.uint64],
    ) -> Tick:
        ledger = self._ledger
        # First: what has been reserved for too long may be what a session needs.
        ledger.expire(writing)
        now_ns = ledger.clock.now_ns()
        tick = self._meter.tick(slots, active_seconds, relayed_bytes, now_ns // NS_PER_S)
        writing.on_abort(lambda: self._meter.undo(tick))
        # After it: what closing sets in the book is undone before the charges are.
        ledger.begin(writing)
        self._store_tick(writing, tick, now_ns)
        return tick

    def _store_tick(self, writing: Writing, tick: Tick | None, now_ns: int) -> None:
        rows = np.zeros(0, ROW) if tick is None else tick.rows
        credits = {} if tick is None else tick.credits
        used = self._used()
        new = self._new | used
        if not (len(rows) or new):
            return
        for info in new.values():
            writing.put(SESSIONS, session_key(info.slot), journal.encode_session(info))
        entry = journal.encode_tick(now_ns, rows, credits, tuple(new.values()))
        self._ledger.append(writing, entry)
        # At once: another tick of the same commit must not tell of them again.
        unused = self._unused
        if used:
            unused = {slot: one for slot, one in unused.items() if slot not in used}
        self._replace_new(writing, {}, unused)

    def _used(self) -> dict[int, SessionInfo]:
        """Those that nobody has been told of, and of which something has been counted now."""
        if not self._unused:
            return {}
        columns, slots = self._meter.columns, np.fromiter(self._unused, np.int64)
        is_used = (columns["seconds"][slots] > 0) | (columns["bytes"][slots] > 0)
        return {slot: self._unused[slot] for slot in slots[is_used].tolist()}

    def _replace_new(
        self, writing: Writing, new: dict[int, SessionInfo], unused: dict[int, SessionInfo]
    ) -> None:
        before = self._new, self._unused
        self._new, self._unused = new, unused

        def undo() -> None:
            self._new, self._unused = before

        writing.on_abort(undo)

    def _pass_on(
        self, writing: Writing, source: int, move: Callable[[], None], target: int
    ) -> None:
        """Two accounts are merged: what sessions have cost until now is the record of the one, what
        they will cost is the other's. `move` moves the money, when no session holds it."""
        slots = self._meter.paid_by(source)
        if not slots:
            move()
            return
        now_s = self._ledger.clock.now_ns() // NS_PER_S

        def begin() -> None:
            # Held by nobody while it moves; then each holds of the target what it can.
            released = self._meter.reassign(slots, NODE, now_s)
            writing.on_abort(lambda: self._meter.undo_segments(released))
            move()
            held = self._meter.reassign(slots, target, now_s)
            writing.on_abort(lambda: self._meter.undo_segments(held))

        self._ledger.begin(writing)
        self._begin_parts(
            writing,
            slots,
            MERGED,
            begin,
            lambda info: msgspec.structs.replace(
                info, id=derive_id(info.id, b"merged %d" % target), account=target
            ),
        )

    def _begin_parts(
        self,
        writing: Writing,
        slots: Sequence[int],
        reason: str,
        begin: Callable[[], None],
        renew: Callable[[SessionInfo], SessionInfo],
    ) -> None:
        """Make what sessions have come to a record each, for this reason, and have them go on as
        `renew` says. `begin` has the meter begin anew with them: after the records, which tell
        what it says, and before anything else is stored."""
        columns = self._meter.columns
        stored = _stored(writing, slots)
        records = self._make_records(writing, list(stored), dict.fromkeys(stored, reason))
        parts = {
            slot: (*self.parts(slot), record) for slot, record in zip(stored, records, strict=True)
        }
        self._replace_parts(writing, self._parts | parts)
        begin()
        now_ns = self._ledger.clock.now_ns()

        def renewed(infos: Mapping[int, SessionInfo]) -> dict[int, SessionInfo]:
            return {
                slot: msgspec.structs.replace(
                    renew(info),
                    opened_ns=now_ns,
                    seconds_before=int(columns["seconds"][slot]),
                    bytes_before=int(columns["bytes"][slot]),
                )
                for slot, info in infos.items()
            }

        new = {slot: self._new[slot] for slot in slots if slot in self._new}
        unused = {slot: self._unused[slot] for slot in slots if slot in self._unused}
        self._replace_new(
            writing, self._new | renewed(stored | new), self._unused | renewed(unused)
        )
        self._store_tick(writing, None, now_ns)

    def _replace_parts(self, writing: Writing, parts: dict[int, tuple[CallRecord, ...]]) -> None:
        before, self._parts = self._parts, parts
        writing.on_abort(lambda: setattr(self, "_parts", before))

    def _close(
        self, writing: Writing, closing: Mapping[int, str], recorded: Sequence[int]
    ) -> list[CallRecord]:
        """End sessions; those in `recorded` have one record each, a few thousand an entry of the
        log."""
        closed = self._make_records(writing, recorded, closing)
        slots = list(closing)
        released = self._meter.let_go(slots)
        writing.on_abort(lambda: self._meter.undo_let_go(released))

        def free() -> None:
            for slot in slots:
                self._meter.close(slot)

        writing.after_commit(free)
        return closed

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
