"""Who pays for rooms: the host by the minute, or the node within a quota.

    verdicts = await billing.tick(rooms, now_ns)          # rooms = "host"
    verdicts = quota.tick(rooms, rooms.people, now_ns)    # rooms = "free"

Both are asked about once a second and say which rooms are to be warned, and which are to end.
`now_ns` are nanoseconds since 1970 that never go back (the ledger's clock).

A host's minute is paid for when it begins, by one transfer whose id follows from the payment's key
and the minute's number: however often it is asked for, after a crash as well, it is done once.
Minutes that begin while nobody's connection stands are not paid for. When the host who pays has
left for good, the minute that is paid for is the last one: nobody else has agreed to pay.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from billing.ledger import BATCH_TRANSFERS, Ledger
from billing.money import J
from billing.tariff import Line
from billing.transfers import Code, Result, Transfer, derive_id, new_id
from core.clock import Clock
from core.errors import OperationError, SignalingError
from core.units import DAY_S, MINUTE_S, NS_PER_S

WARNINGS_S: Final = (60, 10)
"""How long before the end people are told of it."""

_MINUTE_NS = MINUTE_S * NS_PER_S
_DAY_NS = DAY_S * NS_PER_S
_REASONS = {Result.FROZEN: "account-frozen", Result.CLOSED: "account-closed"}
_log = logging.getLogger("montana.rooms")


class Payment(msgspec.Struct, frozen=True, array_like=True):
    """Out of whose pocket a room is.

    Attributes:
        account: the number of the host's.
        key: 16 bytes that nobody is told, from which the transfers' ids follow: who could guess
            them might make a transfer under one beforehand.
        started_ns: when the first minute begins.
        is_over: no other minute is to be paid for.
    """

    account: int
    key: bytes
    started_ns: int
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class Warn:
    """A room ends in so many seconds."""

    room: str
    left_s: int


@dataclass(frozen=True, slots=True)
class Stop:
    """A room is to end."""

    room: str
    reason: str


Verdict = Warn | Stop


class BilledRoom(Protocol):
    """What billing looks at."""

    @property
    def id(self) -> str:
        """The room's id."""

    @property
    def payment(self) -> Payment | None:
        """Where the host pays."""

    @property
    def is_occupied(self) -> bool:
        """Whether anybody's connection stands."""


@dataclass(slots=True)
class _Paid:
    """Until when a room is paid for, and the last warning."""

    until_ns: int
    warned_s: int | None = None


class HostBilling:
    """Charges hosts by the minute.

    Args:
        line: the tariff's, of rooms.
    """

    def __init__(self, ledger: Ledger, line: Line, clock: Clock) -> None:
        self._ledger = ledger
        self._line = line
        self._clock = clock
        self._paid: dict[str, _Paid] = {}

    def payment(self, account: int, now_ns: int) -> Payment:
        """What a room costs from now on, from this account."""
        return Payment(account, new_id(self._clock), now_ns)

    async def begin(self, payment: Payment) -> None:
        """Have a new room's first minute paid for.

        Raises:
            SignalingError: ``no-money``, or ``unavailable`` when it can't be charged.
        """
        try:
            (result,) = await self._charge([(payment, 0)])
        except OperationError as error:
            _log.error("a room can't be charged: %s", error)
            raise SignalingError("unavailable", "rooms can't be charged now") from error
        if not result.is_done:
            raise SignalingError("no-money", "the account can't pay for the first minute")

    async def tick(self, rooms: Iterable[BilledRoom], now_ns: int) -> list[Verdict]:
        """Have the minutes paid for that have begun."""
        billed = {room.id: (room, room.payment) for room in rooms if room.payment is not None}
        self._paid = {room: paid for room, paid in self._paid.items() if room in billed}
        due: list[tuple[str, Payment, int]] = []
        verdicts: list[Verdict] = []
        for name, (room, payment) in billed.items():
            minute = max(0, now_ns - payment.started_ns) // _MINUTE_NS
            paid = self._paid.get(name)
            if paid is not None and now_ns < paid.until_ns:
                continue
            if not payment.is_over:
                if room.is_occupied:
                    due.append((name, payment, minute))
            elif paid is None and self._ledger.find_transfer(_id(payment, minute)) is not None:
                # After a restart the ledger knows.
                self._paid[name] = _Paid(payment.started_ns + (minute + 1) * _MINUTE_NS)
            else:
                verdicts.append(Stop(name, "no-money"))
        for start in range(0, len(due), BATCH_TRANSFERS):
            verdicts += await self._pay(due[start : start + BATCH_TRANSFERS], now_ns)
        for name, (_, payment) in billed.items():
            paid = self._paid.get(name)
            if paid is not None and (left_s := self._warning(payment, paid, now_ns)) is not None:
                verdicts.append(Warn(name, left_s))
        return verdicts

    async def _pay(self, due: list[tuple[str, Payment, int]], now_ns: int) -> list[Verdict]:
        try:
            results = await self._charge([(payment, minute) for _, payment, minute in due])
        except OperationError as error:
            _log.error("rooms can't be charged: %s", error)
            # Asked for again at the next tick; no room outlives a whole minute of it.
            return [
                Stop(name, "failed")
                for name, payment, minute in due
                if now_ns - self._unpaid_since_ns(name, payment, minute) >= _MINUTE_NS
            ]
        verdicts: list[Verdict] = []
        for (name, payment, minute), result in zip(due, results, strict=True):
            if result.is_done:
                self._paid[name] = _Paid(payment.started_ns + (minute + 1) * _MINUTE_NS)
            else:
                verdicts.append(Stop(name, _REASONS.get(result, "no-money")))
        return verdicts

    def _unpaid_since_ns(self, name: str, payment: Payment, minute: int) -> int:
        paid = self._paid.get(name)
        if paid is None:
            paid = self._paid[name] = _Paid(payment.started_ns + minute * _MINUTE_NS)
        return paid.until_ns

    def _warning(self, payment: Payment, paid: _Paid, now_ns: int) -> int | None:
        """Seconds to be told of now, when the next minute won't be paid for as things stand."""
        left_ns = paid.until_ns - now_ns
        for warning_s in reversed(WARNINGS_S):
            if 0 < left_ns <= warning_s * NS_PER_S:
                if paid.warned_s is not None and paid.warned_s <= warning_s:
                    return None
                if self._can_pay(payment):
                    return None
                paid.warned_s = warning_s
                return -(-left_ns // NS_PER_S)
        return None

    def _can_pay(self, payment: Payment) -> bool:
        if payment.is_over:
            return False
        price = self._line.price_minute
        payer = self._ledger.heir(payment.account)
        return (
            not price
            or payer == self._line.into
            or self._ledger.balance(payer, J).available >= price
        )

    async def _charge(self, minutes: list[tuple[Payment, int]]) -> list[Result]:
        price, into = self._line.price_minute, self._line.into
        results = [Result.DONE] * len(minutes)
        transfers: list[Transfer] = []
        places: list[int] = []
        for place, (payment, minute) in enumerate(minutes):
            payer = self._ledger.heir(payment.account)
            # Nobody pays nothing, or themselves.
            if price and payer != into:
                places.append(place)
                transfers.append(
                    Transfer(_id(payment, minute), payer, into, price, J.number, code=Code.ROOM)
                )
        if transfers:
            for place, result in zip(places, await self._ledger.transfer(transfers), strict=True):
                # The same minute, before the account was merged into another or the price changed.
                results[place] = Result.EXISTS if result is Result.ID_REUSED else result
        return results


def _id(payment: Payment, minute: int) -> bytes:
    """The id of the transfer that pays for a minute."""
    return derive_id(payment.key, b"room minute %d" % minute)


class _StoredQuota(msgspec.Struct, frozen=True, array_like=True):
    day: int
    used_ns: int


_quota_decoder = msgspec.msgpack.Decoder(_StoredQuota)


class FreeQuota:
    """What the node gives away, in UTC days.

    Args:
        minutes_per_day: of one person each, over all rooms; 0 for no limit.
        people: in all rooms at once; 0 for no limit.
        stored: what `export` has said before a restart.
    """

    def __init__(
        self, *, minutes_per_day: int, people: int, now_ns: int, stored: bytes | None = None
    ) -> None:
        self._limit_ns = minutes_per_day * _MINUTE_NS
        self._people = people
        self._seen_ns = now_ns
        self._day = now_ns // _DAY_NS
        self._used_ns = 0
        self._warned_s: int | None = None
        if stored is not None:
            try:
                before = _quota_decoder.decode(stored)
            except msgspec.DecodeError:
                _log.warning("what was used of the quota can't be read; today begins anew")
                return
            if before.day == self._day:
                self._used_ns = before.used_ns

    def check(self, people: int, now_ns: int) -> None:
        """Whether somebody more may enter, where so many are in.

        Raises:
            SignalingError: ``quota``.
        """
        if self._people and people >= self._people:
            raise SignalingError(
                "quota",
                f"{self._people} people at most may be in the rooms of this node at once",
                maximum=self._people,
            )
        # A new day has begun, though nothing was counted in it.
        used_ns = self._used_ns if now_ns // _DAY_NS == self._day else 0
        if self._limit_ns and used_ns >= self._limit_ns:
            raise SignalingError(
                "quota",
                "this node's free minutes of today are used up; they begin anew at 0:00 UTC",
            )

    def tick(self, rooms: Iterable[BilledRoom], people: int, now_ns: int) -> list[Verdict]:
        """Count the time since the last tick for everybody who is in."""
        day = now_ns // _DAY_NS
        if day != self._day:
            self._day, self._used_ns, self._warned_s = day, 0, None
            self._seen_ns = max(self._seen_ns, day * _DAY_NS)
        self._used_ns += people * max(0, now_ns - self._seen_ns)
        self._seen_ns = max(self._seen_ns, now_ns)
        if not self._limit_ns or not people:
            return []
        left_ns = max(0, self._limit_ns - self._used_ns) // people
        if not left_ns:
            return [Stop(room.id, "quota") for room in rooms]
        if now_ns + left_ns >= (day + 1) * _DAY_NS:
            # Midnight comes first.
            return []
        for warning_s in reversed(WARNINGS_S):
            if left_ns <= warning_s * NS_PER_S:
                if self._warned_s is not None and self._warned_s <= warning_s:
                    return []
                self._warned_s = warning_s
                left_s = -(-left_ns // NS_PER_S)
                return [Warn(room.id, left_s) for room in rooms]
        # Somebody has left: there is more time for the others.
        self._warned_s = None
        return []

    def export(self) -> bytes:
        """What has been used, for `stored`."""
        return msgspec.msgpack.encode(_StoredQuota(self._day, self._used_ns))
