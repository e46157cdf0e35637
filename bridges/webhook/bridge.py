"""Posts SMS that are no commands to the URLs of their owners, signed.

    POST <url>                      {"id": ..., "sender": ..., "recipient": ..., "text": ...,
    X-Timestamp: 1790000000          "received_ms": ...}
    X-Signature: hex(HMAC-SHA256(sms.forward_secret, body + timestamp))

The same id is the same SMS: an answer that was lost makes it come again. A status of 2xx takes it;
what is answered by 4xx (but 408 and 429) is not sent again.
"""

from __future__ import annotations

import hmac
import logging
from typing import Final
from urllib.parse import urlsplit

import anyio
import httpx
import msgspec

from bridges.process import BridgeContext
from core.api.bridge_messages import Event, ForwardBody
from core.log import log_event

TIMEOUT_S: Final = 15.0
"""For all of one post."""
RETRY_FIRST_S: Final = 2.0
RETRY_LAST_S: Final = 600.0
_AGAIN: Final = frozenset({408, 425, 429})

_log = logging.getLogger("montana.bridge.webhook")


def sign(secret: str, body: bytes, timestamp: str) -> str:
    """The signature of a body, as hexadecimal digits."""
    return hmac.digest(secret.encode(), body + timestamp.encode(), "sha256").hex()


async def run(context: BridgeContext) -> None:
    """Serve until cancelled."""
    # It logs every URL, and an owner's may hold a secret.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # A post has a deadline for all of it: these are for each read, and an owner may answer an octet
    # at a time.
    no_timeout = httpx.Timeout(None)
    async with httpx.AsyncClient(timeout=no_timeout) as client, anyio.create_task_group() as tasks:
        async for event in context.node.events():
            tasks.start_soon(_deliver, context, client, event)


async def _deliver(context: BridgeContext, client: httpx.AsyncClient, event: Event) -> None:
    assert isinstance(event.body, ForwardBody)
    body = msgspec.json.encode(
        {
            "id": event.id,
            "sender": event.body.sender,
            "recipient": event.body.recipient,
            "text": event.body.text,
            "received_ms": event.body.received_ms,
        }
    )
    delay_s = RETRY_FIRST_S
    while context.clock.unix_s() * 1000 < event.expires_ms:
        problem = await _post(context, client, event.to, body)
        if problem is None:
            await context.node.acknowledge(event.id)
            return
        host = urlsplit(event.to).hostname
        log_event(_log, logging.WARNING, "a forwarded SMS was not taken", host=host, reason=problem)
        if problem.startswith("4"):
            break
        await anyio.sleep(delay_s)
        delay_s = min(2 * delay_s, RETRY_LAST_S)
    await context.node.acknowledge(event.id, "failed", "the URL does not take it")


async def _post(
    context: BridgeContext, client: httpx.AsyncClient, url: str, body: bytes
) -> str | None:
    """None where it was taken; why not otherwise, a status of 4xx first where it never will be."""
    timestamp = str(int(context.clock.unix_s()))
    headers = {
        "Content-Type": "application/json",
        "X-Timestamp": timestamp,
        "X-Signature": sign(context.config.sms.forward_secret, body, timestamp),
    }
    try:
        # Its body doesn't matter, and may be endless.
        with anyio.fail_after(TIMEOUT_S):
            async with client.stream("POST", url, content=body, headers=headers) as response:
                status = response.status_code
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        return type(error).__name__
    if 200 <= status < 300:
        return None
    return f"{status}" if 400 <= status < 500 and status not in _AGAIN else f"status {status}"
