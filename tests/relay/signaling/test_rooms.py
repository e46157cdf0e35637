"""Rooms: invitations, the lobby, the host's acts, lost connections, restarts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
import pytest

from core.clock import VirtualClock
from core.errors import SignalingError
from core.units import NS_PER_S
from relay.signaling.messages import (
    Admit,
    CreateRoom,
    Deny,
    HangUp,
    Invitation,
    Invite,
    Kick,
    PeerBack,
    PeerJoined,
    PeerLeft,
    Resume,
    SetRoom,
    Warned,
)
from relay.signaling.room import (
    INVITATION_TTL_S,
    INVITATIONS_MAXIMUM,
    KNOCKING_MAXIMUM,
    RESUME_S,
    ROOM_PEOPLE,
    Act,
    Enter,
)
from relay.signaling.room_billing import Payment
from relay.signaling.rooms import ROOMS_MAXIMUM, Rooms
from tests.support.room_pages import Page, Pages, no_quota


@pytest.fixture
def pages() -> Pages:
    clock = VirtualClock()
    return Pages(Rooms(clock, no_quota), clock)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(SignalingError) as refused:
        act()
    return refused.value.code


def invite(pages: Pages, host: Page, uses: int | None = 1, ttl_s: int = 3600) -> str:
    pages.act(host, Invite(pages.seq(), uses, ttl_s))
    return host.invitations[-1]


# ------------------------------------------------------------ coming


def test_who_makes_a_room_is_its_host_and_is_given_an_invitation(pages: Pages) -> None:
    host = pages.create(name="Alice")
    (entered,) = host.received
    assert isinstance(entered, Enter)
    assert (entered.room.host, entered.peers) == (host.seat.peer, [])
    assert (entered.room.pays, entered.room.people_maximum) == ("node", ROOM_PEOPLE)
    guest = pages.join(host.invitations[0], name="Bob")
    assert guest.names == {host.seat.peer: "Alice"}
    assert host.names == {guest.seat.peer: "Bob"}
    assert guest.invitations == []


def test_who_comes_first_has_the_smaller_id(pages: Pages) -> None:
    host = pages.create()
    ids = [host.seat.peer]
    for _ in range(50):
        guest = pages.join(host.invitations[0])
        ids.append(guest.seat.peer)
        pages.act(guest, HangUp(pages.seq()))
    assert ids == sorted(set(ids))


def test_the_first_invitation_is_good_for_many_for_a_day(pages: Pages) -> None:
    host = pages.create()
    for _ in range(3):
        pages.join(host.invitations[0])
    pages.advance(INVITATION_TTL_S - 1)
    pages.join(host.invitations[0])
    pages.advance(1)
    assert refusal(lambda: pages.join(host.invitations[0])) == "expired"


def test_an_invitation_for_one_is_used_once(pages: Pages) -> None:
    host = pages.create()
    token = invite(pages, host, uses=1)
    guest = pages.join(token)
    assert refusal(lambda: pages.join(token)) == "used-up"
    pages.act(guest, HangUp(pages.seq()))
    assert refusal(lambda: pages.join(token)) == "used-up"


def test_an_invitation_that_nobody_has_made(pages: Pages) -> None:
    pages.create()
    assert refusal(lambda: pages.join("A" * 43)) == "bad-secret"


def test_the_thirteenth_is_refused(pages: Pages) -> None:
    host = pages.create()
    guests = [pages.join(host.invitations[0]) for _ in range(ROOM_PEOPLE - 1)]
    token = invite(pages, host, uses=1)
    assert refusal(lambda: pages.join(token)) == "full"
    pages.act(guests[0], HangUp(pages.seq()))
    # What was refused has used nothing up.
    pages.join(token)
    assert refusal(lambda: pages.join(host.invitations[0])) == "full"


def test_a_seat_whose_connection_is_lost_is_not_free(pages: Pages) -> None:
    host = pages.create()
    guests = [pages.join(host.invitations[0]) for _ in range(ROOM_PEOPLE - 1)]
    pages.lose(guests[0])
    assert refusal(lambda: pages.join(host.invitations[0])) == "full"
    pages.advance(RESUME_S)
    pages.join(host.invitations[0])


def test_the_quota_is_asked_before_anybody_enters() -> None:
    clock = VirtualClock()
    asked: list[int] = []

    def three(people: int, now_ns: int) -> None:
        asked.append(people)
        if people >= 3:
            raise SignalingError("quota", "no more than three")

    pages = Pages(Rooms(clock, three), clock)
    host = pages.create(lobby=True)
    knockers = [pages.join(host.invitations[0]) for _ in range(3)]
    for knocker in knockers[:2]:
        pages.act(host, Admit(pages.seq(), knocker.seat.peer))
    assert refusal(lambda: pages.act(host, Admit(1, knockers[2].seat.peer))) == "quota"
    assert refusal(lambda: pages.join(host.invitations[0])) == "quota"
    assert refusal(pages.create) == "quota"
    assert pages.rooms.people == max(asked) == 3
    assert len(pages.rooms) == 1


def test_rooms_have_a_bound(pages: Pages) -> None:
    for _ in range(ROOMS_MAXIMUM):
        pages.rooms.create(CreateRoom(1), pages.now_ns)
    assert refusal(pages.create) == "unavailable"


def test_relays_alone_are_each_one_s_choice_unless_the_node_enforces_them(pages: Pages) -> None:
    host = pages.create(relay_only=True)
    guest = pages.join(host.invitations[0])
    assert (host.relay_only, guest.relay_only) == (True, False)
    assert pages.rooms.is_relay_only(host.seat)
    assert not pages.rooms.is_relay_only(guest.seat)
    strict = Pages(Rooms(pages.clock, no_quota, relay_only=True), pages.clock)
    host = strict.create()
    assert host.relay_only
    assert strict.join(host.invitations[0]).relay_only


# ------------------------------------------------------------ the lobby


def test_who_knocks_is_shown_to_the_host_alone_and_let_in(pages: Pages) -> None:
    host = pages.create(lobby=True)
    first = pages.join(host.invitations[0], name="Bob")
    assert not first.is_in
    pages.act(host, Admit(pages.seq(), first.seat.peer))
    second = pages.join(host.invitations[0])
    assert host.knocking == {second.seat.peer}
    assert first.knocking == set()
    assert first.is_in
    assert [type(one) for one in first.received][1:] == [Enter]
    secret = first.secret
    pages.act(host, Admit(pages.seq(), second.seat.peer))
    assert host.knocking == set()
    assert set(first.peers) == {host.seat.peer, second.seat.peer}
    # The secret is the one that they were told when they knocked.
    assert first.secret == secret
    assert pages.rooms.find_untrusted(second.secret) == second.seat


def test_who_is_denied_has_used_the_invitation(pages: Pages) -> None:
    host = pages.create(lobby=True)
    token = invite(pages, host)
    guest = pages.join(token)
    pages.act(host, Deny(pages.seq(), guest.seat.peer))
    assert guest.ended == "denied"
    assert refusal(lambda: pages.join(token)) == "used-up"


@pytest.mark.parametrize("lost", [False, True])
def test_who_goes_before_being_let_in_has_not_used_it(pages: Pages, lost: bool) -> None:
    host = pages.create(lobby=True)
    token = invite(pages, host)
    guest = pages.join(token)
    assert refusal(lambda: pages.join(token)) == "used-up"
    if lost:
        pages.lose(guest)
        pages.advance(RESUME_S)
    else:
        pages.act(guest, HangUp(pages.seq()))
    assert host.knocking == set()
    assert not pages.join(token).is_in


def test_those_who_knock_have_a_bound_of_their_own(pages: Pages) -> None:
    host = pages.create(lobby=True)
    knockers = [pages.join(host.invitations[0]) for _ in range(KNOCKING_MAXIMUM)]
    assert refusal(lambda: pages.join(host.invitations[0])) == "full"
    for knocker in knockers[: ROOM_PEOPLE - 1]:
        pages.act(host, Admit(pages.seq(), knocker.seat.peer))
    late = knockers[-1]
    assert refusal(lambda: pages.act(host, Admit(1, late.seat.peer))) == "full"
    assert late.seat.peer in host.knocking
    assert late.ended is None


def test_who_is_let_in_while_away_finds_all_when_back(pages: Pages) -> None:
    host = pages.create(lobby=True)
    guest = pages.join(host.invitations[0])
    pages.lose(guest)
    pages.act(host, Admit(pages.seq(), guest.seat.peer))
    assert host.peers == {guest.seat.peer: True}
    pages.resume(guest)
    assert guest.is_in
    assert host.peers == {guest.seat.peer: False}


def test_whoever_knocks_reaches_nobody(pages: Pages) -> None:
    host = pages.create(lobby=True)
    knocker = pages.join(host.invitations[0])
    to_host = lambda: pages.rooms.peer_untrusted(knocker.seat, host.seat.peer)  # noqa: E731
    assert refusal(to_host) == "wrong-state"
    to_knocker = lambda: pages.rooms.peer_untrusted(host.seat, knocker.seat.peer)  # noqa: E731
    assert refusal(to_knocker) == "no-peer"
    assert refusal(lambda: pages.rooms.peer_untrusted(host.seat, host.seat.peer)) == "no-peer"
    pages.act(host, Admit(pages.seq(), knocker.seat.peer))
    assert to_host() == host.seat
    assert to_knocker() == knocker.seat


# ------------------------------------------------------------ what the host may do


def test_a_locked_room_takes_nobody_and_sends_those_away_who_knock(pages: Pages) -> None:
    host = pages.create(lobby=True)
    token = invite(pages, host)
    knocker = pages.join(token)
    pages.act(host, SetRoom(pages.seq(), locked=True, lobby=True))
    assert knocker.ended == "locked"
    assert host.knocking == set()
    assert refusal(lambda: pages.join(token)) == "locked"
    pages.act(host, SetRoom(pages.seq(), locked=False, lobby=False))
    assert pages.join(token).is_in


def test_nobody_but_the_host_may_decide(pages: Pages) -> None:
    host = pages.create(lobby=True)
    guest = pages.join(host.invitations[0])
    pages.act(host, Admit(pages.seq(), guest.seat.peer))
    knocker = pages.join(host.invitations[0])
    acts: list[Act] = [
        Admit(1, knocker.seat.peer),
        Deny(1, knocker.seat.peer),
        Kick(1, host.seat.peer),
        SetRoom(1, locked=True, lobby=False),
        Invite(1),
    ]
    for page in (guest, knocker):
        for act in acts:
            assert refusal(partial(pages.act, page, act)) == "not-host"
    assert not knocker.is_in


@pytest.mark.parametrize("act", [Admit, Deny, Kick])
def test_acts_on_somebody_who_is_not_there(pages: Pages, act: type[Admit | Deny | Kick]) -> None:
    host = pages.create()
    assert refusal(lambda: pages.act(host, act(1, "zzzz"))) == "no-peer"


def test_a_host_is_not_kicked(pages: Pages) -> None:
    host = pages.create()
    assert refusal(lambda: pages.act(host, Kick(1, host.seat.peer))) == "wrong-state"


def test_who_is_kicked_can_t_come_back_by_the_same_invitation(pages: Pages) -> None:
    host = pages.create()
    first = host.invitations[0]
    rude, other = pages.join(first), pages.join(first)
    pages.advance(3600)
    pages.act(host, Kick(pages.seq(), rude.seat.peer))
    assert rude.ended == "kicked"
    assert other.received[-1] == PeerLeft(rude.seat.peer, "kicked")
    assert other.ended is None
    assert refusal(lambda: pages.join(first)) == "bad-secret"
    assert refusal(lambda: pages.resume(rude)) == "not-resumable"
    given = host.received[-1]
    assert isinstance(given, Invitation)
    assert (given.re, given.uses, given.ttl_s) == (None, None, INVITATION_TTL_S - 3600)
    assert pages.join(given.invitation).is_in


def test_a_kick_brings_no_invitation_back_that_was_used_up(pages: Pages) -> None:
    host = pages.create()
    token = invite(pages, host)
    rude = pages.join(token)
    known = list(host.invitations)
    pages.act(host, Kick(pages.seq(), rude.seat.peer))
    assert host.invitations == known
    assert refusal(lambda: pages.join(token)) == "bad-secret"


def test_a_kick_keeps_the_uses_that_are_left(pages: Pages) -> None:
    host = pages.create()
    rude = pages.join(invite(pages, host, uses=3))
    pages.act(host, Kick(pages.seq(), rude.seat.peer))
    pages.join(host.invitations[-1])
    pages.join(host.invitations[-1])
    assert refusal(lambda: pages.join(host.invitations[-1])) == "used-up"


def test_invitations_have_a_bound_that_those_do_not_fill_which_are_over(pages: Pages) -> None:
    host = pages.create()
    single = [invite(pages, host, ttl_s=60) for _ in range(INVITATIONS_MAXIMUM - 1)]
    assert refusal(lambda: invite(pages, host)) == "too-many"
    guest = pages.join(single[0])
    fresh = invite(pages, host)
    # What was used up has made place, and isn't known any more.
    assert refusal(lambda: pages.join(single[0])) == "bad-secret"
    pages.act(guest, HangUp(pages.seq()))
    pages.advance(60)
    assert refusal(lambda: pages.join(single[1])) == "expired"
    for _ in range(INVITATIONS_MAXIMUM - 2):
        invite(pages, host, ttl_s=7200)
    assert refusal(lambda: invite(pages, host)) == "too-many"
    assert pages.join(fresh).is_in


# ------------------------------------------------------------ leaving, losing, coming back


def test_the_role_of_the_host_passes_to_whoever_has_been_in_longest(pages: Pages) -> None:
    host = pages.create()
    second, third = (pages.join(host.invitations[0]) for _ in range(2))
    pages.act(host, HangUp(pages.seq()))
    assert host.ended == "left"
    assert second.host == third.host == second.seat.peer
    pages.act(second, Kick(pages.seq(), third.seat.peer))
    assert third.ended == "kicked"


def test_the_role_passes_to_those_first_whose_connection_stands(pages: Pages) -> None:
    host = pages.create()
    second, third = (pages.join(host.invitations[0]) for _ in range(2))
    pages.lose(second)
    pages.act(host, HangUp(pages.seq()))
    assert third.host == third.seat.peer


def test_a_host_whose_connection_is_lost_stays_the_host_for_a_while(pages: Pages) -> None:
    host = pages.create()
    guest = pages.join(host.invitations[0])
    pages.lose(host)
    assert guest.peers == {host.seat.peer: True}
    pages.advance(RESUME_S - 1)
    pages.resume(host)
    assert host.host == guest.host == host.seat.peer
    pages.lose(host)
    pages.advance(RESUME_S)
    assert guest.host == guest.seat.peer
    assert PeerLeft(host.seat.peer, "lost") in guest.received
    assert host.ended == "lost"
    assert refusal(lambda: pages.resume(host)) == "not-resumable"


def test_a_new_host_hears_of_those_who_knock(pages: Pages) -> None:
    host = pages.create()
    guest = pages.join(host.invitations[0])
    pages.act(host, SetRoom(pages.seq(), locked=False, lobby=True))
    knocker = pages.join(host.invitations[0])
    pages.act(host, HangUp(pages.seq()))
    assert guest.knocking == {knocker.seat.peer}
    pages.act(guest, Admit(pages.seq(), knocker.seat.peer))
    assert knocker.is_in


def test_who_comes_back_is_told_all_that_has_happened(pages: Pages) -> None:
    host = pages.create()
    guest, other = (pages.join(host.invitations[0]) for _ in range(2))
    pages.lose(guest)
    pages.act(other, HangUp(pages.seq()))
    newcomer = pages.join(host.invitations[0])
    pages.resume(guest)
    assert set(guest.peers) == {host.seat.peer, newcomer.seat.peer}
    assert PeerBack(guest.seat.peer, False, "") in newcomer.received


def test_a_page_that_is_loaded_anew_is_told_to_all(pages: Pages) -> None:
    host = pages.create()
    guest = pages.join(host.invitations[0])
    # The new page is there before the node has heard that the old one is gone.
    pages.resume(guest, fresh=True, name="Bob")
    assert host.received[-1] == PeerBack(guest.seat.peer, True, "Bob")
    received = len(host.received)
    pages.resume(guest)
    assert len(host.received) == received


def test_a_session_is_over_at_its_last_moment_even_before_the_tick(pages: Pages) -> None:
    host = pages.create()
    pages.lose(host)
    assert pages.rooms.next_deadline_ns == pages.now_ns + RESUME_S * NS_PER_S
    pages.clock.advance_s(RESUME_S)
    assert refusal(lambda: pages.resume(host)) == "not-resumable"


def test_a_connection_that_is_lost_twice_is_lost_since_the_first_time(pages: Pages) -> None:
    host = pages.create()
    guest = pages.join(host.invitations[0])
    pages.lose(guest)
    pages.advance(RESUME_S // 2)
    pages.lose(guest)
    pages.advance(RESUME_S - RESUME_S // 2)
    assert guest.ended == "lost"
    assert pages.rooms.lose(guest.seat, pages.now_ns) == []


def test_nothing_lingers_of_a_room_that_has_ended(pages: Pages) -> None:
    host = pages.create()
    pages.act(host, SetRoom(pages.seq(), locked=False, lobby=True))
    knocker = pages.join(host.invitations[0])
    assert pages.stored
    pages.act(host, HangUp(pages.seq()))
    assert knocker.ended == "room-closed"
    assert refusal(lambda: pages.join(host.invitations[0])) == "bad-secret"
    assert refusal(lambda: pages.resume(knocker)) == "not-resumable"
    assert (len(pages.rooms), pages.rooms.people, pages.stored) == (0, 0, {})
    assert pages.rooms.next_deadline_ns is None
    assert pages.rooms.export(host.seat.room) is None


def test_a_room_that_all_have_lost_ends(pages: Pages) -> None:
    host = pages.create()
    guest = pages.join(host.invitations[0])
    pages.lose(host)
    pages.advance(10)
    pages.lose(guest)
    assert not pages.rooms.is_occupied(host.seat.room)
    pages.advance(RESUME_S - 10)
    assert (host.ended, guest.ended) == ("lost", None)
    pages.advance(10)
    assert guest.ended == "lost"
    assert (len(pages.rooms), pages.stored) == (0, {})


def test_a_room_is_warned_and_ended_from_outside(pages: Pages) -> None:
    host = pages.create()
    guest = pages.join(host.invitations[0])
    pages.lose(guest)
    pages.carry_out(pages.rooms.warn(host.seat.room, 60))
    assert host.received[-1] == Warned(60)
    pages.carry_out(pages.rooms.end(host.seat.room, "no-money"))
    assert (host.ended, guest.ended) == ("no-money", "no-money")
    assert pages.rooms.end(host.seat.room, "no-money") == []
    assert pages.rooms.warn(host.seat.room, 60) == []
    assert pages.rooms.next_deadline_ns is None


def test_nobody_pays_on_for_a_room_that_they_have_left(pages: Pages) -> None:
    host = pages.create(Payment(7, bytes(16), pages.now_ns))
    guest = pages.join(host.invitations[0])
    entered = guest.received[0]
    assert isinstance(entered, Enter)
    assert entered.room.pays == "host"
    (room,) = pages.rooms
    assert room.payment is not None
    assert not room.payment.is_over
    pages.act(host, HangUp(pages.seq()))
    assert room.payment.is_over
    assert pages.stored.keys() == {room.id}


# ------------------------------------------------------------ a restart


def test_a_node_that_was_killed_has_its_rooms_again(pages: Pages) -> None:
    host = pages.create(name="Alice", relay_only=True)
    single = invite(pages, host)
    guest = pages.join(host.invitations[0], name="Bob")
    pages.act(host, SetRoom(pages.seq(), locked=False, lobby=True))
    knocker = pages.join(single, name="Carol")
    pages.advance(5)
    pages.kill(Rooms(pages.clock, no_quota))
    pages.advance(20)
    pages.resume(guest, name="Bob")
    assert guest.peers == {host.seat.peer: True}
    pages.resume(host, name="Alice")
    assert guest.names == {host.seat.peer: "Alice"}
    assert host.names == {guest.seat.peer: "Bob"}
    assert (host.relay_only, guest.relay_only) == (True, False)
    pages.resume(knocker, name="Carol")
    assert host.knocking == {knocker.seat.peer}
    assert refusal(lambda: pages.join(single)) == "used-up"
    pages.act(host, Admit(pages.seq(), knocker.seat.peer))
    assert knocker.is_in
    pages.act(host, SetRoom(pages.seq(), locked=False, lobby=False))
    # Ids go on where they were.
    assert pages.join(host.invitations[0]).seat.peer > knocker.seat.peer


def test_who_does_not_come_back_after_a_restart_is_gone(pages: Pages) -> None:
    host = pages.create()
    guest = pages.join(host.invitations[0])
    pages.kill(Rooms(pages.clock, no_quota))
    pages.resume(guest)
    pages.advance(RESUME_S)
    assert (host.ended, guest.host) == ("lost", guest.seat.peer)
    assert guest.peers == {}


def test_what_is_stored_tells_no_secret_and_no_name(pages: Pages) -> None:
    host = pages.create(name="Alice in Wonderland")
    guest = pages.join(host.invitations[0], name="Bob the Builder")
    record = pages.stored[host.seat.room]
    for told in ("Alice", "Bob", host.secret, guest.secret, host.invitations[0]):
        assert told.encode() not in record


def test_a_room_s_record_has_a_bound(pages: Pages) -> None:
    host = pages.create(name="x" * 64)
    for _ in range(INVITATIONS_MAXIMUM - 1):
        invite(pages, host, uses=1000)
    for _ in range(ROOM_PEOPLE - 2):
        pages.join(host.invitations[0])
    pages.act(host, SetRoom(pages.seq(), locked=False, lobby=True))
    for _ in range(KNOCKING_MAXIMUM):
        pages.join(host.invitations[0])
    assert len(pages.stored[host.seat.room]) < 8192


@pytest.mark.parametrize("record", [b"", b"nonsense", msgspec.msgpack.encode([1, 2, 3])])
def test_what_is_no_record_is_not_taken_up(pages: Pages, record: bytes) -> None:
    with pytest.raises(ValueError, match="record"):
        pages.rooms.restore(record, pages.now_ns, host_pays=False)


def test_a_room_is_taken_up_once_and_as_it_is_paid_for(pages: Pages) -> None:
    host = pages.create()
    record = pages.stored[host.seat.room]
    with pytest.raises(ValueError, match="this one already"):
        pages.rooms.restore(record, pages.now_ns, host_pays=False)
    Rooms(pages.clock, no_quota).restore(record, pages.now_ns, host_pays=True)
    pages.create(Payment(7, b"a payment's key.", pages.now_ns))
    (paid,) = [record for record in pages.stored.values() if b"a payment's key." in record]
    with pytest.raises(ValueError, match="do not pay"):
        Rooms(pages.clock, no_quota).restore(paid, pages.now_ns, host_pays=False)
    Rooms(pages.clock, no_quota).restore(paid, pages.now_ns, host_pays=True)


# ------------------------------------------------------------ rooms that an operator prepares


def test_a_prepared_room_waits_for_its_host(pages: Pages) -> None:
    prepared = pages.prepare()
    guest = pages.join(prepared.invitation)
    assert (guest.seat.room, guest.host) == (prepared.room, guest.seat.peer)
    host = pages.join(prepared.host_invitation)
    assert guest.host == host.host == host.seat.peer
    # A second one by the same link is not.
    assert pages.join(prepared.host_invitation).host == host.seat.peer
    assert pages.join(prepared.invitation).host == host.seat.peer


def test_the_host_of_a_prepared_room_is_let_in_whatever_was_set(pages: Pages) -> None:
    prepared = pages.prepare()
    guest = pages.join(prepared.invitation)
    pages.act(guest, SetRoom(pages.seq(), locked=True, lobby=True))
    assert refusal(lambda: pages.join(prepared.invitation)) == "locked"
    host = pages.join(prepared.host_invitation)
    assert guest.host == host.seat.peer
    pages.act(host, Kick(pages.seq(), guest.seat.peer))
    assert guest.ended == "kicked"


def test_a_prepared_room_is_there_again_after_all_have_left(pages: Pages) -> None:
    prepared = pages.prepare()
    host = pages.join(prepared.host_invitation)
    pages.act(host, SetRoom(pages.seq(), locked=False, lobby=True))
    knocker = pages.join(prepared.invitation)
    pages.act(host, HangUp(pages.seq()))
    assert knocker.ended == "room-closed"
    assert pages.join(prepared.invitation).is_in


@pytest.mark.parametrize("killed", [False, True])
def test_a_prepared_room_waits_for_a_day(pages: Pages, killed: bool) -> None:
    prepared = pages.prepare()
    if killed:
        pages.advance(60)
        pages.kill(Rooms(pages.clock, no_quota))
    pages.advance(INVITATION_TTL_S - 61)
    guest = pages.join(prepared.invitation)
    pages.act(guest, HangUp(pages.seq()))
    pages.advance(61)
    assert refusal(lambda: pages.join(prepared.host_invitation)) == "bad-secret"
    assert (len(pages.rooms), pages.stored, pages.rooms.next_deadline_ns) == (0, {}, None)


def test_a_prepared_room_ends_with_its_last_one_when_its_day_is_over(pages: Pages) -> None:
    guest = pages.join(pages.prepare().invitation)
    pages.advance(INVITATION_TTL_S)
    assert guest.ended is None
    pages.act(guest, HangUp(pages.seq()))
    assert len(pages.rooms) == 0


# ------------------------------------------------------------ the smaller things


def test_a_signal_reaches_nobody_of_another_room(pages: Pages) -> None:
    first, second = pages.create(), pages.create()
    guest = pages.join(second.invitations[0])
    reach = lambda: pages.rooms.peer_untrusted(first.seat, guest.seat.peer)  # noqa: E731
    assert refusal(reach) == "no-peer"


def test_a_secret_that_nobody_has(pages: Pages) -> None:
    pages.create()
    resume = Resume(1, "A" * 43)
    assert refusal(lambda: pages.rooms.resume_untrusted(resume, pages.now_ns)) == "not-resumable"


def test_secrets_are_all_different(pages: Pages) -> None:
    host = pages.create()
    guest = pages.join(host.invitations[0])
    secrets = {host.secret, guest.secret, *host.invitations}
    assert len(secrets) == 3
    assert all(len(secret) == 43 for secret in secrets)
    assert [type(one) for one in host.received[1:]] == [PeerJoined]
