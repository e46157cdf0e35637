"""Content that was changed on the disk: a start says so in a sentence, and changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
import pytest
import trio

from billing import journal
from billing.journal import CHAIN, LOG, EntryKind
from billing.ledger import LmdbLedger, open_ledger
from billing.tables import (
    ACCOUNTS,
    BALANCES,
    CHARGED,
    PENDING,
    PENDING_VALUE,
    REFUNDED,
    REPLAY_FROM,
    SCHEMA,
    SESSIONS,
    STATE,
    TABLES,
    account_key,
    decode_info,
)
from core.clock import VirtualClock
from core.errors import OperationError
from core.store import open_store
from core.tables import Writing
from tests.support.small_ledger import MAP_BYTES, Life, open_small

Change = Callable[[Writing], object]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger that a kill has left: much is to be replayed, and sessions live."""
    folder = tmp_path_factory.mktemp("lived")
    clock = VirtualClock()

    async def run() -> None:
        ledger = open_small(folder, clock)
        await Life(ledger, clock).live()
        ledger.store.close()

    trio.run(run)
    return folder


def opened_after(lived: Path, folder: Path, change: Change) -> LmdbLedger:
    shutil.copytree(lived, folder)
    with open_store(folder, tables=TABLES, schema=SCHEMA, map_bytes=MAP_BYTES) as store:
        store.submit(change).result()
    return open_small(folder, VirtualClock())


def first_key(writing: Writing, table: str) -> bytes:
    return writing.items(table, limit=1)[0][0]


def put_info(writing: Writing, which: int, **changes: object) -> None:
    value = writing.get(ACCOUNTS, account_key(which))
    assert value is not None
    info = msgspec.structs.replace(decode_info(value), **changes)
    writing.put(ACCOUNTS, account_key(which), msgspec.msgpack.encode(info))


def put_session(writing: Writing, **changes: object) -> None:
    key, value = writing.items(SESSIONS, limit=1)[0]
    info = msgspec.structs.replace(journal.decode_session(value), **changes)
    writing.put(SESSIONS, key, journal.encode_session(info))


def put_log(writing: Writing, kind: EntryKind, change: Callable[[bytes], bytes]) -> None:
    """Change the last entry of a kind."""
    entries = [one for one in writing.items(LOG, limit=10_000) if one[1][0] == kind]
    key, entry = entries[-1]
    assert change(entry) != entry
    writing.put(LOG, key, change(entry))


DAMAGES: dict[str, Change] = {
    "no account": lambda w: w.put(ACCOUNTS, account_key(6), b"x"),
    "an account too few": lambda w: w.delete(ACCOUNTS, account_key(7)),
    "another account's number": lambda w: put_info(w, 7, number=8),
    "merged into nobody": lambda w: put_info(w, 7, merged_into=999),
    "merged into itself": lambda w: put_info(w, 7, merged_into=7),
    "merged in a circle": lambda w: put_info(w, 6, merged_into=11),
    "no session": lambda w: w.put(SESSIONS, first_key(w, SESSIONS), b"\xc1"),
    "a session of nobody": lambda w: put_session(w, account=10**6),
    "a session into nowhere": lambda w: put_session(w, into=0),
    "a session below all slots": lambda w: put_session(w, slot=-1),
    "a session past all slots": lambda w: put_session(w, slot=1 << 30),
    "two sessions in a slot": lambda w: w.put(
        SESSIONS, b"\xff" * 4, w.items(SESSIONS, limit=1)[0][1]
    ),
    "nothing pending": lambda w: w.put(PENDING, first_key(w, PENDING), b""),
    "pending of nobody": lambda w: w.put(
        PENDING, first_key(w, PENDING), PENDING_VALUE.pack(10**6, 6, 0, 1, 0)
    ),
    "pending of no currency": lambda w: w.put(
        PENDING, first_key(w, PENDING), PENDING_VALUE.pack(6, 7, 9, 1, 0)
    ),
    "a block that ends": lambda w: w.put(BALANCES, first_key(w, BALANCES), bytes(20)[:13]),
    "a block of too many": lambda w: w.put(
        BALANCES, bytes(4), (1).to_bytes(8, "little") + (4096).to_bytes(4, "little") + bytes(10**6)
    ),
    "an empty entry": lambda w: put_log(w, EntryKind.TRANSFERS, lambda entry: entry[:0]),
    "another amount": lambda w: put_log(
        w, EntryKind.TRANSFERS, lambda entry: entry[:40] + bytes([entry[40] ^ 1]) + entry[41:]
    ),
    "a tick without rows": lambda w: put_log(w, EntryKind.TICK, lambda entry: entry[:-5]),
    "a tick of other sessions": lambda w: put_log(
        w, EntryKind.TICK, lambda entry: entry[:-16] + b"\xff" * 16
    ),
    "no records": lambda w: put_log(w, EntryKind.RECORDS, lambda entry: entry[:-1] + b"\xc1"),
    "an entry that is missing": lambda w: w.delete(LOG, w.items_back(LOG, limit=3)[-1][0]),
    "a link that was changed": lambda w: w.put(
        CHAIN, w.items_back(CHAIN, limit=1)[0][0], b"x" * 32
    ),
}


@pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES)
def test_changed_content_is_told_as_damage(lived: Path, tmp_path: Path, change: Change) -> None:
    with pytest.raises(OperationError, match=r"is damaged .* restore the last backup") as caught:
        opened_after(lived, tmp_path / "changed", change)
    assert str(tmp_path / "changed") in str(caught.value)
    # It has let go of the folder.
    with open_store(tmp_path / "changed", tables=TABLES, schema=SCHEMA, map_bytes=MAP_BYTES):
        pass


def test_any_flipped_byte_is_told_or_does_no_harm(lived: Path, tmp_path: Path) -> None:
    chance = Random(5)
    told: list[str] = []
    for number in range(150):
        table = chance.choice(
            [ACCOUNTS, SESSIONS, PENDING, REFUNDED, BALANCES, CHARGED, STATE, LOG, LOG]
        )

        def flip(writing: Writing, table: str = table) -> None:
            key, value = chance.choice(writing.items(table, limit=10_000))
            at = chance.randrange(len(value))
            flipped = bytes([value[at] ^ 1 << chance.randrange(8)])
            writing.put(table, key, value[:at] + flipped + value[at + 1 :])

        folder = tmp_path / str(number)
        try:
            opened_after(lived, folder, flip).close()
        except OperationError as error:
            told.append(str(error))
        shutil.rmtree(folder)
    assert len(told) > 20
    assert all("is damaged" in sentence for sentence in told)


def test_what_a_kill_left_is_no_damage(lived: Path, tmp_path: Path) -> None:
    with opened_after(lived, tmp_path / "same", lambda w: w.get(STATE, REPLAY_FROM)) as ledger:
        assert ledger.meter.live == 3
        assert ledger.book.heirs == {11: 6}


# ---------------------------------------------------------------- closing


def small(folder: Path) -> LmdbLedger:
    return open_ledger(folder, VirtualClock(), sessions=64, map_bytes=MAP_BYTES)


def test_closing_lets_go_of_the_folder_whatever_storing_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = small(tmp_path)

    def fail(_: Writing) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(ledger, "_store_all", fail)
    with pytest.raises(RuntimeError, match="a mistake"):
        ledger.close()
    small(tmp_path).close()


def test_closing_on_a_full_disk_says_so_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = small(tmp_path)
    account = trio.run(ledger.open_account)

    def refuse(_: Writing) -> None:
        raise OperationError("the disk is full")

    monkeypatch.setattr(ledger, "_store_all", refuse)
    ledger.close()
    ledger.close()
    assert [record.getMessage() for record in caplog.records] == [
        "the balances were not stored, the next start counts anew: the disk is full"
    ]
    with small(tmp_path) as again:
        assert again.account(account).number == account
