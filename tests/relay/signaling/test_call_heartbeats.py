"""Seconds that two pages say they have had."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from core.units import NS_PER_S
from relay.call_activity import HOLDING_S
from relay.signaling.call_heartbeats import Heartbeats, Side

START_NS = 17 * NS_PER_S


def seconds_of(beats: list[tuple[Side, float]], until_s: float) -> int:
    heartbeats = Heartbeats(START_NS)
    for side, at_s in beats:
        heartbeats.beat(side, START_NS + round(at_s * NS_PER_S))
    return heartbeats.seconds(START_NS + round(until_s * NS_PER_S))


def both(*at_s: float) -> list[tuple[Side, float]]:
    return [(side, one) for one in at_s for side in Side]


def test_each_second_counts_while_both_are_heard_of() -> None:
    assert seconds_of(both(*range(1, 31)), 30) == 30
    assert seconds_of(both(*range(1, 31)), 30.9) == 30


def test_a_gap_counts_for_the_holding_time() -> None:
    assert seconds_of(both(1, 2, 3, 40, 41), 41) == 3 + HOLDING_S + 1
    assert seconds_of(both(1, 2, 3, 12, 13), 13) == 13


def test_one_side_alone_is_no_call() -> None:
    beats = both(1, 2) + [(Side.CALLER, float(one)) for one in range(3, 60)]
    assert seconds_of(beats, 60) == 2 + HOLDING_S


def test_who_is_never_heard_of_counts_for_the_holding_time() -> None:
    assert seconds_of([], 100) == HOLDING_S
    assert seconds_of([], 4.5) == 4


@given(
    st.lists(st.tuples(st.sampled_from(Side), st.integers(0, 3 * NS_PER_S)), max_size=60),
    st.integers(0, 40 * NS_PER_S),
)
def test_it_grows_with_time_and_never_past_it(steps: list[tuple[Side, int]], more_ns: int) -> None:
    heartbeats = Heartbeats(START_NS)
    now_ns, before, last = START_NS, 0, dict.fromkeys(Side, START_NS)
    heard_ns = 0
    for side, step_ns in steps:
        # What is right, worked out from the gaps alone.
        covered_ns = min(last.values()) + HOLDING_S * NS_PER_S
        heard_ns += max(0, min(now_ns + step_ns, covered_ns) - now_ns)
        now_ns += step_ns
        heartbeats.beat(side, now_ns)
        last[side] = now_ns
        seconds = heartbeats.seconds(now_ns)
        assert before <= seconds == heard_ns // NS_PER_S <= (now_ns - START_NS) // NS_PER_S
        before = seconds
    now_ns += more_ns
    assert before <= heartbeats.seconds(now_ns) <= (now_ns - START_NS) // NS_PER_S
    assert heartbeats.last_both_ns == min(last.values())
