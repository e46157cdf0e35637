"""A telephone number and a Telegram user become one account, by a code that went to the phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from billing.link_codes import shown
from billing.money import J
from billing.sms_codes import CODE_LIFETIME_S, CODES_OF_DAY, TRIES_OF_DAY, CodeRefused
from core.api.bridge_messages import (
    LinkConfirmRequest,
    LinkLookReply,
    LinkLookRequest,
    LinkStartReply,
    LinkStartRequest,
    SmsBody,
    UnlinkedBody,
)
from core.api.messages import AccountReply
from core.errors import OperationError
from core.units import DAY_S
from tests.support.sms_world import ALICE, BOB, World, open_world

U = J.unit
TELEGRAM, OTHER = "tg:5", "tg:6"
pytestmark = pytest.mark.trio


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as world:
        yield world


def code_in(text: str) -> str:
    match = re.search(r"[A-Z2-7]{4}-[A-Z2-7]{4}", text)
    assert match is not None
    return match[0]


async def confirm(world: World, code: str, address: str = TELEGRAM) -> AccountReply:
    reply = await world.sms.answer(LinkConfirmRequest(address, code))
    assert isinstance(reply, AccountReply)
    return reply


async def look(world: World, code: str, address: str = TELEGRAM) -> LinkLookReply:
    reply = await world.sms.answer(LinkLookRequest(address, code))
    assert isinstance(reply, LinkLookReply)
    return reply


async def test_who_types_a_code_is_shown_the_number_and_nothing_happens(world: World) -> None:
    await world.give(ALICE, "10")
    await world.give(TELEGRAM, "5")
    code = code_in(await world.told("LINK"))
    for _ in range(TRIES_OF_DAY + 1):
        assert await look(world, code) == LinkLookReply("+7 999 ••• 567", False)
    assert world.balance(TELEGRAM) == 5 * U
    assert world.balance(ALICE) == 10 * U
    await confirm(world, code)
    assert (await look(world, code)).linked
    with pytest.raises(CodeRefused):
        await look(world, code, OTHER)
    # Another code of the same two has nothing to do either.
    assert (await look(world, code_in(await world.told("LINK")))).linked


async def test_a_used_code_links_nobody_again_not_even_its_user(world: World) -> None:
    await world.give(TELEGRAM, "5000")
    code = code_in(await world.told("LINK"))
    await confirm(world, code)
    await confirm(world, code_in(await world.told("LINK")), OTHER)
    mine, other = world.ledger.find(TELEGRAM), world.ledger.find(OTHER)
    assert mine != other
    for ask in (look, confirm):
        for address in (TELEGRAM, OTHER):
            with pytest.raises(CodeRefused) as refused:
                await ask(world, code, address)
            assert refused.value.code == "no_code"
    assert world.ledger.find(TELEGRAM) == mine
    assert world.ledger.find(ALICE) == other


@pytest.mark.parametrize(
    ("phone", "shown_as"),
    [
        ("+4915123456789", "+49 151 ••• 789"),
        ("+79991234567", "+7 999 ••• 567"),
        ("+12025550123", "+1 202 ••• 123"),
        ("+37254123456", "+372 54 ••• 56"),
        ("+2908123", "+290 8 ••• 3"),
    ],
)
async def test_a_number_is_known_again_and_not_told(phone: str, shown_as: str) -> None:
    assert shown(phone) == shown_as


async def test_link_by_sms_makes_one_account_of_two(world: World) -> None:
    await world.give(ALICE, "10")
    await world.give(TELEGRAM, "5")
    code = code_in(await world.told("LINK"))
    reply = await confirm(world, code.lower().replace("-", " "))
    assert set(reply.addresses) == {TELEGRAM, ALICE}
    assert reply.balance == "15.000000"
    assert await world.told("BAL") == "Balance: 14 J"
    # It was theirs: they get the same answer. Nobody else does.
    assert (await confirm(world, code)).account == reply.account
    with pytest.raises(CodeRefused):
        await confirm(world, code, OTHER)


async def test_link_from_telegram_sends_a_code_that_nobody_else_can_use(world: World) -> None:
    request = LinkStartRequest(TELEGRAM, "8 999 123-45-67", "ab" * 16)
    for _ in range(2):
        assert await world.sms.answer(request) == LinkStartReply(CODE_LIFETIME_S)
    (event,) = world.events()
    assert event.to == ALICE
    assert isinstance(event.body, SmsBody)
    # Who got it later would type a code that does nothing.
    assert event.expires_ms - event.created_ms == CODE_LIFETIME_S * 1000
    code = code_in(event.body.text)
    with pytest.raises(CodeRefused):
        await confirm(world, code, OTHER)
    assert set((await confirm(world, code)).addresses) == {TELEGRAM, ALICE}


async def test_a_code_ends(world: World) -> None:
    code = code_in(await world.told("LINK"))
    world.clock.advance_s(CODE_LIFETIME_S)
    with pytest.raises(CodeRefused):
        await confirm(world, code)


async def test_who_had_the_number_keeps_the_money_and_is_told_when_it_goes(world: World) -> None:
    """A number that is given to somebody else, or a SIM card that was swapped, opens no account."""
    await world.give(ALICE, "10")
    await world.give(TELEGRAM, "5000")
    await confirm(world, code_in(await world.told("LINK")))
    taken = await confirm(world, code_in(await world.told("LINK")), OTHER)
    assert taken.addresses == [OTHER, ALICE]
    assert taken.balance == "0.000000"
    assert world.balance(TELEGRAM) == 5010 * U
    (event,) = world.events()
    assert isinstance(event.body, UnlinkedBody)
    assert event.body.balance == "5010.000000"
    assert (event.to, type(event.body)) == (TELEGRAM, UnlinkedBody)
    assert ALICE not in str(event.body)


async def test_few_wrong_codes_may_be_tried_in_a_day(world: World) -> None:
    code = code_in(await world.told("LINK"))
    for number in range(TRIES_OF_DAY):
        with pytest.raises(CodeRefused) as refused:
            await (look if number % 2 else confirm)(world, "AAAA-AAAA")
        assert refused.value.code == "no_code"
    for ask in (look, confirm):
        with pytest.raises(CodeRefused) as refused:
            await ask(world, code)
        assert refused.value.code == "too_many_tries"
    assert (await confirm(world, code, OTHER)).addresses == [OTHER, ALICE]
    world.clock.advance_s(DAY_S)
    await confirm(world, code_in(await world.told("LINK", BOB)))


async def test_few_codes_are_sent_in_a_day(world: World) -> None:
    for number in range(CODES_OF_DAY):
        await world.wallet.links.start(f"tg:{number + 1}", ALICE)
    with pytest.raises(CodeRefused):
        await world.wallet.links.start(TELEGRAM, ALICE)
    assert "Too many codes" in await world.told("LINK")
    for number in range(CODES_OF_DAY):
        await world.wallet.links.start("tg:99", f"+7999555{number:04}")
    with pytest.raises(CodeRefused):
        await world.wallet.links.start("tg:99", BOB)


@pytest.mark.parametrize("address", ["user:alice", ALICE, "tg:x", "issue"])
async def test_only_telegram_users_are_linked(world: World, address: str) -> None:
    for request in (
        LinkStartRequest(address, ALICE),
        LinkLookRequest(address, "AAAA-AAAA"),
        LinkConfirmRequest(address, "AAAA-AAAA"),
    ):
        with pytest.raises(OperationError):
            await world.sms.answer(request)


@pytest.mark.parametrize("code", ["", "A", "AAAAAAAA" * 9, "😀" * 8, "AAAA-AAA1", "\x00" * 8])
async def test_what_is_no_code_is_refused(world: World, code: str) -> None:
    with pytest.raises(CodeRefused):
        await confirm(world, code)
