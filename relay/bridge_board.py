"""How the node's bridges do: what their processes are doing, and what they say of themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from core.api.bridge_messages import BridgeItem, BridgeStatusRequest
from core.clock import Clock
from core.units import NS_PER_S

SILENT_S: Final = 30
"""Who has said nothing for so long is not there."""
BRIDGES_MAXIMUM: Final = 16
"""Names that anybody behind the socket may bring up."""


@dataclass(slots=True)
class _Bridge:
    state: str = "not started"
    pid: int | None = None
    restarts: int = 0
    said: BridgeStatusRequest | None = None
    said_ns: int = 0


class BridgeBoard:
    """What is known of each bridge, by its name."""

    def __init__(self, names: tuple[str, ...], clock: Clock) -> None:
        self._clock = clock
        self._bridges = {name: _Bridge() for name in names}

    def process(self, name: str, state: str, pid: int | None = None) -> None:
        """What the node has done with a bridge's process."""
        bridge = self._bridges[name]
        # What it has said before is true of a process that has ended.
        bridge.state, bridge.pid, bridge.said = state, pid, None

    def restarted(self, name: str) -> None:
        """A bridge's process has ended, and is to be started again."""
        self._bridges[name].restarts += 1

    def take(self, request: BridgeStatusRequest) -> None:
        """What a bridge says of itself."""
        bridge = self._bridges.get(request.bridge)
        if bridge is None:
            if len(self._bridges) >= BRIDGES_MAXIMUM:
                return
            bridge = self._bridges[request.bridge] = _Bridge("started by hand")
        bridge.said, bridge.said_ns = request, self._clock.monotonic_ns()

    def items(self) -> list[BridgeItem]:
        """All of them, as the node's status has them."""
        now_ns = self._clock.monotonic_ns()
        items = []
        for name, bridge in self._bridges.items():
            said = bridge.said
            is_there = said is not None and now_ns - bridge.said_ns < SILENT_S * NS_PER_S
            state = said.state if said is not None and is_there else bridge.state
            items.append(
                BridgeItem(
                    name=name,
                    connected=is_there,
                    state=state,
                    pid=bridge.pid,
                    restarts=bridge.restarts,
                    figures=dict(said.figures) if said is not None and is_there else {},
                )
            )
        return items
