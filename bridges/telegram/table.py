"""A table in the spool that holds the newest entries up to a number, and is read from memory."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from bridges.spool import Change, Spool

_PLACE: Final = struct.Struct(">Q")
"""Before each value: entries come back in the order in which they were put."""


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
        self._values = {key: value for _, key, value in stored}

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return iter(self._values.items())

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> bytes | None:
        """What is stored under a key."""
        return self._values.get(key)

    def put_changes(self, key: str, value: bytes) -> list[Change]:
        """Put an entry as the newest: what is to be done in the spool, which the caller does."""
        self._values.pop(key, None)
        self._values[key] = value
        place, self._next_place = self._next_place, self._next_place + 1
        changes = [Change(self._kind, key, _PLACE.pack(place) + value)]
        while len(self._values) > self._maximum:
            oldest = next(iter(self._values))
            del self._values[oldest]
            changes.append(Change(self._kind, oldest, None))
        return changes

    async def put(self, key: str, value: bytes) -> None:
        """Put an entry as the newest; durable when this returns.

        Raises:
            OperationError: the disk is full.
        """
        await self._spool.change(*self.put_changes(key, value))
