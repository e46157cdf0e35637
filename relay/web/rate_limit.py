"""How often clients may ask for something, in a structure of fixed size."""

from __future__ import annotations

import hmac

from core.clock import Clock
from core.units import NS_PER_S

BUCKETS = 1024


class RateLimiter:
    """At most `count` in `interval_s` for each client.

    Clients are told apart by a keyed hash into a fixed number of buckets: those that share one
    share its allowance, and nobody can choose to meet somebody else there.
    """

    def __init__(self, count: int, interval_s: int, clock: Clock) -> None:
        assert count > 0
        assert interval_s > 0
        self._count = count
        self._interval_s = interval_s
        self._clock = clock
        self._key = clock.random_bytes(16)
        self._used = [0] * BUCKETS
        self._window = 0

    def take(self, client: str) -> bool:
        """Count one request of `client`'s; whether it may be served."""
        window = self._clock.monotonic_ns() // (self._interval_s * NS_PER_S)
        if window != self._window:
            self._window = window
            self._used = [0] * BUCKETS
        digest = hmac.digest(self._key, client.encode(), "sha256")
        bucket = int.from_bytes(digest[:8]) % BUCKETS
        self._used[bucket] += 1
        return self._used[bucket] <= self._count
