"""The ledger: accounts and transfers, durable, behind one small interface.

    with open_ledger(folder, clock) as ledger:
        alice = await ledger.open_account(["user:alice"])
        (result,) = await ledger.transfer([Transfer(new_id(clock), ISSUE, alice, 10 * J.unit)])

`Ledger` is what the rest of the node knows; `LmdbLedger` keeps balances as columns in memory
(`billing.book`), every change in a log (`billing.journal`), and answers after the sync. Another
engine can stand behind the same interface: `tests/billing/test_contract.py` says what it owes.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import msgspec
import numpy as np
import outcome
from numpy.typing import NDArray

from billing import journal
from billing.accounts import (
    ADDRESSES_MAXIMUM,
    FIRST_USER_ACCOUNT,
    SYSTEM_ACCOUNTS,
    AccountInfo,
    AddressError,
    account_number_untrusted,
    normalise_address_untrusted,
)
from billing.book import BLOCK, CLOSED, FROZEN, SYSTEM, TRANSFER, Book
from billing.journal import AccountsEntry, EntryKind, Journal, SideWrite
from billing.money import CURRENCIES, Currency
from billing.transfers import ID_BYTES, NO_ID, Code, Kind, Result, Transfer, derive_id
from core.clock import Clock
from core.errors import OperationError
from core.store import Schema, Store, Tables, Writing, open_store
from core.units import NS_PER_S

ISSUE, BURN, FEES, NODE, ESCROW = range(1, FIRST_USER_ACCOUNT)
BATCH_TRANSFERS = 8192
"""Transfers of one call."""
ENTRY_TRANSFERS = 1 << 17
HISTORY_LINES = 1000
CHECKPOINT_BLOCKS = 16
"""Blocks of balances written beside a group of transfers, once `CHECKPOINT_ENTRIES` have come."""
CHECKPOINT_ENTRIES = 512

_ACCOUNTS = "accounts"
_ADDRESSES = "addresses"
_IDS = "transfer_ids"
_PENDING = "pending"
_REFUNDED = "refunded"
_BALANCES = "balances"
_STATE = "state"
SIDE_TABLES = ("deduplication", "outbox", "calls", "vouchers")
"""What side-writes may be to."""
TABLES = (
    *journal.TABLES,
    _ACCOUNTS,
    _ADDRESSES,
    _IDS,
    _PENDING,
    _REFUNDED,
    _BALANCES,
    _STATE,
    *SIDE_TABLES,
)
SCHEMA = Schema(1)
_REPLAY_FROM = b"replay from"
_CLOCK = b"clock"

_PACK = struct.Struct("<16s16sqqqQQIIIHHBB6x")
assert _PACK.size == TRANSFER.itemsize
_PENDING_VALUE = struct.Struct("<IIIqq")
_BLOCK_HEAD = struct.Struct("<QI")
_LINKED, _ALL, _REFUND = 1, 2, 4

_info_decoder = msgspec.msgpack.Decoder(AccountInfo)


class Balance(NamedTuple):
    """What an account has in one currency, in its smallest units.

    Attributes:
        posted: the balance.
        reserved: by its own pending transfers.
        incoming: what others' pending transfers may bring.
        held: by the meter, for the next seconds.
    """

    posted: int
    reserved: int
    incoming: int
    held: int

    @property
    def available(self) -> int:
        """What can be spent."""
        return self.posted - self.reserved - self.held


class HistoryLine(NamedTuple):
    """A transfer as it was done; `place` leads to the one before it, see `Ledger.history`."""

    place: int
    time_ns: int
    transfer: Transfer


class Ledger(Protocol):
    """Accounts and transfers. What a method has returned is durable."""

    async def open_account(self, addresses: Sequence[str] = ()) -> int:
        """A new account with these addresses, which nobody has yet; its number."""

    async def freeze(self, account: int, frozen: bool) -> None:
        """Let nothing leave the account, or end that."""

    async def close_account(self, account: int) -> None:
        """Let nothing happen on it any more; it has to be empty."""

    async def link(self, account: int, address: str) -> None:
        """Give the account one more address. An account that answers to it is merged: what it has
        and its addresses pass on, once, and it is closed."""

    async def unlink(self, account: int, address: str) -> None:
        """Take an address away; nobody answers to it then."""

    async def transfer(
        self, transfers: Sequence[Transfer], side_writes: Sequence[SideWrite] = ()
    ) -> list[Result]:
        """Do transfers in their order; those of a chain (`linked`) all or not at all.

        With `side_writes` the whole call is one chain, and they happen exactly if it does, in the
        same transaction; a call that was done before does not write them again.
        """

    def find(self, address: str) -> int | None:
        """Who answers to an address, or to `#17`."""

    def account(self, number: int) -> AccountInfo:
        """What is known of an account."""

    def accounts(self, first: int, limit: int) -> list[AccountInfo]:
        """Accounts in the order of their numbers, from `first` on."""

    def balance(self, account: int, currency: Currency) -> Balance:
        """What it has, with what is about to be made durable."""

    async def history(
        self, account: int, before: int | None = None, limit: int = 100
    ) -> list[HistoryLine]:
        """Its transfers, the last first; `before` is the `place` of the last line seen."""

    def read_side(self, table: str, key: bytes) -> bytes | None:
        """What a side-write has left."""


class _Batch(NamedTuple):
    """A call's transfers as they are to be stored, and what they name of what is stored."""

    records: bytes
    ids: list[bytes]
    side_writes: Sequence[SideWrite]

    @property
    def transfers(self) -> int:
        return len(self.records) // _PACK.size


def _batch(transfers: Sequence[Transfer], side_writes: Sequence[SideWrite] = ()) -> _Batch:
    ids = [one.id for one in transfers]
    for identity in ids:
        if len(identity) != ID_BYTES or identity == NO_ID:
            raise OperationError(f"the id of a transfer is {ID_BYTES} bytes, not all of them zero")
    ids += [one.reference for one in transfers if one.reference != NO_ID]
    return _Batch(b"".join(map(_pack, transfers)), ids, side_writes)


class LedgerClock:
    """Time that never goes back, over restarts and whatever happens to the wall clock: that is
    read once, at the start."""

    def __init__(self, clock: Clock, last_ns: int) -> None:
        self._clock = clock
        self._offset_ns = max(int(clock.unix_s() * NS_PER_S), last_ns) - clock.monotonic_ns()

    def now_ns(self) -> int:
        """Nanoseconds since 1970."""
        return self._clock.monotonic_ns() + self._offset_ns


class LmdbLedger:
    """The ledger in one LMDB environment; made by `open_ledger`."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._expiries: list[tuple[int, bytes]] = []
        self.book = Book()
        with store.read() as tables:
            self._journal = Journal(tables)
            stored = tables.get(_STATE, _CLOCK)
            self.clock = LedgerClock(clock, int.from_bytes(stored or b"", "big"))
        self._load()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Store every balance, so that the next start has nothing to do again, and close."""
        self._store.submit(lambda writing: self._checkpoint(writing, all_blocks=True)).result()
        self._store.close()

    @property
    def store(self) -> Store:
        """The environment, for what stands beside the ledger."""
        return self._store

    # ------------------------------------------------------------ reading

    def find(self, address: str) -> int | None:
        """See `Ledger`."""
        number = account_number_untrusted(address)
        if number is not None:
            return number if 0 < number < self.book.count else None
        with self._store.read() as tables:
            return _find(tables, address)

    def account(self, number: int) -> AccountInfo:
        """See `Ledger`.

        Raises:
            OperationError: there is none of that number.
        """
        with self._store.read() as tables:
            return _account(tables, number)

    def accounts(self, first: int, limit: int) -> list[AccountInfo]:
        """See `Ledger`."""
        with self._store.read() as tables:
            found = tables.items(_ACCOUNTS, _account_key(first), limit=limit)
        return [_info_decoder.decode(value) for _, value in found]

    def balance(self, account: int, currency: Currency) -> Balance:
        """See `Ledger`."""
        return Balance(*self.book.balance(account, currency.number))

    async def history(
        self, account: int, before: int | None = None, limit: int = 100
    ) -> list[HistoryLine]:
        """See `Ledger`."""
        lines: list[HistoryLine] = []
        place = 0
        if before is None:
            # Where it begins may not be on the disk yet, unless the writer says it.
            place = await self._store.write(lambda _: int(self.book.columns["last"][account]))
        with self._store.read() as tables:
            if before is not None:
                record = _record_at(tables, before)
                place = _previous(record, account)
            while place and len(lines) < min(limit, HISTORY_LINES):
                record = _record_at(tables, place)
                lines.append(HistoryLine(place, int(record["time_ns"]), _transfer(record)))
                place = _previous(record, account)
        return lines

    def read_side(self, table: str, key: bytes) -> bytes | None:
        """See `Ledger`."""
        assert table in SIDE_TABLES
        with self._store.read() as tables:
            return tables.get(table, key)

    # ------------------------------------------------------------ accounts

    async def open_account(self, addresses: Sequence[str] = ()) -> int:
        """See `Ledger`.

        Raises:
            AddressError: no address, or somebody else's.
        """
        wanted = [_own_address(address) for address in addresses]

        def write(writing: Writing) -> int:
            for address in wanted:
                if _find(writing, address) is not None:
                    raise AddressError(f"{address} belongs to an account already")
            return self._open(writing, tuple(dict.fromkeys(wanted)))

        return await self._store.write(write)

    async def freeze(self, account: int, frozen: bool) -> None:
        """See `Ledger`."""

        def write(writing: Writing) -> None:
            info = _account(writing, account)
            _assert_user(info)
            self._set(writing, [msgspec.structs.replace(info, frozen=frozen)], {})

        await self._store.write(write)

    async def close_account(self, account: int) -> None:
        """See `Ledger`.

        Raises:
            OperationError: it has something left.
        """

        def write(writing: Writing) -> None:
            info = _account(writing, account)
            _assert_user(info)
            for currency in CURRENCIES:
                if any(self.book.balance(account, currency.number)):
                    raise OperationError("only an empty account can be closed")
            closed = msgspec.structs.replace(info, closed=True, addresses=())
            self._set(writing, [closed], dict.fromkeys(info.addresses))

        await self._store.write(write)

    async def link(self, account: int, address: str) -> None:
        """See `Ledger`.

        Raises:
            AddressError, OperationError: it can't be linked.
        """
        wanted = _own_address(address)

        def write(writing: Writing) -> None:
            info = _account(writing, account)
            _assert_user(info)
            other_number = _find(writing, wanted)
            if other_number == account:
                return
            if other_number is None:
                added: tuple[str, ...] = (wanted,)
            else:
                other = _account(writing, other_number)
                _assert_user(other)
                added = other.addresses
            if len(info.addresses) + len(added) > ADDRESSES_MAXIMUM:
                raise OperationError(f"an account has {ADDRESSES_MAXIMUM} addresses at most")
            changed = [msgspec.structs.replace(info, addresses=info.addresses + added)]
            if other_number is not None:
                self._merge(writing, other_number, account)
                changed.append(
                    msgspec.structs.replace(other, addresses=(), closed=True, merged_into=account)
                )
            self._set(writing, changed, dict.fromkeys(added, account))

        await self._store.write(write)

    async def unlink(self, account: int, address: str) -> None:
        """See `Ledger`.

        Raises:
            OperationError: it is not the account's.
        """
        wanted = _own_address(address)

        def write(writing: Writing) -> None:
            info = _account(writing, account)
            if wanted not in info.addresses:
                raise OperationError(f"{wanted} is no address of this account")
            left = tuple(one for one in info.addresses if one != wanted)
            self._set(writing, [msgspec.structs.replace(info, addresses=left)], {wanted: None})

        await self._store.write(write)

    def _open(self, writing: Writing, addresses: tuple[str, ...], flags: int = 0) -> int:
        self._begin(writing)
        number = self.book.open(flags)
        info = AccountInfo(number=number, addresses=addresses, opened_ns=self.clock.now_ns())
        self._set(writing, [info], dict.fromkeys(addresses, number))
        return number

    def _set(
        self,
        writing: Writing,
        accounts: Sequence[AccountInfo],
        addresses: dict[str, int | None],
    ) -> None:
        """Store accounts as they are from now on, with what the log has to know."""
        self._begin(writing)
        for info in accounts:
            kept = int(self.book.columns["flags"][info.number]) & SYSTEM
            flags = kept | (FROZEN if info.frozen else 0) | (CLOSED if info.closed else 0)
            self.book.set_flags(info.number, flags)
        entry = AccountsEntry(accounts=tuple(accounts), addresses=addresses)
        _store_accounts(writing, entry)
        self._journal.append(writing, journal.encode_accounts(entry))

    def _merge(self, writing: Writing, source: int, target: int) -> None:
        """Move all that `source` has; what is pending there would be lost, so there may be none."""
        transfers = []
        for currency in CURRENCIES:
            balance = Balance(*self.book.balance(source, currency.number))
            if balance.reserved or balance.incoming:
                raise OperationError("the account has pending transfers: they come first")
            if balance.posted:
                base = self.clock.now_ns() // 1_000_000
                identity = derive_id(
                    base.to_bytes(6, "big") + bytes(10),
                    b"merge %d %d %d" % (source, target, currency.number),
                )
                transfers.append(
                    Transfer(
                        identity, source, target, balance.posted, currency.number, code=Code.MERGE
                    )
                )
        if transfers:
            (results,) = self._do(writing, [_batch(_chained(transfers))])
            for result in results:
                if not result.is_done:
                    raise OperationError(f"the accounts can't be merged: {result.name}")

    # ------------------------------------------------------------ transfers

    async def transfer(
        self, transfers: Sequence[Transfer], side_writes: Sequence[SideWrite] = ()
    ) -> list[Result]:
        """See `Ledger`.

        Raises:
            OperationError: too many at once, or the disk is full.
        """
        if len(transfers) > BATCH_TRANSFERS:
            raise OperationError(f"a call has {BATCH_TRANSFERS} transfers at most")
        for side_write in side_writes:
            assert side_write.table in SIDE_TABLES
        if side_writes:
            transfers = _chained(transfers)
        batch = _batch(transfers, side_writes)
        results: list[Result] = await self._store.write_together(self._transfer_together, batch)
        return results

    def _transfer_together(
        self, writing: Writing, batches: list[_Batch]
    ) -> list[outcome.Outcome[list[Result]]]:
        return [outcome.Value(results) for results in self._do(writing, batches)]

    def _do(self, writing: Writing, batches: Sequence[_Batch]) -> list[list[Result]]:
        """Do the transfers of many calls as one entry of the log."""
        self._begin(writing)
        now_ns = self.clock.now_ns()
        expired = _batch(self._due(writing, now_ns))
        records = np.frombuffer(
            bytearray().join([expired.records, *(batch.records for batch in batches)]), TRANSFER
        )
        records["time_ns"] = now_ns
        ids = expired.ids + [identity for batch in batches for identity in batch.ids]
        codes, done = self.book.apply(records, self._journal.head + 1, self._existing(writing, ids))
        results = [Result(code) for code in codes.tolist()]
        split: list[list[Result]] = []
        side_writes: list[SideWrite] = []
        position = expired.transfers
        for batch in batches:
            part = results[position : position + batch.transfers]
            position += batch.transfers
            split.append(part)
            if all(result is Result.DONE for result in part):
                side_writes += batch.side_writes
        if len(done) or side_writes:
            stored = records[done]
            entry = self._journal.append(
                writing, journal.encode_transfers(stored, tuple(side_writes))
            )
            _store_ids(writing, stored, entry)
            self._store_pending(writing, stored)
            _store_side_writes(writing, side_writes)
            writing.put(_STATE, _CLOCK, now_ns.to_bytes(8, "big"))
            self._checkpoint(writing)
        return split

    def _begin(self, writing: Writing) -> None:
        """Have memory follow the transaction's fate."""
        mark = self.book.mark()
        writing.on_abort(lambda: self.book.undo_to(mark))
        writing.after_commit(self.book.forget_undo)

    def _due(self, writing: Writing, now_ns: int) -> list[Transfer]:
        """Pending transfers whose time is over."""
        due = []
        while self._expiries and self._expiries[0][0] <= now_ns:
            expiry = heapq.heappop(self._expiries)
            identity = expiry[1]
            writing.on_abort(partial(heapq.heappush, self._expiries, expiry))
            if identity in self.book.pending:
                due.append(
                    Transfer(
                        derive_id(identity, b"expire"),
                        0,
                        0,
                        0,
                        self.book.pending[identity][2],
                        kind=Kind.EXPIRE_PENDING,
                        reference=identity,
                    )
                )
        return due

    def _existing(self, tables: Tables, ids: Sequence[bytes]) -> dict[bytes, bytes]:
        places = tables.get_many(_IDS, ids)
        found: dict[bytes, bytes] = {}
        for identity, value in places.items():
            place = int.from_bytes(value, "big")
            found[identity] = _record_at(tables, place).tobytes()
        return found

    def _store_pending(self, writing: Writing, stored: NDArray[np.void]) -> None:
        unusual = np.flatnonzero((stored["kind"] != Kind.POST) | (stored["flags"] & _REFUND != 0))
        for index in unusual.tolist():
            record = stored[index]
            reference = record["reference"].tobytes()
            if record["kind"] == Kind.PENDING:
                identity = record["id"].tobytes()
                pending = self.book.pending.get(identity)
                if pending is None:
                    continue
                writing.put(_PENDING, identity, _PENDING_VALUE.pack(*pending))
                if pending[4]:
                    heapq.heappush(self._expiries, (pending[4], identity))
            elif record["kind"] == Kind.POST:
                total = self.book.refunded[reference]
                writing.put(_REFUNDED, reference, total.to_bytes(8, "big"))
            else:
                writing.delete(_PENDING, reference)

    # ------------------------------------------------------------ checkpoint and start

    def _checkpoint(self, writing: Writing, *, all_blocks: bool = False) -> None:
        """Store balances that have changed, some of them, so that a start has little to do."""
        head = self._journal.head
        state = writing.get(_STATE, _REPLAY_FROM)
        replayed_from = int.from_bytes(state or b"", "big")
        if not all_blocks and head - replayed_from < CHECKPOINT_ENTRIES:
            return
        dirty = self.book.dirty_blocks
        changed = np.flatnonzero(dirty)
        columns = self.book.columns
        for block in changed.tolist():
            first, end = block * BLOCK, min((block + 1) * BLOCK, self.book.count)
            value = b"".join(
                [
                    _BLOCK_HEAD.pack(head, end - first),
                    *(
                        np.ascontiguousarray(columns[name][first:end]).tobytes()
                        for name in ("posted", "reserved", "incoming", "last")
                    ),
                ]
            )
            writing.put(_BALANCES, block.to_bytes(4, "big"), value)
        writing.put(_STATE, _REPLAY_FROM, head.to_bytes(8, "big"))
        kept = dirty.copy()

        def clear() -> None:
            self.book.dirty_blocks[: len(kept)][changed] = 0

        writing.after_commit(clear)

    def _load(self) -> None:
        """Make the columns from what is stored: checkpoint, then the log after it."""
        self.book.open(SYSTEM | CLOSED)
        with self._store.read() as tables:
            is_new = tables.count(_ACCOUNTS) == 0
        if is_new:
            self._store.submit(self._create).result()
            return
        self._load_accounts()
        as_of = np.zeros(len(self.book.dirty_blocks), np.uint64)
        columns = self.book.columns
        with self._store.read() as tables:
            state = tables.get(_STATE, _REPLAY_FROM)
            for key, value in tables.items(_BALANCES, limit=1 << 30):
                block = int.from_bytes(key, "big")
                seen, count = _BLOCK_HEAD.unpack_from(value)
                as_of[block] = seen
                offset, first = _BLOCK_HEAD.size, block * BLOCK
                for name in ("posted", "reserved", "incoming", "last"):
                    column = columns[name]
                    part = column[first : first + count]
                    part[...] = np.frombuffer(value, column.dtype, part.size, offset).reshape(
                        part.shape
                    )
                    offset += part.nbytes
            for key, value in tables.items(_PENDING, limit=1 << 30):
                pending = _PENDING_VALUE.unpack(value)
                self.book.pending[key] = pending
                if pending[4]:
                    heapq.heappush(self._expiries, (pending[4], key))
            for key, value in tables.items(_REFUNDED, limit=1 << 30):
                self.book.refunded[key] = int.from_bytes(value, "big")
        first_entry = int.from_bytes(state or b"", "big") + 1
        for number, entry in journal.walk(self._store, first_entry, self._journal.head):
            if entry[0] == EntryKind.TRANSFERS:
                self.book.replay(journal.decode_transfers(entry).records, number, as_of)
        self.book.forget_undo()

    def _load_accounts(self) -> None:
        first = 0
        while True:
            with self._store.read() as tables:
                found = tables.items(_ACCOUNTS, _account_key(first), limit=10_000)
            if not found:
                return
            for _, value in found:
                info = _info_decoder.decode(value)
                system = SYSTEM if info.number < FIRST_USER_ACCOUNT else 0
                number = self.book.open(
                    system | (FROZEN if info.frozen else 0) | (CLOSED if info.closed else 0)
                )
                assert number == info.number
                first = number + 1

    def _create(self, writing: Writing) -> None:
        for number, name in enumerate(SYSTEM_ACCOUNTS, 1):
            assert self._open(writing, (name,), SYSTEM) == number


def open_ledger(
    folder: Path, clock: Clock, on_fatal: Callable[[str], object] | None = None, **options: Any
) -> LmdbLedger:
    """Open the ledger in `folder`, which is made where it is missing.

    Raises:
        OperationError: it can't be opened, and what to do.
    """
    if on_fatal is not None:
        options["on_fatal"] = on_fatal
    store = open_store(folder, tables=TABLES, schema=SCHEMA, **options)
    try:
        return LmdbLedger(store, clock)
    except BaseException:
        store.close()
        raise


def _own_address(address: str) -> str:
    normal = normalise_address_untrusted(address)
    if normal in SYSTEM_ACCOUNTS:
        raise AddressError(f"{normal} is the ledger's own")
    return normal


def _assert_user(info: AccountInfo) -> None:
    if info.number < FIRST_USER_ACCOUNT:
        raise OperationError("this is one of the ledger's own accounts")
    if info.closed:
        raise OperationError("the account is closed")


def _account_key(number: int) -> bytes:
    return number.to_bytes(4, "big")


def _find(tables: Tables, address: str) -> int | None:
    value = tables.get(_ADDRESSES, address.encode())
    return None if value is None else int.from_bytes(value, "big")


def _account(tables: Tables, number: int) -> AccountInfo:
    value = tables.get(_ACCOUNTS, _account_key(number)) if 0 < number < 2**32 else None
    if value is None:
        raise OperationError(f"there is no account #{number}")
    return _info_decoder.decode(value)


def _store_accounts(writing: Writing, entry: AccountsEntry) -> None:
    for info in entry.accounts:
        writing.put(_ACCOUNTS, _account_key(info.number), msgspec.msgpack.encode(info))
    for address, number in entry.addresses.items():
        if number is None:
            writing.delete(_ADDRESSES, address.encode())
        else:
            writing.put(_ADDRESSES, address.encode(), _account_key(number))


def _store_ids(writing: Writing, stored: NDArray[np.void], entry: int) -> None:
    first = entry << 20
    raw = stored["id"].tobytes()
    items = [
        (raw[16 * index : 16 * index + 16], (first + index).to_bytes(8, "big"))
        for index in range(len(stored))
    ]
    items.sort()
    writing.put_many(_IDS, items)


def _store_side_writes(writing: Writing, side_writes: Iterable[SideWrite]) -> None:
    for side_write in side_writes:
        if side_write.value is None:
            writing.delete(side_write.table, side_write.key)
        else:
            writing.put(side_write.table, side_write.key, side_write.value)


def _chained(transfers: Sequence[Transfer]) -> list[Transfer]:
    last = len(transfers) - 1
    return [one._replace(linked=index < last) for index, one in enumerate(transfers)]


def _pack(one: Transfer) -> bytes:
    flags = _LINKED if one.linked else 0
    if one.kind == Kind.POST_PENDING and not one.amount:
        flags |= _ALL
    if one.refund:
        flags |= _REFUND
    try:
        return _PACK.pack(
            one.id,
            one.reference,
            one.amount,
            0,
            0,
            0,
            0,
            one.debit,
            one.credit,
            one.timeout_s,
            one.code,
            flags,
            one.kind,
            one.currency,
        )
    except struct.error as error:
        raise OperationError(f"a transfer has a number out of range: {error}") from error


def _record_at(tables: Tables, place: int) -> np.void:
    entry = tables.get(journal.LOG, journal.entry_key(place >> 20))
    assert entry is not None
    raw = journal.transfer_bytes(entry, place & 0xFFFFF)
    record: np.void = np.frombuffer(raw, TRANSFER)[0]
    return record


def _previous(record: np.void, account: int) -> int:
    if record["debit"] == account:
        return int(record["previous_debit"])
    assert record["credit"] == account
    return int(record["previous_credit"])


def _transfer(record: np.void) -> Transfer:
    return Transfer(
        record["id"].tobytes(),
        int(record["debit"]),
        int(record["credit"]),
        int(record["amount"]),
        int(record["currency"]),
        Kind(int(record["kind"])),
        Code(int(record["code"])),
        record["reference"].tobytes(),
        int(record["timeout_s"]),
        bool(record["flags"] & _LINKED),
        bool(record["flags"] & _REFUND),
    )
