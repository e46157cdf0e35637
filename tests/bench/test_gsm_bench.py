"""The benchmark of the GSM bridge accounts for what becomes of messages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench import gsm_report
from bench import report as reports
from bench.gsm import GsmReport, measure_gsm, new_report
from bench.gsm_load import GsmLoad
from bench.machine import this_machine
from bench.report import Report
from bench.servers import MONTANA

TINY = GsmLoad(modems=2, steady_s=1, answered_s=2, backlog=3)


@pytest.fixture(scope="module")
def measured() -> GsmReport:
    said: list[str] = []
    report = new_report(TINY, quick=True)
    measure_gsm(report, TINY, said.append)
    assert len(said) == 4
    return report


def test_everything_is_measured(measured: GsmReport) -> None:
    assert measured.steady is not None
    assert measured.answered is not None
    assert measured.backlog is not None
    for served, messages in (
        (measured.steady, 2),
        (measured.answered, 4),
        (measured.backlog, 6),
    ):
        assert (served.messages, served.lost, served.doubled) == (messages, 0, 0)
        assert served.cpu_s > 0
        assert served.line_s > 0
    assert measured.steady.modem_s is None
    assert measured.backlog.modem_s is not None


def test_it_is_told_and_read_again(measured: GsmReport, tmp_path: Path) -> None:
    report = Report(machine=this_machine([MONTANA]), quick=True, gsm=measured)
    reports.save(report, tmp_path / "one.json")
    loaded = reports.load(tmp_path / "one.json")
    assert loaded == report
    assert "messages handed on once, 2 modems at 115,200 baud, a backlog" in reports.as_text(loaded)
    assert "### The GSM bridge" in reports.as_markdown(loaded)
    empty = Report(machine=this_machine([MONTANA]), quick=True)
    assert reports.merge(report, empty).gsm == measured


def test_a_message_that_is_lost_or_doubled_breaks_the_bound(measured: GsmReport) -> None:
    assert measured.steady is not None
    bad = replace(measured.steady, lost=1, doubled=1, cpu_s=1.0)
    assert all(
        row["met"] for row in gsm_report.as_json(measured)["rows"] if "handed on" in row["name"]
    )
    # How long a backlog takes is the machine's as well.
    broken = replace(measured, steady=bad, backlog=None)
    names = [row.name for row in gsm_report.rows(broken) if not row.met]
    assert names == [
        "messages handed on once, 2 modems at 115,200 baud, one a second each",
        "the bridge's share of a core, 2 modems at 115,200 baud, a message a second each",
    ]
    assert json.dumps(gsm_report.as_json(broken))
