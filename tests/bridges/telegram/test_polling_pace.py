"""How often and from where on the Bot API is asked for updates, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import trio
import trio.testing
from telegram import Bot

from bridges.telegram import polling
from bridges.telegram.intake import Intake
from bridges.telegram.reachability import Reachability
from bridges.telegram.updates import Incoming
from core.clock import SystemClock
from core.units import NS_PER_S

Answer = Callable[[int], object]
KEPT = "kept"
"""A question that nothing answers, for as long as Telegram keeps it."""
WAY_S = 0.01
"""What any other answer takes."""


class TrioClock(SystemClock):
    """The time of trio's own clock, which tests let jump."""

    def monotonic_ns(self) -> int:
        return int(trio.current_time() * NS_PER_S)

    def unix_s(self) -> float:
        return trio.current_time()


class World:
    """A Bot API that answers as a test says, and what it was asked: when, from which offset on."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.asked: list[tuple[float, int]] = []

    async def do_api_request(
        self, _method: str, *, api_kwargs: dict[str, Any], read_timeout: float
    ) -> object:
        assert read_timeout > polling.TIMEOUT_S
        time_s = round(trio.current_time() - self._began_s, 3)
        self.asked.append((time_s, api_kwargs["offset"]))
        answer = self._answer(api_kwargs["offset"])
        await trio.sleep(polling.TIMEOUT_S if answer == KEPT else WAY_S)
        return [] if answer == KEPT else answer

    async def wait_for_room(self) -> None:
        return

    async def take(self, _updates: Sequence[Incoming]) -> None:
        return

    async def poll(self, duration_s: float) -> None:
        """Ask for so long."""
        self._began_s = trio.current_time()
        with trio.move_on_after(duration_s):
            await polling.poll(
                cast(Bot, self),
                cast(Intake, self),
                Reachability("https://api.example", lambda _: None),
                TrioClock(),
            )


def run(answer: Answer, duration_s: float) -> list[tuple[float, int]]:
    world = World(answer)
    trio.run(world.poll, duration_s, clock=trio.testing.MockClock(autojump_threshold=0))
    return world.asked


@pytest.mark.parametrize("answer", [[], {}, [{"update_id": "x"}], "nothing"])
def test_answers_that_bring_nothing_at_once_are_paused_after(answer: object) -> None:
    times = [time_s for time_s, _ in run(lambda _: answer, 10)]
    assert times == [round(number * (WAY_S + polling.RETRY_FIRST_S), 3) for number in range(20)]


def test_what_telegram_has_kept_for_its_time_is_asked_again_at_once() -> None:
    asked = run(lambda _: KEPT, 100)
    assert asked == [(number * polling.TIMEOUT_S, 0) for number in range(4)]


def test_what_brings_updates_is_asked_again_at_once() -> None:
    given = iter(range(1_000, 1_005))

    def answer(_: int) -> object:
        number = next(given, None)
        return KEPT if number is None else [{"update_id": number}]

    asked = run(answer, 1)
    offsets = [0, *range(1_001, 1_006)]
    assert asked == [(round(place * WAY_S, 3), offset) for place, offset in enumerate(offsets)]


def test_updates_are_found_that_are_numbered_anew_after_idle_days() -> None:
    waiting = [1_000]
    received: list[int] = []

    def answer(offset: int) -> object:
        # As Telegram does: what is below the offset is forgotten.
        waiting[:] = [number for number in waiting if number >= offset]
        if trio.current_time() - started[0] > 8 * 24 * 3600 and 17 not in received + waiting:
            waiting.append(17)
            received.append(17)
        return [{"update_id": number} for number in waiting] or KEPT

    started = [0.0]
    world = World(answer)

    async def main() -> None:
        started[0] = trio.current_time()
        await world.poll(9 * 24 * 3600)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    offsets = [offset for _, offset in world.asked]
    assert list(dict.fromkeys(offsets)) == [0, 1_001, 18]
    assert waiting == []
