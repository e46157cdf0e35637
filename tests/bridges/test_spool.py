"""The spool of a bridge: durable, once, bounded; under both event loops."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

import bridges.spool
from bridges.spool import Change, Spool, SpoolFull, open_spool
from core.errors import OperationError
from tests.support.node import ROOT

BACKENDS = ("trio", "asyncio")
KEPT_AFTER_A_KILL = """
import sys
from pathlib import Path
import anyio
from bridges.spool import open_spool

async def main():
    with open_spool(Path(sys.argv[1])) as spool:
        for number in range(1_000_000):
            await spool.put("received", f"{number:06}", b"text")
            print(number, flush=True)

anyio.run(main, backend="trio")
"""


def run(backend: str, use: Any, folder: Path, **options: Any) -> Any:
    async def main() -> Any:
        with open_spool(folder, **options) as spool:
            return await use(spool)

    return anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_was_put_is_there_after_a_restart(backend: str, tmp_path: Path) -> None:
    async def write(spool: Spool) -> None:
        assert await spool.put("received", "b", b"2")
        assert await spool.put("received", "a", b"1")
        assert await spool.put("sent", "a", b"3")
        assert not await spool.put("received", "a", b"another")

    async def read(spool: Spool) -> None:
        assert spool.items("received") == [("a", b"1"), ("b", b"2")]
        assert spool.items("received", limit=1) == [("a", b"1")]
        assert spool.items("sent") == [("a", b"3")]
        assert spool.items("sen") == []
        assert spool.get("received", "c") is None
        await spool.delete("received", "a")
        assert spool.items("received") == [("b", b"2")]

    run(backend, write, tmp_path / "spool")
    run(backend, read, tmp_path / "spool")
    assert (tmp_path / "spool").stat().st_mode & 0o77 == 0
    assert (tmp_path / "spool" / "data.mdb").stat().st_mode & 0o77 == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_many_at_once_one_is_first(backend: str, tmp_path: Path) -> None:
    async def write(spool: Spool) -> None:
        firsts: list[int] = []

        async def put(number: int) -> None:
            if await spool.put("received", f"{number % 10}", b"%d" % number):
                firsts.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(put, number)
        assert len(firsts) == 10
        for key, value in spool.items("received"):
            assert int(value) in firsts
            assert int(value) % 10 == int(key)

    run(backend, write, tmp_path)


def test_changes_of_one_call_are_one(tmp_path: Path) -> None:
    async def write(spool: Spool) -> None:
        await spool.put("received", "a", b"1")
        assert not await spool.change(
            Change("answered", "a", b"2"), Change("received", "a", b"3", if_new=True)
        )
        assert spool.get("answered", "a") is None
        assert await spool.change(Change("answered", "a", b"2"), Change("received", "a", None))
        assert spool.get("answered", "a") == b"2"
        assert spool.get("received", "a") is None

    run("trio", write, tmp_path)


def test_a_cancelled_writer_leaves_the_others_theirs(tmp_path: Path) -> None:
    async def write(spool: Spool) -> None:
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                tasks.start_soon(spool.put, "received", "b", b"2")
                scope.cancel()
                await spool.put("received", "a", b"1")
        assert spool.get("received", "b") == b"2"

    run("trio", write, tmp_path)


def test_who_is_stopped_before_it_has_stored_what_others_wait_for_says_so(tmp_path: Path) -> None:
    """As asyncio stops tasks, whatever shields them."""
    may_commit = threading.Event()

    class Held(Spool):
        def _commit(self, calls: Any) -> None:
            assert may_commit.wait(60)
            super()._commit(calls)

    async def main() -> None:
        with open_spool(tmp_path) as opened:
            spool = Held(opened._environment)
            first, stopped, other = [
                asyncio.create_task(spool.put("received", key, b"")) for key in "abc"
            ]
            while spool._open is None or len(spool._open.calls) < 2:
                await asyncio.sleep(0.001)
            stopped.cancel()
            with pytest.raises(OperationError, match="not stored"):
                await other
            may_commit.set()
            assert await first
            assert await spool.put("received", "c", b"")
            assert [key for key, _ in spool.items("received")] == ["a", "c"]

    asyncio.run(main())


def test_keys_of_any_length_are_kept_apart(tmp_path: Path) -> None:
    async def write(spool: Spool) -> None:
        long = "\u044f" * 4000
        assert await spool.put("received", long, b"1")
        assert await spool.put("received", long + "x", b"2")
        assert not await spool.put("received", long, b"3")
        assert spool.get("received", long + "x") == b"2"

    run("trio", write, tmp_path)


def test_a_full_spool_says_so_and_can_be_emptied(tmp_path: Path) -> None:
    async def write(spool: Spool) -> None:
        async def fill() -> None:
            for number in range(1_000):
                await spool.put("received", str(number), bytes(60_000))

        with pytest.raises(OperationError, match="takes no more"):
            await fill()
        before = spool.entries
        await spool.delete("received", "0")
        assert spool.entries == before - 1

    run("trio", write, tmp_path, map_bytes=1 << 20)

    async def few(spool: Spool) -> None:
        small = Spool(spool._environment, entries_maximum=spool.entries + 1)
        assert await small.put("sent", "a", b"")
        with pytest.raises(OperationError, match="entries"):
            await small.put("sent", "b", b"")
        # What takes one out may put one in.
        assert await small.change(Change("sent", "a", None), Change("sent", "b", b""))

    run("trio", few, tmp_path, map_bytes=1 << 20)


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    script = tmp_path / "writer.py"
    script.write_text(KEPT_AFTER_A_KILL)
    writer = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "spool")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert writer.stdout is not None
    for _ in range(100):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    last = int((writer.stdout.read().splitlines() or ["99"])[-1])
    writer.wait()

    async def read(spool: Spool) -> None:
        kept = {int(key) for key, _ in spool.items("received", limit=1_000_000)}
        assert kept >= set(range(last + 1))

    run("trio", read, tmp_path / "spool")


def test_what_has_happened_waits_for_a_disk_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridges.spool, "FULL_RETRY_S", 0.01)

    async def write(spool: Spool) -> None:
        small = Spool(spool._environment, entries_maximum=1)
        await small.put("sent", "a", b"")
        with pytest.raises(SpoolFull):
            await small.put("sent", "b", b"")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(small.change_at_last, Change("sent", "b", b""))
            await anyio.sleep(0.05)
            assert small.get("sent", "b") is None
            await small.delete("sent", "a")
        assert small.get("sent", "b") == b""

    run("trio", write, tmp_path)


def test_what_goes_wrong_in_a_commit_is_nobodys_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write(spool: Spool) -> None:
        def fail(*_: object) -> bool:
            raise MemoryError("none is left")

        monkeypatch.setattr(spool, "_do", fail)
        failures = 0

        async def put(key: str) -> None:
            nonlocal failures
            try:
                await spool.put("received", key, b"")
            except MemoryError:
                failures += 1

        async with anyio.create_task_group() as tasks:
            for key in "abc":
                tasks.start_soon(put, key)
        assert failures == 3

    run("trio", write, tmp_path)
