"""The benchmark of SMS commands accounts for what it sends."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import report as reports
from bench import sms_report
from bench.machine import this_machine
from bench.report import Report
from bench.servers import MONTANA
from bench.sms import Commands, SmsReport, SmsSizes, measure_sms, new_report
from bench.sms_load import PRICE, running_sms
from bench.turn_client import ClientError
from core.errors import OperationError

PHONE = "+79990000000"
TINY = SmsSizes(connections=(2, 3), numbers=4, messages=14, warm_up=3, rounds=2)


def test_it_is_measured_told_and_read_again(tmp_path: Path) -> None:
    said: list[str] = []
    measured = new_report(quick=True)
    measure_sms(measured, TINY, said.append)
    assert len(said) == 4
    assert [(one.connections, one.numbers) for one in measured.commands] == [(2, 4), (3, 4)]
    for one in measured.commands:
        assert len(one.rates) == 2
        assert min(*one.rates, *one.node_cpu_us, *one.bridge_cpu_us) > 0
    report = Report(machine=this_machine([MONTANA]), quick=True, sms=measured)
    reports.save(report, tmp_path / "one.json")
    loaded = reports.load(tmp_path / "one.json")
    assert loaded == report
    assert "SMS commands through the Twilio webhook, durable, 3" in reports.as_text(loaded)
    assert "### SMS commands" in reports.as_markdown(loaded)
    empty = Report(machine=this_machine([MONTANA]), quick=True)
    assert reports.merge(loaded, empty).sms == measured
    assert json.loads((tmp_path / "one.json").read_text())["sms"]["rows"][0]["other"] == 800.0


def test_a_wrong_balance_ends_it() -> None:
    with running_sms(connections=1, numbers=1) as senders:
        (connection,) = senders._connections
        senders.send(2)
        connection._left[PHONE] -= 100 * PRICE
        with pytest.raises(ClientError, match="a wrong answer"):
            senders.send(1)
        connection._left[PHONE] += 100 * PRICE


def test_a_number_that_has_not_paid_ends_it() -> None:
    with ExitStack() as stack:
        senders = stack.enter_context(running_sms(connections=1, numbers=1))
        senders.send(3)
        senders._connections[0]._left[PHONE] -= 100 * PRICE
        with pytest.raises(OperationError, match="each message once"):
            stack.close()


def commands(connections: int, others: float) -> Commands:
    return Commands(
        connections=connections,
        numbers=200,
        messages=100,
        late=0,
        rates=[790.0],
        node_cpu_us=[300.0],
        bridge_cpu_us=[700.0],
        busy=0.8,
        others=others,
    )


def test_the_bound_is_that_of_the_most_connections_on_a_core_of_their_own() -> None:
    report = SmsReport(machine=this_machine([MONTANA]), quick=True)
    assert sms_report.rows(report) == []
    report.commands = [commands(32, 0.05), commands(1, 0.5)]
    (row,) = sms_report.rows(report)
    assert (row.montana, row.met) == (790.0, False)
    report.commands[0] = commands(32, 0.5)
    (row,) = sms_report.rows(report)
    assert (row.montana, row.met, row.note) == (1_000.0, True, sms_report.SHARED)
