"""Processes that are killed at random moments of the work that passes through them, and started
again at once."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from tests.support.node import montana_environment

STOP_S = 60
POLL_S = 0.05
LATE_S = 0.1
"""A kill comes so long after the answer that it waits for, at most."""


class Progress:
    """How much work has been done."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = trio.Event()

    def step(self) -> None:
        """One more."""
        self.count += 1
        self._changed.set()
        self._changed = trio.Event()

    async def reach(self, count: int) -> None:
        """Return when so much is done."""
        while self.count < count:
            await self._changed.wait()


class KilledProcess:
    """A process of ours; its log goes on from one life to the next.

    Attributes:
        kills: when it was killed, by `time.monotonic`.

    Args:
        started: what its log says as soon as it ends cleanly by SIGTERM.
        on_killed: called after each kill, before it is started again.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        started: str,
        on_killed: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.kills: list[float] = []
        self._command = command
        self._started = started
        self._on_killed = on_killed
        self._log = folder / f"{name}.log"
        self._log_start = 0
        self._start()

    async def kill_now_and_then(
        self, kills: int, progress: Progress, work: int, chance: random.Random
    ) -> None:
        """Kill it `kills` times while `work` is done: once in each of as many equal parts of it,
        and not in the one behind them."""
        part = work / (kills + 1)
        for number in range(kills):
            await progress.reach(round(part * (number + chance.random())))
            await trio.sleep(chance.uniform(0, LATE_S))
            self.kills.append(time.monotonic())
            self._process.kill()
            await trio.to_thread.run_sync(self._process.wait)
            self._on_killed()
            self._start()

    async def stop(self) -> None:
        """End it by SIGTERM; it has to end cleanly, and to have gone wrong in no life."""
        with trio.fail_after(STOP_S):
            while self._started not in self._log.read_text()[self._log_start :]:
                await trio.sleep(POLL_S)
        self._process.terminate()
        code = await trio.to_thread.run_sync(lambda: self._process.wait(STOP_S))
        log = self._log.read_text()
        assert code == 0, f"{self.name} has ended with {code}:\n{log[-4_000:]}"
        assert "Traceback" not in log, log[log.index("Traceback") :][:4_000]

    def abandon(self) -> None:
        """End it however it is."""
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        with self._log.open("a") as log:
            self._log_start = len(self._log.read_text())
            self._process = subprocess.Popen(
                self._command,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=montana_environment(),
            )
