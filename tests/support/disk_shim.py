"""What a process wrote to a folder's data files and when it was synced; and what a power cut would
have left of it. `disk_shim.c` records it, and fails calls on demand."""

from __future__ import annotations

import ctypes
import os
import random
import struct
import subprocess
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

SECTOR_BYTES = 512
PAGE_BYTES = 4096
_HEAD = struct.Struct("<IIQq")
_SOURCE = Path(__file__).with_suffix(".c")


class Fail(IntEnum):
    """What can be made to fail: a write, a sync, a write that syncs (O_DSYNC)."""

    WRITE = 0
    SYNC = 1
    DSYNC = 2


class Kind(IntEnum):
    """What a record is of."""

    OPEN = 1
    WRITE = 2
    DSYNC_BEGIN = 3
    DSYNC_END = 4
    TRUNCATE = 5
    SYNC = 6
    RENAME = 7
    NOTE = 8
    FAILED = 9


class Record(NamedTuple):
    """One step; `offset` is the new length of a TRUNCATE and the `Fail` of a FAILED."""

    kind: Kind
    inode: int
    offset: int
    data: bytes


def build_shim(folder: Path) -> Path:
    """Compile it."""
    library = folder / "disk_shim.so"
    command = [
        "gcc",
        "-O1",
        "-Wall",
        "-Werror",
        "-shared",
        "-fPIC",
        "-o",
        str(library),
        str(_SOURCE),
    ]
    subprocess.run([*command, "-ldl", "-lpthread"], check=True)
    return library


def shim_environment(library: Path, folder: Path, log: Path) -> dict[str, str]:
    """The variables of a process that is recorded."""
    return os.environ | shim_variables(library, folder, log)


def shim_variables(library: Path, folder: Path, log: Path) -> dict[str, str]:
    """What they have besides."""
    return {
        "LD_PRELOAD": str(library),
        "DISK_SHIM_FOLDER": str(folder),
        "DISK_SHIM_LOG": str(log),
    }


def loaded_shim() -> ctypes.CDLL | None:
    """The shim's functions, in a process that is recorded."""
    return ctypes.CDLL(None) if "DISK_SHIM_LOG" in os.environ else None


def read_log(log: Path) -> list[Record]:
    """All that was recorded."""
    raw = log.read_bytes()
    records = []
    position = 0
    while position + _HEAD.size <= len(raw):
        kind, count, inode, offset = _HEAD.unpack_from(raw, position)
        position += _HEAD.size
        records.append(Record(Kind(kind), inode, offset, raw[position : position + count]))
        position += count
    return records


class _File:
    def __init__(self) -> None:
        self.durable = bytearray()
        self.volatile: list[Record] = []


class Disk:
    """A disk that keeps what was synced for certain, and of the rest whatever it likes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[int, _File] = {}
        self._names: dict[str, int] = {}
        self._renames: list[tuple[str, str]] = []
        self._folder_inode = 0

    def step(self, record: Record) -> None:
        """Take up the next record."""
        file = self._files.setdefault(record.inode, _File())
        if record.kind is Kind.OPEN:
            if record.data.decode() == str(self._folder):
                self._folder_inode = record.inode
            else:
                self._names.setdefault(Path(record.data.decode()).name, record.inode)
        elif record.kind in (Kind.WRITE, Kind.TRUNCATE, Kind.DSYNC_BEGIN):
            file.volatile.append(record)
        elif record.kind is Kind.DSYNC_END:
            # Itself alone: others that wait may come later, or never.
            begun = [one for one in file.volatile if one.kind is Kind.DSYNC_BEGIN]
            _write(file.durable, begun[-1].offset, begun[-1].data)
            file.volatile.remove(begun[-1])
        elif record.kind is Kind.SYNC and record.inode == self._folder_inode:
            for old, new in self._renames:
                self._names[new] = self._names.pop(old)
            self._renames.clear()
        elif record.kind is Kind.SYNC:
            for one in file.volatile:
                _apply(file.durable, one)
            file.volatile.clear()
        elif record.kind is Kind.RENAME:
            old, new = record.data.decode().split("\0")
            self._renames.append((Path(old).name, Path(new).name))

    @property
    def has_unsynced(self) -> bool:
        """Whether a cut now has something to choose from."""
        return any(file.volatile for file in self._files.values())

    def cut(self, folder: Path, chance: random.Random) -> None:
        """Write what a power cut leaves now into another folder."""
        names = dict(self._names)
        for old, new in self._renames[: chance.randint(0, len(self._renames))]:
            names[new] = names.pop(old)
        folder.mkdir()
        for name, inode in names.items():
            (folder / name).write_bytes(_after_cut(self._files[inode], chance))


def _after_cut(file: _File, chance: random.Random) -> bytearray:
    kept = bytearray(file.durable)
    parts: list[Record] = []
    for one in file.volatile:
        # Pages of a write go to the disk one by one, and a page sector by sector.
        if one.kind is Kind.TRUNCATE:
            parts.append(one)
            continue
        for start in range(0, len(one.data), SECTOR_BYTES):
            parts.append(
                one._replace(offset=one.offset + start, data=one.data[start : start + SECTOR_BYTES])
            )
    keep = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    pages: dict[int, bool] = {}
    torn = chance.random() < 0.5
    chosen = [
        one
        for one in parts
        if (
            chance.random() < keep
            if torn
            else pages.setdefault(one.offset // PAGE_BYTES, chance.random() < keep)
        )
    ]
    for one in _shuffled(chosen, chance):
        _apply(kept, one)
    return kept


def _shuffled(records: Sequence[Record], chance: random.Random) -> list[Record]:
    """In another order, but those of one sector in theirs."""
    ranks: dict[int, float] = {}
    return sorted(records, key=lambda one: ranks.setdefault(one.offset, chance.random()))


def _apply(content: bytearray, record: Record) -> None:
    if record.kind is Kind.TRUNCATE:
        del content[record.offset :]
        content.extend(bytes(record.offset - len(content)))
    else:
        _write(content, record.offset, record.data)


def _write(content: bytearray, offset: int, data: bytes) -> None:
    content.extend(bytes(max(0, offset + len(data) - len(content))))
    content[offset : offset + len(data)] = data
