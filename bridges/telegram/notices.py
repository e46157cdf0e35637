"""Tells people in their chats what the node has to tell them: it rings, money has come."""

from __future__ import annotations

import logging
from typing import Final

import anyio

from bridges.node_link import NodeLink
from bridges.telegram import keyboards
from bridges.telegram.desk import Desk
from bridges.telegram.init_data import InitDataError, check_untrusted
from bridges.telegram.mistakes import log_mistake
from bridges.telegram.outgoing import NotSent
from bridges.telegram.table import until_stored
from bridges.telegram.texts import duration, kind_text, say, short, status_text
from core.api.bridge_messages import (
    AlarmBody,
    BridgeAnswerRequest,
    Event,
    ForwardBody,
    InitDataBody,
    ReceiptBody,
    RingBody,
    RingOverBody,
    TransferReceivedBody,
    UnlinkedBody,
)
from core.clock import Clock
from core.errors import OperationError
from core.log import RepeatedEvent, log_event

_MS_PER_S: Final = 1000

_log = logging.getLogger("montana.bridge.telegram")


class Notices:
    """Delivers events.

    Args:
        secret: what initData is signed with.
        forgeries: is told of initData that is not Telegram's.
    """

    def __init__(
        self, desk: Desk, node: NodeLink, clock: Clock, secret: bytes, forgeries: RepeatedEvent
    ) -> None:
        self._desk = desk
        self._node = node
        self._clock = clock
        self._secret = secret
        self._forgeries = forgeries

    async def run(self) -> None:
        """Deliver what the node tells, until cancelled."""
        async with anyio.create_task_group() as tasks:
            async for event in self._node.events():
                tasks.start_soon(self._deliver, event)

    async def _deliver(self, event: Event) -> None:
        kind = type(event.body).__name__
        if isinstance(event.body, InitDataBody):
            try:
                await self._answer_init_data(event.id, event.body.init_data)
            except Exception as error:
                log_mistake("a question could not be answered", error, kind=kind)
            return
        chat = _chat_of(event.to)
        if chat is None:
            await self._node.acknowledge(event.id, "failed", "not a user of Telegram")
            return
        try:
            await self._tell(chat, event)
        except NotSent as error:
            reason = error.reason
            log_event(_log, logging.WARNING, "a notice was not taken", kind=kind, reason=reason)
            if reason == "blocked":
                await until_stored(lambda: self._desk.people.know(chat, blocked=True))
            await self._node.acknowledge(event.id, "failed", reason)
        except Exception as error:
            # It would fail after each start as well, and perhaps be written each time.
            log_mistake("a notice could not be told", error, kind=kind)
            await self._node.acknowledge(event.id, "failed", "unforeseen")
        else:
            await self._node.acknowledge(event.id)

    async def _tell(self, chat: int, event: Event) -> None:
        until_s = event.expires_ms / _MS_PER_S
        match event.body:
            case RingBody():
                await self._ring(chat, event.body, until_s)
            case RingOverBody(call=call, status=status, seconds=seconds):
                await self._desk.rings.end(call, status, seconds, until_s=until_s)
            case _:
                await self._desk.out.send(chat, self._text(chat, event), until_s=until_s)

    async def _ring(self, chat: int, ring: RingBody, until_s: float) -> None:
        rings = self._desk.rings
        language = self._desk.people.language_of(chat)
        caller = self._desk.called(language, ring.caller)
        # It may be over before Telegram has taken the message.
        await rings.expect(ring.call, caller)
        if rings.has_rung(ring.call) or rings.is_over(ring.call):
            # Only that the node was told got lost, or there is nothing to answer any more.
            return
        message = await self._desk.out.send(
            chat,
            say(
                language,
                "rings",
                name=caller,
                kind=kind_text(language, ring.kind),
            ),
            keyboards.ring_buttons(language, ring.call, ring.url),
            until_s=until_s,
        )
        await rings.add(ring.call, chat, message, caller, has_rung=True)

    def _text(self, chat: int, event: Event) -> str:
        language = self._desk.people.language_of(chat)
        match event.body:
            case ReceiptBody() as body:
                name = self._desk.called(language, body.other)
                time = duration(body.seconds)
                if not body.seconds:
                    status = status_text(language, body.reason, 0)
                    return say(language, "over", name=name, status=status)
                if not body.cost:
                    return say(language, "receipt_free", name=name, time=time)
                cost, balance = short(body.cost), short(body.balance)
                return say(language, "receipt", name=name, time=time, cost=cost, balance=balance)
            case TransferReceivedBody() as body:
                return say(
                    language,
                    "received",
                    name=self._desk.called(language, body.sender),
                    amount=short(body.amount),
                    currency="Ɉ" if body.currency == "J" else body.currency,
                    balance=short(body.balance),
                )
            case UnlinkedBody() as body:
                return say(
                    language, "phone_unlinked", phone=body.phone, balance=short(body.balance)
                )
            case ForwardBody() as body:
                return say(
                    language,
                    "forward",
                    sender=body.sender,
                    recipient=body.recipient,
                    text=body.text,
                )
            case AlarmBody() as body:
                return say(language, "alarm", text=body.text)
        raise AssertionError(f"the node gives Telegram no {type(event.body).__name__}")

    async def _answer_init_data(self, event: str, init_data: str) -> None:
        try:
            user = check_untrusted(init_data, self._secret, self._clock.unix_s())
            answer = BridgeAnswerRequest(event, True, str(user))
        except InitDataError as error:
            self._forgeries.happened(str(error), error=type(error).__name__)
            answer = BridgeAnswerRequest(event, False, str(error))
        try:
            await self._node.request(answer)
        except OperationError as error:
            log_event(_log, logging.WARNING, "an answer was not taken", reason=error)


def _chat_of(address: str) -> int | None:
    number = address.removeprefix("tg:")
    if number == address or not number.isascii() or not number.isdigit() or len(number) > 16:
        return None
    return int(number)
