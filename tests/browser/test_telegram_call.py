"""Two users of Telegram call each other: commands to the bot, a ring in a chat, both Mini Apps in a
browser with what Telegram signs for them, a talk over the relay, receipts."""

from __future__ import annotations

import json
import time
from urllib.parse import urlencode, urlsplit

from playwright.sync_api import Page

from tests.browser.test_mini_app import LOCAL, framed, wait_connected, wait_for, wait_for_phase
from tests.support.bot_api import BotApi, FakePerson, Message, bot_api
from tests.support.browser import browser
from tests.support.call_pages import AWAKE, FLAGS, PATIENCE_S, amount, records_of, verify
from tests.support.fixed_ports import free_port
from tests.support.node import RunningNode
from tests.support.telegram_bridge import PUBLIC_URL, telegram_node
from tests.support.telegram_user import fields_of, signed

CREDIT = 1_000


def opened(button: dict[str, dict[str, str]], api: BotApi, person: FakePerson, http: str) -> str:
    """Where Telegram opens a button's Mini App, which is behind a proxy of the tests' own."""
    url = button["web_app"]["url"]
    assert url.startswith(f"{PUBLIC_URL}/call?id=CALL-")
    assert not urlsplit(url).fragment, "inside Telegram the fragment is Telegram's"
    # By the bot's token alone: the node has to ask the bridge, which holds it.
    data = signed(fields_of(person.number, int(time.time())), key=None, token=api.token)
    return f"{http}{url.removeprefix(PUBLIC_URL)}#{urlencode({'tgWebAppData': data})}"


def start(api: BotApi, number: int, name: str, username: str, language: str) -> FakePerson:
    person = api.person(number, name, username, language)
    person.write("/start")
    person.wait_for("Montana")
    return person


def offered(alice: FakePerson, name: str) -> Message:
    alice.write(f"/call @{name}")
    offer = alice.wait_for("Ɉ a second")
    alice.press(offer, "Voice")
    return alice.wait_for("Call to")


def test_two_users_of_telegram_talk_and_are_told_what_it_cost() -> None:
    listen = f"127.0.0.1:{free_port()}"
    with bot_api() as api, telegram_node(api, listen=listen) as node:
        http = f"http://{listen}"
        alice = start(api, 11, "Alice", "alice_a", "en")
        bob = start(api, 12, "Боб", "bob_b", "ru")
        node.command("account", "credit", "tg:11", str(CREDIT))
        card = offered(alice, "bob_b")
        with browser(*FLAGS, *AWAKE, *LOCAL) as chromium:
            contexts = [chromium.new_context(locale="en-GB") for _ in range(2)]
            alice_url = opened(card.button("Open the call"), api, alice, http)
            _, caller = framed(contexts[0], alice_url)
            ring = bob.wait_for("Вам звонит Alice")
            assert ring.button("Отклонить")
            callee: Page = contexts[1].new_page()
            callee.goto(opened(ring.button("Ответить"), api, bob, http))
            wait_for_phase(callee, "ringing")
            callee.click("#answer")
            for where in (caller, callee):
                wait_connected(where)
            wait_for(caller, "() => montana.meeting.state.call.seconds > 3")
            state = caller.evaluate("() => montana.meeting.state.call")
            assert state["relayed"] is True
            callee.click("[data-tool=hang_up]")
            for where in (caller, callee):
                where.wait_for_selector(".receipt", timeout=PATIENCE_S * 1000)
        agree(node, alice, bob)
        assert api.problems == []


def agree(node: RunningNode, alice: FakePerson, bob: FakePerson) -> None:
    """The node's records, the receipt and the lists in the chats say the same."""
    (call,) = json.loads(node.command("call", "list", "--account", "tg:11", "--json"))["calls"]
    (record,) = records_of(node, call["id"])
    seconds, cost = int(call["seconds"]), amount(call["cost"])
    assert (call["status"], record["kind"]) == ("ended", "voice")
    assert (int(record["seconds"]), amount(record["cost"])) == (seconds, cost)
    assert seconds > 3
    assert cost == seconds, "a second of voice is 1 Ɉ"
    talked = f"{seconds // 60}:{seconds % 60:02}"
    alice.wait_for(f"{talked}, {seconds} Ɉ. You have {CREDIT - seconds} Ɉ.")
    bob.wait_for(f"Разговор: Alice (@alice_a), {talked}.")
    alice.write("/calls")
    listed = alice.wait_for("↗ Боб (@bob_b) · voice")
    assert talked in listed.text
    alice.write("/history")
    (line,) = [
        line for line in alice.wait_for(f"-{seconds} Ɉ").text.splitlines() if f"-{seconds}" in line
    ]
    assert line.endswith(call["id"])
    verify(node)
