"""Bar charts as SVG, drawn so that they can be read on a light page and on a dark one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.postgres import POSTGRESQL
from bench.report import Report, rows
from bench.scenario import Mode
from bench.servers import COTURN, MONTANA, MONTANA_LOW_LATENCY
from bench.suites import ROUND_TRIP_RATES

COLOURS = {COTURN: "#8b949e", MONTANA: "#2f81f7", MONTANA_LOW_LATENCY: "#3fb950"}
COLOURS[POSTGRESQL] = COLOURS[COTURN]
TEXT_COLOUR = "#7d8590"
FONT = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"
WIDTH = 760
LABEL_WIDTH = 250
BAR_HEIGHT = 16
BAR_GAP = 3
GROUP_GAP = 14
TITLE_HEIGHT = 58
VALUE_ROOM = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Bars that are compared with each other, and what is said beside them.

    Attributes:
        bars: (series, value) each.
        remark: such as the ratio.
    """

    label: str
    bars: Sequence[tuple[str, float]]
    remark: str = ""


def bar_chart(title: str, unit: str, groups: Sequence[Group]) -> str:
    """Horizontal bars, grouped, each with its figure.

    Args:
        unit: said beside the title, with which direction is better.
    """
    largest = max((value for group in groups for _, value in group.bars), default=0.0) or 1.0
    scale = (WIDTH - LABEL_WIDTH - VALUE_ROOM) / largest
    body: list[str] = []
    top = float(TITLE_HEIGHT)
    for group in groups:
        height = len(group.bars) * (BAR_HEIGHT + BAR_GAP) - BAR_GAP
        middle = top + height / 2
        shift = 0 if not group.remark else -7
        body.append(text_at(LABEL_WIDTH - 12, middle + 4 + shift, group.label, anchor="end"))
        if group.remark:
            body.append(
                text_at(LABEL_WIDTH - 12, middle + 18 + shift, group.remark, "end", size=11)
            )
        for series, value in group.bars:
            length = max(1.0, value * scale)
            body.append(
                f'<rect x="{LABEL_WIDTH}" y="{top:.1f}" width="{length:.1f}" '
                f'height="{BAR_HEIGHT}" rx="3" fill="{COLOURS[series]}"/>'
            )
            body.append(text_at(LABEL_WIDTH + length + 6, top + 12, figure(value), size=12))
            top += BAR_HEIGHT + BAR_GAP
        top += GROUP_GAP
    series_shown = dict.fromkeys(series for group in groups for series, _ in group.bars)
    legend, left = [], float(LABEL_WIDTH)
    for series in series_shown:
        legend.append(
            f'<rect x="{left}" y="34" width="10" height="10" rx="2" fill="{COLOURS[series]}"/>'
        )
        legend.append(text_at(left + 15, 43, series, size=12))
        left += 30 + 7 * len(series)
    bottom = top + 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom:.0f}" '
        f'width="{WIDTH}" height="{bottom:.0f}" role="img" aria-label="{escape(title)}" '
        f'font-family="{FONT}">\n'
        + "\n".join(
            [
                text_at(LABEL_WIDTH, 20, title, size=15, weight="600"),
                text_at(LABEL_WIDTH - 12, 43, unit, "end", size=11),
                *legend,
                *body,
            ]
        )
        + "\n</svg>\n"
    )


def plots(report: Report) -> dict[str, str]:
    """Every chart that the report has figures for, by file name."""
    charts = {
        "cpu.svg": ("Server CPU a packet at 80,000 packets/s", "us, less is better", _cpu(report)),
        "saturated.svg": (
            "Packets delivered a second when saturated, 172 bytes",
            "thousands, more is better",
            _saturated(report),
        ),
        "round-trip.svg": (
            "Round trip through a plain peer",
            "us, less is better",
            _round_trips(report),
        ),
        "allocations.svg": ("An allocation", "less is better", _costs(report)),
    }
    return {name: bar_chart(*chart) for name, chart in charts.items() if chart[2]}


def _cpu(report: Report) -> list[Group]:
    return [
        Group(
            label=row.name.partition(":")[0].replace(", 80,000/s", ""),
            bars=[(COTURN, row.coturn), (MONTANA, row.montana)],
            remark=f"{row.ratio:.1f} times less",
        )
        for row in rows(report)
        if row.name.endswith("CPU a packet")
    ]


def _saturated(report: Report) -> list[Group]:
    groups = []
    for cell in report.cells:
        load = cell.load
        if (cell.suite, cell.server, load.payload_bytes) != ("matrix", MONTANA, 172):
            continue
        coturn = report.find(
            "matrix",
            COTURN,
            mode=load.mode,
            allocations=load.allocations,
            burst=load.burst,
            payload_bytes=172,
        )
        if coturn is not None:
            mine = cell.measurement.delivered_a_second
            groups.append(
                Group(
                    label=f"{load.mode}, {load.allocations:,} clients, burst {load.burst}",
                    bars=[(COTURN, coturn.delivered_a_second / 1000), (MONTANA, mine / 1000)],
                    remark=f"{mine / coturn.delivered_a_second:.1f} times more",
                )
            )
    return groups


def _round_trips(report: Report) -> list[Group]:
    groups = []
    for rate in ROUND_TRIP_RATES:
        found = {
            series: report.find("round trip", series, mode=Mode.PEER_ECHO, rate=rate)
            for series in COLOURS
        }
        for name, attribute in (("p50", "latency_p50_us"), ("p99", "latency_p99_us")):
            bars = [
                (series, float(getattr(measurement, attribute)))
                for series, measurement in found.items()
                if measurement is not None
            ]
            if bars:
                groups.append(Group(label=f"{rate:,.0f} packets/s, {name}", bars=bars))
    return groups


def _costs(report: Report) -> list[Group]:
    if not report.costs:
        return []
    return [
        Group(label="CPU, us", bars=[(cost.server, cost.cpu_us) for cost in report.costs]),
        Group(
            label="resident memory, KiB",
            bars=[(cost.server, cost.memory_bytes / 1024) for cost in report.costs],
        ),
    ]


def figure(value: float) -> str:
    """A number with as many digits as are of use."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def text_at(
    left: float, baseline: float, text: str, anchor: str = "start", size: int = 13, weight: str = ""
) -> str:
    """A text element."""
    bold = f' font-weight="{weight}"' if weight else ""
    return (
        f'<text x="{left:.1f}" y="{baseline:.1f}" text-anchor="{anchor}" font-size="{size}"'
        f'{bold} fill="{TEXT_COLOUR}">{escape(text)}</text>'
    )
