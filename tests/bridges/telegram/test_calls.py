"""Two users of Telegram call each other: commands, the ring, links, and what is told afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.support.bot_api import BOT_NAME, BotApi, FakePerson, Message, bot_api, wait_until
from tests.support.node import RunningNode
from tests.support.telegram_bridge import PUBLIC_URL, telegram_node

GROUP = -1001


@pytest.fixture(scope="module")
def api() -> Iterator[BotApi]:
    with bot_api() as server:
        yield server
        assert server.problems == []


@pytest.fixture(scope="module")
def node(api: BotApi) -> Iterator[RunningNode]:
    with telegram_node(api) as running:
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


def calls_of(node: RunningNode) -> list[dict[str, str]]:
    calls: list[dict[str, str]] = json.loads(node.command("call", "list", "--json"))["calls"]
    return calls


def hang_up(person: FakePerson, count: int) -> None:
    person.write("/hangup")
    person.wait_for("The call has ended", count)


def call_id(message: Message) -> str:
    (data,) = (
        button["callback_data"].partition(":")[2]
        for button in message.buttons
        if button.get("callback_data", "").startswith(("e:", "r:"))
    )
    return str(data)


def test_a_call_is_offered_with_its_price_and_opens_as_a_mini_app(
    alice: FakePerson, bob: FakePerson, node: RunningNode
) -> None:
    alice.write("/call @bob_b")
    offer = alice.wait_for("Call Боб (@bob_b)?")
    assert "Ɉ a second" in offer.text
    alice.press(offer, "Video")
    # Once more, and the other button: it is one call, and what was chosen first.
    alice.press_data(offer, offer.button("Voice")["callback_data"])
    card = alice.wait_for("Call to Боб (@bob_b)")
    assert card.number == offer.number
    call = call_id(card)
    page = card.button("Open the call")["web_app"]["url"]
    assert page == f"{PUBLIC_URL}/call?id={call}"
    link = urlsplit(card.button("Open in browser")["url"])
    assert (link.query, bool(link.fragment)) == (f"id={call}", True)
    alice.write("/calls")
    alice.wait_for("↗ Боб (@bob_b) · video")
    (made,) = calls_of(node)
    assert (made["id"], made["kind"], made["from"], made["to"]) == (call, "video", "tg:11", "tg:12")
    hang_up(alice, 1)
    assert calls_of(node) == []


def test_whom_to_call_is_picked(alice: FakePerson, bob: FakePerson) -> None:
    alice.write("/call")
    keyboard = alice.wait_for("Whom shall I ring?").keyboard
    (request,) = (key["request_users"] for key in keyboard if "request_users" in key)
    assert request["max_quantity"] == 1
    before = sum("Call Боб" in text for text in alice.texts())
    alice.pick(bob)
    offer = alice.wait_for("Call Боб (@bob_b)?", before + 1)
    alice.press(offer, "Cancel")
    alice.wait_for("nothing was done")


def test_who_was_never_seen_or_has_never_written_is_told_clearly(
    api: BotApi, alice: FakePerson
) -> None:
    alice.write("/call @carol_c")
    alice.wait_for("I have never seen @carol_c")
    carol = api.person(14, "Carol", "carol_c", "en")
    alice.pick(carol)
    alice.wait_for("Carol (@carol_c) has not written to me yet")
    # A number is no user of ours.
    alice.write("/call @x; rm -rf /")
    alice.wait_for("I have never seen @x; rm -rf /")


def test_who_has_blocked_the_bot_is_not_called(api: BotApi, alice: FakePerson) -> None:
    dave = api.person(15, "Dave", "dave_d", "en")
    dave.write("/start")
    dave.wait_for("money by the second")
    dave.block()
    wait_until(lambda: not api.waiting)
    alice.write("/call @dave_d")
    alice.wait_for("Dave (@dave_d) has blocked this bot")
    dave.block(False)
    wait_until(lambda: not api.waiting)
    alice.write("/call @dave_d")
    alice.press(alice.wait_for("Call Dave"), "Cancel")


def test_in_a_group_the_call_opens_by_its_app_and_no_secret_is_shown(
    api: BotApi, alice: FakePerson, bob: FakePerson, node: RunningNode
) -> None:
    alice.write(
        f"/call@{BOT_NAME}", group=GROUP, reply_to_message={"message_id": 1, "from": bob.as_user()}
    )
    offer = alice.wait_for("Call Боб (@bob_b)?", chat=GROUP)
    assert "You have" not in offer.text
    bob.press(offer, "Voice", group=GROUP)
    wait_until(lambda: "Эта кнопка не для вас." in api.shown.values())
    alice.press(offer, "Voice", group=GROUP)
    card = alice.wait_for("Alice (@alice_a) calls Боб (@bob_b)", chat=GROUP)
    (call,) = (one["id"] for one in calls_of(node))
    assert card.buttons == [
        {"text": "📞 Open the call", "url": f"https://t.me/{BOT_NAME}/call?startapp={call}"}
    ]
    alice.write("/hangup", group=GROUP)
    alice.wait_for("The call has ended", chat=GROUP)


def test_nothing_rings_and_nothing_lives(alice: FakePerson) -> None:
    alice.write("/answer")
    alice.wait_for("Nobody calls you.")
    alice.write("/hangup")
    alice.wait_for("Not done: there is no such call.")


def test_a_number_that_no_sms_reaches_is_told_so(alice: FakePerson) -> None:
    alice.write("/call +4930123456")
    alice.wait_for("+4930123456 can't be reached")
