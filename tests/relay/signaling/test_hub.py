"""The hub with its rooms: order, replay, floods, lost connections, what passes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from billing.ledger import open_ledger
from billing.tables import ROOMS
from core.api.bridge_messages import effect_id
from core.clock import VirtualClock
from core.config import SignalingConfig
from core.errors import OperationError, SignalingError
from core.stun.address import Address
from core.tables import Writing
from core.units import DAY_S
from relay.credential_issuer import CredentialIssuer
from relay.signaling.hub import ENTER_S, ERRORS_MAXIMUM, KEEP_S, Guest, Hub
from relay.signaling.messages import (
    MESSAGE_MAXIMUM_BYTES,
    AskAccount,
    AskCalls,
    CreateRoom,
    JoinRoom,
    PageMessage,
    Resume,
)
from relay.signaling.room_desk import RoomDesk
from relay.signaling.room_store import RoomStore
from relay.signaling.sessions import Handler, Session
from tests.support.signaling_channel import FakeChannel

FREE = SignalingConfig(rooms="free", room_token="")
RELAY = ip_address("198.51.100.7").packed
SDP = (
    "v=0\r\no=- 4611731400430051336 2 IN IP4 192.168.1.9\r\ns=-\r\nt=0 0\r\n"
    "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 192.168.1.9\r\na=sendrecv\r\n"
)
HOST = "candidate:1 1 udp 2122260223 192.168.1.9 55123 typ host"
OWN = "candidate:3 1 udp 33562367 198.51.100.7 50123 typ relay raddr 192.168.1.9 rport 55123"


class Metered:
    """What the hub says of allocations."""

    def __init__(self) -> None:
        self.open: dict[str, int] = {}
        self.is_full = False

    async def open_call(self, name: str, *, rate_bytes_s: int = 0) -> bool:
        await trio.sleep(0)
        self.open[name] = rate_bytes_s
        return True

    async def close_call(self, name: str, reason: str) -> None:
        assert reason
        if self.is_full:
            raise OperationError("the disk is full")
        del self.open[name]


class Node:
    """A hub with rooms on a real ledger, in virtual time."""

    def __init__(self, hub: Hub, desk: RoomDesk, clock: VirtualClock, metered: Metered) -> None:
        self.hub = hub
        self.desk = desk
        self.clock = clock
        self.metered = metered

    def connect(self, **options: Any) -> FakeChannel:
        return FakeChannel(self.hub, **options)

    async def room(self, *others: str, **options: Any) -> list[FakeChannel]:
        """A room of a host and some others, who have heard of each other."""
        host = self.connect()
        entered = await host.ask("create", name="host", **options)
        pages = [host]
        for name in others:
            page = self.connect()
            assert (await page.ask("join", invitation=entered["invitation"], name=name))[
                "type"
            ] == "entered"
            pages.append(page)
        for page in pages:
            page.heard.clear()
        return pages

    async def pass_s(self, duration_s: int) -> None:
        """Let time pass, and what happens each second happen."""
        for _ in range(duration_s):
            self.clock.advance_s(1)
            await self.desk.tick()
            self.hub.sweep()


@asynccontextmanager
async def running(
    folder: Path, config: SignalingConfig = FREE, clock: VirtualClock | None = None
) -> AsyncIterator[Node]:
    clock = clock or VirtualClock()
    issuer = CredentialIssuer(["a secret of the tests"], [Address(RELAY, 3478)], clock)
    metered = Metered()
    with open_ledger(folder, clock, map_bytes=1 << 26) as ledger:
        desk = RoomDesk(
            config,
            ledger,
            clock,
            metered,
            issuer,
            lambda ip: ip == RELAY,
            None,
            secret=bytes(32),
        )
        hub = Hub(config, clock, {CreateRoom: desk.create, JoinRoom: desk.join}, desk.restored)
        desk.hub = hub
        await desk.recover()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.run)
            await trio.testing.wait_all_tasks_blocked()
            yield Node(hub, desk, clock, metered)
            nursery.cancel_scope.cancel()


def in_hub(test: Callable[[Node], Any], folder: Path, config: SignalingConfig = FREE) -> None:
    async def main() -> None:
        async with running(folder, config) as node:
            await test(node)

    trio.run(main)


def test_two_meet_and_talk(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        host = node.connect()
        entered = await host.ask("create", name="Ann")
        assert entered["room"]["host"] == entered["you"]
        (ice,) = entered["ice"]
        assert ice["urls"] == ["turn:198.51.100.7:3478?transport=udp"]
        assert f"#CALL-room.{entered['room']['id']}" in ice["username"]
        assert node.metered.open == {f"CALL-room.{entered['room']['id']}": 1_000_000}
        guest = node.connect()
        other = await guest.ask("join", invitation=entered["invitation"], name="Боб")
        assert [peer["name"] for peer in other["peers"]] == ["Ann"]
        assert (await host.take(type="peer_joined"))["peer"]["name"] == "Боб"
        # Who came first has the smaller id, and offers.
        assert entered["you"] < other["you"]
        description = {"type": "offer", "sdp": SDP}
        host.say("signal", to=other["you"], connection="one", description=description)
        host.say(
            "signal",
            to=other["you"],
            connection="one",
            candidates=[{"candidate": HOST, "sdpMid": "0"}],
        )
        first, second = guest.heard
        assert first == {
            "type": "signal",
            "from": entered["you"],
            "connection": "one",
            "description": description,
        }
        assert second["candidates"][0]["candidate"] == HOST

    in_hub(test, tmp_path)


def test_who_wants_relays_alone_gives_no_address_away(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        host, guest = await node.room("guest", relay_only=True)
        to = {"to": "0001", "connection": "one"}
        host.say("signal", **to, description={"type": "offer", "sdp": SDP})
        host.say("signal", **to, candidates=[{"candidate": HOST}])
        host.say("signal", **to, candidates=[{"candidate": HOST}, {"candidate": OWN}])
        first, second = guest.heard
        assert "192.168.1.9" not in str(first)
        assert "m=audio 9" in first["description"]["sdp"]
        (candidate,) = second["candidates"]
        assert candidate["candidate"].startswith("candidate:3 1 udp 33562367 198.51.100.7 50123 ")
        assert "192.168.1.9" not in str(second)
        # The other one has not asked for it.
        guest.say("signal", to="0000", connection="two", candidates=[{"candidate": HOST}])
        assert host.heard[-1]["candidates"][0]["candidate"] == HOST

    in_hub(test, tmp_path)


def test_the_node_enforces_relays(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        host, guest = await node.room("guest")
        guest.say("signal", to="0000", connection="two", candidates=[{"candidate": HOST}])
        assert host.heard == []
        assert host.welcome["relay_only"]

    in_hub(test, tmp_path, replace(FREE, relay_only=True))


def test_what_was_said_before_is_refused(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        host, guest = await node.room("guest")
        said = (
            b'{"type":"signal","seq":2,"to":"0001","connection":"one",'
            b'"candidates":[{"candidate":""}]}'
        )
        host.say_raw(said)
        host.say_raw(said)
        host.say_raw(said.replace(b'"seq":2', b'"seq":4'))
        assert len(guest.heard) == 1
        replayed, early = host.heard
        assert (replayed["code"], replayed["last"]) == ("replayed", 2)
        assert (early["code"], early["last"]) == ("out-of-order", 2)
        # Neither has moved the count.
        host.say_raw(said.replace(b'"seq":2', b'"seq":3'))
        assert len(guest.heard) == 2

    in_hub(test, tmp_path)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"[" * 100_000, "malformed"),
        (b'{"type":"signal","seq":2}', "malformed"),
        (b'{"type":"fly","seq":2}', "unknown-type"),
        (b'{"type":"signal","seq":-2,"to":"0001","connection":"one"}', "malformed"),
        (b'{"type":"signal","seq":2,"to":"0001","connection":"one"}', "malformed"),
        (b'{"type":"signal","seq":2,"to":"0009","connection":"one"}', "no-peer"),
        (b'{"type":"signal","seq":2,"to":"0000","connection":"one"}', "no-peer"),
        (
            b'{"type":"answer","seq":2,"connection":"x","description":{"type":"answer","sdp":""}}',
            "wrong-state",
        ),
        (b'{"type":"create","seq":2}', "wrong-state"),
        (b'{"type":"admit","seq":2,"peer":"0009"}', "no-peer"),
        (b'{"type":"ping","seq":2,"x":"' + b"x" * MESSAGE_MAXIMUM_BYTES + b'"}', "too-large"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, data: bytes, code: str) -> None:
    async def test(node: Node) -> None:
        host, guest = await node.room("guest")
        host.say_raw(data)
        (error,) = host.heard
        assert error["type"] == "error"
        assert error["code"] == code
        assert error["message"]
        assert guest.heard == []
        # The page is served on.
        assert host.closed is None

    in_hub(test, tmp_path)


def test_who_sends_nothing_but_rubbish_is_shown_the_door(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        page = node.connect()
        for _ in range(ERRORS_MAXIMUM):
            page.say_raw(b"rubbish")
        assert page.closed is not None
        assert page.closed[0] == 1008

    in_hub(test, tmp_path)


def test_a_flood_is_refused_and_nobody_elses(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        host, guest = await node.room("guest")
        for _ in range(300):
            host.say("signal", to="0001", connection="one", candidates=[{"candidate": ""}])
        # The room's creation was not counted.
        assert len(guest.heard) == 200
        assert {message["code"] for message in host.heard} == {"too-many"}
        guest.heard.clear()
        guest.say("ping")
        assert guest.heard[0]["type"] == "pong"
        node.clock.advance_s(1)
        host.heard.clear()
        for _ in range(30):
            host.say("ping")
        assert [message["type"] for message in host.heard].count("pong") == 20

    in_hub(test, tmp_path)


def test_what_comes_before_the_answer_to_the_first_message_is_not_said_twice(
    tmp_path: Path,
) -> None:
    async def test(node: Node) -> None:
        page = node.connect()
        page.say("create")
        # Not waited for: it is refused, or carried out once.
        page.say("ping")
        entered = await page.take(re=1)
        assert entered["type"] == "entered"
        page.say_raw(b'{"type":"ping","seq":1}')
        assert (await page.take(re=1))["code"] == "replayed"

    in_hub(test, tmp_path)


def test_a_connection_whose_session_is_over_is_not_kept(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        page = node.connect()
        await page.ask("create")
        page.say("hang_up")
        await page.take(type="ended")
        await node.pass_s(2 * ENTER_S + 2)
        assert page.closed is not None
        assert node.hub.connections == 0

    in_hub(test, tmp_path)


def nobody_restored(_guest: Guest, _message: Resume) -> Session:
    raise SignalingError("not-resumable", "nobody was here")


class SlowDesk:
    """A desk with one message that takes its time, and one that the node can't answer."""

    def __init__(self) -> None:
        self.hub: Hub
        self.may_go_on = trio.Event()
        self.handlers: Mapping[type[PageMessage], Handler] = {
            AskAccount: self._wait,
            AskCalls: self._fail,
        }

    async def enter(self, guest: Guest, message: PageMessage) -> None:
        assert message.seq == 1
        guest.enter(self, "a secret of a session")

    async def _wait(self, _session: Session, _message: PageMessage) -> None:
        await self.may_go_on.wait()

    def _fail(self, _session: Session, _message: PageMessage) -> None:
        raise OperationError("the storage can't be read")

    def lost(self, session: Session) -> None:
        """Nobody else is here to hear of it."""

    def back(self, session: Session, message: Resume) -> None:
        """Nobody comes back."""

    def over(self, session: Session) -> None:
        """Nothing is kept of anybody."""


def test_what_waits_behind_something_that_fails_is_carried_out() -> None:
    async def main() -> None:
        desk = SlowDesk()
        hub = Hub(FREE, VirtualClock(), {CreateRoom: desk.enter}, nobody_restored)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.run)
            await trio.testing.wait_all_tasks_blocked()
            page = FakeChannel(hub)
            page.say("create")
            await trio.testing.wait_all_tasks_blocked()
            page.say("account")
            failing = page.say("calls")
            behind = page.say("ping")
            desk.may_go_on.set()
            assert (await page.take(re=failing))["code"] == "unavailable"
            assert (await page.take(re=behind))["type"] == "pong"
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_room_that_cannot_be_closed_now_is_closed_later(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        pages = [node.connect(), node.connect()]
        for page in pages:
            await page.ask("create")
            page.say("hang_up")
            await page.take(type="ended")
        node.metered.is_full = True
        await node.pass_s(2)
        assert len(node.metered.open) == 2
        node.metered.is_full = False
        await node.pass_s(1)
        assert node.metered.open == {}

    in_hub(test, tmp_path)


def test_who_enters_nothing_is_disconnected(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        idle, busy = node.connect(), node.connect()
        await busy.ask("create")
        assert (await idle.ask("ping"))["code"] == "wrong-state"
        await node.pass_s(ENTER_S + 1)
        assert idle.closed is not None
        assert busy.closed is None
        assert node.hub.connections == 1

    in_hub(test, tmp_path)


def test_a_session_goes_on_after_a_lost_connection(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        host = node.connect()
        entered = await host.ask("create", name="Ann")
        guest = node.connect()
        await guest.ask("join", invitation=entered["invitation"])
        host.cut()
        assert (await guest.take(type="peer_away"))["peer"] == "0000"
        assert (
            await guest.ask("signal", to="0000", connection="x", candidates=[{"candidate": ""}])
        )["code"] == "no-peer"
        await node.pass_s(25)
        again = node.connect(seq=host.seq)
        back = await again.ask("resume", session=entered["session"])
        assert (back["type"], back["you"], back["session"]) == (
            "entered",
            "0000",
            entered["session"],
        )
        assert back["room"]["host"] == "0000"
        told = await guest.take(type="peer_back")
        assert (told["peer"], told["fresh"]) == ("0000", False)
        # What was recorded is of no use to anybody.
        stolen = node.connect(seq=0)
        refused = await stolen.ask("resume", session=entered["session"])
        assert (refused["code"], refused["last"]) == ("replayed", again.seq)
        assert again.closed is None

    in_hub(test, tmp_path)


def test_a_second_connection_takes_the_place_of_the_first(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        host = node.connect()
        entered = await host.ask("create")
        again = node.connect(seq=host.seq)
        assert (await again.ask("resume", session=entered["session"], fresh=True))["type"] == (
            "entered"
        )
        assert host.closed is not None
        assert len(node.hub) == 1

    in_hub(test, tmp_path)


def test_who_does_not_come_back_is_no_ghost(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        host = node.connect()
        entered = await host.ask("create")
        guest = node.connect()
        await guest.ask("join", invitation=entered["invitation"])
        host.cut()
        await node.pass_s(31)
        left = await guest.take(type="peer_left")
        assert (left["peer"], left["reason"]) == ("0000", "lost")
        assert (await guest.take(type="room"))["room"]["host"] == "0001"
        late = node.connect(seq=host.seq)
        assert (await late.ask("resume", session=entered["session"]))["code"] == "not-resumable"
        assert len(node.hub) == 1
        guest.cut()
        await node.pass_s(KEEP_S + 1)
        assert (len(node.hub), len(node.desk)) == (0, 0)
        assert node.metered.open == {}

    in_hub(test, tmp_path)


def test_a_connection_may_enter_another_room_afterwards(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        page = node.connect()
        first = await page.ask("create")
        page.say("hang_up")
        assert (await page.take(type="ended"))["reason"] == "left"
        second = await page.ask("create")
        assert second["type"] == "entered"
        assert second["room"]["id"] != first["room"]["id"]

    in_hub(test, tmp_path)


def test_rooms_outlive_the_node(tmp_path: Path) -> None:
    clock = VirtualClock()

    async def before() -> list[dict[str, Any]]:
        async with running(tmp_path, clock=clock) as node:
            host = node.connect()
            entered = await host.ask("create", name="Ann")
            guest = node.connect()
            other = await guest.ask("join", invitation=entered["invitation"], name="Bob")
            await node.pass_s(1)
            return [entered, other]

    async def after(entered: dict[str, Any], other: dict[str, Any]) -> None:
        async with running(tmp_path, clock=clock) as node:
            assert node.metered.open == {f"CALL-room.{entered['room']['id']}": 1_000_000}
            guest = node.connect(seq=9)
            back = await guest.ask("resume", session=other["session"], name="Bob")
            assert back["you"] == "0001"
            assert [peer["away"] for peer in back["peers"]] == [True]
            host = node.connect(seq=9)
            assert (await host.ask("resume", session=entered["session"], name="Ann"))["room"][
                "host"
            ] == "0000"
            assert (await guest.take(type="peer_back"))["name"] == "Ann"
            third = node.connect()
            joined = await third.ask("join", invitation=entered["invitation"])
            assert joined["you"] == "0002"

    found = trio.run(before)
    trio.run(partial(after, *found))


def test_what_was_recorded_before_a_kill_is_not_done_again(tmp_path: Path) -> None:
    clock = VirtualClock()

    async def before() -> tuple[dict[str, Any], dict[str, Any]]:
        async with running(tmp_path, clock=clock) as node:
            host, guest, knocker = node.connect(), node.connect(), node.connect()
            entered = await host.ask("create", name="Ann")
            other = await guest.ask("join", invitation=entered["invitation"])
            host.say("ping")
            host.say("set_room", locked=False, lobby=True)
            assert (await knocker.ask("join", invitation=entered["invitation"]))["type"] == (
                "waiting"
            )
            host.say("deny", peer="0002")
            assert (await knocker.take(type="ended"))["reason"] == "denied"
            assert host.seq == 4
            await node.pass_s(1)
            return entered, other

    async def after(entered: dict[str, Any], other: dict[str, Any]) -> None:
        async with running(tmp_path, clock=clock) as node:
            for seq in range(1, 5):
                stolen = node.connect(seq=seq - 1)
                refused = await stolen.ask("resume", session=entered["session"])
                assert (refused["code"], refused["last"]) == ("replayed", 4)
                # It is in no room by that.
                assert (await stolen.ask("kick", peer=other["you"]))["code"] == "wrong-state"
            assert len(node.hub) == 0
            guest = node.connect(seq=1)
            assert (await guest.ask("resume", session=other["session"]))["you"] == other["you"]
            host = node.connect(seq=4)
            assert (await host.ask("resume", session=entered["session"]))["type"] == "entered"
            # What it has done since counts as well.
            host.say("set_room", locked=True, lobby=True)
            await node.pass_s(1)

    async def once_more(entered: dict[str, Any], _other: dict[str, Any]) -> None:
        async with running(tmp_path, clock=clock) as node:
            stolen = node.connect(seq=4)
            assert (await stolen.ask("resume", session=entered["session"]))["last"] == 6
            host = node.connect(seq=6)
            assert (await host.ask("resume", session=entered["session"]))["room"]["locked"]

    found = trio.run(before)
    trio.run(partial(after, *found))
    trio.run(partial(once_more, *found))


def test_a_room_that_was_stored_without_what_its_people_have_said_is_taken_up(
    tmp_path: Path,
) -> None:
    clock = VirtualClock()

    async def before() -> dict[str, Any]:
        async with running(tmp_path, clock=clock) as node:
            entered = await node.connect().ask("create")
            await node.pass_s(1)

            def shorten(writing: Writing) -> None:
                ((key, record),) = writing.items(ROOMS, b"room ", b"room!", limit=2)
                room = msgspec.msgpack.decode(record)
                (host,) = room[6]
                assert host.pop() == 1
                writing.put(ROOMS, key, msgspec.msgpack.encode(room))

            await node.desk._ledger.store.write(shorten)
            return entered

    async def after(entered: dict[str, Any]) -> None:
        async with running(tmp_path, clock=clock) as node:
            again = await node.connect().ask("resume", session=entered["session"])
            assert again["type"] == "entered"

    trio.run(after, trio.run(before))


def test_a_prepared_room_waits_for_its_host(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        first, second = await node.desk.prepare()
        pages = [node.connect(), node.connect(), node.connect()]
        entered = [
            await page.ask("join", invitation=token)
            for page, token in zip(pages, (second, first, first), strict=True)
        ]
        assert [one["you"] for one in entered] == ["0000", "0001", "0002"]
        assert [one["room"]["host"] for one in entered] == ["0000", "0001", "0001"]
        assert len(node.metered.open) == 1
        for page in pages:
            page.say("hang_up")
        again = node.connect()
        assert (await again.ask("join", invitation=second))["type"] == "entered"

    in_hub(test, tmp_path)


def test_of_one_id_there_is_one_room(tmp_path: Path) -> None:
    clock, one, other = VirtualClock(), effect_id("test", "one"), effect_id("test", "other")
    made: list[tuple[str, str]] = []

    async def before() -> None:
        async with running(tmp_path, clock=clock) as node:

            async def ask(effect: str) -> None:
                made.append(await node.desk.prepare(effect))

            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(ask, one)
            assert len(set(made)) == 1
            assert len({*made, await node.desk.prepare(other)}) == 2
            assert len({*made, await node.desk.prepare(), await node.desk.prepare()}) == 3
            assert (len(node.desk), len(node.metered.open)) == (4, 4)

    async def after() -> None:
        # Nothing has happened since it was answered, not even a second's end.
        async with running(tmp_path, clock=clock) as node:
            assert len(node.desk) == 4
            guest = node.connect()
            await guest.ask("join", invitation=made[0][1])
            assert await node.desk.prepare(one) == made[0]
            assert len(node.desk) == 4
            host = node.connect()
            assert (await host.ask("join", invitation=made[0][0]))["room"]["host"] == "0001"

    trio.run(before)
    trio.run(after)


def test_who_asks_for_a_room_again_is_answered_when_it_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(node: Node) -> None:
        may_write, write = trio.Event(), RoomStore.write
        made: list[tuple[str, str]] = []

        async def hold(store: RoomStore, records: Mapping[str, bytes | None]) -> None:
            await may_write.wait()
            await write(store, records)

        async def ask() -> None:
            made.append(await node.desk.prepare(effect_id("test", "room")))

        monkeypatch.setattr(RoomStore, "write", hold)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            assert not made
            may_write.set()
        assert made == made[:1] * 2

    in_hub(test, tmp_path)


def test_an_id_makes_no_other_room_for_a_day_and_never_the_same_one(tmp_path: Path) -> None:
    clock, one = VirtualClock(), effect_id("test", "one")
    first: list[tuple[str, str]] = []

    async def before() -> None:
        async with running(tmp_path, clock=clock) as node:
            first.append(await node.desk.prepare(one))
            page = node.connect()
            await page.ask("join", invitation=first[0][1])
            clock.advance_s(DAY_S)
            await node.desk.tick()
            names = set(node.metered.open)
            page.say("hang_up")
            with pytest.raises(SignalingError, match="room of this id has ended"):
                await node.desk.prepare(one)
            await node.desk.tick()
            assert not node.metered.open
            assert len(names) == 1
            first.append((names.pop(), ""))

    async def after() -> None:
        async with running(tmp_path, clock=clock) as node:
            clock.advance_s(DAY_S - 1)
            await node.desk.tick()
            with pytest.raises(SignalingError, match="room of this id has ended"):
                await node.desk.prepare(one)
            assert not node.metered.open
            clock.advance_s(1)
            await node.desk.tick()
            again = await node.desk.prepare(one)
            # Who was in the first one is not let in, nor are credentials that were made for it.
            assert not set(again) & set(first[0])
            refused = await node.connect().ask("join", invitation=first[0][1])
            assert refused["code"] == "bad-secret"
            assert (await node.connect().ask("join", invitation=again[1]))["you"] == "0000"
            assert len(node.metered.open) == 1
            assert first[1][0] not in node.metered.open

    trio.run(before)
    trio.run(after)
    assert stored_ends(tmp_path) == 0


def stored_ends(folder: Path) -> int:
    """Of how many ids it is stored that their rooms have ended."""
    with (
        open_ledger(folder, VirtualClock(), map_bytes=1 << 26) as ledger,
        ledger.store.read() as tables,
    ):
        return len(tables.items(ROOMS, b"ended ", b"ended!", limit=10))


def test_links_that_are_asked_for_again_hold_for_a_day_again(tmp_path: Path) -> None:
    clock, one = VirtualClock(), effect_id("test", "one")
    made: list[tuple[str, str]] = []

    async def before() -> None:
        async with running(tmp_path, clock=clock) as node:
            made.append(await node.desk.prepare(one))
            page = node.connect()
            await page.ask("join", invitation=made[0][1])
            clock.advance_s(DAY_S)
            await node.desk.tick()
            assert (await node.connect().ask("join", invitation=made[0][0]))["code"] == "expired"
            assert await node.desk.prepare(one) == made[0]
            for token in made[0]:
                assert (await node.connect().ask("join", invitation=token))["type"] == "entered"

    async def after() -> None:
        # It is answered when it is stored, and waits for as long when nobody is left.
        async with running(tmp_path, clock=clock) as node:
            await node.pass_s(KEEP_S + 1)
            assert (len(node.desk), node.desk.people) == (1, 0)
            clock.advance_s(DAY_S - KEEP_S - 2)
            await node.desk.tick()
            for token in made[0]:
                assert (await node.connect().ask("join", invitation=token))["type"] == "entered"

    trio.run(before)
    trio.run(after)


def test_a_link_that_a_kick_has_ended_is_not_given_as_a_good_one(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        one = effect_id("test", "one")
        made = await node.desk.prepare(one)
        host, guest = node.connect(), node.connect()
        await host.ask("join", invitation=made[0])
        entered = await guest.ask("join", invitation=made[1])
        host.say("kick", peer=entered["you"])
        with pytest.raises(SignalingError, match="link of this room was ended") as refused:
            await node.desk.prepare(one)
        assert refused.value.code == "link-over"
        assert (await node.connect().ask("join", invitation=made[1]))["code"] == "bad-secret"

    in_hub(test, tmp_path)


def test_a_room_that_the_quota_has_ended_is_not_made_again(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        one = effect_id("test", "one")
        first = await node.desk.prepare(one)
        await node.connect().ask("join", invitation=first[0])
        await node.pass_s(90)
        assert len(node.desk) == 0
        with pytest.raises(SignalingError, match="room of this id has ended") as refused:
            await node.desk.prepare(one)
        assert refused.value.code == "room-over"
        assert len(node.desk) == 0

    in_hub(test, tmp_path, replace(FREE, free_minutes_per_day=1))


def test_no_more_ids_are_remembered_than_there_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.signaling.rooms.IDS_MAXIMUM", 2)

    async def test(node: Node) -> None:
        await node.desk.prepare(effect_id("test", "waits"))
        over = await node.desk.prepare(effect_id("test", "over"))
        page = node.connect()
        await page.ask("join", invitation=over[0])
        node.clock.advance_s(DAY_S)
        await node.desk.tick()
        # One has ended, and in the other there is somebody.
        assert len(node.desk) == 1
        with pytest.raises(SignalingError, match="as many ids"):
            await node.desk.prepare(effect_id("test", "one too many"))
        page.say("hang_up")
        with pytest.raises(SignalingError, match="as many ids"):
            await node.desk.prepare(effect_id("test", "one too many"))
        await node.desk.prepare()
        assert len(node.desk) == 1
        await node.pass_s(1)
        node.clock.advance_s(DAY_S)
        await node.desk.tick()
        await node.desk.prepare(effect_id("test", "one too many"))

    in_hub(test, tmp_path)


def test_an_end_that_can_not_be_stored_is_stored_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_store: RoomStore, *_records: object) -> None:
        raise OperationError("the disk is full")

    async def test(node: Node) -> None:
        first = await node.desk.prepare(effect_id("test", "one"))
        page = node.connect()
        await page.ask("join", invitation=first[0])
        node.clock.advance_s(DAY_S)
        await node.desk.tick()
        page.say("hang_up")
        with monkeypatch.context() as broken:
            broken.setattr(RoomStore, "write", full)
            await node.desk.tick()
        await node.desk.tick()

    in_hub(test, tmp_path)
    assert stored_ends(tmp_path) == 1


def test_a_room_that_waited_in_vain_while_the_node_was_away_has_ended(tmp_path: Path) -> None:
    clock, one = VirtualClock(), effect_id("test", "one")

    async def before() -> None:
        async with running(tmp_path, clock=clock) as node:
            await node.desk.prepare(one)

    async def after() -> None:
        async with running(tmp_path, clock=clock) as node:
            assert len(node.desk) == 0
            with pytest.raises(SignalingError, match="room of this id has ended"):
                await node.desk.prepare(one)

    trio.run(before)
    clock.advance_s(DAY_S)
    trio.run(after)
    trio.run(after)


def test_a_room_that_can_not_be_stored_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_store: RoomStore, _records: object) -> None:
        raise OperationError("the disk is full")

    async def test(node: Node) -> None:
        effect = effect_id("test", "room")
        with monkeypatch.context() as broken:
            broken.setattr(RoomStore, "write", full)
            with pytest.raises(OperationError):
                await node.desk.prepare(effect)
        assert len(node.desk) == 0
        await node.desk.tick()
        assert not node.metered.open
        await node.desk.prepare(effect)
        assert (len(node.desk), len(node.metered.open)) == (1, 1)

    in_hub(test, tmp_path)


def test_making_rooms_may_take_a_token(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        page = node.connect()
        assert page.welcome["token_needed"]
        for token in ("", "wrong"):
            assert (await page.ask("create", token=token))["code"] == "token-needed"
        assert (await page.ask("create", token="the operator's word"))["type"] == "entered"

    in_hub(test, tmp_path, replace(FREE, room_token="the operator's word"))


def test_nothing_that_passes_is_kept_or_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def test(node: Node) -> None:
        host, guest = await node.room("guest")
        marked = SDP + "a=x-marker:6b1f0c3d\r\n"
        to = {"to": "0001", "connection": "one"}
        host.say("signal", **to, description={"type": "offer", "sdp": marked})
        host.say("signal", **to, candidates=[{"candidate": HOST + " ufrag 6b1f0c3d"}])
        assert "6b1f0c3d" in str(guest.heard)
        await node.pass_s(2)

    in_hub(test, tmp_path)
    assert "6b1f0c3d" not in caplog.text
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"6b1f0c3d" not in path.read_bytes()
