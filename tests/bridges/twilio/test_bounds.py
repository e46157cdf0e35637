"""What is over the webhooks' bounds, and what is refused: nothing of it is lost that may come, and
the log says why and no more."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio

from bridges.twilio import webhooks
from bridges.twilio.form import BODY_MAXIMUM_BYTES
from bridges.twilio.inbox import KIND
from bridges.twilio.webhooks import REQUESTS_MAXIMUM, WAITING_MAXIMUM, twiml
from core.log import REPEATED_INTERVAL_S, TextFormatter
from tests.bridges.twilio.inside import Answered, Inside, inside
from tests.bridges.twilio.world import (
    ACCOUNT,
    PERSON,
    PHONE_SECRET,
    TOKEN,
    answer_to,
    sid_of,
    sms_fields,
)

pytestmark = pytest.mark.trio

LONG_S = 3600
EMPTY = Answered(200, twiml(None))


def number_of(message: int) -> str:
    """Each is another person's."""
    return f"+7999{message:07}"


def fields_of(message: int) -> dict[str, str]:
    return sms_fields(message, f"BAL {message}", sender=number_of(message))


def answer_of(message: int) -> Answered:
    return Answered(200, twiml(answer_to(f"BAL {message}")))


def answered_by_sms(bridge: Inside) -> list[str]:
    for number, text in bridge.carrier.sent:
        assert text == answer_to(f"BAL {int(number[5:])}")
    return sorted(number for number, _ in bridge.carrier.sent)


async def test_who_would_wait_beside_too_many_is_answered_by_sms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "ANSWER_WITHIN_S", LONG_S)
    more = 8
    async with inside(tmp_path) as bridge:
        bridge.node.may_answer = trio.Event()
        answers: dict[int, Answered] = {}

        async def ask(message: int) -> None:
            answers[message] = await bridge.signed("/sms", fields_of(message))

        async with trio.open_nursery() as nursery:
            for message in range(WAITING_MAXIMUM):
                nursery.start_soon(ask, message)
            await bridge.until(lambda: bridge.webhooks._waiting == WAITING_MAXIMUM)
            for message in range(WAITING_MAXIMUM, WAITING_MAXIMUM + more):
                await ask(message)
                assert answers.pop(message) == EMPTY
            assert not answers
            assert not bridge.carrier.sent
            # What was acknowledged is on the disk.
            assert len(bridge.spool.items(KIND)) == WAITING_MAXIMUM + more
            bridge.node.may_answer.set()
        assert answers == {message: answer_of(message) for message in range(WAITING_MAXIMUM)}
        await bridge.until(lambda: not bridge.spool.items(KIND))
        over = range(WAITING_MAXIMUM, WAITING_MAXIMUM + more)
        assert answered_by_sms(bridge) == [number_of(message) for message in over]
        assert bridge.node.received == {
            sid_of(message): 1 for message in range(WAITING_MAXIMUM + more)
        }
        # Whoever comes now is answered at once again.
        assert await bridge.signed("/sms", fields_of(1_000)) == answer_of(1_000)


async def test_what_is_over_all_requests_is_refused_for_now_and_lost_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "ANSWER_WITHIN_S", LONG_S)
    monkeypatch.setattr(webhooks, "READ_TIMEOUT_S", LONG_S)
    async with inside(tmp_path) as bridge:
        may_come = trio.Event()
        answers: dict[int, Answered] = {}

        async def ask(message: int) -> None:
            fields = fields_of(message)
            answers[message] = await bridge.signed("/sms", fields, may_come=may_come)

        async with trio.open_nursery() as nursery:
            for message in range(REQUESTS_MAXIMUM):
                nursery.start_soon(ask, message)
            await bridge.until(lambda: bridge.webhooks._requests == REQUESTS_MAXIMUM)
            last = fields_of(REQUESTS_MAXIMUM)
            for path in ("/sms", "/fallback", "/status"):
                assert (await bridge.signed(path, {**last, "MessageStatus": "sent"})).status == 503
            assert (await bridge.signed_by_phone({"event": "system:ping"})).status == 503
            # A proxy that looks whether it lives is not among them.
            assert (await bridge.call("/healthz", method="GET")).status == 200
            assert not bridge.spool.items(KIND)
            may_come.set()
        # Twilio brings to the fallback what was refused.
        refused = await bridge.signed("/fallback", {**last, "ErrorCode": "11200"})
        assert refused == answer_of(REQUESTS_MAXIMUM)
        await bridge.until(lambda: not bridge.spool.items(KIND))
        by_sms = set(answered_by_sms(bridge))
        assert len(by_sms) == len(bridge.carrier.sent)
        for message, answer in answers.items():
            is_late = number_of(message) in by_sms
            assert answer == (EMPTY if is_late else answer_of(message)), message
        assert len(answers) == REQUESTS_MAXIMUM
        assert bridge.node.received == {
            sid_of(message): 1 for message in range(REQUESTS_MAXIMUM + 1)
        }


async def test_what_is_refused_is_logged_with_its_reason_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = "a very private text"
    forged = {"X-Twilio-Signature": "Zm9yZ2VkIHNpZ25hdHVyZQ=="}
    old = {"event": "sms:received", "payload": {"sender": PERSON, "message": private}}
    body = b"From=%2B79995550100&Body=a+very+private+text"
    stranger = {**sms_fields(1, private), "AccountSid": ACCOUNT[:-1] + "f"}
    async with inside(tmp_path) as bridge:
        answers = [
            await bridge.call("/sms", body, forged),
            await bridge.call("/status", body, forged),
            await bridge.call("/sms", body + b"x" * BODY_MAXIMUM_BYTES, forged),
            await bridge.call("/android", b"x" * (BODY_MAXIMUM_BYTES + 1)),
            await bridge.signed_by_phone(old, age_s=301),
            await bridge.signed_by_phone(old, age_s=-301),
            await bridge.call("/android", b"{}", {"X-Timestamp": "1", "X-Signature": "00" * 32}),
            await bridge.signed("/sms", stranger),
        ]
        with monkeypatch.context() as slow:
            slow.setattr(webhooks, "READ_TIMEOUT_S", 0.01)
            never = trio.Event()
            answers.append(await bridge.signed("/sms", sms_fields(1, private), may_come=never))
        assert not bridge.node.received
        figures = {name: bridge.link.figures[f"refused_{name}"] for name in ("403", "408", "413")}
        bridge.clock.advance_s(REPEATED_INTERVAL_S)
        answers.append(await bridge.signed_by_phone(old, age_s=301))
    too_old = "the signature is not right, or more than 5 minutes old"
    not_right = "the signature is not right; public_url is what Twilio calls"
    expected = [
        (not_right, 1, "/sms", 403),
        (not_right, 1, "/status", 403),
        ("more than 65536 bytes", 1, "/sms", 413),
        ("more than 65536 bytes", 1, "/android", 413),
        (too_old, 1, "/android", 403),
        ("it is another account's", 1, "/sms", 403),
        ("the body has not come", 1, "/sms", 408),
        # Once a minute, or a flood would fill the disk.
        (too_old, 3, "/android", 403),
    ]
    assert [answer.status for answer in answers] == [403, 403, 413, 413, *[403] * 4, 408, 403]
    lines = [
        TextFormatter().format(record)
        for record in caplog.records
        if record.levelno >= logging.WARNING
    ]
    assert [line.partition(" ")[2] for line in lines] == [
        f'WARNING a webhook\'s call was refused reason="{reason}" times={times} path={path} '
        f"status={status}"
        for reason, times, path, status in expected
    ]
    assert figures == {"403": "6", "408": "1", "413": "2"}
    said = caplog.text + "\n".join(lines) + "".join(str(answer.body) for answer in answers)
    for secret in (TOKEN, PHONE_SECRET, private, PERSON, PERSON[1:], ACCOUNT, *forged.values()):
        assert secret not in said
