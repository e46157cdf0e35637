"""A bridge's connection to its node: it comes back, asks again, and gives events until they are
acknowledged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest
import trio

from bridges.node_link import NodeAway, NodeLink
from core.api.bridge_messages import (
    AcknowledgeRequest,
    BridgeStatusRequest,
    CommandBody,
    DoneReply,
    Event,
    PingRequest,
    SmsBody,
    SmsOptOutRequest,
    SmsReceivedRequest,
)
from core.api.messages import ReplyBody, RequestBody, StatusReply, StatusRequest
from core.api.server import ApiServer
from core.errors import ApiError, OperationError
from tests.support.node import running_node

WAIT_S = 10


def event(number: int) -> Event:
    return Event(
        id=f"{number:032x}", to="+4930123456", created_ms=1, expires_ms=2**40, body=SmsBody("hi")
    )


class Subscribed:
    def close(self) -> None:
        """Nothing is kept of a connection."""


class SmallNode:
    """What a node is to a bridge. `held` requests get no answer, so many of `refuses` are
    refused."""

    def __init__(self) -> None:
        self.asked: list[RequestBody] = []
        self.held = False
        self.refuses: type[RequestBody] = AcknowledgeRequest
        self.refusals = 0
        self.subscriptions = 0
        self.events = [event(number) for number in range(3)]

    async def answer(self, request: RequestBody) -> ReplyBody:
        self.asked.append(request)
        if isinstance(request, SmsOptOutRequest):
            raise OperationError("this is no number", "no_number")
        if isinstance(request, self.refuses) and self.refusals:
            self.refusals -= 1
            raise OperationError("the disk is full", "disk_full")
        if self.held and isinstance(request, PingRequest):
            await trio.sleep_forever()
        return DoneReply()

    def subscribe(self, bridge: str, window: int, send: Callable[[Event], None]) -> Subscribed:
        assert bridge == "twilio"
        self.subscriptions += 1
        acknowledged = {one.id for one in self.asked if isinstance(one, AcknowledgeRequest)}
        for one in self.events[:window]:
            if one.id not in acknowledged:
                send(one)
        return Subscribed()

    @asynccontextmanager
    async def running(self, path: Path) -> AsyncIterator[None]:
        async with ApiServer(path, software="node") as server, trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, self.answer, self)
            yield
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def linked(path: Path) -> AsyncIterator[NodeLink]:
    link = NodeLink(path, "twilio")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        with trio.fail_after(WAIT_S):
            yield link
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_what_was_asked_of_a_node_that_died_is_asked_of_the_next(tmp_path: Path) -> None:
    path, node = tmp_path / "node.sock", SmallNode()
    node.held = True
    async with linked(path) as link, trio.open_nursery() as nursery:
        async with node.running(path):
            nursery.start_soon(link.request, PingRequest())
            while PingRequest() not in node.asked:
                await trio.sleep(0.01)
        node.held = False
        async with node.running(path):
            while node.asked.count(PingRequest()) < 2:
                await trio.sleep(0.01)
    assert node.asked.count(PingRequest()) == 2


@pytest.mark.trio
async def test_before_there_is_a_node_it_waits(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    async with linked(path) as link:
        with pytest.raises(NodeAway):
            await link.try_request(PingRequest(), timeout_s=0.2)
        assert not link.is_connected
        async with SmallNode().running(path):
            assert await link.request(PingRequest()) == DoneReply()
            assert link.is_connected


@pytest.mark.trio
async def test_refusals_come_to_who_has_asked(tmp_path: Path) -> None:
    path, node = tmp_path / "node.sock", SmallNode()
    async with node.running(path), linked(path) as link:
        with pytest.raises(OperationError, match="no number") as caught:
            await link.request(SmsOptOutRequest("x", True))
        assert caught.value.code == "no_number"
        assert len([one for one in node.asked if isinstance(one, SmsOptOutRequest)]) == 1
        # What no node would read breaks nothing, and is not asked again and again.
        long = SmsReceivedRequest("twilio", "+4930123456", "", "x" * 5_000, "1", 1)
        with pytest.raises(ApiError):
            await link.request(long)
        assert await link.request(PingRequest()) == DoneReply()


@pytest.mark.trio
async def test_events_are_given_once_at_a_time_until_they_are_acknowledged(tmp_path: Path) -> None:
    path, node = tmp_path / "node.sock", SmallNode()
    taken: list[str] = []
    async with linked(path) as link:
        events = link.events()
        async with node.running(path):
            for _ in range(3):
                taken.append((await anext(events)).id)
            await link.acknowledge(taken[0], "failed", "x" * 1_000)
        async with node.running(path):
            # The node gives the other two again; they are being carried out already.
            while not link.is_connected:
                await trio.sleep(0.01)
            node.events.append(event(9))
            assert await link.request(PingRequest()) == DoneReply()
            await link.acknowledge(taken[1])
            await link.acknowledge(taken[2])
        async with node.running(path):
            assert (await anext(events)).id == event(9).id
    assert taken == [one.id for one in node.events[:3]]
    said = [one for one in node.asked if isinstance(one, AcknowledgeRequest)]
    assert [one.outcome for one in said] == ["failed", "done", "done"]
    assert len(said[0].detail) == 128


@pytest.mark.trio
async def test_a_node_whose_disk_is_full_is_told_again(tmp_path: Path) -> None:
    path, node = tmp_path / "node.sock", SmallNode()
    node.refusals = 2
    async with node.running(path), linked(path) as link:
        one = await anext(link.events())
        await link.acknowledge(one.id)
    said = [one for one in node.asked if isinstance(one, AcknowledgeRequest)]
    assert said == [AcknowledgeRequest(event(0).id, "done")] * 3


@pytest.mark.trio
async def test_questions_are_not_kept(tmp_path: Path) -> None:
    path, node = tmp_path / "node.sock", SmallNode()
    question = msgspec.structs.replace(event(0), to="", body=CommandBody("ussd", ("a", "*100#")))
    node.events = [question]
    async with linked(path) as link:
        events = link.events()
        async with node.running(path):
            assert await anext(events) == question
        # Its id is remembered by nobody, as nothing would ever forget it.
        async with node.running(path):
            assert await anext(events) == question


@pytest.mark.trio
async def test_it_says_how_the_bridge_does(tmp_path: Path) -> None:
    path, node = tmp_path / "node.sock", SmallNode()
    async with linked(path) as link:
        link.state, link.figures = "well", {"sent": "5"}
        async with node.running(path):
            while not any(isinstance(one, BridgeStatusRequest) for one in node.asked):
                await trio.sleep(0.01)
    said = [one for one in node.asked if isinstance(one, BridgeStatusRequest)]
    assert said[0] == BridgeStatusRequest("twilio", "well", {"sent": "5"})


@pytest.mark.trio
async def test_figures_that_no_node_can_read_end_no_connection(tmp_path: Path) -> None:
    path, node = tmp_path / "node.sock", SmallNode()
    async with linked(path) as link:
        link.state, link.figures = "well", {"sent": "5", "state": "x" * 129}
        async with node.running(path):
            while not any(isinstance(one, BridgeStatusRequest) for one in node.asked):
                await trio.sleep(0.01)
            assert await link.request(PingRequest()) == DoneReply()
    said = [one for one in node.asked if isinstance(one, BridgeStatusRequest)]
    assert said == [BridgeStatusRequest("twilio", "its figures can't be told", {})]


@pytest.mark.trio
async def test_a_status_that_is_refused_is_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridges.node_link.STATUS_INTERVAL_S", 0.01)
    path, node = tmp_path / "node.sock", SmallNode()
    node.refuses = BridgeStatusRequest
    node.refusals = 2
    async with linked(path) as link, node.running(path):
        while sum(isinstance(one, BridgeStatusRequest) for one in node.asked) < 4:
            await trio.sleep(0.01)
        assert await link.request(PingRequest()) == DoneReply()
    assert node.subscriptions == 1


def test_it_works_under_asyncio() -> None:
    async def main(path: Path) -> StatusReply:
        link = NodeLink(path, "telegram")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.run)
            with anyio.fail_after(WAIT_S):
                assert await link.request(PingRequest()) == DoneReply()
                replies = []

                async def ask() -> None:
                    replies.append(await link.request(StatusRequest()))

                async with anyio.create_task_group() as many:
                    for _ in range(50):
                        many.start_soon(ask)
            tasks.cancel_scope.cancel()
        assert len(replies) == 50
        reply = replies[-1]
        assert isinstance(reply, StatusReply)
        return reply

    with running_node() as node:
        reply = anyio.run(main, node.socket, backend="asyncio")
        assert [item.name for item in reply.bridges] == ["telegram"]
        assert reply.bridges[0].connected
