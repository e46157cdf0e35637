"""What a transfer is, and what can come of one.

A transfer moves an amount of one currency from one account to another. Its id is made by whoever
asks for it: asking again is answered as the first time, and does nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from hashlib import blake2b
from typing import Final, NamedTuple

from core.clock import Clock
from core.errors import OperationError

NO_ID: Final = bytes(16)
ID_BYTES: Final = 16


class Kind(IntEnum):
    """What a transfer does."""

    POST = 0
    """Moves the amount at once."""
    PENDING = 1
    """Reserves it, until it is posted or voided, or its time is over."""
    POST_PENDING = 2
    """Moves what `reference` has reserved, all or a part; the rest is free again."""
    VOID_PENDING = 3
    """Gives free what `reference` has reserved."""
    EXPIRE_PENDING = 4
    """The ledger's own: the time of `reference` is over."""


class Code(IntEnum):
    """What a transfer is for."""

    OTHER = 0
    CREDIT = 1
    """The operator's credit."""
    OPERATOR = 2
    """The operator's transfer."""
    USER = 3
    """A user's transfer."""
    FEE = 4
    """The fee of a user's transfer, whose id it is derived from."""
    WELCOME = 5
    VOUCHER = 6
    REFUND = 7
    MERGE = 8
    ESCROW = 9
    SMS = 10
    ROOM = 11
    """A minute of a room, which its host pays for."""


class Result(IntEnum):
    """What came of a transfer."""

    DONE = 0
    EXISTS = 1
    """It was done before, under the same id."""
    ID_REUSED = 2
    LINKED_FAILED = 3
    BAD_AMOUNT = 4
    SAME_ACCOUNT = 5
    NO_ACCOUNT = 6
    FROZEN = 7
    CLOSED = 8
    NO_FUNDS = 9
    OVERFLOW = 10
    BAD_KIND = 11
    NO_REFERENCE = 12
    RESOLVED = 13
    EXCEEDS = 14
    OPEN_CHAIN = 15

    @property
    def is_done(self) -> bool:
        """Whether it stands in the ledger."""
        return self in (Result.DONE, Result.EXISTS)


_SENTENCES = {
    Result.ID_REUSED: "this id belongs to another transfer; make a new id for a new transfer",
    Result.LINKED_FAILED: "another transfer that is linked with this one was refused",
    Result.BAD_AMOUNT: "the amount can't be moved: it has to be more than nothing",
    Result.SAME_ACCOUNT: "a transfer leads from one account to another",
    Result.NO_ACCOUNT: "there is no such account",
    Result.FROZEN: "the account is frozen: nothing leaves it",
    Result.CLOSED: "the account is closed",
    Result.NO_FUNDS: "there is not enough on the account",
    Result.OVERFLOW: "the account can't hold so much",
    Result.BAD_KIND: "there is no such kind of transfer",
    Result.NO_REFERENCE: "the transfer that this one refers to is not there, or another kind",
    Result.RESOLVED: "the transfer has been posted or voided already, or its time was over",
    Result.EXCEEDS: "this is more than the transfer that it refers to has left",
    Result.OPEN_CHAIN: "the last transfer is linked with one that does not follow",
}


def refusal_of(results: Sequence[Result]) -> Result | None:
    """Why transfers that are linked with each other were not done; None where they were."""
    refused = [result for result in results if not result.is_done]
    # Of two, one only says that the other was refused.
    refused.sort(key=lambda result: result is Result.LINKED_FAILED)
    return refused[0] if refused else None


class TransferRefused(OperationError):
    """A transfer was not done.

    Attributes:
        result: why.
    """

    def __init__(self, result: Result) -> None:
        super().__init__(_SENTENCES[result], f"transfer_{result.name.lower()}")
        self.result = result


class Transfer(NamedTuple):
    """What a client asks for.

    Attributes:
        id: 16 bytes that begin with the time, see `new_id`; not all zero.
        debit, credit: account numbers, from and to; 0 where the transfer refers to a pending one.
        amount: in the currency's smallest units, more than 0; 0 for all of a pending one.
        currency: its number.
        reference: the id of the pending transfer to resolve, or of the one to refund.
        timeout_s: when a pending one is given free; 0 for never.
        linked: it is done only together with the next one.
        refund: it undoes `reference`, all or a part of it.
    """

    id: bytes
    debit: int
    credit: int
    amount: int
    currency: int = 0
    kind: Kind = Kind.POST
    code: Code = Code.OTHER
    reference: bytes = NO_ID
    timeout_s: int = 0
    linked: bool = False
    refund: bool = False


def new_id(clock: Clock) -> bytes:
    """A new id: milliseconds since 1970 in 48 bits, then 80 random bits, so that ids are stored
    next to each other in the order in which they are made."""
    return int(clock.unix_s() * 1000).to_bytes(6, "big") + clock.random_bytes(10)


def parse_id_untrusted(text: str) -> bytes:
    """An id, of a transfer or whatever else has one, from its 32 hexadecimal digits.

    Raises:
        OperationError: it is none.
    """
    try:
        identity = bytes.fromhex(text) if len(text) == 2 * ID_BYTES else b""
    except ValueError:
        identity = b""
    if len(identity) != ID_BYTES or identity == NO_ID:
        raise OperationError(
            f"an id is {2 * ID_BYTES} hexadecimal digits, not all of them zero: {text[:40]!r}",
            "no_id",
            digits=2 * ID_BYTES,
            written=repr(text[:40]),
        )
    return identity


def derive_id(of: bytes, purpose: bytes) -> bytes:
    """The id of a transfer that follows from another one: the same each time, of the same time."""
    return of[:6] + blake2b(of + purpose, digest_size=10).digest()
