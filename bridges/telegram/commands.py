"""Carries out what people write to the bot and press."""

from __future__ import annotations

import logging
import re
from typing import Final

from bridges.spool import SpoolFull
from bridges.telegram import keyboards
from bridges.telegram.calling import Calling, is_gone
from bridges.telegram.desk import Desk
from bridges.telegram.money import LINK_CODE, Money
from bridges.telegram.offers import Choice
from bridges.telegram.outgoing import NotSent
from bridges.telegram.texts import COMMANDS, command_list, refusal, say, say_all
from bridges.telegram.updates import Incoming
from core.errors import ApiError, OperationError
from core.log import log_event

IN_GROUPS: Final = ("call", "hangup", "help")
"""The rest shows what others must not see."""
_COMMAND = re.compile(r"/([A-Za-z]{1,32})(?:@([A-Za-z0-9_]{1,64}))?(?:\s+(.*))?", re.DOTALL)
_CALL = re.compile(r"CALL-[A-Z2-7]{8}")
_CHOICES: Final[dict[str, Choice]] = {
    keyboards.SEND: "send",
    keyboards.VOICE: "voice",
    keyboards.VIDEO: "video",
    keyboards.CANCEL: "cancel",
}
_ONCE: Final = (*_CHOICES, keyboards.LINK)
"""What is refused when such a button is pressed is refused however often it is."""
_MENU: Final = {
    text: name
    for name in ("balance", "calls", "history", "help")
    for text in say_all(f"button_{name}")
}

_log = logging.getLogger("montana.bridge.telegram")


class Commands:
    """Carries out updates; each may come again after a crash, and has its effects once."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._money = Money(desk)
        self._calling = Calling(desk)

    async def carry_out(self, incoming: Incoming) -> None:
        """Carry out one update, and answer it, however long the node or Telegram are away.

        Raises:
            SpoolFull: it is to be carried out again.
        """
        await self._see(incoming)
        try:
            try:
                await self._answer(incoming)
            except SpoolFull:
                # No refusal: it may even be done already.
                raise
            except OperationError as error:
                await self._refuse(incoming, error)
            except ApiError as error:
                log_event(_log, logging.ERROR, "no node reads a request", reason=error)
                await self._desk.tell(incoming, "failed")
        except NotSent as error:
            if error.reason == "blocked" and incoming.is_private:
                await self._desk.people.know(incoming.sender.user, blocked=True)
            log_event(_log, logging.WARNING, "an answer was not taken", reason=error.reason)
        self._desk.begun.discard(incoming.update)

    async def tell_failed(self, incoming: Incoming, is_again: bool) -> None:
        """Say that an update was not carried out, or may not have been, by a mistake of ours.

        Args:
            is_again: an earlier process may have begun it.
        """
        is_begun = is_again or incoming.update in self._desk.begun
        self._desk.begun.discard(incoming.update)
        if not self._is_to_bot(incoming):
            return
        try:
            await self._desk.tell(incoming, "unsure" if is_begun else "failed")
        except NotSent as error:
            log_event(_log, logging.WARNING, "an answer was not taken", reason=error.reason)

    async def tell_too_many(self, incoming: Incoming, count: int) -> None:
        """Say that so many messages of a chat were too many."""
        try:
            await self._desk.tell(incoming, "too_many", count=count)
        except NotSent as error:
            log_event(_log, logging.WARNING, "an answer was not taken", reason=error.reason)

    async def _see(self, incoming: Incoming) -> None:
        people = self._desk.people
        if incoming.kind == "blocked":
            await people.see(incoming.sender, blocked=True)
        elif incoming.is_private:
            await people.see(incoming.sender, blocked=False, writes=True)
        else:
            await people.see(incoming.sender)
        for person in incoming.others:
            await people.see(person)
        if incoming.answered is not None:
            await people.see(incoming.answered)

    async def _answer(self, incoming: Incoming) -> None:
        if incoming.kind == "press":
            # Whatever comes of it, the button has to stop turning.
            try:
                told = await self._press(incoming)
            except Exception:
                await self._desk.out.answer_press(incoming.press)
                raise
            await self._desk.out.answer_press(incoming.press, told)
        elif incoming.kind == "picked":
            if incoming.is_private and incoming.others:
                await self._calling.call(incoming, "")
        elif incoming.kind == "contact":
            if incoming.is_private:
                await self._desk.tell(incoming, "contact")
        elif incoming.kind == "text":
            await self._text(incoming)

    async def _refuse(self, incoming: Incoming, error: OperationError) -> None:
        text = refusal(self._desk.language(incoming), error)
        letter = incoming.text.partition(":")[0]
        if incoming.kind == "press" and (letter in _ONCE or is_gone(error)):
            # Its buttons do nothing any more.
            await self._desk.change(incoming, text)
        else:
            await self._desk.out.send(incoming.chat, text)

    async def _text(self, incoming: Incoming) -> None:
        text = incoming.text.strip()
        match = _COMMAND.fullmatch(text)
        if match is None:
            if not incoming.is_private:
                return
            if text in _MENU:
                await self._command(incoming, _MENU[text], "")
            elif LINK_CODE.fullmatch(text) and text.upper() == text:
                await self._money.link(incoming, text)
            else:
                await self._desk.tell(incoming, "what")
            return
        name, bot, arguments = match[1].lower(), match[2], (match[3] or "").strip()
        if not self._is_mine(bot):
            return
        if name not in COMMANDS:
            # In a group it may be another bot's.
            if incoming.is_private:
                await self._desk.tell(incoming, "what")
        elif not incoming.is_private and name not in IN_GROUPS:
            await self._desk.tell(incoming, "private", bot=self._desk.bot)
        else:
            await self._command(incoming, name, arguments)

    def _is_mine(self, bot: str | None) -> bool:
        """Whether a command that names this bot, or none, is for this one."""
        return bot is None or bot.lower() == self._desk.bot.lower()

    def _is_to_bot(self, incoming: Incoming) -> bool:
        """Whether somebody waits for an answer of the bot's."""
        if incoming.kind == "press":
            return True
        if incoming.is_private:
            return incoming.kind not in ("blocked", "allowed")
        match = _COMMAND.fullmatch(incoming.text.strip())
        return match is not None and match[1].lower() in COMMANDS and self._is_mine(match[2])

    async def _command(self, incoming: Incoming, name: str, arguments: str) -> None:
        match name:
            case "start" if _CALL.fullmatch(arguments):
                await self._calling.open_call(incoming, arguments)
            case "start":
                await self._money.start(incoming)
            case "balance":
                await self._money.balance(incoming)
            case "send":
                await self._money.send(incoming, arguments)
            case "redeem":
                await self._money.redeem(incoming, arguments)
            case "history":
                await self._money.history(incoming)
            case "link":
                await self._money.link(incoming, arguments)
            case "call":
                await self._calling.call(incoming, arguments)
            case "answer":
                await self._calling.answer(incoming)
            case "hangup":
                await self._calling.hang_up(incoming)
            case "calls":
                await self._calling.calls(incoming)
            case _:
                await self._help(incoming)

    async def _help(self, incoming: Incoming) -> None:
        commands = command_list(self._desk.language(incoming))
        await self._desk.tell(incoming, "help", keyboards.languages(), commands=commands)

    async def _press(self, incoming: Incoming) -> str:
        """What a button asks for; returns what is shown for a moment."""
        letter, _, value = incoming.text.partition(":")
        language = self._desk.language(incoming)
        if letter in _CHOICES:
            return await self._choose(incoming, value, _CHOICES[letter])
        if letter == keyboards.LANGUAGE:
            chosen = "ru" if value == "ru" else "en"
            await self._desk.people.know(incoming.sender.user, chosen=chosen)
            language = self._desk.language(incoming)
            if incoming.is_private:
                text = say(language, "help", commands=command_list(language))
                await self._desk.change(incoming, text, keyboards.languages())
                await self._desk.tell(incoming, "language", keyboards.menu(language))
            return say(language, "language")
        if not incoming.is_private:
            return ""
        if letter == keyboards.REJECT and _CALL.fullmatch(value):
            return await self._calling.reject(incoming, value)
        if letter == keyboards.HANG_UP and _CALL.fullmatch(value):
            await self._calling.hang_up(incoming, value)
        elif letter == keyboards.HISTORY:
            await self._money.history(incoming, value)
        elif letter == keyboards.CALLS:
            await self._calling.calls(incoming, value)
        elif letter == keyboards.LINK and LINK_CODE.fullmatch(value):
            await self._money.link_confirmed(incoming, value)
        elif letter == keyboards.LEAVE:
            await self._desk.change(incoming, say(language, "cancelled"))
        return ""

    async def _choose(self, incoming: Incoming, token: str, choice: Choice) -> str:
        offers, language = self._desk.offers, self._desk.language(incoming)
        offer = offers.get(token)
        if offer is None:
            await self._desk.change(incoming, say(language, "stale"))
            return ""
        if offer.user != incoming.sender.user:
            return say(language, "not_yours")
        if choice != "cancel" and (choice == "send") != bool(offer.amount):
            return ""
        if offer.refused:
            await self._desk.change(incoming, offer.refused)
            return ""
        offer = await offers.choose(token, offer, choice)
        try:
            match offer.chosen:
                case "send":
                    await self._money.confirmed(incoming, token, offer)
                case "voice" | "video" as kind:
                    await self._calling.confirmed(incoming, token, offer, kind)
                case _:
                    await self._desk.change(incoming, say(language, "cancelled"))
        except OperationError as error:
            await offers.refuse(token, offer, refusal(language, error))
            raise
        except ApiError:
            await offers.refuse(token, offer, say(language, "failed"))
            raise
        return ""
