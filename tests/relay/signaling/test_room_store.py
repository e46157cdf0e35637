"""Rooms on the disk: there again after a kill, gone when they have ended, beside a clean ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from billing.audit import verify
from billing.ledger import LmdbLedger, open_ledger
from billing.tables import ROOMS
from core.clock import VirtualClock
from core.tables import Writing
from core.units import NS_PER_S
from relay.signaling.messages import CreateRoom, HangUp, JoinRoom, Resume
from relay.signaling.room import Enter
from relay.signaling.room_billing import FreeQuota, Payment
from relay.signaling.room_store import RoomStore
from relay.signaling.rooms import ROOMS_MAXIMUM, Rooms
from tests.support.room_pages import no_quota

pytestmark = pytest.mark.trio

NOW_NS = 1_800_000_000 * NS_PER_S


def new_rooms() -> Rooms:
    return Rooms(VirtualClock(), no_quota)


def open_at(folder: Path) -> LmdbLedger:
    return open_ledger(folder / "ledger", VirtualClock(), map_bytes=1 << 28)


def stored(ledger: LmdbLedger) -> int:
    with ledger.store.read() as tables:
        return tables.count(ROOMS)


async def test_a_room_is_there_again(tmp_path: Path) -> None:
    rooms = new_rooms()
    seat, (entered, _) = rooms.create(CreateRoom(1, "Alice"), NOW_NS)
    assert isinstance(entered, Enter)
    with open_at(tmp_path) as ledger:
        head = ledger.head
        await RoomStore(ledger.store).write({seat.room: rooms.export(seat.room)})
        # The log tells nothing of it.
        assert ledger.head == head
    with open_at(tmp_path) as ledger:
        again = new_rooms()
        await RoomStore(ledger.store).restore(again, NOW_NS, host_pays=False)
        back, _ = again.resume_untrusted(Resume(2, entered.session), NOW_NS)
        assert back == seat
        assert entered.invitation is not None
        assert again.join_untrusted(JoinRoom(3, entered.invitation), NOW_NS)[0].room == seat.room
        assert (await verify(ledger)).problems == []


async def test_nothing_is_left_of_a_room_that_has_ended(tmp_path: Path) -> None:
    rooms = new_rooms()
    seat, _ = rooms.create(CreateRoom(1), NOW_NS)
    with open_at(tmp_path) as ledger:
        store = RoomStore(ledger.store)
        await store.write({seat.room: rooms.export(seat.room)})
        rooms.act_untrusted(seat, HangUp(2), NOW_NS)
        await store.write({seat.room: rooms.export(seat.room)})
        assert stored(ledger) == 0
        # One that was never stored is none as well.
        await store.write({"a": None})
        assert stored(ledger) == 0


async def test_what_can_t_be_taken_up_is_removed(tmp_path: Path) -> None:
    rooms = new_rooms()
    paid, _ = rooms.create(CreateRoom(1), NOW_NS, Payment(7, bytes(16), NOW_NS))
    good, _ = rooms.create(CreateRoom(1), NOW_NS)
    records: dict[str, bytes | None] = {room: rooms.export(room) for room in (paid.room, good.room)}
    with open_at(tmp_path) as ledger:
        store = RoomStore(ledger.store)
        await store.write({**records, "spoilt": b"\xc1"}, FreeQuota.export(_used()))
        again = new_rooms()
        await store.restore(again, NOW_NS, host_pays=False)
        assert [room.id for room in again] == [good.room]
        # The room, and the quota.
        assert stored(ledger) == 2
        assert store.quota() == _used().export()


async def test_no_more_are_taken_up_than_there_may_be(tmp_path: Path) -> None:
    rooms = new_rooms()
    seat, _ = rooms.create(CreateRoom(1), NOW_NS)
    with open_at(tmp_path) as ledger:
        record = rooms.export(seat.room)
        assert record is not None

        def fill(writing: Writing) -> None:
            for number in range(ROOMS_MAXIMUM + 500):
                writing.put(ROOMS, b"room %05d" % number, record)

        await ledger.store.write(fill)
        again = new_rooms()
        await RoomStore(ledger.store).restore(again, NOW_NS, host_pays=False)
        # They all say that they are the same one.
        assert len(again) == 1
        assert stored(ledger) == 1


async def test_an_empty_store_has_nothing(tmp_path: Path) -> None:
    with open_at(tmp_path) as ledger:
        store = RoomStore(ledger.store)
        rooms = new_rooms()
        await store.restore(rooms, NOW_NS, host_pays=True)
        await store.write({})
        assert (len(rooms), store.quota()) == (0, None)


def _used() -> FreeQuota:
    quota = FreeQuota(minutes_per_day=10, people=10, now_ns=NOW_NS)
    quota.tick([], 2, NOW_NS + 60 * NS_PER_S)
    return quota
