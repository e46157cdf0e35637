"""Tables for terminals and documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Lines of cells under headings."""

    title: str
    headings: Sequence[str]
    lines: Sequence[Sequence[str]]

    def as_text(self) -> str:
        """For a terminal; the first column is flush left."""
        rows = [self.headings, *self.lines]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self.headings))]
        text = [self.title, ""]
        for row in rows:
            cells = [
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            text.append("  ".join(cells).rstrip())
        text.insert(3, "  ".join("-" * width for width in widths))
        return "\n".join(text)

    def as_markdown(self) -> str:
        """For a document."""
        marks = ["---"] + ["---:"] * (len(self.headings) - 1)
        rows = [self.headings, marks, *self.lines]
        return f"### {self.title}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows)
