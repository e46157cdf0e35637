"""What is said to the Bot API: at Telegram's pace, again where it has not answered, and never with
the token in a log line.

A message whose answer got lost is sent again, so that it may be there twice: the Bot API knows no
key by which it would be once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final, TypeVar

import anyio
from telegram import Bot, InlineKeyboardMarkup, LinkPreviewOptions, ReplyKeyboardMarkup
from telegram.error import BadRequest, ChatMigrated, Forbidden, RetryAfter, TelegramError

from bridges.telegram.pacing import Pacing
from bridges.telegram.reachability import Reachability
from core.clock import Clock
from core.errors import MontanaError
from core.units import NS_PER_S

RETRY_FIRST_S: Final = 0.5
RETRY_LAST_S: Final = 60.0
PRESS_LIFETIME_S: Final = 15.0
"""After which nobody waits any more for a button's answer."""
TEXT_MAXIMUM: Final = 4_096
"""Of a message, in UTF-16 units, as Telegram's entities count."""

Keyboard = InlineKeyboardMarkup | ReplyKeyboardMarkup
T = TypeVar("T")


class NotSent(MontanaError):
    """Telegram does not take it, now or ever.

    Attributes:
        reason: ``blocked``: the user doesn't want it, or has never written; ``refused``;
            ``expired``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"Telegram has not taken the message: {reason}")
        self.reason = reason


class Outgoing:
    """Writes into chats.

    Attributes:
        sent, retried: messages that were taken, and attempts that came to nothing.
    """

    def __init__(self, bot: Bot, clock: Clock, reachability: Reachability) -> None:
        self._bot = bot
        self._clock = clock
        self._reachability = reachability
        self._pacing = Pacing()
        self.sent = 0
        self.retried = 0

    async def send(
        self,
        chat: int,
        text: str,
        keyboard: Keyboard | None = None,
        *,
        until_s: float | None = None,
    ) -> int:
        """Write a message, in parts where it is too long; returns the number of the last one.

        Args:
            until_s: since 1970; not afterwards.

        Raises:
            NotSent: Telegram does not take it.
        """
        *first, last = split(text)
        for part in first:
            await self._send_one(chat, part, None, until_s)
        return await self._send_one(chat, last, keyboard, until_s)

    async def edit(
        self,
        chat: int,
        message: int,
        text: str,
        keyboard: InlineKeyboardMarkup | None = None,
        *,
        until_s: float | None = None,
    ) -> None:
        """Have a message of the bot's say something else, or say it anew where that can't be.

        Raises:
            NotSent: Telegram does not take it.
        """
        part = split(text)[0]

        async def change() -> None:
            try:
                await self._bot.edit_message_text(
                    part,
                    chat_id=chat,
                    message_id=message,
                    reply_markup=keyboard,
                    link_preview_options=_NO_PREVIEW,
                )
            except BadRequest as error:
                # As it is after an answer that got lost.
                if "message is not modified" not in error.message.lower():
                    raise

        try:
            await self._do(chat, change, until_s)
        except NotSent as error:
            if error.reason != "refused":
                raise
            await self._send_one(chat, part, keyboard, until_s)

    async def answer_press(self, press: str, text: str = "") -> None:
        """Answer a button, so that it stops turning. One that was pressed long ago can't be."""

        async def answer() -> None:
            await self._bot.answer_callback_query(press, text=text[:200] or None)

        try:
            await self._do(None, answer, self._clock.unix_s() + PRESS_LIFETIME_S)
        except NotSent:
            return

    async def call(self, make: Callable[[], Awaitable[T]]) -> T:
        """Do anything else that the Bot API does.

        Raises:
            NotSent: Telegram refuses it.
        """
        return await self._do(None, make, None)

    async def _send_one(
        self, chat: int, text: str, keyboard: Keyboard | None, until_s: float | None
    ) -> int:
        async def send() -> int:
            message = await self._bot.send_message(
                chat, text, reply_markup=keyboard, link_preview_options=_NO_PREVIEW
            )
            return message.message_id

        number = await self._do(chat, send, until_s)
        self.sent += 1
        return number

    async def _do(
        self, chat: int | None, make: Callable[[], Awaitable[T]], until_s: float | None
    ) -> T:
        delay_s = RETRY_FIRST_S
        while True:
            if chat is not None:
                await self._wait_until(self._pacing.take_in_chat(chat, self._clock.monotonic_ns()))
            await self._wait_until(self._pacing.take(self._clock.monotonic_ns()))
            if until_s is not None and self._clock.unix_s() >= until_s:
                raise NotSent("expired")
            try:
                result = await make()
            except RetryAfter as error:
                self.retried += 1
                self._pacing.hold(self._clock.monotonic_ns() + int(seconds_of(error) * NS_PER_S))
            except (Forbidden, ChatMigrated, BadRequest) as error:
                raise NotSent(_reason(error)) from None
            except TelegramError as error:
                self.retried += 1
                self._reachability.failed(error)
                await anyio.sleep(delay_s)
                delay_s = min(2 * delay_s, RETRY_LAST_S)
            else:
                self._reachability.answered()
                return result

    async def _wait_until(self, at_ns: int) -> None:
        wait_ns = at_ns - self._clock.monotonic_ns()
        if wait_ns > 0:
            await anyio.sleep(wait_ns / NS_PER_S)


_NO_PREVIEW: Final = LinkPreviewOptions(is_disabled=True)


def split(text: str) -> list[str]:
    """A text in parts that Telegram takes, cut between lines where there are any."""
    parts: list[str] = []
    while _units(text) > TEXT_MAXIMUM:
        size = min(len(text), TEXT_MAXIMUM)
        while (over := _units(text[:size]) - TEXT_MAXIMUM) > 0:
            # A character has two units at most.
            size -= -(-over // 2)
        at = text.rfind("\n", size // 2, size)
        size = at + 1 if at > 0 else size
        parts.append(text[:size])
        text = text[size:]
    parts.append(text)
    # Telegram takes no message of blanks.
    return [part for part in parts if part.strip()] or ["…"]


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def seconds_of(error: RetryAfter) -> float:
    """For how long Telegram wants nothing."""
    duration = error.retry_after
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


def _reason(error: TelegramError) -> str:
    # "Chat not found" is what a bot is told of those who have never written to it.
    if isinstance(error, Forbidden) or "chat not found" in error.message.lower():
        return "blocked"
    return "refused"
