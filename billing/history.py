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


def is_line_untrusted(tables: Tables, place: int, account: int) -> bool:
    """Whether the account's history has a line at `place`."""
    entry = tables.get(journal.LOG, journal.entry_key(place >> 20)) if 0 < place < 2**63 else None
    index = place & 0xFFFFF
    if entry is None:
        return False
    if entry[0] == EntryKind.RECORDS:
        records = journal.decode_records(entry)
        return index < len(records) and records[index].account == account
    if entry[0] != EntryKind.TRANSFERS:
        return False
    stored = journal.decode_transfers(entry).records
    return index < len(stored) and account in (stored[index]["debit"], stored[index]["credit"])


def line_at(tables: Tables, place: int, account: int) -> tuple[HistoryLine, int]:
    """The line at `place` of an account's history, and the place of the one before it."""
    key = journal.entry_key(place >> 20)
    if tables.part(journal.LOG, key, 0, 1) == bytes([EntryKind.RECORDS]):
        entry = tables.get(journal.LOG, key)
        assert entry is not None
        record = journal.decode_records(entry)[place & 0xFFFFF]
        return HistoryLine(place, record.closed_ns, None, record), record.previous
    stored = read_record(tables, place)
    line = HistoryLine(place, int(stored["time_ns"]), unpack(stored))
    return line, _previous(stored, account)


def _previous(record: np.void, account: int) -> int:
    if record["debit"] == account:
        return int(record["previous_debit"])
    assert record["credit"] == account
    return int(record["previous_credit"])
