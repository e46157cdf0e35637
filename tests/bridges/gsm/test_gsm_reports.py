"""What the node is told of messages that were sent, when it takes nothing for a while."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bridges.gsm.reports import RETRY_S, TELL_LIFETIME_S, Reports
from core.clock import VirtualClock
from tests.support.gsm_world import PERSON, gsm_world

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
