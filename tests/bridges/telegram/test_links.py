"""Telephones and chats: a number is linked by who has seen whose it is, and one that has nothing
but SMS is called by one. Everything is real but Telegram's and Twilio's servers, which check what
they are sent: node, wallet, ledger, and a process of each bridge."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

import httpx
import pytest
from twilio.request_validator import RequestValidator

from core.api.messages import AccountReply, AccountShowRequest
from tests.bridges.twilio.world import (
    PUBLIC_URL,
    TOKEN,
    StandInHttp,
    is_ready,
    sms_fields,
    texts,
    twilio_table,
)
from tests.support import telegram_bridge
from tests.support.bot_api import BotApi, FakePerson, wait_until
from tests.support.fixed_ports import free_port
from tests.support.node import RunningNode
from tests.support.signaling_client import Page
from tests.support.telegram_bridge import ask, balance, credit, free_address, telegram_node

ALICES, BOBS, MALLORYS, CAROLS = (f"+4915123456{number:03}" for number in range(4))
_numbers = count(1)


class Telephones:
    """Those who send SMS, and what has come to them.

    Attributes:
        carrier: has taken what was sent without having been asked.
    """

    def __init__(self, carrier: StandInHttp) -> None:
        self.carrier = carrier
        self.port = free_port()

    @property
    def tables(self) -> str:
        """Of the node's configuration."""
        return f"""
{twilio_table(self.port, self.carrier.url)}
[sms]
countries = ["DE"]
"""

    def send(self, phone: str, body: str) -> str:
        """Send an SMS; returns its answer."""
        before = len(self.received(phone))
        fields = sms_fields(next(_numbers), body, sender=phone)
        signature = RequestValidator(TOKEN).compute_signature(f"{PUBLIC_URL}/sms", fields)
        headers = {"X-Twilio-Signature": signature}
        url = f"http://127.0.0.1:{self.port}/sms"
        answers = texts(httpx.post(url, data=fields, headers=headers, timeout=60))
        if answers:
            (answer,) = answers
            return answer
        # It was too early for one, which comes by itself.
        wait_until(lambda: len(self.received(phone)) > before)
        return self.received(phone)[-1]

    def received(self, phone: str) -> list[str]:
        """What has come to a number that was no answer."""
        return [sent.text for sent in self.carrier.sent if sent.to == phone]


@pytest.fixture(scope="module")
def telephones() -> Iterator[Telephones]:
    with StandInHttp().running() as carrier:
        yield Telephones(carrier)


@pytest.fixture(scope="module")
def node(api: BotApi, telephones: Telephones) -> Iterator[RunningNode]:
    listen = free_address()
    with telegram_node(api, tables=telephones.tables, listen=listen) as running:
        running.http = f"http://{listen}"
        wait_until(lambda: is_ready(telephones.port), running.log)
        yield running
        log = running.log()
        for phone in (ALICES, BOBS, MALLORYS, CAROLS):
            assert phone not in log


def code_in(text: str) -> str:
    match = re.search(r"[A-Z2-7]{4}-[A-Z2-7]{4}", text)
    assert match is not None, text
    return match[0]


def addresses(node: RunningNode, address: str) -> list[str]:
    account = ask(node, AccountShowRequest(address))
    assert isinstance(account, AccountReply)
    return account.addresses


def test_who_types_a_code_is_shown_whose_it_is_before_anything_is_linked(
    node: RunningNode, telephones: Telephones, alice: FakePerson
) -> None:
    """Mallory has Alice type the code of Mallory's telephone."""
    code = code_in(telephones.send(MALLORYS, "LINK"))
    alice.write(f"/link {code}")
    asked = alice.wait_for("Link +49 151 ••• 002 with this chat?")
    assert "able to spend from your wallet" in asked.text
    assert MALLORYS[3:] not in asked.text
    assert addresses(node, MALLORYS) == [MALLORYS]
    alice.press(asked, "Cancel")
    alice.wait_for("nothing was done")
    assert asked.buttons == []
    assert addresses(node, "tg:11") == ["tg:11"]
    # What Mallory has is all that Mallory's telephone spends.
    assert "Not enough" in telephones.send(MALLORYS, f"SEND {CAROLS} 5")
    assert float(balance(node, "tg:11")) == 1000


def test_a_telephone_links_by_the_code_that_it_has_asked_for(
    api: BotApi, node: RunningNode, telephones: Telephones, alice: FakePerson, bob: FakePerson
) -> None:
    telephones.send(ALICES, "BAL")
    credit(node, ALICES, 50)
    code = code_in(telephones.send(ALICES, "LINK"))
    alice.write(code)
    asked = alice.wait_for("Link +49 151 ••• 000 with this chat?")
    # Twice, by two updates: it is one link.
    alice.press(asked, "It is mine")
    alice.press_data(asked, asked.button("It is mine")["callback_data"])
    linked = alice.wait_for("Linked: one account now, with 1050 Ɉ.")
    assert (linked.number, linked.buttons) == (asked.number, [])
    assert set(addresses(node, ALICES)) == {"tg:11", ALICES}
    # It is used up: its user is told so, and nobody else is told anything.
    alice.write(f"/link {code.replace('-', '').lower()}")
    alice.wait_for("+49 151 ••• 000 and this chat are one account already.")
    bob.write(f"/link {code}")
    bob.wait_for("Не выполнено: код неверен или устарел")
    assert not any("151" in text for text in bob.texts())
    assert telephones.send(ALICES, "BAL") == "Balance: 1049 J"


def test_a_chat_links_by_the_code_that_came_to_the_telephone_it_has_named(
    api: BotApi, node: RunningNode, telephones: Telephones, alice: FakePerson, bob: FakePerson
) -> None:
    bob.write(f"/link {BOBS}")
    bob.wait_for("Код отправлен по SMS")
    wait_until(lambda: bool(telephones.received(BOBS)))
    (text,) = telephones.received(BOBS)
    code = code_in(text)
    before = len(alice.messages)
    alice.write(f"/link {code}")
    alice.wait_for("Not done: this code is wrong or too old")
    assert len(alice.messages) == before + 1
    bob.write(code)
    asked = bob.wait_for("Привязать +49 151 ••• 001 к этому чату?")
    assert "с этого телефона можно будет тратить ваши деньги" in asked.text
    assert addresses(node, "tg:12") == ["tg:12"]
    bob.press(asked, "Это мой")
    bob.wait_for("Привязано: теперь это один счёт")
    assert set(addresses(node, BOBS)) == {"tg:12", BOBS}
    assert telephones.received(BOBS) == [text]


def test_a_telephone_that_has_only_sms_is_sent_the_link_and_the_price_is_shown_before(
    node: RunningNode, telephones: Telephones, alice: FakePerson
) -> None:
    had = float(balance(node, "tg:11"))
    alice.write(f"/call {CAROLS}")
    offer = alice.wait_for(f"Call {CAROLS}?")
    shown = re.search(r"They get an SMS with a link; it costs you ([0-9.]+) Ɉ", offer.text)
    assert shown is not None, offer.text
    price = float(shown[1])
    assert price > 0
    assert telephones.received(CAROLS) == []
    assert float(balance(node, "tg:11")) == had
    # Twice: it is one call, one SMS and one price.
    alice.press(offer, "Voice")
    alice.press_data(offer, offer.button("Voice")["callback_data"])
    card = alice.wait_for(f"Call to {CAROLS}")
    wait_until(lambda: bool(telephones.received(CAROLS)))
    (text,) = telephones.received(CAROLS)
    link = re.search(rf"{telegram_bridge.PUBLIC_URL}/call\?id=(\S+?)#(\S+)", text)
    assert link is not None, text
    call, secret = link.groups()
    assert f"?id={call}" in card.button("Open the call")["web_app"]["url"]
    assert float(balance(node, "tg:11")) == had - price
    caller_secret = card.button("Open in browser")["url"].partition("#")[2]
    with Page(node.http) as callee, Page(node.http) as caller:
        assert callee.ask("open_call", call=call, secret=secret)["type"] == "entered"
        assert caller.ask("open_call", call=call, secret=caller_secret)["type"] == "entered"
        alice.write("/hangup")
        alice.wait_for("The call has ended")
        callee.expect("ended")
    assert telephones.received(CAROLS) == [text]
    assert float(balance(node, "tg:11")) == had - price


def test_a_telephone_that_is_linked_is_called_for_nothing_more(
    telephones: Telephones, alice: FakePerson, bob: FakePerson
) -> None:
    before = len(telephones.carrier.sent)
    alice.write(f"/call {BOBS}")
    offer = alice.wait_for(f"Call {BOBS}?")
    assert "SMS" not in offer.text
    alice.press(offer, "Cancel")
    alice.ask("/help", "What I can do")
    assert "nothing was done" in offer.text
    assert len(telephones.carrier.sent) == before


def test_ones_own_number_is_told_from_others_and_costs_nothing(
    node: RunningNode, telephones: Telephones, alice: FakePerson
) -> None:
    had, before = balance(node, "tg:11"), len(telephones.carrier.sent)
    assert ALICES in addresses(node, "tg:11")
    for command in (f"/call {ALICES}", f"/send {ALICES[:3]} {ALICES[3:]} 5"):
        told = alice.ask(command, "That is you.")
        assert (told.text, told.buttons) == ("That is you.", [])
    assert balance(node, "tg:11") == had
    assert len(telephones.carrier.sent) == before


def test_who_had_a_number_until_now_keeps_the_money_and_is_told(
    node: RunningNode, telephones: Telephones, alice: FakePerson, bob: FakePerson
) -> None:
    had = balance(node, "tg:12")
    alice.write(f"/link {code_in(telephones.send(BOBS, 'LINK'))}")
    alice.press(alice.wait_for("Link +49 151 ••• 001 with this chat?"), "It is mine")
    alice.wait_for("Linked: one account now", 2)
    told = bob.wait_for("привязан к другому счёту Telegram")
    assert BOBS not in told.text
    assert (balance(node, "tg:12"), addresses(node, "tg:12")) == (had, ["tg:12"])
    assert BOBS in addresses(node, "tg:11")
