"""What every engine owes behind `billing.ledger.Ledger`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from billing.accounts import ADDRESSES_MAXIMUM, FIRST_USER_ACCOUNT, SYSTEM_ACCOUNTS, AddressError
from billing.journal import SideWrite
from billing.ledger import BURN, FEES, ISSUE, NODE, Chain, Ledger, open_ledger
from billing.money import AMOUNT_MAXIMUM, EMC, J
from billing.transfers import NO_ID, Code, Kind, Result, Transfer, TransferRefused
from core.clock import VirtualClock
from core.errors import OperationError
from core.tables import Writing
from tests.support.ledgers import everything

ALICE, BOB = FIRST_USER_ACCOUNT, FIRST_USER_ACCOUNT + 1
pytestmark = pytest.mark.trio


def identity(number: int) -> bytes:
    return number.to_bytes(16, "big")


def pay(number: int, debit: int, credit: int, amount: int, **more: Any) -> Transfer:
    return Transfer(identity(number), debit, credit, amount)._replace(**more)


def has(ledger: Ledger, account: int, currency: int = 0) -> int:
    return ledger.balance(account, (J, EMC)[currency]).posted


async def begin(ledger: Ledger) -> None:
    """Two accounts with 100 each."""
    assert await ledger.open_account(["user:alice"]) == ALICE
    assert await ledger.open_account(["user:bob"]) == BOB
    assert await ledger.transfer([pay(1, ISSUE, ALICE, 100), pay(2, ISSUE, BOB, 100)]) == [
        Result.DONE,
        Result.DONE,
    ]


async def refused(ledger: Ledger, transfer: Transfer) -> Result:
    """Why it was refused; nothing has changed."""
    before = everything(ledger)
    (result,) = await ledger.transfer([transfer])
    assert not result.is_done
    assert everything(ledger) == before
    assert ledger.find_transfer(transfer.id) is None or result is Result.ID_REUSED
    return result


# ---------------------------------------------------------------- ids


async def test_a_repeated_transfer_is_answered_and_not_done_again(ledger: Ledger) -> None:
    await begin(ledger)
    transfer = pay(3, ALICE, BOB, 30)
    assert await ledger.transfer([transfer]) == [Result.DONE]
    before = everything(ledger)
    assert await ledger.transfer([transfer]) == [Result.EXISTS]
    assert await ledger.transfer([transfer, transfer]) == [Result.EXISTS, Result.EXISTS]
    assert everything(ledger) == before
    assert (has(ledger, ALICE), has(ledger, BOB)) == (70, 130)
    assert len(await ledger.history(ALICE)) == 2


async def test_a_transfer_twice_in_one_call_is_done_once(ledger: Ledger) -> None:
    await begin(ledger)
    transfer = pay(3, ALICE, BOB, 30)
    assert await ledger.transfer([transfer, transfer]) == [Result.DONE, Result.EXISTS]
    assert has(ledger, BOB) == 130


async def test_of_many_who_ask_for_the_same_at_once_one_is_done(ledger: Ledger) -> None:
    await begin(ledger)
    results: list[Result] = []

    async def ask() -> None:
        results.extend(await ledger.transfer([pay(3, ALICE, BOB, 30)]))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert sorted(results) == [Result.DONE] + [Result.EXISTS] * 19
    assert has(ledger, BOB) == 130


@pytest.mark.parametrize(
    "other",
    [
        {"debit": BOB, "credit": ALICE},
        {"credit": NODE},
        {"amount": 31},
        {"currency": EMC.number},
        {"code": Code.USER},
        {"kind": Kind.PENDING},
    ],
    ids=lambda other: "-".join(other),
)
async def test_an_id_with_other_content_is_refused(ledger: Ledger, other: dict[str, Any]) -> None:
    await begin(ledger)
    transfer = pay(3, ALICE, BOB, 30)
    assert await ledger.transfer([transfer]) == [Result.DONE]
    assert await refused(ledger, transfer._replace(**other)) is Result.ID_REUSED


async def test_a_refused_transfer_leaves_its_id_free(ledger: Ledger) -> None:
    await begin(ledger)
    assert await refused(ledger, pay(3, ALICE, BOB, 101)) is Result.NO_FUNDS
    await ledger.transfer([pay(4, ISSUE, ALICE, 1)])
    assert await ledger.transfer([pay(3, ALICE, BOB, 101)]) == [Result.DONE]


@pytest.mark.parametrize("bad", [NO_ID, b"", b"short", bytes([1]) * 17])
async def test_an_id_is_16_bytes_and_not_all_zero(ledger: Ledger, bad: bytes) -> None:
    await begin(ledger)
    before = everything(ledger)
    with pytest.raises(OperationError):
        await ledger.transfer([pay(3, ALICE, BOB, 1), pay(4, ALICE, BOB, 1, id=bad)])
    assert everything(ledger) == before


async def test_a_transfer_is_found_as_it_was_done(ledger: Ledger) -> None:
    await begin(ledger)
    transfer = pay(3, ALICE, BOB, 30, code=Code.USER)
    await ledger.transfer([transfer])
    assert ledger.find_transfer(transfer.id) == transfer
    assert ledger.find_transfer(identity(9)) is None


# ---------------------------------------------------------------- amounts and accounts


async def test_a_users_account_is_never_overdrawn(ledger: Ledger) -> None:
    await begin(ledger)
    assert await refused(ledger, pay(3, ALICE, BOB, 101)) is Result.NO_FUNDS
    assert await ledger.transfer([pay(4, ALICE, BOB, 100)]) == [Result.DONE]
    assert await refused(ledger, pay(5, ALICE, BOB, 1)) is Result.NO_FUNDS
    assert await refused(ledger, pay(6, ALICE, BOB, 1, currency=EMC.number)) is Result.NO_FUNDS
    assert (has(ledger, ALICE), has(ledger, BOB)) == (0, 200)


async def test_those_who_spend_at_once_spend_what_is_there(ledger: Ledger) -> None:
    await begin(ledger)
    results: list[Result] = []

    async def spend(number: int) -> None:
        results.extend(await ledger.transfer([pay(number, ALICE, BOB, 30)]))

    async with trio.open_nursery() as nursery:
        for number in range(10, 20):
            nursery.start_soon(spend, number)
    assert sorted(results) == [Result.DONE] * 3 + [Result.NO_FUNDS] * 7
    assert has(ledger, ALICE) == 10


async def test_what_the_ledgers_own_accounts_owe_is_what_others_have(ledger: Ledger) -> None:
    await begin(ledger)
    assert has(ledger, ISSUE) == -200
    assert await ledger.transfer([pay(3, BURN, ALICE, 5)]) == [Result.DONE]
    assert sum(has(ledger, number) for number in everything(ledger)) == 0


@pytest.mark.parametrize("amount", [0, -1, -(2**63)])
async def test_an_amount_is_more_than_nothing(ledger: Ledger, amount: int) -> None:
    await begin(ledger)
    for number, kind in enumerate((Kind.POST, Kind.PENDING), 3):
        transfer = pay(number, ALICE, BOB, amount, kind=kind)
        assert await refused(ledger, transfer) is Result.BAD_AMOUNT


async def test_no_balance_overflows(ledger: Ledger) -> None:
    await begin(ledger)
    assert await refused(ledger, pay(3, ALICE, FEES, AMOUNT_MAXIMUM)) is Result.NO_FUNDS
    assert await refused(ledger, pay(4, NODE, BOB, AMOUNT_MAXIMUM)) is Result.OVERFLOW
    assert await ledger.transfer([pay(5, NODE, FEES, AMOUNT_MAXIMUM)]) == [Result.DONE]
    assert await refused(ledger, pay(6, NODE, BURN, 2)) is Result.OVERFLOW
    assert await refused(ledger, pay(7, ALICE, FEES, 1)) is Result.OVERFLOW
    assert await refused(ledger, pay(8, BURN, FEES, 1, kind=Kind.PENDING)) is Result.OVERFLOW


@pytest.mark.parametrize("number", [0, 99, 2**32 - 1])
async def test_unknown_accounts_are_refused(ledger: Ledger, number: int) -> None:
    await begin(ledger)
    assert await refused(ledger, pay(3, ALICE, number, 1)) is Result.NO_ACCOUNT
    assert await refused(ledger, pay(4, number, ALICE, 1)) is Result.NO_ACCOUNT
    with pytest.raises(OperationError):
        ledger.account(number)
    with pytest.raises(OperationError):
        await ledger.freeze(number, True)
    with pytest.raises(OperationError):
        await ledger.close_account(number)
    with pytest.raises(OperationError):
        await ledger.link(number, "user:new")
    assert ledger.find("user:new") is None


async def test_a_transfer_to_oneself_is_refused(ledger: Ledger) -> None:
    await begin(ledger)
    assert await refused(ledger, pay(3, ALICE, ALICE, 1)) is Result.SAME_ACCOUNT


# ---------------------------------------------------------------- linked


async def test_linked_transfers_happen_all_or_none(ledger: Ledger) -> None:
    await begin(ledger)
    before = everything(ledger)
    chain = [
        pay(3, ALICE, BOB, 60, linked=True),
        pay(4, BOB, ALICE, 500, linked=True),
        pay(5, ALICE, BOB, 1),
    ]
    assert await ledger.transfer([*chain, pay(6, ALICE, BOB, 1)]) == [
        Result.LINKED_FAILED,
        Result.NO_FUNDS,
        Result.LINKED_FAILED,
        Result.DONE,
    ]
    assert has(ledger, ALICE) == 99
    await ledger.transfer([pay(7, BOB, ALICE, 1)])
    assert everything(ledger) == before
    chain[1] = chain[1]._replace(amount=160)
    assert await ledger.transfer(chain) == [Result.DONE] * 3
    assert await ledger.transfer(chain) == [Result.EXISTS] * 3
    assert has(ledger, ALICE) == 199


async def test_a_chain_takes_no_transfer_that_was_done_before(ledger: Ledger) -> None:
    await begin(ledger)
    await ledger.transfer([pay(3, ALICE, BOB, 1)])
    before = everything(ledger)
    chain = [pay(3, ALICE, BOB, 1, linked=True), pay(4, ALICE, BOB, 1)]
    results = await ledger.transfer(chain)
    assert not any(result.is_done for result in results)
    assert Result.ID_REUSED in results
    assert everything(ledger) == before


async def test_a_chain_has_to_end(ledger: Ledger) -> None:
    await begin(ledger)
    before = everything(ledger)
    chain = [pay(3, ALICE, BOB, 1, linked=True), pay(4, ALICE, BOB, 1, linked=True)]
    assert await ledger.transfer(chain) == [Result.OPEN_CHAIN] * 2
    assert everything(ledger) == before


# ---------------------------------------------------------------- pending


def resolve(number: int, kind: Kind, amount: int = 0, reference: int = 3) -> Transfer:
    return Transfer(identity(number), 0, 0, amount, kind=kind, reference=identity(reference))


async def test_what_is_reserved_cannot_be_spent(ledger: Ledger) -> None:
    await begin(ledger)
    assert await ledger.transfer([pay(3, ALICE, BOB, 70, kind=Kind.PENDING)]) == [Result.DONE]
    alice, bob = ledger.balance(ALICE, J), ledger.balance(BOB, J)
    assert (alice.posted, alice.reserved, alice.available) == (100, 70, 30)
    assert (bob.posted, bob.incoming, bob.available) == (100, 70, 100)
    assert await refused(ledger, pay(4, ALICE, BOB, 31)) is Result.NO_FUNDS
    assert await refused(ledger, pay(5, ALICE, BOB, 31, kind=Kind.PENDING)) is Result.NO_FUNDS


@pytest.mark.parametrize(
    ("kind", "amount", "moved"),
    [
        (Kind.POST_PENDING, 0, 70),
        (Kind.POST_PENDING, 70, 70),
        (Kind.POST_PENDING, 20, 20),
        (Kind.VOID_PENDING, 0, 0),
        (Kind.VOID_PENDING, 70, 0),
    ],
)
async def test_a_pending_transfer_is_resolved_once(
    ledger: Ledger, kind: Kind, amount: int, moved: int
) -> None:
    await begin(ledger)
    await ledger.transfer([pay(3, ALICE, BOB, 70, kind=Kind.PENDING)])
    assert await ledger.transfer([resolve(4, kind, amount)]) == [Result.DONE]
    assert ledger.balance(ALICE, J) == (100 - moved, 0, 0, 0)
    assert ledger.balance(BOB, J) == (100 + moved, 0, 0, 0)
    assert await ledger.transfer([resolve(4, kind, amount)]) == [Result.EXISTS]
    for again in (Kind.POST_PENDING, Kind.VOID_PENDING):
        assert await refused(ledger, resolve(5, again)) is Result.RESOLVED


async def test_a_part_is_from_1_to_the_whole(ledger: Ledger) -> None:
    await begin(ledger)
    await ledger.transfer([pay(3, ALICE, BOB, 70, kind=Kind.PENDING)])
    assert await refused(ledger, resolve(4, Kind.POST_PENDING, 71)) is Result.EXCEEDS
    assert await refused(ledger, resolve(4, Kind.POST_PENDING, -1)) is Result.BAD_AMOUNT
    assert await refused(ledger, resolve(4, Kind.VOID_PENDING, 20)) is Result.BAD_AMOUNT


async def test_only_what_is_pending_is_resolved(ledger: Ledger) -> None:
    await begin(ledger)
    await ledger.transfer([pay(3, ALICE, BOB, 7)])
    assert await refused(ledger, resolve(4, Kind.POST_PENDING)) is Result.NO_REFERENCE
    unknown = resolve(5, Kind.VOID_PENDING, reference=99)
    assert await refused(ledger, unknown) is Result.NO_REFERENCE


async def test_a_pending_transfer_expires(ledger: Ledger, clock: VirtualClock) -> None:
    await begin(ledger)
    lasting = pay(4, ALICE, BOB, 20, kind=Kind.PENDING)
    await ledger.transfer([pay(3, ALICE, BOB, 70, kind=Kind.PENDING, timeout_s=10), lasting])
    clock.advance_s(9)
    assert await ledger.transfer([]) == []
    assert ledger.balance(ALICE, J).reserved == 90
    clock.advance_s(2)
    assert await refused_after_expiry(ledger) is Result.RESOLVED
    assert ledger.balance(ALICE, J).reserved == 20
    assert ledger.balance(BOB, J).incoming == 20
    assert await ledger.transfer([pay(6, ALICE, BOB, 80)]) == [Result.DONE]
    kinds = [line.transfer.kind for line in await ledger.history(ALICE) if line.transfer]
    assert kinds == [Kind.POST, Kind.EXPIRE_PENDING, Kind.PENDING, Kind.PENDING, Kind.POST]


async def refused_after_expiry(ledger: Ledger) -> Result:
    (result,) = await ledger.transfer([resolve(5, Kind.POST_PENDING)])
    return result


# ---------------------------------------------------------------- refunds


def refund(number: int, amount: int, debit: int = BOB, credit: int = ALICE) -> Transfer:
    return pay(number, debit, credit, amount, reference=identity(3), refund=True)


async def test_refunds_give_back_what_was_paid_and_no_more(ledger: Ledger) -> None:
    await begin(ledger)
    await ledger.transfer([pay(3, ALICE, BOB, 50)])
    assert await refused(ledger, refund(4, 51)) is Result.EXCEEDS
    assert await ledger.transfer([refund(5, 20)]) == [Result.DONE]
    assert await refused(ledger, refund(6, 31)) is Result.EXCEEDS
    assert await ledger.transfer([refund(7, 30)]) == [Result.DONE]
    assert await refused(ledger, refund(8, 1)) is Result.EXCEEDS
    assert (ledger.refunded(identity(3)), ledger.refunded(identity(1))) == (50, 0)
    assert await ledger.transfer([refund(5, 20), refund(7, 30)]) == [Result.EXISTS] * 2
    assert (has(ledger, ALICE), has(ledger, BOB)) == (100, 100)


async def test_a_refund_goes_back_the_way_the_money_came(ledger: Ledger) -> None:
    await begin(ledger)
    await ledger.transfer([pay(3, ALICE, BOB, 50)])
    assert await refused(ledger, refund(4, 1, ALICE, BOB)) is Result.NO_REFERENCE
    assert await refused(ledger, refund(4, 1, BOB, NODE)) is Result.NO_REFERENCE
    other_currency = refund(4, 1)._replace(currency=EMC.number)
    assert await refused(ledger, other_currency) is Result.NO_REFERENCE
    unknown = refund(4, 1)._replace(reference=identity(99))
    assert await refused(ledger, unknown) is Result.NO_REFERENCE


async def test_a_refund_is_not_refunded_nor_what_is_pending(ledger: Ledger) -> None:
    await begin(ledger)
    await ledger.transfer([pay(3, ALICE, BOB, 50), refund(4, 50)])
    again = pay(5, ALICE, BOB, 50, reference=identity(4), refund=True)
    assert await refused(ledger, again) is Result.NO_REFERENCE
    await ledger.transfer([pay(6, ALICE, BOB, 50, kind=Kind.PENDING)])
    early = pay(7, BOB, ALICE, 50, reference=identity(6), refund=True)
    assert await refused(ledger, early) is Result.NO_REFERENCE


async def test_who_has_spent_it_cannot_refund_it(ledger: Ledger) -> None:
    await begin(ledger)
    await ledger.transfer([pay(3, ALICE, BOB, 50), pay(4, BOB, NODE, 120)])
    assert await refused(ledger, refund(5, 50)) is Result.NO_FUNDS
    assert await ledger.transfer([refund(6, 30)]) == [Result.DONE]


async def test_a_refund_goes_to_and_comes_from_who_took_over(ledger: Ledger) -> None:
    await begin(ledger)
    carol, dora = await ledger.open_account(["tg:3"]), await ledger.open_account(["tg:4"])
    await ledger.transfer([pay(3, ALICE, BOB, 50)])
    done_before = refund(4, 5)
    await ledger.transfer([done_before])
    await ledger.link(carol, "user:bob")
    assert [ledger.heir(number) for number in (ALICE, BOB, carol)] == [ALICE, carol, carol]
    # Both names of the past are refused, and so is who has taken nothing over.
    assert await refused(ledger, refund(5, 10)) is Result.CLOSED
    assert await refused(ledger, refund(5, 10, dora, ALICE)) is Result.NO_REFERENCE
    assert await ledger.transfer([refund(5, 10, carol, ALICE)]) == [Result.DONE]
    await ledger.link(dora, "tg:3")
    assert ledger.heir(BOB) == dora
    assert await ledger.transfer([refund(6, 10, dora, ALICE)]) == [Result.DONE]
    assert has(ledger, ALICE) == 100 - 50 + 25
    assert has(ledger, dora) == 100 + 50 - 25
    # What was done is answered as it was, whoever has the accounts now.
    again = [done_before, refund(5, 10, carol, ALICE), refund(6, 10, dora, ALICE)]
    assert await ledger.transfer(again) == [Result.EXISTS] * 3
    assert await refused(ledger, refund(7, 26, dora, ALICE)) is Result.EXCEEDS


async def test_a_refund_reaches_the_payer_who_was_merged(ledger: Ledger) -> None:
    await begin(ledger)
    carol = await ledger.open_account(["tg:3"])
    await ledger.transfer([pay(3, ALICE, BOB, 50)])
    await ledger.link(carol, "user:alice")
    assert await ledger.transfer([refund(4, 20, BOB, carol)]) == [Result.DONE]
    assert (has(ledger, carol), has(ledger, BOB)) == (70, 130)
    # Payer and payee are one now: there is nobody to give it back to.
    await ledger.link(carol, "user:bob")
    assert await refused(ledger, refund(5, 30, carol, carol)) is Result.SAME_ACCOUNT
    assert await ledger.transfer([refund(4, 20, BOB, carol)]) == [Result.EXISTS]


async def test_a_merge_that_was_refused_leaves_no_heir(ledger: Ledger) -> None:
    await begin(ledger)
    await ledger.transfer([pay(3, ALICE, BOB, 50), pay(4, BOB, ALICE, 1, kind=Kind.PENDING)])
    with pytest.raises(OperationError):
        await ledger.link(ALICE, "user:bob")
    assert ledger.heir(BOB) == BOB
    assert await ledger.transfer([refund(5, 10)]) == [Result.DONE]
    await ledger.transfer([resolve(6, Kind.VOID_PENDING, reference=4)])

    def refuse(_writing: Writing) -> None:
        raise OperationError("not with me")

    with pytest.raises(OperationError, match="not with me"):
        await ledger.link(ALICE, "user:bob", also=refuse)
    assert (ledger.lineage(ALICE), ledger.lineage(BOB)) == ([ALICE], [BOB])


# ---------------------------------------------------------------- accounts


async def test_the_ledger_begins_with_its_own_accounts(ledger: Ledger) -> None:
    infos = ledger.accounts(0, 100)
    assert [info.addresses for info in infos] == [(name,) for name in SYSTEM_ACCOUNTS]
    assert ledger.find("issue") == ISSUE
    assert ledger.find("#4") == NODE
    assert ledger.find("#6") is None
    for act in (ledger.freeze(NODE, True), ledger.close_account(NODE), ledger.link(NODE, "tg:1")):
        with pytest.raises(OperationError):
            await act


async def test_an_address_belongs_to_one_account(ledger: Ledger) -> None:
    await begin(ledger)
    before = everything(ledger)
    with pytest.raises(AddressError):
        await ledger.open_account(["user:new", "user:alice"])
    for bad in ("node", "nobody", "user:", "#6"):
        with pytest.raises(AddressError):
            await ledger.open_account([bad])
    assert everything(ledger) == before
    assert await ledger.open_account(["tg:5", "tg:5"]) == BOB + 1
    assert ledger.account(BOB + 1).addresses == ("tg:5",)


async def test_nothing_leaves_a_frozen_account(ledger: Ledger) -> None:
    await begin(ledger)
    await ledger.freeze(ALICE, True)
    assert ledger.account(ALICE).frozen
    assert await refused(ledger, pay(3, ALICE, BOB, 1)) is Result.FROZEN
    assert await refused(ledger, pay(3, ALICE, BOB, 1, kind=Kind.PENDING)) is Result.FROZEN
    assert await ledger.transfer([pay(4, BOB, ALICE, 1)]) == [Result.DONE]
    await ledger.freeze(ALICE, False)
    assert await ledger.transfer([pay(3, ALICE, BOB, 1)]) == [Result.DONE]


async def test_only_an_empty_account_is_closed(ledger: Ledger) -> None:
    await begin(ledger)
    before = everything(ledger)
    with pytest.raises(OperationError):
        await ledger.close_account(ALICE)
    assert everything(ledger) == before
    await ledger.transfer([pay(3, ALICE, BOB, 100)])
    await ledger.close_account(ALICE)
    info = ledger.account(ALICE)
    assert (info.closed, info.addresses) == (True, ())
    assert ledger.find("user:alice") is None
    assert await refused(ledger, pay(4, BOB, ALICE, 1)) is Result.CLOSED
    with pytest.raises(OperationError):
        await ledger.close_account(ALICE)
    assert await ledger.open_account(["user:alice"]) == BOB + 1


async def test_an_account_that_waits_for_money_is_not_closed(ledger: Ledger) -> None:
    await begin(ledger)
    carol = await ledger.open_account(["user:carol"])
    await ledger.transfer([pay(3, ALICE, carol, 5, kind=Kind.PENDING)])
    with pytest.raises(OperationError):
        await ledger.close_account(carol)
    assert ledger.find("user:carol") == carol


async def test_linking_merges_two_accounts_once(ledger: Ledger) -> None:
    await begin(ledger)
    await ledger.link(BOB, "tg:2")
    await ledger.transfer([pay(3, ISSUE, BOB, 7, currency=EMC.number)])
    await ledger.link(ALICE, "user:bob")
    assert (has(ledger, ALICE), has(ledger, ALICE, 1)) == (200, 7)
    assert (has(ledger, BOB), has(ledger, BOB, 1)) == (0, 0)
    assert ledger.account(ALICE).addresses == ("user:alice", "user:bob", "tg:2")
    bob = ledger.account(BOB)
    assert (bob.closed, bob.merged_into, bob.addresses) == (True, ALICE, ())
    assert ledger.find("user:bob") == ledger.find("tg:2") == ALICE
    assert ledger.lineage(ALICE) == ledger.lineage(BOB) == [ALICE, BOB]
    after = everything(ledger)
    await ledger.link(ALICE, "user:bob")
    await ledger.link(ALICE, "tg:2")
    assert everything(ledger) == after
    with pytest.raises(OperationError):
        await ledger.link(BOB, "user:alice")
    assert everything(ledger) == after


async def test_an_account_that_keeps_what_it_has_gives_up_the_address_alone(
    ledger: Ledger,
) -> None:
    await begin(ledger)
    await ledger.link(BOB, "tg:2")
    asked: list[int] = []

    def keeps(_writing: Writing, account: int) -> bool:
        asked.append(account)
        return True

    def refuse(_writing: Writing) -> None:
        raise OperationError("not with me")

    before = everything(ledger)
    with pytest.raises(OperationError, match="not with me"):
        await ledger.link(ALICE, "tg:2", also=refuse, keeps=keeps)
    await ledger.freeze(BOB, True)
    with pytest.raises(OperationError):
        await ledger.link(ALICE, "tg:2", keeps=keeps)
    await ledger.freeze(BOB, False)
    assert everything(ledger) == before
    for _ in range(2):
        assert await ledger.link(ALICE, "tg:2", keeps=keeps) == ALICE
    await ledger.link(ALICE, "tg:3", keeps=keeps)
    # Of what is nobody's, or one's own already, nobody is asked.
    assert asked == [BOB, BOB]
    assert ledger.account(ALICE).addresses == ("user:alice", "tg:2", "tg:3")
    assert ledger.account(BOB).addresses == ("user:bob",)
    assert (has(ledger, ALICE), has(ledger, BOB)) == (100, 100)
    await ledger.link(ALICE, "user:bob", keeps=lambda _writing, _account: False)
    assert (has(ledger, ALICE), ledger.heir(BOB)) == (200, ALICE)


async def test_an_account_with_pending_transfers_is_not_merged(ledger: Ledger) -> None:
    await begin(ledger)
    await ledger.transfer([pay(3, BOB, ALICE, 5, kind=Kind.PENDING)])
    before = everything(ledger)
    with pytest.raises(OperationError):
        await ledger.link(ALICE, "user:bob")
    assert everything(ledger) == before
    await ledger.transfer([resolve(4, Kind.VOID_PENDING)])
    await ledger.link(ALICE, "user:bob")
    assert has(ledger, ALICE) == 200


@pytest.mark.parametrize("left", [0, 100])
async def test_a_frozen_account_is_not_merged(ledger: Ledger, left: int) -> None:
    await begin(ledger)
    if not left:
        await ledger.transfer([pay(3, BOB, ALICE, 100)])
    await ledger.freeze(BOB, True)
    before = everything(ledger)
    with pytest.raises(OperationError):
        await ledger.link(ALICE, "user:bob")
    assert everything(ledger) == before


async def test_an_account_has_a_bound_of_addresses(ledger: Ledger) -> None:
    await begin(ledger)
    for number in range(1, ADDRESSES_MAXIMUM):
        await ledger.link(ALICE, f"tg:{number}")
    before = everything(ledger)
    for one_more in ("tg:1000", "user:bob"):
        with pytest.raises(OperationError):
            await ledger.link(ALICE, one_more)
    assert everything(ledger) == before


async def test_an_address_that_is_taken_away_is_free(ledger: Ledger) -> None:
    await begin(ledger)
    await ledger.unlink(ALICE, "user:alice")
    assert ledger.find("user:alice") is None
    assert ledger.find(f"#{ALICE}") == ALICE
    for other in ("user:alice", "user:bob", "nobody"):
        with pytest.raises(OperationError):
            await ledger.unlink(ALICE, other)
    await ledger.link(BOB, "user:alice")
    assert ledger.account(BOB).addresses == ("user:bob", "user:alice")
    assert has(ledger, ALICE) == 100


async def test_an_act_happens_once_under_its_id(ledger: Ledger) -> None:
    await begin(ledger)
    opened = [await ledger.open_account((), identity(50)) for _ in range(2)]
    assert opened == [BOB + 1] * 2
    assert len(everything(ledger)) == BOB + 1
    await ledger.freeze(ALICE, True, identity(51))
    await ledger.freeze(ALICE, False)
    await ledger.freeze(ALICE, True, identity(51))
    assert not ledger.account(ALICE).frozen
    await ledger.link(ALICE, "tg:7", identity(52))
    await ledger.unlink(ALICE, "tg:7", identity(53))
    await ledger.link(ALICE, "tg:7", identity(52))
    await ledger.unlink(ALICE, "tg:7", identity(53))
    assert ledger.find("tg:7") is None
    await ledger.close_account(BOB + 1, identity(54))
    await ledger.close_account(BOB + 1, identity(54))
    assert ledger.account(BOB + 1).closed


async def test_an_acts_id_serves_no_other_act(ledger: Ledger) -> None:
    await begin(ledger)
    await ledger.freeze(ALICE, True, identity(50))
    before = everything(ledger)
    for act in (
        ledger.freeze(BOB, True, identity(50)),
        ledger.freeze(ALICE, False, identity(50)),
        ledger.open_account((), identity(50)),
        ledger.link(ALICE, "tg:7", identity(50)),
        ledger.unlink(ALICE, "user:alice", identity(50)),
        ledger.close_account(BOB, identity(50)),
    ):
        with pytest.raises(OperationError):
            await act
    assert everything(ledger) == before


async def test_an_act_that_was_refused_may_be_tried_again(ledger: Ledger) -> None:
    await begin(ledger)
    with pytest.raises(OperationError):
        await ledger.close_account(ALICE, identity(50))
    await ledger.transfer([pay(3, ALICE, BOB, 100)])
    await ledger.close_account(ALICE, identity(50))
    assert ledger.account(ALICE).closed


async def test_accounts_come_in_pages(ledger: Ledger) -> None:
    await begin(ledger)
    first = ledger.accounts(0, 4)
    second = ledger.accounts(first[-1].number + 1, 4)
    assert [info.number for info in first + second] == list(range(1, BOB + 1))
    assert ledger.accounts(BOB + 1, 4) == []


# ---------------------------------------------------------------- side-writes


async def test_side_writes_happen_exactly_with_their_transfers(ledger: Ledger) -> None:
    await begin(ledger)

    async def write(value: bytes | None, *transfers: Transfer) -> list[Result]:
        return await ledger.transfer(transfers, [SideWrite("blocked_callers", b"key", value)])

    assert ledger.read_side("blocked_callers", b"key") is None
    assert await write(b"1", pay(3, ALICE, BOB, 10)) == [Result.DONE]
    assert ledger.read_side("blocked_callers", b"key") == b"1"
    assert await write(b"2", pay(3, ALICE, BOB, 10)) == [Result.EXISTS]
    assert ledger.read_side("blocked_callers", b"key") == b"1"
    refused_results = await write(b"3", pay(4, ALICE, BOB, 10), pay(5, ALICE, BOB, 500))
    assert refused_results == [Result.LINKED_FAILED, Result.NO_FUNDS]
    assert ledger.read_side("blocked_callers", b"key") == b"1"
    assert has(ledger, ALICE) == 90
    assert await write(None, pay(6, ALICE, BOB, 10)) == [Result.DONE]
    assert ledger.read_side("blocked_callers", b"key") is None
    assert await write(b"4") == []
    assert ledger.read_side("blocked_callers", b"key") == b"4"
    assert ledger.read_side("vouchers", b"key") is None


async def test_what_is_to_happen_besides_happens_exactly_with_its_transfers(
    ledger: Ledger,
) -> None:
    await begin(ledger)
    called: list[int] = []

    async def transfer(number: int, *transfers: Transfer) -> list[Result]:
        return await ledger.transfer(transfers, also=lambda _: called.append(number))

    assert await transfer(1, pay(3, ALICE, BOB, 10)) == [Result.DONE]
    assert await transfer(2, pay(3, ALICE, BOB, 10)) == [Result.EXISTS]
    assert await transfer(3, pay(4, ALICE, BOB, 500)) == [Result.NO_FUNDS]
    both = await transfer(4, pay(5, ALICE, BOB, 10), pay(6, ALICE, BOB, 500))
    assert both == [Result.LINKED_FAILED, Result.NO_FUNDS]
    assert has(ledger, ALICE) == 90
    assert await transfer(5, pay(7, ALICE, BOB, 10), pay(8, BOB, ALICE, 20)) == [Result.DONE] * 2
    assert called == [1, 5]


async def test_a_transfer_is_refused_by_what_is_to_happen_besides(ledger: Ledger) -> None:
    await begin(ledger)
    before = everything(ledger)

    def refuse(_: Writing) -> None:
        raise OperationError("not today")

    with pytest.raises(OperationError, match="not today"):
        await ledger.transfer([pay(3, ALICE, BOB, 10)], also=refuse)
    with pytest.raises(OperationError, match="not today"):
        await ledger.open_account(["tg:5"], also=refuse)
    with pytest.raises(OperationError, match="not today"):
        await ledger.link(ALICE, "user:bob", identity(9), also=refuse)
    assert everything(ledger) == before
    assert ledger.find("tg:5") is None
    assert await ledger.transfer([pay(3, ALICE, BOB, 10)]) == [Result.DONE]
    assert await ledger.link(ALICE, "user:bob", identity(9)) == ALICE


async def test_what_is_to_happen_besides_an_act_happens_once(ledger: Ledger) -> None:
    called: list[str] = []
    for _ in range(2):
        alice = await ledger.open_account(
            ["tg:5"], identity(1), also=lambda _: called.append("open")
        )
        await ledger.link(alice, "tg:6", identity(2), also=lambda _: called.append("link"))
    assert called == ["open", "link"]


async def test_an_account_is_opened_with_its_first_transfers_or_not_at_all(
    ledger: Ledger,
) -> None:
    await begin(ledger)
    before = everything(ledger)

    def opening(amount: int, identity_number: int) -> Callable[[int], Chain]:
        return lambda number: Chain(
            [pay(identity_number, ALICE, number, amount), pay(identity_number + 1, ALICE, NODE, 1)],
            [SideWrite("deduplication", b"named", b"%d" % number)],
        )

    for amount in (100, 0):
        with pytest.raises(TransferRefused):
            await ledger.open_account(["tg:5"], None, 7, opening(amount, 3))
        assert everything(ledger) == before
        assert ledger.find("tg:5") is None
    carol = await ledger.open_account(["tg:5"], None, 7, opening(99, 3))
    assert (has(ledger, carol), has(ledger, ALICE)) == (106, 0)
    assert ledger.read_side("deduplication", b"named") == b"%d" % carol


# ---------------------------------------------------------------- history


async def test_a_history_comes_in_pages_the_last_first(ledger: Ledger) -> None:
    await begin(ledger)
    transfers = [
        pay(number, *((ALICE, BOB) if number % 3 else (ISSUE, ALICE)), number)
        for number in range(10, 20)
    ]
    for transfer in transfers:
        await ledger.transfer([transfer])
    expected = [transfer.id for transfer in reversed(transfers)] + [identity(1)]
    for limit in (1, 3, 11, 100):
        found: list[bytes] = []
        before = None
        while lines := await ledger.history(ALICE, before, limit):
            assert len(lines) <= limit
            found += [line.transfer.id for line in lines if line.transfer]
            before = lines[-1].place
        assert found == expected
    assert await ledger.history(await ledger.open_account()) == []


async def test_a_line_says_when_it_was_done(ledger: Ledger, clock: VirtualClock) -> None:
    await begin(ledger)
    clock.advance_s(5)
    await ledger.transfer([pay(3, ALICE, BOB, 10)])
    second, first = await ledger.history(ALICE)
    assert second.time_ns - first.time_ns == 5_000_000_000
    assert second.transfer == pay(3, ALICE, BOB, 10)


async def test_a_place_that_is_no_line_of_the_accounts_is_refused(ledger: Ledger) -> None:
    await begin(ledger)
    await ledger.transfer([pay(3, BOB, NODE, 1)])
    (others, *_) = await ledger.history(BOB)
    for place in (others.place, others.place + 1, 2**62, 0, -1, 2**70):
        with pytest.raises(OperationError):
            await ledger.history(ALICE, place)


# ---------------------------------------------------------------- what is on the disk


@pytest.mark.parametrize("orderly", [True, False])
async def test_a_ledger_that_is_opened_again_is_the_same(tmp_path: Path, orderly: bool) -> None:
    clock = VirtualClock()
    ledger = open_ledger(tmp_path / "ledger", clock, map_bytes=1 << 26)
    await begin(ledger)
    await ledger.transfer([pay(3, ALICE, BOB, 30)], [SideWrite("blocked_callers", b"a", b"b")])
    await ledger.transfer([], [SideWrite("vouchers", b"c", b"d")])
    await ledger.transfer([pay(4, BOB, ALICE, 5, kind=Kind.PENDING), refund(5, 10)])
    opened = await ledger.open_account((), identity(50))
    await ledger.freeze(ALICE, True, identity(51))
    carol, dora = await ledger.open_account(["tg:3"]), await ledger.open_account(["tg:4"])
    await ledger.transfer([pay(6, ISSUE, carol, 20), pay(7, carol, NODE, 9)])
    await ledger.link(dora, "tg:3")
    await ledger.link(opened, "tg:4")
    before, history = everything(ledger), await ledger.history(ALICE)
    # Without its last checkpoint it is as a crash leaves it.
    (ledger if orderly else ledger.store).close()
    with open_ledger(tmp_path / "ledger", clock, map_bytes=1 << 26) as ledger:
        assert everything(ledger) == before
        assert await ledger.history(ALICE) == history
        assert await ledger.open_account((), identity(50)) == opened
        with pytest.raises(OperationError):
            await ledger.freeze(ALICE, False, identity(51))
        assert await ledger.transfer([pay(3, ALICE, BOB, 30)]) == [Result.EXISTS]
        assert await refused(ledger, refund(8, 21)) is Result.EXCEEDS
        assert [ledger.heir(number) for number in (carol, dora, opened)] == [opened] * 3
        back = pay(9, NODE, opened, 9, reference=identity(7), refund=True)
        assert await ledger.transfer([back]) == [Result.DONE]
        assert ledger.read_side("vouchers", b"c") == b"d"
