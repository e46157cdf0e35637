"""WebSockets after their handshake: over real sockets and TLS, slow, flooding, silent and hostile
clients, and the end of each."""

from __future__ import annotations

import logging
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from threading import Event, Thread
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from core.clock import SystemClock
from core.units import NS_PER_S
from relay.web.certificate import ensure_certificate
from relay.web.server import HttpServer
from relay.web.tls import CertificateFiles
from relay.web.websocket import (
    CLOSE_S,
    MESSAGE_S,
    MESSAGES_PER_TURN,
    PING_AFTER_S,
    SILENCE_S,
    SWEEP_S,
    UNSENT_MAXIMUM_BYTES,
    WebSocket,
    WebSocketLimits,
    WebSocketRoute,
    WebSockets,
)
from tests.support.websocket_app import Recorder, Recorders, serving
from tests.support.websocket_frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    frame,
    handshake_request,
)

MAXIMUM = 200_000
GOODBYE = frame(CLOSE, (1000).to_bytes(2))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return ensure_certificate(tmp_path_factory.mktemp("certificate"), ["127.0.0.1"])


@pytest.fixture(params=["plain", "TLS"])
def files(request: pytest.FixtureRequest, certificate: CertificateFiles) -> CertificateFiles | None:
    return None if request.param == "plain" else certificate


def open_client(
    server: HttpServer, files: CertificateFiles | None = None, **options: Any
) -> ClientConnection:
    """A client of the websockets library; blocking."""
    trusting = None if files is None else ssl.create_default_context(cafile=str(files.certificate))
    return connect(
        server.url.replace("http", "ws", 1) + "/ws",
        ssl=trusting,
        origin=Origin(server.url),
        proxy=None,
        max_size=None,
        **options,
    )


@contextmanager
def raw_client(
    server: HttpServer, files: CertificateFiles | None = None
) -> Iterator[socket.socket]:
    """A blocking socket behind a handshake, on which nothing happens by itself."""
    with socket.create_connection(("127.0.0.1", server.addresses[0].port), 20) as connection:
        if files is not None:
            trusting = ssl.create_default_context(cafile=str(files.certificate))
            connection = trusting.wrap_socket(connection, server_hostname="127.0.0.1")
        with connection:
            connection.sendall(handshake_request(Origin=f"{server.scheme}://127.0.0.1"))
            assert connection.recv(1000).startswith(b"HTTP/1.1 101 ")
            yield connection


async def in_thread(talk: Callable[[], object]) -> None:
    with trio.fail_after(60):
        await trio.to_thread.run_sync(talk, abandon_on_cancel=True)


# ------------------------------------------------------------ with a client that others wrote


@pytest.mark.trio
async def test_messages_pings_and_the_end(files: CertificateFiles | None) -> None:
    recorders = Recorders()
    async with serving(recorders, certificate=files) as server:

        def talk() -> None:
            with open_client(server, files, subprotocols=["montana.1"]) as client:
                assert client.subprotocol == "montana.1"
                for text in ("", "Привет", "x" * 125, "x" * 126, "x" * MAXIMUM):
                    client.send(text)
                    assert client.recv(timeout=20) == text
                client.send(["in ", "three ", "parts"])
                assert client.recv(timeout=20) == "in three parts"
                assert client.ping().wait(20)
                for number in range(1000):
                    client.send(str(number))
                assert [client.recv(timeout=20) for _ in range(1000)] == list(map(str, range(1000)))
                client.close(3001, "enough")
                assert client.close_code == 3001

        await in_thread(talk)
        await recorders.wait_closed()
        (recorder,) = recorders.all
        assert recorder.websocket.client == "127.0.0.1"
        assert recorder.websocket.origin == server.url
        assert recorder.websocket.is_closed
        recorder.websocket.send(b"nobody reads this")
        recorder.websocket.close()
        assert server.websocket_connections == 0


@pytest.mark.trio
async def test_what_was_sent_before_the_end_still_goes_out(files: CertificateFiles | None) -> None:
    class Leaving(Recorder):
        def received(self, message: bytes) -> None:
            self.messages.append(message)
            for _ in range(20):
                self.websocket.send(b"x" * 10_000)
            self.websocket.close(3000, "до")
            self.websocket.send(b"after")

    recorders = Recorders(Leaving)
    async with serving(recorders, certificate=files) as server:

        def talk() -> None:
            with open_client(server, files) as client:
                client.send("first")
                client.send("second")
                assert [len(client.recv(timeout=20)) for _ in range(20)] == [10_000] * 20
                with pytest.raises(ConnectionClosed):
                    client.recv(timeout=20)
                assert (client.close_code, client.close_reason) == (3000, "до")

        await in_thread(talk)
        await recorders.wait_closed()
        assert recorders.all[0].messages == [b"first"]


@pytest.mark.trio
async def test_a_server_that_stops_says_so(files: CertificateFiles | None) -> None:
    recorders = Recorders()

    def talk(server: HttpServer) -> None:
        with open_client(server, files) as first, open_client(server, files) as second:
            for client in (first, second):
                with pytest.raises(ConnectionClosed):
                    client.recv(timeout=20)
                assert client.close_code == 1001

    async with trio.open_nursery() as nursery, serving(recorders, certificate=files) as server:
        nursery.start_soon(in_thread, partial(talk, server))
        with trio.fail_after(20):
            while len(recorders.all) < 2:
                await trio.sleep(0.01)
    assert [one.closed_count for one in recorders.all] == [1, 1]


@pytest.mark.trio
async def test_who_does_not_read_is_dropped_and_others_are_not(
    files: CertificateFiles | None,
) -> None:
    class Generous(Recorder):
        def received(self, message: bytes) -> None:
            if message == b"all of you":
                for one in recorders.all:
                    one.websocket.send(b"x" * 20_000)
            else:
                self.websocket.send(message)

    recorders = Recorders(Generous)
    async with serving(recorders, certificate=files) as server:

        def talk() -> None:
            with raw_client(server, files), open_client(server, files) as polite:
                for _ in range(2000):
                    polite.send("all of you")
                    assert len(polite.recv(timeout=20)) == 20_000
                    if recorders.all[0].closed_count:
                        break
                polite.send("still here")
                assert polite.recv(timeout=20) == "still here"

        await in_thread(talk)
        await recorders.wait_closed(2)
        assert recorders.all[0].websocket.is_closed


@pytest.mark.trio
async def test_a_thousand_idle_connections(files: CertificateFiles | None) -> None:
    count = 1000 if files is None else 100
    recorders = Recorders()
    limits = WebSocketLimits(connections_per_client=count)
    async with serving(recorders, certificate=files, limits=limits) as server:
        tasks = []
        streams: list[Any] = []
        for _ in range(count):
            stream: Any = await trio.open_tcp_stream("127.0.0.1", server.addresses[0].port)
            if files is not None:
                trusting = ssl.create_default_context(cafile=str(files.certificate))
                stream = trio.SSLStream(stream, trusting, server_hostname="127.0.0.1")
            await stream.send_all(
                b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                b"Origin: %s://127.0.0.1\r\n\r\n" % server.scheme.encode()
            )
            assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 101 ")
            streams.append(stream)
            if len(streams) in (1, count):
                with trio.fail_after(20):
                    # The answer has come a moment before the WebSocket counts as one.
                    while (server.connections, server.websocket_connections) != (0, len(streams)):
                        await trio.sleep(0.01)
                tasks.append(trio.lowlevel.current_statistics().tasks_living)
        # That of the last handshake may be about to end.
        assert tasks[1] <= tasks[0] + 1
        for recorder in recorders.all:
            recorder.websocket.send(b"news")
        for stream in streams:
            assert await stream.receive_some(100) == b"\x81\x04news"
            await trio.aclose_forcefully(stream)
        await recorders.wait_closed(count)


@pytest.mark.trio
async def test_a_flood_leaves_others_their_turn() -> None:
    class Sparing(Recorder):
        def received(self, message: bytes) -> None:
            self.messages.append(message)
            if message:
                self.websocket.send(message)

    recorders = Recorders(Sparing)
    async with serving(recorders) as server:

        def talk() -> None:
            is_over = Event()

            def flood(sending: socket.socket) -> None:
                while not is_over.is_set():
                    sending.sendall(frame(TEXT) * 10_000)

            with open_client(server) as polite, raw_client(server) as flooder:
                thread = Thread(target=flood, args=[flooder])
                thread.start()
                try:
                    for number in range(200):
                        polite.send(str(number))
                        assert polite.recv(timeout=20) == str(number)
                finally:
                    is_over.set()
                    thread.join()

        await in_thread(talk)
        await recorders.wait_closed(2)
        # Neither had to wait for the end of the other.
        assert len(recorders.all[0].messages) == 200
        assert len(recorders.all[1].messages) > MESSAGES_PER_TURN


@pytest.mark.trio
async def test_random_bytes_end_one_connection_alone() -> None:
    chance = random.Random(7)
    recorders = Recorders()
    good = frame(TEXT, b"hello") + frame(PING, b"p") + frame(TEXT, b"a", final=False)
    good += frame(CONTINUATION, b"b") + GOODBYE
    async with serving(recorders) as server:

        def sent() -> bytes:
            if chance.random() < 0.3:
                return chance.randbytes(chance.randrange(1, 300))
            mangled = bytearray(good * chance.randrange(1, 4))
            for _ in range(chance.randrange(6)):
                mangled[chance.randrange(len(mangled))] = chance.randrange(256)
            return bytes(mangled[: chance.randrange(1, len(mangled) + 1)])

        def talk() -> None:
            with open_client(server) as polite:
                for _ in range(150):
                    with raw_client(server) as hostile:
                        hostile.sendall(sent())
                        if chance.random() < 0.5:
                            hostile.shutdown(socket.SHUT_WR)
                            with suppress(ConnectionResetError):
                                while hostile.recv(65_536):
                                    continue
                    polite.send("still here")
                    assert polite.recv(timeout=20) == "still here"

        await in_thread(talk)
        await recorders.wait_closed(151)
        assert server.websocket_connections == 0


# ------------------------------------------------------------ without a handshake, in virtual time


class TrioClock(SystemClock):
    """Trio's time, which jumps to what comes next when all wait."""

    def monotonic_ns(self) -> int:
        return round(trio.current_time() * NS_PER_S)


class CountingSocket(socket.socket):
    """Counts what it was called for, of either way."""

    sends = 0

    def send(self, *arguments: Any) -> int:
        type(self).sends += 1
        return super().send(*arguments)


class Line:
    """The client's end of a connection that some `WebSockets` have taken over."""

    def __init__(self, websockets: WebSockets, open_app: Callable[[WebSocket], Recorder]) -> None:
        ours, theirs = socket.socketpair()
        kept = CountingSocket(fileno=ours.detach())
        kept.setblocking(False)
        theirs.setblocking(False)
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        route = WebSocketRoute(
            open_app=open_app, is_allowed=lambda *_: True, message_maximum_bytes=MAXIMUM
        )
        place = websockets.place()
        assert place.take("192.0.2.1")
        websockets.adopt(
            kept, route, place, client="192.0.2.1", origin="http://a.example", received=b""
        )

    async def receive(self, size: int) -> bytes:
        """The next `size` bytes."""
        data = b""
        while len(data) < size:
            more = await self.stream.receive_some(size - len(data))
            assert more, data
            data += more
        return data

    async def receive_close(self) -> int:
        """The code of the close frame that is all that comes."""
        head = await self.receive(2)
        assert head[0] == 0x88
        return int.from_bytes((await self.receive(head[1]))[:2])

    async def has_ended(self) -> bool:
        """Wait for the end."""
        try:
            return await self.stream.receive_some(1) == b""
        except trio.BrokenResourceError:
            return True


@asynccontextmanager
async def running() -> AsyncIterator[WebSockets]:
    websockets = WebSockets(TrioClock())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(websockets.run)
        yield websockets
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_who_is_silent_is_asked_and_then_left(autojump_clock: MockClock) -> None:
    recorders = Recorders()
    async with running() as websockets:
        line = Line(websockets, recorders.open)
        assert await line.receive(2) == b"\x89\x00"
        assert PING_AFTER_S <= trio.current_time() <= PING_AFTER_S + 2 * SWEEP_S
        assert await line.has_ended()
        assert SILENCE_S <= trio.current_time() <= SILENCE_S + 2 * SWEEP_S
        assert recorders.all[0].closed_count == 1
        assert len(websockets) == 0


@pytest.mark.trio
async def test_who_answers_a_ping_stays(autojump_clock: MockClock) -> None:
    recorders = Recorders()
    async with running() as websockets:
        line = Line(websockets, recorders.open)
        for _ in range(20):
            assert await line.receive(2) == b"\x89\x00"
            await line.stream.send_all(frame(PONG))
        assert trio.current_time() >= 20 * PING_AFTER_S
        assert not recorders.all[0].websocket.is_closed


@pytest.mark.trio
async def test_who_talks_is_not_asked(autojump_clock: MockClock) -> None:
    recorders = Recorders()
    async with running() as websockets:
        line = Line(websockets, recorders.open)
        for _ in range(10):
            await line.stream.send_all(frame(TEXT, b"x"))
            assert await line.receive(3) == b"\x81\x01x"
            await trio.sleep(PING_AFTER_S - 2 * SWEEP_S)


@pytest.mark.trio
async def test_a_message_that_never_ends_ends_its_connection(autojump_clock: MockClock) -> None:
    recorders = Recorders()
    async with running() as websockets:
        line = Line(websockets, recorders.open)
        begun = frame(TEXT, b"x" * 1000)
        sent = 0
        while not recorders.all[0].closed_count:
            assert sent < len(begun) - 1
            await line.stream.send_all(begun[sent : sent + 1])
            sent += 1
            await trio.sleep(1)
        assert MESSAGE_S <= trio.current_time() <= MESSAGE_S + 3 * SWEEP_S


@pytest.mark.trio
async def test_messages_in_time_take_as_long_as_they_like_together(
    autojump_clock: MockClock,
) -> None:
    recorders = Recorders()
    async with running() as websockets:
        line = Line(websockets, recorders.open)
        whole = frame(TEXT, b"abc")
        # Never a moment without a message that is half here.
        await line.stream.send_all(whole[:4])
        for _ in range(10):
            await trio.sleep(MESSAGE_S - 3 * SWEEP_S)
            await line.stream.send_all(whole[4:] + whole[:4])
            assert await line.receive(5) == b"\x81\x03abc"


@pytest.mark.trio
async def test_who_does_not_agree_to_an_end_is_left(autojump_clock: MockClock) -> None:
    recorders = Recorders()
    async with running() as websockets:
        line = Line(websockets, recorders.open)
        recorders.all[0].websocket.close(1000)
        assert recorders.all[0].websocket.is_closed
        assert await line.receive_close() == 1000
        await line.stream.send_all(frame(TEXT, b"I stay"))
        assert await line.has_ended()
        assert CLOSE_S <= trio.current_time() <= CLOSE_S + 2 * SWEEP_S
        assert recorders.all[0].messages == []
        assert recorders.all[0].closed_count == 1


@pytest.mark.trio
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(BINARY, b"x"), 1003),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, bytes(MAXIMUM + 1))[:20], 1009),
        (frame(TEXT, b"x", key=None), 1002),
        (frame(TEXT, b"x", reserved=1), 1002),
    ],
)
async def test_what_is_no_websocket_is_told_why(sent: bytes, code: int) -> None:
    recorders = Recorders()
    async with running() as websockets:
        line = Line(websockets, recorders.open)
        await line.stream.send_all(frame(TEXT, b"fine") + sent + bytes(1000))
        assert await line.receive(6) == b"\x81\x04fine"
        assert await line.receive_close() == code
        # Its end is told, and what it goes on sending is of no interest.
        assert await line.has_ended()
        assert recorders.all[0].closed_count == 1
        await line.stream.send_all(frame(TEXT, b"more"))
        await line.stream.aclose()
        with trio.fail_after(20):
            while len(websockets):
                await trio.sleep(0.01)
        assert recorders.all[0].messages == [b"fine"]


@pytest.mark.trio
async def test_what_breaks_the_rules_and_stays_is_left(autojump_clock: MockClock) -> None:
    recorders = Recorders()
    async with running() as websockets:
        line = Line(websockets, recorders.open)
        await line.stream.send_all(frame(BINARY, b"x"))
        assert await line.receive_close() == 1003
        while len(websockets):
            await trio.sleep(0.5)
        assert CLOSE_S <= trio.current_time() <= CLOSE_S + 2 * SWEEP_S
        assert recorders.all[0].closed_count == 1


@pytest.mark.trio
async def test_a_close_frame_is_answered_by_the_same_code() -> None:
    recorders = Recorders()
    async with running() as websockets:
        for sent, answer in (
            (frame(CLOSE, (4321).to_bytes(2) + b"why"), b"\x88\x02" + (4321).to_bytes(2)),
            (frame(CLOSE), b"\x88\x00"),
        ):
            line = Line(websockets, recorders.open)
            await line.stream.send_all(frame(TEXT, b"last") + sent + frame(TEXT, b"after"))
            assert await line.receive(6) == b"\x81\x04last"
            assert await line.receive(len(answer)) == answer
            assert await line.has_ended()
        assert [one.messages for one in recorders.all] == [[b"last"]] * 2
        assert [one.closed_count for one in recorders.all] == [1, 1]


@pytest.mark.trio
async def test_what_one_batch_brings_about_leaves_in_one_write() -> None:
    recorders = Recorders()
    async with running() as websockets:
        line = Line(websockets, recorders.open)
        CountingSocket.sends = 0
        await line.stream.send_all(frame(TEXT, b"x") * 50)
        assert await line.receive(150) == b"\x81\x01x" * 50
        assert CountingSocket.sends == 1
        # What others say between batches is gathered until the task that sends it has its turn.
        for _ in range(3):
            recorders.all[0].websocket.send(b"y")
        assert await line.receive(9) == b"\x81\x01y" * 3
        assert CountingSocket.sends == 2


@pytest.mark.trio
async def test_a_turn_has_an_end() -> None:
    order: list[str] = []

    class Named(Recorder):
        def received(self, message: bytes) -> None:
            order.append(message.decode())

    recorders = Recorders(Named)
    async with running() as websockets:
        flooding, polite = (Line(websockets, recorders.open) for _ in range(2))
        await flooding.stream.send_all(frame(TEXT, b"f") * 1000)
        await polite.stream.send_all(frame(TEXT, b"p"))
        with trio.fail_after(20):
            while len(order) < 1001:
                await trio.sleep(0)
        assert order.index("p") <= MESSAGES_PER_TURN


@pytest.mark.trio
async def test_unsent_bytes_have_a_limit() -> None:
    recorders = Recorders()
    async with running() as websockets:
        line = Line(websockets, recorders.open)
        websocket = recorders.all[0].websocket
        sent = 0
        while not websocket.is_closed:
            websocket.send(b"x" * 1000)
            sent += 1004
            assert sent < UNSENT_MAXIMUM_BYTES + 10_000_000
        # Its app is told, but not in the midst of its own call.
        assert recorders.all[0].closed_count == 0
        await recorders.wait_closed()
        assert sent > UNSENT_MAXIMUM_BYTES
        assert len(websockets) == 0
        await line.stream.aclose()


@pytest.mark.trio
async def test_what_the_kernel_does_not_take_leaves_later() -> None:
    recorders = Recorders()
    async with running() as websockets:
        line = Line(websockets, recorders.open)
        websocket = recorders.all[0].websocket
        CountingSocket.sends = 0
        count = 0
        # Until it takes no more: then nothing is tried again before there is room.
        while CountingSocket.sends == count:
            websocket.send(b"%06d" % count)
            count += 1
        for number in range(count, count + 1000):
            websocket.send(b"%06d" % number)
        tried = CountingSocket.sends
        for number in range(count + 1000):
            assert await line.receive(8) == b"\x81\x06%06d" % number
        assert tried <= count + 1
        websocket.send(b"done")
        assert await line.receive(6) == b"\x81\x04done"


class Mistaken(Recorder):
    def received(self, message: bytes) -> None:
        super().received(message)
        if message == b"fail":
            raise ValueError("our own mistake")


class MistakenAtTheEnd(Recorder):
    def closed(self) -> None:
        super().closed()
        raise ValueError("our own mistake")


def refuse_all(_websocket: WebSocket) -> Recorder:
    raise ValueError("our own mistake")


@pytest.mark.trio
async def test_mistakes_of_the_app_end_one_connection(caplog: pytest.LogCaptureFixture) -> None:
    recorders = Recorders(Mistaken)
    with caplog.at_level(logging.ERROR, logger="montana.web"):
        async with running() as websockets:
            other = Line(websockets, recorders.open)
            line = Line(websockets, recorders.open)
            await line.stream.send_all(frame(TEXT, b"fail") + frame(TEXT, b"after"))
            assert await line.receive(6) == b"\x81\x04fail"
            assert await line.receive_close() == 1011
            assert recorders.all[1].messages == [b"fail"]
            assert recorders.all[1].closed_count == 1
            await line.stream.send_all(GOODBYE)
            assert await line.has_ended()
            refused = Line(websockets, refuse_all)
            assert await refused.receive_close() == 1011
            last = Recorders(MistakenAtTheEnd)
            ending = Line(websockets, last.open)
            await ending.stream.send_all(GOODBYE)
            assert await ending.receive_close() == 1000
            await other.stream.send_all(frame(TEXT, b"fine"))
            assert await other.receive(6) == b"\x81\x04fine"
    assert [record.exc_info is not None for record in caplog.records] == [True] * 3
    assert recorders.all[0].closed_count == 1
    assert last.all[0].closed_count == 1


@pytest.mark.trio
async def test_an_app_may_end_others_from_anywhere() -> None:
    class Ending(Recorder):
        def received(self, message: bytes) -> None:
            self.messages.append(message)
            for one in recorders.all:
                one.websocket.close(4000)

        def closed(self) -> None:
            super().closed()
            for one in recorders.all:
                one.websocket.send(b"somebody has gone")
                one.websocket.close()

    recorders = Recorders(Ending)
    async with running() as websockets:
        lines = [Line(websockets, recorders.open) for _ in range(10)]
        await lines[3].stream.send_all(frame(TEXT, b"x") * 5)
        for line in lines:
            assert await line.receive_close() == 4000
            await line.stream.send_all(GOODBYE)
            assert await line.has_ended()
        await recorders.wait_closed(10)
        assert len(websockets) == 0
