"""What the ledger stores beside its log: the tables, their keys and values.

All of it can be made from the log anew, see `billing.backup`, but for what the node keeps of calls,
rooms and SMS and has to tell somebody: no money depends on it, and a backup has none of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from billing import journal
from billing.accounts import FIRST_USER_ACCOUNT, AccountInfo
from billing.book import CLOSED, FROZEN, SYSTEM, TRANSFER
from billing.journal import AccountsEntry, SideWrite
from billing.packing import cut
from billing.records import TABLES as RECORD_TABLES
from core.errors import OperationError
from core.store_files import Schema
from core.tables import Tables, Writing

ACCOUNTS = "accounts"
ADDRESSES = "addresses"
IDS = "transfer_ids"
PENDING = "pending"
REFUNDED = "refunded"
BALANCES = "balances"
CHARGED = "charged"
STATE = "state"
SESSIONS = "sessions"
DEDUPLICATION = "deduplication"
VOUCHERS = "vouchers"
BLOCKED_CALLERS = "blocked_callers"
SIDE_TABLES = (DEDUPLICATION, VOUCHERS, BLOCKED_CALLERS)
"""What side-writes may be to."""
GUARD_TABLES = (DEDUPLICATION, VOUCHERS)
"""Those that keep money from coming twice; nothing but side-writes changes them."""
CALLS = "calls"
LIVING_CALLS = "living_calls"
CALL_LISTS = "call_lists"
HANG_UPS = "hang_ups"
CALL_TABLES = (CALLS, LIVING_CALLS, CALL_LISTS, HANG_UPS)
ROOMS = "rooms"
OUTBOX = "outbox"
SMS_RECORDS = "sms_records"
SMS_PLACES = "sms_places"
SMS_NUMBERS = "sms_numbers"
SMS_RECIPIENTS = "sms_recipients"
SMS_CODES = "sms_codes"
SMS_TABLES = (SMS_RECORDS, SMS_PLACES, SMS_NUMBERS, SMS_RECIPIENTS, SMS_CODES)
"""These, too, are the node's, in the same environment: no part of the log, nor of what is made from
it."""
TABLES = (
    *journal.TABLES,
    ACCOUNTS,
    ADDRESSES,
    IDS,
    PENDING,
    REFUNDED,
    BALANCES,
    CHARGED,
    STATE,
    SESSIONS,
    *RECORD_TABLES,
    *SIDE_TABLES,
    *CALL_TABLES,
    ROOMS,
    OUTBOX,
    *SMS_TABLES,
)
SCHEMA = Schema(1)
REPLAY_FROM = b"replay from"
CLOCK = b"clock"
PENDING_VALUE = struct.Struct("<IIIqq")
UNREADABLE = (
    msgspec.MsgspecError,
    struct.error,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
)
"""What comes of content that was changed."""

_info_decoder = msgspec.msgpack.Decoder(AccountInfo)


def account_key(number: int) -> bytes:
    """The key of an account."""
    return number.to_bytes(4, "big")


def session_key(slot: int) -> bytes:
    """The key of a session."""
    return slot.to_bytes(4, "big")


def decode_info(value: bytes) -> AccountInfo:
    """An account as it is stored."""
    return _info_decoder.decode(value)


def flags_of(info: AccountInfo) -> int:
    """The book's flags of an account."""
    system = SYSTEM if info.number < FIRST_USER_ACCOUNT else 0
    return system | (FROZEN if info.frozen else 0) | (CLOSED if info.closed else 0)


def find_account(tables: Tables, address: str) -> int | None:
    """Who answers to an address."""
    value = tables.get(ADDRESSES, address.encode())
    return None if value is None else int.from_bytes(value, "big")


def read_account(tables: Tables, number: int) -> AccountInfo:
    """What is known of an account.

    Raises:
        OperationError: there is none of that number.
    """
    value = tables.get(ACCOUNTS, account_key(number)) if 0 < number < 2**32 else None
    if value is None:
        raise OperationError(f"there is no account #{number}", "no_account", account=f"#{number}")
    return decode_info(value)


def store_accounts(writing: Writing, entry: AccountsEntry) -> None:
    """What an entry has to say of accounts and addresses."""
    for info in entry.accounts:
        writing.put(ACCOUNTS, account_key(info.number), msgspec.msgpack.encode(info))
    for address, number in entry.addresses.items():
        if number is None:
            writing.delete(ADDRESSES, address.encode())
        else:
            writing.put(ADDRESSES, address.encode(), account_key(number))


def store_ids(writing: Writing, stored: NDArray[np.void], entry: int) -> None:
    """Where an entry's transfers are."""
    first = journal.place_of(entry, 0)
    places = np.arange(first, first + len(stored), dtype=">u8").tobytes()
    ids = cut(stored["id"].tobytes())
    items = zip(ids, [places[start : start + 8] for start in range(0, len(places), 8)], strict=True)
    writing.put_many(IDS, sorted(items))


def store_side_writes(writing: Writing, side_writes: Iterable[SideWrite]) -> None:
    """What is written beside an entry's transfers."""
    for side_write in side_writes:
        if side_write.value is None:
            writing.delete(side_write.table, side_write.key)
        else:
            writing.put(side_write.table, side_write.key, side_write.value)


def read_record(tables: Tables, place: int) -> np.void:
    """The transfer at a place, as it is stored."""
    raw = journal.read_transfer(tables, *journal.split_place(place))
    record: np.void = np.frombuffer(raw, TRANSFER)[0]
    return record
