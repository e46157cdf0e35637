"""A small TURN client of the tests' own: it can say everything, also what no client should.

`TurnClient` makes and reads bytes; `World` joins it to a sans-I/O server in virtual time, and
`UdpClient` to a running node.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from core.config import Endpoint, PeerRules, TurnConfig, TurnLimits
from core.stun.address import Address, FiveTuple
from core.stun.attributes import (
    decode_error_code_untrusted,
    decode_xor_address_untrusted,
    encode_channel_number,
    encode_password_algorithm,
    encode_requested_transport,
    encode_uint32,
    encode_xor_address,
)
from core.stun.constants import UDP_PROTOCOL, Attribute, MessageClass, Method
from core.stun.credentials import PasswordAlgorithm, long_term_key
from core.stun.message import (
    Message,
    check_integrity,
    check_integrity_sha256,
    decode_message_untrusted,
    encode_message,
)
from core.units import NS_PER_S
from relay.turn.effects import (
    CloseAllocation,
    CloseRelay,
    Effect,
    InstallChannel,
    InstallPermission,
    JoinSession,
    LeaveSession,
    OpenAllocation,
    OpenRelay,
    RefreshAllocation,
    RelayData,
    RemoveChannel,
    RemovePermission,
    RemoveRelay,
    Reply,
)
from relay.turn.server import Server

Attributes = Sequence[tuple[int, bytes]]
TRANSPORT = (int(Attribute.REQUESTED_TRANSPORT), encode_requested_transport(UDP_PROTOCOL))


def lifetime(lifetime_s: int) -> tuple[int, bytes]:
    """The attribute LIFETIME."""
    return int(Attribute.LIFETIME), encode_uint32(lifetime_s)


def error_of(reply: Message) -> int:
    """The code of an error answer."""
    assert reply.message_class == MessageClass.ERROR, reply
    value = reply.first(Attribute.ERROR_CODE)
    assert value is not None
    return decode_error_code_untrusted(value)[0]


class TurnClient:
    """Makes requests and checks answers.

    Args:
        sha256: take SHA-256 where the server offers it.
    """

    def __init__(self, username: str, password: str, *, sha256: bool = False) -> None:
        self.username = username
        self.password = password
        self.sha256 = sha256
        self.realm = ""
        self.nonce = b""
        self.algorithms: bytes | None = None

    @property
    def key(self) -> bytes:
        """The long-term key."""
        algorithm = PasswordAlgorithm.SHA256 if self.sha256 else PasswordAlgorithm.MD5
        return long_term_key(self.username, self.realm, self.password, algorithm)

    def take_challenge(self, reply: Message) -> None:
        """Keep what a 401 or 438 holds."""
        realm, nonce = reply.first(Attribute.REALM), reply.first(Attribute.NONCE)
        assert realm is not None
        assert nonce is not None
        self.realm, self.nonce = realm.decode(), nonce
        self.algorithms = reply.first(Attribute.PASSWORD_ALGORITHMS)

    def credentials(self) -> list[tuple[int, bytes]]:
        """USERNAME, REALM, NONCE and the password algorithm where one was chosen."""
        found: list[tuple[int, bytes]] = [
            (Attribute.USERNAME, self.username.encode()),
            (Attribute.REALM, self.realm.encode()),
            (Attribute.NONCE, self.nonce),
        ]
        if self.sha256:
            assert self.algorithms is not None
            found += [
                (
                    Attribute.PASSWORD_ALGORITHM,
                    encode_password_algorithm(PasswordAlgorithm.SHA256),
                ),
                (Attribute.PASSWORD_ALGORITHMS, self.algorithms),
            ]
        return found

    def request(
        self,
        method: int,
        attributes: Attributes = (),
        *,
        transaction_id: bytes | None = None,
        signed: bool = True,
    ) -> bytes:
        """A request; with credentials once there was a challenge."""
        transaction_id = transaction_id or os.urandom(12)
        if not (signed and self.realm):
            return encode_message(method, MessageClass.REQUEST, transaction_id, attributes)
        return encode_message(
            method,
            MessageClass.REQUEST,
            transaction_id,
            [*attributes, *self.credentials()],
            integrity_key=None if self.sha256 else self.key,
            integrity_sha256_key=self.key if self.sha256 else None,
        )

    def verify(self, reply: Message) -> None:
        """The answer to a signed request is signed alike."""
        check = check_integrity_sha256 if self.sha256 else check_integrity
        assert check(reply, self.key)


def peer_attribute(peer: Address, transaction_id: bytes) -> tuple[int, bytes]:
    """XOR-PEER-ADDRESS."""
    return int(Attribute.XOR_PEER_ADDRESS), encode_xor_address(peer, transaction_id)


def relayed_addresses(reply: Message) -> list[Address]:
    """What an Allocate's success has given."""
    return [
        decode_xor_address_untrusted(value, reply.transaction_id)
        for value in reply.all(Attribute.XOR_RELAYED_ADDRESS)
    ]


def send_indication(
    peer: Address, data: bytes, more: Attributes = (), transaction_id: bytes | None = None
) -> bytes:
    """A Send indication."""
    transaction_id = transaction_id or os.urandom(12)
    return encode_message(
        Method.SEND,
        MessageClass.INDICATION,
        transaction_id,
        [*more, peer_attribute(peer, transaction_id), (Attribute.DATA, data)],
    )


SERVER = Address.from_text("198.51.100.1", 3478)
SERVER_IPV6 = Address.from_text("2001:db8::1", 3478)
RELAY_IP = SERVER.ip
RELAY_IP_V6 = SERVER_IPV6.ip
PEER = Address.from_text("8.8.8.8", 4000)
OTHER_PEER = Address.from_text("9.9.9.9", 5000)
PEER_IPV6 = Address.from_text("2606:4700::1111", 4000)


def turn_config(
    *,
    limits: dict[str, Any] | None = None,
    allow: Sequence[str] = (),
    deny: Sequence[str] = (),
    **more: Any,
) -> TurnConfig:
    """A public node's configuration; `more` are fields of `TurnConfig`."""
    config = TurnConfig(
        listen=(
            Endpoint(transport="udp", address=SERVER),
            Endpoint(transport="udp", address=SERVER_IPV6),
        ),
        relay_addresses=(RELAY_IP, RELAY_IP_V6),
        users={"alice": "alice's password", "bob": "bob's password"},
        limits=TurnLimits(**(limits or {})),
        peers=PeerRules(allow=tuple(map(ip_network, allow)), deny=tuple(map(ip_network, deny))),
    )
    return replace(config, **more)


class World:
    """A server whose effects are carried out, and checked, in memory.

    Attributes:
        effects: all of them, in order.
        unavailable: whether a relayed address can't be bound.
        joined: allocations that somebody pays for.

    Args:
        pays: whether an account pays; None where nobody has to. Calls do.
        random_bytes: what ports and nonces are made of.
    """

    def __init__(
        self,
        config: TurnConfig | None = None,
        *,
        own: Sequence[bytes] = (),
        pays: Callable[[str], bool] | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.pays = pays
        self.joined: set[int] = set()
        self.now_ns = 1_000 * NS_PER_S
        self.unix_s = 1_800_000_000.0
        self.unavailable: Callable[[Address], bool] = lambda _: False
        self.effects: list[Effect] = []
        self.relays: dict[int, Address] = {}
        self.allocations: dict[int, tuple[FiveTuple, tuple[int, ...]]] = {}
        self.permissions: dict[tuple[int, bytes], int] = {}
        self.channels: dict[tuple[int, int], Address] = {}
        self._local = frozenset(own)
        self.server = Server(
            config or turn_config(),
            random=random_bytes,
            unix_time_s=lambda: self.unix_s,
            is_local=lambda ip: ip in self._local,
            metered=pays is not None,
        )

    def reconfigure(self, config: TurnConfig) -> None:
        """As SIGHUP does."""
        self.carry_out(self.server.reconfigure(config, self.now_ns))

    def advance(self, seconds: float) -> None:
        """Let time pass, and have everything expire at its deadline."""
        end_ns = self.now_ns + int(seconds * NS_PER_S)
        self.unix_s += seconds
        for _ in itertools.count():
            deadline_ns = self.server.next_deadline_ns
            if deadline_ns is None or deadline_ns > end_ns:
                break
            self.now_ns = max(self.now_ns, deadline_ns)
            self.carry_out(self.server.expire(self.now_ns))
            following_ns = self.server.next_deadline_ns
            assert following_ns is None or following_ns > self.now_ns
        self.now_ns = end_ns

    def send(self, five_tuple: FiveTuple, datagram: bytes) -> list[Message]:
        """What comes back to the client for a datagram."""
        return [
            decode_message_untrusted(reply.payload)
            for reply in self.carry_out(self.server.receive(datagram, five_tuple, self.now_ns))
            if reply.five_tuple == five_tuple
        ]

    def carry_out(self, effects: Sequence[Effect]) -> list[Reply]:
        """Do them, asserting that each makes sense after those before it."""
        replies: list[Reply] = []
        for effect in effects:
            self.effects.append(effect)
            match effect:
                case Reply():
                    replies.append(effect)
                case OpenRelay(relay, address):
                    assert relay not in self.relays
                    if self.unavailable(address):
                        outcome = self.server.relay_failed(relay, self.now_ns)
                    else:
                        assert address not in self.relays.values()
                        self.relays[relay] = address
                        outcome = self.server.relay_opened(relay, self.now_ns)
                    replies += self.carry_out(outcome)
                case CloseRelay(relay):
                    del self.relays[relay]
                case JoinSession(allocation, _, payer):
                    assert self.pays is not None or payer is None
                    assert allocation not in self.joined
                    if payer is None or (self.pays is not None and self.pays(payer)):
                        self.joined.add(allocation)
                        outcome = self.server.session_joined(allocation, self.now_ns)
                    else:
                        outcome = self.server.session_refused(allocation, 403)
                    replies += self.carry_out(outcome)
                case LeaveSession(allocation):
                    self.joined.remove(allocation)
                case OpenAllocation(allocation, five_tuple, relays, _, _, expires_ns, answer):
                    assert self.pays is None or allocation in self.joined
                    assert allocation not in self.allocations
                    assert all(relay in self.relays for relay in relays)
                    assert expires_ns > self.now_ns
                    self.allocations[allocation] = (five_tuple, relays)
                    replies.append(Reply(five_tuple, answer))
                case RemoveRelay(allocation, ip_bytes):
                    five_tuple, relays = self.allocations[allocation]
                    (gone,) = [one for one in relays if len(self.relays[one].ip) == ip_bytes]
                    del self.relays[gone]
                    assert len(relays) == 2
                    for table in (self.permissions, self.channels):
                        assert not any(
                            key[0] == allocation and self._ip_bytes(key) == ip_bytes
                            for key in table
                        )
                    self.allocations[allocation] = (
                        five_tuple,
                        tuple(one for one in relays if one != gone),
                    )
                case RefreshAllocation(allocation, expires_ns):
                    assert allocation in self.allocations
                    assert expires_ns > self.now_ns
                case CloseAllocation(allocation, _):
                    self.joined.discard(allocation)
                    for relay in self.allocations.pop(allocation)[1]:
                        del self.relays[relay]
                    for table in (self.permissions, self.channels):
                        for key in [key for key in table if key[0] == allocation]:
                            del table[key]  # type: ignore[arg-type]
                case InstallPermission(allocation, peer_ip, expires_ns, own):
                    assert allocation in self.allocations
                    assert expires_ns > self.now_ns
                    self.permissions[allocation, peer_ip] = own
                case InstallChannel(allocation, channel, peer, expires_ns):
                    assert (allocation, peer.ip) in self.permissions
                    assert self.channels.get((allocation, channel), peer) == peer
                    self.channels[allocation, channel] = peer
                case RemovePermission(allocation, peer_ip):
                    del self.permissions[allocation, peer_ip]
                case RemoveChannel(allocation, channel):
                    del self.channels[allocation, channel]
                case RelayData(allocation, peer, _, _):
                    assert (allocation, peer.ip) in self.permissions
        return replies

    def _ip_bytes(self, key: tuple[int, Any]) -> int:
        """The family of a permission or of a channel."""
        peer_ip = key[1] if isinstance(key[1], bytes) else self.channels[key].ip
        return len(peer_ip)

    def taken(self, kind: type) -> list[Any]:
        """The effects of one kind so far."""
        return [effect for effect in self.effects if isinstance(effect, kind)]


class Session:
    """One client at one port of a world."""

    def __init__(
        self,
        world: World,
        port: int = 40_000,
        *,
        user: str = "alice",
        password: str | None = None,
        sha256: bool = False,
        server: Address = SERVER,
        ip: str = "1.2.3.4",
    ) -> None:
        self.world = world
        self.client = TurnClient(user, password or f"{user}'s password", sha256=sha256)
        self.five_tuple = FiveTuple("udp", Address.from_text(ip, port), server)

    def raw(self, datagram: bytes) -> list[Message]:
        """Send bytes as they are."""
        return self.world.send(self.five_tuple, datagram)

    def ask(
        self, method: int, attributes: Attributes = (), *, transaction_id: bytes | None = None
    ) -> Message:
        """A signed request's one answer; a challenge is answered on the way."""
        if not self.client.realm:
            (challenge,) = self.raw(self.client.request(method, signed=False))
            assert error_of(challenge) == 401
            self.client.take_challenge(challenge)
        (reply,) = self.raw(self.client.request(method, attributes, transaction_id=transaction_id))
        return reply

    def do(self, method: int, attributes: Attributes = ()) -> Message:
        """A request that succeeds, with its answer's integrity checked."""
        transaction_id = os.urandom(12)
        reply = self.ask(method, attributes, transaction_id=transaction_id)
        assert reply.message_class == MessageClass.SUCCESS, error_of(reply)
        assert reply.transaction_id == transaction_id
        assert reply.method == method
        self.client.verify(reply)
        return reply

    def refused(self, method: int, attributes: Attributes = ()) -> int:
        """A request that is refused, and its code."""
        return error_of(self.ask(method, attributes))

    def allocate(self, *more: tuple[int, bytes]) -> list[Address]:
        """Open an allocation; returns its relayed addresses."""
        return relayed_addresses(self.do(Method.ALLOCATE, [TRANSPORT, *more]))

    def with_peers(self, method: int, *peers: Address, more: Attributes = ()) -> Message:
        """A request that names peers."""
        if not self.client.realm:
            self.ask(method)
        transaction_id = os.urandom(12)
        attributes = [*more, *(peer_attribute(peer, transaction_id) for peer in peers)]
        (reply,) = self.raw(self.client.request(method, attributes, transaction_id=transaction_id))
        return reply

    def permit(self, *peers: Address) -> int:
        """CreatePermission; 0 for success, else the error code."""
        return outcome(self.with_peers(Method.CREATE_PERMISSION, *peers))

    def bind(self, channel: int, peer: Address) -> int:
        """ChannelBind; 0 for success, else the error code."""
        number = (int(Attribute.CHANNEL_NUMBER), encode_channel_number(channel))
        return outcome(self.with_peers(Method.CHANNEL_BIND, peer, more=[number]))


def outcome(reply: Message) -> int:
    """0 for success, else the error code."""
    return 0 if reply.message_class == MessageClass.SUCCESS else error_of(reply)


class UdpClient:
    """A client of a running node, over a socket of its own."""

    def __init__(
        self,
        server: Address,
        user: str = "alice",
        password: str = "",
        *,
        timeout_s: float = 2.0,
        local_ip: str | None = None,
    ) -> None:
        family = socket.AF_INET if len(server.ip) == 4 else socket.AF_INET6
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        if local_ip is not None:
            self.socket.bind((local_ip, 0))
        self.socket.connect((server.host, server.port))
        self.socket.settimeout(timeout_s)
        self.client = TurnClient(user, password)

    def __enter__(self) -> UdpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    @property
    def address(self) -> Address:
        """Where the client is."""
        host, port = self.socket.getsockname()[:2]
        return Address.from_text(host, port)

    def send(self, datagram: bytes) -> None:
        """Send and expect nothing."""
        self.socket.send(datagram)

    def receive(self) -> bytes | None:
        """The next datagram, None when none comes in time."""
        try:
            return self.socket.recv(65_536)
        except (TimeoutError, ConnectionRefusedError):
            return None

    def exchange(self, datagram: bytes) -> Message | None:
        """The answer to one datagram."""
        self.socket.send(datagram)
        answer = self.receive()
        return None if answer is None else decode_message_untrusted(answer)

    def ask(
        self, method: int, attributes: Attributes = (), *, transaction_id: bytes | None = None
    ) -> Message:
        """A signed request's answer; a challenge is answered on the way."""
        if not self.client.realm:
            challenge = self.exchange(self.client.request(method, signed=False))
            assert challenge is not None
            assert error_of(challenge) == 401
            self.client.take_challenge(challenge)
        reply = self.exchange(
            self.client.request(method, attributes, transaction_id=transaction_id)
        )
        assert reply is not None
        return reply

    def allocate(self, *more: tuple[int, bytes]) -> list[Address]:
        """Open an allocation; returns its relayed addresses."""
        reply = self.ask(Method.ALLOCATE, [TRANSPORT, *more])
        assert reply.message_class == MessageClass.SUCCESS, error_of(reply)
        return relayed_addresses(reply)

    def with_peers(self, method: int, *peers: Address, more: Attributes = ()) -> int:
        """A request that names peers: 0 for success, else the error code."""
        transaction_id = os.urandom(12)
        attributes = [*more, *(peer_attribute(peer, transaction_id) for peer in peers)]
        return outcome(self.ask(method, attributes, transaction_id=transaction_id))

    def permit(self, *peers: Address) -> int:
        """CreatePermission; 0 for success, else the error code."""
        return self.with_peers(Method.CREATE_PERMISSION, *peers)

    def bind(self, channel: int, peer: Address) -> int:
        """ChannelBind; 0 for success, else the error code."""
        number = (int(Attribute.CHANNEL_NUMBER), encode_channel_number(channel))
        return self.with_peers(Method.CHANNEL_BIND, peer, more=[number])

    def close_allocation(self) -> None:
        """Refresh with a lifetime of 0."""
        self.ask(Method.REFRESH, [lifetime(0)])
