"""In which order events of one bridge are given: urgent ones first, then in turns, one recipient
after the other; those of one recipient in their order, one at a time.

Without I/O and without a clock: `now_ms` is since 1970, as in `Waiting`.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import OrderedDict
from typing import Final

from billing.outbox import Waiting

EXPIRIES_SPARED: Final = 1024
"""Ends of events that are kept in vain at most, beside as many as there are."""


def _order(waiting: Waiting) -> tuple[bool, int]:
    return not waiting.urgent, waiting.sequence


class _Recipient:
    """Events of one recipient: one that a bridge has, and the others in their order."""

    __slots__ = ("given", "waiting")

    def __init__(self) -> None:
        self.given: Waiting | None = None
        self.waiting: list[Waiting] = []


class EventQueue:
    """The events of one bridge.

    Attributes:
        given: how many the bridge has, and has not acknowledged.
    """

    def __init__(self) -> None:
        self.given = 0
        self._all: dict[bytes, Waiting] = {}
        self._recipients: dict[str, _Recipient] = {}
        # Recipients that may be given something, in turns.
        self._urgent: OrderedDict[str, None] = OrderedDict()
        self._others: OrderedDict[str, None] = OrderedDict()
        self._stale: list[bytes] = []
        self._expiries: list[tuple[int, bytes]] = []

    def __len__(self) -> int:
        return len(self._all)

    @property
    def oldest_ms(self) -> int | None:
        """When the oldest event was made; None where none is left."""
        # They come in the order in which they are made.
        first = next(iter(self._all.values()), None)
        return None if first is None else first.created_ms

    def add(self, waiting: Waiting) -> None:
        """One more event."""
        assert waiting.id not in self._all
        self._all[waiting.id] = waiting
        self._await_expiry(waiting)
        recipient = self._recipients.setdefault(waiting.to, _Recipient())
        insort(recipient.waiting, waiting, key=_order)
        self._line_up(waiting.to, recipient)

    def remove(self, identity: bytes) -> bool:
        """An event is erased, wherever it was; whether it was here."""
        waiting = self._all.pop(identity, None)
        if waiting is None:
            return False
        recipient = self._recipients.get(waiting.to)
        if recipient is not None and recipient.given is waiting:
            recipient.given = None
            self.given -= 1
            self._line_up(waiting.to, recipient)
        else:
            self._take_out(waiting)
        return True

    def next(self, now_ms: int) -> Waiting | None:
        """The event to be given now; None while there is none."""
        while lane := self._urgent or self._others:
            to, _ = lane.popitem(last=False)
            recipient = self._recipients[to]
            waiting = recipient.waiting.pop(0)
            if waiting.expires_ms > now_ms:
                recipient.given = waiting
                self.given += 1
                return waiting
            self._stale.append(waiting.id)
            self._line_up(to, recipient)
        return None

    def give_back(self) -> None:
        """The bridge is gone: what it has not acknowledged waits again, in its old place."""
        for to, recipient in self._recipients.items():
            if recipient.given is not None:
                insort(recipient.waiting, recipient.given, key=_order)
                self._await_expiry(recipient.given)
                recipient.given = None
                self._line_up(to, recipient)
        self.given = 0

    def take_stale(self, now_ms: int, limit: int) -> list[bytes]:
        """Events whose time is over and which no bridge has, to be erased: each is told of once."""
        while self._expiries and self._expiries[0][0] <= now_ms:
            _, identity = heapq.heappop(self._expiries)
            waiting = self._all.get(identity)
            if waiting is not None and self._take_out(waiting):
                self._stale.append(identity)
        # Some may have been acknowledged late.
        stale = [identity for identity in self._stale if identity in self._all]
        self._stale = stale[limit:]
        return stale[:limit]

    def keep_stale(self, identities: list[bytes]) -> None:
        """Those could not be erased: they are told of again."""
        self._stale += identities

    def _take_out(self, waiting: Waiting) -> bool:
        """Have it wait no more; whether it did."""
        recipient = self._recipients.get(waiting.to)
        if recipient is None:
            return False
        place = bisect_left(recipient.waiting, _order(waiting), key=_order)
        if place == len(recipient.waiting) or recipient.waiting[place] is not waiting:
            return False
        del recipient.waiting[place]
        self._line_up(waiting.to, recipient)
        return True

    def _await_expiry(self, waiting: Waiting) -> None:
        heapq.heappush(self._expiries, (waiting.expires_ms, waiting.id))
        if len(self._expiries) > 2 * len(self._all) + EXPIRIES_SPARED:
            self._expiries = [(one.expires_ms, one.id) for one in self._all.values()]
            heapq.heapify(self._expiries)

    def _line_up(self, to: str, recipient: _Recipient) -> None:
        """Have a recipient stand where it belongs; where it stood already it keeps its place."""
        first = recipient.waiting[0] if recipient.waiting else None
        lane = None
        if recipient.given is None and first is not None:
            lane = self._urgent if first.urgent else self._others
        for other in (self._urgent, self._others):
            if other is not lane:
                other.pop(to, None)
        if lane is not None:
            lane.setdefault(to)
        elif first is None and recipient.given is None:
            del self._recipients[to]
