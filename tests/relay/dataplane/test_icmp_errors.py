"""ICMP errors that relayed packets draw: who hears of them, and whom they wake."""

from __future__ import annotations

import select
import socket
import time

import pytest

from core.stun.address import FiveTuple
from core.stun.constants import MessageClass, Method
from core.stun.message import encode_message
from relay.dataplane.interface import (
    OWN_ALLOWED,
    ControlDatagram,
    IcmpError,
    RelayUnavailable,
)
from relay.dataplane.sockets import CONTROL_PER_SECOND
from tests.support.engine import (
    FAR_NS,
    PAST_NS,
    TIMEOUT_S,
    Client,
    address_of,
    bind_again,
    data_of,
    gone_peer,
    open_relay,
    running_engine,
    socket_at,
    udp_socket,
    wait_control,
    wait_for_total,
    wakeups_of,
)
from tests.support.turn_client import send_indication

# Of Linux; Python's socket module does not name them.
IP_RECVERR = 11


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_icmp_errors_come_to_the_control_plane(host: str) -> None:
    with running_engine() as engine:
        session = engine.open_session()
        client = Client(engine, session, host=host, relay_hosts=[host])
        nobody = gone_peer(host)
        client.bind(nobody)
        client.send_channel(b"anybody?")
        (error,) = wait_control(engine)
        icmp = (3, 3) if host == "127.0.0.1" else (1, 4)
        assert error == IcmpError(client.allocation, nobody, *icmp, 0)
        # The error that is left on the socket costs no packet.
        with udp_socket(host) as peer:
            client.bind(address_of(peer), 0x4001)
            for number in range(20):
                client.send_channel(b"anybody?")
                client.send_channel(b"%d" % number, 0x4001)
                assert peer.recv(100) == b"%d" % number


def test_errors_of_peers_without_a_permission_are_nobodys() -> None:
    with running_engine() as engine, udp_socket() as peer:
        client = Client(engine, engine.open_session())
        client.permit(address_of(peer))
        nobody = gone_peer("127.0.0.2")
        for number, expires_ns in enumerate((None, PAST_NS), 1):
            if expires_ns is not None:
                client.permit(nobody, expires_ns=expires_ns)
            with socket_at(client.relay) as relay:
                relay.sendto(b"anybody?", (nobody.host, nobody.port))
            wait_for_total(engine, "drop_no_permission", number)
        assert engine.receive(100) == []
        client.permit(nobody)
        client.socket.send(send_indication(nobody, b"anybody?"))
        assert wait_control(engine) == [IcmpError(client.allocation, nobody, 3, 3, 0)]


@pytest.mark.parametrize("reused", [False, True])
def test_an_error_is_not_booked_to_the_next_owner_of_a_slot(reused: bool) -> None:
    with running_engine() as engine:
        session = engine.open_session()
        client = Client(engine, session)
        nobody = gone_peer()
        client.bind(nobody)
        client.send_channel(b"anybody?")
        assert select.select([engine.control_fd], [], [], TIMEOUT_S)[0]
        client.close()
        heir: Client | None = None
        until = time.monotonic() + TIMEOUT_S
        while reused and (heir is None or heir.allocation != client.allocation):
            assert time.monotonic() < until
            heir = Client(engine, session)
            heir.bind(nobody)
        assert engine.receive(100) == []
        if heir is not None:
            heir.send_channel(b"anybody?")
            assert wait_control(engine) == [IcmpError(heir.allocation, nobody, 3, 3, 0)]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_error_of_a_relay_that_nobody_owns_wakes_nobody(host: str) -> None:
    with running_engine() as engine, udp_socket(host) as peer:
        nobody = gone_peer(host)
        session = engine.open_session()
        handle, bound = open_relay(engine, host)
        with socket_at(bound) as relay:
            relay.sendto(b"anybody?", (nobody.host, nobody.port))
        assert wakeups_of(engine) <= 1
        # Whoever owns it then has it whole, and the error is nobody's.
        client = Client(engine, session, host=host, relay_hosts=[host])
        other = udp_socket(host)
        other.connect((client.five_tuple.server.host, client.five_tuple.server.port))
        five_tuple = FiveTuple("udp", address_of(other), client.five_tuple.server)
        # Named twice it is refused by the kernel, and nothing is left of the attempt.
        for _ in range(5):
            with pytest.raises(RelayUnavailable):
                engine.open_allocation(five_tuple, [handle, handle], session, FAR_NS, 0)
        allocation = engine.open_allocation(five_tuple, [handle], session, FAR_NS, 0)
        wait_for_total(engine, "drop_no_permission", 1)
        engine.install_permission(allocation, address_of(peer).ip, FAR_NS, OWN_ALLOWED)
        with other:
            other.send(send_indication(address_of(peer), b"out"))
            data, sender = peer.recvfrom(100)
            assert (data, sender[1]) == (b"out", bound.port)
            peer.sendto(b"back", (bound.host, bound.port))
            assert data_of(other.recv(100)) == (address_of(peer), b"back")
        assert wakeups_of(engine) <= 1
        engine.close_allocation(allocation)
        engine.close_relay(bind_again(engine, bound))


def test_an_error_without_its_cause_wakes_nobody() -> None:
    with running_engine() as engine:
        client = Client(engine, engine.open_session())
        nobody = gone_peer()
        with socket_at(client.relay) as relay:
            # As when the worker has taken the cause before the kernel has set the error.
            relay.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 0)
            relay.connect((nobody.host, nobody.port))
            relay.send(b"anybody?")
            assert wakeups_of(engine) <= 1


def test_the_errors_of_an_allocations_peers_are_bounded_too() -> None:
    with running_engine() as engine:
        session = engine.open_session()
        client = Client(engine, session)
        nobody = gone_peer()
        client.bind(nobody)
        errors = 0
        until = time.monotonic() + 4 * TIMEOUT_S
        while not engine.totals()["drop_icmp_rate"]:
            assert time.monotonic() < until
            client.send_channel(b"anybody?")
            errors += len(engine.receive(100))
        # The one that was dropped is counted before those that came ahead of it are read.
        while heard := engine.receive(100):
            errors += len(heard)
        assert errors >= CONTROL_PER_SECOND
        client.socket.send(encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12), []))
        while not any(isinstance(one, ControlDatagram) for one in wait_control(engine)):
            pass
