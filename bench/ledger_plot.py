"""How the ledger's time, memory and disk grow, drawn as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.ledger import LedgerReport
from bench.plot import (
    COLOURS,
    FONT,
    TEXT_COLOUR,
    TITLE_HEIGHT,
    WIDTH,
    Group,
    bar_chart,
    figure,
    text_at,
)
from bench.servers import MONTANA

PANEL_HEIGHT = 150
PANEL_GAP = 56
LEFT = 60
RIGHT = 70
POINT = 3.5
LABELLED_POINTS = 8
"""Where there are more, the first and the last have their figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One curve.

    Attributes:
        title: what it shows, with its unit.
        points: (x, y).
        logarithmic: both axes; otherwise both begin at 0.
    """

    title: str
    points: Sequence[tuple[float, float]]
    logarithmic: bool


def line_charts(title: str, axis: str, panels: Sequence[Panel]) -> str:
    """Panels above each other, over the same x.

    Args:
        axis: what x is.
    """
    body = [text_at(LEFT, 20, title, size=15, weight="600")]
    top = float(TITLE_HEIGHT)
    for panel in panels:
        body += _panel(panel, top)
        top += PANEL_HEIGHT + PANEL_GAP
    body.append(text_at(WIDTH - RIGHT, top - PANEL_GAP + 34, axis, "end", size=11))
    height = top
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}" role="img" aria-label="{escape(title)}" '
        f'font-family="{FONT}">\n' + "\n".join(body) + "\n</svg>\n"
    )


def _panel(panel: Panel, top: float) -> list[str]:
    bottom = top + PANEL_HEIGHT
    xs, ys = [x for x, _ in panel.points], [y for _, y in panel.points]
    places = [
        (
            LEFT + _share(x, xs, panel.logarithmic) * (WIDTH - LEFT - RIGHT),
            bottom - _share(y, ys, panel.logarithmic) * (PANEL_HEIGHT - 30),
        )
        for x, y in panel.points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    drawn = [
        text_at(LEFT, top, panel.title, size=12),
        f'<line x1="{LEFT}" y1="{bottom:.1f}" x2="{WIDTH - RIGHT}" y2="{bottom:.1f}" '
        f'stroke="{TEXT_COLOUR}" stroke-width="1"/>',
        f'<polyline points="{line}" fill="none" stroke="{COLOURS[MONTANA]}" stroke-width="2"/>',
    ]
    many = len(places) > LABELLED_POINTS
    for index, ((left, height), (x, y)) in enumerate(zip(places, panel.points, strict=True)):
        if many and index not in (0, len(places) - 1):
            continue
        drawn += [
            f'<circle cx="{left:.1f}" cy="{height:.1f}" r="{POINT}" fill="{COLOURS[MONTANA]}"/>',
            text_at(left, height - 8, figure(y), "middle", size=12),
            text_at(left, bottom + 16, f"{x:,.0f}", "middle", size=11),
        ]
    return drawn


def _share(value: float, values: Sequence[float], logarithmic: bool) -> float:
    """Where a value stands between the least, or nothing, and the greatest."""
    largest = max(values)
    if not logarithmic:
        return value / largest if largest else 0.0
    least = min(one for one in values if one > 0) if largest > 0 else 0.0
    if value <= 0 or largest <= least:
        return 0.0
    return math.log(value / least) / math.log(largest / least)


def ledger_plots(report: LedgerReport) -> dict[str, str]:
    """Every chart that the report has figures for, by file name."""
    drawn = {}
    if report.ticks:
        panels = [
            ("a tick, ms", [one.median_ms for one in report.ticks]),
            ("memory of the process, MiB", [one.memory_bytes / 2**20 for one in report.ticks]),
            ("disk a tick, KiB", [one.tick_file_bytes / 1024 for one in report.ticks]),
        ]
        drawn["ledger-sessions.svg"] = line_charts(
            "The ledger by sessions",
            "sessions, each charged for every second; both axes logarithmic",
            [
                Panel(
                    title=title,
                    points=[
                        (one.sessions, value) for one, value in zip(report.ticks, ys, strict=True)
                    ],
                    logarithmic=True,
                )
                for title, ys in panels
            ],
        )
    if report.hour is not None and report.hour.samples:
        samples = report.hour.samples
        panels = [
            ("a tick, ms", [one.tick_ms for one in samples]),
            ("memory of the process, MiB", [one.memory_bytes / 2**20 for one in samples]),
            ("the ledger's file, MiB", [one.file_bytes / 2**20 for one in samples]),
        ]
        drawn["ledger-hour.svg"] = line_charts(
            f"The ledger over {samples[-1].ticks:,} ticks of {report.hour.sessions:,} sessions",
            "ticks",
            [
                Panel(
                    title=title,
                    points=[(one.ticks, value) for one, value in zip(samples, ys, strict=True)],
                    logarithmic=False,
                )
                for title, ys in panels
            ],
        )
    if report.transfers:
        bars = [(one.system, one.a_second / 1000) for one in report.transfers]
        earlier = report.transfers[0].earlier
        drawn["ledger-transfers.svg"] = bar_chart(
            "Durable transfers a second on one core",
            "thousands, more is better",
            [Group(label=f"over {earlier:,} earlier ids", bars=bars)],
        )
    return drawn
