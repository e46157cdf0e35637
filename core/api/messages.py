"""What the two ends of the node's socket say to each other: JSON objects with a `type`.

A client greets first (`Hello`), the node answers with its own; then the client sends `Request`s,
without waiting if it likes, and gets one `Reply` with the same `id` for each, in whatever order
they are ready. Between them stand `Event`s once it has subscribed to them; `bridge_messages` has
what bridges ask and are told. Fields that an end doesn't know are ignored, so that new ones may be
added without a new version.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

from core.api.bridge_messages import BridgeAskRequest, BridgeItem, BridgeReply, BridgeRequest, Event
from core.api.fields import (
    AccountName,
    CallId,
    CallKind,
    CallName,
    ChainLink,
    EffectId,
    FilePath,
    PageLimit,
    Seconds,
    ShortText,
)
from core.api.sms_messages import SmsReply, SmsRequest
from core.errors import ApiError

API_VERSION = 2
"""Raised when an older client or node could not understand a newer one."""


class Hello(msgspec.Struct, frozen=True, tag="hello", tag_field="type"):
    """The first message of either end."""

    version: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    software: ShortText


class StatusRequest(msgspec.Struct, frozen=True, tag="status", tag_field="type"):
    """How the node does."""


class CredentialsRequest(msgspec.Struct, frozen=True, tag="credentials", tag_field="type"):
    """Make time-limited TURN credentials for an account, and for one call of its when named."""

    account: AccountName
    ttl_s: Seconds
    call: CallName | None = None


class CheckLinkRequest(msgspec.Struct, frozen=True, tag="check_link", tag_field="type"):
    """Make a link that opens the node's check page for some minutes."""


class EndRequest(msgspec.Struct, frozen=True, tag="end", tag_field="type"):
    """End every allocation of an account now. It may open others, unless it is also removed."""

    account: Annotated[str, msgspec.Meta(min_length=1, max_length=508)]


class AccountCreateRequest(msgspec.Struct, frozen=True, tag="account_create", tag_field="type"):
    """Open an account with these addresses.

    `id`, here and below: 32 hexadecimal digits of the client's own choice. What was done under an
    id is not done again but answered as the first time, so that a client which has had no answer
    may ask again.
    """

    addresses: Annotated[tuple[ShortText, ...], msgspec.Meta(max_length=64)] = ()
    id: EffectId | None = None


class AccountShowRequest(msgspec.Struct, frozen=True, tag="account_show", tag_field="type"):
    """What an account has. `account`, here and below: an address, `#17` or `17`."""

    account: ShortText


class AccountListRequest(msgspec.Struct, frozen=True, tag="account_list", tag_field="type"):
    """Accounts in the order of their numbers, from `first` on."""

    first: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = 0
    limit: PageLimit = 100


class AccountCreditRequest(msgspec.Struct, frozen=True, tag="account_credit", tag_field="type"):
    """Make money and give it to an account. `amount`, here and below: a decimal number."""

    account: ShortText
    amount: ShortText
    currency: ShortText = "J"
    id: EffectId | None = None


class AccountTransferRequest(msgspec.Struct, frozen=True, tag="account_transfer", tag_field="type"):
    """The operator's transfer, which costs no fee."""

    debit: ShortText
    credit: ShortText
    amount: ShortText
    currency: ShortText = "J"
    id: EffectId | None = None


class AccountRefundRequest(msgspec.Struct, frozen=True, tag="account_refund", tag_field="type"):
    """Undo a transfer; `amount` None for all of it, with its fee."""

    transfer: EffectId
    amount: ShortText | None = None
    id: EffectId | None = None


class AccountLinkRequest(msgspec.Struct, frozen=True, tag="account_link", tag_field="type"):
    """Give an account one more address; who has it already becomes one with the account."""

    account: ShortText
    address: ShortText
    id: EffectId | None = None


class AccountUnlinkRequest(msgspec.Struct, frozen=True, tag="account_unlink", tag_field="type"):
    """Take an address away."""

    account: ShortText
    address: ShortText
    id: EffectId | None = None


class AccountFreezeRequest(msgspec.Struct, frozen=True, tag="account_freeze", tag_field="type"):
    """Let nothing leave an account, or end that."""

    account: ShortText
    frozen: bool
    id: EffectId | None = None


class AccountCloseRequest(msgspec.Struct, frozen=True, tag="account_close", tag_field="type"):
    """Close an account, which has to be empty."""

    account: ShortText
    id: EffectId | None = None


class AccountHistoryRequest(msgspec.Struct, frozen=True, tag="account_history", tag_field="type"):
    """An account's transfers and sessions, the last first, before the one at the place `before`."""

    account: ShortText
    before: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None = None
    limit: PageLimit = 100


class VoucherCreateRequest(msgspec.Struct, frozen=True, tag="voucher_create", tag_field="type"):
    """Make `count` vouchers of an amount each."""

    amount: ShortText
    count: PageLimit = 1
    currency: ShortText = "J"
    id: EffectId | None = None


class VoucherRedeemRequest(msgspec.Struct, frozen=True, tag="voucher_redeem", tag_field="type"):
    """Give an account what a voucher is worth. Its code is all that makes it happen once."""

    code: ShortText
    account: ShortText


LedgerRequest = (
    AccountCreateRequest
    | AccountShowRequest
    | AccountListRequest
    | AccountCreditRequest
    | AccountTransferRequest
    | AccountRefundRequest
    | AccountLinkRequest
    | AccountUnlinkRequest
    | AccountFreezeRequest
    | AccountCloseRequest
    | AccountHistoryRequest
    | VoucherCreateRequest
    | VoucherRedeemRequest
)


class VerifyJob(msgspec.Struct, frozen=True, tag="verify", tag_field="type"):
    """Make the ledger anew from its log, and compare; with a link of the chain that was kept, also
    whether it is still one of them."""

    link: ChainLink | None = None


class BackupJob(msgspec.Struct, frozen=True, tag="backup", tag_field="type"):
    """Write the ledger's log into a new file."""

    path: FilePath


class ExportJob(msgspec.Struct, frozen=True, tag="export", tag_field="type"):
    """Write the records of sessions that were closed at `since_ns` (since 1970) or later into a new
    file; without a path into one of the node's own, which the client takes away."""

    format: Literal["csv", "jsonl", "cloudevents"]
    since_ns: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    path: FilePath | None = None


Job = VerifyJob | BackupJob | ExportJob


class JobStartRequest(msgspec.Struct, frozen=True, tag="job_start", tag_field="type"):
    """Begin what takes a while; one at a time. It is given up when nobody asks after it."""

    job: Job


class JobAskRequest(msgspec.Struct, frozen=True, tag="job_ask", tag_field="type"):
    """How far a job is. Its result is told once."""

    number: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]


class ProveRequest(msgspec.Struct, frozen=True, tag="prove", tag_field="type"):
    """The proof that the record of a closed session stands in the log."""

    record: ShortText


class SigningKeyRequest(msgspec.Struct, frozen=True, tag="signing-key", tag_field="type"):
    """The key that the last root over the records was signed with."""


class CallLinkRequest(msgspec.Struct, frozen=True, tag="call_link", tag_field="type"):
    """Make a call of two links, whose caller pays. `callee` None: whoever has the second link.
    Asked again under its `id` it gives the links of the call that was made."""

    caller: AccountName
    callee: AccountName | None = None
    kind: CallKind = "voice"
    id: EffectId | None = None


class CallListRequest(msgspec.Struct, frozen=True, tag="call_list", tag_field="type"):
    """Calls, the newest first: an account's, or, where none is named, all that have not ended.
    `before`: where the page before this one has ended, its `next`."""

    account: AccountName | None = None
    before: ShortText | None = None
    limit: PageLimit = 100


class CallEndRequest(msgspec.Struct, frozen=True, tag="call_end", tag_field="type"):
    """End a call now."""

    call: CallId


class RoomLinkRequest(msgspec.Struct, frozen=True, tag="room_link", tag_field="type"):
    """Make a room that waits for its first visitor, who will be its host. Asked again under its
    `id` it gives the links of the room that was made, for as long as that waits or anybody is in
    it; they hold for a day from then, as from the first time. It is refused where one of them was
    ended in the room (``link-over``), and for a day after the room's end (``room-over``); then it
    makes another one, with other links."""

    id: EffectId | None = None


SignalingRequest = CallLinkRequest | CallListRequest | CallEndRequest | RoomLinkRequest
AuditRequest = JobStartRequest | JobAskRequest | ProveRequest | SigningKeyRequest
RequestBody = (
    StatusRequest
    | CredentialsRequest
    | CheckLinkRequest
    | EndRequest
    | LedgerRequest
    | AuditRequest
    | SignalingRequest
    | BridgeRequest
    | BridgeAskRequest
    | SmsRequest
)


BRIDGE_REQUESTS: frozenset[type[RequestBody]] = frozenset(
    (
        *get_args(BridgeRequest),
        StatusRequest,
        AccountShowRequest,
        AccountHistoryRequest,
        VoucherRedeemRequest,
        CallListRequest,
    )
)
"""All that a process may ask which is neither of the node's own user nor root's."""


class Request(msgspec.Struct, frozen=True, tag="request", tag_field="type"):
    """Something asked of the node; `id` is the client's own and comes back with the reply."""

    id: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
    body: RequestBody


class StatusReply(msgspec.Struct, frozen=True, tag="status", tag_field="type", kw_only=True):
    """The node's figures since its start.

    `packets` and `bytes` count relayed payload by direction, `drops` packets by cause,
    `counters` everything that the data plane counts, under its own names; `signaling` the pages
    that are connected, rooms, people in them and calls, as they are now; `bridges` those that are
    configured or have come; `outbox` how many events wait to be told through them, for how long
    the oldest has (`oldest_s`), and what has become of others; `sms` what has come and gone, what
    was not answered, by cause, and parts that were sent.
    """

    version: str
    uptime_s: int
    draining: bool
    turn: list[str]
    http: str | None
    metrics: str | None
    workers: int
    allocations: int
    sessions: int
    flows: int
    packets: dict[str, int]
    bytes: dict[str, int]
    drops: dict[str, int]
    counters: dict[str, int]
    signaling: dict[str, int] = {}
    bridges: list[BridgeItem] = []
    outbox: dict[str, int] = {}
    sms: dict[str, int] = {}


class CredentialsReply(msgspec.Struct, frozen=True, tag="credentials", tag_field="type"):
    """Time-limited TURN credentials, in the shape that WebRTC software expects."""

    username: str
    password: str
    ttl: int
    uris: list[str]


class CheckLinkReply(msgspec.Struct, frozen=True, tag="check_link", tag_field="type"):
    """The link, and for how long it opens the page."""

    url: str
    ttl_s: int


class EndReply(msgspec.Struct, frozen=True, tag="end", tag_field="type"):
    """How many allocations have ended."""

    allocations: int


class BalanceItem(msgspec.Struct, frozen=True):
    """What an account has in one currency, as decimal numbers in all of the currency's places.

    Attributes:
        held: by the meter, for the next seconds of its sessions.
        reserved: by its pending transfers.
        available: what can be spent.
    """

    currency: str
    balance: str
    held: str
    reserved: str
    available: str


class AccountReply(msgspec.Struct, frozen=True, tag="account", tag_field="type", kw_only=True):
    """An account.

    Attributes:
        account: its number.
        currency: of `balance`, `held` and `available`; `balances` has them for each currency.
        merged_into: the number of the account that has taken this one over.
        opened: when, in UTC (RFC 3339).
    """

    account: str
    addresses: list[str]
    currency: str
    balance: str
    held: str
    available: str
    balances: list[BalanceItem]
    frozen: bool
    closed: bool
    merged_into: str | None
    opened: str


class AccountListReply(msgspec.Struct, frozen=True, tag="account_list", tag_field="type"):
    """Accounts, and the number at which the next page begins."""

    accounts: list[AccountReply]
    next: int | None


class TransferReply(msgspec.Struct, frozen=True, tag="transfer", tag_field="type", kw_only=True):
    """A transfer that was done, now or when it was first asked for.

    Attributes:
        id: by which it can be refunded.
        debit, credit: the numbers of the accounts, from and to.
        fee: what the debit account has paid on top; of a refund, what it got back of that.
    """

    id: str
    debit: str
    credit: str
    amount: str
    currency: str
    fee: str


class SessionItem(msgspec.Struct, frozen=True, kw_only=True):
    """What an account has paid for by the second.

    Attributes:
        name: what the relay has called it.
        opened: when, in UTC (RFC 3339).
        seconds, bytes: what was charged for.
        reason: why it ended.
    """

    name: str
    opened: str
    seconds: int
    bytes: int
    reason: str


class HistoryItem(msgspec.Struct, frozen=True, kw_only=True):
    """A line of an account's history.

    Attributes:
        place: leads to the line before it.
        time: when it was done, in UTC (RFC 3339).
        kind: transfer, pending, posted, voided, expired or session.
        amount: what the balance has changed by.
        reserved: the amount that waits, or is given free; where `kind` says so.
        other: the account on the other side: its first address, or its number as `#17`.
        purpose: what it was for: credit, operator, user, fee, ...; a session's line of the tariff.
        reference: the id of the transfer that it resolves or refunds.
    """

    place: int
    id: str
    time: str
    kind: str
    amount: str
    reserved: str | None
    currency: str
    other: str
    purpose: str
    reference: str | None
    session: SessionItem | None


class HistoryReply(msgspec.Struct, frozen=True, tag="history", tag_field="type"):
    """A page of an account's history.

    Attributes:
        next: the place that the next page is `before`.
        settled: by currency, the balance at the moment of the first line, to which every line adds
            its `amount`: what sessions cost that live then comes with their own lines. None on a
            page that is `before` another, and of an account that sessions pay into: what they pay
            stands in no line of its.
    """

    account: str
    lines: list[HistoryItem]
    next: int | None
    settled: dict[str, str] | None = None


class VouchersReply(msgspec.Struct, frozen=True, tag="vouchers", tag_field="type"):
    """New vouchers. Their codes are known here alone: the node keeps only hashes."""

    codes: list[str]
    amount: str
    currency: str


class VerifyResult(msgspec.Struct, frozen=True, tag="verify", tag_field="type", kw_only=True):
    """What verifying has found.

    Attributes:
        ok: nothing is wrong.
        entries, accounts, transfers, records: how many were looked at.
        problems: what is wrong, a sentence each; the first ones of `problem_count`.
        sealed: the entry up to which balances were taken from a sealed checkpoint; 0 for none.
        signers: the nodes whose roots stand in the log.
        unsigned_roots: how many nobody could sign.
        unchecked_signatures: of roots, because ML-DSA-65 is missing here.
        link: the chain's last link, hexadecimal, to be kept elsewhere.
    """

    ok: bool
    entries: int
    accounts: int
    transfers: int
    records: int
    problems: list[str]
    problem_count: int
    sealed: int
    signers: list[str]
    unsigned_roots: int
    unchecked_signatures: int
    link: str


class BackupResult(msgspec.Struct, frozen=True, tag="backup", tag_field="type", kw_only=True):
    """A backup that was made; `link` is the chain's last, hexadecimal, to be kept elsewhere."""

    path: str
    entries: int
    size_bytes: int
    link: str


class ExportResult(msgspec.Struct, frozen=True, tag="export", tag_field="type", kw_only=True):
    """How many records were written, and where; `size_bytes` is 0 where that is no file."""

    records: int
    path: str | None
    size_bytes: int = 0


JobResult = VerifyResult | BackupResult | ExportResult


class JobReply(msgspec.Struct, frozen=True, tag="job", tag_field="type", kw_only=True):
    """How far a job is.

    Attributes:
        done, of: in entries, records or bytes; `of` is 0 while it isn't known.
        result: what has come of it, or
        error: why nothing has, a sentence for people; neither while it runs.
    """

    number: int
    done: int
    of: int
    result: JobResult | None = None
    error: str | None = None


class ProofReply(msgspec.Struct, frozen=True, tag="proof", tag_field="type"):
    """A proof, as the JSON text that is handed out."""

    document: str


class SigningKeyReply(msgspec.Struct, frozen=True, tag="signing-key", tag_field="type"):
    """The key that roots over the records are signed with.

    Attributes:
        origin: the node.
        public_key: ML-DSA-65's, hexadecimal.
    """

    origin: str
    public_key: str


class CallLinkReply(msgspec.Struct, frozen=True, tag="call_link", tag_field="type"):
    """A call that was made. Whoever opens a link is that side of it: each is a secret."""

    call_id: str
    caller_url: str
    callee_url: str


class CallItem(msgspec.Struct, frozen=True, kw_only=True):
    """A call. Times are in UTC (RFC 3339), None for what has not been.

    Attributes:
        caller, callee: addresses; the callee's is None where whoever has the link may come.
        status: pending, ringing, active, ended, missed, rejected or failed.
        started: when both sides were connected.
        seconds, cost: what was charged until now, in Ɉ.
    """

    id: str
    caller: str = msgspec.field(name="from")
    callee: str | None = msgspec.field(name="to")
    kind: str
    status: str
    created: str
    started: str | None
    ended: str | None
    seconds: int
    cost: str


class CallListReply(msgspec.Struct, frozen=True, tag="call_list", tag_field="type"):
    """Calls, and what the next page is `before`."""

    calls: list[CallItem]
    next: str | None


class CallEndReply(msgspec.Struct, frozen=True, tag="call_end", tag_field="type"):
    """The call as it has ended."""

    call: CallItem


class RoomLinkReply(msgspec.Struct, frozen=True, tag="room_link", tag_field="type"):
    """A room that was made: who opens `room_url` is its host, and `invitation_url` is for the
    others."""

    room_url: str
    invitation_url: str


class Failure(msgspec.Struct, frozen=True, tag="failure", tag_field="type"):
    """The request can't be carried out.

    Attributes:
        message: a sentence for people.
        code, values: the same for who has it in other languages, see `OperationError` and
            `SignalingError`.
    """

    message: str
    code: str = ""
    values: dict[str, str] = {}


LedgerReply = AccountReply | AccountListReply | TransferReply | HistoryReply | VouchersReply
AuditReply = JobReply | ProofReply | SigningKeyReply
SignalingReply = CallLinkReply | CallListReply | CallEndReply | RoomLinkReply
ReplyBody = (
    StatusReply
    | CredentialsReply
    | CheckLinkReply
    | EndReply
    | LedgerReply
    | AuditReply
    | SignalingReply
    | BridgeReply
    | SmsReply
    | Failure
)


class Reply(msgspec.Struct, frozen=True, tag="reply", tag_field="type"):
    """What came of the request with the same `id`; 0 when the node couldn't even read one."""

    id: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
    body: ReplyBody


ClientMessage = Hello | Request
NodeMessage = Hello | Reply | Event

_encoder = msgspec.json.Encoder()
_client_decoder: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)
_node_decoder: msgspec.json.Decoder[NodeMessage] = msgspec.json.Decoder(NodeMessage)


def encode_message(message: ClientMessage | NodeMessage) -> bytes:
    """The JSON text of a message."""
    return _encoder.encode(message)


def decode_client_message_untrusted(payload: bytes) -> ClientMessage:
    """What a client sent.

    Raises:
        ApiError: it is no message of a client's; says what is wrong without quoting values.
    """
    try:
        return _client_decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(f"not a request: {error}") from None


def decode_node_message_untrusted(payload: bytes) -> NodeMessage:
    """What a node sent.

    Raises:
        ApiError: it is no message of a node's.
    """
    try:
        return _node_decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(f"not a reply: {error}") from None
