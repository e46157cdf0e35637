"""The records of closed sessions: where each stands in the log, and how they leave it.

Each is a leaf of a Merkle tree, in the order of the log. Beside the log stand an index by id, one
by the time of closing, and the tree's full subtrees; all three can be made from the log anew.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
import numpy as np
import trio

from billing import journal
from billing.journal import CallRecord
from billing.merkle import full_nodes, leaf_hash
from billing.money import J, format_amount
from core.errors import OperationError
from core.store import Store
from core.tables import Tables, Writing
from core.timestamps import format_time

RECORD_IDS = "record_ids"
"""id -> place, leaf; 8 bytes each."""
RECORD_ENTRIES = "record_entries"
"""closed_ns, entry -> the leaf of its first record: what is closed later stands later."""
RECORD_TREE = "record_tree"
"""level, index -> hash of a full subtree."""
TABLES = (RECORD_IDS, RECORD_ENTRIES, RECORD_TREE)

EVENT_TYPE = "montana.session.closed"

Progress = Callable[[int, int], object]
"""Called with what is done, and of how much."""


class Format(StrEnum):
    """What records are exported as."""

    CSV = "csv"
    JSON_LINES = "jsonl"
    CLOUD_EVENTS = "cloudevents"


class FoundRecord(NamedTuple):
    """A record and where it stands.

    Attributes:
        raw: its bytes as they are stored, which are the leaf of the tree.
        leaf: its number among all records, from 0 on.
        entry: the log's entry.
    """

    record: CallRecord
    raw: bytes
    leaf: int
    entry: int


def tree_size(tables: Tables) -> int:
    """How many records there are."""
    last = tables.items_back(RECORD_TREE, b"\1", limit=1)
    return int.from_bytes(last[0][0][1:], "big") + 1 if last else 0


def node_reader(tables: Tables) -> Callable[[int, int], bytes]:
    """Reads the tree's full subtrees."""

    def read(level: int, index: int) -> bytes:
        value = tables.get(RECORD_TREE, _node_key(level, index))
        if value is None:
            raise OperationError(
                "the tree of call records lacks a hash; run montana ledger verify, and restore the "
                "last backup"
            )
        return value

    return read


def index_records(
    writing: Writing, entry: int, records: Sequence[CallRecord], raws: Sequence[bytes]
) -> None:
    """Have the records of an entry found; `raws` are their bytes as they are stored."""
    if not records:
        return
    first = tree_size(writing)
    writing.put_many(
        RECORD_IDS,
        sorted(
            (record.id, journal.place_of(entry, index).to_bytes(8, "big") + _leaf_bytes(leaf))
            for index, (leaf, record) in enumerate(enumerate(records, first))
        ),
    )
    writing.put(RECORD_ENTRIES, _time_key(entry, records), _leaf_bytes(first))
    nodes = full_nodes(node_reader(writing), first, [leaf_hash(raw) for raw in raws])
    for level, index, values in nodes:
        writing.put_many(
            RECORD_TREE, list(zip(_node_keys(level, index, len(values)), values, strict=True))
        )


def entry_is_indexed(tables: Tables, entry: int, records: Sequence[CallRecord], first: int) -> bool:
    """Whether the records of an entry, of which the first is leaf `first`, are found by time."""
    key = _time_key(entry, records)
    return tables.get(RECORD_ENTRIES, key) == _leaf_bytes(first)


def find_record(tables: Tables, identity: bytes) -> FoundRecord:
    """The record of an id.

    Raises:
        OperationError: there is none.
    """
    value = tables.get(RECORD_IDS, identity)
    if value is None:
        raise OperationError(
            f"there is no record {identity.hex()}; a session has one after it has ended"
        )
    place, leaf = int.from_bytes(value[:8], "big"), int.from_bytes(value[8:], "big")
    entry, index = journal.split_place(place)
    content = tables.get(journal.LOG, journal.entry_key(entry))
    raws = journal.raw_records(content) if content else []
    if index >= len(raws):
        raise OperationError(
            f"the log lacks the record {identity.hex()}; run montana ledger verify, and restore "
            "the last backup"
        )
    raw = raws[index]
    return FoundRecord(journal.decode_record_untrusted(raw), raw, leaf, entry)


def read_records(store: Store, since_ns: int = 0) -> Iterator[tuple[int, list[CallRecord]]]:
    """The records of sessions that were closed at `since_ns` (of the ledger's clock) or later, in
    the order of the log: the number of the first one, and some of them, read at a time."""
    start = max(0, since_ns).to_bytes(8, "big")
    while True:
        with store.read() as tables:
            found = tables.items(RECORD_ENTRIES, start, limit=1)
            if not found:
                return
            key, leaf = found[0]
            content = tables.get(journal.LOG, key[8:])
        if content is None:
            raise OperationError(
                f"the log lacks entry {int.from_bytes(key[8:], 'big')}; run montana ledger verify, "
                "and restore the last backup"
            )
        yield int.from_bytes(leaf, "big"), journal.decode_records(content)
        start = key + b"\0"


async def export_records(
    store: Store,
    form: Format,
    write: Callable[[str], object],
    *,
    since_ns: int = 0,
    source: str = "/montana",
    progress: Progress | None = None,
) -> int:
    """Write the records of sessions that were closed since then; returns how many.

    Args:
        write: called with text, some lines at a time; in another thread than the caller's.
        since_ns: of the ledger's clock, nanoseconds since 1970.
        source: who says so, in CloudEvents: a URI reference.
    """
    with store.read() as tables:
        total = tree_size(tables)
    if form is Format.CSV:
        await trio.to_thread.run_sync(write, _csv([_FIELDS]))
    reader = read_records(store, since_ns)
    first: int | None = None
    done = 0

    def write_some() -> bool:
        nonlocal first, done
        part = next(reader, None)
        if part is None:
            return False
        if first is None:
            first = part[0]
        write(format_records(part[1], form, source))
        done += len(part[1])
        return True

    while await trio.to_thread.run_sync(write_some):
        if progress is not None:
            progress(done, max(done, total - (first or 0)))
    return done


def format_records(records: Sequence[CallRecord], form: Format, source: str) -> str:
    """Records as text, one line each."""
    if form is Format.CSV:
        return _csv([[str(value) for value in record_row(record).values()] for record in records])
    rows = [
        record_row(record) if form is Format.JSON_LINES else _event(record, source)
        for record in records
    ]
    return "".join(msgspec.json.encode(row).decode() + "\n" for row in rows)


_FIELDS = (
    "id",
    "name",
    "kind",
    "account",
    "into",
    "opened",
    "closed",
    "seconds",
    "bytes",
    "cost",
    "currency",
    "reason",
)


def record_row(record: CallRecord) -> dict[str, str | int]:
    """A record for people and their programs: times in UTC (RFC 3339), cost as a decimal number."""
    values: tuple[str | int, ...] = (
        record.id.hex(),
        record.name,
        record.kind,
        f"#{record.account}",
        f"#{record.into}",
        format_time(record.opened_ns),
        format_time(record.closed_ns),
        record.seconds,
        record.relayed_bytes,
        format_amount(record.cost, J),
        J.code,
        record.reason,
    )
    return dict(zip(_FIELDS, values, strict=True))


def _event(record: CallRecord, source: str) -> dict[str, Any]:
    """CloudEvents 1.0, JSON: whoever has seen `source` and `id` together has seen the event."""
    return {
        "specversion": "1.0",
        "id": record.id.hex(),
        "source": source,
        "type": EVENT_TYPE,
        "subject": f"#{record.account}",
        "time": format_time(record.closed_ns),
        "datacontenttype": "application/json",
        "data": record_row(record),
    }


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _time_key(entry: int, records: Sequence[CallRecord]) -> bytes:
    return records[0].closed_ns.to_bytes(8, "big") + journal.entry_key(entry)


def _leaf_bytes(leaf: int) -> bytes:
    return leaf.to_bytes(8, "big")


def _node_key(level: int, index: int) -> bytes:
    return bytes([level]) + index.to_bytes(8, "big")


def _node_keys(level: int, first: int, count: int) -> list[bytes]:
    """Of nodes beside each other."""
    keys = np.empty(count, [("level", "u1"), ("index", ">u8")])
    keys["level"], keys["index"] = level, np.arange(first, first + count)
    joined = keys.tobytes()
    return [joined[start : start + keys.itemsize] for start in range(0, len(joined), keys.itemsize)]
