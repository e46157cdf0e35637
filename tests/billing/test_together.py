"""Calls of several that land in one commit: none of them feels the others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from billing import ledger as ledger_module
from billing.audit import verify
from billing.charging import Charging
from billing.ledger import ISSUE, NODE, LmdbLedger, open_ledger
from billing.money import J
from billing.tariff import Line
from billing.transfers import NO_ID, Kind, Result, Transfer, derive_id
from core.clock import VirtualClock
from core.errors import OperationError
from core.tables import Writing
from tests.support.small_ledger import open_small

TURN = Line("turn", J.unit, 0, NODE)


def identity(number: int) -> bytes:
    return number.to_bytes(16, "big")


async def together(ledger: LmdbLedger, *calls: Callable[[], Any]) -> list[Any]:
    """Have calls land in one commit: the writer waits until all of them have been made."""
    held, go = threading.Event(), threading.Event()

    def hold(_: Writing) -> None:
        held.set()
        go.wait(10)

    future = ledger.store.submit(hold)
    await trio.to_thread.run_sync(held.wait)
    results: list[Any] = [None] * len(calls)

    async def run(index: int, call: Callable[[], Any]) -> None:
        try:
            results[index] = await call()
        except OperationError as error:
            results[index] = error

    async with trio.open_nursery() as nursery:
        for index, call in enumerate(calls):
            nursery.start_soon(run, index, call)
            await trio.testing.wait_all_tasks_blocked(0.001)
        go.set()
    future.result()
    return results


def test_an_id_is_done_once_whatever_chain_fails_beside_it(tmp_path: Path) -> None:
    async def run() -> None:
        with open_small(tmp_path, VirtualClock()) as ledger:
            alice = await ledger.open_account()
            await ledger.transfer([Transfer(identity(1), ISSUE, alice, 100)])
            pay = Transfer(identity(2), alice, NODE, 10)
            too_much = Transfer(identity(3), alice, NODE, 10_000, linked=True)
            results = await ledger.transfer([pay, too_much, pay, pay])
            assert results == [Result.DONE, Result.NO_FUNDS, Result.LINKED_FAILED, Result.EXISTS]
            again = Transfer(identity(4), alice, NODE, 10)
            several = await together(
                ledger,
                lambda: ledger.transfer([again]),
                lambda: ledger.transfer([too_much._replace(id=identity(5)), again]),
                lambda: ledger.transfer([again]),
            )
            assert several == [
                [Result.DONE],
                [Result.NO_FUNDS, Result.LINKED_FAILED],
                [Result.EXISTS],
            ]
            assert ledger.balance(alice, J).posted == 80
            assert (await verify(ledger)).ok

    trio.run(run)


def test_a_chain_without_its_end_is_its_callers_alone(tmp_path: Path) -> None:
    async def run() -> None:
        with open_small(tmp_path, VirtualClock()) as ledger:
            alice = await ledger.open_account()
            open_one = Transfer(identity(1), ISSUE, alice, 1, linked=True)
            innocent = Transfer(identity(2), ISSUE, alice, 2)
            results = await together(
                ledger,
                lambda: ledger.transfer([open_one]),
                lambda: ledger.transfer([innocent]),
            )
            assert results == [[Result.OPEN_CHAIN], [Result.DONE]]
            closed = Transfer(identity(3), ISSUE, alice, 5)
            results = await ledger.transfer([closed, open_one])
            assert results == [Result.DONE, Result.OPEN_CHAIN]
            assert ledger.balance(alice, J).posted == 7

    trio.run(run)


def test_what_no_entry_holds_takes_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "ENTRY_TRANSFERS", 5)

    async def run() -> None:
        with open_small(tmp_path, VirtualClock()) as ledger:
            account = await ledger.open_account()
            head = ledger.head

            async def three(first: int) -> list[Result]:
                numbers = range(first, first + 3)
                return await ledger.transfer(
                    [Transfer(identity(number), ISSUE, account, 1) for number in numbers]
                )

            calls = [partial(three, first) for first in range(1, 31, 3)]
            assert await together(ledger, *calls) == [[Result.DONE] * 3] * 10
            assert ledger.head == head + 10
            assert len(await ledger.history(account)) == 30

    trio.run(run)


def test_what_happens_besides_one_is_felt_by_no_other(tmp_path: Path) -> None:
    """Among them one whose retry waits behind it: that is then the first."""

    async def run() -> None:
        with open_small(tmp_path, VirtualClock()) as ledger:
            alice = await ledger.open_account()
            await ledger.transfer([Transfer(identity(1), ISSUE, alice, 100)])
            done: list[str] = []

            def refuse(_: Writing) -> None:
                raise OperationError("no")

            def mistaken(_: Writing) -> None:
                raise KeyError("a mistake")

            def write(name: str) -> Callable[[Writing], None]:
                def also(writing: Writing) -> None:
                    writing.put("outbox", name.encode(), b"v")
                    writing.after_commit(lambda: done.append(name))

                return also

            async def mistaken_call() -> str:
                with pytest.raises(KeyError):
                    await ledger.transfer([pay(4)], also=mistaken)
                return "mistaken"

            def pay(number: int) -> Transfer:
                return Transfer(identity(number), alice, NODE, 10)

            results = await together(
                ledger,
                lambda: ledger.transfer([pay(2)], also=write("first")),
                lambda: ledger.transfer([pay(3)], also=refuse),
                mistaken_call,
                lambda: ledger.transfer([pay(3)], also=write("retry")),
                lambda: ledger.transfer([pay(2)], also=write("never")),
                lambda: ledger.transfer([pay(5)]),
            )
            assert isinstance(results[1], OperationError)
            assert results[2] == "mistaken"
            assert results[0] == results[3] == results[5] == [Result.DONE]
            assert results[4] == [Result.EXISTS]
            assert ledger.balance(alice, J).posted == 70
            assert done == ["first", "retry"]
            with ledger.store.read() as tables:
                assert [key for key, _ in tables.items("outbox")] == [b"first", b"retry"]
            assert (await verify(ledger)).ok
        with open_small(tmp_path, VirtualClock()) as again:
            assert again.balance(alice, J).posted == 70

    trio.run(run)


def test_what_happens_besides_is_done_anew_with_its_transaction(tmp_path: Path) -> None:
    """The map grows in its middle: the first try leaves nothing."""

    async def run() -> None:
        with open_ledger(
            tmp_path, VirtualClock(), sessions=64, map_bytes=1 << 22, map_maximum_bytes=1 << 28
        ) as ledger:
            alice = await ledger.open_account()
            tries: list[int] = []

            def also(writing: Writing) -> None:
                tries.append(len(writing.items("outbox")))
                writing.put("outbox", b"%d" % len(tries), bytes(1 << 25))

            pay = Transfer(identity(1), ISSUE, alice, 100)
            assert await ledger.transfer([pay], also=also) == [Result.DONE]
            assert len(tries) > 1
            assert set(tries) == {0}
            with ledger.store.read() as tables:
                assert tables.count("outbox") == 1
            assert ledger.balance(alice, J).posted == 100
            assert (await verify(ledger)).ok

    trio.run(run)


def test_bad_calls_do_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        with open_small(tmp_path, VirtualClock()) as ledger:
            one = Transfer(identity(1), ISSUE, NODE, 1)
            with pytest.raises(OperationError, match="at most"):
                await ledger.transfer([one] * (ledger_module.BATCH_TRANSFERS + 1))
            with pytest.raises(OperationError, match="id of a transfer"):
                await ledger.transfer([one, one._replace(id=NO_ID)])
            with pytest.raises(OperationError, match="out of range"):
                await ledger.transfer([one, one._replace(credit=-1)])
            assert ledger.balance(NODE, J).posted == 0

    trio.run(run)


def test_what_follows_a_refused_commit_survives_a_kill(tmp_path: Path) -> None:
    def reopen() -> LmdbLedger:
        return open_ledger(
            tmp_path, VirtualClock(), sessions=64, map_bytes=1 << 22, map_maximum_bytes=1 << 22
        )

    def too_much(writing: Writing) -> None:
        writing.put("outbox", b"x", bytes(1 << 26))

    async def run() -> None:
        ledger = reopen()
        alice = await ledger.open_account()
        await ledger.transfer([Transfer(identity(1), ISSUE, alice, 100)])
        # What has changed is stored, so that the next change begins anew.
        ledger.close()
        ledger = reopen()
        refused = await together(
            ledger,
            lambda: ledger.open_account(),
            lambda: ledger.transfer([Transfer(identity(2), alice, NODE, 1)]),
            lambda: ledger.freeze(alice, True),
            lambda: ledger.store.write(too_much),
        )
        assert all(isinstance(one, OperationError) for one in refused)
        assert await ledger.transfer([Transfer(identity(3), alice, NODE, 40)]) == [Result.DONE]
        ledger.store.close()
        with reopen() as again:
            assert again.balance(alice, J).posted == 60
            assert again.balance(NODE, J).posted == 40
            assert (await verify(again)).ok

    trio.run(run)


def test_what_was_refused_with_its_commit_ends_when_it_was_done_again(tmp_path: Path) -> None:
    def too_much(writing: Writing) -> None:
        writing.put("outbox", b"x", bytes(1 << 26))

    async def run() -> None:
        clock = VirtualClock()
        with open_ledger(
            tmp_path, clock, sessions=64, map_bytes=1 << 22, map_maximum_bytes=1 << 22
        ) as ledger:
            alice = await ledger.open_account()
            await ledger.transfer([Transfer(identity(1), ISSUE, alice, 100)])
            pending = Transfer(identity(2), alice, NODE, 60, kind=Kind.PENDING, timeout_s=10)
            refused = await together(
                ledger,
                lambda: ledger.transfer([pending]),
                lambda: ledger.store.write(too_much),
            )
            assert all(isinstance(one, OperationError) for one in refused)
            clock.advance_s(5)
            assert await ledger.transfer([pending]) == [Result.DONE]
            clock.advance_s(6)
            await ledger.transfer([])
            assert ledger.balance(alice, J).reserved == 60
            clock.advance_s(5)
            await ledger.transfer([])
            assert ledger.balance(alice, J).reserved == 0
            assert (await verify(ledger)).ok

    trio.run(run)


def test_ends_of_what_was_resolved_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "EXPIRIES_SPARED", 3)

    async def run() -> None:
        clock = VirtualClock()
        with open_small(tmp_path, clock) as ledger:
            lasting = Transfer(identity(999), ISSUE, NODE, 1, kind=Kind.PENDING, timeout_s=50)
            await ledger.transfer([lasting])
            ends_ns = ledger.next_expiry_ns
            for number in range(1, 40, 2):
                pending = Transfer(identity(number), ISSUE, NODE, 1, kind=Kind.PENDING, timeout_s=9)
                void = Transfer(
                    identity(number + 1), 0, 0, 0, kind=Kind.VOID_PENDING, reference=pending.id
                )
                for one in (pending, void):
                    assert await ledger.transfer([one]) == [Result.DONE]
                    assert len(ledger._expiries) <= 2 * len(ledger.book.pending) + 3
            later = Transfer(identity(100), ISSUE, NODE, 1, kind=Kind.PENDING, timeout_s=60)
            await ledger.transfer([later])
            clock.advance_s(10)
            await ledger.transfer([])
            assert ledger.next_expiry_ns == ends_ns
            clock.advance_s(41)
            await ledger.transfer([])
            assert set(ledger.book.pending) == {later.id}

    trio.run(run)


def test_closing_a_session_and_merging_its_account_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        clock = VirtualClock()
        with open_small(tmp_path, clock) as ledger:
            charging = Charging(ledger)
            target = await ledger.open_account(["user:a"])
            source = await ledger.open_account(["tg:1"])
            await ledger.transfer([Transfer(identity(1), ISSUE, source, 100 * J.unit)])
            opened = await charging.open("call", TURN, source)
            assert opened is not None
            slots = np.array([opened.info.slot], np.uint32)
            two = np.array([2], np.uint64)
            results = await together(
                ledger,
                lambda: charging.tick(slots, two, two, {opened.info.slot: "client"}),
                lambda: ledger.link(target, "tg:1"),
            )
            assert results[1] == target, results[1]
            assert ledger.balance(target, J) == (98 * J.unit, 0, 0, 0)
            assert (await verify(ledger)).ok

    trio.run(run)


def test_pending_money_comes_free_with_a_tick_whatever_id_was_taken(tmp_path: Path) -> None:
    async def run() -> None:
        clock = VirtualClock()
        with open_small(tmp_path, clock) as ledger:
            charging = Charging(ledger)
            alice = await ledger.open_account()
            pending = Transfer(identity(2), alice, NODE, 60, kind=Kind.PENDING, timeout_s=5)
            squatter = Transfer(derive_id(pending.id, b"expire"), ISSUE, NODE, 1)
            await ledger.transfer([Transfer(identity(1), ISSUE, alice, 100), pending, squatter])
            clock.advance_s(6)
            assert ledger.balance(alice, J).reserved == 60
            nothing = np.zeros(0, np.uint64)
            await charging.tick(nothing.astype(np.uint32), nothing, nothing, {})
            assert ledger.balance(alice, J) == (100, 0, 0, 0)
            assert (await verify(ledger)).ok

    trio.run(run)


def test_nothing_pending_leaves_a_frozen_account(tmp_path: Path) -> None:
    async def run() -> None:
        with open_small(tmp_path, VirtualClock()) as ledger:
            alice = await ledger.open_account()
            pending = Transfer(identity(2), alice, NODE, 60, kind=Kind.PENDING)
            await ledger.transfer([Transfer(identity(1), ISSUE, alice, 100), pending])
            await ledger.freeze(alice, True)
            post = Transfer(identity(3), 0, 0, 0, kind=Kind.POST_PENDING, reference=pending.id)
            assert await ledger.transfer([post]) == [Result.FROZEN]
            void = post._replace(id=identity(4), kind=Kind.VOID_PENDING)
            assert await ledger.transfer([void]) == [Result.DONE]

    trio.run(run)


@pytest.mark.parametrize("act", ["close", "merge"])
def test_an_account_that_the_tariff_pays_into_stays(tmp_path: Path, act: str) -> None:
    async def run() -> None:
        with open_small(tmp_path, VirtualClock()) as ledger:
            shop = await ledger.open_account(["user:shop"])
            other = await ledger.open_account()
            ledger.paid_into.add(shop)
            acts = {
                "close": lambda: ledger.close_account(shop),
                "merge": lambda: ledger.link(other, "user:shop"),
            }
            with pytest.raises(OperationError, match="tariff"):
                await acts[act]()

    trio.run(run)


def test_refunds_after_merges_leave_nothing_to_complain_of(tmp_path: Path) -> None:
    async def run() -> None:
        clock = VirtualClock()
        ledger = open_small(tmp_path, clock)
        alice, bob, carol = [await ledger.open_account([f"tg:{n}"]) for n in (1, 2, 3)]
        await ledger.transfer([Transfer(identity(1), ISSUE, alice, 100)])
        await ledger.transfer([Transfer(identity(2), alice, bob, 50)])
        # The refund lands in the commit of the merge that it follows.
        back = Transfer(identity(3), carol, alice, 20, reference=identity(2), refund=True)
        results = await together(
            ledger, lambda: ledger.link(carol, "tg:2"), lambda: ledger.transfer([back])
        )
        assert results == [carol, [Result.DONE]]
        ledger.store.close()
        with open_small(tmp_path, clock) as again:
            assert (again.balance(alice, J).posted, again.balance(carol, J).posted) == (70, 30)
            assert again.refunded(identity(2)) == 20
            assert await again.transfer([back]) == [Result.EXISTS]
            rest = back._replace(id=identity(4), amount=30)
            assert await again.transfer([rest]) == [Result.DONE]
            assert (await verify(again)).ok

    trio.run(run)


def test_a_merge_that_is_undone_with_its_commit_leaves_no_heir(tmp_path: Path) -> None:
    def too_much(writing: Writing) -> None:
        writing.put("outbox", b"x", bytes(1 << 26))

    async def run() -> None:
        with open_ledger(
            tmp_path, VirtualClock(), sessions=64, map_bytes=1 << 22, map_maximum_bytes=1 << 22
        ) as ledger:
            alice, bob = [await ledger.open_account([f"tg:{n}"]) for n in (1, 2)]
            await ledger.transfer([Transfer(identity(1), ISSUE, alice, 100)])
            refused = await together(
                ledger,
                lambda: ledger.link(bob, "tg:1"),
                lambda: ledger.store.write(too_much),
            )
            assert all(isinstance(one, OperationError) for one in refused)
            assert ledger.heir(alice) == alice
            back = Transfer(identity(2), alice, ISSUE, 10, reference=identity(1), refund=True)
            assert await ledger.transfer([back]) == [Result.DONE]

    trio.run(run)
