"""The node's figures, as the status and Prometheus read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from core.clock import VirtualClock
from core.stun.address import Address, FiveTuple
from relay.dataplane.interface import OWN_NO
from relay.figures import FigureReader
from relay.listeners.udp import UdpListener
from relay.metrics import Metrics
from relay.turn.effects import (
    CloseAllocation,
    InstallPermission,
    OpenAllocation,
    OpenRelay,
    RelayData,
)
from tests.support.fake_dataplane import FakeDataPlane
from tests.support.metering import free_sessions

CLIENT = FiveTuple(
    "udp", Address.from_text("127.0.0.1", 5000), Address.from_text("127.0.0.1", 3478)
)
PEER = Address.from_text("198.51.100.77", 4000)
FAR_NS = 10**18
USER = "1800000600:alice@example"


class OpeningServer:
    """Opens one allocation for the relay numbered 1."""

    next_deadline_ns = None

    def __init__(self) -> None:
        self.drops = {"no_permission": 2, "error_replies": 0}

    def relay_opened(self, relay: int, now_ns: int) -> list[OpenAllocation]:
        del now_ns
        return [OpenAllocation(relay, CLIENT, (relay,), USER, USER, FAR_NS, b"")]


Relaying = tuple[VirtualClock, UdpListener, FigureReader]


@pytest.fixture
def relaying(tmp_path: Path) -> Iterator[Relaying]:
    """Three seconds in which an allocation has relayed something."""
    clock = VirtualClock()
    data_plane = FakeDataPlane(clock)
    listener = UdpListener(
        OpeningServer(),  # type: ignore[arg-type]
        data_plane,
        clock,
        rate_bytes_s=0,
    )
    reader = FigureReader(listener, data_plane, clock)
    with free_sessions(tmp_path, data_plane) as listener.sessions:
        relay(clock, listener, data_plane)
        yield clock, listener, reader


def relay(clock: VirtualClock, listener: UdpListener, data_plane: FakeDataPlane) -> None:
    listener.carry_out(
        [
            OpenRelay(1, Address.from_text("127.0.0.1", 50001)),
            InstallPermission(1, PEER.ip, FAR_NS, OWN_NO),
        ]
    )
    for _ in range(3):
        listener.carry_out([RelayData(1, PEER, b"payload", False)])
        clock.advance_s(1)
    data_plane.peer_sends(
        Address.from_text("198.51.100.78", 1), Address.from_text("127.0.0.1", 50001), b"stranger"
    )


def test_figures_of_a_living_and_of_an_ended_session(relaying: Relaying) -> None:
    clock, listener, reader = relaying
    figures = reader.read()
    assert (figures.allocations, figures.sessions, figures.flows) == (1, 1, 1)
    assert figures.packets == {"to_peer": 3, "to_client": 0}
    assert figures.bytes == {"to_peer": 21, "to_client": 0}
    # The engine dropped one packet, the server two.
    assert figures.drops["no_permission"] == 3
    # A cause that has not come yet is there as well: a rate begins at its first packet.
    assert figures.drops["error_replies"] == 0
    assert figures.engine["refused_relays"] == 0
    assert (figures.uptime_s, figures.active_s) == (3, 3)

    listener.carry_out([CloseAllocation(1, "expired")])
    clock.advance_s(1)
    for _ in range(2):
        figures = reader.read()
        assert (figures.allocations, figures.sessions, figures.flows) == (0, 0, 0)
        assert figures.packets == {"to_peer": 3, "to_client": 0}
        assert figures.active_s == 3


def test_prometheus_reads_every_figure(relaying: Relaying) -> None:
    _, _, reader = relaying
    reader.connections = lambda: {"http": 2, "websocket": 5}
    rendered = Metrics(reader.read).render().decode()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(rendered)
        for sample in family.samples
    }
    assert samples["montana_allocations",] == 1
    assert samples["montana_relayed_packets_total", "to_peer"] == 3
    assert samples["montana_relayed_bytes_total", "to_peer"] == 21
    assert samples["montana_dropped_packets_total", "no_permission"] == 3
    assert samples["montana_session_active_seconds_total",] == 3
    assert samples["montana_connections", "http"] == 2
    assert samples["montana_connections", "websocket"] == 5
    assert samples["process_open_fds",] > 0


def test_no_metric_names_a_user_or_an_address(relaying: Relaying) -> None:
    _, _, reader = relaying
    rendered = Metrics(reader.read).render().decode()
    for private in ("alice", USER, "127.0.0.1", "198.51.100", "CALL-"):
        assert private not in rendered
