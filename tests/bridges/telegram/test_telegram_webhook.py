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
from tests.support.telegram_bridge import bridge_of, free_address, telegram_node

SECRET = "a-secret-of-the-webhook"
GUESSED = "a-secret-of-somebody-else"
FLOOD = 40


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
    api.fail("getMe", "429", "502")
    api.fail("setWebhook", "502", "429")
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


def test_a_bot_api_that_fails_at_the_start_is_asked_until_it_answers(
    api: BotApi, node: RunningNode, alice: FakePerson
) -> None:
    # Whoever is greeted has been heard, so that all of it is done.
    assert alice.messages
    assert not any(api.faults.values())
    assert len(api.called("getMe")) == len(api.called("setWebhook")) == 3
    assert bridge_of(node)["restarts"] == 0
    assert "no answer of the Bot API" in node.log()


def test_what_is_not_telegrams_is_refused_counted_and_logged_now_and_then(
    api: BotApi, node: RunningNode, alice: FakePerson
) -> None:
    before = len(alice.messages)
    url = f"{api.webhook_target}/telegram"
    name = "Somebody whose name is nobody's business"
    message = {
        "message_id": 5,
        "date": 1,
        "from": {**alice.as_user(), "first_name": name},
        "chat": api.chat(11),
        "text": "/help",
    }
    body = json.dumps({"update_id": 9_500, "message": message}).encode()
    for _ in range(FLOOD):
        assert post(url, body, GUESSED) == 403
    assert post(url, body, "") == 403
    assert post(url, b"{" * 2_000_000) == 413
    lines = [line for line in node.log().splitlines() if "a webhook's call was refused" in line]
    # One a minute, as `core.log` is shown to have it.
    assert 0 < sum("webhook_secret" in line and "403" in line for line in lines) < FLOOD / 4
    assert sum("there is no X-Telegram" in line and "403" in line for line in lines) == 1
    assert sum("bytes at most" in line and "413" in line for line in lines) == 1
    assert all("WebhookError" in line for line in lines)
    for part in (GUESSED, SECRET, name):
        assert part not in node.log()
    wait_until(lambda: figure(node, "webhook_calls_refused") == str(FLOOD + 2))
    assert figure(node, "init_data_refused") == "0"
    alice.ask("/calls", "no calls yet")
    assert len(alice.messages) == before + 1


def figure(node: RunningNode, name: str) -> str:
    """What the bridge has told the node last."""
    figures: dict[str, str] = bridge_of(node)["figures"]
    return figures.get(name, "")
