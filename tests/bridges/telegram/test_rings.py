"""The messages in which a call rings, written by the real library: their buttons go when it is
over, whenever they came and whatever has failed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
from telegram import Bot

from bridges.spool import Spool, open_spool
from bridges.telegram.keyboards import ring_buttons
from bridges.telegram.outgoing import Outgoing
from bridges.telegram.people import People
from bridges.telegram.reachability import Reachability
from bridges.telegram.rings import Rings
from bridges.telegram.updates import Person
from core.clock import SystemClock
from tests.support.bot_api import BotApi, FakePerson, bot_api

CALL = "CALL-AAAAAAAA"
OVER = "📞 Alice: missed."


class World:
    """Rings of one bridge, in one chat."""

    def __init__(self, spool: Spool, bot: Bot) -> None:
        self.out = Outgoing(bot, SystemClock(), Reachability("https://api.example", lambda _: None))
        self.rings = Rings(spool, self.out, People(spool))

    async def ring(self, *, has_rung: bool = False) -> None:
        url = f"https://node.example/call?id={CALL}#secret"
        number = await self.out.send(12, "It rings", ring_buttons("en", CALL, url))
        await self.rings.add(CALL, 12, number, "Alice", has_rung=has_rung)


def run(folder: Path, use: Callable[[BotApi, FakePerson, Spool, Bot], Awaitable[None]]) -> None:
    async def main(api: BotApi) -> None:
        bob = api.person(12, "Bob", "bob_b", "en")
        bob.has_started = True
        with open_spool(folder) as spool:
            await People(spool).see(Person(12, language="en"))
            async with Bot(api.token, base_url=f"{api.url}/bot") as bot:
                await use(api, bob, spool, bot)

    with bot_api() as api:
        anyio.run(main, api, backend="asyncio")
        assert api.problems == []
        assert api.slowed == 0


def test_all_copies_say_that_it_is_over_also_those_that_come_too_late(tmp_path: Path) -> None:
    async def use(api: BotApi, bob: FakePerson, spool: Spool, bot: Bot) -> None:
        world = World(spool, bot)
        # What the callee has asked for before it rings is no ring of the node's.
        await world.ring()
        assert not world.rings.has_rung(CALL)
        await world.ring(has_rung=True)
        assert world.rings.has_rung(CALL)
        assert [message.text for message in bob.messages] == ["It rings"] * 2
        async with anyio.create_task_group() as tasks:
            # Whoever rejects it is told at the same time that it is over.
            for status in ("missed", "rejected"):
                tasks.start_soon(world.rings.end, CALL, status, 0)
        await world.ring()
        assert [message.text for message in bob.messages] == [OVER] * 3
        assert not any(message.buttons for message in bob.messages)
        assert all(message.edits == 1 for message in bob.messages)
        await world.rings.end("CALL-BBBBBBBB", "missed", 0)

    run(tmp_path, use)


def test_what_is_over_before_its_message_was_taken_says_so_then(tmp_path: Path) -> None:
    async def use(api: BotApi, bob: FakePerson, spool: Spool, bot: Bot) -> None:
        world = World(spool, bot)
        await world.rings.expect(CALL, "Alice")
        assert not world.rings.has_rung(CALL)
        await world.rings.end(CALL, "missed", 0)
        await world.ring()
        (message,) = bob.messages
        assert (message.text, message.buttons) == (OVER, [])
        # What is known already stays.
        await world.rings.expect(CALL, "Somebody else")
        await world.ring()
        assert bob.messages[1].text == OVER

    run(tmp_path, use)


def test_the_next_process_goes_on_where_one_has_ended(tmp_path: Path) -> None:
    async def use(api: BotApi, bob: FakePerson, spool: Spool, bot: Bot) -> None:
        world = World(spool, bot)
        await world.ring(has_rung=True)
        await world.ring()
        # The first is changed, and that was not heard any more.
        api.fail("editMessageText", "lost")
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(world.rings.end, CALL, "missed", 0)
                while not bob.messages[0].edits:
                    await anyio.sleep(0.01)
                scope.cancel()
        assert [bool(message.buttons) for message in bob.messages] == [False, True]
        world = World(spool, bot)
        assert world.rings.has_rung(CALL)
        await world.rings.end(CALL, "missed", 0)
        assert [message.text for message in bob.messages] == [OVER] * 2
        assert [message.edits for message in bob.messages] == [1, 1]

    run(tmp_path, use)
