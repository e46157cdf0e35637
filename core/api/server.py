"""The node's end of its Unix socket, on trio.

Only processes of the node's own user, or root's, are let in: the socket's mode is 0600 and the
kernel's word on the peer (`SO_PEERCRED`) is checked besides.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType

import trio

from core.api.connection import NodeConnection
from core.api.messages import Failure, ReplyBody, RequestBody
from core.errors import ApiError, OperationError, SignalingError
from core.lock_file import LockFile

CONNECTIONS_MAX = 64
HELLO_TIMEOUT_S = 5.0
SEND_TIMEOUT_S = 10.0
PATH_BYTES_MAX = 107
"""What fits into `sockaddr_un` with its closing zero."""
INTERNAL_ERROR = "the node could not do it, by a mistake of its own; its log says more"
"""What a client is told of an exception that nobody has foreseen."""
_BACKLOG = 16
_RECEIVE_BYTES = 16 * 1024
_PEER_CREDENTIALS = struct.Struct("3i")

Handler = Callable[[RequestBody], Awaitable[ReplyBody]]

_log = logging.getLogger("montana.api")


class ApiServer:
    """Holds a Unix socket from `async with` on, and answers on it in `serve`.

    Requests of one connection are carried out one after the other, connections beside each other.
    """

    def __init__(self, path: Path, *, software: str) -> None:
        self.path = path
        self._software = software
        self._allowed_uids = {0, os.geteuid()}
        self._connections = 0
        self._lock: LockFile | None = None
        self._socket: trio.socket.SocketType | None = None

    async def __aenter__(self) -> ApiServer:
        """Bind the socket.

        Raises:
            OperationError: another node holds it, or the path can't be used.
        """
        if len(os.fsencode(self.path)) > PATH_BYTES_MAX:
            raise OperationError(
                f"the socket's path is longer than {PATH_BYTES_MAX} bytes: {self.path}; "
                "choose a shorter data_dir"
            )
        with contextlib.ExitStack() as cleanup:
            try:
                lock = LockFile(
                    self.path.with_name(f"{self.path.name}.lock"),
                    f"another node is running with the socket {self.path}",
                    "stop it, or give this one another data_dir",
                )
                cleanup.callback(lock.release)
                # Holding the lock, we know that no node stands behind a socket that lies there.
                self.path.unlink(missing_ok=True)
                unix_socket = socket.socket(
                    socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC
                )
                cleanup.callback(unix_socket.close)
                # Before bind, so that at no moment anybody else may connect (unix(7): Linux gives
                # the file the mode of the socket's inode).
                os.fchmod(unix_socket.fileno(), 0o600)
                unix_socket.bind(str(self.path))
                unix_socket.listen(_BACKLOG)
            except OSError as error:
                raise OperationError(
                    f"the node's socket {self.path} can't be made: {error.strerror}"
                ) from error
            self._socket = trio.socket.from_stdlib_socket(unix_socket)
            self._lock = lock
            cleanup.pop_all()
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._socket is not None
        assert self._lock is not None
        self._socket.close()
        self.path.unlink(missing_ok=True)
        self._lock.release()

    async def serve(self, handler: Handler) -> None:
        """Answer until cancelled. `handler` returns a reply's body for a request's; an
        `OperationError` or a `SignalingError` of its becomes a `Failure`."""
        assert self._socket is not None
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    connection, _ = await self._socket.accept()
                except OSError as error:
                    if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED):
                        raise
                    await trio.sleep(0.1)
                    continue
                if self._connections >= CONNECTIONS_MAX or not self._is_allowed(connection):
                    connection.close()
                    continue
                self._connections += 1
                nursery.start_soon(self._converse, connection, handler)

    def _is_allowed(self, connection: trio.socket.SocketType) -> bool:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        _, uid, _ = _PEER_CREDENTIALS.unpack(raw)
        if uid not in self._allowed_uids:
            _log.warning("a process of uid %d was turned away from the socket", uid)
            return False
        return True

    async def _converse(self, connection: trio.socket.SocketType, handler: Handler) -> None:
        try:
            with connection:
                await self._exchange(connection, handler)
        except (OSError, trio.TooSlowError) as error:
            _log.debug("a connection to the socket ended: %s", error)
        finally:
            self._connections -= 1

    async def _exchange(self, connection: trio.socket.SocketType, handler: Handler) -> None:
        protocol = NodeConnection(self._software)
        hello_deadline = trio.current_time() + HELLO_TIMEOUT_S
        while True:
            with trio.fail_at(float("inf") if protocol.greeted else hello_deadline):
                data = await connection.recv(_RECEIVE_BYTES)
            if not data:
                return
            try:
                requests = protocol.receive_untrusted(data)
            except ApiError as error:
                _log.debug("a client of the socket broke its protocol: %s", error)
                await _send_all(connection, protocol.data_to_send())
                return
            for request in requests:
                protocol.reply(request.id, await _carry_out(handler, request.body))
                await _send_all(connection, protocol.data_to_send())
            await _send_all(connection, protocol.data_to_send())


async def _carry_out(handler: Handler, body: RequestBody) -> ReplyBody:
    try:
        return await handler(body)
    except (OperationError, SignalingError) as error:
        return Failure(str(error), error.code, error.values)
    except Exception:
        # Our mistake; it must not take the others' calls with it.
        _log.exception("a request through the socket failed")
        return Failure(INTERNAL_ERROR)


async def _send_all(connection: trio.socket.SocketType, data: bytes) -> None:
    view = memoryview(data)
    with trio.fail_after(SEND_TIMEOUT_S):
        while view:
            view = view[await connection.send(view) :]
