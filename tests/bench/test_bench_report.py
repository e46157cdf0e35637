"""What the bench says follows from what it measured."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import report as reports
from bench.__main__ import main
from bench.comparison import fewer, median, more
from bench.machine import Machine
from bench.plot import plots
from bench.report import Report
from bench.scenario import Load, Measurement, Mode
from bench.servers import COTURN, MONTANA, MONTANA_LOW_LATENCY
from bench.soak import SoakResult
from bench.suites import AllocationCost, Cell
from bench.table import Table

MEASUREMENT = Measurement(
    sent=1000,
    delivered=1000,
    loss=0.0,
    sent_a_second=80_000,
    delivered_a_second=80_000,
    missed=0,
    strays=0,
    cpu_ns=10_000,
    server_busy=0.99,
    server_waited=0.0,
    server_drops=0,
    generator_drops=0,
    latency_p50_us=140,
    latency_p99_us=300,
    latency_p999_us=900,
)
COST = AllocationCost(
    server=COTURN, count=100, cpu_us=180, memory_bytes=22 * 1024, a_second=5000, server_busy=0.9
)
SOAK = SoakResult(
    seconds=600,
    sent=30_000_000,
    lost=0,
    strays=0,
    missed=0,
    churned=2400,
    server_drops=0,
    memory_bytes=(50 << 20, 50 << 20),
    growth_a_minute_bytes=0.0,
    descriptors=(20, 20),
)


def cell(suite: str, server: str, load: Load, **figures: float) -> Cell:
    measurement = replace(MEASUREMENT, **figures)  # type: ignore[arg-type]
    return Cell(suite=suite, server=server, load=load, measurement=measurement)


@pytest.fixture
def report() -> Report:
    machine = Machine(
        processor="A Processor",
        cores=2,
        kernel="6.1",
        system="A System",
        python="3.11",
        versions={COTURN: "4.6.1", MONTANA: "0.1.0"},
        receive_buffer_maximum_bytes=212_992,
        date="2026-01-02",
    )
    cells = []
    for mode in (Mode.CALL, Mode.TO_PEER, Mode.FROM_PEER):
        for burst in (1, 8):
            load = Load(mode=mode, allocations=20, burst=burst, rate=80_000)
            cells.append(cell("steady", COTURN, load, cpu_ns=12_000))
            cells.append(cell("steady", MONTANA, load, cpu_ns=5_000))
    flat_out = Load(mode=Mode.CALL, allocations=20)
    cells.append(cell("saturated", COTURN, flat_out, delivered_a_second=100_000))
    cells.append(cell("saturated", MONTANA, flat_out, delivered_a_second=240_000, server_busy=0.6))
    lossless = Load(mode=Mode.CALL, allocations=20, rate=70_000)
    cells.append(cell("lossless", COTURN, lossless))
    cells.append(cell("lossless", MONTANA, lossless, delivered=999, loss=0.001))
    wide = Load(mode=Mode.CALL, allocations=2000)
    cells.append(cell("matrix", COTURN, wide, delivered_a_second=90_000))
    cells.append(cell("matrix", MONTANA, wide, delivered_a_second=270_000))
    slow = Load(mode=Mode.PEER_ECHO, allocations=20, rate=1000)
    cells.append(cell("round trip", COTURN, slow, latency_p50_us=140))
    cells.append(cell("round trip", MONTANA, slow, latency_p50_us=150))
    cells.append(cell("round trip", MONTANA_LOW_LATENCY, slow, latency_p50_us=80))
    costs = [COST, replace(COST, server=MONTANA, cpu_us=200, memory_bytes=5 * 1024)]
    return Report(machine=machine, quick=False, cells=cells, costs=costs)


def test_rows_hold_the_bounds_of_what_must_be_reached(report: Report) -> None:
    found = {row.name: row for row in reports.rows(report)}
    met = {name: (round(row.ratio, 2), round(row.bound, 2), row.met) for name, row in found.items()}
    assert met == {
        "call, 80,000/s, burst 1: CPU a packet": (2.4, 1.8, True),
        "call, 80,000/s, burst 8: CPU a packet": (2.4, 3.0, False),
        "client to peer, 80,000/s, burst 1: CPU a packet": (2.4, 1.1, True),
        "client to peer, 80,000/s, burst 8: CPU a packet": (2.4, 1.6, True),
        "peer to client, 80,000/s, burst 1: CPU a packet": (2.4, 1.0, True),
        "peer to client, 80,000/s, burst 8: CPU a packet": (2.4, 1.4, True),
        "call, saturated, burst 1: delivered a second": (2.4, 2.3, True),
        "call, 70,000/s, burst 1: lost": (0.0, 1.0, False),
        "peer, echoed, 1,000/s: round trip p50": (0.93, 0.91, True),
        "peer, echoed, 1,000/s: the same, low-latency mode": (1.75, 2.0, False),
        "memory an allocation": (4.4, 4.0, True),
        "CPU an allocation": (0.9, 1.0, False),
    }
    assert "generator is the limit" in found["call, saturated, burst 1: delivered a second"].note


def test_a_report_survives_its_file(report: Report, tmp_path: Path) -> None:
    file = tmp_path / "folder" / "run.json"
    reports.save(report, file)
    assert reports.load(file) == report


def test_a_run_of_one_suite_leaves_the_others(report: Report) -> None:
    suite = report.cells[0].suite
    others = [one for one in report.cells if one.suite != suite]
    again = [replace(one, measurement=MEASUREMENT) for one in report.cells if one.suite == suite]
    made = replace(report, cells=again, costs=[])
    merged = reports.merge(report, made)
    assert merged.cells == others + again
    assert merged.costs == report.costs
    # Of another machine, or of a rougher run, nothing is mixed in.
    elsewhere = replace(report.machine, processor="another")
    assert reports.merge(replace(report, machine=elsewhere), made).cells == again
    assert reports.merge(replace(report, quick=not report.quick), made).cells == again


def test_markdown_and_text_say_the_same(report: Report) -> None:
    text, markdown = reports.as_text(report), reports.as_markdown(report)
    for said in (text, markdown):
        assert "memory an allocation" in said
        assert "A Processor, 2 cores, A System, Linux 6.1" in said
        assert "NO" in said
    assert "| call, 2,000 allocations, 172 bytes, burst 1 | 90.0 | 0% | 10,000 |" in markdown


def test_the_command_prints_a_kept_run_and_draws_it(report: Report, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    reports.save(report, file)
    arguments = ["report", "--results", str(file), "--plots", str(tmp_path / "plots")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert result.output == reports.as_markdown(report)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == set(plots(report))


def test_plots_are_sound_and_hold_every_figure(report: Report) -> None:
    drawn = plots(report)
    assert set(drawn) == {"cpu.svg", "saturated.svg", "round-trip.svg", "allocations.svg"}
    for drawing in drawn.values():
        root = ElementTree.fromstring(drawing)  # noqa: S314 - drawn just now
        view = [float(number) for number in root.attrib["viewBox"].split()]
        for rectangle in root.iter("{http://www.w3.org/2000/svg}rect"):
            right = float(rectangle.attrib["x"]) + float(rectangle.attrib["width"])
            bottom = float(rectangle.attrib["y"]) + float(rectangle.attrib["height"])
            assert right <= view[2]
            assert bottom <= view[3]
    assert "2.4 times less" in drawn["cpu.svg"]
    assert "3.0 times more" in drawn["saturated.svg"]


def test_columns_of_a_table_stand_under_each_other() -> None:
    table = Table(title="T", headings=("a", "b"), lines=[("long name", "1"), ("x", "1,000")])
    assert (
        table.as_text()
        == "T\n\na              b\n---------  -----\nlong name      1\nx          1,000"
    )


def test_medians_are_taken_and_losses_summed() -> None:
    rounds = [
        replace(MEASUREMENT, cpu_ns=cpu_ns, delivered=delivered)
        for cpu_ns, delivered in ((9_000, 1000), (30_000, 999), (10_000, 1000))
    ]
    result = median(rounds)
    assert result.cpu_ns == 10_000
    assert (result.sent, result.delivered, result.lost) == (3000, 2999, 1)
    assert result.loss == pytest.approx(1 / 3000)


def test_ratios_say_how_many_times_better() -> None:
    assert fewer("a", "us", 10, 4, 2).ratio == 2.5
    assert more("a", "k", 10, 4, 2).ratio == 0.4
    assert not more("a", "k", 10, 4, 2).met


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"lost": 1}, "lost"),
        ({"strays": 1}, "twice"),
        ({"missed": 2_000_000}, "too slow"),
        ({"memory_bytes": (50 << 20, 52 << 20)}, "2,048 KiB"),
        ({"descriptors": (20, 21)}, "1 descriptors"),
    ],
)
def test_soak_complains_of_what_is_wrong(changed: dict[str, object], complaint: str) -> None:
    assert SOAK.complaints() == []
    (said,) = replace(SOAK, **changed).complaints()  # type: ignore[arg-type]
    assert complaint in said
