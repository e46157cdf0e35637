"""The node's figures: one reading for the status command and for the metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.clock import Clock
from core.units import NS_PER_S
from relay.dataplane.interface import DataPlane
from relay.listeners.udp import UdpListener

DIRECTIONS = ("to_peer", "to_client")
_DROP_PREFIX = "drop_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the node counts; all but the numbers of living things only ever grow.

    Attributes:
        packets: relayed packets, by direction.
        bytes: their payload, by direction.
        drops: packets that were not relayed, by cause.
        engine: the data plane's other counters, under its own names.
        active_s: seconds in which a session relayed something, summed over all sessions.
        connections: to the pages' listeners that live now, by kind: "http" and "websocket".
        signaling: pages that are connected, rooms, people in them, and calls, that live now.
        outbox: see `relay.event_source.EventSource.figures`.
        sms: see `billing.sms_desk.SmsDesk.figures`.
    """

    uptime_s: int
    allocations: int
    sessions: int
    flows: int
    packets: dict[str, int]
    bytes: dict[str, int]
    drops: dict[str, int]
    engine: dict[str, int]
    active_s: int
    connections: dict[str, int]
    signaling: dict[str, int]
    outbox: dict[str, int]
    sms: dict[str, int]


class FigureReader:
    """Reads the figures; keeps what ended flows and sessions counted last."""

    def __init__(self, listener: UdpListener, data_plane: DataPlane, clock: Clock) -> None:
        self._listener = listener
        self._data_plane = data_plane
        self._clock = clock
        self._start_ns = clock.monotonic_ns()
        self._ended_sessions_active_s = 0
        self.on_ended: Callable[[Any, Any], None] | None = None
        """Is given the last counters of flows and of sessions, each once."""
        self.connections: Callable[[], dict[str, int]] = dict
        """Counts what is connected to the pages' listeners."""
        self.signaling: Callable[[], dict[str, int]] = dict
        """Counts what lives of signaling."""
        self.outbox: Callable[[], dict[str, int]] = dict
        """Counts what waits to be told, and what has become of the rest."""
        self.sms: Callable[[], dict[str, int]] = dict
        """Counts SMS."""

    def collect_ended(self) -> None:
        """Take what ended since the last call, so that the engine may use its slots again."""
        # In this order: the engine lets go of a session's flows before the session, so that what
        # a session has relayed is there with it, whichever moment a worker leaves its batch in.
        sessions = self._data_plane.take_closed_sessions()
        flows = self._data_plane.take_closed_flows()
        self._ended_sessions_active_s += int(sessions["active_seconds"].sum())
        if self.on_ended is not None:
            self.on_ended(flows, sessions)

    def read(self) -> Figures:
        """The figures now."""
        self.collect_ended()
        totals = self._data_plane.totals()
        living = self._data_plane.session_counters()
        drops = {
            name.removeprefix(_DROP_PREFIX): count
            for name, count in totals.items()
            if name.startswith(_DROP_PREFIX)
        }
        for cause, count in self._listener.drops.items():
            drops[cause] = drops.get(cause, 0) + count
        relayed = {f"{unit}_{way}" for unit in ("packets", "bytes") for way in DIRECTIONS}
        return Figures(
            uptime_s=(self._clock.monotonic_ns() - self._start_ns) // NS_PER_S,
            allocations=self._listener.allocation_count,
            sessions=self._listener.session_count,
            flows=len(self._data_plane.flow_counters()),
            packets={way: totals.get(f"packets_{way}", 0) for way in DIRECTIONS},
            bytes={way: totals.get(f"bytes_{way}", 0) for way in DIRECTIONS},
            drops=drops,
            engine={
                name: count
                for name, count in totals.items()
                if name not in relayed and not name.startswith(_DROP_PREFIX)
            }
            | {"refused_relays": self._listener.refused_relays},
            active_s=self._ended_sessions_active_s + int(living["active_seconds"].sum()),
            connections=self.connections(),
            signaling=self.signaling(),
            outbox=self.outbox(),
            sms=self.sms(),
        )
