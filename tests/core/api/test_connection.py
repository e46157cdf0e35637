"""The socket's protocol, both ends, without I/O."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.api import connection
from core.api.bridge_messages import DoneReply, SubscribeRequest
from core.api.connection import ClientConnection, NodeConnection, Refused
from core.api.framing import encode_frame
from core.api.messages import (
    API_VERSION,
    CheckLinkReply,
    CredentialsRequest,
    Failure,
    Hello,
    Reply,
    Request,
    StatusRequest,
    VoucherRedeemRequest,
    encode_message,
)
from core.errors import ApiError, OperationError
from tests.support.api_socket import event


def greeted_pair() -> tuple[ClientConnection, NodeConnection]:
    client, node = ClientConnection("test client"), NodeConnection("test node")
    assert node.receive_untrusted(client.data_to_send()) == []
    assert client.receive_untrusted(node.data_to_send()) == []
    assert client.greeted
    assert node.greeted
    return client, node


def as_frame(document: object) -> bytes:
    return encode_frame(json.dumps(document).encode())


def test_requests_and_replies_pass_with_their_ids() -> None:
    client, node = greeted_pair()
    first = client.request(StatusRequest())
    second = client.request(CredentialsRequest("alice", 600, "CALL-7"))
    requests = node.receive_untrusted(client.data_to_send())
    assert requests == [
        Request(first, StatusRequest()),
        Request(second, CredentialsRequest("alice", 600, "CALL-7")),
    ]
    node.reply(first, Failure("busy"))
    node.reply(second, CheckLinkReply("http://127.0.0.1/check#x", 60))
    assert client.receive_untrusted(node.data_to_send()) == [
        Reply(first, Failure("busy")),
        Reply(second, CheckLinkReply("http://127.0.0.1/check#x", 60)),
    ]


def test_requests_may_follow_the_hello_at_once() -> None:
    client, node = ClientConnection("client"), NodeConnection("node")
    client.request(StatusRequest())
    assert node.receive_untrusted(client.data_to_send()) == [Request(1, StatusRequest())]


def test_another_version_is_told_so_by_the_node() -> None:
    client, node = ClientConnection("client"), NodeConnection("node")
    with pytest.raises(ApiError, match=f"version {API_VERSION}"):
        node.receive_untrusted(encode_frame(encode_message(Hello(API_VERSION + 1, "newer"))))
    with pytest.raises(ApiError, match=r"the node refused: .*same version"):
        client.receive_untrusted(node.data_to_send())


def test_a_client_refuses_a_node_of_another_version() -> None:
    with pytest.raises(ApiError, match="version 9"):
        ClientConnection("client").receive_untrusted(
            encode_frame(encode_message(Hello(9, "newer")))
        )


def test_fields_that_are_unknown_are_ignored() -> None:
    _, node = greeted_pair()
    frame = as_frame({"type": "request", "id": 5, "body": {"type": "status", "since": 3}, "x": 1})
    assert node.receive_untrusted(frame) == [Request(5, StatusRequest())]


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"type": "nonsense"},
        {"type": "hello", "version": 1, "software": "again"},
        {"type": "request", "id": 0, "body": {"type": "status"}},
        {"type": "request", "id": 1, "body": {"type": "reboot"}},
        {"type": "request", "id": 1, "body": {"type": "credentials", "account": "a"}},
        {"type": "request", "id": 1, "body": {"type": "credentials", "account": "", "ttl_s": 1}},
        {"type": "request", "id": 1, "body": {"type": "credentials", "account": "a b", "ttl_s": 1}},
        {"type": "request", "id": 1, "body": {"type": "credentials", "account": "a#b", "ttl_s": 1}},
        {"type": "request", "id": 1, "body": {"type": "credentials", "account": "a\n", "ttl_s": 1}},
        {"type": "request", "id": 1, "body": {"type": "credentials", "account": "a", "ttl_s": 0}},
        {
            "type": "request",
            "id": 1,
            "body": {"type": "credentials", "account": "a", "ttl_s": 1, "call": "7"},
        },
    ],
)
def test_a_bad_request_is_answered_with_its_reason(document: object) -> None:
    client, node = greeted_pair()
    with pytest.raises(ApiError):
        node.receive_untrusted(as_frame(document))
    with pytest.raises(Refused, match="the node refused"):
        client.receive_untrusted(node.data_to_send())


def test_a_request_before_the_hello_is_refused() -> None:
    with pytest.raises(ApiError, match="before the hello"):
        NodeConnection("node").receive_untrusted(
            encode_frame(encode_message(Request(1, StatusRequest())))
        )


def test_events_come_between_replies() -> None:
    client, node = greeted_pair()
    first = client.request(SubscribeRequest("gsm", 2))
    node.receive_untrusted(client.data_to_send())
    node.send_event(event(1))
    node.reply(first, DoneReply())
    node.send_event(event(2))
    assert client.receive_untrusted(node.data_to_send()) == [
        event(1),
        Reply(first, DoneReply()),
        event(2),
    ]


def test_a_reply_that_comes_twice_is_refused() -> None:
    client, _ = greeted_pair()
    client.request(StatusRequest())
    reply = encode_frame(encode_message(Reply(1, DoneReply())))
    assert client.receive_untrusted(reply) == [Reply(1, DoneReply())]
    with pytest.raises(ApiError, match="nothing that was asked"):
        client.receive_untrusted(reply)


def test_a_reply_to_nothing_is_refused() -> None:
    client, _ = greeted_pair()
    with pytest.raises(ApiError, match="nothing that was asked"):
        client.receive_untrusted(encode_frame(encode_message(Reply(3, Failure("?")))))


def subscribed_client() -> ClientConnection:
    client = ClientConnection("client")
    for body in (SubscribeRequest("gsm", 1), StatusRequest()):
        client.request(body)
    return client


VALID = (
    encode_frame(encode_message(Hello(API_VERSION, "fuzz")))
    + encode_frame(encode_message(Request(1, StatusRequest())))
    + encode_frame(encode_message(Request(2, CredentialsRequest("alice", 600, "CALL-1"))))
)


OF_A_NODE = (
    encode_frame(encode_message(Hello(API_VERSION, "fuzz")))
    + encode_frame(encode_message(Reply(1, DoneReply())))
    + encode_frame(encode_message(event(1)))
    + encode_frame(encode_message(Reply(2, Failure("busy"))))
)


@settings(max_examples=500)
@given(data=st.data())
def test_fuzzed_bytes_raise_nothing_but_the_one_error(data: st.DataObject) -> None:
    stream = bytearray(data.draw(st.sampled_from([VALID, OF_A_NODE])))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(stream) - 1))
        stream[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        if not stream:
            stream += b"\x00"
    for end in (NodeConnection("node"), subscribed_client()):
        try:
            end.receive_untrusted(bytes(stream))
        except ApiError:
            continue


@settings(max_examples=300)
@given(payload=st.binary(min_size=1, max_size=300))
def test_a_frame_of_random_bytes_raises_nothing_but_the_one_error(payload: bytes) -> None:
    for end in (NodeConnection("node"), ClientConnection("client")):
        with pytest.raises(ApiError):
            end.receive_untrusted(encode_frame(payload))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ApiError):
        NodeConnection("node").receive_untrusted(encode_frame(b"[" * 60_000))


def test_an_answer_too_long_for_a_frame_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    client, node = greeted_pair()
    monkeypatch.setattr(connection, "REPLY_BYTES_MAX", 200)
    long, short = client.request(StatusRequest()), client.request(StatusRequest())
    node.receive_untrusted(client.data_to_send())
    node.reply(long, CheckLinkReply("x" * 200, 60))
    node.reply(short, CheckLinkReply("x", 60))
    assert client.receive_untrusted(node.data_to_send()) == [
        Reply(long, Failure("the answer is too long; ask for fewer: --limit")),
        Reply(short, CheckLinkReply("x", 60)),
    ]


def test_a_request_too_long_for_a_node_is_refused_before_it_is_sent() -> None:
    client, node = greeted_pair()
    with pytest.raises(OperationError, match="a node takes 65536; ask for less"):
        client.request(VoucherRedeemRequest("A" * 100_000, "6"))
    assert client.data_to_send() == b""
    assert client.request(StatusRequest()) == 1
    assert node.receive_untrusted(client.data_to_send()) == [Request(1, StatusRequest())]
