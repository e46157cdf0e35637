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
        self._trouble = ""
        self._advice = ""

    def count(self, name: str) -> None:
        """One more of these."""
        figures = self._node.figures
        figures[name] = str(int(figures.get(name, "0")) + 1)

    def show(self, name: str, value: int) -> None:
        """So many of these there are."""
        self._node.figures[name] = str(value)

    def advise(self, advice: str) -> None:
        """What the operator has to do before SMS go out again; empty when they do."""
        self._advice = advice
        self._show_state()

    def advise_listening(self, advice: str) -> None:
        """What the operator has to do before SMS come in again, which is told first; empty when
        they do."""
        self._trouble = advice
        self._show_state()

    def _show_state(self) -> None:
        self._node.state = (self._trouble or self._advice)[:STATE_MAXIMUM] or _RUNNING
