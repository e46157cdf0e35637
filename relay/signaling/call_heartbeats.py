"""Seconds of a call whose media flows past the relays, by what its two pages say of it."""

from __future__ import annotations

from enum import StrEnum

from core.units import NS_PER_S
from relay.call_activity import HOLDING_S


class Side(StrEnum):
    """One of the two in a call."""

    CALLER = "caller"
    CALLEE = "callee"

    @property
    def other(self) -> Side:
        """Whom one talks to."""
        return Side.CALLEE if self is Side.CALLER else Side.CALLER


class Heartbeats:
    """Counts the time in which both sides have been heard of within `HOLDING_S`, as seconds
    that are relayed are counted.

    Args:
        started_ns: when both were connected; times are of one clock.
    """

    __slots__ = ("_active_ns", "_counted_ns", "_last_ns")

    def __init__(self, started_ns: int) -> None:
        self._last_ns = dict.fromkeys(Side, started_ns)
        self._counted_ns = started_ns
        self._active_ns = 0

    def beat(self, side: Side, now_ns: int) -> None:
        """A side says that media comes in."""
        # First what was before: a gap that is over stays one.
        self._count(now_ns)
        self._last_ns[side] = max(self._last_ns[side], now_ns)

    def seconds(self, now_ns: int) -> int:
        """Whole seconds until now, never more than have passed."""
        self._count(now_ns)
        return self._active_ns // NS_PER_S

    @property
    def last_both_ns(self) -> int:
        """Until when both have been heard of."""
        return min(self._last_ns.values())

    def _count(self, now_ns: int) -> None:
        until_ns = min(now_ns, self.last_both_ns + HOLDING_S * NS_PER_S)
        self._active_ns += max(0, until_ns - self._counted_ns)
        self._counted_ns = max(self._counted_ns, now_ns)
