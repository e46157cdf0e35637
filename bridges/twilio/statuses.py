"""How far SMS are that went out, as carriers tell: in any order, and more than once.

An SMS is tracked from before it is sent until its last status, or for `TRACKED_S`. What is told is
on the disk before the carrier hears that it was taken, and goes to the node from there; what the
node can't take now is offered again, for as long.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final, Literal

import msgspec
import trio

from bridges.node_link import NodeLink
from bridges.spool import Change, Spool
from bridges.twilio.carrier import BackOff
from core.api.bridge_messages import SmsStatusRequest
from core.clock import Clock
from core.errors import ApiError, OperationError
from core.log import log_event

TRACKED_S: Final = 4 * 24 * 3600
"""Twilio gives up telling after three days."""
SWEEP_INTERVAL_S: Final = 3600
_TRACKED: Final = "tracked"
_TOLD: Final = "told"
_BATCH: Final = 100

Told = Literal["sent", "delivered", "undelivered", "failed", "unknown"]
RANKS: Final[Mapping[Told, int]] = {
    "sent": 1,
    "delivered": 2,
    "undelivered": 2,
    "failed": 2,
    "unknown": 3,
}
"""A status counts when it is further than the last one."""
_LAST: Final = 2
_NEVER_TAKEN: Final = frozenset({"no_id"})
"""Why a node refuses a status for good; all else may pass."""

_log = logging.getLogger("montana.bridge.twilio")


class _Tracked(msgspec.Struct, frozen=True, array_like=True):
    since_s: int
    rank: int = 0


class _Status(msgspec.Struct, frozen=True, array_like=True):
    event: str
    status: Told
    detail: str
    since_s: int = 0


class Statuses:
    """Tells the node how far SMS are."""

    def __init__(self, node: NodeLink, spool: Spool, clock: Clock) -> None:
        self._node = node
        self._spool = spool
        self._clock = clock
        self._has_more = trio.Event()
        self._back_off = BackOff()

    def tracking(self, event: str) -> Change:
        """What has to be spooled, with it that an SMS is about to be sent."""
        return Change(_TRACKED, event, msgspec.json.encode(_Tracked(int(self._clock.unix_s()))))

    def not_tracking(self, event: str) -> Change:
        """What has to be spooled where it wasn't sent after all."""
        return Change(_TRACKED, event, None)

    async def take(self, event: str, status: Told, detail: str) -> bool:
        """A carrier has told of an SMS; durable when this returns. False, with nothing done, where
        nothing is known of it, or that much is known already.

        Raises:
            OperationError: the disk is full.
        """
        tracked = self._tracked(event)
        if tracked is None or RANKS[status] <= tracked.rank:
            return False
        await self._spool.change(self._telling(event, status, detail))
        self._has_more.set()
        return True

    async def run(self) -> None:
        """Tell until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            while True:
                self._has_more = trio.Event()
                await self._tell_all()
                await self._has_more.wait()

    async def _tell_all(self) -> None:
        """Offer each status once."""
        after = ""
        while told := self._spool.items(_TOLD, _BATCH, after):
            for after, value in told:
                try:
                    await self._tell(after, msgspec.json.decode(value, type=_Status))
                except OperationError as error:
                    # Of the node, which is offered the next one then, or of a disk that is full.
                    log_event(_log, logging.WARNING, "a status has to wait", code=error.code)
                    self._has_more.set()
                    await trio.sleep(self._back_off.next_s())
                else:
                    self._back_off = BackOff()

    def _tracked(self, event: str) -> _Tracked | None:
        stored = self._spool.get(_TRACKED, event)
        return None if stored is None else msgspec.json.decode(stored, type=_Tracked)

    def _telling(self, event: str, status: Told, detail: str) -> Change:
        told = _Status(event, status, detail[:128], int(self._clock.unix_s()))
        return Change(_TOLD, _told_key(event, RANKS[status]), msgspec.json.encode(told))

    def _is_telling(self, event: str) -> bool:
        """Whether something of it waits for the node."""
        keys = (_told_key(event, rank) for rank in set(RANKS.values()))
        return any(self._spool.get(_TOLD, key) is not None for key in keys)

    async def _tell(self, key: str, told: _Status) -> None:
        """Tell the node of a status, and forget it.

        Raises:
            OperationError: not now; it is kept.
        """
        tracked = self._tracked(told.event)
        rank = RANKS[told.status]
        if (tracked is not None and rank > tracked.rank) or told.status == "unknown":
            try:
                await self._node.request(SmsStatusRequest(told.event, told.status, told.detail))
            except (OperationError, ApiError) as error:
                code = error.code if isinstance(error, OperationError) else "no_id"
                is_old = self._clock.unix_s() - told.since_s > TRACKED_S
                if not (is_old or code in _NEVER_TAKEN):
                    raise
                log_event(_log, logging.WARNING, "a status was not taken", code=code)
        changes = [Change(_TOLD, key, None)]
        if rank >= _LAST:
            changes.append(self.not_tracking(told.event))
        elif tracked is not None and rank > tracked.rank:
            further = _Tracked(tracked.since_s, rank)
            changes.append(Change(_TRACKED, told.event, msgspec.json.encode(further)))
        await self._spool.change(*changes)

    async def _sweep(self) -> None:
        while True:
            try:
                await self._give_up_old()
            except OperationError as error:
                log_event(_log, logging.ERROR, "the spool can't be written", reason=error)
            await trio.sleep(SWEEP_INTERVAL_S)

    async def _give_up_old(self) -> None:
        """Forget what was tracked for long enough.

        Raises:
            OperationError: the disk is full.
        """
        oldest_s, after = self._clock.unix_s() - TRACKED_S, ""
        while page := self._spool.items(_TRACKED, _BATCH, after):
            for after, value in page:
                tracked = msgspec.json.decode(value, type=_Tracked)
                if tracked.since_s >= oldest_s or self._is_telling(after):
                    continue
                changes = [self.not_tracking(after)]
                if tracked.rank == 0:
                    detail = "the carrier has never told"
                    changes.append(self._telling(after, "unknown", detail))
                await self._spool.change(*changes)
                self._has_more.set()
            # There may be hundreds of thousands: webhooks are answered in between.
            await trio.lowlevel.checkpoint()


def _told_key(event: str, rank: int) -> str:
    # In the order of their ranks, for one SMS.
    return f"{event}.{rank}"
