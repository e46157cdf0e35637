"""What SMS may cost, how many are carried out, and what nobody can do whatever is sent."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import given, settings

from billing import sms_desk
from billing.money import J
from billing.outbox import RECIPIENT_MAXIMUM, Outcome
from billing.sms_codes import TRIES_OF_CODE
from billing.sms_commands import parse_phone_untrusted
from billing.sms_limits import RECEIVED_BEFORE_S, RateLimit, SmsRefused
from billing.sms_records import add_record, read_number
from billing.sms_texts import Answer
from billing.tables import SMS_NUMBERS, SMS_RECIPIENTS
from core.api.bridge_messages import (
    AlarmBody,
    SmsBody,
    SmsOptOutRequest,
    SmsReceivedReply,
    SmsReceivedRequest,
    SmsStatusRequest,
)
from core.api.sms_messages import (
    SmsBudgetReply,
    SmsBudgetRequest,
    SmsListReply,
    SmsListRequest,
    SmsSendReply,
    SmsSendRequest,
)
from core.clock import VirtualClock
from core.errors import OperationError
from core.units import DAY_S, MINUTE_S
from tests.support.sms_world import ALICE, BOB, CAROL, World, open_world, with_sms

U = J.unit
AMERICAN = "+12125552671"
pytestmark = pytest.mark.trio


def numbers(count: int) -> list[str]:
    """So many valid numbers."""
    return [f"+7999{index:07}" for index in range(1_000_000, 1_000_000 + count)]


# ---------------------------------------------------------------- rates


async def test_a_flood_from_one_number_is_answered_so_often_a_minute(tmp_path: Path) -> None:
    limits = with_sms(commands_per_minute=10, commands_in_total=100, messages_per_day=40)
    with open_world(tmp_path, limits) as world:
        await world.give(ALICE, "1000")
        flood = [f"flood {number}" for number in range(200)]
        replies = [await world.say("BAL", message=message) for message in flood]
        assert replies[:10] == [f"Balance: {1000 - number} J" for number in range(1, 11)]
        # That it was too much is told once, and what was not carried out stays so.
        assert replies[10] == Answer("limited").text("en")
        assert replies[11:] == [None] * 189
        assert [
            await world.say("BAL", message=f"flood {number}") for number in range(200)
        ] == replies
        assert world.balance(ALICE) == 990 * U
        assert world.wallet.sender.counts["limited"] == 190
        records = world.records()
        assert [record.result for record in records] == ["balance"] * 10 + ["limited"] * 190
        assert {(one.incoming, one.action, one.cost) for one in records[10:]} == {
            (True, "balance", 0)
        }
        assert sum(record.parts for record in records) == 11
        # The others are not kept from it.
        assert await world.say("BAL", BOB) == "Balance: 0 J"
        world.clock.advance_s(MINUTE_S)
        assert await world.say("BAL", message="flood 10") == replies[10]
        assert await world.say("BAL", message="again") == "Balance: 989 J"
        # What is refused is told within the budget, and of no reserve.
        while world.wallet.sender.may_send(BOB, 1):
            await world.say("?", BOB)
            world.clock.advance_s(10)
        world.clock.advance_s(MINUTE_S)
        assert len([await world.told("BAL", message=f"paid {one}") for one in range(8)]) == 8
        assert [await world.say("BAL", message=f"last {one}") for one in range(20)] == [None] * 20


async def test_what_was_sent_minutes_apart_is_carried_out_when_it_comes_at_once(
    tmp_path: Path,
) -> None:
    with open_world(tmp_path, with_sms(commands_per_minute=2)) as world:
        await world.befriend(ALICE, BOB)
        await world.give(ALICE, "1000")
        world.clock.advance_s(DAY_S)
        now_ms = int(world.clock.unix_s() * 1000)
        had = world.balance(BOB)
        for number in range(30):
            received_ms = now_ms - (3_600 + number // 2 * MINUTE_S) * 1000
            reply = await world.say(f"SEND {BOB} 1", ALICE, f"kept {number}", received_ms)
            assert str(reply).startswith(f"Sent 1 J to {BOB}")
        assert world.balance(BOB) == had + 30 * U
        refused = await world.say(f"SEND {BOB} 1", ALICE, "third", now_ms - 3_600_000)
        assert refused == Answer("limited").text("en")
        # What is yet to come, and what is too long ago, are all of this minute.
        odd = [0, -1, now_ms + 3_600_000, 2**62, now_ms - 1000 * (RECEIVED_BEFORE_S + MINUTE_S)]
        replies = [
            await world.say(f"SEND {BOB} 1", ALICE, f"odd {moment}", moment) for moment in odd
        ]
        assert [reply is not None for reply in replies] == [True, True, False, False, False]
        assert world.balance(BOB) == had + 32 * U


async def test_a_flood_of_one_from_each_of_ten_thousand(tmp_path: Path) -> None:
    """Each is answered once or not at all, within the rate of all and the budget; nobody pays for
    what isn't answered. Who pays is answered all the same."""
    with open_world(tmp_path, with_sms(commands_in_total=6_000, messages_per_day=1_000)) as world:
        await world.give(ALICE, "2000")
        replies: list[str | None] = []
        kept: list[str] = []
        refusals: set[str] = set()

        async def one(phone: str) -> None:
            try:
                replies.append(await world.say("BAL", phone, phone))
            except OperationError as error:
                refusals.add(error.code)
                kept.append(phone)

        async with trio.open_nursery() as nursery:
            for phone in numbers(10_000):
                nursery.start_soon(one, phone)
        assert sum(reply == "Balance: 0 J" for reply in replies) == 800
        assert (replies.count(None), len(kept)) == (5_200, 4_000)
        assert refusals == {"sms_rate"}
        # Whoever has brought them brings them again.
        world.clock.advance_s(MINUTE_S)
        again, kept = kept, []
        async with trio.open_nursery() as nursery:
            for phone in again:
                nursery.start_soon(one, phone)
        assert kept == []
        assert sum(record.incoming for record in world.records()) == 10_000
        counts = world.wallet.sender.counts
        assert (counts["sms_rate"], counts["sms_budget"]) == (4_000, 9_200)
        world.clock.advance_s(MINUTE_S)
        # Neither is anybody's account opened who isn't answered, nor is a code or a notice sent.
        assert await world.say("BAL", BOB) is None
        assert world.ledger.find(BOB) is None
        with pytest.raises(SmsRefused):
            await world.wallet.links.start("tg:5", ALICE)
        assert not world.wallet.sender.may_send(ALICE, 1)
        assert await world.say("?") is None
        async with trio.open_nursery() as nursery:
            for number in range(199):
                nursery.start_soon(world.told, "BAL", ALICE, f"paid {number}")
        question = await world.told(f"SEND {BOB} 5")
        # The last part is spent, so that the code confirms nothing; and nothing is charged for it.
        assert await world.say(question.rsplit(" ", 1)[1]) is None
        assert await world.say("BAL") is None
        assert world.balance(ALICE) == 1801 * U
        assert sum(record.parts for record in world.records()) == 1_000
        assert world.total() == 0


async def test_whoever_forges_a_number_leaves_its_owner_the_answers_they_pay_for(
    tmp_path: Path,
) -> None:
    with open_world(tmp_path, with_sms(messages_per_number=20)) as world:
        await world.give(ALICE, "100")
        await world.give(BOB, "100")
        replies = [await world.say("?") for _ in range(100)]
        assert sum(reply is not None for reply in replies) == 16
        # What comes from others takes no part of the rest.
        question = await world.told(f"SEND {ALICE} 5", BOB)
        assert "Sent 5 J" in await world.told(question.rsplit(" ", 1)[1], BOB)
        assert world.events() == []
        answers = [await world.say("BAL") for _ in range(10)]
        assert answers == [f"Balance: {105 - number} J" for number in range(1, 5)] + [None] * 6
        assert world.balance(ALICE) == 101 * U
        assert await world.told("BAL", BOB)


async def test_stop_is_heard_over_the_limit(tmp_path: Path) -> None:
    with open_world(tmp_path, with_sms(commands_per_minute=1)) as world:
        for _ in range(5):
            await world.say("BAL")
        await world.say("STOP")
        world.clock.advance_s(MINUTE_S)
        assert await world.say("BAL") is None


# ---------------------------------------------------------------- the budget


@pytest.mark.parametrize(
    "limits",
    [{"messages_per_day": 10}, {"messages_per_number": 10}, {"messages_in_total": 10}],
)
async def test_the_budget_is_never_exceeded(tmp_path: Path, limits: dict[str, int]) -> None:
    with open_world(tmp_path, with_sms(**limits)) as world:
        await world.give(ALICE, "1000")
        replies: list[str | None] = []

        async def ask(number: int) -> None:
            replies.append(await world.say("BAL" if number % 2 else "?", message=f"rush {number}"))

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(ask, number)
        assert sum(reply is not None for reply in replies) == 10
        paid = sum(record.cost for record in world.records())
        assert world.balance(ALICE) == 1000 * U - paid
        assert paid == U * sum((reply or "").startswith("Balance:") for reply in replies)
        with pytest.raises(SmsRefused) as refused:
            await world.wallet.send_sms(ALICE, "more")
        assert refused.value.code == "sms_budget"
        assert sum(record.parts for record in world.records()) == 10
        # It begins anew the next day, but for the one that is for ever.
        world.clock.advance_s(DAY_S)
        reply = await world.say("BAL")
        assert (reply is None) == ("messages_in_total" in limits)


async def test_parts_are_what_counts(tmp_path: Path) -> None:
    with open_world(tmp_path, with_sms(messages_per_day=5)) as world:
        await world.wallet.send_sms(ALICE, "я" * 71)
        await world.wallet.send_sms(ALICE, "a" * 161)
        with pytest.raises(SmsRefused):
            await world.wallet.send_sms(ALICE, "a" * 161)
        await world.wallet.send_sms(ALICE, "a")
        with pytest.raises(SmsRefused) as refused:
            await world.wallet.send_sms(ALICE, "a" * 1600)
        assert refused.value.code == "sms_length"


async def test_wrong_codes_count_though_nobody_is_told(tmp_path: Path) -> None:
    with open_world(tmp_path, with_sms(messages_per_number=10)) as world:
        await world.give(ALICE, "100")
        for _ in range(7):
            await world.told("?")
        code = (await world.told(f"SEND {BOB} 5")).rsplit(" ", 1)[1]
        wrong = "000000" if code != "000000" else "111111"
        for _ in range(TRIES_OF_CODE):
            assert await world.say(wrong) is None
        assert await world.say(code) is None
        assert world.balance(ALICE) == 100 * U
        # There is room for one who has the right code.
        code = (await world.told(f"SEND {BOB} 5")).rsplit(" ", 1)[1]
        assert "Sent 5 J" in await world.told(code)


async def test_the_operator_is_told_before_and_when_it_is_used_up(tmp_path: Path) -> None:
    with open_world(tmp_path, with_sms(messages_per_day=10, alarm="tg:7")) as world:
        told = []
        for number in range(9):
            await world.wallet.send_sms(ALICE, f"{number}")
            told.append(sum(isinstance(event.body, AlarmBody) for event in world.events()))
        # What is left then takes no answer of two parts any more.
        assert told == [0] * 6 + [1, 1, 2]
        await world.wallet.send_sms(ALICE, "9")
        alarms = [event for event in world.events() if isinstance(event.body, AlarmBody)]
        assert {event.to for event in alarms} == {"tg:7"}
        assert "80 %" in str(alarms[0].body)
        assert "answers paid commands" in str(alarms[0].body)
        assert "100 %" in str(alarms[-1].body)


async def test_sms_go_to_configured_countries_alone(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        for body in ("BAL", "START"):
            assert await world.say(body, AMERICAN) is None
            assert world.ledger.find(AMERICAN) is None
        for text, code in (
            (AMERICAN, "sms_country"),
            ("112", "sms_number"),
            ("Bank", "sms_number"),
        ):
            with pytest.raises(OperationError) as refused:
                await world.wallet.send_sms(text, "hello")
            assert refused.value.code == code
        # Money may go there, where there is an account; who gets it is not told.
        await world.give(ALICE, "100")
        assert "no account" in await world.told(f"SEND {AMERICAN} 5")
        assert world.ledger.find(AMERICAN) is None
        await world.desk.open_user(AMERICAN)
        await world.told((await world.told(f"SEND {AMERICAN} 5")).rsplit(" ", 1)[1])
        assert world.balance(AMERICAN) == 5 * U
        assert world.events() == []


async def test_sms_go_to_mobile_telephones_alone(tmp_path: Path) -> None:
    premium, landline = "+78091234567", "+4930123456"
    with open_world(tmp_path) as world:
        for number in (premium, landline):
            assert await world.say("BAL", number) is None
            assert world.ledger.find(number) is None
            assert not world.wallet.sender.may_send(number, 1)
            for send in (
                world.wallet.send_sms(number, "hello"),
                world.wallet.links.start("tg:5", number),
            ):
                with pytest.raises(SmsRefused) as refused:
                    await send
                assert refused.value.code == "sms_not_mobile"
        await world.give(ALICE, "100")
        assert "no account" in await world.told(f"SEND {landline} 5")
        await world.desk.open_user(landline)
        await world.told((await world.told(f"SEND {landline} 5")).rsplit(" ", 1)[1])
        assert world.balance(landline) == 5 * U
        assert world.events() == []


@pytest.mark.parametrize("limits", [{"messages_in_total": 1}, {"commands_per_minute": 1}])
async def test_stop_and_start_are_heard_whatever_is_used_up(
    tmp_path: Path, limits: dict[str, int]
) -> None:
    with open_world(tmp_path, with_sms(**limits)) as world:

        def has_opted_out() -> bool:
            with world.ledger.store.read() as tables:
                return read_number(tables, ALICE, 0).opted_out

        await world.told("BAL")
        assert (await world.say("BAL") is None) == ("commands_per_minute" not in limits)
        for _ in range(2):
            assert await world.say("STOP") is None
            assert has_opted_out()
            # Heard, and not answered: in turns they would have SMS sent without end.
            assert await world.say("START") is None
            assert not has_opted_out()
        # What changes nothing is no way round the rate.
        if "commands_per_minute" in limits:
            assert await world.say("START") is None
            assert world.records()[-1].result == "limited"
            world.clock.advance_s(MINUTE_S)
            assert await world.say("START") is not None
            await world.say("STOP")
            world.clock.advance_s(MINUTE_S)
            assert await world.told("START") == "SMS are on again. HELP tells the commands"


async def test_what_a_carrier_has_answered_is_heard_over_the_limit_and_not_answered(
    tmp_path: Path,
) -> None:
    with open_world(tmp_path, with_sms(commands_per_minute=2)) as world:
        for number in range(20):
            request = SmsReceivedRequest("twilio", ALICE, BOB, "HELP", f"h{number}", 1, "help")
            assert await world.sms.answer(request) == SmsReceivedReply(None, False)
        assert {record.result for record in world.records()} == {"by_carrier"}
        # Nor does it use up what its sender may ask for.
        assert [await world.say("BAL") for _ in range(2)] == ["Balance: 0 J"] * 2


async def test_what_is_refused_for_now_uses_up_no_rate(tmp_path: Path) -> None:
    config = with_sms(owners={"*": "tg:5"}, commands_per_minute=2, commands_in_total=200)
    with open_world(tmp_path, config) as world:
        full = numbers(RECIPIENT_MAXIMUM)
        for phone in full:
            await world.say("hello", phone)
        for _ in range(100):
            with pytest.raises(OperationError) as refused:
                await world.say("hello again", ALICE, "kept")
            assert refused.value.code == "sms_full"
        answers = [await world.say("BAL") for _ in range(3)]
        assert answers == ["Balance: 0 J"] * 2 + [Answer("limited").text("en")]


async def test_what_is_given_back_is_that_of_its_own_minute_and_leaves_nothing() -> None:
    clock = VirtualClock()
    rate = RateLimit(with_sms(commands_per_minute=2, commands_in_total=100).sms, clock)
    assert rate.admit(ALICE, None) == "now"
    before = rate.minute
    clock.advance_s(MINUTE_S)
    assert [rate.admit(ALICE, None) for _ in range(3)] == ["now", "now", "never"]
    rate.give_back(ALICE, None, before)
    assert rate.admit(ALICE, None) == "never"
    rate.give_back(ALICE, None, rate.minute)
    assert rate.admit(ALICE, None) == "now"
    for phone in numbers(500):
        assert rate.admit(phone, None) == "now"
        rate.give_back(phone, None, rate.minute)
    assert len(rate._numbers) == 1


async def test_a_refused_text_has_nobody_elses_work_done_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_world(tmp_path, with_sms(owners={"*": "tg:5"})) as world:
        for phone in numbers(RECIPIENT_MAXIMUM):
            await world.say("hello", phone)
        recorded = 0

        def count(*arguments: Any) -> None:
            nonlocal recorded
            recorded += 1
            add_record(*arguments)

        monkeypatch.setattr("billing.sms_answers.add_record", count)

        async def refused(number: int) -> None:
            with pytest.raises(OperationError):
                await world.say("hello", ALICE, f"refused {number}")

        async with trio.open_nursery() as nursery:
            for number, phone in enumerate(numbers(100)):
                nursery.start_soon(world.say, "BAL", phone)
                nursery.start_soon(refused, number)
        assert recorded == 100


async def test_what_waits_for_a_number_goes_no_more_after_stop(tmp_path: Path) -> None:
    with open_world(tmp_path, with_sms()) as world:
        for number in (ALICE, ALICE, BOB):
            await world.wallet.send_sms(number, "hello")
        assert len(world.events()) == 3
        assert await world.say("STOP") is None
        assert [event.to for event in world.events()] == [BOB]
        statuses = {one.phone: one.status for one in world.records() if not one.incoming}
        assert statuses == {ALICE: "expired", BOB: "waiting"}
        await world.sms.answer(SmsOptOutRequest(BOB, True))
        assert world.events() == []


async def test_one_id_sends_one_sms_and_no_other(tmp_path: Path) -> None:
    with open_world(tmp_path, with_sms()) as world:
        identity = "0a" * 16
        for _ in range(2):
            await world.sms.answer(SmsSendRequest(ALICE, "hello", identity))
        assert len(world.events()) == 1
        for number, text in ((BOB, "hello"), (ALICE, "я" * 71)):
            with pytest.raises(OperationError) as refused:
                await world.sms.answer(SmsSendRequest(number, text, identity))
            assert refused.value.code == "other_act"
        assert len(world.events()) == 1


async def test_one_that_its_bridge_had_when_stop_came_may_still_be_told_of(
    tmp_path: Path,
) -> None:
    with open_world(tmp_path, with_sms()) as world:
        event = await world.wallet.send_sms(ALICE, "hello")
        await world.say("STOP")
        await world.outbox.acknowledge(bytes.fromhex(event), "done")
        (sent,) = [one for one in world.records() if not one.incoming]
        assert sent.status == "sent"


# ---------------------------------------------------------------- what is kept

OLD, YOUNG, BLOCKED, PINNED = "+79990000001", "+79990000002", "+79990000003", "+79990000004"


def kept(world: World, table: str) -> set[str]:
    with world.ledger.store.read() as tables:
        return {key.decode() for key, _ in tables.items(table)}


async def test_numbers_that_are_idle_are_forgotten_but_for_what_limits_somebody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sms_desk, "PRUNED_AT_ONCE", 2)
    with open_world(tmp_path) as world:
        await world.told("BAL", OLD)
        await world.told((await world.told("PIN 4711", PINNED)).rsplit(" ", 1)[1], PINNED)
        await world.say("STOP", BLOCKED)
        await world.befriend(ALICE, BOB)
        world.clock.advance_s(300 * DAY_S)
        await world.befriend(ALICE, CAROL)
        await world.told("BAL", YOUNG)
        everybody = {OLD, PINNED, BLOCKED, ALICE, BOB, CAROL, YOUNG, "budget"}
        pairs = {f"{ALICE} {BOB}", f"{ALICE} {CAROL}"}
        await world.sms.prune()
        assert (kept(world, SMS_NUMBERS), kept(world, SMS_RECIPIENTS)) == (everybody, pairs)
        # While there are too many, what has been idle for longest goes first; no PIN for that.
        monkeypatch.setattr(sms_desk, "NUMBERS_MAXIMUM", len(everybody) - 1)
        monkeypatch.setattr(sms_desk, "RECIPIENTS_MAXIMUM", 1)
        await world.sms.prune()
        everybody -= {OLD, BOB}
        pairs -= {f"{ALICE} {BOB}"}
        assert (kept(world, SMS_NUMBERS), kept(world, SMS_RECIPIENTS)) == (everybody, pairs)
        monkeypatch.setattr(sms_desk, "NUMBERS_MAXIMUM", 0)
        monkeypatch.setattr(sms_desk, "RECIPIENTS_MAXIMUM", 0)
        await world.sms.prune()
        assert kept(world, SMS_NUMBERS) == everybody
        world.clock.advance_s(3 * DAY_S)
        await world.told("BAL", YOUNG)
        await world.sms.prune()
        assert kept(world, SMS_NUMBERS) == {PINNED, BLOCKED, YOUNG, "budget"}
        assert kept(world, SMS_RECIPIENTS) == set()
        monkeypatch.undo()
        world.clock.advance_s(401 * DAY_S)
        await world.sms.prune()
        assert kept(world, SMS_NUMBERS) == {BLOCKED, "budget"}
        assert await world.say("BAL", BLOCKED) is None
        await world.give(ALICE, "10")
        assert "reply with the code" in await world.told(f"SEND {BOB} 1"), "as to somebody new"


# ---------------------------------------------------------------- sending


async def test_an_sms_goes_by_the_bridge_that_its_number_has_written_through(
    tmp_path: Path,
) -> None:
    with open_world(tmp_path) as world:
        event = await world.wallet.send_sms("8 999 123-45-67", "hello")
        (waiting,) = world.events()
        assert (waiting.id, waiting.to, waiting.body) == (event, ALICE, SmsBody(text="hello"))
        # One that is not configured any more can't send.
        await world.wallet.process_incoming(ALICE, "BAL", "x", bridge="twilio")
        with world.ledger.store.read() as tables:
            assert world.wallet.sender.bridge_of(tables, ALICE) == "gsm"


async def test_what_became_of_an_sms_is_recorded(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        ids = [await world.wallet.send_sms(ALICE, "hello") for _ in range(4)]
        await world.outbox.acknowledge(bytes.fromhex(ids[0]), "done")
        await world.outbox.acknowledge(bytes.fromhex(ids[1]), "failed", "no such number")
        await world.outbox.expire([bytes.fromhex(ids[2])])
        for status in ("sent", "delivered", "sent", "unknown"):
            await world.sms.answer(SmsStatusRequest(ids[0], status))
        await world.sms.answer(SmsStatusRequest("ab" * 16, "delivered"))
        statuses = [record.status for record in world.records()]
        assert statuses == ["delivered", "failed", "expired", "waiting"]


@pytest.mark.parametrize(
    ("outcome", "reported", "statuses"),
    [
        ("done", "delivered", ["sent", "delivered"]),
        ("failed", "delivered", ["failed", "failed"]),
        ("unknown", "undelivered", ["unknown", "undelivered"]),
    ],
)
async def test_what_expired_while_its_bridge_held_it_is_what_the_bridge_tells(
    tmp_path: Path,
    outcome: Outcome,
    reported: Literal["delivered", "undelivered"],
    statuses: list[str],
) -> None:
    with open_world(tmp_path) as world:
        told, reported_first = [
            bytes.fromhex(await world.wallet.send_sms(ALICE, "hello")) for _ in range(2)
        ]
        await world.outbox.expire([told, reported_first])

        def status(place: int) -> str:
            return world.records()[place].status

        assert (status(0), status(1)) == ("expired", "expired")
        for _ in range(2):
            await world.outbox.acknowledge(told, outcome)
            assert status(0) == statuses[0]
        # It is no event any more that could expire again.
        await world.outbox.expire([told])
        await world.sms.answer(SmsStatusRequest(told.hex(), reported))
        assert status(0) == statuses[1]
        await world.sms.answer(SmsStatusRequest(reported_first.hex(), reported))
        await world.outbox.acknowledge(reported_first, "done")
        assert status(1) == reported


async def test_operators_are_answered(tmp_path: Path) -> None:
    with open_world(tmp_path, with_sms(messages_per_day=100)) as world:
        request = SmsSendRequest(ALICE, "hello", "ab" * 16)
        for _ in range(2):
            reply = await world.sms.answer(request)
            assert reply == SmsSendReply("ab" * 16, 1)
        await world.give(ALICE, "10")
        await world.told("BAL")
        page = await world.sms.answer(SmsListRequest(limit=1))
        assert isinstance(page, SmsListReply)
        (item,) = page.messages
        assert (item.direction, item.action, item.cost) == ("in", "balance", "1.000000")
        following = await world.sms.answer(SmsListRequest(before=page.next))
        assert isinstance(following, SmsListReply)
        assert [(one.direction, one.status) for one in following.messages] == [("out", "waiting")]
        assert following.next is None
        budget = await world.sms.answer(SmsBudgetRequest())
        assert isinstance(budget, SmsBudgetReply)
        assert (budget.today, budget.ever, budget.per_day) == (2, 2, 100)
        assert (budget.countries, budget.bridge) == (["DE", "RU"], "gsm")
        assert world.sms.figures() == {"received": 1, "sent": 1, "parts_today": 2, "parts_ever": 2}


async def test_a_bridge_opts_people_out_and_in(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        await world.sms.answer(SmsOptOutRequest(ALICE, True))
        with pytest.raises(SmsRefused):
            await world.wallet.send_sms(ALICE, "hello")
        await world.sms.answer(SmsOptOutRequest(ALICE, False))
        await world.wallet.send_sms(ALICE, "hello")
        with pytest.raises(OperationError):
            await world.sms.answer(SmsOptOutRequest("Bank", True))


# ---------------------------------------------------------------- whatever is sent

WORDS = st.sampled_from(
    [
        *("BAL", "TX", "INFO", "SEND", "REDEEM", "LINK", "PIN", "OK", "?", "HELP", "STOP", "START"),
        *("БАЛ", "ПЕРЕВОД", "1234", "123456", "10", "0", "-1", "1e9", "0.5", "89991234568"),
        *(ALICE, CAROL, "A" * 20, "😀", "$(id)"),
    ]
)
BODIES = st.one_of(
    st.text(st.characters(), max_size=40),
    st.lists(WORDS, max_size=5).map(" ".join),
    st.tuples(st.sampled_from([ALICE, BOB, CAROL]), st.integers(-3, 30)).map(
        lambda pair: f"SEND {pair[0]} {pair[1]}"
    ),
    st.just("the last code"),
)
SENDERS = st.one_of(st.sampled_from([ALICE, BOB, CAROL]), st.text(st.characters(), max_size=20))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(SENDERS, BODIES, st.integers(0, 12)), max_size=25))
async def test_whatever_comes_money_is_kept_and_each_message_has_one_effect(
    messages: list[tuple[str, str, int]],
) -> None:
    with TemporaryDirectory() as folder, open_world(Path(folder)) as world:
        for phone in (ALICE, BOB):
            await world.give(phone, "50")
        answered: dict[int, str | None] = {}
        codes = {ALICE: "000000", BOB: "000000", CAROL: "000000"}
        for sender, body, number in messages:
            if body == "the last code":
                body = codes.get(sender, "")
            balances = [world.balance(phone) for phone in (ALICE, BOB, CAROL)]
            reply = await world.say(body, sender, str(number))
            if number in answered:
                assert reply == answered[number]
                assert balances == [world.balance(phone) for phone in (ALICE, BOB, CAROL)]
            elif reply is not None:
                assert parse_phone_untrusted(sender, "RU") in codes
                codes[sender] = reply.rsplit(" ", 1)[-1][-6:]
            answered[number] = reply
            world.clock.advance_s(1)
        assert world.total() == 0
        assert all(world.balance(phone) >= 0 for phone in (ALICE, BOB, CAROL))
        assert len([one for one in world.records() if one.incoming]) == len(answered)
