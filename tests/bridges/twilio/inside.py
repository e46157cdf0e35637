"""The bridge's parts in this process: a spool and a node's socket that are real, carriers that
tests give, and calls to the webhooks past HTTP."""

from __future__ import annotations

import hmac
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import httpx
import trio
from starlette.types import Message
from twilio.request_validator import RequestValidator

from bridges.node_link import NodeLink
from bridges.process import BridgeContext
from bridges.spool import Spool, open_spool
from bridges.twilio.android import AndroidPhone
from bridges.twilio.carrier import Accepted, Outcome
from bridges.twilio.figures import Figures
from bridges.twilio.inbox import Inbox
from bridges.twilio.late_answers import Way
from bridges.twilio.sending import Sending
from bridges.twilio.statuses import Statuses
from bridges.twilio.webhooks import Webhooks
from core.api.bridge_messages import (
    AcknowledgeRequest,
    BridgeStatusRequest,
    DoneReply,
    Event,
    SmsOptOutRequest,
    SmsReceivedReply,
    SmsReceivedRequest,
    SmsStatusRequest,
)
from core.api.messages import ReplyBody, RequestBody
from core.api.server import ApiServer
from core.clock import VirtualClock
from core.config_file import load
from tests.bridges.twilio.world import (
    ACCOUNT,
    PHONE_SECRET,
    PUBLIC_URL,
    SENDER,
    TOKEN,
    answer_to,
)
from tests.support.node import write_config

WAIT_S = 60
PHONE_URL = "http://phone.test"
_CONFIG = f"""
[bridges]
start = false
[bridges.twilio]
public_url = "{PUBLIC_URL}"
account_sid = "{ACCOUNT}"
auth_token = "{TOKEN}"
sender = "{SENDER}"
[bridges.twilio.android]
secret = "{PHONE_SECRET}"
url = "{PHONE_URL}"
user = "phone"
password = "word"
[sms]
default_bridge = "twilio"
countries = ["DE"]
"""


class Node:
    """Answers SMS as the wallet does, when it may, and hands out what is to be sent.

    Attributes:
        received: by message, how often it was asked to carry it out.
        opted_out: whose numbers are told to want no SMS.
    """

    def __init__(self) -> None:
        self.may_answer = trio.Event()
        self.may_answer.set()
        self.received: Counter[str] = Counter()
        self.statuses: list[SmsStatusRequest] = []
        self.acknowledged: dict[str, AcknowledgeRequest] = {}
        self.opted_out: list[str] = []
        self.may_opt_out = trio.Event()
        self.may_opt_out.set()
        self.send: Callable[[Event], None]
        self.has_subscriber = trio.Event()

    async def answer(self, body: RequestBody) -> ReplyBody:
        match body:
            case SmsReceivedRequest():
                self.received[body.message_id] += 1
                is_duplicate = self.received[body.message_id] > 1
                await self.may_answer.wait()
                return SmsReceivedReply(answer_to(body.body), is_duplicate)
            case SmsStatusRequest():
                self.statuses.append(body)
            case AcknowledgeRequest():
                self.acknowledged[body.id] = body
            case SmsOptOutRequest(opted_out=True):
                await self.may_opt_out.wait()
                self.opted_out.append(body.number)
            case BridgeStatusRequest():
                pass
            case _:
                raise AssertionError(f"nobody asks {body}")
        return DoneReply()

    def subscribe(self, bridge: str, _window: int, send: Callable[[Event], None]) -> Node:
        assert bridge == "android"
        self.send = send
        self.has_subscriber.set()
        return self

    def close(self) -> None:
        """A subscription's."""


class NotedCarrier:
    """Takes all that it is given, unless its `answers` say otherwise.

    Attributes:
        sent: numbers and texts that it has taken.
        asked: the numbers of all that it was given.
        lifetimes_s: theirs.
    """

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.asked: list[str] = []
        self.lifetimes_s: list[float] = []
        self.answers: Callable[[str], Outcome] = lambda _: Accepted("")

    async def send(
        self,
        number: str,
        text: str,
        event: str | None,
        *,
        lifetime_s: float,
        sim_number: int | None = None,
    ) -> Outcome:
        assert (event, sim_number) == (None, None), "answers alone, and by no SIM"
        assert lifetime_s > 0
        self.asked.append(number)
        self.lifetimes_s.append(lifetime_s)
        outcome = self.answers(number)
        if isinstance(outcome, Accepted):
            self.sent.append((number, text))
        return outcome


class Answered(NamedTuple):
    """What a webhook has answered."""

    status: int
    body: bytes


@dataclass
class Inside:
    """All of them.

    Attributes:
        link: to the node, for what comes; `phone_link` for what the telephone sends.
    """

    node: Node
    clock: VirtualClock
    spool: Spool
    link: NodeLink
    phone_link: NodeLink
    carrier: NotedCarrier
    inbox: Inbox
    webhooks: Webhooks
    _validator: RequestValidator = field(default_factory=lambda: RequestValidator(TOKEN))

    def __post_init__(self) -> None:
        self._application = self.webhooks.application()

    async def call(
        self,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "POST",
        may_come: trio.Event | None = None,
    ) -> Answered:
        """Call a webhook; its body comes when it may."""
        said: list[Message] = []

        async def receive() -> Message:
            if may_come is not None:
                await may_come.wait()
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            said.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [
                (name.lower().encode(), value.encode()) for name, value in (headers or {}).items()
            ],
            "state": {},
        }
        await self._application(scope, receive, send)
        start, *rest = said
        return Answered(start["status"], b"".join(one.get("body", b"") for one in rest))

    async def signed(
        self, path: str, fields: Mapping[str, str], *, may_come: trio.Event | None = None
    ) -> Answered:
        """Call one as Twilio does."""
        signature = self._validator.compute_signature(f"{PUBLIC_URL}{path}", fields)
        body = urlencode(fields).encode()
        return await self.call(path, body, {"X-Twilio-Signature": signature}, may_come=may_come)

    async def signed_by_phone(self, content: Mapping[str, Any], *, age_s: int = 0) -> Answered:
        """Call one as the telephone does."""
        body, timestamp = json.dumps(content).encode(), str(int(self.clock.unix_s()) - age_s)
        signature = hmac.digest(PHONE_SECRET.encode(), body + timestamp.encode(), "sha256").hex()
        headers = {"X-Timestamp": timestamp, "X-Signature": signature}
        return await self.call("/android", body, headers)

    async def until(self, check: Callable[[], object]) -> None:
        """Wait until something has come to pass."""
        with trio.fail_after(WAIT_S):
            while not check():
                await trio.sleep(0.005)


@asynccontextmanager
async def inside(folder: Path, phone: httpx.MockTransport | None = None) -> AsyncIterator[Inside]:
    """A bridge; `phone` is the telephone's interface, where something is sent by it."""
    config = load(write_config(folder, more=_CONFIG), "twilio")
    twilio = config.bridges.twilio
    assert twilio is not None
    assert twilio.android is not None
    path, node, clock, carrier = folder / "node.sock", Node(), VirtualClock(), NotedCarrier()
    link = NodeLink(path, "twilio", subscribes=False)
    phone_link = NodeLink(path, "android")
    with open_spool(folder / "spool") as spool:
        async with (
            ApiServer(path, software="node") as server,
            httpx.AsyncClient(transport=phone) as client,
            trio.open_nursery() as nursery,
        ):
            context = BridgeContext(
                name="twilio", config=config, node=link, spool=spool, clock=clock
            )
            figures, statuses = Figures(link), Statuses(link, spool, clock)
            ways = {"twilio": Way(carrier, figures), "android": Way(carrier, figures)}
            inbox = Inbox(context, ways, figures)
            android = AndroidPhone(twilio.android, client)
            sending = Sending(
                "android", phone_link, spool, clock, android, statuses, Figures(phone_link)
            )
            nursery.start_soon(server.serve, node.answer, node)
            for task in (link.run, phone_link.run, inbox.run, statuses.run, sending.run):
                nursery.start_soon(task)
            webhooks = Webhooks(context, twilio, inbox, statuses, figures, "en")
            made = Inside(node, clock, spool, link, phone_link, carrier, inbox, webhooks)
            await made.until(lambda: link.is_connected and node.has_subscriber.is_set())
            with trio.fail_after(WAIT_S):
                yield made
            nursery.cancel_scope.cancel()
