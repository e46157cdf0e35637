"""What bridges and the node say to each other: its shape in JSON, and whatever else may come."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.api.bridge_messages import (
    AcknowledgeRequest,
    AlarmBody,
    BridgeAnswerReply,
    BridgeAnswerRequest,
    BridgeAskRequest,
    BridgeReply,
    BridgeRequest,
    BridgeStatusRequest,
    CallHangUpRequest,
    CallQuoteReply,
    CallQuoteRequest,
    CallRejectRequest,
    CallSideReply,
    CallSideRequest,
    CallStartRequest,
    CommandBody,
    DoneReply,
    Event,
    EventBody,
    ForwardBody,
    InitDataBody,
    LinkConfirmRequest,
    LinkLookReply,
    LinkLookRequest,
    LinkStartReply,
    LinkStartRequest,
    PingRequest,
    QuestionBody,
    ReceiptBody,
    RingBody,
    RingOverBody,
    SmsBody,
    SmsOptOutRequest,
    SmsReceivedReply,
    SmsReceivedRequest,
    SmsStatusRequest,
    SubscribeRequest,
    TransferReceivedBody,
    UnlinkedBody,
    UserOpenRequest,
    UserTransferRequest,
    effect_id,
)
from core.api.messages import (
    Reply,
    Request,
    decode_client_message_untrusted,
    decode_node_message_untrusted,
    encode_message,
)
from core.errors import ApiError

ID = "0123456789abcdef" * 2
CALL = "CALL-ABCDEFGH"
REQUESTS: list[BridgeRequest] = [
    PingRequest(),
    SubscribeRequest("telegram", 256),
    AcknowledgeRequest(ID, "unknown", "the modem went away"),
    BridgeStatusRequest("gsm", "ready", {"modem.1.signal": "17", "modem.1.network": "ok"}),
    BridgeAnswerRequest(ID, True, "Balance: 5"),
    SmsReceivedRequest("gsm", "+79991234567", "modem1", "SEND ½ \N{GRINNING FACE}", "m-1", 2**50),
    SmsStatusRequest(ID, "delivered", ""),
    SmsOptOutRequest("+79991234567", True),
    UserOpenRequest("tg:17"),
    UserTransferRequest("tg:17", "+79991234567", "0.5", "J", ID),
    LinkStartRequest("tg:17", "8 999 123-45-67", ID),
    LinkLookRequest("tg:17", "ABCD-2345"),
    LinkConfirmRequest("tg:17", "123456"),
    CallQuoteRequest("tg:17", "+79991234567", "video", "anna_1"),
    CallStartRequest("tg:17", "tg:18", "screen", ID, "anna_1", "1.000000"),
    CallSideRequest(CALL, "tg:17"),
    CallRejectRequest(CALL, "tg:17"),
    CallHangUpRequest(None, "tg:17", ID),
]
REPLIES: list[BridgeReply] = [
    DoneReply(),
    BridgeAnswerReply(False, "the modem is away"),
    SmsReceivedReply(None, True),
    LinkStartReply(600),
    LinkLookReply("+7 999 ••• 567", False),
    CallQuoteReply(
        reach="sms", price_second="1.000000", minimum="60", available="61", sms_price="5"
    ),
    CallSideReply(
        url="https://n/call?id=1#x", role="callee", status="pending", kind="voice", other=""
    ),
]
BODIES: list[EventBody] = [
    RingBody(CALL, "tg:17", "voice", "https://n/call?id=1#x"),
    RingOverBody(CALL, "missed", 0),
    ReceiptBody(
        call=CALL, other="tg:18", kind="voice", seconds=5, cost="5", balance="1", reason="hang-up"
    ),
    TransferReceivedBody(amount="1", currency="J", sender="tg:17", balance="2"),
    SmsBody("x" * 4096),
    ForwardBody(sender="Bank", recipient="modem1", text="code", received_ms=1),
    UnlinkedBody("+7999*****67", "5"),
    AlarmBody("the budget is spent"),
    InitDataBody("query_id=1&hash=2"),
    CommandBody("ussd", ("modem1", "*100#")),
]
VALID = [
    *(encode_message(Request(1, body)) for body in REQUESTS),
    *(encode_message(Reply(1, body)) for body in REPLIES),
    *(
        encode_message(Event(id=ID, to="tg:17", created_ms=1, expires_ms=2, body=body))
        for body in BODIES
    ),
]


def test_each_message_is_tried_here() -> None:
    assert {type(one) for one in REQUESTS} == set(get_args(BridgeRequest))
    assert {type(one) for one in REPLIES} == set(get_args(BridgeReply))
    assert {type(one) for one in BODIES} == set(get_args(EventBody))
    assert set(get_args(QuestionBody)) < set(get_args(EventBody))


@pytest.mark.parametrize("body", [*REQUESTS, BridgeAskRequest("gsm", "ussd", ("m", "*1#"))])
def test_a_request_comes_as_it_was_sent(body: BridgeRequest) -> None:
    assert decode_client_message_untrusted(encode_message(Request(1, body))) == Request(1, body)


@pytest.mark.parametrize("body", REPLIES)
def test_a_reply_comes_as_it_was_sent(body: BridgeReply) -> None:
    assert decode_node_message_untrusted(encode_message(Reply(1, body))) == Reply(1, body)


@pytest.mark.parametrize("body", BODIES)
def test_an_event_comes_as_it_was_sent(body: EventBody) -> None:
    event = Event(id=ID, to="https://example.org", created_ms=0, expires_ms=2**53 - 1, body=body)
    assert decode_node_message_untrusted(encode_message(event)) == event


@pytest.mark.parametrize(
    "body",
    [
        {"type": "subscribe", "bridge": "telegram", "window": 0},
        {"type": "subscribe", "bridge": "telegram", "window": 257},
        {"type": "subscribe", "bridge": "Telegram", "window": 1},
        {"type": "subscribe", "bridge": "a" * 17, "window": 1},
        {"type": "subscribe", "bridge": "../gsm", "window": 1},
        {"type": "subscribe", "bridge": "gsm\n", "window": 1},
        {"type": "acknowledge", "id": ID, "outcome": "perhaps"},
        {"type": "acknowledge", "id": ID[:-1], "outcome": "done"},
        {"type": "acknowledge", "id": ID, "outcome": "done", "detail": "x" * 129},
        {"type": "bridge_status", "bridge": "gsm", "state": "", "figures": {"A": "1"}},
        {"type": "bridge_status", "bridge": "gsm", "state": "", "figures": {"": "1"}},
        {"type": "bridge_status", "bridge": "gsm", "state": "", "figures": {"a": 1}},
        {
            "type": "bridge_status",
            "bridge": "gsm",
            "state": "",
            "figures": {f"n{number}": "" for number in range(513)},
        },
        {"type": "bridge_answer", "id": ID, "ok": True, "text": "x" * 4097},
        {"type": "user_transfer", "debit": "a", "credit": "b", "amount": 1},
        {"type": "user_transfer", "debit": "a", "credit": "b", "amount": "1", "id": "1"},
        {"type": "call_start", "caller": "tg:1", "callee": "tg:2", "kind": "smell"},
        {"type": "call_start", "caller": "tg:1", "callee": ""},
        {"type": "call_side", "call": "CALL-1", "address": "tg:1"},
        {"type": "bridge_ask", "bridge": "gsm", "command": "reboot", "arguments": []},
        {"type": "bridge_ask", "bridge": "gsm", "command": "ussd", "arguments": ["x"] * 17},
    ],
)
def test_what_is_out_of_bounds_is_no_request(body: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="not a request"):
        decode_client_message_untrusted(
            msgspec.json.encode({"type": "request", "id": 1, "body": body})
        )


@pytest.mark.parametrize(
    "changed", [{"id": "1"}, {"to": "x" * 2049}, {"expires_ms": -1}, {"body": {"type": "ping"}}]
)
def test_what_is_out_of_bounds_is_no_event(changed: dict[str, Any]) -> None:
    event = {"type": "event", "id": ID, "to": "", "created_ms": 0, "expires_ms": 0}
    event["body"] = {"type": "sms", "text": ""}
    decode_node_message_untrusted(msgspec.json.encode(event))
    with pytest.raises(ApiError, match="not a reply"):
        decode_node_message_untrusted(msgspec.json.encode(event | changed))


@settings(max_examples=1000)
@given(data=st.data())
def test_fuzzed_messages_raise_nothing_but_the_one_error(data: st.DataObject) -> None:
    payload = bytearray(data.draw(st.sampled_from(VALID)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(payload)))
        payload[at : at + data.draw(st.integers(0, 8))] = data.draw(
            st.one_of(
                st.binary(max_size=6),
                st.sampled_from([b'"', b"\\ud800", b"null", b"1e999", b"[{", b"-1", b'"type":']),
            )
        )
    for decode in (decode_client_message_untrusted, decode_node_message_untrusted):
        try:
            message = decode(bytes(payload))
        except ApiError:
            continue
        assert decode(encode_message(message)) == message


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


@settings(max_examples=500)
@given(data=st.data())
def test_fields_of_any_kind_raise_nothing_but_the_one_error(data: st.DataObject) -> None:
    document = msgspec.json.decode(data.draw(st.sampled_from(VALID)))
    body = document["body"]
    name = data.draw(st.sampled_from(sorted(body)))
    body[name] = data.draw(_JSON)
    payload = msgspec.json.encode(document)
    for decode in (decode_client_message_untrusted, decode_node_message_untrusted):
        try:
            decode(payload)
        except ApiError:
            continue


# ---------------------------------------------------------------- names of effects


def test_the_same_parts_name_the_same_effect() -> None:
    # sha256 of b"gsm\0m-1\0reply"
    assert effect_id("gsm", "m-1", "reply") == "d419da493397d5e03e8ba98016f19706"
    assert decode_client_message_untrusted(
        encode_message(Request(1, UserTransferRequest("a", "b", "1", id=effect_id("x"))))
    )


@given(
    one=st.lists(st.text(alphabet="\0\x01\x02a\ud800", max_size=4), max_size=4),
    other=st.lists(st.text(alphabet="\0\x01\x02a\ud800", max_size=4), max_size=4),
)
def test_other_parts_name_another_effect(one: list[str], other: list[str]) -> None:
    if not one or not other:
        return
    assert (effect_id(*one) == effect_id(*other)) == (one == other)
