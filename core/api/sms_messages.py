"""What operators ask of the SMS wallet; `messages` has the frame around it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from core.api.fields import EffectId, LongText, PageLimit, ShortText

Place = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


class SmsListRequest(msgspec.Struct, frozen=True, tag="sms_list", tag_field="type"):
    """The SMS that have come and gone, the last first, `before` a place."""

    before: Place | None = None
    limit: PageLimit = 100


class SmsSendRequest(msgspec.Struct, frozen=True, tag="sms_send", tag_field="type"):
    """Send an SMS to a number."""

    number: ShortText
    text: LongText
    id: EffectId | None = None


class SmsBudgetRequest(msgspec.Struct, frozen=True, tag="sms_budget", tag_field="type"):
    """What sending may cost, and what it has."""


SmsRequest = SmsListRequest | SmsSendRequest | SmsBudgetRequest


class SmsItem(msgspec.Struct, frozen=True, kw_only=True):
    """An SMS, without its text.

    Attributes:
        place: leads to those before it.
        id: of the message, or of the event that sends it.
        time: in UTC (RFC 3339).
        direction: in or out.
        action: what it asked for, or why it was sent.
        result: what came of that, in a word.
        cost: what its sender was charged, in Ɉ.
        parts: of the answer, or of the SMS that is sent.
        status: handled; of one that is sent: waiting, sent, delivered, undelivered, failed, unknown
            or expired.
    """

    place: int
    id: str
    time: str
    direction: str
    number: str
    bridge: str
    action: str
    result: str
    cost: str
    parts: int
    status: str


class SmsListReply(msgspec.Struct, frozen=True, tag="sms_list", tag_field="type"):
    """SMS, and the place that the next page is `before`."""

    messages: list[SmsItem]
    next: int | None


class SmsSendReply(msgspec.Struct, frozen=True, tag="sms_send", tag_field="type"):
    """An SMS waits to be sent, in so many parts."""

    id: str
    parts: int


class SmsBudgetReply(msgspec.Struct, frozen=True, tag="sms_budget", tag_field="type", kw_only=True):
    """Parts of SMS; a limit of 0 is none.

    Attributes:
        today, per_day: that were sent today (UTC), and that may be.
        ever, in_total: that were sent ever, and that may be.
        per_number: that one number may be sent in a day.
        reserved_percent: of each limit, for answers to commands that are paid alone.
        countries: where SMS go, in two letters.
        bridge: which sends to numbers that have never written; empty for none.
    """

    today: int
    per_day: int
    ever: int
    in_total: int
    per_number: int
    reserved_percent: int
    countries: list[str]
    bridge: str


SmsReply = SmsListReply | SmsSendReply | SmsBudgetReply
