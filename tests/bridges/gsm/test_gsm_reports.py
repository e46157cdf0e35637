"""What the node is told of messages that were sent: when it takes nothing for a while, and when it
isn't certain which message a report is of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bridges.gsm.figures import ModemFigures
from bridges.gsm.pdu import StatusReport
from bridges.gsm.reports import CLOCKS_DIFFER_S, RETRY_S, TELL_LIFETIME_S, Reports
from core.clock import VirtualClock
from tests.support.gsm_world import PERSON, GsmWorld, gsm_world
from tests.support.modem_faults import Refuse

pytestmark = pytest.mark.trio


async def test_what_the_node_refuses_is_told_again_in_order_and_holds_nothing_up(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        refused = world.node.send_sms(PERSON, "one")
        world.node.refuses_status.add(refused)
        await world.until(lambda: len(world.network.messages) == 1)
        other = world.node.send_sms(PERSON, "two")
        await world.until(lambda: (other, "delivered") in world.node.statuses)
        await world.pass_s(3 * RETRY_S)
        assert world.node.outcomes == {other: "done"}
        await world.restart()
        await world.until_state("ready")
        await world.pass_s(3 * RETRY_S)
        assert all(event == other for event, _ in world.node.statuses)
        world.node.refuses_status.clear()
        await world.until(lambda: (refused, "delivered") in world.node.statuses)
        assert [status for event, status in world.node.statuses if event == refused] == [
            "sent",
            "delivered",
        ]
        assert world.node.outcomes == {other: "done", refused: "done"}
        await world.until(lambda: not world.spool.items("tell"))
        assert len(world.network.messages) == 2


async def test_what_the_node_refuses_for_a_day_is_given_up(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, starts=False) as world, trio.open_nursery() as tasks:
        clock = VirtualClock()
        reports = Reports(replace(world.context(), clock=clock), {})
        event = "ab" * 16
        world.node.refuses_status.add(event)
        told = reports.ending(event, "sent", "", "done")
        await world.spool.change(told[1])
        reports.tell(told)
        tasks.start_soon(reports.run)
        clock.advance_s(TELL_LIFETIME_S - 60)
        await world.pass_s(5 * RETRY_S)
        assert world.node.outcomes == {}
        clock.advance_s(60)
        await world.until(lambda: not world.spool.items("tell"))
        assert world.node.outcomes == {event: "done"}
        assert world.node.statuses == []
        tasks.cancel_scope.cancel()


# ------------------------------------------------------------ which message a report is of

ONE, OTHER = "01" * 16, "02" * 16
ARRIVED, NEVER_ARRIVES = 0x00, 0x41


class Sheaf:
    """Reports with their clock; their SIM is told nothing by anybody else."""

    def __init__(self, world: GsmWorld) -> None:
        self.clock = VirtualClock()
        self._world = world
        self.reports = self._begin()

    def _begin(self) -> Reports:
        context = replace(self._world.context(), clock=self.clock)
        return Reports(context, {"sim0": ModemFigures("sim0", 10)})

    def restart(self) -> None:
        """What another process finds."""
        self.reports = self._begin()
        self.reports.load()

    async def send(
        self, event: str, reference: int | None, part: int = 1, *, is_provable: bool = True
    ) -> bool:
        """A part was sent; whether the parts up to it can be proved to have arrived."""
        is_provable, changes = self.reports.await_report(
            "sim0", reference, event, part, PERSON, is_provable=is_provable
        )
        await self._world.spool.change(*changes)
        return is_provable

    async def report(
        self, reference: int, *, age_s: float | None = 0.0, status: int = ARRIVED
    ) -> list[tuple[str, str]]:
        """A report comes on what was sent so long ago; all that the node is to be told then."""
        sent_s = None if age_s is None else round(self.clock.unix_s() - age_s)
        report = StatusReport(reference, PERSON, sent_s, status, b"")
        await self.reports.take("sim0", report, lambda _: False)
        return [(one.event, one.status) for one in self.reports._tells.values()]


@asynccontextmanager
async def sheaf(folder: Path, clock: MockClock) -> AsyncIterator[Sheaf]:
    async with gsm_world(folder, clock, starts=False) as world:
        yield Sheaf(world)


@pytest.mark.parametrize("apart_s", [30.0, 3 * CLOCKS_DIFFER_S])
@pytest.mark.parametrize("status", [ARRIVED, NEVER_ARRIVES])
async def test_a_report_that_comes_late_is_not_of_what_took_the_tp_mr_over(
    tmp_path: Path, mock_clock: MockClock, apart_s: float, status: int
) -> None:
    async with sheaf(tmp_path, mock_clock) as made:
        await made.send(ONE, 0)
        made.clock.advance_s(apart_s)
        await made.send(OTHER, 0)
        made.restart()
        made.clock.advance_s(1)
        assert await made.report(0, age_s=apart_s + 1, status=status) == []
        assert made.reports.unmatched == 1
        assert await made.report(0, age_s=1.0) == [(OTHER, "delivered")]


async def test_a_report_of_what_nobody_waits_for_is_not_of_a_later_message(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with sheaf(tmp_path, mock_clock) as made:
        await made.send(ONE, 0)
        assert await made.report(0, age_s=CLOCKS_DIFFER_S + 60) == []
        assert await made.report(0) == [(ONE, "delivered")]


@pytest.mark.parametrize("age_s", [None, CLOCKS_DIFFER_S - 60, -30 * CLOCKS_DIFFER_S])
async def test_a_service_centre_with_a_clock_that_differs_or_says_nothing_is_believed(
    tmp_path: Path, mock_clock: MockClock, age_s: float | None
) -> None:
    async with sheaf(tmp_path, mock_clock) as made:
        await made.send(ONE, 0)
        assert await made.report(0, age_s=age_s) == [(ONE, "delivered")]


@pytest.mark.parametrize("taken_by", [ONE, OTHER])
async def test_a_message_of_which_a_tp_mr_was_taken_over_is_not_told_to_have_arrived(
    tmp_path: Path, mock_clock: MockClock, taken_by: str
) -> None:
    """By another message, or by a part of its own, as the modem began anew."""
    async with sheaf(tmp_path, mock_clock) as made:
        assert await made.send(ONE, 0, 1)
        assert await made.send(ONE, 1, 2)
        assert await made.send(taken_by, 0, 3) is (taken_by != ONE)
        made.restart()
        assert await made.report(1) == []
        assert await made.report(0) == ([] if taken_by == ONE else [(OTHER, "delivered")])


async def test_a_part_under_no_tp_mr_leaves_its_message_open_and_no_other(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with sheaf(tmp_path, mock_clock) as made:
        assert await made.send(ONE, 0, 1)
        assert await made.send(OTHER, 1, 1)
        assert not await made.send(ONE, None, 2)
        assert not await made.send(ONE, 2, 3, is_provable=False)
        made.restart()
        assert await made.report(0) == []
        assert await made.report(1) == [(OTHER, "delivered")]
        # What is known of a part is told all the same.
        assert await made.report(2, status=NEVER_ARRIVES) == [
            (OTHER, "delivered"),
            (ONE, "undelivered"),
        ]


async def test_a_message_that_failed_after_a_part_is_not_told_to_have_arrived(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.network.report_delay_s = 30.0
        world.modem.faults.at_submit += [None, Refuse(1)]
        event = world.node.send_sms(PERSON, "x" * 200)
        await world.until(lambda: event in world.node.outcomes)
        await world.until(lambda: world.figure("delivered") == "1")
        await world.pass_s(10)
        assert world.node.statuses == [(event, "failed")]


@pytest.mark.parametrize("without", [1, 2, 3])
async def test_a_modem_that_keeps_the_tp_mr_of_a_part_to_itself(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, without: int
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        write = world.modem.write
        told = []

        def keep_to_itself(data: bytes) -> None:
            if b"+CMGS: " in data:
                told.append(data)
                if len(told) == without:
                    data = data.replace(b"+CMGS: %d" % (without - 1), b"+CMGS: ")
            write(data)

        monkeypatch.setattr(world.modem, "write", keep_to_itself)
        long = world.node.send_sms(PERSON, "x" * 400)
        await world.until(lambda: (long, "sent") in world.node.statuses)
        assert len(told) == 3
        other = world.node.send_sms(PERSON, "one")
        await world.until(lambda: (other, "delivered") in world.node.statuses)
        await world.until(lambda: world.figure("delivered") == "3")
        assert [status for event, status in world.node.statuses if event == long] == ["sent"]
        assert world.spool.items("sent") == []
