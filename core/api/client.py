"""A client of the node's Unix socket, on trio: what the command line and the bridges use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from core.api.connection import ClientConnection
from core.api.messages import Failure, ReplyBody, RequestBody
from core.errors import ApiError, OperationError

_RECEIVE_BYTES = 64 * 1024


class NoNode(OperationError):
    """No node listens behind the socket."""


class ApiClient:
    """One connection to a node; a request at a time."""

    def __init__(self, stream: trio.SocketStream, *, software: str) -> None:
        self._stream = stream
        self._protocol = ClientConnection(software)
        self._busy = trio.Lock()

    async def request(self, body: RequestBody) -> ReplyBody:
        """Ask, and wait for the reply.

        Raises:
            OperationError: the node says that it can't be done, and why.
            ApiError: the node is of another version, or the connection broke.
        """
        async with self._busy:
            request_id = self._protocol.request(body)
            try:
                await self._stream.send_all(self._protocol.data_to_send())
                while True:
                    data = await self._stream.receive_some(_RECEIVE_BYTES)
                    if not data:
                        raise ApiError("the node closed the connection")
                    for reply in self._protocol.receive_untrusted(data):
                        if reply.id != request_id:
                            raise ApiError("a reply to another request")
                        if isinstance(reply.body, Failure):
                            raise _refusal(reply.body)
                        return reply.body
            except trio.BrokenResourceError as error:
                raise ApiError(f"the connection to the node broke: {error}") from error


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
    try:
        stream = await trio.open_unix_socket(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        raise NoNode(f"no node is running behind {path}") from None
    except PermissionError:
        raise OperationError(
            f"the node behind {path} belongs to another user; run this as that user"
        ) from None
    except (OSError, ValueError) as error:
        raise OperationError(f"the socket {path} can't be used: {error}") from error
    async with stream:
        yield ApiClient(stream, software=software)
