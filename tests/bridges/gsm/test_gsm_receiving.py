"""How stores are emptied: in few commands, and never of what was not kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from trio.testing import MockClock

from bridges.gsm import inbox
from bridges.gsm.pdu import encode_submit
from bridges.gsm.receiving import (
    LINE_MAXIMUM,
    LISTED_FROM,
    READ_ATTEMPTS,
    ROOM_MESSAGES,
    SWEEP_INTERVAL_S,
)
from tests.support.gsm_world import PERSON, GsmWorld, gsm_world
from tests.support.modem_at import Reply
from tests.support.modem_command import CMS_NOT_ALLOWED, AtError
from tests.support.modem_command import Command as AtCommand
from tests.support.modem_emulator import ModemEmulator
from tests.support.modem_faults import FOREVER, SILENCE, Combined, ReportStore
from tests.support.modem_sim import Status, StoredMessage

pytestmark = pytest.mark.trio
BACKLOG = 60


def fill(world: GsmWorld, count: int = BACKLOG) -> list[str]:
    """Messages that are in the modem, or come when it is there; what is in each of them."""
    texts = [f"number {number}" for number in range(count)]
    for text in texts:
        world.deliver(text)
    return texts


async def all_come_once(world: GsmWorld, texts: list[str]) -> None:
    """All of them are handed on, and nothing is left in the modem."""
    await world.until(lambda: len(world.texts) >= len(texts) and not world.stored)
    assert sorted(world.asked) == sorted(texts)


def asked(world: GsmWorld, name: str) -> list[str]:
    """What the modem was asked that has this in it."""
    return [line for line in world.modem.commands if name in line]


async def test_a_backlog_takes_few_commands(tmp_path: Path, mock_clock: MockClock) -> None:
    async with gsm_world(tmp_path, mock_clock, slots=100, starts=False) as world:
        texts = fill(world)
        await world.start()
        await all_come_once(world, texts)
        assert asked(world, "+CMGR") == []
        deletions = asked(world, "+CMGD")
        assert len(deletions) <= 4
        assert all(len(line) <= LINE_MAXIMUM for line in deletions)
        # Once for each store, and once more where something was.
        await world.pass_s(5)
        assert len(asked(world, "+CMGL")) == 3


async def test_many_announced_messages_are_read_at_once(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, slots=100) as world:
        await world.until_state("ready")
        await world.pass_s(5)
        before = len(asked(world, "+CMGL"))
        texts = fill(world)
        await all_come_once(world, texts)
        await world.pass_s(5)
        assert len(asked(world, "+CMGR")) <= 4
        assert before < len(asked(world, "+CMGL")) <= before + 3


@pytest.mark.parametrize("combined", [Combined.REFUSED, Combined.ONLY_FIRST, Combined.RESULT_EACH])
async def test_v_250_5_4_1_a_modem_that_takes_one_command_a_line_gets_no_more(
    tmp_path: Path, mock_clock: MockClock, combined: Combined
) -> None:
    def poor(modem: ModemEmulator) -> None:
        modem.faults.combined = combined

    async with gsm_world(tmp_path, mock_clock, slots=100, starts=False, prepare=poor) as world:
        texts = fill(world, 20)
        await world.start()
        await all_come_once(world, texts)
        assert not any(";" in line for line in asked(world, "+CMGD"))


@pytest.mark.parametrize("combined", [Combined.REFUSED, Combined.ONLY_FIRST])
async def test_a_modem_that_deletes_one_a_line_is_told_one_a_line(
    tmp_path: Path, mock_clock: MockClock, combined: Combined
) -> None:
    async with gsm_world(tmp_path, mock_clock, slots=100) as world:
        await world.until_state("ready")
        await world.pass_s(5)
        world.modem.faults.combined = combined
        texts = fill(world, 20)
        await all_come_once(world, texts)
        assert sum(";" in line for line in asked(world, "+CMGD")) == 1


async def test_a_result_that_never_comes_to_a_line_of_deletions(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """Nobody knows what was deleted: each is read before it is deleted again."""
    async with gsm_world(tmp_path, mock_clock, slots=5, starts=False) as world:
        world.modem.faults.answer_next("+CMGD", "")
        texts = fill(world, 20)
        await world.start()
        await all_come_once(world, texts)


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_modem_that_starts_anew_amid_deletions_loses_nothing(
    tmp_path: Path, mock_clock: MockClock, *, is_told: bool
) -> None:
    """It has its SIM in use then, where other messages lie at the same places."""

    def poor(modem: ModemEmulator) -> None:
        modem.faults.combined = Combined.REFUSED
        modem.faults.starts_silently = not is_told

    async with gsm_world(
        tmp_path, mock_clock, starts=False, slots=5, boot_s=3.0, prepare=poor
    ) as world:
        texts = fill(world, 5)
        stores = world.modem.sim.stores
        await world.until(lambda: len(stores["SM"]) == 5)
        stores["ME"], stores["SM"] = stores["SM"], stores["ME"]
        texts += [f"later {text}" for text in texts]
        for text in texts[5:]:
            world.deliver(text)
        await world.until(lambda: len(stores["SM"]) == 5)
        delete = world.modem._handlers["+CMGD"]
        has_started: list[str] = []

        def deletes(command: AtCommand) -> Reply:
            if world.modem.settings.stores[0] == "ME" and not has_started:
                has_started.append("anew")
                world.modem.reboot()
                return None
            return delete(command)

        world.modem._handlers["+CMGD"] = deletes
        await world.start()
        await all_come_once(world, texts)
        assert has_started


async def test_what_noise_keeps_from_the_bridge_is_not_deleted(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gsm_world(tmp_path, mock_clock, starts=False) as world:
        write = world.modem.write
        lost: list[bytes] = []

        def noisy(data: bytes) -> None:
            # The whole of one message, and the octets of another, the first time.
            if len(lost) < 3 and (b"+CMGL: 3," in data or (lost and len(lost) < 2)):
                lost.append(data)
            elif len(lost) == 2 and b"+CMGL: 5," in data:
                lost.append(data)
                write(data + b"\xff\xfe")
            else:
                write(data)

        monkeypatch.setattr(world.modem, "write", noisy)
        texts = fill(world, 10)
        await world.start()
        await all_come_once(world, texts)
        assert len(lost) == 3
        assert world.spool.items("broken") == []


def spoil(
    world: GsmWorld,
    monkeypatch: pytest.MonkeyPatch,
    index: int,
    shown: int,
    *,
    meanwhile: Callable[[], None] = lambda: None,
    listings: int = 1,
) -> list[bytes]:
    """Another index is shown, once, in the so-manieth listing that has this one; what was spoilt
    is in the list that this returns."""
    write = world.modem.write
    seen: list[bytes] = []
    spoilt: list[bytes] = []

    def noisy(data: bytes) -> None:
        header = b"+CMGL: %d," % index
        if header in data:
            seen.append(data)
            if len(seen) == listings:
                data = data.replace(header, b"+CMGL: %d," % shown)
                spoilt.append(data)
                meanwhile()
        write(data)

    monkeypatch.setattr(world.modem, "write", noisy)
    return spoilt


@pytest.mark.parametrize(("index", "shown"), [(13, 3), (12, 17)])
async def test_27_005_3_4_2_an_index_that_has_come_spoilt_has_no_other_message_deleted(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, index: int, shown: int
) -> None:
    """It may have lost a digit, and stand too late, or have another one, and stand too early."""
    async with gsm_world(tmp_path, mock_clock, starts=False) as world:
        write(world, Status.STORED_UNSENT, 18)
        places = world.modem.sim.stores["SM"]
        drafts = {place: message for place, message in places.items() if place != index}
        del places[index]
        world.deliver("hello")
        await world.until(lambda: index in places)
        spoilt = spoil(world, monkeypatch, index, shown)
        await world.start()
        await world.until(lambda: world.texts == ["hello"] and index not in places)
        await world.until_state("ready")
        await world.pass_s(2 * SWEEP_INTERVAL_S)
        assert spoilt
        assert places == drafts
        assert world.asked == ["hello"]
        assert world.spool.items("broken") == []
        assert kept(world) == set()


async def test_what_comes_to_the_place_that_a_spoilt_index_names_is_not_deleted_unread(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gsm_world(tmp_path, mock_clock, starts=False) as world:
        write(world, Status.STORED_UNSENT, 10)
        places = world.modem.sim.stores["SM"]
        world.deliver("one")
        await world.until(lambda: 10 in places)
        del places[0]
        spoilt = spoil(world, monkeypatch, 10, 0, meanwhile=lambda: world.deliver("two"))
        await world.start()
        await world.until(lambda: len(world.texts) == 2)
        await world.until(lambda: sorted(places) == [*range(1, 10)])
        assert spoilt
        assert sorted(world.texts) == ["one", "two"]


async def test_a_spoilt_index_has_no_draft_deleted_that_was_not_kept(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gsm_world(tmp_path, mock_clock, starts=False) as world:
        drafts = write(world, Status.STORED_UNSENT, 15)
        sent = write(world, Status.STORED_SENT, 5)
        # The second is looked through for what can be moved.
        spoilt = spoil(world, monkeypatch, 19, 9, listings=2)
        await world.start()
        await world.until_state("ready")
        await world.pass_s(2 * SWEEP_INTERVAL_S)
        assert spoilt
        left = {f"00{one.tpdu.hex().upper()}" for one in world.modem.sim.stores["SM"].values()}
        assert left | kept(world) == {*drafts, *sent}
        assert kept(world)


# ------------------------------------------------------------ stores that are full


def write(world: GsmWorld, status: Status, count: int) -> list[str]:
    """What somebody wrote on the SIM before it was put into the modem, which has no memory of its
    own beside it: lines of the PDUs."""
    world.modem.sim.slots_me = 0
    lines = []
    for number in range(count):
        (submit,) = encode_submit(
            PERSON, f"{status.name} {number}", reference=0, report=False, validity_s=0.0
        )
        message = StoredMessage(status, bytes.fromhex(submit.line)[1:], "")
        assert world.modem.sim.put("SM", message) is not None
        lines.append(submit.line)
    return lines


def hinder(world: GsmWorld, name: str, wrong: Callable[[AtCommand], Reply | None]) -> None:
    """Have a command of the modem's go wrong: what `wrong` answers to it is answered; where that is
    None, it is carried out."""
    handler = world.modem._handlers[name]

    def hindered(command: AtCommand) -> Reply:
        answer = wrong(command)
        return handler(command) if answer is None else answer

    world.modem._handlers[name] = hindered


def kept(world: GsmWorld) -> set[str]:
    return {line.decode() for _, line in world.spool.items("written")}


async def test_a_sim_full_of_what_was_written_on_it_receives_and_nothing_is_lost(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with gsm_world(tmp_path, mock_clock, starts=False) as world:
        drafts = write(world, Status.STORED_UNSENT, 13)
        sent = write(world, Status.STORED_SENT, 7)
        # As long as two messages, and both wait in the network.
        world.deliver("x" * 200)
        assert world.network.waiting(world.number) == 2
        await world.start()
        await world.until(lambda: world.texts == ["x" * 200])
        await world.until_state("ready")
        # No more than has to be, and copies of what was sent come first.
        assert kept(world) == {*sent, *drafts[: ROOM_MESSAGES - len(sent)]}
        left = [message.tpdu.hex().upper() for message in world.modem.sim.stores["SM"].values()]
        assert [f"00{tpdu}" for tpdu in left] == drafts[ROOM_MESSAGES - len(sent) :]
        assert world.node.figures["kept_from_full_sims"] == str(ROOM_MESSAGES)
        assert world.node.state == "1 of 1 modems ready"
        await world.pass_s(2 * SWEEP_INTERVAL_S)
        await world.restart()
        await world.until(lambda: world.node.figures.get("kept_from_full_sims") == "10")
        assert len(kept(world)) == ROOM_MESSAGES
    told = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert [one.getMessage() for one in told] == [
        "what was written on a full SIM is kept in the spool"
    ]
    assert PERSON not in world.logged(caplog)
    assert "STORED_" not in world.logged(caplog)


async def test_what_is_cut_short_on_the_line_is_not_moved_from_a_full_sim(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, slots=5, starts=False) as world:
        lines = write(world, Status.STORED_UNSENT, 5)
        world.modem.faults.cut_pdu_octets = 1
        await world.start()
        await world.until_state("receives no SMS: no room in SM")
        assert world.stored == 5
        assert kept(world) == set()
        world.modem.faults.cut_pdu_octets = 0
        await world.until(lambda: not world.stored)
        assert kept(world) == {*lines}


async def test_a_sim_with_room_keeps_what_was_written_on_it(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, starts=False) as world:
        write(world, Status.STORED_SENT, 19)
        await world.start()
        for number in range(3):
            world.deliver(f"number {number}")
        await world.until(lambda: len(world.texts) == 3 and world.stored == 19)
        await world.until_state("ready")
        await world.pass_s(2 * SWEEP_INTERVAL_S)
        assert kept(world) == set()
        assert world.stored == 19


async def test_a_full_sim_that_nothing_can_be_deleted_from_is_not_ready(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def stubborn(modem: ModemEmulator) -> None:
        modem.faults.answer_next("+CMGD", "+CMS ERROR: 500", times=FOREVER)

    async with gsm_world(tmp_path, mock_clock, slots=5, starts=False, prepare=stubborn) as world:
        lines = write(world, Status.STORED_UNSENT, 5)
        world.deliver("one")
        await world.start()
        await world.until_state("receives no SMS: no room in SM")
        assert "delete messages" in (world.figure("advice") or "")
        assert world.node.state == "0 of 1 modems ready"
        event = world.node.send_sms(PERSON, "out")
        await world.until(lambda: world.node.outcomes.get(event) == "done")
        await world.pass_s(3 * SWEEP_INTERVAL_S)
        assert kept(world) == {*lines}
        assert world.stored == 5
        assert world.texts == []
        assert caplog.messages.count("a store for SMS is full") == 1
        world.modem.faults._answers.clear()
        await world.until(lambda: world.texts == ["one"])
        await world.until_state("ready")
        assert world.figure("advice") is None
        assert kept(world) == {*lines}


async def test_what_was_written_on_sims_is_never_given_up_for_more_of_it(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "WRITTEN_MAXIMUM", 7)
    async with gsm_world(tmp_path, mock_clock, slots=5, starts=False) as world:
        first = write(world, Status.STORED_SENT, 5)
        await world.start()
        await world.until(lambda: not world.stored)
        write(world, Status.STORED_UNSENT, 5)
        await world.until_state("receives no SMS: no room in SM")
        assert kept(world) == {*first}
        assert world.stored == 5


async def test_what_fills_a_store_while_it_is_looked_through_has_nothing_moved(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(tmp_path, mock_clock, starts=False) as world:
        write(world, Status.STORED_UNSENT, 19)
        await world.start()
        await world.until_state("ready")
        came: list[str] = []

        def comes(command: AtCommand) -> None:
            # After the look, before the question whether there is room.
            if command.form == "?" and not came:
                came.append("in between")
                world.modem.faults.lose_unsolicited = True
                world.deliver("in between")

        hinder(world, "+CPMS", comes)
        await world.until(lambda: world.texts == ["in between"])
        await world.pass_s(2 * SWEEP_INTERVAL_S)
        assert world.stored == 19
        assert kept(world) == set()
        assert world.figure("state") == "ready"


async def test_a_memory_beside_the_sim_may_be_full(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing comes to it while the SIM is what messages come to."""
    async with gsm_world(tmp_path, mock_clock, starts=False) as world:
        write(world, Status.STORED_UNSENT, 5)
        sim = world.modem.sim
        sim.slots_me = 5
        sim.stores["ME"], sim.stores["SM"] = sim.stores["SM"], sim.stores["ME"]
        await world.start()
        await world.until_state("ready")
        world.deliver("one")
        await world.until(lambda: world.texts == ["one"])
        await world.pass_s(2 * SWEEP_INTERVAL_S)
        assert len(sim.stores["ME"]) == world.stored == 5
        assert kept(world) == set()
        assert world.figure("state") == "ready"
    assert "a store for SMS is full" not in caplog.messages


@pytest.mark.parametrize("answer", ["+CMS ERROR: 314", '+CPMS: "SM",,5\r\n\r\nOK', SILENCE])
async def test_a_store_of_which_nothing_is_told_is_as_it_was(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(inbox, "WRITTEN_MAXIMUM", 0)
    async with gsm_world(tmp_path, mock_clock, slots=5, starts=False) as world:
        write(world, Status.STORED_UNSENT, 5)
        await world.start()
        full = "receives no SMS: no room in SM"
        await world.until_state(full)
        world.modem.faults.answer_next("+CPMS?", answer, times=2)
        said = set()
        while world.modem.faults._answers:
            await world.pass_s(1)
            said.add(world.figure("state"))
        await world.pass_s(5)
        assert said | {world.figure("state")} == {full}


async def test_that_a_store_is_full_is_of_its_sim_and_of_a_modem_in_its_network(
    tmp_path: Path,
    mock_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(inbox, "WRITTEN_MAXIMUM", 0)
    async with gsm_world(tmp_path, mock_clock, slots=5, starts=False) as world:
        write(world, Status.STORED_UNSENT, 5)
        await world.start()
        full = "receives no SMS: no room in SM"
        await world.until_state(full)
        world.modem.registration = 3
        await world.until_state("registration denied")
        assert world.figure("advice") is None
        world.modem.registration = 1
        await world.until_state(full)
        world.modem.unplug()
        await world.until_state("away")
        assert "plug the modem in" in (world.figure("advice") or "")
        world.modem.plug_in()
        await world.until_state(full)
        # It is told once, however often the modem begins again.
        assert caplog.messages.count("a store for SMS is full") == 1
        world.modem.unplug()
        await world.until_state("away")
        world.modem.sim.stores["SM"].clear()
        world.modem.faults.answer_next("+CPMS?", "+CMS ERROR: 314", times=FOREVER)
        world.modem.plug_in()
        await world.until(lambda: world.figure("state") not in ("away", "lost"))
        assert world.figure("state") == "ready"
        assert world.figure("advice") is None


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_store_that_fills_while_the_bridge_runs_is_emptied_and_nothing_is_lost(
    tmp_path: Path, mock_clock: MockClock, *, is_told: bool
) -> None:
    async with gsm_world(tmp_path, mock_clock, slots=5) as world:
        await world.until_state("ready")
        await world.pass_s(5)
        world.modem.faults.lose_unsolicited = not is_told
        world.modem.sim.slots_me = 0
        world.modem.faults.answer_next("+CMGD", "+CMS ERROR: 500", times=FOREVER)
        texts = fill(world, 12)
        await world.until_state("receives no SMS: no room in SM")
        assert world.stored == 5
        assert world.network.waiting(world.number) == 7
        world.modem.faults._answers.clear()
        await all_come_once(world, texts)
        await world.until_state("ready")
        world.modem.faults.lose_unsolicited = False
        world.deliver("after that")
        await world.until(lambda: "after that" in world.texts and not world.stored)
        assert kept(world) == set()


# ------------------------------------------------------------ stores that can only be read


def has_stores(readable: str, usable: str) -> Callable[[ModemEmulator], None]:
    """A modem that names these stores, each two letters, and takes the latter alone for what
    messages are written into and come to (TS 27.005 section 3.2.2)."""

    def prepare(modem: ModemEmulator) -> None:
        handler = modem._handlers["+CPMS"]
        first, second = (
            ",".join(f'"{names[at : at + 2]}"' for at in range(0, len(names), 2))
            for names in (readable, usable)
        )

        def stores(command: AtCommand) -> Reply:
            if command.form == "=?":
                return [f"+CPMS: ({first}),({second}),({second})"]
            named = [command.text(place) for place in range(len(command.arguments))]
            if not all(name in usable for name in named[1:]):
                raise AtError(cms=CMS_NOT_ALLOWED)
            return handler(command)

        modem._handlers["+CPMS"] = stores
        modem.settings.stores[:] = [usable[:2]] * 3

    return prepare


@pytest.mark.parametrize("usable", ["SM", "ME"])
async def test_27_005_3_2_2_a_store_that_can_only_be_read_is_emptied(
    tmp_path: Path, mock_clock: MockClock, usable: str
) -> None:
    async with gsm_world(
        tmp_path, mock_clock, starts=False, prepare=has_stores("SMME", usable)
    ) as world:
        texts = fill(world, 5)
        stores = world.modem.sim.stores
        await world.until(lambda: len(stores[usable]) == 5)
        stores["ME"], stores["SM"] = stores["SM"], stores["ME"]
        await world.start()
        await all_come_once(world, texts)
        await world.until_state("ready")
        world.deliver("later")
        await world.until(lambda: "later" in world.texts and not world.stored)
        assert world.modem.commands.count("ATZ") == 1


async def test_a_store_that_can_only_be_read_and_then_cannot_costs_nothing_else(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with gsm_world(
        tmp_path, mock_clock, starts=False, prepare=has_stores("SMME", "SM")
    ) as world:

        def refuses(_: AtCommand) -> None:
            if world.modem.settings.stores[0] == "ME":
                raise AtError(cms=CMS_NOT_ALLOWED)

        hinder(world, "+CMGL", refuses)
        world.deliver("one")
        await world.start()
        await world.until(lambda: world.texts == ["one"] and not world.stored)
        await world.until_state("ready")
        assert world.modem.commands.count("ATZ") == 1


@pytest.mark.parametrize("count", [1, 2 * LISTED_FROM])
async def test_a_store_that_is_refused_and_chosen_all_the_same_is_not_read_for_another(
    tmp_path: Path, mock_clock: MockClock, count: int
) -> None:
    def apart(modem: ModemEmulator) -> None:
        has_stores("SM", "SM")(modem)
        modem.faults.report_store = ReportStore.UNREADABLE
        handler = modem._handlers["+CPMS"]

        def stores(command: AtCommand) -> Reply:
            if command.arguments and command.text(0) == "SR":
                modem.settings.stores[0] = "SR"
                raise AtError(cms=CMS_NOT_ALLOWED)
            return handler(command)

        modem._handlers["+CPMS"] = stores

    async with gsm_world(tmp_path, mock_clock, starts=False, prepare=apart) as world:
        world.deliver("at first")
        await world.start()
        await world.until_state("ready")
        assert world.texts == ["at first"]
        for number in range(count):
            world.modem.unsolicited(f'+CDSI: "SR",{number}')
        world.deliver("later")
        await world.until(lambda: world.texts == ["at first", "later"] and not world.stored)
        assert world.modem.commands.count("ATZ") == 1
        refused = 'AT+CPMS="SR","SM","SM"'
        after = [line for before, line in pairwise(world.modem.commands) if before == refused]
        assert after
        assert not any("+CMGL" in line or "+CMGR" in line for line in after)


# ------------------------------------------------------------ what comes directly


async def test_27_005_3_4_4_a_report_that_cannot_be_read_does_not_come_for_ever(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.modem.messages.acknowledge_within_s = 20.0
        world.modem.faults.hands_over_again = True
        cut_short = bytes.fromhex("06070b919799")
        world.network.give_back(world.number, cut_short, is_report=True)
        await world.until(lambda: world.spool.items("broken"))
        await world.until(lambda: asked(world, "+CNMA"))
        event = world.node.send_sms(PERSON, "hello")
        await world.until(lambda: (event, "delivered") in world.node.statuses)
        await world.pass_s(30)
        acknowledged = len(asked(world, "+CNMA"))
        await world.pass_s(100)
        assert len(asked(world, "+CNMA")) == acknowledged
        assert not world.network.waiting(world.number)
        assert len(world.spool.items("broken")) == 1
        assert world.node.figures["unreadable"] == "1"
    assert caplog.text.count("an SMS can't be read") == 1
    assert cut_short.hex() not in world.logged(caplog).lower()


async def test_what_noise_has_spoilt_comes_again(tmp_path: Path, mock_clock: MockClock) -> None:
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        world.modem.messages.acknowledge_within_s = 20.0
        world.modem.faults.hands_over_again = True
        for number in range(READ_ATTEMPTS + 1):
            world.modem.faults.cut_pdu_octets = 1 + number
            event = world.node.send_sms(PERSON, "hello", f"number {number}")
            await world.until(partial(world.node.outcomes.__contains__, event))
            await world.pass_s(1)
            delivered = (event, "delivered")
            assert delivered not in world.node.statuses
            world.modem.faults.cut_pdu_octets = 0
            await world.until(partial(world.node.statuses.__contains__, delivered))
        assert world.spool.items("broken") == []


# ------------------------------------------------------------ what modems do not keep apart


async def test_equal_messages_of_one_second_are_one(tmp_path: Path, mock_clock: MockClock) -> None:
    """TS 23.040 section 9.2.2.1 gives a message no name: what a service centre sends again, since
    it has not heard that the first had come, lies beside it and is the same to the last bit."""
    async with gsm_world(tmp_path, mock_clock) as world:
        await world.until_state("ready")
        tpdu = bytes.fromhex("040B919799112132F400006211127122232102E834")
        world.network.deliver_tpdu(world.number, tpdu)
        world.network.deliver_tpdu(world.number, tpdu)
        later = bytearray(tpdu)
        later[16] ^= 0x10
        world.network.deliver_tpdu(world.number, bytes(later))
        await world.until(lambda: len(world.texts) == 2 and not world.stored)
        await world.pass_s(5)
        assert world.asked == ["hi", "hi"]
