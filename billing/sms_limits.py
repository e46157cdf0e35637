"""How much numbers may ask for, and how much the operator pays for SMS.

An SMS that is sent costs real money: where it may go, and how many parts in a day, to a number and
ever, the configuration says. What is spent is counted in the transaction that sends, so that no
rush sends more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from typing import Final

import msgspec

from billing.outbox import Outbox
from billing.sms_commands import region_of
from billing.sms_records import read_number, store_number
from billing.tables import SMS_NUMBERS
from billing.transfers import ID_BYTES
from core.api.bridge_messages import AlarmBody
from core.bridge_config import SmsConfig
from core.clock import Clock
from core.errors import OperationError
from core.tables import Tables, Writing
from core.units import DAY_S, MINUTE_S, NS_PER_S

ALARM_PERCENTS: Final = (80, 100)
RATED_NUMBERS_MAXIMUM: Final = 100_000
"""Numbers that are counted in a minute, where all together have no limit."""

_BUDGET: Final = b"budget"
"""A key among numbers, which begin with +."""


class SmsRefused(OperationError):
    """An SMS is not sent: its country, the budget, or who would get it, forbids it."""


class RateLimit:
    """Counts what numbers ask for in the present minute; those that were refused don't count for
    the others."""

    def __init__(self, config: SmsConfig, clock: Clock) -> None:
        self._of_one = config.commands_per_minute
        self._of_all = config.commands_in_total or RATED_NUMBERS_MAXIMUM
        self._clock = clock
        self._minute = 0
        self._total = 0
        self._numbers: Counter[str] = Counter()

    def admit(self, phone: str) -> bool:
        """Whether one more is carried out."""
        minute = self._clock.monotonic_ns() // (MINUTE_S * NS_PER_S)
        if minute != self._minute:
            self._minute, self._total = minute, 0
            self._numbers.clear()
        if self._total >= self._of_all or (self._of_one and self._numbers[phone] >= self._of_one):
            return False
        self._total += 1
        self._numbers[phone] += 1
        return True


class Spent(msgspec.Struct, frozen=True, array_like=True):
    """Parts of SMS that were sent on a day, counted from 1970, and ever."""

    day: int = 0
    today: int = 0
    ever: int = 0


_spent = msgspec.msgpack.Decoder(Spent)


class Budget:
    """What SMS may cost the operator.

    Args:
        regions: the countries that SMS go to, in two letters.
        on_alarm: told which limit is used up to how many per cent, once that is durable.
    """

    def __init__(
        self,
        config: SmsConfig,
        regions: frozenset[str],
        outbox: Outbox,
        clock: Clock,
        on_alarm: Callable[[str, int], None],
    ) -> None:
        self._config = config
        self._regions = regions
        self._outbox = outbox
        self._clock = clock
        self._on_alarm = on_alarm

    @property
    def day(self) -> int:
        """Days since 1970, in UTC."""
        return int(self._clock.unix_s() // DAY_S)

    def read(self, tables: Tables) -> Spent:
        """What was sent, on this day and ever."""
        raw = tables.get(SMS_NUMBERS, _BUDGET)
        spent = Spent() if raw is None else _spent.decode(raw)
        return spent if spent.day >= self.day else Spent(self.day, 0, spent.ever)

    def check(self, tables: Tables, phone: str, parts: int = 1) -> None:
        """Nothing forbids to send so many parts to a number.

        Raises:
            SmsRefused: what does.
        """
        if region_of(phone) not in self._regions:
            raise SmsRefused(
                "no SMS are sent to this country; add it to [sms] countries", "sms_country"
            )
        number = read_number(tables, phone, self.day)
        if number.opted_out:
            raise SmsRefused(
                "this number wants no SMS; it has to send START first", "sms_opted_out"
            )
        spent = self.read(tables)
        config = self._config
        for limit, used in (
            (config.messages_per_number, number.parts),
            (config.messages_per_day, spent.today),
            (config.messages_in_total, spent.ever),
        ):
            if limit and used + parts > limit:
                raise SmsRefused(
                    "the budget for SMS is used up; see `montana sms budget`, and "
                    "messages_per_day, messages_per_number and messages_in_total in [sms]",
                    "sms_budget",
                )

    def spend(self, writing: Writing, phone: str, parts: int) -> None:
        """Count parts that are sent, in the transaction that sends them.

        Raises:
            SmsRefused: they may not be; nothing was counted.
        """
        self.check(writing, phone, parts)
        number = read_number(writing, phone, self.day)
        store_number(writing, phone, msgspec.structs.replace(number, parts=number.parts + parts))
        before = self.read(writing)
        after = Spent(before.day, before.today + parts, before.ever + parts)
        writing.put(SMS_NUMBERS, _BUDGET, msgspec.msgpack.encode(after))
        config = self._config
        for of, limit, old, new in (
            ("messages_per_day", config.messages_per_day, before.today, after.today),
            ("messages_in_total", config.messages_in_total, before.ever, after.ever),
        ):
            for percent in ALARM_PERCENTS:
                # With less left than an answer of two parts takes, it is as good as used up.
                bound = limit - 1 if percent == 100 else limit * percent / 100
                if limit and old < bound <= new:
                    self._alarm(writing, of, percent)

    def _alarm(self, writing: Writing, of: str, percent: int) -> None:
        writing.after_commit(lambda: self._on_alarm(of, percent))
        if self._config.alarm is None:
            return
        text = (
            f"SMS: {percent} % of [sms] {of} is used up / "
            f"израсходовано {percent} % от [sms] {of}. `montana sms budget`"
        )
        key = sha256(f"sms alarm {of} {percent} {self.day}".encode()).digest()[:ID_BYTES]
        self._outbox.put(
            writing,
            "telegram",
            self._config.alarm,
            AlarmBody(text=text),
            key=key,
            urgent=True,
            lifetime_s=DAY_S,
        )
