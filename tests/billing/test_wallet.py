"""The SMS wallet's commands: what each does, costs and answers, over a real ledger."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from billing import sms_answers
from billing.ledger import FEES, NODE
from billing.money import J
from billing.outbox import RECIPIENT_MAXIMUM
from billing.pins import Pins
from billing.sms_answers import Answered
from billing.sms_codes import CODE_LIFETIME_S, TRIES_OF_CODE, TRIES_OF_DAY
from billing.sms_records import KEEP_S, SmsRecord
from core.api.bridge_messages import (
    CarrierKeyword,
    ForwardBody,
    SmsBody,
    SmsReceivedReply,
    SmsReceivedRequest,
)
from core.api.messages import VoucherCreateRequest, VouchersReply
from core.errors import OperationError
from core.tables import Writing
from core.units import DAY_S, HOUR_S
from tests.support.sms_world import ALICE, BOB, CAROL, SECRET, World, open_world, with_sms

U = J.unit
pytestmark = pytest.mark.trio


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as world:
        yield world


async def voucher(world: World, amount: str = "5") -> str:
    reply = await world.desk.answer(VoucherCreateRequest(amount, count=1))
    assert isinstance(reply, VouchersReply)
    return reply.codes[0]


# ---------------------------------------------------------------- the table, row by row


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ("BAL", "Balance: 9 J"),
        ("БАЛАНС", "Баланс: 9 J"),
        ("TX", r"\d\d\.\d\d \+10 credit\nBalance: 9 J"),
        ("история", r"\d\d\.\d\d \+10 зачисление\nБаланс: 9 J"),
        ("INFO", r"Account #6 since 2027-01-15\..*1 J each.*"),
        ("ACC", r"Account #6 .*"),
        ("СЧЁТ", r"Счет #6 с 2027-01-15.*"),
    ],
)
async def test_commands_that_tell_something_cost_1(world: World, body: str, answer: str) -> None:
    await world.give(ALICE, "10")
    assert re.fullmatch(answer, await world.told(body))
    assert world.balance(ALICE) == 9 * U
    assert world.ledger.balance(NODE, J).posted == U
    (record,) = world.records()
    assert (record.cost, record.parts, record.phone) == (U, 1, ALICE)


@pytest.mark.parametrize("money", [None, "0.000001", "0.999999"])
async def test_below_1_the_balance_is_free_and_the_others_say_what_is_missing(
    world: World, money: str | None
) -> None:
    if money is not None:
        await world.give(ALICE, money)
    before, shown = world.balance(ALICE), money or "0"
    assert await world.told("BAL") == f"Balance: {shown} J"
    for body in ("TX", "INFO", f"SEND {BOB} 1"):
        needed = "3" if body.startswith("SEND") else "1"
        assert await world.told(body) == f"Not enough: this takes {needed} J, you have {shown} J"
    assert world.balance(ALICE) == before
    assert [record.cost for record in world.records()] == [0] * 4


async def test_exactly_enough_is_enough(world: World) -> None:
    await world.befriend(ALICE, BOB)
    assert world.balance(ALICE) == 0
    await world.give(ALICE, "1")
    assert await world.told("BAL") == "Balance: 0 J"
    await world.give(ALICE, "13")
    assert await world.told(f"SEND {BOB} 11") == f"Sent 11 J to {BOB}, fee 1 J. Balance: 0 J"
    await world.give(ALICE, "12.999999")
    assert "this takes 13 J" in await world.told(f"SEND {BOB} 11")


async def test_what_is_free_costs_nothing(world: World) -> None:
    await world.give(ALICE, "10")
    for body in (
        "?",
        "HELP",
        "ПОМОЩЬ",
        "LINK",
        "PIN 1234",
        "PIN",
        "hello",
        "REDEEM",
        "SEND",
        "SEND 1",
    ):
        assert await world.told(body), body
    assert world.balance(ALICE) == 10 * U


async def test_a_first_sms_makes_the_wallet(world: World) -> None:
    assert world.ledger.find(CAROL) is None
    assert await world.told("BAL", CAROL) == "Balance: 0 J"
    assert world.ledger.find(CAROL) is not None
    # Of digits alone nobody knows the language, but where the number is from.
    assert (await world.told("999999", CAROL)).startswith("This code is wrong")
    assert (await world.told("999999", ALICE)).startswith("Код неверен")


async def test_a_frozen_account_pays_for_nothing(world: World) -> None:
    await world.give(ALICE, "10")
    await world.ledger.freeze(ALICE, True)
    assert await world.told("BAL") == "The account is frozen; ask the operator"
    assert "frozen" in await world.told("TX")
    assert world.balance(ALICE) == 10 * U


# ---------------------------------------------------------------- SEND


async def test_send_to_a_new_recipient_is_confirmed_by_a_code_that_goes_to_the_phone(
    world: World,
) -> None:
    await world.give(ALICE, "100")
    question = await world.told("send 8 999 123-45-68 10")
    match = re.fullmatch(
        rf"To send 10 J to \{BOB} \(fee 1 J\) reply with the code (\d{{6}})", question
    )
    assert match is not None
    assert world.balance(ALICE) == 100 * U
    assert world.ledger.find(BOB) is None
    assert await world.told(match[1]) == f"Sent 10 J to {BOB}, fee 1 J. Balance: 88 J"
    assert world.balance(BOB) == 10 * U
    assert world.ledger.balance(FEES, J).posted == U
    assert await world.told(match[1]) == "Код неверен или устарел; начните заново"
    # The second time it is no new recipient any more; the fee is 1 % from 100 on.
    assert await world.told(f"SEND {BOB} 10") == f"Sent 10 J to {BOB}, fee 1 J. Balance: 76 J"


async def test_whoever_gets_money_is_told_within_the_same_transaction(world: World) -> None:
    await world.befriend(ALICE, BOB)
    (event,) = world.events()
    assert event.to == BOB
    assert isinstance(event.body, SmsBody)
    assert event.body.text == f"+1 J от {ALICE}. Баланс 1"
    out = [record for record in world.records() if not record.incoming]
    assert [(record.id.hex(), record.status) for record in out] == [(event.id, "waiting")]
    await world.outbox.acknowledge(bytes.fromhex(event.id), "unknown")
    assert [record.status for record in world.records() if not record.incoming] == ["unknown"]


async def test_more_than_is_configured_is_confirmed_each_time(world: World) -> None:
    await world.befriend(ALICE, BOB)
    await world.give(ALICE, "1000")
    assert "Sent 100 J" in await world.told(f"SEND {BOB} 100")
    question = await world.told(f"ПЕРЕВОД {BOB} 100.000001")
    assert question.startswith(f"100.000001 J на {BOB}, сбор 1.000001 J: ответьте ")
    before = world.balance(ALICE)
    answer = await world.told(question.rsplit(" ", 1)[1])
    assert answer.startswith(f"{BOB}: 100.000001 J, сбор 1.000001 J.")
    assert world.balance(ALICE) == before - 100_000_001 - 1_000_001 - U


async def test_the_limit_of_a_day_holds_and_ends_with_it(world: World) -> None:
    await world.befriend(ALICE, BOB)
    await world.give(ALICE, "5000")
    for _ in range(9):
        assert "Sent" in await world.told(f"SEND {BOB} 100")
    refused = await world.told(f"SEND {BOB} 100")
    assert refused == "Over the limit of a day: 1000 J; left today: 99 J"
    assert "Sent" in await world.told(f"SEND {BOB} 99")
    world.clock.advance_s(DAY_S)
    assert "Sent" in await world.told(f"SEND {BOB} 100")


async def test_a_code_is_good_for_few_tries_and_minutes(world: World) -> None:
    await world.give(ALICE, "100")
    code = (await world.told(f"SEND {BOB} 10")).rsplit(" ", 1)[1]
    wrong = "000000" if code != "000000" else "111111"
    for _ in range(TRIES_OF_CODE):
        await world.told(wrong)
    assert "неверен" in await world.told(code)
    code = (await world.told(f"SEND {BOB} 10")).rsplit(" ", 1)[1]
    world.clock.advance_s(CODE_LIFETIME_S)
    assert "неверен" in await world.told(code)
    # Nor does anybody else's telephone confirm it.
    code = (await world.told(f"SEND {BOB} 10")).rsplit(" ", 1)[1]
    assert "wrong" in await world.told(code, CAROL)
    for _ in range(TRIES_OF_DAY):
        await world.told(wrong)
    # No code is sent that could not work.
    for body in (f"SEND {BOB} 10", "PIN 4711", wrong):
        assert (await world.told(body)).startswith(("Too many wrong codes", "Слишком много"))
    world.clock.advance_s(DAY_S)
    assert "reply with the code" in await world.told(f"SEND {BOB} 10")
    assert world.balance(ALICE) == 100 * U


async def test_a_pin_is_set_by_the_phone_alone_and_confirms(world: World) -> None:
    await world.give(ALICE, "1000")
    assert "blocked or not set" in await world.told(f"SEND {BOB} 10 PIN 4711")
    question = await world.told("PIN 4711")
    assert "blocked or not set" in await world.told(f"SEND {BOB} 10 PIN 4711")
    assert (
        await world.told(question.rsplit(" ", 1)[1])
        == "The PIN is set: SEND +79991234567 10 PIN ****"
    )
    assert "Sent 200 J" in await world.told(f"SEND {BOB} 200 PIN 4711")
    for left in (2, 1, 0):
        assert await world.told(f"SEND {BOB} 1 PIN 4712") == f"Wrong PIN; tries left: {left}"
    assert "blocked" in await world.told(f"SEND {BOB} 1 PIN 4711")
    # A code from the phone is as good, and makes a new one.
    await world.told((await world.told("PIN 9999")).rsplit(" ", 1)[1])
    assert "Sent 1 J" in await world.told(f"SEND {BOB} 1 PIN 9999")
    stored = b"".join(
        value for _, value in world_items(world, "sms_numbers") + world_items(world, "sms_codes")
    )
    assert b"4711" not in stored
    assert b"9999" not in stored


def world_items(world: World, table: str) -> list[tuple[bytes, bytes]]:
    with world.ledger.store.read() as tables:
        return tables.items(table)


async def test_a_send_without_the_pin_gives_no_more_tries_of_it(world: World) -> None:
    await world.befriend(ALICE, BOB)
    await world.give(ALICE, "100")
    await world.told((await world.told("PIN 4711")).rsplit(" ", 1)[1])
    for left in (2, 1):
        assert f"tries left: {left}" in await world.told(f"SEND {BOB} 1 PIN 4712")
    # Whoever forges a sender can send these, too.
    assert "Sent 1 J" in await world.told(f"SEND {BOB} 1")
    assert "tries left: 0" in await world.told(f"SEND {BOB} 1 PIN 4712")
    assert "blocked" in await world.told(f"SEND {BOB} 1 PIN 4711")


async def test_a_pin_that_was_right_does_not_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = Pins(world.ledger.store, world.wallet.sender.budget, SECRET)
    new = await pins.hash("9999")
    await world.ledger.store.write(partial(pins.set, phone=ALICE, hashed=await pins.hash("4711")))
    matches = pins._matches

    def change_meanwhile(pin: str, stored: str) -> bool:
        change = partial(pins.set, phone=ALICE, hashed=new)
        world.ledger.store.submit(change).result()
        return matches(pin, stored)

    monkeypatch.setattr(pins, "_matches", change_meanwhile)
    await pins.check(ALICE, "4711")
    monkeypatch.undo()
    with pytest.raises(Answered):
        await pins.check(ALICE, "4711")
    await pins.check(ALICE, "9999")


async def test_many_wrong_pins_at_once_are_three(world: World) -> None:
    await world.give(ALICE, "100")
    await world.told((await world.told("PIN 4711")).rsplit(" ", 1)[1])
    answers: list[str] = []

    async def guess(pin: int) -> None:
        answers.append(await world.told(f"SEND {BOB} 1 PIN {pin}"))

    async with trio.open_nursery() as nursery:
        for pin in range(4700, 4711):
            nursery.start_soon(guess, pin)
    assert sum("Wrong PIN" in answer for answer in answers) == 3
    assert sum("blocked" in answer for answer in answers) == 8


async def test_a_wrong_pin_that_is_brought_twice_at_once_counts_once(world: World) -> None:
    await world.give(ALICE, "100")
    await world.told((await world.told("PIN 4711")).rsplit(" ", 1)[1])
    answers: list[str] = []

    async def guess() -> None:
        answers.append(await world.told(f"SEND {BOB} 1 PIN 4712", message="one"))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(guess)
    assert len(set(answers)) == 1
    assert answers[0].startswith("Wrong PIN")
    assert "2" in answers[0]


# ---------------------------------------------------------------- REDEEM


async def test_a_voucher_is_paid_in_once(world: World) -> None:
    code = await voucher(world)
    assert await world.told(f"redeem {code.lower()}") == "Voucher: +5 J. Balance: 5 J"
    assert await world.told(f"REDEEM {code}") == "This voucher has been redeemed already"
    assert await world.told(f"ВАУЧЕР {code}", BOB) == "Этот ваучер уже погашен"
    assert await world.told("REDEEM " + "A" * 20) == "There is no such voucher"
    assert await world.told("REDEEM 123") == "Write: REDEEM and the 20 characters of the voucher"
    assert world.balance(ALICE) == 5 * U
    assert not [record for record in world.records() if code in str(record)]


# ---------------------------------------------------------------- once


async def test_a_duplicate_is_answered_the_same_and_does_nothing(world: World) -> None:
    await world.befriend(ALICE, BOB)
    await world.give(ALICE, "100")
    code = await voucher(world)
    for body in ("BAL", "TX", "INFO", "?", "LINK", "PIN 12345", f"SEND {BOB} 5", f"REDEEM {code}"):
        first = await world.told(body, message=f"twice {body}")
        balance, records = world.balance(ALICE), len(world.records())
        world.clock.advance_s(30 * DAY_S)
        received = await world.wallet.receive_untrusted(ALICE, body, f"twice {body}", "gsm")
        assert received == (first, True)
        assert (world.balance(ALICE), len(world.records())) == (balance, records)
    # Another bridge has ids of its own.
    again = await world.wallet.receive_untrusted(ALICE, "BAL", "twice BAL", "twilio")
    assert not again.duplicate


async def test_two_messages_that_nobody_has_named_are_two(world: World) -> None:
    await world.befriend(ALICE, BOB)
    await world.give(ALICE, "100")
    before, had = len(world.records()), world.balance(BOB)
    # As a caller may who has no ids: it can't ask again, and what it gives is new.
    for body, left in (("BAL", 99), ("BAL", 98), (f"SEND {BOB} 5", 91), (f"SEND {BOB} 5", 84)):
        reply = await world.wallet.process_incoming(ALICE, body)
        assert reply is not None
        assert reply.endswith(f"Balance: {left} J")
        assert world.balance(ALICE) == left * U
    assert world.balance(BOB) == had + 10 * U
    records = [one for one in world.records()[before:] if one.incoming]
    assert [one.action for one in records] == ["balance", "balance", "send", "send"]
    assert len({one.id for one in records}) == 4


async def test_a_duplicate_after_a_restart_is_one(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        await world.befriend(ALICE, BOB)
        await world.give(ALICE, "100")
        first = await world.told(f"SEND {BOB} 5", message="x")
        question = await world.told(f"SEND {CAROL} 5", message="y")
        balance, clock = world.balance(ALICE), world.clock
    with open_world(tmp_path, clock=clock) as world:
        assert await world.told(f"SEND {BOB} 5", message="x") == first
        assert await world.told(f"SEND {CAROL} 5", message="y") == question
        assert world.balance(ALICE) == balance
        assert "Sent 5 J" in await world.told(question.rsplit(" ", 1)[1], message="z")


async def test_the_same_message_many_times_at_once_is_done_once(world: World) -> None:
    await world.befriend(ALICE, BOB)
    await world.give(ALICE, "100")
    code = await voucher(world)
    for body in (f"SEND {BOB} 5", "BAL", f"REDEEM {code}", "?"):
        answers: set[str | None] = set()

        async def one(body: str = body, answers: set[str | None] = answers) -> None:
            answers.add(await world.say(body, message=body))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one)
        assert len(answers) == 1, body
    assert world.balance(ALICE) == (100 - 5 - 1 - 1 - 1 + 5) * U
    assert len([one for one in world.records() if one.action in ("send", "balance")]) == 2 + 1


@pytest.mark.parametrize("body", ["BAL", "SEND", "REDEEM"])
async def test_what_breaks_in_its_transaction_has_not_happened(
    world: World, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    """The disk says no when all but the record is written: then nothing is, and it may come
    again."""
    await world.befriend(ALICE, BOB)
    await world.give(ALICE, "100")
    body = {"SEND": f"SEND {BOB} 5", "REDEEM": f"REDEEM {await voucher(world)}"}.get(body, body)
    before, recipients = world.balance(ALICE), world.balance(BOB)
    events, records = world.events(), world.records()

    def fail(writing: Writing, record: SmsRecord) -> None:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(sms_answers, "add_record", fail)
        with pytest.raises(OSError, match="no space"):
            await world.say(body, message="again")
    assert (world.balance(ALICE), world.balance(BOB)) == (before, recipients)
    assert (world.events(), world.records()) == (events, records)
    await world.told(body, message="again")
    balance = world.balance(ALICE)
    assert balance != before
    await world.told(body, message="again")
    assert world.balance(ALICE) == balance
    assert len(world.records()) > len(records)


async def test_a_hundred_sends_at_once_spend_what_there_is(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        await world.befriend(ALICE, BOB)
        await world.give(ALICE, "30")
        answers: list[str] = []

        async def send(number: int) -> None:
            answers.append(await world.told(f"SEND {BOB} 1", message=f"at once {number}"))

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(send, number)
        assert sum(answer.startswith("Sent 1 J") for answer in answers) == 10
        assert sum(answer.startswith("Not enough") for answer in answers) == 90
        assert (world.balance(ALICE), world.balance(BOB)) == (0, 11 * U)
        assert world.total() == 0


async def test_the_limit_of_a_day_holds_for_what_comes_at_once(tmp_path: Path) -> None:
    with open_world(tmp_path, with_sms(daily_limit="10")) as world:
        await world.befriend(ALICE, BOB)
        await world.give(ALICE, "1000")
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(world.told, f"SEND {BOB} 1", ALICE, f"rush {number}")
        assert world.balance(BOB) == 10 * U


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (f"SEND {BOB} -5", "An amount"),
        (f"SEND {BOB} 0", "An amount"),
        (f"SEND {BOB} 1e9", "An amount"),
        (f"SEND {BOB} 1²", "An amount"),
        (f"SEND {BOB} 10 EUR", "An amount"),
        (f"ПЕРЕВОД {BOB} 10 руб", "Сумма в J"),
        (f"SEND {BOB} 1 000", "An amount"),
        (f"SEND {BOB} 1 000 J", "An amount"),
        (f"SEND {BOB} 0.0000001", "An amount"),
        (f"SEND {BOB} 99999999999999999999", "An amount"),
        (f"SEND {BOB} 1000000000", "Not enough"),
        ("SEND 112 5", "This is no telephone number"),
        ("SEND 79991234567123456789 5", "This is no telephone number"),
        ("SEND bank 5", "This is no telephone number"),
        ("SEND issue 5", "This is no telephone number"),
        ("SEND tg:5 5", "This is no telephone number"),
        (f"SEND {BOB} 1.000", "An amount"),
        (f"SEND {BOB} 1,000", "An amount"),
        ("SEND +49 160 1234567 1 500", "An amount"),
        ("SEND +49 160 1234567 1 500 PIN 4321", "An amount"),
        ("SEND +7 999 123 45 68 500", "Where does the number end?"),
        ("SEND +49 160 1234567 1 50", "Where does the number end?"),
        ("SEND +4930123456 5", "Not sent: this number has no account, and is no mobile"),
        ("SEND +12125552671 5", "Not sent: this number has no account, and no SMS go to its"),
        (f"SEND {ALICE} 5", "This number is your own account"),
        ("SEND 8 999 123 45 67 5", "This number is your own account"),
        ("SEND $(reboot) `id` 5", "This is no telephone number"),
        ("SEND '; DROP TABLE accounts; -- 5", "This is no telephone number"),
        ("SEND 😀 5", "This is no telephone number"),
        (f"SEND {BOB} 😀5", "An amount"),
        ("SEND \x00\x00 5", "Write: SEND"),
    ],
)
async def test_what_is_wrong_is_told_and_costs_nothing(
    world: World, body: str, answer: str
) -> None:
    await world.give(ALICE, "100")
    assert (await world.told(body)).startswith(answer)
    assert world.balance(ALICE) == 100 * U
    assert world.total() == 0


@pytest.mark.parametrize(
    "sender", ["Bank", "112", "+7999", "8" * 20, "", "\x00", "\ud800", "tg:5", "issue"]
)
@pytest.mark.parametrize("body", ["BAL", "STOP", "hello", "SEND +79991234568 5"])
async def test_a_sender_that_is_no_number_has_no_wallet(
    world: World, sender: str, body: str
) -> None:
    accounts = len(world.ledger.accounts(0, 100))
    assert await world.say(body, sender) is None
    assert len(world.ledger.accounts(0, 100)) == accounts
    (record,) = world.records()
    assert (record.result, record.cost, record.parts) == ("no_number", 0, 0)


async def test_long_texts_and_other_alphabets_are_texts(world: World) -> None:
    for body in (
        "x" * 1600,
        "я" * 1600,
        "😀" * 800,
        "BAL" * 2000,
        "\x00" * 100,
        "\ud800",
        "；｜＆",
    ):
        world.clock.advance_s(HOUR_S)
        assert "BAL" in (await world.told(body)).replace("БАЛ", "BAL")


async def test_what_nobody_understands_is_answered_once_an_hour(world: World) -> None:
    assert await world.say("hello") is not None
    assert await world.say("I am a robot, too") is None
    assert await world.say("?") is not None
    # Who has mistyped a command is not left alone.
    for _ in range(2):
        assert await world.say("balanse") is not None
        assert await world.say("+79991234567 5 rubles") is not None
    world.clock.advance_s(HOUR_S)
    assert await world.say("hello") is not None


# ---------------------------------------------------------------- owners, opting out, records


async def test_what_is_no_command_goes_to_its_owner(tmp_path: Path) -> None:
    owners = {"sim1": "tg:5", "+4915123456789": "https://example.org/sms"}
    with open_world(tmp_path, with_sms(owners=owners)) as world:
        assert await world.say("Hello, is the flat free?") is None
        assert await world.say("Your code is 4711", "Bank") is None
        assert "Balance" in await world.told("BAL")
        reply = await world.wallet.process_incoming(
            BOB, "to the URL", "u", bridge="twilio", recipient=CAROL, received_ms=5
        )
        assert reply is None
        events = world.events()
        assert [event.to for event in events] == ["tg:5", "tg:5", "https://example.org/sms"]
        assert events[1].body == ForwardBody(
            sender="Bank",
            recipient="sim1",
            text="Your code is 4711",
            received_ms=int(world.clock.unix_s() * 1000),
        )
        # The record knows that it came; the text waits in the outbox alone.
        assert b"4711" not in msgspec.msgpack.encode(world.records())
        help_text = await world.wallet.process_incoming(BOB, "hi", "v", recipient="sim2")
        assert help_text is not None


async def test_no_text_of_an_owners_is_lost_to_the_rate(tmp_path: Path) -> None:
    with open_world(tmp_path, with_sms(owners={"sim1": "tg:5"}, commands_per_minute=10)) as world:
        for number in range(10):
            await world.say(f"hello {number}")
        for _ in range(2):
            with pytest.raises(OperationError) as refused:
                await world.say("hello 10", message="again")
            assert refused.value.code == "sms_rate"
        assert "was not carried out" in await world.told("BAL")
        world.clock.advance_s(60)
        assert await world.say("hello 10", message="again") is None
        assert len(world.events()) == 11
        assert [record.result for record in world.records()].count("forwarded") == 11


async def test_no_code_and_no_pin_goes_to_an_owner(tmp_path: Path) -> None:
    with open_world(tmp_path, with_sms(owners={"sim1": "tg:5"})) as world:
        await world.give(ALICE, "100")
        await world.give(BOB, "1")
        assert (await world.told("123456")).startswith("Код неверен")
        for body in ("123 45", "SNED +79991234568 5 PIN 4321", "LINK ABCD-EFGH"):
            assert "BAL" in (await world.told(body)).replace("БАЛ", "BAL")
        question = await world.told(f"SEND {BOB} 5")
        assert "Sent 5 J" in await world.told(question.rsplit(" ", 1)[1])
        assert (await world.told(question.rsplit(" ", 1)[1])).startswith("Код неверен")
        assert not [one for one in world.events() if isinstance(one.body, ForwardBody)]
        # A bank's are no codes of ours.
        assert await world.say("123456", "Bank") is None
        (event,) = [one for one in world.events() if isinstance(one.body, ForwardBody)]
        assert isinstance(event.body, ForwardBody)
        assert event.body.text == "123456"


async def test_who_wants_no_sms_gets_none_until_start(world: World) -> None:
    await world.give(ALICE, "100")
    assert await world.say("STOP") is None
    assert await world.say("STOP") is None
    for body in ("BAL", "?", "hello", f"SEND {BOB} 5"):
        assert await world.say(body) is None
    assert world.balance(ALICE) == 100 * U
    await world.give(BOB, "100")
    question = await world.told(f"SEND {ALICE} 5", BOB)
    await world.told(question.rsplit(" ", 1)[1], BOB)
    assert world.events() == []
    assert await world.told("START") == "SMS are on again. HELP tells the commands"
    assert await world.told("BAL") == "Balance: 104 J"


async def test_what_a_carrier_has_answered_itself_is_recorded_and_not_answered(
    world: World,
) -> None:
    async def hear(message: str, body: str, keyword: CarrierKeyword | None = None) -> str | None:
        request = SmsReceivedRequest("twilio", ALICE, CAROL, body, message, 1, keyword)
        reply = await world.sms.answer(request)
        assert isinstance(reply, SmsReceivedReply)
        return reply.reply

    await world.give(ALICE, "100")
    # Who has never said STOP says `Yes` to somebody else.
    assert await hear("1", "Yes", "start") == await hear("1", "Yes", "start")
    assert world.records()[-1].action == "text"
    assert await hear("2", "Fin", "stop") is None
    assert await hear("3", "BAL") is None
    assert await hear("4", "Yes", "start") is None
    assert await hear("5", "INFO", "help") is None
    # Again, and late: START was said since.
    assert await hear("2", "Fin", "stop") is None
    assert await hear("6", "BAL") == "Balance: 99 J"
    assert [(record.action, record.result, record.cost) for record in world.records()[1:]] == [
        ("stop", "stopped", 0),
        ("balance", "sms_opted_out", 0),
        ("start", "started", 0),
        ("help", "by_carrier", 0),
        ("balance", "balance", U),
    ]
    reply = await world.sms.answer(
        SmsReceivedRequest("twilio", "Bank", CAROL, "STOP", "7", 1, "stop")
    )
    assert reply == SmsReceivedReply(None, False)
    assert world.records()[-1].result == "no_number"


async def test_a_text_for_which_its_owner_has_no_room_has_no_effect(tmp_path: Path) -> None:
    with open_world(tmp_path, with_sms(owners={"sim1": "tg:5"})) as world:
        for number in range(RECIPIENT_MAXIMUM):
            assert await world.say(f"hello {number}") is None
        for _ in range(2):
            with pytest.raises(OperationError) as refused:
                await world.say("one more", message="again")
            assert refused.value.code == "sms_full"
        # Commands have an answer all the same.
        assert await world.told("BAL")
        (first, *_) = world.events()
        await world.outbox.acknowledge(bytes.fromhex(first.id), "done")
        assert await world.say("one more", message="again") is None
        texts = [event.body.text for event in world.events() if isinstance(event.body, ForwardBody)]
        assert len(texts) == RECIPIENT_MAXIMUM
        assert texts[-1] == "one more"


async def test_records_and_codes_are_forgotten_in_time(world: World) -> None:
    await world.give(ALICE, "100")
    await world.told("BAL", message="old")
    await world.told("LINK")
    await world.told(f"SEND {BOB} 5")
    assert len(world_items(world, "sms_codes")) == 2
    world.clock.advance_s(CODE_LIFETIME_S)
    await world.sms.prune()
    assert world_items(world, "sms_codes") == []
    assert len(world.records()) == 3
    world.clock.advance_s(KEEP_S - CODE_LIFETIME_S)
    await world.told("BAL")
    world.clock.advance_s(1)
    await world.sms.prune()
    assert [record.action for record in world.records()] == ["balance"]
    assert len(world_items(world, "sms_places")) == 1


async def test_no_store_of_ours_holds_a_text_or_a_code(world: World) -> None:
    await world.give(ALICE, "100")
    question = await world.told(f"SEND {BOB} 5")
    link = await world.told("LINK")
    await world.told("my secret diary")
    code = question.rsplit(" ", 1)[1]
    link_code = re.search(r"[A-Z2-7]{4}-[A-Z2-7]{4}", link)
    assert link_code is not None
    stored = b"".join(
        key + value
        for table in ("sms_records", "sms_places", "sms_numbers", "sms_codes", "sms_recipients")
        for key, value in world_items(world, table)
    )
    for secret in (code, link_code[0], link_code[0].replace("-", ""), "diary"):
        assert secret.encode() not in stored
