"""The TURN server under hostile bytes and under long random lives: it never raises, its effects
make sense in their order (`World` asserts that), and its tables stay within their bounds."""

from __future__ import annotations

import os
from ipaddress import IPv4Address
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from core.stun.address import Address
from core.stun.constants import Attribute, MessageClass, Method
from core.stun.message import encode_message
from relay.turn.effects import OpenAllocation
from tests.support.turn_client import (
    OTHER_PEER,
    PEER,
    PEER_IPV6,
    TRANSPORT,
    Session,
    World,
    lifetime,
    send_indication,
    turn_config,
)

METHODS = [
    Method.BINDING,
    Method.ALLOCATE,
    Method.REFRESH,
    Method.SEND,
    Method.CREATE_PERMISSION,
    Method.CHANNEL_BIND,
    Method.CONNECT,
    0x0FF,
]
attribute_types = st.one_of(
    st.sampled_from([int(attribute) for attribute in Attribute]),
    st.integers(0, 0xFFFF),
).filter(
    lambda number: (
        number
        not in (
            Attribute.MESSAGE_INTEGRITY,
            Attribute.MESSAGE_INTEGRITY_SHA256,
            Attribute.FINGERPRINT,
        )
    )
)
attributes = st.lists(st.tuples(attribute_types, st.binary(max_size=24)), max_size=8)

BUSY = settings(
    max_examples=1500,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@BUSY
@given(st.binary(max_size=200))
def test_any_bytes(datagram: bytes) -> None:
    assert len(Session(World()).raw(datagram)) <= 1


@BUSY
@given(
    method=st.sampled_from(METHODS), message_class=st.sampled_from(MessageClass), found=attributes
)
def test_any_attributes_from_a_stranger(
    method: int, message_class: int, found: list[tuple[int, bytes]]
) -> None:
    world = World()
    datagram = encode_message(method, message_class, os.urandom(12), found)
    for reply in Session(world).raw(datagram):
        # Nobody is made to send much more than has been sent to it.
        assert len(reply.raw) <= max(120, len(datagram))
    assert not world.relays


@BUSY
@given(
    method=st.sampled_from(METHODS),
    found=attributes,
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), max_size=3),
    allocated=st.booleans(),
)
def test_any_attributes_from_a_user(
    method: int,
    found: list[tuple[int, bytes]],
    flips: list[tuple[int, int]],
    allocated: bool,
) -> None:
    world = World()
    session = Session(world)
    session.ask(Method.REFRESH)
    if allocated:
        session.allocate()
        session.permit(PEER)
    datagram = bytearray(session.client.request(method, [TRANSPORT, *found]))
    for place, mask in flips:
        datagram[place % len(datagram)] ^= mask
    assert len(session.raw(bytes(datagram))) <= 1
    assert len(world.relays) <= 3
    world.advance(10_000)
    assert world.server.allocation_count == 0
    assert not world.relays


class ServerLife(RuleBasedStateMachine):
    """Some clients do what clients do, in any order, while time passes and ports are taken."""

    LIMIT = 4

    def __init__(self) -> None:
        super().__init__()
        limits = {
            "allocations": self.LIMIT,
            "allocations_per_user": self.LIMIT - 1,
            "permissions_per_allocation": 3,
            "channels_per_allocation": 3,
            "error_replies_per_second": 1000,
        }
        # The same ports each time: which of them are taken decides what can happen next.
        self.world = World(
            turn_config(limits=limits, relay_ports=(50_000, 50_011)),
            random_bytes=Random(7).randbytes,
        )
        self.sessions = [
            Session(self.world, port, user=("alice", "bob")[port % 2], sha256=port % 3 == 0)
            for port in range(6)
        ]

    clients = st.integers(0, 5)
    peers = st.sampled_from(
        [PEER, OTHER_PEER, PEER_IPV6, Address(IPv4Address("10.1.1.1").packed, 1)]
    )

    @rule(
        client=clients,
        extra=st.sampled_from(
            [
                [],
                [(int(Attribute.EVEN_PORT), b"\x80")],
                [(int(Attribute.EVEN_PORT), b"\0")],
                [(int(Attribute.ADDITIONAL_ADDRESS_FAMILY), b"\2\0\0\0")],
                [(int(Attribute.REQUESTED_ADDRESS_FAMILY), b"\2\0\0\0")],
            ]
        ),
        unlucky=st.booleans(),
    )
    def allocate(self, client: int, extra: list[tuple[int, bytes]], unlucky: bool) -> None:
        if unlucky:
            self.world.unavailable = lambda address: address.port % 3 == 0
        reply = self.sessions[client].ask(Method.ALLOCATE, [TRANSPORT, *extra])
        self.world.unavailable = lambda _: False
        token = reply.first(Attribute.RESERVATION_TOKEN)
        if token is not None and client % 2:
            self.sessions[(client + 2) % 6].ask(
                Method.ALLOCATE, [TRANSPORT, (int(Attribute.RESERVATION_TOKEN), token)]
            )

    @rule(client=clients, lifetime_s=st.sampled_from([0, 1, 600, 3600]))
    def refresh(self, client: int, lifetime_s: int) -> None:
        self.sessions[client].ask(Method.REFRESH, [lifetime(lifetime_s)])

    @rule(client=clients, some=st.lists(peers, min_size=1, max_size=3))
    def permit(self, client: int, some: list[Address]) -> None:
        self.sessions[client].permit(*some)

    @rule(client=clients, channel=st.integers(0x4000, 0x4003), peer=peers)
    def bind(self, client: int, channel: int, peer: Address) -> None:
        self.sessions[client].bind(channel, peer)

    @rule(client=clients, peer=peers)
    def send(self, client: int, peer: Address) -> None:
        self.sessions[client].raw(
            send_indication(peer, b"data", [(int(Attribute.DONT_FRAGMENT), b"")])
        )

    @rule(seconds=st.sampled_from([0.5, 29, 31, 301, 601, 4000]))
    def wait(self, seconds: float) -> None:
        self.world.advance(seconds)
        for session in self.sessions:
            session.client.realm = ""  # a new challenge: nonces may be stale

    @precondition(lambda self: self.world.allocations)
    @rule()
    def remove_a_user(self) -> None:
        config = turn_config(
            users={"bob": "bob's password"},
            limits={"allocations": self.LIMIT, "error_replies_per_second": 1000},
        )
        self.world.reconfigure(config)
        everybody = turn_config(
            limits={
                "allocations": self.LIMIT,
                "allocations_per_user": self.LIMIT - 1,
                "permissions_per_allocation": 3,
                "channels_per_allocation": 3,
                "error_replies_per_second": 1000,
            }
        )
        self.world.reconfigure(everybody)
        users = {
            effect.session
            for effect in self.world.taken(OpenAllocation)
            if effect.allocation in self.world.allocations
        }
        assert "alice" not in users

    @invariant()
    def bounds(self) -> None:
        world = self.world
        assert len(world.allocations) == world.server.allocation_count <= self.LIMIT
        owned = sum(len(relays) for _, relays in world.allocations.values())
        assert owned <= len(world.relays) <= 2 * self.LIMIT
        for number in world.allocations:
            assert sum(key[0] == number for key in world.permissions) <= 3
            assert sum(key[0] == number for key in world.channels) <= 3
        living = {number for number, _ in [*world.permissions, *world.channels]}
        assert living <= set(world.allocations)

    def teardown(self) -> None:
        self.world.advance(10_000)
        assert not self.world.relays
        assert self.world.server.next_deadline_ns is None


TestServerLife = ServerLife.TestCase
TestServerLife.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
