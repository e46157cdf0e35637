"""The store keeps what it has answered, and does whole what it does."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import lmdb
import outcome
import pytest
import trio
import trio.testing
from lmdb.verify import verify

from core import store as store_module
from core.errors import OperationError
from core.store import EXIT_STORAGE, SomeFailed, Store, open_store
from core.store_files import DATA_FILE, NEW_FILE, Schema, lock_folder
from core.tables import Tables, Writing
from tests.support.disk_shim import Fail, Kind, build_shim, read_log, shim_environment

ROOT = Path(__file__).parents[2]
SCHEMA = Schema(1)


def open_here(folder: Path, **options) -> Store:
    return open_store(folder, tables=("a", "b"), schema=options.pop("schema", SCHEMA), **options)


def put(key: bytes, value: bytes = b"v"):
    return lambda writing: writing.put("a", key, value)


def delete(key: bytes):
    return lambda writing: writing.delete("a", key)


def keys(store: Store) -> list[bytes]:
    with store.read() as tables:
        return [key for key, _ in tables.items("a")]


@contextmanager
def held_up(store: Store) -> Iterator[None]:
    """What is asked for meanwhile waits, and is then one commit."""
    begun, go = threading.Event(), threading.Event()

    def wait(_: Writing) -> None:
        begun.set()
        assert go.wait(30)

    first = store.submit(wait)
    assert begun.wait(30)
    try:
        yield
    finally:
        go.set()
    first.result(30)


# ---------------------------------------------------------------- writing


def test_those_that_wait_are_one_commit(tmp_path: Path) -> None:
    transactions = []
    with open_here(tmp_path) as store:
        with held_up(store):
            waiting = [
                store.submit(lambda writing: transactions.append(writing.transaction.id()))
                for _ in range(5)
            ]
        for one in waiting:
            one.result(30)
    assert len(transactions) == 5
    assert len(set(transactions)) == 1


def test_one_that_raises_has_no_effect_amid_others(tmp_path: Path) -> None:
    log: list[str] = []

    def fails(writing: Writing) -> None:
        writing.on_abort(lambda: log.append("undone"))
        writing.after_commit(lambda: log.append("never"))
        writing.put("a", b"half", b"v")
        raise ValueError("no")

    def fails_without_writing(writing: Writing) -> None:
        writing.on_abort(lambda: log.append("undone too"))
        writing.after_commit(lambda: log.append("never"))
        raise KeyError("no")

    with open_here(tmp_path) as store:
        with held_up(store):
            before = store.submit(put(b"before"))
            failing = store.submit(fails)
            idle = store.submit(fails_without_writing)
            after = store.submit(put(b"later"))
        before.result(30), after.result(30)
        with pytest.raises(ValueError, match="no"):
            failing.result(30)
        with pytest.raises(KeyError):
            idle.result(30)
        assert keys(store) == [b"before", b"later"]
    assert log == ["undone", "undone too"]


def test_actions_have_their_order(tmp_path: Path) -> None:
    log: list[str] = []

    def write(writing: Writing) -> None:
        for name in "12":
            writing.after_commit(partial(log.append, f"durable {name}"))
            writing.on_abort(partial(log.append, f"aborted {name}"))
        writing.put("a", b"k", b"v")
        if not log:
            raise ValueError("no")

    with open_here(tmp_path) as store:
        with pytest.raises(ValueError, match="no"):
            store.submit(write).result(30)
        assert log == ["aborted 2", "aborted 1"]
        store.submit(write).result(30)
    assert log[2:] == ["durable 1", "durable 2"]


def test_those_who_ask_together_are_served_by_one_call(tmp_path: Path) -> None:
    calls: list[list[int]] = []

    def together(writing: Writing, arguments: list[int]) -> list[outcome.Outcome[int]]:
        calls.append(arguments)
        writing.put("a", b"%d" % len(calls), b"v")
        return [
            outcome.Error(ValueError("odd")) if one % 2 else outcome.Value(one) for one in arguments
        ]

    async def ask(store: Store, argument: int, answers: dict[int, object]) -> None:
        try:
            answers[argument] = await store.write_together(together, argument)
        except ValueError as error:
            answers[argument] = str(error)

    async def main(store: Store) -> dict[int, object]:
        answers: dict[int, object] = {}
        async with trio.open_nursery() as nursery:
            with held_up(store):
                for argument in range(4):
                    nursery.start_soon(ask, store, argument, answers)
                await trio.testing.wait_all_tasks_blocked()
        return answers

    with open_here(tmp_path) as store:
        assert trio.run(main, store) == {0: 0, 1: "odd", 2: 2, 3: "odd"}
        assert keys(store) == [b"1"]
    assert [sorted(one) for one in calls] == [[0, 1, 2, 3]]


def test_of_those_who_ask_together_some_fail_and_the_others_are_served(tmp_path: Path) -> None:
    calls: list[list[int]] = []

    def together(writing: Writing, arguments: list[int]) -> list[outcome.Outcome[int]]:
        calls.append(arguments)
        for one in arguments:
            writing.put("a", b"%d" % one, b"v")
        odd = {place: ValueError(f"{one}") for place, one in enumerate(arguments) if one % 2}
        if odd:
            raise SomeFailed(odd)
        return [outcome.Value(one) for one in arguments]

    async def ask(store: Store, argument: int, answers: dict[int, object]) -> None:
        try:
            answers[argument] = await store.write_together(together, argument)
        except ValueError as error:
            answers[argument] = str(error)

    async def main(store: Store, count: int) -> dict[int, object]:
        answers: dict[int, object] = {}
        async with trio.open_nursery() as nursery:
            with held_up(store):
                for argument in range(count):
                    nursery.start_soon(ask, store, argument, answers)
                    await trio.testing.wait_all_tasks_blocked()
                between = store.submit(put(b"between"))
        between.result(30)
        return answers

    with open_here(tmp_path) as store:
        assert trio.run(main, store, 5) == {0: 0, 1: "1", 2: 2, 3: "3", 4: 4}
        assert keys(store) == [b"0", b"2", b"4", b"between"]
        # Once with them, once without: however many they are.
        assert calls == [[0, 1, 2, 3, 4], [0, 2, 4]]

        def fails(_writing: Writing, arguments: list[int]) -> list[outcome.Outcome[int]]:
            _writing.put("a", b"never", b"v")
            raise SomeFailed({place: KeyError() for place in range(len(arguments))})

        async def alone() -> None:
            with pytest.raises(KeyError):
                await store.write_together(fails, 1)

        trio.run(alone)
        assert keys(store) == [b"0", b"2", b"4", b"between"]


def test_cancelling_who_waits_does_not_lose_the_write(tmp_path: Path) -> None:
    async def main(store: Store) -> bool:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                with held_up(store):
                    nursery.start_soon(store.write, put(b"k"))
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
        return scope.cancelled_caught

    with open_here(tmp_path) as store:
        trio.run(main, store)
        assert keys(store) == [b"k"]


def test_a_future_cannot_be_cancelled_and_the_writer_lives_on(tmp_path: Path) -> None:
    def fails(_: Writing) -> None:
        raise ValueError("no")

    with open_here(tmp_path) as store:
        with held_up(store):
            done, failing = store.submit(put(b"k")), store.submit(fails)
            assert not done.cancel()
            assert not failing.cancel()
        done.result(30)
        with pytest.raises(ValueError, match="no"):
            failing.result(30)
        store.submit(put(b"later")).result(30)
        assert keys(store) == [b"k", b"later"]


def test_who_comes_when_too_many_wait_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(store_module, "QUEUED_WRITES", 3)
    with open_here(tmp_path) as store:
        with held_up(store):
            waiting = [store.submit(put(b"%d" % number)) for number in range(3)]
            with pytest.raises(OperationError, match="too much waits"):
                store.submit(put(b"more"))
        for one in waiting:
            one.result(30)
        assert keys(store) == [b"0", b"1", b"2"]


def test_a_closed_store_says_so_and_has_done_what_waited(tmp_path: Path) -> None:
    store = open_here(tmp_path)
    waiting = [store.submit(put(b"%d" % number)) for number in range(9)]
    store.close()
    store.close()
    assert all(one.done() for one in waiting)
    with pytest.raises(OperationError, match="closed"):
        store.submit(put(b"k"))
    with pytest.raises(OperationError, match="closed"), store.read():
        pass
    with open_here(tmp_path) as again:
        assert len(keys(again)) == 9


# ---------------------------------------------------------------- readers, and the map


def test_readers_see_one_state_and_block_nobody(tmp_path: Path) -> None:
    with open_here(tmp_path) as store:
        store.submit(put(b"1")).result(30)
        with store.read() as tables:
            store.submit(put(b"2")).result(30)
            assert [key for key, _ in tables.items("a")] == [b"1"]
            with store.read() as newer:
                assert newer.count("a") == 2


def test_the_map_grows_when_the_last_reader_has_left(tmp_path: Path) -> None:
    with open_here(tmp_path, map_bytes=1 << 20) as store:
        store.submit(put(b"first", b"1" * 1000)).result(30)
        with store.read() as tables:
            # Larger than what the map is made with at least.
            large = store.submit(put(b"large", b"2" * (40 << 20)))
            with pytest.raises(TimeoutError):
                large.result(0.2)
            assert tables.get("a", b"first") == b"1" * 1000
            assert tables.get("a", b"large") is None
        large.result(60)
        with store.read() as tables:
            assert tables.get("a", b"large") == b"2" * (40 << 20)


def test_a_map_that_may_not_grow_refuses_and_loses_nothing(tmp_path: Path) -> None:
    options = {"map_bytes": 1 << 20, "map_maximum_bytes": 1 << 20}
    undone: list[int] = []

    def large(writing: Writing) -> None:
        writing.on_abort(lambda: undone.append(1))
        writing.put("a", b"large", b"2" * (40 << 20))

    with open_here(tmp_path, **options) as store:
        store.submit(put(b"first")).result(30)
        with pytest.raises(OperationError, match=r"its largest size, 16 MiB: .*keep_ticks_s"):
            store.submit(large).result(30)
        assert undone == [1]
        store.submit(put(b"second")).result(30)
        assert keys(store) == [b"first", b"second"]
    with open_here(tmp_path, **options) as store:
        assert keys(store) == [b"first", b"second"]


def test_what_is_deleted_gives_room_back_at_the_largest_size(tmp_path: Path) -> None:
    options = {"map_bytes": 1 << 20, "map_maximum_bytes": 1 << 20}
    stored: list[bytes] = []
    with open_here(tmp_path, **options) as store:
        while len(stored) < 40:
            key = b"%02d" % len(stored)
            try:
                store.submit(put(key, bytes(1 << 20))).result(30)
            except OperationError:
                break
            stored.append(key)
    assert 5 < len(stored) < 40
    # As the sentence says: the next start has the room that deleting takes.
    with open_here(tmp_path, **options) as store:
        for key in stored:
            store.submit(delete(key)).result(30)
        size_bytes = store.file_bytes
        for key in stored:
            store.submit(put(key, bytes(1 << 20))).result(30)
        assert keys(store) == stored
        assert store.file_bytes < size_bytes + (2 << 20)


def test_readers_that_overlap_do_not_hold_up_the_growth_of_the_map(tmp_path: Path) -> None:
    ended = threading.Event()
    entered = [threading.Semaphore(0), threading.Semaphore(0)]

    def read(store: Store, own: int) -> None:
        while not ended.is_set():
            with store.read() as tables:
                entered[own].release()
                # Leave when the other has come; where it may not, for a while.
                entered[1 - own].acquire(timeout=0.1)
                assert tables.count("b") == 0

    with open_here(tmp_path, map_bytes=1 << 20) as store:
        threads = [threading.Thread(target=read, args=(store, own)) for own in range(2)]
        for thread in threads:
            thread.start()
        try:
            store.submit(put(b"large", b"2" * (40 << 20))).result(20)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert keys(store) == [b"large"]


def test_who_reads_may_read_again_while_the_map_is_to_grow(tmp_path: Path) -> None:
    seen: list[int] = []

    def read_twice(store: Store) -> None:
        with store.read() as outer:
            large.append(store.submit(put(b"large", b"2" * (40 << 20))))
            while not store._is_growing:
                threading.Event().wait(0.001)
            with store.read() as inner:
                seen.extend((outer.count("a"), inner.count("a")))

    large: list[Future[None]] = []
    store = open_here(tmp_path, map_bytes=1 << 20)
    thread = threading.Thread(target=read_twice, args=(store,), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    large[0].result(30)
    assert seen == [0, 0]
    assert keys(store) == [b"large"]
    store.close()


# ---------------------------------------------------------------- the disk


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim"))


CHILD = """
import ctypes, errno, sys
from pathlib import Path
from core.errors import OperationError
from core.store import open_store
from core.store_files import Schema
shim = ctypes.CDLL(None)
store = open_store(Path(sys.argv[1]), tables=("a", "b"), schema=Schema(1))
def put(key, value=b"v"):
    return store.submit(lambda writing: writing.put("a", key, value)).result()
put(b"before")
"""


def run_child(shim: Path, folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    log = folder.with_suffix(".log")
    return subprocess.run(
        [sys.executable, "-c", CHILD + code, str(folder)],
        env=shim_environment(shim, folder, log),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("error", ["errno.ENOSPC", "-1"], ids=["ENOSPC", "a short write"])
def test_a_full_disk_refuses_and_loses_nothing(shim: Path, tmp_path: Path, error: str) -> None:
    folder = tmp_path / "store"
    done = run_child(
        shim,
        folder,
        f"""
shim.disk_shim_full(1)
shim.disk_shim_fail({Fail.WRITE:d}, 1, {error}, 1)
for _ in range(3):
    try:
        put(b"refused", b"x" * 100_000)
    except OperationError as refusal:
        print(refusal)
shim.disk_shim_full(0)
put(b"room again", b"x" * 100_000)
print("usable")
store.close()
""",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the disk is full") == 3
    assert done.stdout.endswith("usable\n")
    with open_here(folder) as store:
        assert keys(store) == [b"before", b"room again"]
    assert verify(str(folder)) == []


@pytest.mark.parametrize(
    ("what", "error"),
    [
        (Fail.SYNC, "errno.EIO"),
        (Fail.SYNC, "errno.ENOSPC"),
        (Fail.DSYNC, "errno.EIO"),
        (Fail.DSYNC, "errno.ENOSPC"),
        (Fail.WRITE, "errno.EIO"),
    ],
)
def test_a_sync_that_fails_ends_the_process_at_once(
    shim: Path, tmp_path: Path, what: Fail, error: str
) -> None:
    folder = tmp_path / "store"
    # Once only: whoever tried again would be told that all is well.
    done = run_child(
        shim,
        folder,
        f"""
shim.disk_shim_fail({what:d}, 1, {error}, 0)
try:
    put(b"lost")
finally:
    print("answered")
""",
    )
    assert done.returncode == EXIT_STORAGE == 74
    assert "can't be made durable" in done.stderr
    assert done.stdout == ""
    records = read_log(folder.with_suffix(".log"))
    failed = [index for index, one in enumerate(records) if one.kind is Kind.FAILED]
    assert len(failed) == 1
    assert records[failed[0]].offset == what
    after = {one.kind for one in records[failed[0] :]}
    # LMDB itself puts the old meta page back into the page cache.
    assert after <= {Kind.FAILED, Kind.WRITE}, after
    with open_here(folder) as store:
        assert keys(store) == [b"before"]


def test_an_answer_follows_the_sync_that_holds_it(shim: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    done = run_child(
        shim,
        folder,
        """
for number in range(20):
    put(b"unique-%03d" % number)
    shim.disk_shim_note(b"unique-%03d" % number)
""",
    )
    assert done.returncode == 0, done.stderr
    records = read_log(folder.with_suffix(".log"))
    acknowledged = 0
    for index, one in enumerate(records):
        if one.kind is not Kind.NOTE:
            continue
        acknowledged += 1
        written = next(
            place
            for place, other in enumerate(records)
            if other.kind is Kind.WRITE and one.data in other.data
        )
        kinds = [other.kind for other in records[written:index]]
        assert kinds.index(Kind.SYNC) < kinds.index(Kind.DSYNC_END)
    assert acknowledged == 20


# ---------------------------------------------------------------- opening


def test_two_processes_on_one_folder(tmp_path: Path) -> None:
    with open_here(tmp_path):
        with pytest.raises(OperationError, match=rf"in use by another process \({os.getpid()}\)"):
            open_here(tmp_path)
        code = (
            "import sys; from pathlib import Path; from core.store import Schema, open_store\n"
            "open_store(Path(sys.argv[1]), tables=('a',), schema=Schema(1))"
        )
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert other.returncode == 1
        assert f"OperationError: {tmp_path} is in use by another process ({os.getpid()})" in (
            other.stderr
        )
    open_here(tmp_path).close()


def filled(folder: Path) -> bytes:
    with open_here(folder) as store:
        for number in range(50):
            store.submit(put(b"%03d" % number, b"x" * 3000)).result(30)
    return (folder / DATA_FILE).read_bytes()


@pytest.mark.parametrize("kept", [0, 1, 100, 4096, 5000, 8192, 12288, -4096, -1])
def test_a_file_that_was_cut(tmp_path: Path, kept: int) -> None:
    whole = filled(tmp_path)
    (tmp_path / DATA_FILE).write_bytes(whole[:kept])
    with pytest.raises(OperationError, match=r"data\.mdb is damaged .* restore the last backup"):
        open_here(tmp_path)
    assert (tmp_path / DATA_FILE).read_bytes() == whole[:kept]
    (tmp_path / DATA_FILE).write_bytes(whole)
    with open_here(tmp_path) as store:
        assert len(keys(store)) == 50


@pytest.mark.parametrize("length", [1, 4096, 100_000])
def test_a_file_of_garbage(tmp_path: Path, length: int) -> None:
    garbage = random.Random(length).randbytes(length)
    (tmp_path / DATA_FILE).write_bytes(garbage)
    with pytest.raises(OperationError, match="damaged"):
        open_here(tmp_path)
    assert (tmp_path / DATA_FILE).read_bytes() == garbage


def test_a_file_without_pages_that_nobody_needs_is_not_cut(tmp_path: Path) -> None:
    """LMDB leaves such a file, if it is killed in the wrong moment: its last pages are free."""
    chance = random.Random(11)
    with lmdb.open(str(tmp_path), map_size=1 << 30, max_dbs=4, sync=False) as environment:
        handles = [environment.open_db(name) for name in (b"meta", b"a", b"b")]
        with environment.begin(write=True) as transaction:
            transaction.put(b"schema", b"\1", db=handles[0])
        for _ in range(2000):
            with environment.begin(write=True) as transaction:
                for _ in range(chance.randrange(1, 30)):
                    key = b"%03d" % chance.randrange(200)
                    if chance.random() < 0.3:
                        transaction.delete(key, db=handles[1])
                    else:
                        size = chance.choice([10, 1000, 5000, 50_000])
                        transaction.put(key, b"x" * size, db=handles[1])
            pages_bytes = (environment.info()["last_pgno"] + 1) * 4096
            if (tmp_path / DATA_FILE).stat().st_size < pages_bytes:
                break
        else:
            pytest.fail("no such file came about")
        count = environment.begin().stat(handles[1])["entries"]
    with open_here(tmp_path) as store:
        assert len(keys(store)) == count
        store.submit(put(b"k")).result(30)
        assert store.file_bytes >= pages_bytes


def test_a_file_has_all_of_its_pages_after_each_commit(tmp_path: Path) -> None:
    chance = random.Random(11)

    def write(writing: Writing) -> None:
        for _ in range(chance.randrange(1, 30)):
            key = b"%03d" % chance.randrange(200)
            if chance.random() < 0.3:
                writing.delete("a", key)
            else:
                writing.put("a", key, b"x" * chance.choice([10, 1000, 5000, 50_000]))

    with open_here(tmp_path) as store:
        for _ in range(300):
            store.submit(write).result(30)
            pages = store._environment.info()["last_pgno"] + 1
            assert store.file_bytes >= pages * store._environment.stat()["psize"]


def test_a_file_of_a_newer_version_stays_as_it_is(tmp_path: Path) -> None:
    open_store(tmp_path, tables=("a",), schema=Schema(7)).close()
    before = (tmp_path / DATA_FILE).read_bytes()
    with pytest.raises(OperationError, match="of version 7, and this program knows up to 1"):
        open_here(tmp_path)
    assert (tmp_path / DATA_FILE).read_bytes() == before


def test_migrations_lead_from_version_to_version(tmp_path: Path) -> None:
    steps: list[int] = []

    def step(number: int):
        def migrate(writing: Writing) -> None:
            steps.append(number)
            writing.put("a", b"last step", b"%d" % number)

        return migrate

    with open_here(tmp_path) as store:
        store.submit(put(b"k")).result(30)
    to_three = Schema(3, {1: step(1), 2: step(2)})
    for _ in range(2):
        with open_here(tmp_path, schema=to_three) as store:
            assert steps == [1, 2]
            with store.read() as tables:
                assert tables.get("a", b"last step") == b"2"
                assert tables.get("a", b"k") == b"v"


def test_a_migration_that_needs_more_room_has_the_map_grow(tmp_path: Path) -> None:
    def migrate(writing: Writing) -> None:
        writing.put("c", b"large", bytes(40 << 20))

    def open_next(maximum_bytes: int) -> Store:
        return open_store(
            tmp_path,
            tables=("a", "b", "c"),
            schema=Schema(2, {1: migrate}),
            map_bytes=1 << 20,
            map_maximum_bytes=maximum_bytes,
        )

    with open_here(tmp_path) as store:
        store.submit(put(b"k")).result(30)
    with pytest.raises(OperationError, match=r"its largest size, 20 MiB"):
        open_next(20 << 20)
    with open_next(1 << 30) as store, store.read() as tables:
        assert tables.get("c", b"large") == bytes(40 << 20)
        assert tables.get("a", b"k") == b"v"
        store.submit(lambda writing: writing.put("c", b"k", b"v")).result(30)


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    def fails(writing: Writing) -> None:
        raise ValueError("no")

    with open_here(tmp_path) as store:
        store.submit(put(b"k")).result(30)
    with pytest.raises(ValueError, match="no"):
        open_here(tmp_path, schema=Schema(3, {1: put(b"half"), 2: fails}))
    with open_here(tmp_path) as store:
        assert keys(store) == [b"k"]


@pytest.mark.parametrize("name", [None, b"meta", b"blocks"])
def test_somebody_elses_file_stays_as_it_is(tmp_path: Path, name: bytes | None) -> None:
    with lmdb.open(str(tmp_path), max_dbs=4) as environment:
        table = environment.open_db(name)
        with environment.begin(write=True) as transaction:
            transaction.put(b"theirs", b"v", db=table)
    before = (tmp_path / DATA_FILE).read_bytes()
    with pytest.raises(OperationError, match="no ledger's"):
        open_here(tmp_path)
    assert (tmp_path / DATA_FILE).read_bytes() == before


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OperationError, match="can't be used"):
        open_here(tmp_path / "file")


def test_a_store_that_has_lost_its_file_is_not_made_anew(tmp_path: Path) -> None:
    with open_here(tmp_path / "a") as store:
        store.submit(put(b"k")).result(30)
    (tmp_path / "a" / DATA_FILE).rename(tmp_path / "aside")
    before = sorted(os.listdir(tmp_path / "a"))
    for _ in range(2):
        with pytest.raises(OperationError, match=r"data\.mdb is gone; .* empty ledger, move the"):
            open_here(tmp_path / "a")
    assert sorted(os.listdir(tmp_path / "a")) == before
    # What the sentence says: put it back, or move the folder away.
    (tmp_path / "aside").rename(tmp_path / "a" / DATA_FILE)
    with open_here(tmp_path / "a") as store:
        assert keys(store) == [b"k"]
    (tmp_path / "a").rename(tmp_path / "b")
    with open_here(tmp_path / "a") as store:
        assert keys(store) == []


def test_a_first_start_that_ended_behind_its_lock_is_done_again(tmp_path: Path) -> None:
    lock_folder(tmp_path).release()
    assert os.listdir(tmp_path) == ["writer.lock"]
    with open_here(tmp_path) as store:
        assert keys(store) == []


def test_a_new_store_that_was_broken_off_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / NEW_FILE).write_bytes(b"half")
    with open_here(tmp_path) as store:
        assert isinstance(store, Store)
        with store.read() as tables:
            assert type(tables) is Tables
    assert not list(tmp_path.glob(f"{NEW_FILE}*"))


def test_a_view_that_was_left_takes_no_readers_place(tmp_path: Path) -> None:
    with open_store(tmp_path / "store", tables=("a",), schema=Schema(1)) as store:
        left = []
        for _ in range(500):
            with store.read() as tables:
                left.append(tables)
        with store.read() as tables:
            assert tables.get("a", b"key") is None
