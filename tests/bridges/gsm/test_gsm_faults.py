"""Each failure that modems have shown to others: nothing lost, nothing doubled, and an SMS whose
fate nobody has told is unknown."""

from __future__ import annotations

import errno
import fcntl
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from unittest.mock import Mock

import pytest
import serial
from trio.testing import MockClock

from bridges.gsm.modem import RARELY, WATCH_INTERVAL_S
from bridges.gsm.port import PortLost, open_port
from bridges.gsm.resting import REST_FIRST_S
from tests.support.gsm_world import PERSON, GsmWorld, gsm_world
from tests.support.modem_emulator import ZONE, ModemEmulator
from tests.support.modem_faults import (
    FOREVER,
    SILENCE,
    Reboot,
    Refuse,
    ReportStore,
    Silence,
    Unplug,
)
from tests.support.modem_network import RECEIVED
from tests.support.modem_pdu import write_status_report

pytestmark = pytest.mark.trio


async def comes_once(world: GsmWorld, text: str) -> None:
    """A message comes, is handed on once and is deleted."""
    world.deliver(text)
    await world.until(lambda: text in world.texts)
    await world.until(lambda: not world.stored)
    assert world.asked.count(text) == 1


async def goes_once(world: GsmWorld, text: str) -> str:
    """A message is sent once; returns the event's id."""
    event = world.node.send_sms(PERSON, text)
    await world.until(lambda: event in world.node.outcomes)
    assert world.node.outcomes[event] == "done"
    assert [message.text for message in world.network.messages].count(text) == 1
    return event


# ------------------------------------------------------------ what comes at the wrong time


async def test_an_unsolicited_line_in_the_midst_of_a_reply(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.modem.faults.in_reply = lambda: world.modem.unsolicited("^RSSI:9")
        await comes_once(world, "one")
        assert world.modem.faults.in_reply is None
        world.modem.faults.in_reply = lambda: world.deliver("three")
        await comes_once(world, "two")
        await world.until(lambda: len(world.texts) == 3)
        assert sorted(world.asked) == ["one", "three", "two"]


async def test_a_message_is_announced_between_prompt_and_data(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.modem.faults.at_prompt = lambda: world.deliver("meanwhile")
        await goes_once(world, "out")
        await world.until(lambda: world.texts == ["meanwhile"] and not world.stored)
        world.modem.faults.at_prompt = lambda: world.modem.unsolicited('+CREG: 1,"00C3","01"')
        await goes_once(world, "again")
        assert world.modem.faults.at_prompt is None


async def test_noise_and_echo(tmp_path: Path, mock_clock: MockClock) -> None:
    def echo(modem: ModemEmulator) -> None:
        modem.faults.echo_always = True

    async with gsm_world(tmp_path, mock_clock, prepare=echo) as world:
        await world.until_state("ready")
        world.modem.inject(b"\x00\xff\xfe noise \r\n\x80\x81")
        await comes_once(world, "one")
        await goes_once(world, "x" * 300)
        world.modem.inject(b"x" * 100_000 + b"\r\n")
        await comes_once(world, "two")


async def test_a_message_is_both_stored_and_sent_directly(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.modem.faults.receive_twice = True
        await comes_once(world, "one")
        await comes_once(world, "y" * 400)
        await world.pass_s(130)
        assert world.asked == ["one", "y" * 400]
        assert int(world.node.figures["received_again"]) >= 2


async def test_announcements_that_never_come(tmp_path: Path, mock_clock: MockClock) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.modem.faults.lose_unsolicited = True
        await comes_once(world, "one")
        await comes_once(world, "two")


async def test_what_was_handed_to_a_process_that_died_keeps_nothing_back(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, starts=False) as world:
        # Longer than the test: nobody but the new process ends the wait for the dead one's word.
        world.modem.messages.acknowledge_within_s = 1e6
        world.modem.settings.message_service = 1
        world.modem.settings.message_routing = [2, 1, 0, 1, 0]
        now = datetime.now(ZONE)
        report = write_status_report(7, PERSON, now, now, RECEIVED)
        assert world.modem.take(report, is_report=True)
        assert not world.modem.take(report, is_report=True)
        await world.start()
        await world.until_state("ready")
        event = await goes_once(world, "out")
        await world.until(lambda: (event, "delivered") in world.node.statuses)
        await comes_once(world, "one")


# ------------------------------------------------------------ deletion and storage


async def test_what_cannot_be_deleted_is_handed_on_once(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.modem.faults.answer_next("+CMGD", "+CMS ERROR: 500", times=FOREVER)
        world.deliver("one")
        world.deliver("y" * 400)
        await world.until(lambda: len(world.texts) == 2)
        await world.pass_s(130)
        await world.restart()
        await world.until_state("ready")
        await world.pass_s(130)
        assert world.asked == ["one", "y" * 400]
        assert world.stored == 4
        world.modem.faults._answers.clear()
        await world.until(lambda: not world.stored)
        assert len(world.asked) == 2


async def test_a_store_that_is_full_is_emptied_and_all_comes(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, slots=5, starts=False) as world:
        for number in range(30):
            world.deliver(f"number {number}")
        await world.start()
        await world.until(lambda: len(world.texts) == 30 and not world.stored)
        assert sorted(world.asked) == sorted(f"number {number}" for number in range(30))
        await comes_once(world, "after that")


async def test_a_modem_that_refuses_two_stores(tmp_path: Path, mock_clock: MockClock) -> None:
    def choosy(modem: ModemEmulator) -> None:
        modem.faults.stores_accepted = frozenset({3})

    async with gsm_world(tmp_path, mock_clock, prepare=choosy) as world:
        await world.until_state("ready")
        await comes_once(world, "one")


# ------------------------------------------------------------ PDUs that are wrong


async def test_a_pdu_that_is_cut_short_once_is_read_again(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.modem.faults.cut_pdu_octets = 2
        heal = lambda: setattr(world.modem.faults, "cut_pdu_octets", 0)  # noqa: E731
        world.modem.faults.in_reply = heal
        await comes_once(world, "one")
        assert sum("+CMGR" in one for one in world.modem.commands) == 2


@pytest.mark.parametrize(("fault", "value"), [("cut_pdu_octets", 3), ("length_off_by", 2)])
async def test_a_pdu_that_stays_wrong_is_kept_aside(
    tmp_path: Path, mock_clock: MockClock, fault: str, value: int
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        setattr(world.modem.faults, fault, value)
        world.deliver("one")
        await world.until(lambda: world.spool.items("broken") and not world.stored)
        setattr(world.modem.faults, fault, 0)
        await comes_once(world, "two")
        assert world.texts == ["two"]
        assert len(world.spool.items("broken")) == 1


async def test_data_for_a_port_is_kept_aside(tmp_path: Path, mock_clock: MockClock) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        push = bytes.fromhex("4404809989000462111271222321090605040B8423F00106")
        world.network.deliver_tpdu(world.number, push)
        await world.until(lambda: world.spool.items("broken") and not world.stored)
        await comes_once(world, "two")
        assert world.texts == ["two"]


# ------------------------------------------------------------ sending that fails


@pytest.mark.parametrize("cms_error", [38, 314])
async def test_what_is_refused_for_now_is_sent_later(
    tmp_path: Path, mock_clock: MockClock, cms_error: int
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.modem.faults.at_submit += [Refuse(cms_error), Refuse(cms_error)]
        event = await goes_once(world, "at last")
        assert world.figure("failed") == "2"
        await world.until(lambda: (event, "delivered") in world.node.statuses)


async def test_a_command_that_is_refused_before_the_prompt_is_tried_again(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """Whatever the cause, the modem had no message yet."""
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        for error in ("+CMS ERROR: 500", "+CMS ERROR: 332", "ERROR"):
            world.modem.faults.answer_next("+CMGS", error)
        await goes_once(world, "at last")
        # One that names no cause has forgotten to.
        assert world.modem.commands.count("ATZ") == 2


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("cms_error", [500, 300, 332, 512, None])
async def test_an_error_that_leaves_open_whether_it_was_sent(
    tmp_path: Path, mock_clock: MockClock, cms_error: int | None, sent: bool
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.modem.faults.at_submit.append(Refuse(cms_error, sent=sent))
        event = world.node.send_sms(PERSON, "perhaps")
        await world.until(lambda: event in world.node.outcomes)
        assert world.node.outcomes == {event: "unknown"}
        assert world.node.statuses[0] == (event, "unknown")
        await goes_once(world, "another")
        texts = [message.text for message in world.network.messages]
        assert texts == ["perhaps"] * sent + ["another"]
        await world.until(lambda: world.figure("sent_today") == "2")


@pytest.mark.parametrize(("cms_error", "times"), [(1, 1), (304, 1), (21, 4), (38, 4)])
async def test_what_is_refused_for_good_fails(
    tmp_path: Path, mock_clock: MockClock, cms_error: int, times: int
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.modem.faults.at_submit += [Refuse(cms_error)] * times
        event = world.node.send_sms(PERSON, "never")
        await world.until(lambda: event in world.node.outcomes)
        assert world.node.outcomes == {event: "failed"}
        assert world.node.statuses == [(event, "failed")]
        assert world.network.messages == []
        assert not world.modem.faults.at_submit


async def test_what_one_sim_is_refused_another_sends(tmp_path: Path, mock_clock: MockClock) -> None:
    async with gsm_world(tmp_path, mock_clock, 2) as world:
        for number in range(2):
            await world.until_state("ready", f"sim{number}")
        world.modem.faults.at_submit += [Refuse(38)] * 10
        for number in range(4):
            await goes_once(world, f"number {number}")
        assert {message.sender for message in world.network.messages} == {
            world.modems[1].sim.number
        }


@pytest.mark.parametrize(
    ("cms_error", "refused", "words"),
    [
        # Perhaps a message's fault: held against the SIM at the second one.
        (21, 2, "credit"),
        (50, 1, "contract"),
    ],
)
async def test_a_sim_that_cannot_send_swallows_nothing_beside_one_that_can(
    tmp_path: Path, mock_clock: MockClock, cms_error: int, refused: int, words: str
) -> None:
    async with gsm_world(tmp_path, mock_clock, 2) as world:
        for number in range(2):
            await world.until_state("ready", f"sim{number}")
        world.modem.faults.at_submit += [Refuse(cms_error)] * 50
        events = [world.node.send_sms(f"+7999555{number:04d}", f"{number}") for number in range(20)]
        await world.until(lambda: len(world.node.outcomes) == 20)
        assert world.node.outcomes == dict.fromkeys(events, "done")
        assert len(world.network.messages) == 20
        assert {one.sender for one in world.network.messages} == {world.modems[1].sim.number}
        assert 50 - len(world.modem.faults.at_submit) == refused
        await world.until(lambda: "resting" in (world.figure("state") or ""))
        state = world.figure("state") or ""
        assert f"CMS {cms_error} " in state
        assert words in state
        assert world.figure("success_percent") == "0"
        assert world.node.state == "1 of 2 modems ready"
        # After its rest it is tried, and rests for longer; then its fault is mended.
        await world.pass_s(REST_FIRST_S)
        world.modems[1].registration = 2
        await world.until_state("searching", "sim1")
        last = world.node.send_sms("+79995559999", "last")
        await world.until(lambda: 50 - len(world.modem.faults.at_submit) == refused + 1)
        await world.pass_s(REST_FIRST_S)
        assert 50 - len(world.modem.faults.at_submit) == refused + 1
        world.modem.faults.at_submit.clear()
        await world.until(lambda: world.node.outcomes.get(last) == "done")
        await world.until_state("ready")
        assert world.network.messages[-1].sender == world.number


async def test_a_message_that_all_refuse_puts_no_sim_to_rest(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, 2) as world:
        for number in range(2):
            await world.until_state("ready", f"sim{number}")
            world.modems[number].faults.at_submit += [Refuse(21)] * 2
        event = world.node.send_sms(PERSON, "never")
        await world.until(lambda: event in world.node.outcomes)
        assert world.node.outcomes == {event: "failed"}
        await goes_once(world, "another")
        assert world.node.state == "2 of 2 modems ready"


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("fault", [Silence, Reboot, Unplug])
async def test_a_modem_that_falls_silent_in_mid_send(
    tmp_path: Path, mock_clock: MockClock, fault: Callable, sent: bool
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.modem.faults.at_submit.append(fault(sent=sent))
        event = world.node.send_sms(PERSON, "perhaps")
        await world.until(lambda: event in world.node.outcomes)
        assert world.node.outcomes == {event: "unknown"}
        assert world.node.statuses[0] == (event, "unknown")
        if fault is Unplug:
            world.modem.plug_in()
        await world.until_state("ready")
        await goes_once(world, "another")
        await comes_once(world, "in")
        await world.restart()
        await world.until_state("ready")
        await goes_once(world, "third")
        assert [message.text for message in world.network.messages].count("perhaps") == sent
        assert world.node.outcomes[event] == "unknown"


async def test_the_parts_that_follow_one_that_failed_are_not_sent(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.modem.faults.at_submit += [None, Refuse(1)]
        event = world.node.send_sms(PERSON, "x" * 400)
        await world.until(lambda: event in world.node.outcomes)
        assert world.node.outcomes == {event: "failed"}
        assert len(world.network.parts) == 1


async def test_a_bridge_that_is_stopped_between_parts_sends_the_rest(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, pace_s=30) as world:
        await world.until_state("ready")
        event = world.node.send_sms(PERSON, "x" * 400)
        await world.until(lambda: len(world.network.parts) == 1, fast=False)
        await world.until(lambda: b'"sent":1' in (world.spool.get("out", event) or b""), fast=False)
        await world.restart()
        (message,) = await sent_fast(world, 1)
        assert message.text == "x" * 400
        assert len(message.parts) == 3
        assert len(world.network.parts) == 3


@pytest.mark.parametrize(("sending_s", "outcome"), [(5, "done"), (100, "unknown")])
async def test_a_bridge_that_is_stopped_in_mid_send_waits_for_the_answer(
    tmp_path: Path, mock_clock: MockClock, sending_s: float, outcome: str
) -> None:
    async with gsm_world(tmp_path, mock_clock, sending_s=sending_s) as world:
        await world.until_state("ready")
        event = world.node.send_sms(PERSON, "on its way")
        await world.until(lambda: any("+CMGS" in one for one in world.modem.commands), fast=False)
        world.request_stop()
        await world.until(lambda: world.has_ended)
        await world.start()
        await world.until(lambda: event in world.node.outcomes)
        assert world.node.outcomes == {event: outcome}
        await world.pass_s(150)
        assert [message.text for message in world.network.messages] == ["on its way"]


@pytest.mark.parametrize("is_answer", [False, True])
async def test_a_bridge_that_is_killed_in_mid_send(
    tmp_path: Path, mock_clock: MockClock, is_answer: bool
) -> None:
    """An SMS of the node's is unknown then; an answer is sent again, once for the crash."""
    async with gsm_world(tmp_path, mock_clock, sending_s=5) as world:
        world.node.reply = lambda _: "the answer"
        await world.until_state("ready")
        if is_answer:
            world.deliver("BAL")
        else:
            event = world.node.send_sms(PERSON, "the answer")
        await world.until(lambda: any("+CMGS" in one for one in world.modem.commands), fast=False)
        world.crash()
        await world.start()
        if is_answer:
            await sent_fast(world, 2)
        else:
            await world.until(lambda: world.node.outcomes == {event: "unknown"})
        await world.pass_s(150)
        assert len(world.network.messages) == 1 + is_answer
        assert {message.text for message in world.network.messages} == {"the answer"}
        assert world.spool.items("out") == []


async def sent_fast(world: GsmWorld, count: int) -> list:
    await world.until(lambda: len(world.network.messages) >= count)
    return world.network.messages


# ------------------------------------------------------------ delivery reports


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        ("lost", ["sent"]),
        ("wrong reference", ["sent"]),
        ("twice", ["sent", "delivered"]),
        ("failed", ["sent", "undelivered"]),
        ("pending", ["sent", "delivered"]),
    ],
)
async def test_reports(
    tmp_path: Path, mock_clock: MockClock, fault: str, statuses: list[str]
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.network.report_faults.append(fault)
        event = await goes_once(world, "one")
        await world.pass_s(30)
        other = await goes_once(world, "two")
        await world.until(lambda: (other, "delivered") in world.node.statuses)
        assert [status for one, status in world.node.statuses if one == event] == statuses


async def test_reports_that_come_after_a_restart(tmp_path: Path, mock_clock: MockClock) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.network.report_delay_s = 100.0
        event = await goes_once(world, "x" * 400)
        await world.restart()
        await world.until(lambda: (event, "delivered") in world.node.statuses)


async def test_tp_mr_comes_round(tmp_path: Path, mock_clock: MockClock) -> None:
    async with gsm_world(tmp_path, mock_clock, daily_cap=1000) as world:
        await world.until_state("ready")
        world.network.report_faults += ["lost"] * 256
        for number in range(256):
            world.node.send_sms(PERSON, f"number {number}")
        await sent_fast(world, 256)
        event = await goes_once(world, "after that")
        await world.until(lambda: (event, "delivered") in world.node.statuses)
        assert [status for _, status in world.node.statuses].count("delivered") == 1
        await world.until(lambda: len(world.spool.items("sent")) == 255)


@pytest.mark.parametrize(
    ("store", "statuses"),
    [(ReportStore.READABLE, ["sent", "delivered"]), (ReportStore.UNREADABLE, ["sent"])],
)
async def test_27_005_3_2_2_reports_in_a_memory_that_takes_nothing_else(
    tmp_path: Path, mock_clock: MockClock, store: ReportStore, statuses: list[str]
) -> None:
    def apart(modem: ModemEmulator) -> None:
        modem.faults.report_store = store

    async with gsm_world(tmp_path, mock_clock, prepare=apart) as world:
        await world.until_state("ready")
        events = [await goes_once(world, f"number {number}") for number in range(3)]
        world.deliver("one")
        await world.until(lambda: world.texts == ["one"])
        await world.pass_s(30)
        for event in events:
            assert [status for one, status in world.node.statuses if one == event] == statuses
        stores = world.modem.sim.stores
        assert len(stores["SR"]) == (0 if "delivered" in statuses else len(events))
        assert not stores["SM"]
        assert world.modem.commands.count("ATZ") == 1


async def test_reports_that_came_to_their_memory_while_no_bridge_ran(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    def apart(modem: ModemEmulator) -> None:
        modem.faults.report_store = ReportStore.READABLE

    async with gsm_world(tmp_path, mock_clock, prepare=apart) as world:
        await world.until_state("ready")
        world.network.report_delay_s = 60.0
        events = [await goes_once(world, f"number {number}") for number in range(3)]
        await world.stop()
        reports = world.modem.sim.stores["SR"]
        await world.until(lambda: len(reports) == 3)
        await world.start()
        await world.until(lambda: all((one, "delivered") in world.node.statuses for one in events))
        assert not reports
        await comes_once(world, "one")


# ------------------------------------------------------------ modems that go away


async def test_unplugged_and_plugged_in_again_under_another_number(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        before = world.modem.path
        world.modem.unplug()
        await world.until_state("away")
        world.deliver("while away")
        event = world.node.send_sms(PERSON, "later")
        world.modem.plug_in()
        assert world.modem.path != before
        await world.until(lambda: world.texts == ["while away"])
        await world.until(lambda: world.node.outcomes.get(event) == "done")


async def test_a_modem_that_vanishes_at_a_soft_reset(tmp_path: Path, mock_clock: MockClock) -> None:
    async with gsm_world(
        tmp_path, mock_clock, boot_s=5.0, pin="1234", configured_pin="1234"
    ) as world:
        await world.until_state("ready")
        before = world.modem.path
        world.modem.faults.vanish_on_reset = True
        # Another program's AT+CFUN=1,1, or the modem's own.
        world.modem.reset()
        world.deliver("while away")
        event = world.node.send_sms(PERSON, "later")
        await world.until(lambda: world.figure("state") in ("lost", "away"))
        assert event not in world.node.outcomes
        await world.until(lambda: world.texts == ["while away"])
        await world.until(lambda: world.node.outcomes.get(event) == "done")
        assert world.modem.path != before
        await comes_once(world, "one")
        await goes_once(world, "out")
        assert [message.text for message in world.network.messages] == ["later", "out"]
        assert world.modem.sim.pin_entries == ["1234"] * 2


async def test_a_modem_that_hangs_for_a_while(tmp_path: Path, mock_clock: MockClock) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.modem.hang(duration_s=300)
        event = world.node.send_sms(PERSON, "later")
        await world.until(lambda: world.figure("state") not in ("ready", "roaming"))
        world.deliver("while silent")
        await world.until(lambda: "while silent" in world.texts)
        await world.until(lambda: world.node.outcomes.get(event) == "done")
        assert len(world.network.messages) == 1


async def test_a_modem_that_starts_anew_is_told_everything_again(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, pin="1234", configured_pin="1234") as world:
        await world.until_state("ready")
        for number in range(2):
            world.modem.reboot()
            await comes_once(world, f"number {number}")
            await goes_once(world, f"answer {number}")
        assert world.modem.sim.pin_entries == ["1234"] * 3


async def test_a_modem_that_starts_anew_without_a_word_is_found_out_by_its_next_sms(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, pin="1234", configured_pin="1234") as world:
        await world.until_state("ready")
        world.modem.faults.starts_silently = True
        world.modem.reboot()
        await world.pass_s(1)
        await goes_once(world, "out")
        await comes_once(world, "in")
        assert world.modem.sim.pin_entries == ["1234"] * 2


async def test_a_service_centre_that_changes_is_warned_of(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.modem.sim.smsc = "+79990000000"
        warned = "the SMS service centre of a SIM has changed"
        await world.until(lambda: warned in caplog.messages)
        await world.pass_s(WATCH_INTERVAL_S * RARELY * 2)
        assert caplog.messages.count(warned) == 1
        assert "+79990000000" not in world.logged(caplog)


async def test_a_sign_of_a_start_that_was_none_changes_nothing(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        for _ in range(5):
            world.modem.unsolicited("^BOOT:20952548,0,0,0,72")
            await world.pass_s(5)
        await comes_once(world, "one")
        assert world.modem.commands.count("ATZ") == 1


@pytest.mark.parametrize(
    "command", ["+CSQ", "+CNMI", "+COPS", "+CSCA", "+CSMS", "+CMGD", "+CNMA", "Z", "+CREG=1"]
)
async def test_a_reply_that_never_comes_to_one_command(
    tmp_path: Path, mock_clock: MockClock, command: str
) -> None:
    def silent(modem: ModemEmulator) -> None:
        modem.faults.answer_next(command, SILENCE, times=2)

    async with gsm_world(tmp_path, mock_clock, prepare=silent) as world:
        world.deliver("one")
        await world.until(lambda: "one" in world.texts)
        await goes_once(world, "out")
        await world.until(lambda: not world.stored)
        assert world.asked == ["one"]
        assert any(command in one for one in world.modem.commands)


@pytest.mark.parametrize(
    ("command", "state"),
    [
        ("+CPIN?", "SIM unusable: ERROR"),
        ("+CMGF", "AT+CMGF got no answer"),
        ("+CPMS", "AT+CPMS got no answer"),
        ("+CMGL", "AT+CMGL got no answer"),
        ("+CMGR", None),
        ("+CNMI?", None),
    ],
)
async def test_a_command_that_is_never_answered_is_got_over_or_named(
    tmp_path: Path, mock_clock: MockClock, command: str, state: str | None
) -> None:
    def silent(modem: ModemEmulator) -> None:
        modem.faults.answer_next(command, SILENCE, times=FOREVER)

    async with gsm_world(tmp_path, mock_clock, prepare=silent) as world:
        world.deliver("at first")
        if state is not None:
            await world.until_state(state)
            said = set()
            for _ in range(40):
                await world.pass_s(5)
                said.add(world.figure("state"))
            assert said == {state}
            assert world.node.state == "0 of 1 modems ready"
            world.modem.faults._answers.clear()
        await world.until(lambda: world.texts == ["at first"])
        await world.until_state("ready")
        # It doesn't say what it was told: it may have started anew.
        world.modem.unsolicited("^BOOT:20952548,0,0,0,72")
        await comes_once(world, "in")
        await goes_once(world, "out")
        if command == "+CNMI?":
            assert world.modem.commands.count("ATZ") == 2
        assert any(command in one for one in world.modem.commands)


async def test_a_line_that_somebody_else_has_is_tried_again(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, starts=False) as world:
        with world.modem.path.open("rb+", buffering=0) as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            await world.start()
            await world.until_state("away")
            await world.until(lambda: "another program" in (world.figure("advice") or ""))
        await world.until_state("ready")
        await world.until(lambda: world.figure("advice") is None)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (None, "plug the modem in"),
        ("a file", "no serial line"),
        (PermissionError(errno.EACCES, "Permission denied"), "usermod -aG dialout"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    ],
)
async def test_a_device_that_cannot_be_opened_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError | str | None, advice: str
) -> None:
    device = tmp_path / "modem"
    if isinstance(error, OSError):
        # Root may open anything.
        failing = Mock(side_effect=serial.SerialException(error.errno, str(error)))
        monkeypatch.setattr(serial, "Serial", failing)
    elif error is not None:
        device.write_text(error)
    with pytest.raises(PortLost) as caught:
        async with open_port(device, lambda _: None):
            pass
    assert advice in caught.value.advice


# ------------------------------------------------------------ SIM cards


async def test_a_pin_is_entered_once(tmp_path: Path, mock_clock: MockClock) -> None:
    async with gsm_world(tmp_path, mock_clock, pin="1234", configured_pin="1234") as world:
        await world.until_state("ready")
        await world.restart()
        await world.until_state("ready")
        assert world.modem.sim.pin_entries == ["1234"]


async def test_a_wrong_pin_is_never_entered_again(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with gsm_world(tmp_path, mock_clock, pin="1234", configured_pin="9999") as world:
        await world.until_state("wrong PIN")
        await world.pass_s(300)
        assert "correct pin" in (world.figure("advice") or "")
        # Once each, however often it begins anew: what was entered, and how the modem is since.
        told = [one for one in caplog.records if one.levelno >= logging.WARNING]
        assert [one.getMessage() for one in told] == ["the PIN was refused", "modem"]
        world.modem.unplug()
        world.modem.plug_in()
        await world.pass_s(200)
        await world.restart()
        await world.pass_s(200)
        assert world.modem.sim.pin_entries == ["9999"]
        attempts = world.spool.items("pin")
        assert attempts
        assert not any(b"9999" in attempt for _, attempt in attempts)
        # The operator has corrected it.
        world.settings[0]["pin"] = "1234"
        await world.restart()
        await world.until_state("ready")
        assert world.modem.sim.pin_entries == ["9999", "1234"]


async def test_a_wrong_pin_is_not_entered_again_by_a_modem_of_another_name(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, pin="1234", configured_pin="9999") as world:
        await world.until_state("wrong PIN")
        for number in range(2):
            name = world.settings[0]["name"] = f"other{number}"
            await world.restart()
            await world.until_state("wrong PIN", name)
            await world.pass_s(100)
        assert world.modem.sim.pin_entries == ["9999"]
        # It is as wrong under the first name.
        world.settings[0]["name"] = "sim0"
        await world.restart()
        await world.until_state("wrong PIN")
        # Another SIM's PIN it may be.
        world.modem.sim.iccid = "8970101000000054321"
        await world.restart()
        await world.until(lambda: len(world.modem.sim.pin_entries) == 2)
        await world.until_state("wrong PIN")
        world.settings[0]["pin"] = "1234"
        await world.restart()
        await world.until_state("ready")
        assert world.modem.sim.pin_entries == ["9999", "9999", "1234"]


@pytest.mark.parametrize("untold", [0, 1])
async def test_a_wrong_pin_is_not_entered_again_where_a_serial_is_told_now_and_then(
    tmp_path: Path, mock_clock: MockClock, untold: int
) -> None:
    def shy(modem: ModemEmulator) -> None:
        modem.faults.answer_next("+CCID", "ERROR", times=1 - untold or FOREVER)

    async with gsm_world(
        tmp_path, mock_clock, starts=False, pin="1234", configured_pin="9999"
    ) as world:
        if not untold:
            shy(world.modem)
        await world.start()
        await world.until_state("wrong PIN")
        if untold:
            shy(world.modem)
        await world.restart()
        await world.until_state("wrong PIN")
        await world.pass_s(100)
        assert world.modem.sim.pin_entries == ["9999"]


async def test_a_pin_that_was_right_for_a_sim_is_entered_again_by_a_modem_of_another_name(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """Nothing was heard of it, but the SIM was open then."""

    def silent(modem: ModemEmulator) -> None:
        modem.faults.answer_next("+CPIN=", SILENCE)

    async with gsm_world(
        tmp_path, mock_clock, pin="1234", configured_pin="1234", prepare=silent
    ) as world:
        await world.until_state("wrong PIN")
        world.modem.sim.enter_pin("1234")
        world.settings[0]["name"] = "other"
        await world.restart()
        await world.until_state("ready", "other")
        world.modem.reboot()
        await world.until(lambda: len(world.modem.sim.pin_entries) == 2)
        await world.until_state("ready", "other")


async def test_a_sim_that_is_open_says_nothing_of_the_pin_of_another(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    def silent(modem: ModemEmulator) -> None:
        modem.faults.answer_next("+CPIN=", SILENCE)

    async with gsm_world(
        tmp_path, mock_clock, pin="1234", configured_pin="9999", prepare=silent
    ) as world:
        await world.until_state("wrong PIN")
        sim, serial = world.modem.sim, world.modem.sim.iccid
        sim.pin, sim.iccid = None, "8970101000000054321"
        world.modem.reboot()
        await world.until_state("ready")
        sim.pin, sim.iccid = "1234", serial
        world.modem.reboot()
        await world.until_state("wrong PIN")
        await world.pass_s(100)
        assert sum(one.startswith("AT+CPIN=") for one in world.modem.commands) == 1


async def test_a_pin_that_was_taken_out_may_be_tried_again(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, pin="1234", configured_pin="9999") as world:
        await world.until_state("wrong PIN")
        del world.settings[0]["pin"]
        await world.restart()
        await world.until_state("PIN missing")
        assert world.spool.items("pin") == []
        world.modem.sim.pin = "9999"
        world.settings[0]["pin"] = "9999"
        await world.restart()
        await world.until_state("ready")
        assert world.modem.sim.pin_entries == ["9999", "9999"]


async def test_a_pin_of_which_nothing_was_heard_is_not_entered_again(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    def silent(modem: ModemEmulator) -> None:
        modem.faults.answer_next("+CPIN=", SILENCE)

    async with gsm_world(
        tmp_path, mock_clock, pin="1234", configured_pin="1234", prepare=silent
    ) as world:
        await world.until_state("wrong PIN")
        await world.pass_s(300)
        assert sum(command.startswith("AT+CPIN=") for command in world.modem.commands) == 1


async def test_a_new_pin_of_which_nothing_was_heard_is_not_entered_again(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, pin="1234", configured_pin="1234") as world:
        await world.until_state("ready")
        # That another one was right before says nothing of this one.
        world.settings[0]["pin"] = "9999"
        world.modem.faults.answer_next("+CPIN=", SILENCE, times=10)
        world.modem.reboot()
        await world.restart()
        await world.until_state("wrong PIN")
        await world.pass_s(300)
        entered = [one for one in world.modem.commands if one.startswith("AT+CPIN=")]
        assert entered == ['AT+CPIN="1234"', 'AT+CPIN="9999"']


async def test_a_sim_that_is_blocked_is_left_alone(tmp_path: Path, mock_clock: MockClock) -> None:
    async with gsm_world(
        tmp_path, mock_clock, starts=False, pin="1", configured_pin="1234"
    ) as world:
        world.modem.sim.pin_tries = 0
        world.modem.reboot()
        await world.start()
        await world.until_state("SIM locked: SIM PUK")
        await world.pass_s(100)
        assert world.modem.sim.pin_entries == []


async def test_a_sim_that_is_busy_is_waited_for(tmp_path: Path, mock_clock: MockClock) -> None:
    def busy(modem: ModemEmulator) -> None:
        modem.faults.answer_next("+CPIN?", "+CME ERROR: 14", times=5)
        modem.faults.answer_next("+CPMS=", "+CMS ERROR: 314", times=2)

    async with gsm_world(tmp_path, mock_clock, prepare=busy) as world:
        await world.until_state("ready")
        await comes_once(world, "one")


async def test_noise_in_place_of_what_a_sim_waits_for_can_be_told(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    def noisy(modem: ModemEmulator) -> None:
        # More than once: a state that is over at once may be told to nobody.
        modem.faults.answer_next("+CPIN?", "+CPIN: " + "z" * 130 + "\r\n\r\nOK", times=3)

    async with gsm_world(tmp_path, mock_clock, prepare=noisy) as world:
        await world.until(lambda: (world.figure("state") or "").startswith("SIM locked: zzz"))
        await world.until_state("ready")


async def test_no_sim(tmp_path: Path, mock_clock: MockClock) -> None:
    def empty(modem: ModemEmulator) -> None:
        modem.faults.answer_next("+CPIN?", "+CME ERROR: 10", times=3)

    async with gsm_world(tmp_path, mock_clock, prepare=empty) as world:
        await world.until_state("no SIM")
        await world.until_state("ready")


@pytest.mark.parametrize(
    ("registration", "state"),
    [(0, "not registered"), (2, "searching"), (3, "registration denied"), (5, "roaming")],
)
async def test_registration_is_watched(
    tmp_path: Path, mock_clock: MockClock, registration: int, state: str
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.modem.registration = registration
        await world.until_state(state)
        event = world.node.send_sms(PERSON, "one")
        if state != "roaming":
            await world.pass_s(60)
            assert event not in world.node.outcomes
            world.modem.registration = 1
        await world.until(lambda: world.node.outcomes.get(event) == "done")


async def test_a_sim_without_a_service_centre_sends_nothing(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, starts=False) as world:
        world.modem.sim.smsc = ""
        await world.start()
        await world.until_state("no SMSC")
        event = world.node.send_sms(PERSON, "one")
        await world.pass_s(60)
        assert world.network.parts == []
        world.modem.sim.smsc = "+79168999100"
        await world.until(lambda: world.node.outcomes.get(event) == "done")


async def test_reports_are_asked_for_again_after_one_was_spoilt(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """One that can't be read isn't acknowledged; the modem gives no more by itself then."""
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.modem.faults.cut_pdu_octets = 4
        spoilt = await goes_once(world, "one")
        await world.pass_s(100)
        world.modem.faults.cut_pdu_octets = 0
        event = await goes_once(world, "two")
        await world.until(lambda: (event, "delivered") in world.node.statuses)
        assert (spoilt, "delivered") not in world.node.statuses
