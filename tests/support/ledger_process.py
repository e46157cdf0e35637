"""Processes that do everything to a ledger and tell what was acknowledged, so as to be killed.

`python -m tests.support.ledger_process` reads lines (`{"folder": ..., "round": ...}`), and forks a
process for each, which works until it is killed. With `FOLDER ROUND TICKS` it works for so many
ticks in this process, and ends without closing; where the shim is loaded, it tells the shim's log.

What is told: `{"ask": ...}` before, `{"ack": ...}` only after the answer has come.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import trio

from billing.charging import Charging
from billing.ledger import FEES, ISSUE, NODE, LmdbLedger, open_ledger
from billing.money import J
from billing.outbox import Outbox
from billing.tariff import Line
from billing.transfers import Kind, Transfer, derive_id
from core.api.bridge_messages import SmsBody
from core.clock import SystemClock
from core.tables import Writing
from tests.support.disk_shim import loaded_shim

RICH = range(6, 12)
POOR = range(12, 14)
"""Accounts that sessions use up."""
LINES = {
    "voice": Line("voice", J.unit, 0, NODE),
    "turn": Line("turn", 300_001, 500_003, FEES),
}
SESSIONS = 4096
WORKERS = 3
SETTING_UP = 99
"""The worker that has the accounts' first credits."""
TELLING = 98
"""The worker with whose transfers somebody is told something."""
Tell = Callable[[dict[str, Any]], None]


def open_small(folder: Path) -> LmdbLedger:
    """The ledger as these tests open it."""
    return open_ledger(folder, SystemClock(), sessions=SESSIONS, map_bytes=1 << 30)


def id_of(turn: int, worker: int, number: int) -> bytes:
    """Ids that grow with time, as those of clients do."""
    head = turn.to_bytes(6, "big") + worker.to_bytes(2, "big")
    # Not zeros alone, so that each can be found in what was written.
    return head + number.to_bytes(4, "big") + b"\xa5\x5a\xa5\x5a"


def is_told_of(identity: bytes) -> bool:
    """Whether somebody is told of the transfer of that id."""
    return identity[6:8] == TELLING.to_bytes(2, "big")


def transfer_of(turn: int, worker: int, number: int) -> Transfer:
    """The same each time: whoever knows the numbers knows what was asked for."""
    chance = random.Random(f"{turn}/{worker}/{number}")
    identity = id_of(turn, worker, number)
    if worker == SETTING_UP:
        account = 6 + number
        return Transfer(identity, ISSUE, account, (1000 if account in RICH else 7) * J.unit)
    debit, credit = chance.sample(RICH, 2)
    currency, amount = 0, chance.randint(1, 3 * J.unit)
    if number % 5 == 2:
        timeout_s = chance.choice((0, 1, 3600))
        kind = Kind.PENDING
        return Transfer(identity, debit, credit, amount, kind=kind, timeout_s=timeout_s)
    if number % 5 == 3:
        kind = chance.choice((Kind.POST_PENDING, Kind.VOID_PENDING))
        earlier = number - 1 - 5 * chance.randint(0, min(2, number // 5))
        part = chance.choice((0, 1)) if kind is Kind.POST_PENDING else 0
        reference = id_of(turn, worker, earlier)
        return Transfer(identity, 0, 0, part, kind=kind, reference=reference)
    if number % 5 == 4:
        debit, currency = ISSUE, chance.randint(0, 1)
    return Transfer(identity, debit, credit, amount, currency)


async def _transfers(ledger: LmdbLedger, turn: int, worker: int, tell: Tell) -> None:
    chance = random.Random(f"batches {turn} {worker}")
    number = 0
    while True:
        # What waits for the disk can't be cancelled.
        await trio.lowlevel.checkpoint_if_cancelled()
        count = chance.randint(1, 6)
        batch = [transfer_of(turn, worker, number + index) for index in range(count)]
        results = await ledger.transfer(batch)
        done = [number + index for index, result in enumerate(results) if result.is_done]
        tell({"ack": "transfers", "worker": worker, "done": done})
        number += count


async def _tellings(ledger: LmdbLedger, turn: int, tell: Tell) -> None:
    """Transfers that somebody is told of, one at a time, each a second time."""
    outbox = Outbox(ledger.store, SystemClock())
    number = 0
    while True:
        one = transfer_of(turn, TELLING, number)

        def also(writing: Writing, one: Transfer = one) -> None:
            to = f"tg:{one.id.hex()}"
            outbox.put(writing, "telegram", to, SmsBody("told"), key=one.id, lifetime_s=3600)

        for _ in range(2):
            await trio.lowlevel.checkpoint_if_cancelled()
            (result,) = await ledger.transfer([one], also=also)
        tell({"ack": "transfers", "worker": TELLING, "done": [number] if result.is_done else []})
        number += 1


async def _accounts(ledger: LmdbLedger, turn: int, tell: Tell) -> None:
    """Now and then something that stands between others in a commit."""
    number = 0
    while True:
        address = f"user:{turn}-{number}"
        account = await ledger.open_account([address])
        tell({"ack": "account", "address": address, "number": account})
        number += 1
        await trio.sleep(0.003)


async def _sessions(
    ledger: LmdbLedger, charging: Charging, turn: int, ticks: int | None, tell: Tell
) -> None:
    chance = random.Random(f"sessions {turn}")
    live: dict[int, list[Any]] = {}
    while ticks is None or ticks > 0:
        for _ in range(chance.randint(0, 3)):
            if len(live) < 12:
                kind = chance.choice(list(LINES))
                account = chance.choice([*RICH, *POOR])
                opened = await charging.open(f"s{turn}", LINES[kind], account)
                if opened is not None:
                    live[opened.info.slot] = [opened.info.id.hex(), kind, 0, 0, 0, 0]
        for slot, counters in live.items():
            counters[2] += chance.choice((0, 1, 1, 3))
            counters[3] += chance.choice((0, 1000, 999_999))
            if chance.random() < 0.05:
                await _change(charging, slot, counters, tell)
        closing = {slot: "hang-up" for slot in live if chance.random() < 0.1}
        tell({"ask": "tick", "sessions": [_part(counters) for counters in live.values()]})
        verdicts = await charging.tick(
            np.array(list(live), np.uint32),
            np.array([one[2] for one in live.values()], np.uint64),
            np.array([one[3] for one in live.values()], np.uint64),
            closing,
        )
        costs = {
            live[slot][0]: int(ledger.meter.columns["cost"][slot])
            for slot in live
            if slot not in closing
        }
        closed = {
            record.id.hex(): record.cost
            for records in verdicts.records.values()
            for record in records
        }
        tell({"ack": "tick", "costs": costs, "closed": closed})
        for slot in closing:
            del live[slot]
        ticks = None if ticks is None else ticks - 1
        await trio.sleep(0.001)


def _part(counters: list[Any]) -> list[Any]:
    """The id and kind of a session's present part, and what it has counted."""
    identity, kind, seconds, relayed_bytes, seconds_before, bytes_before = counters
    return [identity, kind, seconds - seconds_before, relayed_bytes - bytes_before]


async def _change(charging: Charging, slot: int, counters: list[Any], tell: Tell) -> None:
    """A session becomes one of the other kind."""
    tell({"ask": "tick", "sessions": [_part(counters)]})
    identity, kind, seconds, relayed_bytes = counters[:4]
    (other,) = LINES.keys() - {kind}
    await charging.change(slot, LINES[other], seconds, relayed_bytes)
    record = charging.parts(slot)[-1]
    assert record.id.hex() == identity
    tell({"ack": "tick", "costs": {}, "closed": {identity: record.cost}})
    counters[0] = derive_id(record.id, b"now " + other.encode()).hex()
    counters[1] = other
    counters[4:] = seconds, relayed_bytes


async def _work(ledger: LmdbLedger, turn: int, ticks: int | None, tell: Tell) -> None:
    charging = Charging(ledger)
    await charging.recover()
    tell({"ack": "recovered"})
    while ledger.book.count < POOR.stop:
        await ledger.open_account()
    if turn == 0:
        done = list(range(POOR.stop - 6))
        await ledger.transfer([transfer_of(0, SETTING_UP, number) for number in done])
        tell({"ack": "transfers", "worker": SETTING_UP, "done": done})
    async with trio.open_nursery() as nursery:
        for worker in range(WORKERS):
            nursery.start_soon(_transfers, ledger, turn, worker, tell)
        nursery.start_soon(_accounts, ledger, turn, tell)
        nursery.start_soon(_tellings, ledger, turn, tell)
        await _sessions(ledger, charging, turn, ticks, tell)
        nursery.cancel_scope.cancel()


def _tell(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message | {"pid": os.getpid()}).encode() + b"\n")


def _serve() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if not child:
            with contextlib.suppress(BrokenPipeError):
                # By itself: what it has to tell might come before its parent's word.
                _tell({"started": os.getpid()})
                ledger = open_small(Path(asked["folder"]))
                trio.run(_work, ledger, asked["round"], None, _tell)
            os._exit(1)
        _tell({"ended": os.waitpid(child, 0)[1]})


def _work_once(folder: Path, turn: int, ticks: int) -> None:
    shim = loaded_shim()
    assert shim is not None

    def tell(message: dict[str, Any]) -> None:
        shim.disk_shim_note(json.dumps(message | {"round": turn}).encode())

    trio.run(_work, open_small(folder), turn, ticks, tell)
    os._exit(0)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        _serve()
    else:
        _work_once(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
