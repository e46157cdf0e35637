"""The benchmark of the GSM bridge: what its modems get, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from bench.gsm_load import BAUD, GsmLoad, Served, serve
from bench.ledger_load import Say, sync_us
from bench.machine import Machine, this_machine
from bench.servers import MONTANA, bench_folder


@dataclass(slots=True, kw_only=True)
class GsmReport:
    """Everything of one run.

    Attributes:
        sync_us: how long the disk took to make 4 KiB durable.
        steady: of a message a second for each modem.
        answered: of one that is answered by another.
        backlog: of what waited for modems that had been away.
    """

    machine: Machine
    quick: bool
    modems: int
    baud: int = BAUD
    sync_us: float = 0.0
    steady: Served | None = None
    answered: Served | None = None
    backlog: Served | None = None


FULL = GsmLoad(modems=32, steady_s=60, answered_s=20, backlog=50)
QUICK = GsmLoad(modems=32, steady_s=10, answered_s=5, backlog=10)


def new_report(load: GsmLoad, *, quick: bool) -> GsmReport:
    """An empty report of this machine."""
    return GsmReport(machine=this_machine([MONTANA]), quick=quick, modems=load.modems)


def measure_gsm(report: GsmReport, load: GsmLoad, say: Say) -> None:
    """Measure all of it into `report`.

    Raises:
        MontanaError: something can't be measured; says why.
    """
    with bench_folder() as folder:
        report.sync_us = sync_us(folder)
    report.steady, report.answered, report.backlog = serve(load)
    for name, served in phases(report):
        say(
            f"{'gsm':11} {name:24} {served.messages:6,} messages, {served.lost} lost, "
            f"{served.doubled} doubled, {cpu_ms_each(served):.2f} ms of CPU each, "
            f"{core_share(served):.1%} of a core{_drain(served)}"
        )
    share = whole_share(report)
    assert share is not None
    say(f"{'gsm':11} {'one a second, a backlog':24} {share:.1%} of a core")


def phases(report: GsmReport) -> list[tuple[str, Served]]:
    """What was measured, and under what name."""
    named = [
        ("one a second each", report.steady),
        ("one a second, answered", report.answered),
        ("a backlog", report.backlog),
    ]
    return [(name, served) for name, served in named if served is not None]


def core_share(served: Served) -> float:
    """What the bridge used of its core."""
    return served.cpu_s / served.elapsed_s


def steady_share(report: GsmReport) -> float | None:
    """The same, of a message a second each, however long a busy machine took for them."""
    if report.steady is None:
        return None
    return report.steady.cpu_s / _steady_s(report.steady, report.modems)


def whole_share(report: GsmReport) -> float | None:
    """The same, with the backlog that comes behind them."""
    if report.steady is None or report.backlog is None:
        return None
    duration_s = _steady_s(report.steady, report.modems) + report.backlog.elapsed_s
    return (report.steady.cpu_s + report.backlog.cpu_s) / duration_s


def _steady_s(steady: Served, modems: int) -> float:
    return steady.messages / modems


def cpu_ms_each(served: Served) -> float:
    """Of the bridge's, for a message."""
    return served.cpu_s / served.messages * 1e3


def _drain(served: Served) -> str:
    if served.modem_s is None:
        return ""
    return (
        f"; a modem took {served.modem_s:.2f} s, of which its line needs {served.line_s:.2f} s "
        f"(bridge and modems waited {served.waited_s:.2f} s for a core)"
    )


def from_json(document: dict[str, Any]) -> GsmReport:
    """A report from its plain values."""
    return msgspec.convert(document, GsmReport)
