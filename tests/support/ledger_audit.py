"""Follows a ledger's log from its beginning, and knows from it alone what the ledger has to say;
and what was acknowledged, and so has to be in it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import trio

from billing import journal
from billing.accounts import FIRST_USER_ACCOUNT
from billing.book import TRANSFER
from billing.charging import Charging
from billing.journal import CallRecord, EntryKind
from billing.ledger import LmdbLedger
from billing.meter import MEGABYTE
from billing.money import CURRENCIES
from billing.tables import OUTBOX
from billing.transfers import Kind, Result
from tests.support.ledger_process import LINES, id_of, is_told_of, transfer_of


class Audit:
    """What the log says.

    Attributes:
        done: transfers by id.
        records: closed sessions by id.
        costs: micro-J that sessions were charged, by id.
    """

    def __init__(self) -> None:
        self.head = 0
        self.done: dict[bytes, Any] = {}
        self.records: dict[bytes, CallRecord] = {}
        self.costs: Counter[bytes] = Counter()
        self._living: dict[int, bytes] = {}
        self._posted: Counter[tuple[int, int]] = Counter()
        self._reserved: Counter[tuple[int, int]] = Counter()
        self._incoming: Counter[tuple[int, int]] = Counter()
        self._time_ns = 0

    def follow(self, ledger: LmdbLedger) -> None:
        """Take up what is new in the log."""
        for number, entry in journal.walk(ledger.store, self.head + 1, ledger.head):
            assert number == self.head + 1
            self.head = number
            kind = entry[0]
            if kind == EntryKind.TRANSFERS:
                for record in journal.decode_transfers(entry).records:
                    self._transfer(dict(zip(TRANSFER.names or (), record.tolist(), strict=True)))
            elif kind == EntryKind.TICK:
                tick = journal.decode_tick(entry)
                self._at(tick.time_ns)
                for info in tick.opened:
                    assert info.slot not in self._living, "a session is told of twice"
                    assert info.id not in self.costs
                    self._living[info.slot] = info.id
                    self.costs[info.id] = 0
                for slot, account, charge, _ in tick.rows.tolist():
                    self.costs[self._living[slot]] += charge
                    self._posted[account, 0] -= charge
                for account, amount in tick.credits.items():
                    self._posted[account, 0] += amount
            elif kind == EntryKind.RECORDS:
                for record in journal.decode_records(entry):
                    self._at(record.closed_ns)
                    assert record.id not in self.records, "a session has two records"
                    assert record.cost == self.costs[record.id]
                    self.records[record.id] = record
                    (slot,) = [key for key, one in self._living.items() if one == record.id]
                    del self._living[slot]
        assert self.head == ledger.head

    def _at(self, time_ns: int) -> None:
        assert time_ns >= self._time_ns, "time has gone back"
        self._time_ns = time_ns

    def _transfer(self, record: dict[str, Any]) -> None:
        identity, currency, amount = record["id"], record["currency"], record["amount"]
        assert identity not in self.done, "a transfer was done twice"
        self.done[identity] = record
        self._at(record["time_ns"])
        debit, credit = (record["debit"], currency), (record["credit"], currency)
        reserved = 0
        if record["kind"] == Kind.PENDING:
            reserved, amount = amount, 0
        elif record["kind"] != Kind.POST:
            reserved = -record["pending_amount"]
            amount = amount if record["kind"] == Kind.POST_PENDING else 0
        self._posted[debit] -= amount
        self._posted[credit] += amount
        self._reserved[debit] += reserved
        self._incoming[credit] += reserved

    def check(self, ledger: LmdbLedger) -> None:
        """The ledger says what its log says, sums are nothing, nobody is overdrawn; and somebody is
        told of exactly those transfers that were done with such a wish."""
        self.follow(ledger)
        for currency in CURRENCIES:
            balances = [ledger.balance(one, currency) for one in range(1, ledger.book.count)]
            for number, balance in enumerate(balances, 1):
                key = number, currency.number
                assert balance.posted == self._posted[key], key
                assert balance.reserved == self._reserved[key], key
                assert balance.incoming == self._incoming[key], key
                assert number < FIRST_USER_ACCOUNT or balance.available >= 0, key
            assert sum(balance.posted for balance in balances) == 0
            assert sum(balance.reserved - balance.incoming for balance in balances) == 0
        with ledger.store.read() as tables:
            told = {key for key, _ in tables.items(OUTBOX, limit=tables.count(OUTBOX))}
        assert told == {one for one in self.done if is_told_of(one)}

    def recover(self, ledger: LmdbLedger) -> int:
        """Close what sessions are left: with what the log says, and nothing is held then."""
        left = {info.slot: info.id for info in ledger.sessions()}
        assert left == self._living
        assert trio.run(Charging(ledger).recover) == len(left)
        assert list(ledger.sessions()) == []
        self.check(ledger)
        assert all(one in self.records for one in left.values())
        assert not ledger.book.columns["held"].any()
        return len(left)


class Told:
    """What a process has told."""

    def __init__(self) -> None:
        self.transfers: set[tuple[int, int, int]] = set()
        self.accounts: dict[str, int] = {}
        self.costs: dict[bytes, int] = {}
        self.closed: dict[bytes, int] = {}
        self.most: dict[bytes, int] = {}
        """What the counters came to that were asked to be charged."""

    def hear(self, message: dict[str, Any], turn: int) -> None:
        """Take up one message."""
        if message.get("ask") == "tick":
            for identity, kind, seconds, relayed_bytes in message["sessions"]:
                # Rounded down once a segment.
                line = LINES[kind]
                most = seconds * line.price_second
                most += relayed_bytes * line.price_megabyte // MEGABYTE
                self.most[bytes.fromhex(identity)] = most
        elif message.get("ack") == "transfers":
            for number in message["done"]:
                self.transfers.add((turn, message["worker"], number))
        elif message.get("ack") == "account":
            self.accounts[message["address"]] = message["number"]
        elif message.get("ack") == "tick":
            for known, told in ((self.costs, "costs"), (self.closed, "closed")):
                known.update(
                    (bytes.fromhex(identity), cost) for identity, cost in message[told].items()
                )

    def check(self, audit: Audit, ledger: LmdbLedger) -> None:
        """All that was acknowledged is there, and no session was charged more than it has used."""
        for name in self.transfers:
            wanted, found = transfer_of(*name), audit.done[id_of(*name)]
            assert found["kind"] == wanted.kind
            assert found["reference"] == wanted.reference
            if wanted.kind in (Kind.POST, Kind.PENDING):
                assert found["amount"] == wanted.amount
                assert (found["debit"], found["credit"]) == (wanted.debit, wanted.credit)
        for address, number in self.accounts.items():
            assert ledger.find(address) == number
            assert ledger.account(number).addresses == (address,)
        for identity, cost in self.costs.items():
            assert audit.costs[identity] >= cost
        for identity, cost in self.closed.items():
            assert audit.records[identity].cost == cost
        for identity, cost in audit.costs.items():
            assert cost <= self.most.get(identity, cost)

    def check_repetition(self, ledger: LmdbLedger) -> None:
        """Asking again for what was acknowledged changes nothing."""
        head = ledger.head
        for start in range(0, len(self.transfers), 1000):
            names = sorted(self.transfers)[start : start + 1000]
            again = [transfer_of(*name) for name in names]
            assert set(trio.run(ledger.transfer, again)) == {Result.EXISTS}
        for _, entry in journal.walk(ledger.store, head + 1, ledger.head):
            kinds = set(journal.decode_transfers(entry).records["kind"].tolist())
            assert kinds == {Kind.EXPIRE_PENDING}, "nothing but what expires by itself"
