"""A node with its bridge and a stand-in Bot API server, for all tests of a module; and two people
who write to the bot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.bot_api import BotApi, FakePerson, bot_api
from tests.support.node import RunningNode
from tests.support.telegram_bridge import credit, free_address, started, telegram_node


@pytest.fixture(scope="module")
def api() -> Iterator[BotApi]:
    with bot_api() as server:
        yield server
        assert server.problems == []
        assert server.slowed == 0


@pytest.fixture(scope="module")
def node(api: BotApi) -> Iterator[RunningNode]:
    listen = free_address()
    with telegram_node(api, listen=listen) as running:
        running.http = f"http://{listen}"
        yield running


@pytest.fixture(scope="module")
def alice(api: BotApi, node: RunningNode) -> FakePerson:
    person = started(api, 11, "Alice", "alice_a", "en")
    credit(node, "tg:11", 1000)
    return person


@pytest.fixture(scope="module")
def bob(api: BotApi, node: RunningNode) -> FakePerson:
    return started(api, 12, "Боб", "bob_b", "ru")
