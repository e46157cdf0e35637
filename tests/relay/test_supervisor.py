"""How long a bridge that ends is left alone, in virtual time."""

from __future__ import annotations

from bridges import process
from core.clock import VirtualClock
from relay.supervisor import EXIT_HELD, RESTART_FIRST_S, RESTART_LAST_S, STEADY_S, Backoff


def delay_after(
    clock: VirtualClock, backoff: Backoff, lived_s: float, code: int | str = 1
) -> float:
    backoff.begin()
    clock.advance_s(lived_s)
    return backoff.end(code)


def test_who_ends_again_and_again_is_left_alone_for_longer() -> None:
    clock = VirtualClock()
    backoff = Backoff(clock)
    # What it has ended with makes no difference, nor does a start that has failed.
    delays = [
        delay_after(clock, backoff, 0.1, code) for code in (1, -9, 0, 2, "Out of memory", 1, 1, 1)
    ]
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]
    assert (delays[0], delays[-1]) == (RESTART_FIRST_S, RESTART_LAST_S)


def test_who_has_lived_for_a_while_begins_anew() -> None:
    clock = VirtualClock()
    backoff = Backoff(clock)
    assert [delay_after(clock, backoff, STEADY_S - 1) for _ in range(4)] == [1, 2, 4, 8]
    assert delay_after(clock, backoff, STEADY_S) == 1
    assert delay_after(clock, backoff, 0) == 2
    # The time that it was left alone is no time that it has lived.
    clock.advance_s(10 * STEADY_S)
    assert delay_after(clock, backoff, 0) == 4


def test_who_runs_elsewhere_is_looked_for_seldom_and_not_blamed() -> None:
    clock = VirtualClock()
    backoff = Backoff(clock)
    assert [delay_after(clock, backoff, 0, EXIT_HELD) for _ in range(3)] == [RESTART_LAST_S] * 3
    assert delay_after(clock, backoff, 0) == RESTART_FIRST_S


def test_a_bridge_says_that_it_runs_elsewhere_as_the_node_hears_it() -> None:
    assert process.EXIT_HELD == EXIT_HELD
