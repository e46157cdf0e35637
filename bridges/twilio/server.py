"""The webhooks' HTTP server: Hypercorn's connections on trio, without what costs these more than
all that they do themselves.

A connection of Hypercorn's starts a task for each pause between two requests, to end it when the
pause is too long, and sends a response in three pieces. Here a deadline does the one, and what
belongs together leaves together. HTTP/2 is not spoken, and what goes wrong on a connection ends no
other one. An application is told besides whether its caller is still there: under trio,
`http.disconnect` can't be asked for without waiting for it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Final, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from starlette.types import ASGIApp, Scope

from bridges.listening import LISTEN_RETRY_S, ListenTrouble
from core.log import log_event
from core.stun.address import Address

IDLE_S: Final = 5.0
"""From the last response to the end of the next request's head."""
HEAD_MAXIMUM_BYTES: Final = 16 * 1024
BACKLOG: Final = 100
_RECEIVE_BYTES: Final = 64 * 1024
_HEAD: Final = b"HTTP/1.1 "
_ENDS: Final = (
    trio.ClosedResourceError,
    trio.BrokenResourceError,
    H2CProtocolRequiredError,
    H2ProtocolAssumedError,
)

_log = logging.getLogger("montana.bridge.twilio.server")


async def serve(application: ASGIApp, listen: Address, advise: Callable[[str], None]) -> None:
    """Serve an application until cancelled.

    Args:
        advise: told what to do when the address can't be listened on; empty when it can again.
    """
    config = Config()
    config.errorlog = _log
    config.h11_max_incomplete_size = HEAD_MAXIMUM_BYTES
    config.include_server_header = False
    wrapped = ASGIWrapper(cast(ASGIFramework, application))
    listeners = await _listen(listen, advise)

    async def handle(stream: trio.SocketStream) -> None:
        try:
            await _Connection(wrapped, config, stream).run()
        except Exception as error:
            # Of a mistake, the kind alone: what it says may hold what was sent.
            log_event(_log, logging.ERROR, "a connection has failed", reason=type(error).__name__)

    await trio.serve_listeners(handle, listeners)


async def _listen(listen: Address, advise: Callable[[str], None]) -> list[trio.SocketListener]:
    trouble = ListenTrouble(listen, "bridges.twilio.listen")
    is_hindered = False
    while True:
        try:
            found = await trio.open_tcp_listeners(listen.port, host=listen.host, backlog=BACKLOG)
        except OSError as error:
            is_hindered = True
            advise(trouble.advice(error))
            await trio.sleep(LISTEN_RETRY_S)
        else:
            if is_hindered:
                advise("")
            return found


def is_caller_gone(scope: Scope) -> bool:
    """Whether the connection of a request has ended, so that nobody would read the response."""
    connection: _Connection | None = scope["state"].get("connection")
    return connection is not None and connection.is_gone


class _Connection(TCPServer):
    """One connection.

    Attributes:
        is_gone: nothing more is read from it.
    """

    def __init__(self, application: ASGIWrapper, config: Config, stream: trio.SocketStream) -> None:
        state = ConnectionState({"connection": self})
        super().__init__(application, config, WorkerContext(None), state, cast(Any, stream))
        self.is_gone = False
        self.idle_task = cast(Any, _NoTask())
        self._idle = trio.CancelScope()
        self._head = b""

    async def protocol_send(self, event: Event) -> None:
        """Do what the protocol wants done."""
        if isinstance(event, Updated):
            self._idle.deadline = trio.current_time() + IDLE_S if event.idle else math.inf
        elif isinstance(event, RawData):
            data, self._head = self._head + event.data, b""
            if event.data.startswith(_HEAD) and not event.data.startswith(_HEAD + b"1"):
                # At least the empty end of the body follows.
                self._head = data
            elif data:
                await super().protocol_send(RawData(data))
        else:
            await super().protocol_send(event)

    async def _read_data(self) -> None:
        self._idle.deadline = trio.current_time() + IDLE_S
        with self._idle:
            try:
                while data := await self.stream.receive_some(_RECEIVE_BYTES):
                    # Not by way of the wrapper, which would go over to HTTP/2.
                    await self.protocol.protocol.handle(RawData(bytes(data)))
            except _ENDS:
                pass
        self.is_gone = True
        await self.protocol.handle(Closed())


class _NoTask:
    """In place of the one that ends a pause."""

    async def restart(self, task_group: Any, action: Callable[..., Any]) -> None:
        """There is none."""

    async def stop(self) -> None:
        """There is none."""
