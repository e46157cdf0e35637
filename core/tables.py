"""What a transaction of the store sees: named tables of bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lmdb


class Tables:
    """What a transaction sees: named tables of bytes, each in the order of its keys."""

    __slots__ = ("_handles", "transaction")

    def __init__(self, transaction: lmdb.Transaction, handles: Mapping[str, Any]) -> None:
        self.transaction = transaction
        self._handles = handles

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of a key."""
        value = self.transaction.get(key, db=self._handles[table])
        return None if value is None else bytes(value)

    def part(self, table: str, key: bytes, start: int, stop: int) -> bytes | None:
        """`start` to `stop` of a key's value, which may be long."""
        value = self.transaction.get(key, db=self._handles[table])
        return None if value is None else bytes(value[start:stop])

    def get_many(self, table: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values of those keys that are there."""
        with self.transaction.cursor(self._handles[table]) as cursor:
            return {bytes(key): bytes(value) for key, value in cursor.getmulti(keys)}

    def items(
        self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int = 1000
    ) -> list[tuple[bytes, bytes]]:
        """At most `limit` entries from `start` on, up to before `stop`."""
        found: list[tuple[bytes, bytes]] = []
        with self.transaction.cursor(self._handles[table]) as cursor:
            if not cursor.set_range(start):
                return found
            for raw_key, value in cursor:
                key = bytes(raw_key)
                if len(found) == limit or (stop is not None and key >= stop):
                    break
                found.append((key, bytes(value)))
        return found

    def items_back(
        self, table: str, before: bytes | None = None, limit: int = 1000
    ) -> list[tuple[bytes, bytes]]:
        """At most `limit` entries below `before`, or from the end, the last first."""
        found: list[tuple[bytes, bytes]] = []
        with self.transaction.cursor(self._handles[table]) as cursor:
            if before is None or not cursor.set_range(before):
                there = cursor.last()
            else:
                there = cursor.prev()
            while there and len(found) < limit:
                key, value = cursor.item()
                found.append((bytes(key), bytes(value)))
                there = cursor.prev()
        return found

    def count(self, table: str) -> int:
        """How many entries a table has."""
        return int(self.transaction.stat(self._handles[table])["entries"])


class Writing(Tables):
    """A transaction that writes."""

    __slots__ = ("aborts", "commits", "writes")

    def __init__(self, transaction: lmdb.Transaction, handles: Mapping[str, Any]) -> None:
        super().__init__(transaction, handles)
        self.commits: list[Callable[[], None]] = []
        self.aborts: list[Callable[[], None]] = []
        self.writes = 0

    def put(self, table: str, key: bytes, value: bytes | memoryview) -> None:
        """Set a key's value."""
        self.writes += 1
        self.transaction.put(key, value, db=self._handles[table])

    def put_many(self, table: str, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Set many; sorted by key they cost the least."""
        self.writes += 1
        with self.transaction.cursor(self._handles[table]) as cursor:
            cursor.putmulti(items)

    def delete(self, table: str, key: bytes) -> bool:
        """Remove a key; whether it was there."""
        self.writes += 1
        return bool(self.transaction.delete(key, db=self._handles[table]))

    def delete_many(self, table: str, keys: Sequence[bytes]) -> None:
        """Remove those of these keys, in their order, that are there."""
        self.writes += 1
        with self.transaction.cursor(self._handles[table]) as cursor:
            for key in keys:
                # After a removal it stands on the next, which is often the one that is wanted.
                if cursor.key() == key or cursor.set_key(key):
                    cursor.delete()

    def after_commit(self, action: Callable[[], None]) -> None:
        """Call `action` on the writer thread once this is durable, before anybody is answered."""
        self.commits.append(action)

    def on_abort(self, action: Callable[[], None]) -> None:
        """Call `action` when this has not happened after all; it may be tried again then. The last
        one registered is called first."""
        self.aborts.append(action)

    def attempt(self, action: Callable[[Writing], None]) -> Exception | None:
        """Do `action`; what it has raised, unless the transaction is spoilt by that."""
        try:
            action(self)
        except lmdb.Error:
            raise
        except Exception as error:
            return error
        return None

    def committed(self) -> None:
        """Have done what was to follow the commit."""
        for action in self.commits:
            action()

    def aborted(self, since: int = 0) -> None:
        """Have undone what was registered, from the action `since` on."""
        for action in reversed(self.aborts[since:]):
            action()
        del self.aborts[since:]
