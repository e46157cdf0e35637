"""A disk that takes nothing for a while: what was asked for is carried out when it does again,
once, and nobody is told that it was not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from bridges.spool import Change, SpoolFull, open_spool
from bridges.telegram import intake, table
from bridges.telegram.updates import read_untrusted
from core.api.bridge_messages import CallRejectRequest, CallSideRequest, UserTransferRequest
from core.api.messages import CallEndReply, CallListReply, CallListRequest, TransferReply
from core.log import TextFormatter
from tests.support.bot_api import WAIT_S, BotApi, FakePerson, bot_api
from tests.support.telegram_desk import (
    CALL,
    FullSpool,
    TelegramDesk,
    call_item,
    call_side,
    telegram_desk,
)

RINGS = "📞 tg:12 calls you: voice."

Use = Callable[[BotApi, FakePerson, TelegramDesk, FullSpool], Awaitable[None]]


@pytest.fixture(autouse=True)
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "FULL_RETRY_S", 0.01)
    monkeypatch.setattr(table, "FULL_RETRY_S", 0.01)


def run(folder: Path, use: Use) -> None:
    async def main(api: BotApi) -> None:
        alice = api.person(11, "Alice", "alice_a", "en")
        with open_spool(folder) as opened:
            spool = FullSpool(opened)
            async with telegram_desk(api, spool) as world:
                await use(api, alice, world, spool)

    with bot_api() as api:
        anyio.run(main, api, backend="asyncio")
        assert api.problems == []
        assert api.slowed == 0


async def carried_out(
    world: TelegramDesk,
    spool: FullSpool,
    update: dict[str, object],
    refuses: Callable[[Change], bool],
) -> None:
    """Have an update taken in and carried out, where the disk has refused this three times."""
    spool.refuses = refuses
    before = spool.refused
    incoming = read_untrusted(update)
    assert incoming is not None
    await world.intake.take([incoming])
    with anyio.fail_after(WAIT_S):
        while spool.refused < before + 3:
            assert len(world.intake), "it was given up"
            await anyio.sleep(0.01)
    spool.refuses = lambda _: False
    await world.settle()


def test_what_is_chosen_is_done_once_it_is_stored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(api: BotApi, alice: FakePerson, world: TelegramDesk, spool: FullSpool) -> None:
        done = TransferReply(
            id="0" * 32, debit="#17", credit="#18", amount="5.0", currency="J", fee="1.0"
        )
        world.node.replies[UserTransferRequest] = lambda: done
        api.person(12, "Boris", "boris_b", "en")
        await world.receive(api, alice.write("/help"))
        (shown,) = alice.messages
        token = await world.desk.offers.make(1, 11, "tg:12", "Boris", "5")
        press = api.given(alice.press_data(shown, f"o:{token}"))
        await carried_out(world, spool, press, lambda change: change.kind == "offer")
        (message,) = alice.messages
        assert message.text.startswith("Sent 5 Ɉ to Boris")
        (request,) = world.node.asked
        assert isinstance(request, UserTransferRequest)
        assert request.id == world.desk.offers.effect(token)
        assert world.intake.failed == 0

    run(tmp_path, use)
    log = "\n".join(TextFormatter().format(record) for record in caplog.records)
    assert log.count('an update has to wait reason="the disk is full"') >= 3


def test_a_call_that_was_rejected_is_not_said_not_to_be(tmp_path: Path) -> None:
    async def use(api: BotApi, alice: FakePerson, world: TelegramDesk, spool: FullSpool) -> None:
        world.node.replies[CallRejectRequest] = lambda: CallEndReply(call_item("rejected"))
        await world.receive(api, alice.write("/help"))
        (shown,) = alice.messages
        await world.desk.rings.add(CALL, 11, shown.number, "Boris")
        press = api.given(alice.press_data(shown, f"r:{CALL}"))
        await carried_out(world, spool, press, lambda change: change.kind == "ring")
        assert alice.texts() == ["📞 Boris: rejected."]
        assert list(api.shown.values()) == ["You have rejected the call."]

    run(tmp_path, use)


def test_a_ring_that_was_asked_for_is_shown_once(tmp_path: Path) -> None:
    async def use(api: BotApi, alice: FakePerson, world: TelegramDesk, spool: FullSpool) -> None:
        world.node.replies[CallListRequest] = lambda: CallListReply([call_item("ringing")], None)
        world.node.replies[CallSideRequest] = lambda: call_side("ringing")
        answer = api.given(alice.write("/answer"))
        await carried_out(world, spool, answer, lambda change: change.kind == "ring")
        assert alice.texts() == [RINGS]
        # It is written, and where is not stored.
        answer = api.given(alice.write("/answer"))
        await carried_out(
            world,
            spool,
            answer,
            lambda change: change.kind == "ring" and len(alice.messages) == 2,
        )
        assert alice.texts() == [RINGS] * 2
        await world.desk.rings.end(CALL, "missed", 0)
        assert alice.texts() == ["📞 tg:12: missed."] * 2

    run(tmp_path, use)


def test_what_was_too_much_is_counted_once_however_often_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "CHAT_MAXIMUM", 1)

    async def use(api: BotApi, alice: FakePerson, world: TelegramDesk, spool: FullSpool) -> None:
        updates = [api.given(alice.write("/help")) for _ in range(3)]
        batch = [one for one in map(read_untrusted, updates) if one is not None]
        spool.refuses = lambda change: change.kind == "update"
        for _ in range(3):
            with pytest.raises(SpoolFull):
                await world.intake.take(batch)
        assert world.intake.refused == 0
        spool.refuses = lambda _: False
        await world.intake.take(batch)
        await world.settle()
        assert (world.intake.taken, world.intake.refused) == (1, 2)
        _, told = alice.texts()
        assert "the last 2 messages were not carried out" in told

    run(tmp_path, use)
