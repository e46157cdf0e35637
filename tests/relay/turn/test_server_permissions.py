"""Permissions, channels, Send and ICMP (RFC 8656 sections 9 to 12), in virtual time."""

from __future__ import annotations

import pytest

from core.stun.address import Address
from core.stun.attributes import (
    decode_icmp_untrusted,
    decode_xor_address_untrusted,
    encode_address_family,
    encode_channel_number,
)
from core.stun.constants import IPV6_FAMILY, Attribute, MessageClass, Method
from core.stun.message import decode_message_untrusted
from relay.dataplane.interface import OWN_ALLOWED, OWN_NO, OWN_RELAYS_ONLY
from relay.turn.effects import InstallChannel, InstallPermission, RelayData, Reply
from tests.support.turn_client import (
    OTHER_PEER,
    PEER,
    PEER_IPV6,
    RELAY_IP,
    SERVER,
    Session,
    World,
    lifetime,
    send_indication,
    turn_config,
)

ADDITIONAL_IPV6 = (int(Attribute.ADDITIONAL_ADDRESS_FAMILY), encode_address_family(IPV6_FAMILY))
DONT_FRAGMENT = (int(Attribute.DONT_FRAGMENT), b"")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def session(world: World) -> Session:
    opened = Session(world)
    opened.allocate()
    return opened


def test_several_peers_at_once(world: World, session: Session) -> None:
    assert session.permit(PEER, OTHER_PEER, PEER) == 0
    installed = world.taken(InstallPermission)
    assert [effect.peer_ip for effect in installed] == [PEER.ip, OTHER_PEER.ip]
    assert {effect.expires_ns - world.now_ns for effect in installed} == {300 * 10**9}
    assert {effect.own for effect in installed} == {OWN_NO}


def test_all_or_none(world: World, session: Session) -> None:
    assert session.permit(PEER, Address.from_text("10.0.0.1", 1)) == 403
    assert session.permit(PEER, PEER_IPV6) == 443
    assert not world.permissions


def test_a_permission_without_a_peer_is_bad(session: Session) -> None:
    assert session.refused(Method.CREATE_PERMISSION) == 400


def test_a_permission_ends_after_five_minutes_unless_refreshed(
    world: World, session: Session
) -> None:
    session.permit(PEER)
    world.advance(299)
    session.permit(PEER)
    world.advance(299)
    assert len(world.permissions) == 1
    world.advance(2)
    assert not world.permissions


def test_limits_of_permissions_and_channels() -> None:
    limits = {"permissions_per_allocation": 3, "channels_per_allocation": 2}
    world = World(turn_config(limits=limits))
    session = Session(world)
    session.allocate()
    peers = [Address.from_text(f"8.8.8.{host}", 1) for host in range(1, 6)]
    assert session.permit(*peers[:4]) == 508
    assert session.permit(*peers[:3]) == 0
    assert session.permit(peers[3]) == 508
    assert session.permit(peers[0]) == 0
    assert session.bind(0x4000, peers[3]) == 508
    assert session.bind(0x4000, peers[0]) == 0
    assert session.bind(0x4001, peers[1]) == 0
    assert session.bind(0x4002, peers[2]) == 508
    assert session.bind(0x4001, peers[1]) == 0


@pytest.mark.parametrize(
    ("bound", "asked", "code"),
    [
        ([], (0x4000, PEER), 0),
        ([], (0x7FFF, PEER), 0),
        ([(0x4000, PEER)], (0x4000, PEER), 0),
        ([(0x4000, PEER)], (0x4001, OTHER_PEER), 0),
        ([(0x4000, PEER)], (0x4001, PEER), 400),
        ([(0x4000, PEER)], (0x4000, OTHER_PEER), 400),
        ([(0x4000, PEER)], (0x4000, Address(PEER.ip, PEER.port + 1)), 400),
        ([(0x4000, PEER)], (0x4001, Address(PEER.ip, PEER.port + 1)), 0),
        ([(0x4000, PEER), (0x4001, OTHER_PEER)], (0x4001, PEER), 400),
        ([], (0x4000, PEER_IPV6), 443),
        ([], (0x4000, Address.from_text("192.168.0.1", 1)), 403),
    ],
)
def test_channel_collisions(
    world: World,
    session: Session,
    bound: list[tuple[int, Address]],
    asked: tuple[int, Address],
    code: int,
) -> None:
    for channel, peer in bound:
        assert session.bind(channel, peer) == 0
    before = dict(world.channels)
    assert session.bind(*asked) == code
    if code:
        assert world.channels == before


@pytest.mark.parametrize("number", [0x0000, 0x3FFF, 0x8000, 0xFFFF])
def test_channels_that_are_none(session: Session, number: int) -> None:
    value = (number << 16).to_bytes(4, "big")
    reply = session.with_peers(
        Method.CHANNEL_BIND, PEER, more=[(int(Attribute.CHANNEL_NUMBER), value)]
    )
    assert reply.message_class == MessageClass.ERROR


def test_a_channel_without_number_or_peer_is_bad(session: Session) -> None:
    number = (int(Attribute.CHANNEL_NUMBER), encode_channel_number(0x4000))
    assert session.refused(Method.CHANNEL_BIND, [number]) == 400
    assert session.with_peers(Method.CHANNEL_BIND, PEER).message_class == MessageClass.ERROR


def test_a_channel_brings_a_permission_and_lasts_ten_minutes(
    world: World, session: Session
) -> None:
    assert session.bind(0x4000, PEER) == 0
    (channel,) = world.taken(InstallChannel)
    assert channel.expires_ns - world.now_ns == 600 * 10**9
    assert world.permissions
    world.advance(301)
    assert not world.permissions
    assert world.channels
    session.do(Method.REFRESH, [lifetime(3600)])
    assert session.bind(0x4000, PEER) == 0
    assert world.permissions
    world.advance(599)
    assert world.channels
    world.advance(2)
    assert not world.channels
    assert session.bind(0x4001, PEER) == 0


def test_an_expired_channel_stands_in_nobodys_way(world: World, session: Session) -> None:
    session.bind(0x4000, PEER)
    session.world.advance(500)
    session.do(Method.REFRESH)
    world.now_ns += 101 * 10**9
    assert session.bind(0x4000, OTHER_PEER) == 0
    assert world.channels == {(next(iter(world.allocations)), 0x4000): OTHER_PEER}


def test_requests_without_an_allocation(world: World) -> None:
    session = Session(world, 9)
    assert session.permit(PEER) == 437
    assert session.bind(0x4000, PEER) == 437
    assert session.refused(Method.REFRESH) == 437


FORBIDDEN = [
    "0.0.0.0",
    "0.1.2.3",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.2",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::8.8.8.8",
    "::ffff:8.8.8.8",
    "::ffff:127.0.0.1",
    "64:ff9b::808:808",
    "2002:808:808::1",
    "2001::1",
    "2001:db8::9",
    "::ffff:0:808:808",
    "3fff::1",
    "fec0::1",
    "100::1",
    "fc00::1",
    "fd12::1",
    "fe80::1",
    "ff02::1",
]


@pytest.mark.parametrize("host", FORBIDDEN)
def test_special_addresses_are_no_peers(host: str) -> None:
    world = World()
    session = Session(world)
    session.allocate(ADDITIONAL_IPV6)
    peer = Address.from_text(host, 80)
    assert session.permit(peer) == 403
    assert session.bind(0x4000, peer) == 403
    session.raw(send_indication(peer, b"x", [DONT_FRAGMENT]))
    assert not world.permissions
    assert not world.taken(RelayData)


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "172.15.0.1", "172.32.0.1", "2606:4700::1", "99.64.0.1"]
)
def test_public_addresses_are_peers(host: str) -> None:
    session = Session(World())
    session.allocate(ADDITIONAL_IPV6)
    assert session.permit(Address.from_text(host, 80)) == 0


def test_operators_lists_stand_over_the_rules() -> None:
    config = turn_config(
        allow=["10.0.0.0/8", "192.168.1.0/24"], deny=["10.1.0.0/16", "8.8.8.8/32", "192.168.1.0/24"]
    )
    session = Session(World(config))
    session.allocate()
    for host, code in {
        "10.2.0.1": 0,
        "10.1.0.1": 403,
        "8.8.8.8": 403,
        "8.8.4.4": 0,
        "192.168.1.1": 403,
        "192.168.2.1": 403,
    }.items():
        assert session.permit(Address.from_text(host, 1)) == code, host


GATEWAYS = ["::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "2002::/16", "2001::/32"]


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("64:ff9b::808:808", 0),
        ("64:ff9b::a9fe:a9fe", 403),
        ("64:ff9b::c633:6401", 403),
        ("::ffff:0:7f00:1", 403),
        ("::a00:1", 403),
        ("2002:808:808::1", 0),
        ("2002:a00:1::1", 403),
        ("2001:0:1:2:3:4:f7f7:f7f7", 0),
        ("2001:0:1:2:3:4:f5ff:fffe", 403),
        ("64:ff9b::c0a8:101", 0),
    ],
)
def test_behind_a_gateway_the_rules_of_ipv4_hold(host: str, code: int) -> None:
    session = Session(World(turn_config(allow=[*GATEWAYS, "192.168.1.0/24"])))
    session.allocate(ADDITIONAL_IPV6)
    assert session.permit(Address.from_text(host, 1)) == code


@pytest.mark.parametrize("host", ["0.0.0.0", "224.0.0.1", "::ffff:127.0.0.1", "::", "ff02::1"])
def test_no_list_opens_what_is_no_address_of_a_host(host: str) -> None:
    session = Session(World(turn_config(allow=["0.0.0.0/0", "::/0"])))
    session.allocate(ADDITIONAL_IPV6)
    assert session.permit(Address.from_text(host, 1)) == 403


def test_the_nodes_own_relays_are_peers_and_nothing_else_of_it(world: World) -> None:
    caller, callee = Session(world, 1), Session(world, 2)
    caller.allocate()
    (there,) = callee.allocate()
    assert caller.permit(there) == 0
    assert world.taken(InstallPermission)[-1].own == OWN_RELAYS_ONLY
    assert caller.bind(0x4000, there) == 0
    assert caller.bind(0x4001, Address(RELAY_IP, 22)) == 403
    assert caller.bind(0x4001, SERVER) == 403
    caller.raw(send_indication(Address(RELAY_IP, 22), b"x", [DONT_FRAGMENT]))
    assert not world.taken(RelayData)
    caller.raw(send_indication(there, b"x", [DONT_FRAGMENT]))
    assert [effect.peer for effect in world.taken(RelayData)] == [there]


def test_a_relay_that_has_ended_is_no_peer_any_more(world: World) -> None:
    caller, callee = Session(world, 1), Session(world, 2)
    caller.allocate()
    (there,) = callee.allocate()
    assert caller.bind(0x4000, there) == 0
    callee.do(Method.REFRESH, [(int(Attribute.LIFETIME), bytes(4))])
    assert caller.bind(0x4000, there) == 403


def test_an_allowed_own_address_has_every_port_but_the_listeners() -> None:
    world = World(turn_config(allow=[f"{SERVER.host}/32"]))
    session = Session(world)
    session.allocate()
    assert session.bind(0x4000, Address(RELAY_IP, 8080)) == 0
    assert world.taken(InstallPermission)[-1].own == OWN_ALLOWED
    assert session.bind(0x4001, SERVER) == 403


def test_other_addresses_of_the_machine_are_no_peers() -> None:
    inside = Address.from_text("5.5.5.5", 22)
    world = World(own=[inside.ip])
    session = Session(world)
    session.allocate()
    assert session.permit(inside) == 403


def test_behind_nat_the_external_form_means_the_relay() -> None:
    outer = b"\x05\x06\x07\x08"
    world = World(turn_config(external={RELAY_IP: outer}))
    caller, callee = Session(world, 1), Session(world, 2)
    caller.allocate()
    (there,) = callee.allocate()
    assert there.ip == outer
    assert caller.bind(0x4000, there) == 0
    (channel,) = world.taken(InstallChannel)
    assert channel.peer == Address(RELAY_IP, there.port)
    assert caller.bind(0x4001, Address(outer, 22)) == 403


def test_send_needs_a_permission_and_everything_known(world: World, session: Session) -> None:
    session.raw(send_indication(PEER, b"early", [DONT_FRAGMENT]))
    assert not world.taken(RelayData)
    session.permit(PEER)
    assert session.raw(send_indication(PEER, b"data", [DONT_FRAGMENT])) == []
    assert session.raw(send_indication(PEER, b"plain")) == []
    assert session.raw(send_indication(PEER, b"odd", [(0x7123, b"")])) == []
    assert [(effect.payload, effect.dont_fragment) for effect in world.taken(RelayData)] == [
        (b"data", True),
        (b"plain", False),
    ]
    world.advance(301)
    session.raw(send_indication(PEER, b"late", [DONT_FRAGMENT]))
    assert len(world.taken(RelayData)) == 2


def test_icmp_errors_become_data_indications(world: World, session: Session) -> None:
    session.permit(PEER)
    number = next(iter(world.allocations))
    effects = world.server.icmp_received(number, PEER, 3, 4, 1400, world.now_ns)
    (reply,) = effects
    assert isinstance(reply, Reply)
    indication = decode_message_untrusted(reply.payload)
    assert (indication.method, indication.message_class) == (Method.DATA, MessageClass.INDICATION)
    icmp = indication.first(Attribute.ICMP)
    peer = indication.first(Attribute.XOR_PEER_ADDRESS)
    assert icmp is not None
    assert peer is not None
    assert decode_icmp_untrusted(icmp) == (3, 4, 1400)
    assert decode_xor_address_untrusted(peer, indication.transaction_id) == PEER
    assert indication.first(Attribute.DATA) is None


def test_icmp_errors_are_told_seldom_and_only_with_permission(
    world: World, session: Session
) -> None:
    number = next(iter(world.allocations))

    def told(peer: Address, icmp_type: int) -> bool:
        return bool(world.server.icmp_received(number, peer, icmp_type, 1, 0, world.now_ns))

    assert not told(PEER, 3)
    session.permit(PEER)
    assert not told(PEER, 8)
    assert told(PEER, 3)
    assert not told(PEER, 3)
    world.advance(1)
    assert told(PEER, 11)
    assert not world.server.icmp_received(999, PEER, 3, 1, 0, world.now_ns)


def test_nobody_has_port_0(world: World, session: Session) -> None:
    nobody = Address(PEER.ip, 0)
    assert session.permit(nobody) == 0
    assert session.bind(0x4000, nobody) == 400
    session.raw(send_indication(nobody, b"x", [DONT_FRAGMENT]))
    assert not world.taken(RelayData)
