"""How the node answers on the connections of its Unix socket.

Requests are carried out beside each other, also those of one connection. A task for each of them,
and for each connection, would cost most of what a request costs. So the connections lie in an epoll
instance, one task reads those that have something, and what can be answered at once is. Replies and
events are gathered and leave with one call for each connection. While as much is under way as may
be, or the replies are not fetched, a connection is not read.
"""

from __future__ import annotations

import logging
import select
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import msgspec
import trio

from core.api.admission import Rank
from core.api.bridge_messages import DoneReply, Event, SubscribeRequest
from core.api.connection import NodeConnection
from core.api.framing import IN_FLIGHT_MAX
from core.api.messages import BRIDGE_REQUESTS, Failure, ReplyBody, Request, RequestBody
from core.errors import ApiError, OperationError, SignalingError

CONNECTIONS_MAX = 64
BRIDGE_CONNECTIONS_MAX = 32
"""Of processes that are let in by their group, so that the operator finds room."""
HELLO_TIMEOUT_S = 5.0
SEND_TIMEOUT_S = 10.0
"""For so long a client may fetch nothing of what waits for it."""
UNSENT_BYTES_MAX = 1 << 20
"""Of what a client has not fetched; nothing more is begun for it until it does."""
SLICE_S = 0.0005
"""After that long the other tasks of the process have their turn."""
INTERNAL_ERROR = "the node could not do it, by a mistake of its own; its log says more"
"""What a client is told of an exception that nobody has foreseen."""
_RECEIVE_BYTES = 16 * 1024
_SWEEP_S = 0.5
_READS = select.EPOLLIN
_WRITES = select.EPOLLOUT

Answer = ReplyBody | Awaitable[ReplyBody]
Handler = Callable[[RequestBody], Answer]
"""Carries out a request: returns the reply, or what gives it when it is awaited. An
`OperationError` or a `SignalingError` of either becomes a `Failure`."""

_log = logging.getLogger("montana.api")


class Subscription(Protocol):
    """A bridge that is being told what is for it."""

    def close(self) -> None:
        """Its connection is gone; what it has not acknowledged is for the next one."""


class EventSource(Protocol):
    """Where the events come from."""

    def subscribe(self, bridge: str, window: int, send: Callable[[Event], None]) -> Subscription:
        """Give `send` what is for `bridge`, from within this call on until it is closed, and at
        most `window` events that are not acknowledged. `send` returns at once.

        Raises:
            OperationError: another subscription lives (code ``subscribed``).
        """


class _Client:
    """A connection, and what is under way on it.

    Attributes:
        waiting: requests that were read and are not begun.
        in_flight: how many were begun and are not answered.
        unsent: what the kernel didn't take of what was to be sent.
        has_ended: nothing is read any more: the client is done, or has broken the protocol.
        is_gone: the socket is closed.
        watched: what epoll tells of it.
        end_by_s: when it is hung up on, unless it greets, or fetches its replies, before.
    """

    __slots__ = (
        "connection",
        "end_by_s",
        "has_ended",
        "in_flight",
        "is_gone",
        "protocol",
        "rank",
        "subscription",
        "unsent",
        "waiting",
        "watched",
    )

    def __init__(self, connection: socket.socket, rank: Rank, software: str, now_s: float) -> None:
        self.connection = connection
        self.rank = rank
        self.protocol = NodeConnection(software)
        self.waiting: deque[Request] = deque()
        self.in_flight = 0
        self.unsent = bytearray()
        self.has_ended = False
        self.is_gone = False
        self.watched = _READS
        self.end_by_s: float | None = now_s + HELLO_TIMEOUT_S
        self.subscription: Subscription | None = None

    @property
    def unsent_bytes(self) -> int:
        """How much waits for being fetched."""
        return len(self.unsent) + self.protocol.outgoing_bytes

    @property
    def is_done(self) -> bool:
        """It has had everything that it will have."""
        awaits_replies = bool(self.waiting or self.in_flight) and self.protocol.greeted
        return self.has_ended and not awaits_replies and not self.unsent_bytes


class Conversations:
    """All connections of a server.

    What they say is taken apart, and answered where that can be done at once, in one task.

    Args:
        source: where bridges subscribe; None where there are none.
    """

    def __init__(self, software: str, handler: Handler, source: EventSource | None) -> None:
        self._software = software
        self._handler = handler
        self._source = source
        self._poller = select.epoll()
        self._by_descriptor: dict[int, _Client] = {}
        # Also those that are gone, as long as something of theirs is in flight.
        self._clients: set[_Client] = set()
        self._nursery: trio.Nursery | None = None
        self._slice_end_s = 0.0
        # Those that have something to send, those that have requests which can be begun, and
        # whether that is for `_work_off`.
        self._to_flush: set[_Client] = set()
        self._unfinished: set[_Client] = set()
        self._has_work = trio.Event()

    def adopt(self, connection: socket.socket, rank: Rank) -> None:
        """Take over a connection, a socket that doesn't block; it is closed where there are too
        many."""
        of_rank = sum(client.rank is rank for client in self._clients)
        if len(self._clients) >= CONNECTIONS_MAX or (
            rank is Rank.BRIDGE and of_rank >= BRIDGE_CONNECTIONS_MAX
        ):
            connection.close()
            return
        client = _Client(connection, rank, self._software, trio.current_time())
        self._clients.add(client)
        self._by_descriptor[connection.fileno()] = client
        self._poller.register(connection, client.watched)

    async def run(self) -> None:
        """Answer until cancelled; all connections are closed then."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._work_off)
                self._nursery.start_soon(self._sweep)
                while True:
                    await trio.lowlevel.wait_readable(self._poller.fileno())
                    ready = self._poller.poll(0)
                    await self._take_turns(
                        [(self._by_descriptor[descriptor], events) for descriptor, events in ready]
                    )
        finally:
            for client in list(self._clients):
                self._hang_up(client)
            self._poller.close()

    async def _work_off(self) -> None:
        """What turns have left over, and what requests that took a while have brought."""
        while True:
            await self._has_work.wait()
            self._has_work = trio.Event()
            unfinished, self._unfinished = self._unfinished, set()
            await self._take_turns([(client, 0) for client in unfinished])

    async def _sweep(self) -> None:
        """Hang up on those whose time is up."""
        while True:
            await trio.sleep(_SWEEP_S)
            late = self._late()
            # It may be the node that was held up: what they have done meanwhile comes first.
            await self._take_turns([(client, client.watched) for client in late])
            for client in self._late():
                if client in late:
                    _log.debug("a client of the socket let the node wait for too long")
                    self._hang_up(client)

    def _late(self) -> set[_Client]:
        """Those whose time is up."""
        now_s = trio.current_time()
        return {
            client
            for client in self._by_descriptor.values()
            if client.end_by_s is not None and client.end_by_s <= now_s
        }

    async def _take_turns(self, due: list[tuple[_Client, int]]) -> None:
        """Serve those that are due, with what epoll says of each."""
        self._slice_end_s = trio.current_time() + SLICE_S
        for client, events in due:
            if trio.current_time() >= self._slice_end_s:
                self._flush_all()
                await trio.lowlevel.checkpoint()
                self._slice_end_s = trio.current_time() + SLICE_S
            if not client.is_gone:
                self._turn(client, events)
        self._flush_all()

    # ------------------------------------------------------------ reading

    def _turn(self, client: _Client, events: int) -> None:
        if events & _WRITES:
            self._flush(client)
        if client.watched & _READS:
            if events & ~_WRITES:
                self._read(client)
        elif events & (select.EPOLLHUP | select.EPOLLERR):
            # Nobody is there any more who could be told anything.
            self._hang_up(client)
        if not client.is_gone:
            self._advance(client)
            self._to_flush.add(client)

    def _read(self, client: _Client) -> None:
        try:
            data = client.connection.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            _log.debug("a connection to the socket broke: %s", error)
            self._hang_up(client)
            return
        try:
            if data:
                client.waiting += client.protocol.receive_untrusted(data)
        except ApiError as error:
            _log.debug("a client of the socket broke its protocol: %s", error)
            client.waiting.clear()
            data = b""
        if not data:
            client.has_ended = True
            self._unsubscribe(client)

    def _advance(self, client: _Client) -> None:
        """Begin what can be begun now."""
        while client.waiting and client.in_flight < IN_FLIGHT_MAX:
            if client.unsent_bytes >= UNSENT_BYTES_MAX:
                self._flush(client)
                if client.unsent_bytes >= UNSENT_BYTES_MAX:
                    break
            self._begin(client, client.waiting.popleft())
            if client.waiting and trio.current_time() >= self._slice_end_s:
                self._unfinished.add(client)
                self._has_work.set()
                break

    # ------------------------------------------------------------ carrying out

    def _begin(self, client: _Client, request: Request) -> None:
        try:
            answer = self._answer(client, request.body)
        except Exception as error:
            answer = _failure(error)
        if isinstance(answer, msgspec.Struct):
            self._reply(client, request.id, answer)
            return
        assert self._nursery is not None
        client.in_flight += 1
        self._nursery.start_soon(self._finish, client, request.id, answer)

    def _answer(self, client: _Client, body: RequestBody) -> Answer:
        if client.rank is not Rank.OWNER and type(body) not in BRIDGE_REQUESTS:
            raise OperationError(
                "only the node's own user and root may ask for this", "not_admitted"
            )
        if not isinstance(body, SubscribeRequest):
            return self._handler(body)
        if self._source is None:
            raise OperationError("this node has no bridges", "no_bridges")
        if client.subscription is not None:
            raise OperationError("somebody is subscribed to this already", "subscribed")
        tell = partial(self._tell, client)
        client.subscription = self._source.subscribe(body.bridge, body.window, tell)
        return DoneReply()

    async def _finish(
        self, client: _Client, request_id: int, pending: Awaitable[ReplyBody]
    ) -> None:
        try:
            body = await pending
        except Exception as error:
            body = _failure(error)
        client.in_flight -= 1
        self._reply(client, request_id, body)
        if client.waiting:
            self._unfinished.add(client)
        self._to_flush.add(client)
        self._has_work.set()

    def _reply(self, client: _Client, request_id: int, body: ReplyBody) -> None:
        # One that has broken the protocol meanwhile takes no replies any more.
        if not client.is_gone and client.protocol.greeted:
            client.protocol.reply(request_id, body)

    def _tell(self, client: _Client, event: Event) -> None:
        if not client.is_gone and client.protocol.greeted:
            client.protocol.send_event(event)
            self._to_flush.add(client)
            self._has_work.set()

    # ------------------------------------------------------------ sending

    def _flush_all(self) -> None:
        clients, self._to_flush = self._to_flush, set()
        for client in clients:
            self._flush(client)
            self._watch(client)

    def _flush(self, client: _Client) -> None:
        """Send what the kernel takes."""
        client.unsent += client.protocol.data_to_send()
        if client.is_gone or not client.unsent:
            return
        try:
            sent = client.connection.send(client.unsent)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            _log.debug("a connection to the socket broke: %s", error)
            self._hang_up(client)
            return
        if sent:
            del client.unsent[:sent]
            client.end_by_s = None
        if client.unsent and client.end_by_s is None:
            client.end_by_s = trio.current_time() + SEND_TIMEOUT_S

    def _watch(self, client: _Client) -> None:
        """Have epoll tell what is wanted now; hang up where nothing is."""
        if client.is_done or client.is_gone:
            self._hang_up(client)
            return
        has_room = not client.waiting and client.in_flight < IN_FLIGHT_MAX and not client.unsent
        watched = _READS if has_room and not client.has_ended else 0
        if client.unsent:
            watched |= _WRITES
        if watched != client.watched:
            client.watched = watched
            self._poller.modify(client.connection, watched)

    def _unsubscribe(self, client: _Client) -> None:
        subscription, client.subscription = client.subscription, None
        if subscription is not None:
            subscription.close()

    def _hang_up(self, client: _Client) -> None:
        """Close the connection. What is in flight comes to its end."""
        if not client.is_gone:
            client.is_gone = True
            client.waiting.clear()
            self._poller.unregister(client.connection)
            del self._by_descriptor[client.connection.fileno()]
            client.connection.close()
            self._unsubscribe(client)
        if not client.in_flight:
            self._clients.discard(client)


def _failure(error: Exception) -> Failure:
    if isinstance(error, OperationError | SignalingError):
        return Failure(str(error), error.code, error.values)
    # Our mistake; it must not take the others' calls with it.
    _log.error("a request through the socket failed", exc_info=error)
    return Failure(INTERNAL_ERROR)
