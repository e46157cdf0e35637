"""What a bridge has taken in, or is about to send, on its own disk: it outlives the bridge's
process and the node's.

    with open_spool(folder) as spool:
        if await spool.put("received", sid, text):        # durable now: "received" may be said
            ...
        await spool.delete("received", sid)

Entries have a kind and a key. Changes that are asked for at the same time share one commit; one
call's changes happen together or not at all. Works under trio and under asyncio.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import anyio.to_thread
import lmdb

from core.errors import OperationError
from core.log import log_event

FULL_RETRY_S: Final = 5.0
ENTRIES_MAXIMUM: Final = 1_000_000
VALUE_MAXIMUM_BYTES: Final = 64 * 1024
MAP_BYTES: Final = 1 << 30
"""Address space, not disk."""
_KEY_MAXIMUM_BYTES: Final = 480
"""LMDB takes 511, the kind with it."""


_log = logging.getLogger("montana.bridge")


class SpoolFull(OperationError):
    """Nothing can be stored now: the spool or the disk is full."""


class Change(NamedTuple):
    """What is done to an entry.

    Attributes:
        value: what is stored; None to remove it.
        if_new: only where there is none of this key yet; else nothing of the call is done.
    """

    kind: str
    key: str
    value: bytes | None
    if_new: bool = False


class _Waiting:
    """Changes that wait for their commit, and what came of it."""

    __slots__ = ("changes", "done", "error", "is_done")

    def __init__(self, changes: Sequence[Change]) -> None:
        self.changes = changes
        self.done = anyio.Event()
        self.is_done = False
        self.error: Exception | None = None


class Spool:
    """An open spool; made by `open_spool`."""

    def __init__(
        self, environment: lmdb.Environment, entries_maximum: int = ENTRIES_MAXIMUM
    ) -> None:
        self._environment = environment
        self._entries_maximum = entries_maximum
        self._waiting: list[_Waiting] = []
        self._writing = anyio.Lock()

    @property
    def entries(self) -> int:
        """How many there are."""
        return int(self._environment.stat()["entries"])

    def get(self, kind: str, key: str) -> bytes | None:
        """What is stored under a key."""
        with self._environment.begin() as transaction:
            value: bytes | None = transaction.get(_key(kind, key))
            return value

    def items(self, kind: str, limit: int = 1_000) -> list[tuple[str, bytes]]:
        """Keys and values of a kind, in the order of their keys."""
        prefix = _key(kind, "")
        found: list[tuple[str, bytes]] = []
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            if cursor.set_range(prefix):
                for key, value in cursor:
                    if len(found) == limit or not key.startswith(prefix):
                        break
                    found.append((key[len(prefix) :].decode("utf-8", "surrogatepass"), value))
        return found

    async def put(self, kind: str, key: str, value: bytes) -> bool:
        """Store a new entry; durable when this returns. False, with nothing done, where there is
        one of this key already.

        Raises:
            SpoolFull: the spool or the disk is full.
        """
        return await self.change(Change(kind, key, value, if_new=True))

    async def delete(self, kind: str, key: str) -> None:
        """Remove an entry, or do nothing where there is none."""
        await self.change(Change(kind, key, None))

    async def change(self, *changes: Change) -> bool:
        """Do changes, all in one; durable when this returns. False, with nothing done, where one
        that was to be new is there.

        Raises:
            SpoolFull: the spool or the disk is full; nothing was done.
        """
        for one in changes:
            assert one.value is None or len(one.value) <= VALUE_MAXIMUM_BYTES
        mine = _Waiting(changes)
        self._waiting.append(mine)
        # What is waited for may have happened: who is cancelled meanwhile must not leave it open.
        with anyio.CancelScope(shield=True):
            async with self._writing:
                if not mine.done.is_set():
                    group, self._waiting = self._waiting, []
                    await anyio.to_thread.run_sync(self._commit, group)
                    for waiting in group:
                        waiting.done.set()
        if mine.error is not None:
            raise mine.error
        return mine.is_done

    async def change_at_last(self, *changes: Change) -> bool:
        """As `change`, but waits while the disk is full: for what has happened and must be
        known."""
        while True:
            try:
                return await self.change(*changes)
            except SpoolFull as error:
                log_event(_log, logging.ERROR, "the spool can't be written", reason=error)
                await anyio.sleep(FULL_RETRY_S)

    def _commit(self, group: Sequence[_Waiting]) -> None:
        try:
            with self._environment.begin(write=True) as transaction:
                for one in group:
                    one.is_done = self._do(transaction, one)
        except lmdb.Error as error:
            full = SpoolFull(
                f"the spool {self._environment.path()} takes no more ({error}); make room on the "
                "disk, or look why the node takes nothing from it"
            )
            for one in group:
                one.is_done, one.error = False, full
        except Exception as error:
            # Nothing of it is there, whatever has gone wrong: nobody may think so.
            for one in group:
                one.is_done, one.error = False, error

    def _do(self, transaction: lmdb.Transaction, one: _Waiting) -> bool:
        for change in one.changes:
            if change.if_new and transaction.get(_key(change.kind, change.key)) is not None:
                return False
        grows = any(change.value is not None for change in one.changes)
        shrinks = any(change.value is None for change in one.changes)
        # Who takes something out as well must be able to, however full it is.
        if grows and not shrinks and transaction.stat()["entries"] >= self._entries_maximum:
            one.error = SpoolFull(
                f"the spool has {self._entries_maximum} entries, and takes no more; look why the "
                "node takes nothing from it"
            )
            return False
        for change in one.changes:
            key = _key(change.kind, change.key)
            if change.value is None:
                transaction.delete(key)
            else:
                transaction.put(key, change.value)
        return True


@contextlib.contextmanager
def open_spool(folder: Path, *, map_bytes: int = MAP_BYTES) -> Iterator[Spool]:
    """The spool in `folder`, which is made where it is missing. One process at a time.

    Raises:
        OperationError: it can't be opened.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = lmdb.open(str(folder), map_size=map_bytes, mode=0o600, max_spare_txns=4)
    except (lmdb.Error, OSError) as error:
        raise OperationError(f"the spool {folder} can't be opened: {error}") from error
    try:
        yield Spool(environment)
    finally:
        environment.close()


def _key(kind: str, key: str) -> bytes:
    assert kind.isidentifier()
    name = key.encode("utf-8", "surrogatepass")
    if len(name) > _KEY_MAXIMUM_BYTES - len(kind):
        # Of what strangers have named: as good a key, only shorter.
        name = sha256(name).hexdigest().encode()
    return kind.encode() + b"\0" + name
