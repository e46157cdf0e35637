"""What has come is durable for all who bring it, and statuses wait for a node that can't take them
now: with the real spool, and a node's real socket."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from bridges.node_link import NodeLink
from bridges.process import BridgeContext
from bridges.spool import Change, Spool, open_spool
from bridges.twilio.carrier import RETRY_FIRST_S, RETRY_LAST_S, BackOff
from bridges.twilio.figures import Figures
from bridges.twilio.inbox import (
    KEPT_LIFETIME_S,
    KIND,
    OWNER_FULL,
    PASSING,
    REFUSED_LIFETIME_S,
    Inbox,
    Received,
)
from bridges.twilio.statuses import TRACKED_S, Statuses, Told
from core.api.bridge_messages import (
    BridgeStatusRequest,
    DoneReply,
    SmsReceivedReply,
    SmsReceivedRequest,
    SmsStatusRequest,
)
from core.api.messages import ReplyBody, RequestBody
from core.api.server import ApiServer
from core.clock import VirtualClock
from core.config_file import load
from core.errors import OperationError
from tests.support.node import write_config

WAIT_S = 60
MESSAGE = Received("twilio", "+79995550100", "+15005550006", "BAL", None, 1)
EVENT = "5e" * 16


class HeldSpool(Spool):
    """One whose next commit waits until it is let go."""

    def __init__(self, spool: Spool, entries_maximum: int) -> None:
        super().__init__(spool._environment, entries_maximum)
        self.let_go = threading.Event()

    def _commit(self, *arguments: object) -> None:
        assert self.let_go.wait(WAIT_S)
        super()._commit(*arguments)  # type: ignore[arg-type]


@pytest.mark.trio
@pytest.mark.parametrize("has_room", [True, False])
async def test_a_duplicate_is_taken_when_the_first_is_durable(
    tmp_path: Path, has_room: bool
) -> None:
    link = NodeLink(tmp_path / "nobody", "twilio")
    came: list[bool | str] = []
    with open_spool(tmp_path) as opened:
        spool = HeldSpool(opened, entries_maximum=has_room)
        context = BridgeContext(
            name="twilio",
            config=load(write_config(tmp_path), "twilio"),
            node=link,
            spool=spool,
            clock=VirtualClock(),
        )
        inbox = Inbox(context, {}, Figures(link))

        async def put() -> None:
            try:
                came.append(await inbox.put("SM1", MESSAGE))
            except OperationError:
                came.append("not taken")

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(put)
            await wait_all_tasks_blocked()
            assert not came
            spool.let_go.set()
        if has_room:
            assert sorted(came) == [False, False, True]
            assert await inbox.put("SM1", MESSAGE) is False
        else:
            assert came == ["not taken"] * 3
            # What was not taken comes again.
            inbox = Inbox(context, {}, Figures(link))
            context.spool._entries_maximum = 1
            assert await inbox.put("SM1", MESSAGE) is True
        assert len(spool.items(KIND)) == 1


class RefusingNode:
    """A node that refuses so many statuses, and takes the others."""

    def __init__(self, code: str, refusals: int) -> None:
        self._code = code
        self._refusals = refusals
        self.offered: list[tuple[str, Told]] = []

    async def answer(self, body: RequestBody) -> ReplyBody:
        if isinstance(body, SmsStatusRequest):
            self.offered.append((body.event, body.status))
            if len(self.offered) <= self._refusals:
                raise OperationError("not now", self._code)
        else:
            assert isinstance(body, BridgeStatusRequest), body
        return DoneReply()


@asynccontextmanager
async def telling(
    folder: Path, node: RefusingNode, clock: VirtualClock
) -> AsyncIterator[tuple[Statuses, Spool]]:
    """Statuses of one SMS that was sent, which a node is told."""
    path = folder / "node.sock"
    link = NodeLink(path, "twilio", subscribes=False)
    with open_spool(folder / "spool") as spool:
        async with ApiServer(path, software="node") as server, trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, node.answer)
            nursery.start_soon(link.run)
            statuses = Statuses(link, spool, clock)
            await spool.change(statuses.tracking(EVENT))
            nursery.start_soon(statuses.run)
            with trio.fail_after(WAIT_S):
                yield statuses, spool
            nursery.cancel_scope.cancel()


async def until_forgotten(spool: Spool) -> None:
    while spool.items("told"):
        await trio.sleep(0.005)


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridges.twilio.carrier.RETRY_FIRST_S", 0.01)


@pytest.mark.trio
@pytest.mark.usefixtures("_at_once")
async def test_a_status_that_is_refused_for_now_is_offered_again(tmp_path: Path) -> None:
    node = RefusingNode("disk_full", 3)
    async with telling(tmp_path, node, VirtualClock()) as (statuses, spool):
        assert await statuses.take(EVENT, "sent", "")
        await until_forgotten(spool)
        assert node.offered == [(EVENT, "sent")] * 4
        # And none of it twice.
        assert not await statuses.take(EVENT, "sent", "")
        assert await statuses.take(EVENT, "delivered", "")
        await until_forgotten(spool)
        assert node.offered[4:] == [(EVENT, "delivered")]
        assert not spool.items("tracked")


@pytest.mark.trio
async def test_a_status_that_is_refused_is_offered_less_and_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits_s: list[float] = []
    next_s = BackOff.next_s

    def noted(back_off: BackOff, asked_s: float | None = None) -> float:
        waits_s.append(next_s(back_off, asked_s))
        return 0.0

    monkeypatch.setattr(BackOff, "next_s", noted)
    node = RefusingNode("disk_full", 12)
    async with telling(tmp_path, node, VirtualClock()) as (statuses, spool):
        assert await statuses.take(EVENT, "sent", "")
        await until_forgotten(spool)
    assert waits_s == [min(RETRY_FIRST_S * 2**number, RETRY_LAST_S) for number in range(12)]


@pytest.mark.trio
@pytest.mark.usefixtures("_at_once")
async def test_a_status_that_is_refused_for_good_is_forgotten(tmp_path: Path) -> None:
    node = RefusingNode("no_id", 1)
    async with telling(tmp_path, node, VirtualClock()) as (statuses, spool):
        assert await statuses.take(EVENT, "delivered", "")
        await until_forgotten(spool)
        assert node.offered == [(EVENT, "delivered")]


@pytest.mark.trio
@pytest.mark.usefixtures("_at_once")
async def test_a_status_is_offered_for_some_days(tmp_path: Path) -> None:
    node, clock = RefusingNode("disk_full", 10**6), VirtualClock()
    async with telling(tmp_path, node, clock) as (statuses, spool):
        assert await statuses.take(EVENT, "delivered", "")
        while len(node.offered) < 3:
            await trio.sleep(0.005)
        assert spool.items("told")
        clock.advance_s(TRACKED_S + 1)
        await until_forgotten(spool)
        assert set(node.offered) == {(EVENT, "delivered")}


@pytest.mark.trio
async def test_an_sms_of_which_nothing_was_heard_is_unknown_in_the_end(tmp_path: Path) -> None:
    node, clock = RefusingNode("", 0), VirtualClock()
    # Long before the sweep that comes first.
    async with telling(tmp_path, node, clock) as (statuses, spool):
        await spool.change(Change("tracked", EVENT, None))
        await spool.change(statuses.tracking(EVENT))
        clock.advance_s(TRACKED_S + 1)
        again = Statuses(statuses._node, spool, clock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(again.run)
            while not node.offered:
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
    assert node.offered == [(EVENT, "unknown")]


class WaitingNode:
    """A node that refuses the first messages, and notes the others.

    Attributes:
        refuses: which of the others it refuses as well.
    """

    def __init__(self, refusals: int, code: str = "busy") -> None:
        self.refusals = refusals
        self.code = code
        self.carried_out: list[str] = []
        self.refused = 0
        self.may_go_on = trio.Event()
        self.refuses: set[str] = set()

    async def answer(self, body: RequestBody) -> ReplyBody:
        if isinstance(body, SmsReceivedRequest):
            if self.refused < self.refusals or body.body in self.refuses:
                self.refused += 1
                raise OperationError("not now", self.code)
            await self.may_go_on.wait()
            self.carried_out.append(body.body)
            return SmsReceivedReply("", False)
        assert isinstance(body, BridgeStatusRequest), body
        return DoneReply()


@asynccontextmanager
async def taking(
    folder: Path, node: WaitingNode, clock: VirtualClock
) -> AsyncIterator[tuple[Inbox, Spool]]:
    """An inbox of a node's, whose answers are empty."""
    path = folder / "node.sock"
    link = NodeLink(path, "twilio", subscribes=False)
    config = load(write_config(folder), "twilio")
    with open_spool(folder / "spool") as spool:
        context = BridgeContext(name="twilio", config=config, node=link, spool=spool, clock=clock)
        inbox = Inbox(context, {}, Figures(link))
        async with ApiServer(path, software="node") as server, trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, node.answer)
            nursery.start_soon(link.run)
            nursery.start_soon(inbox.run)
            with trio.fail_after(WAIT_S):
                while not link.is_connected:
                    await trio.sleep(0.005)
                yield inbox, spool
            nursery.cancel_scope.cancel()


def saying(body: str, sender: str = MESSAGE.sender, received_ms: int = 1) -> Received:
    return Received("twilio", sender, MESSAGE.recipient, body, None, received_ms)


@pytest.mark.trio
@pytest.mark.usefixtures("_at_once")
async def test_nothing_of_a_sender_overtakes_what_is_left(tmp_path: Path) -> None:
    node = WaitingNode(refusals=1)
    async with taking(tmp_path, node, VirtualClock()) as (inbox, spool):
        first, second, third = saying("first"), saying("second", received_ms=2), saying("third")
        for key, message in (("SM9", first), ("SM1", second)):
            assert await inbox.put(key, message)
        with pytest.raises(OperationError):
            await inbox.first_answer("SM9", first, timeout_s=WAIT_S)
        inbox.later("SM9", first)
        with pytest.raises(OperationError):
            await inbox.first_answer("SM1", second, timeout_s=WAIT_S)
        inbox.later("SM1", second)
        node.may_go_on.set()
        while spool.items(KIND):
            await trio.sleep(0.005)
        assert await inbox.put("SM2", third)
        assert await inbox.first_answer("SM2", third, timeout_s=WAIT_S) == ""
    assert node.carried_out == ["first", "second", "third"]


@pytest.mark.trio
async def test_one_that_comes_at_the_same_time_waits_for_its_turn(tmp_path: Path) -> None:
    node = WaitingNode(refusals=0)
    async with taking(tmp_path, node, VirtualClock()) as (inbox, _):
        messages = {f"SM{number}": saying(f"{number}") for number in range(3)}
        other = saying("other", sender="+79995550101")
        answers: list[str | None] = []

        async def ask(key: str, message: Received, timeout_s: float) -> None:
            assert await inbox.put(key, message)
            answers.append(await inbox.first_answer(key, message, timeout_s=timeout_s))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "SM0", messages["SM0"], WAIT_S)
            await wait_all_tasks_blocked(0.05)
            nursery.start_soon(ask, "SM1", messages["SM1"], WAIT_S)
            nursery.start_soon(ask, "SM3", other, WAIT_S)
            with pytest.raises(OperationError):
                await ask("SM2", messages["SM2"], 0.01)
            assert not node.carried_out
            node.may_go_on.set()
        assert answers == [""] * 3
        assert node.carried_out.index("0") < node.carried_out.index("1")


@pytest.mark.trio
@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("passes", sorted(PASSING))
async def test_an_old_message_is_given_up_an_hour_after_its_first_refusal(
    tmp_path: Path, passes: str
) -> None:
    clock = VirtualClock()
    node = WaitingNode(refusals=1)
    node.may_go_on.set()
    # Its bridge could not reach its node for a day.
    before = saying("BAL", received_ms=int((clock.unix_s() - 24 * 3600) * 1000))
    async with taking(tmp_path, node, clock) as (inbox, spool):
        assert await inbox.put("SM1", before)
        inbox.later("SM1", before)
        while spool.items(KIND):
            await trio.sleep(0.005)
        assert node.carried_out == ["BAL"]
    node = WaitingNode(refusals=1_000_000)
    async with taking(tmp_path, node, clock) as (inbox, spool):
        assert await inbox.put("SM2", before)
        inbox.later("SM2", before)
        for wait_s in (0, REFUSED_LIFETIME_S - 1):
            clock.advance_s(wait_s)
            # The second is asked for when the first has been heard.
            seen = node.refused
            while node.refused < seen + 2:
                await trio.sleep(0.005)
            assert spool.items(KIND)
        clock.advance_s(2)
        while spool.items(KIND):
            await trio.sleep(0.005)
        assert not node.carried_out
    # One that others are before, or the node has no room for, is kept for as long as that takes.
    node = WaitingNode(1_000_000, passes)
    node.may_go_on.set()
    async with taking(tmp_path, node, clock) as (inbox, spool):
        assert await inbox.put("SM3", before)
        inbox.later("SM3", before)
        for wait_s in (0, REFUSED_LIFETIME_S + 1):
            clock.advance_s(wait_s)
            seen = node.refused
            while node.refused < seen + 2:
                await trio.sleep(0.005)
            assert spool.items(KIND)
        node.refusals = 0
        while spool.items(KIND):
            await trio.sleep(0.005)
        assert node.carried_out == ["BAL"]


@pytest.mark.trio
@pytest.mark.usefixtures("_at_once")
async def test_a_text_for_which_its_owner_has_no_room_is_kept_and_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridges.twilio.inbox.KEPT_INTERVAL_S", 0.02)
    clock = VirtualClock()
    node = WaitingNode(0, OWNER_FULL)
    node.may_go_on.set()
    texts = [f"hello {number}" for number in range(3)]
    node.refuses.update(texts)
    async with taking(tmp_path, node, clock) as (inbox, spool):
        await leave(inbox, clock, *texts)
        while len(inbox._kept[MESSAGE.recipient]) < 3:
            await trio.sleep(0.005)
        # Its sender's commands are carried out meanwhile, though it came before them.
        await leave(inbox, clock, "BAL 3", "BAL 4")
        while len(node.carried_out) < 2:
            await trio.sleep(0.005)
        assert await ask_now(inbox, clock, "BAL 5") == ""
        assert node.carried_out == ["BAL 3", "BAL 4", "BAL 5"]
        # However long that takes, almost; and the first one alone is asked for.
        clock.advance_s(KEPT_LIFETIME_S - 1)
        refused = node.refused
        while node.refused < refused + 6:
            await trio.sleep(0.005)
        assert len(spool.items(KIND)) == 3
        node.refuses.clear()
        while spool.items(KIND):
            await trio.sleep(0.005)
        assert node.carried_out[3:] == texts


@pytest.mark.trio
@pytest.mark.usefixtures("_at_once")
async def test_no_later_text_takes_the_room_of_one_that_is_kept(tmp_path: Path) -> None:
    clock = VirtualClock()
    node = WaitingNode(0, OWNER_FULL)
    node.may_go_on.set()
    texts = [f"hello {number}" for number in range(3)]
    node.refuses.update(texts)
    async with taking(tmp_path, node, clock) as (inbox, spool):
        await leave(inbox, clock, *texts)
        while len(inbox._kept.get(MESSAGE.recipient, ())) < 3:
            await trio.sleep(0.005)
        node.refuses.clear()
        assert await ask_now(inbox, clock, "hello 3", sender="+79995550101") == ""
        assert node.carried_out == [*texts, "hello 3"]
        while spool.items(KIND):
            await trio.sleep(0.005)
        assert not inbox._kept


@pytest.mark.trio
@pytest.mark.usefixtures("_at_once")
async def test_a_text_that_comes_while_kept_ones_are_handed_on_is_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridges.twilio.inbox.KEPT_INTERVAL_S", 0.1)
    monkeypatch.setattr("bridges.twilio.inbox.KEPT_HOLDS_UP_S", WAIT_S)
    clock = VirtualClock()
    node = WaitingNode(0, OWNER_FULL)
    texts = [f"hello {number}" for number in range(3)]
    node.refuses.update(texts)
    async with taking(tmp_path, node, clock) as (inbox, spool):
        await leave(inbox, clock, *texts)
        while len(inbox._kept.get(MESSAGE.recipient, ())) < 3:
            await trio.sleep(0.005)
        node.refuses.clear()
        while not inbox._offering:
            await trio.sleep(0.005)
        async with trio.open_nursery() as nursery:
            for number in (3, 4):
                nursery.start_soon(ask_now, inbox, clock, f"hello {number}", f"+7999555010{number}")
            await wait_all_tasks_blocked(0.05)
            node.may_go_on.set()
        assert node.carried_out[:3] == texts
        assert sorted(node.carried_out[3:]) == ["hello 3", "hello 4"]
        while spool.items(KIND):
            await trio.sleep(0.005)


@pytest.mark.trio
@pytest.mark.usefixtures("_at_once")
async def test_a_kept_text_that_is_refused_for_good_holds_up_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridges.twilio.inbox.KEPT_INTERVAL_S", 0.02)
    clock = VirtualClock()
    node = WaitingNode(0, OWNER_FULL)
    node.may_go_on.set()
    texts = [f"hello {number}" for number in range(3)]
    node.refuses.update(texts)
    async with taking(tmp_path, node, clock) as (inbox, spool):
        await leave(inbox, clock, *texts)
        while len(inbox._kept.get(MESSAGE.recipient, ())) < 3:
            await trio.sleep(0.005)
        node.code, node.refuses = "anything_else", {"hello 0"}
        while len(node.carried_out) < 2:
            await trio.sleep(0.005)
        assert node.carried_out == texts[1:]
        node.refuses.clear()
        while spool.items(KIND):
            await trio.sleep(0.005)
        assert node.carried_out[2:] == texts[:1]


@pytest.mark.trio
@pytest.mark.usefixtures("_at_once")
async def test_texts_are_kept_for_days_and_so_many_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridges.twilio.inbox.KEPT_INTERVAL_S", 0.02)
    monkeypatch.setattr("bridges.twilio.inbox.KEPT_MAXIMUM", 2)
    clock = VirtualClock()
    node = WaitingNode(0, OWNER_FULL)
    texts = [f"hello {number}" for number in range(3)]
    node.refuses.update(texts)
    async with taking(tmp_path, node, clock) as (inbox, spool):
        figures = inbox._node.figures
        await leave(inbox, clock, *texts)
        while len(spool.items(KIND)) > 2:
            await trio.sleep(0.005)
        assert (figures["kept_for_owners"], figures["given_up"]) == ("2", "1")
        clock.advance_s(KEPT_LIFETIME_S + 1)
        while spool.items(KIND):
            await trio.sleep(0.005)
        assert (figures["kept_for_owners"], figures["given_up"]) == ("0", "3")
    assert not node.carried_out


_keys = count(1)


async def leave(inbox: Inbox, clock: VirtualClock, *bodies: str) -> None:
    """Have SMS come, to be answered by SMS."""
    for body in bodies:
        clock.advance_s(0.001)
        key, message = f"SM{next(_keys)}", saying(body, received_ms=round(clock.unix_s() * 1000))
        assert await inbox.put(key, message)
        inbox.later(key, message)


async def ask_now(
    inbox: Inbox, clock: VirtualClock, body: str, sender: str = MESSAGE.sender
) -> str | None:
    """Have one come that is answered in the response."""
    key = f"SM{next(_keys)}"
    message = saying(body, sender, received_ms=round(clock.unix_s() * 1000))
    assert await inbox.put(key, message)
    answer = await inbox.first_answer(key, message, timeout_s=WAIT_S)
    inbox.done(key)
    return answer


@pytest.mark.trio
async def test_however_many_are_tracked_each_is_given_up_in_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridges.twilio.statuses.SWEEP_INTERVAL_S", 0.01)
    node, clock = RefusingNode("", 0), VirtualClock()
    async with telling(tmp_path, node, clock) as (statuses, spool):
        last = "f" * 32
        await spool.change(statuses.tracking(last))
        clock.advance_s(TRACKED_S - 1)
        many = [statuses.tracking(f"{number:032x}") for number in range(100_000)]
        await spool.change(*many, statuses.not_tracking(EVENT))
        clock.advance_s(2)
        while not node.offered:
            await trio.sleep(0.005)
        await until_forgotten(spool)
        assert node.offered == [(last, "unknown")]
        assert len(spool.items("tracked", len(many) + 1)) == len(many)
