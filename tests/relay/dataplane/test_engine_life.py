"""How the engine starts, closes, opens and gives up relays, and what it leaves behind."""

from __future__ import annotations

import ctypes
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.generator import Generator, bucket_starts_ns
from bench.path import Path as TrafficPath
from core.stun.address import FiveTuple
from relay.dataplane.interface import (
    OWN_NO,
    OWN_RELAYS_ONLY,
    RelayUnavailable,
)
from relay.dataplane.sockets import SocketDataPlane
from tests.support.engine import (
    CHANNEL,
    FAR_NS,
    TIMEOUT_S,
    Client,
    address,
    address_of,
    bind_again,
    data_of,
    join,
    open_relay,
    running_engine,
    udp_socket,
    wait_for_total,
)
from tests.support.turn_client import send_indication


def test_a_relay_whose_port_is_taken_is_unavailable() -> None:
    with running_engine() as engine, udp_socket() as taken:
        with pytest.raises(RelayUnavailable):
            engine.open_relay(address_of(taken))
        _, bound = open_relay(engine, "127.0.0.1")
        with pytest.raises(RelayUnavailable):
            engine.open_relay(bound)
        with pytest.raises(RelayUnavailable):
            engine.open_relay(address("8.8.8.8", 20_000))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("given_up", "kept"), [("127.0.0.1", "::1"), ("::1", "127.0.0.1")])
def test_a_dual_allocation_gives_up_one_family(given_up: str, kept: str, workers: int) -> None:
    hosts = ["127.0.0.1", "::1"]
    with (
        running_engine(workers=workers) as engine,
        udp_socket(given_up) as lost_peer,
        udp_socket(kept) as peer,
    ):
        session = engine.open_session()
        client = Client(engine, session, relay_hosts=hosts)
        far = Client(engine, session, relay_hosts=[given_up])
        lost, relay = client.relayed[hosts.index(given_up)], client.relayed[hosts.index(kept)]
        client.bind(address_of(lost_peer))
        client.bind(address_of(peer), CHANNEL + 1)
        far.bind(lost, own=OWN_RELAYS_ONLY)
        far.send_channel(b"by the short-cut")
        assert data_of(client.receive()) == (far.relay, b"by the short-cut")
        client.send_channel(b"by the family that goes")
        assert lost_peer.recv(100) == b"by the family that goes"

        engine.remove_relay(client.allocation, len(lost.ip))
        # The short-cut finds nobody, nor does the kernel, nor the client its way out.
        far.send_channel(b"to nobody")
        wait_for_total(engine, "drop_forbidden", 1)
        lost_peer.sendto(b"to nobody", (lost.host, lost.port))
        client.send_channel(b"from nowhere")
        client.socket.send(send_indication(address_of(lost_peer), b"from nowhere"))
        engine.send_to_peer(client.allocation, address_of(lost_peer), b"from nowhere", True)
        wait_for_total(engine, "drop_forbidden", 4)
        engine.remove_channel(client.allocation, CHANNEL)
        engine.remove_permission(client.allocation, address_of(lost_peer).ip)
        for number in range(10):
            client.send_channel(b"%d" % number, CHANNEL + 1)
            assert peer.recv(100) == b"%d" % number
            peer.sendto(b"%d" % number, (relay.host, relay.port))
            assert client.receive()[4:] == b"%d" % number
        assert engine.totals()["short_cuts"] == 1

        # Its port is free again, for another allocation too.
        handle = bind_again(engine, lost)
        heir_socket = udp_socket(given_up)
        server = next(one for one in engine.listening if len(one.ip) == len(lost.ip))
        heir_socket.connect((server.host, server.port))
        five_tuple = FiveTuple("udp", address_of(heir_socket), server)
        heir = engine.open_allocation(five_tuple, [handle], session, FAR_NS, 0)
        engine.install_permission(heir, lost.ip, FAR_NS, OWN_RELAYS_ONLY)
        far.send_channel(b"to the heir")
        assert data_of(heir_socket.recv(100)) == (far.relay, b"to the heir")

        client.close()
        engine.close_relay(bind_again(engine, relay))
        far.send_channel(b"still there")
        assert data_of(heir_socket.recv(100)) == (far.relay, b"still there")
        heir_socket.close()


def test_families_given_up_leave_no_descriptor() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with running_engine(workers=2, max_allocations=4) as engine:
        session = engine.open_session()
        before = descriptors()
        for number in range(1000):
            client = Client(engine, session, relay_hosts=["127.0.0.1", "::1"])
            engine.remove_relay(client.allocation, 4 if number % 2 else 16)
            client.close()
        # The last one is closed by whatever comes next, once the workers sleep.
        until = time.monotonic() + TIMEOUT_S
        while descriptors() > before and time.monotonic() < until:
            engine.take_closed_flows()
        assert descriptors() == before


@pytest.mark.parametrize("shared", [False, True])
def test_another_process_on_the_port_is_found(shared: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        other.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="in use"):
            SocketDataPlane(
                [address_of(other)],
                workers=1,
                relay_addresses=[],
                external={},
                max_allocations=1,
                flows_per_allocation=1,
            )


def test_starting_and_closing_leaves_nothing() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    threads = threading.active_count()
    for start in (True, False) * 5:
        with running_engine(workers=2, start=start) as engine:
            session = engine.open_session()
            client = Client(engine, session, relay_hosts=["127.0.0.1", "::1"])
            open_relay(engine, "127.0.0.1")
            client.socket.close()
    assert descriptors() == before
    assert threading.active_count() == threads


CALLS: dict[str, tuple[Any, ...]] = {
    "report": (),
    "start": (),
    "receive": (1,),
    "reply": (FiveTuple("udp", address("127.0.0.1", 1), address("127.0.0.1", 2)), b"late"),
    "flush_replies": (),
    "open_session": (),
    "grant_sessions": (np.ones(1, np.uint32), np.ones(1, np.uint64)),
    "close_session": (1,),
    "open_relay": (address("127.0.0.1", 0),),
    "close_relay": (1,),
    "open_allocation": (
        FiveTuple("udp", address("127.0.0.1", 1), address("127.0.0.1", 2)),
        [1],
        1,
        FAR_NS,
        0,
    ),
    "refresh_allocation": (1, FAR_NS),
    "set_rate": (1, 0),
    "remove_relay": (1, 4),
    "close_allocation": (1,),
    "install_permission": (1, bytes(4), FAR_NS, OWN_NO),
    "install_channel": (1, CHANNEL, address("127.0.0.1", 1), FAR_NS),
    "remove_permission": (1, bytes(4)),
    "remove_channel": (1, CHANNEL),
    "send_to_peer": (1, address("127.0.0.1", 1), b"late", False),
    "flow_counters": (),
    "session_counters": (),
    "take_closed_flows": (),
    "take_closed_sessions": (),
    "totals": (),
}


@pytest.mark.parametrize("start", [True, False])
def test_after_closing_nothing_may_be_called_but_close(start: bool) -> None:
    methods = {name for name in vars(SocketDataPlane) if not name.startswith("_")}
    assert {*CALLS, "close", "control_fd", "listening"} == methods
    with running_engine(start=start) as engine, udp_socket() as peer:
        session = engine.open_session()
        client = Client(engine, session, relay_hosts=["127.0.0.1", "::1"])
        client.bind(address_of(peer))
        engine.reply(client.five_tuple, b"never sent")
        engine.close()
        for name, arguments in CALLS.items():
            with pytest.raises(RuntimeError, match="the data plane is closed"):
                getattr(engine, name)(*arguments)
        engine.close()


def test_packets_pass_while_python_does_not() -> None:
    """The GIL is held for longer than any packet may take, in the midst of the traffic."""
    hold_ns = 400_000_000
    sleep_with_gil = ctypes.PyDLL(None).usleep
    with running_engine() as engine:
        session = engine.open_session()
        clients = [Client(engine, session) for _ in range(10)]
        paths = []
        for one, other in zip(clients[::2], clients[1::2], strict=True):
            join(one, other)
            for near, far in ((one, other), (other, one)):
                far.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
                far.socket.setblocking(False)
                paths.append(
                    TrafficPath(
                        near.socket.fileno(),
                        far.socket.fileno(),
                        send_channel=CHANNEL,
                        receive_channel=CHANNEL,
                    )
                )
        generator = Generator(paths, payload_bytes=172, burst=1, rate=10_000)
        generator.run(0.1)
        generator.drain()
        generator.reset()
        # It runs without the GIL, and for longer than the GIL is held.
        traffic = threading.Thread(target=generator.run, args=(4 * hold_ns / 1e9,))
        traffic.start()
        wait_for_total(engine, "packets_to_peer", engine.totals()["packets_to_peer"] + 1)
        before = engine.totals()["packets_to_peer"]
        sleep_with_gil(hold_ns // 1000)
        during = engine.totals()["packets_to_peer"] - before
        assert traffic.is_alive()
        traffic.join()
        generator.drain()
        counters = generator.counters()
    slowest = generator.latency_histogram().nonzero()[0][-1]
    # A worker that had stood still would have kept a packet for nearly as long.
    assert during > 0
    assert bucket_starts_ns()[slowest] < hold_ns / 2
    assert counters["delivered"] == counters["sent"] > 0


def test_low_latency_workers_do_the_same() -> None:
    with running_engine(low_latency=True) as engine:
        session = engine.open_session()
        one, other = Client(engine, session), Client(engine, session)
        join(one, other)
        for number in range(100):
            one.send_channel(b"%d" % number)
            assert other.receive()[4:] == b"%d" % number
        time.sleep(0.3)
        one.send_channel(b"after a silence")
        assert other.receive()[4:] == b"after a silence"


def test_the_report_tells_what_the_kernel_gave() -> None:
    with running_engine(start=False) as engine:
        lines = engine.report()
    assert "UDP_SEGMENT" in lines[0]
    assert "KiB" in lines[0]
    assert len(lines) == 1 or "sysctl -w net.core.rmem_max=" in lines[1]
