"""Time and randomness, given to whoever needs them so that tests can run in virtual time."""

from __future__ import annotations

import os
import random
import time
from typing import Protocol

from core.units import NS_PER_S


class Clock(Protocol):
    """Where the time and random bytes come from."""

    def monotonic_ns(self) -> int:
        """Nanoseconds of `CLOCK_MONOTONIC`: for deadlines and intervals."""

    def unix_s(self) -> float:
        """Seconds since 1970 UTC, leap seconds not counted: for what outlives a boot."""

    def random_bytes(self, count: int) -> bytes:
        """`count` bytes that nobody outside can guess."""


class SystemClock:
    """The machine's own time, and the kernel's random bytes."""

    __slots__ = ()

    def monotonic_ns(self) -> int:
        """Nanoseconds of `CLOCK_MONOTONIC`."""
        return time.monotonic_ns()

    def unix_s(self) -> float:
        """Seconds since 1970 UTC."""
        return time.time()

    def random_bytes(self, count: int) -> bytes:
        """`count` bytes from the kernel's generator."""
        return os.urandom(count)


class VirtualClock:
    """Time that passes only when told to, and bytes that a seed decides. For tests alone.

    Both times advance together.
    """

    __slots__ = ("_monotonic_ns", "_random", "_unix_ns")

    def __init__(
        self,
        *,
        seed: int = 0,
        monotonic_ns: int = NS_PER_S,
        unix_s: int = 1_800_000_000,
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._unix_ns = unix_s * NS_PER_S
        # Not for secrets: a test that fails has to fail again from the same seed.
        self._random = random.Random(seed)  # noqa: S311

    def monotonic_ns(self) -> int:
        """Nanoseconds that have passed, over what it was made with."""
        return self._monotonic_ns

    def unix_s(self) -> float:
        """Seconds since 1970 UTC."""
        return self._unix_ns / NS_PER_S

    def random_bytes(self, count: int) -> bytes:
        """The next `count` bytes of the seed's sequence."""
        return self._random.randbytes(count)

    def advance_ns(self, duration_ns: int) -> None:
        """Let `duration_ns` pass."""
        assert duration_ns >= 0, "time does not go back"
        self._monotonic_ns += duration_ns
        self._unix_ns += duration_ns

    def advance_s(self, duration_s: float) -> None:
        """Let `duration_s` seconds pass."""
        self.advance_ns(round(duration_s * NS_PER_S))
