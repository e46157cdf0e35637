"""Calls through a relay whose core ticks metered sessions meanwhile: what their packets suffer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from bench.ledger_load import sync_us
from bench.path import Path as PacketPath
from bench.scenario import CHANNEL, Load, Measurement, Mode, measure_paths
from bench.servers import STOP_TIMEOUT_S, bench_folder
from bench.signaling_child import HOST
from bench.turn_client import open_socket
from core.errors import OperationError
from core.stun.address import Address

PACKETS_PER_SECOND: Final = 50
"""Of each side of a call: one in 20 ms, as of voice."""


class TickingRelay:
    """A running relay with open calls."""

    def __init__(self, process: subprocess.Popen[str], stack: ExitStack, calls: int) -> None:
        self._process = process
        server = Address(HOST.ip, self._hear())
        sockets = [stack.enter_context(open_socket(server)) for _ in range(2 * calls)]
        self._say([one.getsockname()[1] for one in sockets])
        self._hear()
        ends = [one.fileno() for one in sockets]
        self._paths = [
            PacketPath(here, there, send_channel=CHANNEL, receive_channel=CHANNEL)
            for pair in zip(ends[::2], ends[1::2], strict=True)
            for here, there in (pair, pair[::-1])
        ]
        self._load = Load(
            mode=Mode.CALL, allocations=2 * calls, rate=2.0 * calls * PACKETS_PER_SECOND
        )

    def measure(self, seconds: float) -> Measurement:
        """Have all talk for so long while nothing ticks."""
        return measure_paths(self._process.pid, self._paths, self._load, seconds)

    def measure_ticking(self, seconds: float) -> tuple[Measurement, list[float]]:
        """The same while the ledger ticks; and how long each tick took, in milliseconds."""
        self._write("tick")
        measured = self.measure(seconds)
        self._write("rest")
        return measured, self._hear()

    def check(self) -> None:
        """Every second of every session was charged once.

        Raises:
            OperationError: the relay says otherwise.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._hear()

    def _say(self, value: Any) -> None:
        self._write(json.dumps(value))

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise OperationError("the relay that ticks has failed; what it said stands above")
        return json.loads(line)


@contextmanager
def ticking_relay(sessions: int, calls: int) -> Iterator[tuple[TickingRelay, float]]:
    """A relay on the server's core with so many sessions to tick and so many calls; and how long
    the disk takes to make 4 KiB durable, in microseconds."""
    with bench_folder() as folder, ExitStack() as stack:
        disk_us = sync_us(folder)
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "bench.signaling_child", str(folder), str(sessions)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=Path(__file__).parent.parent,
                text=True,
            )
        )
        try:
            relay = TickingRelay(process, stack, calls)
            yield relay, disk_us
            relay.check()
            process.wait(STOP_TIMEOUT_S)
        finally:
            process.kill()
