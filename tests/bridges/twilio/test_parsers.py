"""What reads others' bytes: forms, the telephone's JSON, Twilio's answers; and all of the webhooks
together, given anything."""

from __future__ import annotations

import contextlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from twilio.request_validator import RequestValidator
from twilio.twiml.messaging_response import MessagingResponse

from bridges.node_link import NodeLink
from bridges.process import BridgeContext
from bridges.spool import open_spool
from bridges.twilio.advice import ADVICE, advice_on, operators_language
from bridges.twilio.android import PhoneMessage, is_signed_untrusted, read_call_untrusted
from bridges.twilio.carrier import Accepted, Again, Refused, Unknown, is_e164, parts
from bridges.twilio.figures import Figures
from bridges.twilio.form import (
    STOP_WORDS,
    Signatures,
    keyword_of,
    parse_form_untrusted,
    read_message_untrusted,
    read_status_untrusted,
)
from bridges.twilio.inbox import Inbox
from bridges.twilio.rest import read_answer_untrusted
from bridges.twilio.statuses import Statuses
from bridges.twilio.webhooks import Webhooks, twiml
from core.clock import VirtualClock
from core.config_file import load
from core.errors import WebhookError
from tests.bridges.twilio.world import (
    ACCOUNT,
    PHONE_SECRET,
    PUBLIC_URL,
    SENDER,
    TOKEN,
)
from tests.support.node import write_config

NAMES = st.sampled_from(
    ["MessageSid", "AccountSid", "From", "To", "Body", "MessageStatus", "ErrorCode", "OptOutType"]
)
VALUES = st.one_of(
    st.sampled_from([ACCOUNT, SENDER, "SM" + "0" * 32, "STOP", "delivered", "30005", ""]),
    st.text(max_size=200),
)
SCALARS = st.none() | st.integers() | st.text(max_size=20)
FORMS = st.dictionaries(st.one_of(NAMES, st.text(max_size=20)), VALUES, max_size=20)
PATHS = st.sampled_from(["/sms", "/fallback", "/status", "/status?event=" + "a" * 32, "/sms?a=&a="])
CONFIG = f"""
[sms]
countries = ["DE"]
[bridges.twilio]
listen = "127.0.0.1:0"
public_url = "{PUBLIC_URL}"
account_sid = "{ACCOUNT}"
auth_token = "{TOKEN}"
sender = "{SENDER}"
[bridges.twilio.android]
secret = "{PHONE_SECRET}"
"""
MANY = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """The webhooks, whose node is never there: what comes stays in the spool."""
    config = load(write_config(tmp_path, more=CONFIG), "twilio")
    assert config.bridges.twilio is not None
    node = NodeLink(tmp_path / "nobody", "twilio")
    with open_spool(tmp_path / "spool") as spool:
        context = BridgeContext(
            name="twilio", config=config, node=node, spool=spool, clock=VirtualClock()
        )
        figures = Figures(node)
        inbox = Inbox(context, {}, figures)
        statuses = Statuses(node, spool, context.clock)
        webhooks = Webhooks(context, config.bridges.twilio, inbox, statuses, figures, "en")

        with TestClient(webhooks.application(), backend="trio") as made:
            yield made


@MANY
@given(path=PATHS, form=FORMS, body=st.binary(max_size=500), is_signed=st.booleans())
def test_webhooks_take_anything(
    client: TestClient, path: str, form: dict[str, str], body: bytes, is_signed: bool
) -> None:
    headers = {"X-Twilio-Signature": "x", "Content-Type": "application/x-www-form-urlencoded"}
    if is_signed:
        signature = RequestValidator(TOKEN).compute_signature(f"{PUBLIC_URL}{path}", form)
        headers["X-Twilio-Signature"] = signature
        status = client.post(path, data=form, headers=headers).status_code
        assert status in (200, 204, 400, 403)
        headers["X-Twilio-Signature"] = signature[::-1]
    assert client.post(path, content=body, headers=headers).status_code == 403
    assert client.get(path, headers=headers).status_code == 403


@MANY
@given(
    body=st.one_of(
        st.binary(max_size=300),
        # Of none of them is anybody known to have sent it.
        st.fixed_dictionaries(
            {
                "event": st.sampled_from(["sms:received", "sms:sent", "sms:failed", "mms"]),
                "deviceId": SCALARS,
                "payload": st.dictionaries(
                    st.sampled_from(["messageId", "message", "simNumber", "receivedAt", "reason"]),
                    SCALARS,
                )
                | SCALARS,
            }
        ).map(lambda made: json.dumps(made).encode()),
    )
)
def test_the_telephones_webhook_takes_anything(client: TestClient, body: bytes) -> None:
    timestamp = str(int(VirtualClock().unix_s()))
    signature = hmac.new(PHONE_SECRET.encode(), body + timestamp.encode(), "sha256").hexdigest()
    headers = {"X-Timestamp": timestamp, "X-Signature": signature}
    assert client.post("/android", content=body, headers=headers).status_code in (204, 400, 503)
    headers["X-Signature"] = "0" * 64
    assert client.post("/android", content=body, headers=headers).status_code == 403


@given(data=st.binary(max_size=2000))
def test_forms_of_any_bytes(data: bytes) -> None:
    # No other error than this one.
    with contextlib.suppress(WebhookError):
        form = parse_form_untrusted(data)
        with contextlib.suppress(WebhookError):
            read_status_untrusted(form, form)
        read_message_untrusted(form, ACCOUNT)


@given(form=FORMS)
def test_a_signature_is_over_every_field(form: dict[str, str]) -> None:
    signatures = Signatures(PUBLIC_URL, TOKEN)
    made = RequestValidator(TOKEN).compute_signature(f"{PUBLIC_URL}:443/sms", form).encode()
    read = parse_form_untrusted(urlencode(form).encode())
    assert dict(read) == form
    assert signatures.is_right_untrusted("/sms", "", read, made)
    assert not signatures.is_right_untrusted("/status", "", read, made)
    assert not signatures.is_right_untrusted("/sms", "a=", read, made)
    more = parse_form_untrusted(urlencode([*form.items(), ("one more", "")]).encode())
    assert not signatures.is_right_untrusted("/sms", "", more, made)
    assert not Signatures(PUBLIC_URL, TOKEN + "x").is_right_untrusted("/sms", "", read, made)


@given(
    status=st.integers(100, 599),
    body=st.one_of(
        st.binary(max_size=100),
        st.fixed_dictionaries(
            {}, optional={"sid": st.text(max_size=50), "code": st.integers() | st.text()}
        ).map(lambda made: json.dumps(made).encode()),
    ),
    after=st.text(max_size=12),
)
def test_answers_of_twilio_of_any_kind(status: int, body: bytes, after: str) -> None:
    read = read_answer_untrusted(status, {"Retry-After": after}, body, "ru")
    assert isinstance(read, Accepted | Refused | Again | Unknown)
    assert isinstance(read, Accepted) <= (200 <= status < 300)


def test_what_a_carrier_says_decides_whether_it_is_sent_again() -> None:
    def read(status: int, content: dict[str, Any], **headers: str) -> object:
        return read_answer_untrusted(status, headers, json.dumps(content).encode(), "en")

    assert read(201, {"sid": "SM1"}) == Accepted("SM1")
    assert isinstance(read(201, {}), Unknown)
    assert isinstance(read(502, {}), Unknown)
    assert isinstance(read(504, {"code": None}), Unknown)
    again = read(500, {"code": 20500}, **{"Retry-After": "7"})
    assert isinstance(again, Again)
    assert again.after_s == 7
    for status, code in ((401, 20003), (404, 20404), (400, 21606), (429, 20429), (302, 0)):
        assert isinstance(read(status, {"code": code}), Again)
    refused = read(400, {"code": 21610})
    assert isinstance(refused, Refused)
    assert refused.code == 21610


def test_advice_fits_into_a_status_line_in_both_languages() -> None:
    for code, advice in ADVICE.items():
        for language in ("en", "ru"):
            assert 10 < len(f"{code}: {advice.in_language(language)}") <= 128
        assert any("а" <= letter <= "я" for letter in advice.russian)
        assert advice.english.isascii()
    for code in (21610, 21211, 21408, 21608, 20003, 20429, *range(30003, 30009), 11200, 12300):
        assert code in ADVICE
    assert "errors" in advice_on(1).english
    assert operators_language({"LC_ALL": "", "LANG": "ru_RU.UTF-8"}) == "ru"
    assert operators_language({"LC_ALL": "C.UTF-8", "LANG": "ru_RU.UTF-8"}) == "en"


@given(st.sampled_from(sorted(STOP_WORDS)), st.text(" \t\n", max_size=3), st.booleans())
def test_words_that_end_sending(word: str, blank: str, is_lower: bool) -> None:
    assert keyword_of(blank + (word.lower() if is_lower else word) + blank) == "stop"
    assert keyword_of(f"{word} 5") is None


def test_the_telephone_is_known_by_body_and_time() -> None:
    def sign(body: bytes, timestamp: str) -> str:
        return hmac.new(b"k", body + timestamp.encode(), "sha256").hexdigest()

    made = sign(b"{}", "1000")
    assert is_signed_untrusted("k", b"{}", "1000", made, 1300.0)
    assert is_signed_untrusted("k", b"{}", "1000", made.upper(), 700.0)
    assert not is_signed_untrusted("k", b"{}", "1000", made, 1301.0)
    assert not is_signed_untrusted("k", b"{}", "1001", made, 1000.0)
    assert not is_signed_untrusted("k", b"{ }", "1000", made, 1000.0)
    assert not is_signed_untrusted("k", b"{}", "-1000", sign(b"{}", "-1000"), -1000.0)
    assert not is_signed_untrusted("l", b"{}", "1000", made, 1000.0)


def test_a_telephones_message_is_known_by_what_it_says() -> None:
    def call(**changed: object) -> PhoneMessage:
        payload = {
            "sender": SENDER,
            "simNumber": 1,
            "message": "BAL",
            "receivedAt": "2026-11-21T18:00:00",
        }
        message = {
            "event": "sms:received",
            "deviceId": "d",
            "id": "x",
            "payload": {**payload, **changed},
        }
        found = read_call_untrusted(json.dumps(message).encode())
        assert isinstance(found, PhoneMessage)
        return found

    def read(**changed: object) -> str:
        return call(**changed).key

    def sim_of(**changed: object) -> int | None:
        return call(**changed).sim_number

    same = read()
    for number, sim in ((1, 1), (3, 3), (0, None), (4, None), (None, None)):
        assert sim_of(simNumber=number) == sim
    assert same == read(messageId="another", recipient="+15005550001")
    for change in ({"message": "BAL "}, {"simNumber": 2}, {"receivedAt": "x"}, {"sender": "+1"}):
        assert read(**change) != same


@given(st.text(max_size=4000))
def test_long_answers_are_cut_and_lose_nothing(text: str) -> None:
    assert "".join(parts(text)) == text
    assert all(0 < len(part) <= 1600 for part in parts(text))


@given(st.text(st.characters(exclude_categories=["Cc"], exclude_characters="\ufffe\uffff")))
def test_answers_are_written_as_twilios_library_does(text: str) -> None:
    response = MessagingResponse()
    for part in parts(text):
        response.message(part)
    assert twiml(text) == str(response).encode()
    assert twiml(f"\x00{text}\ufffe\x1f") == twiml(text)
    assert twiml(None) == str(MessagingResponse()).encode()


@given(st.text(max_size=20))
def test_numbers_that_an_sms_can_go_to(text: str) -> None:
    assert not is_e164(text) or (text[0] == "+" and text[1:].isascii() and text[1:].isdigit())
    assert not is_e164("+" + "1" * 16)
    assert not is_e164("+7999555010\n")
