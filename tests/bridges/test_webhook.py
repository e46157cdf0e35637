"""SMS that are no commands reach their owner's URL, signed; until they do, or never will."""

from __future__ import annotations

import hmac
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio

from bridges.node_link import NodeLink
from bridges.process import BridgeContext
from bridges.spool import open_spool
from bridges.webhook import bridge
from core.api.bridge_messages import AcknowledgeRequest, DoneReply, Event, ForwardBody
from core.api.messages import ReplyBody, RequestBody
from core.api.server import ApiServer
from core.bridge_config import SmsConfig
from core.clock import SystemClock
from core.config import NodeConfig, TurnConfig

SECRET = "a secret long enough"
WAIT_S = 20


class Owner:
    """Takes what is posted; answers with `statuses`, then with 204."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.got: list[tuple[dict[str, str], bytes]] = []

    @contextmanager
    def listening(self) -> Iterator[str]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                owner.got.append((dict(self.headers), body))
                self.send_response(owner.statuses.pop(0) if owner.statuses else 204)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing on the terminal."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/sms?key=1"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class Subscribed:
    def close(self) -> None:
        """One connection is all there is."""


async def deliver(folder: Path, url: str, *, lifetime_s: float = 3600) -> AcknowledgeRequest:
    """What the bridge says has become of one forwarded SMS."""
    clock = SystemClock()
    now_ms = int(clock.unix_s() * 1000)
    body = ForwardBody(sender="+4930123456", recipient="sim1", text="Привет 🙂", received_ms=5)
    event = Event(
        id="7" * 32,
        to=url,
        created_ms=now_ms,
        expires_ms=now_ms + int(lifetime_s * 1000),
        body=body,
    )
    said: list[AcknowledgeRequest] = []

    def answer(request: RequestBody) -> ReplyBody:
        if isinstance(request, AcknowledgeRequest):
            said.append(request)
        return DoneReply()

    class Source:
        def subscribe(self, name: str, window: int, send: Callable[[Event], None]) -> Subscribed:
            assert (name, window) == ("webhook", 64)
            send(event)
            return Subscribed()

    config = NodeConfig(
        data_dir=folder,
        turn=TurnConfig(listen=(), relay_addresses=()),
        sms=replace(SmsConfig(), forward_secret=SECRET),
    )
    path = folder / "node.sock"
    with open_spool(folder / "spool") as spool, trio.fail_after(WAIT_S):
        link = NodeLink(path, "webhook")
        context = BridgeContext(name="webhook", config=config, node=link, spool=spool, clock=clock)
        async with ApiServer(path, software="node") as server, trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, answer, Source())
            nursery.start_soon(link.run)
            nursery.start_soon(bridge.run, context)
            while not said:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    return said[0]


@pytest.mark.trio
async def test_it_is_signed_and_whole(tmp_path: Path) -> None:
    owner = Owner()
    with owner.listening() as url:
        said = await deliver(tmp_path, url)
    assert said == AcknowledgeRequest("7" * 32, "done", "")
    ((headers, body),) = owner.got
    expected = hmac.new(SECRET.encode(), body + headers["X-Timestamp"].encode(), "sha256")
    assert headers["X-Signature"] == expected.hexdigest()
    assert json.loads(body) == {
        "id": "7" * 32,
        "sender": "+4930123456",
        "recipient": "sim1",
        "text": "Привет 🙂",
        "received_ms": 5,
    }


@pytest.mark.trio
async def test_who_is_busy_is_asked_again_with_the_same_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "RETRY_FIRST_S", 0.05)
    owner = Owner(503, 429, 302)
    with owner.listening() as url:
        said = await deliver(tmp_path, url)
    assert said.outcome == "done"
    assert len({body for _, body in owner.got}) == 1
    assert len(owner.got) == 4


@pytest.mark.trio
@pytest.mark.parametrize("status", [400, 401, 404, 410])
async def test_who_refuses_is_asked_once(tmp_path: Path, status: int) -> None:
    owner = Owner(status)
    with owner.listening() as url:
        said = await deliver(tmp_path, url)
    assert said.outcome == "failed"
    assert len(owner.got) == 1


@pytest.mark.trio
async def test_nobody_is_asked_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "RETRY_FIRST_S", 0.05)
    said = await deliver(tmp_path, "http://127.0.0.1:1/sms", lifetime_s=0.5)
    assert said.outcome == "failed"


@pytest.mark.trio
async def test_who_answers_an_octet_at_a_time_holds_nothing_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(bridge, "RETRY_FIRST_S", 0.05)
    posts = 0

    async def answer(stream: trio.SocketStream) -> None:
        nonlocal posts
        await stream.receive_some()
        posts += 1
        await stream.send_all(b"HTTP/1.1 204 No Content\r\n")
        with suppress(trio.BrokenResourceError):
            while posts == 1:
                await stream.send_all(b"X")
                await trio.sleep(0.01)
            await stream.send_all(b"\r\n")

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        said = await deliver(tmp_path, f"http://127.0.0.1:{port}/sms")
        nursery.cancel_scope.cancel()
    # It was asked again, as who is busy is.
    assert said.outcome == "done"
    assert posts > 1
