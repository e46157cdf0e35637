"""What the log alone says: balances, sessions, records, made anew from its first entry on.

`billing.audit` holds it against what the ledger has, and `billing.backup` makes a ledger of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from billing import journal
from billing.book import CLOSED, REFUND, SYSTEM
from billing.journal import (
    TOTAL,
    AccountsEntry,
    CallRecord,
    EntryKind,
    RootEntry,
    SealEntry,
    SessionInfo,
    SideWrite,
    TickEntry,
)
from billing.merkle import Frontier, leaf_hash
from billing.money import CURRENCIES, J
from billing.receipts import (
    SigningUnavailable,
    is_endorsed_untrusted,
    is_signed_untrusted,
    parse_checkpoint_untrusted,
)
from billing.tables import GUARD_TABLES, UNREADABLE, flags_of
from billing.transfers import Kind
from core.errors import OperationError
from core.units import NS_PER_S

PROBLEMS_MAXIMUM = 1000
"""That are told one by one."""

_T = TypeVar("_T", bound=np.generic)
_COUNT = len(CURRENCIES)


class Seal:
    """A sealed checkpoint of all its parts.

    Attributes:
        as_of: the entry after which this was so.
        posted: by (account, currency).
        sessions, totals: those that lived.
    """

    def __init__(self, parts: Sequence[SealEntry]) -> None:
        assert [part.part for part in parts] == list(range(parts[0].parts))
        self.as_of = parts[0].as_of
        posted = b"".join(part.posted for part in parts)
        self.posted = np.frombuffer(posted, "<i8").reshape(-1, _COUNT)
        self.sessions = [info for part in parts for info in part.sessions]
        self.totals = np.frombuffer(b"".join(part.totals for part in parts), TOTAL)
        if len(self.totals) != len(self.sessions):
            raise OperationError("a sealed checkpoint has as many totals as sessions")


def find_seal(parts: Iterable[SealEntry]) -> Seal | None:
    """The latest of those that have all their parts."""
    by_entry: dict[int, dict[int, SealEntry]] = {}
    for part in parts:
        by_entry.setdefault(part.as_of, {})[part.part] = part
    for as_of in sorted(by_entry, reverse=True):
        found = by_entry[as_of]
        if sorted(found) == list(range(found[min(found)].parts)):
            return Seal([found[number] for number in sorted(found)])
    return None


class Recount:
    """Takes the log's entries in their order.

    Ticks that were pruned leave what they moved unknown, until the seal: from there on it is what
    the seal says, and that has to be what transfers, records and live sessions come to.

    Attributes:
        entries, transfers, records: how many there were.
        accounts: how many there are, account 0 included.
        pending, refunded: as the book has them.
        sessions: slot -> those that live.
        side: of what was written into `GUARD_TABLES`, place -> value, each as a short hash.
        adopted: the entry after which balances were taken from the seal, 0 for none.
        signers: whose roots there are, by the names of nodes.
        unsigned_roots: that nobody could sign.
        unchecked_signatures: of roots, because ML-DSA-65 is missing here.
        last_root: its entry, 0 for none.
        problems: what is wrong, in words; `problem_count` may be more.
    """

    def __init__(self, seal: Seal | None) -> None:
        self._seal = seal
        self.entries = self.transfers = self.records = 0
        self.accounts = 1
        self._moved = np.zeros((1024, _COUNT), np.int64)
        self._reserved = np.zeros((1024, _COUNT), np.int64)
        self._incoming = np.zeros((1024, _COUNT), np.int64)
        self._ticked = np.zeros(1024, np.int64)
        self._settled = np.zeros(1024, np.int64)
        self._last = np.zeros(1024, np.uint64)
        self._flags = np.zeros(1024, np.uint32)
        self._flags[0] = SYSTEM | CLOSED
        self._info_hashes = np.zeros(1024, np.uint64)
        self.pending: dict[bytes, tuple[int, int, int, int, int]] = {}
        self.refunded: dict[bytes, int] = {}
        self.sessions: dict[int, SessionInfo] = {}
        self._slots: dict[bytes, int] = {}
        self._payer = np.zeros(1024, np.uint32)
        self._cost = np.zeros(1024, np.int64)
        self._seconds = np.zeros(1024, np.uint32)
        self._ticks_unknown = False
        self.adopted = 0
        self._tree = Frontier()
        self.side: dict[int, int] = {}
        self.last_root = 0
        self.signers: dict[str, None] = {}
        self.unsigned_roots = self.unchecked_signatures = 0
        self.problems: list[str] = []
        self.problem_count = 0

    # ------------------------------------------------------------ what has come of it

    @property
    def posted(self) -> NDArray[np.int64]:
        """By (account, currency): transfers and ticks."""
        found = self._moved[: self.accounts].copy()
        found[:, J.number] += self._ticked[: self.accounts]
        return found

    @property
    def reserved(self) -> NDArray[np.int64]:
        """By (account, currency)."""
        return self._reserved[: self.accounts]

    @property
    def incoming(self) -> NDArray[np.int64]:
        """By (account, currency)."""
        return self._incoming[: self.accounts]

    @property
    def last(self) -> NDArray[np.uint64]:
        """The place of each account's last line."""
        return self._last[: self.accounts]

    @property
    def flags(self) -> NDArray[np.uint32]:
        """Of each account, as the book has them."""
        return self._flags[: self.accounts]

    @property
    def info_hashes(self) -> NDArray[np.uint64]:
        """Of each account, `short_hash` of its `AccountInfo`."""
        return self._info_hashes[: self.accounts]

    @property
    def cost(self) -> NDArray[np.int64]:
        """By slot, of those in `sessions`."""
        return self._cost

    @property
    def seconds(self) -> NDArray[np.uint32]:
        """By slot, up to the last charge."""
        return self._seconds

    def problem(self, text: str) -> None:
        """Something is wrong."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_MAXIMUM:
            self.problems.append(text)

    # ------------------------------------------------------------ entries

    def add(self, number: int, entry: bytes) -> None:
        """The next entry of the log."""
        self.entries += 1
        try:
            self._add(number, entry)
        except UNREADABLE as error:
            self.problem(f"entry {number} can't be read: {error}")
        if self._seal is not None and number == self._seal.as_of:
            self._take_seal(self._seal)

    def _add(self, number: int, entry: bytes) -> None:
        kind = entry[0]
        if kind == EntryKind.TRANSFERS:
            transfers = journal.decode_transfers(entry)
            self._add_transfers(number, transfers.records)
            for write in transfers.side_writes:
                self._add_side_write(write)
        elif kind == EntryKind.TICK:
            self._add_tick(number, journal.decode_tick(entry))
        elif kind == EntryKind.RECORDS:
            self._add_records(number, entry)
        elif kind == EntryKind.ACCOUNTS:
            self._add_accounts(number, journal.decode_accounts(entry))
        elif kind == EntryKind.ROOT:
            self._add_root(number, journal.decode_root(entry))
        elif kind == EntryKind.SEAL:
            journal.decode_seal(entry)
        elif kind == EntryKind.PRUNED and len(entry) == 34 and entry[1] == EntryKind.TICK:
            if self._seal is None or number > self._seal.as_of:
                self.problem(f"entry {number} was pruned, and no sealed checkpoint follows it")
            self._ticks_unknown = True
        elif not (kind == EntryKind.PRUNED and len(entry) == 34 and entry[1] == EntryKind.SEAL):
            self.problem(f"entry {number} is of no kind that is known")

    def _add_accounts(self, number: int, entry: AccountsEntry) -> None:
        for info in entry.accounts:
            if info.number == self.accounts:
                self._grow(self.accounts + 1)
                self.accounts += 1
            if not 0 < info.number < self.accounts:
                self.problem(f"entry {number} names account #{info.number} before its time")
                continue
            self._flags[info.number] = flags_of(info)
            self._info_hashes[info.number] = short_hash(msgspec.msgpack.encode(info))

    def _add_transfers(self, number: int, records: NDArray[np.void]) -> None:
        sides = np.stack([records["debit"], records["credit"]], axis=1)
        if len(records) and not 0 < sides.min() <= sides.max() < self.accounts:
            self.problem(f"entry {number} names accounts that there are not")
            return
        kind, currency, amount = records["kind"], records["currency"], records["amount"]
        if len(records) and (currency.max() >= _COUNT or kind.max() > Kind.EXPIRE_PENDING):
            self.problem(f"entry {number} has transfers that there can't be")
            return
        self.transfers += len(records)
        posted = np.where((kind == Kind.POST) | (kind == Kind.POST_PENDING), amount, 0)
        reserved = np.where(
            kind == Kind.PENDING, amount, np.where(kind == Kind.POST, 0, -records["pending_amount"])
        )
        debit, credit = (sides.astype(np.int64) * _COUNT + currency[:, np.newaxis]).T
        moved = self._moved.reshape(-1)
        np.subtract.at(moved, debit, posted)
        np.add.at(moved, credit, posted)
        np.add.at(self._reserved.reshape(-1), debit, reserved)
        np.add.at(self._incoming.reshape(-1), credit, reserved)
        first = np.uint64(journal.place_of(number, 0))
        places = first + np.arange(len(records), dtype=np.uint64)
        # Of an account that comes several times, the last place counts.
        self._last[sides.ravel()] = np.repeat(places, 2)
        unusual = np.flatnonzero((kind != Kind.POST) | (records["flags"] & REFUND != 0))
        for index in unusual.tolist():
            self._add_unusual(number, records[index])

    def _add_side_write(self, write: SideWrite) -> None:
        if write.table not in GUARD_TABLES:
            return
        key = side_hash(write.table, write.key)
        if write.value is None:
            self.side.pop(key, None)
        else:
            self.side[key] = short_hash(write.value)

    def _add_unusual(self, number: int, record: np.void) -> None:
        identity, reference = record["id"].tobytes(), record["reference"].tobytes()
        amount, timeout_s = int(record["amount"]), int(record["timeout_s"])
        sides = int(record["debit"]), int(record["credit"]), int(record["currency"])
        if record["kind"] == Kind.PENDING:
            expires_ns = int(record["time_ns"]) + timeout_s * NS_PER_S if timeout_s else 0
            self.pending[identity] = (*sides, amount, expires_ns)
        elif record["kind"] == Kind.POST:
            self.refunded[reference] = self.refunded.get(reference, 0) + amount
        else:
            pending = self.pending.pop(reference, None)
            if pending is None or pending[:4] != (*sides, int(record["pending_amount"])):
                self.problem(
                    f"entry {number} resolves the transfer {reference.hex()}, which isn't pending"
                )

    def _add_tick(self, number: int, tick: TickEntry) -> None:
        for info in tick.opened:
            if info.slot in self.sessions and not self._ticks_unknown:
                self.problem(f"entry {number} opens a session in slot {info.slot}, which is taken")
            self._open(info)
        rows = tick.rows
        slots, accounts, charges = rows["slot"], rows["account"], rows["charge"].astype(np.int64)
        if len(rows) and accounts.max() >= self.accounts:
            self.problem(f"entry {number} names accounts that there are not")
            return
        if len(rows) and not self._ticks_unknown:
            there = slots < len(self._payer)
            if not there.all() or (self._payer[slots] != accounts).any():
                self.problem(f"entry {number} charges sessions that don't live, or others for them")
                return
        if len(rows) and self._ticks_unknown:
            self._grow_slots(int(slots.max()) + 1)
        if int(charges.sum()) != sum(tick.credits.values()):
            self.problem(f"entry {number} charges another sum than it pays on")
        np.subtract.at(self._ticked, accounts, charges)
        np.add.at(self._cost, slots, charges)
        self._seconds[slots] = rows["seconds"]
        for account, amount in tick.credits.items():
            if not 0 < account < self.accounts:
                self.problem(f"entry {number} names accounts that there are not")
                return
            self._ticked[account] += amount

    def _add_records(self, number: int, entry: bytes) -> None:
        for index, raw in enumerate(journal.raw_records(entry)):
            record = journal.decode_record_untrusted(raw)
            self._tree.add(leaf_hash(raw))
            self.records += 1
            if not (0 < record.account < self.accounts and 0 < record.into < self.accounts):
                self.problem(f"record {record.id.hex()} names accounts that there are not")
                continue
            self._close(record)
            self._settled[record.account] -= record.cost
            self._settled[record.into] += record.cost
            self._last[record.account] = journal.place_of(number, index)

    def _close(self, record: CallRecord) -> None:
        slot = self._slots.pop(record.id, None)
        if slot is None:
            if not self._ticks_unknown:
                self.problem(f"record {record.id.hex()} is of a session that didn't live")
            return
        info = self.sessions.pop(slot)
        self._payer[slot] = 0
        if (info.account, info.into) != (record.account, record.into):
            self.problem(f"record {record.id.hex()} names other accounts than its session")
        if self._cost[slot] != record.cost and not self._ticks_unknown:
            self.problem(
                f"record {record.id.hex()} says {record.cost} micro-J, and its ticks "
                f"{self._cost[slot]}"
            )

    def _add_root(self, number: int, root: RootEntry) -> None:
        self.last_root = number
        try:
            origin, size, value = parse_checkpoint_untrusted(root.checkpoint)
        except OperationError as error:
            self.problem(f"entry {number}: {error}")
            return
        if size != root.size or size != self._tree.size:
            self.problem(f"entry {number} is a root of {size} records; there were {self.records}")
        elif value != self._tree.root():
            self.problem(f"entry {number} is a root of other records than those in the log")
        if not root.signature:
            self.unsigned_roots += 1
            return
        if len(self.signers) < SIGNERS_MAXIMUM:
            self.signers[origin] = None
        if not is_endorsed_untrusted(origin, root.public_key, root.endorsement):
            self.problem(f"the key in entry {number} isn't one of {origin}")
        try:
            if not is_signed_untrusted(root.checkpoint, root.signature, root.public_key):
                self.problem(f"the signature in entry {number} isn't the key's over this root")
        except SigningUnavailable:
            self.unchecked_signatures += 1

    # ------------------------------------------------------------ sessions, seals, the end

    def tree_root(self) -> bytes:
        """The root over all records so far."""
        return self._tree.root()

    def finish(self) -> None:
        """All entries have been taken: what has to be so at the end."""
        if self._ticks_unknown:
            self.problem("ticks were pruned after the last sealed checkpoint")
        self._check_identity("")
        for currency in CURRENCIES:
            total = _exact_sum(self.posted[:, currency.number])
            if total:
                self.problem(f"all {currency.code} accounts add up to {total}, not to nothing")
        available = self.posted - self.reserved
        is_user = (self.flags & SYSTEM) == 0
        for account in np.flatnonzero((available < 0).any(axis=1) & is_user).tolist():
            self.problem(f"account #{account} is overdrawn")

    def _check_identity(self, when: str) -> None:
        """What ticks have moved is what ended and living sessions have cost."""
        owed = self._settled[: self.accounts].copy()
        for slot, info in self.sessions.items():
            cost = self._cost[slot]
            owed[info.account] -= cost
            owed[info.into] += cost
        for account in np.flatnonzero(owed != self._ticked[: self.accounts]).tolist():
            self.problem(
                f"account #{account}: its sessions come to {owed[account]} micro-J, and its ticks "
                f"to {self._ticked[account]}{when}"
            )

    def _take_seal(self, seal: Seal) -> None:
        when = f" in the checkpoint sealed after entry {seal.as_of}"
        if len(seal.posted) != self.accounts:
            self.problem(f"there are {len(seal.posted)} accounts{when}, and {self.accounts} before")
            return
        if self._ticks_unknown:
            self._ticks_unknown = False
            self.adopted = seal.as_of
            self._ticked[: self.accounts] = (
                seal.posted[:, J.number] - self._moved[: self.accounts, J.number]
            )
            self._payer[:] = 0
            self.sessions, self._slots = {}, {}
            for info, total in zip(seal.sessions, seal.totals, strict=True):
                self._open(info)
                self._cost[info.slot] = total["cost"]
                self._seconds[info.slot] = total["seconds"]
            self._check_identity(when)
        for account in np.flatnonzero((seal.posted != self.posted).any(axis=1)).tolist():
            self.problem(f"account #{account} has another balance{when} than in the log")
        costs = {slot: int(self._cost[slot]) for slot in self.sessions}
        if costs != dict(
            zip(seal.totals["slot"].tolist(), seal.totals["cost"].tolist(), strict=True)
        ):
            self.problem(f"sessions have other totals{when} than in the log")

    def _open(self, info: SessionInfo) -> None:
        if not (0 < info.account < self.accounts and 0 < info.into < self.accounts):
            self.problem(f"session {info.id.hex()} names accounts that there are not")
            return
        self._grow_slots(info.slot + 1)
        before = self.sessions.get(info.slot)
        if before is not None:
            self._slots.pop(before.id, None)
        self.sessions[info.slot] = info
        self._slots[info.id] = info.slot
        self._payer[info.slot] = info.account
        self._cost[info.slot] = 0
        self._seconds[info.slot] = info.seconds_before

    def _grow(self, accounts: int) -> None:
        capacity = len(self._last)
        if accounts > capacity:
            self._moved = _longer(self._moved, 2 * capacity)
            self._reserved = _longer(self._reserved, 2 * capacity)
            self._incoming = _longer(self._incoming, 2 * capacity)
            self._ticked = _longer(self._ticked, 2 * capacity)
            self._settled = _longer(self._settled, 2 * capacity)
            self._last = _longer(self._last, 2 * capacity)
            self._flags = _longer(self._flags, 2 * capacity)
            self._info_hashes = _longer(self._info_hashes, 2 * capacity)

    def _grow_slots(self, slots: int) -> None:
        if slots > SLOTS_MAXIMUM:
            raise ValueError(f"there is no slot {slots - 1}")
        capacity = len(self._cost)
        while capacity < slots:
            capacity *= 2
        if capacity > len(self._cost):
            self._payer = _longer(self._payer, capacity)
            self._cost = _longer(self._cost, capacity)
            self._seconds = _longer(self._seconds, capacity)


SLOTS_MAXIMUM = 1 << 26
"""Far more than a node has: a changed number must not take all memory."""


SIGNERS_MAXIMUM = 10


def short_hash(value: bytes) -> int:
    """A short hash of what is stored: ten million of them fit into memory."""
    return int.from_bytes(blake2b(value, digest_size=8).digest(), "big")


def side_hash(table: str, key: bytes) -> int:
    """The same of a side-write's place."""
    return short_hash(table.encode() + b"\0" + key)


def _longer(column: NDArray[_T], capacity: int) -> NDArray[_T]:
    grown = np.zeros((capacity, *column.shape[1:]), column.dtype)
    grown[: len(column)] = column
    return grown


def _exact_sum(column: NDArray[np.int64]) -> int:
    """Without running over: a sum that is wrong by 2^64 is wrong."""
    return (int((column >> 32).sum()) << 32) + int((column & 0xFFFFFFFF).sum())
