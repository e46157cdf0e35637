"""Who gets in (RFC 8489 section 9.2, the TURN REST API draft), and what a stranger is told."""

from __future__ import annotations

import base64
import hmac
import os
from ipaddress import ip_network

import pytest

from core.stun.attributes import (
    encode_password_algorithm,
    encode_password_algorithms,
    encode_uint32,
)
from core.stun.constants import Attribute, MessageClass, Method
from core.stun.credentials import PasswordAlgorithm, long_term_key, user_hash
from core.stun.message import Message, encode_message
from relay.turn.effects import CloseAllocation, OpenAllocation
from tests.support.turn_client import (
    OTHER_PEER,
    PEER,
    TRANSPORT,
    Session,
    World,
    error_of,
    lifetime,
    turn_config,
)

SECRETS = ("the first secret", "the second secret")


def limited(
    world: World, account: str, *, ttl_s: int = 600, secret: str = SECRETS[0], port: int = 1
) -> Session:
    """A client with a time-limited credential."""
    username = f"{int(world.unix_s) + ttl_s}:{account}"
    digest = hmac.digest(secret.encode(), username.encode(), "sha1")
    return Session(world, port, user=username, password=base64.b64encode(digest).decode())


def test_a_challenge_is_small_and_says_what_is_needed() -> None:
    session = Session(World())
    datagram = session.client.request(Method.ALLOCATE, [TRANSPORT])
    (challenge,) = session.raw(datagram)
    assert error_of(challenge) == 401
    assert challenge.first(Attribute.SOFTWARE) is None
    assert challenge.first(Attribute.REALM) == b"montana"
    assert challenge.first(Attribute.PASSWORD_ALGORITHMS) == encode_password_algorithms(
        [(PasswordAlgorithm.SHA256, b""), (PasswordAlgorithm.MD5, b"")]
    )
    assert len(challenge.raw) <= 120


@pytest.mark.parametrize("sha256", [False, True])
def test_both_algorithms_do_everything(sha256: bool) -> None:
    session = Session(World(), sha256=sha256)
    session.allocate()
    session.do(Method.REFRESH)
    assert session.permit(PEER) == 0
    assert session.bind(0x4000, PEER) == 0
    session.do(Method.REFRESH, [lifetime(0)])


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("alice", "wrong"),
        ("nobody", "alice's password"),
        ("%s%x%n", "x"),
        ("' OR 1=1 --", "x"),
        ("\u202e", "x"),
        ("a" * 508, "x"),
    ],
)
def test_who_does_not_get_in(user: str, password: str) -> None:
    session = Session(World(), user=user, password=password)
    assert session.refused(Method.ALLOCATE, [TRANSPORT]) == 401


def signed(session: Session, attributes: list[tuple[int, bytes]]) -> Message:
    (reply,) = session.raw(
        encode_message(
            Method.ALLOCATE,
            MessageClass.REQUEST,
            os.urandom(12),
            attributes,
            integrity_key=session.client.key,
        )
    )
    return reply


@pytest.mark.parametrize("missing", [Attribute.USERNAME, Attribute.REALM, Attribute.NONCE])
def test_credentials_that_are_not_whole_are_bad(missing: int) -> None:
    session = Session(World())
    session.ask(Method.REFRESH)
    whole = [TRANSPORT, *session.client.credentials()]
    reply = signed(session, [entry for entry in whole if entry[0] != missing])
    assert error_of(reply) == 400


def test_names_that_are_no_text_are_nobodys() -> None:
    session = Session(World())
    session.ask(Method.REFRESH)
    attributes = [
        (Attribute.USERNAME, b"\xff\xfe"),
        (Attribute.REALM, session.client.realm.encode()),
        (Attribute.NONCE, session.client.nonce),
    ]
    assert error_of(signed(session, [TRANSPORT, *attributes])) == 401


@pytest.mark.parametrize(
    "algorithms",
    [
        [(PasswordAlgorithm.MD5, b"")],
        [(PasswordAlgorithm.MD5, b""), (PasswordAlgorithm.SHA256, b"")],
        [(PasswordAlgorithm.SHA256, b""), (PasswordAlgorithm.MD5, b""), (3, b"")],
    ],
)
def test_bidding_down_is_found_out(algorithms: list[tuple[int, bytes]]) -> None:
    # Somebody on the way has changed the offer, and the client has answered what it got.
    session = Session(World())
    session.ask(Method.REFRESH)
    attributes = [
        TRANSPORT,
        *session.client.credentials(),
        (Attribute.PASSWORD_ALGORITHM, encode_password_algorithm(PasswordAlgorithm.MD5)),
        (Attribute.PASSWORD_ALGORITHMS, encode_password_algorithms(algorithms)),
    ]
    assert error_of(signed(session, attributes)) == 400


def test_an_algorithm_without_the_offer_is_bad() -> None:
    session = Session(World())
    session.ask(Method.REFRESH)
    chosen = (
        int(Attribute.PASSWORD_ALGORITHM),
        encode_password_algorithm(PasswordAlgorithm.SHA256),
    )
    reply = signed(session, [TRANSPORT, *session.client.credentials(), chosen])
    assert error_of(reply) == 400


def test_a_nonce_is_good_for_its_time_and_its_client() -> None:
    world = World(turn_config(nonce_lifetime_s=100))
    session = Session(world)
    session.allocate()
    world.advance(100)
    session.do(Method.REFRESH)
    world.advance(1)
    reply = session.ask(Method.REFRESH)
    assert error_of(reply) == 438
    session.client.take_challenge(reply)
    session.do(Method.REFRESH)
    thief = Session(world, 9)
    thief.client.take_challenge(reply)
    assert thief.refused(Method.ALLOCATE, [TRANSPORT]) == 438


def test_a_nonce_of_another_server_is_stale() -> None:
    session = Session(World())
    session.allocate()
    other = Session(World())
    other.client.take_challenge(
        session.raw(session.client.request(Method.REFRESH, signed=False))[0]
    )
    assert other.refused(Method.ALLOCATE, [TRANSPORT]) == 438


def test_a_nonce_from_the_future_or_changed_is_stale() -> None:
    world = World()
    session = Session(world)
    session.ask(Method.REFRESH)
    nonce = session.client.nonce
    for place in range(len(nonce)):
        world.advance(1)
        session.client.nonce = nonce[:place] + b"!" + nonce[place + 1 :]
        assert session.refused(Method.ALLOCATE, [TRANSPORT]) in (400, 438), place
        session.client.nonce = nonce
    session.allocate()


def test_an_allocation_is_its_users_alone() -> None:
    world = World()
    Session(world, 1).allocate()
    bob = Session(world, 1, user="bob")
    assert bob.refused(Method.REFRESH) == 441
    assert bob.permit(PEER) == 441
    assert bob.refused(Method.REFRESH, [lifetime(0)]) == 441
    assert world.server.allocation_count == 1


def test_the_algorithm_may_change_within_an_allocation() -> None:
    world = World()
    Session(world, 1).allocate()
    Session(world, 1, sha256=True).do(Method.REFRESH)


@pytest.mark.parametrize("secret", SECRETS)
def test_time_limited_credentials_of_each_secret(secret: str) -> None:
    world = World(turn_config(secrets=SECRETS))
    limited(world, "carol", secret=secret).allocate()
    assert limited(world, "carol", secret="another", port=2).refused(Method.ALLOCATE) == 401


def test_expiry_gates_allocate_and_nothing_else() -> None:
    world = World(turn_config(secrets=SECRETS))
    session = limited(world, "carol", ttl_s=100)
    session.allocate()
    world.advance(101)
    session.do(Method.REFRESH)
    assert session.permit(PEER) == 0
    session.do(Method.REFRESH, [lifetime(0)])
    assert session.refused(Method.ALLOCATE, [TRANSPORT]) == 401


@pytest.mark.parametrize(
    ("name", "session_name"),
    [("carol", None), ("a:b:c", None), ("carol#CALL-7", "CALL-7"), ("carol#call", None)],
)
def test_names_are_split_at_the_first_colon_and_name_a_call(
    name: str, session_name: str | None
) -> None:
    world = World(turn_config(secrets=SECRETS))
    session = limited(world, name)
    session.allocate()
    (opened,) = world.taken(OpenAllocation)
    assert opened.session == (session_name or session.client.username)


def test_quotas_count_accounts_not_credentials() -> None:
    world = World(turn_config(secrets=SECRETS, limits={"allocations_per_user": 2}))
    limited(world, "carol", ttl_s=10, port=1).allocate()
    limited(world, "carol#CALL-1", ttl_s=20, port=2).allocate()
    assert limited(world, "carol", ttl_s=30, port=3).refused(Method.ALLOCATE, [TRANSPORT]) == 486


@pytest.mark.parametrize(
    "name", ["carol", "soon:carol", ":carol", "-1:carol", "٣:carol", "9" * 13 + ":carol", "1 :x"]
)
def test_names_without_an_expiry_are_nobodys(name: str) -> None:
    world = World(turn_config(secrets=SECRETS))
    digest = hmac.digest(SECRETS[0].encode(), name.encode(), "sha1")
    session = Session(world, user=name, password=base64.b64encode(digest).decode())
    assert session.refused(Method.ALLOCATE, [TRANSPORT]) == 401


def test_without_secrets_nobody_is_time_limited() -> None:
    world = World()
    assert limited(world, "carol", secret="").refused(Method.ALLOCATE, [TRANSPORT]) == 401


def hashed(session: Session) -> Message:
    """An Allocate that hides its user name."""
    client = session.client
    key = long_term_key(client.username, client.realm, client.password)
    (reply,) = session.raw(
        encode_message(
            Method.ALLOCATE,
            MessageClass.REQUEST,
            os.urandom(12),
            [
                TRANSPORT,
                (Attribute.USERHASH, user_hash(client.username, client.realm)),
                (Attribute.REALM, client.realm.encode()),
                (Attribute.NONCE, client.nonce),
            ],
            integrity_key=key,
        )
    )
    return reply


def test_user_names_may_be_hidden_while_there_are_no_secrets() -> None:
    session = Session(World())
    session.ask(Method.REFRESH)
    # The feature bits: password algorithms and user anonymity.
    assert session.client.nonce.startswith(b"obMatJos2wAAA")
    assert hashed(session).message_class == MessageClass.SUCCESS
    with_secrets = Session(World(turn_config(secrets=SECRETS)))
    with_secrets.ask(Method.REFRESH)
    assert with_secrets.client.nonce.startswith(b"obMatJos2gAAA")
    assert error_of(hashed(with_secrets)) == 401


def test_a_removed_or_changed_user_ends() -> None:
    world = World(turn_config(secrets=SECRETS))
    Session(world, 1).allocate()
    Session(world, 2, user="bob").allocate()
    limited(world, "carol", port=3).allocate()
    changed = turn_config(secrets=(SECRETS[1],), users={"bob": "bob's password"})
    world.reconfigure(changed)
    assert [effect.reason for effect in world.taken(CloseAllocation)] == ["user removed"]
    assert world.server.allocation_count == 2
    world.reconfigure(turn_config(users={"bob": "another password"}))
    assert world.server.allocation_count == 1


def test_strangers_are_answered_so_often_a_second() -> None:
    world = World(turn_config(limits={"error_replies_per_second": 5}))
    session = Session(world)
    datagram = session.client.request(Method.ALLOCATE)
    answers = [bool(session.raw(datagram)) for _ in range(20)]
    assert answers == [True] * 5 + [False] * 15
    # Another source, and this one a second later, are not punished for it.
    assert Session(world, ip="4.3.2.1").raw(datagram)
    world.advance(1)
    assert session.raw(datagram)


def test_the_cap_counts_an_ipv6_network_as_one() -> None:
    world = World(turn_config(limits={"error_replies_per_second": 5}))
    datagram = Session(world).client.request(Method.ALLOCATE)
    answers = [bool(Session(world, ip=f"2400::{host:x}").raw(datagram)) for host in range(1, 20)]
    assert answers.count(True) == 5


def test_the_cap_does_not_touch_who_has_a_password() -> None:
    world = World(turn_config(limits={"error_replies_per_second": 2}))
    session = Session(world)
    session.allocate()
    assert [session.permit(PEER) for _ in range(10)] == [0] * 10
    assert [session.bind(0x4000, PEER) for _ in range(10)] == [0] * 10
    assert [session.refused(Method.ALLOCATE, [TRANSPORT]) for _ in range(10)] == [437] * 10


def test_exempt_networks_are_not_capped() -> None:
    limits = {"error_replies_per_second": 1, "error_replies_exempt": (ip_network("1.2.3.0/24"),)}
    world = World(turn_config(limits=limits))
    datagram = Session(world).client.request(Method.ALLOCATE)
    assert all(Session(world).raw(datagram) for _ in range(50))
    assert sum(bool(Session(world, ip="1.2.4.1").raw(datagram)) for _ in range(50)) == 1


def test_binding_with_unknown_attributes_is_capped_too() -> None:
    world = World(turn_config(limits={"error_replies_per_second": 3}))
    datagram = encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12), [(0x0003, b"1234")])
    assert sum(bool(Session(world).raw(datagram)) for _ in range(10)) == 3


def test_new_peer_rules_hold_for_what_stands_already() -> None:
    world = World()
    session = Session(world)
    session.allocate()
    assert session.permit(OTHER_PEER) == 0
    assert session.bind(0x4000, PEER) == 0
    ((allocation, _),) = world.channels
    world.reconfigure(turn_config(deny=[f"{PEER.host}/32"]))
    assert not world.channels
    assert set(world.permissions) == {(allocation, OTHER_PEER.ip)}
    assert session.bind(0x4000, PEER) == 403
    # The channel's number is free again.
    assert session.bind(0x4000, OTHER_PEER) == 0


def test_a_password_of_which_no_key_can_be_made_ends_its_user() -> None:
    world = World()
    Session(world).allocate()
    world.reconfigure(turn_config(users={"alice": "alice's\tpassword"}))
    assert not world.allocations


def test_new_lifetimes_are_taken_over() -> None:
    world = World()
    session = Session(world)
    session.allocate()
    world.reconfigure(turn_config(default_lifetime_s=70, max_lifetime_s=90))
    reply = session.do(Method.REFRESH, [lifetime(3600)])
    assert reply.first(Attribute.LIFETIME) == encode_uint32(90)
