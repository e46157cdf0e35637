"""Servers measured in turn, and what is said about it: medians, ratios, bounds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

from bench.scenario import Measurement
from bench.servers import Server, running

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
Work = Callable[[Server], dict[Key, Value]]
"""Measures a running server; the results by what was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of what must be reached.

    Attributes:
        name: what is compared.
        unit: of the two figures.
        coturn, montana: the figures.
        ratio: how many times better Montana is, above 1 where it is.
        bound: what `ratio` must reach.
        note: what the reader should know.
    """

    name: str
    unit: str
    coturn: float
    montana: float
    ratio: float
    bound: float
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the bound is reached."""
        return self.ratio >= self.bound


def fewer(name: str, unit: str, coturn: float, montana: float, bound: float, note: str = "") -> Row:
    """A row where less is better."""
    ratio = coturn / montana if montana else float("inf")
    return Row(
        name=name, unit=unit, coturn=coturn, montana=montana, ratio=ratio, bound=bound, note=note
    )


def more(name: str, unit: str, coturn: float, montana: float, bound: float, note: str = "") -> Row:
    """A row where more is better."""
    ratio = montana / coturn if coturn else float("inf")
    return Row(
        name=name, unit=unit, coturn=coturn, montana=montana, ratio=ratio, bound=bound, note=note
    )


def in_turn(
    names: Sequence[str], rounds: int, work: Work[Key, Value]
) -> dict[str, dict[Key, list[Value]]]:
    """Start each server, let `work` measure it and stop it; all that `rounds` times, so that
    what changes on the machine meanwhile hits every server alike."""
    results: dict[str, dict[Key, list[Value]]] = {name: {} for name in names}
    for _ in range(rounds):
        for name in names:
            with running(name) as server:
                measured = work(server)
            for key, value in measured.items():
                results[name].setdefault(key, []).append(value)
    return results


def median(measurements: Sequence[Measurement]) -> Measurement:
    """The median of each figure; what was sent, delivered and lost is summed up, since one lost
    packet in one of several rounds is not none."""
    summed = {"sent", "delivered", "missed", "strays", "server_drops", "generator_drops"}
    values: dict[str, float] = {}
    for field in fields(Measurement):
        figures = [getattr(one, field.name) for one in measurements]
        values[field.name] = (
            sum(figures) if field.name in summed else float(statistics.median(figures))
        )
    sent = values["sent"]
    values["loss"] = (sent - values["delivered"]) / sent if sent else 0.0
    return Measurement(**values)  # type: ignore[arg-type]


def medians(results: dict[Key, list[Measurement]]) -> dict[Key, Measurement]:
    """The median of what was measured under each key."""
    return {key: median(values) for key, values in results.items()}
