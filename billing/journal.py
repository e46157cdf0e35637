"""The ledger's log: numbered entries that are written once and linked by a chain of hashes.

The log is the truth; whatever else the ledger stores can be made from it anew. An entry is a kind,
one byte, and its content. The chain's link n is SHA-256 of link n-1 and of SHA-256 of entry n, so
that an entry whose content is no longer needed can be replaced by its hash: then its kind is
`PRUNED`, followed by the kind that it had and its SHA-256.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from hashlib import sha256
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from billing.accounts import AccountInfo
from billing.book import INDEX_BITS, TRANSFER
from billing.meter import ROW
from core.store import Store
from core.tables import Tables, Writing

LOG = "log"
CHAIN = "chain"
TABLES = (LOG, CHAIN)
FIRST_LINK = bytes(32)
_WALK_ENTRIES = 256
_WALK_BYTES = 1 << 23
"""Entries that are read in one transaction, and what they may come to: readers are short, and the
ticks of a million sessions have 16 MB each."""


class EntryKind(IntEnum):
    """What an entry holds."""

    TRANSFERS = 1
    ACCOUNTS = 2
    TICK = 3
    RECORDS = 4
    ROOT = 5
    """The signed root of the tree of call records."""
    SEAL = 6
    """A part of a sealed checkpoint."""
    PRUNED = 7
    """The hash of an entry that is no longer there."""


class SideWrite(msgspec.Struct, frozen=True, array_like=True):
    """What is written in the same transaction as a batch of transfers: a deduplication key, a
    voucher. `value` None removes the key."""

    table: str
    key: bytes
    value: bytes | None


class AccountsEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Accounts as they are from now on, and who answers to which address (None: nobody)."""

    accounts: tuple[AccountInfo, ...]
    addresses: dict[str, int | None]


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A session that is charged.

    Attributes:
        slot: in the meter's columns.
        id: 16 bytes that begin with the time, as a transfer's.
        name: what the relay calls it.
        kind: the tariff's line: turn, voice, video, screen.
        account, into: who pays, and where it goes.
        opened_ns: on the ledger's clock.
        seconds_before, bytes_before: what the session's counters said then: more than nothing where
            another account has paid for it until then.
    """

    slot: int
    id: bytes
    name: str
    kind: str
    account: int
    into: int
    opened_ns: int
    seconds_before: int = 0
    bytes_before: int = 0


class CallRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a session has come to: one line of its account's history.

    Attributes:
        seconds, relayed_bytes: what was charged for.
        cost: micro-J.
        reason: why it ended.
        previous: the place of the account's line before it.
    """

    id: bytes
    name: str
    kind: str
    account: int
    into: int
    opened_ns: int
    closed_ns: int
    seconds: int
    relayed_bytes: int
    cost: int
    reason: str
    previous: int


class RootEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The root over all call records that stand in the log before it.

    Attributes:
        time_ns: on the ledger's clock.
        size: how many records there are.
        checkpoint: origin, size and root, as C2SP's tlog-checkpoint has them.
        signature, public_key: ML-DSA-65's, over `checkpoint`; empty where nobody could sign.
        endorsement: of the key by the node, see `billing.receipts.Signer`.
    """

    time_ns: int
    size: int
    checkpoint: str
    signature: bytes
    public_key: bytes
    endorsement: bytes


class SealEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a sealed checkpoint: balances and what live sessions have cost, as they were after
    entry `as_of`.

    Attributes:
        part, parts: which of how many; together they hold all accounts and all sessions.
        time_ns: on the ledger's clock.
        posted: <i8, currency by currency, of accounts from `part` * SEAL_ACCOUNTS on.
        sessions: some of those that live.
        totals: their `TOTAL`s, in the same order.
    """

    as_of: int
    part: int
    parts: int
    time_ns: int
    posted: bytes
    sessions: tuple[SessionInfo, ...]
    totals: bytes


TOTAL = np.dtype([("slot", "<u4"), ("seconds", "<u4"), ("bytes", "<u8"), ("cost", "<i8")])
"""What a live session has come to so far: 24 bytes."""
SEAL_ACCOUNTS = 1 << 16
SEAL_SESSIONS = 1 << 13
"""Of one part of a seal, so that writing it takes a few milliseconds."""


class TickEntry(NamedTuple):
    """What sessions were charged in one go, where it went, and which sessions began before it."""

    time_ns: int
    rows: NDArray[np.void]
    credits: dict[int, int]
    opened: tuple[SessionInfo, ...]


class TransfersEntry(NamedTuple):
    """Transfers that were done, in their order, and what was written with them."""

    records: NDArray[np.void]
    side_writes: tuple[SideWrite, ...]


_ACCOUNTS = msgspec.msgpack.Decoder(AccountsEntry)
_SIDE_WRITES = msgspec.msgpack.Decoder(tuple[SideWrite, ...])
_RECORDS = msgspec.msgpack.Decoder(list[CallRecord])
_RAW_RECORDS = msgspec.msgpack.Decoder(list[msgspec.Raw])
_RECORD = msgspec.msgpack.Decoder(CallRecord)
_SESSION = msgspec.msgpack.Decoder(SessionInfo)
_ROOT = msgspec.msgpack.Decoder(RootEntry)
_SEAL = msgspec.msgpack.Decoder(SealEntry)
_encode = msgspec.msgpack.encode
_TICK_HEAD = struct.Struct("<B3xIqI4x")


class _TickTail(msgspec.Struct, frozen=True, array_like=True):
    credits: dict[int, int]
    opened: tuple[SessionInfo, ...]


_TICK_TAIL = msgspec.msgpack.Decoder(_TickTail)


def place_of(entry: int, index: int) -> int:
    """Where a transfer or a record stands, as one number: more than 0, since entries begin at 1."""
    return entry << INDEX_BITS | index


def split_place(place: int) -> tuple[int, int]:
    """The reverse: (entry, index)."""
    return place >> INDEX_BITS, place & ((1 << INDEX_BITS) - 1)


def entry_key(number: int) -> bytes:
    """The key of an entry."""
    return number.to_bytes(8, "big")


def encode_transfers(records: NDArray[np.void], side_writes: tuple[SideWrite, ...]) -> bytes:
    """A `TransfersEntry` as bytes."""
    head = bytes([EntryKind.TRANSFERS]) + len(records).to_bytes(3, "big")
    return head + records.tobytes() + (_encode(side_writes) if side_writes else b"")


def decode_transfers(entry: bytes | memoryview) -> TransfersEntry:
    """The reverse; the records are a view of `entry`."""
    count = int.from_bytes(entry[1:4], "big")
    end = 4 + count * TRANSFER.itemsize
    records = np.frombuffer(entry, TRANSFER, count, 4)
    rest = bytes(entry[end:])
    return TransfersEntry(records, _SIDE_WRITES.decode(rest) if rest else ())


def read_transfer(tables: Tables, entry: int, index: int) -> bytes:
    """One transfer of an entry, as it is stored; empty where the entry ends before it."""
    start = 4 + index * TRANSFER.itemsize
    raw = tables.part(LOG, entry_key(entry), start, start + TRANSFER.itemsize)
    assert raw is not None
    return raw


def transfer_count(tables: Tables, entry: int) -> int:
    """How many transfers a stored entry of that kind has."""
    raw = tables.part(LOG, entry_key(entry), 1, 4)
    assert raw is not None
    return int.from_bytes(raw, "big")


def encode_accounts(content: AccountsEntry) -> bytes:
    """An `AccountsEntry` as bytes."""
    return bytes([EntryKind.ACCOUNTS]) + _encode(content)


def decode_accounts(entry: bytes | memoryview) -> AccountsEntry:
    """The reverse."""
    return _ACCOUNTS.decode(entry[1:])


def encode_session(info: SessionInfo) -> bytes:
    """A session as bytes."""
    return _encode(info)


def decode_session(value: bytes) -> SessionInfo:
    """The reverse."""
    return _SESSION.decode(value)


def encode_tick(
    time_ns: int,
    rows: NDArray[np.void],
    credits: dict[int, int],
    opened: tuple[SessionInfo, ...],
) -> bytes:
    """A `TickEntry` as bytes."""
    tail = _encode(_TickTail(credits, opened))
    head = _TICK_HEAD.pack(EntryKind.TICK, len(rows), time_ns, len(tail))
    return b"".join([head, tail, rows.tobytes()])


def decode_tick(entry: bytes | memoryview) -> TickEntry:
    """The reverse; the rows are a view of `entry`."""
    _, count, time_ns, tail_bytes = _TICK_HEAD.unpack_from(entry)
    end = _TICK_HEAD.size + tail_bytes
    tail = _TICK_TAIL.decode(entry[_TICK_HEAD.size : end])
    rows = np.frombuffer(entry, ROW, count, end)
    return TickEntry(time_ns, rows, tail.credits, tail.opened)


def tick_time_ns(entry: bytes | memoryview) -> int:
    """When a tick was, without reading the rest of it."""
    assert entry[0] == EntryKind.TICK
    time_ns: int = _TICK_HEAD.unpack_from(entry)[2]
    return time_ns


def decode_records(entry: bytes | memoryview) -> list[CallRecord]:
    """The call records of an entry."""
    return _RECORDS.decode(entry[1:])


def encode_record(record: CallRecord) -> bytes:
    """One of them alone, as it stands in an entry."""
    return _encode(record)


def join_records(raws: Iterable[bytes]) -> bytes:
    """An entry of records that are encoded already."""
    return bytes([EntryKind.RECORDS]) + _encode(list(map(msgspec.Raw, raws)))


def raw_records(entry: bytes | memoryview) -> list[bytes]:
    """The bytes of each call record of an entry, as they are stored."""
    return [bytes(raw) for raw in _RAW_RECORDS.decode(entry[1:])]


def decode_record_untrusted(raw: bytes) -> CallRecord:
    """One of them as a record.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError: it is none.
    """
    return _RECORD.decode(raw)


def encode_root(content: RootEntry) -> bytes:
    """A `RootEntry` as bytes."""
    return bytes([EntryKind.ROOT]) + _encode(content)


def decode_root(entry: bytes | memoryview) -> RootEntry:
    """The reverse."""
    return _ROOT.decode(entry[1:])


def encode_seal(content: SealEntry) -> bytes:
    """A `SealEntry` as bytes."""
    return bytes([EntryKind.SEAL]) + _encode(content)


def decode_seal(entry: bytes | memoryview) -> SealEntry:
    """The reverse."""
    return _SEAL.decode(entry[1:])


def prune(entry: bytes) -> bytes:
    """What stays of an entry whose content goes."""
    assert entry[0] in (EntryKind.TICK, EntryKind.SEAL)
    return bytes([EntryKind.PRUNED, entry[0]]) + sha256(entry).digest()


def entry_hash(entry: bytes | memoryview) -> bytes:
    """SHA-256 of an entry as it was written."""
    if entry[0] == EntryKind.PRUNED:
        return bytes(entry[2:])
    return sha256(entry).digest()


def next_link(link: bytes, entry: bytes | memoryview) -> bytes:
    """The chain's link after `link`: over the entry's kind besides, or one that is kept for ever
    could be passed off as a tick that was pruned."""
    kind = entry[1] if entry[0] == EntryKind.PRUNED else entry[0]
    return sha256(link + bytes([kind]) + entry_hash(entry)).digest()


class Journal:
    """Appends entries; belongs to the store's writer thread.

    Attributes:
        head: the last entry's number, 0 before the first.
        link: the chain's last link.
    """

    def __init__(self, tables: Tables) -> None:
        last = tables.items_back(CHAIN, limit=1)
        self.head, self.link = 0, FIRST_LINK
        if last:
            self.head, self.link = int.from_bytes(last[0][0], "big"), last[0][1]

    def append(self, writing: Writing, entry: bytes) -> int:
        """Write the next entry; returns its number."""
        before = (self.head, self.link)

        def undo() -> None:
            self.head, self.link = before

        writing.on_abort(undo)
        self.link = next_link(self.link, entry)
        self.head += 1
        key = entry_key(self.head)
        writing.put(LOG, key, entry)
        writing.put(CHAIN, key, self.link)
        return self.head


def read_some(store: Store, first: int, last: int) -> list[tuple[int, bytes]]:
    """Some of the entries from `first` to `last`, read in one short transaction: those that are
    there, up to the first that was not looked at, which follows the last one returned."""
    found: list[tuple[int, bytes]] = []
    left_bytes = _WALK_BYTES
    with store.read() as tables:
        while first <= last and len(found) < _WALK_ENTRIES and left_bytes > 0:
            entry = tables.get(LOG, entry_key(first))
            if entry is None:
                # The next one that is there, if any.
                following = tables.items(LOG, entry_key(first), entry_key(last + 1), limit=1)
                if not following:
                    break
                first, entry = int.from_bytes(following[0][0], "big"), following[0][1]
            found.append((first, entry))
            left_bytes -= len(entry)
            first += 1
    return found


def walk(store: Store, first: int, last: int) -> Iterator[tuple[int, bytes]]:
    """The entries from `first` to `last`, read a few at a time."""
    while found := read_some(store, first, last):
        yield from found
        first = found[-1][0] + 1
