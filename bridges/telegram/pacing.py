"""How fast Telegram lets a bot write (core.telegram.org/bots/faq, "My bot is hitting limits"): one
message a second into a chat, 20 a minute into a group, 30 a second in all.

Sans-I/O: who wants to write takes a place, and is told for how long to wait for it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from core.units import NS_PER_S

CHAT_INTERVAL_NS: Final = NS_PER_S
GROUP_MESSAGES: Final = 20
GROUP_PERIOD_NS: Final = 60 * NS_PER_S
MESSAGES: Final = 30
PERIOD_NS: Final = NS_PER_S
CHATS_MAXIMUM: Final = 10_000
"""Remembered before those are looked for that may be forgotten."""
_MARGIN_NS: Final = NS_PER_S // 20
"""Messages don't arrive at the intervals at which they are sent."""


class Pacing:
    """The places that were taken."""

    def __init__(self) -> None:
        self._all: deque[int] = deque(maxlen=MESSAGES)
        self._chats: dict[int, deque[int]] = {}
        self._held_until_ns = 0

    def take_in_chat(self, chat: int, now_ns: int) -> int:
        """Take a chat's next place; returns when it is, in nanoseconds of the same clock. Then
        comes `take`. Groups have negative numbers."""
        group = chat < 0
        taken = self._chats.get(chat)
        if taken is None:
            self._forget(now_ns)
            taken = self._chats[chat] = deque(maxlen=GROUP_MESSAGES if group else 1)
        at_ns = now_ns
        if taken:
            at_ns = max(at_ns, taken[-1] + CHAT_INTERVAL_NS + _MARGIN_NS)
        if group and len(taken) == GROUP_MESSAGES:
            at_ns = max(at_ns, taken[0] + GROUP_PERIOD_NS + _MARGIN_NS)
        taken.append(at_ns)
        return at_ns

    def take(self, now_ns: int) -> int:
        """Take the next place of all, for a message that is due; returns when it is."""
        at_ns = max(now_ns, self._held_until_ns)
        if self._all:
            at_ns = max(at_ns, self._all[-1])
        if len(self._all) == MESSAGES:
            at_ns = max(at_ns, self._all[0] + PERIOD_NS + _MARGIN_NS)
        self._all.append(at_ns)
        return at_ns

    def hold(self, until_ns: int) -> None:
        """Telegram wants nothing before then."""
        self._held_until_ns = max(self._held_until_ns, until_ns)

    def _forget(self, now_ns: int) -> None:
        if len(self._chats) < CHATS_MAXIMUM:
            return
        for chat, taken in list(self._chats.items()):
            if taken[-1] + GROUP_PERIOD_NS + _MARGIN_NS < now_ns:
                del self._chats[chat]
