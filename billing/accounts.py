"""Accounts and the addresses that people know them by."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from core.errors import OperationError
from core.purposes import OWN_ACCOUNTS
from core.written import phone_number_untrusted

SYSTEM_ACCOUNTS: Final = OWN_ACCOUNTS
"""The ledger's own, in the order of their numbers from 1 on. They may be in debt: what all
accounts of a currency hold adds up to nothing."""
FIRST_USER_ACCOUNT: Final = len(SYSTEM_ACCOUNTS) + 1
ADDRESSES_MAXIMUM: Final = 64
"""Of one account."""

_TELEGRAM = re.compile(r"tg:([1-9][0-9]{0,18})")
_USER = re.compile(r"user:([A-Za-z0-9._@-]{1,64})")
_KEY = re.compile(r"key:([a-z2-7]{52})")
_NUMBER = re.compile(r"#([1-9][0-9]{0,9})")


class AddressError(OperationError):
    """Text that is no address."""


class AccountInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an account beside its balances.

    Attributes:
        number: its number in the ledger.
        addresses: where people reach it, the oldest first.
        opened_ns: when, on the ledger's clock, since 1970.
        frozen, closed: nothing leaves it; nothing happens on it any more.
        merged_into: the account that has taken it over.
    """

    number: int
    addresses: tuple[str, ...]
    opened_ns: int
    frozen: bool = False
    closed: bool = False
    merged_into: int | None = None


def normalise_address_untrusted(text: str, default_region: str | None = None) -> str:
    """The one spelling of an address: `tg:123`, `+79991234567`, `user:alice`, `key:...`; or the
    name of a system account. A telephone number is of ASCII digits, blanks and `+ ( ) . / -`.

    Args:
        default_region: the country of telephone numbers that are written without theirs.

    Raises:
        AddressError: says what an address is.
    """
    if text in SYSTEM_ACCOUNTS or any(
        pattern.fullmatch(text) for pattern in (_TELEGRAM, _USER, _KEY)
    ):
        return text
    number = phone_number_untrusted(text, default_region)
    if number is not None:
        return number
    raise AddressError(
        f"{text[:80]!r} is no address; write tg:123, +79991234567, user:alice or key: and the 52 "
        "characters of a key",
        "no_address",
        written=repr(text[:80]),
    )


def account_number_untrusted(text: str) -> int | None:
    """The number in `#17`, as which an account is known where it has no address."""
    match = _NUMBER.fullmatch(text)
    return int(match[1]) if match else None
