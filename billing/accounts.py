"""Accounts and the addresses that people know them by."""

from __future__ import annotations

import re
from typing import Final

import msgspec
import phonenumbers

from core.errors import OperationError

SYSTEM_ACCOUNTS: Final = ("issue", "burn", "fees", "node", "escrow")
"""The ledger's own, in the order of their numbers from 1 on. They may be in debt: what all
accounts of a currency hold adds up to nothing."""
FIRST_USER_ACCOUNT: Final = len(SYSTEM_ACCOUNTS) + 1
ADDRESSES_MAXIMUM: Final = 64
"""Of one account."""

_TELEGRAM = re.compile(r"tg:([1-9][0-9]{0,18})")
_USER = re.compile(r"user:([A-Za-z0-9._@-]{1,64})")
_KEY = re.compile(r"key:([a-z2-7]{52})")
_NUMBER = re.compile(r"#([1-9][0-9]{0,9})")
_TELEPHONE = re.compile(r"[+(0-9][0-9 ()./-]{1,39}")
"""What is parsed as a telephone number. The parser itself looks for one anywhere in a text, and
would find somebody's in `tg:0301234567`."""


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
    if _TELEPHONE.fullmatch(text) and (text.startswith("+") or default_region is not None):
        try:
            number = phonenumbers.parse(text, default_region)
        except phonenumbers.NumberParseException:
            number = None
        if number is not None and phonenumbers.is_valid_number(number):
            return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
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
