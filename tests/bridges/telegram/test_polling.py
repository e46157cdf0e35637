"""Updates come by the real client from a Bot API server that fails in each way that it can."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from telegram import Bot

from bridges.spool import Spool, open_spool
from bridges.telegram import polling
from bridges.telegram.intake import Intake
from bridges.telegram.reachability import Reachability
from bridges.telegram.updates import Incoming
from core.clock import SystemClock
from tests.support.bot_api import TOKEN, WAIT_S, BotApi, bot_api


@pytest.mark.filterwarnings("ignore:Please use 'Bot.getUpdates'")
def test_a_question_that_nothing_answers_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "TIMEOUT_S", 1)
    monkeypatch.setattr(polling, "LATE_S", 0)
    with bot_api() as api, open_spool(tmp_path) as spool:
        api.fail("getUpdates", "nothing", "502", "429", "nothing")
        alice = api.person(7, "Alice")
        written = [alice.write(text) for text in ("one", "two", "three")]
        assert anyio.run(take, api, spool, len(written), backend="asyncio") == written
        assert not api.faults["getUpdates"]
        assert api.problems == []


async def take(api: BotApi, spool: Spool, count: int) -> list[int]:
    """The numbers of the first updates that are carried out."""
    done: list[int] = []
    states: list[str] = []
    ended = anyio.Event()

    async def carry_out(incoming: Incoming) -> None:
        done.append(incoming.update)
        if len(done) == count:
            ended.set()

    async def tell_too_many(incoming: Incoming, count: int) -> None:
        raise AssertionError(f"{count} of chat {incoming.chat} were too many")

    async def tell_failed(incoming: Incoming, is_again: bool) -> None:
        raise AssertionError(f"{incoming.update} has failed")

    intake = Intake(spool, carry_out, tell_too_many, tell_failed)
    bot = Bot(TOKEN, base_url=f"{api.url}/bot")
    with anyio.fail_after(WAIT_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(intake.run)
            reachability = Reachability(api.url, states.append)
            tasks.start_soon(polling.poll, bot, intake, reachability, SystemClock())
            await ended.wait()
            tasks.cancel_scope.cancel()
    # It was told of what was wrong, and that it is over.
    assert any(api.url in state for state in states)
    assert states[-1] == reachability.state
    return done
