"""What is counted of each modem, for status and metrics."""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from statistics import median
from typing import Final

RECENT: Final = 100
"""Messages that the rates are over."""
SIGNAL_UNKNOWN: Final = 99
VALUE_MAXIMUM_CHARACTERS: Final = 128
"""What `BridgeStatusRequest` has room for."""

_MAKE_ROOM: Final = "delete messages: with the SIM in a telephone, or by AT+CMGD"


class ModemFigures:
    """Of one modem, since the bridge was started.

    Attributes:
        state: in a word or two, for people: ``ready``, ``roaming``, ``no SIM``, ``wrong PIN`` ...
        advice: what the operator has to do about that; empty for nothing.
        full: the store that messages come to, while it has no room; else empty.
        rest: why the SIM sends nothing for a while, and what to do; empty while it may.
        refused_today: how often the network or the modem has refused something, in this process.
        signal: <rssi> of `+CSQ` (TS 27.007 section 8.5): 0 to 31, 99 where it isn't known.
    """

    def __init__(self, name: str, daily_cap: int) -> None:
        self.name = name
        self.state = "starting"
        self.full = ""
        self.rest = ""
        self.advice = ""
        self.signal = SIGNAL_UNKNOWN
        self.operator = ""
        self.balance: Decimal | None = None
        self.received = 0
        self.sent = 0
        self.failed = 0
        self.unknown = 0
        self.delivered = 0
        self.undelivered = 0
        self.sent_today = 0
        self.refused_today = 0
        self.restarts = 0
        self._daily_cap = daily_cap
        self._succeeded: deque[bool] = deque(maxlen=RECENT)
        self._delivery_s: deque[float] = deque(maxlen=RECENT)

    def count_sent(self) -> None:
        """The network has taken a message, or a part of one."""
        self.sent += 1
        self._succeeded.append(True)

    def count_failed(self) -> None:
        """The network or the modem has refused one."""
        self.failed += 1
        self.refused_today += 1
        self._succeeded.append(False)

    def count_unknown(self) -> None:
        """Nobody has told what became of one."""
        self.unknown += 1
        self._succeeded.append(False)

    def count_undelivered(self) -> None:
        """A report says that one has not arrived, and won't."""
        self.undelivered += 1

    def count_delivered(self, duration_s: float) -> None:
        """A report says that one has arrived, so long after it was sent."""
        self.delivered += 1
        self._delivery_s.append(duration_s)

    @property
    def is_ready(self) -> bool:
        """Whether the modem is in its network, receives, and its SIM doesn't rest."""
        return self._is_in_network and not self._trouble

    @property
    def _is_in_network(self) -> bool:
        return self.state in ("ready", "roaming")

    @property
    def _trouble(self) -> str:
        """What keeps a modem from its work that is in its network."""
        full = f"receives no SMS: no room in {self.full}" if self.full else ""
        return "; ".join(one for one in (full, self.rest) if one)

    def as_figures(self) -> dict[str, str]:
        """Names and values, as `BridgeStatusRequest` takes them."""
        values: dict[str, object] = {
            "state": (self._is_in_network and self._trouble) or self.state,
            "advice": self.advice or (self._is_in_network and self.full and _MAKE_ROOM) or None,
            "operator": self.operator or None,
            "signal_dbm": None if self.signal > 31 else 2 * self.signal - 113,
            "received": self.received,
            "sent": self.sent,
            "failed": self.failed,
            "unknown": self.unknown,
            "delivered": self.delivered,
            "undelivered": self.undelivered,
            "sent_today": self.sent_today,
            "daily_cap": self._daily_cap,
            "restarts": self.restarts,
            "balance": self.balance,
        }
        if self._succeeded:
            values["success_percent"] = 100 * sum(self._succeeded) // len(self._succeeded)
        if self._delivery_s:
            values["delivery_p50_s"] = round(median(self._delivery_s), 1)
        return {
            f"modem.{self.name}.{name}": str(value)[:VALUE_MAXIMUM_CHARACTERS]
            for name, value in values.items()
            if value is not None
        }
