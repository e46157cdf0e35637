"""`montana ledger`: on a running node and on a stopped one's files; jobs, and what a node does with
its ledger by itself."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from billing.journal import LOG, entry_key
from billing.ledger import LmdbLedger
from billing.receipts import Signer, SigningUnavailable, origin_of, sign_root
from core.api.client import connect
from core.api.messages import (
    BackupJob,
    BackupResult,
    ExportJob,
    ExportResult,
    JobAskRequest,
    JobReply,
    JobResult,
    JobStartRequest,
    ReplyBody,
    RequestBody,
    VerifyJob,
)
from core.api.server import ApiServer
from core.clock import VirtualClock
from core.errors import OperationError
from core.identity import FILE_NAME, load_or_create
from core.store_files import DATA_FILE
from relay import cli, jobs, upkeep
from relay.cli_audit import BACKUP_FOLDER
from relay.jobs import LEASE_S, SPOOL_FOLDER, Jobs
from relay.upkeep import Upkeep
from tests.support.node import running_node, write_config
from tests.support.small_ledger import Life, open_small

PAGE_BYTES = 4096
RECORDS = 17
"""Of sessions that were closed; three more live on until a node starts."""


def make_ledger(data: Path, *, signed: bool = True) -> None:
    """The files of a node that has had some of everything, and doesn't run."""
    node_key = load_or_create(data)
    clock = VirtualClock()

    async def live() -> None:
        with open_small(data / "ledger", clock) as ledger:
            await Life(ledger, clock).live()
            if signed:
                await sign_root(ledger, origin_of(node_key), Signer(node_key))

    trio.run(live)


class Terminal:
    """Runs commands in this process, on what is in a data directory or runs there."""

    def __init__(self, data: Path, capsys: pytest.CaptureFixture[str], *, runs: bool) -> None:
        self.data = data
        self.socket = data / "node.sock"
        self.capsys = capsys
        self.runs = runs

    def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        where = () if words[0] == "check-proof" else ("--socket", str(self.socket))
        with pytest.raises(SystemExit) as exited:
            cli.main(["ledger", *words, *where])
        code = exited.value.code
        assert isinstance(code, int)
        captured = self.capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    def json(self, *words: str, code: int = 0) -> dict[str, Any]:
        """What a command says to programs."""
        ended, printed, complaint = self.run(*words, "--json")
        assert ended == code, complaint
        assert len(printed.splitlines()) == 1
        document: dict[str, Any] = json.loads(printed)
        return document

    def refusal(self, *words: str, code: int = 1) -> str:
        """Why a command can't be done."""
        ended, printed, complaint = self.run(*words)
        assert (ended, printed) == (code, "")
        assert complaint.startswith("Error: ")
        return complaint

    def records(self, *words: str) -> list[dict[str, Any]]:
        """The records of an export."""
        code, printed, _ = self.run("export", "--format", "jsonl", *words)
        assert code == 0
        return [json.loads(line) for line in printed.splitlines()]


@pytest.fixture(scope="module", params=["node", "files"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, bool]]:
    """A data directory, and whether a node runs there."""
    folder = tmp_path_factory.mktemp("world")
    make_ledger(folder / "data")
    with contextlib.ExitStack() as stack:
        if request.param == "node":
            stack.enter_context(running_node(config=write_config(folder)))
        yield folder / "data", request.param == "node"


@pytest.fixture
def terminal(world: tuple[Path, bool], capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(world[0], capsys, runs=world[1])


@pytest.fixture
def stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Terminal:
    """A ledger of this test's own."""
    make_ledger(tmp_path / "data")
    return Terminal(tmp_path / "data", capsys, runs=False)


# ---------------------------------------------------------------- on a node and on files


def test_verify(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    found = terminal.json("verify")
    assert found["ok"] is True
    assert found["problems"] == []
    assert found["records"] == RECORDS + 3 * terminal.runs
    assert len(bytes.fromhex(found["link"])) == 32
    assert set(found) == {
        "ok",
        "entries",
        "accounts",
        "transfers",
        "records",
        "problems",
        "problem_count",
        "sealed",
        "signers",
        "unsigned_roots",
        "unchecked_signatures",
        "link",
    }
    assert found["signers"] == [origin_of(load_or_create(terminal.data))]
    assert terminal.json("verify", "--link", found["link"].upper())["ok"] is True
    changed = terminal.json("verify", "--link", "0" * 64, code=1)
    assert "is none of the chain's" in changed["problems"][0]
    code, printed, complaint = terminal.run("verify")
    assert (code, complaint) == (0, "")
    assert f"records of sessions  {found['records']}\n" in printed
    assert printed.endswith("All is as the log says.\n")
    monkeypatch.setenv("LC_ALL", "ru_RU.UTF-8")
    assert terminal.run("verify")[1].endswith("Всё так, как говорит журнал.\n")


def test_backup_and_restore(terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    made = terminal.json("backup", str(file))
    assert (made["path"], made["size_bytes"]) == (str(file), file.stat().st_size)
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_bytes()
    assert "is there already; name a new file" in terminal.refusal("backup", str(file))
    assert file.read_bytes() == before

    other = Terminal(tmp_path / "other", terminal.capsys, runs=False)
    restored = other.json("restore", str(file))
    assert restored["path"] == str(other.data / "ledger")
    assert restored["link"] == made["link"]
    verified = other.json("verify")
    assert (verified["ok"], verified["link"]) == (True, made["link"])
    assert other.records() == terminal.records()
    code, printed, _ = terminal.run("backup", str(tmp_path / "second"))
    assert code == 0
    assert str(tmp_path / "second") in printed


def test_a_backup_that_cannot_be_written(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "No such file" in terminal.refusal("backup", str(tmp_path / "nowhere" / "backup"))
    assert "Not a directory" in terminal.refusal("backup", str(tmp_path / "file" / "backup"))
    assert "too long" in terminal.refusal("backup", str(tmp_path / ("x" * 300)))
    assert "FILE: a path of 4096" in terminal.refusal("backup", "x" * 5000, code=2)
    assert "no UTF-8 text" in terminal.refusal("backup", "\udcff", code=2)
    assert terminal.json("verify")["ok"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("form", ["csv", "jsonl", "cloudevents"])
def test_export(terminal: Terminal, tmp_path: Path, form: str) -> None:
    count = RECORDS + 3 * terminal.runs
    code, printed, said = terminal.run("export", "--format", form)
    assert (code, said) == (0, f"records: {count}\n")
    file = tmp_path / "records"
    assert terminal.json("export", "--format", form, "--output", str(file)) == {
        "records": count,
        "path": str(file),
    }
    assert file.read_text() == printed
    assert file.stat().st_mode & 0o777 == 0o600
    assert "is there already" in terminal.refusal("export", "--output", str(file))
    assert file.read_text() == printed
    assert [path.name for path in tmp_path.iterdir()] == ["records"]
    assert not list(terminal.data.rglob("*export*"))
    if form == "csv":
        rows: list[Any] = list(csv.DictReader(printed.splitlines()))
    else:
        rows = [json.loads(line) for line in printed.splitlines()]
    if form == "cloudevents":
        origin = origin_of(load_or_create(terminal.data))
        assert {row["source"] for row in rows} == {f"/{origin}"}
        rows = [row["data"] for row in rows]
    assert len({row["id"] for row in rows}) == count
    assert rows[0]["cost"] == "4.000000"


def test_export_of_what_was_closed_since(terminal: Terminal) -> None:
    everything = terminal.records()
    moments = sorted({record["closed"] for record in everything})
    assert terminal.records("--since", moments[0]) == everything
    later = terminal.records("--since", moments[1])
    assert later == [record for record in everything if record["closed"] >= moments[1]]
    assert 0 < len(later) < len(everything)
    assert terminal.records("--since", "1970-01-01") == everything
    assert terminal.records("--since", "9999-12-31") == []
    code, printed, said = terminal.run("export", "--since", "9999-12-31", "--json")
    assert (code, len(printed.splitlines())) == (0, 1)
    assert json.loads(said.splitlines()[-1]) == {"records": 0, "path": None}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("export", "--format", "xml"), "--format: csv, jsonl or cloudevents."),
        (("export", "--since", "yesterday"), "--since: a date or a time such as 2026-11-01"),
        (("export", "--since", "٢٠٢٦-11-01"), "--since: a date or a time"),
        (("prove",), "RECORD is missing."),
        (("verify", "--link", "12"), "--link: a link is 64 hexadecimal digits"),
        (("check-proof", "x", "--public-key", "12"), "--public-key: 3904 hexadecimal digits."),
        (("check-proof", "x", "--public-key", "x" * 3904), "--public-key: 3904 hexadecimal"),
        (("restores",), "Did you mean restore?"),
    ],
)
def test_what_is_typed_wrongly(terminal: Terminal, words: tuple[str, ...], sentence: str) -> None:
    assert sentence in terminal.refusal(*words, code=2)


def test_a_record_is_proved_and_the_proof_checked(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = terminal.records()[5]
    file = tmp_path / "proof.json"
    made = terminal.json("prove", record["id"].upper(), "--output", str(file))
    assert made == {"record": record["id"], "path": str(file)}
    assert file.stat().st_mode & 0o777 == 0o600
    assert "File exists" in terminal.refusal("prove", record["id"], "--output", str(file))
    document = json.loads(file.read_bytes())
    assert terminal.json("prove", record["id"]) == document
    assert terminal.run("prove", record["id"])[1] == file.read_text()

    key = Signer(load_or_create(terminal.data)).public_key.hex()
    shown = terminal.json("check-proof", str(file))
    assert shown == {
        "record": record,
        "origin": origin_of(load_or_create(terminal.data)),
        "leaf_index": 5,
        "tree_size": shown["tree_size"],
        "is_signed": True,
        "is_key_known": False,
        "public_key": key,
    }
    assert terminal.json("check-proof", str(file), "--public-key", key)["is_key_known"]
    code, printed, _ = terminal.run("check-proof", str(file))
    assert code == 0
    assert printed.endswith(
        "It is signed by this node. Whose name that is, you have to know: name it with --node.\n"
    )
    named = terminal.json("key")
    assert named == {"origin": origin_of(load_or_create(terminal.data)), "public_key": key}
    assert named["origin"] in terminal.run("key")[1]
    assert terminal.json("check-proof", str(file), "--node", named["origin"])["is_signed"]
    refused = terminal.refusal("check-proof", str(file), "--node", f"{named['origin'][:-1]}b")
    assert f"it is a proof of another node: {named['origin']}" in refused
    other = f"{int(key[:2], 16) ^ 1:02x}{key[2:]}"
    assert "another key" in terminal.refusal("check-proof", str(file), "--public-key", other)
    monkeypatch.setenv("LC_ALL", "ru_RU.UTF-8")
    code, printed, _ = terminal.run("check-proof", str(file), "--public-key", key)
    assert (code, printed.splitlines()[-1]) == (0, "Подписано названным вами ключом.")


def test_a_damaged_proof_is_refused(terminal: Terminal, tmp_path: Path) -> None:
    record = terminal.records()[0]
    document = terminal.json("prove", record["id"])
    file = tmp_path / "proof.json"
    for change, sentence in (
        ({"record": {**document["record"], "cost": "1.000000"}}, "the record isn't the one"),
        ({"leaf": "gQ=="}, "its leaf is no call record"),
        ({"leaf_index": document["leaf_index"] + 1}, "the audit path doesn't lead"),
        ({"signature": document["signature"][:-8] + "AAAAAAA="}, "the signature isn't the key's"),
        ({"more": 1}, "this is no proof"),
    ):
        file.write_text(json.dumps({**document, **change}))
        assert sentence in terminal.refusal("check-proof", str(file))
    file.write_bytes(bytes(100_000))
    assert "at most" in terminal.refusal("check-proof", str(file))
    assert "No such file" in terminal.refusal("check-proof", str(tmp_path / "none"))


def test_a_record_that_is_not_there(terminal: Terminal) -> None:
    assert f"there is no record {'1' * 32}" in terminal.refusal("prove", "1" * 32)
    assert "32 hexadecimal digits, not all of them zero: '12'" in terminal.refusal("prove", "12")
    assert "no UTF-8 text" in terminal.refusal("prove", "\udcff", code=2)
    assert "length <= 128" in terminal.refusal("prove", "0" * 200)


def test_a_ledger_is_not_restored_over_another(terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    terminal.json("backup", str(file))
    complaint = terminal.refusal("restore", str(file))
    expected = "Stop it first" if terminal.runs else "there is a ledger in"
    assert expected in complaint
    assert "nothing was restored" in complaint
    assert terminal.json("verify")["ok"]


def test_progress_is_said_aside(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, said = terminal.run("verify", "--json")
    assert code == 0
    for line in said.splitlines():
        assert set(json.loads(line)) == {"done", "of"}
    if terminal.runs:
        # It may be done before anybody asks how far it is.
        return
    assert said
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _, _, said = terminal.run("verify")
    assert said.startswith("\rverifying: ")
    assert said.endswith("\r\x1b[K")


@pytest.mark.trio
@pytest.mark.parametrize("words", [("backup",), ("export", "--output")], ids=" ".join)
async def test_a_file_that_the_node_alone_sees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    terminal = Terminal(tmp_path, capsys, runs=True)
    file = tmp_path / "file"

    async def answer(body: RequestBody) -> ReplyBody:
        assert isinstance(body, JobStartRequest)
        result: JobResult
        match body.job:
            case BackupJob(path=path):
                result = BackupResult(path=path, entries=1, size_bytes=7, link="0" * 64)
            case ExportJob(path=path):
                result = ExportResult(records=1, path=path, size_bytes=7)
        return JobReply(number=1, done=1, of=1, result=result)

    def run() -> tuple[int, str, str]:
        return terminal.run(*words, str(file))

    async with ApiServer(terminal.socket, software="-") as server, trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, answer)
        for content in (b"", b"another size", b"the one"):
            code, printed, complaint = await trio.to_thread.run_sync(run)
            assert (code, printed) == (1, "")
            assert f"The node has written {file}, and here it isn't" in complaint
            assert f"such as {BACKUP_FOLDER}." in complaint
            file.write_bytes(content)
        assert (await trio.to_thread.run_sync(run))[0] == 0
        nursery.cancel_scope.cancel()


# ---------------------------------------------------------------- files


def test_without_a_ledger_none_is_made(stopped: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    stopped.json("backup", str(file))
    whole = file.read_bytes()
    empty = Terminal(tmp_path / "empty", stopped.capsys, runs=False)
    for content, sentence in (
        (whole[: len(whole) // 2], "was cut or changed"),
        (whole[:-1], "was cut or changed"),
        (b"something else", "is no backup of a ledger"),
    ):
        file.write_bytes(content)
        assert sentence in empty.refusal("restore", str(file))
        assert "there is no ledger in" in empty.refusal("verify")
    assert "No such file" in empty.refusal("restore", str(tmp_path / "none"))
    for words in (("backup", str(tmp_path / "x")), ("export",), ("prove", "0" * 32)):
        assert "there is no ledger in" in empty.refusal(*words)
    file.write_bytes(whole)
    code, printed, _ = empty.run("restore", str(file))
    assert code == 0
    assert str(empty.data / "ledger") in printed
    assert empty.json("verify")["ok"]


def test_verify_names_what_is_wrong(stopped: Terminal) -> None:
    async def damage() -> None:
        with open_small(stopped.data / "ledger", VirtualClock()) as ledger:
            await ledger.store.write(lambda writing: writing.delete(LOG, entry_key(3)))

    trio.run(damage)
    found = stopped.json("verify", code=1)
    assert found["ok"] is False
    assert found["problem_count"] == len(found["problems"]) >= 1
    code, printed, _ = stopped.run("verify")
    assert code == 1
    assert "- entry 3 is missing\n" in printed
    assert f"Problems: {found['problem_count']}. " in printed
    assert "the ledger is damaged, and was not backed up" in stopped.refusal(
        "backup", str(stopped.data / "backup")
    )


def test_a_page_that_is_lost_is_a_sentence(stopped: Terminal) -> None:
    file = stopped.data / "ledger" / DATA_FILE
    whole = file.read_bytes()
    sentences = []
    for start in range(2 * PAGE_BYTES, len(whole), PAGE_BYTES):
        file.write_bytes(whole[:start] + bytes(PAGE_BYTES) + whole[start + PAGE_BYTES :])
        # Some pages are free, and a lost index shows where it is looked into.
        for words in (("verify",), ("export",)):
            sentences.append(stopped.run(*words)[2])
    assert sum("data.mdb is damaged" in sentence for sentence in sentences) > 5


def test_a_root_is_signed_at_the_stop(stopped: Terminal, tmp_path: Path) -> None:
    with running_node(config=write_config(tmp_path)):
        pass
    last = stopped.records()[-1]
    assert last["reason"] == "the node stopped"
    file = tmp_path / "proof.json"
    code, printed, _ = stopped.run("prove", last["id"], "--output", str(file))
    assert (code, printed) == (0, f"The proof is in {file}\n")
    assert stopped.json("check-proof", str(file))["tree_size"] == RECORDS + 3


def test_an_unsigned_proof_is_said_to_be_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    make_ledger(data, signed=False)
    terminal = Terminal(data, capsys, runs=False)
    record = terminal.records()[0]
    assert "no root has been stored over this record yet" in terminal.refusal("prove", record["id"])

    async def store() -> None:
        with open_small(data / "ledger", VirtualClock()) as ledger:
            await sign_root(ledger, "montana/unsigned", None)

    trio.run(store)
    file = tmp_path / "proof.json"
    terminal.json("prove", record["id"], "--output", str(file))
    assert terminal.json("check-proof", str(file), code=1)["is_signed"] is False
    assert "anybody could have made it" in terminal.run("check-proof", str(file))[1]


def test_another_users_files_are_left_alone(
    stopped: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "backup"
    stopped.json("backup", str(file))
    other = Terminal(tmp_path / "other", stopped.capsys, runs=False)
    other.data.mkdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert "montana ledger restore ...\n" in other.refusal("restore", str(file))
    for words in (("verify",), ("backup", str(tmp_path / "x")), ("export",), ("prove", "0" * 32)):
        assert f" montana ledger {words[0]} ...\n" in stopped.refusal(*words)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("signed", [True, False])
def test_an_export_makes_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], signed: bool
) -> None:
    terminal = Terminal(tmp_path / "data", capsys, runs=False)
    make_ledger(terminal.data, signed=signed)
    # Without the key it is the node that has signed last.
    source = f"/{origin_of(load_or_create(terminal.data))}" if signed else "/montana/unknown"
    (terminal.data / FILE_NAME).unlink()
    code, printed, _ = terminal.run("export", "--format", "cloudevents")
    assert code == 0
    assert {json.loads(line)["source"] for line in printed.splitlines()} == {source}
    assert [path.name for path in terminal.data.iterdir()] == ["ledger"]


# ---------------------------------------------------------------- jobs


def test_one_job_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_ledger(tmp_path / "data")
    with running_node(config=write_config(tmp_path)):
        terminal = Terminal(tmp_path / "data", capsys, runs=True)

        async def start() -> int:
            async with connect(terminal.socket, software="test") as client:
                reply = await client.request(JobStartRequest(VerifyJob()))
                assert isinstance(reply, JobReply)
                return reply.number

        async def finish(number: int) -> JobReply:
            async with connect(terminal.socket, software="test") as client:
                while True:
                    reply = await client.request(JobAskRequest(number))
                    assert isinstance(reply, JobReply)
                    if reply.result is not None:
                        return reply
                    await trio.sleep(0.01)

        # As long as nobody has been told its result, it isn't over.
        number = trio.run(start)
        complaint = terminal.refusal("backup", str(tmp_path / "backup"))
        assert "another job is running on the ledger" in complaint
        assert not (tmp_path / "backup").exists()
        # What takes no time needs no job.
        assert terminal.run("prove", "1" * 32)[2].startswith("Error: there is no record")
        assert trio.run(finish, number).error is None
        with pytest.raises(OperationError, match="its result has been told"):
            trio.run(finish, number)
        assert terminal.json("backup", str(tmp_path / "backup"))["entries"] > 0


@contextlib.contextmanager
def small_ledger(folder: Path) -> Iterator[tuple[LmdbLedger, Life]]:
    clock = VirtualClock()
    with open_small(folder / "ledger", clock) as ledger:
        yield ledger, Life(ledger, clock)


async def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        # Real time, in which threads do their work: the clock stands still.
        await trio.to_thread.run_sync(time.sleep, 0.01)
    raise AssertionError("it has never come to pass")


def test_a_job_that_nobody_asks_after_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = trio.testing.MockClock()
    spools = tmp_path / SPOOL_FOLDER
    spools.mkdir()
    # One whose command has died, and what `new_file` had begun.
    for left in ("export.7", ".export.8.0badcafe"):
        (spools / left).write_text("an earlier run's")

    async def use() -> None:
        with small_ledger(tmp_path) as (ledger, life):
            await life.live()
            carrying = Jobs(ledger, tmp_path, "/test")
            assert not spools.exists()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(carrying.run)
                for number in (1, 2):
                    spool = spools / f"export.{number}"
                    begun = await carrying.answer(JobStartRequest(ExportJob("csv")))
                    assert begun == JobReply(number=number, done=0, of=0)
                    await until(spool.exists)
                    assert spool.stat().st_mode & 0o777 == 0o600
                    clock.jump(LEASE_S + 1)
                    await until(lambda: not list(spools.iterdir()))
                    await trio.testing.wait_all_tasks_blocked()
                    with pytest.raises(OperationError, match="nobody has asked after it for 30"):
                        await carrying.answer(JobAskRequest(number))
                nursery.cancel_scope.cancel()

    with caplog.at_level(logging.INFO):
        trio.run(use, clock=clock)
    assert caplog.text.count("a job was given up") == 2


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (RuntimeError("of ours"), "by a mistake of its own; its log says more"),
        (KeyError("of a page"), "the ledger can't be read ('of a page'). Keep a copy of its files"),
    ],
)
def test_what_nobody_has_foreseen_is_in_the_log(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mistake: Exception,
    told: str,
) -> None:
    async def fail(*_: object) -> None:
        raise mistake

    monkeypatch.setattr(jobs, "verify", fail)

    async def use() -> JobReply:
        with small_ledger(tmp_path) as (ledger, _):
            carrying = Jobs(ledger, tmp_path, "/test")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(carrying.run)
                begun = await carrying.answer(JobStartRequest(VerifyJob()))
                assert isinstance(begun, JobReply)
                await trio.testing.wait_all_tasks_blocked()
                reply = await carrying.answer(JobAskRequest(begun.number))
                nursery.cancel_scope.cancel()
        assert isinstance(reply, JobReply)
        return reply

    error = trio.run(use).error
    assert error is not None
    assert told in error
    assert ("restore the last backup" in error) is isinstance(mistake, KeyError)
    assert f"{type(mistake).__name__}: " in caplog.text
    assert "Traceback" in caplog.text


# ---------------------------------------------------------------- what a node does by itself


def test_old_ticks_are_pruned_and_roots_signed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    node_key = load_or_create(data)

    async def use() -> None:
        with small_ledger(data) as (ledger, life):
            await life.live()
            keeper = Upkeep(ledger, node_key, keep_ticks_s=60)
            head = ledger.head
            await keeper.prune()
            assert ledger.head == head, "nothing is that old"
            life.clock.advance_s(120)
            await keeper.prune()
            assert ledger.head > head, "there is a seal"
            await keeper.sign()
            assert ledger.head == head + 2
            await keeper.sign()
            assert ledger.head == head + 2, "no record has come since"

    trio.run(use)
    terminal = Terminal(data, capsys, runs=False)
    found = terminal.json("verify")
    assert found["ok"]
    assert found["sealed"] > 0
    proof = terminal.json("prove", terminal.records()[0]["id"])
    assert proof["signature"]


def test_upkeep_goes_on_as_time_passes(tmp_path: Path) -> None:
    clock = trio.testing.MockClock()

    async def use() -> None:
        with small_ledger(tmp_path) as (ledger, life):
            await life.live()
            keeper = Upkeep(ledger, load_or_create(tmp_path), keep_ticks_s=1)
            head = ledger.head
            life.clock.advance_s(60)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keeper.run)
                # Old ticks and records without a root are there from an earlier run.
                await until(lambda: ledger.head == head + 2)
                await life.tick(1, dict.fromkeys(life.slots, "ended"))
                head = ledger.head
                clock.jump(upkeep.SIGN_INTERVAL_S)
                await until(lambda: ledger.head == head + 1)
                nursery.cancel_scope.cancel()

    trio.run(use, clock=clock)


def test_without_ml_dsa_roots_are_unsigned_and_errors_end_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Missing:
        def __init__(self, _: object) -> None:
            raise SigningUnavailable

    monkeypatch.setattr(upkeep, "Signer", Missing)

    async def use() -> None:
        with small_ledger(tmp_path) as (ledger, life):
            await life.live()
            keeper = Upkeep(ledger, load_or_create(tmp_path), keep_ticks_s=1)
            head = ledger.head
            await keeper.sign()
            assert ledger.head == head + 1
        # On a ledger that is closed.
        await keeper.sign()
        await keeper.prune()

    trio.run(use)
    for event in (
        "records are not signed",
        "no root was stored over the records",
        "old ticks were not pruned",
    ):
        assert caplog.text.count(event) == 1


@pytest.mark.parametrize(
    ("error", "is_ours"), [(OperationError("the disk is full"), False), (KeyError("x"), True)]
)
def test_what_upkeep_cannot_do_is_logged_and_tried_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    is_ours: bool,
) -> None:
    clock = trio.testing.MockClock()
    tried = 0

    async def fail(*_: object) -> None:
        nonlocal tried
        tried += 1
        raise error

    monkeypatch.setattr(upkeep, "prune", fail)

    async def use() -> None:
        with small_ledger(tmp_path) as (ledger, _):
            keeper = Upkeep(ledger, load_or_create(tmp_path), keep_ticks_s=1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keeper.run)
                for times in (1, 2):
                    await until(lambda times=times: tried == times)
                    await trio.testing.wait_all_tasks_blocked()
                    clock.jump(upkeep.PRUNE_INTERVAL_S)
                nursery.cancel_scope.cancel()

    trio.run(use, clock=clock)
    assert caplog.text.count("old ticks were not pruned") == 2
    assert ("Traceback" in caplog.text) is is_ours
