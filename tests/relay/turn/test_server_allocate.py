"""Binding, Allocate and Refresh (RFC 8656 sections 7 and 8), in virtual time."""

from __future__ import annotations

import os

import pytest

from core.stun.address import Address, FiveTuple
from core.stun.attributes import (
    decode_address_error_code_untrusted,
    decode_uint32_untrusted,
    decode_unknown_attributes_untrusted,
    decode_xor_address_untrusted,
    encode_address_family,
    encode_even_port,
    encode_requested_transport,
)
from core.stun.constants import (
    ATTRIBUTE_ALIASES,
    IPV4_FAMILY,
    IPV6_FAMILY,
    Attribute,
    MessageClass,
    Method,
)
from core.stun.message import encode_message
from relay.turn.allocating import PORT_TRIES
from relay.turn.effects import CloseAllocation, CloseRelay, OpenAllocation, OpenRelay
from tests.support.turn_client import (
    RELAY_IP,
    RELAY_IP_V6,
    SERVER,
    SERVER_IPV6,
    TRANSPORT,
    Session,
    World,
    error_of,
    lifetime,
    relayed_addresses,
    turn_config,
)

EVEN = (int(Attribute.EVEN_PORT), encode_even_port(False))
EVEN_AND_NEXT = (int(Attribute.EVEN_PORT), encode_even_port(True))
IPV6 = (int(Attribute.REQUESTED_ADDRESS_FAMILY), encode_address_family(IPV6_FAMILY))
IPV4 = (int(Attribute.REQUESTED_ADDRESS_FAMILY), encode_address_family(IPV4_FAMILY))
ADDITIONAL_IPV6 = (int(Attribute.ADDITIONAL_ADDRESS_FAMILY), encode_address_family(IPV6_FAMILY))


def token_of(reply_attributes: bytes | None) -> tuple[int, bytes]:
    assert reply_attributes is not None
    return int(Attribute.RESERVATION_TOKEN), reply_attributes


@pytest.mark.parametrize(("ip", "server"), [("1.2.3.4", SERVER), ("2400::5", SERVER_IPV6)])
def test_binding_tells_the_mapped_address(ip: str, server: Address) -> None:
    session = Session(World(), 4321, ip=ip, server=server)
    (reply,) = session.raw(encode_message(Method.BINDING, MessageClass.REQUEST, os.urandom(12), []))
    value = reply.first(Attribute.XOR_MAPPED_ADDRESS)
    assert value is not None
    assert decode_xor_address_untrusted(value, reply.transaction_id) == Address.from_text(ip, 4321)


def test_binding_lists_unknown_attributes() -> None:
    datagram = encode_message(
        Method.BINDING, MessageClass.REQUEST, os.urandom(12), [(0x0003, b"\0\0\0\6"), (0x7777, b"")]
    )
    (reply,) = Session(World()).raw(datagram)
    assert error_of(reply) == 420
    value = reply.first(Attribute.UNKNOWN_ATTRIBUTES)
    assert value is not None
    assert decode_unknown_attributes_untrusted(value) == [0x0003, 0x7777]


def test_an_answer_has_a_fingerprint_where_the_request_had_one() -> None:
    datagram = encode_message(
        Method.BINDING, MessageClass.REQUEST, os.urandom(12), [], fingerprint=True
    )
    (reply,) = Session(World()).raw(datagram)
    assert reply.first(Attribute.FINGERPRINT) is not None


@pytest.mark.parametrize("message_class", [MessageClass.SUCCESS, MessageClass.ERROR])
def test_answers_are_not_answered(message_class: MessageClass) -> None:
    session = Session(World())
    assert not session.raw(encode_message(Method.BINDING, message_class, os.urandom(12), []))
    assert not session.raw(encode_message(0x0AA, MessageClass.REQUEST, os.urandom(12), []))


def test_an_allocate_is_answered_after_its_relay_is_open() -> None:
    world = World()
    session = Session(world)
    (address,) = session.allocate()
    assert address.ip == RELAY_IP
    assert 49152 <= address.port <= 65535
    kinds = [type(effect) for effect in world.effects[1:]]
    assert kinds[:2] == [OpenRelay, OpenAllocation]
    opened = world.taken(OpenAllocation)[0]
    assert opened.five_tuple == session.five_tuple
    assert opened.session == "alice"


def test_success_holds_lifetime_and_mapped_address() -> None:
    session = Session(World())
    reply = session.do(Method.ALLOCATE, [TRANSPORT])
    value = reply.first(Attribute.LIFETIME)
    mapped = reply.first(Attribute.XOR_MAPPED_ADDRESS)
    assert value is not None
    assert mapped is not None
    assert decode_uint32_untrusted(value) == 600
    assert decode_xor_address_untrusted(mapped, reply.transaction_id) == session.five_tuple.client


@pytest.mark.parametrize(("asked_s", "given_s"), [(1, 600), (700, 700), (100_000, 3600)])
def test_lifetime_is_kept_between_default_and_maximum(asked_s: int, given_s: int) -> None:
    session = Session(World())
    value = session.do(Method.ALLOCATE, [TRANSPORT, lifetime(asked_s)]).first(Attribute.LIFETIME)
    assert value is not None
    assert decode_uint32_untrusted(value) == given_s


def test_a_retransmitted_allocate_gets_the_same_answer() -> None:
    world = World()
    session = Session(world)
    session.ask(Method.REFRESH)
    datagram = session.client.request(Method.ALLOCATE, [TRANSPORT])
    (first,) = session.raw(datagram)
    (second,) = session.raw(datagram)
    assert first.raw == second.raw
    assert len(world.taken(OpenAllocation)) == 1


def test_a_retransmission_while_the_relay_opens_is_answered_once() -> None:
    world = World()
    session = Session(world)
    session.ask(Method.REFRESH)
    datagram = session.client.request(Method.ALLOCATE, [TRANSPORT])
    (wish,) = world.server.receive(datagram, session.five_tuple, world.now_ns)
    assert isinstance(wish, OpenRelay)
    assert not world.server.receive(datagram, session.five_tuple, world.now_ns)
    other = session.client.request(Method.ALLOCATE, [TRANSPORT])
    assert error_of(session.raw(other)[0]) == 437
    replies = world.carry_out([wish])
    assert len(replies) == 1


def test_a_second_allocate_is_a_mismatch() -> None:
    session = Session(World())
    session.allocate()
    assert session.refused(Method.ALLOCATE, [TRANSPORT]) == 437


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ([], 400),
        ([(int(Attribute.REQUESTED_TRANSPORT), encode_requested_transport(6))], 442),
        ([(int(Attribute.REQUESTED_TRANSPORT), b"\x11")], 400),
        ([TRANSPORT, IPV4, ADDITIONAL_IPV6], 400),
        (
            [
                TRANSPORT,
                (
                    int(Attribute.ADDITIONAL_ADDRESS_FAMILY),
                    encode_address_family(IPV4_FAMILY),
                ),
            ],
            400,
        ),
        ([TRANSPORT, EVEN_AND_NEXT, ADDITIONAL_IPV6], 400),
        ([TRANSPORT, (int(Attribute.REQUESTED_ADDRESS_FAMILY), b"\x07\0\0\0")], 440),
        ([TRANSPORT, (int(Attribute.RESERVATION_TOKEN), bytes(8)), EVEN], 400),
        ([TRANSPORT, (int(Attribute.RESERVATION_TOKEN), bytes(8)), IPV4], 400),
        ([TRANSPORT, (int(Attribute.RESERVATION_TOKEN), bytes(8)), ADDITIONAL_IPV6], 400),
        ([TRANSPORT, (int(Attribute.RESERVATION_TOKEN), bytes(7))], 400),
        ([TRANSPORT, (int(Attribute.RESERVATION_TOKEN), bytes(8))], 508),
        ([TRANSPORT, lifetime(600), (0x7001, b"")], 420),
        ([TRANSPORT, (int(Attribute.LIFETIME), b"\0")], 400),
    ],
)
def test_an_allocate_that_is_refused_leaves_nothing(
    attributes: list[tuple[int, bytes]], code: int
) -> None:
    world = World()
    session = Session(world)
    assert session.refused(Method.ALLOCATE, attributes) == code
    assert not world.relays
    assert session.allocate()


def test_dont_fragment_is_understood() -> None:
    assert Session(World()).allocate((int(Attribute.DONT_FRAGMENT), b""))


def test_ipv6_alone() -> None:
    (address,) = Session(World()).allocate(IPV6)
    assert address.ip == RELAY_IP_V6


@pytest.mark.parametrize("number", [0x8000, 0x8032])
def test_two_families_at_once(number: int) -> None:
    assert number == Attribute.ADDITIONAL_ADDRESS_FAMILY or number in ATTRIBUTE_ALIASES
    world = World()
    addresses = Session(world).allocate((number, encode_address_family(IPV6_FAMILY)))
    assert [address.ip for address in addresses] == [RELAY_IP, RELAY_IP_V6]
    assert len(world.taken(OpenAllocation)[0].relays) == 2


@pytest.mark.parametrize(("failing", "family"), [(16, IPV6_FAMILY), (4, IPV4_FAMILY)])
def test_one_family_of_two_may_fail(failing: int, family: int) -> None:
    world = World()
    world.unavailable = lambda address: len(address.ip) == failing
    reply = Session(world).do(Method.ALLOCATE, [TRANSPORT, ADDITIONAL_IPV6])
    (address,) = relayed_addresses(reply)
    assert len(address.ip) != failing
    value = reply.first(Attribute.ADDRESS_ERROR_CODE)
    assert value is not None
    assert decode_address_error_code_untrusted(value)[:2] == (family, 508)


def test_an_additional_family_that_the_node_lacks() -> None:
    world = World(turn_config(relay_addresses=(RELAY_IP,)))
    reply = Session(world).do(Method.ALLOCATE, [TRANSPORT, ADDITIONAL_IPV6])
    value = reply.first(Attribute.ADDRESS_ERROR_CODE)
    assert value is not None
    assert decode_address_error_code_untrusted(value)[:2] == (IPV6_FAMILY, 440)
    assert Session(world, 2).refused(Method.ALLOCATE, [TRANSPORT, IPV6]) == 440


def test_ports_that_are_taken_are_passed_over() -> None:
    world = World()
    refused: list[Address] = []

    def first_three(address: Address) -> bool:
        refused.append(address)
        return len(refused) <= 3

    world.unavailable = first_three
    (address,) = Session(world).allocate()
    assert refused[3] == address
    assert len(set(refused)) == 4


def test_no_port_at_all_is_508_after_some_tries() -> None:
    world = World()
    world.unavailable = lambda _: True
    session = Session(world)
    assert session.refused(Method.ALLOCATE, [TRANSPORT]) == 508
    assert len(world.taken(OpenRelay)) == PORT_TRIES
    world.unavailable = lambda _: False
    assert session.allocate()


def test_every_port_of_the_range_is_given_once() -> None:
    world = World(turn_config(relay_ports=(50_000, 50_009)))
    ports = {Session(world, port).allocate()[0].port for port in range(10)}
    assert ports == set(range(50_000, 50_010))
    assert Session(world, 99).refused(Method.ALLOCATE, [TRANSPORT]) == 508
    Session(world, 99)
    world.advance(601)
    assert Session(world, 99).allocate()


def test_even_port() -> None:
    world = World()
    for port in range(20):
        assert Session(world, port).allocate(EVEN)[0].port % 2 == 0


def test_even_port_without_the_bit_leaves_the_next_port_to_others() -> None:
    world = World(turn_config(relay_ports=(50_000, 50_001)))
    (even,) = Session(world, 1).allocate(EVEN)
    (odd,) = Session(world, 2).allocate()
    assert (even.port, odd.port) == (50_000, 50_001)


def test_a_reserved_port_is_claimed_by_its_token() -> None:
    world = World()
    reply = Session(world, 1).do(Method.ALLOCATE, [TRANSPORT, EVEN_AND_NEXT])
    (even,) = relayed_addresses(reply)
    token = token_of(reply.first(Attribute.RESERVATION_TOKEN))
    assert len(world.relays) == 2
    (odd,) = Session(world, 2).allocate(token)
    assert (even.port % 2, odd.port) == (0, even.port + 1)
    assert Session(world, 3).refused(Method.ALLOCATE, [TRANSPORT, token]) == 508


def test_a_reservation_is_its_users_and_ends() -> None:
    world = World()
    reply = Session(world, 1).do(Method.ALLOCATE, [TRANSPORT, EVEN_AND_NEXT])
    token = token_of(reply.first(Attribute.RESERVATION_TOKEN))
    bob = Session(world, 2, user="bob")
    assert bob.refused(Method.ALLOCATE, [TRANSPORT, token]) == 508
    world.advance(31)
    assert len(world.taken(CloseRelay)) == 1
    assert Session(world, 3).refused(Method.ALLOCATE, [TRANSPORT, token]) == 508
    world.advance(600)
    assert not world.relays


def test_a_pair_whose_second_port_is_taken_is_given_back() -> None:
    world = World()
    tries: list[Address] = []

    def first_odd(address: Address) -> bool:
        tries.append(address)
        return len(tries) == 2

    world.unavailable = first_odd
    reply = Session(world).do(Method.ALLOCATE, [TRANSPORT, EVEN_AND_NEXT])
    (even,) = relayed_addresses(reply)
    assert even == tries[2]
    assert tries[3] == Address(even.ip, even.port + 1)
    assert len(world.taken(CloseRelay)) == 1
    assert len(world.relays) == 2


def test_quota_of_a_user_and_of_all() -> None:
    world = World(turn_config(limits={"allocations_per_user": 2, "allocations": 3}))
    sessions = [Session(world, port) for port in range(3)]
    sessions[0].allocate()
    sessions[1].allocate()
    assert sessions[2].refused(Method.ALLOCATE, [TRANSPORT]) == 486
    Session(world, 10, user="bob").allocate()
    assert Session(world, 11, user="bob").refused(Method.ALLOCATE, [TRANSPORT]) == 508
    sessions[0].do(Method.REFRESH, [lifetime(0)])
    sessions[2].allocate()


def test_a_reservation_counts_against_the_quota() -> None:
    world = World(turn_config(limits={"allocations_per_user": 2}))
    reply = Session(world, 1).do(Method.ALLOCATE, [TRANSPORT, EVEN_AND_NEXT])
    assert Session(world, 2).refused(Method.ALLOCATE, [TRANSPORT]) == 486
    Session(world, 3).allocate(token_of(reply.first(Attribute.RESERVATION_TOKEN)))
    assert Session(world, 4).refused(Method.ALLOCATE, [TRANSPORT]) == 486
    world.advance(601)
    assert len(Session(world, 4).allocate()) == 1
    assert len(Session(world, 5).allocate()) == 1


def test_an_allocation_ends_at_its_time() -> None:
    world = World()
    session = Session(world)
    session.allocate()
    world.advance(599)
    assert world.server.allocation_count == 1
    world.advance(1)
    assert world.server.allocation_count == 0
    assert world.taken(CloseAllocation)[0].reason == "expired"
    assert session.refused(Method.REFRESH) == 437
    assert world.server.next_deadline_ns is None


def test_an_expired_allocation_is_gone_before_anybody_removes_it() -> None:
    world = World()
    session = Session(world)
    session.allocate()
    world.now_ns += 600 * 10**9
    assert session.refused(Method.REFRESH) == 437
    assert world.server.allocation_count == 0
    session.allocate()


def test_refresh_moves_the_end() -> None:
    world = World()
    session = Session(world)
    session.allocate()
    for _ in range(5):
        world.advance(500)
        session.do(Method.REFRESH)
    world.advance(599)
    assert world.server.allocation_count == 1
    world.advance(2)
    assert world.server.allocation_count == 0


def test_refresh_to_zero_closes_and_its_retransmission_gets_the_same_answer() -> None:
    world = World()
    session = Session(world)
    session.allocate()
    datagram = session.client.request(Method.REFRESH, [lifetime(0)])
    (first,) = session.raw(datagram)
    (second,) = session.raw(datagram)
    assert first.raw == second.raw
    assert first.message_class == MessageClass.SUCCESS
    assert len(world.taken(CloseAllocation)) == 1
    assert session.refused(Method.REFRESH, [lifetime(0)]) == 437
    session.allocate()


@pytest.mark.parametrize(("family", "code"), [(IPV6, 443), (IPV4, 0)])
def test_refresh_of_another_family(family: tuple[int, bytes], code: int) -> None:
    session = Session(World())
    session.allocate()
    reply = session.ask(Method.REFRESH, [family])
    assert (error_of(reply) if code else 0) == code


def test_one_family_of_two_is_given_up() -> None:
    world = World()
    session = Session(world)
    session.allocate(ADDITIONAL_IPV6)
    peer = Address.from_text("2606:4700::1111", 1)
    assert session.bind(0x4001, peer) == 0
    datagram = session.client.request(Method.REFRESH, [IPV6, lifetime(0)])
    (first,) = session.raw(datagram)
    assert first.message_class == MessageClass.SUCCESS
    (second,) = session.raw(datagram)
    assert first.raw == second.raw
    assert not world.channels
    assert not world.permissions
    # Its port is free at once.
    assert [len(address.ip) for address in world.relays.values()] == [4]
    assert session.permit(peer) == 443
    assert session.permit(Address.from_text("8.8.8.8", 1)) == 0
    session.do(Method.REFRESH, [IPV4, lifetime(0)])
    assert world.server.allocation_count == 0


def test_behind_nat_clients_see_the_external_address() -> None:
    external = {RELAY_IP: b"\x05\x06\x07\x08"}
    world = World(turn_config(external=external))
    (address,) = Session(world).allocate()
    assert address.ip == b"\x05\x06\x07\x08"
    assert next(iter(world.relays.values())) == Address(RELAY_IP, address.port)


def test_draining_takes_no_new_allocation() -> None:
    world = World()
    session = Session(world, 1)
    session.allocate()
    world.server.drain()
    assert Session(world, 2).refused(Method.ALLOCATE, [TRANSPORT]) == 508
    session.do(Method.REFRESH)


def test_a_session_is_ended_as_a_whole() -> None:
    world = World()
    for port in range(3):
        Session(world, port).allocate()
    Session(world, 9, user="bob").allocate()
    world.carry_out(world.server.close_sessions({"alice", "carol"}, "hang-up"))
    assert world.server.allocation_count == 1
    assert {effect.reason for effect in world.taken(CloseAllocation)} == {"hang-up"}


def test_what_was_closed_early_leaves_no_deadlines() -> None:
    world = World(turn_config(limits={"error_replies_per_second": 10_000}))
    for port in range(3000):
        session = Session(world, port)
        session.allocate()
        session.do(Method.REFRESH, [lifetime(0)])
    assert world.server._table.deadline_count < 1000
    assert len(world.server._closed) <= 256


def test_another_five_tuple_is_another_client() -> None:
    world = World()
    session = Session(world)
    session.allocate()
    other = Session(world)
    other.five_tuple = FiveTuple("udp", session.five_tuple.client, SERVER_IPV6)
    other.allocate()
    assert world.server.allocation_count == 2
