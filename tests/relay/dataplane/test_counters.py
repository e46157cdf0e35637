"""What is counted: active seconds, and every packet once."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

from core.stun.constants import Attribute, MessageClass, Method
from core.stun.message import encode_message
from relay.dataplane.sockets import STUN_BYTES_PER_SECOND, SocketDataPlane
from tests.support.engine import (
    TIMEOUT_S,
    Client,
    address_of,
    join,
    running_engine,
    udp_socket,
    wait_for_total,
)


def test_active_seconds_are_counted_once_a_session() -> None:
    stun = encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12), [])
    with running_engine(workers=2) as engine, udp_socket() as peer:
        session, idle = engine.open_session(), engine.open_session()
        clients = [Client(engine, session) for _ in range(4)]
        quiet = Client(engine, idle)
        for client in (*clients, quiet):
            client.bind(address_of(peer))
        begun = time.clock_gettime(time.CLOCK_MONOTONIC)
        free = STUN_BYTES_PER_SECOND // len(stun)
        while time.clock_gettime(time.CLOCK_MONOTONIC) < begun + 2.2:
            for client in clients:
                client.send_channel(b"media")
                peer.recv(100)
            if free:
                quiet.send_channel(stun)
                peer.recv(100)
                free -= 1
        ended = time.clock_gettime(time.CLOCK_MONOTONIC)
        rows = engine.session_counters()
        counted = dict(zip(rows["session"].tolist(), rows["active_seconds"].tolist(), strict=True))
        # Each second of the clock in which something passed, once, whatever passed in it.
        assert counted[session] == int(ended) - int(begun) + 1
        assert counted[idle] == 0
        engine.close_session(session)
        for client in clients:
            client.close()
        taken = engine.take_closed_sessions()
        while not len(taken):
            taken = engine.take_closed_sessions()
        assert taken["active_seconds"].tolist() == [counted[session]]
        assert not len(engine.take_closed_sessions())


@pytest.mark.parametrize("workers", [1, 2])
def test_every_packet_is_in_the_last_counters_of_one_flow(workers: int) -> None:
    """Allocations come and go under traffic; slots are used again; nothing is counted twice."""
    received = 0
    sums: Counter[str] = Counter()
    names = ("packets_to_peer", "bytes_to_peer", "packets_to_client", "bytes_to_client")

    def collect(rows: Any) -> None:
        for name in names:
            sums[name] += int(rows[name].sum())

    with running_engine(workers=workers, max_allocations=8) as engine:
        handles: set[int] = set()
        for _ in range(300):
            session = engine.open_session()
            one, other = Client(engine, session), Client(engine, session)
            handles |= {one.allocation, other.allocation}
            join(one, other)
            for size in (1, 10, 100):
                one.send_channel(bytes(size))
                other.send_channel(bytes(size))
            for size in (1, 10, 100):
                assert len(one.receive()) == len(other.receive()) == size + 4
                received += 2
            # These are still under way when everything ends.
            one.send_channel(b"late")
            one.close()
            other.close()
            engine.close_session(session)
            collect(engine.take_closed_flows())
            engine.take_closed_sessions()
        time.sleep(0.05)
        collect(engine.take_closed_flows())
        assert not len(engine.flow_counters())
        assert not len(engine.session_counters())
        totals = engine.totals()
    assert len(handles) < 300
    assert received == 1800
    assert sums["packets_to_client"] >= received
    for name in names:
        assert sums[name] == totals[name], name


def test_counters_nobody_takes_do_not_keep_slots() -> None:
    with running_engine(max_allocations=4) as engine:
        for _ in range(2000):
            session = engine.open_session()
            client = Client(engine, session)
            client.permit(client.relay)
            client.close()
            engine.close_session(session)
        assert len(engine.take_closed_sessions()) > 1500


def test_a_session_relays_the_seconds_that_it_was_granted() -> None:
    with running_engine() as engine, udp_socket() as peer:
        session = engine.open_session(1)
        client = Client(engine, session)
        client.bind(address_of(peer))
        peer.settimeout(0.5)

        def send_for_a_second(payload: bytes) -> bool:
            """Over a second's boundary: whether anything arrived in the second after it."""
            begun_s = time.monotonic_ns() // 1_000_000_000
            while time.monotonic_ns() // 1_000_000_000 == begun_s:
                time.sleep(0.01)
            client.send_channel(payload)
            try:
                return peer.recv(100) == payload
            except TimeoutError:
                return False

        assert send_for_a_second(b"first")
        client.send_channel(b"the same second")
        assert peer.recv(100) == b"the same second"
        assert not send_for_a_second(b"unpaid")
        wait_for_total(engine, "drop_unpaid", 1)
        # STUN costs nothing; what comes back is held up alike.
        stun = encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12), [])
        assert send_for_a_second(stun)
        peer.sendto(b"back", (client.relay.host, client.relay.port))
        wait_for_total(engine, "drop_unpaid", 2)
        engine.grant_sessions(np.array([session], np.uint32), np.array([2], np.uint64))
        assert send_for_a_second(b"second")
        assert engine.session_counters()["active_seconds"].tolist() == [2]


def active_seconds_of(engine: SocketDataPlane) -> dict[int, int]:
    """By session."""
    rows = engine.session_counters()
    return dict(zip(rows["session"].tolist(), rows["active_seconds"].tolist(), strict=True))


def test_a_header_of_stun_makes_no_payload_free() -> None:
    header = encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12), [])
    large = encode_message(
        Method.BINDING, MessageClass.REQUEST, bytes(12), [(Attribute.DATA, bytes(1400))]
    )
    with running_engine() as engine, udp_socket() as peer:
        for payload in (header + b"media", header + bytes(100), large):
            session = engine.open_session()
            client = Client(engine, session)
            client.bind(address_of(peer))
            client.send_channel(payload)
            assert peer.recv(2000) == payload
            assert active_seconds_of(engine)[session] == 1
            back = engine.open_session(0)
            other = Client(engine, back)
            other.permit(address_of(peer))
            dropped = engine.totals()["drop_unpaid"]
            peer.sendto(payload, (other.relay.host, other.relay.port))
            wait_for_total(engine, "drop_unpaid", dropped + 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_with_much_stun_is_an_active_one(workers: int) -> None:
    stun = encode_message(
        Method.BINDING, MessageClass.REQUEST, bytes(12), [(Attribute.DATA, bytes(1000))]
    )
    with running_engine(workers=workers) as engine, udp_socket() as peer:
        session, unpaid = engine.open_session(), engine.open_session(0)
        # What counts is all that a session has, over all of its allocations.
        paying = [Client(engine, session) for _ in range(2)]
        poor = [Client(engine, unpaid) for _ in range(2)]
        for client in (*paying, *poor):
            client.bind(address_of(peer))
        relayed_bytes = 0
        until = time.monotonic() + 4 * TIMEOUT_S
        while not active_seconds_of(engine)[session]:
            assert time.monotonic() < until
            for client in paying:
                client.send_channel(stun)
                assert peer.recv(2000) == stun
                relayed_bytes += len(stun)
        assert relayed_bytes > STUN_BYTES_PER_SECOND
        # Where nobody pays it is held up, and the next second has its share again.
        for _ in range(2):
            before = engine.totals()
            sent = 0
            begun_s = time.clock_gettime(time.CLOCK_MONOTONIC)
            while engine.totals()["drop_unpaid"] == before["drop_unpaid"]:
                assert time.monotonic() < until
                for client in poor:
                    client.send_channel(stun)
                    sent += 1
                wait_for_total(engine, "packets_received", before["packets_received"] + sent)
            ended_s = time.clock_gettime(time.CLOCK_MONOTONIC)
            free = engine.totals()["packets_to_peer"] - before["packets_to_peer"]
            seconds = int(ended_s) - int(begun_s) + 1
            assert 0 < free <= seconds * (STUN_BYTES_PER_SECOND // len(stun))
            for _ in range(free):
                assert peer.recv(2000) == stun
            while int(time.clock_gettime(time.CLOCK_MONOTONIC)) == int(ended_s):
                time.sleep(0.01)
        assert active_seconds_of(engine)[unpaid] == 0
