"""What the node has told in chats, without processes: its events come from a test."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from bridges.spool import open_spool
from bridges.telegram import notices, table
from bridges.telegram.notices import Notices
from bridges.telegram.people import People
from bridges.telegram.rings import Rings
from core.api.bridge_messages import (
    AlarmBody,
    Event,
    EventBody,
    InitDataBody,
    RingBody,
    RingOverBody,
)
from core.clock import SystemClock
from core.log import RepeatedEvent, TextFormatter
from tests.support.bot_api import WAIT_S, BotApi, FakePerson, bot_api
from tests.support.telegram_desk import CALL, FullSpool, TelegramDesk, call_side, telegram_desk

RING = RingBody(call=CALL, caller="tg:12", kind="voice", url=call_side("ringing").url)
OVER = RingOverBody(CALL, "missed", 0)
RINGS = "📞 tg:12 calls you: voice."
SECRET = "what nobody else may read"
MISSED = "📞 tg:12: missed."


class Events:
    """What the node tells the bridge, and what it hears of that.

    Attributes:
        outcomes: of events, in the order in which they were acknowledged.
    """

    def __init__(self, world: TelegramDesk) -> None:
        self.outcomes: list[tuple[str, str, str]] = []
        self._give, self._events = anyio.create_memory_object_stream[Event](10)
        self._changed = anyio.Event()
        world.node.acknowledge = self._acknowledge  # type: ignore[method-assign]
        world.node.events = self._told  # type: ignore[method-assign]

    def tell(self, name: str, body: EventBody, *, to: str = "tg:11") -> None:
        """Have the node tell something."""
        self._give.send_nowait(
            Event(id=name, to=to, created_ms=1, expires_ms=2**52, body=body),
        )

    async def heard(self, count: int) -> None:
        """Wait until so many were acknowledged."""
        with anyio.fail_after(WAIT_S):
            while len(self.outcomes) < count:
                await self._changed.wait()

    async def _acknowledge(self, event: str, outcome: str = "done", detail: str = "") -> None:
        self.outcomes.append((event, outcome, detail))
        self._changed.set()
        self._changed = anyio.Event()

    async def _told(self) -> AsyncIterator[Event]:
        async for event in self._events:
            yield event


@asynccontextmanager
async def told(world: TelegramDesk) -> AsyncIterator[Events]:
    """A bridge's insides that tell what the node has to tell."""
    events = Events(world)
    clock = SystemClock()
    forgeries = RepeatedEvent(logging.getLogger(__name__), "forged", clock)
    telling = Notices(world.desk, world.node, clock, b"secret", forgeries)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(telling.run)
        yield events
        tasks.cancel_scope.cancel()


Use = Callable[[BotApi, FakePerson, TelegramDesk, FullSpool], Awaitable[None]]


def run(folder: Path, use: Use) -> None:
    async def main(api: BotApi) -> None:
        alice = api.person(11, "Alice", "alice_a", "en")
        alice.has_started = True
        with open_spool(folder) as opened:
            spool = FullSpool(opened)
            async with telegram_desk(api, spool) as world:
                await use(api, alice, world, spool)

    with bot_api() as api:
        anyio.run(main, api, backend="asyncio")
        assert api.problems == []
        assert api.slowed == 0


async def asked(api: BotApi, method: str, count: int = 1) -> None:
    """Wait until the Bot API was asked so often."""
    with anyio.fail_after(WAIT_S):
        while len(api.called(method)) < count:
            await anyio.sleep(0.01)


def test_a_ring_that_ends_while_its_message_waits_says_so(tmp_path: Path) -> None:
    async def use(api: BotApi, alice: FakePerson, world: TelegramDesk, spool: FullSpool) -> None:
        async with told(world) as events:
            api.fail("sendMessage", "429")
            events.tell("ring", RING)
            await asked(api, "sendMessage")
            events.tell("over", OVER)
            await events.heard(1)
            assert events.outcomes == [("over", "done", "")]
            assert alice.messages == []
            await events.heard(2)
            assert events.outcomes[1] == ("ring", "done", "")
        (message,) = alice.messages
        assert (message.text, message.buttons) == (MISSED, [])

    run(tmp_path, use)


def test_a_call_that_is_known_to_be_over_does_not_ring(tmp_path: Path) -> None:
    async def use(api: BotApi, alice: FakePerson, world: TelegramDesk, spool: FullSpool) -> None:
        # The callee has asked for it before it rang.
        await world.desk.rings.expect(CALL, "tg:12")
        async with told(world) as events:
            events.tell("over", OVER)
            await events.heard(1)
            events.tell("ring", RING)
            await events.heard(2)
            assert events.outcomes == [("over", "done", ""), ("ring", "done", "")]
            assert api.called("sendMessage") == []

    run(tmp_path, use)


def test_a_ring_that_the_node_tells_of_twice_is_one_message(tmp_path: Path) -> None:
    async def use(api: BotApi, alice: FakePerson, world: TelegramDesk, spool: FullSpool) -> None:
        async with told(world) as events:
            for count in (1, 2):
                events.tell("ring", RING)
                await events.heard(count)
            assert alice.texts() == [RINGS]
            events.tell("over", OVER)
            await events.heard(3)
            assert alice.texts() == [MISSED]

    run(tmp_path, use)


def test_a_ring_is_written_once_however_often_the_disk_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "FULL_RETRY_S", 0.01)

    async def use(api: BotApi, alice: FakePerson, world: TelegramDesk, spool: FullSpool) -> None:
        async with told(world) as events:
            # What can't be remembered isn't written.
            await refused(spool, lambda: True, lambda: events.tell("ring", RING))
            assert api.called("sendMessage") == []
            # It can be now, and what was written then can't.
            await refused(spool, lambda: bool(alice.messages))
            assert alice.texts() == [RINGS]
            assert events.outcomes == []
            spool.refuses = lambda _: False
            await events.heard(1)
            # Nor can, at first, that it is over; and then, that its message says so.
            await refused(spool, lambda: True, lambda: events.tell("over", OVER))
            await refused(spool, lambda: alice.messages[0].edits > 0)
            assert len(events.outcomes) == 1
            spool.refuses = lambda _: False
            await events.heard(2)
        (message,) = alice.messages
        assert (message.text, message.buttons, message.edits) == (MISSED, [], 1)
        stored = Rings(spool, world.out, world.desk.people)
        assert stored.has_rung(CALL)
        assert stored.is_over(CALL)

    run(tmp_path, use)


async def refused(
    spool: FullSpool, refuses: Callable[[], bool], do: Callable[[], None] = lambda: None
) -> None:
    """Have rings not stored when this is so, and wait until that has come to pass three times."""
    spool.refuses = lambda change: change.kind == "ring" and refuses()
    before = spool.refused
    do()
    with anyio.fail_after(WAIT_S):
        while spool.refused < before + 3:
            await anyio.sleep(0.01)


def test_a_notice_that_fails_unforeseen_is_written_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(api: BotApi, alice: FakePerson, world: TelegramDesk, spool: FullSpool) -> None:
        whole = api.do_sendMessage

        def without_date(form: dict[str, str]) -> dict[str, object]:
            message = whole(form)
            return {name: message[name] for name in ("message_id", "chat", "text")}

        async with told(world) as events:
            monkeypatch.setattr(api, "do_sendMessage", without_date)
            events.tell("first", AlarmBody(SECRET))
            await events.heard(1)
            assert events.outcomes == [("first", "failed", "unforeseen")]
            monkeypatch.setattr(api, "do_sendMessage", whole)
            events.tell("second", AlarmBody("that is all"))
            await events.heard(2)
            assert events.outcomes[1] == ("second", "done", "")
        first, second = alice.texts()
        assert SECRET in first
        assert "that is all" in second

    run(tmp_path, use)
    log = logged(caplog)
    assert log.count("a notice could not be told error=KeyError kind=AlarmBody") == 1
    assert "in send_message" in log
    assert SECRET not in log


def test_initdata_that_is_judged_unforeseen_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> int:
        raise KeyError(SECRET)

    monkeypatch.setattr(notices, "check_untrusted", fails)

    async def use(api: BotApi, alice: FakePerson, world: TelegramDesk, spool: FullSpool) -> None:
        async with told(world) as events:
            events.tell("question", InitDataBody(SECRET))
            events.tell("alarm", AlarmBody("that is all"))
            await events.heard(1)
            assert events.outcomes == [("alarm", "done", "")]

    run(tmp_path, use)
    log = logged(caplog)
    assert log.count("a question could not be answered error=KeyError kind=InitDataBody") == 1
    assert SECRET not in log


def test_who_has_blocked_the_bot_is_known_as_soon_as_the_disk_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "FULL_RETRY_S", 0.01)

    async def use(api: BotApi, alice: FakePerson, world: TelegramDesk, spool: FullSpool) -> None:
        alice.has_blocked = True
        async with told(world) as events:
            spool.refuses = lambda change: change.kind == "person"
            events.tell("alarm", AlarmBody("that is all"))
            with anyio.fail_after(WAIT_S):
                while spool.refused < 3:
                    await anyio.sleep(0.01)
            spool.refuses = lambda _: False
            await events.heard(1)
            assert events.outcomes == [("alarm", "failed", "blocked")]
        assert People(spool).of(11).blocked
        assert len(api.called("sendMessage")) == 1

    run(tmp_path, use)


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """The log as it is written."""
    return "\n".join(TextFormatter().format(record) for record in caplog.records)
