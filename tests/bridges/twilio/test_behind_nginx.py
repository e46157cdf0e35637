"""The webhooks behind Debian's nginx, over which a public name stands that the bridge never sees:
bodies that are too large for either of them, and what Twilio has signed."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest

from bridges.twilio.form import BODY_MAXIMUM_BYTES
from tests.bridges.twilio.world import (
    ACCOUNT,
    PERSON,
    PHONE_SECRET,
    PUBLIC_URL,
    WAIT_S,
    Sent,
    World,
    a_world,
    answer_to,
    sms_fields,
    texts,
    wait_until,
)
from tests.support.fixed_ports import free_port
from tests.support.nginx import running_nginx

TO = "+79995550123"
MEGABYTE = 1_000_000
NGINX_MAXIMUM_BYTES = 1 << 20
"""Of a request's body, unless the operator says otherwise (client_max_body_size)."""
assert BODY_MAXIMUM_BYTES < MEGABYTE < NGINX_MAXIMUM_BYTES


@dataclass
class Proxied:
    """A bridge that is called through nginx."""

    world: World
    client: httpx.Client
    folder: Path

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        return self.client.post(f"{self.world.url}{path}", content=body, headers=headers)

    def signed(self, path: str, fields: dict[str, str]) -> httpx.Response:
        """Call it as Twilio does."""
        headers = {
            "X-Twilio-Signature": self.world.signature(path, fields),
            "Content-Type": "application/x-www-form-urlencoded",
        }
        return self.post(path, urlencode(fields).encode(), headers)

    def signed_by_phone(self, content: dict[str, object]) -> httpx.Response:
        """Call it as the telephone does."""
        body, timestamp = json.dumps(content).encode(), str(int(time.time()))
        signature = hmac.digest(PHONE_SECRET.encode(), body + timestamp.encode(), "sha256").hex()
        return self.post("/android", body, {"X-Timestamp": timestamp, "X-Signature": signature})

    def logs(self) -> tuple[str, str]:
        """Of the bridge and of nginx."""
        return self.world.log(), (self.folder / "nginx.log").read_text()

    def logged_since(self, before: tuple[str, str]) -> str:
        """What both have written."""
        now = self.logs()
        return "".join(log[len(old) :] for log, old in zip(now, before, strict=True))


@pytest.fixture(scope="module")
def running_proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    folder, outside = tmp_path_factory.mktemp("twilio"), free_port()
    with a_world(folder) as world, world.node.running():
        world.start()
        world.connect()
        server = f"listen 127.0.0.1:{outside}; location / {{ proxy_pass {world.url}; }}"
        with running_nginx(folder, outside, server), httpx.Client(timeout=WAIT_S) as client:
            world.url = f"http://127.0.0.1:{outside}"
            yield Proxied(world, client, folder)
        world.stop()


@pytest.fixture
def proxied(running_proxied: Proxied) -> Proxied:
    running_proxied.world.renew()
    return running_proxied


def a_phones_sms(text: str) -> dict[str, object]:
    payload = {"sender": TO, "simNumber": 1, "message": text, "receivedAt": str(time.time_ns())}
    return {"event": "sms:received", "deviceId": "d", "payload": payload}


@pytest.mark.parametrize("path", ["/sms", "/status", "/android"])
@pytest.mark.parametrize(
    ("size_bytes", "complaint"),
    [
        (MEGABYTE, "times=1 path={path} status=413"),
        (NGINX_MAXIMUM_BYTES, "client intended to send too large body"),
    ],
)
def test_a_megabyte_is_refused_and_named_and_the_next_one_is_taken(
    proxied: Proxied, path: str, size_bytes: int, complaint: str
) -> None:
    before = proxied.logs()
    text = "x" * size_bytes
    # All else about it is right.
    if path == "/android":
        refused = proxied.signed_by_phone(a_phones_sms(text))
    else:
        refused = proxied.signed(path, {**sms_fields(1, text), "MessageStatus": "sent"})
    assert refused.status_code == 413
    named = complaint.format(path=path)
    wait_until(lambda: named in proxied.logged_since(before))
    logged = proxied.logged_since(before)
    assert logged.count(named) == 1
    assert text[:100] not in logged
    assert PERSON not in logged
    if path == "/android":
        assert proxied.signed_by_phone(a_phones_sms("BAL")).status_code == 204
        wait_until(lambda: proxied.world.phone.sent)
        assert proxied.world.phone.sent[0].text == answer_to("BAL")
    elif path == "/sms":
        assert texts(proxied.signed(path, sms_fields(2, "BAL"))) == [answer_to("BAL")]
    else:
        fields = {**sms_fields(2, ""), "MessageStatus": "sent"}
        assert proxied.signed(path, fields).status_code == 204
    assert len(proxied.world.node.received) == (path != "/status")


def test_a_status_that_twilio_has_signed_is_taken_and_a_changed_one_is_not(
    proxied: Proxied,
) -> None:
    world = proxied.world
    event = world.node.tell(1, TO, "a code")
    wait_until(lambda: event in world.node.acknowledged)
    (sent,) = world.rest.sent
    path = status_path(sent)
    fields = {
        "MessageSid": sent.sid,
        "AccountSid": ACCOUNT,
        "To": TO,
        "MessageStatus": "undelivered",
        "ErrorCode": "30005",
    }
    headers = {
        "X-Twilio-Signature": world.signature(path, fields),
        "Content-Type": "application/x-www-form-urlencoded",
    }
    other = path[:-1] + ("0" if path[-1] != "0" else "1")
    for changed_path, changed in (
        (path, {**fields, "MessageStatus": "delivered"}),
        (path, {**fields, "New": ""}),
        (path, {name: value for name, value in fields.items() if name != "ErrorCode"}),
        (other, fields),
        ("/status", fields),
    ):
        answer = proxied.post(changed_path, urlencode(changed).encode(), headers)
        assert answer.status_code == 403
    assert proxied.post(path, urlencode(fields).encode(), headers).status_code == 204
    wait_until(lambda: world.node.statuses)
    (told,) = world.node.statuses
    assert (told.event, told.status) == (event, "undelivered")
    assert told.detail.startswith("30005: ")


def status_path(sent: Sent) -> str:
    """Where Twilio was told to call, under the public name."""
    callback = str(sent.fields["StatusCallback"])
    assert callback.startswith(f"{PUBLIC_URL}/status?event=")
    return callback.removeprefix(PUBLIC_URL)
