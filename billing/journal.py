"""The ledger's log: numbered entries that are written once and linked by a chain of hashes.

The log is the truth; whatever else the ledger stores can be made from it anew. An entry is a kind,
one byte, and its content. The chain's link n is SHA-256 of link n-1 and of SHA-256 of entry n, so
that an entry whose content is no longer needed can be replaced by its hash.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from hashlib import sha256
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from billing.accounts import AccountInfo
from billing.book import TRANSFER
from billing.meter import ROW
from core.store import Store, Tables, Writing

LOG = "log"
CHAIN = "chain"
TABLES = (LOG, CHAIN)
FIRST_LINK = bytes(32)
_WALK_ENTRIES = 256
"""Entries that are read in one transaction: readers are short."""


class EntryKind(IntEnum):
    """What an entry holds."""

    TRANSFERS = 1
    ACCOUNTS = 2
    TICK = 3
    RECORDS = 4


class SideWrite(msgspec.Struct, frozen=True, array_like=True):
    """What is written in the same transaction as a batch of transfers: a deduplication key, a
    message to send, the state of a call. `value` None removes the key."""

    table: str
    key: bytes
    value: bytes | None


class AccountsEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Accounts as they are from now on, and who answers to which address (None: nobody)."""

    accounts: tuple[AccountInfo, ...]
    addresses: dict[str, int | None]


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A session that is charged.

    Attributes:
        slot: in the meter's columns.
        id: 16 bytes that begin with the time, as a transfer's.
        name: what the relay calls it.
        kind: the tariff's line: turn, voice, video, screen.
        account, into: who pays, and where it goes.
        opened_ns: on the ledger's clock.
    """

    slot: int
    id: bytes
    name: str
    kind: str
    account: int
    into: int
    opened_ns: int


class CallRecord(msgspec.Struct, frozen=True, kw_only=True):
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
_encode = msgspec.msgpack.encode
_TICK_HEAD = struct.Struct("<B3xIqI4x")


class _TickTail(msgspec.Struct, frozen=True, array_like=True):
    credits: dict[int, int]
    opened: tuple[SessionInfo, ...]


_TICK_TAIL = msgspec.msgpack.Decoder(_TickTail)


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


def transfer_bytes(entry: bytes | memoryview, index: int) -> bytes:
    """One transfer of an entry, as it is stored."""
    assert entry[0] == EntryKind.TRANSFERS
    start = 4 + index * TRANSFER.itemsize
    return bytes(entry[start : start + TRANSFER.itemsize])


def encode_accounts(content: AccountsEntry) -> bytes:
    """An `AccountsEntry` as bytes."""
    return bytes([EntryKind.ACCOUNTS]) + _encode(content)


def decode_accounts(entry: bytes | memoryview) -> AccountsEntry:
    """The reverse."""
    return _ACCOUNTS.decode(entry[1:])


def encode_session(info: SessionInfo) -> bytes:
    """A session as bytes."""
    return _encode(info)


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


def encode_records(records: Sequence[CallRecord]) -> bytes:
    """Call records as an entry."""
    return bytes([EntryKind.RECORDS]) + _encode(list(records))


def decode_records(entry: bytes | memoryview) -> list[CallRecord]:
    """The reverse."""
    return _RECORDS.decode(entry[1:])


def next_link(link: bytes, entry: bytes | memoryview) -> bytes:
    """The chain's link after `link`."""
    return sha256(link + sha256(entry).digest()).digest()


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


def walk(store: Store, first: int, last: int) -> Iterator[tuple[int, bytes]]:
    """The entries from `first` to `last`, read a few at a time."""
    while first <= last:
        with store.read() as tables:
            found = tables.items(LOG, entry_key(first), entry_key(last + 1), _WALK_ENTRIES)
        if not found:
            return
        for key, entry in found:
            yield int.from_bytes(key, "big"), entry
        first = int.from_bytes(found[-1][0], "big") + 1
