"""Who pays for sessions: the accounts that credentials and the configuration name."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from billing.accounts import (
    FIRST_USER_ACCOUNT,
    SYSTEM_ACCOUNTS,
    AddressError,
    account_number_untrusted,
    normalise_address_untrusted,
)
from billing.book import CLOSED, FROZEN
from billing.ledger import LmdbLedger
from billing.money import J
from billing.tariff import Line
from core.log import log_event

NO_MONEY = "no balance"
ACCOUNT_FROZEN = "account frozen"
ACCOUNT_CLOSED = "account closed"

_log = logging.getLogger("montana.metering")


class Payers:
    """The accounts that pay, as the ledger has them now.

    Attributes:
        bound: what the configuration names as a payer -> the account's address, or its number.
    """

    def __init__(
        self, ledger: LmdbLedger, bound: Mapping[str, str], *, unknown_is_free: bool
    ) -> None:
        self._ledger = ledger
        self._unknown_is_free = unknown_is_free
        self.bound = bound

    def find(self, payer: str) -> int | None:
        """The account of who pays.

        Raises:
            OperationError: the ledger can't be read.
        """
        account = self._ledger.find(self.bound.get(payer) or payer_address_untrusted(payer))
        # Addresses move when accounts are merged; a number stays with the one that has gone.
        return None if account is None else self._ledger.heir(account)

    def need_not_pay(self, payer: str) -> bool:
        """Whether somebody who has no account is let in all the same."""
        # Who was bound to an account by the operator was not meant to be free.
        return self._unknown_is_free and payer not in self.bound

    def why_unpaid(self, account: int) -> str:
        """Why nothing more leaves an account."""
        flags = self._flags(account)
        if flags & CLOSED:
            return ACCOUNT_CLOSED
        return ACCOUNT_FROZEN if flags & FROZEN else NO_MONEY

    def left(self, account: int, held: int) -> int:
        """Micro-J that an account has for somebody who holds so many of it: these, and what nobody
        holds."""
        if self._flags(account) & (FROZEN | CLOSED):
            return 0
        return max(0, self._ledger.balance(account, J).available) + held

    def _flags(self, account: int) -> int:
        return int(self._ledger.book.columns["flags"][account])


def may_pay(account: int, line: Line) -> bool:
    """Whether an account may be charged: none of the system's, nor the one that is paid."""
    return account >= FIRST_USER_ACCOUNT and account != line.into


def payer_address_untrusted(payer: str) -> str:
    """The address of who pays: what is named, where it is a user's address, else a user's name."""
    try:
        address = normalise_address_untrusted(payer)
    except AddressError:
        return f"user:{payer}"
    return f"user:{payer}" if address in SYSTEM_ACCOUNTS else address


def bound_payers(payers: Iterable[str], ledger: LmdbLedger) -> dict[str, str]:
    """The accounts that a configuration binds secrets and users to; says which are not there."""
    bound = {}
    for payer in payers:
        is_number = account_number_untrusted(payer) is not None
        bound[payer] = payer if is_number else payer_address_untrusted(payer)
        if ledger.find(bound[payer]) is None:
            log_event(
                _log,
                logging.WARNING,
                "a secret or a user is bound to an account that is not there: nobody can use it",
                account=payer,
            )
    return bound
