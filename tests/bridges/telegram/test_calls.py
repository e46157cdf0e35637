"""Two users of Telegram call each other: commands, the ring, links, and what is told afterwards."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.bot_api import BOT_NAME, BotApi, FakePerson, Message, wait_until
from tests.support.node import RunningNode
from tests.support.signaling_client import Page
from tests.support.telegram_bridge import PUBLIC_URL, bridge_of, credit, started
from tests.support.telegram_user import fields_of, signed

GROUP = -1001


def calls_of(node: RunningNode) -> list[dict[str, str]]:
    calls: list[dict[str, str]] = json.loads(node.command("call", "list", "--json"))["calls"]
    return calls


def hang_up(person: FakePerson, count: int) -> None:
    person.write("/hangup")
    person.wait_for("The call has ended", count)


@pytest.fixture(scope="module")
def carol(api: BotApi, node: RunningNode) -> FakePerson:
    person = started(api, 21, "Carol", "carol_c", "en")
    credit(node, "tg:21", 1000)
    return person


@pytest.fixture(scope="module")
def dima(api: BotApi, node: RunningNode) -> FakePerson:
    return started(api, 22, "Дима", "dima_d", "ru")


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
    alice.write("/call @nora_n")
    alice.wait_for("I have never seen @nora_n")
    alice.pick(api.person(14, "Nora", "nora_n", "en"))
    alice.wait_for("Nora (@nora_n) has not written to me yet")
    # A number is no user of ours.
    alice.write("/call @x; rm -rf /")
    alice.wait_for("I have never seen @x; rm -rf /")


def test_who_has_blocked_the_bot_is_not_called(api: BotApi, alice: FakePerson) -> None:
    dave = started(api, 15, "Dave", "dave_d", "en")
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


def test_what_is_written_comes_before_whose_message_it_answers(
    api: BotApi, alice: FakePerson, bob: FakePerson, carol: FakePerson
) -> None:
    group = GROUP - 1
    answers = [{"message_id": 1, "from": person.as_user()} for person in (carol, alice)]
    alice.write("/call @bob_b", group=group, reply_to_message=answers[0])
    alice.wait_for("Call Боб (@bob_b)?", chat=group)
    mention = {"type": "text_mention", "offset": 6, "length": 3, "user": bob.as_user()}
    alice.write("/call Боб", group=group, reply_to_message=answers[0], entities=[mention])
    alice.wait_for("Call Боб (@bob_b)?", 2, chat=group)
    alice.write("/call @nora_x", group=group, reply_to_message=answers[0])
    alice.wait_for("I have never seen @nora_x", chat=group)
    alice.write("/call", group=group, reply_to_message=answers[0])
    alice.wait_for("Call Carol (@carol_c)?", chat=group)
    # Nobody but the two writes here: whose message it answers, says nothing.
    offered = sum("Call Боб" in text for text in alice.texts())
    picked = sum("Whom shall I ring?" in text for text in alice.texts())
    alice.write("/call @bob_b", reply_to_message=answers[1])
    alice.wait_for("Call Боб (@bob_b)?", offered + 1)
    alice.write("/call", reply_to_message=answers[1])
    alice.wait_for("Whom shall I ring?", picked + 1)
    assert not any("That is you" in text for text in alice.texts())


def test_nothing_rings_and_nothing_lives(alice: FakePerson) -> None:
    alice.write("/answer")
    alice.wait_for("Nobody calls you.")
    alice.write("/hangup")
    alice.wait_for("Not done: there is no such call.")


def test_a_number_that_no_sms_reaches_is_told_so(alice: FakePerson) -> None:
    alice.write("/call +4930123456")
    alice.wait_for("+4930123456 can't be reached")


def call_dima(carol: FakePerson, count: int) -> str:
    """Have a call made; returns its id, from the Mini App's URL."""
    carol.write("/call @dima_d")
    carol.press(carol.wait_for("Call Дима (@dima_d)?"), "Voice")
    card = carol.wait_for("Call to Дима (@dima_d)", count)
    url = card.button("Open the call")["web_app"]["url"]
    (identity,) = parse_qs(urlsplit(url).query)["id"]
    return identity


def open_call(page: Page, identity: str, shown: str) -> dict[str, Any]:
    return page.ask("open_call", call=identity, init_data=shown)


def rings(dima: FakePerson) -> list[Message]:
    return [message for message in dima.messages if message.buttons]


def test_it_rings_when_the_caller_has_come_and_is_rejected_by_a_button(
    api: BotApi, node: RunningNode, carol: FakePerson, dima: FakePerson
) -> None:
    identity = call_dima(carol, 1)
    now_s = int(time.time())
    with Page(node.http) as page:
        # Without a signature for third parties the node asks the bridge, which has the token.
        forged = signed(fields_of(21, now_s), key=None, token="4242:guessed")
        assert open_call(page, identity, forged)["code"] == "bad-proof"
        assert "initData was refused" in node.log()
        assert "its hash is another" in node.log()
        for part in ("guessed", "AAHdF6IQAAAAAN0XohDhrOrc"):
            assert part not in node.log()
        shown = signed(fields_of(21, now_s), key=None, token=api.token)
        assert open_call(page, identity, shown)["type"] == "entered"
        ring = dima.wait_for("Вам звонит Carol (@carol_c): голос.")
        answer = ring.button("Ответить")["web_app"]["url"]
        assert parse_qs(urlsplit(answer).query)["id"] == [identity]
        assert urlsplit(ring.button("браузере")["url"]).fragment
        dima.write("/answer")
        again = dima.wait_for("Вам звонит Carol", 2)
        assert again.button("Ответить")["web_app"]["url"] == answer
        dima.press(again, "Отклонить")
        wait_until(lambda: "Вы отклонили звонок." in api.shown.values())
        dima.wait_for("Carol (@carol_c): отклонён.", 2)
        assert (ring.buttons, again.buttons) == ([], [])
        carol.wait_for("Дима (@dima_d): rejected.")
    # Once more: it says the same. What was forged has rung nowhere.
    rejected = list(api.shown.values()).count("Вы отклонили звонок.")
    dima.press_data(ring, f"r:{identity}")
    wait_until(lambda: list(api.shown.values()).count("Вы отклонили звонок.") == rejected + 1)
    assert sum("Carol (@carol_c)" in text for text in dima.texts()) == 2
    assert "rejected" in carol.ask("/calls", "↗ Дима").text
    wait_until(lambda: bridge_of(node)["figures"].get("init_data_refused") == "1")


def test_a_ring_that_is_over_says_so_in_each_of_its_messages(
    api: BotApi, node: RunningNode, carol: FakePerson, dima: FakePerson
) -> None:
    identity = call_dima(carol, 2)
    with Page(node.http) as page:
        shown = signed(fields_of(21, int(time.time())), key=None, token=api.token)
        assert open_call(page, identity, shown)["type"] == "entered"
        wait_until(lambda: len(rings(dima)) == 1)
        dima.write("/answer")
        wait_until(lambda: len(rings(dima)) == 2)
        told = rings(dima)
        assert all(message.text.startswith("📞 Вам звонит Carol") for message in told)
        carol.write("/hangup")
        carol.wait_for("The call has ended")
        wait_until(lambda: not rings(dima))
        assert [message.edits for message in told] == [1, 1]
    listed = json.loads(node.command("call", "list", "--account", "tg:22", "--json"))["calls"]
    assert listed[0]["id"] == identity


def test_a_call_that_has_not_rung_yet_is_rejected_as_well(
    node: RunningNode, carol: FakePerson, dima: FakePerson
) -> None:
    identity = call_dima(carol, 3)
    dima.write("/answer")
    dima.wait_for("Вам никто не звонит.")
    dima.write(f"/start {identity}")
    wait_until(lambda: len(rings(dima)) == 1)
    dima.press(rings(dima)[0], "Отклонить")
    wait_until(lambda: not rings(dima))
    assert identity not in [call["id"] for call in calls_of(node)]


def test_a_call_that_the_callee_has_opened_before_it_rang_is_over_when_its_caller_gives_up(
    carol: FakePerson, dima: FakePerson
) -> None:
    identity = call_dima(carol, 4)
    dima.write(f"/start {identity}")
    wait_until(lambda: len(rings(dima)) == 1)
    (opened,) = rings(dima)
    assert opened.text == "📞 Вам звонит Carol (@carol_c): голос."
    carol.ask("/hangup", "The call has ended: missed.")
    wait_until(lambda: not opened.buttons)
    assert (opened.text, opened.edits) == ("📞 Carol (@carol_c): пропущен.", 1)
    # Its link opens nothing any more, for neither of them.
    told = dima.ask(f"/start {identity}", "Не выполнено: звонок уже закончен.")
    assert told.buttons == []
    assert carol.ask(f"/start {identity}", "Not done: the call is over already.").buttons == []
    assert not rings(dima)
