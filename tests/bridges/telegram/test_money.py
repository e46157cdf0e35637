"""Commands about money, from the chat to the ledger and back: the real library against a stand-in
Bot API server that takes what Telegram takes, and a real node."""

from __future__ import annotations

import json

from bridges.telegram.intake import CHAT_MAXIMUM
from bridges.telegram.polling import UPDATES
from bridges.telegram.texts import COMMANDS
from core.api.messages import CallListReply, CallListRequest
from tests.support.bot_api import BOT_NAME, BotApi, FakePerson, wait_until
from tests.support.node import RunningNode
from tests.support.telegram_bridge import ask, balance, bridge_of, credit, started

ANSWERS = {
    "/send": "Write whom and how much",
    "/send @alice_a": "Write whom and how much",
    "/send @alice_a -5": "An amount is a number",
    "/send @alice_a 0": "An amount is a number",
    "/send @alice_a 1e9": "An amount is a number",
    "/send @alice_a 1.1234567": "An amount is a number",
    "/send @alice_a ١٢": "An amount is a number",
    "/send @alice_a 1,000": "An amount is a number",
    "/send @alice_a 1.000": "An amount is a number",
    "/send @alice_a 1 500": "Where does the amount begin?",
    "/send +49 160 1234567 1 500": "Where does the amount begin?",
    "/send +49 160 1234567 1 50": "Where does the amount begin?",
    "/send +7999123 5": "This is no telephone number",
    "/send +49 160 1234567 50": "Send 50 Ɉ to +491601234567?",
    "/send @alice_a\n１２": "Send 12 Ɉ to Alice (@alice_a)?",
    "/send @nobody_here 5": "I have never seen @nobody_here",
    "/send $(reboot) 5": "I have never seen $(reboot)",
    "/send 112 5": "This is no telephone number",
    "/send +12 5": "This is no telephone number",
    "/send +12345678901234567890 5": "This is no telephone number",
    "/send 12345678901234567890 5": "This is no telephone number",
    "/call 112": "This is no telephone number",
    "/call +49": "This is no telephone number",
    "/call +12345678901234567890": "This is no telephone number",
    "/call １２３４５６７８９０１２３４５６７８９０": "This is no telephone number",
    "/call @myself": "That is you.",
    "/send @myself 5": "That is you.",
    "/redeem": "Write the voucher's code",
    "/redeem " + "😀" * 2000: "Write the voucher's code",
    "/redeem ABCD-EFGH": "Not done: ",
    "/link": "Write your number",
    "/link ABCD-EFGH": "Not done: this code is wrong or too old",
    "/reboot": "no command of mine",
    "hello\0there": "no command of mine",
    "/history 1": "Nothing has come or gone yet",
    "💰 Balance": "You have 0 Ɉ",
}
HAMMERED = 120


def test_the_menu_of_commands_is_in_both_languages(api: BotApi, node: RunningNode) -> None:
    names = list(COMMANDS)
    assert len(names) == 11
    assert [one["command"] for one in api.commands[""]] == names
    assert [one["command"] for one in api.commands["ru"]] == names
    assert api.commands["ru"] != api.commands[""]


def test_start_opens_an_account_and_shows_the_menu(alice: FakePerson, bob: FakePerson) -> None:
    labels = [button["text"] for button in alice.messages[0].keyboard]
    assert len(labels) == 5
    assert "request_users" in alice.messages[0].button("📞 Call")
    assert "request_users" in bob.messages[0].button("Позвонить")


def test_balance_by_command_and_by_the_menu(alice: FakePerson, node: RunningNode) -> None:
    before = len(alice.messages)
    alice.write("/balance@another_bot")
    alice.write(f"/balance@{BOT_NAME.upper()}")
    alice.write("💰 Balance")
    alice.ask("/calls", "no calls yet")
    have = float(balance(node, "tg:11"))
    *told, _ = alice.texts()[before:]
    assert len(told) == 2
    assert all(text.startswith(f"You have {have:g} Ɉ") for text in told)


def test_a_transfer_is_shown_confirmed_and_done_once(
    alice: FakePerson, bob: FakePerson, node: RunningNode, api: BotApi
) -> None:
    before = float(balance(node, "tg:12"))
    alice.write("/send @BOB_B 150.5")
    offer = alice.wait_for("Send 150.5 Ɉ to Боб (@bob_b)?")
    assert "Fee 1.505 Ɉ, 152.005 Ɉ in all." in offer.text
    # Twice, by two updates: both buttons are one offer.
    alice.press(offer, "Send")
    alice.press_data(offer, offer.button("Send")["callback_data"])
    done = alice.wait_for("Sent 150.5 Ɉ to Боб (@bob_b). Fee 1.505 Ɉ.")
    assert done.number == offer.number
    assert done.buttons == []
    bob.wait_for("Вам перевод 150.5 Ɉ, от: Alice (@alice_a)")
    wait_until(lambda: not api.waiting)
    alice.write("/history")
    alice.wait_for("-150.5 Ɉ")
    assert float(balance(node, "tg:12")) == before + 150.5
    assert sum("Вам перевод 150.5" in text for text in bob.texts()) == 1


def test_what_was_cancelled_is_not_sent_afterwards(alice: FakePerson, node: RunningNode) -> None:
    before = balance(node, "tg:11")
    alice.write("/send @bob_b 7")
    offer = alice.wait_for("Send 7 Ɉ")
    data = offer.button("Send")["callback_data"]
    alice.press(offer, "Cancel")
    cancelled = alice.wait_for("nothing was done")
    alice.press_data(cancelled, data)
    alice.ask("/balance", "You have")
    assert balance(node, "tg:11") == before
    assert "nothing was done" in cancelled.text


def test_nobody_else_can_press_it(
    alice: FakePerson, bob: FakePerson, node: RunningNode, api: BotApi
) -> None:
    alice.write("/send @bob_b 8")
    offer = alice.wait_for("Send 8 Ɉ")
    before = balance(node, "tg:11")
    bob.press_data(offer, offer.button("Send")["callback_data"])
    wait_until(lambda: "Эта кнопка не для вас." in api.shown.values())
    assert "Sent 8" not in " ".join(alice.texts())
    assert balance(node, "tg:11") == before
    # Who may press it has not lost it by that.
    alice.press(offer, "Cancel")
    wait_until(lambda: "nothing was done" in offer.text)


def test_whatever_is_written_has_a_clear_answer(api: BotApi, alice: FakePerson) -> None:
    # Each by somebody else, since a chat is written to once a second.
    people = [api.person(100 + place, "Somebody", "", "en") for place in range(len(ANSWERS))]
    for person, written in zip(people, ANSWERS, strict=True):
        if "@myself" in written:
            person.username = "myself"
        person.write(written)
    for person, answer in zip(people, ANSWERS.values(), strict=True):
        person.wait_for(answer)
        assert len(person.messages) == 1


def test_more_than_there_is_is_refused_in_the_readers_language(
    bob: FakePerson, alice: FakePerson, node: RunningNode
) -> None:
    bob.write("/send @alice_a 900000")
    offer = bob.wait_for("Перевести 900000 Ɉ: Alice (@alice_a)?")
    data = offer.button("Перевести")["callback_data"]
    bob.press(offer, "Перевести")
    told = bob.wait_for("Не выполнено: на счёте недостаточно денег.")
    # It is over, though there is enough afterwards.
    before = balance(node, "tg:11")
    credit(node, "tg:12", 1_000_000)
    bob.press_data(told, data)
    bob.ask("/balance", "У вас 1000")
    assert balance(node, "tg:11") == before
    assert "Не выполнено" in told.text
    assert not [text for text in bob.texts() if "Переведено 900000" in text]
    assert "+1000000 Ɉ · зачисление\n" in bob.ask("/history", "зачисление").text + "\n"


def test_a_voucher_is_redeemed_once(bob: FakePerson, node: RunningNode) -> None:
    (code,) = json.loads(node.command("voucher", "create", "25", "--json"))["codes"]
    before = float(balance(node, "tg:12"))
    bob.ask(f"/redeem {code}", "Погашено: 25 Ɉ.")
    # Whoever asks again hears the same.
    bob.ask(f"/redeem {code.lower()}", "Погашено: 25 Ɉ.")
    assert float(balance(node, "tg:12")) == before + 25


def test_a_telephone_number_gets_what_it_can_use(alice: FakePerson, node: RunningNode) -> None:
    alice.write("/send +4930123456 3")
    alice.press(alice.wait_for("Send 3 Ɉ to +4930123456?"), "Send")
    alice.wait_for("Not done: nobody has this number here")
    node.command("account", "create", "+4930123456")
    before = float(balance(node, "+4930123456"))
    alice.press(alice.ask("/send +49 30 123456 3", "Send 3 Ɉ to +4930123456?"), "Send")
    alice.wait_for("Sent 3 Ɉ to +4930123456.")
    assert float(balance(node, "+4930123456")) == before + 3


def test_what_names_nobody_who_could_get_it_costs_nothing(
    alice: FakePerson, node: RunningNode
) -> None:
    before = balance(node, "tg:11")
    for number in ("112", "+12345678901234567890"):
        alice.ask(f"/send {number} 5", "This is no telephone number. Write it as +79991234567.")
        alice.ask(f"/call {number}", "This is no telephone number. Write it as +79991234567.")
    for command in ("/send @alice_a 5", "/call @ALICE_A"):
        told = alice.ask(command, "That is you.")
        assert (told.text, told.buttons) == ("That is you.", [])
    assert balance(node, "tg:11") == before
    assert ask(node, CallListRequest("tg:11")) == CallListReply([], None)


def test_a_mention_means_whom_it_mentions(alice: FakePerson, bob: FakePerson) -> None:
    mention = {"type": "text_mention", "offset": 6, "length": 3, "user": bob.as_user()}
    mine = {"message_id": 1, "from": alice.as_user()}
    alice.write("/send Боб 4", entities=[mention], reply_to_message=mine)
    alice.wait_for("Send 4 Ɉ to Боб (@bob_b)?")
    # In this chat they answer nobody but themselves and the bot.
    asked = sum("/send @user 10" in text for text in alice.texts())
    alice.write("/send 4", reply_to_message=mine)
    alice.wait_for("/send @user 10", asked + 1)


def test_what_is_edited_or_forwarded_or_of_a_bot_is_no_command(
    alice: FakePerson, api: BotApi, node: RunningNode
) -> None:
    before = len(alice.messages)
    message = {
        "message_id": 5,
        "date": 1,
        "from": alice.as_user(),
        "chat": api.chat(11),
        "text": "/balance",
    }
    api.update(edited_message=message)
    alice.write("/balance", forward_origin={"type": "hidden_user", "sender_user_name": "x"})
    alice.write("/balance", via_bot={"id": 9, "is_bot": True, "first_name": "x"})
    api.update(message={**message, "from": {**alice.as_user(), "is_bot": True}})
    api.update(message={"broken": 1})
    api.update(message={**message, "chat": {"id": "eleven", "type": "private"}})
    wait_until(lambda: not api.waiting)
    alice.write("/help")
    alice.wait_for("What I can do")
    assert len(alice.messages) == before + 1
    assert bridge_of(node)["restarts"] == 0


def test_a_language_that_was_chosen_stays(alice: FakePerson) -> None:
    alice.write("/help")
    shown = alice.wait_for("What I can do")
    alice.press(shown, "Русский")
    alice.wait_for("Теперь по-русски.")
    assert "Что я умею" in shown.text
    alice.write("/balance")
    assert alice.wait_for("У вас").text.endswith("Ɉ.")
    alice.press(shown, "English")
    alice.wait_for("English from now on.")
    assert "What I can do" in shown.text


def test_groups_are_shown_nothing_of_an_account(api: BotApi, alice: FakePerson) -> None:
    group = -100
    alice.write("/balance", group=group)
    alice.write("what does the bot make of this", group=group)
    alice.write("/stickers", group=group)
    alice.write("/help", group=group)
    alice.wait_for("What I can do", chat=group)
    assert [message.text.partition(":")[0] for message in api.messages(group)] == [
        "Not in front of everybody",
        "What I can do",
    ]


def test_more_history_is_a_page_further(alice: FakePerson, node: RunningNode) -> None:
    for _ in range(12):
        credit(node, "tg:11", 1)
    alice.write("/history")
    page = alice.wait_for("+1 Ɉ")
    assert len(page.text.splitlines()) == 10
    before = len(alice.messages)
    alice.press(page, "Earlier")
    wait_until(lambda: len(alice.messages) == before + 1)
    older = alice.messages[-1].text.splitlines()
    # The two credits that had no room on the first page, and what was before them.
    assert ["+1 Ɉ" in line for line in older[:3]] == [True, True, False]


def test_too_much_at_once_is_refused_and_told(api: BotApi, node: RunningNode) -> None:
    eve = started(api, 13, "Eve", "eve_e", "en")
    before = len(api.shown)
    with api.together():
        for _ in range(HAMMERED):
            eve.press_data(eve.messages[0], "z:of another version")
    told = eve.wait_for("That was too much at once")
    refused = int(told.text.partition("the last ")[2].split()[0])
    assert UPDATES - CHAT_MAXIMUM <= refused <= HAMMERED - CHAT_MAXIMUM
    # Buttons of which nothing is known do nothing, and stop turning.
    wait_until(lambda: len(api.shown) - before == HAMMERED - refused)
    assert len(eve.messages) == 2
