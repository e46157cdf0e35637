"""What was measured of SMS commands, told: the bound with its ratio, and a table."""

from __future__ import annotations

from dataclasses import asdict
from statistics import median
from typing import Any

from bench.bounds import BoundRow, at_least, bounds_table
from bench.sms import SmsReport
from bench.table import Table

BOUND = 800.0
SHARED = "a second of CPU: the core was shared"


def rows(report: SmsReport) -> list[BoundRow]:
    """What must be reached, as far as it was measured: with the most connections."""
    if not report.commands:
        return []
    one = max(report.commands, key=lambda one: one.connections)
    return [
        at_least(
            f"SMS commands through the Twilio webhook, durable, {one.connections} connections, "
            "node and bridge on one core",
            "a second",
            BOUND,
            one.a_core_second if one.core_was_shared else one.a_second,
            report.sync_us,
            SHARED if one.core_was_shared else f"{one.busy:.0%} of the core",
        )
    ]


def tables(report: SmsReport) -> list[Table]:
    """Everything that was measured, the bound first."""
    lines = [
        (
            f"{one.connections}",
            f"{one.a_second:,.0f}",
            f"{min(one.rates):,.0f} to {max(one.rates):,.0f}",
            f"{median(one.node_cpu_us) / 1000:.2f}",
            f"{median(one.bridge_cpu_us) / 1000:.2f}",
            f"{one.late}",
            f"{one.busy:.0%}",
            f"{one.others:.0%}",
        )
        for one in report.commands
    ]
    headings = (
        "Connections",
        "a second",
        "of rounds",
        "node's CPU ms",
        "bridge's CPU ms",
        "late",
        "core",
        "for others",
    )
    title = "BAL of funded numbers, node and bridge on one core, answered and paid for once"
    return [
        bounds_table("SMS commands", rows(report)),
        Table(title=title, headings=headings, lines=lines),
    ]


def as_json(report: SmsReport) -> dict[str, Any]:
    """Everything, and what follows from it, as plain values."""
    return {
        **asdict(report),
        "rows": [{**asdict(row), "met": row.met} for row in rows(report)],
    }
