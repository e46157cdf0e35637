"""The node's socket with a handler of a test's, and clients that write and read its bytes."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

from core.api.bridge_messages import Event, SmsBody
from core.api.connection import ClientConnection
from core.api.messages import Reply, RequestBody
from core.api.server import ApiServer
from core.api.serving import EventSource, Handler
from core.errors import OperationError


@asynccontextmanager
async def api_server(
    path: Path, handler: Handler, source: EventSource | None = None, group: str | None = None
) -> AsyncIterator[ApiServer]:
    """A server on `path` whose requests `handler` answers."""
    async with (
        ApiServer(path, software="test", group=group) as server,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(server.serve, handler, source)
        yield server
        nursery.cancel_scope.cancel()


@contextmanager
def api_server_in_thread(
    path: Path, handler: Handler, source: EventSource | None = None
) -> Iterator[None]:
    """The same on a trio of its own, for clients that run elsewhere."""
    ready = threading.Event()
    stop: list[Callable[[], None]] = []

    async def serve() -> None:
        async with api_server(path, handler, source):
            with trio.CancelScope() as scope:
                token = trio.lowlevel.current_trio_token()
                stop.append(lambda: token.run_sync_soon(scope.cancel))
                ready.set()
                await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        assert ready.wait(30)
        yield
    finally:
        stop[0]()
        thread.join(30)
        assert not thread.is_alive()


class RawClient:
    """A client whose every byte a test sends and receives, on trio."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.protocol = ClientConnection("raw")

    async def ask(self, *bodies: RequestBody) -> None:
        """Send these requests at once."""
        for body in bodies:
            self.protocol.request(body)
        await self.stream.send_all(self.protocol.data_to_send())

    async def receive_some(self) -> list[Reply | Event] | None:
        """What one reading brings; None at the end."""
        data = await self.stream.receive_some(1 << 22)
        return self.protocol.receive_untrusted(data) if data else None

    async def receive(self, count: int) -> list[Reply | Event]:
        """So many replies and events, and no more."""
        received: list[Reply | Event] = []
        while len(received) < count:
            some = await self.receive_some()
            assert some is not None, "the node has hung up"
            received += some
        assert len(received) == count
        return received


@asynccontextmanager
async def raw_client(path: Path) -> AsyncIterator[RawClient]:
    """A `RawClient` that has said hello, and heard it."""
    async with await trio.open_unix_socket(str(path)) as stream:
        client = RawClient(stream)
        await stream.send_all(client.protocol.data_to_send())
        while not client.protocol.greeted:
            assert await client.receive_some() is not None
        yield client


class Events:
    """A source of events: those of `waiting` are given until they are acknowledged."""

    def __init__(self, *waiting: Event) -> None:
        self.waiting = {event.id: event for event in waiting}
        self.given: list[str] = []
        self.living: _Living | None = None

    def subscribe(self, bridge: str, window: int, send: Callable[[Event], None]) -> _Living:
        if self.living is not None:
            raise OperationError(f"{bridge} is subscribed already", "subscribed")
        self.living = _Living(self, window, send)
        self.living.give()
        return self.living

    def acknowledge(self, event_id: str) -> None:
        self.waiting.pop(event_id, None)
        if self.living is not None:
            self.living.unacknowledged.discard(event_id)
            self.living.give()


class _Living:
    def __init__(self, source: Events, window: int, send: Callable[[Event], None]) -> None:
        self._source = source
        self._window = window
        self.send = send
        self.unacknowledged: set[str] = set()

    def give(self) -> None:
        for event in list(self._source.waiting.values()):
            if len(self.unacknowledged) >= self._window:
                return
            if event.id not in self.unacknowledged:
                self.unacknowledged.add(event.id)
                self._source.given.append(event.id)
                self.send(event)

    def close(self) -> None:
        assert self._source.living is self, "closed once"
        self._source.living = None


def event(number: int) -> Event:
    """An event; each number has its own."""
    return Event(
        id=f"{number:032x}", to="+79991234567", created_ms=1, expires_ms=2, body=SmsBody("text")
    )
