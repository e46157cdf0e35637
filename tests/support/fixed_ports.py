"""For nodes with the ports that `montana up --dev` has: one at a time, whoever starts them."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def fixed_ports() -> Iterator[None]:
    """Wait until no other test has them."""
    with (Path(tempfile.gettempdir()) / "montana-test-fixed-ports").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
