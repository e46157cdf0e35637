"""The engines behind `billing.ledger.Ledger`, for tests of what all of them owe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from billing.ledger import Ledger, open_ledger
from billing.money import CURRENCIES
from core.clock import VirtualClock
from tests.support.model_ledger import ModelLedger

ENGINES = ("lmdb", "model")


@contextmanager
def open_engine(name: str, folder: Path, clock: VirtualClock) -> Iterator[Ledger]:
    """An empty ledger of that engine."""
    if name == "model":
        yield ModelLedger(clock)
        return
    with open_ledger(folder / "ledger", clock, map_bytes=1 << 26) as ledger:
        yield ledger


def everything(ledger: Ledger) -> dict[int, Any]:
    """All that is known of all accounts, to be compared with a later time."""
    return {
        info.number: (info, [ledger.balance(info.number, currency) for currency in CURRENCIES])
        for info in ledger.accounts(0, 1000)
    }
