"""What was measured of rooms and calls, told: the bounds with their ratios, and tables."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench.bounds import REQUIRED, BoundRow, at_least, at_most, bounds_table
from bench.scenario import SERVER_BUSY
from bench.servers import MONTANA
from bench.signaling import PacketDelay, Routing, SignalingReport
from bench.signaling_pages import Answered
from bench.signaling_servers import AIOHTTP
from bench.table import Table

ANSWER_BOUND_MS = 500.0
SET_UPS_BOUND = 500.0
SHARED = "a second of CPU: the core was shared"


def rows(report: SignalingReport) -> list[BoundRow]:
    """What must be reached, as far as it was measured."""
    return [
        *_routing_rows(report),
        *_memory_rows(report),
        *_answer_rows(report),
        *_set_up_rows(report),
        *_ticking_rows(report),
    ]


def _routing_rows(report: SignalingReport) -> list[BoundRow]:
    found = []
    for window in dict.fromkeys(one.window for one in report.routing):
        theirs, ours = (report.routing_of(name, window) for name in (AIOHTTP, MONTANA))
        if theirs is None or ours is None:
            continue
        # On a core that is shared, what else runs there would be compared.
        is_shared = theirs.disturbed or ours.disturbed
        other, montana = (
            (one.a_core_second if is_shared else one.a_second) / 1000 for one in (theirs, ours)
        )
        found.append(
            BoundRow(
                name=f"messages routed a second, {ours.connections} people, {window} of each under "
                "way",
                unit="k",
                beside=AIOHTTP,
                other=other,
                montana=montana,
                ratio=montana / other,
                bound=1.0,
                note=_routing_note(ours, is_shared),
            )
        )
    return found


def _routing_note(ours: Routing, is_shared: bool) -> str:
    if is_shared:
        return SHARED
    if not ours.server_was_full:
        return f"who loads it is the limit: {MONTANA} used {ours.busy:.0%} of its core"
    return f"{ours.busy:.0%} of its core"


def _memory_rows(report: SignalingReport) -> list[BoundRow]:
    theirs, ours = (report.memory_of(name) for name in (AIOHTTP, MONTANA))
    if theirs is None or ours is None:
        return []
    return [
        BoundRow(
            name=f"memory an idle session, of {ours.sessions:,}",
            unit="KiB",
            beside=f"{AIOHTTP}'s bare WebSocket",
            other=theirs.session_bytes / 1024,
            montana=ours.session_bytes / 1024,
            ratio=theirs.session_bytes / ours.session_bytes if ours.session_bytes else None,
            bound=1.0,
        )
    ]


def _answer_rows(report: SignalingReport) -> list[BoundRow]:
    one = report.answers
    if one is None:
        return []
    name = f'from "answer" to the first remote frame, relayed, {len(one.calls)} calls: p50'
    parts = ", ".join(f"{part} {one.p50_ms(part):,.0f}" for part in Answered._fields[1:])
    note = f"p50 of its parts: {parts} ms; the slowest call: {one.worst_ms:,.0f} ms"
    return [at_most(name, "ms", ANSWER_BOUND_MS, one.p50_ms("total"), None, note)]


def _set_up_rows(report: SignalingReport) -> list[BoundRow]:
    one = report.set_ups
    if one is None:
        return []
    figure, note = one.a_second, f"{one.busy:.0%} of its core"
    if one.busy + one.waited < SERVER_BUSY:
        # Each pair waits for the meter's second at the end of each call.
        note += ": more pairs would make more"
    elif one.busy < SERVER_BUSY:
        figure, note = one.a_core_second, SHARED
    name = f"calls set up and ended a second, by {one.pairs:,} pairs"
    return [at_least(name, "calls", SET_UPS_BOUND, figure, one.sync_us, note)]


def _ticking_rows(report: SignalingReport) -> list[BoundRow]:
    one = report.ticking
    if one is None:
        return []
    p99_us = one.ticking.p99_us
    more_us = p99_us - one.resting.p99_us
    note = f"p99 {p99_us:,.0f} us, {more_us:+,.0f} us by {one.ticks} ticks of {one.tick_ms:,.1f} ms"
    return [
        BoundRow(
            name=f"packets lost of {one.calls} calls while {one.sessions:,} sessions tick",
            unit="packets",
            beside=REQUIRED,
            other=0.0,
            montana=float(one.ticking.lost),
            ratio=1.0 if one.ticking.lost == 0 else 0.0,
            bound=1.0,
            sync_us=one.sync_us,
            note=note + (", the core was shared" if one.disturbed else ""),
        )
    ]


def tables(report: SignalingReport) -> list[Table]:
    """Everything that was measured, the bounds first."""
    made = [
        bounds_table("Rooms and calls in the browser", rows(report)),
        _routing_table(report),
        _ticking_table(report),
    ]
    return [table for table in made if table.lines]


def _routing_table(report: SignalingReport) -> Table:
    lines = [
        (
            f"{one.server}, {one.window} under way",
            f"{one.a_second:,.0f}",
            f"{min(one.rates):,.0f} to {max(one.rates):,.0f}",
            f"{1e6 / one.a_core_second:,.1f}",
            f"{one.busy:.0%}",
            f"{one.waited:.0%}",
        )
        for one in report.routing
    ]
    headings = ("Messages routed", "a second", "of rounds", "CPU us", "core", "waited for it")
    title = "Messages of 600 bytes between people of rooms of two"
    return Table(title=title, headings=headings, lines=lines)


def _ticking_table(report: SignalingReport) -> Table:
    one = report.ticking
    if one is None:
        return Table(title="", headings=(), lines=())
    lines = [_delay_line("nothing ticks", one.resting)]
    lines.append(_delay_line(f"{one.sessions:,} sessions tick", one.ticking))
    title = f"Packets of {one.calls} calls, 50 a second each way, one way through the relay"
    headings = ("While", "sent", "lost", "p50 us", "p99 us", "p99.9 us")
    return Table(title=title, headings=headings, lines=lines)


def _delay_line(name: str, delay: PacketDelay) -> tuple[str, ...]:
    return (
        name,
        f"{delay.sent:,}",
        f"{delay.lost:,}",
        f"{delay.p50_us:,.0f}",
        f"{delay.p99_us:,.0f}",
        f"{delay.p999_us:,.0f}",
    )


def as_json(report: SignalingReport) -> dict[str, Any]:
    """Everything, and what follows from it, as plain values."""
    return {
        **asdict(report),
        "rows": [{**asdict(row), "met": row.met} for row in rows(report)],
    }
