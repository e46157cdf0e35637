"""The statuses of a call, and what leads from one to another."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from core.errors import SignalingError


class Status(StrEnum):
    """Where a call is in its life."""

    PENDING = "pending"
    """It was asked for, and the callee has not seen it."""
    RINGING = "ringing"
    ACTIVE = "active"
    """It was answered."""
    ENDED = "ended"
    MISSED = "missed"
    REJECTED = "rejected"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """Whether nothing changes it any more."""
        return self not in TRANSITIONS


class Event(StrEnum):
    """What happens to a call."""

    RING = "ring"
    """The callee sees it."""
    ANSWER = "answer"
    """The first one; those that follow negotiate anew what flows."""
    HANG_UP_BY_CALLER = "hang up by caller"
    HANG_UP_BY_CALLEE = "hang up by callee"
    REJECT = "reject"
    """By somebody who has not opened it."""
    TIMEOUT = "timeout"
    """What was waited for has not come: the callee, an answer, a connection."""
    FAIL = "fail"
    """The node or its operator ends it."""
    SILENCE = "silence"
    NO_MONEY = "no money"
    ACCOUNT_FROZEN = "account frozen"
    ACCOUNT_CLOSED = "account closed"


class Outcome(NamedTuple):
    """What comes of an event.

    Attributes:
        reason: why it is over, as `relay.signaling.messages.Ended` has it; empty while it is not.
    """

    status: Status
    reason: str = ""


UNANSWERED: Final = (Status.PENDING, Status.RINGING)

_RINGING: Final = Outcome(Status.RINGING)
_ACTIVE: Final = Outcome(Status.ACTIVE)
_MISSED: Final = Outcome(Status.MISSED, "missed")
_REJECTED: Final = Outcome(Status.REJECTED, "rejected")
_FAILED: Final = Outcome(Status.FAILED, "failed")
_HUNG_UP: Final = Outcome(Status.ENDED, "hung-up")
_IMPOSSIBLE: Final = None

TRANSITIONS: Final[Mapping[Status, Mapping[Event, Outcome | None]]] = {
    Status.PENDING: {
        Event.RING: _RINGING,
        Event.ANSWER: _IMPOSSIBLE,
        Event.HANG_UP_BY_CALLER: _MISSED,
        Event.HANG_UP_BY_CALLEE: _REJECTED,
        Event.REJECT: _REJECTED,
        Event.TIMEOUT: _MISSED,
        Event.FAIL: _FAILED,
        Event.SILENCE: _IMPOSSIBLE,
        Event.NO_MONEY: Outcome(Status.FAILED, "no-money"),
        Event.ACCOUNT_FROZEN: Outcome(Status.FAILED, "account-frozen"),
        Event.ACCOUNT_CLOSED: Outcome(Status.FAILED, "account-closed"),
    },
    Status.RINGING: {
        Event.RING: _RINGING,
        Event.ANSWER: _ACTIVE,
        Event.HANG_UP_BY_CALLER: _MISSED,
        Event.HANG_UP_BY_CALLEE: _REJECTED,
        Event.REJECT: _REJECTED,
        Event.TIMEOUT: _MISSED,
        Event.FAIL: _FAILED,
        Event.SILENCE: _IMPOSSIBLE,
        Event.NO_MONEY: Outcome(Status.FAILED, "no-money"),
        Event.ACCOUNT_FROZEN: Outcome(Status.FAILED, "account-frozen"),
        Event.ACCOUNT_CLOSED: Outcome(Status.FAILED, "account-closed"),
    },
    Status.ACTIVE: {
        Event.RING: _IMPOSSIBLE,
        Event.ANSWER: _ACTIVE,
        Event.HANG_UP_BY_CALLER: _HUNG_UP,
        Event.HANG_UP_BY_CALLEE: _HUNG_UP,
        Event.REJECT: _IMPOSSIBLE,
        Event.TIMEOUT: _FAILED,
        Event.FAIL: Outcome(Status.ENDED, "failed"),
        Event.SILENCE: Outcome(Status.ENDED, "silence"),
        Event.NO_MONEY: Outcome(Status.ENDED, "no-money"),
        Event.ACCOUNT_FROZEN: Outcome(Status.ENDED, "account-frozen"),
        Event.ACCOUNT_CLOSED: Outcome(Status.ENDED, "account-closed"),
    },
}
"""What comes of each event while a call lives; None for what can't happen then. A status that is
not here is a last one, which no event changes: both sides may hang up at once."""


def outcome_of(status: Status, event: Event) -> Outcome | None:
    """What comes of an event; None where the call is over, and the event changes nothing.

    Raises:
        SignalingError: it can't happen in this status.
    """
    if status.is_over:
        return None
    outcome = TRANSITIONS[status][event]
    if outcome is None:
        raise SignalingError(
            "wrong-state",
            f"a call that is {status} can't have this happen: {event}",
            status=status,
            event=event,
        )
    return outcome
