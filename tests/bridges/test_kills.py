"""Fifty kills of a node or of a bridge while a thousand commands run: each has exactly one effect,
and is answered.

Twenty people send SMS by the webhook, each the next when the last one is answered, and again what
was not taken, under the same id. Answers come in the response, or by Twilio's REST interface.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from twilio.request_validator import RequestValidator

from core.api.client import connect
from core.api.messages import (
    AccountCreateRequest,
    AccountCreditRequest,
    AccountReply,
    AccountShowRequest,
    RequestBody,
)
from tests.bridges.twilio.world import (
    ACCOUNT,
    PUBLIC_URL,
    SENDER,
    TOKEN,
    StandInHttp,
    free_port,
    sms_fields,
    texts,
)
from tests.support.node import (
    montana_command,
    montana_environment,
    run_montana,
    write_config,
)

PEOPLE = 20
COMMANDS_EACH = 50
KILLS = 50
CREDIT = 1_000
ANSWER_TIMEOUT_S = 90
PERSON = "+49151234560{:02}"
RECIPIENT = "+49151234561{:02}"


class Restarted:
    """A process that is killed and started again; `stop` ends it by SIGTERM."""

    def __init__(self, command: list[str], log: Path, is_ready: Callable[[Any], None]) -> None:
        self._command = command
        self._log = log
        self._is_ready = is_ready
        self.process: subprocess.Popen[str]
        self.start()

    def start(self) -> None:
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                self._command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=montana_environment(),
            )
        self._is_ready(self.process)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self) -> None:
        self.process.terminate()
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        assert code == 0, self._log.read_text()
        assert "Traceback" not in self._log.read_text()


class Person:
    """Sends commands, one after the other; remembers what each was answered.

    Attributes:
        answers: every text that has come, with how often.
        spent: what the commands have to have cost, in Ɉ.
    """

    def __init__(self, number: int, url: str) -> None:
        self.phone = PERSON.format(number)
        self.recipient = RECIPIENT.format(number)
        self._url = url
        self._number = number * 1_000
        self._random = random.Random(number)
        self._news = threading.Condition()
        self.answers: Counter[str] = Counter()
        self.posts = 0
        self.commands = 0
        self.spent = 0
        self.sent = 0
        self.error: BaseException | None = None

    def tell(self, text: str) -> None:
        """An answer has come."""
        with self._news:
            self.answers[text] += 1
            self._news.notify_all()

    def ask(self, body: str) -> str:
        """Send an SMS, again until it is taken, and wait for its answer, a text like no other."""
        self._number += 1
        self.commands += 1
        fields = sms_fields(self._number, body, sender=self.phone)
        signature = RequestValidator(TOKEN).compute_signature(f"{PUBLIC_URL}/sms", fields)
        headers = {"X-Twilio-Signature": signature}
        known = set(self.answers)
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while True:
            self.posts += 1
            with contextlib.suppress(httpx.TransportError):
                response = httpx.post(
                    f"{self._url}/sms", data=fields, headers=headers, timeout=ANSWER_TIMEOUT_S
                )
                if response.status_code == 200:
                    for text in texts(response):
                        self.tell(text)
                    break
            assert time.monotonic() < deadline, "the bridge takes nothing"
            time.sleep(0.1)
        with self._news:
            assert self._news.wait_for(
                lambda: len(set(self.answers) - known) > 0, deadline - time.monotonic()
            ), f"no answer to {fields['MessageSid']}, {body}"
            (text,) = set(self.answers) - known
        return text

    def get_to_know(self) -> None:
        """A first transfer, which takes a code: the others go without."""
        asked = self.ask(f"SEND {self.recipient} 1")
        self.ask(asked.rpartition(" ")[2])
        self.spent += 3
        self.sent += 1

    def run(self) -> None:
        try:
            while self.commands < COMMANDS_EACH:
                if self._random.random() < 0.5:
                    answer = self.ask("BAL")
                    self.spent += 1
                else:
                    answer = self.ask(f"SEND {self.recipient} 1")
                    # The amount, the fee and the command.
                    self.spent += 3
                    self.sent += 1
                assert answer.endswith(f"Balance: {CREDIT - self.spent} J"), answer
        except BaseException as error:
            self.error = error


@contextlib.contextmanager
def delivering(people: list[Person]) -> Iterator[tuple[StandInHttp, Counter[str]]]:
    """Twilio's REST interface: people get what the bridge sends them; others are counted."""
    by_phone = {person.phone: person for person in people}
    others: Counter[str] = Counter()
    rest = StandInHttp()

    def deliver(sent: Any) -> None:
        if sent.to in by_phone:
            by_phone[sent.to].tell(sent.text)
        else:
            others[sent.to] += 1

    rest.on_accept = deliver
    with rest.running():
        yield rest, others


def ask_node(path: Path, *requests: RequestBody) -> list[Any]:
    async def exchange() -> list[Any]:
        async with connect(path, software="test") as client:
            return [await client.request(request) for request in requests]

    return anyio.run(exchange, backend="trio")


def test_each_command_has_one_effect_whatever_is_killed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    people = [Person(number, url) for number in range(PEOPLE)]
    with delivering(people) as (rest, others):
        config = write_config(
            tmp_path,
            more=f"""
[bridges]
start = false
[bridges.twilio]
listen = "127.0.0.1:{port}"
public_url = "{PUBLIC_URL}"
account_sid = "{ACCOUNT}"
auth_token = "{TOKEN}"
sender = "{SENDER}"
api_url = "{rest.url}"
[sms]
countries = ["DE"]
daily_limit = "1000"
messages_per_day = 0
messages_per_number = 0
commands_per_minute = 0
commands_in_total = 0
""",
        )
        up = montana_command("up", "--json", "--config", str(config))
        node = Restarted(up, tmp_path / "node.log", _is_up)
        run = montana_command("bridge", "twilio", "--config", str(config))
        bridge = Restarted(run, tmp_path / "bridge.log", lambda _: _is_listening(url))
        socket = tmp_path / "data" / "node.sock"
        try:
            credits = [AccountCreditRequest(person.phone, str(CREDIT)) for person in people]
            creates = [AccountCreateRequest((person.phone,)) for person in people]
            ask_node(socket, *creates, *credits)
            for person in people:
                person.get_to_know()
            threads = [threading.Thread(target=person.run) for person in people]
            for thread in threads:
                thread.start()
            chance = random.Random(5)
            killed: Counter[str] = Counter()
            while killed.total() < KILLS:
                time.sleep(chance.uniform(0.05, 0.6))
                name, process = chance.choice([("node", node), ("bridge", bridge)])
                process.kill()
                process.start()
                killed[name] += 1
            for thread in threads:
                thread.join()
            for person in people:
                if person.error is not None:
                    raise person.error
            _wait_until(lambda: len(others) == PEOPLE)
            shown = ask_node(socket, *[AccountShowRequest(person.phone) for person in people])
            got = ask_node(socket, *[AccountShowRequest(person.recipient) for person in people])
            listed = _messages(socket)
            bridge.stop()
            node.stop()
        finally:
            for process in (node, bridge):
                process.kill()
    for person, account, recipient in zip(people, shown, got, strict=True):
        assert isinstance(account, AccountReply)
        assert float(account.balance) == CREDIT - person.spent
        assert float(recipient.balance) == person.sent
        # Each answer is like no other, so that one that was never sent is missed.
        assert len(person.answers) == person.commands
    commands = sum(person.commands for person in people)
    assert commands == PEOPLE * COMMANDS_EACH
    incoming = [one for one in listed if one["direction"] == "in"]
    assert len(incoming) == commands
    doubled = sum(person.answers.total() - len(person.answers) for person in people)
    posted_again = sum(person.posts - person.commands for person in people)
    # A crash doubles what was being answered: nothing of each person's but one answer.
    assert doubled <= KILLS * PEOPLE
    assert max(count for person in people for count in person.answers.values()) <= 1 + KILLS
    record_property("killed", dict(killed))
    record_property("doubled_answers", doubled)
    record_property("posted_again", posted_again)
    verified = run_montana("ledger", "verify", "--config", str(config), check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def _is_up(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "ready"


def _is_listening(url: str) -> None:
    def check() -> bool:
        try:
            return httpx.get(f"{url}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    _wait_until(check)


def _wait_until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while not check():
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.02)


def _messages(socket: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    before: list[str] = []
    while True:
        arguments = ("sms", "list", "--limit", "1000", "--json", *before)
        page = json.loads(run_montana(*arguments, "--socket", str(socket)).stdout)
        found += page["messages"]
        if page["next"] is None:
            return found
        before = ["--before", str(page["next"])]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
