"""The meter: exact charges, holds that nobody else can spend, and no account below nothing."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from billing.book import FROZEN, SYSTEM, TRANSFER, Book
from billing.meter import (
    IDLE_S,
    IDLE_SLICE_S,
    LIVE,
    MEGABYTE,
    NO_MONEY,
    NO_SLOT,
    PRICE_MAXIMUM,
    SLICE_S,
    STOPPED,
    TICK_CHARGE_MAXIMUM,
    UNLIMITED_S,
    Meter,
    Tick,
)

J = 1_000_000
ISSUE, NODE = 1, 2
FIRST = 3


def book_with(*balances: int) -> Book:
    """Two system accounts, then one for each balance, in micro-J."""
    book = Book()
    book.open(SYSTEM)
    book.open(SYSTEM)
    book.open(SYSTEM)
    for number, balance in enumerate(balances, FIRST):
        assert book.open() == number
        if balance:
            record = np.zeros(1, TRANSFER)
            record["id"] = np.void(number.to_bytes(16, "big"))
            record["debit"], record["credit"], record["amount"] = ISSUE, number, balance
            assert book.apply(record, 1, {})[0].tolist() == [0]
    book.forget_undo()
    return book


def tick(meter: Meter, now_s: int, *counters: tuple[int, int] | tuple[int, int, int]) -> Tick:
    """(slot, seconds) or (slot, seconds, bytes) of each session."""
    rows = [(*one, 0)[:3] for one in counters]
    slots, seconds, relayed = zip(*rows, strict=True) if rows else ((), (), ())
    return meter.tick(
        np.array(slots, np.uint32),
        np.array(seconds, np.uint64),
        np.array(relayed, np.uint64),
        now_s,
    )


def posted(book: Book, account: int) -> int:
    return book.balance(account, 0)[0]


def held(book: Book, account: int) -> int:
    return book.balance(account, 0)[3]


def granted(meter: Meter, slot: int) -> int:
    return int(meter.columns["granted"][slot])


def test_a_session_holds_thirty_seconds_and_is_charged_what_it_used() -> None:
    book = book_with(100 * J)
    meter = Meter(book, 10)
    slot = meter.open(FIRST, NODE, J, 0, 0)
    assert held(book, FIRST) == SLICE_S * J
    assert granted(meter, slot) == SLICE_S
    first = tick(meter, 1, (slot, 1))
    assert first.rows.tolist() == [(slot, FIRST, J, 1)]
    assert first.credits == {NODE: J}
    assert (posted(book, FIRST), posted(book, NODE)) == (99 * J, J)
    # The same counter again costs nothing, and neither does one that has gone back.
    assert not len(tick(meter, 2, (slot, 1)).rows)
    assert not len(tick(meter, 3, (slot, 0)).rows)
    # A late tick charges exactly.
    assert tick(meter, 20, (slot, 18)).rows["charge"].tolist() == [17 * J]
    # Renewed when a fifth is left.
    assert held(book, FIRST) == 12 * J
    tick(meter, 26, (slot, 24))
    assert held(book, FIRST) == SLICE_S * J
    assert granted(meter, slot) == 24 + SLICE_S
    meter.close(slot)
    assert held(book, FIRST) == 0
    assert posted(book, FIRST) == 76 * J


def test_ten_pay_for_ten_seconds_with_a_warning_before_the_end() -> None:
    book = book_with(10 * J)
    meter = Meter(book, 10)
    slot = meter.open(FIRST, NODE, J, 0, 0)
    assert granted(meter, slot) == 10
    warned, stopped = [], []
    for second in range(1, 12):
        result = tick(meter, second, (slot, min(second, 10)))
        warned += [second] * len(result.warned)
        stopped += [second] * len(result.stopped)
    assert len(warned) == 1
    assert warned[0] < 10
    assert stopped == [10]
    assert posted(book, FIRST) == held(book, FIRST) == 0


def test_there_are_no_more_sessions_than_slots() -> None:
    meter = Meter(book_with(100 * J), 1)
    slot = meter.open(FIRST, NODE, J, 0, 0)
    assert meter.open(FIRST, NODE, J, 0, 0) == NO_SLOT
    meter.close(slot)
    assert meter.open(FIRST, NODE, J, 0, 0) == slot


def test_what_one_session_holds_another_cannot_spend() -> None:
    book = book_with(40 * J)
    meter = Meter(book, 10)
    first = meter.open(FIRST, NODE, J, 0, 0)
    second = meter.open(FIRST, NODE, J, 0, 0)
    assert (granted(meter, first), granted(meter, second)) == (30, 10)
    assert held(book, FIRST) == 40 * J
    assert meter.open(FIRST, NODE, J, 0, 0) == NO_MONEY
    record = np.zeros(1, TRANSFER)
    record["id"] = np.void(b"\1" * 16)
    record["debit"], record["credit"], record["amount"] = FIRST, NODE, 1
    assert book.apply(record, 2, {})[0].tolist() == [9], "held is spent for transfers too"
    meter.close(first)
    assert meter.open(FIRST, NODE, J, 0, 0) >= 0


def test_a_silent_session_holds_little_and_goes_on() -> None:
    book = book_with(100 * J)
    meter = Meter(book, 10)
    slot = meter.open(FIRST, NODE, J, 0, 0)
    tick(meter, IDLE_S, (slot, 0))
    assert held(book, FIRST) == IDLE_SLICE_S * J
    assert granted(meter, slot) == IDLE_SLICE_S
    tick(meter, IDLE_S + 1, (slot, 1))
    assert granted(meter, slot) == 1 + SLICE_S


def test_a_call_that_turns_to_video_costs_twice_from_then_on() -> None:
    book = book_with(100 * J)
    meter = Meter(book, 10)
    slot = meter.open(FIRST, NODE, J, 0, 0)
    tick(meter, 10, (slot, 10))
    meter.change(slot, NODE, 2 * J, 0, 10)
    assert granted(meter, slot) == 10 + SLICE_S
    tick(meter, 15, (slot, 15))
    assert posted(book, FIRST) == (100 - 10 - 10) * J
    # What it has cost since then; what was before is a record of its own.
    assert meter.columns["cost"][slot] == 10 * J
    meter.change(slot, NODE, J, 0, 15)
    tick(meter, 16, (slot, 16))
    assert posted(book, FIRST) == (100 - 10 - 10 - 1) * J


def test_a_change_that_was_not_stored_is_taken_back() -> None:
    book = book_with(100 * J)
    meter = Meter(book, 10)
    slot = meter.open(FIRST, NODE, J, 0, 0)
    tick(meter, 10, (slot, 10))
    columns = {name: column.tolist() for name, column in meter.columns.items()}
    balance = book.balance(FIRST, 0)
    first = meter.change(slot, NODE, 2 * J, 5, 10)
    second = meter.change(slot, ISSUE, 3 * J, 0, 11)
    assert held(book, FIRST) == 3 * SLICE_S * J
    meter.undo_segments(second)
    meter.undo_segments(first)
    assert {name: column.tolist() for name, column in meter.columns.items()} == columns
    assert book.balance(FIRST, 0) == balance
    tick(meter, 12, (slot, 12))
    assert posted(book, FIRST) == (100 - 12) * J


def test_the_largest_price_is_charged_exactly() -> None:
    balance = 2**60 - 7
    book = book_with(balance)
    meter = Meter(book, 10)
    slot = meter.open(FIRST, NODE, PRICE_MAXIMUM, PRICE_MAXIMUM, 0)
    assert held(book, FIRST) == SLICE_S * PRICE_MAXIMUM
    first = tick(meter, 1, (slot, 20, 2_345_678))
    due = 20 * PRICE_MAXIMUM + 2_345_678 * PRICE_MAXIMUM // MEGABYTE
    assert posted(book, FIRST) == balance - due
    assert first.credits == {NODE: due}
    assert int(first.rows["charge"].astype(np.int64).sum()) == due
    # Far more than anybody has, and than 64 bits hold: it comes a part a tick.
    for number in range(1, 3):
        more = tick(meter, 1 + number, (slot, 2**32 - 2, 2**64 - 1))
        assert more.credits == {NODE: TICK_CHARGE_MAXIMUM}
        assert int(more.rows["charge"].astype(np.int64).sum()) == TICK_CHARGE_MAXIMUM
        assert posted(book, FIRST) == balance - due - number * TICK_CHARGE_MAXIMUM


def test_who_owes_more_than_anybody_has_pays_what_there_is() -> None:
    book = book_with(60 * PRICE_MAXIMUM)
    meter = Meter(book, 10)
    slot = meter.open(FIRST, NODE, PRICE_MAXIMUM, PRICE_MAXIMUM, 0)
    last = tick(meter, 2, (slot, 2**32 - 2, 2**64 - 1))
    assert last.credits == {NODE: 60 * PRICE_MAXIMUM}
    assert (posted(book, FIRST), held(book, FIRST)) == (0, 0)
    assert last.stopped.tolist() == [slot]


@pytest.mark.parametrize("prices", [(PRICE_MAXIMUM + 1, 0), (0, PRICE_MAXIMUM + 1), (-1, 0)])
def test_no_price_is_past_the_bound(prices: tuple[int, int]) -> None:
    meter = Meter(book_with(100 * J), 10)
    with pytest.raises(AssertionError):
        meter.open(FIRST, NODE, *prices, 0)
    slot = meter.open(FIRST, NODE, J, 0, 0)
    with pytest.raises(AssertionError):
        meter.change(slot, NODE, *prices, 1)


def test_each_payee_gets_what_its_sessions_cost() -> None:
    book = book_with(*[100 * J] * 8)
    meter = Meter(book, 20)
    payees = [NODE, FIRST + 7, FIRST + 6, NODE, ISSUE, FIRST + 7]
    slots = [meter.open(FIRST + index, into, J, 0, 0) for index, into in enumerate(payees)]
    first = tick(meter, 1, *((slot, 1 + slot) for slot in slots))
    expected: dict[int, int] = {}
    for slot, into in zip(slots, payees, strict=True):
        expected[into] = expected.get(into, 0) + (1 + slot) * J
    assert first.credits == expected
    assert list(first.credits) == sorted(expected)
    # Nothing of it is left for the next one, whether or not there are more accounts by then.
    for _ in range(2000):
        book.open()
    late = meter.open(FIRST, FIRST + 1500, J, 0, 1)
    second = tick(meter, 2, (slots[0], 3), (late, 1))
    assert second.credits == {NODE: 2 * J, FIRST + 1500: J}
    assert tick(meter, 3, (slots[0], 3)).credits == {}


def test_who_pays_in_goes_on_after_the_warning() -> None:
    book = book_with(5 * J, 1000 * J)
    meter = Meter(book, 10)
    slot = meter.open(FIRST, NODE, J, 0, 0)
    assert len(tick(meter, 1, (slot, 1)).warned) == 1
    record = np.zeros(1, TRANSFER)
    record["id"] = np.void(b"\1" * 16)
    record["debit"], record["credit"], record["amount"] = FIRST + 1, FIRST, 100 * J
    book.apply(record, 2, {})
    result = tick(meter, 2, (slot, 2))
    assert not len(result.warned)
    assert meter.columns["state"][slot] == LIVE
    assert granted(meter, slot) == 2 + SLICE_S


def test_a_frozen_account_pays_for_what_was_relayed_and_no_more() -> None:
    book = book_with(100 * J)
    meter = Meter(book, 10)
    slot = meter.open(FIRST, NODE, J, 0, 0)
    tick(meter, 1, (slot, 1))
    book.set_flags(FIRST, FROZEN)
    result = tick(meter, 2, (slot, 2))
    assert result.stopped.tolist() == [slot]
    assert [part.tolist() for part in result.granted] == [[slot], [2]]
    assert (posted(book, FIRST), held(book, FIRST)) == (98 * J, 0)
    assert meter.open(FIRST, NODE, J, 0, 3) == NO_MONEY


def test_bytes_are_charged_without_drift() -> None:
    book = book_with(100 * J)
    meter = Meter(book, 10)
    slot = meter.open(FIRST, NODE, 0, 7, 0)
    assert granted(meter, slot) == UNLIMITED_S
    total = 0
    for second in range(1, 1000):
        total += 99_991
        tick(meter, second, (slot, second, total))
    assert posted(book, NODE) == total * 7 // MEGABYTE


def test_a_charge_that_no_row_holds_takes_several() -> None:
    price = 3_000_000_000
    book = book_with(100 * price)
    meter = Meter(book, 10)
    slot = meter.open(FIRST, NODE, price, 0, 0)
    result = tick(meter, 4, (slot, 4))
    assert sum(result.rows["charge"].tolist()) == 4 * price == result.credits[NODE]
    assert len(result.rows) == 3
    again = Meter(book_with(100 * price), 10)
    as_of = np.zeros(1, np.uint64)
    again.restore(*(np.array([one], np.uint32) for one in (slot, FIRST, NODE)))
    again.replay(result.rows, result.credits, 2, as_of, as_of)
    assert posted(again.book, FIRST) == posted(book, FIRST)
    assert again.columns["cost"][slot] == 4 * price


class MeterAndModel(RuleBasedStateMachine):
    """Sessions of three accounts, beside the same in plain Python."""

    @initialize(balances=st.lists(st.integers(0, 60 * J), min_size=3, max_size=3))
    def begin(self, balances: list[int]) -> None:
        self.book = book_with(*balances)
        self.meter = Meter(self.book, 6)
        self.given = sum(balances)
        self.now_s = 100
        # slot -> (account, segments: (price, bytes price, seconds, bytes), counters)
        self.sessions: dict[int, dict[str, Any]] = {}

    @rule(
        account=st.integers(FIRST, FIRST + 2),
        price=st.sampled_from([0, 1, 333_333, J, 2 * J, 50 * J]),
        per_megabyte=st.sampled_from([0, 0, 1, 7, J]),
    )
    def open(self, account: int, price: int, per_megabyte: int) -> None:
        before = self.book.balance(account, 0)
        available = before[0] - before[3]
        slot = self.meter.open(account, NODE, price, per_megabyte, self.now_s)
        full = len(self.sessions) == 6
        can_pay = available >= price and (price or not per_megabyte or available > 0)
        assert (slot >= 0) == (can_pay and not full)
        if slot >= 0:
            assert slot not in self.sessions
            self.sessions[slot] = {
                "account": account,
                "price": (price, per_megabyte),
                "base": (0, 0),
                "cost": 0,
                "seconds": 0,
                "bytes": 0,
            }
        else:
            assert self.book.balance(account, 0) == before

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), undone=st.booleans())
    def tick(self, data: st.DataObject, undone: bool) -> None:
        self.now_s += data.draw(st.sampled_from([1, 1, 1, 2, 70]))
        counters = []
        for slot, session in self.sessions.items():
            if not data.draw(st.integers(0, 9)):
                continue
            limit = granted(self.meter, slot)
            step = data.draw(st.sampled_from([0, 1, 1, 2, 5]))
            seconds = min(session["seconds"] + step, max(limit, session["seconds"]))
            relayed = session["bytes"] + data.draw(st.integers(0, 3 * MEGABYTE))
            counters.append((slot, seconds, relayed))
        if undone:
            before = {name: column.copy() for name, column in self.meter.columns.items()}
            books = {name: column.copy() for name, column in self.book.columns.items()}
            self.meter.undo(tick(self.meter, self.now_s, *counters))
            for name, column in books.items():
                assert (self.book.columns[name] == column).all(), name
            for name, column in before.items():
                assert (self.meter.columns[name] == column).all(), name
        result = tick(self.meter, self.now_s, *counters)
        charged = dict.fromkeys(self.sessions, 0)
        for slot, account, charge, _ in result.rows.tolist():
            assert account == self.sessions[slot]["account"]
            charged[slot] += charge
        assert sum(charged.values()) == sum(result.credits.values())
        for slot, seconds, relayed in counters:
            session = self.sessions[slot]
            session["seconds"], session["bytes"] = seconds, relayed
            price, per_megabyte = session["price"]
            base_seconds, base_bytes = session["base"]
            due = (seconds - base_seconds) * price + (
                relayed - base_bytes
            ) * per_megabyte // MEGABYTE
            session["cost"] += charged[slot]
            # What could be paid was paid, and not a micro-J more.
            assert session["cost"] <= due
            if not per_megabyte:
                assert session["cost"] == due, "granted seconds are paid for"
        assert set(result.stopped.tolist()) <= {
            slot for slot in self.sessions if self.meter.columns["state"][slot] == STOPPED
        }

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), price=st.sampled_from([0, J, 2 * J]))
    def change(self, data: st.DataObject, price: int) -> None:
        slot = data.draw(st.sampled_from(sorted(self.sessions)))
        session = self.sessions[slot]
        self.meter.change(slot, NODE, price, 0, self.now_s)
        session["base"] = (session["seconds"], session["bytes"])
        session["cost"] = 0
        session["price"] = (price, 0)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.sessions)))
        assert self.meter.columns["cost"][slot] == self.sessions.pop(slot)["cost"]
        self.meter.close(slot)

    @invariant()
    def nobody_is_below_nothing(self) -> None:
        if not hasattr(self, "book"):
            return
        total = posted(self.book, NODE)
        for account in range(FIRST, FIRST + 3):
            balance, _, _, kept = self.book.balance(account, 0)
            assert 0 <= kept <= balance
            mine = [slot for slot, one in self.sessions.items() if one["account"] == account]
            assert kept == sum(int(self.meter.columns["held"][slot]) for slot in mine)
            total += balance
        assert total == self.given
        assert self.meter.live == len(self.sessions)


TestMeterAndModel = MeterAndModel.TestCase
TestMeterAndModel.settings = settings(max_examples=150, stateful_step_count=40)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**40)), max_size=20))
def test_counters_of_any_size_do_no_harm(counters: list[tuple[int, int]]) -> None:
    book = book_with(50 * J)
    meter = Meter(book, 4)
    slot = meter.open(FIRST, NODE, J, 1000, 0)
    for second, (seconds, relayed) in enumerate(counters):
        tick(meter, second, (slot, seconds * 2**30, relayed))
    assert 0 <= held(book, FIRST) <= posted(book, FIRST)
    assert posted(book, FIRST) + posted(book, NODE) == 50 * J
