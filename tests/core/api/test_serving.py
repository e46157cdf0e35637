"""What the node does on the connections of its socket: beside each other, within bounds."""

from __future__ import annotations

import logging
import os
import select
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from core.api import serving
from core.api.bridge_messages import (
    AcknowledgeRequest,
    DoneReply,
    PingRequest,
    SubscribeRequest,
)
from core.api.client import connect
from core.api.framing import (
    IN_FLIGHT_MAX,
    REPLY_BYTES_MAX,
    REQUEST_BYTES_MAX,
    FrameReader,
    encode_frame,
)
from core.api.messages import (
    API_VERSION,
    CredentialsReply,
    CredentialsRequest,
    EndRequest,
    Failure,
    Hello,
    ProofReply,
    ProveRequest,
    Reply,
    ReplyBody,
    Request,
    RequestBody,
    StatusRequest,
    decode_client_message_untrusted,
    decode_node_message_untrusted,
    encode_message,
)
from core.api.serving import INTERNAL_ERROR, Answer
from core.errors import ApiError, OperationError, SignalingError
from tests.support.api_socket import (
    Events,
    api_server,
    api_server_in_thread,
    event,
    raw_client,
)

KERNEL_BYTES_MAX = 16 << 20
"""More than it keeps for a socket."""


class Held:
    """A handler whose requests wait, each until it is let go by its account."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.done: list[str] = []
        self._gates: dict[str, trio.Event] = {}

    def __call__(self, body: RequestBody) -> Answer:
        if isinstance(body, PingRequest):
            return DoneReply()
        assert isinstance(body, CredentialsRequest)
        return self._hold(body.account)

    async def _hold(self, account: str) -> ReplyBody:
        self.begun.append(account)
        await self._gates.setdefault(account, trio.Event()).wait()
        self.done.append(account)
        return CredentialsReply(account, "", 1, [])

    def let_go(self, account: str) -> None:
        self._gates.setdefault(account, trio.Event()).set()


def ask_for(account: str) -> CredentialsRequest:
    return CredentialsRequest(account, 1)


def reply_to(request_id: int, account: str) -> Reply:
    return Reply(request_id, CredentialsReply(account, "", 1, []))


# ---------------------------------------------------------------- beside each other


@pytest.mark.trio
async def test_replies_come_as_they_are_ready(tmp_path: Path) -> None:
    held = Held()
    async with api_server(tmp_path / "s", held), raw_client(tmp_path / "s") as client:
        await client.ask(ask_for("a"), ask_for("b"), PingRequest(), ask_for("c"))
        assert await client.receive(1) == [Reply(3, DoneReply())]
        for request_id, account in ((4, "c"), (1, "a"), (2, "b")):
            held.let_go(account)
            assert await client.receive(1) == [reply_to(request_id, account)]
        assert sorted(held.begun) == ["a", "b", "c"]


@pytest.mark.trio
async def test_what_can_be_answered_at_once_costs_no_task_and_leaves_in_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tasks(trio.abc.Instrument):
        spawned = 0

        def task_spawned(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002
            self.spawned += 1

    monkeypatch.setattr(serving, "SLICE_S", 60)
    async with api_server(tmp_path / "s", Held()), raw_client(tmp_path / "s") as client:
        tasks = Tasks()
        trio.lowlevel.add_instrument(tasks)
        await client.ask(*[PingRequest()] * 100)
        assert await client.receive_some() == [
            Reply(number, DoneReply()) for number in range(1, 101)
        ]
        trio.lowlevel.remove_instrument(tasks)
        assert tasks.spawned == 0


@pytest.mark.trio
async def test_a_slice_that_is_over_leaves_the_rest_for_the_next_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "SLICE_S", -1)
    path = tmp_path / "s"
    async with (
        api_server(path, Held()),
        raw_client(path) as first,
        raw_client(path) as second,
    ):
        for client in (first, second):
            await client.ask(*[PingRequest()] * 50)
        for client in (first, second):
            replies = await client.receive(50)
            assert replies == [Reply(number, DoneReply()) for number in range(1, 51)]


@pytest.mark.trio
async def test_no_more_is_begun_than_may_be_in_flight(tmp_path: Path) -> None:
    held = Held()
    accounts = [f"a{number}" for number in range(IN_FLIGHT_MAX + 40)]
    async with api_server(tmp_path / "s", held), raw_client(tmp_path / "s") as client:
        for account in accounts:
            await client.ask(ask_for(account))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert sorted(held.begun) == sorted(accounts[:IN_FLIGHT_MAX])
        held.let_go("a5")
        assert await client.receive(1) == [reply_to(6, "a5")]
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert held.begun[IN_FLIGHT_MAX:] == [accounts[IN_FLIGHT_MAX]]
        for account in accounts:
            held.let_go(account)
        assert len(await client.receive(len(accounts) - 1)) == len(accounts) - 1


@pytest.mark.trio
async def test_a_connection_is_not_read_while_its_requests_are_in_flight(tmp_path: Path) -> None:
    """Else a client could have the node hold any number of them."""
    held = Held()
    async with api_server(tmp_path / "s", held), raw_client(tmp_path / "s") as client:
        kept = sent = 0
        while kept != sent or not sent:
            kept = sent
            with suppress(BlockingIOError):
                while sent < KERNEL_BYTES_MAX:
                    client.protocol.request(ask_for("x" * 100))
                    sent += os.write(client.stream.socket.fileno(), client.protocol.data_to_send())
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert sent < KERNEL_BYTES_MAX, "nobody empties the kernel's buffer"
        assert len(held.begun) == IN_FLIGHT_MAX


# ---------------------------------------------------------------- replies that nobody fetches


@pytest.mark.trio
async def test_who_fetches_no_replies_is_asked_for_no_more_and_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = 0

    def handler(body: RequestBody) -> Answer:
        nonlocal begun
        if isinstance(body, PingRequest):
            return DoneReply()
        begun += 1
        return ProofReply("x" * 100_000)

    path = tmp_path / "s"
    async with api_server(path, handler), connect(path, software="good") as good:
        async with raw_client(path) as client:
            await client.ask(*[ProveRequest("x")] * 100)
            await trio.testing.wait_all_tasks_blocked(0.01)
            first = begun
            assert serving.UNSENT_BYTES_MAX // 100_000 <= first < 50
            await good.request(PingRequest())
            assert len(await client.receive(100)) == 100
        assert begun == 100
        monkeypatch.setattr(serving, "SEND_TIMEOUT_S", 0)
        async with raw_client(path) as client:
            await client.ask(*[ProveRequest("x")] * 100)
            poller = select.poll()
            poller.register(client.stream.socket.fileno(), 0)
            while not poller.poll(0):
                await trio.sleep(0.01)
            assert begun < 150
        await good.request(PingRequest())


# ---------------------------------------------------------------- ends


@pytest.mark.trio
async def test_who_has_said_all_still_gets_the_replies(tmp_path: Path) -> None:
    held = Held()
    async with api_server(tmp_path / "s", held), raw_client(tmp_path / "s") as client:
        await client.ask(ask_for("a"), PingRequest())
        await client.stream.send_eof()
        assert await client.receive(1) == [Reply(2, DoneReply())]
        held.let_go("a")
        assert await client.receive(1) == [reply_to(1, "a")]
        assert await client.receive_some() is None


@pytest.mark.trio
async def test_who_breaks_the_protocol_is_told_why_and_what_was_begun_ends(tmp_path: Path) -> None:
    held = Held()
    async with api_server(tmp_path / "s", held), raw_client(tmp_path / "s") as client:
        await client.ask(ask_for("a"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.stream.send_all(encode_frame(b"nonsense"))
        rest = b"".join([chunk async for chunk in client.stream])
        assert b'"id":0' in rest
        assert b"not a request" in rest
        held.let_go("a")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert held.done == ["a"]


@pytest.mark.trio
async def test_what_was_begun_ends_though_its_client_is_gone(tmp_path: Path) -> None:
    held = Held()
    path = tmp_path / "s"
    async with api_server(path, held):
        async with raw_client(path) as client:
            await client.ask(ask_for("a"))
            await trio.testing.wait_all_tasks_blocked(0.01)
        await trio.testing.wait_all_tasks_blocked(0.01)
        held.let_go("a")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert held.done == ["a"]
        async with connect(path, software="next") as following:
            await following.request(PingRequest())


@pytest.mark.trio
async def test_requests_of_clients_that_are_gone_count_among_the_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "CONNECTIONS_MAX", 2)
    held = Held()
    path = tmp_path / "s"
    async with api_server(path, held):
        for account in ("a", "b"):
            async with raw_client(path) as client:
                await client.ask(ask_for(account))
                await trio.testing.wait_all_tasks_blocked(0.01)
        await trio.testing.wait_all_tasks_blocked(0.01)
        async with await trio.open_unix_socket(str(path)) as stream:
            assert await stream.receive_some(10) == b""
        held.let_go("a")
        await trio.testing.wait_all_tasks_blocked(0.01)
        async with connect(path, software="next") as following:
            await following.request(PingRequest())


# ---------------------------------------------------------------- failures


@pytest.mark.trio
async def test_failures_are_told_alike_whenever_they_come(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def at_once(body: RequestBody) -> Answer:
        if isinstance(body, EndRequest):
            return later(body)
        return fail()

    async def later(body: RequestBody) -> ReplyBody:
        await trio.lowlevel.checkpoint()
        return fail()

    def fail() -> ReplyBody:
        raise errors[-1]

    errors: list[Exception] = []
    async with api_server(tmp_path / "s", at_once), raw_client(tmp_path / "s") as client:
        for error, failure in (
            (OperationError("no", "code", a=1), Failure("no", "code", {"a": "1"})),
            (SignalingError("busy", "later"), Failure("later", "busy")),
            (ZeroDivisionError("ours"), Failure(INTERNAL_ERROR)),
        ):
            errors.append(error)
            with caplog.at_level(logging.CRITICAL):
                await client.ask(StatusRequest(), EndRequest("a"))
                replies = await client.receive(2)
            assert [reply.body for reply in replies] == [failure, failure]


# ---------------------------------------------------------------- events


@pytest.mark.trio
async def test_a_subscriber_is_told_a_window_of_events_and_another_for_each_acknowledged(
    tmp_path: Path,
) -> None:
    source = Events(*(event(number) for number in range(5)))

    def handler(body: RequestBody) -> Answer:
        assert isinstance(body, AcknowledgeRequest)
        source.acknowledge(body.id)
        return DoneReply()

    path = tmp_path / "s"
    async with api_server(path, handler, source), raw_client(path) as client:
        await client.ask(SubscribeRequest("telegram", 2))
        assert await client.receive(3) == [event(0), event(1), Reply(1, DoneReply())]
        await client.ask(AcknowledgeRequest(event(1).id, "done"))
        assert await client.receive(2) == [event(2), Reply(2, DoneReply())]
        # From elsewhere, when nothing was asked.
        source.waiting[event(9).id] = event(9)
        source.acknowledge(event(0).id)
        assert await client.receive(1) == [event(3)]


@pytest.mark.trio
async def test_a_second_subscriber_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    source = Events(event(1), event(2))
    path = tmp_path / "s"
    async with api_server(path, Held(), source), raw_client(path) as second:
        async with raw_client(path) as first:
            await first.ask(SubscribeRequest("gsm", 1), SubscribeRequest("gsm", 1))
            assert [
                message.body.code
                for message in await first.receive(3)
                if isinstance(message, Reply) and isinstance(message.body, Failure)
            ] == ["subscribed"]
            await second.ask(SubscribeRequest("gsm", 2))
            (refused,) = await second.receive(1)
            assert isinstance(refused, Reply)
            assert isinstance(refused.body, Failure)
            assert refused.body.code == "subscribed"
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert source.living is None
        await second.ask(SubscribeRequest("gsm", 2))
        assert await second.receive(3) == [event(1), event(2), Reply(2, DoneReply())]
    assert source.living is None


@pytest.mark.trio
async def test_a_source_may_go_on_after_its_client_is_gone(tmp_path: Path) -> None:
    source = Events(event(1))
    path = tmp_path / "s"
    async with api_server(path, Held(), source):
        async with raw_client(path) as client:
            await client.ask(SubscribeRequest("gsm", 1))
            await client.receive(2)
            assert source.living is not None
            send = source.living.send
        await trio.testing.wait_all_tasks_blocked(0.01)
        send(event(2))
        async with connect(path, software="next") as following:
            await following.request(PingRequest())


@pytest.mark.trio
async def test_who_has_broken_the_protocol_is_told_no_event(tmp_path: Path) -> None:
    source = Events()
    path = tmp_path / "s"
    async with api_server(path, Held(), source), raw_client(path) as client:
        await client.ask(SubscribeRequest("gsm", 1))
        await client.receive(1)
        assert source.living is not None
        send = source.living.send
        await client.stream.send_all(encode_frame(b"nonsense"))
        rest = b""
        async for chunk in client.stream:
            rest += chunk
            send(event(1))
        assert b'"event"' not in rest
        assert source.living is None


@pytest.mark.trio
async def test_a_node_without_bridges_says_so(tmp_path: Path) -> None:
    async with api_server(tmp_path / "s", Held()), connect(tmp_path / "s", software="t") as client:
        with pytest.raises(OperationError, match="has no bridges") as caught:
            await client.subscribe("gsm", 1)
        assert caught.value.code == "no_bridges"


# ---------------------------------------------------------------- whatever comes


def frames() -> st.SearchStrategy[bytes]:
    """Frames of a client's, right and wrong, and what is none."""
    bodies = st.sampled_from(
        [
            PingRequest(),
            SubscribeRequest("gsm", 1),
            SubscribeRequest("telegram", 256),
            AcknowledgeRequest(event(1).id, "done"),
            ask_for("held"),
            StatusRequest(),
        ]
    )
    requests = st.builds(
        lambda number, body: encode_frame(encode_message(Request(number, body))),
        st.integers(1, 2**53 - 1),
        bodies,
    )
    nonsense = st.binary(min_size=1, max_size=20)
    return st.one_of(
        requests,
        requests,
        requests,
        st.just(encode_frame(encode_message(Hello(API_VERSION, "again")))),
        nonsense.map(encode_frame),
        nonsense,
    )


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("fuzzed") / "s"
    source = Events(event(1), event(2))

    def handler(body: RequestBody) -> Answer:
        if isinstance(body, CredentialsRequest):
            return later()
        if isinstance(body, StatusRequest):
            raise OperationError("no status today")
        if isinstance(body, AcknowledgeRequest):
            source.acknowledge(body.id)
        return DoneReply()

    async def later() -> ReplyBody:
        await trio.lowlevel.checkpoint()
        return DoneReply()

    with api_server_in_thread(path, handler, source):
        yield path


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_comes_each_request_is_answered_once_or_the_connection_ends(
    fuzzed: Path, data: st.DataObject
) -> None:
    hello = encode_frame(encode_message(Hello(API_VERSION, "fuzz")))
    said = hello + b"".join(data.draw(st.lists(frames(), max_size=20)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(said)), max_size=4)))
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(fuzzed))
        with suppress(ConnectionError):
            for start, end in pairwise([0, *cuts, len(said)]):
                client.sendall(said[start:end])
            client.shutdown(socket.SHUT_WR)
        heard = b""
        with suppress(ConnectionError):
            while chunk := client.recv(65536):
                heard += chunk
    asked = Counter(
        message.id
        for message in read(REQUEST_BYTES_MAX, said, decode_client_message_untrusted)
        if isinstance(message, Request)
    )
    told = Counter(
        message.id
        for message in read(REPLY_BYTES_MAX, heard, decode_node_message_untrusted)
        if isinstance(message, Reply)
    )
    if not told.pop(0, 0):
        assert told == asked
    assert told <= asked


def read(maximum: int, data: bytes, decode: Callable[[bytes], Any]) -> list[Any]:
    """The messages up to the first that is none."""
    reader = FrameReader(maximum)
    messages = []
    # Bit by bit: of what comes with nonsense the reader gives nothing.
    for place in range(len(data)):
        try:
            messages += [
                decode(payload) for payload in reader.feed_untrusted(data[place : place + 1])
            ]
        except ApiError:
            break
    return messages
