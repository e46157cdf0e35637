"""The bench's client and its accounting against a real server, Debian's coturn, at a low rate."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from bench.process import cpu_time_ns, resident_bytes
from bench.scenario import Load, Mode, traffic
from bench.servers import COTURN, Server, running
from bench.soak import soak
from bench.suites import measure_allocations
from bench.turn_client import Client, ClientError, Credentials, run_one

pytestmark = pytest.mark.skipif(
    shutil.which("turnserver") is None, reason="coturn's turnserver is not installed"
)


@pytest.fixture(scope="module")
def coturn() -> Iterator[Server]:
    with running(COTURN) as server:
        yield server


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("burst", [1, 8])
def test_every_packet_is_accounted_for(coturn: Server, mode: Mode, burst: int) -> None:
    load = Load(mode=mode, allocations=4, burst=burst, rate=400)
    with traffic(coturn, mode, load.allocations) as opened:
        measured = opened.measure(load, seconds=0.3)
    assert measured.sent > 0
    assert measured.lost == measured.strays == 0
    assert measured.delivered == measured.sent
    assert measured.server_drops == measured.generator_drops == 0
    assert measured.cpu_ns > 0
    assert 0 < measured.latency_p50_us <= measured.latency_p99_us <= measured.latency_p999_us


def test_a_wrong_password_is_told(coturn: Server) -> None:
    client = Client(coturn.address, Credentials("bench", "wrong"))
    try:
        with pytest.raises(ClientError, match="ALLOCATE: 401"):
            run_one(client, client.allocate())
    finally:
        client.close()


def test_allocations_cost_something(coturn: Server) -> None:
    cpu_ns, memory_bytes = cpu_time_ns(coturn.pid), resident_bytes(coturn.pid)
    cost = measure_allocations(coturn, 40)
    assert 0 < cost.cpu_us * 40 * 1000 <= cpu_time_ns(coturn.pid) - cpu_ns
    assert cost.memory_bytes * 40 <= resident_bytes(coturn.pid) - memory_bytes
    assert cost.count == 40


def test_soak_closes_pairs_without_losing_a_packet(coturn: Server) -> None:
    lines: list[str] = []
    result = soak(coturn, seconds=2.5, say=lines.append, pairs=3, rate=300)
    assert result.lost == result.strays == 0
    assert result.churned >= 2
    assert result.sent > 0
    assert result.descriptors[1] <= result.descriptors[0]
