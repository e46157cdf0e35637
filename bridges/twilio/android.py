"""A telephone that forwards its SMS and sends others': https://github.com/capcom6/android-sms-gateway

Webhooks are signed over body and time. A message that comes again comes under another id, so what
it is known by is whom it came to, from whom and when, and what it says.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Final, NamedTuple

import httpx
import msgspec

from bridges.twilio.carrier import (
    Accepted,
    Again,
    Answer,
    Outcome,
    Refused,
    Unknown,
    post,
    retry_after_s_untrusted,
)
from bridges.twilio.form import NUMBER_MAXIMUM, TEXT_MAXIMUM
from core.api.bridge_messages import effect_id
from core.bridge_config import AndroidConfig
from core.errors import WebhookError

NAME: Final = "android"
"""Of this way, to the node."""
AGE_MAXIMUM_S: Final = 300
SIMS_MAXIMUM: Final = 3
"""That the telephone's interface can name."""
LIFETIME_MINIMUM_S: Final = 5
"""That the telephone's interface takes."""
_STATUSES: Final = {"sms:sent": "sent", "sms:delivered": "delivered", "sms:failed": "failed"}


class _Payload(msgspec.Struct, rename="camel"):
    message_id: str = ""
    sender: str = ""
    phone_number: str = ""
    """The sender, to earlier versions."""
    recipient: str | None = None
    sim_number: int | None = None
    message: str = ""
    received_at: str = ""
    reason: str = ""


class _Call(msgspec.Struct, rename="camel"):
    event: str
    device_id: str
    payload: _Payload


class PhoneMessage(NamedTuple):
    """An SMS that has come to a telephone. `key` is the same whenever it is told.

    Attributes:
        sim_number: the SIM that it has come to, from 1 on; None where the telephone doesn't know.
    """

    key: str
    sender: str
    recipient: str
    body: str
    sim_number: int | None


class PhoneStatus(NamedTuple):
    """How far an SMS is that the telephone was given, under `event`."""

    event: str
    status: str
    detail: str


def is_signed_untrusted(
    secret: str, body: bytes, timestamp: str, signature: str, now_s: float
) -> bool:
    """Whether a telephone that knows the secret has said this, within `AGE_MAXIMUM_S`.

    Args:
        timestamp, signature: of the headers X-Timestamp (seconds since 1970) and X-Signature.
        now_s: since 1970.
    """
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    right = hmac.digest(secret.encode(), body + timestamp.encode(), "sha256").hex()
    is_right = hmac.compare_digest(right.encode(), signature.lower().encode("utf-8", "replace"))
    return is_right and abs(now_s - int(timestamp)) <= AGE_MAXIMUM_S


def read_call_untrusted(body: bytes) -> PhoneMessage | PhoneStatus | None:
    """What a telephone tells; None for what nobody here wants to know.

    Raises:
        WebhookError: it can't be read.
    """
    try:
        call = msgspec.json.decode(body, type=_Call)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise WebhookError("the telephone's message can't be read", 400) from None
    told = call.payload
    if call.event in _STATUSES:
        return PhoneStatus(told.message_id, _STATUSES[call.event], told.reason[:96])
    if call.event != "sms:received":
        return None
    sender = told.sender or told.phone_number
    recipient = told.recipient or (NAME if told.sim_number is None else f"sim{told.sim_number}")
    if not 0 < len(sender) <= NUMBER_MAXIMUM or len(recipient) > NUMBER_MAXIMUM:
        raise WebhookError("the telephone's message has no sender", 400)
    if len(told.message) > TEXT_MAXIMUM:
        raise WebhookError("the telephone's message is too long", 400)
    key = effect_id(
        NAME,
        call.device_id,
        str(told.sim_number),
        sender,
        told.received_at,
        sha256(told.message.encode("utf-8", "surrogatepass")).hexdigest(),
    )
    # What is no SIM's number would have the telephone refuse the answer.
    is_sim = told.sim_number is not None and 1 <= told.sim_number <= SIMS_MAXIMUM
    return PhoneMessage(key, sender, recipient, told.message, told.sim_number if is_sim else None)


class AndroidPhone:
    """Sends by a telephone's own interface, or its server's."""

    def __init__(self, config: AndroidConfig, client: httpx.AsyncClient) -> None:
        self._url = f"{config.url}/message"
        self._account = httpx.BasicAuth(config.user, config.password)
        self._client = client

    async def send(
        self,
        number: str,
        text: str,
        event: str | None,
        *,
        lifetime_s: float,
        sim_number: int | None = None,
    ) -> Outcome:
        """See `Carrier`."""
        message: dict[str, object] = {
            "textMessage": {"text": text},
            "phoneNumbers": [number],
            "withDeliveryReport": event is not None,
            "ttl": max(round(lifetime_s), LIFETIME_MINIMUM_S),
        }
        if event is not None:
            # What its own webhooks call it by.
            message["id"] = event
        if sim_number is not None:
            message["simNumber"] = sim_number
        answer = await post(self._client, self._url, json=message, auth=self._account)
        if not isinstance(answer, Answer):
            return answer
        return _outcome(answer)


def _outcome(answer: Answer) -> Outcome:
    status = answer.status
    detail = f"the telephone says {status}"
    # It had that id already (409): then it was taken the first time.
    if 200 <= status < 300 or status == 409:
        return Accepted("")
    if status in (429, 503):
        return Again(detail, retry_after_s_untrusted(answer.headers))
    if status >= 500 or status == 408:
        return Unknown(detail)
    if status in (401, 403, 404) or status < 400:
        return Again(detail, advice=f"{detail}: check url, user and password of android")
    return Refused(detail)
