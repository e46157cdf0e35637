"""kill -9 at any moment, and clocks that jump: nothing acknowledged is lost, nothing done twice."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from billing.charging import Charging
from billing.ledger import ISSUE, LmdbLedger, open_ledger
from billing.money import J
from billing.transfers import Kind, Result, Transfer
from core.clock import VirtualClock
from core.store import Store
from core.tables import Writing
from core.units import NS_PER_S
from tests.support.ledger_audit import Audit, Told
from tests.support.ledger_process import LINES, open_small
from tests.support.sms_world import ALICE, open_world

ROOT = Path(__file__).parents[2]
KILLS = 200
NEVER = 1 << 30
"""As a number of commits."""
HOUR_S = 3600


@contextlib.contextmanager
def forking_process() -> Iterator[subprocess.Popen[str]]:
    """It has imported all there is, so that each of its children works at once."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.ledger_process"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


def run_and_kill(
    process: subprocess.Popen[str], folder: Path, turn: int, messages: int, after_s: float
) -> list[dict[str, Any]]:
    """Have a child work, and kill it so long after it has told so much: the machine may be as busy
    as it likes. Returns what it has told."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"folder": str(folder), "round": turn}) + "\n")
    process.stdin.flush()
    child = json.loads(process.stdout.readline())["started"]
    told = [json.loads(process.stdout.readline()) for _ in range(messages)]
    assert not any("ended" in message for message in told), "it has ended by itself"
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    while "ended" not in (message := json.loads(process.stdout.readline())):
        told.append(message)
    assert message["ended"] == signal.SIGKILL, "it has ended by itself"
    return told


def test_200_kills(tmp_path: Path) -> None:
    chance = random.Random(200)
    audit, all_told = Audit(), Told()
    recovered = killed_early = 0
    with forking_process() as process:
        for turn in range(KILLS):
            # The first one sets up; others are killed while they open and recover, too.
            wanted = 60
            if turn:
                wanted = 0 if chance.random() < 0.25 else chance.randint(1, 60)
            messages = run_and_kill(process, tmp_path, turn, wanted, 0.008 * chance.random())
            killed_early += not messages
            told = Told()
            for message in messages:
                told.hear(message, turn)
                all_told.hear(message, turn)
            ledger = open_small(tmp_path)
            try:
                audit.check(ledger)
                told.check(audit, ledger)
                if chance.random() < 0.5:
                    recovered += audit.recover(ledger)
                    told.check_repetition(ledger)
                    audit.check(ledger)
            finally:
                # Without a checkpoint, for the most part.
                (ledger if chance.random() < 0.1 else ledger.store).close()
    with open_small(tmp_path) as ledger:
        audit.recover(ledger)
        all_told.check(audit, ledger)
        all_told.check_repetition(ledger)
        audit.check(ledger)
    # Or the test would have tested nothing.
    assert killed_early > 5
    assert recovered > 50
    assert len(all_told.transfers) > 2000
    assert len(all_told.closed) > 50
    assert len({record.reason for record in audit.records.values()}) == 4


async def a_number_of_somebodys(folder: Path, clock: VirtualClock) -> str:
    """A number that has become a Telegram user's; a code that gives it to another one."""
    with open_world(folder, clock=clock) as world:
        for address in ("tg:5", "tg:6"):
            text = await world.told("LINK")
            code = text.split("Code ")[1][:9]
            if address == "tg:5":
                await world.give(ALICE, "10")
                await world.wallet.links.confirm(address, code)
    return code


@contextlib.contextmanager
def killed_after(store: Store, commits: int) -> Iterator[None]:
    """SIGKILL for this process once it knows that so many commits were made."""
    write, left = store.write, itertools.count(commits, -1)

    async def write_and_die(change: Callable[[Writing], Any]) -> Any:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return await write(change)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "write", write_and_die)
        yield


def test_a_number_that_passes_on_is_always_somebodys_whenever_it_is_killed(tmp_path: Path) -> None:
    kills = 0
    for commits in itertools.count():
        folder, clock = tmp_path / str(commits), VirtualClock()
        code = trio.run(a_number_of_somebodys, folder, clock)
        confirm = partial(confirm_and_look, folder, clock, code)
        child = os.fork()
        if not child:
            try:
                trio.run(confirm, commits)
            finally:
                os._exit(0)
        was_killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        kills += was_killed
        with open_world(folder, clock=clock) as world:
            owner, former = world.ledger.find(ALICE), world.ledger.find("tg:5")
            told = [event.to for event in world.events()]
        assert owner is not None
        assert told == ([] if owner == former else ["tg:5"])
        assert trio.run(confirm) == (True, 10 * J.unit, ["tg:5"])
        if not was_killed:
            break
    # Opening the account of who takes it, and the link, are two commits at least.
    assert kills >= 2


async def confirm_and_look(
    folder: Path, clock: VirtualClock, code: str, commits: int = NEVER
) -> tuple[bool, int, list[str]]:
    """Whether the number is the other user's then, what who had it has, and who was told."""
    with open_world(folder, clock=clock) as world:
        with killed_after(world.ledger.store, commits):
            account = await world.wallet.links.confirm("tg:6", code)
        is_linked = world.ledger.find(ALICE) == world.ledger.find("tg:6") == account
        return is_linked, world.balance("tg:5"), [event.to for event in world.events()]


# ---------------------------------------------------------------- several entries in one commit


Asks = Callable[[], Awaitable[object]]


async def in_one_commit(ledger: LmdbLedger, *asks: Asks) -> None:
    """Have them done in this order, by one commit."""
    begun, go = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def wait(_: Writing) -> None:
        token.run_sync_soon(begun.set)
        assert go.wait(30)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.store.write, wait)
        await begun.wait()
        for ask in asks:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
        go.set()


def test_a_block_that_changes_after_it_was_stored_in_the_same_commit(tmp_path: Path) -> None:
    """Each entry stores some of what has changed; the next one may change it again."""
    numbers = itertools.count(1)
    rounds = 12

    async def work(ledger: LmdbLedger, pairs: int) -> None:
        def credit() -> Awaitable[object]:
            identity = next(numbers).to_bytes(16, "big")
            return ledger.transfer([Transfer(identity, ISSUE, 6, 1)])

        # Entries that change no balance stand between, and at the end: what they leave out of
        # what a start has to replay is not replayed.
        idle = partial(ledger.freeze, 7, False)
        asks: list[Asks] = [credit, idle]
        await in_one_commit(ledger, *(pairs * asks))
        await idle()

    audit = Audit()
    for count in range(rounds):
        ledger = open_small(tmp_path)
        while ledger.book.count < 8:
            trio.run(ledger.open_account)
        audit.check(ledger)
        # Blocks are stored now and then: of so many lengths, one has it at its beginning.
        for pairs in range(1, count + 1):
            trio.run(work, ledger, pairs)
        ledger.store.close()
    with open_small(tmp_path) as ledger:
        audit.check(ledger)
        assert ledger.balance(6, J).posted == next(numbers) - 1


def test_a_commit_that_fails_gives_back_what_a_tick_has_charged(tmp_path: Path) -> None:
    """Another write of the commit fails after it has written: all of it is done once more."""

    def fails(writing: Writing) -> None:
        writing.put("outbox", b"half", b"v")
        raise ValueError("no")

    async def work(ledger: LmdbLedger) -> None:
        account = await ledger.open_account()
        await ledger.transfer([Transfer(b"credit".ljust(16), ISSUE, account, 100 * J.unit)])
        charging = Charging(ledger)
        opened = await charging.open("first", LINES["voice"], account)
        assert opened is not None
        slot = opened.info.slot

        def tick() -> Awaitable[object]:
            counters = np.array([5], np.uint64), np.array([0], np.uint64)
            return charging.tick(np.array([slot], np.uint32), *counters, {slot: "hang-up"})

        async def refused() -> None:
            with pytest.raises(ValueError, match="no"):
                await ledger.store.write(fails)

        second = partial(charging.open, "second", LINES["voice"], account)
        await in_one_commit(ledger, tick, second, refused)
        assert ledger.meter.live == 1
        balance = ledger.balance(account, J)
        assert balance.posted == 95 * J.unit
        assert balance.held == 30 * J.unit

    with open_small(tmp_path) as ledger:
        trio.run(work, ledger)
        audit = Audit()
        audit.check(ledger)
        assert [record.cost for record in audit.records.values()] == [5 * J.unit]


def test_two_ticks_of_one_commit_tell_of_a_new_session_once(tmp_path: Path) -> None:
    async def work(ledger: LmdbLedger) -> None:
        account = await ledger.open_account()
        await ledger.transfer([Transfer(b"credit".ljust(16), ISSUE, account, 100 * J.unit)])
        charging = Charging(ledger)
        opened = await charging.open("first", LINES["voice"], account)
        assert opened is not None
        slots = np.array([opened.info.slot], np.uint32)

        def tick(seconds: int) -> Callable[[], Awaitable[object]]:
            counters = np.array([seconds], np.uint64), np.array([0], np.uint64)
            return lambda: charging.tick(slots, *counters, {})

        await in_one_commit(ledger, tick(5), tick(9))

    ledger = open_small(tmp_path)
    trio.run(work, ledger)
    ledger.store.close()
    with open_small(tmp_path) as ledger:
        audit = Audit()
        audit.check(ledger)
        assert audit.recover(ledger) == 1
        assert [record.cost for record in audit.records.values()] == [9 * J.unit]


# ---------------------------------------------------------------- the wall clock


class JumpingClock(VirtualClock):
    """A clock whose wall time is set by somebody."""

    __slots__ = ("jumped_s",)

    def __init__(self) -> None:
        super().__init__()
        self.jumped_s = 0

    def unix_s(self) -> float:
        return super().unix_s() + self.jumped_s


def open_jumping(folder: Path, clock: JumpingClock) -> LmdbLedger:
    return open_ledger(folder, clock, sessions=64, map_bytes=1 << 28)


async def pending_for(ledger: LmdbLedger, name: bytes, timeout_s: int) -> bytes:
    identity = name.ljust(16)
    transfer = Transfer(identity, ISSUE, 6, J.unit, kind=Kind.PENDING, timeout_s=timeout_s)
    assert await ledger.transfer([transfer]) == [Result.DONE]
    return identity


def is_pending(ledger: LmdbLedger, identity: bytes) -> bool:
    trio.run(ledger.transfer, [])
    return identity in ledger.book.pending


def ends_in_thirty_seconds(ledger: LmdbLedger, clock: JumpingClock, identity: bytes) -> None:
    clock.advance_s(29)
    assert is_pending(ledger, identity)
    clock.advance_s(2)
    assert not is_pending(ledger, identity)
    Audit().check(ledger)


@pytest.mark.parametrize("jump_s", [-HOUR_S, HOUR_S])
def test_the_wall_clock_jumps_while_running(tmp_path: Path, jump_s: int) -> None:
    clock = JumpingClock()
    with open_jumping(tmp_path, clock) as ledger:
        trio.run(ledger.open_account)
        identity = trio.run(pending_for, ledger, b"30 s", 30)
        clock.jumped_s += jump_s
        assert is_pending(ledger, identity)
        ends_in_thirty_seconds(ledger, clock, identity)


def test_the_wall_clock_was_set_back_before_a_start(tmp_path: Path) -> None:
    clock = JumpingClock()
    ledger = open_jumping(tmp_path, clock)
    trio.run(ledger.open_account)
    clock.advance_s(5)
    identity = trio.run(pending_for, ledger, b"30 s", 30)
    before_ns = ledger.clock.now_ns()
    ledger.store.close()
    clock.jumped_s = -HOUR_S
    with open_jumping(tmp_path, clock) as ledger:
        assert ledger.clock.now_ns() >= before_ns
        ends_in_thirty_seconds(ledger, clock, identity)


def test_the_wall_clock_was_set_forward_and_back_again(tmp_path: Path) -> None:
    clock = JumpingClock()
    chance = random.Random(4)
    ledger = open_jumping(tmp_path, clock)
    trio.run(ledger.open_account)
    audit = Audit()
    last_ns = 0
    waiting: dict[bytes, int] = {}
    for number in range(120):
        identity = trio.run(pending_for, ledger, b"%d" % number, 30)
        now_ns = ledger.clock.now_ns()
        assert now_ns >= last_ns
        waiting[identity] = now_ns + 30 * NS_PER_S
        clock.jumped_s += chance.choice((-HOUR_S, 0, HOUR_S))
        clock.advance_s(chance.choice((0, 1, 10)))
        if chance.random() < 0.3:
            (ledger if chance.random() < 0.5 else ledger.store).close()
            ledger = open_jumping(tmp_path, clock)
        trio.run(ledger.transfer, [])
        last_ns = ledger.clock.now_ns()
        assert last_ns >= now_ns
        for one, expires_ns in waiting.items():
            assert (one in ledger.book.pending) == (expires_ns > last_ns)
        audit.check(ledger)
    ledger.close()
    expired = [one for one in audit.done.values() if one["kind"] == Kind.EXPIRE_PENDING]
    assert len(expired) > 10
