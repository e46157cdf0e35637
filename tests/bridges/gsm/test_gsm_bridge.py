"""The bridge with emulated modems: what it promises when all goes well."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pytest
from trio.testing import MockClock

from bridges.gsm.bridge import LIVED_S
from bridges.gsm.port import may_be_another
from core.units import MINUTE_S
from tests.support.gsm_world import PERSON, GsmWorld, gsm_world
from tests.support.modem_emulator import ModemEmulator
from tests.support.modem_faults import FOREVER, SILENCE, Refuse

pytestmark = pytest.mark.trio
EMOJI = "Привет 👍🏽 {мир} " * 20


def has_outcomes(world: GsmWorld, count: int) -> bool:
    return len(world.node.outcomes) == count


async def test_a_message_comes_is_answered_and_is_gone_from_the_sim(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with gsm_world(tmp_path, mock_clock) as world:
        world.node.reply = lambda message: f"you said {message.body}"
        await world.until_state("ready")
        world.deliver("BAL plugh")
        (answer,) = await world.network.sent(1)
        await world.until(lambda: not world.stored)
        (message,) = world.node.messages
        assert (message.sender, message.body) == (PERSON, "BAL plugh")
        assert (message.bridge, message.recipient) == ("gsm", world.number)
        assert (answer.sender, answer.recipient) == (world.number, PERSON)
        assert answer.text == "you said BAL plugh"
        await world.until(lambda: world.figure("delivered") == "1")
    assert PERSON not in world.logged(caplog)
    assert "plugh" not in world.logged(caplog)


async def test_messages_that_wait_in_the_modem_come_first_of_all(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, starts=False) as world:
        texts = [f"number {number}" for number in range(10)]
        for text in texts:
            world.deliver(text)
        await world.start()
        await world.until(lambda: len(world.texts) == len(texts) and not world.stored)
        assert sorted(world.asked) == sorted(texts)


@pytest.mark.parametrize("sender", [PERSON, "89991112233", "BANK", "900"])
async def test_senders_of_each_kind(tmp_path: Path, mock_clock: MockClock, sender: str) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.deliver("hello", sender)
        await world.until(lambda: world.texts)
        assert world.node.messages[0].sender == sender


async def test_who_has_no_number_gets_no_answer(tmp_path: Path, mock_clock: MockClock) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        world.node.reply = lambda _: "?"
        await world.until_state("ready")
        world.deliver("your code is 1", "BANK")
        world.deliver("BAL")
        (answer,) = await world.network.sent(1)
        assert answer.recipient == PERSON
        await world.until(lambda: len(world.texts) == 2)
        await world.pass_s(10)
        assert len(world.network.messages) == 1
        assert world.spool.items("out") == []
        assert world.spool.items("in") == []


@pytest.mark.parametrize("text", [EMOJI, "x€" * 200, "short", "", "\0 nul; rm -rf $HOME `id`"])
async def test_texts_go_both_ways_whole(tmp_path: Path, mock_clock: MockClock, text: str) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.deliver(text)
        event = world.node.send_sms(PERSON, text, "event")
        (sent,) = await world.network.sent(1)
        assert (sent.recipient, sent.text) == (PERSON, text)
        assert all(part.report_requested for part in sent.parts)
        await world.until(lambda: world.texts and event in world.node.outcomes)
        assert world.texts == [text]
        await world.until(lambda: (event, "delivered") in world.node.statuses)
        assert world.node.statuses == [(event, "sent"), (event, "delivered")]
        assert world.node.outcomes == {event: "done"}
        await world.until(lambda: not world.stored)
        assert world.spool.items("out") == []
        assert world.spool.items("sent") == []
        assert world.spool.items("part") == []


@pytest.mark.parametrize("wide", [False, True])
async def test_parts_in_any_order(tmp_path: Path, mock_clock: MockClock, wide: bool) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.deliver("y" * 400, order=[2, 0, 1], wide_reference=wide)
        world.deliver("z" * 400, order=[1, 2, 0], wide_reference=wide)
        await world.until(lambda: len(world.texts) == 2)
        assert set(world.texts) == {"y" * 400, "z" * 400}


async def test_a_part_that_is_missing_holds_nothing_up_and_outlives_a_restart(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.deliver("y" * 400, missing={1}, reference=9)
        world.deliver("another")
        await world.until(lambda: world.texts == ["another"] and not world.stored)
        assert len(world.spool.items("part")) == 2
        await world.restart()
        world.deliver("y" * 400, missing={0, 2}, reference=9)
        await world.until(lambda: len(world.texts) == 2)
        assert world.texts[1] == "y" * 400


async def test_a_recipient_that_is_no_number_fails_at_once(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        event = world.node.send_sms("BANK", "hello")
        await world.until(lambda: event in world.node.outcomes)
        assert world.node.outcomes == {event: "failed"}
        assert world.node.statuses == [(event, "failed")]


async def test_what_expires_before_a_modem_is_there_fails(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        world.modem.registration = 2
        await world.until_state("searching")
        event = world.node.send_sms(PERSON, "late", expires_ms=1)
        await world.until(lambda: event in world.node.outcomes)
        assert world.node.outcomes == {event: "failed"}
        assert world.network.parts == []


async def test_what_expires_while_a_store_is_looked_through_is_not_sent(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        commands = world.modem.commands
        looks = commands.count("AT+CMGL=4")
        world.modem.faults.answer_next("+CMGL", SILENCE)
        await world.until(lambda: commands.count("AT+CMGL=4") > looks)
        event = world.node.send_sms(PERSON, "a code of five seconds", expires_ms=world.ms_in(5))
        await world.until(lambda: event in world.node.outcomes)
        assert world.node.outcomes == {event: "failed"}
        assert world.node.statuses == [(event, "failed")]
        assert world.network.parts == []
        assert world.spool.items("out") == []


async def test_23_040_9_2_3_12_1_nobody_delivers_what_is_of_no_use_any_more(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        world.modem.registration = 2
        await world.until_state("searching")
        world.node.send_sms(PERSON, "x" * 200, expires_ms=world.ms_in(14 * MINUTE_S))
        world.node.send_sms(PERSON, "soon late", expires_ms=world.ms_in(9 * MINUTE_S))
        # What is left counts, not what there was when it was accepted.
        await world.pass_s(7 * MINUTE_S)
        world.modem.registration = 1
        long, soon_late = await world.network.sent(2)
        assert [part.validity_s for part in long.parts] == [10 * MINUTE_S] * 2
        assert [part.validity_s for part in soon_late.parts] == [5 * MINUTE_S]


# ------------------------------------------------------------ several modems


async def test_load_is_spread_and_recipients_keep_their_sim(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, 3) as world:
        for number in range(3):
            await world.until_state("ready", f"sim{number}")
        people = [f"+7999555{number:04d}" for number in range(9)]
        for round_number in range(2):
            for person in people:
                world.node.send_sms(person, f"{round_number}", f"{person} {round_number}")
            count = (round_number + 1) * len(people)
            await world.network.sent(count)
            await world.until(partial(has_outcomes, world, count))
        senders: dict[str, set[str]] = {person: set() for person in people}
        for message in world.network.messages:
            senders[message.recipient].add(message.sender)
        assert all(len(sims) == 1 for sims in senders.values())
        shares = [
            sum(message.sender == modem.sim.number for message in world.network.messages)
            for modem in world.modems
        ]
        assert min(shares) >= 4
        # A restart changes nobody's number.
        await world.restart()
        for number in range(3):
            await world.until_state("ready", f"sim{number}")
        world.node.send_sms(people[0], "again")
        await world.network.sent(2 * len(people) + 1)
        assert {world.network.messages[-1].sender} == senders[people[0]]


async def test_an_answer_leaves_by_the_sim_that_was_written_to(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, 3) as world:
        world.node.reply = lambda message: message.recipient
        for number in range(3):
            await world.until_state("ready", f"sim{number}")
        for modem in world.modems:
            world.network.deliver(modem.sim.number, f"{PERSON[:-1]}{modem.sim.number[-1]}", "BAL")
        sent = await world.network.sent(3)
        assert all(message.sender == message.text for message in sent)


async def test_a_sim_that_goes_away_leaves_its_messages_to_the_others(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, 2) as world:
        for number in range(2):
            await world.until_state("ready", f"sim{number}")
        world.node.send_sms(PERSON, "one")
        (first,) = await world.network.sent(1)
        gone = next(modem for modem in world.modems if modem.sim.number == first.sender)
        gone.unplug()
        world.node.send_sms(PERSON, "two")
        _, second = await world.network.sent(2)
        assert second.sender != first.sender


async def test_caps_of_a_day_hold_over_a_restart(tmp_path: Path, mock_clock: MockClock) -> None:
    async with gsm_world(tmp_path, mock_clock, daily_cap=3) as world:
        await world.until_state("ready")
        events = [world.node.send_sms(PERSON, f"number {number}") for number in range(4)]
        await world.network.sent(3)
        await world.until(lambda: len(world.node.outcomes) == 3)
        await world.restart()
        await world.until_state("ready")
        await world.pass_s(100)
        assert len(world.network.messages) == 3
        assert world.figure("sent_today") == "3"
        assert events[3] not in world.node.outcomes


async def test_what_a_crash_has_left_unknown_counts_against_the_cap_of_a_day(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, daily_cap=1, sending_s=5.0) as world:
        await world.until_state("ready")
        unknown = world.node.send_sms(PERSON, "one")
        await world.until(lambda: any("+CMGS" in one for one in world.modem.commands), fast=False)
        world.crash()
        await world.start()
        await world.until(lambda: world.node.outcomes == {unknown: "unknown"})
        await world.until_state("ready")
        world.node.send_sms(PERSON, "two")
        await world.pass_s(100)
        assert [message.text for message in world.network.messages] == ["one"]
        assert world.figure("sent_today") == "1"
        # Nor is it counted again by the next process.
        await world.restart()
        await world.until_state("ready")
        assert world.figure("sent_today") == "1"


async def test_messages_of_a_sim_are_paced(tmp_path: Path, mock_clock: MockClock) -> None:
    async with gsm_world(tmp_path, mock_clock, pace_s=20) as world:
        await world.until_state("ready")
        for number in range(3):
            world.node.send_sms(PERSON, f"number {number}")
        await world.network.sent(1)
        await world.pass_s(15)
        assert len(world.network.messages) == 1
        await world.pass_s(10)
        assert len(world.network.messages) == 2


# ------------------------------------------------------------ what is told


@pytest.mark.parametrize(
    ("device", "is_warned_of"),
    [
        ("/dev/ttyUSB0", True),
        ("/dev/ttyACM12", True),
        ("/dev/pts/7", False),
        ("/dev/serial/by-id/usb-HUAWEI_ttyUSB0-if00-port0", False),
        ("/dev/serial/by-path/pci-0000:00:14.0-usb-0:1:1.0-port0", False),
        ("/dev/ttyS0", False),
    ],
)
async def test_a_path_that_may_be_another_modem_tomorrow(
    device: str, *, is_warned_of: bool
) -> None:
    assert may_be_another(Path(device)) is is_warned_of


async def test_a_path_that_may_be_another_modem_tomorrow_is_warned_of_once(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with gsm_world(tmp_path, mock_clock, 2, starts=False) as world:
        # Nothing is there, whatever is plugged into this machine.
        world.settings[1]["device"] = "/dev/ttyUSB999999"
        await world.start()
        await world.until_state("ready")
        await world.until_state("away", "sim1")
        await world.pass_s(30)
    warned = "a modem's device may be another one after a restart"
    (record,) = (one for one in caplog.records if one.getMessage() == warned)
    assert "/dev/ttyUSB999999" in repr(record.__dict__)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The fields of each warning."""
    return [repr(one.__dict__) for one in caplog.records if one.levelno >= logging.WARNING]


async def begins_again(world: GsmWorld, times: int) -> None:
    """Wait until the bridge has begun so often again with the first modem."""
    end = int(world.figure("restarts") or 0) + times
    await world.until(lambda: int(world.figure("restarts") or 0) >= end)


@pytest.mark.parametrize(("command", "answer"), [("+CMGL", SILENCE), ("+CPIN?", "+CME ERROR: 14")])
async def test_a_modem_that_never_gets_ready_is_warned_of_once(
    tmp_path: Path,
    mock_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    command: str,
    answer: str,
) -> None:
    def never_ready(modem: ModemEmulator) -> None:
        modem.faults.answer_next(command, answer, FOREVER)

    async with gsm_world(tmp_path, mock_clock, prepare=never_ready) as world:
        await begins_again(world, 6)
        state = world.figure("state") or ""
        assert [state in fields for fields in warned(caplog)] == [True]


async def test_a_modem_that_has_served_and_falls_back_is_warned_of_again(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        for count in (1, 2):
            await world.until_state("ready")
            await world.pass_s(2 * LIVED_S)
            world.modem.faults.answer_next("+CMGL", SILENCE, FOREVER)
            await begins_again(world, 3)
            assert len(warned(caplog)) == count
            world.modem.faults._answers.clear()


async def test_a_modem_that_has_served_and_stays_away_is_warned_of_once(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        await world.pass_s(2 * LIVED_S)
        world.modem.unplug()
        await begins_again(world, 6)
        lost, away = warned(caplog)
        assert "'lost'" in lost
        assert "'away'" in away


@pytest.mark.parametrize("packed", [True, False])
async def test_ussd(tmp_path: Path, mock_clock: MockClock, packed: bool) -> None:
    async with gsm_world(tmp_path, mock_clock, ussd_packed=packed) as world:
        world.network.ussd["*100#"] = "Balance: 12.34 RUB"
        world.network.ussd["*111#"] = "Баланс: 56,78 р."
        await world.until_state("ready")
        for code, text in world.network.ussd.items():
            question = world.node.ask_ussd("sim0", code)
            await world.until(partial(world.node.answers.__contains__, question))
            assert world.node.answers[question].ok
            assert world.node.answers[question].text == text


async def test_questions_that_have_no_answer(tmp_path: Path, mock_clock: MockClock) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        for modem, code, word in [
            ("sim9", "*100#", "no modem"),
            ("sim0", 'A";+CFUN=0', "code"),
            ("sim0", "*999#", "no answer"),
        ]:
            question = world.node.ask_ussd(modem, code)
            await world.until(partial(world.node.answers.__contains__, question))
            assert not world.node.answers[question].ok
            assert word in world.node.answers[question].text
        assert not any("+CFUN=0" in one for one in world.modem.commands)


async def test_figures(tmp_path: Path, mock_clock: MockClock) -> None:
    async with gsm_world(tmp_path, mock_clock, balance_ussd="*100#") as world:
        world.network.ussd["*100#"] = "Balance: 12.34 RUB, bonus 100"
        world.network.report_delay_s = 7.0
        world.modem.registration = 5
        await world.until_state("roaming")
        world.modem.faults.at_submit.append(Refuse(1))
        for number in range(4):
            world.node.send_sms(PERSON, f"number {number}")
        world.deliver("hello")
        await world.until(lambda: world.figure("delivered") == "3")
        await world.until(lambda: world.figure("balance"))
        assert world.figure("failed") == "1"
        # By the report, not by the modem; how late it was read is this test's own time.
        assert 7.0 <= float(world.figure("delivery_p50_s") or 0) < 60.0
        assert world.figure("balance") == "12.34"
        assert world.figure("received") == "1"
        assert world.figure("success_percent") == "75"
        assert world.figure("operator") == world.modem.operator
        assert world.figure("signal_dbm") == str(2 * world.modem.signal - 113)
        assert world.node.state == "1 of 1 modems ready"


async def test_the_node_is_away_and_nothing_is_lost(tmp_path: Path, mock_clock: MockClock) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.node.online = type(world.node.online)()
        for number in range(5):
            world.deliver(f"number {number}")
        await world.until(lambda: not world.stored)
        assert world.texts == []
        await world.restart()
        world.node.online.set()
        await world.until(lambda: len(world.texts) == 5)
        assert world.asked == [f"number {number}" for number in range(5)]
