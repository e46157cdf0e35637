"""Currencies and amounts: integers of a currency's smallest unit, written as decimal numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from core.errors import OperationError

AMOUNT_MAXIMUM: Final = 2**60
"""In smallest units: what an account may hold, far below what its 64-bit column can."""
FEE_PER_CENT: Final = 1


class AmountError(OperationError):
    """Text that is no amount of money."""


@dataclass(frozen=True, slots=True)
class Currency:
    """A currency.

    Attributes:
        code: its name in files and messages.
        number: its column in the ledger, which never changes.
        places: decimal places of its smallest unit.
        symbol: for people.
    """

    code: str
    number: int
    places: int
    symbol: str

    @property
    def unit(self) -> int:
        """Smallest units of one whole."""
        return int(10**self.places)


J: Final = Currency("J", 0, 6, "Ɉ")
EMC: Final = Currency("EMC", 1, 8, "EMC")
CURRENCIES: Final = (J, EMC)
_BY_CODE = {currency.code: currency for currency in CURRENCIES}
assert [currency.number for currency in CURRENCIES] == list(range(len(CURRENCIES)))


def find_currency(code: str) -> Currency:
    """The currency of that code.

    Raises:
        AmountError: there is none.
    """
    currency = _BY_CODE.get(code)
    if currency is None:
        known = ", ".join(_BY_CODE)
        raise AmountError(
            f"there is no currency {code!r}; there are {known}",
            "no_currency",
            currency=repr(code),
            known=known,
        )
    return currency


def parse_amount_untrusted(text: str, currency: Currency = J) -> int:
    """`12.5` as smallest units: more than nothing, in ASCII digits, in the currency's places.

    Raises:
        AmountError: says what is wrong with it.
    """
    whole, point, fraction = text.partition(".")
    is_number = len(text) <= 40 and text.isascii() and whole.isdigit()
    if not is_number or (point and not fraction.isdigit()):
        raise AmountError(
            f"an amount is a number such as 12 or 12.5, not {text[:40]!r}",
            "no_amount",
            written=repr(text[:40]),
        )
    if len(fraction) > currency.places:
        raise AmountError(
            f"{currency.code} has {currency.places} decimal places at most",
            "too_many_places",
            currency=currency.code,
            places=currency.places,
        )
    amount = int(whole) * currency.unit + int(fraction.ljust(currency.places, "0") or "0")
    if not amount:
        raise AmountError("an amount is more than nothing", "zero_amount")
    if amount > AMOUNT_MAXIMUM:
        largest = format_amount(AMOUNT_MAXIMUM, currency)
        raise AmountError(
            f"the largest amount is {largest} {currency.code}",
            "largest_amount",
            amount=largest,
            currency=currency.code,
        )
    return amount


def format_amount(amount: int, currency: Currency = J) -> str:
    """Smallest units as a decimal number in all of the currency's places: `12.500000`."""
    whole, fraction = divmod(abs(amount), currency.unit)
    return f"{'-' if amount < 0 else ''}{whole}.{fraction:0{currency.places}d}"


def transfer_fee(amount: int, currency: Currency = J) -> int:
    """What a user pays on top of a transfer: 1 %, rounded up to the smallest unit, and one whole
    of the currency at least."""
    return max(currency.unit, -(-amount * FEE_PER_CENT // 100))
