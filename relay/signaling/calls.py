"""The calls of a node: who may call whom, what becomes of a call, what it costs.

    info = await calls.create("user:alice", "user:bob", Kind.VOICE)
    await calls.set_present(info.id, Side.CALLER)            # and the callee: it rings
    offer = calls.set_offer(info.id, offer)                  # as it may pass on
    answer = await calls.answer_call(info.id, answer)        # active
    calls.start_call(info.id, is_from=True)                  # and the callee: charging begins
    await calls.end_call(info.id, Side.CALLEE)

What the two sides are to be told comes by `tell`, whatever has brought it about. The caller pays.
The money for a call is held from the moment in which both sides have come, so that their relays are
there when it is answered; it is charged from the second in which both are connected.

What passes through here of descriptions and candidates is kept nowhere. Calls outlive the node:
what a start finds of them waits for its two sides, see `CallManager.recover`.
"""

from __future__ import annotations

import hmac
import logging
from base64 import b32encode, urlsafe_b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Final, NamedTuple

import trio

from billing.ledger import HISTORY_LINES, LmdbLedger
from billing.money import J
from billing.tariff import Line
from core.clock import Clock
from core.errors import OperationError, SignalingError
from core.log import log_event
from core.units import DAY_S, NS_PER_S
from relay.call_activity import HOLDING_S
from relay.metering import ACCOUNT_CLOSED, ACCOUNT_FROZEN, NO_MONEY, Metering
from relay.signaling.call_admission import CallAdmission
from relay.signaling.call_blocks import CallBlocks
from relay.signaling.call_heartbeats import Heartbeats, Side
from relay.signaling.call_records import (
    LIVING_MAXIMUM,
    CallInfo,
    CallRecords,
    OnStored,
    Page,
    page_of_untrusted,
)
from relay.signaling.call_states import Event, Status, outcome_of
from relay.signaling.descriptions import (
    CANDIDATE_MAXIMUM_BYTES,
    IsOwn,
    Kind,
    kind_of_untrusted,
    relayed_candidate_untrusted,
    relayed_description_untrusted,
)
from relay.signaling.living_call import LivingCall

PENDING_S: Final = DAY_S
"""For how long a link waits for its callee."""
RINGING_S: Final = 45
CONNECTING_S: Final = 30
"""From the answer until both sides are connected; after a start, until both are back."""
SILENT_S: Final = 60
"""For so long media may have stopped one way or both while both pages are there: who has no
microphone sends silence. What flows one way meanwhile is charged to nobody."""
UNSTARTED_MEDIA_S: Final = 5
"""For so long media may flow both ways though nobody says that it does."""
LIVING_OF_A_CALLER: Final = 32
"""Else one account could wait for so many callees that nobody else's call found room."""
WARNED_AT_S: Final = (60, 10)
CALL_ID_BYTES: Final = 5
_CUTS: Final = {
    NO_MONEY: Event.NO_MONEY,
    ACCOUNT_FROZEN: Event.ACCOUNT_FROZEN,
    ACCOUNT_CLOSED: Event.ACCOUNT_CLOSED,
}

_log = logging.getLogger("montana.calls")


class CallUpdated(NamedTuple):
    """A call is another now, or a second of it is over. `left`: micro-J that the caller has for it,
    None while it is not charged."""

    call: CallInfo
    left: int | None = None


class MoneyLow(NamedTuple):
    """The caller's money lasts for `left_s` seconds more, one of `WARNED_AT_S`."""

    call: CallInfo
    left_s: int


class CallReceipt(NamedTuple):
    """What a call that was answered has come to; `balance`: micro-J that the caller has then."""

    call: CallInfo
    balance: int


CallEvent = CallUpdated | MoneyLow | CallReceipt
Keep = Callable[[CallInfo], Awaitable[bool]]
"""Stores the record of a new call, with what else belongs to it; whether its id was free."""


class CallManager:
    """All calls of a node.

    Args:
        line_of: the tariff's line of a kind of call.
        is_own: whether an address is one of this node's relays.
        tell: is given what the two sides of a call are to be told.
        secret: 32 bytes from which the secrets of all calls are derived; the same on every start.
        region: of telephone numbers that are written without their country.
        direct_calls: whether media may flow past the relays.
        calls_per_minute: what one account may begin.
        on_stored: is told of what is stored of calls.

    Attributes:
        records: what is stored of calls.
    """

    def __init__(
        self,
        ledger: LmdbLedger,
        metering: Metering,
        clock: Clock,
        *,
        line_of: Callable[[Kind], Line],
        is_own: IsOwn,
        tell: Callable[[CallEvent], None],
        secret: bytes,
        region: str | None = None,
        direct_calls: bool = False,
        calls_per_minute: int = 10,
        on_stored: OnStored | None = None,
    ) -> None:
        self._ledger = ledger
        self._metering = metering
        self._clock = clock
        self._line_of = line_of
        self._is_own = is_own
        self._tell = tell
        self._secret = secret
        self._direct_calls = direct_calls
        self.records = CallRecords(ledger.store, on_stored)
        self.blocks = CallBlocks(ledger, region)
        self.admission = CallAdmission(
            ledger, clock, self.blocks, region=region, calls_per_minute=calls_per_minute
        )
        self._calls: dict[str, LivingCall] = {}
        self._ending: dict[str, LivingCall] = {}
        self._unstored: dict[str, LivingCall] = {}
        """Those whose record is another than what is stored."""
        self._occupied: dict[int, str] = {}
        """By account, the call that makes it busy."""
        self._made: Counter[int] = Counter()
        """By account, how many calls of its making live."""
        self._making: dict[str, trio.Event] = {}
        """By the id under which a call is being made, what is set when that is over."""

    # ------------------------------------------------------------ making a call

    async def initiate_call(
        self, from_address: str, to_address: str | None, kind: Kind = Kind.VOICE
    ) -> tuple[bool, str, str | None]:
        """`create` for who wants a sentence: (success, message, the call's id)."""
        try:
            info = await self.create(from_address, to_address, kind)
        except SignalingError as error:
            return False, str(error), None
        return True, f"{info.id} waits for its callee", info.id

    async def create_once(
        self,
        effect: str,
        from_address: str,
        to_address: str | None,
        kind: Kind = Kind.VOICE,
        *,
        expires_s: int = 0,
        keep: Keep | None = None,
    ) -> CallInfo:
        """`create`, or what it has made under the same id (`core.api.fields.EffectId`) before;
        without an id it is `create`.

        Raises:
            SignalingError: as `create`.
        """
        found = await self.find_made(effect)
        if found is not None:
            return found
        made = trio.Event()
        if effect:
            self._making[effect] = made
        try:
            return await self.create(
                from_address, to_address, kind, effect=effect, expires_s=expires_s, keep=keep
            )
        finally:
            self._making.pop(effect, None)
            made.set()

    async def find_made(self, effect: str) -> CallInfo | None:
        """The call that was made under an id, also one that is over; waits for one that is being
        made."""
        while (made := self._making.get(effect)) is not None:
            await made.wait()
        for call_id in self._ids_of(effect) if effect else ():
            info = self.find(call_id)
            if info is None or info.effect == effect:
                return info
        return None

    async def create(
        self,
        from_address: str,
        to_address: str | None,
        kind: Kind = Kind.VOICE,
        *,
        effect: str = "",
        expires_s: int = 0,
        keep: Keep | None = None,
    ) -> CallInfo:
        """Make a call that waits for its callee. The addresses may be anybody's text.

        Args:
            from_address: the caller's, who has proved it; may be ``#17``.
            to_address: None for whoever has the callee's link.
            effect: under which it is kept; nothing is made under it yet.
            expires_s: for how long it waits; 0 for `PENDING_S`.
            keep: stores it in place of `CallRecords.create`; what it raises is raised.

        Raises:
            SignalingError: ``no-account``, ``no-money``, ``busy``, ``blocked`` (the callee can't be
                reached, for whatever reason), ``too-many``, ``full``, ``unavailable``.
        """
        from_address, caller = self.admission.caller_untrusted(from_address)
        self.admission.count_untrusted(caller)
        callee = None
        if to_address is not None:
            to_address, callee = self.admission.callee_untrusted(to_address, caller)
        line = self._line_of(kind)
        self.admission.assert_can_pay(caller, line)
        if not self._is_free(caller) or not self._is_free(callee):
            raise SignalingError("busy", "one of the two is in another call")
        if self._made[caller] >= LIVING_OF_A_CALLER:
            raise SignalingError(
                "too-many",
                f"{LIVING_OF_A_CALLER} calls of one account can wait at once; end one of them",
                maximum=LIVING_OF_A_CALLER,
            )
        if len(self._calls) + len(self._ending) >= LIVING_MAXIMUM:
            raise SignalingError("full", "the node has as many calls as it takes")
        now_ns = self._ledger.clock.now_ns()
        for call_id in self._ids_of(effect):
            if self.find(call_id) is not None:
                continue
            call = LivingCall(
                CallInfo(
                    id=call_id,
                    caller=caller,
                    callee=callee,
                    from_address=from_address,
                    to_address=to_address,
                    kind=kind,
                    relayed=not self._direct_calls,
                    price_second=line.price_second,
                    created_ns=now_ns,
                    effect=effect,
                    expires_ns=now_ns + expires_s * NS_PER_S if expires_s else 0,
                )
            )
            # Before it is stored, or many that come at once would be too many.
            self._calls[call.info.id] = call
            self._made[caller] += 1
            is_made = False
            try:
                is_made = await (keep or self._keep)(call.info)
            finally:
                if not is_made:
                    del self._calls[call.info.id]
                    self._forget_made(caller)
            if is_made:
                return call.info
        raise AssertionError("there is always another id")

    async def _keep(self, info: CallInfo) -> bool:
        try:
            return await self.records.create(info)
        except OperationError as error:
            raise _unavailable() from error

    def _ids_of(self, effect: str) -> Iterator[str]:
        """Ids for a call, one after the other, each for when those before it are taken; the same
        ones for the same effect."""
        for number in count():
            drawn = (
                hmac.digest(self._secret, f"{effect} {number}".encode(), "sha256")
                if effect
                else self._clock.random_bytes(CALL_ID_BYTES)
            )
            yield f"CALL-{b32encode(drawn[:CALL_ID_BYTES]).decode()}"

    def secrets_of(self, call_id: str) -> tuple[str, str]:
        """The secrets of its caller and of its callee, which stand in their links."""
        return self._secret_of(call_id, Side.CALLER), self._secret_of(call_id, Side.CALLEE)

    def open_side_untrusted(self, call_id: str, secret: str) -> Side:
        """Whose secret this is; also of a call that is over.

        Raises:
            SignalingError: ``bad-secret``: it is nobody's, or there is no such call.
        """
        given = secret.encode(errors="surrogatepass")
        owner = None
        for side in Side:
            if hmac.compare_digest(given, self._secret_of(call_id, side).encode()):
                owner = side
        if owner is None or self.find(call_id) is None:
            raise SignalingError("bad-secret", "this link leads to no call")
        return owner

    def _secret_of(self, call_id: str, side: Side) -> str:
        digest = hmac.digest(self._secret, f"{call_id} {side}".encode(), "sha256")
        return urlsafe_b64encode(digest).decode().rstrip("=")

    def _forget_made(self, caller: int) -> None:
        self._made[caller] -= 1
        if not self._made[caller]:
            del self._made[caller]

    def _is_free(self, account: int | None, for_call: str = "") -> bool:
        return account is None or self._occupied.get(account, for_call) == for_call

    # ------------------------------------------------------------ what the two sides do

    async def set_present(self, call_id: str, side: Side, *, relay_only: bool = False) -> None:
        """A side has opened the call. It rings when both are there.

        Args:
            relay_only: this side wants its media to flow through relays alone.

        Raises:
            SignalingError: ``unavailable``: nothing can be charged now.
        """
        call = self._calls.get(call_id)
        if call is None:
            return
        coming = call.present[side] = object()
        if relay_only:
            call.relay_only.add(side)
            if not call.info.relayed and not call.is_billed:
                call.change(relayed=True)
                self._changed(call)
        try:
            await self._meet(call)
        except BaseException:
            # A newer page may have come to this side meanwhile, and is there.
            if call.present.get(side) is coming:
                del call.present[side]
            raise

    def set_absent(self, call_id: str, side: Side) -> None:
        """A side's signaling is lost for longer than it may be resumed. A caller who goes while it
        rings takes the call back."""
        call = self._calls.get(call_id)
        if call is None:
            return
        call.present.pop(side, None)
        if side is Side.CALLER and call.info.status is Status.RINGING:
            self._apply(call, Event.HANG_UP_BY_CALLER)

    async def _meet(self, call: LivingCall) -> None:
        """Ring, and hold the money, when both sides are there."""
        if len(call.present) < len(Side):
            return
        if call.info.status is Status.PENDING:
            self.ring(call.info.id)
        if call.info.status in (Status.RINGING, Status.ACTIVE):
            await self._open_billing(call)

    def ring(self, call_id: str, telegram: str = "") -> bool:
        """The callee sees the call; False while one of the two is busy with another one.

        Args:
            telegram: where it rings in Telegram as well, as soon as it is stored.

        Raises:
            SignalingError: ``wrong-state``: it was answered already; ``no-call``.
        """
        call = self._living_untrusted(call_id)
        info = call.info
        if not (self._is_free(info.caller, call_id) and self._is_free(info.callee, call_id)):
            return False
        if info.status is Status.PENDING and telegram:
            call.change(rung_address=telegram)
        return self._apply(call, Event.RING)

    def set_offer(self, call_id: str, offer_sdp: str, *, is_from: bool = True) -> str:
        """The offer as it may pass on.

        Args:
            is_from: the caller offers.

        Raises:
            SignalingError: it is no description, or the call is over.
        """
        call = self._living_untrusted(call_id)
        passed = self._passed_untrusted(call, _side(is_from), offer_sdp)
        call.offering.add(_side(is_from))
        return passed

    async def answer_call(self, call_id: str, answer_sdp: str, *, is_from: bool = False) -> str:
        """The answer as it may pass on. The callee's first one accepts the call; what flows after
        each, and costs, is read from it. It answers an offer that has passed, and no offer is
        answered twice: who gets another answer drops it, and would be charged by it.

        Args:
            is_from: the caller answers.

        Raises:
            SignalingError: it is no description; ``wrong-state``; ``no-money``: the call has
                failed, or was cut; ``unavailable``.
        """
        call = self._living_untrusted(call_id)
        kind = kind_of_untrusted(answer_sdp)
        passed = self._passed_untrusted(call, _side(is_from), answer_sdp)
        is_first = call.info.status is not Status.ACTIVE
        if is_first:
            outcome_of(call.info.status, Event.ANSWER)
            if is_from:
                raise SignalingError("wrong-state", "a call is answered by its callee")
        if _side(is_from).other not in call.offering:
            raise SignalingError("wrong-state", "there is no offer that this answers")
        # Who answers has taken an offer of their own back, if there was one.
        offering, call.offering = call.offering, set()
        try:
            if is_first:
                await self._accept(call, kind)
            else:
                await self._set_kind(call, kind)
                _assert_lives(call)
        except SignalingError:
            call.offering |= offering
            raise
        return passed

    async def _accept(self, call: LivingCall, kind: Kind) -> None:
        """The first answer.

        Raises:
            SignalingError: ``wrong-state``; ``no-money``; ``unavailable``.
        """
        await self._open_billing(call)
        await self._set_kind(call, kind)
        _assert_lives(call)
        if self._apply(call, Event.ANSWER):
            call.connect_by_ns = call.info.answered_ns + CONNECTING_S * NS_PER_S
            # A node that is started again has to know that it was answered.
            await self.store_changes()

    def add_ice_candidate(self, call_id: str, candidate: str, is_from: bool) -> str | None:
        """A side's candidate as it may pass on; None where it may not.

        Raises:
            SignalingError: it is too long, or the call is over.
        """
        call = self._living_untrusted(call_id)
        if call.is_stripped(_side(is_from)):
            return relayed_candidate_untrusted(candidate, self._is_own)
        if len(candidate) > CANDIDATE_MAXIMUM_BYTES:
            raise SignalingError(
                "too-large", f"a candidate has {CANDIDATE_MAXIMUM_BYTES} bytes at most"
            )
        return candidate

    def start_call(self, call_id: str, is_from: bool) -> bool:
        """A side's media connection stands; True when now both do, and charging begins.

        Raises:
            SignalingError: ``wrong-state``: it was not answered; ``no-call``.
        """
        call = self._calls.get(call_id)
        if call is None:
            self._found_untrusted(call_id)
            return False
        if call.info.status is not Status.ACTIVE or not call.is_billed:
            raise SignalingError("wrong-state", "the call was not answered")
        call.connected.add(_side(is_from))
        if call.counted_since_s is not None or len(call.connected) < len(Side):
            return False
        self._start(call)
        return True

    def beat(self, call_id: str, is_from: bool) -> None:
        """Media comes in at a side of a call that isn't relayed."""
        call = self._calls.get(call_id)
        if call is not None and call.heartbeats is not None:
            call.heartbeats.beat(_side(is_from), self._ledger.clock.now_ns())

    async def reject_call(self, call_id: str) -> tuple[bool, CallInfo]:
        """The callee does not want it, and has not opened it. As `end_call` otherwise.

        Raises:
            SignalingError: ``wrong-state``: it was answered already; ``no-call``.
        """
        return await self._end(call_id, Event.REJECT)

    async def end_call(self, call_id: str, by: Side | None = None) -> tuple[bool, CallInfo]:
        """Somebody hangs up; `by` None: the operator. Returns whether it has ended by this, and
        the call: charged to its last second, unless another who ends it is not done yet, or
        nothing can be stored now.

        Raises:
            SignalingError: ``no-call``.
        """
        events = {Side.CALLER: Event.HANG_UP_BY_CALLER, Side.CALLEE: Event.HANG_UP_BY_CALLEE}
        return await self._end(call_id, Event.FAIL if by is None else events[by])

    async def _end(self, call_id: str, event: Event) -> tuple[bool, CallInfo]:
        call = self._calls.get(call_id) or self._ending.get(call_id)
        if call is None:
            return False, self._found_untrusted(call_id)
        has_ended = self._apply(call, event)
        await self._finish(call)
        return has_ended, call.info

    # ------------------------------------------------------------ looking

    def find(self, call_id: str) -> CallInfo | None:
        """A call, also one that is over."""
        call = self._calls.get(call_id) or self._ending.get(call_id)
        return self.records.find(call_id) if call is None else call.info

    def living(self, account: int | None = None) -> list[CallInfo]:
        """The calls that are not over, of an account or of all, the newest first."""
        owners = None if account is None else set(self._ledger.lineage(account))
        found = [
            call.info
            for call in self._calls.values()
            if owners is None or not owners.isdisjoint((call.info.caller, call.info.callee))
        ]
        return sorted(found, key=lambda info: info.created_ns, reverse=True)

    def are_one(self, account: int, other: int) -> bool:
        """Whether two accounts are the same one, or were merged since."""
        return self._ledger.heir(account) == self._ledger.heir(other)

    def page_untrusted(self, account: int, before: str | None, limit: int) -> Page:
        """The calls of an account, and of those that it has taken over, the newest first; see
        `CallRecords.page_untrusted`."""
        page = self.records.page_untrusted(self._ledger.lineage(account), before, limit)
        return page._replace(calls=[self._latest(info) for info in page.calls])

    def living_page_untrusted(self, before: str | None, limit: int) -> Page:
        """All calls that are not over, as `page_untrusted` has an account's."""
        return page_of_untrusted(self.living(), before, limit)

    def _latest(self, info: CallInfo) -> CallInfo:
        call = self._calls.get(info.id) or self._ending.get(info.id)
        return info if call is None else call.info

    def _found_untrusted(self, call_id: str) -> CallInfo:
        info = self.find(call_id)
        if info is None:
            raise SignalingError("no-call", "there is no such call")
        return info

    def _living_untrusted(self, call_id: str) -> LivingCall:
        call = self._calls.get(call_id)
        if call is None:
            self._found_untrusted(call_id)
            raise _over()
        return call

    # ------------------------------------------------------------ as time goes by

    async def run(self) -> None:
        """See to the calls once a second until cancelled. What has ended is charged beside it."""
        has_failed = False
        async with trio.open_nursery() as nursery:
            while True:
                now_ns = self._clock.monotonic_ns()
                await trio.sleep((NS_PER_S - now_ns % NS_PER_S) / NS_PER_S)
                try:
                    await self._second(nursery)
                    has_failed = False
                except Exception as error:
                    _tell_failure("calls were not seen to for a second", error, has_failed)
                    has_failed = True

    async def tick(self) -> None:
        """See to the calls once; returns when what has ended is charged and stored."""
        async with trio.open_nursery() as nursery:
            await self._second(nursery)

    async def _second(self, nursery: trio.Nursery) -> None:
        now_ns = self._ledger.clock.now_ns()
        for call in list(self._calls.values()):
            if call.info.status is Status.PENDING and len(call.present) == len(Side):
                # One of the two was busy when they met.
                nursery.start_soon(self._meet_again, call)
            self._look(call, now_ns)
        for call in list(self._ending.values()):
            nursery.start_soon(self._finish, call)
        self.admission.forget_old()
        await self.store_changes()

    async def _meet_again(self, call: LivingCall) -> None:
        try:
            await self._meet(call)
        except SignalingError as error:
            log_event(
                _log, logging.ERROR, "a call can't be charged", call=call.info.id, reason=error
            )

    def _look(self, call: LivingCall, now_ns: int) -> None:
        """What a second has brought."""
        info = call.info
        if info.status is Status.PENDING:
            if now_ns >= (info.expires_ns or info.created_ns + PENDING_S * NS_PER_S):
                self._apply(call, Event.TIMEOUT)
        elif info.status is Status.RINGING:
            if now_ns >= info.rung_ns + RINGING_S * NS_PER_S:
                self._apply(call, Event.TIMEOUT)
            elif self._media_flows_unstarted(call):
                self._apply(call, Event.FAIL)
        elif call.counted_since_s is not None:
            self._look_at_charges(call, now_ns)
        elif now_ns >= call.connect_by_ns:
            # One that was connected before has not come back after the node was started again.
            self._apply(call, Event.SILENCE if info.started_ns else Event.TIMEOUT)
        elif self._media_flows_unstarted(call):
            self._start(call)

    def _look_at_charges(self, call: LivingCall, now_ns: int) -> None:
        if call.heartbeats is not None:
            self._metering.count_direct(call.info.id, call.heartbeats.seconds(now_ns))
        left = self._read_figures(call)
        self._tell(CallUpdated(call.info, left))
        self._warn(call, left)
        are_both_there = len(call.present) == len(Side)
        if self._silent_s(call, now_ns) > (SILENT_S if are_both_there else HOLDING_S):
            self._apply(call, Event.SILENCE)

    def _read_figures(self, call: LivingCall) -> int:
        """Take over what was charged; returns what is left."""
        figures = self._metering.call_figures(call.info.id)
        call.change(
            seconds=call.earlier_seconds + figures.seconds, cost=call.earlier_cost + figures.cost
        )
        return figures.left

    def _warn(self, call: LivingCall, left: int) -> None:
        price = call.info.price_second
        reached = [one for one in WARNED_AT_S if price and left <= one * price]
        warn_at_s = min(reached, default=None)
        if warn_at_s is not None and (call.warned_at_s is None or warn_at_s < call.warned_at_s):
            self._tell(MoneyLow(call.info, warn_at_s))
        # More than before was paid in: it is told again when that is used up.
        call.warned_at_s = warn_at_s

    def _silent_s(self, call: LivingCall, now_ns: int) -> float:
        """Since when media has not flowed both ways."""
        if call.heartbeats is not None:
            return (now_ns - call.heartbeats.last_both_ns) / NS_PER_S
        assert call.counted_since_s is not None
        last_s = self._metering.last_both_active_s(call.info.id) or 0
        return self._clock.monotonic_ns() / NS_PER_S - max(call.counted_since_s, last_s)

    def _media_flows_unstarted(self, call: LivingCall) -> bool:
        """Whether the relays carry more than two sides need who are about to be connected: a page
        that never says that it is connected would else talk for nothing."""
        if not call.is_billed or not call.info.relayed:
            return False
        last_s = self._metering.last_both_active_s(call.info.id)
        if last_s != call.last_media_s:
            call.last_media_s = last_s
            call.unstarted_media_s += 1
        return call.unstarted_media_s > UNSTARTED_MEDIA_S

    # ------------------------------------------------------------ changes

    def billing_cut(self, call_id: str, reason: str) -> None:
        """The metering has stopped a call: the money is used up, or the account can't pay any more.
        `reason` is one of `relay.metering`'s."""
        call = self._calls.get(call_id)
        if call is not None:
            self._apply(call, _CUTS[reason])

    def _apply(self, call: LivingCall, event: Event) -> bool:
        """Have an event change a call; whether it has.

        Raises:
            SignalingError: ``wrong-state``.
        """
        before = call.info.status
        outcome = outcome_of(before, event)
        if outcome is None or outcome.status is before:
            return False
        now_ns = self._ledger.clock.now_ns()
        call.change(status=outcome.status, reason=outcome.reason)
        call_id = call.info.id
        if outcome.status is Status.RINGING:
            call.change(rung_ns=now_ns)
            self._occupy(call)
        elif outcome.status is Status.ACTIVE:
            call.change(answered_ns=now_ns)
        else:
            call.change(ended_ns=now_ns)
            for account in (call.info.caller, call.info.callee):
                if account is not None and self._occupied.get(account) == call_id:
                    del self._occupied[account]
            self._unstored.pop(call_id, None)
            self._ending[call_id] = self._calls.pop(call_id)
            self._forget_made(call.info.caller)
            self._tell(CallUpdated(call.info))
            return True
        self._changed(call)
        return True

    def _occupy(self, call: LivingCall) -> None:
        for account in (call.info.caller, call.info.callee):
            if account is not None:
                self._occupied[account] = call.info.id

    def _changed(self, call: LivingCall, left: int | None = None) -> None:
        """Tell of a call that lives and is another now, and have it stored."""
        self._unstored[call.info.id] = call
        self._tell(CallUpdated(call.info, left))

    def _start(self, call: LivingCall) -> None:
        now_ns = self._ledger.clock.now_ns()
        self._metering.start_call(call.info.id)
        call.counted_since_s = self._clock.monotonic_ns() / NS_PER_S
        if not call.info.relayed:
            call.heartbeats = Heartbeats(now_ns)
        if not call.info.started_ns:
            call.change(started_ns=now_ns)
        self._changed(call, self._read_figures(call))

    async def _open_billing(self, call: LivingCall) -> None:
        """Have the metering hold the first seconds, once; the call ends where it can't.

        Raises:
            SignalingError: ``unavailable``.
        """
        async with call.opening:
            if call.is_billed or call.info.status.is_over:
                return
            try:
                is_open = await self._metering.open_call(
                    call.info.id,
                    payer=self._ledger.heir(call.info.caller),
                    line=self._line_of(call.info.kind),
                    relayed=call.info.relayed,
                )
            except OperationError as error:
                raise _unavailable() from error
            call.is_billed = is_open
            if not is_open:
                self._apply(call, Event.NO_MONEY)
            elif call.info.status is Status.ACTIVE:
                # Both are back after a start of the node, and have to connect anew.
                call.connect_by_ns = self._ledger.clock.now_ns() + CONNECTING_S * NS_PER_S

    async def _set_kind(self, call: LivingCall, kind: Kind) -> None:
        """Charge for what flows now.

        Raises:
            SignalingError: ``unavailable``.
        """
        async with call.opening:
            if kind is call.info.kind or call.info.status.is_over:
                return
            line = self._line_of(kind)
            if call.is_billed:
                try:
                    await self._metering.change_call(call.info.id, line)
                except OperationError as error:
                    raise _unavailable() from error
            if call.info.status.is_over:
                # It was cut or hung up meanwhile, as what it was.
                return
            call.change(kind=kind, price_second=line.price_second)
            is_charged = call.counted_since_s is not None
            self._changed(call, self._read_figures(call) if is_charged else None)

    async def _finish(self, call: LivingCall) -> None:
        """Charge what has ended to its last second, store it, and tell of its receipt. Where that
        fails, the next second tries again."""
        if call.is_finishing or call.info.id not in self._ending:
            return
        call.is_finishing = True
        try:
            # A node that stops still has it charged, and stored as what it was.
            with trio.CancelScope(shield=True):
                await self._close_billing(call)
                await self.records.finish(call.info)
        except Exception as error:
            # A full disk, a mistake of ours: no other call ends with it.
            _tell_failure("the end of a call is not stored yet", error, call.has_failed)
            call.has_failed = True
            return
        finally:
            call.is_finishing = False
        del self._ending[call.info.id]
        if call.info.answered_ns:
            balance = self._ledger.balance(self._ledger.heir(call.info.caller), J)
            self._tell(CallReceipt(call.info, balance.posted))

    async def _close_billing(self, call: LivingCall) -> None:
        async with call.opening:
            if not call.is_billed:
                return
            if call.heartbeats is not None:
                seconds = call.heartbeats.seconds(call.info.ended_ns)
                self._metering.count_direct(call.info.id, seconds)
            is_repeated, call.is_closing = call.is_closing, True
            records = await self._metering.close_call(call.info.id, call.info.reason)
            seconds = call.earlier_seconds + sum(one.seconds for one in records)
            cost = call.earlier_cost + sum(one.cost for one in records)
            if is_repeated:
                # It may have been closed since that has failed: its records are told once.
                seconds, cost = await self._charged(call.info)
            call.is_billed = False
            call.change(seconds=seconds, cost=cost)

    async def store_changes(self) -> None:
        """Store what has changed, as each second does; the next one tries again where it fails."""
        changed, self._unstored = self._unstored, {}
        if not changed:
            return
        try:
            await self.records.update([call.info for call in changed.values()])
        except OperationError as error:
            log_event(_log, logging.ERROR, "changes of calls are not stored yet", reason=error)
            self._unstored = {
                call_id: call for call_id, call in changed.items() if call_id in self._calls
            } | self._unstored

    # ------------------------------------------------------------ after a start

    async def recover(self) -> None:
        """Take up the calls that lived when the node stopped, before any page comes and after the
        ledger has closed the sessions that were left. One that was answered waits for both sides,
        `CONNECTING_S` at most; it goes on under its name, and has cost what the ledger says."""
        assert not self._calls, "nothing has begun yet"
        now_ns = self._ledger.clock.now_ns()
        for info in self.records.living():
            call = self._calls[info.id] = LivingCall(info)
            self._made[info.caller] += 1
            if info.status is Status.PENDING:
                continue
            self._occupy(call)
            if info.status is Status.ACTIVE:
                call.connect_by_ns = now_ns + CONNECTING_S * NS_PER_S
                call.earlier_seconds, call.earlier_cost = await self._charged(info)
                call.change(seconds=call.earlier_seconds, cost=call.earlier_cost)

    async def _charged(self, info: CallInfo) -> tuple[int, int]:
        """Seconds and micro-J by the ledger's records of a call: in the history of its caller, and
        of those that have taken the caller's account over."""
        seconds = cost = 0
        account: int | None = info.caller
        while account is not None:
            before = None
            while True:
                lines = await self._ledger.history(account, before, HISTORY_LINES)
                lines = [line for line in lines if line.time_ns >= info.created_ns]
                for record in (line.record for line in lines):
                    if record is not None and record.name == info.id:
                        seconds += record.seconds
                        cost += record.cost
                if len(lines) < HISTORY_LINES:
                    break
                before = lines[-1].place
            account = self._ledger.account(account).merged_into
        return seconds, cost

    def _passed_untrusted(self, call: LivingCall, side: Side, description: str) -> str:
        if call.is_stripped(side):
            return relayed_description_untrusted(description, self._is_own)
        # What is no description raises here as well.
        kind_of_untrusted(description)
        return description


def _side(is_from: bool) -> Side:
    return Side.CALLER if is_from else Side.CALLEE


def _tell_failure(event: str, error: Exception, is_repeated: bool) -> None:
    """Log why something has failed that will be tried again; what nobody has foreseen, with its
    traceback the first time."""
    if isinstance(error, OperationError) or is_repeated:
        log_event(_log, logging.ERROR, event, reason=repr(error))
    else:
        _log.error("%s", event, exc_info=error)


def _assert_lives(call: LivingCall) -> None:
    """
    Raises:
        SignalingError: ``no-money``: it has ended for want of it; ``wrong-state``: it has ended.
    """
    if call.info.status.is_over:
        if call.info.reason == "no-money":
            raise SignalingError("no-money", "there is not enough on the account that pays")
        raise _over()


def _over() -> SignalingError:
    return SignalingError("wrong-state", "the call is over")


def _unavailable() -> SignalingError:
    return SignalingError("unavailable", "the node can't do this now; its log may tell why")
