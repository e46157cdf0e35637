"""Answers that were too late for the response: SMS of their own, which a person gets in order.

One that has to wait keeps nobody else waiting: neither other people, nor what its own recipient has
to say meanwhile.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from typing import Final, NamedTuple

import trio

from bridges.node_link import NodeLink
from bridges.twilio.advice import OPTED_OUT
from bridges.twilio.carrier import Accepted, Again, BackOff, Carrier, Refused, is_e164, parts
from bridges.twilio.figures import Figures
from core.api.bridge_messages import SmsOptOutRequest
from core.clock import Clock
from core.errors import ApiError, OperationError
from core.log import log_event

AT_ONCE_MAXIMUM: Final = 16
"""Requests to carriers."""
LIFETIME_S: Final = 24 * 3600
"""From when on an answer would surprise more than help."""
OPT_OUT_TIMEOUT_S: Final = 30.0
OPTED_OUT_MAXIMUM: Final = 100
"""Of whom the node is told at the same time."""
SENT_LIFETIME_S: Final = 900.0
SENT_MAXIMUM: Final = 10_000
"""How long, and of how many, it is known that they were answered so: a carrier that has not got the
response may ask again."""

_log = logging.getLogger("montana.bridge.twilio")


class Way(NamedTuple):
    """A way out, and what it says of itself."""

    carrier: Carrier
    figures: Figures


class _Answer:
    """What is left of an answer to the message `key`."""

    __slots__ = ("back_off", "key", "parts", "received_ms", "sim_number", "way")

    def __init__(
        self, key: str, way: str, text: str, received_ms: int, sim_number: int | None
    ) -> None:
        self.key = key
        self.way = way
        self.parts = deque(parts(text))
        self.received_ms = received_ms
        self.sim_number = sim_number
        self.back_off = BackOff()


class LateAnswers:
    """Those that wait to be sent.

    Args:
        ways: by which they go, under the names of the ways that messages come.
        on_done: called with a message's key when nothing more is sent to it.
    """

    def __init__(
        self,
        node: NodeLink,
        clock: Clock,
        ways: Mapping[str, Way],
        on_done: Callable[[str], None],
    ) -> None:
        self._node = node
        self._clock = clock
        self._ways = ways
        self._on_done = on_done
        self._waiting: dict[str, deque[_Answer]] = {}
        """By number, the first one first."""
        self._ready: deque[str] = deque()
        self._resting: list[tuple[float, str]] = []
        """When those numbers are tried again, by trio's clock; a heap."""
        self._sending = 0
        self._has_changed = trio.Event()
        self._sent: OrderedDict[str, float] = OrderedDict()
        self._opted_out: set[str] = set()
        """Of whom the node is being told."""
        self._nursery: trio.Nursery

    def put(
        self,
        key: str,
        number: str,
        text: str,
        *,
        way: str,
        received_ms: int,
        sim_number: int | None,
    ) -> None:
        """Send an answer to the message `key`, which has come `received_ms` after 1970 began."""
        if not is_e164(number):
            log_event(_log, logging.INFO, "an SMS from a name has no answer")
            self._on_done(key)
            return
        waiting = self._waiting.get(number)
        if waiting is None:
            waiting = self._waiting[number] = deque()
            self._ready.append(number)
            self._has_changed.set()
        waiting.append(_Answer(key, way, text, received_ms, sim_number))

    def was_sent(self, key: str) -> bool:
        """Whether the message `key` was answered so, a short while ago."""
        sent_s = self._sent.get(key)
        return sent_s is not None and self._clock.unix_s() - sent_s < SENT_LIFETIME_S

    async def run(self) -> None:
        """Send until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            while True:
                self._has_changed = trio.Event()
                while self._resting and self._resting[0][0] <= trio.current_time():
                    self._ready.append(heappop(self._resting)[1])
                while self._ready and self._sending < AT_ONCE_MAXIMUM:
                    self._sending += 1
                    nursery.start_soon(self._send_first, self._ready.popleft())
                next_s = self._resting[0][0] if self._resting else float("inf")
                with trio.move_on_at(next_s):
                    await self._has_changed.wait()

    async def _send_first(self, number: str) -> None:
        waiting = self._waiting[number]
        rest_s = await self._send(number, waiting[0])
        if rest_s is not None:
            heappush(self._resting, (trio.current_time() + rest_s, number))
        else:
            self._on_done(waiting.popleft().key)
            if waiting:
                self._ready.append(number)
            else:
                del self._waiting[number]
        self._sending -= 1
        self._has_changed.set()

    async def _send(self, number: str, answer: _Answer) -> float | None:
        """Send what is left of one; after how many seconds it has to be tried again, None for
        never."""
        carrier, figures = self._ways[answer.way]
        while answer.parts:
            left_s = LIFETIME_S - (self._clock.unix_s() - answer.received_ms / 1000)
            if left_s <= 0:
                self._lose(figures, "it is too late for it")
                return None
            outcome = await carrier.send(
                number, answer.parts[0], None, lifetime_s=left_s, sim_number=answer.sim_number
            )
            if isinstance(outcome, Again):
                figures.advise(outcome.advice)
                log_event(_log, logging.WARNING, "an answer has to wait", reason=outcome.detail)
                return answer.back_off.next_s(outcome.after_s)
            if not isinstance(outcome, Accepted):
                self._lose(figures, outcome.detail)
                if isinstance(outcome, Refused) and outcome.code == OPTED_OUT:
                    self._has_opted_out(number)
                return None
            figures.advise("")
            figures.count("answered_by_sms")
            answer.parts.popleft()
            answer.back_off = BackOff()
        self._sent[answer.key] = self._clock.unix_s()
        if len(self._sent) > SENT_MAXIMUM:
            self._sent.popitem(last=False)
        return None

    def _lose(self, figures: Figures, reason: str) -> None:
        figures.count("answers_lost")
        log_event(_log, logging.WARNING, "an answer was not sent", reason=reason)

    def _has_opted_out(self, number: str) -> None:
        """Have the node told: or they would go on paying for answers that they never get."""
        if number not in self._opted_out and len(self._opted_out) < OPTED_OUT_MAXIMUM:
            self._opted_out.add(number)
            self._nursery.start_soon(self._tell_opted_out, number)

    async def _tell_opted_out(self, number: str) -> None:
        try:
            await self._node.try_request(
                SmsOptOutRequest(number, True), timeout_s=OPT_OUT_TIMEOUT_S
            )
        except (OperationError, ApiError) as error:
            # The next answer will be refused as well.
            log_event(_log, logging.WARNING, "an opt-out could not be told", reason=error)
        finally:
            self._opted_out.discard(number)
