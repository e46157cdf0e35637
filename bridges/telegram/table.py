"""A table in the spool that holds the newest entries up to a number, and is read from memory."""

from __future__ import annotations

import logging
import struct
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import anyio

from bridges.spool import FULL_RETRY_S, Change, Spool, SpoolFull
from core.log import log_event

_PLACE: Final = struct.Struct(">Q")
"""Before each value: entries come back in the order in which they were put."""

_log = logging.getLogger("montana.bridge.telegram")


class Table:
    """Entries of `kind`, at most `maximum`: one more, and the oldest goes."""

    def __init__(self, spool: Spool, kind: str, maximum: int) -> None:
        self._spool = spool
        self._kind = kind
        self._maximum = maximum
        stored = sorted(
            (_PLACE.unpack_from(value)[0], key, value[_PLACE.size :])
            for key, value in spool.items(kind, maximum + 1)
        )
        self._next_place = stored[-1][0] + 1 if stored else 0
        self._values = OrderedDict((key, value) for _, key, value in stored)
        self._in_flight = Counter[str]()
        """How many changes of each entry wait for the disk."""
        self._doubted: set[str] = set()
        """Those of them of which one was not stored."""

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return iter(self._values.items())

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> bytes | None:
        """What is stored under a key, or is about to be."""
        return self._values.get(key)

    def put_changes(self, key: str, value: bytes) -> list[Change]:
        """Put an entry as the newest: what is to be done in the spool, which the caller does, and
        doesn't give up."""
        self._values.pop(key, None)
        self._values[key] = value
        place, self._next_place = self._next_place, self._next_place + 1
        changes = [Change(self._kind, key, _PLACE.pack(place) + value)]
        while len(self._values) > self._maximum:
            oldest, _ = self._values.popitem(last=False)
            changes.append(Change(self._kind, oldest, None))
        return changes

    async def put(self, key: str, value: bytes) -> None:
        """Put an entry as the newest; durable when this returns.

        Raises:
            OperationError: the disk is full, and the entry is what it was.
        """
        # Memory has it at once: who changes the same entry meanwhile goes on from there.
        changes = self.put_changes(key, value)
        keys = [change.key for change in changes]
        self._in_flight.update(keys)
        try:
            await self._spool.change(*changes)
        except Exception:
            self._doubted.update(keys)
            raise
        finally:
            for one in keys:
                self._settle(one)

    def _settle(self, key: str) -> None:
        """A change of an entry has ended. Where one was not stored, what the disk has holds, once
        no other is under way: one that was made from it may have been stored."""
        self._in_flight[key] -= 1
        if self._in_flight[key]:
            return
        del self._in_flight[key]
        if key not in self._doubted:
            return
        self._doubted.remove(key)
        stored = self._spool.get(self._kind, key)
        if stored is None:
            self._values.pop(key, None)
            return
        has_gone = key not in self._values
        self._values[key] = stored[_PLACE.size :]
        if has_gone:
            # It was the oldest.
            self._values.move_to_end(key, last=False)


async def until_stored(store: Callable[[], Awaitable[None]]) -> None:
    """Have something stored, and wait while the disk is full: for what has happened and must be
    known.

    Args:
        store: done anew each time, from what is in the table by then.
    """
    while True:
        try:
            await store()
        except SpoolFull as error:
            log_event(_log, logging.ERROR, "the spool can't be written", reason=error)
            await anyio.sleep(FULL_RETRY_S)
        else:
            return
