"""In which order events are given: rings first, in turns, one at a time to each."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings

from billing.outbox import Waiting
from relay.event_queue import EXPIRIES_SPARED, EventQueue

FAR_MS = 10**15


def event(
    number: int, to: str = "tg:1", *, urgent: bool = False, expires_ms: int = FAR_MS
) -> Waiting:
    identity = number.to_bytes(16, "big")
    return Waiting(identity, "telegram", to, urgent, not urgent, number, number, expires_ms)


def queue_of(*events: Waiting) -> EventQueue:
    queue = EventQueue()
    for one in events:
        queue.add(one)
    return queue


def sequences(queue: EventQueue, now_ms: int = 0) -> list[int]:
    """What is given when each event is acknowledged at once."""
    order = []
    while (one := queue.next(now_ms)) is not None:
        order.append(one.sequence)
        assert queue.remove(one.id)
    return order


def test_events_of_a_recipient_keep_their_order_and_urgent_ones_come_first() -> None:
    queue = queue_of(event(1), event(2), event(3, urgent=True), event(4, urgent=True), event(5))
    assert sequences(queue) == [3, 4, 1, 2, 5]
    assert len(queue) == queue.given == 0
    assert queue.oldest_ms is None


def test_a_ring_comes_before_the_chatter_of_others() -> None:
    queue = queue_of(*(event(number, f"tg:{number}") for number in range(1, 6)))
    queue.add(event(9, "tg:9", urgent=True))
    queue.add(event(10, "tg:5", urgent=True))
    assert sequences(queue) == [9, 10, 1, 2, 3, 4, 5]


def test_one_event_at_a_time_goes_to_a_recipient() -> None:
    queue = queue_of(event(1), event(2), event(3, urgent=True), event(4, "tg:2"))
    first, second = queue.next(0), queue.next(0)
    assert first is not None
    assert second is not None
    assert (first.sequence, second.sequence) == (3, 4)
    assert queue.next(0) is None
    assert queue.given == 2
    queue.remove(first.id)
    assert sequences(queue) == [1, 2]


def test_a_thousand_recipients_have_their_turns() -> None:
    queue = EventQueue()
    number = 0
    # The first one floods; the others have little.
    for turn in range(64):
        for recipient in range(1000 if turn < 3 else 1):
            number += 1
            queue.add(event(number, f"tg:{recipient}"))
    order: list[str] = []
    while (one := queue.next(0)) is not None:
        order.append(one.to)
        queue.remove(one.id)
    for turn in range(3):
        assert len(set(order[turn * 1000 : (turn + 1) * 1000])) == 1000
    assert order[3000:] == ["tg:0"] * 61


def test_what_a_bridge_has_not_acknowledged_is_given_again_in_its_place() -> None:
    queue = queue_of(event(1), event(2), event(3, "tg:2"))
    assert [one and one.sequence for one in (queue.next(0), queue.next(0))] == [1, 3]
    queue.give_back()
    assert queue.given == 0
    queue.add(event(4, urgent=True))
    assert sequences(queue) == [4, 3, 1, 2]


def test_what_is_stale_is_given_to_nobody_and_told_of_once() -> None:
    queue = queue_of(event(1, expires_ms=10), event(2, expires_ms=20), event(3))
    given_one = queue.next(9)
    assert given_one is not None
    # What a bridge has is its own matter, until it is gone.
    assert queue.take_stale(15, 100) == []
    queue.give_back()
    assert queue.take_stale(15, 100) == [given_one.id]
    queue.keep_stale([given_one.id])
    # One that is met on the way is told of, too.
    assert sequences(queue, 20) == [3]
    assert len(queue) == 2
    first = queue.take_stale(20, 1)
    rest = queue.take_stale(20, 100)
    assert sorted(first + rest) == [event(1).id, event(2).id]
    assert queue.take_stale(10**6, 100) == []
    for identity in first + rest:
        assert queue.remove(identity)
        assert not queue.remove(identity)
    assert len(queue) == 0


def test_ends_of_what_was_acknowledged_are_forgotten() -> None:
    queue = EventQueue()
    for number in range(1, 5 * EXPIRIES_SPARED):
        queue.add(event(number))
        assert sequences(queue) == [number]
        assert len(queue._expiries) <= EXPIRIES_SPARED + 2
    assert not queue._recipients


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_comes_in_whatever_order_the_rules_hold(data: st.DataObject) -> None:
    """Beside a model that looks at everything each time."""
    queue = EventQueue()
    waiting: dict[bytes, Waiting] = {}
    given_out: dict[bytes, Waiting] = {}
    stale: set[bytes] = set()
    now_ms, number = 0, 0
    for _ in range(data.draw(st.integers(0, 60))):
        match data.draw(st.sampled_from("aaagggrrxt-")):
            case "a":
                number += 1
                one = event(
                    number,
                    f"tg:{data.draw(st.integers(1, 4))}",
                    urgent=data.draw(st.booleans()),
                    expires_ms=now_ms + data.draw(st.integers(1, 30)),
                )
                queue.add(one)
                waiting[one.id] = one
            case "g":
                busy = {one.to for one in given_out.values()}
                fresh = [one for one in waiting.values() if one.expires_ms > now_ms]
                free = [one for one in fresh if one.to not in busy]
                got = queue.next(now_ms)
                if got is None:
                    assert not free
                    continue
                assert got.id in waiting
                assert got.to not in busy
                assert got.expires_ms > now_ms
                same = [one for one in fresh if one.to == got.to]
                assert got is min(same, key=lambda one: (not one.urgent, one.sequence))
                assert got.urgent or not any(one.urgent for one in free)
                given_out[got.id] = waiting.pop(got.id)
            case "r" if waiting or given_out:
                identity = data.draw(st.sampled_from(sorted(waiting | given_out)))
                assert queue.remove(identity)
                waiting.pop(identity, None)
                given_out.pop(identity, None)
                stale.discard(identity)
            case "x":
                queue.give_back()
                waiting |= given_out
                given_out = {}
            case "t":
                now_ms += data.draw(st.integers(1, 20))
            case "-":
                found = queue.take_stale(now_ms, 100)
                assert len(found) == len(set(found))
                due = {one.id for one in waiting.values() if one.expires_ms <= now_ms}
                assert set(found) == due - stale
                stale |= due
        assert queue.given == len(given_out)
        assert len(queue) == len(waiting) + len(given_out)
