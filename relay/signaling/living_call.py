"""What the node has of a call while it lives, beside its record."""

from __future__ import annotations

import msgspec
import trio

from relay.signaling.call_heartbeats import Heartbeats, Side
from relay.signaling.call_records import CallInfo


class LivingCall:
    """A call that lives, or has ended and is to be charged and stored.

    Attributes:
        present: the sides whose pages are there, or will be soon; to each what tells its page from
            those that have come to the side before.
        connected: those whose media connection stands.
        relay_only: those who give away no address but their relays', whatever the other one does.
        offering: the sides whose offer has passed and is not answered yet.
        is_billed: the metering has it open.
        opening: held by whoever opens, changes or closes it there.
        counted_since_s: since when it is charged, of the monotonic clock's seconds.
        heartbeats: of a call that isn't relayed, while it is charged.
        connect_by_ns: when an answered call that isn't charged yet has failed.
        earlier_seconds, earlier_cost: what it had come to before the metering opened it.
        is_closing: the metering was asked to close it.
        warned_at_s: the lowest that was told of this depletion; None for none.
        has_failed: closing or storing it has failed before.
        unstarted_media_s, last_media_s: see `relay.signaling.call_billing.UNSTARTED_MEDIA_S`.
    """

    __slots__ = (
        "connect_by_ns",
        "connected",
        "counted_since_s",
        "earlier_cost",
        "earlier_seconds",
        "has_failed",
        "heartbeats",
        "info",
        "is_billed",
        "is_closing",
        "is_finishing",
        "last_media_s",
        "offering",
        "opening",
        "present",
        "relay_only",
        "unstarted_media_s",
        "warned_at_s",
    )

    def __init__(self, info: CallInfo) -> None:
        self.info = info
        self.present: dict[Side, object] = {}
        self.connected: set[Side] = set()
        self.relay_only: set[Side] = set()
        self.offering: set[Side] = set()
        self.is_billed = False
        self.is_closing = False
        self.opening = trio.Lock()
        self.counted_since_s: float | None = None
        self.heartbeats: Heartbeats | None = None
        self.connect_by_ns = 0
        self.earlier_seconds = self.earlier_cost = 0
        self.warned_at_s: int | None = None
        self.unstarted_media_s = 0
        self.last_media_s: float | None = None
        self.is_finishing = False
        self.has_failed = False

    def is_stripped(self, side: Side) -> bool:
        """Whether what a side sends may name no address but a relay's."""
        return self.info.relayed or side in self.relay_only

    def change(self, **changes: object) -> None:
        """Have other values in its record."""
        self.info = msgspec.structs.replace(self.info, **changes)
