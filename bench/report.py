"""What was measured, told: the bounds with their ratios, tables, JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import (
    api,
    api_report,
    gsm,
    gsm_report,
    ledger,
    ledger_report,
    signaling,
    signaling_report,
    sms,
    sms_report,
)
from bench.api import ApiReport
from bench.comparison import Row, fewer, more
from bench.gsm import GsmReport
from bench.ledger import LedgerReport
from bench.machine import Machine
from bench.scenario import Load, Measurement, Mode
from bench.servers import COTURN, MONTANA, MONTANA_LOW_LATENCY
from bench.signaling import SignalingReport
from bench.sms import SmsReport
from bench.suites import ROUND_TRIP_RATES, AllocationCost, Cell
from bench.table import Table


@dataclass(slots=True, kw_only=True)
class Report:
    """Everything of one run."""

    machine: Machine
    quick: bool
    cells: list[Cell] = field(default_factory=list)
    costs: list[AllocationCost] = field(default_factory=list)
    ledger: LedgerReport | None = None
    signaling: SignalingReport | None = None
    api: ApiReport | None = None
    gsm: GsmReport | None = None
    sms: SmsReport | None = None

    def find(self, suite: str, server: str, **load: object) -> Measurement | None:
        """The measurement of the first load that has these attributes."""
        for cell in self.cells:
            if (cell.suite, cell.server) == (suite, server) and all(
                getattr(cell.load, name) == value for name, value in load.items()
            ):
                return cell.measurement
        return None

    def cost(self, server: str) -> AllocationCost | None:
        """What allocations cost this server."""
        return next((cost for cost in self.costs if cost.server == server), None)


def save(report: Report, path: Path) -> None:
    """Write everything as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(report), indent=1) + "\n")


def as_json(report: Report) -> dict[str, Any]:
    """Everything, and what follows from it, as plain values."""
    return {
        **asdict(report),
        "ledger": ledger_report.as_json(report.ledger) if report.ledger else None,
        "signaling": signaling_report.as_json(report.signaling) if report.signaling else None,
        "api": api_report.as_json(report.api) if report.api else None,
        "gsm": gsm_report.as_json(report.gsm) if report.gsm else None,
        "sms": sms_report.as_json(report.sms) if report.sms else None,
        "rows": [{**asdict(row), "met": row.met} for row in rows(report)],
    }


def merge(kept: Report, made: Report) -> Report:
    """What is kept after another run: it replaces the suites that it has measured. Others stay
    where they are of the same machine and as thorough; the figures of the ledger, of signaling,
    of the socket and of the bridges name their own."""
    merged = replace(
        made,
        ledger=made.ledger or kept.ledger,
        signaling=made.signaling or kept.signaling,
        api=made.api or kept.api,
        gsm=made.gsm or kept.gsm,
        sms=made.sms or kept.sms,
    )
    if not (made.cells or made.costs):
        return replace(
            kept,
            ledger=merged.ledger,
            signaling=merged.signaling,
            api=merged.api,
            gsm=merged.gsm,
            sms=merged.sms,
        )
    if (kept.machine.processor, kept.machine.cores, kept.quick) != (
        made.machine.processor,
        made.machine.cores,
        made.quick,
    ):
        return merged
    measured = {cell.suite for cell in made.cells}
    others = [cell for cell in kept.cells if cell.suite not in measured]
    return replace(merged, cells=others + made.cells, costs=made.costs or kept.costs)


def load(path: Path) -> Report:
    """Read what `save` has written."""
    document = json.loads(path.read_text())
    return Report(
        machine=Machine(**document["machine"]),
        quick=document["quick"],
        cells=[
            Cell(
                suite=cell["suite"],
                server=cell["server"],
                load=Load(**{**cell["load"], "mode": Mode(cell["load"]["mode"])}),
                measurement=Measurement(**cell["measurement"]),
            )
            for cell in document["cells"]
        ],
        costs=[AllocationCost(**cost) for cost in document["costs"]],
        ledger=ledger.from_json(document["ledger"]) if document.get("ledger") else None,
        signaling=signaling.from_json(document["signaling"]) if document.get("signaling") else None,
        api=api.from_json(document["api"]) if document.get("api") else None,
        gsm=gsm.from_json(document["gsm"]) if document.get("gsm") else None,
        sms=sms.from_json(document["sms"]) if document.get("sms") else None,
    )


def rows(report: Report) -> list[Row]:
    """What must be reached, as far as it was measured."""
    found: list[Row] = []
    for mode, bounds in (
        (Mode.CALL, (1.8, 3.0)),
        (Mode.TO_PEER, (1.1, 1.6)),
        (Mode.FROM_PEER, (1.0, 1.4)),
    ):
        for burst, bound in zip((1, 8), bounds, strict=True):
            pair = _pair(report, "steady", mode=mode, burst=burst)
            if pair is not None:
                coturn, montana = (one.cpu_ns / 1000 for one in pair)
                name = f"{mode}, 80,000/s, burst {burst}: CPU a packet"
                found.append(fewer(name, "us", coturn, montana, bound, _note(*pair)))
    for burst in (1, 8):
        pair = _pair(report, "saturated", mode=Mode.CALL, burst=burst)
        if pair is not None:
            coturn, montana = (one.delivered_a_second / 1000 for one in pair)
            note = _note(*pair)
            if not pair[1].server_was_full:
                note = f"the generator is the limit, montana used {pair[1].server_busy:.0%}"
            name = f"{Mode.CALL}, saturated, burst {burst}: delivered a second"
            found.append(more(name, "k", coturn, montana, 2.3, note))
    found += _lossless_rows(report)
    found += _round_trip_rows(report)
    found += _allocation_rows(report)
    return found


def _pair(report: Report, suite: str, **load: object) -> tuple[Measurement, Measurement] | None:
    coturn = report.find(suite, COTURN, **load)
    montana = report.find(suite, MONTANA, **load)
    return None if coturn is None or montana is None else (coturn, montana)


def _note(*measurements: Measurement) -> str:
    notes = []
    if any(one.disturbed for one in measurements):
        notes.append("the core was shared")
    if any(one.generator_was_late for one in measurements):
        notes.append("the generator was late")
    return ", ".join(notes)


def _lossless_rows(report: Report) -> list[Row]:
    found = []
    for cell in report.cells:
        if (cell.suite, cell.server) != ("lossless", MONTANA):
            continue
        coturn = report.find("lossless", COTURN, mode=cell.load.mode, burst=cell.load.burst)
        lost = cell.measurement.lost
        found.append(
            Row(
                name=f"{cell.load.mode}, {cell.load.rate:,.0f}/s, burst {cell.load.burst}: lost",
                unit="packets",
                coturn=coturn.lost if coturn is not None else 0,
                montana=lost,
                ratio=1.0 if lost == 0 else 0.0,
                bound=1.0,
                note=_drops(cell.measurement) if lost else "",
            )
        )
    return found


def _drops(measurement: Measurement) -> str:
    """Where packets were lost, and what may excuse it."""
    told = (
        f"{measurement.server_drops} dropped at the server's sockets, "
        f"{measurement.generator_drops} at the generator's"
    )
    excuse = _note(measurement)
    return f"{told}, {excuse}" if excuse else told


def _round_trip_rows(report: Report) -> list[Row]:
    found = []
    for mode in (Mode.PEER_ECHO, Mode.CALL_ECHO):
        load = {"mode": mode, "rate": ROUND_TRIP_RATES[0]}
        pair = _pair(report, "round trip", **load)
        if pair is None:
            continue
        coturn, montana = (one.latency_p50_us for one in pair)
        name = f"{mode}, 1,000/s: round trip p50"
        found.append(fewer(name, "us", coturn, montana, 1 / 1.1, _note(*pair)))
        low = report.find("round trip", MONTANA_LOW_LATENCY, **load)
        if low is not None:
            name = f"{mode}, 1,000/s: the same, low-latency mode"
            note = f"uses {low.server_busy:.0%} of a core; otherwise {pair[1].server_busy:.1%}"
            found.append(fewer(name, "us", coturn, low.latency_p50_us, 2.0, note))
    return found


def _allocation_rows(report: Report) -> list[Row]:
    coturn, montana = report.cost(COTURN), report.cost(MONTANA)
    if coturn is None or montana is None:
        return []
    return [
        fewer(
            "memory an allocation",
            "KiB",
            coturn.memory_bytes / 1024,
            max(0.01, montana.memory_bytes / 1024),
            4.0,
        ),
        fewer("CPU an allocation", "us", coturn.cpu_us, montana.cpu_us, 1.0),
    ]


def tables(report: Report) -> list[Table]:
    """Everything that was measured, the bounds first."""
    made = [
        _bounds_table(report),
        _matrix_table(report),
        _maximum_table(report),
        _round_trip_table(report),
        _costs_table(report),
    ]
    return [table for table in made if table.lines]


def _bounds_table(report: Report) -> Table:
    lines = [
        (
            row.name,
            f"{row.coturn:,.1f} {row.unit}",
            f"{row.montana:,.1f} {row.unit}",
            f"{row.ratio:.2f}",
            f"{row.bound:.2f}",
            ("yes" if row.met else "NO") + (f" ({row.note})" if row.note else ""),
        )
        for row in rows(report)
    ]
    headings = ("What must be reached", COTURN, MONTANA, "times better", "at least", "met")
    return Table(title="Beside coturn", headings=headings, lines=lines)


def _matrix_table(report: Report) -> Table:
    lines = []
    for mine in (cell for cell in report.cells if cell.suite == "matrix"):
        theirs = report.find("matrix", COTURN, **_attributes(mine.load))
        if mine.server != MONTANA and not (mine.server == COTURN and _alone(report)):
            continue
        montana = mine.measurement if mine.server == MONTANA else None
        size = mine.load
        lines.append(
            (
                f"{size.mode}, {size.allocations:,} allocations, {size.payload_bytes} bytes, "
                f"burst {size.burst}",
                *_delivered(theirs),
                *_delivered(montana),
                f"{montana.delivered_a_second / theirs.delivered_a_second:.2f}"
                if montana and theirs
                else "",
                f"{theirs.cpu_ns / montana.cpu_ns:.2f}" if montana and theirs else "",
            )
        )
    headings = (
        "Saturated",
        *(f"{name} {what}" for name in (COTURN, MONTANA) for what in ("k/s", "loss", "ns")),
        "k/s ratio",
        "ns ratio",
    )
    return Table(
        title="Packets delivered a second when saturated, loss, server CPU ns a delivered packet",
        headings=headings,
        lines=lines,
    )


def _alone(report: Report) -> bool:
    return not any(cell.server == MONTANA for cell in report.cells)


def _attributes(load: Load) -> dict[str, object]:
    return asdict(load)


def _delivered(measurement: Measurement | None) -> tuple[str, str, str]:
    if measurement is None:
        return ("", "", "")
    # Where the server had CPU left, the generator was what limited it.
    limit = "" if measurement.server_was_full else "+"
    return (
        f"{measurement.delivered_a_second / 1000:,.1f}{limit}",
        f"{measurement.loss:.0%}",
        f"{measurement.cpu_ns:,.0f}",
    )


def _maximum_table(report: Report) -> Table:
    lines = [
        (
            f"{cell.load.mode}, burst {cell.load.burst}, {cell.server}",
            f"{cell.measurement.delivered_a_second:,.0f}",
            f"{cell.measurement.loss:.2%}",
            f"{cell.measurement.cpu_ns:,.0f}",
            f"{cell.measurement.server_busy:.0%}",
        )
        for cell in report.cells
        if cell.suite == "maximum"
    ]
    headings = ("Highest rate with less than 1 % loss", "packets/s", "loss", "ns", "core")
    return Table(title="Highest rate with less than 1 % loss", headings=headings, lines=lines)


def _round_trip_table(report: Report) -> Table:
    lines = [
        (
            f"{cell.load.mode}, {cell.load.rate:,.0f}/s, {cell.server}",
            f"{cell.measurement.latency_p50_us:,.0f}",
            f"{cell.measurement.latency_p99_us:,.0f}",
            f"{cell.measurement.latency_p999_us:,.0f}",
            f"{cell.measurement.cpu_ns:,.0f}",
            f"{cell.measurement.server_busy:.1%}",
        )
        for cell in sorted(
            (cell for cell in report.cells if cell.suite == "round trip"),
            key=lambda cell: (cell.load.mode != Mode.PEER_ECHO, cell.load.rate, cell.server),
        )
    ]
    headings = ("Round trip at a steady rate", "p50 us", "p99 us", "p99.9 us", "ns", "core")
    return Table(title="Round trip", headings=headings, lines=lines)


def _costs_table(report: Report) -> Table:
    lines = [
        (
            f"{cost.server}, {cost.count:,} allocations",
            f"{cost.cpu_us:,.0f}",
            f"{cost.memory_bytes / 1024:,.1f}",
            f"{cost.a_second:,.0f}",
            f"{cost.server_busy:.0%}",
        )
        for cost in report.costs
    ]
    headings = ("Challenge and success", "CPU us", "RSS KiB", "a second", "core")
    return Table(title="Allocations", headings=headings, lines=lines)


def as_text(report: Report) -> str:
    """For a terminal."""
    parts = [table.as_text() for table in tables(report)]
    if any(not cell.measurement.server_was_full for cell in report.cells if cell.suite == "matrix"):
        parts.append("+ the server had CPU left: the generator was the limit")
    if parts:
        parts.append(report.machine.describe())
    if report.ledger is not None:
        parts += [table.as_text() for table in ledger_report.tables(report.ledger)]
        parts.append(report.ledger.machine.describe())
    if report.signaling is not None:
        parts += [table.as_text() for table in signaling_report.tables(report.signaling)]
        parts.append(report.signaling.machine.describe())
    if report.api is not None:
        parts += [table.as_text() for table in api_report.tables(report.api)]
        parts.append(report.api.machine.describe())
    if report.gsm is not None:
        parts += [table.as_text() for table in gsm_report.tables(report.gsm)]
        parts.append(report.gsm.machine.describe())
    if report.sms is not None:
        parts += [table.as_text() for table in sms_report.tables(report.sms)]
        parts.append(report.sms.machine.describe())
    return "\n\n".join(parts)


def as_markdown(report: Report) -> str:
    """For a document."""
    parts = [table.as_markdown() for table in tables(report)]
    if any(not cell.measurement.server_was_full for cell in report.cells if cell.suite == "matrix"):
        parts.append("`+`: the server had CPU left, the generator was the limit.")
    if parts:
        parts += _where(report)
    if report.ledger is not None:
        parts += [table.as_markdown() for table in ledger_report.tables(report.ledger)]
        parts += _where(report.ledger)
    if report.signaling is not None:
        parts += [table.as_markdown() for table in signaling_report.tables(report.signaling)]
        parts += _where(report.signaling)
    if report.api is not None:
        parts += [table.as_markdown() for table in api_report.tables(report.api)]
        parts += _where(report.api)
    if report.gsm is not None:
        parts += [table.as_markdown() for table in gsm_report.tables(report.gsm)]
        parts += _where(report.gsm)
    if report.sms is not None:
        parts += [table.as_markdown() for table in sms_report.tables(report.sms)]
        parts += _where(report.sms)
    return "\n\n".join(parts) + "\n"


def _where(
    report: Report | LedgerReport | SignalingReport | ApiReport | GsmReport | SmsReport,
) -> list[str]:
    rough = ["A quick run: the figures are rough."] if report.quick else []
    return [*rough, f"Measured on {report.machine.describe()}."]
