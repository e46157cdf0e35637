"""Backup, restore and pruning: the ledger afterwards is the ledger before."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import trio

from billing import journal
from billing.audit import verify, walking
from billing.backup import MAGIC, back_up, restore
from billing.journal import LOG, EntryKind
from billing.ledger import ISSUE, LmdbLedger
from billing.money import CURRENCIES
from billing.receipts import prove, sign_root
from billing.records import find_record, read_records
from billing.seal import Pruned, prune, prune_some, seal
from billing.tables import BALANCES, CHARGED, SESSIONS, STATE, TABLES
from billing.transfers import Transfer
from core.clock import VirtualClock
from core.errors import OperationError
from core.store import Store
from tests.support.small_ledger import MAP_BYTES, Life, open_small

# Beside what is stored at leave: blocks as of different entries, and where the pruning stands.
DERIVED = (BALANCES, CHARGED, STATE)


def contents(ledger: LmdbLedger) -> dict[str, list[tuple[bytes, bytes]]]:
    """All that is stored."""
    with ledger.store.read() as tables:
        return {name: tables.items(name, limit=1 << 20) for name in TABLES if name not in DERIVED}


async def assert_same(ledger: LmdbLedger, other: LmdbLedger, life: Life) -> None:
    """In all that can be asked of them."""
    before, after = contents(ledger), contents(other)
    for name in before:
        assert before[name] == after[name], name
    assert ledger.head == other.head
    for name in ("posted", "reserved", "incoming", "last", "flags"):
        expected, got = ledger.book.columns[name], other.book.columns[name]
        assert np.array_equal(expected, got), name
    assert ledger.book.pending == other.book.pending
    assert ledger.book.refunded == other.book.refunded
    slots = [info.slot for info in other.sessions()]
    for name in ("seconds", "bytes", "cost"):
        expected, got = ledger.meter.columns[name][slots], other.meter.columns[name][slots]
        assert np.array_equal(expected, got), name
    for account in range(1, ledger.book.count):
        assert ledger.account(account) == other.account(account)
        for currency in CURRENCIES:
            expected_balance = ledger.balance(account, currency)._replace(held=0)
            assert expected_balance == other.balance(account, currency)
        assert await ledger.history(account) == await other.history(account)
    for identity in life.ids:
        assert ledger.read_side("blocked_callers", identity) == other.read_side(
            "blocked_callers", identity
        )
    with ledger.store.read() as tables, other.store.read() as other_tables:
        for _, part in read_records(ledger.store):
            for record in part:
                found = find_record(other_tables, record.id)
                assert found == find_record(tables, record.id)
                assert prove(tables, record.id) == prove(other_tables, record.id)


def restored(path: Path, folder: Path, clock: VirtualClock) -> LmdbLedger:
    told: list[tuple[int, int]] = []
    done = restore(path, folder, lambda now, of: told.append((now, of)), map_bytes=MAP_BYTES)
    assert told == sorted(told)
    assert told[-1] == (path.stat().st_size, path.stat().st_size)
    ledger = open_small(folder, clock)
    assert ledger.head == done.entries
    assert ledger.book.count - 1 == done.accounts
    assert sorted(one.name for one in folder.iterdir()) == ["data.mdb", "lock.mdb", "writer.lock"]
    return ledger


async def lived(folder: Path, clock: VirtualClock) -> tuple[LmdbLedger, Life]:
    ledger = open_small(folder, clock)
    life = Life(ledger, clock)
    await life.live()
    await sign_root(ledger, "montana/test", None)
    await life.tick()
    return ledger, life


def test_a_restored_ledger_is_the_same(tmp_path: Path) -> None:
    async def run() -> None:
        clock = VirtualClock()
        ledger, life = await lived(tmp_path / "a", clock)
        told: list[tuple[int, int]] = []
        made = await back_up(ledger, tmp_path / "b", lambda now, of: told.append((now, of)))
        assert told[-1] == (made.entries, ledger.head) == (ledger.head, ledger.head)
        assert made.size_bytes == (tmp_path / "b").stat().st_size
        assert (tmp_path / "b").stat().st_mode & 0o077 == 0
        assert sorted(one.name for one in tmp_path.iterdir()) == ["a", "b"]
        other = restored(tmp_path / "b", tmp_path / "c", clock)
        await assert_same(ledger, other, life)
        report = await verify(other)
        assert report.problems == []
        assert report.link == made.link
        # It lives on: what was done is known, what is left of sessions is charged and closed.
        again = await other.transfer([Transfer(life.ids[0], ISSUE, life.accounts[0], 1)])
        assert again[0].name == "ID_REUSED"
        records = {one.id: one for one in other.sessions()}
        assert len(records) == 3
        its_life = Life(other, clock)
        its_life.accounts = life.accounts
        assert await its_life.charging.recover() == 3
        await its_life.open_sessions(4)
        await its_life.tick()
        assert (await verify(other)).problems == []
        other.close()
        other = open_small(tmp_path / "c", clock)
        assert (await verify(other)).problems == []
        other.close()
        ledger.close()

    trio.run(run)


def test_a_backup_of_a_ledger_that_goes_on(tmp_path: Path) -> None:
    async def run() -> None:
        clock = VirtualClock()
        ledger, life = await lived(tmp_path / "a", clock)
        done: list[Path] = []

        async def back_up_often() -> None:
            for number in range(3):
                path = tmp_path / f"b{number}"
                await back_up(ledger, path)
                done.append(path)

        async def go_on() -> None:
            while len(done) < 3:
                await life.open_sessions(2)
                for account in life.accounts:
                    await life.transfer(ISSUE, account, 10_000_000)
                await life.tick(1, dict.fromkeys(list(life.slots)[:2], "ended"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(back_up_often)
            nursery.start_soon(go_on)
        for number, path in enumerate(done):
            other = restored(path, tmp_path / f"c{number}", clock)
            assert other.head <= ledger.head
            assert (await verify(other)).problems == []
            other.close()
        ledger.close()

    trio.run(run)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    async def run() -> None:
        clock = VirtualClock()
        ledger, _ = await lived(tmp_path / "a", clock)
        path = tmp_path / "b"
        await back_up(ledger, path)
        with pytest.raises(OperationError, match="is there already"):
            await back_up(ledger, path)
        with pytest.raises(OperationError, match="in use by another process"):
            restore(path, tmp_path / "a")
        ledger.close()
        before = (tmp_path / "a" / "data.mdb").read_bytes()
        with pytest.raises(OperationError, match="there is a ledger in"):
            restore(path, tmp_path / "a")
        with pytest.raises(OperationError, match="can't be made: Not a directory"):
            restore(path, path / "c")
        assert (tmp_path / "a" / "data.mdb").read_bytes() == before
        ledger = open_small(tmp_path / "a", clock)
        with pytest.raises(OperationError, match="can't be written"):
            await back_up(ledger, tmp_path / "nowhere" / "b")
        ledger.close()

    trio.run(run)


def test_a_damaged_ledger_is_not_backed_up(tmp_path: Path) -> None:
    async def run() -> None:
        ledger, _ = await lived(tmp_path / "a", VirtualClock())
        await ledger.store.write(lambda writing: writing.put(LOG, journal.entry_key(9), b"\2other"))
        with pytest.raises(OperationError, match="the ledger is damaged"):
            await back_up(ledger, tmp_path / "b")
        await ledger.store.write(lambda writing: writing.delete(LOG, journal.entry_key(9)))
        with pytest.raises(OperationError, match="entry 9 is missing"):
            await back_up(ledger, tmp_path / "b")
        assert [one.name for one in tmp_path.iterdir()] == ["a"]
        ledger.store.close()

    trio.run(run)


def with_digest(content: bytes) -> bytes:
    return content[:-32] + sha256(content[:-32]).digest()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content[:0], "no backup"),
        (lambda content: b"x" + content, "no backup"),
        (lambda content: content[:-1], "cut or changed"),
        (lambda content: content[: len(content) // 2], "cut or changed"),
        (lambda content: content[:20], "cut or changed"),
        (lambda content: content + b"x", "cut or changed"),
        (lambda content: content[:200] + b"x" + content[201:], "cut or changed"),
        (lambda content: MAGIC + b"\0\0\0\2" + content[20:], "of version 2"),
        (
            lambda content: with_digest(content.replace(b"session 1", b"session 0")),
            "a root of other records",
        ),
        (lambda content: with_digest(content.replace(b"sent", b"lent")), "chain of hashes"),
        (lambda content: with_digest(content.replace(b"user:c", b"\xff\xffer:c")), "can't be read"),
        (lambda content: with_digest(content[:20] + bytes(100)), "can't be read"),
        (lambda content: with_digest(content[:20] + b"\xff" * 100), "can't be re"),
    ],
)
def test_a_backup_that_is_damaged(
    tmp_path: Path, change: Callable[[bytes], bytes], said: str
) -> None:
    async def run() -> None:
        ledger, _ = await lived(tmp_path / "a", VirtualClock())
        await back_up(ledger, tmp_path / "b")
        ledger.close()

    trio.run(run)
    content = (tmp_path / "b").read_bytes()
    assert len(MAGIC) + 4 == 20
    (tmp_path / "b").write_bytes(change(content))
    with pytest.raises(OperationError, match=said):
        restore(tmp_path / "b", tmp_path / "c", map_bytes=MAP_BYTES)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a", "b"]
    # What is whole can be restored in its place.
    (tmp_path / "b").write_bytes(content)
    restored(tmp_path / "b", tmp_path / "c", VirtualClock()).close()


def test_a_missing_backup(tmp_path: Path) -> None:
    with pytest.raises(OperationError, match="No such file"):
        restore(tmp_path / "b", tmp_path / "c" / "d")
    assert list(tmp_path.iterdir()) == []
    # A folder that was there stays, and a first start is not refused.
    (tmp_path / "c").mkdir()
    with pytest.raises(OperationError, match="No such file"):
        restore(tmp_path / "b", tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []
    open_small(tmp_path / "c", VirtualClock()).close()


def test_a_ledger_that_has_lost_its_file_is_restored(tmp_path: Path) -> None:
    clock = VirtualClock()

    async def run() -> None:
        ledger, _ = await lived(tmp_path / "a", clock)
        await back_up(ledger, tmp_path / "b")
        ledger.close()

    trio.run(run)
    (tmp_path / "a" / "data.mdb").rename(tmp_path / "aside")
    with pytest.raises(OperationError, match=r"data\.mdb is gone; put it back, or restore"):
        open_small(tmp_path / "a", clock)
    with pytest.raises(OperationError, match="No such file"):
        restore(tmp_path / "none", tmp_path / "a")
    with pytest.raises(OperationError, match=r"data\.mdb is gone; put it back, or restore"):
        open_small(tmp_path / "a", clock)
    restored(tmp_path / "b", tmp_path / "a", clock).close()


def test_a_restore_that_was_killed_is_run_again(tmp_path: Path) -> None:
    clock = VirtualClock()

    async def run() -> None:
        ledger, _ = await lived(tmp_path / "a", clock)
        await back_up(ledger, tmp_path / "b")
        ledger.close()

    def end(*_: int) -> None:
        os._exit(9)

    trio.run(run)
    killed = os.fork()
    if not killed:
        try:
            restore(tmp_path / "b", tmp_path / "c", end, map_bytes=MAP_BYTES)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == 9
    with pytest.raises(OperationError, match=r"was cut short; run it again: .* empty ledger, move"):
        open_small(tmp_path / "c", clock)
    restored(tmp_path / "b", tmp_path / "c", clock).close()


# ---------------------------------------------------------------------- pruning


def kinds(ledger: LmdbLedger) -> list[int]:
    with ledger.store.read() as tables:
        return [entry[0] for _, entry in tables.items(LOG, limit=1 << 20)]


async def without_replay(ledger: LmdbLedger, life: Life) -> None:
    """Until a start would replay nothing of what is there: blocks are stored with what follows."""
    for _ in range(60):
        await life.transfer(ISSUE, life.accounts[0], 1)


def test_pruned_ticks(tmp_path: Path) -> None:
    async def run() -> None:
        clock = VirtualClock()
        ledger, life = await lived(tmp_path / "a", clock)
        head, entries = ledger.head, kinds(ledger)
        assert await prune_some(ledger, 1 << 62) == Pruned(0, 0, False)
        before_ns = ledger.clock.now_ns() + 1
        await without_replay(ledger, life)
        clock.advance_s(10)
        await life.tick()
        told: list[tuple[int, int]] = []
        done = await prune(ledger, before_ns, lambda now, of: told.append((now, of)))
        assert done.entries == entries.count(EntryKind.TICK) == 10
        assert told
        now = kinds(ledger)
        assert now[:head].count(EntryKind.TICK) == 0
        assert now[:head].count(EntryKind.PRUNED) == 10
        assert EntryKind.TICK in now[head:]
        report = await verify(ledger)
        assert report.problems == []
        assert report.sealed > head
        # Nothing is left to do, so nothing is sealed again.
        head = ledger.head
        assert await prune(ledger, before_ns) == Pruned(0, 0, False)
        assert ledger.head == head

        # It lives on, and is backed up.
        await life.open_sessions(3)
        await life.tick(1, dict.fromkeys(list(life.slots)[:2], "ended"))
        await sign_root(ledger, "montana/test", None)
        assert (await verify(ledger)).problems == []
        await back_up(ledger, tmp_path / "b")
        other = restored(tmp_path / "b", tmp_path / "c", clock)
        await assert_same(ledger, other, life)
        report = await verify(other)
        assert report.problems == []
        assert report.sealed == (await verify(ledger)).sealed

        # Once more, with a newer seal: the older one goes as well.
        await without_replay(ledger, life)
        clock.advance_s(10)
        done = await prune(ledger, ledger.clock.now_ns())
        assert done.entries > 2
        assert kinds(ledger).count(EntryKind.SEAL) == 1
        assert (await verify(ledger)).problems == []
        # Sessions that were open all the time end, and their records are right.
        await life.tick(1, dict.fromkeys(life.slots, "ended"))
        report = await verify(ledger)
        assert report.problems == []
        ledger.close()
        ledger = open_small(tmp_path / "a", clock)
        assert (await verify(ledger)).problems == []
        await back_up(ledger, tmp_path / "d")
        last = restored(tmp_path / "d", tmp_path / "e", clock)
        assert (await verify(last)).problems == []
        with last.store.read() as tables:
            assert tables.count(SESSIONS) == 0
        for one in (ledger, other, last):
            one.close()

    trio.run(run)


def test_a_log_without_ticks_is_walked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked: list[int] = []
    walk = journal.walk

    def counting(store: Store, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        for number, entry in walk(store, first, last):
            walked.append(number)
            yield number, entry

    monkeypatch.setattr("billing.seal.journal.walk", counting)

    async def run() -> None:
        clock = VirtualClock()
        with open_small(tmp_path, clock) as ledger:
            life = Life(ledger, clock)
            await life.begin()
            before_ns = ledger.clock.now_ns() + 1
            head = ledger.head
            assert await prune(ledger, before_ns) == Pruned(0, 0, False)
            assert walked == list(range(1, head + 1))
            await life.transfer(ISSUE, life.accounts[0], 1)
            assert await prune(ledger, before_ns) == Pruned(0, 0, False)
            assert walked == list(range(1, head + 2))

    trio.run(run)


def test_a_seal_of_many_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written one after the other, with other entries between them."""
    monkeypatch.setattr("billing.seal.SEAL_ACCOUNTS", 5)
    monkeypatch.setattr("billing.seal.SEAL_SESSIONS", 1)

    async def run() -> None:
        clock = VirtualClock()
        ledger, life = await lived(tmp_path / "a", clock)
        await without_replay(ledger, life)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(seal, ledger)
            for _ in range(5):
                await life.tick()
                await life.transfer(ISSUE, life.accounts[1], 7)
        assert kinds(ledger).count(EntryKind.SEAL) == 3
        assert (await prune_some(ledger, 1 << 62)).entries >= 10
        report = await verify(ledger)
        assert report.problems == []
        assert report.sealed
        await back_up(ledger, tmp_path / "b")
        other = restored(tmp_path / "b", tmp_path / "c", clock)
        await assert_same(ledger, other, life)
        assert (await verify(other)).problems == []
        # A seal that was cut short counts for nothing.
        last = ledger.head
        await seal(ledger)
        await ledger.store.write(lambda writing: writing.delete(LOG, journal.entry_key(last + 1)))
        problems = (await verify(ledger)).problems
        assert any("no sealed checkpoint follows it" in problem for problem in problems)
        for one in (ledger, other):
            one.close()

    trio.run(run)


def test_nothing_is_pruned_while_somebody_walks(tmp_path: Path) -> None:
    async def run() -> None:
        clock = VirtualClock()
        ledger, life = await lived(tmp_path, clock)
        await without_replay(ledger, life)
        await seal(ledger)
        with walking(ledger):
            assert await prune_some(ledger, 1 << 62) == Pruned(0, 0, False)
        assert (await prune_some(ledger, 1 << 62)).entries == 10
        ledger.close()

    trio.run(run)


def test_what_a_start_replays_is_not_pruned(tmp_path: Path) -> None:
    async def run() -> None:
        clock = VirtualClock()
        ledger, _ = await lived(tmp_path, clock)
        await seal(ledger)
        await prune_some(ledger, 1 << 62)
        ledger.store.close()
        again = open_small(tmp_path, clock)
        for name in ("posted", "last"):
            assert np.array_equal(again.book.columns[name], ledger.book.columns[name])
        assert (await verify(again)).problems == []
        # What the last run has left is sealed as it stands, and closed later.
        assert await seal(again) == again.head - 1
        assert (await verify(again)).problems == []
        assert await Life(again, clock).charging.recover() > 0
        assert (await verify(again)).problems == []
        again.close()

    trio.run(run)


def test_a_changed_seal_is_named(tmp_path: Path) -> None:
    async def run() -> None:
        clock = VirtualClock()
        ledger, life = await lived(tmp_path, clock)
        await without_replay(ledger, life)
        clock.advance_s(10)
        await prune(ledger, ledger.clock.now_ns())
        number = ledger.head
        with ledger.store.read() as tables:
            entry = tables.get(LOG, journal.entry_key(number))
        assert entry is not None
        part = journal.decode_seal(entry)
        posted = np.frombuffer(part.posted, "<i8").copy()
        # From one to another: the sum stays what it is.
        posted[2 * 7] += 1
        posted[2 * 8] -= 1
        changed = journal.SealEntry(
            as_of=part.as_of,
            part=0,
            parts=1,
            time_ns=part.time_ns,
            posted=posted.tobytes(),
            sessions=part.sessions,
            totals=part.totals,
        )
        key = journal.entry_key(number)
        await ledger.store.write(
            lambda writing: writing.put(LOG, key, journal.encode_seal(changed))
        )
        problems = (await verify(ledger)).problems
        assert any(f"entry {number} isn't what" in problem for problem in problems)
        assert any("account #7: its sessions come to" in problem for problem in problems)
        await ledger.store.write(lambda writing: writing.put(LOG, key, b"\6"))
        problems = (await verify(ledger)).problems
        assert any("no sealed checkpoint follows it" in problem for problem in problems)
        ledger.store.close()

    trio.run(run)
