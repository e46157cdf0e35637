"""Transfers as bytes: what a call asks for, as `billing.book` takes it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from billing.book import ALL, LINKED, REFUND, TRANSFER
from billing.journal import SideWrite
from billing.transfers import ID_BYTES, NO_ID, Code, Kind, Transfer
from core.errors import OperationError
from core.tables import Writing

Also = Callable[[Writing], None]
Keeps = Callable[[Writing, int], bool]
"""Whether an account that is about to lose an address keeps what it has; asked in the transaction
that takes it, of which it may write a part."""
"""What is written beside the log in the transaction of something that was done: exactly when that
is new, and never when it is repeated. It may be called again, since a transaction that was aborted
is done anew. What it raises refuses the whole call, and nobody else's."""

_PACK = struct.Struct("<16s16sqqqQQIIIHHBB6x")
assert _PACK.size == TRANSFER.itemsize


class Batch(NamedTuple):
    """A call's transfers as they are to be stored, and what they name of what is stored."""

    records: bytes
    ids: list[bytes]
    side_writes: Sequence[SideWrite]
    also: Also | None = None

    @property
    def transfers(self) -> int:
        """How many there are."""
        return len(self.records) // _PACK.size


def batch_of(
    transfers: Sequence[Transfer],
    side_writes: Sequence[SideWrite] = (),
    also: Also | None = None,
) -> Batch:
    """The batch of a call.

    Raises:
        OperationError: an id is none, or a number is out of range.
    """
    ids = [one.id for one in transfers]
    for identity in ids:
        if len(identity) != ID_BYTES or identity == NO_ID:
            raise OperationError(f"the id of a transfer is {ID_BYTES} bytes, not all of them zero")
    ids += [one.reference for one in transfers if one.reference != NO_ID]
    return Batch(b"".join(map(pack, transfers)), ids, side_writes, also)


def cut(ids: bytes) -> list[bytes]:
    """Ids that were joined."""
    return [ids[start : start + ID_BYTES] for start in range(0, len(ids), ID_BYTES)]


def chained(transfers: Sequence[Transfer]) -> list[Transfer]:
    """The transfers as one chain: all are done, or none."""
    last = len(transfers) - 1
    return [one._replace(linked=index < last) for index, one in enumerate(transfers)]


def pack(one: Transfer) -> bytes:
    """A transfer as a `billing.book.TRANSFER`; what the book fills in is zero.

    Raises:
        OperationError: a number is out of range.
    """
    flags = LINKED if one.linked else 0
    if one.kind == Kind.POST_PENDING and not one.amount:
        flags |= ALL
    if one.refund:
        flags |= REFUND
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


def unpack(record: np.void) -> Transfer:
    """The reverse: a transfer as it was done."""
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
        bool(record["flags"] & LINKED),
        bool(record["flags"] & REFUND),
    )
