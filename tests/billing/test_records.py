"""Records of closed sessions: found by id, exported in three forms."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime
from pathlib import Path

import pytest
import trio

from billing.journal import CallRecord
from billing.ledger import LmdbLedger
from billing.records import (
    EVENT_TYPE,
    Format,
    export_records,
    find_record,
    read_records,
    tree_size,
)
from billing.transfers import parse_id_untrusted
from core.clock import VirtualClock
from core.errors import OperationError
from tests.support.small_ledger import VOICE, Life, open_small


def all_records(ledger: LmdbLedger, since_ns: int = 0) -> list[CallRecord]:
    """As they stand in the log."""
    return [record for _, part in read_records(ledger.store, since_ns) for record in part]


async def exported(ledger: LmdbLedger, form: Format, since_ns: int = 0) -> str:
    parts: list[str] = []
    told: list[tuple[int, int]] = []
    count = await export_records(
        ledger.store,
        form,
        parts.append,
        since_ns=since_ns,
        source="/montana/test",
        progress=lambda done, total: told.append((done, total)),
    )
    expected = all_records(ledger, since_ns)
    assert count == len(expected)
    # It ends with all done, and never goes back.
    assert told == sorted(told)
    assert (told[-1] if told else (0, 0)) == (count, count)
    return "".join(parts)


def test_export_and_lookup(tmp_path: Path) -> None:
    async def run() -> None:
        clock = VirtualClock()
        with open_small(tmp_path, clock) as ledger:
            assert await exported(ledger, Format.JSON_LINES) == ""
            life = Life(ledger, clock)
            await life.live()
            records = all_records(ledger)
            assert len(records) == 17
            assert any(record.relayed_bytes and record.cost for record in records)

            rows = list(csv.DictReader(io.StringIO(await exported(ledger, Format.CSV))))
            lines = [
                json.loads(line)
                for line in (await exported(ledger, Format.JSON_LINES)).splitlines()
            ]
            assert rows == [{key: str(value) for key, value in line.items()} for line in lines]
            for record, line in zip(records, lines, strict=True):
                assert line["id"] == record.id.hex()
                assert line["account"] == f"#{record.account}"
                assert round(float(line["cost"]) * 1e6) == record.cost
                assert (line["seconds"], line["bytes"]) == (record.seconds, record.relayed_bytes)
                closed = datetime.fromisoformat(line["closed"])
                assert round(closed.timestamp() * 1e6) == record.closed_ns // 1000

            events = [
                json.loads(line)
                for line in (await exported(ledger, Format.CLOUD_EVENTS)).splitlines()
            ]
            for line, event in zip(lines, events, strict=True):
                assert event["specversion"] == "1.0"
                assert event["type"] == EVENT_TYPE
                assert event["source"] == "/montana/test"
                assert event["id"] == line["id"]
                assert event["time"] == line["closed"]
                assert event["data"] == line
            assert len({event["id"] for event in events}) == len(events)

            since_ns = records[9].closed_ns
            later = all_records(ledger, since_ns)
            assert later == [record for record in records if record.closed_ns >= since_ns]
            assert 0 < len(later) < len(records)
            lines = (await exported(ledger, Format.JSON_LINES, since_ns)).splitlines()
            assert [json.loads(line)["id"] for line in lines] == [one.id.hex() for one in later]
            assert await exported(ledger, Format.CLOUD_EVENTS, records[-1].closed_ns + 1) == ""

            with ledger.store.read() as tables:
                assert tree_size(tables) == len(records)
                for leaf, record in enumerate(records):
                    identity = parse_id_untrusted(record.id.hex())
                    found = find_record(tables, identity)
                    assert (found.record, found.leaf) == (record, leaf)
                with pytest.raises(OperationError, match="there is no record"):
                    find_record(tables, bytes(16))

    trio.run(run)


@pytest.mark.parametrize("text", ["", "0", "zz" * 16, "00" * 17, " " + "00" * 15 + "0", "é" * 32])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(OperationError, match="hexadecimal digits"):
        parse_id_untrusted(text)


def test_names_that_csv_has_to_quote(tmp_path: Path) -> None:
    async def run() -> None:
        clock = VirtualClock()
        with open_small(tmp_path, clock) as ledger:
            life = Life(ledger, clock)
            await life.begin()
            name = 'a,"b"\nc'
            session = await life.charging.open(name, line=VOICE, account=life.accounts[0])
            assert session is not None
            life.slots[session.info.slot] = [0, 0]
            await life.tick(1, {session.info.slot: "ended"})
            (row,) = csv.DictReader(io.StringIO(await exported(ledger, Format.CSV)))
            assert row["name"] == name

    trio.run(run)
