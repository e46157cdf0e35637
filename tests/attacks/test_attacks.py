"""The attacks that TURN servers are known to suffer, with their real bytes, against a running node.

Each test is named after an item of the list; after each the node is asked whether it still serves
and has not grown.
"""

from __future__ import annotations

import binascii
import itertools
import os
import random
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from core.stun.address import Address
from core.stun.attributes import encode_channel_number, encode_even_port
from core.stun.constants import Attribute, MessageClass, Method
from core.stun.message import decode_message_untrusted, encode_message
from relay.dataplane.probe import classify
from tests.support.node import USERS, RunningNode, run_montana, running_node, write_config
from tests.support.turn_client import (
    TRANSPORT,
    UdpClient,
    error_of,
    lifetime,
    outcome,
    peer_attribute,
    send_indication,
)

GROWTH_BYTES = 4 * 1024 * 1024
LONG_WAY = (int(Attribute.DONT_FRAGMENT), b"odd")
"""A Send indication that has it is left to the server by the packet path."""


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    """A node like a public one: nothing but its relays is allowed on loopback."""
    with running_node_without_allow() as running:
        yield running


@contextmanager
def running_node_without_allow(**limits: str) -> Iterator[RunningNode]:
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(Path(folder), limits={"error_replies_per_second": "100000", **limits})
        text = config.read_text().replace('allow = ["127.0.0.0/8", "::1/128"]', "allow = []")
        config.write_text(text)
        with running_node(config=config) as running:
            # It has all that it opens for itself once it has answered.
            running.status()
            yield running


@pytest.fixture(autouse=True)
def still_serving(request: pytest.FixtureRequest) -> Iterator[None]:
    if "node" not in request.fixturenames:
        yield
        return
    node: RunningNode = request.getfixturevalue("node")
    resident, descriptors = resident_bytes(node.pid), descriptor_count(node.pid)
    yield
    with client_of(node) as client:
        client.allocate()
        client.close_allocation()
    assert node.process.poll() is None
    assert resident_bytes(node.pid) - resident < GROWTH_BYTES
    # Relays are closed once no worker can still be looking at them: within a second.
    until = time.monotonic() + 5
    while descriptor_count(node.pid) > descriptors and time.monotonic() < until:
        time.sleep(0.05)
    assert descriptor_count(node.pid) <= descriptors
    assert node.status()["allocations"] == 0


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptor_count(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def client_of(node: RunningNode, *, timeout_s: float = 2.0) -> UdpClient:
    return UdpClient(node.turn[0], "alice", USERS["alice"], timeout_s=timeout_s)


def is_silent(client: UdpClient, datagram: bytes) -> bool:
    """Whether nothing comes back: a Binding sent after it is the first to be answered."""
    marker = os.urandom(12)
    client.send(datagram)
    client.send(encode_message(Method.BINDING, MessageClass.REQUEST, marker, []))
    answer = client.receive()
    assert answer is not None
    return answer[8:20] == marker


def test_1_no_start_without_authentication(tmp_path: Path) -> None:
    config = write_config(tmp_path, users={}, secrets=())
    text = config.read_text().replace("secrets = []\n", "")
    config.write_text(text)
    result = run_montana("up", "--config", str(config), check=False)
    assert result.returncode != 0
    assert "secrets" in result.stderr
    assert "Traceback" not in result.stderr


def drops_of(node: RunningNode) -> float:
    """Packets that the node has not relayed, whatever the cause."""
    with closing(HTTPConnection(urlsplit(node.metrics).netloc, timeout=5)) as connection:
        connection.request("GET", "/metrics")
        families = text_string_to_metric_families(connection.getresponse().read().decode())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "montana_dropped_packets_total"
    )


FORBIDDEN_PEERS = [
    "0.0.0.0",
    "127.0.0.1",
    "10.0.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "100::1",
    "2001:db8::1",
    "fec0::1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2001::7f00:1",
    "fe80::1",
    "fc00::1",
    "ff02::1",
]


@pytest.mark.parametrize("host", FORBIDDEN_PEERS)
def test_2_peers_are_canonicalised_then_denied(node: RunningNode, host: str) -> None:
    peer = Address.from_text(host, 8080)
    own_relay_ip = host in ("127.0.0.1", "::1")
    family = b"\x02\0\0\0"
    with client_of(node) as client:
        client.allocate((int(Attribute.ADDITIONAL_ADDRESS_FAMILY), family))
        # The node's own relayed addresses stay possible, by address; ports are checked later.
        assert client.permit(peer) == (0 if own_relay_ip else 403)
        assert client.bind(0x4000, peer) == 403
        dropped = drops_of(node)
        for more in ([], [LONG_WAY]):
            client.send(send_indication(peer, b"secret", more))
        # Both, whether a worker or the server has looked at them.
        deadline_s = time.monotonic() + 5
        while drops_of(node) < dropped + 2:
            assert time.monotonic() < deadline_s, "it was not dropped"
            time.sleep(0.01)
        client.close_allocation()


def test_2_own_ports_that_are_no_relays_get_nothing(node: RunningNode) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as victim, client_of(node) as client:
        victim.bind(("127.0.0.1", 0))
        victim.settimeout(0.5)
        client.allocate()
        address = Address.from_text("127.0.0.1", victim.getsockname()[1])
        assert client.permit(address) == 0
        for more in ([], [LONG_WAY]):
            client.send(send_indication(address, b"secret", more))
            client.send(send_indication(node.turn[0], b"secret", more))
        with pytest.raises(TimeoutError):
            victim.recv(100)
        client.close_allocation()
    assert node.status()["drops"]["forbidden"] >= 2


def test_2_a_peer_with_port_0_is_refused(node: RunningNode) -> None:
    with client_of(node) as client, client_of(node) as other:
        client.allocate()
        (there,) = other.allocate()
        assert client.bind(0x4000, Address(there.ip, 0)) == 400
        client.send(send_indication(Address(there.ip, 0), b"x"))
        client.close_allocation()
        other.close_allocation()


def test_3_what_trails_the_integrity_is_ignored(node: RunningNode) -> None:
    with client_of(node) as client:
        client.allocate()
        honest = client.client.request(Method.REFRESH)
        # A LIFETIME of 0 behind MESSAGE-INTEGRITY, with the length and a FINGERPRINT to match.
        forged = honest + b"\x00\x0d\x00\x04\x00\x00\x00\x00"
        size = len(forged) - 20 + 8
        forged = forged[:2] + size.to_bytes(2, "big") + forged[4:]
        fingerprint = binascii.crc32(forged) ^ 0x5354554E
        forged += b"\x80\x28\x00\x04" + fingerprint.to_bytes(4, "big")
        reply = client.exchange(forged)
        assert reply is not None
        assert outcome(reply) == 0
        assert node.status()["allocations"] == 1
        client.close_allocation()


def test_3_of_duplicates_the_first_counts(node: RunningNode) -> None:
    with client_of(node) as client:
        client.allocate()
        reply = client.ask(Method.REFRESH, [lifetime(900), lifetime(0)])
        assert reply.first(Attribute.LIFETIME) == (900).to_bytes(4, "big")
        assert node.status()["allocations"] == 1
        client.close_allocation()


def test_4_lengths_that_lie(node: RunningNode) -> None:
    header = bytes.fromhex("0003") + b"%s" + bytes.fromhex("2112a442") + bytes(12)
    lies = [
        header % (b"\xff\xfc"),  # longer than the datagram
        header % (b"\x00\x01") + b"x",  # no multiple of 4
        header % (b"\x00\x04") + b"\x00\x06\xff\xff",  # a TLV longer than its packet
        header % (b"\x00\x08") + b"\x00\x06\xff\xfe\x00\x00\x00\x00",  # 16 bits that wrap
        header % (b"\x00\x02") + b"\x00\x06",  # half a TLV
        header[:11],
        b"\x00",
        b"",
        b"\x40\x00\xff\xffshort",  # ChannelData longer than its datagram
        b"\x40\x00\x00\x05four",
        b"\x40\x00",
        b"\x7f\xff\x00\x00",
        b"\x80" * 40,  # RTP
        b"\xff" * 65_507,
        bytes(65_507),
    ]
    with client_of(node) as client:
        for lie in lies:
            assert is_silent(client, lie), lie[:40]


def test_4_padding_is_zeroed_and_odd_alignment_harmless(node: RunningNode) -> None:
    with client_of(node) as one, client_of(node) as other:
        (here,), (there,) = one.allocate(), other.allocate()
        assert one.permit(there) == 0
        assert other.permit(here) == 0
        for size in range(1, 9):
            one.send(send_indication(there, b"\xff" * size))
            received = other.receive()
            assert received is not None
            message = decode_message_untrusted(received)
            assert message.first(Attribute.DATA) == b"\xff" * size
            assert received[len(received) - (-size % 4) :] == bytes(-size % 4)
        # What CVE-2026-40613 calls misaligned: a FINGERPRINT that is not at the end.
        request = encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12), [])
        assert is_silent(one, request[:3] + b"\x01" + request[4:] + b"\x80")
        one.close_allocation()
        other.close_allocation()


def test_5_no_state_for_strangers(node: RunningNode) -> None:
    resident = resident_bytes(node.pid)
    for _ in range(300):
        with client_of(node) as client:
            challenge = client.exchange(client.client.request(Method.ALLOCATE, [TRANSPORT]))
            assert challenge is not None
            assert error_of(challenge) == 401
    assert node.status()["allocations"] == 0
    assert resident_bytes(node.pid) - resident < 1024 * 1024


def test_5_a_nonce_is_bound_to_its_address(node: RunningNode) -> None:
    with client_of(node) as owner, client_of(node) as thief:
        owner.allocate()
        thief.client.realm, thief.client.nonce = owner.client.realm, owner.client.nonce
        reply = thief.exchange(thief.client.request(Method.ALLOCATE, [TRANSPORT]))
        assert reply is not None
        assert error_of(reply) == 438
        owner.close_allocation()


def test_6_answers_to_strangers_are_small(node: RunningNode) -> None:
    with client_of(node) as client:
        bare = encode_message(Method.ALLOCATE, MessageClass.REQUEST, os.urandom(12), [])
        client.send(bare)
        answer = client.receive()
        assert answer is not None
        # Header, ERROR-CODE, REALM, NONCE, PASSWORD-ALGORITHMS, and nothing more.
        assert len(answer) == 20 + 12 + 4 + len(node.realm) + 36 + 12
        assert decode_message_untrusted(answer).first(Attribute.SOFTWARE) is None


def test_6_answers_to_strangers_are_capped() -> None:
    with running_node_without_allow(error_replies_per_second="10") as capped:
        with UdpClient(capped.turn[0], timeout_s=0.5) as client:
            for _ in range(300):
                client.send(client.client.request(Method.ALLOCATE, [TRANSPORT]))
            answered = 0
            while client.receive() is not None:
                answered += 1
        # The burst may straddle two or three seconds.
        assert 10 <= answered <= 30


def test_7_even_port_does_not_leak_the_next_port(node: RunningNode) -> None:
    before = descriptor_count(node.pid)
    for _ in range(20):
        with client_of(node) as client:
            client.allocate((int(Attribute.EVEN_PORT), encode_even_port(False)))
            client.close_allocation()
    assert descriptor_count(node.pid) <= before + 1


def test_7_reservations_count_against_the_quota() -> None:
    even = (int(Attribute.EVEN_PORT), encode_even_port(True))
    with (
        running_node_without_allow(allocations_per_user="2") as limited,
        UdpClient(limited.turn[0], "alice", USERS["alice"]) as first,
        UdpClient(limited.turn[0], "alice", USERS["alice"]) as second,
    ):
        assert outcome(first.ask(Method.ALLOCATE, [TRANSPORT, even])) == 0
        assert outcome(second.ask(Method.ALLOCATE, [TRANSPORT])) == 486


def test_7_mobility_is_not_offered(node: RunningNode) -> None:
    with client_of(node) as client:
        reply = client.ask(Method.ALLOCATE, [TRANSPORT, (int(Attribute.MOBILITY_TICKET), b"")])
        assert outcome(reply) == 0
        assert reply.first(Attribute.MOBILITY_TICKET) is None
        client.close_allocation()


@pytest.mark.parametrize("name", ["%s%x%n%p", "'; DROP TABLE users; --", "../../etc/passwd", "\n"])
def test_8_names_are_only_names(node: RunningNode, name: str) -> None:
    with client_of(node) as client:
        client.client.username = name
        assert error_of(client.ask(Method.ALLOCATE, [TRANSPORT])) == 401
    with client_of(node) as client:
        reply = client.exchange(
            encode_message(
                Method.ALLOCATE,
                MessageClass.REQUEST,
                os.urandom(12),
                [TRANSPORT, (Attribute.USERNAME, b"alice"), (Attribute.REALM, name.encode())],
                integrity_key=bytes(16),
            )
        )
        assert reply is not None
        assert error_of(reply) == 400


def test_8_ports_and_nonces_are_not_predictable(node: RunningNode) -> None:
    ports, nonces, clients = [], set(), set()
    for _ in range(40):
        with client_of(node) as client:
            ports.append(client.allocate()[0].port)
            nonces.add(client.client.nonce)
            clients.add(client.socket.getsockname())
            client.close_allocation()
    # Whoever comes from the same port within the second may be given the same one.
    assert len(nonces) >= len(clients) > 20
    steps = {after - before for before, after in itertools.pairwise(ports)}
    assert len(steps) >= 35


def test_no_secret_is_logged(node: RunningNode) -> None:
    log = node.log()
    assert USERS["alice"] not in log
    assert "tests alone" not in log


def mangled(chance: random.Random, whole: bytes) -> bytes:
    """The same with some bytes changed, or cut."""
    result = bytearray(whole)
    for _ in range(chance.randrange(0, 4) if whole else 0):
        result[chance.randrange(len(result))] = chance.randrange(256)
    cut = chance.randrange(len(result)) if result and chance.random() < 0.1 else None
    return bytes(result[:cut])


def channel_bind(channel: int, peer: Address, transaction: bytes) -> list[tuple[int, bytes]]:
    number = (int(Attribute.CHANNEL_NUMBER), encode_channel_number(channel))
    return [number, peer_attribute(peer, transaction)]


def test_random_and_mangled_datagrams(node: RunningNode) -> None:
    """20,000 datagrams of every kind from clients with and without an allocation, no faster than
    the server reads them."""
    chance = random.Random(20_261_121)
    before = node.status()
    for_the_server = 0
    with ExitStack() as stack:
        users = [stack.enter_context(client_of(node)) for _ in range(4)]
        stranger = stack.enter_context(client_of(node))
        seeds: list[bytes] = []
        for user in users:
            (relayed,) = user.allocate()
            assert user.permit(relayed) == 0
            assert user.bind(0x4000, relayed) == 0
            transaction = os.urandom(12)
            seeds = [
                user.client.request(Method.REFRESH),
                user.client.request(Method.CREATE_PERMISSION),
                user.client.request(
                    Method.CREATE_PERMISSION,
                    [peer_attribute(relayed, transaction)],
                    transaction_id=transaction,
                ),
                user.client.request(
                    Method.CHANNEL_BIND,
                    channel_bind(0x4000, relayed, transaction),
                    transaction_id=transaction,
                ),
                user.client.request(Method.ALLOCATE, [TRANSPORT]),
                send_indication(relayed, b"payload", [(int(Attribute.DONT_FRAGMENT), b"")]),
                send_indication(relayed, b"payload", [(int(Attribute.DONT_FRAGMENT), b"odd")]),
                send_indication(relayed, b"payload"),
                b"\x40\x00\x00\x04data",
                encode_message(Method.BINDING, MessageClass.REQUEST, transaction, []),
            ]
            for sender, share in ((user, 4_000), (stranger, 1_000)):
                for number in range(share):
                    if chance.random() < 0.3:
                        datagram = chance.randbytes(chance.randrange(0, 120))
                    else:
                        datagram = mangled(chance, chance.choice(seeds))
                    for_the_server += classify(datagram) == "control"
                    sender.send(datagram)
                    if number % 50 == 49:
                        wait_until_read(sender)
        for user in users:
            reply = user.ask(Method.REFRESH, [lifetime(0)])
            assert outcome(reply) == 0
    after = node.status()
    assert for_the_server > 5_000
    heard = after["counters"]["control_datagrams"] - before["counters"]["control_datagrams"]
    assert heard > for_the_server
    for cause in ("control_queue", "receive_buffer"):
        assert after["drops"][cause] == before["drops"][cause]
    assert "Traceback" not in node.log()


def wait_until_read(client: UdpClient) -> None:
    """Return when the server has read what was sent before."""
    marker = os.urandom(12)
    client.send(encode_message(Method.BINDING, MessageClass.REQUEST, marker, []))
    answer = client.receive()
    while answer is not None and answer[8:20] != marker:
        answer = client.receive()
    assert answer is not None


def test_signed_requests_of_odd_content() -> None:
    """Mangled before they are signed, so that they come past the authentication."""
    chance = random.Random(20_261_122)
    peers = [Address.from_text(host, 9) for host in ("9.9.9.9", "2620:fe::9", "127.0.0.1", "::")]
    strange = [0x0001, 0x0004, 0x0007, 0x000D, 0x0016, 0x0018, 0x001A, 0x0022, 0x7FFF, 0x8000]
    codes: dict[int, Counter[int]] = {}
    # A reserved port counts for half a minute.
    node_of_many = running_node_without_allow(allocations_per_user="10000")
    with node_of_many as node, ExitStack() as stack:
        clients = [stack.enter_context(client_of(node)) for _ in range(4)]
        for client in clients:
            client.allocate()
        for number in range(6_000):
            client = clients[number % len(clients)]
            transaction = os.urandom(12)
            peer = peer_attribute(chance.choice(peers), transaction)
            method, attributes = chance.choice(
                [
                    (Method.ALLOCATE, [TRANSPORT]),
                    (Method.ALLOCATE, [TRANSPORT, (int(Attribute.EVEN_PORT), b"\x80")]),
                    (Method.REFRESH, [lifetime(600)]),
                    (Method.REFRESH, [(int(Attribute.REQUESTED_ADDRESS_FAMILY), b"\1\0\0\0")]),
                    (Method.CREATE_PERMISSION, [peer]),
                    (Method.CREATE_PERMISSION, [peer, peer]),
                    (Method.CHANNEL_BIND, channel_bind(0x4000, peers[0], transaction)),
                    (Method.CHANNEL_BIND, [*channel_bind(0x4001, peers[2], transaction), peer]),
                ]
            )
            odd = [
                (kind, mangled(chance, value) if chance.random() < 0.3 else value)
                for kind, value in attributes
            ]
            if chance.random() < 0.2:
                unasked = (chance.choice(strange), chance.randbytes(chance.randrange(12)))
                odd.insert(chance.randrange(len(odd) + 1), unasked)
            if chance.random() < 0.1:
                odd.pop(chance.randrange(len(odd)))
            if method == Method.ALLOCATE and chance.random() < 0.5:
                client.close_allocation()
            reply = client.ask(method, odd, transaction_id=transaction)
            assert reply.transaction_id == transaction
            client.client.verify(reply)
            codes.setdefault(int(method), Counter())[outcome(reply)] += 1
            if outcome(reply) == 437 and method != Method.ALLOCATE:
                client.allocate()
        for client in clients:
            client.close_allocation()
        assert node.status()["allocations"] == 0
        assert "Traceback" not in node.log()
    # Every one was answered by a signed answer, and those for every reason that there is.
    for method, expected in {
        Method.ALLOCATE: {0, 400, 420, 437, 442},
        Method.REFRESH: {0, 400, 420, 437, 443},
        Method.CREATE_PERMISSION: {0, 400, 403, 420, 443},
        Method.CHANNEL_BIND: {0, 400, 403, 420, 443},
    }.items():
        assert expected <= set(codes[int(method)]), (method, codes[int(method)])
