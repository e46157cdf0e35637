"""What Telegram is told was received is on the disk, also where it tells of it twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from bridges.spool import Spool, SpoolFull, open_spool
from bridges.telegram.intake import Intake
from bridges.telegram.updates import Incoming, Person

pytestmark = pytest.mark.trio


class World:
    """An intake, and what has come of each call of `take`."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.done: list[int] = []
        self.outcomes: dict[str, str] = {}
        self.intake = Intake(spool, self._carry_out, self._tell_too_many, self._tell_failed)

    async def take(self, name: str, *numbers: int) -> None:
        try:
            await self.intake.take([update(number) for number in numbers])
        except SpoolFull:
            self.outcomes[name] = "failed"
        else:
            self.outcomes[name] = "taken"
            assert self.stored >= set(numbers)

    @property
    def stored(self) -> set[int]:
        return {int(key) for key, _ in self.spool.items("update")}

    async def _carry_out(self, incoming: Incoming) -> None:
        self.done.append(incoming.update)

    async def _tell_too_many(self, incoming: Incoming, count: int) -> None:
        raise AssertionError(f"{count} of chat {incoming.chat} were too many")

    async def _tell_failed(self, incoming: Incoming, is_again: bool) -> None:
        raise AssertionError(f"{incoming.update} has failed, {is_again=}")


def update(number: int) -> Incoming:
    return Incoming(update=number, kind="text", chat=7, is_private=True, sender=Person(7))


@contextlib.contextmanager
def held(spool: Spool) -> Iterator[None]:
    """Meanwhile no commit of the spool's begins: somebody else is writing."""
    with spool._environment.begin(write=True):
        yield


async def test_what_comes_twice_waits_for_the_commit_of_the_first(tmp_path: Path) -> None:
    with open_spool(tmp_path) as spool:
        world = World(spool)
        async with trio.open_nursery() as nursery:
            with held(spool):
                nursery.start_soon(world.take, "first", 1)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(world.take, "again", 1)
                nursery.start_soon(world.take, "with another", 1, 2)
                await trio.testing.wait_all_tasks_blocked()
                assert world.outcomes == {}
                assert world.stored == set()
        assert world.outcomes == dict.fromkeys(("first", "again", "with another"), "taken")
        assert world.intake.taken == 2
        await run_until(world, [1, 2])
        # Also when it has been carried out.
        await world.intake.take([update(1), update(2)])
        assert world.intake.taken == 2


async def test_what_comes_twice_fails_with_the_first(tmp_path: Path) -> None:
    with open_spool(tmp_path) as opened:
        await opened.put("other", "1", b"")
        spool = Spool(opened._environment, entries_maximum=1)
        world = World(spool)
        async with trio.open_nursery() as nursery:
            with held(spool):
                nursery.start_soon(world.take, "first", 1)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(world.take, "again", 1)
                await trio.testing.wait_all_tasks_blocked()
                assert world.outcomes == {}
        assert world.outcomes == {"first": "failed", "again": "failed"}
        assert len(world.intake) == 0
        await spool.delete("other", "1")
        await world.take("once more", 1)
        assert world.outcomes["once more"] == "taken"
        await run_until(world, [1])


async def test_what_is_stored_while_the_bridge_ends_is_for_its_next_start(tmp_path: Path) -> None:
    with open_spool(tmp_path) as spool:
        ending = World(spool)
        async with trio.open_nursery() as nursery, trio.open_nursery() as running:
            running.start_soon(ending.intake.run)
            await trio.testing.wait_all_tasks_blocked()
            with held(spool):
                nursery.start_soon(ending.take, "late", 1)
                await trio.testing.wait_all_tasks_blocked()
                running.cancel_scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
        assert (ending.outcomes, ending.done) == ({"late": "taken"}, [])
        await run_until(World(spool), [1])


async def run_until(world: World, done: list[int]) -> None:
    """Have what was taken carried out."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.intake.run)
        while world.done != done or len(world.intake):
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    assert world.stored == set()
