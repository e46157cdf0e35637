"""What the node has to tell somebody through a bridge: stored in the transaction of its cause,
until a bridge says what has become of it.

    outbox.put(writing, "telegram", "tg:5", body, key=event_id, lifetime_s=DAY_S)

It is given at least once: again after a crash of either side, and under the same id. It stands
beside the ledger, in its environment, and is no part of its log; when it is settled its row goes,
and the text with it.

`relay.event_source` gives events to bridges. It hears of changes by `on_change`, from the writer's
thread, and takes them with `take_changes`.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Literal, NamedTuple

import msgspec

from billing.tables import OUTBOX, UNREADABLE
from billing.transfers import ID_BYTES
from core.api.bridge_messages import (
    AlarmBody,
    Event,
    EventBody,
    ReceiptBody,
    RingOverBody,
    TransferReceivedBody,
    UnlinkedBody,
)
from core.clock import Clock
from core.store import Store
from core.tables import Writing

OUTBOX_MAXIMUM: Final = 100_000
"""Events that wait."""
RECIPIENT_MAXIMUM: Final = 128
"""Of them, of one recipient."""
CHATTER_MAXIMUM: Final = 80_000
RECIPIENT_CHATTER_MAXIMUM: Final = 64
"""As many may wait where chatter is still taken, so that there is room left for the rest."""
CHATTER = (RingOverBody, ReceiptBody, TransferReceivedBody, UnlinkedBody, AlarmBody)
"""What nobody is harmed by the loss of: it can be read elsewhere, too."""

Outcome = Literal["done", "failed", "unknown", "expired"]

_MS_PER_S: Final = 1000
_log = logging.getLogger("montana.outbox")


class Waiting(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An event that waits, without its text.

    Attributes:
        to: an address, or a URL.
        sequence: grows with every event.
        created_ms, expires_ms: since 1970.
    """

    id: bytes
    bridge: str
    to: str
    urgent: bool
    chatter: bool
    sequence: int
    created_ms: int
    expires_ms: int


class Settled(NamedTuple):
    """An event that is erased, and why; `detail` is the bridge's."""

    id: bytes
    bridge: str
    to: str
    outcome: Outcome
    detail: str


Change = Waiting | bytes
"""An event that is to be given, or the id of one that was erased."""


class _Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    waiting: Waiting
    body: msgspec.Raw


_encode = msgspec.msgpack.encode
_rows = msgspec.msgpack.Decoder(_Row)
_bodies: msgspec.msgpack.Decoder[EventBody] = msgspec.msgpack.Decoder(EventBody)


class Outbox:
    """The events that wait, in a store's table `OUTBOX`. `put` and `settle` belong to the writer's
    thread.

    Attributes:
        on_settled: called in the transaction that erases an event; what they raise undoes it.
        on_late: called with an event's id and outcome when a bridge tells of one that is not there
            any more: it had expired while the bridge held it, or is told of again.
        on_change: called on the writer's thread when there is something for `take_changes`.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.on_settled: list[Callable[[Writing, Settled], None]] = []
        self.on_late: list[Callable[[Writing, bytes, Outcome], None]] = []
        self.on_change: Callable[[], None] = lambda: None
        self._changes: deque[Change] = deque()
        self._told = False
        self._total = 0
        self._of: defaultdict[tuple[str, str], set[bytes]] = defaultdict(set)
        self._outcomes: Counter[str] = Counter()
        self._sequence = 0
        self._load()

    def put(
        self,
        writing: Writing,
        bridge: str,
        to: str,
        body: EventBody,
        *,
        key: bytes,
        urgent: bool = False,
        lifetime_s: int,
    ) -> bool:
        """Have `to` be told by a bridge, once the transaction is durable.

        Args:
            to: an address, or a URL; events of one recipient keep their order.
            key: 16 bytes, the event's id. While one of that id waits, no other is put.
            urgent: before all that is not.
            lifetime_s: it is given to no bridge any more when this is over.

        Returns:
            Whether it waits now. What is no chatter has room unless somebody floods: who can't do
            without it has to raise where this is false.
        """
        assert len(key) == ID_BYTES
        if writing.get(OUTBOX, key) is not None:
            return True
        chatter = isinstance(body, CHATTER)
        total_maximum, maximum = (
            (CHATTER_MAXIMUM, RECIPIENT_CHATTER_MAXIMUM)
            if chatter
            else (OUTBOX_MAXIMUM, RECIPIENT_MAXIMUM)
        )
        if self._total >= total_maximum or len(self._of.get((bridge, to), ())) >= maximum:
            writing.after_commit(partial(self._count_outcome, "dropped"))
            return False
        self._sequence += 1
        now_ms = self._now_ms()
        waiting = Waiting(
            key,
            bridge,
            to,
            urgent,
            chatter,
            self._sequence,
            now_ms,
            now_ms + lifetime_s * _MS_PER_S,
        )
        writing.put(OUTBOX, key, _encode((waiting, body)))
        self._count(waiting)
        writing.on_abort(partial(self._discount, waiting))
        writing.after_commit(partial(self._publish, waiting))
        return True

    def settle(self, writing: Writing, identity: bytes, outcome: Outcome, detail: str = "") -> bool:
        """Erase an event; whether it was there."""
        raw = writing.get(OUTBOX, identity)
        if raw is None:
            return False
        waiting = _rows.decode(raw).waiting
        writing.delete(OUTBOX, identity)
        self._discount(waiting)
        writing.on_abort(partial(self._count, waiting))
        writing.after_commit(partial(self._publish, identity))
        writing.after_commit(partial(self._count_outcome, outcome))
        settled = Settled(identity, waiting.bridge, waiting.to, outcome, detail)
        for listener in self.on_settled:
            listener(writing, settled)
        return True

    def withdraw(self, writing: Writing, bridge: str, to: str) -> None:
        """Erase what waits for one recipient, as if it were stale: what a bridge holds already may
        still be told of."""
        for identity in list(self._of.get((bridge, to), ())):
            self.settle(writing, identity, "expired")

    async def acknowledge(self, identity: bytes, outcome: Outcome, detail: str = "") -> None:
        """Erase an event that a bridge has dealt with, durably; one that is not there is not
        missed.

        Raises:
            OperationError: it can't be stored.
        """

        def write(writing: Writing) -> None:
            if not self.settle(writing, identity, outcome, detail):
                for listener in self.on_late:
                    listener(writing, identity, outcome)

        await self._store.write(write)

    async def expire(self, identities: Sequence[bytes]) -> None:
        """Erase events that are stale.

        Raises:
            OperationError: it can't be stored.
        """

        def write(writing: Writing) -> None:
            for identity in identities:
                self.settle(writing, identity, "expired")

        await self._store.write(write)

    def take_changes(self) -> list[Change]:
        """What has come and gone since the last time, in that order."""
        # Before the look: what comes after it is told of again.
        self._told = False
        changes: list[Change] = []
        while self._changes:
            changes.append(self._changes.popleft())
        return changes

    def read(self, waiting: Sequence[Waiting]) -> list[Event]:
        """Those events that are still there, with their texts.

        Raises:
            OperationError: they can't be read.
        """
        with self._store.read() as tables:
            raws = [(one, tables.get(OUTBOX, one.id)) for one in waiting]
        return [
            Event(
                id=one.id.hex(),
                to=one.to,
                created_ms=one.created_ms,
                expires_ms=one.expires_ms,
                body=_bodies.decode(_rows.decode(raw).body),
            )
            for one, raw in raws
            if raw is not None
        ]

    def outcomes(self) -> dict[str, int]:
        """What has become of events since the start, and how many had no room."""
        return dict(self._outcomes)

    def _now_ms(self) -> int:
        return int(self._clock.unix_s() * _MS_PER_S)

    def _publish(self, change: Change) -> None:
        self._changes.append(change)
        # Once for all that a commit has brought: it wakes another thread.
        if not self._told:
            self._told = True
            self.on_change()

    def _count(self, waiting: Waiting) -> None:
        self._total += 1
        self._of[waiting.bridge, waiting.to].add(waiting.id)

    def _discount(self, waiting: Waiting) -> None:
        recipient = waiting.bridge, waiting.to
        self._total -= 1
        self._of[recipient].discard(waiting.id)
        if not self._of[recipient]:
            del self._of[recipient]

    def _count_outcome(self, outcome: str) -> None:
        self._outcomes[outcome] += 1

    def _load(self) -> None:
        """Take up what an earlier run has left; rows that say nothing are removed."""
        found: list[Waiting] = []
        unreadable: list[bytes] = []
        with self._store.read() as tables:
            for key, raw in tables.items(OUTBOX, limit=tables.count(OUTBOX)):
                try:
                    row = _rows.decode(raw)
                    _bodies.decode(row.body)
                except UNREADABLE:
                    unreadable.append(key)
                else:
                    found.append(row.waiting)
        found.sort(key=lambda waiting: waiting.sequence)
        for waiting in found:
            self._count(waiting)
            self._publish(waiting)
            self._sequence = waiting.sequence
        if unreadable:
            _log.error("events of the outbox that can't be read were removed: %d", len(unreadable))
            self._store.submit(lambda writing: writing.delete_many(OUTBOX, unreadable)).result()
