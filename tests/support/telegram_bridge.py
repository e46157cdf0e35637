"""A node with a Telegram bridge that speaks to a Bot API server of tests."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec

from core.api.client import connect
from core.api.messages import (
    AccountCreditRequest,
    AccountReply,
    AccountShowRequest,
    ReplyBody,
    RequestBody,
    StatusReply,
    StatusRequest,
)
from tests.support.bot_api import BotApi, FakePerson, wait_until
from tests.support.node import RunningNode, running_node, write_config

PUBLIC_URL = "https://node.example"


def telegram_config(api: BotApi, more: str = "") -> str:
    """The tables of a node's configuration."""
    return f"""
[bridges.telegram]
token = "{api.token}"
app = "call"
api_url = "{api.url}"
{more}
"""


@contextlib.contextmanager
def telegram_node(
    api: BotApi, more: str = "", tables: str = "", listen: str = "127.0.0.1:0"
) -> Iterator[RunningNode]:
    """A node whose bridge has named its commands; no log line of it holds the token. `listen`:
    where its pages are, since what it says of that is `PUBLIC_URL`."""
    with tempfile.TemporaryDirectory(prefix="montana-telegram-") as name:
        config = write_config(Path(name), more=tables + telegram_config(api, more))
        text = config.read_text()
        # Telegram opens no other pages.
        own = '[http]\nlisten = "127.0.0.1:0"'
        assert own in text
        http = f'[http]\npublic_url = "{PUBLIC_URL}"\nlisten = "{listen}"'
        config.write_text(text.replace(own, http))
        with running_node(config=config) as node:
            node.socket = config.with_name("data") / "node.sock"
            wait_until(lambda: "ru" in api.commands, node.log)
            yield node
            log = node.log()
            assert api.token not in log
            assert api.token.partition(":")[2] not in log


def bridge_of(node: RunningNode) -> dict[str, Any]:
    """What the node's status tells of the bridge."""
    status = ask(node, StatusRequest())
    assert isinstance(status, StatusReply)
    (item,) = status.bridges
    return dict(msgspec.to_builtins(item))


def kill_bridge(node: RunningNode) -> bool:
    """End the bridge as the loss of power does, where there is one; the node starts another, each
    time after a longer pause."""
    pid = bridge_of(node)["pid"]
    if not pid:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def balance(node: RunningNode, address: str) -> str:
    """What an account has, in Ɉ."""
    account = ask(node, AccountShowRequest(address))
    assert isinstance(account, AccountReply)
    return account.balance


def credit(node: RunningNode, address: str, amount: int) -> None:
    """Give an account some Ɉ."""
    ask(node, AccountCreditRequest(address, str(amount)))


def ask(node: RunningNode, request: RequestBody) -> ReplyBody:
    """What the node answers on its socket: a process of the command line takes a hundred times as
    long."""

    async def exchange() -> ReplyBody:
        async with connect(node.socket, software="test") as client:
            return await client.request(request)

    return anyio.run(exchange, backend="trio")


def started(api: BotApi, number: int, name: str, username: str, language: str) -> FakePerson:
    """Somebody whom the bot has greeted."""
    person = api.person(number, name, username, language)
    person.write("/start")
    person.wait_for("деньги по секундам" if language == "ru" else "money by the second")
    return person


def free_address() -> str:
    """Where a node's pages may listen: `telegram_node` has it say another URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"
