# cython: boundscheck=False, wraparound=False, cdivision=True
"""Charges sessions by the second: arrays of counters in, charges and verdicts out.

A session is a slot in columns. What it has cost so far is a function of what its counters say,
taken anew each time from the beginning of its segment, so that rounding can't drift and a counter
that is read twice is charged once. It holds the price of the next seconds ahead: what is held is
spent for everybody else. No account is ever charged more than it has.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

import numpy as np

from billing.book cimport BLOCK_ACCOUNTS, CURRENCY_COUNT, FLAG_CLOSED, FLAG_FROZEN, Book
from billing.money import J
from core.limits import PRICE_MAXIMUM_J

cdef extern from *:
    bint multiply_overflows "__builtin_mul_overflow"(int64_t, int64_t, int64_t *) nogil

cdef enum:
    _SESSION_BLOCK = 4096
    _SLICE_S = 30
    _IDLE_SLICE_S = 2
    _IDLE_S = 60
    _MEGABYTE = 1000000
    # A slice is renewed when a fifth of it is left.
    _RENEW_SHARE = 5

cdef uint32_t _UNLIMITED_S = 0xFFFFFFFF
cdef int64_t _ROW_CHARGE_MAXIMUM = 0xFFFFFFFF
cdef int64_t _TICK_CHARGE_MAXIMUM = _ROW_CHARGE_MAXIMUM << 14
# Of the seconds and of the bytes of a segment, each: together they still fit, and no account has as
# much.
cdef int64_t SEGMENT_COST_MAXIMUM = 1 << 61

SLICE_S = _SLICE_S
"""Seconds held ahead."""
IDLE_SLICE_S = _IDLE_SLICE_S
"""Seconds held by a session that has relayed nothing for `IDLE_S`."""
IDLE_S = _IDLE_S
UNLIMITED_S = _UNLIMITED_S
"""A grant that does not end."""
MEGABYTE = _MEGABYTE
SESSION_BLOCK = _SESSION_BLOCK
"""Sessions of a block of the checkpoint."""
ROW_CHARGE_MAXIMUM = _ROW_CHARGE_MAXIMUM
"""micro-J of one `ROW`."""
TICK_CHARGE_MAXIMUM = _TICK_CHARGE_MAXIMUM
"""micro-J of one session in one tick, so that its rows fit memory; what is over comes with the next
tick. It is more than a slice and as many megabytes cost at the largest price."""
PRICE_MAXIMUM = PRICE_MAXIMUM_J * J.unit
"""micro-J a second or a megabyte: what a slice costs, and the rest of a megabyte, fits 64 bits."""
assert 2 * PRICE_MAXIMUM * _SLICE_S < _TICK_CHARGE_MAXIMUM
assert PRICE_MAXIMUM * _SLICE_S < 2**63 and PRICE_MAXIMUM * _MEGABYTE < 2**63

ROW = np.dtype([("slot", "<u4"), ("account", "<u4"), ("charge", "<u4"), ("seconds", "<u4")])
"""One session's part of a tick, 16 bytes: micro-J charged since the last one, and the seconds up to
which it is charged now. A charge that is larger takes several rows."""

NO_SLOT, NO_MONEY = -1, -2
"""Why no session was opened."""

cdef enum:
    STATE_FREE = 0
    STATE_LIVE = 1
    STATE_WARNED = 2
    STATE_STOPPED = 3

FREE, LIVE, WARNED, STOPPED = STATE_FREE, STATE_LIVE, STATE_WARNED, STATE_STOPPED

cdef packed struct Row:
    uint32_t slot
    uint32_t account
    uint32_t charge
    uint32_t seconds

assert ROW.itemsize == sizeof(Row)

cdef packed struct Before:
    uint32_t slot
    uint32_t seconds
    uint32_t active_at_s
    uint32_t granted
    uint64_t bytes
    int64_t cost
    int64_t held
    uint8_t state
    uint8_t unused[7]

BEFORE = np.dtype(
    [
        ("slot", "<u4"),
        ("seconds", "<u4"),
        ("active_at_s", "<u4"),
        ("granted", "<u4"),
        ("bytes", "<u8"),
        ("cost", "<i8"),
        ("held", "<i8"),
        ("state", "u1"),
        ("unused", "V7"),
    ]
)
assert BEFORE.itemsize == sizeof(Before)

COLUMNS = {
    "account": np.uint32,
    "into": np.uint32,
    "price_second": np.int64,
    "price_megabyte": np.int64,
    "seconds": np.uint32,
    "bytes": np.uint64,
    "cost": np.int64,
    "segment_seconds": np.uint32,
    "segment_bytes": np.uint64,
    "held": np.int64,
    "granted": np.uint32,
    "active_at_s": np.uint32,
    "state": np.uint8,
}
"""Of a session: who pays whom, micro-J a second and a megabyte, what it is charged for (seconds,
bytes, micro-J), where its segment began, what it holds, up to which second it may relay, when it
was active last, and its state."""


class Tick:
    """What a tick has come to.

    Attributes:
        rows: array of `ROW`, what was charged.
        credits: account -> micro-J, where the charges went.
        granted: (slots, seconds): up to which second of theirs sessions may relay now.
        warned: slots that hold their last seconds, told once.
        stopped: slots that have used up all that they had, told once.
        changed: array of `BEFORE`, for undoing.
    """

    __slots__ = ("changed", "credits", "granted", "rows", "stopped", "warned")


cdef int64_t second_cost(uint64_t seconds, int64_t price_second) noexcept nogil:
    cdef int64_t cost
    if multiply_overflows(<int64_t>seconds, price_second, &cost) or cost > SEGMENT_COST_MAXIMUM:
        return SEGMENT_COST_MAXIMUM
    return cost


cdef int64_t byte_cost(uint64_t count, int64_t price_megabyte) noexcept nogil:
    """Rounded down, and never by more than once a segment."""
    cdef uint64_t whole = count // _MEGABYTE, rest = count % _MEGABYTE
    cdef uint64_t price = <uint64_t>price_megabyte
    if price and whole >= <uint64_t>SEGMENT_COST_MAXIMUM // price:
        return SEGMENT_COST_MAXIMUM
    # A price has PRICE_MAXIMUM at most, so that the product fits.
    return <int64_t>(whole * price + rest * price // _MEGABYTE)


cdef class Meter:
    """The sessions that are charged.

    Args:
        book: whose columns pay.
        capacity: how many there may be; a node has a bound on allocations.
    """

    cdef readonly Book book
    cdef readonly Py_ssize_t capacity
    cdef readonly Py_ssize_t live
    cdef object _columns
    cdef list _free
    cdef Py_ssize_t _unused
    cdef readonly object dirty
    cdef int64_t[::1] _credits
    cdef uint8_t[::1] _dirty
    cdef uint32_t[::1] account
    cdef uint32_t[::1] into
    cdef int64_t[::1] price_second
    cdef int64_t[::1] price_megabyte
    cdef uint32_t[::1] seconds
    cdef uint64_t[::1] bytes
    cdef int64_t[::1] cost
    cdef uint32_t[::1] segment_seconds
    cdef uint64_t[::1] segment_bytes
    cdef int64_t[::1] held
    cdef uint32_t[::1] granted
    cdef uint32_t[::1] active_at_s
    cdef uint8_t[::1] state

    def __init__(self, Book book, Py_ssize_t capacity):
        self.book = book
        self.capacity = capacity
        self.live = 0
        columns = {name: np.zeros(capacity, kind) for name, kind in COLUMNS.items()}
        self._columns = columns
        self._free = []
        self._unused = 0
        self._credits = np.zeros(0, np.int64)
        self.dirty = np.zeros(-(-capacity // SESSION_BLOCK), np.uint8)
        self._dirty = self.dirty
        self.account = columns["account"]
        self.into = columns["into"]
        self.price_second = columns["price_second"]
        self.price_megabyte = columns["price_megabyte"]
        self.seconds = columns["seconds"]
        self.bytes = columns["bytes"]
        self.cost = columns["cost"]
        self.segment_seconds = columns["segment_seconds"]
        self.segment_bytes = columns["segment_bytes"]
        self.held = columns["held"]
        self.granted = columns["granted"]
        self.active_at_s = columns["active_at_s"]
        self.state = columns["state"]

    @property
    def columns(self):
        """Name -> array over all slots; those of `COLUMNS`."""
        return self._columns

    @property
    def used(self):
        """One more than the highest slot that was ever used."""
        return self._unused

    def slots(self):
        """The slots of all sessions."""
        return np.flatnonzero(self._columns["state"][: self._unused] != FREE).tolist()

    def paid_by(self, account):
        """The slots of the sessions that an account pays for."""
        accounts = self._columns["account"][: self._unused]
        states = self._columns["state"][: self._unused]
        return np.flatnonzero((accounts == account) & (states != FREE)).tolist()

    def open(
        self,
        uint32_t account,
        uint32_t into,
        int64_t price_second,
        int64_t price_megabyte,
        uint32_t now_s,
    ):
        """Begin a session and hold its first slice; returns its slot, `NO_SLOT` when there is none
        left, `NO_MONEY` when the account can't pay for one second. `now_s` is of a clock that goes
        forward."""
        cdef Py_ssize_t slot
        assert 0 < account < self.book.count and 0 < into < self.book.count
        assert 0 <= price_second <= PRICE_MAXIMUM and 0 <= price_megabyte <= PRICE_MAXIMUM
        if self._free:
            slot = self._free.pop()
        elif self._unused < self.capacity:
            slot = self._unused
            self._unused += 1
        else:
            return NO_SLOT
        self.account[slot] = account
        self.into[slot] = into
        self.price_second[slot] = price_second
        self.price_megabyte[slot] = price_megabyte
        self.seconds[slot] = self.segment_seconds[slot] = 0
        self.bytes[slot] = self.segment_bytes[slot] = 0
        self.cost[slot] = self.held[slot] = 0
        self.active_at_s[slot] = now_s
        self.granted[slot] = 0
        self.state[slot] = STATE_LIVE
        self._dirty[slot // _SESSION_BLOCK] = 1
        if self._hold(slot, now_s) == 0:
            self._release(slot)
            self.state[slot] = STATE_FREE
            self._free.append(slot)
            return NO_MONEY
        self.live += 1
        return slot

    def change(
        self,
        Py_ssize_t slot,
        uint32_t into,
        int64_t price_second,
        int64_t price_megabyte,
        uint32_t now_s,
    ):
        """Begin a new segment at another price, from the next second on; its cost begins at 0.

        Returns:
            what `undo_segments` takes.
        """
        assert 0 <= slot < self.capacity and self.state[slot] != STATE_FREE
        assert 0 < into < self.book.count
        assert 0 <= price_second <= PRICE_MAXIMUM and 0 <= price_megabyte <= PRICE_MAXIMUM
        before = self._segments([slot])
        self.into[slot] = into
        self.price_second[slot] = price_second
        self.price_megabyte[slot] = price_megabyte
        self._begin_segment(slot, now_s)
        # Who can't pay for a second of it is told of by the next tick, also if one was before.
        self.state[slot] = STATE_LIVE
        return before

    def reassign(self, slots, uint32_t account, uint32_t now_s):
        """Have `account` pay for sessions from here on; what they hold of the other is free.

        Returns:
            what `undo_segments` takes: nothing of it is stored yet.
        """
        cdef Py_ssize_t slot
        before = self._segments(slots)
        assert 0 < account < self.book.count
        for slot in slots:
            assert 0 <= slot < self.capacity and self.state[slot] != STATE_FREE
            self._release(slot)
            self.account[slot] = account
            self._begin_segment(slot, now_s)
            # The next tick is to tell what is granted, whether or not it is the same.
            self.granted[slot] = self.seconds[slot]
        return before

    cdef void _begin_segment(self, Py_ssize_t slot, uint32_t now_s) noexcept nogil:
        self._release(slot)
        self.cost[slot] = 0
        self.segment_seconds[slot] = self.seconds[slot]
        self.segment_bytes[slot] = self.bytes[slot]
        self._dirty[slot // _SESSION_BLOCK] = 1
        self._hold(slot, now_s)

    def _segments(self, slots):
        return [
            (slot, {name: column[slot] for name, column in self._columns.items()})
            for slot in slots
        ]

    def let_go(self, slots):
        """Free what sessions hold that are about to be closed; returns what `undo_let_go` takes."""
        cdef Py_ssize_t slot
        before = slots, self._columns["held"][slots]
        for slot in slots:
            self._release(slot)
        return before

    def undo_let_go(self, before):
        """Take it back."""
        cdef Py_ssize_t slot
        for slot, held in zip(*before, strict=True):
            self.held[slot] = held
            self.book.held[self.account[slot]] += held

    def undo_segments(self, before):
        """Take `change` or `reassign` back, the last one first."""
        cdef Py_ssize_t slot
        for slot, columns in before:
            self._release(slot)
            for name, value in columns.items():
                self._columns[name][slot] = value
            self.book.held[self.account[slot]] += self.held[slot]

    def close(self, Py_ssize_t slot):
        """End a session after its last tick; what it holds is free again."""
        assert 0 <= slot < self.capacity and self.state[slot] != STATE_FREE
        self._release(slot)
        self.state[slot] = STATE_FREE
        self._free.append(slot)
        self.live -= 1

    cdef void _release(self, Py_ssize_t slot) noexcept nogil:
        self.book.held[self.account[slot]] -= self.held[slot]
        self.held[slot] = 0

    cdef int64_t _available(self, uint32_t account) noexcept nogil:
        """What nobody has reserved or holds."""
        cdef Py_ssize_t row = <Py_ssize_t>account * CURRENCY_COUNT
        if self.book.flags[account] & (FLAG_FROZEN | FLAG_CLOSED):
            return 0
        return self.book.posted[row] - self.book.reserved[row] - self.book.held[account]

    cdef uint32_t _hold(self, Py_ssize_t slot, uint32_t now_s) noexcept nogil:
        """Renew the slice where little of it is left, and grant what it pays for; returns how many
        seconds may follow those that are charged."""
        cdef uint32_t account = self.account[slot]
        cdef int64_t price = self.price_second[slot]
        cdef int64_t wanted, available, spare, left_s
        cdef int64_t slice_s = _SLICE_S
        if self.book.flags[account] & (FLAG_FROZEN | FLAG_CLOSED):
            # Nothing leaves it any more, what was held included.
            self._release(slot)
            self.granted[slot] = self.seconds[slot]
            return 0
        if now_s > self.active_at_s[slot] and now_s - self.active_at_s[slot] >= _IDLE_S:
            slice_s = _IDLE_SLICE_S
        if price == 0:
            # By the megabyte alone, or for nothing: a second's worth can't be told beforehand.
            if self.price_megabyte[slot] and self._available(account) <= 0:
                self.granted[slot] = self.seconds[slot]
                return 0
            self.granted[slot] = _UNLIMITED_S
            return _UNLIMITED_S
        wanted = price * slice_s
        if self.held[slot] > wanted:
            spare = self.held[slot] - wanted
            self.held[slot] -= spare
            self.book.held[account] -= spare
        elif self.held[slot] <= wanted // _RENEW_SHARE or slice_s == _IDLE_SLICE_S:
            available = self._available(account)
            wanted -= self.held[slot]
            if wanted > available:
                # No more than whole seconds: what is left over is of use to others.
                wanted = (available + self.held[slot]) // price * price - self.held[slot]
            if wanted > 0:
                self.held[slot] += wanted
                self.book.held[account] += wanted
        left_s = self.held[slot] // price
        if left_s > <int64_t>_UNLIMITED_S - 1 - self.seconds[slot]:
            left_s = <int64_t>_UNLIMITED_S - 1 - self.seconds[slot]
        self.granted[slot] = <uint32_t>(self.seconds[slot] + left_s)
        return <uint32_t>left_s

    def tick(self, slots, active_seconds, relayed_bytes, uint32_t now_s):
        """Charge sessions for what their counters say.

        Args:
            slots: uint32, each at most once; those that ended since are left out.
            active_seconds, relayed_bytes: uint64, each session's since it was opened.
            now_s: seconds of a clock that goes forward.

        Returns:
            a `Tick`.
        """
        cdef const uint32_t[::1] slot_of = slots
        cdef const uint64_t[::1] seconds_of = active_seconds
        cdef const uint64_t[::1] bytes_of = relayed_bytes
        cdef Py_ssize_t count = slot_of.shape[0]
        assert seconds_of.shape[0] == bytes_of.shape[0] == count
        assert not count or slots.max() < self.capacity
        rows = np.empty(count, ROW)
        changed = np.empty(count, BEFORE)
        granted = np.empty(count, np.uint32)
        granted_slots = np.empty(count, np.uint32)
        warned = np.empty(count, np.uint32)
        stopped = np.empty(count, np.uint32)
        paid = np.empty(count, np.uint32)
        if self._credits.shape[0] < self.book.count:
            # By account, all 0 between ticks: those that are paid are few, and told by `paid`.
            self._credits = np.zeros(2 * self.book.count, np.int64)
        cdef uint8_t[::1] row_bytes = rows.view(np.uint8) if count else np.zeros(1, np.uint8)
        cdef uint8_t[::1] before_bytes = changed.view(np.uint8) if count else np.zeros(1, np.uint8)
        cdef Row *row_at = <Row *>&row_bytes[0]
        cdef Before *before_at = <Before *>&before_bytes[0]
        cdef uint32_t[::1] granted_to = granted, granted_slot = granted_slots
        cdef uint32_t[::1] warned_at = warned, stopped_at = stopped
        cdef int64_t[::1] credit_at = self._credits
        cdef uint32_t[::1] paid_at = paid
        cdef Py_ssize_t i, slot, row_count = 0, grant_count = 0, warned_count = 0
        cdef Py_ssize_t stopped_count = 0, changed_count = 0, paid_count = 0
        cdef uint32_t account, into, left_s, was_granted
        cdef uint64_t seconds
        cdef int64_t cost, charge, own, payable
        cdef Before *before
        large = []
        with nogil:
            for i in range(count):
                slot = slot_of[i]
                if self.state[slot] == STATE_FREE:
                    continue
                account = self.account[slot]
                before = &before_at[changed_count]
                changed_count += 1
                before.slot = <uint32_t>slot
                before.seconds = self.seconds[slot]
                before.active_at_s = self.active_at_s[slot]
                before.granted = self.granted[slot]
                before.bytes = self.bytes[slot]
                before.cost = self.cost[slot]
                before.held = self.held[slot]
                before.state = self.state[slot]
                was_granted = self.granted[slot]
                seconds = seconds_of[i]
                if seconds > _UNLIMITED_S - 1:
                    seconds = _UNLIMITED_S - 1
                # Counters only grow; one that is read again charges nothing.
                if seconds < self.seconds[slot]:
                    seconds = self.seconds[slot]
                if seconds > self.seconds[slot] or bytes_of[i] > self.bytes[slot]:
                    self.active_at_s[slot] = now_s
                self.seconds[slot] = <uint32_t>seconds
                self._dirty[slot // _SESSION_BLOCK] = 1
                if bytes_of[i] > self.bytes[slot]:
                    self.bytes[slot] = bytes_of[i]
                cost = second_cost(
                    seconds - self.segment_seconds[slot], self.price_second[slot]
                ) + byte_cost(
                    self.bytes[slot] - self.segment_bytes[slot], self.price_megabyte[slot]
                )
                charge = cost - self.cost[slot]
                if charge > _TICK_CHARGE_MAXIMUM:
                    charge = _TICK_CHARGE_MAXIMUM
                if charge > 0:
                    own = self.held[slot]
                    payable = own + self._available(account)
                    if payable < own:
                        payable = own
                    if charge > payable:
                        charge = payable
                    own = charge if charge < own else own
                    self.held[slot] -= own
                    self.book.held[account] -= own
                    self.book.posted[<Py_ssize_t>account * CURRENCY_COUNT] -= charge
                    self.book.dirty[account // BLOCK_ACCOUNTS] = 1
                    self.cost[slot] += charge
                    if charge > 0:
                        into = self.into[slot]
                        if credit_at[into] == 0:
                            paid_at[paid_count] = into
                            paid_count += 1
                        credit_at[into] += charge
                        if charge > _ROW_CHARGE_MAXIMUM:
                            with gil:
                                large.append((row_count, charge))
                            charge = _ROW_CHARGE_MAXIMUM
                        row_at[row_count].slot = <uint32_t>slot
                        row_at[row_count].account = account
                        row_at[row_count].charge = <uint32_t>charge
                        row_at[row_count].seconds = <uint32_t>seconds
                        row_count += 1
                left_s = self._hold(slot, now_s)
                if self.granted[slot] != was_granted:
                    granted_slot[grant_count] = <uint32_t>slot
                    granted_to[grant_count] = self.granted[slot]
                    grant_count += 1
                if left_s == 0:
                    if self.state[slot] != STATE_STOPPED:
                        self.state[slot] = STATE_STOPPED
                        stopped_at[stopped_count] = <uint32_t>slot
                        stopped_count += 1
                elif (
                    self.state[slot] == STATE_LIVE
                    and self.price_second[slot]
                    and self.held[slot] < self.price_second[slot] * _SLICE_S // _RENEW_SHARE
                    and now_s - self.active_at_s[slot] < _IDLE_S
                ):
                    self.state[slot] = STATE_WARNED
                    warned_at[warned_count] = <uint32_t>slot
                    warned_count += 1
                elif (
                    self.state[slot] != STATE_LIVE
                    and self.held[slot] >= self.price_second[slot] * _SLICE_S // 2
                ):
                    # Somebody has paid in.
                    self.state[slot] = STATE_LIVE
            for i in range(paid_count):
                into = paid_at[i]
                self.book.posted[<Py_ssize_t>into * CURRENCY_COUNT] += credit_at[into]
                self.book.dirty[into // BLOCK_ACCOUNTS] = 1
        payees = np.sort(paid[:paid_count])
        credits = np.asarray(self._credits)
        result = Tick()
        result.rows = _with_large(rows[:row_count], large)
        result.credits = dict(zip(payees.tolist(), credits[payees].tolist(), strict=True))
        credits[payees] = 0
        result.granted = granted_slots[:grant_count], granted[:grant_count]
        result.warned = warned[:warned_count]
        result.stopped = stopped[:stopped_count]
        result.changed = changed[:changed_count]
        return result

    def restore(self, slots, accounts, into):
        """Take up sessions that are stored, to be replayed and closed; arrays of uint32."""
        cdef Py_ssize_t slot
        assert self.live == 0 and self._unused == 0
        if not len(slots):
            return
        if slots.max() >= self.capacity or len(np.unique(slots)) != len(slots):
            raise ValueError("sessions are stored in slots that there can't be")
        sides = np.concatenate([accounts, into])
        if not 0 < sides.min() <= sides.max() < self.book.count:
            raise ValueError("a session names an account that is not there")
        columns = self._columns
        columns["account"][slots] = accounts
        columns["into"][slots] = into
        columns["state"][slots] = STATE_STOPPED
        self.live = len(slots)
        self._unused = int(slots.max()) + 1
        self._free = np.flatnonzero(columns["state"][: self._unused] == STATE_FREE).tolist()

    def replay(self, rows, credits, uint64_t entry, account_as_of, session_as_of):
        """Have a stored tick's effect on the columns anew, where a block is older than `entry`.

        Args:
            rows: array of `ROW`, as it is stored.
            credits: account -> micro-J.
            account_as_of, session_as_of: for each block, the last entry that it has seen.
        """
        assert rows.dtype == ROW
        cdef Py_ssize_t count = len(rows), i, slot
        cdef const uint64_t[::1] accounts_seen = account_as_of
        cdef const uint64_t[::1] sessions_seen = session_as_of
        cdef const uint8_t[::1] raw
        cdef const Row *row
        cdef uint32_t account
        if credits and not 0 < min(credits) <= max(credits) < self.book.count:
            raise ValueError(f"the tick in entry {entry} pays into an account that is not there")
        for account, amount in credits.items():
            if accounts_seen[account // BLOCK_ACCOUNTS] < entry:
                self.book.posted[<Py_ssize_t>account * CURRENCY_COUNT] += amount
                self.book.dirty[account // BLOCK_ACCOUNTS] = 1
        if not count:
            return
        if rows["slot"].max() >= self.capacity or rows["account"].max() >= self.book.count:
            raise ValueError(f"the tick in entry {entry} names what is not there")
        raw = rows.view(np.uint8)
        with nogil:
            for i in range(count):
                row = &(<const Row *>&raw[0])[i]
                account = row.account
                if accounts_seen[account // BLOCK_ACCOUNTS] < entry:
                    self.book.posted[<Py_ssize_t>account * CURRENCY_COUNT] -= row.charge
                    self.book.dirty[account // BLOCK_ACCOUNTS] = 1
                slot = row.slot
                if sessions_seen[slot // _SESSION_BLOCK] < entry:
                    self.cost[slot] += row.charge
                    self.seconds[slot] = row.seconds
                    self._dirty[slot // _SESSION_BLOCK] = 1

    def undo(self, tick):
        """Take a tick back, the newest first: it has not been stored."""
        cdef const Before *before
        cdef Py_ssize_t i, slot, count = len(tick.changed)
        cdef uint32_t account
        cdef uint8_t[::1] raw
        for account, amount in tick.credits.items():
            self.book.posted[<Py_ssize_t>account * CURRENCY_COUNT] -= amount
        if not count:
            return
        raw = tick.changed.view(np.uint8)
        for i in range(count):
            before = &(<const Before *>&raw[0])[i]
            slot = before.slot
            account = self.account[slot]
            self.book.posted[<Py_ssize_t>account * CURRENCY_COUNT] += self.cost[slot] - before.cost
            self.book.held[account] += before.held - self.held[slot]
            self.seconds[slot] = before.seconds
            self.active_at_s[slot] = before.active_at_s
            self.granted[slot] = before.granted
            self.bytes[slot] = before.bytes
            self.cost[slot] = before.cost
            self.held[slot] = before.held
            self.state[slot] = before.state


def _with_large(rows, large):
    """Rows, with more of them for charges that one can't hold."""
    if not large:
        return rows
    more = []
    for index, charge in large:
        whole, rest = divmod(charge - ROW_CHARGE_MAXIMUM, ROW_CHARGE_MAXIMUM)
        added = np.repeat(rows[index : index + 1], whole + (rest > 0))
        if rest:
            added["charge"][len(added) - 1] = rest
        more.append(added)
    return np.concatenate([rows, *more])
