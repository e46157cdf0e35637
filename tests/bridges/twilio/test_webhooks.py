"""The webhooks, over HTTP, against a bridge process: signed by Twilio's own library."""

from __future__ import annotations

import http.client
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from bridges.twilio.form import BODY_MAXIMUM_BYTES
from tests.bridges.twilio.world import (
    ACCOUNT,
    PERSON,
    SENDER,
    WAIT_S,
    World,
    a_world,
    answer_to,
    sid_of,
    sms_fields,
    texts,
    wait_until,
)
from tests.support.fixed_ports import free_port
from tests.support.nginx import running_nginx


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


def test_an_sms_is_answered_in_the_response(world: World) -> None:
    assert world.sms(1, "BAL") == ["re: BAL <&> Ɉ"]
    (request,) = world.node.received.values()
    assert (request.bridge, request.sender, request.recipient) == ("twilio", PERSON, SENDER)
    assert (request.body, request.message_id) == ("BAL", sid_of(1))
    assert world.sms(2, "silence") == []


def test_texts_of_all_kinds_come_through(world: World) -> None:
    for number, body in enumerate(
        ["$(reboot); `ls` | rm", "😀" * 10, "x" * 1600, "a\x00b", "a\x01", " \n", "+1=2&3%4", ""]
    ):
        answer = "".join(world.sms(number, body))
        request = world.node.received[sid_of(number)]
        assert request.body == body
        expected = (answer_to(body) or "").translate({0: None, 1: None})
        assert answer == expected.replace("\r", "\n")


def test_a_form_by_get_is_signed_with_its_url(world: World) -> None:
    query = str(httpx.QueryParams(sms_fields(1, "TX и ещё")))
    signature = world.signature(f"/sms?{query}", {})
    response = httpx.get(f"{world.url}/sms?{query}", headers={"X-Twilio-Signature": signature})
    assert texts(response) == [answer_to("TX и ещё")]


def test_fields_that_are_repeated_or_new_are_signed_as_well(world: World) -> None:
    pairs = [*sms_fields(1, "BAL").items(), ("Tag", "b"), ("Tag", "a"), ("Новое", "")]
    fields = httpx.QueryParams(tuple(pairs))

    class Several(dict[str, Any]):
        def getlist(self, name: str) -> list[str]:
            return fields.get_list(name)

    signature = world.signature("/sms", Several(pairs))
    headers = {
        "X-Twilio-Signature": signature,
        "Content-Type": "application/x-www-form-urlencoded",
    }
    response = httpx.post(f"{world.url}/sms", content=str(fields), headers=headers)
    assert texts(response) == [answer_to("BAL")]


@pytest.mark.parametrize("path", ["/sms", "/fallback", "/status"])
def test_what_twilio_has_not_signed_is_refused(world: World, path: str) -> None:
    fields = {**sms_fields(1, "BAL"), "MessageStatus": "sent"}
    right = world.signature(path, fields)
    for signature in ("", right[:-2], right.swapcase(), "ж", right + right):
        wrong = [(b"X-Twilio-Signature", signature.encode())]
        response = httpx.post(f"{world.url}{path}", data=fields, headers=wrong)
        assert response.status_code == 403
    headers = {"X-Twilio-Signature": right}
    for changed in ({**fields, "Body": "SEND"}, {**fields, "New": ""}):
        response = httpx.post(f"{world.url}{path}", data=changed, headers=headers)
        assert response.status_code == 403
    assert httpx.post(f"{world.url}{path}", data=fields).status_code == 403
    assert httpx.get(f"{world.url}{path}", headers=headers).status_code == 403
    assert not world.node.received


def test_another_accounts_sms_is_refused(world: World) -> None:
    fields = {**sms_fields(1, "BAL"), "AccountSid": ACCOUNT[:-1] + "f"}
    assert world.call("/sms", fields).status_code == 403
    for wrong in ({"MessageSid": "SM1"}, {"From": ""}, {"From": "9" * 65}, {"Body": "x" * 4097}):
        assert world.call("/sms", {**sms_fields(1, "BAL"), **wrong}).status_code == 400
    assert not world.node.received


def test_a_megabyte_is_refused(world: World) -> None:
    head = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Content-Length": "1000000",
        "X-Twilio-Signature": world.signature("/sms", {}),
    }
    connection = http.client.HTTPConnection(urlsplit(world.url).netloc, timeout=WAIT_S)
    # No more of it than is read: a connection that is closed with more on its way is reset, and
    # the answer may be lost with it.
    connection.request("POST", "/sms", b"x" * (BODY_MAXIMUM_BYTES + 1), head)
    assert connection.getresponse().status == 413
    connection.close()
    many = {f"f{number}": "" for number in range(600)}
    assert world.call("/sms", many).status_code == 400
    assert world.sms(2, "BAL") == [answer_to("BAL")]


def test_one_that_comes_twice_is_carried_out_and_answered_once(world: World) -> None:
    world.node.delay_s = 0.3
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: world.sms(1, "SEND"), range(8)))
    assert sorted(answers, reverse=True) == [[answer_to("SEND")], *[[]] * 7]
    world.node.delay_s = 0.0
    # After it was erased as well.
    wait_until(lambda: world.sms(2, "BAL"))
    assert world.sms(1, "SEND") == []
    assert len(world.node.received) == 2
    assert not world.rest.sent


def test_an_answer_that_nobody_waits_for_any_more_goes_by_sms(world: World) -> None:
    world.node.delay_s = 0.5
    fields = sms_fields(1, "BAL")
    body = str(httpx.QueryParams(fields)).encode()
    head = (
        "POST /sms HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        f"X-Twilio-Signature: {world.signature('/sms', fields)}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    url = httpx.URL(world.url)
    with socket.create_connection((url.host, url.port or 0)) as caller:
        caller.sendall(head.encode() + body)
        wait_until(lambda: world.node.received)
    wait_until(lambda: world.rest.sent)
    assert [(sent.to, sent.text) for sent in world.rest.sent] == [(PERSON, answer_to("BAL"))]
    assert len(world.node.received) == 1


def test_the_fallback_answers_what_twilio_has_not_got(world: World) -> None:
    assert world.sms(1, "SEND") == [answer_to("SEND")]
    # At once: the answer that Twilio hasn't got was just given to the kernel.
    for _ in range(3):
        again = world.sms(1, "SEND", path="/fallback", ErrorCode="11200")
        assert again == [answer_to("SEND")]
    assert len(world.node.received) == 1
    assert "code=11200" in world.log()
    assert "check public_url" in world.log()


@pytest.mark.parametrize("word", ["STOP", " stop\n", "Revoke", "OPTOUT", "stopall", "END"])
def test_who_says_stop_gets_no_answer(world: World, word: str) -> None:
    # Twilio answers all of these itself.
    assert world.sms(1, word) == []
    assert world.sms(2, "UNSTOP") == []
    assert world.sms(3, "Fin", OptOutType="STOP") == []
    assert world.sms(4, "HELP") == world.sms(5, "info", path="/fallback") == []
    assert [one.keyword for one in world.node.received.values()] == [
        *("stop", "start", "stop", "help", "help")
    ]
    assert world.node.received[sid_of(1)].body == word
    # Once: a STOP that comes late again doesn't undo a START.
    assert world.sms(1, word) == []
    assert world.node.asked[sid_of(1)] <= 2
    assert not world.node.opted_out
    assert not world.rest.sent


def test_the_log_names_nobody(world: World) -> None:
    world.sms(1, "a very private text")
    world.sms(2, "STOP")
    world.sms(3, "another private text", path="/fallback")
    event = world.node.tell(1, "+79995550111", "a secret code")
    wait_until(lambda: event in world.node.acknowledged)
    log = world.log()
    for private in ("5550100", "5550111", "private", "secret code", "not a token"):
        assert private not in log


def test_behind_a_proxy_that_changes_scheme_and_port(tmp_path: Path) -> None:
    certificate = ("-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost")
    subprocess.run(
        ["openssl", "req", *certificate, "-keyout", tmp_path / "key", "-out", tmp_path / "cert"],
        check=True,
        capture_output=True,
    )
    outside = free_port()
    public_url = f"https://localhost:{outside}"
    with a_world(tmp_path, public_url=public_url) as world, world.node.running():
        world.start()
        world.connect()
        server = f"""
            listen 127.0.0.1:{outside} ssl;
            ssl_certificate {tmp_path}/cert; ssl_certificate_key {tmp_path}/key;
            location / {{ proxy_pass {world.url}; }}
        """
        # The bridge is called as http://127.0.0.1 with another port.
        with (
            running_nginx(tmp_path, outside, server),
            httpx.Client(verify=False, timeout=30) as client,  # noqa: S501
        ):
            for number, signed in enumerate((public_url, "https://localhost")):
                world.public_url = signed
                fields = sms_fields(number, "BAL")
                headers = {"X-Twilio-Signature": world.signature("/sms", fields)}
                response = client.post(f"{public_url}/sms", data=fields, headers=headers)
                assert texts(response) == [answer_to("BAL")]
            wrong = client.post(
                f"{public_url}/sms",
                data=sms_fields(9, "BAL"),
                headers={"X-Twilio-Signature": "x"},
            )
            assert wrong.status_code == 403
        world.stop()
