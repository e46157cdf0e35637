"""Bridges are given what is for them, at their pace, until they say what has become of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from hypothesis import given, settings

from billing.outbox import OUTBOX_MAXIMUM, RECIPIENT_MAXIMUM, Outbox
from billing.tables import OUTBOX
from core.api.bridge_messages import (
    AcknowledgeRequest,
    BridgeAnswerRequest,
    CommandBody,
    DoneReply,
    Event,
    EventBody,
    RingBody,
    SmsBody,
)
from core.clock import VirtualClock
from core.errors import OperationError
from core.store import Store, open_store
from core.store_files import Schema
from core.tables import Writing
from relay.event_source import (
    QUESTIONS_MAXIMUM,
    SWEEP_INTERVAL_S,
    SWEPT_AT_A_TIME,
    EventSource,
)

pytestmark = pytest.mark.trio
DAY_S = 24 * 3600
RING = RingBody(call="CALL-ABCDEFGH", caller="tg:1", kind="voice", url="https://node/call#secret")
USSD = CommandBody(name="ussd", arguments=("modem", "*100#"))


def identity(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Node:
    """An outbox and its source, as the node has them."""

    def __init__(self, store: Store, clock: VirtualClock) -> None:
        self.store = store
        self.clock = clock
        self.outbox = Outbox(store, clock)
        self.source = EventSource(self.outbox, clock)
        self.number = 0

    async def put(self, *texts: str, to: str = "tg:1", **options: Any) -> None:
        """Events in one transaction, of a text each; `ring` rings."""
        bridge, lifetime_s = options.pop("bridge", "telegram"), options.pop("lifetime_s", DAY_S)

        def write(writing: Writing) -> None:
            for text in texts:
                self.number += 1
                body: EventBody = RING if text == "ring" else SmsBody(text)
                assert self.outbox.put(
                    writing,
                    bridge,
                    to,
                    body,
                    key=identity(self.number),
                    urgent=body is RING,
                    lifetime_s=lifetime_s,
                )

        await self.store.write(write)

    def rows(self) -> int:
        with self.store.read() as tables:
            return tables.count(OUTBOX)


class Bridge:
    """What a bridge's connection was sent."""

    def __init__(self, node: Node, name: str = "telegram", window: int = 100) -> None:
        self._node = node
        self.events: list[Event] = []
        self.subscription = node.source.subscribe(name, window, self.events.append)

    @property
    def texts(self) -> list[str]:
        """What it has, in the order in which it came."""
        return [
            event.body.text if isinstance(event.body, SmsBody) else "ring" for event in self.events
        ]

    async def acknowledge(self, *texts: str, outcome: Any = "done") -> None:
        """What it has of these texts; it has it no more."""
        for text in texts:
            event = self.events.pop(self.texts.index(text))
            request = AcknowledgeRequest(event.id, outcome)
            assert await self._node.source.acknowledge(request) == DoneReply()

    async def acknowledge_all(self) -> list[str]:
        """All that comes, one after the other; the texts."""
        texts = []
        while self.events:
            texts.append(self.texts[0])
            await self.acknowledge(texts[-1])
        return texts


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
async def node(store: Store, clock: VirtualClock, nursery: trio.Nursery) -> Node:
    node = Node(store, clock)
    nursery.start_soon(node.source.run)
    await trio.testing.wait_all_tasks_blocked()
    return node


# ---------------------------------------------------------------- what a bridge is given


async def test_what_waits_comes_at_once_and_what_follows_as_it_comes(node: Node) -> None:
    await node.put("a", to="tg:1")
    bridge = Bridge(node)
    assert bridge.texts == ["a"]
    await node.put("b", to="tg:2")
    assert bridge.texts == ["a", "b"]
    event = bridge.events[0]
    assert (event.id, event.to) == (identity(1).hex(), "tg:1")
    assert event.expires_ms - event.created_ms == DAY_S * 1000
    await node.put("for another", bridge="gsm")
    assert bridge.texts == ["a", "b"]
    assert Bridge(node, "gsm").texts == ["for another"]


async def test_a_recipient_is_told_in_order_and_one_thing_at_a_time(node: Node) -> None:
    bridge = Bridge(node)
    await node.put("a", "b", "c")
    assert bridge.texts == ["a"]
    await bridge.acknowledge("a")
    assert bridge.texts == ["b"]
    await node.put("ring")
    assert bridge.texts == ["b"]
    await bridge.acknowledge("b", outcome="failed")
    assert bridge.texts == ["ring"]
    await bridge.acknowledge("ring", outcome="unknown")
    assert await bridge.acknowledge_all() == ["c"]
    assert node.rows() == 0
    outcomes = {"done": 2, "failed": 1, "unknown": 1}
    assert node.source.figures().items() >= outcomes.items()


async def test_rings_come_before_chatter(node: Node) -> None:
    for number in range(5):
        await node.put(f"chatter {number}", to=f"tg:{number}")
    await node.put("ring", to="tg:7")
    await node.put("later", "ring", to="tg:8")
    bridge = Bridge(node, window=1)
    order = await bridge.acknowledge_all()
    assert order == ["ring", "ring", *(f"chatter {number}" for number in range(5)), "later"]


async def test_no_more_than_its_window_is_with_a_bridge(node: Node) -> None:
    for number in range(20):
        await node.put(str(number), to=f"tg:{number}")
    bridge = Bridge(node, window=3)
    assert bridge.texts == ["0", "1", "2"]
    await node.put("new", to="tg:new")
    assert len(bridge.events) == 3
    await bridge.acknowledge("1")
    assert bridge.texts == ["0", "2", "3"]
    await bridge.acknowledge("0", "2")
    assert bridge.texts == ["3", "4", "5"]
    # A slow bridge costs the node no more than the outbox.
    assert node.rows() == 18
    assert len(await bridge.acknowledge_all()) == 18


async def test_a_thousand_recipients_have_their_turns(node: Node) -> None:
    await node.put(*(["flood"] * RECIPIENT_MAXIMUM), to="tg:0")
    async with trio.open_nursery() as nursery:
        for number in range(1, 1000):
            nursery.start_soon(partial(node.put, "a", "b", to=f"tg:{number}"))
    bridge = Bridge(node, window=200)
    turns: list[str] = []
    while bridge.events:
        turns += [event.to for event in bridge.events]
        async with trio.open_nursery() as nursery:
            for event in bridge.events:
                request = AcknowledgeRequest(event.id, "done")
                nursery.start_soon(node.source.acknowledge, request)
            bridge.events.clear()
    for turn in range(2):
        # Give or take a window.
        assert len(set(turns[turn * 1000 : (turn + 1) * 1000])) >= 1000 - 200
    assert len(turns) == 2 * 999 + RECIPIENT_MAXIMUM


# ---------------------------------------------------------------- connections that end


async def test_what_was_not_acknowledged_goes_to_the_next_connection(node: Node) -> None:
    await node.put("a", "b", to="tg:1")
    await node.put("c", to="tg:2")
    first = Bridge(node)
    assert first.texts == ["a", "c"]
    ids = [event.id for event in first.events]
    await first.acknowledge("c")
    first.subscription.close()
    first.subscription.close()
    await node.put("d", to="tg:3")
    assert first.texts == ["a"]
    second = Bridge(node)
    assert sorted(second.texts) == ["a", "d"]
    assert ids[0] in {event.id for event in second.events}
    first.subscription.close()
    assert node.source.is_connected("telegram"), "an old one's end is not the new one's"
    # What it had dealt with before it was cut off may be said on the new connection.
    assert sorted(await second.acknowledge_all()) == ["a", "b", "d"]
    assert node.rows() == 0


async def test_one_connection_of_a_bridge_at_a_time(node: Node) -> None:
    bridge = Bridge(node)
    with pytest.raises(OperationError) as caught:
        Bridge(node)
    assert caught.value.code == "subscribed"
    await node.put("a")
    assert bridge.texts == ["a"]
    bridge.subscription.close()
    assert not node.source.is_connected("telegram")
    assert Bridge(node).texts == ["a"]


async def test_an_event_is_acknowledged_as_often_as_a_bridge_likes(node: Node) -> None:
    await node.put("a", "b")
    bridge = Bridge(node)
    request = AcknowledgeRequest(bridge.events[0].id, "done")
    for _ in range(3):
        assert await node.source.acknowledge(request) == DoneReply()
    assert bridge.texts == ["a", "b"]
    unknown = AcknowledgeRequest("ab" * 16, "failed")
    assert await node.source.acknowledge(unknown) == DoneReply()
    assert node.source.figures()["done"] == 1
    assert node.source.figures()["failed"] == 0


async def test_after_a_start_the_same_is_given_again(tmp_path: Path, clock: VirtualClock) -> None:
    @asynccontextmanager
    async def running() -> Any:
        with open_here(tmp_path / "again") as store:
            node = Node(store, clock)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.source.run)
                await trio.testing.wait_all_tasks_blocked()
                yield node
                nursery.cancel_scope.cancel()

    async with running() as node:
        await node.put("a", "b", to="tg:1")
        await node.put("ring", to="tg:1")
        bridge = Bridge(node)
        await bridge.acknowledge("ring")
        assert bridge.texts == ["a"]
        ids = [event.id for event in bridge.events]
    async with running() as node:
        bridge = Bridge(node)
        assert [event.id for event in bridge.events] == ids
        assert await bridge.acknowledge_all() == ["a", "b"]


# ---------------------------------------------------------------- what is stale


async def test_a_ring_that_nobody_has_taken_is_erased(
    node: Node, clock: VirtualClock, autojump_clock: trio.testing.MockClock
) -> None:
    await node.put("ring", lifetime_s=30)
    await node.put("chatter")
    clock.advance_s(31)
    bridge = Bridge(node)
    assert bridge.texts == ["chatter"]
    while node.source.figures()["events"] > 1:
        await trio.sleep(SWEEP_INTERVAL_S)
    assert node.source.figures()["expired"] == 1
    # What a bridge has is not taken from it, however late.
    clock.advance_s(2 * DAY_S)
    await trio.sleep(3 * SWEEP_INTERVAL_S)
    assert node.rows() == 1
    bridge.subscription.close()
    while node.source.figures()["events"]:
        await trio.sleep(SWEEP_INTERVAL_S)
    assert node.rows() == 0
    assert node.source.figures()["expired"] == 2
    assert Bridge(node).texts == []


async def test_much_that_is_stale_goes_as_well(
    node: Node, clock: VirtualClock, autojump_clock: trio.testing.MockClock
) -> None:
    count = SWEPT_AT_A_TIME + 100
    for number in range(0, count, 100):
        await node.put(*(["x"] * 100), to=f"tg:{number}", lifetime_s=5)
    assert node.rows() == count < OUTBOX_MAXIMUM
    assert node.source.figures()["events"] == count
    clock.advance_s(7)
    assert node.source.figures()["oldest_s"] == 7
    while node.source.figures()["events"]:
        await trio.sleep(SWEEP_INTERVAL_S)
    assert node.rows() == 0
    figures = node.source.figures()
    assert (figures["events"], figures["oldest_s"], figures["expired"]) == (0, 0, count)


async def test_what_cannot_be_erased_is_tried_again(
    node: Node,
    clock: VirtualClock,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries: list[int] = []

    def refuse(_writing: Writing, _settled: object) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise OperationError("the disk is full")

    node.outbox.on_settled.append(refuse)
    await node.put("a secret", lifetime_s=5)
    clock.advance_s(6)
    with caplog.at_level(logging.WARNING, "montana.events"):
        while node.rows():
            await trio.sleep(SWEEP_INTERVAL_S)
    assert len(tries) == 3
    assert caplog.text.count("the disk is full") == 2
    assert "secret" not in caplog.text


# ---------------------------------------------------------------- questions


async def test_a_question_is_answered(node: Node, nursery: trio.Nursery) -> None:
    answers: list[BridgeAnswerRequest] = []
    # Questions go beside the window.
    await node.put("a")
    bridge = Bridge(node, window=1)

    async def ask() -> None:
        answers.append(await node.source.ask("telegram", USSD))

    nursery.start_soon(ask)
    await trio.testing.wait_all_tasks_blocked()
    event = bridge.events[1]
    assert (event.body, event.to) == (USSD, "")
    assert node.rows() == 1, "a question is not stored"
    other = BridgeAnswerRequest("cd" * 16, True, "to nothing")
    assert node.source.answer(other) == DoneReply()
    right = BridgeAnswerRequest(event.id, True, "5.20 EUR")
    assert node.source.answer(right) == DoneReply()
    assert node.source.answer(BridgeAnswerRequest(event.id, False, "too late")) == DoneReply()
    await trio.testing.wait_all_tasks_blocked()
    assert answers == [right]


async def refusal(node: Node, **options: float) -> str:
    with pytest.raises(OperationError) as caught:
        await node.source.ask("telegram", USSD, **options)
    assert caught.value.values == {"bridge": "telegram"}
    return caught.value.code


async def test_a_question_that_is_not_answered_times_out(
    node: Node, autojump_clock: trio.testing.MockClock
) -> None:
    assert await refusal(node) == "bridge_away"
    bridge = Bridge(node)
    begun_s = trio.current_time()
    assert await refusal(node, timeout_s=5.0) == "bridge_silent"
    assert trio.current_time() - begun_s == pytest.approx(5)
    assert bridge.events[0].expires_ms - bridge.events[0].created_ms == 5000
    late = BridgeAnswerRequest(bridge.events[0].id, True, "late")
    assert node.source.answer(late) == DoneReply()


async def test_who_asks_learns_at_once_that_the_bridge_is_gone(
    node: Node, nursery: trio.Nursery
) -> None:
    bridge = Bridge(node)
    refused: list[str] = []

    async def ask() -> None:
        refused.append(await refusal(node))

    nursery.start_soon(ask)
    await trio.testing.wait_all_tasks_blocked()
    bridge.subscription.close()
    await trio.testing.wait_all_tasks_blocked()
    assert refused == ["bridge_silent"]


async def test_a_bridge_is_asked_so_much_at_a_time(node: Node) -> None:
    bridge, other = Bridge(node), Bridge(node, "gsm")
    async with trio.open_nursery() as nursery:
        for _ in range(QUESTIONS_MAXIMUM):
            nursery.start_soon(node.source.ask, "telegram", USSD)
        await trio.testing.wait_all_tasks_blocked()
        assert await refusal(node) == "bridge_busy"
        nursery.start_soon(node.source.ask, "gsm", USSD)
        await trio.testing.wait_all_tasks_blocked()
        assert len(bridge.events) == QUESTIONS_MAXIMUM
        for event in [*bridge.events, *other.events]:
            node.source.answer(BridgeAnswerRequest(event.id, True, ""))


# ---------------------------------------------------------------- the end, and any order


async def test_the_writer_outlives_the_node_that_listened(
    store: Store, clock: VirtualClock
) -> None:
    node = Node(store, clock)

    def run_to_its_end() -> None:
        async def main() -> None:
            with trio.move_on_after(0):
                await node.source.run()

        trio.run(main)

    await trio.to_thread.run_sync(run_to_its_end)
    await node.put("a")
    assert node.rows() == 1


@settings(max_examples=15, deadline=None)
@given(st.data())
async def test_whatever_bridges_do_each_event_comes_until_it_is_acknowledged(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    with open_here(tmp_path_factory.mktemp("outbox")) as store:
        node = Node(store, VirtualClock())
        left: dict[str, list[str]] = {f"tg:{number}": [] for number in range(3)}
        bridge: Bridge | None = None
        window = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.source.run)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(data.draw(st.integers(0, 30))):
                act = data.draw(st.sampled_from(["put", "put", "connect", "cut", "ack", "ack"]))
                if act == "put":
                    to = data.draw(st.sampled_from(sorted(left)))
                    await node.put(str(number), to=to)
                    left[to].append(str(number))
                elif act == "connect" and bridge is None:
                    window = data.draw(st.integers(1, 4))
                    bridge = Bridge(node, window=window)
                elif act == "cut" and bridge is not None:
                    bridge.subscription.close()
                    bridge = None
                elif act == "ack" and bridge is not None and bridge.events:
                    event = data.draw(st.sampled_from(bridge.events))
                    assert isinstance(event.body, SmsBody)
                    await bridge.acknowledge(event.body.text)
                    assert left[event.to].pop(0) == event.body.text
                assert node.rows() == sum(map(len, left.values()))
                if bridge is not None:
                    wanted = [texts[0] for texts in left.values() if texts]
                    assert len(bridge.texts) == min(window, len(wanted))
                    assert set(bridge.texts) <= set(wanted)
            nursery.cancel_scope.cancel()
