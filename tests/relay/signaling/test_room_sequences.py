"""Random lives of rooms: no ghosts, one host, never too many, everybody told of everybody once."""

from __future__ import annotations

import contextlib
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from core.clock import VirtualClock
from core.errors import SignalingError
from relay.signaling.messages import Admit, Deny, HangUp, Invite, Kick, SetRoom
from relay.signaling.room import INVITATION_TTL_S, KNOCKING_MAXIMUM, RESUME_S, ROOM_PEOPLE
from relay.signaling.rooms import Prepared, Rooms
from tests.support.room_pages import Page, Pages, no_quota


class Life(RuleBasedStateMachine):
    """A node's rooms. `Page` asserts of each message that it makes sense after those before."""

    def __init__(self) -> None:
        super().__init__()
        clock = VirtualClock()
        self.pages = Pages(Rooms(clock, no_quota), clock)
        self.lost_at_s: dict[Page, float] = {}
        self.prepared: dict[str, Prepared] = {}

    def drawn(self, data: st.DataObject, those: list[Page]) -> Page:
        return data.draw(st.sampled_from(those), label="page")

    def hosts(self) -> list[Page]:
        return [
            page
            for page in self.pages.living()
            if page.is_in and page.is_connected and page.host == page.seat.peer
        ]

    @precondition(lambda self: len(self.pages.rooms) < 3)
    @rule(lobby=st.booleans())
    def create(self, lobby: bool) -> None:
        self.pages.create(lobby=lobby)

    @precondition(lambda self: len(self.pages.rooms) < 3)
    @rule()
    def prepare(self) -> None:
        prepared = self.pages.prepare()
        self.prepared[prepared.room] = prepared

    @precondition(lambda self: self.pages.pages or self.prepared)
    @rule(data=st.data(), many=st.sampled_from([1, 2, 2 * ROOM_PEOPLE]))
    def join(self, data: st.DataObject, many: int) -> None:
        tokens = [token for page in self.pages.pages.values() for token in page.invitations]
        for one in self.prepared.values():
            tokens += [one.host_invitation, one.invitation]
        token = data.draw(st.sampled_from(tokens))
        for _ in range(many):
            with contextlib.suppress(SignalingError):
                self.pages.join(token)

    @precondition(lambda self: self.hosts())
    @rule(data=st.data(), kind=st.sampled_from([Admit, Admit, Deny, Kick]))
    def decide(self, data: st.DataObject, kind: Any) -> None:
        host = self.drawn(data, self.hosts())
        those = [page.seat.peer for page in self.pages.living(host.seat.room)]
        with contextlib.suppress(SignalingError):
            self.pages.act(host, kind(1, data.draw(st.sampled_from(those))))

    @precondition(lambda self: self.hosts())
    @rule(data=st.data())
    def admit_all(self, data: st.DataObject) -> None:
        host = self.drawn(data, self.hosts())
        for peer in sorted(host.knocking):
            with contextlib.suppress(SignalingError):
                self.pages.act(host, Admit(1, peer))

    @precondition(lambda self: self.hosts())
    @rule(data=st.data(), locked=st.booleans(), lobby=st.booleans())
    def set_room(self, data: st.DataObject, locked: bool, lobby: bool) -> None:
        self.pages.act(self.drawn(data, self.hosts()), SetRoom(1, locked, lobby))

    @precondition(lambda self: self.hosts())
    @rule(data=st.data(), uses=st.none() | st.integers(1, 2), ttl_s=st.integers(60, 90))
    def invite(self, data: st.DataObject, uses: int | None, ttl_s: int) -> None:
        with contextlib.suppress(SignalingError):
            self.pages.act(self.drawn(data, self.hosts()), Invite(1, uses, ttl_s))

    @precondition(lambda self: any(page.is_connected for page in self.pages.living()))
    @rule(data=st.data(), lost=st.booleans())
    def go(self, data: st.DataObject, lost: bool) -> None:
        page = self.drawn(data, [page for page in self.pages.living() if page.is_connected])
        if lost:
            self.lost_at_s[page] = self.pages.clock.unix_s()
            self.pages.lose(page)
        else:
            self.pages.act(page, HangUp(1))
            assert page.ended == "left"

    @precondition(lambda self: self.pages.living())
    @rule(data=st.data(), fresh=st.booleans())
    def resume(self, data: st.DataObject, fresh: bool) -> None:
        # A living session can always be taken up: those past their time have ended.
        self.pages.resume(self.drawn(data, self.pages.living()), fresh=fresh)

    @rule(duration_s=st.sampled_from([1, 5, RESUME_S]))
    def advance(self, duration_s: int) -> None:
        self.pages.advance(duration_s)

    @rule()
    def kill(self) -> None:
        for page in self.pages.living():
            self.lost_at_s[page] = self.pages.clock.unix_s()
        self.pages.kill(Rooms(self.pages.clock, no_quota))

    @invariant()
    def nobody_is_a_ghost(self) -> None:
        for page in self.pages.living():
            if not page.is_connected:
                assert self.pages.clock.unix_s() < self.lost_at_s[page] + RESUME_S
        rooms = {page.seat.room for page in self.pages.living() if page.is_in}
        # Somebody may have been let in while away, and not know it yet.
        assert rooms <= {room.id for room in self.pages.rooms} == self.pages.stored.keys()
        ids = {room.id for room in self.pages.rooms}
        assert ids <= {page.seat.room for page in self.pages.living()} | self.prepared.keys()
        for page in self.pages.pages.values():
            found = self.pages.rooms.find_untrusted(page.secret)
            assert found == (page.seat if page.ended is None else None)

    @invariant()
    def all_agree(self) -> None:
        for room in self.pages.rooms:
            living = self.pages.living(room.id)
            there = [page for page in living if page.is_in and page.is_connected]
            hosts = {page.host for page in there}
            assert len(hosts) <= 1
            assert room.people <= ROOM_PEOPLE
            assert len(living) - room.people <= KNOCKING_MAXIMUM
            assert room.is_occupied == bool(there)
            for page in there:
                # Who is in, as one sees it, is who is in.
                assert len(page.peers) == room.people - 1
                others = {other.seat.peer for other in there if other is not page}
                assert others == {peer for peer, away in page.peers.items() if not away}
                assert {*page.peers, page.seat.peer} >= hosts
                waiting = len(living) - room.people if page.seat.peer == page.host else 0
                assert len(page.knocking) == waiting
        assert self.pages.rooms.people == sum(room.people for room in self.pages.rooms)

    def teardown(self) -> None:
        for page in self.pages.living():
            if page.is_connected:
                self.lost_at_s[page] = self.pages.clock.unix_s()
                self.pages.lose(page)
        self.pages.advance(RESUME_S)
        assert self.pages.living() == []
        assert {room.id for room in self.pages.rooms} == self.prepared.keys()
        self.pages.advance(INVITATION_TTL_S)
        assert (len(self.pages.rooms), self.pages.rooms.people) == (0, 0)
        assert self.pages.stored == {}


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40)
