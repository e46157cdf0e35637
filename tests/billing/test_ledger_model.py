"""The ledger beside its model: whatever is done to both, both say the same."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import trio
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from billing.journal import SideWrite
from billing.ledger import ISSUE, LmdbLedger, open_ledger
from billing.money import AMOUNT_MAXIMUM, CURRENCIES
from billing.transfers import NO_ID, Kind, Transfer
from core.clock import VirtualClock
from core.errors import OperationError
from tests.support.model_ledger import ModelLedger

ACCOUNTS = st.one_of(st.integers(6, 9), st.integers(6, 9), st.integers(0, 12))
AMOUNTS = st.one_of(
    st.integers(-1, 50),
    st.sampled_from([AMOUNT_MAXIMUM, AMOUNT_MAXIMUM - 1, AMOUNT_MAXIMUM // 2, -(2**63)]),
)
ADDRESSES = st.sampled_from([f"user:{name}" for name in "abcdef"] + ["tg:1", "node", "nobody"])


class LedgerAndModel(RuleBasedStateMachine):
    """Does everything to both."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="montana-ledger-"))
        self.clock = VirtualClock()
        self.model = ModelLedger(self.clock)
        self.ledger = self.open()
        self.numbers = itertools.count(1)
        self.ids: list[bytes] = []
        self.asked: list[list[Transfer]] = []

    def open(self) -> LmdbLedger:
        return open_ledger(self.folder, self.clock, map_bytes=1 << 26)

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.folder)

    def both(self, act: Callable[[Any], Any]) -> Any:
        """Do it to the model, then to the ledger; either both raise or both say the same."""

        async def run(one: object) -> object:
            try:
                return await act(one)
            except OperationError as error:
                return type(error)

        expected = trio.run(run, self.model)
        got = trio.run(run, self.ledger)
        assert got == expected, f"the ledger says {got}, the model {expected}"
        return got

    def new_id(self) -> bytes:
        identity = next(self.numbers).to_bytes(16, "big")
        self.ids.append(identity)
        return identity

    @initialize()
    def begin(self) -> None:
        """Four accounts that have something."""
        for account in range(6, 10):
            assert self.both(lambda one: one.open_account([])) == account
            for currency in CURRENCIES:
                self.credit_one(account, 500, currency.number)

    def credit_one(self, account: int, amount: int, currency: int) -> None:
        transfer = Transfer(self.new_id(), ISSUE, account, amount, currency)
        self.both(lambda one: one.transfer([transfer]))

    @rule(addresses=st.lists(ADDRESSES, max_size=2))
    def open_account(self, addresses: list[str]) -> None:
        if len(self.model.all) < 12:
            self.both(lambda one: one.open_account(addresses))

    @rule(account=ACCOUNTS, amount=st.integers(1, 1000), currency=st.integers(0, 1))
    def credit(self, account: int, amount: int, currency: int) -> None:
        self.credit_one(account, amount, currency)

    @rule(data=st.data(), count=st.integers(1, 5))
    def transfer(self, data: st.DataObject, count: int) -> None:
        batch = []
        for _ in range(count):
            known = st.sampled_from(self.ids) if self.ids else st.just(NO_ID)
            reuses = data.draw(st.integers(0, 9)) == 0
            kind = data.draw(st.sampled_from([Kind.POST, Kind.POST, Kind.PENDING, *list(Kind)[:4]]))
            refers = kind not in (Kind.POST, Kind.PENDING)
            refund = data.draw(st.integers(0, 3)) == 0
            reference = data.draw(known) if refers or refund else NO_ID
            original = self.model.done.get(reference)
            debit, credit = data.draw(ACCOUNTS), data.draw(ACCOUNTS)
            if refers:
                debit, credit = data.draw(st.sampled_from([(0, 0), (debit, credit)]))
            elif refund and original is not None and data.draw(st.booleans()):
                debit, credit = original.done.credit, original.done.debit
                if data.draw(st.integers(0, 3)):
                    debit, credit = self.model.heir(debit), self.model.heir(credit)
            batch.append(
                Transfer(
                    data.draw(known) if reuses and self.ids else self.new_id(),
                    debit,
                    credit,
                    data.draw(st.one_of(AMOUNTS, st.just(0)) if refers else AMOUNTS),
                    data.draw(st.integers(0, 1)),
                    kind=kind,
                    reference=reference,
                    timeout_s=data.draw(st.sampled_from([0, 0, 5])) if kind == 1 else 0,
                    linked=data.draw(st.integers(0, 3)) == 0,
                    refund=refund,
                )
            )
        self.asked.append(batch)
        self.both(lambda one: one.transfer(batch))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(self.asked))
        self.both(lambda one: one.transfer(batch))

    @precondition(lambda self: self.model.pending)
    @rule(
        data=st.data(),
        kind=st.sampled_from([Kind.POST_PENDING, Kind.VOID_PENDING]),
        amount=st.integers(0, 60),
    )
    def resolve(self, data: st.DataObject, kind: Kind, amount: int) -> None:
        reference = data.draw(st.sampled_from(sorted(self.model.pending)))
        currency = self.model.pending[reference][0].currency
        amount = 0 if kind is Kind.VOID_PENDING else amount
        transfer = Transfer(self.new_id(), 0, 0, amount, currency, kind=kind, reference=reference)
        self.asked.append([transfer])
        self.both(lambda one: one.transfer([transfer]))

    @rule(debit=ACCOUNTS, credit=ACCOUNTS, amount=st.integers(1, 60), value=st.binary(max_size=3))
    def transfer_with_side_writes(self, debit: int, credit: int, amount: int, value: bytes) -> None:
        batch = [
            Transfer(self.new_id(), debit, credit, amount),
            Transfer(self.new_id(), credit, debit, max(1, amount // 2)),
        ]
        side = [
            SideWrite("deduplication", b"key", value),
            SideWrite("blocked_callers", value + b"x", None),
        ]
        self.both(lambda one: one.transfer(batch, side))
        assert self.ledger.read_side("deduplication", b"key") == self.model.read_side(
            "deduplication", b"key"
        )

    @rule(account=ACCOUNTS, frozen=st.sampled_from([True, False, False]))
    def freeze(self, account: int, frozen: bool) -> None:
        self.both(lambda one: one.freeze(account, frozen))

    @rule(account=st.integers(0, 20))
    def close(self, account: int) -> None:
        self.both(lambda one: one.close_account(account))

    @rule(account=ACCOUNTS, address=ADDRESSES, keeps=st.booleans())
    def link(self, account: int, address: str, keeps: bool) -> None:
        self.both(lambda one: one.link(account, address, keeps=lambda _writing, _other: keeps))

    @rule(account=ACCOUNTS, address=ADDRESSES)
    def unlink(self, account: int, address: str) -> None:
        self.both(lambda one: one.unlink(account, address))

    @rule(seconds=st.sampled_from([1, 4, 6]))
    def wait(self, seconds: int) -> None:
        self.clock.advance_s(seconds)
        self.both(lambda one: one.transfer([]))

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = self.open()

    @rule()
    def reopen_without_a_checkpoint(self) -> None:
        # As after a crash: what is committed is there, balances are as old as can be.
        self.ledger.store.close()
        self.ledger = self.open()

    @invariant()
    def balances_are_the_same(self) -> None:
        for number in self.model.all:
            assert self.ledger.account(number) == self.model.account(number)
            assert self.ledger.heir(number) == self.model.heir(number)
            for currency in CURRENCIES:
                got = self.ledger.balance(number, currency)
                assert got == self.model.balance(number, currency), number
        for currency in CURRENCIES:
            balances = [self.ledger.balance(number, currency) for number in self.model.all]
            assert sum(balance.posted for balance in balances) == 0
            assert sum(balance.reserved - balance.incoming for balance in balances) == 0
            assert all(balance.available >= 0 for balance in balances[5:])

    @rule(account=st.integers(1, 12), limit=st.integers(1, 4))
    def histories_are_the_same(self, account: int, limit: int) -> None:
        if account not in self.model.all:
            return

        async def pages(one: Any) -> list[Transfer]:
            found: list[Transfer] = []
            before = None
            while lines := await one.history(account, before, limit):
                found += [line.transfer for line in lines]
                before = lines[-1].place
            return found

        self.both(pages)


TestLedgerAndModel = LedgerAndModel.TestCase
TestLedgerAndModel.settings = settings(
    max_examples=170, stateful_step_count=60, deadline=None, print_blob=True
)
