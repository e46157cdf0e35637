"""Backup of a ledger that may be in use, and restoring one: a file that holds the log.

    magic, version
    each entry: its length (8 bytes, big-endian), its kind and content
    a length of 0
    the tail's length, the tail: where the chain ends, and what the log doesn't say
    SHA-256 of all of this

All else is made anew from the log, which is verified while that is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np
import trio
from numpy.typing import NDArray

from billing import journal
from billing.audit import walking
from billing.book import BLOCK
from billing.checkpoint import Checkpoint, Columns
from billing.journal import CHAIN, FIRST_LINK, LOG, TOTAL, EntryKind, SealEntry
from billing.ledger import LmdbLedger
from billing.meter import FREE, SESSION_BLOCK
from billing.receipts import store_last_root
from billing.records import Progress, index_records
from billing.recount import Recount, find_seal
from billing.seal import store_seal, totals_of
from billing.tables import (
    BALANCES,
    CHARGED,
    CLOCK,
    PENDING,
    PENDING_VALUE,
    REFUNDED,
    REPLAY_FROM,
    SCHEMA,
    SESSIONS,
    STATE,
    TABLES,
    store_accounts,
    store_ids,
    store_side_writes,
)
from core.errors import OperationError
from core.lock_file import LockFile
from core.new_file import new_file, sync_file, sync_folder
from core.store import Store, open_store
from core.store_files import DATA_FILE, LOCK_FILE, RESTORING_FOLDER, lock_folder
from core.tables import Writing

MAGIC = b"montana ledger\n\0"
VERSION = 1
_LENGTH_BYTES = 8
_DIGEST_BYTES = 32
_HEAD_BYTES = len(MAGIC) + 4
_CHUNK_BYTES = 1 << 22
_BATCH_ENTRIES = 1000


class _Tail(msgspec.Struct, frozen=True, kw_only=True):
    """What stands behind the entries.

    Attributes:
        head, link: the last entry, and the chain's link there.
        clock_ns: the ledger's time.
        totals: `TOTAL`s of sessions, whose bytes and unpaid seconds stand in no tick.
    """

    head: int
    link: bytes
    clock_ns: int
    totals: bytes


_TAIL = msgspec.msgpack.Decoder(_Tail)


class BackedUp(NamedTuple):
    """A backup that was made; `link` is the chain's last, to be kept elsewhere."""

    path: Path
    entries: int
    size_bytes: int
    link: bytes


class Restored(NamedTuple):
    """A ledger that was restored."""

    entries: int
    accounts: int
    transfers: int
    records: int
    link: bytes


async def back_up(ledger: LmdbLedger, path: Path, progress: Progress | None = None) -> BackedUp:
    """Write the ledger as it is now into a new file, which is there only once it is whole.

    Args:
        progress: called with how many entries are done, and of how many.

    Raises:
        OperationError: the file is there already or can't be written, or the ledger is damaged.
    """

    def look(writing: Writing) -> _Tail:
        state = ledger.meter.columns["state"][: ledger.meter.used]
        slots = np.flatnonzero(state != FREE).astype(np.uint32)
        return _Tail(
            head=ledger.head,
            link=writing.get(CHAIN, journal.entry_key(ledger.head)) or b"",
            clock_ns=ledger.clock.now_ns(),
            totals=totals_of(ledger, slots).tobytes(),
        )

    with walking(ledger):
        tail = await ledger.store.write(look)
        try:
            with new_file(path) as file:
                writer = _Writer(file, ledger.store, tail)
                while await trio.to_thread.run_sync(writer.step):
                    if progress is not None:
                        progress(writer.next - 1, tail.head)
                size_bytes = await trio.to_thread.run_sync(writer.finish)
        except FileExistsError:
            raise OperationError(f"{path} is there already; name a new file") from None
        except OSError as error:
            raise OperationError(f"the backup {path} can't be written: {error.strerror}") from error
    if progress is not None:
        progress(tail.head, tail.head)
    return BackedUp(path, tail.head, size_bytes, tail.link)


class _Writer:
    """Copies the log into a file, some entries a step."""

    def __init__(self, file: BinaryIO, store: Store, tail: _Tail) -> None:
        self._file, self._store, self._tail = file, store, tail
        self._digest = hashlib.sha256()
        self._link = FIRST_LINK
        self.next = 1
        self._write(MAGIC + VERSION.to_bytes(4, "big"))

    def step(self) -> bool:
        """Copy some entries; whether there are more."""
        if self.next > self._tail.head:
            return False
        found = journal.read_some(self._store, self.next, self._tail.head)
        for number, entry in found:
            if number != self.next:
                break
            self._link = journal.next_link(self._link, entry)
            self._write(len(entry).to_bytes(_LENGTH_BYTES, "big"))
            self._write(entry)
            self.next = number + 1
        if not found or found[-1][0] != self.next - 1:
            raise _damaged_ledger(f"entry {self.next} is missing")
        return self.next <= self._tail.head

    def finish(self) -> int:
        """Write what follows the entries, and have it durable; returns the file's length."""
        if self._link != self._tail.link:
            raise _damaged_ledger("its entries aren't those that the chain of hashes was made of")
        tail = msgspec.msgpack.encode(self._tail)
        self._write(bytes(_LENGTH_BYTES) + len(tail).to_bytes(_LENGTH_BYTES, "big") + tail)
        self._file.write(self._digest.digest())
        sync_file(self._file)
        return self._file.tell()

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)


def restore(
    path: Path,
    folder: Path,
    progress: Progress | None = None,
    **options: Any,
) -> Restored:
    """Make a ledger in `folder` of a backup. It is there once it is whole, or not at all.

    Args:
        progress: called with how many bytes of the file are done, and of how many.
        options: those of `core.store.open_store`.

    Raises:
        OperationError: there is a ledger already, or the backup can't be used.
    """
    building = folder / RESTORING_FOLDER
    with contextlib.ExitStack() as undo:
        lock = _lock_folder(folder, undo)
        try:
            if (folder / DATA_FILE).exists():
                raise OperationError(
                    f"there is a ledger in {folder} already; move it away first, nothing was "
                    "restored"
                )
            # What a restore that was cut short has left.
            shutil.rmtree(building, ignore_errors=True)
            with path.open("rb") as file:
                backup = _read_untrusted(file, path)
                with open_store(building, tables=TABLES, schema=SCHEMA, **options) as store:
                    recount = _rebuild(file, path, backup, store, progress)
            os.rename(building / DATA_FILE, folder / DATA_FILE)
            sync_folder(folder)
        except OSError as error:
            raise OperationError(f"{path} can't be restored: {error.strerror}") from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
        undo.pop_all()
    lock.release()
    return Restored(
        recount.entries,
        recount.accounts - 1,
        recount.transfers,
        recount.records,
        backup.tail.link,
    )


def _lock_folder(folder: Path, undo: contextlib.ExitStack) -> LockFile:
    """Make the folder where it is missing, and lock it; `undo` leaves of it what was there."""
    try:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        for place in reversed(made):
            undo.callback(_remove_empty, place)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_first = not (folder / LOCK_FILE).exists()
        lock = lock_folder(folder)
    except OSError as error:
        raise OperationError(f"the folder {folder} can't be made: {error.strerror}") from error
    undo.callback(lock.remove if is_first else lock.release)
    return lock


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


class _Backup(NamedTuple):
    """A file that is whole: its tail, its length, and the parts of seals by entry."""

    tail: _Tail
    size_bytes: int
    seals: dict[int, SealEntry]


def _read_untrusted(file: BinaryIO, path: Path) -> _Backup:
    """Go through a file, and see that it is whole."""
    size_bytes = os.fstat(file.fileno()).st_size
    head = file.read(_HEAD_BYTES)
    if not head.startswith(MAGIC):
        raise OperationError(f"{path} is no backup of a ledger")
    version = int.from_bytes(head[len(MAGIC) :], "big")
    if version != VERSION:
        raise OperationError(
            f"{path} is of version {version}, and this program reads {VERSION}; run the program "
            "that has made it"
        )
    digest = hashlib.sha256()
    file.seek(0)
    left_bytes = size_bytes - _DIGEST_BYTES
    while left_bytes > 0 and (chunk := file.read(min(_CHUNK_BYTES, left_bytes))):
        digest.update(chunk)
        left_bytes -= len(chunk)
    if file.read() != digest.digest():
        raise OperationError(f"{path} was cut or changed; take another backup")
    seals: dict[int, SealEntry] = {}
    try:
        for number, length_bytes, kind in _entries(file):
            if kind == EntryKind.SEAL:
                file.seek(-1, os.SEEK_CUR)
                seals[number] = journal.decode_seal(file.read(length_bytes))
            else:
                file.seek(length_bytes - 1, os.SEEK_CUR)
        tail = _TAIL.decode(file.read(int.from_bytes(file.read(_LENGTH_BYTES), "big")))
    except (msgspec.MsgspecError, ValueError, IndexError, OverflowError) as error:
        raise OperationError(f"{path} can't be read: {error}") from error
    return _Backup(tail, size_bytes, seals)


def _entries(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """(number, length, kind) of each entry; the caller moves on behind it."""
    file.seek(_HEAD_BYTES)
    number = 0
    while length_bytes := int.from_bytes(file.read(_LENGTH_BYTES), "big"):
        number += 1
        yield number, length_bytes, file.read(1)[0]


def _rebuild(
    file: BinaryIO, path: Path, backup: _Backup, store: Store, progress: Progress | None
) -> Recount:
    """Fill a new environment."""
    seal = find_seal(backup.seals.values())
    recount = Recount(seal)
    link = FIRST_LINK
    batch: list[tuple[int, bytes, bytes]] = []
    batch_bytes = 0

    def flush() -> None:
        nonlocal batch_bytes
        _do(store, path, lambda writing: _store_entries(writing, batch))
        batch.clear()
        batch_bytes = 0
        if progress is not None:
            progress(file.tell(), backup.size_bytes)

    for number, length_bytes, kind in _entries(file):
        entry = bytes([kind]) + file.read(length_bytes - 1)
        link = journal.next_link(link, entry)
        recount.add(number, entry)
        if recount.problems:
            raise OperationError(f"{path} can't be restored: {recount.problems[0]}")
        batch.append((number, entry, link))
        batch_bytes += len(entry)
        if len(batch) == _BATCH_ENTRIES or batch_bytes >= _CHUNK_BYTES:
            flush()
    flush()
    recount.finish()
    if recount.problems:
        raise OperationError(f"{path} can't be restored: {recount.problems[0]}")
    if (recount.entries, link) != (backup.tail.head, backup.tail.link):
        raise OperationError(f"{path} can't be restored: its chain of hashes doesn't end rightly")

    def finish(writing: Writing) -> None:
        _store_rest(writing, recount, backup.tail)
        if seal is not None:
            numbers = [number for number, part in backup.seals.items() if part.as_of == seal.as_of]
            store_seal(writing, seal.as_of, numbers)

    _do(store, path, finish)
    if progress is not None:
        progress(backup.size_bytes, backup.size_bytes)
    return recount


def _do(store: Store, path: Path, write: Callable[[Writing], None]) -> None:
    try:
        store.submit(write).result()
    except (msgspec.MsgspecError, ValueError) as error:
        raise OperationError(f"{path} can't be restored: {error}") from error


def _store_entries(writing: Writing, batch: list[tuple[int, bytes, bytes]]) -> None:
    """Entries, and what else follows from each alone."""
    for number, entry, link in batch:
        key = journal.entry_key(number)
        writing.put(LOG, key, entry)
        writing.put(CHAIN, key, link)
        if entry[0] == EntryKind.TRANSFERS:
            transfers = journal.decode_transfers(entry)
            store_ids(writing, transfers.records, number)
            store_side_writes(writing, transfers.side_writes)
        elif entry[0] == EntryKind.ACCOUNTS:
            store_accounts(writing, journal.decode_accounts(entry))
        elif entry[0] == EntryKind.RECORDS:
            raws = journal.raw_records(entry)
            index_records(writing, number, journal.decode_records(entry), raws)


def _store_rest(writing: Writing, recount: Recount, tail: _Tail) -> None:
    """What is known at the end alone."""
    for identity, pending in recount.pending.items():
        writing.put(PENDING, identity, PENDING_VALUE.pack(*pending))
    for identity, amount in recount.refunded.items():
        writing.put(REFUNDED, identity, amount.to_bytes(8, "big"))
    for slot, info in recount.sessions.items():
        writing.put(SESSIONS, slot.to_bytes(4, "big"), journal.encode_session(info))
    if recount.last_root:
        store_last_root(writing, recount.last_root)
    accounts = {
        "posted": recount.posted,
        "reserved": recount.reserved,
        "incoming": recount.incoming,
        "last": recount.last,
    }
    _store_columns(writing, BALANCES, BLOCK, accounts, tail.head)
    used = max(recount.sessions, default=-1) + 1
    sessions: dict[str, NDArray[Any]] = {
        "seconds": np.zeros(used, np.uint32),
        "bytes": np.zeros(used, np.uint64),
        "cost": np.zeros(used, np.int64),
    }
    slots = np.array(list(recount.sessions), np.int64)
    sessions["seconds"][slots] = recount.seconds[slots]
    sessions["cost"][slots] = recount.cost[slots]
    totals = np.frombuffer(tail.totals, TOTAL)
    there = totals[np.isin(totals["slot"], slots)]
    for name in ("seconds", "bytes"):
        sessions[name][there["slot"]] = there[name]
    _store_columns(writing, CHARGED, SESSION_BLOCK, sessions, tail.head)
    writing.put(STATE, REPLAY_FROM, tail.head.to_bytes(8, "big"))
    writing.put(STATE, CLOCK, tail.clock_ns.to_bytes(8, "big"))


def _store_columns(
    writing: Writing, table: str, block: int, columns: dict[str, NDArray[Any]], head: int
) -> None:
    rows = len(next(iter(columns.values())))
    dirty = np.ones(-(-rows // block), np.uint8)
    what = Columns(table, tuple(columns), block, lambda: (columns, rows), lambda: dirty)
    checkpoint = Checkpoint(what)
    checkpoint.resume(head)
    checkpoint.write_all(writing, head)


def _damaged_ledger(reason: str) -> OperationError:
    return OperationError(
        f"the ledger is damaged, and was not backed up: {reason}. Run montana ledger verify"
    )
