"""The money of calls: what is held, charged and left of each, and the seconds that count.

A call is open with the metering from the moment in which both sides have come until it is over. Of
one that a stopped node has left, what was charged before stands in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from billing.ledger import HISTORY_LINES, LmdbLedger
from billing.money import J
from billing.tariff import Line
from core.clock import Clock
from core.errors import OperationError
from core.units import NS_PER_S
from relay.metering import Metering
from relay.signaling.call_heartbeats import Heartbeats
from relay.signaling.call_records import CallInfo, unavailable
from relay.signaling.descriptions import Kind
from relay.signaling.living_call import LivingCall

WARNED_AT_S: Final = (60, 10)
UNSTARTED_MEDIA_S: Final = 5
"""For so long media may flow both ways though nobody says that it does."""


class CallBilling:
    """Opens, changes and closes calls with the metering, each one thing at a time.

    Args:
        line_of: the tariff's line of a kind of call.
    """

    def __init__(
        self,
        ledger: LmdbLedger,
        metering: Metering,
        clock: Clock,
        line_of: Callable[[Kind], Line],
    ) -> None:
        self._ledger = ledger
        self._metering = metering
        self._clock = clock
        self._line_of = line_of

    # ------------------------------------------------------------ opening, changing, closing

    async def open(self, call: LivingCall) -> bool:
        """Have the metering hold the first seconds; whether it has been opened by this. One that is
        not over and not `is_billed` then can't be paid for.

        Raises:
            SignalingError: ``unavailable``.
        """
        async with call.opening:
            if call.is_billed or call.info.status.is_over:
                return False
            try:
                call.is_billed = await self._metering.open_call(
                    call.info.id,
                    payer=self._ledger.heir(call.info.caller),
                    line=self._line_of(call.info.kind),
                    relayed=call.info.relayed,
                )
            except OperationError as error:
                raise unavailable() from error
            return call.is_billed

    def start(self, call: LivingCall) -> int:
        """Charge from now on; returns the micro-J that are left."""
        now_ns = self._ledger.clock.now_ns()
        self._metering.start_call(call.info.id)
        call.counted_since_s = self._clock.monotonic_ns() / NS_PER_S
        if not call.info.relayed:
            call.heartbeats = Heartbeats(now_ns)
        if not call.info.started_ns:
            call.change(started_ns=now_ns)
        return self.take_figures(call)

    async def change_kind(self, call: LivingCall, kind: Kind) -> bool:
        """Charge for what flows now; whether the call has become of another kind.

        Raises:
            SignalingError: ``unavailable``.
        """
        async with call.opening:
            if kind is call.info.kind or call.info.status.is_over:
                return False
            line = self._line_of(kind)
            if call.is_billed:
                try:
                    await self._metering.change_call(call.info.id, line)
                except OperationError as error:
                    raise unavailable() from error
            if call.info.status.is_over:
                # It was cut or hung up meanwhile, as what it was.
                return False
            call.change(kind=kind, price_second=line.price_second)
            return True

    async def close(self, call: LivingCall) -> None:
        """Charge a call that is over to its last second.

        Raises:
            OperationError: that can't be stored; it may be tried again.
        """
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

    # ------------------------------------------------------------ figures

    def count(self, call: LivingCall, now_ns: int) -> int:
        """Take over what was charged of a call that was started, and have the metering know of
        what isn't relayed; returns the micro-J that are left."""
        if call.heartbeats is not None:
            self._metering.count_direct(call.info.id, call.heartbeats.seconds(now_ns))
        return self.take_figures(call)

    def take_figures(self, call: LivingCall) -> int:
        """Take over what was charged; returns the micro-J that are left."""
        figures = self._metering.call_figures(call.info.id)
        call.change(
            seconds=call.earlier_seconds + figures.seconds, cost=call.earlier_cost + figures.cost
        )
        return figures.left

    @staticmethod
    def warning_s(call: LivingCall, left: int) -> int | None:
        """Of which one of `WARNED_AT_S` the caller is to be warned now; None for none."""
        price = call.info.price_second
        reached = [one for one in WARNED_AT_S if price and left <= one * price]
        warn_at_s = min(reached, default=None)
        is_new = warn_at_s is not None and (
            call.warned_at_s is None or warn_at_s < call.warned_at_s
        )
        # More than before was paid in: it is told again when that is used up.
        call.warned_at_s = warn_at_s
        return warn_at_s if is_new else None

    def silent_s(self, call: LivingCall, now_ns: int) -> float:
        """Since when media has not flowed both ways in a call that was started."""
        if call.heartbeats is not None:
            return (now_ns - call.heartbeats.last_both_ns) / NS_PER_S
        assert call.counted_since_s is not None
        last_s = self._metering.last_both_active_s(call.info.id) or 0
        return self._clock.monotonic_ns() / NS_PER_S - max(call.counted_since_s, last_s)

    def media_flows_unstarted(self, call: LivingCall) -> bool:
        """Whether the relays carry more than two sides need who are about to be connected: a page
        that never says that it is connected would else talk for nothing."""
        if not call.is_billed or not call.info.relayed:
            return False
        last_s = self._metering.last_both_active_s(call.info.id)
        if last_s != call.last_media_s:
            call.last_media_s = last_s
            call.unstarted_media_s += 1
        return call.unstarted_media_s > UNSTARTED_MEDIA_S

    def balance(self, call: LivingCall) -> int:
        """What the caller has, or whoever has taken that account over; micro-J."""
        return self._ledger.balance(self._ledger.heir(call.info.caller), J).posted

    # ------------------------------------------------------------ after a start

    async def recall(self, call: LivingCall) -> None:
        """Take over what the ledger says that a call had come to before the node was started."""
        call.earlier_seconds, call.earlier_cost = await self._charged(call.info)
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
