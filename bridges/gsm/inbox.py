"""What has been received: on the bridge's disk before a modem is told to delete it, with the node
soon after.

Kinds in the spool:

    seen     a message's or a part's digest -> when; what comes twice is known by it
    part     a part of a long message that isn't whole yet
    in       a whole message that the node hasn't taken yet, in order of arrival
    broken   what is no text, or no message at all: kept for an operator's eye, not handed on
    written  what somebody has written on a SIM, which had to make room: kept in the same way
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from hashlib import sha256
from itertools import islice
from typing import Final

import msgspec
import trio

from bridges.gsm.alphabet import Alphabet
from bridges.gsm.pdu import Deliver, Part
from bridges.gsm.reassembly import Piece, Reassembly, Whole
from bridges.process import BridgeContext
from bridges.spool import Change
from core.api.bridge_messages import SmsReceivedReply, SmsReceivedRequest
from core.errors import OperationError
from core.log import log_event
from core.units import DAY_S

SEEN_MAXIMUM: Final = 100_000
SEEN_LIFETIME_S: Final = 3 * DAY_S
"""A service centre gives up sending one again before that."""
UNTIMED_LIFETIME_S: Final = 300.0
"""For those without the service centre's time, which are equal whenever their texts are: so long
what comes directly and is stored as well may be apart, or shown in a store again and again."""
BROKEN_MAXIMUM: Final = 1_000
WRITTEN_MAXIMUM: Final = 1_000
"""The SIMs of a bridge have room for so many, and more; nobody writes new ones."""
BODY_MAXIMUM_CHARACTERS: Final = 4_096
"""What `SmsReceivedRequest` has room for; a longer text is cut, and ends in an ellipsis."""
SENDER_MAXIMUM_CHARACTERS: Final = 64
RETRY_S: Final = 10.0
EXPIRY_INTERVAL_S: Final = 60.0
FORGET_INTERVAL_S: Final = 1.0
LOAD_MAXIMUM: Final = 1_000_000

_log = logging.getLogger("montana.bridge.gsm")

ReplyTo = Callable[[str, str, str, str, Change], Awaitable[None]]
"""Sends an answer: by the SIM, to whom, its text, which message's it is, and what is changed in the
spool together with its being stored there."""


class _PartRecord(msgspec.Struct, frozen=True):
    sim: str
    sender: str
    part: Part
    alphabet: int
    content: bytes
    received_s: float


class _Message(msgspec.Struct, frozen=True):
    id: str
    sim: str
    sender: str
    recipient: str
    body: str
    received_ms: int


class Inbox:
    """Of all modems.

    Attributes:
        doubled: how many came that were there already.
        broken: how many were kept that could not be handed on.
        written: how many were kept that somebody had written on a SIM.
    """

    def __init__(self, context: BridgeContext, numbers: dict[str, str]) -> None:
        self._context = context
        self._numbers = numbers
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._reassembly = Reassembly()
        self._unstored: list[Whole] = []
        """Whose storing was given up, as a modem's line was lost while the disk was full."""
        self._waiting: OrderedDict[str, _Message] = OrderedDict()
        self._taken: list[Change] = []
        self._last_ms = 0
        self._loaded_s = -float("inf")
        self._wake = trio.Event()
        self.doubled = 0
        self.broken = 0
        self.written = 0

    @property
    def waiting(self) -> int:
        """How many messages the node hasn't taken yet."""
        return len(self._waiting)

    async def load(self) -> None:
        """Take up what an earlier process has left."""
        spool = self._context.spool
        self._loaded_s = self._context.clock.unix_s()
        seen = [(float(value), key) for key, value in spool.items("seen", LOAD_MAXIMUM)]
        for moment_s, key in sorted(seen):
            self._seen[key] = moment_s
        for key, value in spool.items("in", LOAD_MAXIMUM):
            self._waiting[key] = msgspec.json.decode(value, type=_Message)
            self._last_ms = int(key.partition(".")[0])
        self.broken = len(spool.items("broken", BROKEN_MAXIMUM + 1))
        self.written = len(spool.items("written", WRITTEN_MAXIMUM))
        pieces = []
        for key, value in spool.items("part", LOAD_MAXIMUM):
            one = msgspec.json.decode(value, type=_PartRecord)
            alphabet = Alphabet(one.alphabet)
            pieces.append(
                Piece(key, one.sim, one.sender, one.part, alphabet, one.content, one.received_s)
            )
        for piece in sorted(pieces, key=lambda piece: piece.received_s):
            await self._store_wholes(self._reassembly.add(piece))

    async def keep(self, sim: str, messages: Sequence[Deliver]) -> int:
        """Store what has come to a SIM, in one commit; durable when this returns. How many of it
        had not come before.

        Raises:
            OperationError: the spool or the disk is full.
        """
        now_s = self._context.clock.unix_s()
        broken = 0
        changes: dict[str, Change] = {}
        texts: dict[str, tuple[str, _Message]] = {}
        pieces: dict[str, Piece] = {}
        untimed: set[str] = set()
        for message in messages:
            key = name = _digest(sim, message.tpdu)
            if message.sent_s is None:
                untimed.add(key)
                # Another one than an equal one of another day.
                name = _digest(sim, f"{key} {now_s:.3f}".encode())
            if message.to_port:
                # What an application of a phone's would read: settings, MMS.
                broken += await self.keep_broken(sim, message.tpdu.hex(), "data for a port")
            elif key in changes:
                self.doubled += 1
            elif message.part is None:
                received = _Message(
                    id=name,
                    sim=sim,
                    sender=message.sender[:SENDER_MAXIMUM_CHARACTERS],
                    recipient=self._numbers.get(sim) or sim,
                    body=message.text,
                    received_ms=round(now_s * 1000),
                )
                order, changes[key] = self._in(received)
                texts[key] = order, received
            else:
                piece = Piece(
                    name,
                    sim,
                    message.sender,
                    message.part,
                    message.alphabet,
                    message.content,
                    now_s,
                )
                changes[key] = Change("part", name, msgspec.json.encode(_record(piece)))
                pieces[key] = piece
        new = await self._once(now_s, changes, untimed)
        wholes: list[Whole] = []
        for key in new:
            if key in texts:
                self._receive(*texts[key])
            else:
                wholes += self._reassembly.add(pieces[key])
        await self._store_wholes(wholes)
        return broken + len(new)

    async def keep_broken(self, sim: str, line: str, reason: str) -> bool:
        """Store what can't be handed on; the oldest of `BROKEN_MAXIMUM` makes room. False where it
        came before.

        Raises:
            OperationError: the spool or the disk is full.
        """
        now_s = self._context.clock.unix_s()
        key = _digest(sim, line.encode())
        stored = Change("broken", f"{round(now_s * 1000):014d}.{key[:16]}", line[:2048].encode())
        if not await self._once(now_s, {key: stored}):
            return False
        self.broken += 1
        log_event(_log, logging.WARNING, "an SMS can't be read", modem=sim, reason=reason)
        if self.broken > BROKEN_MAXIMUM:
            for oldest, _ in self._context.spool.items("broken", self.broken - BROKEN_MAXIMUM):
                await self._context.spool.delete("broken", oldest)
            self.broken = BROKEN_MAXIMUM
        return True

    async def keep_written(self, sim: str, lines: Sequence[str]) -> bool:
        """Store what somebody has written on a SIM; durable when this returns. False, with nothing
        done, where it would be more than `WRITTEN_MAXIMUM`: none that is kept is given up for it.

        Raises:
            OperationError: the spool or the disk is full.
        """
        spool = self._context.spool
        kept = {_digest(sim, line.encode()): line.encode() for line in lines}
        new = {key: line for key, line in kept.items() if spool.get("written", key) is None}
        if self.written + len(new) > WRITTEN_MAXIMUM:
            return False
        if new:
            # Counted before it is waited for: other SIMs make room at the same time.
            self.written += len(new)
            try:
                await spool.change(*(Change("written", key, line) for key, line in new.items()))
            except OperationError:
                self.written -= len(new)
                raise
            event = "what was written on a full SIM is kept in the spool"
            log_event(_log, logging.WARNING, event, modem=sim, messages=len(new))
        return True

    async def run(self, reply_to: ReplyTo) -> None:
        """Hand on what has come, and give out long messages whose parts stay away; serves until it
        is cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hand_on, reply_to)
            nursery.start_soon(self._forget)
            nursery.start_soon(self._expire)

    # ------------------------------------------------------------ storing

    async def _once(
        self, now_s: float, changes: Mapping[str, Change], untimed: Collection[str] = ()
    ) -> list[str]:
        """Do, in one commit, the changes whose key was not seen before, each with the mark that it
        was; returns those keys. All marks are in memory as well. Those of `untimed` are forgotten
        sooner, but not while nobody was there to see them."""
        mark = f"{now_s:.0f}".encode()
        new = []
        marked = []
        for key in changes:
            lifetime_s = UNTIMED_LIFETIME_S if key in untimed else SEEN_LIFETIME_S
            seen_s = self._seen.get(key)
            if seen_s is None or (
                key in untimed and now_s > max(seen_s, self._loaded_s) + lifetime_s
            ):
                new.append(key)
                marked.append(key)
            elif now_s > seen_s + lifetime_s / 2:
                # A modem that can't delete it: as long as it shows it, it stays known.
                marked.append(key)
        self.doubled += len(changes) - len(new)
        if not marked:
            return []
        forgotten = self._forgettable(now_s, len(new)) - changes.keys()
        await self._context.spool.change(
            *(Change("seen", key, mark) for key in marked),
            *(changes[key] for key in new),
            *(Change("seen", key, None) for key in forgotten),
        )
        for key in forgotten:
            del self._seen[key]
        for key in marked:
            self._seen[key] = now_s
            self._seen.move_to_end(key)
        return new

    def _forgettable(self, now_s: float, count: int) -> set[str]:
        """A few of the oldest marks, where they are too old, or too many with `count` more."""
        excess = len(self._seen) + count - SEEN_MAXIMUM
        oldest = islice(self._seen.items(), max(excess, 2 * count))
        return {
            key
            for place, (key, moment_s) in enumerate(oldest)
            if place < excess or moment_s < now_s - SEEN_LIFETIME_S
        }

    def _in(self, message: _Message) -> tuple[str, Change]:
        """Under which key, in order of arrival, and how a message is stored for the node."""
        self._last_ms = max(self._last_ms + 1, message.received_ms)
        order = f"{self._last_ms:014d}.{message.id[:32]}"
        return order, Change("in", order, msgspec.json.encode(message))

    def _receive(self, order: str, message: _Message) -> None:
        self._waiting[order] = message
        self._wake.set()

    async def _store_wholes(self, wholes: Sequence[Whole]) -> None:
        changes: list[Change] = []
        received: list[tuple[str, _Message]] = []
        for whole in wholes:
            message = _Message(
                id=_digest(whole.sim, "".join(whole.keys).encode()),
                sim=whole.sim,
                sender=whole.sender[:SENDER_MAXIMUM_CHARACTERS],
                recipient=self._numbers.get(whole.sim) or whole.sim,
                body=_shortened(whole.text),
                received_ms=round(whole.received_s * 1000),
            )
            order, change = self._in(message)
            changes += [change, *(Change("part", key, None) for key in whole.keys)]
            received.append((order, message))
            if not whole.is_complete:
                log_event(_log, logging.WARNING, "parts of an SMS have not come", modem=whole.sim)
        if changes:
            try:
                await self._context.spool.change_at_last(*changes)
            except BaseException:
                # Nobody else knows of them: their parts are seen and deleted from the SIM.
                self._unstored += wholes
                raise
        for one in received:
            self._receive(*one)

    # ------------------------------------------------------------ handing on

    async def _hand_on(self, reply_to: ReplyTo) -> None:
        while True:
            self._wake = trio.Event()
            for order, message in list(self._waiting.items()):
                try:
                    await self._hand_on_one(reply_to, order, message)
                except OperationError as error:
                    # It stays, and others are not kept from passing.
                    log_event(
                        _log, logging.WARNING, "an SMS can't be handed on yet", reason=error.code
                    )
            with trio.move_on_after(RETRY_S if self._waiting else float("inf")):
                await self._wake.wait()

    async def _hand_on_one(self, reply_to: ReplyTo, order: str, message: _Message) -> None:
        answer = await self._context.node.request(
            SmsReceivedRequest(
                bridge=self._context.name,
                sender=message.sender,
                recipient=message.recipient,
                body=message.body,
                message_id=message.id,
                received_ms=message.received_ms,
            )
        )
        assert isinstance(answer, SmsReceivedReply)
        taken = Change("in", order, None)
        if answer.reply is None:
            self._taken.append(taken)
        else:
            # An answer to what was a duplicate for the node, too: it has not been sent from here.
            await reply_to(message.sim, message.sender, answer.reply, message.id, taken)
        del self._waiting[order]

    async def _forget(self) -> None:
        """Remove what the node has taken and not answered, much of it in one commit: who is killed
        before it hands it on again, and the node knows it."""
        while True:
            taken, self._taken = self._taken, []
            if taken:
                await self._context.spool.change_at_last(*taken)
            await trio.sleep(FORGET_INTERVAL_S)

    async def _expire(self) -> None:
        while True:
            now_s = self._context.clock.unix_s()
            unstored, self._unstored = self._unstored, []
            await self._store_wholes([*unstored, *self._reassembly.expire(now_s)])
            await trio.sleep(EXPIRY_INTERVAL_S)


def _digest(sim: str, content: bytes) -> str:
    """Names what came to a SIM: the sender's text, and the second at which the service centre has
    taken it where it told, are in it."""
    return sha256(sim.encode() + b"\0" + content).hexdigest()


def _record(piece: Piece) -> _PartRecord:
    return _PartRecord(
        piece.sim,
        piece.sender,
        piece.part,
        piece.alphabet.value,
        piece.content,
        piece.received_s,
    )


def _shortened(text: str) -> str:
    if len(text) <= BODY_MAXIMUM_CHARACTERS:
        return text
    return text[: BODY_MAXIMUM_CHARACTERS - 1] + "…"
