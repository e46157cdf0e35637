"""Tells people what has come to their account, where it is known how to reach them: in Telegram, or
by an SMS. What is told is written in the transaction of its cause.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from billing.accounts import AccountInfo
from billing.ledger import Ledger
from billing.money import CURRENCIES, format_amount
from billing.outbox import Outbox
from billing.tables import read_account
from billing.transfers import Transfer, derive_id
from core.api.bridge_messages import TransferReceivedBody
from core.errors import OperationError
from core.tables import Tables, Writing
from core.units import DAY_S

TELEGRAM: Final = "telegram"
"""The bridge that tells `tg:` addresses something."""
LIFETIME_S: Final = 3 * DAY_S

CheckSms = Callable[[str], None]
BySms = Callable[[Writing, str, TransferReceivedBody, bytes], None]


class PayeeRefused(OperationError):
    """Nobody has an account with this number, and could be told of one."""


class Notices:
    """Chooses how an account is told something.

    Args:
        telegram: whether the Telegram bridge is configured.

    Attributes:
        by_sms: writes an SMS to a telephone number within the operator's budget, under an event's
            id; None where the node sends none.
        check_sms: raises `PayeeRefused` where a telephone number can't be told by SMS; None where
            the node sends none.
    """

    def __init__(self, outbox: Outbox, ledger: Ledger, *, telegram: bool) -> None:
        self._outbox = outbox
        self._ledger = ledger
        self._telegram = telegram
        self.by_sms: BySms | None = None
        self.check_sms: CheckSms | None = None

    def transfer_received(self, writing: Writing, transfer: Transfer, sender: str) -> None:
        """Tell who has got a transfer; on the writer's thread, in its transaction.

        Args:
            sender: the address that the recipient is shown.
        """
        if not self._telegram and self.by_sms is None:
            return
        info = read_account(writing, transfer.credit)
        telegram = self._telegram_of(info)
        phone = None
        if telegram is None and self.by_sms is not None:
            phone = _first(info, "+")
        if telegram is None and phone is None:
            return
        currency = CURRENCIES[transfer.currency]
        body = TransferReceivedBody(
            amount=format_amount(transfer.amount, currency),
            currency=currency.code,
            sender=sender,
            balance=format_amount(self._ledger.balance(info.number, currency).posted, currency),
        )
        key = derive_id(transfer.id, b"notice")
        if telegram is not None:
            self._outbox.put(writing, TELEGRAM, telegram, body, key=key, lifetime_s=LIFETIME_S)
        elif phone is not None and self.by_sms is not None:
            self.by_sms(writing, phone, body, key)

    def check_payee(self, phone: str) -> None:
        """Somebody who has no account yet could be told that money has come.

        Raises:
            PayeeRefused: why not.
        """
        if self.check_sms is None:
            raise PayeeRefused(
                "nobody has this number here, and this node sends no SMS to tell them",
                "payee_no_sms",
            )
        self.check_sms(phone)

    def telegram_of(self, tables: Tables, account: int) -> str | None:
        """Where an account is reached in Telegram; None where it isn't."""
        return self._telegram_of(read_account(tables, account)) if self._telegram else None

    def phone_of(self, tables: Tables, account: int) -> str | None:
        """An account's first telephone number."""
        return _first(read_account(tables, account), "+")

    def _telegram_of(self, info: AccountInfo) -> str | None:
        return _first(info, "tg:") if self._telegram else None


def _first(info: AccountInfo, prefix: str) -> str | None:
    return next((address for address in info.addresses if address.startswith(prefix)), None)
