"""A client of the node's Unix socket, on trio and on asyncio: what the command line and the
bridges use.

    async with connect(path, software="montana 1.0") as client:
        await client.subscribe("telegram", window=32)
        async for event in client.events():
            await client.acknowledge(event.id, "done")

No task stands behind a connection: of those who wait for something on it one reads for all, and
leaves that to another when it has what it waited for.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio

from core.api.bridge_messages import (
    WINDOW_MAXIMUM,
    AcknowledgeRequest,
    Event,
    Outcome,
    SubscribeRequest,
)
from core.api.connection import ClientConnection
from core.api.framing import IN_FLIGHT_MAX
from core.api.messages import Failure, Reply, ReplyBody, RequestBody
from core.errors import ApiError, OperationError

EVENTS_MAX = 2 * WINDOW_MAXIMUM
"""Events that have come and that nobody has taken: a window of them, and questions beside it."""
_CONNECT_AGAIN_S = 0.01
_RECEIVE_BYTES = 64 * 1024


class NoNode(OperationError):
    """No node listens behind the socket."""


class _Waiter:
    """Who waits for a reply or for an event.

    Attributes:
        is_woken: set when it is there, when the connection broke, or when nobody reads.
    """

    __slots__ = ("is_woken", "reply")

    def __init__(self) -> None:
        self.is_woken = anyio.Event()
        self.reply: ReplyBody | None = None


class ApiClient:
    """One connection to a node, for any number of tasks. One that broke stays so."""

    def __init__(self, connection: socket.socket, *, software: str) -> None:
        """Speak on `connection`, which is connected and doesn't block; `close` closes it."""
        self._socket = connection
        self._poller = select.epoll()
        self._poller.register(connection, select.EPOLLIN)
        self._protocol = ClientConnection(software)
        self._unsent = bytearray()
        # A request has its slot until its reply comes, even if nobody waits for that any more: so
        # long the node has it in flight.
        self._slots = anyio.Semaphore(IN_FLIGHT_MAX, fast_acquire=True)
        self._waiting: dict[int, _Waiter] = {}
        self._events: deque[Event] = deque()
        self._listener: _Waiter | None = None
        self._is_read = False
        self._is_blocked = False
        self._error: ApiError | None = None

    async def request(self, body: RequestBody) -> ReplyBody:
        """Ask, and wait for the reply. More than `IN_FLIGHT_MAX` at once wait for their turn.

        One that is cancelled may be carried out all the same.

        Raises:
            OperationError: the node says that it can't be done, and why.
            ApiError: the node is of another version, or the connection broke.
        """
        self._assert_whole()
        await self._slots.acquire()
        try:
            self._assert_whole()
            request_id = self._protocol.request(body)
        except BaseException:
            self._slots.release()
            raise
        waiter = self._waiting[request_id] = _Waiter()
        try:
            self._send()
            while waiter.reply is None:
                await self._wait(waiter)
        finally:
            del self._waiting[request_id]
            self._wake_one()
        if isinstance(waiter.reply, Failure):
            raise _refusal(waiter.reply)
        return waiter.reply

    async def subscribe(self, bridge: str, window: int) -> None:
        """Have `events` give what is for `bridge`, at most `window` events (1 to 256) that are
        not acknowledged.

        Raises:
            OperationError: another connection is subscribed (code ``subscribed``).
            ApiError: as in `request`.
        """
        await self.request(SubscribeRequest(bridge, window))

    async def acknowledge(self, event_id: str, outcome: Outcome = "done", detail: str = "") -> None:
        """Say what has become of an event; `detail` has 128 characters at most.

        Raises:
            OperationError, ApiError: as in `request`; it will be given again then.
        """
        await self.request(AcknowledgeRequest(event_id, outcome, detail))

    def events(self) -> AsyncIterator[Event]:
        """What the node tells, in its order. For one task at a time; ends only by an error.

        Raises:
            ApiError: the connection broke.
        """
        return _Events(self)

    async def next_event(self) -> Event:
        """One of `events`.

        Raises:
            ApiError: the connection broke.
        """
        assert self._listener is None, "events are for one task at a time"
        waiter = self._listener = _Waiter()
        try:
            while not self._events:
                await self._wait(waiter)
        finally:
            self._listener = None
            self._wake_one()
        return self._events.popleft()

    def close(self) -> None:
        """End the connection; whoever still waits gets an `ApiError`."""
        if self._poller.closed:
            return
        self._break(ApiError("the connection to the node was closed"))
        anyio.notify_closing(self._poller.fileno())
        self._poller.close()
        self._socket.close()

    async def _wait(self, waiter: _Waiter) -> None:
        """Read, or wait while another one does; what comes may be for somebody else."""
        self._assert_whole()
        if self._is_read:
            await waiter.is_woken.wait()
            waiter.is_woken = anyio.Event()
            return
        self._is_read = True
        try:
            await anyio.wait_readable(self._poller.fileno())
        except anyio.ClosedResourceError:
            return
        finally:
            self._is_read = False
        if self._error is None:
            self._send()
            self._receive()

    def _wake_one(self) -> None:
        """Have one of those who wait read, if nobody does."""
        if self._is_read or self._error is not None:
            return
        for waiter in self._all_waiters():
            if waiter is self._listener or waiter.reply is None:
                waiter.is_woken.set()
                return

    def _all_waiters(self) -> Iterator[_Waiter]:
        if self._listener is not None:
            yield self._listener
        yield from self._waiting.values()

    def _send(self) -> None:
        """Send what the kernel takes; for the rest the poller watches."""
        self._unsent += self._protocol.data_to_send()
        if not self._unsent:
            return
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The node has gone; what it has said before is still to be read, and then its end.
            sent = len(self._unsent)
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
        del self._unsent[:sent]
        if bool(self._unsent) != self._is_blocked:
            self._is_blocked = not self._is_blocked
            wanted = select.EPOLLIN | select.EPOLLOUT if self._is_blocked else select.EPOLLIN
            self._poller.modify(self._socket, wanted)

    def _receive(self) -> None:
        """Take what has come to those who wait for it."""
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
            if not data:
                raise ApiError("the node closed the connection")
            received = self._protocol.receive_untrusted(data)
        except BlockingIOError:
            return
        except OSError as error:
            self._break(ApiError(f"the connection to the node broke: {error.strerror}"))
            return
        except ApiError as error:
            self._break(error)
            return
        for message in received:
            if isinstance(message, Event):
                self._take_event(message)
            else:
                self._take_reply(message)

    def _take_event(self, event: Event) -> None:
        if len(self._events) >= EVENTS_MAX:
            self._break(ApiError("the node told more events than it was asked for"))
            return
        self._events.append(event)
        if self._listener is not None:
            self._listener.is_woken.set()

    def _take_reply(self, reply: Reply) -> None:
        self._slots.release()
        waiter = self._waiting.get(reply.id)
        if waiter is not None:
            waiter.reply = reply.body
            waiter.is_woken.set()

    def _break(self, error: ApiError) -> None:
        self._error = self._error or error
        for waiter in self._all_waiters():
            waiter.is_woken.set()
        # Whoever waits for a slot of one whose reply will never come.
        for _ in range(self._slots.statistics().tasks_waiting):
            self._slots.release()

    def _assert_whole(self) -> None:
        if self._error is not None:
            # Each has its own, with its own way back.
            raise type(self._error)(str(self._error))


class _Events:
    """What `ApiClient.events` gives."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> Event:
        return await self._client.next_event()


def _refusal(failure: Failure) -> OperationError:
    error = OperationError(failure.message, failure.code)
    error.values = failure.values
    return error


@asynccontextmanager
async def connect(path: Path, *, software: str) -> AsyncIterator[ApiClient]:
    """A connection to the node behind the socket at `path`, closed at the end.

    Raises:
        OperationError: no node listens there (`NoNode`), or it isn't ours to talk to.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.setblocking(False)
        try:
            await _connect(connection, path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NoNode(f"no node is running behind {path}") from None
        except PermissionError:
            raise OperationError(
                f"the node behind {path} belongs to another user; run this as that user"
            ) from None
        except (OSError, ValueError) as error:
            raise OperationError(f"the socket {path} can't be used: {error}") from error
        client = ApiClient(connection, software=software)
        try:
            yield client
        finally:
            client.close()


async def _connect(connection: socket.socket, path: Path) -> None:
    while True:
        try:
            connection.connect(str(path))
            return
        except BlockingIOError:
            # More have come at once than the node has taken in yet (unix(7): EAGAIN).
            await anyio.sleep(_CONNECT_AGAIN_S)
