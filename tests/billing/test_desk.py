"""What operators and channels ask of the ledger, in their words."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, get_args

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
import trio
from hypothesis import given, settings

from billing.accounts import FIRST_USER_ACCOUNT, AddressError
from billing.audit import verify
from billing.charging import Charging
from billing.desk import Desk
from billing.ledger import ESCROW, FEES, ISSUE, NODE, Ledger, open_ledger
from billing.money import AMOUNT_MAXIMUM, EMC, AmountError, J, format_amount
from billing.tariff import Line
from billing.transfers import Kind, Result, Transfer, TransferRefused, new_id
from core.api.messages import (
    AccountCloseRequest,
    AccountCreateRequest,
    AccountCreditRequest,
    AccountFreezeRequest,
    AccountHistoryRequest,
    AccountLinkRequest,
    AccountListReply,
    AccountListRequest,
    AccountRefundRequest,
    AccountReply,
    AccountShowRequest,
    AccountTransferRequest,
    AccountUnlinkRequest,
    BalanceItem,
    HistoryItem,
    HistoryReply,
    LedgerRequest,
    TransferReply,
    VoucherCreateRequest,
    VoucherRedeemRequest,
    VouchersReply,
)
from core.clock import VirtualClock
from core.config import BillingConfig
from core.errors import OperationError
from tests.support.ledgers import everything
from tests.support.model_ledger import ModelLedger

ALICE, BOB = FIRST_USER_ACCOUNT, FIRST_USER_ACCOUNT + 1
ID, OTHER_ID = "0123456789abcdef" * 2, "fedcba9876543210" * 2
pytestmark = pytest.mark.trio


@pytest.fixture
def desk(ledger: Ledger, clock: VirtualClock) -> Desk:
    return Desk(ledger, clock, BillingConfig())


async def begin(desk: Desk) -> None:
    """Alice with 100, Bob with nothing."""
    await desk.answer(AccountCreateRequest(("user:alice",)))
    await desk.answer(AccountCreateRequest(("user:bob",)))
    await desk.answer(AccountCreditRequest("user:alice", "100"))


async def show(desk: Desk, account: str) -> AccountReply:
    reply = await desk.answer(AccountShowRequest(account))
    assert isinstance(reply, AccountReply)
    return reply


async def move(desk: Desk, request: LedgerRequest) -> TransferReply:
    reply = await desk.answer(request)
    assert isinstance(reply, TransferReply)
    return reply


async def history(desk: Desk, account: str, **more: Any) -> HistoryReply:
    reply = await desk.answer(AccountHistoryRequest(account, **more))
    assert isinstance(reply, HistoryReply)
    return reply


async def balance(desk: Desk, account: str) -> str:
    return (await show(desk, account)).balance


# ---------------------------------------------------------------- accounts


async def test_an_account_is_shown_in_decimal_numbers(
    desk: Desk, ledger: Ledger, clock: VirtualClock
) -> None:
    await begin(desk)
    await desk.answer(AccountCreditRequest("user:alice", "0.00000001", "EMC"))
    await ledger.transfer([Transfer(new_id(clock), ALICE, BOB, 1_500_000, kind=Kind.PENDING)])
    reply = await desk.answer(AccountShowRequest("user:alice"))
    assert msgspec.to_builtins(reply) == {
        "type": "account",
        "account": "6",
        "addresses": ["user:alice"],
        "currency": "J",
        "balance": "100.000000",
        "held": "0.000000",
        "available": "98.500000",
        "balances": [
            {
                "currency": "J",
                "balance": "100.000000",
                "held": "0.000000",
                "reserved": "1.500000",
                "available": "98.500000",
            },
            {
                "currency": "EMC",
                "balance": "0.00000001",
                "held": "0.00000000",
                "reserved": "0.00000000",
                "available": "0.00000001",
            },
        ],
        "frozen": False,
        "closed": False,
        "merged_into": None,
        "opened": "2027-01-15T08:00:00.000Z",
    }


@pytest.mark.parametrize("name", ["user:alice", "#6", "6", "+4930123456", "tg:7"])
async def test_an_account_answers_to_its_addresses_and_its_number(desk: Desk, name: str) -> None:
    await desk.answer(AccountCreateRequest(("user:alice", "+49 30 123456", "tg:7")))
    reply = await show(desk, name)
    assert reply.account == "6"
    assert reply.addresses == ["user:alice", "+4930123456", "tg:7"]


@pytest.mark.parametrize(
    "name",
    [
        *("", "0", "06", "7", "#7", "##6", "#06", "٦", "-6", "6.0", "user:nobody", "alice"),
        *("9" * 9, "9" * 100, "#" + "9" * 100, "\0", "tg:0", "+49", "030 123456"),
    ],
)
async def test_who_is_not_there_is_said_so(desk: Desk, ledger: Ledger, name: str) -> None:
    await desk.answer(AccountCreateRequest(("user:alice", "+4930123456")))
    before = everything(ledger)
    for request in (
        AccountShowRequest(name),
        AccountCreditRequest(name, "1"),
        AccountTransferRequest("issue", name, "1"),
        AccountTransferRequest(name, "issue", "1"),
        AccountLinkRequest(name, "tg:9"),
        AccountUnlinkRequest(name, "user:alice"),
        AccountFreezeRequest(name, True),
        AccountCloseRequest(name),
        AccountHistoryRequest(name),
        VoucherRedeemRequest("A" * 20, name),
    ):
        with pytest.raises(OperationError):
            await desk.answer(request)
    assert everything(ledger) == before


async def test_numbers_without_their_country_have_the_configured_one(
    ledger: Ledger, clock: VirtualClock
) -> None:
    desk = Desk(ledger, clock, BillingConfig(default_region="DE"))
    await desk.answer(AccountCreateRequest(("030 123456",)))
    assert (await show(desk, "(030) 123456")).addresses == ["+4930123456"]
    # Few digits alone are an account's number, whatever the country.
    assert (await show(desk, "6")).addresses == ["+4930123456"]
    with pytest.raises(OperationError):
        await show(desk, "30123456")


@pytest.mark.parametrize(
    "mistyped",
    [
        *("tg:0301234567", "user alice 030 1234567", "tg: 3012345678", "030 1234567 alice"),
        *("０３０ 1234567", "tel:0301234567", "030 1234567;ext=5", "030\t1234567", "030 1234567\n"),
        "user:+493012345678 ",
    ],
)
async def test_a_mistyped_address_is_no_telephone_number(
    ledger: Ledger, clock: VirtualClock, mistyped: str
) -> None:
    desk = Desk(ledger, clock, BillingConfig(default_region="DE"))
    await desk.answer(AccountCreateRequest(("030 1234567", "030 12345678")))
    assert (await show(desk, "030/12345678")).addresses == ["+49301234567", "+493012345678"]
    before = everything(ledger)
    for request in (AccountCreditRequest(mistyped, "1"), AccountCreateRequest((mistyped,))):
        with pytest.raises(AddressError):
            await desk.answer(request)
    assert everything(ledger) == before


async def test_creating_again_under_the_same_id_opens_nothing(desk: Desk, ledger: Ledger) -> None:
    first = await desk.answer(AccountCreateRequest(("user:alice",), ID))
    before = everything(ledger)
    assert await desk.answer(AccountCreateRequest(("user:alice",), ID)) == first
    with pytest.raises(OperationError):
        await desk.answer(AccountCreateRequest((), ID))
    with pytest.raises(AddressError):
        await desk.answer(AccountCreateRequest(("user:alice",), OTHER_ID))
    assert everything(ledger) == before
    assert (await desk.answer(AccountCreateRequest())).account == "7"  # type: ignore[union-attr]


async def test_accounts_are_listed_in_pages(desk: Desk) -> None:
    await begin(desk)
    numbers: list[str] = []
    following: int | None = 0
    pages = 0
    while following is not None:
        reply = await desk.answer(AccountListRequest(following, 3))
        assert isinstance(reply, AccountListReply)
        numbers += [one.account for one in reply.accounts]
        following = reply.next
        pages += 1
    assert numbers == [str(number) for number in range(1, 8)]
    assert pages == 3
    last = await desk.answer(AccountListRequest(8, 3))
    assert last == AccountListReply([], None)


async def test_linking_freezing_and_closing(desk: Desk) -> None:
    await begin(desk)
    linked = await desk.answer(AccountLinkRequest("6", "tg:1", ID))
    assert isinstance(linked, AccountReply)
    assert linked.addresses == ["user:alice", "tg:1"]
    unlinked = await desk.answer(AccountUnlinkRequest("6", "tg:1"))
    assert isinstance(unlinked, AccountReply)
    assert unlinked.addresses == ["user:alice"]
    # What came under this id has been done, and was undone since.
    assert await desk.answer(AccountLinkRequest("6", "tg:1", ID)) == unlinked
    frozen = await desk.answer(AccountFreezeRequest("6", True))
    assert isinstance(frozen, AccountReply)
    assert frozen.frozen
    with pytest.raises(TransferRefused, match="frozen"):
        await desk.answer(AccountTransferRequest("6", "7", "1"))
    await desk.answer(AccountFreezeRequest("6", False))
    await desk.answer(AccountTransferRequest("6", "7", "1"))
    with pytest.raises(OperationError):
        await desk.answer(AccountCloseRequest("7"))
    await desk.answer(AccountTransferRequest("7", "6", "1"))
    closed = await desk.answer(AccountCloseRequest("7"))
    assert isinstance(closed, AccountReply)
    assert (closed.closed, closed.addresses) == (True, [])


async def test_a_merged_account_says_where_it_went(desk: Desk) -> None:
    await begin(desk)
    await desk.answer(AccountCreditRequest("user:bob", "5"))
    reply = await desk.answer(AccountLinkRequest("user:alice", "user:bob"))
    assert isinstance(reply, AccountReply)
    assert (reply.balance, reply.addresses) == ("105.000000", ["user:alice", "user:bob"])
    assert (await show(desk, "7")).merged_into == "6"
    merge = (await history(desk, "6")).lines[0]
    assert (merge.amount, merge.other, merge.purpose) == ("5.000000", "#7", "merge")


async def test_new_accounts_are_welcomed_once(ledger: Ledger, clock: VirtualClock) -> None:
    desk = Desk(ledger, clock, BillingConfig(welcome="5"))
    for _ in range(2):
        reply = await desk.answer(AccountCreateRequest(("user:alice",), ID))
        assert isinstance(reply, AccountReply)
        assert reply.balance == "5.000000"
    more = Desk(ledger, clock, BillingConfig(welcome="7"))
    assert await more.answer(AccountCreateRequest(("user:alice",), ID)) == reply
    second = await more.answer(AccountCreateRequest())
    assert isinstance(second, AccountReply)
    assert second.balance == "7.000000"
    (line,) = (await history(desk, "6")).lines
    assert (line.amount, line.other, line.purpose) == ("5.000000", "issue", "welcome")


async def test_an_account_without_its_grant_is_none(ledger: Ledger, clock: VirtualClock) -> None:
    poor = Desk(ledger, clock, BillingConfig())
    # Nothing is left that `issue` may owe.
    await poor.answer(AccountTransferRequest("issue", "escrow", format_amount(AMOUNT_MAXIMUM, J)))
    before = everything(ledger)
    desk = Desk(ledger, clock, BillingConfig(welcome="5"))
    with pytest.raises(TransferRefused) as caught:
        await desk.answer(AccountCreateRequest(("user:alice",), ID))
    assert caught.value.result is Result.OVERFLOW
    assert everything(ledger) == before
    await poor.answer(AccountTransferRequest("escrow", "issue", "5"))
    reply = await desk.answer(AccountCreateRequest(("user:alice",), ID))
    assert isinstance(reply, AccountReply)
    assert reply.balance == "5.000000"


async def test_an_account_and_its_grant_are_one_write(tmp_path: Path, clock: VirtualClock) -> None:
    with open_ledger(tmp_path, clock, map_bytes=1 << 26) as ledger:
        desk = Desk(ledger, clock, BillingConfig(welcome="5"))
        writes = 0
        write = ledger.store.write

        async def count(job: Any) -> Any:
            nonlocal writes
            writes += 1
            return await write(job)

        ledger.store.write = count  # type: ignore[assignment, method-assign]
        ledger.store.write_together = None  # type: ignore[assignment, method-assign]
        await desk.answer(AccountCreateRequest(("user:alice",), ID))
        # The other one reads what is shown.
        assert writes == 2
        assert ledger.balance(ALICE, J).posted == 5 * J.unit
        writes = 0
        reply = await desk.answer(AccountListRequest(0, 1000))
        assert isinstance(reply, AccountListReply)
        assert [one.balance for one in reply.accounts[-2:]] == ["0.000000", "5.000000"]
        assert writes == 1


async def test_nobody_is_welcomed_unless_configured(desk: Desk) -> None:
    await desk.answer(AccountCreateRequest())
    assert await balance(desk, "6") == "0.000000"


# ---------------------------------------------------------------- amounts


@pytest.mark.parametrize(
    "amount",
    [
        *("0", "0.0", "-1", "+1", "1e3", "", " 1", "1 ", "1,5", ".5", "1.", "0x10", "1_000", "nan"),
        *("٣", "１", "1.٥", "²", "0.0000001", "9" * 30, "9" * 10_000, "1\n", "1\0"),
    ],
)
async def test_what_is_no_amount_moves_nothing(desk: Desk, ledger: Ledger, amount: str) -> None:
    await begin(desk)
    paid = await move(desk, AccountTransferRequest("6", "7", "2"))
    before = everything(ledger)
    for request in (
        AccountCreditRequest("6", amount),
        AccountTransferRequest("6", "7", amount),
        AccountRefundRequest(paid.id, amount),
        VoucherCreateRequest(amount),
    ):
        with pytest.raises(AmountError):
            await desk.answer(request)
    assert everything(ledger) == before


async def test_each_currency_has_its_places(desk: Desk, ledger: Ledger) -> None:
    await begin(desk)
    await desk.answer(AccountCreditRequest("7", "0.000001"))
    await desk.answer(AccountCreditRequest("7", "0.00000001", "EMC"))
    assert ledger.balance(BOB, J).posted == ledger.balance(BOB, EMC).posted == 1
    before = everything(ledger)
    with pytest.raises(AmountError, match="6 decimal places"):
        await desk.answer(AccountCreditRequest("7", "0.00000001"))
    for currency in ("j", "", "RUB", "J ", "Ɉ"):
        with pytest.raises(AmountError, match="there are J, EMC"):
            await desk.answer(AccountCreditRequest("7", "1", currency))
    assert everything(ledger) == before


async def test_the_largest_amount_fits_and_no_more(desk: Desk, ledger: Ledger) -> None:
    await begin(desk)
    largest = format_amount(AMOUNT_MAXIMUM, J)
    await desk.answer(AccountTransferRequest("escrow", "7", largest))
    assert await balance(desk, "7") == largest
    before = everything(ledger)
    with pytest.raises(TransferRefused) as caught:
        await desk.answer(AccountCreditRequest("7", "0.000001"))
    assert caught.value.result is Result.OVERFLOW
    with pytest.raises(AmountError, match="the largest amount"):
        await desk.answer(AccountCreditRequest("7", format_amount(AMOUNT_MAXIMUM + 1, J)))
    assert everything(ledger) == before
    assert ledger.balance(ESCROW, J).posted == -AMOUNT_MAXIMUM


# ---------------------------------------------------------------- transfers


async def test_credit_and_transfer_cost_no_fee(desk: Desk, ledger: Ledger) -> None:
    await begin(desk)
    reply = await move(desk, AccountTransferRequest("user:alice", "user:bob", "2.5", id=ID))
    assert reply == TransferReply(
        id=ID, debit="6", credit="7", amount="2.500000", currency="J", fee="0.000000"
    )
    assert await balance(desk, "6") == "97.500000"
    assert await balance(desk, "7") == "2.500000"
    assert ledger.balance(ISSUE, J).posted == -100 * J.unit
    assert ledger.balance(FEES, J).posted == 0


async def test_what_is_repeated_is_answered_as_the_first_time(desk: Desk, ledger: Ledger) -> None:
    await begin(desk)
    requests: list[LedgerRequest] = [
        AccountCreditRequest("7", "50", id="1" * 32),
        AccountTransferRequest("7", "6", "10", id="2" * 32),
        AccountRefundRequest("2" * 32, id="3" * 32),
        AccountLinkRequest("6", "tg:1", id="4" * 32),
        AccountFreezeRequest("6", True, id="5" * 32),
    ]
    first = [await desk.answer(request) for request in requests]
    before = everything(ledger)
    again = [await desk.answer(request) for request in requests]
    assert everything(ledger) == before
    assert again[:3] == first[:3]
    assert again[4] == first[4]
    for reused in (
        AccountCreditRequest("7", "51", id="1" * 32),
        AccountCreditRequest("6", "50", id="1" * 32),
        AccountTransferRequest("7", "6", "10", "EMC", id="2" * 32),
        AccountRefundRequest("2" * 32, "1", id="3" * 32),
        AccountLinkRequest("6", "tg:2", id="4" * 32),
        AccountFreezeRequest("6", False, id="5" * 32),
    ):
        with pytest.raises(OperationError):
            await desk.answer(reused)
    assert everything(ledger) == before


async def test_acts_are_repeated_by_an_address_that_is_gone(desk: Desk, ledger: Ledger) -> None:
    await begin(desk)
    await desk.answer(AccountCreateRequest(("user:carol", "tg:1")))
    await desk.answer(AccountCreateRequest(("user:dora",)))
    requests: list[LedgerRequest] = [
        AccountFreezeRequest("tg:1", False, id="1" * 32),
        AccountLinkRequest("tg:1", "tg:2", id="2" * 32),
        AccountUnlinkRequest("tg:1", "tg:1", id="3" * 32),
        AccountCloseRequest("user:bob", id="4" * 32),
        AccountLinkRequest("user:alice", "user:dora", id="5" * 32),
        AccountFreezeRequest("user:dora", False, id="6" * 32),
        AccountUnlinkRequest("user:dora", "user:dora", id="7" * 32),
    ]
    accounts = []
    for request in requests:
        reply = await desk.answer(request)
        assert isinstance(reply, AccountReply)
        accounts.append(reply.account)
    assert accounts == ["8", "8", "8", "7", "6", "6", "6"]
    # Somebody else answers to these now.
    await desk.answer(AccountCreateRequest(("user:bob", "tg:1")))
    before = everything(ledger)
    for account, request in zip(accounts, requests, strict=True):
        assert await desk.answer(request) == await show(desk, account)
    for other in (
        AccountCloseRequest("tg:1", id="4" * 32),
        AccountFreezeRequest("user:bob", False, id="1" * 32),
        AccountCloseRequest("user:nobody", id="9" * 32),
    ):
        with pytest.raises(OperationError):
            await desk.answer(other)
    assert everything(ledger) == before


async def test_transfers_are_repeated_by_an_address_that_has_moved(
    desk: Desk, ledger: Ledger
) -> None:
    await begin(desk)
    requests: list[LedgerRequest] = [
        AccountCreditRequest("user:bob", "50", id="1" * 32),
        AccountTransferRequest("user:alice", "user:bob", "10", id="2" * 32),
        AccountTransferRequest("user:alice", "7", "1", id="3" * 32),
    ]
    first = [await desk.answer(request) for request in requests]
    await desk.answer(AccountUnlinkRequest("7", "user:bob"))
    await desk.answer(AccountUnlinkRequest("6", "user:alice"))
    gone = everything(ledger)
    assert [await desk.answer(request) for request in requests] == first
    assert everything(ledger) == gone
    await desk.answer(AccountCreateRequest(("user:bob",)))
    moved = everything(ledger)
    assert [await desk.answer(request) for request in requests] == first
    for reused in (
        AccountCreditRequest("user:bob", "51", id="1" * 32),
        AccountTransferRequest("user:bob", "7", "10", id="2" * 32),
        # To who has the address now.
        AccountCreditRequest("8", "50", id="1" * 32),
    ):
        with pytest.raises(TransferRefused) as caught:
            await desk.answer(reused)
        assert caught.value.result is Result.ID_REUSED
    assert everything(ledger) == moved
    assert (await move(desk, AccountCreditRequest("user:bob", "50", id="4" * 32))).credit == "8"


async def test_what_is_kept_of_names_and_grants_outlives_a_restart_and_is_verified(
    tmp_path: Path, clock: VirtualClock
) -> None:
    requests: list[LedgerRequest] = [
        AccountCreateRequest(("user:alice",), "1" * 32),
        AccountCreateRequest(("user:bob",), "2" * 32),
        AccountTransferRequest("user:alice", "user:bob", "2", id="3" * 32),
        AccountTransferRequest("user:bob", "node", "7", id="4" * 32),
        AccountCloseRequest("user:bob", id="5" * 32),
    ]
    with open_ledger(tmp_path, clock, map_bytes=1 << 26) as ledger:
        desk = Desk(ledger, clock, BillingConfig(welcome="5"))
        first = [await desk.answer(request) for request in requests]
        assert (await verify(ledger)).problems == []
    with open_ledger(tmp_path, clock, map_bytes=1 << 26) as ledger:
        before = everything(ledger)
        # Whatever is granted by now.
        desk = Desk(ledger, clock, BillingConfig(welcome="6"))
        again = [await desk.answer(request) for request in requests]
        assert again[2:] == first[2:]
        accounts = [one.account for one in again[:2] if isinstance(one, AccountReply)]
        assert accounts == ["6", "7"]
        assert everything(ledger) == before
        assert ledger.balance(ALICE, J).posted == 3 * J.unit
        assert (await verify(ledger)).problems == []


async def test_many_who_repeat_at_once_have_one_effect(desk: Desk) -> None:
    await begin(desk)
    replies: list[TransferReply] = []

    async def credit() -> None:
        replies.append(await move(desk, AccountCreditRequest("7", "5", id=ID)))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(credit)
    assert replies == [replies[0]] * 20
    assert await balance(desk, "7") == "5.000000"


@pytest.mark.parametrize(
    "bad", ["", "0" * 32, "1" * 31, "1" * 33, "g" * 32, "1" * 30 + " 1", "١" * 32]
)
async def test_an_id_is_32_hexadecimal_digits(desk: Desk, ledger: Ledger, bad: str) -> None:
    await begin(desk)
    before = everything(ledger)
    for request in (
        AccountCreateRequest((), bad),
        AccountCreditRequest("7", "5", id=bad),
        AccountTransferRequest("6", "7", "5", id=bad),
        AccountRefundRequest(bad),
        AccountLinkRequest("6", "tg:1", bad),
        AccountUnlinkRequest("6", "user:alice", bad),
        AccountFreezeRequest("6", True, bad),
        AccountCloseRequest("7", bad),
        VoucherCreateRequest("5", id=bad),
    ):
        with pytest.raises(OperationError, match="32 hexadecimal digits"):
            await desk.answer(request)
    assert everything(ledger) == before


async def test_a_transfer_needs_two_accounts_and_the_money(desk: Desk, ledger: Ledger) -> None:
    await begin(desk)
    before = everything(ledger)
    with pytest.raises(TransferRefused) as to_oneself:
        await desk.answer(AccountTransferRequest("user:alice", "#6", "1"))
    assert to_oneself.value.result is Result.SAME_ACCOUNT
    with pytest.raises(TransferRefused) as too_much:
        await desk.answer(AccountTransferRequest("6", "7", "100.000001"))
    assert too_much.value.result is Result.NO_FUNDS
    assert everything(ledger) == before


@pytest.mark.parametrize(
    ("amount", "fee"),
    [
        (1, J.unit),
        (100 * J.unit, J.unit),
        (100 * J.unit + 1, J.unit + 1),
        (250 * J.unit, 2_500_000),
    ],
)
async def test_a_users_transfer_pays_its_fee_on_top(
    desk: Desk, ledger: Ledger, amount: int, fee: int
) -> None:
    await begin(desk)
    await desk.answer(AccountCreditRequest("6", "200"))
    for _ in range(2):
        reply = await desk.user_transfer(ALICE, BOB, amount, J, bytes.fromhex(ID))
    assert (reply.amount, reply.fee) == (format_amount(amount), format_amount(fee))
    assert ledger.balance(ALICE, J).posted == 300 * J.unit - amount - fee
    assert ledger.balance(BOB, J).posted == amount
    assert ledger.balance(FEES, J).posted == fee
    charged, paid = (await history(desk, "6", limit=2)).lines
    assert (charged.purpose, charged.other, charged.amount) == ("fee", "fees", format_amount(-fee))
    assert (paid.purpose, paid.other, paid.id) == ("user", "user:bob", ID)


async def test_a_user_without_the_fee_transfers_nothing(desk: Desk, ledger: Ledger) -> None:
    await begin(desk)
    before = everything(ledger)
    for amount in (100 * J.unit, 99 * J.unit + 1):
        with pytest.raises(TransferRefused) as caught:
            await desk.user_transfer(ALICE, BOB, amount, J, bytes.fromhex(ID))
        assert caught.value.result is Result.NO_FUNDS
    with pytest.raises(TransferRefused) as to_oneself:
        await desk.user_transfer(ALICE, ALICE, 1, J, bytes.fromhex(ID))
    assert to_oneself.value.result is Result.SAME_ACCOUNT
    for amount in (0, -5):
        with pytest.raises(TransferRefused) as no_amount:
            await desk.user_transfer(ALICE, BOB, amount, J, bytes.fromhex(ID))
        assert no_amount.value.result is Result.BAD_AMOUNT
    with pytest.raises(OperationError, match="the ledger's own"):
        await desk.user_transfer(NODE, BOB, 1, J, bytes.fromhex(ID))
    assert everything(ledger) == before
    await desk.user_transfer(ALICE, BOB, 99 * J.unit, J, bytes.fromhex(ID))
    assert ledger.balance(ALICE, J).posted == 0


async def test_a_whole_refund_brings_the_fee_back(desk: Desk, ledger: Ledger) -> None:
    await begin(desk)
    before = everything(ledger)
    paid = await desk.user_transfer(ALICE, BOB, 10 * J.unit, J, bytes.fromhex(ID))
    reply = await move(desk, AccountRefundRequest(paid.id, id=OTHER_ID))
    assert reply == TransferReply(
        id=OTHER_ID, debit="7", credit="6", amount="10.000000", currency="J", fee="1.000000"
    )
    assert everything(ledger) == before
    assert await move(desk, AccountRefundRequest(paid.id, id=OTHER_ID)) == reply
    assert await move(desk, AccountRefundRequest(paid.id, "10", id=OTHER_ID)) == reply
    with pytest.raises(TransferRefused) as caught:
        await desk.answer(AccountRefundRequest(paid.id))
    assert caught.value.result is Result.EXCEEDS
    assert everything(ledger) == before


@pytest.mark.parametrize("last", [None, "2"])
async def test_the_fee_comes_back_with_the_last_part(
    desk: Desk, ledger: Ledger, last: str | None
) -> None:
    await begin(desk)
    at_first = everything(ledger)
    paid = await desk.user_transfer(ALICE, BOB, 10 * J.unit, J, bytes.fromhex(ID))
    for _ in range(2):
        part = await move(desk, AccountRefundRequest(paid.id, "4"))
        assert (part.amount, part.fee) == ("4.000000", "0.000000")
    before = everything(ledger)
    with pytest.raises(TransferRefused) as caught:
        await desk.answer(AccountRefundRequest(paid.id, "2.000001"))
    assert caught.value.result is Result.EXCEEDS
    assert everything(ledger) == before
    rest = await move(desk, AccountRefundRequest(paid.id, last, id=OTHER_ID))
    assert (rest.amount, rest.fee) == ("2.000000", "1.000000")
    assert everything(ledger) == at_first
    for amount in (last, "2"):
        assert await move(desk, AccountRefundRequest(paid.id, amount, id=OTHER_ID)) == rest
    for amount in (None, "1"):
        with pytest.raises(TransferRefused) as all_of_it:
            await desk.answer(AccountRefundRequest(paid.id, amount))
        assert all_of_it.value.result is Result.EXCEEDS
    assert everything(ledger) == at_first


async def test_a_fee_that_came_back_already_comes_no_second_time(
    desk: Desk, ledger: Ledger
) -> None:
    await begin(desk)
    before = everything(ledger)
    paid = await desk.user_transfer(ALICE, BOB, 10 * J.unit, J, bytes.fromhex(ID))
    charged = (await history(desk, "6", limit=1)).lines[0]
    assert charged.purpose == "fee"
    await desk.answer(AccountRefundRequest(charged.id, "0.4"))
    reply = await move(desk, AccountRefundRequest(paid.id))
    assert (reply.amount, reply.fee) == ("10.000000", "0.600000")
    assert everything(ledger) == before


async def test_a_refund_after_a_merge_is_between_those_who_took_over(
    desk: Desk, ledger: Ledger
) -> None:
    await begin(desk)
    for address in ("tg:3", "tg:4"):
        await desk.answer(AccountCreateRequest((address,)))
    carol, dora = BOB + 1, BOB + 2
    paid = await desk.user_transfer(ALICE, BOB, 10 * J.unit, J, bytes.fromhex(ID))
    part = AccountRefundRequest(ID, "4", "11" * 16)
    first = await desk.answer(part)
    await desk.answer(AccountLinkRequest("tg:3", "user:bob"))
    await desk.answer(AccountLinkRequest("tg:4", "user:alice"))
    rest = AccountRefundRequest(ID, None, OTHER_ID)
    second = await desk.answer(rest)
    assert isinstance(second, TransferReply)
    assert (second.debit, second.credit) == (str(carol), str(dora))
    assert (second.amount, second.fee) == ("6.000000", paid.fee)
    assert ledger.balance(dora, J).posted == 100 * J.unit
    assert ledger.balance(carol, J).posted == ledger.balance(FEES, J).posted == 0
    # Asked for again, both are answered as the first time: also when it was before the merge, and
    # when payer and payee have become one.
    await desk.answer(AccountLinkRequest("tg:4", "tg:3"))
    assert [await desk.answer(part), await desk.answer(rest)] == [first, second]
    assert ledger.balance(dora, J).posted == 100 * J.unit


async def test_a_refund_that_cannot_be_paid_leaves_the_fee_too(desk: Desk, ledger: Ledger) -> None:
    await begin(desk)
    paid = await desk.user_transfer(ALICE, BOB, 10 * J.unit, J, bytes.fromhex(ID))
    await desk.answer(AccountTransferRequest("7", "node", "1"))
    before = everything(ledger)
    with pytest.raises(TransferRefused) as caught:
        await desk.answer(AccountRefundRequest(paid.id))
    assert caught.value.result is Result.NO_FUNDS
    with pytest.raises(OperationError, match="there is no transfer"):
        await desk.answer(AccountRefundRequest(OTHER_ID))
    assert everything(ledger) == before


# ---------------------------------------------------------------- history


async def test_a_history_says_what_came_and_went(
    desk: Desk, ledger: Ledger, clock: VirtualClock
) -> None:
    await begin(desk)
    clock.advance_s(61.5)
    paid = await move(desk, AccountTransferRequest("6", "7", "10", id=ID))
    await desk.answer(AccountRefundRequest(paid.id, "4", id=OTHER_ID))
    reply = await history(desk, "user:bob")
    assert reply.account == "7"
    assert reply.next is None
    back, came = reply.lines
    assert came == HistoryItem(
        place=came.place,
        id=ID,
        time="2027-01-15T08:01:01.500Z",
        kind="transfer",
        amount="10.000000",
        reserved=None,
        currency="J",
        other="user:alice",
        purpose="operator",
        reference=None,
        session=None,
    )
    assert (back.amount, back.purpose, back.reference) == ("-4.000000", "refund", ID)


async def test_lines_add_up_to_the_balance(desk: Desk, ledger: Ledger, clock: VirtualClock) -> None:
    await begin(desk)
    pending = [new_id(clock) for _ in range(4)]
    await ledger.transfer(
        [
            Transfer(identity, ALICE, BOB, 5 * J.unit, kind=Kind.PENDING, timeout_s=timeout_s)
            for identity, timeout_s in zip(pending, (0, 0, 0, 5), strict=True)
        ]
    )
    await ledger.transfer(
        [
            Transfer(new_id(clock), 0, 0, 3 * J.unit, kind=Kind.POST_PENDING, reference=pending[0]),
            Transfer(new_id(clock), 0, 0, 0, kind=Kind.VOID_PENDING, reference=pending[1]),
        ]
    )
    clock.advance_s(10)
    await ledger.transfer([])
    await desk.answer(AccountTransferRequest("7", "6", "1"))
    for account, name in ((ALICE, "6"), (BOB, "7")):
        reply = await history(desk, name)
        lines = reply.lines
        total = sum(Decimal(line.amount) for line in lines)
        assert format_amount(ledger.balance(account, J).posted) == str(total)
        assert reply.settled == {"J": str(total), "EMC": "0.00000000"}
        further_back = await history(desk, name, before=lines[0].place)
        assert further_back.settled is None
    # What sessions pay into it would stand in no line.
    assert (await history(desk, "node")).settled is None
    assert (await history(desk, "fees")).settled == {"J": "0.000000", "EMC": "0.00000000"}
    kinds = [(line.kind, line.amount, line.reserved) for line in (await history(desk, "7")).lines]
    assert kinds == [
        ("transfer", "-1.000000", None),
        ("expired", "0.000000", "5.000000"),
        ("voided", "0.000000", "5.000000"),
        ("posted", "3.000000", None),
        *[("pending", "0.000000", "5.000000")] * 4,
    ]


async def test_a_history_comes_in_pages(desk: Desk) -> None:
    await begin(desk)
    for number in range(1, 8):
        await desk.answer(AccountTransferRequest("6", "7", str(number)))
    amounts: list[str] = []
    before: int | None = None
    while True:
        reply = await history(desk, "7", before=before, limit=3)
        amounts += [line.amount for line in reply.lines]
        before = reply.next
        if before is None:
            break
    assert amounts == [f"{number}.000000" for number in range(7, 0, -1)]


async def test_a_session_is_one_line(tmp_path: Path, clock: VirtualClock) -> None:
    with open_ledger(tmp_path, clock, map_bytes=1 << 26) as ledger:
        desk = Desk(ledger, clock, BillingConfig())
        await begin(desk)
        charging = Charging(ledger)
        line = Line("turn", J.unit, 0, NODE)
        opened = await charging.open("1800000600:user:alice", line, ALICE)
        assert opened is not None
        shown = await show(desk, "6")
        assert Decimal(shown.held) > 0
        assert Decimal(shown.available) == Decimal(shown.balance) - Decimal(shown.held)
        assert isinstance(shown.balances[0], BalanceItem)
        for seconds in range(1, 11):
            clock.advance_s(1)
            await charging.tick(
                np.array([opened.info.slot], np.uint32),
                np.array([seconds], np.uint64),
                np.array([seconds * 1000], np.uint64),
                closing={opened.info.slot: "the client left"} if seconds == 10 else {},
            )
        item, credit = (await history(desk, "6")).lines
        assert credit.purpose == "credit"
        assert (item.kind, item.amount, item.other) == ("session", "-10.000000", "node")
        assert (item.purpose, item.currency) == ("turn", "J")
        assert item.session is not None
        assert msgspec.to_builtins(item.session) == {
            "name": "1800000600:user:alice",
            "opened": "2027-01-15T08:00:00.000Z",
            "seconds": 10,
            "bytes": 10_000,
            "reason": "the client left",
        }
        assert await balance(desk, "6") == "90.000000"
        older = await history(desk, "6", before=item.place)
        assert older.lines == [credit]


@pytest.mark.parametrize("place", [1, 2**40, 2**63 - 1])
async def test_a_place_of_nobodys_is_refused(desk: Desk, place: int) -> None:
    await begin(desk)
    with pytest.raises(OperationError):
        await history(desk, "7", before=place)


# ---------------------------------------------------------------- vouchers


async def test_vouchers_are_made_and_redeemed(desk: Desk) -> None:
    await begin(desk)
    made = await desk.answer(VoucherCreateRequest("2.5", 2, "EMC", ID))
    assert isinstance(made, VouchersReply)
    assert (len(made.codes), made.amount, made.currency) == (2, "2.50000000", "EMC")
    reply = await move(desk, VoucherRedeemRequest(made.codes[0], "user:bob"))
    assert (reply.debit, reply.credit, reply.amount) == ("1", "7", "2.50000000")
    assert await move(desk, VoucherRedeemRequest(made.codes[0], "7")) == reply
    with pytest.raises(OperationError, match="by another account"):
        await desk.answer(VoucherRedeemRequest(made.codes[0], "6"))
    (line,) = (await history(desk, "7")).lines
    assert (line.purpose, line.amount, line.other) == ("voucher", "2.50000000", "issue")
    with pytest.raises(OperationError, match="under this id already"):
        await desk.answer(VoucherCreateRequest("2.5", 2, "EMC", ID))


# ---------------------------------------------------------------- whatever comes

TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["6", "#7", "user:alice", "user:bob", "node", "1", "0.5", "99", "J", "EMC", ID, OTHER_ID]
    ),
)


@st.composite
def requests(draw: st.DrawFn) -> LedgerRequest:
    kind = draw(st.sampled_from(get_args(LedgerRequest)))
    values = {
        "addresses": st.lists(TEXTS, max_size=3).map(tuple),
        "frozen": st.booleans(),
        "first": st.integers(0, 2**32 - 1),
        "limit": st.integers(1, 1000),
        "count": st.integers(1, 5),
        "before": st.one_of(st.none(), st.integers(1, 2**63 - 1), st.integers(2**20, 2**23)),
        "id": st.one_of(st.none(), TEXTS),
    }
    request: LedgerRequest = kind(
        **{name: draw(values.get(name, TEXTS)) for name in kind.__struct_fields__}
    )
    return request


@settings(max_examples=300)
@given(asked=st.lists(requests(), min_size=1, max_size=8))
async def test_whatever_is_asked_is_answered_or_refused(asked: list[LedgerRequest]) -> None:
    clock = VirtualClock()
    ledger = ModelLedger(clock)
    desk = Desk(ledger, clock, BillingConfig(welcome="5", default_region="DE"))
    await begin(desk)
    for request in asked:
        before = everything(ledger)
        try:
            await desk.answer(request)
        except OperationError:
            assert everything(ledger) == before
    for currency in (J, EMC):
        balances = [ledger.balance(number, currency) for number in everything(ledger)]
        assert sum(one.posted for one in balances) == 0
        assert all(one.available >= 0 for one in balances[FIRST_USER_ACCOUNT - 1 :])


async def test_the_files_ledger_too_refuses_whatever_is_no_request(
    tmp_path: Path, clock: VirtualClock
) -> None:
    """Those of many random ones, on one ledger."""
    with open_ledger(tmp_path, clock, map_bytes=1 << 26) as ledger:
        desk = Desk(ledger, clock, BillingConfig())
        await begin(desk)
        draws = Random(7)
        words = [
            "6",
            "#7",
            "user:alice",
            "node",
            "0.5",
            "99",
            "J",
            "EMC",
            ID,
            "",
            "\0",
            "٣",
            "a" * 60,
        ]
        answered = 0
        for _ in range(300):
            kind = draws.choice(get_args(LedgerRequest))
            values: dict[str, Any] = {name: draws.choice(words) for name in kind.__struct_fields__}
            values |= {"addresses": (draws.choice(words),), "frozen": False, "first": 2, "limit": 3}
            values |= {"count": 2, "before": draws.choice([None, 1 << 20, 3 << 20 | 1, 2**62])}
            known = {name: values[name] for name in kind.__struct_fields__}
            before = everything(ledger)
            try:
                await desk.answer(kind(**known))
                answered += 1
            except OperationError:
                assert everything(ledger) == before
        assert 10 < answered < 290
