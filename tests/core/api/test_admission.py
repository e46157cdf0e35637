"""Who is let in at the socket: processes of other users, real ones, started by root."""

from __future__ import annotations

import grp
import os
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import pytest
import trio

from core.api import serving
from core.api.bridge_messages import DoneReply, PingRequest, UserTransferRequest
from core.api.client import connect
from core.api.connection import ClientConnection
from core.api.messages import (
    BRIDGE_REQUESTS,
    AccountCreditRequest,
    AccountShowRequest,
    CallListRequest,
    Failure,
    Reply,
    ReplyBody,
    RequestBody,
    StatusRequest,
)
from core.api.server import ApiServer
from core.api.serving import Answer
from core.errors import OperationError
from tests.support.api_socket import api_server

STRANGER = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="other users' processes need root")

SPEAK = """
import os, socket, sys
uid, gid, *groups = map(int, sys.argv[3:])
os.setgroups(groups)
os.setgid(gid)
os.setuid(uid)
with socket.socket(socket.AF_UNIX) as connection:
    connection.settimeout(30)
    try:
        connection.connect(sys.argv[1])
    except PermissionError:
        sys.exit(3)
    try:
        connection.sendall(bytes.fromhex(sys.argv[2]))
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(65536):
            sys.stdout.buffer.write(data)
    except ConnectionError:
        pass
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Everybody may pass the folders above it, which pytest's own forbid."""
    with tempfile.TemporaryDirectory(prefix="montana-") as name:
        yield Path(name)


def group() -> tuple[str, int]:
    """A group that is there, and that a stranger isn't in by itself."""
    entry = next(entry for entry in grp.getgrall() if entry.gr_gid not in (0, STRANGER))
    return entry.gr_name, entry.gr_gid


async def speak(
    path: Path, *bodies: RequestBody, groups: Sequence[int] = (), gid: int = STRANGER
) -> list[ReplyBody] | None:
    """What a process of another user is told; None when it can't even connect."""
    protocol = ClientConnection("stranger")
    for body in bodies:
        protocol.request(body)
    # It becomes the other user by itself: that one may not reach this interpreter's files.
    ids = map(str, (STRANGER, gid, *groups))
    said = protocol.data_to_send().hex()
    arguments = [sys.executable, "-I", "-S", "-c", SPEAK, str(path), said, *ids]

    def run() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(arguments, capture_output=True, check=False, timeout=60)

    finished = await trio.to_thread.run_sync(run)
    if finished.returncode == 3:
        return None
    assert not finished.stderr, finished.stderr
    received = protocol.receive_untrusted(finished.stdout) if finished.stdout else []
    return [message.body for message in received if isinstance(message, Reply)]


def answer(body: RequestBody) -> Answer:
    if isinstance(body, AccountShowRequest):
        raise OperationError("there is no such account", "no_account")
    return DoneReply()


async def speak_as_owner(path: Path, *bodies: RequestBody) -> list[ReplyBody]:
    """What the node's own user is told."""
    async with connect(path, software="owner") as client:
        return [await client.request(body) for body in bodies]


@needs_root
@pytest.mark.trio
async def test_without_a_group_strangers_reach_nothing(folder: Path) -> None:
    path = folder / "s"
    async with api_server(path, answer):
        assert await speak(path, PingRequest(), groups=[group()[1]]) is None
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        # The modes are not all that keeps them out.
        folder.chmod(0o755)
        path.chmod(0o666)
        assert await speak(path, PingRequest(), groups=[group()[1]]) == []
        assert await speak_as_owner(path, PingRequest()) == [DoneReply()]


@needs_root
@pytest.mark.trio
async def test_a_member_of_the_group_asks_what_bridges_ask(folder: Path) -> None:
    path = folder / "s"
    name, number = group()
    transfer = UserTransferRequest("tg:1", "tg:2", "1", id="0" * 32)
    credit = AccountCreditRequest("tg:1", "1")
    refused = Failure("only the node's own user and root may ask for this", "not_admitted")
    async with api_server(path, answer, group=name):
        bodies = (PingRequest(), credit, transfer, AccountShowRequest("tg:1"))
        expected = [
            DoneReply(),
            refused,
            DoneReply(),
            Failure("there is no such account", "no_account"),
        ]
        assert await speak(path, *bodies, groups=[number]) == expected
        assert await speak(path, *bodies, gid=number) == expected, "its own group counts, too"
        assert await speak_as_owner(path, PingRequest(), credit) == [DoneReply(), DoneReply()]


@needs_root
@pytest.mark.trio
async def test_who_is_not_in_the_group_is_turned_away(folder: Path) -> None:
    path = folder / "s"
    name, number = group()
    others = [entry.gr_gid for entry in grp.getgrall() if entry.gr_gid not in (0, number)][:5]
    async with api_server(path, answer, group=name):
        assert await speak(path, PingRequest(), groups=others) is None
        folder.chmod(0o755)
        path.chmod(0o666)
        assert await speak(path, PingRequest(), groups=others) == []
        # More groups than are looked at.
        many = [*range(100_000, 100_300), number]
        assert await speak(path, PingRequest(), groups=many) == []


@needs_root
@pytest.mark.trio
async def test_the_folder_is_opened_no_further_than_to_the_socket(folder: Path) -> None:
    name, number = group()
    async with api_server(folder / "s", answer, group=name):
        status, socket = folder.stat(), (folder / "s").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o710, number)
        assert (stat.S_IMODE(socket.st_mode), socket.st_gid) == (0o660, number)
        lock = (folder / "s.lock").stat()
        assert (stat.S_IMODE(lock.st_mode), lock.st_gid) == (0o600, 0)


@needs_root
@pytest.mark.trio
async def test_bridges_leave_room_for_the_operator(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "s"
    monkeypatch.setattr(serving, "BRIDGE_CONNECTIONS_MAX", 0)
    name, number = group()
    async with api_server(path, answer, group=name):
        assert await speak(path, PingRequest(), groups=[number]) == []
        assert await speak_as_owner(path, PingRequest()) == [DoneReply()]


@pytest.mark.trio
async def test_a_group_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperationError, match=re.escape("groupadd --system montana-nobody")):
        async with ApiServer(tmp_path / "s", software="test", group="montana-nobody"):
            pass
    assert not (tmp_path / "s").exists()


def test_nothing_of_the_operators_is_among_what_bridges_ask() -> None:
    """What is new is the operator's until somebody says otherwise."""
    operators = {type_.__name__ for type_ in set(get_args(RequestBody)) - BRIDGE_REQUESTS}
    assert operators >= {
        "AccountCreateRequest",
        "AccountCreditRequest",
        "AccountTransferRequest",
        "AccountRefundRequest",
        "AccountLinkRequest",
        "AccountUnlinkRequest",
        "AccountFreezeRequest",
        "AccountCloseRequest",
        "AccountListRequest",
        "VoucherCreateRequest",
        "CredentialsRequest",
        "CheckLinkRequest",
        "EndRequest",
        "CallLinkRequest",
        "CallEndRequest",
        "RoomLinkRequest",
        "JobStartRequest",
        "JobAskRequest",
        "BridgeAskRequest",
    }
    assert {StatusRequest, CallListRequest} <= BRIDGE_REQUESTS
