"""/answer, without processes: what the node says of a call may be over before it is shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from bridges.spool import open_spool
from bridges.telegram.updates import read_untrusted
from core.api.bridge_messages import CallSideRequest
from core.api.messages import CallListReply, CallListRequest
from tests.support.bot_api import WAIT_S, BotApi, FakePerson, bot_api
from tests.support.telegram_desk import CALL, TelegramDesk, call_item, call_side, telegram_desk

RINGS = "📞 tg:12 calls you: voice."
MISSED = "📞 tg:12: missed."

Use = Callable[[BotApi, FakePerson, TelegramDesk], Awaitable[None]]


def run(folder: Path, use: Use) -> None:
    async def main(api: BotApi) -> None:
        alice = api.person(11, "Alice", "alice_a", "en")
        with open_spool(folder) as spool:
            async with telegram_desk(api, spool) as world:
                world.node.replies[CallListRequest] = lambda: CallListReply(
                    [call_item("ringing")], None
                )
                await use(api, alice, world)

    with bot_api() as api:
        anyio.run(main, api, backend="asyncio")
        assert api.problems == []
        assert api.slowed == 0


@pytest.mark.parametrize(
    ("status", "told"),
    [("ringing", RINGS), ("missed", "Nobody calls you."), ("ended", "Nobody calls you.")],
)
def test_a_call_that_is_over_by_then_is_not_shown(tmp_path: Path, status: str, told: str) -> None:
    async def use(api: BotApi, alice: FakePerson, world: TelegramDesk) -> None:
        world.node.replies[CallSideRequest] = lambda: call_side(status)
        await world.receive(api, alice.write("/answer"))
        (message,) = alice.messages
        assert message.text == told
        assert bool(message.buttons) == (status == "ringing")

    run(tmp_path, use)


def test_a_call_that_ends_while_its_message_waits_says_so(tmp_path: Path) -> None:
    async def use(api: BotApi, alice: FakePerson, world: TelegramDesk) -> None:
        world.node.replies[CallSideRequest] = lambda: call_side("ringing")
        api.fail("sendMessage", "429")
        incoming = read_untrusted(api.given(alice.write("/answer")))
        assert incoming is not None
        await world.intake.take([incoming])
        with anyio.fail_after(WAIT_S):
            while not api.called("sendMessage"):
                await anyio.sleep(0.01)
        await world.desk.rings.end(CALL, "missed", 0)
        assert alice.messages == []
        await world.settle()
        (message,) = alice.messages
        assert (message.text, message.buttons) == (MISSED, [])

    run(tmp_path, use)
