"""The benchmark of the node's socket accounts for what it does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import pytest

from bench import api_report
from bench import report as reports
from bench.api import (
    CLIENTS,
    PING,
    SEND,
    ApiReport,
    ApiSizes,
    Requests,
    measure_api,
    new_report,
)
from bench.api_load import asking
from bench.machine import this_machine
from bench.report import Report
from bench.servers import MONTANA
from bench.signaling_servers import running_signaling
from bench.turn_client import ClientError
from core.api.bridge_messages import DoneReply, PingRequest
from core.api.messages import AccountShowRequest, RequestBody

TINY = ApiSizes(windows=(1, 3), send_windows=(4,), rounds=1, seconds=0.3)


@pytest.fixture(scope="module")
def measured() -> ApiReport:
    said: list[str] = []
    report = new_report(quick=True)
    measure_api(report, TINY, said.append)
    assert len(said) == 3
    return report


def test_everything_is_measured(measured: ApiReport) -> None:
    asked = [(one.kind, one.window, one.connections) for one in measured.requests]
    assert asked == [(PING, 1, CLIENTS), (PING, 3, CLIENTS), (SEND, 4, CLIENTS)]
    for one in measured.requests:
        assert one.a_second > 0
        assert one.cpu_us[0] > 0
    assert measured.requests[-1].sync_us


def test_it_is_told_and_read_again(measured: ApiReport, tmp_path: Path) -> None:
    report = Report(machine=this_machine([MONTANA]), quick=True, api=measured)
    reports.save(report, tmp_path / "one.json")
    loaded = reports.load(tmp_path / "one.json")
    assert loaded == report
    assert f"ping requests over the local socket, {CLIENTS} clients, 3" in reports.as_text(loaded)
    assert "### The node's socket" in reports.as_markdown(loaded)
    empty = Report(machine=this_machine([MONTANA]), quick=True)
    assert reports.merge(loaded, empty).api == measured
    assert json.loads((tmp_path / "one.json").read_text())["api"]["rows"][1]["beside"] == "required"


def requests(kind: str, window: int, rate: float, busy: float, others: float) -> Requests:
    return Requests(
        kind=kind,
        window=window,
        connections=8,
        sync_us=None,
        rates=[rate],
        cpu_us=[20.0],
        busy=busy,
        others=others,
    )


def test_the_bounds_are_those_of_the_most_under_way_on_a_core_of_its_own() -> None:
    report = ApiReport(machine=this_machine([MONTANA]), quick=True)
    report.requests = [
        requests(PING, 16, 29_000, 1.0, 0.0),
        requests(PING, 1, 50_000, 1.0, 0.0),
        requests(SEND, 32, 3_000, 0.5, 0.5),
    ]
    ping, send = api_report.rows(report)
    assert (ping.montana, ping.met) == (29.0, False)
    assert (send.montana, send.met, send.note) == (50.0, True, api_report.SHARED)


def test_an_answer_that_is_none_ends_the_measurement() -> None:
    def unknown(_number: int) -> Iterator[RequestBody]:
        return repeat(AccountShowRequest("user:nobody"))

    with (
        running_signaling(MONTANA) as server,
        asking(
            server.socket, server.pid, clients=1, window=1, bodies=unknown, reply=DoneReply
        ) as askers,
        pytest.raises(ClientError, match="not carried out"),
    ):
        askers.measure(0.2)


def test_all_that_was_asked_is_answered_in_the_end() -> None:
    def pings(_number: int) -> Iterator[RequestBody]:
        return repeat(PingRequest())

    with (
        running_signaling(MONTANA) as server,
        asking(
            server.socket, server.pid, clients=3, window=5, bodies=pings, reply=DoneReply
        ) as askers,
    ):
        for _ in range(2):
            assert askers.measure(0.1).replies > 0
            assert not any(client.under_way for client in askers._clients.values())
