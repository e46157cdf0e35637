"""How far SMS are that went out, as carriers tell: in any order, and more than once.

An SMS is tracked from before it is sent until its last status, or for `TRACKED_S`. What is told is
on the disk before the carrier hears that it was taken, and goes to the node from there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final, Literal

import msgspec
import trio

from bridges.node_link import NodeLink
from bridges.spool import Change, Spool
from core.api.bridge_messages import SmsStatusRequest
from core.clock import Clock
from core.errors import OperationError
from core.log import log_event

TRACKED_S: Final = 4 * 24 * 3600
"""Twilio gives up telling after three days."""
SWEEP_INTERVAL_S: Final = 3600
RETRY_S: Final = 30
_TRACKED: Final = "tracked"
_TOLD: Final = "told"
_BATCH: Final = 100
_SWEEP_MAXIMUM: Final = 100_000

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

_log = logging.getLogger("montana.bridge.twilio")


class _Tracked(msgspec.Struct, frozen=True, array_like=True):
    since_s: int
    rank: int = 0


class _Status(msgspec.Struct, frozen=True, array_like=True):
    event: str
    status: Told
    detail: str


class Statuses:
    """Tells the node how far SMS are."""

    def __init__(self, node: NodeLink, spool: Spool, clock: Clock) -> None:
        self._node = node
        self._spool = spool
        self._clock = clock
        self._has_more = trio.Event()

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
        await self._spool.change(_telling(event, status, detail))
        self._has_more.set()
        return True

    async def run(self) -> None:
        """Tell until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            while True:
                self._has_more = trio.Event()
                told = self._spool.items(_TOLD, _BATCH)
                try:
                    for key, value in told:
                        await self._tell(key, msgspec.json.decode(value, type=_Status))
                except OperationError as error:
                    log_event(_log, logging.ERROR, "the spool can't be written", reason=error)
                    await trio.sleep(RETRY_S)
                else:
                    if not told:
                        await self._has_more.wait()

    def _tracked(self, event: str) -> _Tracked | None:
        stored = self._spool.get(_TRACKED, event)
        return None if stored is None else msgspec.json.decode(stored, type=_Tracked)

    async def _tell(self, key: str, told: _Status) -> None:
        tracked = self._tracked(told.event)
        rank = RANKS[told.status]
        if (tracked is not None and rank > tracked.rank) or told.status == "unknown":
            try:
                await self._node.request(SmsStatusRequest(told.event, told.status, told.detail))
            except OperationError as error:
                # It has forgotten that SMS.
                log_event(_log, logging.INFO, "a status was not taken", code=error.code)
        changes = [Change(_TOLD, key, None)]
        if rank >= _LAST:
            changes.append(self.not_tracking(told.event))
        elif tracked is not None and rank > tracked.rank:
            further = _Tracked(tracked.since_s, rank)
            changes.append(Change(_TRACKED, told.event, msgspec.json.encode(further)))
        await self._spool.change(*changes)

    async def _sweep(self) -> None:
        while True:
            oldest_s = self._clock.unix_s() - TRACKED_S
            for event, value in self._spool.items(_TRACKED, _SWEEP_MAXIMUM):
                tracked = msgspec.json.decode(value, type=_Tracked)
                if tracked.since_s >= oldest_s:
                    continue
                changes = [self.not_tracking(event)]
                if tracked.rank == 0:
                    changes.append(_telling(event, "unknown", "the carrier has never told"))
                try:
                    await self._spool.change(*changes)
                except OperationError as error:
                    log_event(_log, logging.ERROR, "the spool can't be written", reason=error)
                    break
                self._has_more.set()
            await trio.sleep(SWEEP_INTERVAL_S)


def _telling(event: str, status: Told, detail: str) -> Change:
    value = msgspec.json.encode(_Status(event, status, detail[:128]))
    # In the order of their ranks, for one SMS.
    return Change(_TOLD, f"{event}.{RANKS[status]}", value)
