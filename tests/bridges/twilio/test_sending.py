"""SMS that go out, their statuses, and answers that the response was too early for: a bridge
process between a node's socket and Twilio's REST interface, both of which come and go."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio

from bridges.spool import open_spool
from core.api.bridge_messages import effect_id
from core.node_files import bridge_folder
from tests.bridges.twilio.world import (
    ACCOUNT,
    EVENT_LIFETIME_S,
    PUBLIC_URL,
    WAIT_S,
    Sent,
    World,
    a_world,
    answer_to,
    sid_of,
    wait_until,
)

TO = "+79995550123"


@pytest.fixture(scope="module")
def running_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with a_world(tmp_path_factory.mktemp("twilio")) as made, made.node.running():
        made.start()
        made.connect()
        yield made
        made.stop()


@pytest.fixture
def world(running_world: World) -> World:
    running_world.renew()
    return running_world


def outcome(world: World, event: str) -> tuple[str, str]:
    told = wait_until(lambda: world.node.acknowledged.get(event))
    return told.outcome, told.detail


def is_what_is_left_s(lifetime_s: int) -> bool:
    """Whether it is that of an event of the stand-in's, which has not waited for longer than these
    tests do."""
    return EVENT_LIFETIME_S - WAIT_S <= lifetime_s <= EVENT_LIFETIME_S


def status(world: World, sent: Sent, word: str, **more: str) -> None:
    fields = {"MessageSid": sent.sid, "AccountSid": ACCOUNT, "MessageStatus": word, **more}
    path = sent.fields["StatusCallback"].removeprefix(PUBLIC_URL)
    assert world.call(path, fields).status_code == 204


def test_an_sms_is_sent_and_its_statuses_only_go_on(world: World) -> None:
    event = world.node.tell(1, TO, "Код: 1234 😀")
    assert outcome(world, event) == ("done", "")
    (sent,) = world.rest.sent
    assert (sent.to, sent.text) == (TO, "Код: 1234 😀")
    assert is_what_is_left_s(int(sent.fields["ValidityPeriod"]))
    for word in ("queued", "sent", "sending", "sent"):
        status(world, sent, word)
    wait_until(lambda: world.node.statuses)
    status(world, sent, "undelivered", ErrorCode="30005")
    wait_until(lambda: len(world.node.statuses) == 2)
    for word in ("sent", "delivered"):
        status(world, sent, word)
    event = world.node.tell(2, TO, "another")
    wait_until(lambda: len(world.rest.sent) == 2)
    status(world, world.rest.sent[1], "delivered")
    wait_until(lambda: len(world.node.statuses) == 3)
    assert [one.status for one in world.node.statuses] == ["sent", "undelivered", "delivered"]
    assert world.node.statuses[1].detail.startswith("30005: no such number")


def test_a_status_may_come_before_the_answer_to_the_request(world: World) -> None:
    world.rest.on_accept = lambda sent: status(world, sent, "delivered")
    try:
        event = world.node.tell(1, TO, "quick")
        assert outcome(world, event) == ("done", "")
    finally:
        world.rest.on_accept = None
    wait_until(lambda: world.node.statuses)
    assert (world.node.statuses[0].event, world.node.statuses[0].status) == (event, "delivered")


def test_statuses_of_others_sms_are_ignored(world: World) -> None:
    for callback in ("/status", f"/status?event={'0' * 32}"):
        status(world, Sent(sid_of(1), "", "", {"StatusCallback": callback}), "delivered")
    fields = {"MessageSid": sid_of(1), "MessageStatus": "sent"}
    assert world.call("/status?event=../x", fields).status_code == 400
    assert not world.node.statuses


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (21211, "no telephone number"),
        (21408, "Geo permissions"),
        (21608, "trial account"),
        (21610, "STOP"),
        (99999, "twilio.com/docs/api/errors"),
    ],
)
def test_one_that_is_refused_says_what_to_do(world: World, code: int, says: str) -> None:
    world.rest.failures.append((400, {"code": code, "message": "", "status": 400}, {}))
    event = world.node.tell(1, TO, "text")
    result, detail = outcome(world, event)
    assert result == "failed"
    assert detail.startswith(f"{code}: ")
    assert says in detail
    assert len(world.node.opted_out) == (code == 21610)
    assert not world.rest.sent


def test_what_was_not_taken_is_sent_again(world: World) -> None:
    world.rest.failures += [
        (429, {"code": 20429}, {"Retry-After": "1"}),
        (503, {}, {}),
        (500, {"code": 20500}, {}),
        (401, {"code": 20003}, {}),
    ]
    before = world.rest.requests
    events = [world.node.tell(number, f"{TO[:-1]}{number}", "text") for number in range(4)]
    assert [outcome(world, event) for event in events] == [("done", "")] * 4
    assert world.rest.requests == before + 8
    assert sorted(sent.to for sent in world.rest.sent) == [f"{TO[:-1]}{n}" for n in range(4)]
    assert "auth_token" in world.log()


def test_what_may_have_been_taken_is_unknown_and_not_sent_again(world: World) -> None:
    # A proxy's answer, or one that can't be read: Twilio may have taken it.
    for number, code in enumerate((502, 200)):
        world.rest.failures.append((code, {}, {}))
        before = world.rest.requests
        event = world.node.tell(number, TO, "text")
        assert outcome(world, event)[0] == "unknown"
        assert world.rest.requests == before + 1


@pytest.mark.parametrize(("to", "text"), [("tg:5", "x"), ("+7", "x"), (TO, ""), (TO, "x" * 1601)])
def test_what_is_no_sms_fails(world: World, to: str, text: str) -> None:
    before = world.rest.requests
    event = world.node.tell(1, to, text)
    assert outcome(world, event)[0] == "failed"
    assert world.rest.requests == before


def message(number: int, text: str, **more: object) -> dict[str, object]:
    """As the telephone's app has it."""
    payload = {
        "messageId": "abc",
        "sender": TO,
        "recipient": None,
        "simNumber": 1,
        "message": text,
        "receivedAt": f"2026-11-21T18:00:{number:02}.000+03:00",
        **more,
    }
    return {
        "id": str(random.random()),
        "webhookId": "w",
        "event": "sms:received",
        "deviceId": sid_of(0),
        "payload": payload,
    }


def test_a_telephones_sms_is_answered_by_the_telephone_once(world: World) -> None:
    for _ in range(3):
        assert world.phone_call(message(1, "BAL")).status_code == 204
    wait_until(lambda: world.phone.sent)
    assert world.phone_call(message(1, "BAL")).status_code == 204
    assert world.phone_call(message(2, "BAL")).status_code == 204
    wait_until(lambda: len(world.phone.sent) == 2)
    assert {(sent.to, sent.text) for sent in world.phone.sent} == {(TO, answer_to("BAL"))}
    assert len(world.node.received) == 2
    assert {one.bridge for one in world.node.received.values()} == {"android"}
    # By the SIM that it has come to.
    assert world.phone_call(message(4, "BAL", simNumber=2)).status_code == 204
    assert world.phone_call(message(5, "BAL", simNumber=None)).status_code == 204
    wait_until(lambda: len(world.phone.sent) == 4)
    sims = sorted(sent.fields.get("simNumber", 0) for sent in world.phone.sent)
    assert sims == [0, 1, 1, 2]
    assert world.phone_call(message(3, "STOP")).status_code == 204
    # Nobody else hears it there: it is the node's to answer, or not to.
    wait_until(lambda: len(world.node.received) == 5)
    wait_until(lambda: len(world.phone.sent) == 5)
    assert {one.keyword for one in world.node.received.values()} == {None}
    assert not world.rest.sent


def test_a_telephone_sends_and_tells_how_far_it_is(world: World) -> None:
    event = world.node.tell(1, TO, "code", bridge="android")
    assert outcome(world, event) == ("done", "")
    (sent,) = world.phone.sent
    assert sent.sid == event
    assert is_what_is_left_s(sent.fields["ttl"])
    for name in ("sms:sent", "sms:delivered", "sms:delivered", "system:ping", "sms:sent"):
        call = {**message(1, ""), "event": name}
        call["payload"] = {"messageId": event, "phoneNumber": TO}
        assert world.phone_call(call).status_code == 204
    wait_until(lambda: len(world.node.statuses) == 2)
    assert [one.status for one in world.node.statuses] == ["sent", "delivered"]


def test_a_telephone_that_does_not_know_the_secret_is_refused(world: World) -> None:
    assert world.phone_call(message(1, "BAL"), age_s=301).status_code == 403
    assert world.phone_call(message(1, "BAL"), age_s=-330).status_code == 403
    headers = {"X-Timestamp": str(int(time.time())), "X-Signature": "00" * 32}
    for wrong in (headers, {}, {**headers, "X-Timestamp": "²"}):
        encoded = [(name.encode(), value.encode()) for name, value in wrong.items()]
        response = httpx.post(f"{world.url}/android", json=message(1, "BAL"), headers=encoded)
        assert response.status_code == 403
    for broken in ({}, {**message(1, "x"), "payload": {}}, message(1, "x" * 5000)):
        assert world.phone_call(broken).status_code == 400
    assert not world.node.received


def test_a_node_that_is_away_answers_by_sms_when_it_is_back(tmp_path: Path) -> None:
    with a_world(tmp_path) as world:
        world.start()
        for number in range(5):
            assert world.sms(number, f"command {number}") == []
        assert world.sms(9, "STOP") == []
        # The bridge as well; and as if it had been killed: of one SMS it had not noted what came of
        # it, and of others the node had not heard, or has forgotten them since.
        world.stop()
        left = leave(world, b"", b'["done"]', b'["failed","30005"]')
        world.start()
        assert not world.rest.sent
        with world.node.running():
            for number in (20, 21):
                world.node.tell(number, TO, "a code")
            wait_until(lambda: len(world.rest.sent) == 5 and sid_of(9) in world.node.received)
            assert world.node.received[sid_of(9)].keyword == "stop"
            # In the order in which one person has sent them.
            assert [sent.text for sent in world.rest.sent] == [
                answer_to(f"command {number}") for number in range(5)
            ]
            world.connect()
            assert world.sms(2, "command 2") == []
            assert world.sms(10, "BAL") == [answer_to("BAL")]
            world.node.delay_s = 2.5
            assert world.sms(11, "slow") == []
            wait_until(lambda: len(world.rest.sent) == 6)
            assert world.rest.sent[-1].text == answer_to("slow")
            world.node.refuses = "busy"
            assert world.sms(12, "refused") == []
            world.node.delay_s, world.node.refuses = 0.0, ""
            wait_until(lambda: len(world.rest.sent) == 7)
            assert "a code" not in [sent.text for sent in world.rest.sent]
            assert [outcome(world, event)[0] for event in left] == ["unknown", "done", "failed"]
            world.stop()
        with open_spool(bridge_folder(world.folder / "data", "twilio")) as spool:
            assert spool.items("sending_twilio") == []


def leave(world: World, *stored: bytes) -> list[str]:
    """Have the spool say this of SMS, as a kill leaves it; their events, from the 20th on."""
    events = [effect_id("test", sid_of(number)) for number in range(20, 20 + len(stored))]

    async def write() -> None:
        with open_spool(bridge_folder(world.folder / "data", "twilio")) as spool:
            for event, value in zip(events, stored, strict=True):
                await spool.put("sending_twilio", event, value)

    trio.run(write)
    return events


def test_an_answer_waits_for_twilio(tmp_path: Path) -> None:
    with a_world(tmp_path) as world:
        world.rest.failures += [(503, {}, {}), (429, {}, {"Retry-After": "1"})]
        world.start()
        assert world.sms(1, "BAL") == []
        with world.node.running():
            wait_until(lambda: world.rest.sent)
            assert [sent.text for sent in world.rest.sent] == [answer_to("BAL")]
            world.stop()


def test_a_bridges_state_is_what_hinders_it_whatever_goes_well_meanwhile(tmp_path: Path) -> None:
    with a_world(tmp_path) as world, world.node.running():
        url = httpx.URL(world.url)
        assert url.port is not None
        with socket.create_server((url.host, url.port)):
            world.launch()
            event = world.node.tell(1, TO, "a code")
            assert outcome(world, event) == ("done", "")
            world.rest.failures.append((401, {"code": 20003}, {"Retry-After": "300"}))
            world.node.tell(2, TO, "another")
            wait_until(lambda: "an SMS has to wait" in world.log())
            # Told when one was sent, and one refused: what nobody can bring comes first.
            told = wait_until(lambda: state_with(world, "sent_done"))
            assert told.startswith(f"can't listen on {url.host}:{url.port}")
            assert "bridges.twilio.listen" in told
        # What comes now is answered, and what goes out is still refused.
        wait_until(world.is_listening)
        world.connect()
        assert world.sms(1, "BAL") == [answer_to("BAL")]
        told = wait_until(lambda: state_with(world, "answered"))
        assert told.startswith("20003: Twilio refuses account_sid and auth_token")
        # The telephone's way out has a state of its own.
        assert world.node.states["android"].state == "running"
        world.stop()


def state_with(world: World, figure: str) -> str | None:
    """What the bridge has said of itself since it counted something."""
    told = world.node.states.get("twilio")
    return told.state if told is not None and figure in told.figures else None
