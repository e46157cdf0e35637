"""TLS on a trio stream whose socket can be taken back.

`trio.SSLStream` keeps TLS in memory, between buffers that only its own tasks move; a socket of
`ssl` does the same by itself, and can be read without a task.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import trio

Result = TypeVar("Result")


class TlsStream(trio.abc.Stream):
    """The server's side of TLS over a connected socket, which it takes over; `do_handshake` comes
    first. A peer that ends the connection without ending TLS has ended it all the same."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        connection.setblocking(False)
        self._socket = context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
        self._is_detached = False

    async def do_handshake(self) -> None:
        """Agree on keys.

        Raises:
            trio.BrokenResourceError: the peer does not agree, or is gone.
        """
        await self._do(self._socket.do_handshake)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The next bytes, none at the end."""
        size = 16_384 if max_bytes is None else max_bytes
        return await self._do(partial(self._socket.recv, size))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it."""
        unsent = memoryview(data)
        while unsent:
            unsent = unsent[await self._do(partial(self._socket.send, unsent)) :]

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the kernel takes something."""
        await trio.lowlevel.wait_writable(self._socket)

    def detach(self) -> ssl.SSLSocket:
        """The socket, non-blocking, which is the caller's from now on."""
        self._is_detached = True
        return self._socket

    async def aclose(self) -> None:
        """Close the socket, unless it was detached."""
        if not self._is_detached:
            trio.lowlevel.notify_closing(self._socket)
            end_tls(self._socket)
            self._socket.close()
        await trio.lowlevel.checkpoint()

    async def _do(self, step: Callable[[], Result]) -> Result:
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self._socket)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self._socket)
            except OSError as error:
                raise trio.BrokenResourceError from error


def end_tls(connection: socket.socket) -> None:
    """Say that nothing more comes, where a connection has TLS; the socket stays open."""
    if isinstance(connection, ssl.SSLSocket):
        # It fails where the peer's own end has not come yet; ours is sent all the same.
        with suppress(OSError, ValueError):
            connection.unwrap()
