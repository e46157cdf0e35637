"""The data plane with real sockets: what passes, what does not, and what is counted."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.generator import Generator, bucket_starts_ns
from bench.path import Path as TrafficPath
from core.stun.address import Address, FiveTuple
from core.stun.attributes import decode_xor_address_untrusted
from core.stun.constants import Attribute, MessageClass, Method
from core.stun.message import decode_message_untrusted, encode_message
from relay.dataplane.interface import (
    OWN_ALLOWED,
    OWN_NO,
    OWN_RELAYS_ONLY,
    ControlDatagram,
    IcmpError,
    RelayUnavailable,
)
from relay.dataplane.sockets import CONTROL_PER_SECOND, STRANGER_BYTES, SocketDataPlane
from tests.support.engine import (
    CHANNEL,
    FAR_NS,
    TIMEOUT_S,
    Client,
    address,
    address_of,
    join,
    open_relay,
    running_engine,
    udp_socket,
    wait_for_total,
)
from tests.support.turn_client import send_indication

PAST_NS = 1
DONT_FRAGMENT = (int(Attribute.DONT_FRAGMENT), b"")
# Of Linux; Python's socket module does not name them.
SO_ATTACH_FILTER = 26
IP_RECVERR = 11
IP_MTU_DISCOVER = 10
IP_PMTUDISC_OMIT = 5
IPV6_MTU_DISCOVER = 23
IPV6_PMTUDISC_DONT = 0
IPV6_MTU = 24


def bind_again(engine: SocketDataPlane, bound: Address) -> int:
    """Bind a relay to an address whose last socket may still wait for a worker's batch to end."""
    for _ in range(100):
        try:
            return engine.open_relay(bound)
        except RelayUnavailable:
            time.sleep(0.01)
    raise AssertionError(f"{bound} stayed taken")


def data_of(datagram: bytes) -> tuple[Address, bytes]:
    """Peer and payload of a Data indication."""
    message = decode_message_untrusted(datagram)
    assert (message.method, message.message_class) == (Method.DATA, MessageClass.INDICATION)
    peer, data = message.first(Attribute.XOR_PEER_ADDRESS), message.first(Attribute.DATA)
    assert peer is not None
    assert data is not None
    return decode_xor_address_untrusted(peer, message.transaction_id), data


@contextmanager
def socket_at(bound: Address) -> Iterator[socket.socket]:
    """Another descriptor of this process's socket that is bound to an address."""
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:
            continue
        with found:
            if found.type == socket.SOCK_DGRAM and address_of(found) == bound:
                yield found
                return
    raise AssertionError(f"no socket at {bound}")


def only_with_df(bound: socket.socket, wanted: bool) -> None:
    """Have the kernel discard what comes over IPv4 with another DF than this."""
    load, test, give = 0x28, 0x45, 0x06
    whole, nothing = 0xFFFF_FFFF, 0
    instructions = [
        (load, 0, 0, 0xFFF0_0000 + 6),  # 16 bits of the IP header, counted from its begin
        (test, 0, 1, 0x4000),
        (give, 0, 0, whole if wanted else nothing),
        (give, 0, 0, nothing if wanted else whole),
    ]
    program = ctypes.create_string_buffer(
        b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    )
    pointed = struct.pack("@HP", len(instructions), ctypes.addressof(program))
    bound.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, pointed)


def fragmentation_needed(sender: Address, receiver: Address, *, mtu_bytes: int) -> bytes:
    """An ICMP message as a router sends it for a UDP packet with DF (RFC 792, RFC 1191)."""
    udp = struct.pack("!HHHH", sender.port, receiver.port, 1408, 0)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 1428, 1, 0x4000, 64, socket.IPPROTO_UDP, 0)
    quoted = ip + sender.ip + receiver.ip + udp
    total = sum(struct.unpack(f"!{len(quoted) // 2}H", quoted)) + 0x0304 + mtu_bytes
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBHHH", 3, 4, 0xFFFF - total, 0, mtu_bytes) + quoted


def wait_control(engine: SocketDataPlane) -> list[ControlDatagram | IcmpError]:
    assert select.select([engine.control_fd], [], [], 5)[0]
    return engine.receive(100)


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


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_icmp_errors_come_to_the_control_plane(host: str) -> None:
    with running_engine() as engine:
        session = engine.open_session()
        client = Client(engine, session, host=host, relay_hosts=[host])
        with udp_socket(host) as gone:
            nobody = address_of(gone)
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
        with udp_socket("127.0.0.2") as gone:
            nobody = address_of(gone)
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
        with udp_socket() as gone:
            nobody = address_of(gone)
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


def wakeups_of(engine: SocketDataPlane) -> int:
    """How often its workers wake up while nothing is asked of them."""
    time.sleep(0.05)
    before = engine.totals()["wakeups"]
    time.sleep(0.2)
    return engine.totals()["wakeups"] - before


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_error_of_a_relay_that_nobody_owns_wakes_nobody(host: str) -> None:
    with running_engine() as engine, udp_socket(host) as peer:
        with udp_socket(host) as gone:
            nobody = address_of(gone)
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
        with udp_socket() as gone:
            nobody = address_of(gone)
        with socket_at(client.relay) as relay:
            # As when the worker has taken the cause before the kernel has set the error.
            relay.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 0)
            relay.connect((nobody.host, nobody.port))
            relay.send(b"anybody?")
            assert wakeups_of(engine) <= 1


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
        with udp_socket("127.9.9.9") as gone:
            nobody = address_of(gone)
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


def datagrams_of(engine: SocketDataPlane) -> list[ControlDatagram]:
    """All that waits for the control plane."""
    return [one for one in engine.receive(100_000) if isinstance(one, ControlDatagram)]


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


def test_the_errors_of_an_allocations_peers_are_bounded_too() -> None:
    with running_engine() as engine:
        session = engine.open_session()
        client = Client(engine, session)
        with udp_socket() as gone:
            nobody = address_of(gone)
        client.bind(nobody)
        errors = 0
        until = time.monotonic() + 4 * TIMEOUT_S
        while not engine.totals()["drop_icmp_rate"]:
            assert time.monotonic() < until
            client.send_channel(b"anybody?")
            errors += len(engine.receive(100))
        assert errors >= CONTROL_PER_SECOND
        client.socket.send(encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12), []))
        while not any(isinstance(one, ControlDatagram) for one in wait_control(engine)):
            pass


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
    for start in (True, False) * 5:
        with running_engine(workers=2, start=start) as engine:
            session = engine.open_session()
            client = Client(engine, session, relay_hosts=["127.0.0.1", "::1"])
            open_relay(engine, "127.0.0.1")
            client.socket.close()
    assert descriptors() == before
    assert threading.active_count() == 1


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


def test_active_seconds_are_counted_once_a_session() -> None:
    stun = encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12), [])
    with running_engine(workers=2) as engine, udp_socket() as peer:
        session, idle = engine.open_session(), engine.open_session()
        clients = [Client(engine, session) for _ in range(4)]
        quiet = Client(engine, idle)
        for client in (*clients, quiet):
            client.bind(address_of(peer))
        begun = time.clock_gettime(time.CLOCK_MONOTONIC)
        while time.clock_gettime(time.CLOCK_MONOTONIC) < begun + 2.2:
            for client in clients:
                client.send_channel(b"media")
                peer.recv(100)
            quiet.send_channel(stun)
            peer.recv(100)
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


def test_a_peer_that_is_not_ours_is_sent_to_by_the_right_family() -> None:
    with running_engine() as engine, udp_socket("::1") as peer:
        session = engine.open_session()
        client = Client(engine, session, relay_hosts=["127.0.0.1", "::1"])
        client.bind(address_of(peer), own=OWN_NO)
        client.send_channel(b"by IPv6")
        data, sender = peer.recvfrom(100)
        assert (data, sender[1]) == (b"by IPv6", client.relayed[1].port)


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
