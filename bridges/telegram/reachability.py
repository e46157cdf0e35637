"""Whether the Bot API answers: what to do where it doesn't is in the log once, and in status."""

from __future__ import annotations

import logging
from collections.abc import Callable

from telegram.error import Conflict, InvalidToken, TelegramError

from core.log import log_event

_log = logging.getLogger("montana.bridge.telegram")


class Reachability:
    """Of one Bot API server.

    Args:
        tell: given the bridge's state, for status.

    Attributes:
        state: what that is while the Bot API answers.
    """

    def __init__(self, api_url: str, tell: Callable[[str], None]) -> None:
        self._api_url = api_url
        self._tell = tell
        self._told = ""
        self._hindrance = ""
        self.state = "waits for Telegram"

    def failed(self, error: TelegramError) -> None:
        """It has not answered, or not done what it always can."""
        advice = self._advice(error)
        self._tell(advice)
        if advice != self._told:
            # Of the error its kind alone: its text may hold the token.
            level = logging.ERROR if isinstance(error, InvalidToken) else logging.WARNING
            name = type(error).__name__
            log_event(_log, level, "no answer of the Bot API", error=name, advice=advice)
        self._told = advice

    def answered(self) -> None:
        """It does."""
        if self._told:
            log_event(_log, logging.INFO, "the Bot API answers again")
            self._told = ""
        self._tell(self._hindrance or self.state)

    def hindered(self, advice: str) -> None:
        """What else keeps updates away, and what to do; empty for nothing."""
        self._hindrance = advice
        self._tell(advice or self.state)

    def _advice(self, error: TelegramError) -> str:
        if isinstance(error, InvalidToken):
            return "the token is refused; take it from BotFather again: bridges.telegram.token"
        if isinstance(error, Conflict):
            return "another program takes this bot's updates; end that one"
        return f"{self._api_url} can't be reached, or is disturbed: bridges.telegram.api_url"
