"""A power cut: what was acknowledged was synced before, and whatever else the disk has kept of what
was not, the ledger opens and adds up."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from lmdb.verify import verify

from core.store_files import DATA_FILE
from tests.support.disk_shim import Disk, Kind, Record, build_shim, read_log, shim_environment
from tests.support.ledger_audit import Audit, Told
from tests.support.ledger_process import id_of, open_small

ROOT = Path(__file__).parents[2]
CUTS = 200
ROUNDS = 2
TICKS = 40


class Recording(NamedTuple):
    """What a ledger's processes have written and told."""

    folder: Path
    records: list[Record]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Two processes, one after the other; each ends without closing."""
    folder = tmp_path_factory.mktemp("recorded")
    library, ledger, log = build_shim(folder), folder / "ledger", folder / "log"
    for turn in range(ROUNDS):
        command = [sys.executable, "-m", "tests.support.ledger_process", ledger, turn, TICKS]
        subprocess.run(
            [str(part) for part in command],
            cwd=ROOT,
            env=shim_environment(library, ledger, log),
            timeout=120,
            check=True,
        )
    return Recording(ledger, read_log(log))


def test_acknowledgements_follow_the_sync_that_holds_them(recording: Recording) -> None:
    """Pages that hold the id, a sync of them, then the meta page that makes them valid."""
    records = recording.records
    acknowledged = 0
    written: list[tuple[int, bytes]] = []
    for index, record in enumerate(records):
        if record.kind is Kind.WRITE:
            written.append((index, record.data))
        if record.kind is not Kind.NOTE:
            continue
        message = json.loads(record.data)
        if message.get("ack") != "transfers":
            continue
        for number in message["done"]:
            identity = id_of(message["round"], message["worker"], number)
            first = next((at for at, data in written if identity in data), None)
            assert first is not None, "it was acknowledged before it was written"
            kinds = [one.kind for one in records[first:index]]
            assert Kind.SYNC in kinds, "it was acknowledged before a sync"
            after_sync = kinds[kinds.index(Kind.SYNC) :]
            assert Kind.DSYNC_END in after_sync, "it was acknowledged before it was valid"
            acknowledged += 1
        # Whatever comes later stands in later writes.
        del written[:-200]
    assert acknowledged > 100


def test_200_power_cuts(recording: Recording, tmp_path: Path) -> None:
    chance = random.Random(200)
    records = recording.records
    cuts = sorted(chance.sample(range(1, len(records) + 1), CUTS))
    disk, told = Disk(recording.folder), Told()
    position = recovered = unsynced = 0
    for number, cut in enumerate(cuts):
        for record in records[position:cut]:
            if record.kind is Kind.NOTE:
                message = json.loads(record.data)
                told.hear(message, message["round"])
            else:
                disk.step(record)
        position = cut
        unsynced += disk.has_unsynced
        folder = tmp_path / str(number)
        disk.cut(folder, chance)
        if number % 10 == 0 and (folder / DATA_FILE).exists():
            assert verify(str(folder)) == []
        audit = Audit()
        with open_small(folder) as ledger:
            audit.check(ledger)
            told.check(audit, ledger)
            recovered += audit.recover(ledger)
            told.check_repetition(ledger)
            audit.check(ledger)
    assert unsynced > CUTS // 4
    assert recovered > CUTS // 4
    assert len(told.transfers) > 100


def test_a_cut_while_the_ledger_is_made(recording: Recording, tmp_path: Path) -> None:
    """Each step up to its first acknowledgement: it is a new one, or whole."""
    chance = random.Random(1)
    disk = Disk(recording.folder)
    for number, record in enumerate(recording.records):
        if record.kind is Kind.NOTE:
            break
        disk.step(record)
        folder = tmp_path / str(number)
        disk.cut(folder, chance)
        with open_small(folder) as ledger:
            Audit().check(ledger)
    assert number > 5


def test_the_disk_that_is_simulated_can_lose(recording: Recording, tmp_path: Path) -> None:
    """With the syncs left out, what was acknowledged is gone: or the tests above show nothing."""
    disk, chance = Disk(recording.folder), random.Random(3)
    made = False
    for record in recording.records:
        if record.kind is Kind.SYNC and made:
            continue
        made = made or record.kind is Kind.RENAME
        if record.kind is not Kind.NOTE:
            disk.step(record)
    failures = 0
    for number in range(10):
        folder = tmp_path / str(number)
        disk.cut(folder, chance)
        data = folder / DATA_FILE
        failures += not data.exists() or verify(str(folder)) != []
    assert failures > 0
