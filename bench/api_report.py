"""What was measured of the node's socket, told: the bounds with their ratios, and a table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench.api import PING, SEND, ApiReport, Requests
from bench.bounds import BoundRow, at_least, bounds_table
from bench.table import Table

BOUNDS = {PING: 30_000.0, SEND: 5_000.0}
SHARED = "a second of CPU: the core was shared"


def rows(report: ApiReport) -> list[BoundRow]:
    """What must be reached, as far as it was measured: of each kind, with the most under way."""
    widest = {one.kind: one for one in sorted(report.requests, key=lambda one: one.window)}
    return [_row(widest[kind]) for kind in BOUNDS if kind in widest]


def _row(one: Requests) -> BoundRow:
    figure = one.a_core_second if one.core_was_shared else one.a_second
    return at_least(
        f"{one.kind} requests over the local socket, {one.connections} clients, {one.window} of "
        "each under way",
        "k",
        BOUNDS[one.kind] / 1000,
        figure / 1000,
        one.sync_us,
        SHARED if one.core_was_shared else f"{one.busy:.0%} of its core",
    )


def tables(report: ApiReport) -> list[Table]:
    """Everything that was measured, the bounds first."""
    lines = [
        (
            f"{one.kind}, {one.window} under way",
            f"{one.a_second:,.0f}",
            f"{min(one.rates):,.0f} to {max(one.rates):,.0f}",
            f"{1e6 / one.a_core_second:,.1f}",
            f"{one.busy:.0%}",
            f"{one.others:.0%}",
        )
        for one in report.requests
    ]
    headings = ("Requests", "a second", "of rounds", "CPU us", "core", "for others")
    title = "Requests of clients in one process, on another core than the node"
    return [
        bounds_table("The node's socket", rows(report)),
        Table(title=title, headings=headings, lines=lines),
    ]


def as_json(report: ApiReport) -> dict[str, Any]:
    """Everything, and what follows from it, as plain values."""
    return {
        **asdict(report),
        "rows": [{**asdict(row), "met": row.met} for row in rows(report)],
    }
