"""What can happen to a call, and what comes of it."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from core.errors import SignalingError
from relay.signaling.call_states import TRANSITIONS, Event, Outcome, Status, outcome_of

LAST = {Status.ENDED, Status.MISSED, Status.REJECTED, Status.FAILED}
REASONS = {
    Status.ENDED: {"hung-up", "silence", "no-money", "account-frozen", "account-closed", "failed"},
    Status.MISSED: {"missed"},
    Status.REJECTED: {"rejected"},
    Status.FAILED: {"failed", "no-money", "account-frozen", "account-closed"},
}


def test_each_event_is_decided_in_each_status_that_lives() -> None:
    assert set(TRANSITIONS) == set(Status) - LAST
    for status, outcomes in TRANSITIONS.items():
        assert list(outcomes) == list(Event), status


def test_a_call_that_is_over_swallows_every_event() -> None:
    for status in LAST:
        assert status.is_over
        assert [outcome_of(status, event) for event in Event] == [None] * len(Event)


def test_a_reason_is_given_when_it_is_over_and_not_before() -> None:
    for outcomes in TRANSITIONS.values():
        for outcome in outcomes.values():
            if outcome is None:
                continue
            if outcome.status.is_over:
                assert outcome.reason in REASONS[outcome.status]
            else:
                assert outcome.reason == ""


@pytest.mark.parametrize(
    ("events", "status", "reason"),
    [
        ([Event.HANG_UP_BY_CALLER], Status.MISSED, "missed"),
        ([Event.RING, Event.HANG_UP_BY_CALLER], Status.MISSED, "missed"),
        ([Event.RING, Event.HANG_UP_BY_CALLEE], Status.REJECTED, "rejected"),
        ([Event.RING, Event.REJECT], Status.REJECTED, "rejected"),
        ([Event.RING, Event.TIMEOUT], Status.MISSED, "missed"),
        ([Event.RING, Event.NO_MONEY], Status.FAILED, "no-money"),
        ([Event.RING, Event.ANSWER, Event.TIMEOUT], Status.FAILED, "failed"),
        ([Event.RING, Event.ANSWER, Event.ANSWER], Status.ACTIVE, ""),
        ([Event.RING, Event.ANSWER, Event.HANG_UP_BY_CALLER], Status.ENDED, "hung-up"),
        ([Event.RING, Event.ANSWER, Event.HANG_UP_BY_CALLEE], Status.ENDED, "hung-up"),
        ([Event.RING, Event.ANSWER, Event.SILENCE], Status.ENDED, "silence"),
        ([Event.RING, Event.ANSWER, Event.NO_MONEY], Status.ENDED, "no-money"),
    ],
)
def test_ways_through_a_call(events: list[Event], status: Status, reason: str) -> None:
    assert walk(events) == (status, reason)


def walk(events: list[Event]) -> Outcome:
    now = Outcome(Status.PENDING)
    for event in events:
        now = outcome_of(now.status, event) or now
    return now


@pytest.mark.parametrize(
    ("status", "event"),
    [
        (Status.PENDING, Event.ANSWER),
        (Status.PENDING, Event.SILENCE),
        (Status.RINGING, Event.SILENCE),
        (Status.ACTIVE, Event.RING),
        (Status.ACTIVE, Event.REJECT),
    ],
)
def test_what_can_not_happen_is_refused(status: Status, event: Event) -> None:
    with pytest.raises(SignalingError) as caught:
        outcome_of(status, event)
    assert caught.value.code == "wrong-state"


@given(st.lists(st.sampled_from(Event), max_size=20))
def test_whatever_happens_a_call_that_is_over_stays_as_it_is(events: list[Event]) -> None:
    now, over = Outcome(Status.PENDING), None
    for event in events:
        try:
            now = outcome_of(now.status, event) or now
        except SignalingError:
            assert over is None
            assert TRANSITIONS[now.status][event] is None
        if over is None and now.status.is_over:
            over = now
            assert now.reason in REASONS[now.status]
        assert over is None or now == over
