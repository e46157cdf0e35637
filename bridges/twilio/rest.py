"""Twilio's REST interface: https://www.twilio.com/docs/messaging/api/message-resource

Twilio's own client blocks, or wants asyncio; and it doesn't tell a server that was not reached from
one that did not answer, which decides whether an SMS may be sent again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import httpx
import msgspec

from bridges.twilio.advice import advice_on
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
from core.bridge_config import TwilioConfig

VALIDITY_MAXIMUM_S: Final = 4 * 3600
"""It was this first (error 21624), and is 10 hours now (error 90007)."""
_SERVICE_UNAVAILABLE: Final = 503
_TOO_MANY: Final = 429
_REQUEST_TIMEOUT: Final = 408


class _Said(msgspec.Struct):
    """Of the answer, whether it is a message or an error."""

    sid: str = ""
    code: int | None = None


class TwilioRest:
    """Sends by the account of a configuration.

    Args:
        language: of advice, "en" or "ru".
    """

    def __init__(self, config: TwilioConfig, client: httpx.AsyncClient, language: str) -> None:
        self._url = f"{config.api_url}/2010-04-01/Accounts/{config.account_sid}/Messages.json"
        self._account = httpx.BasicAuth(config.account_sid, config.auth_token)
        self._client = client
        self._status_url = f"{config.public_url}/status"
        self._language = language
        is_service = config.sender.startswith("MG")
        self._sender = {"MessagingServiceSid" if is_service else "From": config.sender}

    async def send(
        self,
        number: str,
        text: str,
        event: str | None,
        *,
        lifetime_s: float,
        sim_number: int | None = None,  # noqa: ARG002
    ) -> Outcome:
        """See `Carrier`; Twilio has no SIM to choose, and keeps none for longer than hours."""
        query = f"?event={event}" if event is not None else ""
        form = {
            "To": number,
            **self._sender,
            "Body": text,
            "StatusCallback": f"{self._status_url}{query}",
            "ValidityPeriod": str(round(min(max(lifetime_s, 1), VALIDITY_MAXIMUM_S))),
        }
        answer = await post(self._client, self._url, data=form, auth=self._account)
        if isinstance(answer, Answer):
            return read_answer_untrusted(*answer, self._language)
        return answer


def read_answer_untrusted(
    status: int, headers: Mapping[str, str], body: bytes, language: str
) -> Outcome:
    """What Twilio says to an SMS that it was given."""
    try:
        said: _Said | None = msgspec.json.decode(body, type=_Said)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Not Twilio, but something on the way to it.
        said = None
    if 200 <= status < 300:
        if said is None or not said.sid:
            return Unknown(f"an answer that nobody can read, status {status}")
        return Accepted(said.sid[:64])
    code = (said.code if said is not None else None) or 0
    advice = advice_on(code)
    detail = f"{code}: {advice.in_language(language)}" if code else f"status {status}"
    after_s = retry_after_s_untrusted(headers)
    if status in (_TOO_MANY, _SERVICE_UNAVAILABLE) or advice.remedy == "later":
        return Again(detail, after_s)
    if status >= 500:
        # With a code it is Twilio itself that says so; else it may have been taken behind there.
        return Again(detail, after_s) if code else Unknown(detail)
    if status == _REQUEST_TIMEOUT:
        return Unknown(detail)
    if status < 400 or status in (401, 403, 404) or advice.remedy == "operator":
        if not code:
            detail = f"status {status}: {advice_on(20404).in_language(language)}"
        return Again(detail, after_s, advice=detail)
    return Refused(detail, code)
