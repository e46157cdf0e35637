"""The command line: help with examples, errors as sentences, and two languages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.api.messages import (
    CheckLinkReply,
    CheckLinkRequest,
    CredentialsReply,
    CredentialsRequest,
    ReplyBody,
    RequestBody,
    StatusReply,
)
from core.errors import OperationError
from relay import cli
from relay.cli_shared import show_size
from tests.support.node import run_montana, write_config
from tests.support.terminal import terminal

STATUS = StatusReply(
    version="1.2.3",
    uptime_s=90_061,
    draining=True,
    turn=["udp://127.0.0.1:3478", "udp://[::1]:3478"],
    http="http://127.0.0.1:8790",
    metrics="http://127.0.0.1:9641",
    workers=2,
    allocations=12,
    sessions=6,
    flows=48,
    packets={"to_peer": 1_234_567, "to_client": 7},
    bytes={"to_peer": 212_345_524, "to_client": 999},
    drops={"no_permission": 3, "rate": 0},
    counters={"wakeups": 5},
)


async def answer(body: RequestBody) -> ReplyBody:
    if isinstance(body, CredentialsRequest):
        if body.account == "nobody":
            raise OperationError("no secret to make credentials from")
        username = f"1:{body.account}" + (f"#{body.call}" if body.call else "")
        return CredentialsReply(username, "p", body.ttl_s, ["turn:192.0.2.1:3478?transport=udp"])
    if isinstance(body, CheckLinkRequest):
        return CheckLinkReply("http://127.0.0.1:8790/check#token", 300)
    return STATUS


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("up",), 2, "Say what to run: --config FILE, --dev or --lan"),
        (("up", "--dev", "--lan"), 2, "one of them"),
        (("up", "--confg", "x"), 2, "There is no option --confg. Did you mean --config?"),
        (("upp",), 2, "There is no command upp. Did you mean up?"),
        (("credentials",), 2, "ACCOUNT is missing."),
        (("credentials", "a#b"), 2, "ACCOUNT: an account has from 1 to 128 characters"),
        (("credentials", "a", "--ttl", "-5"), 2, "--ttl: a whole number from 1 to 2592000."),
        (("credentials", "a", "--call", "7"), 2, "--call: a call is named CALL-"),
        (("status",), 1, "No node is running behind data/node.sock"),
        (("config", "check", "absent.toml"), 2, "absent.toml can't be read"),
    ],
)
def test_errors_are_sentences_on_standard_error(
    words: tuple[str, ...], code: int, sentence: str, tmp_path: Path
) -> None:
    result = run_montana(*words, check=False, cwd=tmp_path)
    assert result.returncode == code
    assert result.stdout == ""
    assert sentence in result.stderr
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr


def test_errors_speak_russian(tmp_path: Path) -> None:
    result = run_montana("up", check=False, cwd=tmp_path, LC_ALL="", LANG="ru_RU.UTF-8")
    assert result.stderr.startswith("Ошибка: Укажите, что запустить")


def test_no_authentication_no_start(tmp_path: Path) -> None:
    config = write_config(tmp_path, users={}, secrets=())
    result = run_montana("up", "--config", str(config), check=False)
    assert result.returncode == 2
    assert "secrets" in result.stderr
    assert 'add secrets = ["..."]' in result.stderr.replace("Add", "add")


def test_a_configuration_is_checked(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    printed = run_montana("config", "check", str(config)).stdout
    assert "can be used" in printed
    assert "not a secret" not in printed
    config.write_text(config.read_text().replace("realm", "raelm"))
    result = run_montana("config", "check", str(config), check=False)
    assert result.returncode == 2
    assert "raelm" in result.stderr
    assert "realm" in result.stderr


def test_what_the_environment_says_counts(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    token = "the token of the rooms"
    printed = run_montana("config", "check", str(config), ROOM_TOKEN=token).stdout
    assert "environment:    ROOM_TOKEN\n" in printed
    assert token not in printed
    result = run_montana("config", "check", str(config), check=False, PROD="1")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: PROD: asks for pages over TLS")
    result = run_montana("up", "--dev", check=False, cwd=tmp_path, PROD="1")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: PROD: is not for --dev")


@pytest.mark.trio
async def test_credentials_for_programs_and_for_people(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async with terminal(capsys, tmp_path, answer) as shell:
        code, printed, _ = await shell.run(
            "credentials", "alice", "--ttl", "60", "--call", "CALL-7", "--json"
        )
        assert code == 0
        assert json.loads(printed) == {
            "username": "1:alice#CALL-7",
            "password": "p",
            "ttl": 60,
            "uris": ["turn:192.0.2.1:3478?transport=udp"],
        }
        code, printed, _ = await shell.run("credentials", "alice")
        assert code == 0
        assert "1:alice\n" in printed
        assert "600 s" in printed


@pytest.mark.trio
async def test_what_the_node_refuses_is_a_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async with terminal(capsys, tmp_path, answer) as shell:
        code, printed, complaint = await shell.run("credentials", "nobody")
    assert (code, printed) == (1, "")
    assert complaint == "Error: no secret to make credentials from\n"


@pytest.mark.trio
async def test_status_for_programs_and_for_people(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async with terminal(capsys, tmp_path, answer) as shell:
        code, printed, _ = await shell.run("status", "--json")
        document = json.loads(printed)
        assert code == 0
        assert document["packets"] == {"to_peer": 1_234_567, "to_client": 7}
        assert document["workers"] == 2
        assert len(printed.splitlines()) == 1
        code, printed, _ = await shell.run("status")
    assert code == 0
    assert "1 d 1 h" in printed
    assert "to peers: 1\N{NO-BREAK SPACE}234\N{NO-BREAK SPACE}567 packets, 212.3 MB" in printed
    assert "to clients: 7 packets, 999 B" in printed
    assert "no_permission: 3" in printed
    assert "rate" not in printed


@pytest.mark.trio
async def test_a_check_link_alone_on_standard_output(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async with terminal(capsys, tmp_path, answer) as shell:
        code, printed, remark = await shell.run("check", "link")
        assert (code, printed) == (0, "http://127.0.0.1:8790/check#token\n")
        assert "300 s" in remark
        _, printed, _ = await shell.run("check", "link", "--json")
        assert json.loads(printed) == {"url": "http://127.0.0.1:8790/check#token", "ttl_s": 300}


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_500_000, "1.5 MB"), (10**16, "10000.0 TB")],
)
def test_sizes(size_bytes: int, shown: str) -> None:
    assert show_size(size_bytes) == shown


@pytest.mark.parametrize(
    ("duration_s", "shown"), [(0, "0 s"), (59, "59 s"), (3601, "1 h 1 s"), (90_061, "1 d 1 h")]
)
def test_durations(duration_s: int, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    assert cli._duration(duration_s) == shown
