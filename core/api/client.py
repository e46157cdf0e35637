"""A client of the node's Unix socket, on trio and on asyncio: what the command line and the
bridges use.

There is no task behind a connection: of those who wait on it, one reads for all, and leaves that to
another when it has what it waited for.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
from core.api.messages import Failure, ReplyBody, RequestBody
from core.errors import ApiError, OperationError

EVENTS_MAX = 2 * WINDOW_MAXIMUM
"""How many events may have come that nobody has taken: a window of them, and questions, which are
beside it."""
_RECEIVE_BYTES = 64 * 1024


class NoNode(OperationError):
    """No node listens behind the socket."""


class _Waiter:
    """Somebody who waits for a reply or an event, or for being the one who reads."""

    __slots__ = ("awake", "reply")

    def __init__(self) -> None:
        self.awake = anyio.Event()
        self.reply: ReplyBody | None = None


class ApiClient:
    """One connection to a node, for as many tasks as like.

    One that broke stays so: everything raises `ApiError` from then on.
    """

    def __init__(self, connection: socket.socket, *, software: str) -> None:
        """Speak on `connection`, a connected socket that doesn't block."""
        self._socket = connection
        self._protocol = ClientConnection(software)
        self._slots = anyio.Semaphore(IN_FLIGHT_MAX, fast_acquire=True)
        self._sending = anyio.Lock(fast_acquire=True)
        self._unsent = b""
        self._waiting: dict[int, _Waiter] = {}
        self._listener: _Waiter | None = None
        self._is_read = False
        self._events: deque[Event] = deque()
        self._error: ApiError | None = None

    async def request(self, body: RequestBody) -> ReplyBody:
        """Ask, and wait for the reply. More than `IN_FLIGHT_MAX` at once wait for their turn.

        Raises:
            OperationError: the node says that it can't be done, and why.
            ApiError: the node is of another version, or the connection broke.
        """
        async with self._slots:
            request_id = await self._send(body)
            waiter = self._waiting[request_id] = _Waiter()
            try:
                while waiter.reply is None:
                    waiter = self._waiting[request_id]
                    await self._wait(waiter)
            finally:
                del self._waiting[request_id]
                self._pass_on()
        if isinstance(waiter.reply, Failure):
            raise _refusal(waiter.reply)
        return waiter.reply
