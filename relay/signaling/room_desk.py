"""Carries out what pages of rooms say, and what follows from it: sessions, TURN credentials, the
meter, what is stored, who pays."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

import trio

from billing.ledger import LmdbLedger
from core.clock import Clock
from core.config import SignalingConfig
from core.errors import OperationError, SignalingError
from core.log import log_event
from relay.credential_issuer import CredentialIssuer
from relay.signaling.descriptions import IsOwn
from relay.signaling.hub import Guest, Hub
from relay.signaling.ice import ICE_TTL_S, ice_servers
from relay.signaling.messages import (
    Admit,
    CreateRoom,
    Deny,
    Ended,
    Entered,
    HangUp,
    Ice,
    IceServer,
    Invite,
    JoinRoom,
    Kick,
    PageMessage,
    RefreshIce,
    Resume,
    SetRoom,
    Signal,
    Waiting,
)
from relay.signaling.passing import pass_on_untrusted
from relay.signaling.proof import address_of_untrusted
from relay.signaling.room import (
    Act,
    Changed,
    Closed,
    Effect,
    End,
    Enter,
    Seat,
    Tell,
)
from relay.signaling.room_billing import FreeQuota, HostBilling, Payment, Verdict, Warn
from relay.signaling.room_ids import DRAWN_BYTES, Named
from relay.signaling.room_store import RoomStore
from relay.signaling.rooms import Prepared, Rooms, named_under
from relay.signaling.sessions import Handler, Session

TICK_S: Final = 1.0

_log = logging.getLogger("montana.rooms")


class RoomSessions(Protocol):
    """What a room's allocations are counted by: `relay.metering.Metering`."""

    async def open_call(self, name: str, *, rate_bytes_s: int = 0) -> bool:
        """Let allocations of this name be made, for which nobody is charged by the second."""

    async def close_call(self, name: str, reason: str) -> object:
        """End them all, and let no more be made."""


class RoomDesk:
    """Rooms, as pages reach them.

    Args:
        billing: who charges hosts; None where rooms are free.
        sessions: what the allocations of rooms are counted by.
        is_own_relay: whether a packed IP address is one that clients see this node's relays at.
        secret: 32 bytes that the links of rooms are made from; the same on every start.
    """

    def __init__(
        self,
        config: SignalingConfig,
        ledger: LmdbLedger,
        clock: Clock,
        sessions: RoomSessions,
        issuer: CredentialIssuer,
        is_own_relay: IsOwn,
        billing: HostBilling | None,
        *,
        secret: bytes,
    ) -> None:
        self._ledger = ledger
        self._metered = sessions
        self._issuer = issuer
        self._is_own_relay = is_own_relay
        self._billing = billing
        self._secret = secret
        self._store = RoomStore(ledger.store)
        now_ns = ledger.clock.now_ns()
        self._quota = FreeQuota(
            minutes_per_day=0 if billing else config.free_minutes_per_day,
            people=0 if billing else config.free_people,
            now_ns=now_ns,
            stored=self._store.quota(),
        )
        self._rate_bytes_s = 0 if billing else config.free_bytes_per_second
        self._rooms = Rooms(clock, self._quota.check, relay_only=config.relay_only)
        self._clock = clock
        self._sessions: dict[Seat, Session] = {}
        self._changed: dict[str, bytes | None] = {}
        self._ends: dict[str, int | None] = {}
        self._closed: dict[str, str] = {}
        self._preparing = trio.Lock()
        self.room_token = config.room_token
        self.hub: Hub
        self.handlers: Mapping[type[PageMessage], Handler] = {
            Signal: self._signal,
            RefreshIce: self._refresh_ice,
            **dict.fromkeys((HangUp, Admit, Deny, Kick, SetRoom, Invite), self._act),
        }

    def __len__(self) -> int:
        return len(self._rooms)

    @property
    def people(self) -> int:
        """How many are in rooms."""
        return self._rooms.people

    async def recover(self) -> None:
        """Take up the rooms of an earlier run; people may come back to them."""
        await self._store.restore(self._rooms, self._now_ns(), host_pays=self._billing is not None)
        for room in self._rooms:
            await self._open_sessions(room.id)

    async def run(self) -> None:
        """Count minutes, end what is over and store what has changed, until cancelled."""
        while True:
            await trio.sleep(TICK_S)
            await self.tick()

    async def tick(self) -> None:
        """What is to be done each second."""
        now_ns = self._now_ns()
        self._carry_out(self._rooms.tick(now_ns))
        verdicts: list[Verdict] = self._quota.tick(self._rooms, self._rooms.people, now_ns)
        if self._billing is not None:
            verdicts += await self._billing.tick(self._rooms, now_ns)
        for verdict in verdicts:
            if isinstance(verdict, Warn):
                self._carry_out(self._rooms.warn(verdict.room, verdict.left_s))
            else:
                self._carry_out(self._rooms.end(verdict.room, verdict.reason))
        self._ends.update(dict.fromkeys(self._rooms.ends.forget(now_ns)))
        changed, self._changed = self._changed, {}
        ends, self._ends = self._ends, {}
        quota = self._quota.export() if len(self._rooms) else None
        try:
            await self._store.write(changed, quota, ends)
        except OperationError as error:
            log_event(_log, logging.ERROR, "rooms can't be stored", reason=error)
            self._changed = changed | self._changed
            self._ends = ends | self._ends
        for room, reason in list(self._closed.items()):
            try:
                await self._metered.close_call(_session_of(room), reason)
            except OperationError as error:
                log_event(_log, logging.ERROR, "a room is not closed yet", reason=error)
            else:
                del self._closed[room]

    def _now_ns(self) -> int:
        return self._ledger.clock.now_ns()

    # ------------------------------------------------------------ coming

    async def create(self, guest: Guest, message: CreateRoom) -> None:
        """Make a room, whose host the page is.

        Raises:
            SignalingError: ``token-needed``, ``proof-needed``, ``bad-proof``, ``no-account``,
                ``no-money``, ``quota``, ``unavailable``.
        """
        if self.room_token and not hmac.compare_digest(
            message.token.encode(), self.room_token.encode()
        ):
            raise SignalingError("token-needed", "making a room takes the operator's token")
        payment = self._payment(guest, message)
        seat, effects = self._rooms.create(message, self._now_ns(), payment)
        try:
            await self._open_sessions(seat.room)
            if payment is not None:
                assert self._billing is not None
                await self._billing.begin(payment)
            self._seat(guest, seat, effects)
        except BaseException:
            self._carry_out(self._rooms.end(seat.room, "room-closed"))
            raise

    async def prepare(self, effect: str = "") -> tuple[str, str]:
        """A room in which nobody is yet, stored when this returns: the invitations of its host and
        of the others. Under an id (`core.api.fields.EffectId`) one room is made, and none until a
        day after it has ended; its invitations hold for a day from whenever they were asked for.

        Raises:
            SignalingError: ``unavailable``; ``room-over``: the one of this id has ended;
                ``link-over``: one of its invitations has.
            OperationError: it can't be stored.
        """
        # Who asks again at the same time is answered when it is stored, or makes it.
        async with self._preparing:
            known = self._rooms.named(effect)
            if known is not None:
                prepared = named_under(self._secret, known)
                self._carry_out(self._rooms.renew_untrusted(prepared, self._now_ns()))
                await self._store.write({prepared.room: self._rooms.export(prepared.room)})
            else:
                prepared = await self._make(effect)
        return prepared.host_invitation, prepared.invitation

    async def _make(self, effect: str) -> Prepared:
        named = None
        if effect:
            drawn = self._clock.random_bytes(DRAWN_BYTES)
            named = named_under(self._secret, Named(effect, drawn))
        prepared, effects = self._rooms.prepare(self._now_ns(), named)
        self._carry_out(effects)
        try:
            await self._open_sessions(prepared.room)
            await self._store.write({prepared.room: self._rooms.export(prepared.room)})
        except BaseException:
            # Nobody has heard of it: its id may be asked for again.
            self._carry_out(self._rooms.withdraw(prepared.room))
            raise
        return prepared

    async def _open_sessions(self, room: str) -> None:
        await self._metered.open_call(_session_of(room), rate_bytes_s=self._rate_bytes_s)

    def _payment(self, guest: Guest, message: CreateRoom) -> Payment | None:
        if self._billing is None:
            return None
        if message.proof is None:
            raise SignalingError("proof-needed", "the host of a room pays for it: sign in first")
        address = address_of_untrusted(message.proof, guest.channel.origin, guest.challenge)
        account = self._ledger.find(address)
        if account is None:
            raise SignalingError("no-money", "this account has nothing to pay for a room with")
        return self._billing.payment(self._ledger.heir(account), self._now_ns())

    async def join(self, guest: Guest, message: JoinRoom) -> None:
        """Enter a room by an invitation, or knock."""
        seat, effects = self._rooms.join_untrusted(message, self._now_ns())
        self._seat(guest, seat, effects)

    def restored(self, guest: Guest, message: Resume) -> Session:
        """The session of somebody who was in a room before the node was started anew.

        Raises:
            SignalingError: ``not-resumable``, ``replayed``.
        """
        seat = self._rooms.resumable_untrusted(message, self._now_ns())
        if seat in self._sessions:
            raise SignalingError("not-resumable", "the session is over; enter again")
        session = guest.enter(self, message.session)
        session.place = seat
        session.peer = seat.peer
        self._sessions[seat] = session
        return session

    def _seat(self, guest: Guest, seat: Seat, effects: list[Effect]) -> None:
        """Give a page that has come the session of its seat, then tell everybody."""
        try:
            session = guest.enter(self, _secret_of(effects))
        except SignalingError:
            # The page has gone meanwhile; nobody is told that it came but by its going.
            self._carry_out(effects)
            self._carry_out(self._rooms.act_untrusted(seat, HangUp(1), self._now_ns()))
            raise
        session.place = seat
        session.peer = seat.peer
        self._sessions[seat] = session
        self._carry_out(effects)

    # ------------------------------------------------------------ going

    def lost(self, session: Session) -> None:
        """The page's connection is gone; its seat is kept."""
        self._carry_out(self._rooms.lose(session.place, self._now_ns()))

    def back(self, session: Session, message: Resume) -> None:
        """The page is back."""
        seat, effects = self._rooms.resume_untrusted(message, self._now_ns())
        assert seat == session.place
        self._carry_out(effects)

    def over(self, session: Session) -> None:
        """The page has not come back."""
        self._sessions.pop(session.place, None)

    # ------------------------------------------------------------ what pages say

    def _act(self, session: Session, message: Act) -> None:
        self._carry_out(self._rooms.act_untrusted(session.place, message, self._now_ns()))

    def _signal(self, session: Session, message: Signal) -> None:
        target = self._sessions.get(self._rooms.peer_untrusted(session.place, message.to))
        if target is None or target.channel is None:
            raise SignalingError("no-peer", "they are away; they will be told all anew")
        is_own = self._is_own_relay if self._rooms.is_relay_only(session.place) else None
        passed = pass_on_untrusted(session.peer, message, is_own)
        if passed is not None:
            target.tell(passed)

    def _refresh_ice(self, session: Session, message: RefreshIce) -> None:
        session.tell(Ice(message.seq, self._ice(session.place), ICE_TTL_S))

    def _ice(self, seat: Seat) -> list[IceServer]:
        return ice_servers(self._issuer, _session_of(seat.room), seat.peer)

    # ------------------------------------------------------------ effects

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Tell():
                    session = self._sessions.get(effect.seat)
                    if session is not None:
                        session.tell(effect.message)
                case Enter():
                    self._enter(effect)
                case End():
                    self._end(effect)
                case Changed():
                    self._changed[effect.room] = self._rooms.export(effect.room)
                case Closed():
                    self._changed[effect.room] = None
                    self._closed[effect.room] = "the room is closed"
                    if effect.effect:
                        now_ns = self._now_ns()
                        self._rooms.ends.add(effect.effect, now_ns)
                        self._ends[effect.effect] = now_ns

    def _enter(self, effect: Enter) -> None:
        session = self._sessions.get(effect.seat)
        if session is None:
            return
        seat = effect.seat
        session.tell(
            Entered(
                re=effect.re,
                session=effect.session,
                you=seat.peer,
                peers=effect.peers,
                ice=self._ice(seat),
                ice_ttl_s=ICE_TTL_S,
                relay_only=effect.relay_only,
                room=effect.room,
                invitation=effect.invitation,
            )
        )

    def _end(self, effect: End) -> None:
        session = self._sessions.pop(effect.seat, None)
        if session is not None:
            session.tell(Ended(effect.reason))
            self.hub.end(session)


def _session_of(room: str) -> str:
    """What TURN credentials and the meter call a room."""
    return f"CALL-room.{room}"


def _secret_of(effects: Iterable[Effect]) -> str:
    """The secret of who has come just now."""
    for effect in effects:
        if isinstance(effect, Enter):
            return effect.session
        if isinstance(effect, Tell) and isinstance(effect.message, Waiting):
            return effect.message.session
    raise AssertionError("who comes enters or knocks")
