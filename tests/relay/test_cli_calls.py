"""`montana call ...` and `montana room link`: what is asked of a node, how replies are shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from core.api.messages import (
    CallEndReply,
    CallEndRequest,
    CallItem,
    CallLinkReply,
    CallLinkRequest,
    CallListReply,
    CallListRequest,
    ReplyBody,
    RequestBody,
    RoomLinkReply,
    RoomLinkRequest,
)
from core.errors import SignalingError
from relay import cli_shared
from tests.support.terminal import terminal

pytestmark = pytest.mark.trio

ID = "0123456789abcdef" * 2
CALLER_URL = "https://node.example/call?id=CALL-ABCDEFGH#caller-secret"
CALLEE_URL = "https://node.example/call?id=CALL-ABCDEFGH#callee-secret"
ENDED = CallItem(
    id="CALL-ABCDEFGH",
    caller="user:alice",
    callee="user:bob",
    kind="voice",
    status="ended",
    created="2026-11-01T12:00:00.000Z",
    started="2026-11-01T12:00:07.000Z",
    ended="2026-11-01T12:20:41.000Z",
    seconds=1234,
    cost="1234.000000",
)
PENDING = CallItem(
    id="CALL-234567AB",
    caller="user:alice",
    callee=None,
    kind="video",
    status="pending",
    created="2026-11-01T12:30:00.000Z",
    started=None,
    ended=None,
    seconds=0,
    cost="0.000000",
)


class Node:
    """Gives replies, and keeps what was asked."""

    def __init__(self, refusal: SignalingError | None = None) -> None:
        self.refusal = refusal
        self.asked: list[RequestBody] = []

    async def answer(self, body: RequestBody) -> ReplyBody:
        self.asked.append(body)
        if self.refusal is not None:
            raise self.refusal
        match body:
            case CallLinkRequest():
                return CallLinkReply("CALL-ABCDEFGH", CALLER_URL, CALLEE_URL)
            case CallListRequest(before=None):
                return CallListReply([PENDING, ENDED], "a place")
            case CallListRequest():
                return CallListReply([], None)
            case CallEndRequest():
                return CallEndReply(ENDED)
            case RoomLinkRequest():
                return RoomLinkReply("https://node.example/#host", "https://node.example/#other")
        raise AssertionError(body)


async def test_a_calls_links_for_programs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    node = Node()
    words = ("call", "link", "--from", "user:alice", "--to", "user:bob", "--kind", "screen")
    async with terminal(capsys, tmp_path, node.answer) as shell:
        code, printed, remark = await shell.run(*words, "--json", "--id", ID.upper())
    assert (code, remark) == (0, "")
    assert json.loads(printed) == {
        "call_id": "CALL-ABCDEFGH",
        "caller_url": CALLER_URL,
        "callee_url": CALLEE_URL,
    }
    assert node.asked == [CallLinkRequest("user:alice", "user:bob", "screen", ID)]


async def test_a_calls_links_for_people(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node()
    async with terminal(capsys, tmp_path, node.answer) as shell:
        words = ("call", "link", "--from", "user:alice")
        monkeypatch.setenv("LC_ALL", "C")
        _, printed, remark = await shell.run(*words, "--to", "tg:123")
        assert printed.splitlines() == [
            f"To call as user:alice, open {CALLER_URL}",
            f"and send tg:123 {CALLEE_URL}",
        ]
        assert remark.startswith("CALL-ABCDEFGH. ")
        _, printed, _ = await shell.run(*words)
        assert printed.splitlines()[1] == f"and send whom you call {CALLEE_URL}"
        monkeypatch.setenv("LC_ALL", "ru_RU.UTF-8")
        _, printed, _ = await shell.run(*words, "--to", "tg:123")
        assert printed.splitlines() == [
            f"Чтобы позвонить от имени user:alice, откройте {CALLER_URL}",
            f"и отправьте tg:123 {CALLEE_URL}",
        ]
    asked = node.asked[1]
    assert isinstance(asked, CallLinkRequest)
    assert asked == CallLinkRequest("user:alice", None, "voice", asked.id)
    # Each time another call is meant.
    ids = {getattr(one, "id", None) for one in node.asked}
    assert len(ids) == 3
    assert None not in ids


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("call", "link"), "--from is missing."),
        (("call", "link", "--from", "a b"), "--from: an account has from 1 to 128 characters"),
        (("call", "link", "--from", "a", "--to", ""), "--to: an account has from 1 to 128"),
        (("call", "link", "--from", "a", "--kind", "fax"), "--kind: voice, video or screen."),
        (("call", "link", "--from", "a", "--id", "12"), "--id: 32 hexadecimal digits."),
        (("room", "link", "--id", "12"), "--id: 32 hexadecimal digits."),
        (("call", "list", "--limit", "0"), "--limit: a whole number from 1 to 1000."),
        (("call", "end", "CALL-abc"), "CALL: a call's id is CALL- and 8 letters and digits"),
        (("call", "end"), "CALL is missing."),
    ],
)
async def test_what_no_node_would_take_is_not_asked(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: tuple[str, ...],
    complaint: str,
) -> None:
    node = Node()
    async with terminal(capsys, tmp_path, node.answer) as shell:
        code, printed, said = await shell.run(*words)
    assert (code, printed, node.asked) == (2, "", [])
    assert complaint in said


@pytest.mark.parametrize(
    ("code", "english", "russian"),
    [
        ("no-money", "there is not enough on the account that pays", "недостаточно денег"),
        ("no-account", "there is no such account", "такого счёта нет"),
        ("busy", "one of the two is in another call", "занят другим звонком"),
        ("new-code", "what the node says itself", "what the node says itself"),
    ],
)
async def test_what_the_node_refuses_is_a_sentence_in_the_readers_language(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    english: str,
    russian: str,
) -> None:
    node = Node(SignalingError(code, "what the node says itself"))
    async with terminal(capsys, tmp_path, node.answer) as shell:
        for locale, sentence in (("C", english), ("ru_RU.UTF-8", russian)):
            monkeypatch.setenv("LC_ALL", locale)
            result, printed, said = await shell.run("call", "link", "--from", "user:alice")
            assert (result, printed) == (1, "")
            assert sentence in said


async def test_calls_are_listed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    node = Node()
    async with terminal(capsys, tmp_path, node.answer) as shell:
        _, printed, _ = await shell.run("call", "list", "--account", "user:alice", "--json")
        assert json.loads(printed) == {
            "calls": [
                {
                    "id": "CALL-234567AB",
                    "from": "user:alice",
                    "to": None,
                    "kind": "video",
                    "status": "pending",
                    "created": "2026-11-01T12:30:00.000Z",
                    "started": None,
                    "ended": None,
                    "seconds": 0,
                    "cost": "0.000000",
                },
                {
                    "id": "CALL-ABCDEFGH",
                    "from": "user:alice",
                    "to": "user:bob",
                    "kind": "voice",
                    "status": "ended",
                    "created": "2026-11-01T12:00:00.000Z",
                    "started": "2026-11-01T12:00:07.000Z",
                    "ended": "2026-11-01T12:20:41.000Z",
                    "seconds": 1234,
                    "cost": "1234.000000",
                },
            ],
            "next": "a place",
        }
        _, printed, remark = await shell.run("call", "list")
        head, first, second = (line.split("  ") for line in printed.splitlines())
        assert [cell.strip() for cell in head if cell][:4] == ["call", "from", "to", "kind"]
        for cell in ("CALL-234567AB", "who has the link", "2026-11-01 12:30:00", "0 Ɉ"):
            assert cell in [one.strip() for one in first]
        for cell in ("user:bob", "ended", "1\N{NO-BREAK SPACE}234", "1234 Ɉ"):
            assert cell in [one.strip() for one in second]
        assert "--before a place" in remark
        _, printed, remark = await shell.run("call", "list", "--before", "a place", "--limit", "7")
        assert (len(printed.splitlines()), remark) == (1, "")
    assert node.asked == [
        CallListRequest("user:alice"),
        CallListRequest(),
        CallListRequest(None, "a place", 7),
    ]


async def test_a_call_is_ended(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    node = Node()
    async with terminal(capsys, tmp_path, node.answer) as shell:
        _, printed, _ = await shell.run("call", "end", "CALL-ABCDEFGH")
        shown = dict(line.split(maxsplit=1) for line in printed.splitlines())
        assert shown["status"] == "ended"
        assert shown["cost"] == "1234 Ɉ"
        _, printed, _ = await shell.run("call", "end", "CALL-ABCDEFGH", "--json")
        assert json.loads(printed)["call"]["seconds"] == 1234
    assert node.asked == [CallEndRequest("CALL-ABCDEFGH")] * 2


async def test_a_room_has_two_links(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    node = Node()
    async with terminal(capsys, tmp_path, node.answer) as shell:
        _, printed, _ = await shell.run("room", "link", "--json", "--id", ID)
        assert json.loads(printed) == {
            "room_url": "https://node.example/#host",
            "invitation_url": "https://node.example/#other",
        }
        _, printed, _ = await shell.run("room", "link")
    assert printed.splitlines() == [
        "To talk, open https://node.example/#host",
        "and send somebody https://node.example/#other",
    ]
    first, second = node.asked
    assert first == RoomLinkRequest(ID)
    assert isinstance(second, RoomLinkRequest)
    assert second.id not in (None, ID)


async def test_who_hears_nothing_is_told_how_to_ask_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def be_silent(_body: RequestBody) -> ReplyBody:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(cli_shared, "ANSWER_TIMEOUT_S", 0.05)
    monkeypatch.setenv("LC_ALL", "C")
    async with terminal(capsys, tmp_path, be_silent) as shell:
        for words in (("room", "link"), ("call", "link", "--from", "user:alice")):
            code, printed, said = await shell.run(*words, "--id", ID)
            assert (code, printed) == (1, "")
            assert f"the same command with --id {ID} does it once at most" in said
