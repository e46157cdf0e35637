"""The servers that signaling is measured on: the node, and an aiohttp server beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from bench.aiohttp_peer import HOST
from bench.servers import (
    MONTANA,
    START_TIMEOUT_S,
    bench_folder,
    free_port,
    fund,
    last_words,
    montana_command,
    node_configuration,
    spawn,
    stop,
)
from core.errors import OperationError
from core.limits import CALLS_PER_MINUTE_MAXIMUM, MESSAGES_PER_SECOND_MAXIMUM
from core.node_files import socket_path
from core.stun.address import Address

AIOHTTP: Final = "aiohttp"
ROOM_TOKEN: Final = "a token for benchmarks"
SIGNALING: Final = f"""\
messages_per_second = {MESSAGES_PER_SECOND_MAXIMUM}
message_burst = {MESSAGES_PER_SECOND_MAXIMUM}
rooms = "free"
room_token = "{ROOM_TOKEN}"
free_minutes_per_day = 0
free_people = 0
free_bytes_per_second = 0
calls_per_minute = {CALLS_PER_MINUTE_MAXIMUM}
"""
"""Every check that a page meets, with limits that no measurement reaches."""


def aiohttp_version() -> str:
    """The version of aiohttp that is installed."""
    return version(AIOHTTP)


class SignalingServer(NamedTuple):
    """A running server; `socket` is the node's own, of which its rival has none."""

    name: str
    address: Address
    pid: int
    socket: Path


@contextmanager
def running_signaling(name: str, payers: Sequence[str] = ()) -> Iterator[SignalingServer]:
    """Start the server of this name; its address is that of its pages. Stop it in the end.

    Args:
        payers: addresses of accounts that are to have money on the node.

    Raises:
        OperationError: it can't be started; says why.
    """
    with bench_folder() as folder:
        if name == MONTANA:
            turn = Address.from_text(HOST, free_port())
            config = folder / "node.toml"
            config.write_text(node_configuration(turn, signaling=SIGNALING))
            if payers:
                fund(folder, payers)
            command = montana_command(config)
        else:
            limits = [str(MESSAGES_PER_SECOND_MAXIMUM)] * 2
            command = [sys.executable, "-m", "bench.aiohttp_peer", *limits]
        # Nothing but the node is installed beside the interpreter; the bench lies in its checkout.
        checkout = str(Path(__file__).parent.parent)
        process = spawn(command, folder, {**os.environ, "PYTHONPATH": checkout})
        try:
            if (pages := _pages(process, folder)) is not None:
                yield SignalingServer(name, pages, process.pid, socket_path(folder / "data"))
            if process.poll() is not None:
                raise OperationError(
                    f"{name} has ended by itself with status {process.returncode}:\n"
                    f"{last_words(folder)}"
                )
        finally:
            stop(process)


def _pages(process: subprocess.Popen[bytes], folder: Path) -> Address | None:
    """Where a server says that its pages are; None when it has ended without a word of it."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None:
        said = (folder / "output").read_text()
        if said.endswith("\n"):
            url = urlsplit(json.loads(said.splitlines()[0])["http"])
            assert url.hostname is not None
            assert url.port is not None
            return Address.from_text(url.hostname, url.port)
        if time.monotonic() > deadline_s:
            raise OperationError(f"the server has not begun in {START_TIMEOUT_S:.0f} s")
        time.sleep(0.05)
    return None
