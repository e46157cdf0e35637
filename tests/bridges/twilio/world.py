"""A bridge process, with what stands around it: a node's socket, Twilio's REST interface and a
telephone's, and who calls the webhooks. The stand-ins check what they are sent, and keep it.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree

import anyio
import httpx
import msgspec
import trio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from twilio.request_validator import RequestValidator

from core.api.bridge_messages import (
    AcknowledgeRequest,
    BridgeStatusRequest,
    DoneReply,
    Event,
    SmsBody,
    SmsOptOutRequest,
    SmsReceivedReply,
    SmsReceivedRequest,
    SmsStatusRequest,
    effect_id,
)
from core.api.messages import ReplyBody, RequestBody
from core.api.server import ApiServer
from core.api.sms_messages import SmsItem, SmsListReply, SmsListRequest
from core.errors import OperationError
from tests.support.fixed_ports import free_port
from tests.support.node import montana_environment, write_config

ACCOUNT = "AC" + "0a" * 16
TOKEN = "not a token: for tests alone"
SENDER = "+15005550006"
PERSON = "+79995550100"
PUBLIC_URL = "https://sms.example"
PHONE_SECRET = "not the telephone's secret either"
WAIT_S = 120
EVENT_LIFETIME_S = 600
E164 = re.compile(r"\+[1-9][0-9]{6,14}")


def sid_of(number: int) -> str:
    """The id of a test's message; `World.renew` has others begin."""
    return f"SM{number + _first[0]:032x}"


_first = [0]


def wait_until(check: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.02)


class StandInNode:
    """A node's socket that answers as the wallet does: each message has one effect.

    Attributes:
        effects: by message id, how often it was carried out.
        delay_s: before it answers.
        refuses: the code of the failure that SMS are answered with.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.received: dict[str, SmsReceivedRequest] = {}
        self.asked: Counter[str] = Counter()
        self.statuses: list[SmsStatusRequest] = []
        self.opted_out: list[SmsOptOutRequest] = []
        self.acknowledged: dict[str, AcknowledgeRequest] = {}
        self.states: dict[str, BridgeStatusRequest] = {}
        self.events: dict[str, dict[str, Event]] = {"twilio": {}, "android": {}}
        self.delay_s = 0.0
        self.refuses = ""
        self._sends: dict[str, Callable[[Event], None]] = {}

    def renew(self) -> None:
        """Forget what was asked."""
        self.received.clear()
        self.asked.clear()
        self.statuses.clear()
        self.opted_out.clear()
        self.delay_s, self.refuses = 0.0, ""

    @contextmanager
    def running(self) -> Iterator[StandInNode]:
        with start_blocking_portal("trio") as portal:
            self._portal: BlockingPortal = portal
            ready = threading.Event()
            future = portal.start_task_soon(self._serve, ready)
            assert ready.wait(WAIT_S)
            try:
                yield self
            finally:
                portal.call(self._stop.set)
                future.result(WAIT_S)

    def tell(self, number: int, to: str, text: str, *, bridge: str = "twilio") -> str:
        """Have an SMS sent; returns the event's id."""
        now_ms = round(time.time() * 1000)
        event = Event(
            id=effect_id("test", sid_of(number)),
            to=to,
            created_ms=now_ms,
            expires_ms=now_ms + EVENT_LIFETIME_S * 1000,
            body=SmsBody(text),
        )
        self.events[bridge][event.id] = event
        self._portal.call(self._send, bridge, event)
        return event.id

    def subscribe(self, bridge: str, window: int, send: Callable[[Event], None]) -> StandInNode:
        assert len(self.events[bridge]) <= window
        self._sends[bridge] = send
        for event in self.events[bridge].values():
            send(event)
        return self

    def close(self) -> None:
        """A subscription's."""

    def _send(self, bridge: str, event: Event) -> None:
        if bridge in self._sends:
            self._sends[bridge](event)

    async def _serve(self, ready: threading.Event) -> None:
        self._stop = trio.Event()
        self._sends.clear()
        async with (
            ApiServer(self.path, software="stand-in") as server,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(server.serve, self._answer, self)
            ready.set()
            await self._stop.wait()
            tasks.cancel_scope.cancel()

    async def _answer(self, body: RequestBody) -> ReplyBody:
        if isinstance(body, SmsReceivedRequest):
            if self.refuses:
                raise OperationError("the stand-in refuses it", self.refuses)
            self.asked[body.message_id] += 1
            is_duplicate = body.message_id in self.received
            first = self.received.setdefault(body.message_id, body)
            assert msgspec.structs.replace(body, received_ms=first.received_ms) == first
            await trio.sleep(self.delay_s)
            # What a carrier has answered itself the wallet notes, and says nothing to.
            answer = None if body.keyword is not None else answer_to(body.body)
            return SmsReceivedReply(answer, is_duplicate)
        if isinstance(body, AcknowledgeRequest):
            self.acknowledged[body.id] = body
            for events in self.events.values():
                events.pop(body.id, None)
        elif isinstance(body, SmsStatusRequest):
            self.statuses.append(body)
        elif isinstance(body, SmsOptOutRequest):
            self.opted_out.append(body)
        elif isinstance(body, BridgeStatusRequest):
            self.states[body.bridge] = body
        else:
            raise AssertionError(f"nobody asks {body}")
        return DoneReply()


def answer_to(body: str) -> str | None:
    """What the stand-in says to a text."""
    return None if body == "silence" else f"re: {body} <&> Ɉ"


@dataclass
class Sent:
    """A request that a stand-in has taken."""

    sid: str
    to: str
    text: str
    fields: dict[str, Any]


class _Server(ThreadingHTTPServer):
    # What overflows is reset, and an SMS whose fate is unknown is rightly never sent again.
    request_queue_size = 256


@dataclass
class StandInHttp:
    """Twilio's REST interface or, with `is_phone`, the telephone's.

    Attributes:
        sent: what was accepted.
        complaints: what no client of theirs should have sent.
        failures: answers (status, body, headers) given first, instead of accepting.
        on_accept: called before an accepted one is answered.
    """

    is_phone: bool = False
    port: int = 0
    sent: list[Sent] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    failures: list[tuple[int, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    requests: int = 0
    on_accept: Callable[[Sent], None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[StandInHttp]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:
                    # Killed in the middle of its request.
                    return
                stand_in.requests += 1
                try:
                    status, answer, headers = stand_in.take(self.path, self.headers, body)
                except AssertionError as error:
                    stand_in.complaints.append(str(error))
                    status, answer, headers = 400, {"code": 21211}, {}
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                for name, value in headers.items():
                    self.send_header(name, value)
                with contextlib.suppress(ConnectionError):
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None:
                pass

        server = _Server(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
        assert not self.complaints, self.complaints

    def take(
        self, path: str, headers: Any, body: bytes
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        account, password = ("phone", "word") if self.is_phone else (ACCOUNT, TOKEN)
        expected = base64.b64encode(f"{account}:{password}".encode()).decode()
        assert headers["Authorization"] == f"Basic {expected}", "basic authentication"
        sid = f"SM{len(self.sent) + 10**6:032x}"
        if self.is_phone:
            assert path == "/message", path
            fields = json.loads(body)
            (to,), text = fields["phoneNumbers"], fields["textMessage"]["text"]
            sid = fields.get("id", sid)
            known = {"id", "phoneNumbers", "textMessage", "withDeliveryReport", "simNumber", "ttl"}
            assert set(fields) <= known
            assert type(fields["ttl"]) is int
            assert fields["ttl"] >= 5
            assert fields.get("simNumber", 1) in (1, 2, 3)
        else:
            assert path == f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json", path
            assert headers["Content-Type"] == "application/x-www-form-urlencoded"
            pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True)
            fields = dict(pairs)
            assert len(fields) == len(pairs), pairs
            known = {"To", "From", "Body", "StatusCallback", "ValidityPeriod"}
            assert set(fields) == known, fields
            assert fields["ValidityPeriod"].isdigit()
            assert 1 <= int(fields["ValidityPeriod"]) <= 14_400
            assert fields["From"] == SENDER
            assert fields["StatusCallback"].startswith(f"{PUBLIC_URL}/status")
            to, text = fields["To"], fields["Body"]
        assert E164.fullmatch(to), f"{to} is not E.164"
        assert 0 < len(text) <= 1600, f"{len(text)} characters"
        if self.failures:
            return self.failures.pop(0)
        sent = Sent(sid, to, text, fields)
        self.sent.append(sent)
        if self.on_accept is not None:
            self.on_accept(sent)
        return 201, {"sid": sid, "id": sid, "status": "queued", "error_code": None}, {}


@dataclass
class World:
    """The bridge and all around it.

    Attributes:
        url: where calls are made, the bridge's own unless a proxy stands before it.
        public_url: what signatures are over.
    """

    folder: Path
    config: Path
    node: StandInNode
    rest: StandInHttp
    phone: StandInHttp
    url: str
    public_url: str = PUBLIC_URL
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the bridge, and wait until it listens."""
        self.launch()
        wait_until(self.is_listening)

    def launch(self) -> None:
        """Start the bridge."""
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bridges", "twilio", "--config", str(self.config)],
                env=montana_environment(),
                stderr=log,
                text=True,
            )

    def is_listening(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        try:
            return httpx.get(f"{self.url}/healthz").status_code == 200
        except httpx.HTTPError:
            return False

    def connect(self) -> None:
        """Wait until the bridge has found its node."""
        wait_until(lambda: httpx.get(f"{self.url}/healthz").json()["node"])

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it by SIGTERM; it has to end cleanly."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(WAIT_S) == 0, self.log()
        assert "Traceback" not in self.log(), self.log()

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def renew(self) -> None:
        """For the next test: what has come before is forgotten, and not used again."""
        _first[0] += 100_000
        self.rest.sent.clear()
        self.phone.sent.clear()
        self.node.renew()

    def signature(self, path: str, fields: Any) -> str:
        """As Twilio's own library makes it."""
        made: str = RequestValidator(TOKEN).compute_signature(f"{self.public_url}{path}", fields)
        return made

    def call(self, path: str, fields: dict[str, str], **headers: str) -> httpx.Response:
        """Call a webhook as Twilio does."""
        headers = {"X-Twilio-Signature": self.signature(path, fields), **headers}
        return httpx.post(f"{self.url}{path}", data=fields, headers=headers, timeout=WAIT_S)

    def sms(
        self, number: int, body: str, *, sender: str = "+79995550100", path="/sms", **more: str
    ):
        """Have an SMS come; returns the texts of the answer."""
        response = self.call(path, sms_fields(number, body, sender=sender, **more))
        return texts(response)

    def phone_call(self, content: dict[str, Any], *, age_s: int = 0) -> httpx.Response:
        """Call the webhook as the telephone does."""
        body = json.dumps(content).encode()
        timestamp = str(int(time.time()) - age_s)
        signature = hmac.new(PHONE_SECRET.encode(), body + timestamp.encode(), "sha256")
        headers = {"X-Timestamp": timestamp, "X-Signature": signature.hexdigest()}
        return httpx.post(f"{self.url}/android", content=body, headers=headers, timeout=WAIT_S)


def twilio_table(port: int, api_url: str, public_url: str = PUBLIC_URL) -> str:
    """The bridge's, of a configuration."""
    return f"""
[bridges.twilio]
listen = "127.0.0.1:{port}"
public_url = "{public_url}"
account_sid = "{ACCOUNT}"
auth_token = "{TOKEN}"
sender = "{SENDER}"
api_url = "{api_url}"
"""


def is_ready(port: int) -> bool:
    """Whether a bridge listens there, and has found its node."""
    try:
        return bool(httpx.get(f"http://127.0.0.1:{port}/healthz").json()["node"])
    except httpx.TransportError:
        return False


async def sms_records(ask: Callable[[SmsListRequest], Awaitable[ReplyBody]]) -> list[SmsItem]:
    """Of all SMS, the first first; `ask` asks the node."""
    found: list[SmsItem] = []
    before = None
    while True:
        page = await ask(SmsListRequest(before, 1_000))
        assert isinstance(page, SmsListReply)
        found += page.messages
        before = page.next
        if before is None:
            return found[::-1]


def sms_fields(number: int, body: str, *, sender: str = PERSON, **more: str) -> dict[str, str]:
    """What Twilio sends of an SMS, blank fields and unknown ones as well."""
    return {
        "MessageSid": sid_of(number),
        "SmsSid": sid_of(number),
        "AccountSid": ACCOUNT,
        "From": sender,
        "To": SENDER,
        "Body": body,
        "NumMedia": "0",
        "FromCity": "",
        "ApiVersion": "2010-04-01",
        **more,
    }


def texts(response: httpx.Response) -> list[str]:
    """The messages in a TwiML answer."""
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].startswith("text/xml")
    # What our own bridge has written.
    root = ElementTree.fromstring(response.content)  # noqa: S314
    assert root.tag == "Response"
    assert all(message.tag == "Message" for message in root)
    return [message.text or "" for message in root]


@contextmanager
def a_world(folder: Path, *, url: str = "", public_url: str = PUBLIC_URL) -> Iterator[World]:
    """Everything but the bridge and the node, which tests start and stop."""
    port = free_port()
    phone, rest = StandInHttp(is_phone=True), StandInHttp()
    with phone.running(), rest.running():
        config = write_config(
            folder,
            more=f"""
[bridges]
start = false
{twilio_table(port, rest.url, public_url)}
[bridges.twilio.android]
secret = "{PHONE_SECRET}"
url = "{phone.url}"
user = "phone"
password = "word"
[sms]
default_bridge = "twilio"
countries = ["DE"]
""",
        )
        (folder / "data").mkdir(mode=0o700, exist_ok=True)
        node = StandInNode(folder / "data" / "node.sock")
        world = World(folder, config, node, rest, phone, url or f"http://127.0.0.1:{port}")
        world.public_url = public_url
        try:
            yield world
        finally:
            if world.process is not None and world.process.poll() is None:
                world.kill()
