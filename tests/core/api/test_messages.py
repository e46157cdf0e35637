"""What is asked of the ledger through the socket, and what it answers: their shape in JSON."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from core.api.messages import (
    AccountCloseRequest,
    AccountCreateRequest,
    AccountCreditRequest,
    AccountFreezeRequest,
    AccountHistoryRequest,
    AccountLinkRequest,
    AccountListReply,
    AccountListRequest,
    AccountRefundRequest,
    AccountReply,
    AccountShowRequest,
    AccountTransferRequest,
    AccountUnlinkRequest,
    BalanceItem,
    HistoryItem,
    HistoryReply,
    LedgerReply,
    LedgerRequest,
    Reply,
    Request,
    SessionItem,
    TransferReply,
    VoucherCreateRequest,
    VoucherRedeemRequest,
    VouchersReply,
    decode_client_message_untrusted,
    decode_node_message_untrusted,
    encode_message,
)
from core.errors import ApiError

ID = "0123456789abcdef" * 2
REQUESTS: list[LedgerRequest] = [
    AccountCreateRequest(("user:alice", "tg:1"), ID),
    AccountShowRequest("#17"),
    AccountListRequest(2**32 - 1, 1000),
    AccountCreditRequest("17", "10", "EMC", ID),
    AccountTransferRequest("17", "18", "0.5", "J", ID),
    AccountRefundRequest(ID, "0.5", ID),
    AccountLinkRequest("17", "+79991234567", ID),
    AccountUnlinkRequest("17", "+79991234567", ID),
    AccountFreezeRequest("17", False, ID),
    AccountCloseRequest("17", ID),
    AccountHistoryRequest("17", 2**63 - 1, 1000),
    VoucherCreateRequest("5", 1000, "J", ID),
    VoucherRedeemRequest("AAAAA-BBBBB-CCCCC-DDDDD", "17"),
]
ACCOUNT = AccountReply(
    account="17",
    addresses=["user:alice"],
    currency="J",
    balance="1.000000",
    held="0.000000",
    available="1.000000",
    balances=[BalanceItem("J", "1.000000", "0.000000", "0.000000", "1.000000")],
    frozen=False,
    closed=True,
    merged_into="18",
    opened="2027-01-15T08:00:00.000Z",
)
REPLIES: list[LedgerReply] = [
    ACCOUNT,
    AccountListReply([ACCOUNT], 18),
    TransferReply(id=ID, debit="17", credit="18", amount="1.000000", currency="J", fee="1.000000"),
    HistoryReply(
        "17",
        [
            HistoryItem(
                place=2**40,
                id=ID,
                time="2027-01-15T08:00:00.000Z",
                kind="session",
                amount="-1.000000",
                reserved=None,
                currency="J",
                other="node",
                purpose="turn",
                reference=None,
                session=SessionItem(
                    name="alice", opened="2027-01-15T08:00:00.000Z", seconds=1, bytes=2, reason=""
                ),
            )
        ],
        None,
    ),
    VouchersReply(["AAAAA-BBBBB-CCCCC-DDDDD"], "5.000000", "J"),
]


def request_of(body: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"type": "request", "id": 1, "body": body})


def test_each_request_and_reply_is_tried_here() -> None:
    assert {type(one) for one in REQUESTS} == set(get_args(LedgerRequest))
    assert {type(one) for one in REPLIES} == set(get_args(LedgerReply))


@pytest.mark.parametrize("body", REQUESTS, ids=lambda body: type(body).__name__)
def test_a_request_comes_as_it_was_sent(body: LedgerRequest) -> None:
    request = Request(1, body)
    assert decode_client_message_untrusted(encode_message(request)) == request


@pytest.mark.parametrize("body", REPLIES, ids=lambda body: type(body).__name__)
def test_a_reply_comes_as_it_was_sent(body: LedgerReply) -> None:
    reply = Reply(1, body)
    assert decode_node_message_untrusted(encode_message(reply)) == reply


@pytest.mark.parametrize(
    ("body", "request_is"),
    [
        ({"type": "account_create"}, AccountCreateRequest((), None)),
        ({"type": "account_list"}, AccountListRequest(0, 100)),
        (
            {"type": "account_credit", "account": "17", "amount": "1"},
            AccountCreditRequest("17", "1", "J", None),
        ),
        ({"type": "account_history", "account": "17"}, AccountHistoryRequest("17", None, 100)),
        ({"type": "voucher_create", "amount": "5"}, VoucherCreateRequest("5", 1, "J", None)),
    ],
)
def test_what_is_left_out_has_its_default(body: dict[str, Any], request_is: LedgerRequest) -> None:
    assert decode_client_message_untrusted(request_of(body)) == Request(1, request_is)


@pytest.mark.parametrize(
    "body",
    [
        {"type": "account_create", "addresses": ["x"] * 65},
        {"type": "account_create", "addresses": "user:alice"},
        {"type": "account_create", "id": "1" * 31},
        {"type": "account_create", "id": "A" * 32},
        {"type": "account_create", "id": "1" * 32 + "\n"},
        {"type": "account_show"},
        {"type": "account_show", "account": 17},
        {"type": "account_show", "account": "x" * 129},
        {"type": "account_list", "first": -1},
        {"type": "account_list", "first": 2**32},
        {"type": "account_list", "limit": 0},
        {"type": "account_list", "limit": 1001},
        {"type": "account_credit", "account": "17", "amount": 10},
        {"type": "account_credit", "account": "17", "amount": 0.5},
        {"type": "account_credit", "account": "17", "amount": None},
        {"type": "account_refund", "transfer": "12"},
        {"type": "account_freeze", "account": "17", "frozen": 1},
        {"type": "account_history", "account": "17", "before": 0},
        {"type": "account_history", "account": "17", "before": 2**63},
        {"type": "voucher_create", "amount": "5", "count": 0},
        {"type": "voucher_create", "amount": "5", "count": 1001},
        {"type": "voucher_create", "amount": "5", "count": True},
        {"type": "account_withdraw", "account": "17", "amount": "1"},
    ],
)
def test_what_is_out_of_bounds_is_no_request(body: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="not a request"):
        decode_client_message_untrusted(request_of(body))
