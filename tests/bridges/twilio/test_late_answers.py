"""Answers that were too late for the response, and carriers that don't take them: nobody else waits
for that."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from bridges.spool import open_spool
from bridges.twilio.advice import OPTED_OUT
from bridges.twilio.carrier import TEXT_MAXIMUM, Accepted, Again, Outcome, Refused
from bridges.twilio.inbox import KIND, SENDERS_MAXIMUM, Received
from bridges.twilio.late_answers import AT_ONCE_MAXIMUM, LIFETIME_S, SENT_LIFETIME_S
from bridges.twilio.webhooks import twiml
from tests.bridges.twilio.inside import Answered, Inside, inside
from tests.bridges.twilio.world import answer_to, sid_of, sms_fields

pytestmark = pytest.mark.trio

ALICE, BOB = "+4915123456789", "+4915123456790"
AWAY = Again("not reached: ConnectError")
WAY = "twilio"


async def leave(bridge: Inside, number: int, sender: str, body: str = "BAL") -> None:
    """Have an SMS come that is to be answered by one."""
    received_ms = round(bridge.clock.unix_s() * 1000)
    message = Received(WAY, sender, "+15005550006", body, None, received_ms)
    assert await bridge.inbox.put(sid_of(number), message)
    bridge.inbox.later(sid_of(number), message, is_first=True)


async def test_people_who_cannot_be_answered_keep_nobody_else_waiting(tmp_path: Path) -> None:
    async with inside(tmp_path) as bridge:
        bridge.carrier.answers = lambda number: Accepted("") if number == BOB else AWAY
        people = SENDERS_MAXIMUM + AT_ONCE_MAXIMUM
        for number in range(people):
            await leave(bridge, number, f"+7999{number:07}")
        await leave(bridge, people, BOB)
        await bridge.until(lambda: bridge.carrier.sent)
        assert bridge.carrier.sent == [(BOB, answer_to("BAL"))]
        assert len(bridge.node.received) == people + 1
        # What is not answered is on the disk.
        await bridge.until(lambda: len(bridge.spool.items(KIND, 2 * people)) == people)


async def test_who_cannot_be_answered_by_sms_is_answered_in_the_response(tmp_path: Path) -> None:
    async with inside(tmp_path) as bridge:
        bridge.carrier.answers = lambda _: AWAY
        await leave(bridge, 1, ALICE)
        await bridge.until(lambda: bridge.carrier.asked)
        answer = await bridge.signed("/sms", sms_fields(2, "SEND", sender=ALICE))
        assert answer == Answered(200, twiml(answer_to("SEND")))


async def test_one_person_is_answered_in_order_and_each_part_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridges.twilio.carrier.RETRY_FIRST_S", 0.01)
    long = "x" * (2 * TEXT_MAXIMUM)
    async with inside(tmp_path) as bridge:
        outcomes: list[Outcome] = [Accepted(""), AWAY, AWAY]
        bridge.carrier.answers = lambda _: outcomes.pop(0) if outcomes else Accepted("")
        await leave(bridge, 1, ALICE, long)
        await leave(bridge, 2, ALICE, "BAL")
        await bridge.until(lambda: not bridge.spool.items(KIND))
        assert len(bridge.carrier.asked) == 6
        texts = [text for _, text in bridge.carrier.sent]
        assert "".join(texts[:3]) == answer_to(long)
        assert texts[3] == answer_to("BAL")


async def test_no_answer_comes_a_day_late(tmp_path: Path) -> None:
    async with inside(tmp_path) as bridge:
        bridge.node.may_answer = trio.Event()
        await leave(bridge, 1, ALICE)
        await bridge.until(lambda: bridge.node.received)
        bridge.clock.advance_s(LIFETIME_S - 60)
        bridge.node.may_answer.set()
        await bridge.until(lambda: bridge.carrier.sent)
        assert bridge.carrier.lifetimes_s == [pytest.approx(60, abs=1)]
        bridge.node.may_answer = trio.Event()
        await leave(bridge, 2, ALICE)
        await bridge.until(lambda: len(bridge.node.received) == 2)
        bridge.clock.advance_s(LIFETIME_S)
        bridge.node.may_answer.set()
        await bridge.until(lambda: not bridge.spool.items(KIND))
        assert len(bridge.carrier.asked) == 1
        assert bridge.link.figures["answers_lost"] == "1"


async def test_who_wants_no_sms_as_twilio_says_is_told_to_the_node(tmp_path: Path) -> None:
    async with inside(tmp_path) as bridge:
        bridge.carrier.answers = lambda _: Refused("21610", OPTED_OUT)
        await leave(bridge, 1, ALICE)
        await bridge.until(lambda: bridge.node.opted_out)
        assert bridge.node.opted_out == [ALICE]
        await bridge.until(lambda: not bridge.spool.items(KIND))


async def test_sixteen_who_want_no_sms_keep_nobody_waiting_while_the_node_is_silent(
    tmp_path: Path,
) -> None:
    async with inside(tmp_path) as bridge:
        bridge.node.may_opt_out = trio.Event()
        bridge.carrier.answers = lambda number: (
            Accepted("") if number == BOB else Refused("21610", OPTED_OUT)
        )
        for number in range(AT_ONCE_MAXIMUM):
            await leave(bridge, number, f"+7999{number:07}")
        await bridge.until(lambda: len(bridge.carrier.asked) == AT_ONCE_MAXIMUM)
        await leave(bridge, 99, BOB)
        await bridge.until(lambda: bridge.carrier.sent)
        assert not bridge.node.opted_out
        bridge.node.may_opt_out.set()
        await bridge.until(lambda: len(bridge.node.opted_out) == AT_ONCE_MAXIMUM)


async def test_what_was_answered_is_not_answered_again_after_a_clean_stop(tmp_path: Path) -> None:
    async with inside(tmp_path) as bridge:
        answer = await bridge.signed("/sms", sms_fields(1, "BAL", sender=ALICE))
        assert answer == Answered(200, twiml(answer_to("BAL")))
        await leave(bridge, 2, BOB)
        await bridge.until(lambda: bridge.carrier.sent)
        # At once: what was answered is erased some time after that.
    with open_spool(tmp_path / "spool") as spool:
        assert spool.items(KIND) == []


async def test_what_was_answered_is_not_answered_again_though_the_node_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridges.twilio.webhooks.ANSWER_WITHIN_S", 0.05)
    async with inside(tmp_path) as bridge:
        fields = sms_fields(1, "BAL", sender=ALICE)
        assert await bridge.signed("/sms", fields) == Answered(200, twiml(answer_to("BAL")))
        await leave(bridge, 2, BOB)
        await bridge.until(lambda: bridge.carrier.sent and not bridge.spool.items(KIND))
        bridge.node.may_answer = trio.Event()
        for again in (fields, sms_fields(2, "BAL", sender=BOB)):
            assert await bridge.signed("/sms", again) == Answered(200, twiml(None))
        assert not bridge.spool.items(KIND)


async def test_one_that_the_node_may_have_done_is_answered_though_it_comes_as_a_duplicate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridges.twilio.inbox.NODE_TIMEOUT_S", 0.05)
    async with inside(tmp_path) as bridge:
        bridge.node.may_answer = trio.Event()
        await leave(bridge, 1, ALICE)
        await bridge.until(lambda: bridge.node.received[sid_of(1)] >= 2)
        bridge.node.may_answer.set()
        await bridge.until(lambda: bridge.carrier.sent)
        assert bridge.carrier.sent == [(ALICE, answer_to("BAL"))]


async def test_what_was_not_sent_is_answered_by_the_fallback(tmp_path: Path) -> None:
    async with inside(tmp_path) as bridge:
        bridge.carrier.answers = lambda _: Refused("30007", 30007)
        await leave(bridge, 1, ALICE)
        await bridge.until(lambda: bridge.carrier.asked and not bridge.spool.items(KIND))
        fields = sms_fields(1, "BAL", sender=ALICE, ErrorCode="11205")
        assert await bridge.signed("/fallback", fields) == Answered(200, twiml(answer_to("BAL")))


async def test_one_that_is_left_waits_for_an_earlier_one_that_is_answered_in_the_response(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridges.twilio.webhooks.WAITING_MAXIMUM", 1)
    async with inside(tmp_path) as bridge:
        bridge.node.may_answer = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.signed, "/sms", sms_fields(1, "SEND", sender=ALICE))
            await bridge.until(lambda: bridge.node.received)
            await bridge.signed("/sms", sms_fields(2, "BAL", sender=ALICE))
            await wait_all_tasks_blocked(0.1)
            assert list(bridge.node.received) == [sid_of(1)]
            bridge.node.may_answer.set()
        await bridge.until(lambda: bridge.carrier.sent)


async def test_a_fallback_does_not_repeat_what_an_sms_has_said(tmp_path: Path) -> None:
    async with inside(tmp_path) as bridge:
        # As where the connection of /sms broke.
        await leave(bridge, 1, ALICE)
        await bridge.until(lambda: bridge.carrier.sent and not bridge.spool.items(KIND))
        fields = sms_fields(1, "BAL", sender=ALICE, ErrorCode="11205")
        assert await bridge.signed("/fallback", fields) == Answered(200, twiml(None))
        bridge.clock.advance_s(SENT_LIFETIME_S)
        again = await bridge.signed("/fallback", fields)
        assert again == Answered(200, twiml(answer_to("BAL")))
        assert len(bridge.carrier.sent) == 1
