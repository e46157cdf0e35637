"""Allocations that somebody has to pay for."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable

import pytest

from core.stun.attributes import encode_even_port
from core.stun.constants import Attribute, MessageClass, Method
from relay.turn.effects import CloseRelay, JoinSession, LeaveSession
from tests.support.turn_client import (
    TRANSPORT,
    Session,
    World,
    lifetime,
    turn_config,
)

SECRETS = ("the first secret", "the second secret")


def limited(world: World, name: str, secret: str, port: int = 1) -> Session:
    username = f"{int(world.unix_s) + 600}:{name}"
    digest = hmac.digest(secret.encode(), username.encode(), "sha1")
    return Session(world, port, user=username, password=base64.b64encode(digest).decode())


def test_who_can_not_pay_is_refused_and_leaves_nothing() -> None:
    world = World(turn_config(limits={"allocations_per_user": 1}), pays=lambda _: False)
    session = Session(world)
    for _ in range(3):
        assert session.refused(Method.ALLOCATE, [TRANSPORT]) == 403
    assert not world.relays
    assert not world.joined
    world.pays = lambda _: True
    session.allocate()
    assert len(world.joined) == 1
    session.do(Method.REFRESH, [lifetime(0)])
    assert not world.joined


def test_the_account_that_is_named_pays_or_the_one_that_is_bound() -> None:
    asked: list[str] = []

    def pays(payer: str) -> bool:
        asked.append(payer)
        return True

    payers = {SECRETS[1]: "user:shop", "bob": "tg:7"}
    world = World(turn_config(secrets=SECRETS, payers=payers), pays=pays)
    limited(world, "carol", SECRETS[0], 1).allocate()
    limited(world, "carol", SECRETS[1], 2).allocate()
    Session(world, 3).allocate()
    Session(world, 4, user="bob").allocate()
    assert asked == ["carol", "user:shop", "alice", "tg:7"]


def test_an_allocation_that_finds_no_port_leaves_its_session() -> None:
    world = World(pays=lambda _: True)
    world.unavailable = lambda _: True
    assert Session(world).refused(Method.ALLOCATE, [TRANSPORT]) == 508
    assert len(world.taken(LeaveSession)) == 1
    assert not world.joined


def test_a_retransmission_while_the_account_is_asked_is_answered_once() -> None:
    world = World(pays=lambda _: True)
    session = Session(world)
    session.ask(Method.REFRESH)
    datagram = session.client.request(Method.ALLOCATE, [TRANSPORT])
    (wish,) = world.server.receive(datagram, session.five_tuple, world.now_ns)
    assert not world.server.receive(datagram, session.five_tuple, world.now_ns)
    assert len(world.carry_out([wish])) == 1


@pytest.mark.parametrize("pays", [True, False])
def test_a_reserved_port_is_given_up_with_the_claim_that_nobody_pays(pays: bool) -> None:
    world = World(pays=lambda _: True)
    reply = Session(world, 1).do(
        Method.ALLOCATE, [TRANSPORT, (int(Attribute.EVEN_PORT), encode_even_port(True))]
    )
    token = reply.first(Attribute.RESERVATION_TOKEN)
    assert token is not None
    world.pays = lambda _: pays
    second = Session(world, 2)
    claim = [TRANSPORT, (int(Attribute.RESERVATION_TOKEN), token)]
    if pays:
        second.do(Method.ALLOCATE, claim)
        assert len(world.relays) == 2
    else:
        assert second.refused(Method.ALLOCATE, claim) == 403
        assert len(world.taken(CloseRelay)) == 1
        assert len(world.relays) == 1
    world.advance(700)
    assert not world.relays
    assert not world.joined


@pytest.mark.parametrize("pays", [None, lambda _: False])
def test_calls_are_asked_for_also_where_nobody_pays(pays: Callable[[str], bool] | None) -> None:
    world = World(turn_config(secrets=SECRETS), pays=pays)
    call = limited(world, "carol#CALL-7", SECRETS[0], 1)
    call.allocate()
    plain = limited(world, "carol", SECRETS[0], 2)
    assert plain.ask(Method.ALLOCATE, [TRANSPORT]).message_class == (
        MessageClass.SUCCESS if pays is None else MessageClass.ERROR
    )
    asked = [(one.session, one.payer) for one in world.taken(JoinSession)]
    assert asked[0] == ("CALL-7", None)
    assert len(asked) == (1 if pays is None else 2)
    call.do(Method.REFRESH, [lifetime(0)])
    assert not world.joined


def test_a_call_that_finds_no_port_leaves_also_where_nobody_pays() -> None:
    world = World(turn_config(secrets=SECRETS))
    world.unavailable = lambda _: True
    for number, name in enumerate(("carol#CALL-7", "carol"), 1):
        session = limited(world, name, SECRETS[0], number)
        assert session.refused(Method.ALLOCATE, [TRANSPORT]) == 508
    assert len(world.taken(LeaveSession)) == 1
    assert not world.joined
