"""Ports that are known beforehand."""

from __future__ import annotations

import contextlib
import fcntl
import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def fixed_ports() -> Iterator[None]:
    """For nodes with the ports that `montana up --dev` has: wait until no other test has them."""
    with (Path(tempfile.gettempdir()) / "montana-test-fixed-ports").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def free_port() -> int:
    """One that no connection is given by the kernel while nothing is bound to it."""
    while True:
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", random.randrange(20_000, 30_000)))
            return int(one.getsockname()[1])
