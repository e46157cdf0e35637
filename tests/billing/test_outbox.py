"""What is to be told is in the outbox exactly if its cause has happened, until it is settled."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from billing import outbox as outbox_module
from billing.ledger import ISSUE, LmdbLedger
from billing.outbox import Change, Outbox, Outcome, Settled, Waiting
from billing.tables import OUTBOX
from billing.transfers import Result, Transfer
from core.api.bridge_messages import (
    AlarmBody,
    EventBody,
    ForwardBody,
    ReceiptBody,
    RingBody,
    RingOverBody,
    SmsBody,
    TransferReceivedBody,
    UnlinkedBody,
)
from core.clock import VirtualClock
from core.errors import OperationError
from core.store import Store, open_store
from core.store_files import Schema
from core.tables import Writing
from tests.support.small_ledger import open_small

DAY_S = 24 * 3600
RING = RingBody(call="CALL-ABCDEFGH", caller="tg:1", kind="voice", url="https://node/call#secret")
BODIES: list[EventBody] = [
    RING,
    RingOverBody(call="CALL-ABCDEFGH", status="missed", seconds=0),
    ReceiptBody(
        call="CALL-ABCDEFGH",
        other="tg:1",
        kind="voice",
        seconds=5,
        cost="5.000000",
        balance="1.000000",
        reason="hang-up",
    ),
    TransferReceivedBody(amount="1.000000", currency="J", sender="tg:1", balance="2.000000"),
    SmsBody(text="код 1234 🙂"),
    ForwardBody(sender="+79991234567", recipient="modem", text="привет", received_ms=1),
    UnlinkedBody(phone="+7999***67", balance="1.000000"),
    AlarmBody(text="80 %"),
]
SMS, CHATTER = BODIES[4], BODIES[3]


def identity(number: int) -> bytes:
    return number.to_bytes(16, "big")


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def open_here(folder: Path) -> Store:
    return open_store(folder, tables=(OUTBOX,), schema=Schema(1), map_bytes=1 << 27)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_here(tmp_path) as store:
        yield store


@pytest.fixture
def outbox(store: Store, clock: VirtualClock) -> Outbox:
    return Outbox(store, clock)


def put(
    store: Store,
    outbox: Outbox,
    number: int,
    body: EventBody = SMS,
    *,
    to: str = "tg:1",
    bridge: str = "telegram",
    urgent: bool = False,
    lifetime_s: int = DAY_S,
) -> bool:
    return store.submit(
        lambda writing: outbox.put(
            writing,
            bridge,
            to,
            body,
            key=identity(number),
            urgent=urgent,
            lifetime_s=lifetime_s,
        )
    ).result(30)


def settle(store: Store, outbox: Outbox, number: int, outcome: Any = "done") -> bool:
    return store.submit(lambda writing: outbox.settle(writing, identity(number), outcome)).result(
        30
    )


def rows(store: Store) -> dict[bytes, bytes]:
    with store.read() as tables:
        return dict(tables.items(OUTBOX, limit=10**6))


def waiting(changes: list[Change]) -> list[Waiting]:
    assert all(isinstance(one, Waiting) for one in changes)
    return [one for one in changes if isinstance(one, Waiting)]


# ---------------------------------------------------------------- what waits


def test_every_body_comes_out_as_it_went_in(
    store: Store, outbox: Outbox, clock: VirtualClock
) -> None:
    for number, body in enumerate(BODIES, 1):
        assert put(store, outbox, number, body, urgent=body is RING, lifetime_s=number)
    events = outbox.read(waiting(outbox.take_changes()))
    assert [event.body for event in events] == BODIES
    now_ms = int(clock.unix_s() * 1000)
    for number, event in enumerate(events, 1):
        assert event.id == identity(number).hex()
        assert (event.to, event.created_ms) == ("tg:1", now_ms)
        assert event.expires_ms == now_ms + number * 1000


def test_the_same_key_twice_is_one_event(store: Store, outbox: Outbox) -> None:
    assert put(store, outbox, 1, SmsBody("first"))
    assert put(store, outbox, 1, SmsBody("second"))
    (event,) = outbox.read(waiting(outbox.take_changes()))
    assert event.body == SmsBody("first")
    # Within one transaction, too.
    store.submit(
        lambda writing: [
            outbox.put(writing, "gsm", "+1", SmsBody(text), key=identity(2), lifetime_s=1)
            for text in ("a", "b")
        ]
    ).result(30)
    (event,) = outbox.read(waiting(outbox.take_changes()))
    assert event.body == SmsBody("a")


def test_what_is_settled_is_erased(store: Store, outbox: Outbox) -> None:
    heard: list[Settled] = []
    outbox.on_settled.append(lambda _, settled: heard.append(settled))
    for number in range(1, 5):
        put(store, outbox, number, SmsBody("a secret text"), to=f"+{number}", bridge="gsm")
    events = waiting(outbox.take_changes())
    assert all(b"a secret text" in row for row in rows(store).values())
    outcomes: list[Outcome] = ["done", "failed", "unknown", "expired"]
    for number, outcome in enumerate(outcomes, 1):
        assert settle(store, outbox, number, outcome)
        assert not settle(store, outbox, number, outcome)
        assert heard[-1] == Settled(identity(number), "gsm", f"+{number}", outcome, "")
    assert len(heard) == 4
    assert rows(store) == {}
    assert outbox.read(events) == []
    assert outbox.take_changes() == [identity(number) for number in range(1, 5)]
    assert outbox.outcomes() == {"done": 1, "failed": 1, "unknown": 1, "expired": 1}


def test_who_listens_can_keep_it_from_being_settled(store: Store, outbox: Outbox) -> None:
    def refuse(writing: Writing, settled: Settled) -> None:
        raise OperationError("the record can't be written")

    put(store, outbox, 1)
    outbox.take_changes()
    outbox.on_settled.append(refuse)
    with pytest.raises(OperationError, match="record"):
        settle(store, outbox, 1)
    assert set(rows(store)) == {identity(1)}
    assert outbox.take_changes() == []
    assert outbox.outcomes() == {}


def test_an_event_whose_transaction_fails_never_was(store: Store, outbox: Outbox) -> None:
    def fail(writing: Writing) -> None:
        outbox.put(writing, "telegram", "tg:1", SMS, key=identity(1), lifetime_s=1)
        outbox.settle(writing, identity(9), "done")
        raise ValueError("no")

    put(store, outbox, 9)
    before, changes = rows(store), outbox.take_changes()
    assert len(changes) == 1
    with pytest.raises(ValueError, match="no"):
        store.submit(fail).result(30)
    assert rows(store) == before
    assert outbox.take_changes() == []
    # What was counted was uncounted: there is as much room as before.
    for number in range(10, 10 + outbox_module.RECIPIENT_MAXIMUM - 1):
        assert put(store, outbox, number)
    assert not put(store, outbox, 10**6)


def test_who_waits_is_told_once_a_commit(store: Store, outbox: Outbox) -> None:
    told: list[int] = []
    outbox.on_change = lambda: told.append(1)

    def several(writing: Writing) -> None:
        for number in range(5):
            outbox.put(writing, "gsm", "+1", SMS, key=identity(number + 1), lifetime_s=1)

    store.submit(several).result(30)
    assert told == [1]
    put(store, outbox, 10)
    assert told == [1], "nobody has looked since"
    assert len(outbox.take_changes()) == 6
    put(store, outbox, 11)
    assert told == [1, 1]


# ---------------------------------------------------------------- room


def test_chatter_leaves_room_for_the_rest(
    store: Store, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "OUTBOX_MAXIMUM", 20)
    monkeypatch.setattr(outbox_module, "CHATTER_MAXIMUM", 12)
    monkeypatch.setattr(outbox_module, "RECIPIENT_MAXIMUM", 5)
    monkeypatch.setattr(outbox_module, "RECIPIENT_CHATTER_MAXIMUM", 3)
    number = iter(range(1, 1000))

    def fill(body: EventBody, to: str) -> int:
        """How many find room until one doesn't."""
        count = 0
        while put(store, outbox, next(number), body, to=to):
            count += 1
        return count

    assert [fill(CHATTER, "tg:1"), fill(SMS, "tg:1"), fill(RING, "tg:1")] == [3, 2, 0]
    assert [fill(SMS, "tg:2"), fill(CHATTER, "tg:2")] == [5, 0]
    assert [fill(CHATTER, "tg:3"), fill(CHATTER, "tg:4"), fill(CHATTER, "tg:5")] == [2, 0, 0]
    assert [fill(SMS, to) for to in ("tg:3", "tg:4", "tg:5")] == [3, 5, 0]
    assert len(rows(store)) == 20
    assert outbox.outcomes() == {"dropped": 11}
    # The same recipient of another bridge is another one.
    settle(store, outbox, 1)
    assert put(store, outbox, 10**6, SMS, to="tg:1", bridge="webhook")
    assert not put(store, outbox, 10**6 + 1, SMS, to="tg:1")


# ---------------------------------------------------------------- starting again


def test_a_start_takes_up_what_is_left_in_its_order(tmp_path: Path, clock: VirtualClock) -> None:
    with open_here(tmp_path) as store:
        outbox = Outbox(store, clock)
        # Not the order of their keys.
        for number in (5, 3, 9, 1):
            put(store, outbox, number)
        settle(store, outbox, 3)
    with open_here(tmp_path) as store:
        again = Outbox(store, clock)
        put(store, again, 2)
        left = waiting(again.take_changes())
        assert [one.id for one in left] == [identity(number) for number in (5, 9, 1, 2)]
        assert [one.sequence for one in left] == sorted(one.sequence for one in left)
        for number in range(100, 100 + outbox_module.RECIPIENT_MAXIMUM - 4):
            assert put(store, again, number)
        assert not put(store, again, 99)


def test_a_row_that_says_nothing_is_removed(
    tmp_path: Path, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    with open_here(tmp_path) as store:
        outbox = Outbox(store, clock)
        put(store, outbox, 1)
        good = rows(store)[identity(1)]
        bad = {
            identity(2): b"",
            identity(3): b"\xc1secret text",
            identity(4): good[:-3],
            identity(5): good.replace(b"sms", b"smx"),
        }
        for key, value in bad.items():
            store.submit(partial(Writing.put, table=OUTBOX, key=key, value=value)).result(30)
        again = Outbox(store, clock)
        assert set(rows(store)) == {identity(1)}
        assert [one.id for one in waiting(again.take_changes())] == [identity(1)]
    assert "removed: 4" in caplog.text
    assert "secret" not in caplog.text


# ---------------------------------------------------------------- with the ledger


def test_the_recipient_is_told_exactly_if_the_transfer_is_done(tmp_path: Path) -> None:
    clock = VirtualClock()

    async def run(ledger: LmdbLedger) -> None:
        outbox = Outbox(ledger.store, clock)
        account = await ledger.open_account(["tg:1"])

        def tell(number: int) -> Callable[[Writing], None]:
            def also(writing: Writing) -> None:
                outbox.put(
                    writing, "telegram", "tg:1", CHATTER, key=identity(number), lifetime_s=DAY_S
                )

            return also

        paid = Transfer(identity(1), ISSUE, account, 10)
        assert await ledger.transfer([paid], also=tell(1)) == [Result.DONE]
        assert await ledger.transfer([paid], also=tell(2)) == [Result.EXISTS]
        refused = Transfer(identity(3), account, ISSUE, 11)
        assert await ledger.transfer([refused], also=tell(3)) == [Result.NO_FUNDS]
        assert set(rows(ledger.store)) == {identity(1)}
        # An answer that got lost: the event is settled, and does not come again with the retry.
        await outbox.acknowledge(identity(1), "done")
        assert await ledger.transfer([paid], also=tell(1)) == [Result.EXISTS]
        assert rows(ledger.store) == {}

    with open_small(tmp_path / "ledger", clock) as ledger:
        trio.run(run, ledger)


# ---------------------------------------------------------------- any order


SMALL = {
    "OUTBOX_MAXIMUM": 14,
    "CHATTER_MAXIMUM": 10,
    "RECIPIENT_MAXIMUM": 6,
    "RECIPIENT_CHATTER_MAXIMUM": 4,
}


def has_room(model: dict[bytes, tuple[str, EventBody]], to: str, body: EventBody) -> bool:
    urgent = isinstance(body, RingBody | SmsBody | ForwardBody)
    of_recipient = sum(one == to for one, _ in model.values())
    return len(model) < (14 if urgent else 10) and of_recipient < (6 if urgent else 4)


class OutboxMachine(RuleBasedStateMachine):
    """The outbox beside a dictionary, over transactions that fail and starts."""

    @initialize()
    def begin(self) -> None:
        self.exits = ExitStack()
        self.folder = Path(self.exits.enter_context(tempfile.TemporaryDirectory()))
        self.clock = VirtualClock()
        self.model: dict[bytes, tuple[str, EventBody]] = {}
        monkeypatch = self.exits.enter_context(pytest.MonkeyPatch.context())
        for name, maximum in SMALL.items():
            monkeypatch.setattr(outbox_module, name, maximum)
        self.seen: dict[bytes, Waiting] = {}
        self.number = 0
        self.open()

    def open(self) -> None:
        self.store = open_here(self.folder)
        self.outbox = Outbox(self.store, self.clock)
        self.seen = {}

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.exits.close()

    @rule(
        acts=st.lists(
            st.tuples(
                st.sampled_from(["new", "again", "settle", "settle"]),
                st.integers(0, 20),
                st.sampled_from(BODIES),
                st.sampled_from(["tg:1", "tg:2", "+79991234567"]),
            ),
            max_size=8,
        ),
        fails=st.sampled_from([False, False, True]),
    )
    def write(self, acts: list[tuple[str, int, EventBody, str]], fails: bool) -> None:
        """A transaction of several acts, which may fail at its end."""
        model = dict(self.model)
        planned: list[Callable[[Writing], object]] = []
        for act, choice, body, to in acts:
            known = sorted(model)
            key = known[choice % len(known)] if known else identity(10**6)
            if act == "new":
                self.number += 1
                key = identity(self.number)
            if act == "settle":
                model.pop(key, None)
                planned.append(partial(self.outbox.settle, identity=key, outcome="done"))
                continue
            if key in model or has_room(model, to, body):
                model.setdefault(key, (to, body))
            planned.append(
                partial(
                    self.outbox.put,
                    bridge="telegram",
                    to=to,
                    body=body,
                    key=key,
                    lifetime_s=DAY_S,
                )
            )

        def write(writing: Writing) -> None:
            for one in planned:
                one(writing)
            if fails:
                raise ValueError("no")

        future = self.store.submit(write)
        if fails:
            with pytest.raises(ValueError, match="no"):
                future.result(30)
        else:
            future.result(30)
            self.model = model

    @precondition(lambda self: self.number)
    @rule()
    def start_again(self) -> None:
        self.store.close()
        self.open()

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        for change in self.outbox.take_changes():
            if isinstance(change, Waiting):
                assert change.id not in self.seen
                self.seen[change.id] = change
            else:
                del self.seen[change]
        assert set(self.seen) == set(self.model)
        events = self.outbox.read(list(self.seen.values()))
        assert {bytes.fromhex(one.id): (one.to, one.body) for one in events} == self.model
        sequences = [one.sequence for one in self.seen.values()]
        assert sequences == sorted(sequences)


TestOutboxMachine = OutboxMachine.TestCase
TestOutboxMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
