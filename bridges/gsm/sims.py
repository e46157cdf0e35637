"""The SIMs as those who send: which of them can, how much of its day each has used up, and which
recipients it keeps.

Kinds in the spool:

    day      how many a SIM has sent today
    sim      a recipient -> the SIM it keeps
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import trio

from bridges.gsm.figures import ModemFigures
from bridges.gsm.resting import Resting
from bridges.process import BridgeContext
from bridges.spool import Change
from core.log import log_event

KEPT_MAXIMUM: Final = 10_000
PATIENCE_S: Final = 20.0
"""A SIM that is away for less gets its messages all the same: a modem that starts anew is back."""

_log = logging.getLogger("montana.bridge.gsm")


class Sims:
    """All of them, by name; `caps` are how many parts each sends in a day."""

    def __init__(
        self, context: BridgeContext, caps: Mapping[str, int], figures: Mapping[str, ModemFigures]
    ) -> None:
        self._context = context
        self._caps = caps
        self._figures = figures
        self._usable: set[str] = set()
        self._away_since = dict.fromkeys(caps, trio.current_time())
        self._resting = Resting()
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._day = ""

    def load(self) -> None:
        """Take up what an earlier process has left."""
        self._day = self._today()
        for sim, value in self._context.spool.items("day"):
            day, _, count = value.decode().partition(" ")
            if sim in self._figures and day == self._day:
                self._figures[sim].sent_today = int(count)
        for recipient, value in self._context.spool.items("sim", KEPT_MAXIMUM):
            self._kept[recipient] = value.decode()

    # ------------------------------------------------------------ which can send

    def set_usable(self, sim: str, usable: bool) -> None:
        """Whether a SIM's modem is there and in its network."""
        if usable:
            self._usable.add(sim)
        elif sim in self._usable:
            self._usable.discard(sim)
            self._away_since[sim] = trio.current_time()

    def is_usable(self, sim: str) -> bool:
        """What was set."""
        return sim in self._usable

    def able(self) -> set[str]:
        """Those that can send at present; today's cap aside."""
        now = trio.current_time()
        return {sim for sim in self._usable if now >= self.rests_until(sim)}

    def is_expected(self, sim: str) -> bool:
        """Whether a SIM can send, or probably can in a moment."""
        now = trio.current_time()
        is_there = sim in self._usable or now < self._away_since[sim] + PATIENCE_S
        return is_there and now >= self.rests_until(sim)

    def rests_until(self, sim: str) -> float:
        """Until when a SIM sends nothing, in trio's time; in the past where it doesn't rest."""
        return self._resting.ends_at_s(sim)

    def has_rested(self, sim: str) -> None:
        """It is given something again."""
        self._figures[sim].rest = ""

    def doubt(self, sim: str, message: str, reason: str, *, is_certain: bool) -> bool:
        """That a message was not sent may be for the SIM; whether it rests from now on."""
        if not self._resting.fault(sim, message, trio.current_time(), is_certain=is_certain):
            return False
        self._figures[sim].rest = f"resting: {reason}"
        log_event(_log, logging.ERROR, "a SIM can't send", modem=sim, reason=reason)
        return True

    def trust(self, sim: str) -> None:
        """It has sent something."""
        self._resting.sent(sim)

    # ------------------------------------------------------------ how much they send

    def load_of(self, sim: str, waiting: int) -> float:
        """How much of its day a SIM has used up, with `waiting` more. What it was refused counts:
        one that sends nothing would have used up the least."""
        figures = self._figures[sim]
        return (figures.sent_today + figures.refused_today + waiting) / max(1, self._caps[sim])

    def has_sent_all(self, sim: str) -> bool:
        """Whether a SIM has sent as much as it may today."""
        return self._figures[sim].sent_today >= self._caps[sim] and self._today() == self._day

    def count_today(self, sim: str) -> Change:
        """One more has been sent, or may have been; returns how that is stored."""
        self.roll_day()
        figures = self._figures[sim]
        figures.sent_today += 1
        return Change("day", sim, f"{self._day} {figures.sent_today}".encode())

    def roll_day(self) -> None:
        """Begin to count anew where another day has come."""
        today = self._today()
        if today != self._day:
            self._day = today
            for figures in self._figures.values():
                figures.sent_today = figures.refused_today = 0

    def _today(self) -> str:
        return time.strftime("%Y-%m-%d", time.gmtime(self._context.clock.unix_s()))

    # ------------------------------------------------------------ their recipients

    def kept_by(self, recipient: str) -> str | None:
        """The SIM that a recipient keeps."""
        return self._kept.get(recipient)

    def keep(self, recipient: str, sim: str) -> list[Change]:
        """Have a recipient keep a SIM; returns how that is stored."""
        changes = []
        if self._kept.get(recipient) != sim:
            changes.append(Change("sim", recipient, sim.encode()))
        self._kept[recipient] = sim
        self._kept.move_to_end(recipient)
        if len(self._kept) > KEPT_MAXIMUM:
            forgotten, _ = self._kept.popitem(last=False)
            changes.append(Change("sim", forgotten, None))
        return changes

    def release(self, recipient: str) -> None:
        """Have the next SIM that sends to a recipient be the one it keeps."""
        self._kept.pop(recipient, None)
