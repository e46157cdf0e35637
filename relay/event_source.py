"""Gives bridges what the node has to tell through them, and asks them questions.

Events come out of the outbox (`billing.outbox`), in the order of `relay.event_queue`; a bridge has
a window of them at a time, and what it has not acknowledged when its connection ends is given to
the next one. Questions are not stored: who asks waits for the answer, for so long.

All of it belongs to the trio thread; `core.api.server` subscribes connections, and hands on what
bridges say of events.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Final

import trio

from billing.outbox import Outbox, Waiting
from core.api.bridge_messages import (
    AcknowledgeRequest,
    BridgeAnswerRequest,
    DoneReply,
    Event,
    QuestionBody,
)
from core.clock import Clock
from core.errors import OperationError
from relay.event_queue import EventQueue

QUESTIONS_MAXIMUM: Final = 64
"""That one bridge is asked at a time."""
QUESTION_TIMEOUT_S: Final = 60.0
SWEEP_INTERVAL_S: Final = 10.0
SWEPT_AT_A_TIME: Final = 1_000

_ID_BYTES: Final = 16
_MS_PER_S: Final = 1000
_log = logging.getLogger("montana.events")

Send = Callable[[Event], None]


class _Question:
    __slots__ = ("answer", "answered", "bridge")

    def __init__(self, bridge: str) -> None:
        self.bridge = bridge
        self.answer: BridgeAnswerRequest | None = None
        self.answered = trio.Event()


class Subscription:
    """One connection of a bridge's; `close` when it has ended."""

    __slots__ = ("_source", "bridge", "queue", "send", "window")

    def __init__(
        self, source: EventSource, bridge: str, window: int, send: Send, queue: EventQueue
    ) -> None:
        self._source = source
        self.bridge = bridge
        self.window = window
        self.send = send
        self.queue = queue

    def close(self) -> None:
        """What was not acknowledged goes to the next one. May be called twice."""
        self._source.unsubscribe(self)


class EventSource:
    """The events of all bridges; `run` has to run."""

    def __init__(self, outbox: Outbox, clock: Clock) -> None:
        self._outbox = outbox
        self._clock = clock
        self._queues: dict[str, EventQueue] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._questions: dict[str, _Question] = {}

    async def run(self) -> None:
        """Take up what comes into the outbox, and erase what is stale there, until cancelled."""
        token = trio.lowlevel.current_trio_token()

        def wake() -> None:
            # The node may have ended before its last commit.
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(self._take_up)

        self._outbox.on_change = wake
        self._take_up()
        while True:
            await self._sweep()
            await trio.sleep(SWEEP_INTERVAL_S)

    def subscribe(self, bridge: str, window: int, send: Send) -> Subscription:
        """Give events to a connection of a bridge's, at most `window` that it has not acknowledged.
        `send` is called at once for what waits already; it queues and never raises.

        Raises:
            OperationError: another connection has them (`subscribed`).
        """
        if bridge in self._subscriptions:
            raise OperationError("somebody is subscribed to this already", "subscribed")
        subscription = Subscription(self, bridge, window, send, self._queue(bridge))
        self._subscriptions[bridge] = subscription
        self._give(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """See `Subscription.close`."""
        if self._subscriptions.get(subscription.bridge) is not subscription:
            return
        del self._subscriptions[subscription.bridge]
        subscription.queue.give_back()
        for question in self._questions.values():
            if question.bridge == subscription.bridge:
                question.answered.set()

    def is_connected(self, bridge: str) -> bool:
        """Whether a bridge is there to be told something."""
        return bridge in self._subscriptions

    async def acknowledge(self, request: AcknowledgeRequest) -> DoneReply:
        """A bridge has dealt with an event: it is erased.

        Raises:
            OperationError: it can't be stored; the bridge has to say so again.
        """
        await self._outbox.acknowledge(bytes.fromhex(request.id), request.outcome, request.detail)
        return DoneReply()

    async def ask(
        self, bridge: str, body: QuestionBody, timeout_s: float = QUESTION_TIMEOUT_S
    ) -> BridgeAnswerRequest:
        """Ask a bridge that is connected, and wait for its answer.

        Raises:
            OperationError: it is not connected, is asked too much, or doesn't answer in time.
        """
        subscription = self._subscriptions.get(bridge)
        if subscription is None:
            raise OperationError(
                f"the bridge {bridge} is not connected; montana status says how it does",
                "bridge_away",
                bridge=bridge,
            )
        asked = sum(question.bridge == bridge for question in self._questions.values())
        if asked >= QUESTIONS_MAXIMUM:
            raise OperationError(
                f"the bridge {bridge} is asked too much at a time; try again",
                "bridge_busy",
                bridge=bridge,
            )
        identity = self._clock.random_bytes(_ID_BYTES).hex()
        question = self._questions[identity] = _Question(bridge)
        now_ms = self._now_ms()
        expires_ms = now_ms + int(timeout_s * _MS_PER_S)
        try:
            subscription.send(
                Event(id=identity, to="", created_ms=now_ms, expires_ms=expires_ms, body=body)
            )
            with trio.move_on_after(timeout_s):
                await question.answered.wait()
        finally:
            del self._questions[identity]
        if question.answer is None:
            raise OperationError(
                f"the bridge {bridge} has not answered; montana status says how it does",
                "bridge_silent",
                bridge=bridge,
            )
        return question.answer

    def answer(self, request: BridgeAnswerRequest) -> DoneReply:
        """A bridge has answered a question; one that nobody waits for any more is forgotten."""
        question = self._questions.get(request.id)
        if question is not None and question.answer is None:
            question.answer = request
            question.answered.set()
        return DoneReply()

    def figures(self) -> dict[str, int]:
        """How many events wait, for how long the oldest has, and what has become of others."""
        oldest = [one for queue in self._queues.values() if (one := queue.oldest_ms) is not None]
        age_ms = max(0, self._now_ms() - min(oldest)) if oldest else 0
        outcomes = self._outbox.outcomes()
        return {
            "events": sum(map(len, self._queues.values())),
            "oldest_s": age_ms // _MS_PER_S,
            **{
                name: outcomes.get(name, 0)
                for name in ("done", "failed", "unknown", "expired", "dropped")
            },
        }

    def _queue(self, bridge: str) -> EventQueue:
        return self._queues.setdefault(bridge, EventQueue())

    def _take_up(self) -> None:
        """Follow the outbox, and give what can be given now."""
        changed: set[str] = set()
        for change in self._outbox.take_changes():
            if isinstance(change, Waiting):
                self._queue(change.bridge).add(change)
                changed.add(change.bridge)
            else:
                for bridge, queue in self._queues.items():
                    if queue.remove(change):
                        changed.add(bridge)
        for bridge in changed & self._subscriptions.keys():
            self._give(self._subscriptions[bridge])

    def _give(self, subscription: Subscription) -> None:
        queue, now_ms = subscription.queue, self._now_ms()
        given: list[Waiting] = []
        while queue.given < subscription.window:
            waiting = queue.next(now_ms)
            if waiting is None:
                break
            given.append(waiting)
        if not given:
            return
        try:
            events = self._outbox.read(given)
        except OperationError as error:
            _log.error("events could not be read, and wait: %s", error)
            queue.give_back()
        else:
            for event in events:
                subscription.send(event)

    async def _sweep(self) -> None:
        now_ms = self._now_ms()
        for queue in list(self._queues.values()):
            while stale := queue.take_stale(now_ms, SWEPT_AT_A_TIME):
                try:
                    await self._outbox.expire(stale)
                except OperationError as error:
                    queue.keep_stale(stale)
                    _log.warning("stale events could not be erased, and stay for now: %s", error)
                    return

    def _now_ms(self) -> int:
        return int(self._clock.unix_s() * _MS_PER_S)
