"""What reaches the control plane, and that nobody crowds out the others."""

from __future__ import annotations

import select
import time
from collections import Counter

import pytest

from core.stun.constants import Attribute, MessageClass, Method
from core.stun.message import encode_message
from relay.dataplane.interface import (
    ControlDatagram,
)
from relay.dataplane.sockets import CONTROL_PER_SECOND, STRANGER_BYTES
from tests.support.engine import (
    Client,
    address_of,
    datagrams_of,
    running_engine,
    udp_socket,
    wait_control,
    wait_for_total,
)


def test_a_flood_of_strangers_leaves_clients_their_requests() -> None:
    request = encode_message(Method.REFRESH, MessageClass.REQUEST, bytes(12), [])
    flood = encode_message(
        Method.ALLOCATE, MessageClass.REQUEST, bytes(12), [(Attribute.DATA, bytes(900))]
    )
    with running_engine() as engine, udp_socket() as stranger:
        session = engine.open_session()
        client = Client(engine, session)
        server = (engine.listening[0].host, engine.listening[0].port)
        for number in range(2000):
            stranger.sendto(flood, server)
            if number % 100 == 0:
                client.socket.send(request)
        wait_for_total(engine, "packets_received", 2020)
        seen: list[ControlDatagram] = []
        while batch := engine.receive(64):
            seen += [one for one in batch if isinstance(one, ControlDatagram)]
        known = [one for one in seen if one.five_tuple == client.five_tuple]
        assert len(known) == 20
        assert seen[:20] == known
        dropped = engine.totals()["drop_control_queue"]
        assert dropped > 0
        assert len(seen) + dropped == 2020
        assert not select.select([engine.control_fd], [], [], 0)[0]
        stranger.sendto(flood, server)
        assert len(wait_control(engine)) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_one_client_has_its_share_of_the_control_plane(workers: int) -> None:
    request = encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12), [])
    with running_engine(workers=workers) as engine, udp_socket() as peer:
        session = engine.open_session()
        loud, quiet = Client(engine, session), Client(engine, session)
        loud.bind(address_of(peer))
        begun_s = time.clock_gettime(time.CLOCK_MONOTONIC)
        sent = 0
        while sent < 4 * CONTROL_PER_SECOND:
            for _ in range(100):
                loud.socket.send(request)
            sent += 100
            wait_for_total(engine, "packets_received", sent)
        quiet.socket.send(request)
        wait_for_total(engine, "packets_received", sent + 1)
        ended_s = time.clock_gettime(time.CLOCK_MONOTONIC)
        # All of it is there, but what is over the share comes after what others ask for.
        asked = [one.five_tuple for one in datagrams_of(engine)]
        assert Counter(asked) == {loud.five_tuple: sent, quiet.five_tuple: 1}
        seconds = int(ended_s) - int(begun_s) + 1
        assert asked.index(quiet.five_tuple) <= seconds * CONTROL_PER_SECOND
        # A full ring alone drops, and that costs nobody else anything.
        heard = 0
        while not engine.totals()["drop_control_queue"]:
            assert heard < 100 * CONTROL_PER_SECOND
            for _ in range(100):
                loud.socket.send(request)
            heard += 100
            wait_for_total(engine, "packets_received", sent + 1 + heard)
        loud.send_channel(b"media")
        assert peer.recv(100) == b"media"
        quiet.socket.send(request)
        wait_for_total(engine, "packets_received", sent + heard + 3)
        asked = [one.five_tuple for one in datagrams_of(engine)]
        assert asked.count(quiet.five_tuple) == 1
        assert len(asked) + engine.totals()["drop_control_queue"] == heard + 1


def test_large_datagrams_are_no_way_to_fill_the_rings() -> None:
    def request(size: int) -> bytes:
        attribute = (Attribute.DATA, bytes(size - 24))
        return encode_message(Method.ALLOCATE, MessageClass.REQUEST, bytes(12), [attribute])

    with running_engine() as engine, udp_socket() as stranger:
        server = (engine.listening[0].host, engine.listening[0].port)
        for _ in range(50):
            stranger.sendto(request(60_000), server)
            stranger.sendto(request(STRANGER_BYTES + 4), server)
        wait_for_total(engine, "drop_malformed", 100)
        stranger.sendto(request(STRANGER_BYTES), server)
        (datagram,) = wait_control(engine)
        assert isinstance(datagram, ControlDatagram)
        assert len(datagram.payload) == STRANGER_BYTES
        # Who has an allocation may send them, and has his share used up so much the sooner.
        client = Client(engine, engine.open_session())
        begun_s = time.clock_gettime(time.CLOCK_MONOTONIC)
        heard = 0
        while not engine.totals()["drop_control_queue"]:
            client.socket.send(request(60_000))
            heard += 1
            wait_for_total(engine, "packets_received", 101 + heard)
            datagrams_of(engine)
        ended_s = time.clock_gettime(time.CLOCK_MONOTONIC)
        seconds = int(ended_s) - int(begun_s) + 1
        each = -(-60_000 // STRANGER_BYTES)
        assert CONTROL_PER_SECOND // each <= heard - 1 <= seconds * CONTROL_PER_SECOND // each
        client.socket.send(request(STRANGER_BYTES))
        (datagram,) = wait_control(engine)
        assert isinstance(datagram, ControlDatagram)
        assert datagram.five_tuple == client.five_tuple


def test_receive_says_when_something_is_left() -> None:
    request = encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12), [])
    with running_engine() as engine, udp_socket() as stranger:
        for _ in range(10):
            stranger.sendto(request, (engine.listening[0].host, engine.listening[0].port))
        wait_for_total(engine, "control_datagrams", 10)
        total = 0
        while select.select([engine.control_fd], [], [], 0.2)[0]:
            batch = engine.receive(3)
            assert len(batch) <= 3
            total += len(batch)
        assert total == 10
