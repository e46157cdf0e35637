from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from billing.book import Book

ROW: np.dtype[Any]
SLICE_S: int
IDLE_SLICE_S: int
IDLE_S: int
UNLIMITED_S: int
SESSION_BLOCK: int
MEGABYTE: int
ROW_CHARGE_MAXIMUM: int
PRICE_MAXIMUM: int
TICK_CHARGE_MAXIMUM: int
FREE: int
LIVE: int
WARNED: int
STOPPED: int
NO_SLOT: int
NO_MONEY: int

class Tick:
    rows: NDArray[np.void]
    credits: dict[int, int]
    granted: tuple[NDArray[np.uint32], NDArray[np.uint32]]
    warned: NDArray[np.uint32]
    stopped: NDArray[np.uint32]
    changed: NDArray[np.void]

class Meter:
    def __init__(self, book: Book, capacity: int) -> None: ...
    @property
    def book(self) -> Book: ...
    @property
    def capacity(self) -> int: ...
    @property
    def live(self) -> int: ...
    @property
    def used(self) -> int: ...
    def slots(self) -> list[int]: ...
    def paid_by(self, account: int) -> list[int]: ...
    @property
    def dirty(self) -> NDArray[np.uint8]: ...
    @property
    def columns(self) -> dict[str, NDArray[Any]]: ...
    def open(
        self, account: int, into: int, price_second: int, price_megabyte: int, now_s: int
    ) -> int: ...
    def change(
        self, slot: int, into: int, price_second: int, price_megabyte: int, now_s: int
    ) -> Any: ...
    def reassign(self, slots: Sequence[int], account: int, now_s: int) -> Any: ...
    def let_go(self, slots: Sequence[int]) -> Any: ...
    def undo_let_go(self, before: Any) -> None: ...
    def undo_segments(self, before: Any) -> None: ...
    def close(self, slot: int) -> None: ...
    def tick(
        self,
        slots: NDArray[np.uint32],
        active_seconds: NDArray[np.uint64],
        relayed_bytes: NDArray[np.uint64],
        now_s: int,
    ) -> Tick: ...
    def undo(self, tick: Tick) -> None: ...
    def restore(
        self, slots: NDArray[np.uint32], accounts: NDArray[np.uint32], into: NDArray[np.uint32]
    ) -> None: ...
    def replay(
        self,
        rows: NDArray[np.void],
        credits: Mapping[int, int],
        entry: int,
        account_as_of: NDArray[np.uint64],
        session_as_of: NDArray[np.uint64],
    ) -> None: ...
