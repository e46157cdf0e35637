"""What the tests of each engine share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from billing.ledger import Ledger
from core.clock import VirtualClock
from tests.support.ledgers import ENGINES, open_engine


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(params=ENGINES)
def ledger(request: pytest.FixtureRequest, tmp_path: Path, clock: VirtualClock) -> Iterator[Ledger]:
    """An empty ledger of each engine."""
    with open_engine(request.param, tmp_path, clock) as ledger:
        yield ledger
