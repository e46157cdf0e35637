"""LMDB: one environment, one writer thread with group commit, short readers.

    with open_store(folder, tables=("accounts",), schema=Schema(1)) as store:
        balance = await store.write(lambda tables: pay(tables, 5))   # durable when it returns
        with store.read() as tables:
            tables.get("accounts", b"alice")

What is written is a function of the tables, called on the writer thread. Those that wait are
committed together: the answer to each follows the sync that holds it. One that raises has no
effect. Where many ask for the same kind of thing, `write_together` hands all of them that wait to
one function. Where memory has to follow the disk, `after_commit` and `on_abort` say what is to be
done there.

Durability: LMDB's own defaults. A commit writes its pages, syncs them (fdatasync), then writes the
page that makes them valid (O_DSYNC). What was answered survives a kill and a power cut; what was
not has happened whole or not at all. A sync that fails ends the process: what the disk has kept
then, nobody can tell, and asking again would only be told that all is well. A new environment gets
its name when it is durable: an empty or a cut file is a damaged one, never a new one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import queue
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self, TypeVar, cast

import lmdb
import outcome
import trio
from lmdb.verify import VerifyError, verify

from core.errors import OperationError
from core.units import GIB, MIB

MAP_BYTES = 64 * GIB
"""Address space that is reserved, not memory or disk."""
MAP_MAXIMUM_BYTES = 4096 * GIB
GROUP_WRITES = 4096
"""Writes of one commit."""
QUEUED_WRITES = 65_536
"""Writes that may wait; who comes then is refused."""
EXIT_STORAGE = 74
"""EX_IOERR of sysexits.h."""
ROOM_BYTES = MIB
"""Where less can be had, the disk is full."""
DATA_FILE = "data.mdb"
NEW_FILE = "data.new"
LOCK_FILE = "writer.lock"
READERS_MAXIMUM = 126

_DAMAGES = (
    lmdb.BadDbiError,
    lmdb.CorruptedError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)
# A page that can't be read spoils the transaction, which says so the second time.
_LOST_PAGES = (*_DAMAGES, lmdb.BadTxnError)
_META = "meta"
_SCHEMA_KEY = b"schema"
_log = logging.getLogger("montana.store")
_T = TypeVar("_T")


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

    __slots__ = ("_aborts", "_commits", "writes")

    def __init__(self, transaction: lmdb.Transaction, handles: Mapping[str, Any]) -> None:
        super().__init__(transaction, handles)
        self._commits: list[Callable[[], None]] = []
        self._aborts: list[Callable[[], None]] = []
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

    def after_commit(self, action: Callable[[], None]) -> None:
        """Call `action` on the writer thread once this is durable, before anybody is answered."""
        self._commits.append(action)

    def on_abort(self, action: Callable[[], None]) -> None:
        """Call `action` when this has not happened after all; it may be tried again then. The last
        one registered is called first."""
        self._aborts.append(action)

    def _committed(self) -> None:
        for action in self._commits:
            action()

    def _aborted(self, since: int = 0) -> None:
        for action in reversed(self._aborts[since:]):
            action()
        del self._aborts[since:]


Write = Callable[[Writing], _T]
Together = Callable[[Writing, list[Any]], Sequence[outcome.Outcome[Any]]]
"""Does what several have asked for; returns an outcome for each."""
Migration = Callable[[Writing], None]


@dataclass(frozen=True, slots=True)
class Schema:
    """The version of what the tables hold; `migrations[n]` leads from n to n + 1."""

    version: int
    migrations: Mapping[int, Migration] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Job:
    resolve: Callable[[outcome.Outcome[Any]], None]
    write: Write[Any] | None = None
    together: Together | None = None
    argument: Any = None
    token: trio.lowlevel.TrioToken | None = None


class _Unit:
    """Jobs that succeed or fail by one call."""

    __slots__ = ("jobs",)

    def __init__(self, jobs: list[_Job]) -> None:
        self.jobs = jobs

    def run(self, writing: Writing) -> Sequence[outcome.Outcome[Any]]:
        first = self.jobs[0]
        if first.write is not None:
            return [outcome.Value(first.write(writing))]
        assert first.together is not None
        outcomes = first.together(writing, [job.argument for job in self.jobs])
        assert len(outcomes) == len(self.jobs)
        return outcomes


def _units(jobs: Sequence[_Job]) -> list[_Unit]:
    """Those that go together, where no other stands between them."""
    units: list[_Unit] = []
    for job in jobs:
        if units and job.together is not None and units[-1].jobs[0].together == job.together:
            units[-1].jobs.append(job)
        else:
            units.append(_Unit([job]))
    return units


def end_process(reason: str) -> NoReturn:
    """Say why, and end without another write."""
    _log.critical("%s", reason)
    sys.stderr.write(f"montana: {reason}\n")
    sys.stderr.flush()
    os._exit(EXIT_STORAGE)


class Store:
    """An open environment; made by `open_store`."""

    def __init__(
        self,
        environment: lmdb.Environment,
        handles: Mapping[str, Any],
        lock: LockFile,
        map_maximum_bytes: int,
        on_fatal: Callable[[str], object],
    ) -> None:
        self._environment = environment
        self._data = Path(environment.path()) / DATA_FILE
        self._handles = handles
        self._lock = lock
        self._map_maximum_bytes = map_maximum_bytes
        self._on_fatal = on_fatal
        self._queue: queue.Queue[_Job | None] = queue.Queue(QUEUED_WRITES)
        self._gate = threading.Condition()
        self._readers = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="montana-store", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Commit what waits, then close the files. May be called twice."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
        self._queue.put(None)
        self._thread.join()
        with self._gate:
            self._gate.wait_for(lambda: self._readers == 0)
        self._environment.close()
        self._lock.release()

    @property
    def file_bytes(self) -> int:
        """How large the data file is."""
        return self._data.stat().st_size

    @contextlib.contextmanager
    def read(self) -> Iterator[Tables]:
        """A view of what is committed. To be left soon: the file grows by all that is written
        meanwhile.

        Raises:
            OperationError: the store is closed, or its file is damaged.
        """
        with self._gate:
            if self._closed:
                raise OperationError("the store is closed")
            self._readers += 1
        try:
            with self._environment.begin(buffers=True) as transaction:
                yield Tables(transaction, self._handles)
        except _LOST_PAGES as error:
            raise _damaged(self._data.parent, str(error)) from error
        finally:
            with self._gate:
                self._readers -= 1
                self._gate.notify_all()

    def submit(self, write: Write[_T]) -> Future[_T]:
        """Have `write` done; the future resolves once it is durable.

        Raises:
            OperationError: too many wait already, or the store is closed.
        """
        future: Future[_T] = Future()

        def resolve(result: outcome.Outcome[_T]) -> None:
            try:
                future.set_result(result.unwrap())
            except Exception as error:
                future.set_exception(error)

        self._enqueue(_Job(resolve, write))
        return future

    async def write(self, write: Write[_T]) -> _T:
        """Have `write` done; returns what it returned, once that is durable. It can't be cancelled
        while it waits, since it may have happened already.

        Raises:
            OperationError: too many wait already, the store is closed, the disk is full.
        """
        return cast(_T, await self._wait(_Job(_ignore, write)))

    async def write_together(self, together: Together, argument: object) -> Any:
        """Have `together` do what `argument` asks for, with what others ask of the same function
        at the time; returns its own outcome, once that is durable. As `write` otherwise."""
        return await self._wait(_Job(_ignore, together=together, argument=argument))

    async def _wait(self, job: _Job) -> Any:
        task = trio.lowlevel.current_task()
        job.token = trio.lowlevel.current_trio_token()
        job.resolve = lambda result: trio.lowlevel.reschedule(task, result)
        self._enqueue(job)

        def abort(_: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
            return trio.lowlevel.Abort.FAILED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    def _enqueue(self, job: _Job) -> None:
        # In the gate, so that nothing comes behind what ends the writer's thread.
        with self._gate:
            if self._closed:
                raise OperationError("the store is closed")
            try:
                self._queue.put_nowait(job)
            except queue.Full:
                raise OperationError("too much waits to be written; try again") from None

    # ------------------------------------------------------------ the writer thread

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException:
            _log.exception("the writer's thread has failed")
            self._on_fatal("the storage's writer has failed, which is a mistake of the program")

    def _serve(self) -> None:
        while (job := self._queue.get()) is not None:
            group = [job]
            ending = False
            while len(group) < GROUP_WRITES:
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    ending = True
                    break
                group.append(following)
            self._answer(self._commit(group))
            # Whoever looks for memory should not find this group's.
            del job, group
            if ending:
                break

    def _commit(self, group: Sequence[_Job]) -> list[tuple[_Job, outcome.Outcome[Any]]]:
        """Do what the group asks for, in one transaction."""
        failed: list[tuple[_Job, outcome.Outcome[Any]]] = []
        units = _units(group)
        while True:
            transaction = self._environment.begin(write=True, buffers=True)
            writing = Writing(transaction, self._handles)
            try:
                results = _run_units(units, writing, self._data.parent)
                if isinstance(results, _Failed):
                    # What it has written goes, and so all the others once more.
                    transaction.abort()
                    writing._aborted()
                    failed += [(job, outcome.Error(results.error)) for job in results.unit.jobs]
                    units.remove(results.unit)
                    continue
                transaction.commit()
            except lmdb.MapFullError as error:
                transaction.abort()
                writing._aborted()
                if self._grow():
                    continue
                return failed + _refuse(units, error)
            except lmdb.Error as error:
                with contextlib.suppress(lmdb.Error):
                    transaction.abort()
                writing._aborted()
                # A disk that fills while pages are written shows as ENOSPC or, when a write came
                # out short, as EIO: as a failed sync does. What tells them apart is the disk.
                if not self._is_usable() or not self._is_full():
                    self._on_fatal(
                        f"what was to be stored can't be made durable ({error}); the disk needs to "
                        "be looked at. Nothing that was acknowledged before is lost"
                    )
                return failed + _refuse(units, error)
            self._lengthen()
            writing._committed()
            return failed + results

    def _is_usable(self) -> bool:
        """Whether the environment takes another transaction: it doesn't after a half-written meta
        page."""
        try:
            self._environment.begin(write=True).abort()
        except lmdb.Error:
            return False
        return True

    def _is_full(self) -> bool:
        """Whether the disk has no room."""
        try:
            with tempfile.TemporaryFile(dir=self._data.parent) as probe:
                os.posix_fallocate(probe.fileno(), 0, ROOM_BYTES)
        except OSError as error:
            return error.errno in (errno.ENOSPC, errno.EDQUOT)
        return False

    def _lengthen(self) -> None:
        """Have the file end with the last page. LMDB doesn't write a page that one transaction has
        both taken and given back; the next start would take a file without it for a cut one, and
        look through all of it."""
        pages_bytes = _pages_bytes(self._environment)
        if self.file_bytes < pages_bytes:
            os.truncate(self._data, pages_bytes)

    def _grow(self) -> bool:
        """Double the map, with no transaction open: to do it under a reader kills the process."""
        now_bytes = int(self._environment.info()["map_size"])
        if now_bytes >= self._map_maximum_bytes:
            return False
        with self._gate:
            self._gate.wait_for(lambda: self._readers == 0)
            self._environment.set_mapsize(min(2 * now_bytes, self._map_maximum_bytes))
        return True

    def _answer(self, results: Sequence[tuple[_Job, outcome.Outcome[Any]]]) -> None:
        by_token: dict[trio.lowlevel.TrioToken, list[tuple[Any, outcome.Outcome[Any]]]] = {}
        for job, result in results:
            if job.token is None:
                job.resolve(result)
            else:
                by_token.setdefault(job.token, []).append((job.resolve, result))
        for token, resolutions in by_token.items():
            # Once for all: waking the other thread costs more than what it does then.
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(_resolve_all, resolutions)


class _Failed(NamedTuple):
    """A unit that has written something before it failed, or has spoilt the transaction."""

    unit: _Unit
    error: Exception


def _run_units(
    units: Sequence[_Unit], writing: Writing, folder: Path
) -> list[tuple[_Job, outcome.Outcome[Any]]] | _Failed:
    results: list[tuple[_Job, outcome.Outcome[Any]]] = []
    for unit in units:
        writes, aborts, commits = writing.writes, len(writing._aborts), len(writing._commits)
        try:
            results += zip(unit.jobs, unit.run(writing), strict=True)
        except (lmdb.MapFullError, lmdb.DiskError):
            raise
        except _LOST_PAGES as error:
            return _Failed(unit, _damaged(folder, str(error)))
        except Exception as error:
            if writing.writes != writes:
                return _Failed(unit, error)
            writing._aborted(aborts)
            del writing._commits[commits:]
            results += [(job, outcome.Error(error)) for job in unit.jobs]
    return results


def _refuse(units: Sequence[_Unit], error: lmdb.Error) -> list[tuple[_Job, outcome.Outcome[Any]]]:
    if isinstance(error, lmdb.MapFullError):
        refusal = OperationError(
            "the ledger's files are as large as they may become; raise store.map_gib"
        )
    else:
        refusal = OperationError(
            "the disk is full: nothing of this was stored; make room on it and try again"
        )
    return [(job, outcome.Error(refusal)) for unit in units for job in unit.jobs]


def _ignore(_: outcome.Outcome[Any]) -> None:
    raise AssertionError("a job without somebody who waits for it")


def _resolve_all(resolutions: Sequence[tuple[Any, outcome.Outcome[Any]]]) -> None:
    for resolve, result in resolutions:
        resolve(result)


class LockFile:
    """Held by the one process that may open the folder's environment.

    Raises:
        OperationError: another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK_FILE
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise OperationError(
                f"{folder} is in use by another process{f' ({holder})' if holder else ''}; "
                "stop it, or ask it through its socket"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others have it."""
        os.close(self._fd)


def open_store(
    folder: Path,
    *,
    tables: Sequence[str],
    schema: Schema,
    map_bytes: int = MAP_BYTES,
    map_maximum_bytes: int = MAP_MAXIMUM_BYTES,
    on_fatal: Callable[[str], object] = end_process,
) -> Store:
    """Open the environment in `folder`, which is made where it is missing.

    Raises:
        OperationError: another process has it, it is damaged, or it is of a newer version.
    """
    try:
        created = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for place in created:
            _sync_folder(place.parent)
        lock = LockFile(folder)
    except OSError as error:
        raise OperationError(f"{folder} can't be used: {error.strerror}") from error
    try:
        try:
            if not (folder / DATA_FILE).exists():
                _create(folder, tables, schema)
            environment = _open_environment(folder, len(tables), map_bytes)
        except (lmdb.Error, OSError) as error:
            raise _unusable(folder, error) from error
        try:
            handles = _open_tables(environment, folder, tables, schema)
        except lmdb.Error as error:
            environment.close()
            raise _unusable(folder, error) from error
        except BaseException:
            environment.close()
            raise
    except BaseException:
        lock.release()
        raise
    return Store(environment, handles, lock, map_maximum_bytes, on_fatal)


def _create(folder: Path, tables: Sequence[str], schema: Schema) -> None:
    """Make an empty environment, which has its name only once it is durable."""
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
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _open_environment(folder: Path, tables: int, map_bytes: int) -> lmdb.Environment:
    data = folder / DATA_FILE
    size_bytes = data.stat().st_size
    if not size_bytes:
        # LMDB would take it for a new one.
        raise _damaged(folder, "it is empty")
    environment = lmdb.open(
        str(folder),
        map_size=max(map_bytes, size_bytes + 16 * MIB),
        max_dbs=tables + 1,
        max_readers=READERS_MAXIMUM,
        mode=0o600,
    )
    # LMDB looks at no page before it is asked for, and a page past the file's end kills.
    pages_bytes = _pages_bytes(environment)
    if size_bytes < pages_bytes and (wrong := _look_through(data)):
        environment.close()
        raise _damaged(
            folder,
            f"the file ends after {size_bytes:,} of {pages_bytes:,} bytes: it was cut; {wrong}",
        )
    environment.reader_check()
    return environment


def _pages_bytes(environment: lmdb.Environment) -> int:
    """How long the file is with all of its pages."""
    return int((environment.info()["last_pgno"] + 1) * environment.stat()["psize"])


def _look_through(data: Path) -> str:
    """What is wrong with a file, in a few words; it takes a second for each 40 MB."""
    try:
        problems = verify(str(data), subdir=False)  # type: ignore[no-untyped-call]
    except VerifyError as error:
        return str(error)
    return f"{problems[0]}, and {len(problems) - 1} more" if problems else ""


def _damaged(folder: Path, reason: str) -> OperationError:
    return OperationError(
        f"{folder / DATA_FILE} is damaged ({reason}). Keep a copy of it, and restore the last "
        "backup: montana ledger restore BACKUP"
    )


def _unusable(folder: Path, error: lmdb.Error | OSError) -> OperationError:
    if isinstance(error, lmdb.DiskError) or (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    ):
        return OperationError(f"{folder} can't be opened: the disk is full; make room on it")
    if isinstance(error, lmdb.MapFullError):
        return OperationError(f"{folder} can't be opened: raise store.map_gib")
    if isinstance(error, _DAMAGES):
        return _damaged(folder, str(error))
    return OperationError(f"{folder} can't be opened: {error}")


def _handles(
    environment: lmdb.Environment, transaction: lmdb.Transaction, tables: Sequence[str]
) -> dict[str, Any]:
    return {name: environment.open_db(name.encode(), txn=transaction) for name in (_META, *tables)}


def _open_tables(
    environment: lmdb.Environment, folder: Path, tables: Sequence[str], schema: Schema
) -> dict[str, Any]:
    """The tables' handles; what is of an older version is brought to this one, all steps or none.
    In files of others nothing is changed."""
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
