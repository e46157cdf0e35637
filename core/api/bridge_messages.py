"""What the node and its bridges say to each other; `messages` has the frame around it.

A bridge asks (`BridgeRequest`) and is told (`Event`). Events are given at least once: until
the bridge says what has become of one (`AcknowledgeRequest`) it is given again after each
`SubscribeRequest`, under the same id. Amounts are decimal numbers as text.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec

from core.api.fields import (
    AccountName,
    BridgeName,
    CallId,
    CallKind,
    EffectId,
    Link,
    LongText,
    Milliseconds,
    ShortText,
)

WINDOW_MAXIMUM = 256
FIGURES_MAXIMUM = 512
ARGUMENTS_MAXIMUM = 16

CarrierKeyword = Literal["stop", "start", "help"]
Outcome = Literal["done", "failed", "unknown"]
"""Of an event: it has reached whom it was for, it never will, or nobody has told."""
FigureName = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[a-z0-9_.]+\Z")]
Figures = Annotated[dict[FigureName, ShortText], msgspec.Meta(max_length=FIGURES_MAXIMUM)]
Arguments = Annotated[tuple[ShortText, ...], msgspec.Meta(max_length=ARGUMENTS_MAXIMUM)]


def effect_id(*parts: str) -> str:
    """An `EffectId` that is the same for the same parts, and for no others.

    Whoever asks again after a crash finds it again, by what has made it ask: the bridge, the
    message, and which of its effects it is.
    """
    # NUL joins the parts, so that one inside of a part has to look otherwise.
    escaped = (part.replace("\x01", "\x01\x01").replace("\0", "\x01\x02") for part in parts)
    joined = "\0".join(escaped).encode("utf-8", "surrogatepass")
    return hashlib.sha256(joined).digest()[:16].hex()


class PingRequest(msgspec.Struct, frozen=True, tag="ping", tag_field="type"):
    """Whether anybody is there."""


class SubscribeRequest(msgspec.Struct, frozen=True, tag="subscribe", tag_field="type"):
    """Be told what is for `bridge`, from now on and on this connection, at most `window` events
    that are not acknowledged. One connection at a time is, others are refused (`subscribed`)."""

    bridge: BridgeName
    window: Annotated[int, msgspec.Meta(ge=1, le=WINDOW_MAXIMUM)]


class AcknowledgeRequest(msgspec.Struct, frozen=True, tag="acknowledge", tag_field="type"):
    """What has become of the event `id`; it is erased, and not given again. Says the same when it
    is repeated."""

    id: EffectId
    outcome: Outcome
    detail: ShortText = ""


class BridgeStatusRequest(msgspec.Struct, frozen=True, tag="bridge_status", tag_field="type"):
    """How a bridge does, each 10 s; figures that are numbers become metrics."""

    bridge: BridgeName
    state: ShortText
    figures: Figures


class BridgeAnswerRequest(msgspec.Struct, frozen=True, tag="bridge_answer", tag_field="type"):
    """The answer to the event `id`, a question; `text` says why where it is not `ok`."""

    id: EffectId
    ok: bool
    text: LongText


class SmsReceivedRequest(msgspec.Struct, frozen=True, tag="sms_received", tag_field="type"):
    """An SMS has come. What was received under a `message_id` of a bridge is carried out once.

    Attributes:
        sender: a telephone number, or a name that a carrier has let somebody write.
        recipient: the number or the modem that it came to.
        message_id: unique in the bridge, for ever.
        keyword: what the carrier has taken it for, and has answered itself; None for nothing.
    """

    bridge: BridgeName
    sender: ShortText
    recipient: ShortText
    body: LongText
    message_id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    received_ms: Milliseconds
    keyword: CarrierKeyword | None = None


class SmsStatusRequest(msgspec.Struct, frozen=True, tag="sms_status", tag_field="type"):
    """How far an SMS is that was sent for the event `event`, a `SmsBody`."""

    event: EffectId
    status: Literal["sent", "delivered", "undelivered", "failed", "unknown"]
    detail: ShortText = ""


class SmsOptOutRequest(msgspec.Struct, frozen=True, tag="sms_opt_out", tag_field="type"):
    """Somebody wants no SMS any more, or wants them again, as a carrier has told that was to send
    one; an SMS that says so is a `SmsReceivedRequest`."""

    number: ShortText
    opted_out: bool


class UserOpenRequest(msgspec.Struct, frozen=True, tag="user_open", tag_field="type"):
    """The account of an address, ``tg:...``, which is opened where there is none."""

    address: AccountName


class UserTransferRequest(msgspec.Struct, frozen=True, tag="user_transfer", tag_field="type"):
    """A user's transfer between two addresses, with its fee. The recipient is told."""

    debit: ShortText
    credit: ShortText
    amount: ShortText
    currency: ShortText = "J"
    id: EffectId | None = None


class LinkStartRequest(msgspec.Struct, frozen=True, tag="link_start", tag_field="type"):
    """Have a code sent to `phone` by SMS, which makes it one account with `address`, ``tg:...``."""

    address: AccountName
    phone: ShortText
    id: EffectId | None = None


class LinkLookRequest(msgspec.Struct, frozen=True, tag="link_look", tag_field="type"):
    """What a code that came to a telephone by SMS would do, typed by whom `address` belongs to. It
    does nothing yet: people type what others have given them."""

    address: AccountName
    code: ShortText


class LinkConfirmRequest(msgspec.Struct, frozen=True, tag="link_confirm", tag_field="type"):
    """Whoever has typed a code wants what it does: the telephone that it came to and `address`
    become one account. The code is used up by it, and says the same to the same user afterwards."""

    address: AccountName
    code: ShortText


class CallQuoteRequest(msgspec.Struct, frozen=True, tag="call_quote", tag_field="type"):
    """What a call would cost its caller, and how the callee would hear of it.

    Attributes:
        username: the caller's in Telegram, without its ``@``; empty for none.
    """

    caller: AccountName
    callee: AccountName
    kind: CallKind = "voice"
    username: ShortText = ""


class CallStartRequest(msgspec.Struct, frozen=True, tag="call_start", tag_field="type"):
    """Make a call, whose caller pays, and have the callee told: where they are rung, as soon as the
    caller's page has come; by an SMS with a link at once, which names the caller by `username`, as
    `CallQuoteRequest` has it.

    Attributes:
        sms_price: the most that an SMS may cost the caller, who was shown it as
            `CallQuoteReply.sms_price`; a call that takes a dearer one is refused (``sms-price``).
    """

    caller: AccountName
    callee: AccountName
    kind: CallKind = "voice"
    id: EffectId | None = None
    username: ShortText = ""
    sms_price: ShortText = "0"


class CallSideRequest(msgspec.Struct, frozen=True, tag="call_side", tag_field="type"):
    """The side of a call that belongs to an address, and the link that opens it."""

    call: CallId
    address: AccountName


class CallRejectRequest(msgspec.Struct, frozen=True, tag="call_reject", tag_field="type"):
    """The callee doesn't want the call. Says the same when it is repeated."""

    call: CallId
    address: AccountName


class CallHangUpRequest(msgspec.Struct, frozen=True, tag="call_hang_up", tag_field="type"):
    """End an address's call; None for whichever lives. Asked again under its `id` it means the call
    that was meant first, or none where there was none."""

    call: CallId | None
    address: AccountName
    id: EffectId | None = None


BridgeRequest = (
    PingRequest
    | SubscribeRequest
    | AcknowledgeRequest
    | BridgeStatusRequest
    | BridgeAnswerRequest
    | SmsReceivedRequest
    | SmsStatusRequest
    | SmsOptOutRequest
    | UserOpenRequest
    | UserTransferRequest
    | LinkStartRequest
    | LinkLookRequest
    | LinkConfirmRequest
    | CallQuoteRequest
    | CallStartRequest
    | CallSideRequest
    | CallRejectRequest
    | CallHangUpRequest
)
"""What a bridge asks."""


class BridgeAskRequest(msgspec.Struct, frozen=True, tag="bridge_ask", tag_field="type"):
    """The operator asks a bridge something, through the node."""

    bridge: BridgeName
    command: Literal["ussd"]
    arguments: Arguments


class DoneReply(msgspec.Struct, frozen=True, tag="done", tag_field="type"):
    """It was done, now or earlier."""


class BridgeAnswerReply(msgspec.Struct, frozen=True, tag="bridge_answer", tag_field="type"):
    """What a bridge has answered; `text` says why where it is not `ok`."""

    ok: bool
    text: str


class SmsReceivedReply(msgspec.Struct, frozen=True, tag="sms_received", tag_field="type"):
    """An SMS was carried out.

    Attributes:
        reply: the text that answers it; None for none.
        duplicate: it had been received before; the reply is the one of then.
    """

    reply: str | None
    duplicate: bool


class LinkStartReply(msgspec.Struct, frozen=True, tag="link_start", tag_field="type"):
    """A code is on its way, and holds for so many seconds."""

    expires_s: int


class LinkLookReply(msgspec.Struct, frozen=True, tag="link_look", tag_field="type"):
    """What a code would do.

    Attributes:
        phone: which number it would link, as much as one knows one's own by.
        linked: it is linked with this address already.
    """

    phone: ShortText
    linked: bool


class CallQuoteReply(msgspec.Struct, frozen=True, tag="call_quote", tag_field="type", kw_only=True):
    """What a call would cost, in Ɉ.

    Attributes:
        reach: how the callee hears of it: in Telegram, on a page that is open, by SMS, or not.
        price_second: of an active second.
        minimum: what the caller has to have for it to begin.
        available: what the caller has.
        sms_price: what the SMS costs the caller; 0 where there is none.
    """

    reach: Literal["telegram", "page", "sms", "none"]
    price_second: str
    minimum: str
    available: str
    sms_price: str


class CallSideReply(msgspec.Struct, frozen=True, tag="call_side", tag_field="type", kw_only=True):
    """A side of a call. Whoever opens `url` is that side: it is a secret.

    Attributes:
        status: as in `CallItem`.
        other: the other side's address; empty for whoever has the link.
    """

    url: str
    role: Literal["caller", "callee"]
    status: str
    kind: str
    other: str


class BridgeItem(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge as the node's status has it.

    Attributes:
        connected: it has said how it does within half a minute.
        state: in a few words, its own or its process's.
        pid: of its process, where the node has started it.
        restarts: how often it has ended by itself since the node's start.
        figures: what it counts, under its own names.
    """

    name: str
    connected: bool
    state: str
    pid: int | None
    restarts: int
    figures: dict[str, str]


BridgeReply = (
    DoneReply
    | BridgeAnswerReply
    | SmsReceivedReply
    | LinkStartReply
    | LinkLookReply
    | CallQuoteReply
    | CallSideReply
)


class RingBody(msgspec.Struct, frozen=True, tag="ring", tag_field="type"):
    """Somebody calls. `caller` is an address as others may see it; `url` is the callee's link."""

    call: CallId
    caller: ShortText
    kind: CallKind
    url: Link


class RingOverBody(msgspec.Struct, frozen=True, tag="ring_over", tag_field="type"):
    """A call that rang, rings no more; `status` as in `CallItem`."""

    call: CallId
    status: ShortText
    seconds: int


class ReceiptBody(msgspec.Struct, frozen=True, tag="receipt", tag_field="type", kw_only=True):
    """What a call has cost its caller, and what is left, in Ɉ."""

    call: CallId
    other: ShortText
    kind: ShortText
    seconds: int
    cost: ShortText
    balance: ShortText
    reason: ShortText


class TransferReceivedBody(
    msgspec.Struct, frozen=True, tag="transfer_received", tag_field="type", kw_only=True
):
    """Somebody has sent money. `sender` is an address as others may see it."""

    amount: ShortText
    currency: ShortText
    sender: ShortText
    balance: ShortText


class SmsBody(msgspec.Struct, frozen=True, tag="sms", tag_field="type"):
    """A text that is to be sent as an SMS."""

    text: LongText


class ForwardBody(msgspec.Struct, frozen=True, tag="forward", tag_field="type", kw_only=True):
    """An SMS that is no command, for its owner."""

    sender: ShortText
    recipient: ShortText
    text: LongText
    received_ms: Milliseconds


class UnlinkedBody(msgspec.Struct, frozen=True, tag="unlinked", tag_field="type"):
    """A telephone number has passed on from an account to somebody else's, and what is on the
    account has not; most of the number's digits are hidden."""

    phone: ShortText
    balance: ShortText


class AlarmBody(msgspec.Struct, frozen=True, tag="alarm", tag_field="type"):
    """What the operator has to know."""

    text: LongText


class InitDataBody(msgspec.Struct, frozen=True, tag="init_data", tag_field="type"):
    """A question to the Telegram bridge: whose is it? The answer is the user's id in digits."""

    init_data: LongText


class CommandBody(msgspec.Struct, frozen=True, tag="command", tag_field="type"):
    """A question of the operator's to the GSM bridge: the modem and what to dial."""

    name: Literal["ussd"]
    arguments: Arguments


QuestionBody = InitDataBody | CommandBody
"""These are not stored: they are answered (`BridgeAnswerRequest`) or time out."""
EventBody = (
    RingBody
    | RingOverBody
    | ReceiptBody
    | TransferReceivedBody
    | SmsBody
    | ForwardBody
    | UnlinkedBody
    | AlarmBody
    | InitDataBody
    | CommandBody
)


class Event(msgspec.Struct, frozen=True, tag="event", tag_field="type", kw_only=True):
    """What the node tells a bridge, beside the replies to what it asks.

    Attributes:
        id: the same each time that it is given.
        to: an address (``tg:123``, ``+79991234567``) or a URL (https); empty for a question.
        expires_ms: from then on it is stale, and acknowledged as failed.
    """

    id: EffectId
    to: Link
    created_ms: Milliseconds
    expires_ms: Milliseconds
    body: EventBody
