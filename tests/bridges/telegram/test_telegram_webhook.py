"""core.telegram.org/bots/api, "setWebhook": what Telegram sends by itself."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.support.bot_api import BotApi, FakePerson, wait_until
from tests.support.node import RunningNode
from tests.support.telegram_bridge import free_address, telegram_node

SECRET = "a-secret-of-the-webhook"


@pytest.fixture(scope="module")
def node(api: BotApi) -> Iterator[RunningNode]:
    listen = free_address()
    api.webhook_target = f"http://{listen}"
    more = f"""
webhook_url = "https://node.example/telegram"
webhook_listen = "{listen}"
webhook_secret = "{SECRET}"
"""
    host, _, port = listen.rpartition(":")
    with socket.create_server((host, int(port))) as other, telegram_node(api, more) as running:
        wait_until(lambda: f"can't listen on {listen}" in running.log(), running.log)
        assert "bridges.telegram.webhook_listen" in running.log()
        # It is there as soon as the address is free.
        other.close()
        yield running
        assert "Traceback" not in running.log()


def post(url: str, body: bytes, secret: str = SECRET) -> int:
    headers = {"X-Telegram-Bot-Api-Secret-Token": secret, "Content-Type": "application/json"}
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_by_webhook_as_by_asking(api: BotApi, alice: FakePerson) -> None:
    alice.write("/balance")
    alice.wait_for("You have", 2)
    assert api.called("getUpdates") == []
    assert api.called("setWebhook")[-1]["secret_token"] == SECRET
    url = f"{api.webhook_target}/telegram"
    update = {
        "update_id": 9_000,
        "message": {
            "message_id": 5,
            "date": 1,
            "from": alice.as_user(),
            "chat": api.chat(11),
            "text": "/help",
        },
    }
    body = json.dumps(update).encode()
    assert post(url, body, "a-secret-of-somebody-else") == 403
    assert post(url, body, "") == 403
    assert post(url, b"{" * 2_000_000) == 413
    # Telegram would send again for ever what it is not said to have arrived.
    for wrong in (b"", b"{", b"[]", b"\xff", b'{"update_id": -1}', b"[" * 100_000):
        assert post(url, wrong) == 200
    assert post(f"{url}/more", body) == 404
    assert post(url, body) == 200
    assert post(url, body) == 200
    alice.wait_for("What I can do")
    alice.write("/calls")
    alice.wait_for("no calls yet")
    alice.write("", contact={"phone_number": "+4930123456", "first_name": "Ben"})
    alice.wait_for("A contact alone")
    assert sum("What I can do" in text for text in alice.texts()) == 1
