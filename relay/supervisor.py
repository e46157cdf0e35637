"""Starts the bridges that are configured, each in a process of its own, and starts them again when
they end: one that crashes takes nothing with it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from core.clock import Clock
from core.log import log_event
from core.units import NS_PER_S
from relay.bridge_board import BridgeBoard

RESTART_FIRST_S: Final = 1.0
RESTART_LAST_S: Final = 60.0
STEADY_S: Final = 60.0
"""Whose process has lived for so long begins anew with the shortest delay."""
STOP_TIMEOUT_S: Final = 5.0
EXIT_HELD: Final = 3
"""Of a bridge that another process is already."""
_NODES_SECRETS: Final = frozenset({"ROOM_TOKEN"})
"""Of the environment; bridges have no use for them."""

_log = logging.getLogger("montana.bridges")


class Backoff:
    """For how long a bridge is left alone that has ended: each time twice as long, until it has
    lived for a while."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun_ns = 0
        self._delay_s = RESTART_FIRST_S

    def begin(self) -> None:
        """Its process is about to be started."""
        self._begun_ns = self._clock.monotonic_ns()

    def end(self, code: int | str) -> float:
        """Its process has ended, with `code`; seconds until it is to be started again."""
        if code == EXIT_HELD:
            # It runs; there is nothing to hurry for.
            return RESTART_LAST_S
        if self._clock.monotonic_ns() - self._begun_ns >= STEADY_S * NS_PER_S:
            self._delay_s = RESTART_FIRST_S
        delay_s, self._delay_s = self._delay_s, min(2 * self._delay_s, RESTART_LAST_S)
        return delay_s


class Supervisor:
    """The processes of a node's bridges.

    Args:
        config_path: the file that the bridges read as well.
    """

    def __init__(
        self, names: Sequence[str], config_path: Path, board: BridgeBoard, clock: Clock
    ) -> None:
        self._names = names
        self._config_path = config_path.absolute()
        self._board = board
        self._clock = clock

    async def run(self) -> None:
        """Keep them running until cancelled; none lives when this returns."""
        async with trio.open_nursery() as nursery:
            for name in self._names:
                nursery.start_soon(self._keep, name)

    async def _keep(self, name: str) -> None:
        backoff = Backoff(self._clock)
        while True:
            backoff.begin()
            try:
                code: int | str = await self._run_once(name)
            except OSError as error:
                # For want of memory or descriptors, say: the node goes on.
                code = error.strerror or str(error)
            delay_s = backoff.end(code)
            if code == EXIT_HELD:
                self._board.process(name, "runs elsewhere")
            else:
                self._board.process(name, f"ended with {code}, starts again")
                log_event(
                    _log,
                    logging.WARNING,
                    "a bridge has ended; it is started again",
                    bridge=name,
                    code=code,
                    in_s=delay_s,
                )
            self._board.restarted(name)
            await trio.sleep(delay_s)

    async def _run_once(self, name: str) -> int:
        """Run the process of a bridge until it ends; its exit code."""
        command = [
            *(sys.executable, "-m", "bridges", name),
            *("--config", str(self._config_path), "--parent", str(os.getpid())),
        ]
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={key: value for key, value in os.environ.items() if key not in _NODES_SECRETS},
        )
        self._board.process(name, "starting", process.pid)
        try:
            return await process.wait()
        finally:
            with trio.CancelScope(shield=True):
                await _stop(process)


async def _stop(process: trio.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    with trio.move_on_after(STOP_TIMEOUT_S):
        await process.wait()
        return
    process.kill()
    await process.wait()
