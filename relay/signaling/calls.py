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

import logging
from collections.abc import Callable
from typing import Final

import trio

from billing.ledger import LmdbLedger
from billing.tariff import Line
from core.clock import Clock
from core.errors import OperationError, SignalingError
from core.log import log_event
from core.units import DAY_S, NS_PER_S
from relay.call_activity import HOLDING_S
from relay.metering import Metering
from relay.payers import ACCOUNT_CLOSED, ACCOUNT_FROZEN, NO_MONEY
from relay.signaling.call_admission import CallAdmission
from relay.signaling.call_billing import CallBilling
from relay.signaling.call_blocks import CallBlocks
from relay.signaling.call_events import CallReceipt, CallUpdated, MoneyLow, Tell
from relay.signaling.call_heartbeats import Side
from relay.signaling.call_making import CallMaking
from relay.signaling.call_names import CallNames
from relay.signaling.call_records import CallInfo, CallRecords, OnStored
from relay.signaling.call_states import UNANSWERED, Event, Status, outcome_of
from relay.signaling.call_table import CallTable
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
_CUTS: Final = {
    NO_MONEY: Event.NO_MONEY,
    ACCOUNT_FROZEN: Event.ACCOUNT_FROZEN,
    ACCOUNT_CLOSED: Event.ACCOUNT_CLOSED,
}

_log = logging.getLogger("montana.calls")


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
        create, create_once, find_made: see `CallMaking`.
        secrets_of: see `CallNames`.
        find, living, are_one, page_untrusted, living_page_untrusted: see `CallTable`.
    """

    def __init__(
        self,
        ledger: LmdbLedger,
        metering: Metering,
        clock: Clock,
        *,
        line_of: Callable[[Kind], Line],
        is_own: IsOwn,
        tell: Tell,
        secret: bytes,
        region: str | None = None,
        direct_calls: bool = False,
        calls_per_minute: int = 10,
        on_stored: OnStored | None = None,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._is_own = is_own
        self._tell = tell
        self.records = CallRecords(ledger.store, on_stored)
        self.blocks = CallBlocks(ledger, region)
        self.admission = CallAdmission(
            ledger, clock, self.blocks, region=region, calls_per_minute=calls_per_minute
        )
        self._billing = CallBilling(ledger, metering, clock, line_of)
        self._table = table = CallTable(self.records, ledger)
        self._names = names = CallNames(secret, clock)
        making = CallMaking(
            table,
            self.records,
            names,
            self.admission,
            ledger,
            line_of=line_of,
            direct_calls=direct_calls,
        )
        self._unstored: dict[str, LivingCall] = {}
        """Those whose record is another than what is stored."""
        self.create = making.create
        self.create_once = making.create_once
        self.find_made = making.find_made
        self.secrets_of = names.secrets_of
        self.find = table.find
        self.living = table.living
        self.are_one = table.are_one
        self.page_untrusted = table.page_untrusted
        self.living_page_untrusted = table.living_page_untrusted

    async def initiate_call(
        self, from_address: str, to_address: str | None, kind: Kind = Kind.VOICE
    ) -> tuple[bool, str, str | None]:
        """`create` for who wants a sentence: (success, message, the call's id)."""
        try:
            info = await self.create(from_address, to_address, kind)
        except SignalingError as error:
            return False, str(error), None
        return True, f"{info.id} waits for its callee", info.id

    def open_side_untrusted(self, call_id: str, secret: str) -> Side:
        """Whose secret this is; also of a call that is over.

        Raises:
            SignalingError: ``bad-secret``: it is nobody's, or there is no such call.
        """
        owner = self._names.owner_untrusted(call_id, secret)
        if owner is None or self.find(call_id) is None:
            raise SignalingError("bad-secret", "this link leads to no call")
        return owner

    # ------------------------------------------------------------ what the two sides do

    async def set_present(self, call_id: str, side: Side, *, relay_only: bool = False) -> None:
        """A side has opened the call. It rings when both are there.

        Args:
            relay_only: this side wants its media to flow through relays alone.

        Raises:
            SignalingError: ``unavailable``: nothing can be charged now.
        """
        call = self._table.calls.get(call_id)
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
        call = self._table.calls.get(call_id)
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
        call = self._table.living_untrusted(call_id)
        info = call.info
        accounts = info.caller, info.callee
        if not all(self._table.is_free(account, call_id) for account in accounts):
            return False
        if info.status is Status.PENDING and telegram:
            call.change(rung_address=telegram)
        return self._apply(call, Event.RING)

    async def show(self, call_id: str, telegram: str) -> None:
        """The callee is given the link in Telegram, and is to hear there when nobody can answer
        the call any more."""
        call = self._table.calls.get(call_id)
        if call is None or call.info.status not in UNANSWERED:
            return
        if call.info.shown_address != telegram:
            call.change(shown_address=telegram)
            self._unstored[call_id] = call
            await self.store_changes()

    def set_offer(self, call_id: str, offer_sdp: str, *, is_from: bool = True) -> str:
        """The offer as it may pass on.

        Args:
            is_from: the caller offers.

        Raises:
            SignalingError: it is no description, or the call is over.
        """
        call = self._table.living_untrusted(call_id)
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
        call = self._table.living_untrusted(call_id)
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
        call = self._table.living_untrusted(call_id)
        if call.is_stripped(_side(is_from)):
            return relayed_candidate_untrusted(candidate, self._is_own)
        if len(candidate) > CANDIDATE_MAXIMUM_BYTES:
            raise SignalingError(
                "too-large", f"a candidate has {CANDIDATE_MAXIMUM_BYTES} bytes at most"
            )
        return candidate

    def _passed_untrusted(self, call: LivingCall, side: Side, description: str) -> str:
        if call.is_stripped(side):
            return relayed_description_untrusted(description, self._is_own)
        # What is no description raises here as well.
        kind_of_untrusted(description)
        return description

    def start_call(self, call_id: str, is_from: bool) -> bool:
        """A side's media connection stands; True when now both do, and charging begins.

        Raises:
            SignalingError: ``wrong-state``: it was not answered; ``no-call``.
        """
        call = self._table.calls.get(call_id)
        if call is None:
            self._table.found_untrusted(call_id)
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
        call = self._table.calls.get(call_id)
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
        call = self._table.in_memory(call_id)
        if call is None:
            return False, self._table.found_untrusted(call_id)
        has_ended = self._apply(call, event)
        await self._finish(call)
        return has_ended, call.info

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
        for call in list(self._table.calls.values()):
            if call.info.status is Status.PENDING and len(call.present) == len(Side):
                # One of the two was busy when they met.
                nursery.start_soon(self._meet_again, call)
            self._look(call, now_ns)
        for call in list(self._table.ending.values()):
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
            elif self._billing.media_flows_unstarted(call):
                self._apply(call, Event.FAIL)
        elif call.counted_since_s is not None:
            self._look_at_charges(call, now_ns)
        elif now_ns >= call.connect_by_ns:
            # One that was connected before has not come back after the node was started again.
            self._apply(call, Event.SILENCE if info.started_ns else Event.TIMEOUT)
        elif self._billing.media_flows_unstarted(call):
            self._start(call)

    def _look_at_charges(self, call: LivingCall, now_ns: int) -> None:
        left = self._billing.count(call, now_ns)
        self._tell(CallUpdated(call.info, left))
        left_s = self._billing.warning_s(call, left)
        if left_s is not None:
            self._tell(MoneyLow(call.info, left_s))
        are_both_there = len(call.present) == len(Side)
        if self._billing.silent_s(call, now_ns) > (SILENT_S if are_both_there else HOLDING_S):
            self._apply(call, Event.SILENCE)

    # ------------------------------------------------------------ changes

    def billing_cut(self, call_id: str, reason: str) -> None:
        """The metering has stopped a call: the money is used up, or the account can't pay any more.
        `reason` is one of `relay.payers`'."""
        call = self._table.calls.get(call_id)
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
        if outcome.status is Status.RINGING:
            call.change(rung_ns=now_ns)
            self._table.occupy(call)
        elif outcome.status is Status.ACTIVE:
            call.change(answered_ns=now_ns)
        else:
            call.change(ended_ns=now_ns)
            self._unstored.pop(call.info.id, None)
            self._table.end(call.info.id)
            self._tell(CallUpdated(call.info))
            return True
        self._changed(call)
        return True

    def _changed(self, call: LivingCall, left: int | None = None) -> None:
        """Tell of a call that lives and is another now, and have it stored."""
        self._unstored[call.info.id] = call
        self._tell(CallUpdated(call.info, left))

    def _start(self, call: LivingCall) -> None:
        self._changed(call, self._billing.start(call))

    async def _open_billing(self, call: LivingCall) -> None:
        """Have the first seconds held, once; the call ends where they can't be.

        Raises:
            SignalingError: ``unavailable``.
        """
        if await self._billing.open(call):
            if call.info.status is Status.ACTIVE:
                # Both are back after a start of the node, and have to connect anew.
                call.connect_by_ns = self._ledger.clock.now_ns() + CONNECTING_S * NS_PER_S
        elif not call.is_billed:
            self._apply(call, Event.NO_MONEY)

    async def _set_kind(self, call: LivingCall, kind: Kind) -> None:
        """Charge for what flows now.

        Raises:
            SignalingError: ``unavailable``.
        """
        if await self._billing.change_kind(call, kind):
            is_charged = call.counted_since_s is not None
            self._changed(call, self._billing.take_figures(call) if is_charged else None)

    async def _finish(self, call: LivingCall) -> None:
        """Charge what has ended to its last second, store it, and tell of its receipt. Where that
        fails, the next second tries again."""
        if call.is_finishing or call.info.id not in self._table.ending:
            return
        call.is_finishing = True
        try:
            # A node that stops still has it charged, and stored as what it was.
            with trio.CancelScope(shield=True):
                await self._billing.close(call)
                await self.records.finish(call.info)
        except Exception as error:
            # A full disk, a mistake of ours: no other call ends with it.
            _tell_failure("the end of a call is not stored yet", error, call.has_failed)
            call.has_failed = True
            return
        finally:
            call.is_finishing = False
        del self._table.ending[call.info.id]
        if call.info.answered_ns:
            self._tell(CallReceipt(call.info, self._billing.balance(call)))

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
                call_id: call for call_id, call in changed.items() if call_id in self._table.calls
            } | self._unstored

    # ------------------------------------------------------------ after a start

    async def recover(self) -> None:
        """Take up the calls that lived when the node stopped, before any page comes and after the
        ledger has closed the sessions that were left. One that was answered waits for both sides,
        `CONNECTING_S` at most; it goes on under its name, and has cost what the ledger says."""
        assert not self._table.calls, "nothing has begun yet"
        now_ns = self._ledger.clock.now_ns()
        for info in self.records.living():
            call = self._table.add(info)
            if info.status is Status.PENDING:
                continue
            self._table.occupy(call)
            if info.status is Status.ACTIVE:
                call.connect_by_ns = now_ns + CONNECTING_S * NS_PER_S
                await self._billing.recall(call)


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
        raise SignalingError("wrong-state", "the call is over")
