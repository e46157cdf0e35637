"""Columns in memory, stored a block at a time beside the log, so that a start has little to replay.

A block is stored with the number of the log's last entry that it has seen. What is written beside
an entry is in proportion to it: the log that a start replays is then no longer than a few times
what is in memory, and no single write has to store everything.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.tables import Tables, Writing

SHARE = 0.25
"""Bytes of blocks for each byte of the log."""
ENTRY_BYTES = 256
"""What an entry counts for at least."""
_HEAD = struct.Struct("<QI4x")
_READ_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class Columns:
    """Some columns that are stored together.

    Attributes:
        table: where.
        names: those of `columns` that are stored, in this order.
        block: rows of a block.
        columns: gives name -> array, and how many rows there are, as they are now.
        dirty: gives one byte a block: whether it has changed since it was stored.
    """

    table: str
    names: Sequence[str]
    block: int
    columns: Callable[[], tuple[Mapping[str, NDArray[np.generic]], int]]
    dirty: Callable[[], NDArray[np.uint8]]


class Checkpoint:
    """Stores blocks of one group of columns; belongs to the store's writer thread."""

    def __init__(self, what: Columns) -> None:
        self._what = what
        self._first_dirty = np.zeros(0, np.uint64)
        self._debt_bytes = 0.0

    def load(self, tables: Tables) -> NDArray[np.uint64]:
        """Fill the columns with what is stored; returns each block's last entry."""
        what = self._what
        columns, rows = what.columns()
        as_of = np.zeros(max(len(what.dirty()), -(-rows // what.block)), np.uint64)
        start = b""
        while found := tables.items(what.table, start, limit=_READ_BLOCKS):
            for key, value in found:
                block = int.from_bytes(key, "big")
                entry, count = _HEAD.unpack_from(value)
                as_of[block] = entry
                offset, first = _HEAD.size, block * what.block
                for name in what.names:
                    part = columns[name][first : first + count]
                    if len(part) != count:
                        raise ValueError(f"block {block} of {what.table} is longer than it can be")
                    stored = np.frombuffer(value, part.dtype, part.size, offset)
                    part[...] = stored.reshape(part.shape)
                    offset += stored.nbytes
            start = found[-1][0] + b"\0"
        return as_of

    def resume(self, first: int) -> None:
        """The log was replayed from entry `first` on: what that has changed is not stored."""
        dirty = self._what.dirty()
        self._first_dirty = np.where(dirty != 0, np.uint64(first), np.uint64(0))

    def write(self, writing: Writing, head: int, entry_bytes: int) -> int:
        """Store some of what has changed, after entry `head` of `entry_bytes` bytes was applied;
        returns the last entry that a start need not replay."""
        what = self._what
        dirty = what.dirty()
        before = (self._first_dirty.copy(), self._debt_bytes)

        def undo() -> None:
            # What was refused must not count as seen: the next entry has the same number.
            self._first_dirty, self._debt_bytes = before

        writing.on_abort(undo)
        if len(self._first_dirty) < len(dirty):
            grown = np.zeros(len(dirty), np.uint64)
            grown[: len(self._first_dirty)] = self._first_dirty
            self._first_dirty = grown
        first_dirty = self._first_dirty[: len(dirty)]
        first_dirty[(dirty == 0)] = 0
        first_dirty[(dirty != 0) & (first_dirty == 0)] = head
        self._debt_bytes += SHARE * max(entry_bytes, ENTRY_BYTES)
        changed = np.flatnonzero(dirty)
        stored: list[int] = []
        if len(changed) and self._debt_bytes > 0:
            columns, rows = what.columns()
            for block in changed[np.argsort(first_dirty[changed], kind="stable")].tolist():
                value = self._block(columns, rows, block, head)
                if self._debt_bytes < len(value):
                    break
                self._debt_bytes -= len(value)
                writing.put(what.table, block.to_bytes(4, "big"), value)
                stored.append(block)
        else:
            self._debt_bytes = 0.0
        self._mark_stored(writing, stored)
        waiting = np.setdiff1d(changed, stored, assume_unique=True)
        return int(first_dirty[waiting].min()) - 1 if len(waiting) else head

    def write_all(self, writing: Writing, head: int) -> None:
        """Store all that has changed."""
        columns, rows = self._what.columns()
        changed = np.flatnonzero(self._what.dirty())
        for block in changed.tolist():
            value = self._block(columns, rows, block, head)
            writing.put(self._what.table, block.to_bytes(4, "big"), value)
        self._mark_stored(writing, changed.tolist())

    def _mark_stored(self, writing: Writing, blocks: Sequence[int]) -> None:
        """Blocks are clean from here on, not from the commit on: a later entry of the same commit
        may change them again."""
        if not blocks:
            return
        dirty, first_dirty = self._what.dirty(), self._first_dirty
        before = first_dirty[blocks]
        dirty[blocks] = 0
        first_dirty[blocks] = 0

        def undo() -> None:
            self._what.dirty()[blocks] = 1
            self._first_dirty[blocks] = before

        writing.on_abort(undo)

    def _block(
        self, columns: Mapping[str, NDArray[np.generic]], rows: int, block: int, head: int
    ) -> bytes:
        first = block * self._what.block
        end = min(first + self._what.block, rows)
        parts = [columns[name][first:end].tobytes() for name in self._what.names]
        return b"".join([_HEAD.pack(head, max(0, end - first)), *parts])
