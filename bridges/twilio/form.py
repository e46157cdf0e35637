"""What Twilio calls a webhook with: forms, their signatures, and the messages in them.

https://www.twilio.com/docs/usage/security
https://www.twilio.com/docs/messaging/guides/webhook-request
"""

from __future__ import annotations

import hmac
import re
from binascii import b2a_base64
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import ImmutableMultiDict
from twilio.request_validator import add_port, remove_port

from core.api.bridge_messages import CarrierKeyword
from core.errors import WebhookError

BODY_MAXIMUM_BYTES: Final = 64 * 1024
FIELDS_MAXIMUM: Final = 500
TEXT_MAXIMUM: Final = 4096
"""Characters; what a node takes. Twilio sends up to 1,600."""
NUMBER_MAXIMUM: Final = 64
STOP_WORDS: Final = frozenset(
    {"STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT", "REVOKE", "OPTOUT"}
)
START_WORDS: Final = frozenset({"START", "YES", "UNSTOP"})
HELP_WORDS: Final = frozenset({"HELP", "INFO"})

Form = ImmutableMultiDict[str, str]

_MESSAGE_SID = re.compile(r"(?:SM|MM)[0-9a-f]{32}")
_EVENT = re.compile(r"[0-9a-f]{32}")


class Message(NamedTuple):
    """An SMS that has come.

    Attributes:
        keyword: what Twilio has done with it already; None for nothing.
    """

    sid: str
    sender: str
    recipient: str
    body: str
    keyword: CarrierKeyword | None


class Status(NamedTuple):
    """How far an SMS is that went out.

    Attributes:
        event: whose; empty where the callback doesn't say.
        status: Twilio's word.
        code: Twilio's error; 0 for none.
    """

    event: str
    sid: str
    status: str
    code: int


def parse_form_untrusted(data: bytes) -> Form:
    """The fields of a form or of a query, blank and repeated ones as well.

    Raises:
        WebhookError: it has more than anybody would send.
    """
    try:
        fields = parse_qsl(
            data.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=FIELDS_MAXIMUM
        )
    except ValueError:
        raise WebhookError("the form has too many fields", 400) from None
    return ImmutableMultiDict(fields)


class Signatures:
    """Checks that what was called is called by Twilio, which knows the token.

    Base64 of HMAC-SHA1 over the URL and each field's name and value, in their order; what is
    repeated counts once.

    Args:
        public_url: where Twilio calls, without a path. What a request says of its own scheme,
            host and port is what the proxy made of it, and isn't looked at.
    """

    def __init__(self, public_url: str, auth_token: str) -> None:
        url = urlsplit(public_url)
        # Twilio signs with the standard port in the URL, or without, and doesn't say when.
        self._urls = (remove_port(url), add_port(url))
        self._key = auth_token.encode()

    def is_right_untrusted(self, path: str, query: str, form: Form, signature: bytes) -> bool:
        """Whether `signature` is over this URL and these fields (of the body, if there is one)."""
        fields = "".join(name + value for name, value in sorted(set(form.multi_items())))
        signed = f"{path}{'?' if query else ''}{query}{fields}"
        return any(
            hmac.compare_digest(
                b2a_base64(hmac.digest(self._key, (url + signed).encode(), "sha1"), newline=False),
                signature,
            )
            for url in self._urls
        )


def read_message_untrusted(form: Form, account_sid: str) -> Message:
    """The SMS in a form that was signed.

    Raises:
        WebhookError: there is none.
    """
    sid = form.get("MessageSid", "")
    sender, recipient, body = form.get("From", ""), form.get("To", ""), form.get("Body", "")
    if form.get("AccountSid") != account_sid:
        raise WebhookError("it is another account's", 403)
    if not _MESSAGE_SID.fullmatch(sid):
        raise WebhookError("there is no MessageSid", 400)
    if not 0 < len(sender) <= NUMBER_MAXIMUM or len(recipient) > NUMBER_MAXIMUM:
        raise WebhookError("From or To is missing or too long", 400)
    if len(body) > TEXT_MAXIMUM:
        raise WebhookError("Body is too long", 400)
    # A messaging service may have words of its own, and says which they stand for.
    keyword = keyword_of(form.get("OptOutType", "") or body)
    return Message(sid, sender, recipient, body, keyword)


def read_status_untrusted(form: Form, query: Form) -> Status:
    """The status in a form that was signed, called under a URL with `query`.

    Raises:
        WebhookError: there is none.
    """
    event, code = query.get("event", ""), form.get("ErrorCode", "")
    sid, status = form.get("MessageSid", ""), form.get("MessageStatus", "")
    if not _MESSAGE_SID.fullmatch(sid) or not status or (event and not _EVENT.fullmatch(event)):
        raise WebhookError("there is no MessageSid or MessageStatus", 400)
    return Status(event, sid, status, error_code_untrusted(code))


def error_code_untrusted(text: str) -> int:
    """Twilio's error, 0 where it names none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 6 else 0


def keyword_of(body: str) -> CarrierKeyword | None:
    """What Twilio takes a text for: it has answered it itself, and sends nothing to who has said
    STOP until they say START."""
    word = body.strip().upper()
    if word in STOP_WORDS:
        return "stop"
    if word in START_WORDS:
        return "start"
    return "help" if word in HELP_WORDS else None
