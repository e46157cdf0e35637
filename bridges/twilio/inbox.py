"""SMS that have come: each is on the disk before its sender's carrier hears that it was received,
is carried out by the node once, and answered once.

The answer goes back in the HTTP response when the node has it soon enough, and as an SMS of its
own otherwise: after a restart as well, for whatever is still on the disk was not answered, or not
surely. That is when an answer may come twice; the node does nothing twice, it knows the message.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import groupby
from typing import Final

import msgspec
import trio

from bridges.node_link import NodeAway
from bridges.process import BridgeContext
from bridges.spool import Change
from bridges.twilio.carrier import (
    RETRY_LAST_S,
    Accepted,
    Again,
    BackOff,
    Carrier,
    is_e164,
    parts,
)
from bridges.twilio.figures import Figures
from core.api.bridge_messages import SmsOptOutRequest, SmsReceivedReply, SmsReceivedRequest
from core.errors import ApiError, OperationError
from core.log import log_event

KIND: Final = "received"
BACKLOG_MAXIMUM: Final = 500
"""Messages that are being answered by SMS at the same time; the others are on the disk alone."""
ANSWER_LIFETIME_S: Final = 24 * 3600
"""From when on an answer would surprise more than help."""
NODE_TIMEOUT_S: Final = 30.0
ERASE_AFTER_S: Final = 0.05
REFUSED_LIFETIME_S: Final = 3600
"""How long a message is offered to a node that refuses it."""

_log = logging.getLogger("montana.bridge.twilio")


class Received(msgspec.Struct, frozen=True, array_like=True):
    """An SMS as it is spooled.

    Attributes:
        bridge: by which way it has come, and its answer goes.
        opts_out: whether it says that the sender wants no SMS any more, or wants them again; None
            for neither.
        received_ms: since 1970.
        sim_number: of the telephone's SIM that it has come to, from 1 on; None where nobody has
            said.
    """

    bridge: str
    sender: str
    recipient: str
    body: str
    opts_out: bool | None
    received_ms: int
    sim_number: int | None = None


class _Taking:
    """A message that is being stored: all who bring it learn from one commit what came of it."""

    __slots__ = ("ended", "is_stored")

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.is_stored = False


class Inbox:
    """What has come and isn't answered yet.

    Args:
        carriers: by whom answers go, for each way that messages come.
    """

    def __init__(
        self, context: BridgeContext, carriers: Mapping[str, Carrier], figures: Figures
    ) -> None:
        self._node = context.node
        self._spool = context.spool
        self._clock = context.clock
        self._carriers = carriers
        self._figures = figures
        self._held: set[str] = set()
        """Those that somebody in this process deals with."""
        self._taking: dict[str, _Taking] = {}
        self._backlog = 0
        """How many of those are being answered by SMS."""
        self._has_more = trio.Event()
        self._has_room = trio.Event()
        self._answered: list[str] = []
        """Those that are to be erased."""
        self._has_answered = trio.Event()
        self._nursery: trio.Nursery | None = None

    @property
    def is_full(self) -> bool:
        """Whether no more can be answered by SMS now."""
        return self._backlog >= BACKLOG_MAXIMUM

    async def run(self) -> None:
        """Answer what was left, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._erase)
            while True:
                self._has_more, self._has_room = trio.Event(), trio.Event()
                if self.is_full:
                    await self._has_room.wait()
                elif not self._take_up(self._nursery):
                    await self._has_more.wait()

    async def put(self, key: str, received: Received) -> bool:
        """Take a message in: it is durable when this returns, and the caller's, who ends it by
        `done` or `later`. False for one that is here already, and durable as well.

        Raises:
            OperationError: the disk is full.
        """
        taking = self._taking.get(key)
        if taking is not None:
            await taking.ended.wait()
            if not taking.is_stored:
                raise OperationError("the same message could not be stored just now")
            return False
        if key in self._held:
            return False
        self._held.add(key)
        taking = self._taking[key] = _Taking()
        is_new = False
        try:
            is_new = await self._spool.put(KIND, key, msgspec.json.encode(received))
            taking.is_stored = True
        finally:
            if not is_new:
                self._let_go(key)
            del self._taking[key]
            taking.ended.set()
        if is_new:
            self._figures.count("received")
        return is_new

    async def first_answer(self, key: str, received: Received, *, timeout_s: float) -> str | None:
        """Have a message carried out that has just come. None where nothing answers it: it had been
        answered, under this key, before the last one was forgotten here.

        Raises:
            OperationError: not now.
        """
        return await self._carry_out(key, received, timeout_s=timeout_s, is_first=True)

    async def again(self, key: str, received: Received, *, timeout_s: float) -> str | None:
        """The answer to a message that was answered, to somebody who hasn't got it.

        Raises:
            OperationError: not now.
        """
        return await self._carry_out(key, received, timeout_s=timeout_s, is_first=False)

    def later(self, key: str) -> None:
        """Leave a message to be answered by an SMS."""
        self._let_go(key)
        self._has_more.set()

    def done(self, key: str) -> None:
        """A message was answered: it is erased, with others in one commit."""
        self._answered.append(key)
        self._has_answered.set()

    def answer_soon(self, key: str, received: Received) -> None:
        """Answer a message that has just come by an SMS."""
        assert self._nursery is not None
        self._backlog += 1
        self._nursery.start_soon(self._finish, key, received, True)

    async def _erase(self) -> None:
        while True:
            await self._has_answered.wait()
            await trio.sleep(ERASE_AFTER_S)
            self._has_answered = trio.Event()
            keys, self._answered = self._answered, []
            try:
                await self._spool.change(*(Change(KIND, key, None) for key in keys))
            except OperationError as error:
                log_event(_log, logging.ERROR, "the spool can't be written", reason=error)
                for key in keys:
                    self.done(key)
                await trio.sleep(RETRY_LAST_S)
            else:
                self._held.difference_update(keys)

    def _let_go(self, key: str) -> None:
        self._held.discard(key)

    def _take_up(self, nursery: trio.Nursery) -> bool:
        """Start on what is on the disk and nobody deals with: what one sender has sent, in the
        order in which it has come."""
        found = [
            (key, msgspec.json.decode(value, type=Received))
            for key, value in self._spool.items(KIND, BACKLOG_MAXIMUM + len(self._held))
            if key not in self._held
        ]
        del found[BACKLOG_MAXIMUM - self._backlog :]
        found.sort(key=lambda item: (item[1].sender, item[1].received_ms))
        for _, group in groupby(found, lambda item: item[1].sender):
            messages = list(group)
            self._held.update(key for key, _ in messages)
            self._backlog += len(messages)
            nursery.start_soon(self._finish_all, messages)
        return bool(found)

    async def _finish_all(self, messages: list[tuple[str, Received]]) -> None:
        for key, received in messages:
            await self._finish(key, received, False)

    async def _finish(self, key: str, received: Received, is_first: bool) -> None:
        """Have a message carried out and answered by SMS, however long that takes."""
        back_off = BackOff()
        while True:
            try:
                text = await self._carry_out(key, received, timeout_s=None, is_first=is_first)
                break
            except NodeAway:
                # It may have been done just now: what is a duplicate then was never answered.
                is_first = False
                continue
            except OperationError as error:
                # What it is refused for may pass; its age is what decides.
                log_event(
                    _log, logging.WARNING, "the node refuses an SMS", code=error.code, key=key
                )
                if self._age_s(received) > REFUSED_LIFETIME_S:
                    self._figures.count("given_up")
                    text = None
                    break
            except ApiError as error:
                log_event(_log, logging.ERROR, "an SMS no node reads", reason=error, key=key)
                text = None
                break
            await trio.sleep(back_off.next_s())
        if text:
            await self._answer(received, text)
        self.done(key)
        self._backlog -= 1
        self._has_room.set()

    async def _carry_out(
        self, key: str, received: Received, *, timeout_s: float | None, is_first: bool
    ) -> str | None:
        request: SmsOptOutRequest | SmsReceivedRequest
        if received.opts_out is not None:
            request = SmsOptOutRequest(received.sender, received.opts_out)
        else:
            request = SmsReceivedRequest(
                bridge=received.bridge,
                sender=received.sender,
                recipient=received.recipient,
                body=received.body,
                message_id=key,
                received_ms=received.received_ms,
            )
        if timeout_s is not None or is_first:
            # Asked once: of what was asked twice, nobody would know whether it came twice.
            wait_s = NODE_TIMEOUT_S if timeout_s is None else timeout_s
            reply = await self._node.try_request(request, timeout_s=wait_s)
        else:
            reply = await self._node.request(request)
        if not isinstance(reply, SmsReceivedReply) or (is_first and reply.duplicate):
            return None
        return reply.reply

    async def _answer(self, received: Received, text: str) -> None:
        if not is_e164(received.sender):
            log_event(_log, logging.INFO, "an SMS from a name has no answer")
            return
        carrier = self._carriers[received.bridge]
        for part in parts(text):
            back_off = BackOff()
            while True:
                outcome = await carrier.send(received.sender, part, None, received.sim_number)
                if not isinstance(outcome, Again):
                    break
                self._figures.advise(outcome.advice)
                log_event(_log, logging.WARNING, "an answer has to wait", reason=outcome.detail)
                if self._age_s(received) > ANSWER_LIFETIME_S:
                    break
                await trio.sleep(back_off.next_s(outcome.after_s))
            if isinstance(outcome, Accepted):
                self._figures.advise("")
                self._figures.count("answered_by_sms")
            else:
                self._figures.count("answers_lost")
                log_event(_log, logging.WARNING, "an answer was not sent", reason=outcome.detail)
                return

    def _age_s(self, received: Received) -> float:
        return self._clock.unix_s() - received.received_ms / 1000
