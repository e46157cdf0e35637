"""How much numbers may ask for, and how much the operator pays for SMS.

An SMS that is sent costs real money: where it may go, and how many parts in a day, to a number and
ever, the configuration says. It goes to mobile telephones alone, since the operator would pay for a
premium-rate number. What is spent is counted in the transaction that sends, so that no rush sends
more.

The last fifth of each limit is a reserve for commands that are paid. A sender's number can be
forged, and whoever forges many could use up the rest for nothing: strangers get no answers then,
nor are codes, notices and invitations sent, but who pays for a command has its answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from typing import Final, Literal

import msgspec

from billing.outbox import Outbox
from billing.sms_commands import is_mobile, region_of
from billing.sms_records import BUDGET, read_number, store_number
from billing.tables import SMS_NUMBERS
from billing.transfers import ID_BYTES
from core.api.bridge_messages import AlarmBody
from core.bridge_config import SmsConfig
from core.clock import Clock
from core.errors import OperationError
from core.tables import Tables, Writing
from core.units import DAY_S, MINUTE_S

RESERVE_PERCENT: Final = 20
"""Of each limit, for answers to commands that are paid, and for what the operator sends."""
ALARM_PERCENTS: Final = (100 - RESERVE_PERCENT, 100)
RECEIVED_BEFORE_S: Final = 3 * DAY_S
"""How long a bridge may have kept an SMS, and the minute of its reception still counts."""
RATED_NUMBERS_MAXIMUM: Final = 100_000
"""Numbers that are counted in a minute, where all together have no limit."""
_WHAT_IS_LEFT: Final = {
    ALARM_PERCENTS[0]: (
        "what is left answers paid commands",
        "остальное - на ответы на платные команды",
    ),
    ALARM_PERCENTS[1]: ("nothing is sent any more", "больше ничего не отправляется"),
}


class SmsRefused(OperationError):
    """An SMS is not sent: its country, the budget, or who would get it, forbids it."""


class RateLimit:
    """Counts what is asked for: by a number in the minute in which its SMS were received, since
    what came minutes apart is brought at once after an outage, and by all in the present one.
    Those that were refused don't count for the others. Nothing is remembered beyond the present
    minute.

    Attributes:
        minute: that one, since 1970.
    """

    def __init__(self, config: SmsConfig, clock: Clock) -> None:
        self._of_one = config.commands_per_minute
        self._of_all = config.commands_in_total or RATED_NUMBERS_MAXIMUM
        self._clock = clock
        self.minute = 0
        self._total = 0
        self._numbers: Counter[tuple[str, int]] = Counter()
        self._told: set[str] = set()

    def admit(self, phone: str, received_ms: int | None) -> Literal["now", "later", "never"]:
        """Whether one more is carried out now; later, for all ask for too much; or never, for this
        number has asked for too much.

        Args:
            received_ms: since 1970; None, what is long ago and what is yet to come count as now.
        """
        now_s = self._clock.unix_s()
        minute = int(now_s // MINUTE_S)
        if minute != self.minute:
            self.minute, self._total = minute, 0
            self._numbers.clear()
            self._told.clear()
        received = self._minute_of(received_ms)
        if self._of_one and self._numbers.get((phone, received), 0) >= self._of_one:
            return "never"
        if self._total >= self._of_all:
            return "later"
        self._total += 1
        self._numbers[phone, received] += 1
        return "now"

    def give_back(self, phone: str, received_ms: int | None, minute: int) -> None:
        """What was admitted in `minute` could not be carried out, and comes again."""
        if minute != self.minute:
            # Nothing of that minute is counted any more.
            return
        key = phone, self._minute_of(received_ms)
        self._numbers[key] -= 1
        self._total -= 1
        if not self._numbers[key]:
            del self._numbers[key]

    def _minute_of(self, received_ms: int | None) -> int:
        """The minute that one counts in, once the present one is known."""
        received = self.minute if received_ms is None else received_ms // (MINUTE_S * 1000)
        if self.minute - RECEIVED_BEFORE_S // MINUTE_S <= received <= self.minute:
            return received
        return self.minute

    def may_tell(self, phone: str) -> bool:
        """Whether a number has not been told in this minute that it has asked for too much; it
        counts as told from now on."""
        if phone in self._told:
            return False
        self._told.add(phone)
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
        raw = tables.get(SMS_NUMBERS, BUDGET)
        spent = Spent() if raw is None else _spent.decode(raw)
        return spent if spent.day >= self.day else Spent(self.day, 0, spent.ever)

    def check(
        self, tables: Tables, phone: str, parts: int = 1, *, from_reserve: bool = False
    ) -> None:
        """Nothing forbids to send so many parts to a number.

        Args:
            from_reserve: whether the reserve may be used for them.

        Raises:
            SmsRefused: what does.
        """
        if region_of(phone) not in self._regions:
            raise SmsRefused(
                "no SMS are sent to this country; add it to [sms] countries", "sms_country"
            )
        if not is_mobile(phone):
            raise SmsRefused(
                "SMS go to mobile telephones alone, and this number is of another kind: a "
                "landline's, or that of a service which may cost more",
                "sms_not_mobile",
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
            room = limit if from_reserve else _open_part(limit)
            if limit and used + parts > room:
                raise SmsRefused(
                    "the budget for SMS is used up; see `montana sms budget`, and "
                    "messages_per_day, messages_per_number and messages_in_total in [sms]",
                    "sms_budget",
                )

    def spend(
        self, writing: Writing, phone: str, parts: int, *, from_reserve: bool = False
    ) -> None:
        """Count parts that are sent, in the transaction that sends them; arguments as of `check`.

        Raises:
            SmsRefused: they may not be; nothing was counted.
        """
        self.check(writing, phone, parts, from_reserve=from_reserve)
        number = read_number(writing, phone, self.day)
        store_number(writing, phone, msgspec.structs.replace(number, parts=number.parts + parts))
        before = self.read(writing)
        after = Spent(before.day, before.today + parts, before.ever + parts)
        writing.put(SMS_NUMBERS, BUDGET, msgspec.msgpack.encode(after))
        config = self._config
        for of, limit, old, new in (
            ("messages_per_day", config.messages_per_day, before.today, after.today),
            ("messages_in_total", config.messages_in_total, before.ever, after.ever),
        ):
            for percent, room in zip(ALARM_PERCENTS, (_open_part(limit), limit), strict=True):
                # With less left than an answer of two parts takes, it is as good as used up.
                if limit and old < max(1, room - 1) <= new:
                    self._alarm(writing, of, percent)

    def _alarm(self, writing: Writing, of: str, percent: int) -> None:
        writing.after_commit(lambda: self._on_alarm(of, percent))
        if self._config.alarm is None:
            return
        english, russian = _WHAT_IS_LEFT[percent]
        text = (
            f"SMS: {percent} % of [sms] {of} is used up; {english} / "
            f"израсходовано {percent} % от [sms] {of}; {russian}. `montana sms budget`"
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


def _open_part(limit: int) -> int:
    """What of a limit is no reserve."""
    return limit - limit * RESERVE_PERCENT // 100
