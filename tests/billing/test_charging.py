"""Sessions between the meter and the ledger: what merging accounts makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trio

from billing import journal
from billing.audit import verify
from billing.charging import LOST, MERGED, Charging, Verdicts
from billing.journal import CallRecord
from billing.ledger import ISSUE, NODE, LmdbLedger
from billing.money import J
from billing.tariff import Line
from billing.transfers import Transfer, new_id
from core.clock import VirtualClock
from core.errors import OperationError
from tests.support.small_ledger import open_small

TURN = Line("turn", J.unit, 0, NODE)
CLOCK = VirtualClock()


async def account_with(ledger: LmdbLedger, address: str, amount: int) -> int:
    number = await ledger.open_account([address])
    if amount:
        await ledger.transfer([Transfer(new_id(CLOCK), ISSUE, number, amount * J.unit)])
    return number


async def tick(
    charging: Charging, *counters: tuple[int, int, int], closing: dict[int, str] | None = None
) -> Verdicts:
    slots, seconds, relayed = zip(*counters, strict=True) if counters else ((), (), ())
    return await charging.tick(
        np.array(slots, np.uint32),
        np.array(seconds, np.uint64),
        np.array(relayed, np.uint64),
        closing or {},
    )


async def records_of(ledger: LmdbLedger, account: int) -> list[CallRecord]:
    lines = await ledger.history(account)
    return [line.record for line in lines if line.record is not None]


async def merge_while_it_lasts(ledger: LmdbLedger, charging: Charging) -> tuple[int, int, int]:
    """Two accounts of 100 and of 20, merged when a session of the second has had 5 seconds."""
    target = await account_with(ledger, "user:target", 100)
    source = await account_with(ledger, "tg:1", 20)
    opened = await charging.open("the call", TURN, source)
    assert opened is not None
    slot = opened.info.slot
    await tick(charging, (slot, 5, 1000))
    assert ledger.balance(source, J).held == 15 * J.unit
    await ledger.link(target, "tg:1")
    return target, source, slot


def test_a_session_goes_on_at_the_cost_of_the_account_that_takes_over(tmp_path: Path) -> None:
    async def run() -> None:
        with open_small(tmp_path, CLOCK) as ledger:
            charging = Charging(ledger)
            target, source, slot = await merge_while_it_lasts(ledger, charging)
            assert ledger.balance(source, J) == (0, 0, 0, 0)
            balance = ledger.balance(target, J)
            # What there was is there once, and so is what is held.
            assert (balance.posted, balance.held) == (115 * J.unit, 30 * J.unit)
            (before,) = await records_of(ledger, source)
            assert (before.seconds, before.cost, before.reason) == (5, 5 * J.unit, MERGED)
            assert before.relayed_bytes == 1000
            verdicts = await tick(charging, (slot, 6, 1500))
            assert verdicts.granted[0].tolist() == [slot]
            assert verdicts.granted[1].tolist() == [charging.granted(slot)] == [5 + 30]
            await tick(charging, (slot, 9, 4000), closing={slot: "client"})
            (after,) = await records_of(ledger, target)
            assert (after.seconds, after.cost, after.reason) == (4, 4 * J.unit, "client")
            assert (after.name, after.relayed_bytes) == (before.name, 3000)
            assert after.id != before.id
            assert ledger.balance(target, J) == (111 * J.unit, 0, 0, 0)
            assert ledger.balance(NODE, J).posted == 9 * J.unit
            report = await verify(ledger)
            assert report.ok, report.problems

    trio.run(run)


def test_a_session_that_nobody_has_heard_of_yet_is_merged_too(tmp_path: Path) -> None:
    async def run() -> None:
        with open_small(tmp_path, CLOCK) as ledger:
            charging = Charging(ledger)
            target = await account_with(ledger, "user:target", 0)
            source = await account_with(ledger, "tg:1", 20)
            opened = await charging.open("the call", TURN, source)
            assert opened is not None
            await ledger.link(target, "tg:1")
            assert ledger.balance(target, J).held == 20 * J.unit
            await tick(charging, (opened.info.slot, 3, 0), closing={opened.info.slot: "client"})
            assert not await records_of(ledger, source)
            assert [record.cost for record in await records_of(ledger, target)] == [3 * J.unit]
            assert (await verify(ledger)).ok

    trio.run(run)


@pytest.mark.parametrize("ticked", [True, False])
def test_a_crash_after_merging_closes_what_the_target_has_paid(
    tmp_path: Path, ticked: bool
) -> None:
    async def run() -> None:
        ledger = open_small(tmp_path, CLOCK)
        charging = Charging(ledger)
        target, _, slot = await merge_while_it_lasts(ledger, charging)
        if ticked:
            await tick(charging, (slot, 8, 0))
        # As after a kill: no checkpoint is written.
        ledger.store.close()
        with open_small(tmp_path, CLOCK) as again:
            charging = Charging(again)
            assert await charging.recover() == 1
            (record,) = await records_of(again, target)
            paid = 3 if ticked else 0
            assert (record.seconds, record.cost, record.reason) == (paid, paid * J.unit, LOST)
            assert again.balance(target, J) == ((115 - paid) * J.unit, 0, 0, 0)
            assert (await verify(again)).ok

    trio.run(run)


def test_merging_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    async def run() -> None:
        with open_small(tmp_path, CLOCK) as ledger:
            charging = Charging(ledger)
            target = await account_with(ledger, "user:target", 100)
            source = await account_with(ledger, "tg:1", 20)
            opened = await charging.open("the call", TURN, source)
            assert opened is not None
            slot = opened.info.slot
            await tick(charging, (slot, 5, 1000))
            before = (ledger.balance(target, J), ledger.balance(source, J), ledger.head)
            columns = {name: one.copy() for name, one in ledger.meter.columns.items()}
            write = ledger._set

            def fail(*arguments: object) -> None:
                raise OperationError("the last step fails")

            ledger._set = fail  # type: ignore[method-assign, assignment]
            with pytest.raises(OperationError, match="the last step"):
                await ledger.link(target, "tg:1")
            ledger._set = write  # type: ignore[method-assign]
            assert (ledger.balance(target, J), ledger.balance(source, J), ledger.head) == before
            for name, column in columns.items():
                assert (ledger.meter.columns[name] == column).all(), name
            await tick(charging, (slot, 6, 1500), closing={slot: "client"})
            (record,) = await records_of(ledger, source)
            assert (record.seconds, record.cost) == (6, 6 * J.unit)
            assert (await verify(ledger)).ok

    trio.run(run)


def test_a_page_of_history_takes_an_entry_of_records_apart_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = 40
    taken_apart: list[int] = []
    decoded: list[bytes] = []
    raw_records, decode = journal.raw_records, journal.decode_record_untrusted

    def count_entries(entry: bytes | memoryview) -> list[bytes]:
        taken_apart.append(len(entry))
        return raw_records(entry)

    def count_records(raw: bytes) -> CallRecord:
        decoded.append(raw)
        return decode(raw)

    async def run() -> None:
        with open_small(tmp_path, CLOCK) as ledger:
            charging = Charging(ledger)
            account = await account_with(ledger, "user:a", 10_000)
            other = await account_with(ledger, "user:b", 10_000)
            slots = []
            for number in range(sessions):
                opened = await charging.open("call", TURN, (account, other)[number % 2])
                assert opened is not None
                slots.append(opened.info.slot)
            counters = [(slot, 1, 0) for slot in slots]
            await tick(charging, *counters, closing=dict.fromkeys(slots, "ended"))
            monkeypatch.setattr(journal, "raw_records", count_entries)
            monkeypatch.setattr(journal, "decode_record_untrusted", count_records)
            lines = await ledger.history(account)
            assert [line.record is not None for line in lines] == [True] * (sessions // 2) + [False]
            assert (len(taken_apart), len(decoded)) == (1, sessions // 2)
            # The next page looks at the line that it follows, and goes on from there.
            taken_apart.clear()
            decoded.clear()
            page = await ledger.history(account, lines[4].place, 5)
            assert page == lines[5:10]
            assert (len(taken_apart), len(decoded)) == (1, 7)

    trio.run(run)
