"""The ledger's benchmarks account for what they do; PostgreSQL's ledger does what ours does."""

from __future__ import annotations

import os
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trio
from click.testing import CliRunner

from bench import ledger_report, postgres
from bench import report as reports
from bench.__main__ import main
from bench.ledger import (
    Hour,
    HourSample,
    LedgerReport,
    MeteringCost,
    MeterMemory,
    OpenLoop,
    Singles,
    Sizes,
    Start,
    Ticks,
    Transfers,
    measure_ledger,
    new_report,
)
from bench.ledger_child import (
    FUNDS,
    Metered,
    assert_charged,
    measure_open_loop,
    measure_transfers,
    metered,
)
from bench.ledger_load import AMOUNT_MAXIMUM, Load, sync_us
from bench.ledger_plot import ledger_plots
from bench.machine import is_in_memory, this_machine
from bench.postgres import POSTGRESQL, Postgres, Way, running_postgres
from bench.report import Report
from bench.servers import MONTANA, USERS, bench_folder
from billing.accounts import FIRST_USER_ACCOUNT
from billing.ledger import LmdbLedger, open_ledger
from core.clock import VirtualClock
from core.errors import OperationError

TINY = Sizes(
    sessions=(50, 300),
    ticks=26,
    earlier=3_000,
    accounts=50,
    batch=100,
    batches=2,
    rounds=2,
    tasks=20,
    single_s=0.1,
    loop_rate=500.0,
    loop_sessions=100,
    loop_s=0.3,
    meter_sessions=100_000,
    hour_sessions=20,
    hour_ticks=40,
    hour_samples=4,
    relay_rounds=1,
    relay_rate=400.0,
    relay_s=0.2,
)
needs_postgres = pytest.mark.skipif(
    not postgres.is_installed(), reason="Debian's postgresql is not installed"
)


@pytest.fixture(scope="module")
def measured() -> LedgerReport:
    said: list[str] = []
    report = new_report(quick=True, say=said.append)
    measure_ledger(report, TINY, said.append)
    assert len(said) >= 8
    return report


def test_everything_is_measured_and_accounted_for(measured: LedgerReport) -> None:
    # That each second was charged once is asserted where it is measured.
    assert [one.sessions for one in measured.ticks] == [50, 300]
    for one in measured.ticks:
        assert 0 < one.median_ms <= one.worst_ms
        # Of 30 s, 24 are used up before a slice is renewed: once in 26 ticks, all together.
        assert one.renewed == one.sessions
        assert 0 < one.renewing_ms <= one.worst_ms
        assert one.sync_us > 0
    (start,) = measured.starts
    assert start.sessions == 300
    assert min(start.open_s, start.recover_s) > 0
    ours = measured.transfers_of(MONTANA)
    assert ours is not None
    assert (len(ours.rates), ours.earlier, ours.batch) == (2, 3_000, 100)
    assert measured.singles is not None
    assert measured.singles.done >= measured.singles.tasks
    assert measured.open_loop is not None
    assert measured.open_loop.done == 150
    assert measured.open_loop.p50_ms <= measured.open_loop.p99_ms <= measured.open_loop.worst_ms
    assert measured.open_loop.ticks >= 1
    assert measured.meter is not None
    # Its columns have 81 bytes a session; some of them lie in pages that the process had already.
    assert 60 < measured.meter.session_bytes < 200
    assert measured.hour is not None
    assert [sample.ticks for sample in measured.hour.samples] == [10, 20, 30, 40]


def test_the_relay_is_measured_while_each_of_20_users_pays(measured: LedgerReport) -> None:
    cost = measured.metering
    assert cost is not None
    assert cost.sessions == len(set(USERS)) == 20
    assert len(cost.off_ns) == len(cost.on_ns) == 1
    assert min(*cost.off_ns, *cost.on_ns) > 0
    (charged_s,) = cost.charged_s
    assert charged_s >= 20


@needs_postgres
def test_postgresql_is_measured_beside_ours(measured: LedgerReport) -> None:
    theirs = measured.transfers_of(POSTGRESQL)
    assert theirs is not None
    assert set(theirs.tried) == set(Way)
    assert theirs.way in theirs.tried
    assert POSTGRESQL in measured.machine.versions


def test_without_postgresql_ours_is_measured_alone(tmp_path: Path) -> None:
    cores = os.sched_getaffinity(0)
    try:
        (ours,) = measure_transfers(tmp_path, 500, 20, 50, 1, 1, beside=False)
    finally:
        os.sched_setaffinity(0, cores)
    assert ours.system == MONTANA
    assert len(ours.rates) == 1


def test_a_load_is_the_same_each_time_and_every_id_its_own() -> None:
    load = Load(accounts=30)
    one, again = (list(load.batches(0, 2_500, 1_000)) for _ in range(2))
    assert [len(batch) for batch in one] == [1_000, 1_000, 500]
    for batch, same in zip(one, again, strict=True):
        assert batch.transfers() == same.transfers()
    transfers = [transfer for batch in one for transfer in batch.transfers()]
    ids = [transfer.id for transfer in transfers]
    assert len(set(ids)) == 2_500
    assert [identity[:6] for identity in ids] == sorted(identity[:6] for identity in ids)
    assert Load.first_id(1_000) <= min(ids[1_000:])
    assert Load.first_id(1_000) > max(ids[:1_000])
    for transfer in transfers:
        assert transfer.debit != transfer.credit
        assert min(transfer.debit, transfer.credit) >= FIRST_USER_ACCOUNT
        assert max(transfer.debit, transfer.credit) < FIRST_USER_ACCOUNT + 30
        assert 0 < transfer.amount <= AMOUNT_MAXIMUM
    moved = dict.fromkeys(range(FIRST_USER_ACCOUNT, FIRST_USER_ACCOUNT + 30), 0)
    for transfer in one[0].transfers():
        moved[transfer.debit] -= transfer.amount
        moved[transfer.credit] += transfer.amount
    accounts, amounts = one[0].sums()
    assert dict(zip(accounts.tolist(), amounts.tolist(), strict=True)) == moved


def test_a_second_that_is_missing_is_noticed(tmp_path: Path) -> None:
    clock = VirtualClock()

    async def run(ledger: LmdbLedger) -> None:
        sessions, _ = await metered(ledger, clock, 10, lambda _: None)
        sessions.relay()
        await sessions.tick()
        sessions.check()
        sessions.relay()
        with pytest.raises(AssertionError):
            sessions.check()
        assert_charged(ledger, 10, 1)

    with open_ledger(tmp_path / "ledger", clock) as ledger:
        trio.run(run, ledger)


def test_an_open_loop_whose_seconds_are_not_charged_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Metered, "relay", lambda _: None)
    with pytest.raises(AssertionError):
        measure_open_loop(tmp_path, 100.0, 10, 0.1)


def test_an_open_loop_that_ticks_too_seldom_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Metered.relay

    def skip_seconds(sessions: Metered) -> None:
        relay(sessions)
        sessions.seconds += 10

    monkeypatch.setattr(Metered, "relay", skip_seconds)
    with pytest.raises(AssertionError):
        measure_open_loop(tmp_path, 100.0, 10, 2.1)


def test_memory_is_told_from_a_disk() -> None:
    assert is_in_memory(Path("/dev/shm"))
    assert not is_in_memory(Path("/proc"))
    with pytest.raises(FileNotFoundError):
        is_in_memory(Path("/nowhere"))


def test_what_is_durable_is_not_measured_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin() -> None:
        raise AssertionError("nothing is to begin")

    monkeypatch.setattr("bench.__main__._prepare", begin)
    monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")
    result = CliRunner().invoke(main, ["ledger", "--quick"])
    assert result.exit_code == 1
    assert "/dev/shm is in memory" in result.output
    assert "TMPDIR=/var/tmp" in result.output


def test_sync_leaves_nothing_behind(tmp_path: Path) -> None:
    assert sync_us(tmp_path) > 0
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- PostgreSQL


@pytest.fixture(scope="module")
def filled() -> Iterator[Postgres]:
    # Not in pytest's folder: its user has to reach it, and any other run of pytest closes that one.
    with bench_folder() as folder, running_postgres(folder) as server:
        server.fill(Load(20), 1_000, np.full(20, FUNDS), lambda _: None)
        yield server


@needs_postgres
@pytest.mark.parametrize("way", list(Way))
def test_every_way_moves_balances_and_keeps_history(filled: Postgres, way: Way) -> None:
    before = filled.balances()
    batch = Load(20).batch(10_000 + 100 * list(Way).index(way), 100)
    filled.transfer(way, filled.encode(way, batch))
    after = filled.balances()
    expected = dict(before)
    for transfer in batch.transfers():
        expected[transfer.debit] -= transfer.amount
        expected[transfer.credit] += transfer.amount
        assert transfer.id in filled.history(transfer.debit) & filled.history(transfer.credit)
    assert after == expected


@needs_postgres
@pytest.mark.parametrize("way", list(Way))
def test_an_id_moves_money_once(filled: Postgres, way: Way) -> None:
    batch = Load(20).batch(20_000 + 100 * list(Way).index(way), 100)
    encoded = filled.encode(way, batch)
    filled.transfer(way, encoded)
    before = filled.balances()
    if way is Way.STATEMENT:
        filled.transfer(way, encoded)
    else:
        with pytest.raises(OperationError, match="duplicate key"):
            filled.transfer(way, encoded)
    assert filled.balances() == before


@needs_postgres
@pytest.mark.parametrize("way", list(Way))
def test_nobody_is_overdrawn(filled: Postgres, way: Way) -> None:
    batch = Load(20).batch(30_000 + 100 * list(Way).index(way), 1)
    too_much = replace(batch, amounts=np.array([2 * FUNDS]))
    before = filled.balances()
    with pytest.raises(OperationError, match="accounts_balance_check"):
        filled.transfer(way, filled.encode(way, too_much))
    assert filled.balances() == before


# ---------------------------------------------------------------- what is said


def told() -> LedgerReport:
    def ticks(sessions: int, median_ms: float, renewing_ms: float) -> Ticks:
        return Ticks(
            sessions=sessions,
            sync_us=250.0,
            ticks=30,
            median_ms=median_ms,
            worst_ms=renewing_ms,
            renewing_ms=renewing_ms,
            renewed=sessions,
            session_bytes=700.0,
            memory_bytes=sessions * 900,
            tick_file_bytes=sessions * 17.0,
        )

    def transfers(system: str, rate: float) -> Transfers:
        return Transfers(
            system=system,
            way="a way",
            earlier=10_000_000,
            batch=1_000,
            accounts=100_000,
            sync_us=250.0,
            rates=[rate, rate * 2, rate / 2],
            tried={},
        )

    return LedgerReport(
        machine=this_machine([MONTANA]),
        quick=False,
        ticks=[ticks(1_000, 1.0, 1.0), ticks(100_000, 15.0, 40.0), ticks(1_000_000, 200.0, 200.0)],
        starts=[Start(sessions=1_000_000, sync_us=250.0, open_s=2.0, recover_s=6.0)],
        transfers=[transfers(MONTANA, 300_000.0), transfers(POSTGRESQL, 75_000.0)],
        singles=Singles(tasks=1_000, done=1, sync_us=250.0, a_second=18_000.0),
        open_loop=OpenLoop(
            rate=10_000.0,
            sessions=100_000,
            done=1,
            sync_us=250.0,
            p50_ms=1.0,
            p99_ms=10.0,
            p999_ms=30.0,
            worst_ms=40.0,
            ticks=30,
            tick_ms=16.0,
        ),
        meter=MeterMemory(sessions=1_000_000, session_bytes=100.0),
        hour=Hour(
            sessions=10_000,
            sync_us=250.0,
            samples=[
                HourSample(ticks=tick, tick_ms=1.0, memory_bytes=1 << 26, file_bytes=tick << 17)
                for tick in range(60, 3_601, 60)
            ],
        ),
        metering=MeteringCost(
            sessions=20,
            off_ns=[5_000.0, 5_100.0],
            on_ns=[5_100.0, 5_200.0],
            charged_s=[80, 81],
            disturbed=False,
        ),
    )


def test_rows_hold_the_bounds() -> None:
    rows = ledger_report.rows(told())
    assert {row.name: (round(row.ratio or 0, 2), round(row.bound, 2), row.met) for row in rows} == {
        "a tick of 100,000 sessions: median": (2.0, 1.0, True),
        "a tick of 100,000 sessions: the slowest with renewals": (0.75, 1.0, False),
        "a tick of 1,000,000 sessions: median": (1.25, 1.0, True),
        "a tick of 1,000,000 sessions: the slowest with renewals": (1.25, 1.0, True),
        "start after kill -9 with 1,000,000 live sessions": (1.25, 1.0, True),
        "transfers a second, by 1,000, over 10,000,000 earlier ids": (4.0, 3.0, True),
        "single transfers a second, 1,000 tasks": (0.9, 1.0, False),
        "single transfers at 10,000/s, 100,000 sessions ticking: p99": (2.0, 1.0, True),
        "memory a session in the meter, of 1,000,000": (2.0, 1.0, True),
        "the relay's CPU a packet, metered": (0.98, 0.97, True),
    }
    # What has been on the disk says how slow that is.
    assert [row.sync_us for row in rows].count(None) == 2


def test_what_was_not_measured_for_want_of_postgresql_is_told() -> None:
    report = told()
    report.transfers = [one for one in report.transfers if one.system == MONTANA]
    (row,) = [row for row in ledger_report.rows(report) if row.beside == POSTGRESQL]
    assert (row.other, row.ratio, row.met) == (None, None, False)
    said = reports.as_text(Report(machine=report.machine, quick=False, ledger=report))
    (line,) = [line for line in said.splitlines() if line.startswith(row.name)]
    assert "postgresql not measured" in line
    assert line.endswith("not measured (PostgreSQL is not installed)")


def test_a_report_with_a_ledger_survives_its_file(tmp_path: Path) -> None:
    report = Report(machine=this_machine([MONTANA]), quick=False, ledger=told())
    file = tmp_path / "run.json"
    reports.save(report, file)
    assert reports.load(file) == report


def test_markdown_and_text_say_the_same() -> None:
    report = Report(machine=this_machine([MONTANA]), quick=False, ledger=told())
    for said in (reports.as_text(report), reports.as_markdown(report)):
        assert "start after kill -9 with 1,000,000 live sessions" in said
        assert "0.25 ms" in said
        assert "30 ticks of 16.0 ms" in said
        assert "20 sessions, 161 s charged" in said
        assert "NO" in said


def test_plots_hold_what_grows() -> None:
    drawn = ledger_plots(told())
    assert set(drawn) == {"ledger-sessions.svg", "ledger-hour.svg", "ledger-transfers.svg"}
    for drawing in drawn.values():
        root = ElementTree.fromstring(drawing)  # noqa: S314 - drawn just now
        _, _, width, height = (float(number) for number in root.attrib["viewBox"].split())
        for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
            assert 0 < float(circle.attrib["cx"]) < width
            assert 0 < float(circle.attrib["cy"]) < height
    assert drawn["ledger-sessions.svg"].count("<circle") == 9
    assert "3,600" in drawn["ledger-hour.svg"]
