"""Telephone numbers as keyboards and other apps have them: digits of full width, blanks that break
no line."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from bridges.spool import open_spool
from core.api.bridge_messages import CallQuoteRequest, LinkStartReply, LinkStartRequest
from core.errors import OperationError
from tests.support.bot_api import BotApi, bot_api
from tests.support.telegram_desk import TelegramDesk, telegram_desk

WRITTEN = ("＋７９１６１２３４５６７", "+7\u00a0916\u00a0123\u00a045\u00a067", "+7 916 123 45 67")


def asked(folder: Path, command: str) -> TelegramDesk:
    """A bridge to which this was written, with what it has asked its node."""

    async def main(api: BotApi) -> TelegramDesk:
        alice = api.person(11, "Alice", "alice_a", "en")
        with open_spool(folder) as spool:
            async with telegram_desk(api, spool) as world:
                world.node.replies[LinkStartRequest] = lambda: LinkStartReply(expires_s=600)
                world.node.replies[CallQuoteRequest] = is_refused
                await world.receive(api, alice.write(command))
                return world

    with bot_api() as api:
        return anyio.run(main, api, backend="asyncio")


def is_refused() -> LinkStartReply:
    raise OperationError("there is no such account", "no_account")


@pytest.mark.parametrize("written", WRITTEN)
def test_a_telephone_is_linked_however_its_number_is_written(tmp_path: Path, written: str) -> None:
    (request,) = asked(tmp_path, f"/link {written}").node.asked
    assert isinstance(request, LinkStartRequest)
    assert request.phone.replace(" ", "") == "+79161234567"


@pytest.mark.parametrize("written", WRITTEN)
def test_a_telephone_is_called_however_its_number_is_written(tmp_path: Path, written: str) -> None:
    (request,) = asked(tmp_path, f"/call {written}").node.asked
    assert isinstance(request, CallQuoteRequest)
    assert request.callee == "+79161234567"
