"""Who may call whom, how often, and with how much on the account."""

from __future__ import annotations

from collections import deque
from typing import Final

from billing.accounts import (
    FIRST_USER_ACCOUNT,
    SYSTEM_ACCOUNTS,
    AddressError,
    account_number_untrusted,
    normalise_address_untrusted,
)
from billing.ledger import LmdbLedger
from billing.money import J, format_amount
from billing.tariff import Line
from core.clock import Clock
from core.errors import SignalingError
from core.units import MINUTE_S, NS_PER_S
from relay.signaling.call_blocks import CallBlocks

MINIMUM_S: Final = MINUTE_S
"""What the caller has to be able to pay for when calling."""


class CallAdmission:
    """What is asked of a call before it is made.

    Args:
        blocks: whom nobody wants to hear of.
        region: of telephone numbers that are written without their country.
        calls_per_minute: what one account may begin.
    """

    def __init__(
        self,
        ledger: LmdbLedger,
        clock: Clock,
        blocks: CallBlocks,
        *,
        region: str | None,
        calls_per_minute: int,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._blocks = blocks
        self._region = region
        self.calls_per_minute = calls_per_minute
        self._begun_ns: dict[int, deque[int]] = {}
        """By account, when it has called in the last minute."""

    def caller_untrusted(self, address: str) -> tuple[str, int]:
        """Who calls: an address as it is kept, and the account that has it.

        Raises:
            SignalingError: ``no-account``.
        """
        try:
            if account_number_untrusted(address) is None:
                address = normalise_address_untrusted(address, self._region)
        except AddressError as error:
            raise SignalingError("no-account", str(error), **error.values) from error
        number = self._ledger.find(address)
        account = None if number is None else self._ledger.heir(number)
        if account is None or account < FIRST_USER_ACCOUNT:
            raise SignalingError("no-account", f"there is no account {address}", account=address)
        return address, account

    def callee_untrusted(self, address: str, caller: int) -> tuple[str, int | None]:
        """Who answers to an address, and its one spelling. What keeps them from being reached is
        not told: that would tell who blocks whom.

        Raises:
            SignalingError: ``no-account``: it is no address; ``blocked``.
        """
        try:
            address = normalise_address_untrusted(address, self._region)
        except AddressError as error:
            raise SignalingError("no-account", str(error), **error.values) from error
        callee = self._ledger.find(address)
        # A key is nobody's but a page's; whoever has another address may be reached over a bridge.
        is_there = callee is not None or not address.startswith("key:")
        if (
            address in SYSTEM_ACCOUNTS
            or not is_there
            or callee == caller
            or (callee is not None and self._blocks.has_blocked(callee, caller))
        ):
            raise SignalingError("blocked", "who is called can't be reached")
        return address, callee

    def count_untrusted(self, account: int) -> None:
        """Note that an account begins a call.

        Raises:
            SignalingError: ``too-many``.
        """
        now_ns = self._clock.monotonic_ns()
        begun = self._begun_ns.setdefault(account, deque())
        _drop_old(begun, now_ns)
        if len(begun) >= self.calls_per_minute:
            raise SignalingError(
                "too-many",
                f"{self.calls_per_minute} calls a minute can be begun",
                maximum=self.calls_per_minute,
            )
        begun.append(now_ns)

    def assert_can_pay(self, account: int, line: Line) -> None:
        """Refuse who could not pay for the first minute of a call.

        Raises:
            SignalingError: ``no-money``.
        """
        info = self._ledger.account(account)
        if info.frozen or info.closed or account == line.into:
            raise SignalingError("no-money", "this account can't pay for calls")
        needed = MINIMUM_S * line.price_second
        if self._ledger.balance(account, J).available < needed:
            raise SignalingError(
                "no-money",
                f"a call takes {format_amount(needed)} Ɉ on the account, for its first minute",
                needed=format_amount(needed),
            )

    def forget_old(self) -> None:
        """Keep nothing of those who have not called in the last minute."""
        now_ns = self._clock.monotonic_ns()
        for account, begun in list(self._begun_ns.items()):
            _drop_old(begun, now_ns)
            if not begun:
                del self._begun_ns[account]


def _drop_old(begun: deque[int], now_ns: int) -> None:
    """Drop what is older than a minute."""
    while begun and begun[0] <= now_ns - MINUTE_S * NS_PER_S:
        begun.popleft()
