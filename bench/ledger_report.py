"""What was measured of the ledger, told: the bounds with their ratios, and tables."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Any

from bench.bounds import BoundRow, at_least, at_most, bounds_table
from bench.ledger import LedgerReport
from bench.postgres import POSTGRESQL
from bench.servers import MONTANA
from bench.table import Table

TICK_BOUNDS_MS = {100_000: 30.0, 1_000_000: 250.0}
START_BOUND_S = 10.0
TRANSFERS_BOUND = 3.0
SINGLES_BOUND = 20_000.0
LATENCY_BOUND_MS = 20.0
SESSION_BOUND_BYTES = 200.0
METERING_BOUND = 1 / 1.03


def rows(report: LedgerReport) -> list[BoundRow]:
    """What must be reached, as far as it was measured."""
    return [
        *_tick_rows(report),
        *_start_rows(report),
        *_transfer_rows(report),
        *_single_rows(report),
        *_memory_rows(report),
        *_metering_rows(report),
    ]


def _tick_rows(report: LedgerReport) -> list[BoundRow]:
    found = []
    for one in report.ticks:
        bound = TICK_BOUNDS_MS.get(one.sessions)
        if bound is None:
            continue
        name = f"a tick of {one.sessions:,} sessions"
        note = f"the worst of {one.ticks}: {one.worst_ms:,.1f} ms"
        found.append(at_most(f"{name}: median", "ms", bound, one.median_ms, one.sync_us, note))
        if one.renewed:
            note = f"{one.renewed:,} slices in it"
            name = f"{name}: the slowest with renewals"
            found.append(at_most(name, "ms", bound, one.renewing_ms, one.sync_us, note))
    return found


def _start_rows(report: LedgerReport) -> list[BoundRow]:
    return [
        at_most(
            f"start after kill -9 with {one.sessions:,} live sessions",
            "s",
            START_BOUND_S,
            one.open_s + one.recover_s,
            one.sync_us,
            f"{one.open_s:.1f} s to open, {one.recover_s:.1f} s to close the sessions",
        )
        for one in report.starts
        if one.sessions == max(TICK_BOUNDS_MS)
    ]


def _transfer_rows(report: LedgerReport) -> list[BoundRow]:
    ours, theirs = report.transfers_of(MONTANA), report.transfers_of(POSTGRESQL)
    if ours is None:
        return []
    return [
        BoundRow(
            name=f"transfers a second, by {ours.batch:,}, over {ours.earlier:,} earlier ids",
            unit="k",
            beside=POSTGRESQL,
            other=theirs.a_second / 1000 if theirs else None,
            montana=ours.a_second / 1000,
            ratio=ours.a_second / theirs.a_second if theirs else None,
            bound=TRANSFERS_BOUND,
            sync_us=ours.sync_us,
            note=f"PostgreSQL by {theirs.way}" if theirs else "PostgreSQL is not installed",
        )
    ]


def _single_rows(report: LedgerReport) -> list[BoundRow]:
    found = []
    singles, loop = report.singles, report.open_loop
    if singles is not None:
        found.append(
            at_least(
                f"single transfers a second, {singles.tasks:,} tasks",
                "k",
                SINGLES_BOUND / 1000,
                singles.a_second / 1000,
                singles.sync_us,
            )
        )
    if loop is not None:
        found.append(
            at_most(
                f"single transfers at {loop.rate:,.0f}/s, {loop.sessions:,} sessions ticking: p99",
                "ms",
                LATENCY_BOUND_MS,
                loop.p99_ms,
                loop.sync_us,
                f"p50 {loop.p50_ms:.1f}, p99.9 {loop.p999_ms:.1f} ms; {loop.ticks} ticks of "
                f"{loop.tick_ms:.1f} ms",
            )
        )
    return found


def _memory_rows(report: LedgerReport) -> list[BoundRow]:
    if report.meter is None:
        return []
    note = ""
    if report.ticks:
        largest = max(report.ticks, key=lambda one: one.sessions)
        note = f"{largest.session_bytes:,.0f} with what else is kept of a session"
    name = f"memory a session in the meter, of {report.meter.sessions:,}"
    bound = SESSION_BOUND_BYTES
    return [at_most(name, "bytes", bound, report.meter.session_bytes, None, note)]


def _metering_rows(report: LedgerReport) -> list[BoundRow]:
    cost = report.metering
    if cost is None:
        return []
    off, on = statistics.median(cost.off_ns), statistics.median(cost.on_ns)
    return [
        BoundRow(
            name="the relay's CPU a packet, metered",
            unit="ns",
            beside="not metered",
            other=off,
            montana=on,
            ratio=off / on,
            bound=METERING_BOUND,
            note=f"{len(cost.on_ns)} rounds each, {cost.sessions} sessions, "
            f"{sum(cost.charged_s):,} s charged"
            + (", the core was shared" if cost.disturbed else ""),
        )
    ]


def tables(report: LedgerReport) -> list[Table]:
    """Everything that was measured, the bounds first."""
    made = [
        bounds_table("The ledger", rows(report)),
        _growth_table(report),
        _ways_table(report),
        _hour_table(report),
    ]
    return [table for table in made if table.lines]


def _growth_table(report: LedgerReport) -> Table:
    lines = [
        (
            f"{one.sessions:,}",
            f"{one.median_ms:,.2f}",
            f"{one.worst_ms:,.2f}",
            f"{one.renewing_ms:,.2f}",
            f"{one.session_bytes:,.0f}",
            f"{one.memory_bytes / 2**20:,.0f}",
            f"{one.tick_file_bytes / 1024:,.0f}",
            f"{one.sync_us / 1000:.2f}",
        )
        for one in report.ticks
    ]
    headings = (
        "Sessions",
        "tick ms",
        "worst",
        "with renewals",
        "bytes a session",
        "memory MiB",
        "file KiB a tick",
        "sync ms",
    )
    return Table(title="Ticks, one a second of every session", headings=headings, lines=lines)


def _ways_table(report: LedgerReport) -> Table:
    lines = []
    for one in report.transfers:
        for way, rate in one.tried.items():
            lines.append((f"{one.system}, tried: {way}", f"{rate:,.0f}", "", ""))
        lines.append(
            (
                f"{one.system}: {one.way}",
                f"{one.a_second:,.0f}",
                f"{min(one.rates):,.0f} to {max(one.rates):,.0f}",
                f"{len(one.rates)}",
            )
        )
    headings = ("Transfers in batches, durable, on one core", "a second", "of rounds", "rounds")
    return Table(title="Transfers in batches", headings=headings, lines=lines)


def _hour_table(report: LedgerReport) -> Table:
    hour = report.hour
    if hour is None or not hour.samples:
        return Table(title="", headings=(), lines=())
    shown = {0: hour.samples[0], len(hour.samples) - 1: hour.samples[-1]}
    lines = [
        (
            f"{sample.ticks:,}",
            f"{sample.tick_ms:,.2f}",
            f"{sample.memory_bytes / 2**20:,.1f}",
            f"{sample.file_bytes / 2**20:,.1f}",
        )
        for sample in shown.values()
    ]
    title = f"Ticks of {hour.sessions:,} sessions, back to back"
    headings = ("After so many ticks", "tick ms", "memory MiB", "file MiB")
    return Table(title=title, headings=headings, lines=lines)


def as_json(report: LedgerReport) -> dict[str, Any]:
    """Everything, and what follows from it, as plain values."""
    return {
        **asdict(report),
        "rows": [{**asdict(row), "met": row.met} for row in rows(report)],
    }
