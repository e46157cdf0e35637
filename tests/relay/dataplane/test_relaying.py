"""What passes between clients and peers over real sockets, and what does not."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from contextlib import ExitStack
from pathlib import Path

import pytest

from core.stun.address import Address
from core.stun.constants import MessageClass, Method
from core.stun.message import encode_message
from relay.dataplane.interface import (
    OWN_ALLOWED,
    OWN_NO,
    OWN_RELAYS_ONLY,
    ControlDatagram,
)
from tests.support.engine import (
    CHANNEL,
    FAR_NS,
    PAST_NS,
    Client,
    address,
    address_of,
    data_of,
    join,
    open_relay,
    running_engine,
    socket_at,
    udp_socket,
    wait_control,
    wait_for_total,
)
from tests.support.turn_client import send_indication

# Of Linux; Python's socket module does not name them.
IPV6_MTU = 24


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_plain_peer_by_channel_and_by_send(host: str, workers: int) -> None:
    with running_engine(workers=workers) as engine, udp_socket(host) as peer:
        session = engine.open_session()
        client = Client(engine, session, host=host, relay_hosts=[host])
        client.permit(address_of(peer))
        client.socket.send(send_indication(address_of(peer), b"by Send"))
        data, sender = peer.recvfrom(100)
        assert (data, sender[1]) == (b"by Send", client.relay.port)
        peer.sendto(b"indicated", (client.relay.host, client.relay.port))
        assert data_of(client.receive()) == (address_of(peer), b"indicated")
        client.bind(address_of(peer))
        for payload in (b"", b"x", b"by channel"):
            client.send_channel(payload)
            assert peer.recv(100) == payload
            peer.sendto(payload, (client.relay.host, client.relay.port))
            assert client.receive() == b"\x40\x00" + len(payload).to_bytes(2, "big") + payload
        # Padding may follow ChannelData over UDP as well.
        client.socket.send(b"\x40\x00\x00\x01x\0\0\0")
        assert peer.recv(100) == b"x"
        totals = engine.totals()
        assert (totals["packets_to_peer"], totals["packets_to_client"]) == (5, 4)
        assert totals["short_cuts"] == 0


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("one_host", "other_host", "relay_host"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("::1", "::1", "::1"),
        ("127.0.0.1", "::1", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", "::1"),
    ],
)
def test_the_short_cut(workers: int, one_host: str, other_host: str, relay_host: str) -> None:
    with running_engine(workers=workers) as engine:
        session = engine.open_session()
        for _ in range(4):  # enough that the clients land on different workers
            one = Client(engine, session, host=one_host, relay_hosts=[relay_host])
            other = Client(engine, session, host=other_host, relay_hosts=[relay_host])
            before = engine.totals()["short_cuts"]
            one.permit(other.relay, own=OWN_RELAYS_ONLY)
            one.socket.send(send_indication(other.relay, b"not permitted by the far side"))
            wait_for_total(engine, "short_cuts", before + 1)
            other.permit(one.relay, own=OWN_RELAYS_ONLY)
            one.socket.send(send_indication(other.relay, b"Send to indication"))
            assert data_of(other.receive()) == (one.relay, b"Send to indication")
            one.bind(other.relay, own=OWN_RELAYS_ONLY)
            one.send_channel(b"channel to indication")
            assert data_of(other.receive()) == (one.relay, b"channel to indication")
            other.bind(one.relay, 0x4777, own=OWN_RELAYS_ONLY)
            one.send_channel(b"channel to channel")
            assert other.receive() == b"\x47\x77\x00\x12channel to channel"
            one.socket.send(send_indication(other.relay, b"Send to channel"))
            assert other.receive() == b"\x47\x77\x00\x0fSend to channel"
            assert engine.totals()["short_cuts"] == before + 5
        assert engine.totals()["drop_no_permission"] == 4


def test_behind_nat_the_outer_address_is_read_and_shown() -> None:
    outer = b"\xcb\x00\x71\x07"
    with running_engine(external={b"\x7f\x00\x00\x01": outer}) as engine:
        session = engine.open_session()
        one, other = Client(engine, session), Client(engine, session)
        one.permit(other.relay, own=OWN_RELAYS_ONLY)
        other.permit(one.relay, own=OWN_RELAYS_ONLY)
        one.socket.send(send_indication(Address(outer, other.relay.port), b"by the outer name"))
        assert data_of(other.receive()) == (
            Address(outer, one.relay.port),
            b"by the outer name",
        )


def test_expired_entries_forward_nothing() -> None:
    with running_engine() as engine, udp_socket() as peer:
        session = engine.open_session()
        client = Client(engine, session)
        target = address_of(peer)
        relay = (client.relay.host, client.relay.port)
        client.bind(target)

        client.permit(target, expires_ns=PAST_NS)
        client.send_channel(b"no permission")
        wait_for_total(engine, "drop_expired", 1)
        client.socket.send(send_indication(target, b"no permission"))
        wait_for_total(engine, "drop_expired", 2)
        peer.sendto(b"no permission", relay)
        wait_for_total(engine, "drop_expired", 3)

        client.permit(target)
        client.send_channel(b"revived")
        assert peer.recv(100) == b"revived"

        engine.install_channel(client.allocation, CHANNEL, target, PAST_NS)
        client.send_channel(b"no channel")
        wait_for_total(engine, "drop_expired", 4)
        peer.sendto(b"by permission", relay)
        assert data_of(client.receive()) == (target, b"by permission")

        engine.install_channel(client.allocation, CHANNEL, target, FAR_NS)
        engine.refresh_allocation(client.allocation, PAST_NS)
        client.send_channel(b"no allocation")
        wait_for_total(engine, "drop_expired", 5)
        peer.sendto(b"no allocation", relay)
        wait_for_total(engine, "drop_expired", 6)

        engine.refresh_allocation(client.allocation, FAR_NS)
        engine.remove_channel(client.allocation, CHANNEL)
        client.send_channel(b"removed")
        wait_for_total(engine, "drop_no_channel", 1)
        engine.remove_permission(client.allocation, target.ip)
        peer.sendto(b"removed", relay)
        wait_for_total(engine, "drop_no_permission", 1)


def test_own_addresses_have_relays_alone_unless_allowed() -> None:
    with running_engine() as engine, udp_socket() as service:
        session = engine.open_session()
        client = Client(engine, session)
        here = address_of(service)
        client.bind(here, own=OWN_RELAYS_ONLY)
        client.send_channel(b"to a service of the machine")
        client.socket.send(send_indication(here, b"to a service of the machine"))
        wait_for_total(engine, "drop_forbidden", 2)
        # A relay that no allocation owns yet is none either.
        handle, lonely = open_relay(engine, "127.0.0.1")
        client.socket.send(send_indication(lonely, b"too early"))
        wait_for_total(engine, "drop_forbidden", 3)
        engine.close_relay(handle)
        client.permit(here, own=OWN_ALLOWED)
        client.send_channel(b"allowed")
        assert service.recv(100) == b"allowed"
        client.socket.send(send_indication(engine.listening[0], b"to the listener itself"))
        wait_for_total(engine, "drop_forbidden", 4)


def test_an_unpermitted_and_an_unknown_sender_reach_nobody() -> None:
    with running_engine() as engine, udp_socket() as peer, udp_socket() as stranger:
        session = engine.open_session()
        client = Client(engine, session)
        peer.sendto(b"uninvited", (client.relay.host, client.relay.port))
        wait_for_total(engine, "drop_no_permission", 1)
        client.send_channel(b"no such channel")
        wait_for_total(engine, "drop_no_channel", 1)
        client.socket.send(send_indication(address_of(peer), b"no permission"))
        wait_for_total(engine, "drop_no_permission", 2)
        server = engine.listening[0]
        stranger.sendto(b"\x40\x00\x00\x01x", (server.host, server.port))
        stranger.sendto(send_indication(address_of(peer), b"x"), (server.host, server.port))
        wait_for_total(engine, "drop_no_allocation", 2)
        client.socket.send(b"\x16\xfe\xff is DTLS")
        wait_for_total(engine, "drop_malformed", 1)


def test_a_limited_rate_drops_what_is_over_it() -> None:
    with running_engine() as engine, udp_socket() as peer:
        session = engine.open_session()
        client = Client(engine, session, rate_bytes_s=50_000)
        client.bind(address_of(peer))
        for _ in range(100):
            client.send_channel(bytes(1000))
        wait_for_total(engine, "packets_received", 100)
        totals = engine.totals()
        # A tenth of a second's worth at once, and what the sending took.
        assert 5 <= totals["packets_to_peer"] < 60
        assert totals["packets_to_peer"] + totals["drop_rate"] == 100
        for _ in range(100):
            peer.sendto(bytes(1000), (client.relay.host, client.relay.port))
        wait_for_total(engine, "packets_received", 200)
        totals = engine.totals()
        assert totals["packets_to_client"] >= 5
        assert totals["drop_rate"] > 80


def test_the_rate_of_what_lives_already_changes() -> None:
    with running_engine() as engine, udp_socket() as peer:
        client = Client(engine, engine.open_session(), rate_bytes_s=1)
        client.bind(address_of(peer))
        relay = (client.relay.host, client.relay.port)
        for _ in range(2):
            client.send_channel(bytes(1000))
            peer.sendto(bytes(1000), relay)
        # The first packet of each direction took a thousand seconds' worth.
        wait_for_total(engine, "drop_rate", 2)
        assert len(peer.recv(2000)) == 1000
        client.receive()
        engine.set_rate(client.allocation, 0)
        for _ in range(50):
            client.send_channel(bytes(1000))
            peer.sendto(bytes(1000), relay)
        wait_for_total(engine, "packets_received", 104)
        assert engine.totals()["drop_rate"] == 2
        engine.set_rate(client.allocation, 1)
        for number in range(2):
            client.send_channel(bytes(1000))
            peer.sendto(bytes(1000), relay)
            # The same limit again forgives nothing.
            engine.set_rate(client.allocation, 1)
            wait_for_total(engine, "packets_received", 106 + 2 * number)
        wait_for_total(engine, "drop_rate", 4)


@pytest.mark.parametrize("size", [0, 1, 171, 1200, 1472, 1473, 9000, 60_000, 65_503])
def test_payloads_of_all_sizes(size: int) -> None:
    payload = os.urandom(size)
    with running_engine() as engine, udp_socket() as peer:
        session = engine.open_session()
        one, other = Client(engine, session), Client(engine, session)
        join(one, other)
        one.bind(address_of(peer), 0x4001)
        one.send_channel(payload)
        assert other.receive()[4:] == payload
        one.send_channel(payload, 0x4001)
        assert peer.recv(70_000) == payload
        peer.sendto(payload, (one.relay.host, one.relay.port))
        assert one.receive()[4:] == payload


def test_what_no_datagram_can_hold_is_dropped_and_counted() -> None:
    with running_engine() as engine, udp_socket() as peer:
        session = engine.open_session()
        client = Client(engine, session)
        client.permit(address_of(peer))
        # As a Data indication it would exceed 65,507 bytes.
        peer.sendto(bytes(65_490), (client.relay.host, client.relay.port))
        wait_for_total(engine, "drop_message_size", 1)
        peer.sendto(b"still alive", (client.relay.host, client.relay.port))
        assert data_of(client.receive())[1] == b"still alive"


def test_trains_of_packets_are_taken_apart_and_joined() -> None:
    """What a sender has joined by UDP_SEGMENT arrives whole, in order, each by itself."""
    with running_engine() as engine, udp_socket() as peer:
        session = engine.open_session()
        one, other = Client(engine, session), Client(engine, session)
        join(one, other)
        one.bind(address_of(peer), 0x4001)
        segment = struct.pack("=H", 104)
        for channel, receiver in ((CHANNEL, other.socket), (0x4001, peer)):
            packets = [
                channel.to_bytes(2, "big") + b"\x00\x64" + bytes([number]) * 100
                for number in range(40)
            ]
            packets[-1] = channel.to_bytes(2, "big") + b"\x00\x03end"
            one.socket.sendmsg([b"".join(packets)], [(socket.SOL_UDP, 103, segment)])
            received = [receiver.recv(2000) for _ in packets]
            expected = [packet if receiver is other.socket else packet[4:] for packet in packets]
            assert received == expected
        relay = (one.relay.host, one.relay.port)
        train = b"".join(bytes([number]) * 100 for number in range(40)) + b"end"
        segment = struct.pack("=H", 100)
        peer.sendmsg([train], [(socket.SOL_UDP, 103, segment)], 0, relay)
        received = [one.receive()[4:] for _ in range(41)]
        assert b"".join(received) == train
        assert engine.totals()["segmented_sends"] > 0


def test_more_packets_and_destinations_than_one_flush_holds() -> None:
    with running_engine(start=False) as engine, ExitStack() as stack:
        client = Client(engine, engine.open_session())
        peers = [stack.enter_context(udp_socket()) for _ in range(150)]
        client.permit(address_of(peers[0]))
        datagrams = [
            send_indication(address_of(peers[number % len(peers)]), b"%04d" % number)
            for number in range(600)
        ]
        # They wait in trains, so that the first batch has them all.
        segment = struct.pack("=H", len(datagrams[0]))
        for first in range(0, len(datagrams), 60):
            train = b"".join(datagrams[first : first + 60])
            client.socket.sendmsg([train], [(socket.SOL_UDP, 103, segment)])
        engine.start()
        for place, peer in enumerate(peers):
            for number in range(place, len(datagrams), len(peers)):
                data, sender = peer.recvfrom(100)
                assert (data, sender[1]) == (b"%04d" % number, client.relay.port)
        assert engine.totals()["packets_to_peer"] == len(datagrams)


def test_a_run_that_is_not_segmented_goes_out_singly() -> None:
    with running_engine() as engine, udp_socket("::1") as peer:
        client = Client(engine, engine.open_session(), relay_hosts=["::1"])
        client.bind(address_of(peer))
        with socket_at(client.relay) as relay:
            # Less than a packet needs: the kernel may fragment it, but no segment of a run.
            relay.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU, 1280)
        payloads = [bytes([number]) * 1400 for number in range(20)]
        train = b"".join(b"\x40\x00\x05\x78" + payload for payload in payloads)
        segment = struct.pack("=H", 1404)
        client.socket.sendmsg([train], [(socket.SOL_UDP, 103, segment)])
        assert [peer.recv(2000) for _ in payloads] == payloads
        totals = engine.totals()
        assert totals["segmented_sends"] == 1
        assert totals["sent_singly"] == len(payloads)
        assert totals["drop_message_size"] == totals["drop_send_error"] == 0


def test_what_a_full_send_buffer_refuses_is_counted() -> None:
    with running_engine() as engine, udp_socket("::1") as peer:
        client = Client(engine, engine.open_session(), relay_hosts=["::1"])
        client.bind(address_of(peer))
        with socket_at(client.relay) as relay:
            # The least that the kernel gives, and fragments that do not fit into it.
            relay.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            relay.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU, 1280)
        client.send_channel(bytes(60_000))
        wait_for_total(engine, "drop_send_buffer", 1)
        client.send_channel(b"still alive")
        assert peer.recv(100) == b"still alive"


def test_what_the_kernel_refuses_to_send_is_counted_and_stops_nothing() -> None:
    with running_engine(start=False) as engine, udp_socket() as peer:
        client = Client(engine, engine.open_session())
        client.bind(address_of(peer))
        # To a broadcast address only sockets send that have said so.
        client.bind(address("127.255.255.255", 9), CHANNEL + 1)
        client.send_channel(b"before")
        refused = [b"\x40\x01\x00\x64" + bytes(100) for _ in range(40)]
        segment = struct.pack("=H", 104)
        client.socket.sendmsg([b"".join(refused)], [(socket.SOL_UDP, 103, segment)])
        client.send_channel(b"after", CHANNEL)
        engine.start()
        assert [peer.recv(100), peer.recv(100)] == [b"before", b"after"]
        wait_for_total(engine, "drop_send_error", len(refused))
        assert engine.totals()["drop_send_error"] == len(refused)


def test_a_wildcard_listener_answers_from_the_address_that_was_asked() -> None:
    with running_engine(listen=["0.0.0.0"]) as engine:
        session = engine.open_session()
        # The sockets are connected: an answer from another address would not arrive.
        one = Client(engine, session, server_host="127.0.0.2")
        other = Client(engine, session, server_host="127.0.0.3")
        join(one, other)
        one.send_channel(b"from 127.0.0.2 to 127.0.0.3")
        assert other.receive()[4:] == b"from 127.0.0.2 to 127.0.0.3"
        one.socket.send(encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12), []))
        (datagram,) = wait_control(engine)
        assert isinstance(datagram, ControlDatagram)
        assert datagram.five_tuple == one.five_tuple
        engine.reply(datagram.five_tuple, b"answer")
        engine.flush_replies()
        assert one.receive() == b"answer"


def test_a_link_local_client_is_dropped_by_its_own_cause() -> None:
    lines = Path("/proc/net/if_inet6").read_text().splitlines()
    # Address, index, prefix, scope, flags, name: those of a link, but the tentative ones (0x40),
    # which nothing can be sent from.
    found = [
        (str(ipaddress.IPv6Address(bytes.fromhex(fields[0]))), int(fields[1], 16))
        for fields in map(str.split, lines)
        if fields[3] == "20" and not int(fields[4], 16) & 0x40
    ]
    request = encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12), [])
    with running_engine(listen=["::"]) as engine, udp_socket("::1") as stranger:
        port = engine.listening[0].port
        # A machine without such an address has no such client: test_packet.py has the rule.
        for number, (host, interface) in enumerate(found, 1):
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
                client.bind((host, 0, 0, interface))
                client.sendto(request, (host, port, 0, interface))
            wait_for_total(engine, "drop_link_local", number)
        stranger.sendto(request, ("::1", port))
        (datagram,) = wait_control(engine)
        assert isinstance(datagram, ControlDatagram)
        assert datagram.five_tuple.client == address_of(stranger)


def test_a_peer_that_is_not_ours_is_sent_to_by_the_right_family() -> None:
    with running_engine() as engine, udp_socket("::1") as peer:
        session = engine.open_session()
        client = Client(engine, session, relay_hosts=["127.0.0.1", "::1"])
        client.bind(address_of(peer), own=OWN_NO)
        client.send_channel(b"by IPv6")
        data, sender = peer.recvfrom(100)
        assert (data, sender[1]) == (b"by IPv6", client.relayed[1].port)
