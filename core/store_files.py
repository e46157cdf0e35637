"""The store's files: their names, how they are made and opened, and what is said of damaged
ones."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmdb
from lmdb.verify import VerifyError, verify

from core.errors import OperationError
from core.lock_file import LockFile
from core.new_file import sync_folder
from core.tables import Writing
from core.units import MIB

DATA_FILE = "data.mdb"
NEW_FILE = "data.new"
LOCK_FILE = "writer.lock"
READERS_FILE = "lock.mdb"
"""LMDB's own, which it makes beside a file that it opens: it says that there was one."""
RESTORING_FOLDER = "restoring"
"""Where a restore builds what is then moved out of it."""
READERS_MAXIMUM = 126

DAMAGES = (
    lmdb.BadDbiError,
    lmdb.CorruptedError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)
# A page that can't be read spoils the transaction, which says so the second time.
LOST_PAGES = (*DAMAGES, lmdb.BadTxnError)
_META = "meta"
_SCHEMA_KEY = b"schema"

Migration = Callable[[Writing], None]


@dataclass(frozen=True, slots=True)
class Schema:
    """The version of what the tables hold; `migrations[n]` leads from n to n + 1."""

    version: int
    migrations: Mapping[int, Migration] = field(default_factory=dict)


def lock_folder(folder: Path) -> LockFile:
    """What the one process holds that may open the folder's environment.

    Raises:
        OperationError: another process holds it.
        OSError: it can't be made.
    """
    return LockFile(
        folder / LOCK_FILE,
        f"{folder} is in use by another process",
        "stop it, or ask it through its socket",
    )


def assert_never_used(folder: Path) -> None:
    """See that a folder without a data file is no ledger that has lost it: an empty one in its
    place would look as if all were well.

    Raises:
        OperationError: it is; and what to do.
    """
    empty = "To begin with an empty ledger, move the folder away"
    if (folder / RESTORING_FOLDER).exists():
        raise OperationError(
            f"a restore into {folder} was cut short; run it again: montana ledger restore BACKUP. "
            f"{empty}"
        )
    if (folder / READERS_FILE).exists():
        raise OperationError(
            f"there was a ledger in {folder}, and its {DATA_FILE} is gone; put it back, or restore "
            f"the last backup: montana ledger restore BACKUP. {empty}"
        )


def create(folder: Path, tables: Sequence[str], schema: Schema) -> None:
    """Make an empty environment, which has its name only once it is durable.

    Raises:
        lmdb.Error, OSError: see `unusable`.
    """
    new, new_lock = folder / NEW_FILE, folder / f"{NEW_FILE}-lock"
    new.unlink(missing_ok=True)
    environment = lmdb.open(
        str(new), subdir=False, map_size=16 * MIB, max_dbs=len(tables) + 1, mode=0o600
    )
    try:
        with environment.begin(write=True, buffers=True) as transaction:
            handles = _handles(environment, transaction, tables)
            writing = Writing(transaction, handles)
            writing.put(_META, _SCHEMA_KEY, schema.version.to_bytes(4, "big"))
    finally:
        environment.close()
    new.rename(folder / DATA_FILE)
    new_lock.unlink(missing_ok=True)
    sync_folder(folder)


def open_environment(folder: Path, tables: int, map_bytes: int) -> lmdb.Environment:
    """Open what is in the folder, which this process has locked.

    Raises:
        OperationError: the file is damaged.
        lmdb.Error, OSError: see `unusable`.
    """
    data = folder / DATA_FILE
    size_bytes = data.stat().st_size
    if not size_bytes:
        # LMDB would take it for a new one.
        raise damaged(folder, "it is empty")
    environment = lmdb.open(
        str(folder),
        map_size=max(map_bytes, size_bytes + 16 * MIB),
        max_dbs=tables + 1,
        max_readers=READERS_MAXIMUM,
        mode=0o600,
    )
    # LMDB looks at no page before it is asked for, and a page past the file's end kills.
    whole_bytes = pages_bytes(environment)
    if size_bytes < whole_bytes and (wrong := _look_through(data)):
        environment.close()
        raise damaged(
            folder,
            f"the file ends after {size_bytes:,} of {whole_bytes:,} bytes: it was cut; {wrong}",
        )
    environment.reader_check()
    return environment


def may_grow(environment: lmdb.Environment, maximum_bytes: int) -> bool:
    """Whether the map is not at its largest."""
    return int(environment.info()["map_size"]) < maximum_bytes


def grow(environment: lmdb.Environment, maximum_bytes: int) -> None:
    """Double the map. To do it while a transaction is open kills the process."""
    environment.set_mapsize(min(2 * int(environment.info()["map_size"]), maximum_bytes))


def full(environment: lmdb.Environment) -> OperationError:
    """What is said where the map may not grow any more."""
    return OperationError(
        "the ledger has reached its largest size, "
        f"{environment.info()['map_size'] // MIB:,} MiB: nothing of this was stored. Pruned ticks "
        "give room back: set a shorter billing.keep_ticks_s, and start the node again"
    )


def pages_bytes(environment: lmdb.Environment) -> int:
    """How long the file is with all of its pages."""
    return int((environment.info()["last_pgno"] + 1) * environment.stat()["psize"])


def _look_through(data: Path) -> str:
    """What is wrong with a file, in a few words; it takes a second for each 40 MB."""
    try:
        problems = verify(str(data), subdir=False)  # type: ignore[no-untyped-call]
    except VerifyError as error:
        return str(error)
    return f"{problems[0]}, and {len(problems) - 1} more" if problems else ""


def damaged(folder: Path, reason: str) -> OperationError:
    """What is said of files that can't be read."""
    return OperationError(
        f"{folder / DATA_FILE} is damaged ({reason}). Keep a copy of it, and restore the last "
        "backup: montana ledger restore BACKUP"
    )


def unusable(folder: Path, error: lmdb.Error | OSError) -> OperationError:
    """What is said of files that can't be opened."""
    if isinstance(error, lmdb.DiskError) or (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    ):
        return OperationError(f"{folder} can't be opened: the disk is full; make room on it")
    if isinstance(error, DAMAGES):
        return damaged(folder, str(error))
    return OperationError(f"{folder} can't be opened: {error}")


def _handles(
    environment: lmdb.Environment, transaction: lmdb.Transaction, tables: Sequence[str]
) -> dict[str, Any]:
    return {name: environment.open_db(name.encode(), txn=transaction) for name in (_META, *tables)}


def open_tables(
    environment: lmdb.Environment,
    folder: Path,
    tables: Sequence[str],
    schema: Schema,
    map_maximum_bytes: int,
) -> dict[str, Any]:
    """The tables' handles; what is of an older version is brought to this one, all steps or none.
    In files of others nothing is changed.

    Raises:
        OperationError: these are files of others, or of a newer version, or there is no room left.
        lmdb.Error: see `unusable`.
    """
    while True:
        try:
            return _migrated(environment, folder, tables, schema)
        except lmdb.MapFullError as error:
            if not may_grow(environment, map_maximum_bytes):
                raise full(environment) from error
            grow(environment, map_maximum_bytes)


def _migrated(
    environment: lmdb.Environment, folder: Path, tables: Sequence[str], schema: Schema
) -> dict[str, Any]:
    with environment.begin(write=True, buffers=True) as transaction:
        try:
            meta = environment.open_db(_META.encode(), txn=transaction, create=False)
            stored = transaction.get(_SCHEMA_KEY, db=meta)
        except (lmdb.NotFoundError, lmdb.IncompatibleError):
            stored = None
        if stored is None:
            raise OperationError(
                f"{folder / DATA_FILE} lacks its version: it is no ledger's; name another folder"
            )
        version = int.from_bytes(stored, "big")
        if version > schema.version:
            raise OperationError(
                f"the ledger's files are of version {version}, and this program knows up to "
                f"{schema.version}; run the newer program"
            )
        handles = _handles(environment, transaction, tables)
        writing = Writing(transaction, handles)
        for step in range(version, schema.version):
            schema.migrations[step](writing)
        if version != schema.version:
            writing.put(_META, _SCHEMA_KEY, schema.version.to_bytes(4, "big"))
    return handles
