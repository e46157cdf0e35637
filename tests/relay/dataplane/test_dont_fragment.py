"""DONT-FRAGMENT in Send indications, and the kernel's and routers' answers to it."""

from __future__ import annotations

import socket
import struct

import pytest

from core.stun.constants import Attribute
from relay.dataplane.interface import (
    OWN_RELAYS_ONLY,
    ControlDatagram,
    IcmpError,
)
from tests.support.engine import (
    PAST_NS,
    Client,
    address_of,
    fragmentation_needed,
    gone_peer,
    join,
    only_with_df,
    running_engine,
    socket_at,
    udp_socket,
    wait_control,
    wait_for_total,
)
from tests.support.turn_client import send_indication

DONT_FRAGMENT = (int(Attribute.DONT_FRAGMENT), b"")
# Of Linux; Python's socket module does not name them.
IP_MTU_DISCOVER = 10
IP_PMTUDISC_OMIT = 5
IPV6_MTU_DISCOVER = 23
IPV6_PMTUDISC_DONT = 0
IPV6_MTU = 24


def test_sends_that_came_another_way() -> None:
    with running_engine() as engine, udp_socket() as peer:
        session = engine.open_session()
        one, other = Client(engine, session), Client(engine, session)
        one.permit(address_of(peer))
        engine.send_to_peer(one.allocation, address_of(peer), b"fragments", False)
        assert peer.recv(100) == b"fragments"
        engine.send_to_peer(one.allocation, address_of(peer), b"does not", True)
        assert peer.recv(100) == b"does not"
        engine.send_to_peer(one.allocation, address_of(peer), bytes(65_507), False)
        assert len(peer.recv(70_000)) == 65_507
        join(one, other)
        engine.send_to_peer(one.allocation, other.relay, b"by the short-cut", True)
        assert other.receive()[4:] == b"by the short-cut"
        assert engine.totals()["packets_to_peer"] == 4


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_only_the_send_that_asks_for_it_is_not_fragmented(host: str) -> None:
    with running_engine(start=False) as engine, udp_socket(host) as peer:
        client = Client(engine, engine.open_session(), relay_hosts=[host])
        client.permit(address_of(peer))
        with socket_at(client.relay) as relay:
            mode = (
                (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER)
                if relay.family == socket.AF_INET6
                else (socket.IPPROTO_IP, IP_MTU_DISCOVER)
            )
            # Neither sets DF, and in neither is an error discarded that a router has sent: with
            # IP_PMTUDISC_DONT the kernel does so for IPv4, with IPV6_PMTUDISC_OMIT for IPv6.
            idle = IPV6_PMTUDISC_DONT if relay.family == socket.AF_INET6 else IP_PMTUDISC_OMIT
            assert relay.getsockopt(*mode) == idle
            engine.send_to_peer(client.allocation, address_of(peer), b"whole", True)
            assert peer.recv(100) == b"whole"
            assert relay.getsockopt(*mode) == idle


def test_a_router_that_would_have_to_fragment_is_reported_and_costs_nothing() -> None:
    with running_engine(start=False) as engine, udp_socket("127.9.9.9") as peer:
        nobody = gone_peer("127.9.9.9")
        client = Client(engine, engine.open_session())
        client.permit(address_of(peer))
        try:
            router = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        except PermissionError:
            # Without CAP_NET_RAW nobody can play the router; an error that the kernel itself
            # gives stays on the socket in the same way.
            expected = IcmpError(client.allocation, nobody, 3, 3, 0)
            engine.send_to_peer(client.allocation, nobody, b"anybody?", True)
        else:
            expected = IcmpError(client.allocation, address_of(peer), 3, 4, 1300)
            with router:
                engine.send_to_peer(client.allocation, address_of(peer), b"whole", True)
                assert peer.recv(100) == b"whole"
                router.sendto(
                    fragmentation_needed(client.relay, address_of(peer), mtu_bytes=1300),
                    (client.relay.host, 0),
                )
        # No worker has read the error: the socket has it ready for whatever is sent next.
        engine.send_to_peer(client.allocation, address_of(peer), b"another", False)
        assert peer.recv(100) == b"another"
        assert engine.totals()["drop_message_size"] == 0
        engine.start()
        assert wait_control(engine) == [expected]


def test_a_send_with_dont_fragment_leaves_with_df_and_no_other_does() -> None:
    with (
        running_engine(start=False) as engine,
        udp_socket() as whole,
        udp_socket() as any_way,
    ):
        client = Client(engine, engine.open_session())
        client.permit(address_of(whole))
        # Of what is sent to both alike each takes its half alone.
        only_with_df(whole, True)
        only_with_df(any_way, False)
        number = 0
        for _ in range(30):
            numbers = range(number, number + 100)
            for number in numbers:
                for peer in (whole, any_way):
                    more = [DONT_FRAGMENT] if number % 3 else []
                    datagram = send_indication(address_of(peer), b"%d" % number, more)
                    client.socket.send(datagram)
            if numbers[0] == 0:
                # The first ones have waited, and are one batch.
                engine.start()
            assert [int(whole.recv(100)) for number in numbers if number % 3] == [
                number for number in numbers if number % 3
            ]
            assert [int(any_way.recv(100)) for number in numbers if not number % 3] == [
                number for number in numbers if not number % 3
            ]
            number += 1
        # What came another way.
        engine.send_to_peer(client.allocation, address_of(any_way), b"any way", False)
        engine.send_to_peer(client.allocation, address_of(whole), b"whole", True)
        assert (any_way.recv(100), whole.recv(100)) == (b"any way", b"whole")
        totals = engine.totals()
        assert totals["packets_to_peer"] == 6002
        assert totals["control_datagrams"] == 0


def test_sends_with_dont_fragment_have_no_share_to_exhaust() -> None:
    with running_engine() as engine, udp_socket() as peer:
        client = Client(engine, engine.open_session())
        client.permit(address_of(peer))
        for first in range(0, 3000, 100):
            for number in range(first, first + 100):
                client.socket.send(
                    send_indication(address_of(peer), b"%d" % number, [DONT_FRAGMENT])
                )
            for number in range(first, first + 100):
                assert int(peer.recv(100)) == number
        assert engine.totals()["control_datagrams"] == 0


def test_dont_fragment_is_held_to_the_mtu() -> None:
    with running_engine() as engine, udp_socket("::1") as peer:
        session = engine.open_session()
        client = Client(engine, session, relay_hosts=["::1"])
        far = Client(engine, session, relay_hosts=["::1"])
        join(client, far)
        client.permit(address_of(peer))
        with socket_at(client.relay) as relay:
            relay.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU, 1280)
        too_large = bytes(1400)
        target = address_of(peer)
        for count in range(1, 4):
            for datagram in (
                send_indication(target, too_large, [DONT_FRAGMENT]),
                send_indication(target, too_large),
                send_indication(target, b"fits", [DONT_FRAGMENT]),
            ):
                client.socket.send(datagram)
            assert [peer.recv(2000), peer.recv(2000)] == [too_large, b"fits"]
            wait_for_total(engine, "drop_message_size", count)
        # A run of them is refused packet by packet, and so is one that came another way.
        datagram = send_indication(target, too_large, [DONT_FRAGMENT])
        segment = struct.pack("=H", len(datagram))
        client.socket.sendmsg([datagram * 10], [(socket.SOL_UDP, 103, segment)])
        wait_for_total(engine, "drop_message_size", 13)
        engine.send_to_peer(client.allocation, target, too_large, True)
        assert engine.totals()["drop_message_size"] == 14
        # Nothing is between two of our own relays.
        client.socket.send(send_indication(far.relay, too_large, [DONT_FRAGMENT]))
        assert far.receive()[4:] == too_large


def test_dont_fragment_frees_a_send_from_no_rule() -> None:
    with running_engine() as engine, udp_socket() as peer:
        client = Client(engine, engine.open_session(), rate_bytes_s=1)
        datagram = send_indication(address_of(peer), bytes(1000), [DONT_FRAGMENT])
        client.socket.send(datagram)
        wait_for_total(engine, "drop_no_permission", 1)
        client.permit(address_of(peer), own=OWN_RELAYS_ONLY)
        client.socket.send(datagram)
        wait_for_total(engine, "drop_forbidden", 1)
        client.permit(address_of(peer), expires_ns=PAST_NS)
        client.socket.send(datagram)
        wait_for_total(engine, "drop_expired", 1)
        client.permit(address_of(peer))
        client.socket.send(datagram)
        client.socket.send(datagram)
        wait_for_total(engine, "drop_rate", 1)
        assert len(peer.recv(2000)) == 1000


def test_a_send_that_the_packet_path_does_not_know_goes_the_long_way() -> None:
    with running_engine() as engine, udp_socket() as peer:
        client = Client(engine, engine.open_session())
        client.permit(address_of(peer))
        for more in ((int(Attribute.DONT_FRAGMENT), bytes(4)), (0x7001, b"")):
            sent = send_indication(address_of(peer), b"odd", [more])
            client.socket.send(sent)
            assert wait_control(engine) == [ControlDatagram(client.five_tuple, sent)]
