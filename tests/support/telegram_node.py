"""A real node that is configured for Telegram, whose bridge a test plays."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.node import RunningNode, running_node, write_config
from tests.support.telegram_user import PUBLIC_KEY, TOKEN

PUBLIC_URL = "https://node.example"
"""Telegram opens pages of an https URL only; the tests come without the proxy that has it."""


@contextmanager
def telegram_node(users: tuple[int, ...] = (), credit: int = 1_000) -> Iterator[RunningNode]:
    """A node; its `http` is where its pages really are.

    Args:
        users: Telegram's numbers of those who have accounts.
        credit: what the first of them has, in Ɉ.
    """
    more = f"""
        [bridges]
        start = false
        [bridges.telegram]
        token = "{TOKEN}"
        public_key = "{PUBLIC_KEY}"
        """
    with tempfile.TemporaryDirectory(prefix="montana-test-") as name:
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        config = write_config(Path(name), more=more)
        text = config.read_text()
        http = '[http]\nlisten = "127.0.0.1:0"'
        assert http in text
        config.write_text(
            text.replace(http, f'[http]\nlisten = "{address}"\npublic_url = "{PUBLIC_URL}"')
        )
        with running_node(config=config) as node:
            assert node.http == PUBLIC_URL
            node.http = f"http://{address}"
            for user in users:
                node.command("account", "create", f"tg:{user}")
            if users:
                node.command("account", "credit", f"tg:{users[0]}", str(credit))
            yield node
