"""A node with a Telegram bridge that speaks to a Bot API server of tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.bot_api import BotApi, wait_until
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
    """What `montana status` tells of the bridge."""
    (item,) = node.status()["bridges"]
    return dict(item)


def kill_bridge(node: RunningNode) -> None:
    """End the bridge as the loss of power does; the node starts another."""
    pid = bridge_of(node)["pid"]
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def balance(node: RunningNode, address: str) -> str:
    """What an account has, in Ɉ."""
    account = json.loads(node.command("account", "show", address, "--json"))
    return str(account["balance"])
