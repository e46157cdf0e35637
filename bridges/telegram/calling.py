"""Commands about calls: /call, /answer, /hangup, /calls, and the buttons under what rings."""

from __future__ import annotations

from typing import Final, Literal

from bridges.telegram import keyboards
from bridges.telegram.desk import Contact, Desk
from bridges.telegram.offers import Offer
from bridges.telegram.texts import Language, kind_text, say, short, status_text
from bridges.telegram.updates import Incoming
from core.api.bridge_messages import (
    CallHangUpRequest,
    CallQuoteReply,
    CallQuoteRequest,
    CallRejectRequest,
    CallSideReply,
    CallSideRequest,
    CallStartRequest,
)
from core.api.messages import (
    CallEndReply,
    CallItem,
    CallLinkReply,
    CallListReply,
    CallListRequest,
)
from core.errors import OperationError

CALL_LINES: Final = 10
RINGING_MAXIMUM: Final = 20
"""Calls of late among which one that rings is looked for."""
_RINGS: Final = ("pending", "ringing")
"""A call of which it is told when it is so no more."""
_LIVES: Final = (*_RINGS, "active")
"""Who opens one that was answered comes back."""


class Calling:
    """Carries them out; every method raises `OperationError` where the node refuses it, and
    `NotSent` where Telegram takes no answer."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def call(self, incoming: Incoming, written: str) -> None:
        """Offer a call: `@user`, `+79991234567`, whom a message answers, or a list to pick from."""
        if not (written or incoming.others or incoming.answered):
            language = self._desk.language(incoming)
            keyboard = keyboards.picker(language) if incoming.is_private else None
            await self._desk.tell(incoming, "pick", keyboard)
            return
        contact = await self._desk.find_contact(incoming, written)
        if contact is not None:
            await self._offer(incoming, contact)

    async def confirmed(
        self, incoming: Incoming, token: str, offer: Offer, kind: Literal["voice", "video"]
    ) -> None:
        """Make a call that was offered."""
        desk, language = self._desk, self._desk.language(incoming)
        request = CallStartRequest(
            f"tg:{offer.user}",
            offer.to,
            kind,
            id=desk.offers.effect(token),
            username=desk.people.of(offer.user).username,
            sms_price=offer.sms_price,
        )
        try:
            made = await desk.ask(incoming, request, CallLinkReply)
        except OperationError as error:
            if error.code != "sms-price":
                raise
            # When it was offered, the telephone's owner was to hear of it without an SMS, or by a
            # cheaper one. An SMS is what numbers alone are sent.
            await self._offer(incoming, Contact(offer.to, offer.name, None))
            text = say(language, "cancelled")
            await desk.offers.refuse(token, offer, text)
            await desk.change(incoming, text)
            return
        if incoming.is_private:
            text = say(language, "calling", name=offer.name)
            keyboard = keyboards.caller_buttons(language, made.call_id, made.caller_url)
        else:
            # Everybody here can read it: the link of a side would let anybody be it.
            caller = desk.people.called(offer.user)
            text = say(language, "calling_here", caller=caller, name=offer.name)
            assert desk.app is not None
            keyboard = keyboards.group_buttons(language, desk.bot, desk.app, made.call_id)
        await desk.change(incoming, text, keyboard)

    async def answer(self, incoming: Incoming) -> None:
        """The links of the call that rings."""
        await self._desk.open_account(incoming)
        address = _address(incoming)
        request = CallListRequest(address, limit=RINGING_MAXIMUM)
        listed = await self._desk.ask(incoming, request, CallListReply)
        for call in listed.calls:
            if call.status != "ringing":
                continue
            side = await self._desk.ask(incoming, CallSideRequest(call.id, address), CallSideReply)
            # It may be over by now.
            if side.role == "callee" and side.status in _LIVES:
                await self._show_ring(incoming, call.id, side)
                return
        await self._desk.tell(incoming, "nothing_rings")

    async def open_call(self, incoming: Incoming, call: str) -> None:
        """The links of one call, for who has come by a link to the bot."""
        request = CallSideRequest(call, _address(incoming))
        await self._desk.open_account(incoming)
        side = await self._desk.ask(incoming, request, CallSideReply)
        if side.status not in _LIVES:
            raise OperationError("the call is over", "wrong-state")
        if side.role == "callee":
            await self._show_ring(incoming, call, side)
            return
        language = self._desk.language(incoming)
        await self._desk.tell(
            incoming,
            "calling",
            keyboards.caller_buttons(language, call, side.url),
            name=self._desk.called(language, side.other),
        )

    async def hang_up(self, incoming: Incoming, call: str | None = None) -> None:
        """End a call, or whichever lives."""
        await self._desk.open_account(incoming)
        effect = self._desk.effect(incoming, "hang-up")
        request = CallHangUpRequest(call, _address(incoming), effect)
        ended = await self._desk.ask(incoming, request, CallEndReply)
        language = self._desk.language(incoming)
        status = status_text(language, ended.call.status, ended.call.seconds)
        text = say(language, "hung_up", status=status)
        if incoming.kind == "press":
            await self._desk.change(incoming, text)
        else:
            await self._desk.out.send(incoming.chat, text)

    async def reject(self, incoming: Incoming, call: str) -> str:
        """The callee doesn't want it; what is said then. The messages in which it rings change as
        when the node tells that it is over, which it does of a call that has rung."""
        request = CallRejectRequest(call, _address(incoming))
        ended = await self._desk.ask(incoming, request, CallEndReply)
        await self._desk.rings.end(call, ended.call.status, ended.call.seconds)
        return say(self._desk.language(incoming), "rejected")

    async def calls(self, incoming: Incoming, before: str | None = None) -> None:
        """Calls, the last first."""
        await self._desk.open_account(incoming)
        address = _address(incoming)
        request = CallListRequest(address, before or None, CALL_LINES)
        page = await self._desk.ask(incoming, request, CallListReply)
        language = self._desk.language(incoming)
        if not page.calls:
            await self._desk.tell(incoming, "no_calls")
            return
        text = "\n".join(self._line(language, item, address) for item in page.calls)
        keyboard = keyboards.more(language, keyboards.CALLS, page.next)
        await self._desk.out.send(incoming.chat, text, keyboard)

    async def _offer(self, incoming: Incoming, contact: Contact) -> None:
        desk, language = self._desk, self._desk.language(incoming)
        if not incoming.is_private:
            if contact.user is None:
                await desk.tell(incoming, "private", bot=desk.bot)
                return
            if desk.app is None:
                await desk.tell(incoming, "no_app", bot=desk.bot)
                return
        account = await desk.account(incoming)
        if contact.address in account.addresses:
            await desk.tell(incoming, "yourself")
            return
        username = desk.people.of(incoming.sender.user).username
        request = CallQuoteRequest(_address(incoming), contact.address, username=username)
        quote = await desk.ask(incoming, request, CallQuoteReply)
        if quote.reach == "none":
            await desk.tell(incoming, "unreachable", name=contact.name)
            return
        token = await desk.offers.make(
            incoming.update,
            incoming.sender.user,
            contact.address,
            contact.name,
            sms_price=quote.sms_price,
        )
        if incoming.is_private:
            sms = ""
            if quote.reach == "sms":
                sms = say(language, "by_sms", price=short(quote.sms_price))
            text = say(
                language,
                "confirm_call",
                name=contact.name,
                price=short(quote.price_second),
                minimum=short(quote.minimum),
                available=short(quote.available),
                sms=sms,
            )
        else:
            # What somebody has is nobody else's business.
            text = say(language, "confirm_call_here", name=contact.name)
        await desk.out.send(incoming.chat, text, keyboards.confirm_call(language, token))

    async def _show_ring(self, incoming: Incoming, call: str, side: CallSideReply) -> None:
        language = self._desk.language(incoming)
        caller = self._desk.called(language, side.other)
        text = say(language, "rings", name=caller, kind=kind_text(language, side.kind))
        keyboard = keyboards.ring_buttons(language, call, side.url)
        if side.status in _RINGS:
            # It may be over before Telegram has taken the message.
            await self._desk.rings.expect(call, caller)
        message = await self._desk.out.send(incoming.chat, text, keyboard)
        if side.status in _RINGS:
            await self._desk.rings.add(call, incoming.chat, message, caller)

    def _line(self, language: Language, item: CallItem, address: str) -> str:
        is_mine = item.caller == address
        other = item.callee if is_mine else item.caller
        words = [
            f"{item.created[:16].replace('T', ' ')} UTC",
            f"{'↗' if is_mine else '↙'} {self._desk.called(language, other or '')}",
            kind_text(language, item.kind),
            status_text(language, item.status, item.seconds),
        ]
        if is_mine and item.seconds:
            words.append(f"{short(item.cost)} Ɉ")
        return " · ".join(words)


def _address(incoming: Incoming) -> str:
    return f"tg:{incoming.sender.user}"


def is_gone(error: OperationError) -> bool:
    """Whether the call that a button is about is over, or there is none."""
    return error.code in ("no-call", "wrong-state")
