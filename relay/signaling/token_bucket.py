"""How often somebody may do something: a steady rate, and a burst above it."""

from __future__ import annotations

from core.units import NS_PER_S


class TokenBucket:
    """Holds `burst` tokens at most; `rate` of them come back each second.

    Counted in billionths of a token, so that nothing is lost to rounding, however small the steps
    in which time passes.

    Args:
        rate: tokens a second.
        burst: tokens; it begins full.
        now_ns: of the monotonic clock.
    """

    __slots__ = ("_burst", "_level", "_rate", "_seen_ns")

    def __init__(self, rate: int, burst: int, now_ns: int) -> None:
        assert rate > 0
        assert burst > 0
        self._rate = rate
        self._burst = burst * NS_PER_S
        self._level = self._burst
        self._seen_ns = now_ns

    def take(self, now_ns: int, cost: int = 1) -> bool:
        """Take `cost` tokens if there are so many; whether there were."""
        assert cost > 0
        # A reading that is older than the last one brings nothing back.
        elapsed_ns = max(0, now_ns - self._seen_ns)
        self._seen_ns += elapsed_ns
        self._level = min(self._burst, self._level + elapsed_ns * self._rate)
        if self._level < cost * NS_PER_S:
            return False
        self._level -= cost * NS_PER_S
        return True
