"""The benchmarks of signaling account for what they do; the rival checks what the node checks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from websockets.sync.server import ServerConnection, serve

from bench import report as reports
from bench import signaling_report
from bench.__main__ import main
from bench.machine import this_machine
from bench.report import Report
from bench.servers import MONTANA
from bench.signaling import (
    SERVERS,
    Answers,
    CallSetUps,
    PacketDelay,
    Routing,
    SessionMemory,
    SignalingReport,
    SignalingSizes,
    TickingCalls,
    measure_signaling,
    new_report,
)
from bench.signaling_calls import Callers
from bench.signaling_client import Connection, Crowd, client_frame
from bench.signaling_load import OFFER, talk
from bench.signaling_pages import Answered, chromium_is_installed
from bench.signaling_servers import AIOHTTP, ROOM_TOKEN, SignalingServer, running_signaling
from bench.signaling_ticking import ticking_relay
from bench.turn_client import ClientError
from core.errors import OperationError
from core.stun.address import Address
from relay.signaling.descriptions import Kind, kind_of_untrusted

TINY = SignalingSizes(
    rooms=2,
    windows=(1, 3),
    routing_rounds=1,
    routing_s=0.2,
    idle_sessions=30,
    settle_s=0.2,
    answered_calls=2,
    pairs=3,
    set_up_rounds=1,
    set_up_s=2.0,
    ticked_sessions=50,
    calls=2,
    ticking_rounds=2,
    ticking_s=1.1,
)


# ---------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def measured() -> SignalingReport:
    said: list[str] = []
    report = new_report(quick=True)
    measure_signaling(report, TINY, said.append)
    assert len(said) >= 8
    return report


def test_everything_is_measured_beside_aiohttp(measured: SignalingReport) -> None:
    # That each message arrives as it was sent, once, is asserted where it is measured.
    assert [(one.server, one.window) for one in measured.routing] == [
        (AIOHTTP, 1),
        (MONTANA, 1),
        (AIOHTTP, 3),
        (MONTANA, 3),
    ]
    for routing in measured.routing:
        assert (routing.connections, routing.message_bytes, len(routing.rates)) == (4, 600, 1)
        assert routing.a_second > 0
        assert routing.a_core_second > 0
    assert [(one.server, one.sessions) for one in measured.memory] == [(AIOHTTP, 30), (MONTANA, 30)]
    assert {AIOHTTP, MONTANA} <= set(measured.machine.versions)


def test_calls_are_set_up_and_paid_for(measured: SignalingReport) -> None:
    # Receipts are looked at where they come.
    assert measured.set_ups is not None
    assert measured.set_ups.pairs == 3
    assert min(measured.set_ups.a_second, measured.set_ups.a_core_second) > 0


@pytest.mark.skipif(not chromium_is_installed(), reason="Chromium is not installed")
def test_pages_answer_calls(measured: SignalingReport) -> None:
    assert measured.answers is not None
    assert len(measured.answers.calls) == 2
    for one in measured.answers.calls:
        # One thing comes after the other: the parts, but what overlaps, are the whole.
        assert one.total > one.answer > 0
        parts = one.answer + one.signal + one.ice + one.dtls + one.frame
        assert one.total == pytest.approx(parts, abs=1e-3)


def test_calls_go_on_while_sessions_tick(measured: SignalingReport) -> None:
    ticking = measured.ticking
    assert ticking is not None
    assert (ticking.sessions, ticking.calls) == (50, 2)
    # The machine may be busy, and the generator late: what was sent has arrived.
    for delay in (ticking.resting, ticking.ticking):
        assert delay.sent > 0
        assert delay.lost == 0
        assert 0 < delay.p50_us <= delay.p99_us <= delay.p999_us
    assert ticking.ticks >= 2


def test_a_relay_that_fails_is_noticed() -> None:
    with pytest.raises(OperationError, match="has failed"), ticking_relay(2, 1) as (relay, _):
        relay._process.kill()


# ---------------------------------------------------------------- what is said


@contextmanager
def room(name: str) -> Iterator[tuple[SignalingServer, Connection, Connection, str]]:
    """Two people on a server, and the second one's id."""
    with running_signaling(name) as server:
        host, guest = Connection(server.address), Connection(server.address)
        made = host.ask("create", token=ROOM_TOKEN)
        joined = guest.ask("join", invitation=made["invitation"])
        host.expect("peer_joined")
        yield server, host, guest, joined["you"]
        host.close()
        guest.close()


@pytest.mark.parametrize("name", SERVERS)
def test_both_servers_check_the_same(name: str) -> None:
    with room(name) as (server, host, guest, peer):
        description = {"type": "offer", "sdp": OFFER}
        host.say("signal", to=peer, connection="one", description=description)
        passed = guest.expect("signal")
        assert (passed["connection"], passed["description"]) == ("one", description)

        def refusal(kind: str, seq: int | None = None, **fields: object) -> str:
            message = {"type": kind, "seq": host.seq + 1 if seq is None else seq, **fields}
            host.send(client_frame(msgspec.json.encode(message)))
            with pytest.raises(ClientError) as caught:
                host.expect("nothing")
            return str(caught.value).split(": ")[1]

        signal: dict[str, Any] = {"to": peer, "connection": "one", "description": description}
        assert refusal("signal", seq=host.seq, **signal) == "replayed"
        assert refusal("signal", seq=host.seq + 2, **signal) == "out-of-order"
        assert refusal("signal", to=peer, connection="one two") == "malformed"
        assert refusal("sing") == "unknown-type"
        assert (
            refusal("signal", to="nobody", connection="one", description=description) == "no-peer"
        )
        host.seq += 1
        assert refusal("signal", to=peer, connection="one") == "malformed"
        host.seq += 1
        assert refusal("join", invitation="x" * 43) == "wrong-state"
        host.seq += 1
        # After all that it is as before.
        host.say("signal", **signal)
        assert guest.expect("signal")["description"] == description

        stranger = Connection(server.address)
        with pytest.raises(ClientError, match="bad-secret"):
            stranger.ask("join", invitation="x" * 43)
        stranger.close()


def test_a_message_that_arrives_as_another_is_noticed() -> None:
    with running_signaling(AIOHTTP) as server, talk(server, 1, 1) as opened:
        flow = next(iter(opened._flows.values()))
        flow.take(flow._expected[:100])
        flow.take(flow._expected[100:] + flow._expected)
        assert flow.arrived == 2
        with pytest.raises(ClientError, match="something else"):
            flow.take(flow._expected.replace(b"offer", b"OFFER"))


def test_calls_without_money_are_noticed() -> None:
    with (
        running_signaling(MONTANA) as server,
        pytest.raises(ClientError, match="no-money"),
        closing(Callers(server, 1)) as callers,
    ):
        callers.measure(0.1)


def test_what_browsers_say_for_a_call_of_voice_is_one() -> None:
    folder = Path(reports.__file__).parent
    answer = (folder / "signaling_answer.sdp").read_text()
    assert kind_of_untrusted(answer) is Kind.VOICE


# ---------------------------------------------------------------- the client


def test_frames_of_every_length_are_read() -> None:
    texts = ["", "x" * 125, "x" * 126, "x" * 65_535, "x" * 65_536, "ж" * 100_000]

    def talk_back(websocket: ServerConnection) -> None:
        assert websocket.recv() == "ready"
        for text in texts:
            websocket.send(msgspec.json.encode({"type": "text", "text": text}).decode())
        assert websocket.ping().wait(10)
        assert websocket.recv() == '{"type":"long","seq":1,"text":"' + "y" * 70_000 + '"}'
        websocket.close(1008, "enough")

    with serve(talk_back, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        client = Connection(Address.from_text("127.0.0.1", port), path="/", is_greeted=False)
        client.send(client_frame(b"ready"))
        assert [client.expect("text")["text"] for _ in texts] == texts
        client.say("long", text="y" * 70_000)
        with pytest.raises(ClientError, match="enough"):
            client.expect("nothing")
        client.close()
        server.shutdown()
        thread.join()


def test_idle_connections_answer_pings() -> None:
    answered = threading.Event()

    def ping(websocket: ServerConnection) -> None:
        if websocket.ping().wait(10):
            answered.set()

    with serve(ping, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        crowd = Crowd()
        crowd.add(Connection(Address.from_text("127.0.0.1", port), path="/", is_greeted=False))
        assert len(crowd) == 1
        with pytest.raises(ClientError, match="closed a connection"):
            crowd.serve(10)
        assert answered.is_set()
        crowd.close()
        server.shutdown()
        thread.join()


def test_a_ping_that_comes_with_the_handshake_is_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> bytes:
            with listener.accept()[0] as server:
                server.settimeout(10)
                server.recv(65_536)
                server.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x89\x02hi")
                return server.recv(100)

        with ThreadPoolExecutor(1) as pool, closing(Crowd()) as crowd:
            heard = pool.submit(greet)
            address = Address.from_text("127.0.0.1", listener.getsockname()[1])
            crowd.add(Connection(address, path="/", is_greeted=False))
            pong = heard.result()
    assert pong[:2] == b"\x8a\x82"
    assert bytes(one ^ key for one, key in zip(pong[6:], pong[2:6], strict=False)) == b"hi"


# ---------------------------------------------------------------- what is told


def told() -> SignalingReport:
    """A report whose figures are easy to follow."""
    delay = PacketDelay(sent=10_000, lost=0, p50_us=30, p99_us=80, p999_us=200)

    def routing(server: str, window: int, rate: float) -> Routing:
        return Routing(
            server=server,
            window=window,
            connections=50,
            message_bytes=600,
            rates=[rate - 1_000, rate, rate + 1_000],
            cpu_us=[1e6 / rate] * 3,
            busy=0.99,
            waited=0.01,
        )

    return SignalingReport(
        machine=this_machine([MONTANA]),
        quick=False,
        routing=[
            routing(AIOHTTP, 1, 20_000),
            routing(MONTANA, 1, 30_000),
            routing(AIOHTTP, 8, 50_000),
            routing(MONTANA, 8, 40_000),
        ],
        memory=[
            SessionMemory(server=AIOHTTP, sessions=10_000, session_bytes=12_288),
            SessionMemory(server=MONTANA, sessions=10_000, session_bytes=4_096),
        ],
        answers=Answers(
            calls=[Answered(total, 10, 5, 20, 30, 8, total - 68) for total in (390, 400, 900)]
        ),
        set_ups=CallSetUps(
            pairs=1_500,
            sync_us=250.0,
            rates=[590.0, 600.0, 610.0],
            cpu_ms=[1.6, 1.6, 1.6],
            busy=0.98,
            waited=0.2,
        ),
        ticking=TickingCalls(
            sessions=100_000,
            calls=50,
            sync_us=250.0,
            resting=delay,
            ticking=replace(delay, lost=1, p99_us=95),
            ticks=90,
            tick_ms=14.5,
            disturbed=False,
        ),
    )


def test_rows_hold_the_bounds() -> None:
    rows = signaling_report.rows(told())
    assert {row.name: (round(row.ratio or 0, 2), row.met) for row in rows} == {
        "messages routed a second, 50 people, 1 of each under way": (1.5, True),
        "messages routed a second, 50 people, 8 of each under way": (0.8, False),
        "memory an idle session, of 10,000": (3.0, True),
        'from "answer" to the first remote frame, relayed, 3 calls: p50': (1.25, True),
        "calls set up and ended a second, by 1,500 pairs": (1.2, True),
        "packets lost of 50 calls while 100,000 sessions tick": (0.0, False),
    }
    # What has been on the disk says how slow that is.
    assert [row.sync_us for row in rows].count(None) == 4


def test_on_a_core_that_was_shared_cpu_is_compared() -> None:
    report = told()
    report.routing[0] = replace(report.routing[0], rates=[1_000.0], waited=0.5)
    (row, _, *_) = signaling_report.rows(report)
    assert (row.other, row.montana, row.ratio) == pytest.approx((20.0, 30.0, 1.5))
    assert "the core was shared" in row.note


@pytest.mark.parametrize(
    ("busy", "waited", "figure", "note"),
    [
        (0.98, 0.2, 600.0, "98% of its core"),
        (0.5, 0.6, 625.0, "a second of CPU: the core was shared"),
        (0.5, 0.1, 600.0, "50% of its core: more pairs would make more"),
    ],
)
def test_what_limits_calls_is_told(busy: float, waited: float, figure: float, note: str) -> None:
    report = told()
    assert report.set_ups is not None
    report.set_ups = replace(report.set_ups, busy=busy, waited=waited)
    (row,) = [row for row in signaling_report.rows(report) if row.name.startswith("calls set up")]
    assert (row.montana, row.note) == (figure, note)


def test_a_load_that_is_the_limit_is_told() -> None:
    report = told()
    report.routing[1] = replace(report.routing[1], busy=0.5)
    (row, _, *_) = signaling_report.rows(report)
    assert row.note == "who loads it is the limit: montana used 50% of its core"


def test_a_report_with_signaling_survives_its_file(tmp_path: Path) -> None:
    report = Report(machine=this_machine([MONTANA]), quick=False, signaling=told())
    file = tmp_path / "run.json"
    reports.save(report, file)
    assert reports.load(file) == report


def test_signaling_is_kept_beside_what_was_measured_before() -> None:
    machine = this_machine([MONTANA])
    kept = Report(machine=machine, quick=False, signaling=told())
    again = told()
    again.memory = []
    made = Report(machine=machine, quick=False, signaling=again)
    assert reports.merge(kept, made).signaling is again
    assert reports.merge(kept, Report(machine=machine, quick=False)).signaling is kept.signaling


def test_markdown_and_text_say_the_same() -> None:
    report = Report(machine=this_machine([MONTANA]), quick=False, signaling=told())
    for said in (reports.as_text(report), reports.as_markdown(report)):
        assert "calls set up and ended a second" in said
        assert "gather 5, signal 20, ice 30, dtls 8, frame 332 ms; the slowest call: 900" in said
        assert "p99 95 us, +15 us by 90 ticks of 14.5 ms" in said
        assert "29,000 to 31,000" in said
        assert "100,000 sessions tick" in said
        assert "NO" in said


def test_the_command_measures_signaling_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(report: SignalingReport, sizes: SignalingSizes, _say: object) -> None:
        assert sizes.routing_rounds == 1
        report.memory = told().memory

    monkeypatch.setattr("bench.signaling.measure_signaling", fill)
    monkeypatch.setattr("bench.__main__.LATEST", tmp_path / "latest.json")
    monkeypatch.setattr("bench.__main__._prepare", lambda: None)
    result = CliRunner().invoke(main, ["signaling", "--quick"])
    assert result.exit_code == 0, result.output
    assert "memory an idle session, of 10,000" in result.output
    loaded = reports.load(tmp_path / "latest.json")
    assert loaded.signaling is not None
    assert (loaded.cells, loaded.ledger) == ([], None)
