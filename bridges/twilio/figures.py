"""What the bridge counts, and what it says of itself."""

from __future__ import annotations

from typing import Final

from bridges.node_link import NodeLink

STATE_MAXIMUM: Final = 128
_RUNNING: Final = "running"


class Figures:
    """Counters that the node is told, for status and metrics."""

    def __init__(self, node: NodeLink) -> None:
        self._node = node

    def count(self, name: str) -> None:
        """One more of these."""
        figures = self._node.figures
        figures[name] = str(int(figures.get(name, "0")) + 1)

    def show(self, name: str, value: int) -> None:
        """So many of these there are."""
        self._node.figures[name] = str(value)

    def advise(self, advice: str) -> None:
        """What the operator has to do before SMS go out again; empty when they do."""
        self._node.state = advice[:STATE_MAXIMUM] or _RUNNING
