"""A Bot API that fails in each way that it can, a bridge and a node that are killed: every command
has its effects once, and is answered at least once."""

from __future__ import annotations

import json
import random
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.support.bot_api import BotApi, FakePerson, bot_api, wait_until
from tests.support.node import RunningNode
from tests.support.telegram_bridge import balance, bridge_of, kill_bridge, telegram_node

SECRET = "a-secret-of-the-webhook"
PEOPLE = 15
COMMANDS = 8
"""Of each: commands and the buttons under what they show."""
KILLS = 5


@pytest.fixture
def api() -> Iterator[BotApi]:
    with bot_api() as server:
        yield server
        assert server.problems == []


@pytest.fixture
def node(api: BotApi) -> Iterator[RunningNode]:
    with telegram_node(api) as running:
        yield running


def started(api: BotApi, number: int, name: str) -> FakePerson:
    person = api.person(number, name, f"{name.lower()}_x", "en")
    person.write("/start")
    person.wait_for("money by the second")
    return person


def test_an_api_that_fails_is_asked_again(api: BotApi, node: RunningNode) -> None:
    alice = started(api, 11, "Alice")
    api.fail("sendMessage", "502", "429", "nothing", "502")
    api.fail("getUpdates", "502", "429")
    alice.write("/balance")
    alice.wait_for("You have", 2)
    # Carried out, but the answer got lost: it is said twice rather than not at all.
    api.fail("sendMessage", "lost")
    alice.write("/help")
    alice.wait_for("What I can do", 2)
    assert sum("You have" in text and "Montana" not in text for text in alice.texts()) == 1
    assert bridge_of(node)["restarts"] == 0


def test_an_update_that_comes_twice_is_one(api: BotApi, node: RunningNode) -> None:
    alice, bob = started(api, 11, "Alice"), started(api, 12, "Bob")
    node.command("account", "credit", "tg:11", "100")
    had = float(balance(node, "tg:12"))
    alice.write("/send @bob_x 5")
    offer = alice.wait_for("Send 5 Ɉ")
    press = {
        "update_id": 5_000,
        "callback_query": {
            "id": api.next_press(),
            "from": alice.as_user(),
            "chat_instance": "1",
            "data": offer.button("Send")["callback_data"],
            "message": {"message_id": offer.number, "date": 1, "chat": api.chat(11), "text": "x"},
        },
    }
    for _ in range(3):
        api.repeat(press)
    alice.wait_for("Sent 5 Ɉ to Bob")
    wait_until(lambda: not api.waiting)
    api.repeat(press)
    wait_until(lambda: not api.waiting)
    bob.write("/balance")
    bob.wait_for("You have", 2)
    assert float(balance(node, "tg:12")) == had + 5
    assert alice.wait_for("Sent 5 Ɉ").edits == 1


def test_who_blocks_the_bot_is_not_written_to(api: BotApi, node: RunningNode) -> None:
    alice, bob = started(api, 11, "Alice"), started(api, 12, "Bob")
    node.command("account", "credit", "tg:11", "100")
    # Nobody has told yet that Bob wants nothing of the bot any more.
    bob.has_blocked = True
    alice.write("/send @bob_x 5")
    alice.press(alice.wait_for("Send 5 Ɉ"), "Send")
    alice.wait_for("Sent 5 Ɉ")
    wait_until(lambda: "a notice was not taken" in node.log(), node.log)
    alice.write("/call @bob_x")
    alice.wait_for("Bob (@bob_x) has blocked this bot")
    bob.block(False)
    bob.write("/start")
    bob.wait_for("money by the second", 2)
    alice.write("/call @bob_x")
    alice.wait_for("Call Bob (@bob_x)?")


def test_what_is_asked_while_the_node_is_away_is_done_when_it_is_back(
    api: BotApi, node: RunningNode
) -> None:
    alice = started(api, 11, "Alice")
    (code,) = json.loads(node.command("voucher", "create", "25", "--json"))["codes"]
    before = float(balance(node, "tg:11"))
    api.fail("sendMessage", "502", "502")
    kill_bridge(node)
    alice.write(f"/redeem {code}")
    alice.wait_for("Redeemed: 25")
    assert float(balance(node, "tg:11")) == before + 25


@pytest.fixture
def webhook(api: BotApi) -> Iterator[RunningNode]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    api.webhook_target = f"http://127.0.0.1:{port}"
    more = f"""
webhook_url = "https://node.example/telegram"
webhook_listen = "127.0.0.1:{port}"
webhook_secret = "{SECRET}"
"""
    with telegram_node(api, more) as running:
        yield running


def post(url: str, body: bytes, secret: str = SECRET) -> int:
    headers = {"X-Telegram-Bot-Api-Secret-Token": secret, "Content-Type": "application/json"}
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_by_webhook_as_by_asking(api: BotApi, webhook: RunningNode) -> None:
    alice = started(api, 11, "Alice")
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
    assert sum("What I can do" in text for text in alice.texts()) == 1


def test_kills_at_any_moment_double_no_effect_and_lose_no_answer(
    api: BotApi, node: RunningNode
) -> None:
    draw = random.Random(5)
    people = [started(api, 100 + number, f"Person{number}") for number in range(PEOPLE)]
    for person in people:
        node.command("account", "credit", f"tg:{person.number}", "1000")
    had = {person.number: float(balance(node, f"tg:{person.number}")) for person in people}
    received = dict.fromkeys(had, 0)
    spent = dict.fromkeys(had, 0)
    amounts = {person.number: 0 for person in people}
    pending: dict[int, str] = {}
    moment = time.monotonic() + 1
    kills = 0

    def finish() -> None:
        """Press what is shown, for whoever has been shown it."""
        for person in people:
            label = pending.get(person.number)
            if label is None:
                continue
            shown = [one for one in person.messages if one.text.startswith(label) and one.buttons]
            if shown:
                person.press(shown[-1], "Send")
                del pending[person.number]

    for _ in range(COMMANDS):
        for person in people:
            other = draw.choice([one for one in people if one is not person])
            amounts[person.number] += 1
            amount = amounts[person.number]
            person.write(f"/send @{other.username} {amount}")
            pending[person.number] = f"Send {amount} Ɉ to"
            received[other.number] += amount
            spent[person.number] += amount + 1
        deadline = time.monotonic() + 120
        while pending:
            assert time.monotonic() < deadline, pending
            if kills < KILLS and time.monotonic() > moment:
                kill_bridge(node)
                kills += 1
                moment = time.monotonic() + draw.uniform(1, 6)
            finish()
            time.sleep(0.05)
    for person in people:
        for amount in range(1, COMMANDS + 1):
            person.wait_for(f"Sent {amount} Ɉ")
    wait_until(lambda: bridge_of(node)["figures"].get("updates_waiting") == "0")
    for person in people:
        expected = had[person.number] + received[person.number] - spent[person.number]
        assert float(balance(node, f"tg:{person.number}")) == expected
        told = sum(
            float(text.partition("has sent you ")[2].split()[0])
            for text in set(person.texts())
            if "has sent you" in text
        )
        assert told <= received[person.number]
    answers = sum("Send " in text or "Sent " in text for one in people for text in one.texts())
    doubled = answers - PEOPLE * COMMANDS
    assert kills == KILLS
    # At most what was on its way in each chat when the bridge was killed.
    assert 0 <= doubled <= KILLS * PEOPLE
    print(f"{PEOPLE * COMMANDS * 2} commands, {kills} kills, {doubled} answers doubled")
