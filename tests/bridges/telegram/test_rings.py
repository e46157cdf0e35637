"""A call between two chats, with the pages that its links open: what each is told, and when."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.bot_api import BotApi, FakePerson, bot_api, wait_until
from tests.support.node import RunningNode
from tests.support.signaling_client import Page
from tests.support.telegram_bridge import telegram_node
from tests.support.telegram_user import fields_of, signed


@pytest.fixture(scope="module")
def api() -> Iterator[BotApi]:
    with bot_api() as server:
        yield server
        assert server.problems == []


@pytest.fixture(scope="module")
def node(api: BotApi) -> Iterator[RunningNode]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    with telegram_node(api, listen=listen) as running:
        running.http = f"http://{listen}"
        yield running


@pytest.fixture(scope="module")
def alice(api: BotApi, node: RunningNode) -> FakePerson:
    person = api.person(11, "Alice", "alice_a", "en")
    person.write("/start")
    person.wait_for("money by the second")
    node.command("account", "credit", "tg:11", "1000")
    return person


@pytest.fixture(scope="module")
def bob(api: BotApi, node: RunningNode) -> FakePerson:
    person = api.person(12, "Боб", "bob_b", "ru")
    person.write("/start")
    person.wait_for("деньги по секундам")
    return person


def call(caller: FakePerson, count: int) -> str:
    """Have a call made to Bob; returns its id, from the Mini App's URL."""
    caller.write("/call @bob_b")
    caller.press(caller.wait_for("Call Боб (@bob_b)?"), "Voice")
    card = caller.wait_for("Call to Боб (@bob_b)", count)
    url = card.button("Open the call")["web_app"]["url"]
    (identity,) = parse_qs(urlsplit(url).query)["id"]
    return identity


def open_call(page: Page, identity: str, shown: str) -> dict[str, Any]:
    return page.ask("open_call", call=identity, init_data=shown)


def test_it_rings_when_the_caller_has_come_and_is_rejected_by_a_button(
    api: BotApi, node: RunningNode, alice: FakePerson, bob: FakePerson
) -> None:
    identity = call(alice, 1)
    now_s = int(time.time())
    with Page(node.http) as page:
        # Without a signature for third parties the node asks the bridge, which has the token.
        forged = signed(fields_of(11, now_s), key=None, token="4242:guessed")
        assert open_call(page, identity, forged)["code"] == "bad-proof"
        assert not any("Вам звонит" in text for text in bob.texts())
        shown = signed(fields_of(11, now_s), key=None, token=api.token)
        assert open_call(page, identity, shown)["type"] == "entered"
        ring = bob.wait_for("Вам звонит Alice (@alice_a): голос.")
        answer = ring.button("Ответить")["web_app"]["url"]
        assert parse_qs(urlsplit(answer).query)["id"] == [identity]
        assert urlsplit(ring.button("браузере")["url"]).fragment
        bob.write("/answer")
        again = bob.wait_for("Вам звонит Alice", 2)
        assert again.button("Ответить")["web_app"]["url"] == answer
        bob.press(ring, "Отклонить")
        wait_until(lambda: "Вы отклонили звонок." in api.shown.values())
        assert bob.wait_for("Alice (@alice_a): отклонён.").buttons == []
        alice.wait_for("Боб (@bob_b): rejected.")
    bob.press_data(ring, f"r:{identity}")
    alice.write("/calls")
    assert "rejected" in alice.wait_for("↗ Боб").text


def test_a_ring_that_is_over_says_so(
    api: BotApi, node: RunningNode, alice: FakePerson, bob: FakePerson
) -> None:
    identity = call(alice, 2)
    before = len(bob.messages)
    with Page(node.http) as page:
        shown = signed(fields_of(11, int(time.time())), key=None, token=api.token)
        assert open_call(page, identity, shown)["type"] == "entered"
        wait_until(lambda: len(bob.messages) > before)
        ring = bob.messages[-1]
        assert ring.text.startswith("📞 Вам звонит Alice")
        alice.write("/hangup")
        alice.wait_for("The call has ended")
        wait_until(lambda: ring.buttons == [] and ring.edits == 1)
    listed = json.loads(node.command("call", "list", "--account", "tg:12", "--json"))["calls"]
    assert listed[0]["id"] == identity
