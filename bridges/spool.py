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
GATHER_S: Final = 0.005
"""What a commit costs hardly depends on how many changes it has."""
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


class _Call:
    """What one call has asked for, and what came of it: whether it was done, or why nobody can say
    so."""

    __slots__ = ("changes", "outcome")

    def __init__(self, changes: Sequence[Change]) -> None:
        self.changes = changes
        self.outcome: bool | Exception = OperationError("it was not stored: the bridge is ending")


class _Group:
    """Calls that share a commit; who has opened it does that for all."""

    __slots__ = ("calls", "ended")

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self.ended = anyio.Event()


class Spool:
    """An open spool; made by `open_spool`."""

    def __init__(
        self, environment: lmdb.Environment, entries_maximum: int = ENTRIES_MAXIMUM
    ) -> None:
        self._environment = environment
        self._entries_maximum = entries_maximum
        self._open: _Group | None = None
        """Waits for the commit before it."""
        self._gathers = False
        self._writing = anyio.Lock(fast_acquire=True)

    @property
    def entries(self) -> int:
        """How many there are."""
        return int(self._environment.stat()["entries"])

    def get(self, kind: str, key: str) -> bytes | None:
        """What is stored under a key."""
        with self._environment.begin() as transaction:
            value: bytes | None = transaction.get(_key(kind, key))
            return value

    def items(self, kind: str, limit: int = 1_000, after: str = "") -> list[tuple[str, bytes]]:
        """Keys and values of a kind, in the order of their keys, from behind the key `after` on."""
        prefix, last = _key(kind, ""), _key(kind, after)
        found: list[tuple[str, bytes]] = []
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            if cursor.set_range(last):
                for key, value in cursor:
                    if len(found) == limit or not key.startswith(prefix):
                        break
                    if key == last:
                        continue
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
        mine = _Call(changes)
        # What is waited for may have happened: who is cancelled meanwhile must not leave it open.
        with anyio.CancelScope(shield=True):
            if self._open is None:
                self._open = _Group()
                self._open.calls.append(mine)
                await self._write(self._open)
            else:
                self._open.calls.append(mine)
                await self._open.ended.wait()
        if isinstance(mine.outcome, Exception):
            raise mine.outcome
        return mine.outcome

    async def _write(self, group: _Group) -> None:
        try:
            if self._gathers:
                await anyio.sleep(GATHER_S)
            async with self._writing:
                self._open = None
                # One alone has nobody to wait for: only where several come at a time, more do.
                self._gathers = len(group.calls) > 1
                await anyio.to_thread.run_sync(self._commit, group.calls)
        finally:
            # Nobody else does it where this task was stopped, as asyncio's cancel() can.
            if self._open is group:
                self._open = None
            group.ended.set()

    async def change_at_last(self, *changes: Change) -> bool:
        """As `change`, but waits while the disk is full: for what has happened and must be
        known."""
        while True:
            try:
                return await self.change(*changes)
            except SpoolFull as error:
                log_event(_log, logging.ERROR, "the spool can't be written", reason=error)
                await anyio.sleep(FULL_RETRY_S)

    def _commit(self, calls: Sequence[_Call]) -> None:
        outcomes: list[bool | Exception]
        try:
            with self._environment.begin(write=True) as transaction:
                outcomes = [self._do(transaction, one.changes) for one in calls]
        except lmdb.Error as error:
            full = SpoolFull(
                f"the spool {self._environment.path()} takes no more ({error}); make room on the "
                "disk, or look why the node takes nothing from it"
            )
            outcomes = [full] * len(calls)
        except Exception as error:
            # Nothing of it is there, whatever has gone wrong: nobody may think so.
            outcomes = [error] * len(calls)
        for one, outcome in zip(calls, outcomes, strict=True):
            one.outcome = outcome

    def _do(self, transaction: lmdb.Transaction, changes: Sequence[Change]) -> bool | SpoolFull:
        for change in changes:
            if change.if_new and transaction.get(_key(change.kind, change.key)) is not None:
                return False
        grows = any(change.value is not None for change in changes)
        shrinks = any(change.value is None for change in changes)
        # Who takes something out as well must be able to, however full it is.
        if grows and not shrinks and transaction.stat()["entries"] >= self._entries_maximum:
            return SpoolFull(
                f"the spool has {self._entries_maximum} entries, and takes no more; look why the "
                "node takes nothing from it"
            )
        for change in changes:
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
