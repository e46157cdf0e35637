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
import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import sha256
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
from billing.book import BLOCK, CLOSED, REFUND, SYSTEM, TRANSFER, Book
from billing.checkpoint import Checkpoint, Columns
from billing.history import HistoryLine, HistoryReader, Latest
from billing.journal import (
    AccountsEntry,
    EntryKind,
    Journal,
    SessionInfo,
    SideWrite,
)
from billing.meter import SESSION_BLOCK, Meter
from billing.money import CURRENCIES, Currency, J
from billing.packing import Also, Batch, Keeps, batch_of, chained, unpack
from billing.tables import (
    ACCOUNTS,
    BALANCES,
    CHARGED,
    CLOCK,
    DEDUPLICATION,
    IDS,
    PENDING,
    PENDING_VALUE,
    REFUNDED,
    REPLAY_FROM,
    SCHEMA,
    SESSIONS,
    SIDE_TABLES,
    STATE,
    TABLES,
    UNREADABLE,
    account_key,
    decode_info,
    find_account,
    flags_of,
    read_account,
    read_record,
    session_key,
    store_accounts,
    store_ids,
    store_side_writes,
)
from billing.transfers import (
    Code,
    Kind,
    Result,
    Transfer,
    TransferRefused,
    derive_id,
    refusal_of,
)
from core.clock import Clock
from core.errors import OperationError
from core.store import SomeFailed, Store, Write, open_store
from core.store_files import damaged
from core.tables import Tables, Writing
from core.units import NS_PER_S

ISSUE, BURN, FEES, NODE, ESCROW = range(1, FIRST_USER_ACCOUNT)
BATCH_TRANSFERS = 8192
"""Transfers of one call."""
ENTRY_TRANSFERS = 1 << 17
HISTORY_LINES = 1000
SESSIONS_MAXIMUM = 1 << 20
"""Sessions that are charged at a time; memory is taken for those that were used."""


_PACK = struct.Struct("<16s16sqqqQQIIIHHBB6x")

EXPIRIES_SPARED = 1024
"""Ends of pending transfers that are kept in vain at most, beside as many as there are."""

_RESULTS = tuple(Result)
_log = logging.getLogger("montana.ledger")


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


class Chain(NamedTuple):
    """Transfers that are done together or not at all, and what is written with them."""

    transfers: Sequence[Transfer]
    side_writes: Sequence[SideWrite] = ()


Opening = Callable[[int], Chain]
"""What is done with a new account, of that number."""


class Ledger(Protocol):
    """Accounts and transfers. What a method has returned is durable.

    `once` is an id as a transfer's, in a room of its own: under it an act on accounts happens once,
    and is answered as the first time when it is asked for again, by the same name: who has had no
    answer asks by an address that may be another's since, or nobody's. An act is on the account of
    a number, or on the one that answers to an address then, and returns its number.
    """

    async def open_account(
        self,
        addresses: Sequence[str] = (),
        once: bytes | None = None,
        grant: int = 0,
        opening: Opening | None = None,
        also: Also | None = None,
    ) -> int:
        """A new account with these addresses, which nobody has yet; its number. `grant`: micro-J
        that `issue` gives it, in the same transaction, as are the transfers of `opening`."""

    async def freeze(self, account: int | str, frozen: bool, once: bytes | None = None) -> int:
        """Let nothing leave the account, or end that."""

    async def close_account(self, account: int | str, once: bytes | None = None) -> int:
        """Let nothing happen on it any more; it has to be empty."""

    async def link(
        self,
        account: int | str,
        address: str,
        once: bytes | None = None,
        also: Also | None = None,
        keeps: Keeps | None = None,
    ) -> int:
        """Give the account one more address. An account that answers to it is merged: what it has
        and its addresses pass on, once, and it is closed. One that `keeps` says keeps what it has
        gives up this address alone."""

    async def unlink(self, account: int | str, address: str, once: bytes | None = None) -> int:
        """Take an address away; nobody answers to it then."""

    async def transfer(
        self,
        transfers: Sequence[Transfer],
        side_writes: Sequence[SideWrite] = (),
        also: Also | None = None,
    ) -> list[Result]:
        """Do transfers in their order; those of a chain (`linked`) all or not at all.

        With `side_writes` or `also` the whole call is one chain, and they happen exactly if it
        does, in the same transaction; a call that was done before does not write them again.
        Side-writes stand in the log, what `also` writes does not.
        """

    def find(self, address: str) -> int | None:
        """Who answers to an address, or to `#17`."""

    def account(self, number: int) -> AccountInfo:
        """What is known of an account."""

    def accounts(self, first: int, limit: int) -> list[AccountInfo]:
        """Accounts in the order of their numbers, from `first` on."""

    def balance(self, account: int, currency: Currency) -> Balance:
        """What it has, with what is about to be made durable."""

    async def balances(self, accounts: Sequence[int]) -> list[dict[Currency, Balance]]:
        """What each has in every currency, all at one moment; all of it is durable."""

    def find_transfer(self, identity: bytes) -> Transfer | None:
        """The transfer of that id, as it was done."""

    def refunded(self, identity: bytes) -> int:
        """How much of the transfer of that id was refunded, with what is about to be made
        durable."""

    def heir(self, account: int) -> int:
        """Who has taken an account over, at the end of all merges; itself where nobody has. A
        refund leads from the payee's heir to the payer's."""

    def lineage(self, account: int) -> list[int]:
        """All accounts that were merged with this one, itself and their heir included, which is the
        first."""

    async def history(
        self, account: int, before: int | None = None, limit: int = 100
    ) -> list[HistoryLine]:
        """Its transfers and sessions, the last first, before the line at place `before`, which has
        to be one of its lines."""

    async def latest(self, account: int, limit: int = 100) -> Latest:
        """The first page of its history, with what all of its lines add up to at that moment."""

    def read_side(self, table: str, key: bytes) -> bytes | None:
        """What a side-write has left."""

    def look_up(
        self, addresses: Sequence[str], table: str, key: bytes
    ) -> tuple[list[int | None], bytes | None]:
        """`find` of each address and `read_side`, all at one moment."""


PassOn = Callable[[Writing, int, Callable[[], None], int], None]


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
    """The ledger in one LMDB environment; made by `open_ledger`.

    Attributes:
        walkers: who walks the log from its beginning; nothing is pruned meanwhile.
    """

    def __init__(self, store: Store, clock: Clock, sessions: int) -> None:
        self._store = store
        self._closed = False
        self.walkers = 0
        self._expiries: list[tuple[int, bytes]] = []
        self.book = Book()
        self.paid_into: set[int] = set()
        """Accounts that the tariff pays into: they can't be closed, nor merged into others."""
        self.pays_for_sessions: PassOn = lambda _writing, _source, move, _target: move()
        """Has sessions that an account pays for pass on with what it has; set by who charges."""
        self.meter = Meter(self.book, sessions)
        self._checkpoints = (
            Checkpoint(
                Columns(
                    BALANCES,
                    ("posted", "reserved", "incoming", "last"),
                    BLOCK,
                    lambda: (self.book.columns, self.book.count),
                    lambda: self.book.dirty_blocks,
                )
            ),
            Checkpoint(
                Columns(
                    CHARGED,
                    ("seconds", "bytes", "cost"),
                    SESSION_BLOCK,
                    lambda: (self.meter.columns, self.meter.used),
                    lambda: self.meter.dirty,
                )
            ),
        )
        with store.read() as tables:
            self._journal = Journal(tables)
            stored = tables.get(STATE, CLOCK)
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
        """Store every balance, so that the next start has nothing to do again, and close. May be
        called twice."""
        if self._closed:
            return
        self._closed = True
        try:
            self._store.submit(self._store_all).result()
        except OperationError as error:
            # The log has it all.
            _log.warning("the balances were not stored, the next start counts anew: %s", error)
        finally:
            self._store.close()

    @property
    def store(self) -> Store:
        """The environment, for what stands beside the ledger."""
        return self._store

    # ------------------------------------------------------------ reading

    def find(self, address: str) -> int | None:
        """See `Ledger`."""
        with self._store.read() as tables:
            return self._find(tables, address)

    def _find(self, tables: Tables, address: str) -> int | None:
        number = account_number_untrusted(address)
        if number is not None:
            return number if 0 < number < self.book.count else None
        return find_account(tables, address)

    def account(self, number: int) -> AccountInfo:
        """See `Ledger`.

        Raises:
            OperationError: there is none of that number.
        """
        with self._store.read() as tables:
            return read_account(tables, number)

    def accounts(self, first: int, limit: int) -> list[AccountInfo]:
        """See `Ledger`."""
        with self._store.read() as tables:
            found = tables.items(ACCOUNTS, account_key(first), limit=limit)
        return [decode_info(value) for _, value in found]

    def balance(self, account: int, currency: Currency) -> Balance:
        """See `Ledger`."""
        return Balance(*self.book.balance(account, currency.number))

    def find_transfer(self, identity: bytes) -> Transfer | None:
        """See `Ledger`."""
        with self._store.read() as tables:
            found = self._existing(tables, [identity])
        if identity not in found:
            return None
        return unpack(np.frombuffer(found[identity], TRANSFER)[0])

    def refunded(self, identity: bytes) -> int:
        """See `Ledger`."""
        return int(self.book.refunded.get(identity, 0))

    def heir(self, account: int) -> int:
        """See `Ledger`."""
        return self.book.heir(account)

    def lineage(self, account: int) -> list[int]:
        """See `Ledger`."""
        found = [self.heir(account)]
        for one in found:
            found.extend(self.book.absorbed.get(one, ()))
        return found

    async def balances(self, accounts: Sequence[int]) -> list[dict[Currency, Balance]]:
        """See `Ledger`."""
        return await self._store.write(
            lambda _: [
                {currency: self.balance(account, currency) for currency in CURRENCIES}
                for account in accounts
            ]
        )

    async def history(
        self, account: int, before: int | None = None, limit: int = 100
    ) -> list[HistoryLine]:
        """See `Ledger`.

        Raises:
            OperationError: `before` is no place of the account's.
        """
        if before is None:
            return (await self.latest(account, limit)).lines
        with self._store.read() as tables:
            reader = HistoryReader(tables)
            if not reader.is_line_untrusted(before, account):
                raise OperationError("the account's history has no line at this place", "no_line")
            _, place = reader.line_at(before, account)
            return _lines_from(reader, account, place, limit)

    async def latest(self, account: int, limit: int = 100) -> Latest:
        """See `Ledger`."""

        # Where it begins may not be on the disk yet, unless the writer says it.
        def read(writing: Writing) -> tuple[int, dict[Currency, int]]:
            settled = {one: self.balance(account, one).posted for one in CURRENCIES}
            slots = self.meter.paid_by(account)
            # Those that have no record yet.
            living = writing.get_many(SESSIONS, [session_key(slot) for slot in slots])
            costs = self.meter.columns["cost"]
            settled[J] += sum(int(costs[int.from_bytes(key, "big")]) for key in living)
            return int(self.book.columns["last"][account]), settled

        place, settled = await self._store.write(read)
        with self._store.read() as tables:
            return Latest(_lines_from(HistoryReader(tables), account, place, limit), settled)

    def read_side(self, table: str, key: bytes) -> bytes | None:
        """See `Ledger`."""
        assert table in SIDE_TABLES
        with self._store.read() as tables:
            return tables.get(table, key)

    def look_up(
        self, addresses: Sequence[str], table: str, key: bytes
    ) -> tuple[list[int | None], bytes | None]:
        """See `Ledger`."""
        assert table in SIDE_TABLES
        with self._store.read() as tables:
            return [self._find(tables, one) for one in addresses], tables.get(table, key)

    # ------------------------------------------------------------ accounts

    async def open_account(
        self,
        addresses: Sequence[str] = (),
        once: bytes | None = None,
        grant: int = 0,
        opening: Opening | None = None,
        also: Also | None = None,
    ) -> int:
        """See `Ledger`.

        Raises:
            AddressError: no address, or somebody else's.
            TransferRefused: of the grant or of `opening`; no account was opened.
        """
        wanted = [_own_address(address) for address in addresses]

        def write(writing: Writing) -> int:
            for address in wanted:
                if find_account(writing, address) is not None:
                    raise AddressError(
                        f"{address} belongs to an account already", "address_taken", address=address
                    )
            number = self._open(writing, tuple(dict.fromkeys(wanted)))
            if grant:
                self._grant(writing, number, grant)
            if opening is not None:
                transfers, side_writes = opening(number)
                self._do_all(writing, batch_of(chained(transfers), side_writes))
            return number

        # Without the grant: of another configuration it is still the same act.
        return await self._act(once, ("open", *wanted), write, also)

    async def freeze(self, account: int | str, frozen: bool, once: bytes | None = None) -> int:
        """See `Ledger`."""

        def write(writing: Writing) -> int:
            info = _named(writing, account)
            _assert_user(info)
            self._set(writing, [msgspec.structs.replace(info, frozen=frozen)], {})
            return info.number

        return await self._act(once, ("freeze", account, frozen), write)

    async def close_account(self, account: int | str, once: bytes | None = None) -> int:
        """See `Ledger`.

        Raises:
            OperationError: it has something left.
        """

        def write(writing: Writing) -> int:
            info = _named(writing, account)
            _assert_user(info)
            self._assert_not_paid(info.number)
            for currency in CURRENCIES:
                if any(self.book.balance(info.number, currency.number)):
                    raise OperationError("only an empty account can be closed", "not_empty")
            closed = msgspec.structs.replace(info, closed=True, addresses=())
            self._set(writing, [closed], dict.fromkeys(info.addresses))
            return info.number

        return await self._act(once, ("close", account), write)

    async def link(
        self,
        account: int | str,
        address: str,
        once: bytes | None = None,
        also: Also | None = None,
        keeps: Keeps | None = None,
    ) -> int:
        """See `Ledger`.

        Raises:
            AddressError, OperationError: it can't be linked.
        """
        wanted = _own_address(address)

        def write(writing: Writing) -> int:
            info = _named(writing, account)
            _assert_user(info)
            number, other_number = info.number, find_account(writing, wanted)
            if other_number == number:
                return number
            added: tuple[str, ...] = (wanted,)
            is_kept = False
            if other_number is not None:
                other = read_account(writing, other_number)
                _assert_user(other)
                if other.frozen:
                    raise OperationError(
                        f"{wanted} belongs to an account that is frozen",
                        "address_frozen",
                        address=wanted,
                    )
                is_kept = keeps is not None and keeps(writing, other_number)
                if not is_kept:
                    self._assert_not_paid(other_number)
                    added = other.addresses
            if len(info.addresses) + len(added) > ADDRESSES_MAXIMUM:
                raise OperationError(
                    f"an account has {ADDRESSES_MAXIMUM} addresses at most",
                    "too_many_addresses",
                    maximum=ADDRESSES_MAXIMUM,
                )
            changed = [msgspec.structs.replace(info, addresses=info.addresses + added)]
            if is_kept:
                left = tuple(one for one in other.addresses if one != wanted)
                changed.append(msgspec.structs.replace(other, addresses=left))
            elif other_number is not None:
                merge = partial(self._merge, writing, other_number, number)
                self.pays_for_sessions(writing, other_number, merge, number)
                changed.append(
                    msgspec.structs.replace(other, addresses=(), closed=True, merged_into=number)
                )
            self._set(writing, changed, dict.fromkeys(added, number))
            return number

        return await self._act(once, ("link", account, wanted), write, also)

    async def unlink(self, account: int | str, address: str, once: bytes | None = None) -> int:
        """See `Ledger`.

        Raises:
            OperationError: it is not the account's.
        """
        wanted = _own_address(address)

        def write(writing: Writing) -> int:
            info = _named(writing, account)
            if wanted not in info.addresses:
                raise OperationError(
                    f"{wanted} is no address of this account", "others_address", address=wanted
                )
            left = tuple(one for one in info.addresses if one != wanted)
            self._set(writing, [msgspec.structs.replace(info, addresses=left)], {wanted: None})
            return info.number

        return await self._act(once, ("unlink", account, wanted), write)

    async def _act(
        self,
        once: bytes | None,
        act: tuple[object, ...],
        write: Write[int],
        also: Also | None = None,
    ) -> int:
        """Have `write` done, which returns an account's number; under the id `once` not again.

        Raises:
            OperationError: another act was done under this id.
        """

        def write_all(writing: Writing) -> int:
            number = write(writing)
            if also is not None:
                also(writing)
            return number

        if once is None:
            return await self._store.write(write_all)
        key = b"act " + once
        content = sha256(msgspec.msgpack.encode(act)).digest()

        def write_once(writing: Writing) -> int:
            stored = writing.get(DEDUPLICATION, key)
            if stored is not None:
                if stored[4:] != content:
                    raise OperationError(
                        "something else was done under this id; make a new id for what is new",
                        "other_act",
                    )
                return int.from_bytes(stored[:4], "big")
            number = write_all(writing)
            self.begin(writing)
            done = SideWrite(DEDUPLICATION, key, account_key(number) + content)
            store_side_writes(writing, [done])
            self.append(writing, journal.encode_transfers(np.empty(0, TRANSFER), (done,)))
            return number

        return await self._store.write(write_once)

    def _assert_not_paid(self, account: int) -> None:
        if account in self.paid_into:
            raise OperationError(
                "the tariff pays into this account; name another one there first", "tariff_account"
            )

    def _open(self, writing: Writing, addresses: tuple[str, ...], flags: int = 0) -> int:
        self.begin(writing)
        number = self.book.open(flags)
        info = AccountInfo(number=number, addresses=addresses, opened_ns=self.clock.now_ns())
        self._set(writing, [info], dict.fromkeys(addresses, number))
        return number

    def _grant(self, writing: Writing, account: int, amount: int) -> None:
        """Welcome a new account with so many micro-J."""
        base = (self.clock.now_ns() // 1_000_000).to_bytes(6, "big") + bytes(10)
        identity = derive_id(base, b"welcome %d" % account)
        while writing.get(IDS, identity) is not None:
            # Somebody has made a transfer under it, to keep the account from its grant.
            identity = derive_id(identity, b"welcome")
        grant = Transfer(identity, ISSUE, account, amount, J.number, code=Code.WELCOME)
        self._do_all(writing, batch_of([grant]))

    def _set(
        self,
        writing: Writing,
        accounts: Sequence[AccountInfo],
        addresses: dict[str, int | None],
    ) -> None:
        """Store accounts as they are from now on, with what the log has to know."""
        self.begin(writing)
        for info in accounts:
            self.book.set_flags(info.number, flags_of(info))
            if info.merged_into is not None and info.number not in self.book.heirs:
                self.book.merge(info.number, info.merged_into)
        entry = AccountsEntry(accounts=tuple(accounts), addresses=addresses)
        store_accounts(writing, entry)
        self.append(writing, journal.encode_accounts(entry))

    def _merge(self, writing: Writing, source: int, target: int) -> None:
        """Move all that `source` has; what is pending there would be lost, so there may be none."""
        transfers = []
        for currency in CURRENCIES:
            balance = Balance(*self.book.balance(source, currency.number))
            if balance.reserved or balance.incoming:
                raise OperationError(
                    "the account has pending transfers: they come first", "pending_first"
                )
            assert not balance.held, "whoever charges sessions has let go of it"
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
            self._do_all(writing, batch_of(chained(transfers)))

    # ------------------------------------------------------------ transfers

    async def transfer(
        self,
        transfers: Sequence[Transfer],
        side_writes: Sequence[SideWrite] = (),
        also: Also | None = None,
    ) -> list[Result]:
        """See `Ledger`.

        Raises:
            OperationError: too many at once, or the disk is full.
        """
        if len(transfers) > BATCH_TRANSFERS:
            raise OperationError(f"a call has {BATCH_TRANSFERS} transfers at most")
        for side_write in side_writes:
            assert side_write.table in SIDE_TABLES
        if side_writes or also is not None:
            transfers = chained(transfers)
        closed = len(transfers)
        while closed and transfers[closed - 1].linked:
            closed -= 1
        # A chain without its end is nobody's but this caller's.
        batch = batch_of(transfers[:closed], side_writes, also)
        results: list[Result] = await self._store.write_together(self._transfer_together, batch)
        return results + [Result.OPEN_CHAIN] * (len(transfers) - closed)

    def _transfer_together(
        self, writing: Writing, batches: list[Batch]
    ) -> list[outcome.Outcome[list[Result]]]:
        codes: list[NDArray[np.uint8]] = []
        part: list[Batch] = []
        size = 0
        for batch in batches:
            if part and size + batch.transfers > ENTRY_TRANSFERS:
                codes += self._do(writing, part)
                part, size = [], 0
            part.append(batch)
            size += batch.transfers
        codes += self._do(writing, part)
        refused: dict[int, Exception] = {}
        for place, (batch, one) in enumerate(zip(batches, codes, strict=True)):
            if batch.also is not None and not one.any():
                error = writing.attempt(batch.also)
                if error is not None:
                    refused[place] = error
        if refused:
            raise SomeFailed(refused)
        return [outcome.Value([_RESULTS[code] for code in one.tolist()]) for one in codes]

    def _do_all(self, writing: Writing, batch: Batch) -> None:
        """Do all transfers of a chain.

        Raises:
            TransferRefused: says which can't be done; the transaction has to end with that.
        """
        (codes,) = self._do(writing, [batch])
        results = [_RESULTS[code] for code in codes.tolist()]
        refusal = refusal_of(results)
        if refusal is not None:
            raise TransferRefused(refusal)

    def _do(self, writing: Writing, batches: Sequence[Batch]) -> list[NDArray[np.uint8]]:
        """Do the transfers of many calls as one entry of the log; returns results as numbers."""
        self.begin(writing)
        now_ns = self.clock.now_ns()
        expired = batch_of(self._due(writing, now_ns))
        records = np.frombuffer(
            bytearray().join([expired.records, *(batch.records for batch in batches)]), TRANSFER
        )
        records["time_ns"] = now_ns
        ids = expired.ids + [identity for batch in batches for identity in batch.ids]
        codes, done = self.book.apply(records, self._journal.head + 1, self._existing(writing, ids))
        split: list[NDArray[np.uint8]] = []
        side_writes: list[SideWrite] = []
        position = expired.transfers
        for batch in batches:
            part = codes[position : position + batch.transfers]
            position += batch.transfers
            split.append(part)
            if batch.side_writes and not part.any():
                side_writes += batch.side_writes
        if len(done) or side_writes:
            stored = records[done]
            entry = self.append(writing, journal.encode_transfers(stored, tuple(side_writes)))
            store_ids(writing, stored, entry)
            self._store_pending(writing, stored)
            store_side_writes(writing, side_writes)
        return split

    @property
    def next_expiry_ns(self) -> int | None:
        """When a pending transfer's time is over, on the ledger's clock; None where none has one.
        What is over is given free with the next transfer, or by `expire`."""
        # One look: the writer's thread may take it away meanwhile.
        first = self._expiries[:1]
        return first[0][0] if first else None

    def expire(self, writing: Writing) -> None:
        """Give free what pending transfers have reserved whose time is over."""
        if self._expiries and self._expiries[0][0] <= self.clock.now_ns():
            self._do(writing, [])

    def begin(self, writing: Writing) -> None:
        """Have memory follow the transaction's fate."""
        mark = self.book.mark()
        writing.on_abort(lambda: self.book.undo_to(mark))
        writing.after_commit(self.book.forget_undo)

    def _due(self, writing: Writing, now_ns: int) -> list[Transfer]:
        """Pending transfers whose time is over."""
        due: dict[bytes, Transfer] = {}
        while self._expiries and self._expiries[0][0] <= now_ns and len(due) < ENTRY_TRANSFERS:
            expiry = heapq.heappop(self._expiries)
            expires_ns, identity = expiry
            writing.on_abort(partial(heapq.heappush, self._expiries, expiry))
            pending = self.book.pending.get(identity)
            # It may have been resolved, or refused with its commit and done again later.
            if pending is not None and pending[4] == expires_ns:
                expiry_id = derive_id(identity, b"expire")
                while writing.get(IDS, expiry_id) is not None:
                    # Somebody has made a transfer under it, to keep this one from its end.
                    expiry_id = derive_id(expiry_id, b"expire")
                due[identity] = Transfer(
                    expiry_id, 0, 0, 0, pending[2], kind=Kind.EXPIRE_PENDING, reference=identity
                )
        return list(due.values())

    def _tidy_expiries(self) -> None:
        """Forget the ends of what is no longer pending, once they are the most of them. For after a
        commit: what is undone would be pending again."""
        if len(self._expiries) > 2 * len(self.book.pending) + EXPIRIES_SPARED:
            self._expiries[:] = _expiries_of(self.book.pending)

    def _existing(self, tables: Tables, ids: Sequence[bytes]) -> dict[bytes, bytes]:
        places = tables.get_many(IDS, ids)
        found: dict[bytes, bytes] = {}
        for identity, value in places.items():
            place = int.from_bytes(value, "big")
            found[identity] = read_record(tables, place).tobytes()
        return found

    def _store_pending(self, writing: Writing, stored: NDArray[np.void]) -> None:
        refunds = stored["flags"] & REFUND != 0
        unusual = np.flatnonzero((stored["kind"] != Kind.POST) | refunds)
        for index in unusual.tolist():
            record = stored[index]
            reference = record["reference"].tobytes()
            if record["kind"] == Kind.PENDING:
                identity = record["id"].tobytes()
                pending = self.book.pending.get(identity)
                if pending is None:
                    continue
                writing.put(PENDING, identity, PENDING_VALUE.pack(*pending))
                if pending[4]:
                    heapq.heappush(self._expiries, (pending[4], identity))
            elif record["kind"] == Kind.POST:
                total = self.book.refunded[reference]
                writing.put(REFUNDED, reference, total.to_bytes(8, "big"))
            else:
                writing.delete(PENDING, reference)
        if len(unusual):
            writing.after_commit(self._tidy_expiries)

    # ------------------------------------------------------------ the log, and the start

    @property
    def head(self) -> int:
        """The log's last entry."""
        return self._journal.head

    def append(self, writing: Writing, entry: bytes) -> int:
        """Write an entry whose effect on the columns has been had already; returns its number."""
        number = self._journal.append(writing, entry)
        replay_from = min(one.write(writing, number, len(entry)) for one in self._checkpoints)
        writing.put(STATE, REPLAY_FROM, replay_from.to_bytes(8, "big"))
        writing.put(STATE, CLOCK, self.clock.now_ns().to_bytes(8, "big"))
        return number

    def _store_all(self, writing: Writing) -> None:
        for checkpoint in self._checkpoints:
            checkpoint.write_all(writing, self._journal.head)
        writing.put(STATE, REPLAY_FROM, self._journal.head.to_bytes(8, "big"))

    def _load(self) -> None:
        """Make the columns from what is stored: checkpoint, then the log after it."""
        self.book.open(SYSTEM | CLOSED)
        with self._store.read() as tables:
            is_new = tables.count(ACCOUNTS) == 0
        if is_new:
            self._store.submit(self._create).result()
            return
        self._load_accounts()
        self._restore_sessions()
        with self._store.read() as tables:
            state = tables.get(STATE, REPLAY_FROM)
            accounts_as_of, sessions_as_of = (one.load(tables) for one in self._checkpoints)
            for key, value in tables.items(PENDING, limit=1 << 30):
                debit, credit, currency, *_ = pending = PENDING_VALUE.unpack(value)
                if not (self._is_account(debit) and self._is_account(credit)):
                    raise ValueError("a pending transfer names an account that is not there")
                if currency >= len(CURRENCIES):
                    raise ValueError("a pending transfer is of no currency that is known")
                self.book.pending[key] = pending
            for key, value in tables.items(REFUNDED, limit=1 << 30):
                self.book.refunded[key] = int.from_bytes(value, "big")
            first_entry = int.from_bytes(state or b"", "big") + 1
            link = journal.FIRST_LINK
            if first_entry > 1:
                key = journal.entry_key(first_entry - 1)
                link = tables.get(journal.CHAIN, key) or b""
        self._expiries = _expiries_of(self.book.pending)
        for number, entry in journal.walk(self._store, first_entry, self._journal.head):
            link = journal.next_link(link, entry)
            kind = entry[0]
            if kind == EntryKind.TRANSFERS:
                records = journal.decode_transfers(entry).records
                self.book.replay(records, number, accounts_as_of)
            elif kind == EntryKind.TICK:
                tick = journal.decode_tick(entry)
                for info in tick.opened:
                    if not 0 <= info.slot < self.meter.capacity:
                        raise ValueError(f"entry {number} names a session that there can't be")
                    if sessions_as_of[info.slot // SESSION_BLOCK] < number:
                        self.meter.columns["seconds"][info.slot] = info.seconds_before
                        self.meter.columns["bytes"][info.slot] = info.bytes_before
                        self.meter.columns["cost"][info.slot] = 0
                self.meter.replay(tick.rows, tick.credits, number, accounts_as_of, sessions_as_of)
            elif kind == EntryKind.RECORDS:
                for index, record in enumerate(journal.decode_records(entry)):
                    if not self._is_account(record.account):
                        raise ValueError(f"entry {number} names an account that is not there")
                    if accounts_as_of[record.account // BLOCK] < number:
                        self.book.point(record.account, journal.place_of(number, index))
        if link != self._journal.link:
            raise ValueError("the log's entries are not those that its chain was made of")
        self.book.forget_undo()
        for checkpoint in self._checkpoints:
            checkpoint.resume(first_entry)

    def _is_account(self, number: int) -> bool:
        return 0 < number < self.book.count

    def _restore_sessions(self) -> None:
        """Take up the sessions that a crash has left; whoever runs the meter closes them."""
        infos = list(self.sessions())
        self.meter.restore(
            np.array([info.slot for info in infos], np.uint32),
            np.array([info.account for info in infos], np.uint32),
            np.array([info.into for info in infos], np.uint32),
        )

    def sessions(self) -> Iterator[SessionInfo]:
        """The sessions that are stored as living."""
        start = b""
        while True:
            with self._store.read() as tables:
                found = tables.items(SESSIONS, start, limit=10_000)
            if not found:
                return
            for _, value in found:
                yield journal.decode_session(value)
            start = found[-1][0] + b"\0"

    def _load_accounts(self) -> None:
        merged: dict[int, int] = {}
        first = 0
        while True:
            with self._store.read() as tables:
                found = tables.items(ACCOUNTS, account_key(first), limit=10_000)
            if not found:
                break
            for _, value in found:
                info = decode_info(value)
                number = self.book.open(flags_of(info))
                if number != info.number:
                    raise ValueError(f"account #{number} is stored as #{info.number}")
                if info.merged_into is not None:
                    merged[number] = info.merged_into
                first = number + 1

        for number, heir in merged.items():
            if not self._is_account(heir) or self.book.heir(heir) == number:
                raise ValueError(f"account #{number} is merged into #{heir}, which can't be")
            self.book.merge(number, heir)

    def _create(self, writing: Writing) -> None:
        for number, name in enumerate(SYSTEM_ACCOUNTS, 1):
            made = self._open(writing, (name,), SYSTEM)
            assert made == number, "accounts are numbered from 1 on"


def open_ledger(
    folder: Path, clock: Clock, *, sessions: int = SESSIONS_MAXIMUM, **options: Any
) -> LmdbLedger:
    """Open the ledger in `folder`, which is made where it is missing.

    Raises:
        OperationError: it can't be opened, and what to do.
    """
    store = open_store(folder, tables=TABLES, schema=SCHEMA, **options)
    try:
        return LmdbLedger(store, clock, sessions)
    except (*UNREADABLE, AssertionError) as error:
        store.close()
        raise damaged(folder, str(error) or type(error).__name__) from error
    except BaseException:
        store.close()
        raise


def _expiries_of(pending: dict[bytes, tuple[int, int, int, int, int]]) -> list[tuple[int, bytes]]:
    """A heap of when those end that have an end."""
    expiries = [(one[4], identity) for identity, one in pending.items() if one[4]]
    heapq.heapify(expiries)
    return expiries


def _own_address(address: str) -> str:
    normal = normalise_address_untrusted(address)
    if normal in SYSTEM_ACCOUNTS:
        raise AddressError(f"{normal} is the ledger's own", "system_address", address=normal)
    return normal


def _assert_user(info: AccountInfo) -> None:
    if info.number < FIRST_USER_ACCOUNT:
        raise OperationError("this is one of the ledger's own accounts", "own_account")
    if info.closed:
        raise OperationError("the account is closed", "account_closed")


def _lines_from(reader: HistoryReader, account: int, place: int, limit: int) -> list[HistoryLine]:
    lines: list[HistoryLine] = []
    while place and len(lines) < min(limit, HISTORY_LINES):
        line, place = reader.line_at(place, account)
        lines.append(line)
    return lines


def _named(tables: Tables, account: int | str) -> AccountInfo:
    """The account of a number, or the one that answers to an address."""
    number = account if isinstance(account, int) else find_account(tables, account)
    if number is None:
        raise OperationError(f"there is no account {account}", "no_account", account=account)
    return read_account(tables, number)
