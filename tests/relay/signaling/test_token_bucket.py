"""The token bucket: a burst, then a steady rate, exactly."""

from __future__ import annotations

from fractions import Fraction

import hypothesis.strategies as st
from hypothesis import given

from core.units import NS_PER_S
from relay.signaling.token_bucket import TokenBucket


def taken(bucket: TokenBucket, now_ns: int, tries: int) -> int:
    return sum(bucket.take(now_ns) for _ in range(tries))


def test_a_burst_and_then_the_rate() -> None:
    bucket = TokenBucket(20, 200, 0)
    assert taken(bucket, 0, 500) == 200
    assert not bucket.take(NS_PER_S // 20 - 1)
    assert bucket.take(NS_PER_S // 20)
    assert taken(bucket, NS_PER_S, 500) == 19
    assert taken(bucket, 3600 * NS_PER_S, 500) == 200


def test_what_costs_more_takes_all_or_nothing() -> None:
    bucket = TokenBucket(1, 5, 0)
    assert bucket.take(0, 4)
    assert not bucket.take(0, 2)
    assert bucket.take(0, 1)
    assert not bucket.take(0, 6)


def test_a_clock_that_is_read_out_of_order_gives_nothing() -> None:
    bucket = TokenBucket(1, 1, NS_PER_S)
    assert bucket.take(NS_PER_S)
    assert not bucket.take(0)
    assert not bucket.take(NS_PER_S)
    assert bucket.take(2 * NS_PER_S)


def test_nothing_is_lost_in_steps_that_are_no_part_of_a_second() -> None:
    bucket = TokenBucket(3, 1, 0)
    assert bucket.take(0)
    # A million steps of 333 ns and some: 0.999999 tokens, then the whole one.
    assert not any(bucket.take(step * 333) for step in range(1, 1_000_000))
    assert bucket.take(333_333_334)


@given(
    st.integers(1, 100),
    st.integers(1, 300),
    st.lists(st.tuples(st.integers(0, 2 * NS_PER_S), st.integers(1, 50)), max_size=60),
)
def test_it_is_what_fractions_say(rate: int, burst: int, steps: list[tuple[int, int]]) -> None:
    bucket, level, now_ns = TokenBucket(rate, burst, 0), Fraction(burst), 0
    for elapsed_ns, cost in steps:
        now_ns += elapsed_ns
        level = min(Fraction(burst), level + Fraction(elapsed_ns * rate, NS_PER_S))
        assert bucket.take(now_ns, cost) == (level >= cost)
        if level >= cost:
            level -= cost
