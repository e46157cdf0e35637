"""The client, on trio and on asyncio: one connection, many tasks."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from core.api.bridge_messages import (
    AcknowledgeRequest,
    DoneReply,
    PingRequest,
    UserTransferRequest,
)
from core.api.client import EVENTS_MAX, ApiClient, connect
from core.api.connection import NodeConnection, Refused
from core.api.framing import IN_FLIGHT_MAX, encode_frame
from core.api.messages import (
    API_VERSION,
    CredentialsReply,
    CredentialsRequest,
    Failure,
    Hello,
    ProofReply,
    ProveRequest,
    Reply,
    ReplyBody,
    RequestBody,
    encode_message,
)
from core.api.serving import Answer
from core.errors import ApiError, OperationError
from tests.support.api_socket import Events, api_server_in_thread, event

Client = Callable[[], Awaitable[None]]


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Client], None]:
    """Runs a client's side on one of the two."""

    async def bounded(client: Client) -> None:
        with anyio.fail_after(60):
            await client()

    return lambda client: anyio.run(bounded, client, backend=request.param)


class Node:
    """A handler that echoes an account after as many rounds of the loop as the time to live says,
    and holds those that are to be held until it is told to go on."""

    def __init__(self, source: Events | None = None) -> None:
        self.source = source
        self.in_flight = self.most_in_flight = 0
        self.held = 0
        self._gate = trio.Event()

    def __call__(self, body: RequestBody) -> Answer:
        if isinstance(body, CredentialsRequest):
            return self._echo(body)
        if isinstance(body, ProveRequest):
            return ProofReply(body.record * 1_000)
        if isinstance(body, AcknowledgeRequest) and self.source is not None:
            self.source.acknowledge(body.id)
            return DoneReply()
        if isinstance(body, UserTransferRequest):
            raise OperationError("not enough", "no_money", account="#7")
        if isinstance(body, PingRequest):
            self._gate.set()
            return DoneReply()
        raise AssertionError(body)

    async def _echo(self, body: CredentialsRequest) -> ReplyBody:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if body.account.startswith("held"):
            self.held += 1
            await self._gate.wait()
        for _ in range(body.ttl_s):
            await trio.lowlevel.checkpoint()
        self.in_flight -= 1
        return CredentialsReply(body.account, "", body.ttl_s, [])


async def echo(client: ApiClient, account: str, rounds: int = 1) -> None:
    reply = await client.request(CredentialsRequest(account, rounds))
    assert reply == CredentialsReply(account, "", rounds, [])


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await anyio.sleep(0.001)


def test_each_of_many_tasks_gets_its_own_reply(
    tmp_path: Path, run: Callable[[Client], None]
) -> None:
    node = Node()
    draw = random.Random(1)

    async def client_side() -> None:
        async with connect(tmp_path / "s", software="t") as client, anyio.create_task_group() as g:
            for number in range(600):
                g.start_soon(echo, client, f"a{number}", draw.randint(1, 20))

    with api_server_in_thread(tmp_path / "s", node):
        run(client_side)
    assert 1 < node.most_in_flight <= IN_FLIGHT_MAX


def test_a_failure_is_an_error_with_its_code(tmp_path: Path, run: Callable[[Client], None]) -> None:
    async def client_side() -> None:
        async with connect(tmp_path / "s", software="t") as client:
            with pytest.raises(OperationError, match="not enough") as caught:
                await client.request(UserTransferRequest("a", "b", "1"))
            assert (caught.value.code, caught.value.values) == ("no_money", {"account": "#7"})
            await client.request(PingRequest())

    with api_server_in_thread(tmp_path / "s", Node()):
        run(client_side)


def test_whoever_reads_for_all_may_be_cancelled(
    tmp_path: Path, run: Callable[[Client], None]
) -> None:
    """Another one reads on; the reply that nobody waits for is dropped."""
    node = Node()

    async def client_side() -> None:
        async with connect(tmp_path / "s", software="t") as client:
            async with anyio.create_task_group() as waiting:
                reader = anyio.CancelScope()

                async def read() -> None:
                    with reader:
                        await echo(client, "held-first")

                waiting.start_soon(read)
                await until(lambda: node.held == 1)
                for number in range(5):
                    waiting.start_soon(echo, client, f"held-{number}")
                await until(lambda: node.held == 6)
                reader.cancel()
                await echo(client, "meanwhile")
                await client.request(PingRequest())
            await echo(client, "after")

    with api_server_in_thread(tmp_path / "s", node):
        run(client_side)


def test_requests_that_are_cancelled_at_any_moment_disturb_no_others(
    tmp_path: Path, run: Callable[[Client], None]
) -> None:
    draw = random.Random(2)

    async def client_side() -> None:
        async with connect(tmp_path / "s", software="t") as client, anyio.create_task_group() as g:

            async def ask(number: int) -> None:
                for turn in range(10):
                    with anyio.move_on_after(draw.choice([0, 0.0005, 0.002, 60])):
                        await echo(client, f"{number}-{turn}", draw.randint(1, 50))

            for number in range(50):
                g.start_soon(ask, number)

    with api_server_in_thread(tmp_path / "s", Node()):
        run(client_side)


def test_no_more_is_sent_than_the_node_carries_out(
    tmp_path: Path, run: Callable[[Client], None]
) -> None:
    """Also by those who didn't wait for their reply: it is in flight all the same."""
    node = Node()

    async def client_side() -> None:
        async with connect(tmp_path / "s", software="t") as client, anyio.create_task_group() as g:
            for number in range(IN_FLIGHT_MAX):
                g.start_soon(echo, client, f"held-{number}")
            await until(lambda: node.held == IN_FLIGHT_MAX)
            g.cancel_scope.cancel()
            with anyio.move_on_after(0.05) as scope:
                await echo(client, "another")
            assert scope.cancelled_caught
            async with connect(tmp_path / "s", software="t") as other:
                await other.request(PingRequest())
            with anyio.CancelScope(shield=True):
                await echo(client, "now")

    with api_server_in_thread(tmp_path / "s", node):
        run(client_side)


def test_long_requests_and_long_replies_pass_each_other(
    tmp_path: Path, run: Callable[[Client], None]
) -> None:
    """More than the kernel's buffers hold, both ways at once: who only sent would wait forever."""

    async def client_side() -> None:
        async with connect(tmp_path / "s", software="t") as client:

            async def ask(record: str) -> None:
                assert await client.request(ProveRequest(record)) == ProofReply(record * 1_000)

            async def long(number: int) -> None:
                body = UserTransferRequest("a", "b", "1" * 128, "J" * 128, f"{number:032x}")
                with pytest.raises(OperationError):
                    await client.request(body)

            async with anyio.create_task_group() as g:
                for number in range(300):
                    g.start_soon(ask, f"{number:0100}")
                    g.start_soon(long, number)

    with api_server_in_thread(tmp_path / "s", Node()):
        run(client_side)


def test_events_come_beside_replies_and_again_until_they_are_acknowledged(
    tmp_path: Path, run: Callable[[Client], None]
) -> None:
    source = Events(*(event(number) for number in range(40)))
    taken: list[str] = []

    async def first_side() -> None:
        async with connect(tmp_path / "s", software="t") as client:
            await client.subscribe("telegram", 4)
            async for one in client.events():
                assert one == event(len(taken))
                taken.append(one.id)
                await echo(client, one.id)
                if len(taken) == 10:
                    return
                await client.acknowledge(one.id)

    async def second_side() -> None:
        async with connect(tmp_path / "s", software="t") as client:
            await client.subscribe("telegram", 4)
            async with anyio.create_task_group() as g:

                async def ask() -> None:
                    for number in range(100):
                        await echo(client, f"{number}", number % 5 + 1)

                async def acknowledge(event_id: str) -> None:
                    await client.acknowledge(event_id, "unknown", "who knows")

                g.start_soon(ask)
                async for one in client.events():
                    taken.append(one.id)
                    g.start_soon(acknowledge, one.id)
                    if len(taken) == 41:
                        break

    with api_server_in_thread(tmp_path / "s", Node(source), source):
        run(first_side)
        assert len(source.waiting) == 31
        run(second_side)
    assert not source.waiting
    assert taken[10:] == [event(number).id for number in range(9, 40)]
    assert len(source.given) == len(taken) + 3, "what was in the window of the first"


def test_a_connection_that_breaks_tells_everybody_and_stays_broken(
    tmp_path: Path, run: Callable[[Client], None]
) -> None:
    node = Node(Events())
    failed: list[str] = []

    async def expect_an_end(of: Callable[..., Awaitable[Any]], *arguments: object) -> None:
        try:
            await of(*arguments)
        except ApiError as error:
            failed.append(str(error))

    async def client_side() -> None:
        async with connect(tmp_path / "s", software="t") as client, anyio.create_task_group() as g:
            await client.subscribe("telegram", 4)
            g.start_soon(expect_an_end, client.next_event)
            for number in range(IN_FLIGHT_MAX + 10):
                g.start_soon(expect_an_end, echo, client, f"held-{number}")
            await until(lambda: node.held == IN_FLIGHT_MAX)
            client._socket.shutdown(2)
            await until(lambda: len(failed) == IN_FLIGHT_MAX + 11)
            for _ in range(2):
                with pytest.raises(ApiError):
                    await client.request(PingRequest())
            with pytest.raises(ApiError):
                await client.next_event()
            async with connect(tmp_path / "s", software="t") as another:
                await another.request(PingRequest())

    with api_server_in_thread(tmp_path / "s", node, node.source):
        run(client_side)


def test_who_still_waits_when_it_is_closed_is_told(
    tmp_path: Path, run: Callable[[Client], None]
) -> None:
    node = Node()

    async def client_side() -> None:
        async with anyio.create_task_group() as g:

            async def wait(client: ApiClient) -> None:
                with pytest.raises(ApiError, match="closed"):
                    await echo(client, "held")

            async with connect(tmp_path / "s", software="t") as client:
                for _ in range(3):
                    g.start_soon(wait, client)
                await until(lambda: node.held == 3)
                async with connect(tmp_path / "s", software="t") as other:
                    client.close()
                    client.close()
                    await other.request(PingRequest())

    with api_server_in_thread(tmp_path / "s", node):
        run(client_side)


# ---------------------------------------------------------------- nodes that do what they must not


def talk(path: Path, run: Callable[[Client], None], says: bytes, client_side: Any) -> None:
    """Run `client_side` against a node that greets, says this once it is asked, and hangs up."""

    async def node(listener: trio.SocketListener) -> None:
        stream = await listener.accept()
        async with stream:
            await stream.receive_some()
            await stream.send_all(says)

    async def serve() -> None:
        with trio.socket.socket(trio.socket.AF_UNIX) as unix_socket:
            await unix_socket.bind(str(path))
            unix_socket.listen()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node, trio.SocketListener(unix_socket))
                await trio.to_thread.run_sync(run, client_side)

    trio.run(serve)


HELLO = encode_frame(encode_message(Hello(API_VERSION, "node")))


@pytest.mark.parametrize(
    ("says", "error"),
    [
        (HELLO + encode_frame(encode_message(event(1))), "nobody has subscribed"),
        (HELLO + encode_frame(encode_message(Reply(2, DoneReply()))), "nothing that was asked"),
        (HELLO + encode_frame(encode_message(Reply(0, Failure("full")))), "the node refused: full"),
        (HELLO + b"\xff\xff\xff\xff", "message of"),
        (HELLO, "closed the connection"),
        (b"", "closed the connection"),
    ],
)
def test_a_node_that_breaks_the_protocol(
    tmp_path: Path, run: Callable[[Client], None], says: bytes, error: str
) -> None:
    async def client_side() -> None:
        async with connect(tmp_path / "s", software="t") as client:
            with pytest.raises(ApiError, match=error):
                await client.request(PingRequest())

    talk(tmp_path / "s", run, says, client_side)


def test_more_events_than_anybody_has_asked_for_end_the_connection(
    tmp_path: Path, run: Callable[[Client], None]
) -> None:
    node = NodeConnection("node")
    node.receive_untrusted(HELLO)
    node.reply(1, DoneReply())
    for number in range(EVENTS_MAX + 1):
        node.send_event(event(number))

    async def client_side() -> None:
        async with connect(tmp_path / "s", software="t") as client:
            await client.subscribe("gsm", 1)
            with pytest.raises(ApiError, match="more events"):
                await client.request(PingRequest())

    talk(tmp_path / "s", run, node.data_to_send(), client_side)


def test_a_refusal_is_no_refusal_for_those_that_may_be_under_way(
    tmp_path: Path, run: Callable[[Client], None]
) -> None:
    async def client_side() -> None:
        async with connect(tmp_path / "s", software="t") as client, anyio.create_task_group() as g:

            async def ask() -> None:
                with pytest.raises(ApiError, match="ended the connection: full") as caught:
                    await client.request(PingRequest())
                assert not isinstance(caught.value, Refused)

            g.start_soon(ask)
            g.start_soon(ask)

    says = HELLO + encode_frame(encode_message(Reply(0, Failure("full"))))
    talk(tmp_path / "s", run, says, client_side)
