"""What was measured of the GSM bridge, told: the bounds with their ratios, and a table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench.bounds import BoundRow, at_least, at_most, bounds_table
from bench.gsm import GsmReport, core_share, cpu_ms_each, phases, steady_share, whole_share
from bench.table import Table

CORE_BOUND = 0.10
DRAIN_BOUND = 1.2
"""The line is the limit: so many times what it needs for the octets of a backlog."""


def rows(report: GsmReport) -> list[BoundRow]:
    """What must be reached, as far as it was measured."""
    found = []
    lines = f"{report.modems} modems at {report.baud:,} baud"
    for what, served in phases(report):
        found.append(
            at_least(
                f"messages handed on once, {lines}, {what}",
                "",
                served.messages,
                served.messages - served.lost - served.doubled,
                report.sync_us,
            )
        )
    if (share := steady_share(report)) is not None:
        found.append(
            at_most(
                f"the bridge's share of a core, {lines}, a message a second each",
                "%",
                100 * CORE_BOUND,
                100 * share,
                None,
            )
        )
    if (share := whole_share(report)) is not None:
        found.append(
            at_most(
                f"the same, until the backlog of {report.modems} modems is handed on as well",
                "%",
                100 * CORE_BOUND,
                100 * share,
                None,
            )
        )
    if report.backlog is not None and report.backlog.modem_s is not None:
        found.append(
            at_most(
                f"a modem's backlog, read and deleted, {lines}, times what its line needs",
                "",
                DRAIN_BOUND,
                report.backlog.modem_s / report.backlog.line_s,
                None,
                f"bridge and modems have waited {report.backlog.waited_s:.2f} s for a core",
            )
        )
    return found


def tables(report: GsmReport) -> list[Table]:
    """Everything that was measured, the bounds first."""
    lines = [
        (
            what,
            f"{served.messages:,}",
            f"{served.elapsed_s:,.1f}",
            f"{cpu_ms_each(served):.2f}",
            f"{core_share(served):.1%}",
            f"{served.line_s:.2f}",
            "" if served.modem_s is None else f"{served.modem_s:.2f}",
            f"{served.waited_s:.2f}",
        )
        for what, served in phases(report)
    ]
    headings = (
        "Messages",
        "all",
        "s",
        "CPU ms each",
        "core",
        "a line needs s",
        "a modem took s",
        "waited for a core s",
    )
    title = f"What comes to {report.modems} emulated modems, read, handed on and deleted"
    return [
        bounds_table("The GSM bridge", rows(report)),
        Table(title=title, headings=headings, lines=lines),
    ]


def as_json(report: GsmReport) -> dict[str, Any]:
    """Everything, and what follows from it, as plain values."""
    return {
        **asdict(report),
        "rows": [{**asdict(row), "met": row.met} for row in rows(report)],
    }
