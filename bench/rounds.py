"""What a server carries in several rounds, and what that costs it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """Something done as often as a server's core carries it, in several rounds.

    Attributes:
        rates: how often a second, of each round.
        cpu_us: the server's CPU for each time, of each round.
        busy: the share of its core that the server used, of the median round.
    """

    rates: list[float]
    cpu_us: list[float]
    busy: float

    @property
    def a_second(self) -> float:
        """Of the median round."""
        return statistics.median(self.rates)

    @property
    def a_core_second(self) -> float:
        """For a second of the server's CPU, of the median round: what a core carries that nothing
        else uses."""
        return 1e6 / statistics.median(self.cpu_us)
