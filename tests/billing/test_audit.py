"""Verifying: a ledger that has lived is clean, and whatever is changed in it is named."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest
import trio

from billing import journal
from billing.audit import Report, Snapshot, take_snapshot, verify
from billing.journal import CHAIN, LOG, EntryKind, entry_key
from billing.ledger import ISSUE, LmdbLedger
from billing.money import J
from billing.receipts import Signer, format_checkpoint, origin_of, sign_root
from billing.records import RECORD_ENTRIES, RECORD_IDS, RECORD_TREE
from billing.tables import (
    ACCOUNTS,
    ADDRESSES,
    BALANCES,
    IDS,
    PENDING,
    REFUNDED,
    SESSIONS,
    account_key,
)
from billing.vouchers import Vouchers
from core.clock import VirtualClock
from core.identity import Identity
from core.tables import Writing
from tests.support.small_ledger import Life, open_small


async def lived(folder: Path) -> tuple[LmdbLedger, VirtualClock, Life]:
    clock = VirtualClock()
    ledger = open_small(folder, clock)
    life = Life(ledger, clock)
    await life.live()
    await Vouchers(ledger, clock).create(5, J, 3, once=b"v" * 16)
    await ledger.freeze(life.accounts[1], False, once=b"f" * 16)
    assert await sign_root(ledger, "montana/test", None) is not None
    await life.tick()
    return ledger, clock, life


def test_a_ledger_that_has_lived_is_clean(tmp_path: Path) -> None:
    async def run() -> None:
        ledger, clock, _ = await lived(tmp_path)
        told: list[tuple[int, int]] = []
        report = await verify(ledger, lambda done, total: told.append((done, total)))
        assert report.problems == []
        assert report.ok
        assert (report.entries, report.accounts) == (ledger.head, 11)
        assert (report.transfers, report.records) == (12 + 8 + 2 + 1 + 4, 17)
        assert told[-1] == (ledger.head, ledger.head)
        assert msgspec.json.decode(msgspec.json.encode(report.as_json()))["ok"] is True
        # As after a crash, with sessions that nobody has closed.
        ledger.store.close()
        again = open_small(tmp_path, clock)
        assert (await verify(again)).problems == []
        life = Life(again, clock)
        assert await life.charging.recover() == 3
        again_report = await verify(again)
        assert again_report.problems == []
        assert again_report.records == 20
        again.close()

    trio.run(run)


def test_a_link_that_was_kept_is_still_one_of_the_chains(tmp_path: Path) -> None:
    async def run() -> None:
        ledger, _, life = await lived(tmp_path)
        kept = (await verify(ledger)).link
        await life.tick()
        report = await verify(ledger, link=kept)
        assert report.problems == []
        assert report.link != kept
        # Whoever can write the log can make the chain anew, and yet not with the same links.
        await ledger.store.write(change_a_record)
        assert not any("none of the chain's" in one for one in (await verify(ledger)).problems)
        problems = (await verify(ledger, link=kept)).problems
        assert any(f"the link {kept.hex()} is none of the chain's" in one for one in problems)
        ledger.store.close()

    trio.run(run)


def test_what_changes_while_it_is_compared_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        ledger, clock, life = await lived(tmp_path)
        copied = take_snapshot

        async def live_on(of: LmdbLedger) -> Snapshot:
            snapshot = await copied(of)
            await Vouchers(ledger, clock).create(5, J, 2)
            await ledger.open_account(["user:new"], once=b"n" * 16)
            await ledger.link(life.accounts[0], "tg:99")
            await ledger.unlink(life.accounts[1], "tg:17")
            await life.open_sessions(2)
            await life.tick(1, {next(iter(life.slots)): "ended"})
            return snapshot

        monkeypatch.setattr("billing.audit.take_snapshot", live_on)
        assert (await verify(ledger)).problems == []
        ledger.close()

    trio.run(run)


def test_an_empty_ledger_is_clean(tmp_path: Path) -> None:
    async def run() -> None:
        with open_small(tmp_path, VirtualClock()) as ledger:
            report = await verify(ledger)
            assert (report.ok, report.accounts, report.records) == (True, 5, 0)

    trio.run(run)


def test_the_node_may_go_on_meanwhile(tmp_path: Path) -> None:
    async def run() -> None:
        ledger, _, life = await lived(tmp_path)
        reports: list[Report] = []

        async def verify_often() -> None:
            for _ in range(5):
                reports.append(await verify(ledger))

        async def go_on() -> None:
            while len(reports) < 5:
                await life.open_sessions(2)
                await life.tick()
                await life.ledger.open_account()
                for account in life.accounts:
                    await life.transfer(ISSUE, account, 10_000_000)
                await life.tick(1, dict.fromkeys(list(life.slots)[:2], "ended"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(verify_often)
            nursery.start_soon(go_on)
        assert [report.problems for report in reports] == [[]] * 5
        assert reports[0].entries < reports[-1].entries
        ledger.close()

    trio.run(run)


def entries_of(writing: Writing, kind: EntryKind) -> list[tuple[bytes, bytes]]:
    return [item for item in writing.items(LOG, limit=10_000) if item[1][0] == kind]


def changed(entry: bytes, at: int, by: int = 1) -> bytes:
    content = bytearray(entry)
    content[at] ^= by
    return bytes(content)


def flip_a_transfer(writing: Writing) -> None:
    key, entry = entries_of(writing, EntryKind.TRANSFERS)[2]
    writing.put(LOG, key, changed(entry, 4 + 32))


def flip_a_tick(writing: Writing) -> None:
    key, entry = entries_of(writing, EntryKind.TICK)[-1]
    writing.put(LOG, key, changed(entry, -8))


def spoil_a_tick(writing: Writing) -> None:
    key, entry = entries_of(writing, EntryKind.TICK)[1]
    writing.put(LOG, key, changed(entry, 5, 0x80))


def lose_an_entry(writing: Writing) -> None:
    writing.delete(LOG, entry_key(20))


def lose_the_first(writing: Writing) -> None:
    writing.delete(LOG, entry_key(1))


def lose_the_last(writing: Writing) -> None:
    writing.delete(LOG, writing.items_back(LOG, limit=1)[0][0])


def empty_an_entry(writing: Writing) -> None:
    writing.put(LOG, entry_key(20), b"")


def lose_a_link(writing: Writing) -> None:
    writing.delete(CHAIN, entry_key(20))


def change_a_link(writing: Writing) -> None:
    writing.put(CHAIN, entry_key(20), bytes(32))


def change_a_record(writing: Writing) -> None:
    """With a chain that is made anew: the ticks and the root tell."""
    key, entry = entries_of(writing, EntryKind.RECORDS)[1]
    records = journal.decode_records(entry)
    records[0] = msgspec.structs.replace(records[0], cost=records[0].cost - 1)
    writing.put(LOG, key, journal.join_records(map(journal.encode_record, records)))
    chain_anew(writing)


def change_a_root(writing: Writing) -> None:
    ((key, entry),) = entries_of(writing, EntryKind.ROOT)
    root = journal.decode_root(entry)
    text = format_checkpoint("montana/test", root.size, bytes(32))
    writing.put(LOG, key, journal.encode_root(msgspec.structs.replace(root, checkpoint=text)))
    chain_anew(writing)


def sign_a_root_wrongly(writing: Writing) -> None:
    ((key, entry),) = entries_of(writing, EntryKind.ROOT)
    root = msgspec.structs.replace(
        journal.decode_root(entry), signature=bytes(3309), public_key=bytes(1952)
    )
    writing.put(LOG, key, journal.encode_root(root))
    chain_anew(writing)


def mint(writing: Writing) -> None:
    """A tick that pays on more than it charges, in a chain that is made anew."""
    key, entry = entries_of(writing, EntryKind.TICK)[1]
    tick = journal.decode_tick(entry)
    credits = {account: amount + 5 for account, amount in tick.credits.items()}
    writing.put(LOG, key, journal.encode_tick(tick.time_ns, tick.rows, credits, tick.opened))
    chain_anew(writing)


def prune_without_a_seal(writing: Writing) -> None:
    key, entry = entries_of(writing, EntryKind.TICK)[1]
    writing.put(LOG, key, journal.prune(entry))


def prune_a_transfer(writing: Writing) -> None:
    key, entry = entries_of(writing, EntryKind.TRANSFERS)[1]
    pruned = bytes([EntryKind.PRUNED, EntryKind.TRANSFERS]) + journal.entry_hash(entry)
    writing.put(LOG, key, pruned)


def pass_off_a_transfer_as_a_tick(writing: Writing) -> None:
    """One that does nothing but by its side-writes, before a seal."""
    key, entry = next(
        (key, entry)
        for key, entry in entries_of(writing, EntryKind.TRANSFERS)
        if not len(journal.decode_transfers(entry).records)
    )
    pruned = bytes([EntryKind.PRUNED, EntryKind.TICK]) + journal.entry_hash(entry)
    writing.put(LOG, key, pruned)


def sign_by_another_node(writing: Writing) -> None:
    """In its name, and in a chain that is made anew."""
    ((key, entry),) = entries_of(writing, EntryKind.ROOT)
    root = journal.decode_root(entry)
    signer, named = Signer(Identity(bytes(32))), origin_of(Identity(bytes(range(32))))
    checkpoint = root.checkpoint.replace("montana/test", named)
    changed = msgspec.structs.replace(
        root,
        checkpoint=checkpoint,
        signature=signer.sign(checkpoint),
        public_key=signer.public_key,
        endorsement=signer.endorsement,
    )
    writing.put(LOG, key, journal.encode_root(changed))
    chain_anew(writing)


def forge_a_voucher(writing: Writing) -> None:
    writing.put("vouchers", sha256(b"A" * 20).digest(), msgspec.msgpack.encode([10**12, 0, 1]))


def raise_a_voucher(writing: Writing) -> None:
    key, value = writing.items("vouchers", limit=1)[0]
    amount, *rest = msgspec.msgpack.decode(value)
    writing.put("vouchers", key, msgspec.msgpack.encode([amount * 2, *rest]))


def forget_an_act(writing: Writing) -> None:
    writing.delete("deduplication", writing.items("deduplication", limit=1)[0][0])


def give_somebody_an_address(writing: Writing) -> None:
    writing.put(ADDRESSES, b"user:mallory", account_key(6))


def have_an_id_too_many(writing: Writing) -> None:
    writing.put(IDS, b"\1" * 16, writing.items(IDS, limit=1)[0][1])


def lose_a_session(writing: Writing) -> None:
    writing.delete(SESSIONS, writing.items(SESSIONS, limit=1)[0][0])


def lose_an_id(writing: Writing) -> None:
    writing.delete(IDS, writing.items(IDS, limit=3)[2][0])


def lose_a_record_id(writing: Writing) -> None:
    writing.delete(RECORD_IDS, writing.items(RECORD_IDS, limit=1)[0][0])


def lose_a_time(writing: Writing) -> None:
    writing.delete(RECORD_ENTRIES, writing.items(RECORD_ENTRIES, limit=1)[0][0])


def number_records_anew(writing: Writing) -> None:
    writing.put(RECORD_ENTRIES, writing.items(RECORD_ENTRIES, limit=2)[1][0], bytes(8))


def change_the_tree(writing: Writing) -> None:
    writing.put(RECORD_TREE, b"\4" + bytes(8), bytes(32))


def change_an_account(writing: Writing) -> None:
    value = writing.get(ACCOUNTS, account_key(8))
    assert value is not None
    writing.put(ACCOUNTS, account_key(8), value.replace(b"user:c", b"user:x"))


def give_an_address_away(writing: Writing) -> None:
    writing.put(ADDRESSES, b"user:c", account_key(6))


def chain_anew(writing: Writing) -> None:
    """What somebody would do who wants to hide a change."""
    link = journal.FIRST_LINK
    for key, entry in writing.items(LOG, limit=10_000):
        link = journal.next_link(link, entry)
        writing.put(CHAIN, key, link)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip_a_transfer, "isn't what the chain of hashes was made of"),
        (flip_a_transfer, "has a balance of"),
        (flip_a_tick, "charges another sum than it pays on"),
        (spoil_a_tick, "can't be read"),
        (lose_an_entry, "entry 20 is missing"),
        (lose_the_first, "entry 1 is missing"),
        (lose_the_last, "is missing"),
        (empty_an_entry, "entry 20 is empty"),
        (lose_a_link, "lacks the link of entry 20"),
        (change_a_link, "entry 20 isn't what"),
        (change_a_record, "and its ticks"),
        (change_a_record, "a root of other records"),
        (change_a_record, "the tree of call records"),
        (change_a_record, "its sessions come to"),
        (change_a_root, "a root of other records"),
        (sign_a_root_wrongly, "isn't the key's over this root"),
        (mint, "charges another sum than it pays on"),
        (mint, "add up to"),
        (prune_without_a_seal, "no sealed checkpoint follows it"),
        (prune_a_transfer, "is of no kind that is known"),
        (pass_off_a_transfer_as_a_tick, "isn't what the chain of hashes was made of"),
        (sign_by_another_node, "isn't one of montana/"),
        (forge_a_voucher, "vouchers: 1 rows aren't what the log has written there"),
        (raise_a_voucher, "vouchers: 1 rows aren't what the log has written there"),
        (forget_an_act, "the tables: 1 rows aren't what the log has written there"),
        (give_somebody_an_address, "user:mallory leads to account #6, which hasn't this address"),
        (have_an_id_too_many, "transfers are found by their ids, and the log has"),
        (lose_a_session, "other sessions are stored as living"),
        (lose_an_id, "isn't found under its id"),
        (lose_a_record_id, "isn't found under its id"),
        (lose_a_time, "aren't found by their time"),
        (number_records_anew, "aren't found by their time"),
        (change_the_tree, "the tree of call records"),
        (change_an_account, "account #8 is stored otherwise"),
        (give_an_address_away, "account #8 isn't found under user:c"),
    ],
)
def test_a_change_on_the_disk_is_named(
    tmp_path: Path, change: Callable[[Writing], None], said: str
) -> None:
    async def run() -> None:
        ledger, _, _ = await lived(tmp_path)
        await ledger.store.write(change)
        report = await verify(ledger)
        assert not report.ok
        assert any(said in problem for problem in report.problems), report.problems
        assert report.problem_count == len(report.problems)
        ledger.close()

    trio.run(run)


def change_a_block(writing: Writing) -> None:
    key, value = writing.items(BALANCES, limit=1)[0]
    # Behind the head and as many accounts of two currencies each: #7, the first currency.
    writing.put(BALANCES, key, changed(value, 16 + 7 * 16))


def lose_a_pending_transfer(writing: Writing) -> None:
    writing.delete(PENDING, writing.items(PENDING, limit=1)[0][0])


def lose_a_refund(writing: Writing) -> None:
    writing.delete(REFUNDED, writing.items(REFUNDED, limit=1)[0][0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_a_block, "account #7 has a balance of"),
        (lose_a_pending_transfer, "other transfers are pending"),
        (lose_a_refund, "other refunds are known"),
    ],
)
def test_a_change_that_the_next_start_takes_over_is_named(
    tmp_path: Path, change: Callable[[Writing], None], said: str
) -> None:
    async def run() -> None:
        ledger, clock, _ = await lived(tmp_path)
        ledger.close()
        ledger = open_small(tmp_path, clock)
        await ledger.store.write(change)
        # Not by close, which would store what is in memory.
        ledger.store.close()
        ledger = open_small(tmp_path, clock)
        report = await verify(ledger)
        assert any(said in problem for problem in report.problems), report.problems
        ledger.store.close()

    trio.run(run)


@pytest.mark.parametrize("name", ["posted", "reserved", "incoming", "last", "flags", "cost"])
def test_a_wrong_column_is_named(tmp_path: Path, name: str) -> None:
    async def run() -> None:
        ledger, _, life = await lived(tmp_path)
        columns = ledger.meter.columns if name == "cost" else ledger.book.columns
        row = next(iter(life.slots)) if name == "cost" else 8
        columns[name][row] ^= 4
        report = await verify(ledger)
        words = {
            "posted": "has a balance of",
            "reserved": "has a reserved amount of",
            "incoming": "has an incoming amount of",
            "last": "the history of account #8",
            "flags": "as frozen or closed",
            "cost": "what live sessions have cost",
        }
        assert any(words[name] in problem for problem in report.problems), report.problems
        ledger.store.close()

    trio.run(run)


def test_every_flipped_byte_of_an_entry_is_named(tmp_path: Path) -> None:
    async def run() -> None:
        ledger, _, _ = await lived(tmp_path)
        random = np.random.default_rng(1)
        with ledger.store.read() as tables:
            log = tables.items(LOG, limit=10_000)
        for key, entry in log[:: len(log) // 20]:
            at, by = int(random.integers(len(entry))), int(random.integers(1, 256))

            def spoil(
                writing: Writing, key: bytes = key, entry: bytes = entry, at: int = at, by: int = by
            ) -> None:
                writing.put(LOG, key, changed(entry, at, by))

            await ledger.store.write(spoil)
            report = await verify(ledger)
            name = f"entry {int.from_bytes(key, 'big')} "
            assert any(problem.startswith(name) for problem in report.problems), (at, by)

            def mend(writing: Writing, key: bytes = key, entry: bytes = entry) -> None:
                writing.put(LOG, key, entry)

            await ledger.store.write(mend)
        assert (await verify(ledger)).ok
        ledger.close()

    trio.run(run)
