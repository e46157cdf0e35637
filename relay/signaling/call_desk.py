"""Carries out what pages of calls say: their sessions, what passes between them, and what they are
told of the call and its price each second."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple

from billing.money import format_amount
from core.errors import SignalingError
from core.units import NS_PER_S
from relay.credential_issuer import CredentialIssuer
from relay.signaling.call_events import CallEvent, CallReceipt, CallUpdated, MoneyLow
from relay.signaling.call_heartbeats import Side
from relay.signaling.call_records import CallInfo
from relay.signaling.call_states import Status
from relay.signaling.calls import CallManager
from relay.signaling.hub import Guest, Hub
from relay.signaling.ice import ICE_TTL_S, ice_servers
from relay.signaling.init_data import TelegramProof
from relay.signaling.messages import (
    Answer,
    Beat,
    CallChanged,
    CallItem,
    CallView,
    Candidate,
    Connected,
    Description,
    Ended,
    Entered,
    HangUp,
    Ice,
    IceServer,
    OpenCall,
    PageMessage,
    Passed,
    PeerAway,
    PeerBack,
    PeerJoined,
    PeerLeft,
    PeerView,
    Receipt,
    RefreshIce,
    Resume,
    Ringing,
    RingOver,
    Signal,
    Warned,
)
from relay.signaling.room import new_secret
from relay.signaling.sessions import Handler, Session

PEER_OF: Final = {Side.CALLER: "0", Side.CALLEE: "1"}
"""The caller has the smaller id, and makes the first offer."""

Ring = Callable[[int, Ringing], bool]
RingIsOver = Callable[[int, RingOver], None]
SideOf = Callable[[str, str], tuple[CallInfo, Side]]
"""A call, and the side of it that an address is; raises SignalingError."""


class CallSeat(NamedTuple):
    """One side of a call."""

    call: str
    side: Side

    @property
    def opposite(self) -> CallSeat:
        """The other side."""
        return CallSeat(self.call, self.side.other)


class CallDesk:
    """Calls, as pages reach them.

    Attributes:
        calls: the manager, whose `tell` is this desk's.
        ring: has it ring at an account; whether anybody is there to hear it.
        ring_over: has it ring no more.
        side_of: whose side an address is.
        telegram_of: where in Telegram a call can ring.
    """

    def __init__(self, issuer: CredentialIssuer, telegram: TelegramProof) -> None:
        self.calls: CallManager
        self.hub: Hub
        self.ring: Ring = _nobody_hears
        self.ring_over: RingIsOver = _nobody_heard
        self.side_of: SideOf
        self.telegram_of: Callable[[CallInfo], str | None] = lambda _info: None
        self._issuer = issuer
        self._telegram = telegram
        self._sessions: dict[CallSeat, Session] = {}
        self._left: dict[str, int | None] = {}
        self.handlers: Mapping[type[PageMessage], Handler] = {
            Signal: self._signal,
            Answer: self._answer,
            Connected: self._connected,
            Beat: self._beat,
            HangUp: self._hang_up,
            RefreshIce: self._refresh_ice,
        }

    # ------------------------------------------------------------ coming and going

    async def open(self, guest: Guest, message: OpenCall) -> None:
        """Come to a side of a call, whoever is there already.

        Raises:
            SignalingError: ``bad-secret``, ``bad-proof``, ``stale-proof``, ``unavailable``.
        """
        side = await self._side_untrusted(guest, message)
        seat = CallSeat(message.call, side)
        secret = new_secret(self.hub.clock)
        session = guest.enter(self, secret, relay_only=message.relay_only)
        earlier = self._sessions.get(seat)
        if earlier is not None:
            earlier.tell(Ended("replaced"))
            self.hub.end(earlier)
        session.place = seat
        session.peer = PEER_OF[side]
        self._sessions[seat] = session
        # Before anybody is told that both are there: their relays are theirs from then on.
        try:
            await self.calls.set_present(seat.call, side, relay_only=session.relay_only)
        except BaseException:
            if self._sessions.get(seat) is session:
                del self._sessions[seat]
            self.hub.end(session)
            raise
        info = self._found(seat.call)
        if session.ended:
            return
        self._tell_entered(session, info, message.seq, secret, is_known=message.secret is None)
        if info.status.is_over:
            self._dismiss(seat, info)
            return
        other = self._sessions.get(seat.opposite)
        if other is not None:
            if earlier is None:
                other.tell(PeerJoined(PeerView(session.peer, _address_of(info, side))))
            else:
                other.tell(PeerBack(session.peer, fresh=True))
        if side is Side.CALLER:
            await self._ring_callee(info)

    async def _side_untrusted(self, guest: Guest, message: OpenCall) -> Side:
        """Who comes, by the secret of a link or by what Telegram has signed."""
        if message.secret is not None:
            return self.calls.open_side_untrusted(message.call, message.secret)
        if message.init_data is None:
            raise SignalingError("proof-needed", "a call is opened by its link or by Telegram")
        client = guest.channel.client
        address = await self._telegram.address_of_untrusted(message.init_data, client)
        try:
            _, side = self.side_of(message.call, address)
        except SignalingError as error:
            raise SignalingError("bad-secret", "this call is somebody else's") from error
        return side

    def lost(self, session: Session) -> None:
        """The page's connection is gone; media may flow on."""
        self._tell_other(session.place, PeerAway(session.peer))

    def back(self, session: Session, message: Resume) -> None:
        """The page is back."""
        info = self._found(session.place.call)
        self._tell_entered(session, info, message.seq, message.session)
        self._tell_other(session.place, PeerBack(session.peer, message.fresh))

    def over(self, session: Session) -> None:
        """The page has not come back; the call goes on while media flows."""
        seat: CallSeat = session.place
        if self._sessions.get(seat) is session:
            del self._sessions[seat]
            self._tell_other(seat, PeerLeft(session.peer, "lost"))
            self.calls.set_absent(seat.call, seat.side)

    def _tell_entered(
        self, session: Session, info: CallInfo, re: int, secret: str, *, is_known: bool = False
    ) -> None:
        """`is_known`: who has come is known otherwise than by the side's secret, and may have it:
        what has proved them ages."""
        seat: CallSeat = session.place
        other = self._sessions.get(seat.opposite)
        peers = []
        if other is not None:
            address = _address_of(info, seat.side.other)
            peers.append(PeerView(other.peer, address, other.channel is None))
        session.tell(
            Entered(
                re=re,
                session=secret,
                you=session.peer,
                peers=peers,
                ice=self._ice(session),
                ice_ttl_s=ICE_TTL_S,
                relay_only=info.relayed or session.relay_only,
                call=self._view(info, seat.side),
                secret=self._secret_of(seat) if is_known else None,
            )
        )

    def _secret_of(self, seat: CallSeat) -> str:
        caller, callee = self.calls.secrets_of(seat.call)
        return caller if seat.side is Side.CALLER else callee

    def _found(self, call: str) -> CallInfo:
        info = self.calls.find(call)
        assert info is not None, "a secret fits no call that was never there"
        return info

    def _tell_other(self, seat: CallSeat, message: PeerAway | PeerBack | PeerLeft) -> None:
        other = self._sessions.get(seat.opposite)
        if other is not None:
            other.tell(message)

    # ------------------------------------------------------------ what pages say

    def _signal(self, session: Session, message: Signal) -> Awaitable[None] | None:
        seat: CallSeat = session.place
        if message.to != PEER_OF[seat.side.other]:
            raise SignalingError("no-peer", "there is nobody of this id")
        description = message.description
        if description is not None and description.type == "answer":
            return self._pass_answer(session, message.connection, description, message.candidates)
        # First: what reaches nobody has no effect.
        self._reachable(seat)
        if description is not None:
            offer = self.calls.set_offer(seat.call, description.sdp, is_from=_is_from(seat))
            description = Description("offer", offer)
        candidates = self._candidates(seat, message.candidates)
        self._pass(session, message.connection, description, candidates)
        return None

    async def _answer(self, session: Session, message: Answer) -> None:
        seat: CallSeat = session.place
        if seat.side is not Side.CALLEE:
            raise SignalingError("wrong-state", "a call is answered by its callee")
        await self._pass_answer(session, message.connection, message.description, [])

    async def _pass_answer(
        self,
        session: Session,
        connection: str,
        description: Description,
        candidates: Sequence[Candidate],
    ) -> None:
        seat: CallSeat = session.place
        self._reachable(seat)
        sdp = await self.calls.answer_call(seat.call, description.sdp, is_from=_is_from(seat))
        kept = self._candidates(seat, candidates)
        self._pass(session, connection, Description("answer", sdp), kept)

    def _reachable(self, seat: CallSeat) -> Session:
        """The other side's session.

        Raises:
            SignalingError: ``no-peer``.
        """
        other = self._sessions.get(seat.opposite)
        if other is None or other.channel is None:
            raise SignalingError("no-peer", "they are away; they will be told all anew")
        return other

    def _candidates(self, seat: CallSeat, candidates: Sequence[Candidate]) -> list[Candidate]:
        kept = []
        for one in candidates:
            text = self.calls.add_ice_candidate(seat.call, one.candidate, _is_from(seat))
            if text is not None:
                kept.append(
                    Candidate(text, one.sdp_mid, one.sdp_m_line_index, one.username_fragment)
                )
        return kept

    def _pass(
        self,
        session: Session,
        connection: str,
        description: Description | None,
        candidates: list[Candidate],
    ) -> None:
        other = self._reachable(session.place)
        if description is not None or candidates:
            other.tell(Passed(session.peer, connection, description, candidates))

    def _connected(self, session: Session, _message: Connected) -> None:
        seat: CallSeat = session.place
        self.calls.start_call(seat.call, _is_from(seat))

    def _beat(self, session: Session, _message: Beat) -> None:
        seat: CallSeat = session.place
        self.calls.beat(seat.call, _is_from(seat))

    async def _hang_up(self, session: Session, _message: HangUp) -> None:
        seat: CallSeat = session.place
        await self.calls.end_call(seat.call, seat.side)

    def _refresh_ice(self, session: Session, message: RefreshIce) -> None:
        session.tell(Ice(message.seq, self._ice(session), ICE_TTL_S))

    def _ice(self, session: Session) -> list[IceServer]:
        return ice_servers(self._issuer, session.place.call, session.peer)

    # ------------------------------------------------------------ what the two sides are told

    def tell(self, event: CallEvent) -> None:
        """Tell both sides of what the manager says."""
        info = event.call
        match event:
            case CallUpdated():
                self._left[info.id] = event.left
                self._tell_call(info)
                if info.status not in (Status.PENDING, Status.RINGING):
                    self._stop_ringing(info)
                if info.status.is_over and not info.answered_ns:
                    self._dismiss_both(info)
            case MoneyLow():
                caller = self._sessions.get(CallSeat(info.id, Side.CALLER))
                if caller is not None:
                    caller.tell(Warned(event.left_s))
            case CallReceipt():
                self._tell_receipt(info, event.balance)
                self._dismiss_both(info)

    def _tell_call(self, info: CallInfo) -> None:
        for side in Side:
            session = self._sessions.get(CallSeat(info.id, side))
            if session is not None:
                session.tell(CallChanged(self._view(info, side)))

    def _view(self, info: CallInfo, side: Side) -> CallView:
        left = self._left.get(info.id)
        pays = side is Side.CALLER
        price = info.price_second
        return CallView(
            id=info.id,
            role="caller" if pays else "callee",
            other=_address_of(info, side.other),
            status=info.status.value,
            kind=info.kind.value,
            price_second=format_amount(price),
            seconds=info.seconds,
            spent=format_amount(info.cost) if pays else None,
            left=format_amount(left) if pays and left is not None else None,
            left_s=left // price if pays and left is not None and price else None,
            relayed=info.relayed,
        )

    def _tell_receipt(self, info: CallInfo, balance: int) -> None:
        for side in Side:
            session = self._sessions.get(CallSeat(info.id, side))
            if session is not None:
                pays = side is Side.CALLER
                session.tell(
                    Receipt(
                        call_item(info, outgoing=pays),
                        info.reason,
                        format_amount(info.cost) if pays else None,
                        format_amount(balance) if pays else None,
                    )
                )

    def _dismiss_both(self, info: CallInfo) -> None:
        for side in Side:
            self._dismiss(CallSeat(info.id, side), info)
        self._left.pop(info.id, None)

    def _dismiss(self, seat: CallSeat, info: CallInfo) -> None:
        session = self._sessions.pop(seat, None)
        if session is not None:
            session.tell(Ended(info.reason))
            self.hub.end(session)

    # ------------------------------------------------------------ ringing

    async def _ring_callee(self, info: CallInfo) -> None:
        """Have it ring on the callee's pages, if the callee has any open, and in Telegram."""
        if info.callee is None or info.status not in (Status.PENDING, Status.RINGING):
            return
        # Who was blocked after the call was made rings as little.
        if self.calls.blocks.has_blocked(info.callee, info.caller):
            return
        is_heard = self.ring(info.callee, self._ringing(info))
        if info.status is not Status.PENDING:
            return
        telegram = self.telegram_of(info)
        if telegram is not None and self.calls.ring(info.id, telegram):
            # It is told in the transaction that stores it.
            await self.calls.store_changes()
        elif is_heard:
            self.calls.ring(info.id)

    def ringing_for(self, account: int) -> list[Ringing]:
        """What rings for an account, whose page has come just now."""
        found = []
        for info in self.calls.living(account):
            is_caller_there = CallSeat(info.id, Side.CALLER) in self._sessions
            if not self._is_callee(info, account) or not is_caller_there:
                continue
            if self.calls.blocks.has_blocked(account, info.caller):
                continue
            if info.status is Status.PENDING:
                self.calls.ring(info.id)
            if info.status in (Status.PENDING, Status.RINGING):
                found.append(self._ringing(info))
        return found

    def _ringing(self, info: CallInfo) -> Ringing:
        _, secret = self.calls.secrets_of(info.id)
        return Ringing(info.id, secret, info.from_address, info.kind.value)

    def _stop_ringing(self, info: CallInfo) -> None:
        if info.callee is not None:
            self.ring_over(info.callee, RingOver(info.id, info.status.value))

    # ------------------------------------------------------------ what accounts ask for

    async def decline(self, account: int, call: str) -> None:
        """Reject a call that rings for an account.

        Raises:
            SignalingError: ``no-call``, ``wrong-state``.
        """
        info = self.calls.find(call)
        if info is None or not self._is_callee(info, account):
            raise SignalingError("no-call", "there is no such call")
        await self.calls.reject_call(call)

    def items_untrusted(
        self, account: int, before: str | None, limit: int
    ) -> tuple[list[CallItem], str | None]:
        """An account's calls, the newest first, and what the next page is `before`."""
        page = self.calls.page_untrusted(account, before, limit)
        items = [
            call_item(info, outgoing=self.calls.are_one(info.caller, account))
            for info in page.calls
        ]
        return items, page.next

    def _is_callee(self, info: CallInfo, account: int) -> bool:
        return info.callee is not None and self.calls.are_one(info.callee, account)


def call_item(info: CallInfo, *, outgoing: bool) -> CallItem:
    """A call as it stands in a list; only who has called is told what it cost."""
    return CallItem(
        id=info.id,
        other=_address_of(info, Side.CALLEE if outgoing else Side.CALLER),
        outgoing=outgoing,
        status=info.status.value,
        kind=info.kind.value,
        created_s=info.created_ns // NS_PER_S,
        started_s=info.started_ns // NS_PER_S,
        ended_s=info.ended_ns // NS_PER_S,
        seconds=info.seconds,
        cost=format_amount(info.cost) if outgoing else "0",
    )


def _address_of(info: CallInfo, side: Side) -> str:
    return info.from_address if side is Side.CALLER else info.to_address or ""


def _is_from(seat: CallSeat) -> bool:
    return seat.side is Side.CALLER


def _nobody_hears(_account: int, _ringing: Ringing) -> bool:
    return False


def _nobody_heard(_account: int, _over: RingOver) -> None:
    return None
