"""Vouchers: made in batches, worth their amount once, unreadable in the files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio

from billing.ledger import ISSUE, Ledger, open_ledger
from billing.money import EMC, J
from billing.transfers import Code, Result, TransferRefused
from billing.vouchers import VOUCHERS_MAXIMUM, Vouchers
from core.clock import VirtualClock
from core.errors import OperationError
from tests.support.ledgers import everything

pytestmark = pytest.mark.trio


async def test_codes_are_twenty_characters_in_groups_and_differ(
    ledger: Ledger, clock: VirtualClock
) -> None:
    codes = await Vouchers(ledger, clock).create(5, J, 100)
    assert len(set(codes)) == 100
    assert all(re.fullmatch(r"([A-Z2-7]{5}-){3}[A-Z2-7]{5}", code) for code in codes)
    # Each of the places takes many values: none is a constant or a counter.
    assert all(len({code[place] for code in codes}) > 10 for place in (0, 10, 22))


async def test_making_them_moves_nothing(ledger: Ledger, clock: VirtualClock) -> None:
    before = everything(ledger)
    await Vouchers(ledger, clock).create(5, J, 3)
    assert everything(ledger) == before


async def test_a_voucher_is_redeemed_once(ledger: Ledger, clock: VirtualClock) -> None:
    vouchers = Vouchers(ledger, clock)
    alice, bob = await ledger.open_account(), await ledger.open_account()
    first, second = await vouchers.create(5, EMC, 2)
    transfer = await vouchers.redeem_untrusted(first, alice)
    assert (transfer.debit, transfer.credit, transfer.amount) == (ISSUE, alice, 5)
    assert (transfer.currency, transfer.code) == (EMC.number, Code.VOUCHER)
    assert ledger.balance(alice, EMC).posted == 5
    assert await vouchers.redeem_untrusted(first, alice) == transfer
    before = everything(ledger)
    with pytest.raises(OperationError, match="by another account"):
        await vouchers.redeem_untrusted(first, bob)
    assert everything(ledger) == before
    assert (await vouchers.redeem_untrusted(second, bob)).id != transfer.id
    assert ledger.balance(alice, EMC).posted == ledger.balance(bob, EMC).posted == 5


async def test_of_many_who_redeem_at_once_one_gets_it(ledger: Ledger, clock: VirtualClock) -> None:
    vouchers = Vouchers(ledger, clock)
    accounts = [await ledger.open_account() for _ in range(10)]
    (code,) = await vouchers.create(5, J, 1)
    refused = 0

    async def redeem(account: int) -> None:
        nonlocal refused
        try:
            await vouchers.redeem_untrusted(code, account)
        except OperationError:
            refused += 1

    async with trio.open_nursery() as nursery:
        for account in accounts:
            nursery.start_soon(redeem, account)
    assert refused == 9
    assert sum(ledger.balance(account, J).posted for account in accounts) == 5


async def test_a_code_may_be_typed_loosely(ledger: Ledger, clock: VirtualClock) -> None:
    vouchers = Vouchers(ledger, clock)
    alice = await ledger.open_account()
    (code,) = await vouchers.create(5, J, 1)
    await vouchers.redeem_untrusted(f" {code.lower().replace('-', ' ')}\n", alice)
    assert ledger.balance(alice, J).posted == 5


@pytest.mark.parametrize(
    "code",
    ["", "AAAAA", "A" * 21, "A" * 100_000, "AAAAA-AAAAA-AAAAA-AAAA1", "АAAAA-AAAAA-AAAAA-AAAAA"],
    ids=["none", "short", "long", "huge", "no base32", "cyrillic"],
)
async def test_what_is_no_code_is_refused(ledger: Ledger, clock: VirtualClock, code: str) -> None:
    alice = await ledger.open_account()
    with pytest.raises(OperationError, match="has 20 letters and digits"):
        await Vouchers(ledger, clock).redeem_untrusted(code, alice)


async def test_a_code_that_nobody_made_is_refused(ledger: Ledger, clock: VirtualClock) -> None:
    alice = await ledger.open_account()
    with pytest.raises(OperationError, match="no voucher with this code"):
        await Vouchers(ledger, clock).redeem_untrusted("A" * 20, alice)
    assert ledger.balance(alice, J).posted == 0


async def test_a_closed_account_leaves_the_voucher_good(
    ledger: Ledger, clock: VirtualClock
) -> None:
    vouchers = Vouchers(ledger, clock)
    alice, bob = await ledger.open_account(), await ledger.open_account()
    await ledger.close_account(alice)
    (code,) = await vouchers.create(5, J, 1)
    with pytest.raises(TransferRefused) as caught:
        await vouchers.redeem_untrusted(code, alice)
    assert caught.value.result is Result.CLOSED
    await vouchers.redeem_untrusted(code, bob)
    assert ledger.balance(bob, J).posted == 5


async def test_a_batch_is_made_once_under_its_id(ledger: Ledger, clock: VirtualClock) -> None:
    vouchers = Vouchers(ledger, clock)
    made: list[str] = []
    refused: list[str] = []

    async def create() -> None:
        try:
            made.extend(await vouchers.create(5, J, 2, bytes([7]) * 16))
        except OperationError as error:
            refused.append(str(error))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(create)
    assert (len(made), len(refused)) == (2, 4)
    assert all("under this id already" in sentence for sentence in refused)
    assert len(await vouchers.create(5, J, 2, bytes([8]) * 16)) == 2


@pytest.mark.parametrize("count", [0, -1, VOUCHERS_MAXIMUM + 1])
async def test_a_batch_has_bounds(ledger: Ledger, clock: VirtualClock, count: int) -> None:
    with pytest.raises(OperationError, match="from 1 to 1000"):
        await Vouchers(ledger, clock).create(5, J, count)


async def test_the_files_hold_no_code_and_outlive_a_crash(tmp_path: Path) -> None:
    clock = VirtualClock()
    ledger = open_ledger(tmp_path, clock, map_bytes=1 << 26)
    alice = await ledger.open_account()
    codes = await Vouchers(ledger, clock).create(5, J, 20)
    await Vouchers(ledger, clock).redeem_untrusted(codes[0], alice)
    ledger.store.close()
    stored = (tmp_path / "data.mdb").read_bytes()
    for code in codes:
        assert code.encode() not in stored
        assert code.replace("-", "").encode() not in stored
    with open_ledger(tmp_path, clock, map_bytes=1 << 26) as ledger:
        for code in codes:
            await Vouchers(ledger, clock).redeem_untrusted(code, alice)
        assert ledger.balance(alice, J).posted == 100
