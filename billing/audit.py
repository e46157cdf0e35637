"""Verifying a ledger: all that it has is made anew from its log, and compared.

    report = await verify(ledger)

The node may go on meanwhile: balances are copied at one position of the log, on the writer's
thread, and the log is read up to there a few entries at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
import trio
from numpy.typing import NDArray

from billing import journal
from billing.accounts import AccountInfo
from billing.book import CLOSED, FROZEN
from billing.journal import CHAIN, FIRST_LINK, EntryKind, encode_session
from billing.ledger import LmdbLedger
from billing.merkle import tree_root
from billing.money import CURRENCIES
from billing.records import RECORD_IDS, Progress, entry_is_indexed, node_reader, tree_size
from billing.recount import Recount, Seal, short_hash, side_hash
from billing.seal import stored_seal
from billing.tables import (
    ACCOUNTS,
    ADDRESSES,
    GUARD_TABLES,
    IDS,
    SESSIONS,
    account_key,
    session_key,
)
from core.errors import OperationError
from core.store import Store
from core.tables import Writing

_ACCOUNTS_AT_A_TIME = 1000
_info_decoder = msgspec.msgpack.Decoder(AccountInfo)


class Report(NamedTuple):
    """What verifying has found.

    Attributes:
        ok: nothing is wrong.
        entries, accounts, transfers, records: how many were looked at.
        problems: what is wrong, a sentence each; no more than `recount.PROBLEMS_MAXIMUM`.
        problem_count: how many there are.
        sealed: the entry up to which balances were taken from a sealed checkpoint, since ticks
            before it were pruned; 0 for none.
        signers: the nodes whose roots stand in the log, by their names.
        unsigned_roots: of those that no node could sign.
        unchecked_signatures: of roots, because ML-DSA-65 is missing here.
        link: the chain's last link, to be kept elsewhere.
    """

    ok: bool
    entries: int
    accounts: int
    transfers: int
    records: int
    problems: list[str]
    problem_count: int
    sealed: int
    signers: list[str]
    unsigned_roots: int
    unchecked_signatures: int
    link: bytes

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        found = self._asdict()
        found["link"] = self.link.hex()
        return found


class Snapshot(NamedTuple):
    """What the ledger has after entry `head`.

    Attributes:
        link: the chain's.
        columns: copies of the book's, held left out.
        pending, refunded: copies of the book's.
        cost: a copy of the meter's, by slot.
        sessions: as they are stored, by slot.
        ids: how many transfers are found by id.
        seal: the last one.
        tree_size, root: of the stored tree of call records; the root is empty where it is broken.
    """

    head: int
    link: bytes
    columns: dict[str, NDArray[Any]]
    pending: dict[bytes, tuple[int, int, int, int, int]]
    refunded: dict[bytes, int]
    cost: NDArray[np.int64]
    sessions: dict[bytes, bytes]
    ids: int
    seal: Seal | None
    tree_size: int
    root: bytes


@contextlib.contextmanager
def walking(ledger: LmdbLedger) -> Iterator[None]:
    """Let nothing be pruned meanwhile."""
    ledger.walkers += 1
    try:
        yield
    finally:
        ledger.walkers -= 1


async def take_snapshot(ledger: LmdbLedger) -> Snapshot:
    """Copies of all columns, at one position of the log."""

    def copy(writing: Writing) -> Snapshot:
        head = ledger.head
        columns, used = ledger.meter.columns, ledger.meter.used
        try:
            size = tree_size(writing)
            root = tree_root(node_reader(writing), size)
        except OperationError:
            root = b""
        return Snapshot(
            head=head,
            link=writing.get(CHAIN, journal.entry_key(head)) or b"",
            columns={
                name: column.copy()
                for name, column in ledger.book.columns.items()
                if name != "held"
            },
            pending=dict(ledger.book.pending),
            refunded=dict(ledger.book.refunded),
            cost=columns["cost"][:used].copy(),
            ids=writing.count(IDS),
            sessions=dict(writing.items(SESSIONS, limit=writing.count(SESSIONS))),
            seal=stored_seal(writing),
            tree_size=size,
            root=root,
        )

    return await ledger.store.write(copy)


async def verify(
    ledger: LmdbLedger, progress: Progress | None = None, link: bytes | None = None
) -> Report:
    """Make all anew from the log, and compare.

    Args:
        link: one that was kept of an earlier time: what was written until then has to be the same.
        progress: called with how many entries are done, and of how many.
    """
    with walking(ledger):
        snapshot = await take_snapshot(ledger)
        recount = Recount(snapshot.seal)
        walk = _Walk(ledger.store, snapshot, recount, link)
        while await trio.to_thread.run_sync(walk.step):
            if progress is not None:
                progress(walk.next - 1, snapshot.head)
        if link is not None and not walk.has_met_link:
            recount.problem(
                f"the link {link.hex()} is none of the chain's: what was written before it was "
                "kept has been changed, or it is another ledger's"
            )
        await trio.to_thread.run_sync(_compare, snapshot, recount)
        accounts = 1
        while accounts < recount.accounts:
            accounts = await trio.to_thread.run_sync(
                _compare_accounts, ledger.store, snapshot.head, recount, accounts
            )
        for compare in (_Addresses(ledger.store), _Guards(ledger.store, snapshot.head)):
            while await trio.to_thread.run_sync(compare.step, recount):
                pass
        if progress is not None:
            progress(snapshot.head, snapshot.head)
    return Report(
        ok=recount.problem_count == 0,
        entries=recount.entries,
        accounts=recount.accounts - 1,
        transfers=recount.transfers,
        records=recount.records,
        problems=recount.problems,
        problem_count=recount.problem_count,
        sealed=recount.adopted,
        signers=list(recount.signers),
        unsigned_roots=recount.unsigned_roots,
        unchecked_signatures=recount.unchecked_signatures,
        link=snapshot.link,
    )


class _Walk:
    """Goes through the log, some entries a step.

    Attributes:
        next: the entry that comes next.
        has_met_link: the link that was looked for is one of the chain's.
    """

    def __init__(
        self, store: Store, snapshot: Snapshot, recount: Recount, link: bytes | None
    ) -> None:
        self._store = store
        self._head = snapshot.head
        self._recount = recount
        self._link = FIRST_LINK
        self._wanted = link
        self.has_met_link = False
        self.next = 1

    def step(self) -> bool:
        """Read some entries; whether there are more."""
        if self.next > self._head:
            return False
        found = journal.read_some(self._store, self.next, self._head)
        last = found[-1][0] if found else self._head
        with self._store.read() as tables:
            links = dict(
                tables.items(
                    CHAIN,
                    journal.entry_key(self.next),
                    journal.entry_key(last + 1),
                    last + 1 - self.next,
                )
            )
        for number, entry in found:
            self._missing(self.next, number, links)
            stored = links.get(journal.entry_key(number))
            self.has_met_link |= stored == self._wanted
            if not entry:
                self._recount.problem(f"entry {number} is empty")
            elif stored is None:
                self._recount.problem(f"the chain lacks the link of entry {number}")
                self._link = journal.next_link(self._link, entry)
            else:
                if journal.next_link(self._link, entry) != stored:
                    self._recount.problem(
                        f"entry {number} isn't what the chain of hashes was made of"
                    )
                self._link = stored
            if entry:
                self._recount.add(number, entry)
                self._check_indexes(number, entry)
            self.next = number + 1
        if not found:
            self._missing(self.next, self._head + 1, links)
            self.next = self._head + 1
        return self.next <= self._head

    def _missing(self, first: int, end: int, links: dict[bytes, bytes]) -> None:
        if first == end:
            return
        which = f"entry {first} is" if end - first == 1 else f"entries {first} to {end - 1} are"
        self._recount.problem(f"{which} missing")
        self._link = links.get(journal.entry_key(end - 1), self._link)

    def _check_indexes(self, number: int, entry: bytes) -> None:
        """Each transfer and record has to be found under its id, or it could be done again."""
        expected: dict[bytes, bytes]
        with contextlib.suppress(msgspec.MsgspecError, ValueError, IndexError):
            if entry[0] == EntryKind.TRANSFERS:
                ids = journal.decode_transfers(entry).records["id"].tobytes()
                table, what = IDS, "transfer"
                expected = {
                    ids[16 * index : 16 * index + 16]: journal.place_of(number, index).to_bytes(
                        8, "big"
                    )
                    for index in range(len(ids) // 16)
                }
            elif entry[0] == EntryKind.RECORDS:
                records = journal.decode_records(entry)
                first = self._recount.records - len(records)
                with self._store.read() as tables:
                    is_indexed = entry_is_indexed(tables, number, records, first)
                if not is_indexed:
                    self._recount.problem(
                        f"the records of entry {number} aren't found by their time"
                    )
                table, what = RECORD_IDS, "record"
                expected = {
                    record.id: journal.place_of(number, index).to_bytes(8, "big")
                    + (first + index).to_bytes(8, "big")
                    for index, record in enumerate(records)
                }
            else:
                return
            with self._store.read() as tables:
                there = tables.get_many(table, sorted(expected))
            for identity, place in expected.items():
                if there.get(identity) != place:
                    self._recount.problem(
                        f"the {what} {identity.hex()} isn't found under its id, in entry {number}"
                    )


def _compare(snapshot: Snapshot, recount: Recount) -> None:
    """What the ledger has in memory, with what the log says."""
    recount.finish()
    columns = snapshot.columns
    if len(columns["posted"]) != recount.accounts:
        recount.problem(
            f"the ledger has {len(columns['posted']) - 1} accounts, and the log "
            f"{recount.accounts - 1}"
        )
        return
    for name, column in (
        ("a balance", "posted"),
        ("a reserved amount", "reserved"),
        ("an incoming amount", "incoming"),
    ):
        counted: NDArray[np.int64] = getattr(recount, column)
        for account, currency in np.argwhere(columns[column] != counted).tolist():
            recount.problem(
                f"account #{account} has {name} of {columns[column][account, currency]} in "
                f"{CURRENCIES[currency].code}, and by the log {counted[account, currency]}"
            )
    for account in np.flatnonzero(columns["last"] != recount.last).tolist():
        recount.problem(f"the history of account #{account} doesn't begin with its last line")
    differs = (columns["flags"] ^ recount.flags) & (FROZEN | CLOSED)
    for account in np.flatnonzero(differs).tolist():
        recount.problem(f"account #{account} isn't as frozen or closed as the log says")
    if snapshot.pending != recount.pending:
        recount.problem("other transfers are pending than the log says")
    if snapshot.refunded != recount.refunded:
        recount.problem("other refunds are known than the log says")
    if snapshot.ids != recount.transfers:
        recount.problem(
            f"{snapshot.ids} transfers are found by their ids, and the log has {recount.transfers}"
        )
    slots = list(recount.sessions)
    expected = {session_key(slot): encode_session(recount.sessions[slot]) for slot in slots}
    if snapshot.sessions != expected:
        recount.problem("other sessions are stored as living than the log says")
    if slots and (
        max(slots) >= len(snapshot.cost) or (snapshot.cost[slots] != recount.cost[slots]).any()
    ):
        recount.problem("what live sessions have cost isn't what their ticks come to")
    if (snapshot.tree_size, snapshot.root) != (recount.records, recount.tree_root()):
        recount.problem("the tree of call records isn't the one of the log's records")


def _compare_accounts(store: Store, head: int, recount: Recount, first: int) -> int:
    """Some of the accounts and addresses that are stored, from `first` on; where to go on."""
    stop = min(first + _ACCOUNTS_AT_A_TIME, recount.accounts)
    with store.read() as tables:
        found = dict(tables.items(ACCOUNTS, account_key(first), account_key(stop)))
        owners: dict[bytes, bytes] = {}
        wanted: dict[bytes, int] = {}
        differing = []
        for number in range(first, stop):
            value = found.get(account_key(number), b"")
            if short_hash(value) != recount.info_hashes[number]:
                differing.append(number)
            with contextlib.suppress(msgspec.MsgspecError, ValueError):
                info = _info_decoder.decode(value)
                wanted |= {address.encode(): number for address in info.addresses}
        owners = tables.get_many(ADDRESSES, sorted(wanted))
        end = int.from_bytes(tables.items_back(CHAIN, limit=1)[0][0], "big")
    for address, number in wanted.items():
        if owners.get(address) != account_key(number):
            recount.problem(f"account #{number} isn't found under {address.decode()}")
    if differing:
        # Those that have changed since the balances were copied may differ.
        changed = {
            info.number
            for _, entry in journal.walk(store, head + 1, end)
            if entry[0] == EntryKind.ACCOUNTS
            for info in journal.decode_accounts(entry).accounts
        }
        for number in differing:
            if number not in changed:
                recount.problem(f"account #{number} is stored otherwise than the log says")
    return stop


class _Addresses:
    """Goes through the addresses, some a step: each has to be one of its account's own. Accounts
    themselves were compared with the log."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._next = b""

    def step(self, recount: Recount) -> bool:
        """Look at some; whether there are more."""
        with self._store.read() as tables:
            found = tables.items(ADDRESSES, self._next, limit=_ACCOUNTS_AT_A_TIME)
            accounts = tables.get_many(ACCOUNTS, sorted({number for _, number in found}))
        for address, number in found:
            owned: tuple[str, ...] = ()
            with contextlib.suppress(msgspec.MsgspecError, ValueError):
                owned = _info_decoder.decode(accounts.get(number, b"")).addresses
            if address not in [one.encode() for one in owned]:
                account = int.from_bytes(number, "big")
                recount.problem(
                    f"{address.decode(errors='replace')} leads to account #{account}, which "
                    "hasn't this address"
                )
        if found:
            self._next = found[-1][0] + b"\0"
        return bool(found)


class _Guards:
    """Goes through the tables that keep money from coming twice, some rows a step: each has to be
    as the log's last side-write to its place, and of those none may be missing."""

    def __init__(self, store: Store, head: int) -> None:
        self._store = store
        self._head = head
        self._tables = list(GUARD_TABLES)
        self._next = b""

    def step(self, recount: Recount) -> bool:
        """Look at some; whether there are more. Takes what was found out of `recount.side`."""
        table = self._tables[0]
        with self._store.read() as tables:
            found = tables.items(table, self._next, limit=_ACCOUNTS_AT_A_TIME)
            end = int.from_bytes(tables.items_back(CHAIN, limit=1)[0][0], "big")
        differing = [
            side_hash(table, key)
            for key, value in found
            if recount.side.pop(side_hash(table, key), None) != short_hash(value)
        ]
        if differing:
            self._tell(recount, table, differing, end)
        if found:
            self._next = found[-1][0] + b"\0"
            return True
        self._next = b""
        del self._tables[0]
        if not self._tables and recount.side:
            self._tell(recount, "the tables", list(recount.side), end)
        return bool(self._tables)

    def _tell(self, recount: Recount, where: str, places: list[int], end: int) -> None:
        changed = {
            side_hash(write.table, write.key)
            for _, entry in journal.walk(self._store, self._head + 1, end)
            if entry[0] == EntryKind.TRANSFERS
            for write in journal.decode_transfers(entry).side_writes
        }
        wrong = len(set(places) - changed)
        if wrong:
            recount.problem(f"{where}: {wrong} rows aren't what the log has written there")
