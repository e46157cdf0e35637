"""Time and randomness, real and virtual."""

from __future__ import annotations

import time

import pytest

from core.clock import Clock, SystemClock, VirtualClock
from core.units import NS_PER_S


def test_the_system_clock_is_the_machine_s() -> None:
    clock: Clock = SystemClock()
    before_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert before_ns <= clock.monotonic_ns() <= time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert int(time.time()) <= clock.unix_s()
    assert clock.random_bytes(16) != clock.random_bytes(16)


def test_virtual_time_passes_only_when_told() -> None:
    clock = VirtualClock(monotonic_ns=5, unix_s=100)
    assert (clock.monotonic_ns(), clock.unix_s()) == (5, 100.0)
    clock.advance_s(1.5)
    assert (clock.monotonic_ns(), clock.unix_s()) == (5 + 3 * NS_PER_S // 2, 101.5)
    with pytest.raises(AssertionError, match="back"):
        clock.advance_ns(-1)


def test_virtual_randomness_repeats_by_seed() -> None:
    one: Clock = VirtualClock(seed=7)
    assert one.random_bytes(32) == VirtualClock(seed=7).random_bytes(32)
    assert one.random_bytes(32) != VirtualClock(seed=7).random_bytes(32)
    assert VirtualClock(seed=8).random_bytes(32) != VirtualClock(seed=7).random_bytes(32)
