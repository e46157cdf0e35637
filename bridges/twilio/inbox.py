"""SMS that have come: each is on the disk before its sender's carrier hears that it was received,
is carried out by the node once, and answered once.

The answer goes back in the HTTP response when the node has it soon enough, and as an SMS of its
own otherwise: after a restart as well, for whatever is still on the disk was not answered, or not
surely. That is when an answer may come twice; the node does nothing twice, it knows the message.

What one sender has sent is carried out in the order in which it has come. A text whose owner has no
room for it is kept until there is some, and is offered before what comes later to the same number,
which it holds up for half a second at most.
"""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict, deque
from collections.abc import Mapping
from heapq import heappop, heappush
from typing import Final, NamedTuple

import msgspec
import trio

from bridges.node_link import NodeAway
from bridges.process import BridgeContext
from bridges.spool import Change
from bridges.twilio.carrier import RETRY_LAST_S, BackOff
from bridges.twilio.figures import Figures
from bridges.twilio.late_answers import LateAnswers, Way
from core.api.bridge_messages import CarrierKeyword, SmsReceivedReply, SmsReceivedRequest
from core.errors import ApiError, OperationError
from core.log import log_event

KIND: Final = "received"
SENDERS_MAXIMUM: Final = 500
"""Whose messages are being carried out, to be answered by SMS, at the same time."""
NODE_TIMEOUT_S: Final = 30.0
ERASE_AFTER_S: Final = 0.05
ERASED_WITHIN_S: Final = 1.0
"""Or the disk is full."""
REFUSED_LIFETIME_S: Final = 3600
"""How long a message is offered to a node that refuses it, from its first refusal on."""
PASSING: Final = frozenset({"sms_rate", "disk_full"})
"""What a message is refused for whose turn comes, however long that takes."""
OWNER_FULL: Final = "sms_full"
"""What a text is refused for whose owner has not read those before it."""
KEPT_HOLDS_UP_S: Final = 0.5
KEPT_INTERVAL_S: Final = 60.0
"""How often such texts are offered to the node again."""
KEPT_LIFETIME_S: Final = 3 * 24 * 3600
"""The node keeps them for its owner for no longer, either."""
RECENT_LIFETIME_S: Final = 900.0
RECENT_MAXIMUM: Final = 10_000
"""How long, and of how many, it is known that they were answered: the node, which knows it for
longer, may be slow to say so."""
KEPT_MAXIMUM: Final = 10_000
"""Of one recipient."""
_PAGE: Final = 1_000

_log = logging.getLogger("montana.bridge.twilio")


class Received(msgspec.Struct, frozen=True, array_like=True):
    """An SMS as it is spooled.

    Attributes:
        bridge: by which way it has come, and its answer goes.
        keyword: what the carrier has taken it for, and has answered itself.
        received_ms: since 1970.
        sim_number: of the telephone's SIM that it has come to, from 1 on; None where nobody has
            said.
    """

    bridge: str
    sender: str
    recipient: str
    body: str
    keyword: CarrierKeyword | None
    received_ms: int
    sim_number: int | None = None


class _Taking:
    """A message that is being stored: all who bring it learn from one commit what came of it."""

    __slots__ = ("ended", "is_stored")

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.is_stored = False


class _Left(NamedTuple):
    """A message that is to be answered by SMS. They compare by when they came.

    Attributes:
        is_first: whether nobody can have been answered yet.
    """

    received_ms: int
    key: str
    is_first: bool


class Inbox:
    """What has come and isn't answered yet.

    Args:
        ways: by which answers go, for each way that messages come.
    """

    def __init__(self, context: BridgeContext, ways: Mapping[str, Way], figures: Figures) -> None:
        self._node = context.node
        self._spool = context.spool
        self._clock = context.clock
        self._late = LateAnswers(context.node, context.clock, ways, self.done)
        self._figures = figures
        self._held: set[str] = set()
        """Those that somebody in this process deals with."""
        self._taking: dict[str, _Taking] = {}
        self._direct: dict[str, trio.Event] = {}
        """Whose message is carried out now, to be answered in the response."""
        self._left: dict[str, list[_Left]] = {}
        """By sender, what is to be carried out and answered by SMS, the earliest first."""
        self._idle: deque[str] = deque()
        """Those of them with whom nobody deals yet."""
        self._dealing = 0
        self._has_more = trio.Event()
        self._kept: dict[str, deque[str]] = {}
        """By recipient, the texts for which its owner has no room, the first one first."""
        self._offering: dict[str, trio.Event] = {}
        self._recent = OrderedDict[str, float]()
        """Those that were answered a short while ago, and when."""
        self._answered: dict[str, trio.Event] = {}
        """Those that are to be erased, and what tells that they are."""
        self._has_answered = trio.Event()
        page = self._spool.items(KIND, _PAGE)
        while page:
            for key, value in page:
                self.later(key, msgspec.json.decode(value, type=Received))
            page = self._spool.items(KIND, _PAGE, after=page[-1][0])

    async def run(self) -> None:
        """Answer what was left, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._erase)
            nursery.start_soon(self._offer_now_and_then)
            nursery.start_soon(self._late.run)
            while True:
                self._has_more = trio.Event()
                while self._idle and self._dealing < SENDERS_MAXIMUM:
                    self._dealing += 1
                    nursery.start_soon(self._deal_with, self._idle.popleft())
                await self._has_more.wait()

    async def put(self, key: str, received: Received, *, is_again: bool = False) -> bool:
        """Take a message in: it is durable when this returns, and the caller's, who ends it by
        `done` or `later`. False for one that is here already, and durable as well, and for one that
        was answered a short while ago.

        Args:
            is_again: whoever brings it says that the response to it has not come. What was answered
                by an SMS has arrived all the same.

        Raises:
            OperationError: the disk is full.
        """
        if self._late.was_sent(key) if is_again else self._was_answered(key):
            return False
        if (erased := self._answered.get(key)) is not None:
            # Whoever has not got the answer asks again at once.
            with trio.move_on_after(ERASED_WITHIN_S):
                await erased.wait()
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
                self._held.discard(key)
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
        return await self._carry_out_in_turn(key, received, timeout_s=timeout_s, is_first=True)

    async def again(self, key: str, received: Received, *, timeout_s: float) -> str | None:
        """The answer to a message that was answered, to somebody who hasn't got it.

        Raises:
            OperationError: not now.
        """
        return await self._carry_out_in_turn(key, received, timeout_s=timeout_s, is_first=False)

    def later(self, key: str, received: Received, *, is_first: bool = False) -> None:
        """Leave a message to be answered by an SMS.

        Args:
            is_first: it has just come, and nobody has been asked about it.
        """
        self._held.add(key)
        left = self._left.get(received.sender)
        if left is None:
            left = self._left[received.sender] = []
            self._idle.append(received.sender)
        heappush(left, _Left(received.received_ms, key, is_first))
        self._has_more.set()

    def done(self, key: str) -> None:
        """A message was answered: it is erased, with others in one commit."""
        self._answered.setdefault(key, trio.Event())
        self._has_answered.set()
        self._recent[key] = self._clock.unix_s()
        if len(self._recent) > RECENT_MAXIMUM:
            self._recent.popitem(last=False)

    def _was_answered(self, key: str) -> bool:
        answered_s = self._recent.get(key)
        return answered_s is not None and self._clock.unix_s() - answered_s < RECENT_LIFETIME_S

    async def _erase(self) -> None:
        try:
            while True:
                await self._has_answered.wait()
                await trio.sleep(ERASE_AFTER_S)
                self._has_answered = trio.Event()
                try:
                    await self._erase_answered()
                except OperationError as error:
                    log_event(_log, logging.ERROR, "the spool can't be written", reason=error)
                    self._has_answered.set()
                    await trio.sleep(RETRY_LAST_S)
        finally:
            # Or what was answered just now would be answered again after the next start.
            until_s = trio.current_time() + ERASED_WITHIN_S
            with (
                trio.CancelScope(shield=True, deadline=until_s),
                contextlib.suppress(OperationError),
            ):
                await self._erase_answered()

    async def _erase_answered(self) -> None:
        answered = dict(self._answered)
        if not answered:
            return
        await self._spool.change(*(Change(KIND, key, None) for key in answered))
        for key, erased in answered.items():
            del self._answered[key]
            self._held.discard(key)
            erased.set()

    async def _deal_with(self, sender: str) -> None:
        left = self._left[sender]
        while left:
            while (ended := self._direct.get(sender)) is not None:
                # One that has come before is carried out for its response.
                await ended.wait()
            _, key, is_first = heappop(left)
            await self._finish(key, self._stored(key), is_first)
        # Not before: what comes from them meanwhile is behind.
        del self._left[sender]
        self._dealing -= 1
        self._has_more.set()

    def _stored(self, key: str) -> Received:
        stored = self._spool.get(KIND, key)
        assert stored is not None, "what is to be answered is on the disk"
        return msgspec.json.decode(stored, type=Received)

    async def _finish(self, key: str, received: Received, is_first: bool) -> None:
        """Have a message carried out, however long that takes; or keep it, while there is no room
        for it."""
        back_off = BackOff()
        refused_from_s: float | None = None
        while True:
            try:
                text = await self._carry_out(key, received, timeout_s=None, is_first=is_first)
                break
            except NodeAway:
                # It may have been done just now: what is a duplicate then was never answered.
                is_first = False
                continue
            except OperationError as error:
                if error.code == OWNER_FULL:
                    self._keep(key, received.recipient)
                    return
                # What it is refused for may pass; how long it lasts is what decides.
                log_event(
                    _log, logging.WARNING, "the node refuses an SMS", code=error.code, sid=key
                )
                now_s = self._clock.unix_s()
                if refused_from_s is None:
                    refused_from_s = now_s
                if error.code not in PASSING and now_s - refused_from_s > REFUSED_LIFETIME_S:
                    self._give_up(key)
                    return
            except ApiError as error:
                log_event(_log, logging.ERROR, "an SMS no node reads", reason=error, sid=key)
                text = None
                break
            await trio.sleep(back_off.next_s())
        self._answer(key, received, text)

    def _answer(self, key: str, received: Received, text: str | None) -> None:
        if text:
            self._late.put(
                key,
                received.sender,
                text,
                way=received.bridge,
                received_ms=received.received_ms,
                sim_number=received.sim_number,
            )
        else:
            self.done(key)

    def _give_up(self, key: str) -> None:
        self._figures.count("given_up")
        log_event(_log, logging.ERROR, "an SMS is given up", sid=key)
        self.done(key)

    # ------------------------------------------------------------ texts that are kept

    def _keep(self, key: str, recipient: str) -> None:
        kept = self._kept.setdefault(recipient, deque())
        if len(kept) >= KEPT_MAXIMUM:
            self._give_up(key)
            return
        if not kept:
            log_event(_log, logging.WARNING, "an owner has no room for SMS, which are kept")
        kept.append(key)
        self._show_kept()

    async def _offer_now_and_then(self) -> None:
        while True:
            await trio.sleep(KEPT_INTERVAL_S)
            for recipient in list(self._kept):
                await self._offer(recipient)

    async def _offer(self, recipient: str) -> None:
        """Have kept texts handed on, in order, as far as there is room for them."""
        if (offered := self._offering.get(recipient)) is not None:
            await offered.wait()
            return
        kept = self._kept.get(recipient)
        if kept is None:
            return
        offered = self._offering[recipient] = trio.Event()
        refused: deque[str] = deque()
        try:
            while kept:
                try:
                    await self._offer_one(kept[0])
                except NodeAway:
                    break
                except OperationError as error:
                    if error.code == OWNER_FULL or error.code in PASSING:
                        break
                    # For what that is, others need not wait.
                    refused.append(kept[0])
                kept.popleft()
        finally:
            kept.extendleft(reversed(refused))
            del self._offering[recipient]
            offered.set()
            if not kept:
                del self._kept[recipient]
            self._show_kept()

    async def _offer_one(self, key: str) -> None:
        received = self._stored(key)
        if self._clock.unix_s() - received.received_ms / 1000 > KEPT_LIFETIME_S:
            self._give_up(key)
            return
        try:
            reply = await self._ask(key, received, NODE_TIMEOUT_S)
        except ApiError as error:
            log_event(_log, logging.ERROR, "an SMS no node reads", reason=error, sid=key)
            self.done(key)
        else:
            self._answer(key, received, reply.reply)

    def _show_kept(self) -> None:
        self._figures.show("kept_for_owners", sum(map(len, self._kept.values())))

    async def _carry_out_in_turn(
        self, key: str, received: Received, *, timeout_s: float, is_first: bool
    ) -> str | None:
        sender = received.sender
        # One time for both: whoever waits for the answer waits no longer for that of a second SMS.
        until_s = trio.current_time() + timeout_s
        if sender in self._direct:
            with trio.move_on_at(until_s):
                while sender in self._direct:
                    await self._direct[sender].wait()
        if sender in self._direct or sender in self._left:
            raise OperationError("an earlier SMS of this number is not carried out yet")
        ended = self._direct[sender] = trio.Event()
        try:
            left_s = max(0.0, until_s - trio.current_time())
            return await self._carry_out(key, received, timeout_s=left_s, is_first=is_first)
        finally:
            del self._direct[sender]
            ended.set()

    async def _carry_out(
        self, key: str, received: Received, *, timeout_s: float | None, is_first: bool
    ) -> str | None:
        if timeout_s is not None or is_first:
            # Asked once: of what was asked twice, nobody would know whether it came twice.
            timeout_s = NODE_TIMEOUT_S if timeout_s is None else timeout_s
        if received.recipient in self._kept:
            # Or a text would take the place of those that have come before it.
            begun_s = trio.current_time()
            with trio.move_on_after(KEPT_HOLDS_UP_S):
                await self._offer(received.recipient)
            if timeout_s is not None:
                timeout_s = max(0.0, timeout_s - (trio.current_time() - begun_s))
        reply = await self._ask(key, received, timeout_s)
        return None if is_first and reply.duplicate else reply.reply

    async def _ask(self, key: str, received: Received, timeout_s: float | None) -> SmsReceivedReply:
        """Give a message to the node: once, where a time is given, and until it answers otherwise.

        Raises:
            NodeAway, OperationError, ApiError: as `NodeLink` does.
        """
        request = SmsReceivedRequest(
            bridge=received.bridge,
            sender=received.sender,
            recipient=received.recipient,
            body=received.body,
            message_id=key,
            received_ms=received.received_ms,
            keyword=received.keyword,
        )
        if timeout_s is None:
            reply = await self._node.request(request)
        else:
            reply = await self._node.try_request(request, timeout_s=timeout_s)
        assert isinstance(reply, SmsReceivedReply)
        return reply
