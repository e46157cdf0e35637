"""What the two sides of a call are told of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from relay.signaling.call_records import CallInfo


class CallUpdated(NamedTuple):
    """A call is another now, or a second of it is over. `left`: micro-J that the caller has for it,
    None while it is not charged."""

    call: CallInfo
    left: int | None = None


class MoneyLow(NamedTuple):
    """The caller's money lasts for `left_s` seconds more, one of
    `relay.signaling.call_billing.WARNED_AT_S`."""

    call: CallInfo
    left_s: int


class CallReceipt(NamedTuple):
    """What a call that was answered has come to; `balance`: micro-J that the caller has then."""

    call: CallInfo
    balance: int


CallEvent = CallUpdated | MoneyLow | CallReceipt
Tell = Callable[[CallEvent], None]
