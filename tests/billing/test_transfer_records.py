"""Transfers as arrays: the same as one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trio

from billing import ledger as ledger_module
from billing.book import TRANSFER
from billing.ledger import ISSUE, NODE, LmdbLedger, open_ledger
from billing.money import J
from billing.transfers import NO_ID, Kind, Result, Transfer
from core.clock import VirtualClock
from core.errors import OperationError


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[LmdbLedger]:
    with open_ledger(tmp_path, VirtualClock(), map_bytes=1 << 26) as opened:
        yield opened


def records(*rows: tuple[int, int, int, int]) -> np.ndarray:
    """(id, debit, credit, amount) of each."""
    array = np.zeros(len(rows), TRANSFER)
    for index, (identity, debit, credit, amount) in enumerate(rows):
        array[index]["id"] = np.void(identity.to_bytes(16, "big"))
        array[index]["debit"], array[index]["credit"] = debit, credit
        array[index]["amount"] = amount
    return array


def test_each_is_done_or_says_why(ledger: LmdbLedger) -> None:
    async def run() -> None:
        alice = await ledger.open_account()
        batch = records(
            (1, ISSUE, alice, 100), (2, alice, NODE, 60), (3, alice, NODE, 60), (2, alice, NODE, 60)
        )
        codes = await ledger.transfer_records(batch)
        assert [Result(code) for code in codes] == [
            Result.DONE,
            Result.DONE,
            Result.NO_FUNDS,
            Result.EXISTS,
        ]
        again = await ledger.transfer_records(batch)
        assert again.tolist() == [Result.EXISTS, Result.EXISTS, Result.NO_FUNDS, Result.EXISTS]
        one = Transfer((2).to_bytes(16, "big"), alice, NODE, 60)
        assert await ledger.transfer([one]) == [Result.EXISTS]
        assert await ledger.transfer([one._replace(amount=61)]) == [Result.ID_REUSED]
        assert ledger.balance(alice, J).posted == 40
        assert [line.transfer for line in await ledger.history(alice)] == [
            one,
            Transfer((1).to_bytes(16, "big"), ISSUE, alice, 100),
        ]

    trio.run(run)


def test_a_reference_is_looked_up(ledger: LmdbLedger) -> None:
    async def run() -> None:
        alice = await ledger.open_account()
        pending = records((1, ISSUE, alice, 100))
        pending["kind"] = Kind.PENDING
        assert (await ledger.transfer_records(pending)).tolist() == [Result.DONE]
        post = records((2, 0, 0, 70))
        post["kind"] = Kind.POST_PENDING
        post["reference"] = pending["id"]
        assert (await ledger.transfer_records(post)).tolist() == [Result.DONE]
        post["id"] = np.void((3).to_bytes(16, "big"))
        assert (await ledger.transfer_records(post)).tolist() == [Result.RESOLVED]
        assert ledger.balance(alice, J).posted == 70

    trio.run(run)


def test_bad_calls_do_nothing(ledger: LmdbLedger) -> None:
    async def run() -> None:
        with pytest.raises(OperationError, match="at most"):
            await ledger.transfer_records(np.zeros(ledger_module.BATCH_TRANSFERS + 1, TRANSFER))
        with pytest.raises(OperationError, match="id of a transfer"):
            await ledger.transfer_records(records((0, ISSUE, NODE, 1)))
        with pytest.raises(OperationError, match="id of a transfer"):
            await ledger.transfer([Transfer(NO_ID, ISSUE, NODE, 1)])
        with pytest.raises(OperationError, match="out of range"):
            await ledger.transfer([Transfer(b"x" * 16, ISSUE, -1, 1)])
        assert ledger.balance(NODE, J).posted == 0

    trio.run(run)


def test_what_no_entry_holds_takes_several(
    ledger: LmdbLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "ENTRY_TRANSFERS", 5)

    async def run() -> None:
        account = await ledger.open_account()
        head = ledger.head
        done: list[list[int]] = []

        async def one(first: int) -> None:
            batch = records(*((first + index, ISSUE, account, 1) for index in range(3)))
            done.append((await ledger.transfer_records(batch)).tolist())

        async with trio.open_nursery() as nursery:
            for number in range(1, 31, 3):
                nursery.start_soon(one, number)
        assert done == [[0, 0, 0]] * 10
        assert ledger.head == head + 10
        assert len(await ledger.history(account)) == 30

    trio.run(run)
