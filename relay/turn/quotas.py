"""How many allocations there may be."""

from __future__ import annotations

from collections import Counter

from core.config import TurnLimits
from core.errors import StunError


class Quotas:
    """Counts allocations and reservations, those of each account and all of them."""

    def __init__(self) -> None:
        self._by_account: Counter[str] = Counter()
        self._total = 0

    def check(self, account: str, limits: TurnLimits, more: int) -> None:
        """Whether `account` may have `more` of them.

        Raises:
            StunError: 486, 508.
        """
        if self._by_account[account] + more > limits.allocations_per_user:
            raise StunError("this user has as many allocations as it may", 486)
        if self._total + more > limits.allocations:
            raise StunError("the node has as many allocations as it may", 508)

    def add(self, account: str, more: int) -> None:
        """`more` of them."""
        self._by_account[account] += more
        self._total += more

    def remove(self, account: str, fewer: int = 1) -> None:
        """`fewer` of them; an account that has none is forgotten."""
        self._total -= fewer
        self._by_account[account] -= fewer
        assert self._by_account[account] >= 0
        if not self._by_account[account]:
            del self._by_account[account]
