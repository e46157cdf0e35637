"""Histories: an account's transfers and sessions, each of which leads to the one before it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from billing import journal
from billing.journal import CallRecord, EntryKind
from billing.money import Currency
from billing.packing import unpack
from billing.tables import read_record
from billing.transfers import Transfer
from core.tables import Tables


class HistoryLine(NamedTuple):
    """A transfer as it was done, or a session as it ended; `place` leads to the line before it, see
    `Ledger.history`."""

    place: int
    time_ns: int
    transfer: Transfer | None
    record: CallRecord | None = None


class Latest(NamedTuple):
    """The last lines of an account's history.

    Attributes:
        settled: what all of its lines add up to by the first of these, in smallest units: its
            balance but for what its living sessions have cost so far. An account that sessions
            pay into has what they pay besides, which stands in none of its lines.
    """

    lines: list[HistoryLine]
    settled: dict[Currency, int]


class HistoryReader:
    """Reads histories in one transaction. An entry of call records is long and has many lines of an
    account: it is taken apart once, and of its records those that are asked for are decoded."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._records_entry = 0
        self._records: list[bytes] = []

    def is_line_untrusted(self, place: int, account: int) -> bool:
        """Whether the account's history has a line at `place`."""
        if not 0 < place < 2**63:
            return False
        entry, index = journal.split_place(place)
        kind = self._kind(entry)
        if kind == EntryKind.RECORDS:
            records = self._records_of(entry)
            return (
                index < len(records)
                and journal.decode_record_untrusted(records[index]).account == account
            )
        if kind != EntryKind.TRANSFERS:
            return False
        if index >= journal.transfer_count(self._tables, entry):
            return False
        stored = read_record(self._tables, place)
        return account in (stored["debit"], stored["credit"])

    def line_at(self, place: int, account: int) -> tuple[HistoryLine, int]:
        """The line at `place` of an account's history, and the place of the one before it."""
        entry, index = journal.split_place(place)
        if self._kind(entry) == EntryKind.RECORDS:
            record = journal.decode_record_untrusted(self._records_of(entry)[index])
            return HistoryLine(place, record.closed_ns, None, record), record.previous
        stored = read_record(self._tables, place)
        line = HistoryLine(place, int(stored["time_ns"]), unpack(stored))
        return line, _previous(stored, account)

    def _kind(self, entry: int) -> int | None:
        first = self._tables.part(journal.LOG, journal.entry_key(entry), 0, 1)
        return first[0] if first else None

    def _records_of(self, entry: int) -> list[bytes]:
        if entry != self._records_entry:
            content = self._tables.get(journal.LOG, journal.entry_key(entry))
            assert content is not None
            self._records_entry, self._records = entry, journal.raw_records(content)
        return self._records


def _previous(record: np.void, account: int) -> int:
    if record["debit"] == account:
        return int(record["previous_debit"])
    assert record["credit"] == account
    return int(record["previous_credit"])
