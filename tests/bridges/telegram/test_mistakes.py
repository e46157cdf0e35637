"""Handlers that fail as nobody has foreseen: who has asked is told, the log says where, and nothing
of what they have written is in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from bridges.spool import open_spool
from bridges.telegram import commands, desk, intake, money, texts
from bridges.telegram.updates import read_untrusted
from core.api.messages import (
    AccountHistoryRequest,
    HistoryReply,
    ReplyBody,
    RequestBody,
    TransferReply,
    VoucherRedeemRequest,
)
from core.errors import ApiError, OperationError
from core.log import TextFormatter
from tests.support.bot_api import BOT_NAME, WAIT_S, BotApi, FakePerson, bot_api
from tests.support.telegram_desk import TelegramDesk, telegram_bot, telegram_desk

SECRET = "ABCD-what-was-written"
NOT_DONE = "This could not be done"
UNSURE = "I can't tell whether it was done"
GROUP = -1001


def run(folder: Path, use: Callable[[BotApi, TelegramDesk], Awaitable[None]]) -> None:
    async def main(api: BotApi) -> None:
        with open_spool(folder) as spool:
            async with telegram_desk(api, spool) as world:
                await use(api, world)

    with bot_api() as api:
        anyio.run(main, api, backend="asyncio")
        assert api.problems == []
        assert api.slowed == 0


def alice_of(api: BotApi) -> FakePerson:
    return api.person(11, "Alice", "alice_a", "en")


def fails(*_: object) -> Any:
    raise KeyError(SECRET)


def is_refused() -> ReplyBody:
    raise OperationError("there is no such voucher", "no_voucher")


def is_unreadable() -> ReplyBody:
    raise ApiError("a field is too long")


def is_redeemed() -> ReplyBody:
    return TransferReply(
        id="0" * 32, debit="#5", credit="#17", amount="25.000000", currency="J", fee="0.000000"
    )


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """The log as it is written."""
    formatter = TextFormatter()
    return "\n".join(formatter.format(record) for record in caplog.records)


def test_what_fails_before_the_node_was_asked_for_anything_was_not_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(api: BotApi, world: TelegramDesk) -> None:
        alice, boris = alice_of(api), api.person(12, "Борис", "", "ru")
        world.node.replies[AccountHistoryRequest] = fails
        await world.receive(api, alice.write("/history"), boris.write("/history"))
        assert [text.partition(",")[0] for text in alice.texts()] == [NOT_DONE]
        assert [text.partition(",")[0] for text in boris.texts()] == ["Не получилось"]
        assert world.intake.failed == 2
        # The next one is carried out.
        world.node.replies[AccountHistoryRequest] = lambda: HistoryReply("#17", [], None)
        await world.receive(api, alice.write("/history"))
        assert alice.texts()[1:] == ["Nothing has come or gone yet."]

    run(tmp_path, use)
    log = logged(caplog)
    assert log.count("an update could not be carried out error=KeyError") == 2
    # Where it was raised, and the way to there.
    assert 'test_mistakes.py", line' in log
    assert "in fails" in log
    assert "in history" in log
    assert SECRET not in log


def test_what_the_node_was_asked_for_may_have_been_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(api: BotApi, world: TelegramDesk) -> None:
        alice, boris = alice_of(api), api.person(12, "Борис", "", "ru")
        world.node.replies[VoucherRedeemRequest] = fails
        await world.receive(api, alice.write(f"/redeem {SECRET}"), boris.write(f"/redeem {SECRET}"))
        assert len(alice.texts()) == len(boris.texts()) == 1
        assert UNSURE in alice.texts()[0]
        assert "выполнено ли это, неизвестно" in boris.texts()[0]
        # What the node has refused was not done.
        world.node.replies[VoucherRedeemRequest] = is_refused
        monkeypatch.setattr(commands, "refusal", fails)
        await world.receive(api, alice.write(f"/redeem {SECRET}"))
        assert alice.texts()[1].startswith(NOT_DONE)
        # It is done, and to say so fails.
        world.node.replies[VoucherRedeemRequest] = is_redeemed
        monkeypatch.setattr(money, "short", fails)
        await world.receive(api, alice.write(f"/redeem {SECRET}"))
        assert UNSURE in alice.texts()[2]
        assert len(alice.texts()) == 3
        assert not world.desk.begun

    run(tmp_path, use)
    assert SECRET not in logged(caplog)


def test_an_update_that_an_earlier_process_had_may_have_been_done_by_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(api: BotApi) -> None:
        alice = alice_of(api)
        with open_spool(tmp_path) as spool:
            # It is stored, and nobody carries it out.
            number = alice.write(f"/redeem {SECRET}")
            async with telegram_bot(api) as bot:
                incoming = read_untrusted(api.given(number))
                assert incoming is not None
                await TelegramDesk(spool, bot).intake.take([incoming])
            async with telegram_desk(api, spool) as world:
                monkeypatch.setattr(world.desk.people, "see", fails)
                await world.settle()
                assert len(alice.texts()) == 1
                assert UNSURE in alice.texts()[0]
                assert world.node.asked == []
                # One that has come since was not begun by anybody.
                await world.receive(api, alice.write(f"/redeem {SECRET}"))
                assert alice.texts()[1].startswith(NOT_DONE)

    with bot_api() as api:
        anyio.run(main, api, backend="asyncio")
        assert api.problems == []


def test_what_no_node_reads_was_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(api: BotApi, world: TelegramDesk) -> None:
        alice = alice_of(api)
        world.node.replies[VoucherRedeemRequest] = is_unreadable
        await world.receive(api, alice.write(f"/redeem {SECRET}"))
        monkeypatch.setattr(commands, "log_event", fails)
        await world.receive(api, alice.write(f"/redeem {SECRET}"))
        assert [text.partition(",")[0] for text in alice.texts()] == [NOT_DONE] * 2
        assert world.intake.failed == 1

    run(tmp_path, use)


def test_what_was_done_is_forgotten_with_its_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The next update that is done has this one forgotten.
    monkeypatch.setattr(intake, "DONE_MAXIMUM", 1)

    async def main(api: BotApi) -> None:
        alice = alice_of(api)
        with open_spool(tmp_path) as spool:
            number = alice.write(f"/redeem {SECRET}")
            async with telegram_bot(api) as bot:
                incoming = read_untrusted(api.given(number))
                assert incoming is not None
                await TelegramDesk(spool, bot).intake.take([incoming])
            async with telegram_desk(api, spool) as world:
                world.node.replies[VoucherRedeemRequest] = is_redeemed
                await world.settle()
                await world.receive(api, alice.write("/help"))
                assert not world.desk.begun
                # Telegram may give its number to another one, after idle weeks.
                monkeypatch.setattr(world.desk.people, "see", fails)
                await world.receive(api, number)
                redeemed, _, failed = alice.texts()
                assert redeemed == "Redeemed: 25 Ɉ."
                assert failed.startswith(NOT_DONE)

    with bot_api() as api:
        anyio.run(main, api, backend="asyncio")
        assert api.problems == []


def test_a_button_whose_handler_fails_stops_turning(tmp_path: Path) -> None:
    async def use(api: BotApi, world: TelegramDesk) -> None:
        alice = alice_of(api)
        await world.receive(api, alice.write("/help"))
        (shown,) = alice.messages
        world.node.replies[AccountHistoryRequest] = fails
        await world.receive(api, alice.press_data(shown, "h:5"))
        assert list(api.shown.values()) == [""]
        assert alice.texts()[1].startswith(NOT_DONE)

    run(tmp_path, use)


def test_in_a_group_those_alone_are_told_who_have_asked_the_bot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(api: BotApi, world: TelegramDesk) -> None:
        alice = alice_of(api)
        monkeypatch.setattr(world.desk.people, "see", fails)
        await world.receive(
            api,
            alice.write("what they say among themselves", group=GROUP),
            alice.write("/stickers", group=GROUP),
            alice.write("/help@another_bot", group=GROUP),
            alice.block(),
            alice.block(False),
        )
        assert world.intake.failed == 5
        assert api.called("sendMessage") == []
        await world.receive(api, alice.write(f"/help@{BOT_NAME}", group=GROUP))
        assert [message.text.partition(",")[0] for message in api.messages(GROUP)] == [NOT_DONE]

    run(tmp_path, use)


def test_who_can_not_be_told_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(api: BotApi, world: TelegramDesk) -> None:
        alice = alice_of(api)
        with monkeypatch.context() as patched:
            patched.setattr(desk, "say", fails)
            await world.receive(api, alice.write(SECRET))
        alice.has_blocked = True
        world.node.replies[AccountHistoryRequest] = fails
        await world.receive(api, alice.write("/history"))
        alice.has_blocked = False
        await world.receive(api, alice.write("/help"))
        (told,) = alice.texts()
        assert told.startswith("What I can do")

    run(tmp_path, use)
    log = logged(caplog)
    assert log.count("nobody was told of it") == 1
    assert log.count("an answer was not taken reason=blocked") == 1
    assert SECRET not in log


def test_who_can_not_be_told_that_messages_were_too_many_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(language: texts.Language, key: str, **values: object) -> str:
        return fails() if key == "too_many" else texts.say(language, key, **values)

    monkeypatch.setattr(intake, "CHAT_MAXIMUM", 1)
    monkeypatch.setattr(desk, "say", say)

    async def use(api: BotApi, world: TelegramDesk) -> None:
        alice = alice_of(api)
        await world.receive(api, alice.write("/help"), alice.write("/help"))
        assert world.intake.refused == 1
        await world.receive(api, alice.write("/help"))
        assert [text.partition(":")[0] for text in alice.texts()] == ["What I can do"] * 2

    run(tmp_path, use)
    log = logged(caplog)
    assert log.count("nobody was told that messages were too many error=KeyError") == 1
    assert SECRET not in log


def test_a_node_that_is_away_is_told_of_and_asked_until_it_answers(tmp_path: Path) -> None:
    async def use(api: BotApi, world: TelegramDesk) -> None:
        alice = alice_of(api)
        # Else it would be away for two requests.
        await world.desk.people.know(11, has_account=True)
        world.node.is_slow = True
        world.node.replies[VoucherRedeemRequest] = is_redeemed
        await world.receive(api, alice.write(f"/redeem {SECRET}"))
        away, redeemed = alice.texts()
        assert away.startswith("The node is away. What you asked for is kept")
        assert redeemed == "Redeemed: 25 Ɉ."
        assert len(world.node.asked) == 1

    run(tmp_path, use)


def test_who_is_new_is_told_that_the_node_is_away(tmp_path: Path) -> None:
    async def use(api: BotApi, world: TelegramDesk) -> None:
        alice = alice_of(api)
        back = anyio.Event()
        answer = world.node.request

        async def when_back(body: RequestBody) -> ReplyBody:
            await back.wait()
            return await answer(body)

        world.node.request = when_back  # type: ignore[method-assign]
        world.node.is_slow = True
        world.node.replies[AccountHistoryRequest] = lambda: HistoryReply("#17", [], None)
        incoming = read_untrusted(api.given(alice.write("/history")))
        assert incoming is not None
        await world.intake.take([incoming])
        with anyio.fail_after(WAIT_S):
            while not alice.messages:
                await anyio.sleep(0.01)
        assert alice.texts()[0].startswith("The node is away. What you asked for is kept")
        world.node.is_slow = False
        back.set()
        await world.settle()
        assert alice.texts()[1:] == ["Nothing has come or gone yet."]

    run(tmp_path, use)
