"""Which of a call's active seconds count: those in which both sides were there.

The workers count the seconds in which anything but a little STUN was relayed. Of these a call
does not pay for what came before it was started, nor for more than `HOLDING_S` in a row in which
one side alone was sending: such seconds are free. What is free is added up here, to be taken off
the workers' count.

Which side has sent what was relayed is known by whose allocations have carried it. A side has
several, and what it sends need not come out of the one that it is sent to: of two browsers each
chooses the way on which it sends.

A side is there when it sends media, or reports on what it receives: bytes, and enough of them, for
the checks that keep a way open (RFC 7675) are packets of a flow like any other. They come every few
seconds, and one second of them stays under the floor. Sound has ten times as much. Whoever only
listens sends reports, which pass it now and then: once in `HOLDING_S` is enough.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from core.units import NS_PER_S

HOLDING_S: Final = 10
"""How much silence of a side, in a row, is charged."""
FLOOR_BYTES_S: Final = 500
"""What each side sends at least in a second in which it is there."""
_NEVER_NS: Final = 1 << 62


class CallActivity:
    """What is free of each call, by the engine's handle of its session.

    Handles of sessions that are no calls may be asked for: nothing of them is free.

    Attributes:
        free_s: seconds of each that are not charged.
        free_bytes: bytes of each that are not charged.
    """

    def __init__(self, size: int, now_ns: int) -> None:
        self.free_s = np.zeros(size, np.uint64)
        self.free_bytes = np.zeros(size, np.uint64)
        self._is_call = np.zeros(size, np.bool_)
        self._started_ns = np.zeros(size, np.int64)
        self._both_ns = np.zeros(size, np.int64)
        self._seen_s = np.zeros(size, np.uint64)
        self._judged_ns = now_ns
        # To the peer and to the client, by the engine's handle of the allocation.
        self._carried = np.zeros((2, 0), np.uint64)
        self._member_of = np.zeros(0, np.int64)

    def reserve(self, size: int) -> None:
        """Have room for so many handles."""
        for name in ("free_s", "free_bytes", "_is_call", "_started_ns", "_both_ns", "_seen_s"):
            column = getattr(self, name)
            setattr(self, name, np.concatenate([column, np.zeros_like(column, shape=size)])[:size])

    def begin(self, handle: int, started_ns: int | None) -> None:
        """The session is a call, which was started then, or has not been started yet."""
        self._is_call[handle] = True
        self._started_ns[handle] = _NEVER_NS if started_ns is None else started_ns
        self._both_ns[handle] = 0
        self.free_s[handle] = self.free_bytes[handle] = self._seen_s[handle] = 0

    def assign(self, allocation: int, member: int) -> None:
        """An allocation's handle is one that `member` of its session has from here on. Which are
        not assigned are each a member's of its own."""
        size = len(self._member_of)
        if allocation >= size:
            more = max(allocation + 1 - size, size)
            self._member_of = np.concatenate(
                [self._member_of, -1 - np.arange(size, size + more, dtype=np.int64)]
            )
        self._member_of[allocation] = member

    def start(self, handle: int, now_ns: int) -> None:
        """Count from the next second on."""
        self._started_ns[handle] = now_ns

    def last_both_ns(self, handle: int) -> int:
        """When both sides of a call were found to be there last; 0 for never."""
        return int(self._both_ns[handle])

    def judge(
        self,
        sessions: NDArray[Any],
        flows: NDArray[Any],
        relayed: NDArray[np.uint64],
        now_ns: int,
    ) -> None:
        """Find out what is free of what has been counted since the last time.

        Args:
            sessions, flows: as the data plane has them now.
            relayed: bytes, by the handle of the session.
        """
        if not self._is_call.any():
            # A node that relays for others alone need not look at each of its flows.
            self._judged_ns = now_ns
            return
        sessions = sessions[self._is_call[sessions["session"]]]
        flows = flows[self._is_call[flows["session"]]]
        handles = sessions["session"]
        there = np.intersect1d(handles, self._both_sides(flows, now_ns))
        self._both_ns[there] = now_ns
        self._settle(handles, sessions["active_seconds"], relayed[handles], now_ns)
        self._judged_ns = now_ns

    def take(
        self,
        handles: NDArray[np.uint32],
        active_s: NDArray[np.uint64],
        relayed: NDArray[np.uint64],
        now_ns: int,
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """The seconds and bytes that count of sessions that have ended, by their last counters;
        their handles are somebody else's from here on."""
        self._settle(handles, active_s, relayed, now_ns)
        counted = active_s - self.free_s[handles], relayed - self.free_bytes[handles]
        self._is_call[handles] = False
        self.free_s[handles] = self.free_bytes[handles] = 0
        return counted

    def peek(self, handle: int, active_s: int, relayed: int, now_ns: int) -> tuple[int, int]:
        """The seconds and bytes that count of a call by now, as `judge` will find, where nobody
        has come back meanwhile."""
        handles = np.array([handle])
        free_s, free_bytes = self._free(
            handles, np.array([active_s], np.uint64), np.array([relayed], np.uint64), now_ns
        )
        return active_s - int(free_s[0]), relayed - int(free_bytes[0])

    def _both_sides(self, flows: NDArray[Any], now_ns: int) -> NDArray[np.uint32]:
        """The sessions in which media has been relayed both ways."""
        allocations, at = np.unique(flows["allocation"], return_index=True)
        size = int(allocations.max(initial=0)) + 1
        carried = np.zeros((2, size), np.uint64)
        np.add.at(carried[0], flows["allocation"], flows["bytes_to_peer"])
        np.add.at(carried[1], flows["allocation"], flows["bytes_to_client"])
        before = np.zeros((2, size), np.uint64)
        known = min(size, self._carried.shape[1])
        before[:, :known] = self._carried[:, :known]
        self._carried = carried
        # Less than before: a way has been closed, or it is another allocation under its handle.
        grown = (carried - np.minimum(before, carried))[:, allocations]
        members, first, member_at = np.unique(
            self._members(allocations), return_index=True, return_inverse=True
        )
        sums = np.zeros((2, len(members)), np.uint64)
        np.add.at(sums[0], member_at, grown[0])
        np.add.at(sums[1], member_at, grown[1])
        elapsed_s = max(1.0, (now_ns - self._judged_ns) / NS_PER_S)
        sent, received = sums >= FLOOR_BYTES_S * elapsed_s
        sessions, session_at = np.unique(flows["session"][at][first], return_inverse=True)
        senders, receivers, both = (
            np.bincount(session_at, which, len(sessions))
            for which in (sent, received, sent & received)
        )
        # Where there are two, what one receives the other has sent.
        of_two = np.bincount(session_at, minlength=len(sessions)) == 2
        there: NDArray[np.uint32] = sessions[
            (both > 0) | (senders > 1) | (of_two & (receivers > 1))
        ]
        return there

    def _members(self, allocations: NDArray[Any]) -> NDArray[np.int64]:
        """Whose these allocations are."""
        members = -1 - allocations.astype(np.int64)
        assigned = allocations < len(self._member_of)
        members[assigned] = self._member_of[allocations[assigned]]
        return members

    def _settle(
        self,
        handles: NDArray[np.uint32],
        active_s: NDArray[np.uint64],
        relayed: NDArray[np.uint64],
        now_ns: int,
    ) -> None:
        calls = self._is_call[handles]
        handles, active_s, relayed = handles[calls], active_s[calls], relayed[calls]
        self.free_s[handles], self.free_bytes[handles] = self._free(
            handles, active_s, relayed, now_ns
        )
        self._seen_s[handles] = active_s

    def _free(
        self,
        handles: NDArray[Any],
        active_s: NDArray[np.uint64],
        relayed: NDArray[np.uint64],
        now_ns: int,
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """The seconds and bytes of calls that are free, with what has come since the last time."""
        started_ns = self._started_ns[handles]
        new_s = (active_s - self._seen_s[handles]).astype(np.int64)
        # The second in which it was started has most likely been active already: it is the last
        # that is free.
        since_start_s = now_ns // NS_PER_S - started_ns // NS_PER_S
        silent_ns = now_ns - np.maximum(self._both_ns[handles], started_ns)
        # Rounded, for ticks come a little early or late.
        too_long_s = np.rint(silent_ns / NS_PER_S).astype(np.int64) - HOLDING_S
        counted_s = np.minimum(since_start_s, new_s - np.maximum(0, too_long_s))
        free_s = self.free_s[handles] + (new_s - np.clip(counted_s, 0, new_s)).astype(np.uint64)
        is_new = started_ns > self._judged_ns
        return free_s, np.where(is_new, relayed, self.free_bytes[handles])
