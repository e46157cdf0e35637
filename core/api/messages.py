"""What the two ends of the node's socket say to each other: JSON objects with a `type`.

A client greets first (`Hello`), the node answers with its own; then the client sends `Request`s
and gets one `Reply` with the same `id` for each, in order. Fields that an end doesn't know are
ignored, so that new ones may be added without a new version.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from core.errors import ApiError

API_VERSION = 1
"""Raised when an older client or node could not understand a newer one."""

ShortText = Annotated[str, msgspec.Meta(max_length=128)]
AccountName = Annotated[
    str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x20\x7f:#]+\Z")
]
"""An account: no blanks, and neither ``:`` nor ``#``, which cut a TURN username into its parts."""
CallName = Annotated[str, msgspec.Meta(pattern=r"^CALL-[A-Za-z0-9._-]{1,59}\Z")]
CREDENTIALS_TTL_MAXIMUM_S = 30 * 24 * 3600
Seconds = Annotated[int, msgspec.Meta(ge=1, le=CREDENTIALS_TTL_MAXIMUM_S)]


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


RequestBody = StatusRequest | CredentialsRequest | CheckLinkRequest | EndRequest


class Request(msgspec.Struct, frozen=True, tag="request", tag_field="type"):
    """Something asked of the node; `id` is the client's own and comes back with the reply."""

    id: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
    body: RequestBody


class StatusReply(msgspec.Struct, frozen=True, tag="status", tag_field="type", kw_only=True):
    """The node's figures since its start.

    `packets` and `bytes` count relayed payload by direction, `drops` packets by cause,
    `counters` everything that the data plane counts, under its own names.
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


class Failure(msgspec.Struct, frozen=True, tag="failure", tag_field="type"):
    """The request can't be carried out; `message` is a sentence for people."""

    message: str


ReplyBody = StatusReply | CredentialsReply | CheckLinkReply | EndReply | Failure


class Reply(msgspec.Struct, frozen=True, tag="reply", tag_field="type"):
    """What came of the request with the same `id`; 0 when the node couldn't even read one."""

    id: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
    body: ReplyBody


ClientMessage = Hello | Request
NodeMessage = Hello | Reply

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
