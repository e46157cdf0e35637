"""`montana account statement`: its sums, pages, and what arrives while they are read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from billing.charging import Charging
from billing.desk import Desk
from billing.ledger import ISSUE, NODE, LmdbLedger, open_ledger
from billing.money import EMC, J
from billing.tariff import Line
from billing.transfers import Kind, Transfer, new_id
from core.api.messages import AccountHistoryRequest
from core.clock import VirtualClock
from core.config import BillingConfig
from core.errors import OperationError
from relay import cli, cli_statement
from tests.support.node import RunningNode, running_node

TURN = Line("turn", J.unit, 0, NODE)


class Account:
    """A ledger in this process, with #6 and #7, and the command run on it without a node."""

    def __init__(self, ledger: LmdbLedger, clock: VirtualClock) -> None:
        self.ledger = ledger
        self.clock = clock
        self.desk = Desk(ledger, clock, BillingConfig())
        self.charging = Charging(ledger)
        for _ in range(2):
            trio.run(ledger.open_account)
        self.pages = 0

    def pay(self, debit: int, credit: int, amount: int, **more: Any) -> bytes:
        """A transfer, a second after what was before."""
        self.clock.advance_s(1)
        one = Transfer(new_id(self.clock), debit, credit, amount, **more)
        (result,) = trio.run(self.ledger.transfer, [one])
        assert result.is_done
        return one.id

    def answer(self, request: Any, *_: object) -> Any:
        """Instead of asking a node."""
        self.pages += 1
        return trio.run(self.desk.answer, request)


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    clock = VirtualClock()
    with open_ledger(tmp_path, clock, map_bytes=1 << 26) as ledger:
        one = Account(ledger, clock)
        monkeypatch.setattr(cli_statement, "answer", one.answer)
        yield one


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    with running_node() as running:
        yield running


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exited:
        cli.main(["account", "statement", *words])
    assert isinstance(exited.value.code, int)
    return (exited.value.code, *capsys.readouterr())


def read(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """A statement whose sums agree."""
    code, printed, complaint = run(capsys, *words, "--json")
    assert code == 0, complaint
    document: dict[str, Any] = json.loads(printed)
    assert_agrees(document)
    return document


def assert_agrees(document: dict[str, Any]) -> None:
    def units(text: str) -> int:
        return int(text.replace(".", ""))

    assert list(document) == [
        *("account", "currency", "since", "until", "opening", "closing", "in", "out", "lines")
    ]
    balance = units(document["opening"])
    for line in document["lines"]:
        balance += units(line["amount"])
        assert units(line["balance"]) == balance
    assert balance == units(document["closing"])
    assert balance == units(document["opening"]) + units(document["in"]) - units(document["out"])
    assert [line["time"] for line in document["lines"]] == sorted(
        line["time"] for line in document["lines"]
    )


def test_a_statement_goes_from_the_first_line_to_the_last(
    account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    account.pay(ISSUE, 6, 100 * J.unit)
    account.pay(ISSUE, 6, 5, currency=EMC.number)
    account.pay(6, 7, 30 * J.unit)
    account.pay(7, 6, J.unit)
    made = read(capsys, "6")
    assert [(line["amount"], line["balance"]) for line in made["lines"]] == [
        ("100.000000", "100.000000"),
        ("-30.000000", "70.000000"),
        ("1.000000", "71.000000"),
    ]
    del made["lines"]
    assert made == {
        "account": "6",
        "currency": "J",
        "since": None,
        "until": None,
        "opening": "0.000000",
        "closing": "71.000000",
        "in": "101.000000",
        "out": "30.000000",
    }
    other = read(capsys, "6", "--currency", "EMC")
    assert (other["opening"], other["closing"], other["in"]) == (
        *("0.00000000", "0.00000005", "0.00000005"),
    )
    assert len(other["lines"]) == 1
    # What others pay with may be less than nothing.
    assert read(capsys, "issue")["closing"] == "-100.000000"
    empty = read(capsys, "fees")
    assert (empty["closing"], empty["lines"]) == ("0.000000", [])


def test_a_statement_of_a_time(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    # At 08:00:01, :02 ... on that day.
    for amount in (1, 2, 4, 8, 16):
        account.pay(ISSUE, 6, amount * J.unit)
    day = "2027-01-15T08:00:0"
    made = read(capsys, "6", "--since", f"{day}2", "--until", f"{day}4Z")
    assert (made["since"], made["until"]) == (f"{day}2.000Z", f"{day}4.000Z")
    assert (made["opening"], made["closing"]) == ("1.000000", "7.000000")
    assert [line["amount"] for line in made["lines"]] == ["2.000000", "4.000000"]
    before = read(capsys, "6", "--until", "2027-01-15")
    assert (before["opening"], before["closing"], before["lines"]) == ("0.000000", "0.000000", [])
    after = read(capsys, "6", "--since", "2028-01-01")
    assert (after["opening"], after["closing"], after["lines"]) == ("31.000000", "31.000000", [])
    whole = read(capsys, "6", "--since", "1970-01-01", "--until", "2100-01-01")
    assert (whole["opening"], whole["closing"], len(whole["lines"])) == (
        *("0.000000", "31.000000", 5),
    )


@pytest.mark.parametrize("lines", [1, 3, 10, 11])
def test_a_statement_of_many_pages(
    account: Account,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    lines: int,
) -> None:
    for amount in range(1, 11):
        account.pay(ISSUE, 6, amount)
    monkeypatch.setattr(cli_statement, "PAGE_LINES", lines)
    made = read(capsys, "6")
    assert [line["amount"] for line in made["lines"]] == [
        f"0.{amount:06}" for amount in range(1, 11)
    ]
    # A page that is full may be the last one.
    assert account.pages == {1: 11, 3: 4, 10: 2, 11: 1}[lines]
    account.pages = 0
    made = read(capsys, "6", "--since", "2027-01-15T08:00:10")
    assert (made["opening"], made["closing"]) == ("0.000045", "0.000055")
    assert account.pages == {1: 2}.get(lines, 1)


def test_what_arrives_while_pages_are_read_is_no_part_of_it(
    account: Account, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trio.run(account.ledger.link, 6, "user:alice")
    for amount in range(1, 11):
        account.pay(ISSUE, 6, amount)

    def answer(*asked: Any) -> Any:
        reply = account.answer(*asked)
        account.pay(ISSUE, 6, 1000)
        account.pay(6, 7, 500)
        if account.pages == 1:
            # Its address is another's, too.
            trio.run(account.ledger.unlink, 6, "user:alice")
            trio.run(account.ledger.link, 7, "user:alice")
        return reply

    monkeypatch.setattr(cli_statement, "PAGE_LINES", 4)
    monkeypatch.setattr(cli_statement, "answer", answer)
    made = read(capsys, "user:alice")
    assert account.pages == 3
    assert (made["account"], made["opening"], made["closing"]) == ("6", "0.000000", "0.000055")
    assert len(made["lines"]) == 10


def test_a_pending_transfer_does_not_count(
    account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    account.pay(ISSUE, 6, 100)
    posted = account.pay(6, 7, 10, kind=Kind.PENDING)
    voided = account.pay(6, 7, 20, kind=Kind.PENDING)
    account.pay(6, 7, 40, kind=Kind.PENDING)
    account.pay(0, 0, 4, kind=Kind.POST_PENDING, reference=posted)
    account.pay(0, 0, 0, kind=Kind.VOID_PENDING, reference=voided)
    for number, closing in (("6", "0.000096"), ("7", "0.000004")):
        made = read(capsys, number)
        assert (made["opening"], made["closing"]) == ("0.000000", closing)
        assert [line["kind"] for line in made["lines"]] == (
            ["transfer", "posted"] if number == "6" else ["posted"]
        )


def test_a_session_is_a_line_when_it_has_ended(
    account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    account.pay(ISSUE, 6, 100 * J.unit)
    opened = trio.run(account.charging.open, "call", TURN, 6)
    assert opened is not None
    slots = np.array([opened.info.slot], np.uint32)

    def tick(seconds: int, closing: dict[int, str]) -> None:
        account.clock.advance_s(1)
        counted = np.array([seconds], np.uint64)
        trio.run(account.charging.tick, slots, counted, counted, closing)

    read(capsys, "6")
    tick(7, {})
    account.pay(6, 7, 20 * J.unit)
    assert account.ledger.balance(6, J).posted == 73 * J.unit
    running = read(capsys, "6")
    assert (running["opening"], running["closing"]) == ("0.000000", "80.000000")
    tick(10, {opened.info.slot: "the client left"})
    ended = read(capsys, "6")
    assert (ended["opening"], ended["closing"]) == ("0.000000", "70.000000")
    last = ended["lines"][-1]
    assert (last["kind"], last["amount"], last["session"]["seconds"]) == (
        *("session", "-10.000000", 10),
    )
    for number in ("node", "burn"):
        code, printed, complaint = run(capsys, number)
        assert (code, printed) == (1, "")
        assert "no statement would add up" in complaint


def test_a_session_that_passes_to_another_payer_adds_up(
    account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    trio.run(account.ledger.link, 7, "tg:1")
    account.pay(ISSUE, 6, 100 * J.unit)
    account.pay(ISSUE, 7, 50 * J.unit)
    opened = trio.run(account.charging.open, "call", TURN, 7)
    assert opened is not None
    slots = np.array([opened.info.slot], np.uint32)
    for seconds in (3, 8):
        counted = np.array([seconds], np.uint64)
        trio.run(account.charging.tick, slots, counted, counted, {})
        if seconds == 3:
            trio.run(account.ledger.link, 6, "tg:1")
    assert account.ledger.balance(6, J).posted == (100 + 50 - 8) * J.unit
    for number, closing in (("6", "147.000000"), ("7", "0.000000")):
        made = read(capsys, number)
        assert (made["opening"], made["closing"]) == ("0.000000", closing)


def test_a_statement_of_a_node_that_runs_and_of_its_files(
    node: RunningNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node.command("account", "create", "user:alice")
    for amount in ("10", "2.5"):
        node.command("account", "credit", "user:alice", amount)
    made = json.loads(node.command("account", "statement", "user:alice", "--json"))
    assert_agrees(made)
    assert (made["closing"], len(made["lines"])) == ("12.500000", 2)

    where = ("--socket", str(tmp_path / "node.sock"))
    with open_ledger(tmp_path / "ledger", VirtualClock(), map_bytes=1 << 26) as ledger:
        one = Account(ledger, VirtualClock())
        for micro in (3, 4):
            one.pay(ISSUE, 6, micro)
    made = read(capsys, "6", *where)
    assert (made["opening"], made["closing"], len(made["lines"])) == ("0.000000", "0.000007", 2)


@pytest.mark.parametrize(
    ("language", "names"),
    [
        ("en_US.UTF-8", ["account", "at first", "came", "went", "at the end"]),
        ("ru_RU.UTF-8", ["счёт", "в начале", "приход", "расход", "в конце"]),
    ],
)
def test_a_statement_for_people(
    account: Account,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    language: str,
    names: list[str],
) -> None:
    account.pay(ISSUE, 6, 100 * J.unit)
    paid = account.pay(6, 7, 30 * J.unit)
    monkeypatch.setenv("LC_ALL", language)
    code, printed, _ = run(capsys, "6")
    head, _, table = printed.partition("\n\n")
    assert code == 0
    shown = [line.rsplit("  ", 1) for line in head.splitlines()]
    assert [name.strip() for name, _ in shown] == names
    assert [value for _, value in shown] == ["#6", "0 Ɉ", "100 Ɉ", "30 Ɉ", "70 Ɉ"]
    last = table.splitlines()[-1]
    assert last.split()[:7] == ["2027-01-15", "08:00:02", "-30", "Ɉ", "70", "Ɉ", "#7"]
    assert last.endswith(paid.hex())


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("9",), 1, "there is no account #9"),
        (("6", "--since", "yesterday"), 2, "--since: a date or a time"),
        (("6", "--until", "2027-13-01"), 2, "--until: a date or a time"),
        (("6", "--currency", "USD"), 1, "there are J, EMC"),
    ],
)
def test_mistakes_in_a_statement_are_sentences(
    account: Account,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: int,
    sentence: str,
) -> None:
    exit_code, printed, complaint = run(capsys, *words)
    assert (exit_code, printed) == (code, "")
    assert sentence in complaint


def test_a_page_before_another_tells_no_balance(account: Account) -> None:
    for _ in range(3):
        account.pay(ISSUE, 6, 1)
    request = AccountHistoryRequest("6", None, 2)
    first = account.answer(request)
    assert first.settled == {"J": "0.000003", "EMC": "0.00000000"}
    second = account.answer(AccountHistoryRequest("6", first.next, 2))
    assert second.settled is None
    with pytest.raises(OperationError):
        account.answer(AccountHistoryRequest("7", first.next, 2))
