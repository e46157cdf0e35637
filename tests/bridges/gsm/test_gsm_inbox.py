"""What was received, over days in virtual time and with a spool and a node that refuse."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import lmdb
import pytest
import trio
from trio.testing import MockClock

from bridges.gsm import inbox as inbox_module
from bridges.gsm.alphabet import Alphabet, encode_ucs2
from bridges.gsm.inbox import (
    BODY_MAXIMUM_CHARACTERS,
    SEEN_LIFETIME_S,
    UNTIMED_LIFETIME_S,
    Inbox,
)
from bridges.gsm.pdu import Deliver, Part
from bridges.gsm.reassembly import PARTS_LIFETIME_S
from bridges.spool import Change, Spool, SpoolFull
from core.api.bridge_messages import SmsReceivedRequest
from core.clock import VirtualClock
from core.errors import OperationError
from core.units import DAY_S
from tests.support.gsm_world import PERSON, GsmWorld, gsm_world
from tests.support.modem_faults import ReportStore

pytestmark = pytest.mark.trio


def message(
    text: str,
    part: Part | None = None,
    *,
    to_port: bool = False,
    sent_s: int | None = 1_800_000_000,
) -> Deliver:
    content = encode_ucs2(text)
    tpdu = repr((part, text)).encode()
    return Deliver(PERSON, Alphabet.UCS2, content, sent_s, part, to_port, tpdu)


class Desk:
    """An inbox with its clock, and what it wants sent."""

    def __init__(self, world: GsmWorld) -> None:
        self.world = world
        self.clock = VirtualClock()
        self.answers: list[tuple[str, str, str]] = []
        self.inbox = Inbox(replace(world.context(), clock=self.clock), {"sim0": "+7000"})

    async def reply_to(self, sim: str, to: str, text: str, _: str, taken: Change) -> None:
        await self.world.spool.change(taken)
        self.answers.append((sim, to, text))


@asynccontextmanager
async def desk(folder: Path, clock: MockClock) -> AsyncIterator[Desk]:
    async with gsm_world(folder, clock, starts=False) as world, trio.open_nursery() as nursery:
        made = Desk(world)
        await made.inbox.load()
        nursery.start_soon(made.inbox.run, made.reply_to)
        yield made
        nursery.cancel_scope.cancel()


def has_texts(made: Desk, count: int) -> bool:
    return len(made.world.texts) == count


async def test_a_message_is_handed_on_once_and_answered(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with desk(tmp_path, mock_clock) as made:
        made.world.node.reply = lambda one: one.body.upper()
        assert await made.inbox.keep("sim0", [message("bal")])
        assert not await made.inbox.keep("sim0", [message("bal")])
        assert await made.inbox.keep("sim1", [message("bal")])
        await made.world.until(lambda: len(made.answers) == 2)
        assert made.answers == [("sim0", PERSON, "BAL"), ("sim1", PERSON, "BAL")]
        first, second = made.world.node.messages
        assert (first.recipient, second.recipient) == ("+7000", "sim1")
        assert first.message_id != second.message_id
        assert made.inbox.doubled == 1
        assert made.inbox.waiting == 0


async def test_what_comes_at_once_is_stored_in_one_commit_and_in_its_order(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with desk(tmp_path, mock_clock) as made:
        made.world.node.online = trio.Event()
        await made.inbox.keep("sim0", [message("before")])
        commits = made.world.spool._environment.info()["last_txnid"]
        listed = [message(f"number {number}") for number in range(30)]
        again = [message("before"), listed[3]]
        assert await made.inbox.keep("sim0", [*listed, *again]) == 30
        assert made.world.spool._environment.info()["last_txnid"] == commits + 1
        assert made.inbox.doubled == 2
        later = Inbox(made.world.context(), {})
        await later.load()
        assert [one.body for one in later._waiting.values()] == [
            "before",
            *(f"number {number}" for number in range(30)),
        ]
        assert await later.keep("sim0", listed) == 0


async def test_parts_that_stay_away_are_given_up_after_a_day(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with desk(tmp_path, mock_clock) as made:
        await made.inbox.keep("sim0", [message("SEND +79990000000 1", Part(1, 2, 1))])
        made.clock.advance_s(PARTS_LIFETIME_S - 1)
        await made.world.pass_s(130)
        assert made.world.texts == []
        made.clock.advance_s(2)
        await made.world.until(lambda: made.world.texts)
        assert made.world.texts == ["SEND +79990000000 1 [...] "]
        assert made.world.spool.items("part") == []


async def test_what_was_seen_is_forgotten_after_days_unless_it_is_seen_again(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with desk(tmp_path, mock_clock) as made:
        await made.inbox.keep("sim0", [message("stuck")])
        for number in range(10):
            await made.inbox.keep("sim0", [message(f"number {number}")])
        for day in range(20):
            made.clock.advance_s(DAY_S)
            assert not await made.inbox.keep("sim0", [message("stuck")])
            await made.inbox.keep("sim0", [message(f"day {day}")])
        assert len(made.world.spool.items("seen")) <= 2 + SEEN_LIFETIME_S / DAY_S
        await made.world.until(lambda: len(made.world.texts) == 31)
        assert made.world.texts.count("stuck") == 1


async def test_equal_texts_without_a_time_are_one_for_minutes_only(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with desk(tmp_path, mock_clock) as made:
        bal = message("BAL", sent_s=None)
        long = [message("y" * 67, Part(1, 2, number), sent_s=None) for number in (1, 2)]
        for hour in range(1, 4):
            # Directly, and stored; then in a store that can't be emptied for half an hour.
            assert await made.inbox.keep("sim0", [bal, *long]) == 3
            for _ in range(30):
                made.clock.advance_s(60)
                assert await made.inbox.keep("sim0", [bal, *long]) == 0
            await made.world.until(partial(has_texts, made, 2 * hour))
            made.clock.advance_s(UNTIMED_LIFETIME_S + 1)
        assert sorted(made.world.texts) == ["BAL"] * 3 + ["y" * 134] * 3
        assert len({one.message_id for one in made.world.node.messages}) == 6
        assert made.world.spool.items("part") == []
        # What lies in a store while no bridge runs is still the same when one does.
        await made.inbox.keep("sim0", [bal])
        made.clock.advance_s(DAY_S)
        later = Inbox(replace(made.world.context(), clock=made.clock), {})
        await later.load()
        made.clock.advance_s(30)
        assert await later.keep("sim0", [bal]) == 0
        made.clock.advance_s(UNTIMED_LIFETIME_S + 1)
        assert await later.keep("sim0", [bal]) == 1


async def test_marks_are_bounded(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "SEEN_MAXIMUM", 10)
    async with desk(tmp_path, mock_clock) as made:
        for number in range(30):
            await made.inbox.keep("sim0", [message(f"number {number}")])
        assert len(made.world.spool.items("seen")) == 10
        assert not await made.inbox.keep("sim0", [message("number 29")])


async def test_what_cannot_be_read_is_kept_and_bounded(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "BROKEN_MAXIMUM", 5)
    async with desk(tmp_path, mock_clock) as made:
        for number in range(8):
            made.clock.advance_s(1)
            await made.inbox.keep_broken("sim0", f"{number:04d}", "no message")
        made.clock.advance_s(1)
        assert await made.inbox.keep("sim0", [message("push", to_port=True)])
        kept = [value for _, value in made.world.spool.items("broken")]
        assert kept == [b"0004", b"0005", b"0006", b"0007", message("push").tpdu.hex().encode()]
        assert made.inbox.broken == 5
        assert made.world.texts == []


def drafts(sim: str, count: int) -> list[str]:
    return [f"{sim} {number}".encode().hex() for number in range(count)]


async def test_what_was_written_is_kept_up_to_its_maximum_by_all_sims_together(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "WRITTEN_MAXIMUM", 7)
    async with desk(tmp_path, mock_clock) as made:
        kept: dict[str, bool] = {}

        async def keep(sim: str) -> None:
            kept[sim] = await made.inbox.keep_written(sim, drafts(sim, 5))

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(keep, f"sim{number}")
        (taken,) = (sim for sim, is_kept in kept.items() if is_kept)
        assert len(kept) == 4
        assert len(made.world.spool.items("written")) == made.inbox.written == 5
        # What could not be deleted from its SIM comes again: it is kept already, and takes no room.
        assert await made.inbox.keep_written(taken, drafts(taken, 5))
        assert made.inbox.written == 5
        assert await made.inbox.keep_written(taken, drafts(taken, 7))
        assert not await made.inbox.keep_written(taken, drafts(taken, 8))
        assert len(made.world.spool.items("written")) == made.inbox.written == 7


async def test_what_was_written_and_had_no_room_on_the_disk_takes_none(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "WRITTEN_MAXIMUM", 5)
    async with desk(tmp_path, mock_clock) as made:
        has_room, refused = has_no_room_for(monkeypatch, "written", deletes=False)
        with pytest.raises(SpoolFull):
            await made.inbox.keep_written("sim0", drafts("sim0", 5))
        assert len(refused) == 5
        assert made.inbox.written == 0
        has_room.set()
        assert await made.inbox.keep_written("sim0", drafts("sim0", 5))
        assert made.inbox.written == 5


async def test_one_that_the_node_refuses_stays_and_holds_no_other_up(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with desk(tmp_path, mock_clock) as made:
        refused = {"one"}

        def reply(one: SmsReceivedRequest) -> None:
            if one.body in refused:
                raise OperationError("the ledger is full", "full")

        made.world.node.reply = reply
        await made.inbox.keep("sim0", [message("one")])
        await made.inbox.keep("sim0", [message("two")])
        await made.world.until(lambda: made.world.texts == ["two"] and made.inbox.waiting == 1)
        refused.clear()
        await made.world.until(lambda: made.world.texts == ["two", "one"])
        await made.world.until(lambda: not made.world.spool.items("in"))


async def test_a_text_of_any_length_fits(tmp_path: Path, mock_clock: MockClock) -> None:
    async with desk(tmp_path, mock_clock) as made:
        for number in range(1, 101):
            await made.inbox.keep("sim0", [message(f"{number:067d}", Part(5, 100, number))])
        await made.world.until(lambda: made.world.texts)
        (text,) = made.world.texts
        assert len(text) == BODY_MAXIMUM_CHARACTERS
        assert text.endswith("…")


async def test_a_spool_that_is_full_takes_nothing_and_loses_nothing(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.spool._entries_maximum = world.spool.entries
        world.deliver("one")
        await world.until_state("spool full")
        assert world.stored == 1
        assert world.texts == []
        world.spool._entries_maximum = 1000
        await world.until(lambda: world.texts == ["one"] and not world.stored)


async def test_what_is_to_be_sent_waits_for_room_on_the_disk(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.spool._entries_maximum = world.spool.entries
        event = world.node.send_sms(PERSON, "one")
        await world.pass_s(20)
        assert world.network.messages == []
        world.spool._entries_maximum = 1000
        await world.until(lambda: world.node.outcomes == {event: "done"})
        assert [message.text for message in world.network.messages] == ["one"]


def has_no_room_for(
    monkeypatch: pytest.MonkeyPatch, kind: str, *, deletes: bool
) -> tuple[trio.Event, list[Change]]:
    """Have a disk be full for new entries of a kind, or for deletions of it, until the event is
    set; also returns what was refused."""
    has_room = trio.Event()
    refused: list[Change] = []
    carry_out = Spool._do

    def refuse(
        spool: Spool, transaction: lmdb.Transaction, changes: Sequence[Change]
    ) -> bool | SpoolFull:
        found = [one for one in changes if one.kind == kind and (one.value is None) == deletes]
        if not found or has_room.is_set():
            return carry_out(spool, transaction, changes)
        refused.extend(found)
        return SpoolFull("the disk is full")

    monkeypatch.setattr(Spool, "_do", refuse)
    return has_room, refused


async def test_a_long_message_outlives_a_line_that_is_lost_while_the_disk_is_full(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        has_room, refused = has_no_room_for(monkeypatch, "in", deletes=False)
        world.deliver("y" * 200)
        await world.until(lambda: refused)
        world.modem.unplug()
        await world.until(lambda: world.figure("state") in ("lost", "away"))
        has_room.set()
        world.modem.plug_in()
        await world.until(lambda: world.texts)
        assert world.texts == ["y" * 200]
        await world.until(lambda: not world.stored)
        assert world.spool.items("part") == []


async def test_a_report_outlives_a_line_that_is_lost_while_the_disk_is_full(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        world.modem.faults.report_store = ReportStore.READABLE
        await world.until_state("ready")
        has_room, refused = has_no_room_for(monkeypatch, "sent", deletes=True)
        event = world.node.send_sms(PERSON, "one")
        await world.until(lambda: refused)
        world.modem.unplug()
        await world.until(lambda: world.figure("state") in ("lost", "away"))
        assert world.figure("delivered") == "0"
        has_room.set()
        world.modem.plug_in()
        await world.until(lambda: (event, "delivered") in world.node.statuses)
        await world.until(lambda: world.figure("delivered") == "1")
        assert world.node.figures["reports_of_nothing"] == "0"
