"""The balances of all accounts as columns in memory, and the rules by which transfers move them.

`Book.apply` takes an array of transfers and changes columns; what it has done since a mark can be
undone, so that memory never runs ahead of the disk. It does no I/O and knows no names: accounts
are numbers from 0 on, currencies columns, times nanoseconds that the caller gives.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

import numpy as np

from billing.money import AMOUNT_MAXIMUM, CURRENCIES
from billing.transfers import NO_ID, Kind, Result
from core.units import NS_PER_S

cdef extern from *:
    bint add_overflows "__builtin_add_overflow"(int64_t, int64_t, int64_t *) nogil
    bint subtract_overflows "__builtin_sub_overflow"(int64_t, int64_t, int64_t *) nogil

TRANSFER = np.dtype(
    [
        ("id", "V16"),
        ("reference", "V16"),
        ("amount", "<i8"),
        ("pending_amount", "<i8"),
        ("time_ns", "<i8"),
        ("previous_debit", "<u8"),
        ("previous_credit", "<u8"),
        ("debit", "<u4"),
        ("credit", "<u4"),
        ("timeout_s", "<u4"),
        ("code", "<u2"),
        ("flags", "<u2"),
        ("kind", "u1"),
        ("currency", "u1"),
        ("unused", "V6"),
    ]
)
"""A transfer as it is stored, 96 bytes. `previous_*` are the places of the two accounts' transfers
before it: place = entry of the log << 20 | index in it, and 0 for none. `pending_amount` is what
the pending transfer that this one resolves had reserved."""

assert TRANSFER.itemsize == sizeof(Record) == 96

SYSTEM = FLAG_SYSTEM
FROZEN = FLAG_FROZEN
CLOSED = FLAG_CLOSED
BLOCK = BLOCK_ACCOUNTS

cdef enum:
    KIND_POST = 0
    KIND_PENDING = 1
    KIND_POST_PENDING = 2
    KIND_VOID_PENDING = 3
    KIND_EXPIRE_PENDING = 4

    TRANSFER_LINKED = 1
    TRANSFER_ALL = 2
    TRANSFER_REFUND = 4
    TRANSFER_FLAGS = 7

cdef enum:
    DONE = 0
    EXISTS = 1
    ID_REUSED = 2
    LINKED_FAILED = 3
    BAD_AMOUNT = 4
    SAME_ACCOUNT = 5
    NO_ACCOUNT = 6
    IS_FROZEN = 7
    IS_CLOSED = 8
    NO_FUNDS = 9
    OVERFLOW = 10
    BAD_KIND = 11
    NO_REFERENCE = 12
    RESOLVED = 13
    EXCEEDS = 14
    OPEN_CHAIN = 15

cdef enum:
    MAXIMUM_INDEX_BITS = 20

INDEX_BITS = MAXIMUM_INDEX_BITS
"""Of a place, those that say which of its entry's transfers or records it is."""
LINKED, ALL, REFUND = TRANSFER_LINKED, TRANSFER_ALL, TRANSFER_REFUND
"""Flags of a `TRANSFER`: it belongs to the next one; a pending one is posted whole; a refund."""

# What no transfer takes an account past. All that the system accounts can owe is then less than
# 2^63, so that charges, which only move what is there, can't overflow anywhere.
cdef int64_t BALANCE_LIMIT = 1 << 60

# What C has to know at compile time, beside where people read it.
assert CURRENCY_COUNT == len(CURRENCIES) and BALANCE_LIMIT == AMOUNT_MAXIMUM
assert list(Kind) == [
    KIND_POST, KIND_PENDING, KIND_POST_PENDING, KIND_VOID_PENDING, KIND_EXPIRE_PENDING
]
assert {one.name: one.value for one in Result} == {
    "DONE": DONE,
    "EXISTS": EXISTS,
    "ID_REUSED": ID_REUSED,
    "LINKED_FAILED": LINKED_FAILED,
    "BAD_AMOUNT": BAD_AMOUNT,
    "SAME_ACCOUNT": SAME_ACCOUNT,
    "NO_ACCOUNT": NO_ACCOUNT,
    "FROZEN": IS_FROZEN,
    "CLOSED": IS_CLOSED,
    "NO_FUNDS": NO_FUNDS,
    "OVERFLOW": OVERFLOW,
    "BAD_KIND": BAD_KIND,
    "NO_REFERENCE": NO_REFERENCE,
    "RESOLVED": RESOLVED,
    "EXCEEDS": EXCEEDS,
    "OPEN_CHAIN": OPEN_CHAIN,
}


cdef class Book:
    """The columns of all accounts.

    Attributes:
        count: accounts, numbered from 0.
        pending: id -> (debit, credit, currency, amount, expires_ns) of transfers to be resolved.
        refunded: id -> how much of a transfer has been refunded.
        heirs: account -> the one that it was merged into.
        absorbed: account -> those that were merged into it.
    """

    def __cinit__(self):
        self._undo = NULL
        self._undo_count = self._undo_capacity = 0

    def __init__(self):
        self.count = 0
        self._undo_python = []
        self.pending = {}
        self.refunded = {}
        self.heirs = {}
        self.absorbed = {}
        self._resize(1024)

    def __dealloc__(self):
        free(self._undo)

    def _resize(self, Py_ssize_t capacity):
        cdef Py_ssize_t rows = capacity * CURRENCY_COUNT
        blocks = -(-capacity // BLOCK_ACCOUNTS)

        def grown(old, size, kind):
            new = np.zeros(size, kind)
            if old is not None:
                new[: len(old)] = old
            return new

        first = self.count == 0
        self.posted = grown(None if first else np.asarray(self.posted), rows, np.int64)
        self.reserved = grown(None if first else np.asarray(self.reserved), rows, np.int64)
        self.incoming = grown(None if first else np.asarray(self.incoming), rows, np.int64)
        self.held = grown(None if first else np.asarray(self.held), capacity, np.int64)
        self.last = grown(None if first else np.asarray(self.last), capacity, np.uint64)
        self.flags = grown(None if first else np.asarray(self.flags), capacity, np.uint32)
        self.dirty = grown(None if first else np.asarray(self.dirty), blocks, np.uint8)

    @property
    def columns(self):
        """Name -> array: posted, reserved, incoming by (account, currency); held, last, flags by
        account. Views: they change with the book, until accounts are added."""
        rows = self.count * CURRENCY_COUNT
        shape = (self.count, CURRENCY_COUNT)
        return {
            "posted": np.asarray(self.posted)[:rows].reshape(shape),
            "reserved": np.asarray(self.reserved)[:rows].reshape(shape),
            "incoming": np.asarray(self.incoming)[:rows].reshape(shape),
            "held": np.asarray(self.held)[: self.count],
            "last": np.asarray(self.last)[: self.count],
            "flags": np.asarray(self.flags)[: self.count],
        }

    @property
    def dirty_blocks(self):
        """One byte a block of `BLOCK` accounts: whether it has changed; the caller clears it."""
        return np.asarray(self.dirty)

    def open(self, flags=0):
        """Add an account; returns its number."""
        cdef Py_ssize_t number
        if self.count == self.flags.shape[0]:
            self._resize(2 * self.count)
        number = self.count
        self.count += 1
        self.flags[number] = flags
        self._undo_python.append(None)
        return number

    def set_flags(self, Py_ssize_t account, uint32_t flags):
        """Replace an account's flags."""
        assert 0 <= account < self.count
        self._undo_python.append((account, int(self.flags[account])))
        self.flags[account] = flags

    def merge(self, uint32_t account, uint32_t heir):
        """Say that `heir` has taken an account over."""
        assert 0 < account < self.count and 0 < heir < self.count
        assert self.heir(heir) != account
        self._remember(self.heirs, account)
        self.heirs[account] = heir
        self._remember(self.absorbed, heir)
        self.absorbed[heir] = (*self.absorbed.get(heir, ()), account)

    def heir(self, uint32_t account):
        """Who has taken an account over, at the end of all merges; itself where nobody has."""
        following = account
        while following is not None:
            account = following
            following = self.heirs.get(account)
        return account

    def balance(self, Py_ssize_t account, Py_ssize_t currency):
        """(posted, reserved, incoming, held) of an account in a currency."""
        assert 0 <= account < self.count
        assert 0 <= currency < CURRENCY_COUNT
        row = account * CURRENCY_COUNT + currency
        held = self.held[account] if currency == 0 else 0
        return self.posted[row], self.reserved[row], self.incoming[row], held

    def point(self, Py_ssize_t account, uint64_t place):
        """Have an account's history end at `place`; returns where it ended before."""
        assert 0 < account < self.count
        before = self.last[account]
        self._save(<uint32_t>account, 0)
        self.last[account] = place
        return before

    # ---------------------------------------------------------------- undoing

    def mark(self):
        """Where `undo_to` leads back to."""
        return self._undo_count, len(self._undo_python)

    def undo_to(self, mark):
        """Undo all that was done since `mark`."""
        cdef Py_ssize_t columns = mark[0]
        cdef Undo *entry
        cdef Py_ssize_t row, account
        while self._undo_count > columns:
            self._undo_count -= 1
            entry = &self._undo[self._undo_count]
            row = <Py_ssize_t>entry.account * CURRENCY_COUNT + entry.currency
            self.posted[row] = entry.posted
            self.reserved[row] = entry.reserved
            self.incoming[row] = entry.incoming
            self.last[entry.account] = entry.last
        while len(self._undo_python) > mark[1]:
            change = self._undo_python.pop()
            if change is None:
                self.count -= 1
                self.flags[self.count] = 0
            elif len(change) == 2:
                account = change[0]
                self.flags[account] = change[1]
            else:
                table, key, old = change
                if old is None:
                    table.pop(key, None)
                else:
                    table[key] = old

    def forget_undo(self):
        """What was done is durable: it can't be undone from here on."""
        self._undo_count = 0
        self._undo_python.clear()

    cdef int _save(self, uint32_t account, uint32_t currency) except -1:
        cdef Py_ssize_t capacity
        cdef Undo *larger
        cdef Undo *entry
        cdef Py_ssize_t row = <Py_ssize_t>account * CURRENCY_COUNT + currency
        if self._undo_count == self._undo_capacity:
            capacity = 2 * self._undo_capacity if self._undo_capacity else 4096
            larger = <Undo *>realloc(self._undo, capacity * sizeof(Undo))
            if larger == NULL:
                raise MemoryError
            self._undo = larger
            self._undo_capacity = capacity
        entry = &self._undo[self._undo_count]
        self._undo_count += 1
        entry.account = account
        entry.currency = currency
        entry.posted = self.posted[row]
        entry.reserved = self.reserved[row]
        entry.incoming = self.incoming[row]
        entry.last = self.last[account]
        self.dirty[account // BLOCK_ACCOUNTS] = 1
        return 0

    cdef const Record *_earlier(
        self, bytes raw_id, Record *base, dict seen, existing
    ) except? NULL:
        """The transfer of that id, of this call or stored; NULL where there is none. It lives as
        long as they do."""
        cdef bytes stored
        index = seen.get(raw_id)
        if index is not None:
            return &base[<Py_ssize_t>index]
        stored = existing.get(raw_id)
        if stored is None:
            return NULL
        return <const Record *>PyBytes_AS_STRING(stored)

    cdef int _remember(self, dict table, object key) except -1:
        self._undo_python.append((table, key, table.get(key)))
        return 0

    # ---------------------------------------------------------------- transfers

    def apply(self, records, uint64_t entry, existing):
        """Do transfers in their order.

        Args:
            records: array of `TRANSFER`, contiguous and writable: of those that are done, what the
                client leaves open is filled in (the accounts of a resolved pending transfer, an
                amount of everything, the places before them). Whoever is not done stays as it is.
            entry: the log entry that those done will stand in.
            existing: id -> stored bytes of earlier transfers that `records` name, by their own id
                or as reference.

        Returns:
            (results, done): a code for each; the indices of those done, in the order in which
            they have to be stored.
        """
        assert records.dtype == TRANSFER
        cdef uint8_t[::1] raw = records.view(np.uint8)
        cdef Py_ssize_t total = records.shape[0]
        results = np.zeros(total, np.uint8)
        if not total:
            return results, np.zeros(0, np.int64)
        assert total <= 1 << MAXIMUM_INDEX_BITS
        done = np.zeros(total, np.int64)
        cdef uint8_t[::1] codes = results
        cdef int64_t[::1] order = done
        cdef Py_ssize_t done_count = 0
        cdef Py_ssize_t first = 0, last, i, chain_done
        cdef Record *base = <Record *>&raw[0]
        cdef Record *record
        cdef int code
        cdef bint failed, repeated
        cdef Py_ssize_t reached
        seen = {}
        while first < total:
            last = first
            while last < total and base[last].flags & TRANSFER_LINKED:
                last += 1
            if last == total:
                for i in range(first, total):
                    codes[i] = OPEN_CHAIN
                break
            chain_done = done_count
            failed = repeated = False
            if first != last:
                mark = self.mark()
                as_given = PyBytes_FromStringAndSize(
                    <char *>&base[first], (last + 1 - first) * sizeof(Record)
                )
            for i in range(first, last + 1):
                record = &base[i]
                raw_id = PyBytes_FromStringAndSize(<char *>record.id, 16)
                code = self._apply_one(raw_id, record, base, seen, existing)
                codes[i] = code
                if code == EXISTS:
                    repeated = True
                elif code != DONE:
                    failed = True
                    break
                else:
                    seen[raw_id] = i
                    self.last[record.debit] = self.last[record.credit] = (
                        entry << MAXIMUM_INDEX_BITS | <uint64_t>done_count
                    )
                    order[done_count] = i
                    done_count += 1
            if first != last and (failed or (repeated and done_count > chain_done)):
                # All of a chain, or nothing of it.
                self.undo_to(mark)
                memcpy(&base[first], PyBytes_AS_STRING(as_given), len(as_given))
                reached = i
                for i in range(first, last + 1):
                    if i > reached:
                        codes[i] = LINKED_FAILED
                    elif codes[i] == DONE:
                        del seen[PyBytes_FromStringAndSize(<char *>base[i].id, 16)]
                        codes[i] = LINKED_FAILED
                    elif codes[i] == EXISTS:
                        codes[i] = ID_REUSED
                done_count = chain_done
            first = last + 1
        return results, done[:done_count]

    cdef int _apply_one(
        self, bytes raw_id, Record *record, Record *base, dict seen, existing
    ) except -1:
        """The code of one transfer; what it moves is moved when that is `DONE`."""
        cdef const Record *earlier = self._earlier(raw_id, base, seen, existing)
        if earlier != NULL:
            return EXISTS if is_repetition(record, earlier) else ID_REUSED
        if record.currency >= CURRENCY_COUNT or record.flags & ~TRANSFER_FLAGS:
            return BAD_KIND
        if record.kind == KIND_POST or record.kind == KIND_PENDING:
            return self._move(raw_id, record, base, seen, existing)
        if record.kind <= KIND_EXPIRE_PENDING:
            return self._resolve(record, base, seen, existing)
        return BAD_KIND

    cdef int _move(
        self, bytes raw_id, Record *record, Record *base, dict seen, existing
    ) except -1:
        """A transfer that moves or reserves an amount."""
        cdef uint32_t debit = record.debit, credit = record.credit
        cdef uint32_t currency = record.currency
        cdef int64_t amount = record.amount
        cdef int64_t left, sum_
        cdef Py_ssize_t from_row, to_row
        cdef const Record *original
        if record.flags & TRANSFER_ALL or (record.kind == KIND_POST and record.timeout_s):
            return BAD_KIND
        if amount <= 0:
            return BAD_AMOUNT
        if debit == credit:
            return SAME_ACCOUNT
        if not (0 < debit < self.count and 0 < credit < self.count):
            return NO_ACCOUNT
        if (self.flags[debit] | self.flags[credit]) & FLAG_CLOSED:
            return IS_CLOSED
        if self.flags[debit] & FLAG_FROZEN:
            return IS_FROZEN
        reference = PyBytes_FromStringAndSize(<char *>record.reference, 16)
        if record.flags & TRANSFER_REFUND:
            original = self._earlier(reference, base, seen, existing)
            if original == NULL:
                return NO_REFERENCE
            # Whoever has taken an account over gives back for it, and is given back.
            if (
                record.kind != KIND_POST
                or (original.kind != KIND_POST and original.kind != KIND_POST_PENDING)
                or self.heir(original.debit) != credit
                or self.heir(original.credit) != debit
                or original.currency != currency
                or original.flags & TRANSFER_REFUND
            ):
                return NO_REFERENCE
            before = self.refunded.get(reference, 0)
            if before + amount > original.amount:
                return EXCEEDS
        elif reference != NO_ID:
            return NO_REFERENCE
        from_row = <Py_ssize_t>debit * CURRENCY_COUNT + currency
        to_row = <Py_ssize_t>credit * CURRENCY_COUNT + currency
        # What is promised counts: no later step of a pending transfer can overflow.
        if (
            subtract_overflows(self.posted[from_row], self.reserved[from_row], &left)
            or subtract_overflows(left, self.held[debit] if currency == 0 else 0, &left)
            or subtract_overflows(left, amount, &left)
            or add_overflows(self.posted[to_row], self.incoming[to_row], &sum_)
            or add_overflows(sum_, amount, &sum_)
            or left < -BALANCE_LIMIT
            or sum_ > BALANCE_LIMIT
        ):
            return OVERFLOW
        if left < 0 and not self.flags[debit] & FLAG_SYSTEM:
            return NO_FUNDS
        self._save(debit, currency)
        self._save(credit, currency)
        if record.flags & TRANSFER_REFUND:
            self._remember(self.refunded, reference)
            self.refunded[reference] = before + amount
        if record.kind == KIND_PENDING:
            self._remember(self.pending, raw_id)
            self.pending[raw_id] = (
                debit,
                credit,
                currency,
                amount,
                record.time_ns + record.timeout_s * NS_PER_S if record.timeout_s else 0,
            )
            self.reserved[from_row] += amount
            self.incoming[to_row] += amount
        else:
            self.posted[from_row] -= amount
            self.posted[to_row] += amount
        record.previous_debit = self.last[debit]
        record.previous_credit = self.last[credit]
        return DONE

    cdef int _resolve(self, Record *record, Record *base, dict seen, existing) except -1:
        """A transfer that posts a pending one, all or a part of it, or voids it."""
        cdef int64_t whole
        cdef uint32_t debit, credit, currency
        cdef Py_ssize_t from_row, to_row
        cdef const Record *original
        reference = PyBytes_FromStringAndSize(<char *>record.reference, 16)
        pending = self.pending.get(reference)
        if pending is None:
            original = self._earlier(reference, base, seen, existing)
            if original != NULL and original.kind == KIND_PENDING:
                return RESOLVED
            return NO_REFERENCE
        debit, credit, currency, whole, _ = pending
        if record.timeout_s or record.flags & TRANSFER_REFUND:
            return BAD_KIND
        if record.kind == KIND_POST_PENDING and self.flags[debit] & FLAG_FROZEN:
            return IS_FROZEN
        if (
            (record.debit and record.debit != debit)
            or (record.credit and record.credit != credit)
            or record.currency != currency
        ):
            return NO_REFERENCE
        if record.kind == KIND_POST_PENDING and not record.flags & TRANSFER_ALL:
            if record.amount <= 0:
                return BAD_AMOUNT
            if record.amount > whole:
                return EXCEEDS
        elif record.amount and record.amount != whole:
            return BAD_AMOUNT
        else:
            record.amount = whole
        self._save(debit, currency)
        self._save(credit, currency)
        self._remember(self.pending, reference)
        del self.pending[reference]
        from_row = <Py_ssize_t>debit * CURRENCY_COUNT + currency
        to_row = <Py_ssize_t>credit * CURRENCY_COUNT + currency
        self.reserved[from_row] -= whole
        self.incoming[to_row] -= whole
        if record.kind == KIND_POST_PENDING:
            self.posted[from_row] -= record.amount
            self.posted[to_row] += record.amount
        record.debit = debit
        record.credit = credit
        record.pending_amount = whole
        record.previous_debit = self.last[debit]
        record.previous_credit = self.last[credit]
        return DONE

    # ---------------------------------------------------------------- what is on the disk already

    def replay(self, records, uint64_t entry, as_of):
        """Have stored transfers' effect on the columns anew, where a block is older than `entry`.

        Args:
            records: array of `TRANSFER`, as it is stored.
            as_of: for each block, the last entry that it has seen.
        """
        assert records.dtype == TRANSFER
        cdef const uint8_t[::1] raw = records.view(np.uint8)
        cdef const uint64_t[::1] seen_entries = as_of
        cdef Py_ssize_t total = records.shape[0], i
        cdef const Record *record
        cdef int64_t posted, reserved
        cdef int side
        cdef uint32_t account
        cdef Py_ssize_t row
        for i in range(total):
            record = <const Record *>&raw[i * <Py_ssize_t>sizeof(Record)]
            if record.kind > KIND_EXPIRE_PENDING:
                raise ValueError(f"entry {entry} has a transfer of no kind that is known")
            if record.kind == KIND_POST:
                posted, reserved = record.amount, 0
            elif record.kind == KIND_PENDING:
                posted, reserved = 0, record.amount
            else:
                posted = record.amount if record.kind == KIND_POST_PENDING else 0
                reserved = -record.pending_amount
            for side in range(2):
                account = record.credit if side else record.debit
                if not 0 < account < self.count or record.currency >= CURRENCY_COUNT:
                    raise ValueError(f"entry {entry} names account #{account}, which is not there")
                if seen_entries[account // BLOCK_ACCOUNTS] >= entry:
                    continue
                row = <Py_ssize_t>account * CURRENCY_COUNT + record.currency
                if side:
                    self.posted[row] += posted
                    self.incoming[row] += reserved
                else:
                    self.posted[row] -= posted
                    self.reserved[row] += reserved
                self.last[account] = entry << MAXIMUM_INDEX_BITS | <uint64_t>i
                self.dirty[account // BLOCK_ACCOUNTS] = 1


cdef bint is_repetition(const Record *record, const Record *stored) noexcept:
    """Whether a transfer asks for the same as one that was done under its id."""
    if (
        record.kind != stored.kind
        or record.currency != stored.currency
        or record.flags != stored.flags
        or record.timeout_s != stored.timeout_s
        or record.code != stored.code
        or memcmp(record.reference, stored.reference, 16)
    ):
        return False
    if record.kind == KIND_POST or record.kind == KIND_PENDING:
        return (
            record.debit == stored.debit
            and record.credit == stored.credit
            and record.amount == stored.amount
        )
    # What was left open has been filled in.
    return (
        (not record.debit or record.debit == stored.debit)
        and (not record.credit or record.credit == stored.credit)
        and (
            record.amount == stored.amount
            or (record.amount == 0 and record.kind != KIND_POST_PENDING)
            or (record.amount == 0 and record.flags & TRANSFER_ALL)
        )
    )
