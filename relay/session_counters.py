"""What the engine has counted of sessions, by its own handles, as the meter is told it: by the
meter's slots, without what is free of calls. And what the engine is granted in return."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.clock import Clock
from relay.call_activity import CallActivity
from relay.dataplane.interface import DataPlane

COUNTED = np.dtype([("slot", "<u4"), ("seconds", "<u8"), ("bytes", "<u8")])
"""What a session has come to when it ends."""
_FIRST_SIZE = 1024
_FREE, _UNMETERED = -1, -2
"""In place of a slot of the meter's, of a handle that nobody has, and of one that nobody pays for.
"""


class Living(NamedTuple):
    """What the sessions that live and are paid for have come to: columns of one length."""

    handles: NDArray[np.uint32]
    slots: NDArray[np.int64]
    seconds: NDArray[np.uint64]
    bytes: NDArray[np.uint64]


class SessionCounters:
    """The engine's sessions and the meter's slots, each by the other.

    Attributes:
        activity: which seconds of calls are free.
    """

    def __init__(self, data_plane: DataPlane, clock: Clock) -> None:
        self._data_plane = data_plane
        self._clock = clock
        self.activity = CallActivity(_FIRST_SIZE, clock.monotonic_ns())
        # By the engine's handle: the meter's slot, the bytes of flows that were closed, and the
        # seconds that the engine has been granted over those that the meter grants.
        self._slot_of = np.full(_FIRST_SIZE, _FREE, np.int64)
        self._closed_bytes = np.zeros(_FIRST_SIZE, np.uint64)
        self._granted_free_s = np.zeros(_FIRST_SIZE, np.uint64)
        # By the meter's slot: the engine's handle, 0 for none that can be granted anything.
        self._handle_of = np.zeros(_FIRST_SIZE, np.uint32)

    # ------------------------------------------------------------ coming and going

    def is_taken(self, handle: int) -> bool:
        """Whether a handle's last counters have not been taken yet."""
        self._reserve(np.array([handle], np.uint32))
        return bool(self._slot_of[handle] != _FREE)

    def enter(self, handle: int, slot: int) -> None:
        """A handle that is not taken is a session's from now on; `slot` -1 where nobody pays."""
        assert not self.is_taken(handle)
        self._slot_of[handle] = slot if slot >= 0 else _UNMETERED
        self._granted_free_s[handle] = 0
        if slot < 0:
            return
        if slot >= len(self._handle_of):
            more = np.zeros(max(slot, len(self._handle_of)), np.uint32)
            self._handle_of = np.concatenate([self._handle_of, more])
        self._handle_of[slot] = handle

    def leave(self, slot: int) -> None:
        """Nothing more is granted to a slot's session."""
        self._handle_of[slot] = 0

    def take_closed(self, flows: NDArray[Any], sessions: NDArray[Any]) -> NDArray[np.void]:
        """What those sessions have come to that the engine has closed, which are paid for, as
        `COUNTED`. It may use their handles for others from here on.

        Args:
            flows, sessions: their last counters, each once.
        """
        self._reserve(flows["session"])
        np.add.at(self._closed_bytes, flows["session"], _relayed(flows))
        handles = sessions["session"]
        self._reserve(handles)
        slots = self._slot_of[handles]
        metered = slots >= 0
        seconds, counted = self.activity.take(
            handles,
            sessions["active_seconds"],
            self._closed_bytes[handles],
            self._clock.monotonic_ns(),
        )
        rows = np.zeros(np.count_nonzero(metered), COUNTED)
        rows["slot"] = slots[metered]
        rows["seconds"] = seconds[metered]
        rows["bytes"] = counted[metered]
        self._slot_of[handles] = _FREE
        self._closed_bytes[handles] = 0
        return rows

    def _reserve(self, handles: NDArray[np.uint32]) -> None:
        """Have room for these handles."""
        size = len(self._slot_of)
        highest = int(handles.max(initial=0))
        if highest >= size:
            more = max(highest + 1 - size, size)
            self._slot_of = np.concatenate([self._slot_of, np.full(more, _FREE, np.int64)])
            for name in ("_closed_bytes", "_granted_free_s"):
                setattr(
                    self, name, np.concatenate([getattr(self, name), np.zeros(more, np.uint64)])
                )
            self.activity.reserve(len(self._slot_of))

    # ------------------------------------------------------------ reading

    def read(self) -> Living:
        """What all have come to by now; judges what is free of calls."""
        sessions = self._data_plane.session_counters()
        flows = self._data_plane.flow_counters()
        self._reserve(sessions["session"])
        relayed = self._closed_bytes.copy()
        np.add.at(relayed, flows["session"], _relayed(flows))
        self.activity.judge(sessions, flows, relayed, self._clock.monotonic_ns())
        slots = self._slot_of[sessions["session"]]
        sessions, slots = sessions[slots >= 0], slots[slots >= 0]
        handles = sessions["session"]
        return Living(
            handles,
            slots,
            sessions["active_seconds"] - self.activity.free_s[handles],
            relayed[handles] - self.activity.free_bytes[handles],
        )

    def read_call(self, handle: int) -> tuple[int, int]:
        """The seconds and bytes of a living call that count by now."""
        sessions = self._data_plane.session_counters()
        (row,) = sessions[sessions["session"] == handle]
        flows = self._data_plane.flow_counters()
        relayed = int(self._closed_bytes[handle])
        relayed += int(_relayed(flows[flows["session"] == handle]).sum())
        return self.activity.peek(
            handle, int(row["active_seconds"]), relayed, self._clock.monotonic_ns()
        )

    # ------------------------------------------------------------ granting

    def grant(self, slots: NDArray[Any], seconds: NDArray[np.uint32]) -> None:
        """Let the sessions of these slots go on until they have been active for so many seconds
        that count, all in all."""
        slots, seconds = slots[slots < len(self._handle_of)], seconds[slots < len(self._handle_of)]
        handles = self._handle_of[slots]
        handles, seconds = handles[handles != 0], seconds[handles != 0]
        free_s = self.activity.free_s[handles]
        self._granted_free_s[handles] = free_s
        self._data_plane.grant_sessions(handles, seconds.astype(np.uint64) + free_s)

    def freed(self, living: Living) -> NDArray[np.int64]:
        """The slots of those of which more is free than when they were granted something last."""
        free_s = self.activity.free_s[living.handles]
        slots: NDArray[np.int64] = living.slots[free_s != self._granted_free_s[living.handles]]
        return slots


def _relayed(flows: NDArray[Any]) -> NDArray[np.uint64]:
    """The bytes that flows have relayed, either way."""
    relayed: NDArray[np.uint64] = flows["bytes_to_peer"] + flows["bytes_to_client"]
    return relayed
