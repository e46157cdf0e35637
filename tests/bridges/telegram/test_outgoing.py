"""What is said to a Bot API that fails, by the real library: it is said again where that has not
been heard, and has its effect once."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio
import pytest
from telegram import Bot

from bridges.telegram import webhook
from bridges.telegram.keyboards import ring_buttons
from bridges.telegram.outgoing import NotSent, Outgoing
from bridges.telegram.reachability import Reachability
from core.bridge_config import TelegramConfig
from core.clock import SystemClock
from tests.support.bot_api import BOT_NAME, BotApi, FakePerson, bot_api
from tests.support.telegram_desk import telegram_bot

PASSING = ["429", "502", "nothing"]
"""Faults after which it is not known to have been done, and was not."""
NOT_MODIFIED = (
    "400 Bad Request: message is not modified: specified new message content and reply markup are "
    "exactly the same as a current content and reply markup of the message"
)
BUTTONS = ring_buttons("en", "CALL-AAAAAAAA", "https://node.example/call?id=CALL-AAAAAAAA#secret")
SECRET = "a-secret-of-the-webhook"


class World:
    """What writes, and to whom."""

    def __init__(self, api: BotApi, bot: Bot) -> None:
        self.api = api
        self.bot = bot
        self.states: list[str] = []
        self.reachability = Reachability(api.url, self.states.append)
        self.out = Outgoing(bot, SystemClock(), self.reachability)
        self.bob: FakePerson = api.person(12, "Bob", "bob_b", "en")
        self.bob.has_started = True

    def assert_told(self, *faults: str) -> None:
        """Operators were told of what is no wish of Telegram's to wait, and that it is over."""
        assert self.out.retried == len(faults)
        assert any(self.api.url in state for state in self.states) == (faults != ("429",))
        assert self.states[-1] == self.reachability.state
        assert not any(self.api.faults.values())


def run(use: Callable[[World], Awaitable[None]]) -> None:
    async def main(api: BotApi) -> None:
        async with telegram_bot(api) as bot:
            await use(World(api, bot))

    with bot_api() as api:
        anyio.run(main, api, backend="asyncio")
        assert api.problems == []
        assert api.slowed == 0


@pytest.mark.parametrize("fault", PASSING)
def test_who_the_bot_is_is_asked_until_it_is_told(fault: str) -> None:
    async def use(world: World) -> None:
        world.api.fail("getMe", fault)
        me = await world.out.call(world.bot.get_me)
        assert me.username == BOT_NAME
        world.assert_told(fault)

    run(use)


def test_a_token_that_is_refused_is_named_until_it_is_right() -> None:
    async def use(world: World) -> None:
        world.api.fail("getMe", "401 Unauthorized", "404 Not Found")
        await world.out.call(world.bot.get_me)
        assert [state.count("bridges.telegram.token") for state in world.states] == [1, 1, 0]

    run(use)


@pytest.mark.parametrize("fault", [*PASSING, "lost"])
def test_a_message_is_changed_once(fault: str) -> None:
    async def use(world: World) -> None:
        number = await world.out.send(12, "It rings", BUTTONS)
        world.api.fail("editMessageText", fault)
        await world.out.edit(12, number, "It rings no more")
        (message,) = world.bob.messages
        assert (message.text, message.buttons) == ("It rings no more", [])
        assert message.edits == 1
        world.assert_told(fault)

    run(use)


def test_a_message_that_says_it_already_is_not_written_anew() -> None:
    async def use(world: World) -> None:
        number = await world.out.send(12, "It rings no more")
        await world.out.edit(12, number, "It rings no more")
        world.api.fail("editMessageText", NOT_MODIFIED)
        await world.out.edit(12, number, "Something else")
        assert world.bob.texts() == ["It rings no more"]
        assert len(world.api.called("sendMessage")) == 1
        assert len(world.api.called("editMessageText")) == 2
        assert world.out.retried == 0

    run(use)


def test_a_message_that_can_not_be_changed_is_written_anew_once() -> None:
    async def use(world: World) -> None:
        number = await world.out.send(12, "It rings", BUTTONS)
        world.api.fail("editMessageText", "400 Bad Request: message can't be edited")
        await world.out.edit(12, number, "It rings no more")
        assert world.bob.texts() == ["It rings", "It rings no more"]
        assert len(world.api.called("editMessageText")) == 1
        assert world.out.retried == 0

    run(use)


def test_nothing_is_written_anew_to_who_wants_nothing() -> None:
    async def use(world: World) -> None:
        number = await world.out.send(12, "It rings", BUTTONS)
        world.bob.has_blocked = True
        with pytest.raises(NotSent) as refused:
            await world.out.edit(12, number, "It rings no more")
        assert refused.value.reason == "blocked"
        assert len(world.api.called("sendMessage")) == 1

    run(use)


@pytest.mark.parametrize("fault", PASSING)
def test_a_button_is_answered_once(fault: str) -> None:
    async def use(world: World) -> None:
        press = world.api.next_press()
        world.api.fail("answerCallbackQuery", fault)
        await world.out.answer_press(press, "Done.")
        assert world.api.shown == {press: "Done."}
        assert len(world.api.called("answerCallbackQuery")) == 2
        world.assert_told(fault)

    run(use)


def test_a_button_that_was_pressed_long_ago_is_left_alone() -> None:
    async def use(world: World) -> None:
        press = world.api.next_press()
        late = (
            "400 Bad Request: query is too old and response timeout expired or query ID is invalid"
        )
        world.api.fail("answerCallbackQuery", late)
        await world.out.answer_press(press, "Done.")
        assert world.api.shown == {}
        assert len(world.api.called("answerCallbackQuery")) == 1
        assert world.bob.messages == []
        assert world.out.retried == 0

    run(use)


def config(api: BotApi) -> TelegramConfig:
    return TelegramConfig(
        token=api.token,
        api_url=api.url,
        webhook_url="https://node.example/telegram",
        webhook_secret=SECRET,
    )


@pytest.mark.parametrize("fault", PASSING)
def test_the_webhook_is_set_when_the_bot_api_answers(fault: str) -> None:
    async def use(world: World) -> None:
        world.api.fail("setWebhook", fault)
        await webhook._set_webhook(config(world.api), world.bot, world.out, world.reachability)
        assert world.api.webhook is not None
        assert world.api.webhook["url"] == "https://node.example/telegram"
        assert len(world.api.called("setWebhook")) == 2
        world.assert_told(fault)

    run(use)


def test_a_webhook_that_telegram_refuses_is_named_and_set_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(webhook, "REFUSED_RETRY_S", 0.01)

    async def use(world: World) -> None:
        refused = "400 Bad Request: bad webhook: Failed to resolve host: Name or service not known"
        world.api.fail("setWebhook", refused, refused)
        await webhook._set_webhook(config(world.api), world.bot, world.out, world.reachability)
        assert world.api.webhook is not None
        assert any("bridges.telegram.webhook_url" in state for state in world.states)
        assert world.states[-1] == world.reachability.state
        assert len(world.api.called("setWebhook")) == 3

    run(use)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("montana")]
    assert told == ["the webhook is refused"]
