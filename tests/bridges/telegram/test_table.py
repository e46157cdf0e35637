"""What a table has in memory is what it has on the disk, also where that takes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from bridges.spool import Change, SpoolFull, open_spool
from bridges.telegram.offers import Offers
from bridges.telegram.table import Table
from core.clock import SystemClock
from tests.support.telegram_desk import FullSpool

pytestmark = pytest.mark.trio


@contextlib.contextmanager
def full_spool(folder: Path) -> Iterator[FullSpool]:
    with open_spool(folder) as spool:
        yield FullSpool(spool)


def values(*refused: bytes) -> Callable[[Change], bool]:
    """Changes that put one of these values."""
    return lambda change: (change.value or b"")[8:] in refused and change.value is not None


def entries(table: Table) -> dict[str, bytes]:
    return dict(table)


async def test_what_was_not_stored_is_not_in_memory_either(tmp_path: Path) -> None:
    with full_spool(tmp_path) as spool:
        table = Table(spool, "one", 2)
        await table.put("old", b"1")
        await table.put("new", b"1")
        spool.refuses = values(b"2")
        for key in ("newest", "old"):
            with pytest.raises(SpoolFull):
                await table.put(key, b"2")
        assert entries(table) == {"old": b"1", "new": b"1"}
        assert entries(Table(spool, "one", 2)) == entries(table)
        spool.refuses = values()
        await table.put("newest", b"2")
        assert len(table) == 2
        assert table.get("newest") == b"2"
        assert entries(Table(spool, "one", 2)) == entries(table)


async def test_the_oldest_that_had_to_go_for_what_was_not_stored_is_the_oldest_again(
    tmp_path: Path,
) -> None:
    with full_spool(tmp_path) as spool:
        table = Table(spool, "one", 2)
        await table.put("old", b"1")
        await table.put("new", b"1")
        spool.refuses = values(b"2")
        with pytest.raises(SpoolFull):
            await table.put("newest", b"2")
        assert list(table) == [("old", b"1"), ("new", b"1")]
        await table.put("newest", b"3")
        assert list(table) == [("new", b"1"), ("newest", b"3")]


@pytest.mark.parametrize(
    ("refused", "left"),
    [((b"a",), b"ab"), ((b"ab",), b"a"), ((b"a", b"ab"), b""), ((), b"ab")],
)
async def test_changes_beside_each_other_end_with_what_the_disk_has(
    tmp_path: Path, refused: tuple[bytes, ...], left: bytes
) -> None:
    outcomes: list[str] = []

    async def put(value: bytes) -> None:
        try:
            await table.put("key", value)
        except SpoolFull:
            outcomes.append(f"{value!r} failed")

    with full_spool(tmp_path) as spool:
        table = Table(spool, "one", 2)
        await table.put("key", b"")
        spool.refuses = values(*refused)
        async with trio.open_nursery() as nursery:
            # The first waits for the disk, so that the second is under way beside it.
            with spool._environment.begin(write=True):
                nursery.start_soon(put, b"a")
                await trio.testing.wait_all_tasks_blocked()
                assert table.get("key") == b"a"
                nursery.start_soon(put, b"ab")
                await trio.testing.wait_all_tasks_blocked()
                assert table.get("key") == b"ab"
        assert sorted(outcomes) == [f"{value!r} failed" for value in refused]
        assert entries(table) == entries(Table(spool, "one", 2)) == {"key": left}


async def test_a_choice_that_was_not_stored_can_be_made_anew(tmp_path: Path) -> None:
    with full_spool(tmp_path) as spool:
        clock = SystemClock()
        offers = Offers(spool, clock, 4242)
        token = await offers.make(1, 11, "tg:12", "Boris", "5")
        offer = offers.get(token)
        assert offer is not None
        spool.refuses = lambda _: True
        with pytest.raises(SpoolFull):
            await offers.choose(token, offer, "send")
        assert offers.get(token) == offer
        spool.refuses = values()
        await offers.choose(token, offer, "send")
        stored = Offers(spool, clock, 4242).get(token)
        assert stored is not None
        assert stored.chosen == "send"
