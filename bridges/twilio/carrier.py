"""What sends SMS, and what may come of one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

import httpx

TIMEOUT_S: Final = 20.0
TEXT_MAXIMUM: Final = 1_600
"""Characters of one SMS of Twilio's; a telephone cuts it into parts as well."""
ANSWER_MAXIMUM_BYTES: Final = 64 * 1024
RETRY_FIRST_S: Final = 1.0
RETRY_LAST_S: Final = 300.0
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")


class Accepted(NamedTuple):
    """It is on its way, under an id of the carrier's."""

    sid: str


class Refused(NamedTuple):
    """It was not taken, and never will be."""

    detail: str
    code: int = 0


class Again(NamedTuple):
    """It was not taken now.

    Attributes:
        after_s: when it may be tried again; None where nobody has said.
        advice: what the operator has to do first; empty for nothing.
    """

    detail: str
    after_s: float | None = None
    advice: str = ""


class Unknown(NamedTuple):
    """Whether it was taken, nobody has told."""

    detail: str


Outcome = Accepted | Refused | Again | Unknown


class Carrier(Protocol):
    """A way out for SMS."""

    async def send(
        self,
        number: str,
        text: str,
        event: str | None,
        *,
        lifetime_s: float,
        sim_number: int | None = None,
    ) -> Outcome:
        """Have a text sent, once.

        Args:
            number: E.164.
            text: `TEXT_MAXIMUM` characters at most.
            event: what statuses are told for; None where nobody wants them.
            lifetime_s: from when on it would be better not to arrive, as far as the carrier can
                tell its network; nothing less than a few seconds.
            sim_number: the telephone's SIM that sends it, from 1 on; None for the one that it
                chooses.
        """


class Answer(NamedTuple):
    """What an HTTP server has said."""

    status: int
    headers: httpx.Headers
    body: bytes


async def post(client: httpx.AsyncClient, url: str, **content: Any) -> Answer | Again | Unknown:
    """POST, when it may be done once alone: a server that wasn't reached can be asked again, one
    that didn't answer can't."""
    try:
        async with client.stream("POST", url, **content) as response:
            body = b""
            async for data in response.aiter_bytes():
                body += data
                if len(body) > ANSWER_MAXIMUM_BYTES:
                    break
            return Answer(response.status_code, response.headers, body)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        return Again(f"not reached: {type(error).__name__}")
    except httpx.HTTPError as error:
        return Unknown(f"no answer: {type(error).__name__}")


def retry_after_s_untrusted(headers: Mapping[str, str]) -> float | None:
    """What `Retry-After` says in seconds (RFC 9110 section 10.2.3), no more than `RETRY_LAST_S`."""
    value = headers.get("Retry-After", "")
    if not (value.isascii() and value.isdigit() and len(value) <= 9):
        return None
    return min(float(value), RETRY_LAST_S)


def is_e164(number: str) -> bool:
    """Whether an SMS can go there: who has sent one may have a name instead."""
    return _E164.fullmatch(number) is not None


def parts(text: str) -> list[str]:
    """A text as SMS of `TEXT_MAXIMUM` characters."""
    return [text[at : at + TEXT_MAXIMUM] for at in range(0, len(text), TEXT_MAXIMUM)]


class BackOff:
    """How long to wait before it is tried again."""

    def __init__(self) -> None:
        self._delay_s = RETRY_FIRST_S

    def next_s(self, asked_s: float | None = None) -> float:
        """Twice as long each time; what the other side has asked for at least."""
        delay_s, self._delay_s = self._delay_s, min(2 * self._delay_s, RETRY_LAST_S)
        return max(delay_s, asked_s or 0.0)
