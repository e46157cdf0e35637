"""The last payments of an account, in the few characters of an SMS."""

from __future__ import annotations

from typing import Final

from billing.history_items import history_item
from billing.ledger import Ledger
from billing.sms_commands import Language
from billing.sms_texts import show_amount
from core.api.messages import HistoryItem
from core.purposes import OWN_ACCOUNTS, PURPOSES

PAYMENTS: Final = 3
LINES_READ: Final = 20
NAME_CHARACTERS: Final = 16
_BESIDES: Final = ("fee", "sms")
"""What commands and transfers have cost is not worth a line."""


async def recent_payments(ledger: Ledger, account: int, language: Language) -> str:
    """A line each: `21.11 +5 +79991234567`; empty where there are none."""
    found, _ = await ledger.latest(account, LINES_READ)
    items = [history_item(line, account, lambda number: _called(ledger, number)) for line in found]
    shown = [item for item in items if item.purpose not in _BESIDES and item.reserved is None]
    return "\n".join(
        f"{item.time[8:10]}.{item.time[5:7]} {_signed(item.amount)}{_currency(item.currency)} "
        f"{_about(item, language)[:NAME_CHARACTERS]}"
        for item in shown[:PAYMENTS]
    )


def _signed(amount: str) -> str:
    return show_amount(amount if amount.startswith("-") else f"+{amount}")


def _currency(code: str) -> str:
    return "" if code == "J" else f" {code}"


def _about(item: HistoryItem, language: Language) -> str:
    """Whom a payment came from or went to, or what it was for."""
    known = PURPOSES.get(item.purpose)
    if known is not None and (item.session is not None or item.other in OWN_ACCOUNTS):
        return known[language == "ru"]
    return item.other


def _called(ledger: Ledger, account: int) -> str:
    addresses = ledger.account(account).addresses
    return addresses[0] if addresses else f"#{account}"
