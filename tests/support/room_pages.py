"""The pages of all people in a node's rooms, as they see what the node tells them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from core.clock import VirtualClock
from core.units import NS_PER_S
from relay.signaling.messages import (
    CreateRoom,
    Invitation,
    JoinRoom,
    KnockOver,
    NodeMessage,
    PeerAway,
    PeerBack,
    PeerJoined,
    PeerLeft,
    Resume,
    RoomChanged,
    Waiting,
)
from relay.signaling.messages import Knocking as KnockingMessage
from relay.signaling.room import Act, Changed, Closed, Effect, End, Enter, Seat, Tell
from relay.signaling.room_billing import Payment
from relay.signaling.rooms import Prepared, Rooms


def no_quota(people: int, now_ns: int) -> None:
    """As many as like."""


@dataclass(eq=False)
class Page:
    """Somebody's page.

    Attributes:
        peers: id -> whether away, of the others, as it was told.
        ended: why, when its session is over.
    """

    seat: Seat
    secret: str = ""
    is_connected: bool = True
    is_in: bool = False
    host: str = ""
    relay_only: bool = False
    peers: dict[str, bool] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    knocking: set[str] = field(default_factory=set)
    invitations: list[str] = field(default_factory=list)
    received: list[NodeMessage | Enter] = field(default_factory=list)
    ended: str | None = None

    def enter(self, effect: Enter) -> None:
        self.received.append(effect)
        self.is_in, self.secret, self.relay_only = True, effect.session, effect.relay_only
        self.host = effect.room.host
        self.peers = {peer.id: peer.away for peer in effect.peers}
        self.names = {peer.id: peer.name for peer in effect.peers}
        self.knocking = {peer.id for peer in effect.room.knocking}
        if effect.invitation is not None:
            self.invitations.append(effect.invitation)

    def hear(self, message: NodeMessage) -> None:
        """Each message has to make sense after those before it."""
        self.received.append(message)
        match message:
            case Waiting():
                assert not self.is_in
                self.secret = message.session
                return
            case PeerJoined():
                assert message.peer.id not in self.peers
                assert message.peer.id != self.seat.peer
                self.peers[message.peer.id] = message.peer.away
                self.names[message.peer.id] = message.peer.name
            case PeerLeft():
                del self.peers[message.peer]
            case PeerAway():
                assert not self.peers[message.peer]
                self.peers[message.peer] = True
            case PeerBack():
                assert self.peers[message.peer] or message.fresh
                self.peers[message.peer] = False
                self.names[message.peer] = message.name
            case RoomChanged():
                self.host = message.room.host
                self.knocking = {peer.id for peer in message.room.knocking}
            case KnockingMessage():
                assert self.host == self.seat.peer
                self.knocking.add(message.peer.id)
            case KnockOver():
                self.knocking.remove(message.peer)
            case Invitation():
                self.invitations.append(message.invitation)
        assert self.is_in


class Pages:
    """All pages, and what the node would keep on its disk."""

    def __init__(self, rooms: Rooms, clock: VirtualClock) -> None:
        self.rooms = rooms
        self.clock = clock
        self.pages: dict[Seat, Page] = {}
        self.stored: dict[str, bytes] = {}
        self._seq = 0

    @property
    def now_ns(self) -> int:
        return int(self.clock.unix_s()) * NS_PER_S

    def seq(self) -> int:
        self._seq += 1
        return self._seq

    def carry_out(self, effects: Iterable[Effect]) -> None:
        changed = []
        for effect in effects:
            match effect:
                case Tell() | Enter() | End():
                    page = self.pages[effect.seat]
                    assert page.ended is None
                    if isinstance(effect, End):
                        page.ended = effect.reason
                    else:
                        assert page.is_connected, "nothing is sent where nobody listens"
                        if isinstance(effect, Enter):
                            page.enter(effect)
                        else:
                            page.hear(effect.message)
                case Changed():
                    changed.append(effect.room)
                case Closed():
                    self.stored.pop(effect.room, None)
        for room in changed:
            record = self.rooms.export(room)
            if record is not None:
                self.stored[room] = record

    def create(self, payment: Payment | None = None, **options: object) -> Page:
        message = CreateRoom(self.seq(), **options)  # type: ignore[arg-type]
        seat, effects = self.rooms.create(message, self.now_ns, payment)
        page = self.pages[seat] = Page(seat)
        self.carry_out(effects)
        return page

    def prepare(self) -> Prepared:
        prepared, effects = self.rooms.prepare(self.now_ns)
        self.carry_out(effects)
        return prepared

    def join(self, invitation: str, **options: object) -> Page:
        message = JoinRoom(self.seq(), invitation, **options)  # type: ignore[arg-type]
        seat, effects = self.rooms.join_untrusted(message, self.now_ns)
        page = self.pages[seat] = Page(seat)
        self.carry_out(effects)
        return page

    def act(self, page: Page, act: Act) -> None:
        self.carry_out(self.rooms.act_untrusted(page.seat, act, self.now_ns))

    def lose(self, page: Page) -> None:
        page.is_connected = False
        self.carry_out(self.rooms.lose(page.seat, self.now_ns))

    def resume(self, page: Page, *, fresh: bool = False, name: str | None = None) -> None:
        message = Resume(self.seq(), page.secret, fresh, name)
        seat, effects = self.rooms.resume_untrusted(message, self.now_ns)
        assert seat == page.seat
        page.is_connected = True
        self.carry_out(effects)

    def advance(self, duration_s: int) -> None:
        self.clock.advance_s(duration_s)
        self.carry_out(self.rooms.tick(self.now_ns))

    def living(self, room: str | None = None) -> list[Page]:
        return [
            page
            for page in self.pages.values()
            if page.ended is None and room in (None, page.seat.room)
        ]

    def kill(self, rooms: Rooms, *, host_pays: bool = False) -> None:
        """The node dies; another one takes up what was stored, as `rooms`."""
        self.rooms = rooms
        for record in self.stored.values():
            rooms.restore(record, self.now_ns, host_pays=host_pays)
        for page in self.living():
            page.is_connected = False
