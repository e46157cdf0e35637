"""Asks the Bot API for updates: the next question, by its offset, says that all before were
received, so that it is asked once they are on the disk.
"""

from __future__ import annotations

import logging
import warnings
from typing import Final

import anyio
from telegram import Bot
from telegram.error import RetryAfter, TelegramError

from bridges.telegram.intake import Intake
from bridges.telegram.outgoing import seconds_of
from bridges.telegram.reachability import Reachability
from bridges.telegram.updates import (
    ALLOWED_UPDATES,
    Incoming,
    UpdateError,
    number_untrusted,
    read_untrusted,
)
from core.clock import Clock
from core.errors import OperationError
from core.log import log_event
from core.units import DAY_S, NS_PER_S

TIMEOUT_S: Final = 30
"""For which Telegram keeps a question that nothing answers yet."""
LATE_S: Final = 10
"""So much later its answer may come."""
IDLE_S: Final = 3 * DAY_S
"""So long after the newest update all are asked for: after a week without any Telegram numbers them
from anywhere, and would forget those below the offset. What was received before isn't given again.
"""
UPDATES: Final = 100
RETRY_FIRST_S: Final = 0.5
RETRY_LAST_S: Final = 30.0

_log = logging.getLogger("montana.bridge.telegram")
# The library's own `get_updates` raises for all of them when it can't read one, and logs them.
warnings.filterwarnings("ignore", message="Please use 'Bot.getUpdates'")


async def poll(bot: Bot, intake: Intake, reachability: Reachability, clock: Clock) -> None:
    """Take updates until cancelled."""
    offset, moved_s = 0, clock.unix_s()
    delay_s = RETRY_FIRST_S
    while True:
        await intake.wait_for_room()
        if clock.unix_s() - moved_s >= IDLE_S:
            offset = 0
        asked_ns = clock.monotonic_ns()
        try:
            updates = await bot.do_api_request(
                "getUpdates",
                api_kwargs={
                    "offset": offset,
                    "limit": UPDATES,
                    "timeout": TIMEOUT_S,
                    "allowed_updates": list(ALLOWED_UPDATES),
                },
                read_timeout=TIMEOUT_S + LATE_S,
            )
            reachability.answered()
            following = await _take(updates, offset, intake)
            delay_s = RETRY_FIRST_S
            if following != offset:
                offset, moved_s = following, clock.unix_s()
            elif clock.monotonic_ns() - asked_ns < TIMEOUT_S * NS_PER_S:
                # It should have kept the question: it would be asked hundreds of times a second.
                await anyio.sleep(RETRY_FIRST_S)
        except RetryAfter as error:
            await anyio.sleep(seconds_of(error))
        except (TelegramError, OperationError) as error:
            if isinstance(error, TelegramError):
                reachability.failed(error)
            else:
                log_event(_log, logging.WARNING, "no updates are taken", reason=error)
            await anyio.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_LAST_S)


async def _take(updates: object, offset: int, intake: Intake) -> int:
    """Take what has come; returns the offset that says so."""
    found: list[Incoming] = []
    for update in updates if isinstance(updates, list) else []:
        number = number_untrusted(update)
        if number is not None:
            offset = max(offset, number + 1)
        try:
            incoming = read_untrusted(update)
        except UpdateError as error:
            log_event(_log, logging.WARNING, "an update was left out", reason=error)
            continue
        if incoming is not None:
            found.append(incoming)
    await intake.take(found)
    return offset
