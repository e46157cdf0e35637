"""`montana account` and `montana voucher`: through a node's socket, on a stopped node's files, and
beside a node that can't be asked."""

from __future__ import annotations

import errno
import json
import os
import pwd
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from billing.ledger import open_ledger
from core.api.framing import encode_frame
from core.api.messages import Failure, Reply, encode_message
from core.clock import SystemClock
from relay import cli, cli_shared
from tests.support.node import RunningNode, run_montana, running_node, write_config

ID = "0123456789abcdef" * 2


class Files:
    """Runs commands in this process, on the files of a node that does not run."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.socket = folder / "node.sock"
        self.ledger = folder / "ledger"
        self.capsys = capsys

    def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        with pytest.raises(SystemExit) as exited:
            cli.main([*words, "--socket", str(self.socket)])
        code = exited.value.code
        assert isinstance(code, int)
        return (code, *self.capsys.readouterr())

    def json(self, *words: str) -> dict[str, Any]:
        """What a command that succeeds says to programs."""
        code, printed, complaint = self.run(*words, "--json")
        assert code == 0, complaint
        assert len(printed.splitlines()) == 1
        document: dict[str, Any] = json.loads(printed)
        return document

    def balances(self) -> list[tuple[str, str, bool]]:
        """What every account has."""
        accounts = self.json("account", "list")["accounts"]
        return [(one["account"], one["balance"], one["closed"]) for one in accounts]


@pytest.fixture
def files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Files:
    open_ledger(tmp_path / "ledger", SystemClock()).close()
    return Files(tmp_path, capsys)


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    with running_node(more='[billing]\nwelcome = "5"\ndefault_region = "DE"') as running:
        yield running


def ask(node: RunningNode, *words: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(node.command(*words, "--json"))
    return document


# ---------------------------------------------------------------- through the socket


def test_a_running_node_is_asked(node: RunningNode) -> None:
    alice = ask(node, "account", "create", "user:alice", "030 123456")
    assert alice == {
        "account": alice["account"],
        "addresses": ["user:alice", "+4930123456"],
        "currency": "J",
        "balance": "5.000000",
        "held": "0.000000",
        "available": "5.000000",
        "balances": [
            {
                "currency": "J",
                "balance": "5.000000",
                "held": "0.000000",
                "reserved": "0.000000",
                "available": "5.000000",
            },
            {
                "currency": "EMC",
                "balance": "0.00000000",
                "held": "0.00000000",
                "reserved": "0.00000000",
                "available": "0.00000000",
            },
        ],
        "frozen": False,
        "closed": False,
        "merged_into": None,
        "opened": alice["opened"],
    }
    assert ask(node, "account", "show", alice["account"]) == alice
    assert ask(node, "account", "show", "(030) 12 34 56") == alice
    bob = ask(node, "account", "create", "user:bob")["account"]

    credit = ask(node, "account", "credit", "user:alice", "10", "--id", ID)
    assert ask(node, "account", "credit", "user:alice", "10", "--id", ID.upper()) == credit
    assert ask(node, "account", "show", "user:alice")["balance"] == "15.000000"
    paid = ask(node, "account", "transfer", "user:alice", f"#{bob}", "2.5")
    assert ask(node, "account", "refund", paid["id"], "1")["amount"] == "1.000000"
    assert ask(node, "account", "show", bob)["balance"] == "6.500000"

    lines = ask(node, "account", "history", "user:alice", "--limit", "3")
    assert [(line["amount"], line["purpose"]) for line in lines["lines"]] == [
        ("1.000000", "refund"),
        ("-2.500000", "operator"),
        ("10.000000", "credit"),
    ]
    older = ask(node, "account", "history", "user:alice", "--before", str(lines["next"]))
    assert [line["purpose"] for line in older["lines"]] == ["welcome"]

    (code,) = ask(node, "voucher", "create", "7", "--currency", "EMC")["codes"]
    assert ask(node, "voucher", "redeem", code, bob)["amount"] == "7.00000000"
    assert ask(node, "account", "freeze", bob)["frozen"]
    assert not ask(node, "account", "unfreeze", bob)["frozen"]
    merged = ask(node, "account", "link", "user:alice", "user:bob")
    assert (merged["balance"], merged["balances"][1]["balance"]) == ("20.000000", "7.00000000")
    assert ask(node, "account", "unlink", "user:alice", "user:bob")["addresses"] == [
        "user:alice",
        "+4930123456",
    ]
    assert ask(node, "account", "show", bob)["merged_into"] == alice["account"]


def test_what_the_node_refuses_is_a_sentence(node: RunningNode) -> None:
    ask(node, "account", "create", "user:poor")
    for words, sentence in (
        (("account", "transfer", "user:poor", "node", "6"), "there is not enough on the account"),
        (("account", "transfer", "user:poor", "user:poor", "1"), "from one account to another"),
        (("account", "credit", "user:poor", "٣"), "an amount is a number such as 12"),
        (("account", "credit", "user:poor", "0.0000001"), "6 decimal places"),
        (("account", "show", "user:nobody"), "there is no account user:nobody"),
        (("account", "create", "user:poor"), "belongs to an account already"),
        (("account", "show", "x" * 200), "length <= 128"),
        (("voucher", "redeem", "A" * 20, "user:poor"), "there is no voucher with this code"),
    ):
        result = run_montana(*words, "--socket", str(node.socket), check=False)
        assert (result.returncode, result.stdout) == (1, ""), words
        assert sentence in result.stderr
        assert result.stderr.startswith("Error: ")
        assert "Traceback" not in result.stderr
    assert ask(node, "account", "show", "user:poor")["balance"] == "5.000000"


def test_what_no_node_would_read_is_not_asked(node: RunningNode) -> None:
    for words, code, sentence in (
        (("voucher", "redeem", "A" * 100_000, "6"), 1, "length <= 128"),
        (("account", "credit", "x" * 129, "1"), 1, "length <= 128"),
        (("account", "credit", "6", "1" * 129, "--id", ID), 1, "length <= 128"),
        (("account", "credit", b"\xff", "1"), 2, "no UTF-8 text"),
        (("credentials", b"\xff"), 2, "no UTF-8 text"),
        (("end", ""), 1, "length >= 1"),
        (("end", b"\xff"), 2, "no UTF-8 text"),
    ):
        shown = [
            word.decode(errors="surrogateescape") if isinstance(word, bytes) else word
            for word in words
        ]
        result = run_montana(*shown, "--socket", str(node.socket), check=False)
        assert (result.returncode, result.stdout) == (code, ""), words
        assert sentence in result.stderr
        assert "may have been done" not in result.stderr
        assert "Traceback" not in result.stderr


def test_what_a_node_refuses_unread_has_not_been_done(files: Files) -> None:
    refusal = encode_frame(encode_message(Reply(0, Failure("another version"))))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(files.socket))
        other.listen()

        def refuse() -> None:
            with other.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(refusal)

        refusing = threading.Thread(target=refuse)
        refusing.start()
        code, _, complaint = files.run("account", "credit", "6", "1", "--id", ID)
        refusing.join()
    assert (code, complaint) == (1, "Error: the node refused: another version\n")


def test_a_node_and_its_files_tell_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path)
    files = Files(tmp_path / "data", capsys)
    with running_node(config=config) as node:
        ask(node, "account", "create", "user:alice")
        ask(node, "account", "credit", "user:alice", "10", "--id", ID)
        shown, history = (ask(node, "account", what, "6") for what in ("show", "history"))
    assert files.json("account", "show", "6") == shown
    assert files.json("account", "history", "6") == history
    files.json("account", "credit", "user:alice", "10", "--id", ID)
    files.json("account", "credit", "user:alice", "0.5")
    printed = run_montana("account", "show", "6", "--json", "--config", str(config)).stdout
    with running_node(config=config) as node:
        after = ask(node, "account", "show", "6")
    assert after == json.loads(printed)
    assert after["balance"] == "10.500000"


def test_files_beside_a_running_node_are_left_alone(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with running_node(config=config) as node:
        ask(node, "account", "create", "user:alice")
        hidden = node.socket.with_name("elsewhere")
        node.socket.rename(hidden)
        result = run_montana("account", "credit", "6", "1", "--config", str(config), check=False)
        assert (result.returncode, result.stdout) == (1, "")
        assert f"in use by another process ({node.pid})" in result.stderr
        assert "ask it through its socket" in result.stderr
        assert "Traceback" not in result.stderr
        hidden.rename(node.socket)
        assert ask(node, "account", "show", "6")["balance"] == "0.000000"


# ---------------------------------------------------------------- on files


def test_without_a_node_or_a_ledger_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = Files(tmp_path, capsys)
    for is_folder in (False, True):
        if is_folder:
            files.ledger.mkdir()
        code, printed, complaint = files.run("account", "list")
        assert (code, printed) == (1, "")
        assert "there is no ledger in" in complaint
        assert list(tmp_path.rglob("*")) == [files.ledger] * is_folder


def test_another_users_files_are_left_alone(
    files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = files.ledger.parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    name = pwd.getpwuid(os.geteuid()).pw_name
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    code, printed, complaint = files.run("account", "create", "user:alice")
    assert (code, printed) == (1, "")
    assert f"belong to {name}, and" in complaint
    assert f"sudo -u {name} montana account create ..." in complaint
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    assert f"sudo -u '#{folder.stat().st_uid}' montana" in files.run("account", "list")[2]


def test_a_folder_that_is_closed_to_us_is_a_sentence(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "geteuid", lambda: files.ledger.stat().st_uid + 1)
    monkeypatch.setattr(Path, "exists", refuse)
    for words in (("account", "list"), ("status",), ("ledger", "restore", "x")):
        assert f"montana {' '.join(words[:2])} ..." in files.run(*words)[2]


def test_a_dead_nodes_socket_is_no_node(files: Files) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(files.socket))
    assert files.socket.is_socket()
    assert files.json("account", "create", "user:alice")["account"] == "6"


def test_a_node_that_says_nothing_is_not_gone_round(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.json("account", "create", "user:alice")
    monkeypatch.setattr(cli_shared, "ANSWER_TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(files.socket))
        deaf.listen()
        code, _, complaint = files.run("account", "credit", "6", "1", "--id", ID)
        assert code == 1
        assert f"the same command with --id {ID} does it once at most" in complaint
        code, _, complaint = files.run("account", "credit", "6", "1")
        assert re.search(r"with --id [0-9a-f]{32} does it once", complaint)
        code, _, complaint = files.run("account", "show", "6")
        assert "has not answered" in complaint
        assert "--id" not in complaint
    files.socket.unlink()
    assert files.json("account", "show", "6")["balance"] == "0.000000"


def test_a_connection_that_breaks_leaves_the_id_to_ask_again(files: Files) -> None:
    with socket.socket(socket.AF_UNIX) as rude:
        rude.bind(str(files.socket))
        rude.listen()
        hang_up = threading.Thread(target=lambda: rude.accept()[0].close())
        hang_up.start()
        code, _, complaint = files.run("account", "credit", "6", "1", "--id", ID)
        hang_up.join()
    assert code == 1
    assert f"--id {ID} does it once" in complaint


def test_a_held_ledger_is_not_opened(files: Files) -> None:
    with open_ledger(files.ledger, SystemClock()):
        code, printed, complaint = files.run("account", "create")
    assert (code, printed) == (1, "")
    assert f"in use by another process ({os.getpid()})" in complaint
    assert files.json("account", "create")["account"] == "6"


def test_the_whole_of_it_on_files(files: Files) -> None:
    files.json("account", "create", "user:alice", "tg:1")
    files.json("account", "create", "user:bob")
    files.json("account", "credit", "user:alice", "10")
    paid = files.json("account", "transfer", "user:alice", "7", "4", "--id", ID)
    assert paid == {
        "id": ID,
        "debit": "6",
        "credit": "7",
        "amount": "4.000000",
        "currency": "J",
        "fee": "0.000000",
    }
    assert files.json("account", "transfer", "user:alice", "7", "4", "--id", ID) == paid
    assert files.json("account", "refund", ID)["amount"] == "4.000000"
    codes = files.json("voucher", "create", "3", "--count", "10")["codes"]
    assert len(set(codes)) == 10
    files.json("voucher", "redeem", codes[0].lower(), "user:bob")
    files.json("voucher", "redeem", codes[0], "user:bob")
    assert files.balances()[5:] == [("6", "10.000000", False), ("7", "3.000000", False)]
    files.json("account", "transfer", "7", "6", "3")
    assert files.json("account", "close", "7")["closed"]
    pages = [files.json("account", "list", "--limit", "4")]
    pages.append(files.json("account", "list", "--from", str(pages[0]["next"])))
    numbers = [one["account"] for page in pages for one in page["accounts"]]
    assert numbers == [str(number) for number in range(1, 8)]
    assert pages[1]["next"] is None


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("account", "credit", "6"), 2, "AMOUNT is missing."),
        (("account", "transfer", "6"), 2, "TO is missing."),
        (("account", "credit", "6", "-5"), 2, "There is no option -5."),
        (("account", "credit", "6", "--", "-5"), 1, "an amount is a number"),
        (("account", "credit", "6", "1", "--id", "12"), 2, "--id: 32 hexadecimal digits."),
        (("account", "credit", "6", "1", "--id", "0" * 32), 1, "not all of them zero"),
        (("account", "credit", "6", "1", "--currency", "USD"), 1, "there are J, EMC"),
        (("account", "credit", "99", "1"), 1, "there is no account #99"),
        (("account", "credit", "tg:5", "1"), 1, "there is no account tg:5"),
        (("account", "credit", "alice", "1"), 1, "is no address; write tg:123"),
        (("account", "credit", "x" * 129, "1"), 1, "length <= 128"),
        (("account", "credit", "\udcff", "1"), 2, "no UTF-8 text"),
        (("account", "refund", "12"), 2, "TRANSFER: 32 hexadecimal digits."),
        (("account", "refund", ID), 1, f"there is no transfer {ID}"),
        (("account", "history", "6", "--limit", "0"), 2, "--limit: a whole number from 1 to 1000."),
        (("account", "history", "6", "--limit", "1001"), 2, "--limit: a whole number"),
        (("account", "history", "6", "--before", "x"), 2, "--before: a whole number."),
        (("account", "history", "6", "--before", "9999999"), 1, "no line at this place"),
        (("account", "list", "--from", str(2**32)), 1, "<= 4294967295"),
        (("account", "link", "6", "node"), 1, "node is the ledger's own"),
        (("account", "unlink", "6", "tg:5"), 1, "tg:5 is no address of this account"),
        (("account", "freeze", "node"), 1, "one of the ledger's own accounts"),
        (("voucher", "create", "5", "--count", "1001"), 2, "--count: a whole number"),
        (("voucher", "redeem", "AAAAA", "6"), 1, "has 20 letters and digits"),
        (("account", "credits"), 2, "Did you mean credit?"),
    ],
)
def test_mistakes_are_sentences_and_change_nothing(
    files: Files, words: tuple[str, ...], code: int, sentence: str
) -> None:
    files.json("account", "create", "user:alice")
    before = files.balances()
    # A "--" ends the options, and --socket is one.
    at = words.index("--") if "--" in words else len(words)
    with pytest.raises(SystemExit) as exited:
        cli.main([*words[:at], "--socket", str(files.socket), *words[at:]])
    printed, complaint = files.capsys.readouterr()
    assert (exited.value.code, printed) == (code, "")
    assert sentence in complaint
    assert complaint.startswith("Error: ")
    assert files.balances() == before


def test_tables_for_people(files: Files) -> None:
    files.json("account", "create", "user:alice", "tg:1")
    files.json("account", "credit", "user:alice", "12.5")
    files.json("account", "credit", "user:alice", "0.25", "--currency", "EMC")
    _, printed, _ = files.run("account", "show", "user:alice")
    assert [line.split() for line in printed.splitlines()[:6]] == [
        ["account", "#6"],
        ["addresses", "user:alice"],
        ["tg:1"],
        ["balance", "12.5", "Ɉ"],
        ["available", "12.5", "Ɉ"],
        ["balance", "0.25", "EMC"],
    ]
    _, printed, _ = files.run("account", "transfer", "user:alice", "node", "2.5", "--id", ID)
    assert [line.split() for line in printed.splitlines()] == [
        ["transfer", ID],
        ["from", "#6"],
        ["to", "#4"],
        ["amount", "2.5", "Ɉ"],
    ]
    _, printed, _ = files.run("account", "history", "6")
    head, *lines = printed.splitlines()
    assert head.split() == ["time", "(UTC)", "amount", "with", "what", "for", "id"]
    assert re.fullmatch(
        rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d +-2\.5 Ɉ  node +operator's transfer +{ID}", lines[0]
    )
    assert re.fullmatch(r".{19}  \+0\.25 EMC  issue +credit +[0-9a-f]{32}", lines[1])
    assert len({line.index("issue") for line in lines[1:]}) == 1
    _, printed, remark = files.run("account", "list", "--limit", "5")
    assert printed.splitlines()[4].split() == ["#4", "2.5", "Ɉ", "2.5", "Ɉ", "node"]
    assert remark == "There is more: --from 6\n"
    _, printed, remark = files.run("voucher", "create", "5", "--count", "2")
    assert all(re.fullmatch(r"[A-Z2-7-]{23}", line) for line in printed.splitlines())
    assert "2 of 5 Ɉ each" in remark


def test_people_who_read_russian(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.json("account", "create", "user:alice")
    files.json("account", "credit", "6", "10")
    monkeypatch.setenv("LC_ALL", "ru_RU.UTF-8")
    _, printed, _ = files.run("account", "show", "6")
    assert printed.splitlines()[2].split() == ["баланс", "10", "Ɉ"]
    _, printed, _ = files.run("account", "history", "6")
    assert "+10 Ɉ" in printed
    assert "зачисление" in printed
    code, _, complaint = files.run("account", "history", "6", "--limit", "x")
    assert (code, complaint.startswith("Ошибка: --limit: целое число от 1 до 1000")) == (2, True)
