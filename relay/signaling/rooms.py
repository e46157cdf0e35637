"""All rooms of a node: made, entered by an invitation, taken up again, ended.

    rooms = Rooms(clock, check_quota)
    seat, effects = rooms.create(message, now_ns)

Sans-I/O: what a page has asked for and the time come in by method calls, and each returns a list of
effects (`relay.signaling.room`) in the order in which they are to be carried out. `now_ns` are
nanoseconds since 1970 that never go back, also over a restart (the ledger's clock).
"""

from __future__ import annotations

import hmac
from base64 import b32encode, urlsafe_b64encode
from collections.abc import Iterator
from typing import Final, NamedTuple

from core.clock import Clock
from core.errors import SignalingError
from core.units import NS_PER_S
from relay.signaling.messages import CreateRoom, JoinRoom, Resume
from relay.signaling.room import (
    RESUME_S,
    Act,
    Changed,
    CheckQuota,
    Closed,
    Effect,
    Room,
    RoomIndex,
    Seat,
    decode_room,
    digest_of,
    new_secret,
)
from relay.signaling.room_billing import Payment
from relay.signaling.room_ids import IDS_MAXIMUM, Named, RoomEnds
from relay.signaling.sessions import assert_newer_untrusted

ROOMS_MAXIMUM: Final = 10_000
_ID_BYTES: Final = 10

_RESUME_NS = RESUME_S * NS_PER_S


class Prepared(NamedTuple):
    """A room that waits: its id, and the invitations of the host and of the others."""

    room: str
    host_invitation: str
    invitation: str
    named: Named | None = None


def named_under(secret: bytes, named: Named) -> Prepared:
    """The room of an id, be there one or not: who asks again is given the same links, though of
    invitations the hashes alone are stored.

    Args:
        secret: 32 bytes, the same on every start.
    """

    def digest(of: str) -> bytes:
        return hmac.digest(secret, named.drawn + f"{named.effect} {of}".encode(), "sha256")

    host, others = (urlsafe_b64encode(digest(of)).decode().rstrip("=") for of in ("host", "others"))
    return Prepared(_room_id(digest("room")), host, others, named)


class Rooms:
    """All rooms of a node.

    Args:
        check_quota: see `CheckQuota`.
        relay_only: the node enforces it, whatever people choose.

    Attributes:
        ends: the ids whose rooms have ended of late.
    """

    def __init__(self, clock: Clock, check_quota: CheckQuota, *, relay_only: bool = False) -> None:
        self._clock = clock
        self._check_quota = check_quota
        self._relay_only = relay_only
        self._rooms: dict[str, Room] = {}
        self._named: dict[str, Room] = {}
        self.ends = RoomEnds()
        self._index = RoomIndex()

    def __len__(self) -> int:
        return len(self._rooms)

    def __contains__(self, room: str) -> bool:
        return room in self._rooms

    def __iter__(self) -> Iterator[Room]:
        return iter(list(self._rooms.values()))

    @property
    def people(self) -> int:
        """How many are in, in all rooms."""
        return self._index.people

    @property
    def next_deadline_ns(self) -> int | None:
        """When `tick` has something to do; None when no time runs."""
        times = list(self._index.kept.values())
        if self._index.away:
            # Those stand first that are away the longest.
            times.append(next(iter(self._index.away.values())) + _RESUME_NS)
        return min(times, default=None)

    def create(
        self, message: CreateRoom, now_ns: int, payment: Payment | None = None
    ) -> tuple[Seat, list[Effect]]:
        """Make a room, whose host enters. Where the host has to pay first, the effects are kept
        until that is done; when it can't be, `end` takes the room back, and nobody has known of it.

        Raises:
            SignalingError: ``unavailable``, or what the quota says.
        """
        self._assert_place()
        room = self._new_room(self._new_id(), message.lobby, payment)
        effects = room.create(message, message.relay_only or self._relay_only, now_ns)
        self._rooms[room.id] = room
        return Seat(room.id, room.host), effects

    def prepare(self, now_ns: int, named: Prepared | None = None) -> tuple[Prepared, list[Effect]]:
        """Make a room for an operator, in which nobody is yet, and for which no host pays.

        Args:
            named: what it is called and opened by; None for what nobody has had yet.

        Raises:
            SignalingError: ``unavailable``; ``room-over``: there has been one of this name's id.
        """
        self._assert_place()
        prepared = named or Prepared(
            self._new_id(), new_secret(self._clock), new_secret(self._clock)
        )
        if prepared.named is not None:
            self._assert_unused(prepared.named.effect)
        room = self._new_room(prepared.room, lobby=False, payment=None, named=prepared.named)
        room.prepare(prepared.host_invitation, prepared.invitation, now_ns)
        self._rooms[room.id] = room
        if prepared.named is not None:
            self._named[prepared.named.effect] = room
        return prepared, [Changed(room.id)]

    def withdraw(self, room: str) -> list[Effect]:
        """Take back a room that was prepared and could not be stored: its id is not used up."""
        if room in self._rooms and (named := self._rooms[room].named) is not None:
            self._rooms[room].named = None
            del self._named[named.effect]
        return self.end(room, "room-closed")

    def named(self, effect: str) -> Named | None:
        """What was drawn for the room of an id; None where there is none."""
        return self._named[effect].named if effect in self._named else None

    def renew_untrusted(self, prepared: Prepared, now_ns: int) -> list[Effect]:
        """Have the links of a room that was prepared under an id hold for as long again.

        Raises:
            SignalingError: ``link-over``: somebody was kicked who had come by one of them.
        """
        assert prepared.named is not None, "what has no id is not asked for again"
        room = self._named[prepared.named.effect]
        return room.renew(prepared.host_invitation, prepared.invitation, now_ns)

    def join_untrusted(self, message: JoinRoom, now_ns: int) -> tuple[Seat, list[Effect]]:
        """Have somebody enter by an invitation, or knock.

        Raises:
            SignalingError: ``bad-secret``, ``expired``, ``used-up``, ``locked``, ``full``, or what
                the quota says.
        """
        digest = digest_of(message.invitation)
        # By its hash: how long it takes to miss tells nothing of a token that is there.
        room = self._index.invitations.get(digest)
        if room is None:
            raise SignalingError("bad-secret", "there is no such invitation")
        relay_only = message.relay_only or self._relay_only
        return self._rooms[room].join(digest, message, relay_only, now_ns)

    def find_untrusted(self, secret: str) -> Seat | None:
        """The seat that a session's secret belongs to."""
        return self._index.sessions.get(digest_of(secret))

    def resumable_untrusted(self, message: Resume, now_ns: int) -> Seat:
        """The seat that a session's secret resumes.

        Raises:
            SignalingError: ``not-resumable``; ``replayed``: before the node was started anew.
        """
        seat = self.find_untrusted(message.session)
        if seat is None or now_ns >= self._index.away.get(seat, now_ns) + _RESUME_NS:
            raise SignalingError("not-resumable", "the session is over; enter again")
        assert_newer_untrusted(message.seq, self._rooms[seat.room].last_seq(seat))
        return seat

    def resume_untrusted(self, message: Resume, now_ns: int) -> tuple[Seat, list[Effect]]:
        """Have somebody back on their seat. If another connection of theirs still stands, that one
        is to be ended as ``replaced`` before the effects are carried out.

        Raises:
            SignalingError: see `resumable_untrusted`.
        """
        seat = self.resumable_untrusted(message, now_ns)
        return seat, self._rooms[seat.room].resume(seat, message)

    def act_untrusted(self, seat: Seat, message: Act, now_ns: int) -> list[Effect]:
        """Carry out what somebody asks for who has a seat.

        Raises:
            SignalingError: ``not-host``, ``no-peer``, ``full``, ``too-many``, ``wrong-state``, or
                what the quota says; nothing has happened then.
        """
        return self._closing(self._room_of(seat).act(seat, message, now_ns))

    def peer_untrusted(self, seat: Seat, to: str) -> Seat:
        """Where a `Signal` from one seat goes. Whoever sits there may be away: they are told all
        anew when they are back, so that it need not be kept.

        Raises:
            SignalingError: ``no-peer``, ``wrong-state``.
        """
        return self._room_of(seat).peer_untrusted(seat, to)

    def is_relay_only(self, seat: Seat) -> bool:
        """Whether somebody who is in has chosen relays alone, or the node has."""
        return self._relay_only or self._rooms[seat.room].is_relay_only(seat.peer)

    def lose(self, seat: Seat, now_ns: int) -> list[Effect]:
        """The connection of a session is lost; the seat is kept for `RESUME_S`. Nothing when the
        session has ended."""
        room = self._rooms.get(seat.room)
        return room.lose(seat, now_ns) if room is not None and room.has(seat.peer) else []

    def tick(self, now_ns: int) -> list[Effect]:
        """End the sessions of those who have not come back in time, and the rooms that have waited
        in vain."""
        effects: list[Effect] = []
        while self._index.away:
            seat, since_ns = next(iter(self._index.away.items()))
            if now_ns < since_ns + _RESUME_NS:
                break
            effects += self._closing(self._rooms[seat.room].remove(seat.peer, "lost"))
        for name, until_ns in list(self._index.kept.items()):
            if until_ns <= now_ns:
                # From now on it is a room as others.
                del self._index.kept[name]
                if not self._rooms[name].people:
                    effects += self.end(name, "room-closed")
        return effects

    def warn(self, room: str, left_s: int) -> list[Effect]:
        """Tell those in a room that it ends in so many seconds; nothing when it has ended."""
        return self._rooms[room].warn(left_s) if room in self._rooms else []

    def end(self, room: str, reason: str) -> list[Effect]:
        """End a room for everybody; nothing when it has ended."""
        return self._closing(self._rooms[room].close(reason)) if room in self._rooms else []

    def is_occupied(self, room: str) -> bool:
        """Whether anybody's connection stands who is in the room."""
        return room in self._rooms and self._rooms[room].is_occupied

    def export(self, room: str) -> bytes | None:
        """What a restart needs of a room, a few kilobytes; None when it has ended."""
        return self._rooms[room].export() if room in self._rooms else None

    def restore(self, record: bytes, now_ns: int, *, host_pays: bool) -> None:
        """Take up a room that was stored: everybody's connection is lost, as of now.

        Raises:
            ValueError: it can't be taken up.
        """
        stored = decode_room(record)
        if len(self._rooms) >= ROOMS_MAXIMUM or stored.id in self._rooms:
            raise ValueError("there are too many rooms, or there is this one already")
        if stored.host not in {one.id for one in stored.people} and (
            stored.people or now_ns >= stored.kept_until_ns
        ):
            raise ValueError("nobody is in the room, and nobody is waited for")
        # The other way round there are rooms that an operator has prepared.
        if stored.payment is not None and not host_pays:
            raise ValueError("hosts do not pay any more")
        room = self._new_room(stored.id, stored.lobby, stored.payment, stored.named)
        room.restore(stored, now_ns)
        self._rooms[room.id] = room
        if stored.named is not None:
            self._named[stored.named.effect] = room

    def _assert_place(self) -> None:
        if len(self._rooms) >= ROOMS_MAXIMUM:
            raise SignalingError("unavailable", "the node has as many rooms as it can")

    def _assert_unused(self, effect: str) -> None:
        assert effect not in self._named, "of one id there is one room"
        if effect in self.ends:
            raise SignalingError("room-over", "the room of this id has ended; choose another id")
        if len(self._named) + len(self.ends) >= IDS_MAXIMUM:
            raise SignalingError("unavailable", "the node remembers as many ids of rooms as it can")

    def _new_id(self) -> str:
        return _room_id(self._clock.random_bytes(_ID_BYTES))

    def _new_room(
        self, identity: str, lobby: bool, payment: Payment | None, named: Named | None = None
    ) -> Room:
        return Room(
            identity,
            self._index,
            self._clock,
            self._check_quota,
            lobby=lobby,
            payment=payment,
            named=named,
        )

    def _room_of(self, seat: Seat) -> Room:
        room = self._rooms.get(seat.room)
        assert room is not None, "whose session has ended is told so, and has no seat"
        assert room.has(seat.peer), "whose session has ended is told so, and has no seat"
        return room

    def _closing(self, effects: list[Effect]) -> list[Effect]:
        """Forget the rooms that these effects have ended."""
        for effect in effects:
            if isinstance(effect, Closed):
                self._rooms.pop(effect.room, None)
                self._named.pop(effect.effect, None)
        return effects


def _room_id(drawn: bytes) -> str:
    return b32encode(drawn[:_ID_BYTES]).decode().lower()
