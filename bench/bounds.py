"""What must be reached where no coturn stands beside: rows with their bounds, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.servers import MONTANA
from bench.table import Table

REQUIRED = "required"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundRow:
    """One line of what must be reached.

    Attributes:
        name: what is measured.
        unit: of the two figures.
        beside: whose figure the other one is: what is required, or another system's.
        other, montana: the figures; the other one is None where it was not measured.
        ratio: how many times better Montana is, above 1 where it is; None where nobody knows.
        bound: what `ratio` must reach.
        sync_us: how long the disk took to make 4 KiB durable in the same run; None where no disk
            has a part in it.
        note: what the reader should know.
    """

    name: str
    unit: str
    beside: str
    other: float | None
    montana: float
    ratio: float | None
    bound: float
    sync_us: float | None = None
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the bound is reached."""
        return self.ratio is not None and self.ratio >= self.bound


def at_most(
    name: str, unit: str, bound: float, montana: float, sync_us: float | None, note: str = ""
) -> BoundRow:
    """A row whose figure must not be above `bound`."""
    return BoundRow(
        name=name,
        unit=unit,
        beside=REQUIRED,
        other=bound,
        montana=montana,
        ratio=bound / montana if montana else float("inf"),
        bound=1.0,
        sync_us=sync_us,
        note=note,
    )


def at_least(
    name: str, unit: str, bound: float, montana: float, sync_us: float | None, note: str = ""
) -> BoundRow:
    """A row whose figure must not be below `bound`."""
    return BoundRow(
        name=name,
        unit=unit,
        beside=REQUIRED,
        other=bound,
        montana=montana,
        ratio=montana / bound,
        bound=1.0,
        sync_us=sync_us,
        note=note,
    )


def bounds_table(title: str, rows: Sequence[BoundRow]) -> Table:
    """The rows, and whether each is met."""
    lines = [
        (
            row.name,
            _other(row),
            f"{row.montana:,.1f} {row.unit}",
            "" if row.ratio is None else f"{row.ratio:.2f}",
            f"{row.bound:.2f}",
            "" if row.sync_us is None else f"{row.sync_us / 1000:.2f} ms",
            _verdict(row) + (f" ({row.note})" if row.note else ""),
        )
        for row in rows
    ]
    headings = (
        "What must be reached",
        "beside",
        MONTANA,
        "times better",
        "at least",
        "the disk's sync",
        "met",
    )
    return Table(title=title, headings=headings, lines=lines)


def _other(row: BoundRow) -> str:
    if row.other is None:
        return f"{row.beside} not measured"
    return f"{row.other:,.1f} {row.unit}" + ("" if row.beside == REQUIRED else f" {row.beside}")


def _verdict(row: BoundRow) -> str:
    if row.ratio is None:
        return "not measured"
    return "yes" if row.met else "NO"
