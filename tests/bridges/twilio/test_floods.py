"""Floods of SMS that come through the webhook, as Twilio signs them, to a real node and its
wallet: within the rate and the budget people are answered, and beyond them nobody pays."""

from __future__ import annotations

import http.client
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import local
from urllib.parse import urlencode

import httpx
import pytest
import trio
from twilio.request_validator import RequestValidator

from billing.sms_texts import Answer
from core.api.client import connect
from core.api.sms_messages import SmsItem
from tests.bridges.twilio.world import (
    PUBLIC_URL,
    TOKEN,
    WAIT_S,
    StandInHttp,
    is_ready,
    sms_fields,
    sms_records,
    texts,
    twilio_table,
    wait_until,
)
from tests.support.fixed_ports import free_port
from tests.support.node import RunningNode, running_node

ALICE = "+4915123456789"
BUDGET = 1_000
PEOPLE = 10_000
AT_ONCE = 8
Sms = tuple[int, str]
"""The number of a message, and who sends it."""


class Flood:
    """Who sends it, and the node that it comes to."""

    def __init__(self, node: RunningNode, port: int, carrier: StandInHttp) -> None:
        self.node = node
        self.carrier = carrier
        self._port = port
        self._mine = local()
        self._validator = RequestValidator(TOKEN)

    def send(self, messages: Sequence[Sms]) -> Counter[str]:
        """Have somebody ask for a balance by each of them, some at once; how often which answer
        was given."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(self._ask, messages))
        return Counter(one for one in answers if one is not None)

    def send_all(self, messages: Sequence[Sms], expected: Counter[str]) -> None:
        """As `send`; those answers that were too late for Twilio come by an SMS of their own."""
        before = len(self.carrier.sent)
        answered = self.send(messages)
        wait_until(
            lambda: answered + Counter(one.text for one in self.carrier.sent[before:]) == expected
        )

    def _ask(self, message: Sms) -> str | None:
        number, sender = message
        fields = sms_fields(number, "BAL", sender=sender)
        headers = {
            "X-Twilio-Signature": self._validator.compute_signature(f"{PUBLIC_URL}/sms", fields),
            "Content-Type": "application/x-www-form-urlencoded",
        }
        if not hasattr(self._mine, "connection"):
            self._mine.connection = http.client.HTTPConnection(
                "127.0.0.1", self._port, timeout=WAIT_S
            )
        connection: http.client.HTTPConnection = self._mine.connection
        connection.request("POST", "/sms", urlencode(fields), headers)
        answer = connection.getresponse()
        response = httpx.Response(
            answer.status, headers=dict(answer.getheaders()), content=answer.read()
        )
        said = texts(response)
        assert len(said) <= 1
        return said[0] if said else None

    def records(self) -> list[SmsItem]:
        """Of all SMS."""

        async def fetch() -> list[SmsItem]:
            async with connect(self.node.socket, software="test") as client:
                return await sms_records(client.request)

        return trio.run(fetch)


@pytest.fixture(scope="module")
def flood() -> Iterator[Flood]:
    port = free_port()
    with StandInHttp().running() as carrier:
        more = f"""
{twilio_table(port, carrier.url)}
[sms]
countries = ["DE"]
messages_per_day = {BUDGET}
commands_in_total = {2 * PEOPLE}
"""
        with running_node(more=more) as node:
            wait_until(lambda: is_ready(port))
            yield Flood(node, port, carrier)


def test_one_number_is_answered_so_often_a_minute(flood: Flood) -> None:
    flood.node.command("account", "create", ALICE)
    flood.node.command("account", "credit", ALICE, "100")
    messages = [(number, ALICE) for number in range(1, 201)]
    expected = Counter(f"Balance: {left} J" for left in range(90, 100))
    expected[Answer("limited").text("en")] = 1
    # They are counted by minutes of the clock, of which one is to have them all.
    wait_until(lambda: time.time() % 60 < 45)
    flood.send_all(messages, expected)
    # What comes twice was answered, and has no other effect.
    assert not flood.send(messages)
    assert '"90.000000"' in flood.node.command("account", "show", ALICE, "--json")
    came = [one for one in flood.records() if one.direction == "in"]
    assert Counter(one.result for one in came) == Counter(balance=10, limited=190)
    assert sum(float(one.cost) for one in came) == 10


def test_one_message_from_each_of_ten_thousand(flood: Flood) -> None:
    before = flood.records()
    messages = [(1_000 + one, f"+49151{1_000_000 + one:08}") for one in range(PEOPLE)]
    # A fifth of the budget is for those who pay for their answers.
    free = BUDGET * 4 // 5 - sum(one.parts for one in before)
    flood.send_all(messages, Counter({"Balance: 0 J": free}))
    records = flood.records()
    came = [one for one in records if one.direction == "in"]
    assert len(came) == len(before) + PEOPLE == len({one.id for one in came})
    assert sum(one.parts for one in records) <= BUDGET
    log = flood.node.log()
    assert "sms_budget" in log
    assert "Traceback" not in log
    assert "+49151" not in log
    flood.node.command("ledger", "verify")
