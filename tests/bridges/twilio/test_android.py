"""What a telephone answers when it is given an SMS, and what it tells of one: what the node hears
of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridges.twilio import sending
from bridges.twilio.carrier import RETRY_LAST_S, BackOff
from core.api.bridge_messages import AcknowledgeRequest, Event, SmsBody, effect_id
from tests.bridges.twilio.inside import PHONE_URL, Inside, inside

pytestmark = pytest.mark.trio

TO = "+79995550123"
EVENT = effect_id("test", "code")
ADVICE = "check url, user and password of android"
SENDING, TRACKED, TOLD = "sending_android", "tracked", "told"


class Phone:
    """A telephone's interface that gives so many answers, and notes how the bridge does meanwhile.

    Attributes:
        asked: for which SMS.
        states: of the bridge, when it was asked.
    """

    def __init__(self, *answers: tuple[int, dict[str, str]]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []
        self.states: list[str] = []
        self.state: Callable[[], str] = str
        self.transport = httpx.MockTransport(self._take)

    def _take(self, request: httpx.Request) -> httpx.Response:
        assert str(request.url) == f"{PHONE_URL}/message"
        said = json.loads(request.content)
        assert said["phoneNumbers"] == [TO]
        self.asked.append(said["id"])
        self.states.append(self.state())
        status, headers = self._answers.pop(0)
        return httpx.Response(status, headers=headers, json={})


async def acknowledged(bridge: Inside) -> tuple[str, str]:
    """Have an SMS sent; what the node hears of it, and that the bridge has forgotten it then."""
    now_ms = int(bridge.clock.unix_s() * 1000)
    bridge.node.send(
        Event(
            id=EVENT,
            to=TO,
            created_ms=now_ms,
            expires_ms=now_ms + 600_000,
            body=SmsBody("a code"),
        )
    )
    await bridge.until(lambda: EVENT in bridge.node.acknowledged)
    # Counted when it is forgotten.
    await bridge.until(lambda: bridge.phone_link.figures)
    assert not bridge.spool.items(SENDING)
    heard: AcknowledgeRequest = bridge.node.acknowledged[EVENT]
    return heard.outcome, heard.detail


async def tell(bridge: Inside, event: str, message: str = EVENT, **more: str) -> None:
    """Have the telephone tell of an SMS; what the node is told of it has been told then."""
    payload: dict[str, Any] = {"messageId": message, "phoneNumber": TO, **more}
    answer = await bridge.signed_by_phone({"event": event, "deviceId": "d", "payload": payload})
    assert answer.status == 204
    await bridge.until(lambda: not bridge.spool.items(TOLD))


def statuses(bridge: Inside) -> list[tuple[str, str, str]]:
    return [(one.event, one.status, one.detail) for one in bridge.node.statuses]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "done"),
        (202, "done"),
        # It has had this one already.
        (409, "done"),
        (408, "unknown"),
        (500, "unknown"),
        (502, "unknown"),
        (400, "failed"),
        (422, "failed"),
    ],
)
async def test_what_ends_an_sms_is_told_at_once(tmp_path: Path, status: int, outcome: str) -> None:
    phone = Phone((status, {}))
    async with inside(tmp_path, phone.transport) as bridge:
        detail = "" if outcome == "done" else f"the telephone says {status}"
        assert await acknowledged(bridge) == (outcome, detail)
        assert phone.asked == [EVENT]
        assert bridge.phone_link.figures == {f"sent_{outcome}": "1"}
        # Of what it may have taken it may tell later; of what it has refused nothing is heard.
        await tell(bridge, "sms:delivered")
        heard = [] if outcome == "failed" else [(EVENT, "delivered", "")]
        assert statuses(bridge) == heard
        assert not bridge.spool.items(TRACKED)


@pytest.mark.parametrize(
    ("status", "headers", "after_s", "has_advice"),
    [
        (429, {"Retry-After": "17"}, 17.0, False),
        (429, {"Retry-After": "86400"}, RETRY_LAST_S, False),
        (429, {"Retry-After": "Sun, 22 Nov 2026 08:00:00 GMT"}, None, False),
        (429, {}, None, False),
        (503, {"Retry-After": "5"}, 5.0, False),
        (503, {}, None, False),
        (401, {}, None, True),
        (403, {}, None, True),
        (404, {}, None, True),
        (302, {"Location": "http://elsewhere.test/login"}, None, True),
    ],
)
async def test_what_passes_has_it_sent_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    headers: dict[str, str],
    after_s: float | None,
    has_advice: bool,
) -> None:
    asked_s: list[float | None] = []
    waits_s: list[float] = []

    class NotedBackOff(BackOff):
        def next_s(self, asked: float | None = None) -> float:
            asked_s.append(asked)
            waits_s.append(super().next_s(asked))
            return 0.0

    monkeypatch.setattr(sending, "BackOff", NotedBackOff)
    phone = Phone((status, headers), (202, {}))
    async with inside(tmp_path, phone.transport) as bridge:
        phone.state = lambda: bridge.phone_link.state
        assert await acknowledged(bridge) == ("done", "")
        # Under the same id, by which the telephone knows one that it has after all.
        assert phone.asked == [EVENT] * 2
        assert asked_s == [after_s]
        assert waits_s[0] >= (after_s or 0.0)
        advice = f"the telephone says {status}: {ADVICE}" if has_advice else "running"
        assert phone.states == ["running", advice]
        assert bridge.phone_link.state == "running"
        await tell(bridge, "sms:sent")
        assert statuses(bridge) == [(EVENT, "sent", "")]


@pytest.mark.parametrize(
    ("told", "heard"),
    [
        (["sms:sent", "sms:delivered", "sms:sent"], ["sent", "delivered"]),
        (["sms:sent", "sms:failed"], ["sent", "failed"]),
        (["sms:failed", "sms:delivered", "sms:sent"], ["failed"]),
        (["sms:delivered", "sms:failed"], ["delivered"]),
        (["sms:sent", "sms:sent", "system:ping"], ["sent"]),
    ],
)
async def test_how_far_an_sms_is_only_goes_on(
    tmp_path: Path, told: list[str], heard: list[str]
) -> None:
    phone = Phone((202, {}))
    async with inside(tmp_path, phone.transport) as bridge:
        # Of an SMS that it was never given it may tell what it likes.
        await tell(bridge, "sms:failed", effect_id("test", "another"))
        assert await acknowledged(bridge) == ("done", "")
        for event in told:
            more = {"reason": "generic failure " * 9} if event == "sms:failed" else {}
            await tell(bridge, event, **more)
        reason = ("generic failure " * 9)[:96]
        assert statuses(bridge) == [
            (EVENT, status, reason if status == "failed" else "") for status in heard
        ]
        assert bool(bridge.spool.items(TRACKED)) == (heard == ["sent"])
