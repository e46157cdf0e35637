"""One room: who is in it, who knocks, by which invitation, and who may decide about it.

Everybody sits on a seat, from their first message until their session ends; a lost connection
leaves it empty for `RESUME_S`. One of those who are in is the host. When the host leaves, the role
passes to whoever has been in longest, those first whose connection stands; when nobody is left, the
room ends and nothing of it lingers. One that an operator has prepared waits, empty, until its time
is over: whoever comes first is the host, and hands the role to whoever comes by the host's link.

An invitation is a token of which the SHA-256 alone is kept. Knocking takes one of its uses: it is
given back when they leave before they are let in, and not when they are denied. A kick ends the
invitation by which the kicked one has come; the host is given a new one in its place.

What comes of a call are effects, in the order in which they are to be carried out. `relay.signaling
.rooms` has all rooms, and is what others use.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from core.clock import Clock
from core.errors import SignalingError
from core.units import DAY_S, NS_PER_S
from relay.signaling.messages import (
    Admit,
    CreateRoom,
    Deny,
    HangUp,
    Invitation,
    Invite,
    JoinRoom,
    Kick,
    Knocking,
    KnockOver,
    NodeMessage,
    PeerAway,
    PeerBack,
    PeerJoined,
    PeerLeft,
    PeerView,
    Resume,
    RoomChanged,
    RoomView,
    SetRoom,
    Waiting,
    Warned,
)
from relay.signaling.room_billing import Payment
from relay.signaling.room_ids import Named

ROOM_PEOPLE: Final = 12
KNOCKING_MAXIMUM: Final = 24
"""Of one room; they are not among its people."""
INVITATIONS_MAXIMUM: Final = 64
"""Of one room."""
INVITATION_TTL_S: Final = DAY_S
"""Of the first one; a prepared room waits as long."""
RESUME_S: Final = 30
"""For how long a lost connection keeps its seat."""

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_DIGITS = 4
_IDS_MAXIMUM = len(_DIGITS) ** _ID_DIGITS

CheckQuota = Callable[[int, int], None]
"""Called before somebody enters, with how many are in all rooms and the time; raises
`SignalingError` where there may be no more."""
Act = HangUp | Admit | Deny | Kick | SetRoom | Invite
"""What somebody asks for who has a seat."""


class Seat(NamedTuple):
    """Somebody's place: the room's id and their own in it."""

    room: str
    peer: str


# ------------------------------------------------------------ effects


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message to whoever sits there."""

    seat: Seat
    message: NodeMessage


@dataclass(frozen=True, slots=True)
class Enter:
    """Send `Entered`: all that it says is here, but for the TURN credentials."""

    seat: Seat
    re: int | None
    session: str = field(repr=False)
    peers: list[PeerView]
    room: RoomView
    relay_only: bool
    invitation: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class End:
    """The session is over: send `Ended`, and forget the seat. For ``lost`` nobody is there."""

    seat: Seat
    reason: str


@dataclass(frozen=True, slots=True)
class Changed:
    """What `Rooms.export` has of this room, once all effects are carried out, is to be stored."""

    room: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The room is no more, nor is what was stored of it. `effect`: the id that it was asked for
    under; empty for none."""

    room: str
    effect: str = ""


Effect = Tell | Enter | End | Changed | Closed


# ------------------------------------------------------------ what is stored


class _StoredPeer(msgspec.Struct, frozen=True, array_like=True):
    """Without the name."""

    id: str
    session: bytes
    relay_only: bool
    invitation: bytes | None
    last_seq: int = 0


class _StoredInvitation(msgspec.Struct, frozen=True, array_like=True):
    digest: bytes
    uses: int | None
    expires_ns: int
    is_host: bool


class StoredRoom(msgspec.Struct, frozen=True, array_like=True):
    """A room in a record. Of `people`, who came first stands first."""

    id: str
    ids_given: int
    host: str
    locked: bool
    lobby: bool
    payment: Payment | None
    people: list[_StoredPeer]
    knocking: list[_StoredPeer]
    invitations: list[_StoredInvitation]
    kept_until_ns: int
    named: Named | None = None


_stored_decoder = msgspec.msgpack.Decoder(StoredRoom)
_stored_encoder = msgspec.msgpack.Encoder()

# ------------------------------------------------------------ one room


@dataclass(slots=True)
class _Peer:
    """Somebody on a seat.

    Attributes:
        session: SHA-256 of the secret that resumes.
        invitation: SHA-256 of what they have come by; None for who has made the room.
        last_seq: of what they have done to the room or their seat. It is stored with what came of
            that, so that after a start of the node it can't be done again by what was recorded.
        secret: kept while they knock alone, since being let in tells it once more.
    """

    seat: Seat
    name: str
    session: bytes
    relay_only: bool
    invitation: bytes | None
    last_seq: int
    is_away: bool = False
    secret: str | None = field(default=None, repr=False)

    @property
    def view(self) -> PeerView:
        return PeerView(self.seat.peer, self.name, self.is_away)

    @property
    def stored(self) -> _StoredPeer:
        return _StoredPeer(
            self.seat.peer, self.session, self.relay_only, self.invitation, self.last_seq
        )


@dataclass(slots=True)
class _Invitation:
    """`uses` are those that are left; None for many. `is_host`: who comes by it is the host."""

    uses: int | None
    expires_ns: int
    is_host: bool = False

    def is_live(self, now_ns: int) -> bool:
        return self.uses != 0 and now_ns < self.expires_ns


class RoomIndex:
    """What all rooms are looked up by: hashes of secrets, since when seats are empty, and until
    when rooms are kept though nobody is in."""

    __slots__ = ("away", "invitations", "kept", "people", "sessions")

    def __init__(self) -> None:
        self.sessions: dict[bytes, Seat] = {}
        self.invitations: dict[bytes, str] = {}
        self.away: dict[Seat, int] = {}
        self.kept: dict[str, int] = {}
        self.people = 0


class Room:
    """One room; `Rooms` has all of them.

    Attributes:
        host: the id of the host; empty where nobody is in.
        payment: where the host pays. It is over when that host has gone.
        named: where an operator has asked for it under an id.
    """

    def __init__(
        self,
        identity: str,
        index: RoomIndex,
        clock: Clock,
        check_quota: CheckQuota,
        *,
        lobby: bool,
        payment: Payment | None,
        named: Named | None = None,
    ) -> None:
        self.id = identity
        self.host = ""
        self.payment = payment
        self.named = named
        self._locked = False
        self._lobby = lobby
        self._ids_given = 0
        self._people: dict[str, _Peer] = {}
        self._knocking: dict[str, _Peer] = {}
        self._invitations: dict[bytes, _Invitation] = {}
        self._index = index
        self._clock = clock
        self._check_quota = check_quota

    # -------------------------------------------------------- coming

    def create(
        self,
        message: CreateRoom,
        relay_only: bool,
        now_ns: int,
    ) -> list[Effect]:
        """Have the host enter."""
        self._check_quota(self._index.people, now_ns)
        expires_ns = now_ns + INVITATION_TTL_S * NS_PER_S
        invitation = self._new_invitation(None, expires_ns)
        peer, secret = self._new_peer(message, relay_only, None)
        self.host = peer.seat.peer
        self._add(peer)
        return [self._entrance(peer, message.seq, secret, invitation), Changed(self.id)]

    def prepare(self, host_invitation: str, invitation: str, now_ns: int) -> None:
        """Wait for somebody to come by one of two invitations: the host's, and the others'."""
        kept_until_ns = now_ns + INVITATION_TTL_S * NS_PER_S
        self._index.kept[self.id] = kept_until_ns
        self._add_invitation(host_invitation, _Invitation(None, kept_until_ns, is_host=True))
        self._add_invitation(invitation, _Invitation(None, kept_until_ns))

    def renew(self, host_invitation: str, invitation: str, now_ns: int) -> list[Effect]:
        """Have both invitations that it was prepared with hold for as long again, and wait."""
        both = [self._invitations.get(digest_of(token)) for token in (host_invitation, invitation)]
        if None in both:
            # Whoever was kicked has come by it, and would be back by it.
            raise SignalingError("link-over", "a link of this room was ended; its host has another")
        kept_until_ns = now_ns + INVITATION_TTL_S * NS_PER_S
        for one in filter(None, both):
            one.expires_ns = kept_until_ns
        self._index.kept[self.id] = kept_until_ns
        return [Changed(self.id)]

    def join(
        self, digest: bytes, message: JoinRoom, relay_only: bool, now_ns: int
    ) -> tuple[Seat, list[Effect]]:
        """Have somebody enter or knock."""
        invitation = self._invitations[digest]
        if now_ns >= invitation.expires_ns:
            raise SignalingError("expired", "the invitation has expired")
        if invitation.uses == 0:
            raise SignalingError("used-up", "the invitation has been used")
        if self._locked and not invitation.is_host:
            raise SignalingError("locked", "the room is locked")
        self._assert_place(now_ns)
        knocks = self._lobby and not invitation.is_host
        if knocks and len(self._knocking) >= KNOCKING_MAXIMUM:
            raise SignalingError("full", "too many people wait to be let in")
        if self._ids_given >= _IDS_MAXIMUM:
            raise SignalingError("full", "the room has seen as many people as it can")
        if invitation.uses is not None:
            invitation.uses -= 1
        peer, secret = self._new_peer(message, relay_only, digest)
        if not knocks:
            entering = self._let_in(peer, message.seq, secret, is_host=invitation.is_host)
            return peer.seat, [*entering, Changed(self.id)]
        peer.secret = secret
        self._knocking[peer.seat.peer] = peer
        return peer.seat, [
            Tell(peer.seat, Waiting(message.seq, secret)),
            *self._tell_host(Knocking(peer.view)),
            Changed(self.id),
        ]

    def resume(self, seat: Seat, message: Resume) -> list[Effect]:
        """Have somebody back on their seat."""
        peer = self._peer(seat)
        peer.last_seq = message.seq
        was_away, peer.is_away = peer.is_away, False
        self._index.away.pop(seat, None)
        was_named, peer.name = peer.name, peer.name if message.name is None else message.name
        if seat.peer in self._knocking:
            peer.secret = message.session
            effects: list[Effect] = [Tell(seat, Waiting(message.seq, message.session))]
            return (
                effects
                if peer.name == was_named
                else effects + self._tell_host(Knocking(peer.view))
            )
        effects = [self._entrance(peer, message.seq, message.session)]
        if was_away or message.fresh:
            back = PeerBack(seat.peer, message.fresh, peer.name)
            effects += self._tell(back, without=seat.peer)
        return effects

    # -------------------------------------------------------- what those do who are there

    def act(self, seat: Seat, message: Act, now_ns: int) -> list[Effect]:
        """Carry out what somebody asks for."""
        self._peer(seat).last_seq = message.seq
        if isinstance(message, HangUp):
            return self.remove(seat.peer, "left")
        if seat.peer != self.host:
            raise SignalingError("not-host", "only the host may do this")
        match message:
            case Admit():
                knocker = self._find(self._knocking, message.peer)
                self._assert_place(now_ns)
                del self._knocking[message.peer]
                secret, knocker.secret = knocker.secret, None
                effects = self._let_in(knocker, None, secret, is_host=False)
                return [*self._tell_host(KnockOver(message.peer)), *effects, Changed(self.id)]
            case Deny():
                self._find(self._knocking, message.peer)
                return self.remove(message.peer, "denied")
            case Kick():
                return self._kick(self._find(self._people, message.peer), now_ns)
            case SetRoom():
                return self._set(message)
            case Invite():
                expires_ns = now_ns + message.ttl_s * NS_PER_S
                self._make_place_for_invitation(now_ns)
                token = self._new_invitation(message.uses, expires_ns)
                answer = Invitation(message.seq, token, message.uses, message.ttl_s)
                return [Tell(seat, answer), Changed(self.id)]

    def _kick(self, peer: _Peer, now_ns: int) -> list[Effect]:
        if peer.seat.peer == self.host:
            raise SignalingError("wrong-state", "a host leaves, and is not kicked")
        effects = self.remove(peer.seat.peer, "kicked")
        ended = None
        if peer.invitation is not None:
            ended = self._invitations.pop(peer.invitation, None)
            self._index.invitations.pop(peer.invitation, None)
        if ended is not None and ended.is_live(now_ns):
            token = self._new_invitation(ended.uses, ended.expires_ns, is_host=ended.is_host)
            ttl_s = -((now_ns - ended.expires_ns) // NS_PER_S)
            effects += self._tell_host(Invitation(None, token, ended.uses, ttl_s))
        return effects

    def _set(self, message: SetRoom) -> list[Effect]:
        self._locked, self._lobby = message.locked, message.lobby
        effects: list[Effect] = []
        if self._locked:
            for peer in list(self._knocking):
                effects += self.remove(peer, "locked")
        return [*effects, *self._tell_room(), Changed(self.id)]

    # -------------------------------------------------------- going

    def lose(self, seat: Seat, now_ns: int) -> list[Effect]:
        """The connection of whoever sits there is lost."""
        peer = self._peer(seat)
        if peer.is_away:
            return []
        peer.is_away = True
        peer.secret = None
        self._index.away[seat] = now_ns
        if seat.peer in self._knocking:
            return []
        return self._tell(PeerAway(seat.peer), without=seat.peer)

    def remove(self, peer_id: str, reason: str) -> list[Effect]:
        """Somebody who is in or knocks has gone for good. The last one ends the room."""
        knocker = self._knocking.pop(peer_id, None)
        if knocker is not None:
            self._forget(knocker)
            self._give_back(knocker, reason)
            return [
                End(knocker.seat, reason),
                *self._tell_host(KnockOver(peer_id)),
                Changed(self.id),
            ]
        peer = self._people.pop(peer_id)
        self._index.people -= 1
        self._forget(peer)
        effects: list[Effect] = [End(peer.seat, reason)]
        if not self._people:
            return effects + self._empty()
        effects += self._tell(PeerLeft(peer_id, reason))
        if peer_id == self.host:
            there = [one for one in self._people.values() if not one.is_away]
            self.host = (there or list(self._people.values()))[0].seat.peer
            if self.payment is not None:
                self.payment = msgspec.structs.replace(self.payment, is_over=True)
            effects += self._tell_room()
        return [*effects, Changed(self.id)]

    def _empty(self) -> list[Effect]:
        """Nobody is in any more."""
        if self.id not in self._index.kept:
            return self.close("room-closed")
        # There is nobody who could unlock it, or let somebody in.
        self.host, self._locked, self._lobby = "", False, False
        effects: list[Effect] = []
        for knocker in list(self._knocking):
            effects += self.remove(knocker, "room-closed")
        return [*effects, Changed(self.id)]

    def close(self, reason: str) -> list[Effect]:
        """End everybody's session, and the room."""
        everybody = [*self._people.values(), *self._knocking.values()]
        self._index.people -= len(self._people)
        self._people.clear()
        self._knocking.clear()
        for peer in everybody:
            self._forget(peer)
        for digest in self._invitations:
            self._index.invitations.pop(digest, None)
        self._invitations.clear()
        self._index.kept.pop(self.id, None)
        effect = "" if self.named is None else self.named.effect
        return [*(End(peer.seat, reason) for peer in everybody), Closed(self.id, effect)]

    # -------------------------------------------------------- storing

    def export(self) -> bytes:
        """What a restart needs: hashes of secrets, and neither names nor what is said."""
        return _stored_encoder.encode(
            StoredRoom(
                self.id,
                self._ids_given,
                self.host,
                self._locked,
                self._lobby,
                self.payment,
                [peer.stored for peer in self._people.values()],
                [peer.stored for peer in self._knocking.values()],
                [
                    _StoredInvitation(digest, one.uses, one.expires_ns, one.is_host)
                    for digest, one in self._invitations.items()
                ],
                self._index.kept.get(self.id, 0),
                self.named,
            )
        )

    def restore(self, stored: StoredRoom, now_ns: int) -> None:
        """Be as it was stored; everybody's connection is lost."""
        self.host, self._ids_given = stored.host, stored.ids_given
        self._locked = stored.locked
        if stored.kept_until_ns:
            self._index.kept[self.id] = stored.kept_until_ns
        for invitation in stored.invitations:
            self._invitations[invitation.digest] = _Invitation(
                invitation.uses, invitation.expires_ns, invitation.is_host
            )
            self._index.invitations[invitation.digest] = self.id
        for there, those in (
            (self._people, stored.people),
            (self._knocking, stored.knocking),
        ):
            for one in those:
                seat = Seat(self.id, one.id)
                there[one.id] = _Peer(
                    seat, "", one.session, one.relay_only, one.invitation, one.last_seq, True
                )
                self._index.sessions[one.session] = seat
                self._index.away[seat] = now_ns
        self._index.people += len(self._people)

    # -------------------------------------------------------- what is there

    def warn(self, left_s: int) -> list[Effect]:
        """Tell everybody who is in that the room ends in so many seconds."""
        return self._tell(Warned(left_s))

    @property
    def is_occupied(self) -> bool:
        """Whether anybody's connection stands who is in."""
        return any(not peer.is_away for peer in self._people.values())

    @property
    def people(self) -> int:
        """How many are in."""
        return len(self._people)

    def last_seq(self, seat: Seat) -> int:
        """See `_Peer`."""
        return self._peer(seat).last_seq

    def has(self, peer_id: str) -> bool:
        """Whether somebody is in or knocks."""
        return peer_id in self._people or peer_id in self._knocking

    def peer_untrusted(self, seat: Seat, to: str) -> Seat:
        """Where a signal goes.

        Raises:
            SignalingError: one of them is not in, or both are the same.
        """
        if seat.peer not in self._people:
            raise SignalingError("wrong-state", "who knocks can't reach anybody yet")
        if to == seat.peer or to not in self._people:
            raise SignalingError("no-peer", "there is nobody of this id")
        return Seat(self.id, to)

    def is_relay_only(self, peer_id: str) -> bool:
        """Whether nothing that somebody who is in says may name an address but a relay's."""
        return self._people[peer_id].relay_only

    def _view(self, viewer: str) -> RoomView:
        return RoomView(
            self.id,
            self.host,
            self._locked,
            self._lobby,
            ROOM_PEOPLE,
            "node" if self.payment is None else "host",
            [one.view for one in self._knocking.values()] if viewer == self.host else [],
        )

    def _find(self, there: dict[str, _Peer], peer_id: str) -> _Peer:
        peer = there.get(peer_id)
        if peer is None:
            raise SignalingError("no-peer", "there is nobody of this id")
        return peer

    def _assert_place(self, now_ns: int) -> None:
        if len(self._people) >= ROOM_PEOPLE:
            raise SignalingError(
                "full", f"a room has {ROOM_PEOPLE} people at most", maximum=ROOM_PEOPLE
            )
        self._check_quota(self._index.people, now_ns)

    def _entrance(
        self, peer: _Peer, re: int | None, secret: str, invitation: str | None = None
    ) -> Enter:
        others = [one.view for one in self._people.values() if one is not peer]
        view = self._view(peer.seat.peer)
        return Enter(peer.seat, re, secret, others, view, peer.relay_only, invitation)

    def _let_in(
        self, peer: _Peer, re: int | None, secret: str | None, *, is_host: bool
    ) -> list[Effect]:
        """Have somebody enter, by a host's invitation or not. Without a secret they are away, and
        hear of it when back."""
        effects: list[Effect] = []
        before = self._people.get(self.host)
        came_by = before and before.invitation and self._invitations.get(before.invitation)
        passes = before is None or (is_host and not (came_by and came_by.is_host))
        if passes:
            self.host = peer.seat.peer
        self._add(peer)
        if secret is not None:
            effects.append(self._entrance(peer, re, secret))
        effects += self._tell(PeerJoined(peer.view), without=peer.seat.peer)
        return effects + self._tell_room(without=peer.seat.peer) if passes else effects

    def _add(self, peer: _Peer) -> None:
        self._people[peer.seat.peer] = peer
        self._index.people += 1

    def _new_peer(
        self, message: CreateRoom | JoinRoom, relay_only: bool, invitation: bytes | None
    ) -> tuple[_Peer, str]:
        """Somebody with the next id, and their secret."""
        number, digits = self._ids_given, ""
        for _ in range(_ID_DIGITS):
            number, digit = divmod(number, len(_DIGITS))
            digits = _DIGITS[digit] + digits
        self._ids_given += 1
        secret = new_secret(self._clock)
        seat = Seat(self.id, digits)
        digest = digest_of(secret)
        self._index.sessions[digest] = seat
        return _Peer(seat, message.name, digest, relay_only, invitation, message.seq), secret

    def _peer(self, seat: Seat) -> _Peer:
        return self._people.get(seat.peer) or self._knocking[seat.peer]

    def _forget(self, peer: _Peer) -> None:
        self._index.sessions.pop(peer.session, None)
        self._index.away.pop(peer.seat, None)

    def _give_back(self, knocker: _Peer, reason: str) -> None:
        assert knocker.invitation is not None
        invitation = self._invitations.get(knocker.invitation)
        if reason != "denied" and invitation is not None and invitation.uses is not None:
            invitation.uses += 1

    def _new_invitation(self, uses: int | None, expires_ns: int, *, is_host: bool = False) -> str:
        token = new_secret(self._clock)
        self._add_invitation(token, _Invitation(uses, expires_ns, is_host))
        return token

    def _add_invitation(self, token: str, invitation: _Invitation) -> None:
        digest = digest_of(token)
        self._invitations[digest] = invitation
        self._index.invitations[digest] = self.id

    def _make_place_for_invitation(self, now_ns: int) -> None:
        """Those that nobody can use any more are kept until then, to say why."""
        if len(self._invitations) < INVITATIONS_MAXIMUM:
            return
        waiting = {knocker.invitation for knocker in self._knocking.values()}
        for digest, invitation in self._invitations.items():
            # A use may be given back to what somebody knocks by.
            if not invitation.is_live(now_ns) and digest not in waiting:
                del self._invitations[digest]
                self._index.invitations.pop(digest, None)
                return
        raise SignalingError(
            "too-many",
            f"a room has {INVITATIONS_MAXIMUM} invitations at most",
            maximum=INVITATIONS_MAXIMUM,
        )

    def _tell(self, message: NodeMessage, without: str | None = None) -> list[Effect]:
        """To everybody who is in and whose connection stands."""
        return [
            Tell(peer.seat, message)
            for peer in self._people.values()
            if not peer.is_away and peer.seat.peer != without
        ]

    def _tell_host(self, message: NodeMessage) -> list[Effect]:
        host = self._people.get(self.host)
        return [] if host is None or host.is_away else [Tell(host.seat, message)]

    def _tell_room(self, without: str | None = None) -> list[Effect]:
        return [
            Tell(peer.seat, RoomChanged(self._view(peer.seat.peer)))
            for peer in self._people.values()
            if not peer.is_away and peer.seat.peer != without
        ]


def new_secret(clock: Clock) -> str:
    """What only its owner knows: 32 random bytes in base64url."""
    return urlsafe_b64encode(clock.random_bytes(32)).decode().rstrip("=")


def digest_of(secret: str) -> bytes:
    """What is kept of a secret."""
    return sha256(secret.encode()).digest()


def decode_room(record: bytes) -> StoredRoom:
    """A room as `Room.export` has said it.

    Raises:
        ValueError: it is none.
    """
    try:
        return _stored_decoder.decode(record)
    except msgspec.DecodeError as error:
        raise ValueError("it is no room's record") from error


def effect_of(record: bytes) -> str:
    """The id that a stored room was asked for under; empty for none, and where the record can't be
    read."""
    try:
        named = decode_room(record).named
    except ValueError:
        return ""
    return "" if named is None else named.effect
