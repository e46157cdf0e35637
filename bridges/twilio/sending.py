"""SMS that go out for the node.

That one is about to be sent is on the disk before it is, and what came of it right after: where the
bridge finds the first without the second, nobody knows, and it isn't sent again. It finds either
when it starts: then the node is told at once, and both are forgotten.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec
import trio

from bridges.node_link import NodeLink
from bridges.spool import ENTRIES_MAXIMUM, Change, Spool
from bridges.twilio.advice import OPTED_OUT
from bridges.twilio.carrier import (
    RETRY_LAST_S,
    TEXT_MAXIMUM,
    Accepted,
    Again,
    BackOff,
    Carrier,
    Refused,
    Unknown,
    is_e164,
)
from bridges.twilio.figures import Figures
from bridges.twilio.statuses import Statuses
from core.api.bridge_messages import Event, Outcome, SmsBody, SmsOptOutRequest
from core.clock import Clock
from core.errors import OperationError
from core.log import log_event

AT_ONCE_MAXIMUM: Final = 16
"""Requests to a carrier."""
_BEGUN: Final = b""

_log = logging.getLogger("montana.bridge.twilio")


class _Ended(msgspec.Struct, frozen=True, array_like=True):
    """What came of an SMS."""

    outcome: Outcome
    detail: str = ""


_TOO_LATE: Final = Refused("it could not be sent in time")
_INTERRUPTED: Final = _Ended("unknown", "the bridge ended while it was sent")


class Sending:
    """Sends what the node has for one way out.

    Args:
        name: of that way; what is noted in the spool is its own.
    """

    def __init__(
        self,
        name: str,
        node: NodeLink,
        spool: Spool,
        clock: Clock,
        carrier: Carrier,
        statuses: Statuses,
        figures: Figures,
    ) -> None:
        self._kind = f"sending_{name}"
        self._node = node
        self._spool = spool
        self._clock = clock
        self._carrier = carrier
        self._statuses = statuses
        self._figures = figures
        self._limiter = trio.CapacityLimiter(AT_ONCE_MAXIMUM)

    async def run(self) -> None:
        """Send until cancelled."""
        left = self._spool.items(self._kind, ENTRIES_MAXIMUM)
        for key, stored in left:
            await self._end(key, _read(stored))
        settled = {key for key, _ in left}
        async with trio.open_nursery() as nursery:
            async for event in self._node.events():
                # It may have been given again before it was acknowledged, and must not be sent.
                if event.id not in settled:
                    nursery.start_soon(self._deliver, event)

    async def _deliver(self, event: Event) -> None:
        while True:
            try:
                ended = await self._ended(event)
            except OperationError as error:
                # The disk is full, or the node refuses to hear it: what is stored stays true.
                log_event(_log, logging.ERROR, "an SMS can't be dealt with", reason=error)
                await trio.sleep(RETRY_LAST_S)
            else:
                await self._end(event.id, ended)
                return

    async def _end(self, event: str, ended: _Ended) -> None:
        """Tell the node what came of an SMS, and forget it."""
        await self._node.acknowledge(event, ended.outcome, ended.detail)
        await self._spool.change_at_last(Change(self._kind, event, None))
        self._figures.count(f"sent_{ended.outcome}")

    async def _ended(self, event: Event) -> _Ended:
        """What came of an SMS, now or before it had to wait for the disk."""
        stored = self._spool.get(self._kind, event.id)
        if stored is not None:
            return _read(stored)
        if not isinstance(event.body, SmsBody) or not is_e164(event.to):
            return _Ended("failed", "it is no SMS to a telephone number")
        if not 0 < len(event.body.text) <= TEXT_MAXIMUM:
            return _Ended("failed", f"an SMS has from 1 to {TEXT_MAXIMUM} characters")
        ended = await self._send(event, event.body.text)
        if ended.outcome != "done":
            log_event(
                _log,
                logging.WARNING,
                "an SMS was not sent",
                event_id=event.id,
                outcome=ended.outcome,
                reason=ended.detail,
            )
        return ended

    async def _send(self, event: Event, text: str) -> _Ended:
        back_off = BackOff()
        while self._clock.unix_s() * 1000 < event.expires_ms:
            async with self._limiter:
                outcome = await self._send_once(event, text)
            if not isinstance(outcome, Again):
                break
            self._figures.advise(outcome.advice)
            log_event(_log, logging.WARNING, "an SMS has to wait", reason=outcome.detail)
            # At last: found without its end, what was surely not sent would be unknown.
            await self._spool.change_at_last(
                Change(self._kind, event.id, None), self._statuses.not_tracking(event.id)
            )
            await trio.sleep(back_off.next_s(outcome.after_s))
        else:
            return _Ended("failed", _TOO_LATE.detail)
        if isinstance(outcome, Accepted):
            self._figures.advise("")
            log_event(_log, logging.DEBUG, "SMS accepted", event_id=event.id, sid=outcome.sid)
            ended = _Ended("done")
        else:
            refused = isinstance(outcome, Refused)
            ended = _Ended("failed" if refused else "unknown", outcome.detail)
        changes = [Change(self._kind, event.id, msgspec.json.encode(ended))]
        if ended.outcome == "failed":
            changes.append(self._statuses.not_tracking(event.id))
        # Of one whose fate is unknown the carrier may tell later.
        await self._spool.change_at_last(*changes)
        if isinstance(outcome, Refused) and outcome.code == OPTED_OUT:
            # Not before: what became of this one is known, whatever the node says.
            await self._node.request(SmsOptOutRequest(event.to, True))
        return ended

    async def _send_once(self, event: Event, text: str) -> Accepted | Refused | Again | Unknown:
        await self._spool.change(
            Change(self._kind, event.id, _BEGUN), self._statuses.tracking(event.id)
        )
        left_s = event.expires_ms / 1000 - self._clock.unix_s()
        if left_s <= 0:
            # It has waited for others, or for the disk.
            return _TOO_LATE
        return await self._carrier.send(event.to, text, event.id, lifetime_s=left_s)


def _read(stored: bytes) -> _Ended:
    return _INTERRUPTED if stored == _BEGUN else msgspec.json.decode(stored, type=_Ended)
