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
import logging
import os
import queue
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self, TypeVar, cast

import lmdb
import outcome
import trio

from core.errors import OperationError
from core.lock_file import LockFile
from core.new_file import sync_folder
from core.store_files import (
    DATA_FILE,
    LOST_PAGES,
    Schema,
    assert_never_used,
    create,
    damaged,
    full,
    grow,
    lock_folder,
    may_grow,
    open_environment,
    open_tables,
    pages_bytes,
    unusable,
)
from core.tables import Tables, Writing
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

_log = logging.getLogger("montana.store")
_T = TypeVar("_T")


Write = Callable[[Writing], _T]
Together = Callable[[Writing, list[Any]], Sequence[outcome.Outcome[Any]]]
"""Does what several have asked for; returns an outcome for each."""


class SomeFailed(Exception):
    """What a `Together` raises when something was written already for some who can't have it: they
    are told why, and the others' is done once more without them.

    Attributes:
        errors: by their places in the list.
    """

    def __init__(self, errors: Mapping[int, Exception]) -> None:
        super().__init__()
        self.errors = errors


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

    def take_out(self, error: Exception) -> list[tuple[_Job, outcome.Outcome[Any]]]:
        """Let go of those that have failed; how they are answered."""
        if not isinstance(error, SomeFailed):
            failed, self.jobs = self.jobs, []
            return [(job, outcome.Error(error)) for job in failed]
        jobs, self.jobs = self.jobs, []
        answers: list[tuple[_Job, outcome.Outcome[Any]]] = []
        for place, job in enumerate(jobs):
            if place in error.errors:
                answers.append((job, outcome.Error(error.errors[place])))
            else:
                self.jobs.append(job)
        return answers


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
        self._readers: Counter[int] = Counter()
        self._is_growing = False
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
            self._gate.wait_for(lambda: not self._readers)
        self._environment.close()
        self._lock.release()

    @property
    def file_bytes(self) -> int:
        """How large the data file is."""
        return self._data.stat().st_size

    @contextlib.contextmanager
    def read(self) -> Iterator[Tables]:
        """A view of what is committed. To be left soon: the file grows by all that is written
        meanwhile, and the map grows only when all have left. A thread that has a view may take
        another, and must not wait for a view that another thread takes.

        Raises:
            OperationError: the store is closed, or its file is damaged.
        """
        thread = threading.get_ident()
        with self._gate:
            # Who has a view already is waited for, and can't wait in turn.
            self._gate.wait_for(lambda: not self._is_growing or self._readers[thread] > 0)
            if self._closed:
                raise OperationError("the store is closed")
            self._readers[thread] += 1
        try:
            with self._environment.begin(buffers=True) as transaction:
                tables = Tables(transaction, self._handles)
                try:
                    yield tables
                finally:
                    # Its place among LMDB's readers is given back with the last name for it, and
                    # the frame of whoever looked may wait for long with `tables` still in it.
                    del tables.transaction
        except LOST_PAGES as error:
            raise damaged(self._data.parent, str(error)) from error
        finally:
            with self._gate:
                self._readers[thread] -= 1
                if not self._readers[thread]:
                    del self._readers[thread]
                self._gate.notify_all()

    def submit(self, write: Write[_T]) -> Future[_T]:
        """Have `write` done; the future resolves once it is durable, and can't be cancelled, since
        it may have happened already.

        Raises:
            OperationError: too many wait already, or the store is closed.
        """
        future: Future[_T] = Future()
        # Of one that was cancelled meanwhile, the writer's thread could tell nobody how it ended.
        future.set_running_or_notify_cancel()

        def resolve(result: outcome.Outcome[_T]) -> None:
            if isinstance(result, outcome.Error):
                future.set_exception(result.error)
            else:
                future.set_result(result.unwrap())

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
                    writing.aborted()
                    failed += results.unit.take_out(results.error)
                    if not results.unit.jobs:
                        units.remove(results.unit)
                    continue
                transaction.commit()
            except lmdb.MapFullError:
                transaction.abort()
                writing.aborted()
                if self._grow():
                    continue
                return failed + _refuse(units, full(self._environment))
            except lmdb.Error as error:
                with contextlib.suppress(lmdb.Error):
                    transaction.abort()
                writing.aborted()
                # A disk that fills while pages are written shows as ENOSPC or, when a write came
                # out short, as EIO: as a failed sync does. What tells them apart is the disk.
                if not self._is_usable() or not self._is_full():
                    self._on_fatal(
                        f"what was to be stored can't be made durable ({error}); the disk needs to "
                        "be looked at. Nothing that was acknowledged before is lost"
                    )
                return failed + _refuse(units, _disk_full())
            self._lengthen()
            writing.committed()
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
        whole_bytes = pages_bytes(self._environment)
        if self.file_bytes < whole_bytes:
            os.truncate(self._data, whole_bytes)

    def _grow(self) -> bool:
        """Double the map, with no transaction open; whether it was not at its largest."""
        if not may_grow(self._environment, self._map_maximum_bytes):
            return False
        with self._gate:
            # Readers that overlap would hold it up for as long as they do.
            self._is_growing = True
            try:
                self._gate.wait_for(lambda: not self._readers)
                grow(self._environment, self._map_maximum_bytes)
            finally:
                self._is_growing = False
                self._gate.notify_all()
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
        writes, aborts, commits = writing.writes, len(writing.aborts), len(writing.commits)
        try:
            results += zip(unit.jobs, unit.run(writing), strict=True)
        except (lmdb.MapFullError, lmdb.DiskError):
            raise
        except LOST_PAGES as error:
            return _Failed(unit, damaged(folder, str(error)))
        except Exception as error:
            if writing.writes != writes:
                return _Failed(unit, error)
            writing.aborted(aborts)
            del writing.commits[commits:]
            results += [(job, outcome.Error(error)) for job in unit.jobs]
    return results


def _disk_full() -> OperationError:
    return OperationError(
        "the disk is full: nothing of this was stored; make room on it and try again", "disk_full"
    )


def _refuse(
    units: Sequence[_Unit], refusal: OperationError
) -> list[tuple[_Job, outcome.Outcome[Any]]]:
    return [(job, outcome.Error(refusal)) for unit in units for job in unit.jobs]


def _ignore(_: outcome.Outcome[Any]) -> None:
    raise AssertionError("a job without somebody who waits for it")


def _resolve_all(resolutions: Sequence[tuple[Any, outcome.Outcome[Any]]]) -> None:
    for resolve, result in resolutions:
        resolve(result)


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
        OperationError: another process has it, it is damaged, of a newer version or gone.
    """
    with contextlib.ExitStack() as cleanup:
        try:
            created = [place for place in (folder, *folder.parents) if not place.exists()]
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for place in created:
                sync_folder(place.parent)
            lock = lock_folder(folder)
        except OSError as error:
            raise OperationError(f"{folder} can't be used: {error.strerror}") from error
        cleanup.callback(lock.release)
        try:
            if not (folder / DATA_FILE).exists():
                assert_never_used(folder)
                create(folder, tables, schema)
            environment = open_environment(folder, len(tables), map_bytes)
            cleanup.callback(environment.close)
            handles = open_tables(environment, folder, tables, schema, map_maximum_bytes)
        except (lmdb.Error, OSError) as error:
            raise unusable(folder, error) from error
        store = Store(environment, handles, lock, map_maximum_bytes, on_fatal)
        cleanup.pop_all()
        return store
